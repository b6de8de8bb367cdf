/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/pool.h - a bounded pool of reusable resources: connections, sessions, files.
 *
 * The pool owns resources; callers borrow them as leases.  Each resource has a slot:
 *
 *   EMPTY --connect--> CONNECTING --ok--> IDLE --grant--> IN_USE --release--> IDLE, or the next waiter
 *     ^                    | failed        |  \ due          | discarded, reset failed, expired, of an old generation
 *     +<-------------------+               |   v             |
 *     |                      old, unused   | CHECKING --fit--> IDLE, or the first waiter
 *     |                                    |   | unfit       |        detached: EMPTY at once
 *     +------------ closed ------------- CLOSING <-----------+
 *
 * At every moment outside the pool's lock:
 *   P1  connecting + idle + in use + checking + closing <= max: a resource holds its slot until its close has
 *       returned.  (After a resize to less, the excess goes as it comes home; none is added.)
 *   P2  Waiters of one priority are granted in the order in which they asked; an arriving caller overtakes nobody; a
 *       waiter whose resource fails its check, or its before_acquire hook, keeps its place.  (barge_ns loosens this.)
 *   P3  No operation of yours runs while the pool holds its lock, and none runs twice at once on one resource,
 *       interrupt excepted, which is made for that.
 *   P4  Each connected resource is closed exactly once (in a forked child: abandoned at most once), or detached.
 *   P5  Connects are the pool's own: at most max_connecting at once, with their own deadline, outliving a
 *       caller's timeout.  A waiter gets whichever comes first, a returned resource or a new one.
 *   P6  After a failed connect one connect at a time is tried, after a pause that grows and is random, until
 *       one succeeds: no storm, however many callers wait.
 *   P7  A deadline is computed once, when the call begins to wait, and never moved.
 *   P8  While somebody waits, there is a resource out, or work in progress, or a connect due at a known time.
 *   P9  A lease is granted to one holder; a stale copy of it is refused, counted and reported.
 *   P10 A cycle of acquire and release allocates nothing.  (Starting a thread does.)
 *   P11 While the breaker is open, an acquire fails at once with PNX_E_BREAKER and the error that opened it; one
 *       connect at a time is tried, after the same pauses as in P6, and the first that succeeds closes the breaker.
 *   P12 After pnx_pool_reset() no resource whose connect began before it is granted any more.
 *   P13 Each request that pnx_pool_acquire_async() accepted is told its outcome once, unless pnx_pool_cancel() took it back.
 *       Its callback runs with no lock held, and never inside another callback of a request on the same thread.
 *   P14 A caller of a lower priority rises by one for each ageing_ns that it has waited: none waits for ever.
 *
 * Who may call what: every function may be called by any thread at any time, also from inside every operation, hook
 * and callback of the pool, except that what would have to wait for the pool itself is -EDEADLK there.  A lease, a
 * request and an opts struct belong to one thread at a time.  In a forked child a pool of the parent's answers
 * -ESHUTDOWN, and what was inherited is abandoned, never closed: a lease when the child releases it; what was idle, being
 * checked, or on another thread's lease, when the child closes or releases the pool.  What was being connected,
 * reset or closed at that moment stays open in the child.
 *
 *   may block, up to its timeout       acquire, acquire_with, warm_up, pause, close
 *   may run operations of yours here   release and discard (reset); acquire (hooks, a peek); evict (its predicate);
 *                                      all that a pool without threads does in its callers
 *   neither                            acquire_async, cancel, detach, adopt, resize, reset (but for interrupt), resume, close_begin,
 *                                      close_poll, release of the pool, read_stats
 *
 * An operation, a hook, the callback of a request and the function given to pnx_pool_evict() must return: one that throws
 * a C++ exception, or ends its thread, aborts the process.
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

/* What a failed connect means.  See pnx_pool_manager.classify. */
enum pnx_pool_verdict {
    PNX_POOL_TRANSIENT = 0, /* may succeed soon: back-off, one connect at a time */
    PNX_POOL_OVERLOAD, /* the server asks for less: the longest pause at once; does not count for the breaker */
    PNX_POOL_PERMANENT, /* wrong password, no such database: with no resource alive, waiters fail now, and the
                             * breaker opens */
    PNX_POOL_STALE_ALL, /* the server is another one now (failover): all resources made so far are old */
};

/* What runs on a resource.  Also a word for managers that work without blocking. */
enum pnx_pool_op_kind { PNX_POOL_OP_CONNECT, PNX_POOL_OP_CHECK, PNX_POOL_OP_CLOSE };

