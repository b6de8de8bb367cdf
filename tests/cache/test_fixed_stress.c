/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fixed sizes from many threads at once: for torn values, staleness, lost keys, the invariants, and for ThreadSanitizer.
 *
 * All bytes of a value follow from its key and its version, so that a mixture of two, or the value of another key, is none.
 */
#include "cache/fixed_bytes.h"
#include "cache/internal.h"

#include <pthread.h>

#define KEYS    64
#define THREADS 8

static struct world {
    struct fixture f;
    size_t value_size;
    pthread_mutex_t writer[KEYS];
    uint64_t begun[KEYS];     /* with __atomic: no value is newer */
    uint64_t published[KEYS]; /* with __atomic: no value that is found later is older */
    uint64_t steps;
    int writing; /* with __atomic: threads that have not ended yet */
} w;

/* ---- values ---- */

/* One to one, so that a value of eight bytes of which half is another's names a version that was never written. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t unmix(uint64_t x) {
    x = (x ^ x >> 31 ^ x >> 62) * UINT64_C(0x319642b2d24d8ec3);
    x = (x ^ x >> 27 ^ x >> 54) * UINT64_C(0x96de1b173f119089);
    return x ^ x >> 30 ^ x >> 60;
}

#define VERSION_BITS 40

static void make(uint64_t key, uint64_t version, unsigned char *value) {
    uint64_t x = mix(key << VERSION_BITS | version);
    for (size_t at = 0; at < w.value_size; at += 8, x = mix(x + at))
        memcpy(value + at, &x, w.value_size - at < 8 ? w.value_size - at : 8);
}

/* Checks that it is a value of the key that has been written, and returns its version. */
static uint64_t check_value(uint64_t key, const unsigned char *value) {
    unsigned char expected[VALUE_MOST];
    uint64_t x;
    memcpy(&x, value, 8);
    x = unmix(x);
    uint64_t version = x & ((UINT64_C(1) << VERSION_BITS) - 1);
    CHECK_MSG(
            x >> VERSION_BITS == key && version <= __atomic_load_n(&w.begun[key], __ATOMIC_ACQUIRE),
            "key %llu has a value that was never its own", (unsigned long long)key);
    make(key, version, expected);
    CHECK_MSG(memcmp(value, expected, w.value_size) == 0, "a torn value of key %llu",
            (unsigned long long)key);
    return version;
}

static void check_not_older(uint64_t version, uint64_t than, uint64_t key) {
    CHECK_MSG(version >= than, "stale: version %llu of key %llu, %llu was published",
            (unsigned long long)version, (unsigned long long)key, (unsigned long long)than);
}

/* Writes the next version; the caller is the key's only writer now. */
static int write_next(uint64_t key, bool remove, pnx_ns ttl) {
    unsigned char value[VALUE_MOST];
    uint64_t version = __atomic_add_fetch(&w.begun[key], 1, __ATOMIC_ACQ_REL);
    make(key, version, value);
    int rc = remove ? pnx_cache_remove(w.f.cache, &key, 8)
                    : pnx_cache_put(w.f.cache, &key, 8, value, w.value_size, ttl);
    __atomic_store_n(&w.published[key], version, __ATOMIC_RELEASE);
    return rc;
}

/* ---- all at once ---- */

static void step_read(uint64_t key) {
    unsigned char value[VALUE_MOST];
    uint64_t before = __atomic_load_n(&w.published[key], __ATOMIC_ACQUIRE);
    int rc = pnx_cache_get_copy(w.f.cache, &key, 8, value, w.value_size, NULL);
    CHECK_MSG(rc == 0 || rc == -ENOENT, "%s", pnx_errname(rc));
    if (rc == 0)
        check_not_older(check_value(key, value), before, key);
}

static void step_read_many(uint64_t *rng) {
    unsigned char values[16 * VALUE_MOST];
    uint64_t keys[16], before[16], found = 0;
    size_t n = test_random(rng) % 17;
    for (size_t i = 0; i < n; i++) {
        keys[i] = test_random(rng) % KEYS;
        before[i] = __atomic_load_n(&w.published[keys[i]], __ATOMIC_ACQUIRE);
    }
    int rc = pnx_cache_get_many(w.f.cache, keys, 8, n, values, w.value_size, &found);
    CHECK_EQ(rc, __builtin_popcountll(found));
    for (size_t i = 0; i < n; i++) {
        if (found >> i & 1)
            check_not_older(check_value(keys[i], values + i * w.value_size), before[i], keys[i]);
    }
}

