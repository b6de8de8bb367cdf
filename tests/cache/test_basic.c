/* SPDX-License-Identifier: Apache-2.0 */
/* The cache through its public functions, one property at a time: P1..P3, P8, P9, limits, options, bad input. */
#include "cache/common.h"

#include <patinox/cache_policy.h>
#include <patinox/reclaim.h>
#include <patinox/shutdown.h>

#include <unistd.h>

/* ---- finding ---- */

TEST(a_value_is_found_by_its_whole_key) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    put_text(&f, "key", "value", 0);
    put_text(&f, "key2", "other", 0);
    check_text(&f, "key", "value");
    check_text(&f, "key2", "other");
    check_absent(&f, "ke");
    check_absent(&f, "");
    CHECK_EQ(pnx_cache_put(f.cache, "a\0b", 3, "x", 2, 0), 0);
    check_absent(&f, "a");
    fixture_close(&f);
}

TEST(an_empty_key_is_a_key_and_an_empty_value_a_value) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 4096));
    CHECK_EQ(pnx_cache_put(f.cache, NULL, 0, "nothing", 8, 0), 0);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, NULL, 0, 0), 0);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(f.cache, NULL, 0, &ref), 0);
    CHECK_STR(pnx_cache_ref_data(&ref), "nothing");
    size_t n = 77;
    CHECK(pnx_cache_ref_key(&ref, &n) != NULL);
    CHECK_EQ(n, 0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(pnx_cache_get(f.cache, "k", 1, &ref), 0);
    CHECK(pnx_cache_ref_data(&ref) != NULL);
    CHECK_EQ(pnx_cache_ref_size(&ref), 0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, NULL, 0, &n), 0);
    CHECK_EQ(n, 0);
    fixture_close(&f);
}

TEST(a_huge_key_and_a_huge_value_are_kept_whole) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 64 << 20));
    size_t n = 5 << 20;
    char *big = malloc(n);
    memset(big, 'b', n);
    CHECK_EQ(pnx_cache_put(f.cache, big, n, big, n, 0), 0);
    big[n - 1] = 'c';
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(f.cache, big, n, &ref), -ENOENT);
    big[n - 1] = 'b';
    CHECK_EQ(pnx_cache_get(f.cache, big, n, &ref), 0);
    CHECK_EQ(memcmp(pnx_cache_ref_data(&ref), big, n), 0);
    pnx_cache_ref_release(&ref);
    char *copy = malloc(n);
    size_t size = 0;
    CHECK_EQ(pnx_cache_get_copy(f.cache, big, n, copy, n - 1, &size), -ERANGE);
    CHECK_EQ(size, n);
    CHECK_EQ(pnx_cache_get_copy(f.cache, big, n, copy, n, &size), 0);
    CHECK_EQ(memcmp(copy, big, n), 0);
    free(copy);
    free(big);
    fixture_close(&f);
}

TEST(values_are_aligned_to_16) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 64));
    for (size_t n = 0; n < 40; n++) {
        char key[48];
        memset(key, 'x', sizeof(key));
        CHECK_EQ(pnx_cache_put(f.cache, key, n, key, n, 0), 0);
        struct pnx_cache_ref ref = {0};
        CHECK_EQ(pnx_cache_get(f.cache, key, n, &ref), 0);
        CHECK_EQ((uintptr_t)pnx_cache_ref_data(&ref) % 16, 0);
        pnx_cache_ref_release(&ref);
    }
    fixture_close(&f);
}

TEST(copy_says_what_it_needs_and_copies_nothing_when_it_does_not_fit) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "0123456789", 0);
    char buf[16] = "untouched";
    size_t size = 0;
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, 10, &size), -ERANGE);
    CHECK_EQ(size, 11);
    CHECK_STR(buf, "untouched");
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, 11, NULL), 0);
    CHECK_STR(buf, "0123456789");
    size = 99;
    CHECK_EQ(pnx_cache_get_copy(f.cache, "none", 4, buf, 11, &size), -ENOENT);
    CHECK_EQ(size, 99);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "p", 1, buf, 16, 0), 0);
    CHECK_EQ(pnx_cache_get_copy(f.cache, "p", 1, buf, 16, &size), -ENOTSUP);
    fixture_close(&f);
}

