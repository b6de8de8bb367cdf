/* SPDX-License-Identifier: Apache-2.0 */
/* test_cmap_stress.c - many threads on one map for a while: what must hold at every moment; food for TSan and ASan. */
#include "harness/harness.h"
#include "share/cmap.h"

#include <errno.h>

#define THREADS 4
#define STABLE  200 /* keys that are always there */

struct canary {
    uint64_t key;
    uint64_t check; /* ~key while it lives */
};
static int64_t alive;
static void drop_canary(void *ctx, void *object) {
    (void)ctx;
    ((struct canary *)object)->check = 0;
    __atomic_fetch_sub(&alive, 1, __ATOMIC_RELAXED);
}
static const struct pnx_rc_type canary_type = PNX_RC_TYPE(struct canary, .drop = drop_canary);

struct arena {
    struct pnx_cmap *map;
    bool bytes;
    bool rc;
    unsigned rounds;
    uint64_t seed;
};

static size_t key_of(const struct arena *arena, uint64_t i, void *buf) {
    if (arena->bytes)
        return (size_t)snprintf(buf, 32, "key %llu", (unsigned long long)i);
    memcpy(buf, &i, 8);
    return 8;
}

static uint64_t make_value(const struct arena *arena, uint64_t key, uint64_t version) {
    void *object = NULL;
    if (!arena->rc)
        return (version << 16) | key;
    CHECK_EQ(pnx_rc_new(&canary_type, &(struct canary){key, ~key}, &object), 0);
    __atomic_fetch_add(&alive, 1, __ATOMIC_RELAXED);
    return pnx_cmap_value(object);
}
static void drop_value(const struct arena *arena, uint64_t value) {
    if (arena->rc)
        pnx_rc_unref(pnx_cmap_object(value));
}
/* Whether a value is one of the key's, and not one that is gone. */
static void check_value(const struct arena *arena, uint64_t key, uint64_t value) {
    if (arena->rc) {
        const struct canary *canary = pnx_cmap_object(value);
        CHECK_EQ(canary->key, key);
        CHECK_EQ(canary->check, ~key);
    } else {
        CHECK_EQ(value & 0xffff, key);
    }
}

static void put(const struct arena *arena, uint64_t key, uint64_t version) {
    char buf[32];
    size_t n = key_of(arena, key, buf);
    uint64_t value = make_value(arena, key, version);
    CHECK_EQ(pnx_cmap_put(arena->map, buf, n, value), 0);
    drop_value(arena, value);
}

/* Keys that are always there are always found, and their values never go back. */
static void read_stable(const struct arena *arena, uint64_t key, uint64_t *newest) {
    char buf[32];
    size_t n = key_of(arena, key, buf);
    uint64_t value = 0;
    if (key % 2) {
        CHECK_EQ(pnx_cmap_get(arena->map, buf, n, &value), 0);
        check_value(arena, key, value);
    } else {
        pnx_reclaim_enter(NULL);
        CHECK_EQ(pnx_cmap_peek(arena->map, buf, n, &value), 0);
        check_value(arena, key, value);
        pnx_reclaim_exit(NULL);
    }
    if (!arena->rc) {
        CHECK((value >> 16) >= newest[key]);
        newest[key] = value >> 16;
    }
    if (key % 2)
        drop_value(arena, value);
}

static void read_batch(const struct arena *arena, uint64_t first) {
    uint64_t keys[64], values[64], found;
    if (arena->bytes)
        return;
    for (unsigned i = 0; i < 64; i++)
        keys[i] = (first + i) % STABLE;
    CHECK_EQ(pnx_cmap_get_words(arena->map, keys, 64, values, &found), 64);
    for (unsigned i = 0; i < 64; i++) {
        check_value(arena, keys[i], values[i]);
        drop_value(arena, values[i]);
    }
}

static int count_stable(void *ctx, const void *key, size_t key_size, uint64_t value) {
    const struct arena *arena = ((void **)ctx)[0];
    unsigned char *seen = ((void **)ctx)[1];
    uint64_t word = 0;
    if (arena->bytes) {
        char text[32] = {0};
        memcpy(text, key, key_size);
        word = strtoull(text + 4, NULL, 10);
    } else {
        memcpy(&word, key, 8);
    }
    check_value(arena, word, value);
    if (word < STABLE)
        seen[word]++;
    return 0;
}

static void walk(struct arena *arena) {
    unsigned char seen[STABLE] = {0};
    void *ctx[2] = {arena, seen};
    CHECK_EQ(pnx_cmap_foreach(arena->map, count_stable, ctx), 0);
    for (unsigned i = 0; i < STABLE; i++)
        CHECK_EQ(seen[i], 1);
}

