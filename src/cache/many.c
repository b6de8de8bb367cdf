/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/many.c - lookups of many keys at once: what one waits for from memory, all wait for together.
 *
 *     hash all, fetch their lines --> read tags, fetch records --> read records, fetch entries --> look up as ever
 *
 *   P1  The first three steps only guess what to fetch; the fourth is the same lookup as that of one key.
 */
#include "cache/internal.h"

#include "base/hash.h"
#include "cache/load.h"

struct many {
    struct pnx_cache *cache;
    const unsigned char *keys;
    size_t key_size;
    size_t n;
    unsigned char *values;
    size_t value_size;
    uint64_t found;
    uint64_t again; /* those that have to be asked for under the lock */
    uint64_t hits;
    uint64_t negative_hits;
    uint64_t misses;
    size_t record_bytes;
    uint64_t hash[PNX_CACHE_MANY_MAX];
    const struct pnx_cache_table *table[PNX_CACHE_MANY_MAX];
    const void *next[PNX_CACHE_MANY_MAX]; /* what was fetched: line, record; or NULL */
};

static void fetch_lines(struct many *many) {
    for (size_t i = 0; i < many->n; i++) {
        many->hash[i] =
                pnx__hash(many->cache->seed, many->keys + i * many->key_size, many->key_size);
        /* Acquire: pairs with cache_shard.publish. */
        many->table[i] = pnx_load(&pnx__cache_shard_of(many->cache, many->hash[i])->table,
                PNX_ACQUIRE, "cache_many.table");
        many->next[i] =
                pnx__cache_is_fixed(many->cache)
                        ? (const void *)&many->table[i]
                                  ->groups[pnx__cache_fixed_home(many->table[i], many->hash[i])]
                        : pnx__cache_home(many->table[i], pnx__cache_hash_high(many->hash[i]));
        __builtin_prefetch(many->next[i]);
    }
}

/* The record of the first slot in the group with the key's tag. */
static const void *guess_fixed(const struct many *many, size_t i) {
    const struct pnx_cache_group *group = many->next[i];
    /* Relaxed, both: 3 in cache/fixed.h. */
    uint64_t low = pnx_load(&group->low, PNX_RELAXED, "cache_many.low");
    uint64_t high = pnx_load(&group->high, PNX_RELAXED, "cache_many.high");
    uint64_t m = pnx__cache_group_match(low, high, pnx__cache_tag(many->hash[i]));
    if (!m)
        return NULL;
    uint32_t in = (uint32_t)(group - many->table[i]->groups) * PNX_CACHE_GROUP_SLOTS;
    return pnx__cache_fixed_at(many->table[i], in + pnx__bytes16_position(m));
}

/* The record of the first slot in the line with the key's tag. */
static const void *guess_record(const struct many *many, size_t i) {
    if (pnx__cache_is_fixed(many->cache))
        return guess_fixed(many, i);
    const struct pnx_cache_line *line = many->next[i];
    uint32_t tag = pnx__cache_tag(many->hash[i]);
    /* Acquire, all: as in cache/table.h, where their partners are. */
    uint64_t low = pnx_load(&line->tags_low, PNX_ACQUIRE, "cache_many.tags_low");
    uint64_t high = pnx_load(&line->tags_high, PNX_ACQUIRE, "cache_many.tags_high");
    uint64_t m = pnx__cache_match(low, high, tag);
    if (!m)
        return NULL;
    uint32_t position = pnx__cache_position(m);
    uint32_t slot = pnx_load(&line->slot[position], PNX_ACQUIRE, "cache_many.slot");
    return pnx__cache_record(many->table[i], slot);
}

static void fetch_records(struct many *many) {
    for (size_t i = 0; i < many->n; i++) {
        many->next[i] = guess_record(many, i);
        if (!many->next[i])
            continue;
        __builtin_prefetch(many->next[i]);
        __builtin_prefetch((const char *)many->next[i] + many->record_bytes - 1);
    }
}

static void fetch_entries(struct many *many) {
    for (size_t i = 0; i < many->n; i++) {
        const struct pnx_cache_record *record = many->next[i];
        if (!record)
            continue;
        /* Relaxed: only its address is used. */
        const char *entry = pnx_load(&record->entry, PNX_RELAXED, "cache_many.entry");
        if (!entry)
            continue;
        __builtin_prefetch(entry);
        __builtin_prefetch(entry + sizeof(struct pnx_cache_entry));
    }
}

static void take(struct many *many, size_t i, const struct pnx_cache_entry *entry) {
    many->hits++;
    if ((entry->flags & PNX_CACHE_ENTRY_POINTER) || entry->value_size != many->value_size)
        return;
    if (many->value_size > 0)
        memcpy(many->values + i * many->value_size, entry + 1, many->value_size);
    many->found |= UINT64_C(1) << i;
}

