/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Managers that never block: start, poll, cancel, and the ends of operations from anywhere.
 */
#include "harness/harness.h"
#include "pool/agent.h"
#include "pool/ask.h"

#include <patinox/pool.h>

static struct agent *agent;
static struct test_env te;

static void set_up(void) {
    test_env_init(&te);
    agent = agent_new();
}

/* With the virtual clock. */
static void set_up_loop(void) {
    set_up();
    test_env_virtual(&te, PNX_SEC);
}

#define OPTS(...) PNX_POOL_OPTS(.name = "db", .ctx = agent, .env = &te.env, __VA_ARGS__)
#define LOOP(...) OPTS(.flags = PNX_POOL_NO_THREADS, __VA_ARGS__)

static void tear_down(struct pnx_pool *pool) {
    MOCK_END(pool);
    CHECK_EQ(agent->live, 0);
    CHECK_EQ(agent->under_way, 0);
    CHECK_EQ(agent->closed, agent->made);
    test_env_check_empty(&te);
    free(agent);
}

static void all(enum agent_way way) {
    pthread_mutex_lock(&agent->lock);
    for (int kind = 0; kind < 3; kind++)
        agent->ways[kind] = way;
    pthread_mutex_unlock(&agent->lock);
}

static void await_under_way(int n) {
    pnx_ns until = pnx_now() + 30 * PNX_SEC;
    while (agent_read(agent, &agent->under_way) < n) {
        CHECK_MSG(pnx_now() < until, "waited 30 s for %d operations", n);
        sched_yield();
    }
}

/* ---- ends ---- */

static void live_through(struct pnx_pool *pool) {
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC); /* connect */
    pnx_lease_release(&lease);
    test_env_advance(&te, PNX_MS);
    lease = mock_acquire(pool, 30 * PNX_SEC); /* check */
    pnx_lease_discard(&lease);                /* close */
    lease = mock_acquire(pool, 30 * PNX_SEC);
    CHECK_EQ(mock_of(&lease)->id, 1);
    pnx_lease_release(&lease);
    CHECK_EQ(mock_stats(pool).checks, 1);
    CHECK_EQ(mock_stats(pool).connects, 2);
}

TEST(operations_may_be_done_when_start_returns) {
    for (int threads = 0; threads < 2; threads++) {
        set_up();
        struct pnx_pool *pool =
                mock_pool(&agent_manager, threads ? OPTS(.max = 1, .check_after_ns = 1)
                                                  : LOOP(.max = 1, .check_after_ns = 1));
        live_through(pool);
        CHECK_EQ(agent_read(agent, &agent->polls), 0);
        tear_down(pool);
    }
}

TEST(operations_may_be_ended_before_start_has_returned_and_stay_valid_until_then) {
    for (int i = 0; i < 4; i++) {
        set_up();
        all(i % 2 ? AGENT_EARLY : AGENT_HERE);
        struct pnx_pool *pool = mock_pool(&agent_manager,
                i < 2 ? OPTS(.max = 1, .check_after_ns = 1) : LOOP(.max = 1, .check_after_ns = 1));
        live_through(pool);
        tear_down(pool);
    }
}

/* A thread of the user's that ends what is under way. */
struct ender {
    pthread_t thread;
    bool stop; /* atomic */
};

static void *end_all(void *arg) {
    struct ender *ender = arg;
    while (!__atomic_load_n(&ender->stop, __ATOMIC_RELAXED)) {
        struct pnx_pool_op *op = agent_first(agent);
        if (op)
            agent_end(agent, op, 0);
        else
            sched_yield();
    }
    return NULL;
}

static void start_ender(struct ender *ender) {
    *ender = (struct ender){0};
    CHECK(pthread_create(&ender->thread, NULL, end_all, ender) == 0);
}

static void stop_ender(struct ender *ender) {
    __atomic_store_n(&ender->stop, true, __ATOMIC_RELAXED);
    pthread_join(ender->thread, NULL);
}

