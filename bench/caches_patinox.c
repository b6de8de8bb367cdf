/* SPDX-License-Identifier: Apache-2.0 */
/* caches_patinox.c - the cache cases for us, with default options: fixed sizes, or (patinox-entries) any bytes; values are copied out. */
#include "bench.h"
#include "caches.h"

#include <patinox/cache.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct bench {
    struct pnx_cache *cache;
    uint64_t next; /* of cache/insert-evict: one thread */
};

static _Thread_local uint32_t *stream;
static _Thread_local uint32_t at;
static _Thread_local uint64_t *keys; /* made of the stream, in the order of the stream */
static _Thread_local uint64_t asked, found;

static bool any_bytes; /* an entry of its own for each key, in place of fixed sizes */

static struct bench *make(uint64_t entries, uint32_t key_bytes) {
    static struct bench bench;
    struct pnx_error err;
    if (pnx_cache_create(
                PNX_CACHE_OPTS(.capacity_entries = entries, .key_bytes = any_bytes ? 0 : key_bytes,
                        .value_bytes = any_bytes ? 0 : sizeof(uint64_t)),
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

/* ---- cache/size-sweep: the size is in the implementation's name ---- */

static uint32_t swept;
static double swept_bytes;

static void *fill_swept(unsigned threads) {
    (void)threads;
    double before = bench_resident_bytes();
    struct bench *bench = make(swept, 8);
    for (uint64_t i = 0; i < swept; i++)
        put(bench->cache, i);
    swept_bytes = (bench_resident_bytes() - before) / swept;
    return bench;
}
static void tell_swept(void *state, FILE *out) {
    (void)state;
    fprintf(out, ",\"bytes_per_entry\":%.1f", swept_bytes);
}

/* ---- cache/expire ---- */

#define EXPIRE_ENTRIES 1000000u
#define EXPIRE_TICK    16 /* operations between two ticks */
#define TAIL_STEPS     32 /* of each power of two */

/* Times of single operations: a histogram of 1/32 steps. */
static uint32_t tail[64 * TAIL_STEPS];
static uint64_t tail_count, most_expired;
static bool still;

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
static void note(uint64_t ns) {
    uint32_t high = 63 - (uint32_t)__builtin_clzll(ns | TAIL_STEPS);
    tail[(high - 5) * TAIL_STEPS + (uint32_t)(ns >> (high - 5)) % TAIL_STEPS +
            (high > 5 ? TAIL_STEPS : 0)]++;
    tail_count++;
}
static double tail_ns(double share) {
    uint64_t left = (uint64_t)((double)tail_count * (1 - share));
    uint32_t i = 64 * TAIL_STEPS - 1;
    for (; i > 0 && tail[i] <= left; i--)
        left -= tail[i];
    uint32_t high = i / TAIL_STEPS;
    return high < 1 ? i : (double)((uint64_t)(TAIL_STEPS + i % TAIL_STEPS) << (high - 1));
}
static pnx_ns random_ttl(uint64_t *random) {
    *random += 0x9E3779B97F4A7C15u;
    return still ? 3600 * PNX_SEC : (pnx_ns)(200 + cache_mix(*random) % 1000) * PNX_MS;
}
static uint64_t ttl_random;

static void *fill_expiring(unsigned threads) {
    struct bench *bench = make(EXPIRE_ENTRIES + EXPIRE_ENTRIES / 8, 8);
    (void)threads;
    for (uint64_t i = 0; i < EXPIRE_ENTRIES; i++) {
        uint64_t key = cache_key(i);
        if (pnx_cache_put(bench->cache, &key, 8, &i, 8, random_ttl(&ttl_random)))
            abort();
    }
    return bench;
}

static uint64_t expired_so_far(struct pnx_cache *cache) {
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    if (pnx_cache_read_stats(cache, &stats))
        abort();
    return stats.removed_expired;
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
static void enter_swept(void *state, unsigned index) {
    (void)state;
    make_keys(index, swept, 0);
}
static void enter_expiring(void *state, unsigned index) {
    (void)state;
    make_keys(index, EXPIRE_ENTRIES, 0);
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

/* A get, a put of what was missed, and now and then a tick; each is timed.  How many a call expires is looked at now and then. */
static void expire(void *state, unsigned index, uint64_t n) {
    struct bench *bench = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t key = keys[next()], value;
        uint64_t t0 = now_ns();
        int rc = pnx_cache_get_copy(bench->cache, &key, 8, &value, 8, NULL);
        uint64_t t1 = now_ns();
        note(t1 - t0);
        if ((rc || i % 4 == 0) &&
                pnx_cache_put(bench->cache, &key, 8, &key, 8, random_ttl(&ttl_random)))
            abort();
        uint64_t t2 = now_ns();
        note(t2 - t1);
        if (i % EXPIRE_TICK == 0) {
            bool watch = i % 128 == 0;
            uint64_t before = watch ? expired_so_far(bench->cache) : 0;
            t1 = now_ns();
            (void)pnx_cache_tick(bench->cache, (pnx_ns)t1);
            note(now_ns() - t1);
            uint64_t expired = watch ? expired_so_far(bench->cache) - before : 0;
            most_expired = expired > most_expired ? expired : most_expired;
        }
    }
}
static void tell_tail(void *state, FILE *out) {
    (void)state;
    fprintf(out, ",\"op_p9999_ns\":%.0f,\"expired_at_once\":%llu", tail_ns(0.9999),
            (unsigned long long)most_expired);
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
        {"cache/size-sweep", {.set_up = fill_swept,
                                     .work = hit,
                                     .enter_thread = enter_swept,
                                     .fields = tell_swept,
                                     .tear_down = tear_down}},
        {"cache/expire", {.set_up = fill_expiring,
                                 .work = expire,
                                 .enter_thread = enter_expiring,
                                 .fields = tell_tail,
                                 .tear_down = tear_down}},
        ROW("cache/memory", NULL, fill_for_memory, NULL, NULL),
};

/* "patinox-10k": 10,000. */
static uint32_t size_of(const char *impl) {
    char *unit;
    const char *number = strchr(impl, '-');
    unsigned long n = number ? strtoul(number + 1, &unit, 10) : 0;
    if (n == 0)
        abort();
    return (uint32_t)n * (*unit == 'm' ? 1000000u : 1000u);
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct bench_impl impl = rows[i].impl;
        if (strcmp(rows[i].case_name, args.case_name) != 0 ||
                (impl.name && strcmp(impl.name, args.impl) != 0))
            continue;
        impl.name = args.impl;
        impl.version = pnx_version();
        still = strcmp(args.impl, "patinox-still") == 0;
        any_bytes = strcmp(args.impl, "patinox-entries") == 0;
        if (strcmp(args.case_name, "cache/size-sweep") == 0)
            swept = size_of(args.impl);
        if (strcmp(args.case_name, "cache/memory") == 0)
            return bench_memory(&args, &impl, CACHE_MEMORY);
        return bench_cycle(&args, &impl);
    }
    printf("{\"missing\":\"this program does not measure it\"}\n");
    return 0;
}
