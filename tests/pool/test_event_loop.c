/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools without a thread, driven by ticks alone, and how requests meet hooks, the end of a pool, and a fork.
 */
#include "harness/harness.h"
#include "pool/ask.h"
#include "pool/pool.h"

#include <patinox/pool.h>
#include <poll.h>
#include <sys/resource.h>
#include <time.h>

static struct mock *mock;
static struct test_env te;

static void set_up(void) {
    test_env_init(&te);
    test_env_virtual(&te, PNX_SEC);
    mock = mock_new();
}

#define OPTS(...) PNX_POOL_OPTS(.name = "db", .ctx = mock, .env = &te.env, __VA_ARGS__)
#define LOOP(...) OPTS(.flags = PNX_POOL_NO_THREADS, __VA_ARGS__)

static void tear_down(struct pnx_pool *pool) {
    MOCK_END(pool);
    CHECK_EQ(mock->live, 0);
    CHECK_EQ(mock->closes, mock->connects);
    test_env_check_empty(&te);
    free(mock);
}

static struct pnx_pool *warm_pool(const struct pnx_pool_opts *opts) {
    struct pnx_pool *pool = mock_pool(&mock_manager, opts);
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    return pool;
}

static struct pnx_inbox *new_inbox(void) {
    struct pnx_inbox *inbox = NULL;
    CHECK_EQ(pnx_inbox_create(&te.env, NULL, &inbox), 0);
    return inbox;
}

/* ---- ticks ---- */

TEST(the_first_resource_that_a_tick_connects_is_closed_in_time_when_it_stays_unused) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_manager, LOOP(.max = 1, .idle_ns = 400 * PNX_MS, .lifetime_ns = PNX_NEVER));
    struct pnx_lease lease;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT); /* which asks for one */
    pnx_ns latest = te.now + 450 * PNX_MS + 2;
    pnx_ns next = pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->connects, 1);
    while (mock->closes == 0) {
        CHECK_MSG(
                next <= latest, "the next tick comes %lld ns too late", (long long)(next - latest));
        test_env_advance(&te, next - te.now);
        next = pnx_pool_tick(pool, te.now);
    }
    CHECK_EQ(mock_stats(pool).closed_idle, 1);
    tear_down(pool);
}

TEST(a_tick_connects_for_requests_that_wait_and_nothing_else_does) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 3));
    struct ask asks[4] = {0};
    for (int i = 0; i < 4; i++)
        ask_for(&asks[i], pool, PNX_SEC);
    CHECK_EQ(mock->connects, 0);
    pnx_ns next = pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->connects, 3);
    CHECK_EQ(next, te.now + PNX_SEC); /* the fourth one's deadline */
    for (int i = 0; i < 3; i++)
        ask_check_granted(&asks[i]);
    CHECK_EQ(ask_calls(&asks[3]), 0);
    ask_release(&asks[1]);
    ask_check_granted(&asks[3]);
    CHECK_EQ(mock_stats(pool).threads, 0);
    for (int i = 0; i < 4; i++)
        ask_release(&asks[i]);
    tear_down(pool);
}

TEST(ticks_at_the_times_that_they_name_bring_a_request_through_an_outage) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, LOOP(.max = 2, .breaker_failures = UINT32_MAX));
    struct ask ask = {0};
    mock->connect_errors = 6;
    ask_for(&ask, pool, 3600 * PNX_SEC);
    for (int i = 0; i < 20 && ask_calls(&ask) == 0; i++) {
        pnx_ns next = pnx_pool_tick(pool, te.now);
        if (next != PNX_NEVER && next > te.now)
            test_env_advance(&te, next - te.now);
    }
    ask_check_granted(&ask);
    CHECK_EQ(mock->failed, 6);
    ask_release(&ask);
    tear_down(pool);
}

