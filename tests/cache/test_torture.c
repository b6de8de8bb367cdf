/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every call from eight threads, on values that know whether they are alive: none is destroyed twice, none is forgotten, and
 * none is destroyed while somebody may look at it.  Ten minutes with PNX_TEST_LONG=1.
 */
#include "cache/common.h"

#include <patinox/executor.h>
#include <patinox/reclaim.h>

#include <pthread.h>
#include <time.h>

#define THREADS 8u
#define KEYS    64u
#define ALIVE   UINT64_C(0x616c697665)
#define DEAD    UINT64_C(0x64656164)

/* A value by pointer.  Never freed while the test runs, so that a second look at a dead one is seen. */
struct thing {
    uint64_t state; /* with __atomic */
    uint64_t key;
    struct thing *next; /* of those that its thread has made and may make again */
};

static struct world {
    struct fixture f;
    struct pnx_executor *executor;
    int64_t alive;      /* with __atomic */
    int stop;           /* the same */
    uint64_t refreshes; /* the same */
    pthread_mutex_t lock;
    struct thing *
            dead; /* under lock: to be used again only after readers have gone on, which a mutex's turn is not */
    char path[300];
} w;

static void destroy(void *ctx, const struct pnx_cache_removed *removed) {
    struct thing *thing = removed->value;
    (void)ctx;
    if (removed->value_size != sizeof(*thing))
        return; /* bytes */
    CHECK_MSG(__atomic_exchange_n(&thing->state, DEAD, __ATOMIC_ACQ_REL) == ALIVE,
            "destroyed twice, or never stored");
    CHECK_EQ(memcmp(removed->key, &thing->key, sizeof(thing->key)), 0);
    __atomic_sub_fetch(&w.alive, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&w.lock);
    thing->next = w.dead;
    w.dead = thing;
    pthread_mutex_unlock(&w.lock);
}

static struct thing *make(uint64_t key) {
    pthread_mutex_lock(&w.lock);
    struct thing *thing = w.dead;
    if (thing)
        w.dead = thing->next;
    pthread_mutex_unlock(&w.lock);
    if (!thing)
        thing = malloc(sizeof(*thing));
    thing->key = key;
    __atomic_store_n(&thing->state, ALIVE, __ATOMIC_RELEASE);
    __atomic_add_fetch(&w.alive, 1, __ATOMIC_RELAXED);
    return thing;
}

/* A pointer that the cache has not taken. */
static void unmake(struct thing *thing) {
    const struct pnx_cache_removed removed = {
            .key = &thing->key, .value = thing, .value_size = sizeof(*thing)};
    destroy(NULL, &removed);
}

static void check_thing(const struct pnx_cache_ref *ref, uint64_t key) {
    const struct thing *thing = pnx_cache_ref_data(ref);
    if (pnx_cache_ref_size(ref) != sizeof(*thing))
        return;
    CHECK_MSG(__atomic_load_n(&thing->state, __ATOMIC_ACQUIRE) == ALIVE, "dead under a reference");
    CHECK_EQ(thing->key, key);
}

static int load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *into) {
    uint64_t k, *rng = ctx;
    (void)key_size, (void)deadline;
    memcpy(&k, key, sizeof(k));
    uint64_t r = test_random(rng) % 8;
    if (r == 0)
        return -ENOENT;
    struct thing *thing = make(k);
    CHECK_EQ(pnx_cache_load_set_pointer(into, thing, sizeof(*thing)), 0);
    return r == 1 ? -EIO : 0;
}

static int change(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    uint64_t *args = ctx;
    if (pnx_cache_ref_data(now))
        check_thing(now, args[0]);
    uint64_t r = test_random(&args[1]) % 4;
    if (r == 0)
        return pnx_cache_change_remove(change);
    if (r == 1)
        return 0;
    struct thing *thing = make(args[0]);
    CHECK_EQ(pnx_cache_change_set_pointer(change, thing, sizeof(*thing)), 0);
    return r == 2 ? 0 : -EIO;
}

static bool keep(void *ctx, const struct pnx_cache_ref *ref) {
    uint64_t key;
    memcpy(&key, pnx_cache_ref_key(ref, NULL), sizeof(key));
    check_thing(ref, key);
    return key % 16 != *(uint64_t *)ctx;
}

static void read_one(uint64_t key, uint64_t r, uint64_t *rng) {
    struct pnx_cache_ref ref = {0};
    int rc = r % 2 ? pnx_cache_get(w.f.cache, &key, sizeof(key), &ref)
                   : pnx_cache_get_or_load(
                             w.f.cache, &key, sizeof(key), load, rng, PNX_NEVER, NULL, &ref);
    CHECK_MSG(rc == 0 || rc == -ENOENT || (rc == -EIO && r % 2 == 0), "%s", pnx_errname(rc));
    if (rc == 0) {
        check_thing(&ref, key);
        struct pnx_cache_ref second = {0};
        CHECK_EQ(pnx_cache_ref_dup(&ref, &second), 0);
        pnx_cache_ref_release(&ref);
        check_thing(&second, key);
        pnx_cache_ref_release(&second);
    }
}

