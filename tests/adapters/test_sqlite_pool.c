/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite connections in the pool, many threads at once. */
#include "harness/harness.h"

#include <patinox/pool.h>
#include <patinox/sqlite.h>

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS 6u

struct world {
    struct pnx_sqlite *source;
    struct pnx_pool *pool;
    int rounds;
};

static void world_open(struct world *world, uint32_t max) {
    struct pnx_error err = {0};
    int rc = pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("pool.db")), &err, &world->source);
    if (!rc)
        rc = pnx_pool_create(pnx_sqlite_manager(),
                PNX_POOL_OPTS(.name = "db", .ctx = world->source, .max = max,
                        .resource_bytes = pnx_sqlite_connection_bytes(world->source),
                        .check_after_ns = 1),
                &err, &world->pool);
    CHECK_MSG(rc == 0, "%d: %s", rc, err.message);
}

static void world_close(struct world *world) {
    CHECK_EQ(pnx_pool_close(world->pool, 10 * PNX_SEC), 0);
    struct pnx_sqlite_stats stats = {.size = sizeof(stats)};
    pnx_sqlite_read_stats(world->source, &stats);
    CHECK_EQ(stats.open, 0);
    pnx_pool_release(&world->pool);
    pnx_sqlite_release(&world->source);
}

static struct pnx_sqlite_conn *borrow(struct world *world, struct pnx_lease *lease) {
    struct pnx_error err = {0};
    int rc = pnx_pool_acquire(world->pool, 30 * PNX_SEC, &err, lease);
    CHECK_MSG(rc == 0, "%d: %s", rc, err.message);
    struct pnx_sqlite_conn *conn = pnx_lease_resource(lease);
    CHECK_EQ(pnx_sqlite_set_timeout(conn, 30 * PNX_SEC), 0);
    return conn;
}

static void exec_ok(struct pnx_sqlite_conn *conn, const char *sql) {
    struct pnx_error err = {0};
    int rc = pnx_sqlite_exec(conn, sql, &err);
    CHECK_MSG(rc == 0, "%s: %d: %s", sql, rc, err.message);
}

static int64_t count(struct world *world) {
    PNX_AUTO_LEASE lease = {0};
    struct pnx_sqlite_conn *conn = borrow(world, &lease);
    struct sqlite3_stmt *stmt = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT n FROM counter", NULL, &stmt), 0);
    CHECK_EQ(pnx_sqlite_step(conn, stmt, NULL), 1);
    int64_t n = sqlite3_column_int64(stmt, 0);
    pnx_sqlite_finish(conn, &stmt);
    return n;
}

static void increment(unsigned index, void *ctx) {
    struct world *world = ctx;
    for (int i = 0; i < world->rounds; i++) {
        struct pnx_lease lease = {0};
        struct pnx_sqlite_conn *conn = borrow(world, &lease);
        struct sqlite3_stmt *stmt = NULL;
        exec_ok(conn, "BEGIN IMMEDIATE");
        CHECK_EQ(pnx_sqlite_prepare(conn, "UPDATE counter SET n = n + ?1", NULL, &stmt), 0);
        sqlite3_bind_int(stmt, 1, 1);
        CHECK_EQ(pnx_sqlite_step(conn, stmt, NULL), 0);
        /* Every third one forgets to commit, and to finish its statement. */
        if ((i + (int)index) % 3 != 0) {
            pnx_sqlite_finish(conn, &stmt);
            exec_ok(conn, "COMMIT");
        }
        pnx_lease_release(&lease);
    }
}

TEST_LIMIT(transactions_of_many_threads_are_whole_or_gone, 120) {
    struct world world = {.rounds = test_slow() ? 30 : 150};
    world_open(&world, 3);
    struct pnx_lease lease = {0};
    exec_ok(borrow(&world, &lease), "CREATE TABLE counter(n); INSERT INTO counter VALUES(0)");
    pnx_lease_release(&lease);
    test_threads(THREADS, increment, &world);
    int64_t committed = 0;
    for (unsigned index = 0; index < THREADS; index++) {
        for (int i = 0; i < world.rounds; i++)
            committed += (i + (int)index) % 3 != 0;
    }
    CHECK_EQ(count(&world), committed);
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(world.pool, &stats), 0);
    CHECK(stats.connects <= 3);
    CHECK(stats.checks > 0);
    CHECK_EQ(stats.check_failures, 0);
    world_close(&world);
}

TEST(replaced_file_replaces_the_connections) {
    struct world world = {0};
    /* One: else the pool may connect a second while the first is checked. */
    world_open(&world, 1);
    struct pnx_lease lease = {0};
    exec_ok(borrow(&world, &lease), "CREATE TABLE counter(n); INSERT INTO counter VALUES(41)");
    pnx_lease_release(&lease);
    CHECK_EQ(count(&world), 41);
    /* Somebody restores a backup over it. */
    struct pnx_sqlite *other = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("new.db")), NULL, &other), 0);
    void *conn = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_sqlite_manager()->connect(other, PNX_NEVER, &err, &conn), 0);
    exec_ok(conn, "CREATE TABLE counter(n); INSERT INTO counter VALUES(42)");
    pnx_sqlite_manager()->close(other, conn, PNX_NEVER);
    pnx_sqlite_release(&other);
    unlink(test_path("pool.db-wal"));
    unlink(test_path("pool.db-shm"));
    CHECK_EQ(rename(test_path("new.db"), test_path("pool.db")), 0);
    CHECK_EQ(count(&world), 42);
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(world.pool, &stats), 0);
    CHECK_EQ(stats.closed_check, 1);
    world_close(&world);
}

