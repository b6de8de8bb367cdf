/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's promises, one by one, in one thread: pools without threads, mostly on a virtual clock.
 */
#include "base/atomic.h"
#include "harness/harness.h"
#include "pool/mock.h"

#include <patinox/shutdown.h>

#include <signal.h>
#include <unistd.h>

static struct test_env te;
static struct mock *mock;

/* A pool without threads on a virtual clock that starts at 1000 s. */
static void set_up(void) {
    test_env_init(&te);
    test_env_virtual(&te, 1000 * PNX_SEC);
    mock = mock_new();
}

#define OPTS(...) \
    PNX_POOL_OPTS(.name = "db", .ctx = mock, .env = &te.env, .flags = PNX_POOL_NO_THREADS, \
            __VA_ARGS__)

static void advance(struct pnx_pool *pool, pnx_ns by) {
    test_env_advance(&te, by);
    pnx_pool_tick(pool, te.now);
}

static void tear_down(struct pnx_pool *pool) {
    MOCK_END(pool);
    CHECK_EQ(mock->live, 0);
    CHECK_EQ(mock->closes, mock->connects);
    test_env_check_empty(&te);
    free(mock);
}

/* ---- borrowing ---- */

TEST(the_most_recently_used_resource_is_reused) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_of(&a)->id, 0);
    CHECK_EQ(mock_of(&b)->id, 1);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    CHECK(a.slot == NULL && b.slot == NULL);
    a = mock_acquire(pool, 0);
    CHECK_EQ(mock_of(&a)->id, 1);
    CHECK_EQ(mock->connects, 2);
    pnx_lease_release(&a);
    tear_down(pool);
}

TEST(p10_a_cycle_allocates_nothing) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    int64_t before = te.allocations;
    for (int i = 0; i < 1000; i++) {
        lease = mock_acquire(pool, i % 2 ? 0 : PNX_SEC);
        pnx_lease_release(&lease);
    }
    CHECK_EQ(te.allocations, before);
    CHECK_EQ(mock_stats(pool).acquires, 1001);
    tear_down(pool);
}

TEST(a_lease_ends_with_its_scope) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    for (int i = 0; i < 3; i++) {
        PNX_AUTO_LEASE lease = mock_acquire(pool, PNX_SEC);
        CHECK_EQ(mock_stats(pool).in_use, 1);
        CHECK_EQ(mock_of(&lease)->id, 0);
    }
    CHECK_EQ(mock_stats(pool).in_use, 0);
    tear_down(pool);
}

TEST(a_try_does_not_connect_but_asks_for_one) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
    CHECK(lease.slot == NULL);
    CHECK_STR(err.phase, "wait");
    CHECK_EQ(mock->connects, 0);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->connects, 1);
    lease = mock_acquire(pool, 0);
    pnx_lease_release(&lease);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->connects, 1);
    CHECK_EQ(mock_stats(pool).tries_failed, 1);
    tear_down(pool);
}

TEST(a_full_pool_says_what_is_in_use) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC), c = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &c), -ETIMEDOUT);
    CHECK_EQ(err.code, -ETIMEDOUT);
    CHECK_EQ(err.cause, 0);
    CHECK_STR(err.phase, "wait");
    CHECK_STR(err.message, "pool \"db\": no resource after 0.000 s (wait): 2 of 2 in use, 0 idle, "
                           "0 connecting, 0 waiting");
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    tear_down(pool);
}

/* ---- check, reset, discard ---- */

TEST(a_fresh_resource_is_not_checked_and_a_stale_one_is) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2, .check_after_ns = PNX_SEC));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    test_env_advance(&te, PNX_SEC - 1);
    lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    CHECK_EQ(mock->checks, 0);
    test_env_advance(&te, PNX_SEC);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT); /* a try does not check */
    lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    CHECK_EQ(mock->checks, 1);
    CHECK_EQ(mock->connects, 1);
    tear_down(pool);
}

TEST(check_after_1ns_checks_always) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2, .check_after_ns = 1));
    for (int i = 0; i < 3; i++) {
        struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
        pnx_lease_release(&lease);
    }
    CHECK_EQ(mock->checks, 2);
    tear_down(pool);
}

