/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core.h - the pool as a pure state machine: (state, event, now) -> effects.
 *
 * No function here blocks, allocates, reads a clock, starts a thread or calls anybody.  The shell (pool.c and its
 * neighbours) holds the lock around each call; the simulator (tests/pool/test_sim.c) needs none.  Both do what
 * the effects say.
 *
 * Most cycles of acquire and release never come here.  A slot is open when anybody may take its resource, and bring it
 * back, with one compare-and-swap on its word each (pool_lease.c has them); it is locked otherwise, and then only the
 * holder of the shell's lock changes its word, but for the holder of a lease who marks it as spent.
 *
 *   C1  size = connecting + idle + in use + checking + closing <= ceiling, and ceiling = max unless a resize to
 *       less left an excess, which only shrinks.
 *   C2  A slot is on exactly one list, the one of its state; an open one is on the list home, whatever its state.
 *   C3  While somebody waits no slot is open, and (unless the pool is paused or lets callers barge) every idle resource
 *       is one that must be checked before use.
 *   C4  Waiters of one lane are granted from the head of its list; a new waiter joins at its tail, and joins only when,
 *       after all slots have been locked, no usable resource is idle or somebody waits already.
 *   C5  A waiter's outcome changes once from waiting to granted or refused, and it is off the list from then on.
 *   C6  While somebody waits: a resource is out, or a job runs or can run, or next_timer is set, or the pool is paused.
 *   C7  While the breaker is open nobody waits, and no resource is alive.
 *
 * Why an open slot needs no look at the queue: to join, a waiter's caller first locks each open slot by a read-modify-write
 * of its word.  That either finds it idle, and takes it, or finds it in use, and then the compare-and-swap of its return fails and
 * comes here.  All is decided on the one word, whose modifications are in one order for all; no fence is needed,
 * and no wake-up can fall between two words.  Whoever took an open resource did so before the waiter had joined.
 */
#ifndef PNX_SRC_POOL_CORE_H
#define PNX_SRC_POOL_CORE_H

#include "base/atomic.h"
#include "base/list.h"
#include "base/pheap.h"
#include "stats/stats.h"

#include <patinox/pool.h>

struct pnx__pool_result; /* the shell's: pool.h */

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
 * A slot's word: generation << 8 | flags | state.  The generation grows with each grant, so that a lease fits one
 * grant only.  LOCKED: see the top.  RETURNING: the lease is spent, and its releaser is resetting the resource or about
 * to lock.
 */
#define PNX__POOL_STATE_MASK UINT64_C(0x3f)
#define PNX__POOL_LOCKED     UINT64_C(0x40)
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
    PNX__POOL_BECAUSE_STALE,
    PNX__POOL_BECAUSE_EVICTED,
    PNX__POOL_BECAUSE_HOOK,
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

enum pnx__pool_slot_flag {
    PNX__POOL_OVERDUE = 1, /* its job is past its deadline, and no longer counted in running_n[] */
    PNX__POOL_KEEPALIVE = 2,   /* its check was nobody's wish */
    PNX__POOL_EXAMINED = 4,    /* CHECKING, but for pnx_pool_evict(): not counted in running_n[] */
    PNX__POOL_INTERRUPTED = 8, /* an interrupt runs on its resource: no close may begin */
    /* The manager's start, poll or cancel runs for it: whoever ends it leaves that to them, ... */
    PNX__POOL_OP_BUSY = 16,
    PNX__POOL_OP_ENDED = 32, /* ... and has been here, ... */
    PNX__POOL_OP_AGAIN = 64, /* ... or has asked for another poll */
    PNX__POOL_OP = 128,      /* the job goes on without a thread */
    PNX__POOL_OP_OVER = 256, /* ... and has ended, which is about to be reported */
    PNX__POOL_PEEKED = 512,  /* its check is a peek */
    PNX__POOL_ADOPTED =
            1024, /* CONNECTING, but it was connected by somebody else: not counted in running_n[] */
};

/*
 * One resource's place.  Owned by the core that it was added to, for ever.  word and resource are atomic; see the top
 * for who changes word.  resource changes only while nobody has a lease.  Of the first cache line the cycle of acquire and
 * release reads and writes; what others may read without the lock is atomic.
 */
