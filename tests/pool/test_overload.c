/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool when there is too little: the breaker, priorities, shedding, callers who may overtake, waits inside a lease.
 *
 * Nearly all in one thread, on a virtual clock; those who wait are requests.
 */
#include "pool/kit.h"
#include "pool/pool.h"

/* ---- the breaker ---- */

#define BREAKER(...) \
    OPTS(.max = 4, .backoff_ns = PNX_MS, .backoff_max_ns = 2 * PNX_SEC, __VA_ARGS__)

static void fail_with(int code, const char *message, int verdict) {
    mock->connect_errors = -1;
    mock->connect_error = code;
    mock->message = message;
    mock->verdict = verdict;
}

/* Asks, and lets the connect that this brings fail; its pause is over afterwards. */
static int try_one(struct pnx_pool *pool) {
    struct pnx_lease lease = {0};
    int before = mock->failed;
    int rc = pnx_pool_acquire(pool, 0, NULL, &lease);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->failed, before + 1);
    advance(pool, 2 * PNX_SEC);
    CHECK_EQ(mock->failed, before + 1); /* nobody has asked since */
    return rc;
}

TEST(p11_the_breaker_opens_after_breaker_failures_and_acquires_fail_at_once_with_the_cause) {
    set_up();
    fail_with(-EACCES, "no such user \"joe\"", PNX_POOL_TRANSIENT);
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = 3));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(mock_stats(pool).breaker_open, 0);
        CHECK_EQ(try_one(pool), -ETIMEDOUT);
    }
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    CHECK_EQ(mock_stats(pool).breaker_opened, 1);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_NEVER, &err, &lease), PNX_E_BREAKER);
    CHECK_EQ(err.code, PNX_E_BREAKER);
    CHECK_EQ(err.cause, -EACCES);
    CHECK_STR(err.phase, "breaker");
    CHECK_CONTAINS(err.message, "connects fail, the breaker is open");
    CHECK_CONTAINS(err.message, "no such user \"joe\"");
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), PNX_E_BREAKER);
    CHECK_EQ(mock->failed, 3);
    CHECK_EQ(mock_stats(pool).refused, 2);
    CHECK(lease.slot == NULL);
    tear_down(pool);
}

TEST(p11_the_breaker_stays_closed_while_a_resource_is_alive_and_opens_when_it_is_gone) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = 2));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    fail_with(-EPIPE, "gone", PNX_POOL_TRANSIENT);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(try_one(pool), -ETIMEDOUT);
    CHECK_EQ(mock_stats(pool).breaker_open, 0);
    pnx_lease_release(&lease);
    lease = mock_acquire(pool, 0); /* what is idle keeps serving */
    pnx_lease_discard(&lease);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_NEVER, NULL, &lease), PNX_E_BREAKER);
    tear_down(pool);
}

TEST(p11_detaching_the_last_resource_opens_the_breaker_and_health_says_so) {
    set_up();
    struct pnx_stats *set = events_begin();
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = 2, .stats = set));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    fail_with(-EPIPE, "gone", PNX_POOL_TRANSIENT);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(try_one(pool), -ETIMEDOUT);
    CHECK_STR(health_in(set, PNX_HEALTH_DEGRADED), "connects fail");
    stray_close(pnx_lease_detach(&lease));
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    CHECK_STR(health_in(set, PNX_HEALTH_DOWN), "the breaker is open");
    tear_down(pool);
    events_end();
}

TEST(p11_all_who_wait_are_failed_when_the_breaker_opens) {
    set_up();
    enum { N = 40 }; /* more than one batch */
    static struct ask asks[N];
    fail_with(-EACCES, "no", PNX_POOL_TRANSIENT);
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = 2));
    for (int i = 0; i < N; i++)
        ask_start(&asks[i], pool, PNX_PRIORITY_LOW + (enum pnx_priority)(i % 4), PNX_NEVER);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->failed, 1);
    CHECK_EQ(asks_begun, 0);
    advance(pool, 2 * PNX_SEC);
    CHECK_EQ(mock->failed, 2);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(ask_calls(&asks[i]), 1);
        CHECK_EQ(asks[i].code, PNX_E_BREAKER);
        CHECK_EQ(asks[i].err.cause, -EACCES);
        CHECK_STR(asks[i].err.phase, "breaker");
    }
    CHECK_EQ(mock_stats(pool).waiting, 0);
    tear_down(pool);
}

TEST(p11_callers_who_block_are_failed_when_the_breaker_opens) {
    set_up();
    te.virtual_time = false;
    fail_with(-EACCES, "no", PNX_POOL_TRANSIENT);
    struct pnx_pool *pool = mock_pool(
            &mock_full, OPTS_THREADS(.max = 4, .backoff_ns = PNX_MS, .backoff_max_ns = PNX_MS));
    struct caller callers[6] = {0};
    for (int i = 0; i < 6; i++)
        caller_start(&callers[i], pool, PNX_NEVER); /* they end, or the test does not */
    for (int i = 0; i < 6; i++) {
        caller_join(&callers[i]);
        CHECK_EQ(callers[i].rc, PNX_E_BREAKER);
        CHECK_EQ(callers[i].err.cause, -EACCES);
    }
    CHECK(mock_read(mock, &mock->failed) >= 5); /* the default */
    tear_down(pool);
}

