/* SPDX-License-Identifier: Apache-2.0 */
/* What patinox/cache_policy.h promises of every policy. */
#include "cache_policy/owner.h"

#include <patinox/error.h>

static const uint32_t weight_widths[] = {0, 4, 8};

/* For each policy, and for entries and bytes of both widths. */
#define EACH_POLICY(policy, width) \
    for (size_t index_ = 0; pnx_cache_policy_at(index_); index_++) \
        for (size_t width_ = 0; width_ < 3; width_++) \
            for (const struct pnx_cache_policy *policy = pnx_cache_policy_at(index_); policy; \
                    policy = NULL) \
                for (uint32_t width = weight_widths[width_], once_ = 1; once_; once_ = 0)

static uint64_t below(uint64_t *random, uint64_t n) {
    return test_random(random) % n;
}

/* A held slot, or NO_SLOT. */
static uint32_t any_held(const struct owner *o, uint64_t *random) {
    uint32_t from = (uint32_t)below(random, o->room);
    for (uint32_t i = 0; i < o->room; i++) {
        if (o->held[(from + i) % o->room])
            return (from + i) % o->room;
    }
    return PNX_CACHE_NO_SLOT;
}

static pnx_ns any_expiry(uint64_t *random) {
    return below(random, 3) == 0 ? PNX_NEVER : (pnx_ns)below(random, 1000);
}

/* Keys come again, so that ghosts are met. */
static void insert_any(struct owner *o, uint64_t *random) {
    uint64_t weight = below(random, 20) == 0 ? o->capacity : 1 + below(random, 50);
    if (weight > o->capacity)
        weight = o->capacity;
    uint32_t hash = (uint32_t)(below(random, 1000) * 0x9E3779B1u);
    owner_make_room(o, hash, o->view.weight == PNX_CACHE_NO_FIELD ? 1 : weight);
    uint32_t slot = owner_free_slot(o);
    if (slot == PNX_CACHE_NO_SLOT && o->room < OWNER_SLOTS) {
        uint32_t room = o->room + 1 + (uint32_t)below(random, OWNER_SLOTS - o->room);
        if (below(random, 2))
            owner_grow(o, room);
        else
            owner_renumber(o, room, random);
        slot = owner_free_slot(o);
    }
    if (slot != PNX_CACHE_NO_SLOT)
        owner_insert(o, slot, hash, weight, any_expiry(random));
}

static void step(struct owner *o, uint64_t *random) {
    uint32_t slot = any_held(o, random);
    uint64_t what = below(random, 100);
    bool sized = o->view.weight != PNX_CACHE_NO_FIELD;
    if (slot == PNX_CACHE_NO_SLOT || what < 40)
        insert_any(o, random);
    else if (what < 80)
        owner_hit(o, slot);
    else if (what < 90)
        owner_remove(o, slot);
    else if (what < 93)
        owner_victim(o, 0, 0);
    else if (what < 95 && sized)
        owner_reweigh(o, slot, 1 + below(random, o->capacity < 100 ? o->capacity : 100));
    else if (what < 97)
        owner_expiry(o, slot, any_expiry(random));
    else if (what < 98)
        owner_resize(o, 1 + below(random, sized ? 3000 : OWNER_SLOTS));
}

TEST(p1_random_operations_keep_every_invariant_within_the_memory) {
    uint64_t random = test_seed();
    int rounds = test_long() ? 20 : test_slow() ? 1 : 3;
    EACH_POLICY(policy, width) {
        for (int round = 0; round < rounds; round++) {
            struct owner o;
            uint64_t capacity = 1 + below(&random, width ? 3000 : 200);
            owner_open(&o, policy, capacity, width, 1 + (uint32_t)below(&random, 64), random);
            for (int i = 0; i < 2000; i++) {
                step(&o, &random);
                owner_check(&o);
            }
            owner_close(&o);
        }
    }
}

