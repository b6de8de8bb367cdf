/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed_change.c - P17 and P18 where sizes are fixed: computes and retains over copies. */
#include "cache/fixed_bytes.h"

#include <patinox/reclaim.h>

#include <pthread.h>
#include <sched.h>

static void open_u64(struct fixture *f, struct pnx_cache_opts opts) {
    opts.key_bytes = opts.value_bytes = 8;
    fixture_open(f, &opts);
}

static void put_u64(struct fixture *f, uint64_t key, uint64_t value, pnx_ns ttl) {
    CHECK_EQ(pnx_cache_put(f->cache, &key, 8, &value, 8, ttl), 0);
}

/* The value of the key, or 0. */
static uint64_t value_of(struct fixture *f, uint64_t key) {
    uint64_t value = 0;
    int rc = pnx_cache_get_copy(f->cache, &key, 8, &value, 8, NULL);
    CHECK(rc == 0 || rc == -ENOENT);
    return value;
}

/* ---- counting ---- */

#define COUNTERS 3

static int count_up(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    uint64_t count = 0;
    (void)ctx;
    CHECK_EQ(now_size, now ? 8 : 0);
    CHECK_EQ((uintptr_t)now % 16, 0);
    if (now)
        memcpy(&count, now, 8);
    count++;
    return pnx_cache_change_set(change, &count, 8);
}

static void count_all(unsigned index, void *ctx) {
    struct fixture *f = ctx;
    uint64_t rng = f->seed + index, last[COUNTERS] = {0};
    for (int i = 0; i < (test_slow() ? 500 : 20000); i++) {
        uint64_t key = test_random(&rng) % COUNTERS, now = 0;
        size_t size = 0;
        CHECK_EQ(pnx_cache_compute_copy(f->cache, &key, 8, count_up, NULL, &now, 8, &size), 0);
        CHECK_EQ(size, 8);
        CHECK(now > last[key]);
        last[key] = now;
    }
}

static void count_with(const char *policy, uint32_t shards) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 100, .policy = policy, .shards = shards));
    test_threads(8, count_all, &f);
    uint64_t sum = 0;
    for (uint64_t key = 0; key < COUNTERS; key++)
        sum += value_of(&f, key);
    CHECK_EQ(sum, 8 * (test_slow() ? 500 : 20000));
    CHECK_EQ(stats_of(&f).computes, sum);
    fixture_close(&f);
}

TEST_LIMIT(p17_counters_that_eight_threads_count_up_lose_nothing, 120) {
    count_with("lru", 1);
    count_with("s3-fifo", 4);
}

/*
 * Beside other keys that come, go and expire, so that records and their numbers are used again.  A counter that was taken away
 * begins anew; what it had is told by who took it.
 */
static struct {
    struct fixture f;
    uint64_t counted; /* atomic */
    uint64_t taken;   /* the same */
    int working;      /* the same */
} w;

static int take(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    uint64_t *count = ctx;
    (void)now_size;
    *count = 0;
    if (now)
        memcpy(count, now, 8);
    return pnx_cache_change_remove(change);
}

static void count_or_take(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed + index;
    (void)ctx;
    if (index < 6) {
        for (int i = 0; i < (test_slow() ? 500 : 10000); i++) {
            uint64_t key = test_random(&rng) % COUNTERS, count = 0;
            if (test_random(&rng) % 4) {
                CHECK_EQ(pnx_cache_compute_copy(w.f.cache, &key, 8, count_up, NULL, NULL, 0, NULL),
                        0);
                __atomic_add_fetch(&w.counted, 1, __ATOMIC_RELAXED);
                continue;
            }
            size_t size = 0;
            CHECK_EQ(pnx_cache_compute_copy(w.f.cache, &key, 8, take, &count, NULL, 0, &size), 0);
            CHECK_EQ(size, PNX_CACHE_NOTHING);
            __atomic_add_fetch(&w.taken, count, __ATOMIC_RELAXED);
        }
        __atomic_sub_fetch(&w.working, 1, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&w.working, __ATOMIC_ACQUIRE)) {
        uint64_t key = COUNTERS + test_random(&rng) % 300;
        if (test_random(&rng) % 2)
            put_u64(&w.f, key, key, test_random(&rng) % 2 ? PNX_SEC : 0);
        else
            (void)!pnx_cache_remove(w.f.cache, &key, 8);
    }
}

