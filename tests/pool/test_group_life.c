/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of pools by key: memory, registry, budget, reports, close, fork; and storms of real threads, in which the server
 * counts.
 */
#include "pool/hosts.h"

#include <patinox/shutdown.h>
#include <unistd.h>

/* ---- the house ---- */

static int live_a_life(struct test_env *env, void *ctx) {
    struct pnx_pool_group *group = NULL;
    struct pnx_error err = {0};
    struct pnx_lease lease = {0};
    (void)ctx;
    int rc = pnx_pool_group_create(&manager,
            PNX_POOL_GROUP_OPTS(.env = &env->env, .max_total = 2, .max_keys = 2,
                    .pool = PNX_POOL_OPTS(.ctx = &server, .flags = PNX_POOL_NO_THREADS)),
            &err, &group);
    if (rc)
        return rc;
    static const char *const keys[] = {"A", "B", "A", "C"};
    for (int i = 0; i < 4 && rc == 0; i++) {
        rc = ask(group, keys[i], PNX_SEC, &err, &lease);
        pnx_lease_release(&lease);
    }
    CHECK_EQ(pnx_pool_group_close(group, PNX_SEC), 0);
    CHECK_EQ(server.live, 0);
    pnx_pool_group_release(&group);
    return rc;
}

TEST(each_allocation_may_fail) {
    set_up();
    test_fail_each_allocation(&te, live_a_life, NULL);
    CHECK(server.connects > 0);
    CHECK_EQ(server.closes, server.connects);
}

struct text {
    char bytes[8192];
    size_t n;
    int rc;
};

static int write_text(void *ctx, const char *bytes, size_t n) {
    struct text *text = ctx;
    CHECK(text->n + n < sizeof(text->bytes));
    memcpy(text->bytes + text->n, bytes, n);
    text->n += n;
    return text->rc;
}

static int stop_walk(void *ctx, const struct pnx_pool_key_numbers *numbers) {
    (void)numbers;
    ++*(int *)ctx;
    return 7;
}

TEST(the_state_is_told_as_numbers_and_as_text) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 3));
    struct pnx_lease a = get(group, "A"), b = get(group, "B"), line = get(group, "x\n\"y");
    pnx_lease_release(&b);
    test_env_advance(&te, 2 * PNX_SEC);
    struct pnx_pool_key_numbers numbers = numbers_of(group, "A");
    CHECK_EQ(numbers.share, 1);
    CHECK_EQ(numbers.in_use, 1);
    CHECK_EQ(numbers.unused_for, 2 * PNX_SEC);
    CHECK_EQ(numbers_of(group, "B").idle, 1);
    static struct text text;
    CHECK_EQ(pnx_pool_group_dump(group, write_text, &text), 0);
    CHECK_CONTAINS(text.bytes, "pool group \"hosts\": 3 of 1024 keys, shares of 3 of 3");
    CHECK_CONTAINS(
            text.bytes, "share of 1, asked for 2.000 s ago: pool \"hosts/A\": 1 of 3: 1 in use");
    CHECK_CONTAINS(text.bytes, "pool \"hosts/x\\x0a\\x22y\"");
    text.rc = -EIO;
    CHECK_EQ(pnx_pool_group_dump(group, write_text, &text), -EIO);
    int calls = 0;
    CHECK_EQ(pnx_pool_group_each(group, stop_walk, &calls), 7);
    CHECK_EQ(calls, 1);
    CHECK_EQ(stats_of(group).limit, 3);
    CHECK_EQ(stats_of(group).shares, 3);
    pnx_lease_release(&a);
    pnx_lease_release(&line);
    tear_down(group);
}

TEST(a_shutdown_of_the_registry_ends_the_group_and_its_pools) {
    set_up();
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.name = "r"), NULL, &registry), 0);
    struct pnx_pool_group *group = make(OPTS(.max_total = 3, .registry = registry));
    struct pnx_lease a = get(group, "A"), b = get(group, "B");
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    CHECK_EQ(pnx_registry_shutdown(registry, 20 * PNX_SEC, NULL), 0);
    CHECK_EQ(server.live, 0);
    struct pnx_error err = {0};
    CHECK_EQ(ask(group, "A", PNX_SEC, &err, &a), -ESHUTDOWN);
    CHECK_EQ(ask(group, "C", PNX_SEC, &err, &a), -ESHUTDOWN);
    tear_down(group);
    pnx_registry_release(&registry);
}