static void write_one(uint64_t key, uint64_t r) {
    struct thing *thing = make(key);
    pnx_ns ttl = r % 3 ? 0 : 500 * PNX_MS;
    int rc = r % 2 ? pnx_cache_put_pointer(w.f.cache, &key, sizeof(key), thing, sizeof(*thing), ttl)
                   : pnx_cache_put_pointer_if_absent(
                             w.f.cache, &key, sizeof(key), thing, sizeof(*thing), ttl);
    CHECK_MSG(rc == 0 || rc == -EEXIST || rc == -ENOMEM, "%s", pnx_errname(rc));
    if (rc)
        unmake(thing);
}

static void fill_one(uint64_t key, uint64_t r) {
    struct pnx_cache_reservation reservation = {0};
    int rc = pnx_cache_reserve(w.f.cache, &key, sizeof(key), 100, &reservation);
    CHECK(rc == 0 || rc == -ENOMEM);
    if (rc)
        return;
    memset(reservation.data, (int)key, 100);
    if (r % 4 == 0)
        pnx_cache_abort(&reservation);
    else
        rc = pnx_cache_commit(&reservation, 40 + r % 60, 0);
    CHECK(rc == 0 || rc == -ENOMEM);
}

static void view_one(uint64_t key) {
    struct pnx_cache_bytes bytes;
    pnx_reclaim_enter(NULL);
    if (pnx_cache_view(w.f.cache, &key, sizeof(key), &bytes) == 0) {
        for (size_t i = 0; i < bytes.size; i++)
            CHECK_EQ(((const unsigned char *)bytes.data)[i], key);
    }
    pnx_reclaim_exit(NULL);
}

static void save_or_load(uint64_t r) {
    int rc = r % 2 ? pnx_cache_save(w.f.cache, w.path, NULL, NULL, NULL)
                   : pnx_cache_load_file(w.f.cache, w.path, NULL, NULL, NULL);
#ifdef _WIN32
    if (rc == -EACCES) /* another thread is putting its file there */
        return;
#endif
    CHECK_MSG(rc == 0 || (rc == -ENOENT && r % 2 == 0), "%s", pnx_errname(rc));
}

static void rare(uint64_t what, uint64_t r) {
    if (what == 0)
        CHECK_EQ(pnx_cache_clear(w.f.cache), 0);
    if (what == 1)
        CHECK_EQ(pnx_cache_resize(w.f.cache, 0, 8 + r % 60, NULL), 0);
    if (what == 2)
        CHECK(pnx_cache_retain(w.f.cache, keep, &(uint64_t){r % 16}) >= 0);
    if (what == 3)
        pnx_cache_tick(w.f.cache, __atomic_load_n(&w.f.te.now, __ATOMIC_RELAXED));
    if (what == 4)
        pnx_budget_reclaim(w.f.budget, r % 4000);
    if (what == 5)
        check_invariants(&w.f);
    if (what == 6)
        test_env_advance(&w.f.te, (pnx_ns)(r % 300) * PNX_MS);
    if (what == 7 && r % 64 == 0)
        save_or_load(r >> 6);
}

static void many(uint64_t r) {
    uint64_t keys[4] = {r % KEYS, (r >> 8) % KEYS, (r >> 16) % KEYS, (r >> 24) % KEYS}, found = 0;
    unsigned char values[4][64];
    int n = pnx_cache_get_many(w.f.cache, keys, sizeof(keys[0]), 4, values, 64, &found);
    CHECK_EQ(n, __builtin_popcountll(found));
    for (size_t i = 0; i < 4; i++)
        if (found >> i & 1)
            CHECK_EQ(values[i][r % 64], keys[i]);
}

static void refresh_one(uint64_t key, uint64_t *rng) {
    int rc = pnx_cache_refresh(w.f.cache, &key, sizeof(key), load, rng, PNX_NEVER, NULL);
    CHECK_MSG(rc == 0 || rc == -ENOENT || rc == -EIO || rc == -EALREADY, "%s", pnx_errname(rc));
}

static void torture(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed * 31 + index;
    (void)ctx;
    while (!__atomic_load_n(&w.stop, __ATOMIC_RELAXED)) {
        uint64_t what = test_random(&rng) % 200, r = test_random(&rng);
        uint64_t key = r % KEYS;
        if (what < 90)
            read_one(key, r >> 8, &rng);
        else if (what < 130)
            write_one(key, r >> 8);
        else if (what < 150)
            CHECK(pnx_cache_compute(w.f.cache, &key, sizeof(key), change, (uint64_t[]){key, r},
                          NULL) != -EAGAIN);
        else if (what < 160)
            fill_one(key, r >> 8);
        else if (what < 180)
            view_one(key);
        else if (what < 186)
            (void)pnx_cache_remove(w.f.cache, &key, sizeof(key));
        else if (what < 188)
            many(r >> 8);
        else if (what < 190)
            refresh_one(key, &rng);
        else if (what < 198)
            rare(what - 190, r >> 8);
    }
}

