/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/ledger.h - the registry's structures, for src/registry and src/resource only.
 *
 * Rows live in shards: a thread adds to the one that it used last, goes to another when that is full or in use, and
 * adds memory only when all are.  Free slots wait in a first-in
 * first-out queue, and unused slots are preferred while that queue is short, so that a row stays recognisable
 * for a while after its removal (the site of the first release).
 *
 *   id    generation (36 bits) | slot (20) | shard (4) | 0 (4)
 *   word  the id of the slot's present row, with the state in the low 4 bits; 0 before its first row
 *
 * A slot's state, and who moves it.  Each move is made in move_locked() of rows.c, under the shard's lock.
 *
 *      +--> FREE --add--> LIVE --claim--> RUNNING --end--> DONE or FAILED ---+--add (next generation)--> LIVE
 *      |                   | ^               |  ^ |                          |
 *      |                   | +---again-------+  | +--pend--> PENDING --end---+
 *      |                   | +------------------|---again------+  |
 *      |                   |                 +--+--abandon--------+--> ABANDONED --end--> LATE (never reused)
 *      |                   +-------forgotten in a forked child---------------+--> LATE
 *      +-----remove--------+                                                 |
 *      +---------------------------owner's remove, which returns -EALREADY---+
 *
 * FREE, DONE and FAILED slots are in their shard's queue.  A shutdown closes the registry first; from then on no
 * slot is queued, none is reused, and what a row says may be read without a lock.
 *
 * A row is one cache line.  What few rows have stands beside it: each chunk of rows has arrays of the same length
 * for labels and for traces, which are made when the first row of the chunk needs one.
 */
#ifndef PNX_SRC_REGISTRY_LEDGER_H
#define PNX_SRC_REGISTRY_LEDGER_H

#include "base/atomic.h"
#include "base/list.h"
#include "os/lock.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "stats/stats.h"

#include <patinox/registry.h>
#include <patinox/trace.h>

#include <assert.h>

#define PNX_GROUP     registry
#define PNX_GROUP_DEF <patinox/stats/registry.def>
#include "stats/declare_group.inc"

#define PNX_ROW_NAME_MAX     48 /* as in struct pnx_resource_info */
#define PNX_STATE_BITS       4
#define PNX_SHARD_BITS       4
#define PNX_SLOT_BITS        20
#define PNX_GENERATION_BITS  36
#define PNX_GENERATION_SHIFT (64 - PNX_GENERATION_BITS)
#define PNX_SHARDS           PNX_THREAD_SHARDS
#define PNX_QUARANTINE       16 /* free slots of a shard that wait before unused ones are spared */

/*
 * Chunks of a shard: 16 rows, and as many again with each further one up to 4096; then an eighth of what there is,
 * rounded down to a power of two.
 */
#define PNX_CHUNK_FIRST_LOG2 4
#define PNX_CHUNK_EVEN_LOG2  12
#define PNX_CHUNKS_DOUBLING  (PNX_CHUNK_EVEN_LOG2 - PNX_CHUNK_FIRST_LOG2 + 1)
#define PNX_CHUNKS           (PNX_CHUNKS_DOUBLING + 8 * (PNX_SLOT_BITS - PNX_CHUNK_EVEN_LOG2))

enum pnx_row_state {
    PNX_ROW_FREE = 0,
    PNX_ROW_LIVE,
    PNX_ROW_RUNNING,
    PNX_ROW_PENDING,
    PNX_ROW_DONE,
    PNX_ROW_FAILED,
    PNX_ROW_ABANDONED,
    PNX_ROW_LATE,
};

/* A running cleanup's hands, while its row is RUNNING, PENDING or ABANDONED. */
enum pnx_row_hand {
    PNX_HAND_RUNNER = 0, /* a thread runs it */
    PNX_HAND_PENDED,     /* a thread runs it, and it has said that it may end later */
    PNX_HAND_REQUEST,    /* it ends later, and request->pended is told */
    PNX_HAND_NOBODY, /* it ends later, and nobody is told: cleanup and arg are back in the row */
};

/*
 * What a shutdown has noted about a member.  The first two are for now, until the shutdown is over; then AGAIN
 * means that the row has failed with -EAGAIN, and the code in the row is not looked at.
 */
