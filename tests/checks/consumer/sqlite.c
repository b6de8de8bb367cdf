/* SPDX-License-Identifier: Apache-2.0 */
/* A user's program with the SQLite adapter: one statement on a pooled connection. */
#include <patinox/patinox.h>
#include <patinox/sqlite.h>

#include <stdio.h>
#include <unistd.h>

int main(void) {
    struct pnx_error err = {0};
    struct pnx_sqlite *db = NULL;
    struct pnx_pool *pool = NULL;
    char path[64];
    snprintf(path, sizeof(path), "/tmp/patinox-consumer-%ld.db", (long)getpid());
    int rc = pnx_sqlite_create(PNX_SQLITE_OPTS(.path = path), &err, &db);
    if (rc == 0)
        rc = pnx_pool_create(pnx_sqlite_manager(), PNX_POOL_OPTS(.ctx = db, .max = 1), &err, &pool);
    if (rc == 0) {
        PNX_AUTO_LEASE lease = {0};
        rc = pnx_pool_acquire(pool, 10 * PNX_SEC, &err, &lease);
        if (rc == 0)
            rc = pnx_sqlite_exec(pnx_lease_resource(&lease), "CREATE TABLE t(x)", &err);
    }
    if (rc)
        fprintf(stderr, "%s\n", err.message);
    if (pool && pnx_pool_close(pool, 10 * PNX_SEC) != 0)
        rc = -EBUSY;
    pnx_pool_release(&pool);
    pnx_sqlite_release(&db);
    unlink(path);
    printf("SQLite through a pool: %s\n", rc ? "failed" : "fine");
    return rc ? 1 : 0;
}
