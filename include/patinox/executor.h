/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/executor.h - cleanups in the background: by priority, again when they could not, never lost.
 *
 * An executor runs jobs on threads of its own, or inside your event loop.  A job is a cleanup function as
 * patinox/registry.h describes it, and says in the same way how it went:
 *
 *    submit --> QUEUED --taken by a worker--> RUNNING --0, or an error--> ENDED: done(ctx, id, code)
 *      |          ^                           |     |                        ^
 *      |delay     |due      -EAGAIN, and      |     +--pnx_cancel_pend()--> PENDING: goes on without a thread
 *      +------> DELAYED <---attempts left-----+                           until pnx_completion_done()
 *
 *    cancel, and the deadline of a close, take a job from QUEUED or DELAYED to ENDED with -ECANCELED.
 *
 *   P1  Each job that submit accepted ends once, and its done function is called once, whatever becomes of it.
 *       What guards have handed over is run, or PNX_EVENT_JOB_FAILED tells that it was not.
 *   P2  A job is run again only after -EAGAIN, or after an attempt that ran out of time and then returned
 *       -EAGAIN or -ETIMEDOUT; at most attempts times, and never while an earlier attempt is under way.  Before
 *       each retry it pauses for a random time of up to backoff_ns, then twice that, ... up to backoff_max_ns.
 *   P3  Of the jobs that wait, the one of highest priority is started first, and of equal ones the one that has
 *       waited longest there.  A job that has waited for ageing_ns counts as one priority higher, and so on up to
 *       critical, where who came there first is first: none waits for ever.
 *   P4  No more than queue_max jobs are alive at once, no more than workers run, those that have run out of time
 *       left aside, and no more than max_workers with these.
 *   P5  An attempt that runs out of time is asked to end (pnx_cancel_requested), is an event, and is routed around:
 *       another thread takes its place.  Nothing is ever killed; a late end counts all the same.
 *   P6  A cancel that returned 0: the job does not run, or not again.
 *   P7  No job starts once a close or release has returned.  A close returns by its deadline, and the numbers of
 *       its report add up to the jobs that were there.
 *   P8  No function of yours runs while the executor holds a lock.  From inside each of them every call here is
 *       allowed, but to wait for the executor that runs it is -EDEADLK, and so is to shut down its registry.
 *   P9  Submitting allocates nothing.  With room it takes one short lock, and makes no system call while a worker is awake
 *       that will look for jobs; else it wakes one thread.
 *   P10 Jobs run though no further thread can be had: the first one is made with the executor, and in need who
 *       waits in wait, drain or close runs jobs, too.
 */
#ifndef PNX_EXECUTOR_H
#define PNX_EXECUTOR_H

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/error.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_executor; /* safe to use from any thread */

/* Names one job of one executor.  0 is never an id; none is used twice. */
typedef uint64_t pnx_job_id;

/*
 * Hears how a job ended: 0, what its last attempt returned, or -ECANCELED.  Runs on the thread that ended it: a
 * worker, or one that completed, cancelled, closed or submitted it.  It must return: one that throws, or ends its
 * thread, aborts the process.
 */
typedef void pnx_job_done_fn(void *ctx, pnx_job_id id, int code);

/* What to run, and how.  Zero selects the default of each field but run. */
struct pnx_job {
    size_t size;           /* set by PNX_JOB */
    pnx_cleanup_fn *run;   /* required: returns as registry.h says; its cancel is never NULL */
    void *arg;             /* first argument of run */
    pnx_job_done_fn *done; /* may be NULL */
    void *ctx;             /* first argument of done */
    const char *name;  /* static: what events and reports call it; default: the executor's name */
    const char *site;  /* static; PNX_JOB sets it to where it stands */
    int32_t priority;  /* enum pnx_priority up to critical; default normal */
    uint32_t attempts; /* default: the executor's */
    pnx_ns delay_ns;   /* not before so much time has passed; default 0 */
    pnx_ns timeout_ns; /* for one attempt; default: the executor's; PNX_NEVER: none */
};
#ifndef __cplusplus
#define PNX_JOB(...) PNX_JOB_AT(PNX_SITE, __VA_ARGS__)
/* For objects that pass on the site that they were given themselves. */
#define PNX_JOB_AT(where, ...) \
    (&(const struct pnx_job){.size = sizeof(struct pnx_job), .site = (where), __VA_ARGS__})
