/* SPDX-License-Identifier: Apache-2.0 */
/* test_check.c - pnx_cache_check() sees each thing that other tests rely on it to see. */
#include "cache/broken.h"

static void check_sees_count(
        struct fixture *f, struct pnx_a64 *word, uint64_t other, const char *said) {
    check_sees(f, word, &other, sizeof(other), said);
}

/* Slots 0..LIVE-1 are live, and LIVE and LIVE + 1 free. */
static struct pnx_cache_shard *open_filled(struct fixture *f) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    for (int i = 0; i < LIVE + HOLES; i++) {
        char name[2] = {(char)('a' + i), '\0'};
        put_text(f, name, "value", i < TIMED ? (i + 1) * PNX_SEC : PNX_NEVER);
    }
    CHECK_EQ(pnx_cache_remove(f->cache, "g", 1), 0);
    CHECK_EQ(pnx_cache_remove(f->cache, "h", 1), 0);
    struct pnx_cache_shard *shard = the_shard(f);
    CHECK_EQ(shard->used, LIVE + HOLES);
    return shard;
}

static struct pnx_cache_record *record(struct pnx_cache_shard *shard, uint32_t slot) {
    return pnx__cache_record(shard->own_table, slot);
}

TEST(sums_that_do_not_add_up_are_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    struct pnx_cache *cache = f.cache;
    struct pnx_cache_entry *entry = pnx__cache_entry_of(shard, 0);
    struct pnx_cache_shard *none = NULL;
    check_sees(&f, &entry->shard, &none, sizeof(none), "belongs to another cache or time");
    check_sees_u64(&f, &entry->u.in.seq, shard->next_seq, "belongs to another cache or time");
    check_sees_u32(&f, &entry->refs.v, 0, "a stored entry has no reference");
    check_sees_u64(&f, &record(shard, 0)->weight, 1, "a record does not say what its entry does");
    check_sees_count(&f, &shard->bytes, 0, "the bytes do not add up");
    check_sees_count(&f, &cache->capacity, 1, "the capacity is exceeded");
    check_sees_count(&f, &cache->capacity_entries, LIVE - 1, "the capacity is exceeded");
    check_sees_count(&f, &cache->used_entries, LIVE - 1, "that nobody took room for");
    check_sees_count(&f, &cache->used_bytes, 1, "that nobody took room for");
    check_sees_count(&f, &shard->counters.inserts, 0, "the entries do not add up");
    check_sees_count(&f, &shard->entries, 0, "the entries do not add up");
    fixture_close(&f);
}

/* The line in which slot 0 stands, and where. */
static struct pnx_cache_line *line_of_first(struct pnx_cache_shard *shard, uint32_t *ret_position) {
    for (uint32_t l = 0; l < shard->own_table->n_lines; l++) {
        struct pnx_cache_line *line = &shard->own_table->lines[l];
        for (uint32_t i = 0; i < 8; i++) {
            if ((line->tags_low.v >> (8 * i) & 0xff) && line->slot[i].v == 0) {
                *ret_position = i;
                return line;
            }
        }
    }
    test_fail(__FILE__, __LINE__, "slot 0 stands nowhere");
}

TEST(an_index_that_is_not_in_order_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    uint32_t at = 0;
    struct pnx_cache_line *line = line_of_first(shard, &at);
    check_sees_u32(&f, &shard->live, LIVE + 1, "the index's counts do not add up");
    check_sees_u64(&f, &line->tags_low.v, line->tags_low.v & ~(UINT64_C(0xff) << (8 * at)),
            "the index's counts do not add up");
    check_sees_u32(&f, &line->slot[at].v, LIVE, "the index holds a slot that is not live");
    check_sees_u32(&f, &line->slot[at].v, 100000, "the index holds a slot that does not exist");
    check_sees_u32(&f, &line->passed.v, 1, "do not add up");
    check_sees_u32(&f, &pnx__cache_entry_of(shard, 0)->u.in.slot, LIVE,
            "the index holds a slot that is not live");
    uint32_t high = record(shard, 0)->hash;
    check_sees_u32(&f, &record(shard, 0)->hash, high ^ UINT32_C(0x80000000),
            "behind a line that nobody went past");
    fixture_close(&f);
}

TEST(a_list_of_free_slots_that_is_not_in_order_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    check_sees_u32(&f, &shard->free_first, 0, "the list of free slots is broken");
    check_sees_u32(&f, &shard->used, LIVE + 1, "the list of free slots is broken");
    check_sees_u32(&f, &record(shard, shard->free_first)->heap_pos, PNX_CACHE_NONE,
            "the slots do not add up");
    fixture_close(&f);
}

TEST(a_heap_that_is_not_in_order_is_seen) {
    struct fixture f;
    struct pnx_cache_shard *shard = open_filled(&f);
    pnx_ns soon = 1;
    pnx_ns never = PNX_NEVER;
    check_sees_u32(&f, &shard->timed, LIVE + 1, "the heap holds more slots than are live");
    check_sees_u32(&f, &shard->timed, TIMED + 1, "the heap holds slots that are not live");
    check_sees(&f, &record(shard, 0)->expires, &never, sizeof(never), "and does not expire");
    check_sees_u32(&f, &record(shard, 0)->heap_pos, 1, "a slot is not where it stands in the heap");
    check_sees(&f, &record(shard, 1)->expires, &soon, sizeof(soon), "expires before its parent");
    fixture_close(&f);
}

TEST(a_policy_that_does_not_hold_what_the_shard_does_is_seen) {
    struct fixture f;
    check_sees_a_policy(&f, open_filled(&f), 0);
    fixture_close(&f);
}