struct part {
    pnx_ns span;
    bool stale; /* values past their time are to have been served, also for errors */
};

static bool all_seen(const struct part *part) {
    struct pnx_cache_stats stats = stats_of(&w.f);
    return !part->stale || (stats.stale_hits > 0 && stats.stale_errors > 0);
}

static void stop_after(unsigned index, void *ctx) {
    const struct part *part = ctx;
    if (index < THREADS) {
        torture(index, NULL);
        return;
    }
    /* On a busy machine few calls fit into the span: it goes on until all has come about. */
    for (pnx_ns end = pnx_now() + part->span; pnx_now() < end || !all_seen(part);) {
        /* The span is the test's length, not a wait for anything. */
        struct timespec nap = {.tv_nsec = 10000000};
        nanosleep(&nap, NULL);
    }
    __atomic_store_n(&w.stop, 1, __ATOMIC_RELAXED);
}

/* The loader of refreshes that executors run: as load(), with a state of its own. */
static int load_again(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *into) {
    uint64_t rng = w.f.seed + __atomic_add_fetch(&w.refreshes, 1, __ATOMIC_RELAXED);
    (void)ctx;
    return load(&rng, key, key_size, deadline, into);
}

static void torture_for(pnx_ns span, const struct pnx_cache_opts *opts, bool executor) {
    memset(&w, 0, sizeof(w));
    pthread_mutex_init(&w.lock, NULL);
    snprintf(w.path, sizeof(w.path), "%s", test_path("cache"));
    struct pnx_cache_opts full = *opts;
    if (executor)
        CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.on_full = PNX_EXECUTOR_REJECT,
                                             .registry = pnx_registry_off(),
                                             .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                         NULL, &w.executor),
                0);
    full.capacity_entries = 40;
    full.destroy = destroy;
    full.negative_ttl = 200 * PNX_MS;
    full.curve_samples = 256;
    full.destroy_executor = full.refresh_after ? NULL : w.executor;
    full.executor = full.refresh_after ? w.executor : NULL;
    full.refresh_loader = full.executor ? load_again : NULL;
    fixture_open(&w.f, &full);
    struct part part = {span, full.refresh_after != 0};
    test_threads(THREADS + 1, stop_after, &part);
    CHECK_EQ(stats_of(&w.f).pinned, 0);
    check_invariants(&w.f);
    CHECK_EQ(pnx_cache_close(w.f.cache), 0);
    if (w.executor)
        CHECK_EQ(pnx_executor_drain(w.executor, 20 * PNX_SEC), 0);
    CHECK_EQ(stats_of(&w.f).detached, 0);
    CHECK_EQ(w.alive, 0);
    CHECK(w.dead != NULL);
    fixture_close(&w.f);
    pnx_executor_release(&w.executor);
    for (struct thing *next; w.dead; w.dead = next) {
        next = w.dead->next;
        free(w.dead);
    }
}

static pnx_ns length(void) {
    return (test_long() ? 600 : 10) * PNX_SEC / 5;
}

TEST_LIMIT(p4_torture_with_policies_that_take_no_lock, 400) {
    torture_for(length(), PNX_CACHE_OPTS(.policy = "s3-fifo", .shards = 4), false);
}
TEST_LIMIT(p4_torture_with_exact_lru, 400) {
    torture_for(length(), PNX_CACHE_OPTS(.policy = "lru", .shards = 1), false);
}
TEST_LIMIT(p4_torture_with_an_executor_for_destructors, 400) {
    torture_for(length(), PNX_CACHE_OPTS(.policy = "clock", .shards = 2), true);
}

/* 150 ms pass in some 200 calls. */
#define TIMES \
    .ttl = 3 * PNX_SEC, .ttl_access = 2 * PNX_SEC, .ttl_jitter = 50, .refresh_after = PNX_SEC / 2, \
    .refresh_backoff = PNX_SEC / 4, .stale_if_error = 2 * PNX_SEC
TEST_LIMIT(p4_torture_with_all_times_and_an_executor_for_refreshes, 400) {
    torture_for(length(), PNX_CACHE_OPTS(.policy = "clock", .shards = 2, TIMES), true);
}
TEST_LIMIT(p4_torture_with_all_times_and_refreshes_by_who_asks, 400) {
    torture_for(length(), PNX_CACHE_OPTS(.policy = "lru", TIMES), false);
}