TEST(p11_an_open_breaker_tries_one_connect_at_a_time_after_the_pause_and_only_if_somebody_asked) {
    set_up();
    fail_with(-EACCES, "no", PNX_POOL_PERMANENT); /* pauses of at least half of backoff_max */
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.max_connecting = 4));
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    for (int round = 1; round < 4; round++) {
        CHECK_EQ(mock->failed, round);
        for (int i = 0; i < 5; i++)
            CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), PNX_E_BREAKER);
        advance(pool, PNX_SEC - 1);
        CHECK_EQ(mock->failed, round); /* the pause */
        advance(pool, PNX_SEC + 1);
        CHECK_EQ(mock->failed, round + 1); /* one, though five asked */
        for (int i = 0; i < 5; i++)
            advance(pool, 10 * PNX_SEC);
        CHECK_EQ(mock->failed, round + 1); /* none, for nobody asked */
        CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), PNX_E_BREAKER);
        pnx_pool_tick(pool, te.now);
        CHECK_EQ(mock->failed, round + 2); /* at once, for the pause was over */
        mock->failed = round + 1;
    }
    tear_down(pool);
}

TEST(p11_the_next_resource_closes_the_breaker_and_events_and_health_tell) {
    set_up();
    struct pnx_stats *set = events_begin();
    fail_with(-EACCES, "no", PNX_POOL_TRANSIENT);
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = 2, .stats = set));
    struct pnx_lease lease = {0};
    CHECK_EQ(try_one(pool), -ETIMEDOUT);
    events_clear();
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_STR(events.all,
            "pool_acquire_failed -" PNX_STRINGIFY(ETIMEDOUT) " connect|pool_connect_failed -13 -|"
                                                             "pool_breaker_opened -13 connect|");
    CHECK_EQ(events.value, 2);
    CHECK_STR(health_in(set, PNX_HEALTH_DOWN), "the breaker is open");
    mock->connect_errors = 0;
    events_clear();
    advance(pool, 2 * PNX_SEC);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), PNX_E_BREAKER);
    advance(pool, PNX_SEC);
    CHECK_STR(events.all, "pool_acquire_failed -4100 breaker|pool_connection_created 0 -|"
                          "pool_breaker_closed 0 -|");
    CHECK_EQ(events.value, 3 * PNX_SEC);
    CHECK_EQ(mock_stats(pool).breaker_open, 0);
    lease = mock_acquire(pool, 0);
    advance(pool, 10 * PNX_SEC);
    health_in(set, PNX_HEALTH_OK);
    pnx_lease_release(&lease);
    /* ... and it takes as many failures as before to open it again. */
    lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_discard(&lease);
    mock->connect_errors = -1;
    CHECK_EQ(try_one(pool), -ETIMEDOUT);
    CHECK_EQ(mock_stats(pool).breaker_open, 0);
    CHECK_EQ(try_one(pool), -ETIMEDOUT);
    CHECK_EQ(mock_stats(pool).breaker_opened, 2);
    tear_down(pool);
    events_end();
}

TEST(a_permanent_error_opens_the_breaker_at_once_if_nothing_is_alive) {
    set_up();
    fail_with(-EACCES, "wrong password", PNX_POOL_PERMANENT);
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = UINT32_MAX));
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(ask.code, PNX_E_BREAKER);
    CHECK_EQ(ask.err.cause, -EACCES);
    CHECK_EQ(mock->failed, 1);
    mock->connect_errors = 0;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    CHECK_EQ(ask.code, PNX_E_BREAKER);
    advance(pool, 2 * PNX_SEC);
    struct pnx_lease lease = mock_acquire(pool, 0);
    fail_with(-EACCES, "wrong password", PNX_POOL_PERMANENT);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->failed, 2);
    CHECK_EQ(ask_calls(&ask), 0); /* something is alive */
    pnx_lease_release(&lease);
    CHECK(ask_granted(&ask));
    pnx_lease_release(&ask.lease);
    tear_down(pool);
}

TEST(overload_does_not_count_for_the_breaker_and_pauses_long) {
    set_up();
    fail_with(-EBUSY, "too many connections", PNX_POOL_OVERLOAD);
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = 2));
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    pnx_pool_tick(pool, te.now);
    for (int i = 1; i < 10; i++) {
        CHECK_EQ(mock->failed, i);
        advance(pool, PNX_SEC - 1);
        CHECK_EQ(mock->failed, i); /* half of backoff_max at least, though backoff_ns is 1 ms */
        advance(pool, PNX_SEC + 1);
    }
    CHECK_EQ(mock_stats(pool).breaker_open, 0);
    CHECK_EQ(ask_calls(&ask), 0);
    mock->verdict = PNX_POOL_TRANSIENT;
    advance(pool, 2 * PNX_SEC);
    advance(pool, 2 * PNX_SEC);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    CHECK_EQ(ask.code, PNX_E_BREAKER);
    tear_down(pool);
}

