/* SPDX-License-Identifier: Apache-2.0 */
/* Weights: P1 and P9 in their unit, P20, options, policies, statistics, snapshots, and memory that cannot be had. */
#include "cache/common.h"

#include <patinox/cache_policy.h>
#include <patinox/executor.h>
#include <patinox/reclaim.h>

#include <unistd.h>

/* What a value of these tests is: bytes, or what a pointer points to. */
struct value {
    uint64_t weight;
    uint64_t number;
};

/* What the weigher was asked last, and how often. */
static struct asked {
    uint64_t calls;
    uint64_t absences;
    uint64_t number;
    size_t key_size;
    char key[16];
    size_t value_size;
    const void *value;
    bool aligned;
} asked;

static uint64_t weigh(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    struct value v;
    CHECK(ctx == &asked);
    asked.calls++;
    asked.key_size = key_size;
    CHECK(key_size <= sizeof(asked.key));
    if (key_size > 0)
        memcpy(asked.key, key, key_size);
    asked.value_size = value_size;
    asked.value = value;
    if (!value) {
        asked.absences++;
        return 3;
    }
    asked.aligned = (uintptr_t)value % 16 == 0;
    CHECK(value_size >= sizeof(v));
    memcpy(&v, value, sizeof(v));
    asked.number = v.number;
    return v.weight;
}

static void open_weighed(struct fixture *f, const struct pnx_cache_opts *opts) {
    struct pnx_cache_opts full = *opts;
    asked = (struct asked){0};
    full.weigher = weigh;
    full.weigher_ctx = &asked;
    fixture_open(f, &full);
}

/* With one key for each letter. */
static int put(struct fixture *f, char key, uint64_t weight) {
    const struct value v = {weight, asked.calls + 100};
    return pnx_cache_put(f->cache, &key, 1, &v, sizeof(v), 0);
}

static bool has(struct fixture *f, char key) {
    struct pnx_cache_ref ref = {0};
    int rc = pnx_cache_probe(f->cache, &key, 1, &ref);
    pnx_cache_ref_release(&ref);
    CHECK(rc == 0 || rc == -ENOENT);
    return rc == 0;
}

static void check_asked(uint64_t calls, char key, uint64_t number) {
    CHECK_EQ(asked.calls, calls);
    CHECK_EQ(asked.key_size, 1);
    CHECK_EQ(asked.key[0], key);
    CHECK_EQ(asked.number, number);
}

/* ---- P20: once for each value, however it comes ---- */

TEST(p20_each_call_that_stores_bytes_has_them_weighed_once) {
    struct fixture f;
    struct value v = {5, 1};
    struct pnx_cache_reservation r = {0};
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 100));
    CHECK_EQ(pnx_cache_put(f.cache, "a", 1, &v, sizeof(v), 0), 0);
    check_asked(1, 'a', 1);
    CHECK(asked.aligned && asked.value != &v);
    CHECK_EQ(asked.value_size, sizeof(v));
    v = (struct value){7, 2};
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "b", 1, &v, sizeof(v), 0), 0);
    check_asked(2, 'b', 2);
    CHECK_EQ(stats_of(&f).weight, 12);
    CHECK_EQ(pnx_cache_reserve(f.cache, "c", 1, 100, &r), 0);
    CHECK_EQ(asked.calls, 2); /* what is in it is not known yet */
    CHECK_EQ(stats_of(&f).weight, 12);
    v = (struct value){11, 3};
    memcpy(r.data, &v, sizeof(v));
    CHECK_EQ(pnx_cache_commit(&r, sizeof(v), 0), 0);
    check_asked(3, 'c', 3);
    CHECK_EQ(asked.value_size, sizeof(v));
    CHECK(asked.aligned);
    CHECK_EQ(pnx_cache_reserve(f.cache, "d", 1, sizeof(v), &r), 0);
    v = (struct value){13, 4};
    memcpy(r.data, &v, sizeof(v));
    CHECK_EQ(pnx_cache_commit_if_absent(&r, sizeof(v), 0), 0);
    check_asked(4, 'd', 4);
    CHECK_EQ(pnx_cache_reserve(f.cache, "e", 1, sizeof(v), &r), 0);
    pnx_cache_abort(&r);
    CHECK_EQ(asked.calls, 4);
    CHECK_EQ(stats_of(&f).weight, 36);
    CHECK_EQ(stats_of(&f).capacity_weight, 100);
    CHECK_EQ(pnx_cache_remove(f.cache, "c", 1), 0);
    CHECK_EQ(stats_of(&f).weight, 25);
    CHECK_EQ(pnx_cache_clear(f.cache), 0);
    CHECK_EQ(stats_of(&f).weight, 0);
    CHECK_EQ(asked.calls, 4);
    fixture_close(&f);
}

static int destroyed;
static void count_destroyed(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx, (void)removed;
    destroyed++;
}

