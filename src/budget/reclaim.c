/* SPDX-License-Identifier: Apache-2.0 */
/*
 * budget/reclaim.c - asking those who can give memory back.
 *
 * A reclaim walks the tree's reclaimers, in order of priority, and calls those whose budget lies in the subtree
 * that is too full, until usage is down or two rounds were of little use.  At most one thread reclaims in a tree
 * at a time.  What counts as freed is the fall of the budget's own usage, not what a reclaimer claims.
 *
 *     handle:  IDLE --called--> RUNNING --returned--> IDLE --removed--> freed
 *                                  +--removed from inside--> DOOMED --returned--> freed
 *
 *   P4  A reclaimer is called with no lock held.  Once its removal has returned it is not running and is not
 *       called again; removed from inside itself it is not called again.
 *   P5  A reclaim ends: two rounds that free less than a sixteenth of what was wanted end it.
 *   P6  A thread that is inside a reclaimer calls none.
 *   P7  A reclaimer that does not return (it throws, or ends its thread) aborts the process.
 */
#include "budget/budget.h"

#include "base/options.h"
#include "os/clock.h"
#include "os/futex.h"
#include "os/thread.h"

#include <stdlib.h>

#define DEFAULT_PRIORITY 20
#define FUTILE_ROUNDS    2
#define FUTILE_PART      16 /* a round that frees less than want / 16 is futile */

/*
 * Owned by the caller who added it, by the running call once it is doomed.
 * Fixed: budget, reclaimer.  Guarded by the tree's lock: link, runner, doomed.
 */
struct pnx_reclaimer_handle {
    struct pnx_budget *budget; /* holds a reference */
    struct pnx_reclaimer reclaimer;
    struct pnx_link link; /* on tree->reclaimers until freed, so that the walk can go on from it */
    uint64_t runner;      /* id of the thread that is inside; 0: none */
    uint32_t
            runner_generation; /* its fork generation: a thread of the parent does not run in a child */
    bool doomed;               /* removed from inside: the walk frees it */
};

bool pnx__budget_may_reclaim(void) {
    const struct pnx_thread *self = pnx__thread();
    return self && self->reclaim_depth == 0;
}

static bool is_below(const struct pnx_budget *budget, const struct pnx_budget *top) {
    while (budget && budget != top)
        budget = budget->parent;
    return budget != NULL;
}

static void wake_all(struct pnx_budget_tree *tree) {
    /* The word changes under the lock, so that a waiter who read it there cannot miss the change. */
    pnx_fetch_add(&tree->wake, 1, PNX_RELAXED, "budget_reclaim.wake");
    pnx__futex_wake(&tree->wake, UINT32_MAX);
}

/* Waits, unlocked, for a change that is announced by wake_all().  Returns false once the deadline has passed. */
static bool wait_locked(struct pnx_budget_tree *tree, pnx_ns deadline) {
    uint32_t seen = pnx_load(
            &tree->wake, PNX_RELAXED, "reclaim.seen"); /* the lock orders it with reclaim.wake */
    pnx__mutex_unlock(&tree->lock);
    int rc = pnx__futex_wait(&tree->wake, seen, deadline);
    pnx__mutex_lock(&tree->lock);
    return rc == 0;
}

/* Returns whether another thread of this process reclaims in the tree. */
static bool busy_locked(const struct pnx_budget_tree *tree) {
    return tree->reclaiming != 0 && tree->reclaim_generation == pnx__fork_generation();
}

static void free_handle(struct pnx_reclaimer_handle *handle) {
    struct pnx_budget *budget = handle->budget;
    struct pnx_env env = budget->env;
    pnx__free(&env, handle, 1, sizeof(*handle));
    pnx_budget_release(&budget);
}

/* A C++ exception, or the end of the thread, would leave the tree in the middle of a reclaim. */
static void check_returned(const bool *returned) {
    if (!*returned)
        abort(); /* P7 */
}

/* Calls one reclaimer, unlocked. */
static void call_locked(struct pnx_budget *top, struct pnx_reclaimer_handle *handle,
        struct pnx_thread *self, size_t want) {
    bool returned __attribute__((cleanup(check_returned))) = false;
    struct pnx_budget_tree *tree = top->tree;
    handle->runner = self->id;
    handle->runner_generation = tree->reclaim_generation;
    pnx_owner_add(&top->values.reclaims, 1);
    pnx__mutex_unlock(&tree->lock);
    pnx__mutex_assert_none_held();
    self->reclaim_depth++;
    handle->reclaimer.reclaim(handle->reclaimer.ctx, want);
    returned = true;
    self->reclaim_depth--;
    pnx__mutex_lock(&tree->lock);
    handle->runner = 0;
    wake_all(tree);
}

/*
 * Asks each reclaimer below top once, until usage is at most target.  Handles that were removed from inside go
 * to doomed.  Returns how many were asked.
 */
static size_t round_locked(
        struct pnx_budget *top, size_t target, struct pnx_thread *self, struct pnx_link *doomed) {
    struct pnx_budget_tree *tree = top->tree;
    size_t asked = 0;
    struct pnx_link *link = tree->reclaimers.next;
    while (link != &tree->reclaimers && top->used > target) {
        struct pnx_reclaimer_handle *handle =
                PNX_CONTAINER(link, struct pnx_reclaimer_handle, link);
        if (!is_below(handle->budget, top)) {
            link = link->next;
            continue;
        }
        asked++;
        call_locked(top, handle, self, top->used - target);
        link = link->next; /* still on the list, whatever else was removed meanwhile */
        if (handle->doomed) {
            pnx__list_remove(&handle->link);
            pnx__list_push_back(doomed, &handle->link);
        }
    }
    return asked;
}

