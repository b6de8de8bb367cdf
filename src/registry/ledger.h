/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/ledger.h - the registry's structures, for src/registry and src/resource only.
 *
 * Rows live in shards: a thread adds to its own shard, and takes a slot from another one only when its own is
 * full, so that adding allocates only when every slot of the registry is taken.  Free slots wait in a first-in
 * first-out queue, and unused slots are preferred while that queue is short, so that a row stays recognisable
 * for a while after its removal (the site of the first release).
 *
 *   id    generation (36 bits) | slot (24) | shard (4)
 *   word  generation (36 bits) | unused (24) | state (4)
 *
 * A slot's state, and who moves it.  Each move is one compare-and-swap in move() of rows.c.
 *
 *      +--> FREE --add--> LIVE --claim--> RUNNING --end--> DONE or FAILED ---+--add (next generation)--> LIVE
 *      |                   |                 |                               |
 *      |                   |                 +--abandon--> ABANDONED --end--> LATE (never reused)
 *      +-----remove--------+                                                 |
 *      +---------------------------owner's remove, which returns -EALREADY---+
 *
 * FREE, DONE and FAILED slots are in their shard's queue.  A shutdown closes the registry first, after which no
 * slot is reused and rows are read without a lock.
 */
#ifndef PNX_SRC_REGISTRY_LEDGER_H
#define PNX_SRC_REGISTRY_LEDGER_H

#include "base/atomic.h"
#include "base/list.h"
#include "os/mutex.h"
#include "stats/stats.h"

#include <patinox/registry.h>

#define PNX_GROUP     registry
#define PNX_GROUP_DEF <patinox/stats/registry.def>
#include "stats/declare_group.inc"

#define PNX_ROW_NAME_MAX    48 /* as in struct pnx_resource_info */
#define PNX_SHARD_BITS      4
#define PNX_SLOT_BITS       24
#define PNX_GENERATION_BITS 36
#define PNX_SHARDS          8   /* a power of two, at most 1 << PNX_SHARD_BITS */
#define PNX_CHUNK_FIRST     32u /* rows of a shard's first chunk; each next one has twice as many */
#define PNX_CHUNKS          19  /* so that slots fit into PNX_SLOT_BITS */
#define PNX_QUARANTINE      16  /* free slots of a shard that wait before unused ones are spared */

enum pnx_row_state {
    PNX_ROW_FREE = 0,
    PNX_ROW_LIVE,
    PNX_ROW_RUNNING,
    PNX_ROW_DONE,
    PNX_ROW_FAILED,
    PNX_ROW_ABANDONED,
    PNX_ROW_LATE,
};

struct pnx_cancel {
    struct pnx_a64 deadline;  /* pnx_ns */
    struct pnx_a32 requested; /* bool */
};

/* The shutdown's view of a row: the leader's until it has collected all, then guarded by the shutdown's lock. */
struct pnx_row_shutdown {
    struct pnx_row *next;   /* in the order of cleaning up, for the report; fixed once collected */
    struct pnx_row *todo;   /* next on its list: not started, or run by others */
    struct pnx_row *group;  /* in the order of the report's groups */
    struct pnx_row *parent; /* NULL: none that is part of the shutdown */
    size_t children;        /* how many have no outcome yet */
    uint64_t bytes;         /* when the shutdown began */
    enum pnx_resource_state outcome; /* 0 until it is known, then fixed */
    int32_t code;
    bool member; /* it was there when the shutdown began */
    bool bare;   /* its turn came, and it had no cleanup */
};

struct pnx_row {
    struct pnx_a64 word;
    struct pnx_a32 turn; /* counts ends of cleanups; a futex */
    uint32_t index;      /* slot << PNX_SHARD_BITS | shard; fixed when its chunk is made */
    /* Guarded by the shard's lock; constant while the slot is not free. */
    uint64_t serial; /* order of adding */
    pnx_ns added;
    const char *type;
    const char *site;
    pnx_cleanup_fn *cleanup;
    void *arg;
    pnx_resource_id parent;
    uint64_t owner;
    uint64_t tag;
    uint32_t fork;      /* generation of the process that added it */
    uint32_t next_free; /* index + 1 of the next in the queue; 0: last */
    char name[PNX_ROW_NAME_MAX];
    /* Guarded by the shard's lock. */
    uint64_t bytes;
    const char *released_at; /* site of the last removal; NULL when the registry ended it */
    int32_t code;            /* of the last cleanup; written before the word says that it ended */
    struct pnx_cancel cancel;
    struct pnx_row_shutdown shutdown;
};

struct pnx_shard {
    struct pnx_mutex lock;
    struct pnx_aptr chunk[PNX_CHUNKS]; /* set once, under the lock; read without */
    uint32_t n_chunks;                 /* guarded by lock, like all below */
    uint32_t used;                     /* slots that were ever taken */
    uint32_t free_first;               /* index + 1 */
    uint32_t free_last;
    uint32_t n_free;
};

/* What a shutdown did: part of the registry, which the report's holders keep alive. */
struct pnx_shutdown_report {
    struct pnx_registry *registry;
    struct pnx_row *rows;   /* by shutdown.next */
    struct pnx_row *groups; /* by shutdown.group */
    struct pnx_shutdown_counts counts;
    pnx_ns began;
    int code;
};