enum pnx_row_outcome {
    PNX_OUTCOME_NONE = 0,
    PNX_OUTCOME_AGAIN,  /* its last try returned -EAGAIN */
    PNX_OUTCOME_PASSED, /* it has no cleanup, and had its turn */
    PNX_OUTCOME_DONE = PNX_RESOURCE_DONE,
    PNX_OUTCOME_FAILED = PNX_RESOURCE_FAILED,
    PNX_OUTCOME_ABANDONED = PNX_RESOURCE_ABANDONED,
    PNX_OUTCOME_LEAKED = PNX_RESOURCE_LEAKED,
    PNX_OUTCOME_SUPPRESSED = PNX_RESOURCE_SUPPRESSED,
};
static_assert(PNX_RESOURCE_DONE > 2 && PNX_RESOURCE_SUPPRESSED < 8, "an outcome is three bits");

/* The bits of row->order: flags, and above them the serial number, the order of adding. */
#define PNX_ROW_FLAG(flag)     ((uint64_t)(flag)) /* PNX_RESOURCE_*, 4 bits */
#define PNX_ROW_FORCEABLE      PNX_ROW_FLAG(PNX_RESOURCE_FORCEABLE)
#define PNX_ROW_OWNED          PNX_ROW_FLAG(PNX_RESOURCE_OWNED)
#define PNX_ROW_KEEP           PNX_ROW_FLAG(PNX_RESOURCE_KEEP_AFTER_FORK)
#define PNX_ROW_LONG_LIVED     PNX_ROW_FLAG(PNX_RESOURCE_LONG_LIVED)
#define PNX_ROW_MEMBER         (UINT64_C(1) << 4)  /* it was there when the shutdown began */
#define PNX_ROW_ASKED          (UINT64_C(1) << 5)  /* somebody has asked for its end */
#define PNX_ROW_PRIORITY_SHIFT 6                   /* enum pnx_priority as given, 3 bits */
#define PNX_ROW_OUTCOME_SHIFT  9                   /* enum pnx_row_outcome, 3 bits */
#define PNX_ROW_HAND_SHIFT     12                  /* enum pnx_row_hand, 2 bits */
#define PNX_ROW_PARENT         (UINT64_C(1) << 14) /* it has, or had, children: see family.c */
#define PNX_ROW_CHILD          (UINT64_C(1) << 15) /* it has a parent, which must not end before it */
#define PNX_ROW_SERIAL_SHIFT   16

/* The bits of row->stamp: when it was added (in units of 1024 ns since the registry was made), pends, fork. */
#define PNX_STAMP_ADDED_BITS 48
#define PNX_STAMP_PEND_SHIFT \
    48 /* 4 bits: counts pnx_cancel_pend(), so that stale completions are refused */
#define PNX_STAMP_FORK_SHIFT 52 /* 12 bits: generation of the process that added it */
#define PNX_STAMP_UNIT_LOG2  10
#define PNX_STAMP_ADDED_MASK ((UINT64_C(1) << PNX_STAMP_ADDED_BITS) - 1)

/*
 * What a cleanup has been asked; bits of one word, so that a cleanup that has seen itself asked by a caller who gives
 * its resource up cannot end before the registry sees that, too.
 */
enum {
    PNX_ASKED_TO_END = 1 << 0,
    PNX_ASKED_TO_GIVE_UP =
            1 << 1, /* request->last does not hold any more: -EAGAIN leaves the row live */
};

struct pnx_cancel {
    struct pnx_a64 deadline; /* pnx_ns */
    const struct pnx_env
            *env; /* whose clock the deadline is on, unless that is PNX_NEVER; NULL: the system's */
    struct pnx_a32 requested; /* PNX_ASKED_TO_*; 0: nothing */
    /* pnx_cancel_pend(); NULL: nobody can wait.  Set before the cleanup is called. */
    int (*pend)(const struct pnx_cancel *cancel, struct pnx_completion *ret_completion);
};

/*
 * One run of a row's cleanup: the caller's, for as long as the run lasts (until pended has been called when
 * it is pending).  Its first group is the caller's, who sets all of it; all else is the registry's.
 */