TEST(operations_may_be_ended_later_by_another_thread_and_a_close_waits_for_that) {
    for (int threads = 0; threads < 2; threads++) {
        set_up();
        struct ender ender;
        all(AGENT_LATER);
        struct pnx_pool *pool =
                mock_pool(&agent_manager, threads ? OPTS(.max = 1, .check_after_ns = 1)
                                                  : LOOP(.max = 1, .check_after_ns = 1));
        start_ender(&ender);
        live_through(pool);
        CHECK_EQ(pnx_pool_close(pool, 30 * PNX_SEC), 0);
        stop_ender(&ender);
        tear_down(pool);
    }
}

TEST(operations_may_be_ended_by_the_polls_of_ticks) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1, .check_after_ns = 1));
    struct ask ask = {0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    pnx_pool_tick(pool, te.now); /* starts it, and polls once */
    CHECK_EQ(agent->polls, 1);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->polls, 2);
    CHECK_EQ(mock_stats(pool).connecting, 1);
    agent_make_ready(agent, agent_first(agent), 0);
    CHECK_EQ(ask_calls(&ask), 0);
    pnx_pool_tick(pool, te.now);
    ask_check_granted(&ask);
    ask_release(&ask);
    test_env_advance(&te, PNX_MS);
    ask = (struct ask){0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).checking, 1);
    agent_make_ready(agent, agent_first(agent), 0);
    pnx_pool_tick(pool, te.now);
    ask_check_granted(&ask);
    ask_release(&ask);
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    CHECK_EQ(pnx_pool_close_poll(pool), 1);
    CHECK_EQ(agent->under_way, 1);
    agent_make_ready(agent, agent_first(agent), 0);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_pool_close_poll(pool), 0);
    tear_down(pool);
}

TEST(p8_a_tick_starts_what_the_end_of_an_operation_has_made_possible) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 3, .max_connecting = 1));
    struct ask asks[3] = {0};
    for (int i = 0; i < 3; i++)
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    for (int i = 0; i < 3; i++) {
        pnx_pool_tick(pool, te.now);
        CHECK_EQ(agent->under_way, 1); /* the next connect, without another tick */
        agent_make_ready(agent, agent_first(agent), 0);
    }
    pnx_pool_tick(pool, te.now);
    all(AGENT_NOW);
    for (int i = 0; i < 3; i++) {
        ask_check_granted(&asks[i]);
        ask_release(&asks[i]);
    }
    tear_down(pool);
}

TEST(op_poll_asks_for_one_operation_that_has_news) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 2));
    struct ask asks[2] = {0};
    for (int i = 0; i < 2; i++)
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->under_way, 2);
    int polls = agent->polls;
    struct pnx_pool_op *op = agent_first(agent);
    pnx_pool_op_poll(op);
    CHECK_EQ(agent->polls, polls + 1);
    agent_make_ready(agent, op, 0);
    pnx_pool_op_poll(op);
    ask_check_granted(&asks[0]);
    CHECK_EQ(agent->under_way, 1);
    pnx_pool_op_poll(op); /* it is over: nothing */
    CHECK_EQ(agent->polls, polls + 2);
    pnx_pool_op_poll(NULL);
    pnx_pool_op_done(NULL, 0, NULL, NULL);
    CHECK(agent_end(agent, agent_first(agent), 0));
    ask_check_granted(&asks[1]);
    all(AGENT_NOW);
    for (int i = 0; i < 2; i++)
        ask_release(&asks[i]);
    tear_down(pool);
}

/* ---- poll, start and done at the same time ---- */

static void poll_here(struct agent *a, struct pnx_pool_op *op) {
    pnx_pool_op_poll(op); /* for when this has returned */
    CHECK_EQ(agent_read(a, &a->inside), 1);
}

TEST(p3_an_operation_is_not_polled_before_its_start_has_returned_but_then) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1));
    struct ask ask = {0};
    agent->during =
            poll_here; /* checks that nothing else runs; agent_poll() that start has returned */
    ask_for(&ask, pool, 30 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->polls, 2); /* the one that was asked for, and the tick's */
    agent->during = NULL;
    CHECK(agent_end(agent, agent_first(agent), 0));
    all(AGENT_NOW);
    ask_release(&ask);
    tear_down(pool);
}

