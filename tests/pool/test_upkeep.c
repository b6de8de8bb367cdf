/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a pool looks after what it has: peeks, keep-alive checks, and watching who holds a lease for long.
 */
#include "pool/kit.h"

#include <sys/socket.h>
#include <unistd.h>

/* ---- peek ---- */

#define PEEKING(...) \
    OPTS(.check_after_ns = PNX_SEC, .full_check_after_ns = 30 * PNX_SEC, __VA_ARGS__)

TEST(a_peek_runs_on_the_thread_that_wants_the_resource_and_a_check_only_after_longer) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_peeking,
            OPTS_THREADS(.max = 2, .check_after_ns = PNX_SEC, .full_check_after_ns = 30 * PNX_SEC));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock->peeks, 0); /* fresh */
    pnx_lease_release(&lease);
    test_env_advance(&te, PNX_SEC);
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock->peeks, 1);
    CHECK_EQ(mock->checks, 0);
    CHECK(pthread_equal(mock->peeker, pthread_self()));
    pnx_lease_release(&lease);
    test_env_advance(&te, 30 * PNX_SEC - 1);
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock->checks, 0);
    pnx_lease_release(&lease);
    test_env_advance(&te, 30 * PNX_SEC);
    lease = mock_acquire(pool, 30 * PNX_SEC);
    CHECK_EQ(mock_read(mock, &mock->checks), 1);
    CHECK_EQ(mock_read(mock, &mock->connects), 1);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(a_resource_that_fails_its_peek_is_closed_and_the_next_one_is_looked_at) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_peeking, PEEKING(.max = 3));
    struct pnx_lease leases[3];
    for (int i = 0; i < 3; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    for (int i = 0; i < 3; i++)
        pnx_lease_release(&leases[i]);
    test_env_advance(&te, 2 * PNX_SEC);
    mock->resources[2].broken = true; /* the last one used, which is tried first */
    leases[0] = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock_of(&leases[0])->id, 1);
    CHECK_EQ(mock->peeks, 2);
    CHECK_EQ(mock->checks, 0);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock_stats(pool).closed_check, 1);
    pnx_lease_release(&leases[0]);
    tear_down(pool);
}

TEST(a_manager_with_peek_alone_never_checks) {
    set_up();
    struct pnx_pool_manager manager = mock_bare;
    manager.peek = mock_peek;
    struct pnx_pool *pool = mock_pool(&manager, PEEKING(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    test_env_advance(&te, 100 * PNX_SEC);
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(mock->peeks, 1);
    CHECK_EQ(mock->checks, 0);
    pnx_lease_release(&lease);
    tear_down(pool);
}

TEST(peek_fd_tells_a_silent_socket_from_a_closed_one_and_from_one_with_data) {
    int fds[2], pipes[2];
    char byte;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0 && pipe(pipes) == 0);
    CHECK_EQ(pnx_pool_peek_fd(fds[0]), 0);
    CHECK(write(fds[1], "x", 1) == 1);
    CHECK_EQ(pnx_pool_peek_fd(fds[0]), -EPROTO);
    CHECK_EQ(pnx_pool_peek_fd(fds[0]), -EPROTO); /* it is still there */
    CHECK(read(fds[0], &byte, 1) == 1);
    CHECK_EQ(pnx_pool_peek_fd(fds[0]), 0);
    close(fds[1]);
    CHECK_EQ(pnx_pool_peek_fd(fds[0]), -EPIPE);
    close(fds[0]);
    CHECK_EQ(pnx_pool_peek_fd(-1), -EBADF);
    CHECK_EQ(pnx_pool_peek_fd(pipes[0]), -ENOTSOCK);
    close(pipes[0]);
    close(pipes[1]);
    if (test_os_faults()) {
        test_os_fault("peek", 1, false, ECONNRESET);
        CHECK_EQ(pnx_pool_peek_fd(0), -ECONNRESET);
        CHECK_EQ(test_os_fault_clear(), 1);
    }
}

/* ---- keep-alive ---- */

#define KEEPALIVE(...) \
    OPTS(.max = 8, .keepalive_ns = 100 * PNX_SEC, .check_after_ns = PNX_NEVER, \
            .lifetime_ns = PNX_NEVER, __VA_ARGS__)

TEST(keepalive_checks_what_is_unused_within_the_last_tenth_and_not_all_at_once) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, KEEPALIVE(.idle_ns = PNX_NEVER));
    fill(pool, 8);
    pnx_ns start = te.now, first = 0, last = 0;
    while (mock->checks < 8) {
        int before = mock->checks;
        pnx_ns next = pnx_pool_tick(pool, te.now);
        if (mock->checks > before && first == 0)
            first = te.now;
        if (mock->checks > before)
            last = te.now;
        CHECK(next > te.now && next != PNX_NEVER);
        test_env_advance(&te, next - te.now);
    }
    CHECK(first - start >= 90 * PNX_SEC);
    CHECK(last - start <= 100 * PNX_SEC);
    CHECK(last - first > 100 * PNX_MS); /* 8 within 10 s: less has a chance below 1e-12 */
    CHECK_EQ(mock->closes, 0);
    CHECK_EQ(mock->checks_at_once, 1);
    tear_down(pool);
}

