/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cache.c - lookups of a cache beside all that changes what they look at: puts, replacements, removals, evictions,
 * expiry, clears, other tables, slots that are used again, and the end of references and of the cache.
 *
 * Tables have room for one slot at first, so that the second key brings another table.  Values are bytes that say which
 * version they are, or addresses of race-checked cells; memory is the explorer's.
 */
#include "explorer/explorer.h"

#include "cache/internal.h"
#include "share/reclaim.h"

#include <patinox/executor.h>

#include <errno.h>

struct state {
    struct pnx_cache *cache;
    struct pnx_cache_ref ref;
    struct x_cell cells[4];
    struct pnx_a32 destroyed;
    struct pnx_a32 told;
    uint64_t high; /* a key at a position above the first eight of its line */
};

/* Bounds of the ordinary run, which is to be short; ./test --long goes further. */
#define SOME   (test_long() ? 3u : 2u)
#define FEW    (test_long() ? 2u : 1u)
#define FLOOR  100
#define RANDOM (test_long() ? 50000u : 1000u)

static void destroy(void *ctx, const struct pnx_cache_removed *removed) {
    struct state *state = ctx;
    x_cell_write(removed->value, 13); /* nobody may be reading it */
    pnx_fetch_add(&state->destroyed, 1, PNX_RELAXED, "test.destroyed");
}