TEST(each_row_is_removed_once) {
    set_up();
    struct pnx_registry *registry = NULL;
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.name = "r"), NULL, &registry), 0);
    struct pnx_pool_group *group = make(OPTS(.max_total = 3, .max_keys = 2, .registry = registry));
    static const char *const keys[] = {"A", "B", "C"};
    struct pnx_lease lease = {0};
    for (int i = 0; i < 3; i++) {
        lease = get(group, keys[i]);
        if (i < 2)
            pnx_lease_release(&lease);
    }
    pnx_pool_group_release(&group);
    pnx_lease_release(&lease);
    UNTIL(__atomic_load_n(&te.live_blocks, __ATOMIC_RELAXED) == 0);
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.misuses, 0);
    CHECK_EQ(stats.live, 0);
    pnx_registry_release(&registry);
}

TEST(all_memory_is_charged_and_given_back) {
    set_up_virtual();
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .hard = 96 * 1024), NULL, &budget),
            0);
    struct pnx_pool_group *group = make(QUIET(.max_total = 4, .budget = budget));
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    char key[2] = "A";
    int made = 0, rc;
    while ((rc = ask(group, key, PNX_SEC, &err, &lease)) == 0) {
        pnx_lease_release(&lease);
        made++;
        key[0]++;
        CHECK(made < 20);
    }
    CHECK_EQ(rc, -ENOMEM);
    CHECK(made >= 1);
    CHECK_EQ(stats_of(group).keys, made);
    tear_down(group);
    pnx_budget_release(&budget);
}

/* ---- the end ---- */

TEST(close_counts_what_is_out_refuses_and_is_idempotent) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 4));
    struct pnx_lease a = get(group, "A"), b = get(group, "B"), c = get(group, "C"), none = {0};
    struct wish wish;
    struct pnx_lease d = get(group, "D");
    want(&wish, group, "D");
    pnx_lease_release(&c);
    CHECK_EQ(pnx_pool_group_close(group, 0), 3);
    CHECK_EQ(wish.told, 1);
    CHECK_EQ(wish.code, -ESHUTDOWN);
    struct pnx_error err = {0};
    CHECK_EQ(ask(group, "A", PNX_SEC, &err, &none), -ESHUTDOWN);
    CHECK_STR(err.phase, "closed");
    CHECK_EQ(ask(group, "Z", PNX_SEC, &err, &none), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_group_acquire_async(group, "A", 1, &wish.request), -ESHUTDOWN);
    pnx_lease_release(&a);
    CHECK_EQ(pnx_pool_group_close(group, 0), 2);
    pnx_lease_release(&b);
    pnx_lease_release(&d);
    CHECK_EQ(pnx_pool_group_close(group, 0), 0);
    tear_down(group);
}

TEST(close_waits_for_all_pools_under_one_deadline) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 4));
    struct pnx_lease leases[4] = {
            get(group, "A"), get(group, "B"), get(group, "C"), get(group, "D")};
    pnx_ns start = pnx_now();
    CHECK_EQ(pnx_pool_group_close(group, 50 * PNX_MS), 4);
    CHECK(pnx_now() - start >= 50 * PNX_MS);
    CHECK_MSG(pnx_now() - start < 190 * PNX_MS + 2 * PNX_SEC, "not a deadline for each");
    for (int i = 0; i < 4; i++)
        pnx_lease_release(&leases[i]);
    tear_down(group);
}

static struct pnx_lease left_over;

static void give_left_over(void *arg, void *resource) {
    (void)arg;
    (void)resource;
    pnx_lease_release(&left_over);
}

/* B, which is closed after A, would tell of what is idle there for as long as somebody looks for it. */
TEST(what_comes_home_while_the_keys_are_closed_is_told_once) {
    set_up_virtual();
    const struct pnx_pool_hooks hooks = {.size = sizeof(hooks), .before_close = give_left_over};
    struct pnx_pool_group *group = make(PNX_POOL_GROUP_OPTS(.name = "hosts", .env = &te.env,
            .max_total = 4, .max_keys = 3, .min_per_key = 1,
            .pool = PNX_POOL_OPTS(.ctx = &server, .flags = PNX_POOL_NO_THREADS, .hooks = &hooks)));
    struct wish wish;
    left_over = get(group, "B");
    struct pnx_lease b = get(group, "B"), c = get(group, "C"), a = get(group, "A");
    want(&wish, group, "C"); /* B has more than its minimum: C looks for what B brings home */
    pnx_lease_release(&a);   /* the youngest, which is closed first */
    CHECK_EQ(pnx_pool_group_close(group, 0), 2);
    CHECK(!left_over.slot);
    CHECK_EQ(wish.code, -ESHUTDOWN);
    pnx_lease_release(&b);
    pnx_lease_release(&c);
    tear_down(group);
}

