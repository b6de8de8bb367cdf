/* SPDX-License-Identifier: Apache-2.0 */
/* Times to live: after the last use (P11), spread at random, and clocks that go back. */
#include "cache/common.h"

#include <pthread.h>

/* ---- after the last use ---- */

TEST(p11_an_entry_goes_when_nobody_has_used_it_for_its_time) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .ttl_access = 16 * PNX_SEC));
    put_text(&f, "used", "1", 0);
    put_text(&f, "unused", "2", 0);
    for (int i = 0; i < 5; i++) {
        test_env_advance(&f.te, 4 * PNX_SEC);
        check_text(&f, "used", "1");
        if (i == 2)
            check_text(&f, "unused", "2"); /* at 12 s, so it is there until 28 s */
    }
    test_env_advance(&f.te, 8 * PNX_SEC - 1);
    check_text(&f, "used", "1");
    check_invariants(&f);
    test_env_advance(&f.te, 1);
    check_absent(&f, "unused");
    check_text(&f, "used", "1");
    test_env_advance(&f.te, 16 * PNX_SEC - 1); /* the use before was written down 1 ns ago */
    check_absent(&f, "used");
    CHECK_EQ(stats_of(&f).removed_expired, 2);
    fixture_close(&f);
}

TEST(p11_what_comes_first_holds) {
    struct fixture f;
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 10, .ttl = 10 * PNX_SEC, .ttl_access = 4 * PNX_SEC));
    put_text(&f, "k", "1", 0);
    for (int i = 0; i < 3; i++) {
        test_env_advance(&f.te, 3 * PNX_SEC);
        check_text(&f, "k", "1");
    }
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "k"); /* 1 s after its last use, 10 s after it was put */
    put_text(&f, "never", "2", PNX_NEVER);
    test_env_advance(&f.te, 4 * PNX_SEC);
    check_absent(&f, "never");
    fixture_close(&f);
}

/* Each way to find an entry is a use; walks and failed puts are none. */
TEST(p11_each_lookup_is_a_use_and_a_walk_is_none) {
    struct fixture f;
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 10, .ttl_access = 4 * PNX_SEC, .policy = "clock"));
    put_text(&f, "k", "1", 0);
    for (int way = 0; way < 5; way++) {
        struct pnx_cache_ref ref = {0};
        char buf[2];
        uint64_t found;
        test_env_advance(&f.te, 3 * PNX_SEC);
        switch (way) {
        case 0:
            CHECK_EQ(get_text(&f, "k", &ref), 0);
            break;
        case 1:
            CHECK_EQ(pnx_cache_probe(f.cache, "k", 1, &ref), 0);
            break;
        case 2:
            CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, sizeof(buf), NULL), 0);
            break;
        case 3:
            CHECK_EQ(pnx_cache_get_many(f.cache, "k", 1, 1, buf, sizeof(buf), &found), 1);
            break;
        default:
            CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, "2", 2, 0), -EEXIST);
            break;
        }
        pnx_cache_ref_release(&ref);
    }
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "k"); /* the put that failed was none */
    fixture_close(&f);
}

TEST(p11_locked_lookups_are_uses_too) {
    static const char *const policies[] = {"lru", "lfu", "w-tinylfu", "lirs", "sieve", "auto"};
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        struct fixture f;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .ttl_access = 4 * PNX_SEC,
                                 .policy = policies[i]));
        put_text(&f, "k", "1", 0);
        for (int n = 0; n < 4; n++) {
            test_env_advance(&f.te, 3 * PNX_SEC);
            check_text(&f, "k", "1");
        }
        test_env_advance(&f.te, 4 * PNX_SEC);
        check_absent(&f, "k");
        fixture_close(&f);
    }
}

/* A use within min(1 s, ttl/16) of the one that was written down is not, which P11 allows for. */
TEST(p11_a_use_is_written_down_only_when_the_last_one_is_old) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .ttl_access = 16 * PNX_MS));
    put_text(&f, "k", "1", 0);
    test_env_advance(&f.te, PNX_MS - 1);
    check_text(&f, "k", "1"); /* not written down */
    test_env_advance(&f.te, 15 * PNX_MS + 1);
    check_absent(&f, "k");
    put_text(&f, "k", "1", 0);
    test_env_advance(&f.te, PNX_MS);
    check_text(&f, "k", "1"); /* written down */
    test_env_advance(&f.te, 16 * PNX_MS - 1);
    check_text(&f, "k", "1");
    fixture_close(&f);
}

