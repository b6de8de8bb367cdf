/* SPDX-License-Identifier: Apache-2.0 */
/* Keys that were chosen to collide: under another seed they are keys like any others. */
#include "cache/common.h"

#include "base/hash.h"
#include "cache/internal.h"

/* How many steps to another line all searches for stored keys take together. */
static uint64_t steps(const struct fixture *f) {
    uint64_t sum = 0;
    for (uint32_t s = 0; s < f->cache->n_shards; s++) {
        const struct pnx_cache_table *table = f->cache->shards[s].own_table;
        for (uint32_t l = 0; l < table->n_lines; l++)
            sum += table->lines[l].passed.v;
    }
    return sum;
}

static void open_seeded(struct fixture *f, uint64_t seed, uint64_t entries) {
    fixture_worlds(f);
    f->te.random_state = seed;
    const struct pnx_cache_opts opts = fixture_opts(
            f, PNX_CACHE_OPTS(.capacity_entries = entries, .policy = "fifo", .shards = 1));
    CHECK_EQ(pnx_cache_create(&opts, &f->err, &f->cache), 0);
}

static void put_key(struct fixture *f, uint64_t key) {
    CHECK_EQ(pnx_cache_put(f->cache, &key, sizeof(key), "x", 2, 0), 0);
}

#define CHOSEN 512u

TEST(keys_chosen_against_one_caches_seed_cost_normal_in_another) {
    struct fixture known, other;
    static uint64_t chosen[CHOSEN];
    uint32_t n = 0;
    open_seeded(&known, 1, 10000);
    open_seeded(&other, 2, 10000);
    /* What an attacker would do who knew the seed: keys of one line, whatever the table's size. */
    for (uint64_t key = 0; n < CHOSEN; key++) {
        if (pnx__cache_hash_high(pnx__hash(known.cache->seed, &key, sizeof(key))) <
                UINT32_MAX / 2048)
            chosen[n++] = key;
    }
    for (uint32_t i = 0; i < CHOSEN; i++) {
        put_key(&known, chosen[i]);
        put_key(&other, chosen[i]);
    }
    CHECK(steps(&known) > CHOSEN * CHOSEN / 12 / 4); /* there it would have worked */
    CHECK_MSG(steps(&other) < CHOSEN / 4, "%llu steps", (unsigned long long)steps(&other));
    fixture_close(&known);
    fixture_close(&other);
}

TEST_LIMIT(a_million_keys_that_share_their_low_bits_cost_as_others_do, 120) {
    struct fixture alike, others;
    uint64_t n = test_slow() ? 50000 : 1000000, rng = 99;
    open_seeded(&alike, 3, n);
    open_seeded(&others, 3, n);
    for (uint64_t i = 0; i < n; i++) {
        put_key(&alike, i << 20 | 0x5a5a5);
        put_key(&others, test_random(&rng));
    }
    CHECK_MSG(steps(&alike) <= 2 * steps(&others) + 100, "%llu steps, with random keys %llu",
            (unsigned long long)steps(&alike), (unsigned long long)steps(&others));
    check_invariants(&alike);
    fixture_close(&alike);
    fixture_close(&others);
}

TEST(each_cache_has_a_seed_of_its_own) {
    struct fixture f, g;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    fixture_open(&g, PNX_CACHE_OPTS(.capacity_entries = 10));
    struct pnx_cache *more = NULL;
    const struct pnx_cache_opts opts = fixture_opts(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(pnx_cache_create(&opts, NULL, &more), 0);
    CHECK(more->seed != f.cache->seed);
    pnx_cache_release(&more);
    fixture_close(&f);
    fixture_close(&g);
}

/* ---- sizes at their ends ---- */

TEST(sizes_that_no_memory_has_are_efbig_for_each_call_that_stores) {
    struct fixture f;
    struct pnx_cache_reservation r = {0};
    static char key[1];
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    const size_t huge[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX - 64, SIZE_MAX - 4096};
    for (size_t i = 0; i < sizeof(huge) / sizeof(huge[0]); i++) {
        CHECK_EQ(pnx_cache_put(f.cache, key, huge[i], "x", 1, 0), -EFBIG);
        CHECK_EQ(pnx_cache_put_if_absent(f.cache, key, huge[i], "x", 1, 0), -EFBIG);
        CHECK_EQ(pnx_cache_put_pointer(f.cache, key, huge[i], &f, 1, 0), -EFBIG);
        CHECK_EQ(pnx_cache_reserve(f.cache, key, huge[i], 1, &r), -EFBIG);
    }
    CHECK_EQ(pnx_cache_put(f.cache, key, 1, key, SIZE_MAX, 0), -EFBIG);
    CHECK_EQ(pnx_cache_put(f.cache, key, 1, key, SIZE_MAX - 100, 0), -EFBIG);
    CHECK_EQ(pnx_cache_put_pointer(f.cache, key, 1, &f, SIZE_MAX, 0), -EFBIG);
    CHECK_EQ(pnx_cache_reserve(f.cache, key, 1, SIZE_MAX, &r), -EFBIG);
    CHECK_EQ(stats_of(&f).inserts, 0);
    CHECK(!r.entry);
    fixture_close(&f);
}