/* Whoever ticks has a clock of its own, or calls early. */
TEST(a_tick_may_be_ahead_of_the_clock) {
    set_up_virtual();
    struct pnx_pool_group *group = make(QUIET(.max_total = 1, .key_idle_ns = PNX_SEC));
    struct pnx_lease a = get(group, "A");
    pnx_lease_release(&a);
    pnx_pool_group_tick(group, te.now);
    pnx_pool_group_tick(group, te.now + 10 * PNX_SEC);
    CHECK_EQ(stats_of(group).keys, 0);
    CHECK_EQ(server.live, 0);
    a = get(group, "A");
    pnx_lease_release(&a);
    tear_down(group);
}

TEST(the_memory_goes_with_the_last_lease) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 4));
    struct pnx_lease a = get(group, "A"), b = get(group, "B"), more = get(group, "B");
    pnx_lease_release(&more);
    pnx_pool_group_release(&group);
    CHECK(__atomic_load_n(&te.live_blocks, __ATOMIC_RELAXED) > 0);
    pnx_lease_release(&a);
    pnx_lease_discard(&b);
    await_count(&server.closes, 3);
    UNTIL(__atomic_load_n(&te.live_blocks, __ATOMIC_RELAXED) == 0);
    test_env_check_empty(&te);
}

TEST(a_group_may_be_released_at_once) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 4));
    pnx_pool_group_release(&group);
    test_env_check_empty(&te);
    group = make(OPTS(.max_total = 4));
    struct pnx_lease a = get(group, "A");
    pnx_lease_release(&a);
    pnx_pool_group_release(&group);
    UNTIL(__atomic_load_n(&te.live_blocks, __ATOMIC_RELAXED) == 0);
    CHECK_EQ(read_count(&server.live), 0);
}

