/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/table.h - the index of a shard: from hashes to slots to entries, read without a lock.
 *
 *     hash --> line: [ 12 tags of 8 bits | passed | 12 slots ] --> record of the slot: [ entry | hits | ... ] --> entry
 *
 * A line is one cache line.  A key stands in the first line from its own on that had room; every line that it went past
 * counts it in passed, so that a search goes on only where that is not 0, and at most through all lines.  Slots are small
 * numbers, used again first in, first out; their records lie in pages.  A table knows its lines and the pages; a larger
 * one takes its place whole.
 *
 * Who writes: the holder of the shard's lock.  Why a reader in a section needs no validation.  Fix one key, present or not:
 *  1. While a key is present in one table it stays where it is: nothing moves in a table, and a new value for the key
 *     is another entry in the same record.
 *  2. The record's entry is one atomic word (store release, load acquire), and an entry holds key, value and expiry, which
 *     never change.  A reader that loads an entry of its key from the record took effect when it loaded the word:
 *     the entry was stored then.  Which slot led there does not matter, so tags and slots may be as old as they like.
 *  3. A reader that finds no entry of its key: the key was absent at some moment since it loaded the table.  If the
 *     insert happened before, the reader sees its tag, slot and passed, or newer ones, which are there as long as the key
 *     is (1).  If it did not, no thread can have told the reader of it.  So for finding, all these loads could be relaxed;
 *     they are not, because of the pages: a slot's page is seen through the slot, and the first page, into which a
 *     slot that was never stored leads, through the tag.
 *  4. A table that has been replaced is frozen, all records stay shared with the one after it.  A reader that loaded it
 *     before acts at the moment of the replacement or before, or finds a record's entry, which is 2.
 *  5. Entries, tables and pages are retired after they were unlinked, and the reader is in a section.
 *  6. A reader that wants a reference adds one unless there is none left.  None left means that the entry was taken
 *     out since it was loaded: the reader loads again, and has the newer value or none.
 */
#ifndef PNX_SRC_CACHE_TABLE_H
#define PNX_SRC_CACHE_TABLE_H

#include "base/env.h"
#include "cache/entry.h"

#include <patinox/cache_policy.h>

#define PNX_CACHE_NONE        UINT32_MAX /* no slot */
#define PNX_CACHE_LINE_SLOTS  12u
#define PNX_CACHE_PAGE_SHIFT  7u
#define PNX_CACHE_PAGE_SLOTS  (1u << PNX_CACHE_PAGE_SHIFT) /* of records that lead to entries */
#define PNX_CACHE_FIRST_SLOTS 128u                         /* of a shard's first table */

struct pnx_cache_line {
    struct pnx_a64 tags_low; /* of positions 0 to 7; 0: free */
    struct pnx_a32 tags_high;
    struct pnx_a32 passed; /* keys that would stand here, and stand behind */
    struct pnx_a32 slot[PNX_CACHE_LINE_SLOTS];
} __attribute__((aligned(64)));

/* The shard's lock guards what readers do not read.  A slot is live when it has an entry. */
struct pnx_cache_record {
    struct pnx_aptr entry; /* NULL: none */
    uint64_t weight;       /* what policies see, as is expires */
    pnx_ns expires;        /* PNX_NEVER: not in the heap */
    uint32_t hash;         /* high half of the key's */
    uint32_t heap_pos; /* where it stands in the heap, or NONE; of a free slot: the next free one */
    uint32_t heap;     /* element i of the heap, whatever slot i is */
    struct pnx_a8 hits;
    uint8_t unused[3];
};

/*
 * What records look like: those above, which lead to entries, or keys and values of fixed sizes in the records
 * themselves (cache/fixed.h).  Fixed when the cache is made.
 */
struct pnx_cache_shape {
    uint32_t stride;    /* bytes of a record */
    uint32_t key_bytes; /* the rest is for fixed sizes, else 0 */
    uint32_t value_bytes;
    uint32_t key_words; /* of 32 bits, which they take */
    uint32_t value_words;
};

/* Fixed once it is published, but for pages of slots that nobody knows yet.  What lookups read comes first. */
struct pnx_cache_table {
    uint32_t n_lines; /* or groups */
    uint32_t
            epoch; /* of fixed sizes: how often the cache had been cleared before anything stood in it */
    union {
        struct pnx_cache_line *lines;
        struct pnx_cache_group *groups; /* where sizes are fixed */
    };
    union {
        unsigned char **pages;
        unsigned char *records; /* where sizes are fixed: all of them */
    };
    struct pnx_cache_shape shape;
    uint32_t slots; /* there are */
    uint32_t room;  /* of which so many may be in use; where sizes are not fixed, all */
    struct pnx_cache_shard *shard;
    size_t bytes;
    size_t charged;               /* to the budget, for as long as it is there */
    uint32_t walks;               /* go through it, replaced or not: the shard's lock */
    bool owns_pages;              /* when it is freed: they go too */
    bool mapped;                  /* memory is from os/pages.h */
    struct pnx_cache_table *next; /* on a list of the thread that has replaced it */
    struct pnx_reclaim_node node;
};

/* The table of shards that hold nothing. */
extern struct pnx_cache_table pnx__cache_no_table;

static inline struct pnx_cache_record *pnx__cache_record(
        const struct pnx_cache_table *table, uint32_t slot) {
    return (struct pnx_cache_record *)(void *)table->pages[slot >> PNX_CACHE_PAGE_SHIFT] +
           (slot & (PNX_CACHE_PAGE_SLOTS - 1));
}