#else
/* Returns a job with only its size set; set site to PNX_SITE. */
static inline struct pnx_job pnx_job_init(void) {
    struct pnx_job job = pnx_job();
    job.size = sizeof(job);
    return job;
}
#endif

/*
 * What submit does when queue_max jobs are alive.  Whatever stands here, a critical job is not refused for that: in
 * the end it is run inline.
 */
enum pnx_executor_full {
    PNX_EXECUTOR_FULL_DEFAULT = 0,
    /* Runs the job on the submitting thread, once; it does not count as alive.  If it returns -EAGAIN, and there is
     * room by then, it is queued to be tried again; else it ends so.  It cannot pend; the cleanup of a row can, and
     * its job ends with -EINPROGRESS then. */
    PNX_EXECUTOR_RUN_INLINE,
    /* Waits for room for up to block_ns, in the order of arrival; then -ETIMEDOUT. */
    PNX_EXECUTOR_BLOCK,
    /* Refuses at once: -EBUSY. */
    PNX_EXECUTOR_REJECT,
};

enum pnx_executor_flags {
    /*
     * No threads: jobs run inside pnx_executor_tick().  They run, too, inside wait, drain, close and a submit that
     * waits for room, if the thread that calls these is the one that ticked last, or nobody has ticked yet, and while
     * that thread is in a shutdown of the registry: a job never leaves your loop's thread.  workers, max_workers and
     * idle_ns are without meaning.
     */
    PNX_EXECUTOR_TICK = 1,
};

/* Zero selects the default of every field.  PNX_NEVER switches a time off. */
struct pnx_executor_opts {
    size_t size;      /* set by PNX_EXECUTOR_OPTS */
    const char *name; /* copied; label in statistics, events and reports; default "executor" */
    const char *site; /* set by PNX_EXECUTOR_OPTS */
    const struct pnx_env *env;     /* allocator, clock, random, log; default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget
            *budget;   /* its memory is charged to it; default: the process's; pnx_budget_off() */
    pnx_ns block_ns;   /* how long a submit waits for room; default 1 s */
    pnx_ns ageing_ns;  /* a job that has waited so long rises by one priority; default 1 s */
    pnx_ns timeout_ns; /* for one attempt of a job that does not say; default 30 s */
    pnx_ns backoff_ns; /* most to pause before a first retry; default 10 ms */
    pnx_ns backoff_max_ns; /* most to pause before any; doubles up to here; default 10 s */
    pnx_ns idle_ns; /* a thread without work for so long ends, the last one excepted; default 10 s */
    uint32_t workers; /* jobs that run at once, those out of time left aside; default 1 */
    uint32_t
            max_workers; /* jobs that run at once, with those; default 8, or workers if that is more */
    uint32_t queue_max; /* jobs alive at once; default 1024 */
    uint32_t on_full;   /* enum pnx_executor_full; default BLOCK */
    uint32_t attempts;  /* of a job that does not say; default 5 */
    uint32_t flags;     /* enum pnx_executor_flags */
};

