/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_latch.c - latches: the word that is taken without a lock against the queue of those who wait, and circles.
 *
 * In the explorer nobody spins for long and a waiter is in a hurry after one loss (share/latch.c), so that both
 * ways to hand a latch on are met.
 */
#include "explorer/explorer.h"
#include "share/latch.h"

#include <errno.h>

struct state {
    struct pnx_latch latch[3];
    struct x_cell guarded[3]; /* by the latch of the same number: a race when two own it */
    struct pnx_a32 refused;
    struct pnx_a32 late;
    struct pnx_a32 turns;
    /* Something that one thread does and others wait for, as the load of a cache. */
    struct pnx_mutex lock;
    struct pnx_thread *leader; /* the lock */
    struct pnx_thread *waiter; /* the lock */
    struct pnx_a32 done;
};

static int take(struct state *state, unsigned i, pnx_ns deadline) {
    int rc = pnx__latch_acquire(&state->latch[i], x_env(), deadline);
    if (rc == 0) {
        CHECK(pnx__latch_mine(&state->latch[i]));
        x_cell_write(&state->guarded[i], x_cell_read(&state->guarded[i]) + 1);
    }
    return rc;
}

static void give(struct state *state, unsigned i) {
    x_cell_write(&state->guarded[i], x_cell_read(&state->guarded[i]) + 1);
    pnx__latch_release(&state->latch[i]);
    CHECK(!pnx__latch_mine(&state->latch[i]));
}

static void one_turn(struct state *state, unsigned i) {
    CHECK_EQ(take(state, i, PNX_NEVER), 0);
    give(state, i);
    pnx_fetch_add(&state->turns, 1, PNX_RELAXED, "latch_suite.turn");
}

static void once(void *state) {
    one_turn(state, 0);
}

static void twice(void *state) {
    one_turn(state, 0);
    one_turn(state, 0);
}

static void hasty(void *arg) {
    struct state *state = arg;
    int rc = take(state, 0, PNX_MS);
    if (rc == 0)
        give(state, 0);
    else
        CHECK_EQ(rc, -ETIMEDOUT);
    pnx_fetch_add(rc ? &state->late : &state->turns, 1, PNX_RELAXED, "latch_suite.end");
}

static void only_tries(void *arg) {
    struct state *state = arg;
    int rc = take(state, 0, INT64_MIN);
    CHECK(rc == 0 || rc == -ETIMEDOUT);
    if (rc == 0)
        give(state, 0);
}

/* Nobody has it, and nobody waits. */
static void all_free(void *arg) {
    struct state *state = arg;
    for (unsigned i = 0; i < 3; i++) {
        if (take(state, i, PNX_NEVER) == 0)
            give(state, i);
    }
}

static void p1_final(void *arg) {
    struct state *state = arg;
    uint32_t turns = pnx_load(&state->turns, PNX_RELAXED, "latch_suite.turns");
    CHECK_EQ(x_cell_read(&state->guarded[0]), 2 * turns);
    all_free(arg);
}

TEST_LIMIT(p1_one_owner_at_a_time, 120) {
    x_explore(&(struct x_test){.name = "latch-owners",
            .size = sizeof(struct state),
            .thread = {twice, once, once},
            .final = p1_final,
            .preemptions = 2,
            .floor = 1000});
}

TEST_LIMIT(p1_a_waiter_that_gives_up_takes_no_wake_up_with_it, 120) {
    x_explore(&(struct x_test){.name = "latch-hasty",
            .size = sizeof(struct state),
            .thread = {once, hasty, once},
            .final = p1_final,
            .floor = 1000});
}

TEST_LIMIT(p1_who_only_tries_disturbs_nobody, 120) {
    x_explore(&(struct x_test){.name = "latch-tries",
            .size = sizeof(struct state),
            .thread = {once, only_tries, once},
            .final = all_free,
            .floor = 1000});
}

/* ---- P3 ---- */

static void ends_as_owner(void *arg) {
    CHECK_EQ(take(arg, 0, PNX_NEVER), 0);
    x_cell_write(&((struct state *)arg)->guarded[0], 100);
}

static void after_the_end(void *arg) {
    struct state *state = arg;
    CHECK_EQ(take(state, 0, PNX_NEVER), 0);
    give(state, 0);
    CHECK(x_cell_read(&state->guarded[0]) >= 102);
}

TEST_LIMIT(p3_who_ends_as_the_owner_keeps_nobody_waiting, 120) {
    x_explore(&(struct x_test){.name = "latch-ended",
            .size = sizeof(struct state),
            .thread = {ends_as_owner, once, once},
            .final = after_the_end,
            .floor = 1000});
}

static void ends_as_owner_beside(void *arg) {
    CHECK_EQ(take(arg, 1, PNX_NEVER), 0);
    CHECK_EQ(take(arg, 0, PNX_NEVER), 0);
}

static void other_once(void *state) {
    one_turn(state, 1);
}

TEST_LIMIT(p3_nor_those_who_wait_for_another_of_its_latches, 120) {
    x_explore(&(struct x_test){.name = "latch-ended-two",
            .size = sizeof(struct state),
            .thread = {ends_as_owner_beside, once, other_once},
            .final = all_free,
            .preemptions = 2,
            .floor = 500});
}

/* ---- P2 ---- */

/* Owns one, wants another. */
static void nested(struct state *state, unsigned outer, unsigned inner) {
    CHECK_EQ(take(state, outer, PNX_NEVER), 0);
    int rc = take(state, inner, PNX_NEVER);
    if (rc == 0)
        give(state, inner);
    else
        CHECK_EQ(rc, -EDEADLK);
    if (rc)
        pnx_fetch_add(&state->refused, 1, PNX_RELAXED, "latch_suite.refused");
    give(state, outer);
}

