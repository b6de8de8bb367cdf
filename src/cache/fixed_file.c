/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed_file.c - what file_write.c and file_read.c want of a cache of fixed sizes, beside a walk: one entry that is to be
 * written, and storing one that was read.
 *
 *   P1  What is written was one entry's key and value, copied under its shard's lock.
 *   P2  A time to live is saved as what is left of it in whole ticks, so that none is longer for having been saved.
 */
#include "cache/file.h"

#include "base/env.h"

/* Looks in one group for the key with that hash; *ret_high: that word. */
static const struct pnx_cache_fixed *find_in_group(const struct pnx_cache *cache,
        const struct pnx_cache_table *table, uint32_t g, uint64_t hash, uint64_t *ret_high) {
    /* Relaxed, all: the lock is held. */
    uint64_t low = pnx_load(&table->groups[g].low, PNX_RELAXED, "cache_fixed.fetch_low");
    *ret_high = pnx_load(&table->groups[g].high, PNX_RELAXED, "cache_fixed.fetch_high");
    uint64_t m = pnx__cache_group_match(low, *ret_high, pnx__cache_tag(hash));
    for (; m; m &= m - 1) {
        const struct pnx_cache_fixed *record =
                pnx__cache_fixed_at(table, g * PNX_CACHE_GROUP_SLOTS + pnx__bytes16_position(m));
        if (!(pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.fetch_seq") & 1) &&
                pnx__cache_fixed_hash(cache, record) == hash)
            return record;
    }
    return NULL;
}

/*
 * The record of the key with that hash, or NULL.  Where two keys have the same one, which happens in one of 32 caches of 2^30 entries,
 * one of them is found for both.
 */
static const struct pnx_cache_fixed *find_by_hash(
        const struct pnx_cache *cache, const struct pnx_cache_table *table, uint64_t hash) {
    uint64_t high;
    uint32_t g = pnx__cache_fixed_home(table, hash);
    const struct pnx_cache_fixed *record = find_in_group(cache, table, g, hash, &high);
    if (record || !(high >> PNX_CACHE_LEFT_SHIFT & PNX_CACHE_PASSED_MOST))
        return record;
    g = pnx__cache_fixed_second(table, hash, g);
    for (uint32_t looked = 0; looked < table->n_lines; looked++) {
        record = find_in_group(cache, table, g, hash, &high);
        if (record || !(high >> PNX_CACHE_PASSED_SHIFT))
            return record;
        g = pnx__cache_fixed_after(table, g);
    }
    return NULL;
}

bool pnx__cache_fixed_fetch(struct pnx_cache *cache, const struct pnx_cache_pick *pick,
        struct pnx_cache_file_record *ret_record, void *bytes) {
    const struct pnx_cache_shape *shape = &cache->shape;
    struct pnx_cache_shard *shard = &cache->shards[pick->shard];
    struct pnx_cache_effects fx = {0};
    pnx_ns expires = PNX_NEVER;
    const struct pnx_cache_fixed *record = NULL;
    pnx__cache_fixed_lock(shard, &fx);
    if (!pnx__cache_is_closed(cache))
        record = find_by_hash(cache, shard->own_table, pick->seq);
    if (record) {
        expires = pnx__cache_fixed_expires(cache, record);
        memcpy(bytes, record->word, shape->key_bytes);
        pnx__cache_fixed_copy(
                record, shape->key_words, (char *)bytes + shape->key_bytes, shape->value_bytes);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    uint64_t hits = pick->heat >> 32;
    *ret_record = (struct pnx_cache_file_record){
            .value_size = shape->value_bytes,
            .ttl = expires == PNX_NEVER ? PNX_NEVER : expires - pnx__now(&cache->env),
            .key_size = shape->key_bytes,
            .hits = (uint16_t)(hits < PNX_CACHE_FILE_HITS ? hits : PNX_CACHE_FILE_HITS),
    };
    return record != NULL;
}

int pnx__cache_fixed_restore(struct pnx_cache *cache, const struct pnx_cache_file_record *record,
        pnx_ns left, const void *key, const void *value) {
    const struct pnx_cache_insert insert = {
            .key = key,
            .value = value,
            .hash = pnx__hash(cache->seed, key, record->key_size),
            .expires = pnx__deadline(left == PNX_NEVER ? 0 : pnx__now(&cache->env), left),
            .if_absent = true,
            .hits = record->hits,
            .no_reclaim = true,
    };
    return pnx__cache_insert(cache, &insert);
}