static void work(unsigned index, void *ctx) {
    struct arena *arena = ctx;
    uint64_t random = arena->seed + index;
    uint64_t newest[STABLE] = {0};
    char buf[32];
    for (unsigned r = 0; r < arena->rounds; r++) {
        uint64_t what = test_random(&random) % 1000;
        uint64_t stable = test_random(&random) % STABLE;
        uint64_t other = STABLE + test_random(&random) % 3000;
        if (what < 400)
            read_stable(arena, stable, newest);
        else if (what < 500)
            put(arena, stable - stable % THREADS + index,
                    r + 1); /* one writer a key: it counts up */
        else if (what < 700)
            put(arena, other, 1);
        else if (what < 950)
            (void)pnx_cmap_remove(arena->map, buf, key_of(arena, other, buf), NULL);
        else if (what < 990)
            read_batch(arena, stable);
        else if (what < 996)
            walk(arena);
        else if (what < 998)
            CHECK_EQ(pnx_cmap_shrink(arena->map), 0);
        else
            CHECK_EQ(pnx_cmap_reserve(arena->map, test_random(&random) % 8000), 0);
    }
}

static void run(bool bytes, bool rc) {
    struct arena arena = {.bytes = bytes,
            .rc = rc,
            .seed = test_seed(),
            .rounds = test_long()   ? 2000000
                      : test_slow() ? 4000
                                    : 60000};
    struct test_env te;
    test_env_init(&te);
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.env = &te.env, .shards = 2, .key_size = bytes ? 0 : 8,
                                     .flags = rc ? PNX_CMAP_RC : 0),
                     NULL, &arena.map),
            0);
    for (uint64_t i = 0; i < STABLE; i++)
        put(&arena, i, 0);
    test_threads(THREADS, work, &arena);
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(arena.map, &err) == 0, "%s", err.message);
    pnx_cmap_release(&arena.map);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(alive, 0);
    test_env_check_empty(&te);
}

TEST(p2_words_are_found_whatever_moves) {
    run(false, false);
}
TEST(p2_bytes_are_found_whatever_moves) {
    run(true, false);
}
TEST(p6_objects_live_as_long_as_they_are_read) {
    run(false, true);
    run(true, true);
}
TEST(p5_walks_beside_writers_meet_stable_keys_once) {
    run(true, false); /* walk() checks it, a hundred times and more */
}

/* Threads that read while the map is closed and let go by its maker. */
static void read_until_closed(unsigned index, void *ctx) {
    struct arena *arena = ctx;
    struct pnx_cmap *map = NULL;
    uint64_t random = arena->seed + index;
    if (index == 0) {
        for (uint64_t i = 0; i < 2000; i++)
            put(arena, i, 1);
        pnx_cmap_close(arena->map);
        return;
    }
    map = pnx_cmap_ref(arena->map);
    for (;;) {
        uint64_t key = test_random(&random) % 2000;
        uint64_t value;
        int rc = pnx_cmap_get(map, &key, 8, &value);
        if (rc == -ESHUTDOWN)
            break;
        CHECK(rc == 0 || rc == -ENOENT);
        if (rc == 0) {
            check_value(arena, key, value);
            drop_value(arena, value);
        }
    }
    pnx_cmap_release(&map);
}

TEST(p6_close_beside_readers) {
    for (int round = 0; round < (test_slow() ? 5 : 50); round++) {
        struct arena arena = {.rc = true, .seed = test_seed()};
        CHECK_EQ(pnx_cmap_create(
                         PNX_CMAP_OPTS(.key_size = 8, .flags = PNX_CMAP_RC), NULL, &arena.map),
                0);
        test_threads(THREADS, read_until_closed, &arena);
        pnx_cmap_release(&arena.map);
        CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
        CHECK_EQ(alive, 0);
    }
}

/* Sums by compute: no update is lost, over few keys and many threads. */
static int add_one(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)ctx;
    *ret_value = current ? *current + 1 : 1;
    return PNX_CMAP_STORE;
}
static void sum(unsigned index, void *ctx) {
    struct arena *arena = ctx;
    uint64_t random = arena->seed + index;
    for (unsigned r = 0; r < arena->rounds; r++) {
        uint64_t key = test_random(&random) % 5;
        CHECK_EQ(pnx_cmap_compute(arena->map, &key, 8, add_one, NULL, NULL), 0);
    }
}
TEST(p3_no_update_by_compute_is_lost) {
    struct arena arena = {.seed = test_seed(), .rounds = test_slow() ? 2000 : 20000};
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8), NULL, &arena.map), 0);
    test_threads(THREADS, sum, &arena);
    uint64_t total = 0;
    for (uint64_t key = 0; key < 5; key++) {
        uint64_t value = 0;
        CHECK_EQ(pnx_cmap_get_word(arena.map, key, &value), 0);
        total += value;
    }
    CHECK_EQ(total, (uint64_t)THREADS * arena.rounds);
    pnx_cmap_release(&arena.map);
}
