/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/ghost.c - hashes of entries that have gone: see cache/policies/ghost.h */
#include "cache/policies/ghost.h"

void pnx__ghost_layout(struct pnx__ghost *ghost, struct pnx__layout *layout, uint32_t room) {
    uint32_t ring_size = room + room / 8 + 8;
    struct pnx__cells cells = {0};
    uint32_t *ring = pnx__layout_take(layout, ring_size, sizeof(uint32_t));
    pnx__cells_layout(&cells, layout, room);
    if (layout->base)
        *ghost = (struct pnx__ghost){
                .cells = cells, .ring = ring, .room = room, .ring_size = ring_size};
}

static uint32_t position(const struct pnx__ghost *ghost, uint32_t offset) {
    uint64_t at = (uint64_t)ghost->tail + offset;
    return (uint32_t)(at >= ghost->ring_size ? at - ghost->ring_size : at);
}

/* The cell of a position, or NONE when its hash has been taken out. */
static uint32_t cell_of(const struct pnx__ghost *ghost, uint32_t at) {
    return pnx__cells_find_number(&ghost->cells, ghost->ring, at);
}

static void drop_oldest(struct pnx__ghost *ghost) {
    uint32_t cell = cell_of(ghost, ghost->tail);
    if (cell != PNX__CELL_NONE)
        pnx__cells_clear(&ghost->cells, ghost->ring, cell);
    ghost->tail = position(ghost, 1);
    ghost->span--;
}

void pnx__ghost_trim(struct pnx__ghost *ghost, uint64_t limit) {
    while (ghost->cells.count > limit)
        drop_oldest(ghost);
}

/* Closes the gaps that hashes taken out have left.  Positions only fall, so no two are ever the same. */
static void squeeze(struct pnx__ghost *ghost) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < ghost->span; i++) {
        uint32_t from = position(ghost, i);
        uint32_t cell = cell_of(ghost, from);
        if (cell == PNX__CELL_NONE)
            continue;
        uint32_t to = position(ghost, kept++);
        ghost->ring[to] = ghost->ring[from];
        ghost->cells.cells[cell] = to + 1;
    }
    ghost->span = kept;
}

void pnx__ghost_push(struct pnx__ghost *ghost, uint32_t hash, uint64_t limit) {
    if (limit > ghost->room)
        limit = ghost->room;
    pnx__ghost_trim(ghost, limit > 0 ? limit - 1 : 0);
    if (limit == 0)
        return;
    if (ghost->span == ghost->ring_size)
        squeeze(ghost);
    uint32_t at = position(ghost, ghost->span++);
    ghost->ring[at] = hash;
    pnx__cells_put(&ghost->cells, ghost->ring, at);
}

bool pnx__ghost_take(struct pnx__ghost *ghost, uint32_t hash) {
    uint32_t cell = pnx__cells_find(&ghost->cells, ghost->ring, hash);
    if (cell == PNX__CELL_NONE)
        return false;
    pnx__cells_clear(&ghost->cells, ghost->ring, cell);
    return true;
}

void pnx__ghost_copy(struct pnx__ghost *ghost, const struct pnx__ghost *from) {
    for (uint32_t i = 0; i < from->span; i++) {
        uint32_t at = position(from, i);
        if (cell_of(from, at) != PNX__CELL_NONE)
            pnx__ghost_push(ghost, from->ring[at], UINT64_MAX);
    }
}

const char *pnx__ghost_check(const struct pnx__ghost *ghost) {
    uint32_t cells = 0, found = 0;
    for (uint32_t i = 0; i < ghost->cells.size; i++)
        cells += ghost->cells.cells[i] != 0;
    for (uint32_t i = 0; i < ghost->span; i++)
        found += cell_of(ghost, position(ghost, i)) != PNX__CELL_NONE;
    if (cells != ghost->cells.count || found != ghost->cells.count)
        return "a ghost's cells and positions do not agree";
    if (ghost->cells.count > ghost->room || ghost->span > ghost->ring_size)
        return "a ghost holds more than it has room for";
    return NULL;
}
