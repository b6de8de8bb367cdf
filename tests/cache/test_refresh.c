/* SPDX-License-Identifier: Apache-2.0 */
/* Values that are served while they are replaced (P12), and instead of errors (P13). */
#include "cache/script.h"

#include <patinox/reclaim.h>

/* ---- in the call of who asks first ---- */

TEST(p12_a_value_past_its_refresh_time_is_replaced_by_who_asks) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 100 * PNX_SEC,
                             .refresh_after = 10 * PNX_SEC));
    script_init(&s, &f, "old");
    check_loads(&s, "old", PNX_CACHE_LOADED);
    test_env_advance(&f.te, 10 * PNX_SEC - 1);
    check_loads(&s, "old", PNX_CACHE_FOUND);
    test_env_advance(&f.te, 4); /* times are in steps of 4 ns */
    s.value = "new";
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(get_text(&f, "k", &ref), 0); /* who has no loader finds the old one */
    CHECK_EQ(ref.source, PNX_CACHE_STALE);
    CHECK_STR(pnx_cache_ref_data(&ref), "old");
    pnx_cache_ref_release(&ref);
    CHECK_EQ(s.calls, 1);
    check_loads(&s, "new", PNX_CACHE_LOADED);
    check_loads(&s, "new", PNX_CACHE_FOUND);
    struct pnx_cache_stats stats = stats_of(&f);
    CHECK_EQ(stats.refreshes, 1);
    CHECK_EQ(stats.refresh_failures, 0);
    CHECK_EQ(stats.stale_hits, 2);
    CHECK_EQ(stats.misses, 1);
    CHECK_EQ(stats.loads, 2);
    CHECK_EQ(stats.pinned, 0);
    CHECK_EQ(stats.removed_replaced, 1);
    fixture_close(&f);
}

TEST(p12_what_was_put_is_refreshed_too_and_the_time_is_the_new_ones) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC));
    script_init(&s, &f, "new");
    put_text(&f, "k", "put", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_loads(&s, "new", PNX_CACHE_LOADED);
    test_env_advance(&f.te, 10 * PNX_SEC - 4);
    check_loads(&s, "new", PNX_CACHE_FOUND);
    test_env_advance(&f.te, 4);
    check_loads(&s, "new", PNX_CACHE_LOADED);
    CHECK_EQ(s.calls, 2);
    fixture_close(&f);
}

TEST(p12_while_one_refreshes_the_others_have_the_old_value_and_wait_for_nothing) {
    struct fixture f;
    struct script s;
    struct asker first;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC));
    script_init(&s, &f, "new");
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    script_gate(&s, true);
    asker_start(&first, &s, 5 * PNX_SEC);
    script_await_started(&s, 1);
    for (int i = 0; i < 3; i++)
        check_loads(&s, "old", PNX_CACHE_STALE);
    check_text(&f, "k", "old");
    check_invariants(&f);
    script_gate(&s, false);
    check_asked(&first, "new", PNX_CACHE_LOADED);
    check_loads(&s, "new", PNX_CACHE_FOUND);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(stats_of(&f).load_waits, 0);
    fixture_close(&f);
}

TEST(p12_a_refresh_that_fails_leaves_the_old_value_and_is_tried_again_after_the_back_off) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 60 * PNX_SEC,
                             .refresh_after = 10 * PNX_SEC, .refresh_backoff = 2 * PNX_SEC));
    script_init(&s, &f, "new");
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    s.code = -EIO;
    for (int i = 0; i < 3; i++) {
        check_loads(&s, "old", PNX_CACHE_STALE);
        check_loads(&s, "old", PNX_CACHE_STALE);
        CHECK_EQ(s.calls, i + 1);
        test_env_advance(&f.te, 2 * PNX_SEC - 4);
        check_loads(&s, "old", PNX_CACHE_STALE);
        CHECK_EQ(s.calls, i + 1);
        test_env_advance(&f.te, 8);
    }
    CHECK_EQ(stats_of(&f).refresh_failures, 3);
    CHECK_EQ(stats_of(&f).load_failures, 3);
    s.code = 0;
    check_loads(&s, "new", PNX_CACHE_LOADED);
    check_loads(&s, "new", PNX_CACHE_FOUND);
    s.code = -EIO;
    test_env_advance(&f.te, 60 * PNX_SEC);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(script_load(&s, &ref), -EIO); /* it has expired, and is not kept for errors */
    fixture_close(&f);
}

TEST(p12_a_clock_that_goes_back_does_not_lengthen_the_back_off) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC));
    script_init(&s, &f, "new");
    test_env_virtual(&f.te, 1000 * PNX_SEC);
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    s.code = -EIO;
    check_loads(&s, "old", PNX_CACHE_STALE);
    test_env_virtual(&f.te, 5 * PNX_SEC);
    s.code = 0;
    check_loads(&s, "new", PNX_CACHE_LOADED);
    fixture_close(&f);
}

