/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/ghost_table.h - hashes of entries that have gone, 2.3 bytes each: a table that forgets by itself.
 *
 * A cell has 11 bits of the hash and, in the others, when it came, counted in hashes that came in all.  A cell whose
 * hash came too long ago is as good as empty; where a bucket is full of others the oldest makes room.  Next to
 * cache/policies/ghost.h it takes a quarter of the memory, and is wrong about some hashes in a hundred.
 *
 *   P1  A hash that limit others have followed, and a sixteenth of the room more, is not found; but one that twice the room has
 *       followed, and that its bucket has still kept, looks as if it had just come.
 */
#ifndef PNX_SRC_CACHE_POLICIES_GHOST_TABLE_H
#define PNX_SRC_CACHE_POLICIES_GHOST_TABLE_H

#include "cache/policies/layout.h"

#include <stdbool.h>

struct pnx__ghost_table {
    uint16_t *cells; /* buckets of sixteen; 0: empty */
    uint32_t buckets;
    uint32_t unit; /* hashes for which the clock stands still */
    uint64_t came; /* hashes in all */
};

/* Measures or places a table for so many hashes. */
void pnx__ghost_table_layout(
        struct pnx__ghost_table *table, struct pnx__layout *layout, uint32_t room);
/* Copies what is in another into an empty one that is as large or larger. */
void pnx__ghost_table_copy(struct pnx__ghost_table *table, const struct pnx__ghost_table *from);
/* Fetches what a hash's place is in. */
void pnx__ghost_table_fetch(const struct pnx__ghost_table *table, uint32_t hash);
void pnx__ghost_table_push(struct pnx__ghost_table *table, uint32_t hash);
/* Takes the hash out; false when it is not there, or more than limit came after it. */
bool pnx__ghost_table_take(struct pnx__ghost_table *table, uint32_t hash, uint64_t limit);

#endif
