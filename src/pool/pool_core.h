/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core.h - the pool as a pure state machine: (state, event, now) -> effects.
 *
 * No function here blocks, allocates, reads a clock, starts a thread or calls anybody.  The shell (pool.c and its
 * neighbours) holds the lock around each call; the simulator (tests/pool/test_sim.c) needs none.  Both do what
 * the effects say.
 *
 *   C1  size = connecting + idle + in use + checking + closing <= ceiling, and ceiling = max unless a resize to
 *       less left an excess, which only shrinks.
 *   C2  A slot is on exactly one list, the one of its state; a slot in use is on none.
 *   C3  While somebody waits, every idle resource is one that must be checked before use.
 *   C4  Waiters are granted from the head of one list; a new waiter joins at its tail, and joins unless the list
 *       is empty and a usable resource is idle.
 *   C5  A waiter's outcome changes once from WAITING to GRANTED or CLOSED, and it is off the list from then on.
 *   C6  While somebody waits: a resource is out, or a job runs or can run, or next_timer is set.
 */
#ifndef PNX_SRC_POOL_CORE_H
#define PNX_SRC_POOL_CORE_H

#include "base/atomic.h"
#include "base/list.h"

#include <patinox/pool.h>

enum pnx__pool_state {
    PNX__POOL_EMPTY,
    PNX__POOL_CONNECTING,
    PNX__POOL_IDLE,
    PNX__POOL_IN_USE,
    PNX__POOL_CHECKING,
    PNX__POOL_CLOSING,
    PNX__POOL_STATES,
};

/*
 * A slot's word: generation << 8 | flag | state.  The generation grows with each grant, so that a lease fits one
 * grant only.  RETURNING: the lease is spent, and its releaser is resetting the resource or about to lock.
 */
#define PNX__POOL_STATE_MASK UINT64_C(0x7f)
#define PNX__POOL_RETURNING  UINT64_C(0x80)
#define PNX__POOL_GENERATION UINT64_C(0x100)

/* Why a resource is closed: the rows closed_* of stats/pool.def, in that order. */
enum pnx__pool_reason {
    PNX__POOL_BECAUSE_IDLE,
    PNX__POOL_BECAUSE_LIFETIME,
    PNX__POOL_BECAUSE_DISCARDED,
    PNX__POOL_BECAUSE_CHECK,
    PNX__POOL_BECAUSE_RESET,
    PNX__POOL_BECAUSE_RESIZE,
    PNX__POOL_BECAUSE_PRESSURE,
    PNX__POOL_BECAUSE_SHUTDOWN,
    PNX__POOL_REASONS,
};

/* What runs outside the lock on a slot's resource. */
enum pnx__pool_job_kind {
    PNX__POOL_CONNECT,
    PNX__POOL_CHECK,
    PNX__POOL_CLOSE,
    PNX__POOL_JOB_KINDS,
};

/*
 * One resource's place.  Owned by the core that it was added to, for ever.  word and resource are atomic: a
 * releaser's compare-and-swap takes the word from IN_USE to IN_USE|RETURNING without the lock; every other
 * change is made under it, by slot_to() in pool_core.c.  resource changes only while nobody has a lease.
 * The first cache line is what the acquire-release cycle touches.
 */
struct pnx_slot {
    struct pnx_a64 word;
    struct pnx_aptr resource;
    struct pnx_pool *pool; /* fixed */
    struct pnx_link link;  /* lock: free, idle, running or to_close */
    pnx_ns used_at; /* lock: a time at or before its last use ended; ages are never underestimated */
    pnx_ns expires_at; /* lock: end of its lifetime, fixed at birth */
    pnx_ns hold_since; /* holder: exact start of a sampled lease, else 0 */

    pnx_ns idle_since; /* lock: a time at or after its last use ended, once a tick has seen it idle; else 0 */
    pnx_ns born_at;   /* lock */
    pnx_ns job_since; /* lock: when the running job started */
    pnx_ns job_late;  /* lock: when it counts as overdue */
    uint64_t row;     /* its resource's in the registry, or 0; only who runs a job looks */
    uint32_t index;   /* fixed: for people */
    uint8_t job;      /* lock: enum pnx__pool_job_kind while on the list running */
    uint8_t reason;   /* lock: enum pnx__pool_reason while CLOSING */
    bool overdue; /* lock: the running job is past its deadline, and no longer counted in running[] */
} __attribute__((aligned(64)));

enum pnx__pool_outcome {
    PNX__POOL_WAITING,
    PNX__POOL_GRANTED,
    PNX__POOL_REFUSED, /* the pool was closed */
    PNX__POOL_POKED,   /* still waiting; there is work for it to drive (pools without threads) */
};

