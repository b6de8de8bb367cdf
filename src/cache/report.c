/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/report.c - a cache's numbers as a struct, and its invariants.
 */
#include "cache/internal.h"

#include "base/error.h"
#include "cache/expiry.h"

uint64_t pnx__cache_pinned(const struct pnx_cache *cache) {
    uint64_t pinned = 0;
    for (uint32_t i = 0; i < PNX_CACHE_CELLS; i++) /* relaxed: numbers */
        pinned += pnx_load(&cache->cells[i].pinned, PNX_RELAXED, "cache.sum_pinned");
    return pinned;
}

/* Adds up what the cells count.  Relaxed, here and in what follows: numbers. */
static void sum_cells(const struct pnx_cache *cache, struct pnx_cache_values *sum) {
    for (uint32_t i = 0; i < PNX_CACHE_CELLS; i++) {
        const struct pnx_cache_cell *cell = &cache->cells[i];
        sum->hits.v += pnx_load(&cell->hits, PNX_RELAXED, "cache.sum_hits");
        sum->misses.v += pnx_load(&cell->misses, PNX_RELAXED, "cache.sum_misses");
        sum->negative_hits.v += pnx_load(&cell->negative_hits, PNX_RELAXED, "cache.sum_negative");
        sum->stale_hits.v += pnx_load(&cell->stale_hits, PNX_RELAXED, "cache.sum_stale");
    }
    sum->pinned.v = pnx__cache_pinned(cache);
}

