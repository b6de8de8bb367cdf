/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed_get.c - caches of fixed sizes: looking up.  cache/fixed.h says why readers need no lock.
 *
 *   P1  A hit writes nothing but its count of hits, and takes no lock, unless the policy wants to be told of it in order.
 */
#include "cache/internal.h"

#include "base/hash_inline.h"

/* ---- looking, in a section ---- */

/* Copies the value of the key out, at the first try: 0, -ENOENT, or LOCK when it has to be asked for again.  In a section. */
__attribute__((always_inline)) static inline int find(const struct pnx_cache_shard *shard,
        uint64_t wants, uint32_t epoch, uint64_t hash, const void *key, size_t key_size,
        void *value, size_t value_size) {
    /* Acquire: pairs with cache_shard.publish; all of the table. */
    const struct pnx_cache_table *table = pnx_load(&shard->table, PNX_ACQUIRE, "cache_fixed.table");
    struct pnx_cache_found_fixed found;
    if (table->epoch != epoch ||
            !pnx__cache_fixed_search(table, hash, key, key_size,
                    PNX_CACHE_FIXED_STRIDE(key_size, value_size), false, &found))
        return -ENOENT;
    unsigned char
            copy[PNX_CACHE_VALUE_BYTES]; /* the caller's stays as it is unless this is found */
    pnx__cache_fixed_copy(found.record, (uint32_t)(key_size + 3) / 4, copy, value_size);
    /* Relaxed, all that follow: 2 in cache/fixed.h. */
    uint32_t expires = pnx_load(&found.record->expires, PNX_RELAXED, "cache_fixed.look_expires");
    uint32_t hits = pnx_load(&found.record->hits, PNX_RELAXED, "cache_fixed.hits");
    pnx_fence(PNX_ACQUIRE, "cache_fixed.read"); /* pairs with cache_fixed.write */
    uint32_t after = pnx_load(&found.record->seq, PNX_RELAXED, "cache_fixed.after");
    if (__builtin_expect(((after ^ found.seq) | (found.seq & 1)) != 0, 0))
        return PNX_CACHE_LOCK;
    if (expires != PNX_CACHE_TICK_NEVER && pnx__cache_tick_now(shard->cache) >= expires)
        return -ENOENT;
    if (hits < (uint8_t)(wants & PNX_CACHE_WANTS_HITS)) /* see pnx_cache_slot_bump() */
        pnx_store(&found.record->hits, (uint8_t)(hits + 1), PNX_RELAXED, "cache_fixed.set_hits");
    memcpy(value, copy, value_size);
    return 0;
}

int pnx__cache_fixed_find(const struct pnx_cache_shard *shard, uint64_t wants, uint64_t hash,
        const void *key, size_t key_size, void *value) {
    const struct pnx_cache *cache = shard->cache;
    size_t value_size = cache->shape.value_bytes;
    uint32_t epoch = pnx__cache_epoch(cache);
    return key_size == 8 && value_size == 8
                   ? find(shard, wants, epoch, hash, key, 8, value, 8)
                   : find(shard, wants, epoch, hash, key, key_size, value, value_size);
}

/* ---- the calls ---- */

/* Looks the key up as a use, and copies its value out. */
static int look_locked(struct pnx_cache_shard *shard, uint64_t hash, const void *key, void *value) {
    struct pnx_cache *cache = shard->cache;
    struct pnx_cache_effects fx = {0};
    int rc = -ESHUTDOWN;
    pnx__cache_fixed_lock(shard, &fx);
    if (!pnx__cache_is_closed(cache))
        rc = pnx__cache_fixed_use_locked(shard, hash, key, &fx, value) ? 0 : -ENOENT;
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    return rc;
}

#define LOOKS 4 /* at a record that is being written, before the lock is asked */

int pnx__cache_fixed_look(
        const struct pnx_cache *cache, uint64_t hash, const void *key, void *value) {
    const struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    /* Relaxed: as it comes. */
    uint64_t wants = pnx_load(&shard->wants, PNX_RELAXED, "cache_fixed.wants_again");
    int rc = PNX_CACHE_LOCK;
    pnx_reclaim_enter(NULL);
    for (uint32_t i = 0; i < LOOKS && rc == PNX_CACHE_LOCK && !pnx__cache_wants_lock(wants, hash);
            i++)
        rc = pnx__cache_fixed_find(shard, wants, hash, key, cache->shape.key_bytes, value);
    pnx_reclaim_exit(NULL);
    return rc;
}

