/* SPDX-License-Identifier: Apache-2.0 */
/* base/hash.h - keyed hashing (XXH3 under a random seed, https://xxhash.com, 2019). */
#ifndef PNX_SRC_BASE_HASH_H
#define PNX_SRC_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Hashes n bytes; the seed comes from env.random and is the table's secret. */
uint64_t pnx__hash(uint64_t seed, const void *data, size_t n);

/* Mixes one word; a bijection (the finaliser of SplitMix64, Steele et al., 2014). */
static inline uint64_t pnx__mix64(uint64_t x) {
    x ^= x >> 30;
    x *= UINT64_C(0xBF58476D1CE4E5B9);
    x ^= x >> 27;
    x *= UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* Next number of a SplitMix64 stream: jitter and sampling, where the seed came from env.random. */
static inline uint64_t pnx__splitmix(uint64_t *state) {
    *state += UINT64_C(0x9E3779B97F4A7C15);
    return pnx__mix64(*state);
}

#endif
