/* SPDX-License-Identifier: Apache-2.0 */
/* pool_sqlite.c - where the database of pool/sqlite lies. */
#include "pool_sqlite.h"

#include <stdio.h>
#include <unistd.h>

static char directory[] = "/tmp/patinox-bench-XXXXXX";
static char path[64];

const char *pool_sqlite_path(void) {
    if (!mkdtemp(directory))
        abort();
    snprintf(path, sizeof(path), "%s/bench.db", directory);
    return path;
}

void pool_sqlite_remove(void) {
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        char name[sizeof(path) + 16];
        snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
        unlink(name);
    }
    rmdir(directory);
}