static void ask_for_another_poll(struct agent *a, struct pnx_pool_op *op) {
    if (agent_read(a, &a->polls) == 1)
        poll_here(a, op);
}

TEST(p3_a_poll_that_is_asked_for_while_one_runs_follows_it) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1));
    struct ask ask = {0};
    agent->during_poll = ask_for_another_poll;
    ask_for(&ask, pool, 30 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->polls, 2);
    CHECK(agent_end(agent, agent_first(agent), 0));
    all(AGENT_NOW);
    ask_release(&ask);
    tear_down(pool);
}

static void fail_here(struct agent *a, struct pnx_pool_op *op) {
    CHECK(agent_end(a, op, -ECONNREFUSED));
}

TEST(the_error_of_an_end_during_start_or_poll_is_kept) {
    for (int i = 0; i < 2; i++) {
        set_up_loop();
        all(AGENT_LATER);
        struct pnx_pool *pool = mock_pool(&agent_manager,
                LOOP(.max = 1, .breaker_failures = UINT32_MAX, .backoff_ns = PNX_SEC));
        struct pnx_lease lease;
        struct pnx_error err;
        CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
        *(i ? &agent->during : &agent->during_poll) = fail_here;
        pnx_pool_tick(pool, te.now);
        CHECK_EQ(agent->under_way, 0);
        CHECK_EQ(mock_stats(pool).connect_failures, 1);
        CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
        CHECK_CONTAINS(err.message, AGENT_SAYS);
        CHECK_EQ(err.cause, -ECONNREFUSED);
        tear_down(pool);
    }
}

/* ---- errors ---- */

TEST(an_error_of_each_way_is_a_failed_connect_that_tells_its_cause) {
    for (int i = 0; i < 3; i++) {
        set_up_loop();
        all(i == 0 ? AGENT_FAILS : AGENT_LATER);
        struct pnx_pool *pool =
                mock_pool(&agent_manager, LOOP(.max = 1, .breaker_failures = UINT32_MAX));
        struct pnx_lease lease;
        struct pnx_error err;
        CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
        pnx_pool_tick(pool, te.now);
        if (i == 1)
            CHECK(agent_end(agent, agent_first(agent), -ECONNREFUSED));
        if (i == 2) {
            agent_make_ready(agent, agent_first(agent), -ECONNREFUSED);
            pnx_pool_op_poll(agent_first(agent));
        }
        CHECK_EQ(mock_stats(pool).connect_failures, 1);
        CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
        CHECK_CONTAINS(err.message, AGENT_SAYS);
        CHECK_EQ(err.cause, -ECONNREFUSED);
        tear_down(pool);
    }
}

static int lie_start(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    int *lies = ctx;
    (void)op, (void)err;
    if ((*lies)++ < 2)
        return *lies - 1; /* 0 without a resource; then 1 */
    return -EINPROGRESS;
}

static int lie_poll(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    int *lies = ctx;
    (void)op, (void)err;
    return (*lies)++ == 3 ? 7 : 0; /* 7; then 0 without a resource */
}

