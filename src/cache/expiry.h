/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/expiry.h - when entries expire: a time after they were stored, or after they were used.
 *
 *     stored -----ttl-----> hard: no lookup returns it any more ----kept for errors----> due: it is removed
 *     used --ttl_access--/ (whichever is first)
 *
 * The first of the two is fixed when the entry is stored.  The second moves with a stamp in the entry, which hits write, if
 * the one that is there is old enough.  The heap of a shard is ordered by what records say, which is due as it was when
 * somebody looked last: so hits do not touch the heap, and whoever takes the first one out of it looks again.
 */
#ifndef PNX_SRC_CACHE_EXPIRY_H
#define PNX_SRC_CACHE_EXPIRY_H

#include "cache/internal.h"

/* When lookups stop returning the entry. */
static inline pnx_ns pnx__cache_hard(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry) {
    pnx_ns hard = entry->expires;
    if (cache->ttl_access == PNX_NEVER || !(entry->flags & PNX_CACHE_ENTRY_TIMED))
        return hard;
    /* Relaxed: a number; who comes later may see an older one, and be as late as P11 says. */
    pnx_ns used =
            (pnx_ns)pnx_load(&pnx__cache_entry_times(entry)->used, PNX_RELAXED, "cache.used_at");
    pnx_ns unused = pnx__deadline(used, cache->ttl_access);
    return unused < hard ? unused : hard;
}

/* When it is to be removed. */
static inline pnx_ns pnx__cache_due(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry) {
    return pnx__deadline(pnx__cache_hard(cache, entry), cache->stale_if_error);
}

/* Whether one that has expired by now is kept for the case of an error. */
static inline bool pnx__cache_is_kept(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry, pnx_ns now) {
    return cache->stale_if_error && now < pnx__cache_due(cache, entry) &&
           !(entry->flags & PNX_CACHE_ENTRY_NEGATIVE);
}

/* Whether it has expired; *ret_now: the clock, which is read only where something may expire. */
static inline bool pnx__cache_expired(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry, pnx_ns *ret_now) {
    pnx_ns hard = pnx__cache_hard(cache, entry);
    if (hard == PNX_NEVER)
        return false;
    *ret_now = pnx__now(&cache->env);
    return *ret_now >= hard;
}

/* Writes down that the entry is used, if that is to be.  now: as pnx__cache_expired() has read it. */
static inline void pnx__cache_touch(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry, pnx_ns now) {
    if (cache->ttl_access == PNX_NEVER || !(entry->flags & PNX_CACHE_ENTRY_TIMED) || now == 0)
        return; /* now is 0 where the sum of times is past all clocks, so that nobody read one */
    struct pnx_a64 *used = &pnx__cache_entry_times(entry)->used;
    uint64_t was = pnx_load(used, PNX_RELAXED, "cache.used_before");
    if (now >= (pnx_ns)was && now - (pnx_ns)was < cache->touch_after)
        return;
    /* One that was preempted since it read the clock must not put an old time in the place of a new one.  Relaxed: a number.
     * A time that lies ahead is replaced, too: the clock has gone back. */
    pnx_cas(used, &was, (uint64_t)now, PNX_RELAXED, "cache.touch");
}

/* Fills in when the entry, which is being stored, expires. */
void pnx__cache_set_times(const struct pnx_cache *cache, struct pnx_cache_entry *entry,
        const struct pnx_cache_insert *insert);

/* Has the record and the heap say when the slot's entry is due now, and returns that. */
pnx_ns pnx__cache_settle_locked(struct pnx_cache_shard *shard, uint32_t slot);

/* The slot of an entry that has expired, the one that did so first as far as is known; or NONE. */
uint32_t pnx__cache_expired_slot_locked(struct pnx_cache_shard *shard);

/* For the check of invariants. */
bool pnx__cache_record_is_timely(const struct pnx_cache *cache, const struct pnx_cache_entry *entry,
        const struct pnx_cache_record *record);

#endif
