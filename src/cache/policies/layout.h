/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/layout.h - one block of memory for a policy's state and its tables.
 *
 * A policy runs through its tables twice: with base NULL in order to measure, then in order to place.
 */
#ifndef PNX_SRC_CACHE_POLICIES_LAYOUT_H
#define PNX_SRC_CACHE_POLICIES_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define PNX__LAYOUT_ALIGN 64

struct pnx__layout {
    unsigned char *base; /* NULL: measure only */
    uint64_t at;         /* cannot overflow: slots are limited, and so are bytes a slot */
};

/* Takes room for count elements of so many bytes. */
static inline void *pnx__layout_take(struct pnx__layout *layout, uint64_t count, size_t bytes) {
    void *place = layout->base ? layout->base + layout->at : NULL;
    layout->at += (count * bytes + PNX__LAYOUT_ALIGN - 1) & ~(uint64_t)(PNX__LAYOUT_ALIGN - 1);
    return place;
}

/* The bytes measured; 0 when they are more than memory has. */
static inline size_t pnx__layout_bytes(const struct pnx__layout *layout) {
    return layout->at > PTRDIFF_MAX ? 0 : (size_t)layout->at;
}

#endif
