/* SPDX-License-Identifier: Apache-2.0 */
/* Weights beside threads, forks, and weighers that use the cache or do not return: P1, P5, P20. */
#include "cache/common.h"

#include <patinox/reclaim.h>

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS  6u
#define KEYS     128u
#define CAPACITY UINT64_C(1000)

/* Values say what they weigh; weights are from 0 to more than the capacity, most of them small. */
static struct world {
    struct fixture f;
    uint64_t weighed; /* with __atomic */
    uint64_t inside;  /* the same: calls that weighers have made */
    int running;      /* the same: threads that are not done */
    unsigned steps;
    bool reenters;
    char path[300];
} w;

static int load_weight(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    const uint64_t *weight = ctx;
    (void)key, (void)key_size, (void)deadline;
    return *weight % 13 == 0 ? -ENOENT : pnx_cache_load_set(load, weight, sizeof(*weight));
}

static int set_weight(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    (void)now;
    return pnx_cache_change_set(change, ctx, sizeof(uint64_t));
}

/* What a weigher may do on its way: anything, with any key, its own included. */
static void use_the_cache(uint64_t weight) {
    static __thread int depth;
    uint64_t key = weight * 31 % KEYS, other = weight % 7;
    struct pnx_cache_ref ref = {0};
    int rc = 0;
    if (depth > 0)
        return;
    depth++;
    switch (weight % 5) {
    case 0:
        rc = pnx_cache_get_or_load(
                w.f.cache, &key, sizeof(key), load_weight, &other, PNX_NEVER, NULL, &ref);
        break;
    case 1:
        rc = pnx_cache_put(w.f.cache, &key, sizeof(key), &other, sizeof(other), 0);
        break;
    case 2:
        rc = pnx_cache_remove(w.f.cache, &key, sizeof(key));
        break;
    case 3:
        rc = pnx_cache_compute(w.f.cache, &key, sizeof(key), set_weight, &other, NULL);
        break;
    default:
        rc = pnx_cache_get(w.f.cache, &key, sizeof(key), &ref);
        break;
    }
    pnx_cache_ref_release(&ref);
    CHECK_MSG(rc == 0 || rc == -ENOENT || rc == -EDEADLK || rc == -EAGAIN, "%s", pnx_errname(rc));
    __atomic_add_fetch(&w.inside, 1, __ATOMIC_RELAXED);
    depth--;
}

static uint64_t weigh(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    uint64_t weight = 2;
    (void)ctx, (void)key;
    CHECK_EQ(key_size, sizeof(uint64_t));
    if (value) {
        CHECK_EQ(value_size, sizeof(weight));
        memcpy(&weight, value, sizeof(weight));
    }
    __atomic_add_fetch(&w.weighed, 1, __ATOMIC_RELAXED);
    if (w.reenters)
        use_the_cache(weight);
    return weight;
}

static uint64_t random_weight(uint64_t r) {
    uint64_t part = r % 32;
    return part == 0   ? CAPACITY
           : part == 1 ? CAPACITY + 1
           : part < 4  ? r / 32 % CAPACITY
                       : r / 32 % 40;
}

/* One call that stores, or takes away. */
static void change_one(uint64_t *rng) {
    uint64_t r = test_random(rng), key = r % KEYS, weight = random_weight(test_random(rng));
    struct pnx_cache_reservation reservation = {0};
    struct pnx_cache_ref ref = {0};
    int rc = 0;
    switch (r >> 32 & 7) {
    case 0:
        rc = pnx_cache_put_if_absent(w.f.cache, &key, sizeof(key), &weight, sizeof(weight), 0);
        break;
    case 1:
        rc = pnx_cache_reserve(w.f.cache, &key, sizeof(key), sizeof(weight), &reservation);
        if (rc)
            break;
        memcpy(reservation.data, &weight, sizeof(weight));
        rc = pnx_cache_commit(&reservation, sizeof(weight), 0);
        break;
    case 2:
        rc = pnx_cache_compute(w.f.cache, &key, sizeof(key), set_weight, &weight, NULL);
        break;
    case 3:
        rc = pnx_cache_get_or_load(
                w.f.cache, &key, sizeof(key), load_weight, &weight, PNX_NEVER, NULL, &ref);
        pnx_cache_ref_release(&ref);
        break;
    case 4:
        rc = pnx_cache_remove(w.f.cache, &key, sizeof(key));
        break;
    default:
        rc = pnx_cache_put(w.f.cache, &key, sizeof(key), &weight, sizeof(weight), 0);
        break;
    }
    CHECK_MSG(rc == 0 || rc == -ENOENT || rc == -EEXIST || rc == -EFBIG || rc == -ENOMEM ||
                      (w.reenters && (rc == -EAGAIN || rc == -EDEADLK)),
            "%s", pnx_errname(rc));
    if (rc == -EFBIG)
        CHECK(weight > CAPACITY || w.reenters);
}