TEST(p20_a_pointer_is_weighed_as_it_was_put) {
    struct fixture f;
    struct value v = {5, 1}, other = {6, 2};
    destroyed = 0;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 20, .destroy = count_destroyed));
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "a", 1, &v, sizeof(v), 0), 0);
    check_asked(1, 'a', 1);
    CHECK(asked.value == &v);
    CHECK_EQ(pnx_cache_put_pointer_if_absent(f.cache, "b", 1, &other, sizeof(other), 0), 0);
    check_asked(2, 'b', 2);
    CHECK(asked.value == &other);
    CHECK_EQ(stats_of(&f).weight, 11);
    v.weight = 1000; /* what it weighs was asked for: it takes out what it put in */
    CHECK_EQ(pnx_cache_remove(f.cache, "a", 1), 0);
    CHECK_EQ(stats_of(&f).weight, 6);
    CHECK_EQ(asked.calls, 2);
    /* Too heavy: the pointer is still ours, and the older value gone. */
    CHECK_EQ(pnx_cache_put_pointer(f.cache, "b", 1, &v, sizeof(v), 0), -EFBIG);
    CHECK_EQ(destroyed, 2);
    CHECK(!has(&f, 'b'));
    fixture_close(&f);
}

struct change {
    struct value value;
    int how; /* 0 set, 1 reserve, 2 pointer */
    int calls;
};

static int change_fn(void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change) {
    struct change *c = ctx;
    void *data = NULL;
    (void)now;
    c->calls++;
    if (c->how == 0)
        return pnx_cache_change_set(change, &c->value, sizeof(c->value));
    if (c->how == 2)
        return pnx_cache_change_set_pointer(change, &c->value, sizeof(c->value));
    int rc = pnx_cache_change_reserve(change, sizeof(c->value), &data);
    if (rc == 0)
        memcpy(data, &c->value, sizeof(c->value));
    return rc;
}

TEST(p20_what_a_compute_decides_is_weighed_once) {
    struct fixture f;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 50));
    for (int how = 0; how < 3; how++) {
        struct change c = {.value = {10 + (uint64_t)how, (uint64_t)how}, .how = how};
        CHECK_EQ(pnx_cache_compute(f.cache, "a", 1, change_fn, &c, NULL), 0);
        CHECK_EQ(c.calls, 1);
        check_asked((uint64_t)how + 1, 'a', (uint64_t)how);
        CHECK_EQ(stats_of(&f).weight, 10 + how);
    }
    struct change heavy = {.value = {51, 9}};
    CHECK_EQ(pnx_cache_compute(f.cache, "a", 1, change_fn, &heavy, NULL), -EFBIG);
    CHECK_EQ(heavy.calls, 1);
    CHECK(!has(&f, 'a'));
    CHECK_EQ(stats_of(&f).weight, 0);
    CHECK_EQ(stats_of(&f).rejected, 1);
    fixture_close(&f);
}

static int loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    const struct value *v = ctx;
    (void)key, (void)key_size, (void)deadline;
    return v ? pnx_cache_load_set(load, v, sizeof(*v)) : -ENOENT;
}

static int keep_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)key, (void)key_size, (void)deadline;
    *(struct pnx_cache_load **)ctx = load;
    return -EINPROGRESS;
}

static void done(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    (void)err;
    *(int *)request->arg = code ? code : 1;
    pnx_cache_ref_release(&ref);
}

TEST(p20_what_is_loaded_and_refreshed_is_weighed_once) {
    struct fixture f;
    struct value v = {5, 1};
    struct pnx_cache_ref ref = {0};
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 20, .refresh_after = 10 * PNX_SEC));
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "a", 1, loader, &v, PNX_NEVER, NULL, &ref), 0);
    check_asked(1, 'a', 1);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "a", 1, loader, &v, PNX_NEVER, NULL, &ref), 0);
    CHECK_EQ(asked.calls, 1);
    pnx_cache_ref_release(&ref);
    v = (struct value){6, 2};
    CHECK_EQ(pnx_cache_refresh(f.cache, "a", 1, loader, &v, PNX_NEVER, NULL), 0);
    check_asked(2, 'a', 2);
    CHECK_EQ(stats_of(&f).weight, 6);
    test_env_advance(&f.te, 10 * PNX_SEC);
    v = (struct value){4, 3};
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "a", 1, loader, &v, PNX_NEVER, NULL, &ref), 0);
    check_asked(3, 'a', 3);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(stats_of(&f).weight, 4);
    /* A kept load, ended by hand. */
    struct pnx_cache_load *kept = NULL;
    int told = 0;
    struct pnx_cache_request request = {.done = done, .arg = &told};
    CHECK_EQ(pnx_cache_get_async(f.cache, "b", 1, keep_loader, &kept, PNX_NEVER, &request), 0);
    v = (struct value){7, 4};
    CHECK_EQ(pnx_cache_load_set(kept, &v, sizeof(v)), 0);
    CHECK_EQ(asked.calls, 3);
    CHECK_EQ(pnx_cache_load_finish(kept, 0), 0);
    CHECK_EQ(told, 1);
    check_asked(4, 'b', 4);
    CHECK_EQ(stats_of(&f).weight, 11);
    /* A result that was overtaken is weighed, and not stored. */
    request = (struct pnx_cache_request){.done = done, .arg = &told};
    CHECK_EQ(pnx_cache_get_async(f.cache, "c", 1, keep_loader, &kept, PNX_NEVER, &request), 0);
    CHECK_EQ(put(&f, 'c', 1), 0);
    CHECK_EQ(pnx_cache_load_set(kept, &v, sizeof(v)), 0);
    CHECK_EQ(pnx_cache_load_finish(kept, 0), 0);
    CHECK_EQ(stats_of(&f).weight, 12);
    fixture_close(&f);
}

