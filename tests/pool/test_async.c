/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Acquires that wait without a thread: requests, their callbacks, inboxes, cancels, and pools driven by ticks alone.
 */
#include "harness/harness.h"
#include "pool/ask.h"
#include "pool/caller.h"

#include <patinox/pool.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

static struct mock *mock;
static struct test_env te;

static void set_up(void) {
    test_env_init(&te);
    mock = mock_new();
}

#define OPTS(...) PNX_POOL_OPTS(.name = "db", .ctx = mock, .env = &te.env, __VA_ARGS__)

static void tear_down(struct pnx_pool *pool) {
    MOCK_END(pool);
    CHECK_EQ(mock->live, 0);
    CHECK_EQ(mock->closes, mock->connects);
    test_env_check_empty(&te);
    free(mock);
}

/* A pool whose one resource is idle. */
static struct pnx_pool *warm_pool(const struct pnx_pool_opts *opts) {
    struct pnx_pool *pool = mock_pool(&mock_manager, opts);
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    return pool;
}

/* ---- delivery ---- */

TEST(a_request_for_an_idle_resource_is_called_back_before_acquire_returns) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1));
    struct ask ask = {0};
    ask_for(&ask, pool, PNX_SEC);
    ask_check_granted(&ask);
    CHECK(pthread_equal(ask.thread, pthread_self()));
    CHECK_EQ(mock_of(&ask.lease)->id, 0);
    CHECK_EQ(mock_stats(pool).in_use, 1);
    ask_release(&ask);
    tear_down(pool);
}

TEST(a_request_that_waits_is_called_back_by_who_releases) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct ask ask = {0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    CHECK_EQ(ask_calls(&ask), 0);
    CHECK_EQ(mock_stats(pool).waiting, 1);
    pnx_lease_release(&lease);
    ask_check_granted(&ask);
    CHECK(pthread_equal(ask.thread, pthread_self()));
    ask_release(&ask);
    tear_down(pool);
}

TEST(a_request_is_called_back_by_the_thread_that_has_connected) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct ask ask = {0};
    ask_for(&ask, pool, 30 * PNX_SEC);
    ask_await(&ask);
    ask_check_granted(&ask);
    CHECK(!pthread_equal(ask.thread, pthread_self()));
    ask_release(&ask);
    tear_down(pool);
}

/* A loop of the user's: what was posted to it. */
struct loop {
    pthread_mutex_t lock;
    void (*run[8])(void *arg);
    void *arg[8];
    int n;
};

static void loop_post(void *ctx, void (*run)(void *arg), void *arg) {
    struct loop *loop = ctx;
    pthread_mutex_lock(&loop->lock);
    CHECK(loop->n < 8);
    loop->run[loop->n] = run;
    loop->arg[loop->n++] = arg;
    pthread_mutex_unlock(&loop->lock);
}

static void loop_run(struct loop *loop) {
    for (int i = 0; i < loop->n; i++)
        loop->run[i](loop->arg[i]);
    loop->n = 0;
}

TEST(callbacks_come_through_the_pools_post) {
    set_up();
    struct loop loop = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1, .post = loop_post, .post_ctx = &loop));
    struct ask a = {0}, b = {0}, c = {0};
    ask_for(&a, pool, 30 * PNX_SEC);
    ask_for(&b, pool, 30 * PNX_SEC);
    ask_for(&c, pool, 0);
    CHECK_EQ(loop.n, 2);
    CHECK_EQ(ask_calls(&a) + ask_calls(&b) + ask_calls(&c), 0);
    CHECK_EQ(pnx_pool_cancel(&a.request), -EALREADY); /* its outcome is on its way */
    loop_run(&loop);
    ask_check_granted(&a);
    ask_check_failed(&c, -ETIMEDOUT, "wait");
    ask_release(&a);
    CHECK_EQ(ask_calls(&b), 0);
    loop_run(&loop);
    ask_check_granted(&b);
    ask_release(&b);
    tear_down(pool);
}

static void post_now(void *ctx, void (*run)(void *arg), void *arg) {
    ++*(int *)ctx;
    run(arg);
}