TEST_LIMIT(p17_what_was_counted_is_there_or_was_taken, 120) {
    static const char *const policies[] = {"lru", "clock", "auto"};
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        memset(&w, 0, sizeof(w));
        open_u64(&w.f, *PNX_CACHE_OPTS(.capacity_entries = 1000, .policy = policies[i]));
        w.working = 6;
        test_threads(8, count_or_take, NULL);
        for (uint64_t key = 0; key < COUNTERS; key++)
            w.taken += value_of(&w.f, key);
        CHECK_EQ(w.taken, w.counted);
        fixture_close(&w.f);
    }
}

/* ---- what a decision does ---- */

struct decision {
    enum { KEEP, REMOVE, SET, FILL, FAIL, POSITIVE } what;
    uint64_t value;
    pnx_ns ttl;
    bool keep_ttl;
    int calls;
    uint64_t saw; /* 0: nothing */
};

static int decide(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct decision *d = ctx;
    void *data = NULL;
    (void)now_size;
    d->calls++;
    d->saw = 0;
    if (now)
        memcpy(&d->saw, now, 8);
    if (d->ttl)
        CHECK_EQ(pnx_cache_change_ttl(change, d->ttl), 0);
    if (d->keep_ttl)
        CHECK_EQ(pnx_cache_change_keep_ttl(change), 0);
    switch (d->what) {
    case KEEP:
        return 0;
    case REMOVE:
        CHECK_EQ(pnx_cache_change_set(change, &d->value, 8), 0); /* the last decision counts */
        return pnx_cache_change_remove(change);
    case SET:
        CHECK_EQ(pnx_cache_change_remove(change), 0);
        return pnx_cache_change_set(change, &d->value, 8);
    case FILL:
        CHECK_EQ(pnx_cache_change_reserve(change, 8, &data), 0);
        memcpy(data, &d->value, 8);
        return 0;
    case FAIL:
        CHECK_EQ(pnx_cache_change_set(change, &d->value, 8), 0);
        return -EIO;
    case POSITIVE:
        return 1;
    }
    return 0;
}

/* Computes the key 1; returns what is stored then, or 0. */
static uint64_t compute(struct fixture *f, struct decision *d, int code) {
    uint64_t key = 1, value = 0;
    size_t size = 77;
    CHECK_EQ(pnx_cache_compute_copy(f->cache, &key, 8, decide, d, &value, 8, &size), code);
    CHECK_EQ(size, code ? 77 : value ? 8 : PNX_CACHE_NOTHING);
    CHECK_EQ(code ? 0 : value, code ? 0 : value_of(f, 1));
    return value;
}

TEST(p17_a_compute_keeps_removes_or_replaces) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(compute(&f, &(struct decision){.what = KEEP}, 0), 0);
    CHECK_EQ(compute(&f, &(struct decision){.what = REMOVE}, 0), 0);
    CHECK_EQ(compute(&f, &(struct decision){.what = SET, .value = 5}, 0), 5);
    struct decision d = {.what = KEEP};
    CHECK_EQ(compute(&f, &d, 0), 5);
    CHECK_EQ(d.saw, 5);
    CHECK_EQ(d.calls, 1);
    CHECK_EQ(compute(&f, &(struct decision){.what = FILL, .value = 6}, 0), 6);
    CHECK_EQ(compute(&f, &(struct decision){.what = FAIL, .value = 7}, -EIO), 0);
    CHECK_EQ(compute(&f, &(struct decision){.what = POSITIVE}, -EINVAL), 0);
    CHECK_EQ(value_of(&f, 1), 6);
    CHECK_EQ(compute(&f, &(struct decision){.what = REMOVE}, 0), 0);
    struct pnx_cache_stats s = stats_of(&f);
    CHECK_EQ(s.computes, 8);
    CHECK_EQ(s.compute_retries, 0);
    CHECK_EQ(s.inserts, 2);
    CHECK_EQ(s.removed_explicit, 1);
    CHECK_EQ(s.removed_replaced, 1);
    fixture_close(&f);
}

