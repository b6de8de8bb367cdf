/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/index.h - slots, the hash index over them, and the heap of expiry times.
 *
 * A slot is a small number that stands for an entry; the index, the heap and the policy speak of slots.  All
 * three keep their words in one array of records, which grows and shrinks by whole segments: eight an octave,
 * so at most an eighth is unused, and nothing is ever copied to grow.
 *
 *     record i:  | slot i: entry, expiry, hash, chain | head of bucket i | heap element i | policy's word i |
 *
 * The hash table is a linear one (Litwin, 1980): a bucket is split or merged with each entry that comes or goes,
 * so that no call ever rehashes.  Everything here is guarded by the cache's lock; nothing allocates or calls out.
 */
#ifndef PNX_SRC_CACHE_INDEX_H
#define PNX_SRC_CACHE_INDEX_H

#include "cache/order.h"

#include <patinox/base.h>

struct pnx_cache_entry;

#define PNX_CACHE_SEGMENTS    208 /* 26 octaves of 8 */
#define PNX_CACHE_SEGMENT_LOG 6   /* the first octave has 64 records */

/* Holes and unused buckets are kept up to this many, plus an eighth of the live slots. */
#define PNX_CACHE_SLACK(live) (64 + (live) / 8)

/*
 * A live slot has an entry.  A hole has none: chain is the next hole, prev the one before, and all other words
 * of the slot are meaningless.  head and heap belong to bucket i and heap position i, whatever slot i is.
 */
struct pnx_cache_slot {
    struct pnx_cache_entry *entry;
    pnx_ns expires;    /* PNX_NEVER: not in the heap */
    uint32_t hash;     /* low half of the key's */
    uint32_t chain;    /* next slot of the bucket */
    uint32_t heap_pos; /* where it stands in the heap, or NONE */
    uint32_t prev;     /* of a hole */
    uint32_t head;
    uint32_t heap;
};

/* Memory that has left the index and is to be freed without the lock. */
struct pnx_cache_spare {
    struct pnx_cache_spare *next;
    size_t bytes;
};

/*
 * Guarded by the cache's lock.  live + holes == used; timed <= live; used, buckets <= room; and while not loose,
 * holes <= SLACK(live) and buckets <= live + SLACK(live).
 */
struct pnx_cache_index {
    char *segment[PNX_CACHE_SEGMENTS];
    const struct pnx_cache_order *policy; /* fixed at create */
    void *policy_state;                   /* fixed at create */
    size_t stride;                        /* bytes of a record; fixed at create */
    size_t bytes;                         /* of all segments */
    uint32_t segments;
    uint32_t room; /* records in them */
    uint32_t used; /* slots below are live or holes */
    uint32_t live;
    uint32_t holes;
    uint32_t first_hole;
    uint32_t buckets;
    uint32_t mask;  /* mask / 2 < buckets <= mask + 1 */
    uint32_t timed; /* elements of the heap */
    uint32_t walks; /* while not 0, slots keep their numbers */
    uint32_t loose; /* 1 from a removal during a walk until the slack is kept again */
};

/* Finds record i: the segment by its octave and the three bits below the highest, then the rest. */
static inline struct pnx_cache_slot *pnx__cache_slot(const struct pnx_cache_index *ix, uint32_t i) {
    uint32_t n = i + (1u << PNX_CACHE_SEGMENT_LOG);
    uint32_t octave = 31u - (uint32_t)__builtin_clz(n);
    uint32_t shift = octave - 3;
    uint32_t segment = ((octave - PNX_CACHE_SEGMENT_LOG) << 3) | ((n >> shift) & 7u);
    uint32_t within = n & ((1u << shift) - 1);
    return (struct pnx_cache_slot *)(void *)(ix->segment[segment] + within * ix->stride);
}

/* The policy's word of a slot. */
static inline void *pnx__cache_policy_word(const struct pnx_cache_index *ix, uint32_t slot) {
    return pnx__cache_slot(ix, slot) + 1;
}

static inline uint32_t pnx__cache_bucket(const struct pnx_cache_index *ix, uint32_t hash) {
    uint32_t bucket = hash & ix->mask;
    return bucket < ix->buckets ? bucket : bucket & (ix->mask >> 1);
}

/* Records in segment n. */
static inline uint32_t pnx__cache_segment_records(uint32_t n) {
    return 8u << (n >> 3);
}

/* Bytes that an entry counts for the index: its record, an eighth of holes, an eighth of unused segment. */
#define PNX_CACHE_INDEX_SHARE 64
#define PNX_CACHE_INDEX_BASE  16384 /* what the index may hold beside the shares */

void pnx__cache_index_init(
        struct pnx_cache_index *ix, const struct pnx_cache_order *policy, void *policy_state);

/* True when pnx__cache_index_insert() has no slot to give: a segment must be added first. */
static inline bool pnx__cache_index_full(const struct pnx_cache_index *ix) {
    return ix->holes == 0 && ix->used == ix->room;
}

/* Bytes of the next segment, 0 at the limit; and giving it. */
size_t pnx__cache_index_next_bytes(const struct pnx_cache_index *ix);
void pnx__cache_index_add_segment(struct pnx_cache_index *ix, void *memory, size_t bytes);

/* Returns the slot of the key, or NONE. */
uint32_t pnx__cache_index_find(
        const struct pnx_cache_index *ix, uint32_t hash, const void *key, size_t key_size);

/* Gives the entry a slot, which stands in the index, the heap and the policy from then on. */
void pnx__cache_index_insert(
        struct pnx_cache_index *ix, struct pnx_cache_entry *entry, uint32_t hash, pnx_ns expires);

/* Takes the entry out of all three.  Segments that fall empty are put on *spare. */
void pnx__cache_index_remove(
        struct pnx_cache_index *ix, struct pnx_cache_entry *entry, struct pnx_cache_spare **spare);

/* Moves slots into holes until the slack is kept, at most max of them; returns whether it is. */
bool pnx__cache_index_compact(
        struct pnx_cache_index *ix, uint32_t max, struct pnx_cache_spare **spare);

/* Detaches all segments; nothing may be live. */
void pnx__cache_index_drop(struct pnx_cache_index *ix, struct pnx_cache_spare **spare);

/* The heap: the slot that expires first, or NONE. */
uint32_t pnx__cache_heap_first(const struct pnx_cache_index *ix);
void pnx__cache_heap_push(struct pnx_cache_index *ix, uint32_t slot);
void pnx__cache_heap_remove(struct pnx_cache_index *ix, uint32_t slot);

/* Returns what is broken, or NULL. */
const char *pnx__cache_index_check(const struct pnx_cache_index *ix);
const char *pnx__cache_heap_check(const struct pnx_cache_index *ix);

#endif