/* ---- putting ---- */

TEST(put_replaces_and_put_if_absent_does_not) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "one", 0);
    put_text(&f, "k", "two", 0);
    check_text(&f, "k", "two");
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, "three", 6, 0), -EEXIST);
    check_text(&f, "k", "two");
    CHECK_EQ(pnx_cache_put_pointer_if_absent(f.cache, "k", 1, &f, 6, 0), -EEXIST);
    CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, "three", 6, 0), 0);
    check_text(&f, "k", "three");
    struct pnx_cache_stats stats = stats_of(&f);
    CHECK_EQ(stats.inserts, 3);
    CHECK_EQ(stats.removed_replaced, 1);
    CHECK_EQ(stats.removed_explicit, 1);
    CHECK_EQ(stats.entries, 1);
    fixture_close(&f);
}

TEST(remove_says_whether_there_was_something) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "one", 0);
    CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
    CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), -ENOENT);
    check_absent(&f, "k");
    fixture_close(&f);
}

/* ---- size ---- */

TEST(p1_bytes_are_what_the_cost_function_tells) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    uint64_t sum = 0;
    for (size_t n = 0; n < 200; n++) {
        char key[200] = {0};
        CHECK_EQ(pnx_cache_put(f.cache, key, n, key, n / 2, 0), 0);
        sum += pnx_cache_cost(n, n / 2);
        CHECK_EQ(stats_of(&f).bytes, sum);
    }
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "p", 1, &f, 5000, 0), 0);
    CHECK_EQ(stats_of(&f).bytes, sum + pnx_cache_cost(1, sizeof(void *)) + 5000);
    CHECK_EQ(pnx_cache_cost(SIZE_MAX, 1), SIZE_MAX);
    CHECK_EQ(pnx_cache_cost(1, SIZE_MAX), SIZE_MAX);
    CHECK_EQ(pnx_cache_cost(SIZE_MAX / 2, SIZE_MAX / 2), SIZE_MAX);
    fixture_close(&f);
}

TEST(p1_memory_really_used_stays_within_the_capacity_and_the_base) {
    struct fixture f;
    size_t capacity = 4 << 20;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = capacity));
    int64_t before = f.te.live_bytes;
    uint64_t rng = test_seed();
    for (int i = 0; i < (test_slow() ? 20000 : 200000); i++) {
        char value[2048] = {0};
        uint64_t key = test_random(&rng) % 100000;
        CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), value, test_random(&rng) % 300, 0), 0);
        /* Twice what a thread may have retired: some of it waits while the next is retired. */
        CHECK_MSG(f.te.live_bytes - before <= (int64_t)capacity + 16384 + 128 * 512,
                "%lld bytes at put %d", (long long)(f.te.live_bytes - before), i);
    }
    CHECK(stats_of(&f).bytes <= capacity);
    CHECK(stats_of(&f).bytes > capacity - 1024);
    fixture_close(&f);
}

TEST(p1_memory_of_the_index_goes_with_the_entries) {
    struct fixture f;
    uint64_t n = test_slow() ? 20000 : 200000;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = n));
    int64_t before = f.te.live_bytes;
    for (uint64_t i = 0; i < n; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "", 0, 0), 0);
    check_invariants(&f);
    CHECK(stats_of(&f).index > 40 * n);
    CHECK(stats_of(&f).index <= 16384 + 88 * n);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, n / 100, NULL), 0);
    check_invariants(&f);
    for (uint64_t i = n - n / 100; i < n; i++) {
        struct pnx_cache_ref ref = {0};
        CHECK_EQ(pnx_cache_get(f.cache, &i, sizeof(i), &ref), 0);
        pnx_cache_ref_release(&ref);
    }
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(stats_of(&f).index, 0);
    CHECK(f.te.live_bytes - before <= 16384);
    check_invariants(&f);
    for (uint64_t i = 0; i < 1000; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "", 0, 0), 0);
    fixture_close(&f);
}