TEST(p17_a_compute_is_a_use_and_counts_as_one_lookup) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 2, .policy = "lru", .curve_samples = 256));
    compute(&f, &(struct decision){.what = KEEP}, 0);
    CHECK_EQ(stats_of(&f).misses, 2); /* one is value_of()'s */
    put_u64(&f, 1, 10, 0);
    put_u64(&f, 2, 20, 0);
    uint64_t key = 1;
    CHECK_EQ(pnx_cache_compute_copy(
                     f.cache, &key, 8, decide, &(struct decision){.what = KEEP}, NULL, 0, NULL),
            0);
    CHECK_EQ(stats_of(&f).hits, 1);
    put_u64(&f, 3, 30, 0); /* 2 goes */
    CHECK_EQ(value_of(&f, 1), 10);
    CHECK_EQ(value_of(&f, 2), 0);
    fixture_close(&f);
}

TEST(p17_a_compute_gives_a_new_time_to_live_or_keeps_the_old_one) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4, .ttl = 100 * PNX_SEC));
    put_u64(&f, 1, 1, 10 * PNX_SEC);
    test_env_advance(&f.te, 5 * PNX_SEC);
    compute(&f, &(struct decision){.what = SET, .value = 2, .keep_ttl = true}, 0);
    test_env_advance(&f.te, 5 * PNX_SEC - TICK);
    CHECK_EQ(value_of(&f, 1), 2);
    test_env_advance(&f.te, TICK);
    CHECK_EQ(value_of(&f, 1), 0);
    /* Nothing was seen: the cache's. */
    compute(&f, &(struct decision){.what = SET, .value = 3, .keep_ttl = true}, 0);
    test_env_advance(&f.te, 100 * PNX_SEC - TICK);
    CHECK_EQ(value_of(&f, 1), 3);
    compute(&f, &(struct decision){.what = SET, .value = 4}, 0);
    test_env_advance(&f.te, 100 * PNX_SEC - TICK);
    CHECK_EQ(value_of(&f, 1), 4);
    compute(&f, &(struct decision){.what = SET, .value = 5, .ttl = PNX_NEVER}, 0);
    test_env_advance(&f.te, 10000 * PNX_SEC);
    compute(&f, &(struct decision){.what = SET, .value = 6, .keep_ttl = true}, 0);
    test_env_advance(&f.te, 10000 * PNX_SEC);
    CHECK_EQ(value_of(&f, 1), 6);
    compute(&f, &(struct decision){.what = SET, .value = 7, .ttl = 20 * PNX_SEC}, 0);
    test_env_advance(&f.te, 20 * PNX_SEC);
    CHECK_EQ(value_of(&f, 1), 0);
    fixture_close(&f);
}

/* ---- what others do meanwhile ---- */

enum meddler {
    PUTS,
    REMOVES,
    CLEARS,
    EXPIRES,
    PUTS_THE_SAME,
    REMOVES_AND_PUTS_THE_SAME,
    RECLAIMS,
    NOTHING
};

struct meddling {
    struct fixture *f;
    enum meddler how;
    int calls;
    uint64_t saw[4];
    uint64_t set; /* 0: removes */
};

/* Changes the key during its first call, as another thread might. */
static int meddle(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    uint64_t key = 1, seen = 0;
    (void)now_size;
    CHECK(m->calls < 4);
    if (now)
        memcpy(&seen, now, 8);
    m->saw[m->calls] = seen;
    if (m->calls++ == 0) {
        switch (m->how) {
        case PUTS:
            put_u64(m->f, 1, 50, 0);
            break;
        case REMOVES:
            CHECK_EQ(pnx_cache_remove(m->f->cache, &key, 8), 0);
            break;
        case CLEARS:
            CHECK_EQ(pnx_cache_clear(m->f->cache), 0);
            put_u64(m->f, 1, 50, 0); /* into the first slot, with the number it had */
            break;
        case EXPIRES:
            test_env_advance(&m->f->te, 1000 * PNX_SEC);
            break;
        case PUTS_THE_SAME:
            put_u64(m->f, 1, seen, 0);
            break;
        case REMOVES_AND_PUTS_THE_SAME:
            CHECK_EQ(pnx_cache_remove(m->f->cache, &key, 8), 0);
            put_u64(m->f, 1, seen, 0);
            break;
        case RECLAIMS:
            CHECK(pnx_budget_reclaim(m->f->budget, 1) > 0);
            put_u64(m->f, 1, 50, 0); /* the same */
            break;
        case NOTHING:
            break;
        }
    }
    return m->set ? pnx_cache_change_set(change, &m->set, 8) : pnx_cache_change_remove(change);
}