TEST(p20_an_executors_refresh_is_weighed) {
    struct fixture f;
    struct pnx_executor *executor = NULL;
    struct value v = {5, 1};
    fixture_worlds(&f);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.env = &f.te.env, .registry = pnx_registry_off(),
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                         .flags = PNX_EXECUTOR_TICK),
                     &f.err, &executor),
            0);
    asked = (struct asked){0};
    struct pnx_cache_opts opts = fixture_opts(
            &f, PNX_CACHE_OPTS(.capacity_weight = 20, .weigher = weigh, .weigher_ctx = &asked,
                        .refresh_after = 10 * PNX_SEC, .executor = executor,
                        .refresh_loader = loader, .refresh_ctx = &v));
    CHECK_EQ(pnx_cache_create(&opts, &f.err, &f.cache), 0);
    CHECK_EQ(put(&f, 'a', 9), 0);
    test_env_advance(&f.te, 10 * PNX_SEC);
    struct pnx_cache_ref ref = {0};
    CHECK_EQ(pnx_cache_get(f.cache, "a", 1, &ref), 0);
    pnx_cache_ref_release(&ref);
    pnx_executor_tick(executor, f.te.now);
    check_asked(2, 'a', 1);
    CHECK_EQ(stats_of(&f).weight, 5);
    pnx_cache_close(f.cache);
    pnx_executor_release(&executor);
    fixture_close(&f);
}

TEST(p20_an_absence_is_weighed_without_a_value) {
    struct fixture f;
    struct pnx_cache_ref ref = {0};
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 20, .negative_ttl = PNX_SEC));
    for (char key = 'a'; key <= 'z'; key++) {
        CHECK_EQ(pnx_cache_get_or_load(f.cache, &key, 1, loader, NULL, PNX_NEVER, NULL, &ref),
                -ENOENT);
        CHECK(!asked.value);
        CHECK_EQ(asked.value_size, 0);
        CHECK_EQ(asked.key[0], key);
        CHECK(stats_of(&f).weight <= 20);
    }
    CHECK_EQ(asked.absences, 26);
    CHECK_EQ(asked.calls, 26);
    CHECK_EQ(stats_of(&f).weight, 18); /* of 3 each */
    CHECK_EQ(stats_of(&f).entries, 6);
    check_invariants(&f);
    fixture_close(&f);
}

TEST(p20_a_weight_of_0_counts_as_1) {
    struct fixture f;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 10));
    for (char key = 'a'; key <= 'z'; key++)
        CHECK_EQ(put(&f, key, 0), 0);
    CHECK_EQ(stats_of(&f).weight, 10);
    CHECK_EQ(stats_of(&f).entries, 10);
    CHECK(has(&f, 'z') && !has(&f, 'a'));
    fixture_close(&f);
}

/* ---- P1 ---- */

TEST(p1_replacement_changes_the_weight_up_and_down) {
    struct fixture f;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 10));
    CHECK_EQ(put(&f, 'a', 3), 0);
    CHECK_EQ(put(&f, 'b', 4), 0);
    CHECK_EQ(put(&f, 'a', 6), 0); /* exactly the capacity */
    CHECK_EQ(stats_of(&f).weight, 10);
    CHECK_EQ(stats_of(&f).removed_size, 0);
    CHECK_EQ(put(&f, 'a', 1), 0);
    CHECK_EQ(stats_of(&f).weight, 5);
    CHECK_EQ(put(&f, 'a', 7), 0); /* b has to go */
    CHECK_EQ(stats_of(&f).weight, 7);
    CHECK_EQ(stats_of(&f).removed_size, 1);
    CHECK(has(&f, 'a') && !has(&f, 'b'));
    CHECK_EQ(put(&f, 'a', 10), 0);
    CHECK_EQ(stats_of(&f).weight, 10);
    CHECK_EQ(stats_of(&f).entries, 1);
    fixture_close(&f);
}

TEST(p1_bytes_and_entries_hold_beside_weights) {
    struct fixture f;
    size_t each = pnx_cache_cost(1, sizeof(struct value));
    open_weighed(&f,
            PNX_CACHE_OPTS(.capacity_weight = 1000, .capacity = 8 * each, .capacity_entries = 6));
    for (char key = 'a'; key <= 'z'; key++) {
        CHECK_EQ(put(&f, key, 1), 0);
        CHECK(stats_of(&f).entries <= 6);
    }
    CHECK_EQ(stats_of(&f).entries, 6);
    CHECK_EQ(pnx_cache_resize(f.cache, 4 * each > 1024 ? 4 * each : 1024, 0, &f.err), 0);
    CHECK(stats_of(&f).bytes <= (4 * each > 1024 ? 4 * each : 1024));
    CHECK(stats_of(&f).entries < 6);
    CHECK_EQ(pnx_cache_resize(f.cache, 0, 0, &f.err), 0); /* the weight is limit enough */
    CHECK_EQ(stats_of(&f).capacity, 0);
    CHECK_EQ(stats_of(&f).capacity_weight, 1000);
    for (char key = 'a'; key <= 'z'; key++)
        CHECK_EQ(put(&f, key, 40), 0);
    CHECK_EQ(stats_of(&f).entries, 25);
    CHECK_EQ(stats_of(&f).weight, 1000);
    fixture_close(&f);
}

