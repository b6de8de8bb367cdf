/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pool_group.c - groups of pools by key, under every interleaving: keys that are made, left and asked for at the same
 * time, the shared limit on its way from one key to another, and the end of all of it.
 *
 * Nothing happens by time unless a test says so: whoever is not told sleeps for ever, and is found.
 */
#include "explorer/pool_kit.h"
#include "pool/group.h"

#define LEAVES_AFTER PNX_SEC
/* Preemptions where three threads are at it: with two it takes hours. */
#define ONE          1

struct hosts {
    struct state state; /* first: for what works on a pool */
    struct pnx_pool_group *group;
    uint64_t max;         /* G1: of all keys; fixed */
    struct pnx_a64 alive; /* connected, or about to be */
    bool may_fail;        /* fixed by setup: memory runs out once */
};

/* ---- the server ---- */

static int host_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    const struct pnx_pool_key *key = ctx;
    struct hosts *s = key->user;
    CHECK_MSG(pnx_fetch_add(&s->alive, 1, PNX_RELAXED, "pool_group_suite.alive") < s->max, "G1");
    int rc = thing_connect(&s->state, deadline, err, ret_resource);
    ((struct thing *)*ret_resource)->key = *(const char *)key->bytes;
    return rc;
}

static void host_close(void *ctx, void *resource, pnx_ns deadline) {
    const struct pnx_pool_key *key = ctx;
    struct hosts *s = key->user;
    CHECK_EQ(((struct thing *)resource)->key, *(const char *)key->bytes); /* G8 */
    thing_close(&s->state, resource, deadline);
    pnx_fetch_sub(&s->alive, 1, PNX_RELAXED, "pool_group_suite.dead");
}

/* ---- set-ups ---- */

static void begin_group(struct hosts *s, uint32_t pool_flags, struct pnx_pool_group_opts more) {
    static const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = host_connect, .close = host_close};
    struct pnx_pool_opts pool = base_opts(&s->state, 0);
    pool.env = NULL; /* these are the group's */
    pool.registry = NULL;
    pool.budget = NULL;
    pool.flags = pool_flags;
    more.size = sizeof(more);
    more.env = x_env();
    more.registry = pnx_registry_off();
    more.stats = pnx_stats_off();
    more.budget = pnx_budget_off();
    more.pool = &pool;
    more.key_idle_ns = more.key_idle_ns ? more.key_idle_ns : PNX_NEVER;
    more.turn_ns = more.turn_ns ? more.turn_ns : PNX_NEVER;
    s->max = more.max_total;
    CHECK_EQ(pnx_pool_group_create(&manager, &more, NULL, &s->group), 0);
}

static void begin_max(struct hosts *s, uint32_t max_total) {
    begin_group(s, PNX_POOL_NO_THREADS, (struct pnx_pool_group_opts){.max_total = max_total});
}

static int ask(struct hosts *s, const char *key, pnx_ns timeout, struct pnx_lease *ret_lease) {
    struct pnx_error err = {0};
    int rc = pnx_pool_group_acquire(s->group, key, 1, timeout, NULL, &err, ret_lease);
    CHECK_EQ(rc, err.code);
    return rc;
}

static void take_of(struct hosts *s, unsigned i, const char *key) {
    CHECK_EQ(ask(s, key, PNX_NEVER, &s->state.lease[i]), 0);
}

static void use_of(const struct pnx_lease *lease, const char *key) {
    struct thing *thing = resource_of(lease);
    CHECK_EQ(thing->key, *key);
    thing_use(thing);
}

static void cycle_of(struct hosts *s, const char *key) {
    struct pnx_lease lease = {0};
    CHECK_EQ(ask(s, key, PNX_NEVER, &lease), 0);
    use_of(&lease, key);
    pnx_lease_release(&lease);
}

/* For the short way: the pool of the lease that setup has in hand. */
static void note_pool(struct state *s) {
    s->slots[0] = s->lease[0].slot;
    s->serial = s->slots[0]->pool->serial;
}

static void free_limit_of_one(void *state) {
    begin_max(state, 1);
}