TEST(a_manager_that_lies_in_start_poll_or_done_has_failed_to_connect) {
    set_up_loop();
    static const struct pnx_pool_manager liar = {
            .size = sizeof(liar), .start = lie_start, .poll = lie_poll};
    int lies = 0;
    struct pnx_pool *pool =
            mock_pool(&liar, PNX_POOL_OPTS(.max = 1, .ctx = &lies, .env = &te.env, .backoff_ns = 1,
                                     .backoff_max_ns = 1, .breaker_failures = UINT32_MAX,
                                     .flags = PNX_POOL_NO_THREADS));
    struct ask ask = {0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    for (int i = 0; i < 8; i++) {
        pnx_pool_tick(pool, te.now);
        test_env_advance(&te, 2);
    }
    CHECK(lies > 5);
    CHECK(mock_stats(pool).connect_failures >= 4);
    CHECK_EQ(ask_calls(&ask), 0);
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    pnx_pool_tick(pool, te.now); /* the last poll */
    MOCK_END(pool);
    test_env_check_empty(&te);
    free(agent);
}

TEST(p2_a_check_that_fails_later_costs_no_place) {
    set_up_loop();
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1, .check_after_ns = 1));
    struct ask asks[2] = {0};
    int turn = 0;
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    test_env_advance(&te, PNX_MS);
    agent->ways[PNX_POOL_OP_CHECK] = AGENT_LATER;
    for (int i = 0; i < 2; i++) {
        asks[i].turn = &turn;
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    }
    pnx_pool_tick(pool, te.now);
    CHECK(agent_end(agent, agent_first(agent), -EPIPE));
    pnx_pool_tick(pool, te.now); /* connects */
    ask_check_granted(&asks[0]);
    CHECK_EQ(asks[0].place, 0);
    CHECK_EQ(mock_of(&asks[0].lease)->id, 1);
    CHECK_EQ(mock_stats(pool).closed_check, 1);
    ask_release(&asks[0]);
    ask_check_granted(&asks[1]);
    ask_release(&asks[1]);
    tear_down(pool);
}

/* ---- deadlines ---- */

TEST(an_operation_is_cancelled_at_its_deadline_and_not_before) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager,
            LOOP(.max = 1, .connect_timeout_ns = 10 * PNX_MS, .breaker_failures = UINT32_MAX));
    struct pnx_lease lease;
    struct pnx_error err;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    CHECK_EQ(pnx_pool_tick(pool, te.now), te.now + 10 * PNX_MS);
    test_env_advance(&te, 10 * PNX_MS - 1);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->cancels, 0);
    test_env_advance(&te, 1);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->cancels, 1);
    CHECK_EQ(agent->under_way, 0);
    CHECK_EQ(agent->live, 0);
    CHECK_EQ(mock_stats(pool).connecting, 0);
    CHECK_EQ(mock_stats(pool).overdue, 1);
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
    CHECK_EQ(err.cause, -ETIMEDOUT);
    tear_down(pool);
}

static pnx_ns stepping_now(void *ctx) {
    struct test_env *env = ctx;
    test_env_advance(env, PNX_MS); /* as a slow machine has it */
    return env->now;
}

TEST(an_operation_is_cancelled_by_the_tick_that_is_due_though_the_clock_has_moved_while_it_began) {
    set_up_loop();
    all(AGENT_LATER);
    te.env.now = te.env.now_coarse = stepping_now;
    struct pnx_pool *pool = mock_pool(&agent_manager,
            LOOP(.max = 1, .connect_timeout_ns = PNX_SEC, .breaker_failures = UINT32_MAX,
                    .idle_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER));
    struct pnx_lease lease;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_ns due = pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->under_way, 1);
    CHECK(due < te.now + 2 * PNX_SEC);
    te.now = due;
    pnx_pool_tick(pool, due);
    CHECK_EQ(agent->cancels, 1);
    CHECK_EQ(agent->under_way, 0);
    tear_down(pool);
}

TEST(an_operation_that_cannot_be_cancelled_any_more_ends_by_its_done) {
    set_up_loop();
    all(AGENT_LATER);
    agent->cancel_rc = -EALREADY;
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1, .connect_timeout_ns = PNX_MS));
    struct ask ask = {0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    test_env_advance(&te, PNX_MS);
    pnx_pool_tick(pool, te.now);
    CHECK(agent->cancels >= 1);
    CHECK_EQ(mock_stats(pool).connecting, 1); /* P1: it has its slot */
    CHECK(agent_end(agent, agent_first(agent), 0));
    ask_check_granted(&ask); /* late, but there */
    all(AGENT_NOW);
    ask_release(&ask);
    tear_down(pool);
}