TEST(breaker_failures_of_uint32_max_never_opens_it_for_what_may_pass) {
    set_up();
    fail_with(-EPIPE, "no", PNX_POOL_TRANSIENT);
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.breaker_failures = UINT32_MAX));
    for (int i = 0; i < 50; i++)
        CHECK_EQ(try_one(pool), -ETIMEDOUT);
    CHECK_EQ(mock_stats(pool).breaker_open, 0);
    mock->verdict = 99; /* no verdict: transient */
    CHECK_EQ(try_one(pool), -ETIMEDOUT);
    mock->verdict = PNX_POOL_PERMANENT;
    CHECK_EQ(try_one(pool), -ETIMEDOUT);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    tear_down(pool);
}

TEST(stale_all_from_a_connect_makes_all_old) {
    set_up();
    struct pnx_stats *set = events_begin();
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER(.stats = set));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC),
                     c = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&c); /* one idle, two out */
    fail_with(-EROFS, "the server was replaced", PNX_POOL_STALE_ALL);
    CHECK_EQ(pnx_pool_warm_up(pool, 4, 0, NULL), -EINPROGRESS);
    events_clear();
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->failed, 1);
    CHECK_CONTAINS(events.all, "pool_reset 0 -|");
    CHECK_EQ(mock_stats(pool).closed_stale, 1);
    CHECK_EQ(mock_stats(pool).generations, 1);
    mock->connect_errors = 0;
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    CHECK_EQ(mock_stats(pool).closed_stale, 3);
    advance(pool, 2 * PNX_SEC);
    a = mock_acquire(pool, 0);
    CHECK(mock_of(&a)->id >= 3);
    pnx_lease_release(&a);
    tear_down(pool);
    events_end();
}

TEST(p11_connects_that_hang_past_their_deadline_open_the_breaker_too) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_full,
            OPTS_THREADS(.max = 8, .max_connecting = 1, .breaker_failures = 3, .backoff_ns = PNX_MS,
                    .backoff_max_ns = PNX_MS, .connect_timeout_ns = PNX_SEC));
    mock_set(mock, &mock->hold_connect, true);
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    for (int i = 1; i <= 3; i++) {
        mock_wait(mock, &mock->in_connect, i);
        CHECK_EQ(mock_stats(pool).breaker_open, 0);
        advance(pool, PNX_SEC + PNX__POOL_GRACE); /* overdue */
        advance(pool, PNX_MS);                    /* the pause */
    }
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    ask_await(&ask);
    CHECK_EQ(ask.code, PNX_E_BREAKER);
    CHECK_EQ(ask.err.cause, -ETIMEDOUT);
    mock_set(mock, &mock->hold_connect, false);
    UNTIL(pool, s.breaker_open == 0); /* late, but here */
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    tear_down(pool);
}

static int connects_at_once, most_at_once;

/* Inside a connect: looks for more work, as another thread might. */
static void look_for_more(struct mock *m) {
    if (++connects_at_once > most_at_once)
        most_at_once = connects_at_once;
    if (connects_at_once < 4)
        pnx_pool_tick(m->pool, te.now);
    connects_at_once--;
}

TEST(p6_while_a_connect_is_tried_after_a_failure_no_other_one_begins) {
    for (int breaker = 0; breaker < 2; breaker++) {
        set_up();
        most_at_once = 0;
        struct pnx_pool *pool =
                mock_pool(&mock_full, BREAKER(.min_idle = 4, .max_connecting = 4,
                                              .breaker_failures = breaker ? 1 : UINT32_MAX));
        mock->pool = pool;
        mock->during = look_for_more;
        fail_with(-EPIPE, "no", PNX_POOL_TRANSIENT);
        pnx_pool_tick(pool, te.now);
        CHECK_EQ(most_at_once, 4); /* nothing has failed before */
        CHECK_EQ(mock_stats(pool).breaker_open, breaker);
        most_at_once = 0;
        int failed = mock->failed;
        advance(pool, 2 * PNX_SEC);
        CHECK_EQ(most_at_once, 1);
        CHECK_EQ(mock->failed, failed + 1);
        mock->connect_errors = 0;
        advance(pool, 2 * PNX_SEC);
        CHECK_EQ(mock_stats(pool).idle, 4);
        CHECK(most_at_once >= 2 && most_at_once < 4); /* each success allows one more */
        mock->during = NULL;
        tear_down(pool);
    }
}

TEST(a_closed_pool_has_no_open_breaker) {
    set_up();
    fail_with(-EACCES, "no", PNX_POOL_PERMANENT);
    struct pnx_pool *pool = mock_pool(&mock_full, BREAKER());
    CHECK_EQ(try_one(pool), -ETIMEDOUT);
    CHECK_EQ(mock_stats(pool).breaker_open, 1);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK_EQ(mock_stats(pool).breaker_open, 0);
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ESHUTDOWN);
    tear_down(pool);
}