static void step_write(uint64_t key, uint64_t how) {
    pthread_mutex_lock(&w.writer[key]);
    pnx_ns ttl = how % 5 == 0 ? PNX_CACHE_FIXED_TTL_MIN + (pnx_ns)(how >> 36) : 0;
    int rc = write_next(key, how % 4 == 0, ttl);
    CHECK_MSG(rc == 0 || rc == -ENOENT, "%s", pnx_errname(rc));
    pthread_mutex_unlock(&w.writer[key]);
}

static int visit(void *ctx, const void *key, const void *value) {
    uint64_t k;
    (void)ctx;
    memcpy(&k, key, 8);
    CHECK(k < KEYS);
    check_value(k, value);
    return 0;
}

static void step_rare(uint64_t what, uint64_t r) {
    size_t cost = pnx_cache_cost_fixed(8, w.value_size);
    bool seldom = (r >> 32) % 8 != 0; /* so that entries have time to expire and to be evicted */
    if (what == 0 && !seldom)
        CHECK_EQ(pnx_cache_clear(w.f.cache), 0);
    if (what == 1)
        CHECK_EQ(pnx_cache_resize(w.f.cache, 1024 + r % 80 * cost, r % 2 ? 0 : 10 + r % 50, NULL),
                0);
    if (what == 2)
        CHECK_EQ(pnx_cache_each_copy(w.f.cache, visit, NULL), 0);
    if (what == 3)
        pnx_cache_tick(w.f.cache, __atomic_load_n(&w.f.te.now, __ATOMIC_RELAXED));
    if (what == 4 && !seldom)
        pnx_budget_reclaim(w.f.budget, r % 4000);
    if (what == 5)
        check_invariants(&w.f);
    if (what == 6)
        CHECK_EQ(pnx_cache_set_ttl(w.f.cache, r % 2 ? 0 : PNX_CACHE_FIXED_TTL_MIN * 2, NULL), 0);
    if (what == 7)
        test_env_advance(&w.f.te, (pnx_ns)(r % PNX_CACHE_FIXED_TTL_MIN));
}

static void torture(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed * 31 + index;
    (void)ctx;
    for (uint64_t i = 0; i < w.steps; i++) {
        uint64_t what = test_random(&rng) % 1000;
        uint64_t key = test_random(&rng) % (test_random(&rng) % 2 ? 4 : KEYS);
        if (what < 450)
            step_read(key);
        else if (what < 500)
            step_read_many(&rng);
        else if (what < 960)
            step_write(key, test_random(&rng));
        else
            step_rare((what - 960) / 5, test_random(&rng));
    }
}

static void open_world(size_t value_size, const char *policy, uint32_t shards, uint64_t entries) {
    memset(&w, 0, sizeof(w));
    w.value_size = value_size;
    w.steps = test_slow() ? 1500 : test_long() ? 1000000 : 20000;
    fixture_worlds(&w.f);
    struct pnx_cache_opts opts = fixture_opts(
            &w.f, PNX_CACHE_OPTS(.capacity_entries = entries, .key_bytes = 8,
                          .value_bytes = (uint32_t)value_size, .policy = policy, .shards = shards));
    CHECK_EQ(pnx__cache_create(&opts, 4, &w.f.err, &w.f.cache), 0);
    for (int i = 0; i < KEYS; i++)
        pthread_mutex_init(&w.writer[i], NULL);
}

static void torture_all(size_t value_size, const char *policy, uint32_t shards) {
    open_world(value_size, policy, shards, 40);
    test_threads(THREADS, torture, NULL);
    struct pnx_cache_stats s = stats_of(&w.f);
    CHECK(s.hits > 0);
    CHECK(s.removed_size > 0);
    CHECK(s.removed_clear > 0);
    CHECK(s.removed_expired > 0);
    fixture_close(&w.f);
}

TEST_LIMIT(p10_no_value_is_torn_or_of_another_key_or_older_than_one_that_was_published, 120) {
    torture_all(8, "s3-fifo", 4);
    torture_all(24, "sieve", 1);
    torture_all(100, "auto", 2);
    torture_all(8, "clock", 1);
}

