/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_memory.c - what a map is made of: allocating, charging, retiring, freeing.
 *
 * Each retired thing counts in its shard's pending until it is freed; so does the shard itself until the map is
 * released.  Who brings the last shard to 0 frees the map: callbacks may come long after the release.
 */
#include "share/cmap_table.h"

#include "base/env_system.h"
#include "base/hash.h"
#include "os/pages.h"

#define TABLE_ALIGN 64u

static void uncharge(struct pnx_cmap *map, size_t bytes) {
    pnx_fetch_sub(&map->bytes, bytes, PNX_RELAXED, "cmap.uncharge"); /* a number */
    pnx_budget_uncharge(map->budget, bytes);
}

void *pnx__cmap_alloc(struct pnx_cmap *map, size_t bytes) {
    if (pnx_budget_charge(map->budget, bytes, 0) != 0)
        return NULL;
    void *p = pnx__alloc(&map->env, 1, bytes);
    if (!p)
        pnx_budget_uncharge(map->budget, bytes);
    else
        pnx_fetch_add(&map->bytes, bytes, PNX_RELAXED, "cmap.charge"); /* a number */
    return p;
}

void pnx__cmap_free(struct pnx_cmap *map, void *p, size_t bytes) {
    if (!p)
        return;
    pnx__free(&map->env, p, 1, bytes);
    uncharge(map, bytes);
}

/* ---- tables ---- */

/* The slots of a table: aligned to a cache line, zeroed; large ones by the page. */
static bool table_memory(struct pnx_cmap *map, struct pnx_cmap_table *table, size_t slots_bytes) {
    table->mapped = map->paged && slots_bytes >= PNX_CMAP_PAGES_MIN;
    table->bytes = slots_bytes + (table->mapped ? 0 : TABLE_ALIGN);
    if (pnx_budget_charge(map->budget, table->bytes, 0) != 0)
        return false;
    table->memory = table->mapped ? pnx__os_pages_map(table->bytes)
                                  : pnx__alloc(&map->env, 1, table->bytes);
    if (!table->memory) {
        pnx_budget_uncharge(map->budget, table->bytes);
        return false;
    }
    pnx_fetch_add(&map->bytes, table->bytes, PNX_RELAXED, "cmap.charge_table"); /* a number */
    uintptr_t at = ((uintptr_t)table->memory + TABLE_ALIGN - 1) & ~(uintptr_t)(TABLE_ALIGN - 1);
    table->slots = (struct pnx_cmap_slot *)at;
    return true;
}

struct pnx_cmap_table *pnx__cmap_table_new(struct pnx_cmap_shard *shard, uint64_t n_buckets) {
    struct pnx_cmap *map = shard->map;
    if (n_buckets > UINT32_MAX) /* what 32 bits of hash can name */
        return NULL;
    size_t slots = (size_t)n_buckets * PNX_CMAP_BUCKET;
    struct pnx_cmap_table *table = pnx__cmap_alloc(map, sizeof(*table));
    if (!table)
        return NULL;
    if (!table_memory(map, table, slots * sizeof(struct pnx_cmap_slot))) {
        pnx__cmap_free(map, table, sizeof(*table));
        return NULL;
    }
    table->shard = shard;
    table->n_buckets = n_buckets;
    table->limit = slots / 4 * 3;
    table->full = slots - 1; /* the end of a search is a bucket that is not full */
    /* A secret of its own; tables that follow take over the masks, so that what fitted still fits. */
    table->key_mask = pnx__mix64(map->secret[0] + (uint64_t)(uintptr_t)table);
    table->value_mask = map->inlined && !map->rc ? pnx__mix64(table->key_mask ^ map->secret[1]) : 0;
    if (!map->inlined)
        table->key_mask = 0;
    if (map->fixed_masks && map->inlined) {
        table->key_mask = 7;
        table->value_mask = map->rc ? 0 : 9;
    }
    return table;
}

void pnx__cmap_table_free(struct pnx_cmap_table *table) {
    if (!table)
        return;
    struct pnx_cmap *map = table->shard->map;
    if (table->mapped)
        pnx__os_pages_unmap(table->memory, table->bytes);
    else
        pnx__free(&map->env, table->memory, 1, table->bytes);
    uncharge(map, table->bytes);
    pnx__cmap_free(map, table, sizeof(*table));
}

/* ---- entries and spare nodes ---- */

static size_t entry_bytes(uint32_t key_size) {
    return sizeof(struct pnx_cmap_entry) + key_size;
}

struct pnx_cmap_entry *pnx__cmap_entry_new(
        struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key) {
    struct pnx_cmap_entry *entry = pnx__cmap_alloc(shard->map, entry_bytes(key->size));
    if (!entry)
        return NULL;
    entry->shard = shard;
    entry->key_size = key->size;
    if (key->size)
        memcpy(entry->key, key->bytes, key->size);
    return entry;
}

void pnx__cmap_entry_free(struct pnx_cmap_entry *entry) {
    if (entry)
        pnx__cmap_free(entry->shard->map, entry, entry_bytes(entry->key_size));
}

