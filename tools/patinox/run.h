/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h - one policy of the library at one size, fed with requests: what a shard of a cache does, without values.
 *
 * Memory grows with the keys, not with the requests: 4 bytes a key for the index, 8 or 16 (with a weight) for the
 * record of a slot, and the policy's own.
 */
#ifndef PATINOX_RUN_H
#define PATINOX_RUN_H

#include "failure.h"

#include <patinox/cache_policy.h>

struct run;

struct run_results {
    uint64_t requests;
    uint64_t hits;
    uint64_t bytes; /* requested */
    uint64_t hit_bytes;
};

/* Makes a run.  keys is how many there may be at most, when that is known, else 0.  Fails with -1. */
int run_create(const struct pnx_cache_policy *policy, uint64_t capacity,
        enum pnx_cache_capacity_kind kind, uint32_t keys, struct failure *failure,
        struct run **ret_run);

/* Replays n requests.  size may be NULL: all are 1.  -1: no memory. */
int run_requests(struct run *run, const uint32_t *id, const uint64_t *size, uint32_t n,
        struct failure *failure);

struct run_results run_results(const struct run *run);
void run_release(struct run **run);

#endif