TEST_LIMIT(p10_nor_where_lookups_ask_under_the_lock, 120) {
    torture_all(24, "lru", 1);
    torture_all(8, "w-tinylfu", 1);
}

/* ---- keys that stay ---- */

#define STAYING 16

static void replace_those_that_stay(unsigned index) {
    for (uint64_t i = 0; i < w.steps * 2; i++) {
        uint64_t key = i % STAYING;
        if (key % 2 == index) /* each has one writer */
            CHECK_EQ(write_next(key, false, key % 4 == 2 ? 3600 * PNX_SEC : 0), 0);
    }
    __atomic_sub_fetch(&w.writing, 1, __ATOMIC_RELEASE);
}

/* So that the index grows, slots and lines are used again, and the wheel turns. */
static void come_and_go(unsigned index) {
    uint64_t rng = w.f.seed + index;
    unsigned char value[VALUE_MOST] = {0};
    for (uint64_t i = 0; __atomic_load_n(&w.writing, __ATOMIC_ACQUIRE); i++) {
        uint64_t key = 1000 * (index + 1) + i % 900;
        pnx_ns ttl = i % 3 ? 0 : PNX_CACHE_FIXED_TTL_MIN + (pnx_ns)(test_random(&rng) >> 36);
        CHECK_EQ(pnx_cache_put(w.f.cache, &key, 8, value, w.value_size, ttl), 0);
        key = 1000 * (index + 1) + test_random(&rng) % 900;
        int rc = pnx_cache_remove(w.f.cache, &key, 8);
        CHECK(rc == 0 || rc == -ENOENT);
        if (i % 16 == 0)
            pnx_cache_tick(w.f.cache, __atomic_load_n(&w.f.te.now, __ATOMIC_RELAXED));
        if (i % 16 == 8)
            test_env_advance(&w.f.te, TICK / 16);
        if (i % 1024 == 0)
            CHECK_EQ(pnx_cache_resize(w.f.cache, 0, 4000 + i % 7, NULL), 0);
    }
}

static int visit_staying(void *ctx, const void *key, const void *value) {
    bool *seen = ctx;
    uint64_t k;
    memcpy(&k, key, 8);
    if (k < STAYING) {
        seen[k] = true;
        check_value(k, value);
    }
    return 0;
}

static void look_for_those_that_stay(unsigned index) {
    unsigned char values[STAYING * VALUE_MOST];
    uint64_t last[STAYING] = {0}, keys[STAYING], found;
    for (uint64_t k = 0; k < STAYING; k++)
        keys[k] = k;
    for (uint64_t i = 0; __atomic_load_n(&w.writing, __ATOMIC_ACQUIRE); i++) {
        uint64_t key = i % STAYING;
        if (index % 2 && key == 0) {
            CHECK_MSG(pnx_cache_get_many(
                              w.f.cache, keys, 8, STAYING, values, w.value_size, &found) == STAYING,
                    "a key that stays is not among many: %llx", (unsigned long long)found);
            for (uint64_t k = 0; k < STAYING; k++) {
                uint64_t version = check_value(k, values + k * w.value_size);
                check_not_older(version, last[k], k);
                last[k] = version;
            }
        }
        uint64_t before = __atomic_load_n(&w.published[key], __ATOMIC_ACQUIRE);
        int rc = pnx_cache_get_copy(w.f.cache, &key, 8, values, w.value_size, NULL);
        CHECK_MSG(rc == 0, "a key that stays: %s", pnx_errname(rc));
        uint64_t version = check_value(key, values);
        check_not_older(version, before, key);
        check_not_older(version, last[key], key);
        last[key] = version;
        if (index == 4 && i % 512 == 0) {
            bool seen[STAYING] = {false};
            CHECK_EQ(pnx_cache_each_copy(w.f.cache, visit_staying, seen), 0);
            for (uint64_t k = 0; k < STAYING; k++)
                CHECK(seen[k]);
        }
    }
}

static void stay(unsigned index, void *ctx) {
    (void)ctx;
    if (index < 2)
        replace_those_that_stay(index);
    else if (index < 4)
        come_and_go(index);
    else
        look_for_those_that_stay(index);
}

