/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool.h - the shell around the core: the lock, the threads, the calls of the manager.
 *
 * Every public call locks, runs the core, and ends in pnx__pool_unlock(), which decides under the lock what is to
 * be done (wake waiters, wake or start a thread, run jobs here, free the pool), unlocks, and does it.
 *
 * Who keeps the memory: the user's handle, every thread of the pool and every call that still has work after its
 * unlock hold one of refs; every slot that is not EMPTY holds it too.  Whoever brings refs and size to 0 after
 * pnx_pool_release() frees the pool, having unlocked.
 */
#ifndef PNX_SRC_POOL_POOL_H
#define PNX_SRC_POOL_POOL_H

#include "base/env.h"
#include "base/options.h"
#include "os/mutex.h"
#include "pool/inbox.h"
#include "pool/pool_core.h"
#include "registry/calls.h"
#include "stats/stats.h"

#include <stdlib.h>

struct pnx_os_thread;

/* Histograms, in the order of stats/pool.def. */
enum pnx__pool_histogram {
#define PNX_STAT(name, kind, unit, level, help)
#define PNX_STAT_HISTOGRAM(name, unit, level, help) PNX__POOL_HISTOGRAM_##name,
#include <patinox/stats/pool.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    PNX__POOL_HISTOGRAMS,
};

/* Slots come in chunks that never move, so that leases stay valid while the pool grows. */
struct pnx__pool_chunk {
    struct pnx__pool_chunk *next; /* fixed */
    uint32_t n;                   /* fixed */
    struct pnx_slot slots[];
};

/* One thread of the pool.  Owned by the pool; freed by whoever joins it. */
struct pnx__pool_thread {
    struct pnx_pool *pool;
    struct pnx__pool_thread *next; /* lock: on the list ended */
    struct pnx_os_thread *os;      /* lock: NULL until the starter knows it */
    bool ended;                    /* lock */
};

/* An operation of the manager that runs on this thread: pnx_thread.pool_calls points at the innermost. */
struct pnx__pool_call {
    const struct pnx_pool *pool;
    const struct pnx__pool_call *outer;
    const struct pnx_slot *interrupts; /* it is the interrupt of this one; else NULL */
    struct pnx_row_call row;
    bool begun; /* and has not returned */
};

/* Declares one.  If the function is left without returning, by an exception or the end of its thread, the process aborts. */
#define PNX__POOL_CALL(name) \
    struct pnx__pool_call name PNX_CLEANUP(pnx__pool_call_check); \
    name.begun = false

static inline void pnx__pool_call_check(const struct pnx__pool_call *call) {
    if (call->begun)
        abort();
}

/* What a pool whose quota is used up wants more for, by urgency. */
enum pnx__pool_appetite {
    PNX__POOL_SATED,
    PNX__POOL_FILLS,   /* it would keep more ready: of what is free */
    PNX__POOL_TRIES,   /* somebody has tried in vain: also of what is idle elsewhere */
    PNX__POOL_STARVES, /* somebody waits: also of what is in use elsewhere */
    PNX__POOL_UNHEARD, /* the group does not want to know */
};

/*
 * A pool's place in a group of pools (group.h), which hears of it by tell(): that the pool wants more than its quota, owes
 * it something that it can give now, has something idle that the group looks for, or that the time has come that the
 * group had asked for.  All of it is guarded by the pool's lock; share only changes under the group's, too.
 */
struct pnx__pool_member {
    void (*tell)(
            void *key); /* called with no lock held, and with one of key_refs; NULL: no group */
    void *key;
    struct pnx_a32 *key_refs;
    const void *group; /* fixed */
    bool struck;       /* its row has been removed, by the one thread that ends the group */
    uint32_t share;    /* what counts: the larger of quota and size, once the group has looked */
    uint8_t known;     /* enum pnx__pool_appetite as the group has seen it last */
    bool told;         /* and the group has not looked yet */
    pnx_ns at;         /* the group asks to be told; PNX_NEVER */
};