/* A thread of the shutdown. */
struct pnx_shutdown_worker {
    struct pnx_registry *registry;
    struct pnx_os_thread *thread; /* only the leader touches it */
    struct pnx_row *row;          /* what it is cleaning up; NULL: it is not in a cleanup */
    pnx_ns overdue_at;
    bool used; /* the thread has not said yet that it ends */
    bool overdue;
};

/* See src/resource/shutdown.c. */
struct pnx_shutdown_state {
    struct pnx_mutex lock;
    struct pnx_a32 phase;   /* enum pnx_shutdown_phase; a futex */
    struct pnx_a32 changed; /* counts what may let a shutdown go on; a futex */
    /* Written by the leader before there are workers. */
    pnx_ns deadline;
    /* Guarded by lock. */
    struct pnx_row *todo;               /* not started, in the order of cleaning up */
    struct pnx_row *foreign;            /* being cleaned up by a call of pnx_registry_cleanup() */
    size_t left;                        /* rows without an outcome */
    bool over;                          /* no cleanup may be started any more */
    struct pnx_shutdown_worker *active; /* the one that may start cleanups; NULL: none */
    struct pnx_shutdown_worker workers[PNX_SHUTDOWN_WORKERS];
    struct pnx_shutdown_report
            report; /* fixed, and read without the lock, once the phase is DONE */
};

/*
 * Owned by its holders.  It is freed when holders and rows are both 0: the two halves of refs.
 */
struct pnx_registry {
    struct pnx_env env;
    char *name;
    uint32_t max;
    bool off;              /* pnx_registry_off() */
    uint64_t base;         /* generations start here */
    struct pnx_a64 refs;   /* holders << 32 | rows that are live, running or abandoned */
    struct pnx_a64 serial; /* of the last row added */
    struct pnx_a32 closed; /* a shutdown has begun: no more rows; set once */
    struct pnx_shard shard[PNX_SHARDS];
    struct pnx_shutdown_state shutdown;
    struct pnx_stats_block block;
    struct pnx_registry_values values;
};

#define PNX_REGISTRY_HOLDER (UINT64_C(1) << 32)

/* Counts one up, or down, in a number of registry->values. */
void pnx__registry_count_up(struct pnx_a64 *stat);
void pnx__registry_count_down(struct pnx_a64 *stat);

/* Returns the default registry for NULL. */
struct pnx_registry *pnx__registry_resolve(struct pnx_registry *registry);

/* Drops holders or rows: amount is PNX_REGISTRY_HOLDER or 1. */
void pnx__registry_unref(struct pnx_registry *registry, uint64_t amount);

/* ---- rows.c ---- */

static inline enum pnx_row_state pnx__word_state(uint64_t word) {
    return (enum pnx_row_state)(word & 15);
}

static inline uint64_t pnx__generation(uint64_t id_or_word) {
    return id_or_word >> (64 - PNX_GENERATION_BITS);
}

/* Returns the row that the id's slot and shard name, whatever its generation; NULL when there is none. */
struct pnx_row *pnx__row_find(struct pnx_registry *registry, pnx_resource_id id);

/* Returns the row's word, with all that was written before it was set. */
uint64_t pnx__row_word(const struct pnx_row *row);

/* Returns the id of the row while its word is word. */
pnx_resource_id pnx__row_id(const struct pnx_row *row, uint64_t word);

/* Locks the shard that the row belongs to. */
struct pnx_shard *pnx__row_lock(struct pnx_registry *registry, const struct pnx_row *row);

/* Claims a live row for running its cleanup: 0, -EALREADY, -ESTALE, -ENOTSUP as pnx_registry_cleanup(). */
int pnx__row_claim(
        struct pnx_registry *registry, struct pnx_row *row, pnx_resource_id id, pnx_ns deadline);

/* Marks a running row as abandoned.  false when its cleanup has just ended. */
bool pnx__row_abandon(struct pnx_registry *registry, struct pnx_row *row);

/* Ends a claimed row with its cleanup's code.  The caller holds a reference to the registry. */
void pnx__row_end(struct pnx_registry *registry, struct pnx_row *row, int code);

/* pnx_registry_remove_at() without the event for a row that was removed before. */
int pnx__row_remove(struct pnx_registry *registry, pnx_resource_id id, const char *site);

/* Copies what the row says; under the shard's lock, or once the registry is closed. */
void pnx__row_copy(
        const struct pnx_row *row, uint64_t word, pnx_ns now, struct pnx_resource_info *ret_info);

/* Calls fn for each slot in use, under its shard's lock. */
void pnx__rows_each(struct pnx_registry *registry,
        void (*fn)(void *ctx, struct pnx_row *row, uint64_t word), void *ctx);

/* Aborts when an invariant does not hold; nobody else may be using the registry. */
void pnx__registry_check(struct pnx_registry *registry);

/* ---- run.c ---- */

/* Runs a claimed row's cleanup and ends the row.  Returns the cleanup's code. */
int pnx__row_run(struct pnx_registry *registry, struct pnx_row *row);

/*
 * Waits until the running cleanup of the row has ended: 0.  -EALREADY when it runs on this thread, -EDEADLK when
 * it would wait for this thread.
 */
int pnx__row_wait(struct pnx_registry *registry, struct pnx_row *row, pnx_resource_id id);

/* Returns whether this thread is inside a cleanup of the registry. */
bool pnx__run_inside(const struct pnx_registry *registry);

#endif