static void a_idle(void *state) {
    struct hosts *s = state;
    begin_max(s, 1);
    take_of(s, 0, "a");
    note_pool(&s->state);
    pnx_lease_release(&s->state.lease[0]);
}

static void a_taken(void *state) {
    struct hosts *s = state;
    begin_max(s, 1);
    take_of(s, 0, "a");
    note_pool(&s->state);
}

/* ---- threads ---- */

static void cycle_a(void *state) {
    cycle_of(state, "a");
}

static void cycle_b(void *state) {
    cycle_of(state, "b");
}

static void short_cycle_a(void *state) {
    remember(state, 0);
    cycle_of(state, "a");
}

/* ---- ends ---- */

static struct pnx_pool_group_stats stats_of(const struct hosts *s) {
    struct pnx_pool_group_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_group_read_stats(s->group, &stats), 0);
    return stats;
}

/* Alone: nobody waits, nothing is out, no call is under way; and all sums are right. */
static void check_sums(struct hosts *s) {
    struct pnx_pool_group *group = s->group;
    struct pnx_pool_group_stats stats = stats_of(s);
    int64_t shares = 0, owed = 0;
    uint32_t open = 0, members = 0;
    PNX_LIST_EACH (link, after, &group->all) {
        const struct pnx__group_key *key = PNX_CONTAINER(link, struct pnx__group_key, all);
        const struct pnx__pool_core *core = &pnx__group_pool(key)->core;
        uint32_t n[PNX__POOL_STATES];
        pnx__pool_core_count(core, n);
        CHECK_EQ(key->refs.v, 1);
        CHECK_EQ(core->waiting, 0);
        CHECK_EQ(n[PNX__POOL_IDLE], core->size);
        CHECK_EQ(core->quota, key->quota);
        CHECK_EQ(key->share, core->size > key->quota ? core->size : key->quota);
        shares += key->share;
        owed += (int64_t)key->share - key->quota;
        open += key->state == PNX__GROUP_OPEN;
        members++;
    }
    CHECK_EQ(group->shares, shares);
    CHECK_EQ(group->owed, owed);
    CHECK_EQ(group->open, open);
    CHECK_EQ(group->members, members);
    CHECK(group->shares <= (int64_t)s->max);
    CHECK(pnx__list_empty(&group->hungry) && pnx__list_empty(&group->kicks) &&
            pnx__list_empty(&group->gone));
    CHECK_EQ(stats.shares, shares);
    CHECK_EQ(stats.keys, open);
    CHECK_EQ(stats.hungry, 0);
}

static void all_closed(void *state) {
    struct hosts *s = state;
    CHECK_EQ(s->state.made.v, s->state.closed.v);
    CHECK_EQ(s->alive.v, 0);
}

static void end_group(void *state) {
    struct hosts *s = state;
    check_sums(s);
    CHECK_EQ(pnx_pool_group_close(s->group, PNX_NEVER), 0);
    pnx_pool_group_release(&s->group);
    all_closed(s);
}

/* ---- a key is made ---- */

static void made_once(void *state) {
    CHECK_EQ(stats_of(state).keys_made, 1);
    end_group(state);
}

TEST_LIMIT(g6_a_key_that_all_ask_for_is_made_once, 600) {
    x_explore(&(struct x_test){.name = "group-make",
            .size = sizeof(struct hosts),
            .setup = free_limit_of_one,
            .thread = {cycle_a, cycle_a, cycle_a},
            .final = made_once,
            .preemptions = ONE,
            .stale = 1,
            .random = RANDOM,
            .floor = 100});
}

/* Of the allocations that a key takes, each in turn. */
static void memory_runs_out(void *state) {
    begin_max(state, 1);
    x_fail_allocation(x_choose(4));
}

static void cycle_or_fail(void *state) {
    struct hosts *s = state;
    struct pnx_lease lease = {0};
    int rc = ask(s, "a", PNX_NEVER, &lease);
    CHECK(rc == 0 || rc == -ENOMEM);
    if (rc)
        return;
    use_of(&lease, "a");
    pnx_lease_release(&lease);
}

static void end_with_memory(void *state) {
    x_fail_allocation(UINT32_MAX);
    end_group(state);
}

