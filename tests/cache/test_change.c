/* SPDX-License-Identifier: Apache-2.0 */
/* P16 to P18: reservations, computes, retain; and views. */
#include "cache/common.h"

#include <patinox/reclaim.h>

#include <pthread.h>
#include <sched.h>

/* ---- reservations ---- */

TEST(p16_what_is_reserved_is_charged_unseen_and_stored_by_the_commit) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "older", 0);
    uint64_t before = used_of(f.budget);
    struct pnx_cache_reservation r = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 6, &r), 0);
    CHECK_EQ(r.size, 6);
    CHECK_EQ((uintptr_t)r.data % 16, 0);
    CHECK_EQ(used_of(f.budget), before + pnx_cache_cost(1, 6));
    CHECK_EQ(stats_of(&f).reserved, pnx_cache_cost(1, 6));
    CHECK_EQ(stats_of(&f).pinned, 1);
    CHECK_EQ(stats_of(&f).bytes, pnx_cache_cost(1, 6));
    check_text(&f, "k", "older");
    const void *place = r.data;
    memcpy(r.data, "newer", 6);
    CHECK_EQ(pnx_cache_commit(&r, 6, 0), 0);
    CHECK(!r.entry && !r.data);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(get_text(&f, "k", &ref), 0);
    CHECK(pnx_cache_ref_data(&ref) == place); /* not a copy */
    pnx_cache_ref_release(&ref);
    check_text(&f, "k", "newer");
    CHECK_EQ(used_of(f.budget), before);
    CHECK_EQ(stats_of(&f).reserved, 0);
    CHECK_EQ(stats_of(&f).pinned, 0);
    CHECK_EQ(stats_of(&f).removed_replaced, 1);
    fixture_close(&f);
}

TEST(p16_an_aborted_reservation_leaves_nothing) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    uint64_t before = used_of(f.budget);
    int64_t live = f.te.live_bytes;
    struct pnx_cache_reservation r = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 1000, &r), 0);
    pnx_cache_abort(&r);
    CHECK(!r.entry);
    pnx_cache_abort(&r);
    pnx_cache_abort(NULL);
    {
        PNX_AUTO_CACHE_RESERVATION scoped = {0};
        CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 1000, &scoped), 0);
    }
    check_absent(&f, "k");
    CHECK_EQ(used_of(f.budget), before);
    CHECK_EQ(f.te.live_bytes, live);
    CHECK_EQ(stats_of(&f).reserved, 0);
    fixture_close(&f);
}

TEST(p16_a_commit_may_store_fewer_bytes_and_counts_those) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    uint64_t before = used_of(f.budget);
    struct pnx_cache_reservation r = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 5000, &r), 0);
    memcpy(r.data, "short", 6);
    CHECK_EQ(pnx_cache_commit(&r, 5001, 0), -ERANGE);
    CHECK_EQ(pnx_cache_commit(&r, 6, -1), -EINVAL);
    CHECK(r.entry != NULL); /* both leave it as it was */
    CHECK_EQ(pnx_cache_commit(&r, 6, 0), 0);
    check_text(&f, "k", "short");
    CHECK_EQ(stats_of(&f).bytes, pnx_cache_cost(1, 6));
    CHECK_EQ(used_of(f.budget), before + pnx_cache_cost(1, 6));
    CHECK_EQ(pnx_cache_reserve(f.cache, "none", 4, 50, &r), 0);
    CHECK_EQ(pnx_cache_commit(&r, 0, 0), 0);
    char buf[1];
    size_t size = 7;
    CHECK_EQ(pnx_cache_get_copy(f.cache, "none", 4, buf, 1, &size), 0);
    CHECK_EQ(size, 0);
    fixture_close(&f);
}

