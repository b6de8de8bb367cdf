/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's promises with real threads: order, deadlines, connects that outlive callers, storms, the end.
 *
 * Nothing sleeps to synchronise: threads wait for the mock's counters, or poll the pool's statistics.
 */
#include "harness/harness.h"
#include "os/thread.h"
#include "pool/caller.h"
#include "pool/pool.h"

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

/* The reason that pnx_health() gives for the pool "db", which must have this status. */
static const char *health_of_db(enum pnx_health_status status) {
    struct pnx_health_entry entries[16];
    size_t n = 0;
    CHECK(pnx_health(pnx_stats_default(), entries, 16, &n) >= (int)status);
    for (size_t i = 0; i < n && i < 16; i++) {
        if (strcmp(entries[i].kind, "pool") != 0 || strcmp(entries[i].name, "db") != 0)
            continue;
        CHECK_EQ(entries[i].status, status);
        return entries[i].reason;
    }
    return NULL;
}

/* ---- order ---- */

TEST(p2_waiters_are_granted_in_the_order_of_arrival) {
    set_up();
    enum { N = 24 };
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct caller callers[N] = {0};
    int turn = 0;
    for (int i = 0; i < N; i++) {
        callers[i].turn = &turn;
        callers[i].release = true;
        caller_start(&callers[i], pool, 30 * PNX_SEC);
        UNTIL(pool, s.waiting == (uint64_t)i + 1);
    }
    pnx_lease_release(&lease);
    for (int i = 0; i < N; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, 0);
        CHECK_EQ(callers[i].place, i);
    }
    CHECK_EQ(mock->connects, 1);
    tear_down(pool);
}

TEST(p5_a_waiter_takes_a_returned_resource_while_a_connect_is_under_way) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    mock_set(mock, &mock->hold_connect, true);
    struct caller caller = {0};
    caller_start(&caller, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 1);
    pnx_lease_release(&lease);
    caller_join(&caller);
    CHECK_EQ(caller.rc, 0);
    CHECK_EQ(mock_of(&caller.lease)->id, 0);
    mock_set(mock, &mock->hold_connect, false);
    UNTIL(pool, s.idle == 1); /* the connect was not in vain */
    pnx_lease_release(&caller.lease);
    tear_down(pool);
}

TEST(p5_a_connect_survives_the_timeout_of_its_caller) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    mock_set(mock, &mock->hold_connect, true);
    int first = 0;
    for (; mock_read(mock, &mock->in_connect) == 0; first++)
        CHECK_EQ(pnx_pool_acquire(pool, 5 * PNX_MS, NULL, &lease), -ETIMEDOUT);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(pnx_pool_acquire(pool, 5 * PNX_MS, &err, &lease), -ETIMEDOUT);
        CHECK_STR(err.phase, "connect");
    }
    CHECK_EQ(mock_read(mock, &mock->in_connect), 1); /* one connect for five callers */
    mock_set(mock, &mock->hold_connect, false);
    UNTIL(pool, s.idle == 1);
    CHECK_EQ(mock_read(mock, &mock->connects), 1);
    CHECK_EQ(mock_stats(pool).timeouts, first + 5);
    tear_down(pool);
}

TEST(p2_a_waiter_whose_resource_fails_its_check_keeps_its_place) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 1, .check_after_ns = 1, .max_connecting = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&lease);
    mock->check_error = -EPIPE;
    mock_set(mock, &mock->hold_check, true);
    struct caller first = {0}, second = {0};
    int turn = 0;
    first.turn = second.turn = &turn;
    first.release = second.release = true;
    caller_start(&first, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_check, 1);
    caller_start(&second, pool, 30 * PNX_SEC);
    UNTIL(pool, s.waiting == 2);
    mock_set(mock, &mock->hold_check, false);
    caller_join(&first);
    caller_join(&second);
    CHECK_EQ(first.rc, 0);
    CHECK_EQ(second.rc, 0);
    CHECK_EQ(first.place, 0);
    CHECK_EQ(second.place, 1);
    CHECK_EQ(mock_stats(pool).closed_check, 1);
    mock->check_error = 0;
    tear_down(pool);
}

