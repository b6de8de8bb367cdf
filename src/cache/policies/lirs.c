/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/lirs.c - low inter-reference recency set: entries whose last two uses lie close together stay, whatever scans do.
 *
 * Jiang and Zhang, LIRS: an efficient low inter-reference recency set replacement policy to improve buffer cache
 * performance, SIGMETRICS 2002.
 *
 * LIR entries are 99 % of the capacity and stay; HIR entries are the rest, in a queue, and go first in first out.  The stack
 * has, in order of last use, all LIR entries, and those HIR ones, held or gone, that were used since the oldest LIR one:
 *
 *     new, room among LIR --> LIR <---hit while in the stack, or asked for again--- HIR in the stack, or gone
 *                              |                                                       ^
 *                              +--was the stack's last, as another becomes LIR--> HIR in the queue only
 *
 *   P1  The stack's last entry is LIR, or the stack is empty.
 *   P2  Entries that are gone are in the stack, and at most as many as there are slots: the one longest gone is forgotten first.
 *
 * Entries that are gone have nodes of their own, which are numbered from slots on.
 */
#include "cache/policies/cells.h"
#include "cache/policies/list.h"
#include "cache/policies/policies.h"

#define HIR_SHARE 0.01

/* What a node is; one that is in the stack has STACKED beside. */
enum { LIR = 1, HIR, GONE };
#define STACKED 0x80u

struct lirs {
    struct pnx_cache_policy_wants wants;
    const struct pnx_cache_slots *view;
    struct pnx__slot_link *stack_links; /* of all nodes */
    struct pnx__slot_link *queue_links; /* of all nodes: HIR are in queue, GONE in gone */
    uint8_t *node;
    uint32_t *hashes; /* of nodes from slots on */
    uint32_t slots;
    uint32_t free;  /* first free node of those that were in use, chained by queue_links[].older */
    uint32_t fresh; /* nodes from slots + this on never were */
    struct pnx__slot_list stack;
    struct pnx__slot_list queue; /* HIR slots that are held */
    struct pnx__slot_list gone;
    struct pnx__cells cells;
    uint32_t lirs; /* slots */
    uint64_t lir_weight;
    uint64_t lir_most;
};

static size_t layout(struct lirs *s, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)s};
    uint64_t nodes = 2 * (uint64_t)slots;
    pnx__layout_take(&l, 1, sizeof(*s));
    struct pnx__slot_link *stack_links = pnx__layout_take(&l, nodes, sizeof(*stack_links));
    struct pnx__slot_link *queue_links = pnx__layout_take(&l, nodes, sizeof(*queue_links));
    uint8_t *node = pnx__layout_take(&l, nodes, sizeof(*node));
    uint32_t *hashes = pnx__layout_take(&l, slots, sizeof(*hashes));
    pnx__cells_layout(s ? &s->cells : NULL, &l, slots);
    if (s) {
        s->stack_links = stack_links;
        s->queue_links = queue_links;
        s->node = node;
        s->hashes = hashes;
        s->slots = slots;
    }
    return pnx__layout_bytes(&l);
}

static size_t lirs_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void set_shares(struct lirs *s, uint64_t capacity) {
    uint64_t hir = (uint64_t)((double)capacity * HIR_SHARE);
    s->lir_most = capacity - (hir > 0 ? hir : 1);
}

static void free_node(struct lirs *s, uint32_t node) {
    s->node[node] = 0;
    s->queue_links[node].older = s->free;
    s->free = node;
}

static void lirs_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct lirs *s = memory;
    layout(s, slots);
    pnx__slot_list_init(&s->stack);
    pnx__slot_list_init(&s->queue);
    pnx__slot_list_init(&s->gone);
    s->wants.exact_hits = 1;
    s->view = params->slots;
    s->free = PNX_CACHE_NO_SLOT;
    set_shares(s, params->capacity);
}

/* A node of the old state under its number in the new one. */
static uint32_t renumber(
        const struct lirs *old, const struct lirs *s, const uint32_t *map, uint32_t node) {
    return node < old->slots ? pnx__slot_new(map, node) : node - old->slots + s->slots;
}

static void copy_list(struct pnx__slot_list *to, struct pnx__slot_link *to_links,
        const struct pnx__slot_list *from, const struct pnx__slot_link *from_links,
        const struct lirs *old, const struct lirs *s, const uint32_t *map) {
    pnx__slot_list_init(to);
    for (uint32_t node = from->tail; node != PNX_CACHE_NO_SLOT; node = from_links[node].newer)
        pnx__slot_list_push(to, to_links, renumber(old, s, map, node));
}

