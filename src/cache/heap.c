/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/heap.c - which slot expires first: a heap of slots, four children a node, for half the depth of two.
 *
 *   P1  No slot expires before its parent; the first one expires first.
 *   P2  Each slot in the heap knows its position.
 */
#include "cache/index.h"

static void place(struct pnx_cache_index *ix, uint32_t pos, uint32_t slot) {
    pnx__cache_slot(ix, pos)->heap = slot;
    pnx__cache_slot(ix, slot)->heap_pos = pos;
}

static pnx_ns expiry_at(const struct pnx_cache_index *ix, uint32_t pos) {
    return pnx__cache_slot(ix, pnx__cache_slot(ix, pos)->heap)->expires;
}

/* Moves the hole at pos up while the slot to be placed expires before the parent. */
static void sift_up(struct pnx_cache_index *ix, uint32_t pos, uint32_t slot) {
    pnx_ns expires = pnx__cache_slot(ix, slot)->expires;
    while (pos > 0) {
        uint32_t parent = (pos - 1) / 4;
        if (expiry_at(ix, parent) <= expires)
            break;
        place(ix, pos, pnx__cache_slot(ix, parent)->heap);
        pos = parent;
    }
    place(ix, pos, slot);
}

static void sift_down(struct pnx_cache_index *ix, uint32_t pos, uint32_t slot) {
    pnx_ns expires = pnx__cache_slot(ix, slot)->expires;
    for (;;) {
        uint32_t best = pos;
        pnx_ns first = expires;
        for (uint32_t child = 4 * pos + 1; child <= 4 * pos + 4 && child < ix->timed; child++) {
            if (expiry_at(ix, child) < first) {
                first = expiry_at(ix, child);
                best = child;
            }
        }
        if (best == pos)
            break;
        place(ix, pos, pnx__cache_slot(ix, best)->heap);
        pos = best;
    }
    place(ix, pos, slot);
}

uint32_t pnx__cache_heap_first(const struct pnx_cache_index *ix) {
    return ix->timed == 0 ? PNX_CACHE_NONE : pnx__cache_slot(ix, 0)->heap;
}

void pnx__cache_heap_push(struct pnx_cache_index *ix, uint32_t slot) {
    sift_up(ix, ix->timed++, slot);
}

void pnx__cache_heap_remove(struct pnx_cache_index *ix, uint32_t slot) {
    uint32_t pos = pnx__cache_slot(ix, slot)->heap_pos;
    uint32_t last = pnx__cache_slot(ix, --ix->timed)->heap;
    pnx__cache_slot(ix, slot)->heap_pos = PNX_CACHE_NONE;
    if (last == slot)
        return;
    if (pos > 0 && pnx__cache_slot(ix, last)->expires < expiry_at(ix, (pos - 1) / 4))
        sift_up(ix, pos, last);
    else
        sift_down(ix, pos, last);
}

const char *pnx__cache_heap_check(const struct pnx_cache_index *ix) {
    if (ix->timed > ix->live)
        return "the heap holds more slots than are live";
    uint32_t timed = 0;
    for (uint32_t i = 0; i < ix->used; i++) {
        const struct pnx_cache_slot *slot = pnx__cache_slot(ix, i);
        if (!slot->entry)
            continue;
        if ((slot->heap_pos != PNX_CACHE_NONE) != (slot->expires != PNX_NEVER))
            return "a slot is in the heap and does not expire, or the reverse";
        if (slot->heap_pos == PNX_CACHE_NONE)
            continue;
        timed++;
        if (slot->heap_pos >= ix->timed || pnx__cache_slot(ix, slot->heap_pos)->heap != i)
            return "a slot is not where it stands in the heap";
        if (slot->heap_pos > 0 && expiry_at(ix, (slot->heap_pos - 1) / 4) > slot->expires)
            return "a slot expires before its parent in the heap";
    }
    return timed == ix->timed ? NULL : "the heap holds slots that are not live";
}
