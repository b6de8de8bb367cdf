/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pool.c - the pool's short way against its slow one: claims and returns without the lock, beside waiters who
 * lock all slots, operators who close, pause, reset and resize, and leases that are given back twice.
 */
#include "explorer/pool_suite.h"

/* ---- waiters ---- */

static void one_resource(void *state) {
    begin(state, 1, 0);
}

static void one_resource_threadless(void *state) {
    begin(state, 1, PNX_POOL_NO_THREADS);
}

static void one_is_left(void *state) {
    struct state *s = state;
    finish_with(s, 1);
    clean_up(s);
}

/* Whoever spins, sleeps or has just locked all slots: a return is seen, or comes to the lock. */
TEST_LIMIT(p2_no_return_is_missed_by_a_waiter_that_spins_or_sleeps, 600) {
    x_explore(&(struct x_test){.name = "pool-wait",
            .size = sizeof(struct state),
            .setup = one_resource,
            .thread = {short_cycle, short_cycle, long_cycle},
            .final = one_is_left,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

TEST_LIMIT(p2_nor_by_one_that_does_the_pools_work, 600) {
    x_explore(&(struct x_test){.name = "pool-wait-threadless",
            .size = sizeof(struct state),
            .setup = one_resource_threadless,
            .thread = {short_cycle, short_cycle, long_cycle},
            .final = one_is_left,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}