TEST(p1_one_entry_of_exactly_the_capacity_fits_and_one_byte_more_does_not) {
    struct fixture f;
    size_t capacity = 8192 + pnx_cache_cost(1, 0) - 64 + 64;
    size_t size = 1;
    while (pnx_cache_cost(1, size + 1) <= capacity)
        size++;
    char *value = calloc(1, size + 1);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = capacity));
    put_text(&f, "other", "x", 0);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, value, size, 0), 0);
    CHECK_EQ(stats_of(&f).entries, 1);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, value, size + 1, 0), -EFBIG);
    CHECK_EQ(stats_of(&f).rejected, 1);
    free(value);
    fixture_close(&f);
}

TEST(p1_a_cache_of_one_entry_holds_one) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1));
    for (int i = 0; i < 100; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", 0);
        CHECK_EQ(stats_of(&f).entries, 1);
        check_text(&f, key, "v");
    }
    CHECK_EQ(stats_of(&f).removed_size, 99);
    fixture_close(&f);
}

TEST(p2_the_least_recently_used_goes_first) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 3));
    put_text(&f, "a", "1", 0);
    put_text(&f, "b", "2", 0);
    put_text(&f, "c", "3", 0);
    check_text(&f, "a", "1"); /* b is the oldest now */
    put_text(&f, "d", "4", 0);
    check_absent(&f, "b");
    char buf[4];
    CHECK_EQ(pnx_cache_get_copy(f.cache, "c", 1, buf, 4, NULL), 0); /* a is */
    put_text(&f, "e", "5", 0);
    check_absent(&f, "a");
    check_text(&f, "c", "3");
    check_text(&f, "d", "4");
    check_text(&f, "e", "5");
    fixture_close(&f);
}

TEST(p2_what_has_expired_goes_before_what_is_old) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 3));
    put_text(&f, "old", "1", 0);
    put_text(&f, "mid", "2", PNX_SEC);
    put_text(&f, "new", "3", 0);
    test_env_advance(&f.te, PNX_SEC);
    put_text(&f, "one more", "4", 0);
    check_text(&f, "old", "1");
    struct pnx_cache_stats stats = stats_of(&f);
    CHECK_EQ(stats.removed_expired, 1);
    CHECK_EQ(stats.removed_size, 0);
    fixture_close(&f);
}

TEST(p9_a_put_that_fails_leaves_no_older_value) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 4096));
    char big[8192] = {0};
    put_text(&f, "k", "stale", 0);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, big, sizeof(big), 0), -EFBIG);
    check_absent(&f, "k");
    put_text(&f, "k", "stale", 0);
    f.te.allocations = 0;
    f.te.fail_at = 1;
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "fresh", 6, 0), -ENOMEM);
    f.te.fail_at = 0;
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 2);
    CHECK_EQ(stats_of(&f).removed_replaced, 2);
    put_text(&f, "k", "kept", 0);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, big, sizeof(big), 0), -EFBIG);
    check_text(&f, "k", "kept");
    fixture_close(&f);
}

TEST(resize_evicts_at_once_and_refuses_no_limit_at_all) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000));
    for (int i = 0; i < 1000; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", 0);
    }
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 10, &f.err), 0);
    CHECK_EQ(stats_of(&f).entries, 10);
    check_text(&f, "990", "v");
    check_absent(&f, "989");
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 0, &f.err), -EINVAL);
    CHECK_CONTAINS(
            f.err.message, "cache.capacity, capacity_entries or capacity_weight is required");
    CHECK_EQ(pnx_cache_resize(f.cache, 10, 0, &f.err), -EINVAL);
    CHECK_STR(f.err.field, "capacity");
    CHECK_EQ(stats_of(&f).capacity_entries, 10);
    CHECK_EQ(pnx_cache_resize(f.cache, 1024, 0, &f.err), 0);
    CHECK(stats_of(&f).bytes <= 1024);
    CHECK_EQ(stats_of(&f).capacity, 1024);
    CHECK_EQ(stats_of(&f).capacity_entries, 0);
    fixture_close(&f);
}

/* ---- time ---- */

