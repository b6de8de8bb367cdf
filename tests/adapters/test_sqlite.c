/* SPDX-License-Identifier: Apache-2.0 */
/* What the SQLite adapter promises about one connection (patinox/sqlite.h), through the manager's operations. */
#include "harness/harness.h"

#include <patinox/pool.h>
#include <patinox/shutdown.h>
#include <patinox/sqlite.h>

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static struct pnx_sqlite *make_source(const char *name, uint32_t flags) {
    struct pnx_error err = {0};
    struct pnx_sqlite *source = NULL;
    int rc = pnx_sqlite_create(
            PNX_SQLITE_OPTS(.path = test_path(name), .flags = flags, .statements = 4), &err,
            &source);
    CHECK_MSG(rc == 0, "%d: %s", rc, err.message);
    return source;
}

static struct pnx_sqlite_conn *make_conn(struct pnx_sqlite *source) {
    struct pnx_error err = {0};
    void *conn = NULL;
    int rc = pnx_sqlite_manager()->connect(source, pnx_now() + 5 * PNX_SEC, &err, &conn);
    CHECK_MSG(rc == 0, "%d: %s", rc, err.message);
    return conn;
}

static int try_connect(struct pnx_sqlite *source, struct pnx_error *err) {
    void *conn = NULL;
    *err = (struct pnx_error){0};
    int rc = pnx_sqlite_manager()->connect(source, pnx_now() + 5 * PNX_SEC, err, &conn);
    CHECK(rc == 0 || conn == NULL);
    if (rc == 0)
        pnx_sqlite_manager()->close(source, conn, PNX_NEVER);
    return rc;
}

static void close_conn(struct pnx_sqlite *source, struct pnx_sqlite_conn *conn) {
    pnx_sqlite_manager()->close(source, conn, PNX_NEVER);
}

static int reset_conn(struct pnx_sqlite *source, struct pnx_sqlite_conn *conn) {
    return pnx_sqlite_manager()->reset(source, conn, pnx_now() + PNX_SEC);
}

static int check_conn(struct pnx_sqlite *source, struct pnx_sqlite_conn *conn) {
    return pnx_sqlite_manager()->check(source, conn, pnx_now() + PNX_SEC);
}

static void exec_ok(struct pnx_sqlite_conn *conn, const char *sql) {
    struct pnx_error err = {0};
    int rc = pnx_sqlite_exec(conn, sql, &err);
    CHECK_MSG(rc == 0, "%s: %d: %s", sql, rc, err.message);
}

static int64_t ask(struct pnx_sqlite_conn *conn, const char *sql) {
    struct pnx_error err = {0};
    struct sqlite3_stmt *stmt = NULL;
    int rc = pnx_sqlite_prepare(conn, sql, &err, &stmt);
    CHECK_MSG(rc == 0, "%s: %d: %s", sql, rc, err.message);
    rc = pnx_sqlite_step(conn, stmt, &err);
    CHECK_MSG(rc == 1, "%s: %d: %s", sql, rc, err.message);
    int64_t value = sqlite3_column_int64(stmt, 0);
    pnx_sqlite_finish(conn, &stmt);
    CHECK(stmt == NULL);
    return value;
}

static struct pnx_sqlite_stats stats_of(struct pnx_sqlite *source) {
    struct pnx_sqlite_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_sqlite_read_stats(source, &stats), 0);
    return stats;
}

/* ---- creating ---- */