TEST(no_check_is_made_when_it_is_off_or_there_is_none) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1, .check_after_ns = PNX_NEVER));
    struct pnx_pool *bare = mock_pool(&mock_bare, OPTS(.max = 1));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(bare, PNX_SEC);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    test_env_advance(&te, 100 * PNX_SEC);
    a = mock_acquire(pool, 0);
    b = mock_acquire(bare, 0);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    CHECK_EQ(mock->checks, 0);
    MOCK_END(bare);
    tear_down(pool);
}

TEST(a_resource_that_fails_its_check_is_closed_and_replaced) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    test_env_advance(&te, 2 * PNX_SEC);
    mock->check_error = -EPIPE;
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_of(&lease)->id, 1);
    CHECK_EQ(mock->closes, 1);
    struct pnx_pool_stats stats = mock_stats(pool);
    CHECK_EQ(stats.check_failures, 1);
    CHECK_EQ(stats.closed_check, 1);
    CHECK_EQ(stats.waits, 2);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(after_two_failed_checks_a_waiter_gets_a_new_connect_first) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 8, .max_checking = 1));
    struct pnx_lease leases[6];
    for (int i = 0; i < 6; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    for (int i = 0; i < 6; i++)
        pnx_lease_release(&leases[i]);
    test_env_advance(&te, 2 * PNX_SEC);
    for (int i = 0; i < 6; i++)
        mock->resources[i].broken = true;
    leases[0] = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_of(&leases[0])->id, 6);
    CHECK_EQ(mock->checks, 2);
    CHECK_EQ(mock_stats(pool).idle, 4);
    pnx_lease_release(&leases[0]);
    tear_down(pool);
}

TEST(a_release_resets_and_a_failed_reset_closes) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    CHECK_EQ(mock->resets, 1);
    lease = mock_acquire(pool, PNX_SEC);
    mock->reset_error = -EPIPE;
    pnx_lease_release(&lease);
    CHECK_EQ(mock->closes, 1);
    mock->reset_error = 0;
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_of(&lease)->id, 1);
    struct pnx_pool_stats stats = mock_stats(pool);
    CHECK_EQ(stats.resets, 2);
    CHECK_EQ(stats.reset_failures, 1);
    CHECK_EQ(stats.closed_reset, 1);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(a_discarded_resource_is_closed_without_reset) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_discard(&lease);
    CHECK(lease.slot == NULL);
    CHECK_EQ(mock->resets, 0);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(mock_stats(pool).closed_discarded, 1);
    pnx_lease_discard(&lease);
    pnx_lease_discard(NULL);
    pnx_lease_release(NULL);
    CHECK(pnx_lease_resource(NULL) == NULL && pnx_lease_resource(&lease) == NULL);
    tear_down(pool);
}

/* ---- ages ---- */

TEST(an_unused_resource_is_closed_by_age_never_sooner_and_an_eighth_later_at_most) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4, .idle_ns = 80 * PNX_SEC));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    test_env_advance(&te, 200 * PNX_SEC); /* a long hold is not idle time */
    pnx_lease_release(&a);
    pnx_ns released = te.now, closed = 0;
    while (closed == 0) {
        pnx_ns next = pnx_pool_tick(pool, te.now);
        if (mock->closes == 1)
            closed = te.now;
        CHECK(next > te.now && next != PNX_NEVER);
        test_env_advance(&te, next - te.now);
    }
    CHECK(closed - released >= 80 * PNX_SEC);
    CHECK(closed - released <= 91 * PNX_SEC);
    CHECK_EQ(mock_stats(pool).closed_idle, 1);
    pnx_lease_release(&b);
    tear_down(pool);
}

TEST(min_idle_is_filled_by_ticks_and_kept) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager,
            OPTS(.max = 8, .min_idle = 3, .idle_ns = 10 * PNX_SEC, .lifetime_ns = PNX_NEVER));
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).idle, 3);
    for (int i = 0; i < 50; i++)
        advance(pool, PNX_SEC);
    CHECK_EQ(mock_stats(pool).idle, 3);
    CHECK_EQ(mock->closes, 0);
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    advance(pool, PNX_SEC);
    CHECK_EQ(mock_stats(pool).idle, 3);
    CHECK_EQ(mock_stats(pool).in_use, 1);
    pnx_lease_release(&lease);
    for (int i = 0; i < 50; i++)
        advance(pool, PNX_SEC);
    CHECK_EQ(mock_stats(pool).idle, 3);
    CHECK_EQ(mock->closes, 1);
    tear_down(pool);
}