TEST(p12_a_refresh_that_finds_nothing_takes_the_old_value_away) {
    for (int negative = 0; negative < 2; negative++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_ref ref = {0};
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC,
                                 .negative_ttl = negative ? PNX_SEC : 0));
        script_init(&s, &f, NULL);
        put_text(&f, "k", "old", 0);
        test_env_advance(&f.te, 10 * PNX_SEC);
        s.code = -ENOENT;
        CHECK_EQ(script_load(&s, &ref), -ENOENT);
        check_absent(&f, "k");
        CHECK_EQ(script_load(&s, &ref), -ENOENT);
        CHECK_EQ(s.calls, negative ? 1 : 2);
        CHECK_EQ(stats_of(&f).refresh_failures, 0);
        CHECK_EQ(stats_of(&f).removed_explicit, negative ? 0 : 1);
        fixture_close(&f);
    }
}

enum overtaking { PUT, REMOVE, CLEAR, CLOSE };

TEST(p6_a_refresh_that_was_overtaken_is_not_stored) {
    for (int how = PUT; how <= CLOSE; how++) {
        struct fixture f;
        struct script s;
        struct asker first;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC));
        script_init(&s, &f, "late");
        put_text(&f, "k", "old", 0);
        test_env_advance(&f.te, 10 * PNX_SEC);
        script_gate(&s, true);
        asker_start(&first, &s, 5 * PNX_SEC);
        script_await_started(&s, 1);
        if (how == PUT)
            put_text(&f, "k", "newer", 0);
        else if (how == REMOVE)
            CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
        else if (how == CLEAR)
            CHECK_EQ(pnx_cache_clear(f.cache), 0);
        else
            CHECK_EQ(pnx_cache_close(f.cache),
                    2); /* the load, and the old value that the caller holds */
        script_gate(&s, false);
        pthread_join(first.thread, NULL);
        CHECK_EQ(first.rc, how == CLOSE ? -ESHUTDOWN : 0);
        if (how != CLOSE)
            CHECK_STR(pnx_cache_ref_data(&first.ref), "late");
        pnx_cache_ref_release(&first.ref);
        if (how == PUT)
            check_text(&f, "k", "newer");
        else if (how != CLOSE)
            check_absent(&f, "k");
        CHECK_EQ(stats_of(&f).pinned, 0);
        CHECK_EQ(stats_of(&f).detached, 0);
        fixture_close(&f);
    }
}

/* Whoever comes when the value has expired under its refresh waits for that; it is a load of the key like another. */
TEST(p6_who_misses_during_a_refresh_shares_it) {
    struct fixture f;
    struct script s;
    struct asker first, second;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 20 * PNX_SEC,
                             .refresh_after = 10 * PNX_SEC));
    script_init(&s, &f, "new");
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    script_gate(&s, true);
    asker_start(&first, &s, 5 * PNX_SEC);
    script_await_started(&s, 1);
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_absent(&f, "k");
    asker_start(&second, &s, 5 * PNX_SEC);
    await_waiters(&f, 1);
    script_gate(&s, false);
    check_asked(&first, "new", PNX_CACHE_LOADED);
    check_asked(&second, "new", PNX_CACHE_SHARED);
    CHECK_EQ(s.calls, 1);
    fixture_close(&f);
}

static const char big[100000];

static int load_big(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    ++*(int *)ctx;
    return pnx_cache_load_set(load, big, sizeof(big));
}

TEST(p12_a_refresh_whose_value_cannot_be_stored_is_tried_again_later) {
    struct fixture f;
    int calls = 0;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 4096, .refresh_after = 10 * PNX_SEC));
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    for (int i = 1; i <= 2; i++) {
        struct pnx_cache_ref ref = {0};
        CHECK_EQ(
                pnx_cache_get_or_load(f.cache, "k", 1, load_big, &calls, PNX_SEC, &f.err, &ref), 0);
        CHECK_EQ(pnx_cache_ref_size(&ref), sizeof(big));
        pnx_cache_ref_release(&ref);
        CHECK_EQ(
                pnx_cache_get_or_load(f.cache, "k", 1, load_big, &calls, PNX_SEC, &f.err, &ref), 0);
        CHECK_STR(pnx_cache_ref_data(&ref), "old");
        pnx_cache_ref_release(&ref);
        CHECK_EQ(calls, i);
        test_env_advance(&f.te, PNX_SEC + 4);
    }
    fixture_close(&f);
}