static void lirs_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    const struct lirs *old = state;
    struct lirs *s = memory;
    *s = *old;
    layout(s, slots);
    for (uint32_t slot = 0; slot < old->slots; slot++) {
        uint32_t now = pnx__slot_new(map, slot);
        if (now != PNX_CACHE_NO_SLOT)
            s->node[now] = old->node[slot];
    }
    memcpy(s->node + slots, old->node + old->slots, old->fresh);
    memcpy(s->hashes, old->hashes, old->fresh * sizeof(*old->hashes));
    copy_list(&s->stack, s->stack_links, &old->stack, old->stack_links, old, s, map);
    copy_list(&s->queue, s->queue_links, &old->queue, old->queue_links, old, s, map);
    copy_list(&s->gone, s->queue_links, &old->gone, old->queue_links, old, s, map);
    s->free = PNX_CACHE_NO_SLOT;
    for (uint32_t i = s->fresh; i-- > 0;) {
        if (s->node[slots + i] == 0)
            free_node(s, slots + i);
        else
            pnx__cells_put(&s->cells, s->hashes, i);
    }
}

static uint64_t weight_of(const struct lirs *s, uint32_t slot) {
    return pnx_cache_slot_weight(s->view, slot);
}

static uint32_t kind(const struct lirs *s, uint32_t node) {
    return s->node[node] & ~STACKED;
}

static void stack_push(struct lirs *s, uint32_t node) {
    s->node[node] |= STACKED;
    pnx__slot_list_push(&s->stack, s->stack_links, node);
}

static void stack_remove(struct lirs *s, uint32_t node) {
    s->node[node] &= (uint8_t)~STACKED;
    pnx__slot_list_remove(&s->stack, s->stack_links, node);
}

/* Forgets an entry that is gone. */
static void forget(struct lirs *s, uint32_t node) {
    stack_remove(s, node);
    pnx__slot_list_remove(&s->gone, s->queue_links, node);
    pnx__cells_clear(
            &s->cells, s->hashes, pnx__cells_find_number(&s->cells, s->hashes, node - s->slots));
    free_node(s, node);
}

/* P1 again. */
static void prune(struct lirs *s) {
    for (;;) {
        uint32_t node = s->stack.tail;
        if (node == PNX_CACHE_NO_SLOT || kind(s, node) == LIR)
            return;
        if (kind(s, node) == GONE)
            forget(s, node);
        else
            stack_remove(s, node);
    }
}

static void become_hir(struct lirs *s, uint32_t slot) {
    s->node[slot] = (uint8_t)(HIR | (s->node[slot] & STACKED));
    pnx__slot_list_push(&s->queue, s->queue_links, slot);
}

/* Takes LIR entries from the end of the stack into the queue until LIR has no more than its share. */
static void demote(struct lirs *s) {
    while (s->lir_weight > s->lir_most && s->stack.tail != PNX_CACHE_NO_SLOT) {
        uint32_t slot = s->stack.tail;
        s->lir_weight -= weight_of(s, slot);
        s->lirs--;
        stack_remove(s, slot);
        become_hir(s, slot);
        prune(s);
    }
    prune(s);
}

/* The slot, in no list, becomes LIR. */
static void become_lir(struct lirs *s, uint32_t slot) {
    s->node[slot] = LIR;
    s->lir_weight += weight_of(s, slot);
    s->lirs++;
    stack_push(s, slot);
    demote(s);
}

static bool lir_has_room(const struct lirs *s, uint32_t slot) {
    return s->lir_weight + weight_of(s, slot) <= s->lir_most;
}

static void lirs_insert(void *state, uint32_t slot) {
    struct lirs *s = state;
    uint32_t cell = pnx__cells_find(&s->cells, s->hashes, pnx_cache_slot_hash(s->view, slot));
    if (cell != PNX__CELL_NONE)
        forget(s, pnx__cells_number(&s->cells, cell) + s->slots);
    if (cell != PNX__CELL_NONE || lir_has_room(s, slot)) {
        become_lir(s, slot);
        return;
    }
    s->node[slot] = 0;
    become_hir(s, slot);
    stack_push(s, slot);
    prune(s);
}

static void lirs_hit(void *state, uint32_t slot) {
    struct lirs *s = state;
    if (kind(s, slot) == LIR) {
        pnx__slot_list_to_head(&s->stack, s->stack_links, slot);
        prune(s);
        return;
    }
    pnx__slot_list_remove(&s->queue, s->queue_links, slot);
    bool stacked = s->node[slot] & STACKED;
    if (stacked)
        stack_remove(s, slot);
    if (stacked || lir_has_room(s, slot)) {
        become_lir(s, slot);
        return;
    }
    become_hir(s, slot);
    stack_push(s, slot);
    prune(s);
}