TEST(min_idle_is_filled_again_as_soon_as_one_is_taken) {
    test_env_init(&te);
    mock = mock_new();
    struct pnx_pool *pool = mock_pool(
            &mock_manager, PNX_POOL_OPTS(.name = "db", .ctx = mock, .env = &te.env, .max = 3,
                                   .min_idle = 1, .connect_timeout_ns = PNX_NEVER,
                                   .idle_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER));
    mock_wait(mock, &mock->connects, 1);
    struct pnx_lease a = mock_acquire(pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->connects, 2); /* no tick is due, ever */
    struct pnx_lease b = mock_acquire(pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->connects, 3);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    tear_down(pool);
}

TEST(lifetimes_end_within_the_last_tenth_and_not_together) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 32, .min_idle = 32, .idle_ns = PNX_NEVER,
                                             .lifetime_ns = 1000 * PNX_SEC, .max_connecting = 32));
    pnx_pool_tick(pool, te.now);
    pnx_ns born = te.now, first = 0, last = 0;
    int seen = 0;
    CHECK_EQ(mock->connects, 32);
    while (seen < 32) {
        pnx_ns next = pnx_pool_tick(pool, te.now);
        int closed = (int)mock_stats(pool).closed_lifetime;
        if (closed > seen && first == 0)
            first = te.now;
        if (closed > seen)
            last = te.now;
        seen = closed;
        CHECK(next != PNX_NEVER);
        test_env_advance(&te, next - te.now);
    }
    CHECK(first - born >= 900 * PNX_SEC);
    CHECK(last - born <= 1000 * PNX_SEC + 1);
    CHECK(last - first > 20 * PNX_SEC); /* 32 in a span of 100 s: less has a chance below 1e-20 */
    tear_down(pool);
}

TEST(a_resource_that_outlived_its_time_is_closed_when_it_comes_home) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1, .lifetime_ns = 10 * PNX_SEC));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    advance(pool, 20 * PNX_SEC);
    CHECK_EQ(mock->closes, 0);
    pnx_lease_release(&lease);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(mock_stats(pool).closed_lifetime, 1);
    tear_down(pool);
}

/* ---- failing connects ---- */

TEST(a_failed_connect_tells_its_cause_to_those_who_wait) {
    set_up();
    te.virtual_time = false; /* the caller really waits, for 20 ms */
    pnx_ns patience = 20 * PNX_MS;
    mock->connect_errors = -1;
    mock->connect_error = -EACCES;
    mock->message = "password authentication failed for user \"joe\"";
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    for (; mock->failed == 0; patience *= 2) /* on a slow machine that may not do for a connect */
        CHECK_EQ(pnx_pool_acquire(pool, patience, &err, &lease), -ETIMEDOUT);
    CHECK_STR(err.phase, "connect");
    CHECK_EQ(err.cause, -EACCES);
    CHECK_CONTAINS(err.message, "(connect): 0 of 2 in use, 0 idle");
    CHECK_CONTAINS(err.message, "s ago: password authentication failed for user \"joe\"");
    CHECK(lease.slot == NULL);
    mock->connect_errors = 0;
    lease = mock_acquire(pool, 10 * PNX_SEC); /* recovers without being told */
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(p6_pauses_grow_are_random_and_end_with_a_success) {
    set_up();
    mock->connect_errors = -1;
    struct pnx_pool *pool = mock_pool(
            &mock_manager, OPTS(.max = 8, .min_idle = 4, .max_connecting = 4,
                                   .backoff_ns = 100 * PNX_MS, .backoff_max_ns = PNX_SEC));
    pnx_ns previous = 0, longest = 0;
    bool differ = false;
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->failed, 1); /* not four: the first failure holds the others back */
    for (int i = 2; i < 40; i++) {
        pnx_ns next = pnx_pool_tick(pool, te.now), pause = next - te.now;
        CHECK(pause >= 0 && pause <= PNX_SEC);
        if (i < 4)
            CHECK(pause <= 100 * PNX_MS << (i - 2));
        differ = differ || (previous && pause != previous);
        longest = pause > longest ? pause : longest;
        previous = pause;
        int before = mock->failed;
        if (pause > 1) {
            advance(pool, pause - 1);
            CHECK_EQ(mock->failed, before);
            advance(pool, 1);
        } else {
            advance(pool, pause);
        }
        CHECK_EQ(mock->failed, before + 1);
    }
    CHECK(differ && longest > 300 * PNX_MS);
    mock->connect_errors = 0;
    advance(pool, PNX_SEC);
    CHECK_EQ(mock_stats(pool).idle, 4);
    tear_down(pool);
}