/* High half of the hash: names the line, and is what policies see; the tag is from the low half. */
static inline uint32_t pnx__cache_hash_high(uint64_t hash) {
    return (uint32_t)(hash >> 32);
}
static inline uint32_t pnx__cache_tag(uint64_t hash) {
    uint32_t tag = (uint32_t)(hash >> 24) & 0xff;
    return tag ? tag : 1;
}

static inline struct pnx_cache_line *pnx__cache_home(
        const struct pnx_cache_table *table, uint32_t high) {
    return table->lines + (((uint64_t)high * table->n_lines) >> 32);
}
static inline struct pnx_cache_line *pnx__cache_next_line(
        const struct pnx_cache_table *table, struct pnx_cache_line *line) {
    return ++line == table->lines + table->n_lines ? table->lines : line;
}

/*
 * A bit for each position whose tag may be this one, for pnx__cache_position(): the lowest of the first eight is right, and of
 * the last four, others may be wrong by a bit.
 */
static inline uint64_t pnx__cache_match(uint64_t low, uint64_t high, uint32_t tag) {
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t all = tag * ones, x = low ^ all, y = high ^ (all & UINT32_MAX);
    x = (x - ones) & ~x & (ones << 7);
    y = (y - ones) & ~y & (ones << 7 & UINT32_MAX);
    return x >> 7 | y >> 6;
}

/* The position that the lowest bit stands for. */
static inline uint32_t pnx__cache_position(uint64_t match) {
    uint32_t bit = (uint32_t)__builtin_ctzll(match);
    return bit / 8 + bit % 2 * 8;
}

/* Says whether the key stands in a slot, and what was found; a constant where it is used, so that it is inlined. */
typedef bool pnx_cache_is_fn(const struct pnx_cache_table *table, uint32_t slot, const void *key,
        size_t key_size, void *found);

/* Looks for a key from its own line on.  In a section, or under the shard's lock. */
__attribute__((always_inline)) static inline bool pnx__cache_search(
        const struct pnx_cache_table *table, uint64_t hash, const void *key, size_t key_size,
        pnx_cache_is_fn *is, void *found) {
    uint32_t tag = pnx__cache_tag(hash);
    struct pnx_cache_line *const home = pnx__cache_home(table, pnx__cache_hash_high(hash));
    struct pnx_cache_line *line = home;
    do {
        /* Acquire: pair with cache_table.set_low and set_high; the first page, see 3 above. */
        uint64_t low = pnx_load(&line->tags_low, PNX_ACQUIRE, "cache_table.tags_low");
        uint64_t high = pnx_load(&line->tags_high, PNX_ACQUIRE, "cache_table.tags_high");
        for (uint64_t m = pnx__cache_match(low, high, tag); m; m &= m - 1) {
            /* Acquire: pairs with cache_table.slot; the slot's page. */
            uint32_t slot = pnx_load(
                    &line->slot[pnx__cache_position(m)], PNX_ACQUIRE, "cache_table.look_slot");
            if (is(table, slot, key, key_size, found))
                return true;
        }
        if (!pnx_load(&line->passed, PNX_RELAXED, "cache_table.passed")) /* see 3 above */
            return false;
        line = pnx__cache_next_line(table, line);
    } while (line != home); /* in a small table each line may have been gone past by some key */
    return false;
}

struct pnx_cache_found {
    struct pnx_cache_entry *entry;
    uint32_t slot;
};

static inline bool pnx__cache_entry_at(const struct pnx_cache_table *table, uint32_t slot,
        const void *key, size_t key_size, void *ret_found) {
    struct pnx_cache_found *found = ret_found;
    /* Acquire: pairs with cache_table.entry; see 2 above. */
    struct pnx_cache_entry *entry =
            pnx_load(&pnx__cache_record(table, slot)->entry, PNX_ACQUIRE, "cache_table.look_entry");
    if (!entry || !pnx__cache_entry_is(entry, key, key_size))
        return false;
    *found = (struct pnx_cache_found){entry, slot};
    return true;
}

/* Finds the entry of a key, and its slot; NULL when there is none.  In a section, or under the shard's lock. */
static inline struct pnx_cache_entry *pnx__cache_table_find(const struct pnx_cache_table *table,
        uint64_t hash, const void *key, size_t key_size, uint32_t *ret_slot) {
    struct pnx_cache_found found;
    if (!pnx__cache_search(table, hash, key, key_size, pnx__cache_entry_at, &found))
        return NULL;
    *ret_slot = found.slot;
    return found.entry;
}

/* ---- under the shard's lock, or before anybody else knows the table ---- */

/* Puts a slot into the index, whose record says what it is; there is room. */
void pnx__cache_table_put(
        struct pnx_cache_table *table, uint32_t high, uint32_t tag, uint32_t slot);
/* Takes it out; tag: the key's, or 0 where it is not known. */
void pnx__cache_table_take(
        struct pnx_cache_table *table, uint32_t high, uint32_t tag, uint32_t slot);
/* Puts all that stands in one table into another, empty one, with its pages. */
void pnx__cache_table_copy(struct pnx_cache_table *to, const struct pnx_cache_table *from);

/* Returns what is broken, or NULL; *ret_live: how many slots stand in it. */
const char *pnx__cache_table_check(const struct pnx_cache_table *table, uint32_t *ret_live);

/* ---- memory ---- */

/* Makes an empty table; NULL when there is no memory. */
struct pnx_cache_table *pnx__cache_table_make(struct pnx_cache_shard *shard,
        const struct pnx_env *env, const struct pnx_cache_shape *shape, uint32_t slots);
/* Frees either kind, and gives back what it has charged. */
void pnx__cache_table_free(const struct pnx_env *env, struct pnx_cache_table *table);

#endif
