/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed_memory.c - fixed sizes: memory that cannot be had, and what the budget is charged and asks back. */
#include "cache/fixed_bytes.h"
#include "cache/internal.h"

#include <patinox/cache_policy.h>
#include <patinox/reclaim.h>

static void open_u64(struct fixture *f, struct pnx_cache_opts opts) {
    opts.key_bytes = opts.value_bytes = 8;
    fixture_open(f, &opts);
}

static int put(struct fixture *f, uint64_t key) {
    uint64_t value = ~key;
    return pnx_cache_put(f->cache, &key, 8, &value, 8, 0);
}

static bool there(struct fixture *f, uint64_t key) {
    uint64_t value = 0;
    int rc = pnx_cache_get_copy(f->cache, &key, 8, &value, 8, NULL);
    CHECK(rc == 0 || rc == -ENOENT);
    CHECK(rc != 0 || value == ~key);
    return rc == 0;
}

/* The bytes that are charged once readers have gone on. */
static uint64_t settled(struct fixture *f) {
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return used_of(f->budget);
}

/* ---- every allocation ---- */

/* A life that meets every allocation: creation, the first put, tables, growth, after a clear; the first error ends it. */
static int whole_life(struct test_env *te, void *ctx) {
    const uint32_t *shards = ctx;
    struct life life;
    int rc = life_begin(&life, te,
            PNX_CACHE_OPTS(.capacity_entries = 700, .key_bytes = 8, .value_bytes = 24,
                    .policy = "s3-fifo", .shards = *shards));
    for (int round = 0; round < 2 && rc == 0; round++) {
        uint64_t stored = 0;
        for (uint64_t i = 0; rc == 0 && i < 1000; i++) {
            uint64_t value[3] = {i, i + 1, i + 2};
            rc = pnx_cache_put(life.cache, &i, 8, value, 24, i % 3 ? 3600 * PNX_SEC : 0);
            stored += rc == 0;
        }
        CHECK(rc == 0 || rc == -ENOMEM);
        for (uint64_t i = stored > 500 ? stored : 0; i < stored; i++) { /* nothing was lost */
            uint64_t value[3];
            CHECK_EQ(pnx_cache_get_copy(life.cache, &i, 8, value, 24, NULL), 0);
            CHECK(value[0] == i && value[1] == i + 1 && value[2] == i + 2);
        }
        CHECK_EQ(pnx_cache_check(life.cache, NULL), 0);
        if (rc == 0)
            CHECK_EQ(pnx_cache_clear(life.cache), 0);
    }
    life_end(&life);
    return rc;
}

TEST(every_allocation_may_fail) {
    struct test_env te;
    for (uint32_t shards = 1; shards <= 4; shards *= 4) {
        test_env_init(&te);
        test_fail_each_allocation(&te, whole_life, &shards);
    }
}

/* Each allocation of each put fails once: the first, then the second, until there is none that could. */
TEST(a_put_without_memory_loses_nothing_and_works_once_there_is_some) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 5000));
    uint64_t refused = 0;
    for (uint64_t key = 0; key < 5000; key++) {
        int rc = -ENOMEM;
        for (int64_t fail_at = 1; rc != 0; fail_at++) {
            f.te.allocations = 0;
            f.te.fail_at = fail_at;
            rc = put(&f, key);
            f.te.fail_at = 0;
            if (rc == 0)
                break;
            CHECK_EQ(rc, -ENOMEM);
            CHECK_EQ(stats_of(&f).rejected, ++refused);
            CHECK(!there(&f, key));
            CHECK(key == 0 || there(&f, key - 1));
            check_invariants(&f);
        }
    }
    CHECK(refused > 30); /* several times for each of the tables */
    for (uint64_t key = 0; key < 5000; key++)
        CHECK(there(&f, key));
    fixture_close(&f);
}

/* ---- the budget ---- */

/* What the tables of all shards charge. */
static uint64_t tables(struct fixture *f) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < f->cache->n_shards; i++)
        bytes += f->cache->shards[i].own_table->charged;
    return bytes;
}

