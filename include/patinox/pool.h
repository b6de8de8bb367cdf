/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/pool.h - a bounded pool of reusable resources: connections, sessions, files.
 *
 * The pool owns resources; callers borrow them as leases.  Each resource has a slot:
 *
 *   EMPTY --connect--> CONNECTING --ok--> IDLE --grant--> IN_USE --release--> IDLE, or the next waiter
 *     ^                    | failed        |  \ due          | discarded, reset failed, expired
 *     +<-------------------+               |   v             |
 *     |                      old, unused   | CHECKING --fit--> IDLE, or the first waiter
 *     |                                    |   | unfit       |
 *     +------------ closed ------------- CLOSING <-----------+
 *
 * At every moment outside the pool's lock:
 *   P1  connecting + idle + in use + checking + closing <= max: a resource holds its slot until its close has
 *       returned.  (After a resize to less, the excess goes as it comes home; none is added.)
 *   P2  Waiters are granted in the order in which they asked; an arriving caller overtakes nobody; a waiter
 *       whose resource fails its check keeps its place.
 *   P3  No operation of yours runs while the pool holds its lock, and none runs twice at once on one resource.
 *   P4  Each connected resource is closed exactly once (in a forked child: abandoned at most once).
 *   P5  Connects are the pool's own: at most max_connecting at once, with their own deadline, outliving a
 *       caller's timeout.  A waiter gets whichever comes first, a returned resource or a new one.
 *   P6  After a failed connect one connect at a time is tried, after a pause that grows and is random, until
 *       one succeeds: no storm, however many callers wait.
 *   P7  A deadline is computed once, when the call begins to wait, and never moved.
 *   P8  While somebody waits, there is a resource out, or work in progress, or a connect due at a known time.
 *   P9  A lease is granted to one holder; a stale copy of it is refused, counted and reported.
 *   P10 A cycle of acquire and release allocates nothing.  (Starting a thread does.)
 */
#ifndef PNX_POOL_H
#define PNX_POOL_H

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/error.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_pool; /* safe to use from any thread */
struct pnx_slot; /* where a resource lives */

/*
 * A borrowed resource.  A value: belongs to one thread at a time, may be handed on; {0} is the empty lease.
 * Of two copies the first release counts, and the other is refused as long as the pool lives.
 */
struct pnx_lease {
    struct pnx_slot *slot;
    uint64_t generation;
};

/*
 * How the pool handles your resource.  Copied at create; ctx is the options'.  Operations run on threads of
 * the pool (reset: on the releasing thread; all: on callers' threads with PNX_POOL_NO_THREADS), at the same
 * time for different resources.  Each must return by its deadline; a connect, check or close that does not is
 * counted as overdue and no longer stands in the way of others, but its slot stays taken until it returns.
 * An operation may call any pool function; waiting for its own pool there is -EDEADLK, as is shutting down its registry.
 */
struct pnx_pool_manager {
    size_t size; /* sizeof(struct pnx_pool_manager) */
    /* Makes a resource: 0 and a non-NULL *ret_resource, or a negative error.  err is not NULL; a message in it
     * is shown to the callers who wait (cut after 119 bytes). */
    int (*connect)(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource);
    /* Optional: says whether a resource that was unused for check_after_ns is still fit (0), or not. */
    int (*check)(void *ctx, void *resource, pnx_ns deadline);
    /* Optional: brings a returned resource into the state that the next holder expects; 0, or it is closed. */
    int (*reset)(void *ctx, void *resource, pnx_ns deadline);
    /* Ends a resource. */
    void (*close)(void *ctx, void *resource, pnx_ns deadline);
    /* Optional: frees what a forked child inherited, without a byte on the wire and without blocking. */
    void (*abandon)(void *ctx, void *resource);
};

enum pnx_pool_flags {
    /* The pool starts no thread: connects and checks run inside pnx_pool_acquire() with a timeout other than 0
     * (which may then overrun it by as much as the operation takes) and inside pnx_pool_tick(). */
    PNX_POOL_NO_THREADS = 1,
};

