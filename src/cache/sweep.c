/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/sweep.c - the calls that touch many entries: clear, walk, tick, resize, reclaim.
 *
 *   P1  None holds a lock for more than a batch of entries.
 *   P2  A clear takes effect for all readers at one moment, whatever time the removal takes.
 *   P3  A walk visits each entry that is there all the time exactly once, with no lock held.
 */
#include "cache/internal.h"

#include "base/error.h"
#include "cache/expiry.h"
#include "share/reclaim.h"

/* ---- clearing ---- */

static void sweep_shard(struct pnx_cache_shard *shard, enum pnx_cache_cause cause) {
    struct pnx_cache *cache = shard->cache;
    /* Slots keep their numbers, and what gets one behind us is newer than the clear. */
    for (uint32_t at = 0, end = UINT32_MAX; at < end;) {
        struct pnx_cache_effects fx = {0};
        pnx__cache_lock(shard);
        end = shard->used;
        for (uint32_t looked = 0; at < end && looked < 4 * PNX_CACHE_BATCH; looked++) {
            if (fx.count >= PNX_CACHE_BATCH)
                break;
            struct pnx_cache_entry *entry = pnx__cache_entry_of(shard, at++);
            if (entry && entry->epoch != pnx__cache_epoch(cache))
                pnx__cache_remove_locked(shard, entry, cause, &fx);
        }
        if (at >= end)
            pnx__cache_shard_tidy_locked(shard, &fx);
        pnx__cache_unlock(shard, &fx);
        pnx__cache_run(cache, &fx);
    }
}

void pnx__cache_sweep(struct pnx_cache *cache, enum pnx_cache_cause cause) {
    if (pnx__cache_is_fixed(cache)) {
        pnx__cache_fixed_sweep(cache);
        return;
    }
    for (uint32_t i = 0; i < cache->n_shards; i++)
        sweep_shard(&cache->shards[i], cause);
    pnx__cache_update_row(cache);
}

int pnx_cache_clear(struct pnx_cache *cache) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    pnx__mutex_lock(&cache->lock);
    bool closed = pnx__cache_is_closed(cache);
    if (!closed) /* relaxed: see pnx__cache_epoch() */
        pnx_fetch_add(&cache->epoch, 1, PNX_RELAXED, "cache.clear");
    pnx__mutex_unlock(&cache->lock);
    if (closed)
        return -ESHUTDOWN;
    pnx__cache_sweep(cache, PNX_CACHE_CLEAR);
    return 0;
}

/* ---- walking ---- */

#define WALK_BATCH 32

/* Where a walk is in a shard: slots from at to end are to be looked at, for entries stored before seq. */
struct walk {
    struct pnx_cache_entry *entry[WALK_BATCH]; /* pinned */
    uint32_t source[WALK_BATCH];
    bool sees_kept; /* for errors */
    uint32_t count;
    uint32_t at;
    uint32_t end;
    uint64_t seq;
};

/* Returns the source of a reference to the entry; 0: it is not visited. */
static uint32_t walk_sees(const struct pnx_cache *cache, const struct pnx_cache_entry *entry,
        const struct walk *walk) {
    if (!entry || entry->u.in.seq >= walk->seq || entry->epoch != pnx__cache_epoch(cache))
        return 0;
    if (entry->flags & PNX_CACHE_ENTRY_NEGATIVE)
        return 0;
    pnx_ns now;
    if (!pnx__cache_expired(cache, entry, &now))
        return PNX_CACHE_FOUND;
    return walk->sees_kept && pnx__cache_is_kept(cache, entry, now) ? PNX_CACHE_STALE : 0;
}

static void walk_next(struct pnx_cache_shard *shard, struct walk *walk) {
    walk->count = 0;
    pnx__mutex_lock(&shard->lock);
    uint32_t looked = 0;
    while (walk->at < walk->end && walk->at < shard->used && walk->count < WALK_BATCH &&
            looked < 4 * PNX_CACHE_BATCH) {
        struct pnx_cache_entry *entry = pnx__cache_entry_of(shard, walk->at++);
        looked++;
        uint32_t source = walk_sees(shard->cache, entry, walk);
        if (!source)
            continue;
        pnx__cache_pin(entry, 1);
        walk->source[walk->count] = source;
        walk->entry[walk->count++] = entry;
    }
    if (walk->at >= shard->used)
        walk->at = walk->end;
    pnx__mutex_unlock(&shard->lock);
}