/* ---- priorities ---- */

/* One resource, taken; requests wait for it. */
struct crowd {
    struct pnx_pool *pool;
    struct pnx_lease lease;
    struct ask asks[32];
    int n;
};

static void crowd_begin(struct crowd *crowd, const struct pnx_pool_opts *opts) {
    set_up();
    struct pnx_pool_opts one = *opts;
    one.ctx = mock;
    *crowd = (struct crowd){.pool = mock_pool(&mock_bare, &one)};
    crowd->lease = mock_acquire(crowd->pool, PNX_SEC);
}
/* set_up() comes first, so the options are made without a mock. */
#define CROWD(...) \
    PNX_POOL_OPTS(.name = "db", .env = &te.env, .flags = PNX_POOL_NO_THREADS, .max = 1, __VA_ARGS__)

static struct ask *join_crowd(struct crowd *crowd, enum pnx_priority priority) {
    struct ask *ask = &crowd->asks[crowd->n++];
    ask_start(ask, crowd->pool, priority, PNX_NEVER);
    return ask;
}

/* Releases the resource; whoever gets it must be this one. */
static void pass_to(struct crowd *crowd, struct ask *ask) {
    CHECK_EQ(ask_calls(ask), 0);
    pnx_lease_release(&crowd->lease);
    CHECK(ask_granted(ask));
    crowd->lease = ask->lease;
}

static void crowd_end(struct crowd *crowd) {
    CHECK_EQ(mock_stats(crowd->pool).waiting, 0);
    pnx_lease_release(&crowd->lease);
    tear_down(crowd->pool);
}

TEST(higher_priorities_go_first_and_equal_ones_in_order) {
    static struct crowd crowd;
    crowd_begin(&crowd, CROWD(.ageing_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER));
    struct ask *low = join_crowd(&crowd, PNX_PRIORITY_LOW);
    struct ask *first = join_crowd(&crowd, PNX_PRIORITY_DEFAULT); /* normal */
    struct ask *second = join_crowd(&crowd, PNX_PRIORITY_NORMAL);
    struct ask *high = join_crowd(&crowd, PNX_PRIORITY_HIGH);
    struct ask *critical = join_crowd(&crowd, PNX_PRIORITY_CRITICAL);
    test_env_advance(&te, 3600 * PNX_SEC); /* ageing is off */
    struct ask *later = join_crowd(&crowd, PNX_PRIORITY_CRITICAL);
    pass_to(&crowd, critical);
    pass_to(&crowd, later);
    pass_to(&crowd, high);
    pass_to(&crowd, first);
    pass_to(&crowd, second);
    pass_to(&crowd, low);
    crowd_end(&crowd);
}

TEST(p14_a_waiter_rises_by_one_priority_for_each_ageing_ns) {
    static struct crowd crowd;
    crowd_begin(&crowd, CROWD(.ageing_ns = PNX_SEC));
    struct ask *low = join_crowd(&crowd, PNX_PRIORITY_LOW);
    test_env_advance(&te, PNX_SEC - 1);
    struct ask *normal = join_crowd(&crowd, PNX_PRIORITY_NORMAL);
    pass_to(&crowd, normal);
    normal = join_crowd(&crowd, PNX_PRIORITY_NORMAL);
    struct ask *high = join_crowd(&crowd, PNX_PRIORITY_HIGH);
    test_env_advance(&te, 1);
    pass_to(&crowd, high); /* low counts as normal now, and is the first of those */
    pass_to(&crowd, low);
    pass_to(&crowd, normal);
    low = join_crowd(&crowd, PNX_PRIORITY_LOW);
    test_env_advance(&te, 3 * PNX_SEC - 1);
    struct ask *critical = join_crowd(&crowd, PNX_PRIORITY_CRITICAL);
    pass_to(&crowd, critical);
    critical = join_crowd(&crowd, PNX_PRIORITY_CRITICAL);
    test_env_advance(&te, 1);
    pass_to(&crowd, low); /* as good as critical, and was here first */
    pass_to(&crowd, critical);
    crowd_end(&crowd);
}

TEST(p14_nobody_starves_behind_callers_of_a_higher_priority) {
    static struct crowd crowd;
    crowd_begin(&crowd, CROWD(.ageing_ns = 100 * PNX_MS));
    struct ask low = {0}, critical[2];
    ask_start(&low, crowd.pool, PNX_PRIORITY_LOW, PNX_NEVER);
    ask_start(&critical[0], crowd.pool, PNX_PRIORITY_CRITICAL, PNX_NEVER);
    int passed = 0;
    for (; ask_calls(&low) == 0; passed++) { /* one more comes before each release */
        CHECK(passed <= 30);
        ask_start(&critical[(passed + 1) % 2], crowd.pool, PNX_PRIORITY_CRITICAL, PNX_NEVER);
        test_env_advance(&te, 10 * PNX_MS);
        pnx_lease_release(&crowd.lease);
        crowd.lease = ask_calls(&low) ? low.lease : critical[passed % 2].lease;
    }
    CHECK(ask_granted(&low));
    CHECK(passed >= 29);
    pnx_lease_release(&crowd.lease);
    CHECK(ask_granted(&critical[(passed - 1) % 2]));
    pnx_lease_release(&critical[(passed - 1) % 2].lease);
    CHECK(ask_granted(&critical[passed % 2]));
    pnx_lease_release(&critical[passed % 2].lease);
    tear_down(crowd.pool);
}