TEST(p1_removals_of_one_slot_a_hundred_thousand_times_keep_the_memory) {
    /* References that removals leave behind are as many as there is room for, and no more. */
    EACH_POLICY(policy, width) {
        struct owner o;
        owner_open(&o, policy, width ? 1000 : 100, width, 128, 1);
        for (uint32_t i = 0; i < 99; i++)
            owner_insert(&o, i, i, 10, PNX_NEVER);
        for (uint32_t i = 0; i < 100000; i++) {
            owner_insert(&o, 99, 1000 + i, 10, PNX_NEVER);
            owner_remove(&o, 99);
        }
        owner_check(&o);
        /* The others are all there. */
        CHECK_EQ(o.count, 99);
        while (o.count > 0)
            owner_victim(&o, 0, 0);
        owner_check(&o);
        owner_close(&o);
    }
}

TEST(p1_more_slots_than_the_limit_are_refused) {
    EACH_POLICY(policy, width) {
        struct owner o;
        owner_open(&o, policy, 10, width, 10, 1);
        CHECK(policy->memory(&o.params, PNX_CACHE_SLOTS_MAX) > 0);
        CHECK_EQ(policy->memory(&o.params, PNX_CACHE_SLOTS_MAX + 1), 0);
        owner_close(&o);
    }
}

TEST(p3_every_held_slot_is_a_victim_once_and_then_there_is_none) {
    EACH_POLICY(policy, width) {
        struct owner o;
        owner_open(&o, policy, 1000, width, 100, 1);
        CHECK_EQ(policy->victim(o.state, 0, 0), PNX_CACHE_NO_SLOT);
        for (uint32_t i = 0; i < 100; i++)
            owner_insert(&o, i, i * 7919, 10, i % 2 ? PNX_NEVER : (pnx_ns)i);
        for (uint32_t i = 0; i < 300; i++)
            owner_hit(&o, i * 31 % 100);
        for (uint32_t i = 0; i < 100; i++) {
            owner_victim(&o, 0, 0); /* checks that it is held */
            owner_check(&o);
        }
        CHECK_EQ(o.count, 0);
        CHECK_EQ(policy->victim(o.state, 0, 0), PNX_CACHE_NO_SLOT);
        owner_close(&o);
    }
}

TEST(p3_an_entry_as_large_as_the_capacity_is_taken_in) {
    EACH_POLICY(policy, width) {
        struct owner o;
        owner_open(&o, policy, 100, width, 200, 1);
        for (uint32_t i = 0; i < 100; i++)
            owner_insert(&o, i, i, 1, PNX_NEVER);
        owner_insert(&o, 150, 150, 100, PNX_NEVER);
        CHECK(o.held[150]);
        CHECK_EQ(o.count, width ? 1 : 100);
        owner_check(&o);
        owner_close(&o);
    }
}

TEST(p3_a_capacity_of_one_works) {
    EACH_POLICY(policy, width) {
        struct owner o;
        owner_open(&o, policy, 1, width, 2, 1);
        for (uint32_t i = 0; i < 50; i++) {
            owner_insert(&o, i % 2, i % 5, 1, PNX_NEVER);
            owner_hit(&o, i % 2);
            owner_check(&o);
            CHECK_EQ(o.count, 1);
        }
        owner_close(&o);
    }
}

static uint64_t trail(const struct pnx_cache_policy *policy, uint32_t width, uint64_t seed) {
    struct owner o;
    uint64_t random = seed, sum = 0;
    owner_open(&o, policy, width ? 2000 : 80, width, 64, seed);
    for (int i = 0; i < 3000; i++) {
        step(&o, &random);
        for (uint32_t slot = i % 16 == 0 ? 0 : OWNER_SLOTS; slot < OWNER_SLOTS; slot++)
            sum = sum * 31 + o.held[slot];
    }
    sum = sum * 31 + o.evicted;
    owner_close(&o);
    return sum;
}

TEST(p5_equal_calls_give_equal_victims) {
    uint64_t seed = test_seed();
    EACH_POLICY(policy, width) {
        CHECK_EQ(trail(policy, width, seed), trail(policy, width, seed));
    }
}

