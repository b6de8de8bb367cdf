/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/watch.h - hearing that a snapshot has changed: by waiting, by a descriptor, by a callback.
 *
 * A watch knows the version that its user has seen last, and tells about newer ones:
 *
 *     SEEN --a newer version--> NEWS --wait, read, tick, the callback--> SEEN
 *       +--close of the cell--> NEWS, then -ESHUTDOWN       any --cancel--> CANCELLED
 *
 *   P1  The latest value wins: versions in between may be skipped, and what is told is current at that moment.
 *       The last version is never missed, and none is told twice or after a newer one.
 *   P2  Writers never wait for a watch.  A callback that is slow delays only the thread it runs on; when other
 *       threads write meanwhile, it is called again there, once, with the latest value.
 *   P3  The callback runs under no lock and no latch of the library, and never twice at the same time.  In it
 *       everything is allowed: writing to the cell too, which is told when it has returned.
 *   P4  Once pnx_watch_cancel() has returned 0, the callback does not run and will not run again.  Cancel waits for
 *       one that is running.  Where others may be waiting for its caller it does not wait and returns -EINPROGRESS:
 *       inside an edit, validate, compute, maker or loader, a function of rwdata's with-forms, a callback of a watch, a
 *       monitor, a config, a drop or a reclaim domain, an operation of a pool, a budget's reclaimer, or a section of
 *       reclaim.  A cleanup of a registry does wait, so that it can free what the callback uses: the callback must not wait
 *       for that cleanup.
 *   P5  In a forked child a watch tells of the child's own writes, waits for no callback of the parent, and
 *       touches no descriptor of the parent.
 */
#ifndef PNX_WATCH_H
#define PNX_WATCH_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/snapshot.h>

PNX_BEGIN_DECLS

struct pnx_watch; /* safe to use from any thread; holds a reference to its cell */

/* Hears of a new value, which is borrowed until it returns (pnx_rc_ref() keeps it). */
typedef void pnx_watch_fn(void *ctx, const void *value, uint64_t version);

enum pnx_watch_flags {
    PNX_WATCH_INITIAL = 1, /* the version at the opening is news, too */
    PNX_WATCH_TICK = 2,    /* changed runs only in pnx_watch_tick(), never in a writer */
};

struct pnx_watch_opts {
    size_t size;           /* set by PNX_WATCH_OPTS */
    const char *name;      /* copied; label in reports; default: the cell's */
    const char *site;      /* set by PNX_WATCH_OPTS */
    pnx_watch_fn *changed; /* default: nobody is called; wait, or poll the descriptor */
    void *ctx;             /* first argument of changed */
    uint64_t seen;         /* the version known already; default: the current one */
    uint32_t flags;        /* PNX_WATCH_* */
    uint32_t reserved;     /* must be 0 */
};
#ifndef __cplusplus
#define PNX_WATCH_OPTS(...) \
    (&(const struct pnx_watch_opts){ \
            .size = sizeof(struct pnx_watch_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_watch_opts pnx_watch_opts_init(void) {
    struct pnx_watch_opts opts = pnx_watch_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Opens a watch on a cell.  changed, if given, is called by the thread that has just published a value, after its
 * write is complete; with PNX_WATCH_TICK, by the one that ticks.  With news already there (seen, or
 * PNX_WATCH_INITIAL) it is called before this returns.  opts may be NULL.  -EINVAL (err names the field), -E2BIG,
 * -ENOMEM, -EBUSY at the cell's max_watches or from the registry, -ESHUTDOWN once the cell is closed.
 */
PNX_API PNX_NODISCARD int pnx_watch_open(struct pnx_snapshot *snapshot,
        const struct pnx_watch_opts *opts, struct pnx_error *err, struct pnx_watch **ret_watch);

/*
 * Waits for news and takes them: *ret_value is the latest value with a reference for the caller, *ret_version its
 * version; both may be NULL.  0 at once if there are some.  PNX_TIMEOUT_DEFAULT is PNX_NEVER here.  -ETIMEDOUT,
 * -ESHUTDOWN once the cell is closed and its last version was taken, -ECANCELED, -EDEADLK when it would have to wait inside a
 * section, -EINVAL for NULL or another negative timeout.
 */
PNX_API PNX_NODISCARD int pnx_watch_wait(
        struct pnx_watch *watch, pnx_ns timeout, const void **ret_value, uint64_t *ret_version);

/*
 * Returns a descriptor that is readable while there are news, and for good once there is an end to tell of (the cell's
 * close, a cancel): for poll and its kin; pnx_watch_read() takes them.  It stays the watch's: neither read it nor close it.
 * On Windows it is the handle of an event, to wait for.
 * Negative errors: -EMFILE, -ENFILE, -ENOMEM, -ECANCELED, -EINVAL for NULL.
 */
PNX_API PNX_NODISCARD int pnx_watch_fd(struct pnx_watch *watch);

/* Takes the news as pnx_watch_wait() does, without waiting: -EAGAIN when there are none. */
PNX_API PNX_NODISCARD int pnx_watch_read(
        struct pnx_watch *watch, const void **ret_value, uint64_t *ret_version);

/*
 * Calls changed on this thread if there are news and it is not running elsewhere.  Returns 1 when it was called, 0
 * when there was nothing to tell, -ESHUTDOWN and -ECANCELED as wait, -EINVAL without a changed, -ENOMEM.
 */
PNX_API PNX_NODISCARD int pnx_watch_tick(struct pnx_watch *watch);

/*
 * Ends the watch: waits end with -ECANCELED, the descriptor stays readable, changed runs no more (P4).
 * Idempotent; NULL is fine.  What pnx_registry_shutdown() calls.
 */
PNX_API int pnx_watch_cancel(struct pnx_watch *watch);

/* Cancels and frees the watch; waits as cancel does.  NULL-safe, clears; in its own callback, too. */
PNX_API void pnx_watch_release(struct pnx_watch **watch);

#define PNX_AUTO_WATCH PNX_CLEANUP(pnx_watch_release) struct pnx_watch

PNX_END_DECLS
#endif /* PNX_WATCH_H */