TEST(p1_a_resize_in_weight_evicts_at_once_and_refuses_what_is_none) {
    struct fixture f;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 100));
    for (char key = 'a'; key < 'k'; key++)
        CHECK_EQ(put(&f, key, 10), 0);
    CHECK_EQ(pnx_cache_resize_weight(f.cache, 35, &f.err), 0);
    CHECK_EQ(stats_of(&f).weight, 30);
    CHECK_EQ(stats_of(&f).capacity_weight, 35);
    CHECK(has(&f, 'j') && has(&f, 'h') && !has(&f, 'g'));
    CHECK_EQ(put(&f, 'x', 36), -EFBIG);
    CHECK_EQ(pnx_cache_resize_weight(f.cache, 36, &f.err), 0);
    CHECK_EQ(put(&f, 'x', 36), 0);
    CHECK_EQ(asked.calls, 12); /* nothing is weighed again */
    CHECK_EQ(pnx_cache_resize_weight(f.cache, 0, &f.err), -EINVAL);
    CHECK_STR(f.err.field, "capacity_weight");
    CHECK_EQ(pnx_cache_resize_weight(f.cache, PNX_CACHE_WEIGHT_MAX + 1, &f.err), -EINVAL);
    CHECK_EQ(pnx_cache_resize_weight(f.cache, PNX_CACHE_WEIGHT_MAX, &f.err), 0);
    CHECK_EQ(pnx_cache_resize_weight(NULL, 5, &f.err), -EINVAL);
    CHECK_EQ(stats_of(&f).capacity_weight, (int64_t)PNX_CACHE_WEIGHT_MAX);
    pnx_cache_close(f.cache);
    CHECK_EQ(pnx_cache_resize_weight(f.cache, 5, &f.err), -ESHUTDOWN);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 4));
    CHECK_EQ(pnx_cache_resize_weight(f.cache, 5, &f.err), -ENOTSUP);
    CHECK_CONTAINS(f.err.message, "has no weigher");
    CHECK_EQ(stats_of(&f).capacity_weight, 0);
    CHECK_EQ(stats_of(&f).weight, 0);
    fixture_close(&f);
}

#define KEYS 64u

/* What is stored weighs together; each value says what it weighs. */
static int add_weight(void *ctx, const struct pnx_cache_ref *ref) {
    const struct value *v = pnx_cache_ref_data(ref);
    *(uint64_t *)ctx += v->weight ? v->weight : 1;
    return 0;
}

static void check_weight(struct fixture *f, uint64_t capacity) {
    uint64_t sum = 0;
    struct pnx_cache_stats stats = stats_of(f);
    CHECK_EQ(pnx_cache_each(f->cache, add_weight, &sum), 0);
    CHECK_EQ(stats.weight, (int64_t)sum);
    CHECK(stats.weight <= capacity);
    CHECK(stats.entries <= stats.weight);
    check_invariants(f);
}

/* Random puts, gets, removals and resizes; weights go from 0 to what is too much. */
static void random_life(const char *policy, uint32_t shards, uint64_t unit, uint64_t seed) {
    struct fixture f;
    uint64_t rng = seed, capacity = unit * (1 + test_random(&rng) % 60), refused = 0;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = capacity, .policy = policy, .shards = shards,
                             .ttl = 50));
    unsigned steps = test_slow() ? 1000 : 4000;
    for (unsigned i = 0; i < steps; i++) {
        uint64_t r = test_random(&rng), what = r % 100;
        char key = (char)(r >> 8 & (KEYS - 1));
        if (what < 50) {
            uint64_t part = r >> 32 & 7;
            uint64_t weight = part == 0   ? capacity
                              : part == 1 ? capacity + 1
                              : part == 2 ? 0
                                          : test_random(&rng) % (capacity / 4 + 1);
            int rc = put(&f, key, weight);
            refused += rc == -EFBIG;
            CHECK_EQ(rc, weight > capacity ? -EFBIG : 0);
            if (rc)
                CHECK(!has(&f, key));
        } else if (what < 90) {
            (void)has(&f, key);
        } else if (what < 96) {
            (void)pnx_cache_remove(f.cache, &key, 1);
        } else if (what < 98) {
            test_env_advance(&f.te, 10);
        } else {
            capacity = unit * (1 + test_random(&rng) % 60);
            CHECK_EQ(pnx_cache_resize_weight(f.cache, capacity, NULL), 0);
        }
        CHECK(stats_of(&f).weight <= capacity);
        if (i % 16 == 0) {
            while (pnx_cache_tick(f.cache, f.te.now) <= f.te.now)
                continue; /* what has expired is not walked, and still weighs */
            check_weight(&f, capacity);
        }
    }
    CHECK_EQ(stats_of(&f).rejected, (int64_t)refused);
    CHECK(refused > 0);
    fixture_close(&f);
}

static void every_policy(uint64_t unit) {
    uint64_t seed = test_seed();
    for (size_t i = 0; pnx_cache_policy_at(i); i++) {
        random_life(pnx_cache_policy_at(i)->name, 1, unit, seed + i);
        random_life(pnx_cache_policy_at(i)->name, 4, unit, seed + 100 + i);
    }
}

TEST_LIMIT(p1_no_policy_exceeds_a_capacity_of_few_units, 120) {
    every_policy(1);
}
TEST_LIMIT(p1_no_policy_exceeds_a_capacity_of_many_units, 120) {
    every_policy(1000);
}
TEST_LIMIT(p1_no_policy_exceeds_the_largest_capacities, 120) {
    every_policy(PNX_CACHE_WEIGHT_MAX / 61);
}

