/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pool_ops.c - what is done to a pool in use, under every interleaving with the short way: reset, pause, resize,
 * close, release; and requests, which are cancelled, timed out and delivered while others give back.
 */
#include "explorer/pool_kit.h"

#include "os/notify.h"

#include <poll.h>

/* ---- reset ---- */

static void fresh_cycle(void *state) {
    struct state *s = state;
    struct pnx_lease lease = {0};
    bool told = is_told(s);
    CHECK_EQ(pnx_pool_acquire(s->pool, PNX_NEVER, NULL, &lease), 0);
    struct thing *thing = resource_of(&lease);
    thing_use(thing);
    CHECK(!told || thing->number > 1);
    pnx_lease_release(&lease);
}

static void short_fresh_cycle(void *state) {
    remember(state, 0);
    fresh_cycle(state);
}

static void reset_now(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_pool_reset(s->pool, PNX_POOL_RESET_IDLE), 0);
    tell(s);
}

static void reset_lazily(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_pool_reset(s->pool, PNX_POOL_RESET_LAZY), 0);
    tell(s);
}

TEST_LIMIT(p12_after_a_reset_nothing_old_is_claimed, 600) {
    x_explore(&(struct x_test){.name = "pool-reset",
            .size = sizeof(struct state),
            .setup = one_threadless,
            .thread = {short_fresh_cycle, fresh_cycle, reset_now},
            .final = end,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 1000});
}

TEST_LIMIT(p12_nor_after_a_lazy_one, 600) {
    x_explore(&(struct x_test){.name = "pool-reset-lazy",
            .size = sizeof(struct state),
            .setup = one_threadless,
            .thread = {short_fresh_cycle, short_fresh_cycle, reset_lazily},
            .final = end,
            .preemptions = MANY,
            .stale = STALE,
            .random = RANDOM,
            .floor = 1000});
}

/* A holder who found out that all are old; the resource goes, and whoever is told gets another. */
static void stale_all(void *state) {
    struct state *s = state;
    thing_use(resource_of(&s->lease[0]));
    pnx_lease_stale_all(&s->lease[0]);
    tell(s);
}

