/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the options of times (ttl_access, ttl_jitter, refresh_after, stale_if_error) mean for the calls that are no plain
 * lookups or puts: compute, reserve and commit, get_many, view, retain, clear, resize, save and load.
 */
#include "cache/script.h"

#include <patinox/reclaim.h>

/* A cache whose wall clock goes with the virtual one. */
static void open_cache(struct fixture *f, struct script *s, const struct pnx_cache_opts *opts) {
    fixture_worlds(f);
    f->te.env.real_ns = f->te.env.now;
    struct pnx_cache_opts full = fixture_opts(f, opts);
    CHECK_EQ(pnx_cache_create(&full, &f->err, &f->cache), 0);
    script_init(s, f, "new");
}

/* ---- calls in all their forms ---- */

struct computed {
    const char *value; /* that it puts; NULL: none */
    bool takes_away;
    bool keeps_ttl;
    bool saw; /* something */
    uint32_t source;
};

static int change(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct computed *computed = ctx;
    computed->saw = pnx_cache_ref_data(now) != NULL;
    computed->source = now->source;
    if (computed->takes_away)
        return pnx_cache_change_remove(change);
    if (computed->keeps_ttl)
        CHECK_EQ(pnx_cache_change_keep_ttl(change), 0);
    if (!computed->value)
        return 0;
    return pnx_cache_change_set(change, computed->value, strlen(computed->value) + 1);
}

static void compute(struct fixture *f, struct computed *computed, struct pnx_cache_ref *ret_ref) {
    CHECK_EQ(pnx_cache_compute(f->cache, "k", 1, change, computed, ret_ref), 0);
}

/* Puts a value under "k" by a commit, of fewer bytes than were reserved. */
static int commit(struct fixture *f, const char *value, bool if_absent) {
    struct pnx_cache_reservation reservation = {0};
    CHECK_EQ(pnx_cache_reserve(f->cache, "k", 1, 100, &reservation), 0);
    memcpy(reservation.data, value, strlen(value) + 1);
    return (if_absent ? pnx_cache_commit_if_absent : pnx_cache_commit)(
            &reservation, strlen(value) + 1, 0);
}

static int view(struct fixture *f, char *buf) {
    struct pnx_cache_bytes bytes;
    pnx_reclaim_enter(NULL);
    int rc = pnx_cache_view(f->cache, "k", 1, &bytes);
    if (rc == 0)
        memcpy(buf, bytes.data, bytes.size);
    pnx_reclaim_exit(NULL);
    return rc;
}

struct asked_about {
    bool keep;
    int n;
    uint32_t source; /* of the last one */
};

static bool keep(void *ctx, const struct pnx_cache_ref *ref) {
    struct asked_about *about = ctx;
    about->n++;
    about->source = ref->source;
    return about->keep;
}

/* Saves the cache and loads it again into one of the same options, after a time. */
static struct pnx_cache_file_report restart(
        struct fixture *f, const struct pnx_cache_opts *opts, pnx_ns after) {
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    struct pnx_cache_opts full = fixture_opts(f, opts);
    const char *path = test_path("cache");
    CHECK_EQ(pnx_cache_save(f->cache, path, NULL, &f->err, NULL), 0);
    pnx_cache_release(&f->cache);
    test_env_advance(&f->te, after);
    CHECK_EQ(pnx_cache_create(&full, &f->err, &f->cache), 0);
    CHECK_EQ(pnx_cache_load_file(f->cache, path, NULL, &f->err, &report), 0);
    return report;
}

/* ---- what is kept for errors (P13) ---- */

TEST(p13_a_compute_sees_nothing_and_what_it_decides_ends_what_was_kept_or_leaves_it) {
    for (int how = 0; how < 3; how++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_ref ref = {0};
        struct computed computed = {.value = how == 1 ? "mine" : NULL, .takes_away = how == 2};
        open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
        compute(&f, &computed, &ref);
        CHECK(!computed.saw);
        s.code = -EIO;
        if (how == 0) { /* left as it was */
            CHECK(!ref.entry);
            check_loads(&s, "old", PNX_CACHE_STALE);
        } else if (how == 1) {
            CHECK_STR(pnx_cache_ref_data(&ref), "mine");
            check_loads(&s, "mine", PNX_CACHE_FOUND);
        } else {
            CHECK_EQ(script_load(&s, &ref), -EIO);
        }
        pnx_cache_ref_release(&ref);
        fixture_close(&f);
    }
}