/* Where a pool is made: what a group adds to its options. */
struct pnx__pool_place {
    pnx_resource_id parent; /* of its row */
    struct pnx__pool_member member;
};

/*
 * Fixed after create: the first line, manager .. block, save where noted.  Guarded by lock: core .. ended, histograms.
 */
struct pnx_pool {
    /* What the short way reads. */
    uint64_t serial; /* of all pools of the process; never used again */
    pnx_ns check_after;
    pnx_ns (*now_coarse)(void *ctx);
    void *now_ctx;
    pnx_ns acquire_timeout;
    uint32_t fork;      /* the fork generation of the process that made it */
    bool quick_release; /* nothing of the user's runs at a release */
    bool hooked;        /* before_acquire is to be called */
    bool plain;         /* an acquire may go the short way: no hook, no trace */

    _Alignas(64) struct pnx_a64
            seen; /* a time, some ms ago at most while there is traffic; any thread writes it */

    _Alignas(64) struct pnx_mutex lock;
    struct pnx__pool_core core;

    uint32_t refs;                  /* see above */
    uint32_t threads;               /* alive or being started */
    uint32_t starting;              /* of these, not yet in their loop */
    uint32_t parked;                /* of these, waiting for work */
    uint32_t closers;               /* callers that wait on home_seq */
    bool released;                  /* pnx_pool_release() was called */
    bool destroying;                /* somebody is freeing the pool */
    bool keeper;                    /* a parked thread watches next_timer */
    pnx_ns keeper_until;            /* until when it sleeps */
    pnx_ns breaker_since;           /* when the breaker opened */
    uint32_t watched;               /* slots up to this index have been looked at by watch_held */
    struct pnx__pool_thread *ended; /* to be joined */

    struct pnx_a32
            hook_refusals;   /* by before_acquire, of new resources, since it last passed one */
    struct pnx_a32 spinners; /* callers that spin before they sleep */
    struct pnx_a32 work_seq; /* futex of parked threads; changed under the lock */
    struct pnx_a32 home_seq; /* futex of closers; changed under the lock */
    struct pnx_aptr
            chunks; /* struct pnx__pool_chunk: pushed under the lock, walked without it after a fork */

    struct pnx_pool_manager manager;
    struct pnx_pool_hooks hooks;
    void *ctx;
    struct pnx_env env;
    char *name;
    void (*post)(void *post_ctx, void (*run)(void *arg), void *arg);
    void *post_ctx;
    pnx_ns connect_timeout;
    pnx_ns check_timeout;
    pnx_ns reset_timeout;
    pnx_ns close_timeout;
    pnx_ns linger; /* how long a thread that is not the keeper stays without work */
    size_t resource_bytes;
    uint32_t nested; /* enum pnx_pool_nested */
    uint32_t flags;
    uint32_t spinners_max;
    bool system_clock;

    struct pnx__pool_member member;

    struct pnx_registry *registry;
    pnx_resource_id row;
    const char *site; /* where it was made; fixed */
    struct pnx_budget *budget;
    struct pnx_reclaimer_handle *reclaimer;
    size_t bytes; /* lock: memory of the pool itself, charged */

    struct pnx_stats_block block;                          /* stats' lock: its link */
    struct pnx_histogram histograms[PNX__POOL_HISTOGRAMS]; /* lock */
};

/* Starts a set of effects; the array need not be cleared. */
static inline void pnx__pool_effects_init(struct pnx__pool_effects *effects) {
    effects->wakes = 0;
    effects->work = false;
    effects->timer = false;
    effects->ended = false;
    effects->more = effects->opened = effects->closed = effects->stale = effects->hungry = false;
    effects->done = effects->done_last = NULL;
}