/*
 * An operation that goes on without a thread (pnx_pool_manager.start).  Owned by the pool; valid from start until it
 * has ended, and no start, poll or cancel of it runs; these never run at the same time.  The manager may use fd, events and data
 * as it likes.
 */
struct pnx_pool_op {
    void *resource; /* what to check or close; NULL for a connect */
    enum pnx_pool_op_kind kind;
    int fd;          /* what your loop should watch; -1 at first */
    uint32_t events; /* for what */
    void *data;
    pnx_ns deadline; /* absolute, of the pool's clock */
};

/*
 * How the pool handles your resource.  Copied at create; ctx is the options'.  Operations run on threads of
 * the pool (reset: on the releasing thread; all: on callers' threads with PNX_POOL_NO_THREADS), at the same
 * time for different resources.  Each must return by its deadline; a connect, check or close that does not is
 * counted as overdue and no longer stands in the way of others, but its slot stays taken until it returns.
 * An operation may call any pool function; waiting for its own pool there is -EDEADLK, as is shutting down its registry.
 *
 * Required: connect and close, or start.
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
    /*
     * Optional: a look at an idle resource that does not block (pnx_pool_peek_fd() is one for sockets): 0, or it is
     * closed.  With it, a resource that was unused for check_after_ns is peeked at, by the caller who wants it, and only one
     * that was unused for full_check_after_ns is checked.
     */
    int (*peek)(void *ctx, void *resource);
    /* Optional: what a connect's error means, an enum pnx_pool_verdict; without it all are transient.  Must not block. */
    int (*classify)(void *ctx, int code, const struct pnx_error *err);
    /* Optional: makes whoever is using the resource fail soon (shutdown(2) on its socket).  Called by pnx_pool_reset() and by
     * a close that has run out of time, while the holder may be using the resource, but never once it is being closed. */
    void (*interrupt)(void *ctx, void *resource);
    /*
     * For managers that never block, instead of connect, check and close (check is optional: it is asked for only
     * if the function is not NULL, and then goes to start).  Begins what op says.  Returns 0 (done; a connect has set
     * op->resource), -EINPROGRESS (goes on; then pnx_pool_op_done() ends it, once, from any thread, also before start
     * has returned), or another negative error.
     */
    int (*start)(void *ctx, struct pnx_pool_op *op, struct pnx_error *err);
    /* Optional, with start: how far is it?  Called by pnx_pool_tick() and pnx_pool_op_poll(); returns as start does. */
    int (*poll)(void *ctx, struct pnx_pool_op *op, struct pnx_error *err);
    /* With start: ends op now, when its deadline has passed.  Returns 0 if it did: then op is over and pnx_pool_op_done() must not
     * be called any more; or -EALREADY: pnx_pool_op_done() was called, or will be at once. */
    int (*cancel)(void *ctx, struct pnx_pool_op *op);
};

/* Functions of the pool's user, beside the manager's, which may be an adapter's.  All optional; arg is the struct's. */
struct pnx_pool_hooks {
    size_t size; /* sizeof(struct pnx_pool_hooks) */
    void *arg;
    /* After each connect, within its deadline, on the same thread: 0, or the resource is closed and the connect has failed. */
    int (*after_connect)(void *arg, void *resource, pnx_ns deadline, struct pnx_error *err);
    /* On the acquiring thread (asynchronous: the delivering one): 0, or the resource is closed and the caller waits on. */
    int (*before_acquire)(void *arg, void *resource);
    /* On the releasing thread, before the manager's reset: 0, or the resource is closed. */
    int (*after_release)(void *arg, void *resource);
    /* Before each close, on the same thread. */
    void (*before_close)(void *arg, void *resource);
};

enum pnx_pool_flags {
    /* The pool starts no thread: connects and checks run inside pnx_pool_acquire() with a timeout other than 0
     * (which may then overrun it by as much as the operation takes) and inside pnx_pool_tick(). */
    PNX_POOL_NO_THREADS = 1,
    /* Idle resources are taken in turn instead of the last used one: even use of balanced servers, at the price of the
     * short way and of a pool that shrinks. */
    PNX_POOL_ROUND_ROBIN = 2,
    /* Counts grants out of turn in the statistic inversions: to a caller while another one of the same priority, who had
     * been waiting before that caller's call began, still waits.  (Who has a resource that before_acquire then refuses does not
     * wait until it is back in the queue.)  For tests: an acquire then takes the lock.  In a pool without barge_ns there
     * are none. */
    PNX_POOL_TRACE_ORDER = 4,
};