/* Weights that 32 bits do not hold: AUTO's shadows have them in another unit, and choose no worse for it. */
static double hit_ratio(uint64_t unit) {
    struct fixture f;
    uint64_t rng = 7, hits = 0, requests = test_slow() ? 20000 : 100000;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 1000 * unit, .policy = "auto", .shards = 1));
    for (uint64_t i = 0; i < requests; i++) {
        double x = (double)(test_random(&rng) >> 11) * 0x1p-53;
        uint64_t key = (uint64_t)(4000 * x * x * x);
        struct pnx_cache_ref ref = {0};
        if (pnx_cache_get(f.cache, &key, sizeof(key), &ref) == 0) {
            hits++;
            pnx_cache_ref_release(&ref);
            continue;
        }
        const struct value v = {(1 + key % 5) * unit, key};
        CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), &v, sizeof(v), 0), 0);
    }
    fixture_close(&f);
    return (double)hits / (double)requests;
}

TEST_LIMIT(auto_hits_as_often_whatever_the_unit_of_weight_is, 120) {
    double small = hit_ratio(1), large = hit_ratio(UINT64_C(1) << 40);
    CHECK_MSG(large > small - 0.01 && small > 0.3, "%.3f with small weights, %.3f with large ones",
            small, large);
}

/* The shadows still hold what the cache did, and then have to make room in next to nothing. */
TEST(auto_shadows_have_a_capacity_though_the_cache_is_empty_and_becomes_smaller) {
    for (uint64_t most = 40; most >= 4; most -= 4) {
        struct fixture f;
        open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = UINT64_C(1) << most, .policy = "auto",
                                 .shards = 1));
        for (char key = 'a'; key <= 'z'; key++) {
            struct pnx_cache_ref ref = {0};
            CHECK_EQ(put(&f, key, UINT64_C(1) << most >> 6), 0);
            CHECK_EQ(pnx_cache_get(f.cache, &key, 1, &ref), 0);
            pnx_cache_ref_release(&ref);
        }
        for (char key = 'a'; key <= 'z'; key++)
            (void)pnx_cache_remove(f.cache, &key, 1);
        CHECK_EQ(stats_of(&f).entries, 0);
        CHECK_EQ(pnx_cache_resize_weight(f.cache, UINT64_C(1) << most >> 1, &f.err), 0);
        CHECK_EQ(put(&f, 'a', 1), 0);
        CHECK_EQ(pnx_cache_resize_weight(f.cache, 1, &f.err), 0);
        CHECK_EQ(put(&f, 'b', 1), 0);
        CHECK_EQ(stats_of(&f).weight, 1);
        fixture_close(&f);
    }
}

/* ---- P9 ---- */

TEST(p9_what_is_too_heavy_is_refused_and_leaves_no_older_value) {
    struct fixture f;
    struct value v = {11, 1};
    struct pnx_cache_reservation r = {0};
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 10));
    CHECK_EQ(put(&f, 'b', 2), 0);
    CHECK_EQ(put(&f, 'a', 3), 0);
    CHECK_EQ(put(&f, 'a', 11), -EFBIG);
    CHECK(!has(&f, 'a') && has(&f, 'b')); /* nothing was evicted for it */
    CHECK_EQ(stats_of(&f).removed_replaced, 1);
    CHECK_EQ(put(&f, 'a', UINT64_MAX), -EFBIG);
    CHECK_EQ(put(&f, 'a', 3), 0);
    CHECK_EQ(pnx_cache_put_if_absent(f.cache, "a", 1, &v, sizeof(v), 0), -EFBIG);
    CHECK(has(&f, 'a'));
    CHECK_EQ(pnx_cache_reserve(f.cache, "a", 1, sizeof(v), &r), 0);
    memcpy(r.data, &v, sizeof(v));
    CHECK_EQ(pnx_cache_commit(&r, sizeof(v), 0), -EFBIG);
    CHECK(!r.entry);
    CHECK(!has(&f, 'a'));
    CHECK_EQ(stats_of(&f).rejected, 4);
    CHECK_EQ(stats_of(&f).reserved, 0);
    CHECK_EQ(stats_of(&f).weight, 2);
    fixture_close(&f);
}

static void rejected_event(void *ctx, const struct pnx_event *event) {
    if (event->type == PNX_EVENT_CACHE_REJECTED)
        snprintf(ctx, 64, "%s", event->cause ? event->cause : "");
}

TEST(p9_the_event_says_that_it_was_the_weight) {
    struct fixture f;
    char cause[64] = "";
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 10, .capacity = 4096));
    uint32_t id;
    CHECK_EQ(pnx_monitor_add(f.stats,
                     &(const struct pnx_monitor){.size = sizeof(struct pnx_monitor),
                             .event = rejected_event,
                             .ctx = cause},
                     &id),
            0);
    CHECK_EQ(put(&f, 'a', 11), -EFBIG);
    CHECK_STR(cause, "heavier than the capacity");
    char big[8192] = {0};
    CHECK_EQ(pnx_cache_put(f.cache, "a", 1, big, sizeof(big), 0), -EFBIG);
    CHECK_STR(cause, "larger than the capacity");
    fixture_close(&f);
}

