/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the cache share: a fixture with a counting environment, and short forms. */
#ifndef PNX_TESTS_CACHE_COMMON_H
#define PNX_TESTS_CACHE_COMMON_H

#include "harness/harness.h"

#include <patinox/cache.h>

struct fixture {
    struct test_env te;
    struct pnx_cache *cache;
    struct pnx_registry *registry;
    struct pnx_stats *stats;
    struct pnx_budget *budget;
    struct pnx_error err;
    uint64_t seed; /* test_seed() before there are threads */
};

/* Opens a cache with the given options, in worlds of its own as far as opts names none, on a virtual clock at 1 s;
 * of policy lru unless opts names another. */
void fixture_open(struct fixture *f, const struct pnx_cache_opts *opts);
/* As far as the worlds only. */
void fixture_worlds(struct fixture *f);
struct pnx_cache_opts fixture_opts(struct fixture *f, const struct pnx_cache_opts *opts);
/* Checks the invariants, closes all, and checks that no memory is left. */
void fixture_close(struct fixture *f);
/* The same from where the cache is released, whatever the registry holds: after a shutdown. */
void fixture_drop(struct fixture *f);

void put_text(struct fixture *f, const char *key, const char *value, pnx_ns ttl);
void check_text(struct fixture *f, const char *key, const char *value);
void check_absent(struct fixture *f, const char *key);
int get_text(struct fixture *f, const char *key, struct pnx_cache_ref *ret_ref);
struct pnx_cache_stats stats_of(struct fixture *f);
uint64_t used_of(struct pnx_budget *budget);
void check_invariants(struct fixture *f);

/* A cache in a registry and a budget of its own, in an environment in which allocations fail. */
struct life {
    struct pnx_registry *registry;
    struct pnx_budget *budget;
    struct pnx_cache *cache;
    struct pnx_error err;
};
/* 0, or -ENOMEM; what there is by then life_end() ends, and checks that nothing is charged any more. */
int life_begin(struct life *life, struct test_env *te, const struct pnx_cache_opts *opts);
void life_end(struct life *life);

#endif