TEST(tables_are_charged_whole_and_come_back_with_a_clear) {
    for (uint32_t shards = 1; shards <= 4; shards *= 4) {
        struct fixture f;
        open_u64(
                &f, *PNX_CACHE_OPTS(.capacity_entries = 3000, .policy = "sieve", .shards = shards));
        uint64_t base = used_of(f.budget), cost = pnx_cache_cost_fixed(8, 8);
        CHECK(base > 0);
        for (int round = 0; round < 3; round++) {
            for (uint64_t i = 0; i < 5000; i++) {
                CHECK_EQ(put(&f, i), 0);
                CHECK((used_of(f.budget) - base) % cost == 0);
                CHECK(used_of(f.budget) - base >= stats_of(&f).bytes);
            }
            CHECK_EQ(settled(&f), base + tables(&f));
            CHECK(tables(&f) < 3000 * cost * 9 / 8); /* room for an eighth more at most */
            uint64_t full = used_of(f.budget), keys = 0;
            for (uint64_t i = 0; i < 5000; i++)
                keys += pnx_cache_remove(f.cache, &i, 8) == 0;
            CHECK_EQ(keys, 3000);
            CHECK_EQ(settled(&f), full); /* a removal gives nothing back */
            CHECK_EQ(stats_of(&f).bytes, 0);
            CHECK_EQ(pnx_cache_clear(f.cache), 0);
            CHECK_EQ(settled(&f), base);
            check_invariants(&f);
        }
        CHECK_EQ(put(&f, 1), 0);
        CHECK_EQ(used_of(f.budget), base + PNX_CACHE_FIRST_SLOTS * cost);
        fixture_close(&f); /* which sees that nothing is left */
    }
}

TEST(tables_and_what_the_policy_remembers_take_no_more_than_is_charged) {
    for (size_t i = 0; pnx_cache_policy_at(i); i++) {
        struct fixture f;
        open_u64(&f,
                *PNX_CACHE_OPTS(.capacity_entries = 10000, .policy = pnx_cache_policy_at(i)->name));
        for (uint64_t n = 0; n < 20000; n++) {
            CHECK_EQ(put(&f, n), 0);
            if (n % 100 == 99)
                CHECK_MSG(stats_of(&f).index <= used_of(f.budget),
                        "%s, %llu puts: %llu bytes, %llu are charged", pnx_cache_policy_at(i)->name,
                        (unsigned long long)n, (unsigned long long)stats_of(&f).index,
                        (unsigned long long)used_of(f.budget));
        }
        CHECK_EQ(pnx_cache_clear(f.cache), 0);
        fixture_close(&f);
    }
}

TEST(a_budget_that_refuses_a_table_is_enomem_and_nothing_is_lost) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 100000));
    uint64_t base = used_of(f.budget), stored = 0;
    uint64_t first = PNX_CACHE_FIRST_SLOTS * pnx_cache_cost_fixed(8, 8);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, base), 0);
    CHECK_EQ(put(&f, 0), -ENOMEM); /* there is nothing of its own to give back, either */
    CHECK_EQ(stats_of(&f).rejected, 1);
    check_invariants(&f);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, base + first), 0);
    while (stored < PNX_CACHE_FIRST_SLOTS)
        CHECK_EQ(put(&f, stored++), 0);
    uint64_t value = 7, key = 0;
    CHECK_EQ(pnx_cache_put(f.cache, &key, 8, &value, 8, 0), 0); /* in its place */
    CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, &value, 8, NULL), 0);
    CHECK_EQ(value, 7);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, base + first + 1), 0);
    CHECK_EQ(stats_of(&f).entries, stored);
    fixture_close(&f);
}

TEST(at_the_hard_limit_a_put_gets_its_table_from_what_the_cache_gives_back) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 100000, .policy = "sieve", .shards = 4));
    uint64_t base = used_of(f.budget), refused = 0;
    uint64_t limit = base + 20 * PNX_CACHE_FIRST_SLOTS * pnx_cache_cost_fixed(8, 8);
    CHECK_EQ(pnx_budget_set_limits(f.budget, limit, limit), 0);
    for (uint64_t i = 0; i < 60 * PNX_CACHE_PAGE_SLOTS * 8; i++) {
        int rc = put(&f, i);
        CHECK(rc == 0 || rc == -ENOMEM);
        refused += rc != 0;
        CHECK_EQ(there(&f, i), rc == 0);
        CHECK(used_of(f.budget) <= limit);
    }
    CHECK(stats_of(&f).reclaimed > 0);
    CHECK_EQ(stats_of(&f).rejected, refused);
    CHECK(stats_of(&f).entries > 0);
    check_invariants(&f);
    fixture_close(&f);
}

