/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/shutdown.h - ending everything in a registry by one deadline, and saying truthfully what happened.
 *
 * A shutdown refuses new rows, asks every row to end (a cleanup that is running sees pnx_cancel_requested()), and runs
 * the cleanups of those that are left.  Then each row that was there when it began has one outcome:
 *
 *   DONE        its cleanup returned 0, or its owner removed it meanwhile
 *   FAILED      its cleanup returned an error; -EAGAIN when it still said so at the deadline
 *   ABANDONED   its cleanup was still running, or pending, at the deadline
 *   LEAKED      it has no cleanup; or there was no time to start it; or only its owner ends it, and did not
 *   SUPPRESSED  it leaked, and such leaks are known ones
 *
 *   P1  The numbers of done, failed, abandoned, leaked and suppressed rows add up to the rows that were there.
 *   P2  A row's cleanup starts only when all its children have ended.  Of those that may start the one of highest
 *       priority comes first, and of equal ones the one that was made last.  A row of PNX_PRIORITY_LAST starts only when
 *       all rows of other priorities have ended, those that hang, pend, or are owned included; but for those that
 *       wait for such a row themselves, as its parents.  When the last eighth of the time begins
 *       (PNX_SHUTDOWN_LAST_PART) such rows wait for their children only, and come before all others.
 *   P3  It returns by its deadline, also when cleanups hang, and when time is over before all rows could be put in order:
 *       then none has had a turn, and those that nobody else has ended have leaked.  Only the two looks at every row
 *       that it needs for asking them and for their outcomes are never cut short: with a million rows they take some
 *       tens of milliseconds, which is the least that its result takes; from a longer timeout the second is set aside.
 *       Once it has returned, no cleanup of it starts, and no outcome changes.  (A job that the calling thread runs
 *       itself must end: see pnx_registry_shutdown().)
 *   P4  Cleanups run one at a time.  One that overruns its share of the time is asked to hurry, is an event, and is
 *       routed around: up to PNX_SHUTDOWN_WORKERS threads are stuck in such cleanups before the rest has to wait.
 *   P5  It needs no memory.  Without any for an array of the rows (64 bytes each), it ends them in windows of at least 64,
 *       last made first: then priorities count inside a window only, PNX_PRIORITY_LAST excepted; and with very many rows
 *       it takes much longer, and its result may be late by one more look at all of them.  Without a single thread the
 *       cleanups run on the caller: then one that hangs does hold it up beyond the deadline.
 *   P6  Concurrent and later callers get the same result and the same report.  A call that would have to wait for the
 *       function that makes it is refused at once, and has changed nothing.
 *
 * Rows that it does not run itself:
 *   - with PNX_RESOURCE_OWNED: the owner is asked (pnx_registry_asked()), and waited for until the deadline;
 *   - whose cleanup somebody else is running, or which are pending: waited for until the deadline;
 *   - of a parent process: left alone.
 * A cleanup that returns -EAGAIN is tried again, after a pause of 5 to 10 ms at first, which doubles up to a second.
 */
#ifndef PNX_SHUTDOWN_H
#define PNX_SHUTDOWN_H

#include <patinox/base.h>
#include <patinox/registry.h>

PNX_BEGIN_DECLS

struct pnx_shutdown_report; /* what a shutdown did; release it */

/* The sum of a shutdown.  done + failed + abandoned + leaked + suppressed = rows that were there when it began. */
struct pnx_shutdown_counts {
    size_t size; /* sizeof(struct pnx_shutdown_counts) */
    size_t done;
    size_t failed;
    size_t abandoned;
    size_t leaked;
    pnx_ns took_ns;
    size_t suppressed;
    size_t unreclaimed; /* see pnx_shutdown(); else 0 */
};

/*
 * Ends everything in the registry, for good, and returns when all rows have ended or timeout has passed.  With
 * PNX_NEVER it waits for owners, pending cleanups and those that say -EAGAIN as long as it takes.  Cleanups run on a
 * thread of their own.  Each is told its share of the time that is left (pnx_cancel_deadline): divided by the rows that
 * are still to be run, and at least PNX_SHUTDOWN_SHARE_MIN, but none beyond the deadline; nor beyond the begin of the last
 * part, when rows of PNX_PRIORITY_LAST are still to come.  With PNX_NEVER there is no last part.
 *
 * Meanwhile the calling thread goes on driving the executors with PNX_EXECUTOR_TICK that are rows and that it ticked last,
 * from the begin on, also when it follows another caller: their jobs run here, and one that hangs holds it up.  What a
 * loop itself would have to do, such as calling back a handle that it closes, is not done.
 *
 * Returns 0 when everything is done, -ETIMEDOUT when the deadline came first, else the error of the first row in order
 * that failed; PNX_E_BROKEN when no cleanup failed but something leaked.  In each of these cases *ret_report is set;
 * ret_report may be NULL.
 * No report: -EDEADLK from inside a function for which it would wait: a cleanup of this registry; a job or done function of
 * an executor, an operation of a pool, a function of a config, a callback of a watch, if that object is a row of it; a
 * monitor that this registry's shutdown calls.  -EINVAL for a negative timeout or a registry of NULL, -EINPROGRESS when
 * another caller's shutdown outlasts this caller's timeout.
 *
 * After -ETIMEDOUT, do not release objects that the report calls abandoned: pnx_registry_remove() would wait.
 */
#define PNX_SHUTDOWN_SHARE_MIN (100 * PNX_MS)
#define PNX_SHUTDOWN_WORKERS   8
#define PNX_SHUTDOWN_LAST_PART 8 /* an eighth of the time */
PNX_API int pnx_registry_shutdown(
        struct pnx_registry *registry, pnx_ns timeout, struct pnx_shutdown_report **ret_report);

/*
 * pnx_registry_shutdown() of the process's registry, which does more than one of another: when all rows have ended it
 * runs, by the same deadline, what they and others have retired in the default reclaim domain (pnx_reclaim_close()).
 * Objects that were retired and could not be freed, since a reader's section did not end or a callback hangs, are
 * counted as unreclaimed, and make a result that would be 0 -ETIMEDOUT, or what pnx_reclaim_close() returned: -EDEADLK
 * from inside a section or a callback of the domain.
 */
PNX_API int pnx_shutdown(pnx_ns timeout, struct pnx_shutdown_report **ret_report);

/* Fills *ret_counts up to its size.  -EINVAL. */
PNX_API int pnx_shutdown_report_counts(
        const struct pnx_shutdown_report *report, struct pnx_shutdown_counts *ret_counts);

/*
 * Calls visit for each row that was there when the shutdown began: those of higher priority first, and last made
 * first.  Each has its outcome as its state.  A nonzero return ends the walk and is returned.  -EINVAL.
 */
PNX_API int pnx_shutdown_report_each(const struct pnx_shutdown_report *report,
        int (*visit)(void *ctx, const struct pnx_resource_info *info), void *ctx);

/*
 * Writes the report, as lines for people (rows of one outcome, type, site and error are one line) or as one JSON
 * object with groups and rows.  Allocates nothing.  -EINVAL, or what write returned.
 */
PNX_API PNX_NODISCARD int pnx_shutdown_report_write(const struct pnx_shutdown_report *report,
        enum pnx_report_format format, pnx_write_fn *write, void *ctx);

/* Gives a report back; NULL-safe, clears.  It outlives its registry's other holders. */
PNX_API void pnx_shutdown_report_release(struct pnx_shutdown_report **report);

PNX_END_DECLS
#endif /* PNX_SHUTDOWN_H */
