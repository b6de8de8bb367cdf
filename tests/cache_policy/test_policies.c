/* SPDX-License-Identifier: Apache-2.0 */
/* What each policy is known for, on sequences that can be followed by hand.  Whole traces: equality.py. */
#include "cache_policy/owner.h"

static void open_entries(struct owner *o, const char *name, uint64_t capacity) {
    owner_open(o, pnx_cache_policy_find(name), capacity, 0, OWNER_SLOTS, 1);
}

/* Fills slots 0 to n - 1, in this order. */
static void fill(struct owner *o, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        owner_insert(o, i, i, 1, PNX_NEVER);
}

/* Victims come in this order. */
static void expect(struct owner *o, const char *order) {
    for (const char *c = order; *c; c++) {
        uint32_t slot = owner_victim(o, 0, 1);
        CHECK_MSG(slot == (uint32_t)(*c - '0'), "%s: victim %u instead of %c of %s",
                o->policy->name, slot, *c, order);
    }
    owner_check(o);
    owner_close(o);
}

TEST(fifo_evicts_in_the_order_of_insertion) {
    struct owner o;
    open_entries(&o, "fifo", 10);
    fill(&o, 5);
    owner_hit(&o, 0);
    owner_remove(&o, 2);
    owner_insert(&o, 2, 2, 1, PNX_NEVER);
    expect(&o, "01342");
}

TEST(lru_evicts_in_the_order_of_use) {
    struct owner o;
    open_entries(&o, "lru", 10);
    fill(&o, 5);
    owner_hit(&o, 0);
    owner_hit(&o, 3);
    owner_remove(&o, 1);
    expect(&o, "2403");
}

TEST(clock_gives_a_second_chance_at_the_young_end) {
    struct owner o;
    open_entries(&o, "clock", 10);
    fill(&o, 5);
    owner_hit(&o, 0);
    owner_hit(&o, 0);
    owner_hit(&o, 2);
    expect(&o, "13402");
}

TEST(sieve_leaves_what_it_spares_where_it_is) {
    struct owner o;
    open_entries(&o, "sieve", 10);
    fill(&o, 5);
    owner_hit(&o, 0);
    owner_hit(&o, 2);
    CHECK_EQ(owner_victim(&o, 0, 1), 1); /* past 0; the hand is at 2 */
    owner_insert(&o, 5, 5, 1, PNX_NEVER);
    CHECK_EQ(owner_victim(&o, 0, 1), 3); /* past 2 */
    owner_remove(&o, 4);                 /* where the hand is */
    expect(&o, "502");
}

TEST(lfu_evicts_the_least_frequent_and_of_equal_ones_the_oldest) {
    struct owner o;
    open_entries(&o, "lfu", 10);
    fill(&o, 4);
    owner_hit(&o, 0);
    owner_hit(&o, 0);
    owner_hit(&o, 2);
    expect(&o, "1320");
}

TEST(lfu_ages_so_that_what_was_popular_goes_in_the_end) {
    struct owner o;
    open_entries(&o, "lfu", 3);
    owner_insert(&o, 0, 0, 1, PNX_NEVER);
    for (int i = 0; i < 20; i++)
        owner_hit(&o, 0);
    /* New ones that are used twice each: without ageing slot 0 would outlive all of them. */
    uint32_t passed = 0;
    for (; o.held[0] && passed < 1000; passed++) {
        owner_make_room(&o, passed, 1);
        if (!o.held[0])
            break;
        uint32_t slot = owner_free_slot(&o);
        owner_insert(&o, slot, 100 + passed, 1, PNX_NEVER);
        owner_hit(&o, slot);
    }
    CHECK(!o.held[0]);
    CHECK(passed >= 10 && passed < 100);
    owner_close(&o);
}

TEST(lfu_frequencies_end_without_wrapping_around) {
    struct owner o;
    open_entries(&o, "lfu", 10);
    fill(&o, 3);
    for (int i = 0; i < 2000; i++) {
        owner_hit(&o, 0);
        owner_check(&o);
    }
    owner_hit(&o, 2);
    expect(&o, "120");
}

TEST(s3_fifo_lets_what_is_asked_for_once_pass_by) {
    struct owner o;
    open_entries(&o, "s3-fifo", 100);
    fill(&o, 100);
    for (uint32_t i = 0; i < 50; i++) {
        owner_hit(&o, i);
        owner_hit(&o, i);
    }
    /* A scan of three times the capacity. */
    for (uint32_t i = 0; i < 300; i++) {
        owner_make_room(&o, 1000 + i, 1);
        owner_insert(&o, owner_free_slot(&o), 1000 + i, 1, PNX_NEVER);
    }
    for (uint32_t i = 0; i < 50; i++)
        CHECK(o.held[i] && owner_record(&o, i)->hash == i);
    owner_check(&o);
    owner_close(&o);
}