/*
 * A caller who waits: on the caller's stack, on the list while WAITING or POKED.  Everything is written under
 * the lock before outcome; the waiter reads the rest once it has seen GRANTED.
 */
struct pnx__pool_waiter {
    struct pnx_link link;
    struct pnx_a32 outcome; /* enum pnx__pool_outcome; the futex word */
    struct pnx_slot *slot;
    uint64_t generation;
};

/* What the caller must do after the lock is released.  At most one waiter is granted by an event, save close. */
#define PNX__POOL_WAKES 32
struct pnx__pool_effects {
    const struct pnx_a32 *wake[PNX__POOL_WAKES]; /* futex words; only their addresses may be used */
    uint32_t wakes;
    bool work;  /* there may be a job that can run: see pnx__pool_core_runnable() */
    bool timer; /* next_timer has come forward */
    bool ended; /* a slot became empty while closing */
};

struct pnx__pool_config { /* fixed at create; times are PNX_NEVER when off */
    pnx_ns connect_timeout;
    pnx_ns check_timeout;
    pnx_ns close_timeout;
    pnx_ns check_after; /* PNX_NEVER also when the manager has no check */
    pnx_ns idle;
    pnx_ns lifetime;
    pnx_ns backoff;
    pnx_ns backoff_max;
    uint32_t min_idle;
    uint32_t max_waiters;
    uint32_t max_connecting;
    uint32_t max_checking;
};

/* Indices of the values of a pool's statistics block. */
enum pnx__pool_stat {
#define PNX_STAT(name, kind, unit, level, help) PNX__POOL_STAT_##name,
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
#include <patinox/stats/pool.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    PNX__POOL_STATS,
};

struct pnx__pool_failure { /* the last connect that failed */
    int32_t code;          /* 0: none so far */
    pnx_ns at;
    char message[120];
};

/*
 * The core.  Everything is guarded by the shell's lock, config excepted (fixed).
 * Conservation: n[EMPTY] + size = capacity;  size = sum of the other n[].
 */
struct pnx__pool_core {
    struct pnx__pool_config config;
    struct pnx_link free;     /* EMPTY */
    struct pnx_link idle;     /* IDLE, most recently used first */
    struct pnx_link running;  /* CONNECTING, CHECKING, and CLOSING being closed */
    struct pnx_link to_close; /* CLOSING that wait for a thread */
    struct pnx_link waiters;  /* in order of arrival */

    uint32_t n[PNX__POOL_STATES];
    uint32_t size;
    uint32_t capacity; /* slots added so far */
    uint32_t max;
    uint32_t ceiling;
    uint32_t waiting;
    uint32_t running_n[PNX__POOL_JOB_KINDS]; /* jobs that run and are not overdue */

    bool closing;
    bool want_one; /* a try found nothing: make one ready */
    uint32_t
            check_failures; /* in a row: from two on, waiters get new connects rather than more checks */
    uint32_t failures;      /* connects in a row that failed or are overdue */
    uint32_t window; /* connects allowed at once: 1 after a failure, one more with each success */
    pnx_ns retry_at; /* no connect before this; 0: no pause */
    struct pnx__pool_failure failure;
    pnx_ns starved_at; /* the last time that an acquire ran into its deadline or was rejected; 0: never */

    pnx_ns now;        /* latest time seen */
    pnx_ns next_timer; /* when tick is due; PNX_NEVER: not */
    uint64_t random;   /* state of SplitMix64: jitter */
    struct pnx_a64
            stats[PNX__POOL_STATS]; /* written under the lock by pnx_owner_add, save where noted */
};

void pnx__pool_core_init(struct pnx__pool_core *core, const struct pnx__pool_config *config,
        uint32_t max, uint64_t seed, pnx_ns now);
/* Adds zeroed slots; indices continue.  The memory must outlive the core. */
void pnx__pool_core_add_slots(
        struct pnx__pool_core *core, struct pnx_pool *pool, struct pnx_slot *slots, uint32_t n);

/* ---- events ---- */

/* Takes an idle resource that needs no check, if nobody waits: 0 and *ret_generation, else NULL. */
struct pnx_slot *pnx__pool_core_take(struct pnx__pool_core *core, pnx_ns now,
        struct pnx__pool_effects *effects, uint64_t *ret_generation);
