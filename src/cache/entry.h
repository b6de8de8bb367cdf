/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/entry.h - one block of memory with header, value and key; its references and its end.
 *
 *     (made) --insert--> STORED --remove--> DETACHED --last reference--> destroyed --grace period--> freed
 *        |                                     ^
 *        +--- a load's result, not stored -----+
 *
 * refs counts the cache's own reference while STORED, and one for each pin.  Who drops the last one destroys.  Readers
 * that found the entry before it was taken out may still look at it, in a section: what they look at (everything
 * before the union, key and value) never changes once it is stored, and is freed after they have left.
 */
#ifndef PNX_SRC_CACHE_ENTRY_H
#define PNX_SRC_CACHE_ENTRY_H

#include "base/atomic.h"

#include <patinox/cache.h>
#include <patinox/reclaim.h>

#include <string.h>

enum {
    PNX_CACHE_ENTRY_POINTER = 1, /* the value is the user's: its address stands behind the header */
    PNX_CACHE_ENTRY_NEGATIVE =
            2, /* a remembered absence: no value, never destroyed by the user's function */
    PNX_CACHE_ENTRY_TIMED = 4, /* the block begins with times that change: struct pnx_cache_times */
};

/* Stands before the entry in its block, where the cache needs it (expiry.h). */
struct pnx_cache_times {
    struct pnx_a64 used; /* pnx_ns: the last use that was written down */
    struct pnx_a64
            soft; /* when it is to be refreshed, and what has become of that: see refresh.h */
};

struct pnx_cache_shard;

struct pnx_cache_entry {
    struct pnx_cache_shard *shard; /* fixed */
    size_t value_size;             /* fixed */
    pnx_ns expires;                /* fixed once stored */
    struct pnx_a32 refs;
    uint32_t key_size; /* fixed */
    uint32_t epoch;    /* fixed once stored: how often the cache had been cleared */
    uint8_t flags;     /* fixed */
    uint8_t cause;     /* written before the cache's reference is dropped */
    uint8_t detached;  /* the same: it counts in the gauge "detached" */
    uint8_t charged;   /* written before anybody else sees it: the budget was charged its cost */
    union {
        struct {
            struct pnx_cache_entry *next; /* on a list of the thread that removed it */
            uint64_t seq;                 /* the shard's lock: order of storing in the shard */
            uint32_t slot;                /* the shard's lock: NONE when not stored */
            uint32_t
                    used; /* the same: the shard's uses when it was stored or last hit in order; 0: readers never knew it */
        } in;
        struct pnx_reclaim_node node; /* once destroyed */
    } u;
};

/* The user's pointer, or the bytes. */
static inline void *pnx__cache_entry_value(const struct pnx_cache_entry *entry) {
    void *value = (void *)(uintptr_t)(entry + 1);
    if (entry->flags & PNX_CACHE_ENTRY_POINTER)
        memcpy(&value, entry + 1, sizeof(value));
    return value;
}

/* The times of an entry that is TIMED. */
static inline struct pnx_cache_times *pnx__cache_entry_times(const struct pnx_cache_entry *entry) {
    return (struct pnx_cache_times *)(uintptr_t)entry - 1;
}

/* Bytes of the value in the block. */
static inline size_t pnx__cache_entry_inside(const struct pnx_cache_entry *entry) {
    return entry->flags & PNX_CACHE_ENTRY_POINTER ? sizeof(void *) : entry->value_size;
}

/* The key stands behind what the block has of the value. */
static inline void *pnx__cache_entry_key(const struct pnx_cache_entry *entry) {
    return (char *)(uintptr_t)(entry + 1) + pnx__cache_entry_inside(entry);
}

static inline bool pnx__cache_entry_is(
        const struct pnx_cache_entry *entry, const void *key, size_t key_size) {
    return entry->key_size == key_size &&
           (key_size == 0 || memcmp(pnx__cache_entry_key(entry), key, key_size) == 0);
}

/* What an entry of these sizes and flags counts; SIZE_MAX on overflow. */
size_t pnx__cache_entry_cost(size_t key_size, size_t value_size, uint8_t flags);

/* What this entry counts. */
static inline size_t pnx__cache_cost_of(const struct pnx_cache_entry *entry) {
    return pnx__cache_entry_cost(entry->key_size, entry->value_size, entry->flags);
}

/*
 * Makes an entry with one reference, the caller's; value is copied unless flags say otherwise, or it is NULL: then the
 * caller fills it.  TIMED also where the cache's options want it.  Charges nothing.  NULL when there is no memory.
 */
struct pnx_cache_entry *pnx__cache_entry_make(struct pnx_cache_shard *shard, const void *key,
        size_t key_size, const void *value, size_t value_size, uint8_t flags);

/*
 * Makes an entry with fewer bytes of the value in the place of one that nobody else knows; what it has charged goes along.
 * NULL when there is no memory: the old one stays.
 */
struct pnx_cache_entry *pnx__cache_entry_shrink(struct pnx_cache_entry *entry, size_t value_size);

/* Frees an entry that nobody else knows, without telling the user; gives back what it charged. */
void pnx__cache_entry_discard(struct pnx_cache_entry *entry);

/* Drops one reference; the last one destroys.  No lock may be held.  Returns the bytes freed. */
size_t pnx__cache_entry_drop(struct pnx_cache_entry *entry);

/* Tells the user of an entry whose last reference is gone, and frees it.  No lock may be held.  Returns the bytes freed. */
size_t pnx__cache_entry_destroy(struct pnx_cache_entry *entry);

/* Counts the entry as detached, since others still refer to it; the caller still has a reference. */
void pnx__cache_entry_detach(struct pnx_cache_entry *entry);

/* Gives the caller n references to an entry that is stored, under the shard's lock, or that it has one to. */
void pnx__cache_pin(struct pnx_cache_entry *entry, uint32_t n);

/* The same for a reader in a section, who only found it; false when it is being destroyed. */
bool pnx__cache_try_pin(struct pnx_cache_entry *entry);

#endif