TEST(p16_a_commit_expires_and_if_absent_as_a_put_does) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_reservation r = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 4, &r), 0);
    memcpy(r.data, "one", 4);
    CHECK_EQ(pnx_cache_commit_if_absent(&r, 4, PNX_SEC), 0);
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 4, &r), 0);
    memcpy(r.data, "two", 4);
    CHECK_EQ(pnx_cache_commit_if_absent(&r, 4, PNX_SEC), -EEXIST);
    CHECK(!r.entry);
    check_text(&f, "k", "one");
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "k");
    fixture_close(&f);
}

TEST(p9_a_commit_that_fails_leaves_no_older_value_and_a_reserve_that_fails_does) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    put_text(&f, "k", "older", 0);
    struct pnx_cache_reservation r = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 2 << 20, &r), -EFBIG);
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, SIZE_MAX, &r), -EFBIG);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, used_of(f.budget) + 100), 0);
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 500000, &r), -ENOMEM);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, 0), 0);
    CHECK(!r.entry);
    put_text(&f, "k", "older", 0); /* the budget may have asked for it */
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 500000, &r), 0);
    CHECK_EQ(pnx_cache_resize(f.cache, 100000, 0, &f.err), 0);
    memset(r.data, 'x', r.size);
    check_text(&f, "k", "older");
    CHECK_EQ(pnx_cache_commit(&r, 500000, 0), -EFBIG);
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 4);
    CHECK_EQ(stats_of(&f).reserved, 0);
    fixture_close(&f);
}

TEST(a_reservation_outlives_its_cache_and_is_refused_then) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_reservation a = {0}, b = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "a", 1, 100, &a), 0);
    CHECK_EQ(pnx_cache_reserve(f.cache, "b", 1, 100, &b), 0);
    CHECK_EQ(pnx_cache_close(f.cache), 2);
    struct pnx_cache_reservation none = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "c", 1, 100, &none), -ESHUTDOWN);
    pnx_cache_release(&f.cache);
    memset(a.data, 1, 100);
    CHECK_EQ(pnx_cache_commit(&a, 100, 0), -ESHUTDOWN);
    pnx_cache_abort(&b);
    fixture_drop(&f);
}

static int load_in_place(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    void *data = NULL;
    (void)ctx, (void)key, (void)key_size, (void)deadline;
    CHECK_EQ(pnx_cache_load_shrink(load, 1), -EINVAL); /* nothing yet */
    CHECK_EQ(pnx_cache_load_reserve(load, 100, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_load_reserve(load, 8, &data), 0);
    CHECK_EQ(pnx_cache_load_reserve(load, 100, &data), 0); /* replaces the first */
    memcpy(data, "in place", 9);
    CHECK_EQ(pnx_cache_load_shrink(load, 101), -ERANGE);
    CHECK_EQ(pnx_cache_load_shrink(load, 100), 0);
    return pnx_cache_load_shrink(load, 9);
}

TEST(a_loader_fills_its_value_in_place) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, load_in_place, NULL, 0, &f.err, &ref), 0);
    CHECK_STR(pnx_cache_ref_data(&ref), "in place");
    CHECK_EQ(pnx_cache_ref_size(&ref), 9);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(stats_of(&f).bytes, pnx_cache_cost(1, 9));
    fixture_close(&f);
}

/* ---- compute ---- */

static int count_up(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    uint64_t n = 0;
    (void)ctx;
    if (pnx_cache_ref_data(now))
        memcpy(&n, pnx_cache_ref_data(now), sizeof(n));
    n++;
    return pnx_cache_change_set(change, &n, sizeof(n));
}

static uint64_t count_of(struct fixture *f, uint64_t key) {
    uint64_t n = 0;
    CHECK_EQ(pnx_cache_get_copy(f->cache, &key, sizeof(key), &n, sizeof(n), NULL), 0);
    return n;
}

#define COUNTERS 3u

static void count_all(unsigned index, void *ctx) {
    struct fixture *f = ctx;
    uint64_t each = test_slow() ? 500 : 20000;
    for (uint64_t i = 0; i < each; i++) {
        uint64_t key = (i + index) % COUNTERS;
        CHECK_EQ(pnx_cache_compute(f->cache, &key, sizeof(key), count_up, NULL, NULL), 0);
    }
}