TEST(a_tick_checks_what_was_unused_for_long_before_a_request_gets_it) {
    set_up();
    struct pnx_pool *pool = warm_pool(LOOP(.max = 1, .check_after_ns = PNX_SEC));
    struct ask ask = {0};
    test_env_advance(&te, 2 * PNX_SEC);
    mock->check_error = -EPIPE;
    ask_for(&ask, pool, 30 * PNX_SEC);
    CHECK_EQ(ask_calls(&ask), 0);
    CHECK_EQ(mock->checks, 0);
    pnx_pool_tick(pool, te.now);
    ask_check_granted(&ask); /* the check failed, and was followed by a close and a connect */
    CHECK_EQ(mock->checks, 1);
    CHECK_EQ(mock->connects, 2);
    ask_release(&ask);
    tear_down(pool);
}

/* ---- many ---- */

static pnx_ns cpu_time(void) {
    struct timespec spec;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spec) == 0);
    return (pnx_ns)spec.tv_sec * PNX_SEC + spec.tv_nsec;
}

enum { MANY = 10000 };

static void release_it(struct ask *ask) {
    ask_release(ask);
}

static struct ask *park_many(struct pnx_pool *pool, struct pnx_inbox *inbox) {
    struct ask *asks = calloc(MANY, sizeof(*asks));
    CHECK(asks);
    for (int i = 0; i < MANY; i++) {
        asks[i].request.inbox = inbox;
        asks[i].then = release_it;
        ask_for(&asks[i], pool, 3600 * PNX_SEC);
    }
    CHECK_EQ(mock_stats(pool).waiting, MANY);
    return asks;
}

/* Sleeps for so long in the loop's poll, as a loop without work does; returns how much CPU the process used meanwhile. */
static pnx_ns cpu_of_idle_loop(struct pnx_inbox *inbox, int ms) {
    pnx_ns before = cpu_time();
    struct pollfd fd = {.fd = pnx_inbox_fd(inbox), .events = POLLIN};
    CHECK_EQ(poll(&fd, 1, ms), 0);
    return cpu_time() - before;
}

/* Serves them all, one after the other: each callback releases, which grants the next one. */
static void serve_many(struct ask *asks, struct pnx_inbox *inbox, struct pnx_lease *lease) {
    int served = 0;
    pnx_lease_release(lease);
    while (served < MANY) {
        int n = pnx_inbox_dispatch(inbox, 0);
        CHECK(n >= 0);
        served += n;
    }
    for (int i = 0; i < MANY; i++)
        ask_check_granted(&asks[i]);
    free(asks);
}

