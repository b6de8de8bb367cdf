/* SPDX-License-Identifier: Apache-2.0 */
/* base/hash.c - the one instance of xxHash in the library. */
#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t pnx__hash(uint64_t seed, const void *data, size_t n) {
    return XXH3_64bits_withSeed(data, n, seed);
}
