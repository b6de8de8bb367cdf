/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/auto_shadow.h - a small cache without values that keeps to one mode: what the mode would have hit.
 *
 * It sees the requests for a part of the keys, picked by their hashes, and has as large a part of the capacity
 * (Waldspurger, Saemundsson, Ahmad and Park, Cache modeling and optimization using miniature simulations, ATC 2017).
 *
 *   P1  No more than PNX__SHADOW_SLOTS entries, and no more weight than the capacity.
 */
#ifndef PNX_SRC_CACHE_POLICIES_AUTO_SHADOW_H
#define PNX_SRC_CACHE_POLICIES_AUTO_SHADOW_H

#include "cache/policies/auto_engine.h"
#include "cache/policies/auto_filling.h"
#include "cache/policies/cells.h"

/* Slots are numbers below `slots`; cells finds them by hash. */
struct pnx__auto_shadow {
    struct pnx__auto_engine engine;
    struct pnx_cache_slots view;
    struct pnx__narrow cells;
    unsigned char *page; /* hashes, weights and hit bytes, four bytes each a slot */
    uint32_t free;       /* first free slot, chained through the hashes; NO_SLOT: none */
    uint32_t used;       /* slots below have been given out once */
};

/* Measures or places the tables of a shadow of this mode. */
void pnx__auto_shadow_layout(
        struct pnx__auto_shadow *shadow, struct pnx__layout *layout, uint32_t mode);
void pnx__auto_shadow_init(
        struct pnx__auto_shadow *shadow, uint64_t capacity, uint64_t seed, uint32_t mode);
/* Makes the same in other tables that have been placed; *shadow was *from, but for its tables. */
void pnx__auto_shadow_copy(struct pnx__auto_shadow *shadow, struct pnx__auto_shadow *from);

/* Begins again, with the entries of a cache that has been filled, and what they hit. */
void pnx__auto_shadow_restart(struct pnx__auto_shadow *shadow, uint64_t capacity,
        const struct pnx__auto_filling *filling);

/* A request: returns whether it hits.  On a miss the key is taken in, if a slot is free or can be made free. */
bool pnx__auto_shadow_request(struct pnx__auto_shadow *shadow, uint32_t hash, uint64_t weight);
/* Every slot is taken, and there is still weight to spare: it needs a smaller part of the keys. */
bool pnx__auto_shadow_crowded(const struct pnx__auto_shadow *shadow);
/* Another capacity; entries go until they fit. */
void pnx__auto_shadow_resize(struct pnx__auto_shadow *shadow, uint64_t capacity);
/* Forgets the entries whose hash has a bit of this mask. */
void pnx__auto_shadow_thin(struct pnx__auto_shadow *shadow, uint32_t mask);

/* Returns what is broken, or NULL. */
const char *pnx__auto_shadow_check(const struct pnx__auto_shadow *shadow);

#endif
