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
#include "pool/pool_core.h"
#include "registry/calls.h"
#include "stats/stats.h"

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
    struct pnx_row_call row;
};

/* Fixed after create: manager .. fork.  Guarded by lock: core .. closers.  The rest says so itself. */
struct pnx_pool {
    struct pnx_mutex lock;
    struct pnx__pool_core core;

    uint32_t refs;                  /* see above */
    uint32_t threads;               /* alive or being started */
    uint32_t starting;              /* of these, not yet in their loop */
    uint32_t parked;                /* of these, waiting for work */
    uint32_t closers;               /* callers of close that wait */
    bool released;                  /* pnx_pool_release() was called */
    bool destroying;                /* somebody is freeing the pool */
    bool keeper;                    /* a parked thread watches next_timer */
    pnx_ns keeper_until;            /* until when it sleeps */
    struct pnx__pool_thread *ended; /* to be joined */

    struct pnx_a32 work_seq; /* futex of parked threads; changed under the lock */
    struct pnx_a32 home_seq; /* futex of closers; changed under the lock */
    struct pnx_aptr
            chunks; /* struct pnx__pool_chunk: pushed under the lock, walked without it after a fork */

    struct pnx_pool_manager manager;
    void *ctx;
    struct pnx_env env;
    char *name;
    pnx_ns acquire_timeout;
    pnx_ns connect_timeout;
    pnx_ns check_timeout;
    pnx_ns reset_timeout;
    pnx_ns close_timeout;
    pnx_ns linger; /* how long a thread that is not the keeper stays without work */
    size_t resource_bytes;
    uint32_t flags;
    uint32_t fork; /* the fork generation of the process that made it */
    bool system_clock;

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
}

/* What a caller is prepared to run itself when the pool has no threads. */
struct pnx__pool_driver {
    bool any;                        /* connects and checks, not only closes */
    struct pnx__pool_waiter *waiter; /* stop when it has its outcome; may be NULL */
    pnx_ns deadline;                 /* start no job after it */
};

/* ---- pool.c ---- */
extern const struct pnx_opt_table pnx__pool_options;
/* Frees a pool that nobody uses.  self: the calling thread, if it is one of the pool's. */
void pnx__pool_destroy(struct pnx_pool *pool, struct pnx__pool_thread *self);
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
    if (effects->wakes || effects->work || effects->timer || effects->ended) {
        pnx__pool_unlock(pool, effects, NULL);
        return;
    }
    pnx__pool_check_locked(pool);
    pnx__mutex_unlock(&pool->lock);
}
/* Joins threads that have ended, save self.  No lock held. */
void pnx__pool_join_ended(struct pnx_pool *pool, struct pnx__pool_thread *self);
/* Wakes those whom effects name. */
void pnx__pool_wake(struct pnx__pool_effects *effects);
/* Sleeps on a futex until woken or a deadline of the pool's clock; may return early. */
void pnx__pool_sleep(
        const struct pnx_pool *pool, const struct pnx_a32 *word, uint32_t expected, pnx_ns until);

/* ---- pool_jobs.c ---- */
/* Runs the job that the slot carries, then locks and reports it. */
void pnx__pool_run_job(
        struct pnx_pool *pool, struct pnx_slot *slot, struct pnx__pool_effects *effects);
/* Brackets a call of the manager on this thread. */
void pnx__pool_call_enter(const struct pnx_pool *pool, struct pnx__pool_call *call);
void pnx__pool_call_leave(const struct pnx__pool_call *call);
/* Whether an operation of this pool runs on this thread. */
bool pnx__pool_call_inside(const struct pnx_pool *pool);
/* Sets the health word from the core's state.  Lock held. */
void pnx__pool_health_locked(struct pnx_pool *pool);
/* The text of an error, for people. */
const char *pnx__pool_error_text(int code, char *buf, size_t n);

/* ---- pool_fork.c: in a forked child, without the lock, which the parent may have held ---- */
void pnx__pool_abandon_idle(struct pnx_pool *pool);
void pnx__pool_abandon_lease(struct pnx_pool *pool, struct pnx_slot *slot);

#endif