TEST(ten_thousand_requests_wait_in_an_event_loop_without_using_the_cpu) {
    set_up();
    struct pnx_pool_opts opts = *LOOP(.max = 1, .idle_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER);
    CHECK_EQ(pnx_pool_opts_preset(&opts, "event-loop", NULL), 0);
    struct pnx_pool *pool = mock_pool(&mock_manager, &opts);
    struct pnx_inbox *inbox = new_inbox();
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask *asks = park_many(pool, inbox), more = {0};
    ask_for(&more, pool, PNX_SEC);
    ask_check_failed(&more, -EBUSY, "queue"); /* the preset's max_waiters */
    test_env_advance(&te, 11 * PNX_SEC);      /* that made the pool degraded for a while */
    pnx_pool_tick(pool, te.now);
    CHECK(pnx_pool_tick(pool, te.now) > te.now + 3500 * PNX_SEC); /* nothing to do for an hour */
    CHECK(cpu_of_idle_loop(inbox, 200) < 50 * PNX_MS);
    serve_many(asks, inbox, &lease);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

TEST(ten_thousand_requests_wait_in_a_pool_with_threads_without_using_the_cpu) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(
            &mock_manager, OPTS(.max = 1, .idle_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER));
    struct pnx_inbox *inbox = new_inbox();
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask *asks = park_many(pool, inbox);
    (void)cpu_of_idle_loop(inbox, 20); /* the thread has found its bed */
    CHECK(cpu_of_idle_loop(inbox, 200) < 50 * PNX_MS);
    serve_many(asks, inbox, &lease);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

TEST(ten_thousand_requests_are_refused_at_once_by_a_close_and_each_is_told) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask *asks = park_many(pool, inbox);
    CHECK_EQ(pnx_pool_close_begin(pool), 0);
    CHECK_EQ(pnx_pool_close_poll(pool), 1);
    CHECK_EQ(pnx_inbox_dispatch(inbox, 0), MANY);
    for (int i = 0; i < MANY; i++)
        ask_check_failed(&asks[i], -ESHUTDOWN, "closed");
    free(asks);
    pnx_lease_release(&lease);
    CHECK_EQ(pnx_pool_close_poll(pool), 0);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

/* ---- cost ---- */

TEST(p10_requests_allocate_nothing) {
    set_up();
    struct pnx_pool *pool = warm_pool(LOOP(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    int64_t before = te.allocations;
    for (int i = 0; i < 100; i++) {
        struct ask asks[4] = {0};
        struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
        for (int k = 0; k < 4; k++) {
            asks[k].request.inbox = k % 2 ? inbox : NULL;
            asks[k].then = release_it;
            ask_for(&asks[k], pool, PNX_SEC);
        }
        CHECK_EQ(pnx_pool_cancel(&asks[0].request), 0);
        pnx_lease_release(&lease);
        while (ask_calls(&asks[3]) == 0)
            CHECK(pnx_inbox_dispatch(inbox, 0) >= 0);
        pnx_pool_tick(pool, te.now);
        ask_check_granted(&asks[2]);
    }
    CHECK_EQ(te.allocations, before);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

/* ---- the end of the pool ---- */

TEST(requests_that_wait_when_the_pool_is_released_are_told_so) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 1)), *again = pool;
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask asks[3] = {0};
    int turn = 0;
    for (int i = 0; i < 3; i++) {
        asks[i].turn = &turn;
        ask_for(&asks[i], pool, PNX_NEVER);
    }
    pnx_pool_release(&again);
    for (int i = 0; i < 3; i++) {
        ask_check_failed(&asks[i], -ESHUTDOWN, "closed");
        CHECK_EQ(asks[i].place, i);
    }
    CHECK(te.live_blocks > 0);
    pnx_lease_release(&lease);
    CHECK_EQ(mock->closes, 1);
    test_env_check_empty(&te);
    free(mock);
}

TEST(a_released_pool_stays_until_the_last_outcome_in_an_inbox_has_been_told) {
    set_up();
    struct pnx_pool *pool = warm_pool(LOOP(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    struct ask asks[3] = {0};
    for (int i = 0; i < 3; i++) {
        asks[i].request.inbox = inbox;
        asks[i].then = release_it;
        ask_for(&asks[i], pool, PNX_NEVER); /* the first gets a lease */
    }
    pnx_pool_release(&pool);
    for (int i = 0; i < 3; i++) {
        CHECK(te.live_blocks > 1); /* more than the inbox */
        CHECK_EQ(pnx_inbox_dispatch(inbox, 1), 1);
        CHECK_EQ(asks[i].code, i ? -ESHUTDOWN : 0);
    }
    CHECK_EQ(te.live_blocks, 1);
    CHECK_EQ(mock->closes, 1);
    pnx_inbox_release(&inbox);
    test_env_check_empty(&te);
    free(mock);
}

TEST(a_lease_that_is_in_an_inbox_keeps_a_close_waiting_and_comes_home) {
    set_up();
    struct pnx_pool *pool = warm_pool(LOOP(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    struct ask ask = {.request.inbox = inbox, .then = release_it};
    ask_for(&ask, pool, PNX_NEVER);
    CHECK_EQ(pnx_pool_close(pool, 0), 1);
    CHECK_EQ(pnx_inbox_dispatch(inbox, 0), 1);
    ask_check_granted(&ask);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

/* ---- hooks ---- */

struct refusals {
    int left;  /* how many to refuse */
    int asked; /* how many were asked */
};

static int refuse(void *arg, void *resource) {
    struct refusals *refusals = arg;
    CHECK(resource);
    refusals->asked++;
    return refusals->left-- > 0 ? -EPERM : 0;
}

static struct refusals refusals;
static const struct pnx_pool_hooks hooks = {
        .size = sizeof(hooks),
        .arg = &refusals,
        .before_acquire = refuse,
};

TEST(p2_a_request_whose_resource_a_hook_refuses_keeps_its_place_and_its_deadline) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 1, .hooks = &hooks));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask asks[3] = {0};
    int turn = 0;
    for (int i = 0; i < 3; i++) {
        asks[i].turn = &turn;
        asks[i].then = i < 2 ? release_it : NULL;
        ask_for(&asks[i], pool, (i + 2) * PNX_SEC);
    }
    test_env_advance(&te, PNX_SEC);
    refusals.left = 1;
    pnx_lease_release(&lease);
    CHECK_EQ(turn, 0);
    CHECK_EQ(mock_stats(pool).waiting, 3);
    CHECK(pnx_pool_tick(pool, te.now) <= 4 * PNX_SEC); /* connects again */
    for (int i = 0; i < 3; i++) {
        ask_check_granted(&asks[i]);
        CHECK_EQ(asks[i].place, i);
    }
    CHECK_EQ(mock_stats(pool).closed_hook, 1);
    ask_release(&asks[2]);
    tear_down(pool);
}

TEST(a_request_whose_resource_a_hook_refuses_at_once_waits_like_any_other) {
    set_up();
    struct pnx_pool *pool = warm_pool(LOOP(.max = 1, .hooks = &hooks));
    struct ask ask = {0};
    refusals.left = 1;
    ask_for(&ask, pool, PNX_SEC);
    CHECK_EQ(ask_calls(&ask), 0);
    CHECK_EQ(mock_stats(pool).waiting, 1);
    pnx_pool_tick(pool, te.now); /* connects again */
    ask_check_granted(&ask);
    refusals.left = 1;
    ask_release(&ask);
    ask = (struct ask){0};
    ask_for(&ask, pool, PNX_SEC);
    mock->connect_errors = -1;
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(ask_calls(&ask), 0);
    test_env_advance(&te, PNX_SEC - 1);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(ask_calls(&ask), 0);
    test_env_advance(&te, 1);
    pnx_pool_tick(pool, te.now);
    ask_check_failed(&ask, -ETIMEDOUT, "connect");
    tear_down(pool);
}

TEST(a_try_whose_resource_a_hook_refuses_does_not_wait) {
    set_up();
    struct pnx_pool *pool = warm_pool(LOOP(.max = 1, .hooks = &hooks));
    struct ask ask = {0};
    refusals.left = 1;
    ask_for(&ask, pool, 0);
    CHECK_EQ(ask_calls(&ask), 1);
    CHECK_EQ(ask.code, -ETIMEDOUT);
    CHECK_EQ(mock_stats(pool).waiting, 0);
    tear_down(pool);
}

/* ---- fork ---- */

static struct ask in_child;

static void ask_twice(struct ask *ask) {
    if (ask_calls(ask) == 0) /* must not nest either */
        CHECK_EQ(pnx_pool_acquire_async(ask->pool, &ask->request), 0);
}

static void use_in_child(void *ctx) {
    struct pnx_pool *pool = ctx;
    in_child.then = ask_twice;
    ask_for(&in_child, pool, PNX_SEC);
    CHECK_EQ(ask_calls(&in_child), 2);
    CHECK_EQ(in_child.code, -ESHUTDOWN);
    CHECK_STR(in_child.err.phase, "fork");
    CHECK_EQ(pnx_pool_tick(pool, te.now), PNX_NEVER);
    CHECK_EQ(mock->connects, 1);
    CHECK_EQ(mock->closes, 0);
}

TEST(a_request_in_a_forked_child_is_told_so_at_once) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask ask = {0};
    ask_for(&ask, pool, PNX_NEVER);
    CHECK_EQ(test_child(use_in_child, pool), 0);
    pnx_lease_release(&lease);
    ask_check_granted(&ask);
    ask_release(&ask);
    tear_down(pool);
}

/* Another thread that is inside the pool for as long as a child runs. */
struct insider {
    struct pnx_pool *pool;
    pthread_barrier_t barrier;
    pthread_t thread;
};

static void *be_inside(void *arg) {
    struct insider *insider = arg;
    pnx__pool_lock(insider->pool);
    pthread_barrier_wait(&insider->barrier);
    pthread_barrier_wait(&insider->barrier);
    pnx__mutex_unlock(&insider->pool->lock);
    return NULL;
}

static void fork_with_insider(struct pnx_pool *pool, void (*child)(void *ctx), void *ctx) {
    struct insider insider = {.pool = pool};
    CHECK_EQ(pthread_barrier_init(&insider.barrier, NULL, 2), 0);
    CHECK_EQ(pthread_create(&insider.thread, NULL, be_inside, &insider), 0);
    pthread_barrier_wait(&insider.barrier);
    CHECK_EQ(test_child(child, ctx), 0);
    pthread_barrier_wait(&insider.barrier);
    pthread_join(insider.thread, NULL);
    pthread_barrier_destroy(&insider.barrier);
}

static void cancel_in_child(void *ctx) {
    struct ask *ask = ctx;
    CHECK_EQ(pnx_pool_cancel(&ask->request), 0);
    CHECK_EQ(pnx_pool_cancel(&ask->request), -EALREADY);
    CHECK_EQ(ask_calls(ask), 0);
}

TEST(a_request_that_waits_across_a_fork_may_be_cancelled_in_the_child_and_is_the_parents_still) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask ask = {0};
    ask_for(&ask, pool, PNX_NEVER);
    fork_with_insider(pool, cancel_in_child, &ask);
    pnx_lease_release(&lease);
    ask_check_granted(&ask);
    ask_release(&ask);
    tear_down(pool);
}

static void dispatch_in_child(void *ctx) {
    CHECK_EQ(pnx_inbox_dispatch(ctx, 0), 1);
    CHECK_EQ(in_child.code, -ESHUTDOWN);
    CHECK_STR(in_child.err.phase, "fork");
    CHECK_EQ(mock->abandons, 1);
    CHECK_EQ(mock->closes, 0);
}

TEST(a_lease_that_was_in_an_inbox_at_a_fork_is_abandoned_in_the_child_and_is_the_parents_still) {
    set_up();
    struct pnx_pool *pool = warm_pool(LOOP(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    in_child.request.inbox = inbox;
    ask_for(&in_child, pool, PNX_NEVER);
    fork_with_insider(pool, dispatch_in_child, inbox);
    CHECK_EQ(pnx_inbox_dispatch(inbox, 0), 1);
    ask_check_granted(&in_child);
    ask_release(&in_child);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

/* ---- a cancel that comes while a hook looks at the resource ---- */

static int cancel_and_refuse(void *arg, void *resource) {
    struct ask *ask = arg;
    (void)resource;
    ask->rc = pnx_pool_cancel(&ask->request);
    return -EPERM;
}

TEST(a_request_that_could_not_be_cancelled_does_not_wait_again_when_a_hook_refuses_its_resource) {
    set_up();
    struct ask ask = {0};
    struct pnx_pool_hooks cancelling = {
            .size = sizeof(cancelling), .arg = &ask, .before_acquire = cancel_and_refuse};
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 1, .hooks = &cancelling));
    ask_for(&ask, pool, PNX_NEVER);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(ask.rc, -EALREADY);
    ask_check_failed(&ask, -ECANCELED, "cancel");
    CHECK_EQ(mock_stats(pool).waiting, 0);
    tear_down(pool);
}

TEST(p2_waiters_whose_resources_a_hook_refuses_come_back_in_their_order) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 2, .hooks = &hooks));
    struct pnx_inbox *inbox[2] = {new_inbox(), new_inbox()};
    struct pnx_lease leases[2] = {mock_acquire(pool, PNX_SEC), mock_acquire(pool, PNX_SEC)};
    struct ask asks[3] = {0};
    int turn = 0;
    for (int i = 0; i < 3; i++) {
        asks[i].turn = &turn;
        asks[i].then = release_it;
        asks[i].request.inbox = i < 2 ? inbox[i] : NULL;
        ask_for(&asks[i], pool, PNX_SEC);
    }
    for (int i = 0; i < 2; i++)
        pnx_lease_release(&leases[i]);
    refusals.left = 2;
    for (int i = 0; i < 2; i++) /* the first one is told, and comes back, first */
        CHECK_EQ(pnx_inbox_dispatch(inbox[i], 0), 1);
    CHECK_EQ(mock_stats(pool).waiting, 3);
    CHECK_EQ(pnx_pool_resize(pool, 1, NULL), 0);
    pnx_pool_tick(pool, te.now);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pnx_inbox_dispatch(inbox[i], 0), 1); /* releases it, to the next one */
    for (int i = 0; i < 3; i++) {
        ask_check_granted(&asks[i]);
        CHECK_EQ(asks[i].place, i);
    }
    pnx_inbox_release(&inbox[0]);
    pnx_inbox_release(&inbox[1]);
    tear_down(pool);
}

