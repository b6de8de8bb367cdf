/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cache_fixed.c - lookups of a cache of fixed sizes, which copy out of records that are being written: beside puts,
 * replacements, removals, evictions, other tables and clears; loads and computes beside these.
 *
 * Tables have room for one slot at first.  A value is a number and the key, twice, in four words, so that one that is torn shows.
 */
#include "explorer/explorer.h"

#include "cache/internal.h"
#include "share/reclaim.h"

#include <errno.h>

struct state {
    struct pnx_cache *cache;
    struct pnx_a32 loading; /* loaders that run */
};

struct value {
    uint32_t number;
    uint32_t key;
    uint32_t same_number;
    uint32_t same_key;
};

/* Bounds of the ordinary run, which is to be short; ./test --long goes further. */
#define SOME   (test_long() ? 3u : 2u)
#define FLOOR  50
#define RANDOM (test_long() ? 50000u : 1000u)

static void make(struct state *state, uint64_t entries) {
    (void)pnx_reclaim_default();
    CHECK_EQ(pnx__cache_create(
                     PNX_CACHE_OPTS(.env = x_env(), .capacity_entries = entries, .policy = "clock",
                             .key_bytes = 8, .value_bytes = sizeof(struct value),
                             .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                             .budget = pnx_budget_off()),
                     1, NULL, &state->cache),
            0);
}

/* A thread's first section takes a lock, which would order what the test is to see unordered. */
static void become_known(void) {
    pnx_reclaim_enter(NULL);
    pnx_reclaim_exit(NULL);
}

/* What an assist does, with the least around it. */
static void drive(void) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(NULL);
    struct pnx_reclaim_effects effects = {0};
    pnx__mutex_lock(&domain->lock);
    pnx__reclaim_step(domain, PNX_BEGIN_IF_RETIRED, &effects);
    pnx__mutex_unlock(&domain->lock);
    pnx__reclaim_effects(domain, &effects);
    pnx__reclaim_run(domain, UINT64_MAX, false);
}

static void put(struct state *state, uint32_t key, uint32_t number) {
    const struct value value = {number, key, number, key};
    uint64_t wide = key;
    CHECK_EQ(pnx_cache_put(state->cache, &wide, 8, &value, sizeof(value), 0), 0);
}

/* The number that stands under the key, or 0; what is found is whole. */
static uint32_t look(struct state *state, uint32_t key) {
    struct value value = {.number = 77};
    uint64_t wide = key;
    int rc = pnx_cache_get_copy(state->cache, &wide, 8, &value, sizeof(value), NULL);
    CHECK(rc == 0 || rc == -ENOENT);
    if (rc) {
        CHECK_EQ(value.number, 77); /* untouched */
        return 0;
    }
    CHECK_EQ(value.key, key);
    CHECK_EQ(value.same_key, key);
    CHECK_EQ(value.number, value.same_number);
    return value.number;
}

static void clean_up(void *arg) {
    struct state *state = arg;
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cache_check(state->cache, &err) == 0, "%s", err.message);
    pnx_cache_release(&state->cache);
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

static void set_up(void *arg) {
    make(arg, 4);
}
static void set_up_one(void *arg) {
    make(arg, 4);
    put(arg, 1, 1);
}
static void set_up_two(void *arg) {
    set_up_one(arg);
    put(arg, 2, 1);
}
static void set_up_full(void *arg) {
    make(arg, 1);
    put(arg, 1, 1);
}

/* ---- a key that comes, is replaced, goes ---- */

static void put_first(void *arg) {
    become_known();
    put(arg, 1, 1);
}
static void look_for_first(void *arg) {
    look(arg, 1);
}

