/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random operations on caches of fixed sizes and on a model of them: a plain array, searched from end to end.
 *
 * Without times to live, one shard and lru have exactly the model's content, also of what was evicted.  With times to live and
 * room for all, what is found is the model's.
 */
#include "cache/fixed_bytes.h"
#include "cache/internal.h"

#define KEYS 200

struct model_entry {
    bool there;
    uint64_t version;
    pnx_ns expires; /* as the wheel's ticks count it */
    uint64_t used;  /* when, in operations */
};

static struct model {
    struct model_entry entry[KEYS];
    size_t key_size;
    size_t value_size;
    size_t cost;
    pnx_ns base;    /* of ticks */
    bool timed;     /* entries expire; there is room for all */
    uint64_t clock; /* of uses */
    size_t capacity;
    uint64_t capacity_entries;
    uint64_t entries;
    uint64_t hits, misses, inserts;
    uint64_t removed[PNX_CACHE_CLOSED + 1];
} m;

static void drop(uint64_t key, enum pnx_cache_cause cause) {
    m.entry[key].there = false;
    m.entries--;
    m.removed[cause]++;
}

static bool fits(uint64_t more) {
    return (!m.capacity || (m.entries + more) * m.cost <= m.capacity) &&
           (!m.capacity_entries || m.entries + more <= m.capacity_entries);
}

static void evict(void) {
    uint64_t oldest = KEYS;
    for (uint64_t k = 0; k < KEYS; k++) {
        if (m.entry[k].there && (oldest == KEYS || m.entry[k].used < m.entry[oldest].used))
            oldest = k;
    }
    CHECK(oldest != KEYS);
    drop(oldest, PNX_CACHE_SIZE);
}

/* Whether it is to be found; whether what has expired is still there is left open. */
static bool visible(uint64_t key, pnx_ns now) {
    return m.entry[key].there && now < m.entry[key].expires;
}

static void key_of(uint64_t key, unsigned char *buf) {
    bytes_of(key, m.key_size, buf);
}

static void value_of(uint64_t key, uint64_t version, unsigned char *buf) {
    bytes_of((key << 48 | version) * UINT64_C(0x9E3779B97F4A7C15), m.value_size, buf);
}

static pnx_ns ends(pnx_ns now, pnx_ns ttl) {
    return ttl == PNX_NEVER ? PNX_NEVER : m.base + (now + ttl - m.base) / TICK * TICK;
}

static int model_put(uint64_t key, uint64_t version, pnx_ns ttl, bool if_absent, pnx_ns now) {
    struct model_entry *e = &m.entry[key];
    if (e->there && !visible(key, now))
        drop(key, PNX_CACHE_EXPIRED);
    if (e->there && if_absent)
        return -EEXIST;
    if (e->there) {
        m.removed[PNX_CACHE_REPLACED]++;
    } else {
        while (!fits(1))
            evict();
        m.entries++;
    }
    m.inserts++;
    *e = (struct model_entry){true, version, ends(now, ttl), ++m.clock};
    return 0;
}

static void step_put(struct fixture *f, uint64_t *rng, uint64_t key, uint64_t version) {
    unsigned char kb[KEY_MOST], vb[VALUE_MOST];
    bool if_absent = test_random(rng) % 4 == 0;
    pnx_ns ttl = PNX_NEVER;
    if (m.timed && test_random(rng) % 4)
        ttl = PNX_CACHE_FIXED_TTL_MIN + (pnx_ns)(test_random(rng) >> (30 + test_random(rng) % 20));
    key_of(key, kb);
    value_of(key, version, vb);
    int expected = model_put(key, version, ttl, if_absent, f->te.now);
    int rc = if_absent ? pnx_cache_put_if_absent(f->cache, kb, m.key_size, vb, m.value_size, ttl)
                       : pnx_cache_put(f->cache, kb, m.key_size, vb, m.value_size, ttl);
    CHECK_EQ(rc, expected);
}

/* A lookup's answer, and what it does to the model. */
static void check_found(uint64_t key, bool found, const unsigned char *value, pnx_ns now) {
    unsigned char expected[VALUE_MOST];
    CHECK_EQ(found, visible(key, now));
    if (!found) {
        m.misses++;
        return;
    }
    m.hits++;
    m.entry[key].used = ++m.clock;
    value_of(key, m.entry[key].version, expected);
    CHECK_EQ(memcmp(value, expected, m.value_size), 0);
}

static void step_get(struct fixture *f, uint64_t key) {
    unsigned char kb[KEY_MOST], vb[VALUE_MOST];
    size_t size = 0;
    key_of(key, kb);
    int rc = pnx_cache_get_copy(f->cache, kb, m.key_size, vb, sizeof(vb), &size);
    CHECK(rc == 0 || rc == -ENOENT);
    CHECK(rc != 0 || size == m.value_size);
    check_found(key, rc == 0, vb, f->te.now);
}

