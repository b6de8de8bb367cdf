/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed.h - keys and values of fixed sizes, which stand in the slots' records themselves: no block of memory for each entry.
 *
 *     line of the index --> record: [ seq | expires | hits, wheel | key ... | value ... ]
 *
 * seq is odd while a record is written, and while nothing stands in it; every entry that comes, and every new value of one, leaves
 * it at another even number.  Who writes: the holder of the shard's lock.
 *
 *     writer                                      reader
 *     seq = odd                                   before = seq      (acquire)
 *     fence (release)                             key, value, expires   (relaxed)
 *     key, value, expires  (relaxed)              fence (acquire)
 *     seq = next even      (release)              after = seq       (relaxed)
 *
 * Why a reader in a section is right.  Fix one key; cache/table.h says how a search comes to a slot.
 *  1. before is even, the key is there, and after == before: all words that were read are those that were stored with that even
 *     number.  If one had been of a later write, its writer's fence came before the store of that word, so the odd
 *     number, or a later one, would be visible to the load of after (fence to fence through that word).  If one
 *     had been older, before would not have been that number: its store is a release, the load an acquire.  So the reader took
 *     effect when it loaded before.  That a number comes again takes 2^31 writes to this one slot while one reader stands between
 *     the two loads.
 *  2. A slot with another key, however its words were mixed: while the key is present its slot holds its words and no others, so a
 *     reader that sees others was there before the key came, or after it went, and was not told of it (table.h, 3).
 *  3. Odd, or after != before: the reader searches again, and after a few times asks under the lock.
 *  4. A cache is cleared by raising a number.  Each table says how often the cache had been cleared before it was made; one
 *     that is older holds nothing, for all shards from the same moment on.
 *
 * A time to live is kept in ticks of 2^26 ns (67 ms), rounded down, so that nothing is returned after its time.
 */
#ifndef PNX_SRC_CACHE_FIXED_H
#define PNX_SRC_CACHE_FIXED_H

#include "cache/table.h"

#define PNX_CACHE_TICK_SHIFT  26u
#define PNX_CACHE_TICK_NEVER  UINT32_MAX
#define PNX_CACHE_KEY_BYTES   64u              /* most of a fixed key */
#define PNX_CACHE_VALUE_BYTES 256u             /* most of a fixed value */
#define PNX_CACHE_FIXED_SLOTS ((1u << 24) - 2) /* a shard's: what wheel can name */

struct pnx_cache_fixed {
    struct pnx_a32 seq;
    struct pnx_a32 expires; /* the first tick at which it is gone */
    struct pnx_a8 hits;
    uint8_t wheel[3]; /* the lock's: what follows in the bucket, see cache/wheel.c; 0: in none */
    struct pnx_a32 word
            []; /* the key's, then the value's; the first names the next free slot of one that holds nothing */
};

static inline struct pnx_cache_fixed *pnx__cache_fixed_at(
        const struct pnx_cache_table *table, uint32_t slot) {
    return (struct pnx_cache_fixed *)(void *)(table->pages[slot >> table->shape.shift] +
                                              (size_t)(slot & ((1u << table->shape.shift) - 1)) *
                                                      table->shape.stride);
}

/* The bytes of word i of n bytes; those behind the end are 0. */
static inline uint32_t pnx__cache_word_of(const void *bytes, size_t n, uint32_t i) {
    uint32_t word = 0;
    if (n - 4 * (size_t)i >= 4)
        memcpy(&word, (const char *)bytes + 4 * (size_t)i, 4);
    else
        memcpy(&word, (const char *)bytes + 4 * (size_t)i, n - 4 * (size_t)i);
    return word;
}

/* What a search for a fixed key found: the record, and seq before anything else of it was read. */
struct pnx_cache_found_fixed {
    struct pnx_cache_fixed *record;
    uint32_t slot;
    uint32_t seq;
};

/* Word i of a key of n bytes; both are constants for the sizes that most keys have. */
__attribute__((always_inline)) static inline bool pnx__cache_fixed_is(
        const struct pnx_cache_table *table, uint32_t slot, const void *key, size_t key_size,
        void *ret_found) {
    struct pnx_cache_found_fixed *found = ret_found;
    struct pnx_cache_fixed *record = pnx__cache_fixed_at(table, slot);
    /* Acquire: pairs with cache_fixed.even; all words. */
    found->seq = pnx_load(&record->seq, PNX_ACQUIRE, "cache_fixed.before");
    found->record = record;
    found->slot = slot;
    uint32_t differ = 0;
    for (uint32_t i = 0; i < key_size / 4; i++)
        /* Relaxed, both: see 1 and 2 above. */
        differ |= pnx_load(&record->word[i], PNX_RELAXED, "cache_fixed.key") ^
                  pnx__cache_word_of(key, key_size, i);
    if (key_size % 4)
        differ |= pnx_load(&record->word[key_size / 4], PNX_RELAXED, "cache_fixed.key_end") ^
                  pnx__cache_word_of(key, key_size, (uint32_t)(key_size / 4));
    return differ == 0;
}

/*
 * The same under the shard's lock, where an odd number says that nothing stands in the record.  A search comes to such
 * records, too, since tags may be wrong by a bit and free positions name the slots that stood there; and what is left of a key,
 * with the free list's link in front, may be the words of another.
 */
__attribute__((always_inline)) static inline bool pnx__cache_fixed_is_locked(
        const struct pnx_cache_table *table, uint32_t slot, const void *key, size_t key_size,
        void *ret_found) {
    const struct pnx_cache_found_fixed *found = ret_found;
    return pnx__cache_fixed_is(table, slot, key, key_size, ret_found) && !(found->seq & 1);
}

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
