/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads hit as often as one, and memory is what is accounted: keys by Zipf's law.
 */
#include "cache/common.h"

#include <patinox/reclaim.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 8u
#define KEYS    200000u
#define ENTRIES 5000u
#define ASKED   100000u /* by each of the threads */

/* Key i is asked for in proportion to 1 / (i + 1): sums of that, to be searched. */
static double *zipf_make(void) {
    double *sums = malloc(KEYS * sizeof(*sums)), sum = 0;
    CHECK(sums);
    for (uint32_t i = 0; i < KEYS; i++)
        sums[i] = sum += 1.0 / (i + 1);
    return sums;
}

static uint32_t zipf_next(const double *sums, uint64_t *random) {
    double at = (double)(test_random(random) >> 11) / 9007199254740992.0 * sums[KEYS - 1];
    uint32_t low = 0, high = KEYS - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (sums[middle] < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct run {
    struct pnx_cache *cache;
    const uint32_t *keys; /* ASKED for each thread, one thread's after the other's */
    uint64_t hits;        /* with __atomic */
};

static uint64_t ask(struct pnx_cache *cache, uint64_t key) {
    uint64_t value;
    if (pnx_cache_get_copy(cache, &key, 8, &value, 8, NULL) == 0) {
        CHECK_EQ(value, ~key);
        return 1;
    }
    value = ~key;
    CHECK_EQ(pnx_cache_put(cache, &key, 8, &value, 8, 0), 0);
    return 0;
}

static void ask_all(unsigned index, void *ctx) {
    struct run *run = ctx;
    uint64_t hits = 0;
    for (uint32_t i = 0; i < ASKED; i++)
        hits += ask(run->cache, run->keys[index * ASKED + i]);
    __atomic_fetch_add(&run->hits, hits, __ATOMIC_RELAXED);
}

/* The same requests in one thread, as if all others were as fast. */
static void ask_in_turn(struct run *run) {
    for (uint32_t i = 0; i < ASKED; i++)
        for (uint32_t t = 0; t < THREADS; t++)
            run->hits += ask(run->cache, run->keys[t * ASKED + i]);
}

/* The same seed for all caches: what AUTO's shadows see depends on it, and a mode chosen later is some tenths of a point. */
static uint64_t same_random(void *ctx) {
    (void)ctx;
    return UINT64_C(0x9E3779B97F4A7C15);
}

static double hits_of(const char *policy, bool fixed, bool threads, const uint32_t *keys) {
    struct run run = {.keys = keys};
    const struct pnx_env env = {.size = sizeof(env), .random = same_random};
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.env = &env, .capacity_entries = ENTRIES,
                                      .policy = policy, .shards = 8, .key_bytes = fixed ? 8 : 0,
                                      .value_bytes = fixed ? 8 : 0, .stats = pnx_stats_off(),
                                      .registry = pnx_registry_off(), .budget = pnx_budget_off()),
                     NULL, &run.cache),
            0);
    if (threads)
        test_threads(THREADS, ask_all, &run);
    else
        ask_in_turn(&run);
    struct pnx_error err;
    CHECK_MSG(pnx_cache_check(run.cache, &err) == 0, "%s", err.message);
    pnx_cache_release(&run.cache);
    return 100.0 * (double)run.hits / ((double)ASKED * THREADS);
}

TEST_LIMIT(eight_threads_hit_as_often_as_one, 300) {
    double *sums = zipf_make();
    uint64_t random = test_seed();
    uint32_t *keys = malloc(sizeof(*keys) * ASKED * THREADS);
    CHECK(keys);
    for (uint32_t i = 0; i < ASKED * THREADS; i++)
        keys[i] = zipf_next(sums, &random);
    static const char *const policies[] = {"auto", "s3-fifo", "clock", "lru"};
    for (uint32_t i = 0; i < 2 * sizeof(policies) / sizeof(policies[0]); i++) {
        if (test_slow() && i != 1 && i != 2)
            continue; /* auto of fixed sizes, and s3-fifo of entries; with fewer requests chance would decide */
        const char *policy = policies[i / 2];
        double one = hits_of(policy, i % 2, false, keys);
        double many = hits_of(policy, i % 2, true, keys);
        CHECK_MSG(many >= one - 0.3, "%s%s: %.2f %% by eight threads, %.2f by one", policy,
                i % 2 ? ", fixed sizes" : "", many, one);
    }
    free(keys);
    free(sums);
}

/* ---- memory ---- */

static uint64_t resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long all, resident = 0;
    if (!file)
        return 0;
    if (fscanf(file, "%lu %lu", &all, &resident) != 2)
        resident = 0;
    fclose(file);
    return (uint64_t)resident * 4096;
}

/* Puts twice what there is room for, and compares what the process got with what the cache says that it holds. */
static void check_resident(size_t value_size, bool fixed) {
    enum { CAPACITY = 48 << 20, LIMBO = 512 << 10 };
    struct pnx_cache *cache;
    static char value[1000];
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity = CAPACITY, .key_bytes = fixed ? 8 : 0,
                                      .value_bytes = fixed ? (uint32_t)value_size : 0,
                                      .stats = pnx_stats_off(), .registry = pnx_registry_off(),
                                      .budget = pnx_budget_off()),
                     NULL, &cache),
            0);
    uint64_t before = resident_bytes(),
             cost = fixed ? pnx_cache_cost_fixed(8, value_size) : pnx_cache_cost(8, value_size);
    for (uint64_t key = 0; key < 2 * CAPACITY / cost; key++)
        CHECK_EQ(pnx_cache_put(cache, &key, 8, value, value_size, 0), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    uint64_t grown = resident_bytes() - before;
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cache_read_stats(cache, &stats), 0);
    CHECK(stats.bytes <= CAPACITY && stats.bytes > CAPACITY / 10 * 9);
    CHECK_MSG((double)grown <= 1.1 * (double)stats.bytes + LIMBO,
            "%zu bytes%s: %llu resident, %llu accounted", value_size, fixed ? ", fixed" : "",
            (unsigned long long)grown, (unsigned long long)stats.bytes);
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
}

TEST_LIMIT(resident_memory_is_what_is_accounted_and_a_tenth_more_at_most, 300) {
    if (test_slow() || resident_bytes() == 0)
        test_skip("a sanitizer has memory of its own, or there is no /proc/self/statm");
    check_resident(8, true);
    check_resident(100, true);
    check_resident(8, false);
    check_resident(100, false);
    check_resident(1000, false);
}
