/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/ring.c - queues of slots in chunks: see cache/policies/ring.h */
#include "cache/policies/ring.h"

#include <string.h>

/* All live references in full chunks, those that may be stale before they are squeezed out, and for each queue two chunks that
 * are not full; then one is free after each squeeze. */
static uint32_t pool_for(uint32_t slots) {
    return slots / PNX__RING_CHUNK + slots / 8 / PNX__RING_CHUNK + 2 * PNX__RING_QUEUES + 3;
}

void pnx__rings_layout(struct pnx__rings *rings, struct pnx__layout *layout, uint32_t slots) {
    uint32_t pool = pool_for(slots);
    struct pnx__ring_chunk *chunks = pnx__layout_take(layout, pool, sizeof(struct pnx__ring_chunk));
    uint16_t *marks = pnx__layout_take(layout, slots, sizeof(uint16_t));
    if (!layout->base)
        return;
    rings->chunks = chunks;
    rings->marks = marks;
    rings->slots = slots;
    rings->pool = pool;
}

static bool has_chunk(const struct pnx__rings *rings) {
    return rings->free != PNX_CACHE_NO_SLOT || rings->fresh < rings->pool;
}

/* There is one. */
static uint32_t take_chunk(struct pnx__rings *rings) {
    uint32_t chunk = rings->free;
    if (chunk != PNX_CACHE_NO_SLOT)
        rings->free = rings->chunks[chunk].next;
    else
        chunk = rings->fresh++;
    rings->chunks[chunk].next = PNX_CACHE_NO_SLOT;
    return chunk;
}

static void give_chunk(struct pnx__rings *rings, uint32_t chunk) {
    rings->chunks[chunk].next = rings->free;
    rings->free = chunk;
}

void pnx__rings_init(struct pnx__rings *rings, uint32_t queues) {
    rings->free = PNX_CACHE_NO_SLOT;
    rings->queues = queues;
    for (uint32_t i = 0; i < queues; i++) {
        struct pnx__ring *q = &rings->queue[i];
        q->first = q->last = take_chunk(rings);
        q->shift = i * 8;
        q->limit = queues == 1 ? 0x7fff : i == 0 ? 0xff : 0x7f;
    }
}

static uint32_t stale(const struct pnx__rings *rings, const struct pnx__ring *q, uint32_t slot) {
    return ((uint32_t)rings->marks[slot] >> q->shift) & q->limit;
}

static void count_stale(
        struct pnx__rings *rings, const struct pnx__ring *q, uint32_t slot, int by) {
    uint32_t unit = 1u << q->shift;
    rings->marks[slot] = (uint16_t)(by > 0 ? rings->marks[slot] + unit : rings->marks[slot] - unit);
}

/* Drops all stale references of a queue: reads from the tail, writes behind. */
static void squeeze(struct pnx__rings *rings, struct pnx__ring *q) {
    uint32_t from = q->first, read = q->begin, to = q->first, write = q->begin, refs = q->refs;
    for (uint32_t i = 0; i < refs; i++) {
        if (read == PNX__RING_CHUNK) {
            from = rings->chunks[from].next;
            read = 0;
        }
        uint32_t slot = rings->chunks[from].refs[read++];
        if (stale(rings, q, slot) > 0) {
            count_stale(rings, q, slot, -1);
            q->refs--;
            continue;
        }
        if (write == PNX__RING_CHUNK) {
            to = rings->chunks[to].next;
            write = 0;
        }
        rings->chunks[to].refs[write++] = slot;
    }
    while (rings->chunks[to].next != PNX_CACHE_NO_SLOT) {
        uint32_t chunk = rings->chunks[to].next;
        rings->chunks[to].next = rings->chunks[chunk].next;
        give_chunk(rings, chunk);
    }
    q->last = to;
    q->end = write;
}