TEST(a_loaded_value_that_is_too_heavy_is_handed_out_and_not_stored) {
    struct fixture f;
    struct value v = {11, 1};
    struct pnx_cache_ref ref = {0};
    destroyed = 0;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 10, .destroy = count_destroyed));
    CHECK_EQ(pnx_cache_get_or_load(f.cache, "a", 1, loader, &v, PNX_NEVER, NULL, &ref), 0);
    CHECK_EQ(((const struct value *)pnx_cache_ref_data(&ref))->weight, 11);
    CHECK(!has(&f, 'a'));
    CHECK_EQ(stats_of(&f).rejected, 1);
    CHECK_EQ(stats_of(&f).weight, 0);
    CHECK_EQ(destroyed, 0);
    pnx_cache_ref_release(&ref);
    CHECK_EQ(destroyed, 1);
    fixture_close(&f);
}

/* ---- options ---- */

TEST(options_of_weights_are_both_or_neither) {
    struct fixture f;
    struct pnx_error err;
    fixture_worlds(&f);
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.weigher = weigh), &err, &f.cache), -EINVAL);
    CHECK_STR(err.field, "capacity_weight");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.weigher = weigh, .capacity = 4096), &err, &f.cache),
            -EINVAL);
    CHECK_STR(err.field, "capacity_weight");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity_weight = 5), &err, &f.cache), -EINVAL);
    CHECK_STR(err.field, "weigher");
    CHECK_EQ(pnx_cache_create(
                     PNX_CACHE_OPTS(.capacity_entries = 5, .weigher_ctx = &err), &err, &f.cache),
            -EINVAL);
    CHECK_STR(err.field, "weigher_ctx");
    CHECK_EQ(pnx_cache_create(
                     PNX_CACHE_OPTS(.weigher = weigh, .capacity_weight = PNX_CACHE_WEIGHT_MAX + 1),
                     &err, &f.cache),
            -EINVAL);
    CHECK_STR(err.field, "capacity_weight");
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.weigher = weigh, .capacity_weight = 100,
                                      .key_bytes = 8, .value_bytes = 8),
                     &err, &f.cache),
            -EINVAL);
    CHECK_STR(err.field, "weigher");
    CHECK_CONTAINS(err.message, "fixed");
    CHECK(!f.cache);
    struct pnx_cache_opts opts = *PNX_CACHE_OPTS(.weigher = weigh);
    CHECK_EQ(pnx_cache_opts_set(&opts, "capacity_weight", "5000", &err), 0);
    CHECK_EQ(opts.capacity_weight, 5000);
    CHECK_EQ(pnx_cache_opts_set(&opts, "weigher", "1", &err), -ENOTSUP);
    fixture_close(&f);
}

PNX_CACHE_DEFINE(numbers, uint64_t, uint64_t)

TEST(typed_forms_refuse_a_weigher_and_sizes_of_ones_own_do_not) {
    struct fixture f;
    fixture_worlds(&f);
    struct pnx_cache_opts opts = fixture_opts(
            &f, PNX_CACHE_OPTS(.weigher = weigh, .weigher_ctx = &asked, .capacity_weight = 100));
    CHECK_EQ(numbers_create(&opts, &f.err, &f.cache), -EINVAL);
    CHECK_STR(f.err.field, "weigher");
    CHECK_EQ(numbers_create(PNX_CACHE_OPTS(.capacity_entries = 9, .registry = f.registry,
                                    .stats = f.stats, .budget = f.budget, .env = &f.te.env),
                     &f.err, &f.cache),
            0);
    CHECK_EQ(numbers_put(f.cache, 1, 2, 0), 0);
    CHECK_EQ(pnx_cache_resize_weight(f.cache, 5, &f.err), -ENOTSUP);
    CHECK_EQ(stats_of(&f).weight, 0);
    fixture_close(&f);
}

/* ---- policies and statistics ---- */

static struct told {
    uint32_t kind;
    uint64_t capacity;
    uint64_t inserted; /* weight of the last slot */
    uint64_t from;     /* of the last reweigh */
    uint64_t wanted;   /* of the last victim */
    const struct pnx_cache_policy *real;
    const struct pnx_cache_slots *view;
} told;

static void spy_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    if (params->slots->weight !=
            PNX_CACHE_NO_FIELD) { /* not the one that is asked at the creation */
        told.kind = params->kind;
        told.capacity = params->capacity;
        told.view = params->slots;
    }
    told.real->init(memory, params, slots);
}
static void spy_insert(void *state, uint32_t slot) {
    told.inserted = pnx_cache_slot_weight(told.view, slot);
    told.real->insert(state, slot);
}
static void spy_reweigh(void *state, uint32_t slot, uint64_t from) {
    told.from = from;
    told.inserted = pnx_cache_slot_weight(told.view, slot);
    if (told.real->reweigh)
        told.real->reweigh(state, slot, from);
}
static uint32_t spy_victim(void *state, uint32_t hash, uint64_t weight) {
    told.wanted = weight;
    return told.real->victim(state, hash, weight);
}
static void spy_resize(void *state, uint64_t capacity) {
    told.capacity = capacity;
    if (told.real->resize)
        told.real->resize(state, capacity);
}

