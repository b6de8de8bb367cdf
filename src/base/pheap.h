/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/pheap.h - an intrusive pairing heap over times: the earliest first, no allocation, any element may leave.
 *
 * Fredman, Sedgewick, Sleator, Tarjan 1986.  An element embeds a struct pnx_heap_node; one that is in no heap has
 * prev == NULL.  Insert is O(1), removal O(log n) amortised.
 */
#ifndef PNX_SRC_BASE_PHEAP_H
#define PNX_SRC_BASE_PHEAP_H

#include <patinox/base.h>

#include <stdbool.h>
#include <stddef.h>

struct pnx_heap_node {
    pnx_ns at;
    struct pnx_heap_node *child; /* the first one */
    struct pnx_heap_node *next;  /* sibling */
    struct pnx_heap_node *prev;  /* sibling, or the parent for the first one; the root: itself */
};

struct pnx_heap {
    struct pnx_heap_node *root;
};

static inline bool pnx__heap_has(const struct pnx_heap_node *node) {
    return node->prev != NULL;
}

/* Makes the later one the first child of the other; both have no siblings. */
static inline struct pnx_heap_node *pnx__heap_meld_(
        struct pnx_heap_node *a, struct pnx_heap_node *b) {
    if (!a || !b)
        return a ? a : b;
    if (b->at < a->at) {
        struct pnx_heap_node *swap = a;
        a = b;
        b = swap;
    }
    b->next = a->child;
    if (b->next)
        b->next->prev = b;
    b->prev = a;
    a->child = b;
    return a;
}

static inline void pnx__heap_set_root_(struct pnx_heap *heap, struct pnx_heap_node *root) {
    heap->root = root;
    if (root)
        root->prev = root;
}

static inline void pnx__heap_insert(struct pnx_heap *heap, struct pnx_heap_node *node, pnx_ns at) {
    *node = (struct pnx_heap_node){.at = at};
    pnx__heap_set_root_(heap, pnx__heap_meld_(heap->root, node));
}

/* Melds a list of siblings in pairs, and those from the last to the first. */
static inline struct pnx_heap_node *pnx__heap_pair_(struct pnx_heap_node *list) {
    struct pnx_heap_node *done = NULL, *all = NULL;
    while (list) {
        struct pnx_heap_node *a = list, *b = list->next;
        list = b ? b->next : NULL;
        a->next = NULL;
        if (b)
            b->next = NULL;
        a = pnx__heap_meld_(a, b);
        a->next = done;
        done = a;
    }
    while (done) {
        struct pnx_heap_node *next = done->next;
        done->next = NULL;
        all = pnx__heap_meld_(all, done);
        done = next;
    }
    return all;
}

/* Takes a node out; one that is in no heap stays so. */
static inline void pnx__heap_remove(struct pnx_heap *heap, struct pnx_heap_node *node) {
    if (!node->prev)
        return;
    struct pnx_heap_node *children = pnx__heap_pair_(node->child);
    if (heap->root == node) {
        pnx__heap_set_root_(heap, children);
    } else {
        if (node->prev->child == node)
            node->prev->child = node->next;
        else
            node->prev->next = node->next;
        if (node->next)
            node->next->prev = node->prev;
        pnx__heap_set_root_(heap, pnx__heap_meld_(heap->root, children));
    }
    *node = (struct pnx_heap_node){0};
}

/* The earliest one, or NULL. */
static inline struct pnx_heap_node *pnx__heap_first(const struct pnx_heap *heap) {
    return heap->root;
}

#endif
