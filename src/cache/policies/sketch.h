/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/sketch.h - how often was a hash seen of late?  A count-min sketch of 4-bit counters, halved from time to time.
 *
 * Cormode and Muthukrishnan, An improved data stream summary, 2005; Einziger, Friedman and Manes, TinyLFU: a highly
 * efficient cache admission policy, 2017.  The four counters of a hash lie in one line of the processor's cache.
 */
#ifndef PNX_SRC_CACHE_POLICIES_SKETCH_H
#define PNX_SRC_CACHE_POLICIES_SKETCH_H

#include "cache/policies/layout.h"

#include <stdbool.h>

#define PNX__SKETCH_MAX 15

struct pnx__sketch {
    uint64_t *words; /* lines of eight, 16 counters each */
    uint32_t lines;
    uint32_t sample; /* additions after which all are halved */
    uint32_t added;
    uint32_t salt;
};

/* Measures or places a sketch of so many lines of 64 bytes, 32 counters in each of four rows; all are halved after ten additions
 * for each of so many entries. */
void pnx__sketch_layout(
        struct pnx__sketch *sketch, struct pnx__layout *layout, uint32_t lines, uint32_t entries);
/* Copies the counts of a sketch into one that is as large or larger. */
void pnx__sketch_copy(struct pnx__sketch *sketch, const struct pnx__sketch *from);
/* Fetches the line of a hash. */
void pnx__sketch_fetch(const struct pnx__sketch *sketch, uint32_t hash);
/* Counts a hash once more, in all its counters. */
void pnx__sketch_add(struct pnx__sketch *sketch, uint32_t hash);
/* Counts a hash so many times more, in those of its counters that are below the new count: errors are smaller (Estan and
 * Varghese, New directions in traffic measurement and accounting, SIGCOMM 2002: conservative update). */
void pnx__sketch_raise(struct pnx__sketch *sketch, uint32_t hash, uint32_t times);
/* At most PNX__SKETCH_MAX; at least what was added, before it was halved. */
uint32_t pnx__sketch_count(const struct pnx__sketch *sketch, uint32_t hash);

#endif
