/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traffic of callers who block and of requests together: who has a resource has it alone, nobody who has gone gets one, and no
 * wake-up is lost, whatever operators do meanwhile.
 */
#include "harness/harness.h"
#include "pool/ask.h"
#include "pool/caller.h"

#include <patinox/pool.h>

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

static int rounds(int n) {
    return test_long() ? 20 * n : test_slow() ? n / 5 : n;
}

/* ---- traffic ---- */

enum { CLIENTS = 6 };

struct traffic {
    struct pnx_pool *pool;
    int rounds; /* of each client; 0: until the pool is closed */
    uint64_t seed;
    bool drops;                                                 /* waiters may be told -ECANCELED */
    int clients;                                                /* atomic: that have not ended */
    int granted, gone;                                          /* atomic */
    void (*operate)(struct traffic *traffic, uint64_t *random); /* once and again, beside them */
};

static bool is_expected(const struct traffic *traffic, int rc, pnx_ns timeout) {
    return rc == 0 || (rc == -ETIMEDOUT && timeout < PNX_SEC) ||
           (rc == -ESHUTDOWN && traffic->rounds == 0) || (rc == -ECANCELED && traffic->drops);
}

/* The owner swap: nobody else may have it, neither now nor before we let go. */
static void use(struct traffic *traffic, struct pnx_lease *lease, int id, uint64_t dice) {
    struct mock_resource *resource = mock_of(lease);
    CHECK_MSG(!__atomic_load_n(&resource->dead, __ATOMIC_RELAXED), "a closed one was granted");
    CHECK_EQ(__atomic_exchange_n(&resource->owner, id, __ATOMIC_RELAXED), 0);
    if (dice % 4 == 0)
        sched_yield();
    CHECK_EQ(__atomic_exchange_n(&resource->owner, 0, __ATOMIC_RELAXED), id);
    __atomic_add_fetch(&traffic->granted, 1, __ATOMIC_RELAXED);
    if (dice % 64 == 1)
        pnx_lease_discard(lease);
    else
        pnx_lease_release(lease);
}

/* Half of the time a short timeout. */
static pnx_ns some_timeout(uint64_t dice) {
    return dice % 2 ? 30 * PNX_SEC : (pnx_ns)(dice / 8 % (uint64_t)(100 * PNX_US));
}

static int block_once(struct traffic *traffic, int id, uint64_t dice) {
    struct pnx_lease lease = {0};
    pnx_ns timeout = some_timeout(dice);
    int rc = pnx_pool_acquire(traffic->pool, timeout, NULL, &lease);
    CHECK_MSG(is_expected(traffic, rc, timeout), "%s", pnx_errname(rc));
    if (rc == 0)
        use(traffic, &lease, id, dice / 2);
    return rc;
}

/* Asks, and cancels it sometimes; the lease is used here or inside the callback. */
struct visit {
    struct ask ask; /* first */
    struct traffic *traffic;
    int id;
    uint64_t dice;
};

static void use_inside(struct ask *ask) {
    struct visit *visit = (struct visit *)ask;
    if (ask->code == 0)
        use(visit->traffic, &ask->lease, visit->id, visit->dice);
}

static int ask_once(struct traffic *traffic, int id, uint64_t dice) {
    struct visit visit = {.traffic = traffic, .id = id, .dice = dice / 4};
    pnx_ns timeout = some_timeout(dice);
    visit.ask.then = dice / 2 % 2 ? use_inside : NULL;
    ask_for(&visit.ask, traffic->pool, timeout);
    if (dice / 4 % 3 == 0 && pnx_pool_cancel(&visit.ask.request) == 0) {
        __atomic_add_fetch(&traffic->gone, 1, __ATOMIC_RELAXED);
        CHECK_EQ(ask_calls(&visit.ask), 0);
        return 0;
    }
    ask_await(&visit.ask);
    CHECK_MSG(is_expected(traffic, visit.ask.code, timeout), "%s", pnx_errname(visit.ask.code));
    if (visit.ask.lease.slot)
        use(traffic, &visit.ask.lease, id, visit.dice);
    return visit.ask.code;
}

static void be_client(unsigned index, void *ctx) {
    struct traffic *traffic = ctx;
    uint64_t random = traffic->seed + index;
    if (index == CLIENTS) {
        while (__atomic_load_n(&traffic->clients, __ATOMIC_RELAXED) > 0 && traffic->operate)
            traffic->operate(traffic, &random);
        return;
    }
    for (int i = 0; traffic->rounds == 0 || i < traffic->rounds; i++) {
        uint64_t dice = test_random(&random);
        int rc = index % 2 ? block_once(traffic, (int)index + 1, dice)
                           : ask_once(traffic, (int)index + 1, dice);
        if (rc == -ESHUTDOWN)
            break;
    }
    __atomic_sub_fetch(&traffic->clients, 1, __ATOMIC_RELAXED);
}