struct pnx_row_request {
    struct pnx_cancel cancel; /* deadline: PNX_NEVER or a time */
    bool last;     /* a cleanup that returns -EAGAIN has failed, unless PNX_ASKED_TO_GIVE_UP */
    bool quiet;    /* a shutdown runs it, and need not be woken */
    bool in_order; /* who runs it knows that its children have ended */
    void (*pended)(void *ctx, int code); /* see pnx__registry_run(); NULL: nobody needs to know */
    void *ctx;
    /* Guarded by the shard's lock until the run is over, then the caller's. */
    bool ended;     /* the row is gone: what tells the two kinds of -EAGAIN apart */
    bool completed; /* before the cleanup has returned */
    int32_t code;   /* then */
    /* Fixed while the row is RUNNING. */
    struct pnx_registry *registry;
    struct pnx_row *row;
    pnx_resource_id id;
    pnx_cleanup_fn *cleanup;
    void *arg;
    struct pnx_thread *thread;
    struct pnx_row_request *outer; /* next on the thread's stack; only the thread looks */
};

/* Guarded by the shard's lock; what stays the same while a row is there may be read by whoever has claimed it. */
struct pnx_row {
    struct pnx_a64 word;
    union {
        pnx_cleanup_fn *cleanup;         /* LIVE; else while hand is NOBODY */
        struct pnx_row_request *request; /* RUNNING, PENDING, ABANDONED */
        const char *released_at; /* FREE, DONE, FAILED, LATE: site of the removal; NULL: none yet */
    };
    union {
        void *arg;     /* with cleanup */
        intptr_t code; /* with released_at: of the last cleanup, 0 when there was none */
    };
    const char *type;
    const char *site;
    union {
        uint64_t bytes; /* while the row is there; in a registry that is shut down, for ever */
        struct pnx_row *next_free; /* in the queue; NULL: last */
    };
    uint64_t order;
    uint64_t stamp;
};
static_assert(sizeof(struct pnx_row) == 64, "a row is a cache line");
static_assert(
        PNX_SHARDS == 1 << PNX_SHARD_BITS, "a shard's number fits into an id, and all are used");

/* What stands beside some rows.  An entry belongs to the row whose id it bears, to none else. */
enum pnx_side { PNX_SIDE_LABEL, PNX_SIDE_TRACE, PNX_SIDES };

/* Made for rows that have any of these, and for parents; fixed while the row is there, but for family. */
struct pnx_row_label {
    pnx_resource_id id;
    pnx_resource_id parent;
    uint64_t owner;
    uint64_t tag;
    pnx_cleanup_fn *in_child;
    char name[PNX_ROW_NAME_MAX];
    struct pnx_a64 family; /* family.c: how many children it has, and whose number that is */
};

struct pnx_row_touch {
    const char *note;
    const char *site;
    pnx_ns when;
    uint64_t thread;
};
/* Guarded by the shard's lock. */
struct pnx_row_trace {
    pnx_resource_id id;
    uint32_t stack; /* of its adding: a number in the depot; 0: none */
    uint64_t
            n_touches; /* all that there were; the last ones are kept, in touches[n % PNX_TOUCHES] */
    struct pnx_row_touch touches[PNX_TOUCHES];
};

/*
 * added = removed + ended + rows that are there (live, running, pending or abandoned).
 */
struct pnx_shard {
    _Alignas(128) struct pnx_lock lock; /* two lines: processors fetch them in pairs */
    /* Guarded by lock. */
    uint32_t allowed; /* rows that may be there: its part of registry->max */
    uint32_t n_chunks;
    uint32_t capacity; /* slots of its chunks */
    uint32_t used;     /* slots that were ever taken */
    uint32_t n_free;
    uint32_t
            rest; /* free slots that are left to rest: PNX_QUARANTINE while there are unused ones, else 0 */
    struct pnx_row *free_first;
    struct pnx_row *free_last;
    uint32_t waiting;    /* threads that wait for the end of one of its cleanups */
    uint32_t block;      /* how many serials its block had; see next_serial_locked() */
    uint64_t serial;     /* the last that it used */
    uint64_t serial_end; /* the last one of its block */
    bool held;           /* it has a reference to the registry: set while it has rows */
    struct pnx_a32 turn; /* a futex: changes with ends while there are waiting threads */
    /* Written by the holder of the lock, read by anybody: pnx_owner_add(). */
    struct pnx_a64 added;
    struct pnx_a64 removed; /* by owners */
    struct pnx_a64 ended;   /* by the registry */
    struct pnx_a64 failed;  /* of these, with an error */
    /* Each is set once, under the lock, and read without. */
    struct pnx_aptr chunk[PNX_CHUNKS];
    struct pnx_aptr side[PNX_SIDES][PNX_CHUNKS];
};