static void release_it(struct ask *ask) {
    ask_release(ask);
}

TEST(p13_callbacks_do_not_nest_even_when_post_runs_them_at_once) {
    set_up();
    int posts = 0, turn = 0;
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1, .post = post_now, .post_ctx = &posts));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask asks[5] = {0};
    for (int i = 0; i < 5; i++) {
        asks[i].turn = &turn;
        asks[i].then = release_it; /* which grants the next one */
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    }
    pnx_lease_release(&lease);
    for (int i = 0; i < 5; i++) {
        ask_check_granted(&asks[i]);
        CHECK_EQ(asks[i].place, i);
    }
    CHECK_EQ(posts, 5);
    tear_down(pool);
}

static bool readable(const struct pnx_inbox *inbox) {
    struct pollfd fd = {.fd = pnx_inbox_fd(inbox), .events = POLLIN};
    int n = poll(&fd, 1, 0);
    CHECK(n >= 0);
    return n == 1;
}

static struct pnx_inbox *new_inbox(void) {
    struct pnx_inbox *inbox = NULL;
    CHECK_EQ(pnx_inbox_create(&te.env, NULL, &inbox), 0);
    CHECK(pnx_inbox_fd(inbox) >= 0 && !readable(inbox));
    return inbox;
}

TEST(one_inbox_serves_two_pools_and_is_readable_exactly_while_callbacks_wait) {
    set_up();
    struct pnx_pool *one = warm_pool(OPTS(.max = 1)), *two = warm_pool(OPTS(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    int turn = 0;
    struct ask asks[4] = {0};
    for (int i = 0; i < 4; i++) {
        asks[i].request.inbox = inbox;
        asks[i].turn = &turn;
        ask_for(&asks[i], i % 2 ? two : one, 30 * PNX_SEC);
        CHECK(readable(inbox));
    }
    CHECK_EQ(pnx_inbox_dispatch(inbox, 0), 2);
    CHECK(!readable(inbox));
    for (int i = 0; i < 2; i++) {
        ask_check_granted(&asks[i]);
        CHECK_EQ(ask_calls(&asks[2 + i]), 0);
        CHECK_EQ(asks[i].place, i);
        ask_release(&asks[i]); /* grants the next, in the same pool */
        CHECK(readable(inbox));
    }
    CHECK_EQ(pnx_inbox_dispatch(inbox, 1), 1); /* the limit */
    CHECK(readable(inbox));
    CHECK_EQ(pnx_inbox_dispatch(inbox, 5), 1);
    CHECK(!readable(inbox));
    CHECK_EQ(pnx_inbox_dispatch(inbox, 5), 0);
    for (int i = 2; i < 4; i++) {
        ask_check_granted(&asks[i]);
        CHECK_EQ(asks[i].place, i);
        ask_release(&asks[i]);
    }
    pnx_inbox_release(&inbox);
    CHECK(!inbox);
    MOCK_END(one);
    tear_down(two);
}

static void dispatch_it(struct ask *ask) {
    ask->rc = pnx_inbox_dispatch(ask->request.inbox, 0);
    ask_release(ask);
}

TEST(a_dispatch_inside_a_dispatch_is_refused_and_what_comes_meanwhile_is_for_the_next) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    struct ask asks[2] = {0};
    for (int i = 0; i < 2; i++) {
        asks[i].request.inbox = inbox;
        asks[i].then = dispatch_it;
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(readable(inbox));
        CHECK_EQ(pnx_inbox_dispatch(inbox, 0), 1);
        ask_check_granted(&asks[i]);
        CHECK_EQ(asks[i].rc, -EDEADLK);
    }
    CHECK(!readable(inbox));
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

static void dispatch_other(struct ask *ask) {
    ask->rc = pnx_inbox_dispatch(ask->other->request.inbox, 0);
    ask_release(ask);
}

TEST(a_dispatch_inside_a_callback_that_came_another_way_is_refused_too) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1)), *other = warm_pool(OPTS(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    struct ask waits = {.request.inbox = inbox, .then = release_it};
    struct ask ask = {.then = dispatch_other, .other = &waits};
    ask_for(&waits, other, PNX_SEC);
    ask_for(&ask, pool, PNX_SEC);
    ask_check_granted(&ask);
    CHECK_EQ(ask.rc, -EDEADLK);
    CHECK(readable(inbox));
    CHECK_EQ(pnx_inbox_dispatch(inbox, 0), 1);
    ask_check_granted(&waits);
    pnx_inbox_release(&inbox);
    MOCK_END(other);
    tear_down(pool);
}

TEST(an_inbox_refuses_bad_arguments_and_survives_failures) {
    set_up();
    struct pnx_inbox *inbox = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_inbox_create(&te.env, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_inbox_fd(NULL), -1);
    CHECK_EQ(pnx_inbox_dispatch(NULL, 0), -EINVAL);
    pnx_inbox_release(NULL);
    pnx_inbox_release(&inbox);
    te.fail_at = te.allocations + 1;
    CHECK_EQ(pnx_inbox_create(&te.env, &err, &inbox), -ENOMEM);
    te.fail_at = 0;
    if (test_os_faults()) {
        test_os_fault("eventfd", 1, false, EMFILE);
        CHECK_EQ(pnx_inbox_create(&te.env, &err, &inbox), -EMFILE);
        CHECK_EQ(test_os_fault_clear(), 1);
    }
    CHECK(!inbox);
    CHECK_EQ(pnx_inbox_create(NULL, NULL, &inbox), 0);
    pnx_inbox_release(&inbox);
    test_env_check_empty(&te);
    free(mock);
}

/* ---- order ---- */

TEST(p2_requests_and_callers_who_block_are_served_in_one_order) {
    set_up();
    enum { N = 12 };
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct ask asks[N] = {0};
    struct caller blockers[N] = {0};
    int turn = 0;
    for (int i = 0; i < N; i++) { /* every third one blocks */
        if (i % 3 == 1) {
            blockers[i].turn = &turn;
            blockers[i].release = true;
            caller_start(&blockers[i], pool, 30 * PNX_SEC);
        } else {
            asks[i].turn = &turn;
            asks[i].then = release_it;
            ask_for(&asks[i], pool, 30 * PNX_SEC);
        }
        UNTIL(pool, s.waiting == (uint64_t)i + 1);
    }
    pnx_lease_release(&lease);
    for (int i = 0; i < N; i++) {
        if (i % 3 == 1) {
            caller_join(&blockers[i]);
            CHECK_EQ(blockers[i].rc, 0);
            CHECK_EQ(blockers[i].place, i);
        } else {
            ask_await(&asks[i]);
            ask_check_granted(&asks[i]);
            CHECK_EQ(asks[i].place, i);
        }
    }
    tear_down(pool);
}

TEST(requests_of_a_higher_priority_are_served_first) {
    set_up();
    test_env_virtual(&te, PNX_SEC);
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1, .flags = PNX_POOL_NO_THREADS));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    static const int32_t priorities[4] = {PNX_PRIORITY_DEFAULT, PNX_PRIORITY_CRITICAL,
            PNX_PRIORITY_NORMAL, PNX_PRIORITY_CRITICAL};
    static const int places[4] = {2, 0, 3, 1};
    struct ask asks[4] = {0};
    int turn = 0;
    for (int i = 0; i < 4; i++) {
        asks[i].turn = &turn;
        asks[i].then = release_it;
        asks[i].request.priority = priorities[i];
        ask_for(&asks[i], pool, PNX_SEC);
    }
    pnx_lease_release(&lease);
    for (int i = 0; i < 4; i++) {
        ask_check_granted(&asks[i]);
        CHECK_EQ(asks[i].place, places[i]);
    }
    tear_down(pool);
}