TEST(p13_a_commit_takes_its_place_and_if_absent_too) {
    for (int if_absent = 0; if_absent < 2; if_absent++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_reservation reservation = {0};
        open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
        s.code = -EIO;
        CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 8, &reservation), 0);
        check_loads(&s, "old", PNX_CACHE_STALE); /* a reservation changes nothing */
        pnx_cache_abort(&reservation);
        check_loads(&s, "old", PNX_CACHE_STALE);
        CHECK_EQ(commit(&f, "mine", if_absent), 0);
        check_loads(&s, "mine", PNX_CACHE_FOUND);
        CHECK_EQ(stats_of(&f).entries, 1);
        CHECK_EQ(stats_of(&f).removed_expired, 1);
        fixture_close(&f);
    }
}

TEST(p13_a_commit_while_its_key_is_loaded_in_vain_ends_it) {
    struct fixture f;
    struct script s;
    struct asker first;
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EIO;
    script_gate(&s, true);
    asker_start(&first, &s, PNX_NEVER);
    script_await_started(&s, 1);
    CHECK_EQ(commit(&f, "mine", true), 0);
    script_gate(&s, false);
    check_asked_in_vain(&first, -EIO);
    check_text(&f, "k", "mine");
    fixture_close(&f);
}

TEST(p13_a_view_does_not_see_it_and_a_save_leaves_it_out) {
    struct fixture f;
    struct script s;
    struct pnx_cache_ref ref = {0};
    char buf[8];
    const struct pnx_cache_opts *opts = PNX_CACHE_OPTS(.capacity_entries = 4,
            .stale_if_error = 20 * PNX_SEC, .policy = "clock");
    open_keeping(&f, &s, opts);
    CHECK_EQ(view(&f, buf), -ENOENT);
    CHECK_EQ(stats_of(&f).entries, 1);
    CHECK_EQ(restart(&f, opts, 0).entries, 0);
    s.code = -EIO;
    CHECK_EQ(script_load(&s, &ref), -EIO);
    fixture_close(&f);
}

/* What is loaded expires and is kept like anything else. */
TEST(p13_what_a_file_brings_takes_its_place_and_is_kept_in_its_turn) {
    struct fixture f;
    struct script s;
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    const char *path = test_path("cache");
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "saved", 25 * PNX_SEC);
    CHECK_EQ(pnx_cache_save(f.cache, path, NULL, &f.err, NULL), 0);
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    CHECK_EQ(pnx_cache_load_file(f.cache, path, NULL, &f.err, &report), 0);
    CHECK_EQ(report.entries, 1);
    check_text(&f, "k", "saved");
    test_env_advance(&f.te, 24 * PNX_SEC);
    check_text(&f, "k", "saved");
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "k");
    s.code = -EIO;
    check_loads(&s, "saved", PNX_CACHE_STALE);
    fixture_close(&f);
}

TEST(p18_a_retain_is_asked_about_what_is_kept_for_errors_which_is_gone_when_it_is_refused) {
    for (int kept = 0; kept < 2; kept++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_ref ref = {0};
        struct asked_about about = {.keep = kept};
        open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
        CHECK_EQ(pnx_cache_retain(f.cache, keep, &about), !kept);
        CHECK_EQ(about.n, 1);
        CHECK_EQ(about.source, PNX_CACHE_STALE);
        s.code = -EIO;
        if (kept)
            check_loads(&s, "old", PNX_CACHE_STALE);
        else
            CHECK_EQ(script_load(&s, &ref), -EIO);
        CHECK_EQ(stats_of(&f).removed_explicit, !kept);
        fixture_close(&f);
    }
}