TEST(p12_a_loader_can_say_when_its_result_is_to_be_refreshed) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4)); /* which refreshes nothing by itself */
    script_init(&s, &f, "v");
    s.refresh = 8 * PNX_SEC;
    check_loads(&s, "v", PNX_CACHE_LOADED);
    test_env_advance(&f.te, 8 * PNX_SEC);
    s.refresh = PNX_NEVER;
    check_loads(&s, "v", PNX_CACHE_LOADED);
    CHECK_EQ(s.calls, 2);
    test_env_advance(&f.te, 1000000 * PNX_SEC);
    check_loads(&s, "v", PNX_CACHE_FOUND);
    fixture_close(&f);
}

static int set_too_late(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    CHECK_EQ(pnx_cache_load_set_refresh(NULL, 1), -EINVAL);
    CHECK_EQ(pnx_cache_load_set_refresh(load, -1), -EINVAL);
    CHECK_EQ(pnx_cache_load_set(load, "v", 2), 0);
    CHECK_EQ(pnx_cache_load_set_refresh(load, PNX_SEC), *(int *)ctx);
    CHECK_EQ(pnx_cache_load_finish(load, 0), -ENOTSUP); /* it is on the caller's stack */
    CHECK_EQ(pnx_cache_load_finish(NULL, 0), -EINVAL);
    return 0;
}

TEST(the_time_of_refreshing_is_set_before_the_value) {
    for (int refreshing = 0; refreshing < 2; refreshing++) {
        struct fixture f;
        struct pnx_cache_ref ref = {0};
        int expected = refreshing ? 0 : -EALREADY;
        fixture_open(&f,
                PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = refreshing ? PNX_SEC : 0));
        CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, set_too_late, &expected, 0, &f.err, &ref),
                0);
        pnx_cache_ref_release(&ref);
        fixture_close(&f);
    }
}

/* ---- by hand ---- */

TEST(a_refresh_by_hand_replaces_what_is_there_or_loads_what_is_not) {
    struct fixture f;
    struct script s;
    struct asker first;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    script_init(&s, &f, "1");
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, PNX_SEC, &f.err), 0);
    check_text(&f, "k", "1");
    s.value = "2";
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, PNX_SEC, &f.err), 0);
    CHECK_EQ(s.seen_deadline, f.te.now + PNX_SEC);
    check_text(&f, "k", "2");
    s.code = -EIO;
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, PNX_SEC, &f.err), -EIO);
    check_loads(&s, "2", PNX_CACHE_FOUND); /* and is not to be refreshed for that */
    CHECK_EQ(stats_of(&f).refreshes, 3);
    CHECK_EQ(stats_of(&f).refresh_failures, 1);
    s.code = -ENOENT;
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, PNX_SEC, &f.err), -ENOENT);
    check_absent(&f, "k");
    s.code = 0;
    script_gate(&s, true);
    asker_start(&first, &s, 5 * PNX_SEC);
    script_await_started(&s, 5);
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, PNX_SEC, &f.err), -EALREADY);
    CHECK_CONTAINS(f.err.message, "under way");
    script_gate(&s, false);
    check_asked(&first, "2", PNX_CACHE_LOADED);
    CHECK_EQ(pnx_cache_refresh(f.cache, NULL, 1, script_loader, &s, PNX_SEC, &f.err), -EINVAL);
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, NULL, NULL, PNX_SEC, &f.err), -EINVAL);
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, -5, &f.err), -EINVAL);
    CHECK_EQ(pnx_cache_refresh(NULL, "k", 1, script_loader, &s, 0, &f.err), -EINVAL);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), -ESHUTDOWN);
    fixture_close(&f);
}

TEST(a_refresh_by_hand_of_a_fresh_value_that_fails_leaves_it_fresh) {
    struct fixture f;
    struct script s;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 100 * PNX_SEC));
    script_init(&s, &f, "1");
    check_loads(&s, "1", PNX_CACHE_LOADED);
    s.code = -EIO;
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, PNX_SEC, &f.err), -EIO);
    test_env_advance(&f.te, 50 * PNX_SEC);
    check_loads(&s, "1", PNX_CACHE_FOUND);
    CHECK_EQ(s.calls, 2);
    fixture_close(&f);
}

/* ---- by an executor ---- */

TEST(p12_an_executor_refreshes_and_nobody_waits_for_it) {
    struct fixture f;
    struct script s;
    struct pnx_executor *executor =
            open_worker(&f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 100 * PNX_SEC));
    check_loads(&s, "old", PNX_CACHE_STALE);
    check_loads(&s, "old", PNX_CACHE_STALE);
    CHECK_EQ(stats_of(&f).loading, 1);
    CHECK_EQ(s.calls, 0);
    check_invariants(&f);
    pnx_executor_tick(executor, f.te.now);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(s.seen_deadline, f.te.now + 30 * PNX_SEC);
    check_loads(&s, "new", PNX_CACHE_FOUND);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(stats_of(&f).refreshes, 1);
    CHECK_EQ(stats_of(&f).pinned, 0);
    CHECK_EQ(stats_of(&f).loading, 0);
    close_worker(&f, executor);
}

