/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/hash_inline.h - pnx__hash() for where it has to be inlined: with a constant size it is a few instructions.
 */
#ifndef PNX_SRC_BASE_HASH_INLINE_H
#define PNX_SRC_BASE_HASH_INLINE_H

#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* The same number as pnx__hash(); where n is not a constant, call that. */
__attribute__((always_inline)) static inline uint64_t pnx__hash_inline(
        uint64_t seed, const void *data, size_t n) {
    return __builtin_constant_p(n) ? XXH3_64bits_withSeed(data, n, seed) : pnx__hash(seed, data, n);
}

#endif