/* ---- outcomes other than a lease ---- */

TEST(p7_requests_time_out_by_themselves_in_a_pool_with_threads) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct ask asks[4] = {0};
    pnx_ns begin = pnx_now();
    for (int i = 0; i < 4; i++) /* the later ones sooner */
        ask_for(&asks[i], pool, (80 - 20 * i) * PNX_MS);
    for (int i = 0; i < 4; i++) {
        ask_await(&asks[i]);
        ask_check_failed(&asks[i], -ETIMEDOUT, "wait");
        CHECK(asks[i].at - begin >= (80 - 20 * i) * PNX_MS);
    }
    CHECK_EQ(mock_stats(pool).timeouts, 4);
    CHECK_EQ(mock_stats(pool).waiting, 0);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(p7_requests_time_out_although_the_pool_has_no_thread_yet) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    CHECK_EQ(pnx_pool_adopt(pool, &mock->resources[mock->n++], NULL), 0);
    mock->live++, mock->connects++;
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_stats(pool).threads, 0);
    struct ask ask = {0};
    ask_for(&ask, pool, 20 * PNX_MS);
    ask_await(&ask);
    ask_check_failed(&ask, -ETIMEDOUT, "wait");
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(p7_requests_time_out_by_ticks_alone_at_their_deadline_and_not_before) {
    set_up();
    test_env_virtual(&te, PNX_SEC);
    struct pnx_pool *pool = mock_pool(
            &mock_manager, OPTS(.max = 1, .acquire_timeout_ns = 300 * PNX_MS, .idle_ns = PNX_NEVER,
                                   .lifetime_ns = PNX_NEVER, .flags = PNX_POOL_NO_THREADS));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask asks[3] = {0};
    ask_for(&asks[0], pool, PNX_TIMEOUT_DEFAULT); /* 300 ms */
    ask_for(&asks[1], pool, 100 * PNX_MS);
    ask_for(&asks[2], pool, PNX_NEVER);
    CHECK_EQ(pnx_pool_tick(pool, te.now), PNX_SEC + 100 * PNX_MS);
    CHECK_EQ(pnx_pool_tick(pool, PNX_SEC + 100 * PNX_MS - 1), PNX_SEC + 100 * PNX_MS);
    CHECK_EQ(ask_calls(&asks[1]), 0);
    test_env_advance(&te, 100 * PNX_MS);
    CHECK_EQ(pnx_pool_tick(pool, te.now), PNX_SEC + 300 * PNX_MS);
    ask_check_failed(&asks[1], -ETIMEDOUT, "wait");
    test_env_advance(&te, 200 * PNX_MS);
    pnx_pool_tick(pool, te.now);
    ask_check_failed(&asks[0], -ETIMEDOUT, "wait");
    test_env_advance(&te, 3600 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(ask_calls(&asks[2]), 0);
    pnx_lease_release(&lease);
    ask_check_granted(&asks[2]);
    ask_release(&asks[2]);
    tear_down(pool);
}

TEST(a_request_is_told_of_each_failure_that_acquire_would_return) {
    set_up();
    test_env_virtual(&te, PNX_SEC);
    struct pnx_pool *pool = mock_pool(&mock_manager,
            OPTS(.max = 1, .max_waiters = 1, .breaker_failures = 1, .flags = PNX_POOL_NO_THREADS));
    struct ask try = {0}, waits = {0}, many = {0}, paused = {0}, open = {0}, closed = {0};
    ask_for(&try, pool, 0);
    ask_check_failed(&try, -ETIMEDOUT, "wait");
    pnx_pool_tick(pool, te.now); /* the try has asked for one */
    CHECK_EQ(mock_stats(pool).idle, 1);
    struct pnx_lease lease = mock_acquire(pool, 0);
    ask_for(&waits, pool, PNX_SEC);
    ask_for(&many, pool, PNX_SEC);
    ask_check_failed(&many, -EBUSY, "queue");
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_DROP_WAITERS), 0);
    ask_check_failed(&waits, -ECANCELED, "reset");
    CHECK_EQ(pnx_pool_pause(pool, 0), 1);
    ask_for(&paused, pool, 0);
    ask_check_failed(&paused, -EAGAIN, "paused");
    CHECK_EQ(pnx_pool_resume(pool), 0);
    mock->connect_errors = -1;
    pnx_lease_discard(&lease);
    waits = (struct ask){0};
    ask_for(&waits, pool, PNX_SEC);
    pnx_pool_tick(pool, te.now);
    ask_check_failed(&waits, PNX_E_BREAKER, "breaker");
    ask_for(&open, pool, PNX_SEC);
    ask_check_failed(&open, PNX_E_BREAKER, "breaker");
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    ask_for(&closed, pool, PNX_SEC);
    ask_check_failed(&closed, -ESHUTDOWN, "closed");
    tear_down(pool);
}