/* ---- hooks that refuse everything ---- */

static int refuse_slowly(void *arg, void *resource) {
    (void)resource;
    test_env_advance(
            &te, PNX_MS); /* so that there is always a resource before the deadline is looked at */
    ++*(int *)arg;
    return -EPERM;
}

TEST(p7_an_acquire_ends_at_its_deadline_though_a_hook_refuses_one_resource_after_the_other) {
    set_up();
    int asked = 0;
    struct pnx_pool_hooks never = {
            .size = sizeof(never), .arg = &asked, .before_acquire = refuse_slowly};
    struct pnx_pool *pool = mock_pool(&mock_manager,
            LOOP(.max = 1, .hooks = &never, .backoff_ns = 1, .backoff_max_ns = 1)); /* no pauses */
    struct pnx_lease lease;
    struct pnx_error err;
    CHECK_EQ(pnx_pool_acquire(pool, 10 * PNX_MS, &err, &lease), -ETIMEDOUT);
    CHECK_STR(err.phase, "hook");
    CHECK(asked >= 2 && asked <= 11);
    CHECK_EQ(mock_stats(pool).timeouts, 1);
    asked = 0;
    struct ask ask = {0};
    ask_for(&ask, pool, 10 * PNX_MS);
    pnx_pool_tick(pool, te.now);
    ask_check_failed(&ask, -ETIMEDOUT, "hook");
    CHECK(asked >= 2 && asked <= 11);
    tear_down(pool);
}

