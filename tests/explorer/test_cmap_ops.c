/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cmap_ops.c - operations on one key against each other, one or two of each, at the full bounds: whatever is
 * returned must be what some order of them explains; and resizes by hand beside writers.
 *
 * As in test_cmap.c, tables are of one bucket at first, a write moves one bucket, and values are addresses of
 * race-checked cells where what a writer did before must be visible.
 */
#include "explorer/explorer.h"
#include "share/cmap.h"
#include "share/reclaim.h"

#include <errno.h>

struct state {
    struct pnx_cmap *map;
    struct pnx_cmap *other;
    struct x_cell cells[4];
    uint64_t removed; /* by the remover, for the end */
    int code;
    struct pnx_a32 wins;
    struct pnx_a32 refused;
};

#define FLOOR  1000
#define RANDOM (test_long() ? 100000u : 1500u)

static struct pnx_cmap *make_map(void) {
    static const struct pnx_cmap_tuning tuning = {
            .min_buckets = 1, .move_buckets = 1, .fixed_masks = true};
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx__cmap_create(PNX_CMAP_OPTS(.env = x_env(), .key_size = 8, .shards = 1,
                                      .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                                      .budget = pnx_budget_off(), .wait_timeout_ns = PNX_NEVER),
                     &tuning, NULL, &map),
            0);
    return map;
}

static void put(struct state *state, uint64_t key, uint64_t value) {
    CHECK_EQ(pnx_cmap_put(state->map, &key, 8, value), 0);
}

/* A value that is the address of a cell which says so. */
static uint64_t publish(struct state *state, unsigned cell) {
    x_cell_write(&state->cells[cell], 42);
    return (uint64_t)(uintptr_t)&state->cells[cell];
}
static void follow(uint64_t value) {
    CHECK_EQ(x_cell_read((const struct x_cell *)(uintptr_t)value), 42);
}
static uint64_t cell(const struct state *state, unsigned i) {
    return (uint64_t)(uintptr_t)&state->cells[i];
}

static void set_up(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_default();
    state->map = make_map();
    put(state, 1, publish(state, 0));
}

static void set_up_full(void *arg) {
    struct state *state = arg;
    set_up(arg);
    put(state, 11, 11);
    put(state, 12, 12); /* as many as a bucket takes: the next key moves them */
}

static void clean_up(void *arg) {
    struct state *state = arg;
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(state->map, &err) == 0, "%s", err.message);
    pnx_cmap_release(&state->map);
    pnx_cmap_release(&state->other);
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

/* ---- put, remove, get of one key ---- */

static void put_one(void *arg) {
    put(arg, 1, publish(arg, 1));
}
static void remove_one(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    state->code = pnx_cmap_remove(state->map, &key, 8, &state->removed);
    CHECK_EQ(state->code, 0);
    follow(state->removed);
}
/* What is read second is not older than what was read first. */
static void get_twice(void *arg) {
    struct state *state = arg;
    uint64_t first = 0, second = 0;
    int there = pnx_cmap_get_word(state->map, 1, &first);
    int still = pnx_cmap_get_word(state->map, 1, &second);
    CHECK(there == 0 || there == -ENOENT);
    CHECK(still == 0 || still == -ENOENT);
    if (there == 0)
        follow(first);
    if (still == 0)
        follow(second);
    if (there == -ENOENT || first == cell(state, 1))
        CHECK(still == -ENOENT || second == cell(state, 1));
}
static void get_once(void *arg) {
    struct state *state = arg;
    uint64_t value = 0;
    if (pnx_cmap_get_word(state->map, 1, &value) == 0)
        follow(value);
}
static void check_removed(void *arg) {
    struct state *state = arg;
    uint64_t value = 0;
    int rc = pnx_cmap_get_word(state->map, 1, &value);
    if (state->removed == cell(state, 1)) { /* put, then removed */
        CHECK_EQ(rc, -ENOENT);
    } else { /* removed, then put */
        CHECK_EQ(state->removed, cell(state, 0));
        CHECK_EQ(rc, 0);
        CHECK_EQ(value, cell(state, 1));
    }
    clean_up(arg);
}

