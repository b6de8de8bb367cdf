/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool over real connections: a TCP echo server behind a proxy that refuses, delays, resets, vanishes and
 * swallows (net.h).
 *
 * Each test shows that the pool serves again by itself, and ends with the proof of tear_down(): neither the server
 * nor the client ever had more than max connections, and no descriptor, no memory and no row is left.  Times are
 * bounded from below exactly, and from above by LOOSE: whatever must not be waited for takes a minute here.
 */
#include "harness/harness.h"
#include "pool/net_world.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Pauses short enough that no test waits for one; callers wait as long as they said. */
#define QUICK .backoff_ns = 5 * PNX_MS, .backoff_max_ns = 20 * PNX_MS, NO_BREAKER

/* ---- acquiring ---- */

/* A lease of a connection that works. */
static struct pnx_lease good(void) {
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    int rc = net_acquire(MINUTE, &err, &lease);
    CHECK_MSG(rc == 0, "acquire: %s (%s)", pnx_errname(rc), err.message);
    rc = net_echo(conn_of(&lease), pnx_now() + MINUTE);
    CHECK_MSG(rc == 0, "echo: %s", strerror(-rc));
    return lease;
}

/* Borrows n connections that all work, at once, and gives them back. */
static void all_good(unsigned n) {
    struct pnx_lease leases[16];
    CHECK(n <= 16);
    for (unsigned i = 0; i < n; i++)
        leases[i] = good();
    for (unsigned i = 0; i < n; i++)
        pnx_lease_release(&leases[i]);
}

/*
 * Callers are told in which phase they waited, and of what: asked again until they are.  An older failure may still be
 * told of at first, and a connect that the machine kept from ending in time is told of in other words.
 */
static void told(const char *phase, int cause, const char *message) {
    pnx_ns until = pnx_now() + MINUTE;
    struct pnx_error err;
    do {
        struct pnx_lease lease = {0};
        memset(&err, 0, sizeof(err));
        CHECK_MSG(pnx_now() < until, "for a minute nobody was told of %s", strerror(-cause));
        CHECK_EQ(net_acquire(20 * PNX_MS, &err, &lease), -ETIMEDOUT);
        CHECK_EQ(err.code, -ETIMEDOUT);
    } while (err.cause != cause || strcmp(err.phase, phase) != 0 || !strstr(err.message, message));
}

/* ---- connects that fail ---- */

TEST(a_refused_connect_is_told_to_those_who_wait_until_somebody_listens) {
    set_up(1);
    net_proxy_mode(&world.proxy, NET_REFUSE);
    POOL(QUICK, .max = 2, .connect_timeout_ns = MINUTE);
    told("connect", -ECONNREFUSED, "refused");
    CHECK(net_stats().connect_failures > 0);
    net_proxy_mode(&world.proxy, NET_PASS);
    all_good(2);
    tear_down();
}

static void wait_in_vain(unsigned index, void *ctx) {
    const int64_t *until = ctx;
    (void)index;
    do
        told("connect", -ETIMEDOUT, "timed out");
    while (net_read(&world.client.attempts) < *until);
}

/* A connect that is never answered ends at its own deadline, and says so. */
static void connects_into(enum net_mode hole) {
    set_up(1);
    net_proxy_mode(&world.proxy, hole);
    POOL(QUICK, .max = 3, .max_connecting = 2, .connect_timeout_ns = 50 * PNX_MS);
    told("connect", -ETIMEDOUT, "timed out");
    /* Whatever was under way at the first failure has ended: from now on they come one by one. */
    UNTIL(s.connecting == 0);
    uint64_t overdue = net_stats().overdue; /* first: a connect may begin at any moment */
    int64_t overlaps = net_read(&world.client.overlaps);
    int64_t until = net_read(&world.client.attempts) + 3;
    test_threads(4, wait_in_vain, &until);
    overlaps = net_read(&world.client.overlaps) - overlaps;
    CHECK(overlaps <=
            (int64_t)(net_stats().overdue - overdue)); /* of a machine that is away: none */
    net_proxy_mode(&world.proxy, NET_PASS);
    all_good(3);
    tear_down();
}