static void check_meddling(enum meddler how, uint64_t set, int calls, uint64_t second) {
    struct fixture f;
    uint64_t key = 1;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4, .policy = "clock"));
    put_u64(&f, 1, 5, how == EXPIRES ? 10 * PNX_SEC : 0);
    struct meddling m = {.f = &f, .how = how, .set = set};
    CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, meddle, &m, NULL, 0, NULL), 0);
    CHECK_EQ(m.calls, calls);
    CHECK_EQ(m.saw[0], 5);
    CHECK_EQ(m.saw[1], second);
    CHECK_EQ(value_of(&f, 1), set);
    CHECK_EQ(stats_of(&f).compute_retries, calls - 1);
    fixture_close(&f);
}

TEST(p17_a_function_is_called_again_whatever_has_changed_the_value_meanwhile) {
    for (uint64_t set = 0; set <= 9; set += 9) {
        check_meddling(PUTS, set, 2, 50);
        check_meddling(REMOVES, set, 2, 0);
        check_meddling(CLEARS, set, 2, 50);
        check_meddling(EXPIRES, set, 2, 0);
        check_meddling(RECLAIMS, set, 2, 50);
        check_meddling(PUTS_THE_SAME, set, 1, 0);
        check_meddling(REMOVES_AND_PUTS_THE_SAME, set, 1, 0);
        check_meddling(NOTHING, set, 1, 0);
    }
}

static int change_own_key(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    uint64_t set = (uint64_t)++m->calls;
    (void)now, (void)now_size;
    put_u64(m->f, 1, set + 1, 0);
    return pnx_cache_change_set(change, &set, 8);
}

TEST(p17_a_function_that_changes_its_own_key_ends_with_eagain) {
    struct fixture f;
    uint64_t key = 1;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4));
    struct meddling m = {.f = &f};
    CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, change_own_key, &m, NULL, 0, NULL), -EAGAIN);
    CHECK_EQ(m.calls, PNX_CACHE_COMPUTE_TRIES);
    fixture_close(&f);
}

static int compute_inside(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    uint64_t key = 1, other = 2;
    (void)now, (void)now_size, (void)change;
    CHECK_EQ(pnx_cache_compute_copy(m->f->cache, &key, 8, count_up, NULL, NULL, 0, NULL), -EDEADLK);
    CHECK_EQ(pnx_cache_compute_copy(m->f->cache, &other, 8, count_up, NULL, NULL, 0, NULL), 0);
    return 0;
}

TEST(p17_a_compute_of_its_own_key_from_inside_is_edeadlk_and_of_another_is_well) {
    struct fixture f;
    uint64_t key = 1;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4));
    struct meddling m = {.f = &f};
    CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, compute_inside, &m, NULL, 0, NULL), 0);
    CHECK_EQ(value_of(&f, 1), 0);
    CHECK_EQ(value_of(&f, 2), 1);
    fixture_close(&f);
}

/* ---- refusals ---- */

