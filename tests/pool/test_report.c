/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What others see of a pool: registry, budget, statistics, events, health, dump; and its inner housekeeping.
 */
#include "harness/harness.h"
#include "pool/caller.h"
#include "pool/pool.h"

#include <patinox/shutdown.h>

static struct mock *mock;
static struct test_env te;

static void set_up(void) {
    test_env_init(&te);
    test_env_virtual(&te, 1000 * PNX_SEC);
    mock = mock_new();
}

#define OPTS(...) \
    PNX_POOL_OPTS(.name = "db", .ctx = mock, .env = &te.env, .flags = PNX_POOL_NO_THREADS, \
            __VA_ARGS__)

static void tear_down(struct pnx_pool *pool) {
    MOCK_END(pool);
    CHECK_EQ(mock->live, 0);
    test_env_check_empty(&te);
    free(mock);
}

/* ---- registry ---- */

static int rows_seen;
static int see_row(void *ctx, const struct pnx_resource_info *info) {
    if (strcmp(info->type, "pool") != 0 || strcmp(info->name, "db") != 0)
        return 0;
    rows_seen++;
    CHECK_CONTAINS(info->site, "test_report.c:");
    CHECK(info->bytes > 0);
    *(pnx_resource_id *)ctx = info->id;
    return 0;
}

TEST(a_pool_is_one_row_of_the_registry_which_can_end_it) {
    set_up();
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC), none = {0};
    pnx_resource_id id = 0;
    CHECK_EQ(pnx_registry_each(pnx_registry_default(), see_row, &id), 0);
    CHECK_EQ(rows_seen, 1);
    pnx_lease_release(&lease);
    CHECK_EQ(pnx_registry_cleanup(pnx_registry_default(), id), 0);
    CHECK_EQ(mock->closes, 1);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &none), -ESHUTDOWN);
    tear_down(pool);
    CHECK_EQ(pnx_registry_each(pnx_registry_default(), see_row, &id), 0);
    CHECK_EQ(rows_seen, 1);
}

static int see_connection(void *ctx, const struct pnx_resource_info *info) {
    struct pnx_resource_info *seen = ctx;
    if (strcmp(info->type, "connection") == 0) {
        rows_seen++;
        *seen = *info;
    }
    return 0;
}

static int count_connections(struct pnx_registry *registry, struct pnx_resource_info *ret_last) {
    rows_seen = 0;
    CHECK_EQ(pnx_registry_each(registry, see_connection, ret_last), 0);
    return rows_seen;
}

TEST(each_connection_is_a_row_and_a_child_of_its_pool) {
    set_up();
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 2, .registry = registry, .resource_bytes = 100));
    struct pnx_resource_info seen;
    struct pnx_lease one = mock_acquire(pool, PNX_SEC), two = mock_acquire(pool, PNX_SEC);
    pnx_resource_id id = 0;
    rows_seen = 0;
    CHECK_EQ(pnx_registry_each(registry, see_row, &id), 0);
    CHECK_EQ(count_connections(registry, &seen), 2);
    CHECK_EQ(seen.parent, id);
    CHECK_STR(seen.name, "db");
    CHECK_CONTAINS(seen.site, "test_report.c:");
    CHECK_EQ(seen.bytes, 100);
    pnx_lease_discard(&two);
    CHECK_EQ(count_connections(registry, &seen), 1);
    pnx_lease_release(&one);
    CHECK_EQ(count_connections(registry, &seen), 1); /* idle, and there */
    tear_down(pool);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(a_shutdown_ends_connections_by_ending_their_pool) {
    set_up();
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2, .registry = registry));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    struct pnx_shutdown_report *report;
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_registry_shutdown(registry, 10 * PNX_SEC, &report), 0);
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.done, 2);
    CHECK_EQ(counts.leaked, 0);
    CHECK_EQ(mock->closes, 1);
    pnx_shutdown_report_release(&report);
    tear_down(pool);
    pnx_registry_release(&registry);
}

