/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cmap.c - the concurrent map: lookups beside puts, removals, moves to other tables, functions on keys, and
 * the map's end.
 *
 * Tables are of one bucket at first, and a write moves one bucket, so that a few operations meet every state.  Values
 * are addresses of race-checked cells where what a writer did before must be visible; memory is the explorer's.
 */
#include "explorer/explorer.h"
#include "share/cmap.h"
#include "share/reclaim.h"

#include <errno.h>

struct state {
    struct pnx_cmap *map;
    struct pnx_cmap *other;
    struct x_cell cells[4];
    struct pnx_a32 calls;
    struct pnx_a32 refused;
    uint32_t holders;
};

/* Bounds of the ordinary run, which is to be short; ./test --long goes further. */
#define SOME   (test_long() ? 3u : 2u)
#define FEW    (test_long() ? 2u : 1u) /* for the longer ones */
#define FLOOR  200
#define RANDOM (test_long() ? 100000u : 1500u)

static struct pnx_cmap *make_map(uint32_t key_size, uint32_t flags) {
    static const struct pnx_cmap_tuning tuning = {
            .min_buckets = 1, .move_buckets = 1, .fixed_masks = true};
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx__cmap_create(PNX_CMAP_OPTS(.env = x_env(), .key_size = key_size, .shards = 1,
                                      .flags = flags, .registry = pnx_registry_off(),
                                      .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                      .wait_timeout_ns = PNX_NEVER),
                     &tuning, NULL, &map),
            0);
    return map;
}

static void put(struct state *state, uint64_t key, uint64_t value) {
    CHECK_EQ(pnx_cmap_put(state->map, &key, 8, value), 0);
}
static int drop(struct state *state, uint64_t key) {
    return pnx_cmap_remove(state->map, &key, 8, NULL);
}

