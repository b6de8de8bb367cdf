/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_lock.c - biased locks (os/lock.h): who gets in by the bias against who takes it away.
 *
 * The lock is patient for one turn only here, so that every thread that has given the word back has the bias.
 */
#include "explorer/explorer.h"
#include "os/lock.h"

struct state {
    struct pnx_lock lock[2];
    struct x_cell guarded[2]; /* by the lock of the same number: a race when two are in */
    struct pnx_a32 turns;
};

static void setup(void *arg) {
    struct state *state = arg;
    for (int i = 0; i < 2; i++) {
        pnx__lock_init(&state->lock[i], PNX_RANK_REGISTRY);
        state->lock[i].patience = 1;
    }
}

static void touch(struct state *state, unsigned i) {
    x_cell_write(&state->guarded[i], x_cell_read(&state->guarded[i]) + 1);
}

static void turn(struct state *state, unsigned i) {
    pnx__thread(); /* so that PNX_SELF is somebody */
    pnx__lock_raw(&state->lock[i]);
    touch(state, i);
    state->lock[i].patience = 1; /* guarded as well */
    pnx__unlock_raw(&state->lock[i]);
    pnx_fetch_add(&state->turns, 1, PNX_RELAXED, "lock_suite.turn");
}

static void once(void *state) {
    turn(state, 0);
}

static void twice(void *state) {
    turn(state, 0);
    turn(state, 0); /* by the bias, if nobody else has been there */
}

static void thrice(void *state) {
    twice(state);
    turn(state, 0);
}

static void final(void *arg) {
    struct state *state = arg;
    uint32_t turns = pnx_load(&state->turns, PNX_RELAXED, "lock_suite.turns");
    CHECK_EQ(x_cell_read(&state->guarded[0]) + x_cell_read(&state->guarded[1]), turns);
    CHECK_EQ(pnx_load(&state->lock[0].word, PNX_RELAXED, "lock_suite.word"), 0);
    CHECK_EQ(pnx_load(&state->lock[0].waiters, PNX_RELAXED, "lock_suite.waiters"), 0);
}

TEST_LIMIT(p1_one_at_a_time_two_threads_that_come_back, 120) {
    x_explore(&(struct x_test){.name = "lock-two",
            .size = sizeof(struct state),
            .setup = setup,
            .thread = {thrice, twice},
            .final = final,
            .floor = 1000});
}

TEST_LIMIT(p1_one_at_a_time_a_bias_that_goes_round, 300) {
    x_explore(&(struct x_test){.name = "lock-three",
            .size = sizeof(struct state),
            .setup = setup,
            .thread = {twice, once, twice},
            .final = final,
            .preemptions = 2,
            .stale = 1,
            .floor = 1000});
}

TEST_LIMIT(p1_without_an_asymmetric_barrier_it_is_never_biased, 120) {
    x_explore(&(struct x_test){.name = "lock-fences",
            .size = sizeof(struct state),
            .setup = setup,
            .thread = {twice, once, once},
            .final = final,
            .preemptions = 2,
            .fences = true,
            .floor = 1000});
}

static void tries(void *arg) {
    struct state *state = arg;
    pnx__thread();
    for (int i = 0; i < 2; i++) {
        if (pnx__trylock_raw(&state->lock[0])) {
            touch(state, 0);
            pnx_fetch_add(&state->turns, 1, PNX_RELAXED, "lock_suite.tried");
            pnx__unlock_raw(&state->lock[0]);
        }
    }
}

TEST_LIMIT(p1_who_only_tries_is_alone_too, 120) {
    x_explore(&(struct x_test){.name = "lock-try",
            .size = sizeof(struct state),
            .setup = setup,
            .thread = {twice, tries},
            .final = final,
            .floor = 1000});
}

/* The inner lock is taken by its word, though it may be biased to this thread. */
static void nested(void *arg) {
    struct state *state = arg;
    turn(state, 1);
    turn(state, 0);
    pnx__lock_raw(&state->lock[0]);
    pnx__lock_raw(&state->lock[1]);
    touch(state, 0);
    touch(state, 1);
    pnx__unlock_raw(&state->lock[1]);
    pnx__unlock_raw(&state->lock[0]);
    pnx_fetch_add(&state->turns, 2, PNX_RELAXED, "lock_suite.nested");
}

static void other(void *state) {
    turn(state, 1);
}

TEST_LIMIT(a_thread_may_be_in_two_at_once, 120) {
    x_explore(&(struct x_test){.name = "lock-nested",
            .size = sizeof(struct state),
            .setup = setup,
            .thread = {nested, other},
            .final = final,
            .preemptions = 2,
            .floor = 1000});
}