TEST(a_connection_serves_though_there_is_no_room_for_its_row) {
    set_up();
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.max = 1), NULL, &registry), 0);
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2, .registry = registry));
    struct pnx_resource_info seen;
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(count_connections(registry, &seen), 0);
    pnx_lease_discard(&lease);
    lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    tear_down(pool);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(a_shutdown_waits_for_leases_until_its_deadline) {
    set_up();
    te.virtual_time = false;
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2, .registry = registry));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_ns enough = (test_slow() ? 3000 : 500) * PNX_MS; /* to begin: then the pool is closed */
    pnx_ns start = pnx_now();
    CHECK(pnx_registry_shutdown(registry, enough, NULL) != 0);
    CHECK(pnx_now() - start >= enough);
    CHECK_EQ(mock->closes, 0);
    pnx_lease_release(&lease);
    CHECK_EQ(mock->closes, 1);
    tear_down(pool);
    pnx_registry_release(&registry);
}

TEST(registry_statistics_and_budget_can_be_switched_off) {
    set_up();
    struct pnx_pool *pool = mock_pool(
            &mock_manager, OPTS(.max = 2, .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                                   .budget = pnx_budget_off(), .resource_bytes = 1000));
    pnx_resource_id id = 0;
    rows_seen = 0;
    CHECK_EQ(pnx_registry_each(pnx_registry_default(), see_row, &id), 0);
    CHECK_EQ(rows_seen, 0);
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&lease);
    CHECK_EQ(mock_stats(pool).acquires, 1);
    tear_down(pool);
}

/* ---- budget ---- */

static uint64_t used(const struct pnx_budget *budget) {
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    return stats.used;
}

TEST(resources_are_charged_while_they_exist) {
    set_up();
    struct pnx_budget *budget;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off()), NULL, &budget), 0);
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 4, .budget = budget, .resource_bytes = 1 << 20));
    uint64_t own = used(budget);
    CHECK(own > 0 && own < 1 << 20);
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(used(budget), own + (2 << 20));
    pnx_lease_discard(&a);
    CHECK_EQ(used(budget), own + (1 << 20));
    mock->connect_errors = 1;
    pnx_lease_release(&b);
    a = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &b), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now); /* a connect that fails gives its charge back */
    CHECK_EQ(mock->failed, 1);
    CHECK_EQ(used(budget), own + (1 << 20));
    CHECK_EQ(pnx_pool_resize(pool, 100, NULL), 0);
    CHECK(used(budget) > own + (1 << 20));
    pnx_lease_release(&a);
    tear_down(pool);
    CHECK_EQ(used(budget), 0);
    pnx_budget_release(&budget);
}

TEST(a_tight_budget_refuses_connects_and_takes_idle_resources_back) {
    set_up();
    struct pnx_budget *budget;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .hard = 3 << 20), NULL, &budget),
            0);
    struct pnx_pool *pool =
            mock_pool(&mock_manager, OPTS(.max = 4, .budget = budget, .resource_bytes = 1 << 20));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC), c = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &c), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_pool_acquire(pool, 0, &err, &c), -ETIMEDOUT);
    CHECK_EQ(err.cause, -ENOMEM);
    CHECK_CONTAINS(err.message, "the memory budget refused 1048576 bytes");
    pnx_lease_release(&a);
    pnx_lease_release(&b);
    CHECK_EQ(pnx_budget_reclaim(budget, 1), 1 << 20);
    CHECK_EQ(mock_stats(pool).closed_pressure, 1);
    CHECK_EQ(mock->live, 1);
    tear_down(pool);
    struct pnx_pool *none = NULL;
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.max = 60000, .budget = budget);
    CHECK_EQ(pnx_pool_create(&mock_bare, &opts, &err, &none), -ENOMEM);
    CHECK_CONTAINS(err.message, "the memory budget refused it");
    CHECK_EQ(used(budget), 0);
    pnx_budget_release(&budget);
}

TEST(a_reclaim_takes_no_more_than_asked_for_while_its_closes_run) {
    test_env_init(&te);
    mock = mock_new();
    struct pnx_budget *budget;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off()), NULL, &budget), 0);
    struct pnx_pool *pool = mock_pool(
            &mock_manager, PNX_POOL_OPTS(.name = "db", .ctx = mock, .env = &te.env, .max = 4,
                                   .budget = budget, .resource_bytes = 1 << 20));
    struct pnx_lease leases[4];
    for (int i = 0; i < 4; i++)
        leases[i] = mock_acquire(pool, 30 * PNX_SEC);
    for (int i = 0; i < 4; i++)
        pnx_lease_release(&leases[i]);
    mock_set(mock, &mock->hold_close, true);
    CHECK_EQ(pnx_budget_reclaim(budget, 1), 0); /* nothing is free before a close has returned */
    CHECK_EQ(pnx_budget_reclaim(budget, 1 << 20), 0);
    CHECK_EQ(mock_stats(pool).closing, 1);
    CHECK_EQ(mock_stats(pool).idle, 3);
    mock_set(mock, &mock->hold_close, false);
    mock_wait(mock, &mock->closes, 1);
    tear_down(pool);
    pnx_budget_release(&budget);
}

