/* SPDX-License-Identifier: Apache-2.0 */
/* AUTO: what it promises of its state, and that it becomes what the workload wants.  Real traces: auto_regret.py. */
#include "cache_policy/owner.h"

#include <stdlib.h>

#define KEYS 65536u /* of a cache below */

/* A cache of keys without values, of any capacity; the keys' numbers are mixed into hashes. */
struct cache {
    const struct pnx_cache_policy *policy;
    const struct pnx_cache_policy_wants *wants; /* first member of the state */
    void *state;
    size_t state_bytes;
    struct pnx_cache_policy_params params;
    struct pnx_cache_slots view;
    unsigned char *page;
    uint32_t *slot_of; /* by key */
    uint32_t *key_of;  /* by slot */
    uint32_t *free;
    uint32_t frees;
    uint32_t slots;
    uint32_t held;
    uint64_t weight;
    uint64_t asked; /* calls of access() */
};

struct record {
    uint32_t hash;
    uint32_t weight;
    struct pnx_a8 hits;
};

static uint32_t hash_of(uint32_t key) {
    uint32_t x = key + 1;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static void cache_open(struct cache *c, const char *name, uint64_t capacity, uint32_t slots,
        enum pnx_cache_capacity_kind kind) {
    memset(c, 0, sizeof(*c));
    c->policy = pnx_cache_policy_find(name);
    CHECK(c->policy);
    c->slots = slots;
    c->page = calloc(slots, sizeof(struct record));
    c->slot_of = malloc(KEYS * sizeof(uint32_t));
    c->key_of = malloc(slots * sizeof(uint32_t));
    c->free = malloc(slots * sizeof(uint32_t));
    memset(c->slot_of, 0xff, KEYS * sizeof(uint32_t));
    for (uint32_t i = slots; i-- > 0;)
        c->free[c->frees++] = i;
    bool bytes = kind == PNX_CACHE_CAPACITY_BYTES;
    c->view = (struct pnx_cache_slots){.pages = &c->page,
            .shift = 31,
            .stride = sizeof(struct record),
            .hash = offsetof(struct record, hash),
            .hits = offsetof(struct record, hits),
            .weight = bytes ? (uint32_t)offsetof(struct record, weight) : PNX_CACHE_NO_FIELD,
            .weight_bytes = 4,
            .expires = PNX_CACHE_NO_FIELD};
    c->params = (struct pnx_cache_policy_params){.size = sizeof(c->params),
            .slots = &c->view,
            .capacity = capacity,
            .seed = 1,
            .kind = kind};
    c->state_bytes = c->policy->memory(&c->params, slots);
    c->state = owner_take_state(c->state_bytes);
    c->policy->init(c->state, &c->params, slots);
    c->wants = (const struct pnx_cache_policy_wants *)c->state;
}

static void cache_close(struct cache *c) {
    const char *broken = c->policy->check(c->state, c->held);
    CHECK_MSG(!broken, "%s: %s", c->policy->name, broken);
    owner_free_state(c->state, c->state_bytes);
    free(c->page);
    free(c->slot_of);
    free(c->key_of);
    free(c->free);
}

/* Returns whether it hits. */
static bool request(struct cache *c, uint32_t key, uint32_t weight) {
    uint32_t slot = c->slot_of[key], hash = hash_of(key);
    if (c->wants->access && (hash & c->wants->access_mask) == 0) {
        c->policy->access(c->state, hash, weight, slot);
        c->asked++;
    }
    if (slot != PNX_CACHE_NO_SLOT) {
        if (c->wants->exact_hits)
            c->policy->hit(c->state, slot);
        else
            pnx_cache_slot_bump(&c->view, slot, c->wants->hit_max);
        return true;
    }
    while (c->weight + weight > c->params.capacity || c->frees == 0) {
        slot = c->policy->victim(c->state, hash, weight);
        CHECK(slot < c->slots);
        c->weight -= pnx_cache_slot_weight(&c->view, slot);
        c->held--;
        c->slot_of[c->key_of[slot]] = PNX_CACHE_NO_SLOT;
        c->free[c->frees++] = slot;
    }
    slot = c->free[--c->frees];
    struct record record = {.hash = hash, .weight = weight};
    memcpy(c->page + slot * sizeof(record), &record, sizeof(record));
    c->slot_of[key] = slot;
    c->key_of[slot] = key;
    c->weight += weight;
    c->held++;
    c->policy->insert(c->state, slot);
    return false;
}

/* Workloads: the key of request i. */
typedef uint32_t workload_fn(uint32_t i, uint64_t *random);

/* A product of three uniform numbers: some keys are asked for much more often than most. */
static uint32_t skewed(uint32_t i, uint64_t *random) {
    double x = 1;
    (void)i;
    for (int k = 0; k < 3; k++)
        x *= (double)(test_random(random) >> 40) / (1 << 24);
    return (uint32_t)(x * 16384);
}

static uint32_t loop_of_1500(uint32_t i, uint64_t *random) {
    (void)random;
    return 20000 + i % 1500;
}

/* To and fro over 4000 keys: what was seen last comes first. */
static uint32_t zigzag(uint32_t i, uint64_t *random) {
    uint32_t at = i % 7998;
    (void)random;
    return 25000 + (at < 4000 ? at : 7998 - at);
}

/* Each key twice, the second time 300 requests later. */
static uint32_t twice(uint32_t i, uint64_t *random) {
    (void)random;
    return 30000 + (i % 2 ? (i - 1) / 2 : i < 300 ? i / 2 : (i - 300) / 2) % 30000;
}

/* The same, the second time when 450 others have come: 600 entries are more than enough, half of them are not. */
static uint32_t twice_far(uint32_t i, uint64_t *random) {
    (void)random;
    return 30000 + (i % 2 ? (i - 1) / 2 : i < 900 ? 0 : (i - 900) / 2) % 30000;
}

static double hit_ratio(struct cache *c, workload_fn *workload, uint32_t from, uint32_t n) {
    uint64_t random = 7, hits = 0;
    for (uint32_t i = from; i < from + n; i++)
        hits += request(c, workload(i, &random), 1);
    return (double)hits / n;
}

static double fresh(const char *policy, workload_fn *workload, uint32_t capacity, uint32_t n) {
    struct cache c;
    cache_open(&c, policy, capacity, capacity, PNX_CACHE_CAPACITY_ENTRIES);
    double ratio = hit_ratio(&c, workload, 0, n);
    cache_close(&c);
    return ratio;
}

static uint64_t below(uint64_t *random, uint64_t n) {
    return test_random(random) % n;
}

/* A request of the owner's: asked for and found, or inserted. */
static void owner_request(struct owner *o, uint64_t *random) {
    const struct pnx_cache_policy_wants *wants = (const struct pnx_cache_policy_wants *)o->state;
    uint32_t slot = (uint32_t)below(random, o->room);
    bool sized = o->view.weight != PNX_CACHE_NO_FIELD;
    uint32_t hash = (uint32_t)(below(random, 1000) * 0x9E3779B1u);
    uint64_t weight = sized ? 1 + below(random, 50) : 1;
    weight = weight < o->capacity ? weight : o->capacity;
    if (o->held[slot]) {
        hash = owner_record(o, slot)->hash;
        weight = owner_weight(o, slot);
    }
    if ((hash & wants->access_mask) == 0)
        o->policy->access(o->state, hash, weight, o->held[slot] ? slot : PNX_CACHE_NO_SLOT);
    if (o->held[slot])
        owner_hit(o, slot);
    else
        owner_insert(o, slot, hash, weight, PNX_NEVER);
}

TEST(p1_random_requests_keep_every_invariant_of_shadows_and_queues) {
    static const uint32_t widths[] = {0, 4, 8};
    uint64_t random = test_seed();
    for (uint32_t round = 0; round < (test_slow() ? 3 : 12); round++) {
        struct owner o;
        uint32_t width = widths[round % 3];
        owner_open(&o, pnx_cache_policy_find("auto"), 1 + below(&random, width ? 8000 : 300), width,
                1 + (uint32_t)below(&random, 256), random);
        for (int i = 0; i < 4000; i++) {
            uint64_t what = below(&random, 200);
            uint32_t slot = (uint32_t)below(&random, o.room);
            if (what < 180)
                owner_request(&o, &random);
            else if (what < 190 && o.held[slot])
                owner_remove(&o, slot);
            else if (what < 194 && o.held[slot] && width)
                owner_reweigh(&o, slot, 1 + below(&random, o.capacity < 60 ? o.capacity : 60));
            else if (what < 196)
                owner_resize(&o, 1 + below(&random, width ? 20000 : 2000));
            else if (what == 196 && o.room < OWNER_SLOTS)
                owner_grow(&o, o.room + (uint32_t)below(&random, OWNER_SLOTS - o.room));
            else if (what == 197 && o.count > 0)
                owner_victim(&o, 0, 0);
            if (i % 8 == 0)
                owner_check(&o);
        }
        owner_check(&o);
        owner_close(&o);
    }
}

TEST(p1_shadows_take_64_kib_and_a_slot_less_than_17_bytes) {
    const struct pnx_cache_policy *policy = pnx_cache_policy_find("auto");
    struct pnx_cache_policy_params params = {
            .size = sizeof(params), .capacity = 1 << 20, .kind = PNX_CACHE_CAPACITY_ENTRIES};
    size_t small = policy->memory(&params, 1), large = policy->memory(&params, 1 << 20);
    /* The tables for one slot have a sketch and a few chunks of a queue at least. */
    CHECK(small <= 65536 + 8192);
    CHECK((double)(large - small) / (1 << 20) < 17);
}

TEST(p2_hits_are_bytes_and_one_key_in_many_is_asked_for) {
    struct cache c;
    cache_open(&c, "auto", 32768, 32768, PNX_CACHE_CAPACITY_ENTRIES);
    for (uint32_t i = 0; i < 100000; i++)
        request(&c, i % 60000, 1);
    CHECK(!c.wants->exact_hits);
    CHECK_EQ(c.wants->access_mask, 127); /* 32768 / 128 = 256 entries of a shadow */
    CHECK(c.asked > 100000 / 128 / 2 && c.asked < 100000 / 128 * 2);
    cache_close(&c);
}

TEST(p2_small_objects_lower_the_rate_and_large_ones_raise_it) {
    struct cache c;
    cache_open(&c, "auto", 1 << 20, 20000, PNX_CACHE_CAPACITY_BYTES);
    CHECK_EQ(c.wants->access_mask, 0);
    for (uint32_t i = 0; i < 60000; i++)
        request(&c, i % 30000, 100); /* there is room for 10485 */
    CHECK(c.wants->access_mask >= 15);
    CHECK_MSG(c.wants->access_mask <= 63, "one in %u", c.wants->access_mask + 1);
    for (uint32_t i = 0; i < 400000; i++)
        request(&c, 30000 + i % 30000, 10000); /* for 104 */
    CHECK_MSG(c.wants->access_mask <= 7, "one in %u", c.wants->access_mask + 1);
    cache_close(&c);
}

TEST(p5_equal_requests_give_equal_hits) {
    CHECK(fresh("auto", skewed, 700, 50000) == fresh("auto", skewed, 700, 50000));
}

TEST(growing_keeps_the_shadows_and_the_mode) {
    /* A loop is half in the cache before and after. */
    struct owner o;
    const struct pnx_cache_policy *policy = pnx_cache_policy_find("auto");
    owner_open(&o, policy, 200, 0, 200, 1);
    uint32_t slot_of[400];
    memset(slot_of, 0xff, sizeof(slot_of));
    for (uint32_t i = 0, hits = 0; i < 400 * 60; i++) {
        uint32_t key = i % 400, hash = hash_of(key);
        if (i == 400 * 50) {
            owner_grow(&o, 400);
            hits = 0;
        }
        policy->access(o.state, hash, 1, slot_of[key]);
        if (slot_of[key] != PNX_CACHE_NO_SLOT && o.held[slot_of[key]] &&
                owner_record(&o, slot_of[key])->hash == hash) {
            owner_hit(&o, slot_of[key]);
            hits++;
        } else {
            owner_make_room(&o, hash, 1);
            slot_of[key] = owner_free_slot(&o);
            owner_insert(&o, slot_of[key], hash, 1, PNX_NEVER);
        }
        if (i == 400 * 60 - 1)
            CHECK_MSG(hits > 400 * 10 * 40 / 100, "%u hits", hits);
    }
    owner_check(&o);
    owner_close(&o);
}

TEST(a_loop_after_skewed_requests_is_soon_hit_as_often_as_can_be) {
    struct cache c;
    cache_open(&c, "auto", 600, 600, PNX_CACHE_CAPACITY_ENTRIES);
    hit_ratio(&c, skewed, 0, 60000);
    hit_ratio(&c, loop_of_1500, 0, 30000);
    double ratio = hit_ratio(&c, loop_of_1500, 0, 30000); /* 0.4 is the optimum, LRU hits nothing */
    CHECK_MSG(ratio > 0.36, "%g", ratio);
    cache_close(&c);
}

TEST(skewed_requests_after_a_loop_are_hit_as_often_as_from_the_start) {
    struct cache c;
    double alone = fresh("s3-fifo", skewed, 600, 60000);
    cache_open(&c, "auto", 600, 600, PNX_CACHE_CAPACITY_ENTRIES);
    hit_ratio(&c, loop_of_1500, 0, 60000);
    double ratio = hit_ratio(&c, skewed, 0, 60000);
    CHECK_MSG(ratio > alone - 0.015, "%g instead of %g", ratio, alone);
    cache_close(&c);
}

TEST(recency_after_a_loop_is_noticed) {
    struct cache c;
    double alone = fresh("lru", twice, 500, 60000);
    CHECK(alone > 0.45); /* each second request can hit */
    cache_open(&c, "auto", 500, 500, PNX_CACHE_CAPACITY_ENTRIES);
    hit_ratio(&c, loop_of_1500, 0, 60000);
    hit_ratio(&c, twice, 0, 20000);
    double ratio = hit_ratio(&c, twice, 20000, 40000);
    CHECK_MSG(ratio > alone - 0.03, "%g instead of %g", ratio, alone);
    cache_close(&c);
}

TEST(a_cache_that_starts_cold_loses_nothing_against_fifo) {
    CHECK(fresh("auto", zigzag, 1000, 100000) > fresh("fifo", zigzag, 1000, 100000) - 0.003);
    CHECK(fresh("auto", twice, 500, 50000) > fresh("fifo", twice, 500, 50000) - 0.003);
    CHECK(fresh("auto", skewed, 2000, 100000) > fresh("fifo", skewed, 2000, 100000) + 0.03);
}

TEST(each_workload_is_hit_nearly_as_often_as_by_the_best_policy) {
    static workload_fn *const workloads[] = {skewed, loop_of_1500, zigzag, twice};
    static const char *const names[] = {
            "lru", "lfu", "sieve", "clock", "fifo", "s3-fifo", "w-tinylfu", "lirs"};
    for (uint32_t w = 0; w < 4; w++) {
        double best = 0, ratio = fresh("auto", workloads[w], 700, 80000);
        for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
            double other = fresh(names[i], workloads[w], 700, 80000);
            best = other > best ? other : best;
        }
        CHECK_MSG(ratio > best - 0.05, "workload %u: %g, the best %g", w, ratio, best);
    }
}

TEST(a_fifo_that_has_lost_what_comes_again_finds_back) {
    /* Each key that is missed the second time takes the place of one that would have been hit. */
    double ratio = fresh("auto", twice_far, 600, 60000);
    CHECK(fresh("fifo", twice_far, 600, 60000) > 0.49);
    CHECK_MSG(ratio > 0.47, "%g", ratio);
}