static int lie_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)deadline;
    (void)err;
    (void)ret_resource;
    return *(int *)ctx;
}
static void lie_close(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)resource;
    (void)deadline;
    CHECK_MSG(false, "nothing was connected");
}

TEST(a_manager_that_lies_is_a_failed_connect) {
    set_up();
    static const struct pnx_pool_manager liar = {
            .size = sizeof(liar), .connect = lie_connect, .close = lie_close};
    static const char *const what[] = {
            "returned 0 but no resource", "returned 7, which is neither"};
    int answers[] = {0, 7};
    for (int i = 0; i < 2; i++) {
        struct pnx_pool *pool =
                mock_pool(&liar, PNX_POOL_OPTS(.max = 1, .ctx = &answers[i], .env = &te.env,
                                         .flags = PNX_POOL_NO_THREADS));
        struct pnx_lease lease = {0};
        struct pnx_error err = {0};
        CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
        pnx_pool_tick(pool, te.now);
        CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &lease), -ETIMEDOUT);
        CHECK_EQ(err.cause, -EINVAL);
        CHECK_CONTAINS(err.message, what[i]);
        MOCK_END(pool);
    }
    test_env_check_empty(&te);
    free(mock);
}

/* ---- resize ---- */

TEST(growing_keeps_leases_valid) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_error err = {0};
    struct pnx_lease leases[40];
    leases[0] = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_resize(pool, 40, &err), 0);
    for (int i = 1; i < 40; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(mock_of(&leases[i])->id, i);
    CHECK_EQ(mock_stats(pool).max, 40);
    for (int i = 0; i < 40; i++)
        pnx_lease_release(&leases[i]);
    tear_down(pool);
}

TEST(shrinking_closes_idle_ones_now_and_others_as_they_come_home) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 6));
    struct pnx_lease leases[6];
    struct pnx_error err = {0};
    for (int i = 0; i < 6; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    for (int i = 0; i < 2; i++)
        pnx_lease_release(&leases[i]);
    CHECK_EQ(pnx_pool_resize(pool, 3, &err), 0);
    CHECK_EQ(mock->closes, 2);
    CHECK_EQ(mock->live, 4);
    struct pnx_lease extra = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &extra), -ETIMEDOUT);
    pnx_lease_release(&leases[2]);
    CHECK_EQ(mock->live, 3);
    pnx_lease_release(&leases[3]);
    CHECK_EQ(mock->live, 3);
    CHECK_EQ(mock_stats(pool).closed_resize, 3);
    for (int i = 4; i < 6; i++)
        pnx_lease_release(&leases[i]);
    CHECK_EQ(mock_stats(pool).idle, 3);
    tear_down(pool);
}

TEST(a_bad_resize_changes_nothing) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 6, .min_idle = 2));
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_resize(pool, 0, &err), -EINVAL);
    CHECK_STR(err.message, "pool.max is required");
    CHECK_EQ(pnx_pool_resize(pool, 65536, &err), -EINVAL);
    CHECK_STR(err.message, "pool.max is 65536; it must be between 1 and 65535");
    CHECK_EQ(pnx_pool_resize(pool, 1, &err), -EINVAL);
    CHECK_STR(err.message, "pool.max is 1, less than min_idle (2)");
    CHECK_EQ(pnx_pool_resize(NULL, 1, &err), -EINVAL);
    te.fail_at = te.allocations + 1;
    CHECK_EQ(pnx_pool_resize(pool, 60, &err), -ENOMEM);
    CHECK_CONTAINS(err.message, "no memory for 54 slots");
    te.fail_at = 0;
    CHECK_EQ(mock_stats(pool).max, 6);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK_EQ(pnx_pool_resize(pool, 8, &err), -ESHUTDOWN);
    CHECK_STR(err.phase, "closed");
    tear_down(pool);
}