static struct pnx_pool *to_release;
static void close_and_release(void *ctx, void *resource, pnx_ns deadline) {
    mock_close(ctx, resource, deadline);
    pnx_pool_release(&to_release); /* as another thread may do at this moment */
}

TEST(a_pool_may_be_released_while_a_reclaim_closes_its_last_resource) {
    set_up();
    struct pnx_budget *budget;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.parent = pnx_budget_off()), NULL, &budget), 0);
    struct pnx_pool_manager manager = mock_manager;
    manager.close = close_and_release;
    to_release = mock_pool(&manager, OPTS(.max = 1, .budget = budget, .resource_bytes = 1 << 20));
    struct pnx_lease lease = mock_acquire(to_release, PNX_SEC);
    pnx_lease_release(&lease);
    CHECK(pnx_budget_reclaim(budget, 1) >= 1 << 20);
    CHECK(!to_release);
    CHECK_EQ(mock->live, 0);
    CHECK_EQ(used(budget), 0);
    pnx_budget_release(&budget);
    test_env_check_empty(&te);
    free(mock);
}

/* ---- statistics, events, health, text ---- */

struct text {
    char all[16384];
    size_t n;
};
static int append(void *ctx, const char *piece, size_t n) {
    struct text *text = ctx;
    CHECK(text->n + n < sizeof(text->all));
    memcpy(text->all + text->n, piece, n);
    text->n += n;
    text->all[text->n] = '\0';
    return 0;
}
static int refuse(void *ctx, const char *piece, size_t n) {
    (void)ctx;
    (void)piece;
    (void)n;
    return -EIO;
}

TEST(the_numbers_are_exported) {
    set_up();
    struct pnx_stats *set;
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(), NULL, &set), 0);
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 7, .stats = set));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    static struct text text;
    struct pnx_pool_stats stats = mock_stats(pool);
    CHECK_EQ(stats.acquires, 1);
    CHECK_EQ(stats.waits, 1);
    CHECK_EQ(stats.connects, 1);
    CHECK_EQ(stats.in_use, 1);
    CHECK_EQ(stats.idle, 0);
    struct pnx_pool_stats shorter = {.size = offsetof(struct pnx_pool_stats, waits), .waits = 99};
    CHECK_EQ(pnx_pool_read_stats(pool, &shorter), 0);
    CHECK_EQ(shorter.acquires, 1);
    CHECK_EQ(shorter.waits, 99);
    CHECK_EQ(pnx_stats_openmetrics(set, append, &text), 0);
    CHECK_CONTAINS(text.all, "patinox_pool_acquires_total{pool=\"db\",");
    CHECK_CONTAINS(text.all, "patinox_pool_max{pool=\"db\",");
    CHECK_CONTAINS(text.all, "patinox_pool_connect_seconds_count{pool=\"db\",");
    pnx_lease_release(&lease);
    tear_down(pool);
    pnx_stats_release(&set);
}

static struct text events;
static void note(void *ctx, const struct pnx_event *event) {
    char line[128];
    (void)ctx;
    int n = snprintf(line, sizeof(line), "%s %d %s|", pnx_event_name(event->type), event->code,
            event->cause ? event->cause : "-");
    CHECK_STR(event->object, "db");
    append(&events, line, (size_t)n);
}

TEST(events_tell_a_life) {
    set_up();
    struct pnx_stats *set;
    uint32_t id;
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(), NULL, &set), 0);
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = note};
    CHECK_EQ(pnx_monitor_add(set, &monitor, &id), 0);
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1, .stats = set));
    struct pnx_lease lease = {0};
    mock->connect_errors = 1;
    mock->connect_error = -EIO;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    test_env_advance(&te, PNX_SEC);
    lease = mock_acquire(pool, PNX_SEC);
    pnx_lease_discard(&lease);
    CHECK_EQ(pnx_pool_close(pool, PNX_SEC), 0);
    CHECK_STR(events.all,
            "pool_acquire_failed -" PNX_STRINGIFY(
                    ETIMEDOUT) " wait|pool_connect_failed -5 -|"
                               "pool_connection_created 0 -|pool_connection_closed 0 discarded|"
                               "pool_closed 0 -|");
    tear_down(pool);
    CHECK_EQ(pnx_monitor_remove(set, id), 0);
    pnx_stats_release(&set);
}

