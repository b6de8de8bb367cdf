/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of fixed sizes share: keys and values of any size that are told by a number. */
#ifndef PNX_TESTS_CACHE_FIXED_BYTES_H
#define PNX_TESTS_CACHE_FIXED_BYTES_H

#include "cache/common.h"

#define KEY_MOST   64
#define VALUE_MOST 256
#define TICK       ((pnx_ns)1 << 26) /* in which times to live are counted */

/* The number, as far as there is room, then bytes that all follow from it and from their place. */
static inline void bytes_of(uint64_t n, size_t size, void *buf) {
    unsigned char *byte = buf;
    for (size_t i = 0; i < size; i++)
        byte[i] = (unsigned char)(i < 8 ? n >> (8 * i)
                                        : (n * UINT64_C(0x9E3779B97F4A7C15)) >> (i % 7 * 8) ^ i);
}

/* The number of a key that bytes_of() has made. */
static inline uint64_t number_of(const void *bytes, size_t size) {
    const unsigned char *byte = bytes;
    uint64_t n = 0;
    for (size_t i = 0; i < size && i < 8; i++)
        n |= (uint64_t)byte[i] << (8 * i);
    return n;
}

#endif