TEST(others_proceed_while_a_check_blocks) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2, .check_after_ns = 1));
    struct pnx_lease a = mock_acquire(pool, 30 * PNX_SEC), b = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_release(&a);
    mock_set(mock, &mock->hold_check, true);
    struct caller stuck = {0};
    caller_start(&stuck, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_check, 1);
    CHECK_EQ(mock_stats(pool).checking, 1);
    pnx_lease_release(&b); /* goes to the waiter, whose check is still hanging */
    caller_join(&stuck);
    CHECK_EQ(mock_of(&stuck.lease)->id, 1);
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 5 * PNX_MS, &err, &lease), -ETIMEDOUT);
    CHECK_STR(err.phase, "check");
    mock_set(mock, &mock->hold_check, false);
    pnx_lease_release(&stuck.lease);
    tear_down(pool);
}

/* ---- deadlines ---- */

TEST(p7_a_timeout_is_exact_and_is_not_moved_by_what_happens_meanwhile) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct caller callers[6] = {0};
    for (int i = 0; i < 6; i++)
        caller_start(&callers[i], pool, (20 + 20 * i) * PNX_MS);
    for (int i = 0; i < 6; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, -ETIMEDOUT);
        CHECK_STR(callers[i].err.phase, "wait");
        CHECK(callers[i].took >= (20 + 20 * i) * PNX_MS);
        CHECK(callers[i].took < (20 + 20 * i) * PNX_MS + 2 * PNX_SEC);
    }
    CHECK_EQ(mock_stats(pool).timeouts, 6);
    CHECK(mock_stats(pool).wait_time >= (uint64_t)(420 * PNX_MS));
    CHECK_EQ(mock_stats(pool).waiting, 0);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(the_default_timeout_is_the_option) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 1, .acquire_timeout_ns = 10 * PNX_MS));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC), none = {0};
    CHECK_EQ(pnx_pool_acquire(pool, PNX_TIMEOUT_DEFAULT, NULL, &none), -ETIMEDOUT);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(max_waiters_refuses_further_callers_at_once) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1, .max_waiters = 2));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC), none = {0};
    struct caller callers[2] = {0};
    struct pnx_error err = {0};
    for (int i = 0; i < 2; i++) {
        callers[i].release = true;
        caller_start(&callers[i], pool, PNX_NEVER);
    }
    UNTIL(pool, s.waiting == 2);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_NEVER, &err, &none), -EBUSY);
    CHECK_STR(err.phase, "queue");
    CHECK_CONTAINS(err.message, "too many are waiting after 0.000 s (queue): 1 of 1 in use");
    CHECK_EQ(mock_stats(pool).rejected, 1);
    pnx_lease_release(&lease);
    caller_join(&callers[0]);
    caller_join(&callers[1]);
    tear_down(pool);
}

/* ---- connects ---- */

struct spike {
    struct pnx_pool *pool;
    int served;
};

static void spike_client(unsigned index, void *ctx) {
    struct spike *spike = ctx;
    (void)index;
    struct pnx_lease lease = mock_acquire(spike->pool, 30 * PNX_SEC);
    sched_yield();
    pnx_lease_release(&lease);
    __atomic_add_fetch(&spike->served, 1, __ATOMIC_RELAXED);
}

TEST(p5_a_spike_of_50_callers_on_5_idle_opens_no_more_than_max_connecting) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 50, .min_idle = 5));
    UNTIL(pool, s.idle == 5);
    mock_set(mock, &mock->hold_connect, true); /* connects are slow, use is quick */
    struct spike spike = {.pool = pool};
    test_threads(50, spike_client, &spike);
    CHECK_EQ(spike.served, 50);
    mock_set(mock, &mock->hold_connect, false);
    UNTIL(pool, s.connecting == 0);
    CHECK(mock_read(mock, &mock->connects) <= 7);
    CHECK(mock_read(mock, &mock->peak) <= 7);
    tear_down(pool);
}