struct pnx_slot {
    struct pnx_a64 word;
    struct pnx_aptr resource;
    struct pnx_pool *pool; /* fixed */
    struct pnx_a64
            used_at; /* a time at or before its last use ended; ages are never underestimated */
    struct pnx_a64 expires_at; /* end of its lifetime, fixed at birth */
    struct pnx_aptr site;      /* of its last lease */
    struct pnx_a64 tag;        /* the same */
    struct pnx_a64
            owner; /* who wrote down last that it got it, and which lease: see pnx__pool_owner() */

    struct pnx_link link; /* lock: free, home, out, running or to_close */
    pnx_ns born_at;       /* lock */
    pnx_ns idle_since; /* lock: a time at or after its last use ended, once a tick has seen it idle; else 0 */
    pnx_ns job_since; /* lock: when the running job started */
    pnx_ns job_late;  /* lock: when it counts as overdue */
    uint64_t row;     /* its resource's in the registry, or 0; only who runs a job looks */
    uint32_t epoch;   /* lock: the core's when its connect began */
    uint16_t index;   /* fixed: for people */
    uint8_t job;      /* lock: enum pnx__pool_job_kind while on the list running */
    uint8_t reason;   /* lock: enum pnx__pool_reason while CLOSING */

    union {
        pnx_ns hold_since; /* holder: exact start of a sampled lease */
        /* lock, while OP_BUSY, when nobody has a lease: where the end of the operation is left */
        struct pnx__pool_result *op_left;
    };
    uint64_t seen;         /* lock: the generation that the last tick saw */
    struct pnx_pool_op op; /* of the running job, if its manager works without threads */
    uint32_t flags;        /* lock: enum pnx__pool_slot_flag */
    uint32_t warned;       /* lock: the generation, cut, whose holder has been called late */
} __attribute__((aligned(64)));

enum pnx__pool_outcome {
    PNX__POOL_WAITING,
    PNX__POOL_GRANTED,
    PNX__POOL_REFUSED, /* code says why */
    PNX__POOL_POKED, /* still waiting; there is something for it to do: a job to run, or a resource to barge for */
    PNX__POOL_PARKED, /* still waiting, asleep: set by the waiter alone, from WAITING */
};

/* Waiters of one priority; the first lane goes first. */
#define PNX__POOL_LANES 4

/*
 * A caller who waits: on the caller's stack or in a request, on a list while it has no outcome.  Everything is written under
 * the lock before outcome; the waiter reads the rest once it has seen GRANTED or REFUSED.
 */
struct pnx__pool_waiter {
    struct pnx_link
            link; /* of a lane; of effects' done when it is a request that has its outcome */
    struct pnx_a32 outcome; /* enum pnx__pool_outcome; the futex word */
    uint8_t lane;           /* fixed */
    bool is_request;        /* fixed */

    struct pnx_slot *slot;
    uint64_t generation;
    uint64_t seq;   /* in the order of joining */
    uint64_t asked; /* who had joined when its call began: see pnx__pool_note_order() */
    uint64_t
            number; /* where the order is traced: of its last joining, be it back to an old place */
    pnx_ns at;      /* when it joined; ageing and shedding count from here */
    struct pnx_a64 since;       /* the same by the exact clock, 0 until the waiter has read it */
    int32_t code;               /* of a refusal */
    const char *phase;          /* of a refusal */
    struct pnx_heap_node timer; /* of a request */
};

/* What the caller must do after the lock is released. */
#define PNX__POOL_WAKES 32
struct pnx__pool_effects {
    const struct pnx_a32 *wake[PNX__POOL_WAKES]; /* futex words; only their addresses may be used */
    uint32_t wakes;
    bool work;   /* there may be a job that can run: see pnx__pool_core_runnable() */
    bool timer;  /* next_timer has come forward */
    bool ended;  /* a slot became empty, or a lease came home, for which somebody may wait */
    bool more;   /* there is more to do for those who wait: pnx__pool_core_go_on() */
    bool opened; /* the breaker */
    bool closed; /* the breaker */
    bool stale;  /* all resources were declared old */
    bool hungry; /* a group may have to allow more */
    struct pnx_link
            *done; /* requests with an outcome: a list, first to last, ended by NULL in next */
    struct pnx_link *done_last;
};