static void step_get_many(struct fixture *f, uint64_t *rng) {
    static unsigned char keys[PNX_CACHE_MANY_MAX * KEY_MOST],
            values[PNX_CACHE_MANY_MAX * VALUE_MOST];
    uint64_t number[PNX_CACHE_MANY_MAX], found = 0;
    size_t n = test_random(rng) % (PNX_CACHE_MANY_MAX + 1);
    for (size_t i = 0; i < n; i++) {
        number[i] = test_random(rng) % KEYS;
        key_of(number[i], keys + i * m.key_size);
    }
    int rc = pnx_cache_get_many(f->cache, keys, m.key_size, n, values, m.value_size, &found);
    CHECK_EQ(rc, __builtin_popcountll(found));
    for (size_t i = 0; i < n; i++)
        check_found(number[i], found >> i & 1, values + i * m.value_size, f->te.now);
}

static void step_remove(struct fixture *f, uint64_t key) {
    unsigned char kb[KEY_MOST];
    key_of(key, kb);
    bool there = visible(key, f->te.now);
    CHECK_EQ(pnx_cache_remove(f->cache, kb, m.key_size), there ? 0 : -ENOENT);
    if (m.entry[key].there)
        drop(key, there ? PNX_CACHE_EXPLICIT : PNX_CACHE_EXPIRED);
}

/* ---- loads and computes ---- */

/* What a loader or a compute is to do. */
struct making {
    uint64_t key;
    uint64_t version;
    pnx_ns ttl; /* 0: the cache's, which is never */
    int code;
    bool keep_ttl;
    bool remove;
    bool called;
    bool seen; /* a compute's: something was there */
    unsigned char now[VALUE_MOST];
};

static pnx_ns any_ttl(uint64_t *rng) {
    if (!m.timed || test_random(rng) % 4 == 0)
        return 0;
    return PNX_CACHE_FIXED_TTL_MIN + (pnx_ns)(test_random(rng) >> (30 + test_random(rng) % 20));
}

static int make_value(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct making *making = ctx;
    unsigned char kb[KEY_MOST], vb[VALUE_MOST];
    (void)deadline;
    making->called = true;
    CHECK_EQ(key_size, m.key_size);
    key_of(making->key, kb);
    CHECK_EQ(memcmp(key, kb, key_size), 0);
    if (making->ttl)
        CHECK_EQ(pnx_cache_load_set_ttl(load, making->ttl), 0);
    if (making->code)
        return making->code;
    value_of(making->key, making->version, vb);
    return pnx_cache_load_set(load, vb, m.value_size);
}

static void drop_expired(uint64_t key, pnx_ns now) {
    if (m.entry[key].there && !visible(key, now))
        drop(key, PNX_CACHE_EXPIRED);
}

static void step_load(struct fixture *f, uint64_t *rng, uint64_t key, uint64_t version) {
    unsigned char kb[KEY_MOST], vb[VALUE_MOST];
    struct making making = {.key = key,
            .version = version,
            .ttl = any_ttl(rng),
            .code = test_random(rng) % 8 ? 0 : -ENOENT};
    bool found = visible(key, f->te.now);
    size_t size = 0;
    key_of(key, kb);
    int rc = pnx_cache_get_or_load_copy(
            f->cache, kb, m.key_size, make_value, &making, PNX_NEVER, NULL, vb, sizeof(vb), &size);
    CHECK_EQ(rc, found ? 0 : making.code);
    CHECK_EQ(making.called, !found);
    CHECK(rc != 0 || size == m.value_size);
    check_found(key, found, vb, f->te.now);
    if (found)
        return;
    drop_expired(key, f->te.now);
    if (rc == 0) {
        unsigned char expected[VALUE_MOST];
        model_put(key, version, making.ttl ? making.ttl : PNX_NEVER, false, f->te.now);
        value_of(key, version, expected);
        CHECK_EQ(memcmp(vb, expected, m.value_size), 0);
    }
}

static void step_refresh(struct fixture *f, uint64_t *rng, uint64_t key, uint64_t version) {
    unsigned char kb[KEY_MOST];
    struct making making = {.key = key,
            .version = version,
            .ttl = any_ttl(rng),
            .code = test_random(rng) % 2 ? 0 : -ENOENT};
    key_of(key, kb);
    CHECK_EQ(pnx_cache_refresh(f->cache, kb, m.key_size, make_value, &making, PNX_NEVER, NULL),
            making.code);
    CHECK(making.called);
    if (making.code == 0)
        model_put(key, version, making.ttl ? making.ttl : PNX_NEVER, false, f->te.now);
    else if (m.entry[key].there)
        drop(key, visible(key, f->te.now) ? PNX_CACHE_EXPLICIT : PNX_CACHE_EXPIRED);
}

