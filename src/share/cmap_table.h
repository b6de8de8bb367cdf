/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_table.h - one table: how it is probed without a lock, and changed under one.
 *
 * Probing (linear, by buckets of one cache line): a key is looked for from the bucket that its hash names to the
 * first bucket that is not full.  Buckets fill from their first slot to their last, and no slot ever loses its
 * key word, so a bucket whose last key word is 0 ends the search.  Buckets are named by the high bits of the hash,
 * in its order: moving a table to a larger one reads and writes both from front to back, and a walk can go by ranges
 * of hashes, whatever is resized meanwhile (cmap_walk.c).
 *
 * The words of a slot, and who changes them (always under the shard's lock):
 *
 *     key  0 --insert--> k (for good)
 *     value  ABSENT --insert, revive--> v --replace--> v' --remove--> ABSENT,  any --move--> MOVED (for good)
 *
 * Why a lookup needs no validation.  Fix one key.
 *  1. In one table the key has at most one slot with a value: inserts search the whole chain under the lock.  With
 *     inlined keys it has at most one slot at all, since a tombstone is revived for its own key only.  With entries
 *     a tombstone may be revived for any key with the same hash; the value word then names a block that holds key
 *     and value together, so that they cannot be mistaken.
 *  2. The value word alone says whether the key is there: it is one atomic word, stored with release, loaded with
 *     acquire.  A lookup that reads v took effect when it read it; what its writer did before is visible.
 *  3. A lookup that reads ABSENT, or meets the end of the chain, took effect then, unless the table is being moved.
 *     It reads key words relaxed: a stale 0 is what it would have read before that insert, which no other thread
 *     can have told it of: whoever knows of the insert (returned from it, or read its value with acquire) makes the
 *     key word visible by happening before.  The same holds for the key words that an insert skipped over: it
 *     knew of them by the lock.
 *  4. While a table is moved, a key with a slot in the old table lives there until that slot says MOVED; others live
 *     in the next one.  The order of a move is: store into the next table, then MOVED with release.  So a lookup that
 *     reads MOVED finds the next table, and in it what was moved.  One that did not find the key in the old table
 *     looks in the next one if there is one.  If it read ABSENT, the key was not there at that moment, and if the
 *     next table has it, it came since; both answers are right.
 *  5. next is stored before anything is stored into the next table, and never changes then; whoever knows of an
 *     insert there knows of next (release, acquire).
 *  6. Tables, entries and objects are retired after they were unlinked; the lookup is in a section.
 *
 * Linearizability is local: what holds for each key holds for the map (Herlihy and Wing, 1990).
 */
#ifndef PNX_SRC_SHARE_CMAP_TABLE_H
#define PNX_SRC_SHARE_CMAP_TABLE_H

#include "share/cmap.h"

#include <string.h>

static inline uint64_t pnx__cmap_bucket(const struct pnx_cmap_table *table, uint64_t hash) {
    /* The high word of the product (Lemire, 2019): any number of buckets, and in the order of hashes. */
    return (uint64_t)(((unsigned __int128)hash * table->n_buckets) >> 64);
}

static inline const struct pnx_cmap_table *pnx__cmap_first(
        const struct pnx_cmap *map, uint64_t hash) {
    /* Acquire: pairs with cmap.publish; the table's fixed fields and zeroed slots. */
    return pnx_load(&map->tables[hash & map->shard_mask], PNX_ACQUIRE, "cmap.table");
}

/*
 * Returns which slots of a bucket have the key word, as bits; *ret_last is its last key word.  Without branches:
 * which slot it is cannot be predicted, and a wrong guess costs as much as the cache miss.
 */
static inline unsigned pnx__cmap_match(
        const struct pnx_cmap_slot *bucket, uint64_t word, uint64_t *ret_last) {
    /* Relaxed: see 3 above. */
    uint64_t last = pnx_load(&bucket[3].key, PNX_RELAXED, "cmap.key3");
    unsigned e0 = pnx_load(&bucket[0].key, PNX_RELAXED, "cmap.key0") == word;
    unsigned e1 = pnx_load(&bucket[1].key, PNX_RELAXED, "cmap.key1") == word;
    unsigned e2 = pnx_load(&bucket[2].key, PNX_RELAXED, "cmap.key2") == word;
    unsigned e3 = last == word;
#if defined(__GNUC__)
    __asm__("" : "+r"(e0), "+r"(e1), "+r"(e2), "+r"(e3)); /* else compilers make branches of it */
#endif
    *ret_last = last;
    return e0 | (e1 << 1) | (e2 << 2) | (e3 << 3);
}

/* Returns the slot of a bucket that has the key word, or else its first slot. */
static inline const struct pnx_cmap_slot *pnx__cmap_choose(
        const struct pnx_cmap_slot *bucket, uint64_t word) {
    /* Relaxed: see 3 above.  Conditional moves: see pnx__cmap_match(). */
    const struct pnx_cmap_slot *slot = bucket;
    uint64_t k1 = pnx_load(&bucket[1].key, PNX_RELAXED, "cmap.choose1");
    uint64_t k2 = pnx_load(&bucket[2].key, PNX_RELAXED, "cmap.choose2");
    uint64_t k3 = pnx_load(&bucket[3].key, PNX_RELAXED, "cmap.choose3");
    slot = k1 == word ? bucket + 1 : slot;
    slot = k2 == word ? bucket + 2 : slot;
    slot = k3 == word ? bucket + 3 : slot;
#if defined(__GNUC__)
    __asm__("" : "+r"(slot));
#endif
    return slot;
}

/* Looks for an inlined key from the bucket on.  Returns its value word in *ret_table, or ABSENT. */
static inline uint64_t pnx__cmap_look_word_from(const struct pnx_cmap_table *table,
        const struct pnx_cmap_slot *bucket, uint64_t hash, uint64_t key,
        const struct pnx_cmap_table **ret_table) {
    for (;;) {
        uint64_t word = key ^ table->key_mask;
        uint64_t raw = PNX_CMAP_ABSENT;
        for (;;) {
            uint64_t last;
            unsigned found = pnx__cmap_match(bucket, word, &last);
            if (__builtin_expect(found != 0, 1)) {
                /* Acquire: pairs with cmap.value_*; see 2 above. */
                raw = pnx_load(&bucket[__builtin_ctz(found)].value, PNX_ACQUIRE, "cmap.look_value");
                break;
            }
            if (last == 0)
                break;
            bucket += PNX_CMAP_BUCKET;
            if (bucket == table->slots + table->n_buckets * PNX_CMAP_BUCKET)
                bucket = table->slots;
        }
        *ret_table = table;
        if (__builtin_expect(raw > PNX_CMAP_MOVED, 1))
            return raw;
        /* Acquire: pairs with cmap.next; see 4 and 5 above. */
        table = pnx_load(&table->next, PNX_ACQUIRE, "cmap.look_next");
        if (!table)
            return PNX_CMAP_ABSENT;
        bucket = table->slots + pnx__cmap_bucket(table, hash) * PNX_CMAP_BUCKET;
    }
}

static inline bool pnx__cmap_entry_has(
        const struct pnx_cmap_entry *entry, const struct pnx_cmap_key *key) {
    return entry->key_size == key->size && memcmp(entry->key, key->bytes, key->size) == 0;
}

static inline struct pnx_cmap_entry *pnx__cmap_entry(uint64_t raw) {
    return (struct pnx_cmap_entry *)(uintptr_t)raw;
}

/* Looks for the entry of a key; NULL when there is none. */
struct pnx_cmap_entry *pnx__cmap_look_entry(
        const struct pnx_cmap_table *table, const struct pnx_cmap_key *key);

/* ---- under the shard's lock ---- */

/* Where a key is, or could be put. */
struct pnx_cmap_place {
    struct pnx_cmap_table *table; /* into which writes go */
    struct pnx_cmap_slot *slot;   /* with the key's value, or a tombstone for it, or NULL */
    uint64_t raw;                 /* its value word; 0: the key is not there */
};

/* Finds a key, after moving it to where writes go, and some buckets besides (P8). */
void pnx__cmap_settle_locked(struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key,
        struct pnx_cmap_place *ret_place);

/* The value in a slot; an address is not masked. */
static inline uint64_t pnx__cmap_unmask(const struct pnx_cmap_table *table, uint64_t raw) {
    return raw ^ table->value_mask;
}

/* Whether a key can stand in the table, and a value. */
static inline bool pnx__cmap_fits(
        const struct pnx_cmap_table *table, const struct pnx_cmap_key *key, uint64_t value) {
    return (key->word ^ table->key_mask) != 0 && (value ^ table->value_mask) > PNX_CMAP_MOVED;
}

/* Replaces the value of an inlined key, if it is there and the value fits; the shard is not moving. */
bool pnx__cmap_replace_word_locked(
        struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key, uint64_t value);

/* What became of an insert, beside 0: a table with other sizes or masks must be made first. */
enum { PNX_CMAP_WANTS_TABLE = 1 };

/*
 * Stores a value (or the address of an entry or object) that fits, for a key that is not there.  forced: up to the
 * table's last free slot.
 */
int pnx__cmap_insert_locked(struct pnx_cmap_shard *shard, const struct pnx_cmap_place *place,
        const struct pnx_cmap_key *key, uint64_t value, bool forced);

/* Returns how many buckets the next table of the shard should have. */
uint64_t pnx__cmap_wanted_locked(const struct pnx_cmap_shard *shard);
/* Returns how many buckets a table for n entries needs. */
uint64_t pnx__cmap_buckets_for(const struct pnx_cmap *map, uint64_t n);

/* Gives a new table the masks of the shard's, with which all that is in it fits. */
void pnx__cmap_inherit_locked(const struct pnx_cmap_shard *shard, struct pnx_cmap_table *table);
/* Makes table the one that the shard moves to; the shard is not moving, and all that is in it fits. */
void pnx__cmap_install_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table);
/* Moves some buckets, if the shard is moving; returns whether it still is. */
bool pnx__cmap_move_locked(struct pnx_cmap_shard *shard, uint64_t buckets);
/* Moves all of the shard's old table, letting the lock go in between; under no lock. */
void pnx__cmap_finish_move(struct pnx_cmap_shard *shard);
/* Gives a new table masks with which everything in the shard, and this key and value, fit; the shard is not moving. */
void pnx__cmap_remask_locked(struct pnx_cmap_shard *shard, struct pnx_cmap_table *table,
        const struct pnx_cmap_key *key, uint64_t value);
/* Unlinks all that is in the shard. */
void pnx__cmap_empty_locked(struct pnx_cmap_shard *shard);

/* The table of shards that hold nothing. */
extern struct pnx_cmap_table pnx__cmap_no_table;

#endif