/* Whether effects have something to be told after the unlock, for which the pool must still be there. */
static inline bool pnx__pool_has_news(const struct pnx__pool_effects *effects) {
    return effects->more || effects->opened || effects->closed || effects->stale || effects->hungry;
}
/* That, or requests to be delivered, which keep the pool themselves. */
static inline bool pnx__pool_has_tasks(const struct pnx__pool_effects *effects) {
    return effects->done || pnx__pool_has_news(effects);
}

/* What the pool wants of its group. */
static inline enum pnx__pool_appetite pnx__pool_appetite(const struct pnx__pool_core *core) {
    bool owes = core->quota < core->size; /* then it would rather keep what it has */
    if (!pnx__pool_core_hungry(core, core->now) && (!owes || core->waiting == 0 || core->closing))
        return PNX__POOL_SATED;
    if (core->waiting > 0)
        return PNX__POOL_STARVES;
    return core->want_one ? PNX__POOL_TRIES : PNX__POOL_FILLS;
}

/* Whether the pool's group is to be told something. */
static inline bool pnx__pool_has_tidings(const struct pnx_pool *pool) {
    const struct pnx__pool_member *member = &pool->member;
    const struct pnx__pool_core *core = &pool->core;
    if (!member->tell || member->told)
        return false;
    return core->now >= member->at || (core->size < member->share && core->quota < member->share) ||
           (core->lending && core->n[PNX__POOL_IDLE] > 0) ||
           pnx__pool_appetite(core) > member->known;
}

/* When its timers are due, the group's among them, unless somebody is about to tell the group anyhow. */
static inline pnx_ns pnx__pool_due(const struct pnx_pool *pool) {
    const struct pnx__pool_member *member = &pool->member;
    pnx_ns next = pool->core.next_timer;
    return member->tell && !member->told && member->at < next ? member->at : next;
}

/* What a caller is prepared to run itself when the pool has no threads. */
struct pnx__pool_driver {
    bool any;                        /* connects and checks, not only closes */
    struct pnx__pool_waiter *waiter; /* stop when it has its outcome; may be NULL */
    pnx_ns deadline;                 /* start no job after it */
};

/* ---- pool.c ---- */
extern const struct pnx_opt_table pnx__pool_options;
/* Checks what pnx_pool_create() would, and makes nothing. */
int pnx__pool_check_opts(const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts,
        struct pnx_error *err);
/* pnx_pool_create(); place may be NULL. */
int pnx__pool_create(const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts,
        const struct pnx__pool_place *place, struct pnx_error *err, struct pnx_pool **ret_pool);
/* Frees a pool that nobody uses.  self: the calling thread, if it is one of the pool's. */
void pnx__pool_destroy(struct pnx_pool *pool, struct pnx__pool_thread *self);
size_t pnx__pool_chunk_bytes(uint32_t n);
struct pnx__pool_chunk *pnx__pool_new_chunk(const struct pnx_env *env, uint32_t n);
void pnx__pool_add_chunk_locked(struct pnx_pool *pool, struct pnx__pool_chunk *chunk);
static inline void pnx__pool_lock(struct pnx_pool *pool) {
    pnx__mutex_lock(&pool->lock);
}
/* True in a child of the process that made the pool. */
bool pnx__pool_forked(const struct pnx_pool *pool);

/* ---- pool_drive.c ---- */
/* Unlocks and does what effects and state ask for; driver may be NULL: closes only.  The pool may be gone then,
 * unless the caller holds a ref, a lease or the handle. */
void pnx__pool_unlock(struct pnx_pool *pool, struct pnx__pool_effects *effects,
        const struct pnx__pool_driver *driver);
