/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed_lookups.c - lookups of fixed sizes for which there is code of their own do as those of all others. */
#include "cache/fixed_bytes.h"
#include "cache/internal.h"

#include <pthread.h>
#include <unistd.h>

/* Caches of the sizes for which lookups have code of their own, and of others. */
static const uint32_t key_sizes[] = {4, 5, 8, 16, 24, 32};
static const uint32_t value_sizes[] = {8, 24};
enum { SHAPES = 12 };

struct shapes {
    struct fixture f;
    struct pnx_cache *cache[SHAPES];
    pthread_barrier_t all;
};

static uint32_t key_size_of(size_t shape) {
    return key_sizes[shape / 2];
}

static uint32_t value_size_of(size_t shape) {
    return value_sizes[shape % 2];
}

static int put_shape(struct pnx_cache *cache, size_t shape, uint64_t n, pnx_ns ttl) {
    unsigned char key[KEY_MOST], value[VALUE_MOST];
    bytes_of(n, key_size_of(shape), key);
    bytes_of(n + 1, value_size_of(shape), value);
    return pnx_cache_put(cache, key, key_size_of(shape), value, value_size_of(shape), ttl);
}

/* Looks up twice: with and without asking for the size. */
static int get_shape(struct pnx_cache *cache, size_t shape, uint64_t n) {
    unsigned char key[KEY_MOST], expected[VALUE_MOST], value[2][VALUE_MOST];
    size_t size = 77, value_size = value_size_of(shape);
    bytes_of(n, key_size_of(shape), key);
    bytes_of(n + 1, value_size, expected);
    memset(value, 0x5a, sizeof(value));
    int rc = pnx_cache_get_copy(cache, key, key_size_of(shape), value[0], VALUE_MOST, &size);
    CHECK_EQ(rc, pnx_cache_get_copy(cache, key, key_size_of(shape), value[1], VALUE_MOST, NULL));
    CHECK_EQ(size, rc == 0 ? value_size : 77);
    if (rc != 0)
        memset(expected, 0x5a, value_size);
    CHECK_EQ(memcmp(value[0], expected, value_size), 0);
    CHECK_EQ(memcmp(value[1], expected, value_size), 0);
    CHECK(value[0][value_size] == 0x5a && value[1][value_size] == 0x5a);
    return rc;
}

static struct pnx_cache_fixed *record_of(struct pnx_cache *cache, size_t shape, uint64_t n) {
    unsigned char key[KEY_MOST];
    struct pnx_cache_found_fixed found;
    bytes_of(n, key_size_of(shape), key);
    CHECK(pnx__cache_fixed_search(cache->shards->own_table,
            pnx__hash(cache->seed, key, key_size_of(shape)), key, key_size_of(shape),
            cache->shape.stride, true, &found));
    return found.record;
}

static void shapes_open(struct shapes *s, const char *policy) {
    fixture_open(&s->f, PNX_CACHE_OPTS(.capacity_entries = 10));
    for (size_t i = 0; i < SHAPES; i++) {
        struct pnx_cache_opts opts = fixture_opts(
                &s->f, PNX_CACHE_OPTS(.capacity_entries = 2500, .policy = policy, .shards = 1,
                               .key_bytes = key_size_of(i), .value_bytes = value_size_of(i)));
        CHECK_EQ(pnx_cache_create(&opts, &s->f.err, &s->cache[i]), 0);
    }
}

static void shapes_close(struct shapes *s) {
    for (size_t i = 0; i < SHAPES; i++) {
        CHECK_EQ(pnx_cache_check(s->cache[i], &s->f.err), 0);
        pnx_cache_release(&s->cache[i]);
    }
    fixture_close(&s->f);
}

static void look_up_in_each_way(struct fixture *f, struct pnx_cache *cache, size_t shape) {
    for (uint64_t n = 0; n < 2000; n++) /* enough for keys that do not stand in their homes */
        CHECK_EQ(put_shape(cache, shape, n, n == 3 ? PNX_SEC : PNX_NEVER), 0);
    for (uint64_t n = 0; n < 4000; n++)
        CHECK_EQ(get_shape(cache, shape, n), n < 2000 ? 0 : -ENOENT);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(get_shape(cache, shape, 3), 0);
    test_env_advance(&f->te, PNX_SEC);
    CHECK_EQ(get_shape(cache, shape, 3), -ENOENT);
    struct pnx_cache_fixed *record = record_of(cache, shape, 0);
    record->seq
            .v++; /* it says that it is being written; under the lock, that nothing stands in it */
    CHECK_EQ(get_shape(cache, shape, 0), -ENOENT);
    record->seq.v++;
    CHECK_EQ(get_shape(cache, shape, 0), 0);
    CHECK_EQ(pnx_cache_clear(cache), 0);
    CHECK_EQ(get_shape(cache, shape, 0), -ENOENT);
    CHECK_EQ(put_shape(cache, shape, 0, PNX_NEVER), 0);
    CHECK_EQ(get_shape(cache, shape, 0), 0);
    CHECK_EQ(pnx_cache_close(cache), 0);
    CHECK_EQ(get_shape(cache, shape, 0), -ESHUTDOWN);
}

TEST(lookups_of_sizes_that_have_code_of_their_own_do_as_those_of_others) {
    static const char *const policies[] = {"s3-fifo", "lru", "auto"};
    for (size_t p = 0; p < 3; p++) {
        static struct shapes s;
        shapes_open(&s, policies[p]);
        for (size_t i = 0; i < SHAPES; i++)
            look_up_in_each_way(&s.f, s.cache[i], i);
        shapes_close(&s);
    }
}

static void get_in_each(unsigned index, void *ctx) {
    struct shapes *s = ctx;
    for (size_t i = 0; i < SHAPES; i++)
        CHECK_EQ(get_shape(s->cache[i], i, index % 2), index % 2 ? 0 : -ENOENT);
    pthread_barrier_wait(&s->all); /* so that all have a number of their own */
}

TEST(lookups_of_more_threads_than_there_are_cells_are_all_counted) {
    enum { THREADS = PNX_CACHE_CELLS + 16 };
    static struct shapes s;
    shapes_open(&s, "fifo");
    for (size_t i = 0; i < SHAPES; i++)
        CHECK_EQ(put_shape(s.cache[i], i, 1, PNX_NEVER), 0);
    CHECK_EQ(pthread_barrier_init(&s.all, NULL, THREADS), 0);
    test_threads(THREADS, get_in_each, &s);
    pthread_barrier_destroy(&s.all);
    for (size_t i = 0; i < SHAPES; i++) {
        struct pnx_cache_stats stats = {.size = sizeof(stats)};
        CHECK_EQ(pnx_cache_read_stats(s.cache[i], &stats), 0);
        CHECK_EQ(stats.hits, THREADS);
        CHECK_EQ(stats.misses, THREADS);
    }
    shapes_close(&s);
}

static void get_in_child(void *ctx) {
    struct shapes *s = ctx;
    for (size_t i = 0; i < SHAPES; i++)
        CHECK_EQ(get_shape(s->cache[i], i, 1), -ESHUTDOWN);
    _exit(0);
}

TEST(lookups_of_each_size_are_refused_in_a_forked_child) {
    static struct shapes s;
    shapes_open(&s, "fifo");
    for (size_t i = 0; i < SHAPES; i++)
        CHECK_EQ(put_shape(s.cache[i], i, 1, PNX_NEVER), 0);
    CHECK_EQ(test_child(get_in_child, &s), 0);
    for (size_t i = 0; i < SHAPES; i++)
        CHECK_EQ(get_shape(s.cache[i], i, 1), 0);
    shapes_close(&s);
}