TEST(p18_a_value_that_a_retain_refused_while_it_was_loaded_in_vain_is_not_returned) {
    struct fixture f;
    struct script s;
    struct asker first;
    struct asked_about about = {.keep = false};
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    s.code = -EIO;
    script_gate(&s, true);
    asker_start(&first, &s, PNX_NEVER);
    script_await_started(&s, 1);
    CHECK_EQ(pnx_cache_retain(f.cache, keep, &about), 1);
    script_gate(&s, false);
    check_asked_in_vain(&first, -EIO);
    fixture_close(&f);
}

/* A predicate during whose call the value expires, and a load of it begins. */
static bool refuse_late(void *ctx, const struct pnx_cache_ref *ref) {
    struct asker *first = ctx;
    struct script *s = first->s;
    CHECK_EQ(ref->source, PNX_CACHE_FOUND);
    test_env_advance(&s->f->te, 10 * PNX_SEC);
    script_gate(s, true);
    asker_start(first, s, PNX_NEVER);
    script_await_started(s, 1);
    return false;
}

TEST(p18_a_value_that_expires_while_a_retain_refuses_it_is_not_returned_instead_of_an_error) {
    struct fixture f;
    struct script s;
    struct asker first = {.s = &s};
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "old", 0);
    s.code = -EIO;
    CHECK_EQ(pnx_cache_retain(f.cache, refuse_late, &first), 1);
    script_gate(&s, false);
    check_asked_in_vain(&first, -EIO);
    fixture_close(&f);
}

TEST(p13_a_resize_takes_what_is_kept_before_what_has_not_expired) {
    struct fixture f;
    struct script s;
    struct pnx_cache_ref ref = {0};
    open_keeping(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "a", "1", 0);
    put_text(&f, "b", "2", 0);
    check_absent(&f, "k");
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 2, &f.err), 0);
    check_text(&f, "a", "1");
    check_text(&f, "b", "2");
    CHECK_EQ(stats_of(&f).removed_expired, 1);
    s.code = -EIO;
    CHECK_EQ(script_load(&s, &ref), -EIO);
    fixture_close(&f);
}

/* ---- what is refreshed while it is served (P12) ---- */

TEST(p12_with_an_executor_lookups_of_many_views_and_computes_have_the_value_refreshed) {
    for (int way = 0; way < 6; way++) {
        struct fixture f;
        struct script s;
        char buf[8] = "";
        uint64_t found = 0;
        struct computed computed = {.value = NULL};
        struct pnx_cache_ref ref = {0};
        struct pnx_executor *executor = open_worker(&f, &s, 4,
                PNX_CACHE_OPTS(.capacity_entries = 4, .policy = way & 1 ? "lru" : "clock"));
        if (way / 2 == 0) {
            CHECK_EQ(pnx_cache_get_many(f.cache, "k", 1, 1, buf, 4, &found), 1);
        } else if (way / 2 == 1) {
            CHECK_EQ(view(&f, buf), 0);
        } else {
            compute(&f, &computed, &ref);
            CHECK_EQ(computed.source, PNX_CACHE_STALE);
            CHECK_EQ(ref.source, PNX_CACHE_STALE);
            memcpy(buf, pnx_cache_ref_data(&ref), 4);
            pnx_cache_ref_release(&ref);
        }
        CHECK_STR(buf, "old");
        CHECK_EQ(stats_of(&f).loading, 1);
        CHECK_EQ(stats_of(&f).pinned, 0);
        pnx_executor_tick(executor, f.te.now);
        CHECK_EQ(s.calls, 1);
        check_text(&f, "k", "new");
        compute(&f, &computed, &ref);
        CHECK_EQ(computed.source, PNX_CACHE_FOUND);
        CHECK_EQ(ref.source, PNX_CACHE_FOUND);
        pnx_cache_ref_release(&ref);
        CHECK_EQ(stats_of(&f).loading, 0);
        close_worker(&f, executor);
    }
}

