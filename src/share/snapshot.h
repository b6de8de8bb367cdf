/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/snapshot.h - a cell from the inside; shared by snapshot.c (life, reading), snapshot_write.c (writing,
 * history) and watch.c.
 */
#ifndef PNX_SRC_SHARE_SNAPSHOT_H
#define PNX_SRC_SHARE_SNAPSHOT_H

#include "base/env.h"
#include "base/list.h"
#include "os/mutex.h"
#include "share/latch.h"

#include <patinox/reclaim.h>
#include <patinox/snapshot.h>

#define PNX_GROUP     snapshot
#define PNX_GROUP_DEF <patinox/stats/snapshot.def>
#include "stats/declare_group.inc"

#define PNX_SNAPSHOT_MAGIC UINT32_C(0x736e6170)

/*
 * A value with its version.
 *
 *     FREE --publish--> CURRENT --replaced--> PAST --forgotten--> RETIRED --grace period--> UNPINNED --> FREE
 *                          +----replaced, no history--------------^   (readers may keep it pinned for longer)
 *
 * Owned by the cell, which has one of its pins, until RETIRED; then by reclaim, then by the readers that have
 * pinned it.  shown is fixed from CURRENT to UNPINNED.
 */
struct pnx_snapshot_node {
    struct pnx_snapshot_node_ shown; /* the value is a reference of the node's; NULL: FREE */
    struct pnx_reclaim_node reclaim; /* RETIRED */
    struct pnx_snapshot *snapshot;   /* fixed; its memory stays as long as the node's */
    struct pnx_snapshot_node *next;  /* FREE: the next spare one */
    struct pnx_a32 pins;             /* the cell's, and one for each reader handle */
    uint32_t reserved;
    uint64_t restores; /* as in struct pnx_snapshot_past */
    int64_t real_ns;   /* as there; only with a history */
};

/* In changes: */
enum {
    PNX_SNAPSHOT_SLEEPERS = 1, /* somebody sleeps on the word */
    PNX_SNAPSHOT_WATCHED = 2,  /* there are watches */
    PNX_SNAPSHOT_CLOSED = 4,
    PNX_SNAPSHOT_STEP = 8, /* added at each publication */
};

/*
 * Owned by its references: handles, readers, watches.  When the last one has gone the values go, and the memory
 * itself with the last node.  Fixed at creation but for the groups that say otherwise.
 */
struct pnx_snapshot {
    struct pnx_snapshot_head_ head; /* node: written by the writer, read by all */
    uint32_t magic;
    uint32_t history_depth;
    struct pnx_reclaim *reclaim;   /* a reference of ours; NULL: the default domain */
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    char *name;
    pnx_snapshot_validate_fn *validate;
    void *ctx;
    pnx_ns write_timeout_ns;
    uint32_t max_watches;
    struct pnx_a32 references; /* read anywhere */
    struct pnx_a32 memory;     /* nodes that exist, and one for the references together */
    struct pnx_env env;
    struct pnx_stats_block block;

    /* Apart from what readers look at. */
    _Alignas(64) struct pnx_latch writer; /* held while a writer runs */
    struct pnx_a32 changes;               /* futex word of waiters; see above */
    struct pnx_a32 returned_count;        /* about how many nodes returned has */
    struct pnx_a64 written;               /* about when the last write ended that came alone */
    struct pnx_aptr returned;        /* FREE nodes: pushed by anybody, taken whole by the writer */
    struct pnx_snapshot_node *spare; /* FREE nodes of the writer's */
    struct pnx_snapshot_values values; /* by the writer, or with read-modify-writes */
    struct pnx_link link;              /* all cells; guarded by the lock of all cells */

    struct pnx_mutex lock;           /* guards what follows */
    struct pnx_snapshot_node **past; /* a ring of history_depth; changed by the writer only */
    uint32_t past_count;
    uint32_t past_next;
    struct pnx_link watches; /* struct pnx_watch, oldest first */
    uint32_t watch_count;
    uint32_t generation; /* of the process in which the watches' calls run */
};

static inline struct pnx_snapshot_node *pnx__snapshot_node_of(
        const struct pnx_snapshot_node_ *shown) {
    return PNX_CONTAINER(shown, struct pnx_snapshot_node, shown);
}

/* The current node, for the writer: nobody else changes it.  relaxed: the latch orders writers. */
static inline struct pnx_snapshot_node *pnx__snapshot_current(const struct pnx_snapshot *snapshot) {
    return pnx__snapshot_node_of(pnx_load(&snapshot->head.node, PNX_RELAXED, "snapshot.current"));
}

/* Debug builds abort, and name the calling function, when it was given what is no cell.  NULL is fine. */
#ifdef PNX_DEBUG
#define pnx__snapshot_expect(snapshot) pnx__snapshot_expect_in(snapshot, __func__)
void pnx__snapshot_expect_in(const struct pnx_snapshot *snapshot, const char *where);
#else
#define pnx__snapshot_expect(snapshot) ((void)(snapshot))
#endif

/* Runs validate, if there is one.  err may be NULL. */
int pnx__snapshot_validate(struct pnx_snapshot *snapshot, const void *next, const void *current,
        struct pnx_error *err);

/* Makes a node for the writer, FREE; NULL when there is no memory. */
struct pnx_snapshot_node *pnx__snapshot_node_new(struct pnx_snapshot *snapshot);

/* Gives a FREE node back to the cell, or frees it. */
void pnx__snapshot_node_return(struct pnx_snapshot_node *node);

/* Retires a node of the cell's. */
void pnx__snapshot_node_retire(struct pnx_snapshot_node *node);

/* Has what is due in the cell's domain done, unless this thread may not do it here; no lock may be held. */
void pnx__snapshot_assist(struct pnx_snapshot *snapshot);

/*
 * The same, if this thread has retired something since it was last done: for one who wrote while it held a latch, when
 * that is free.  Without it, where all writes are like that, nothing would ever be freed.
 */
void pnx__snapshot_catch_up(struct pnx_snapshot *snapshot);

/* Wakes those that sleep: changes as it was before a change. */
void pnx__snapshot_wake(struct pnx_snapshot *snapshot, uint32_t changes);

/* Sleeps until changes differs from what was loaded; 0 to look again, -ETIMEDOUT, -EDEADLK inside a section. */
int pnx__snapshot_sleep(struct pnx_snapshot *snapshot, uint32_t changes, pnx_ns deadline);

/* watch.c: tells the watches about the current version, or the close.  As assist; the cell may end meanwhile. */
void pnx__watches_notify(struct pnx_snapshot *snapshot);

#endif
