/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that cannot be had: every allocation, and the budget's refusals; what the budget asks back. */
#include "cache/common.h"

#include <patinox/reclaim.h>

static int load_big(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    return pnx_cache_load_set(load, "0123456789", 11);
}

static int load_absent(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline, (void)load;
    return -ENOENT;
}

/* A life of a cache that touches every allocation; the first error ends it. */
static int whole_life(struct test_env *te, void *ctx) {
    struct life life;
    (void)ctx;
    int rc = life_begin(&life, te, PNX_CACHE_OPTS(.capacity_entries = 60, .negative_ttl = PNX_SEC));
    for (uint64_t i = 0; rc == 0 && i < 100; i++)
        rc = pnx_cache_put(life.cache, &i, sizeof(i), "value", 6, i % 3 ? PNX_SEC : 0);
    struct pnx_cache_ref ref = {0};
    if (rc == 0)
        rc = pnx_cache_get_or_load(life.cache, "k", 1, load_big, NULL, 0, &life.err, &ref);
    if (rc == 0)
        CHECK_STR(pnx_cache_ref_data(&ref), "0123456789");
    pnx_cache_ref_release(&ref);
    if (rc == 0) {
        rc = pnx_cache_get_or_load(life.cache, "absent", 6, load_absent, NULL, 0, &life.err, &ref);
        CHECK_EQ(rc, -ENOENT); /* remembered or not */
        rc = 0;
    }
    life_end(&life);
    return rc;
}

TEST(every_allocation_may_fail) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, whole_life, NULL);
}

TEST(a_loaded_value_is_served_when_there_is_no_memory_to_store_it) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_ref ref = {0};
    f.te.allocations = 0;
    f.te.fail_at = 2; /* the first is the value, the second the index */
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, load_big, NULL, 0, &f.err, &ref), 0);
    f.te.fail_at = 0;
    CHECK_EQ(f.te.failed, 1);
    CHECK_STR(pnx_cache_ref_data(&ref), "0123456789");
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 1);
    pnx_cache_ref_release(&ref);
    fixture_close(&f);
}

/* ---- the budget ---- */

TEST(the_budget_is_charged_what_entries_count_and_gets_it_back) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    uint64_t base = used_of(f.budget);
    CHECK(base > 0);
    for (uint64_t i = 0; i < 30; i++) {
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "value", 6, 0), 0);
        CHECK_EQ(used_of(f.budget), base + stats_of(&f).bytes);
    }
    struct pnx_cache_ref ref = {0};
    uint64_t last = 29;
    CHECK_EQ(pnx_cache_get(f.cache, &last, sizeof(last), &ref), 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(used_of(f.budget),
            base + pnx_cache_cost(8, 6)); /* what is referred to is still there */
    CHECK_EQ(stats_of(&f).detached, pnx_cache_cost(8, 6));
    pnx_cache_ref_release(&ref);
    CHECK_EQ(used_of(f.budget), base);
    fixture_close(&f);
}

TEST(a_refused_put_is_enomem_counted_and_leaves_no_older_value) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    put_text(&f, "k", "older", 0);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, used_of(f.budget) + 100), 0);
    static char big[100000];
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, big, sizeof(big), 0), -ENOMEM);
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 1);
    fixture_close(&f);
}

TEST(p9_a_size_that_no_account_can_hold_is_enomem_and_leaves_no_older_value) {
    struct fixture f;
    int thing;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "k", "older", 0);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "k", 1, &thing, SIZE_MAX - 1000, 0), -ENOMEM);
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 1);
    fixture_close(&f);
}

TEST(at_the_hard_limit_a_put_evicts_what_is_old_in_its_own_cache) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 64 << 20));
    uint64_t base = used_of(f.budget);
    CHECK_EQ(pnx_budget_set_limits(f.budget, base + 100000, base + 100000), 0);
    char value[1000] = {0};
    for (uint64_t i = 0; i < 2000; i++) {
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), value, sizeof(value), 0), 0);
        CHECK(used_of(f.budget) <= base + 100000);
    }
    uint64_t newest = 1999;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(f.cache, &newest, sizeof(newest), &ref), 0);
    pnx_cache_ref_release(&ref);
    CHECK(stats_of(&f).entries > 10);
    CHECK(stats_of(&f).reclaimed > 0);
    fixture_close(&f);
}

