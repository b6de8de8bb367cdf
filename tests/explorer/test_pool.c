/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pool.c - the pool's short way against its slow one: claims and returns without the lock, beside waiters who
 * lock all slots, operators who close, pause, reset and resize, and leases that are given back twice.
 */
#include "explorer/pool_kit.h"

/* ---- waiters ---- */

/* Whoever spins, sleeps or has just locked all slots: a return is seen, or comes to the lock. */
TEST_LIMIT(p2_no_return_is_missed_by_a_waiter_that_spins_or_sleeps, 600) {
    x_explore(&(struct x_test){.name = "pool-wait",
            .size = sizeof(struct state),
            .setup = one,
            .thread = {short_cycle, short_cycle, long_cycle},
            .final = one_is_left,
            .preemptions = MANY,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

TEST_LIMIT(p2_nor_by_one_that_does_the_pools_work, 600) {
    x_explore(&(struct x_test){.name = "pool-wait-threadless",
            .size = sizeof(struct state),
            .setup = one_threadless,
            .thread = {short_cycle, short_cycle, long_cycle},
            .final = one_is_left,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void two_are_left(void *state) {
    struct state *s = state;
    finish_with(s, 2);
    clean_up(s);
}

TEST_LIMIT(p2_nor_one_of_two_resources, 600) {
    x_explore(&(struct x_test){.name = "pool-two",
            .size = sizeof(struct state),
            .setup = two,
            .thread = {short_cycle, short_cycle_other, long_cycle},
            .final = two_are_left,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

/* Two cycles each: a thread comes back to a slot that others have had, or locked, meanwhile. */
static void short_cycle_twice(void *state) {
    short_cycle(state);
    cycle(state);
}

TEST_LIMIT(p2_nor_by_two_that_come_again, 600) {
    x_explore(&(struct x_test){.name = "pool-again",
            .size = sizeof(struct state),
            .setup = one,
            .thread = {short_cycle_twice, short_cycle_twice},
            .final = one_is_left,
            .preemptions = MANY,
            .random = RANDOM,
            .floor = 1000});
}

static void one_with_barging(void *state) {
    struct state *s = state;
    struct pnx_pool_opts opts = base_opts(s, 1);
    opts.barge_ns = PNX_SEC;
    begin_with(s, things(), &opts, 1);
}

/* There a waiter is only poked, and tries again. */
TEST_LIMIT(p2_nor_where_callers_may_barge, 600) {
    x_explore(&(struct x_test){.name = "pool-barge",
            .size = sizeof(struct state),
            .setup = one_with_barging,
            .thread = {short_cycle, short_cycle, long_cycle},
            .final = one_is_left,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 1000});
}

static void discard(void *state) {
    struct state *s = state;
    remember(s, 0);
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(s->pool, PNX_NEVER, NULL, &lease), 0);
    thing_use(resource_of(&lease));
    pnx_lease_discard(&lease);
}

/* A waiter closes what was discarded, connects, and leaves the rest of the work to the next one. */
TEST_LIMIT(p8_a_discard_beside_waiters_that_do_the_pools_work, 600) {
    x_explore(&(struct x_test){.name = "pool-discard",
            .size = sizeof(struct state),
            .setup = one_threadless,
            .thread = {discard, short_cycle, long_cycle},
            .final = end,
            .preemptions = FEWER,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- deadlines ---- */

/* It gets the resource, or leaves its place: never both, never neither. */
static void cycle_in_time(void *state) {
    struct state *s = state;
    struct pnx_lease lease = {0};
    int rc = pnx_pool_acquire(s->pool, PNX_MS, NULL, &lease);
    CHECK(rc == 0 || rc == -ETIMEDOUT);
    CHECK_EQ(rc == 0, lease.slot != NULL);
    if (rc)
        return;
    thing_use(resource_of(&lease));
    pnx_lease_release(&lease);
}

TEST_LIMIT(p7_a_deadline_against_a_grant_loses_no_resource, 600) {
    x_explore(&(struct x_test){.name = "pool-deadline",
            .size = sizeof(struct state),
            .setup = one_taken,
            .thread = {give_first, cycle_in_time, long_cycle},
            .final = one_is_left,
            .preemptions = FEWER,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

TEST_LIMIT(p7_nor_when_it_is_woken_for_nothing, 600) {
    x_explore(&(struct x_test){.name = "pool-woken",
            .size = sizeof(struct state),
            .setup = one_taken,
            .thread = {give_first, cycle_in_time},
            .final = one_is_left,
            .preemptions = PREEMPTIONS,
            .spurious = 1,
            .random = RANDOM,
            .floor = 100});
}

static void discard_first(void *state) {
    struct state *s = state;
    thing_use(resource_of(&s->lease[0]));
    pnx_lease_discard(&s->lease[0]);
}

TEST_LIMIT(p7_nor_does_one_of_a_waiter_that_does_the_pools_work, 600) {
    x_explore(&(struct x_test){.name = "pool-deadline-threadless",
            .size = sizeof(struct state),
            .setup = one_taken_threadless,
            .thread = {discard_first, cycle_in_time, long_cycle},
            .final = end,
            .preemptions = FEWER,
            .stale = X_NONE,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- copies of a lease ---- */

extern struct pnx_a32 pnx__pool_tolerate_misuse;

static void copy_lease(struct state *s) {
    pnx_store(&pnx__pool_tolerate_misuse, 1, PNX_RELAXED, "pool_kit.tolerate");
    take(s, 0);
    s->lease[1] = s->lease[0];
}

static void one_taken_twice(void *state) {
    one(state);
    copy_lease(state);
}

static void give_copy(void *state) {
    struct state *s = state;
    pnx_lease_release(&s->lease[1]);
}

static void give_first_unused(void *state) {
    struct state *s = state;
    pnx_lease_release(&s->lease[0]);
}

static void discard_copy(void *state) {
    struct state *s = state;
    pnx_lease_discard(&s->lease[1]);
}

static void one_misuse(void *state) {
    struct state *s = state;
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(s->pool, &stats), 0);
    CHECK_EQ(stats.misuses, 1);
    one_is_left(s);
}

/* The waiter's grant is a later one: neither copy fits it. */
TEST_LIMIT(p9_of_two_copies_one_release_acts_and_no_later_lease_is_hurt, 600) {
    x_explore(&(struct x_test){.name = "pool-twice",
            .size = sizeof(struct state),
            .setup = one_taken_twice,
            .thread = {give_first_unused, give_copy, long_cycle},
            .final = one_misuse,
            .preemptions = MANY,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void short_cycle_then_give_first(void *state) {
    give_first_unused(state);
    short_cycle(state);
}

TEST_LIMIT(p9_nor_one_that_was_got_by_the_short_way, 600) {
    x_explore(&(struct x_test){.name = "pool-stale",
            .size = sizeof(struct state),
            .setup = one_taken_twice,
            .thread = {short_cycle_then_give_first, give_copy},
            .final = one_misuse,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .floor = 100});
}

static void one_taken_twice_threadless(void *state) {
    one_threadless(state);
    copy_lease(state);
}

TEST_LIMIT(p9_of_a_release_and_a_discard_one_acts, 600) {
    x_explore(&(struct x_test){.name = "pool-twice-discard",
            .size = sizeof(struct state),
            .setup = one_taken_twice_threadless,
            .thread = {give_first_unused, discard_copy, long_cycle},
            .final = one_misuse,
            .preemptions = MANY,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void begin_hooked(struct state *s, uint32_t max, uint32_t flags) {
    static const struct pnx_pool_manager manager = {.size = sizeof(manager),
            .connect = thing_connect,
            .close = thing_close,
            .reset = thing_reset};
    static const struct pnx_pool_hooks hooks = {
            .size = sizeof(hooks), .before_acquire = thing_hook, .after_release = thing_hook};
    struct pnx_pool_opts opts = base_opts(s, max);
    opts.hooks = &hooks;
    opts.flags = flags;
    begin_with(s, &manager, &opts, max);
}

static void one_hooked_taken_twice(void *state) {
    begin_hooked(state, 1, 0);
    copy_lease(state);
}

TEST_LIMIT(p9_of_two_releases_one_resets_the_resource, 600) {
    x_explore(&(struct x_test){.name = "pool-twice-reset",
            .size = sizeof(struct state),
            .setup = one_hooked_taken_twice,
            .thread = {give_first_unused, give_copy, long_cycle},
            .final = one_misuse,
            .preemptions = MANY,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void take_out(struct state *s, unsigned i) {
    struct thing *thing = pnx_lease_detach(&s->lease[i]);
    if (!thing)
        return;
    thing_use(thing);
    x_free(thing);
    pnx_fetch_add(&s->closed, 1, PNX_RELAXED, "pool_kit.detached");
}

static void detach_first(void *state) {
    take_out(state, 0);
}

TEST_LIMIT(p9_of_a_release_and_a_detach_one_acts, 600) {
    x_explore(&(struct x_test){.name = "pool-twice-detach",
            .size = sizeof(struct state),
            .setup = one_taken_twice_threadless,
            .thread = {detach_first, give_copy, long_cycle},
            .final = one_misuse,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- hooks ---- */

static void one_hooked(void *state) {
    begin_hooked(state, 1, 0);
}

/* Each return is spent first, and brought home after its reset: unless a waiter has locked the slot. */
TEST_LIMIT(p2_no_return_through_a_reset_is_missed, 600) {
    x_explore(&(struct x_test){.name = "pool-reset-hook",
            .size = sizeof(struct state),
            .setup = one_hooked,
            .thread = {short_cycle, short_cycle, long_cycle},
            .final = one_is_left,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 1000});
}

/* The slot's word is the same before and after, and what was done in between is seen. */
TEST_LIMIT(p3_a_claim_sees_what_an_examination_did, 600) {
    x_explore(&(struct x_test){.name = "pool-examine",
            .size = sizeof(struct state),
            .setup = one_hooked,
            .thread = {short_cycle, look_at_all, long_cycle},
            .final = one_is_left,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 1000});
}

static void one_refused(void *state) {
    begin_refusing(state, false);
}

/* Whoever had it comes back to the queue, before those who asked later. */
TEST_LIMIT(p2_a_waiter_whose_hook_refuses_a_resource_waits_for_another, 600) {
    x_explore(&(struct x_test){.name = "pool-refused",
            .size = sizeof(struct state),
            .setup = one_refused,
            .thread = {short_cycle, long_cycle, short_cycle},
            .final = one_is_left,
            .preemptions = FEWER,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static int thing_check(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)deadline;
    x_cell_write(&((struct thing *)resource)->checked, 1);
    return 0;
}

static void one_to_be_checked(void *state) {
    static const struct pnx_pool_manager manager = {.size = sizeof(manager),
            .connect = thing_connect,
            .close = thing_close,
            .check = thing_check};
    struct state *s = state;
    struct pnx_pool_opts opts = base_opts(s, 1);
    opts.check_after_ns = 1; /* always */
    opts.flags = PNX_POOL_NO_THREADS;
    begin_with(s, &manager, &opts, 1);
}

static void checked_cycle(void *state) {
    struct state *s = state;
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(s->pool, PNX_NEVER, NULL, &lease), 0);
    struct thing *thing = resource_of(&lease);
    CHECK_EQ(x_cell_read(&thing->checked), 1);
    thing_use(thing);
    pnx_lease_release(&lease);
}

TEST_LIMIT(an_examination_does_not_stand_for_a_check, 600) {
    x_explore(&(struct x_test){.name = "pool-examine-due",
            .size = sizeof(struct state),
            .setup = one_to_be_checked,
            .thread = {checked_cycle, look_at_all},
            .final = one_is_left,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .floor = 100});
}