TEST(health_says_down_degraded_and_ok) {
    set_up();
    struct pnx_stats *set;
    struct pnx_health_entry entry;
    size_t n;
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(), NULL, &set), 0);
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 2, .stats = set));
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_OK);
    mock->connect_errors = 1;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_DOWN);
    CHECK_STR(entry.reason, "connects fail and no resource is alive");
    test_env_advance(&te, PNX_SEC);
    lease = mock_acquire(pool, PNX_SEC);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_OK);
    struct pnx_lease none = {0};
    mock->connect_errors = 1;
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &none), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_DEGRADED);
    CHECK_STR(entry.reason, "connects fail");
    pnx_lease_release(&lease);
    CHECK_EQ(pnx_pool_close(pool, PNX_SEC), 0);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_DOWN);
    CHECK_STR(entry.reason, "closed");
    tear_down(pool);
    pnx_stats_release(&set);
}

TEST(a_timeout_makes_the_pool_degraded_for_ten_seconds) {
    set_up();
    struct pnx_stats *set;
    struct pnx_health_entry entry;
    size_t n;
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(), NULL, &set), 0);
    te.virtual_time = false;
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 1, .stats = set));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC), none = {0};
    CHECK_EQ(pnx_pool_acquire(pool, PNX_MS, NULL, &none), -ETIMEDOUT);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_DEGRADED);
    CHECK_STR(entry.reason, "acquires run into their deadline");
    pnx_pool_tick(pool, pnx_now() + 10 * PNX_SEC);
    CHECK_EQ(pnx_health(set, &entry, 1, &n), PNX_HEALTH_OK);
    pnx_lease_release(&lease);
    tear_down(pool);
    pnx_stats_release(&set);
}

TEST(the_dump_shows_each_slot) {
    set_up();
    static struct text text;
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 3));
    struct pnx_lease a = mock_acquire(pool, PNX_SEC), b = mock_acquire(pool, PNX_SEC);
    pnx_lease_release(&b);
    test_env_advance(&te, 2 * PNX_SEC);
    CHECK_EQ(pnx_pool_dump(pool, append, &text), 0);
    CHECK_CONTAINS(text.all, "pool \"db\": 2 of 3: 1 in use, 1 idle, 0 connecting, 0 checking");
    char line[100];
    snprintf(line, sizeof(line), "  slot 0: in use for 2.000 s, grant 1, resource %p, age",
            pnx_lease_resource(&a));
    CHECK_CONTAINS(text.all, line);
    CHECK_CONTAINS(text.all, "  slot 1: idle for 2.000 s, grant 1, resource ");
    CHECK_EQ(pnx_pool_dump(pool, refuse, NULL), -EIO);
    te.fail_at = te.allocations + 1;
    CHECK_EQ(pnx_pool_dump(pool, append, &text), -ENOMEM);
    te.fail_at = 0;
    pnx_lease_release(&a);
    tear_down(pool);
}

static struct text in_connect;
static void dump_in_connect(struct mock *m) {
    memset(&in_connect, 0, sizeof(in_connect));
    CHECK_EQ(pnx_pool_dump(m->pool, append, &in_connect), 0);
}

TEST(the_dump_says_why_connects_fail_and_which_are_under_way) {
    set_up();
    static struct text failed, again, closed;
    struct pnx_pool *pool = mock_pool(&mock_manager, OPTS(.max = 3));
    struct pnx_lease lease = {0};
    mock->pool = pool;
    mock->during = dump_in_connect;
    mock->connect_errors = 1;
    mock->message = "no route to db-1";
    CHECK_EQ(pnx_pool_acquire(pool, 0, NULL, &lease), -ETIMEDOUT);
    pnx_pool_tick(pool, te.now);
    CHECK_CONTAINS(in_connect.all, ": 1 of 3: 0 in use, 0 idle, 1 connecting, 0 checking");
    CHECK_CONTAINS(in_connect.all, "  slot 0: connecting for 0.000 s, grant 0, ");
    CHECK_EQ(pnx_pool_dump(pool, append, &failed), 0);
    CHECK_CONTAINS(failed.all, "  last connect error 0.000 s ago: ");
    CHECK_CONTAINS(failed.all, "no route to db-1");
    CHECK_CONTAINS(failed.all, "; 1 failed in a row, next connect in ");
    test_env_advance(&te, 60 * PNX_SEC);
    CHECK_EQ(pnx_pool_dump(pool, append, &again), 0);
    CHECK_CONTAINS(again.all, "  last connect error 60.000 s ago: ");
    CHECK_CONTAINS(again.all, "; 1 failed in a row, next connect when it is needed\n");
    mock->during = NULL;
    CHECK_EQ(pnx_pool_close(pool, PNX_SEC), 0);
    CHECK_EQ(pnx_pool_dump(pool, append, &closed), 0);
    CHECK_CONTAINS(closed.all, "pool \"db\" (closed): 0 of 3: ");
    tear_down(pool);
}