static void make_cache(struct state *state, const char *policy, uint64_t entries) {
    (void)pnx_reclaim_default();
    CHECK_EQ(pnx__cache_create(
                     PNX_CACHE_OPTS(.env = x_env(), .capacity_entries = entries, .policy = policy,
                             .destroy = destroy, .ctx = state, .registry = pnx_registry_off(),
                             .stats = pnx_stats_off(), .budget = pnx_budget_off()),
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

static void put(struct state *state, char key, struct x_cell *cell, pnx_ns ttl) {
    x_cell_write(cell, 42);
    CHECK_EQ(pnx_cache_put_pointer(state->cache, &key, 1, cell, sizeof(*cell), ttl), 0);
}

/* Finds the key or not; what is found is whole, and stays while there is a reference. */
static int look(struct state *state, char key) {
    struct pnx_cache_ref ref = {0};
    int rc = pnx_cache_get(state->cache, &key, 1, &ref);
    CHECK(rc == 0 || rc == -ENOENT || rc == -ESHUTDOWN);
    if (rc == 0)
        CHECK_EQ(x_cell_read(pnx_cache_ref_data(&ref)), 42);
    pnx_cache_ref_release(&ref);
    return rc;
}

static void clean_up(void *arg) {
    struct state *state = arg;
    struct pnx_error err = {0};
    if (state->cache)
        CHECK_MSG(pnx_cache_check(state->cache, &err) == 0, "%s", err.message);
    pnx_cache_release(&state->cache);
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

/* ---- a key that comes, is replaced, goes ---- */

static void set_up(void *arg) {
    make_cache(arg, "clock", 4);
}
static void set_up_one(void *arg) {
    set_up(arg);
    struct state *state = arg;
    put(state, 'a', &state->cells[0], 0);
}

static void put_first(void *arg) {
    struct state *state = arg;
    become_known();
    put(state, 'a', &state->cells[0], 0);
}
static void look_for_first(void *arg) {
    look(arg, 'a');
}

TEST(p10_what_was_put_is_found_whole) {
    x_explore(&(const struct x_test){.name = "cache_put",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {put_first, look_for_first, look_for_first},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void replace(void *arg) {
    struct state *state = arg;
    become_known();
    put(state, 'a', &state->cells[1], 0);
    drive();
}
static void find_always(void *arg) {
    CHECK_EQ(look(arg, 'a'), 0);
}

TEST(p10_a_key_that_is_replaced_is_always_found) {
    x_explore(&(const struct x_test){.name = "cache_replace",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {replace, find_always, find_always},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void remove_and_drive(void *arg) {
    struct state *state = arg;
    become_known();
    CHECK_EQ(pnx_cache_remove(state->cache, "a", 1), 0);
    drive();
}
static void all_destroyed(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->destroyed, PNX_RELAXED, "test.final"), 1);
    clean_up(arg);
}

TEST(p4_what_is_removed_under_a_reader_is_destroyed_once_and_freed_after_it) {
    x_explore(&(const struct x_test){.name = "cache_remove",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {remove_and_drive, look_for_first, look_for_first},
            .final = all_destroyed,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
    x_explore(&(const struct x_test){.name = "cache_remove_fences",
            .size = sizeof(struct state),
            .setup = set_up_one,
            .thread = {remove_and_drive, look_for_first},
            .final = all_destroyed,
            .preemptions = SOME,
            .random = RANDOM,
            .fences = true,
            .floor = FLOOR});
}

/* ---- bytes, copied without a reference ---- */

struct version {
    uint64_t key;
    uint64_t number;
};
static void make_bytes_with(struct state *state, uint64_t entries, uint32_t first_slots) {
    (void)pnx_reclaim_default();
    CHECK_EQ(pnx__cache_create(PNX_CACHE_OPTS(.env = x_env(), .capacity_entries = entries,
                                       .policy = "clock", .registry = pnx_registry_off(),
                                       .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                     first_slots, NULL, &state->cache),
            0);
}
static void make_bytes(struct state *state, uint64_t entries) {
    make_bytes_with(state, entries, 1);
}
static void put_version(struct state *state, uint64_t key, uint64_t number) {
    const struct version value = {key, number};
    CHECK_EQ(pnx_cache_put(state->cache, &key, 8, &value, sizeof(value), 0), 0);
}
static uint64_t copy_version(struct state *state, uint64_t key) {
    struct version value = {0};
    CHECK_EQ(pnx_cache_get_copy(state->cache, &key, 8, &value, sizeof(value), NULL), 0);
    CHECK_EQ(value.key, key);
    return value.number;
}
static void set_up_bytes(void *arg) {
    make_bytes(arg, 4);
    put_version(arg, 1, 1);
}
static void next_versions(void *arg) {
    become_known();
    put_version(arg, 1, 2);
    put_version(arg, 1, 3);
    drive();
}
static void copy_twice(void *arg) {
    uint64_t first = copy_version(arg, 1);
    CHECK(copy_version(arg, 1) >= first);
}

TEST(p10_copies_never_go_back) {
    x_explore(&(const struct x_test){.name = "cache_copy",
            .size = sizeof(struct state),
            .setup = set_up_bytes,
            .thread = {next_versions, copy_twice},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

static void set_up_two_bytes(void *arg) {
    make_bytes(arg, 4);
    put_version(arg, 1, 1);
    put_version(arg, 2, 1);
}
static void grow_and_replace(void *arg) {
    become_known();
    put_version(arg, 3, 1); /* needs another table */
    put_version(arg, 1, 2);
    drive();
}
static void copy_many(void *arg) {
    struct state *state = arg;
    const uint64_t keys[2] = {1, 2};
    struct version values[2];
    uint64_t found = 0;
    CHECK_EQ(pnx_cache_get_many(state->cache, keys, 8, 2, values, sizeof(values[0]), &found), 2);
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQ(values[i].key, keys[i]);
}

TEST(p10_a_batch_finds_what_is_there_while_the_index_grows) {
    x_explore(&(const struct x_test){.name = "cache_copy_many",
            .size = sizeof(struct state),
            .setup = set_up_two_bytes,
            .thread = {grow_and_replace, copy_many},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- room of two kinds ---- */

#define LARGE 2000 /* bytes of a value that needs all of the capacity */

/* The nth key of the shard. */
static uint64_t key_in(const struct pnx_cache *cache, uint32_t shard, uint32_t n) {
    uint64_t key = 0;
    for (;; key++) {
        uint64_t hash = pnx__hash(cache->seed, &key, sizeof(key));
        if (pnx__cache_shard_of(cache, hash) == &cache->shards[shard] && n-- == 0)
            return key;
    }
}
static void put_sized(struct state *state, uint64_t key, size_t size) {
    static const char bytes[LARGE];
    CHECK_EQ(pnx_cache_put(state->cache, &key, 8, bytes, size, 0), 0);
}
/* Full by the number of entries, and both in the first shard. */
static void set_up_two_limits(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_default();
    CHECK_EQ(pnx__cache_create(PNX_CACHE_OPTS(.env = x_env(), .capacity = pnx_cache_cost(8, LARGE),
                                       .capacity_entries = 2, .shards = 2, .policy = "fifo",
                                       .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                                       .budget = pnx_budget_off()),
                     4, NULL, &state->cache),
            0);
    uint64_t key = key_in(state->cache, 1, 0);
    put_sized(state, key, 1); /* for the shard's table */
    CHECK_EQ(pnx_cache_remove(state->cache, &key, 8), 0);
    put_sized(state, key_in(state->cache, 0, 0), 1);
    put_sized(state, key_in(state->cache, 0, 1), 1);
}
static void put_large(void *arg) {
    struct state *state = arg;
    become_known();
    put_sized(state, key_in(state->cache, 0, 2), LARGE);
}
static void put_small(void *arg) {
    struct state *state = arg;
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    become_known();
    put_sized(state, key_in(state->cache, 1, 0), 1);
    CHECK_EQ(pnx_cache_read_stats(state->cache, &stats), 0);
    CHECK(stats.entries <= 2);
    CHECK(stats.bytes <= pnx_cache_cost(8, LARGE));
}

TEST(p1_who_has_to_step_back_from_one_limit_does_not_exceed_the_other) {
    x_explore(&(const struct x_test){.name = "cache_room",
            .size = sizeof(struct state),
            .setup = set_up_two_limits,
            .thread = {put_large, put_small},
            .final = clean_up,
            .preemptions = 2,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- other tables ---- */

static void put_more(void *arg) {
    become_known();
    put_version(arg, 2, 1); /* the first that needs another table */
    put_version(arg, 3, 1);
    drive();
}
static void copy_always(void *arg) {
    CHECK_EQ(copy_version(arg, 1), 1);
}

TEST(p10_a_key_stays_found_while_the_index_grows) {
    x_explore(&(const struct x_test){.name = "cache_grow",
            .size = sizeof(struct state),
            .setup = set_up_bytes,
            .thread = {put_more, copy_always},
            .final = clean_up,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- slots that are used again ---- */

static void set_up_full(void *arg) {
    make_cache(arg, "clock", 1);
    struct state *state = arg;
    put(state, 'a', &state->cells[0], 0);
}
static void evict_first(void *arg) {
    struct state *state = arg;
    become_known();
    put(state, 'b', &state->cells[1], 0); /* in the slot of a */
    drive();
}
static void look_for_both(void *arg) {
    look(arg, 'a');
    look(arg, 'b');
}
static void one_destroyed(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->destroyed, PNX_RELAXED, "test.one"), 1);
    CHECK_EQ(look(state, 'a'), -ENOENT);
    CHECK_EQ(look(state, 'b'), 0);
    clean_up(arg);
}

TEST(p10_a_slot_that_is_used_again_never_gives_another_keys_value) {
    x_explore(&(const struct x_test){.name = "cache_evict",
            .size = sizeof(struct state),
            .setup = set_up_full,
            .thread = {evict_first, look_for_both},
            .final = one_destroyed,
            .preemptions = 3,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- expiry and clears ---- */

static void set_up_timed(void *arg) {
    set_up(arg);
    struct state *state = arg;
    put(state, 'a', &state->cells[0], 1000 * PNX_SEC);
}
static void expire(void *arg) {
    struct state *state = arg;
    become_known();
    pnx_cache_tick(state->cache, PNX_NEVER - 1); /* the caller says that it is late */
    drive();
}

TEST(p4_what_expires_under_a_reader_is_destroyed_once) {
    x_explore(&(const struct x_test){.name = "cache_expire",
            .size = sizeof(struct state),
            .setup = set_up_timed,
            .thread = {expire, look_for_first, expire},
            .final = all_destroyed,
            .preemptions = FEW,
            .random = RANDOM,
            .floor = FLOOR});
}

static void set_up_two(void *arg) {
    set_up_one(arg);
    struct state *state = arg;
    put(state, 'b', &state->cells[1], 0);
}
static void clear(void *arg) {
    struct state *state = arg;
    become_known();
    CHECK_EQ(pnx_cache_clear(state->cache), 0);
    drive();
}
static void look_at_one_moment(void *arg) {
    if (look(arg, 'a') == -ENOENT)
        CHECK_EQ(look(arg, 'b'), -ENOENT);
}

TEST(p10_a_clear_takes_effect_for_all_keys_at_one_moment) {
    x_explore(&(const struct x_test){.name = "cache_clear",
            .size = sizeof(struct state),
            .setup = set_up_two,
            .thread = {clear, look_at_one_moment},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- the upper positions of a line ---- */

/* Whether the key's own line has its first eight positions taken, and another one free. */
static bool would_stand_high(const struct pnx_cache *cache, uint64_t key) {
    const struct pnx_cache_table *table = cache->shards->own_table;
    uint64_t hash = pnx__hash(cache->seed, &key, sizeof(key));
    const struct pnx_cache_line *line = pnx__cache_home(table, pnx__cache_hash_high(hash));
    uint64_t low = pnx_load(&line->tags_low, PNX_RELAXED, "test.low");
    uint64_t high = pnx_load(&line->tags_high, PNX_RELAXED, "test.high");
    uint64_t free = pnx__cache_match(low, high, 0);
    return free && pnx__cache_position(free) >= 8;
}

/* Fills a line's first eight positions, and puts a key behind them.  Key 1 stands at the first position of its own. */
static void set_up_high(void *arg) {
    struct state *state = arg;
    make_bytes_with(state, 64, 40);
    for (uint64_t key = 1; state->high == 0; key++) {
        CHECK(key < 40);
        if (would_stand_high(state->cache, key))
            state->high = key;
        put_version(state, key, 1);
    }
}
static void remove_both(void *arg) {
    struct state *state = arg;
    const uint64_t first = 1;
    become_known();
    CHECK_EQ(pnx_cache_remove(state->cache, &first, 8), 0);
    CHECK_EQ(pnx_cache_remove(state->cache, &state->high, 8), 0);
}
static bool misses(struct state *state, uint64_t key) {
    struct version value;
    return pnx_cache_get_copy(state->cache, &key, 8, &value, sizeof(value), NULL) == -ENOENT;
}
static void look_in_turn(void *arg) {
    if (misses(arg, ((struct state *)arg)->high))
        CHECK(misses(arg, 1)); /* it went first */
}

TEST(p10_who_misses_what_went_last_misses_what_went_before) {
    x_explore(&(const struct x_test){.name = "cache_high",
            .size = sizeof(struct state),
            .setup = set_up_high,
            .thread = {remove_both, look_in_turn},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

/* ---- the end ---- */

static void set_up_referred(void *arg) {
    set_up_one(arg);
    struct state *state = arg;
    CHECK_EQ(pnx_cache_get(state->cache, "a", 1, &state->ref), 0);
}
static void release_cache(void *arg) {
    struct state *state = arg;
    become_known();
    pnx_cache_release(&state->cache);
    drive();
}
static void release_ref(void *arg) {
    struct state *state = arg;
    become_known();
    CHECK_EQ(x_cell_read(pnx_cache_ref_data(&state->ref)), 42);
    pnx_cache_ref_release(&state->ref);
    drive();
}

TEST(p4_the_last_reference_and_the_cache_may_end_at_once) {
    x_explore(&(const struct x_test){.name = "cache_end",
            .size = sizeof(struct state),
            .setup = set_up_referred,
            .thread = {release_cache, release_ref},
            .final = all_destroyed,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* Two shards, of which the last to have nothing pending frees the cache. */
struct two {
    struct pnx_cache_ref ref[2];
};

static void set_up_shards(void *arg) {
    struct two *two = arg;
    struct pnx_cache *cache;
    (void)pnx_reclaim_default();
    CHECK_EQ(pnx__cache_create(
                     PNX_CACHE_OPTS(.env = x_env(), .capacity_entries = 8, .policy = "clock",
                             .shards = 2, .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                             .budget = pnx_budget_off()),
                     1, NULL, &cache),
            0);
    for (char key = 'a'; !two->ref[0].entry || !two->ref[1].entry; key++) {
        CHECK_EQ(pnx_cache_put(cache, &key, 1, "x", 1, 0), 0);
        struct pnx_cache_ref ref = {0};
        CHECK_EQ(pnx_cache_get(cache, &key, 1, &ref), 0);
        struct pnx_cache_ref *place = &two->ref[ref.entry->shard - cache->shards];
        if (place->entry)
            pnx_cache_ref_release(&ref);
        else
            *place = ref;
    }
    pnx_cache_release(&cache);
    drive();
}
static void release_first(void *arg) {
    struct two *two = arg;
    become_known();
    pnx_cache_ref_release(&two->ref[0]);
    drive();
}
static void release_second(void *arg) {
    struct two *two = arg;
    become_known();
    pnx_cache_ref_release(&two->ref[1]);
    drive();
}
static void nothing_left(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

TEST(p4_the_last_shard_frees_the_cache) {
    x_explore(&(const struct x_test){.name = "cache_end_shards",
            .size = sizeof(struct two),
            .setup = set_up_shards,
            .thread = {release_first, release_second},
            .final = nothing_left,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

/* ---- loads ---- */

static int load_cell(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct state *state = ctx;
    (void)key, (void)key_size, (void)deadline;
    CHECK_EQ(pnx_fetch_add(&state->told, 1, PNX_RELAXED, "test.loads"), 0);
    x_cell_write(&state->cells[0], 42);
    return pnx_cache_load_set_pointer(load, &state->cells[0], sizeof(state->cells[0]));
}
static void load_first(void *arg) {
    struct state *state = arg;
    struct pnx_cache_ref ref = {0};
    become_known();
    CHECK_EQ(pnx_cache_get_or_load(state->cache, "a", 1, load_cell, state, PNX_NEVER, NULL, &ref),
            0);
    CHECK_EQ(x_cell_read(pnx_cache_ref_data(&ref)), 42);
    pnx_cache_ref_release(&ref);
}

TEST(p6_one_loads_and_both_have_the_value) {
    x_explore(&(const struct x_test){.name = "cache_load",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {load_first, load_first},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

/* A load that has begun when a clear does is overtaken, though its result may be being stored just then. */
static void set_up_refreshable(void *arg) {
    struct state *state = arg;
    set_up(state);
    put(state, 'a', &state->cells[1], 0);
}
static void refresh_first(void *arg) {
    struct state *state = arg;
    become_known();
    int rc = pnx_cache_refresh(state->cache, "a", 1, load_cell, state, PNX_NEVER, NULL);
    CHECK_EQ(rc, 0);
}
static void clear_after_begin(void *arg) {
    struct state *state = arg;
    become_known();
    /* Relaxed: the loader was called, so that its load had begun. */
    bool begun = pnx_load(&state->told, PNX_RELAXED, "test.begun") != 0;
    CHECK_EQ(pnx_cache_clear(state->cache), 0);
    if (begun)
        CHECK_EQ(look(state, 'a'), -ENOENT);
}

TEST(p6_a_load_that_a_clear_has_overtaken_is_never_found) {
    x_explore(&(const struct x_test){.name = "cache_load_clear",
            .size = sizeof(struct state),
            .setup = set_up_refreshable,
            .thread = {refresh_first, clear_after_begin},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

/* ---- refreshing ---- */

/* A clock that set-ups move, while there are no threads. */
static pnx_ns clock_now;
static pnx_ns read_clock(void *ctx) {
    (void)ctx;
    return clock_now;
}

static void make_timed(struct state *state, const struct pnx_cache_opts *more) {
    (void)pnx_reclaim_default();
    struct pnx_env env = *x_env();
    struct pnx_cache_opts opts = *more;
    clock_now = 1000;
    env.now = read_clock;
    opts.env = &env;
    opts.capacity_entries = 4;
    opts.policy = "clock";
    opts.destroy = destroy;
    opts.ctx = state;
    opts.registry = pnx_registry_off();
    opts.stats = pnx_stats_off();
    opts.budget = pnx_budget_off();
    CHECK_EQ(pnx__cache_create(&opts, 1, NULL, &state->cache), 0);
}

static void set_up_soft(void *arg) {
    struct state *state = arg;
    make_timed(state, PNX_CACHE_OPTS(.refresh_after = 100));
    put(state, 'a', &state->cells[1], 0);
    clock_now += 200;
}
static void load_soft(void *arg) {
    struct state *state = arg;
    struct pnx_cache_ref ref = {0};
    become_known();
    CHECK_EQ(pnx_cache_get_or_load(state->cache, "a", 1, load_cell, state, PNX_NEVER, NULL, &ref),
            0); /* the loader checks that it is the only one */
    CHECK_EQ(x_cell_read(pnx_cache_ref_data(&ref)), 42);
    CHECK(pnx_cache_ref_data(&ref) == &state->cells[ref.source == PNX_CACHE_STALE ? 1 : 0]);
    pnx_cache_ref_release(&ref);
}
static void was_refreshed(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->told, PNX_RELAXED, "test.refreshed"), 1);
    CHECK_EQ(pnx_load(&state->destroyed, PNX_RELAXED, "test.old_gone"), 1);
    clean_up(arg);
}

TEST(p12_one_refreshes_and_the_others_have_the_old_value_or_the_new) {
    x_explore(&(const struct x_test){.name = "cache_refresh",
            .size = sizeof(struct state),
            .setup = set_up_soft,
            .thread = {load_soft, load_soft},
            .final = was_refreshed,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = FLOOR});
}

static void remove_soft(void *arg) {
    struct state *state = arg;
    become_known();
    CHECK_EQ(pnx_cache_remove(state->cache, "a", 1), 0);
}
static void load_soft_once(void *arg) {
    struct state *state = arg;
    struct pnx_cache_ref ref = {0};
    become_known();
    CHECK_EQ(pnx_cache_get_or_load(state->cache, "a", 1, load_cell, state, PNX_NEVER, NULL, &ref),
            0);
    CHECK_EQ(x_cell_read(pnx_cache_ref_data(&ref)), 42);
    pnx_cache_ref_release(&ref);
}

TEST(p12_a_refresh_and_a_remove_may_meet) {
    x_explore(&(const struct x_test){.name = "cache_refresh_remove",
            .size = sizeof(struct state),
            .setup = set_up_soft,
            .thread = {load_soft_once, remove_soft},
            .final = clean_up,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

/*
 * A value that is due as soon as it was loaded is handed to the executor by its own leader, just when somebody who waited
 * for that load comes to it: whoever takes a queued refresh over loads, and nobody else takes it away.
 */
static struct pnx_executor *worker;

static int load_short(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct state *state = ctx;
    (void)key, (void)key_size, (void)deadline;
    uint32_t n = pnx_fetch_add(&state->told, 1, PNX_RELAXED, "test.short_loads");
    CHECK(n < 4);
    x_cell_write(&state->cells[n], 42);
    return pnx_cache_load_set_pointer(load, &state->cells[n], sizeof(state->cells[n]));
}
static void set_up_worker(void *arg) {
    struct state *state = arg;
    worker = NULL;
    CHECK_EQ(pnx_executor_create(
                     PNX_EXECUTOR_OPTS(.env = x_env(), .registry = pnx_registry_off(),
                             .stats = pnx_stats_off(), .budget = pnx_budget_off(), .queue_max = 4,
                             .on_full = PNX_EXECUTOR_REJECT, .flags = PNX_EXECUTOR_TICK),
                     NULL, &worker),
            0);
    make_timed(state, PNX_CACHE_OPTS(.refresh_after = 100, .executor = worker,
                              .refresh_loader = load_short, .refresh_ctx = state));
}
static void load_and_find(void *arg) {
    struct state *state = arg;
    struct pnx_cache_ref ref = {0};
    become_known();
    CHECK_EQ(pnx_cache_get_or_load(state->cache, "a", 1, load_short, state, PNX_NEVER, NULL, &ref),
            0);
    pnx_cache_ref_release(&ref);
    clock_now = 2000; /* the other thread reads it as it comes */
    CHECK_EQ(look(state, 'a'), 0);
}
static void load_short_once(void *arg) {
    struct state *state = arg;
    struct pnx_cache_ref ref = {0};
    become_known();
    CHECK_EQ(pnx_cache_get_or_load(state->cache, "a", 1, load_short, state, PNX_NEVER, NULL, &ref),
            0);
    CHECK_EQ(x_cell_read(pnx_cache_ref_data(&ref)), 42);
    pnx_cache_ref_release(&ref);
}
static void is_refreshed(void *arg) {
    struct state *state = arg;
    struct pnx_cache_ref ref = {0};
    pnx_executor_tick(worker, clock_now);
    clock_now += 2 * PNX_SEC; /* past the back-off of one that met the end of the load */
    CHECK_EQ(look(state, 'a'), 0);
    pnx_executor_tick(worker, clock_now);
    CHECK_EQ(pnx_cache_get(state->cache, "a", 1, &ref), 0);
    CHECK_EQ(ref.source, PNX_CACHE_FOUND);
    pnx_cache_ref_release(&ref);
    pnx_cache_close(state->cache);
    pnx_executor_release(&worker);
    clean_up(arg);
}

TEST(p12_a_queued_refresh_is_not_lost_to_who_waited_for_the_load_before) {
    x_explore(&(const struct x_test){.name = "cache_refresh_queued",
            .size = sizeof(struct state),
            .setup = set_up_worker,
            .thread = {load_and_find, load_short_once},
            .final = is_refreshed,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

/* ---- requests and kept loads ---- */

struct asking {
    struct state state; /* first */
    struct pnx_cache_request request[2];
    struct pnx_cache_load *kept;
    struct pnx_a32 told[2];
};

static void note_told(struct pnx_cache_request *request, int code, struct pnx_cache_ref ref,
        const struct pnx_error *err) {
    (void)err;
    if (code == 0)
        CHECK_EQ(x_cell_read(pnx_cache_ref_data(&ref)), 42);
    else
        CHECK_EQ(code, -ETIMEDOUT);
    pnx_cache_ref_release(&ref);
    pnx_fetch_add((struct pnx_a32 *)request->arg, 1, PNX_RELAXED, "test.told");
}
static int keep_load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    struct asking *asking = ctx;
    (void)key, (void)key_size, (void)deadline;
    asking->kept = load;
    return -EINPROGRESS;
}
static void ask_async(struct asking *asking, int i) {
    asking->request[i].done = note_told;
    asking->request[i].arg = &asking->told[i];
    CHECK_EQ(pnx_cache_get_async(asking->state.cache, "a", 1, keep_load, asking,
                     i ? PNX_NEVER : 100, &asking->request[i]),
            0);
}
static void set_up_kept(void *arg) {
    struct asking *asking = arg;
    make_timed(&asking->state, PNX_CACHE_OPTS(.shards = 1));
    ask_async(asking, 0);
}
static void end_kept(void *arg) {
    struct asking *asking = arg;
    become_known();
    struct pnx_cache_load *load = asking->kept;
    x_cell_write(&asking->state.cells[0], 42);
    CHECK_EQ(pnx_cache_load_set_pointer(load, &asking->state.cells[0], sizeof(struct x_cell)), 0);
    int rc = pnx_cache_load_finish(load, 0);
    CHECK(rc == 0 || rc == -EALREADY);
}
static void tick_late(void *arg) {
    struct asking *asking = arg;
    become_known();
    for (int i = 0; i < 2; i++)
        pnx_cache_tick(asking->state.cache, 1200);
}
static void told_once(void *arg) {
    struct asking *asking = arg;
    CHECK_EQ(pnx_load(&asking->told[0], PNX_RELAXED, "test.told_first"), 1);
    clean_up(&asking->state);
}

TEST(p15_a_kept_load_is_ended_once_by_its_maker_or_by_its_deadline) {
    x_explore(&(const struct x_test){.name = "cache_kept",
            .size = sizeof(struct asking),
            .setup = set_up_kept,
            .thread = {end_kept, tick_late},
            .final = told_once,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

static void ask_second(void *arg) {
    become_known();
    ask_async(arg, 1);
}
static void both_told(void *arg) {
    struct asking *asking = arg;
    CHECK_EQ(pnx_load(&asking->told[1], PNX_RELAXED, "test.told_second"), 1);
    told_once(arg);
}

TEST(p14_a_request_that_comes_as_the_load_ends_is_told_once) {
    x_explore(&(const struct x_test){.name = "cache_ask",
            .size = sizeof(struct asking),
            .setup = set_up_kept,
            .thread = {end_kept, ask_second},
            .final = both_told,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}

static void take_back(void *arg) {
    struct asking *asking = arg;
    become_known();
    if (pnx_cache_cancel(&asking->request[0]) == 0)
        pnx_fetch_add(&asking->told[0], 1, PNX_RELAXED, "test.taken_back");
}

TEST(p14_a_request_is_taken_back_or_told) {
    x_explore(&(const struct x_test){.name = "cache_cancel",
            .size = sizeof(struct asking),
            .setup = set_up_kept,
            .thread = {end_kept, take_back},
            .final = told_once,
            .preemptions = SOME,
            .random = RANDOM,
            .floor = 20});
}