TEST(p6_a_server_that_is_down_sees_no_storm_and_comes_back_unaided) {
    set_up();
    mock->connect_errors = -1;
    mock->message = "no route";
    struct pnx_pool *pool = mock_pool(
            &mock_manager, OPTS(.max = 16, .max_connecting = 8, .backoff_ns = 40 * PNX_MS,
                                   .backoff_max_ns = 80 * PNX_MS, .breaker_failures = UINT32_MAX));
    enum { N = 32 };
    struct caller callers[N] = {0}, late[4] = {0};
    pnx_ns before = pnx_now();
    for (int i = 0; i < N; i++)
        caller_start(&callers[i], pool, 400 * PNX_MS);
    for (int i = 0; i < 4; i++) {
        late[i].release = true;
        caller_start(&late[i], pool, PNX_NEVER);
    }
    for (int i = 0; i < N; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, -ETIMEDOUT);
        CHECK_STR(callers[i].err.phase, "connect");
        CHECK_EQ(callers[i].err.cause, -ECONNREFUSED);
        CHECK_CONTAINS(callers[i].err.message, "no route");
    }
    /* One at a time, with pauses of 40 ms on average: far fewer than the number of callers, or of 8 at once. */
    int tried = mock_read(mock, &mock->failed);
    pnx_ns took = pnx_now() - before;
    CHECK_MSG(tried >= 2 && tried <= 8 + (int)(took / (5 * PNX_MS)), "%d connects in %lld ns",
            tried, (long long)took);
    pthread_mutex_lock(&mock->lock);
    mock->connect_errors = 0;
    pthread_mutex_unlock(&mock->lock);
    for (int i = 0; i < 4; i++) {
        caller_join(&late[i]);
        CHECK_EQ(late[i].rc, 0);
    }
    tear_down(pool);
}

TEST(p6_after_a_failure_connects_are_tried_one_by_one_until_one_succeeds) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 8, .max_connecting = 2, .backoff_ns = PNX_MS));
    mock->connect_errors = 1;
    mock_set(mock, &mock->hold_connect, true);
    struct caller callers[4] = {0};
    for (int i = 0; i < 4; i++)
        caller_start(&callers[i], pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 2);
    mock_set(mock, &mock->hold_connect, false);
    for (int i = 0; i < 4; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, 0);
    }
    mock_set(mock, &mock->hold_connect, true); /* a success has opened the window again */
    struct caller more[2] = {0};
    for (int i = 0; i < 2; i++)
        caller_start(&more[i], pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 2);
    mock_set(mock, &mock->hold_connect, false);
    for (int i = 0; i < 2; i++) {
        caller_join(&more[i]);
        pnx_lease_release(&more[i].lease);
    }
    for (int i = 0; i < 4; i++)
        pnx_lease_release(&callers[i].lease);
    tear_down(pool);
}

TEST(p8_a_discard_lets_a_waiter_have_a_new_connect) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct caller callers[5] = {0};
    for (int i = 0; i < 5; i++) {
        caller_start(&callers[i], pool, PNX_NEVER);
        UNTIL(pool, s.waiting == (uint64_t)i + 1);
    }
    pnx_lease_discard(&lease);
    for (int i = 0; i < 5; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, 0);
        CHECK_EQ(mock_of(&callers[i].lease)->id, i + 1);
        pnx_lease_discard(&callers[i].lease);
    }
    CHECK_EQ(mock_read(mock, &mock->peak), 1); /* P1: never two at once */
    tear_down(pool);
}

TEST(p1_a_slot_is_taken_until_its_close_has_returned) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    mock_set(mock, &mock->hold_close, true);
    pnx_lease_discard(&lease); /* returns although close hangs */
    mock_wait(mock, &mock->in_close, 1);
    CHECK_EQ(pnx_pool_acquire(pool, 20 * PNX_MS, NULL, &lease), -ETIMEDOUT);
    CHECK_EQ(mock_read(mock, &mock->live), 1);
    mock_set(mock, &mock->hold_close, false);
    lease = mock_acquire(pool, 30 * PNX_SEC);
    CHECK_EQ(mock_read(mock, &mock->peak), 1);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(an_overdue_connect_does_not_stand_in_the_way_of_the_next) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 4, .max_connecting = 1,
                                             .connect_timeout_ns = PNX_MS, .backoff_ns = PNX_MS));
    mock_set(mock, &mock->hold_connect, true); /* a connect that ignores its deadline */
    struct caller caller = {0};
    caller_start(&caller, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 3);
    CHECK(mock_stats(pool).overdue >= 2);
    CHECK_STR(health_of_db(PNX_HEALTH_DOWN), "connects fail and no resource is alive");
    mock_set(mock, &mock->hold_connect, false);
    caller_join(&caller);
    CHECK_EQ(caller.rc, 0);
    CHECK(mock_read(mock, &mock->peak) <= 4);
    pnx_lease_release(&caller.lease);
    tear_down(pool);
}