TEST(max_waiters_counts_requests_too_and_frees_places) {
    static struct crowd crowd;
    crowd_begin(&crowd, CROWD(.max_waiters = 2));
    struct ask *first = join_crowd(&crowd, PNX_PRIORITY_LOW);
    struct ask *second = join_crowd(&crowd, PNX_PRIORITY_LOW);
    struct ask *third = join_crowd(&crowd, PNX_PRIORITY_CRITICAL); /* no matter who */
    CHECK_EQ(ask_calls(third), 1);
    CHECK_EQ(third->code, -EBUSY);
    CHECK_STR(third->err.phase, "queue");
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire(crowd.pool, PNX_SEC, &err, &lease), -EBUSY);
    CHECK_EQ(pnx_pool_acquire(crowd.pool, 0, &err, &lease), -ETIMEDOUT); /* a try does not wait */
    CHECK_EQ(mock_stats(crowd.pool).rejected, 2);
    pass_to(&crowd, first);
    struct ask *fourth = join_crowd(&crowd, PNX_PRIORITY_LOW);
    pass_to(&crowd, second);
    pass_to(&crowd, fourth);
    crowd_end(&crowd);
}

/* ---- shedding ---- */

TEST(waits_that_are_too_long_for_too_long_shed_waiters_and_more_and_more_of_them) {
    static struct crowd crowd;
    struct pnx_stats *set = events_begin();
    crowd_begin(&crowd,
            CROWD(.codel_target_ns = 10 * PNX_MS, .codel_interval_ns = 100 * PNX_MS, .stats = set));
    struct ask *asks[16];
    for (int i = 0; i < 16; i++)
        asks[i] = join_crowd(&crowd, PNX_PRIORITY_NORMAL);
    test_env_advance(&te, 10 * PNX_MS - 1);
    pass_to(&crowd, asks[0]); /* a short wait */
    test_env_advance(&te, 1);
    pass_to(&crowd, asks[1]); /* too long: since 10 ms */
    test_env_advance(&te, 100 * PNX_MS - 1);
    pass_to(&crowd, asks[2]); /* not yet for an interval */
    test_env_advance(&te, 1);
    events_clear();
    pass_to(&crowd, asks[4]);
    CHECK_EQ(ask_calls(asks[3]), 1); /* it was, and so one is sent away: who has waited longest */
    CHECK_EQ(asks[3]->code, -EBUSY);
    CHECK_STR(asks[3]->err.phase, "overload");
    CHECK_STR(events.all, "pool_acquire_failed -16 overload|pool_shed -16 -|");
    CHECK_EQ(events.value, 110 * PNX_MS);
    test_env_advance(&te, 100 * PNX_MS - 1);
    pass_to(&crowd, asks[5]);
    test_env_advance(&te, 1);
    pass_to(&crowd, asks[7]); /* the next one after an interval, */
    CHECK_EQ(asks[6]->code, -EBUSY);
    test_env_advance(&te, 50 * PNX_MS - 1);
    pass_to(&crowd, asks[8]);
    test_env_advance(&te, 1);
    pass_to(&crowd, asks[10]); /* and then sooner */
    CHECK_EQ(asks[9]->code, -EBUSY);
    CHECK_EQ(mock_stats(crowd.pool).shed, 3);
    pass_to(&crowd, asks[11]);
    pass_to(&crowd, asks[12]);
    pass_to(&crowd, asks[13]);
    pass_to(&crowd, asks[14]);
    pass_to(&crowd, asks[15]);
    struct ask *fresh = join_crowd(&crowd, PNX_PRIORITY_NORMAL); /* a short wait ends it */
    pass_to(&crowd, fresh);
    fresh = join_crowd(&crowd, PNX_PRIORITY_NORMAL);
    test_env_advance(&te, 20 * PNX_MS);
    pass_to(&crowd, fresh);
    CHECK_EQ(mock_stats(crowd.pool).shed, 3);
    crowd_end(&crowd);
    events_end();
}

TEST(nobody_is_shed_unless_asked_for) {
    static struct crowd crowd;
    crowd_begin(&crowd, CROWD());
    struct ask *asks[8];
    for (int i = 0; i < 8; i++)
        asks[i] = join_crowd(&crowd, PNX_PRIORITY_NORMAL);
    for (int i = 0; i < 8; i++) {
        test_env_advance(&te, 60 * PNX_SEC);
        pass_to(&crowd, asks[i]);
    }
    crowd_end(&crowd);
}

/* ---- overtaking ---- */