static int walk_shard(
        struct pnx_cache_shard *shard, struct walk *walk, pnx_cache_visit_fn *visit, void *ctx) {
    int rc = 0;
    while (rc == 0 && walk->at < walk->end) {
        walk_next(shard, walk);
        for (uint32_t i = 0; i < walk->count; i++) {
            struct pnx_cache_ref ref = {.entry = walk->entry[i], .source = walk->source[i]};
            if (rc == 0) {
                PNX_CACHE_CALLING(returned);
                pnx__mutex_assert_none_held();
                rc = visit(ctx, &ref);
                returned = true;
            }
            pnx_cache_ref_release(&ref);
        }
    }
    return rc;
}

int pnx_cache_each(struct pnx_cache *cache,
        int (*visit)(void *ctx, const struct pnx_cache_ref *ref), void *ctx) {
    return pnx__cache_walk(cache, false, visit, ctx);
}

int pnx__cache_walk(struct pnx_cache *cache, bool sees_kept, pnx_cache_visit_fn *visit, void *ctx) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (!visit)
        return -EINVAL;
    if (pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    struct {
        uint64_t seq;
        uint32_t end;
    } from[PNX_CACHE_SHARDS_MAX];
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct pnx_cache_shard *shard = &cache->shards[i];
        pnx__mutex_lock(&shard->lock);
        shard->walks++;
        from[i].seq = shard->next_seq;
        from[i].end = shard->used;
        pnx__mutex_unlock(&shard->lock);
    }
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct pnx_cache_shard *shard = &cache->shards[i];
        struct walk walk = {.end = from[i].end, .seq = from[i].seq, .sees_kept = sees_kept};
        if (rc == 0)
            rc = walk_shard(shard, &walk, visit, ctx);
        struct pnx_cache_effects fx = {0};
        pnx__cache_lock(shard);
        shard->walks--;
        pnx__cache_unlock(shard, &fx);
    }
    return rc;
}

int pnx_cache_each_copy(struct pnx_cache *cache,
        int (*visit)(void *ctx, const void *key, const void *value), void *ctx) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (!visit)
        return -EINVAL;
    if (!pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    return pnx__cache_is_closed(cache) ? -ESHUTDOWN : pnx__cache_fixed_each(cache, visit, ctx);
}

/* ---- time ---- */

/* Removes what has expired, at most *budget; returns when the next one does. */
static pnx_ns tick_shard(struct pnx_cache_shard *shard, pnx_ns now, uint32_t *budget) {
    struct pnx_cache_effects fx = {0};
    pnx_ns next = PNX_NEVER;
    pnx__cache_lock(shard);
    for (uint32_t slot; !pnx__cache_is_closed(shard->cache);) {
        slot = pnx__cache_heap_first(shard);
        next = PNX_NEVER;
        if (slot == PNX_CACHE_NONE)
            break;
        pnx_ns expires = pnx__cache_record(shard->own_table, slot)->expires;
        next = expires > now ? expires : now;
        if (expires > now || *budget == 0)
            break;
        (*budget)--;
        /* One that was used meanwhile goes later; looking it up counts, too. */
        if (pnx__cache_settle_locked(shard, slot) <= now)
            pnx__cache_remove_locked(
                    shard, pnx__cache_entry_of(shard, slot), PNX_CACHE_EXPIRED, &fx);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(shard->cache, &fx);
    return next;
}

pnx_ns pnx_cache_tick(struct pnx_cache *cache, pnx_ns now) {
    if (pnx__cache_enter(cache) != 0 || pnx__cache_is_closed(cache))
        return PNX_NEVER;
    uint32_t budget = PNX_CACHE_TICK_MAX;
    pnx_ns next = PNX_NEVER;
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        pnx_ns due = pnx__cache_is_fixed(cache)
                             ? pnx__cache_fixed_tick(&cache->shards[i], now, &budget)
                             : tick_shard(&cache->shards[i], now, &budget);
        next = due < next ? due : next;
        due = pnx__cache_tick_loads(&cache->shards[i], now, &budget);
        next = due < next ? due : next;
    }
    pnx__cache_update_row(cache);
    return next;
}

/* ---- size ---- */

/* The limits that this call does not change are those of opts before. */
static void set_limits(
        struct pnx_cache *cache, const struct pnx_cache_opts *opts, bool weight_only) {
    uint64_t bytes = opts->capacity ? opts->capacity : UINT64_MAX;
    uint64_t entries = opts->capacity_entries ? opts->capacity_entries : UINT64_MAX;
    pnx__mutex_lock(&cache->lock);
    /* Relaxed, all: numbers; who evicts comes later. */
    if (weight_only) {
        pnx_store(&cache->capacity_weight, opts->capacity_weight, PNX_RELAXED, "cache.set_weight");
    } else {
        pnx_store(&cache->capacity, bytes, PNX_RELAXED, "cache.set_bytes");
        pnx_store(&cache->capacity_entries, entries, PNX_RELAXED, "cache.set_entries");
    }
    pnx__mutex_unlock(&cache->lock);
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct pnx_cache_shard *shard = &cache->shards[i];
        struct pnx_cache_effects fx = {0};
        pnx__cache_lock(shard);
        if (shard->policy_state && shard->policy->resize)
            shard->policy->resize(shard->policy_state, pnx__cache_share(cache));
        pnx__cache_unlock(shard, &fx);
    }
}