static int add_weight(void *ctx, const struct pnx_cache_ref *ref) {
    uint64_t weight;
    memcpy(&weight, pnx_cache_ref_data(ref), sizeof(weight));
    *(uint64_t *)ctx += weight ? weight : 1;
    return 0;
}

/* Nobody is in a call any more: the sum is that of what is there (absences, of 2 each, aside). */
static void check_sum(void) {
    uint64_t sum = 0;
    check_invariants(&w.f);
    CHECK_EQ(pnx_cache_each(w.f.cache, add_weight, &sum), 0);
    struct pnx_cache_stats stats = stats_of(&w.f);
    CHECK(stats.weight >= sum);
    CHECK_EQ((stats.weight - sum) % 2, 0);
    CHECK_EQ(pnx_cache_clear(w.f.cache), 0);
    stats = stats_of(&w.f);
    CHECK_EQ(stats.weight, 0);
    CHECK_EQ(stats.entries, 0);
    CHECK_EQ(stats.bytes, 0);
    CHECK_EQ(stats.pinned, 0);
}

/* The last thread looks all the time, the others change. */
static void change_or_watch(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed * 31 + index, looks = 0;
    (void)ctx;
    if (index < THREADS) {
        for (unsigned i = 0; i < w.steps; i++)
            change_one(&rng);
        __atomic_sub_fetch(&w.running, 1, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&w.running, __ATOMIC_ACQUIRE) > 0) {
        struct pnx_cache_stats stats = stats_of(&w.f);
        CHECK_MSG(stats.weight <= CAPACITY, "%llu weighs more than the capacity",
                (unsigned long long)stats.weight);
        if (stats.capacity)
            CHECK(stats.bytes <= stats.capacity);
        if (stats.capacity_entries)
            CHECK(stats.entries <= stats.capacity_entries);
        if (looks++ % 16 == 0)
            check_invariants(&w.f);
    }
    CHECK(looks > 0);
}

static void stress(
        const char *policy, uint32_t shards, size_t capacity, uint64_t entries, bool reenters) {
    memset(&w, 0, sizeof(w));
    w.running = THREADS;
    w.steps = test_slow() ? 1500 : 15000;
    w.reenters = reenters;
    fixture_open(&w.f, PNX_CACHE_OPTS(.capacity_weight = CAPACITY, .capacity = capacity,
                               .capacity_entries = entries, .weigher = weigh, .policy = policy,
                               .shards = shards, .negative_ttl = PNX_SEC));
    test_threads(THREADS + 1, change_or_watch, NULL);
    CHECK(stats_of(&w.f).removed_size > 0);
    CHECK(!reenters || w.inside > 0);
    check_sum();
    fixture_close(&w.f);
}

TEST_LIMIT(p1_threads_never_exceed_the_weight_under_lru, 120) {
    stress("lru", 1, 0, 0, false);
}
TEST_LIMIT(p1_nor_where_there_are_shards, 120) {
    stress("s3-fifo", 4, 0, 0, false);
}
TEST_LIMIT(p1_nor_under_the_default_policy, 120) {
    stress("auto", 8, 0, 0, false);
}
TEST_LIMIT(p1_nor_where_bytes_and_entries_are_bounds_too, 120) {
    stress("clock", 4, 20 * pnx_cache_cost(8, 8), 17, false);
}
TEST_LIMIT(p5_weighers_of_threads_use_the_cache_and_none_waits_for_ever, 120) {
    stress("s3-fifo", 4, 0, 0, true);
    stress("lru", 1, 0, 0, true);
}

