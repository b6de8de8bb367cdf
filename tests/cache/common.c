/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/common.h"

#include <patinox/reclaim.h>

void fixture_worlds(struct fixture *f) {
    memset(f, 0, sizeof(*f));
    f->seed = test_seed();
    test_env_init(&f->te);
    test_env_virtual(&f->te, PNX_SEC);
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(.env = &f->te.env), &f->err, &f->stats), 0);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &f->te.env, .stats = pnx_stats_off()),
                     &f->err, &f->registry),
            0);
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &f->te.env,
                                       .registry = pnx_registry_off(), .stats = pnx_stats_off()),
                     &f->err, &f->budget),
            0);
}

struct pnx_cache_opts fixture_opts(struct fixture *f, const struct pnx_cache_opts *opts) {
    struct pnx_cache_opts full = *opts;
    full.env = full.env ? full.env : &f->te.env;
    full.registry = full.registry ? full.registry : f->registry;
    full.stats = full.stats ? full.stats : f->stats;
    full.budget = full.budget ? full.budget : f->budget;
    if (!full.policy && !full.custom_policy)
        full.policy = "lru"; /* exact, which most tests count on */
    return full;
}

void fixture_open(struct fixture *f, const struct pnx_cache_opts *opts) {
    fixture_worlds(f);
    struct pnx_cache_opts full = fixture_opts(f, opts);
    int rc = pnx_cache_create(&full, &f->err, &f->cache);
    CHECK_MSG(rc == 0, "create: %s: %s", pnx_errname(rc), f->err.message);
}

void check_invariants(struct fixture *f) {
    int rc = pnx_cache_check(f->cache, &f->err);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), f->err.message);
}

void fixture_close(struct fixture *f) {
    if (f->cache)
        check_invariants(f);
    pnx_cache_release(&f->cache);
    CHECK_EQ(pnx_registry_count(f->registry), 0);
    fixture_drop(f);
}

void fixture_drop(struct fixture *f) {
    CHECK_EQ(
            pnx_reclaim_barrier(NULL, PNX_NEVER), 0); /* the cache's memory goes with its readers */
    pnx_registry_release(&f->registry);
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(f->budget, &stats), 0);
    CHECK_EQ(stats.used, 0);
    CHECK_EQ(stats.misuses, 0);
    pnx_budget_release(&f->budget);
    pnx_stats_release(&f->stats);
    test_env_check_empty(&f->te);
}

void put_text(struct fixture *f, const char *key, const char *value, pnx_ns ttl) {
    CHECK_EQ(pnx_cache_put(f->cache, key, strlen(key), value, strlen(value) + 1, ttl), 0);
}

int get_text(struct fixture *f, const char *key, struct pnx_cache_ref *ret_ref) {
    return pnx_cache_get(f->cache, key, strlen(key), ret_ref);
}

void check_text(struct fixture *f, const char *key, const char *value) {
    struct pnx_cache_ref ref = {0};
    int rc = get_text(f, key, &ref);
    CHECK_MSG(rc == 0, "get \"%s\": %s", key, pnx_errname(rc));
    CHECK_STR(pnx_cache_ref_data(&ref), value);
    CHECK_EQ(pnx_cache_ref_size(&ref), strlen(value) + 1);
    pnx_cache_ref_release(&ref);
}

void check_absent(struct fixture *f, const char *key) {
    struct pnx_cache_ref ref = {0};
    int rc = get_text(f, key, &ref);
    CHECK_MSG(rc == -ENOENT, "get \"%s\": %s", key, pnx_errname(rc));
    CHECK(!ref.entry);
}

struct pnx_cache_stats stats_of(struct fixture *f) {
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cache_read_stats(f->cache, &stats), 0);
    return stats;
}

uint64_t used_of(struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats.used;
}

int life_begin(struct life *life, struct test_env *te, const struct pnx_cache_opts *opts) {
    struct pnx_cache_opts full = *opts;
    *life = (struct life){.registry = NULL};
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te->env, .stats = pnx_stats_off()),
            &life->err, &life->registry);
    if (rc == 0)
        rc = pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .env = &te->env,
                                       .registry = pnx_registry_off(), .stats = pnx_stats_off()),
                &life->err, &life->budget);
    full.env = &te->env;
    full.registry = life->registry;
    full.budget = life->budget;
    full.stats = pnx_stats_off();
    if (rc == 0)
        rc = pnx_cache_create(&full, &life->err, &life->cache);
    if (rc == -ENOMEM)
        CHECK_EQ(life->err.code, -ENOMEM);
    return rc;
}

void life_end(struct life *life) {
    if (life->cache)
        CHECK_EQ(pnx_cache_check(life->cache, NULL), 0);
    pnx_cache_release(&life->cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    if (life->budget)
        CHECK_EQ(used_of(life->budget), 0);
    pnx_budget_release(&life->budget);
    pnx_registry_release(&life->registry);
}