TEST(connects_that_are_accepted_and_never_answered_end_at_their_deadline) {
    connects_into(NET_MUTE);
}

TEST(connects_whose_syn_is_not_answered_end_at_their_deadline) {
    connects_into(NET_VOID);
}

/* The caller's deadline is its own, whatever the connect's is; so is that of a close. */
TEST(a_connect_that_hangs_keeps_neither_a_caller_nor_a_close_longer_than_asked) {
    set_up(1);
    net_proxy_mode(&world.proxy, NET_MUTE);
    POOL(QUICK, .max = 2, .connect_timeout_ns = 5 * MINUTE);
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    do
        CHECK_EQ(net_acquire(30 * PNX_MS, &err, &lease), -ETIMEDOUT);
    while (net_read(&world.proxy.counts->open) == 0);
    CHECK_STR(err.phase, "connect");
    CHECK_EQ(err.cause, 0); /* none has failed yet */
    pnx_ns start = pnx_now();
    CHECK_EQ(pnx_pool_close(world.pool, 30 * PNX_MS), 1);
    CHECK(pnx_now() - start >= 30 * PNX_MS && pnx_now() - start < LOOSE);
    net_proxy_strike(&world.proxy, NET_RESET);
    CHECK_EQ(pnx_pool_close(world.pool, MINUTE), 0);
    tear_down();
}

/* Callers who would wait a minute are told at once, with the cause; whoever comes later does not wait at all. */
static void breaker_opens(enum net_mode mode, int cause, const char *message) {
    struct pnx_error err = {0};
    struct pnx_lease lease = {0};
    set_up(1);
    net_proxy_mode(&world.proxy, mode);
    POOL(.max = 2, .connect_timeout_ns = 30 * PNX_MS, .backoff_ns = 5 * PNX_MS,
            .backoff_max_ns = 20 * PNX_MS, .breaker_failures = 3);
    for (int i = 0; i < 5; i++) {
        pnx_ns start = pnx_now();
        CHECK_EQ(net_acquire(MINUTE, &err, &lease), PNX_E_BREAKER);
        CHECK(pnx_now() - start < LOOSE);
        CHECK_EQ(pnx_recovery(err.code), PNX_RECOVERY_BREAK);
        CHECK_EQ(err.cause, cause);
        CHECK_STR(err.phase, "breaker");
        CHECK_CONTAINS(err.message, message);
    }
    CHECK(net_stats().connect_failures >= 3);
    CHECK_EQ(net_stats().waits, 1);
    CHECK_EQ(net_stats().breaker_opened, 1);
    UNTIL(net_read(&world.opened) == 1);
    CHECK_EQ(net_read(&world.opened_by), cause);
    net_proxy_mode(&world.proxy, NET_PASS);
    pnx_ns until = pnx_now() + MINUTE;
    int rc; /* whoever asks has a connect tried: the first that succeeds ends it */
    while ((rc = net_acquire(MINUTE, NULL, &lease)) == PNX_E_BREAKER) {
        CHECK(pnx_now() < until);
        usleep(500);
    }
    CHECK_EQ(rc, 0);
    CHECK_EQ(net_stats().breaker_open, 0);
    pnx_lease_release(&lease);
    all_good(2);
    UNTIL(net_read(&world.closed) == 1);
    CHECK_EQ(net_stats().breaker_opened, 1);
    tear_down();
}

TEST(refused_connects_open_the_breaker_which_tells_the_cause_and_closes_by_itself) {
    breaker_opens(NET_REFUSE, -ECONNREFUSED, "refused");
}

TEST(unanswered_connects_open_the_breaker_which_tells_the_cause_and_closes_by_itself) {
    breaker_opens(NET_MUTE, -ETIMEDOUT, "last connect error");
}