/* Zero selects the default of every field but max, which is required.  PNX_NEVER switches a time off. */
struct pnx_pool_opts {
    size_t size;               /* set by PNX_POOL_OPTS */
    const char *name;          /* copied; label in statistics, events and reports; default "pool" */
    const char *site;          /* set by PNX_POOL_OPTS */
    void *ctx;                 /* first argument of every operation */
    const struct pnx_env *env; /* allocator, clock, log; default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget;     /* default: the process's; pnx_budget_off() */
    size_t resource_bytes;     /* memory that one resource holds, charged to budget; default 0 */
    pnx_ns acquire_timeout_ns; /* what PNX_TIMEOUT_DEFAULT means in acquire; default 5 s */
    pnx_ns connect_timeout_ns; /* for connect; default 5 s */
    pnx_ns check_timeout_ns;   /* for check; default 1 s */
    pnx_ns reset_timeout_ns;   /* for reset; default 1 s */
    pnx_ns close_timeout_ns;   /* for close; default 10 s */
    pnx_ns check_after_ns;     /* check before use when unused this long; default 1 s; 1 = always */
    pnx_ns idle_ns;            /* close when unused this long (up to 1/8 later); default 10 min */
    pnx_ns lifetime_ns; /* close when older than this; less up to 10 %, by chance; default 30 min */
    pnx_ns backoff_ns;  /* most to pause after a first failed connect; default 100 ms */
    pnx_ns backoff_max_ns;   /* most to pause after any; doubles up to here; default 10 s */
    uint32_t max;            /* resources alive at once; required */
    uint32_t min_idle;       /* kept connected ahead of need; default 0 */
    uint32_t max_waiters;    /* further callers get -EBUSY; default: no limit */
    uint32_t max_connecting; /* connects in progress at once; default 2 */
    uint32_t max_checking;   /* checks in progress at once; default 2 */
    uint32_t flags;          /* enum pnx_pool_flags */
};