TEST(options_name_the_field_at_fault) {
    static const struct {
        struct pnx_sqlite_opts opts;
        int code;
        const char *field;
    } bad[] = {
            {{.size = sizeof(struct pnx_sqlite_opts)}, -EINVAL, "path"},
            {{.size = sizeof(struct pnx_sqlite_opts), .path = ""}, -EINVAL, "path"},
            {{.size = sizeof(struct pnx_sqlite_opts), .path = ":memory:"}, -EINVAL, "path"},
            {{.size = sizeof(struct pnx_sqlite_opts), .path = "x", .flags = 64}, -EINVAL, "flags"},
            {{.size = sizeof(struct pnx_sqlite_opts), .path = "x", .statements = 257}, -EINVAL,
                    "statements"},
            {{.size = sizeof(struct pnx_sqlite_opts), .path = "x", .cache_bytes = 1}, -EINVAL,
                    "cache_bytes"},
            {{.size = sizeof(struct pnx_sqlite_opts), .path = "x", .busy_ns = -1}, -EINVAL,
                    "busy_ns"},
            {{.path = "x"}, -EINVAL, "size"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pnx_error err = {0};
        struct pnx_sqlite *source = (void *)1;
        CHECK_EQ(pnx_sqlite_create(&bad[i].opts, &err, &source), bad[i].code);
        CHECK_STR(err.field, bad[i].field);
        CHECK(source == (void *)1);
    }
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = "x"), NULL, NULL), -EINVAL);
}

TEST(unknown_option_is_refused) {
    struct {
        struct pnx_sqlite_opts opts;
        uint64_t more;
    } wide = {.opts = {.size = sizeof(wide), .path = "x"}, .more = 1};
    struct pnx_sqlite *source = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_sqlite_create(&wide.opts, &err, &source), -E2BIG);
    wide.more = 0;
    CHECK_EQ(pnx_sqlite_create(&wide.opts, &err, &source), 0);
    pnx_sqlite_release(&source);
    pnx_sqlite_release(&source);
    pnx_sqlite_release(NULL);
}

TEST(source_is_registered_with_its_birthplace) {
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.name = "mine"), NULL, &registry), 0);
    struct pnx_sqlite *source = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("a.db"), .registry = registry),
                     NULL, &source),
            0);
    CHECK_EQ(pnx_registry_count(registry), 1);
    pnx_sqlite_release(&source);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(shutdown_refuses_new_connections) {
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.name = "mine"), NULL, &registry), 0);
    struct pnx_sqlite *source = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("a.db"), .registry = registry),
                     NULL, &source),
            0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_SEC, NULL), 0);
    struct pnx_error err;
    CHECK_EQ(try_connect(source, &err), -ESHUTDOWN);
    exec_ok(conn, "CREATE TABLE t(x)");
    /* A connection outlives the caller's reference. */
    pnx_sqlite_release(&source);
    exec_ok(conn, "INSERT INTO t VALUES(1)");
    close_conn(NULL, conn);
    pnx_registry_release(&registry);
}

/* ---- connecting ---- */

TEST(connect_makes_a_wal_database_with_foreign_keys) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    CHECK_EQ(ask(conn, "SELECT count(*) FROM pragma_journal_mode WHERE journal_mode='wal'"), 1);
    CHECK_EQ(ask(conn, "PRAGMA foreign_keys"), 1);
    CHECK_EQ(ask(conn, "PRAGMA synchronous"), 1);
    CHECK_EQ(ask(conn, "PRAGMA cache_size"), -2048);
    CHECK(pnx_sqlite_handle(conn) != NULL);
    CHECK(pnx_sqlite_connection_bytes(source) > 2048 * 1024);
    CHECK_EQ(stats_of(source).open, 1);
    CHECK_EQ(stats_of(source).opened, 1);
    close_conn(source, conn);
    CHECK_EQ(stats_of(source).open, 0);
    pnx_sqlite_release(&source);
}

TEST(connect_says_what_is_wrong_with_the_file) {
    struct pnx_error err;
    struct pnx_sqlite *source = make_source("missing.db", PNX_SQLITE_NO_CREATE);
    CHECK_EQ(try_connect(source, &err), -ENOENT);
    CHECK_CONTAINS(err.message, "missing.db");
    pnx_sqlite_release(&source);
    source = make_source("missing.db", PNX_SQLITE_READ_ONLY);
    CHECK_EQ(try_connect(source, &err), -ENOENT);
    pnx_sqlite_release(&source);
    source = make_source("missing.db", PNX_SQLITE_IMMUTABLE);
    CHECK_EQ(try_connect(source, &err), -ENOENT);
    CHECK_EQ(stats_of(source).open_failed, 1);
    pnx_sqlite_release(&source);

    char junk[8192];
    memset(junk, 'x', sizeof(junk));
    test_write_file(test_path("junk.db"), junk, sizeof(junk));
    source = make_source("junk.db", 0);
    CHECK_EQ(try_connect(source, &err), PNX_E_FORMAT);
    CHECK_CONTAINS(err.message, "not a database");
    pnx_sqlite_release(&source);

    source = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_dir()), NULL, &source), 0);
    int rc = try_connect(source, &err);
    CHECK_MSG(rc == -EISDIR || rc == -ENOENT, "%d", rc);
    pnx_sqlite_release(&source);
}

