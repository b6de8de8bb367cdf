/* SPDX-License-Identifier: Apache-2.0 */
/* test_table.c - the index of a shard, where it is small and full: searches end. */
#include "cache/common.h"
#include "cache/internal.h"

static void open_cache(struct fixture *f, uint32_t bytes) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity_entries = PNX_CACHE_FIRST_SLOTS, .key_bytes = bytes,
                            .value_bytes = bytes, .policy = "fifo"));
}

static int put(struct fixture *f, uint64_t key) {
    return pnx_cache_put(f->cache, &key, 8, &key, 8, 0);
}

static int get(struct fixture *f, uint64_t key) {
    uint64_t value = key;
    int rc = pnx_cache_get_copy(f->cache, &key, 8, &value, 8, NULL);
    CHECK_EQ(value, key);
    return rc;
}

/* Has each line, or group where sizes are fixed, count one more key that went past. */
static void go_past(struct pnx_cache_table *table, uint32_t bytes, uint64_t by) {
    for (uint32_t i = 0; i < table->n_lines; i++) {
        if (bytes)
            table->groups[i].high.v +=
                    (by << PNX_CACHE_LEFT_SHIFT) + (by << PNX_CACHE_PASSED_SHIFT);
        else
            table->lines[i].passed.v += (uint32_t)by;
    }
}

/* Keys that stand behind their own line come and go at different times: all lines may count some at once. */
TEST_LIMIT(a_search_for_what_is_not_there_ends_though_each_line_was_gone_past, 10) {
    for (uint32_t bytes = 0; bytes <= 8; bytes += 8) {
        struct fixture f;
        open_cache(&f, bytes);
        CHECK_EQ(put(&f, 1), 0);
        struct pnx_cache_table *table = f.cache->shards->own_table;
        go_past(table, bytes, 1);
        CHECK_EQ(get(&f, 1), 0);
        CHECK_EQ(get(&f, 2), -ENOENT);
        CHECK_EQ(put(&f, 2), 0); /* which looks for it first */
        CHECK_EQ(get(&f, 2), 0);
        uint64_t key = 3, found = 0;
        CHECK_EQ(pnx_cache_remove(f.cache, &key, 8), -ENOENT);
        CHECK_EQ(pnx_cache_get_many(f.cache, &key, 8, 1, &key, 8, &found), 0);
        go_past(table, bytes, (uint64_t)-1);
        fixture_close(&f);
    }
}

/* With 128 entries that are all replaced by others this comes about after some 400,000 on average. */
TEST_LIMIT(a_small_full_cache_takes_millions_of_keys_one_after_the_other, 120) {
    for (uint32_t bytes = 0; bytes <= 8; bytes += 8) {
        struct fixture f;
        open_cache(&f, bytes);
        uint64_t most = test_slow() ? 200000 : 2000000;
        for (uint64_t key = 0; key < most; key++) {
            CHECK_EQ(put(&f, key), 0);
            if (key % 4096 == 0)
                check_invariants(&f);
        }
        CHECK_EQ(stats_of(&f).entries, PNX_CACHE_FIRST_SLOTS);
        for (uint64_t key = most - PNX_CACHE_FIRST_SLOTS; key < most; key++)
            CHECK_EQ(get(&f, key), 0);
        fixture_close(&f);
    }
}

/* A real one has 2^24 and more: the number is a smaller one here. */
TEST(a_shard_with_all_the_slots_that_it_can_have_evicts) {
    for (uint32_t bytes = 0; bytes <= 8; bytes += 8) {
        struct fixture f;
        fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10000, .shards = 1, .key_bytes = bytes,
                                 .value_bytes = bytes, .policy = "fifo"));
        f.cache->slots_most = 300;
        for (uint64_t key = 0; key < 1000; key++)
            CHECK_EQ(put(&f, key), 0);
        check_invariants(&f);
        struct pnx_cache_stats stats = stats_of(&f);
        CHECK_EQ(stats.entries, 300);
        CHECK_EQ(stats.removed_size, 700);
        CHECK_EQ(get(&f, 699), -ENOENT);
        CHECK_EQ(get(&f, 700), 0);
        fixture_close(&f);
    }
}