/* The rounds of one reclaim.  Returns whether usage reached the target. */
static bool rounds_locked(
        struct pnx_budget *top, size_t target, struct pnx_thread *self, struct pnx_link *doomed) {
    const size_t want = top->used > target ? top->used - target : 0;
    size_t before = top->used, asked_ever = 0;
    unsigned futile = 0;
    for (unsigned round = 0; round < PNX_BUDGET_RECLAIM_ROUNDS && top->used > target; round++) {
        size_t asked = round_locked(top, target, self, doomed);
        asked_ever += asked;
        size_t freed = before > top->used ? before - top->used : 0;
        before = top->used;
        if (freed == 0 || freed < want / FUTILE_PART)
            futile++;
        if (asked == 0 || futile >= FUTILE_ROUNDS)
            break;
    }
    if (top->used > target && asked_ever > 0)
        pnx_owner_add(&top->values.futile_reclaims, 1);
    /* What could not be freed now will not be there for the next charge either: wait for a change. */
    if (top->soft && top->used > top->soft && top->used > target)
        top->ask_from = top->used + top->soft / 16;
    return top->used <= target;
}

/* While another thread reclaims here: waits until none does.  Returns false if that took too long. */
static bool await_locked(struct pnx_budget_tree *tree) {
    if (!busy_locked(tree))
        return true;
    pnx_ns deadline = pnx__deadline(pnx__os_now(), PNX_BUDGET_WAIT);
    while (busy_locked(tree)) {
        if (!wait_locked(tree, deadline))
            return !busy_locked(tree);
    }
    return true;
}

bool pnx__budget_shrink(struct pnx_budget *top, size_t target, bool wait, size_t *ret_fell) {
    struct pnx_budget_tree *tree = top->tree;
    struct pnx_thread *self = pnx__thread();
    *ret_fell = 0;
    if (!self || self->reclaim_depth > 0)
        return false;
    struct pnx_link doomed;
    pnx__list_init(&doomed);

    pnx__mutex_lock(&tree->lock);
    size_t before = top->used;
    bool mine = wait ? await_locked(tree) : !busy_locked(tree);
    bool reached = top->used <= target;
    if (mine && !reached) {
        size_t start = top->used;
        tree->reclaiming = self->id;
        tree->reclaim_generation = pnx__fork_generation();
        reached = rounds_locked(top, target, self, &doomed);
        if (start > top->used)
            pnx_owner_add(&top->values.reclaimed, start - top->used);
        tree->reclaiming = 0;
        wake_all(tree);
    }
    *ret_fell = before > top->used ? before - top->used : 0;
    pnx__mutex_unlock(&tree->lock);

    struct pnx_link *link;
    while ((link = pnx__list_pop_front(&doomed)) != NULL)
        free_handle(PNX_CONTAINER(link, struct pnx_reclaimer_handle, link));
    return reached;
}

int pnx_budget_add_reclaimer(struct pnx_budget *budget, const struct pnx_reclaimer *reclaimer,
        struct pnx_reclaimer_handle **ret_handle) {
    struct pnx_reclaimer known = {0};
    if (!budget || !reclaimer || !ret_handle)
        return -EINVAL;
    int rc = pnx__opts_copy("reclaimer", sizeof(known), reclaimer, &known, NULL);
    if (rc)
        return rc;
    if (!known.reclaim || known.flags != 0)
        return -EINVAL;
    if (budget == pnx_budget_off()) {
        *ret_handle = NULL; /* never asked: there is nothing to remove */
        return 0;
    }
    if (known.priority == 0)
        known.priority = DEFAULT_PRIORITY;
    struct pnx_reclaimer_handle *handle = pnx__alloc(&budget->env, 1, sizeof(*handle));
    if (!handle)
        return -ENOMEM;
    handle->budget = pnx_budget_ref(budget);
    handle->reclaimer = known;

    struct pnx_budget_tree *tree = budget->tree;
    pnx__mutex_lock(&tree->lock);
    struct pnx_link *next = tree->reclaimers.next;
    while (next != &tree->reclaimers &&
            PNX_CONTAINER(next, struct pnx_reclaimer_handle, link)->reclaimer.priority <=
                    known.priority)
        next = next->next;
    pnx__list_insert_(&handle->link, next->prev, next);
    pnx__mutex_unlock(&tree->lock);
    *ret_handle = handle;
    return 0;
}

static bool runs_locked(const struct pnx_reclaimer_handle *handle) {
    return handle->runner != 0 && handle->runner_generation == pnx__fork_generation();
}

void pnx_budget_remove_reclaimer(struct pnx_reclaimer_handle **handle) {
    struct pnx_reclaimer_handle *h = handle ? *handle : NULL;
    if (!h)
        return;
    *handle = NULL;
    const struct pnx_thread *self = pnx__thread();
    struct pnx_budget_tree *tree = h->budget->tree;
    pnx__mutex_lock(&tree->lock);
    if (runs_locked(h) && self && h->runner == self->id) {
        h->doomed = true;
        pnx__mutex_unlock(&tree->lock);
        return;
    }
    while (runs_locked(h))
        wait_locked(tree, PNX_NEVER);
    pnx__list_remove(&h->link);
    pnx__mutex_unlock(&tree->lock);
    free_handle(h);
}
