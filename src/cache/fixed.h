/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed.h - keys and values of fixed sizes, which stand in the index itself: no block of memory for each entry.
 *
 *     hash --> group: [ 14 tags of 8 bits | left | passed ]     16 bytes, so that those of a hundred thousand keys stay in
 *                        |                                      the processor's second cache
 *                        v
 *              record of the same position: [ seq | expires | hits, wheel | key ... | value ... ]
 *
 * The number of a slot is its place: 14 times its group, and its position there.  So a lookup waits for memory once, for the
 * record; groups are read without waiting for each other.
 *
 * A key stands in its home, or in a second group that its hash names, or in the first one behind that which had room.  Its home counts it in
 * left when it is not there, each group from the second on that it went past in passed; so a search goes on only where these are not 0.
 * It takes home while that has room for two, else the second; with groups filled to 17/20 on average 1.4 groups are read for a key that is there
 * and 2.3 for one that is not.  (In the first group with room behind its home it would be 1.8 and 20: what comes and goes leaves long runs.)
 *
 * A larger table takes the place of a whole one: records are copied, the old ones stay as they were, and slots have other numbers.
 *
 * seq is odd while a record is written, and while nothing stands in it; every entry that comes, and every new value of one, leaves
 * it at another even number.  Who writes: the holder of the shard's lock.
 *
 *     writer                                      reader
 *     seq = odd                                   low, high of groups  (relaxed)
 *     fence (release)                             before = seq      (acquire)
 *     key, value, expires  (relaxed)              key, value, expires   (relaxed)
 *     seq = next even      (release)              fence (acquire)
 *     tag                  (relaxed)              after = seq       (relaxed)
 *
 * Why a reader in a section is right.  Fix one key, present or not.
 *  1. While it is present in one table it stays where it is: nothing moves in a table.
 *  2. before is even, the key is there, and after == before: all words that were read are those that were stored with that even
 *     number.  If one had been of a later write, its writer's fence came before the store of that word, so the odd
 *     number, or a later one, would be visible to the load of after (fence to fence through that word).  If one
 *     had been older, before would not have been that number: its store is a release, the load an acquire.  So the reader took
 *     effect when it loaded before, whichever tag led there.  That a number comes again takes 2^31 writes to this one slot while one
 *     reader stands between the two loads.
 *  3. The reader finds no record of the key: the key was absent at some moment since it loaded the table.  If the
 *     put happened before, the reader sees its tag, the counts in passed on the way, and its words, or newer ones, since each of these is
 *     one atomic word, and they are there as long as the key is (1).  If it did not, no thread can have told the reader of it.  That
 *     is all the order that tags need: a record is there before its table is published, so whatever a tag leads to can be read.
 *  4. A slot with another key, however its words were mixed: while the key is present its slot holds its words and no others, so a
 *     reader that sees others was there before the key came, or after it went, and was not told of it (3).
 *  5. Odd, or after != before: the reader searches again, and after a few times asks under the lock.
 *  6. A table that has been replaced is frozen.  A reader that loaded it before acts at the moment of the replacement, or before.
 *  7. A cache is cleared by raising a number.  Each table says how often the cache had been cleared before it was made; one
 *     that is older holds nothing, for all shards from the same moment on.
 *
 * A time to live is kept in ticks of 2^26 ns (67 ms), rounded down, so that nothing is returned after its time.
 * Ticks count from 26 days before the cache was made: a clock may go back that far.
 */
#ifndef PNX_SRC_CACHE_FIXED_H
#define PNX_SRC_CACHE_FIXED_H

#include "cache/table.h"
#include "os/bytes16.h"

#define PNX_CACHE_TICK_SHIFT  26u
#define PNX_CACHE_TICK_NEVER  UINT32_MAX
/* When a cache is made: 26 days after tick 0, so that times on a clock that is set back behind that are ticks, too. */
#define PNX_CACHE_TICK_FIRST  (1u << 25)
#define PNX_CACHE_KEY_BYTES   64u              /* most of a fixed key */
#define PNX_CACHE_VALUE_BYTES 256u             /* most of a fixed value */
#define PNX_CACHE_FIXED_SLOTS ((1u << 24) - 2) /* a shard's: what wheel can name */
#define PNX_CACHE_GROUP_SLOTS 14u
#define PNX_CACHE_PAGES_MIN \
    ((size_t)256 << 10)            /* bytes from which on a table has pages of its own */
#define PNX_CACHE_LEFT_SHIFT   48u /* in high; the word of tags ends below */
#define PNX_CACHE_PASSED_SHIFT 56u
#define PNX_CACHE_PASSED_MOST  0xffu /* of either: stays so, a search goes on there for ever after */

