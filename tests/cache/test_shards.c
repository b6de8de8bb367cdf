/* SPDX-License-Identifier: Apache-2.0 */
/* What several shards, lookups without locks and the choice of a policy add: P1, P2, P8, P10. */
#include "base/hash.h"
#include "cache/common.h"
#include "cache/internal.h"

/* ---- one capacity ---- */

static void put_numbers(struct fixture *f, uint64_t from, uint64_t to, size_t size) {
    char *value = calloc(1, size + 1);
    for (uint64_t i = from; i < to; i++)
        CHECK_EQ(pnx_cache_put(f->cache, &i, sizeof(i), value, size, 0), 0);
    free(value);
}

TEST(p1_an_item_is_refused_only_when_it_is_larger_than_the_whole_capacity) {
    struct fixture f;
    size_t capacity = 1 << 20;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity = capacity, .policy = "s3-fifo", .shards = 16));
    put_numbers(&f, 0, 10000, 100); /* fills all shards */
    size_t size = capacity - pnx_cache_cost(8, 0) - 4096;
    char *big = calloc(1, capacity);
    uint64_t key = 77777;
    CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), big, size, 0), 0);
    check_invariants(&f);
    CHECK(stats_of(&f).bytes <= capacity);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(f.cache, &key, sizeof(key), &ref), 0);
    CHECK_EQ(pnx_cache_ref_size(&ref), size);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), big, capacity, 0), -EFBIG);
    free(big);
    fixture_close(&f);
}

TEST(p1_shards_share_one_capacity_of_entries) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1000, .policy = "fifo", .shards = 8));
    put_numbers(&f, 0, 1000, 8);
    CHECK_EQ(stats_of(&f).entries, 1000); /* none went while there was room */
    CHECK_EQ(stats_of(&f).removed_size, 0);
    put_numbers(&f, 1000, 5000, 8);
    CHECK_EQ(stats_of(&f).entries, 1000);
    CHECK_EQ(stats_of(&f).removed_size, 4000);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 3, &f.err), 0);
    CHECK_EQ(stats_of(&f).entries, 3);
    put_numbers(&f, 0, 100, 8); /* fewer entries than shards */
    CHECK_EQ(stats_of(&f).entries, 3);
    check_invariants(&f);
    fixture_close(&f);
}

struct racers {
    struct fixture f;
    int stop; /* with __atomic */
};

static void put_and_look(unsigned index, void *ctx) {
    struct racers *r = ctx;
    uint64_t rng = r->f.seed + index;
    char value[2000] = {0};
    if (index == 0) { /* looks at the numbers all the time */
        while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
            struct pnx_cache_stats stats = stats_of(&r->f);
            CHECK_MSG(stats.bytes <= 200000, "%llu bytes", (unsigned long long)stats.bytes);
            CHECK(stats.entries <= 500);
        }
        return;
    }
    for (int i = 0; i < (test_slow() ? 3000 : 40000); i++) {
        uint64_t key = test_random(&rng) % 2000;
        size_t size = test_random(&rng) % (i % 100 ? 300 : 2000);
        CHECK_EQ(pnx_cache_put(r->f.cache, &key, sizeof(key), value, size, 0), 0);
        char out[2000];
        size_t got = 0;
        key = test_random(&rng) % 2000;
        int rc = pnx_cache_get_copy(r->f.cache, &key, sizeof(key), out, sizeof(out), &got);
        CHECK(rc == 0 || rc == -ENOENT);
        if (i % 500 == 0)
            check_invariants(&r->f);
    }
    __atomic_store_n(&r->stop, 1, __ATOMIC_RELEASE);
}

TEST_LIMIT(p1_the_capacity_holds_at_every_moment_under_every_policy, 300) {
    const struct pnx_cache_policy *policy;
    for (size_t i = 0; (policy = pnx_cache_policy_at(i)) != NULL; i++) {
        static struct racers r;
        memset(&r, 0, sizeof(r));
        fixture_open(&r.f, PNX_CACHE_OPTS(.capacity = 200000, .capacity_entries = 500,
                                   .custom_policy = policy, .shards = i % 2 ? 8 : 2));
        test_threads(4, put_and_look, &r);
        struct pnx_cache_stats stats = stats_of(&r.f);
        CHECK(stats.removed_size > 0);
        CHECK(stats.entries > 100);
        fixture_close(&r.f);
    }
}

/* ---- the choice ---- */