/* ---- closing ---- */

TEST(close_refuses_counts_survivors_and_is_idempotent) {
    set_up();
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC), c = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_close(pool, 0), 2);
    CHECK_EQ(pnx_pool_close(pool, 5 * PNX_MS), 2);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, &err, &c), -ESHUTDOWN);
    CHECK_STR(err.phase, "closed");
    CHECK_STR(err.message, "pool \"db\" is closed");
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &c), -ESHUTDOWN);
    CHECK_EQ(mock_of(&a)->id, 0); /* still good */
    pnx_lease_release(&a);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(pnx_pool_close(pool, 0), 1);
    pnx_lease_discard(&b);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    CHECK_EQ(pnx_pool_close(pool, -7), -EINVAL);
    CHECK_EQ(pnx_pool_close(NULL, 0), -EINVAL);
    tear_down(pool);
}

TEST(the_memory_goes_with_the_last_lease) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    pnx_pool_release(&pool);
    CHECK(pool == NULL);
    pnx_pool_release(&pool);
    pnx_pool_release(NULL);
    CHECK(te.live_blocks > 0);
    CHECK_EQ(mock_of(&b)->id, 1);
    pnx_lease_release(&b);
    CHECK(te.live_blocks > 0);
    pnx_lease_release(&a);
    test_env_check_empty(&te);
    CHECK_EQ(mock->closes, 2);
    free(mock);
}

static void acquire_inside(struct mock *m) {
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    if (!m->pool)
        return;
    m->during_rc = pnx_pool_acquire(m->pool, PNX_NEVER, &err, &lease);
    CHECK_CONTAINS(err.message, "inside one of its own operations");
    CHECK_EQ(pnx_pool_acquire(m->pool, 0, NULL, &lease), -ETIMEDOUT); /* a try is legal */
}

TEST(waiting_for_a_pool_inside_its_own_operation_is_refused) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    mock->pool = pool;
    mock->during = acquire_inside;
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock->during_rc, -EDEADLK);
    pnx_lease_release(&lease);
    tear_down(pool);
}

static struct pnx_registry *shut;

static void shut_down_inside(struct mock *m) {
    m->during_rc = pnx_registry_shutdown(shut, PNX_NEVER, NULL);
}

static void check_shutdown_inside(struct pnx_registry *of_pool, uint32_t flags, int expected) {
    set_up();
    CHECK_EQ(pnx_registry_create(NULL, NULL, &shut), 0);
    struct pnx_pool_opts opts = *OPTS(.max = 2);
    opts.registry = of_pool ? of_pool : shut;
    opts.flags = flags;
    struct pnx_pool *pool = mock_pool(&mock_manager, &opts);
    mock->during = shut_down_inside;
    struct pnx_lease lease = mock_acquire(pool, PNX_NEVER);
    CHECK_EQ(mock->during_rc, expected);
    mock->during = NULL;
    pnx_lease_release(&lease);
    lease = mock_acquire(pool, PNX_NEVER); /* nothing has been changed */
    pnx_lease_release(&lease);
    CHECK_EQ(pnx_registry_shutdown(shut, PNX_SEC, NULL), 0);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), of_pool ? 0 : -ESHUTDOWN);
    pnx_lease_release(&lease);
    pnx_registry_release(&shut);
    tear_down(pool);
}

TEST(a_shutdown_that_would_wait_for_the_operation_that_calls_it_is_refused) {
    check_shutdown_inside(NULL, PNX_POOL_NO_THREADS, -EDEADLK);
}

TEST(a_shutdown_of_another_registry_inside_an_operation_works) {
    struct pnx_registry *own = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &own), 0);
    check_shutdown_inside(own, PNX_POOL_NO_THREADS, 0);
    pnx_registry_release(&own);
}