/* Tries what may not be decided, then decides. */
static int decide_badly(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    unsigned char bytes[16] = {1};
    void *data = ctx;
    (void)now, (void)now_size;
    for (size_t n = 0; n <= sizeof(bytes); n++) {
        if (n == 8)
            continue;
        CHECK_EQ(pnx_cache_change_set(change, bytes, n), -EINVAL);
        CHECK_EQ(pnx_cache_change_reserve(change, n, &data), -EINVAL);
    }
    CHECK(data == ctx);
    CHECK_EQ(pnx_cache_change_set(change, NULL, 8), -EINVAL);
    CHECK_EQ(pnx_cache_change_reserve(change, 8, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_change_set_pointer(change, bytes, 8), -ENOTSUP);
    CHECK_EQ(pnx_cache_change_ttl(change, PNX_CACHE_FIXED_TTL_MIN - 1), -EINVAL);
    CHECK_EQ(pnx_cache_change_ttl(change, -1), -EINVAL);
    CHECK_EQ(pnx_cache_change_ttl(change, PNX_CACHE_FIXED_TTL_MIN), 0);
    return 0; /* none of these was a decision */
}

TEST(bad_arguments_change_nothing) {
    struct fixture f;
    uint64_t key = 1, value = 77;
    size_t size = 77;
    struct decision d = {.what = SET, .value = 9};
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4));
    put_u64(&f, 1, 5, 0);
    CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, decide_badly, &d, &value, 8, NULL), 0);
    CHECK_EQ(value, 5);
    value = 77;
#define COMPUTE(cache, key, key_size, fn, buf, cap) \
    pnx_cache_compute_copy((cache), (key), (key_size), (fn), &d, (buf), (cap), &size)
    CHECK_EQ(COMPUTE(NULL, &key, 8, decide, &value, 8), -EINVAL);
    CHECK_EQ(COMPUTE(f.cache, NULL, 8, decide, &value, 8), -EINVAL);
    CHECK_EQ(COMPUTE(f.cache, NULL, 0, decide, &value, 8), -EINVAL);
    CHECK_EQ(COMPUTE(f.cache, &key, 7, decide, &value, 8), -EINVAL);
    CHECK_EQ(COMPUTE(f.cache, &key, 8, NULL, &value, 8), -EINVAL);
    CHECK_EQ(COMPUTE(f.cache, &key, 8, decide, NULL, 8), -EINVAL);
    CHECK_EQ(size, 77);
    CHECK_EQ(COMPUTE(f.cache, &key, 8, decide, &value, 7), -ERANGE);
    CHECK_EQ(size, 8);
    CHECK_EQ(pnx_cache_retain_copy(NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_retain_copy(f.cache, NULL, NULL), -EINVAL);
    CHECK_EQ(d.calls, 0);
    CHECK_EQ(value, 77);
    CHECK_EQ(value_of(&f, 1), 5);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(COMPUTE(f.cache, &key, 8, decide, &value, 8), -ESHUTDOWN);
#undef COMPUTE
    fixture_close(&f);
}

static int close_inside(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct meddling *m = ctx;
    (void)now, (void)now_size;
    CHECK_EQ(pnx_cache_close(m->f->cache), 0);
    return m->set ? pnx_cache_change_set(change, &m->set, 8) : pnx_cache_change_remove(change);
}

TEST(a_decision_on_a_cache_that_was_closed_is_refused) {
    for (uint64_t set = 0; set < 2; set++) {
        struct fixture f;
        uint64_t key = 1;
        open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4));
        struct meddling m = {.f = &f, .set = set};
        CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, close_inside, &m, NULL, 0, NULL),
                -ESHUTDOWN);
        fixture_close(&f);
    }
}

/* ---- caches of entries, too ---- */

TEST(a_cache_of_entries_computes_over_copies_too) {
    struct fixture f;
    uint64_t key = 1, value = 0;
    size_t size = 0;
    char text[4] = "abc";
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    for (uint64_t i = 1; i <= 3; i++) {
        CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, count_up, NULL, &value, 8, &size), 0);
        CHECK_EQ(value, i);
        CHECK_EQ(size, 8);
    }
    CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, count_up, NULL, text, sizeof(text), &size),
            -ERANGE);
    CHECK_EQ(size, 8);
    CHECK_STR(text, "abc");
    CHECK_EQ(value_of(&f, 1), 4); /* it was counted all the same */
    CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, take, &value, NULL, 0, &size), 0);
    CHECK_EQ(value, 4);
    CHECK_EQ(size, PNX_CACHE_NOTHING);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, &key, 8, &f, 8, 0), 0);
    CHECK_EQ(pnx_cache_compute_copy(f.cache, &key, 8, count_up, NULL, &value, 8, &size), -ENOTSUP);
    CHECK_EQ(pnx_cache_retain_copy(f.cache, NULL, NULL), -EINVAL);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