TEST(s3_fifo_promotes_at_two_hits_not_at_one) {
    struct owner o;
    open_entries(&o, "s3-fifo", 10);
    fill(&o, 4);
    owner_hit(&o, 0);
    owner_hit(&o, 1);
    owner_hit(&o, 1);
    expect(&o, "0231");
}

TEST(s3_fifo_takes_what_comes_back_into_main) {
    struct owner o;
    open_entries(&o, "s3-fifo", 20);
    fill(&o, 20);
    CHECK_EQ(owner_victim(&o, 0, 1), 0);  /* into the ghost */
    owner_insert(&o, 0, 0, 1, PNX_NEVER); /* out of it, into main */
    for (uint32_t i = 1; i < 20; i++)
        CHECK_EQ(owner_victim(&o, 0, 1), i); /* small goes first */
    expect(&o, "0");
}

TEST(ttl_evicts_what_expires_first_and_what_never_does_last) {
    struct owner o;
    open_entries(&o, "ttl", 10);
    owner_insert(&o, 0, 0, 1, PNX_NEVER);
    owner_insert(&o, 1, 1, 1, 300);
    owner_insert(&o, 2, 2, 1, 100);
    owner_insert(&o, 3, 3, 1, PNX_NEVER);
    owner_insert(&o, 4, 4, 1, 200);
    owner_insert(&o, 5, 5, 1, 150);
    owner_insert(&o, 6, 6, 1, PNX_NEVER);
    owner_expiry(&o, 5, 400);
    owner_expiry(&o, 3, 50);
    owner_expiry(&o, 4, PNX_NEVER);
    owner_expiry(&o, 6, PNX_NEVER);
    expect(&o, "3215064");
}

/* Requests for keys 0 to n - 1 in turn; returns the hits of the last round. */
static uint32_t loop(struct owner *o, uint32_t n, uint32_t rounds) {
    uint32_t hits = 0;
    for (uint32_t i = 0; i < n * rounds; i++) {
        uint32_t hash = i % n * 0x9E3779B1u, slot = 0;
        while (slot < o->room && !(o->held[slot] && owner_record(o, slot)->hash == hash))
            slot++;
        if (slot < o->room) {
            owner_hit(o, slot);
            hits += i >= n * (rounds - 1);
            continue;
        }
        owner_make_room(o, hash, 1);
        owner_insert(o, owner_free_slot(o), hash, 1, PNX_NEVER);
    }
    owner_check(o);
    return hits;
}

TEST(lirs_and_w_tinylfu_hit_in_a_loop_that_is_larger_than_they_are) {
    static const char *const names[] = {"lirs", "w-tinylfu"};
    for (size_t i = 0; i < 2; i++) {
        struct owner o;
        open_entries(&o, names[i], 200);
        uint32_t hits = loop(&o, 400, 20);
        CHECK_MSG(hits >= 150, "%s: %u hits of 400, of which 199 are possible", names[i], hits);
        owner_close(&o);
    }
    struct owner o;
    open_entries(&o, "lru", 200);
    CHECK_EQ(loop(&o, 400, 3), 0); /* nothing that a test of this kind would not see */
    owner_close(&o);
}

TEST(w_tinylfu_keeps_what_is_popular_through_a_scan) {
    struct owner o;
    open_entries(&o, "w-tinylfu", 100);
    fill(&o, 100);
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < 80; i++)
            owner_hit(&o, i);
    }
    for (uint32_t i = 0; i < 500; i++) {
        owner_make_room(&o, 0x10000 + i * 0x9E3779B1u, 1);
        owner_insert(&o, owner_free_slot(&o), 0x10000 + i * 0x9E3779B1u, 1, PNX_NEVER);
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < 80; i++)
        kept += o.held[i] && owner_record(&o, i)->hash == i;
    CHECK_MSG(kept >= 76, "%u of 80 popular entries are left", kept);
    owner_check(&o);
    owner_close(&o);
}

TEST(s3_fifo_in_bytes_keeps_a_tenth_for_what_is_new) {
    struct owner o;
    owner_open(&o, pnx_cache_policy_find("s3-fifo"), 1000, 8, OWNER_SLOTS, 1);
    for (uint32_t i = 0; i < 10; i++)
        owner_insert(&o, i, i, 100, PNX_NEVER);
    for (uint32_t i = 0; i < 10; i++) {
        owner_hit(&o, i);
        owner_hit(&o, i);
    }
    /* All ten are promoted as room is made, and one of them goes; then new ones replace each other. */
    for (uint32_t i = 0; i < 50; i++) {
        owner_make_room(&o, 1000 + i, 50);
        owner_insert(&o, owner_free_slot(&o), 1000 + i, 50, PNX_NEVER);
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < 10; i++)
        kept += o.held[i] && owner_record(&o, i)->hash == i;
    CHECK_EQ(kept, 9);
    owner_check(&o);
    owner_close(&o);
}
