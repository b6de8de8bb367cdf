/* SPDX-License-Identifier: Apache-2.0 */
/* pool_sqlite_peers.c - pool/sqlite without a pool, and for libzdb. */
#include "bench.h"
#include "pool_sqlite.h"

#include <stdio.h>
#include <string.h>

/* ---- held-connection: opened once, and never given back ---- */
static sqlite3_stmt *prepared;

static void *held_set_up(unsigned threads) {
    sqlite3 *handle;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (threads != 1 || sqlite3_open_v2(pool_sqlite_path(), &handle, flags, NULL) != SQLITE_OK ||
            sqlite3_exec(handle, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL", NULL, NULL,
                    NULL) != SQLITE_OK ||
            sqlite3_prepare_v2(handle, POOL_SQLITE_SQL, -1, &prepared, NULL) != SQLITE_OK)
        return NULL;
    return handle;
}

static void held_work(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++)
        pool_sqlite_select(state);
}

static void held_work_prepared(void *state, unsigned index, uint64_t n) {
    (void)state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        pool_sqlite_step(prepared);
        sqlite3_reset(prepared);
    }
}

static void held_tear_down(void *state) {
    sqlite3_finalize(prepared);
    sqlite3_close(state);
    pool_sqlite_remove();
}

#ifdef HAVE_ZDB
#include <zdb.h>

static void *zdb_set_up(unsigned threads) {
    char url[128];
    (void)threads;
    snprintf(url, sizeof(url), "sqlite://%s", pool_sqlite_path());
    ConnectionPool_T pool = ConnectionPool_new(URL_new(url));
    ConnectionPool_setInitialConnections(pool, POOL_SQLITE_SIZE);
    ConnectionPool_setMaxConnections(pool, POOL_SQLITE_SIZE);
    ConnectionPool_start(pool);
    return pool;
}

static void zdb_work(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        Connection_T connection = ConnectionPool_getConnection(state);
        if (!connection)
            abort(); /* it does not wait */
        ResultSet_T result = Connection_executeQuery(connection, POOL_SQLITE_SQL);
        if (!ResultSet_next(result) || ResultSet_getInt(result, 1) != 1)
            abort();
        Connection_close(connection);
    }
}

static void zdb_tear_down(void *state) {
    ConnectionPool_T pool = state;
    URL_T url = ConnectionPool_getURL(pool);
    ConnectionPool_stop(pool);
    ConnectionPool_free(&pool);
    URL_free(&url);
    pool_sqlite_remove();
}
#endif

static const struct bench_impl impls[] = {
        {.name = "held-connection",
                .version = SQLITE_VERSION,
                .set_up = held_set_up,
                .work = held_work,
                .tear_down = held_tear_down},
        {.name = "held-connection-prepared",
                .version = SQLITE_VERSION,
                .set_up = held_set_up,
                .work = held_work_prepared,
                .tear_down = held_tear_down},
#ifdef HAVE_ZDB
        {.name = "libzdb",
                .version = ZDB_VERSION,
                .set_up = zdb_set_up,
                .work = zdb_work,
                .tear_down = zdb_tear_down},
#endif
};

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    if (strcmp(args.case_name, "pool/sqlite") != 0)
        return 2;
    for (size_t i = 0; i < sizeof(impls) / sizeof(impls[0]); i++) {
        if (strcmp(impls[i].name, args.impl) == 0)
            return bench_cycle(&args, &impls[i]);
    }
    printf("{\"missing\":\"not built: libzdb-dev was not found\"}\n");
    return 0;
}
