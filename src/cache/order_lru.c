/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/order_lru.c - exact least recently used: one list, a hit moves to its head, the tail goes first.
 *
 *   P1  The list holds each live slot once, in the order of last use.
 */
#include "cache/index.h"

#include <assert.h>

struct lru_word {
    uint32_t newer; /* NONE at the head */
    uint32_t older; /* NONE at the tail */
};

struct lru_state {
    uint32_t head;
    uint32_t tail;
};

static_assert(sizeof(struct lru_word) <= PNX_CACHE_ORDER_WORD, "the index share counts it");
static_assert(sizeof(struct lru_state) <= PNX_CACHE_ORDER_STATE, "the cache has room for it");

static struct lru_word *word(const struct pnx_cache_index *ix, uint32_t slot) {
    return pnx__cache_policy_word(ix, slot);
}

static void lru_init(void *state) {
    struct lru_state *lru = state;
    lru->head = lru->tail = PNX_CACHE_NONE;
}

static void lru_insert(struct pnx_cache_index *ix, void *state, uint32_t slot) {
    struct lru_state *lru = state;
    struct lru_word *w = word(ix, slot);
    w->newer = PNX_CACHE_NONE;
    w->older = lru->head;
    if (lru->head == PNX_CACHE_NONE)
        lru->tail = slot;
    else
        word(ix, lru->head)->newer = slot;
    lru->head = slot;
}

/* Makes the neighbours of w, and the ends, name another slot instead. */
static void relink(struct pnx_cache_index *ix, struct lru_state *lru, const struct lru_word *w,
        uint32_t for_newer, uint32_t for_older) {
    if (w->newer == PNX_CACHE_NONE)
        lru->head = for_newer;
    else
        word(ix, w->newer)->older = for_newer;
    if (w->older == PNX_CACHE_NONE)
        lru->tail = for_older;
    else
        word(ix, w->older)->newer = for_older;
}

static void lru_remove(struct pnx_cache_index *ix, void *state, uint32_t slot) {
    const struct lru_word *w = word(ix, slot);
    relink(ix, state, w, w->older, w->newer);
}

static void lru_hit(struct pnx_cache_index *ix, void *state, uint32_t slot) {
    const struct lru_state *lru = state;
    if (lru->head == slot)
        return;
    lru_remove(ix, state, slot);
    lru_insert(ix, state, slot);
}

static void lru_move(struct pnx_cache_index *ix, void *state, uint32_t from, uint32_t to) {
    struct lru_word *w = word(ix, to);
    *w = *word(ix, from);
    relink(ix, state, w, to, to);
}

static uint32_t lru_victim(const struct pnx_cache_index *ix, const void *state) {
    const struct lru_state *lru = state;
    (void)ix;
    return lru->tail;
}

static const char *lru_check(const struct pnx_cache_index *ix, const void *state) {
    const struct lru_state *lru = state;
    uint32_t n = 0;
    uint32_t newer = PNX_CACHE_NONE;
    for (uint32_t slot = lru->head; slot != PNX_CACHE_NONE; slot = word(ix, slot)->older) {
        if (slot >= ix->used || !pnx__cache_slot(ix, slot)->entry)
            return "the LRU list holds a slot that is not live";
        if (word(ix, slot)->newer != newer)
            return "the LRU list's links do not agree";
        if (++n > ix->live)
            return "the LRU list holds more slots than are live";
        newer = slot;
    }
    if (lru->tail != newer)
        return "the LRU list's tail is not its last slot";
    return n == ix->live ? NULL : "the LRU list lacks live slots";
}

const struct pnx_cache_order pnx__cache_order_lru = {
        .name = "lru",
        .word_bytes = sizeof(struct lru_word),
        .init = lru_init,
        .insert = lru_insert,
        .hit = lru_hit,
        .remove = lru_remove,
        .move = lru_move,
        .victim = lru_victim,
        .check = lru_check,
};