TEST(p3_an_entry_is_found_until_its_time_and_never_after) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .ttl = 10 * PNX_SEC));
    put_text(&f, "default", "1", 0);
    put_text(&f, "short", "2", 1);
    put_text(&f, "never", "3", PNX_NEVER);
    check_text(&f, "short", "2");
    test_env_advance(&f.te, 1);
    check_absent(&f, "short");
    test_env_advance(&f.te, 10 * PNX_SEC - 2);
    check_text(&f, "default", "1");
    test_env_advance(&f.te, 1);
    check_absent(&f, "default");
    char buf[4];
    CHECK_EQ(pnx_cache_get_copy(f.cache, "default", 7, buf, 4, NULL), -ENOENT);
    test_env_advance(&f.te, INT64_MAX / 2);
    check_text(&f, "never", "3");
    CHECK_EQ(stats_of(&f).removed_expired, 2);
    fixture_close(&f);
}

TEST(p3_reading_does_not_lengthen_the_time_and_putting_does) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "k", "1", PNX_SEC);
    test_env_advance(&f.te, PNX_SEC / 2);
    check_text(&f, "k", "1");
    put_text(&f, "k", "2", PNX_SEC);
    test_env_advance(&f.te, PNX_SEC / 2);
    check_text(&f, "k", "2");
    test_env_advance(&f.te, PNX_SEC / 2);
    check_absent(&f, "k");
    fixture_close(&f);
}

TEST(p3_a_clock_that_jumps_ahead_expires_all_and_one_that_jumps_back_nothing) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    for (int i = 0; i < 50; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", PNX_SEC * (i + 1));
    }
    test_env_virtual(&f.te, 0);
    check_text(&f, "0", "v");
    put_text(&f, "late", "v", INT64_MAX - 1); /* the sum does not overflow */
    CHECK_EQ(pnx_cache_tick(f.cache, 0), 2 * PNX_SEC);
    test_env_virtual(&f.te, INT64_MAX - 2);
    check_absent(&f, "49");
    check_text(&f, "late", "v");
    CHECK_EQ(pnx_cache_tick(f.cache, INT64_MAX - 2), INT64_MAX - 2);
    fixture_close(&f);
}

TEST(p3_put_if_absent_and_each_do_not_see_what_has_expired) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "k", "1", PNX_SEC);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, "2", 2, PNX_SEC), 0);
    check_text(&f, "k", "2");
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), -ENOENT);
    CHECK_EQ(stats_of(&f).removed_expired, 2);
    fixture_close(&f);
}

TEST(a_tick_removes_a_bounded_number_and_says_when_it_is_wanted_next) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    pnx_ns start = f.te.now;
    CHECK_EQ(pnx_cache_tick(f.cache, start), PNX_NEVER);
    for (int i = 0; i < 20; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", i < 19 ? PNX_SEC : 5 * PNX_SEC);
    }
    CHECK_EQ(pnx_cache_tick(f.cache, start), start + PNX_SEC);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), f.te.now);
    CHECK_EQ(stats_of(&f).entries, 20 - PNX_CACHE_TICK_MAX);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), f.te.now);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), start + 5 * PNX_SEC);
    CHECK_EQ(stats_of(&f).entries, 1);
    CHECK_EQ(stats_of(&f).removed_expired, 19);
    fixture_close(&f);
}

TEST(a_new_ttl_holds_for_what_is_put_from_then_on) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .ttl = PNX_SEC));
    put_text(&f, "before", "1", 0);
    CHECK_EQ(pnx_cache_set_ttl(f.cache, 3 * PNX_SEC, &f.err), 0);
    put_text(&f, "after", "2", 0);
    CHECK_EQ(pnx_cache_set_ttl(f.cache, 0, &f.err), 0);
    put_text(&f, "never", "3", 0);
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "before");
    check_text(&f, "after", "2");
    test_env_advance(&f.te, 2 * PNX_SEC);
    check_absent(&f, "after");
    test_env_advance(&f.te, 1000 * PNX_SEC);
    check_text(&f, "never", "3");
    CHECK_EQ(pnx_cache_set_ttl(f.cache, -1, &f.err), -EINVAL);
    CHECK_STR(f.err.field, "ttl");
    fixture_close(&f);
}