TEST(p2_where_hits_have_an_order_there_is_one_shard_else_as_many_as_the_capacity_wants) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1 << 20, .policy = "lru"));
    CHECK_EQ(f.cache->n_shards, 1);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4095, .policy = "auto"));
    CHECK_EQ(f.cache->n_shards, 1);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1 << 20, .policy = "auto"));
    CHECK(f.cache->n_shards > 1);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 1 << 20, .policy = "auto", .shards = 1));
    CHECK_EQ(f.cache->n_shards, 1);
    fixture_close(&f);
}

/* A policy of the user's: what came last goes first. */
struct last {
    struct pnx_cache_policy_wants wants;
    uint32_t n;
    uint32_t stack[256];
};
static size_t last_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots <= 256 ? sizeof(struct last) : 0;
}
static void last_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)memory, (void)params, (void)slots;
}
static void last_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    (void)slots, (void)map;
    memcpy(memory, state, sizeof(struct last));
}
static void last_insert(void *state, uint32_t slot) {
    struct last *last = state;
    last->stack[last->n++] = slot;
}
static void last_remove(void *state, uint32_t slot) {
    struct last *last = state;
    uint32_t i = 0;
    while (last->stack[i] != slot)
        i++;
    memmove(&last->stack[i], &last->stack[i + 1], (--last->n - i) * sizeof(slot));
}
static uint32_t last_victim(void *state, uint32_t hash, uint64_t weight) {
    struct last *last = state;
    (void)hash, (void)weight;
    return last->n ? last->stack[--last->n] : PNX_CACHE_NO_SLOT;
}
static const char *last_check(const void *state, uint32_t held) {
    return ((const struct last *)state)->n == held ? NULL : "the stack is not what is held";
}

TEST(p2_a_policy_of_the_users_decides) {
    static const struct pnx_cache_policy last = {
            .size = sizeof(last),
            .name = "last",
            .description = "last in, first out",
            .memory = last_memory,
            .init = last_init,
            .grow = last_grow,
            .insert = last_insert,
            .remove = last_remove,
            .victim = last_victim,
            .check = last_check,
    };
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 3, .custom_policy = &last));
    put_text(&f, "a", "1", 0);
    put_text(&f, "b", "2", 0);
    put_text(&f, "c", "3", 0);
    put_text(&f, "d", "4", 0);
    check_absent(&f, "c");
    CHECK_EQ(pnx_cache_remove(f.cache, "a", 1), 0);
    put_text(&f, "e", "5", 0);
    put_text(&f, "f", "6", 0);
    check_absent(&f, "e");
    check_text(&f, "b", "2");
    check_text(&f, "d", "4");
    fixture_close(&f);
}

/* ---- lookups without locks ---- */

TEST(p8_hits_are_counted_up_to_the_policys_maximum_without_its_lock) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10, .policy = "s3-fifo"));
    put_text(&f, "k", "v", 0);
    struct pnx_cache_shard *shard = f.cache->shards;
    struct pnx_cache_ref ref = {0};
    char buf[4];
    CHECK_EQ(get_text(&f, "k", &ref), 0);
    CHECK_EQ(pnx_cache_slot_hits(&shard->view, 0), 1);
    pnx__mutex_lock(&shard->lock); /* a hit that wanted it would never return */
    for (int i = 0; i < 10; i++)
        CHECK_EQ(pnx__cache_look_free(shard, pnx__hash(f.cache->seed, "k", 1), "k", 1, &ref.entry),
                0);
    pnx__mutex_unlock(&shard->lock);
    CHECK_EQ(pnx_cache_slot_hits(&shard->view, 0), 3);
    CHECK_EQ(pnx_cache_get_copy(f.cache, "k", 1, buf, sizeof(buf), NULL), 0);
    struct pnx_cache_ref again = ref;
    for (int i = 0; i < 10; i++) {
        ref = again;
        pnx_cache_ref_release(&ref);
    }
    pnx_cache_ref_release(&again);
    CHECK_EQ(stats_of(&f).pinned, 0);
    fixture_close(&f);
}

#define STAYING 16

