/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/lru.c - least recently used, exactly: a hit moves an entry to the front, the last one goes.
 *
 * Mattson, Gecsei, Slutz and Traiger, Evaluation techniques for storage hierarchies, IBM Systems Journal, 1970.
 */
#include "cache/policies/list.h"
#include "cache/policies/policies.h"

struct lru {
    struct pnx_cache_policy_wants wants;
    struct pnx__slot_list list;
    struct pnx__slot_link *links;
    uint32_t slots;
};

static size_t layout(struct lru *lru, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)lru};
    pnx__layout_take(&l, 1, sizeof(*lru));
    struct pnx__slot_link *links = pnx__layout_take(&l, slots, sizeof(*links));
    if (lru) {
        lru->links = links;
        lru->slots = slots;
    }
    return pnx__layout_bytes(&l);
}

static size_t lru_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void lru_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct lru *lru = memory;
    (void)params;
    layout(lru, slots);
    pnx__slot_list_init(&lru->list);
    lru->wants.exact_hits = 1;
}

static void lru_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    const struct lru *old = state;
    struct lru *lru = memory;
    *lru = *old;
    layout(lru, slots);
    pnx__slot_list_grow(&lru->list, lru->links, old->links, map);
}

static void lru_insert(void *state, uint32_t slot) {
    struct lru *lru = state;
    pnx__slot_list_push(&lru->list, lru->links, slot);
}

static void lru_hit(void *state, uint32_t slot) {
    struct lru *lru = state;
    pnx__slot_list_to_head(&lru->list, lru->links, slot);
}

static void lru_remove(void *state, uint32_t slot) {
    struct lru *lru = state;
    pnx__slot_list_remove(&lru->list, lru->links, slot);
}

static uint32_t lru_victim(void *state, uint32_t hash, uint64_t weight) {
    struct lru *lru = state;
    (void)hash;
    (void)weight;
    return pnx__slot_list_pop(&lru->list, lru->links);
}

static const char *lru_check(const void *state, uint32_t held) {
    const struct lru *lru = state;
    const char *broken = pnx__slot_list_check(&lru->list, lru->links, lru->slots);
    if (broken)
        return broken;
    return lru->list.count == held ? NULL : "the list does not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_lru = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "lru",
        .description = "least recently used",
        .memory = lru_memory,
        .init = lru_init,
        .grow = lru_grow,
        .insert = lru_insert,
        .hit = lru_hit,
        .remove = lru_remove,
        .victim = lru_victim,
        .check = lru_check,
};