/* ---- retain ---- */

static bool keep_even(void *ctx, const void *key, const void *value) {
    uint64_t k, v;
    (void)ctx;
    memcpy(&k, key, 8);
    memcpy(&v, value, 8);
    CHECK_EQ(v, k + 1000);
    return k % 2 == 0;
}

TEST(p18_retain_removes_what_is_refused_and_says_how_many) {
    for (uint32_t shards = 1; shards <= 4; shards *= 4) {
        struct fixture f;
        open_u64(&f,
                *PNX_CACHE_OPTS(.capacity_entries = 2000, .shards = shards, .policy = "s3-fifo"));
        CHECK_EQ(pnx_cache_retain_copy(f.cache, keep_even, NULL), 0);
        for (uint64_t i = 0; i < 1001; i++)
            put_u64(&f, i, i + 1000, i % 10 == 5 ? PNX_SEC : 0);
        test_env_advance(&f.te, PNX_SEC); /* what has expired is not asked about */
        CHECK_EQ(pnx_cache_retain_copy(f.cache, keep_even, NULL), 400);
        CHECK_EQ(stats_of(&f).removed_explicit, 400);
        for (uint64_t i = 0; i < 1001; i++)
            CHECK_EQ(value_of(&f, i), i % 2 ? 0 : i + 1000);
        CHECK_EQ(pnx_cache_retain_copy(f.cache, keep_even, NULL), 0);
        CHECK_EQ(pnx_cache_close(f.cache), 0);
        CHECK_EQ(pnx_cache_retain_copy(f.cache, keep_even, NULL), -ESHUTDOWN);
        fixture_close(&f);
    }
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_retain_copy(f.cache, keep_even, NULL), -ENOTSUP);
    fixture_close(&f);
}

/* Refuses all, having replaced the first that it is asked about. */
static bool refuse_what_was(void *ctx, const void *key, const void *value) {
    struct meddling *m = ctx;
    uint64_t k, v;
    memcpy(&k, key, 8);
    memcpy(&v, value, 8);
    if (m->calls++ == 0) {
        m->saw[0] = k;
        put_u64(m->f, k, m->set ? m->set : v, 0);
    }
    return false;
}

TEST(p18_a_verdict_on_a_value_that_has_been_replaced_is_void) {
    for (uint64_t set = 0; set <= 9; set += 9) { /* 0: by the same bytes */
        struct fixture f;
        open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 10));
        for (uint64_t i = 1; i <= 5; i++)
            put_u64(&f, i, i, 0);
        struct meddling m = {.f = &f, .set = set};
        CHECK_EQ(pnx_cache_retain_copy(f.cache, refuse_what_was, &m), set ? 4 : 5);
        for (uint64_t i = 1; i <= 5; i++)
            CHECK_EQ(value_of(&f, i), i == m.saw[0] ? set : 0);
        fixture_close(&f);
    }
}

/* ---- memory ---- */

static int change_with_failures(struct test_env *te, void *ctx) {
    struct pnx_cache *cache = NULL;
    struct pnx_error err = {0};
    (void)ctx;
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.env = &te->env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(), .capacity_entries = 400,
                    .key_bytes = 8, .value_bytes = 8, .policy = "s3-fifo"),
            &err, &cache);
    for (uint64_t i = 0; rc == 0 && i < 600; i++) {
        uint64_t key = i % 500, value = 77;
        rc = pnx_cache_compute_copy(cache, &key, 8, count_up, NULL, &value, 8, NULL);
        CHECK(rc == 0 || (rc == -ENOMEM && value == 77));
        CHECK(rc == 0 || pnx_cache_get_copy(cache, &key, 8, &value, 8, NULL) == -ENOENT);
    }
    if (cache)
        CHECK_EQ(pnx_cache_check(cache, NULL), 0);
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return rc;
}

TEST(every_allocation_of_a_compute_may_fail) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, change_with_failures, NULL);
}

