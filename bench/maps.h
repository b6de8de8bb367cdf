/* SPDX-License-Identifier: Apache-2.0 */
/*
 * maps.h - the workload of the map cases, the same in C and in Rust (peers/src/maps.rs).
 *
 * A map holds key(i) -> i for i in [0, MAP_ENTRIES).  Each thread looks keys up along a stream of its own,
 * drawn uniformly and made before the clock starts; in share/cmap-mix one in ten is an update instead.
 */
#ifndef PNX_BENCH_MAPS_H
#define PNX_BENCH_MAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define MAP_ENTRIES     1000000u
#define MAP_STREAM      (1u << 19) /* operations after which a thread's stream begins again */
#define MAP_BATCH       64         /* keys that share/cmap-batch-get asks for at once */
#define MAP_MIX_UPDATES 10         /* updates in 100 operations of share/cmap-mix */

/* The finaliser of splitmix64. */
static inline uint64_t map_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static inline uint64_t map_key(uint64_t i) {
    return map_mix((i + 1) * 0x9E3779B97F4A7C15u);
}

/* A thread's operations: keys, and which of them are updates. */
struct map_stream {
    uint64_t *keys;
    uint8_t *update;
    uint32_t at;
};

/* Makes the stream of a thread; ends the process when there is no memory. */
static inline struct map_stream map_stream_make(unsigned index) {
    struct map_stream stream = {
            .keys = malloc(MAP_STREAM * sizeof(uint64_t)), .update = malloc(MAP_STREAM)};
    if (!stream.keys || !stream.update)
        abort();
    uint64_t state = (uint64_t)(index + 1) << 32;
    for (uint32_t n = 0; n < MAP_STREAM; n++) {
        uint64_t x = map_mix(state += 0x9E3779B97F4A7C15u);
        uint64_t y = map_mix(state += 0x9E3779B97F4A7C15u);
        stream.keys[n] = map_key((uint64_t)(((unsigned __int128)x * MAP_ENTRIES) >> 64));
        stream.update[n] = ((unsigned __int128)y * 100 >> 64) < MAP_MIX_UPDATES;
    }
    return stream;
}

/* The stream of the calling thread, made by the first call in it (the warm-up). */
extern _Thread_local struct map_stream map_stream;
static inline uint32_t map_next(void) {
    uint32_t at = map_stream.at;
    map_stream.at = (at + 1) & (MAP_STREAM - 1);
    return at;
}

#endif
