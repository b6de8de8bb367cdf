/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/order.h - what the cache evicts by: an order of its slots.
 *
 * It keeps some words of its own for each slot, next to the index's, and some state of
 * its own for the cache.  Every function runs under the cache's lock; none allocates, fails or calls out.
 */
#ifndef PNX_SRC_CACHE_ORDER_H
#define PNX_SRC_CACHE_ORDER_H

#include <stddef.h>
#include <stdint.h>

struct pnx_cache_index;

#define PNX_CACHE_NONE UINT32_MAX /* no slot */

#define PNX_CACHE_ORDER_STATE 32 /* bytes of state that a cache has room for */
#define PNX_CACHE_ORDER_WORD  8  /* bytes for each slot, at most; part of PNX_CACHE_INDEX_SHARE */

struct pnx_cache_order {
    const char *name;
    size_t word_bytes; /* for each slot, a multiple of 8 */
    void (*init)(void *state);
    void (*insert)(struct pnx_cache_index *ix, void *state, uint32_t slot);
    void (*hit)(struct pnx_cache_index *ix, void *state, uint32_t slot);
    void (*remove)(struct pnx_cache_index *ix, void *state, uint32_t slot);
    /* Slot from gets the number to, which is a hole. */
    void (*move)(struct pnx_cache_index *ix, void *state, uint32_t from, uint32_t to);
    /* Returns the slot to evict next, or NONE; the caller removes it. */
    uint32_t (*victim)(const struct pnx_cache_index *ix, const void *state);
    /* Returns what is broken, or NULL. */
    const char *(*check)(const struct pnx_cache_index *ix, const void *state);
};

extern const struct pnx_cache_order pnx__cache_order_lru;

#endif
