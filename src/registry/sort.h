/* SPDX-License-Identifier: Apache-2.0 */
/* registry/sort.h - sorting in place, without memory. */
#ifndef PNX_SRC_REGISTRY_SORT_H
#define PNX_SRC_REGISTRY_SORT_H

#include <stdbool.h>
#include <stddef.h>

typedef bool pnx_before_fn(const void *a, const void *b);

/* Sorts n elements of the given size, not stably; spare has room for one. */
void pnx__sort(void *array, size_t n, size_t size, void *spare, pnx_before_fn *before);

/*
 * The same, as long as go_on, which is asked now and then, returns true.  false: the elements are all there still, in
 * whatever order.
 */
bool pnx__sort_while(void *array, size_t n, size_t size, void *spare, pnx_before_fn *before,
        bool (*go_on)(void *ctx), void *ctx);

/* Restores the order of a heap of n elements, with the last in order at its top, below element i. */
void pnx__sort_sift(
        void *array, size_t i, size_t n, size_t size, void *spare, pnx_before_fn *before);

#endif
