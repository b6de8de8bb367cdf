/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_walk.c - what concerns many entries: walking, retaining, clearing, making room, shrinking.
 *
 * A walk goes by ranges of hashes, which mean the same in every table of a shard: it copies what is in one range
 * under the lock (from both tables, while the shard moves), lets the lock go, and calls.  So a key that is there all
 * the while is met once, whatever is resized meanwhile, and memory is for one range only.
 */
#include "share/cmap_table.h"

#include "share/cmap_hash.h"
#include "share/rc.h"
#include "share/reclaim.h"

#include <errno.h>

#define RANGE_BUCKETS 32u /* of the larger table, in one range */

struct item {
    uint64_t value; /* an rc object: with a reference */
    size_t key;     /* where the key begins in keys */
    size_t key_size;
};

/* A walk's copy of one range.  Owned by the call that walks. */
struct copy {
    struct pnx_cmap *map;
    struct item *items;
    unsigned char *keys;
    size_t n_items;
    size_t n_keys;
    size_t cap_items;
    size_t cap_keys;
    bool counts_only;
    const void *saturated;
};

/* ---- copying a range ---- */

static void copy_slot(
        struct copy *copy, const struct pnx_cmap_table *table, uint64_t word, uint64_t raw) {
    const struct pnx_cmap *map = copy->map;
    const struct pnx_cmap_entry *entry = map->inlined ? NULL : pnx__cmap_entry(raw);
    size_t key_size = entry ? entry->key_size : map->key_size;
    if (!copy->counts_only) {
        struct item *item = &copy->items[copy->n_items];
        item->key = copy->n_keys;
        item->key_size = key_size;
        if (key_size)
            memcpy(copy->keys + copy->n_keys, entry ? (const void *)entry->key : &word, key_size);
        item->value = entry ? pnx_load(&entry->value, PNX_RELAXED, "cmap.walk_entry") /* the lock */
                            : pnx__cmap_unmask(table, raw);
        if (map->rc && pnx__rc_ref_silent(pnx_cmap_object(item->value)))
            copy->saturated = pnx_cmap_object(item->value);
    }
    copy->n_items++;
    copy->n_keys += key_size;
}

/* Copies what one table has with high halves of hashes from lo to hi. */
static void copy_table_locked(
        struct copy *copy, const struct pnx_cmap_table *table, uint32_t lo, uint32_t hi) {
    uint64_t index = pnx__cmap_bucket(table, (uint64_t)lo << 32);
    uint64_t end = pnx__cmap_bucket(table, ((uint64_t)hi << 32) | UINT32_MAX);
    for (uint64_t at = index; at - index < table->n_buckets; at++) {
        const struct pnx_cmap_slot *bucket = table->slots + at % table->n_buckets * PNX_CMAP_BUCKET;
        bool full = true;
        for (unsigned i = 0; i < PNX_CMAP_BUCKET; i++) {
            uint64_t key = pnx_load(&bucket[i].key, PNX_RELAXED, "cmap.walk_key"); /* the lock */
            uint64_t raw =
                    pnx_load(&bucket[i].value, PNX_RELAXED, "cmap.walk_value"); /* the lock */
            uint64_t word = key ^ table->key_mask;
            full = key != 0;
            if (raw <= PNX_CMAP_MOVED)
                continue;
            uint64_t high = pnx__cmap_hash_slot(copy->map, word) >> 32;
            if (high >= lo && high <= hi)
                copy_slot(copy, table, word, raw);
        }
        if (at >= end && !full)
            return; /* nothing that belongs before here stands behind */
    }
}

static void copy_range_locked(struct copy *copy, const struct pnx_cmap_shard *shard, uint32_t lo,
        uint32_t hi, bool counts_only) {
    copy->counts_only = counts_only;
    copy->n_items = 0;
    copy->n_keys = 0;
    copy_table_locked(copy, shard->table, lo, hi);
    if (shard->target)
        copy_table_locked(copy, shard->target, lo, hi);
}

static void free_copy(struct copy *copy) {
    pnx__cmap_free(copy->map, copy->items, copy->cap_items * sizeof(*copy->items));
    pnx__cmap_free(copy->map, copy->keys, copy->cap_keys);
    copy->items = NULL;
    copy->keys = NULL;
    copy->cap_items = 0;
    copy->cap_keys = 0;
}

/* Makes room for what was counted, and some more. */
static int make_room(struct copy *copy) {
    size_t items = copy->n_items + copy->n_items / 2 + 16;
    size_t keys = copy->n_keys + copy->n_keys / 2 + 256;
    free_copy(copy);
    copy->items = pnx__cmap_alloc(copy->map, items * sizeof(*copy->items));
    if (!copy->items)
        return -ENOMEM;
    copy->cap_items = items;
    copy->keys = pnx__cmap_alloc(copy->map, keys);
    if (!copy->keys)
        return -ENOMEM;
    copy->cap_keys = keys;
    return 0;
}