TEST(p12_what_a_compute_or_a_commit_stores_is_as_fresh_as_what_is_put) {
    for (int way = 0; way < 3; way++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_ref ref = {0};
        struct computed computed = {.value = "mine", .keeps_ttl = way == 1};
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 100 * PNX_SEC,
                                 .refresh_after = 10 * PNX_SEC));
        script_init(&s, &f, "new");
        put_text(&f, "k", "old", 0);
        test_env_advance(&f.te, 9 * PNX_SEC);
        if (way < 2)
            compute(&f, &computed, &ref);
        else
            CHECK_EQ(commit(&f, "mine", false), 0);
        pnx_cache_ref_release(&ref);
        test_env_advance(&f.te, 10 * PNX_SEC - 4);
        check_loads(&s, "mine", PNX_CACHE_FOUND);
        test_env_advance(&f.te, 4);
        check_loads(&s, "new", PNX_CACHE_LOADED);
        fixture_close(&f);
    }
}

/* A commit counts from when it is made, not from when its memory was reserved. */
TEST(p16_the_times_of_a_commit_count_from_then) {
    struct fixture f;
    struct script s;
    struct pnx_cache_reservation reservation = {0};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 20 * PNX_SEC,
                             .refresh_after = 10 * PNX_SEC, .ttl_access = 16 * PNX_SEC));
    script_init(&s, &f, "new");
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 5, &reservation), 0);
    memcpy(reservation.data, "mine", 5);
    test_env_advance(&f.te, 50 * PNX_SEC);
    CHECK_EQ(pnx_cache_commit(&reservation, 5, 0), 0);
    test_env_advance(&f.te, 10 * PNX_SEC - 4);
    check_loads(&s, "mine", PNX_CACHE_FOUND);
    test_env_advance(&f.te, 10 * PNX_SEC + 3);
    check_text(&f, "k", "mine");
    test_env_advance(&f.te, 1);
    check_absent(&f, "k");
    fixture_close(&f);
}

/* It is a put that is made with the commit. */
TEST(p16_a_reservation_is_not_ended_by_what_removes_its_key) {
    for (int how = 0; how < 3; how++) {
        struct fixture f;
        struct pnx_cache_reservation reservation = {0};
        struct asked_about about = {.keep = false};
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
        put_text(&f, "k", "old", 0);
        CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 5, &reservation), 0);
        memcpy(reservation.data, "mine", 5);
        if (how == 0)
            CHECK_EQ(pnx_cache_clear(f.cache), 0);
        else if (how == 1)
            CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
        else
            CHECK_EQ(pnx_cache_retain(f.cache, keep, &about), 1);
        check_absent(&f, "k");
        CHECK_EQ(pnx_cache_commit_if_absent(&reservation, 5, 0), 0);
        check_text(&f, "k", "mine");
        fixture_close(&f);
    }
}

TEST(p16_a_commit_after_a_resize_to_less_is_efbig_and_leaves_no_older_value) {
    struct fixture f;
    struct pnx_cache_reservation reservation = {0};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 8192));
    put_text(&f, "k", "old", 0);
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 4000, &reservation), 0);
    memset(reservation.data, 'x', 4000);
    CHECK_EQ(pnx_cache_resize(f.cache, 2048, 0, &f.err), 0);
    check_text(&f, "k", "old");
    CHECK_EQ(pnx_cache_commit(&reservation, 4000, 0), -EFBIG);
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 1);
    CHECK_EQ(stats_of(&f).reserved, 0);
    fixture_close(&f);
}

TEST(p18_a_value_that_is_refused_while_it_is_refreshed_does_not_come_back) {
    for (int kept = 0; kept < 2; kept++) {
        struct fixture f;
        struct script s;
        struct asker first;
        struct asked_about about = {.keep = kept};
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC));
        script_init(&s, &f, "new");
        put_text(&f, "k", "old", 0);
        test_env_advance(&f.te, 10 * PNX_SEC);
        script_gate(&s, true);
        asker_start(&first, &s, PNX_NEVER);
        script_await_started(&s, 1);
        CHECK_EQ(pnx_cache_retain(f.cache, keep, &about), !kept);
        script_gate(&s, false);
        check_asked(&first, "new", PNX_CACHE_LOADED);
        if (kept)
            check_text(&f, "k", "new");
        else
            check_absent(&f, "k");
        fixture_close(&f);
    }
}