/* Debug builds: aborts when an invariant of the core does not hold. */
#ifdef PNX_DEBUG
void pnx__pool_check_locked(const struct pnx_pool *pool);
#else
static inline void pnx__pool_check_locked(const struct pnx_pool *pool) {
    (void)pool;
}
#endif
/* The same for an event that seldom has effects, and after which nobody can be the last. */
static inline void pnx__pool_unlock_quiet(
        struct pnx_pool *pool, struct pnx__pool_effects *effects) {
    if (effects->wakes || effects->work || effects->timer || effects->ended ||
            pnx__pool_has_tasks(effects) || pnx__pool_has_tidings(pool)) {
        pnx__pool_unlock(pool, effects, NULL);
        return;
    }
    pnx__pool_check_locked(pool);
    pnx__mutex_unlock(&pool->lock);
}
/* Gives up one of refs; frees the pool if that was the last.  No lock held. */
void pnx__pool_drop_ref(struct pnx_pool *pool);
/* For one that waits for the state to change: unlocks, sleeps until an `ended` or the deadline, locks.  False: it has passed. */
bool pnx__pool_await_locked(struct pnx_pool *pool, pnx_ns deadline);
/* Runs the peeks that are to be made for those who wait, until the waiter has its outcome.  No lock held. */
void pnx__pool_run_peeks(struct pnx_pool *pool, const struct pnx__pool_waiter *waiter);
/* Joins threads that have ended, save self.  No lock held. */
void pnx__pool_join_ended(struct pnx_pool *pool, struct pnx__pool_thread *self);
/* Wakes those whom effects name. */
void pnx__pool_wake(struct pnx__pool_effects *effects);
/* Sleeps on a futex until woken or a deadline of the pool's clock; may return early. */
void pnx__pool_sleep(
        const struct pnx_pool *pool, const struct pnx_a32 *word, uint32_t expected, pnx_ns until);

/* ---- pool_jobs.c ---- */
/* What came of a job, before the core is told. */
struct pnx__pool_result {
    int rc;
    void *resource; /* of a connect */
    bool uncharged; /* the connect was never begun */
    struct pnx_error err;
};
/* Does what follows a job's end, then locks and reports it. */
void pnx__pool_finish_job(struct pnx_pool *pool, struct pnx_slot *slot,
        struct pnx__pool_result *result, struct pnx__pool_effects *effects);
/* Runs the job that the slot carries, then locks, and reports it unless it goes on without a thread. */
void pnx__pool_run_job(
        struct pnx_pool *pool, struct pnx_slot *slot, struct pnx__pool_effects *effects);
/* A resource that is a row of the registry, and charged, is the pool's no more. */
void pnx__pool_leave(struct pnx_pool *pool, struct pnx_slot *slot);
/* ... becomes the pool's: charges it, and adds the row.  0, -ENOMEM. */
int pnx__pool_enter(struct pnx_pool *pool, struct pnx_slot *slot);
/* Brackets a call of the manager on this thread. */
void pnx__pool_call_enter(const struct pnx_pool *pool, struct pnx__pool_call *call);
void pnx__pool_call_leave(struct pnx__pool_call *call);
/* The same for who knows the thread's record; NULL: it has none. */
static inline void pnx__pool_call_enter_on(
        struct pnx_thread *self, const struct pnx_pool *pool, struct pnx__pool_call *call) {
    pnx__mutex_assert_none_held();
    call->pool = pool;
    call->outer = self ? self->pool_calls : NULL;
    call->interrupts = NULL;
    call->begun = true;
    if (self)
        self->pool_calls = call;
    pnx__row_call_enter_on(self, &call->row, pool->registry, pool->row);
}
static inline void pnx__pool_call_leave_on(struct pnx_thread *self, struct pnx__pool_call *call) {
    call->begun = false;
    if (self)
        self->pool_calls = call->outer;
    pnx__row_call_leave_on(self, &call->row);
}
/* Whether an operation of this pool runs on this thread. */
bool pnx__pool_call_inside(const struct pnx_pool *pool);
/* Whether the interrupt of this slot's resource runs on this thread. */
bool pnx__pool_call_interrupts(const struct pnx_slot *slot);
/* Sets the health word from the core's state.  Lock held. */
void pnx__pool_health_locked(struct pnx_pool *pool);
/* The text of an error, for people. */
const char *pnx__pool_error_text(int code, char *buf, size_t n);