/* Evicts until all is within the limits. */
static void evict_down(struct pnx_cache *cache) {
    static const struct pnx_cache_room none = {0};
    for (bool more = true; more;) {
        struct pnx_cache_shard *shard = pnx__cache_fullest(cache);
        struct pnx_cache_effects fx = {0};
        pnx__cache_lock_current(shard, &fx);
        while ((more = !pnx__cache_has_room(cache, &fx, &none)) && fx.count < PNX_CACHE_BATCH) {
            if (!pnx__cache_evict_locked(shard, &fx))
                break;
        }
        pnx__cache_unlock(shard, &fx);
        pnx__cache_run(cache, &fx);
    }
}

/* Changes the limits that opts has, which are checked here. */
static int resize(struct pnx_cache *cache, const struct pnx_cache_opts *wanted, bool weight_only,
        struct pnx_error *err) {
    struct pnx_cache_opts opts;
    int rc = pnx__cache_opts_resolve(wanted, err, &opts);
    if (rc)
        return rc;
    if (pnx__cache_is_closed(cache))
        return pnx__fail(err, -ESHUTDOWN, 0, "resize", "cache \"%.64s\" is closed", cache->name);
    /* Relaxed, both: for the check of invariants only. */
    pnx_fetch_add(&cache->resizing, 1, PNX_RELAXED, "cache.resize");
    set_limits(cache, &opts, weight_only);
    evict_down(cache);
    pnx_fetch_sub(&cache->resizing, 1, PNX_RELAXED, "cache.resized");
    pnx__cache_update_row(cache);
    return 0;
}

int pnx_cache_resize(struct pnx_cache *cache, size_t capacity, uint64_t capacity_entries,
        struct pnx_error *err) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    struct pnx_cache_opts opts = {
            .size = sizeof(opts), .capacity = capacity, .capacity_entries = capacity_entries};
    if (cache->weigher) { /* there is a limit in any case */
        opts.weigher = cache->weigher;
        opts.capacity_weight = 1;
    }
    return resize(cache, &opts, false, err);
}

int pnx_cache_resize_weight(
        struct pnx_cache *cache, uint64_t capacity_weight, struct pnx_error *err) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (!cache->weigher)
        return pnx__fail(err, -ENOTSUP, 0, "resize", "cache \"%.64s\" has no weigher", cache->name);
    const struct pnx_cache_opts opts = {
            .size = sizeof(opts), .weigher = cache->weigher, .capacity_weight = capacity_weight};
    return resize(cache, &opts, true, err);
}

int pnx_cache_set_ttl(struct pnx_cache *cache, pnx_ns ttl, struct pnx_error *err) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (ttl < 0)
        return pnx__fail_field(
                err, -EINVAL, "ttl", "cache.ttl is negative (%lld ns)", (long long)ttl);
    if (ttl > 0 && ttl < PNX_CACHE_FIXED_TTL_MIN && pnx__cache_is_fixed(cache))
        return pnx__fail_field(err, -EINVAL, "ttl",
                "cache.ttl is %lld ns; with fixed sizes it is at least %lld", (long long)ttl,
                (long long)PNX_CACHE_FIXED_TTL_MIN);
    /* Relaxed: a number. */
    pnx_store(&cache->ttl, (uint64_t)(ttl == 0 ? PNX_NEVER : ttl), PNX_RELAXED, "cache.set_ttl");
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
    if (pnx__cache_is_fixed(cache))
        freed = evicted = pnx__cache_fixed_reclaim(cache, want);
    for (bool more = !pnx__cache_is_fixed(cache); more && evicted < want;) {
        struct pnx_cache_shard *shard = pnx__cache_fullest(cache);
        struct pnx_cache_effects fx = {0};
        pnx__cache_lock(shard);
        while (more && fx.count < PNX_CACHE_BATCH && evicted + fx.bytes < want)
            more = pnx__cache_evict_locked(shard, &fx);
        pnx_owner_add(&shard->counters.reclaimed, fx.bytes);
        pnx__cache_unlock(shard, &fx);
        evicted += fx.bytes;
        freed += pnx__cache_run(cache, &fx);
    }
    if (freed > 0)
        pnx__reclaim_assist_due(NULL); /* the memory is wanted now */
    pnx__cache_update_row(cache);
    return freed;
}