/* Whatever finds the value. */
TEST(p12_with_an_executor_each_lookup_has_the_value_refreshed) {
    for (int way = 0; way < 4; way++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_ref ref = {0};
        char buf[8];
        struct pnx_executor *executor = open_worker(&f, &s, 4,
                PNX_CACHE_OPTS(.capacity_entries = 4, .policy = way & 1 ? "lru" : "clock"));
        if (way < 2)
            CHECK_EQ(get_text(&f, "k", &ref), 0);
        else if (way == 2)
            CHECK_EQ(pnx_cache_probe(f.cache, "k", 1, &ref), 0);
        else
            CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, sizeof(buf), NULL), 0);
        if (way < 3)
            CHECK_EQ(ref.source, PNX_CACHE_STALE);
        pnx_cache_ref_release(&ref);
        pnx_executor_tick(executor, f.te.now);
        CHECK_EQ(s.calls, 1);
        check_text(&f, "k", "new");
        close_worker(&f, executor);
    }
}

TEST(p12_a_copy_in_a_section_has_the_value_refreshed_too) {
    struct fixture f;
    struct script s;
    char buf[8];
    struct pnx_executor *executor =
            open_worker(&f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "clock"));
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, sizeof(buf), NULL), 0);
    CHECK_STR(buf, "old");
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, sizeof(buf), NULL), 0);
    CHECK_EQ(stats_of(&f).loading, 1);
    CHECK_EQ(stats_of(&f).hits, 2);
    pnx_executor_tick(executor, f.te.now);
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, sizeof(buf), NULL), 0);
    CHECK_STR(buf, "new");
    close_worker(&f, executor);
}

TEST(p12_a_refresh_that_the_executor_refuses_is_tried_again_after_the_back_off) {
    struct fixture f;
    struct script s;
    struct pnx_executor *executor = open_worker(
            &f, &s, 1, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_backoff = 2 * PNX_SEC));
    put_text(&f, "other", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_text(&f, "other", "old"); /* has the executor's only place */
    check_text(&f, "k", "old");     /* is refused */
    CHECK_EQ(stats_of(&f).refresh_failures, 1);
    CHECK_EQ(stats_of(&f).loading, 1);
    CHECK_EQ(stats_of(&f).loads, 0);
    pnx_executor_tick(executor, f.te.now);
    check_text(&f, "other", "new");
    test_env_advance(&f.te, 2 * PNX_SEC - 8);
    check_text(&f, "k", "old");
    CHECK_EQ(stats_of(&f).loading, 0);
    test_env_advance(&f.te, 12);
    check_text(&f, "k", "old");
    CHECK_EQ(stats_of(&f).loading, 1);
    pnx_executor_tick(executor, f.te.now);
    check_text(&f, "k", "new");
    close_worker(&f, executor);
}

/* A refresh that waits for the executor keeps nobody from loading, or the two could wait for each other. */
TEST(p6_who_misses_takes_a_queued_refresh_over) {
    struct fixture f;
    struct script s;
    struct pnx_executor *executor =
            open_worker(&f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 20 * PNX_SEC));
    check_text(&f, "k", "old");
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_loads(&s, "new", PNX_CACHE_LOADED);
    pnx_executor_tick(executor, f.te.now);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(stats_of(&f).refresh_failures, 0);
    close_worker(&f, executor);
}

TEST(p6_a_queued_refresh_that_was_overtaken_calls_no_loader) {
    for (int how = PUT; how <= CLOSE; how++) {
        struct fixture f;
        struct script s;
        struct pnx_executor *executor =
                open_worker(&f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4));
        check_text(&f, "k", "old");
        if (how == PUT)
            put_text(&f, "k", "newer", 0);
        else if (how == REMOVE)
            CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
        else if (how == CLEAR)
            CHECK_EQ(pnx_cache_clear(f.cache), 0);
        else
            CHECK_EQ(pnx_cache_close(f.cache), 1);
        pnx_executor_tick(executor, f.te.now);
        CHECK_EQ(s.calls, 0);
        if (how == PUT)
            check_text(&f, "k", "newer");
        else if (how != CLOSE)
            check_absent(&f, "k");
        CHECK_EQ(stats_of(&f).loading, 0);
        close_worker(&f, executor);
    }
}

