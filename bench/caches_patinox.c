/* SPDX-License-Identifier: Apache-2.0 */
/* caches_patinox.c - the cache cases for us, with default options and fixed sizes: values are copied out. */
#include "bench.h"
#include "caches.h"

#include <patinox/cache.h>

#include <string.h>

struct bench {
    struct pnx_cache *cache;
    uint64_t next; /* of cache/insert-evict: one thread */
};

static _Thread_local uint32_t *stream;
static _Thread_local uint32_t at;
static _Thread_local uint64_t *keys; /* made of the stream, in the order of the stream */
static _Thread_local uint64_t asked, found;

static struct bench *make(uint64_t entries, uint32_t key_bytes) {
    static struct bench bench;
    struct pnx_error err;
    if (pnx_cache_create(PNX_CACHE_OPTS(.capacity_entries = entries, .key_bytes = key_bytes,
                                 .value_bytes = sizeof(uint64_t)),
                &err, &bench.cache)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    return &bench;
}

static void put(struct pnx_cache *cache, uint64_t i) {
    uint64_t key = cache_key(i);
    if (pnx_cache_put(cache, &key, sizeof(key), &i, sizeof(i), 0))
        abort();
}

/* Twice the entries, as the peers have it: nothing is evicted that is asked for. */
static void *fill(unsigned threads) {
    struct bench *bench = make(2 * CACHE_ENTRIES, 8);
    (void)threads;
    for (uint64_t i = 0; i < CACHE_ENTRIES; i++)
        put(bench->cache, i);
    return bench;
}

static void *fill_texts(unsigned threads) {
    struct bench *bench = make(2 * CACHE_ENTRIES, CACHE_TEXT);
    (void)threads;
    for (uint64_t i = 0; i < CACHE_ENTRIES; i++) {
        char text[CACHE_TEXT];
        cache_text(i, text);
        if (pnx_cache_put(bench->cache, text, sizeof(text), &i, sizeof(i), 0))
            abort();
    }
    return bench;
}

static void *fill_large(unsigned threads) {
    struct bench *bench = make(2ull * CACHE_LARGE, 8);
    (void)threads;
    for (uint64_t i = 0; i < CACHE_LARGE; i++)
        put(bench->cache, i);
    return bench;
}

static void *fill_for_memory(unsigned threads) {
    struct bench *bench = make(CACHE_MEMORY, 8);
    (void)threads;
    for (uint64_t i = 0; i < CACHE_MEMORY; i++) {
        uint64_t key = cache_key(i);
        if (pnx_cache_put(bench->cache, &key, sizeof(key), &i, sizeof(i), 3600 * PNX_SEC))
            abort();
    }
    return bench;
}

static void *begin_mixed(unsigned threads) {
    (void)threads;
    return make(CACHE_MIXED_ENTRIES, 8);
}

static void *begin_inserts(unsigned threads) {
    struct bench *bench = make(CACHE_ENTRIES, 8);
    (void)threads;
    for (; bench->next < 2 * CACHE_ENTRIES; bench->next++)
        put(bench->cache, bench->next);
    return bench;
}

static void make_keys(unsigned index, uint32_t n, double theta) {
    stream = cache_stream_make(index, n, theta);
    keys = malloc(CACHE_STREAM * sizeof(*keys));
    if (!keys)
        abort();
    for (uint32_t i = 0; i < CACHE_STREAM; i++)
        keys[i] = cache_key(stream[i]);
}

static void enter_uniform(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_ENTRIES, 0);
}
static void enter_zipf(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_ENTRIES, 0.99);
}
static void enter_large(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_LARGE, 0);
}
static void enter_mixed(void *state, unsigned index) {
    (void)state;
    make_keys(index, CACHE_MIXED_KEYS, 0.99);
}

static _Thread_local char *texts;
static void enter_texts(void *state, unsigned index) {
    (void)state;
    stream = cache_stream_make(index, CACHE_ENTRIES, 0);
    texts = malloc((size_t)CACHE_STREAM * CACHE_TEXT);
    if (!texts)
        abort();
    for (uint32_t i = 0; i < CACHE_STREAM; i++)
        cache_text(stream[i], texts + (size_t)i * CACHE_TEXT);
}

static inline uint32_t next(void) {
    uint32_t now = at;
    at = (at + 1) & (CACHE_STREAM - 1);
    return now;
}

static void hit(void *state, unsigned index, uint64_t n) {
    struct bench *bench = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t value;
        if (pnx_cache_get_copy(bench->cache, &keys[next()], 8, &value, sizeof(value), NULL))
            abort();
        BENCH_USE(value);
    }
}

