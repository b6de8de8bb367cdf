/* SPDX-License-Identifier: Apache-2.0 */
/*
 * caches.h - the workload of the cache cases, the same in C and in Rust (peers/src/caches.rs).
 *
 * A cache holds key(i) -> i for i below its entries.  Each thread goes along a stream of its own of numbers below keys,
 * made before the clock starts: uniform ones, or by Zipf's law (Gray et al., SIGMOD 1994).
 */
#ifndef PNX_BENCH_CACHES_H
#define PNX_BENCH_CACHES_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_ENTRIES       100000u
#define CACHE_LARGE         10000000u /* entries of cache/get-10m and cache/batch-get */
#define CACHE_MIXED_KEYS    1000000u
#define CACHE_MIXED_ENTRIES 100000u
#define CACHE_MEMORY        1000000u
#define CACHE_STREAM        (1u << 20)
#define CACHE_BATCH         64
#define CACHE_TEXT          24 /* bytes of a key of cache/hit-str */

/* The finaliser of splitmix64. */
static inline uint64_t cache_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline uint64_t cache_key(uint64_t i) {
    return cache_mix((i + 1) * 0x9E3779B97F4A7C15u);
}

/* A text of 24 bytes: 16 hexadecimal digits of the key, and the same for all. */
static inline void cache_text(uint64_t i, char text[CACHE_TEXT]) {
    static const char digits[] = "0123456789abcdef";
    uint64_t key = cache_key(i);
    memcpy(text, "user:id:", 8);
    for (int n = 0; n < 16; n++, key >>= 4)
        text[8 + n] = digits[key & 15];
}

/* A thread's numbers below keys; theta 0: uniform. */
static inline uint32_t *cache_stream_make(unsigned index, uint32_t keys, double theta) {
    uint32_t *stream = malloc(CACHE_STREAM * sizeof(*stream));
    if (!stream)
        abort();
    uint64_t state = (uint64_t)(index + 1) << 32;
    double zeta = 0;
    for (uint32_t i = 1; theta > 0 && i <= keys; i++)
        zeta += 1 / pow(i, theta);
    double alpha = 1 / (1 - theta);
    double eta =
            theta > 0 ? (1 - pow(2.0 / keys, 1 - theta)) / (1 - (1 + pow(0.5, theta)) / zeta) : 0;
    for (uint32_t n = 0; n < CACHE_STREAM; n++) {
        uint64_t x = cache_mix(state += 0x9E3779B97F4A7C15u);
        double u = (double)(x >> 11) / 9007199254740992.0;
        if (theta <= 0)
            stream[n] = (uint32_t)(((unsigned __int128)x * keys) >> 64);
        else if (u * zeta < 1)
            stream[n] = 0;
        else if (u * zeta < 1 + pow(0.5, theta))
            stream[n] = 1;
        else
            stream[n] = (uint32_t)((keys - 1) * pow(eta * u - eta + 1, alpha));
    }
    return stream;
}

#endif