static void sum_shard(const struct pnx_cache_shard *shard, struct pnx_cache_values *sum) {
#define PNX_STAT(stat_name, kind, unit, level, text) \
    sum->stat_name.v += \
            pnx_load(&shard->counters.stat_name, PNX_RELAXED, "cache.sum_shard_" #stat_name);
#define PNX_STAT_HISTOGRAM(stat_name, unit, level, text)
#include <patinox/stats/cache.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    sum->index.v += pnx_load(&shard->index_bytes, PNX_RELAXED, "cache.sum_index");
}

static uint64_t limit_shown(const struct pnx_a64 *limit) {
    uint64_t n = pnx_load(limit, PNX_RELAXED, "cache.sum_limit");
    return n == UINT64_MAX ? 0 : n;
}

void pnx__cache_sum(const struct pnx_cache *cache, struct pnx_cache_values *ret_values) {
    struct pnx_cache_values sum = {0};
    for (uint32_t i = 0; i < cache->n_shards; i++)
        sum_shard(&cache->shards[i], &sum);
    sum_cells(cache, &sum);
    sum.rejected.v = pnx_load(&cache->rejected, PNX_RELAXED, "cache.sum_rejected");
    sum.detached.v = pnx_load(&cache->detached, PNX_RELAXED, "cache.sum_detached");
    sum.reserved.v = pnx_load(&cache->reserved_bytes, PNX_RELAXED, "cache.sum_reserved");
    sum.deferred.v = pnx_load(&cache->all_deferred, PNX_RELAXED, "cache.sum_deferred");
    sum.bytes.v = pnx_load(&cache->used_bytes, PNX_RELAXED, "cache.sum_bytes");
    sum.entries.v = pnx_load(&cache->used_entries, PNX_RELAXED, "cache.sum_entries");
    sum.capacity.v = limit_shown(&cache->capacity);
    sum.weight.v = pnx_load(&cache->used_weight, PNX_RELAXED, "cache.sum_weight");
    sum.capacity_entries.v = limit_shown(&cache->capacity_entries);
    sum.capacity_weight.v = limit_shown(&cache->capacity_weight);
    *ret_values = sum;
}

/* The shards' histograms as one. */
static void refresh_ages(struct pnx_cache *cache) {
    struct pnx_histogram *sum = &cache->histograms.eviction_age;
    for (uint32_t b = 0; b <= PNX_HISTOGRAM_BUCKETS; b++) {
        uint64_t n = 0;
        for (uint32_t i = 0; i < cache->n_shards; i++) {
            const struct pnx_histogram *age = &cache->shards[i].eviction_age;
            n += pnx_load(b < PNX_HISTOGRAM_BUCKETS ? &age->bucket[b] : &age->sum, PNX_RELAXED,
                    "cache.sum_ages");
        }
        pnx_store(b < PNX_HISTOGRAM_BUCKETS ? &sum->bucket[b] : &sum->sum, n, PNX_RELAXED,
                "cache.fresh_ages");
    }
}

void pnx__cache_refresh(const struct pnx_stats_block *block) {
    struct pnx_cache *cache = PNX_CONTAINER(block, struct pnx_cache, block);
    struct pnx_cache_values sum;
    pnx__cache_sum(cache, &sum);
    refresh_ages(cache);
#define PNX_STAT(stat_name, kind, unit, level, text) \
    pnx_store(&cache->values.stat_name, sum.stat_name.v, PNX_RELAXED, "cache.fresh_" #stat_name);
#define PNX_STAT_HISTOGRAM(stat_name, unit, level, text)
#include <patinox/stats/cache.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
}

int pnx_cache_read_stats(struct pnx_cache *cache, struct pnx_cache_stats *ret_stats) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (!ret_stats || ret_stats->size < sizeof(ret_stats->size))
        return -EINVAL;
    struct pnx_cache_values sum;
    pnx__cache_sum(cache, &sum);
    struct pnx_cache_stats stats = {.size = ret_stats->size};
#define PNX_STAT(stat_name, kind, unit, level, text) stats.stat_name = sum.stat_name.v;
#define PNX_STAT_HISTOGRAM(stat_name, unit, level, text)
#include <patinox/stats/cache.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    memcpy(ret_stats, &stats, stats.size < sizeof(stats) ? stats.size : sizeof(stats));
    return 0;
}

/* The conservation laws of struct pnx_cache_shard. */
static const char *check_sums(const struct pnx_cache_shard *shard) {
    uint64_t bytes = 0, weight = 0;
    bool weighed = shard->cache->weigher != NULL;
    bool fixed = pnx__cache_is_fixed(shard->cache); /* fixed.c has seen to the bytes */
    for (uint32_t i = 0; !fixed && i < shard->used; i++) {
        const struct pnx_cache_entry *entry = pnx__cache_entry_of(shard, i);
        if (!entry)
            continue;
        size_t cost = pnx__cache_cost_of(entry);
        bytes += cost;
        if (entry->shard != shard || entry->u.in.seq >= shard->next_seq)
            return "an entry belongs to another cache or time";
        if (pnx_load(&entry->refs, PNX_RELAXED, "cache.check_refs") == 0)
            return "a stored entry has no reference";
        const struct pnx_cache_record *record = pnx__cache_record(shard->own_table, i);
        weight += weighed ? record->weight : 0;
        if ((weighed ? record->weight == 0 : record->weight != cost) ||
                !pnx__cache_record_is_timely(shard->cache, entry, record))
            return "a record does not say what its entry does";
    }
    if (!fixed && bytes != pnx_load(&shard->bytes, PNX_RELAXED, "cache.check_bytes"))
        return "the bytes do not add up";
    if (weight != pnx_load(&shard->weight, PNX_RELAXED, "cache.check_weight"))
        return "the weights do not add up";
#define LOADED(stat_name) \
    pnx_load(&shard->counters.stat_name, PNX_RELAXED, "cache.check_" #stat_name)
    uint64_t removed = LOADED(removed_explicit) + LOADED(removed_replaced) + LOADED(removed_size) +
                       LOADED(removed_expired) + LOADED(removed_clear) + LOADED(removed_closed);
    if (LOADED(inserts) != removed + shard->live ||
            pnx_load(&shard->entries, PNX_RELAXED, "cache.check_entries") != shard->live)
        return "the entries do not add up";
#undef LOADED
    return NULL;
}

/* With one shard, what counts against the capacity is what is there, and what an insert under way has taken out. */
static const char *check_room(const struct pnx_cache *cache) {
    uint64_t bytes = pnx_load(&cache->used_bytes, PNX_RELAXED, "cache.check_used");
    uint64_t entries = pnx_load(&cache->used_entries, PNX_RELAXED, "cache.check_held");
    uint64_t weight = pnx_load(&cache->used_weight, PNX_RELAXED, "cache.check_weighs");
    if (pnx_load(&cache->resizing, PNX_RELAXED, "cache.check_resizing") == 0 &&
            (bytes > pnx_load(&cache->capacity, PNX_RELAXED, "cache.check_limit") ||
                    entries > pnx_load(&cache->capacity_entries, PNX_RELAXED, "cache.check_most") ||
                    weight > pnx_load(&cache->capacity_weight, PNX_RELAXED, "cache.check_heavy")))
        return "the capacity is exceeded";
    if (cache->n_shards == 1 &&
            (bytes < pnx_load(&cache->shards->bytes, PNX_RELAXED, "cache.check_own_bytes") ||
                    weight < pnx_load(&cache->shards->weight, PNX_RELAXED,
                                     "cache.check_weighs_own") ||
                    entries < cache->shards->live))
        return "entries are stored that nobody took room for";
    return NULL;
}

int pnx_cache_check(struct pnx_cache *cache, struct pnx_error *err) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    const char *broken = NULL;
    for (uint32_t i = 0; !broken && i < cache->n_shards; i++) {
        struct pnx_cache_shard *shard = &cache->shards[i];
        struct pnx_cache_effects fx = {0};
        pnx__cache_lock_current(shard, &fx);
        broken = pnx__cache_shard_check(shard);
        if (!broken)
            broken = check_sums(shard);
        if (!broken)
            broken = pnx__cache_loads_check(shard);
        if (!broken)
            broken = check_room(cache);
        pnx__cache_unlock(shard, &fx);
        pnx__cache_run(cache, &fx);
    }
    return broken ? pnx__fail(err, PNX_E_BROKEN, 0, "check", "cache \"%.64s\": %s", cache->name,
                            broken)
                  : 0;
}