/* ---- pool_ops.c ---- */
/* start has returned, with this result.  Returns -EINPROGRESS when the operation goes on, and is not this thread's any more;
 * else its code, and *result is how it ended. */
int pnx__pool_op_started(struct pnx_slot *slot, struct pnx__pool_result *result,
        const struct pnx__pool_result *left);
/* Asks about operations that go on without a thread, and cancels those that are late; calls the user; lock not held. */
void pnx__pool_tend_ops(struct pnx_pool *pool);

/* ---- pool_acquire.c ---- */
/* How a caller asks. */
struct pnx__pool_asking {
    const char *site;
    uint64_t tag;
    uint8_t lane;
};
/* Checks the options of an acquire: 0, -EINVAL, -E2BIG. */
int pnx__pool_check_asking(const struct pnx_acquire_opts *with, struct pnx_error *err,
        struct pnx__pool_asking *ret_asking);
/* The short way: a lease, if this thread's last slot of the pool is open, idle and fit; else an empty one. */
struct pnx_lease pnx__pool_claim(
        struct pnx_pool *pool, pnx_ns now, const struct pnx__pool_asking *asking);
/* The same in a pool that traces the order: looks whether it was somebody else's turn. */
void pnx__pool_trace(struct pnx_pool *pool, uint8_t lane, uint64_t asked);
/* Notes who has the lease now, and which slot this thread looks at first next time. */
void pnx__pool_stamp(struct pnx_pool *pool, const struct pnx_lease *lease,
        const struct pnx__pool_asking *asking);
/* Runs before_acquire: false when the resource was refused; then the lease is spent, and the caller, once it has its place
 * in the queue again and before it unlocks, calls pnx__pool_give_up_locked(). */
bool pnx__pool_passes(struct pnx_pool *pool, const struct pnx_lease *lease);
/* Fills in err for a failure, and tells the monitors.  waited: by the exact clock.  No lock held.  Returns code. */
int pnx__pool_explain(
        struct pnx_pool *pool, int code, const char *phase, pnx_ns waited, struct pnx_error *err);

/* ---- pool_request.c ---- */
/* Delivers requests that have their outcome; each has a ref of the pool, or a lease, and the pool may be gone afterwards. */
void pnx__pool_deliver(struct pnx_link *first);
/* Takes those refs, where there is no lease; the lock is held. */
void pnx__pool_ref_requests_locked(const struct pnx_link *first);

/* Runs the callback that a link in an inbox stands for. */
void pnx__pool_run_link(struct pnx_link *link);

/* ---- pool_lease.c ---- */
/* Gives up what before_acquire has refused, if there is something; the lock is held. */
void pnx__pool_give_up_locked(
        struct pnx_pool *pool, const struct pnx_lease *refused, struct pnx__pool_effects *effects);

/* ---- pool_admin.c ---- */
/* Calls the manager's interrupt for resources in use that are old, or all if the pool is closing. */
void pnx__pool_interrupt(struct pnx_pool *pool);
/* Tells of leases that are held for too long.  No lock held. */
void pnx__pool_watch_held(struct pnx_pool *pool);
/* The slot at an index, or NULL. */
struct pnx_slot *pnx__pool_slot_at(const struct pnx_pool *pool, uint32_t index);

/* ---- pool_report.c ---- */
/* Brings the numbers up to date that no event counts. */
void pnx__pool_refresh(const struct pnx_stats_block *block);

/* ---- pool_fork.c: in a forked child, without the lock, which the parent may have held ---- */
void pnx__pool_abandon_idle(struct pnx_pool *pool);
void pnx__pool_abandon_lease(struct pnx_pool *pool, struct pnx_slot *slot);

#endif