TEST(an_operation_without_cancel_is_polled_past_its_deadline) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool_manager manager = agent_manager;
    manager.cancel = NULL;
    struct pnx_pool *pool = mock_pool(&manager, LOOP(.max = 1, .connect_timeout_ns = PNX_MS));
    struct ask ask = {0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    test_env_advance(&te, PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).overdue, 1);
    agent_make_ready(agent, agent_first(agent), 0);
    pnx_pool_tick(pool, te.now);
    ask_check_granted(&ask);
    all(AGENT_NOW);
    ask_release(&ask);
    tear_down(pool);
}

TEST(checks_and_closes_that_take_too_long_are_cancelled_too) {
    set_up_loop();
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1, .check_after_ns = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    test_env_advance(&te, PNX_MS);
    agent->ways[PNX_POOL_OP_CHECK] = agent->ways[PNX_POOL_OP_CLOSE] = AGENT_LATER;
    struct ask ask = {0};
    ask_for(&ask, pool, 60 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).checking, 1);
    test_env_advance(&te, PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).check_failures, 1);
    CHECK_EQ(mock_stats(pool).closing, 1);
    test_env_advance(&te, 10 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->cancels, 2);
    pnx_pool_tick(pool, te.now);
    ask_check_granted(&ask);
    CHECK_EQ(mock_of(&ask.lease)->id, 1);
    all(AGENT_NOW);
    ask_release(&ask);
    tear_down(pool);
}

TEST(threads_cancel_what_is_late_by_themselves) {
    set_up();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(
            &agent_manager, OPTS(.max = 2, .connect_timeout_ns = 5 * PNX_MS, .backoff_ns = PNX_MS,
                                    .breaker_failures = UINT32_MAX));
    struct ask ask = {0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    pnx_ns until = pnx_now() + 30 * PNX_SEC;
    while (agent_read(agent, &agent->cancels) < 3) {
        CHECK(pnx_now() < until);
        sched_yield();
    }
    all(AGENT_NOW);
    ask_await(&ask);
    ask_check_granted(&ask);
    ask_release(&ask);
    tear_down(pool);
}

/* ---- the end of the pool ---- */

TEST(a_close_counts_operations_under_way_and_closes_what_they_still_bring) {
    for (int threads = 0; threads < 2; threads++) {
        set_up();
        all(AGENT_LATER);
        struct pnx_pool *pool =
                mock_pool(&agent_manager, threads ? OPTS(.max = 2) : LOOP(.max = 2));
        struct ask asks[2] = {0};
        for (int i = 0; i < 2; i++)
            ask_for(&asks[i], pool, PNX_NEVER);
        if (!threads)
            pnx_pool_tick(pool, pnx_now());
        await_under_way(2);
        CHECK_EQ(pnx_pool_close(pool, 5 * PNX_MS), 2);
        for (int i = 0; i < 2; i++)
            ask_check_failed(&asks[i], -ESHUTDOWN, "closed");
        CHECK(agent_end(agent, agent_first(agent), 0)); /* is closed again */
        CHECK(agent_end(agent, agent_first(agent), -ECONNREFUSED) || agent_first(agent));
        struct ender ender;
        start_ender(&ender);
        CHECK_EQ(pnx_pool_close(pool, 30 * PNX_SEC), 0);
        stop_ender(&ender);
        tear_down(pool);
    }
}

TEST(a_released_pool_goes_with_the_end_of_its_last_operation) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1));
    struct pnx_lease lease;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    struct pnx_pool_op *op = agent_first(agent);
    pnx_pool_release(&pool);
    CHECK(te.live_blocks > 0);
    CHECK(agent_end(agent, op, 0));
    CHECK_EQ(agent->under_way, 1); /* the close of what came too late */
    CHECK(agent_end(agent, agent_first(agent), 0));
    CHECK_EQ(agent->closed, 1);
    test_env_check_empty(&te);
    free(agent);
}

/* ---- stress ---- */

struct ops_storm {
    struct pnx_pool *pool;
    int rounds;
    int clients; /* atomic: that have not ended */
    uint64_t seed;
    int granted, failed; /* atomic */
};

