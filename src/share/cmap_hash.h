/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_hash.h - from keys to hashes, under a map's secret.
 *
 * The low bits choose the shard, the high 32 the bucket.
 */
#ifndef PNX_SRC_SHARE_CMAP_HASH_H
#define PNX_SRC_SHARE_CMAP_HASH_H

#include "base/hash.h"
#include "share/cmap.h"

static inline uint64_t pnx__cmap_rotate(uint64_t x, unsigned by) {
    return (x << by) | (x >> (64 - by));
}

/* XXH3 of eight bytes (rrmxmx; https://xxhash.com, 2019), keyed by 64 secret bits: a bijection. */
static inline uint64_t pnx__cmap_mix(uint64_t key, uint64_t secret) {
    uint64_t x = key ^ secret;
    x ^= pnx__cmap_rotate(x, 49) ^ pnx__cmap_rotate(x, 24);
    x *= UINT64_C(0x9FB21C651E98DF25);
    x ^= (x >> 35) + 8;
    x *= UINT64_C(0x9FB21C651E98DF25);
    return x ^ (x >> 28);
}

/* SipHash-1-3 (Aumasson and Bernstein, 2012; the parameters of Rust's and Python's tables). */
uint64_t pnx__cmap_siphash(const uint64_t secret[2], const void *data, size_t n);

/* The hash of a key that hash_fn or SipHash hashes. */
uint64_t pnx__cmap_hash_slow(const struct pnx_cmap *map, const void *key, size_t size);

/* The hash of a key of at most eight bytes, as a word. */
static inline uint64_t pnx__cmap_hash_word(const struct pnx_cmap *map, uint64_t key) {
    if (__builtin_expect(map->hash == PNX_CMAP_HASH_XXH3, 1))
        return pnx__cmap_mix(key, map->secret[0]);
    return pnx__cmap_hash_slow(map, &key, map->key_size);
}

static inline uint64_t pnx__cmap_hash_bytes(
        const struct pnx_cmap *map, const void *key, size_t size) {
    uint64_t hash = map->hash == PNX_CMAP_HASH_XXH3 ? pnx__hash(map->secret[0], key, size)
                                                    : pnx__cmap_hash_slow(map, key, size);
    return hash ? hash : 1; /* a key word of 0 means none */
}

/* The hash of what is in a slot, whose key word is unmasked. */
static inline uint64_t pnx__cmap_hash_slot(const struct pnx_cmap *map, uint64_t word) {
    return map->inlined ? pnx__cmap_hash_word(map, word) : word;
}

#endif
