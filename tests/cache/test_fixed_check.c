/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed_check.c - pnx_cache_check() sees each thing of fixed sizes that other tests rely on it to see. */
#include "cache/broken.h"

static struct pnx_cache_shard *open_filled(struct fixture *f) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity_entries = 100, .key_bytes = 8, .value_bytes = 8));
    for (uint64_t i = 0; i < LIVE + HOLES; i++) {
        pnx_ns ttl = i < TIMED ? (pnx_ns)(i + 1) * PNX_SEC : PNX_NEVER;
        CHECK_EQ(pnx_cache_put(f->cache, &i, 8, &i, 8, ttl), 0);
    }
    for (uint64_t i = LIVE; i < LIVE + HOLES; i++)
        CHECK_EQ(pnx_cache_remove(f->cache, &i, 8), 0);
    return the_shard(f);
}

/* The slot of a key, and its record. */
static uint32_t slot_of(struct pnx_cache_shard *shard, uint64_t key) {
    struct pnx_cache_found_fixed found;
    CHECK(pnx__cache_fixed_search(shard->own_table, pnx__hash(shard->cache->seed, &key, 8), &key, 8,
            shard->cache->shape.stride, true, &found));
    return found.slot;
}

static struct pnx_cache_fixed *record(struct pnx_cache_shard *shard, uint64_t key) {
    return pnx__cache_fixed_at(shard->own_table, slot_of(shard, key));
}

/* A slot in which nothing stands. */
static uint32_t hole(struct pnx_cache_shard *shard) {
    uint32_t slot = 0;
    while (!(pnx__cache_fixed_at(shard->own_table, slot)->seq.v & 1))
        slot++;
    return slot;
}

TEST(a_record_that_is_not_what_the_index_says_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    struct pnx_cache_fixed *last = record(shard, LIVE - 1), *first = record(shard, 0);
    check_sees_u32(&f, &first->seq.v, first->seq.v + 1, "the index holds a slot that is not live");
    /* Another key: its home, or its tag, is another. */
    last->word[0].v ^= 0x5555;
    CHECK_EQ(pnx_cache_check(f.cache, &f.err), PNX_E_BROKEN);
    last->word[0].v ^= 0x5555;
    check_invariants(&f);
    /* One that stands in two records is found in one of them. */
    uint64_t own = LIVE - 1, other = 0;
    memcpy((void *)last->word, &other, 8);
    CHECK_EQ(pnx_cache_check(f.cache, &f.err), PNX_E_BROKEN);
    memcpy((void *)last->word, &own, 8);
    struct pnx_cache_fixed *none = pnx__cache_fixed_at(shard->own_table, hole(shard));
    check_sees_u32(
            &f, &none->seq.v, none->seq.v + 1, "a slot is live, and the index does not hold it");
    fixture_close(&f);
}

/* Fills its only shard until a key has left its home, and gone past another group if that is asked for. */
static uint32_t open_crowded(struct fixture *f, bool past, uint64_t *ret_key) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity_entries = 3000, .key_bytes = 8, .value_bytes = 8,
                            .shards = 1, .policy = "fifo"));
    for (uint64_t key = 0; key < 1000000; key++) {
        CHECK_EQ(pnx_cache_put(f->cache, &key, 8, &key, 8, 0), 0);
        struct pnx_cache_shard *shard = f->cache->shards;
        uint64_t hash = pnx__hash(f->cache->seed, &key, 8);
        uint32_t home = pnx__cache_fixed_home(shard->own_table, hash);
        uint32_t second = pnx__cache_fixed_second(shard->own_table, hash, home);
        uint32_t group = slot_of(shard, key) / PNX_CACHE_GROUP_SLOTS;
        if (group != home && (!past || group != second)) {
            *ret_key = key;
            check_invariants(f);
            return past ? second : home;
        }
    }
    test_fail(__FILE__, __LINE__, "no key stands where it is wanted");
}

TEST(counts_of_keys_that_went_past_that_are_wrong_are_seen) {
    for (int past = 0; past < 2; past++) {
        struct fixture f;
        uint64_t key;
        uint32_t g = open_crowded(&f, past, &key);
        uint64_t *high = &f.cache->shards->own_table->groups[g].high.v;
        uint32_t shift = past ? PNX_CACHE_PASSED_SHIFT : PNX_CACHE_LEFT_SHIFT;
        uint64_t one = UINT64_C(1) << shift, all = PNX_CACHE_PASSED_MOST * one;
        check_sees_u64(&f, high, *high + one, "do not add up");
        check_sees_u64(&f, high, *high & ~all,
                past ? "behind a group that nobody went past" : "which none has left");
        fixture_close(&f);
    }
}

