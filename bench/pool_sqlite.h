/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_sqlite.h - pool/sqlite: a connection to one small database, and the least that one can ask it.
 *
 * The statement is prepared, run and finalized each time, as libzdb does; forms named -prepared keep it prepared.
 */
#ifndef PNX_BENCH_POOL_SQLITE_H
#define PNX_BENCH_POOL_SQLITE_H

#include <sqlite3.h>
#include <stdlib.h>

#define POOL_SQLITE_SIZE 4
#define POOL_SQLITE_SQL  "SELECT 1"

/* Reads the row of a statement. */
static inline void pool_sqlite_step(sqlite3_stmt *stmt) {
    if (sqlite3_step(stmt) != SQLITE_ROW || sqlite3_column_int(stmt, 0) != 1)
        abort();
}

static inline void pool_sqlite_select(sqlite3 *handle) {
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(handle, POOL_SQLITE_SQL, -1, &stmt, NULL) != SQLITE_OK)
        abort();
    pool_sqlite_step(stmt);
    sqlite3_finalize(stmt);
}

/* A database of its own in a new directory; ends the process when it cannot be made. */
const char *pool_sqlite_path(void);
void pool_sqlite_remove(void);

#endif