static void count(struct many *many, size_t i, int rc) {
    if (rc == PNX_CACHE_LOCK)
        many->again |= UINT64_C(1) << i;
    else if (rc == PNX_CACHE_ABSENT)
        many->negative_hits++;
    else if (rc != 0)
        many->misses++;
}

static void look_up_fixed(struct many *many) {
    for (size_t i = 0; i < many->n; i++) {
        const struct pnx_cache_shard *shard = pnx__cache_shard_of(many->cache, many->hash[i]);
        /* Relaxed: as it comes. */
        uint64_t wants = pnx_load(&shard->wants, PNX_RELAXED, "cache_many.fixed_wants");
        int rc = PNX_CACHE_LOCK;
        if (!pnx__cache_wants_lock(wants, many->hash[i]))
            rc = pnx__cache_fixed_find(shard, wants, many->hash[i], many->keys + i * many->key_size,
                    many->key_size, many->values + i * many->value_size);
        if (rc == 0) {
            many->hits++;
            many->found |= UINT64_C(1) << i;
        }
        count(many, i, rc);
    }
}

static void look_up(struct many *many) {
    for (size_t i = 0; i < many->n; i++) {
        struct pnx_cache_shard *shard = pnx__cache_shard_of(many->cache, many->hash[i]);
        struct pnx_cache_entry *entry = NULL;
        /* Relaxed: as it comes. */
        uint64_t wants = pnx_load(&shard->wants, PNX_RELAXED, "cache_many.wants");
        int rc = PNX_CACHE_LOCK;
        if (!pnx__cache_wants_lock(wants, many->hash[i]))
            rc = pnx__cache_find_free(shard, wants, many->hash[i], many->keys + i * many->key_size,
                    many->key_size, &entry);
        if (rc == 0 && pnx__cache_to_be_refreshed(many->cache, entry))
            rc = PNX_CACHE_LOCK; /* for one reason or the other not in the section */
        if (rc == 0)
            take(many, i, entry);
        count(many, i, rc);
    }
}

/* The keys left over, one by one; each counts for itself. */
static int ask_again(struct many *many) {
    for (uint64_t left = many->again; left; left &= left - 1) {
        size_t i = (size_t)__builtin_ctzll(left);
        struct pnx_cache_ref ref = {0};
        if (pnx__cache_is_fixed(many->cache)) {
            int rc = pnx_cache_get_copy(many->cache, many->keys + i * many->key_size,
                    many->key_size, many->values + i * many->value_size, many->value_size, NULL);
            if (rc == -ESHUTDOWN)
                return rc;
            many->found |= (uint64_t)(rc == 0) << i;
            continue;
        }
        int rc = pnx_cache_get(many->cache, many->keys + i * many->key_size, many->key_size, &ref);
        if (rc == -ESHUTDOWN)
            return rc;
        if (rc == 0) {
            take(many, i, ref.entry);
            many->hits--; /* counted already */
        }
        pnx_cache_ref_release(&ref);
    }
    return 0;
}

int pnx_cache_get_many(struct pnx_cache *cache, const void *keys, size_t key_size, size_t n,
        void *values, size_t value_size, uint64_t *ret_found) {
    if ((!keys && key_size > 0 && n > 0) || (!values && value_size > 0 && n > 0) || !ret_found)
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (n > PNX_CACHE_MANY_MAX || key_size > UINT32_MAX)
        return -E2BIG;
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    if (pnx__cache_is_fixed(cache) &&
            (key_size != cache->shape.key_bytes || value_size != cache->shape.value_bytes))
        return -EINVAL;
    struct many many;
    many.cache = cache;
    many.keys = keys;
    many.key_size = key_size;
    many.n = n;
    many.values = values;
    many.value_size = value_size;
    many.record_bytes = cache->shape.stride;
    many.found = many.again = many.hits = many.negative_hits = many.misses = 0;
    pnx_reclaim_enter(NULL);
    fetch_lines(&many);
    fetch_records(&many);
    if (pnx__cache_is_fixed(cache)) {
        look_up_fixed(&many);
    } else {
        fetch_entries(&many);
        look_up(&many);
    }
    pnx_reclaim_exit(NULL);
    for (size_t i = 0; cache->curve && i < n; i++) {
        if (!(many.again & UINT64_C(1) << i)) /* those are asked for one by one */
            pnx__cache_curve_note(cache, many.hash[i]);
    }
    rc = ask_again(&many);
    if (many.hits)
        PNX_CACHE_COUNT(cache, hits, many.hits);
    if (many.negative_hits)
        PNX_CACHE_COUNT(cache, negative_hits, many.negative_hits);
    if (many.misses)
        PNX_CACHE_COUNT(cache, misses, many.misses);
    if (rc)
        return rc;
    *ret_found = many.found;
    return __builtin_popcountll(many.found);
}