TEST(a_queued_refresh_outlives_its_cache_and_its_executor_ends_it) {
    for (int by_tick = 0; by_tick < 2; by_tick++) {
        struct fixture f;
        struct script s;
        struct pnx_executor *executor =
                open_worker(&f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4));
        check_text(&f, "k", "old");
        pnx_cache_release(&f.cache);
        if (by_tick)
            pnx_executor_tick(executor, f.te.now);
        pnx_executor_release(&executor);
        CHECK_EQ(s.calls, 0);
        fixture_drop(&f);
    }
}

TEST(an_executor_that_is_closed_ends_refreshes_and_begins_none) {
    struct fixture f;
    struct script s;
    struct pnx_executor *executor = open_worker(&f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "l", "old", 0);
    check_text(&f, "k", "old");
    CHECK_EQ(stats_of(&f).loading, 1);
    CHECK_EQ(pnx_executor_close(executor, 0, NULL), -ETIMEDOUT);
    CHECK_EQ(stats_of(&f).loading, 0);
    CHECK_EQ(stats_of(&f).refresh_failures, 1);
    check_text(&f, "k", "old");
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_text(&f, "l", "old");
    CHECK_EQ(stats_of(&f).refresh_failures, 2);
    CHECK_EQ(s.calls, 0);
    close_worker(&f, executor);
}

TEST(a_refresh_by_hand_is_handed_to_the_executor) {
    struct fixture f;
    struct script s;
    struct pnx_executor *executor = open_worker(&f, &s, 1, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_refresh(f.cache, "absent", 6, NULL, NULL, PNX_SEC, &f.err), 0);
    CHECK_EQ(pnx_cache_refresh(f.cache, "third", 5, NULL, NULL, PNX_SEC, &f.err), -EBUSY);
    check_absent(&f, "absent");
    pnx_executor_tick(executor, f.te.now);
    check_text(&f, "absent", "new");
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(pnx_cache_refresh(f.cache, "third", 5, NULL, NULL, PNX_SEC, &f.err), 0);
    CHECK_EQ(pnx_cache_remove(f.cache, "third", 5), -ENOENT);
    pnx_executor_tick(executor, f.te.now);
    CHECK_EQ(s.calls, 1);
    close_worker(&f, executor);
}

/* A loader of the executor may keep its load, too. */
TEST(a_refresh_may_go_on_after_its_job) {
    struct fixture f;
    struct script s;
    struct pnx_executor *executor = open_worker(
            &f, &s, 4, PNX_CACHE_OPTS(.capacity_entries = 4, .load_timeout = 5 * PNX_SEC));
    s.code = -EINPROGRESS;
    check_text(&f, "k", "old");
    pnx_executor_tick(executor, f.te.now);
    CHECK_EQ(s.calls, 1);
    check_loads(&s, "old", PNX_CACHE_STALE);
    CHECK_EQ(pnx_cache_load_set(s.kept, "later", 6), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, 0), 0);
    check_text(&f, "k", "later");
    /* One that is never finished is given up by a tick, and tried again. */
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_text(&f, "k", "later");
    pnx_executor_tick(executor, f.te.now);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), f.te.now + 5 * PNX_SEC);
    test_env_advance(&f.te, 5 * PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
    CHECK_EQ(stats_of(&f).refresh_failures, 1);
    CHECK_EQ(stats_of(&f).loading, 0);
    CHECK_EQ(pnx_cache_load_set(s.kept, "too late", 9), 0);
    CHECK_EQ(pnx_cache_load_finish(s.kept, 0), -EALREADY);
    check_text(&f, "k", "later");
    close_worker(&f, executor);
}

static void refresh_much(unsigned index, void *ctx) {
    struct script *s = ctx;
    for (int i = 0; i < (test_slow() ? 500 : 5000); i++) {
        struct pnx_cache_ref ref = {0};
        char key = (char)('a' + (i + (int)index) % 3);
        /* All move the clock, so a second is over as soon as a thread is not run for a while: waits have no end. */
        __atomic_add_fetch(&s->f->te.now, PNX_MS, __ATOMIC_RELAXED);
        int rc = index & 1 ? pnx_cache_get_or_load(
                                     s->f->cache, &key, 1, script_loader, s, PNX_NEVER, NULL, &ref)
                           : pnx_cache_get(s->f->cache, &key, 1, &ref);
        CHECK_MSG(rc == 0 || (rc == -ENOENT && !(index & 1)), "%s", pnx_errname(rc));
        if (rc == 0)
            CHECK_STR(pnx_cache_ref_data(&ref), "new");
        pnx_cache_ref_release(&ref);
        if (i % 64 == 0)
            pnx_cache_remove(s->f->cache, &key, 1);
        if (i % 100 == 0)
            (void)!pnx_cache_refresh(s->f->cache, &key, 1, script_loader, s, 0, NULL);
    }
}

