/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/forked.c - a child's copy of its parent's rows, after a fork.
 *
 * Until the child calls pnx_registry_forked() those rows are there, and say what they said, but nobody in the child
 * ends them.  That call makes the ones that are kept the child's own, and strikes the others, after having run what
 * they want done in a child.
 *
 *   P1  It is called by the program, never from a handler of fork: functions of the user's run, with no lock held.
 *   P2  Each row is dealt with once, by whichever thread takes it; the others find it struck, or the child's.
 *   P3  A row that was struck stays known as that: an owner that comes with its id later has released nothing twice.
 */
#include "base/env.h"
#include "os/thread.h"
#include "registry/query.h"

struct fork {
    struct pnx_registry *registry;
    size_t n;
    int first; /* error of a function */
};

/* Takes a live row of the parent's: makes it the child's, or strikes it.  false when it is not there any more. */
static bool take(struct pnx_registry *registry, pnx_resource_id id, bool keep, void **ret_arg) {
    struct pnx_row *row = pnx__row_find(registry, id);
    struct pnx_row_effects effects = {0};
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    bool taken = row->word.v == (id | PNX_ROW_LIVE) && !pnx__row_is_ours(row);
    if (taken && keep) {
        row->stamp = (row->stamp & ~(UINT64_MAX << PNX_STAMP_FORK_SHIFT)) |
                     (uint64_t)pnx__fork_generation() << PNX_STAMP_FORK_SHIFT;
        if (row->order & PNX_ROW_PARENT)
            pnx__family_reset_locked(registry, id);
    } else if (taken) {
        *ret_arg = row->arg;
        row->released_at = NULL;
        row->code = 0;
        pnx_owner_add(&shard->removed, 1);
        pnx__row_move_locked(row, id, PNX_ROW_LATE); /* P3: the slot is not used again */
        pnx__slot_retire_locked(registry, shard);
        pnx__row_changed_locked(registry, shard, &effects);
        pnx__row_gone_locked(registry, shard, row, id, &effects);
    }
    pnx__unlock(&shard->lock);
    pnx__row_effects(registry, shard, &effects);
    return taken;
}

/* The function of the row for children; it stands in its label. */
static pnx_cleanup_fn *in_child_of(struct pnx_registry *registry, pnx_resource_id id) {
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    const struct pnx_row_label *label = pnx__row_label(registry, id);
    pnx_cleanup_fn *fn = label ? label->in_child : NULL;
    pnx__unlock(&shard->lock);
    return fn;
}

static int visit(void *ctx, const struct pnx_row *row, const struct pnx_resource_info *info) {
    struct fork *fork = ctx;
    if (pnx__row_is_ours(row) || pnx__word_state(row->word.v) != PNX_ROW_LIVE)
        return 0;
    bool keep = (row->order & PNX_ROW_KEEP) != 0;
    pnx_cleanup_fn *in_child = keep ? NULL : in_child_of(fork->registry, info->id);
    void *arg = NULL;
    if (!take(fork->registry, info->id, keep, &arg))
        return 0;
    fork->n++;
    pnx__mutex_assert_none_held();
    int rc = in_child ? in_child(arg, NULL) : 0;
    if (rc && !fork->first)
        fork->first = rc > 0 ? -EINVAL : rc;
    return 0;
}

/* What was counted at the fork may be of rows that are not here: those that are kept are counted anew. */
static int count_child(void *ctx, const struct pnx_row *row, const struct pnx_resource_info *info) {
    struct fork *fork = ctx;
    if (pnx__row_is_ours(row) && row->order & PNX_ROW_CHILD)
        pnx__family_count(fork->registry, info->parent);
    return 0;
}

int pnx_registry_forked(struct pnx_registry *registry) {
    registry = pnx__registry_resolve(registry);
    if (registry->off)
        return 0;
    static const struct pnx_resource_filter all = {.size = sizeof(all)};
    struct fork fork = {.registry = pnx_registry_ref(registry)}; /* its last rows may go here */
    (void)pnx__rows_walk(registry, &all, visit, &fork);
    if (fork.n > 0)
        (void)pnx__rows_walk(registry, &all, count_child, &fork);
    pnx_registry_release(&fork.registry);
    return fork.first;
}