/*
 * Owned by its holders.  It is freed when it has neither holders nor rows: each shard that has rows has a
 * reference, which it keeps while there are holders, so that rows come and go without touching refs.
 *   refs = closed << 63 | holders << 32 | shards that hold it; closed: a shutdown has begun, no more rows
 *   room + the sum of allowed over all shards = max
 */
struct pnx_registry {
    /* Fixed. */
    struct pnx_env env;
    char *name;
    pnx_ns made;   /* on the coarse clock */
    uint64_t base; /* generations start here, and end before it */
    uint64_t last; /* the one before */
    uint32_t max;
    bool off;              /* pnx_registry_off() */
    struct pnx_a32 level;  /* enum pnx_registry_level, never the default */
    struct pnx_a32 sample; /* at ADVANCED one row in so many gets a backtrace */
    struct pnx_a32 sampled;
    struct pnx_aptr stacks; /* struct pnx_stacks, once there is one; set once */
    struct pnx_mutex
            stacks_lock; /* guards what is in it: here, so that a fork finds it, made or not */
    struct pnx_aptr suppressions; /* struct pnx_suppression, newest first; only added to */
    struct pnx_a64 refs;
    struct pnx_a32 room;                 /* rows that no shard has been allowed yet */
    struct pnx_aptr first;               /* the first chunks of all shards; set once */
    _Alignas(128) struct pnx_a64 serial; /* the last one that a shard has got */
    struct pnx_stats_block block;        /* next to it, as is the link: hardly ever written */
    struct pnx_link link;                /* in the list of all, whose lock guards it */
    struct pnx_shard shard[PNX_SHARDS];
    struct pnx_shutdown_state *shutdown; /* stands behind the registry: registry/shutdown_state.h */
    struct pnx_a32 disowned; /* counts rows whose owners have left them to the registry */
    struct pnx_a32 changed;  /* counts, once closed, what may let the shutdown go on; a futex */
    struct pnx_registry_values values;
};

#define PNX_REGISTRY_HOLDER (UINT64_C(1) << 32)
#define PNX_REGISTRY_CLOSED (UINT64_C(1) << 63)

/* The default registry, once it is there. */
extern struct pnx_aptr pnx__registry_default;

/* Counts one up in a number of registry->values. */
void pnx__registry_count_up(struct pnx_a64 *stat);

/* Returns the default registry for NULL. */
static inline struct pnx_registry *pnx__registry_resolve(struct pnx_registry *registry) {
    if (registry)
        return registry;
    registry = pnx_load(&pnx__registry_default, PNX_ACQUIRE,
            "registry.default"); /* pairs with registry.set_default */
    return registry ? registry : pnx_registry_default();
}

/* Takes the reference of a shard, which the caller's own keeps alive meanwhile. */
void pnx__registry_held(struct pnx_registry *registry);
/* Takes a holder's reference; somebody else's keeps the registry alive meanwhile. */
void pnx__registry_hold(struct pnx_registry *registry);
/* Drops one. */
void pnx__registry_unhold(struct pnx_registry *registry);
/* Drops the reference of a shard that has just said that it is not held any more. */
void pnx__registry_unheld(struct pnx_registry *registry);
/*
 * Whether the registry has holders.  A shard keeps its reference when its last row goes, as long as there are holders.
 * So the last holder looks at all shards when it has gone; and what is under a shard's lock either comes before that
 * look, which then finds the shard empty, or after it, and then sees here that nobody holds the registry.
 */
static inline bool pnx__registry_has_holders(const struct pnx_registry *registry) {
    /* Relaxed: under a shard's lock, which orders it. */
    uint64_t refs = pnx_load(&registry->refs, PNX_RELAXED, "registry.holders");
    return (refs & ~PNX_REGISTRY_CLOSED) >= PNX_REGISTRY_HOLDER;
}

/* Whether a shutdown has begun. */
static inline bool pnx__registry_is_closed(const struct pnx_registry *registry) {
    /*
     * No partner: a shutdown sets it before it takes each shard's lock, and here it is read under such a lock or
     * after one.  Either the shutdown sees what was done under the lock, or the flag is seen here.
     */
    return pnx_load(&registry->refs, PNX_RELAXED, "registry.closed") >= PNX_REGISTRY_CLOSED;
}