TEST(each_bad_request_is_refused_and_nothing_is_called) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct ask ask = {0};
    CHECK_EQ(pnx_pool_acquire_async(pool, &ask.request), -EINVAL); /* no done */
    ask.request.done = ask_done;
    CHECK_EQ(pnx_pool_acquire_async(NULL, &ask.request), -EINVAL);
    CHECK_EQ(pnx_pool_acquire_async(pool, NULL), -EINVAL);
    ask.request.timeout = -7;
    CHECK_EQ(pnx_pool_acquire_async(pool, &ask.request), -EINVAL);
    ask.request.timeout = PNX_SEC;
    ask.request.priority = 99;
    CHECK_EQ(pnx_pool_acquire_async(pool, &ask.request), -EINVAL);
    ask.request.priority = 0;
    ask.request.reserved_ = 1;
    CHECK_EQ(pnx_pool_acquire_async(pool, &ask.request), -EINVAL);
    ask.request.reserved_ = 0;
    CHECK_EQ(pnx_pool_cancel(NULL), -EINVAL);
    CHECK_EQ(pnx_pool_cancel(&ask.request), -EALREADY); /* it has never been under way */
    CHECK_EQ(mock_stats(pool).waiting, 0);
    ask_for(&ask, pool, PNX_NEVER);
    CHECK_EQ(pnx_pool_acquire_async(pool, &ask.request), -EBUSY);
    CHECK_EQ(mock_stats(pool).waiting, 1);
    pnx_lease_release(&lease);
    ask_check_granted(&ask);
    ask_release(&ask);
    ask_for(&ask, pool, PNX_SEC); /* it may be used anew */
    CHECK_EQ(ask_calls(&ask), 2);
    ask_release(&ask);
    tear_down(pool);
}