TEST(keepalive_checks_one_after_the_other_until_all_that_are_due_have_been) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, KEEPALIVE(.idle_ns = PNX_NEVER));
    fill(pool, 8);
    advance(pool, 1000 * PNX_SEC); /* nobody has ticked for long: all are due */
    CHECK_EQ(mock->checks, 8);
    CHECK_EQ(mock->checks_at_once, 1);
    for (int i = 0; i < 8; i++)
        mock->resources[i].broken = true;
    advance(pool, 100 * PNX_SEC);
    CHECK_EQ(mock_stats(pool).closed_check, 8);
    tear_down(pool);
}

TEST(keepalive_checks_one_at_a_time_on_threads_too) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS_THREADS(.max = 8, .keepalive_ns = 100 * PNX_SEC,
                                             .check_after_ns = PNX_NEVER, .idle_ns = PNX_NEVER));
    struct pnx_lease leases[4];
    for (int i = 0; i < 4; i++)
        leases[i] = mock_acquire(pool, PNX_NEVER);
    for (int i = 0; i < 4; i++)
        pnx_lease_release(&leases[i]);
    mock_set(mock, &mock->hold_check, true);
    advance(pool, 200 * PNX_SEC);
    mock_wait(mock, &mock->in_check, 1);
    advance(pool, PNX_MS);
    struct pnx_lease lease = mock_acquire(pool, 0); /* the others serve meanwhile */
    pnx_lease_release(&lease);
    CHECK_EQ(mock_stats(pool).checking, 1);
    mock_set(mock, &mock->hold_check, false);
    mock_wait(mock, &mock->checks, 3); /* all but perhaps the one that has been used */
    CHECK_EQ(mock_read(mock, &mock->checks_at_once), 1);
    tear_down(pool);
}

TEST(a_keepalive_check_is_no_use_and_does_not_prolong_idle_time) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_manager, KEEPALIVE(.idle_ns = 800 * PNX_SEC, .nested = PNX_POOL_NESTED_ALLOW));
    fill(pool, 3);
    pnx_ns start = te.now;
    while (mock->closes < 3) {
        pnx_ns next = pnx_pool_tick(pool, te.now);
        CHECK(next != PNX_NEVER);
        CHECK(te.now - start <= 900 * PNX_SEC);
        if (mock->closes < 3)
            test_env_advance(&te, next - te.now);
    }
    CHECK(te.now - start >= 800 * PNX_SEC);
    CHECK_EQ(mock_stats(pool).closed_idle, 3);
    CHECK(mock->checks >= 3 * 7);
    tear_down(pool);
}

TEST(a_keepalive_check_waits_for_those_who_wait) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager,
            OPTS(.max = 1, .keepalive_ns = 100 * PNX_SEC, .check_after_ns = PNX_NEVER));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    struct ask ask;
    advance(pool, 200 * PNX_SEC); /* what is in use is never checked */
    CHECK_EQ(mock->checks, 0);
    ask_start(&ask, pool, PNX_PRIORITY_NORMAL, PNX_NEVER);
    pnx_lease_release(&lease);
    CHECK(ask_granted(&ask));
    pnx_lease_release(&ask.lease);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(mock->checks, 0);
    tear_down(pool);
}

/* ---- who holds it ---- */

TEST(a_lease_held_too_long_is_an_event_once) {
    set_up();
    struct pnx_stats *set = events_begin();
    struct pnx_pool *pool =
            mock_pool(&mock_bare, OPTS(.max = 2, .held_too_long_ns = 10 * PNX_SEC, .stats = set));
    struct pnx_acquire_opts with = {.size = sizeof(with), .site = "main.c:7"};
    struct pnx_lease a = {0}, b;
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, &with, NULL, &a), 0);
    events_clear();
    for (int i = 0; i < 9; i++)
        advance(pool, PNX_SEC);
    CHECK_STR(events.all, "");
    advance(pool, PNX_SEC);
    CHECK_STR(events.all, "pool_held_too_long 0 main.c:7|");
    CHECK_EQ(events.value, 10 * PNX_SEC);
    for (int i = 0; i < 50; i++)
        advance(pool, PNX_SEC);
    CHECK_STR(events.all, "pool_held_too_long 0 main.c:7|");
    pnx_lease_release(&a);
    b = mock_acquire(pool, 0); /* the same resource, another lease */
    events_clear();
    advance(pool, 20 * PNX_SEC);
    CHECK_STR(events.all, "pool_held_too_long 0 |");
    CHECK_EQ(mock_stats(pool).held_too_long, 2);
    pnx_lease_release(&b);
    advance(pool, 100 * PNX_SEC);
    CHECK_EQ(mock_stats(pool).held_too_long, 2);
    tear_down(pool);
    events_end();
}