TEST(a_full_cache_makes_its_own_room_and_asks_nobody_elses) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 20000));
    struct pnx_cache *other = NULL;
    struct pnx_cache_opts opts = fixture_opts(&f, PNX_CACHE_OPTS(.capacity = 20000));
    CHECK_EQ(pnx_cache_create(&opts, &f.err, &other), 0);
    char value[1000] = {0};
    for (uint64_t i = 0; i < 100; i++) {
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), value, sizeof(value), 0), 0);
        CHECK_EQ(pnx_cache_put(other, &i, sizeof(i), value, sizeof(value), 0), 0);
    }
    CHECK_EQ(pnx_budget_set_limits(f.budget, used_of(f.budget), used_of(f.budget)), 0);
    struct pnx_cache_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    CHECK_EQ(pnx_cache_read_stats(other, &before), 0);
    for (uint64_t i = 100; i < 300; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), value, sizeof(value), 0), 0);
    CHECK_EQ(pnx_cache_read_stats(other, &after), 0);
    CHECK_EQ(after.bytes, before.bytes);
    pnx_cache_release(&other);
    fixture_close(&f);
}

TEST(a_loaded_value_is_served_when_the_budget_refuses_it) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    uint64_t base = used_of(f.budget);
    CHECK_EQ(pnx_budget_set_limits(f.budget, base, base), 0);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, load_big, NULL, 0, &f.err, &ref), 0);
    CHECK_STR(pnx_cache_ref_data(&ref), "0123456789");
    CHECK_EQ(used_of(f.budget), base + pnx_cache_cost(1, 11)); /* over the limit, but counted */
    CHECK_EQ(stats_of(&f).entries, 0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(used_of(f.budget), base);
    fixture_close(&f);
}

TEST(a_reclaim_frees_what_is_old_and_does_not_empty_the_cache_for_what_is_referred_to) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    for (uint64_t i = 0; i < 100; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "value", 6, 0), 0);
    size_t each = pnx_cache_cost(8, 6);
    CHECK_EQ(pnx_budget_reclaim(f.budget, 10 * each), 10 * each);
    CHECK_EQ(stats_of(&f).entries, 90);
    CHECK_EQ(stats_of(&f).reclaimed, 10 * each);
    uint64_t oldest = 10;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(f.cache, &oldest, sizeof(oldest), &ref), 0);
    for (uint64_t i = 11; i < 100; i++) {
        struct pnx_cache_ref again = {0};
        CHECK_EQ(pnx_cache_get(f.cache, &i, sizeof(i), &again), 0);
        pnx_cache_ref_release(&again);
    }
    CHECK(pnx_budget_reclaim(f.budget, each) <= each);
    CHECK(stats_of(&f).entries >= 88); /* a round or two, not all */
    pnx_cache_ref_release(&ref);
    fixture_close(&f);
}

struct making {
    struct fixture *f;
    int done; /* atomic */
};

static void make_or_reclaim(unsigned index, void *ctx) {
    struct making *m = ctx;
    if (index == 1) {
        while (!__atomic_load_n(&m->done, __ATOMIC_ACQUIRE))
            pnx_budget_reclaim(m->f->budget, 1 << 20);
        return;
    }
    for (int i = 0; i < 500; i++) {
        struct pnx_cache *cache = NULL;
        struct pnx_cache_opts opts = fixture_opts(m->f, PNX_CACHE_OPTS(.capacity = 1 << 20));
        CHECK_EQ(pnx_cache_create(&opts, NULL, &cache), 0);
        pnx_cache_release(&cache);
    }
    __atomic_store_n(&m->done, 1, __ATOMIC_RELEASE);
}

TEST(a_budget_may_ask_a_cache_that_is_still_being_made) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    struct making m = {.f = &f};
    test_threads(2, make_or_reclaim, &m);
    fixture_close(&f);
}

static void put_with_tight_budget(unsigned index, void *ctx) {
    struct fixture *f = ctx;
    uint64_t rng = f->seed + index;
    char value[3000] = {0};
    for (int i = 0; i < (test_slow() ? 2000 : 20000); i++) {
        uint64_t key = test_random(&rng) % 500;
        int rc = pnx_cache_put(f->cache, &key, sizeof(key), value, test_random(&rng) % 3000, 0);
        CHECK_MSG(rc == 0 || rc == -ENOMEM, "%s", pnx_errname(rc));
        struct pnx_cache_ref ref = {0};
        if (pnx_cache_get(f->cache, &key, sizeof(key), &ref) == 0)
            pnx_cache_ref_release(&ref);
        if (i % 100 == 0)
            check_invariants(f);
    }
}

TEST(puts_of_many_threads_under_a_tight_budget_neither_hang_nor_exceed_it) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    uint64_t limit = used_of(f.budget) + 100000;
    CHECK_EQ(pnx_budget_set_limits(f.budget, limit - 20000, limit), 0);
    test_threads(4, put_with_tight_budget, &f);
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(f.budget, &stats), 0);
    CHECK(stats.peak <= limit);
    CHECK_EQ(stats.overcommit, 0);
    fixture_close(&f);
}