/* Copies a range that begins at lo; *ret_hi is its end. */
static int copy_range(
        struct copy *copy, struct pnx_cmap_shard *shard, uint32_t lo, uint32_t *ret_hi) {
    for (;;) {
        pnx__mutex_lock(&shard->lock);
        bool closed = shard->closed;
        const struct pnx_cmap_table *table = shard->target ? shard->target : shard->table;
        uint64_t width = (((uint64_t)1 << 32) / table->n_buckets + 1) * RANGE_BUCKETS;
        uint64_t hi = lo + width - 1 > UINT32_MAX ? UINT32_MAX : lo + width - 1;
        copy_range_locked(copy, shard, lo, (uint32_t)hi, true);
        bool fits = copy->n_items <= copy->cap_items && copy->n_keys <= copy->cap_keys;
        if (fits && !closed)
            copy_range_locked(copy, shard, lo, (uint32_t)hi, false);
        pnx__cmap_unlock(shard);
        if (closed)
            return -ESHUTDOWN;
        *ret_hi = (uint32_t)hi;
        if (fits)
            return 0;
        int rc = make_room(copy);
        if (rc)
            return rc;
    }
}

/* ---- walking ---- */

/* Calls visit for what was copied; lets all references go. */
static int visit_copy(struct copy *copy, pnx_cmap_visit_fn *visit, void *ctx) {
    int rc = 0;
    if (copy->saturated)
        pnx__rc_report(copy->saturated);
    copy->saturated = NULL;
    pnx__mutex_assert_none_held();
    for (size_t i = 0; i < copy->n_items; i++) {
        const struct item *item = &copy->items[i];
        if (rc == 0)
            rc = visit(ctx, copy->keys + item->key, item->key_size, item->value);
        if (copy->map->rc)
            pnx_rc_unref(pnx_cmap_object(item->value));
    }
    return rc;
}

static int walk_shard(
        struct copy *copy, struct pnx_cmap_shard *shard, pnx_cmap_visit_fn *visit, void *ctx) {
    uint32_t hi = UINT32_MAX;
    uint64_t lo = 0;
    do {
        int rc = copy_range(copy, shard, (uint32_t)lo, &hi);
        if (rc == 0)
            rc = visit_copy(copy, visit, ctx);
        if (rc)
            return rc;
        lo = (uint64_t)hi + 1;
    } while (lo <= UINT32_MAX);
    return 0;
}

int pnx_cmap_foreach(struct pnx_cmap *map, pnx_cmap_visit_fn *visit, void *ctx) {
    int rc = pnx__cmap_enter(map);
    if (rc || !visit)
        return rc ? rc : -EINVAL;
    struct copy copy = {.map = map};
    for (uint64_t i = 0; rc == 0 && i <= map->shard_mask; i++)
        rc = walk_shard(&copy, &map->shards[i], visit, ctx);
    free_copy(&copy);
    return rc;
}

struct retain {
    struct pnx_cmap *map;
    pnx_cmap_keep_fn *keep; /* NULL: keep nothing, whatever its value is by now */
    void *ctx;
    uint64_t removed;
};

static int retain_one(void *ctx, const void *key, size_t key_size, uint64_t value) {
    struct retain *retain = ctx;
    if (retain->keep && retain->keep(retain->ctx, key, key_size, value))
        return 0;
    int rc = retain->keep ? pnx_cmap_remove_if(retain->map, key, key_size, value)
                          : pnx_cmap_remove(retain->map, key, key_size, NULL);
    if (rc == 0)
        retain->removed++;
    return rc == -ENOENT || rc == PNX_E_CONFLICT ? 0 : rc;
}

int pnx_cmap_retain(
        struct pnx_cmap *map, pnx_cmap_keep_fn *keep, void *ctx, uint64_t *ret_removed) {
    struct retain retain = {.map = map, .keep = keep, .ctx = ctx};
    int rc = keep ? pnx_cmap_foreach(map, retain_one, &retain) : -EINVAL;
    if (ret_removed)
        *ret_removed = retain.removed;
    return rc;
}

/* ---- clearing ---- */

int pnx_cmap_clear(struct pnx_cmap *map) {
    int rc = pnx__cmap_enter(map);
    if (rc)
        return rc;
    struct copy copy = {.map = map};
    struct retain retain = {.map = map};
    for (uint64_t i = 0; rc == 0 && i <= map->shard_mask; i++) {
        struct pnx_cmap_shard *shard = &map->shards[i];
        pnx__mutex_lock(&shard->lock);
        bool busy = !pnx__list_empty(&shard->calls); /* their keys may not change: one by one */
        if (shard->closed)
            rc = -ESHUTDOWN;
        else if (!busy)
            pnx__cmap_empty_locked(shard);
        pnx__cmap_unlock(shard);
        if (rc == 0 && busy)
            rc = walk_shard(&copy, shard, retain_one, &retain);
    }
    free_copy(&copy);
    pnx__reclaim_assist(map->domain);
    pnx__cmap_show_bytes(map);
    return rc;
}

