/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/lfu.c - least frequently used, with ageing: each call takes constant time.
 *
 * Arlitt, Cherkasova, Dilley, Friedrich and Jin, Evaluating content management techniques for web proxy caches,
 * 1999 (LFU-DA); buckets instead of a heap as in Shah, Mitra and Matani, An O(1) algorithm for implementing the LFU
 * cache eviction scheme, 2010.
 *
 * An entry's priority is age + frequency, as of its last use.  The entry of lowest priority goes, of several the one
 * that has had it longest, and its priority becomes the age.  Frequencies end at 255: so all priorities lie
 * in [age, age + 255], and one ring of 256 lists, indexed by the priority modulo 256, holds every entry in order.
 */
#include "cache/policies/list.h"
#include "cache/policies/policies.h"

#define BUCKETS       256u
#define FREQUENCY_MAX 255u

struct lfu_slot {
    uint8_t frequency; /* 1 to FREQUENCY_MAX */
    uint8_t bucket;
};

/* Bit b of present: bucket b is not empty. */
struct lfu {
    struct pnx_cache_policy_wants wants;
    struct pnx__slot_link *links;
    struct lfu_slot *of;
    uint32_t slots;
    uint32_t age; /* modulo BUCKETS */
    uint64_t present[BUCKETS / 64];
    struct pnx__slot_list bucket[BUCKETS];
};

static size_t layout(struct lfu *lfu, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)lfu};
    pnx__layout_take(&l, 1, sizeof(*lfu));
    struct pnx__slot_link *links = pnx__layout_take(&l, slots, sizeof(*links));
    struct lfu_slot *of = pnx__layout_take(&l, slots, sizeof(*of));
    if (lfu) {
        lfu->links = links;
        lfu->of = of;
        lfu->slots = slots;
    }
    return pnx__layout_bytes(&l);
}

static size_t lfu_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void lfu_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct lfu *lfu = memory;
    (void)params;
    layout(lfu, slots);
    for (uint32_t i = 0; i < BUCKETS; i++)
        pnx__slot_list_init(&lfu->bucket[i]);
    lfu->wants.exact_hits = 1;
}

static void lfu_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    const struct lfu *old = state;
    struct lfu *lfu = memory;
    *lfu = *old;
    layout(lfu, slots);
    for (uint32_t b = 0; b < BUCKETS; b++) {
        for (uint32_t slot = lfu->bucket[b].head; slot != PNX_CACHE_NO_SLOT;
                slot = old->links[slot].older)
            lfu->of[pnx__slot_new(map, slot)] = old->of[slot];
        pnx__slot_list_grow(&lfu->bucket[b], lfu->links, old->links, map);
    }
}

static void enter(struct lfu *lfu, uint32_t slot, uint32_t frequency) {
    uint32_t bucket = (lfu->age + frequency) % BUCKETS;
    lfu->of[slot] = (struct lfu_slot){(uint8_t)frequency, (uint8_t)bucket};
    lfu->present[bucket / 64] |= UINT64_C(1) << bucket % 64;
    pnx__slot_list_push(&lfu->bucket[bucket], lfu->links, slot);
}

static void leave(struct lfu *lfu, uint32_t slot) {
    uint32_t bucket = lfu->of[slot].bucket;
    pnx__slot_list_remove(&lfu->bucket[bucket], lfu->links, slot);
    if (lfu->bucket[bucket].count == 0)
        lfu->present[bucket / 64] &= ~(UINT64_C(1) << bucket % 64);
}

static void lfu_insert(void *state, uint32_t slot) {
    enter(state, slot, 1);
}

static void lfu_hit(void *state, uint32_t slot) {
    struct lfu *lfu = state;
    uint32_t frequency = lfu->of[slot].frequency;
    leave(lfu, slot);
    enter(lfu, slot, frequency < FREQUENCY_MAX ? frequency + 1 : frequency);
}

static void lfu_remove(void *state, uint32_t slot) {
    leave(state, slot);
}

/* The first bucket from the age on that is not empty, around the end; BUCKETS when all are. */
static uint32_t lowest(const struct lfu *lfu) {
    const uint32_t words = BUCKETS / 64;
    for (uint32_t i = 0; i <= words; i++) {
        uint32_t word = (lfu->age / 64 + i) % words;
        uint64_t bits = lfu->present[word];
        uint64_t from_age = ~UINT64_C(0) << lfu->age % 64;
        if (i == 0)
            bits &= from_age;
        else if (i == words)
            bits &= ~from_age;
        if (bits != 0)
            return word * 64 + (uint32_t)__builtin_ctzll(bits);
    }
    return BUCKETS;
}

static uint32_t lfu_victim(void *state, uint32_t hash, uint64_t weight) {
    struct lfu *lfu = state;
    uint32_t bucket = lowest(lfu);
    (void)hash;
    (void)weight;
    if (bucket == BUCKETS)
        return PNX_CACHE_NO_SLOT;
    uint32_t slot = lfu->bucket[bucket].tail;
    leave(lfu, slot);
    lfu->age = bucket;
    return slot;
}

static const char *lfu_check(const void *state, uint32_t held) {
    const struct lfu *lfu = state;
    uint32_t count = 0;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        const struct pnx__slot_list *list = &lfu->bucket[i];
        const char *broken = pnx__slot_list_check(list, lfu->links, lfu->slots);
        if (broken)
            return broken;
        if ((list->count > 0) != ((lfu->present[i / 64] >> i % 64 & 1) != 0))
            return "a bucket's bit does not tell whether it is empty";
        for (uint32_t slot = list->head; slot != PNX_CACHE_NO_SLOT; slot = lfu->links[slot].older) {
            if (lfu->of[slot].bucket != i || lfu->of[slot].frequency == 0)
                return "a slot is in another bucket than it says";
        }
        count += list->count;
    }
    return count == held ? NULL : "the buckets do not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_lfu = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "lfu",
        .description = "least frequently used, with ageing",
        .memory = lfu_memory,
        .init = lfu_init,
        .grow = lfu_grow,
        .insert = lfu_insert,
        .hit = lfu_hit,
        .remove = lfu_remove,
        .victim = lfu_victim,
        .check = lfu_check,
};