TEST_LIMIT(p1_put_remove_and_get_of_one_key_have_an_order, 120) {
    x_explore(&(const struct x_test){.name = "cmap_ops",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {put_one, remove_one, get_twice},
            .final = check_removed,
            .random = RANDOM,
            .floor = FLOOR});
}

static void put_other(void *arg) {
    put(arg, 13, 13); /* there is no room: the shard moves */
}

TEST_LIMIT(p2_remove_and_get_of_one_key_have_an_order_while_its_shard_moves, 120) {
    x_explore(&(const struct x_test){.name = "cmap_ops_moving",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {put_other, remove_one, get_once},
            .final = clean_up,
            .preemptions = test_long() ? 3 : 2,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- of those who want the same, one wins ---- */

static void win(struct state *state) {
    pnx_fetch_add(&state->wins, 1, PNX_RELAXED, "cmap_ops_suite.win");
}
static void replace_first(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    int rc = pnx_cmap_replace_if(state->map, &key, 8, cell(state, 0), publish(state, 1));
    CHECK(rc == 0 || rc == PNX_E_CONFLICT || rc == -ENOENT);
    if (rc == 0)
        win(state);
}
static void replace_first_too(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    int rc = pnx_cmap_replace_if(state->map, &key, 8, cell(state, 0), publish(state, 2));
    CHECK(rc == 0 || rc == PNX_E_CONFLICT || rc == -ENOENT);
    if (rc == 0)
        win(state);
}
static void remove_first(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    int rc = pnx_cmap_remove_if(state->map, &key, 8, cell(state, 0));
    CHECK(rc == 0 || rc == PNX_E_CONFLICT);
    if (rc == 0)
        win(state);
}
static void check_one_won(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->wins, PNX_RELAXED, "cmap_ops_suite.wins"), 1);
    clean_up(arg);
}

TEST_LIMIT(p1_of_those_who_expect_the_same_value_one_wins, 120) {
    x_explore(&(const struct x_test){.name = "cmap_conditional",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {replace_first, replace_first_too, remove_first},
            .final = check_one_won,
            .random = RANDOM,
            .floor = FLOOR});
}

static void put_if_absent(void *arg) {
    struct state *state = arg;
    uint64_t key = 5, current = 0;
    uint64_t value = publish(state, x_self());
    int rc = pnx_cmap_put_if_absent(state->map, &key, 8, value, &current);
    if (rc == 0) {
        win(state);
        return;
    }
    CHECK_EQ(rc, -EEXIST);
    CHECK(current != value);
    follow(current);
}

TEST_LIMIT(p1_of_those_who_put_an_absent_key_one_wins, 120) {
    x_explore(&(const struct x_test){.name = "cmap_absent",
            .size = sizeof(struct state),
            .setup = set_up_full, /* the one that wins moves the shard */
            .thread = {put_if_absent, put_if_absent, put_if_absent},
            .final = check_one_won,
            .preemptions = test_long() ? 3 : 2,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- compute against a move ---- */

static int add_one(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct state *state = ctx;
    uint64_t sum = current ? *current : 0;
    x_cell_write(&state->cells[3], sum); /* a race if two run at once */
    *ret_value = sum + 1;
    return PNX_CMAP_STORE;
}
static void compute_two(void *arg) {
    struct state *state = arg;
    uint64_t key = 12;
    CHECK_EQ(pnx_cmap_compute(state->map, &key, 8, add_one, state, NULL), 0);
}
static void check_sum(void *arg) {
    struct state *state = arg;
    uint64_t value = 0;
    CHECK_EQ(pnx_cmap_get_word(state->map, 12, &value), 0);
    CHECK_EQ(value, 14);
    clean_up(arg);
}

TEST_LIMIT(p3_no_function_s_result_is_lost_while_its_shard_moves, 120) {
    x_explore(&(const struct x_test){.name = "cmap_compute_moving",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {compute_two, put_other, compute_two},
            .final = check_sum,
            .preemptions = 2,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- resizes by hand ---- */

static void set_up_large(void *arg) {
    struct state *state = arg;
    set_up(arg);
    CHECK_EQ(pnx_cmap_reserve(state->map, 30), 0);
}
static void shrink(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_cmap_shrink(state->map), 0);
}
/* More than the table will have slots that shrink decided on with one entry there. */
static void put_many(void *arg) {
    for (uint64_t key = 20; key < 32; key++)
        put(arg, key, key);
}
static void find_first(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    struct pnx_cmap_item item = {.key = &key, .key_size = 8};
    CHECK_EQ(pnx_cmap_get_batch(state->map, &item, 1), 1);
    follow(item.value);
}
static void check_many(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_cmap_len(state->map), 13);
    for (uint64_t key = 20; key < 32; key++) {
        uint64_t value = 0;
        CHECK_EQ(pnx_cmap_get_word(state->map, key, &value), 0);
        CHECK_EQ(value, key);
    }
    clean_up(arg);
}

TEST_LIMIT(p7_what_comes_while_a_shard_shrinks_finds_room, 120) {
    x_explore(&(const struct x_test){.name = "cmap_shrink",
            .size = sizeof(struct state),
            .setup = set_up_large,
            .thread = {shrink, put_many, find_first},
            .final = check_many,
            .preemptions = test_long() ? 2 : 1,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- circles over makers ---- */

static void set_up_two(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_default();
    state->map = make_map();
    state->other = make_map();
}
static int make_seven(void *ctx, uint64_t *ret_value) {
    (void)ctx;
    *ret_value = 7;
    return 0;
}
static void ask(struct state *state, struct pnx_cmap *map) {
    uint64_t key = 1, value = 0;
    int rc = pnx_cmap_get_or_insert_with(map, &key, 8, make_seven, NULL, NULL, &value);
    CHECK(rc == -EDEADLK || (rc == 0 && (value == 7 || value == 8)));
    if (rc)
        pnx_fetch_add(&state->refused, 1, PNX_RELAXED, "cmap_ops_suite.refused");
}
static int make_by_other(void *ctx, uint64_t *ret_value) {
    struct state *state = ctx;
    ask(state, state->other);
    *ret_value = 8;
    return 0;
}
static int make_by_first(void *ctx, uint64_t *ret_value) {
    struct state *state = ctx;
    ask(state, state->map);
    *ret_value = 8;
    return 0;
}
static void load_first(void *arg) {
    struct state *state = arg;
    uint64_t key = 1, value = 0;
    CHECK_EQ(pnx_cmap_get_or_insert_with(state->map, &key, 8, make_by_other, state, NULL, &value),
            0);
    CHECK(value == 7 || value == 8);
}
static void load_other(void *arg) {
    struct state *state = arg;
    uint64_t key = 1, value = 0;
    CHECK_EQ(pnx_cmap_get_or_insert_with(state->other, &key, 8, make_by_first, state, NULL, &value),
            0);
    CHECK(value == 7 || value == 8);
}
static void check_refused(void *arg) {
    struct state *state = arg;
    CHECK(pnx_load(&state->refused, PNX_RELAXED, "cmap_ops_suite.refusals") <= 1);
    clean_up(arg);
}
static void get_once_more(void *arg) {
    struct state *state = arg;
    uint64_t value = 0;
    if (pnx_cmap_get_word(state->map, 1, &value) == 0)
        CHECK(value == 7 || value == 8);
}

TEST_LIMIT(p3_circles_over_makers_of_two_maps_never_hang, 120) {
    x_explore(&(const struct x_test){.name = "cmap_makers",
            .size = sizeof(struct state),
            .setup = set_up_two,
            .thread = {load_first, load_other, get_once_more},
            .final = check_refused,
            .preemptions = 2,
            .stale = 1,
            .random = RANDOM,
            .floor = FLOOR});
}
