/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed_load.c - loading where sizes are fixed: values that are copied out, P5..P7, deadlines, errors, what was overtaken. */
#include "cache/script.h"

#include <patinox/reclaim.h>

#include <unistd.h>

#define SIZE 8 /* of values: seven letters and their end */

static void open_fixed(
        struct fixture *f, struct script *s, const char *value, struct pnx_cache_opts opts) {
    opts.key_bytes = 1;
    opts.value_bytes = SIZE;
    fixture_open(f, &opts);
    script_init(s, f, value);
}

static int load_key(struct script *s, const char *key, pnx_ns timeout, char *buf) {
    size_t size = 0;
    int rc = pnx_cache_get_or_load_copy(
            s->f->cache, key, 1, script_loader, s, timeout, &s->f->err, buf, SIZE, &size);
    CHECK_EQ(size, rc ? 0 : SIZE);
    return rc;
}

static void check_loaded(struct script *s, const char *key, const char *value) {
    char buf[SIZE] = "nothing";
    int rc = load_key(s, key, 5 * PNX_SEC, buf);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), s->f->err.message);
    CHECK_STR(buf, value);
}

static void check_there(struct fixture *f, const char *key, const char *value) {
    char buf[SIZE];
    CHECK_EQ(pnx_cache_get_copy(f->cache, key, 1, buf, sizeof(buf), NULL), 0);
    CHECK_STR(buf, value);
}

static void check_none(struct fixture *f, const char *key) {
    char buf[SIZE] = "nothing";
    CHECK_EQ(pnx_cache_get_copy(f->cache, key, 1, buf, sizeof(buf), NULL), -ENOENT);
    CHECK_STR(buf, "nothing");
}

/* ---- one caller ---- */

TEST(a_miss_loads_and_the_next_call_finds) {
    static const char *const policies[] = {"s3-fifo", "lru", "auto"};
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        struct fixture f;
        struct script s;
        open_fixed(
                &f, &s, "loaded!", *PNX_CACHE_OPTS(.capacity_entries = 4, .policy = policies[i]));
        check_loaded(&s, "k", "loaded!");
        check_loaded(&s, "k", "loaded!");
        check_there(&f, "k", "loaded!");
        CHECK_EQ(s.calls, 1);
        struct pnx_cache_stats stats = stats_of(&f);
        CHECK_EQ(stats.misses, 1);
        CHECK_EQ(stats.hits, 2);
        CHECK_EQ(stats.loads, 1);
        CHECK_EQ(stats.load_failures, 0);
        CHECK_EQ(stats.entries, 1);
        CHECK_EQ(stats.pinned, 0);
        CHECK_EQ(stats.detached, 0);
        fixture_close(&f);
    }
}

TEST(a_loaders_error_is_returned_and_not_remembered_nor_is_an_absence) {
    static const int codes[] = {-EIO, -ENOENT, -ETIMEDOUT};
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct fixture f;
        struct script s;
        char buf[SIZE] = "nothing";
        open_fixed(&f, &s, "loaded!", *PNX_CACHE_OPTS(.capacity_entries = 4));
        s.code = codes[i];
        s.ttl = PNX_SEC;
        CHECK_EQ(load_key(&s, "k", PNX_SEC, buf), codes[i]);
        CHECK_EQ(f.err.code, codes[i]);
        CHECK_STR(f.err.phase, "load");
        CHECK_EQ(load_key(&s, "k", PNX_SEC, buf), codes[i]);
        CHECK_STR(buf, "nothing");
        CHECK_EQ(s.calls, 2);
        CHECK_EQ(stats_of(&f).negative_hits, 0);
        CHECK_EQ(stats_of(&f).load_failures, codes[i] == -ENOENT ? 0 : 2);
        s.code = 0;
        check_loaded(&s, "k", "loaded!");
        fixture_close(&f);
    }
}

TEST(a_loader_that_says_0_without_a_value_or_keeps_its_load_is_at_fault) {
    static const int codes[] = {0, 1, -EINPROGRESS};
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        struct fixture f;
        struct script s;
        char buf[SIZE];
        open_fixed(&f, &s, NULL, *PNX_CACHE_OPTS(.capacity_entries = 4));
        s.code = codes[i];
        CHECK_EQ(load_key(&s, "k", PNX_SEC, buf), -EINVAL);
        check_none(&f, "k");
        fixture_close(&f);
    }
}