/* ---- everything at once ---- */

static void rare(uint64_t what, uint64_t r) {
    if (what == 0)
        CHECK_EQ(pnx_cache_clear(w.f.cache), 0);
    if (what == 1)
        CHECK_EQ(pnx_cache_resize_weight(w.f.cache, CAPACITY + r % CAPACITY, NULL), 0);
    if (what == 2)
        CHECK_EQ(pnx_cache_resize(
                         w.f.cache, r % 2 ? 0 : 2048 + r % 8192, r % 3 ? 0 : 5 + r % 40, NULL),
                0);
    if (what == 3)
        pnx_budget_reclaim(w.f.budget, r % 4000);
    if (what == 4)
        check_invariants(&w.f);
    if (what == 5 && r % 32 == 0) {
        int rc = pnx_cache_save(w.f.cache, w.path, NULL, NULL, NULL);
#ifdef _WIN32
        CHECK(rc == 0 || rc == -EACCES); /* another thread is putting its file there */
#else
        CHECK_EQ(rc, 0);
#endif
    }
    if (what == 6 && r % 32 == 0) {
        int rc = pnx_cache_load_file(w.f.cache, w.path, NULL, NULL, NULL);
        CHECK(rc == 0 || rc == -ENOENT || rc == -EACCES);
    }
}

static void torture(unsigned index, void *ctx) {
    uint64_t rng = w.f.seed * 37 + index;
    (void)ctx;
    for (unsigned i = 0; i < w.steps; i++) {
        uint64_t what = test_random(&rng) % 100;
        if (what < 93)
            change_one(&rng);
        else
            rare(what - 93, test_random(&rng));
        /* Whatever the limit is at the moment, it is less than this. */
        CHECK(stats_of(&w.f).weight <= 2 * CAPACITY);
    }
}

TEST_LIMIT(p1_resizes_reclaims_and_loads_beside_threads_keep_the_sums, 120) {
    memset(&w, 0, sizeof(w));
    w.steps = test_slow() ? 1500 : 10000;
    w.reenters = true; /* what is too heavy depends on the moment */
    snprintf(w.path, sizeof(w.path), "%s", test_path("cache"));
    fixture_open(&w.f, PNX_CACHE_OPTS(.capacity_weight = CAPACITY, .weigher = weigh,
                               .policy = "s3-fifo", .shards = 4));
    test_threads(THREADS, torture, NULL);
    check_sum();
    fixture_close(&w.f);
}

/* ---- forks ---- */

static struct forked {
    struct fixture f;
    pid_t child;
    bool forks;
} forked;

static uint64_t weigh_and_fork(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    (void)ctx, (void)key, (void)key_size, (void)value, (void)value_size;
    if (forked.forks) {
        forked.forks = false;
        forked.child = fork();
        CHECK(forked.child >= 0);
    }
    return 1;
}

static void destroy_in_the_parent(void *ctx, const struct pnx_cache_removed *removed) {
    (void)removed;
    if (getpid() != *(const pid_t *)ctx)
        _exit(3);
}

static int load_text(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    return ctx ? pnx_cache_load_set(load, ctx, 4) : -ENOENT;
}

static int keep_load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    *(struct pnx_cache_load **)ctx = load;
    return -EINPROGRESS;
}

static int set_text(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    (void)now;
    return pnx_cache_change_set(change, ctx, 4);
}

static void done(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    (void)err;
    CHECK_EQ(code, 0);
    *(int *)request->arg = 1;
    pnx_cache_ref_release(&ref);
}

/* The calls that store; their weigher forks. */
enum { PUT, COMMIT, COMPUTE, LOAD, ABSENCE, REQUEST, FINISH, LOAD_FILE, N_WAYS };