TEST(timers_are_watched_while_the_thread_that_watched_them_works) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager,
            OPTS(.max = 4, .max_connecting = 1, .connect_timeout_ns = PNX_MS, .backoff_ns = PNX_MS,
                    .idle_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    /* Two threads are left: the first to park watches the timers, and is the first to be woken for work. */
    pnx_ns begin = pnx_now();
    for (bool both = false; !both; sched_yield()) {
        pnx__pool_lock(pool);
        both = pool->parked == 2;
        pnx__mutex_unlock(&pool->lock);
        CHECK(pnx_now() - begin < 30 * PNX_SEC);
    }
    mock_set(mock, &mock->hold_connect, true); /* a connect that ignores its deadline */
    begin = pnx_now();
    struct caller caller = {0};
    caller_start(&caller, pool, 60 * PNX_SEC);
    UNTIL(pool, s.overdue >= 1);
    CHECK(pnx_now() - begin < 15 * PNX_SEC); /* the other one sleeps for 30 s if nobody wakes it */
    mock_set(mock, &mock->hold_connect, false);
    caller_join(&caller);
    CHECK_EQ(caller.rc, 0);
    pnx_lease_release(&caller.lease);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(what_is_idle_is_looked_after_in_time_however_far_ahead_the_other_timers_are) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager,
            OPTS(.max = 2, .idle_ns = 10 * PNX_MS, .connect_timeout_ns = 3600 * PNX_SEC,
                    .close_timeout_ns = 3600 * PNX_SEC));
    for (int i = 0; i < 3; i++) {
        struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
        pnx_lease_release(&lease);
        UNTIL(pool, s.closed_idle == (uint64_t)i + 1);
    }
    tear_down(pool);
}

TEST(a_pool_whose_threads_cannot_be_started_works_in_its_callers) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    test_os_fault("pthread_create", 1, true, EAGAIN);
    for (int i = 0; i < 3; i++) {
        struct pnx_lease a = mock_acquire(pool, 30 * PNX_SEC), b = mock_acquire(pool, 30 * PNX_SEC);
        pnx_lease_release(&a);
        pnx_lease_discard(&b);
    }
    CHECK(mock_stats(pool).thread_failures > 0);
    CHECK_EQ(mock_stats(pool).threads, 0);
    CHECK(test_os_fault_clear() > 0);
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_discard(&lease);
    lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_lease_discard(&lease);
    UNTIL(pool, s.threads > 0);
    tear_down(pool);
}

TEST(p8_a_waiter_connects_itself_when_the_only_thread_hangs_and_no_other_can_be_had) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    test_os_fault("pthread_create", 2, true, EAGAIN);
    mock_set(mock, &mock->hold_connect, true);
    struct caller callers[2] = {{0}};
    caller_start(&callers[0], pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 1);
    caller_start(&callers[1], pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 2);
    CHECK(test_os_fault_clear() > 0);
    mock_set(mock, &mock->hold_connect, false);
    for (int i = 0; i < 2; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, 0);
        pnx_lease_release(&callers[i].lease);
    }
    tear_down(pool);
}

/* ---- the end ---- */

TEST(close_wakes_all_waiters_at_once_and_waits_for_what_is_out) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    enum { N = 70 }; /* more than one batch of wakes */
    static struct caller callers[N];
    for (int i = 0; i < N; i++)
        caller_start(&callers[i], pool, PNX_NEVER);
    UNTIL(pool, s.waiting == N);
    pnx_ns before = pnx_now();
    CHECK_EQ(pnx_pool_close(pool, 30 * PNX_MS), 1);
    CHECK(pnx_now() - before >= 30 * PNX_MS);
    for (int i = 0; i < N; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, -ESHUTDOWN);
        CHECK_STR(callers[i].err.phase, "closed");
    }
    pnx_lease_release(&lease);
    tear_down(pool);
}

static void *close_pool(void *arg) {
    CHECK_EQ(pnx_pool_close(arg, PNX_NEVER), 0);
    return NULL;
}