/* ---- many ---- */

TEST(clear_removes_all_and_nothing_later) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000));
    for (int i = 0; i < 500; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", i % 2 ? PNX_SEC : 0);
    }
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(stats_of(&f).entries, 0);
    CHECK_EQ(stats_of(&f).bytes, 0);
    CHECK_EQ(stats_of(&f).removed_clear, 500);
    check_absent(&f, "7");
    put_text(&f, "7", "again", 0);
    check_text(&f, "7", "again");
    fixture_close(&f);
}

static int count_up(void *ctx, const struct pnx_cache_ref *ref) {
    CHECK(ref->entry);
    return ++*(int *)ctx == 10 ? -EIO : 0;
}

TEST(a_walk_ends_early_with_what_its_visitor_returned) {
    struct fixture f;
    int n = 0;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    CHECK_EQ(pnx_cache_each(f.cache, count_up, &n), 0);
    for (int i = 0; i < 100; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%d", i);
        put_text(&f, key, "v", 0);
    }
    CHECK_EQ(pnx_cache_each(f.cache, count_up, &n), -EIO);
    CHECK_EQ(n, 10);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

TEST(a_walk_is_no_use) {
    struct fixture f;
    int n = 0;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 2));
    put_text(&f, "a", "1", 0);
    put_text(&f, "b", "2", 0);
    CHECK_EQ(pnx_cache_each(f.cache, count_up, &n), 0);
    put_text(&f, "c", "3", 0);
    check_absent(&f, "a");
    CHECK_EQ(stats_of(&f).hits, 0);
    fixture_close(&f);
}

struct churn {
    struct fixture *f;
    bool seen[3000];
    int visits;
};

/* Removes others, adds others, grows and shrinks the index: those that stay are seen once each all the same. */
static int churn_visit(void *ctx, const struct pnx_cache_ref *ref) {
    struct churn *c = ctx;
    uint32_t key;
    memcpy(&key, pnx_cache_ref_key(ref, NULL), sizeof(key));
    CHECK(key < 3000 && !c->seen[key]);
    c->seen[key] = true;
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t odd = (uint32_t)(c->visits * 20 + (int)i) % 3000 | 1;
        pnx_cache_remove(c->f->cache, &odd, sizeof(odd));
        uint32_t fresh = 3000 + (uint32_t)(c->visits * 20 + (int)i);
        CHECK_EQ(pnx_cache_put(c->f->cache, &fresh, sizeof(fresh), "", 0, 0), 0);
    }
    c->visits++;
    return 0;
}

TEST(a_walk_visits_once_each_entry_that_stays_while_others_come_and_go) {
    static struct churn c;
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 256 << 20));
    c.f = &f;
    for (uint32_t i = 0; i < 3000; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "", 0, 0), 0);
    CHECK_EQ(pnx_cache_each(f.cache, churn_visit, &c), 0);
    for (uint32_t i = 0; i < 3000; i += 2)
        CHECK(c.seen[i]);
    check_invariants(&f);
    fixture_close(&f);
}

/* ---- options and bad input ---- */