/* ---- housekeeping ---- */

static void until(struct pnx_pool *pool, uint64_t threads) {
    pnx_ns end = pnx_now() + 30 * PNX_SEC;
    while (mock_stats(pool).threads != threads) {
        CHECK(pnx_now() < end);
        sched_yield();
    }
}

TEST(threads_without_work_end_save_one_and_do_not_pile_up) {
    test_env_init(&te);
    mock = mock_new();
    struct pnx_pool *pool = mock_pool(
            &mock_manager, PNX_POOL_OPTS(.max = 4, .name = "db", .ctx = mock, .env = &te.env));
    pool->linger = PNX_MS; /* nobody else knows the pool yet */
    for (int i = 0; i < 20; i++) {
        struct pnx_lease lease = mock_acquire(pool, 30 * PNX_SEC);
        pnx_lease_discard(&lease);
        until(pool, 1);
    }
    /* name, pool, slots, the thread that is left, and those that ended since the last start */
    CHECK(__atomic_load_n(&te.live_blocks, __ATOMIC_RELAXED) <= 7);
    tear_down(pool);
}

TEST(p8_without_threads_a_waiter_that_leaves_hands_the_timers_to_the_next) {
    test_env_init(&te);
    mock = mock_new();
    mock->connect_errors = -1;
    struct pnx_pool *pool = mock_pool(
            &mock_manager, OPTS(.max = 1, .backoff_ns = 30 * PNX_MS, .backoff_max_ns = 30 * PNX_MS,
                                   .breaker_failures = UINT32_MAX));
    struct caller first = {.release = true}, second = {.release = true};
    caller_start(&first, pool, 60 * PNX_MS);
    mock_wait(mock, &mock->failed, 1);
    caller_start(&second, pool, 30 * PNX_SEC);
    caller_join(&first);
    CHECK_EQ(first.rc, -ETIMEDOUT);
    pthread_mutex_lock(&mock->lock);
    mock->connect_errors = 0;
    pthread_mutex_unlock(&mock->lock);
    pnx_ns start = pnx_now();
    caller_join(&second);
    CHECK_EQ(second.rc, 0);
    CHECK(pnx_now() - start < 20 * PNX_SEC);
    tear_down(pool);
}

TEST(p8_without_threads_a_waiter_that_is_served_hands_the_timers_to_the_next) {
    test_env_init(&te);
    mock = mock_new();
    struct pnx_pool *pool = mock_pool(
            &mock_manager, OPTS(.max = 2, .backoff_ns = PNX_SEC, .connect_timeout_ns = PNX_NEVER,
                                   .idle_ns = PNX_NEVER, .lifetime_ns = PNX_NEVER));
    struct pnx_lease lease = mock_acquire(pool, PNX_SEC);
    mock->connect_errors = 1;
    mock_set(mock, &mock->hold_connect, true);
    struct caller first = {0}, second = {0};
    caller_start(&first, pool, 30 * PNX_SEC);
    mock_wait(mock, &mock->in_connect, 1);
    caller_start(&second, pool, 15 * PNX_SEC);
    UNTIL(pool, s.waiting == 2);
    mock_set(mock, &mock->hold_connect, false);
    UNTIL(pool, s.connect_failures == 1);
    pnx_lease_release(&lease); /* to the first, who sleeps until the pause after the failure ends */
    caller_join(&first);
    CHECK_EQ(first.rc, 0);
    caller_join(&second);
    CHECK_EQ(second.rc, 0); /* by a connect: the first keeps its lease */
    pnx_lease_release(&first.lease);
    pnx_lease_release(&second.lease);
    tear_down(pool);
}