TEST(a_reclaim_empties_the_largest_shard_first_and_no_more_than_is_wanted) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 20000, .policy = "sieve", .shards = 4));
    uint64_t base = used_of(f.budget);
    for (uint64_t i = 0; i < 8000; i++)
        CHECK_EQ(put(&f, i), 0);
    uint64_t full = settled(&f); /* without tables that have been replaced */
    uint64_t largest = 0, most = 0;
    for (uint32_t s = 0; s < 4; s++) {
        uint64_t bytes = f.cache->shards[s].own_table->charged;
        largest = bytes > most ? s : largest;
        most = bytes > most ? bytes : most;
    }
    CHECK_EQ(pnx_budget_reclaim(f.budget, 1), most);
    CHECK_EQ(f.cache->shards[largest].live, 0);
    CHECK_EQ(settled(&f), full - most);
    struct pnx_cache_stats s = stats_of(&f);
    CHECK_EQ(s.reclaimed, most);
    CHECK_EQ(s.entries, 8000 - s.removed_size);
    CHECK(s.removed_size > 1000 && s.removed_size < 4000);
    CHECK_EQ(s.removed_clear, 0);
    check_invariants(&f);
    CHECK_EQ(pnx_budget_reclaim(f.budget, SIZE_MAX / 2), full - most - base);
    CHECK_EQ(settled(&f), base);
    CHECK_EQ(stats_of(&f).entries, 0);
    CHECK_EQ(pnx_budget_reclaim(f.budget, SIZE_MAX / 2), 0);
    CHECK_EQ(put(&f, 1), 0);
    CHECK(there(&f, 1));
    fixture_close(&f);
}

TEST(a_reclaim_gets_the_tables_of_shards_that_have_removed_all) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 20000, .policy = "sieve", .shards = 8));
    uint64_t base = used_of(f.budget);
    for (uint64_t i = 0; i < 8000; i++)
        CHECK_EQ(put(&f, i), 0);
    for (uint64_t i = 0; i < 8000; i++)
        CHECK_EQ(pnx_cache_remove(f.cache, &i, 8), 0);
    uint64_t full = settled(&f);
    CHECK(full > base);
    CHECK_EQ(pnx_budget_reclaim(f.budget, SIZE_MAX / 2), full - base);
    CHECK_EQ(settled(&f), base);
    check_invariants(&f);
    fixture_close(&f);
}

/* A close has said that it closes, and has not raised the number yet that takes what is stored away. */
TEST(a_reclaim_that_meets_a_close_counts_what_it_takes_as_evicted) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 1000));
    for (uint64_t i = 0; i < 100; i++)
        CHECK_EQ(put(&f, i), 0);
    f.cache->closed.v = 1;
    CHECK(pnx__cache_reclaim(f.cache, 1) > 0);
    f.cache->closed.v = 0;
    CHECK_EQ(stats_of(&f).removed_size, 100);
    CHECK_EQ(stats_of(&f).removed_clear, 0);
    CHECK_EQ(stats_of(&f).removed_closed, 0);
    check_invariants(&f);
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
    for (int i = 0; i < (test_slow() ? 50 : 200); i++) {
        struct pnx_cache *cache = NULL;
        struct pnx_cache_opts opts = fixture_opts(
                m->f, PNX_CACHE_OPTS(.capacity = 1 << 20, .key_bytes = 8, .value_bytes = 8));
        CHECK_EQ(pnx_cache_create(&opts, NULL, &cache), 0);
        for (uint64_t k = 0; k < 100; k++)
            CHECK_EQ(pnx_cache_put(cache, &k, 8, &k, 8, 0), 0);
        pnx_cache_release(&cache);
    }
    __atomic_store_n(&m->done, 1, __ATOMIC_RELEASE);
}

TEST(a_budget_may_ask_a_cache_that_is_made_filled_or_released) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity = 1 << 20));
    struct making m = {.f = &f};
    test_threads(2, make_or_reclaim, &m);
    fixture_close(&f);
}

static void put_with_tight_budget(unsigned index, void *ctx) {
    struct fixture *f = ctx;
    uint64_t rng = f->seed + index;
    for (int i = 0; i < (test_slow() ? 3000 : 30000); i++) {
        uint64_t key = test_random(&rng) % 20000;
        int rc = put(f, key);
        CHECK_MSG(rc == 0 || rc == -ENOMEM, "%s", pnx_errname(rc));
        there(f, test_random(&rng) % 20000);
        if (i % 500 == 0)
            check_invariants(f);
    }
}

TEST(puts_of_many_threads_under_a_tight_budget_neither_hang_nor_exceed_it) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity = 4 << 20, .policy = "sieve", .shards = 4));
    uint64_t limit = used_of(f.budget) + 640 * 1024;
    CHECK_EQ(pnx_budget_set_limits(f.budget, limit - 20000, limit), 0);
    test_threads(4, put_with_tight_budget, &f);
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(f.budget, &stats), 0);
    CHECK(stats.peak <= limit);
    CHECK_EQ(stats.overcommit, 0);
    CHECK(stats_of(&f).reclaimed > 0);
    fixture_close(&f);
}