TEST(p11_a_tick_and_an_eviction_spare_what_was_used_meanwhile) {
    struct fixture f;
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 3, .ttl_access = 10 * PNX_SEC, .policy = "fifo"));
    put_text(&f, "a", "1", 0);
    put_text(&f, "b", "2", 0);
    test_env_advance(&f.te, 6 * PNX_SEC);
    check_text(&f, "a", "1");
    test_env_advance(&f.te, 4 * PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), f.te.now + 6 * PNX_SEC);
    CHECK_EQ(stats_of(&f).removed_expired, 1); /* b */
    check_text(&f, "a", "1");
    put_text(&f, "c", "3", 0);
    put_text(&f, "d", "4", 0);
    test_env_advance(&f.te, 9 * PNX_SEC);
    check_text(&f, "c", "3");
    check_text(&f, "a", "1");
    test_env_advance(
            &f.te, 2 * PNX_SEC); /* only d has expired, though the heap names others first */
    put_text(&f, "e", "5", 0);
    check_absent(&f, "d");
    check_text(&f, "a", "1");
    check_text(&f, "c", "3");
    CHECK_EQ(stats_of(&f).removed_size, 0);
    fixture_close(&f);
}

/* However many were used since, an eviction looks at some of them only. */
TEST(p11_an_eviction_among_many_that_were_used_ends_and_evicts) {
    struct fixture f;
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 200, .ttl_access = 10 * PNX_SEC, .policy = "fifo"));
    char key[8];
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", 0);
    }
    test_env_advance(&f.te, 6 * PNX_SEC);
    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof(key), "%d", i);
        check_text(&f, key, "v");
    }
    test_env_advance(&f.te, 6 * PNX_SEC);
    put_text(&f, "more", "v", 0);
    CHECK_EQ(stats_of(&f).removed_size, 1);
    CHECK_EQ(stats_of(&f).removed_expired, 0);
    check_absent(&f, "0"); /* the oldest */
    check_text(&f, "199", "v");
    fixture_close(&f);
}

/* ---- clocks that go back ---- */

TEST(p11_a_clock_that_goes_back_makes_nothing_expire_and_uses_count_from_then) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .ttl = 100 * PNX_SEC,
                             .ttl_access = 10 * PNX_SEC, .ttl_jitter = 10));
    test_env_virtual(&f.te, 1000 * PNX_SEC);
    put_text(&f, "k", "1", 0);
    put_text(&f, "l", "2", 0);
    test_env_virtual(&f.te, 500 * PNX_SEC);
    check_text(&f, "k", "1"); /* and is written down: 500 s */
    pnx_ns next = pnx_cache_tick(f.cache, f.te.now);
    CHECK(next > f.te.now);
    check_invariants(&f);
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_absent(&f, "k");
    check_text(&f, "l", "2");
    put_text(&f, "k", "3", 0);
    check_text(&f, "k", "3");
    test_env_virtual(&f.te, 0);
    check_text(&f, "k", "3");
    check_text(&f, "l", "2");
    CHECK(pnx_cache_tick(f.cache, 0) > 0);
    check_invariants(&f);
    test_env_virtual(&f.te, INT64_MAX - 1);
    check_absent(&f, "k");
    put_text(&f, "end", "4", 0); /* sums do not overflow */
    check_text(&f, "end", "4");
    check_invariants(&f);
    test_env_virtual(&f.te, 5);
    check_text(&f, "end", "4");
    fixture_close(&f);
}

/* ---- spread ---- */

