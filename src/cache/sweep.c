/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/sweep.c - the calls that touch many entries: clear, walk, tick, resize, reclaim.
 *
 *   P1  None holds the lock for more than a batch of entries.
 *   P2  A clear takes effect for all readers at one moment, whatever time the removal takes.
 *   P3  A walk visits each entry that is there all the time exactly once, with no lock held.
 */
#include "cache/internal.h"

#include "base/error.h"

/* ---- clearing ---- */

void pnx__cache_sweep(struct pnx_cache *cache, enum pnx_cache_cause cause) {
    /*
     * From the last slot down: compaction moves the last slot into a hole, so what is moved has been looked at,
     * or is newer than the clear and need not be.
     */
    uint32_t at = UINT32_MAX;
    while (at > 0) {
        struct pnx_cache_effects fx = {0};
        pnx__mutex_lock(&cache->lock);
        struct pnx_cache_index *ix = &cache->index;
        for (uint32_t looked = 0; at > 0 && looked < 4 * PNX_CACHE_BATCH; looked++) {
            if (at > ix->used)
                at = ix->used;
            if (at == 0 || fx.count >= PNX_CACHE_BATCH)
                break;
            struct pnx_cache_entry *entry = pnx__cache_slot(ix, --at)->entry;
            if (entry && entry->seq < cache->clear_seq)
                pnx__cache_remove_locked(cache, entry, cause, &fx);
        }
        pnx__mutex_unlock(&cache->lock);
        pnx__cache_run(cache, &fx);
    }
    pnx__cache_update_row(cache);
}

int pnx_cache_clear(struct pnx_cache *cache) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    pnx__mutex_lock(&cache->lock);
    bool closed = cache->closed;
    if (!closed) {
        cache->clear_seq = cache->next_seq;
        pnx__cache_overtake_all_locked(cache);
    }
    pnx__mutex_unlock(&cache->lock);
    if (closed)
        return -ESHUTDOWN;
    pnx__cache_sweep(cache, PNX_CACHE_CLEAR);
    return 0;
}

/* ---- walking ---- */

#define WALK_BATCH 32

/* Where a walk is: slots from at to end are to be looked at, for entries stored before seq. */
struct walk {
    struct pnx_cache_entry *entry[WALK_BATCH]; /* pinned */
    uint32_t count;
    uint32_t at;
    uint32_t end;
    uint64_t seq;
};

static bool walk_sees(
        const struct pnx_cache *cache, const struct pnx_cache_slot *slot, const struct walk *walk) {
    const struct pnx_cache_entry *entry = slot->entry;
    if (!entry || entry->seq >= walk->seq || entry->seq < cache->clear_seq)
        return false;
    if (entry->flags & PNX_CACHE_ENTRY_NEGATIVE)
        return false;
    return slot->expires == PNX_NEVER || pnx__now(&cache->env) < slot->expires;
}

static void walk_next(struct pnx_cache *cache, struct walk *walk) {
    const struct pnx_cache_index *ix = &cache->index;
    walk->count = 0;
    pnx__mutex_lock(&cache->lock);
    uint32_t looked = 0;
    while (walk->at < walk->end && walk->at < ix->used && walk->count < WALK_BATCH &&
            looked < 4 * PNX_CACHE_BATCH) {
        const struct pnx_cache_slot *slot = pnx__cache_slot(ix, walk->at++);
        looked++;
        if (!walk_sees(cache, slot, walk))
            continue;
        pnx__cache_pin(slot->entry, 1);
        walk->entry[walk->count++] = slot->entry;
    }
    if (walk->at >= ix->used)
        walk->at = walk->end;
    pnx__mutex_unlock(&cache->lock);
}

static void walk_end(struct pnx_cache *cache) {
    pnx__mutex_lock(&cache->lock);
    cache->index.walks--;
    pnx__mutex_unlock(&cache->lock);
    for (bool tidy = false; !tidy;) {
        struct pnx_cache_effects fx = {0};
        pnx__mutex_lock(&cache->lock);
        tidy = pnx__cache_index_compact(&cache->index, PNX_CACHE_BATCH, &fx.spare);
        pnx_store(&cache->values.index, cache->index.bytes, PNX_RELAXED, "cache.index_tidy");
        pnx__mutex_unlock(&cache->lock);
        pnx__cache_run(cache, &fx);
    }
}

