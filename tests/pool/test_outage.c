/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The outage drill: many clients are served over TCP, the server is gone for a while, and comes back.
 *
 *   - No acquire returns later than its deadline by more than LATE_MAX, at p99.9.  Looked at only by --long, not
 *     under a sanitizer, and when other processes have used less than LOAD_MAX CPUs meanwhile; whether it was is
 *     printed in any case.
 *   - With the breaker, who asks meanwhile is refused within the same time, and is told the cause that opened it; it
 *     opens once and closes once.
 *   - Connects that are tried meanwhile are no more than the governor's pauses allow, but for one chance in 10^9.
 *   - The first connect that is tried after the return succeeds, within the longest pause, and is within
 *     RECOVERY_MAX (looked at as LATE_MAX is; always within LOOSE).
 *   - Every client is served after that (on a machine as above none in vain, and none twice as often as another),
 *     and in the end nothing is left (net_world.h).
 */
#include "harness/harness.h"
#include "pool/net_world.h"

#include <errno.h>

#define LATE_MAX     (20 * PNX_MS)
#define RECOVERY_MAX PNX_SEC
#define LOAD_MAX     0.1 /* CPUs that others may use while times are looked at */
#define TIME_UNIT    (100 * PNX_US)
#define TIME_UNITS   5000
#define CLIENT_PAUSE (20 * PNX_MS) /* of a client that was told to leave the server alone */

#define SERVED 5 /* times that each client must be served before the outage, and after it */

enum phase { UP, DOWN, BACK, PHASES };

struct client {
    int64_t served[PHASES]; /* atomics: by when the acquire began */
    bool refused; /* its own: its last acquire was, by the breaker, and the outage goes on */
};

/* How many of something took how long. */
struct times {
    int64_t n;
    int64_t units[TIME_UNITS]; /* of TIME_UNIT; the last: that, or longer */
};

struct drill {
    /* fixed */
    unsigned clients;
    pnx_ns outage;
    int expected_cause; /* of failed connects */
    void (*fail)(void);
    void (*mend)(void);
    uint64_t seed;
    pnx_ns connect_timeout;
    pnx_ns backoff;
    pnx_ns backoff_max;
    uint32_t max_connecting;
    bool breaker;

    /* atomics */
    int phase; /* enum phase */
    int over;
    int64_t broken;    /* connections that failed their holder */
    int64_t told;      /* acquires within the outage that were told its cause */
    pnx_ns back_at;    /* when the server was back */
    pnx_ns settled_at; /* a second after all connections were back; 0: not yet */
    pnx_ns first;      /* from back_at to the first that was served; 0: not yet */
    int64_t starved;   /* acquires begun after settled_at that ended at their deadline */
    struct times late; /* after their deadline: acquires that ended there */
    struct times fast; /* acquires that an open breaker refused, when it was open before */
    struct client *client;

    /* of the operator alone */
    int64_t attempts;      /* connects begun within the outage */
    int64_t vain_attempts; /* connects that failed after the return */
    uint64_t overdue;
    int64_t overlaps;
    pnx_ns began;
    pnx_ns lasted;
    double strangers;
    double load; /* by strangers, from the beginning of the outage to the end of the drill */
    int64_t served, least,
            most; /* after the return: by all clients, by the one with the least, the most */
};

static int64_t add(int64_t *count, int64_t by) {
    return __atomic_add_fetch(count, by, __ATOMIC_RELAXED);
}

/* ---- clients ---- */

static void note_time(struct times *times, pnx_ns time) {
    pnx_ns unit = time / TIME_UNIT;
    add(&times->n, 1);
    add(&times->units[unit < TIME_UNITS ? unit : TIME_UNITS - 1], 1);
}

