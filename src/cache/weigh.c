/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/weigh.c - what a value weighs: the user's function is asked once for each value that is to be stored.
 *
 *     value made --weigher, no lock held--> weight --> charged to the budget, stored
 *                                             +--more than the capacity--> -EFBIG
 *
 * The weight stands in the slot's record, as the bytes do where there is no weigher, and in no entry: only what is stored has
 * one.  It is never asked for again, so that what is taken out gives back exactly what it took.
 *
 *   P1  Each entry that is stored weighs at least 1, and at most what the capacity was when it was weighed.  Thus there are
 *       never more entries than the capacity says, whatever the function returns, and no shard that holds something weighs
 *       nothing.
 *   P2  The function runs with no lock held.  Whoever waits for the key meanwhile waits for the thread on which it runs.
 */
#include "cache/internal.h"

int pnx__cache_weigh(struct pnx_cache *cache, struct pnx_cache_insert *insert) {
    const struct pnx_cache_entry *entry = insert->entry;
    if (!cache->weigher)
        return 0;
    bool absence = entry->flags & PNX_CACHE_ENTRY_NEGATIVE;
    PNX_CACHE_CALLING(returned);
    pnx__mutex_assert_none_held();
    struct pnx_thread *self = pnx__call_begin();
    uint64_t weight = cache->weigher(cache->weigher_ctx, pnx__cache_entry_key(entry),
            entry->key_size, absence ? NULL : pnx__cache_entry_value(entry), entry->value_size);
    pnx__call_end(&self);
    returned = true;
    pnx__mutex_assert_none_held();
    if (pnx__cache_enter(cache) != 0)
        return PNX_CACHE_FORKED;
    insert->weight = weight ? weight : 1;
    /* Relaxed: a resize may come between; inserting looks again. */
    uint64_t limit = pnx_load(&cache->capacity_weight, PNX_RELAXED, "cache.weigh_limit");
    return insert->weight > limit ? -EFBIG : 0;
}