TEST(p12_a_refresh_whose_old_value_a_resize_has_evicted_is_stored) {
    struct fixture f;
    struct script s;
    struct asker first;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .refresh_after = 10 * PNX_SEC));
    script_init(&s, &f, "new");
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    script_gate(&s, true);
    asker_start(&first, &s, PNX_NEVER);
    script_await_started(&s, 1);
    put_text(&f, "a", "1", 0);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 1, &f.err), 0);
    check_absent(&f, "k");
    script_gate(&s, false);
    check_asked(&first, "new", PNX_CACHE_LOADED);
    check_text(&f, "k", "new"); /* nobody has said that it is wrong */
    fixture_close(&f);
}

TEST(p19_what_is_left_until_a_refresh_survives_a_restart) {
    static const struct {
        pnx_ns age;           /* when it is saved */
        pnx_ns away;          /* until it is loaded, by the wall clock, too */
        pnx_ns refresh_after; /* of the cache that loads it; 0: as it was */
        pnx_ns left;          /* until it is refreshed */
    } cases[] = {
            {4 * PNX_SEC, 0, 0, 6 * PNX_SEC},
            {4 * PNX_SEC, 5 * PNX_SEC, 0, PNX_SEC},
            {4 * PNX_SEC, 50 * PNX_SEC, 0, 0},
            {10 * PNX_SEC, 0, 0, 0}, /* it was due */
            {4 * PNX_SEC, 0, 2 * PNX_SEC, 2 * PNX_SEC},
            {4 * PNX_SEC, 0, 90 * PNX_SEC, 6 * PNX_SEC},
            {4 * PNX_SEC, 0, PNX_NEVER, PNX_NEVER},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_opts opts = *PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 100 * PNX_SEC,
                .refresh_after = 10 * PNX_SEC);
        open_cache(&f, &s, &opts);
        put_text(&f, "k", "old", 0);
        test_env_advance(&f.te, cases[i].age);
        opts.refresh_after = cases[i].refresh_after ? cases[i].refresh_after : opts.refresh_after;
        CHECK_EQ(restart(&f, &opts, cases[i].away).entries, 1);
        if (cases[i].left == PNX_NEVER) {
            test_env_advance(&f.te, 90 * PNX_SEC);
            check_loads(&s, "old", PNX_CACHE_FOUND);
        } else {
            if (cases[i].left > 0) {
                test_env_advance(&f.te, cases[i].left - 4);
                check_loads(&s, "old", PNX_CACHE_FOUND);
            }
            test_env_advance(&f.te, 4);
            check_loads(&s, "new", PNX_CACHE_LOADED);
        }
        fixture_close(&f);
    }
}

TEST(p19_a_value_whose_refresh_has_failed_or_is_under_way_is_due_after_a_restart) {
    for (int fails = 0; fails < 2; fails++) {
        struct fixture f;
        struct script s;
        const struct pnx_cache_opts *opts = PNX_CACHE_OPTS(.capacity_entries = 4,
                .refresh_after = 10 * PNX_SEC, .refresh_backoff = 5 * PNX_SEC);
        struct asker first;
        open_cache(&f, &s, opts);
        put_text(&f, "k", "old", 0);
        test_env_advance(&f.te, 10 * PNX_SEC);
        s.code = -EIO;
        script_gate(&s, !fails);
        asker_start(&first, &s, PNX_NEVER);
        script_await_started(&s, 1);
        if (fails) /* else the save comes before the end of it */
            check_asked(&first, "old", PNX_CACHE_STALE);
        CHECK_EQ(pnx_cache_save(f.cache, test_path("cache"), NULL, &f.err, NULL), 0);
        if (!fails) {
            script_gate(&s, false);
            check_asked(&first, "old", PNX_CACHE_STALE);
        }
        CHECK_EQ(pnx_cache_clear(f.cache), 0);
        CHECK_EQ(pnx_cache_load_file(f.cache, test_path("cache"), NULL, &f.err, NULL), 0);
        s.code = 0;
        test_env_advance(&f.te, 4);
        check_loads(&s, "new", PNX_CACHE_LOADED);
        fixture_close(&f);
    }
}

