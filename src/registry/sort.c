/* SPDX-License-Identifier: Apache-2.0 */
/* registry/sort.c - heapsort: in place, since qsort may allocate behind the env's back. */
#include "registry/sort.h"

#include <string.h>

/* Restores the heap's order below element i of n elements of the given size. */
static void sift(char *base, size_t i, size_t n, size_t size, void *spare, pnx_before_fn *before) {
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && before(base + child * size, base + (child + 1) * size))
            child++;
        if (!before(base + i * size, base + child * size))
            return;
        memcpy(spare, base + i * size, size);
        memcpy(base + i * size, base + child * size, size);
        memcpy(base + child * size, spare, size);
        i = child;
    }
}

void pnx__sort(void *array, size_t n, size_t size, void *spare, pnx_before_fn *before) {
    char *base = array;
    for (size_t i = n / 2; i > 0; i--)
        sift(base, i - 1, n, size, spare, before);
    for (size_t end = n; end > 1; end--) {
        memcpy(spare, base, size);
        memcpy(base, base + (end - 1) * size, size);
        memcpy(base + (end - 1) * size, spare, size);
        sift(base, 0, end - 1, size, spare, before);
    }
}
