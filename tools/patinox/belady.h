/* SPDX-License-Identifier: Apache-2.0 */
/*
 * belady.h - what a cache could do that knows the future.
 *
 * Entries of one size: the optimum, MIN (Belady, A study of replacement algorithms for a virtual-storage computer, 1966): the
 * entry whose next request is farthest goes.
 *
 * Objects with sizes, in bytes: finding the optimum takes too long, so this is a bound that no policy can be above, PFOO-L
 * (Berger, Beckmann and Harchol-Balter, Practical bounds on optimal caching with variable object sizes, 2018).  An object
 * that is kept from one request to its next takes its size for that time; a cache has capacity x requests to give,
 * and gives it where a hit costs least.  The bound on hits and the one on bytes hit are separate.
 */
#ifndef PATINOX_BELADY_H
#define PATINOX_BELADY_H

#include "run.h"

struct belady;

/* keys: how many there are.  Fails with -1. */
int belady_create(uint64_t capacity, enum pnx_cache_capacity_kind kind, uint32_t keys,
        struct failure *failure, struct belady **ret_belady);
/* distance: requests until the key's next, UINT32_MAX for never; used for entries only. */
void belady_requests(struct belady *belady, const uint32_t *id, const uint32_t *distance,
        const uint64_t *size, uint32_t n);
/* After all requests. */
struct run_results belady_results(const struct belady *belady);
void belady_release(struct belady **belady);

#endif