TEST(a_slow_network_delays_connects_and_does_not_fail_them) {
    set_up(1);
    net_proxy_delay(&world.proxy, 30 * PNX_MS);
    POOL(QUICK, .max = 1, .check_after_ns = 1, .connect_timeout_ns = MINUTE,
            .check_timeout_ns = MINUTE);
    pnx_ns start = pnx_now();
    all_good(1);
    CHECK(pnx_now() - start >= 4 * 30 * PNX_MS); /* hello and an echo, there and back */
    start = pnx_now();
    all_good(1);
    CHECK(pnx_now() - start >= 4 * 30 * PNX_MS); /* a check and an echo */
    CHECK_EQ(net_stats().connects, 1);
    CHECK_EQ(net_stats().checks, 1);
    CHECK_EQ(net_stats().check_failures + net_stats().connect_failures, 0);
    tear_down();
}

/* ---- connections that go bad while nobody looks ---- */

/* n idle connections, all alive. */
static void fill(unsigned n) {
    all_good(n);
    CHECK_EQ(net_stats().idle, n);
    CHECK_EQ(net_read(&world.proxy.counts->open), n);
    CHECK_EQ(net_read(&world.server.counts->open), n);
}

static void bad_ones_are_replaced(enum net_blow blow, pnx_ns check_timeout) {
    enum { N = 4 };
    set_up(1);
    POOL(QUICK, .max = N, .check_after_ns = 1, .check_timeout_ns = check_timeout);
    fill(N);
    net_proxy_strike(&world.proxy, blow);
    all_good(N);
    struct pnx_pool_stats s = net_stats();
    CHECK_EQ(s.closed_check, N);
    CHECK_EQ(s.check_failures, N);
    CHECK_EQ(s.connects, 2 * N);
    CHECK_EQ(s.connect_failures, 0);
}

TEST(connections_that_the_server_closed_are_found_by_the_check_and_replaced) {
    bad_ones_are_replaced(NET_CUT, MINUTE);
    tear_down();
}

TEST(connections_that_were_reset_are_found_by_the_check_and_replaced) {
    bad_ones_are_replaced(NET_RESET, MINUTE);
    tear_down();
}

TEST(half_open_connections_are_found_by_the_check_at_its_deadline_and_replaced) {
    bad_ones_are_replaced(NET_STRAND, 50 * PNX_MS);
    /* The server knows nothing of the end of those whose peer vanished. */
    CHECK_EQ(net_read(&world.server.counts->open), 8);
    tear_down_unseen();
}

TEST(a_check_that_takes_too_long_costs_the_connection_and_not_the_caller) {
    set_up(1);
    POOL(QUICK, .max = 1, .check_after_ns = 1, .check_timeout_ns = 50 * PNX_MS,
            .connect_timeout_ns = MINUTE);
    fill(1);
    net_proxy_delay(&world.proxy, 100 * PNX_MS);
    all_good(1);
    CHECK_EQ(net_stats().closed_check, 1);
    CHECK_EQ(net_stats().connects, 2);
    tear_down();
}

/* The holder finds out, by its own deadline, and what it discards is replaced. */
TEST(a_holder_whose_connection_goes_bad_discards_it_and_gets_another) {
    static const struct {
        enum net_blow blow;
        int error;
    } cases[] = {{NET_CUT, -EPIPE}, {NET_RESET, -ECONNRESET}, {NET_STRAND, -ETIMEDOUT}};
    set_up(1);
    POOL(QUICK, .max = 1);
    for (unsigned i = 0; i < 3; i++) {
        struct pnx_lease lease = good();
        net_proxy_strike(&world.proxy, cases[i].blow);
        CHECK_EQ(net_echo(conn_of(&lease), pnx_now() + 30 * PNX_MS), cases[i].error);
        pnx_lease_discard(&lease);
        all_good(1);
        CHECK_EQ(net_stats().closed_discarded, i + 1);
    }
    CHECK_EQ(net_stats().connects, 4);
    tear_down_unseen();
}

/* ---- the server itself ---- */