struct pnx__pool_config { /* fixed at create; times are PNX_NEVER when off */
    pnx_ns connect_timeout;
    pnx_ns check_timeout;
    pnx_ns close_timeout;
    pnx_ns check_after;      /* PNX_NEVER also when the manager has neither check nor peek */
    pnx_ns full_check_after; /* 0: every check is a full one; PNX_NEVER: none is */
    pnx_ns keepalive;
    pnx_ns idle;
    pnx_ns lifetime;
    pnx_ns backoff;
    pnx_ns backoff_max;
    pnx_ns held_too_long;
    pnx_ns ageing;
    pnx_ns barge; /* 0: off */
    pnx_ns codel_target;
    pnx_ns codel_interval;
    pnx_ns grace; /* an operation is overdue that runs so long past its deadline */
    uint32_t min_idle;
    uint32_t max_waiters;
    uint32_t max_connecting;
    uint32_t max_checking;
    uint32_t breaker_failures;
    bool round_robin;
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
 * The core.  Everything is guarded by the shell's lock, config excepted (fixed), and what is said of open slots.
 * Conservation: n[EMPTY] + size = capacity;  size = open + the other n[], which count locked slots only.
 */
struct pnx__pool_core {
    struct pnx__pool_config config;
    struct pnx_link free;     /* EMPTY */
    struct pnx_link home;     /* IDLE, and all that are open, the last returned first */
    struct pnx_link out;      /* IN_USE, and locked */
    struct pnx_link running;  /* CONNECTING, CHECKING, and CLOSING being closed */
    struct pnx_link to_close; /* CLOSING that wait for a thread */
    struct pnx_link waiters[PNX__POOL_LANES]; /* in order of arrival */
    struct pnx_heap timers;                   /* requests that wait, by their deadlines */

    uint32_t n[PNX__POOL_STATES]; /* locked slots */
    uint32_t open;
    uint32_t size;
    uint32_t capacity; /* slots added so far */
    uint32_t max;
    uint32_t quota; /* of max, what a group of pools allows just now */
    bool lending;   /* the group looks for what is idle: no slot is open */
    uint32_t ceiling;
    uint32_t waiting;
    uint32_t blocked;                        /* of these, callers that block */
    uint32_t running_n[PNX__POOL_JOB_KINDS]; /* jobs that run, are not overdue, and not for evict */
    uint32_t warm;                           /* how many shall be alive */
    uint32_t epoch;                          /* grows with each reset */

    bool closing;
    bool paused;
    bool want_one; /* a try found nothing: make one ready */
    bool breaker;  /* open */
    bool keepalive_due;
    uint32_t
            check_failures; /* in a row: from two on, waiters get new connects rather than more checks */
    uint32_t failures;      /* connects in a row that failed or are overdue */
    uint32_t serious;       /* of these, the ones that count for the breaker */
    bool permanent;         /* one of them was PNX_POOL_PERMANENT */
    uint32_t window; /* connects allowed at once: 1 after a failure, one more with each success */
    pnx_ns retry_at; /* no connect before this; 0: no pause */
    struct pnx__pool_failure failure;
    pnx_ns starved_at; /* the last time that an acquire ran into its deadline or was rejected; 0: never */

    uint64_t seq;          /* of the waiter that joined last */
    bool traced;           /* fixed: grants out of turn are counted */
    uint64_t numbers;      /* of joinings, where the order is traced */
    struct pnx_a64 joined; /* the same, written under the lock, read without */
    uint64_t refuse_upto;  /* waiters up to this one are to be refused ... */
    int32_t refuse_code;   /* ... with this */
    const char *refuse_phase;

    bool shedding; /* CoDel's state: Nichols and Jacobson, 2012 */
    uint32_t shed_count;
    pnx_ns shed_above; /* since when plus interval waits are too long; 0: they are not */
    pnx_ns shed_next;