/* The whole call, where the short way has not done. */
__attribute__((noinline)) static int get_slowly(struct pnx_cache *cache, const void *key,
        size_t key_size, void *buf, size_t cap, size_t *ret_size) {
    size_t value_size = cache->shape.value_bytes;
    if (key_size != cache->shape.key_bytes || !key || (!buf && cap > 0))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    if (!buf || cap < value_size) { /* without a buffer cap is 0 */
        if (ret_size)
            *ret_size = value_size;
        return -ERANGE;
    }
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    rc = pnx__cache_fixed_look(cache, hash, key, buf);
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    if (rc == PNX_CACHE_LOCK)
        rc = look_locked(pnx__cache_shard_of(cache, hash), hash, key, buf);
    if (rc == 0 && ret_size)
        *ret_size = value_size;
    if (rc == 0)
        PNX_CACHE_COUNT(cache, hits, 1);
    else if (rc == -ENOENT)
        PNX_CACHE_COUNT(cache, misses, 1);
    return rc;
}

/* The same in as few instructions as there can be, so that several lookups' cache misses overlap.  What is not as usual is left
 * to the slow way. */
__attribute__((always_inline)) static inline int get(struct pnx_cache *cache, const void *key,
        size_t key_size, void *buf, size_t value_size, size_t *ret_size) {
    struct pnx_thread *self = PNX_SELF;
    uint64_t hash = pnx__hash_inline(cache->seed, key, key_size);
    const struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    /* Relaxed: as it comes. */
    uint64_t wants = pnx_load(&shard->wants, PNX_RELAXED, "cache_fixed.wants");
    if (!self || self->number - 1 >= PNX_CACHE_CELLS - 1 || !pnx__fork_is(cache->fork_generation) ||
            pnx__cache_wants_lock(wants, hash))
        return get_slowly(cache, key, key_size, buf, value_size, ret_size);
    struct pnx_reclaim_section *section = (struct pnx_reclaim_section *)(void *)self;
    pnx__reclaim_enter_in(section, NULL);
    int rc = find(shard, wants, pnx__cache_epoch(cache), hash, key, key_size, buf, value_size);
    pnx__reclaim_exit_in(section, NULL);
    /* A closed cache has been cleared: its tables are too old. */
    if (rc != 0 && (rc == PNX_CACHE_LOCK || pnx__cache_is_closed(cache)))
        return get_slowly(cache, key, key_size, buf, value_size, ret_size);
    struct pnx_cache_cell *cell = &cache->cells[self->number];
    if (rc != 0) {
        pnx_owner_add(&cell->misses, 1);
        return rc;
    }
    if (ret_size)
        *ret_size = value_size;
    pnx_owner_add(&cell->hits, 1);
    return 0;
}

/* For the sizes that keys mostly have: numbers, UUIDs, digests; each with values of one word by itself, which needs few registers. */
#define GET(key_size) \
    __attribute__((noinline)) static int get_##key_size( \
            struct pnx_cache *cache, const void *key, void *buf, size_t *ret_size) { \
        return get(cache, key, key_size, buf, cache->shape.value_bytes, ret_size); \
    } \
    __attribute__((noinline)) static int get_##key_size##_word( \
            struct pnx_cache *cache, const void *key, void *buf, size_t *ret_size) { \
        return get(cache, key, key_size, buf, 8, ret_size); \
    }
GET(4)
GET(8)
GET(16)
GET(24)
GET(32)

__attribute__((noinline)) static int get_any(
        struct pnx_cache *cache, const void *key, void *buf, size_t *ret_size) {
    return get(cache, key, cache->shape.key_bytes, buf, cache->shape.value_bytes, ret_size);
}

int pnx__cache_fixed_get_copy(struct pnx_cache *cache, const void *key, size_t key_size, void *buf,
        size_t cap, size_t *ret_size) {
    if (key_size != cache->shape.key_bytes || cap < cache->shape.value_bytes || !key || !buf)
        return get_slowly(cache, key, key_size, buf, cap, ret_size);
    bool word = cache->shape.value_bytes == 8;
    switch (key_size) {
    case 4:
        return word ? get_4_word(cache, key, buf, ret_size) : get_4(cache, key, buf, ret_size);
    case 8:
        return word ? get_8_word(cache, key, buf, ret_size) : get_8(cache, key, buf, ret_size);
    case 16:
        return word ? get_16_word(cache, key, buf, ret_size) : get_16(cache, key, buf, ret_size);
    case 24:
        return word ? get_24_word(cache, key, buf, ret_size) : get_24(cache, key, buf, ret_size);
    case 32:
        return word ? get_32_word(cache, key, buf, ret_size) : get_32(cache, key, buf, ret_size);
    default:
        return get_any(cache, key, buf, ret_size);
    }
}