TEST(policies_are_told_weights) {
    struct fixture f;
    told = (struct told){.real = pnx_cache_policy_find("s3-fifo")};
    struct pnx_cache_policy spy = *told.real;
    spy.name = "spy";
    spy.init = spy_init;
    spy.insert = spy_insert;
    spy.reweigh = spy_reweigh;
    spy.victim = spy_victim;
    spy.resize = spy_resize;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 100, .capacity = 1 << 20, .shards = 1,
                             .custom_policy = &spy));
    CHECK_EQ(put(&f, 'a', 30), 0);
    CHECK_EQ(told.kind, PNX_CACHE_CAPACITY_WEIGHT);
    CHECK_EQ(told.capacity, 100);
    CHECK_EQ(told.inserted, 30);
    CHECK_EQ(put(&f, 'a', 40), 0);
    CHECK_EQ(told.from, 30);
    CHECK_EQ(told.inserted, 40);
    CHECK_EQ(put(&f, 'b', 61), 0);
    CHECK_EQ(told.wanted, 61);
    CHECK_EQ(told.inserted, 61);
    CHECK_EQ(pnx_cache_resize_weight(f.cache, 50, &f.err), 0);
    CHECK_EQ(told.capacity, 50);
    CHECK_EQ(told.wanted, 0);
    CHECK_EQ(stats_of(&f).entries, 0);
    fixture_close(&f);
}

static int find_text(void *ctx, const char *text, size_t size) {
    char **all = ctx;
    size_t had = *all ? strlen(*all) : 0;
    *all = realloc(*all, had + size + 1);
    memcpy(*all + had, text, size);
    (*all)[had + size] = '\0';
    return 0;
}

TEST(weights_are_in_the_metrics) {
    struct fixture f;
    char *text = NULL;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 77, .name = "heavy"));
    CHECK_EQ(put(&f, 'a', 30), 0);
    CHECK_EQ(put(&f, 'b', 12), 0);
    CHECK_EQ(pnx_stats_openmetrics(f.stats, find_text, &text), 0);
    CHECK_CONTAINS(text, "patinox_cache_weight{cache=\"heavy\",number=\"0\"} 42\n");
    CHECK_CONTAINS(text, "patinox_cache_capacity_weight{cache=\"heavy\",number=\"0\"} 77\n");
    free(text);
    fixture_close(&f);
}

TEST(the_curve_counts_entries_as_heavy_as_they_are_on_average) {
    struct fixture f;
    const double sizes[] = {1, 2};
    double ratios[2];
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 500, .curve_samples = 1024));
    for (uint64_t i = 0; i < 20000; i++) { /* a loop over 100 keys, of which 50 fit */
        uint64_t key = i % 100;
        struct pnx_cache_ref ref = {0};
        int rc = pnx_cache_get(f.cache, &key, sizeof(key), &ref);
        pnx_cache_ref_release(&ref);
        const struct value v = {10, key};
        if (rc)
            CHECK_EQ(pnx_cache_put(f.cache, &key, sizeof(key), &v, sizeof(v), 0), 0);
    }
    CHECK_EQ(stats_of(&f).entries, 50);
    CHECK_EQ(pnx_cache_curve(f.cache, sizes, 2, ratios), 0);
    CHECK_MSG(ratios[0] < 0.02 && ratios[1] > 0.9, "%.3f, %.3f", ratios[0], ratios[1]);
    fixture_close(&f);
}

/* ---- the budget, and memory that cannot be had ---- */

static uint64_t used(struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats.used;
}

TEST(p20_the_budget_is_charged_real_bytes_whatever_values_weigh) {
    struct fixture f;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = UINT64_C(1) << 40));
    uint64_t base = used(f.budget);
    for (char key = 'a'; key <= 'z'; key++) {
        CHECK_EQ(put(&f, key, UINT64_C(1) << 34), 0);
        CHECK_EQ(used(f.budget), base + stats_of(&f).bytes);
    }
    CHECK_EQ(stats_of(&f).bytes, 26 * pnx_cache_cost(1, sizeof(struct value)));
    /* What the budget asks for is bytes, too. */
    size_t each = pnx_cache_cost(1, sizeof(struct value));
    CHECK_EQ(pnx_budget_reclaim(f.budget, 3 * each), 3 * each);
    CHECK_EQ(stats_of(&f).weight, 23 * (INT64_C(1) << 34));
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, used(f.budget)), 0);
    CHECK_EQ(put(&f, 'A', 1), 0); /* makes its own room */
    CHECK_EQ(used(f.budget), base + stats_of(&f).bytes);
    check_weight(&f, UINT64_C(1) << 40);
    fixture_close(&f);
}

TEST(p9_a_put_that_the_budget_refuses_takes_its_weight_away_with_the_older_value) {
    struct fixture f;
    char big[100000] = {0};
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 100));
    CHECK_EQ(put(&f, 'a', 30), 0);
    CHECK_EQ(pnx_budget_set_limits(f.budget, 0, used(f.budget) + 100), 0);
    CHECK_EQ(pnx_cache_put(f.cache, "a", 1, big, sizeof(big), 0), -ENOMEM);
    CHECK_EQ(stats_of(&f).weight, 0);
    CHECK_EQ(stats_of(&f).rejected, 1);
    fixture_close(&f);
}