TEST(a_loader_can_set_the_time_to_live) {
    struct fixture f;
    struct script s;
    open_fixed(&f, &s, "loaded!", *PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 1000 * PNX_SEC));
    s.ttl = 10 * PNX_SEC;
    check_loaded(&s, "k", "loaded!");
    test_env_advance(&f.te, 9 * PNX_SEC);
    check_loaded(&s, "k", "loaded!");
    CHECK_EQ(s.calls, 1);
    test_env_advance(&f.te, PNX_SEC);
    s.ttl = 0; /* the cache's */
    check_loaded(&s, "k", "loaded!");
    CHECK_EQ(s.calls, 2);
    test_env_advance(&f.te, 999 * PNX_SEC);
    check_loaded(&s, "k", "loaded!");
    CHECK_EQ(s.calls, 2);
    test_env_advance(&f.te, PNX_SEC);
    check_loaded(&s, "k", "loaded!");
    CHECK_EQ(s.calls, 3);
    fixture_close(&f);
}

/* Tries what a loader may not do, then gives a value in place. */
static int bad_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    char bytes[16] = "too long for it";
    void *data = ctx;
    (void)key, (void)key_size, (void)deadline;
    for (size_t n = 0; n <= sizeof(bytes); n++) {
        if (n == SIZE)
            continue;
        CHECK_EQ(pnx_cache_load_set(load, bytes, n), -EINVAL);
        CHECK_EQ(pnx_cache_load_reserve(load, n, &data), -EINVAL);
    }
    CHECK(data == ctx);
    CHECK_EQ(pnx_cache_load_set_pointer(load, bytes, 1), -ENOTSUP);
    CHECK_EQ(pnx_cache_load_set_pointer(load, bytes, SIZE), -ENOTSUP);
    CHECK_EQ(pnx_cache_load_set_refresh(load, PNX_SEC), -ENOTSUP);
    CHECK_EQ(pnx_cache_load_set_ttl(load, PNX_CACHE_FIXED_TTL_MIN - 1), -EINVAL);
    CHECK_EQ(pnx_cache_load_set_ttl(load, -1), -EINVAL);
    CHECK_EQ(pnx_cache_load_reserve(load, SIZE, &data), 0);
    memcpy(data, "inplace", SIZE);
    CHECK_EQ(pnx_cache_load_shrink(load, SIZE - 1), -EINVAL);
    CHECK_EQ(pnx_cache_load_shrink(load, SIZE + 1), -ERANGE);
    CHECK_EQ(pnx_cache_load_shrink(load, SIZE), 0);
    return 0;
}

TEST(a_loader_gives_the_fixed_size_and_nothing_else) {
    struct fixture f;
    struct script s;
    char buf[SIZE];
    open_fixed(&f, &s, NULL, *PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_get_or_load_copy(
                     f.cache, "k", 1, bad_loader, NULL, 0, &f.err, buf, SIZE, NULL),
            0);
    CHECK_STR(buf, "inplace");
    check_there(&f, "k", "inplace");
    fixture_close(&f);
}

TEST(bad_arguments_load_nothing_and_touch_nothing) {
    struct fixture f;
    struct script s;
    char buf[SIZE] = "nothing";
    size_t size = 77;
    open_fixed(&f, &s, "loaded!", *PNX_CACHE_OPTS(.capacity_entries = 4));
#define LOAD(cache, key, key_size, loader, timeout, buf, cap) \
    pnx_cache_get_or_load_copy( \
            (cache), (key), (key_size), (loader), &s, (timeout), &f.err, (buf), (cap), &size)
    CHECK_EQ(LOAD(NULL, "k", 1, script_loader, 0, buf, SIZE), -EINVAL);
    CHECK_EQ(LOAD(f.cache, NULL, 1, script_loader, 0, buf, SIZE), -EINVAL);
    CHECK_EQ(LOAD(f.cache, NULL, 0, script_loader, 0, buf, SIZE), -EINVAL);
    CHECK_EQ(LOAD(f.cache, "k", 1, NULL, 0, buf, SIZE), -EINVAL);
    CHECK_EQ(LOAD(f.cache, "k", 1, script_loader, 0, NULL, SIZE), -EINVAL);
    CHECK_EQ(LOAD(f.cache, "kk", 2, script_loader, 0, buf, SIZE), -EINVAL);
    CHECK_EQ(LOAD(f.cache, "k", 1, script_loader, -5, buf, SIZE), -EINVAL);
    CHECK_EQ(size, 77);
    CHECK_EQ(LOAD(f.cache, "k", 1, script_loader, 0, buf, SIZE - 1), -ERANGE);
    CHECK_EQ(size, SIZE);
    CHECK_EQ(LOAD(f.cache, "k", 1, script_loader, 0, NULL, 0), -ERANGE);
#undef LOAD
    CHECK_STR(f.err.phase, "copy");
    CHECK_STR(buf, "nothing");
    CHECK_EQ(s.calls, 0);
    CHECK_EQ(stats_of(&f).misses + stats_of(&f).hits, 0);
    fixture_close(&f);
}

