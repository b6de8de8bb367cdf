/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/ghost.h - hashes of entries that have gone, first-in first-out: 9 to 10 bytes each.
 *
 * The hashes stand in a ring in the order in which they came; a hash table has their positions.  Taking one out
 * leaves its position behind without a cell; when the ring is full of such, it is squeezed.
 *
 *   P1  A hash is found until so many came after it, and are still there, as the limit says, or it is taken out.
 *   P2  The hash is kept whole: only keys of equal hash are taken for each other.
 */
#ifndef PNX_SRC_CACHE_POLICIES_GHOST_H
#define PNX_SRC_CACHE_POLICIES_GHOST_H

#include "cache/policies/cells.h"

/* cells.count <= room; tail is the oldest position, and tail + span the one that comes next. */
struct pnx__ghost {
    struct pnx__cells cells;
    uint32_t *ring; /* hashes */
    uint32_t room;  /* hashes that may be there */
    uint32_t ring_size;
    uint32_t tail;
    uint32_t span;
};

void pnx__ghost_layout(struct pnx__ghost *ghost, struct pnx__layout *layout, uint32_t room);
/* Copies what is in another into an empty one that has at least its room. */
void pnx__ghost_copy(struct pnx__ghost *ghost, const struct pnx__ghost *from);

/* Adds a hash as the newest, and drops the oldest while there are more than limit, or than there is room for. */
void pnx__ghost_push(struct pnx__ghost *ghost, uint32_t hash, uint64_t limit);
/* Takes the hash out; false when it is not there. */
bool pnx__ghost_take(struct pnx__ghost *ghost, uint32_t hash);
/* Drops the oldest while there are more than limit. */
void pnx__ghost_trim(struct pnx__ghost *ghost, uint64_t limit);

/* Returns what is broken, or NULL. */
const char *pnx__ghost_check(const struct pnx__ghost *ghost);

#endif
