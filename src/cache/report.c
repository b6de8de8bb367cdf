/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/report.c - a cache's numbers as a struct, and its invariants.
 */
#include "cache/internal.h"

#include "base/error.h"

int pnx_cache_read_stats(struct pnx_cache *cache, struct pnx_cache_stats *ret_stats) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (!ret_stats || ret_stats->size < sizeof(ret_stats->size))
        return -EINVAL;
    struct pnx_cache_stats stats = {.size = ret_stats->size};
    pnx__mutex_lock(&cache->lock);
#define PNX_STAT(stat_name, kind, unit, level, text) \
    stats.stat_name = pnx_load(&cache->values.stat_name, PNX_RELAXED, "cache.stats_" #stat_name);
#define PNX_STAT_HISTOGRAM(stat_name, unit, level, text)
#include <patinox/stats/cache.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    pnx__mutex_unlock(&cache->lock);
    memcpy(ret_stats, &stats, stats.size < sizeof(stats) ? stats.size : sizeof(stats));
    return 0;
}

/* The conservation laws of struct pnx_cache. */
static const char *check_sums(const struct pnx_cache *cache) {
    const struct pnx_cache_index *ix = &cache->index;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < ix->used; i++) {
        const struct pnx_cache_entry *entry = pnx__cache_slot(ix, i)->entry;
        if (!entry)
            continue;
        bytes += pnx__cache_cost_of(entry);
        if (entry->cache != cache || entry->seq >= cache->next_seq)
            return "an entry belongs to another cache or time";
        if (pnx_load(&entry->refs, PNX_RELAXED, "cache.check_refs") == 0)
            return "a stored entry has no reference";
    }
    if (bytes != pnx__cache_bytes_locked(cache))
        return "the bytes do not add up";
    if (!cache->resizing && (bytes > cache->capacity || ix->live > cache->capacity_entries))
        return "the capacity is exceeded";
#define LOADED(stat_name) pnx_load(&cache->values.stat_name, PNX_RELAXED, "cache.check_" #stat_name)
    uint64_t removed = LOADED(removed_explicit) + LOADED(removed_replaced) + LOADED(removed_size) +
                       LOADED(removed_expired) + LOADED(removed_clear) + LOADED(removed_closed);
    if (LOADED(inserts) != removed + ix->live || LOADED(entries) != ix->live)
        return "the entries do not add up";
    if (LOADED(index) != ix->bytes)
        return "the bytes of the index are not those published";
#undef LOADED
    return NULL;
}

int pnx_cache_check(struct pnx_cache *cache, struct pnx_error *err) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    pnx__mutex_lock(&cache->lock);
    const char *broken = pnx__cache_index_check(&cache->index);
    if (!broken)
        broken = check_sums(cache);
    if (!broken)
        broken = pnx__cache_loads_check(cache);
    pnx__mutex_unlock(&cache->lock);
    return broken ? pnx__fail(err, PNX_E_BROKEN, 0, "check", "cache \"%.64s\": %s", cache->name,
                            broken)
                  : 0;
}