static void lirs_remove(void *state, uint32_t slot) {
    struct lirs *s = state;
    if (kind(s, slot) == LIR) {
        s->lir_weight -= weight_of(s, slot);
        s->lirs--;
    } else {
        pnx__slot_list_remove(&s->queue, s->queue_links, slot);
    }
    if (s->node[slot] & STACKED)
        stack_remove(s, slot);
    prune(s);
}

static void lirs_reweigh(void *state, uint32_t slot, uint64_t from) {
    struct lirs *s = state;
    if (kind(s, slot) != LIR)
        return;
    s->lir_weight += weight_of(s, slot) - from;
    demote(s);
}

static uint32_t take_node(struct lirs *s) {
    if (s->free == PNX_CACHE_NO_SLOT && s->fresh < s->slots)
        return s->slots + s->fresh++;
    if (s->free == PNX_CACHE_NO_SLOT)
        forget(s, s->gone.tail);
    uint32_t node = s->free;
    s->free = s->queue_links[node].older;
    return node;
}

/* The slot's place in the stack is its node's from now on. */
static void remember(struct lirs *s, uint32_t slot) {
    uint32_t node = take_node(s);
    s->node[node] = GONE | STACKED;
    s->hashes[node - s->slots] = pnx_cache_slot_hash(s->view, slot);
    pnx__slot_list_replace(&s->stack, s->stack_links, slot, node);
    pnx__slot_list_push(&s->gone, s->queue_links, node);
    pnx__cells_put(&s->cells, s->hashes, node - s->slots);
}

static uint32_t lirs_victim(void *state, uint32_t hash, uint64_t weight) {
    struct lirs *s = state;
    uint32_t slot = s->queue.tail;
    (void)hash;
    (void)weight;
    if (slot == PNX_CACHE_NO_SLOT) {
        slot = s->stack.tail;
        if (slot != PNX_CACHE_NO_SLOT)
            lirs_remove(s, slot);
        return slot;
    }
    pnx__slot_list_remove(&s->queue, s->queue_links, slot);
    if (s->node[slot] & STACKED)
        remember(s, slot);
    return slot;
}

static void lirs_resize(void *state, uint64_t capacity) {
    struct lirs *s = state;
    set_shares(s, capacity);
    demote(s);
}

static const char *check_stack(const struct lirs *s) {
    uint32_t lirs = 0, gone = 0;
    uint64_t weight = 0;
    for (uint32_t node = s->stack.head; node != PNX_CACHE_NO_SLOT;
            node = s->stack_links[node].older) {
        if (!(s->node[node] & STACKED))
            return "a node of the stack does not say so";
        gone += kind(s, node) == GONE;
        if (kind(s, node) != LIR)
            continue;
        lirs++;
        weight += weight_of(s, node);
    }
    if (lirs != s->lirs || weight != s->lir_weight)
        return "LIR entries are not those in the stack";
    if (gone != s->gone.count || gone != s->cells.count)
        return "entries that are gone are not those in the stack";
    if (s->stack.tail != PNX_CACHE_NO_SLOT && kind(s, s->stack.tail) != LIR)
        return "the stack's last entry is not LIR";
    return NULL;
}

static const char *lirs_check(const void *state, uint32_t held) {
    const struct lirs *s = state;
    const char *broken = pnx__slot_list_check(&s->stack, s->stack_links, 2 * s->slots);
    if (!broken)
        broken = pnx__slot_list_check(&s->queue, s->queue_links, s->slots);
    if (!broken)
        broken = pnx__slot_list_check(&s->gone, s->queue_links, 2 * s->slots);
    if (!broken)
        broken = check_stack(s);
    if (broken)
        return broken;
    if (s->lir_weight > s->lir_most)
        return "LIR entries are above their share";
    return s->lirs + s->queue.count == held ? NULL : "LIR and HIR are not the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_lirs = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "lirs",
        .description = "low inter-reference recency set",
        .flags = PNX_CACHE_POLICY_HASH,
        .memory = lirs_memory,
        .init = lirs_init,
        .grow = lirs_grow,
        .insert = lirs_insert,
        .hit = lirs_hit,
        .remove = lirs_remove,
        .victim = lirs_victim,
        .resize = lirs_resize,
        .reweigh = lirs_reweigh,
        .check = lirs_check,
};