TEST(p12_refreshes_by_threads_beside_all_else) {
    struct fixture f;
    struct script s;
    fixture_worlds(&f);
    script_init(&s, &f, "new");
    struct pnx_executor *executor = NULL;
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.env = &f.te.env, .registry = pnx_registry_off(),
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                         .workers = 2, .on_full = PNX_EXECUTOR_REJECT),
                     &f.err, &executor),
            0);
    struct pnx_cache_opts opts = fixture_opts(&f,
            PNX_CACHE_OPTS(.capacity_entries = 2, .refresh_after = 4 * PNX_MS, .ttl = 20 * PNX_MS,
                    .stale_if_error = 10 * PNX_MS, .ttl_access = 15 * PNX_MS, .policy = "clock",
                    .executor = executor, .refresh_loader = script_loader, .refresh_ctx = &s));
    CHECK_EQ(pnx_cache_create(&opts, &f.err, &f.cache), 0);
    test_threads(4, refresh_much, &s);
    check_invariants(&f);
    pnx_cache_close(f.cache);
    CHECK_EQ(pnx_executor_close(executor, PNX_NEVER, NULL), 0);
    CHECK_EQ(stats_of(&f).loading, 0);
    CHECK_EQ(stats_of(&f).pinned, 0);
    CHECK(stats_of(&f).refreshes > 0);
    pnx_cache_release(&f.cache);
    pnx_executor_release(&executor);
    fixture_drop(&f);
}

/* ---- instead of errors ---- */

static void *run_refresher(void *arg) {
    struct asker *asker = arg;
    asker->rc = pnx_cache_refresh(
            asker->s->f->cache, "k", 1, script_loader, asker->s, asker->timeout, NULL);
    return NULL;
}

static void refresher_start(struct asker *asker, struct script *s) {
    *asker = (struct asker){.s = s, .timeout = PNX_NEVER};
    CHECK_EQ(pthread_create(&asker->thread, NULL, run_refresher, asker), 0);
}

TEST(p13_a_value_that_has_expired_is_returned_instead_of_an_error) {
    struct fixture f;
    struct script s;
    struct pnx_cache_ref ref = {0};
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_backoff = 2 * PNX_SEC));
    check_absent(&f, "k"); /* by those who do not load */
    s.code = -EIO;
    check_loads(&s, "old", PNX_CACHE_STALE);
    check_loads(
            &s, "old", PNX_CACHE_STALE); /* before the back-off has passed: no loader is called */
    CHECK_EQ(s.calls, 1);
    check_absent(&f, "k");
    test_env_advance(&f.te, 2 * PNX_SEC + 4);
    check_loads(&s, "old", PNX_CACHE_STALE);
    CHECK_EQ(s.calls, 2);
    CHECK_EQ(stats_of(&f).stale_errors, 3);
    CHECK_EQ(stats_of(&f).load_failures, 2);
    check_invariants(&f);
    test_env_advance(&f.te, 2 * PNX_SEC + 4);
    s.code = 0;
    check_loads(&s, "new", PNX_CACHE_LOADED);
    test_env_advance(&f.te, 30 * PNX_SEC - 1);
    s.code = -EIO;
    check_loads(&s, "new", PNX_CACHE_STALE);
    test_env_advance(&f.te, 1);
    CHECK_EQ(script_load(&s, &ref), -EIO);
    CHECK_EQ(stats_of(&f).entries, 0);
    CHECK_EQ(stats_of(&f).removed_expired, 2); /* the old one, when it was replaced */
    fixture_close(&f);
}

TEST(p13_an_absence_is_no_failure) {
    struct fixture f;
    struct script s;
    struct pnx_cache_ref ref = {0};
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -ENOENT;
    CHECK_EQ(script_load(&s, &ref), -ENOENT);
    CHECK_EQ(stats_of(&f).entries, 0);
    s.code = -EIO;
    CHECK_EQ(script_load(&s, &ref), -EIO);
    fixture_close(&f);
}

TEST(p13_all_who_waited_have_it) {
    struct fixture f;
    struct script s;
    struct asker askers[3];
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EIO;
    script_gate(&s, true);
    asker_start(&askers[0], &s, 5 * PNX_SEC);
    script_await_started(&s, 1);
    asker_start(&askers[1], &s, 5 * PNX_SEC);
    asker_start(&askers[2], &s, 5 * PNX_SEC);
    await_waiters(&f, 2);
    script_gate(&s, false);
    for (int i = 0; i < 3; i++)
        check_asked(&askers[i], "old", PNX_CACHE_STALE);
    CHECK_EQ(stats_of(&f).stale_errors, 3);
    CHECK_EQ(s.calls, 1);
    fixture_close(&f);
}