/* Names only the options that differ: PNX_EXECUTOR_OPTS(.name = "closer", .workers = 4). */
#ifndef __cplusplus
#define PNX_EXECUTOR_OPTS(...) \
    (&(const struct pnx_executor_opts){ \
            .size = sizeof(struct pnx_executor_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_executor_opts pnx_executor_opts_init(void) {
    struct pnx_executor_opts opts = pnx_executor_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Sets one option from text, such as ("ageing_ns", "250ms").  -ENOENT for an unknown name, -EINVAL, -ERANGE,
 * -ENOTSUP for strings and pointers.
 */
PNX_API PNX_NODISCARD int pnx_executor_opts_set(
        struct pnx_executor_opts *opts, const char *name, const char *text, struct pnx_error *err);

/*
 * Creates an executor with all the memory that its jobs will need, and its first thread.  opts may be NULL.
 * It is a row of its registry, which a shutdown ends by a close, when all rows of other priorities have ended.
 * -EINVAL (err names the field), -E2BIG, -ENOMEM, -EAGAIN when no thread can be had, -EMFILE or -ENFILE when no
 * descriptor (with PNX_EXECUTOR_TICK), what the registry or the budget returned.
 */
PNX_API PNX_NODISCARD int pnx_executor_create(const struct pnx_executor_opts *opts,
        struct pnx_error *err, struct pnx_executor **ret_executor);

/*
 * Hands over a job (copied).  0: it is accepted, and P1 holds; *ret_id, which may be NULL, is its id, or 0 when it has
 * run inline.  Blocks only when the queue is full (enum pnx_executor_full).  On failure nothing has happened.
 * -EINVAL (err names the field), -E2BIG; -ESHUTDOWN once it is closed, and in a forked child; full: -EBUSY, -ETIMEDOUT,
 * -EDEADLK when it would have to wait inside a function that this executor runs; -EBUSY also when
 * PNX_EXECUTOR_NESTED_MAX jobs run inline one inside the other.
 */
#define PNX_EXECUTOR_NESTED_MAX 16
PNX_API PNX_NODISCARD int pnx_executor_submit(struct pnx_executor *executor,
        const struct pnx_job *job, struct pnx_error *err, pnx_job_id *ret_id);

/*
 * Hands over the end of a row: the registry's (NULL: the process's) cleanup for it runs in the background, claimed when
 * an attempt begins.  So a shutdown, or anybody, may still be first; the job then ends with -EALREADY, or -ESTALE when
 * the row is gone, which count as canceled.  A row that has children is tried again, as after -EAGAIN, which takes an
 * attempt, but it stays live, and after the last attempt its job is told -ECANCELED.  A cleanup that returns -EAGAIN
 * leaves the row live and is tried again; the last attempt that does so has failed for good, and the row with it; any
 * other error is the row's end, -ETIMEDOUT too.
 * A job that is told -ECANCELED leaves its row live, whatever its attempts: one that was asked to end while it ran, by a
 * cancel or by a close that had no more time, and then returned -EAGAIN, is told that.  So -EAGAIN says that the row has
 * failed, save with an id of 0: a job that ran inline and ended so leaves its row live.  job says how, and may be NULL;
 * its run and arg stay NULL; the name is the row's type if it has none.
 * Fails as pnx_executor_submit(); -ESTALE when there is no such row.
 */
PNX_API PNX_NODISCARD int pnx_executor_cleanup(struct pnx_executor *executor,
        struct pnx_registry *registry, pnx_resource_id id, const struct pnx_job *job,
        struct pnx_error *err, pnx_job_id *ret_id);

/*
 * Takes a job back.  Never waits for it.  0: it will not run, or not again; done has been called with -ECANCELED.
 * -EINPROGRESS: it is running or pending; it has been asked to end, and will not be tried again.  -EALREADY: it has
 * ended, or is about to.  -ESTALE: an id that is not of this executor, or of a job long gone.  -EINVAL for NULL.
 */
PNX_API int pnx_executor_cancel(struct pnx_executor *executor, pnx_job_id id);

enum pnx_job_state {
    PNX_JOB_DELAYED = 1, /* waits for its time: its delay, or the pause before a retry */
    PNX_JOB_QUEUED,      /* waits for a worker */
    PNX_JOB_RUNNING,
    PNX_JOB_PENDING, /* goes on without a thread */
    PNX_JOB_ENDED,
};

/* One job, copied. */
struct pnx_job_info {
    size_t size; /* sizeof(struct pnx_job_info), set by the caller */
    pnx_job_id id;
    uint32_t state;    /* enum pnx_job_state */
    int32_t code;      /* how it ended; before: of its last attempt; 0 */
    uint32_t attempt;  /* attempts begun */
    uint32_t attempts; /* at most */
    int32_t priority;  /* as submitted */
    uint32_t overdue;  /* bool: the attempt under way has run out of time */
    pnx_ns age;        /* since it was submitted */
    pnx_ns due; /* DELAYED: when it is due; RUNNING, PENDING: when it runs, or ran, out of time */
    const char *name;
    const char *site; /* "" when unknown */
};

/* Fills *ret_info up to its size.  An ended job is known until its place is used again.  -ESTALE, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_executor_job(
        struct pnx_executor *executor, pnx_job_id id, struct pnx_job_info *ret_info);

/*
 * Waits until a job has ended and its done function has returned; *ret_code, which may be NULL, is how.
 * -ETIMEDOUT, -EINVAL; -EDEADLK inside a function that this executor runs; -ESTALE: no job of this executor, or one so
 * long gone that its end is forgotten; in a forked child.
 */
PNX_API PNX_NODISCARD int pnx_executor_wait(
        struct pnx_executor *executor, pnx_job_id id, pnx_ns timeout, int *ret_code);

/* Waits until all jobs that were there when it was called have ended, delayed ones too.  -ETIMEDOUT, -EDEADLK, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_executor_drain(struct pnx_executor *executor, pnx_ns timeout);

/* The sum of a close.  done + failed + canceled + abandoned = jobs that were alive when the first close began. */
struct pnx_executor_report {
    size_t size;      /* sizeof(struct pnx_executor_report), set by the caller */
    size_t done;      /* ended with 0 */
    size_t failed;    /* ended with an error of theirs */
    size_t canceled;  /* taken back, had no time to run, or their row was somebody else's */
    size_t abandoned; /* still running or pending */
    pnx_ns took_ns;   /* from the first close's begin to this one's return */
};

/*
 * Ends the executor: takes no more jobs; runs what it has, delays cut short, until all have ended or the timeout has
 * passed.  Then jobs that have not started end with -ECANCELED, those that run are asked to end, and are abandoned:
 * they hold the executor's memory until they return.  Fills *ret_report, which may be NULL, up to its size.
 * 0 when all had time; -ETIMEDOUT; -EINVAL; -EDEADLK inside a function that this executor runs, and nothing happens.
 * Any thread; several may: the earliest deadline holds for what has not started.  Runs done functions of jobs that
 * it cancels, and returns the later for it.  For each cleanup of an untracked guard that had no time it emits
 * PNX_EVENT_JOB_FAILED with -ECANCELED: what it was to end is there still.  A tracked guard's row stays live.
 */
PNX_API int pnx_executor_close(
        struct pnx_executor *executor, pnx_ns timeout, struct pnx_executor_report *ret_report);

/*
 * Gives the executor up: closes it without waiting for jobs, if that was not done before, and frees it, as soon as
 * those that still run have returned.  What is queued ends with -ECANCELED: close it first.  Only what guards have handed
 * over (pnx_guard_set_executor(), pnx_guard_defer()) is run all the same, here, once more at most, one after the other;
 * it may pend.  (With PNX_EXECUTOR_TICK only on the thread that ticked last; else it is called off, too, and told of: see
 * pnx_executor_close().)  If there was no close before, PNX_EVENT_EXECUTOR_CLOSED tells of this one.  A shutdown that is
 * closing it at that moment finds nothing left to wait for but what runs; inside a job, and on the loop's thread, this does
 * not wait for that shutdown.
 */
PNX_API void pnx_executor_release(struct pnx_executor **executor);

#ifdef PNX_CLEANUP
/* Declares an executor that is released at the end of the scope:  PNX_AUTO_EXECUTOR executor = NULL; */
#define PNX_AUTO_EXECUTOR PNX_CLEANUP(pnx_executor_release) struct pnx_executor *
#endif

/*
 * With PNX_EXECUTOR_TICK: runs what is due, here, at most as many jobs as were due at its begin, and returns the time
 * at which it wants to be called again at the latest: one not after now when there is more to do at once, PNX_NEVER
 * for only when the descriptor is readable.  now is from the env's clock.  Several threads may tick at once.  Does
 * nothing inside a function that this executor runs, and returns PNX_NEVER without the flag and in a forked child.
 */
PNX_API pnx_ns pnx_executor_tick(struct pnx_executor *executor, pnx_ns now);

/*
 * With PNX_EXECUTOR_TICK: returns a descriptor that becomes readable when tick should be called before the time that
 * it returned last.  It stays the executor's.  -ENOTSUP without the flag, -EINVAL.  On Windows it is the handle of an event.
 */
PNX_API int pnx_executor_fd(const struct pnx_executor *executor);

/* The rows of patinox/stats/executor.def. */
struct pnx_executor_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
#include <patinox/stats/executor.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_executor_read_stats(
        const struct pnx_executor *executor, struct pnx_executor_stats *ret_stats);

PNX_END_DECLS
#endif /* PNX_EXECUTOR_H */