/* ---- cancel ---- */

TEST(a_cancelled_request_is_never_called_and_the_next_one_moves_up) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct ask asks[3] = {0};
    for (int i = 0; i < 3; i++)
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    CHECK_EQ(pnx_pool_cancel(&asks[0].request), 0);
    CHECK_EQ(pnx_pool_cancel(&asks[0].request), -EALREADY);
    CHECK_EQ(mock_stats(pool).waiting, 2);
    pnx_lease_release(&lease);
    CHECK_EQ(ask_calls(&asks[0]), 0);
    ask_check_granted(&asks[1]);
    CHECK_EQ(pnx_pool_cancel(&asks[1].request), -EALREADY);
    CHECK_EQ(pnx_pool_cancel(&asks[2].request), 0);
    ask_for(&asks[0], pool, 30 * PNX_SEC); /* a cancelled request may be used anew */
    CHECK_EQ(ask_calls(&asks[0]), 0);
    ask_release(&asks[1]);
    ask_check_granted(&asks[0]);
    ask_release(&asks[0]);
    CHECK_EQ(ask_calls(&asks[2]), 0);
    tear_down(pool);
}

TEST(a_request_whose_outcome_is_in_an_inbox_cannot_be_cancelled_any_more) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    struct ask ask = {.request.inbox = inbox};
    ask_for(&ask, pool, PNX_SEC);
    CHECK_EQ(pnx_pool_cancel(&ask.request), -EALREADY);
    CHECK_EQ(pnx_pool_acquire_async(pool, &ask.request), -EBUSY);
    CHECK_EQ(pnx_inbox_dispatch(inbox, 0), 1);
    ask_check_granted(&ask);
    ask_release(&ask);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}

enum { RACERS = 3, RACES = 64 };
struct race {
    struct pnx_pool *pool;
    struct pnx_inbox *inbox;
    struct ask asks[RACERS][RACES];
    int rounds;
    int cancelled, called; /* atomic */
    uint64_t seed;
    int running; /* atomic: racers that have not ended */
};