/* Whether it has holders and is not closed: the end of a row matters to nobody but who waits for it. */
static inline bool pnx__registry_is_open(const struct pnx_registry *registry) {
    /* Relaxed: as above. */
    return pnx_load(&registry->refs, PNX_RELAXED, "registry.open") - PNX_REGISTRY_HOLDER <
           PNX_REGISTRY_CLOSED - PNX_REGISTRY_HOLDER;
}

/* ---- words, ids, rows ---- */

#define PNX_STATE_MASK ((UINT64_C(1) << PNX_STATE_BITS) - 1)

static inline enum pnx_row_state pnx__word_state(uint64_t word) {
    return (enum pnx_row_state)(word & PNX_STATE_MASK);
}

/* The id of the row while its word is word. */
static inline pnx_resource_id pnx__word_id(uint64_t word) {
    return word & ~PNX_STATE_MASK;
}

static inline uint64_t pnx__generation(uint64_t id_or_word) {
    return id_or_word >> PNX_GENERATION_SHIFT;
}

static inline uint32_t pnx__shard_of(uint64_t id_or_word) {
    return (uint32_t)(id_or_word >> PNX_STATE_BITS) & (PNX_SHARDS - 1);
}

static inline uint32_t pnx__slot_of(uint64_t id_or_word) {
    return (uint32_t)(id_or_word >> (PNX_STATE_BITS + PNX_SHARD_BITS)) &
           ((1u << PNX_SLOT_BITS) - 1);
}

static inline pnx_resource_id pnx__id_of(uint64_t generation, uint32_t slot, uint32_t shard) {
    return generation << PNX_GENERATION_SHIFT |
           (uint64_t)slot << (PNX_STATE_BITS + PNX_SHARD_BITS) | shard << PNX_STATE_BITS;
}

static inline bool pnx__word_is_there(uint64_t word) {
    enum pnx_row_state state = pnx__word_state(word);
    return state == PNX_ROW_LIVE || state == PNX_ROW_RUNNING || state == PNX_ROW_PENDING ||
           state == PNX_ROW_ABANDONED;
}

static inline uint64_t pnx__row_serial(const struct pnx_row *row) {
    return row->order >> PNX_ROW_SERIAL_SHIFT;
}

static inline enum pnx_row_hand pnx__row_hand(const struct pnx_row *row) {
    return (enum pnx_row_hand)(row->order >> PNX_ROW_HAND_SHIFT & 3);
}

/* Never the default. */
static inline enum pnx_priority pnx__row_priority(const struct pnx_row *row) {
    uint32_t priority = (uint32_t)(row->order >> PNX_ROW_PRIORITY_SHIFT) & 7;
    return priority ? (enum pnx_priority)priority : PNX_PRIORITY_NORMAL;
}

/* Under the shard's lock, like the next one: the bits beside it change. */
static inline enum pnx_row_outcome pnx__row_outcome(const struct pnx_row *row) {
    return (enum pnx_row_outcome)(row->order >> PNX_ROW_OUTCOME_SHIFT & 7);
}

static inline void pnx__row_set_outcome_locked(struct pnx_row *row, enum pnx_row_outcome outcome) {
    row->order &= ~(UINT64_C(7) << PNX_ROW_OUTCOME_SHIFT);
    row->order |= (uint64_t)outcome << PNX_ROW_OUTCOME_SHIFT;
}

/* Whether the row was added by the process that is running: others' rows are left alone. */
static inline bool pnx__row_is_ours(const struct pnx_row *row) {
    return row->stamp >> PNX_STAMP_FORK_SHIFT == (pnx__fork_generation() & 0xfff);
}

/* Where a slot stands: its chunk, and its place there. */
struct pnx_slot_place {
    uint32_t chunk;
    uint32_t offset;
};

static inline struct pnx_slot_place pnx__slot_place(uint32_t slot) {
    if (slot < 1u << PNX_CHUNK_FIRST_LOG2)
        return (struct pnx_slot_place){0, slot};
    uint32_t log2 = 31u - (uint32_t)__builtin_clz(slot);
    if (log2 < PNX_CHUNK_EVEN_LOG2)
        return (struct pnx_slot_place){log2 - PNX_CHUNK_FIRST_LOG2 + 1, slot - (1u << log2)};
    uint32_t eighth = log2 - 3;
    return (struct pnx_slot_place){
            PNX_CHUNKS_DOUBLING + 8 * (log2 - PNX_CHUNK_EVEN_LOG2) + (slot >> eighth & 7),
            slot & ((1u << eighth) - 1)};
}

