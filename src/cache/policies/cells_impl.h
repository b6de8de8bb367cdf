/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/cells_impl.h - the functions of cache/policies/cells.h for one width of cells.
 *
 * The file that includes it defines CELL, the type of a cell, CELLS, the struct, and CELLS_(name), the name of a function.
 */
void CELLS_(layout)(struct CELLS *cells, struct pnx__layout *layout, uint32_t room) {
    uint32_t size = room + room / 2 + 8;
    CELL *table = pnx__layout_take(layout, size, sizeof(CELL));
    if (layout->base)
        *cells = (struct CELLS){.cells = table, .size = size};
}

/* Where the hash belongs.  Hashes are as good as random in all bits. */
static uint32_t home(const struct CELLS *cells, uint32_t hash) {
    return (uint32_t)(((uint64_t)hash * cells->size) >> 32);
}

static uint32_t following(const struct CELLS *cells, uint32_t cell) {
    return cell + 1 == cells->size ? 0 : cell + 1;
}

uint32_t CELLS_(find)(const struct CELLS *cells, const uint32_t *hashes, uint32_t hash) {
    uint32_t cell = home(cells, hash);
    for (; cells->cells[cell] != 0; cell = following(cells, cell)) {
        if (hashes[cells->cells[cell] - 1] == hash)
            return cell;
    }
    return PNX__CELL_NONE;
}

uint32_t CELLS_(find_number)(const struct CELLS *cells, const uint32_t *hashes, uint32_t number) {
    uint32_t cell = home(cells, hashes[number]);
    for (; cells->cells[cell] != 0; cell = following(cells, cell)) {
        if (cells->cells[cell] == number + 1)
            return cell;
    }
    return PNX__CELL_NONE;
}

void CELLS_(put)(struct CELLS *cells, const uint32_t *hashes, uint32_t number) {
    uint32_t cell = home(cells, hashes[number]);
    while (cells->cells[cell] != 0)
        cell = following(cells, cell);
    cells->cells[cell] = (CELL)(number + 1);
    cells->count++;
}

void CELLS_(clear)(struct CELLS *cells, const uint32_t *hashes, uint32_t cell) {
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