/* The bare core with one resource that is out, so that each step is the test's. */
struct bare {
    struct pnx__pool_core core;
    struct pnx_slot slot;
    struct pnx__pool_effects effects;
    pnx_ns now;
};

static void bare_init(struct bare *bare, pnx_ns barge) {
    const struct pnx__pool_config config = {.connect_timeout = PNX_SEC,
            .check_after = PNX_NEVER,
            .keepalive = PNX_NEVER,
            .idle = PNX_NEVER,
            .lifetime = PNX_NEVER,
            .held_too_long = PNX_NEVER,
            .ageing = PNX_NEVER,
            .barge = barge,
            .codel_target = PNX_NEVER,
            .max_waiters = UINT32_MAX,
            .max_connecting = 1,
            .max_checking = 1,
            .breaker_failures = 5};
    memset(bare, 0, sizeof(*bare));
    bare->now = 1000 * PNX_SEC;
    pnx__pool_core_init(&bare->core, &config, 1, 1, bare->now);
    pnx__pool_core_add_slots(&bare->core, NULL, &bare->slot, 1);
    pnx__pool_effects_init(&bare->effects);
    pnx__pool_core_wish(&bare->core, &bare->effects);
    CHECK(pnx__pool_core_next_job(&bare->core, false, bare->now, &bare->effects) == &bare->slot);
    pnx__pool_core_connected(&bare->core, &bare->slot, bare, bare->now, &bare->effects);
}

static uint64_t bare_take(struct bare *bare) {
    uint64_t generation = 0;
    pnx__pool_effects_init(&bare->effects);
    bool taken = pnx__pool_core_take(&bare->core, bare->now, &bare->effects, &generation);
    CHECK(pnx__pool_core_check(&bare->core) == NULL);
    return taken ? generation : 0;
}

static void bare_join(struct bare *bare, struct pnx__pool_waiter *waiter) {
    uint64_t generation;
    int rc;
    *waiter = (struct pnx__pool_waiter){.lane = 2};
    CHECK(pnx__pool_core_join(&bare->core, waiter, false, &bare->effects, &generation, &rc) ==
            NULL);
    CHECK_EQ(rc, 0);
}

static void bare_return(struct bare *bare, uint64_t generation) {
    pnx__pool_effects_init(&bare->effects);
    CHECK(pnx__pool_slot_spend(&bare->slot, generation));
    pnx__pool_core_returned(
            &bare->core, &bare->slot, true, PNX__POOL_REASONS, bare->now, &bare->effects);
    CHECK(pnx__pool_core_check(&bare->core) == NULL);
}

TEST(barge_ns_lets_an_arriving_caller_overtake_only_those_who_have_waited_less) {
    static struct bare bare;
    struct pnx__pool_waiter waiter;
    bare_init(&bare, PNX_MS);
    uint64_t lease = bare_take(&bare);
    CHECK(lease);
    bare_join(&bare, &waiter);
    bare.now += PNX_MS - 1;
    bare_return(&bare, lease);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_POKED); /* told, but it has to be there first */
    lease = bare_take(&bare);
    CHECK(lease); /* overtaken */
    pnx__pool_core_retake(&bare.core, &waiter, bare.now, &bare.effects);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_WAITING);
    bare.now += 1;
    bare_return(&bare, lease);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_GRANTED); /* it has waited long enough */
    CHECK_EQ(bare_take(&bare), 0);
    bare_return(&bare, waiter.generation);
}

TEST(barge_ns_grants_a_waiter_that_is_there_first) {
    static struct bare bare;
    struct pnx__pool_waiter waiter, next;
    bare_init(&bare, PNX_MS);
    uint64_t lease = bare_take(&bare);
    bare_join(&bare, &waiter);
    bare_join(&bare, &next);
    bare_return(&bare, lease);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_POKED);
    CHECK_EQ(next.outcome.v, PNX__POOL_WAITING);
    pnx__pool_core_retake(&bare.core, &next, bare.now, &bare.effects); /* not its turn */
    CHECK_EQ(next.outcome.v, PNX__POOL_WAITING);
    pnx__pool_core_retake(&bare.core, &waiter, bare.now, &bare.effects);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_GRANTED);
    bare_return(&bare, waiter.generation);
    pnx__pool_core_retake(&bare.core, &next, bare.now, &bare.effects);
    CHECK_EQ(next.outcome.v, PNX__POOL_GRANTED);
    bare_return(&bare, next.generation);
}

TEST(barge_ns_keeps_what_is_idle_for_a_waiter_that_has_waited_long_enough_meanwhile) {
    static struct bare bare;
    struct pnx__pool_waiter waiter;
    bare_init(&bare, PNX_MS);
    uint64_t lease = bare_take(&bare);
    bare_join(&bare, &waiter);
    bare_return(&bare, lease);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_POKED);
    bare.now += PNX_MS; /* it is slow to come */
    CHECK_EQ(bare_take(&bare), 0);
    pnx__pool_core_retake(&bare.core, &waiter, bare.now, &bare.effects);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_GRANTED);
    bare_return(&bare, waiter.generation);
}