/* A life that touches every allocation; the first error ends it. */
static int whole_life(struct test_env *te, void *ctx) {
    struct pnx_cache *cache = NULL;
    struct pnx_error err = {0};
    struct value v = {4, 1};
    struct change c = {.value = {5, 2}};
    struct pnx_cache_ref ref = {0};
    struct pnx_cache_reservation r = {0};
    const char *path = ctx;
    int rc = pnx_cache_create(
            PNX_CACHE_OPTS(.env = &te->env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(), .capacity_weight = 60,
                    .weigher = weigh, .weigher_ctx = &asked, .negative_ttl = PNX_SEC),
            &err, &cache);
    for (uint64_t i = 0; rc == 0 && i < 50; i++) {
        v.weight = i % 7;
        rc = pnx_cache_put(cache, &i, sizeof(i), &v, sizeof(v), 0);
    }
    if (rc == 0)
        rc = pnx_cache_reserve(cache, "r", 1, 100, &r);
    if (rc == 0) {
        memcpy(r.data, &v, sizeof(v));
        rc = pnx_cache_commit(&r, sizeof(v), 0);
    }
    if (rc == 0)
        rc = pnx_cache_compute(cache, "c", 1, change_fn, &c, NULL);
    if (rc == 0)
        rc = pnx_cache_get_or_load(cache, "l", 1, loader, &v, 0, &err, &ref);
    pnx_cache_ref_release(&ref);
    if (rc == 0)
        CHECK_EQ(pnx_cache_get_or_load(cache, "n", 1, loader, NULL, 0, &err, &ref), -ENOENT);
    if (rc == 0)
        rc = pnx_cache_save(cache, path, NULL, &err, NULL);
    if (rc == 0)
        rc = pnx_cache_clear(cache);
    if (rc == 0)
        rc = pnx_cache_load_file(cache, path, NULL, &err, NULL);
    if (cache) {
        struct pnx_cache_stats stats = {.size = sizeof(stats)};
        CHECK_EQ(pnx_cache_check(cache, NULL), 0);
        CHECK_EQ(pnx_cache_read_stats(cache, &stats), 0);
        CHECK(stats.weight <= 60);
        CHECK_EQ(pnx_cache_clear(cache), 0);
        CHECK_EQ(pnx_cache_read_stats(cache, &stats), 0);
        CHECK_EQ(stats.weight, 0);
    }
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return rc;
}

TEST(every_allocation_of_a_weighed_cache_may_fail) {
    struct test_env te;
    char path[300];
    snprintf(path, sizeof(path), "%s", test_path("cache"));
    test_env_init(&te);
    test_fail_each_allocation(&te, whole_life, path);
}

/* ---- snapshots ---- */

static struct pnx_cache_file_report report;

static int save(struct fixture *f) {
    report = (struct pnx_cache_file_report){.size = sizeof(report)};
    return pnx_cache_save(f->cache, test_path("cache"), NULL, &f->err, &report);
}
static int load(struct fixture *f) {
    report = (struct pnx_cache_file_report){.size = sizeof(report)};
    return pnx_cache_load_file(f->cache, test_path("cache"), NULL, &f->err, &report);
}

TEST(a_load_takes_the_hottest_that_the_weight_has_room_for_and_evicts_nothing) {
    struct fixture f;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 1000));
    for (char key = 'a'; key <= 'z'; key++)
        CHECK_EQ(put(&f, key, (uint64_t)(key - 'a' + 1)), 0);
    CHECK_EQ(save(&f), 0);
    CHECK_EQ(report.entries, 26);
    fixture_close(&f);
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 80));
    CHECK_EQ(load(&f), 0);
    CHECK_EQ(report.entries, 3); /* 26 + 25 + 24, and no room for 23 more */
    CHECK_EQ(report.no_room, 23);
    CHECK_EQ(asked.calls, 3); /* weighed once each */
    CHECK(has(&f, 'z') && has(&f, 'y') && has(&f, 'x'));
    CHECK_EQ(stats_of(&f).weight, 75);
    CHECK_EQ(stats_of(&f).removed_size, 0);
    fixture_close(&f);
    /* Without a weigher weights in the file mean nothing. */
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 10));
    CHECK_EQ(load(&f), 0);
    CHECK_EQ(report.entries, 10);
    CHECK_EQ(stats_of(&f).weight, 0);
    fixture_close(&f);
}

TEST(a_file_without_weights_is_weighed_as_it_is_loaded) {
    struct fixture f;
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_entries = 100));
    for (char key = 'a'; key <= 'z'; key++)
        CHECK_EQ(put(&f, key, 10), 0);
    CHECK_EQ(save(&f), 0);
    fixture_close(&f);
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 50));
    CHECK_EQ(load(&f), 0);
    CHECK_EQ(asked.calls, 26);
    CHECK_EQ(stats_of(&f).weight, 50);
    CHECK(has(&f, 'z') && has(&f, 'v') &&
            !has(&f, 'u')); /* the hottest, at the cost of evictions */
    check_weight(&f, 50);
    fixture_close(&f);
}

static uint64_t weigh_five(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    (void)ctx, (void)key, (void)key_size, (void)value, (void)value_size;
    return 5;
}

TEST(a_load_believes_the_weigher_and_not_the_file) {
    struct fixture f;
    open_weighed(&f, PNX_CACHE_OPTS(.capacity_weight = 100));
    for (char key = 'a'; key < 'k'; key++)
        CHECK_EQ(put(&f, key, 1), 0);
    CHECK_EQ(save(&f), 0);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_weight = 20, .weigher = weigh_five));
    CHECK_EQ(load(&f), 0);
    CHECK_EQ(stats_of(&f).weight, 20);
    CHECK_EQ(stats_of(&f).entries, 4);
    check_invariants(&f);
    fixture_close(&f);
    fixture_open(&f, PNX_CACHE_OPTS(.capacity_weight = 4, .weigher = weigh_five));
    CHECK_EQ(load(&f), 0);
    CHECK_EQ(report.entries, 0);
    CHECK_EQ(report.no_room, 10);
    fixture_close(&f);
}