TEST(stale_connections_after_a_restart_of_the_server_are_found_and_replaced) {
    enum { N = 4 };
    set_up(2);
    world.client.port = world.server.port; /* without the proxy */
    POOL(QUICK, .max = N, .check_after_ns = 1, .check_timeout_ns = MINUTE);
    all_good(N);
    net_server_kill(&world.server);
    net_server_start(&world.server);
    all_good(N);
    CHECK_EQ(net_stats().closed_check, N);
    CHECK_EQ(net_stats().connect_failures, 0);
    CHECK_EQ(net_read(&world.server.counts->accepted), 2 * N);
    tear_down();
}

TEST(a_server_that_is_dead_is_told_of_and_one_that_comes_back_is_used) {
    set_up(3);
    world.client.port = world.server.port;
    POOL(QUICK, .max = 3, .check_after_ns = 1);
    all_good(3);
    for (int i = 0; i < 2; i++) {
        net_server_kill(&world.server);
        told("connect", -ECONNREFUSED, "refused");
        net_server_start(&world.server);
        all_good(3);
    }
    tear_down();
}

/* The kernel accepts for it, so that neither a check nor a connect is refused; nobody answers. */
TEST(a_server_that_hangs_is_told_of_and_is_used_again_when_it_goes_on) {
    set_up(1);
    world.client.port = world.server.port;
    POOL(QUICK, .max = 2, .check_after_ns = 1, .check_timeout_ns = 50 * PNX_MS,
            .connect_timeout_ns = 50 * PNX_MS);
    all_good(2);
    net_server_freeze(&world.server);
    told("connect", -ETIMEDOUT, "timed out");
    UNTIL(s.closed_check == 2);
    net_server_thaw(&world.server);
    all_good(2);
    tear_down_unseen();
}

/* ---- fork ---- */

static bool is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

struct inherited {
    int idle;
    struct pnx_lease lease;
};

static void be_a_child(void *arg) {
    struct inherited *inherited = arg;
    struct pnx_lease none = {0};
    int held = conn_of(&inherited->lease)->fd;
    if (pnx_pool_acquire(world.pool, MINUTE, NULL, &none) != -ESHUTDOWN)
        _exit(3);
    if (pnx_pool_close(world.pool, MINUTE) < 0 || is_open(inherited->idle))
        _exit(1);
    pnx_lease_release(&inherited->lease);
    if (is_open(held) || world.client.abandoned != 2)
        _exit(2);
    _exit(0);
}

TEST(a_forked_child_closes_its_descriptors_and_the_parents_connections_live_on) {
    set_up(1);
    POOL(QUICK, .max = 2, .check_after_ns = PNX_NEVER);
    struct inherited inherited = {.lease = good()};
    struct pnx_lease other = good();
    inherited.idle = conn_of(&other)->fd;
    pnx_lease_release(&other);
    int64_t bytes = net_read(&world.server.counts->bytes);
    CHECK_EQ(test_child(be_a_child, &inherited), 0);
    CHECK_EQ(net_echo(conn_of(&inherited.lease), pnx_now() + MINUTE), 0);
    other = good();
    CHECK_EQ(conn_of(&other)->fd, inherited.idle);
    CHECK_EQ(net_read(&world.server.counts->bytes), bytes + 2); /* the child has sent none */
    CHECK_EQ(net_stats().connects, 2);
    pnx_lease_release(&other);
    pnx_lease_release(&inherited.lease);
    tear_down();
}

/* ---- many at once ---- */

struct traffic {
    int64_t served; /* atomics */
    int64_t broken;
    int64_t refused;
    pnx_ns patience; /* of most acquires; the others have next to none */
    int rounds;      /* of each client, good ones */
    int discarded;   /* one in so many connections, for no reason; 0: none */
    uint64_t seed;
    uint32_t over;
};

