/* SPDX-License-Identifier: Apache-2.0 */
/* What a cache tells: ages at eviction, the miss-ratio curve, and destructors that an executor runs. */
#include "cache/common.h"

#include "cache/internal.h"
#include "harness/forks.h"

#include <patinox/executor.h>
#include <patinox/reclaim.h>

#include <math.h>
#include <pthread.h>

/* ---- ages ---- */

static uint64_t ages(struct fixture *f, uint64_t age) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < f->cache->n_shards; i++)
        n += f->cache->shards[i].eviction_age.bucket[pnx__histogram_index(age)].v;
    return n;
}

static int find_ages(void *ctx, const char *text, size_t size) {
    char **all = ctx;
    size_t had = *all ? strlen(*all) : 0;
    *all = realloc(*all, had + size + 1);
    memcpy(*all + had, text, size);
    (*all)[had + size] = '\0';
    return 0;
}

TEST(ages_at_eviction_are_counted_in_stores) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    for (uint64_t i = 0; i < 30; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "x", 2, 0), 0);
    CHECK_EQ(ages(&f, 10), 20); /* ten were stored after each that went */
    uint64_t last = 29;
    CHECK_EQ(pnx_cache_remove(f.cache, &last, sizeof(last)), 0);
    CHECK_EQ(pnx_cache_put(f.cache, &last, sizeof(last), "x", 2, PNX_SEC), 0);
    test_env_advance(&f.te, PNX_SEC);
    pnx_cache_tick(f.cache, f.te.now);
    CHECK_EQ(f.cache->shards->eviction_age.sum.v, 200); /* what goes otherwise has no age */
    char *text = NULL;
    CHECK_EQ(pnx_stats_openmetrics(f.stats, find_ages, &text), 0);
    CHECK_CONTAINS(text, "patinox_cache_eviction_age_count{cache=\"cache\",number=\"0\"} 20\n");
    CHECK_CONTAINS(text, "patinox_cache_eviction_age_sum{cache=\"cache\",number=\"0\"} 200\n");
    free(text);
    fixture_close(&f);
}

TEST(ages_of_all_shards_are_told_in_stores_of_the_whole_cache) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4000, .policy = "fifo", .shards = 4));
    for (uint64_t i = 0; i < 20000; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "x", 2, 0), 0);
    uint64_t n = 0, sum = 0;
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t b = 0; b < PNX_HISTOGRAM_BUCKETS; b++)
            n += f.cache->shards[i].eviction_age.bucket[b].v;
        sum += f.cache->shards[i].eviction_age.sum.v;
    }
    CHECK_EQ(n, 16000);
    CHECK_EQ(n, stats_of(&f).removed_size);
    CHECK(sum / n > 3500 && sum / n < 4500);
    fixture_close(&f);
}

/* ---- the curve ---- */

#define ZIPF_KEYS 20000u
static double zipf_sum[ZIPF_KEYS];

static void make_zipf(void) {
    double sum = 0;
    for (uint32_t i = 0; i < ZIPF_KEYS; i++)
        zipf_sum[i] = sum += 1 / pow(i + 1, 0.9);
}
static uint64_t zipf(uint64_t *rng) {
    double x = (double)(test_random(rng) >> 11) * 0x1p-53 * zipf_sum[ZIPF_KEYS - 1];
    uint32_t low = 0, high = ZIPF_KEYS - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (zipf_sum[middle] < x)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Asks for zipfian keys, and puts what is not there.  Returns the ratio of hits. */
static double drive(struct fixture *f, uint64_t seed, unsigned requests) {
    struct pnx_cache_stats before = stats_of(f), after;
    uint64_t value = 7;
    for (unsigned i = 0; i < requests; i++) {
        uint64_t key = zipf(&seed);
        if (pnx_cache_get_copy(f->cache, &key, sizeof(key), &value, sizeof(value), NULL) != 0)
            CHECK_EQ(pnx_cache_put(f->cache, &key, sizeof(key), &value, sizeof(value), 0), 0);
    }
    after = stats_of(f);
    return (double)(after.hits - before.hits) / requests;
}

#define SIZES 5
static const double sizes[SIZES] = {0.25, 0.5, 1, 2, 4};

static void really_hit(unsigned requests, double *ret_ratios) {
    for (int i = 0; i < SIZES; i++) {
        struct fixture f;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = (uint64_t)(1000 * sizes[i])));
        ret_ratios[i] = drive(&f, 12345, requests);
        fixture_close(&f);
    }
}