/* Gives what is live in all queues, in which nothing is stale, its new number. */
static void renumber(struct pnx__rings *rings, const struct pnx__rings *from, const uint32_t *map) {
    for (uint32_t i = 0; i < rings->queues; i++) {
        const struct pnx__ring *q = &rings->queue[i];
        uint32_t chunk = q->first, at = q->begin;
        for (uint32_t n = 0; n < q->refs; n++) {
            if (at == PNX__RING_CHUNK) {
                chunk = rings->chunks[chunk].next;
                at = 0;
            }
            uint32_t *ref = &rings->chunks[chunk].refs[at++];
            rings->marks[map[*ref]] = from->marks[*ref];
            *ref = map[*ref];
        }
    }
}

void pnx__rings_grow(struct pnx__rings *rings, struct pnx__rings *from, const uint32_t *map) {
    for (uint32_t i = 0; map && i < from->queues; i++)
        squeeze(from, &from->queue[i]); /* what is stale has no new number */
    memcpy(rings->chunks, from->chunks, from->fresh * sizeof(*from->chunks));
    rings->queues = from->queues;
    memcpy(rings->queue, from->queue, sizeof(from->queue));
    rings->free = from->free;
    rings->fresh = from->fresh;
    if (map)
        renumber(rings, from, map);
    else
        memcpy(rings->marks, from->marks, from->slots * sizeof(*from->marks));
}

void pnx__ring_push(struct pnx__rings *rings, uint32_t queue, uint32_t slot) {
    struct pnx__ring *q = &rings->queue[queue];
    if (q->end == PNX__RING_CHUNK && !has_chunk(rings)) {
        for (uint32_t i = 0; i < rings->queues; i++)
            squeeze(rings, &rings->queue[i]);
    }
    if (q->end == PNX__RING_CHUNK) {
        uint32_t chunk = take_chunk(rings);
        rings->chunks[q->last].next = chunk;
        q->last = chunk;
        q->end = 0;
    }
    rings->chunks[q->last].refs[q->end++] = slot;
    q->refs++;
    q->count++;
}

uint32_t pnx__ring_pop(struct pnx__rings *rings, uint32_t queue) {
    struct pnx__ring *q = &rings->queue[queue];
    while (q->refs > 0) {
        if (q->begin == PNX__RING_CHUNK) {
            uint32_t chunk = q->first;
            q->first = rings->chunks[chunk].next;
            q->begin = 0;
            give_chunk(rings, chunk);
        }
        uint32_t slot = rings->chunks[q->first].refs[q->begin++];
        if (--q->refs == 0)
            q->begin = q->end = 0; /* first == last */
        if (stale(rings, q, slot) == 0) {
            q->count--;
            return slot;
        }
        count_stale(rings, q, slot, -1);
    }
    return PNX_CACHE_NO_SLOT;
}

void pnx__ring_unpop(struct pnx__rings *rings, uint32_t queue, uint32_t slot) {
    struct pnx__ring *q = &rings->queue[queue];
    if (q->refs == 0)
        q->end = 1;
    else
        q->begin--; /* the pop has left its place */
    rings->chunks[q->first].refs[q->begin] = slot;
    q->refs++;
    q->count++;
}

void pnx__ring_remove(struct pnx__rings *rings, uint32_t queue, uint32_t slot) {
    struct pnx__ring *q = &rings->queue[queue];
    if (stale(rings, q, slot) == q->limit)
        squeeze(rings, q);
    count_stale(rings, q, slot, 1);
    q->count--;
}

const char *pnx__ring_check(const struct pnx__rings *rings, uint32_t queue) {
    const struct pnx__ring *q = &rings->queue[queue];
    uint64_t marked = 0;
    uint32_t chunk = q->first, at = q->begin;
    for (uint32_t slot = 0; slot < rings->slots; slot++)
        marked += stale(rings, q, slot);
    if (q->refs != q->count + marked)
        return "a ring's references are not its slots and the stale ones";
    for (uint32_t i = 0; i < q->refs; i++) {
        if (at == PNX__RING_CHUNK) {
            chunk = rings->chunks[chunk].next;
            at = 0;
        }
        if (chunk >= rings->pool)
            return "a ring ends before its references do";
        if (rings->chunks[chunk].refs[at++] >= rings->slots)
            return "a ring refers to a slot that there is not";
    }
    if (chunk != q->last || (q->refs > 0 && at != q->end))
        return "a ring does not end at its head";
    return NULL;
}