static void in_child(void *ctx) {
    struct pnx_lease *lease = ctx, none = {0};
    struct pnx_pool_group *group = server.group;
    struct pnx_error err = {0};
    struct pnx_pool_request request = {.done = told, .timeout = PNX_SEC};
    CHECK_EQ(ask(group, "A", PNX_SEC, &err, &none), -ESHUTDOWN);
    CHECK_STR(err.phase, "fork");
    CHECK_EQ(pnx_pool_group_acquire_async(group, "A", 1, &request), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_group_each(group, find_key, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_group_dump(group, write_text, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_pool_group_tick(group, 0), PNX_NEVER);
    pnx_lease_release(lease);
    CHECK_EQ(server.abandons, 1);
    CHECK_EQ(pnx_pool_group_close(group, PNX_SEC), 0);
    CHECK_EQ(server.abandons, 3);
    pnx_pool_group_release(&group);
    CHECK_EQ(server.abandons, 3);
    CHECK_EQ(server.closes, 0);
    _exit(0);
}

TEST(a_forked_child_abandons_what_it_inherited) {
    set_up();
    struct pnx_pool_group *group = make(OPTS(.max_total = 4));
    struct pnx_lease a = get(group, "A"), b = get(group, "B"), c = get(group, "C");
    pnx_lease_release(&b);
    pnx_lease_release(&c);
    CHECK_EQ(test_child(in_child, &a), 0);
    CHECK_EQ(read_count(&server.abandons), 0);
    pnx_lease_release(&a);
    tear_down(group);
}

/* ---- storms ---- */

struct storm {
    struct pnx_pool_group *group;
    int keys;
    int cycles;
    uint64_t seed;
    int served, refused;
    bool patient;
    struct pnx_inbox *inboxes[4];
};

static void use(struct pnx_lease *lease, int me) {
    struct connection *connection = pnx_lease_resource(lease);
    int nobody = 0;
    CHECK_MSG(__atomic_compare_exchange_n(
                      &connection->owner, &nobody, me, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED),
            "two holders");
    if (me % 2)
        sched_yield();
    __atomic_store_n(&connection->owner, 0, __ATOMIC_RELAXED);
}

static void storm_client(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    uint64_t state = storm->seed + index;
    for (int i = 0; i < storm->cycles; i++) {
        uint64_t dice = test_random(&state);
        char key[2] = {(char)('A' + dice % (unsigned)storm->keys), '\0'};
        struct pnx_lease lease = {0};
        struct pnx_error err = {0};
        pnx_ns timeout = storm->patient || dice % 16 > 3 ? 30 * PNX_SEC
                         : dice % 16 > 1                 ? (pnx_ns)(dice >> 16) % PNX_MS
                                                         : 0;
        int rc = ask(storm->group, key, timeout, &err, &lease);
        if (rc) {
            CHECK_MSG(timeout < PNX_SEC || rc == -EBUSY, "%s: %s: %s", key, pnx_errname(rc),
                    err.message);
            CHECK(rc == -ETIMEDOUT || rc == -EBUSY);
            __atomic_add_fetch(&storm->refused, 1, __ATOMIC_RELAXED);
            continue;
        }
        use(&lease, (int)index + 1);
        if (dice % 32 == 31)
            pnx_lease_discard(&lease);
        else
            pnx_lease_release(&lease);
        __atomic_add_fetch(&storm->served, 1, __ATOMIC_RELAXED);
        if (dice % 64 == 5)
            (void)pnx_pool_group_tick(storm->group, pnx_now());
    }
}

static void run_storm(
        const struct pnx_pool_group_opts *opts, struct storm *storm, unsigned clients) {
    storm->group = make(opts);
    storm->seed = test_seed();
    if (test_slow())
        storm->cycles /= 3;
    test_threads(clients, storm_client, storm);
    CHECK_EQ(storm->served + storm->refused, (int)clients * storm->cycles);
    CHECK_MSG(server.peak <= (int)opts->max_total, "G1: %d alive", server.peak);
    for (int i = 0; i < KEYS; i++)
        CHECK(!opts->max_per_key || server.peak_of[i] <= (int)opts->max_per_key);
    tear_down(storm->group);
}

TEST(g1_g4_storm_of_more_keys_than_resources_serves_everybody) {
    set_up();
    struct storm storm = {.keys = 6, .cycles = test_long() ? 20000 : 150, .patient = true};
    run_storm(OPTS(.max_total = 3, .turn_ns = PNX_MS), &storm, 12);
    CHECK_EQ(storm.refused, 0);
}

TEST(g1_storm_with_timeouts_discards_and_keys_that_come_and_go) {
    set_up();
    struct storm storm = {.keys = 12, .cycles = test_long() ? 20000 : 250};
    run_storm(OPTS(.max_total = 5, .max_per_key = 2, .max_keys = 6, .turn_ns = PNX_MS,
                      .key_idle_ns = 3 * PNX_MS),
            &storm, 8);
    CHECK(storm.served > 0);
}

TEST(g1_storm_with_a_minimum_for_each_key) {
    set_up();
    struct storm storm = {.keys = 4, .cycles = test_long() ? 20000 : 300, .patient = true};
    run_storm(OPTS(.max_total = 6, .min_per_key = 1, .max_keys = 4, .turn_ns = PNX_MS), &storm, 8);
    CHECK_EQ(storm.refused, 0);
}

TEST(g1_storm_without_threads) {
    set_up();
    struct storm storm = {.keys = 5, .cycles = test_long() ? 20000 : 300};
    run_storm(QUIET(.max_total = 3, .max_keys = 4, .turn_ns = PNX_MS, .key_idle_ns = 5 * PNX_MS),
            &storm, 8);
    CHECK(storm.served > 0);
}

/* One thread with requests of its own, some of which it takes back. */
static void request_client(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    uint64_t state = storm->seed + index;
    enum { N = 8 };
    struct wish wishes[N];
    for (int i = 0; i < storm->cycles; i++) {
        int cancelled = 0, failed = 0;
        for (int j = 0; j < N; j++) {
            char key[2] = {(char)('A' + test_random(&state) % (unsigned)storm->keys), '\0'};
            struct pnx_inbox *inbox = storm->inboxes[index];
            wishes[j] =
                    (struct wish){.request = {.done = told, .timeout = PNX_NEVER, .inbox = inbox}};
            wishes[j].request.arg = &wishes[j];
            int rc = pnx_pool_group_acquire_async(storm->group, key, 1, &wishes[j].request);
            CHECK_EQ(rc, 0);
            if (test_random(&state) % 4 == 0 && pnx_pool_cancel(&wishes[j].request) == 0) {
                wishes[j].told = -1;
                cancelled++;
            }
        }
        for (int left = N - cancelled; left > 0;) {
            int n = pnx_inbox_dispatch(storm->inboxes[index], 0);
            for (int j = 0; n > 0 && j < N; j++) {
                failed += wishes[j].code != 0;
                if (wishes[j].lease.slot)
                    use(&wishes[j].lease, (int)index + 1);
                pnx_lease_release(&wishes[j].lease);
            }
            left -= n;
            if (n == 0)
                sched_yield();
        }
        CHECK_EQ(failed, 0);
        for (int j = 0; j < N; j++)
            CHECK(wishes[j].told == 1 || wishes[j].told == -1);
        __atomic_add_fetch(&storm->served, N - cancelled, __ATOMIC_RELAXED);
        __atomic_add_fetch(&storm->refused, cancelled, __ATOMIC_RELAXED);
    }
}

TEST(g1_storm_of_requests_of_which_some_are_taken_back) {
    set_up();
    struct storm storm = {.keys = 5, .seed = test_seed(), .cycles = test_long() ? 3000 : 60};
    storm.group = make(OPTS(.max_total = 3, .turn_ns = PNX_MS, .key_idle_ns = 2 * PNX_MS));
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pnx_inbox_create(&te.env, NULL, &storm.inboxes[i]), 0);
    test_threads(4, request_client, &storm);
    CHECK_EQ(storm.served + storm.refused, 4 * 8 * storm.cycles);
    CHECK_MSG(server.peak <= 3, "G1: %d alive", server.peak);
    for (int i = 0; i < 4; i++)
        pnx_inbox_release(&storm.inboxes[i]);
    tear_down(storm.group);
}

static pnx_ns cpu_time(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
    return now.tv_sec * PNX_SEC + now.tv_nsec;
}

TEST(waiting_for_a_share_takes_no_processor_time) {
    set_up();
    struct pnx_pool_group *group =
            make(OPTS(.max_total = 2, .turn_ns = PNX_MS, .key_idle_ns = 80 * PNX_MS));
    struct pnx_lease a = get(group, "A"), b = get(group, "B"), none = {0};
    struct caller callers[4];
    static const char *const keys[] = {"A", "B", "C", "D"};
    for (int i = 0; i < 4; i++) {
        start_call(&callers[i], group, keys[i], true);
        UNTIL(is_awaited(group, keys[i]));
    }
    pnx_ns cpu = cpu_time();
    CHECK_EQ(ask(group, "E", 400 * PNX_MS, NULL, &none), -ETIMEDOUT);
    cpu = cpu_time() - cpu;
    CHECK_MSG(cpu < 100 * PNX_MS, "%lld ns of processor time in 400 ms", (long long)cpu);
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    for (int i = 0; i < 4; i++)
        join(&callers[i]);
    tear_down(group);
}

static void *tick_on(void *arg) {
    struct storm *storm = arg;
    while (__atomic_load_n(&storm->cycles, __ATOMIC_RELAXED)) {
        struct wanted wanted = {0};
        CHECK_EQ(pnx_pool_group_each(storm->group, find_key, &wanted), 0);
        (void)stats_of(storm->group);
        sched_yield();
    }
    return NULL;
}

static void close_later(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    if (index > 0) {
        uint64_t state = storm->seed + index;
        for (;;) {
            char key[2] = {(char)('A' + test_random(&state) % (unsigned)storm->keys), '\0'};
            struct pnx_lease lease = {0};
            int rc = ask(storm->group, key, 30 * PNX_SEC, NULL, &lease);
            if (rc == -ESHUTDOWN)
                return;
            CHECK_MSG(rc == 0 || rc == -EBUSY, "%s", pnx_errname(rc));
            pnx_lease_release(&lease);
        }
    }
    await_count(&server.connects, 10);
    CHECK_EQ(pnx_pool_group_close(storm->group, 20 * PNX_SEC), 0);
}

TEST(storm_close_during_traffic) {
    for (int i = 0; i < (test_slow() ? 4 : 15); i++) {
        set_up();
        struct storm storm = {.keys = 5, .seed = test_seed(), .cycles = 1};
        storm.group = make(OPTS(.max_total = 3, .max_keys = 4, .turn_ns = PNX_MS));
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, tick_on, &storm) == 0);
        test_threads(6, close_later, &storm);
        __atomic_store_n(&storm.cycles, 0, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        CHECK(server.peak <= 3);
        tear_down(storm.group);
    }
}
