/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/change.h - a compute under way: shared by compute.c, whose caches hold entries, and fixed_compute.c.
 */
#ifndef PNX_SRC_CACHE_CHANGE_H
#define PNX_SRC_CACHE_CHANGE_H

#include "cache/internal.h"

enum pnx_cache_decision { PNX_CACHE_KEEP, PNX_CACHE_REMOVE, PNX_CACHE_REPLACE };

/* Where sizes are fixed, in place of entries; on the stack of the thread that computes. */
struct pnx_cache_change_copies {
    unsigned char now[PNX_CACHE_VALUE_BYTES] __attribute__((aligned(16)));    /* what fn saw */
    unsigned char result[PNX_CACHE_VALUE_BYTES] __attribute__((aligned(16))); /* of REPLACE */
    bool there; /* there was something */
    pnx_ns expires;
};

/* On the stack of the thread that computes. */
struct pnx_cache_change {
    struct pnx_cache *cache;
    struct pnx_cache_shard *shard;
    const void *key;
    size_t key_size;
    uint64_t hash;
    const struct pnx_cache_change *outer; /* whose function called for this one */
    pnx_cache_compute_fn *fn;             /* this or the next */
    pnx_cache_compute_copy_fn *copy_fn;
    void *ctx;

    struct pnx_cache_entry *seen; /* pinned; NULL: nothing, or see negative */
    bool negative;                /* seen is a remembered absence */
    enum pnx_cache_decision decision;
    struct pnx_cache_entry *result; /* of REPLACE; with the maker's reference */
    pnx_ns ttl;
    bool keep_ttl;
    struct pnx_cache_change_copies *copies; /* NULL: the cache has entries */
};

#define PNX_CACHE_CHANGE_AGAIN 1 /* another thread has changed the key */

/* ---- fixed_compute.c ---- */

/* Looks what is stored, for fn.  0, -ESHUTDOWN. */
int pnx__cache_fixed_change_look(struct pnx_cache_change *change, bool first);
/* Sets the result; value NULL: as it is.  -EINVAL for another size. */
int pnx__cache_fixed_change_set(
        struct pnx_cache_change *change, const void *value, size_t value_size);
/* Carries the decision out.  0, AGAIN, or an error. */
int pnx__cache_fixed_change_carry_out(struct pnx_cache_change *change);

#endif