static void stay_all(size_t value_size, const char *policy, uint32_t shards) {
    open_world(value_size, policy, shards, 4000);
    w.writing = 2;
    for (uint64_t key = 0; key < STAYING; key++)
        CHECK_EQ(write_next(key, false, 0), 0);
    test_threads(THREADS, stay, NULL);
    CHECK_EQ(stats_of(&w.f).removed_size, 0);
    fixture_close(&w.f);
}

TEST_LIMIT(p10_a_key_that_is_only_replaced_is_always_found_and_never_goes_back, 120) {
    stay_all(8, "s3-fifo", 1);
    stay_all(24, "sieve", 4);
    stay_all(100, "clock", 1);
    stay_all(8, "lru", 1);
}

/* ---- clears, at one moment ---- */

#define PAIRS 8

/* One thread fills all shards with a round's number, then clears; a reader that misses one key misses all of that round. */
static void clear_or_look(unsigned index, void *ctx) {
    (void)ctx;
    if (index == 0) {
        for (uint64_t round = 1; round <= w.steps / 10; round++) {
            for (uint64_t key = 0; key < KEYS; key++)
                CHECK_EQ(pnx_cache_put(w.f.cache, &key, 8, &round, 8, 0), 0);
            __atomic_store_n(&w.published[0], round, __ATOMIC_RELEASE); /* all are there */
            CHECK_EQ(pnx_cache_clear(w.f.cache), 0);
        }
        __atomic_store_n(&w.writing, 0, __ATOMIC_RELEASE);
        return;
    }
    uint64_t rng = w.f.seed + index;
    while (__atomic_load_n(&w.writing, __ATOMIC_ACQUIRE)) {
        uint64_t round = __atomic_load_n(&w.published[0], __ATOMIC_ACQUIRE), value = 0;
        uint64_t gone = test_random(&rng) % KEYS;
        bool cleared = pnx_cache_get_copy(w.f.cache, &gone, 8, &value, 8, NULL) != 0;
        for (uint64_t i = 0; i < PAIRS; i++) {
            uint64_t key = test_random(&rng) % KEYS;
            int rc = pnx_cache_get_copy(w.f.cache, &key, 8, &value, 8, NULL);
            CHECK_MSG(!cleared || rc != 0 || value > round,
                    "a key of round %llu is there after another has gone",
                    (unsigned long long)value);
        }
    }
}

TEST_LIMIT(p10_a_clear_takes_effect_for_all_shards_at_one_moment_for_each_reader, 120) {
    open_world(8, "fifo", 16, 4000);
    w.writing = 1;
    test_threads(4, clear_or_look, NULL);
    fixture_close(&w.f);
}

/* ---- the end ---- */

static void use_until_closed(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed + index, n = 0;
    int rc;
    (void)ctx;
    do {
        uint64_t key = test_random(&rng) % 1000, value = key, found = 0;
        if (index == 0 && n++ == 200)
            CHECK_EQ(pnx_cache_close(w.f.cache), 0);
        if (index == 1)
            rc = pnx_cache_get_many(w.f.cache, &key, 8, 1, &value, 8, &found);
        else if (index == 2)
            rc = pnx_cache_get_copy(w.f.cache, &key, 8, &value, 8, NULL);
        else if (index == 3)
            rc = pnx_cache_clear(w.f.cache);
        else
            rc = pnx_cache_put(w.f.cache, &key, 8, &value, 8, key % 2 ? PNX_SEC : 0);
        CHECK_MSG(rc >= 0 || rc == -ENOENT || rc == -ESHUTDOWN, "%s", pnx_errname(rc));
    } while (rc != -ESHUTDOWN);
}

TEST_LIMIT(closing_among_calls_ends_all_of_them_and_leaves_nothing, 120) {
    for (int round = 0; round < (test_slow() ? 5 : 50); round++) {
        open_world(8, round % 2 ? "s3-fifo" : "lru", round % 2 ? 4 : 1, 500);
        test_threads(6, use_until_closed, NULL);
        CHECK_EQ(stats_of(&w.f).entries, 0);
        CHECK_EQ(pnx_cache_close(w.f.cache), 0);
        fixture_close(&w.f);
    }
}