static void count_with(const char *policy, uint32_t shards) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .policy = policy, .shards = shards));
    test_threads(8, count_all, &f);
    uint64_t sum = 0;
    for (uint64_t key = 0; key < COUNTERS; key++)
        sum += count_of(&f, key);
    CHECK_EQ(sum, 8 * (test_slow() ? 500 : 20000));
    CHECK_EQ(stats_of(&f).computes, sum);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

TEST_LIMIT(p17_counters_that_eight_threads_count_up_lose_nothing, 120) {
    count_with("lru", 1);
    count_with("s3-fifo", 4);
}

struct decision {
    enum { KEEP, REMOVE, SET, POINTER, FILL, FAIL, POSITIVE } what;
    const char *value;
    pnx_ns ttl;
    bool keep_ttl;
    int calls;
    const char *saw;
};

static int decide(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct decision *d = ctx;
    void *data = NULL;
    d->calls++;
    d->saw = pnx_cache_ref_data(now);
    if (d->ttl)
        CHECK_EQ(pnx_cache_change_ttl(change, d->ttl), 0);
    if (d->keep_ttl)
        CHECK_EQ(pnx_cache_change_keep_ttl(change), 0);
    switch (d->what) {
    case KEEP:
        return 0;
    case REMOVE:
        return pnx_cache_change_remove(change);
    case SET:
        return pnx_cache_change_set(change, d->value, strlen(d->value) + 1);
    case POINTER:
        return pnx_cache_change_set_pointer(change, (void *)(uintptr_t)d->value, 100);
    case FILL:
        CHECK_EQ(pnx_cache_change_reserve(change, strlen(d->value) + 1, &data), 0);
        memcpy(data, d->value, strlen(d->value) + 1);
        return 0;
    case FAIL:
        CHECK_EQ(pnx_cache_change_set(change, "gone", 5), 0);
        return -EIO;
    case POSITIVE:
        return 1;
    }
    return 0;
}

static int compute(struct fixture *f, const char *key, struct decision d, const char *expected) {
    struct pnx_cache_ref ref = {0};
    int rc = pnx_cache_compute(f->cache, key, strlen(key), decide, &d, &ref);
    CHECK_EQ(d.calls, 1);
    if (expected)
        CHECK_STR(pnx_cache_ref_data(&ref), expected);
    else
        CHECK(!ref.entry);
    pnx_cache_ref_release(&ref);
    return rc;
}

TEST(p17_a_compute_keeps_removes_or_replaces) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(compute(&f, "k", (struct decision){.what = KEEP}, NULL), 0);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = REMOVE}, NULL), 0);
    CHECK_EQ(stats_of(&f).inserts, 0);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = SET, .value = "one"}, "one"), 0);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = KEEP}, "one"), 0);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = FILL, .value = "two"}, "two"), 0);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = FAIL}, NULL), -EIO);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = POSITIVE}, NULL), -EINVAL);
    check_text(&f, "k", "two");
    CHECK_EQ(compute(&f, "k", (struct decision){.what = POINTER, .value = "three"}, "three"), 0);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = REMOVE}, NULL), 0);
    check_absent(&f, "k");
    struct pnx_cache_stats stats = stats_of(&f);
    CHECK_EQ(stats.removed_explicit, 1);
    CHECK_EQ(stats.removed_replaced, 2);
    CHECK_EQ(stats.computes, 9);
    CHECK_EQ(stats.compute_retries, 0);
    CHECK_EQ(stats.pinned, 0);
    fixture_close(&f);
}