static void race_one(struct race *race, struct ask *asks, uint64_t *random) {
    bool cancelled[RACES] = {false};
    for (int i = 0; i < RACES; i++) {
        asks[i] = (struct ask){.then = release_it};
        if (race->inbox && i % 2)
            asks[i].request.inbox = race->inbox;
        ask_for(&asks[i], race->pool, i % 8 == 0 ? 20 * PNX_US : 30 * PNX_SEC);
    }
    for (int i = 0; i < RACES; i++) {
        if (test_random(random) % 2)
            cancelled[i] = pnx_pool_cancel(&asks[i].request) == 0;
    }
    for (int i = 0; i < RACES; i++) {
        if (!cancelled[i])
            ask_await(&asks[i]);
    }
    for (int i = 0; i < RACES; i++) {
        CHECK_EQ(ask_calls(&asks[i]), !cancelled[i]);
        CHECK(cancelled[i] || asks[i].code == 0 || asks[i].code == -ETIMEDOUT);
        __atomic_add_fetch(cancelled[i] ? &race->cancelled : &race->called, 1, __ATOMIC_RELAXED);
    }
}

/* The last thread is the loop of the inbox. */
static void race(unsigned index, void *ctx) {
    struct race *race = ctx;
    uint64_t random = race->seed + index;
    if (index == RACERS) {
        while (__atomic_load_n(&race->running, __ATOMIC_RELAXED) > 0) {
            struct pollfd fd = {.fd = pnx_inbox_fd(race->inbox), .events = POLLIN};
            if (poll(&fd, 1, 1) > 0)
                CHECK(pnx_inbox_dispatch(race->inbox, (uint32_t)(test_random(&random) % 4)) >= 0);
        }
        return;
    }
    for (int i = 0; i < race->rounds; i++)
        race_one(race, race->asks[index], &random);
    __atomic_sub_fetch(&race->running, 1, __ATOMIC_RELAXED);
}

TEST(p13_a_request_is_cancelled_or_called_once_never_both_and_never_neither) {
    set_up();
    static struct race r;
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    r = (struct race){.pool = pool,
            .inbox = new_inbox(),
            .rounds = test_long()   ? 3000
                      : test_slow() ? 30
                                    : 200,
            .seed = test_seed(),
            .running = RACERS};
    test_threads(RACERS + 1, race, &r);
    CHECK(r.cancelled > 0 && r.called > 0);
    CHECK_EQ(r.cancelled + r.called, RACERS * RACES * r.rounds);
    CHECK_EQ(mock_stats(pool).waiting, 0);
    CHECK_EQ(mock_stats(pool).in_use, 0);
    CHECK(mock->peak <= 2);
    pnx_inbox_release(&r.inbox);
    tear_down(pool);
}

/* ---- what callbacks may do ---- */

static int chain_left;

static void ask_again(struct ask *ask) {
    ask_release(ask);
    if (--chain_left > 0)
        CHECK_EQ(pnx_pool_acquire_async(ask->pool, &ask->request), 0);
}

TEST(p13_a_callback_may_release_and_ask_again_with_the_same_request_for_ever) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1));
    struct ask ask = {.then = ask_again};
    chain_left = 100000; /* as a recursion it would not fit the stack */
    ask_for(&ask, pool, PNX_SEC);
    CHECK_EQ(ask_calls(&ask), 100000);
    struct ask two[2] = {{.then = ask_again}, {.then = ask_again}};
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    chain_left = 10000;
    ask_for(&two[0], pool, 30 * PNX_SEC);
    ask_for(&two[1], pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    CHECK_EQ(chain_left, -1);
    CHECK_EQ(ask_calls(&two[0]) + ask_calls(&two[1]), 10001);
    tear_down(pool);
}

static void cancel_other(struct ask *ask) {
    ask->rc = pnx_pool_cancel(&ask->other->request);
    ask_release(ask);
}

TEST(a_callback_may_cancel_other_requests) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask asks[3] = {0};
    asks[0].then = cancel_other;
    asks[0].other = &asks[1];
    for (int i = 0; i < 3; i++)
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    ask_check_granted(&asks[0]);
    CHECK_EQ(asks[0].rc, 0);
    CHECK_EQ(ask_calls(&asks[1]), 0);
    ask_check_granted(&asks[2]);
    ask_release(&asks[2]);
    tear_down(pool);
}