TEST(a_curve_counts_each_lookup_that_loads_once) {
    struct fixture f;
    struct script s;
    open_fixed(&f, &s, "loaded!", *PNX_CACHE_OPTS(.capacity_entries = 100, .curve_samples = 256));
    for (int i = 0; i < 4; i++)
        check_loaded(&s, "k", "loaded!");
    double one = 1, ratio = 0;
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, &ratio), 0);
    CHECK(ratio == 0.75);
    fixture_close(&f);
}

/* ---- caches of entries, too ---- */

static int pointer_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    return pnx_cache_load_set_pointer(load, ctx, 1);
}

TEST(a_cache_of_entries_loads_and_copies_too) {
    struct fixture f;
    struct script s;
    char buf[SIZE] = "nothing";
    size_t size = 0;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4, .negative_ttl = PNX_SEC));
    script_init(&s, &f, "short");
    CHECK_EQ(pnx_cache_get_or_load_copy(
                     f.cache, "k", 1, script_loader, &s, 0, &f.err, buf, SIZE, &size),
            0);
    CHECK_EQ(size, 6);
    CHECK_STR(buf, "short");
    s.value = "much too long";
    CHECK_EQ(pnx_cache_get_or_load_copy(
                     f.cache, "l", 1, script_loader, &s, 0, &f.err, buf, SIZE, &size),
            -ERANGE);
    CHECK_EQ(size, 14);
    CHECK_EQ(f.err.code, -ERANGE);
    CHECK_STR(buf, "short");
    check_text(&f, "l", "much too long"); /* it was loaded all the same */
    CHECK_EQ(pnx_cache_get_or_load_copy(
                     f.cache, "p", 1, pointer_loader, &s, 0, &f.err, buf, SIZE, &size),
            -ENOTSUP);
    s.code = -ENOENT;
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pnx_cache_get_or_load_copy(
                         f.cache, "n", 1, script_loader, &s, 0, &f.err, buf, SIZE, &size),
                -ENOENT);
    CHECK_EQ(stats_of(&f).negative_hits, 1);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

/* ---- several callers ---- */

struct crowd {
    struct script *s;
    pnx_ns timeout;
    int codes[16];
    int done;
};

static void *crowd_member(void *arg) {
    struct crowd *crowd = arg;
    struct pnx_error err = {0};
    char buf[SIZE] = "nothing";
    int rc = pnx_cache_get_or_load_copy(crowd->s->f->cache, "k", 1, script_loader, crowd->s,
            crowd->timeout, &err, buf, SIZE, NULL);
    crowd->codes[__atomic_fetch_add(&crowd->done, 1, __ATOMIC_RELAXED)] = rc;
    CHECK_STR(buf, rc == 0 ? crowd->s->value : "nothing");
    CHECK_EQ(err.code, rc);
    return NULL;
}

static void crowd_start(struct crowd *crowd, pthread_t *threads, int n) {
    for (int i = 0; i < n; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, crowd_member, crowd), 0);
}

static void crowd_join(pthread_t *threads, int n) {
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static void share_open(struct fixture *f, struct script *s, int code, int n) {
    pthread_t threads[16];
    s->closed_gate = true;
    s->code = code;
    struct crowd crowd = {.s = s, .timeout = PNX_NEVER};
    crowd_start(&crowd, threads, n);
    await_waiters(f, (uint64_t)n - 1);
    CHECK_EQ(stats_of(f).loading, 1);
    check_none(f, "k");
    script_gate(s, false);
    crowd_join(threads, n);
    CHECK_EQ(s->calls, 1);
    for (int i = 0; i < n; i++)
        CHECK_EQ(crowd.codes[i], code);
    CHECK_EQ(stats_of(f).pinned, 0);
    CHECK_EQ(stats_of(f).loading, 0);
}

static void share(int code, int n, const struct pnx_cache_opts *opts) {
    struct fixture f;
    struct script s;
    open_fixed(&f, &s, "shared!", *opts);
    share_open(&f, &s, code, n);
    fixture_close(&f);
}

TEST(p6_eight_callers_run_one_loader_and_share_its_value) {
    share(0, 8, PNX_CACHE_OPTS(.capacity_entries = 4));
    share(0, 8, PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "s3-fifo", .shards = 4));
}

TEST(p6_eight_callers_share_an_error_and_an_absence) {
    share(-EIO, 8, PNX_CACHE_OPTS(.capacity_entries = 4));
    share(-ENOENT, 8, PNX_CACHE_OPTS(.capacity_entries = 4));
}

