/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/fifo.c - first in, first out: hits change nothing, the oldest entry goes.
 *
 * Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal, 1966.
 */
#include "cache/policies/policies.h"
#include "cache/policies/ring.h"

struct fifo {
    struct pnx_cache_policy_wants wants;
    struct pnx__rings rings;
};

static size_t layout(struct fifo *fifo, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)fifo};
    pnx__layout_take(&l, 1, sizeof(*fifo));
    pnx__rings_layout(fifo ? &fifo->rings : NULL, &l, slots);
    return pnx__layout_bytes(&l);
}

static size_t fifo_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void fifo_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct fifo *fifo = memory;
    (void)params;
    layout(fifo, slots);
    pnx__rings_init(&fifo->rings, 1);
}

static void fifo_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    struct fifo *fifo = memory;
    layout(fifo, slots);
    pnx__rings_grow(&fifo->rings, &((struct fifo *)state)->rings, map);
}

static void fifo_insert(void *state, uint32_t slot) {
    struct fifo *fifo = state;
    pnx__ring_push(&fifo->rings, 0, slot);
}

static void fifo_remove(void *state, uint32_t slot) {
    struct fifo *fifo = state;
    pnx__ring_remove(&fifo->rings, 0, slot);
}

static uint32_t fifo_victim(void *state, uint32_t hash, uint64_t weight) {
    struct fifo *fifo = state;
    (void)hash;
    (void)weight;
    return pnx__ring_pop(&fifo->rings, 0);
}

static const char *fifo_check(const void *state, uint32_t held) {
    const struct fifo *fifo = state;
    const char *broken = pnx__ring_check(&fifo->rings, 0);
    if (broken)
        return broken;
    return fifo->rings.queue[0].count == held ? NULL : "the queue does not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_fifo = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "fifo",
        .description = "first in, first out",
        .memory = fifo_memory,
        .init = fifo_init,
        .grow = fifo_grow,
        .insert = fifo_insert,
        .remove = fifo_remove,
        .victim = fifo_victim,
        .check = fifo_check,
};
