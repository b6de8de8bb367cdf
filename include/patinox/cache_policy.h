/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/cache_policy.h - eviction policies: the ones of the library, and what one of yours has to do.
 *
 * EXPERIMENTAL: may change until the release that finishes the cache.
 *
 * A policy decides which entry goes when there is no room.  It knows entries as slots, small numbers that their
 * owner (a cache's shard, a simulator) gives out and uses again:
 *
 *     absent --insert--> held --victim() returned it--> absent     the policy has chosen
 *                         |                               ^
 *                         +--remove-----------------------+        the owner has: removed, replaced, expired
 *
 *   P1  A policy allocates nothing, calls nobody and cannot fail.  Its state is one block of memory that the owner
 *       provides, of memory() bytes for so many slots; a larger block takes its place by grow().
 *   P2  State belongs to one owner and is touched under its lock only.  The one exception is not state of the
 *       policy: the hit byte of a slot, which readers raise without a lock.
 *   P3  victim() is called while there is no room, before the insert, and returns a slot as long as one is held.
 *   P4  The work of a call is bounded, amortised over the calls before it: what an algorithm may repeat (a second
 *       chance, a step of a hand) is paid for by a hit or an insert each time.  grow() and check() are linear.
 *   P5  Equal calls on equal parameters give equal victims: what is random comes from the seed.
 *
 * What policies read of a slot (hit byte, weight, hash, expiry) stays with the owner, who describes the place by a
 * struct pnx_cache_slots; so nothing is stored twice.  Where a hash or an expiry can be told from what the owner keeps
 * anyway, it is not stored even once: the description names a function that tells it.
 */
#ifndef PNX_CACHE_POLICY_H
#define PNX_CACHE_POLICY_H

#include <patinox/atomic_inl.h>
#include <patinox/base.h>

#include <string.h>

PNX_BEGIN_DECLS

#define PNX_CACHE_NO_SLOT   UINT32_MAX
#define PNX_CACHE_SLOTS_MAX (UINT32_C(1) << 30) /* a policy's limit */
#define PNX_CACHE_NO_FIELD  UINT32_MAX          /* as an offset: slots have no such field */

/*
 * Where fields of slots lie: slot s is the record at pages[s >> shift] + (s & ((1 << shift) - 1)) * stride, and each
 * field an offset into it.  Belongs to the owner, who may change pages between calls of the policy, as long as
 * the records of held slots keep their contents.
 */
struct pnx_cache_slots {
    unsigned char *const *pages;
    uint32_t shift;
    uint32_t stride; /* bytes of a record */
    uint32_t hits;   /* offset of a struct pnx_a8; required */
    uint32_t hash;   /* offset of a uint32_t; required by policies with PNX_CACHE_POLICY_HASH */
    uint32_t weight; /* offset of an unsigned number, or NO_FIELD: every slot weighs 1 */
    uint32_t weight_bytes; /* 4 or 8 */
    uint32_t expires;      /* offset of a pnx_ns, PNX_NEVER for a slot that does not; or NO_FIELD */
    uint32_t reserved_;
    /* In place of the offsets hash and expires, where they are not NULL. */
    uint32_t (*hash_of)(const struct pnx_cache_slots *slots, uint32_t slot);
    pnx_ns (*expires_of)(const struct pnx_cache_slots *slots, uint32_t slot);
    const void *ctx; /* theirs */
};

/* The record of a slot. */
static inline unsigned char *pnx_cache_slot_record(
        const struct pnx_cache_slots *slots, uint32_t slot) {
    return slots->pages[slot >> slots->shift] +
           (size_t)(slot & ((UINT32_C(1) << slots->shift) - 1)) * slots->stride;
}

static inline struct pnx_a8 *pnx_cache_slot_hit_byte(
        const struct pnx_cache_slots *slots, uint32_t slot) {
    return (struct pnx_a8 *)(void *)(pnx_cache_slot_record(slots, slot) + slots->hits);
}

/* The number of hits since the byte was last written, as far as it counts.  Any thread. */
static inline uint32_t pnx_cache_slot_hits(const struct pnx_cache_slots *slots, uint32_t slot) {
    /* Pairs with nothing: the byte is a hint, and orders no other data. */
    return pnx__load(pnx_cache_slot_hit_byte(slots, slot), PNX_RELAXED, "cache_policy.hits");
}

/* Sets the hit byte.  A reader's concurrent bump may be lost, or survive. */
static inline void pnx_cache_slot_set_hits(
        const struct pnx_cache_slots *slots, uint32_t slot, uint32_t hits) {
    /* Pairs with nothing: see pnx_cache_slot_hits(). */
    pnx__store(pnx_cache_slot_hit_byte(slots, slot), (uint8_t)hits, PNX_RELAXED,
            "cache_policy.set_hits");
}

/* Counts a hit, up to max.  Any thread, without a lock; writes only below max, so that the line of an entry that is
 * hit often stays shared.  Of two that meet one may be lost. */
static inline void pnx_cache_slot_bump(
        const struct pnx_cache_slots *slots, uint32_t slot, uint32_t max) {
    struct pnx_a8 *byte = pnx_cache_slot_hit_byte(slots, slot);
    /* Pairs with nothing: see pnx_cache_slot_hits(). */
    uint32_t hits = pnx__load(byte, PNX_RELAXED, "cache_policy.bump_read");
    if (hits < max)
        pnx__store(byte, (uint8_t)(hits + 1), PNX_RELAXED, "cache_policy.bump_write");
}

/* Hash of the slot's key: 32 bits, as good as random. */
static inline uint32_t pnx_cache_slot_hash(const struct pnx_cache_slots *slots, uint32_t slot) {
    uint32_t hash;
    if (slots->hash_of)
        return slots->hash_of(slots, slot);
    memcpy(&hash, pnx_cache_slot_record(slots, slot) + slots->hash, sizeof(hash));
    return hash;
}

/* What the slot takes of the capacity, in the capacity's unit. */
static inline uint64_t pnx_cache_slot_weight(const struct pnx_cache_slots *slots, uint32_t slot) {
    uint32_t narrow;
    uint64_t wide;
    if (slots->weight == PNX_CACHE_NO_FIELD)
        return 1;
    if (slots->weight_bytes == sizeof(narrow)) {
        memcpy(&narrow, pnx_cache_slot_record(slots, slot) + slots->weight, sizeof(narrow));
        return narrow;
    }
    memcpy(&wide, pnx_cache_slot_record(slots, slot) + slots->weight, sizeof(wide));
    return wide;
}

/* When the slot expires; PNX_NEVER where slots have no such field. */
static inline pnx_ns pnx_cache_slot_expires(const struct pnx_cache_slots *slots, uint32_t slot) {
    pnx_ns expires = PNX_NEVER;
    if (slots->expires_of)
        return slots->expires_of(slots, slot);
    if (slots->expires != PNX_CACHE_NO_FIELD)
        memcpy(&expires, pnx_cache_slot_record(slots, slot) + slots->expires, sizeof(expires));
    return expires;
}

/* What a capacity counts. */
enum pnx_cache_capacity_kind {
    PNX_CACHE_CAPACITY_ENTRIES = 1, /* each slot weighs 1 */
    PNX_CACHE_CAPACITY_BYTES,       /* slots weigh their bytes */
    PNX_CACHE_CAPACITY_WEIGHT,      /* slots weigh what their owner says, at least 1 */
};

/* What a policy is made with. */
struct pnx_cache_policy_params {
    size_t size;                         /* sizeof(struct pnx_cache_policy_params) */
    const struct pnx_cache_slots *slots; /* not copied: it must stay where it is */
    uint64_t capacity;                   /* > 0 */
    uint64_t seed; /* any; from env.random where keys may come from an enemy */
    uint32_t kind; /* enum pnx_cache_capacity_kind */
    uint32_t reserved_;
};

/*
 * The first member of each policy's state: what it wants to be told.  A policy may change it in any call, so the owner
 * reads it again after each.
 */
struct pnx_cache_policy_wants {
    uint32_t hit_max;     /* readers raise the hit byte up to here, 0 to 255; 0: not at all */
    uint32_t exact_hits;  /* 1: hit() is called for each hit, in order; 0: for none */
    uint32_t access_mask; /* access() is called where (hash & access_mask) == 0: one in 2^bits */
    uint32_t access;      /* 1: at all */
};

#define PNX_CACHE_POLICY_HASH 1u /* flag: reads the slots' hashes */

/*
 * A policy.  The struct is constant and outlives whatever uses it.  state is what init() or grow() made; every
 * function is called under the owner's lock, memory() excepted, which may be called at any time.
 */
struct pnx_cache_policy {
    size_t size;             /* sizeof(struct pnx_cache_policy) */
    const char *name;        /* as in options and the command line: "s3-fifo" */
    const char *description; /* a few words */
    uint32_t flags;          /* PNX_CACHE_POLICY_HASH */
    uint32_t reserved_;

    /* Bytes of state for slots 0 to slots - 1; 0 where that is more than it can do. */
    size_t (*memory)(const struct pnx_cache_policy_params *params, uint32_t slots);

    /* Makes the state in zeroed memory of so many bytes at an alignment of 64.  There is nothing to release but the
     * memory. */
    void (*init)(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots);

    /*
     * Makes the same state for more slots in other memory, zeroed, too; the old one is not used any more.  map: NULL where
     * slots keep their numbers; else what was slot i is map[i] from now on, NO_SLOT for one that is not held, and the slots' records
     * are those of the new numbers already.
     */
    void (*grow)(void *state, void *memory, uint32_t slots, const uint32_t *map);

    /* Takes the slot in: its weight, hash and expiry stand in its record.  The policy clears its hit byte. */
    void (*insert)(void *state, uint32_t slot);

    /* The slot was hit; only where wants.exact_hits is set.  May be NULL. */
    void (*hit)(void *state, uint32_t slot);

    /* Forgets a slot that somebody else has chosen.  Its record is still what it was. */
    void (*remove)(void *state, uint32_t slot);

    /*
     * Chooses the slot that goes, forgets it, and returns it, or NO_SLOT when it holds none.  Called while there
     * is no room for an entry with this hash and weight, which comes next (0 and 0 where none comes: the capacity
     * has shrunk).
     */
    uint32_t (*victim)(void *state, uint32_t hash, uint64_t weight);

    /* The capacity is another one.  The owner goes on to ask for victims.  May be NULL. */
    void (*resize)(void *state, uint64_t capacity);

    /* The record's weight has changed from what is given, while held.  May be NULL. */
    void (*reweigh)(void *state, uint32_t slot, uint64_t from);

    /* The record's expiry has changed, while held.  May be NULL. */
    void (*expiry)(void *state, uint32_t slot);

    /* A request for this key, before its hit() or insert(): slot is where it was found, else NO_SLOT, and weight that
     * of what is asked for.  See wants.access.  May be NULL. */
    void (*access)(void *state, uint32_t hash, uint64_t weight, uint32_t slot);

    /* An entry with this hash may come next: a policy may fetch what it is going to look at then, and changes nothing.
     * May be NULL. */
    void (*expect)(const void *state, uint32_t hash);

    /* Returns what is broken, or NULL.  held: how many slots the owner has inserted and not got back. */
    const char *(*check)(const void *state, uint32_t held);
};

/* Returns what the policy of this state wants to be told. */
static inline const struct pnx_cache_policy_wants *pnx_cache_policy_wants_of(const void *state) {
    return (const struct pnx_cache_policy_wants *)state;
}

/* Returns the library's policy of that name, or NULL.  Any thread; does not block. */
PNX_API const struct pnx_cache_policy *pnx_cache_policy_find(const char *name);

/* Returns the library's policies, one after the other: index from 0, NULL after the last.  Any thread. */
PNX_API const struct pnx_cache_policy *pnx_cache_policy_at(size_t index);

PNX_END_DECLS
#endif /* PNX_CACHE_POLICY_H */
