/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/s3_fifo.c - three first-in first-out queues: a small one for what is new, a main one for what was hit while it
 * was in the small one, and a ghost of what was not.
 *
 * Yang, Zhang, Qiu, Yue and Rashmi, FIFO queues are all you need for cache eviction, SOSP 2023.
 *
 *     new --> small (10 %) --2 hits or more--> main (90 %) <--+ hit: again, with a hit less
 *               |                                |  +---------+
 *               +--> ghost --asked for again-->--+  +--> gone
 *
 * Hits only count, up to 3.  The main queue's tail goes when main is above its share or small is empty, else small's.
 * The ghost has as many hashes as main has entries.  In bytes the shares are shares of bytes, and no entry is too
 * large for small: it may be above its share for as long as it takes.
 *
 *   P1  weight[SMALL] + weight[MAIN] = the weight of all held slots.
 */
#include "cache/policies/ghost.h"
#include "cache/policies/policies.h"
#include "cache/policies/ring.h"

enum { SMALL, MAIN };

#define HIT_MAX    3
#define PROMOTE_AT 2
#define IN_MAIN    0x8000u /* in a slot's mark */

struct s3_fifo {
    struct pnx_cache_policy_wants wants;
    const struct pnx_cache_slots *view;
    uint64_t capacity;
    uint64_t main_share;
    uint64_t weight[2];
    uint32_t kind;
    uint32_t incoming; /* hash of what room is being made for */
    bool expected;     /* ... if there is such */
    bool known;        /* its hash was in the ghost */
    struct pnx__rings rings;
    struct pnx__ghost ghost;
};

static size_t layout(struct s3_fifo *s3, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)s3};
    pnx__layout_take(&l, 1, sizeof(*s3));
    pnx__rings_layout(s3 ? &s3->rings : NULL, &l, slots);
    pnx__ghost_layout(s3 ? &s3->ghost : NULL, &l, slots);
    return pnx__layout_bytes(&l);
}

static size_t s3_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

/* At least one entry, or byte, is small's: else nothing new would ever come to main. */
static void s3_resize(void *state, uint64_t capacity) {
    struct s3_fifo *s3 = state;
    uint64_t small = capacity / 10 > 0 ? capacity / 10 : 1;
    s3->capacity = capacity;
    s3->main_share = capacity - small;
}

static void s3_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct s3_fifo *s3 = memory;
    layout(s3, slots);
    pnx__rings_init(&s3->rings, 2);
    s3->wants.hit_max = HIT_MAX;
    s3->view = params->slots;
    s3->kind = params->kind;
    s3_resize(s3, params->capacity);
}

static void s3_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    struct s3_fifo *old = state;
    struct s3_fifo *s3 = memory;
    *s3 = *old;
    layout(s3, slots);
    pnx__rings_grow(&s3->rings, &old->rings, map);
    pnx__ghost_copy(&s3->ghost, &old->ghost);
}

static bool in_main(const struct s3_fifo *s3, uint32_t slot) {
    return s3->rings.marks[slot] & IN_MAIN;
}

static void push(struct s3_fifo *s3, uint32_t queue, uint32_t slot) {
    uint32_t mark = s3->rings.marks[slot] & ~IN_MAIN;
    s3->rings.marks[slot] = (uint16_t)(queue == MAIN ? mark | IN_MAIN : mark);
    s3->weight[queue] += pnx_cache_slot_weight(s3->view, slot);
    pnx__ring_push(&s3->rings, queue, slot);
}

static uint32_t pop(struct s3_fifo *s3, uint32_t queue) {
    uint32_t slot = pnx__ring_pop(&s3->rings, queue);
    if (slot != PNX_CACHE_NO_SLOT)
        s3->weight[queue] -= pnx_cache_slot_weight(s3->view, slot);
    return slot;
}

/* Looks for what comes in the ghost, once: before room is made for it, which drops the ghost's oldest. */
static void expect(struct s3_fifo *s3, uint32_t hash) {
    if (s3->expected && s3->incoming == hash)
        return;
    s3->expected = true;
    s3->incoming = hash;
    s3->known = pnx__ghost_take(&s3->ghost, hash);
}