static void close_inside(struct mock *m) {
    m->during_rc = pnx_pool_close(m->pool, PNX_NEVER);
}

TEST(closing_a_pool_inside_its_own_operation_begins_but_does_not_wait) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease lease = {0};
    mock->pool = pool;
    mock->during = close_inside;
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), -ESHUTDOWN);
    CHECK_EQ(mock->during_rc, -EDEADLK);
    CHECK_EQ(mock->closes, 1);
    tear_down(pool);
}

/* ---- misuse ---- */

#ifdef PNX_DEBUG
extern struct pnx_a32 pnx__pool_tolerate_misuse;
static void tolerate(void) {
    pnx__pool_tolerate_misuse.v = 1;
}
#else
static void tolerate(void) {}
#endif

static int misuses_seen;
static void on_event(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type == PNX_EVENT_POOL_MISUSE) {
        CHECK_EQ(event->code, -ESTALE);
        CHECK_STR(event->object, "db");
        misuses_seen++;
    }
}

TEST(p9_a_stale_lease_changes_nothing_and_is_counted) {
    set_up();
    tolerate();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    uint32_t id;
    CHECK_EQ(pnx_monitor_add(pnx_stats_default(),
                     &(struct pnx_monitor){.size = sizeof(struct pnx_monitor), .event = on_event},
                     &id),
            0);
    struct pnx_lease first = mock_acquire(pool, PNX_SEC), copy = first, again = first;
    pnx_lease_release(&first);
    pnx_lease_release(&copy); /* a second release of an idle resource */
    struct pnx_lease second = mock_acquire(pool, PNX_SEC);
    copy = again;
    pnx_lease_discard(&copy); /* a stale discard of what somebody else holds by now */
    CHECK(pnx_lease_resource(&again) == NULL);
    CHECK_EQ(mock_of(&second)->id, 0);
    CHECK_EQ(mock_stats(pool).misuses, 3);
    CHECK_EQ(misuses_seen, 3);
    CHECK_EQ(mock_stats(pool).in_use, 1);
    CHECK_EQ(mock->closes, 0);
    struct pnx_lease forged = {.slot = second.slot, .generation = UINT64_MAX};
    pnx_lease_release(&forged);
    CHECK_EQ(mock_stats(pool).misuses, 4);
    CHECK_EQ(pnx_monitor_remove(pnx_stats_default(), id), 0);
    pnx_lease_release(&second);
    tear_down(pool);
}

#ifdef PNX_DEBUG
static void release_twice(void *ctx) {
    struct pnx_pool *pool = ctx;
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC), copy = lease;
    signal(SIGABRT, SIG_DFL);
    pnx_lease_release(&lease);
    pnx_lease_release(&copy);
}
static void make_and_release_twice(void *ctx) {
    (void)ctx;
    set_up();
    release_twice(mock_pool(&mock_manager, OPTS(.max = 1)));
}

TEST(p9_a_second_release_aborts_in_debug_builds) {
    CHECK_EQ(test_apart(make_and_release_twice, NULL), -SIGABRT);
}
#endif

/* ---- fork ---- */

struct forked {
    struct pnx_pool *pool;
    struct pnx_lease lease;
};

static void in_the_child(void *ctx) {
    struct forked *forked = ctx;
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire(forked->pool, PNX_SEC, &err, &lease), -ESHUTDOWN);
    CHECK_STR(err.phase, "fork");
    CHECK_CONTAINS(err.message, "was made before fork()");
    CHECK_EQ(pnx_pool_resize(forked->pool, 9, &err), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_tick(forked->pool, pnx_now()), PNX_NEVER);
    pnx_lease_release(&forked->lease);
    CHECK_EQ(mock->abandons, 1);
    CHECK_EQ(pnx_pool_close(forked->pool, PNX_SEC), 0);
    CHECK_EQ(mock->abandons, 3); /* two were idle */
    pnx_pool_release(&forked->pool);
    CHECK_EQ(mock->abandons, 3);
    CHECK_EQ(mock->closes, 0);
    CHECK_EQ(mock->resets, 2);
    _exit(0); /* what it inherited stays allocated */
}