static void a_then_b(void *state) {
    nested(state, 0, 1);
}

static void b_then_a(void *state) {
    nested(state, 1, 0);
}

static void b_then_c(void *state) {
    nested(state, 1, 2);
}

static void c_then_a(void *state) {
    nested(state, 2, 0);
}

static void a_then_c(void *state) {
    nested(state, 0, 2);
}

static void b_alone(void *state) {
    one_turn(state, 1);
}

static void at_most_one_refused(void *arg) {
    struct state *state = arg;
    CHECK(pnx_load(&state->refused, PNX_RELAXED, "latch_suite.at_most") <= 1);
    all_free(arg);
}

static void none_refused(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->refused, PNX_RELAXED, "latch_suite.none"), 0);
    all_free(arg);
}

TEST_LIMIT(p2_two_that_want_each_others_do_not_hang, 120) {
    x_explore(&(struct x_test){.name = "latch-circle-2",
            .size = sizeof(struct state),
            .thread = {a_then_b, b_then_a},
            .final = at_most_one_refused,
            .floor = 100});
}

TEST_LIMIT(p2_nor_with_a_third_one_that_comes_between, 120) {
    x_explore(&(struct x_test){.name = "latch-circle-between",
            .size = sizeof(struct state),
            .thread = {a_then_b, b_then_a, b_alone},
            .final = at_most_one_refused,
            .preemptions = 2,
            .floor = 1000});
}

TEST_LIMIT(p2_a_circle_of_three_does_not_hang, 120) {
    x_explore(&(struct x_test){.name = "latch-circle-3",
            .size = sizeof(struct state),
            .thread = {a_then_b, b_then_c, c_then_a},
            .final = at_most_one_refused,
            .preemptions = 3,
            .floor = 1000});
}

TEST_LIMIT(p2_nobody_is_refused_who_closes_no_circle, 120) {
    x_explore(&(struct x_test){.name = "latch-no-circle",
            .size = sizeof(struct state),
            .thread = {a_then_b, b_then_c, a_then_c},
            .final = none_refused,
            .preemptions = 3,
            .floor = 1000});
}

static void twice_the_same(void *arg) {
    struct state *state = arg;
    CHECK_EQ(take(state, 0, PNX_NEVER), 0);
    CHECK_EQ(pnx__latch_acquire(&state->latch[0], x_env(), PNX_NEVER), -EDEADLK);
    give(state, 0);
}

TEST_LIMIT(p2_an_owner_that_asks_again_is_refused, 120) {
    x_explore(&(struct x_test){.name = "latch-self",
            .size = sizeof(struct state),
            .thread = {twice_the_same, once, twice_the_same},
            .final = all_free,
            .floor = 1000});
}

/* ---- waits for no latch ---- */

static void set_up_load(void *arg) {
    struct state *state = arg;
    pnx__mutex_init(&state->lock, PNX_RANK_CACHE);
}

static void note(struct state *state, int rc) {
    CHECK(rc == 0 || rc == -EDEADLK);
    if (rc)
        pnx_fetch_add(&state->refused, 1, PNX_RELAXED, "latch_suite.refused_wait");
}

/* Does it, and takes a latch meanwhile. */
static void lead_and_take(void *arg) {
    struct state *state = arg;
    pnx__mutex_lock(&state->lock);
    state->leader = pnx__thread();
    pnx__mutex_unlock(&state->lock);
    int rc = take(state, 0, PNX_NEVER);
    note(state, rc);
    if (rc == 0)
        give(state, 0);
    pnx__mutex_lock(&state->lock);
    state->leader = NULL;
    if (state->waiter)
        pnx__latch_awaited(state->waiter);
    pnx__mutex_unlock(&state->lock);
    pnx_store(&state->done, 1, PNX_RELEASE, "latch_suite.done");
    pnx__futex_wake(&state->done, UINT32_MAX);
}

/* Waits for it, if it is being done, and owns the latch meanwhile. */
static void take_and_join(void *arg) {
    struct state *state = arg;
    CHECK_EQ(take(state, 0, PNX_NEVER), 0);
    pnx__mutex_lock(&state->lock);
    int rc = state->leader ? pnx__latch_await(state->leader, true) : -ENOENT;
    if (rc == 0)
        state->waiter = pnx__thread();
    pnx__mutex_unlock(&state->lock);
    if (rc != -ENOENT)
        note(state, rc);
    while (rc == 0 && pnx_load(&state->done, PNX_ACQUIRE, "latch_suite.join") == 0)
        (void)pnx__futex_wait(&state->done, 0, PNX_NEVER);
    give(state, 0);
}

/* Looks at the chain of the others, again and again, and is on no circle. */
static void only_asks(void *arg) {
    struct state *state = arg;
    pnx__mutex_lock(&state->lock);
    if (state->leader)
        CHECK_EQ(pnx__latch_await(state->leader, false), 0);
    pnx__mutex_unlock(&state->lock);
    one_turn(state, 0);
}

TEST_LIMIT(p2_a_circle_over_a_latch_and_another_wait_does_not_hang, 120) {
    x_explore(&(struct x_test){.name = "latch-await",
            .size = sizeof(struct state),
            .setup = set_up_load,
            .thread = {lead_and_take, take_and_join, only_asks},
            .final = at_most_one_refused,
            .preemptions = test_long() ? 3 : 2,
            .floor = 1000});
}