/* One thread replaces keys that stay, one makes others come and go, so that the index grows and shrinks around them. */
static void look_while_others_write(unsigned index, void *ctx) {
    struct racers *r = ctx;
    int rounds = test_slow() ? 3000 : 60000;
    if (index == 0) {
        for (uint64_t i = 0; i < (uint64_t)rounds; i++) {
            uint64_t key = i % STAYING, value[2] = {key, i};
            CHECK_EQ(pnx_cache_put(r->f.cache, &key, sizeof(key), value, sizeof(value), 0), 0);
        }
        __atomic_store_n(&r->stop, 1, __ATOMIC_RELEASE);
    } else if (index == 1) {
        for (uint64_t i = 0; !__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE); i++) {
            uint64_t key = 1000 + i;
            CHECK_EQ(pnx_cache_put(r->f.cache, &key, sizeof(key), "", 0, 0), 0);
            key = 1000 + (i > 3000 ? i - 3000 : 0);
            int rc = pnx_cache_remove(r->f.cache, &key, sizeof(key));
            CHECK(rc == 0 || rc == -ENOENT);
        }
    } else {
        uint64_t last[STAYING] = {0};
        for (uint64_t i = 0; !__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE); i++) {
            uint64_t key = i % STAYING, value[2] = {0};
            int rc = pnx_cache_get_copy(r->f.cache, &key, sizeof(key), value, sizeof(value), NULL);
            CHECK_MSG(rc == 0, "a key that stays: %s", pnx_errname(rc));
            CHECK_EQ(value[0], key);
            CHECK_MSG(value[1] >= last[key], "an older value came after a newer one");
            last[key] = value[1];
            struct pnx_cache_ref ref = {0};
            CHECK_EQ(pnx_cache_get(r->f.cache, &key, sizeof(key), &ref), 0);
            memcpy(value, pnx_cache_ref_data(&ref), sizeof(value));
            CHECK(value[0] == key && value[1] >= last[key]);
            last[key] = value[1];
            pnx_cache_ref_release(&ref);
        }
    }
}

TEST_LIMIT(p10_a_key_that_stays_is_never_missed_nor_seen_to_go_back, 120) {
    static struct racers r;
    for (uint32_t shards = 1; shards <= 4; shards *= 4) {
        memset(&r, 0, sizeof(r));
        fixture_open(
                &r.f, PNX_CACHE_OPTS(.capacity = 64 << 20, .policy = "sieve", .shards = shards));
        for (uint64_t key = 0; key < STAYING; key++) {
            uint64_t value[2] = {key, 0};
            CHECK_EQ(pnx_cache_put(r.f.cache, &key, sizeof(key), value, sizeof(value), 0), 0);
        }
        test_threads(4, look_while_others_write, &r);
        fixture_close(&r.f);
    }
}

/* ---- all shards ---- */

static int mark_seen(void *ctx, const struct pnx_cache_ref *ref) {
    bool *seen = ctx;
    uint64_t key;
    memcpy(&key, pnx_cache_ref_key(ref, NULL), sizeof(key));
    CHECK(key < 1000 && !seen[key]);
    seen[key] = true;
    return 0;
}

TEST(walks_clears_and_ticks_reach_all_shards) {
    struct fixture f;
    bool seen[1000] = {false};
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 2000, .policy = "clock", .shards = 8));
    for (uint64_t i = 0; i < 1000; i++) {
        pnx_ns ttl = i < 20 ? PNX_SEC * (pnx_ns)(i + 1) : PNX_NEVER;
        CHECK_EQ(pnx_cache_put(f.cache, &i, sizeof(i), "v", 1, ttl), 0);
    }
    CHECK_EQ(pnx_cache_each(f.cache, mark_seen, seen), 0);
    for (int i = 0; i < 1000; i++)
        CHECK(seen[i]);
    pnx_ns start = f.te.now;
    CHECK_EQ(pnx_cache_tick(f.cache, start), start + PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, start + 20 * PNX_SEC), start + 20 * PNX_SEC);
    CHECK_EQ(stats_of(&f).removed_expired, PNX_CACHE_TICK_MAX);
    CHECK_EQ(pnx_cache_tick(f.cache, start + 20 * PNX_SEC), start + 20 * PNX_SEC);
    CHECK_EQ(pnx_cache_tick(f.cache, start + 20 * PNX_SEC), PNX_NEVER);
    CHECK_EQ(stats_of(&f).removed_expired, 20);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(stats_of(&f).entries, 0);
    CHECK_EQ(stats_of(&f).index, 0);
    fixture_close(&f);
}

/* ---- many at once ---- */

