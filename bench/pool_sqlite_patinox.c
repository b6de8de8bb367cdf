/* SPDX-License-Identifier: Apache-2.0 */
/* pool_sqlite_patinox.c - pool/sqlite for us: the SQLite adapter's connections in a pool, both with default options. */
#include "bench.h"
#include "pool_sqlite.h"

#include <patinox/pool.h>
#include <patinox/sqlite.h>

#include <string.h>

static struct pnx_sqlite *source;

static void *set_up(unsigned threads) {
    (void)threads;
    struct pnx_error err = {0};
    struct pnx_pool *pool = NULL;
    if (pnx_sqlite_create(PNX_SQLITE_OPTS(.path = pool_sqlite_path()), &err, &source) ||
            pnx_pool_create(pnx_sqlite_manager(),
                    PNX_POOL_OPTS(.name = "bench", .ctx = source, .max = POOL_SQLITE_SIZE), &err,
                    &pool))
        fprintf(stderr, "%s\n", err.message);
    return pool;
}

static struct pnx_sqlite_conn *acquire(struct pnx_pool *pool, struct pnx_lease *lease) {
    if (pnx_pool_acquire(pool, PNX_TIMEOUT_DEFAULT, NULL, lease))
        abort();
    return pnx_lease_resource(lease);
}

static void work(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_lease lease = {0};
        pool_sqlite_select(pnx_sqlite_handle(acquire(state, &lease)));
        pnx_lease_release(&lease);
    }
}

static void work_prepared(void *state, unsigned index, uint64_t n) {
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_lease lease = {0};
        struct pnx_sqlite_conn *conn = acquire(state, &lease);
        struct sqlite3_stmt *stmt;
        if (pnx_sqlite_prepare(conn, POOL_SQLITE_SQL, NULL, &stmt))
            abort();
        if (pnx_sqlite_step(conn, stmt, NULL) != 1 || sqlite3_column_int(stmt, 0) != 1)
            abort();
        pnx_sqlite_finish(conn, &stmt);
        pnx_lease_release(&lease);
    }
}

static void tear_down(void *state) {
    struct pnx_pool *pool = state;
    if (pnx_pool_close(pool, PNX_TIMEOUT_DEFAULT))
        abort();
    pnx_pool_release(&pool);
    pnx_sqlite_release(&source);
    pool_sqlite_remove();
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    const struct bench_impl impl = {.name = args.impl,
            .version = pnx_version(),
            .set_up = set_up,
            .work = strcmp(args.impl, "patinox-prepared") == 0 ? work_prepared : work,
            .tear_down = tear_down};
    return strcmp(args.case_name, "pool/sqlite") == 0 ? bench_cycle(&args, &impl) : 2;
}