static int decide(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct making *making = ctx;
    unsigned char vb[VALUE_MOST];
    CHECK(!making->called); /* nobody else changes anything */
    making->called = true;
    making->seen = now != NULL;
    if (now) {
        CHECK_EQ(now_size, m.value_size);
        memcpy(making->now, now, now_size);
    }
    if (making->remove)
        return pnx_cache_change_remove(change);
    if (making->code)
        return making->code == -EIO ? -EIO : 0; /* else it is kept */
    if (making->ttl)
        CHECK_EQ(pnx_cache_change_ttl(change, making->ttl), 0);
    if (making->keep_ttl)
        CHECK_EQ(pnx_cache_change_keep_ttl(change), 0);
    value_of(making->key, making->version, vb);
    return pnx_cache_change_set(change, vb, m.value_size);
}

static void step_compute(struct fixture *f, uint64_t *rng, uint64_t key, uint64_t version) {
    static const int codes[] = {0, 0, 0, 0, -EIO, 1};
    unsigned char kb[KEY_MOST], vb[VALUE_MOST], expected[VALUE_MOST];
    struct making making = {.key = key,
            .version = version,
            .ttl = any_ttl(rng),
            .code = codes[test_random(rng) % 6],
            .keep_ttl = test_random(rng) % 4 == 0,
            .remove = test_random(rng) % 4 == 0};
    struct model_entry was = m.entry[key];
    bool found = visible(key, f->te.now);
    size_t size = 0;
    key_of(key, kb);
    int rc = pnx_cache_compute_copy(
            f->cache, kb, m.key_size, decide, &making, vb, sizeof(vb), &size);
    CHECK_EQ(rc, !making.remove && making.code == -EIO ? -EIO : 0);
    CHECK(making.called);
    check_found(key, making.seen, making.now, f->te.now);
    drop_expired(key, f->te.now);
    if (rc)
        return;
    if (making.remove && found)
        drop(key, PNX_CACHE_EXPLICIT);
    bool stored = !making.remove && (found || making.code == 0);
    CHECK_EQ(size, stored ? m.value_size : PNX_CACHE_NOTHING);
    if (!stored)
        return;
    if (making.code == 0) {
        model_put(key, version, making.ttl ? making.ttl : PNX_NEVER, false, f->te.now);
        if (making.keep_ttl && found)
            m.entry[key].expires = was.expires;
    }
    value_of(key, m.entry[key].version, expected);
    CHECK_EQ(memcmp(vb, expected, m.value_size), 0);
}

static bool keep_some(void *ctx, const void *key, const void *value) {
    unsigned char expected[VALUE_MOST];
    uint64_t n = number_of(key, m.key_size);
    CHECK(n < KEYS);
    value_of(n, m.entry[n].version, expected);
    CHECK_EQ(memcmp(value, expected, m.value_size), 0);
    return (n ^ *(const uint64_t *)ctx) % 8 != 0;
}

static void step_retain(struct fixture *f, uint64_t *rng) {
    uint64_t r = test_random(rng) % 8;
    int64_t refused = 0;
    for (uint64_t k = 0; k < KEYS; k++) {
        if ((k ^ r) % 8 == 0 && visible(k, f->te.now)) {
            drop(k, PNX_CACHE_EXPLICIT);
            refused++;
        }
    }
    CHECK_EQ(pnx_cache_retain_copy(f->cache, keep_some, &r), refused);
}

static void step_resize(struct fixture *f, uint64_t *rng) {
    uint64_t r = test_random(rng);
    if (m.timed) { /* room for all, whatever the limit is in */
        m.capacity = r % 3 ? (KEYS + r % 100) * m.cost : 0;
        m.capacity_entries = r % 3 == 1 ? 0 : KEYS + r % 77;
    } else {
        m.capacity = r % 3 ? 1024 + r % (KEYS * m.cost) : 0;
        m.capacity_entries = r % 3 == 1 ? 0 : 1 + r % KEYS;
    }
    while (!fits(0))
        evict();
    CHECK_EQ(pnx_cache_resize(f->cache, m.capacity, m.capacity_entries, NULL), 0);
}

static void step_clear(struct fixture *f) {
    for (uint64_t k = 0; k < KEYS; k++) {
        if (m.entry[k].there)
            drop(k, PNX_CACHE_CLEAR);
    }
    CHECK_EQ(pnx_cache_clear(f->cache), 0);
}