TEST(create_names_the_option_at_fault) {
    struct fixture f;
    fixture_worlds(&f);
    struct pnx_cache *cache = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_cache_create(NULL, &err, &cache), -EINVAL);
    CHECK_STR(err.field, "capacity");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = 100), &err, &cache), -EINVAL);
    CHECK_STR(err.message,
            "cache.capacity is 100B; it must be between 1KiB and 9223372036854775807B");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity_entries = UINT64_MAX), &err, &cache),
            -EINVAL);
    CHECK_STR(err.field, "capacity_entries");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = 4096, .ttl = -1), &err, &cache), -EINVAL);
    CHECK_STR(err.field, "ttl");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = 4096, .flags = 1), &err, &cache), -EINVAL);
    CHECK_STR(err.field, "flags");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = 4096, .policy = "best"), &err, &cache),
            -EINVAL);
    CHECK_STR(err.field, "policy");
    CHECK_STR(err.message, "cache.policy is \"best\", which is none");
    CHECK_EQ(
            pnx_cache_create(PNX_CACHE_OPTS(.capacity = 4096, .shards = 3), &err, &cache), -EINVAL);
    CHECK_STR(err.field, "shards");
    struct pnx_cache_policy strange = {.size = 8};
    CHECK_EQ(pnx_cache_create(
                     PNX_CACHE_OPTS(.capacity = 4096, .custom_policy = &strange), &err, &cache),
            -EINVAL);
    CHECK_STR(err.field, "custom_policy");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = 4096), &err, NULL), -EINVAL);
    struct {
        struct pnx_cache_opts opts;
        uint64_t newer;
    } longer = {.opts = *PNX_CACHE_OPTS(.capacity = 4096), .newer = 1};
    longer.opts.size = sizeof(longer);
    CHECK_EQ(pnx_cache_create(&longer.opts, &err, &cache), -E2BIG);
    CHECK(!cache);
    fixture_close(&f);
}

TEST(options_are_set_from_text) {
    struct pnx_cache_opts opts = *PNX_CACHE_OPTS(.capacity = 4096);
    struct pnx_error err;
    CHECK_EQ(pnx_cache_opts_set(&opts, "capacity", "64MiB", &err), 0);
    CHECK_EQ(opts.capacity, 64 << 20);
    CHECK_EQ(pnx_cache_opts_set(&opts, "ttl", "90s", &err), 0);
    CHECK_EQ(opts.ttl, 90 * PNX_SEC);
    CHECK_EQ(pnx_cache_opts_set(&opts, "capacity_entries", "10", &err), 0);
    CHECK_EQ(opts.capacity_entries, 10);
    CHECK_EQ(pnx_cache_opts_set(&opts, "negative_ttl", "never", &err), 0);
    CHECK_EQ(opts.negative_ttl, PNX_NEVER);
    CHECK_EQ(pnx_cache_opts_set(&opts, "colour", "blue", &err), -ENOENT);
    CHECK_EQ(pnx_cache_opts_set(&opts, "name", "x", &err), -ENOTSUP);
    CHECK_EQ(pnx_cache_opts_set(&opts, "ttl", "soon", &err), -EINVAL);
    CHECK_EQ(pnx_cache_opts_set(&opts, "capacity", "1B", &err), -ERANGE);
    CHECK_EQ(pnx_cache_opts_set(NULL, "ttl", "1s", &err), -EINVAL);
    CHECK_EQ(opts.ttl, 90 * PNX_SEC);
}