/* How many rows a chunk has. */
static inline uint32_t pnx__chunk_rows(uint32_t chunk) {
    if (chunk < PNX_CHUNKS_DOUBLING)
        return 1u << (PNX_CHUNK_FIRST_LOG2 + (chunk ? chunk - 1 : 0));
    return 1u << (PNX_CHUNK_EVEN_LOG2 - 3 + (chunk - PNX_CHUNKS_DOUBLING) / 8);
}

/* Returns the slot of the shard; NULL when the shard has no such slot. */
static inline struct pnx_row *pnx__slot_row(const struct pnx_shard *shard, uint32_t slot) {
    struct pnx_slot_place place = pnx__slot_place(slot);
    struct pnx_row *rows = pnx_load(
            &shard->chunk[place.chunk], PNX_ACQUIRE, "rows.chunk"); /* pairs with slots.chunk */
    return rows ? &rows[place.offset] : NULL;
}

/* Returns the slot that the id names, whatever its generation; NULL when there is none. */
static inline struct pnx_row *pnx__row_find(struct pnx_registry *registry, pnx_resource_id id) {
    if (pnx__word_state(id) || id == 0)
        return NULL; /* never was an id; 0 is the word of a slot that was never used */
    return pnx__slot_row(&registry->shard[pnx__shard_of(id)], pnx__slot_of(id));
}

/* Returns the row's word, with all that was written before it was set. */
static inline uint64_t pnx__row_word(const struct pnx_row *row) {
    return pnx_load(&row->word, PNX_ACQUIRE, "rows.word"); /* pairs with rows.move */
}

/* Locks the shard that the id belongs to. */
static inline struct pnx_shard *pnx__row_lock(struct pnx_registry *registry, pnx_resource_id id) {
    struct pnx_shard *shard = &registry->shard[pnx__shard_of(id)];
    pnx__lock(&shard->lock);
    return shard;
}

/* How many rows of the shard are there.  Under its lock. */
static inline uint64_t pnx__shard_rows_locked(const struct pnx_shard *shard) {
    return shard->added.v - shard->removed.v - shard->ended.v;
}

/* ---- slots.c ---- */

/*
 * Returns the place beside the slot that the id names, whomever it belongs to; NULL when its chunk has none of that
 * kind.  What it holds is guarded by the shard's lock, and fixed once the registry is closed.
 */
void *pnx__side_place(struct pnx_registry *registry, pnx_resource_id id, enum pnx_side side);

/* Returns what stands beside the row with this id, or NULL. */
void *pnx__row_side(struct pnx_registry *registry, pnx_resource_id id, enum pnx_side side);

/* Gives the chunk of the id's slot places of a kind.  No lock may be held.  -ENOMEM. */
int pnx__side_make(struct pnx_registry *registry, pnx_resource_id id, enum pnx_side side);

static inline const struct pnx_row_label *pnx__row_label(
        struct pnx_registry *registry, pnx_resource_id id) {
    return pnx__row_side(registry, id, PNX_SIDE_LABEL);
}

/*
 * Adds slots to the shard, which had n_chunks chunks when the caller looked.  No lock may be held.  -ENOMEM;
 * -EBUSY when max rows are allowed already, -ENOSPC when the shard is as large as can be.
 */
int pnx__shard_grow(struct pnx_registry *registry, struct pnx_shard *shard, uint32_t n_chunks);

/* A slot will not be used again: the row that it could have had, others may have. */
void pnx__slot_retire_locked(struct pnx_registry *registry, struct pnx_shard *shard);

/* Frees the rows of all shards, and what stands beside them. */
void pnx__shards_free(struct pnx_registry *registry);

/* ---- family.c ---- */

/* Counts another child of a live row, before that is added.  -EINVAL when it is not live, -ENOMEM, -ESHUTDOWN. */
int pnx__family_join(struct pnx_registry *registry, pnx_resource_id parent);

/* A child could not be added, or has ended: under its shard's lock, if it has been there. */
void pnx__family_leave(struct pnx_registry *registry, pnx_resource_id parent);

/* The same for a row that has a parent, and has just ended.  Under its shard's lock. */
void pnx__family_leave_locked(struct pnx_registry *registry, pnx_resource_id child);

