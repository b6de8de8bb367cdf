/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many at once, over TCP: waiters that are parked and cost nothing, and a long run with far more clients than
 * connections, in which nothing may grow.
 *
 * Costs are counted in context switches and processor time of this process, not in time that passes: a waiter that
 * looks every now and then, even every second, shows up in the switches.
 */
#include "harness/harness.h"
#include "pool/net_world.h"

#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>

/* ---- parked waiters ---- */

#define WINDOW PNX_SEC /* for which they are watched */

struct cost {
    pnx_ns cpu;
    long switches;
};

static pnx_ns ns_of(const struct timeval *time) {
    return time->tv_sec * PNX_SEC + time->tv_usec * PNX_US;
}

static struct cost cost_so_far(void) {
    struct rusage usage;
    CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
    return (struct cost){
            ns_of(&usage.ru_utime) + ns_of(&usage.ru_stime), usage.ru_nvcsw + usage.ru_nivcsw};
}

/* What a second costs in which n wait: next to nothing, and no more than so many switches. */
static void check_that_waiting_is_free(unsigned n, long allowed) {
    int64_t attempts = net_read(&world.client.attempts);
    struct cost before = cost_so_far();
    pause_for(WINDOW);
    struct cost after = cost_so_far();
    attempts = net_read(&world.client.attempts) - attempts;
    pnx_ns cpu = after.cpu - before.cpu;
    long switches = after.switches - before.switches;
    printf("parked: %u waiters, %.1f s: %.3f ms of CPU, %ld context switches, %lld connects\n", n,
            (double)WINDOW / (double)PNX_SEC, (double)cpu / (double)PNX_MS, switches,
            (long long)attempts);
    CHECK_MSG(cpu <= WINDOW / 10, "%lld us of CPU", (long long)(cpu / PNX_US));
    CHECK_MSG(switches <= allowed + 8 * attempts, "%ld context switches", switches);
}

struct parked {
    unsigned n;
    pthread_t *threads;
    int64_t served; /* atomic */
};