    pnx_ns now;        /* latest time seen */
    pnx_ns next_timer; /* when tick is due; PNX_NEVER: not */
    uint64_t random;   /* state of SplitMix64: jitter */
    pnx_ns recent_wait; /* of callers that block, smoothed, each counted as PNX__POOL_RECENT_MAX at most */
    struct pnx_histogram *wait; /* how long the granted have waited; may be NULL; fixed */
    struct pnx_a64
            stats[PNX__POOL_STATS]; /* written under the lock by pnx_owner_add, save where noted */
};

void pnx__pool_core_init(struct pnx__pool_core *core, const struct pnx__pool_config *config,
        uint32_t max, uint64_t seed, pnx_ns now);
/* Adds zeroed slots; indices continue.  The memory must outlive the core. */
void pnx__pool_core_add_slots(
        struct pnx__pool_core *core, struct pnx_pool *pool, struct pnx_slot *slots, uint32_t n);

/* ---- without the lock ---- */

/* Takes an open slot's resource, if it is idle and fit at now: true, and the generation of the lease. */
static inline bool pnx__pool_slot_claim(
        struct pnx_slot *slot, pnx_ns now, pnx_ns check_after, uint64_t *ret_generation);
/* Brings an open slot's resource back: false when the slot is locked, or the lease is stale or spent. */
static inline bool pnx__pool_slot_bring(struct pnx_slot *slot, uint64_t generation);
/* Spends a lease: false when it is stale.  Whoever gets true calls returned(), detached(), or bring_spent() first. */
bool pnx__pool_slot_spend(struct pnx_slot *slot, uint64_t generation);
/* Brings back what was spent: false when the slot is locked. */
bool pnx__pool_slot_bring_spent(struct pnx_slot *slot, uint64_t generation);

/*
 * In a forked child, whose copy of the core nobody drives any more, at its end: true, once, for a slot whose resource is the
 * caller's to abandon then, and cannot be had any more: one that is idle, was being checked, or is on a lease that is not this
 * thread's.  The thread's own leases are abandoned as it releases them.  What was just being connected, reset or closed is
 * left as it is, since nobody can tell how much of it is there, or who has it.
 */
bool pnx__pool_slot_forsake(struct pnx_slot *slot, uint64_t thread);

/* ---- the order, where it is traced ---- */

/* Read when a call begins: whoever has this number or a lower one was waiting by then. */
static inline uint64_t pnx__pool_asked(const struct pnx__pool_core *core);
/* A caller that asked then has been granted a lease: counts an inversion if it was the turn of somebody in its lane. */
void pnx__pool_note_order(struct pnx__pool_core *core, uint8_t lane, uint64_t asked);

/* ---- events ---- */

/* Takes an idle resource that needs no check, if nobody waits: its slot and *ret_generation, else NULL. */
struct pnx_slot *pnx__pool_core_take(struct pnx__pool_core *core, pnx_ns now,
        struct pnx__pool_effects *effects, uint64_t *ret_generation);
/* After a take in vain: 0, or why no waiter may join: -ESHUTDOWN, PNX_E_BREAKER (which asks for a probe). */
int pnx__pool_core_admit(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* After that: locks all slots; takes what is idle after all (then as take does), or has the waiter join the queue, in its
 * lane, before all who asked after it if it was granted before: then NULL and *ret_code is 0, or -EBUSY (max_waiters). */
struct pnx_slot *pnx__pool_core_join(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        bool first, struct pnx__pool_effects *effects, uint64_t *ret_generation, int *ret_code);
/* After a take in vain by a caller that does not wait: asks for one to be made ready. */
void pnx__pool_core_wish(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* A poked waiter of a pool that lets callers barge: grants it what is idle, if there still is something. */
void pnx__pool_core_retake(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter, pnx_ns now,
        struct pnx__pool_effects *effects);
/* The waiter gives up: true; false when its outcome came first. */
bool pnx__pool_core_cancel(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx__pool_effects *effects);
/* A spent lease's resource is home; keep is false when it must be closed, because of reason. */
void pnx__pool_core_returned(struct pnx__pool_core *core, struct pnx_slot *slot, bool keep,
        enum pnx__pool_reason reason, pnx_ns now, struct pnx__pool_effects *effects);
/* A spent lease's resource is not the pool's any more. */
void pnx__pool_core_detached(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects);
/* Starts the next job that may run: returns its slot, which now carries it, or NULL.  Only closes if asked. */
struct pnx_slot *pnx__pool_core_next_job(struct pnx__pool_core *core, bool only_close, pnx_ns now,
        struct pnx__pool_effects *effects);
/* The same for a check that is but a peek, for somebody who waits. */
struct pnx_slot *pnx__pool_core_next_peek(
        struct pnx__pool_core *core, pnx_ns now, struct pnx__pool_effects *effects);
/* A slot for a resource from outside, as if its connect ran: NULL and *ret_code when there is no room (-EBUSY), or
 * the pool is closed (-ESHUTDOWN). */
struct pnx_slot *pnx__pool_core_adopt(struct pnx__pool_core *core, pnx_ns now, int *ret_code);
/* ... which then could not be had after all. */
void pnx__pool_core_adopt_failed(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects);
/* How a job ended. */
void pnx__pool_core_connected(struct pnx__pool_core *core, struct pnx_slot *slot, void *resource,
        pnx_ns now, struct pnx__pool_effects *effects);
void pnx__pool_core_connect_failed(struct pnx__pool_core *core, struct pnx_slot *slot, int code,
        const char *message, enum pnx_pool_verdict verdict, pnx_ns now,
        struct pnx__pool_effects *effects);
/* It succeeded, but the resource is not wanted: it is closed, and the connect has failed. */
void pnx__pool_core_connect_refused(struct pnx__pool_core *core, struct pnx_slot *slot,
        void *resource, int code, const char *message, enum pnx_pool_verdict verdict, pnx_ns now,
        struct pnx__pool_effects *effects);
void pnx__pool_core_checked(struct pnx__pool_core *core, struct pnx_slot *slot, bool fit,
        pnx_ns now, struct pnx__pool_effects *effects);
void pnx__pool_core_closed(struct pnx__pool_core *core, struct pnx_slot *slot, pnx_ns now,
        struct pnx__pool_effects *effects);
/* Moves the timers; sets next_timer.  Requests whose deadline has passed are refused. */
void pnx__pool_core_tick(
        struct pnx__pool_core *core, pnx_ns now, struct pnx__pool_effects *effects);
/* Closes up to n idle resources, the longest unused first; returns how many. */
uint32_t pnx__pool_core_evict(
        struct pnx__pool_core *core, uint32_t n, struct pnx__pool_effects *effects);
/* Takes an idle resource aside for pnx_pool_evict(): true; then examined() ends it, with its verdict. */
bool pnx__pool_core_examine(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects);
void pnx__pool_core_examined(struct pnx__pool_core *core, struct pnx_slot *slot, bool keep,
        struct pnx__pool_effects *effects);
/* Needs capacity >= max. */
void pnx__pool_core_resize(
        struct pnx__pool_core *core, uint32_t max, struct pnx__pool_effects *effects);
void pnx__pool_core_set_quota(
        struct pnx__pool_core *core, uint32_t quota, struct pnx__pool_effects *effects);
/* Begins, or ends, to bring every return here: see lending. */
void pnx__pool_core_lend(struct pnx__pool_core *core, bool lending);
void pnx__pool_core_warm(
        struct pnx__pool_core *core, uint32_t n, struct pnx__pool_effects *effects);
/* flags: enum pnx_pool_reset_flags; interrupts are the shell's. */
void pnx__pool_core_reset(
        struct pnx__pool_core *core, uint32_t flags, struct pnx__pool_effects *effects);
void pnx__pool_core_pause(struct pnx__pool_core *core);
void pnx__pool_core_resume(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* Begins the end; waiters are refused. */
void pnx__pool_core_close(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* Refuses those that are to be refused, and grants what is idle, as far as effects have room; else sets effects->more. */
void pnx__pool_core_go_on(struct pnx__pool_core *core, struct pnx__pool_effects *effects);
/* Tells the first waiter that there is something for it to do. */
void pnx__pool_core_poke(struct pnx__pool_core *core, struct pnx__pool_effects *effects);

/* ---- questions ---- */

/* Whether a job other than a close (or any) could start now. */
bool pnx__pool_core_runnable(const struct pnx__pool_core *core, bool only_close, pnx_ns now);
/* Whether a connect is wanted that only the group's quota forbids. */
bool pnx__pool_core_hungry(const struct pnx__pool_core *core, pnx_ns now);
/* How much of its quota nobody needs just now. */
uint32_t pnx__pool_core_unused(const struct pnx__pool_core *core);
/* How many slots are in each state, the open ones as they are at some moment during the call. */
void pnx__pool_core_count(const struct pnx__pool_core *core, uint32_t ret_n[PNX__POOL_STATES]);
/* Connected, and not being closed. */
static inline uint32_t pnx__pool_core_alive(const struct pnx__pool_core *core) {
    return core->size - core->n[PNX__POOL_CONNECTING] - core->n[PNX__POOL_CLOSING];
}
/* What a waiter is waiting for: "wait", "connect", "check", "paused", "group". */
const char *pnx__pool_core_phase(const struct pnx__pool_core *core);
enum pnx_health_status pnx__pool_core_health(
        const struct pnx__pool_core *core, const char **ret_reason);
/* Checks C1..C5 and C7 by walking everything; NULL, or which one does not hold. */
const char *pnx__pool_core_check(const struct pnx__pool_core *core);
/* Checks C6 after a tick at now. */
const char *pnx__pool_core_check_alive(const struct pnx__pool_core *core, pnx_ns now);

/* ---- shared by the core's files ---- */

static inline enum pnx__pool_state pnx__pool_slot_state(const struct pnx_slot *slot) {
    /* alone: for holders of the lock and locked slots */
    return (enum pnx__pool_state)(
            pnx_load(&slot->word, PNX_RELAXED, "pool_core.state") & PNX__POOL_STATE_MASK);
}
static inline bool pnx__pool_slot_is_open(const struct pnx_slot *slot) {
    /* the same: whether it is locked changes under the lock only */
    uint64_t word = pnx_load(&slot->word, PNX_RELAXED, "pool_core.is_open");
    uint64_t state = word & PNX__POOL_STATE_MASK;
    return !(word & PNX__POOL_LOCKED) && (state == PNX__POOL_IDLE || state == PNX__POOL_IN_USE);
}
static inline pnx_ns pnx__pool_used_at(const struct pnx_slot *slot) {
    /* by itself: who decides by it claims the slot by its word, and fails if somebody had it meanwhile */
    return (pnx_ns)pnx_load(&slot->used_at, PNX_RELAXED, "pool_core.used_at");
}
static inline pnx_ns pnx__pool_expires_at(const struct pnx_slot *slot) {
    return (pnx_ns)pnx_load(&slot->expires_at, PNX_RELAXED, "pool_core.expires_at"); /* the same */
}
/* When an idle slot's keep-alive check is due. */
pnx_ns pnx__pool_keepalive_at(const struct pnx__pool_core *core, const struct pnx_slot *slot);
/* When a tick is to look next at what is idle, and at who holds what. */
pnx_ns pnx__pool_look_at(const struct pnx__pool_core *core);
/* Locks an open slot: from then on n[] counts it.  Returns its state. */
enum pnx__pool_state pnx__pool_capture(struct pnx__pool_core *core, struct pnx_slot *slot);
/* Opens what may be open again. */
void pnx__pool_reopen(struct pnx__pool_core *core);
/* Locks what is to be kept idle for min_idle, now that there is room for more; true when it looked at all. */
bool pnx__pool_reserve(struct pnx__pool_core *core);
/* A resource is ready: to the first waiter, else to the idle ones, else to be closed. */
void pnx__pool_supply(struct pnx__pool_core *core, struct pnx_slot *slot, bool keepalive,
        struct pnx__pool_effects *effects);
/* Grants it to the first waiter: false when there is none, or it may not have it yet. */
bool pnx__pool_offer(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects);
struct pnx__pool_waiter *pnx__pool_first_waiter(const struct pnx__pool_core *core);
/* Ends a waiter that has lost its place. */
void pnx__pool_refuse_one(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter, int code,
        const char *phase, struct pnx__pool_effects *effects);
/* All that wait now are to be refused. */
void pnx__pool_refuse_all(struct pnx__pool_core *core, int code, const char *phase,
        struct pnx__pool_effects *effects);
/* The one function that changes a locked slot's state and what depends on it. */
void pnx__pool_slot_to(struct pnx__pool_core *core, struct pnx_slot *slot, enum pnx__pool_state to);
void pnx__pool_begin_close(struct pnx__pool_core *core, struct pnx_slot *slot,
        enum pnx__pool_reason reason, struct pnx__pool_effects *effects);
void pnx__pool_to_empty(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects);
void pnx__pool_connect_failure(struct pnx__pool_core *core, int code, const char *message,
        enum pnx_pool_verdict verdict, struct pnx__pool_effects *effects);
/* Sets next_timer to at if that is sooner. */
void pnx__pool_timer(struct pnx__pool_core *core, pnx_ns at, struct pnx__pool_effects *effects);
void pnx__pool_set_gauge(struct pnx__pool_core *core, enum pnx__pool_stat stat, uint32_t value);

static inline void pnx__pool_count(struct pnx__pool_core *core, enum pnx__pool_stat stat) {
    pnx_owner_add(&core->stats[stat], 1);
}
static inline pnx_ns pnx__pool_see(struct pnx__pool_core *core, pnx_ns now) {
    if (now > core->now)
        core->now = now;
    return core->now;
}

/* Who is alone in the queue spins for at most so long; and what a wait counts for at most when that is decided. */
#define PNX__POOL_SPIN_MAX    (50 * PNX_US)
#define PNX__POOL_RECENT_MAX  (200 * PNX_US)
/* One lease in so many of a slot has its hold time measured, its first one among them: see pnx__pool_is_sample(). */
#define PNX__POOL_SAMPLE      256
/* An overdue operation is one that runs this long past its deadline. */
#define PNX__POOL_GRACE       (100 * PNX_MS)
/* Idle resources are looked at this many times in idle_ns. */
#define PNX__POOL_REAPS       8
/* A pool in which an acquire timed out is called degraded for so long. */
#define PNX__POOL_STARVED_FOR (10 * PNX_SEC)

/*
 * The short way.  A claim reads the word, and with the same generation whether the resource is fit; then its
 * compare-and-swap succeeds only if nobody has had the slot since, nor locked it.  A claim acquires what the last
 * holder released, here or through the lock.
 */
static inline bool pnx__pool_slot_claim(
        struct pnx_slot *slot, pnx_ns now, pnx_ns check_after, uint64_t *ret_generation) {
    /* pairs with pool_core.bring and pool_core.to */
    uint64_t word = pnx_load(&slot->word, PNX_ACQUIRE, "pool_core.claim_look");
    if ((word & (PNX__POOL_GENERATION - 1)) != PNX__POOL_IDLE)
        return false;
    if (now - pnx__pool_used_at(slot) >= check_after || now >= pnx__pool_expires_at(slot))
        return false;
    uint64_t mine = (word & ~(PNX__POOL_GENERATION - 1)) + PNX__POOL_GENERATION;
    /* pairs with pool_core.bring and pool_core.to */
    if (!pnx_cas(&slot->word, &word, mine | PNX__POOL_IN_USE, PNX_ACQUIRE, "pool_core.claim"))
        return false;
    *ret_generation = mine / PNX__POOL_GENERATION;
    return true;
}

static inline uint64_t pnx__pool_asked(const struct pnx__pool_core *core) {
    /* pairs with pool_core.joined: nothing that this caller does comes before what it has seen */
    return core->traced ? pnx_load(&core->joined, PNX_ACQUIRE, "pool_core.asked") : 0;
}

/* A thread's number, and the low bits of the generation that it was granted: who was granted one but has not run since is
 * not taken for the one before. */
static inline uint64_t pnx__pool_owner(uint64_t thread, uint64_t generation) {
    return thread << 24 | (generation & 0xffffff);
}

static inline bool pnx__pool_is_sample(uint64_t generation) {
    return generation % PNX__POOL_SAMPLE == 1;
}

static inline bool pnx__pool_slot_bring(struct pnx_slot *slot, uint64_t generation) {
    uint64_t held = generation * PNX__POOL_GENERATION | PNX__POOL_IN_USE;
    /* pairs with pool_core.claim, pool_core.claim_look and pool_core.capture */
    return pnx_cas(&slot->word, &held, generation * PNX__POOL_GENERATION | PNX__POOL_IDLE,
            PNX_RELEASE, "pool_core.bring");
}

#endif