/* The mean error in all sizes of the estimate, where the cache hashes under the given seed. */
static double error_of(uint64_t hash_seed, uint32_t samples, bool by_bytes, unsigned requests,
        const double *real) {
    double told[SIZES], sum = 0;
    struct fixture f;
    fixture_worlds(&f);
    f.te.random_state = hash_seed;
    const struct pnx_cache_opts full =
            fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = by_bytes ? 0 : 1000,
                                     .capacity = by_bytes ? 1000 * pnx_cache_cost(8, 8) : 0,
                                     .curve_samples = samples));
    CHECK_EQ(pnx_cache_create(&full, &f.err, &f.cache), 0);
    CHECK_EQ(pnx_cache_curve(f.cache, sizes, SIZES, told), -EAGAIN);
    drive(&f, 12345, requests);
    CHECK_EQ(pnx_cache_curve(f.cache, sizes, SIZES, told), 0);
    for (int i = 0; i < SIZES; i++) {
        CHECK(i == 0 || told[i] >= told[i - 1]);
        sum += fabs(told[i] - real[i]);
    }
    fixture_close(&f);
    return sum / SIZES;
}

/* Which keys are followed is chance: a mean over several seeds, the same ones each time. */
static double mean_error(uint32_t samples, bool by_bytes, unsigned seeds) {
    unsigned requests = test_slow() ? 60000 : 400000;
    double real[SIZES], sum = 0;
    make_zipf();
    really_hit(requests, real);
    for (uint64_t seed = 1; seed <= seeds; seed++)
        sum += error_of(seed, samples, by_bytes, requests, real);
    return sum / seeds;
}

TEST_LIMIT(the_curve_of_all_keys_is_what_lru_caches_of_other_sizes_hit, 120) {
    double error = mean_error(32768, false, 1);
    CHECK_MSG(error < 0.01, "%g", error);
    error = mean_error(32768, true, 1);
    CHECK_MSG(error < 0.01, "%g", error);
}

TEST_LIMIT(the_curve_of_a_sample_is_near_it, 120) {
    double error = mean_error(2048, false, 8);
    CHECK_MSG(error < 0.03, "2048 samples: %g", error);
    error = mean_error(8192, false, 8);
    CHECK_MSG(error < 0.015, "8192 samples: %g", error);
}

/* What is told of keys of which none comes twice, where the cache hashes under the given seed. */
static double told_of_new_keys(uint64_t hash_seed) {
    struct fixture f;
    double one = 1, ratio;
    fixture_worlds(&f);
    f.te.random_state = hash_seed;
    const struct pnx_cache_opts full =
            fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .curve_samples = 1024));
    CHECK_EQ(pnx_cache_create(&full, &f.err, &f.cache), 0);
    struct pnx_cache_ref ref = {0};
    for (uint64_t i = 0; i < 100000; i++)
        CHECK_EQ(pnx_cache_get(f.cache, &i, sizeof(i), &ref), -ENOENT);
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, &ratio), 0);
    fixture_close(&f);
    return ratio;
}

/* How many of 1024 samples there are is chance, too: a thirtieth more or less is usual, of which less is taken for hits. */
TEST(the_curve_of_keys_that_come_once_is_near_none) {
    double sum = 0;
    for (uint64_t seed = 1; seed <= 16; seed++)
        sum += told_of_new_keys(seed);
    CHECK_MSG(sum / 16 < 0.03, "%g", sum / 16);
}

TEST(what_is_refused_is_no_request_to_the_curve) {
    struct fixture f;
    double one = 1, ratio = 0;
    uint64_t value;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .key_bytes = 8, .value_bytes = 8,
                             .curve_samples = 1024));
    for (uint64_t key = 0; key < 40; key++) {
        CHECK_EQ(pnx_cache_put(f.cache, &(uint64_t){key % 10}, 8, &key, 8, 0), 0);
        CHECK_EQ(pnx_cache_get_copy(f.cache, &(uint64_t){key % 10}, 8, &value, 8, NULL), 0);
    }
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, &ratio), 0);
    CHECK(ratio == 0.75); /* the first of each key would have missed */
    for (uint64_t key = 0; key < 100; key++) {
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 4, &value, 8, NULL), -EINVAL);
        CHECK_EQ(pnx_cache_get_copy(f.cache, NULL, 0, &value, 8, NULL), -EINVAL);
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, &value, 4, NULL), -ERANGE);
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, NULL, 0, NULL), -ERANGE);
    }
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, &ratio), 0);
    CHECK(ratio == 0.75);
    fixture_close(&f);
}

struct curve_use {
    struct pnx_cache *cache;
    pid_t parent;
};

