/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed_walk.c - the calls that touch many entries of a cache of fixed sizes: walk, retain; and what a save begins with.
 *
 *   P1  Keys and values are copied under the lock, some at a time; functions of the user's are called with none held.
 *   P2  A retain removes a value only while it is, byte by byte, the one that was refused.
 */
#include "cache/file.h"

/* ---- walking ---- */

#define WALK_BYTES 2048 /* of keys and values that are copied at once */

/*
 * A walk through what stood in the shard's table when it began.  When another table takes its place meanwhile, it stays as it was, until
 * the last walk through it is over.
 */
struct walk {
    struct pnx_cache_shard *shard;
    struct pnx_cache_table *table; /* NULL: not begun, or over */
    uint32_t at;
};

/* Takes the table up; false where there is none. */
static bool begin_walk(struct walk *walk) {
    if (walk->shard->own_table == &pnx__cache_no_table)
        return false;
    walk->table = walk->shard->own_table;
    walk->table->walks++;
    return true;
}

static void end_walk(struct walk *walk, struct pnx_cache_effects *fx) {
    if (--walk->table->walks == 0 && walk->table != walk->shard->own_table)
        pnx__cache_put_table(walk->table, fx);
    walk->table = NULL;
}

/* Copies the next entries, as much as there is room for; returns how many.  The walk is over when it has no table any more. */
static uint32_t copy_some(struct walk *walk, char *buf, struct pnx_cache_effects *fx) {
    struct pnx_cache_shard *shard = walk->shard;
    struct pnx_cache *cache = shard->cache;
    const struct pnx_cache_shape *shape = &cache->shape;
    size_t pair = (size_t)shape->key_bytes + shape->value_bytes;
    uint32_t n = 0, now = pnx__cache_tick_now(cache);
    pnx__cache_fixed_lock(shard, fx);
    bool there = walk->table || begin_walk(walk);
    bool over = !there || pnx__cache_is_closed(cache) || walk->table->epoch != shard->epoch;
    for (uint32_t looked = 0;
            !over && walk->at < walk->table->slots && looked < 4 * PNX_CACHE_BATCH; looked++) {
        if ((n + 1) * pair > WALK_BYTES)
            break;
        const struct pnx_cache_fixed *record = pnx__cache_fixed_at(walk->table, walk->at++);
        /* Relaxed, both: the lock is held. */
        uint32_t expires = pnx_load(&record->expires, PNX_RELAXED, "cache_fixed.walk_expires");
        if ((pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.walk_seq") & 1) || expires <= now)
            continue;
        memcpy(buf + n * pair, record->word, shape->key_bytes);
        pnx__cache_fixed_copy(
                record, shape->key_words, buf + n * pair + shape->key_bytes, shape->value_bytes);
        n++;
    }
    if (there && (over || walk->at >= walk->table->slots))
        end_walk(walk, fx);
    pnx__cache_unlock(shard, fx);
    return n;
}

/* Ends a walk that is not over. */
static void break_walk(struct walk *walk) {
    struct pnx_cache_effects fx = {0};
    if (!walk->table)
        return;
    pnx__cache_fixed_lock(walk->shard, &fx);
    end_walk(walk, &fx);
    pnx__cache_unlock(walk->shard, &fx);
    pnx__cache_run(walk->shard->cache, &fx);
}

int pnx__cache_fixed_each(struct pnx_cache *cache, pnx_cache_visit_copy_fn *visit, void *ctx) {
    size_t pair = (size_t)cache->shape.key_bytes + cache->shape.value_bytes;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < cache->n_shards; i++) {
        struct walk walk = {.shard = &cache->shards[i]};
        struct pnx_cache_effects fx = {0};
        do {
            char buf[WALK_BYTES];
            uint32_t n = copy_some(&walk, buf, &fx);
            pnx__cache_run(cache, &fx);
            for (uint32_t k = 0; rc == 0 && k < n; k++) {
                PNX_CACHE_CALLING(returned);
                pnx__mutex_assert_none_held();
                rc = visit(ctx, buf + k * pair, buf + k * pair + cache->shape.key_bytes);
                returned = true;
            }
        } while (rc == 0 && walk.table);
        break_walk(&walk); /* ended by the visitor */
    }
    return rc;
}

/* ---- which entries a snapshot is to have ---- */

static void pick_some(
        struct walk *walk, struct pnx_cache_picks *picks, struct pnx_cache_effects *fx) {
    struct pnx_cache_shard *shard = walk->shard;
    const struct pnx_cache *cache = shard->cache;
    pnx__cache_fixed_lock(shard, fx);
    bool there = walk->table || begin_walk(walk);
    bool over = !there || pnx__cache_is_closed(cache) || walk->table->epoch != shard->epoch;
    for (uint32_t looked = 0; !over && walk->at < walk->table->slots && picks->n < picks->room &&
                              looked < 4 * PNX_CACHE_BATCH;
            looked++) {
        const struct pnx_cache_fixed *record = pnx__cache_fixed_at(walk->table, walk->at++);
        /* Relaxed, both: the lock is held, and a number. */
        if (pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.pick_seq") & 1)
            continue;
        uint64_t hits = pnx_load(&record->hits, PNX_RELAXED, "cache_fixed.pick_hits");
        picks->pick[picks->n++] = (struct pnx_cache_pick){.heat = hits << 32,
                .seq = pnx__cache_fixed_hash(cache, record),
                .shard = (uint32_t)(shard - cache->shards)};
    }
    if (there && (over || walk->at >= walk->table->slots))
        end_walk(walk, fx);
    pnx__cache_unlock(shard, fx);
}

int pnx__cache_fixed_collect(
        struct pnx_cache *cache, uint32_t number, struct pnx_cache_picks *picks) {
    struct walk walk = {.shard = &cache->shards[number]};
    int rc;
    do {
        struct pnx_cache_effects fx = {0};
        rc = pnx__cache_picks_grow(picks);
        if (rc == 0)
            pick_some(&walk, picks, &fx);
        pnx__cache_run(cache, &fx);
    } while (rc == 0 && walk.table);
    break_walk(&walk);
    return rc;
}

/* ---- retain ---- */

struct retain {
    struct pnx_cache *cache;
    pnx_cache_keep_copy_fn *keep;
    void *ctx;
    int64_t removed;
};

/* Removes the key if it still has that value. */
static void remove_refused(struct retain *retain, const void *key, const void *value) {
    struct pnx_cache *cache = retain->cache;
    const struct pnx_cache_shape *shape = &cache->shape;
    struct pnx_cache_effects fx = {0};
    uint64_t hash = pnx__hash(cache->seed, key, shape->key_bytes);
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    uint32_t slot;
    pnx__cache_fixed_lock(shard, &fx);
    if (!pnx__cache_is_closed(cache)) {
        const struct pnx_cache_fixed *record =
                pnx__cache_fixed_see_locked(shard, hash, key, &fx, &slot);
        if (record && memcmp(record->word + shape->key_words, value, shape->value_bytes) == 0) {
            pnx__cache_fixed_remove_locked(shard, slot, PNX_CACHE_EXPLICIT, false, &fx);
            pnx__cache_overtake_locked(shard, hash, key, shape->key_bytes);
            retain->removed++;
        }
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
}

static int keep_or_remove(void *ctx, const void *key, const void *value) {
    struct retain *retain = ctx;
    if (!retain->keep(retain->ctx, key, value))
        remove_refused(retain, key, value);
    return 0;
}

int64_t pnx_cache_retain_copy(struct pnx_cache *cache, pnx_cache_keep_copy_fn *keep, void *ctx) {
    struct retain retain = {.cache = cache, .keep = keep, .ctx = ctx};
    if (cache && !keep)
        return -EINVAL;
    int rc = pnx_cache_each_copy(cache, keep_or_remove, &retain);
    if (rc)
        return rc;
    pnx__cache_update_row(cache);
    return retain.removed;
}
