/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/cells.h - from hashes to small numbers: a hash table of 6 bytes a number, or 3, with linear probing.
 *
 * The hashes themselves stand in an array of the user's, by number.  Nothing is left behind where one is taken out:
 * those that follow move up.
 */
#ifndef PNX_SRC_CACHE_POLICIES_CELLS_H
#define PNX_SRC_CACHE_POLICIES_CELLS_H

#include "cache/policies/layout.h"

#include <patinox/cache_policy.h>

struct pnx__cells {
    uint32_t *cells; /* number + 1, or 0 */
    uint32_t size;
    uint32_t count; /* cells that are not 0; at most room */
};

/* The same with half the memory, for numbers below 65,535. */
struct pnx__narrow {
    uint16_t *cells;
    uint32_t size;
    uint32_t count;
};

#define PNX__CELL_NONE UINT32_MAX

/* Measures or places a table for so many numbers. */
void pnx__cells_layout(struct pnx__cells *cells, struct pnx__layout *layout, uint32_t room);

/* Returns the cell with a number of that hash, or NONE. */
uint32_t pnx__cells_find(const struct pnx__cells *cells, const uint32_t *hashes, uint32_t hash);
/* Returns the cell with that number, or NONE. */
uint32_t pnx__cells_find_number(
        const struct pnx__cells *cells, const uint32_t *hashes, uint32_t number);
/* The number in a cell. */
static inline uint32_t pnx__cells_number(const struct pnx__cells *cells, uint32_t cell) {
    return cells->cells[cell] - 1;
}
void pnx__cells_put(struct pnx__cells *cells, const uint32_t *hashes, uint32_t number);
void pnx__cells_clear(struct pnx__cells *cells, const uint32_t *hashes, uint32_t cell);

void pnx__narrow_layout(struct pnx__narrow *cells, struct pnx__layout *layout, uint32_t room);
uint32_t pnx__narrow_find(const struct pnx__narrow *cells, const uint32_t *hashes, uint32_t hash);
uint32_t pnx__narrow_find_number(
        const struct pnx__narrow *cells, const uint32_t *hashes, uint32_t number);
static inline uint32_t pnx__narrow_number(const struct pnx__narrow *cells, uint32_t cell) {
    return cells->cells[cell] - 1u;
}
void pnx__narrow_put(struct pnx__narrow *cells, const uint32_t *hashes, uint32_t number);
void pnx__narrow_clear(struct pnx__narrow *cells, const uint32_t *hashes, uint32_t cell);

#endif
