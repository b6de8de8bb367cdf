/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_table.c - tables under the shard's lock: finding, inserting, moving to another.
 *
 * The protocol between these and lookups, and why it is right, stands in share/cmap_table.h.  Sizes: a table is left
 * for one twice as large when three quarters of its slots have keys, or for one as large when enough of those are tombstones;
 * moving goes on with each write that follows, PNX_CMAP_MOVE_SLOTS slots at a time, so the next table is far from
 * full when the old one has been left.
 */
#include "share/cmap_table.h"

#include "share/cmap_hash.h"

static struct pnx_cmap_slot no_slots[PNX_CMAP_BUCKET] __attribute__((aligned(64)));
struct pnx_cmap_table pnx__cmap_no_table = {.n_buckets = 1, .slots = no_slots};

/* ---- sizes ---- */

uint64_t pnx__cmap_buckets_for(const struct pnx_cmap *map, uint64_t n) {
    uint64_t slots = n + n / 3 + PNX_CMAP_BUCKET; /* full to three quarters */
    uint64_t buckets = slots / PNX_CMAP_BUCKET + 1;
    return buckets < map->min_buckets ? map->min_buckets : buckets;
}

static uint64_t entries(const struct pnx_cmap_shard *shard) {
    return pnx_load(&shard->counters.entries, PNX_RELAXED, "cmap.entries"); /* the lock */
}

uint64_t pnx__cmap_wanted_locked(const struct pnx_cmap_shard *shard) {
    const struct pnx_cmap_table *table = shard->table;
    if (table == &pnx__cmap_no_table)
        return shard->map->min_buckets;
    bool tombstones = entries(shard) + 1 <= table->limit / 2;
    return tombstones ? table->n_buckets : 2 * table->n_buckets;
}

/* ---- finding ---- */

struct pnx_cmap_entry *pnx__cmap_look_entry(
        const struct pnx_cmap_table *table, const struct pnx_cmap_key *key) {
    for (; table; table = pnx_load(&table->next, PNX_ACQUIRE, "cmap.entry_next")) { /* cmap.next */
        const struct pnx_cmap_slot *end = table->slots + table->n_buckets * PNX_CMAP_BUCKET;
        const struct pnx_cmap_slot *bucket =
                table->slots + pnx__cmap_bucket(table, key->hash) * PNX_CMAP_BUCKET;
        for (;;) {
            uint64_t last;
            unsigned found = pnx__cmap_match(bucket, key->word, &last);
            for (; found; found &= found - 1) {
                /* Acquire: pairs with cmap.value_*: what the entry points to. */
                uint64_t raw = pnx_load(
                        &bucket[__builtin_ctz(found)].value, PNX_ACQUIRE, "cmap.entry_value");
                if (raw > PNX_CMAP_MOVED && pnx__cmap_entry_has(pnx__cmap_entry(raw), key))
                    return pnx__cmap_entry(raw);
            }
            if (last == 0)
                break;
            bucket += PNX_CMAP_BUCKET;
            if (bucket == end)
                bucket = table->slots;
        }
    }
    return NULL;
}

/* Finds a key in one table: its slot and value word, else a tombstone that may be revived for it, or NULL. */
static struct pnx_cmap_slot *find_locked(const struct pnx_cmap_shard *shard,
        const struct pnx_cmap_table *table, const struct pnx_cmap_key *key, uint64_t *ret_raw) {
    uint64_t word = key->word ^ table->key_mask;
    struct pnx_cmap_slot *tombstone = NULL;
    uint64_t index = pnx__cmap_bucket(table, key->hash);
    *ret_raw = PNX_CMAP_ABSENT;
    if (word == 0)
        return NULL;
    for (;;) {
        struct pnx_cmap_slot *bucket = table->slots + index * PNX_CMAP_BUCKET;
        uint64_t last;
        unsigned found = pnx__cmap_match(bucket, word, &last);
        for (; found; found &= found - 1) {
            struct pnx_cmap_slot *slot = &bucket[__builtin_ctz(found)];
            uint64_t raw = pnx_load(&slot->value, PNX_RELAXED, "cmap.find_value"); /* the lock */
            bool whose = shard->map->inlined;
            if (!whose && raw > PNX_CMAP_MOVED)
                whose = pnx__cmap_entry_has(pnx__cmap_entry(raw), key);
            if (whose) {
                *ret_raw = raw;
                return slot;
            }
            if (raw == PNX_CMAP_ABSENT && !tombstone)
                tombstone = slot;
        }
        if (last == 0)
            return tombstone;
        if (++index == table->n_buckets)
            index = 0;
    }
}

/* ---- moving ---- */