struct pnx_cmap_spare *pnx__cmap_spare_new(struct pnx_cmap_shard *shard) {
    struct pnx_cmap_spare *spare = pnx__cmap_alloc(shard->map, sizeof(*spare));
    if (spare)
        spare->shard = shard;
    return spare;
}

void pnx__cmap_spare_free(struct pnx_cmap_spare *spare) {
    if (spare)
        pnx__cmap_free(spare->shard->map, spare, sizeof(*spare));
}

/* ---- retiring ---- */

void pnx__cmap_settled(struct pnx_cmap_shard *shard) {
    struct pnx_cmap *map = shard->map;
    /* acq_rel: pairs with itself; all that was freed before comes before the freeing of the map. */
    if (pnx_fetch_sub(&shard->pending, 1, PNX_ACQ_REL, "cmap.settled") == 1 &&
            pnx_fetch_sub(&map->shards_alive, 1, PNX_ACQ_REL, "cmap.shard_gone") == 1)
        pnx__cmap_free_map(map);
}

static void retire_locked(struct pnx_cmap_shard *shard, struct pnx_reclaim_node *node,
        pnx_reclaim_fn *fn, size_t bytes) {
    pnx__mutex_assert_held(&shard->lock);
    /* Relaxed: the shard's own 1 is still in it. */
    pnx_fetch_add(&shard->pending, 1, PNX_RELAXED, "cmap.pending");
    node->fn = fn;
    node->bytes = bytes;
    node->next = shard->garbage;
    shard->garbage = node;
}

void pnx__cmap_unlock(struct pnx_cmap_shard *shard) {
    struct pnx_reclaim *domain = shard->map->domain;
    struct pnx_reclaim_node *node = shard->garbage;
    shard->garbage = NULL;
    pnx__mutex_unlock(&shard->lock);
    while (node) { /* a retire may wait a little: not under the lock */
        struct pnx_reclaim_node *next = node->next;
        pnx_reclaim_retire(domain, node, node->fn, node->bytes);
        node = next;
    }
}

static void drop_entry(struct pnx_cmap_entry *entry) {
    if (entry->shard->map->rc) {
        /* Relaxed: nobody else knows the entry any more. */
        uint64_t value = pnx_load(&entry->value, PNX_RELAXED, "cmap.drop_entry");
        pnx_rc_unref(pnx_cmap_object(value));
    }
    pnx__cmap_entry_free(entry);
}

static void free_entry(struct pnx_reclaim_node *node) {
    struct pnx_cmap_entry *entry = PNX_CONTAINER(node, struct pnx_cmap_entry, node);
    struct pnx_cmap_shard *shard = entry->shard;
    drop_entry(entry);
    pnx__cmap_settled(shard);
}

void pnx__cmap_retire_entry_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_entry *entry) {
    retire_locked(shard, &entry->node, free_entry, entry_bytes(entry->key_size));
}

static void free_object(struct pnx_reclaim_node *node) {
    struct pnx_cmap_spare *spare = PNX_CONTAINER(node, struct pnx_cmap_spare, node);
    struct pnx_cmap_shard *shard = spare->shard;
    pnx_rc_unref(spare->u.object);
    pnx__cmap_spare_free(spare);
    pnx__cmap_settled(shard);
}

void pnx__cmap_retire_object_locked(
        struct pnx_cmap_shard *shard, struct pnx_cmap_spare *spare, void *object) {
    spare->u.object = object;
    retire_locked(shard, &spare->node, free_object, sizeof(*spare) + pnx_rc_size(object));
}

/* Lets go of what is left in a table that was retired with its contents. */
static void drop_contents(const struct pnx_cmap_table *table) {
    const struct pnx_cmap *map = table->shard->map;
    for (uint64_t i = 0; i < table->n_buckets * PNX_CMAP_BUCKET; i++) {
        /* Relaxed: nobody else knows the table any more. */
        uint64_t raw = pnx_load(&table->slots[i].value, PNX_RELAXED, "cmap.drop_value");
        if (raw <= PNX_CMAP_MOVED)
            continue;
        if (!map->inlined)
            drop_entry(pnx__cmap_entry(raw));
        else
            pnx_rc_unref(pnx_cmap_object(raw));
    }
}

static void free_table(struct pnx_reclaim_node *node) {
    struct pnx_cmap_table *table = PNX_CONTAINER(node, struct pnx_cmap_table, node);
    struct pnx_cmap_shard *shard = table->shard;
    if (!shard->map->inlined || shard->map->rc)
        drop_contents(table);
    while (table->spares) {
        struct pnx_cmap_spare *spare = table->spares;
        table->spares = spare->u.next;
        pnx__cmap_spare_free(spare);
    }
    pnx__cmap_table_free(table);
    pnx__cmap_settled(shard);
}

void pnx__cmap_retire_table_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table) {
    retire_locked(shard, &table->node, free_table, table->bytes);
}
