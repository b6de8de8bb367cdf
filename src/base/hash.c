/* SPDX-License-Identifier: Apache-2.0 */
/* base/hash.c - hashing of any number of bytes. */
#include "base/hash_inline.h"

uint64_t pnx__hash(uint64_t seed, const void *data, size_t n) {
    return XXH3_64bits_withSeed(data, n, seed);
}