TEST(p17_a_compute_gives_a_new_time_to_live_or_keeps_the_old_one) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 10 * PNX_SEC));
    put_text(&f, "k", "one", 3 * PNX_SEC);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = SET, .value = "two", .keep_ttl = true},
                     "two"),
            0);
    test_env_advance(&f.te, 2 * PNX_SEC - 1);
    check_text(&f, "k", "two");
    test_env_advance(&f.te, 1);
    /* Where nothing was, there is nothing to keep: the cache's own. */
    CHECK_EQ(compute(&f, "k", (struct decision){.what = SET, .value = "a", .keep_ttl = true}, "a"),
            0);
    test_env_advance(&f.te, 9 * PNX_SEC);
    check_text(&f, "k", "a");
    CHECK_EQ(
            compute(&f, "k", (struct decision){.what = SET, .value = "b", .ttl = PNX_SEC}, "b"), 0);
    test_env_advance(&f.te, PNX_SEC);
    check_absent(&f, "k");
    fixture_close(&f);
}

/* What another thread could do while the function runs. */
struct meddling {
    struct fixture *f;
    void (*meddle)(struct fixture *f);
    int calls;
    char saw[4][16];
};

static int meddled(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    CHECK(m->calls < 4);
    const char *value = pnx_cache_ref_data(now);
    snprintf(m->saw[m->calls], sizeof(m->saw[0]), "%s", value ? value : "-");
    if (m->calls++ == 0)
        m->meddle(m->f);
    return pnx_cache_change_set(change, "computed", 9);
}

static void meddle_put(struct fixture *f) {
    put_text(f, "k", "theirs", 0);
}
static void meddle_same(struct fixture *f) {
    put_text(f, "k", "old", 0); /* the same bytes, another value */
}
static void meddle_remove(struct fixture *f) {
    CHECK_EQ(pnx_cache_remove(f->cache, "k", 1), 0);
}
static void meddle_clear(struct fixture *f) {
    CHECK_EQ(pnx_cache_clear(f->cache), 0);
}
static void meddle_expire(struct fixture *f) {
    test_env_advance(&f->te, PNX_SEC);
}
static void meddle_evict(struct fixture *f) {
    for (uint64_t i = 0; i < 8; i++)
        CHECK_EQ(pnx_cache_put(f->cache, &i, sizeof(i), "x", 2, 0), 0);
}

static void check_meddled(void (*meddle)(struct fixture *f), const char *second) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "old", PNX_SEC);
    struct meddling m = {.f = &f, .meddle = meddle};
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, meddled, &m, NULL), 0);
    CHECK_EQ(m.calls, 2);
    CHECK_STR(m.saw[0], "old");
    CHECK_STR(m.saw[1], second);
    check_text(&f, "k", "computed");
    CHECK_EQ(stats_of(&f).compute_retries, 1);
    fixture_close(&f);
}

TEST(p17_a_function_is_called_again_whatever_has_changed_the_key_meanwhile) {
    check_meddled(meddle_put, "theirs");
    check_meddled(meddle_same, "old");
    check_meddled(meddle_remove, "-");
    check_meddled(meddle_clear, "-");
    check_meddled(meddle_expire, "-");
    check_meddled(meddle_evict, "-");
}

static int removing(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    (void)now;
    if (m->calls++ == 0)
        m->meddle(m->f);
    else
        return 0;
    return pnx_cache_change_remove(change);
}

TEST(p17_a_removal_that_was_decided_on_an_older_value_spares_the_newer_one) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    put_text(&f, "k", "old", 0);
    struct meddling m = {.f = &f, .meddle = meddle_put};
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, removing, &m, NULL), 0);
    CHECK_EQ(m.calls, 2);
    check_text(&f, "k", "theirs");
    fixture_close(&f);
}

static int never_done(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    (void)now;
    m->calls++;
    put_text(m->f, "k", "again", 0);
    return pnx_cache_change_set(change, "never", 6);
}

TEST(p17_a_function_that_changes_its_own_key_ends_with_eagain) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct meddling m = {.f = &f};
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, never_done, &m, NULL), -EAGAIN);
    CHECK_EQ(m.calls, PNX_CACHE_COMPUTE_TRIES);
    check_text(&f, "k", "again");
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

