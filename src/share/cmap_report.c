/* SPDX-License-Identifier: Apache-2.0 */
/* share/cmap_report.c - a map's numbers, and its invariants as code. */
#include "share/cmap_table.h"

#include "base/error.h"
#include "share/cmap_hash.h"

#include <errno.h>

/* Sums up a shard's numbers, each relaxed: of about now. */
static void add_shard(struct pnx_cmap_stats *stats, const struct pnx_cmap_counters *counters) {
    uint64_t probe = stats->max_probe;
#define PNX_STAT(stat_name, kind, unit, level, text) \
    stats->stat_name += pnx_load(&counters->stat_name, PNX_RELAXED, "cmap.stats_" #stat_name);
#include <patinox/stats/cmap.def>
#undef PNX_STAT
    uint64_t own = stats->max_probe - probe;
    stats->max_probe = own > probe ? own : probe;
}

int pnx_cmap_read_stats(const struct pnx_cmap *map, struct pnx_cmap_stats *ret_stats) {
    if (!map || !ret_stats || ret_stats->size < sizeof(ret_stats->size))
        return -EINVAL;
    PNX_DEBUG_CHECK(map->magic == PNX_CMAP_MAGIC); /* else: a map that was released */
    struct pnx_cmap_stats stats = {.size = ret_stats->size};
    for (uint64_t i = 0; i <= map->shard_mask; i++)
        add_shard(&stats, &map->shards[i].counters);
    stats.bytes = pnx_load(&map->bytes, PNX_RELAXED, "cmap.stats_memory"); /* of about now */
    memcpy(ret_stats, &stats, stats.size < sizeof(stats) ? stats.size : sizeof(stats));
    return 0;
}

/* ---- invariants ---- */

/* What was counted in one table. */
struct census {
    uint64_t used;
    uint64_t values;
};

static uint64_t key_at(const struct pnx_cmap_table *table, uint64_t slot) {
    return pnx_load(&table->slots[slot].key, PNX_RELAXED, "cmap.check_key"); /* the lock */
}

static uint64_t value_at(const struct pnx_cmap_table *table, uint64_t slot) {
    return pnx_load(&table->slots[slot].value, PNX_RELAXED, "cmap.check_value"); /* the lock */
}

/* Whether a search from the key's bucket comes by its slot before it ends. */
static bool reachable(
        const struct pnx_cmap *map, const struct pnx_cmap_table *table, uint64_t slot) {
    uint64_t hash = pnx__cmap_hash_slot(map, key_at(table, slot) ^ table->key_mask);
    uint64_t index = pnx__cmap_bucket(table, hash);
    while (index != slot / PNX_CMAP_BUCKET) {
        if (key_at(table, index * PNX_CMAP_BUCKET + PNX_CMAP_BUCKET - 1) == 0)
            return false;
        index = (index + 1) % table->n_buckets;
    }
    return true;
}

static const char *check_slot(const struct pnx_cmap_shard *shard,
        const struct pnx_cmap_table *table, uint64_t slot, struct census *census) {
    const struct pnx_cmap *map = shard->map;
    uint64_t key = key_at(table, slot);
    uint64_t raw = value_at(table, slot);
    bool left = table == shard->table && shard->target && slot / PNX_CMAP_BUCKET < shard->moved;
    if (key == 0)
        return raw == PNX_CMAP_ABSENT ? NULL : "a value without a key";
    census->used++;
    if (slot % PNX_CMAP_BUCKET && key_at(table, slot - 1) == 0)
        return "a bucket has a gap";
    if (raw == PNX_CMAP_MOVED && !(table == shard->table && shard->target))
        return "a slot was moved to nowhere";
    if (left && raw != PNX_CMAP_MOVED)
        return "a slot was left behind";
    if (!reachable(map, table, slot))
        return "a key cannot be found";
    if (raw <= PNX_CMAP_MOVED)
        return NULL;
    census->values++;
    uint64_t hash = pnx__cmap_hash_slot(map, key ^ table->key_mask);
    if ((hash & map->shard_mask) != (uint64_t)(shard - map->shards))
        return "a key is in the wrong shard";
    if (!map->inlined && pnx__cmap_entry(raw)->shard != shard)
        return "an entry belongs to another shard";
    return NULL;
}

static const char *check_table(const struct pnx_cmap_shard *shard,
        const struct pnx_cmap_table *table, struct census *ret_census) {
    if (table == &pnx__cmap_no_table)
        return NULL;
    const char *broken = NULL;
    for (uint64_t i = 0; !broken && i < table->n_buckets * PNX_CMAP_BUCKET; i++)
        broken = check_slot(shard, table, i, ret_census);
    if (!broken && ret_census->used != table->used)
        broken = "used slots were miscounted";
    if (!broken && table->used > table->full)
        broken = "a table has no free slot";
    return broken;
}

static const char *check_locked(const struct pnx_cmap_shard *shard) {
    const struct pnx_cmap *map = shard->map;
    const struct pnx_cmap_counters *counters = &shard->counters;
    struct census in_table = {0};
    struct census in_target = {0};
    const char *broken = check_table(shard, shard->table, &in_table);
    if (!broken && shard->target)
        broken = check_table(shard, shard->target, &in_target);
    if (broken)
        return broken;
    uint64_t entries = pnx_load(&counters->entries, PNX_RELAXED, "cmap.check_entries"); /* lock */
    uint64_t inserts = pnx_load(&counters->inserts, PNX_RELAXED, "cmap.check_inserts"); /* lock */
    uint64_t removes = pnx_load(&counters->removes, PNX_RELAXED, "cmap.check_removes"); /* lock */
    uint64_t spares = 0;
    for (const struct pnx_cmap_spare *spare = shard->spares; spare; spare = spare->u.next)
        spares++;
    if (in_table.values + in_target.values != entries || entries != inserts - removes)
        return "the entries do not add up";
    const struct census *current = shard->target ? &in_target : &in_table;
    if (pnx_load(&counters->tombstones, PNX_RELAXED, "cmap.check_tombstones") !=
            current->used - current->values) /* the lock */
        return "the tombstones do not add up";
    if (shard->moving_entries != in_target.values)
        return "moved entries were miscounted";
    if (spares != (map->inlined && map->rc ? entries : 0))
        return "there is not one spare node for each entry";
    if (pnx_load(&map->tables[shard - map->shards], PNX_RELAXED, "cmap.check_table") !=
            shard->table) /* the lock */
        return "lookups see another table";
    return NULL;
}

int pnx_cmap_check(struct pnx_cmap *map, struct pnx_error *err) {
    int rc = pnx__cmap_enter(map);
    if (rc)
        return rc;
    const char *broken = NULL;
    for (uint64_t i = 0; !broken && i <= map->shard_mask; i++) {
        pnx__mutex_lock(&map->shards[i].lock);
        broken = check_locked(&map->shards[i]);
        pnx__cmap_unlock(&map->shards[i]);
    }
    return broken ? pnx__fail(
                            err, PNX_E_BROKEN, 0, "check", "cmap \"%.64s\": %s", map->name, broken)
                  : 0;
}