TEST(path_is_taken_byte_by_byte) {
    static const char *const names[] = {
            "a b.db", "a%20b.db", "a?mode=ro.db", "a#b.db", "a&b=c.db", "\xC3\xA9\xFF.db"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct pnx_sqlite *source = make_source(names[i], 0);
        struct pnx_sqlite_conn *conn = make_conn(source);
        exec_ok(conn, "CREATE TABLE t(x)");
        close_conn(source, conn);
        CHECK_EQ(access(test_path(names[i]), F_OK), 0);
        pnx_sqlite_release(&source);
    }
    /* Relative, and looking like a URI. */
    CHECK_EQ(chdir(test_dir()), 0);
    struct pnx_sqlite *source = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = "file:x.db?mode=memory"), NULL, &source), 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    exec_ok(conn, "CREATE TABLE t(x)");
    close_conn(source, conn);
    CHECK_EQ(access("file:x.db?mode=memory", F_OK), 0);
    pnx_sqlite_release(&source);
}

TEST(read_only_connections_cannot_write) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    exec_ok(conn, "CREATE TABLE t(x); INSERT INTO t VALUES(7)");
    close_conn(source, conn);
    pnx_sqlite_release(&source);
    const uint32_t flags[] = {PNX_SQLITE_IMMUTABLE, PNX_SQLITE_READ_ONLY};
    for (int i = 0; i < 2; i++) {
        source = make_source("a.db", flags[i]);
        conn = make_conn(source);
        CHECK_EQ(ask(conn, "SELECT x FROM t"), 7);
        struct pnx_error err;
        CHECK_EQ(pnx_sqlite_exec(conn, "INSERT INTO t VALUES(8)", &err), -EACCES);
        close_conn(source, conn);
        pnx_sqlite_release(&source);
        /* Immutable: nothing appears beside it. */
        CHECK(i > 0 || access(test_path("a.db-shm"), F_OK) != 0);
    }
}

static int fail_setup(void *ctx, struct sqlite3 *handle) {
    (void)handle;
    ++*(int *)ctx;
    return -EPERM;
}

TEST(failing_setup_fails_the_connect) {
    int calls = 0;
    struct pnx_sqlite *source = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("a.db"), .setup = fail_setup,
                                       .setup_ctx = &calls),
                     NULL, &source),
            0);
    struct pnx_error err;
    CHECK_EQ(try_connect(source, &err), -EPERM);
    CHECK_CONTAINS(err.message, "setup");
    CHECK_EQ(calls, 1);
    pnx_sqlite_release(&source);
}

/* ---- P1: what a connection is like when it goes back ---- */