/* What an acquire does that must wait while its thread holds a lease of the same pool. */
enum pnx_pool_nested {
    PNX_POOL_NESTED_DEFAULT = 0, /* warn */
    PNX_POOL_NESTED_ALLOW,
    PNX_POOL_NESTED_WARN, /* PNX_EVENT_POOL_NESTED, and waits */
    PNX_POOL_NESTED_REFUSE, /* -EDEADLK.  In pools of more than 256 slots only the thread's last lease is looked at */
};

/* Zero selects the default of every field but max, which is required.  PNX_NEVER switches a time off. */
struct pnx_pool_opts {
    size_t size;               /* set by PNX_POOL_OPTS */
    const char *name;          /* copied; label in statistics, events and reports; default "pool" */
    const char *site;          /* set by PNX_POOL_OPTS */
    void *ctx;                 /* first argument of every operation */
    const struct pnx_env *env; /* allocator, clock, log; default: the system's */
    struct pnx_registry *registry;      /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;            /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget;          /* default: the process's; pnx_budget_off() */
    const struct pnx_pool_hooks *hooks; /* copied; default none */
    /* How callbacks of requests come to your loop: called with no lock held, it must have run(arg) called soon, once, on
     * whichever thread you like.  Default: the callback runs at once on the thread that had the news. */
    void (*post)(void *post_ctx, void (*run)(void *arg), void *arg);
    void *post_ctx;
    size_t resource_bytes;     /* memory that one resource holds, charged to budget; default 0 */
    pnx_ns acquire_timeout_ns; /* what PNX_TIMEOUT_DEFAULT means in acquire; default 5 s */
    pnx_ns connect_timeout_ns; /* for connect; default 5 s */
    pnx_ns check_timeout_ns;   /* for check; default 1 s */
    pnx_ns reset_timeout_ns;   /* for reset; default 1 s */
    pnx_ns close_timeout_ns;   /* for close; default 10 s */
    pnx_ns check_after_ns;     /* check before use when unused this long; default 1 s; 1 = always */
    pnx_ns full_check_after_ns; /* with peek: check, too, when unused this long; default 30 s */
    pnx_ns keepalive_ns; /* check when unused this long, less up to 10 %, one at a time; default never */
    pnx_ns idle_ns;      /* close when unused this long (up to 1/8 later); default 10 min */
    pnx_ns lifetime_ns; /* close when older than this; less up to 10 %, by chance; default 30 min */
    pnx_ns backoff_ns;  /* most to pause after a first failed connect; default 100 ms */
    pnx_ns backoff_max_ns;   /* most to pause after any; doubles up to here; default 10 s */
    pnx_ns held_too_long_ns; /* a lease held this long is an event, once; default never */
    pnx_ns ageing_ns;        /* a waiter rises by one priority each time; default 1 s */
    pnx_ns barge_ns; /* an arriving caller may overtake while nobody has waited this long; default never */
    pnx_ns codel_target_ns; /* a wait that is short enough; default never: nobody is shed */
    pnx_ns codel_interval_ns; /* waits longer than the target for so long: shed waiters; default 100 ms */
    uint32_t max;             /* resources alive at once; required */
    uint32_t min_idle;        /* kept connected ahead of need; default 0 */
    uint32_t max_waiters;    /* further callers get -EBUSY; default: no limit */
    uint32_t max_connecting; /* connects in progress at once; default 2 */
    uint32_t max_checking;   /* checks in progress at once; default 2 */
    uint32_t
            breaker_failures; /* connects in a row that must fail, with no resource alive, to open the breaker; default 5;
                                * UINT32_MAX: it opens only for PNX_POOL_PERMANENT */
    uint32_t nested; /* enum pnx_pool_nested; default 2: warn */
    uint32_t flags;  /* enum pnx_pool_flags */
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
 * Fills in a preset, in fields that are still zero.  "service": threads that serve requests - min_idle 2, held_too_long_ns
 * 30 s, keepalive_ns 2 min, codel_target_ns 500 ms.  "batch": few callers that would rather wait than fail -
 * acquire_timeout_ns 60 s, breaker_failures 20, max_connecting 4, ageing off.  "event-loop": PNX_POOL_NO_THREADS,
 * max_waiters 10000, nested waits allowed.  -ENOENT: no such preset; -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_pool_opts_preset(
        struct pnx_pool_opts *opts, const char *preset, struct pnx_error *err);

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
 * "check", "hook", "queue", "closed", "fork"), with counts, and the last connect error, which is also its cause.
 */
PNX_API PNX_NODISCARD int pnx_pool_acquire(
        struct pnx_pool *pool, pnx_ns timeout, struct pnx_error *err, struct pnx_lease *ret_lease);

