/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/table.c - the table of the library's policies */
#include "cache/policies/policies.h"

/* In the order in which they are shown. */
static const struct pnx_cache_policy *const policies[] = {
        &pnx__cache_policy_auto,
        &pnx__cache_policy_lru,
        &pnx__cache_policy_lfu,
        &pnx__cache_policy_sieve,
        &pnx__cache_policy_clock,
        &pnx__cache_policy_fifo,
        &pnx__cache_policy_s3_fifo,
        &pnx__cache_policy_w_tinylfu,
        &pnx__cache_policy_lirs,
        &pnx__cache_policy_ttl,
};

const struct pnx_cache_policy *pnx_cache_policy_at(size_t index) {
    return index < sizeof(policies) / sizeof(policies[0]) ? policies[index] : NULL;
}

const struct pnx_cache_policy *pnx_cache_policy_find(const char *name) {
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    }
    return NULL;
}