TEST(what_was_put_is_found_whole) {
    x_explore(&(const struct x_test){.name = "cache_fixed_put",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {put_first, look_for_first, look_for_first},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void next_numbers(void *arg) {
    become_known();
    put(arg, 1, 2);
    put(arg, 1, 3);
}
static void look_twice(void *arg) {
    uint32_t first = look(arg, 1);
    CHECK(first > 0);
    CHECK(look(arg, 1) >= first);
}

TEST(a_value_that_is_replaced_is_always_found_whole_and_never_goes_back) {
    x_explore(&(const struct x_test){.name = "cache_fixed_replace",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {next_numbers, look_twice},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void remove_and_put(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    become_known();
    CHECK_EQ(pnx_cache_remove(state->cache, &key, 8), 0);
    put(arg, 2, 5); /* in a slot of its own, or the same */
}
static void look_for_both(void *arg) {
    uint32_t first = look(arg, 1), second = look(arg, 2);
    CHECK(first == 0 || first == 1);
    CHECK(second == 0 || second == 5);
}

TEST(what_is_removed_is_found_whole_or_not_at_all) {
    x_explore(&(const struct x_test){.name = "cache_fixed_remove",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {remove_and_put, look_for_both},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- a slot that is used again ---- */

static void evict_first(void *arg) {
    become_known();
    put(arg, 2, 5); /* in the slot of 1 */
    put(arg, 1, 6); /* and again */
}
static void look_at_changing(void *arg) {
    uint32_t first = look(arg, 1), second = look(arg, 2);
    CHECK(first == 0 || first == 1 || first == 6);
    CHECK(second == 0 || second == 5);
}

TEST(a_slot_that_is_used_again_never_gives_another_keys_value) {
    x_explore(&(const struct x_test){.name = "cache_fixed_evict",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {evict_first, look_at_changing},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- other tables ---- */

static void put_more(void *arg) {
    become_known();
    put(arg, 2, 1); /* the first that needs another table */
    put(arg, 3, 1);
    drive();
}
static void look_always(void *arg) {
    CHECK_EQ(look(arg, 1), 1);
}

TEST(a_key_stays_found_while_the_index_grows) {
    x_explore(&(const struct x_test){.name = "cache_fixed_grow",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {put_more, look_always},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- clears ---- */

static void clear_and_put(void *arg) {
    struct state *state = arg;
    become_known();
    CHECK_EQ(pnx_cache_clear(state->cache), 0);
    put(arg, 1, 9);
    drive();
}
static void look_at_one_moment(void *arg) {
    uint32_t first = look(arg, 1);
    if (first != 1) /* it has been cleared */
        CHECK_EQ(look(arg, 2), 0);
}

TEST(a_clear_takes_effect_for_all_keys_at_one_moment) {
    x_explore(&(const struct x_test){.name = "cache_fixed_clear",
            .size = sizeof(struct state),
            .setup = set_up_two,
            .thread = {clear_and_put, look_at_one_moment},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
    x_explore(&(const struct x_test){.name = "cache_fixed_clear_fences",
            .size = sizeof(struct state),
            .setup = set_up_two,
            .thread = {clear_and_put, look_for_first},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .fences = true,
            .floor = FLOOR});
}

/* ---- many at once ---- */

static void look_at_many(void *arg) {
    struct state *state = arg;
    const uint64_t keys[2] = {1, 2};
    struct value values[2];
    uint64_t found = 0;
    int n = pnx_cache_get_many(state->cache, keys, 8, 2, values, sizeof(values[0]), &found);
    CHECK_EQ(n, 2);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(values[i].key, keys[i]);
        CHECK_EQ(values[i].number, values[i].same_number);
    }
}

TEST(what_is_found_with_others_is_whole) {
    x_explore(&(const struct x_test){.name = "cache_fixed_many",
            .size = sizeof(struct state),
            .setup = set_up_two,
            .thread = {next_numbers, look_at_many},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void grow_under_many(void *arg) {
    become_known();
    put(arg, 3, 1); /* needs another table */
    put(arg, 4, 1);
    drive();
}

TEST(what_is_found_with_others_is_found_while_the_index_grows) {
    x_explore(&(const struct x_test){.name = "cache_fixed_many_grow",
            .size = sizeof(struct state),
            .setup = set_up_two,
            .thread = {grow_under_many, look_at_many},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- computes ---- */

static int count_up(void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change) {
    struct value value = {0, 1, 0, 1};
    (void)ctx, (void)now_size;
    if (now)
        memcpy(&value, now, sizeof(value));
    CHECK_EQ(value.number, value.same_number);
    CHECK_EQ(value.key, 1);
    value.number++;
    value.same_number++;
    return pnx_cache_change_set(change, &value, sizeof(value));
}
static void count_first(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    become_known();
    CHECK_EQ(pnx_cache_compute_copy(state->cache, &key, 8, count_up, NULL, NULL, 0, NULL), 0);
}
static void both_counted(void *arg) {
    CHECK_EQ(look(arg, 1), 3);
    clean_up(arg);
}

TEST(p17_two_computes_of_a_key_both_count) {
    x_explore(&(const struct x_test){.name = "cache_fixed_compute",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {count_first, count_first},
            .final = both_counted,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void remove_for_good(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    become_known();
    CHECK_EQ(pnx_cache_remove(state->cache, &key, 8), 0);
}
static void put_nine(void *arg) {
    become_known();
    put(arg, 1, 9);
}
/* What was counted up from the number that was removed is not there. */
static void removed_or_begun_anew(void *arg) {
    uint32_t number = look(arg, 1);
    CHECK(number == 0 || number == 1);
    clean_up(arg);
}
static void replaced_or_counted(void *arg) {
    uint32_t number = look(arg, 1);
    CHECK(number == 9 || number == 10);
    clean_up(arg);
}

TEST(p17_a_compute_loses_nothing_that_others_do_meanwhile) {
    x_explore(&(const struct x_test){.name = "cache_fixed_compute_remove",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {count_first, remove_for_good},
            .final = removed_or_begun_anew,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
    x_explore(&(const struct x_test){.name = "cache_fixed_compute_put",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {count_first, put_nine},
            .final = replaced_or_counted,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- loads ---- */

static int load_five(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct state *state = ctx;
    const struct value value = {5, 1, 5, 1};
    (void)key, (void)key_size, (void)deadline;
    /* Relaxed, both: that one loads at a time is the cache's promise, and its order too. */
    CHECK_EQ(pnx_load(&state->loading, PNX_RELAXED, "test.fixed_loading"), 0);
    pnx_store(&state->loading, 1, PNX_RELAXED, "test.fixed_load");
    int rc = pnx_cache_load_set(load, &value, sizeof(value));
    pnx_store(&state->loading, 0, PNX_RELAXED, "test.fixed_loaded");
    return rc;
}
static uint32_t load_first(void *arg) {
    struct state *state = arg;
    struct value value = {0};
    uint64_t key = 1;
    become_known();
    CHECK_EQ(pnx_cache_get_or_load_copy(state->cache, &key, 8, load_five, state, PNX_NEVER, NULL,
                     &value, sizeof(value), NULL),
            0);
    CHECK_EQ(value.key, 1);
    CHECK_EQ(value.number, value.same_number);
    return value.number;
}
static void load_and_find_five(void *arg) {
    CHECK_EQ(load_first(arg), 5);
    CHECK_EQ(look(arg, 1), 5);
}

TEST(p6_one_loads_and_both_have_the_value) {
    x_explore(&(const struct x_test){.name = "cache_fixed_load",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {load_and_find_five, load_and_find_five},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

static void load_five_or_nine(void *arg) {
    uint32_t number = load_first(arg);
    CHECK(number == 5 || number == 9);
}
static void put_nine_and_keep_it(void *arg) {
    put_nine(arg);
    CHECK_EQ(look(arg, 1), 9); /* whatever the load does from here on */
}
static void nine_is_there(void *arg) {
    CHECK_EQ(look(arg, 1), 9);
    clean_up(arg);
}

TEST(p6_a_load_that_a_put_overtook_is_not_stored) {
    x_explore(&(const struct x_test){.name = "cache_fixed_load_put",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {load_five_or_nine, put_nine_and_keep_it},
            .final = nine_is_there,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}