static void *wait_and_release(void *arg) {
    struct parked *parked = arg;
    struct pnx_lease lease = {0};
    CHECK_EQ(net_acquire(10 * MINUTE, NULL, &lease), 0);
    CHECK_EQ(net_echo(conn_of(&lease), pnx_now() + MINUTE), 0);
    pnx_lease_release(&lease);
    __atomic_add_fetch(&parked->served, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* As many as asked for, or as the machine allows. */
static void park(struct parked *parked, unsigned n) {
    parked->threads = calloc(n, sizeof(*parked->threads));
    CHECK(parked->threads);
    while (parked->n < n &&
            pthread_create(&parked->threads[parked->n], NULL, wait_and_release, parked) == 0)
        parked->n++;
    CHECK_MSG(parked->n >= n / 10, "of %u threads only %u could be started", n, parked->n);
    UNTIL(s.waiting == parked->n);
}

static void unpark(struct parked *parked) {
    for (unsigned i = 0; i < parked->n; i++)
        pthread_join(parked->threads[i], NULL);
    CHECK_EQ(parked->served, parked->n);
    free(parked->threads);
}

TEST_LIMIT(threads_that_wait_for_a_connection_use_no_processor_time, 180) {
    struct parked parked = {0};
    struct pnx_lease lease = {0};
    set_up(1);
    POOL(.max = 1, .check_after_ns = PNX_NEVER);
    CHECK_EQ(net_acquire(MINUTE, NULL, &lease), 0);
    park(&parked, test_slow() ? 200 : test_long() ? 10000 : 400);
    check_that_waiting_is_free(parked.n, parked.n / 4); /* nobody looks every four seconds */
    pnx_lease_release(&lease);
    unpark(&parked);
    CHECK_EQ(net_stats().connects, 1);
    tear_down();
}

/* Those who wait for a server that is away leave the connects, few and far between, to the pool. */
TEST_LIMIT(threads_that_wait_for_a_server_that_is_away_use_no_processor_time, 180) {
    struct parked parked = {0};
    set_up(1);
    net_proxy_mode(&world.proxy, NET_REFUSE);
    POOL(NO_BREAKER, .max = 4, .backoff_ns = 200 * PNX_MS, .backoff_max_ns = 400 * PNX_MS);
    park(&parked, test_slow() ? 200 : test_long() ? 10000 : 400);
    check_that_waiting_is_free(parked.n, parked.n / 4); /* nobody looks every four seconds */
    net_proxy_mode(&world.proxy, NET_PASS);
    unpark(&parked);
    tear_down();
}

/* ---- requests, which wait without a thread ---- */

enum { REQUESTS = 10000 };

struct crowd {
    struct pnx_pool_request requests[REQUESTS];
    pnx_ns due[REQUESTS]; /* not before */
    int64_t served;       /* atomics */
    int64_t ended;        /* at their deadline */
};

static struct crowd crowd;

/* In the order in which they asked; each gives back what the next one gets. */
static void be_told(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    int64_t i = request - crowd.requests;
    if (code == -ETIMEDOUT) {
        CHECK(pnx_now() >= crowd.due[i]);
        CHECK_STR(err->phase, "wait");
        __atomic_add_fetch(&crowd.ended, 1, __ATOMIC_RELAXED);
        return;
    }
    CHECK_EQ(code, 0);
    CHECK_EQ(net_read(&crowd.served), i);
    if (i % 100 == 0)
        CHECK_EQ(net_echo(conn_of(&lease), pnx_now() + MINUTE), 0);
    /* First, since whoever releases may find the last one served. */
    __atomic_add_fetch(&crowd.served, 1, __ATOMIC_RELAXED);
    pnx_lease_release(&lease);
}

static void ask_without_waiting(int i, pnx_ns timeout) {
    struct pnx_pool_request *request = &crowd.requests[i];
    *request = (struct pnx_pool_request){.done = be_told, .timeout = timeout};
    crowd.due[i] = pnx_now() + timeout;
    CHECK_EQ(pnx_pool_acquire_async(world.pool, request), 0);
}

TEST_LIMIT(ten_thousand_requests_that_wait_use_no_processor_time_and_are_served_in_order, 180) {
    struct pnx_lease lease = {0};
    set_up(1);
    POOL(.max = 1, .check_after_ns = PNX_NEVER);
    CHECK_EQ(net_acquire(MINUTE, NULL, &lease), 0);
    for (int i = 0; i < REQUESTS; i++)
        ask_without_waiting(i, 10 * MINUTE);
    UNTIL(s.waiting == REQUESTS);
    check_that_waiting_is_free(REQUESTS, 100); /* nor does anybody else for those without threads */
    pnx_lease_release(&lease);
    UNTIL(net_read(&crowd.served) == REQUESTS && s.in_use == 0);
    CHECK_EQ(net_stats().connects, 1);
    tear_down();
}

TEST_LIMIT(ten_thousand_requests_end_each_at_its_own_deadline, 180) {
    struct pnx_lease lease = {0};
    uint64_t random = test_seed();
    set_up(1);
    POOL(.max = 1, .check_after_ns = PNX_NEVER);
    CHECK_EQ(net_acquire(MINUTE, NULL, &lease), 0);
    for (int i = 0; i < REQUESTS; i++)
        ask_without_waiting(i, (pnx_ns)(test_random(&random) % (uint64_t)(500 * PNX_MS)) + 1);
    UNTIL(net_read(&crowd.ended) == REQUESTS);
    CHECK_EQ(net_stats().waiting, 0);
    CHECK_EQ(net_stats().timeouts, REQUESTS);
    pnx_lease_release(&lease);
    tear_down();
}

/* ---- the long run ---- */

struct soak {
    /* fixed */
    unsigned clients;
    pnx_ns length;
    pnx_ns period; /* of the looks at everything */
    uint64_t seed;
    int64_t limit; /* descriptors that there may be */

    int64_t *served; /* atomics, one a client */
    int over;        /* atomic */

    /* of the one who looks */
    int64_t *seen;  /* served at the last look */
    int64_t memory; /* of the pool, at the first look */
    int64_t resident;
    unsigned looks;
};

/* A request: an echo, the connection held a little, and now and then one that is thrown away. */
static void ask(struct soak *soak, unsigned index, uint64_t random) {
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    int rc = net_acquire(MINUTE, &err, &lease);
    CHECK_MSG(rc == 0, "acquire: %s (%s)", pnx_errname(rc), err.message);
    struct net_conn *conn = conn_of(&lease);
    CHECK_EQ(__atomic_exchange_n(&conn->owner, (int)index, __ATOMIC_RELAXED), 0);
    rc = net_echo(conn, pnx_now() + MINUTE);
    CHECK_MSG(rc == 0, "echo: %s", strerror(-rc));
    if (random % 4 == 0)
        pause_for((pnx_ns)(random >> 8) % (4 * PNX_MS));
    CHECK_EQ(__atomic_exchange_n(&conn->owner, 0, __ATOMIC_RELAXED), (int)index);
    if ((random >> 40) % 1000 == 0)
        pnx_lease_discard(&lease);
    else
        pnx_lease_release(&lease);
    __atomic_add_fetch(&soak->served[index], 1, __ATOMIC_RELAXED);
}

static int64_t resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    long long size = 0, resident = 0;
    CHECK(file && fscanf(file, "%lld %lld", &size, &resident) == 2);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

/* Everybody has been served since the last look. */
static bool all_have_gone_on(struct soak *soak) {
    for (unsigned i = 1; i <= soak->clients; i++) {
        if (net_read(&soak->served[i]) == soak->seen[i])
            return false;
    }
    return true;
}

static void look(struct soak *soak) {
    pnx_ns until = pnx_now() + 2 * MINUTE;
    pause_for(soak->period);
    while (!all_have_gone_on(soak)) {
        CHECK_MSG(pnx_now() < until, "a client was not served for two minutes");
        usleep(1000);
    }
    for (unsigned i = 1; i <= soak->clients; i++)
        soak->seen[i] = net_read(&soak->served[i]);
    CHECK(net_read(&world.server.counts->open) <= world.max);
    CHECK(net_read(&world.client.open) <= world.max);
    int64_t memory = net_read(&world.te.live_bytes), resident = resident_bytes();
    if (soak->looks++ == 0) {
        soak->memory = memory;
        soak->resident = resident;
    }
    /* The pool's threads come and go; nothing else of it is allocated once it is made. */
    CHECK_MSG(memory < soak->memory + 4096, "the pool has %lld bytes, and had %lld",
            (long long)memory, (long long)soak->memory);
    CHECK_MSG(test_slow() || resident < soak->resident + soak->resident / 4 + (16 << 20),
            "%lld bytes are resident, and were %lld", (long long)resident,
            (long long)soak->resident);
}

static void take_part(unsigned index, void *ctx) {
    struct soak *soak = ctx;
    uint64_t random = soak->seed + index;
    if (index == 0) {
        pnx_ns until = pnx_now() + soak->length;
        do
            look(soak);
        while (pnx_now() < until || soak->looks < 3);
        __atomic_store_n(&soak->over, 1, __ATOMIC_RELAXED);
    }
    while (!__atomic_load_n(&soak->over, __ATOMIC_RELAXED))
        ask(soak, index, test_random(&random));
}

static void print(const struct soak *soak) {
    int64_t sum = 0, least = INT64_MAX, most = 0;
    struct pnx_pool_stats s = net_stats();
    for (unsigned i = 1; i <= soak->clients; i++) {
        sum += soak->served[i];
        least = soak->served[i] < least ? soak->served[i] : least;
        most = soak->served[i] > most ? soak->served[i] : most;
    }
    printf("soak: seed %llu, %u clients, %u connections, %.1f s: %lld requests, %lld to %lld of "
           "each "
           "client; %llu connects, %llu closed by age, %llu discarded, %llu checks; at most %lld "
           "open "
           "at the server\n",
            (unsigned long long)soak->seed, soak->clients, world.max,
            (double)soak->length / (double)PNX_SEC, (long long)sum, (long long)least,
            (long long)most, (unsigned long long)s.connects, (unsigned long long)s.closed_lifetime,
            (unsigned long long)s.closed_discarded, (unsigned long long)s.checks,
            (long long)net_read(&world.server.counts->most));
}

/* Room for n descriptors, here and in the server; or as many as may be. */
static uint32_t make_room(uint32_t n) {
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t wanted = n + 100;
    if (limit.rlim_cur < wanted)
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    return limit.rlim_cur < wanted ? (uint32_t)limit.rlim_cur - 100 : n;
}

TEST_LIMIT(many_more_clients_than_connections_run_stably_for_long, 850) {
    bool whole = test_long() && !test_slow();
    uint32_t max = make_room(whole ? 1000 : 20);
    static struct soak soak;
    soak.clients = max * 5;
    soak.length = whole ? 600 * PNX_SEC : test_long() ? 30 * PNX_SEC : PNX_SEC;
    soak.period = soak.length / 20;
    soak.seed = test_seed();
    soak.served = calloc(soak.clients + 1, sizeof(*soak.served));
    soak.seen = calloc(soak.clients + 1, sizeof(*soak.seen));
    CHECK(soak.served && soak.seen);
    set_up(1);
    world.client.port = world.server.port;
    POOL(.max = max, .lifetime_ns = soak.length / 4, .check_after_ns = soak.length / 100,
            .check_timeout_ns = MINUTE, .connect_timeout_ns = MINUTE);
    test_threads(soak.clients + 1, take_part, &soak);
    print(&soak);
    struct pnx_pool_stats s = net_stats();
    CHECK_EQ(s.timeouts + s.connect_failures + s.check_failures + s.overdue, 0);
    CHECK(s.closed_lifetime > 0);
    free(soak.served);
    free(soak.seen);
    tear_down();
}
