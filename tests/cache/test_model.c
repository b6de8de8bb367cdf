/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random operations on a cache and on a model of it: a plain array, searched from end to end.  After each operation
 * both hold the same entries and bytes and have dropped the same values for the same causes.
 */
#include "cache/common.h"

#define KEYS 200

struct model_entry {
    bool there;
    uint32_t version;
    size_t size;
    pnx_ns expires;
    uint64_t used; /* when, in operations */
};

struct model {
    struct model_entry entry[KEYS];
    uint64_t clock; /* of uses */
    size_t capacity;
    uint64_t capacity_entries;
    size_t bytes;
    uint64_t entries;
    uint64_t dropped[PNX_CACHE_CLOSED + 1];
    uint64_t dropped_sum[PNX_CACHE_CLOSED + 1]; /* of key and version, to tell which */
};

static struct model model;
static uint64_t real_dropped[PNX_CACHE_CLOSED + 1];
static uint64_t real_dropped_sum[PNX_CACHE_CLOSED + 1];

static uint64_t mark(uint32_t key, uint32_t version) {
    uint64_t x = ((uint64_t)key << 32 | version) * UINT64_C(0x9E3779B97F4A7C15);
    return x ^ x >> 29;
}

/* A value starts with its version, as far as its size goes; keys are numbers of 1 to 8 bytes. */
static size_t key_bytes(uint32_t key, char *buf) {
    size_t n = key % 8 + 1;
    memset(buf, 'k', 8);
    buf[0] = (char)key;
    return n;
}

static void on_destroy(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    uint32_t version;
    CHECK_EQ(removed->size, sizeof(*removed));
    CHECK(removed->value_size >= sizeof(version));
    memcpy(&version, removed->value, sizeof(version));
    real_dropped[removed->cause]++;
    real_dropped_sum[removed->cause] += mark(*(const unsigned char *)removed->key, version);
}

static size_t cost_of(uint32_t key, size_t size) {
    char buf[8];
    return pnx_cache_cost(key_bytes(key, buf), size);
}

static void model_drop(uint32_t key, enum pnx_cache_cause cause) {
    struct model_entry *e = &model.entry[key];
    e->there = false;
    model.bytes -= cost_of(key, e->size);
    model.entries--;
    model.dropped[cause]++;
    model.dropped_sum[cause] += mark(key, e->version);
}

/* Drops what has expired first, then what was used least recently. */
static void model_evict(pnx_ns now) {
    uint32_t first = KEYS, oldest = KEYS;
    for (uint32_t k = 0; k < KEYS; k++) {
        const struct model_entry *e = &model.entry[k];
        if (!e->there)
            continue;
        if (e->expires <= now && (first == KEYS || e->expires < model.entry[first].expires))
            first = k;
        if (oldest == KEYS || e->used < model.entry[oldest].used)
            oldest = k;
    }
    CHECK(oldest != KEYS);
    model_drop(first != KEYS ? first : oldest, first != KEYS ? PNX_CACHE_EXPIRED : PNX_CACHE_SIZE);
}

static bool model_fits(size_t cost) {
    return (!model.capacity || model.bytes + cost <= model.capacity) &&
           (!model.capacity_entries || model.entries + (cost > 0) <= model.capacity_entries);
}

static bool model_find(uint32_t key, pnx_ns now) {
    struct model_entry *e = &model.entry[key];
    if (e->there && e->expires <= now)
        model_drop(key, PNX_CACHE_EXPIRED);
    return e->there;
}

static int model_put(
        uint32_t key, uint32_t version, size_t size, pnx_ns ttl, bool if_absent, pnx_ns now) {
    size_t cost = cost_of(key, size);
    if (model.capacity && cost > model.capacity) {
        if (!if_absent && model_find(key, now))
            model_drop(key, PNX_CACHE_REPLACED);
        return -EFBIG;
    }
    if (model_find(key, now)) {
        if (if_absent)
            return -EEXIST;
        model_drop(key, PNX_CACHE_REPLACED);
    }
    while (!model_fits(cost))
        model_evict(now);
    model.entry[key] = (struct model_entry){
            true, version, size, ttl == PNX_NEVER ? PNX_NEVER : now + ttl, ++model.clock};
    model.bytes += cost;
    model.entries++;
    return 0;
}

static int collect(void *ctx, const struct pnx_cache_ref *ref) {
    bool *seen = ctx;
    size_t n = 0;
    uint32_t key = *(const unsigned char *)pnx_cache_ref_key(ref, &n);
    uint32_t version;
    memcpy(&version, pnx_cache_ref_data(ref), sizeof(version));
    CHECK(key < KEYS && !seen[key]);
    CHECK(model.entry[key].there);
    CHECK_EQ(version, model.entry[key].version);
    CHECK_EQ(pnx_cache_ref_size(ref), model.entry[key].size);
    seen[key] = true;
    return 0;
}