static void run_traffic(struct traffic *traffic) {
    traffic->clients = CLIENTS;
    traffic->seed = test_seed();
    test_threads(CLIENTS + 1, be_client, traffic);
    CHECK(traffic->granted > 0);
    CHECK_EQ(mock_stats(traffic->pool).waiting, 0);
    CHECK_EQ(mock_stats(traffic->pool).in_use, 0);
    CHECK_EQ(mock_stats(traffic->pool).misuses, 0);
}

TEST(p9_no_two_have_a_resource_at_once_however_they_ask_and_give_up) {
    set_up();
    struct traffic traffic = {.rounds = rounds(3000)};
    traffic.pool = mock_pool(&mock_manager, OPTS(.max = 3, .check_after_ns = 50 * PNX_US));
    run_traffic(&traffic);
    CHECK(mock->peak <= 3);
    tear_down(traffic.pool);
}

TEST(p8_no_wakeup_is_lost_at_max_1_between_callers_who_block_requests_and_cancels) {
    set_up();
    struct traffic traffic = {.rounds = rounds(4000)};
    traffic.pool = mock_pool(&mock_bare, OPTS(.max = 1));
    run_traffic(&traffic);
    CHECK_EQ(mock->peak, 1);
    tear_down(traffic.pool);
}

static void tick_it(struct traffic *traffic, uint64_t *random) {
    (void)random;
    pnx_pool_tick(traffic->pool, pnx_now());
}

TEST(p8_no_wakeup_is_lost_in_a_pool_that_is_driven_by_ticks_and_callers) {
    set_up();
    struct traffic traffic = {.rounds = rounds(400), .operate = tick_it};
    traffic.pool = mock_pool(&mock_manager,
            OPTS(.max = 2, .check_after_ns = 50 * PNX_US, .flags = PNX_POOL_NO_THREADS));
    run_traffic(&traffic);
    CHECK(mock->peak <= 2);
    tear_down(traffic.pool);
}

static bool every_other(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for) {
    (void)ctx;
    CHECK(!((struct mock_resource *)resource)->dead && age >= 0 && unused_for >= 0);
    return age % 2;
}

/* What an operator does in a bad hour. */
static void meddle(struct traffic *traffic, uint64_t *random) {
    struct pnx_pool *pool = traffic->pool;
    uint64_t dice = test_random(random);
    int rc = 0;
    switch (dice % 8) {
    case 0:
        rc = pnx_pool_resize(pool, 1 + (uint32_t)(dice / 8 % 6), NULL);
        break;
    case 1:
        rc = pnx_pool_reset(pool, (uint32_t)(dice / 8 % 8));
        break;
    case 2:
        rc = pnx_pool_pause(pool, 0) >= 0 ? 0 : -ESHUTDOWN;
        break;
    case 3:
        rc = pnx_pool_evict(pool, every_other, NULL) >= 0 ? 0 : -ESHUTDOWN;
        break;
    case 4:
        pnx_pool_tick(pool, pnx_now());
        break;
    default:
        break;
    }
    if (rc == 0)
        rc = pnx_pool_resume(pool);
    CHECK(rc == 0 || rc == -ESHUTDOWN);
    sched_yield();
}

TEST(stress_of_traffic_with_resizes_resets_pauses_and_evictions) {
    set_up();
    struct traffic traffic = {.rounds = rounds(4000), .operate = meddle, .drops = true};
    traffic.pool = mock_pool(&mock_manager, OPTS(.max = 3, .check_after_ns = 50 * PNX_US));
    run_traffic(&traffic);
    CHECK(mock->peak <= 6);
    tear_down(traffic.pool);
}

static void meddle_then_close(struct traffic *traffic, uint64_t *random) {
    if (__atomic_load_n(&traffic->granted, __ATOMIC_RELAXED) < 40) {
        meddle(traffic, random);
        return;
    }
    CHECK_EQ(pnx_pool_resize(traffic->pool, 1, NULL), 0);
    CHECK_EQ(pnx_pool_reset(traffic->pool, PNX_POOL_RESET_IDLE), 0);
    CHECK_EQ(pnx_pool_close(traffic->pool, 30 * PNX_SEC), 0);
    CHECK_EQ(mock_read(mock, &mock->live), 0);
    while (__atomic_load_n(&traffic->clients, __ATOMIC_RELAXED) > 0)
        sched_yield();
}