static void storm_client(struct ops_storm *storm, uint64_t *random) {
    for (int i = 0; i < storm->rounds; i++) {
        uint64_t dice = test_random(random);
        struct pnx_lease lease = {0};
        pnx_ns timeout = dice % 4 == 0 ? (pnx_ns)(dice / 8 % 100000) : 30 * PNX_SEC;
        int rc = pnx_pool_acquire(storm->pool, timeout, NULL, &lease);
        CHECK_MSG(rc == 0 || (rc == -ETIMEDOUT && timeout < PNX_SEC), "%s", pnx_errname(rc));
        __atomic_add_fetch(rc ? &storm->failed : &storm->granted, 1, __ATOMIC_RELAXED);
        if (rc)
            continue;
        struct mock_resource *resource = mock_of(&lease);
        CHECK_EQ(__atomic_exchange_n(&resource->owner, 1, __ATOMIC_RELAXED), 0);
        CHECK(!resource->dead);
        CHECK_EQ(__atomic_exchange_n(&resource->owner, 0, __ATOMIC_RELAXED), 1);
        if (dice % 4 == 1)
            pnx_lease_discard(&lease);
        else
            pnx_lease_release(&lease);
    }
    __atomic_sub_fetch(&storm->clients, 1, __ATOMIC_RELAXED);
}

/* Ends operations, in every way that there is, and changes how the next ones begin. */
static void storm_server(struct ops_storm *storm, uint64_t *random) {
    while (__atomic_load_n(&storm->clients, __ATOMIC_RELAXED) > 0) {
        uint64_t dice = test_random(random);
        struct pnx_pool_op *op = agent_first(agent);
        int code = dice / 8 % 8 == 0 ? -EPIPE : 0;
        pthread_mutex_lock(&agent->lock);
        agent->ways[dice / 64 % 3] = dice / 256 % 8 == 0   ? AGENT_FAILS
                                     : dice / 256 % 8 == 1 ? AGENT_EARLY
                                     : dice / 256 % 8 == 2 ? AGENT_HERE
                                     : dice / 256 % 8 == 3 ? AGENT_NOW
                                                           : AGENT_LATER;
        struct agent_op *entry = op ? agent_find_locked(agent, op) : NULL;
        if (entry && dice % 2)
            entry->ready = true;
        pthread_mutex_unlock(&agent->lock);
        if (op && dice % 8 < 4)
            agent_end(agent, op, code);
        else if (op && dice % 8 < 7)
            pnx_pool_op_poll(op);
        else
            pnx_pool_tick(storm->pool, pnx_now());
        if (!op)
            sched_yield();
    }
}

static void storm(unsigned index, void *ctx) {
    struct ops_storm *s = ctx;
    uint64_t random = s->seed + index;
    if (index >= 2)
        storm_client(s, &random);
    else
        storm_server(s, &random);
}

static void run_storm(const struct pnx_pool_opts *opts) {
    struct pnx_pool *pool = mock_pool(&agent_manager, opts);
    struct ops_storm s = {.pool = pool,
            .rounds = test_long()   ? 20000
                      : test_slow() ? 300
                                    : 1500,
            .clients = 3,
            .seed = test_seed()};
    all(AGENT_LATER);
    test_threads(5, storm, &s);
    CHECK(s.granted > 0);
    CHECK(agent->peak <= 3);
    CHECK_EQ(mock_stats(pool).in_use, 0);
    all(AGENT_NOW);
    struct ender ender;
    start_ender(&ender);
    CHECK_EQ(pnx_pool_close(pool, 30 * PNX_SEC), 0);
    stop_ender(&ender);
    tear_down(pool);
}

#define STORM \
    .max = 3, .check_after_ns = 20 * PNX_US, .connect_timeout_ns = 200 * PNX_US, \
    .check_timeout_ns = 200 * PNX_US, .close_timeout_ns = 200 * PNX_US, .backoff_ns = 20 * PNX_US, \
    .backoff_max_ns = 50 * PNX_US, .breaker_failures = UINT32_MAX