/* After a take in vain: joins the queue.  -ESHUTDOWN, -EBUSY (max_waiters). */
int pnx__pool_core_enqueue(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx__pool_effects *effects);
/* After a take in vain by a caller that does not wait: asks for one to be made ready. */
void pnx__pool_core_wish(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* The waiter gives up: true; false when its outcome came first. */
bool pnx__pool_core_cancel(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx__pool_effects *effects);
/* Spends a lease without the lock: false when it is stale.  Whoever gets true calls returned(). */
bool pnx__pool_slot_spend(struct pnx_slot *slot, uint64_t generation);
/* A spent lease's resource is home; keep is false when it must be closed, because of reason. */
void pnx__pool_core_returned(struct pnx__pool_core *core, struct pnx_slot *slot, bool keep,
        enum pnx__pool_reason reason, pnx_ns now, struct pnx__pool_effects *effects);
/* Starts the next job that may run: returns its slot, which now carries it, or NULL.  Only closes if asked. */
struct pnx_slot *pnx__pool_core_next_job(struct pnx__pool_core *core, bool only_close, pnx_ns now,
        struct pnx__pool_effects *effects);
/* How a job ended. */
void pnx__pool_core_connected(struct pnx__pool_core *core, struct pnx_slot *slot, void *resource,
        pnx_ns now, struct pnx__pool_effects *effects);
void pnx__pool_core_connect_failed(struct pnx__pool_core *core, struct pnx_slot *slot, int code,
        const char *message, pnx_ns now, struct pnx__pool_effects *effects);
void pnx__pool_core_checked(struct pnx__pool_core *core, struct pnx_slot *slot, bool fit,
        pnx_ns now, struct pnx__pool_effects *effects);
void pnx__pool_core_closed(struct pnx__pool_core *core, struct pnx_slot *slot, pnx_ns now,
        struct pnx__pool_effects *effects);
/* Moves the timers; sets next_timer. */
void pnx__pool_core_tick(
        struct pnx__pool_core *core, pnx_ns now, struct pnx__pool_effects *effects);
/* Closes up to n idle resources, the longest unused first; returns how many. */
uint32_t pnx__pool_core_evict(
        struct pnx__pool_core *core, uint32_t n, struct pnx__pool_effects *effects);
/* Needs capacity >= max. */
void pnx__pool_core_resize(
        struct pnx__pool_core *core, uint32_t max, struct pnx__pool_effects *effects);
/* Begins the end; then refuse() until it returns false. */
void pnx__pool_core_close(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* Refuses as many waiters as effects have room for; true when there are more. */
bool pnx__pool_core_refuse(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* Tells the first waiter that there is a job for it to run. */
void pnx__pool_core_poke(struct pnx__pool_core *core, struct pnx__pool_effects *effects);

/* ---- questions ---- */

/* Whether a job other than a close (or any) could start now. */
bool pnx__pool_core_runnable(const struct pnx__pool_core *core, bool only_close, pnx_ns now);
/* What a waiter is waiting for: "wait", "connect" or "check". */
const char *pnx__pool_core_phase(const struct pnx__pool_core *core);
enum pnx_health_status pnx__pool_core_health(
        const struct pnx__pool_core *core, const char **ret_reason);
/* Checks C1..C5 by walking everything; NULL, or which one does not hold. */
const char *pnx__pool_core_check(const struct pnx__pool_core *core);
/* Checks C6 after a tick at now. */
const char *pnx__pool_core_check_alive(const struct pnx__pool_core *core, pnx_ns now);

/* ---- shared by the core's files ---- */

static inline enum pnx__pool_state pnx__pool_slot_state(const struct pnx_slot *slot) {
    /* alone: for holders of the lock; pairs with nothing */
    return (enum pnx__pool_state)(
            pnx_load(&slot->word, PNX_RELAXED, "pool_core.state") & PNX__POOL_STATE_MASK);
}
/* The one function that changes a slot's state and what depends on it. */
void pnx__pool_slot_to(struct pnx__pool_core *core, struct pnx_slot *slot, enum pnx__pool_state to);
void pnx__pool_begin_close(struct pnx__pool_core *core, struct pnx_slot *slot,
        enum pnx__pool_reason reason, struct pnx__pool_effects *effects);
void pnx__pool_connect_failure(struct pnx__pool_core *core, int code, const char *message,
        struct pnx__pool_effects *effects);
/* Sets next_timer to at if that is sooner. */
void pnx__pool_timer(struct pnx__pool_core *core, pnx_ns at, struct pnx__pool_effects *effects);

static inline void pnx__pool_count(struct pnx__pool_core *core, enum pnx__pool_stat stat) {
    pnx_owner_add(&core->stats[stat], 1);
}
static inline pnx_ns pnx__pool_see(struct pnx__pool_core *core, pnx_ns now) {
    if (now > core->now)
        core->now = now;
    return core->now;
}

/* An overdue operation is one that runs this long past its deadline. */
#define PNX__POOL_GRACE       (100 * PNX_MS)
/* Idle resources are looked at this many times in idle_ns. */
#define PNX__POOL_REAPS       8
/* A pool in which an acquire timed out is called degraded for so long. */
#define PNX__POOL_STARVED_FOR (10 * PNX_SEC)

#endif
