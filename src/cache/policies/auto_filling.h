/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/auto_filling.h - what a cache that fills for the first time holds of the keys that shadows see.
 *
 * Nothing has to go before it is full, whatever the mode: so this is what each mode would hold then, and where its shadow starts
 * from.  Keys are told by their hashes, as in shadows.
 *
 *   P1  No more than PNX__SHADOW_SLOTS entries.
 */
#ifndef PNX_SRC_CACHE_POLICIES_AUTO_FILLING_H
#define PNX_SRC_CACHE_POLICIES_AUTO_FILLING_H

#include "cache/policies/cells.h"

#include <stdbool.h>

#define PNX__SHADOW_SLOTS 496u

/* Entries are numbered in the order in which they came. */
struct pnx__auto_filling {
    struct pnx__narrow cells;
    uint64_t weight;
    uint32_t *hashes;
    uint32_t *weights;
    uint8_t *hits;
};

/* Measures or places the tables; placed in zeroed memory it is empty. */
void pnx__auto_filling_layout(struct pnx__auto_filling *filling, struct pnx__layout *layout);
/* Copies what is in another into the tables of an empty one. */
void pnx__auto_filling_copy(
        struct pnx__auto_filling *filling, const struct pnx__auto_filling *from);
static inline uint32_t pnx__auto_filling_count(const struct pnx__auto_filling *filling) {
    return filling->cells.count;
}
/* A request: counts a hit, or takes the key in; false when there is no room for it. */
bool pnx__auto_filling_request(struct pnx__auto_filling *filling, uint32_t hash, uint32_t weight);
/* Forgets the entries whose hash has a bit of this mask. */
void pnx__auto_filling_thin(struct pnx__auto_filling *filling, uint32_t mask);

/* Returns what is broken, or NULL. */
const char *pnx__auto_filling_check(const struct pnx__auto_filling *filling);

#endif