/* There is no room in the budget for a page. */
static void open_poor(struct fixture *f, struct script *s) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    open_fixed(f, s, "shared!", *PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_budget_read_stats(f->budget, &stats), 0);
    CHECK_EQ(pnx_budget_set_limits(f->budget, stats.used + 16, stats.used + 16), 0);
}

TEST(p6_callers_share_a_value_that_could_not_be_stored) {
    struct fixture f;
    struct script s;
    open_poor(&f, &s);
    share_open(&f, &s, 0, 4);
    check_none(&f, "k");
    fixture_close(&f);
}

TEST(a_value_that_could_not_be_stored_is_returned_and_counted) {
    struct fixture f;
    struct script s;
    open_poor(&f, &s);
    check_loaded(&s, "k", "shared!");
    check_none(&f, "k");
    CHECK_EQ(stats_of(&f).rejected, 1);
    check_loaded(&s, "k", "shared!");
    CHECK_EQ(s.calls, 2);
    fixture_close(&f);
}

TEST(a_waiter_gives_up_at_its_deadline_and_the_load_goes_on) {
    struct fixture f;
    struct script s;
    pthread_t leader;
    char buf[SIZE] = "nothing";
    open_fixed(&f, &s, "is late", *PNX_CACHE_OPTS(.capacity_entries = 4));
    s.closed_gate = true;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
    crowd_start(&crowd, &leader, 1);
    script_await_started(&s, 1);
    f.te.virtual_time = false; /* from here on the clock runs by itself */
    pnx_ns before = pnx_now();
    CHECK_EQ(load_key(&s, "k", 0, buf), -ETIMEDOUT);
    CHECK_EQ(stats_of(&f).load_waits, 0);
    CHECK_EQ(load_key(&s, "k", 20 * PNX_MS, buf), -ETIMEDOUT);
    CHECK(pnx_now() - before >= 20 * PNX_MS);
    CHECK_STR(f.err.phase, "wait");
    CHECK_STR(buf, "nothing");
    script_gate(&s, false);
    crowd_join(&leader, 1);
    CHECK_EQ(crowd.codes[0], 0);
    check_there(&f, "k", "is late");
    CHECK_EQ(s.calls, 1);
    fixture_close(&f);
}

static int quick_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    return pnx_cache_load_set(load, ctx, SIZE);
}

static void *second_chance(void *arg) {
    struct script *s = arg;
    char buf[SIZE], value[SIZE] = "quickly";
    int rc = pnx_cache_get_or_load_copy(
            s->f->cache, "k", 1, quick_loader, value, 100 * PNX_SEC, NULL, buf, SIZE, NULL);
    CHECK_STR(buf, "quickly");
    return (void *)(intptr_t)rc;
}

TEST(a_leaders_own_timeout_makes_a_waiter_with_more_time_lead) {
    struct fixture f;
    struct script s;
    pthread_t first, second;
    void *code;
    open_fixed(&f, &s, "unasked", *PNX_CACHE_OPTS(.capacity_entries = 4));
    s.closed_gate = true;
    s.code = -ETIMEDOUT;
    struct crowd crowd = {.s = &s, .timeout = PNX_SEC};
    crowd_start(&crowd, &first, 1);
    script_await_started(&s, 1);
    CHECK_EQ(pthread_create(&second, NULL, second_chance, &s), 0);
    await_waiters(&f, 1);
    script_gate(&s, false);
    crowd_join(&first, 1);
    CHECK_EQ(crowd.codes[0], -ETIMEDOUT);
    pthread_join(second, &code);
    CHECK_EQ((intptr_t)code, 0);
    fixture_close(&f);
}

/* ---- overtaken ---- */

enum overtaker {
    BY_PUT,
    BY_PUT_IF_ABSENT,
    BY_COMPUTE,
    BY_REMOVE,
    BY_VAIN_COMPUTE,
    BY_CLEAR,
    BY_FAILED_PUT,
    BY_FAILED_COMPUTE
};

static int set_newer(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    (void)ctx, (void)now_size;
    CHECK(!now);
    return pnx_cache_change_set(change, "newer..", SIZE);
}

static int remove_it(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    (void)ctx, (void)now, (void)now_size;
    return pnx_cache_change_remove(change);
}