/* A value that is the address of a cell which says so. */
static uint64_t publish(struct state *state, unsigned cell) {
    x_cell_write(&state->cells[cell], 42);
    return (uint64_t)(uintptr_t)&state->cells[cell];
}
static void follow(uint64_t value) {
    CHECK_EQ(x_cell_read((const struct x_cell *)(uintptr_t)value), 42);
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

static void set_up(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_default();
    state->map = make_map(8, 0);
}

static void clean_up(void *arg) {
    struct state *state = arg;
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(state->map, &err) == 0, "%s", err.message);
    pnx_cmap_release(&state->map);
    pnx_cmap_release(&state->other);
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

/* ---- what is put is visible to who gets it ---- */

/* A thread's first section takes a lock, which would order what the test is to see unordered. */
static void become_known(void) {
    pnx_reclaim_enter(NULL);
    pnx_reclaim_exit(NULL);
}
static void publish_one(void *arg) {
    become_known();
    put(arg, 1, publish(arg, 0));
}
static void publish_and_remove(void *arg) {
    become_known();
    put(arg, 2, publish(arg, 1));
    CHECK_EQ(drop(arg, 2), 0);
    put(arg, 2, publish(arg, 2)); /* the same slot again */
}
static void look_for_both(void *arg) {
    struct state *state = arg;
    for (uint64_t key = 1; key <= 2; key++) {
        uint64_t value;
        if (pnx_cmap_get_word(state->map, key, &value) == 0)
            follow(value);
    }
}
static void peek_for_both(void *arg) {
    struct state *state = arg;
    pnx_reclaim_enter(NULL);
    for (uint64_t key = 1; key <= 2; key++) {
        uint64_t value;
        if (pnx_cmap_peek_word(state->map, key, &value) == 0)
            follow(value);
    }
    pnx_reclaim_exit(NULL);
}

TEST(p1_what_a_writer_did_is_visible_to_who_finds_its_value) {
    x_explore(&(const struct x_test){.name = "cmap_publish",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {publish_one, publish_and_remove, look_for_both},
            .final = clean_up,
            .preemptions = FEW,
            .random = RANDOM,
            .floor = FLOOR});
    x_explore(&(const struct x_test){.name = "cmap_publish_long",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {publish_one, publish_and_remove, peek_for_both},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .fences = true,
            .floor = FLOOR});
}

/* A removal tells, too: who finds the key gone may read what its remover wrote. */
static void set_up_stored(void *arg) {
    set_up(arg);
    put(arg, 1, publish(arg, 0));
}
static void write_and_remove(void *arg) {
    struct state *state = arg;
    x_cell_write(&state->cells[3], 42);
    CHECK_EQ(drop(state, 1), 0);
}
static void look_until_gone(void *arg) {
    struct state *state = arg;
    uint64_t value;
    if (pnx_cmap_get_word(state->map, 1, &value) == 0)
        follow(value);
    else
        CHECK_EQ(x_cell_read(&state->cells[3]), 42);
}
static void replace_other(void *arg) {
    put(arg, 2, publish(arg, 1));
    put(arg, 2, publish(arg, 2));
}

TEST(p1_who_finds_a_key_gone_sees_what_its_remover_did) {
    x_explore(&(const struct x_test){.name = "cmap_gone",
            .size = sizeof(struct state),
            .setup = set_up_stored,
            .thread = {write_and_remove, look_until_gone, replace_other},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

static void replace_twice(void *arg) {
    put(arg, 1, publish(arg, 1));
    put(arg, 1, publish(arg, 2));
}
static void find_always(void *arg) {
    struct state *state = arg;
    uint64_t value = 0;
    CHECK_EQ(pnx_cmap_get_word(state->map, 1, &value), 0);
    follow(value);
}
static void find_in_batch(void *arg) {
    struct state *state = arg;
    uint64_t keys[2] = {1, 9}, values[2], found;
    CHECK_EQ(pnx_cmap_get_words(state->map, keys, 2, values, &found), 1);
    CHECK_EQ(found, 1);
    follow(values[0]);
}

TEST(p1_a_replaced_value_is_found_always) {
    x_explore(&(const struct x_test){.name = "cmap_replace",
            .size = sizeof(struct state),
            .setup = set_up_stored,
            .thread = {replace_twice, find_always, find_in_batch},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- while a shard moves ---- */

static void set_up_full(void *arg) {
    struct state *state = arg;
    set_up_stored(arg);
    put(state, 11, 11);
    put(state, 12, 12); /* as many as a bucket takes: the next key moves them */
}
static void grow(void *arg) {
    put(arg, 13, 13);
    put(arg, 14, 14);
    drive();
}
static void find_twice(void *arg) {
    find_always(arg);
    find_always(arg);
    drive();
}
static void write_while_it_moves(void *arg) {
    put(arg, 1, publish(arg, 1));
    drive();
}

TEST(p2_a_key_is_found_while_its_shard_moves) {
    x_explore(&(const struct x_test){.name = "cmap_move",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {grow, find_twice, find_in_batch},
            .final = clean_up,
            .preemptions = FEW,
            .random = RANDOM,
            .floor = FLOOR});
    x_explore(&(const struct x_test){.name = "cmap_move_writers",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {grow, write_while_it_moves, find_always},
            .final = clean_up,
            .preemptions = FEW,
            .random = RANDOM,
            .fences = true,
            .floor = FLOOR});
}

/* A key that came to the next table, and one whose value its shard cannot hold: 7 and 9 are its masks. */
static void put_misfits(void *arg) {
    put(arg, 7, 9);
    drive();
}
static void look_for_misfit(void *arg) {
    struct state *state = arg;
    uint64_t value;
    if (pnx_cmap_get_word(state->map, 7, &value) == 0) {
        CHECK_EQ(value, 9);
        CHECK_EQ(pnx_cmap_get_word(state->map, 7, &value), 0); /* still there */
    }
}

TEST(p2_a_key_that_needs_another_table_stays_found) {
    x_explore(&(const struct x_test){.name = "cmap_misfit",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {put_misfits, look_for_misfit, find_always},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- entries: keys as bytes ---- */

static void put_text(struct state *state, const char *key, uint64_t value) {
    CHECK_EQ(pnx_cmap_put(state->map, key, 2, value), 0);
}
static void set_up_bytes(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_default();
    state->map = make_map(0, 0);
    put_text(state, "k1", publish(state, 0));
    put_text(state, "k2", publish(state, 0));
}
static void change_texts(void *arg) {
    struct state *state = arg;
    put_text(state, "k1", publish(state, 1)); /* in place */
    CHECK_EQ(pnx_cmap_remove(state->map, "k2", 2, NULL), 0);
    drive();
    drive();
}
static void add_texts(void *arg) {
    put_text(arg, "k3", publish(arg, 2));
    put_text(arg, "k4", publish(arg, 3)); /* moves */
    drive();
}
static void look_for_texts(void *arg) {
    struct state *state = arg;
    uint64_t value;
    CHECK_EQ(pnx_cmap_get(state->map, "k1", 2, &value), 0);
    follow(value);
    if (pnx_cmap_get(state->map, "k2", 2, &value) == 0)
        follow(value);
    if (pnx_cmap_get(state->map, "k4", 2, &value) == 0)
        follow(value);
}

TEST(p1_entries_are_found_whole_and_freed_after_their_readers) {
    x_explore(&(const struct x_test){.name = "cmap_entries",
            .size = sizeof(struct state),
            .setup = set_up_bytes,
            .thread = {change_texts, add_texts, look_for_texts},
            .final = clean_up,
            .preemptions = FEW,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- objects ---- */

struct object {
    struct x_cell cell;
};
static void drop_object(void *ctx, void *object) {
    (void)ctx;
    x_cell_write(&((struct object *)object)->cell, 0); /* a race with any reader that is left */
}
static struct pnx_rc_type object_type;

static uint64_t make_object(void) {
    void *object = NULL;
    object_type =
            (struct pnx_rc_type)PNX_RC_TYPE(struct object, .drop = drop_object, .env = x_env());
    CHECK_EQ(pnx_rc_new(&object_type, NULL, &object), 0);
    x_cell_write(&((struct object *)object)->cell, 42);
    return pnx_cmap_value(object);
}
static void put_object(struct state *state, uint64_t key) {
    uint64_t value = make_object();
    CHECK_EQ(pnx_cmap_put(state->map, &key, 8, value), 0);
    pnx_rc_unref(pnx_cmap_object(value));
}
static void set_up_objects(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_default();
    state->map = make_map(8, PNX_CMAP_RC);
    put_object(state, 1);
}
static void replace_object(void *arg) {
    put_object(arg, 1);
    drive();
}
static void remove_object(void *arg) {
    (void)drop(arg, 1);
    drive();
}
static void get_object(void *arg) {
    struct state *state = arg;
    uint64_t value;
    if (pnx_cmap_get_word(state->map, 1, &value) != 0)
        return;
    x_yield(); /* ours outlives the map's */
    CHECK_EQ(x_cell_read(&((struct object *)pnx_cmap_object(value))->cell), 42);
    pnx_rc_unref(pnx_cmap_object(value));
}
static void peek_object(void *arg) {
    struct state *state = arg;
    uint64_t value;
    pnx_reclaim_enter(NULL);
    if (pnx_cmap_peek_word(state->map, 1, &value) == 0)
        CHECK_EQ(x_cell_read(&((struct object *)pnx_cmap_object(value))->cell), 42);
    pnx_reclaim_exit(NULL);
}

TEST(p6_objects_outlive_their_readers) {
    x_explore(&(const struct x_test){.name = "cmap_objects",
            .size = sizeof(struct state),
            .setup = set_up_objects,
            .thread = {replace_object, get_object, remove_object},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
    x_explore(&(const struct x_test){.name = "cmap_objects_peeked",
            .size = sizeof(struct state),
            .setup = set_up_objects,
            .thread = {replace_object, peek_object, remove_object},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- functions on keys ---- */

static int add_one(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct state *state = ctx;
    uint64_t sum = current ? *current : 0;
    x_cell_write(&state->cells[0], sum); /* a race if two run at once */
    x_yield();
    *ret_value = sum + 1;
    return PNX_CMAP_STORE;
}
static void compute(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    CHECK_EQ(pnx_cmap_compute(state->map, &key, 8, add_one, state, NULL), 0);
}
static void put_and_remove(void *arg) {
    put(arg, 1, 100);
    put(arg, 1, 200);
}
static void check_sum(void *arg) {
    struct state *state = arg;
    uint64_t value = 0;
    CHECK_EQ(pnx_cmap_get_word(state->map, 1, &value), 0);
    CHECK_EQ(value, 3);
    clean_up(arg);
}
static void check_put(void *arg) {
    struct state *state = arg;
    uint64_t value = 0;
    CHECK_EQ(pnx_cmap_get_word(state->map, 1, &value), 0);
    CHECK(value >= 200 && value <= 202); /* both puts, and what was added to the last */
    clean_up(arg);
}

TEST(p3_functions_on_one_key_exclude_each_other_and_other_writes) {
    x_explore(&(const struct x_test){.name = "cmap_compute",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {compute, compute, compute},
            .final = check_sum,
            .preemptions = SOME,
            .random = RANDOM,
            .stale = 1,
            .floor = FLOOR});
    x_explore(&(const struct x_test){.name = "cmap_compute_put",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {compute, put_and_remove, compute},
            .final = check_put,
            .preemptions = SOME,
            .random = RANDOM,
            .stale = 1,
            .floor = FLOOR});
}

static int make_once(void *ctx, uint64_t *ret_value) {
    struct state *state = ctx;
    if (pnx_fetch_add(&state->calls, 1, PNX_RELAXED, "cmap_suite.make") == 0)
        return -EAGAIN; /* the first fails: the next who waits tries */
    *ret_value = publish(state, 0);
    return 0;
}
static void get_or_make(void *arg) {
    struct state *state = arg;
    uint64_t key = 1, value = 0;
    int rc = pnx_cmap_get_or_insert_with(state->map, &key, 8, make_once, state, NULL, &value);
    if (rc == 0)
        follow(value);
    else
        CHECK_EQ(rc, -EAGAIN);
}
static void check_made(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->calls, PNX_RELAXED, "cmap_suite.made"), 2);
    clean_up(arg);
}

TEST(p3_one_makes_and_failure_passes_the_turn) {
    x_explore(&(const struct x_test){.name = "cmap_make",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {get_or_make, get_or_make, get_or_make},
            .final = check_made,
            .preemptions = SOME,
            .random = RANDOM,
            .stale = 1,
            .floor = FLOOR});
}

/* Circles over two maps: somebody is refused, and nobody hangs. */
static void set_up_two(void *arg) {
    struct state *state = arg;
    set_up(arg);
    state->other = make_map(8, 0);
}
static int put_across(struct state *state, struct pnx_cmap *map, uint64_t *ret_value) {
    uint64_t key = 1;
    int rc = pnx_cmap_put(map, &key, 8, 7);
    CHECK(rc == 0 || rc == -EDEADLK);
    if (rc)
        pnx_fetch_add(&state->refused, 1, PNX_RELAXED, "cmap_suite.refused");
    *ret_value = 8;
    return PNX_CMAP_STORE;
}
static int into_other(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct state *state = ctx;
    (void)current;
    return put_across(state, state->other, ret_value);
}
static int into_first(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct state *state = ctx;
    (void)current;
    return put_across(state, state->map, ret_value);
}
static void cross_one(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    CHECK_EQ(pnx_cmap_compute(state->map, &key, 8, into_other, state, NULL), 0);
}
static void cross_two(void *arg) {
    struct state *state = arg;
    uint64_t key = 1;
    CHECK_EQ(pnx_cmap_compute(state->other, &key, 8, into_first, state, NULL), 0);
}
static void look_across(void *arg) {
    struct state *state = arg;
    uint64_t value;
    if (pnx_cmap_get_word(state->map, 1, &value) == 0)
        CHECK(value == 7 || value == 8);
}
static void check_refused(void *arg) {
    struct state *state = arg;
    CHECK(pnx_load(&state->refused, PNX_RELAXED, "cmap_suite.refusals") <= 1);
    clean_up(arg);
}

TEST(p3_circles_over_two_maps_never_hang) {
    x_explore(&(const struct x_test){.name = "cmap_circle",
            .size = sizeof(struct state),
            .setup = set_up_two,
            .thread = {cross_one, cross_two, look_across},
            .final = check_refused,
            .preemptions = SOME,
            .random = RANDOM,
            .stale = 1,
            .floor = FLOOR});
}

/* ---- ends ---- */

static void set_up_shared(void *arg) {
    struct state *state = arg;
    set_up_bytes(arg);
    (void)pnx_cmap_ref(state->map);
    (void)pnx_cmap_ref(state->map);
}
static void use_and_release(void *arg) {
    struct state *state = arg;
    struct pnx_cmap *map = state->map;
    uint64_t value;
    CHECK_EQ(pnx_cmap_get(map, "k1", 2, &value), 0);
    pnx_cmap_release(&map);
}
static void write_and_release(void *arg) {
    struct state *state = arg;
    struct pnx_cmap *map = state->map;
    CHECK_EQ(pnx_cmap_remove(map, "k2", 2, NULL), 0);
    pnx_cmap_release(&map);
}
static void release_and_drive(void *arg) {
    struct state *state = arg;
    struct pnx_cmap *map = state->map;
    pnx_cmap_release(&map);
    drive();
    drive();
}
static void check_ended(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

TEST(p7_the_last_reference_or_the_last_callback_frees_the_map) {
    x_explore(&(const struct x_test){.name = "cmap_release",
            .size = sizeof(struct state),
            .setup = set_up_shared,
            .thread = {use_and_release, write_and_release, release_and_drive},
            .final = check_ended,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void clear_it(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_cmap_clear(state->map), 0);
    drive();
}
static void close_it(void *arg) {
    struct state *state = arg;
    pnx_cmap_close(state->map);
    drive();
}
static void get_anything(void *arg) {
    struct state *state = arg;
    uint64_t value;
    int rc = pnx_cmap_get_word(state->map, 1, &value);
    if (rc == 0)
        follow(value);
    else
        CHECK(rc == -ENOENT || rc == -ESHUTDOWN);
}
static void get_until_closed(void *arg) {
    struct state *state = arg;
    uint64_t value;
    int rc = pnx_cmap_get_word(state->map, 1, &value);
    if (rc == 0)
        follow(value);
    else
        CHECK_EQ(rc, -ESHUTDOWN); /* never: not there */
}

TEST(p1_lookups_beside_clear_and_close) {
    x_explore(&(const struct x_test){.name = "cmap_clear",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {clear_it, get_anything, grow},
            .final = clean_up,
            .preemptions = FEW,
            .random = RANDOM,
            .floor = FLOOR});
    x_explore(&(const struct x_test){.name = "cmap_close",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {close_it, get_until_closed, get_until_closed},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* A section that begins while a grace period waits for the one before it tells that that one has ended. */
static void clear_and_drive(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_cmap_clear(state->map), 0);
    drive();
    drive();
}
static void get_twice(void *arg) {
    get_anything(arg);
    get_anything(arg);
}
static void ask_for_length(void *arg) {
    struct state *state = arg;
    CHECK(pnx_cmap_len(state->map) <= 1);
}

TEST(p6_a_section_after_another_tells_that_the_first_has_ended) {
    x_explore(&(const struct x_test){.name = "cmap_sections",
            .size = sizeof(struct state),
            .setup = set_up_stored,
            .thread = {clear_and_drive, get_twice, ask_for_length},
            .final = clean_up,
            .preemptions = 3,
            .stale = X_NONE,
            .random = RANDOM,
            .floor = FLOOR});
}

/* The last shard frees the map, whoever has ended the others. */
static void set_up_two_shards(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_default();
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.env = x_env(), .shards = 2, .registry = pnx_registry_off(),
                             .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                     NULL, &state->map),
            0);
    for (char c = 'a';; c++) { /* something of the first shard's is pending */
        struct pnx_cmap_key key;
        CHECK_EQ(pnx__cmap_key(state->map, &c, 1, &key), 0);
        if (key.hash % 2 != 0)
            continue;
        CHECK_EQ(pnx_cmap_put(state->map, &c, 1, 1), 0);
        CHECK_EQ(pnx_cmap_remove(state->map, &c, 1, NULL), 0);
        break;
    }
    pnx_cmap_close(state->map);
}
static void release_it(void *arg) {
    struct state *state = arg;
    pnx_cmap_release(&state->map);
}
static void drive_twice(void *arg) {
    (void)arg;
    drive();
    drive();
}

TEST(p7_the_last_shard_frees_the_map) {
    x_explore(&(const struct x_test){.name = "cmap_shards",
            .size = sizeof(struct state),
            .setup = set_up_two_shards,
            .thread = {release_it, drive_twice, drive_twice},
            .final = check_ended,
            .preemptions = 2,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- walks, limits, sizes; objects behind keys that are bytes ---- */

static void set_up_limited(void *arg) {
    struct state *state = arg;
    static const struct pnx_cmap_tuning tuning = {.min_buckets = 1, .move_buckets = 1};
    (void)pnx_reclaim_default();
    CHECK_EQ(pnx__cmap_create(PNX_CMAP_OPTS(.env = x_env(), .shards = 1, .flags = PNX_CMAP_RC,
                                      .max_entries = 3, .registry = pnx_registry_off(),
                                      .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                     &tuning, NULL, &state->map),
            0);
    for (const char *key = "ab"; *key; key++) {
        uint64_t value = make_object();
        CHECK_EQ(pnx_cmap_put(state->map, key, 1, value), 0);
        pnx_rc_unref(pnx_cmap_object(value));
    }
}
static int see_object(void *ctx, const void *key, size_t key_size, uint64_t value) {
    CHECK_EQ(key_size, 1);
    CHECK_EQ(x_cell_read(&((struct object *)pnx_cmap_object(value))->cell), 42);
    if (*(const char *)key == 'a')
        ++*(int *)ctx;
    return 0;
}
static void walk_it(void *arg) {
    struct state *state = arg;
    int seen = 0; /* a is there all the while */
    CHECK_EQ(pnx_cmap_foreach(state->map, see_object, &seen), 0);
    CHECK_EQ(seen, 1);
}
static void add_up_to_the_limit(void *arg) {
    struct state *state = arg;
    uint64_t value = make_object();
    CHECK_EQ(pnx_cmap_put(state->map, "c", 1, value), 0);
    int rc = pnx_cmap_put(state->map, "d", 1, value);
    CHECK(rc == 0 || rc == -ENOSPC); /* b may be gone */
    pnx_rc_unref(pnx_cmap_object(value));
}
static void remove_and_resize(void *arg) {
    struct state *state = arg;
    struct pnx_cmap_item items[2] = {{"a", 1, 0, 1, 0}, {"x", 1, 0, 1, 0}};
    CHECK_EQ(pnx_cmap_remove(state->map, "b", 1, NULL), 0);
    CHECK_EQ(pnx_cmap_reserve(state->map, 9), 0);
    CHECK_EQ(pnx_cmap_get_batch(state->map, items, 2), 1);
    pnx_rc_unref(pnx_cmap_object(items[0].value));
}
static void empty_it(void *arg) {
    struct state *state = arg;
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cmap_read_stats(state->map, &stats), 0);
    CHECK(stats.entries >= 2 && stats.entries <= 3);
    CHECK_EQ(pnx_cmap_clear(state->map), 0);
    CHECK_EQ(pnx_cmap_put(state->map, "z", 1, 0), -EINVAL);
    CHECK_EQ(pnx_cmap_shrink(state->map), 0);
    clean_up(arg);
}

TEST(p5_a_walk_meets_what_stays_once_beside_writers_and_resizes) {
    x_explore(&(const struct x_test){.name = "cmap_walk",
            .size = sizeof(struct state),
            .setup = set_up_limited,
            .thread = {walk_it, add_up_to_the_limit, remove_and_resize},
            .final = empty_it,
            .preemptions = FEW,
            .stale = 1,
            .random = RANDOM,
            .floor = FLOOR});
}
