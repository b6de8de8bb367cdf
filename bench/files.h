/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.h - the workload of the map cases, the same in C and in Rust (peers/src/files.rs).
 *
 * A file of 1 GiB, in the page cache, holds records of 32 bytes.  map/scan-warm adds up one field of all of them in order,
 * an operation being one record; map/random-get one field of records drawn at random; map/scan-fresh maps 64 MiB of the
 * file, scans them, and unmaps them, an operation being all of that; map/copy-4k copies one page drawn at random; map/scope
 * reads nothing.
 */
#ifndef PNX_BENCH_FILES_H
#define PNX_BENCH_FILES_H

#include "bench.h"

#include <stdint.h>

struct file_record {
    uint64_t id;
    uint64_t value;
    uint64_t more[2];
};

#define FILE_BYTES   (UINT64_C(1) << 30)
#define FILE_RECORDS (FILE_BYTES / sizeof(struct file_record))
#define FILE_PIECE   (UINT64_C(64) << 20)
#define FILE_BATCH   4096 /* records between two looks at the clock */
#define FILE_PAGE    4096u

/* Returns the path of the file, which is made once and kept, and reads it into the page cache. */
const char *files_make(void);

/* The next record of a random sequence. */
static inline uint64_t files_next(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (uint64_t)(((unsigned __int128)(x ^ (x >> 31)) * FILE_RECORDS) >> 64);
}

/* Where the next page of a random sequence lies. */
static inline uint64_t files_place(uint64_t *state) {
    return files_next(state) / (FILE_PAGE / sizeof(struct file_record)) * FILE_PAGE;
}

#endif