TEST(p13_what_overtakes_the_load_ends_the_old_value) {
    for (int how = PUT; how <= CLEAR; how++) {
        struct fixture f;
        struct script s;
        struct asker first;
        open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
        s.code = -EIO;
        script_gate(&s, true);
        asker_start(&first, &s, 5 * PNX_SEC);
        script_await_started(&s, 1);
        if (how == PUT)
            put_text(&f, "k", "newer", 0);
        else if (how == REMOVE)
            CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), -ENOENT); /* nobody could see it */
        else
            CHECK_EQ(pnx_cache_clear(f.cache), 0);
        script_gate(&s, false);
        check_asked_in_vain(&first, -EIO);
        fixture_close(&f);
    }
}

static int note_cause(void *ctx, const struct pnx_cache_ref *ref) {
    (void)ref;
    ++*(int *)ctx;
    return 0;
}

TEST(p13_nothing_but_a_failed_load_sees_it) {
    struct fixture f;
    struct script s;
    struct pnx_cache_ref ref = {0};
    char buf[8];
    uint64_t found = 0;
    int seen = 0;
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "clock"));
    CHECK_EQ(pnx_cache_get(f.cache, "k", 1, &ref), -ENOENT);
    CHECK_EQ(pnx_cache_probe(f.cache, "k", 1, &ref), -ENOENT);
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, sizeof(buf), NULL), -ENOENT);
    CHECK_EQ(pnx_cache_get_many(f.cache, "k", 1, 1, buf, 4, &found), 0);
    CHECK_EQ(pnx_cache_each(f.cache, note_cause, &seen), 0);
    CHECK_EQ(seen, 0);
    CHECK_EQ(stats_of(&f).entries, 1); /* and it counts */
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "k", 1, "mine", 5, 0), 0);
    check_text(&f, "k", "mine");
    fixture_close(&f);
}

TEST(p13_it_goes_before_what_has_not_expired_and_at_its_time) {
    struct fixture f;
    struct script s;
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 3, .negative_ttl = 5 * PNX_SEC));
    put_text(&f, "a", "1", PNX_NEVER);
    put_text(&f, "b", "2", 0);
    put_text(&f, "c", "3", 0); /* in the place of k, not of a, which is the policy's */
    CHECK_EQ(stats_of(&f).removed_size, 0);
    CHECK_EQ(stats_of(&f).removed_expired, 1);
    check_text(&f, "a", "1");
    test_env_advance(&f.te, 10 * PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), f.te.now + 20 * PNX_SEC);
    CHECK_EQ(stats_of(&f).entries, 3);
    test_env_advance(&f.te, 20 * PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, f.te.now), PNX_NEVER);
    CHECK_EQ(stats_of(&f).entries, 1);
    fixture_close(&f);
}

/* It was not overtaken, and has not expired. */
TEST(p12_a_refresh_that_fails_gives_the_old_value_to_those_who_missed_it) {
    struct fixture f;
    struct script s;
    struct asker refresher, misser;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1));
    script_init(&s, &f, "new");
    put_text(&f, "k", "old", 0);
    s.code = -EIO;
    script_gate(&s, true);
    refresher_start(&refresher, &s);
    script_await_started(&s, 1);
    put_text(&f, "other", "evicts it", 0);
    asker_start(&misser, &s, PNX_NEVER);
    await_waiters(&f, 1);
    script_gate(&s, false);
    check_asked_in_vain(&refresher, -EIO);
    check_asked(&misser, "old", PNX_CACHE_STALE);
    check_absent(&f, "k");
    fixture_close(&f);
}

TEST(p13_an_absence_that_is_remembered_is_no_value_to_be_returned_instead_of_an_error) {
    for (int expires = 0; expires < 2; expires++) {
        struct fixture f;
        struct script s;
        struct asker refresher, misser;
        struct pnx_cache_ref ref = {0};
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1, .negative_ttl = 10 * PNX_SEC,
                                 .stale_if_error = expires ? 100 * PNX_SEC : 0));
        script_init(&s, &f, "new");
        s.code = -ENOENT;
        CHECK_EQ(script_load(&s, &ref), -ENOENT);
        s.code = -EIO;
        script_gate(&s, true);
        refresher_start(&refresher, &s);
        script_await_started(&s, 2);
        if (expires)
            test_env_advance(&f.te, 10 * PNX_SEC);
        else
            put_text(&f, "other", "evicts it", 0);
        asker_start(&misser, &s, PNX_NEVER);
        await_waiters(&f, 1);
        script_gate(&s, false);
        check_asked_in_vain(&refresher, -EIO);
        check_asked_in_vain(&misser, -EIO);
        fixture_close(&f);
    }
}