TEST(acquire_says_why_the_database_cannot_be_opened) {
    struct world world = {0};
    char junk[4096];
    memset(junk, 'z', sizeof(junk));
    test_write_file(test_path("pool.db"), junk, sizeof(junk));
    world_open(&world, 2);
    struct pnx_error err = {0};
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(world.pool, 300 * PNX_MS, &err, &lease), -ETIMEDOUT);
    CHECK_CONTAINS(err.message, "not a database");
    CHECK_EQ(err.cause, PNX_E_FORMAT);
    world_close(&world);
}

/* ---- a database that is away for a while ---- */

static void create_file(void) {
    struct pnx_sqlite *source = NULL;
    struct pnx_error err;
    void *conn = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("pool.db")), NULL, &source), 0);
    CHECK_EQ(pnx_sqlite_manager()->connect(source, PNX_NEVER, &err, &conn), 0);
    exec_ok(conn, "CREATE TABLE counter(n); INSERT INTO counter VALUES(0)");
    pnx_sqlite_manager()->close(source, conn, PNX_NEVER);
    pnx_sqlite_release(&source);
}

static void open_what_exists(struct world *world) {
    struct pnx_error err = {0};
    int rc = pnx_sqlite_create(
            PNX_SQLITE_OPTS(.path = test_path("pool.db"), .flags = PNX_SQLITE_NO_CREATE), &err,
            &world->source);
    if (!rc)
        rc = pnx_pool_create(pnx_sqlite_manager(),
                PNX_POOL_OPTS(.name = "db", .ctx = world->source, .max = 3, .check_after_ns = 1,
                        .backoff_ns = PNX_MS, .backoff_max_ns = 5 * PNX_MS,
                        .breaker_failures = UINT32_MAX),
                &err, &world->pool);
    CHECK_MSG(rc == 0, "%d: %s", rc, err.message);
}

static void increment_once(unsigned index, void *ctx) {
    struct world *world = ctx;
    (void)index;
    for (int i = 0; i < world->rounds; i++) {
        struct pnx_lease lease = {0};
        exec_ok(borrow(world, &lease), "UPDATE counter SET n = n + 1");
        pnx_lease_release(&lease);
    }
}

/* The first brings the file back once the others have had to do without it for a while. */
static void bring_back_or_increment(unsigned index, void *ctx) {
    struct world *world = ctx;
    if (index > 0) {
        increment_once(index, ctx);
        return;
    }
    struct pnx_sqlite_stats stats = {.size = sizeof(stats)};
    pnx_ns until = pnx_now() + 60 * PNX_SEC;
    do {
        CHECK(pnx_now() < until);
        usleep(500);
        CHECK_EQ(pnx_sqlite_read_stats(world->source, &stats), 0);
    } while (stats.open_failed < 5 || stats.open > 0);
    CHECK_EQ(rename(test_path("away.db"), test_path("pool.db")), 0);
}

TEST_LIMIT(threads_wait_out_a_database_that_is_away_and_lose_nothing, 120) {
    struct world world = {.rounds = test_slow() ? 5 : 20};
    create_file();
    open_what_exists(&world);
    test_threads(THREADS, increment_once, &world);
    CHECK_EQ(rename(test_path("pool.db"), test_path("away.db")), 0);
    test_threads(THREADS + 1, bring_back_or_increment, &world);
    CHECK_EQ(count(&world), 2 * (int)THREADS * world.rounds);
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(world.pool, &stats), 0);
    CHECK(stats.closed_check > 0 && stats.connect_failures >= 5);
    CHECK_EQ(stats.timeouts, 0);
    world_close(&world);
}

static void child_uses_its_own(void *arg) {
    struct world *world = arg;
    struct pnx_lease lease = {0};
    struct pnx_error err;
    /* The parent's pool belongs to the parent. */
    if (pnx_pool_acquire(world->pool, PNX_SEC, &err, &lease) != -ESHUTDOWN)
        _exit(1);
    struct pnx_pool *mine = NULL;
    if (pnx_pool_create(pnx_sqlite_manager(),
                PNX_POOL_OPTS(.ctx = world->source, .max = 1, .registry = pnx_registry_off(),
                        .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                        .flags = PNX_POOL_NO_THREADS),
                &err, &mine) != 0)
        _exit(2);
    if (pnx_pool_acquire(mine, 10 * PNX_SEC, &err, &lease) != 0)
        _exit(3);
    struct pnx_sqlite_conn *conn = pnx_lease_resource(&lease);
    if (pnx_sqlite_exec(conn, "UPDATE counter SET n = n + 1", &err) != 0)
        _exit(4);
    pnx_lease_release(&lease);
    if (pnx_pool_close(mine, 10 * PNX_SEC) != 0)
        _exit(5);
    pnx_pool_release(&mine);
    _exit(0);
}

TEST(forked_child_opens_connections_of_its_own) {
    struct world world = {0};
    world_open(&world, 2);
    struct pnx_lease lease = {0};
    exec_ok(borrow(&world, &lease), "CREATE TABLE counter(n); INSERT INTO counter VALUES(1)");
    pnx_lease_release(&lease);
    CHECK_EQ(test_child(child_uses_its_own, &world), 0);
    CHECK_EQ(count(&world), 2);
    world_close(&world);
}