TEST(p1_reset_rolls_back_and_takes_back_statements) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    exec_ok(conn, "CREATE TABLE t(x); INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)");
    exec_ok(conn, "BEGIN; INSERT INTO t VALUES(3)");
    struct sqlite3_stmt *stmt = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT x FROM t WHERE x > ?1", NULL, &stmt), 0);
    sqlite3_bind_int(stmt, 1, 1);
    CHECK_EQ(pnx_sqlite_step(conn, stmt, NULL), 1);
    CHECK_EQ(pnx_sqlite_set_timeout(conn, 0), 0);
    /* One that the adapter does not know of. */
    sqlite3_stmt *foreign = NULL;
    CHECK_EQ(sqlite3_prepare_v2(pnx_sqlite_handle(conn), "SELECT x FROM t", -1, &foreign, NULL), 0);
    CHECK_EQ(sqlite3_step(foreign), SQLITE_ROW);

    CHECK_EQ(reset_conn(source, conn), 0);
    CHECK(sqlite3_get_autocommit(pnx_sqlite_handle(conn)));
    CHECK(!sqlite3_stmt_busy(stmt));
    CHECK(!sqlite3_stmt_busy(foreign));
    CHECK_EQ(stats_of(source).rollbacks, 1);
    CHECK_EQ(ask(conn, "SELECT count(*) FROM t"), 2);
    /* The same statement again, without the binding. */
    struct sqlite3_stmt *again = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT x FROM t WHERE x > ?1", NULL, &again), 0);
    CHECK(again == stmt);
    CHECK_EQ(pnx_sqlite_step(conn, again, NULL), 0);
    pnx_sqlite_finish(conn, &again);
    /* The deadline is gone: this takes longer than 0. */
    CHECK_EQ(ask(conn, "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 100000) "
                       "SELECT count(*) FROM c"),
            100000);
    sqlite3_finalize(foreign);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

TEST(p1_replaced_handlers_come_back) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    sqlite3_progress_handler(pnx_sqlite_handle(conn), 0, NULL, NULL);
    CHECK_EQ(reset_conn(source, conn), 0);
    CHECK_EQ(pnx_sqlite_set_timeout(conn, 20 * PNX_MS), 0);
    CHECK_EQ(pnx_sqlite_exec(conn,
                     "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) "
                     "SELECT count(*) FROM c",
                     NULL),
            -ETIMEDOUT);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

/* ---- P2: deadlines ---- */

TEST(p2_running_statement_ends_at_the_deadline) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    CHECK_EQ(pnx_sqlite_set_timeout(conn, 50 * PNX_MS), 0);
    pnx_ns from = pnx_now();
    struct pnx_error err = {0};
    struct sqlite3_stmt *stmt = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn,
                     "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) "
                     "SELECT count(*) FROM c",
                     &err, &stmt),
            0);
    CHECK_EQ(pnx_sqlite_step(conn, stmt, &err), -ETIMEDOUT);
    CHECK(pnx_now() - from >= 50 * PNX_MS);
    CHECK_CONTAINS(err.message, "while a statement ran");
    pnx_sqlite_finish(conn, &stmt);
    CHECK_EQ(reset_conn(source, conn), 0);
    CHECK_EQ(stats_of(source).timeouts, 1);
    CHECK_EQ(ask(conn, "SELECT 5"), 5);
    CHECK_EQ(pnx_sqlite_set_timeout(conn, -1), -EINVAL);
    CHECK_EQ(pnx_sqlite_set_timeout(NULL, 1), -EINVAL);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

TEST(p2_waiting_for_a_lock_ends_at_the_deadline) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *first = make_conn(source), *second = make_conn(source);
    exec_ok(first, "CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    CHECK_EQ(pnx_sqlite_set_timeout(second, 60 * PNX_MS), 0);
    pnx_ns from = pnx_now();
    struct pnx_error err = {0};
    CHECK_EQ(pnx_sqlite_exec(second, "INSERT INTO t VALUES(2)", &err), -ETIMEDOUT);
    CHECK(pnx_now() - from >= 60 * PNX_MS);
    CHECK_CONTAINS(err.message, "waiting for a lock");
    /* The deadline has passed and is not armed anew: the next wait ends at once. */
    from = pnx_now();
    CHECK_EQ(pnx_sqlite_exec(second, "INSERT INTO t VALUES(2)", NULL), -ETIMEDOUT);
    CHECK(pnx_now() - from < 5 * PNX_SEC);
    CHECK_EQ(reset_conn(source, second), 0);
    CHECK(stats_of(source).busy_waits >= 1);
    /* Readers do not wait for a writer. */
    CHECK_EQ(ask(second, "SELECT count(*) FROM t"), 0);
    exec_ok(first, "COMMIT");
    exec_ok(second, "INSERT INTO t VALUES(2)");
    close_conn(source, first);
    close_conn(source, second);
    pnx_sqlite_release(&source);
}

