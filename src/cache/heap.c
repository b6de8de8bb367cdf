/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/heap.c - which slot of a shard expires first: a heap of slots, four children a node, for half the depth of two.
 *
 *   P1  No slot expires before its parent; the first one expires first.
 *   P2  Each slot in the heap knows its position.
 */
#include "cache/internal.h"

static struct pnx_cache_record *record(const struct pnx_cache_shard *shard, uint32_t i) {
    return pnx__cache_record(shard->own_table, i);
}

static void place(struct pnx_cache_shard *shard, uint32_t pos, uint32_t slot) {
    record(shard, pos)->heap = slot;
    record(shard, slot)->heap_pos = pos;
}

static pnx_ns expiry_at(const struct pnx_cache_shard *shard, uint32_t pos) {
    return record(shard, record(shard, pos)->heap)->expires;
}

/* Moves the hole at pos up while the slot to be placed expires before the parent. */
static void sift_up(struct pnx_cache_shard *shard, uint32_t pos, uint32_t slot) {
    pnx_ns expires = record(shard, slot)->expires;
    while (pos > 0) {
        uint32_t parent = (pos - 1) / 4;
        if (expiry_at(shard, parent) <= expires)
            break;
        place(shard, pos, record(shard, parent)->heap);
        pos = parent;
    }
    place(shard, pos, slot);
}

static void sift_down(struct pnx_cache_shard *shard, uint32_t pos, uint32_t slot) {
    pnx_ns expires = record(shard, slot)->expires;
    for (;;) {
        uint32_t best = pos;
        pnx_ns first = expires;
        for (uint32_t child = 4 * pos + 1; child <= 4 * pos + 4 && child < shard->timed; child++) {
            if (expiry_at(shard, child) < first) {
                first = expiry_at(shard, child);
                best = child;
            }
        }
        if (best == pos)
            break;
        place(shard, pos, record(shard, best)->heap);
        pos = best;
    }
    place(shard, pos, slot);
}

uint32_t pnx__cache_heap_first(const struct pnx_cache_shard *shard) {
    return shard->timed == 0 ? PNX_CACHE_NONE : record(shard, 0)->heap;
}

void pnx__cache_heap_push(struct pnx_cache_shard *shard, uint32_t slot) {
    sift_up(shard, shard->timed++, slot);
}

void pnx__cache_heap_remove(struct pnx_cache_shard *shard, uint32_t slot) {
    uint32_t pos = record(shard, slot)->heap_pos;
    uint32_t last = record(shard, --shard->timed)->heap;
    record(shard, slot)->heap_pos = PNX_CACHE_NONE;
    if (last == slot)
        return;
    if (pos > 0 && record(shard, last)->expires < expiry_at(shard, (pos - 1) / 4))
        sift_up(shard, pos, last);
    else
        sift_down(shard, pos, last);
}

const char *pnx__cache_heap_check(const struct pnx_cache_shard *shard) {
    if (shard->timed > shard->live)
        return "the heap holds more slots than are live";
    uint32_t timed = 0;
    for (uint32_t i = 0; i < shard->used; i++) {
        const struct pnx_cache_record *r = record(shard, i);
        if (!pnx_load(&r->entry, PNX_RELAXED, "cache.heap_entry")) /* the lock is held */
            continue;
        if ((r->heap_pos != PNX_CACHE_NONE) != (r->expires != PNX_NEVER))
            return "a slot is in the heap and does not expire, or the reverse";
        if (r->heap_pos == PNX_CACHE_NONE)
            continue;
        timed++;
        if (r->heap_pos >= shard->timed || record(shard, r->heap_pos)->heap != i)
            return "a slot is not where it stands in the heap";
        if (r->heap_pos > 0 && expiry_at(shard, (r->heap_pos - 1) / 4) > r->expires)
            return "a slot expires before its parent in the heap";
    }
    return timed == shard->timed ? NULL : "the heap holds slots that are not live";
}
