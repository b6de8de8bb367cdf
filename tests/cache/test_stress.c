/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything at once, from many threads: for the invariants, for staleness, and for ThreadSanitizer.
 *
 * A source holds a version for each key.  A writer, one a key at a time, raises the version, then changes the cache,
 * then publishes the version.  Whoever asks the cache after that must never be given an older one (P6).
 */
#include "cache/common.h"

#include <patinox/shutdown.h>

#include <pthread.h>

#define KEYS 64

struct value {
    uint64_t key;
    uint64_t version;
    char filler[64];
};

static struct world {
    struct fixture f;
    pthread_mutex_t writer[KEYS];
    uint64_t source[KEYS];    /* with __atomic: what a loader reads */
    uint64_t published[KEYS]; /* with __atomic: what readers may rely on */
    int loading[KEYS];        /* with __atomic: loaders inside */
    int loads;                /* with __atomic */
    unsigned steps;
} w;

static struct value make(uint64_t key, uint64_t version) {
    struct value value = {.key = key, .version = version};
    memset(value.filler, (char)version, sizeof(value.filler));
    return value;
}

static void check_value(const struct pnx_cache_ref *ref, uint64_t key, uint64_t at_least) {
    const struct value *value = pnx_cache_ref_data(ref);
    CHECK_EQ(pnx_cache_ref_size(ref), sizeof(*value));
    CHECK_EQ(value->key, key);
    CHECK_EQ(value->filler[0], (char)value->version);
    CHECK_EQ(value->filler[63], (char)value->version);
    CHECK_MSG(value->version >= at_least, "stale: version %llu of key %llu, %llu was published",
            (unsigned long long)value->version, (unsigned long long)key,
            (unsigned long long)at_least);
}

static int load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *to) {
    uint64_t k;
    (void)ctx, (void)deadline;
    CHECK_EQ(key_size, sizeof(k));
    memcpy(&k, key, sizeof(k));
    CHECK_MSG(__atomic_fetch_add(&w.loading[k], 1, __ATOMIC_ACQ_REL) == 0, "two loaders of a key");
    int n = __atomic_add_fetch(&w.loads, 1, __ATOMIC_RELAXED);
    struct value value = make(k, __atomic_load_n(&w.source[k], __ATOMIC_ACQUIRE));
    if (n % 3 == 0) {
        /* Depends on another key, which may depend on this one: circles come up by themselves. */
        uint64_t other = (k + 1) % 4;
        struct pnx_cache_ref ref = {0};
        if (pnx_cache_get_or_load(
                    w.f.cache, &other, sizeof(other), load, NULL, PNX_NEVER, NULL, &ref) == 0)
            check_value(&ref, other, 0);
        pnx_cache_ref_release(&ref);
    }
    int rc = n % 7 == 0 ? -ENOENT : n % 11 == 0 ? -EIO : 0;
    if (rc == 0)
        rc = pnx_cache_load_set(to, &value, sizeof(value));
    __atomic_fetch_sub(&w.loading[k], 1, __ATOMIC_ACQ_REL);
    return rc;
}

static void step_read(uint64_t key, bool may_load) {
    struct pnx_cache_ref ref = {0};
    uint64_t before = __atomic_load_n(&w.published[key], __ATOMIC_ACQUIRE);
    int rc = may_load ? pnx_cache_get_or_load(
                                w.f.cache, &key, sizeof(key), load, NULL, PNX_NEVER, NULL, &ref)
                      : pnx_cache_get(w.f.cache, &key, sizeof(key), &ref);
    CHECK_MSG(rc == 0 || rc == -ENOENT || (may_load && (rc == -EIO || rc == -EDEADLK)), "%s",
            pnx_errname(rc));
    if (rc == 0)
        check_value(&ref, key, before);
    pnx_cache_ref_release(&ref);
}

static void step_write(uint64_t key, uint64_t how) {
    pthread_mutex_lock(&w.writer[key]);
    uint64_t version = __atomic_add_fetch(&w.source[key], 1, __ATOMIC_ACQ_REL);
    struct value value = make(key, version);
    int rc = 0;
    if (how % 3 == 0)
        rc = pnx_cache_remove(w.f.cache, &key, sizeof(key));
    else
        rc = pnx_cache_put(w.f.cache, &key, sizeof(key), &value, sizeof(value), how % 3 == 1);
    CHECK_MSG(rc == 0 || rc == -ENOENT || rc == -ENOMEM, "%s", pnx_errname(rc));
    __atomic_store_n(&w.published[key], version, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&w.writer[key]);
}

static int visit(void *ctx, const struct pnx_cache_ref *ref) {
    uint64_t key;
    (void)ctx;
    memcpy(&key, pnx_cache_ref_key(ref, NULL), sizeof(key));
    check_value(ref, key, 0);
    return 0;
}