TEST(p2_without_a_deadline_locks_are_waited_for_at_most_busy_ns) {
    struct pnx_sqlite *source = NULL;
    CHECK_EQ(pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("a.db"), .busy_ns = 30 * PNX_MS),
                     NULL, &source),
            0);
    struct pnx_sqlite_conn *first = make_conn(source), *second = make_conn(source);
    exec_ok(first, "CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    pnx_ns from = pnx_now();
    CHECK_EQ(pnx_sqlite_exec(second, "INSERT INTO t VALUES(2)", NULL), -EBUSY);
    CHECK(pnx_now() - from >= 30 * PNX_MS);
    close_conn(source, first);
    close_conn(source, second);
    pnx_sqlite_release(&source);
}

struct interruption {
    struct pnx_sqlite_conn *conn;
    atomic_bool started;
};

static void *interrupt_it(void *arg) {
    struct interruption *interruption = arg;
    while (!atomic_load(&interruption->started))
        ;
    pnx_sqlite_interrupt(interruption->conn);
    return NULL;
}

static void mark_started(sqlite3_context *context, int argc, sqlite3_value **argv) {
    (void)argc;
    (void)argv;
    atomic_store((atomic_bool *)sqlite3_user_data(context), true);
    sqlite3_result_int(context, 1);
}

TEST(interrupt_ends_what_runs_and_what_comes_until_the_reset) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct interruption interruption = {.conn = make_conn(source)};
    struct pnx_sqlite_conn *conn = interruption.conn;
    sqlite3_create_function(pnx_sqlite_handle(conn), "mark_started", 0, SQLITE_UTF8,
            (void *)&interruption.started, mark_started, NULL, NULL);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, interrupt_it, &interruption), 0);
    struct pnx_error err;
    CHECK_EQ(pnx_sqlite_exec(conn,
                     "WITH RECURSIVE c(n) AS (SELECT mark_started() UNION ALL SELECT n+1 FROM c) "
                     "SELECT count(*) FROM c",
                     &err),
            -ECANCELED);
    pthread_join(thread, NULL);
    struct sqlite3_stmt *stmt = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 1", &err, &stmt), -ECANCELED);
    CHECK_EQ(pnx_sqlite_exec(conn, "SELECT 1", &err), -ECANCELED);
    CHECK_EQ(reset_conn(source, conn), 0);
    CHECK_EQ(ask(conn, "SELECT 1"), 1);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

/* ---- P3: statements ---- */

TEST(p3_statement_that_is_out_is_not_handed_out_again) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    struct sqlite3_stmt *a = NULL, *b = NULL, *c = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 1", NULL, &a), 0);
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 1", NULL, &b), 0);
    CHECK(a != b);
    CHECK_EQ(pnx_sqlite_step(conn, a, NULL), 1);
    CHECK_EQ(pnx_sqlite_step(conn, b, NULL), 1);
    struct sqlite3_stmt *kept = a;
    pnx_sqlite_finish(conn, &a);
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 1", NULL, &c), 0);
    CHECK(c == kept);
    CHECK_EQ(pnx_sqlite_step(conn, b, NULL), 0);
    pnx_sqlite_finish(conn, &b);
    pnx_sqlite_finish(conn, &c);
    pnx_sqlite_finish(conn, &c);
    pnx_sqlite_finish(conn, NULL);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