/* Puts a key word with a value word of this table into its first free slot. */
static void append_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table, uint64_t hash,
        uint64_t word, uint64_t raw) {
    uint64_t walked = 1;
    uint64_t index = pnx__cmap_bucket(table, hash);
    for (;; walked++) {
        struct pnx_cmap_slot *bucket = table->slots + index * PNX_CMAP_BUCKET;
        for (unsigned i = 0; i < PNX_CMAP_BUCKET; i++) {
            if (pnx_load(&bucket[i].key, PNX_RELAXED, "cmap.free") != 0) /* the lock */
                continue;
            /* Release: pairs with cmap.look_value, cmap.entry_value.  Before the key, so that few see it absent. */
            pnx_store(&bucket[i].value, raw, PNX_RELEASE, "cmap.value_insert");
            pnx_store(&bucket[i].key, word, PNX_RELAXED, "cmap.key"); /* see 3 in cmap_table.h */
            table->used++;
            struct pnx_a64 *most = &shard->counters.max_probe;
            if (walked > pnx_load(most, PNX_RELAXED, "cmap.max_probe"))     /* the lock */
                pnx_store(most, walked, PNX_RELAXED, "cmap.set_max_probe"); /* the lock */
            return;
        }
        if (++index == table->n_buckets)
            index = 0;
    }
}

/* Moves one slot of the table that is being left. */
static void move_slot_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_slot *slot) {
    const struct pnx_cmap_table *from = shard->table;
    struct pnx_cmap_table *to = shard->target;
    uint64_t key = pnx_load(&slot->key, PNX_RELAXED, "cmap.move_key");     /* the lock */
    uint64_t raw = pnx_load(&slot->value, PNX_RELAXED, "cmap.move_value"); /* the lock */
    if (key == 0 || raw == PNX_CMAP_MOVED)
        return;
    if (raw != PNX_CMAP_ABSENT) {
        uint64_t word = key ^ from->key_mask;
        append_locked(shard, to, pnx__cmap_hash_slot(shard->map, word), word ^ to->key_mask,
                raw ^ from->value_mask ^ to->value_mask);
        shard->moving_entries++;
    }
    /* Release: pairs with cmap.look_value, cmap.entry_value; see 4 in cmap_table.h. */
    pnx_store(&slot->value, PNX_CMAP_MOVED, PNX_RELEASE, "cmap.value_moved");
}

/* Makes table the shard's only one. */
static void publish_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table) {
    struct pnx_cmap *map = shard->map;
    shard->table = table;
    shard->target = NULL;
    shard->moved = 0;
    shard->moving_entries = 0;
    /* Release: pairs with cmap.table. */
    pnx_store(&map->tables[shard - map->shards], table, PNX_RELEASE, "cmap.publish");
}

void pnx__cmap_finish_move(struct pnx_cmap_shard *shard) {
    bool moving = true;
    while (moving) {
        pnx__mutex_lock(&shard->lock);
        moving = pnx__cmap_move_locked(shard, shard->map->move_buckets);
        pnx__cmap_unlock(shard);
    }
}

static uint64_t slots_of(const struct pnx_cmap_table *table) {
    return table == &pnx__cmap_no_table ? 0 : table->n_buckets * PNX_CMAP_BUCKET;
}

void pnx__cmap_inherit_locked(const struct pnx_cmap_shard *shard, struct pnx_cmap_table *table) {
    if (shard->table == &pnx__cmap_no_table)
        return;
    table->key_mask = shard->table->key_mask;
    table->value_mask = shard->table->value_mask;
}

void pnx__cmap_install_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table) {
    struct pnx_cmap_counters *counters = &shard->counters;
    pnx_owner_add(&counters->slots, slots_of(table) - slots_of(shard->table));
    if (shard->table == &pnx__cmap_no_table) {
        publish_locked(shard, table);
        return;
    }
    pnx_owner_add(&counters->resizes, 1);
    /* Those of the table that is left do not come along. */
    pnx_store(&counters->tombstones, 0, PNX_RELAXED, "cmap.no_tombstones"); /* the lock */
    shard->target = table;
    shard->moved = 0;
    shard->moving_entries = 0;
    /* Release: pairs with cmap.look_next, cmap.entry_next; see 5 in cmap_table.h. */
    pnx_store(&shard->table->next, table, PNX_RELEASE, "cmap.next");
}

bool pnx__cmap_move_locked(struct pnx_cmap_shard *shard, uint64_t buckets) {
    if (!shard->target)
        return false;
    struct pnx_cmap_table *from = shard->table;
    uint64_t end =
            from->n_buckets - shard->moved < buckets ? from->n_buckets : shard->moved + buckets;
    for (; shard->moved < end; shard->moved++)
        for (unsigned i = 0; i < PNX_CMAP_BUCKET; i++)
            move_slot_locked(shard, &from->slots[shard->moved * PNX_CMAP_BUCKET + i]);
    if (end < from->n_buckets)
        return true;
    publish_locked(shard, shard->target);
    pnx__cmap_retire_table_locked(shard, from);
    return false;
}

