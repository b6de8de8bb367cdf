/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/ttl.c - whatever expires first goes first; what never expires goes after all others, first in first out.
 *
 * A heap of the slots that expire, four children a node, and a list of those that do not.  Where slots have no expiry, as in
 * the simulator, it is first in, first out.
 */
#include "cache/policies/list.h"
#include "cache/policies/policies.h"

#define NOT_TIMED PNX_CACHE_NO_SLOT /* in at */
#define CHILDREN  4

struct ttl {
    struct pnx_cache_policy_wants wants;
    const struct pnx_cache_slots *view;
    struct pnx__slot_link *links; /* of slots that do not expire */
    uint32_t *heap;
    uint32_t *at; /* where a slot is in the heap, or NOT_TIMED */
    uint32_t slots;
    uint32_t timed; /* slots in the heap */
    struct pnx__slot_list list;
    uint32_t reserved;
};

static size_t layout(struct ttl *ttl, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)ttl};
    pnx__layout_take(&l, 1, sizeof(*ttl));
    struct pnx__slot_link *links = pnx__layout_take(&l, slots, sizeof(*links));
    uint32_t *heap = pnx__layout_take(&l, slots, sizeof(*heap));
    uint32_t *at = pnx__layout_take(&l, slots, sizeof(*at));
    if (ttl) {
        ttl->links = links;
        ttl->heap = heap;
        ttl->at = at;
        ttl->slots = slots;
    }
    return pnx__layout_bytes(&l);
}

static size_t ttl_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void ttl_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct ttl *ttl = memory;
    layout(ttl, slots);
    pnx__slot_list_init(&ttl->list);
    ttl->view = params->slots;
}

static void ttl_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    const struct ttl *old = state;
    struct ttl *ttl = memory;
    *ttl = *old;
    layout(ttl, slots);
    for (uint32_t slot = ttl->list.head; slot != PNX_CACHE_NO_SLOT; slot = old->links[slot].older)
        ttl->at[pnx__slot_new(map, slot)] = NOT_TIMED;
    pnx__slot_list_grow(&ttl->list, ttl->links, old->links, map);
    for (uint32_t at = 0; at < old->timed; at++) {
        ttl->heap[at] = pnx__slot_new(map, old->heap[at]);
        ttl->at[ttl->heap[at]] = at;
    }
}

static pnx_ns expires(const struct ttl *ttl, uint32_t slot) {
    return pnx_cache_slot_expires(ttl->view, slot);
}

static void place(struct ttl *ttl, uint32_t at, uint32_t slot) {
    ttl->heap[at] = slot;
    ttl->at[slot] = at;
}

/* Puts a slot at this position, or above. */
static void sift_up(struct ttl *ttl, uint32_t at, uint32_t slot) {
    while (at > 0) {
        uint32_t parent = (at - 1) / CHILDREN;
        if (expires(ttl, ttl->heap[parent]) <= expires(ttl, slot))
            break;
        place(ttl, at, ttl->heap[parent]);
        at = parent;
    }
    place(ttl, at, slot);
}

/* Puts a slot at this position, or below. */
static void sift_down(struct ttl *ttl, uint32_t at, uint32_t slot) {
    for (;;) {
        uint64_t first = (uint64_t)at * CHILDREN + 1;
        if (first >= ttl->timed)
            break;
        uint32_t least = (uint32_t)first;
        for (uint32_t i = least + 1; i < first + CHILDREN && i < ttl->timed; i++) {
            if (expires(ttl, ttl->heap[i]) < expires(ttl, ttl->heap[least]))
                least = i;
        }
        if (expires(ttl, slot) <= expires(ttl, ttl->heap[least]))
            break;
        place(ttl, at, ttl->heap[least]);
        at = least;
    }
    place(ttl, at, slot);
}

static void leave_heap(struct ttl *ttl, uint32_t slot) {
    uint32_t at = ttl->at[slot];
    uint32_t last = ttl->heap[--ttl->timed];
    if (last == slot)
        return;
    if (at > 0 && expires(ttl, last) < expires(ttl, ttl->heap[(at - 1) / CHILDREN]))
        sift_up(ttl, at, last);
    else
        sift_down(ttl, at, last);
}

static void ttl_insert(void *state, uint32_t slot) {
    struct ttl *ttl = state;
    if (expires(ttl, slot) != PNX_NEVER) {
        sift_up(ttl, ttl->timed++, slot);
        return;
    }
    ttl->at[slot] = NOT_TIMED;
    pnx__slot_list_push(&ttl->list, ttl->links, slot);
}

static void ttl_remove(void *state, uint32_t slot) {
    struct ttl *ttl = state;
    if (ttl->at[slot] != NOT_TIMED)
        leave_heap(ttl, slot);
    else
        pnx__slot_list_remove(&ttl->list, ttl->links, slot);
}

static void ttl_expiry(void *state, uint32_t slot) {
    struct ttl *ttl = state;
    bool timed = expires(ttl, slot) != PNX_NEVER;
    if (ttl->at[slot] == NOT_TIMED && !timed)
        return;
    if (ttl->at[slot] == NOT_TIMED || !timed) {
        ttl_remove(ttl, slot);
        ttl_insert(ttl, slot);
        return;
    }
    uint32_t at = ttl->at[slot];
    if (at > 0 && expires(ttl, slot) < expires(ttl, ttl->heap[(at - 1) / CHILDREN]))
        sift_up(ttl, at, slot);
    else
        sift_down(ttl, at, slot);
}

static uint32_t ttl_victim(void *state, uint32_t hash, uint64_t weight) {
    struct ttl *ttl = state;
    (void)hash;
    (void)weight;
    if (ttl->timed == 0)
        return pnx__slot_list_pop(&ttl->list, ttl->links);
    uint32_t slot = ttl->heap[0];
    leave_heap(ttl, slot);
    return slot;
}

static const char *ttl_check(const void *state, uint32_t held) {
    const struct ttl *ttl = state;
    const char *broken = pnx__slot_list_check(&ttl->list, ttl->links, ttl->slots);
    if (broken)
        return broken;
    for (uint32_t i = 0; i < ttl->timed; i++) {
        if (ttl->heap[i] >= ttl->slots || ttl->at[ttl->heap[i]] != i)
            return "a slot does not know where it is in the heap";
        if (i > 0 && expires(ttl, ttl->heap[i]) < expires(ttl, ttl->heap[(i - 1) / CHILDREN]))
            return "the heap is not in order";
    }
    for (uint32_t slot = ttl->list.head; slot != PNX_CACHE_NO_SLOT; slot = ttl->links[slot].older) {
        if (ttl->at[slot] != NOT_TIMED)
            return "a slot is in the list and in the heap";
    }
    return ttl->timed + ttl->list.count == held ? NULL : "heap and list do not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_ttl = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "ttl",
        .description = "what expires first",
        .memory = ttl_memory,
        .init = ttl_init,
        .grow = ttl_grow,
        .insert = ttl_insert,
        .remove = ttl_remove,
        .victim = ttl_victim,
        .expiry = ttl_expiry,
        .check = ttl_check,
};
