/* SPDX-License-Identifier: Apache-2.0 */
/* test_pool_order.c - what the benchmark counts as a grant out of turn, and what not. */
#include "harness/harness.h"

#include "pool_order.h"

#include <stdlib.h>

#define US 1000

/* A turn, in microseconds. */
#define TURN(asked_us, got_us, back_us) \
    { .asked = (asked_us)*US, .got = (got_us)*US, .back = (back_us)*US }

/* In a pool of one connection X has it first, then either Y, who asked before X asked again, or X again. */
static uint64_t count(struct pool_turn again, struct pool_turn y) {
    struct pool_turn x[] = {TURN(0, 1, 500), again};
    struct pool_log logs[] = {{x, 2}, {&y, 1}};
    return pool_order_inversions(logs, 2, 1);
}

TEST(who_asks_later_and_is_served_first_is_out_of_turn) {
    CHECK_EQ(
            count((struct pool_turn)TURN(501, 502, 600), (struct pool_turn)TURN(100, 700, 800)), 1);
}

TEST(who_is_served_in_turn_is_not_counted) {
    CHECK_EQ(
            count((struct pool_turn)TURN(501, 700, 800), (struct pool_turn)TURN(100, 550, 600)), 0);
}

TEST(who_asked_hardly_earlier_may_not_have_waited_yet) {
    CHECK_EQ(
            count((struct pool_turn)TURN(501, 502, 600), (struct pool_turn)TURN(490, 700, 800)), 0);
    int64_t well_before = 501 - POOL_ORDER_MARGIN_NS / US - 1;
    CHECK_EQ(count((struct pool_turn)TURN(501, 502, 600),
                     (struct pool_turn)TURN(well_before, 700, 800)),
            1);
}

TEST(who_lost_its_cpu_may_not_have_waited_yet) {
    struct pool_turn y = TURN(100, 700, 800);
    y.unsure = true;
    CHECK_EQ(count((struct pool_turn)TURN(501, 502, 600), y), 0);
}

TEST(a_free_connection_may_have_been_granted_to_whoever_has_not_woken_up_yet) {
    struct pool_turn x[] = {TURN(0, 1, 500), TURN(501, 502, 600)}, y = TURN(100, 700, 800);
    struct pool_turn z = TURN(100, 710, 800);
    struct pool_log logs[] = {{x, 2}, {&y, 1}, {&z, 1}};
    CHECK_EQ(pool_order_inversions(logs, 2, 2), 0);
    CHECK_EQ(pool_order_inversions(logs, 3, 2), 1); /* but not to both */
}

TEST(no_turns_are_in_order) {
    struct pool_log logs[2] = {{NULL, 0}, {NULL, 0}};
    CHECK_EQ(pool_order_inversions(logs, 2, 1), 0);
}

/* ---- whole pools, in made-up time ---- */

#define THREADS 12u
#define SIZE    4u
#define TURNS   2000u
#define NEVER   INT64_MAX

enum step { ASK, WAIT, GET, GIVE, RELEASE };

struct actor {
    enum step step;
    int64_t at; /* when it takes the step */
};

static struct {
    struct actor actor[THREADS];
    struct pool_turn turns[THREADS][TURNS];
    struct pool_log logs[THREADS];
    unsigned queue[THREADS];
    unsigned waiting, free_ones;
    uint64_t random;
    bool strict;
} sim;

static int64_t some(int64_t most) {
    return (int64_t)(test_random(&sim.random) % (uint64_t)most);
}

/* Grants to i, who finds out some time later. */
static void grant(unsigned i, int64_t now) {
    sim.actor[i] = (struct actor){GET, now + some(200 * US)};
}

/* A connection came home: to the first, or in a pool that is not strict to the last who asked. */
static void came_home(int64_t now) {
    if (sim.waiting == 0) {
        sim.free_ones++;
        return;
    }
    unsigned first = sim.queue[0], last = sim.queue[--sim.waiting];
    if (!sim.strict) {
        grant(last, now);
        return;
    }
    grant(first, now);
    for (unsigned i = 0; i < sim.waiting; i++)
        sim.queue[i] = sim.queue[i + 1];
}

static void take_step(unsigned i) {
    struct actor *self = &sim.actor[i];
    struct pool_log *log = &sim.logs[i];
    struct pool_turn *turn = &log->turns[log->n];
    int64_t now = self->at;
    switch (self->step) {
    case ASK:
        turn->asked = now;
        *self = (struct actor){WAIT, now + some(POOL_ORDER_MARGIN_NS)};
        break;
    case WAIT:
        *self = (struct actor){GET, NEVER};
        if (sim.free_ones > 0) {
            sim.free_ones--;
            grant(i, now);
        } else {
            sim.queue[sim.waiting++] = i;
        }
        break;
    case GET:
        turn->got = now;
        *self = (struct actor){GIVE, now + some(50 * US)};
        break;
    case GIVE:
        turn->back = now;
        *self = (struct actor){RELEASE, now + some(5 * US)};
        break;
    case RELEASE:
        came_home(now);
        log->n++;
        *self = (struct actor){ASK, log->n < TURNS ? now + some(20 * US) : NEVER};
        break;
    }
}

static uint64_t simulate(bool strict) {
    sim.strict = strict;
    sim.free_ones = SIZE;
    sim.random = test_seed();
    for (unsigned i = 0; i < THREADS; i++) {
        sim.actor[i] = (struct actor){ASK, some(20 * US)};
        sim.logs[i] = (struct pool_log){sim.turns[i], 0};
    }
    for (;;) {
        unsigned next = 0;
        for (unsigned i = 1; i < THREADS; i++)
            next = sim.actor[i].at < sim.actor[next].at ? i : next;
        if (sim.actor[next].at == NEVER)
            break;
        take_step(next);
    }
    for (unsigned i = 0; i < THREADS; i++)
        CHECK_EQ(sim.logs[i].n, TURNS);
    return pool_order_inversions(sim.logs, THREADS, SIZE);
}

TEST(a_strict_pool_has_no_inversion_however_late_its_callers_wake) {
    CHECK_EQ(simulate(true), 0);
}

TEST(a_pool_that_serves_the_last_first_has_many) {
    uint64_t inversions = simulate(false);
    CHECK_MSG(inversions > TURNS, "%llu of %u", (unsigned long long)inversions, THREADS * TURNS);
}
