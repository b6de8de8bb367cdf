/* SPDX-License-Identifier: Apache-2.0 */
/* test_fixed_check.c - pnx_cache_check() sees each thing of fixed sizes that other tests rely on it to see. */
#include "cache/fixed_bytes.h"
#include "cache/internal.h"

/* The check says so while a word has another value, and nothing once it has its own again. */
static void check_sees(
        struct fixture *f, void *word, const void *other, size_t size, const char *said) {
    unsigned char own[sizeof(uint64_t)];
    memcpy(own, word, size);
    CHECK(memcmp(own, other, size) != 0);
    memcpy(word, other, size);
    CHECK_EQ(pnx_cache_check(f->cache, &f->err), PNX_E_BROKEN);
    CHECK_CONTAINS(f->err.message, said);
    memcpy(word, own, size);
    check_invariants(f);
}

static void check_sees_u32(struct fixture *f, uint32_t *word, uint32_t other, const char *said) {
    check_sees(f, word, &other, sizeof(other), said);
}

static void check_sees_u64(struct fixture *f, uint64_t *word, uint64_t other, const char *said) {
    check_sees(f, word, &other, sizeof(other), said);
}

/* Slots 0..LIVE-1 live, the first TIMED of them expire in seconds, in this order; slots LIVE and LIVE + 1 are free. */
enum { LIVE = 6, TIMED = 3, HOLES = 2 };

static struct pnx_cache_shard *open_filled(struct fixture *f) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity_entries = 100, .key_bytes = 8, .value_bytes = 8));
    for (uint64_t i = 0; i < LIVE + HOLES; i++) {
        pnx_ns ttl = i < TIMED ? (pnx_ns)(i + 1) * PNX_SEC : PNX_NEVER;
        CHECK_EQ(pnx_cache_put(f->cache, &i, 8, &i, 8, ttl), 0);
    }
    for (uint64_t i = LIVE; i < LIVE + HOLES; i++)
        CHECK_EQ(pnx_cache_remove(f->cache, &i, 8), 0);
    struct pnx_cache_shard *shard = f->cache->shards;
    CHECK_EQ(f->cache->n_shards, 1);
    CHECK_EQ(shard->live, LIVE);
    CHECK_EQ(shard->used, LIVE + HOLES);
    CHECK_EQ(shard->timed, TIMED);
    check_invariants(f);
    return shard;
}

static struct pnx_cache_fixed *record(struct pnx_cache_shard *shard, uint32_t slot) {
    return pnx__cache_fixed_at(shard->own_table, slot);
}

TEST(a_record_that_is_not_what_the_index_says_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    check_sees_u32(&f, &record(shard, 0)->seq.v, record(shard, 0)->seq.v + 1,
            "the index holds a slot that is not live");
    /* Another key: it stands in a line of another, or behind one that nobody went past, or is not found. */
    struct pnx_cache_fixed *last = record(shard, LIVE - 1);
    last->word[0].v ^= 0x5555;
    CHECK_EQ(pnx_cache_check(f.cache, &f.err), PNX_E_BROKEN);
    last->word[0].v ^= 0x5555;
    check_invariants(&f);
    /* One that stands in two records is found in one of them. */
    uint64_t own = LIVE - 1, other = 0;
    memcpy((void *)last->word, &other, 8);
    CHECK_EQ(pnx_cache_check(f.cache, &f.err), PNX_E_BROKEN);
    memcpy((void *)last->word, &own, 8);
    /* A free slot that says it holds something: its key is a link of the list of free ones, and not in the index. */
    check_sees_u32(&f, &record(shard, LIVE)->seq.v, record(shard, LIVE)->seq.v + 1,
            "an entry is not found by its key");
    fixture_close(&f);
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

TEST(a_list_of_free_records_that_is_not_in_order_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    check_sees_u32(&f, &shard->free_first, 1000, "the list of free slots is broken");
    check_sees_u32(&f, &shard->free_first, LIVE + 1, "the slots do not add up");
    check_sees_u32(&f, &record(shard, LIVE)->word[0].v, PNX_CACHE_NONE, "the slots do not add up");
    check_sees_u32(&f, &record(shard, LIVE + 1)->word[0].v, LIVE, "the slots do not add up");
    fixture_close(&f);
}

/* The bucket in which slot 0 stands: its one second is 14 ticks. */
static uint32_t *bucket_of_first(struct pnx_cache_shard *shard, uint32_t *ret_bucket) {
    for (uint32_t b = 0; b < PNX_CACHE_WHEEL_BUCKETS; b++) {
        if (shard->wheel->list[0][b] == 1) {
            *ret_bucket = b;
            return &shard->wheel->list[0][b];
        }
    }
    test_fail(__FILE__, __LINE__, "slot 0 stands in no bucket of the lowest level");
}

TEST(a_wheel_that_is_not_in_order_is_seen) {
    static const uint8_t none[3] = {0}, itself[3] = {1}, beyond[3] = {200};
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
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
    uint8_t second[3] = {2}; /* what another bucket holds, too */
    check_sees(&f, record(shard, 0)->wheel, second, 3, "the wheel's slots do not add up");
    check_sees_u32(&f, &wheel->due, 2, "the wheel's slots do not add up");
    check_sees_u32(&f, &record(shard, LIVE - 1)->expires.v, 100, "the wheel does not know it");
    /* A list that leads to a slot which says that it is in none. */
    check_sees_u32(&f, list, LIVE, "a bucket of the wheel breaks off");
    fixture_close(&f);
}

TEST(a_policy_that_does_not_hold_what_the_records_do_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    shard->policy->remove(shard->policy_state, 0);
    CHECK_EQ(pnx_cache_check(f.cache, &f.err), PNX_E_BROKEN);
    CHECK_CONTAINS(f.err.message, "the list does not hold the held slots");
    shard->policy->insert(shard->policy_state, 0);
    check_invariants(&f);
    fixture_close(&f);
}