static void step_rare(uint64_t what, uint64_t r) {
    if (what == 0)
        CHECK_EQ(pnx_cache_clear(w.f.cache), 0);
    if (what == 1)
        CHECK_EQ(pnx_cache_resize(w.f.cache, 4096 + r % 16384, r % 2 ? 0 : 10 + r % 50, NULL), 0);
    if (what == 2)
        CHECK_EQ(pnx_cache_each(w.f.cache, visit, NULL), 0);
    if (what == 3)
        pnx_cache_tick(w.f.cache, __atomic_load_n(&w.f.te.now, __ATOMIC_RELAXED));
    if (what == 4)
        pnx_budget_reclaim(w.f.budget, r % 4000);
    if (what == 5)
        check_invariants(&w.f);
    if (what == 6)
        CHECK_EQ(pnx_cache_set_ttl(w.f.cache, (pnx_ns)(r % 1000), NULL), 0);
    if (what == 7)
        test_env_advance(&w.f.te, (pnx_ns)(r % 100));
}

static void torture(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed * 31 + index;
    (void)ctx;
    for (unsigned i = 0; i < w.steps; i++) {
        uint64_t what = test_random(&rng) % 100;
        uint64_t key = test_random(&rng) % (test_random(&rng) % 2 ? 4 : KEYS);
        if (what < 45)
            step_read(key, true);
        else if (what < 70)
            step_read(key, false);
        else if (what < 92)
            step_write(key, test_random(&rng));
        else
            step_rare(what - 92, test_random(&rng));
    }
}

static void no_op_destroy(void *ctx, const struct pnx_cache_removed *removed) {
    const struct value *value = removed->value;
    (void)ctx;
    CHECK_EQ(removed->value_size, sizeof(*value));
    CHECK_EQ(memcmp(removed->key, &value->key, sizeof(value->key)), 0);
}

static void world_open_with(const char *policy, uint32_t shards) {
    fixture_open(&w.f, PNX_CACHE_OPTS(.capacity = 16384, .negative_ttl = 50, .ttl = 1000,
                               .destroy = no_op_destroy, .policy = policy, .shards = shards));
    for (int i = 0; i < KEYS; i++)
        pthread_mutex_init(&w.writer[i], NULL);
}

static void world_open(void) {
    world_open_with(NULL, 0);
}

static void torture_all(const char *policy, uint32_t shards) {
    w.steps = test_slow() ? 5000 : 100000;
    world_open_with(policy, shards);
    test_threads(8, torture, NULL);
    struct pnx_cache_stats stats = stats_of(&w.f);
    CHECK_EQ(stats.pinned, 0);
    CHECK_EQ(stats.loading, 0);
    CHECK(stats.load_waits > 0);
    CHECK(stats.loads > 0);
    fixture_close(&w.f);
}

TEST_LIMIT(p6_nobody_is_given_a_value_older_than_one_that_was_published_before_asking, 120) {
    torture_all("lru", 1);
}

TEST_LIMIT(p6_nor_where_lookups_take_no_lock_and_there_are_shards, 120) {
    torture_all("s3-fifo", 4);
}

/* Threads that load without pause while the cache is closed and its budget asks for memory. */
static void load_until_closed(unsigned index, void *ctx) {
    (void)ctx;
    if (index == 0) {
        while (__atomic_load_n(&w.loads, __ATOMIC_RELAXED) < 200)
            sched_yield();
        pnx_cache_close(w.f.cache);
        return;
    }
    int rc;
    uint64_t key = index;
    do {
        struct pnx_cache_ref ref = {0};
        key = (key * 5 + 1) % KEYS;
        rc = pnx_cache_get_or_load(w.f.cache, &key, sizeof(key), load, NULL, PNX_NEVER, NULL, &ref);
        pnx_cache_ref_release(&ref);
        if (index == 1)
            pnx_cache_clear(w.f.cache);
    } while (rc != -ESHUTDOWN);
}

TEST_LIMIT(closing_among_loads_ends_all_of_them, 120) {
    for (int round = 0; round < (test_slow() ? 5 : 50); round++) {
        memset(&w, 0, sizeof(w));
        world_open();
        test_threads(6, load_until_closed, NULL);
        CHECK_EQ(pnx_cache_close(w.f.cache), 0);
        CHECK_EQ(stats_of(&w.f).entries, 0);
        fixture_close(&w.f);
    }
}

/* Owners come and go while the registry is shut down: either ends the cache, and both return. */
static void shut_down_or_release(unsigned index, void *ctx) {
    struct fixture *f = ctx;
    if (index == 0)
        CHECK_EQ(pnx_registry_shutdown(f->registry, 20 * PNX_SEC, NULL), 0);
    else
        pnx_cache_release(&f->cache);
}

TEST_LIMIT(a_release_and_a_shutdown_may_meet, 120) {
    for (int round = 0; round < (test_slow() ? 20 : 100); round++) {
        struct fixture f;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
        put_text(&f, "k", "v", 0);
        test_threads(2, shut_down_or_release, &f);
        fixture_drop(&f);
    }
}