void pnx__cmap_settle_locked(struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key,
        struct pnx_cmap_place *ret_place) {
    pnx__cmap_move_locked(shard, shard->map->move_buckets);
    struct pnx_cmap_place place = {.table = shard->table};
    if (shard->target) {
        struct pnx_cmap_slot *slot = find_locked(shard, shard->table, key, &place.raw);
        if (slot && place.raw != PNX_CMAP_MOVED && (place.raw || shard->map->inlined))
            move_slot_locked(shard, slot);
        place.table = shard->target;
    }
    place.slot = find_locked(shard, place.table, key, &place.raw);
    *ret_place = place;
}

bool pnx__cmap_replace_word_locked(
        struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key, uint64_t value) {
    struct pnx_cmap_table *table = shard->table;
    uint64_t old;
    struct pnx_cmap_slot *slot = find_locked(shard, table, key, &old);
    uint64_t raw = value ^ table->value_mask;
    if (old <= PNX_CMAP_MOVED || raw <= PNX_CMAP_MOVED)
        return false;
    /* Release: pairs with cmap.look_value. */
    pnx_store(&slot->value, raw, PNX_RELEASE, "cmap.value_exchange");
    pnx_owner_add(&shard->counters.replaces, 1);
    return true;
}

/* ---- inserting ---- */

int pnx__cmap_insert_locked(struct pnx_cmap_shard *shard, const struct pnx_cmap_place *place,
        const struct pnx_cmap_key *key, uint64_t value, bool forced) {
    struct pnx_cmap_table *table = place->table;
    uint64_t raw = value ^ table->value_mask;
    if (place->slot) {
        /* Release: pairs with cmap.look_value, cmap.entry_value; a tombstone, for its key or hash again. */
        pnx_store(&place->slot->value, raw, PNX_RELEASE, "cmap.value_revive");
        pnx_owner_add(&shard->counters.tombstones, (uint64_t)-1);
    } else {
        /* What the table will hold when all that is still in the old one has come, too. */
        uint64_t load = table->used + (shard->target ? entries(shard) - shard->moving_entries : 0);
        if (load >= (forced ? table->full : table->limit))
            return PNX_CMAP_WANTS_TABLE;
        append_locked(shard, table, key->hash, key->word ^ table->key_mask, raw);
    }
    if (shard->target)
        shard->moving_entries++;
    pnx_owner_add(&shard->counters.entries, 1);
    pnx_owner_add(&shard->counters.inserts, 1);
    return 0;
}

/* Whether a value of the shard's table would need another mask. */
static bool unfit_value(const struct pnx_cmap_table *from, const struct pnx_cmap_slot *slot,
        const struct pnx_cmap_table *to) {
    uint64_t key = pnx_load(&slot->key, PNX_RELAXED, "cmap.fit_key");     /* the lock */
    uint64_t raw = pnx_load(&slot->value, PNX_RELAXED, "cmap.fit_value"); /* the lock */
    if (key == 0 || raw <= PNX_CMAP_MOVED)
        return false;
    return (key ^ from->key_mask) == to->key_mask ||
           (raw ^ from->value_mask ^ to->value_mask) <= PNX_CMAP_MOVED;
}

void pnx__cmap_remask_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table,
        const struct pnx_cmap_key *key, uint64_t value) {
    const struct pnx_cmap_table *from = shard->table;
    bool masks_values = !shard->map->rc;
    bool fits = false;
    while (!fits) {
        /* From the masks that did not do: whatever a random source says, this ends. */
        table->key_mask = pnx__mix64(table->key_mask + UINT64_C(0x9E3779B97F4A7C15));
        table->value_mask = masks_values ? pnx__mix64(table->key_mask ^ shard->map->secret[1]) : 0;
        fits = pnx__cmap_fits(table, key, masks_values ? value : UINT64_MAX);
        for (uint64_t i = 0; fits && i < from->n_buckets * PNX_CMAP_BUCKET; i++)
            fits = !unfit_value(from, &from->slots[i], table);
    }
}

void pnx__cmap_empty_locked(struct pnx_cmap_shard *shard) {
    struct pnx_cmap_table *table = shard->table;
    struct pnx_cmap_table *target = shard->target;
    struct pnx_cmap_counters *counters = &shard->counters;
    if (table == &pnx__cmap_no_table)
        return;
    uint64_t gone = entries(shard);
    pnx_owner_add(&counters->removes, gone);
    pnx_owner_add(&counters->entries, (uint64_t)0 - gone);
    pnx_owner_add(&counters->slots, (uint64_t)0 - slots_of(target ? target : table));
    if (shard->map->max_entries)
        pnx_fetch_sub(&shard->map->admitted, gone, PNX_RELAXED, "cmap.dismiss_all"); /* a number */
    pnx_store(&counters->tombstones, 0, PNX_RELAXED, "cmap.cleared_tombstones");     /* the lock */
    publish_locked(shard, &pnx__cmap_no_table);
    table->spares = shard->spares;
    shard->spares = NULL;
    pnx__cmap_retire_table_locked(shard, table);
    if (target)
        pnx__cmap_retire_table_locked(shard, target);
}