/* Victims of a fixed sequence that begins with so much room, and grows when it has to. */
static uint64_t victims(const struct pnx_cache_policy *policy, uint32_t room, bool renumber) {
    struct owner o;
    uint64_t random = 5, other = 6, sum = 0;
    owner_open(&o, policy, 200, 0, room, 1);
    for (uint32_t i = 0; i < 4000; i++) {
        uint32_t key = (uint32_t)below(&random, 400);
        key = below(&random, 2) ? key % 50 : key;
        uint32_t slot = 0;
        while (slot < o.room && !(o.held[slot] && owner_record(&o, slot)->hash == key))
            slot++;
        if (slot < o.room) {
            owner_hit(&o, slot);
            continue;
        }
        uint32_t victim = owner_make_room(&o, key, 1);
        sum = sum * 31 + (victim == PNX_CACHE_NO_SLOT ? 0 : owner_record(&o, victim)->hash);
        if (owner_free_slot(&o) == PNX_CACHE_NO_SLOT)
            renumber ? owner_renumber(&o, o.room + 50, &other) : owner_grow(&o, o.room + 50);
        owner_insert(&o, owner_free_slot(&o), key, 1, PNX_NEVER);
    }
    owner_check(&o);
    owner_close(&o);
    return sum;
}

TEST(growing_changes_no_decision) {
    /* Of those whose memory of what has gone is not as large as their tables. */
    static const char *const names[] = {"lru", "lfu", "sieve", "clock", "fifo", "ttl"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct pnx_cache_policy *policy = pnx_cache_policy_find(names[i]);
        CHECK_EQ(victims(policy, 10, false), victims(policy, 300, false));
    }
}

TEST(other_numbers_of_slots_change_no_decision) {
    const struct pnx_cache_policy *policy;
    for (size_t i = 0; (policy = pnx_cache_policy_at(i)); i++)
        CHECK_EQ(victims(policy, 10, true), victims(policy, 10, false));
}

struct bumper {
    struct owner *o;
    uint32_t stop; /* atomic */
};

static void bump_or_evict(unsigned index, void *ctx) {
    struct bumper *b = ctx;
    uint64_t random = index;
    while (index > 0 && !__atomic_load_n(&b->stop, __ATOMIC_RELAXED))
        pnx_cache_slot_bump(&b->o->view, (uint32_t)below(&random, OWNER_SLOTS), 3);
    if (index > 0)
        return;
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t slot = owner_free_slot(b->o);
        if (slot == PNX_CACHE_NO_SLOT)
            slot = owner_victim(b->o, i, 1);
        owner_insert(b->o, slot, i * 7919, 1, PNX_NEVER);
    }
    __atomic_store_n(&b->stop, 1, __ATOMIC_RELAXED);
}

TEST_LIMIT(p2_readers_raise_hit_bytes_without_a_lock_and_victims_are_found, 120) {
    for (size_t i = 0; pnx_cache_policy_at(i); i++) {
        struct owner o;
        struct bumper b = {.o = &o};
        owner_open(&o, pnx_cache_policy_at(i), OWNER_SLOTS, 0, OWNER_SLOTS, 1);
        for (uint32_t slot = 0; slot < OWNER_SLOTS; slot++)
            pnx_cache_slot_set_hits(&o.view, slot, 0);
        if (!pnx_cache_policy_wants_of(o.state)->exact_hits)
            test_threads(3, bump_or_evict, &b);
        owner_check(&o);
        owner_close(&o);
    }
}

TEST(a_hit_byte_ends_at_its_limit) {
    struct owner o;
    owner_open(&o, pnx_cache_policy_find("s3-fifo"), 10, 0, 10, 1);
    owner_insert(&o, 0, 1, 1, PNX_NEVER);
    CHECK_EQ(pnx_cache_slot_hits(&o.view, 0), 0);
    for (int i = 0; i < 300; i++)
        owner_hit(&o, 0);
    CHECK_EQ(pnx_cache_slot_hits(&o.view, 0), 3);
    owner_close(&o);
}

TEST(policies_are_found_by_their_names) {
    size_t n = 0;
    for (; pnx_cache_policy_at(n); n++) {
        const struct pnx_cache_policy *policy = pnx_cache_policy_at(n);
        CHECK(pnx_cache_policy_find(policy->name) == policy);
        CHECK_EQ(policy->size, sizeof(struct pnx_cache_policy));
        CHECK(policy->description && policy->memory && policy->init && policy->grow);
        CHECK(policy->insert && policy->remove && policy->victim && policy->check);
    }
    CHECK(n >= 9);
    CHECK(!pnx_cache_policy_at(SIZE_MAX));
    CHECK(!pnx_cache_policy_find("mru"));
    CHECK(!pnx_cache_policy_find(""));
}