static int nested(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct fixture *f = ctx;
    uint64_t other = 7;
    (void)now;
    CHECK_EQ(pnx_cache_compute(f->cache, "k", 1, nested, f, NULL), -EDEADLK);
    CHECK_EQ(pnx_cache_compute(f->cache, &other, sizeof(other), count_up, NULL, NULL), 0);
    return pnx_cache_change_set(change, "outer", 6);
}

TEST(p17_a_compute_of_its_own_key_from_inside_is_edeadlk_and_of_another_is_well) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, nested, &f, NULL), 0);
    check_text(&f, "k", "outer");
    CHECK_EQ(count_of(&f, 7), 1);
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, nested, &f, NULL), 0); /* nothing is left behind */
    fixture_close(&f);
}

static int destroyed_explicit, destroyed_other;
static void tally(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    *(removed->cause == PNX_CACHE_EXPLICIT ? &destroyed_explicit : &destroyed_other) += 1;
}

static int pointers(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    (void)now;
    CHECK_EQ(pnx_cache_change_set_pointer(change, &m->saw[0], 1), 0);
    if (m->calls++ == 0)
        m->meddle(m->f);
    return pnx_cache_change_set_pointer(change, &m->saw[1], 1);
}

TEST(p4_each_pointer_that_a_compute_was_given_is_destroyed_once) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .destroy = tally));
    put_text(&f, "k", "old", 0);
    destroyed_explicit = destroyed_other = 0;
    struct meddling m = {.f = &f, .meddle = meddle_remove};
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, pointers, &m, NULL), 0);
    CHECK_EQ(m.calls, 2);
    CHECK_EQ(destroyed_explicit,
            1 + 3); /* the text, and three pointers that others took the place of */
    CHECK_EQ(destroyed_other, 0);
    fixture_close(&f);
    CHECK_EQ(destroyed_other, 1);
}

static int big(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    void *data;
    (void)ctx, (void)now;
    int rc = pnx_cache_change_reserve(change, 1 << 20, &data);
    if (rc == 0)
        memset(data, 'b', 1 << 20);
    return rc;
}

TEST(p9_a_compute_whose_result_cannot_be_stored_leaves_no_older_value) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    put_text(&f, "k", "older", 0);
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, big, NULL, NULL), -EFBIG);
    check_absent(&f, "k");
    CHECK_EQ(pnx_cache_resize(f.cache, 4 << 20, 0, &f.err), 0);
    put_text(&f, "k", "older", 0);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, used_of(f.budget) + 100), 0);
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, big, NULL, NULL), -ENOMEM);
    check_absent(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 2);
    fixture_close(&f);
}

static int absent(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)key, (void)key_size, (void)deadline, (void)load;
    return -ENOENT;
}

TEST(p17_a_remembered_absence_is_nothing_to_a_compute_and_goes_when_it_adds) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .negative_ttl = PNX_SEC));
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "k", 1, absent, NULL, 0, NULL, &ref), -ENOENT);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = KEEP}, NULL), 0);
    CHECK_EQ(stats_of(&f).negative_hits, 1);
    CHECK_EQ(stats_of(&f).entries, 1);
    CHECK_EQ(compute(&f, "k", (struct decision){.what = SET, .value = "v", .keep_ttl = true}, "v"),
            0);
    test_env_advance(&f.te, PNX_SEC); /* the absence's time is not the value's */
    check_text(&f, "k", "v");
    CHECK_EQ(stats_of(&f).entries, 1);
    fixture_close(&f);
}

static int compute_while_loading(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct fixture *f = ctx;
    (void)deadline;
    CHECK_EQ(pnx_cache_compute(f->cache, key, key_size, count_up, NULL, NULL), 0);
    return pnx_cache_load_set(load, "stale", 6);
}

TEST(p6_a_compute_overtakes_a_load_of_its_key) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_ref ref = {0};
    uint64_t key = 5;
    CHECK_EQ(pnx_cache_get_or_load(
                     f.cache, &key, sizeof(key), compute_while_loading, &f, 0, NULL, &ref),
            0);
    CHECK_STR(pnx_cache_ref_data(&ref), "stale");
    pnx_cache_ref_release(&ref);
    CHECK_EQ(count_of(&f, key), 1);
    fixture_close(&f);
}