static int store_somehow(int how, const char *path, struct pnx_cache_request *request) {
    struct pnx_cache *cache = forked.f.cache;
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_reservation reservation = {0};
    struct pnx_cache_load *kept = NULL;
    char text[] = "new";
    int rc = 0;
    if (how == COMMIT) {
        CHECK_EQ(pnx_cache_reserve(cache, "k", 1, 4, &reservation), 0);
        memcpy(reservation.data, text, 4);
    }
    if (how == FINISH) {
        CHECK_EQ(pnx_cache_get_async(cache, "k", 1, keep_load, &kept, PNX_NEVER, request), 0);
        CHECK_EQ(pnx_cache_load_set(kept, text, 4), 0);
    }
    forked.forks = true;
    switch (how) {
    case PUT:
        return pnx_cache_put(cache, "k", 1, text, 4, 0);
    case COMMIT:
        return pnx_cache_commit(&reservation, 4, 0);
    case COMPUTE:
        return pnx_cache_compute(cache, "k", 1, set_text, text, NULL);
    case LOAD:
        rc = pnx_cache_get_or_load(cache, "k", 1, load_text, text, PNX_NEVER, NULL, &ref);
        pnx_cache_ref_release(&ref);
        return rc;
    case ABSENCE:
        rc = pnx_cache_get_or_load(cache, "k", 1, load_text, NULL, PNX_NEVER, NULL, &ref);
        return rc == -ENOENT ? 0 : rc;
    case REQUEST:
        rc = pnx_cache_get_async(cache, "k", 1, load_text, text, PNX_NEVER, request);
        return rc == 0 && forked.child == 0 && *(int *)request->arg == 0 ? -ESHUTDOWN : rc;
    case FINISH:
        return pnx_cache_load_finish(kept, 0);
    default:
        return pnx_cache_load_file(cache, path, NULL, NULL, NULL);
    }
}

TEST(p20_a_weigher_that_forks_stores_in_the_parent_only) {
    pid_t self = getpid();
    char path[300];
    snprintf(path, sizeof(path), "%s", test_path("cache"));
    for (int how = 0; how < N_WAYS; how++) {
        int told = 0, status = -1;
        struct pnx_cache_request request = {.done = done, .arg = &told};
        forked.forks = false;
        forked.child = -1;
        fixture_open(&forked.f,
                PNX_CACHE_OPTS(.capacity_weight = 4, .weigher = weigh_and_fork,
                        .destroy = destroy_in_the_parent, .ctx = &self, .negative_ttl = PNX_SEC));
        if (how == LOAD_FILE) {
            CHECK_EQ(pnx_cache_put(forked.f.cache, "k", 1, "new", 4, 0), 0);
            CHECK_EQ(pnx_cache_save(forked.f.cache, path, NULL, NULL, NULL), 0);
            CHECK_EQ(pnx_cache_clear(forked.f.cache), 0);
        }
        int rc = store_somehow(how, path, &request);
        if (forked.child == 0)
            _exit(rc == -ESHUTDOWN ? 0 : 1);
        CHECK_EQ(rc, 0);
        CHECK_EQ(waitpid(forked.child, &status, 0), forked.child);
        CHECK_MSG(status == 0, "way %d: the child ended with %d", how, status);
        CHECK_EQ(told, how == REQUEST || how == FINISH);
        CHECK_EQ(stats_of(&forked.f).weight, 1);
        CHECK_EQ(stats_of(&forked.f).loading, 0);
        fixture_close(&forked.f);
    }
}

/* ---- one that does not return ---- */

static uint64_t vanish(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    (void)ctx, (void)key, (void)key_size, (void)value, (void)value_size;
    pthread_exit(NULL); /* unwinds through the library, as a C++ exception would */
}

static void *put_and_vanish(void *arg) {
    struct fixture *f = arg;
    int rc = pnx_cache_put(f->cache, "k", 1, "v", 2, 0);
    CHECK_MSG(false, "returned %s", pnx_errname(rc));
    return NULL;
}

static void lose_a_writer(void *ctx) {
    struct fixture f;
    pthread_t thread;
    (void)ctx;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_weight = 4, .weigher = vanish));
    CHECK_EQ(pthread_create(&thread, NULL, put_and_vanish, &f), 0);
    pthread_join(thread, NULL);
}

TEST(p5_a_weigher_that_does_not_return_aborts) {
    CHECK_EQ(test_apart(lose_a_writer, NULL), -SIGABRT);
}