static void compare(struct fixture *f, bool deep) {
    struct pnx_cache_stats stats = stats_of(f);
    CHECK_EQ(stats.bytes, model.bytes);
    CHECK_EQ(stats.entries, model.entries);
    CHECK(!model.capacity || stats.bytes <= model.capacity);
    for (int c = 1; c <= PNX_CACHE_CLOSED; c++) {
        CHECK_MSG(
                real_dropped[c] == model.dropped[c] && real_dropped_sum[c] == model.dropped_sum[c],
                "cause %d: %llu dropped, %llu expected, or others", c,
                (unsigned long long)real_dropped[c], (unsigned long long)model.dropped[c]);
    }
    if (!deep)
        return;
    check_invariants(f);
    bool seen[KEYS] = {false};
    CHECK_EQ(pnx_cache_each(f->cache, collect, seen), 0);
    for (uint32_t k = 0; k < KEYS; k++)
        CHECK_EQ(seen[k], model.entry[k].there && model.entry[k].expires > f->te.now);
}

static void step_put(struct fixture *f, uint64_t *rng, uint32_t key, uint32_t version) {
    char value[4096];
    char kb[8];
    size_t n = key_bytes(key, kb);
    /* Sizes over several powers of two, some beyond a small capacity. */
    size_t size = 4 + test_random(rng) % (UINT64_C(4) << test_random(rng) % 10);
    bool if_absent = test_random(rng) % 4 == 0;
    pnx_ns ttl = test_random(rng) % 2 ? PNX_NEVER
                                      : (pnx_ns)(test_random(rng) % 100) * PNX_MS + version + 1;
    memset(value, 'v', sizeof(value));
    memcpy(value, &version, sizeof(version));
    int expected = model_put(key, version, size, ttl, if_absent, f->te.now);
    int rc = if_absent ? pnx_cache_put_if_absent(f->cache, kb, n, value, size, ttl)
                       : pnx_cache_put(f->cache, kb, n, value, size, ttl);
    CHECK_EQ(rc, expected);
}

static void step_get(struct fixture *f, uint32_t key) {
    char kb[8];
    size_t n = key_bytes(key, kb);
    struct pnx_cache_ref ref = {0};
    bool there = model_find(key, f->te.now);
    CHECK_EQ(pnx_cache_get(f->cache, kb, n, &ref), there ? 0 : -ENOENT);
    if (there) {
        model.entry[key].used = ++model.clock;
        CHECK_EQ(memcmp(pnx_cache_ref_data(&ref), &model.entry[key].version, 4), 0);
        CHECK_EQ(pnx_cache_ref_size(&ref), model.entry[key].size);
    }
    pnx_cache_ref_release(&ref);
}

static void step_resize(struct fixture *f, uint64_t *rng) {
    model.capacity = 1024 + test_random(rng) % 60000;
    model.capacity_entries = test_random(rng) % 3 ? 0 : 1 + test_random(rng) % KEYS;
    if (test_random(rng) % 8 == 0 && model.capacity_entries)
        model.capacity = 0;
    while (!model_fits(0))
        model_evict(f->te.now);
    CHECK_EQ(pnx_cache_resize(f->cache, model.capacity, model.capacity_entries, NULL), 0);
}

static void step_tick(struct fixture *f) {
    pnx_ns next = PNX_NEVER;
    for (int n = 0; n <= PNX_CACHE_TICK_MAX; n++) {
        uint32_t first = KEYS;
        for (uint32_t k = 0; k < KEYS; k++) {
            if (model.entry[k].there && model.entry[k].expires != PNX_NEVER &&
                    (first == KEYS || model.entry[k].expires < model.entry[first].expires))
                first = k;
        }
        next = first == KEYS ? PNX_NEVER : model.entry[first].expires;
        if (first == KEYS || next > f->te.now)
            break;
        next = f->te.now;
        if (n < PNX_CACHE_TICK_MAX)
            model_drop(first, PNX_CACHE_EXPIRED);
    }
    CHECK_EQ(pnx_cache_tick(f->cache, f->te.now), next);
}

static void step(struct fixture *f, uint64_t *rng, uint32_t version) {
    uint32_t key = (uint32_t)(test_random(rng) % KEYS);
    char kb[8];
    size_t n = key_bytes(key, kb);
    uint64_t what = test_random(rng) % 1000;
    if (what < 400) {
        step_put(f, rng, key, version);
    } else if (what < 850) {
        step_get(f, key);
    } else if (what < 930) {
        bool there = model_find(key, f->te.now);
        CHECK_EQ(pnx_cache_remove(f->cache, kb, n), there ? 0 : -ENOENT);
        if (there)
            model_drop(key, PNX_CACHE_EXPLICIT);
    } else if (what < 980) {
        test_env_advance(&f->te, (pnx_ns)(test_random(rng) % (20 * PNX_MS)));
    } else if (what < 992) {
        step_tick(f);
    } else if (what < 998) {
        step_resize(f, rng);
    } else {
        for (uint32_t k = 0; k < KEYS; k++) {
            if (model.entry[k].there)
                model_drop(k, PNX_CACHE_CLEAR);
        }
        CHECK_EQ(pnx_cache_clear(f->cache), 0);
    }
}

TEST(p2_random_operations_do_as_the_model) {
    uint64_t rng = test_seed();
    struct fixture f;
    model.capacity = 20000;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = model.capacity, .destroy = on_destroy));
    uint32_t steps = test_slow() ? 20000 : 300000;
    for (uint32_t i = 1; i <= steps; i++) {
        step(&f, &rng, i);
        compare(&f, i % 64 == 0);
    }
    fixture_close(&f);
}