static void s3_insert(void *state, uint32_t slot) {
    struct s3_fifo *s3 = state;
    expect(s3, pnx_cache_slot_hash(s3->view, slot));
    s3->expected = false;
    pnx_cache_slot_set_hits(s3->view, slot, 0);
    push(s3, s3->known ? MAIN : SMALL, slot);
}

static void s3_remove(void *state, uint32_t slot) {
    struct s3_fifo *s3 = state;
    uint32_t queue = in_main(s3, slot) ? MAIN : SMALL;
    s3->weight[queue] -= pnx_cache_slot_weight(s3->view, slot);
    pnx__ring_remove(&s3->rings, queue, slot);
}

static void s3_reweigh(void *state, uint32_t slot, uint64_t from) {
    struct s3_fifo *s3 = state;
    s3->weight[in_main(s3, slot) ? MAIN : SMALL] += pnx_cache_slot_weight(s3->view, slot) - from;
}

/* As many as main has entries when it has its share: those there are, in proportion, where entries have weights. */
static uint64_t ghost_limit(const struct s3_fifo *s3) {
    if (s3->kind == PNX_CACHE_CAPACITY_ENTRIES)
        return s3->main_share;
    uint32_t held = s3->rings.queue[SMALL].count + s3->rings.queue[MAIN].count;
    return (uint64_t)((double)held * ((double)s3->main_share / (double)s3->capacity));
}

/* Takes main's oldest that was not hit; the others go round, each with a hit less.  Readers may count hits
 * as fast as they are taken off: no more rounds than hits count up to. */
static uint32_t evict_main(struct s3_fifo *s3) {
    uint64_t left = (uint64_t)s3->rings.queue[MAIN].count * HIT_MAX;
    for (;; left--) {
        uint32_t slot = pop(s3, MAIN);
        if (slot == PNX_CACHE_NO_SLOT)
            return slot;
        uint32_t hits = pnx_cache_slot_hits(s3->view, slot);
        if (left == 0 || hits == 0)
            return slot;
        pnx_cache_slot_set_hits(s3->view, slot, (hits < HIT_MAX ? hits : HIT_MAX) - 1);
        push(s3, MAIN, slot);
    }
}

/* Takes small's oldest that was not hit often enough; the others move to main.  NO_SLOT when all do. */
static uint32_t evict_small(struct s3_fifo *s3) {
    for (;;) {
        uint32_t slot = pop(s3, SMALL);
        if (slot == PNX_CACHE_NO_SLOT)
            return slot;
        if (pnx_cache_slot_hits(s3->view, slot) < PROMOTE_AT) {
            pnx__ghost_push(&s3->ghost, pnx_cache_slot_hash(s3->view, slot), ghost_limit(s3));
            return slot;
        }
        pnx_cache_slot_set_hits(s3->view, slot, 0);
        push(s3, MAIN, slot);
    }
}

static uint32_t s3_victim(void *state, uint32_t hash, uint64_t weight) {
    struct s3_fifo *s3 = state;
    uint32_t slot = PNX_CACHE_NO_SLOT;
    if (weight > 0)
        expect(s3, hash);
    if (s3->weight[MAIN] <= s3->main_share)
        slot = evict_small(s3);
    return slot != PNX_CACHE_NO_SLOT ? slot : evict_main(s3);
}

static const char *s3_check(const void *state, uint32_t held) {
    const struct s3_fifo *s3 = state;
    const char *broken = pnx__ring_check(&s3->rings, SMALL);
    if (!broken)
        broken = pnx__ring_check(&s3->rings, MAIN);
    if (!broken)
        broken = pnx__ghost_check(&s3->ghost);
    if (broken)
        return broken;
    uint32_t count = s3->rings.queue[SMALL].count + s3->rings.queue[MAIN].count;
    return count == held ? NULL : "the queues do not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_s3_fifo = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "s3-fifo",
        .description = "small, main and ghost queues, first in, first out",
        .flags = PNX_CACHE_POLICY_HASH,
        .memory = s3_memory,
        .init = s3_init,
        .grow = s3_grow,
        .insert = s3_insert,
        .remove = s3_remove,
        .victim = s3_victim,
        .resize = s3_resize,
        .reweigh = s3_reweigh,
        .check = s3_check,
};