/* Names only the options that differ: PNX_POOL_OPTS(.name = "db", .max = 16). */
#ifndef __cplusplus
#define PNX_POOL_OPTS(...) \
    (&(const struct pnx_pool_opts){ \
            .size = sizeof(struct pnx_pool_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_pool_opts pnx_pool_opts_init(void) {
    struct pnx_pool_opts opts = pnx_pool_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Sets one option from text, as a configuration file has it: pnx_pool_opts_set(&opts, "idle_ns", "10min", err).
 * Changes nothing on failure.  -ENOENT: no such option; -EINVAL: the text does not parse; -ERANGE: outside the
 * limits; -ENOTSUP: not settable from text.  Does not block; not for one struct from two threads at once.
 */
PNX_API PNX_NODISCARD int pnx_pool_opts_set(
        struct pnx_pool_opts *opts, const char *name, const char *text, struct pnx_error *err);

/*
 * Creates a pool.  Connects nothing unless min_idle asks for it, and does not wait for that.
 * The caller owns *ret_pool: pnx_pool_close() and pnx_pool_release().  err may be NULL.
 * -EINVAL (err names the field), -ENOMEM (memory or budget), -E2BIG when opts or manager sets a field that this
 * library does not know, -EBUSY or -ESHUTDOWN from the registry.
 */
PNX_API PNX_NODISCARD int pnx_pool_create(const struct pnx_pool_manager *manager,
        const struct pnx_pool_opts *opts, struct pnx_error *err, struct pnx_pool **ret_pool);

/*
 * Borrows a resource: the most recently used idle one, else waits for whichever comes first, one returned or one
 * newly connected.  timeout bounds the whole wait.  0 tries once and does not wait, but asks the pool to make a
 * resource ready for a later try.  Any thread.  Release the lease when done.
 * -ETIMEDOUT, -EBUSY (max_waiters), -ESHUTDOWN (closed, or made by the parent of this process), -EDEADLK (would
 * wait inside an operation of this pool), -EINVAL.  err, if not NULL, says in which phase ("wait", "connect",
 * "check", "queue", "closed", "fork"), with counts, and the last connect error, which is also its cause.
 */
PNX_API PNX_NODISCARD int pnx_pool_acquire(
        struct pnx_pool *pool, pnx_ns timeout, struct pnx_error *err, struct pnx_lease *ret_lease);

/* Returns the borrowed resource, valid until the lease is released; NULL for an empty lease, and for a stale
 * one, which is a misuse as in pnx_lease_release().  Does not block. */
PNX_API void *pnx_lease_resource(const struct pnx_lease *lease);

/*
 * Gives the resource back, to the first waiter if there is one, after reset() if the manager has it, which runs
 * here.  Clears *lease; NULL and an empty lease are fine.  Any thread may release.  A stale lease changes
 * nothing, is counted, is an event, and aborts in debug builds of the library.
 */
PNX_API void pnx_lease_release(struct pnx_lease *lease);

/* Gives back a resource that is broken: it is closed, and replaced when somebody waits.  Else like release. */
PNX_API void pnx_lease_discard(struct pnx_lease *lease);

/* Declares a lease released at the end of the scope:  PNX_AUTO_LEASE lease = {0}; */
#define PNX_AUTO_LEASE PNX_CLEANUP(pnx_lease_release) struct pnx_lease

/*
 * Moves the pool's timers to now (the clock of the pool's env): closes what is too old or unused for too long,
 * fills up to min_idle, ends pauses after failed connects.  Returns when to call next, PNX_NEVER if nothing is
 * due; a failed connect or a returned resource can bring that forward by at most the pause or an eighth of
 * idle_ns.  A pool with threads does this itself.  With PNX_POOL_NO_THREADS it also runs the operations that are
 * due, one after the other, and so may block as long as they do.  Any thread.
 */
PNX_API pnx_ns pnx_pool_tick(struct pnx_pool *pool, pnx_ns now);

/*
 * Changes max while the pool is in use.  What is too many is closed: idle ones now, others as they come home.
 * -EINVAL for 0 or too large a number or one below min_idle, -ENOMEM (nothing changed), -ESHUTDOWN.
 */
PNX_API PNX_NODISCARD int pnx_pool_resize(
        struct pnx_pool *pool, uint32_t max, struct pnx_error *err);

/*
 * Closes: refuses new leases at once, wakes waiters with -ESHUTDOWN, closes idle resources, and waits until those
 * in use have come home and each close has returned.  Returns 0 then, or how many were still there when timeout
 * had passed; those are closed as they come home.  Idempotent: any thread may call it, again and at once.
 * PNX_TIMEOUT_DEFAULT asks for close_timeout_ns.
 * -EINVAL for another negative timeout, -EDEADLK from inside an operation of this pool (the closing has begun even so).
 */
PNX_API PNX_NODISCARD int pnx_pool_close(struct pnx_pool *pool, pnx_ns timeout);

/* Drops the pool: closes it without waiting; its memory goes when the last lease is home.  Clears *pool;
 * NULL-safe; cannot fail. */
PNX_API void pnx_pool_release(struct pnx_pool **pool);

/* The rows of patinox/stats/pool.def; times in nanoseconds. */
struct pnx_pool_stats {
    size_t size; /* sizeof(struct pnx_pool_stats), set by the caller */
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
#include <patinox/stats/pool.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
};

/* Fills *ret_stats up to its size.  Takes no lock; the numbers may be of slightly different moments.  -EINVAL. */
PNX_API int pnx_pool_read_stats(const struct pnx_pool *pool, struct pnx_pool_stats *ret_stats);

/*
 * Writes the state of the pool and of each slot as text, for people.  Copies under the lock, writes without it.
 * -EINVAL, -ENOMEM, -ESHUTDOWN in a forked child, or what write returned.
 */
PNX_API PNX_NODISCARD int pnx_pool_dump(struct pnx_pool *pool, pnx_write_fn *write, void *ctx);

PNX_END_DECLS
#endif /* PNX_POOL_H */
