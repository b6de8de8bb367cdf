/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sqlite/source.h - what the files of the adapter share: the source and the connection.
 */
#ifndef PNX_SRC_ADAPTERS_SQLITE_SOURCE_H
#define PNX_SRC_ADAPTERS_SQLITE_SOURCE_H

#include "base/atomic.h"
#include "base/env.h"

#include <patinox/sqlite.h>

#include <sqlite3.h>

/* Virtual machine steps between two looks at the clock: some 20 us of work. */
#define PNX_SQLITE_PROGRESS_STEPS 2000

enum pnx_sqlite_stat {
#define PNX_STAT(name, kind, unit, level, help) PNX_SQLITE_STAT_##name,
#include <patinox/stats/sqlite.def>
#undef PNX_STAT
    PNX_SQLITE_STATS
};

/*
 * Owned by its references: the creator's, and one of each connection.  Everything but the atomics is fixed at
 * creation.
 */
struct pnx_sqlite {
    struct pnx_env env;
    char *name;
    char *path; /* as given, for messages */
    char *uri;  /* the same as SQLite takes it, with every odd byte escaped */
    struct pnx_registry *registry;
    pnx_resource_id row;
    int (*setup)(void *setup_ctx, struct sqlite3 *handle);
    void *setup_ctx;
    pnx_ns busy_ns;
    size_t cache_bytes;
    size_t mmap_bytes;
    uint32_t statements;
    uint32_t flags;
    struct pnx_a32 refs;
    struct pnx_a32 shut; /* 1 once a shutdown of the registry came by: no new connections */
    struct pnx_a64 stats[PNX_SQLITE_STATS];
};

/* One prepared statement.  Free when stmt is NULL. */
struct pnx_sqlite_entry {
    char *sql; /* the text as the caller gave it */
    size_t length;
    sqlite3_stmt *stmt;
    uint64_t used; /* the connection's tick of its last use */
    bool out;      /* handed out and not finished */
};

/*
 * Owned by the pool's slot; touched by one thread at a time (the pool's, or the lease's holder), save
 * `interrupted` and SQLite's own interrupt flag.
 */
struct pnx_sqlite_conn {
    struct pnx_sqlite *source; /* a reference */
    sqlite3 *handle;
    pnx_ns deadline;   /* PNX_NEVER: none */
    pnx_ns busy_since; /* when the wait for a lock that is going on began */
    bool timed_out;    /* a handler of ours ended the last call because of the deadline */
    struct pnx_a32 interrupted;
    uint64_t tick;
    uint64_t counts[PNX_SQLITE_STATS]; /* not yet added to the source's */
    struct pnx_sqlite_entry *entries;  /* source->statements of them */
    uint32_t n_out;                    /* how many of these are out */
};

void pnx__sqlite_unref(struct pnx_sqlite *source);
void pnx__sqlite_count(struct pnx_sqlite *source, enum pnx_sqlite_stat stat, uint64_t n);

/* Adds the connection's counts to the source's. */
void pnx__sqlite_fold(struct pnx_sqlite_conn *conn);

/* Begins a deadline (absolute). */
void pnx__sqlite_begin(struct pnx_sqlite_conn *conn, pnx_ns deadline);

/* Installs the handlers that keep the deadline. */
void pnx__sqlite_watch(struct pnx_sqlite_conn *conn);

/* Returns our error for what SQLite just said on this connection, and fills err. */
int pnx__sqlite_fail(struct pnx_sqlite_conn *conn, int result, struct pnx_error *err);

/* Resets all statements of the connection, foreign ones included, and takes back those that are out. */
void pnx__sqlite_statements_reset(struct pnx_sqlite_conn *conn);

/* Finalizes the statements of the cache. */
void pnx__sqlite_statements_free(struct pnx_sqlite_conn *conn);

/* What a pool calls. */
int pnx__sqlite_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource);
int pnx__sqlite_check(void *ctx, void *resource, pnx_ns deadline);
int pnx__sqlite_reset(void *ctx, void *resource, pnx_ns deadline);
void pnx__sqlite_close(void *ctx, void *resource, pnx_ns deadline);
void pnx__sqlite_abandon(void *ctx, void *resource);

#endif