TEST(bad_arguments_are_refused_and_touch_nothing) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_ref ref = {.source = 77};
    char buf[4];
    CHECK_EQ(pnx_cache_get(NULL, "k", 1, &ref), -EINVAL);
    CHECK_EQ(pnx_cache_get(f.cache, NULL, 1, &ref), -EINVAL);
    CHECK_EQ(pnx_cache_get(f.cache, "k", 1, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_get(f.cache, "k", 1, &ref), -ENOENT);
    CHECK_EQ(ref.source, 77);
    CHECK_EQ(pnx_cache_get_copy(f.cache, NULL, 1, buf, 4, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, NULL, 4, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_put(NULL, "k", 1, "v", 1, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, NULL, 1, "v", 1, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, NULL, 1, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "v", 1, -5), -EINVAL);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "k", 1, NULL, 0, 0), -EINVAL);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "v", SIZE_MAX, 0), -EFBIG);
    CHECK_EQ(pnx_cache_put(f.cache, "k", SIZE_MAX, "v", 1, 0), -EFBIG);
    CHECK_EQ(pnx_cache_remove(NULL, "k", 1), -EINVAL);
    CHECK_EQ(pnx_cache_remove(f.cache, NULL, 1), -EINVAL);
    CHECK_EQ(pnx_cache_clear(NULL), -EINVAL);
    CHECK_EQ(pnx_cache_each(f.cache, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_each(NULL, count_up, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_close(NULL), -EINVAL);
    CHECK_EQ(pnx_cache_tick(NULL, 0), PNX_NEVER);
    CHECK_EQ(pnx_cache_resize(NULL, 4096, 0, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_set_ttl(NULL, 1, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_read_stats(f.cache, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_read_stats(f.cache, &(struct pnx_cache_stats){.size = 0}), -EINVAL);
    CHECK_EQ(pnx_cache_check(NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_ref_dup(&(struct pnx_cache_ref){0}, &ref), -EINVAL);
    CHECK_EQ(pnx_cache_ref_dup(NULL, &ref), -EINVAL);
    CHECK(pnx_cache_ref_data(NULL) == NULL);
    CHECK_EQ(pnx_cache_ref_size(NULL), 0);
    size_t n = 5;
    CHECK(pnx_cache_ref_key(&(struct pnx_cache_ref){0}, &n) == NULL);
    CHECK_EQ(n, 0);
    pnx_cache_ref_release(NULL);
    pnx_cache_ref_release(&(struct pnx_cache_ref){0});
    pnx_cache_release(NULL);
    pnx_cache_release(&(struct pnx_cache *){NULL});
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
}

TEST(a_shorter_stats_struct_is_filled_as_far_as_it_goes) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    check_absent(&f, "k");
    struct pnx_cache_stats stats = {.size = offsetof(struct pnx_cache_stats, negative_hits)};
    stats.negative_hits = 42;
    CHECK_EQ(pnx_cache_read_stats(f.cache, &stats), 0);
    CHECK_EQ(stats.misses, 1);
    CHECK_EQ(stats.negative_hits, 42);
    fixture_close(&f);
}

/* ---- cost, order ---- */

TEST(p8_a_hit_allocates_nothing) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .ttl = PNX_SEC));
    put_text(&f, "k", "v", 0);
    int64_t before = f.te.allocations;
    char buf[4];
    for (int i = 0; i < 100; i++) {
        check_text(&f, "k", "v");
        check_absent(&f, "none");
        CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, 4, NULL), 0);
    }
    CHECK_EQ(f.te.allocations, before);
    fixture_close(&f);
}

TEST(a_put_over_a_full_cache_allocates_one_block) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    for (int i = 0; i < 1000; i++) {
        int64_t before = f.te.allocations;
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "v", 1, 0), 0);
        if (i > 200)
            CHECK_EQ(f.te.allocations, before + 1);
    }
    fixture_close(&f);
}

/* ---- end ---- */

TEST(after_close_everything_is_refused) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    struct pnx_cache_ref ref = {0}, again = {0};
    put_text(&f, "k", "v", 0);
    CHECK_EQ(get_text(&f, "k", &ref), 0);
    CHECK_EQ(pnx_cache_close(f.cache), 1);
    CHECK_EQ(get_text(&f, "k", &again), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "v", 1, 0), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, "v", 1, 0), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_clear(f.cache), -ESHUTDOWN);
    int n = 0;
    CHECK_EQ(pnx_cache_each(f.cache, count_up, &n), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_resize(f.cache, 4096, 0, &f.err), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
    CHECK_STR(pnx_cache_ref_data(&ref), "v");
    pnx_cache_ref_release(&ref);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(stats_of(&f).removed_closed, 1);
    fixture_close(&f);
}

TEST(a_reference_outlives_its_cache) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "k", "still here", 0);
    struct pnx_cache_ref ref = {0}, second = {0};
    CHECK_EQ(get_text(&f, "k", &ref), 0);
    CHECK_EQ(pnx_cache_ref_dup(&ref, &second), 0);
    pnx_cache_release(&f.cache);
    CHECK(!f.cache);
    CHECK_STR(pnx_cache_ref_data(&ref), "still here");
    pnx_cache_ref_release(&ref);
    CHECK_STR(pnx_cache_ref_data(&second), "still here");
    pnx_cache_ref_release(&second);
    fixture_close(&f);
}