int pnx_cache_each(struct pnx_cache *cache,
        int (*visit)(void *ctx, const struct pnx_cache_ref *ref), void *ctx) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (!visit)
        return -EINVAL;
    struct walk walk = {0};
    pnx__mutex_lock(&cache->lock);
    bool closed = cache->closed;
    if (!closed) {
        cache->index.walks++;
        walk.end = cache->index.used;
        walk.seq = cache->next_seq;
    }
    pnx__mutex_unlock(&cache->lock);
    if (closed)
        return -ESHUTDOWN;
    while (walk.at < walk.end) {
        walk_next(cache, &walk);
        for (uint32_t i = 0; i < walk.count; i++) {
            struct pnx_cache_ref ref = {.entry = walk.entry[i], .source = PNX_CACHE_FOUND};
            if (rc == 0) {
                PNX_CACHE_CALLING(returned);
                pnx__mutex_assert_none_held();
                rc = visit(ctx, &ref);
                returned = true;
            }
            pnx_cache_ref_release(&ref);
        }
        if (rc)
            break;
    }
    walk_end(cache);
    return rc;
}

/* ---- time ---- */

pnx_ns pnx_cache_tick(struct pnx_cache *cache, pnx_ns now) {
    if (pnx__cache_enter(cache) != 0)
        return PNX_NEVER;
    struct pnx_cache_effects fx = {0};
    const struct pnx_cache_index *ix = &cache->index;
    pnx_ns next = PNX_NEVER;
    pnx__mutex_lock(&cache->lock);
    for (uint32_t n = 0; !cache->closed; n++) {
        uint32_t first = pnx__cache_heap_first(ix);
        if (first == PNX_CACHE_NONE)
            break;
        const struct pnx_cache_slot *slot = pnx__cache_slot(ix, first);
        next = slot->expires > now ? slot->expires : now;
        if (slot->expires > now || n == PNX_CACHE_TICK_MAX)
            break;
        pnx__cache_remove_locked(cache, slot->entry, PNX_CACHE_EXPIRED, &fx);
        next = PNX_NEVER;
    }
    pnx__mutex_unlock(&cache->lock);
    pnx__cache_run(cache, &fx);
    pnx__cache_update_row(cache);
    return next;
}

/* ---- size ---- */

int pnx_cache_resize(struct pnx_cache *cache, size_t capacity, uint64_t capacity_entries,
        struct pnx_error *err) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    struct pnx_cache_opts opts = {
            .size = sizeof(opts), .capacity = capacity, .capacity_entries = capacity_entries};
    rc = pnx__cache_opts_resolve(&opts, err, &opts);
    if (rc)
        return rc;
    for (bool set = false, fits = false; !fits; set = true) {
        struct pnx_cache_effects fx = {0};
        pnx__mutex_lock(&cache->lock);
        if (cache->closed)
            rc = -ESHUTDOWN;
        if (!set) {
            cache->resizing++;
            if (rc == 0)
                pnx__cache_limits_locked(cache, capacity, capacity_entries);
        }
        do {
            fits = rc || (pnx__cache_bytes_locked(cache) <= cache->capacity &&
                                 cache->index.live <= cache->capacity_entries);
        } while (!fits && fx.count < PNX_CACHE_BATCH && pnx__cache_evict_locked(cache, &fx));
        cache->resizing -= fits;
        pnx__mutex_unlock(&cache->lock);
        pnx__cache_run(cache, &fx);
    }
    pnx__cache_update_row(cache);
    return rc ? pnx__fail(err, rc, 0, "resize", "cache \"%.64s\" is closed", cache->name) : 0;
}

int pnx_cache_set_ttl(struct pnx_cache *cache, pnx_ns ttl, struct pnx_error *err) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (ttl < 0)
        return pnx__fail_field(
                err, -EINVAL, "ttl", "cache.ttl is negative (%lld ns)", (long long)ttl);
    pnx__mutex_lock(&cache->lock);
    cache->ttl = ttl == 0 ? PNX_NEVER : ttl;
    pnx__mutex_unlock(&cache->lock);
    return 0;
}

/* Called by the budget, on any thread, with no lock held. */
size_t pnx__cache_reclaim(void *arg, size_t want) {
    struct pnx_cache *cache = arg;
    if (pnx__cache_enter(cache) != 0)
        return 0;
    size_t freed = 0;
    size_t evicted =
            0; /* what others still refer to frees nothing: do not empty the cache for it */
    for (bool more = true; more && evicted < want;) {
        struct pnx_cache_effects fx = {0};
        pnx__mutex_lock(&cache->lock);
        while (more && fx.count < PNX_CACHE_BATCH && evicted + fx.bytes < want)
            more = pnx__cache_evict_locked(cache, &fx);
        pnx_owner_add(&cache->values.reclaimed, fx.bytes);
        pnx__mutex_unlock(&cache->lock);
        evicted += fx.bytes;
        freed += pnx__cache_run(cache, &fx);
    }
    pnx__cache_update_row(cache);
    return freed;
}