TEST(p3_oldest_unused_statement_makes_room) {
    struct pnx_sqlite *source = make_source("a.db", 0); /* 4 statements */
    struct pnx_sqlite_conn *conn = make_conn(source);
    struct sqlite3_stmt *out = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 0", NULL, &out), 0); /* stays out */
    ask(conn, "SELECT 1");
    ask(conn, "SELECT 2");
    ask(conn, "SELECT 3");
    ask(conn, "SELECT 1"); /* now 2 is the oldest */
    ask(conn, "SELECT 4");
    ask(conn, "SELECT 1");
    ask(conn, "SELECT 3");
    reset_conn(source, conn);
    struct pnx_sqlite_stats stats = stats_of(source);
    CHECK_EQ(stats.statement_drops, 1);
    CHECK_EQ(stats.statement_hits, 3);
    CHECK_EQ(stats.statement_misses, 5);
    CHECK_EQ(pnx_sqlite_step(conn, out, NULL), 1);
    pnx_sqlite_finish(conn, &out);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

TEST(p3_too_many_statements_out_is_busy) {
    struct pnx_sqlite *source = make_source("a.db", 0); /* 4 statements */
    struct pnx_sqlite_conn *conn = make_conn(source);
    struct sqlite3_stmt *out[5] = {0};
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 0", NULL, &out[i]), 0);
    struct pnx_error err;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 0", &err, &out[4]), -EBUSY);
    CHECK_CONTAINS(err.message, "finish one");
    pnx_sqlite_finish(conn, &out[2]);
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT 9", &err, &out[4]), 0);
    /* P4: closed with statements out; leak checkers watch. */
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

TEST(prepare_takes_exactly_one_statement) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    struct sqlite3_stmt *stmt = NULL;
    struct pnx_error err;
    static const char *const bad[] = {"", "  -- only a comment", "SELECT 1; SELECT 2",
            "SELECT 1; nonsense", "SELEC 1", "SELECT * FROM nowhere"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_MSG(pnx_sqlite_prepare(conn, bad[i], &err, &stmt) == -EINVAL, "%s", bad[i]);
    CHECK_CONTAINS(err.message, "nowhere");
    CHECK(stmt == NULL);
    static const char *const good[] = {
            "SELECT 1;", " SELECT 1 ; ; -- end", "/* a */ SELECT 1 /* b */"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        CHECK_EQ(ask(conn, good[i]), 1);
    CHECK_EQ(pnx_sqlite_prepare(conn, NULL, &err, &stmt), -EINVAL);
    CHECK_EQ(pnx_sqlite_prepare(NULL, "SELECT 1", &err, &stmt), -EINVAL);
    CHECK_EQ(pnx_sqlite_exec(conn, NULL, &err), -EINVAL);
    /* A statement of another connection. */
    struct pnx_sqlite_conn *other = make_conn(source);
    CHECK_EQ(pnx_sqlite_prepare(other, "SELECT 1", NULL, &stmt), 0);
    CHECK_EQ(pnx_sqlite_step(conn, stmt, &err), -EINVAL);
    CHECK_EQ(pnx_sqlite_step(conn, NULL, &err), -EINVAL);
    close_conn(source, other);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

TEST(statements_survive_a_changed_schema) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source), *other = make_conn(source);
    exec_ok(conn, "CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    CHECK_EQ(ask(conn, "SELECT count(*) FROM t"), 1);
    exec_ok(other, "ALTER TABLE t ADD COLUMN y; CREATE INDEX i ON t(y)");
    CHECK_EQ(ask(conn, "SELECT count(*) FROM t"), 1);
    exec_ok(other, "DROP TABLE t");
    struct sqlite3_stmt *stmt = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT count(*) FROM t", NULL, &stmt), 0);
    struct pnx_error err;
    CHECK_EQ(pnx_sqlite_step(conn, stmt, &err), -EINVAL);
    CHECK_CONTAINS(err.message, "no such table");
    close_conn(source, other);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

/* ---- P4 ---- */

TEST(p4_virtual_tables_with_statements_of_their_own_are_closed) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    exec_ok(conn, "CREATE VIRTUAL TABLE s USING fts5(x); INSERT INTO s VALUES('one two')");
    struct sqlite3_stmt *stmt = NULL;
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT rowid FROM s WHERE s MATCH 'two'", NULL, &stmt), 0);
    CHECK_EQ(pnx_sqlite_step(conn, stmt, NULL), 1);
    CHECK_EQ(reset_conn(source, conn), 0);
    CHECK_EQ(ask(conn, "SELECT rowid FROM s WHERE s MATCH 'two'"), 1);
    CHECK_EQ(pnx_sqlite_prepare(conn, "SELECT rowid FROM s WHERE s MATCH 'two'", NULL, &stmt), 0);
    CHECK_EQ(pnx_sqlite_step(conn, stmt, NULL), 1);
    close_conn(source, conn);
    CHECK_EQ(stats_of(source).left_open, 0);
    pnx_sqlite_release(&source);
}

TEST(p4_forgotten_foreign_statement_is_counted) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    sqlite3_stmt *foreign = NULL;
    CHECK_EQ(sqlite3_prepare_v2(pnx_sqlite_handle(conn), "SELECT 1", -1, &foreign, NULL), 0);
    close_conn(source, conn);
    CHECK_EQ(stats_of(source).left_open, 1);
    sqlite3_finalize(foreign); /* frees the handle */
    pnx_sqlite_release(&source);
}

/* ---- P5: checks ---- */

TEST(p5_check_finds_what_happened_to_the_file) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    exec_ok(conn, "CREATE TABLE t(x)");
    CHECK_EQ(check_conn(source, conn), 0);
    CHECK_EQ(rename(test_path("a.db"), test_path("b.db")), 0);
    CHECK_EQ(check_conn(source, conn), PNX_E_BROKEN);
    CHECK_EQ(rename(test_path("b.db"), test_path("a.db")), 0);
    CHECK_EQ(check_conn(source, conn), 0);
    CHECK_EQ(unlink(test_path("a.db")), 0);
    CHECK_EQ(check_conn(source, conn), PNX_E_BROKEN);
    test_write_file(test_path("a.db"), "", 0);
    CHECK_EQ(check_conn(source, conn), PNX_E_BROKEN);
    reset_conn(source, conn);
    CHECK_EQ(stats_of(source).check_failed, 3);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

TEST(p5_check_keeps_its_deadline) {
    /* Without a write-ahead log, a writer keeps readers out. */
    sqlite3 *writer = NULL;
    CHECK_EQ(sqlite3_open(test_path("a.db"), &writer), SQLITE_OK);
    CHECK_EQ(sqlite3_exec(writer, "CREATE TABLE t(x)", NULL, NULL, NULL), SQLITE_OK);
    struct pnx_sqlite *source = make_source("a.db", PNX_SQLITE_READ_ONLY);
    struct pnx_sqlite_conn *conn = make_conn(source);
    CHECK_EQ(check_conn(source, conn), 0);
    CHECK_EQ(sqlite3_exec(writer, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    pnx_ns from = pnx_now();
    CHECK_EQ(pnx_sqlite_manager()->check(source, conn, from + 30 * PNX_MS), -ETIMEDOUT);
    CHECK(pnx_now() - from >= 30 * PNX_MS);
    CHECK_EQ(sqlite3_exec(writer, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    CHECK_EQ(check_conn(source, conn), 0);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
    sqlite3_close(writer);
}

/* ---- P6: fork ---- */

struct forked {
    struct pnx_sqlite *source;
    struct pnx_sqlite_conn *conn;
};

static void in_child(void *arg) {
    struct forked *forked = arg;
    pnx_sqlite_manager()->abandon(forked->source, forked->conn);
    /* Not exit(): what SQLite holds for the parent's connection is left as it is, by contract. */
    _exit(stats_of(forked->source).open == 0 ? 0 : 1);
}

TEST(p6_abandon_leaves_the_parents_connection_alone) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct forked forked = {.source = source, .conn = make_conn(source)};
    exec_ok(forked.conn, "CREATE TABLE t(x); BEGIN IMMEDIATE; INSERT INTO t VALUES(1)");
    CHECK_EQ(test_child(in_child, &forked), 0);
    /* The transaction goes on, the lock still holds. */
    struct pnx_sqlite_conn *other = make_conn(source);
    CHECK_EQ(pnx_sqlite_set_timeout(other, 0), 0);
    CHECK_EQ(pnx_sqlite_exec(other, "INSERT INTO t VALUES(2)", NULL), -ETIMEDOUT);
    CHECK_EQ(reset_conn(source, other), 0);
    exec_ok(forked.conn, "COMMIT");
    CHECK_EQ(ask(other, "SELECT count(*) FROM t"), 1);
    CHECK_EQ(ask(other, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check='ok'"),
            1);
    close_conn(source, other);
    close_conn(source, forked.conn);
    pnx_sqlite_release(&source);
}

/* ---- errors and memory ---- */

TEST(codes_of_sqlite_have_words_of_ours) {
    CHECK_EQ(pnx_sqlite_code(SQLITE_OK), 0);
    CHECK_EQ(pnx_sqlite_code(SQLITE_ROW), 0);
    CHECK_EQ(pnx_sqlite_code(SQLITE_BUSY_SNAPSHOT), -EBUSY);
    CHECK_EQ(pnx_sqlite_code(SQLITE_CORRUPT_VTAB), PNX_E_FORMAT);
    CHECK_EQ(pnx_sqlite_code(SQLITE_IOERR_READ), -EIO);
    CHECK_EQ(pnx_sqlite_code(SQLITE_FULL), -ENOSPC);
    CHECK_EQ(pnx_sqlite_code(SQLITE_CONSTRAINT_UNIQUE), -EEXIST);
    for (int code = 1; code < 100; code++)
        CHECK(pnx_sqlite_code(code) < 0 || code == 100 || code == 101);
}

TEST(constraint_violations_tell_which) {
    struct pnx_sqlite *source = make_source("a.db", 0);
    struct pnx_sqlite_conn *conn = make_conn(source);
    exec_ok(conn, "CREATE TABLE t(x UNIQUE); INSERT INTO t VALUES(1)");
    struct pnx_error err = {0};
    CHECK_EQ(pnx_sqlite_exec(conn, "INSERT INTO t VALUES(1)", &err), -EEXIST);
    CHECK_CONTAINS(err.message, "t.x");
    CHECK_EQ(err.cause, SQLITE_CONSTRAINT_UNIQUE);
    close_conn(source, conn);
    pnx_sqlite_release(&source);
}

static int use_all(struct test_env *te, void *ctx) {
    (void)ctx;
    struct pnx_sqlite *source = NULL;
    int rc = pnx_sqlite_create(PNX_SQLITE_OPTS(.path = test_path("oom.db"), .env = &te->env,
                                       .registry = pnx_registry_off()),
            NULL, &source);
    if (rc)
        return rc;
    void *conn = NULL;
    struct pnx_error err;
    struct sqlite3_stmt *stmt = NULL;
    rc = pnx_sqlite_manager()->connect(source, PNX_NEVER, &err, &conn);
    if (!rc)
        rc = pnx_sqlite_prepare(conn, "SELECT 1", &err, &stmt);
    if (!rc)
        rc = pnx_sqlite_step(conn, stmt, &err) == 1 ? 0 : -EIO;
    if (conn)
        pnx_sqlite_manager()->close(source, conn, PNX_NEVER);
    pnx_sqlite_release(&source);
    return rc;
}

TEST(every_allocation_of_ours_may_fail) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, use_all, NULL);
}

/* SQLite's allocator, with one call in the future that fails. */
static sqlite3_mem_methods real_methods;
static _Atomic long countdown;

static void *failing_malloc(int n) {
    return atomic_fetch_sub(&countdown, 1) == 1 ? NULL : real_methods.xMalloc(n);
}
static void *failing_realloc(void *p, int n) {
    return atomic_fetch_sub(&countdown, 1) == 1 ? NULL : real_methods.xRealloc(p, n);
}

TEST_LIMIT(every_allocation_of_sqlite_may_fail, 120) {
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real_methods);
    sqlite3_mem_methods methods = real_methods;
    methods.xMalloc = failing_malloc;
    methods.xRealloc = failing_realloc;
    CHECK_EQ(sqlite3_config(SQLITE_CONFIG_MALLOC, &methods), SQLITE_OK);
    struct test_env te;
    test_env_init(&te);
    CHECK_EQ(use_all(&te, NULL), 0);
    int failures = 0;
    for (long n = 1;; n++) {
        atomic_store(&countdown, n);
        int rc = use_all(&te, NULL);
        CHECK_MSG(rc == 0 || rc == -ENOMEM, "allocation %ld: %d", n, rc);
        failures += rc != 0;
        if (atomic_load(&countdown) > 0)
            break;
    }
    CHECK(failures > 20);
    test_env_check_empty(&te);
}