static void note_recovery(struct drill *drill) {
    int64_t none = 0, took = pnx_now() - net_read(&drill->back_at);
    __atomic_compare_exchange_n(
            &drill->first, &none, took, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Whoever waited in vain while there was no server, and connects failed, is told why. */
static void note_cause(struct drill *drill, const struct pnx_error *err) {
    if (err->cause == 0)
        return; /* the machine was away for so long that the last failure is an old one */
    CHECK_EQ(err->cause, drill->expected_cause);
    CHECK_STR(err->phase, err->code == PNX_E_BREAKER ? "breaker" : "connect");
    CHECK_CONTAINS(err->message, "last connect error");
    add(&drill->told, 1);
}

static int phase_of(const struct drill *drill) {
    return __atomic_load_n(&drill->phase, __ATOMIC_ACQUIRE);
}

/* Uses a connection as a request would: a holder whose peer is silent gives up after a while. */
static bool use(struct drill *drill, struct pnx_lease *lease, unsigned index) {
    struct net_conn *conn = conn_of(lease);
    CHECK_EQ(__atomic_exchange_n(&conn->owner, (int)index, __ATOMIC_RELAXED), 0);
    int rc = net_echo(conn, pnx_now() + 100 * PNX_MS);
    CHECK_EQ(__atomic_exchange_n(&conn->owner, 0, __ATOMIC_RELAXED), (int)index);
    CHECK_MSG(rc != -EPROTO, "the answer to somebody else");
    if (rc == 0) {
        pnx_lease_release(lease);
        return true;
    }
    add(&drill->broken, 1);
    pnx_lease_discard(lease);
    return false;
}

static void ask(struct drill *drill, unsigned index, uint64_t random) {
    struct client *client = &drill->client[index];
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    pnx_ns timeout = 50 * PNX_MS + (pnx_ns)(random % (uint64_t)(250 * PNX_MS));
    int phase = phase_of(drill);
    pnx_ns settled = net_read(&drill->settled_at), start = pnx_now();
    int rc = net_acquire(timeout, &err, &lease);
    if (rc == 0) {
        if (use(drill, &lease, index)) {
            add(&client->served[phase], 1);
            if (phase_of(drill) == BACK)
                note_recovery(drill);
        }
        return;
    }
    pnx_ns took = pnx_now() - start;
    bool down = phase == DOWN && phase_of(drill) == DOWN;
    CHECK_EQ(rc, err.code);
    CHECK_MSG(rc == -ETIMEDOUT || (drill->breaker && rc == PNX_E_BREAKER), "acquire: %s (%s)",
            pnx_errname(rc), err.message);
    if (rc == -ETIMEDOUT)
        note_time(&drill->late, took - timeout);
    else if (down && client->refused)
        note_time(&drill->fast, took);
    client->refused = down && rc == PNX_E_BREAKER;
    if (down)
        note_cause(drill, &err);
    if (settled && start > settled)
        add(&drill->starved, 1);
    if (rc == PNX_E_BREAKER)
        pause_for(CLIENT_PAUSE);
}

static bool all_served(const struct drill *drill, enum phase phase) {
    for (unsigned i = 1; i <= drill->clients; i++) {
        if (net_read(&drill->client[i].served[phase]) < SERVED)
            return false;
    }
    return true;
}

/* ---- the operator ---- */

static void until_all_are_served(const struct drill *drill, enum phase phase) {
    pnx_ns until = pnx_now() + 2 * MINUTE;
    while (!all_served(drill, phase)) {
        CHECK_MSG(pnx_now() < until, "in two minutes not everybody was served");
        usleep(1000);
    }
}

static void set_phase(struct drill *drill, enum phase phase) {
    __atomic_store_n(&drill->phase, (int)phase, __ATOMIC_RELEASE);
}

/* From then on a cause that is told is the outage's: connects that were under way may have met the end itself. */
static void until_a_connect_fails_anew(void) {
    uint64_t under_way = net_stats().connecting;
    uint64_t failures = net_stats().connect_failures;
    UNTIL(s.connect_failures > failures + under_way);
}

/* What processes have used that are neither the test nor its server or proxy. */
static double strangers_s(void) {
    double ours = net_cpu_s(&world.proxy.process);
    for (unsigned i = 0; i < world.server.n; i++)
        ours += net_cpu_s(&world.server.lives[i]);
    return test_others_s() - ours;
}

static void have_an_outage(struct drill *drill) {
    drill->fail();
    drill->began = pnx_now();
    drill->strangers = strangers_s();
    uint64_t overdue = net_stats().overdue; /* first: it bounds the overlaps */
    int64_t overlaps = net_read(&world.client.overlaps);
    int64_t attempts = net_read(&world.client.attempts);
    until_a_connect_fails_anew();
    set_phase(drill, DOWN);
    pause_for(drill->outage - (pnx_now() - drill->began));
    if (drill->breaker)
        UNTIL(s.breaker_open == 1);
    drill->attempts = net_read(&world.client.attempts) - attempts;
    drill->overlaps = net_read(&world.client.overlaps) - overlaps;
    drill->overdue = net_stats().overdue - overdue;
    drill->lasted = pnx_now() - drill->began;
    set_phase(drill, UP); /* neither: the server is about to return */
    drill->mend();
}

static void recover(struct drill *drill) {
    int64_t failures = net_read(&world.client.failures);
    __atomic_store_n(&drill->back_at, pnx_now(), __ATOMIC_RELAXED);
    set_phase(drill, BACK);
    while (net_read(&drill->first) == 0) {
        CHECK_MSG(
                pnx_now() - drill->back_at < LOOSE, "nobody was served though the server is back");
        usleep(500);
    }
    drill->vain_attempts = net_read(&world.client.failures) - failures;
    UNTIL(s.in_use + s.idle == world.max);
    until_all_are_served(drill, BACK);
    __atomic_store_n(&drill->settled_at, pnx_now(), __ATOMIC_RELAXED);
    if (test_long())
        pause_for(2 * PNX_SEC); /* to see who starves now */
    drill->load = (strangers_s() - drill->strangers) /
                  ((double)(pnx_now() - drill->began) / (double)PNX_SEC);
}

static void take_part(unsigned index, void *ctx) {
    struct drill *drill = ctx;
    uint64_t random = drill->seed + index;
    if (index == 0) {
        until_all_are_served(drill, UP);
        UNTIL(s.in_use + s.idle == world.max);
        have_an_outage(drill);
        recover(drill);
        __atomic_store_n(&drill->over, 1, __ATOMIC_RELAXED);
    }
    while (!__atomic_load_n(&drill->over, __ATOMIC_RELAXED))
        ask(drill, index, test_random(&random));
}

/* ---- what came of it ---- */

/*
 * The most connects that the governor lets pass in an outage: what was under way, one for each doubling of the
 * pause, and then so many that their pauses, each a random part of backoff_max, have a chance of less than one in
 * 10^9 to fit.  (n of them fit into x times the longest with a chance of at most x^n / n!.)
 */
static int64_t attempts_allowed(const struct drill *drill) {
    double x = (double)drill->lasted / (double)drill->backoff_max, chance = 1;
    int64_t n = 0, more = drill->max_connecting + 1;
    while (chance > 1e-9 || (double)n < x)
        chance *= x / (double)++n;
    for (pnx_ns pause = drill->backoff; pause < drill->backoff_max; pause *= 2)
        more++;
    return n + more;
}

/* What so many in a thousand did not exceed. */
static pnx_ns quantile(const struct times *times, int64_t in_a_thousand) {
    int64_t sum = 0;
    for (int i = 0; i < TIME_UNITS && times->n > 0; i++) {
        sum += times->units[i];
        if (sum * 1000 >= times->n * in_a_thousand)
            return (i + 1) * TIME_UNIT;
    }
    return 0;
}

static double ms(pnx_ns time) {
    return (double)time / (double)PNX_MS;
}

static void count_served(struct drill *drill) {
    drill->least = INT64_MAX;
    for (unsigned i = 1; i <= drill->clients; i++) {
        int64_t n = drill->client[i].served[BACK];
        drill->served += n;
        drill->least = n < drill->least ? n : drill->least;
        drill->most = n > drill->most ? n : drill->most;
    }
}

static void print_times(const char *what, const struct times *times) {
    printf("outage: %lld %s %.1f ms (p50), %.1f ms (p99), %.1f ms (p99.9)\n", (long long)times->n,
            what, ms(quantile(times, 500)), ms(quantile(times, 990)), ms(quantile(times, 999)));
}

static void print(const struct drill *drill) {
    printf("outage: seed %llu, %u clients, %u connections, %.0f ms down: %lld connects tried (%lld "
           "allowed), %lld connections broke in use\n",
            (unsigned long long)drill->seed, drill->clients, world.max, ms(drill->lasted),
            (long long)drill->attempts, (long long)attempts_allowed(drill),
            (long long)drill->broken);
    print_times("acquires ended at their deadline, later by", &drill->late);
    if (drill->breaker)
        print_times("acquires were refused by an open breaker, after", &drill->fast);
    printf("outage: %lld acquires were told the cause\n", (long long)drill->told);
    printf("outage: served again %.1f ms after the return, %lld connects failed after it; then "
           "%lld "
           "acquires, %lld to %lld of each client, %lld of them in vain\n",
            ms(drill->first), (long long)drill->vain_attempts, (long long)drill->served,
            (long long)drill->least, (long long)drill->most, (long long)drill->starved);
}

/* Promises about a machine that has nothing else to do. */
static void check_times(const struct drill *drill) {
    const char *why = !test_long()             ? "only --long does"
                      : test_slow()            ? "a sanitizer takes its time"
                      : drill->load < LOAD_MAX ? NULL
                                               : "others had work for the machine";
    printf("outage: p99.9 <= %.0f ms, recovery <= %.0f ms, nobody in vain and fair shares were "
           "%s%s%s (others used %.2f CPUs)\n",
            ms(LATE_MAX), ms(RECOVERY_MAX), why ? "NOT checked" : "checked", why ? ": " : "",
            why ? why : "", drill->load);
    if (why)
        return;
    CHECK(quantile(&drill->late, 999) <= LATE_MAX);
    CHECK(!drill->breaker || quantile(&drill->fast, 999) <= LATE_MAX);
    CHECK(drill->first <= RECOVERY_MAX);
    CHECK_EQ(drill->starved, 0);
    CHECK_MSG(drill->most <= 2 * drill->least, "one client was served %lld times, another %lld",
            (long long)drill->most, (long long)drill->least);
}

static void check(const struct drill *drill) {
    CHECK_MSG(drill->attempts <= attempts_allowed(drill), "%lld connects, but %lld are allowed",
            (long long)drill->attempts, (long long)attempts_allowed(drill));
    CHECK(drill->attempts > 0 && drill->told > 0);
    /* What was under way at the return may still fail; who comes later is served. */
    CHECK_MSG(drill->vain_attempts <= drill->max_connecting,
            "%lld connects failed after the return", (long long)drill->vain_attempts);
    CHECK(drill->least >= SERVED);
    UNTIL(s.in_use + s.waiting + s.connecting + s.checking == 0);
    UNTIL(net_read(&world.opened) == drill->breaker && net_read(&world.closed) == drill->breaker);
    struct pnx_pool_stats s = net_stats();
    CHECK_EQ(s.timeouts, drill->late.n);
    CHECK_EQ(s.closed_discarded, drill->broken);
    CHECK_EQ(s.breaker_opened, drill->breaker);
    CHECK(!drill->breaker || net_read(&world.opened_by) == drill->expected_cause);
    check_times(drill);
}

static void run(struct drill *drill, uint32_t max) {
    drill->seed = test_seed();
    drill->client = calloc(drill->clients + 1, sizeof(*drill->client));
    CHECK(drill->client);
    drill->backoff = 10 * PNX_MS;
    drill->backoff_max = 250 * PNX_MS;
    drill->max_connecting = 4;
    POOL(.max = max, .max_connecting = drill->max_connecting, .backoff_ns = drill->backoff,
            .backoff_max_ns = drill->backoff_max, .connect_timeout_ns = drill->connect_timeout,
            .check_timeout_ns = 100 * PNX_MS, .check_after_ns = 200 * PNX_MS,
            .breaker_failures = drill->breaker ? 0 : UINT32_MAX);
    test_threads(drill->clients + 1, take_part, drill);
    count_served(drill);
    print(drill);
    check(drill);
    free(drill->client);
}

/* ---- the drills ---- */

static void kill_server(void) {
    net_server_kill(&world.server);
}

static void start_server(void) {
    net_server_start(&world.server);
}

static unsigned clients(void) {
    return test_long() ? 200 : test_slow() ? 24 : 48;
}

static void be_killed(bool breaker) {
    static struct drill drill = {.fail = kill_server, .mend = start_server};
    drill.clients = clients();
    drill.outage = test_long() ? 10 * PNX_SEC : 1500 * PNX_MS;
    drill.connect_timeout = 5 * PNX_SEC;
    drill.expected_cause = -ECONNREFUSED;
    drill.breaker = breaker;
    set_up(2);
    world.client.port = world.server.port;
    run(&drill, test_long() ? 32 : 12);
    tear_down();
}

TEST_LIMIT(many_clients_outlive_a_server_that_is_killed_and_comes_back, 240) {
    be_killed(false);
}

TEST_LIMIT(the_breaker_spares_many_clients_a_server_that_is_killed_until_it_comes_back, 240) {
    be_killed(true);
}

/* Everything between us and the server swallows what comes: neither SYN nor data is answered. */
static void vanish(void) {
    net_proxy_mode(&world.proxy, NET_VOID);
    net_proxy_strike(&world.proxy, NET_STRAND);
}

static void appear(void) {
    net_proxy_mode(&world.proxy, NET_PASS);
}

TEST_LIMIT(many_clients_outlive_a_network_that_swallows_everything_for_a_while, 240) {
    static struct drill drill = {.fail = vanish, .mend = appear};
    drill.clients = clients();
    drill.outage = test_long() ? 10 * PNX_SEC : 1200 * PNX_MS;
    drill.connect_timeout = 100 * PNX_MS;
    drill.expected_cause = -ETIMEDOUT;
    set_up(1);
    run(&drill, test_long() ? 32 : 12);
    /* One by one: no second one begins before the one under way has ended at its deadline. */
    int64_t fit = drill.lasted / drill.connect_timeout + 1;
    CHECK(drill.attempts <= fit + drill.max_connecting + (int64_t)drill.overdue);
    CHECK(drill.overlaps < drill.max_connecting + (int64_t)drill.overdue);
    tear_down_unseen();
}
