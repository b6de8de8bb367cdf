/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/group_report.c - a group's numbers, those of its keys, and its state as text.
 */
#include "pool/group.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int pnx_pool_group_read_stats(
        const struct pnx_pool_group *group, struct pnx_pool_group_stats *ret_stats) {
    if (!group || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    struct pnx_pool_group_stats stats;
    uint64_t *values =
            (uint64_t *)(void *)((char *)&stats + offsetof(struct pnx_pool_group_stats, keys_made));
    size_t n = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    stats.size = n;
    pnx__stats_read(&group->block, values);
    memcpy(ret_stats, &stats, n);
    return 0;
}

/* Copies a key's numbers; the caller has a ref. */
static void copy_numbers(struct pnx__group_key *key, struct pnx_pool_key_numbers *ret_numbers) {
    struct pnx_pool_group *group = key->group;
    struct pnx_pool *pool = pnx__group_pool(key);
    pnx_ns now = pnx__now(&group->env);
    uint32_t n[PNX__POOL_STATES];
    pnx__group_lock(group);
    pnx__pool_lock(pool);
    pnx__pool_core_count(&pool->core, n);
    *ret_numbers = (struct pnx_pool_key_numbers){
            .key = &key->pub,
            .unused_for = now > key->used_at ? now - key->used_at : 0,
            .share = key->share,
            .connecting = n[PNX__POOL_CONNECTING],
            .idle = n[PNX__POOL_IDLE],
            .in_use = n[PNX__POOL_IN_USE],
            .checking = n[PNX__POOL_CHECKING],
            .closing = n[PNX__POOL_CLOSING],
            .waiting = pool->core.waiting,
            .leaving = key->state != PNX__GROUP_OPEN,
    };
    pnx__mutex_unlock(&pool->lock);
    pnx__mutex_unlock(&group->lock);
}

/* Gives back a key at which a walk ended. */
static void stop_at(struct pnx_pool_group *group, struct pnx__group_key *key) {
    pnx__group_lock(group);
    pnx__group_put_locked(key);
    pnx__group_sweep_locked(group);
    pnx__group_unlock(group);
}

int pnx_pool_group_each(struct pnx_pool_group *group, pnx_pool_group_each_fn *each, void *ctx) {
    if (!group || !each)
        return -EINVAL;
    if (pnx__group_forked(group))
        return -ESHUTDOWN;
    struct pnx__group_key *key = NULL;
    while ((key = pnx__group_next(group, key))) {
        struct pnx_pool_key_numbers numbers;
        copy_numbers(key, &numbers);
        pnx__mutex_assert_none_held();
        int rc = each(ctx, &numbers);
        if (rc) {
            stop_at(group, key);
            return rc;
        }
    }
    return 0;
}

static int write_head(struct pnx_pool_group *group, pnx_write_fn *write, void *ctx) {
    char text[320];
    pnx__group_lock(group);
    int n = snprintf(text, sizeof(text),
            "pool group \"%.64s\"%s: %" PRIu32 " of %" PRIu32 " keys, shares of %" PRId64
            " of %" PRIu32 ", %" PRId64 " of them on their way from one key to another\n",
            group->name, group->closing ? " (closed)" : "", group->open, group->max_keys,
            group->shares, group->max_total, group->owed);
    pnx__mutex_unlock(&group->lock);
    int rc = write(ctx, text, (size_t)n);
    return rc < 0 ? rc : 0;
}

static int write_key(struct pnx__group_key *key, pnx_write_fn *write, void *ctx) {
    struct pnx_pool_key_numbers numbers;
    char text[160];
    copy_numbers(key, &numbers);
    int n = snprintf(text, sizeof(text),
            "share of %" PRIu32 "%s, asked for %.3f s ago: ", numbers.share,
            numbers.leaving ? " (leaving)" : "", (double)numbers.unused_for / (double)PNX_SEC);
    int rc = write(ctx, text, (size_t)n);
    return rc < 0 ? rc : pnx_pool_dump(pnx__group_pool(key), write, ctx);
}

int pnx_pool_group_dump(struct pnx_pool_group *group, pnx_write_fn *write, void *ctx) {
    if (!group || !write)
        return -EINVAL;
    if (pnx__group_forked(group))
        return -ESHUTDOWN;
    int rc = write_head(group, write, ctx);
    struct pnx__group_key *key = NULL;
    while (rc == 0 && (key = pnx__group_next(group, key))) {
        rc = write_key(key, write, ctx);
        if (rc)
            stop_at(group, key);
    }
    return rc;
}