/* What is being loaded is newer than any file. */
TEST(p19_a_load_under_way_goes_before_what_a_file_says) {
    struct fixture f;
    struct script s;
    struct asker first;
    struct pnx_cache_file_report report = {.size = sizeof(report)};
    const char *path = test_path("cache");
    open_cache(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "saved", 0);
    put_text(&f, "other", "saved", 0);
    CHECK_EQ(pnx_cache_save(f.cache, path, NULL, &f.err, NULL), 0);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    script_gate(&s, true);
    asker_start(&first, &s, PNX_NEVER);
    script_await_started(&s, 1);
    CHECK_EQ(pnx_cache_load_file(f.cache, path, NULL, &f.err, &report), 0);
    CHECK_EQ(report.entries, 1);
    CHECK_EQ(report.present, 1);
    check_absent(&f, "k");
    script_gate(&s, false);
    check_asked(&first, "new", PNX_CACHE_LOADED);
    check_text(&f, "k", "new");
    check_text(&f, "other", "saved");
    fixture_close(&f);
}

/* ---- what goes when nobody uses it (P11) ---- */

TEST(p11_computes_views_and_loads_are_uses_and_nothing_else_is_one) {
    for (int way = 0; way < 9; way++) {
        static const bool uses[] = {true, true, true, true, false, false, false, false, false};
        struct fixture f;
        struct script s;
        struct computed computed = {.value = NULL, .takes_away = false};
        struct pnx_cache_reservation reservation = {0};
        struct asked_about about = {.keep = true};
        char buf[8];
        open_cache(&f, &s, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl_access = 16 * PNX_SEC));
        put_text(&f, "k", "old", 0);
        test_env_advance(&f.te, 15 * PNX_SEC);
        switch (way) {
        case 0:
            compute(&f, &computed, NULL); /* which keeps it */
            break;
        case 1:
            CHECK_EQ(view(&f, buf), 0);
            break;
        case 2:
            check_loads(&s, "old", PNX_CACHE_FOUND);
            break;
        case 3:
            CHECK_EQ(commit(&f, "new", false), 0);
            break;
        case 4:
            CHECK_EQ(commit(&f, "new", true), -EEXIST);
            break;
        case 5:
            CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 8, &reservation), 0);
            pnx_cache_abort(&reservation);
            break;
        case 6:
            CHECK_EQ(pnx_cache_retain(f.cache, keep, &about), 0);
            break;
        case 7:
            CHECK_EQ(pnx_cache_save(f.cache, test_path("cache"), NULL, &f.err, NULL), 0);
            break;
        default:
            CHECK_EQ(pnx_cache_resize(f.cache, 0, 8, &f.err), 0);
            break;
        }
        test_env_advance(&f.te, PNX_SEC);
        CHECK_EQ(view(&f, buf), uses[way] ? 0 : -ENOENT);
        fixture_close(&f);
    }
}

TEST(p11_a_resize_and_what_it_evicts_look_at_the_last_use) {
    struct fixture f;
    struct script s;
    open_cache(&f, &s,
            PNX_CACHE_OPTS(.capacity_entries = 4, .ttl_access = 16 * PNX_SEC, .policy = "fifo"));
    put_text(&f, "used", "1", 0);
    put_text(&f, "unused", "2", 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    check_text(&f, "used", "1");
    test_env_advance(&f.te, 6 * PNX_SEC);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 1, &f.err), 0);
    check_text(&f, "used", "1"); /* though it is the first in */
    CHECK_EQ(stats_of(&f).removed_expired, 1);
    fixture_close(&f);
}

TEST(p11_a_compute_that_keeps_the_time_to_live_is_a_use_all_the_same) {
    struct fixture f;
    struct script s;
    struct computed computed = {.value = "mine", .keeps_ttl = true};
    open_cache(&f, &s,
            PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 20 * PNX_SEC, .ttl_access = 16 * PNX_SEC));
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 15 * PNX_SEC);
    compute(&f, &computed, NULL);
    test_env_advance(&f.te, 5 * PNX_SEC - 1);
    check_text(&f, "k", "mine");
    test_env_advance(
            &f.te, 1); /* both of its times to live are fresh, but it is kept to the old one */
    check_absent(&f, "k");
    fixture_close(&f);
}

