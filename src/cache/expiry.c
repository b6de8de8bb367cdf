/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/expiry.c - when entries expire: see cache/expiry.h.
 *
 *   P1  A record says no earlier time than the one at which its entry was due when it was stored or settled last.
 */
#include "cache/expiry.h"

#include "cache/load.h"

/* Entries that one call looks at which turn out to have been used meanwhile. */
#define SETTLE_MAX 8

/* A number that differs from entry to entry, and is not to be foreseen by who does not know the cache's seed. */
static uint64_t scatter(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Shortens a time to live by up to ttl_jitter per cent; not to nothing. */
static pnx_ns shorten(const struct pnx_cache *cache, pnx_ns ttl, uint64_t random) {
    if (cache->ttl_jitter == 0 || ttl == PNX_NEVER)
        return ttl;
    /* In two steps of 2^-32, so that nothing overflows. */
    uint64_t most =
            (uint64_t)ttl / 100 * cache->ttl_jitter + (uint64_t)ttl % 100 * cache->ttl_jitter / 100;
    uint64_t part = random >> 32;
    uint64_t less = (most >> 32) * part + (((most & UINT32_MAX) * part) >> 32);
    return less >= (uint64_t)ttl ? 1 : ttl - (pnx_ns)less;
}

void pnx__cache_set_times(const struct pnx_cache *cache, struct pnx_cache_entry *entry,
        const struct pnx_cache_insert *insert) {
    bool timed = (entry->flags & PNX_CACHE_ENTRY_TIMED) != 0;
    pnx_ns ttl = insert->ttl;
    if (ttl == 0) /* relaxed: a number */
        ttl = (pnx_ns)pnx_load(&cache->ttl, PNX_RELAXED, "cache.ttl_now");
    entry->expires = PNX_NEVER;
    if (ttl == PNX_NEVER && !timed)
        return;
    pnx_ns now = pnx__now(&cache->env);
    uint64_t random = scatter(insert->hash ^ entry->u.in.seq);
    if (ttl != PNX_NEVER)
        entry->expires = pnx__deadline(now, shorten(cache, ttl, random));
    if (!timed)
        return;
    pnx_ns soft = insert->soft ? insert->soft : cache->refresh_after;
    if (soft != PNX_NEVER)
        soft = pnx__deadline(now, shorten(cache, soft, random));
    if (insert->soft_at)
        soft = insert->soft_at;
    struct pnx_cache_times *times = pnx__cache_entry_times(entry);
    /* Relaxed, both: nobody else knows the entry yet. */
    pnx_store(&times->used, (uint64_t)now, PNX_RELAXED, "cache.first_use");
    pnx_store(&times->soft, pnx__cache_soft_word(soft), PNX_RELAXED, "cache.first_soft");
}

pnx_ns pnx__cache_settle_locked(struct pnx_cache_shard *shard, uint32_t slot) {
    struct pnx_cache_record *record = pnx__cache_record(shard->own_table, slot);
    pnx_ns due = pnx__cache_due(shard->cache, pnx__cache_entry_of(shard, slot));
    if (due == record->expires)
        return due;
    pnx__cache_heap_remove(shard, slot);
    record->expires = due;
    pnx__cache_heap_push(shard, slot);
    if (shard->policy->expiry)
        shard->policy->expiry(shard->policy_state, slot);
    return due;
}

uint32_t pnx__cache_expired_slot_locked(struct pnx_cache_shard *shard) {
    const struct pnx_cache *cache = shard->cache;
    uint32_t slot = pnx__cache_heap_first(shard);
    if (slot == PNX_CACHE_NONE)
        return PNX_CACHE_NONE;
    pnx_ns now = pnx__now(&cache->env);
    for (int n = 0; n < SETTLE_MAX; n++) {
        slot = pnx__cache_heap_first(shard);
        /* What is kept for errors goes before what has not expired. */
        if (pnx__cache_record(shard->own_table, slot)->expires - cache->stale_if_error > now)
            return PNX_CACHE_NONE;
        pnx__cache_settle_locked(shard, slot);
        if (pnx__cache_hard(cache, pnx__cache_entry_of(shard, slot)) <= now)
            return slot;
    }
    return PNX_CACHE_NONE;
}

bool pnx__cache_record_is_timely(const struct pnx_cache *cache, const struct pnx_cache_entry *entry,
        const struct pnx_cache_record *record) {
    pnx_ns due = pnx__cache_due(cache, entry);
    if (record->expires == due)
        return true;
    /* It was used since; or the clock has gone back. */
    return cache->ttl_access != PNX_NEVER && due != PNX_NEVER && record->expires != PNX_NEVER;
}
