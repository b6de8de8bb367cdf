/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed_compute.c - changes that depend on what is stored, where sizes are fixed: the rounds of compute.c over copies.
 *
 *     lock, copy --> fn, without a lock --> lock: the same bytes? --yes--> keep, remove, replace
 *          ^                                         |no
 *          +-----------------------------------------+
 *
 *   P1  A decision is carried out only where the value is, byte by byte, what fn saw, or where there is none as there was none: so
 *       no change of others is lost.  That the key had other values in between is no matter.
 *   P2  A replacement allocates nothing; what is added, what a put does.
 */
#include "cache/change.h"

int pnx__cache_fixed_change_look(struct pnx_cache_change *change, bool first) {
    struct pnx_cache *cache = change->cache;
    struct pnx_cache_shard *shard = change->shard;
    struct pnx_cache_change_copies *copies = change->copies;
    const struct pnx_cache_shape *shape = &cache->shape;
    struct pnx_cache_effects fx = {0};
    const struct pnx_cache_fixed *record = NULL;
    uint32_t slot;
    int rc = 0;
    pnx__cache_fixed_lock(shard, &fx);
    if (pnx__cache_is_closed(cache)) {
        rc = -ESHUTDOWN;
    } else {
        if (first)
            record =
                    pnx__cache_fixed_use_locked(shard, change->hash, change->key, &fx, copies->now);
        else if ((record = pnx__cache_fixed_see_locked(
                          shard, change->hash, change->key, &fx, &slot)))
            pnx__cache_fixed_copy(record, shape->key_words, copies->now, shape->value_bytes);
        pnx_owner_add(first ? &shard->counters.computes : &shard->counters.compute_retries, 1);
    }
    copies->there = record != NULL;
    copies->expires = record ? pnx__cache_fixed_expires(cache, record) : 0;
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    return rc;
}

int pnx__cache_fixed_change_set(
        struct pnx_cache_change *change, const void *value, size_t value_size) {
    if (value_size != change->cache->shape.value_bytes)
        return -EINVAL;
    if (value)
        memcpy(change->copies->result, value, value_size);
    change->decision = PNX_CACHE_REPLACE;
    return 0;
}

/* Takes away what fn saw.  0, AGAIN, -ESHUTDOWN. */
static int remove_seen(const struct pnx_cache_change *change) {
    struct pnx_cache *cache = change->cache;
    struct pnx_cache_shard *shard = change->shard;
    const struct pnx_cache_change_copies *copies = change->copies;
    const struct pnx_cache_shape *shape = &cache->shape;
    struct pnx_cache_effects fx = {0};
    uint32_t slot;
    int rc = PNX_CACHE_CHANGE_AGAIN;
    pnx__cache_fixed_lock(shard, &fx);
    if (pnx__cache_is_closed(cache)) {
        rc = -ESHUTDOWN;
    } else {
        const struct pnx_cache_fixed *record =
                pnx__cache_fixed_see_locked(shard, change->hash, change->key, &fx, &slot);
        bool same = !record == !copies->there &&
                    (!record || memcmp(record->word + shape->key_words, copies->now,
                                        shape->value_bytes) == 0);
        if (same && record)
            pnx__cache_fixed_remove_locked(shard, slot, PNX_CACHE_EXPLICIT, false, &fx);
        if (same) {
            pnx__cache_overtake_locked(shard, change->hash, change->key, change->key_size);
            rc = 0;
        }
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    return rc;
}

static int replace(const struct pnx_cache_change *change) {
    struct pnx_cache *cache = change->cache;
    const struct pnx_cache_change_copies *copies = change->copies;
    struct pnx_cache_insert insert = {
            .key = change->key,
            .value = copies->result,
            .hash = change->hash,
            .ttl = change->ttl,
            .compare = true,
            .expected_value = copies->there ? copies->now : NULL,
    };
    if (change->keep_ttl && copies->there)
        insert.expires = copies->expires;
    if (insert.ttl == 0) /* relaxed: a number */
        insert.ttl = (pnx_ns)pnx_load(&cache->ttl, PNX_RELAXED, "cache_fixed.ttl_compute");
    int rc = pnx__cache_insert(cache, &insert);
    if (rc == -EFBIG || rc == -ENOMEM) { /* nothing was stored: that would have been replaced */
        pnx__cache_fixed_overtake(cache, change->hash, change->key);
        pnx__cache_reject(cache, cache->fixed_cost, rc);
    }
    return rc == PNX_E_CONFLICT ? PNX_CACHE_CHANGE_AGAIN : rc;
}

int pnx__cache_fixed_change_carry_out(struct pnx_cache_change *change) {
    if (change->decision == PNX_CACHE_REMOVE)
        return remove_seen(change);
    return change->decision == PNX_CACHE_REPLACE ? replace(change) : 0;
}