static void many_as_one_by_one(const char *policy, uint32_t shards) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 500, .policy = policy, .shards = shards));
    uint64_t rng = test_seed();
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t key = test_random(&rng) % 1000, value = key * 3;
        pnx_ns ttl = i % 5 == 0 ? PNX_SEC : 0;
        CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), &value, i % 7 ? 8 : 4, ttl), 0);
        if (i % 10)
            continue;
        uint64_t keys[PNX_CACHE_MANY_MAX], values[PNX_CACHE_MANY_MAX] = {0}, found = 0;
        size_t n = test_random(&rng) % (PNX_CACHE_MANY_MAX + 1);
        int expected = 0;
        for (size_t k = 0; k < n; k++)
            keys[k] = test_random(&rng) % 1000;
        if (i % 50 == 0)
            test_env_advance(&f.te, PNX_SEC);
        struct pnx_cache_stats before = stats_of(&f);
        int got = pnx_cache_get_many(f.cache, keys, 8, n, values, 8, &found);
        struct pnx_cache_stats after = stats_of(&f);
        CHECK_EQ(after.hits - before.hits + after.misses - before.misses, n);
        for (size_t k = 0; k < n; k++) {
            uint64_t one = 0;
            size_t size = 0;
            int rc = pnx_cache_get_copy(f.cache, &keys[k], 8, &one, 8, &size);
            bool there = rc == 0 && size == 8;
            CHECK_EQ(found >> k & 1, there);
            CHECK_EQ(values[k], there ? keys[k] * 3 : 0);
            expected += there;
        }
        CHECK_EQ(got, expected);
    }
    fixture_close(&f);
}

TEST(many_keys_are_found_as_one_by_one) {
    many_as_one_by_one("sieve", 1);
    many_as_one_by_one("s3-fifo", 4);
    many_as_one_by_one("lru", 1);
}

TEST(bad_arguments_of_get_many) {
    struct fixture f;
    uint64_t keys[PNX_CACHE_MANY_MAX + 1] = {0}, values[PNX_CACHE_MANY_MAX + 1], found = 77;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(pnx_cache_get_many(NULL, keys, 8, 1, values, 8, &found), -EINVAL);
    CHECK_EQ(pnx_cache_get_many(f.cache, NULL, 8, 1, values, 8, &found), -EINVAL);
    CHECK_EQ(pnx_cache_get_many(f.cache, keys, 8, 1, NULL, 8, &found), -EINVAL);
    CHECK_EQ(pnx_cache_get_many(f.cache, keys, 8, 1, values, 8, NULL), -EINVAL);
    CHECK_EQ(pnx_cache_get_many(f.cache, keys, 8, PNX_CACHE_MANY_MAX + 1, values, 8, &found),
            -E2BIG);
    CHECK_EQ(found, 77);
    CHECK_EQ(pnx_cache_get_many(f.cache, NULL, 8, 0, NULL, 8, &found), 0);
    CHECK_EQ(found, 0);
    CHECK_EQ(pnx_cache_close(f.cache), 0);
    CHECK_EQ(pnx_cache_get_many(f.cache, keys, 8, 1, values, 8, &found), -ESHUTDOWN);
    fixture_close(&f);
}

/* ---- typed ---- */

struct price {
    double amount;
    uint32_t currency;
};
PNX_CACHE_DEFINE(price_cache, uint64_t, struct price)

TEST(typed_forms_store_find_and_remove_by_value) {
    struct fixture f;
    struct price price = {0}, many[3] = {{0}};
    uint64_t keys[3] = {1, 2, 3}, found = 0;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(price_cache_get(f.cache, 1, &price), -ENOENT);
    CHECK_EQ(price_cache_put(f.cache, 1, (struct price){1.5, 978}, 0), 0);
    CHECK_EQ(price_cache_put(f.cache, 3, (struct price){3.5, 978}, PNX_SEC), 0);
    CHECK_EQ(price_cache_get(f.cache, 1, &price), 0);
    CHECK(price.amount == 1.5 && price.currency == 978);
    CHECK_EQ(price_cache_get_many(f.cache, keys, 3, many, &found), 2);
    CHECK_EQ(found, 5);
    CHECK(many[0].amount == 1.5 && many[2].amount == 3.5);
    CHECK_EQ(price_cache_remove(f.cache, 1), 0);
    CHECK_EQ(price_cache_remove(f.cache, 1), -ENOENT);
    uint64_t other = 2;
    CHECK_EQ(pnx_cache_put(f.cache, &other, sizeof(other), "x", 1, 0), 0);
    CHECK_EQ(price_cache_get(f.cache, 2, &price), -ERANGE);
    CHECK(price.amount == 1.5);
    fixture_close(&f);
}