/* ---- memory, options ---- */

TEST(options_of_refreshing_are_checked) {
    struct fixture f;
    struct pnx_executor *executor = NULL;
    fixture_worlds(&f);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.env = &f.te.env, .registry = pnx_registry_off(),
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                         .flags = PNX_EXECUTOR_TICK),
                     &f.err, &executor),
            0);
    const struct {
        struct pnx_cache_opts opts;
        const char *field;
    } bad[] = {
            {{.capacity_entries = 1, .refresh_after = -1}, "refresh_after"},
            {{.capacity_entries = 1, .refresh_backoff = 1}, "refresh_backoff"},
            {{.capacity_entries = 1, .stale_if_error = -1}, "stale_if_error"},
            {{.capacity_entries = 1, .executor = executor}, "refresh_loader"},
            {{.capacity_entries = 1, .key_bytes = 4, .value_bytes = 4, .refresh_after = PNX_SEC},
                    "refresh_after"},
            {{.capacity_entries = 1, .key_bytes = 4, .value_bytes = 4, .stale_if_error = PNX_SEC},
                    "stale_if_error"},
            {{.capacity_entries = 1,
                     .key_bytes = 4,
                     .value_bytes = 4,
                     .executor = executor,
                     .refresh_loader = script_loader},
                    "executor"},
            {{.capacity_entries = 1, .key_bytes = 4, .value_bytes = 4, .ttl_access = PNX_SEC},
                    "ttl_access"},
            {{.capacity_entries = 1, .key_bytes = 4, .value_bytes = 4, .ttl_jitter = 1},
                    "ttl_jitter"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pnx_cache_opts opts = bad[i].opts;
        opts.size = sizeof(opts);
        CHECK_EQ(pnx_cache_create(&opts, &f.err, &f.cache), -EINVAL);
        CHECK_STR(f.err.field, bad[i].field);
    }
    pnx_executor_release(&executor);
    fixture_drop(&f);
}

static void never_told(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    (void)request, (void)ref, (void)err;
    CHECK_EQ(code, 0);
    CHECK_MSG(false, "told, though it was refused");
}

TEST(with_fixed_sizes_there_are_no_requests) {
    struct fixture f;
    struct script s;
    struct pnx_cache_request request = {.done = NULL};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .key_bytes = 4, .value_bytes = 4));
    script_init(&s, &f, "v");
    request.done = never_told;
    CHECK_EQ(pnx_cache_get_async(f.cache, "1234", 4, script_loader, &s, 0, &request), -ENOTSUP);
    CHECK_EQ(s.calls, 0);
    fixture_close(&f);
}

static int refresh_with_failures(struct test_env *te, void *ctx) {
    struct fixture f = {0};
    struct script s;
    (void)ctx;
    f.te.now = te->now;
    script_init(&s, &f, "new");
    struct pnx_executor *executor = NULL;
    int rc = pnx_executor_create(PNX_EXECUTOR_OPTS(.env = &te->env, .registry = pnx_registry_off(),
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                         .flags = PNX_EXECUTOR_TICK),
            &f.err, &executor);
    if (rc)
        return rc;
    rc = pnx_cache_create(
            PNX_CACHE_OPTS(.capacity_entries = 4, .env = &te->env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                    .refresh_after = 10 * PNX_SEC, .executor = executor,
                    .refresh_loader = script_loader, .refresh_ctx = &s),
            &f.err, &f.cache);
    if (rc == 0)
        rc = pnx_cache_put(f.cache, "k", 1, "old", 4, 0);
    if (rc == 0) {
        test_env_advance(te, 10 * PNX_SEC);
        check_text(&f, "k", "old"); /* whatever becomes of the refresh */
        pnx_executor_tick(executor, te->now);
        struct pnx_cache_ref ref = {0};
        CHECK_EQ(get_text(&f, "k", &ref), 0);
        bool fresh = strcmp(pnx_cache_ref_data(&ref), "new") == 0;
        CHECK_EQ(fresh, stats_of(&f).refresh_failures == 0);
        pnx_cache_ref_release(&ref);
        rc = pnx_cache_refresh(f.cache, "l", 1, NULL, NULL, PNX_SEC, &f.err);
        pnx_executor_tick(executor, te->now);
        check_invariants(&f);
    }
    pnx_cache_release(&f.cache);
    pnx_executor_release(&executor);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return rc;
}

TEST(a_refresh_without_memory_leaves_the_old_value) {
    struct test_env te;
    (void)pnx_reclaim_default();
    test_env_init(&te);
    test_env_virtual(&te, PNX_SEC);
    test_fail_each_allocation(&te, refresh_with_failures, NULL);
}