/* Each key depends on the value before. */
static void hit_dependent(void *state, unsigned index, uint64_t n) {
    struct bench *bench = state;
    uint64_t value = 0;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t key = keys[(next() + value) & (CACHE_STREAM - 1)];
        if (pnx_cache_get_copy(bench->cache, &key, 8, &value, sizeof(value), NULL))
            abort();
    }
    BENCH_USE(value);
}

static void hit_text(void *state, unsigned index, uint64_t n) {
    struct bench *bench = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t value;
        if (pnx_cache_get_copy(bench->cache, texts + (size_t)next() * CACHE_TEXT, CACHE_TEXT,
                    &value, sizeof(value), NULL))
            abort();
        BENCH_USE(value);
    }
}

/* Stream and n are multiples of the batch. */
static void hit_batch(void *state, unsigned index, uint64_t n) {
    struct bench *bench = state;
    (void)index;
    for (uint64_t i = 0; i < n; i += CACHE_BATCH) {
        uint64_t values[CACHE_BATCH], hits;
        const uint64_t *batch = &keys[at];
        at = (at + CACHE_BATCH) & (CACHE_STREAM - 1);
        if (pnx_cache_get_many(bench->cache, batch, 8, CACHE_BATCH, values, 8, &hits) !=
                CACHE_BATCH)
            abort();
        for (uint32_t k = 0; k < CACHE_BATCH; k++)
            BENCH_USE(values[k]);
    }
}

static void mixed(void *state, unsigned index, uint64_t n) {
    struct bench *bench = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t key = keys[next()], value;
        asked++;
        if (pnx_cache_get_copy(bench->cache, &key, 8, &value, sizeof(value), NULL) == 0)
            found++;
        else if (pnx_cache_put(bench->cache, &key, 8, &key, sizeof(key), 0))
            abort();
        BENCH_USE(value);
    }
}

static void insert(void *state, unsigned index, uint64_t n) {
    struct bench *bench = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        put(bench->cache, bench->next++);
}

static uint64_t all_asked, all_found; /* with __atomic */
static void leave_mixed(void *state, unsigned index) {
    (void)state, (void)index;
    __atomic_add_fetch(&all_asked, asked, __ATOMIC_RELAXED);
    __atomic_add_fetch(&all_found, found, __ATOMIC_RELAXED);
}
static void tell_hits(void *state, FILE *out) {
    (void)state;
    fprintf(out, ",\"hit_ratio\":%.4f", (double)all_found / (double)all_asked);
}

static void tear_down(void *state) {
    struct bench *bench = state;
    pnx_cache_release(&bench->cache);
}

#define ROW(case_name, impl_name, fills, enters, does) \
    { \
        case_name, { \
            .name = impl_name, .set_up = fills, .work = does, .enter_thread = enters, \
            .tear_down = tear_down \
        } \
    }

static const struct bench_row rows[] = {
        ROW("cache/hit-int-uniform", NULL, fill, enter_uniform, hit),
        ROW("cache/hit-int-zipf", NULL, fill, enter_zipf, hit),
        ROW("cache/hit-str", NULL, fill_texts, enter_texts, hit_text),
        ROW("cache/insert-evict", NULL, begin_inserts, NULL, insert),
        ROW("cache/get-10m", "patinox-dependent", fill_large, enter_large, hit_dependent),
        ROW("cache/get-10m", NULL, fill_large, enter_large, hit),
        ROW("cache/batch-get", "patinox-single", fill_large, enter_large, hit),
        ROW("cache/batch-get", "patinox-dependent", fill_large, enter_large, hit_dependent),
        ROW("cache/batch-get", NULL, fill_large, enter_large, hit_batch),
        {"cache/mixed", {.set_up = begin_mixed,
                                .work = mixed,
                                .enter_thread = enter_mixed,
                                .leave_thread = leave_mixed,
                                .fields = tell_hits,
                                .tear_down = tear_down}},
        ROW("cache/memory", NULL, fill_for_memory, NULL, NULL),
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct bench_impl impl = rows[i].impl;
        if (strcmp(rows[i].case_name, args.case_name) != 0 ||
                (impl.name && strcmp(impl.name, args.impl) != 0))
            continue;
        impl.name = args.impl;
        impl.version = pnx_version();
        if (strcmp(args.case_name, "cache/memory") == 0)
            return bench_memory(&args, &impl, CACHE_MEMORY);
        return bench_cycle(&args, &impl);
    }
    printf("{\"missing\":\"this program does not measure it\"}\n");
    return 0;
}