TEST_LIMIT(p12_nor_after_a_holder_has_said_that_all_are_old, 600) {
    x_explore(&(struct x_test){.name = "pool-stale-all",
            .size = sizeof(struct state),
            .setup = one_taken_threadless,
            .thread = {stale_all, short_fresh_cycle, fresh_cycle},
            .final = end,
            .preemptions = FEWER,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- pause ---- */

/* Once a pause has said that all are home, they are the operator's. */
static void pause_and_use(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_pool_pause(s->pool, PNX_NEVER), 0);
    for (int i = 0; i < 2; i++)
        thing_use(pnx_load(&s->slots[i]->resource, PNX_RELAXED, "pool_kit.paused"));
    CHECK_EQ(pnx_pool_resume(s->pool), 0);
}

TEST_LIMIT(a_pause_sees_each_return_and_no_claim_gets_past_it, 600) {
    x_explore(&(struct x_test){.name = "pool-pause",
            .size = sizeof(struct state),
            .setup = two,
            .thread = {short_cycle, long_cycle, pause_and_use},
            .final = end,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- resize ---- */

static void resize_to_one(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_pool_resize(s->pool, 1, NULL), 0);
}

static void one_is_closed(void *state) {
    struct state *s = state;
    CHECK_EQ(s->closed.v, 1);
    one_is_left(s);
}

TEST_LIMIT(p1_a_resize_to_less_gets_hold_of_the_excess, 600) {
    x_explore(&(struct x_test){.name = "pool-resize",
            .size = sizeof(struct state),
            .setup = two_threadless,
            .thread = {short_cycle, short_cycle_other, resize_to_one},
            .final = one_is_closed,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void resize_to_more(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_pool_resize(s->pool, 3, NULL), 0);
}

static void read_numbers(void *state) {
    struct state *s = state;
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(s->pool, &stats), 0);
    CHECK(stats.idle <= 1);
}

TEST_LIMIT(new_slots_are_there_for_those_who_walk_them_without_the_lock, 600) {
    x_explore(&(struct x_test){.name = "pool-grow",
            .size = sizeof(struct state),
            .setup = one,
            .thread = {resize_to_more, read_numbers, look_at_all},
            .final = end,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 100});
}

/* ---- close ---- */

/* Nothing is claimed once a close has returned. */
static void cycle_until_closed(void *state) {
    struct state *s = state;
    struct pnx_lease lease = {0};
    bool told = is_told(s);
    int rc = pnx_pool_acquire(s->pool, PNX_NEVER, NULL, &lease);
    CHECK(rc == -ESHUTDOWN || (rc == 0 && !told));
    if (rc)
        return;
    thing_use(resource_of(&lease));
    pnx_lease_release(&lease);
}

static void short_cycle_until_closed(void *state) {
    remember(state, 0);
    cycle_until_closed(state);
}

static void close_all(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_pool_close(s->pool, PNX_NEVER), 0);
    /* what was closed before is seen: the last of it came by the lock */
    CHECK_EQ(pnx_load(&s->closed, PNX_RELAXED, "pool_kit.all_closed"),
            pnx_load(&s->made, PNX_RELAXED, "pool_kit.all_made"));
    tell(s);
}

TEST_LIMIT(p4_a_close_waits_for_what_is_out_and_nothing_is_claimed_after_it, 600) {
    x_explore(&(struct x_test){.name = "pool-close",
            .size = sizeof(struct state),
            .setup = one_threadless,
            .thread = {short_cycle_until_closed, cycle_until_closed, close_all},
            .final = end,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void two_taken(void *state) {
    two_threadless(state);
    take(state, 0);
    take(state, 1);
}

static void release_pool(void *state) {
    struct state *s = state;
    pnx_pool_release(&s->pool);
}

static void all_closed(void *state) {
    struct state *s = state;
    CHECK_EQ(s->made.v, s->closed.v);
}

/* The memory goes with the last of three, once, and a release on the short way has touched it for the last time before. */
TEST_LIMIT(p4_the_last_one_home_frees_a_released_pool, 600) {
    x_explore(&(struct x_test){.name = "pool-release",
            .size = sizeof(struct state),
            .setup = two_taken,
            .thread = {give_first, give_second, release_pool},
            .final = all_closed,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void empty(void *state) {
    struct state *s = state;
    struct pnx_pool_opts opts = base_opts(s, 1);
    begin_with(s, things(), &opts, 0);
}

/* With threads of the pool's own, which connect and close, and end with it. */
TEST_LIMIT(p4_so_does_one_of_a_pool_with_threads, 600) {
    x_explore(&(struct x_test){.name = "pool-threads",
            .size = sizeof(struct state),
            .setup = empty,
            .thread = {cycle_until_closed, close_all},
            .final = end,
            .preemptions = 1, /* two take minutes */
            .stale = X_NONE,
            .timeouts = X_NONE,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- requests ---- */

static struct state *state_of(struct pnx_pool_request *request, unsigned *ret_i) {
    struct state *s = request->arg;
    *ret_i = (unsigned)(request - s->request);
    return s;
}

static void called(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    unsigned i;
    struct state *s = state_of(request, &i);
    CHECK_EQ(code == 0, lease.slot != NULL);
    CHECK_EQ(code == 0, err == NULL);
    CHECK(code == 0 || code == -ETIMEDOUT || (code == -ECANCELED && s->refuses));
    CHECK_EQ(pnx_fetch_add(&s->called[i], 1, PNX_RELAXED, "pool_kit.called"), 0);
    if (code)
        return;
    thing_use(resource_of(&lease));
    pnx_lease_release(&lease);
}

static void ask(struct state *s, unsigned i, pnx_ns timeout) {
    s->request[i] = (struct pnx_pool_request){
            .done = called, .arg = s, .inbox = s->inbox, .timeout = timeout};
    CHECK_EQ(pnx_pool_acquire_async(s->pool, &s->request[i]), 0);
}

static void one_asked(void *state) {
    struct state *s = state;
    one_taken(s);
    ask(s, 0, PNX_NEVER);
}

static void cancel_first(void *state) {
    struct state *s = state;
    s->cancelled = pnx_pool_cancel(&s->request[0]);
    CHECK(s->cancelled == 0 || s->cancelled == -EALREADY);
}

/* Its outcome came once: by its callback, or by the cancel. */
static void once(struct state *s) {
    CHECK_EQ(s->called[0].v + (s->cancelled == 0), 1);
    finish(s);
}

static void once_and_end(void *state) {
    once(state);
    clean_up(state);
}

TEST_LIMIT(p13_a_request_is_called_or_cancelled_once, 600) {
    x_explore(&(struct x_test){.name = "pool-request",
            .size = sizeof(struct state),
            .setup = one_asked,
            .thread = {give_first, cancel_first, long_cycle},
            .final = once_and_end,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void one_asked_in_time(void *state) {
    struct state *s = state;
    one_taken_threadless(s);
    ask(s, 0, PNX_MS);
}

static void tick_late(void *state) {
    struct state *s = state;
    (void)pnx_pool_tick(s->pool, pnx_now() + PNX_SEC);
}

TEST_LIMIT(p13_also_when_its_deadline_comes, 600) {
    x_explore(&(struct x_test){.name = "pool-request-late",
            .size = sizeof(struct state),
            .setup = one_asked_in_time,
            .thread = {give_first, cancel_first, tick_late},
            .final = once_and_end,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

static void one_asked_that_is_refused(void *state) {
    struct state *s = state;
    begin_refusing(s, true);
    ask(s, 0, PNX_NEVER);
}

static void tick(void *state) {
    struct state *s = state;
    (void)pnx_pool_tick(s->pool, pnx_now());
}

/* Whoever was refused may wait still, for a connect that nobody was there to make. */
static void tick_and_end(void *state) {
    struct state *s = state;
    tick(s);
    once(s);
    clean_up(s);
}

TEST_LIMIT(p13_also_when_a_hook_sends_it_back_to_the_queue, 600) {
    x_explore(&(struct x_test){.name = "pool-request-refused",
            .size = sizeof(struct state),
            .setup = one_asked_that_is_refused,
            .thread = {give_first, cancel_first, tick},
            .final = tick_and_end,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 100});
}

static void ask_short(void *state) {
    remember(state, 0);
    ask(state, x_self() - 1, PNX_NEVER);
}

static void both_called(void *state) {
    struct state *s = state;
    CHECK_EQ(s->called[0].v, 1);
    CHECK_EQ(s->called[1].v, 1);
    end(s);
}

TEST_LIMIT(p13_requests_by_the_short_way_beside_a_waiter, 600) {
    x_explore(&(struct x_test){.name = "pool-request-short",
            .size = sizeof(struct state),
            .setup = one,
            .thread = {ask_short, ask_short, long_cycle},
            .final = both_called,
            .preemptions = MANY,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- inboxes ---- */

static void one_asked_by_inbox(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_inbox_create(x_env(), NULL, &s->inbox), 0);
    one_asked(s);
}

static void two_asked_by_inbox(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_inbox_create(x_env(), NULL, &s->inbox), 0);
    two(s);
    take(s, 0);
    take(s, 1);
    ask(s, 0, PNX_NEVER);
    ask(s, 1, PNX_NEVER);
}

/* I1: readable exactly while something waits; looked at when all is quiet. */
static void dispatch_the_rest(struct state *s) {
    struct pollfd poll_fd = {.fd = pnx_inbox_fd(s->inbox), .events = POLLIN};
    bool readable = poll(&poll_fd, 1, 0) == 1;
    int n = pnx_inbox_dispatch(s->inbox, 0);
    CHECK(n == 0 || readable);
}

static void dispatch(void *state) {
    struct state *s = state;
    for (int i = 0; i < 2; i++)
        CHECK(pnx_inbox_dispatch(s->inbox, 1) >= 0);
}

static uint32_t calls(struct state *s, unsigned i) {
    return pnx_load(&s->called[i], PNX_RELAXED, "pool_kit.calls"); /* this thread's own, if any */
}

/* No request is under way any more when its callback has run: the inbox goes, perhaps with its putter still inside. */
static void dispatch_and_release(void *state) {
    struct state *s = state;
    dispatch(s);
    if (calls(s, 0) && calls(s, 1))
        pnx_inbox_release(&s->inbox);
}

static void once_and_end_inbox(void *state) {
    struct state *s = state;
    dispatch_the_rest(s);
    once(s);
    pnx_inbox_release(&s->inbox);
    clean_up(s);
}

static void both_called_inbox(void *state) {
    struct state *s = state;
    if (s->inbox)
        dispatch_the_rest(s);
    pnx_inbox_release(&s->inbox);
    both_called(s);
}

TEST_LIMIT(p13_a_put_against_a_dispatch_and_a_cancel, 600) {
    x_explore(&(struct x_test){.name = "pool-inbox",
            .size = sizeof(struct state),
            .setup = one_asked_by_inbox,
            .thread = {give_first, dispatch, cancel_first},
            .final = once_and_end_inbox,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 500});
}

TEST_LIMIT(p13_two_puts_against_a_dispatch_and_the_release_of_the_inbox, 600) {
    x_explore(&(struct x_test){.name = "pool-inbox-release",
            .size = sizeof(struct state),
            .setup = two_asked_by_inbox,
            .thread = {give_first, give_second, dispatch_and_release},
            .final = both_called_inbox,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .random = RANDOM,
            .floor = 1000});
}