/* ---- sizes ---- */

/*
 * Moves the shard to a table of so many buckets, unless somebody has meanwhile given it another, put more into it than
 * the new one has room for, or closed it: then the caller looks again.
 */
static int resize(struct pnx_cmap_shard *shard, uint64_t from_buckets, uint64_t buckets) {
    struct pnx_cmap_table *table = pnx__cmap_table_new(shard, buckets);
    if (!table)
        return -ENOMEM;
    pnx__mutex_lock(&shard->lock);
    uint64_t entries =
            pnx_load(&shard->counters.entries, PNX_RELAXED, "cmap.resize"); /* the lock */
    bool same = !shard->closed && !shard->target && shard->table->n_buckets == from_buckets &&
                entries <= table->limit;
    if (same) {
        pnx__cmap_inherit_locked(shard, table);
        pnx__cmap_install_locked(shard, table);
        table = NULL;
    }
    pnx__cmap_unlock(shard);
    pnx__cmap_table_free(table);
    if (same) {
        pnx__cmap_finish_move(shard);
        pnx__cmap_tell_resized(shard);
    }
    return 0;
}

/* What a shard is like, once it does not move; false when it is closed. */
static bool at_rest(struct pnx_cmap_shard *shard, uint64_t *ret_buckets, uint64_t *ret_entries) {
    pnx__cmap_finish_move(shard);
    pnx__mutex_lock(&shard->lock);
    bool none = shard->table == &pnx__cmap_no_table;
    *ret_buckets = none ? 0 : shard->table->n_buckets;
    *ret_entries = pnx_load(&shard->counters.entries, PNX_RELAXED, "cmap.at_rest"); /* the lock */
    bool closed = shard->closed;
    pnx__cmap_unlock(shard);
    return !closed;
}

static uint64_t square_root(uint64_t n) {
    uint64_t root = 0;
    for (uint64_t bit = UINT64_C(1) << 31; bit; bit >>= 1)
        if ((root + bit) * (root + bit) <= n)
            root += bit;
    return root;
}

/* Sees that a shard has so many buckets. */
static int grow_shard(struct pnx_cmap_shard *shard, uint64_t wanted) {
    for (;;) {
        uint64_t buckets, entries;
        if (!at_rest(shard, &buckets, &entries))
            return -ESHUTDOWN;
        if (buckets >= wanted)
            return 0;
        int rc = resize(shard, buckets ? buckets : 1, wanted);
        if (rc)
            return rc;
    }
}

int pnx_cmap_reserve(struct pnx_cmap *map, uint64_t n) {
    int rc = pnx__cmap_enter(map);
    if (rc == 0 && n > PNX_CMAP_ENTRIES_MAX)
        rc = -EINVAL;
    if (rc)
        return rc;
    uint64_t mean = n / (map->shard_mask + 1) + 1;
    /* Shards differ: five standard deviations are not exceeded in a lifetime. */
    uint64_t wanted = pnx__cmap_buckets_for(map, mean + 5 * square_root(mean) + 1);
    for (uint64_t i = 0; rc == 0 && i <= map->shard_mask; i++)
        rc = grow_shard(&map->shards[i], wanted);
    pnx__reclaim_assist(map->domain);
    return rc;
}

/* Shrinks a shard as far as it goes, to no less than a sixteenth at a time: then what is inserted while it moves
 * finds room in the next table. */
static int shrink_shard(struct pnx_cmap_shard *shard) {
    for (;;) {
        uint64_t buckets, entries;
        if (!at_rest(shard, &buckets, &entries))
            return -ESHUTDOWN;
        if (entries == 0) {
            pnx__mutex_lock(&shard->lock);
            if (pnx_load(&shard->counters.entries, PNX_RELAXED, "cmap.shrink") == 0) /* the lock */
                pnx__cmap_empty_locked(shard);
            pnx__cmap_unlock(shard);
            return 0;
        }
        uint64_t wanted = pnx__cmap_buckets_for(shard->map, entries);
        if (wanted < buckets / 16)
            wanted = buckets / 16;
        if (wanted >= buckets)
            return 0;
        int rc = resize(shard, buckets, wanted);
        if (rc)
            return rc;
    }
}

int pnx_cmap_shrink(struct pnx_cmap *map) {
    int rc = pnx__cmap_enter(map);
    for (uint64_t i = 0; rc == 0 && i <= map->shard_mask; i++)
        rc = shrink_shard(&map->shards[i]);
    if (map && rc == 0)
        pnx__reclaim_assist(map->domain);
    return rc;
}
