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

/*
 * Makes a run.  slots is how many keys there may be at most, when that is known, else 0.  env may be NULL.
 * Fails with -1.
 */
int run_create(const struct pnx_cache_policy *policy, uint64_t capacity,
        enum pnx_cache_capacity_kind kind, uint32_t slots, const struct pnx_env *env,
        struct failure *failure, struct run **ret_run);

/* Replays n requests.  size may be NULL: all are 1.  -1: no memory. */
int run_requests(struct run *run, const uint32_t *id, const uint64_t *size, uint32_t n,
        struct failure *failure);

struct run_results run_results(const struct run *run);
/* The capacity changes, as pnx_cache_resize() would make it. */
void run_resize(struct run *run, uint64_t capacity);
/* Removes a key, as pnx_cache_remove() would. */
void run_remove(struct run *run, uint32_t id);
/* Returns what is broken, or NULL. */
const char *run_check(const struct run *run);
/* Bytes that the run takes, and those of the policy alone. */
size_t run_bytes(const struct run *run);
size_t run_policy_bytes(const struct run *run);
void run_release(struct run **run);

#endif