TEST(a_forked_child_abandons_what_it_inherited) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 4));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC),
                     c = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    struct forked forked = {pool, c};
    CHECK_EQ(test_child(in_the_child, &forked), 0);
    CHECK_EQ(mock->abandons, 0);
    a = mock_acquire(pool, 0); /* the parent's pool is untouched */
    CHECK_EQ(mock_of(&c)->id, 2);
    pnx_lease_release(&a);
    pnx_lease_release(&c);
    tear_down(pool);
}

/* ---- options and other bad input ---- */

static void refuse(const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts,
        int code, const char *field, const char *message) {
    struct pnx_pool *pool = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_create(manager, opts, &err, &pool), code);
    CHECK(pool == NULL);
    CHECK_EQ(err.code, code);
    CHECK_STR(err.field, field);
    CHECK_CONTAINS(err.message, message);
    CHECK_EQ(pnx_pool_create(manager, opts, NULL, &pool), code);
}

TEST(each_bad_option_is_refused_by_name) {
    set_up();
    refuse(&mock_manager, NULL, -EINVAL, "max", "pool.max is required");
    refuse(&mock_manager, OPTS(.max = 0), -EINVAL, "max", "pool.max is required");
    refuse(&mock_manager, OPTS(.max = 65536), -EINVAL, "max",
            "pool.max is 65536; it must be between 1 and 65535");
    refuse(&mock_manager, OPTS(.max = 1, .min_idle = 2), -EINVAL, "min_idle",
            "pool.min_idle is 2, more than max (1)");
    refuse(&mock_manager, OPTS(.max = 1, .idle_ns = -5), -EINVAL, "idle_ns",
            "pool.idle_ns is negative (-5 ns)");
    refuse(&mock_manager, OPTS(.max = 1, .max_connecting = 257), -EINVAL, "max_connecting",
            "it must be between 1 and 256");
    refuse(&mock_manager, OPTS(.max = 1, .backoff_ns = 5 * PNX_SEC, .backoff_max_ns = 4 * PNX_SEC),
            -EINVAL, "backoff_ns", "more than backoff_max_ns");
    struct pnx_pool_opts opts = *OPTS(.max = 1);
    opts.flags = 8 | PNX_POOL_ROUND_ROBIN;
    refuse(&mock_manager, &opts, -EINVAL, "flags", "pool.flags: unknown bits 0x8");
    opts = *OPTS(.max = 1);
    opts.size = 0;
    refuse(&mock_manager, &opts, -EINVAL, "size", "set it with the options macro");
    struct {
        struct pnx_pool_opts opts;
        uint64_t newer;
    } longer = {*OPTS(.max = 1), 1};
    longer.opts.size = sizeof(longer);
    refuse(&mock_manager, &longer.opts, -E2BIG, "size", "is set that this library");
    struct pnx_env env = te.env;
    env.free = NULL;
    opts = *OPTS(.max = 1);
    opts.env = &env;
    refuse(&mock_manager, &opts, -EINVAL, "env.free", "come together or not at all");
    CHECK_EQ(te.allocations, 0);
    free(mock);
}

static int mock_start(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    (void)ctx;
    (void)op;
    (void)err;
    return -EINPROGRESS;
}

static int mock_cancel(void *ctx, struct pnx_pool_op *op) {
    (void)ctx;
    (void)op;
    return 0;
}

TEST(each_bad_manager_is_refused_by_name) {
    set_up();
    struct pnx_pool_manager manager = mock_manager;
    refuse(NULL, OPTS(.max = 1), -EINVAL, "manager", "manager is NULL");
    manager.connect = NULL;
    refuse(&manager, OPTS(.max = 1), -EINVAL, "manager.connect",
            "manager.connect, or start, is required");
    manager = mock_manager;
    manager.close = NULL;
    refuse(&manager, OPTS(.max = 1), -EINVAL, "manager.close", "manager.close is required");
    manager = mock_manager;
    manager.start = mock_start;
    refuse(&manager, OPTS(.max = 1), -EINVAL, "manager.start", "connect or start, not both");
    manager = mock_manager;
    manager.poll = mock_start;
    refuse(&manager, OPTS(.max = 1), -EINVAL, "manager.poll", "are for managers with start");
    manager.poll = NULL;
    manager.cancel = mock_cancel;
    refuse(&manager, OPTS(.max = 1), -EINVAL, "manager.cancel", "are for managers with start");
    manager = mock_manager;
    manager.size = 0;
    refuse(&manager, OPTS(.max = 1), -EINVAL, "size", "pool.manager: size is 0");
    struct {
        struct pnx_pool_manager manager;
        void *newer;
    } longer = {mock_manager, &longer};
    longer.manager.size = sizeof(longer);
    refuse(&longer.manager, OPTS(.max = 1), -E2BIG, "size", "is set that this library");
    CHECK_EQ(pnx_pool_create(&mock_manager, OPTS(.max = 1), NULL, NULL), -EINVAL);
    free(mock);
}