/* ---- threads that cannot be had ---- */

TEST(requests_to_a_pool_whose_threads_cannot_be_started_are_served_and_ended_by_ticks) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct ask asks[2] = {0};
    test_os_fault("pthread_create", 1, true, EAGAIN);
    for (int i = 0; i < 2; i++)
        ask_for(&asks[i], pool, PNX_SEC);
    pnx_ns next = pnx_pool_tick(pool, te.now);
    ask_check_granted(&asks[0]);
    CHECK(next <= te.now + PNX_SEC);
    test_env_advance(&te, PNX_SEC);
    pnx_pool_tick(pool, te.now);
    ask_check_failed(&asks[1], -ETIMEDOUT, "wait");
    ask_release(&asks[0]);
    CHECK_EQ(mock_stats(pool).threads, 0);
    CHECK(test_os_fault_clear() > 0);
    tear_down(pool);
}

/* ---- requests made inside operations ---- */

static struct ask inner;

static void ask_inside(struct mock *m) {
    if (!inner.pool)
        ask_for(&inner, m->pool, PNX_SEC);
}

TEST(a_request_may_be_made_inside_an_operation_and_waits_for_its_turn) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, LOOP(.max = 1));
    struct ask outer = {.then = release_it};
    mock->pool = pool;
    mock->during = ask_inside;
    ask_for(&outer, pool, PNX_SEC);
    pnx_pool_tick(pool, te.now);
    ask_check_granted(&outer);
    ask_check_granted(&inner);
    ask_release(&inner);
    tear_down(pool);
}
