/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/sieve.c - a hand that goes from old to new and takes the first entry that was not hit since it last came by.
 *
 * Zhang, Yang, Yue, Vigfusson and Rashmi, SIEVE is simpler than LRU, NSDI 2024.  Entries stay where they are: what the hand
 * spares is behind it, with the old ones, while new ones come in at the other end.
 */
#include "cache/policies/list.h"
#include "cache/policies/policies.h"

struct sieve {
    struct pnx_cache_policy_wants wants;
    struct pnx__slot_list list;
    struct pnx__slot_link *links;
    const struct pnx_cache_slots *view;
    uint32_t slots;
    uint32_t hand; /* where the hand looks next; NO_SLOT: at the tail */
};

static size_t layout(struct sieve *sieve, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)sieve};
    pnx__layout_take(&l, 1, sizeof(*sieve));
    struct pnx__slot_link *links = pnx__layout_take(&l, slots, sizeof(*links));
    if (sieve) {
        sieve->links = links;
        sieve->slots = slots;
    }
    return pnx__layout_bytes(&l);
}

static size_t sieve_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void sieve_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct sieve *sieve = memory;
    layout(sieve, slots);
    pnx__slot_list_init(&sieve->list);
    sieve->wants.hit_max = 1;
    sieve->view = params->slots;
    sieve->hand = PNX_CACHE_NO_SLOT;
}

static void sieve_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    const struct sieve *old = state;
    struct sieve *sieve = memory;
    *sieve = *old;
    layout(sieve, slots);
    pnx__slot_list_grow(&sieve->list, sieve->links, old->links, map);
    sieve->hand = pnx__slot_new(map, old->hand);
}

static void sieve_insert(void *state, uint32_t slot) {
    struct sieve *sieve = state;
    pnx_cache_slot_set_hits(sieve->view, slot, 0);
    pnx__slot_list_push(&sieve->list, sieve->links, slot);
}

static void sieve_remove(void *state, uint32_t slot) {
    struct sieve *sieve = state;
    if (sieve->hand == slot)
        sieve->hand = sieve->links[slot].newer;
    pnx__slot_list_remove(&sieve->list, sieve->links, slot);
}

/* Readers may set bits as fast as they are cleared: the hand goes round no more often than once in a call. */
static uint32_t sieve_victim(void *state, uint32_t hash, uint64_t weight) {
    struct sieve *sieve = state;
    uint32_t slot = sieve->hand;
    (void)hash;
    (void)weight;
    for (uint32_t left = sieve->list.count;; left--) {
        if (slot == PNX_CACHE_NO_SLOT)
            slot = sieve->list.tail;
        if (slot == PNX_CACHE_NO_SLOT)
            return slot;
        if (left == 0 || pnx_cache_slot_hits(sieve->view, slot) == 0)
            break;
        pnx_cache_slot_set_hits(sieve->view, slot, 0);
        slot = sieve->links[slot].newer;
    }
    sieve->hand = sieve->links[slot].newer;
    pnx__slot_list_remove(&sieve->list, sieve->links, slot);
    return slot;
}

static const char *sieve_check(const void *state, uint32_t held) {
    const struct sieve *sieve = state;
    const char *broken = pnx__slot_list_check(&sieve->list, sieve->links, sieve->slots);
    if (broken)
        return broken;
    bool found = sieve->hand == PNX_CACHE_NO_SLOT;
    for (uint32_t slot = sieve->list.head; slot != PNX_CACHE_NO_SLOT;
            slot = sieve->links[slot].older)
        found = found || slot == sieve->hand;
    if (!found)
        return "the hand is at a slot that is not in the list";
    return sieve->list.count == held ? NULL : "the list does not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_sieve = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "sieve",
        .description = "a hand that spares what was hit, where it is",
        .memory = sieve_memory,
        .init = sieve_init,
        .grow = sieve_grow,
        .insert = sieve_insert,
        .remove = sieve_remove,
        .victim = sieve_victim,
        .check = sieve_check,
};