/* Whether a row with PNX_ROW_PARENT has children now.  Under its shard's lock. */
bool pnx__family_has_children_locked(struct pnx_registry *registry, pnx_resource_id id);

/* For a forked child: has a row that it keeps begin without children, and counts one that it keeps. */
void pnx__family_reset_locked(struct pnx_registry *registry, pnx_resource_id id);
void pnx__family_count(struct pnx_registry *registry, pnx_resource_id parent);

/* ---- rows.c ---- */

/* What is to be done when the shard's lock has been given back. */
struct pnx_row_effects {
    bool wake;     /* those who wait for an end in the shard */
    bool shutdown; /* is to look again */
    bool unheld;   /* the shard has dropped its reference to the registry */
    bool closed; /* a long-lived row has ended; the rest says which, and the registry is held for the event */
    int code;
    const char *type;
    pnx_resource_id id;
    char object[PNX_ROW_NAME_MAX];
};

/* Moves the row to another state.  Whoever sees the new word sees what was done before. */
static inline void pnx__row_move_locked(
        struct pnx_row *row, pnx_resource_id id, enum pnx_row_state state) {
    pnx_store(&row->word, id | (uint64_t)state, PNX_RELEASE, "rows.move"); /* with rows.word */
}

static inline void pnx__row_set_hand_locked(struct pnx_row *row, enum pnx_row_hand hand) {
    row->order &= ~(UINT64_C(3) << PNX_ROW_HAND_SHIFT);
    row->order |= (uint64_t)hand << PNX_ROW_HAND_SHIFT;
}

/* Whether the end of a row in the shard may be waited for, or be the end of the registry. */
static inline bool pnx__row_end_matters_locked(
        const struct pnx_registry *registry, const struct pnx_shard *shard) {
    return shard->waiting != 0 || !pnx__registry_is_open(registry);
}

/* Puts a slot into the queue of free ones, unless it has used all its generations. */
static inline void pnx__row_queue_locked(const struct pnx_registry *registry,
        struct pnx_shard *shard, struct pnx_row *row, pnx_resource_id id) {
    if (pnx__generation(id) == registry->last)
        return; /* all generations are used up: the slot rests for ever */
    row->next_free = NULL;
    if (shard->free_last)
        shard->free_last->next_free = row;
    else
        shard->free_first = row;
    shard->free_last = row;
    shard->n_free++;
}

/* Notes that something may wait for what the row has become. */
void pnx__row_changed_locked(
        struct pnx_registry *registry, struct pnx_shard *shard, struct pnx_row_effects *effects);

/* Ends a row that has been taken out of the shard's counts: queues its slot (not of a LATE one), drops what is held. */
void pnx__row_gone_locked(struct pnx_registry *registry, struct pnx_shard *shard,
        struct pnx_row *row, pnx_resource_id id, struct pnx_row_effects *effects);

/* Whether leaks like this row are known ones (suppress.c).  May be called under the shard's lock. */
bool pnx__registry_suppressed(const struct pnx_registry *registry, const struct pnx_row *row);

/* Notes for the effects that the row ends now, with the code, if that is an event; while the row says what it is. */
void pnx__row_note_closed_locked(struct pnx_registry *registry, const struct pnx_row *row,
        pnx_resource_id id, int code, struct pnx_row_effects *effects);

/* Runs the effects.  The registry may be gone afterwards, unless the caller keeps it. */
void pnx__row_effects(struct pnx_registry *registry, struct pnx_shard *shard,
        const struct pnx_row_effects *effects);

/* Copies what a row is called in events: its name, else its type. */
void pnx__row_object(struct pnx_registry *registry, const struct pnx_row *row, pnx_resource_id id,
        char ret_object[PNX_ROW_NAME_MAX]);

/* pnx_registry_remove_at() without the event for a row that was removed before. */
int pnx__row_remove(struct pnx_registry *registry, pnx_resource_id id, const char *site);

/* The same, but it waits for nobody: -EINPROGRESS when the cleanup is running, too. */
int pnx__row_leave(struct pnx_registry *registry, pnx_resource_id id, const char *site);

/*
 * Waits for the end of a row that somebody else has claimed, and takes note of it as a removal does.  -EAGAIN when it
 * is live, perhaps again: the caller may claim it.  In a forked child, a live row of its parent is removed: 0.
 */
int pnx__row_meet(struct pnx_registry *registry, pnx_resource_id id, const char *site);

