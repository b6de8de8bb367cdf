/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/list.h - doubly-linked lists of slots: 8 bytes of links for each, in one table for all lists.
 *
 *     head: newest  --older-->  ...  --older-->  tail: oldest
 */
#ifndef PNX_SRC_CACHE_POLICIES_LIST_H
#define PNX_SRC_CACHE_POLICIES_LIST_H

#include "cache/policies/layout.h"

#include <patinox/cache_policy.h>

struct pnx__slot_link {
    uint32_t newer; /* NO_SLOT at the head */
    uint32_t older; /* NO_SLOT at the tail */
};

/* A slot's links belong to the one list that it is in. */
struct pnx__slot_list {
    uint32_t head;
    uint32_t tail;
    uint32_t count;
};

static inline void pnx__slot_list_init(struct pnx__slot_list *list) {
    list->head = list->tail = PNX_CACHE_NO_SLOT;
    list->count = 0;
}

/* Puts the slot at the head, as the newest. */
static inline void pnx__slot_list_push(
        struct pnx__slot_list *list, struct pnx__slot_link *links, uint32_t slot) {
    links[slot] = (struct pnx__slot_link){.newer = PNX_CACHE_NO_SLOT, .older = list->head};
    if (list->head == PNX_CACHE_NO_SLOT)
        list->tail = slot;
    else
        links[list->head].newer = slot;
    list->head = slot;
    list->count++;
}

/* Puts the slot at the tail, as the oldest. */
static inline void pnx__slot_list_push_oldest(
        struct pnx__slot_list *list, struct pnx__slot_link *links, uint32_t slot) {
    links[slot] = (struct pnx__slot_link){.newer = list->tail, .older = PNX_CACHE_NO_SLOT};
    if (list->tail == PNX_CACHE_NO_SLOT)
        list->head = slot;
    else
        links[list->tail].older = slot;
    list->tail = slot;
    list->count++;
}

/* Makes the neighbours of a slot, and the ends, name others instead. */
static inline void pnx__slot_list_relink(struct pnx__slot_list *list, struct pnx__slot_link *links,
        uint32_t slot, uint32_t for_newer, uint32_t for_older) {
    const struct pnx__slot_link *link = &links[slot];
    if (link->newer == PNX_CACHE_NO_SLOT)
        list->head = for_newer;
    else
        links[link->newer].older = for_newer;
    if (link->older == PNX_CACHE_NO_SLOT)
        list->tail = for_older;
    else
        links[link->older].newer = for_older;
}

static inline void pnx__slot_list_remove(
        struct pnx__slot_list *list, struct pnx__slot_link *links, uint32_t slot) {
    pnx__slot_list_relink(list, links, slot, links[slot].older, links[slot].newer);
    list->count--;
}

/* Puts another slot in the place of one. */
static inline void pnx__slot_list_replace(
        struct pnx__slot_list *list, struct pnx__slot_link *links, uint32_t slot, uint32_t with) {
    links[with] = links[slot];
    pnx__slot_list_relink(list, links, slot, with, with);
}

static inline void pnx__slot_list_to_head(
        struct pnx__slot_list *list, struct pnx__slot_link *links, uint32_t slot) {
    if (list->head == slot)
        return;
    pnx__slot_list_remove(list, links, slot);
    pnx__slot_list_push(list, links, slot);
}

/* Takes the oldest out; NO_SLOT when there is none. */
static inline uint32_t pnx__slot_list_pop(
        struct pnx__slot_list *list, struct pnx__slot_link *links) {
    uint32_t slot = list->tail;
    if (slot != PNX_CACHE_NO_SLOT)
        pnx__slot_list_remove(list, links, slot);
    return slot;
}

/* Returns what is broken, or NULL.  slots: how many there may be. */
static inline const char *pnx__slot_list_check(
        const struct pnx__slot_list *list, const struct pnx__slot_link *links, uint32_t slots) {
    uint32_t newer = PNX_CACHE_NO_SLOT;
    uint32_t n = 0;
    for (uint32_t slot = list->head; slot != PNX_CACHE_NO_SLOT; slot = links[slot].older) {
        if (slot >= slots)
            return "a list holds a slot that there is not";
        if (links[slot].newer != newer)
            return "a list's links do not agree";
        if (++n > list->count)
            return "a list holds more slots than it counts";
        newer = slot;
    }
    if (list->tail != newer)
        return "a list's tail is not its last slot";
    return n == list->count ? NULL : "a list holds fewer slots than it counts";
}

/* What a slot is called from now on; map: see grow in patinox/cache_policy.h. */
static inline uint32_t pnx__slot_new(const uint32_t *map, uint32_t slot) {
    return map && slot != PNX_CACHE_NO_SLOT ? map[slot] : slot;
}

/* Makes the same list in a larger table of links. */
static inline void pnx__slot_list_grow(struct pnx__slot_list *list, struct pnx__slot_link *links,
        const struct pnx__slot_link *from, const uint32_t *map) {
    for (uint32_t slot = list->head; slot != PNX_CACHE_NO_SLOT; slot = from[slot].older)
        links[pnx__slot_new(map, slot)] = (struct pnx__slot_link){
                .newer = pnx__slot_new(map, from[slot].newer),
                .older = pnx__slot_new(map, from[slot].older),
        };
    list->head = pnx__slot_new(map, list->head);
    list->tail = pnx__slot_new(map, list->tail);
}

#endif
