/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/list.h - intrusive circular doubly-linked lists.
 *
 * A list is a link that points at itself when empty; an element embeds a link.  A link that is on no
 * list is zeroed (next == NULL), so that pnx__list_linked() is exact.  No function allocates.
 */
#ifndef PNX_SRC_BASE_LIST_H
#define PNX_SRC_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct pnx_link {
    struct pnx_link *next;
    struct pnx_link *prev;
};

#define PNX_CONTAINER(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

static inline void pnx__list_init(struct pnx_link *list) {
    list->next = list;
    list->prev = list;
}

static inline bool pnx__list_empty(const struct pnx_link *list) {
    return list->next == list;
}

static inline bool pnx__list_linked(const struct pnx_link *link) {
    return link->next != NULL;
}

static inline void pnx__list_insert_(
        struct pnx_link *link, struct pnx_link *prev, struct pnx_link *next) {
    link->prev = prev;
    link->next = next;
    prev->next = link;
    next->prev = link;
}

static inline void pnx__list_push_front(struct pnx_link *list, struct pnx_link *link) {
    pnx__list_insert_(link, list, list->next);
}

static inline void pnx__list_push_back(struct pnx_link *list, struct pnx_link *link) {
    pnx__list_insert_(link, list->prev, list);
}

/* Takes the link off its list; one that is on no list stays so. */
static inline void pnx__list_remove(struct pnx_link *link) {
    if (!link->next)
        return;
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->next = NULL;
    link->prev = NULL;
}

/* Returns the first link, or NULL when the list is empty. */
static inline struct pnx_link *pnx__list_first(const struct pnx_link *list) {
    return list->next == list ? NULL : list->next;
}

static inline struct pnx_link *pnx__list_last(const struct pnx_link *list) {
    return list->prev == list ? NULL : list->prev;
}

static inline struct pnx_link *pnx__list_pop_front(struct pnx_link *list) {
    struct pnx_link *link = pnx__list_first(list);
    if (link)
        pnx__list_remove(link);
    return link;
}

/* Walks while elements may be removed: the current one only. */
#define PNX_LIST_EACH(link, after, list) \
    for (struct pnx_link *link = (list)->next, *after = link->next; link != (list); \
            link = after, after = link->next)

#endif