static void overtake(struct fixture *f, enum overtaker how) {
    switch (how) {
    case BY_PUT:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "newer..", SIZE, 0), 0);
        break;
    case BY_PUT_IF_ABSENT:
        CHECK_EQ(pnx_cache_put_if_absent(f->cache, "k", 1, "newer..", SIZE, 0), 0);
        break;
    case BY_COMPUTE:
        CHECK_EQ(pnx_cache_compute_copy(f->cache, "k", 1, set_newer, NULL, NULL, 0, NULL), 0);
        break;
    case BY_REMOVE:
        CHECK_EQ(pnx_cache_remove(f->cache, "k", 1), -ENOENT);
        break;
    case BY_VAIN_COMPUTE:
        CHECK_EQ(pnx_cache_compute_copy(f->cache, "k", 1, remove_it, NULL, NULL, 0, NULL), 0);
        break;
    case BY_CLEAR:
        CHECK_EQ(pnx_cache_clear(f->cache), 0);
        break;
    case BY_FAILED_PUT:
        CHECK_EQ(pnx_cache_put(f->cache, "k", 1, "newer..", SIZE, 0), -ENOMEM);
        break;
    case BY_FAILED_COMPUTE:
        CHECK_EQ(pnx_cache_compute_copy(f->cache, "k", 1, set_newer, NULL, NULL, 0, NULL), -ENOMEM);
        break;
    }
}

/* full: other keys have taken all the room, so that puts go the short way where they can. */
static void check_overtaken(enum overtaker how, bool full) {
    struct fixture f;
    struct script s;
    pthread_t threads[2], late;
    open_fixed(&f, &s, "older..", *PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "fifo"));
    for (char key = 'a'; full && key < 'a' + 4; key++)
        CHECK_EQ(pnx_cache_put(f.cache, &key, 1, "filling", SIZE, 0), 0);
    s.closed_gate = true;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER}, later = crowd;
    crowd_start(&crowd, threads, 2);
    await_waiters(&f, 1);
    bool failing = how == BY_FAILED_PUT || how == BY_FAILED_COMPUTE;
    if (failing) { /* the first page is not to be had */
        f.te.allocations = 0;
        f.te.fail_at = 1;
    }
    overtake(&f, how);
    f.te.fail_at = 0;
    bool stored = how == BY_PUT || how == BY_PUT_IF_ABSENT || how == BY_COMPUTE;
    if (stored)
        check_there(&f, "k", "newer..");
    else
        check_none(&f, "k");
    /* Comes after the change: must not be given the older value. */
    if (!stored) {
        crowd_start(&later, &late, 1);
        await_waiters(&f, 2);
    }
    script_gate(&s, false);
    crowd_join(threads, 2);
    CHECK_EQ(crowd.codes[0], 0);
    CHECK_EQ(crowd.codes[1], 0);
    if (!stored) {
        crowd_join(&late, 1);
        CHECK_EQ(later.codes[0], 0);
        CHECK_EQ(s.calls, 2);
        check_there(&f, "k", "older.."); /* which is what the second load made */
    } else {
        check_there(&f, "k", "newer..");
        CHECK_EQ(s.calls, 1);
    }
    fixture_close(&f);
}

TEST(p6_a_result_that_a_put_overtook_is_not_stored) {
    for (int full = 0; full < 2; full++) {
        check_overtaken(BY_PUT, full);
        check_overtaken(BY_PUT_IF_ABSENT, full);
    }
}

TEST(p6_a_result_that_a_failed_put_overtook_is_not_stored) {
    check_overtaken(BY_FAILED_PUT, false);
    check_overtaken(BY_FAILED_COMPUTE, false);
}

TEST(p6_a_result_that_a_compute_overtook_is_not_stored) {
    for (int full = 0; full < 2; full++) {
        check_overtaken(BY_COMPUTE, full);
        check_overtaken(BY_VAIN_COMPUTE, full);
    }
}

TEST(p6_a_result_that_a_remove_overtook_is_not_stored) {
    check_overtaken(BY_REMOVE, false);
    check_overtaken(BY_REMOVE, true);
}

TEST(p6_a_result_that_a_clear_overtook_is_not_stored) {
    check_overtaken(BY_CLEAR, false);
    check_overtaken(BY_CLEAR, true);
}

/* ---- the end ---- */

TEST(close_sends_waiters_away_at_once_and_the_leader_when_its_loader_returns) {
    struct fixture f;
    struct script s;
    pthread_t threads[4];
    char buf[SIZE] = "nothing";
    open_fixed(&f, &s, "toolate", *PNX_CACHE_OPTS(.capacity_entries = 4));
    s.closed_gate = true;
    struct crowd crowd = {.s = &s, .timeout = PNX_NEVER};
    crowd_start(&crowd, threads, 4);
    await_waiters(&f, 3);
    CHECK_EQ(pnx_cache_close(f.cache), 1); /* the load */
    while (__atomic_load_n(&crowd.done, __ATOMIC_RELAXED) < 3)
        sched_yield();
    script_gate(&s, false);
    crowd_join(threads, 4);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(crowd.codes[i], -ESHUTDOWN);
    CHECK_EQ(load_key(&s, "k", 0, buf), -ESHUTDOWN);
    CHECK_EQ(s.calls, 1);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    fixture_close(&f);
}