TEST(many_may_close_at_once_and_all_wait_for_the_last_lease) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pthread_t closers[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&closers[i], NULL, close_pool, pool) == 0);
    struct pnx_lease other = {0};
    while (pnx_pool_acquire(pool, 0, NULL, &other) != -ESHUTDOWN) {
        pnx_lease_release(&other); /* a try may well succeed before the first closer comes */
        sched_yield();
    }
    pnx_lease_release(&lease);
    for (int i = 0; i < 4; i++)
        pthread_join(closers[i], NULL);
    tear_down(pool);
}

TEST(close_returns_at_its_deadline_when_a_connect_hangs) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    mock_set(mock, &mock->hold_connect, true);
    struct caller caller = {0};
    caller_start(&caller, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 1);
    CHECK_EQ(pnx_pool_close(pool, 10 * PNX_MS), 1);
    caller_join(&caller);
    CHECK_EQ(caller.rc, -ESHUTDOWN);
    mock_set(mock, &mock->hold_connect, false);
    CHECK_EQ(pnx_pool_close(pool, 30 * PNX_SEC), 0); /* the late resource was closed, too */
    CHECK_EQ(mock->closes, mock->connects);
    tear_down(pool);
}

TEST(the_last_thread_frees_a_released_pool) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4, .min_idle = 2));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    pnx_pool_release(&pool);
    pnx_lease_release(&lease);
    pnx_ns until = pnx_now() + 30 * PNX_SEC;
    while (__atomic_load_n(&te.live_blocks, __ATOMIC_ACQUIRE) != 0) {
        CHECK(pnx_now() < until);
        sched_yield();
    }
    CHECK_EQ(mock_read(mock, &mock->live), 0);
    free(mock);
}

/* ---- stress ---- */

struct storm {
    struct pnx_pool *pool;
    int rounds;
    unsigned spin;
    bool odd; /* discards, tries, cancels and tiny timeouts */
    bool may_close;
    uint64_t seed;
    int64_t grants;
    int64_t timeouts;
};

static void storm_client(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    uint64_t random = storm->seed + index;
    for (int i = 0; i < storm->rounds; i++) {
        struct pnx_lease lease = {0};
        uint64_t dice = test_random(&random);
        pnx_ns timeout = 30 * PNX_SEC;
        if (storm->odd && dice % 4 == 0)
            timeout = (pnx_ns)(dice / 16 % (uint64_t)(60 * PNX_US));
        int rc = pnx_pool_acquire(storm->pool, timeout, NULL, &lease);
        if (rc == -ESHUTDOWN && storm->may_close)
            return;
        if (rc == -ETIMEDOUT && timeout < PNX_SEC) {
            __atomic_add_fetch(&storm->timeouts, 1, __ATOMIC_RELAXED);
            continue;
        }
        CHECK_MSG(rc == 0, "acquire: %s", pnx_errname(rc));
        /* The owner swap: nobody else may have it, neither now nor before we let go. */
        struct mock_resource *resource = mock_of(&lease);
        CHECK_EQ(__atomic_exchange_n(&resource->owner, (int)index + 1, __ATOMIC_RELAXED), 0);
        for (unsigned k = 0; k < dice % (storm->spin + 1); k++)
            pnx__spin_hint();
        CHECK_EQ(__atomic_exchange_n(&resource->owner, 0, __ATOMIC_RELAXED), (int)index + 1);
        __atomic_add_fetch(&storm->grants, 1, __ATOMIC_RELAXED);
        if (storm->odd && dice % 64 == 1)
            pnx_lease_discard(&lease);
        else
            pnx_lease_release(&lease);
    }
}

static int rounds(int n) {
    return test_long() ? 10 * n : test_slow() ? n / 5 : n;
}

TEST(stress_at_max_1_loses_no_wakeup) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct storm storm = {.pool = pool, .rounds = rounds(4000), .seed = test_seed()};
    test_threads(8, storm_client, &storm);
    CHECK_EQ(storm.grants, 8 * storm.rounds);
    CHECK_EQ(mock->connects, 1);
    CHECK_EQ(mock_stats(pool).acquires, (uint64_t)storm.grants);
    tear_down(pool);
}

