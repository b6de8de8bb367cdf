/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/auto_filling.c - what a cache that fills holds: see cache/policies/auto_filling.h */
#include "cache/policies/auto_filling.h"

#include "cache/policies/auto_engine.h"

#include <string.h>

#define SLOTS PNX__SHADOW_SLOTS

void pnx__auto_filling_layout(struct pnx__auto_filling *filling, struct pnx__layout *layout) {
    pnx__narrow_layout(filling ? &filling->cells : NULL, layout, SLOTS);
    uint32_t *words = pnx__layout_take(layout, (uint64_t)SLOTS * 2, sizeof(uint32_t));
    uint8_t *hits = pnx__layout_take(layout, SLOTS, 1);
    if (!filling)
        return;
    filling->weight = 0;
    filling->hashes = words;
    filling->weights = words + SLOTS;
    filling->hits = hits;
}

void pnx__auto_filling_copy(
        struct pnx__auto_filling *filling, const struct pnx__auto_filling *from) {
    memcpy(filling->cells.cells, from->cells.cells, from->cells.size * sizeof(uint16_t));
    filling->cells.count = from->cells.count;
    filling->weight = from->weight;
    memcpy(filling->hashes, from->hashes, SLOTS * sizeof(uint32_t));
    memcpy(filling->weights, from->weights, SLOTS * sizeof(uint32_t));
    memcpy(filling->hits, from->hits, SLOTS);
}

static void append(
        struct pnx__auto_filling *filling, uint32_t hash, uint32_t weight, uint8_t hits) {
    uint32_t number = filling->cells.count;
    filling->hashes[number] = hash;
    filling->weights[number] = weight;
    filling->hits[number] = hits;
    filling->weight += weight;
    pnx__narrow_put(&filling->cells, filling->hashes, number);
}

bool pnx__auto_filling_request(struct pnx__auto_filling *filling, uint32_t hash, uint32_t weight) {
    uint32_t cell = pnx__narrow_find(&filling->cells, filling->hashes, hash);
    if (cell != PNX__CELL_NONE) {
        uint8_t *hits = &filling->hits[pnx__narrow_number(&filling->cells, cell)];
        *hits = (uint8_t)(*hits < PNX__AUTO_HIT_MAX ? *hits + 1 : *hits);
        return true;
    }
    if (filling->cells.count == SLOTS)
        return false;
    append(filling, hash, weight, 0);
    return true;
}

void pnx__auto_filling_thin(struct pnx__auto_filling *filling, uint32_t mask) {
    uint32_t count = filling->cells.count;
    memset(filling->cells.cells, 0, filling->cells.size * sizeof(uint16_t));
    filling->cells.count = 0;
    filling->weight = 0;
    /* Entries move down only: none is overwritten before it was looked at. */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t hash = filling->hashes[i];
        if ((hash & mask) == 0)
            append(filling, hash, filling->weights[i], filling->hits[i]);
    }
}

const char *pnx__auto_filling_check(const struct pnx__auto_filling *filling) {
    uint64_t weight = 0;
    if (filling->cells.count > SLOTS)
        return "more entries than slots are noted of a cache that fills";
    for (uint32_t i = 0; i < filling->cells.count; i++) {
        weight += filling->weights[i];
        if (pnx__narrow_find_number(&filling->cells, filling->hashes, i) == PNX__CELL_NONE)
            return "an entry of a cache that fills is not found";
    }
    return weight == filling->weight ? NULL : "weights of a cache that fills do not add up";
}