/* ---- retain ---- */

static bool keep_even(void *ctx, const struct pnx_cache_ref *ref) {
    uint64_t key;
    (void)ctx;
    memcpy(&key, pnx_cache_ref_key(ref, NULL), sizeof(key));
    return key % 2 == 0;
}

TEST(p18_retain_removes_what_is_refused_and_says_how_many) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000, .policy = "s3-fifo", .shards = 4));
    for (uint64_t i = 0; i < 501; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "x", 2, 0), 0);
    CHECK_EQ(pnx_cache_retain(f.cache, keep_even, NULL), 250);
    CHECK_EQ(stats_of(&f).entries, 251);
    CHECK_EQ(stats_of(&f).removed_explicit, 250);
    for (uint64_t i = 0; i < 501; i++) {
        char buf[2];
        CHECK_EQ(pnx_cache_get_copy(f.cache, &i, sizeof(i), buf, 2, NULL), i % 2 ? -ENOENT : 0);
    }
    CHECK_EQ(pnx_cache_retain(f.cache, keep_even, NULL), 0);
    CHECK_EQ(pnx_cache_retain(f.cache, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_retain(NULL, keep_even, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_retain(f.cache, keep_even, NULL), -ESHUTDOWN);
    fixture_close(&f);
}

static bool replace_and_refuse(void *ctx, const struct pnx_cache_ref *ref) {
    struct fixture *f = ctx;
    uint64_t key;
    memcpy(&key, pnx_cache_ref_key(ref, NULL), sizeof(key));
    if (key % 3 == 0)
        CHECK_EQ(pnx_cache_put(f->cache, &key, sizeof(key), "newer", 6, 0), 0);
    if (key % 3 == 1)
        CHECK_EQ(pnx_cache_remove(f->cache, &key, sizeof(key)), 0);
    return false;
}

TEST(p18_a_verdict_on_a_value_that_has_been_replaced_is_void) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    for (uint64_t i = 0; i < 90; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "old", 4, 0), 0);
    CHECK_EQ(pnx_cache_retain(f.cache, replace_and_refuse, &f), 30);
    CHECK_EQ(stats_of(&f).entries, 30);
    for (uint64_t i = 0; i < 90; i += 3) {
        char buf[6];
        CHECK_EQ(pnx_cache_get_copy(f.cache, &i, sizeof(i), buf, 6, NULL), 0);
        CHECK_STR(buf, "newer");
    }
    fixture_close(&f);
}

/* ---- views ---- */

TEST(a_view_shows_the_bytes_in_their_place_until_the_section_ends) {
    static const char *const policies[] = {"lru", "s3-fifo"};
    for (size_t i = 0; i < 2; i++) {
        struct fixture f;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .policy = policies[i]));
        put_text(&f, "k", "value", 0);
        struct pnx_cache_bytes view = {0};
        CHECK_EQ(pnx_cache_view(f.cache, "k", 1, &view), -EINVAL); /* no section is open */
        pnx_reclaim_enter(NULL);
        CHECK_EQ(pnx_cache_view(f.cache, "none", 4, &view), -ENOENT);
        CHECK(!view.data);
        CHECK_EQ(pnx_cache_view(f.cache, "k", 1, &view), 0);
        CHECK_EQ(view.size, 6);
        struct pnx_cache_ref ref = {0};
        CHECK_EQ(get_text(&f, "k", &ref), 0);
        CHECK(pnx_cache_ref_data(&ref) == view.data);
        pnx_cache_ref_release(&ref);
        CHECK_EQ(stats_of(&f).pinned, 0);
        /* Removed, and so much retired that it would be freed if it could be. */
        CHECK_EQ(pnx_cache_remove(f.cache, "k", 1), 0);
        for (uint64_t n = 0; n < 500; n++)
            CHECK_EQ(pnx_cache_put(f.cache, "other", 5, &n, sizeof(n), 0), 0);
        CHECK_STR(view.data, "value");
        pnx_reclaim_exit(NULL);
        CHECK_EQ(stats_of(&f).hits, 2);
        CHECK_EQ(stats_of(&f).misses, 1);
        fixture_close(&f);
    }
}