TEST(without_barge_ns_nobody_overtakes) {
    static struct bare bare;
    struct pnx__pool_waiter waiter;
    bare_init(&bare, 0);
    uint64_t lease = bare_take(&bare);
    bare_join(&bare, &waiter);
    bare_return(&bare, lease);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_GRANTED);
    CHECK_EQ(bare_take(&bare), 0);
    bare_return(&bare, waiter.generation);
}

TEST(a_trace_counts_who_overtakes_a_caller_that_waited_before_its_call_began) {
    static struct bare bare;
    struct pnx__pool_waiter waiter;
    bare_init(&bare, PNX_MS);
    bare.core.traced = true;
    const struct pnx_a64 *inversions = &bare.core.stats[PNX__POOL_STAT_inversions];
    uint64_t before = pnx__pool_asked(&bare.core);
    uint64_t lease = bare_take(&bare);
    bare_join(&bare, &waiter);
    bare_return(&bare, lease);
    lease = bare_take(&bare);
    CHECK(lease); /* overtaken */
    pnx__pool_note_order(&bare.core, waiter.lane, before);
    CHECK_EQ(inversions->v, 0); /* but its call had begun before */
    pnx__pool_note_order(&bare.core, waiter.lane - 1, pnx__pool_asked(&bare.core));
    CHECK_EQ(inversions->v, 0); /* the waiter is of another priority */
    pnx__pool_note_order(&bare.core, waiter.lane, pnx__pool_asked(&bare.core));
    CHECK_EQ(inversions->v, 1);
    bare.now += PNX_MS;
    bare_return(&bare, lease);
    CHECK_EQ(waiter.outcome.v, PNX__POOL_GRANTED);
    CHECK_EQ(inversions->v, 1);
    bare_return(&bare, waiter.generation);
}

struct barging {
    struct pnx_pool *pool;
    int rounds;
};

static void barge_client(unsigned index, void *ctx) {
    struct barging *barging = ctx;
    for (int i = 0; i < barging->rounds; i++) {
        struct pnx_lease lease = mock_acquire(barging->pool, 30 * PNX_SEC);
        struct mock_resource *resource = mock_of(&lease);
        CHECK_EQ(__atomic_exchange_n(&resource->owner, (int)index + 1, __ATOMIC_RELAXED), 0);
        CHECK_EQ(__atomic_exchange_n(&resource->owner, 0, __ATOMIC_RELAXED), (int)index + 1);
        pnx_lease_release(&lease);
    }
}

TEST(stress_of_callers_who_overtake_serves_all_of_them) {
    for (int max = 1; max <= 2; max++) {
        set_up();
        te.virtual_time = false;
        struct pnx_pool *pool =
                mock_pool(&mock_bare, OPTS_THREADS(.max = (uint32_t)max, .barge_ns = 200 * PNX_US));
        struct barging barging = {.pool = pool, .rounds = test_slow() ? 500 : 3000};
        test_threads(6, barge_client, &barging);
        CHECK_EQ(mock_stats(pool).acquires, 6 * (uint64_t)barging.rounds);
        CHECK_EQ(mock_stats(pool).waiting, 0);
        tear_down(pool);
    }
}

TEST(the_waits_of_late_are_smoothed_and_a_long_one_counts_for_no_more_than_some_others) {
    static struct bare bare;
    struct pnx__pool_waiter waiter;
    bare_init(&bare, 0);
    CHECK_EQ(bare.core.recent_wait, 0);
    uint64_t lease = bare_take(&bare);
    for (int i = 0; i < 2; i++) {
        bare_join(&bare, &waiter);
        waiter.since.v = (uint64_t)bare.now;
        bare.now += i == 0 ? 16 * PNX_US : PNX_SEC;
        bare_return(&bare, lease);
        lease = waiter.generation;
        CHECK_EQ(bare.core.recent_wait,
                i == 0 ? 2 * PNX_US : 2 * PNX_US + (PNX__POOL_RECENT_MAX - 2 * PNX_US) / 8);
    }
    bare_return(&bare, lease);
}

static int refuse_every_seventh(void *arg, void *resource) {
    (void)resource;
    return __atomic_add_fetch((uint32_t *)arg, 1, __ATOMIC_RELAXED) % 7 == 0 ? -EPIPE : 0;
}

/* Who comes back from the hook has its old place, and nobody who asked later may be before it then. */
TEST(stress_of_a_traced_pool_whose_hook_refuses_finds_no_grant_out_of_turn) {
    uint32_t asked = 0;
    const struct pnx_pool_hooks hooks = {
            .size = sizeof(hooks), .arg = &asked, .before_acquire = refuse_every_seventh};
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(
            &mock_bare, OPTS_THREADS(.max = 2, .flags = PNX_POOL_TRACE_ORDER, .hooks = &hooks));
    struct barging taking = {.pool = pool, .rounds = test_slow() ? 200 : 1000};
    do {
        test_threads(6, barge_client, &taking);
    } while (mock_stats(pool).waits == 0);
    CHECK(mock_stats(pool).closed_hook > 0);
    CHECK_EQ(mock_stats(pool).inversions, 0);
    tear_down(pool);
}

