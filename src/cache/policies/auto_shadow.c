/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/auto_shadow.c - a small cache without values: see cache/policies/auto_shadow.h */
#include "cache/policies/auto_shadow.h"

#include <string.h>

#define SLOTS PNX__SHADOW_SLOTS

void pnx__auto_shadow_layout(
        struct pnx__auto_shadow *shadow, struct pnx__layout *layout, uint32_t mode) {
    unsigned char *page = pnx__layout_take(layout, SLOTS * 3, sizeof(uint32_t));
    pnx__narrow_layout(shadow ? &shadow->cells : NULL, layout, SLOTS);
    pnx__auto_engine_layout(shadow ? &shadow->engine : NULL, layout, SLOTS, mode == PNX__AUTO_S3,
            mode == PNX__AUTO_TINYLFU);
    if (!shadow)
        return;
    shadow->page = page;
    /* A record has four bytes, and its fields lie SLOTS records apart: so the hashes are an array, too. */
    shadow->view = (struct pnx_cache_slots){.pages = &shadow->page,
            .shift = 31,
            .stride = sizeof(uint32_t),
            .hash = 0,
            .weight = SLOTS * sizeof(uint32_t),
            .weight_bytes = sizeof(uint32_t),
            .hits = 2 * SLOTS * sizeof(uint32_t),
            .expires = PNX_CACHE_NO_FIELD};
}

void pnx__auto_shadow_init(
        struct pnx__auto_shadow *shadow, uint64_t capacity, uint64_t seed, uint32_t mode) {
    shadow->free = PNX_CACHE_NO_SLOT;
    pnx__auto_engine_init(&shadow->engine, &shadow->view, capacity, seed, mode);
}

void pnx__auto_shadow_copy(struct pnx__auto_shadow *shadow, struct pnx__auto_shadow *from) {
    shadow->engine.view = &shadow->view;
    pnx__auto_engine_copy(&shadow->engine, &from->engine, NULL);
    memcpy(shadow->page, from->page, SLOTS * 3 * sizeof(uint32_t));
    memcpy(shadow->cells.cells, from->cells.cells, from->cells.size * sizeof(uint16_t));
    shadow->cells.count = from->cells.count;
}

static uint32_t *hashes(const struct pnx__auto_shadow *shadow) {
    return (uint32_t *)(void *)shadow->page;
}

static uint64_t weight_of(const struct pnx__auto_shadow *shadow) {
    return shadow->engine.weight[PNX__AUTO_SMALL] + shadow->engine.weight[PNX__AUTO_MAIN];
}

/* The engine has forgotten the slot. */
static void let_go(struct pnx__auto_shadow *shadow, uint32_t slot) {
    pnx__narrow_clear(&shadow->cells, hashes(shadow),
            pnx__narrow_find_number(&shadow->cells, hashes(shadow), slot));
    hashes(shadow)[slot] = shadow->free;
    shadow->free = slot;
}

bool pnx__auto_shadow_crowded(const struct pnx__auto_shadow *shadow) {
    return shadow->cells.count == SLOTS &&
           weight_of(shadow) < shadow->engine.capacity - shadow->engine.capacity / 8;
}

static void make_room(struct pnx__auto_shadow *shadow, uint64_t weight) {
    while (shadow->cells.count > 0 && (weight_of(shadow) + weight > shadow->engine.capacity ||
                                              (weight > 0 && shadow->cells.count == SLOTS)))
        let_go(shadow, pnx__auto_engine_victim(&shadow->engine, weight));
}

/* The key is not there, and its weight no more than the capacity.  Returns its slot. */
static uint32_t take_in(struct pnx__auto_shadow *shadow, uint32_t hash, uint32_t weight) {
    make_room(shadow, weight);
    uint32_t slot = shadow->free;
    if (slot != PNX_CACHE_NO_SLOT)
        shadow->free = hashes(shadow)[slot];
    else
        slot = shadow->used++;
    hashes(shadow)[slot] = hash;
    hashes(shadow)[SLOTS + slot] = weight;
    pnx__narrow_put(&shadow->cells, hashes(shadow), slot);
    pnx__auto_engine_insert(&shadow->engine, slot);
    return slot;
}

bool pnx__auto_shadow_request(struct pnx__auto_shadow *shadow, uint32_t hash, uint64_t weight) {
    uint32_t cell = pnx__narrow_find(&shadow->cells, hashes(shadow), hash);
    if (cell != PNX__CELL_NONE) {
        pnx_cache_slot_bump(
                &shadow->view, pnx__narrow_number(&shadow->cells, cell), PNX__AUTO_HIT_MAX);
        return true;
    }
    uint32_t narrow = weight > UINT32_MAX ? UINT32_MAX : (uint32_t)weight;
    if (narrow > shadow->engine.capacity)
        return false; /* the part of the capacity has no room for it, though all of it has */
    take_in(shadow, hash, narrow);
    return false;
}

void pnx__auto_shadow_restart(struct pnx__auto_shadow *shadow, uint64_t capacity,
        const struct pnx__auto_filling *filling) {
    uint32_t mode = shadow->engine.mode;
    uint64_t seed = shadow->engine.random;
    struct pnx__layout measured = {0}, placed = {.base = shadow->page};
    pnx__auto_shadow_layout(NULL, &measured, mode);
    memset(shadow->page, 0, measured.at); /* the page is the first of its tables */
    *shadow = (struct pnx__auto_shadow){0};
    pnx__auto_shadow_layout(shadow, &placed, mode);
    pnx__auto_shadow_init(shadow, capacity, seed, mode);
    for (uint32_t i = 0; i < pnx__auto_filling_count(filling); i++) {
        if (filling->weights[i] > capacity)
            continue;
        uint32_t slot = take_in(shadow, filling->hashes[i], filling->weights[i]);
        pnx_cache_slot_set_hits(&shadow->view, slot, filling->hits[i]);
    }
}

void pnx__auto_shadow_resize(struct pnx__auto_shadow *shadow, uint64_t capacity) {
    pnx__auto_engine_resize(&shadow->engine, capacity);
    make_room(shadow, 0);
}

void pnx__auto_shadow_thin(struct pnx__auto_shadow *shadow, uint32_t mask) {
    for (uint32_t slot = 0; slot < shadow->used; slot++) {
        uint32_t hash = hashes(shadow)[slot];
        if ((hash & mask) == 0)
            continue;
        uint32_t cell = pnx__narrow_find_number(&shadow->cells, hashes(shadow), slot);
        if (cell == PNX__CELL_NONE)
            continue; /* a free one */
        pnx__auto_engine_remove(&shadow->engine, slot);
        let_go(shadow, slot);
    }
}

const char *pnx__auto_shadow_check(const struct pnx__auto_shadow *shadow) {
    const char *broken = pnx__auto_engine_check(&shadow->engine, shadow->cells.count);
    if (broken)
        return broken;
    uint32_t free = 0;
    for (uint32_t slot = shadow->free; slot != PNX_CACHE_NO_SLOT && free <= SLOTS;
            slot = hashes(shadow)[slot])
        free++;
    if (shadow->used > SLOTS || free + shadow->cells.count != shadow->used)
        return "a shadow's slots are not the held and the free ones";
    return weight_of(shadow) <= shadow->engine.capacity ? NULL
                                                        : "a shadow holds more than its capacity";
}