static void cancel_two(struct ask *ask) {
    ask->rc = pnx_pool_cancel(&ask->other->request);
    ask->place = ask_calls(ask->other);
    ask_release(ask);
}

TEST(a_request_whose_outcome_waits_for_the_callback_before_it_cannot_be_cancelled) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct ask asks[2] = {0};
    asks[0].then = cancel_two;
    asks[0].other = &asks[1];
    for (int i = 0; i < 2; i++)
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_DROP_WAITERS), 0); /* both outcomes at once */
    ask_check_failed(&asks[0], -ECANCELED, "reset");
    CHECK_EQ(asks[0].rc, -EALREADY);
    CHECK_EQ(asks[0].place, 0);
    ask_check_failed(&asks[1], -ECANCELED, "reset");
    pnx_lease_release(&lease);
    tear_down(pool);
}

static void close_it(struct ask *ask) {
    struct pnx_lease lease;
    CHECK_EQ(pnx_pool_acquire(ask->pool, PNX_SEC, NULL, &lease), -EDEADLK);
    ask->rc = pnx_pool_close(ask->pool, PNX_SEC);
    CHECK_EQ(pnx_pool_close_begin(ask->pool), 0);
    ask_release(ask);
}

TEST(a_callback_that_waits_for_its_pool_is_refused_and_one_that_closes_it_begins_that) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask asks[2] = {0};
    asks[0].then = close_it;
    for (int i = 0; i < 2; i++)
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    ask_check_granted(&asks[0]);
    CHECK_EQ(asks[0].rc, -EDEADLK);
    ask_check_failed(&asks[1], -ESHUTDOWN, "closed");
    tear_down(pool);
}

static void release_pool(struct ask *ask) {
    ask_release(ask);
    pnx_pool_release(&ask->pool);
}

TEST(a_callback_may_release_the_pool_and_free_its_request) {
    for (int way = 0; way < 3; way++) {
        set_up();
        struct pnx_pool *pool = warm_pool(OPTS(.max = 1, .flags = PNX_POOL_NO_THREADS));
        struct ask *ask = calloc(1, sizeof(*ask));
        ask->then = release_pool;
        if (way == 0) { /* by the short way */
            ask_for(ask, pool, PNX_SEC);
        } else if (way == 1) { /* by a release */
            struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
            ask_for(ask, pool, PNX_SEC);
            pnx_lease_release(&lease);
        } else { /* by its deadline */
            struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
            ask_for(ask, pool, 1);
            pnx_pool_tick(pool, pnx_now() + PNX_SEC);
            pnx_lease_release(&lease);
        }
        CHECK_EQ(ask_calls(ask), 1);
        free(ask);
        CHECK_EQ(mock->closes, 1);
        test_env_check_empty(&te);
        free(mock);
    }
}

static void free_it(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    (void)err;
    CHECK_EQ(code, 0);
    ++*(int *)request->arg;
    memset(request, 0xee, sizeof(*request));
    free(request);
    pnx_lease_release(&lease);
}

TEST(a_callback_may_free_its_request) {
    set_up();
    struct pnx_pool *pool = warm_pool(OPTS(.max = 1));
    struct pnx_inbox *inbox = new_inbox();
    struct pnx_lease lease = {0};
    int calls = 0;
    for (int i = 0; i < 6; i++) {
        if (i == 1)
            lease = mock_acquire(pool, PNX_SEC);
        struct pnx_pool_request *request = calloc(1, sizeof(*request));
        request->done = free_it;
        request->arg = &calls;
        request->timeout = 30 * PNX_SEC;
        request->inbox = i % 2 ? inbox : NULL;
        CHECK_EQ(pnx_pool_acquire_async(pool, request), 0);
    }
    CHECK_EQ(calls, 1);
    pnx_lease_release(&lease);
    while (calls < 6)
        CHECK_EQ(pnx_inbox_dispatch(inbox, 0), 1);
    pnx_inbox_release(&inbox);
    tear_down(pool);
}