/* One round: whoever is served had the connection alone. */
static bool serve(struct traffic *traffic, unsigned index, uint64_t random) {
    struct pnx_lease lease = {0};
    pnx_ns short_time = (pnx_ns)(random >> 8) % (5 * PNX_MS);
    int rc = net_acquire(random % 4 ? traffic->patience : short_time, NULL, &lease);
    if (rc) {
        CHECK_EQ(rc, -ETIMEDOUT);
        __atomic_add_fetch(&traffic->refused, 1, __ATOMIC_RELAXED);
        return false;
    }
    struct net_conn *conn = conn_of(&lease);
    CHECK_EQ(__atomic_exchange_n(&conn->owner, (int)index + 1, __ATOMIC_RELAXED), 0);
    rc = net_echo(conn, pnx_now() + 100 * PNX_MS);
    CHECK_EQ(__atomic_exchange_n(&conn->owner, 0, __ATOMIC_RELAXED), (int)index + 1);
    CHECK_MSG(rc != -EPROTO, "the answer to somebody else");
    __atomic_add_fetch(rc ? &traffic->broken : &traffic->served, 1, __ATOMIC_RELAXED);
    if (rc || (traffic->discarded && (random >> 40) % (uint64_t)traffic->discarded == 0))
        pnx_lease_discard(&lease);
    else
        pnx_lease_release(&lease);
    return rc == 0;
}

static void be_served(unsigned index, void *ctx) {
    struct traffic *traffic = ctx;
    uint64_t random = traffic->seed + index;
    for (int i = 0; i < traffic->rounds;)
        i += serve(traffic, index, test_random(&random));
}

TEST(p1_the_server_never_sees_more_than_max_connections_while_they_are_replaced) {
    enum { CLIENTS = 12 };
    set_up(1);
    world.client.port = world.server.port;
    POOL(QUICK, .max = 3, .max_connecting = 3, .check_after_ns = 1);
    struct traffic traffic = {.patience = MINUTE,
            .rounds = test_slow() ? 100 : 400,
            .discarded = 3,
            .seed = test_seed()};
    test_threads(CLIENTS, be_served, &traffic);
    CHECK(traffic.served >= CLIENTS * traffic.rounds);
    CHECK(net_stats().closed_discarded > 0);
    CHECK(net_read(&world.server.counts->most) > 1);
    tear_down();
}

/* Index 0 makes the network fail in every way by turns, each until somebody has felt it; the others are clients. */
static void fail_by_turns(unsigned index, void *ctx) {
    static const enum net_mode modes[] = {NET_PASS, NET_REFUSE, NET_MUTE, NET_VOID};
    struct traffic *traffic = ctx;
    if (index > 0) {
        while (!__atomic_load_n(&traffic->over, __ATOMIC_ACQUIRE))
            be_served(index, traffic);
        return;
    }
    uint64_t random = traffic->seed ^ 1;
    int turns = test_long() ? 400 : test_slow() ? 12 : 24;
    for (int i = 0; i < turns; i++) {
        uint64_t r = test_random(&random);
        net_proxy_mode(&world.proxy, modes[r % 4]);
        net_proxy_delay(&world.proxy, r >> 8 & 3 ? 0 : PNX_MS);
        if (r >> 16 & 1)
            net_proxy_strike(&world.proxy, (enum net_blow)((r >> 17) % 3));
        int64_t felt = net_read(&traffic->served) + net_read(&traffic->refused);
        while (net_read(&traffic->served) + net_read(&traffic->refused) < felt + 20)
            usleep(500);
    }
    net_proxy_mode(&world.proxy, NET_PASS);
    net_proxy_delay(&world.proxy, 0);
    __atomic_store_n(&traffic->over, 1, __ATOMIC_RELEASE);
}

TEST_LIMIT(stress_of_a_network_that_fails_in_every_way_by_turns, 600) {
    set_up(1);
    POOL(QUICK, .max = 4, .check_after_ns = PNX_MS, .check_timeout_ns = 20 * PNX_MS,
            .connect_timeout_ns = 20 * PNX_MS);
    struct traffic traffic = {
            .patience = 40 * PNX_MS, .rounds = 1, .discarded = 50, .seed = test_seed()};
    test_threads(8, fail_by_turns, &traffic);
    all_good(4);
    CHECK(traffic.served > 0 && traffic.refused > 0 && net_stats().connect_failures > 0);
    CHECK_EQ(net_stats().in_use + net_stats().waiting, 0);
    tear_down_unseen();
}