TEST(stress_of_operations_that_end_in_every_way_at_once) {
    set_up();
    run_storm(OPTS(STORM));
}

TEST(stress_of_operations_in_a_pool_without_threads) {
    set_up();
    run_storm(LOOP(STORM));
}

/* ---- callers who block ---- */

TEST(p8_a_caller_who_blocks_in_a_pool_without_threads_cancels_what_is_late_and_connects_again) {
    set_up();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(
            &agent_manager, LOOP(.max = 1, .connect_timeout_ns = 2 * PNX_MS, .backoff_ns = PNX_MS,
                                    .backoff_max_ns = PNX_MS, .breaker_failures = UINT32_MAX));
    struct pnx_lease lease;
    CHECK_EQ(pnx_pool_acquire(pool, 50 * PNX_MS, NULL, &lease), -ETIMEDOUT);
    CHECK(agent->cancels > 0);
    CHECK(agent->starts > 1 || agent->cancels == 1);
    all(AGENT_NOW);
    lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(a_warm_up_in_a_pool_without_threads_cancels_what_is_late) {
    set_up();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(
            &agent_manager, LOOP(.max = 1, .connect_timeout_ns = 2 * PNX_MS, .backoff_ns = PNX_MS,
                                    .backoff_max_ns = PNX_MS, .breaker_failures = UINT32_MAX));
    CHECK_EQ(pnx_pool_warm_up(pool, 1, 50 * PNX_MS, NULL), -ETIMEDOUT);
    CHECK(agent->cancels > 0);
    all(AGENT_NOW);
    CHECK_EQ(pnx_pool_warm_up(pool, 1, 30 * PNX_SEC, NULL), 0);
    tear_down(pool);
}

/* ---- fork ---- */

static void end_in_child(void *ctx) {
    struct pnx_pool_op *op = ctx;
    pnx_pool_op_poll(op);
    pnx_pool_op_done(op, 0, &agent->resources[0], NULL);
    CHECK_EQ(agent->polls, 1);
}

TEST(an_operation_that_is_under_way_at_a_fork_is_the_parents) {
    set_up_loop();
    all(AGENT_LATER);
    struct pnx_pool *pool = mock_pool(&agent_manager, LOOP(.max = 1));
    struct ask ask = {0};
    ask_for(&ask, pool, PNX_NEVER);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(agent->polls, 1);
    CHECK_EQ(test_child(end_in_child, agent_first(agent)), 0);
    CHECK(agent_end(agent, agent_first(agent), 0));
    ask_check_granted(&ask);
    all(AGENT_NOW);
    ask_release(&ask);
    tear_down(pool);
}

/* ---- peeks ---- */

static bool hold_peek; /* atomic */
static int peeks;      /* atomic */

static int peek_and_wait(void *ctx, void *resource) {
    (void)ctx, (void)resource;
    __atomic_add_fetch(&peeks, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&hold_peek, __ATOMIC_RELAXED))
        sched_yield();
    return 0;
}

TEST(a_peek_that_is_overdue_is_found_so_and_ends_in_peace) {
    set_up();
    struct mock *mock = mock_new();
    struct pnx_pool_manager manager = mock_bare;
    manager.peek = peek_and_wait;
    struct pnx_pool *pool =
            mock_pool(&manager, PNX_POOL_OPTS(.max = 1, .ctx = mock, .env = &te.env,
                                        .keepalive_ns = PNX_MS, .check_timeout_ns = PNX_MS));
    hold_peek = true;
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    UNTIL(pool, __atomic_load_n(&peeks, __ATOMIC_RELAXED) == 1 && s.checking == 1);
    while (mock_stats(pool).overdue == 0)
        pnx_pool_tick(pool, pnx_now());
    __atomic_store_n(&hold_peek, false, __ATOMIC_RELAXED);
    lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    MOCK_END(pool);
    test_env_check_empty(&te);
    free(mock);
    free(agent);
}