TEST(stress_of_a_traced_pool_finds_no_grant_out_of_turn_unless_callers_may_overtake) {
    for (int barge = 0; barge <= 1; barge++) {
        set_up();
        te.virtual_time = false;
        struct pnx_pool *pool =
                mock_pool(&mock_bare, OPTS_THREADS(.max = 2, .flags = PNX_POOL_TRACE_ORDER,
                                              .barge_ns = barge ? 200 * PNX_US : 0));
        struct barging barging = {.pool = pool, .rounds = test_slow() ? 500 : 3000};
        do {
            test_threads(6, barge_client, &barging);
        } while (mock_stats(pool).waits == 0 || (barge && mock_stats(pool).inversions == 0));
        CHECK(barge || mock_stats(pool).inversions == 0);
        tear_down(pool);
    }
}

/* ---- waits inside a lease ---- */

/* Who gives back to a waiter that has not woken yet has nothing any more, though the last one who had it was this thread. */
TEST(a_lease_that_was_handed_to_a_waiter_is_not_its_last_holders) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool =
            mock_pool(&mock_bare, OPTS_THREADS(.max = 1, .nested = PNX_POOL_NESTED_REFUSE));
    struct barging taking = {.pool = pool, .rounds = test_slow() ? 500 : 3000};
    do {
        test_threads(2, barge_client, &taking); /* -EDEADLK would be a failure */
    } while (mock_stats(pool).waits == 0);
    CHECK_EQ(mock_stats(pool).nested, 0);
    tear_down(pool);
}

TEST(a_wait_inside_a_lease_is_told_as_an_event) {
    set_up();
    struct pnx_stats *set = events_begin();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 3, .stats = set));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_stats(pool).nested, 1);
    struct pnx_lease c = {0};
    events_clear();
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC,
                     &(struct pnx_acquire_opts){
                             .size = sizeof(struct pnx_acquire_opts), .site = "here"},
                     NULL, &c),
            0);
    CHECK_CONTAINS(events.all, "pool_nested 0 here|");
    CHECK_EQ(mock_stats(pool).nested, 2);
    pnx_lease_release(&a);
    a = mock_acquire(pool, PNX_SEC); /* no wait */
    CHECK_EQ(mock_stats(pool).nested, 2);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    pnx_lease_release(&c);
    tear_down(pool);
    events_end();
}

TEST(a_wait_inside_a_lease_is_refused_if_asked_for) {
    set_up();
    struct pnx_stats *set = events_begin();
    struct pnx_pool *pool =
            mock_pool(&mock_bare, OPTS(.max = 2, .nested = PNX_POOL_NESTED_REFUSE, .stats = set));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = {0};
    struct pnx_error err = {0};
    events_clear();
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, &err, &b), -EDEADLK);
    CHECK_EQ(err.code, -EDEADLK);
    CHECK_CONTAINS(err.message, "with a lease in hand");
    CHECK_STR(events.all,
            "pool_nested -" PNX_STRINGIFY(EDEADLK) " -|pool_acquire_failed -" PNX_STRINGIFY(
                    EDEADLK) " wait|");
    CHECK_EQ(mock->connects, 1);
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &b), -ETIMEDOUT); /* a try is legal */
    pnx_pool_tick(pool, te.now);
    b = mock_acquire(pool, PNX_SEC); /* and so is what needs no wait */
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    a = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&a);
    tear_down(pool);
    events_end();
}

TEST(a_request_is_no_wait_inside_a_lease) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 1, .nested = PNX_POOL_NESTED_REFUSE));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask ask;
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER); /* it keeps no thread */
    CHECK_EQ(ask_calls(&ask), 0);
    pnx_lease_release(&lease);
    CHECK(ask_granted(&ask));
    CHECK_EQ(mock_stats(pool).nested, 0);
    pnx_lease_release(&ask.lease);
    tear_down(pool);
}

TEST(a_lease_that_another_thread_took_does_not_count_and_waits_can_be_allowed) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 2, .nested = PNX_POOL_NESTED_REFUSE));
    struct pnx_pool *lax = mock_pool(&mock_bare, OPTS(.max = 2, .nested = PNX_POOL_NESTED_ALLOW));
    struct caller holder = {0};
    caller_start(&holder, pool, 30 * PNX_SEC);
    caller_join(&holder);
    CHECK_EQ(holder.rc, 0);
    struct pnx_lease a = holder.lease;
    struct pnx_lease b = mock_acquire(pool, PNX_SEC); /* waits for its connect */
    CHECK_EQ(mock_stats(pool).nested, 0);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    a = mock_acquire(lax, PNX_SEC);
    b = mock_acquire(lax, PNX_SEC);
    CHECK_EQ(mock_stats(lax).nested, 0);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    MOCK_END(lax);
    tear_down(pool);
}