static void in_child(void *ctx) {
    struct script *s = ctx;
    char buf[SIZE] = "nothing";
    CHECK_EQ(load_key(s, "k", 0, buf), -ESHUTDOWN);
    CHECK_EQ(pnx_cache_compute_copy(s->f->cache, "k", 1, set_newer, NULL, NULL, 0, NULL),
            -ESHUTDOWN);
    CHECK_EQ(s->calls, 1);
    _exit(0);
}

TEST(a_forked_child_is_refused) {
    struct fixture f;
    struct script s;
    open_fixed(&f, &s, "loaded!", *PNX_CACHE_OPTS(.capacity_entries = 10));
    check_loaded(&s, "k", "loaded!");
    CHECK_EQ(test_child(in_child, &s), 0);
    check_loaded(&s, "k", "loaded!");
    fixture_close(&f);
}

/* ---- circles ---- */

struct circle {
    struct pnx_cache *cache[2]; /* the second may hold entries */
    int length;
    int codes[8];
    int deadlocks;
    pthread_barrier_t all_inside;
};

struct circle_key {
    struct circle *circle;
    int index;
};

static int circle_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load);

static int load_circle_key(struct circle *circle, int index) {
    struct circle_key key = {circle, index};
    char name = (char)('a' + index), buf[SIZE];
    return pnx_cache_get_or_load_copy(circle->cache[index % 2], &name, 1, circle_loader, &key,
            PNX_NEVER, NULL, buf, SIZE, NULL);
}

static int circle_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    const struct circle_key *k = ctx;
    (void)key, (void)key_size, (void)deadline;
    pthread_barrier_wait(&k->circle->all_inside);
    int rc = load_circle_key(k->circle, (k->index + 1) % k->circle->length);
    if (rc == -EDEADLK)
        __atomic_add_fetch(&k->circle->deadlocks, 1, __ATOMIC_RELAXED);
    return rc ? rc : pnx_cache_load_set(load, "is well", SIZE);
}

static void circle_thread(unsigned index, void *ctx) {
    struct circle *circle = ctx;
    circle->codes[index] = load_circle_key(circle, (int)index);
}

static void check_circle(int length, bool entries) {
    struct fixture f;
    struct script s;
    open_fixed(&f, &s, NULL, *PNX_CACHE_OPTS(.capacity_entries = 100));
    struct circle circle = {.cache = {f.cache, f.cache}, .length = length};
    struct pnx_cache_opts opts = fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    if (entries)
        CHECK_EQ(pnx_cache_create(&opts, NULL, &circle.cache[1]), 0);
    pthread_barrier_init(&circle.all_inside, NULL, (unsigned)length);
    test_threads((unsigned)length, circle_thread, &circle);
    CHECK(circle.deadlocks >= 1);
    for (int i = 0; i < length; i++)
        CHECK_EQ(circle.codes[i], -EDEADLK);
    if (entries)
        pnx_cache_release(&circle.cache[1]);
    else
        CHECK_EQ(stats_of(&f).load_deadlocks, 1);
    pthread_barrier_destroy(&circle.all_inside);
    fixture_close(&f);
}

TEST(p7_a_loader_that_asks_for_its_own_key_gets_edeadlk) {
    check_circle(1, false);
}

TEST(p7_a_circle_over_keys_and_threads_is_edeadlk) {
    check_circle(2, false);
    check_circle(8, false);
}

TEST(p7_a_circle_over_a_cache_of_entries_is_edeadlk) {
    check_circle(2, true);
    check_circle(6, true);
}

/* ---- loading anew ---- */

TEST(p12_a_key_is_loaded_anew_and_an_absence_takes_it_away) {
    struct fixture f;
    struct script s;
    open_fixed(&f, &s, "value 1", *PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), 0);
    check_there(&f, "k", "value 1");
    s.value = "value 2";
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), 0);
    check_there(&f, "k", "value 2");
    s.code = -EIO;
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), -EIO);
    check_there(&f, "k", "value 2");
    s.code = -ENOENT;
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), -ENOENT);
    check_none(&f, "k");
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), -ENOENT);
    CHECK_EQ(stats_of(&f).refreshes, 5);
    CHECK_EQ(stats_of(&f).refresh_failures, 1);
    CHECK_EQ(stats_of(&f).removed_explicit, 1);
    CHECK_EQ(pnx_cache_refresh(f.cache, "kk", 2, script_loader, &s, 0, &f.err), -EINVAL);
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, NULL, NULL, 0, &f.err), -EINVAL);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), -ESHUTDOWN);
    fixture_close(&f);
}