/* Looks up keys that the curve follows. */
static int use_a_curve(void *ctx) {
    const struct curve_use *use = ctx;
    int expected = getpid() == use->parent ? -ENOENT : -ESHUTDOWN;
    uint64_t value;
    for (uint64_t key = 0; key < 50; key++) {
        if (pnx_cache_get_copy(use->cache, &key, 8, &value, 8, NULL) != expected)
            return 1;
    }
    return 0;
}

TEST(a_forked_child_does_not_wait_for_the_curve) {
    for (uint32_t fixed = 0; fixed <= 8; fixed += 8) {
        struct fixture f;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .curve_samples = 256,
                                 .key_bytes = fixed, .value_bytes = fixed));
        struct curve_use use = {f.cache, getpid()};
        test_forks_beside("a curve", use_a_curve, &use);
        fixture_close(&f);
    }
}

TEST(the_curve_takes_a_fixed_memory_and_none_when_it_is_off) {
    struct fixture f;
    double one = 1, ratio;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    int64_t off = f.te.live_bytes;
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, &ratio), -ENOTSUP);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100, .curve_samples = 1024));
    int64_t on = f.te.live_bytes;
    CHECK(on - off <= 44 * 1024 + 8192);
    struct pnx_cache_ref ref = {0};
    for (uint64_t i = 0; i < 100000; i++)
        CHECK_EQ(pnx_cache_get(f.cache, &i, sizeof(i), &ref), -ENOENT);
    CHECK_EQ(f.te.live_bytes, on);
    CHECK_EQ(pnx_cache_put(f.cache, "x", 1, "x", 1, 0), 0);
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, &ratio), 0);
    double bad = 0;
    CHECK_EQ(pnx_cache_curve(f.cache, &bad, 1, &ratio), -EINVAL);
    bad = NAN;
    CHECK_EQ(pnx_cache_curve(f.cache, &bad, 1, &ratio), -EINVAL);
    CHECK_EQ(pnx_cache_curve(f.cache, NULL, 1, &ratio), -EINVAL);
    CHECK_EQ(pnx_cache_curve(f.cache, &one, 1, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_curve(NULL, &one, 1, &ratio), -EINVAL);
    fixture_close(&f);
}

static void ask(unsigned index, void *ctx) {
    struct fixture *f = ctx;
    uint64_t rng = index;
    for (int i = 0; i < (test_slow() ? 20000 : 50000); i++) {
        uint64_t key = test_random(&rng) % 3000;
        struct pnx_cache_ref ref = {0};
        if (pnx_cache_get(f->cache, &key, sizeof(key), &ref) != 0)
            CHECK_EQ(pnx_cache_put(f->cache, &key, sizeof(key), "x", 2, 0), 0);
        pnx_cache_ref_release(&ref);
        double one = 1, ratio;
        if (i % 1000 == 0) {
            int rc = pnx_cache_curve(f->cache, &one, 1, &ratio);
            CHECK(rc == 0 || rc == -EAGAIN);
        }
    }
}

TEST_LIMIT(the_curve_is_drawn_beside_threads_that_look_up, 120) {
    struct fixture f;
    const double two[] = {0.5, 10};
    double told[2];
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000, .curve_samples = 256,
                             .policy = "s3-fifo", .shards = 4));
    test_threads(4, ask, &f);
    CHECK_EQ(pnx_cache_curve(f.cache, two, 2, told), 0);
    /* All keys alike: a sixth of them.  Some 190 of the 3000 are followed, give or take 14 (by the cache's seed), and each of
     * those 7 % that is missing shows as a hit: more than four such steps are a fault. */
    CHECK_MSG(told[0] < 0.5, "%f", told[0]);
    CHECK(told[1] > 0.85);
    fixture_close(&f);
}

/* ---- destructors that an executor runs ---- */

static struct heard {
    pthread_t thread;
    int n;
    uint64_t keys[4000];
    enum pnx_cache_cause causes[4000];
} heard; /* the worker's until the executor is closed */

static void hear(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    heard.thread = pthread_self();
    memcpy(&heard.keys[heard.n], removed->key, sizeof(uint64_t));
    heard.causes[heard.n++] = removed->cause;
}

static struct pnx_executor *make_executor(uint32_t flags) {
    struct pnx_executor *executor = NULL;
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.flags = flags, .registry = pnx_registry_off(),
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                     NULL, &executor),
            0);
    return executor;
}