TEST(a_tick_is_asked_for_soon_enough_to_see_a_lease_held_too_long) {
    set_up();
    struct pnx_pool *pool =
            mock_pool(&mock_bare, OPTS(.max = 2, .held_too_long_ns = 10 * PNX_SEC,
                                          .idle_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_ns start = te.now;
    while (mock_stats(pool).held_too_long == 0) {
        pnx_ns next = pnx_pool_tick(pool, te.now);
        CHECK(next != PNX_NEVER);
        if (mock_stats(pool).held_too_long == 0)
            test_env_advance(&te, next - te.now);
    }
    CHECK(te.now - start >= 10 * PNX_SEC && te.now - start <= 12 * PNX_SEC);
    pnx_lease_release(&lease);
    tear_down(pool);
}

struct text {
    char all[4096];
    size_t n;
};

static int append(void *ctx, const char *text, size_t n) {
    struct text *all = ctx;
    CHECK(all->n + n < sizeof(all->all));
    memcpy(all->all + all->n, text, n);
    all->n += n;
    all->all[all->n] = '\0';
    return 0;
}

TEST(site_and_tag_of_a_holder_are_shown_in_the_dump_and_to_who_times_out) {
    set_up();
    static struct text text, after;
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 2, .nested = PNX_POOL_NESTED_ALLOW));
    struct pnx_lease a = {0}, b = {0}, c = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, PNX_ACQUIRE_OPTS(.tag = 4711), &err, &a), 0);
    test_env_advance(&te, 2 * PNX_SEC);
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, PNX_ACQUIRE_OPTS(.tag = 4712), &err, &b), 0);
    test_env_advance(&te, 3 * PNX_SEC);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &c), -ETIMEDOUT);
    CHECK_CONTAINS(err.message, "2 of 2 in use");
    CHECK_CONTAINS(err.message, "; held longest: 5.0 s by test_upkeep.c:");
    CHECK_CONTAINS(err.message, "(tag 4711)");
    CHECK_EQ(pnx_pool_dump(pool, append, &text), 0);
    CHECK_CONTAINS(text.all, "test_upkeep.c:");
    CHECK_CONTAINS(text.all, "(tag 4711)");
    CHECK_CONTAINS(text.all, "(tag 4712)");
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    a = mock_acquire(pool, 0); /* the short way, which names nobody */
    CHECK_EQ(pnx_pool_dump(pool, append, &after), 0);
    CHECK(!strstr(after.all, "(tag"));
    pnx_lease_release(&a);
    tear_down(pool);
}

TEST(each_bad_acquire_option_is_refused_by_name) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 1));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    struct pnx_acquire_opts with = {0};
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, &with, &err, &lease), -EINVAL);
    CHECK_STR(err.field, "size");
    const int32_t bad[] = {-1, PNX_PRIORITY_LAST, 99};
    for (int i = 0; i < 3; i++) {
        with = (struct pnx_acquire_opts){.size = sizeof(with), .priority = bad[i]};
        CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, &with, &err, &lease), -EINVAL);
        CHECK_STR(err.field, "priority");
    }
    with = (struct pnx_acquire_opts){.size = sizeof(with), .reserved_ = 1};
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, &with, &err, &lease), -E2BIG);
    struct {
        struct pnx_acquire_opts with;
        uint64_t newer;
    } longer = {{.size = sizeof(longer)}, 1};
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, &longer.with, &err, &lease), -E2BIG);
    CHECK_EQ(pnx_pool_acquire_with(NULL, PNX_SEC, NULL, &err, &lease), -EINVAL);
    CHECK_STR(err.field, "pool");
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_lease");
    CHECK_EQ(mock->connects, 0);
    longer.newer = 0;
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, &longer.with, &err, &lease), 0);
    pnx_lease_release(&lease);
    CHECK_EQ(pnx_pool_acquire_with(pool, PNX_SEC, NULL, &err, &lease), 0);
    pnx_lease_release(&lease);
    tear_down(pool);
}
