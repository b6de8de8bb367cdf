/* SPDX-License-Identifier: Apache-2.0 */
/* test_check.c - pnx_cache_check() sees each thing that other tests rely on it to see. */
#include "cache/common.h"
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

static void check_sees_count(
        struct fixture *f, struct pnx_a64 *word, uint64_t other, const char *said) {
    check_sees(f, word, &other, sizeof(other), said);
}

/* Slots 0..LIVE-1 live, the first TIMED of them expire, in this order; slots LIVE and LIVE + 1 are holes. */
enum { LIVE = 6, TIMED = 3, HOLES = 2 };

static void open_filled(struct fixture *f) {
    fixture_open(f, PNX_CACHE_OPTS(.capacity = 1 << 20));
    for (int i = 0; i < LIVE + HOLES; i++) {
        char name[2] = {(char)('a' + i), '\0'};
        put_text(f, name, "value", i < TIMED ? (i + 1) * PNX_SEC : PNX_NEVER);
    }
    CHECK_EQ(pnx_cache_remove(f->cache, "g", 1), 0);
    CHECK_EQ(pnx_cache_remove(f->cache, "h", 1), 0);
    const struct pnx_cache_index *ix = &f->cache->index;
    CHECK_EQ(ix->live, LIVE);
    CHECK_EQ(ix->holes, HOLES);
    CHECK_EQ(ix->timed, TIMED);
    check_invariants(f);
}

static struct pnx_cache_slot *slot(struct fixture *f, uint32_t i) {
    return pnx__cache_slot(&f->cache->index, i);
}

TEST(sums_that_do_not_add_up_are_seen) {
    struct fixture f;
    open_filled(&f);
    struct pnx_cache *cache = f.cache;
    struct pnx_cache_entry *entry = slot(&f, 0)->entry;
    struct pnx_cache *none = NULL;
    size_t little = 1;
    check_sees(&f, &entry->cache, &none, sizeof(none), "belongs to another cache or time");
    check_sees_u64(&f, &entry->seq, cache->next_seq, "belongs to another cache or time");
    check_sees_count(&f, &entry->refs, 0, "a stored entry has no reference");
    check_sees_count(&f, &cache->values.bytes, 0, "the bytes do not add up");
    check_sees(&f, &cache->capacity, &little, sizeof(little), "the capacity is exceeded");
    check_sees_u64(&f, &cache->capacity_entries, LIVE - 1, "the capacity is exceeded");
    check_sees_count(&f, &cache->values.inserts, 0, "the entries do not add up");
    check_sees_count(&f, &cache->values.entries, 0, "the entries do not add up");
    check_sees_count(&f, &cache->values.index, 0, "not those published");
    fixture_close(&f);
}

TEST(an_index_that_is_not_in_order_is_seen) {
    struct fixture f;
    open_filled(&f);
    struct pnx_cache_index *ix = &f.cache->index;
    size_t much = (size_t)1 << 30;
    check_sees_u32(&f, &ix->live, LIVE + 1, "the index's counts do not add up");
    check_sees_u32(&f, &ix->mask, ix->mask * 4 + 3, "the mask does not fit the buckets");
    check_sees(&f, &ix->bytes, &much, sizeof(much), "holds more memory than its entries count for");
    fixture_close(&f);
}

/* The head of the bucket of a live slot that is the only one there. */
static struct pnx_cache_slot *lonely_bucket(struct fixture *f) {
    struct pnx_cache_index *ix = &f->cache->index;
    for (uint32_t b = 0; b < ix->buckets; b++) {
        uint32_t head = slot(f, b)->head;
        if (head != PNX_CACHE_NONE && slot(f, head)->chain == PNX_CACHE_NONE)
            return slot(f, b);
    }
    test_fail(__FILE__, __LINE__, "each bucket is empty or shared");
}

TEST(a_chain_that_is_not_in_order_is_seen) {
    struct fixture f;
    open_filled(&f);
    struct pnx_cache_slot *bucket = lonely_bucket(&f);
    struct pnx_cache_slot *only = slot(&f, bucket->head);
    check_sees_u32(&f, &bucket->head, LIVE, "a chain holds a slot that is not live");
    check_sees_u32(&f, &bucket->head, 1000, "a chain holds a slot that is not live");
    check_sees_u32(&f, &bucket->head, PNX_CACHE_NONE, "the chains lack live slots");
    check_sees_u32(&f, &only->hash, only->hash + 1, "a slot is in the wrong bucket");
    check_sees_u32(&f, &only->entry->slot, LIVE, "an entry does not know its slot");
    check_sees_u32(&f, &only->chain, bucket->head, "the chains hold more slots than are live");
    fixture_close(&f);
}

TEST(a_list_of_holes_that_is_not_in_order_is_seen) {
    struct fixture f;
    open_filled(&f);
    struct pnx_cache_index *ix = &f.cache->index;
    struct pnx_cache_slot *first = slot(&f, ix->first_hole);
    check_sees_u32(&f, &ix->first_hole, 0, "the list of holes is broken");
    check_sees_u32(&f, &first->prev, 0, "the list of holes is broken");
    check_sees_u32(&f, &first->chain, PNX_CACHE_NONE, "there are fewer holes than counted");
    fixture_close(&f);
}

TEST(a_heap_that_is_not_in_order_is_seen) {
    struct fixture f;
    open_filled(&f);
    struct pnx_cache_index *ix = &f.cache->index;
    pnx_ns soon = 1;
    pnx_ns never = PNX_NEVER;
    check_sees_u32(&f, &ix->timed, LIVE + 1, "the heap holds more slots than are live");
    check_sees_u32(&f, &ix->timed, TIMED + 1, "the heap holds slots that are not live");
    check_sees(&f, &slot(&f, 0)->expires, &never, sizeof(never), "and does not expire");
    check_sees_u32(&f, &slot(&f, 0)->heap_pos, 1, "a slot is not where it stands in the heap");
    check_sees(&f, &slot(&f, 1)->expires, &soon, sizeof(soon), "expires before its parent");
    fixture_close(&f);
}

/* As in policies/lru.c. */
struct lru_word {
    uint32_t newer;
    uint32_t older;
};

TEST(an_lru_list_that_is_not_in_order_is_seen) {
    struct fixture f;
    open_filled(&f);
    struct pnx_cache_index *ix = &f.cache->index;
    struct lru_word *newest = pnx__cache_policy_word(ix, LIVE - 1);
    struct lru_word *oldest = pnx__cache_policy_word(ix, 0);
    CHECK_EQ(newest->newer, PNX_CACHE_NONE);
    CHECK_EQ(newest->older, LIVE - 2);
    CHECK_EQ(oldest->older, PNX_CACHE_NONE);
    check_sees_u32(&f, &newest->older, LIVE, "the LRU list holds a slot that is not live");
    check_sees_u32(&f, &newest->newer, 0, "the LRU list's links do not agree");
    check_sees_u32(&f, &newest->older, PNX_CACHE_NONE, "the LRU list's tail is not its last slot");
    fixture_close(&f);
}