TEST_LIMIT(g6_who_waits_for_a_maker_that_fails_makes_it, 600) {
    x_explore(&(struct x_test){.name = "group-make-fails",
            .size = sizeof(struct hosts),
            .setup = memory_runs_out,
            .thread = {cycle_or_fail, cycle_or_fail},
            .final = end_with_memory,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

/* ---- the limit is handed over ---- */

/* A waiter of one key gets what the other one has idle, or is about to bring home by the short way. */
TEST_LIMIT(g3_no_return_of_another_key_is_missed, 600) {
    x_explore(&(struct x_test){.name = "group-idle",
            .size = sizeof(struct hosts),
            .setup = a_idle,
            .thread = {short_cycle_a, cycle_b},
            .final = end_group,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

TEST_LIMIT(g3_nor_between_three_who_ask_for_two_keys, 600) {
    x_explore(&(struct x_test){.name = "group-hand-over",
            .size = sizeof(struct hosts),
            .setup = a_idle,
            .thread = {short_cycle_a, cycle_b, cycle_b},
            .final = end_group,
            .preemptions = ONE,
            .stale = X_NONE,
            .random = RANDOM,
            .floor = 100});
}

static void a_taken_twice(void *state) {
    struct hosts *s = state;
    begin_max(s, 2);
    take_of(s, 0, "a");
    take_of(s, 1, "a");
}

static void b_got_one(void *state) {
    CHECK_EQ(stats_of(state).taken_busy + stats_of(state).taken_idle, 1);
    end_group(state);
}

/* The first that comes home, whichever it is, goes to the key that has none. */
TEST_LIMIT(g4_a_busy_key_gives_up_the_next_that_comes_home, 600) {
    x_explore(&(struct x_test){.name = "group-busy",
            .size = sizeof(struct hosts),
            .setup = a_taken_twice,
            .thread = {give_first, give_second, cycle_b},
            .final = b_got_one,
            .preemptions = ONE,
            .stale = X_NONE,
            .random = RANDOM,
            .floor = 100});
}

static void a_taken_for_its_turn(void *state) {
    struct hosts *s = state;
    begin_group(s, PNX_POOL_NO_THREADS,
            (struct pnx_pool_group_opts){.max_total = 1, .turn_ns = PNX_MS});
    take_of(s, 0, "a");
}

/* Two wait for one resource, of different keys: the turn ends, or the resource comes home before. */
TEST_LIMIT(g4_a_turn_that_ends_against_a_return, 600) {
    x_explore(&(struct x_test){.name = "group-turn",
            .size = sizeof(struct hosts),
            .setup = a_taken_for_its_turn,
            .thread = {give_first, cycle_a, cycle_b},
            .final = end_group,
            .preemptions = test_long() ? ONE : X_NONE,
            .stale = X_NONE,
            .random = RANDOM,
            .floor = 100});
}

/* A try that finds nothing leaves a wish behind, which takes what is idle elsewhere. */
static int try_of(struct hosts *s, const char *key) {
    struct pnx_lease lease = {0};
    int rc = ask(s, key, 0, &lease);
    CHECK(rc == 0 || rc == -ETIMEDOUT);
    if (rc)
        return rc;
    use_of(&lease, key);
    pnx_lease_release(&lease);
    return 0;
}

static void tick(void *state) {
    struct hosts *s = state;
    (void)pnx_pool_group_tick(s->group, pnx_now());
}

static void try_b_and_tick(void *state) {
    (void)try_of(state, "b");
    tick(state); /* connects what it has wished for, as nobody else would */
}

static void short_try_a(void *state) {
    remember(state, 0);
    (void)try_of(state, "a");
}

static void tick_and_end(void *state) {
    tick(state); /* what has been wished for is connected now, or was taken back */
    tick(state);
    end_group(state);
}

TEST_LIMIT(g3_a_try_in_vain_takes_what_is_idle_and_wrongs_nobody, 600) {
    x_explore(&(struct x_test){.name = "group-try",
            .size = sizeof(struct hosts),
            .setup = a_idle,
            .thread = {short_try_a, try_b_and_tick},
            .final = tick_and_end,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

/* ---- a key leaves ---- */

static void begin_leaving(struct hosts *s, uint32_t max_total) {
    begin_group(s, PNX_POOL_NO_THREADS,
            (struct pnx_pool_group_opts){.max_total = max_total, .key_idle_ns = LEAVES_AFTER});
}

/* The next look at a late time finds that it has been unused for long enough. */
static void a_about_to_leave(void *state) {
    struct hosts *s = state;
    begin_leaving(s, 1);
    cycle_of(s, "a");
    tick(s);
}

static void tick_late(void *state) {
    struct hosts *s = state;
    (void)pnx_pool_group_tick(s->group, pnx_now() + 2 * LEAVES_AFTER);
}

TEST_LIMIT(g7_a_key_that_leaves_while_it_is_asked_for_comes_back_or_is_made_again, 600) {
    x_explore(&(struct x_test){.name = "group-leave",
            .size = sizeof(struct hosts),
            .setup = a_about_to_leave,
            .thread = {tick_late, cycle_a},
            .final = end_group,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

TEST_LIMIT(g7_its_share_goes_to_the_next_key, 600) {
    x_explore(&(struct x_test){.name = "group-leave-take",
            .size = sizeof(struct hosts),
            .setup = a_about_to_leave,
            .thread = {tick_late, cycle_b},
            .final = end_group,
            .preemptions = FEWER,
            .stale = X_NONE,
            .random = RANDOM,
            .floor = 100});
}

/* b has all there is; a has nothing, so that nothing need be closed before it is forgotten. */
static void a_empty_about_to_leave(void *state) {
    struct hosts *s = state;
    struct pnx_lease lease = {0};
    begin_leaving(s, 1);
    take_of(s, 0, "b");
    CHECK_EQ(ask(s, "a", 0, &lease), -ETIMEDOUT);
    tick(s);
}

static void try_a(void *state) {
    CHECK_EQ(try_of(state, "a"), -ETIMEDOUT);
}

static void give_back_and_end(void *state) {
    give_first(state);
    tick_and_end(state);
}

/* The call explains its failure, which looks at the pool, when it has asked the pool for the last time. */
TEST_LIMIT(g7_a_key_is_forgotten_only_when_the_last_call_is_over, 600) {
    x_explore(&(struct x_test){.name = "group-forget",
            .size = sizeof(struct hosts),
            .setup = a_empty_about_to_leave,
            .thread = {try_a, tick_late},
            .final = give_back_and_end,
            .preemptions = MANY,
            .stale = 1,
            .random = RANDOM,
            .floor = 100});
}

static int look_at_key(void *ctx, const struct pnx_pool_key_numbers *numbers) {
    struct hosts *s = ctx;
    x_read(numbers->key->bytes, numbers->key->len + 1);
    CHECK(numbers->idle + numbers->in_use <= numbers->share && numbers->share <= s->max);
    return 0;
}

static void look_at_keys(void *state) {
    struct hosts *s = state;
    CHECK_EQ(pnx_pool_group_each(s->group, look_at_key, s), 0);
}

TEST_LIMIT(g7_nor_while_somebody_looks_at_it, 600) {
    x_explore(&(struct x_test){.name = "group-each",
            .size = sizeof(struct hosts),
            .setup = a_about_to_leave,
            .thread = {look_at_keys, tick_late},
            .final = end_group,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

static void one_place(void *state) {
    struct hosts *s = state;
    begin_group(
            s, PNX_POOL_NO_THREADS, (struct pnx_pool_group_opts){.max_total = 1, .max_keys = 1});
    cycle_of(s, "a");
}

/* A key in use keeps its place. */
static void cycle_or_busy(struct hosts *s, const char *key) {
    struct pnx_lease lease = {0};
    int rc = ask(s, key, PNX_NEVER, &lease);
    CHECK(rc == 0 || rc == -EBUSY);
    if (rc)
        return;
    use_of(&lease, key);
    pnx_lease_release(&lease);
}

static void cycle_or_busy_a(void *state) {
    cycle_or_busy(state, "a");
}

static void cycle_or_busy_b(void *state) {
    cycle_or_busy(state, "b");
}

static void one_place_at_the_end(void *state) {
    struct hosts *s = state;
    struct pnx_pool_group_stats stats = stats_of(s);
    CHECK(stats.keys <= 1);
    CHECK_EQ(stats.keys_refused + stats.keys_evicted > 0, true);
    end_group(s);
}

TEST_LIMIT(g7_a_key_that_makes_room_against_one_who_asks_for_it, 600) {
    x_explore(&(struct x_test){.name = "group-evict",
            .size = sizeof(struct hosts),
            .setup = one_place,
            .thread = {cycle_or_busy_a, cycle_or_busy_b},
            .final = one_place_at_the_end,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

/* ---- the end ---- */

static void cycle_until_closed(struct hosts *s, const char *key) {
    struct pnx_lease lease = {0};
    bool told = is_told(&s->state);
    int rc = ask(s, key, PNX_NEVER, &lease);
    CHECK(rc == -ESHUTDOWN || (rc == 0 && !told));
    if (rc)
        return;
    use_of(&lease, key);
    pnx_lease_release(&lease);
}

static void a_until_closed(void *state) {
    cycle_until_closed(state, "a");
}

static void short_a_until_closed(void *state) {
    remember(state, 0);
    a_until_closed(state);
}

static void b_until_closed(void *state) {
    cycle_until_closed(state, "b");
}

static void close_group(void *state) {
    struct hosts *s = state;
    CHECK_EQ(pnx_pool_group_close(s->group, PNX_NEVER), 0);
    /* what was closed before is seen: the last of it came by the lock */
    CHECK_EQ(pnx_load(&s->alive, PNX_RELAXED, "pool_group_suite.none_alive"), 0);
    tell(&s->state);
}

static void end_closed(void *state) {
    struct hosts *s = state;
    pnx_pool_group_release(&s->group);
    all_closed(s);
}

TEST_LIMIT(g8_a_close_waits_for_what_is_out_and_nothing_is_taken_after_it, 600) {
    x_explore(&(struct x_test){.name = "group-close",
            .size = sizeof(struct hosts),
            .setup = a_idle,
            .thread = {short_a_until_closed, close_group},
            .final = end_closed,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

/* One waits for the share, and one for the key that is being made: both are told. */
TEST_LIMIT(g8_a_close_against_those_who_wait_for_a_share, 600) {
    x_explore(&(struct x_test){.name = "group-close-wait",
            .size = sizeof(struct hosts),
            .setup = a_taken,
            .thread = {give_first, b_until_closed, close_group},
            .final = end_closed,
            .preemptions = MANY,
            .stale = X_NONE,
            .random = RANDOM,
            .floor = 100});
}

static void a_and_b_taken(void *state) {
    struct hosts *s = state;
    begin_max(s, 2);
    take_of(s, 0, "a");
    take_of(s, 1, "b");
}

static void release_group(void *state) {
    struct hosts *s = state;
    pnx_pool_group_release(&s->group);
}

/* The memory goes with the last of three, once. */
TEST_LIMIT(g8_the_last_one_home_frees_a_released_group, 600) {
    x_explore(&(struct x_test){.name = "group-release",
            .size = sizeof(struct hosts),
            .setup = a_and_b_taken,
            .thread = {give_first, give_second, release_group},
            .final = all_closed,
            .preemptions = ONE,
            .stale = STALE,
            .random = RANDOM,
            .floor = 100});
}

static void with_threads(void *state) {
    begin_group(state, 0, (struct pnx_pool_group_opts){.max_total = 1});
}

/* With threads of the pool's own, which connect and close, and end before the key does. */
TEST_LIMIT(g8_so_does_one_whose_pools_have_threads, 600) {
    x_explore(&(struct x_test){.name = "group-threads",
            .size = sizeof(struct hosts),
            .setup = with_threads,
            .thread = {a_until_closed, close_group},
            .final = end_closed,
            .preemptions = ONE,
            .stale = X_NONE,
            .timeouts = X_NONE,
            .random = RANDOM,
            .floor = 100});
}
