/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/clock.c - first in, first out, with a second chance: an entry that was hit goes round once more.
 *
 * Corbato, A paging experiment with the Multics system, MIT Project MAC, 1968.
 */
#include "cache/policies/policies.h"
#include "cache/policies/ring.h"

struct clock_state {
    struct pnx_cache_policy_wants wants;
    const struct pnx_cache_slots *slots;
    struct pnx__rings rings;
};

static size_t layout(struct clock_state *clock, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)clock};
    pnx__layout_take(&l, 1, sizeof(*clock));
    pnx__rings_layout(clock ? &clock->rings : NULL, &l, slots);
    return pnx__layout_bytes(&l);
}

static size_t clock_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void clock_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct clock_state *clock = memory;
    layout(clock, slots);
    pnx__rings_init(&clock->rings, 1);
    clock->wants.hit_max = 1;
    clock->slots = params->slots;
}

static void clock_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    struct clock_state *old = state;
    struct clock_state *clock = memory;
    layout(clock, slots);
    pnx__rings_grow(&clock->rings, &old->rings, map);
    clock->wants = old->wants;
    clock->slots = old->slots;
}

static void clock_insert(void *state, uint32_t slot) {
    struct clock_state *clock = state;
    pnx_cache_slot_set_hits(clock->slots, slot, 0);
    pnx__ring_push(&clock->rings, 0, slot);
}

static void clock_remove(void *state, uint32_t slot) {
    struct clock_state *clock = state;
    pnx__ring_remove(&clock->rings, 0, slot);
}

/* Readers may set bits as fast as they are cleared: no slot goes round more often than once in a call. */
static uint32_t clock_victim(void *state, uint32_t hash, uint64_t weight) {
    struct clock_state *clock = state;
    (void)hash;
    (void)weight;
    for (uint32_t left = clock->rings.queue[0].count;; left--) {
        uint32_t slot = pnx__ring_pop(&clock->rings, 0);
        if (slot == PNX_CACHE_NO_SLOT || left == 0 || pnx_cache_slot_hits(clock->slots, slot) == 0)
            return slot;
        pnx_cache_slot_set_hits(clock->slots, slot, 0);
        pnx__ring_push(&clock->rings, 0, slot);
    }
}

static const char *clock_check(const void *state, uint32_t held) {
    const struct clock_state *clock = state;
    const char *broken = pnx__ring_check(&clock->rings, 0);
    if (broken)
        return broken;
    return clock->rings.queue[0].count == held ? NULL : "the queue does not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_clock = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "clock",
        .description = "first in, first out, with a second chance",
        .memory = clock_memory,
        .init = clock_init,
        .grow = clock_grow,
        .insert = clock_insert,
        .remove = clock_remove,
        .victim = clock_victim,
        .check = clock_check,
};
