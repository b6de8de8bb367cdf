/* SPDX-License-Identifier: Apache-2.0 */
/* test_cmap_hash.c - keys that collide, by chance, by a bad function or by intent; SipHash. */
#include "harness/harness.h"
#include "share/cmap.h"
#include "share/cmap_hash.h"

#include <errno.h>

static void put_word(struct pnx_cmap *map, uint64_t key, uint64_t value) {
    CHECK_EQ(pnx_cmap_put(map, &key, sizeof(key), value), 0);
}

static void end(struct pnx_cmap **map) {
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(*map, &err) == 0, "%s", err.message);
    pnx_cmap_release(map);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
}

static int count_visit(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)key;
    (void)key_size;
    (void)value;
    ++*(int *)ctx;
    return 0;
}

static uint64_t same_hash(void *ctx, const void *key, size_t key_size) {
    (void)ctx;
    (void)key;
    (void)key_size;
    return 1;
}

TEST(a_hash_that_collides_always_is_slow_and_right) {
    for (int bytes = 0; bytes < 2; bytes++) {
        struct pnx_cmap *map = NULL;
        CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = bytes ? 0 : 8, .hash_fn = same_hash),
                         NULL, &map),
                0);
        for (uint64_t i = 0; i < 1200; i++)
            put_word(map, i, i);
        for (uint64_t i = 0; i < 1200; i += 2)
            CHECK_EQ(pnx_cmap_remove(map, &i, 8, NULL), 0);
        for (uint64_t i = 0; i < 1200; i++) {
            uint64_t value = 0;
            CHECK_EQ(pnx_cmap_get(map, &i, 8, &value), i % 2 ? 0 : -ENOENT);
            if (i % 2)
                CHECK_EQ(value, i);
        }
        for (uint64_t i = 0; i < 1200; i += 2)
            put_word(map, i, i + 1);
        CHECK_EQ(pnx_cmap_len(map), 1200);
        int calls = 0;
        CHECK_EQ(pnx_cmap_foreach(map, count_visit, &calls), 0);
        CHECK_EQ(calls, 1200);
        end(&map);
    }
}

/* What an enemy would have to know. */
static uint64_t hash_of(const struct pnx_cmap *map, const void *key, size_t size) {
    struct pnx_cmap_key made;
    CHECK_EQ(pnx__cmap_key(map, key, size, &made), 0);
    return made.hash;
}

static uint64_t longest_probe(const struct pnx_cmap *map) {
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    return stats.max_probe;
}

/*
 * Floods two maps with keys that were made to collide under the secret of the first: they stand in one row there, and
 * everywhere in the second.
 */
static void flood(uint32_t key_size, uint32_t hash) {
    enum { KEYS = 2000 };
    static char keys[KEYS][24];
    struct pnx_cmap *maps[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = key_size, .shards = 1, .hash = hash),
                         NULL, &maps[i]),
                0);
    unsigned n = 0;
    for (uint64_t i = 0; n < KEYS; i++) {
        size_t size = key_size;
        memset(keys[n], 0, sizeof(keys[n]));
        if (key_size)
            memcpy(keys[n], &i, 8);
        else
            size = (size_t)snprintf(
                    keys[n], sizeof(keys[n]), "session-%llu", (unsigned long long)i);
        if (hash_of(maps[0], keys[n], size) >> 56 != 0)
            continue; /* what an attacker who knew maps[0] would send */
        for (int m = 0; m < 2; m++)
            CHECK_EQ(pnx_cmap_put(maps[m], keys[n], size, n), 0);
        n++;
    }
    CHECK(longest_probe(maps[0]) > 300);
    CHECK_MSG(longest_probe(maps[1]) < 60, "%d", (int)longest_probe(maps[1]));
    for (n = 0; n < KEYS; n++) { /* slow there, but right */
        uint64_t value = KEYS;
        CHECK_EQ(pnx_cmap_get(maps[0], keys[n], key_size ? key_size : strlen(keys[n]), &value), 0);
        CHECK_EQ(value, n);
    }
    end(&maps[0]);
    end(&maps[1]);
}

TEST(keys_that_collide_in_one_map_do_not_in_another) {
    static const uint32_t sizes[] = {8, 16, 0};
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        flood(sizes[i], PNX_CMAP_HASH_XXH3);
        flood(sizes[i], PNX_CMAP_HASH_SIPHASH);
    }
}

/* Keys of a kind that an enemy may try without knowing anything: they differ in few bits, or in the same few. */
TEST(keys_that_differ_in_few_bits_do_not_collide) {
    static const unsigned shifts[] = {0, 8, 20, 32, 44, 50};
    for (unsigned i = 0; i < sizeof(shifts) / sizeof(shifts[0]); i++) {
        struct pnx_cmap *map = NULL;
        CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .shards = 1), NULL, &map), 0);
        for (uint64_t k = 0; k < 10000; k++)
            put_word(map, k << shifts[i], k);
        CHECK_MSG(longest_probe(map) < 60, "keys shifted by %u: %d buckets", shifts[i],
                (int)longest_probe(map));
        end(&map);
    }
}

struct events {
    int resized;
    int long_probes;
};
static void on_event(void *ctx, const struct pnx_event *event) {
    struct events *events = ctx;
    events->resized += event->type == PNX_EVENT_CMAP_RESIZED;
    events->long_probes += event->type == PNX_EVENT_CMAP_LONG_PROBES;
}

TEST(resizes_and_long_probes_are_events) {
    struct pnx_stats *set = NULL;
    struct events events = {0};
    uint32_t id;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    CHECK_EQ(pnx_monitor_add(set,
                     &(struct pnx_monitor){
                             .size = sizeof(struct pnx_monitor), .event = on_event, .ctx = &events},
                     &id),
            0);
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.key_size = 8, .stats = set, .hash_fn = same_hash), NULL, &map),
            0);
    for (uint64_t i = 0; i < 2000; i++)
        put_word(map, i, i);
    CHECK(events.resized > 5);
    CHECK(events.long_probes > 0);
    end(&map);
    pnx_stats_release(&set);
}

TEST(siphash_is_siphash) {
    /* SipHash-1-3 of 00 01 .. 0e under the key 00 01 .. 0f: the reference implementation's vector. */
    uint64_t secret[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    unsigned char data[64];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)i;
    CHECK(pnx__cmap_siphash(secret, data, 0) == UINT64_C(0xabac0158050fc4dc));
    CHECK(pnx__cmap_siphash(secret, data, 1) == UINT64_C(0xc9f49bf37d57ca93));
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.hash = PNX_CMAP_HASH_SIPHASH), NULL, &map), 0);
    for (size_t n = 0; n < sizeof(data); n++)
        CHECK_EQ(pnx_cmap_put(map, data, n, n), 0);
    for (size_t n = 0; n < sizeof(data); n++) {
        uint64_t value = 0;
        CHECK_EQ(pnx_cmap_get(map, data, n, &value), 0);
        CHECK_EQ(value, n);
    }
    end(&map);
}