static void *refresh_alone(void *arg) {
    struct script *s = arg;
    struct pnx_error err;
    return (void *)(intptr_t)pnx_cache_refresh(
            s->f->cache, "k", 1, script_loader, s, PNX_NEVER, &err);
}

/* code: what the loader says in the end. */
static void overtake_refresh(int code) {
    struct fixture f;
    struct script s;
    pthread_t thread;
    void *rc;
    open_fixed(&f, &s, "older..", *PNX_CACHE_OPTS(.capacity_entries = 1, .policy = "fifo"));
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "oldest.", SIZE, 0), 0);
    s.closed_gate = true;
    s.code = code;
    CHECK_EQ(pthread_create(&thread, NULL, refresh_alone, &s), 0);
    script_await_started(&s, 1);
    check_there(&f, "k", "oldest.");
    CHECK_EQ(pnx_cache_refresh(f.cache, "k", 1, script_loader, &s, 0, &f.err), -EALREADY);
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "newer..", SIZE, 0),
            0); /* the short way, but for the load */
    script_gate(&s, false);
    pthread_join(thread, &rc);
    CHECK_EQ((intptr_t)rc, code);
    check_there(&f, "k", "newer..");
    CHECK_EQ(s.calls, 1);
    fixture_close(&f);
}

TEST(p12_a_put_overtakes_a_load_anew_whatever_that_says) {
    overtake_refresh(0);
    overtake_refresh(-ENOENT);
}

/* ---- calls from inside ---- */

/* All that may be done from inside a callback; the key "k" is the one that it is about. */
static void use_all(struct script *s) {
    struct pnx_cache *cache = s->f->cache;
    char buf[SIZE];
    CHECK_EQ(pnx_cache_put(cache, "o", 1, "another", SIZE, 0), 0);
    CHECK_EQ(pnx_cache_get_copy(cache, "o", 1, buf, SIZE, NULL), 0);
    CHECK_EQ(pnx_cache_put(cache, "k", 1, "inside.", SIZE, 0), 0);
    CHECK_EQ(pnx_cache_compute_copy(cache, "o", 1, remove_it, NULL, NULL, 0, NULL), 0);
    CHECK_EQ(load_key(s, "o", PNX_SEC, buf), 0);
    CHECK_EQ(pnx_cache_refresh(cache, "o", 1, script_loader, s, 0, &s->f->err), 0);
    CHECK_EQ(pnx_cache_save(cache, test_path("inside"), NULL, &s->f->err, NULL), 0);
    CHECK_EQ(pnx_cache_load_file(cache, test_path("inside"), NULL, &s->f->err, NULL), 0);
    CHECK_EQ(pnx_cache_remove(cache, "k", 1), 0);
    CHECK_EQ(pnx_cache_clear(cache), 0);
    (void)pnx_cache_tick(cache, s->f->te.now);
    check_invariants(s->f);
}

static int busy_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    use_all(ctx);
    return pnx_cache_load_set(load, "busy...", SIZE);
}

static int busy_compute(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    (void)now_size;
    if (now)
        use_all(ctx); /* which takes it away */
    return pnx_cache_change_set(change, "counted", SIZE);
}

static bool busy_keep(void *ctx, const void *key, const void *value) {
    (void)key, (void)value;
    use_all(ctx);
    return false;
}

TEST(p5_loaders_computes_and_keepers_may_use_the_cache) {
    struct fixture f;
    struct script s;
    char buf[SIZE];
    open_fixed(&f, &s, "quickly", *PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "clock"));
    CHECK_EQ(pnx_cache_get_or_load_copy(
                     f.cache, "k", 1, busy_loader, &s, PNX_SEC, &f.err, buf, SIZE, NULL),
            0);
    CHECK_STR(buf, "busy...");
    check_none(&f, "k"); /* it was overtaken */
    CHECK_EQ(pnx_cache_put(f.cache, "k", 1, "before.", SIZE, 0), 0);
    CHECK_EQ(pnx_cache_compute_copy(f.cache, "k", 1, busy_compute, &s, buf, SIZE, NULL), 0);
    CHECK_STR(buf, "counted");
    CHECK_EQ(stats_of(&f).compute_retries, 1);
    CHECK_EQ(pnx_cache_retain_copy(f.cache, busy_keep, &s), 0); /* the clear took it first */
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
}

/* ---- memory ---- */