TEST(stress_of_closes_during_traffic_with_resizes_and_resets) {
    for (int i = 0; i < (test_long() ? 1000 : test_slow() ? 20 : 100); i++) {
        set_up();
        struct traffic traffic = {.operate = meddle_then_close, .drops = true};
        traffic.pool = mock_pool(&mock_manager, OPTS(.max = 4));
        run_traffic(&traffic);
        tear_down(traffic.pool);
    }
}

/* ---- waiters that have gone ---- */

TEST(a_resource_is_never_handed_to_a_waiter_that_has_gone) {
    set_up();
    enum { N = 5 };
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = 1));
    struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
    struct caller leavers[N] = {0};
    struct ask cancelled[N] = {0}, late[N] = {0}, last = {0};
    for (int i = 0; i < N; i++) {
        caller_start(&leavers[i], pool, 10 * PNX_MS);
        ask_for(&cancelled[i], pool, 30 * PNX_SEC);
        ask_for(&late[i], pool, 5 * PNX_MS);
    }
    ask_for(&last, pool, 30 * PNX_SEC);
    for (int i = 0; i < N; i++) {
        caller_join(&leavers[i]);
        CHECK_EQ(leavers[i].rc, -ETIMEDOUT);
        ask_await(&late[i]);
        ask_check_failed(&late[i], -ETIMEDOUT, "wait");
        CHECK_EQ(pnx_pool_cancel(&cancelled[i].request), 0);
    }
    CHECK_EQ(mock_stats(pool).waiting, 1);
    pnx_lease_release(&lease);
    ask_check_granted(&last); /* at once, past fifteen that are no more */
    for (int i = 0; i < N; i++)
        CHECK_EQ(ask_calls(&cancelled[i]), 0);
    ask_release(&last);
    CHECK_EQ(mock_stats(pool).idle, 1);
    tear_down(pool);
}

/* ---- convoys ---- */

struct convoy {
    struct pnx_pool *pool;
    int rounds;
    int grants; /* atomic */
};

static void work(unsigned index, void *ctx) {
    struct convoy *convoy = ctx;
    volatile unsigned worked = index;
    for (int i = 0; i < convoy->rounds; i++) {
        struct pnx_lease lease = mock_acquire(convoy->pool, 30 * PNX_SEC);
        __atomic_fetch_add(&convoy->grants, 1, __ATOMIC_RELAXED);
        pnx_lease_release(&lease);
        for (unsigned k = 0; k < 2000; k++) /* release, then work */
            worked = worked + k;
    }
}

TEST(a_convoy_of_callers_who_work_after_their_release_dissolves) {
    set_up();
    struct convoy convoy = {.rounds = rounds(2000)};
    convoy.pool = mock_pool(&mock_bare, OPTS(.max = 1));
    test_threads(4, work, &convoy);
    CHECK_EQ(convoy.grants, 4 * convoy.rounds);
    CHECK_EQ(mock_stats(convoy.pool).acquires, convoy.grants);
    CHECK_EQ(mock->connects, 1);
    /* The queue is empty again, and the next one goes the short way. */
    uint64_t waits = mock_stats(convoy.pool).waits;
    for (int i = 0; i < 100; i++) {
        struct pnx_lease lease = mock_acquire(convoy.pool, PNX_SEC);
        pnx_lease_release(&lease);
    }
    CHECK_EQ(mock_stats(convoy.pool).waits, waits);
    tear_down(convoy.pool);
}

/* ---- a spike ---- */

TEST(p5_a_spike_of_requests_opens_no_more_than_max_connecting_beside_what_is_idle) {
    set_up();
    enum { N = 50, IDLE = 5 };
    struct pnx_pool *pool = mock_pool(&mock_bare, OPTS(.max = N, .max_connecting = 2));
    struct pnx_lease leases[IDLE];
    for (int i = 0; i < IDLE; i++)
        leases[i] = mock_acquire(pool, 30 * PNX_SEC);
    for (int i = 0; i < IDLE; i++)
        pnx_lease_release(&leases[i]);
    mock_set(mock, &mock->hold_connect, true); /* slower than all that is asked for takes */
    static struct ask asks[N];
    int turn = 0;
    for (int i = 0; i < N; i++) {
        asks[i].turn = &turn;
        ask_for(&asks[i], pool, 30 * PNX_SEC);
    }
    for (int i = 0; i < N; i++) { /* served by the idle ones, in order */
        ask_check_granted(&asks[i]);
        CHECK_EQ(asks[i].place, i);
        CHECK_EQ(ask_calls(&asks[i + IDLE < N ? i + IDLE : i]), i + IDLE >= N);
        ask_release(&asks[i]);
    }
    mock_set(mock, &mock->hold_connect, false);
    UNTIL(pool, s.connecting == 0);
    CHECK(mock_read(mock, &mock->connects) <= IDLE + 2);
    tear_down(pool);
}