/* Its owner has left a row that could not be ended to the registry: anybody may end it now, a shutdown too. */
void pnx__row_disown(struct pnx_registry *registry, pnx_resource_id id);

/* Copies what the row says; under the shard's lock, or once the registry is closed. */
void pnx__row_copy(struct pnx_registry *registry, const struct pnx_row *row, uint64_t word,
        pnx_ns now, struct pnx_resource_info *ret_info);

/* Says what a row says, of a copy or under the shard's lock.  label: what stands beside it, or NULL. */
void pnx__row_describe(const struct pnx_registry *registry, const struct pnx_row *row,
        const struct pnx_row_label *label, pnx_ns now, struct pnx_resource_info *ret_info);

/* Calls fn for each row that is there, under its shard's lock. */
void pnx__rows_each(struct pnx_registry *registry,
        void (*fn)(void *ctx, struct pnx_row *row, uint64_t word), void *ctx);

/* Aborts when an invariant does not hold; nobody else may be using the registry. */
void pnx__registry_check(struct pnx_registry *registry);

/*
 * pnx_registry_add() of a resource of the present size, with another cleanup and arg.  The registry is not the one that
 * is off.
 */
int pnx__row_add(struct pnx_registry *registry, const struct pnx_resource *resource,
        pnx_cleanup_fn *cleanup, void *arg, struct pnx_error *err, pnx_resource_id *ret_id);

/* ---- run.c ---- */

/* Guards cleanup_wait of all threads.  Taken before a shard's lock. */
extern struct pnx_mutex pnx__waits_lock;

/*
 * Makes a request for one run, of which nobody needs to know when it ends later; -EAGAIN leaves the row live.  The
 * deadline is on env's clock.
 */
static inline void pnx__request_init(
        struct pnx_row_request *request, const struct pnx_env *env, pnx_ns deadline) {
    request->cancel.env = env;
    /* Published to the cleanup by its call, and to others by the shard's lock. */
    pnx_store(&request->cancel.deadline, (uint64_t)deadline, PNX_RELAXED, "run.set_deadline");
    pnx_store(&request->cancel.requested, 0, PNX_RELAXED, "run.not_requested");
    request->last = false;
    request->quiet = false;
    request->in_order = false;
    request->pended = NULL;
    request->ctx = NULL;
}

/*
 * Claims a live row for running its cleanup and fills the registry's part of the request.  -EALREADY, -ESTALE,
 * -ENOTSUP, -EBUSY as pnx_registry_cleanup(); -ENOMEM when there is no memory for the thread's record.
 */
int pnx__row_claim(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_row_request *request);

/* Asks what runs by the request: PNX_ASKED_TO_*. */
static inline void pnx__cancel_ask(struct pnx_cancel *cancel, uint32_t what) {
    /* A hint without data: no partner.  Several may ask, under locks of their own. */
    pnx_fetch_or(&cancel->requested, what, PNX_RELAXED, "run.ask");
}

/* Runs the cleanup of a row that the request has claimed; returns as pnx__registry_run(). */
int pnx__row_run(struct pnx_row_request *request);

/*
 * Claims the row and runs its cleanup here.  *ret_claimed tells the claim's errors from the cleanup's.  Returns
 *   0 or an error   the row has ended so, and the request is the caller's again
 *   -EAGAIN         the row is as it was, and may be claimed again by anybody; with request->ended it has failed: by
 *                   request->last, or after a shutdown has abandoned it
 *   -EINPROGRESS    it ends later: request->pended(ctx, code) will be called once, with no lock held, by whichever
 *                   thread completes it, perhaps before this returns; code is as above.  The request must live
 *                   until then, unless pended is NULL.
 */
int pnx__registry_run(struct pnx_registry *registry, pnx_resource_id id,
        struct pnx_row_request *request, bool *ret_claimed);

/* Asks for the row's end: its flag, and the token of its cleanup if that runs or is pending.  -ESTALE. */
int pnx__row_ask(struct pnx_registry *registry, pnx_resource_id id);

/* The same under the shard's lock, for a row that is there. */
void pnx__row_ask_locked(struct pnx_row *row, uint64_t word);

/*
 * Waits until the running cleanup of the row has ended, or goes on without a thread: 0.  -EALREADY when it runs on
 * this thread, -EDEADLK when it would wait for this thread.
 */
int pnx__row_wait(struct pnx_registry *registry, pnx_resource_id id);

#endif
