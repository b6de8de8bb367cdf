/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SQLite connections in a pool: a database that several threads write to, statements that stay prepared, deadlines.
 */
#include <patinox/patinox.h>
#include <patinox/sqlite.h>

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define THREADS 3
#define ROUNDS  20

/* Says what went wrong and ends the program. */
static void must(int rc, const char *what, const struct pnx_error *err) {
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, pnx_errname(rc), err->message);
    exit(1);
}

/* Runs for each new connection: the place for functions of your own and for pragmas. */
static int set_up(void *ctx, struct sqlite3 *handle) {
    (void)ctx;
    return pnx_sqlite_code(sqlite3_exec(handle, "PRAGMA temp_store=memory", NULL, NULL, NULL));
}

static void add_note(struct pnx_pool *pool, int author, int number) {
    struct pnx_error err = {0};
    PNX_AUTO_LEASE lease = {0};
    must(pnx_pool_acquire(pool, 10 * PNX_SEC, &err, &lease), "acquire", &err);
    struct pnx_sqlite_conn *conn = pnx_lease_resource(&lease);

    /* One deadline for all of it: locks, statements, and the commit. */
    must(pnx_sqlite_set_timeout(conn, 10 * PNX_SEC), "timeout", &err);
    must(pnx_sqlite_exec(conn, "BEGIN IMMEDIATE", &err), "begin", &err);
    struct sqlite3_stmt *stmt = NULL;
    must(pnx_sqlite_prepare(conn, "INSERT INTO note(author, number) VALUES(?1, ?2)", &err, &stmt),
            "prepare", &err);
    sqlite3_bind_int(stmt, 1, author);
    sqlite3_bind_int(stmt, 2, number);
    must(pnx_sqlite_step(conn, stmt, &err), "insert", &err);
    pnx_sqlite_finish(conn, &stmt);

    /* Every fifth writer forgets to commit: the lease's release rolls back. */
    if (number % 5 != 0)
        must(pnx_sqlite_exec(conn, "COMMIT", &err), "commit", &err);
}

struct writer {
    struct pnx_pool *pool;
    int author;
};

static void *write_notes(void *arg) {
    const struct writer *writer = arg;
    for (int number = 0; number < ROUNDS; number++)
        add_note(writer->pool, writer->author, number);
    return NULL;
}

static void count_notes(struct pnx_pool *pool) {
    struct pnx_error err = {0};
    PNX_AUTO_LEASE lease = {0};
    must(pnx_pool_acquire(pool, 10 * PNX_SEC, &err, &lease), "acquire", &err);
    struct pnx_sqlite_conn *conn = pnx_lease_resource(&lease);
    struct sqlite3_stmt *stmt = NULL;
    must(pnx_sqlite_prepare(conn, "SELECT author, count(*) FROM note GROUP BY author", &err, &stmt),
            "prepare", &err);
    int row;
    while ((row = pnx_sqlite_step(conn, stmt, &err)) == 1)
        printf("author %d wrote %d notes\n", sqlite3_column_int(stmt, 0),
                sqlite3_column_int(stmt, 1));
    must(row, "count", &err);
    pnx_sqlite_finish(conn, &stmt);

    /* A statement that would run for ever ends at the deadline. */
    must(pnx_sqlite_set_timeout(conn, 20 * PNX_MS), "timeout", &err);
    int rc = pnx_sqlite_exec(conn,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n",
            &err);
    printf("endless query: %s, %s\n", pnx_errname(rc), err.message);

    /* Another thread that knows of the lease could end it early; what comes after is refused, too. */
    pnx_sqlite_interrupt(conn);
    rc = pnx_sqlite_exec(conn, "SELECT 1", &err);
    printf("interrupted: %s; SQLite %s\n", pnx_errname(rc), sqlite3_libversion());
    (void)pnx_sqlite_handle(conn); /* for what the adapter does not offer */
}

int main(void) {
    char dir[] = "/tmp/patinox-example-XXXXXX";
    char path[64];
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof(path), "%s/notes.db", dir);

    struct pnx_error err = {0};
    struct pnx_sqlite *source = NULL;
    must(pnx_sqlite_create(
                 PNX_SQLITE_OPTS(.name = "notes", .path = path, .setup = set_up), &err, &source),
            "source", &err);
    struct pnx_pool *pool = NULL;
    must(pnx_pool_create(pnx_sqlite_manager(),
                 PNX_POOL_OPTS(.name = "notes", .ctx = source, .max = 2,
                         .resource_bytes = pnx_sqlite_connection_bytes(source)),
                 &err, &pool),
            "pool", &err);

    struct pnx_lease lease = {0};
    must(pnx_pool_acquire(pool, 10 * PNX_SEC, &err, &lease), "acquire", &err);
    must(pnx_sqlite_exec(
                 pnx_lease_resource(&lease), "CREATE TABLE note(author INT, number INT)", &err),
            "create", &err);
    pnx_lease_release(&lease);

    pthread_t threads[THREADS];
    struct writer writers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){.pool = pool, .author = i + 1};
        if (pthread_create(&threads[i], NULL, write_notes, &writers[i]) != 0)
            return 1;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    count_notes(pool);

    /* First the pool, wholly; then the source that its connections come from. */
    if (pnx_pool_close(pool, 10 * PNX_SEC) != 0)
        return 1;
    pnx_pool_release(&pool);
    struct pnx_sqlite_stats stats = {.size = sizeof(stats)};
    must(pnx_sqlite_read_stats(source, &stats), "stats", &err);
    printf("%llu statements found prepared, %llu prepared, %llu rolled back\n",
            (unsigned long long)stats.statement_hits, (unsigned long long)stats.statement_misses,
            (unsigned long long)stats.rollbacks);
    pnx_sqlite_release(&source);
    unlink(path);
    rmdir(dir);
    return stats.rollbacks == THREADS * ROUNDS / 5 ? 0 : 1;
}