static int load_with_failures(struct test_env *te, void *ctx) {
    struct fixture f = {0};
    struct script s;
    struct pnx_cache *cache = NULL;
    struct pnx_error err = {0};
    (void)ctx;
    script_init(&s, &f, "loaded!");
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.env = &te->env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(), .capacity_entries = 4,
                    .key_bytes = 1, .value_bytes = SIZE, .policy = "s3-fifo"),
            &err, &cache);
    for (char key = 'a'; rc == 0 && key < 'a' + 6; key++) {
        char buf[SIZE] = "nothing";
        uint64_t rejected = 0;
        rc = pnx_cache_get_or_load_copy(
                cache, &key, 1, script_loader, &s, PNX_NEVER, &err, buf, SIZE, NULL);
        struct pnx_cache_stats stats = {.size = sizeof(stats)};
        CHECK_EQ(pnx_cache_read_stats(cache, &stats), 0);
        rejected = stats.rejected;
        CHECK_STR(buf, rc ? "nothing" : "loaded!");
        /* What cannot be stored is handed out all the same: that counts as a failure here. */
        if (rc == 0 && rejected > 0)
            rc = -ENOMEM;
        CHECK_EQ(pnx_cache_check(cache, NULL), 0);
    }
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return rc;
}

TEST(every_allocation_of_a_load_may_fail) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, load_with_failures, NULL);
}

/* ---- all at once ---- */

#define KEYS 16

/* What the cache is to show: the source is changed first, then the key removed (or put). */
static struct {
    struct fixture f;
    pthread_mutex_t writer[KEYS];
    uint64_t source[KEYS];    /* atomic */
    uint64_t published[KEYS]; /* atomic: as long as nobody changes it, nothing older is returned */
    int inside[KEYS];         /* loaders */
    int entries;              /* the capacity */
} w;

static int source_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    uint8_t k;
    (void)ctx, (void)key_size, (void)deadline;
    memcpy(&k, key, 1);
    uint64_t version = __atomic_load_n(&w.source[k], __ATOMIC_ACQUIRE);
    if (version % 7 == 3)
        sched_yield();
    if (version % 11 == 5)
        return -ENOENT;
    return pnx_cache_load_set(load, &version, SIZE);
}

static void change_source(uint8_t key, uint64_t how) {
    pthread_mutex_lock(&w.writer[key]);
    uint64_t version = __atomic_add_fetch(&w.source[key], 1, __ATOMIC_ACQ_REL);
    int rc = how % 3 ? pnx_cache_remove(w.f.cache, &key, 1)
                     : pnx_cache_put(w.f.cache, &key, 1, &version, SIZE,
                               how % 2 ? 0 : PNX_CACHE_FIXED_TTL_MIN * 2);
    CHECK_MSG(rc == 0 || rc == -ENOENT, "%s", pnx_errname(rc));
    __atomic_store_n(&w.published[key], version, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&w.writer[key]);
}

static void load_or_change(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed + index * 77;
    (void)ctx;
    for (int i = 0; i < (test_slow() ? 1000 : 5000); i++) {
        uint64_t r = test_random(&rng);
        uint8_t key = (uint8_t)(r % KEYS);
        if (r >> 32 & 1) {
            change_source(key, r >> 40);
            continue;
        }
        uint64_t before = __atomic_load_n(&w.published[key], __ATOMIC_ACQUIRE), version = 0;
        int rc = (r >> 33) % 16
                         ? pnx_cache_get_or_load_copy(w.f.cache, &key, 1, source_loader, NULL,
                                   PNX_NEVER, NULL, &version, SIZE, NULL)
                         : pnx_cache_refresh(w.f.cache, &key, 1, source_loader, NULL, 0, NULL);
        CHECK_MSG(rc == 0 || rc == -ENOENT || rc == -EALREADY, "%s", pnx_errname(rc));
        if (rc == 0 && (r >> 33) % 16)
            CHECK_MSG(version >= before, "version %llu of key %u, %llu was published",
                    (unsigned long long)version, key, (unsigned long long)before);
        if (i % 256 == 0)
            CHECK_EQ(pnx_cache_clear(w.f.cache), 0);
        if (i % 64 == 7)
            test_env_advance(&w.f.te, PNX_CACHE_FIXED_TTL_MIN);
    }
}

static void load_all(const char *policy, uint32_t shards, uint64_t entries) {
    struct script s;
    memset(&w, 0, sizeof(w));
    open_fixed(&w.f, &s, NULL,
            *PNX_CACHE_OPTS(.capacity_entries = entries, .policy = policy, .shards = shards));
    for (int i = 0; i < KEYS; i++)
        pthread_mutex_init(&w.writer[i], NULL);
    test_threads(8, load_or_change, NULL);
    CHECK(stats_of(&w.f).loads > 0);
    CHECK_EQ(stats_of(&w.f).pinned, 0);
    fixture_close(&w.f);
}

TEST_LIMIT(p10_nothing_is_loaded_that_is_older_than_what_was_published, 120) {
    load_all("s3-fifo", 1, 8);
    load_all("lru", 1, 100);
    load_all("clock", 4, 8);
}
