/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/cells.c - from hashes to small numbers: see cache/policies/cells.h */
#include "cache/policies/cells.h"

void pnx__cells_layout(struct pnx__cells *cells, struct pnx__layout *layout, uint32_t room) {
    uint32_t size = room + room / 2 + 8;
    uint32_t *table = pnx__layout_take(layout, size, sizeof(uint32_t));
    if (layout->base)
        *cells = (struct pnx__cells){.cells = table, .size = size};
}

/* Where the hash belongs.  Hashes are as good as random in all bits. */
static uint32_t home(const struct pnx__cells *cells, uint32_t hash) {
    return (uint32_t)(((uint64_t)hash * cells->size) >> 32);
}

static uint32_t following(const struct pnx__cells *cells, uint32_t cell) {
    return cell + 1 == cells->size ? 0 : cell + 1;
}

uint32_t pnx__cells_find(const struct pnx__cells *cells, const uint32_t *hashes, uint32_t hash) {
    uint32_t cell = home(cells, hash);
    for (; cells->cells[cell] != 0; cell = following(cells, cell)) {
        if (hashes[cells->cells[cell] - 1] == hash)
            return cell;
    }
    return PNX__CELL_NONE;
}

uint32_t pnx__cells_find_number(
        const struct pnx__cells *cells, const uint32_t *hashes, uint32_t number) {
    uint32_t cell = home(cells, hashes[number]);
    for (; cells->cells[cell] != 0; cell = following(cells, cell)) {
        if (cells->cells[cell] == number + 1)
            return cell;
    }
    return PNX__CELL_NONE;
}

void pnx__cells_put(struct pnx__cells *cells, const uint32_t *hashes, uint32_t number) {
    uint32_t cell = home(cells, hashes[number]);
    while (cells->cells[cell] != 0)
        cell = following(cells, cell);
    cells->cells[cell] = number + 1;
    cells->count++;
}

void pnx__cells_clear(struct pnx__cells *cells, const uint32_t *hashes, uint32_t cell) {
    uint32_t hole = cell;
    for (;;) {
        cell = following(cells, cell);
        if (cells->cells[cell] == 0)
            break;
        uint32_t wants = home(cells, hashes[cells->cells[cell] - 1]);
        /* It stays when its home lies behind the hole, around the end as the case may be. */
        bool stays = hole <= cell ? hole < wants && wants <= cell : hole < wants || wants <= cell;
        if (stays)
            continue;
        cells->cells[hole] = cells->cells[cell];
        hole = cell;
    }
    cells->cells[hole] = 0;
    cells->count--;
}