TEST(stress_with_timeouts_discards_and_stale_checks) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 3, .check_after_ns = 20 * PNX_US,
                                             .idle_ns = PNX_MS, .lifetime_ns = 5 * PNX_MS));
    struct storm storm = {
            .pool = pool, .rounds = rounds(4000), .odd = true, .spin = 200, .seed = test_seed()};
    test_threads(8, storm_client, &storm);
    CHECK(storm.timeouts > 0 && storm.grants > 0);
    CHECK(mock->peak <= 3);
    tear_down(pool);
}

TEST(stress_of_callers_who_give_up) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct storm storm = {.pool = pool, .rounds = rounds(3000), .odd = true, .seed = test_seed()};
    pnx_lease_release(&lease);
    test_threads(16, storm_client, &storm);
    CHECK_EQ(mock_stats(pool).waiting, 0);
    CHECK_EQ(mock_stats(pool).in_use, 0);
    tear_down(pool);
}

static void operate(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    if (index > 1) {
        storm_client(index, ctx);
        return;
    }
    uint64_t random = storm->seed;
    for (int i = 0; index == 0 && i < storm->rounds / 4; i++) {
        CHECK_EQ(pnx_pool_resize(storm->pool, 1 + (uint32_t)(test_random(&random) % 12), NULL), 0);
        pnx_pool_tick(storm->pool, pnx_now());
        sched_yield();
    }
}

static int discard_text(void *ctx, const char *text, size_t n) {
    (void)ctx;
    CHECK(n > 0 && strlen(text) >= n);
    return 0;
}

TEST(stress_with_resizes_ticks_and_dumps) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4, .idle_ns = PNX_MS));
    struct storm storm = {
            .pool = pool, .rounds = rounds(2000), .odd = true, .spin = 50, .seed = test_seed()};
    test_threads(8, operate, &storm);
    CHECK_EQ(pnx_pool_dump(pool, discard_text, NULL), 0);
    tear_down(pool);
}

static void close_under_traffic(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    if (index > 0) {
        storm_client(index, ctx);
        return;
    }
    while (__atomic_load_n(&storm->grants, __ATOMIC_RELAXED) < 50)
        sched_yield();
    CHECK_EQ(pnx_pool_close(storm->pool, 30 * PNX_SEC), 0);
}

TEST(stress_close_during_traffic) {
    int cycles = test_slow() ? 30 : 150;
    for (int i = 0; i < cycles; i++) {
        set_up();
        struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 3));
        struct storm storm = {.pool = pool,
                .rounds = 1 << 30,
                .odd = true,
                .may_close = true,
                .seed = test_seed() + (uint64_t)i};
        test_threads(5, close_under_traffic, &storm);
        tear_down(pool);
    }
}

TEST(stress_of_pools_without_threads_shared_by_threads) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 2, .flags = PNX_POOL_NO_THREADS,
                                             .check_after_ns = 20 * PNX_US, .idle_ns = PNX_MS));
    struct storm storm = {
            .pool = pool, .rounds = rounds(2000), .odd = true, .spin = 100, .seed = test_seed()};
    test_threads(8, storm_client, &storm);
    CHECK(mock->peak <= 2);
    CHECK_EQ(mock_stats(pool).threads, 0);
    tear_down(pool);
}

static void flaky_client(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    if (index > 0) {
        storm_client(index, ctx);
        return;
    }
    uint64_t random = storm->seed;
    for (int i = 0; i < storm->rounds; i++) { /* the server comes and goes */
        pthread_mutex_lock(&mock->lock);
        mock->connect_errors = (int)(test_random(&random) % 3);
        pthread_mutex_unlock(&mock->lock);
        sched_yield();
    }
    pthread_mutex_lock(&mock->lock);
    mock->connect_errors = 0;
    pthread_mutex_unlock(&mock->lock);
}

TEST(stress_with_a_flaky_server) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager,
            OPTS(.max = 3, .backoff_ns = 50 * PNX_US, .backoff_max_ns = 200 * PNX_US,
                    .breaker_failures = UINT32_MAX)); /* any number may fail in a row */
    struct storm storm = {
            .pool = pool, .rounds = rounds(2000), .odd = true, .spin = 100, .seed = test_seed()};
    test_threads(8, flaky_client, &storm);
    tear_down(pool);
}
