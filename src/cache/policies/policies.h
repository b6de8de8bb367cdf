/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/policies.h - the policies of the library, one file each; the table is in cache/policies/table.c */
#ifndef PNX_SRC_CACHE_POLICIES_POLICIES_H
#define PNX_SRC_CACHE_POLICIES_POLICIES_H

#include <patinox/cache_policy.h>

extern const struct pnx_cache_policy pnx__cache_policy_auto;
extern const struct pnx_cache_policy pnx__cache_policy_lru;
extern const struct pnx_cache_policy pnx__cache_policy_lfu;
extern const struct pnx_cache_policy pnx__cache_policy_sieve;
extern const struct pnx_cache_policy pnx__cache_policy_clock;
extern const struct pnx_cache_policy pnx__cache_policy_fifo;
extern const struct pnx_cache_policy pnx__cache_policy_s3_fifo;
extern const struct pnx_cache_policy pnx__cache_policy_w_tinylfu;
extern const struct pnx_cache_policy pnx__cache_policy_lirs;
extern const struct pnx_cache_policy pnx__cache_policy_ttl;

#endif