/* As many as a count can say: it stays so, and searches only take longer. */
TEST(a_count_of_keys_that_went_past_which_is_full_stays_so) {
    for (int past = 0; past < 2; past++) {
        struct fixture f;
        uint64_t key, value = 0;
        uint32_t g = open_crowded(&f, past, &key);
        uint64_t *high = &f.cache->shards->own_table->groups[g].high.v;
        uint32_t shift = past ? PNX_CACHE_PASSED_SHIFT : PNX_CACHE_LEFT_SHIFT;
        *high |= (uint64_t)PNX_CACHE_PASSED_MOST << shift;
        check_invariants(&f);
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, &value, 8, NULL), 0);
        CHECK_EQ(pnx_cache_remove(f.cache, &key, 8), 0);
        CHECK_EQ(*high >> shift & PNX_CACHE_PASSED_MOST, PNX_CACHE_PASSED_MOST);
        CHECK_EQ(pnx_cache_get_copy(f.cache, &key, 8, &value, 8, NULL), -ENOENT);
        for (uint64_t k = 2000000; k < 2020000; k++) {
            CHECK_EQ(pnx_cache_put(f.cache, &k, 8, &k, 8, 0), 0);
            CHECK_EQ(pnx_cache_get_copy(f.cache, &k, 8, &value, 8, NULL), 0);
        }
        CHECK_EQ(*high >> shift & PNX_CACHE_PASSED_MOST, PNX_CACHE_PASSED_MOST);
        check_invariants(&f);
        fixture_close(&f);
    }
}

TEST(sums_of_fixed_sizes_that_do_not_add_up_are_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    struct pnx_cache *cache = f.cache;
    check_sees_u32(&f, &shard->live, LIVE + 1, "the index's counts do not add up");
    check_sees_u64(&f, &shard->bytes.v, 0, "the bytes do not add up");
    check_sees_u64(&f, &shard->entries.v, 0, "the entries do not add up");
    check_sees_u64(&f, &shard->counters.inserts.v, 0, "the entries do not add up");
    check_sees_u64(&f, &cache->capacity_entries.v, LIVE - 1, "the capacity is exceeded");
    check_sees_u64(&f, &cache->capacity.v, 1, "the capacity is exceeded");
    check_sees_u64(&f, &cache->used_entries.v, LIVE - 1, "that nobody took room for");
    check_sees_u64(&f, &cache->used_bytes.v, 1, "that nobody took room for");
    check_sees_u32(&f, &shard->own_table->epoch, 1, "a table is of another time than its shard");
    fixture_close(&f);
}

/* The bucket in which key 0 stands: its one second is 14 ticks. */
static uint32_t *bucket_of_first(struct pnx_cache_shard *shard, uint32_t *ret_bucket) {
    for (uint32_t b = 0; b < PNX_CACHE_WHEEL_BUCKETS; b++) {
        if (shard->wheel->list[0][b] == slot_of(shard, 0) + 1) {
            *ret_bucket = b;
            return &shard->wheel->list[0][b];
        }
    }
    test_fail(__FILE__, __LINE__, "key 0 stands in no bucket of the lowest level");
}

TEST(a_wheel_that_is_not_in_order_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    const uint8_t none[3] = {0}, itself[3] = {(uint8_t)(slot_of(shard, 0) + 1)}, beyond[3] = {200};
    struct pnx_cache_wheel *wheel = shard->wheel;
    uint32_t bucket = 0, *list = bucket_of_first(shard, &bucket);
    check_sees_u32(&f, &shard->timed, TIMED + 1, "the wheel's slots do not add up");
    check_sees_u32(&f, list, 0, "does not know which of its buckets are filled");
    check_sees_u64(&f, &wheel->filled[0], wheel->filled[0] & ~(UINT64_C(1) << bucket),
            "does not know which of its buckets are filled");
    check_sees_u64(&f, &wheel->filled[4], 1, "does not know which of its buckets are filled");
    check_sees_u32(&f, list, 1000, "a bucket of the wheel does not end");
    check_sees(&f, record(shard, 0)->wheel, itself, 3, "a bucket of the wheel does not end");
    check_sees(&f, record(shard, 0)->wheel, beyond, 3, "a bucket of the wheel does not end");
    check_sees(&f, record(shard, 0)->wheel, none, 3, "the wheel does not know it");
    uint8_t second[3] = {(uint8_t)(slot_of(shard, 1) + 1)}; /* what another bucket holds, too */
    check_sees(&f, record(shard, 0)->wheel, second, 3, "the wheel's slots do not add up");
    check_sees_u32(&f, &wheel->due, slot_of(shard, 1) + 1, "the wheel's slots do not add up");
    check_sees_u32(&f, &record(shard, LIVE - 1)->expires.v, 100, "the wheel does not know it");
    /* A list that leads to a slot which says that it is in none. */
    check_sees_u32(&f, list, slot_of(shard, LIVE - 1) + 1, "a bucket of the wheel breaks off");
    fixture_close(&f);
}

TEST(a_policy_that_does_not_hold_what_the_records_do_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    check_sees_a_policy(&f, shard, slot_of(shard, 0));
    fixture_close(&f);
}
