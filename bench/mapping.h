/* SPDX-License-Identifier: Apache-2.0 */
/* mapping.h - the file that the map cases read: made once, beside the programs, and then in the page cache. */
#ifndef PNX_BENCH_MAPPING_H
#define PNX_BENCH_MAPPING_H

#include <stdint.h>

#define MAP_BYTES (UINT64_C(1) << 30)
#define MAP_PIECE 4096u

/* Returns the file's path, after having made it where it is not there; ends the program when it cannot. */
const char *map_file(void);

/* Where the nth piece lies: all over the file, the same for every implementation. */
static inline uint64_t map_place(uint64_t *random) {
    *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*random >> 33) % (MAP_BYTES / MAP_PIECE) * MAP_PIECE;
}

#endif
