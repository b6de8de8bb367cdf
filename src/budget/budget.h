/* SPDX-License-Identifier: Apache-2.0 */
/*
 * budget/budget.h - the inside of a budget tree, shared by budget.c and reclaim.c.
 *
 * One mutex guards a whole tree; it lies in the root.  Nothing is called out and nothing is allocated or freed
 * while it is held.
 */
#ifndef PNX_SRC_BUDGET_BUDGET_H
#define PNX_SRC_BUDGET_BUDGET_H

#include "base/atomic.h"
#include "base/env.h"
#include "base/list.h"
#include "os/mutex.h"
#include "stats/stats.h"

#include <patinox/budget.h>

#define PNX_BUDGET_RECLAIM_ROUNDS \
    32                            /* of one reclaim, at most; the futile rule ends it far earlier */
#define PNX_BUDGET_CHARGE_TRIES 8 /* how often a charge reclaims before it gives up its place */
#define PNX_BUDGET_WAIT         PNX_SEC /* a charge waits so long for another thread's reclaim */

#define PNX_GROUP     budget
#define PNX_GROUP_DEF <patinox/stats/budget.def>
#include "stats/declare_group.inc"

/* What only a root has.  Guarded by lock: everything but wake. */
struct pnx_budget_tree {
    struct pnx_link link; /* in the list of all, whose lock guards it */
    struct pnx_mutex lock;
    struct pnx_link reclaimers;  /* of the whole tree, lower priority first, then older first */
    struct pnx_link pending;     /* budgets with an event to tell */
    uint64_t reclaiming;         /* id of the thread that reclaims, 0: none */
    uint32_t reclaim_generation; /* fork generation of that thread */
    struct pnx_a32 wake;         /* counts ends of reclaimer calls and of reclaims; a futex */
};

/* What a budget has to tell, once somebody without locks comes by. */
enum {
    PNX_BUDGET_TELL_PRESSURE = 1,
    PNX_BUDGET_TELL_REFUSED = 2,
    PNX_BUDGET_TELL_MISUSE = 4,
};

/*
 * Owned by its references: the callers', one a child, one a reclaimer.  It goes when refs and own are 0.
 * Fixed at create: tree, parent, env, name, registry, row, block.  Guarded by tree->lock: the rest.
 *
 *     used = own + sum of the children's used                                                        (P1)
 */
struct pnx_budget {
    struct pnx_budget_tree *tree;
    struct pnx_budget *parent; /* holds a reference; NULL: a root */
    struct pnx_env env;
    char *name;
    struct pnx_registry *registry; /* holds a reference */
    pnx_resource_id row;
    struct pnx_stats_block block;
    struct pnx_budget_values values;

    uint64_t refs;
    size_t own; /* charged to this very budget, not yet uncharged */
    size_t used;
    size_t soft;     /* 0: none */
    size_t hard;     /* 0: none */
    size_t ask_from; /* after a futile reclaim: usage from which a soft one is worth a try again */
    bool pressed;    /* over soft, and not yet back at seven eighths of it */
    bool refusing;   /* a charge was refused here since usage was last below that */
    bool dying;      /* refs and own were 0: one thread is taking it down */
    uint32_t tell;   /* PNX_BUDGET_TELL_ */
    size_t tell_refused;
    size_t tell_misuse;
    struct pnx_link pending;         /* on tree->pending when tell != 0 */
    struct pnx_budget_tree own_tree; /* used in a root */
};

/*
 * Asks reclaimers below budget until its usage is at most target.  No lock held; the caller keeps budget alive.
 * wait: while another thread reclaims in this tree, wait for it to end, at most PNX_BUDGET_WAIT; else give up
 * at once.  Returns whether usage got there, on the way at least: false means that asking again is of no use.
 */
bool pnx__budget_shrink(struct pnx_budget *budget, size_t target, bool wait, size_t *ret_fell);

/* Returns whether this thread may call reclaimers: it is not inside one, and has a record to know that by. */
bool pnx__budget_may_reclaim(void);

/* References under the tree's lock; put returns whether the caller must call pnx__budget_bury() unlocked. */
void pnx__budget_get_locked(struct pnx_budget *budget);
PNX_NODISCARD bool pnx__budget_put_locked(struct pnx_budget *budget);
void pnx__budget_bury(struct pnx_budget *budget);

/* Checks every invariant of one budget; aborts in debug builds.  The tree's lock is held. */
void pnx__budget_check_locked(const struct pnx_budget *budget);

#endif