/* Most entries of a shard: 17/20 of the slots. */
#define PNX_CACHE_FIXED_ENTRIES (PNX_CACHE_FIXED_SLOTS / 20 * 17)

struct pnx_cache_group {
    struct pnx_a64 low;  /* tags of positions 0 to 7; 0: free */
    struct pnx_a64 high; /* of 8 to 13; left; passed */
};

struct pnx_cache_fixed {
    struct pnx_a32 seq;
    struct pnx_a32 expires; /* the first tick at which it is gone */
    struct pnx_a8 hits;
    uint8_t wheel[3]; /* the lock's: what follows in the bucket, see cache/wheel.c; 0: in none */
    struct pnx_a32 word[]; /* the key's, then the value's */
};

static inline struct pnx_cache_fixed *pnx__cache_fixed_at(
        const struct pnx_cache_table *table, uint32_t slot) {
    return (struct pnx_cache_fixed *)(void *)(table->records + (size_t)slot * table->shape.stride);
}

/* Bytes of a record. */
#define PNX_CACHE_FIXED_STRIDE(key_size, value_size) \
    (sizeof(struct pnx_cache_fixed) + ((key_size) + 3) / 4 * 4 + ((value_size) + 3) / 4 * 4)

/* The bytes of word i of n bytes; those behind the end are 0. */
static inline uint32_t pnx__cache_word_of(const void *bytes, size_t n, uint32_t i) {
    uint32_t word = 0;
    if (n - 4 * (size_t)i >= 4)
        memcpy(&word, (const char *)bytes + 4 * (size_t)i, 4);
    else
        memcpy(&word, (const char *)bytes + 4 * (size_t)i, n - 4 * (size_t)i);
    return word;
}

/* ---- searching ---- */

static inline uint32_t pnx__cache_fixed_home(const struct pnx_cache_table *table, uint64_t hash) {
    return (uint32_t)(((hash >> 32) * table->n_lines) >> 32);
}

/* The group that a search looks at after the key's home, and the one after such a group.  In a small table it may be home again. */
static inline uint32_t pnx__cache_fixed_second(
        const struct pnx_cache_table *table, uint64_t hash, uint32_t home) {
    uint32_t g = home + 1 + ((uint32_t)(hash >> 16) & 0xff);
    return g < table->n_lines ? g : g % table->n_lines;
}
static inline uint32_t pnx__cache_fixed_after(const struct pnx_cache_table *table, uint32_t g) {
    return g + 1 == table->n_lines ? 0 : g + 1;
}

/* A bit for each position whose tag may be this one, for pnx__bytes16_position(): the lowest is right. */
static inline uint64_t pnx__cache_group_match(uint64_t low, uint64_t high, uint32_t tag) {
    return pnx__bytes16_match(low, high, tag, PNX_CACHE_GROUP_SLOTS);
}

/* What a search for a fixed key found: the record, and seq before anything else of it was read. */
struct pnx_cache_found_fixed {
    struct pnx_cache_fixed *record;
    uint32_t slot;
    uint32_t seq;
};

/* Whether the record has the key.  The size is a constant for those that most keys have. */
__attribute__((always_inline)) static inline bool pnx__cache_fixed_is(
        const struct pnx_cache_fixed *record, const void *key, size_t key_size) {
    uint32_t differ = 0;
    for (uint32_t i = 0; i < key_size / 4; i++)
        /* Relaxed, both: see 2 and 4 above. */
        differ |= pnx_load(&record->word[i], PNX_RELAXED, "cache_fixed.key") ^
                  pnx__cache_word_of(key, key_size, i);
    if (key_size % 4)
        differ |= pnx_load(&record->word[key_size / 4], PNX_RELAXED, "cache_fixed.key_end") ^
                  pnx__cache_word_of(key, key_size, (uint32_t)(key_size / 4));
    return differ == 0;
}

/* Looks for a key in one group; *ret_high: that word. */
__attribute__((always_inline)) static inline bool pnx__cache_fixed_search_group(
        const struct pnx_cache_table *table, uint32_t g, uint32_t tag, const void *key,
        size_t key_size, size_t stride, bool locked, uint64_t *ret_high,
        struct pnx_cache_found_fixed *found) {
    const struct pnx_cache_group *group = &table->groups[g];
    /* Relaxed, both: see 3 above. */
    uint64_t low = pnx_load(&group->low, PNX_RELAXED, "cache_fixed.low");
    uint64_t high = *ret_high = pnx_load(&group->high, PNX_RELAXED, "cache_fixed.high");
    for (uint64_t m = pnx__cache_group_match(low, high, tag); m; m &= m - 1) {
        uint32_t slot = g * PNX_CACHE_GROUP_SLOTS + pnx__bytes16_position(m);
        struct pnx_cache_fixed *record =
                (struct pnx_cache_fixed *)(void *)(table->records + slot * stride);
        /* Acquire: pairs with cache_fixed.even; all words. */
        uint32_t seq = pnx_load(&record->seq, PNX_ACQUIRE, "cache_fixed.before");
        if (!pnx__cache_fixed_is(record, key, key_size) || (locked && (seq & 1)))
            continue;
        *found = (struct pnx_cache_found_fixed){record, slot, seq};
        return true;
    }
    return false;
}