TEST(a_view_refuses_pointers_expired_entries_and_bad_arguments) {
    struct fixture f;
    int thing = 0;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "p", 1, &thing, sizeof(thing), 0), 0);
    put_text(&f, "k", "value", PNX_SEC);
    struct pnx_cache_bytes view = {0};
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_cache_view(f.cache, "p", 1, &view), -ENOTSUP);
    CHECK_EQ(pnx_cache_view(f.cache, "k", 1, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_view(f.cache, NULL, 1, &view), -EINVAL);
    CHECK_EQ(pnx_cache_view(NULL, "k", 1, &view), -EINVAL);
    test_env_advance(&f.te, PNX_SEC);
    CHECK_EQ(pnx_cache_view(f.cache, "k", 1, &view), -ENOENT);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_view(f.cache, "k", 1, &view), -ESHUTDOWN);
    CHECK(!view.data);
    pnx_reclaim_exit(NULL);
    fixture_close(&f);
}

/* A value is as many equal bytes; a reader in a section must never see anything else. */
struct viewing {
    struct fixture f;
    int stop; /* with __atomic */
};

static void view_or_replace(unsigned index, void *ctx) {
    struct viewing *v = ctx;
    unsigned rounds = test_slow() ? 3000 : 100000;
    char bytes[256];
    if (index == 0) {
        for (unsigned i = 0; i < rounds; i++) {
            memset(bytes, (int)i, sizeof(bytes));
            CHECK_EQ(pnx_cache_put(v->f.cache, "k", 1, bytes, 16 + i % 240, 0), 0);
        }
        __atomic_store_n(&v->stop, 1, __ATOMIC_RELEASE);
        return;
    }
    while (!__atomic_load_n(&v->stop, __ATOMIC_ACQUIRE)) {
        struct pnx_cache_bytes view;
        pnx_reclaim_enter(NULL);
        CHECK_EQ(pnx_cache_view(v->f.cache, "k", 1, &view), 0);
        const char *p = view.data;
        for (size_t i = 1; i < view.size; i++)
            CHECK_EQ(p[i], p[0]);
        pnx_reclaim_exit(NULL);
    }
}

TEST_LIMIT(p10_views_beside_a_writer_are_whole_and_never_miss, 120) {
    static struct viewing v;
    fixture_open(&v.f, PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "clock"));
    put_text(&v.f, "k", "", 0);
    test_threads(3, view_or_replace, &v);
    fixture_close(&v.f);
}

/* ---- bad input, no memory ---- */

TEST(bad_arguments_of_reserve_and_compute_are_refused_and_touch_nothing) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_reservation r = {0};
    CHECK_EQ(pnx_cache_reserve(NULL, "k", 1, 1, &r), -EINVAL);
    CHECK_EQ(pnx_cache_reserve(f.cache, NULL, 1, 1, &r), -EINVAL);
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, 1, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", (size_t)UINT32_MAX + 1, 1, &r), -EFBIG);
    CHECK_EQ(pnx_cache_commit(&r, 0, 0), -EINVAL);
    CHECK_EQ(pnx_cache_commit(NULL, 0, 0), -EINVAL);
    CHECK_EQ(pnx_cache_compute(NULL, "k", 1, count_up, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_compute(f.cache, NULL, 1, count_up, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_compute(f.cache, "k", (size_t)UINT32_MAX + 1, count_up, NULL, NULL), -EFBIG);
    void *data;
    CHECK_EQ(pnx_cache_change_set(NULL, "x", 1), -EINVAL);
    CHECK_EQ(pnx_cache_change_reserve(NULL, 1, &data), -EINVAL);
    CHECK_EQ(pnx_cache_change_set_pointer(NULL, &f, 1), -EINVAL);
    CHECK_EQ(pnx_cache_change_remove(NULL), -EINVAL);
    CHECK_EQ(pnx_cache_change_ttl(NULL, 0), -EINVAL);
    CHECK_EQ(pnx_cache_change_keep_ttl(NULL), -EINVAL);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_compute(f.cache, "k", 1, count_up, NULL, NULL), -ESHUTDOWN);
    CHECK_EQ(stats_of(&f).inserts, 0);
    CHECK_EQ(stats_of(&f).computes, 0);
    fixture_close(&f);
}