static void step(struct fixture *f, uint64_t *rng, uint64_t version) {
    uint64_t key = test_random(rng) % KEYS, what = test_random(rng) % 1000;
    if (what < 340)
        step_put(f, rng, key, version);
    else if (what < 640)
        step_get(f, key);
    else if (what < 700)
        step_get_many(f, rng);
    else if (what < 760)
        step_remove(f, key);
    else if (what < 840)
        step_load(f, rng, key, version);
    else if (what < 860)
        step_refresh(f, rng, key, version);
    else if (what < 937)
        step_compute(f, rng, key, version);
    else if (what < 940)
        step_retain(f, rng);
    else if (what < 975)
        test_env_advance(&f->te, (pnx_ns)(test_random(rng) >> (30 + test_random(rng) % 20)));
    else if (what < 992)
        CHECK(pnx_cache_tick(f->cache, f->te.now) >= f->te.now);
    else if (what < 998)
        step_resize(f, rng);
    else
        step_clear(f);
}

static int collect(void *ctx, const void *key, const void *value) {
    bool *seen = ctx;
    unsigned char expected[VALUE_MOST];
    uint64_t n = number_of(key, m.key_size);
    CHECK(n < KEYS && !seen[n]);
    key_of(n, expected);
    CHECK_EQ(memcmp(key, expected, m.key_size), 0);
    value_of(n, m.entry[n].version, expected);
    CHECK_EQ(memcmp(value, expected, m.value_size), 0);
    seen[n] = true;
    return 0;
}

static void compare(struct fixture *f, bool deep) {
    struct pnx_cache_stats s = stats_of(f);
    CHECK_EQ(s.hits, m.hits);
    CHECK_EQ(s.misses, m.misses);
    CHECK_EQ(s.inserts, m.inserts);
    CHECK_EQ(s.bytes, s.entries * m.cost);
    CHECK_EQ(s.removed_size, m.removed[PNX_CACHE_SIZE]);
    CHECK_EQ(s.removed_replaced, m.removed[PNX_CACHE_REPLACED]);
    CHECK_EQ(s.removed_explicit, m.removed[PNX_CACHE_EXPLICIT]);
    /* What has expired the cache may have removed before the model does, and a clear then does not meet it. */
    CHECK(s.entries <= m.entries);
    CHECK_EQ(s.entries + s.removed_expired + s.removed_clear,
            m.entries + m.removed[PNX_CACHE_EXPIRED] + m.removed[PNX_CACHE_CLEAR]);
    CHECK(m.timed || s.entries == m.entries);
    if (!deep)
        return;
    check_invariants(f);
    bool seen[KEYS] = {false};
    CHECK_EQ(pnx_cache_each_copy(f->cache, collect, seen), 0);
    for (uint64_t k = 0; k < KEYS; k++)
        CHECK_EQ(seen[k], visible(k, f->te.now));
}

static void do_as_the_model(size_t key_size, size_t value_size, bool timed, const char *policy,
        uint32_t shards, uint32_t steps) {
    uint64_t rng = test_seed();
    struct fixture f;
    memset(&m, 0, sizeof(m));
    m.key_size = key_size;
    m.value_size = value_size;
    m.cost = pnx_cache_cost_fixed(key_size, value_size);
    m.timed = timed;
    m.capacity_entries = timed ? KEYS : 60;
    fixture_worlds(&f);
    m.base = f.te.now;
    struct pnx_cache_opts opts = fixture_opts(&f,
            PNX_CACHE_OPTS(.capacity_entries = m.capacity_entries, .key_bytes = (uint32_t)key_size,
                    .value_bytes = (uint32_t)value_size, .policy = policy, .shards = shards));
    /* Few slots at first, so that tables are replaced often. */
    CHECK_EQ(pnx__cache_create(&opts, 4, &f.err, &f.cache), 0);
    for (uint32_t i = 1; i <= steps; i++) {
        step(&f, &rng, i);
        compare(&f, i % 64 == 0);
    }
    fixture_close(&f);
}

static uint32_t steps(void) {
    return test_slow() ? 5000 : test_long() ? 1000000 : 60000;
}

TEST_LIMIT(p2_random_operations_do_as_the_model_with_one_shard_and_lru, 120) {
    do_as_the_model(8, 8, false, "lru", 1, steps());
    do_as_the_model(5, 13, false, "lru", 1, steps());
    do_as_the_model(16, 100, false, "lru", 1, steps());
    do_as_the_model(1, 1, false, "lru", 1, steps());
    do_as_the_model(64, 256, false, "lru", 1, steps());
}

TEST_LIMIT(p3_with_times_to_live_what_is_found_is_the_models, 120) {
    do_as_the_model(8, 8, true, "lru", 1, steps());
    do_as_the_model(5, 13, true, "s3-fifo", 1, steps());
    do_as_the_model(64, 256, true, "ttl", 1, steps());
}

TEST_LIMIT(p1_several_shards_with_room_for_all_lose_nothing, 120) {
    do_as_the_model(8, 8, true, "sieve", 4, steps());
    do_as_the_model(3, 24, true, "clock", 8, steps());
    do_as_the_model(16, 2, true, "auto", 2, steps());
}