/*
 * Looks for a key from its home on; stride: a record's.  In a section, or under the shard's lock: there an odd number says
 * that nothing stands in the record, to which a tag that is wrong by a bit may lead.
 */
__attribute__((always_inline)) static inline bool pnx__cache_fixed_search(
        const struct pnx_cache_table *table, uint64_t hash, const void *key, size_t key_size,
        size_t stride, bool locked, struct pnx_cache_found_fixed *found) {
    const uint32_t tag = pnx__cache_tag(hash), home = pnx__cache_fixed_home(table, hash);
    uint64_t high;
    if (pnx__cache_fixed_search_group(
                table, home, tag, key, key_size, stride, locked, &high, found))
        return true;
    if (!(high >> PNX_CACHE_LEFT_SHIFT & PNX_CACHE_PASSED_MOST))
        return false;
    uint32_t g = pnx__cache_fixed_second(table, hash, home);
    /* In a small table each group may have been gone past by some key. */
    for (uint32_t looked = 0; looked < table->n_lines; looked++) {
        if (pnx__cache_fixed_search_group(
                    table, g, tag, key, key_size, stride, locked, &high, found))
            return true;
        if (!(high >> PNX_CACHE_PASSED_SHIFT))
            return false;
        g = pnx__cache_fixed_after(table, g);
    }
    return false;
}

/* ---- fixed_table.c: under the shard's lock, or before anybody else knows the table ---- */

/* How many slots a table for so many entries has. */
uint32_t pnx__cache_fixed_slots(uint32_t room);
/* What a table with so many takes. */
size_t pnx__cache_fixed_table_bytes(const struct pnx_cache_shape *shape, uint32_t slots);
/* Makes an empty table; NULL when there is no memory. */
struct pnx_cache_table *pnx__cache_fixed_table_make(struct pnx_cache_shard *shard,
        const struct pnx_env *env, const struct pnx_cache_shape *shape, uint32_t room);
/* The free slot that a key with this hash is to stand in; there is one. */
uint32_t pnx__cache_fixed_free_slot(const struct pnx_cache_table *table, uint64_t hash);
/* Puts the key into the index, whose record has been written; and takes it out. */
void pnx__cache_fixed_table_put(struct pnx_cache_table *table, uint64_t hash, uint32_t slot);
void pnx__cache_fixed_table_take(struct pnx_cache_table *table, uint64_t hash, uint32_t slot);
/* Puts all that stands in one table into another, empty one; map[i]: where what stood in slot i stands, or NO_SLOT. */
void pnx__cache_fixed_table_copy(
        struct pnx_cache_table *to, const struct pnx_cache_table *from, uint32_t *map);
/* Returns what is broken, or NULL; *ret_live: how many slots stand in it. */
const char *pnx__cache_fixed_table_check(const struct pnx_cache_table *table, uint32_t *ret_live);

/* ---- reading ---- */

/* Copies a value of n bytes out; it is one value only if seq has not changed. */
__attribute__((always_inline)) static inline void pnx__cache_fixed_copy(
        const struct pnx_cache_fixed *record, uint32_t key_words, void *value, size_t n) {
    const struct pnx_a32 *word = record->word + key_words;
    uint32_t i = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Two words at a time: a load of eight bytes cannot be served from two stores of four that are still under way. */
    for (; i + 1 < n / 4; i += 2) {
        uint64_t w = pnx_load(&word[i], PNX_RELAXED, "cache_fixed.value_low");
        w |= (uint64_t)pnx_load(&word[i + 1], PNX_RELAXED, "cache_fixed.value_high") << 32;
        memcpy((char *)value + 4 * (size_t)i, &w, 8);
    }
#endif
    for (; i < n / 4; i++) {
        uint32_t w = pnx_load(&word[i], PNX_RELAXED, "cache_fixed.value");
        memcpy((char *)value + 4 * (size_t)i, &w, 4);
    }
    if (n % 4) {
        uint32_t w = pnx_load(&word[n / 4], PNX_RELAXED, "cache_fixed.value_end");
        memcpy((char *)value + n / 4 * 4, &w, n % 4);
    }
}

#endif