static int changing_life(struct test_env *te, void *ctx) {
    struct pnx_cache *cache = NULL;
    struct pnx_cache_reservation r = {0};
    (void)ctx;
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.env = &te->env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(), .capacity_entries = 60),
            NULL, &cache);
    if (rc == 0)
        rc = pnx_cache_reserve(cache, "k", 1, 1000, &r);
    if (rc == 0)
        rc = pnx_cache_commit(&r, 10, 0);
    uint64_t key = 1;
    if (rc == 0)
        rc = pnx_cache_compute(cache, &key, sizeof(key), count_up, NULL, NULL);
    struct pnx_cache_ref ref = {0};
    if (rc == 0)
        rc = pnx_cache_compute(cache, &key, sizeof(key), big, NULL, &ref);
    pnx_cache_ref_release(&ref);
    if (rc == -ENOMEM && cache)
        CHECK_EQ(pnx_cache_check(cache, NULL), 0);
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return rc;
}

TEST(every_allocation_of_changes_may_fail) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, changing_life, NULL);
}

static void child(void *ctx) {
    struct pnx_cache_reservation *r = ctx;
    struct pnx_cache_reservation copy = *r, other = *r;
    struct pnx_cache *cache = *(struct pnx_cache **)r->data;
    CHECK_EQ(pnx_cache_commit(&copy, 8, 0), -ESHUTDOWN);
    pnx_cache_abort(&other);
    CHECK_EQ(pnx_cache_reserve(cache, "k", 1, 1, &copy), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_compute(cache, "k", 1, count_up, NULL, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_retain(cache, keep_even, NULL), -ESHUTDOWN);
}

TEST(a_forked_child_can_neither_commit_nor_change) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    struct pnx_cache_reservation r = {0};
    CHECK_EQ(pnx_cache_reserve(f.cache, "k", 1, sizeof(void *), &r), 0);
    memcpy(r.data, &f.cache, sizeof(void *));
    CHECK_EQ(test_child(child, &r), 0);
    CHECK_EQ(pnx_cache_commit(&r, r.size, 0), 0);
    CHECK_EQ(stats_of(&f).entries, 1);
    fixture_close(&f);
}

TEST(what_needs_entries_is_enotsup_where_sizes_are_fixed) {
    struct fixture f;
    struct pnx_cache_reservation r = {0};
    struct pnx_cache_bytes view = {0};
    uint64_t key = 1;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .key_bytes = 8, .value_bytes = 8,
                             .curve_samples = 256));
    CHECK_EQ(pnx_cache_reserve(f.cache, &key, sizeof(key), 8, &r), -ENOTSUP);
    CHECK_EQ(pnx_cache_compute(f.cache, &key, sizeof(key), count_up, NULL, NULL), -ENOTSUP);
    CHECK_EQ(pnx_cache_retain(f.cache, keep_even, NULL), -ENOTSUP);
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_cache_view(f.cache, &key, sizeof(key), &view), -ENOTSUP);
    pnx_reclaim_exit(NULL);
    /* The curve is theirs, too. */
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, sizeof(key), &key, sizeof(key), NULL), -ENOENT);
    double one = 1, ratio = 0;
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, &ratio), 0);
    CHECK(ratio == 0.75);
    fixture_close(&f);
}