TEST(an_executor_runs_destructors_in_order_on_its_thread) {
    struct fixture f;
    heard.n = 0;
    struct pnx_executor *executor = make_executor(0);
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 100, .destroy = hear, .destroy_executor = executor));
    for (uint64_t i = 0; i < 600; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "x", 2, 0), 0);
    CHECK_EQ(pnx_executor_drain(executor, 20 * PNX_SEC), 0);
    CHECK_EQ(heard.n, 500);
    CHECK(!pthread_equal(heard.thread, pthread_self()));
    for (uint64_t i = 0; i < 500; i++) {
        CHECK_EQ(heard.keys[i], i);
        CHECK_EQ(heard.causes[i], PNX_CACHE_SIZE);
    }
    CHECK_EQ(stats_of(&f).deferred, 500);
    CHECK_EQ(stats_of(&f).detached, 0);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_executor_drain(executor, 20 * PNX_SEC), 0);
    CHECK_EQ(heard.n, 600);
    CHECK_EQ(heard.causes[599], PNX_CACHE_CLOSED);
    fixture_close(&f);
    pnx_executor_release(&executor);
}

TEST(values_that_wait_for_the_executor_are_charged_and_bounded_and_outlive_the_cache) {
    struct fixture f;
    heard.n = 0;
    struct pnx_executor *executor = make_executor(PNX_EXECUTOR_TICK);
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 1, .destroy = hear, .destroy_executor = executor));
    for (uint64_t i = 0; i < 1001; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "x", 2, 0), 0);
    CHECK_EQ(heard.n, 0);
    CHECK_EQ(stats_of(&f).detached, 1000 * pnx_cache_cost(8, 2));
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(f.budget, &stats), 0);
    CHECK(stats.used >= 1001 * pnx_cache_cost(8, 2));
    for (uint64_t i = 2000; i < 2100; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "x", 2, 0), 0);
    CHECK_EQ(heard.n, 1100 - PNX_CACHE_DEFERRED_MAX); /* the others at once */
    check_invariants(&f);
    pnx_cache_release(&f.cache);
    pnx_executor_tick(executor, pnx_now());
    CHECK_EQ(heard.n, 1101);
    fixture_drop(&f);
    pnx_executor_release(&executor);
}

TEST(an_executor_that_is_closed_or_refuses_leaves_no_value_behind) {
    struct fixture f;
    heard.n = 0;
    struct pnx_executor *executor = make_executor(PNX_EXECUTOR_TICK);
    fixture_open(&f,
            PNX_CACHE_OPTS(.capacity_entries = 1, .destroy = hear, .destroy_executor = executor));
    for (uint64_t i = 0; i < 11; i++)
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "x", 2, 0), 0);
    CHECK_EQ(heard.n, 0);
    (void)pnx_executor_close(executor, 0, NULL); /* cancels the job, or runs it */
    CHECK_EQ(heard.n, 10);
    uint64_t key = 77;
    CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), "x", 2, 0), 0);
    CHECK_EQ(heard.n, 11); /* refused: at once */
    fixture_close(&f);
    CHECK_EQ(heard.n, 12);
    pnx_executor_release(&executor);
}

/* A listener that meddles with the key that it is told of. */
static int told_of;
static void remove_or_put_again(void *ctx, const struct pnx_cache_removed *removed) {
    struct fixture *f = *(struct fixture **)ctx;
    if (removed->cause == PNX_CACHE_CLOSED || told_of++ > 20)
        return;
    if (told_of % 2)
        (void)pnx_cache_remove(f->cache, removed->key, removed->key_size);
    else
        CHECK_EQ(pnx_cache_put(f->cache, removed->key, removed->key_size, "again", 6, 0), 0);
}

TEST(p5_a_listener_may_remove_its_own_key_and_put_it_again) {
    for (int deferred = 0; deferred < 2; deferred++) {
        static struct fixture *self;
        struct fixture f;
        struct pnx_executor *executor = deferred ? make_executor(PNX_EXECUTOR_TICK) : NULL;
        self = &f;
        told_of = 0;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 3, .destroy = remove_or_put_again,
                                 .ctx = &self, .destroy_executor = executor));
        for (int i = 0; i < 8; i++) {
            put_text(&f, "k", "value", 0);
            (void)pnx_cache_remove(f.cache, "k", 1);
            if (executor)
                pnx_executor_tick(executor, pnx_now());
        }
        CHECK(told_of > 8);
        CHECK_EQ(pnx_cache_close(f.cache), 0);
        if (executor)
            CHECK_EQ(pnx_executor_drain(executor, 20 * PNX_SEC), 0); /* what waits is charged */
        fixture_close(&f);
        pnx_executor_release(&executor);
    }
}