TEST(p11_what_a_file_brings_counts_as_used_then) {
    struct fixture f;
    struct script s;
    const struct pnx_cache_opts *opts =
            PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 100 * PNX_SEC, .ttl_access = 16 * PNX_SEC);
    open_cache(&f, &s, opts);
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 15 * PNX_SEC);
    CHECK_EQ(restart(&f, opts, 50 * PNX_SEC).entries, 1); /* nobody could have used it */
    test_env_advance(&f.te, 16 * PNX_SEC - 1);
    check_text(&f, "k", "old");
    test_env_advance(&f.te, 16 * PNX_SEC);
    check_absent(&f, "k");
    test_env_advance(&f.te, 0);
    put_text(&f, "k", "old", 0);
    test_env_advance(&f.te, 16 * PNX_SEC);
    CHECK_EQ(restart(&f, opts, 0).entries, 0); /* it had expired for want of a use */
    fixture_close(&f);
}

/* ---- times that are spread (ttl_jitter) ---- */

#define SPREAD 64

/* How many of these entries are still there: their times to live are spread over (50 s, 100 s]. */
static int left_of(struct fixture *f) {
    int left = 0;
    for (uint8_t key = 0; key < SPREAD; key++) {
        struct pnx_cache_ref ref = {0};
        left += pnx_cache_probe(f->cache, &key, 1, &ref) == 0;
        pnx_cache_ref_release(&ref);
    }
    return left;
}

/* Stores them in one of the ways that there are. */
static void store_all(struct fixture *f, struct script *s, int way) {
    for (uint8_t key = 0; key < SPREAD; key++) {
        struct pnx_cache_reservation reservation = {0};
        struct computed computed = {.value = "x"};
        struct pnx_cache_ref ref = {0};
        if (way == 0) {
            CHECK_EQ(pnx_cache_compute(f->cache, &key, 1, change, &computed, NULL), 0);
        } else if (way == 1) {
            CHECK_EQ(pnx_cache_reserve(f->cache, &key, 1, 1, &reservation), 0);
            *(char *)reservation.data = 'x';
            CHECK_EQ(pnx_cache_commit(&reservation, 1, 0), 0);
        } else {
            CHECK_EQ(pnx_cache_get_or_load(f->cache, &key, 1, script_loader, s, 0, NULL, &ref), 0);
            pnx_cache_ref_release(&ref);
        }
    }
}

TEST(jitter_spreads_the_times_of_computes_commits_and_loads_and_only_once) {
    for (int way = 0; way < 3; way++) {
        struct fixture f;
        struct script s;
        struct pnx_cache_opts opts = *PNX_CACHE_OPTS(.capacity_entries = 2 * SPREAD,
                .ttl = 100 * PNX_SEC, .ttl_jitter = 50);
        open_cache(&f, &s, &opts);
        store_all(&f, &s, way);
        test_env_advance(&f.te, 50 * PNX_SEC - 1);
        CHECK_EQ(left_of(&f), SPREAD);
        for (uint8_t key = 0; key < SPREAD;
                key++) { /* of one that is kept nothing is taken again */
            struct computed computed = {.value = "y", .keeps_ttl = true};
            CHECK_EQ(pnx_cache_compute(f.cache, &key, 1, change, &computed, NULL), 0);
            CHECK(computed.saw);
        }
        CHECK_EQ(restart(&f, &opts, 0).entries, SPREAD); /* nor of what a file brings */
        test_env_advance(&f.te, 25 * PNX_SEC);
        int half = left_of(&f); /* binomial: 32 of 64 are expected, 4 is the standard deviation */
        CHECK_MSG(half >= 8 && half <= 56, "%d of %d are left in the middle", half, SPREAD);
        test_env_advance(&f.te, 25 * PNX_SEC + 1);
        CHECK_EQ(left_of(&f), 0);
        fixture_close(&f);
    }
}
