/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed_load.c - loads where sizes are fixed.
 *
 * A load is one like others (cache/load.h): what its loader makes stands in a block of its own, with the pins of all who are to
 * have it, and each of them copies it out.  Only looking, and storing what was made, are different: they copy from and to a record.
 * A record has no room for an absence, so none is remembered.
 */
#include "cache/load.h"

int pnx__cache_fixed_look_free(
        struct pnx_cache *cache, uint64_t hash, const void *key, void *value) {
    int rc = pnx__cache_fixed_look(cache, hash, key, value);
    if (rc == 0) {
        PNX_CACHE_COUNT(cache, hits, 1);
        pnx__cache_curve_note(cache, hash);
    }
    return rc;
}

int pnx__cache_fixed_look_for_load(struct pnx_cache_load *load, unsigned how) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_cache_effects fx = {0};
    int rc;
    pnx__cache_fixed_lock(shard, &fx);
    if (pnx__cache_is_closed(cache)) {
        rc = -ESHUTDOWN;
    } else if (pnx__cache_fixed_use_locked(shard, load->hash, load->key, &fx, load->copy)) {
        rc = 0;
    } else if (pnx__cache_load_find_locked(shard, load->hash, load->key, load->key_size, true)) {
        rc = PNX_CACHE_LOOK_WAIT;
    } else {
        if (!(how & PNX_CACHE_LOOK_ONLY))
            pnx__cache_load_begin_locked(load, PNX_CACHE_LOAD_RUNNING, NULL);
        rc = PNX_CACHE_LOOK_LEAD;
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    return rc;
}

int pnx__cache_fixed_store_result(struct pnx_cache_load *load) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_insert insert = {.key = load->key,
            .value = load->result + 1,
            .hash = load->hash,
            .load = load,
            .ttl = load->ttl};
    if (insert.ttl == 0) /* relaxed: a number */
        insert.ttl = (pnx_ns)pnx_load(&cache->ttl, PNX_RELAXED, "cache_fixed.ttl_load");
    int rc = pnx__cache_insert(cache, &insert);
    if (rc == -EFBIG || rc == -ENOMEM)
        pnx__cache_reject(cache, cache->fixed_cost, rc);
    return rc;
}

void pnx__cache_fixed_remove_old(struct pnx_cache_load *load) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_cache_effects fx = {0};
    uint32_t slot;
    pnx__cache_fixed_lock(shard, &fx);
    if (!pnx__cache_is_closed(cache) && !pnx__cache_load_overtaken(load) &&
            pnx__cache_fixed_see_locked(shard, load->hash, load->key, &fx, &slot))
        pnx__cache_fixed_remove_locked(shard, slot, PNX_CACHE_EXPLICIT, false, &fx);
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
}

void pnx__cache_fixed_overtake(struct pnx_cache *cache, uint64_t hash, const void *key) {
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    pnx__mutex_lock(&shard->lock);
    pnx__cache_overtake_locked(shard, hash, key, cache->shape.key_bytes);
    pnx__mutex_unlock(&shard->lock);
}
