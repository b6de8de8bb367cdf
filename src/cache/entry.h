/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/entry.h - one block of memory with header, value and key; its references and its end.
 *
 *     (made) --insert--> STORED --remove--> DETACHED --last reference--> destroyed
 *        |                                     ^
 *        +--- a load's result, not stored -----+
 *
 * refs counts the cache's own reference while STORED, and one for each pin.  Who drops the last one destroys.
 */
#ifndef PNX_SRC_CACHE_ENTRY_H
#define PNX_SRC_CACHE_ENTRY_H

#include "base/atomic.h"

#include <patinox/cache.h>

#include <string.h>

enum {
    PNX_CACHE_ENTRY_POINTER = 1, /* value is the user's */
    PNX_CACHE_ENTRY_NEGATIVE =
            2, /* a remembered absence: no value, never destroyed by the user's function */
};

/* Everything but refs is fixed once the entry is stored, save what is marked. */
struct pnx_cache_entry {
    struct pnx_cache *cache;
    void *value; /* behind the header, at 16; or the user's */
    size_t value_size;
    struct pnx_cache_entry *next; /* on a list of the thread that removed it */
    uint64_t seq;                 /* cache's lock: order of storing */
    struct pnx_a64 refs;
    uint32_t key_size;
    uint32_t hash; /* low half of the key's */
    uint32_t slot; /* cache's lock: NONE when not stored */
    uint8_t flags;
    uint8_t cause;    /* written before the cache's reference is dropped */
    uint8_t detached; /* the same: it counts in the gauge "detached" */
    uint8_t charged;  /* written before anybody else sees it: the budget was charged its cost */
};

/* The key stands behind the header, for bytes behind the value. */
static inline void *pnx__cache_entry_key(const struct pnx_cache_entry *entry) {
    size_t inside = entry->flags & PNX_CACHE_ENTRY_POINTER ? 0 : entry->value_size;
    return (char *)(entry + 1) + inside;
}

static inline bool pnx__cache_entry_is(
        const struct pnx_cache_entry *entry, const void *key, size_t key_size) {
    return entry->key_size == key_size &&
           (key_size == 0 || memcmp(pnx__cache_entry_key(entry), key, key_size) == 0);
}

/* What an entry of these sizes counts; SIZE_MAX on overflow. */
size_t pnx__cache_entry_cost(size_t key_size, size_t value_size, bool pointer);

/* What this entry counts. */
static inline size_t pnx__cache_cost_of(const struct pnx_cache_entry *entry) {
    return pnx__cache_entry_cost(
            entry->key_size, entry->value_size, (entry->flags & PNX_CACHE_ENTRY_POINTER) != 0);
}

/*
 * Makes an entry with one reference, the caller's; value is copied unless flags say otherwise.  Charges nothing.
 * NULL when there is no memory.
 */
struct pnx_cache_entry *pnx__cache_entry_make(struct pnx_cache *cache, const void *key,
        size_t key_size, uint64_t hash, const void *value, size_t value_size, uint8_t flags);

/* Frees an entry that nobody else knows, without telling the user; gives back what it charged. */
void pnx__cache_entry_discard(struct pnx_cache_entry *entry);

/* Drops one reference; the last one destroys.  No lock may be held.  Returns the bytes freed. */
size_t pnx__cache_entry_drop(struct pnx_cache_entry *entry);

/* Counts the entry as detached, since others still refer to it; the caller still has a reference. */
void pnx__cache_entry_detach(struct pnx_cache_entry *entry);

#endif