TEST(a_value_that_takes_the_place_of_another_needs_no_memory) {
    struct fixture f;
    open_u64(&f, *PNX_CACHE_OPTS(.capacity_entries = 4));
    put_u64(&f, 1, 1, 0);
    f.te.allocations = 0;
    for (uint64_t i = 2; i < 10; i++)
        compute(&f, &(struct decision){.what = SET, .value = i}, 0);
    CHECK_EQ(f.te.allocations, 0);
    fixture_close(&f);
}

/* ---- typed ---- */

struct price {
    uint64_t cents;
    uint32_t changes;
};
PNX_CACHE_DEFINE(prices, uint32_t, struct price)

static int load_price(void *ctx, uint32_t key, pnx_ns deadline, struct price *ret_value) {
    CHECK_EQ(deadline, PNX_NEVER);
    ++*(int *)ctx;
    if (key == 404)
        return -ENOENT;
    *ret_value = (struct price){.cents = key * 100};
    return 0;
}

static int raise_price(void *ctx, const struct price *now, struct pnx_cache_change *change) {
    if (!now)
        return *(int *)ctx;
    struct price next = {.cents = now->cents + 1, .changes = now->changes + 1};
    return next.changes > 2 ? pnx_cache_change_remove(change) : prices_change_set(change, next);
}

static bool is_cheap(void *ctx, uint32_t key, struct price value) {
    (void)ctx;
    CHECK_EQ(value.cents, key * 100);
    return value.cents < 500;
}

static void use_typed(struct pnx_cache *cache) {
    int calls = 0, code = 0;
    struct price price = {.cents = 77};
    bool stored = true;
    CHECK_EQ(prices_get_or_load(cache, 404, load_price, &calls, PNX_NEVER, NULL, &price), -ENOENT);
    CHECK_EQ(price.cents, 77);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(prices_get_or_load(cache, 3, load_price, &calls, PNX_NEVER, NULL, &price), 0);
        CHECK_EQ(price.cents, 300);
    }
    CHECK_EQ(calls, 2);
    CHECK_EQ(prices_get_or_load(cache, 3, NULL, &calls, PNX_NEVER, NULL, &price), -EINVAL);
    CHECK_EQ(prices_compute(cache, 3, raise_price, &code, &price, &stored), 0);
    CHECK(stored && price.cents == 301 && price.changes == 1);
    CHECK_EQ(prices_compute(cache, 3, raise_price, &code, NULL, NULL), 0);
    CHECK_EQ(prices_compute(cache, 3, raise_price, &code, &price, &stored), 0);
    CHECK(!stored && price.cents == 301);
    code = -EIO;
    CHECK_EQ(prices_compute(cache, 3, raise_price, &code, &price, &stored), -EIO);
    CHECK_EQ(prices_compute(cache, 3, NULL, &code, &price, &stored), -EINVAL);
}

TEST(typed_forms_load_compute_and_retain) {
    struct fixture f;
    fixture_worlds(&f);
    struct pnx_cache_opts opts = fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(prices_create(&opts, &f.err, &f.cache), 0);
    use_typed(f.cache);
    for (uint32_t key = 1; key < 10; key++)
        CHECK_EQ(prices_put(f.cache, key, (struct price){.cents = key * 100}, 0), 0);
    CHECK_EQ(prices_retain(f.cache, is_cheap, NULL), 5);
    CHECK_EQ(prices_retain(f.cache, NULL, NULL), -EINVAL);
    CHECK_EQ(stats_of(&f).entries, 4);
    fixture_close(&f);
    /* The same forms on a cache of entries. */
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    use_typed(f.cache);
    uint32_t key = 7;
    struct price price = {.cents = 77};
    int calls = 0, code = 0;
    CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), "short", 6, 0), 0);
    CHECK_EQ(prices_get_or_load(f.cache, 7, load_price, &calls, PNX_NEVER, NULL, &price), -ERANGE);
    CHECK_EQ(prices_compute(f.cache, 7, raise_price, &code, &price, NULL), -ERANGE);
    CHECK_EQ(price.cents, 77);
    CHECK_EQ(prices_retain(f.cache, is_cheap, NULL), -ENOTSUP);
    fixture_close(&f);
}