TEST(bad_arguments_of_acquire_are_refused) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire(NULL, 0, &err, &lease), -EINVAL);
    CHECK_STR(err.field, "pool");
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_lease");
    CHECK_EQ(pnx_pool_acquire(pool, -3, &err, &lease), -EINVAL);
    CHECK_STR(err.message, "timeout is negative (-3 ns)");
    CHECK_EQ(pnx_pool_read_stats(pool, NULL), -EINVAL);
    CHECK_EQ(pnx_pool_read_stats(NULL, NULL), -EINVAL);
    struct pnx_pool_stats stats = {.size = 1};
    CHECK_EQ(pnx_pool_read_stats(pool, &stats), -EINVAL);
    CHECK_EQ(pnx_pool_dump(NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_pool_tick(NULL, 0), PNX_NEVER);
    tear_down(pool);
}

TEST(options_are_read_from_text) {
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.max = 1);
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_opts_set(&opts, "max", "16", &err), 0);
    CHECK_EQ(pnx_pool_opts_set(&opts, "lifetime_ns", "never", &err), 0);
    CHECK_EQ(pnx_pool_opts_set(&opts, "check_after_ns", "250ms", &err), 0);
    CHECK_EQ(pnx_pool_opts_set(&opts, "resource_bytes", "2MiB", &err), 0);
    CHECK_EQ(opts.max, 16);
    CHECK_EQ(opts.lifetime_ns, PNX_NEVER);
    CHECK_EQ(opts.check_after_ns, 250 * PNX_MS);
    CHECK_EQ(opts.resource_bytes, 2 << 20);
    CHECK_EQ(pnx_pool_opts_set(&opts, "max", "0", &err), -EINVAL);
    CHECK_EQ(pnx_pool_opts_set(&opts, "max", "1e3", &err), -EINVAL);
    CHECK_STR(err.message, "pool.max: \"1e3\" is not a whole number");
    CHECK_EQ(pnx_pool_opts_set(&opts, "idle_ns", "10 minutes", &err), -EINVAL);
    CHECK_EQ(pnx_pool_opts_set(&opts, "max_connecting", "1000", &err), -ERANGE);
    CHECK_EQ(pnx_pool_opts_set(&opts, "maximum", "16", &err), -ENOENT);
    CHECK_STR(err.message, "pool has no option \"maximum\"");
    CHECK_EQ(pnx_pool_opts_set(&opts, "name", "db", &err), -ENOTSUP);
    CHECK_EQ(pnx_pool_opts_set(NULL, "max", "1", &err), -EINVAL);
    CHECK_EQ(opts.max, 16);
}

static int one_life(struct test_env *env, void *ctx) {
    struct pnx_pool *pool = NULL;
    struct pnx_error err = {0};
    (void)ctx;
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.max = 2, .ctx = mock, .resource_bytes = 100);
    opts.env = &env->env;
    opts.flags = PNX_POOL_NO_THREADS;
    int rc = pnx_pool_create(&mock_manager, &opts, &err, &pool);
    if (rc) {
        CHECK_EQ(err.code, rc);
        return rc;
    }
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    rc = pnx_pool_resize(pool, 5, &err);
    pnx_lease_release(&lease);
    MOCK_END(pool);
    return rc;
}

TEST(each_allocation_may_fail) {
    set_up();
    test_fail_each_allocation(&te, one_life, NULL);
    CHECK_EQ(mock->live, 0);
    free(mock);
}