/* More about an acquire.  Zero selects the default of each field. */
struct pnx_acquire_opts {
    size_t size; /* set by PNX_ACQUIRE_OPTS */
    const char *
            site; /* static; PNX_ACQUIRE_OPTS sets it to where it stands: who holds it, in dumps and events */
    uint64_t tag;       /* yours, shown with the site */
    int32_t priority;   /* enum pnx_priority up to critical; default normal */
    uint32_t reserved_; /* 0 */
};
#ifndef __cplusplus
#define PNX_ACQUIRE_OPTS(...) \
    (&(const struct pnx_acquire_opts){ \
            .size = sizeof(struct pnx_acquire_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_acquire_opts pnx_acquire_opts_init(void) {
    struct pnx_acquire_opts with = pnx_acquire_opts();
    with.size = sizeof(with);
    return with;
}
#endif

/* The same, with a site, a tag and a priority.  with may be NULL.  Also -E2BIG. */
PNX_API PNX_NODISCARD int pnx_pool_acquire_with(struct pnx_pool *pool, pnx_ns timeout,
        const struct pnx_acquire_opts *with, struct pnx_error *err, struct pnx_lease *ret_lease);

/* ---- without blocking ---- */

struct pnx_pool_request;
struct pnx_inbox;

/*
 * Tells how a request ended: 0 and the lease, which is the callback's now; or what acquire would have returned, with
 * err as there (valid during the call).  The request is the caller's again and may be used anew or freed here.
 */
typedef void pnx_pool_request_fn(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err);

/*
 * An acquire that waits without a thread.  Zero it, set the upper half, and keep it where it is until its callback
 * has been called, or pnx_pool_cancel() returned 0.
 */
struct pnx_pool_request {
    pnx_pool_request_fn *done; /* required */
    void *arg;                 /* yours */
    struct pnx_inbox *inbox;   /* deliver there; default: the pool's post, else at once */
    const char *site;
    uint64_t tag;
    pnx_ns timeout; /* as acquire's: PNX_TIMEOUT_DEFAULT, or 0 to try once */
    int32_t priority;
    uint32_t reserved_;          /* 0 */
    unsigned char private_[184]; /* the pool's */
};

/*
 * Asks for a lease, in the same queue as those who block.  Returns 0: done will be called, perhaps before this has
 * returned.  Never blocks, never allocates.  -EINVAL, -EBUSY for a request that is under way; nothing will be called then.
 */
PNX_API PNX_NODISCARD int pnx_pool_acquire_async(
        struct pnx_pool *pool, struct pnx_pool_request *request);

/*
 * Takes a request back.  0: it is over, and done will not be called.  -EALREADY: its outcome came first; done has been
 * called, is being called, or will be (with -ECANCELED if before_acquire does not want the resource).  Never waits.  -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_pool_cancel(struct pnx_pool_request *request);

/*
 * Where callbacks of requests wait for an event loop: one descriptor for any number of pools.  env may be NULL.
 * -ENOMEM, -EMFILE, -ENFILE, -EINVAL.  Release it when no request that names it is under way.
 */
PNX_API PNX_NODISCARD int pnx_inbox_create(
        const struct pnx_env *env, struct pnx_error *err, struct pnx_inbox **ret_inbox);
/* The descriptor, readable while callbacks wait; -1 for NULL.  Only to poll.  On Windows it is the handle of an event. */
PNX_API int pnx_inbox_fd(const struct pnx_inbox *inbox);
/* Runs at most max callbacks that wait (0: all that wait now), on this thread.  Returns how many.  -EINVAL, and -EDEADLK
 * from inside the callback of a request, or while another thread does the same. */
PNX_API int pnx_inbox_dispatch(struct pnx_inbox *inbox, uint32_t max);
/* Clears *inbox; NULL-safe.  Not from inside a callback that a dispatch of it runs. */
PNX_API void pnx_inbox_release(struct pnx_inbox **inbox);

/* ---- leases ---- */

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

/*
 * Gives back a resource that showed that all are old: the server was replaced, or became read-only.  It is closed, and
 * so are all others whose connect began before now, as pnx_pool_reset() does.
 */
PNX_API void pnx_lease_stale_all(struct pnx_lease *lease);

/*
 * Takes the resource out of the pool for good: it is the caller's now, who closes it; its slot is free at once.
 * Clears *lease.  NULL for an empty lease, and for a stale one, which is a misuse.
 */
PNX_API PNX_NODISCARD void *pnx_lease_detach(struct pnx_lease *lease);

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
 * Puts a resource that the caller has made into the pool, which owns it from then on.  On failure it stays the caller's.
 * (A pool that has had nothing to connect yet has no thread either; until then nobody looks how old what it was given is.)
 * -EBUSY when max are alive, -ESHUTDOWN, -ENOMEM (budget), -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_pool_adopt(
        struct pnx_pool *pool, void *resource, struct pnx_error *err);

/*
 * Connects until n resources are alive, and waits for that.  A timeout of 0 begins it and returns -EINPROGRESS, or 0 when
 * they are.  -ETIMEDOUT, PNX_E_BREAKER, -ESHUTDOWN, -EDEADLK from inside an operation of this pool, -ERANGE for more than
 * max, -EINVAL.  err tells of the last connect that failed.
 */
PNX_API PNX_NODISCARD int pnx_pool_warm_up(
        struct pnx_pool *pool, uint32_t n, pnx_ns timeout, struct pnx_error *err);

/* What pnx_pool_reset() does besides. */
enum pnx_pool_reset_flags {
    PNX_POOL_RESET_LAZY =
            0, /* idle resources are closed when somebody would have got them, or by age */
    PNX_POOL_RESET_IDLE = 1,         /* idle resources are closed now */
    PNX_POOL_RESET_INTERRUPT = 2,    /* calls the manager's interrupt on those in use */
    PNX_POOL_RESET_DROP_WAITERS = 4, /* those who wait now get -ECANCELED */
};

/*
 * Declares all resources old whose connect has begun: none of them is granted again.  Those in use are closed when they
 * come home.  -EINVAL, -ESHUTDOWN.
 */
PNX_API PNX_NODISCARD int pnx_pool_reset(struct pnx_pool *pool, uint32_t flags);

/*
 * Stops granting and connecting: who asks waits, up to its deadline, for pnx_pool_resume().  Waits until no lease is out;
 * returns 0 then, or how many still are when timeout has passed; it stays paused.  Idempotent.  A try gets -EAGAIN.
 * -EINVAL, -ESHUTDOWN, -EDEADLK from inside an operation of this pool (it is paused even so).
 */
PNX_API PNX_NODISCARD int pnx_pool_pause(struct pnx_pool *pool, pnx_ns timeout);
/* -EINVAL, -ESHUTDOWN. */
PNX_API PNX_NODISCARD int pnx_pool_resume(struct pnx_pool *pool);

/* Says whether to close an idle resource, which nobody else has meanwhile. */
typedef bool pnx_pool_evict_fn(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for);

/* Asks evict about each resource that is idle, one after the other, with no lock held; closes those for which it returns
 * true, all if it is NULL.  Returns how many.  -EINVAL, -ESHUTDOWN. */
PNX_API PNX_NODISCARD int pnx_pool_evict(
        struct pnx_pool *pool, pnx_pool_evict_fn *evict, void *ctx);

/* Looks at a connected socket without blocking, for a manager's peek: 0 if it is open and silent, -EPIPE if the peer has closed it,
 * -EPROTO if there is something to read though nobody asked, or -errno; -ENOTSUP on Windows. */
PNX_API PNX_NODISCARD int pnx_pool_peek_fd(int fd);

/* Ends an operation that start left under way; see there.  resource is a connect's; err may be NULL. */
PNX_API void pnx_pool_op_done(
        struct pnx_pool_op *op, int code, void *resource, const struct pnx_error *err);
/* Calls the manager's poll for one operation, whose descriptor has news. */
PNX_API void pnx_pool_op_poll(struct pnx_pool_op *op);

/*
 * Closes: refuses new leases at once, wakes waiters with -ESHUTDOWN, closes idle resources, and waits until those
 * in use have come home and each close has returned.  Returns 0 then, or how many were still there when timeout
 * had passed; those are closed as they come home.  Idempotent: any thread may call it, again and at once.
 * PNX_TIMEOUT_DEFAULT asks for close_timeout_ns.
 * -EINVAL for another negative timeout, -EDEADLK from inside an operation of this pool (the closing has begun even so).
 */
PNX_API PNX_NODISCARD int pnx_pool_close(struct pnx_pool *pool, pnx_ns timeout);

/* The two halves of a close, for event loops: begins it, idempotently (-EINVAL); and says how many resources are still there
 * (0: all is closed; -EINVAL, -EAGAIN when no close has begun). */
PNX_API int pnx_pool_close_begin(struct pnx_pool *pool);
PNX_API int pnx_pool_close_poll(struct pnx_pool *pool);

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