TEST(a_shutdown_of_the_registry_closes_the_cache) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "k", "v", 0);
    CHECK_EQ(pnx_registry_shutdown(f.registry, 10 * PNX_SEC, NULL), 0);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(get_text(&f, "k", &ref), -ESHUTDOWN);
    CHECK_EQ(stats_of(&f).removed_closed, 1);
    struct pnx_cache *late = NULL;
    struct pnx_cache_opts opts = fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(pnx_cache_create(&opts, &f.err, &late), -ESHUTDOWN);
    pnx_cache_release(&f.cache);
    fixture_drop(&f);
}

TEST(a_shutdown_reports_a_cache_whose_references_are_out) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    put_text(&f, "k", "v", 0);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(get_text(&f, "k", &ref), 0);
    CHECK_EQ(pnx_registry_shutdown(f.registry, 10 * PNX_SEC, NULL), -EBUSY);
    CHECK_STR(pnx_cache_ref_data(&ref), "v");
    pnx_cache_ref_release(&ref);
    pnx_cache_release(&f.cache);
    fixture_drop(&f);
}

static void in_child(void *ctx) {
    struct fixture *f = ctx;
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(get_text(f, "k", &ref), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "v", 1, 0), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_close(f->cache), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_tick(f->cache, 0), PNX_NEVER);
    pnx_cache_release(&f->cache);
    CHECK(!f->cache);
    _exit(0);
}

static int know_none(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline, (void)load;
    return -ENOENT;
}

TEST(a_probe_leaves_the_miss_to_the_load_that_follows) {
    struct fixture f;
    struct pnx_cache_ref ref = {0};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 2, .negative_ttl = PNX_SEC));
    CHECK_EQ(pnx_cache_probe(f.cache, "a", 1, &ref), -ENOENT);
    CHECK_EQ(pnx_cache_probe(f.cache, NULL, 1, &ref), -EINVAL);
    CHECK_EQ(pnx_cache_probe(f.cache, "a", 1, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "a", 1, know_none, NULL, 0, &f.err, &ref), -ENOENT);
    CHECK_EQ(pnx_cache_probe(f.cache, "a", 1, &ref), -ENODATA); /* nothing is left to be loaded */
    CHECK(!ref.entry);
    CHECK_EQ(stats_of(&f).misses, 1);
    CHECK_EQ(stats_of(&f).negative_hits, 1);
    put_text(&f, "a", "here", 0);
    put_text(&f, "b", "newer", 0);
    CHECK_EQ(pnx_cache_probe(f.cache, "a", 1, &ref), 0);
    CHECK_STR(pnx_cache_ref_data(&ref), "here");
    CHECK_EQ(ref.source, PNX_CACHE_FOUND);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(stats_of(&f).hits, 1);
    put_text(&f, "c", "newest", 0); /* a use like any other: b goes */
    check_absent(&f, "b");
    check_text(&f, "a", "here");
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_probe(f.cache, "a", 1, &ref), -ESHUTDOWN);
    fixture_close(&f);
}

struct fork_case {
    struct fixture *f;
    struct pnx_cache_ref ref;
};

static void in_child_with_ref(void *ctx) {
    struct fork_case *c = ctx;
    struct pnx_cache_ref second = {0};
    CHECK_STR(pnx_cache_ref_data(&c->ref), "v");
    CHECK_EQ(pnx_cache_ref_dup(&c->ref, &second), 0);
    pnx_cache_ref_release(&second);
    pnx_cache_ref_release(&c->ref);
    in_child(c->f);
}

static void no_destroy_in_child(void *ctx, const struct pnx_cache_removed *removed) {
    (void)removed;
    CHECK_EQ(getpid(), *(pid_t *)ctx);
}

TEST(a_forked_child_is_refused_and_destroys_nothing) {
    struct fixture f;
    pid_t self = getpid();
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 10, .destroy = no_destroy_in_child, .ctx = &self));
    put_text(&f, "k", "v", 0);
    struct fork_case c = {.f = &f};
    CHECK_EQ(get_text(&f, "k", &c.ref), 0);
    CHECK_EQ(test_child(in_child_with_ref, &c), 0);
    pnx_cache_ref_release(&c.ref);
    check_text(&f, "k", "v");
    fixture_close(&f);
}
