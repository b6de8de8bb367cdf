/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/histogram.c - log-linear histograms.
 *
 * A value below 2^P has a bucket of its own.  Above, the bucket is the octave and the P bits after the
 * leading one: 2^P buckets an octave.  Values of 2^PNX_HISTOGRAM_MAX_LOG2 and above share the last one.
 *
 *   P1  Every value has exactly one bucket: bound(index(v) - 1) <= v < bound(index(v)).
 *   P2  A bucket above 2^P is at most 1/2^P of its lower end wide.
 */
#include "stats/stats.h"

#include <assert.h>

static_assert(PNX_HISTOGRAM_BUCKETS == 592, "layout of struct pnx_histogram");

uint32_t pnx__histogram_index(uint64_t value) {
    if (value < (1u << PNX_HISTOGRAM_P))
        return (uint32_t)value;
    uint32_t log2 = 63u - (uint32_t)__builtin_clzll(value);
    if (log2 >= PNX_HISTOGRAM_MAX_LOG2)
        return PNX_HISTOGRAM_BUCKETS - 1;
    uint32_t octave = log2 - PNX_HISTOGRAM_P; /* 0 for 2^P .. 2^(P+1) - 1 */
    return (octave << PNX_HISTOGRAM_P) + (uint32_t)(value >> octave);
}

uint64_t pnx__histogram_bound(uint32_t index) {
    if (index >= PNX_HISTOGRAM_BUCKETS - 1)
        return UINT64_MAX;
    uint32_t next = index + 1;
    if (next <= (1u << PNX_HISTOGRAM_P))
        return next;
    uint32_t octave = (next >> PNX_HISTOGRAM_P) - 1;
    uint64_t top = next - (octave << PNX_HISTOGRAM_P);
    return top << octave;
}

void pnx__histogram_record(struct pnx_histogram *histogram, int64_t value) {
    uint64_t v = value > 0 ? (uint64_t)value : 0;
    pnx_owner_add(&histogram->bucket[pnx__histogram_index(v)], 1);
    pnx_owner_add(&histogram->sum, v);
}