TEST(times_to_live_are_spread_downward_and_by_no_more_than_was_asked_for) {
    enum { N = 1000 };
    struct fixture f;
    fixture_open(
            &f, PNX_CACHE_OPTS(.capacity_entries = 2 * N, .ttl = 100 * PNX_SEC, .ttl_jitter = 20));
    char key[12];
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", 0);
    }
    put_text(&f, "never", "v", PNX_NEVER);
    test_env_advance(&f.te, 80 * PNX_SEC - 1);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof(key), "%d", i);
        check_text(&f, key, "v"); /* none lives for less than 80 s */
    }
    uint64_t gone[5] = {0};
    for (int part = 0; part < 5; part++) { /* a fifth of them goes in each fifth of the last 20 s */
        test_env_advance(&f.te, 4 * PNX_SEC);
        uint64_t before = stats_of(&f).removed_expired;
        while (pnx_cache_tick(f.cache, f.te.now) == f.te.now)
            continue;
        gone[part] = stats_of(&f).removed_expired - before;
        CHECK_MSG(gone[part] > N / 5 - N / 12 && gone[part] < N / 5 + N / 12,
                "%llu of %d in part %d", (unsigned long long)gone[part], N, part);
    }
    test_env_advance(&f.te, 1);
    while (pnx_cache_tick(f.cache, f.te.now) == f.te.now)
        continue;
    CHECK_EQ(stats_of(&f).removed_expired, N);
    check_text(&f, "never", "v");
    fixture_close(&f);
}

TEST(one_key_is_not_always_shortened_by_the_same_time) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 2, .ttl_jitter = 100));
    pnx_ns first = 0;
    bool differs = false;
    for (int i = 0; i < 8; i++) {
        put_text(&f, "k", "v", 1000 * PNX_SEC);
        pnx_ns left = pnx_cache_tick(f.cache, f.te.now) - f.te.now;
        CHECK(left > 0 && left <= 1000 * PNX_SEC);
        differs = differs || (first && left != first);
        first = left;
    }
    CHECK(differs);
    put_text(&f, "k", "v", 1); /* is not shortened to nothing */
    check_text(&f, "k", "v");
    fixture_close(&f);
}

/* ---- options, memory ---- */

TEST(options_of_times_are_checked) {
    struct fixture f;
    fixture_worlds(&f);
    static const struct {
        struct pnx_cache_opts opts;
        const char *field;
    } bad[] = {
            {{.capacity_entries = 1, .ttl_access = -1}, "ttl_access"},
            {{.capacity_entries = 1, .ttl_jitter = 101}, "ttl_jitter"},
            {{.capacity_entries = 1, .reserved = 1}, "reserved"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pnx_cache_opts opts = bad[i].opts;
        opts.size = sizeof(opts);
        CHECK_EQ(pnx_cache_create(&opts, &f.err, &f.cache), -EINVAL);
        CHECK_STR(f.err.field, bad[i].field);
        CHECK(!f.cache);
    }
    fixture_drop(&f);
}

TEST(entries_with_times_count_what_they_take) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20, .ttl_access = PNX_SEC));
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "0123456", 7, 0), 0);
    CHECK_EQ(stats_of(&f).bytes, pnx_cache_cost(1, 7 + PNX_CACHE_TIMES_COST));
    fixture_close(&f);
}

/* ---- threads ---- */

#define HITTERS 4
struct hitting {
    struct fixture *f;
    uint32_t rounds;
};

static void hit(unsigned index, void *ctx) {
    struct hitting *hitting = ctx;
    if (index == 0) {
        for (uint32_t i = 0; i < hitting->rounds; i++) {
            __atomic_add_fetch(&hitting->f->te.now, 100 * PNX_US, __ATOMIC_RELAXED);
            pnx_cache_tick(
                    hitting->f->cache, __atomic_load_n(&hitting->f->te.now, __ATOMIC_RELAXED));
        }
        return;
    }
    for (uint32_t i = 0; i < hitting->rounds; i++) {
        struct pnx_cache_ref ref = {0};
        int rc = get_text(hitting->f, "k", &ref);
        CHECK(rc == 0 || rc == -ENOENT);
        if (rc == 0)
            CHECK_STR(pnx_cache_ref_data(&ref), "v");
        else
            put_text(hitting->f, "k", "v", 0);
        pnx_cache_ref_release(&ref);
    }
}

TEST(p11_hits_ticks_and_expiry_may_meet) {
    struct fixture f;
    fixture_open(
            &f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl_access = PNX_MS, .policy = "clock"));
    struct hitting hitting = {&f, test_slow() ? 5000 : 50000};
    test_threads(HITTERS, hit, &hitting);
    fixture_close(&f);
}
