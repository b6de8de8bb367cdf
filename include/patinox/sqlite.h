/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/sqlite.h - SQLite connections for the pool.  Library patinox-sqlite; the core never links SQLite.
 *
 * EXPERIMENTAL: may change until the release that finishes this part.
 *
 * A source says how to open one database; pnx_sqlite_manager() tells a pool how to treat its connections.  The
 * resource of a lease is a struct pnx_sqlite_conn: a SQLite handle with a deadline and with prepared statements
 * that stay prepared from one lease to the next.
 *
 *   struct pnx_sqlite *db;       pnx_sqlite_create(PNX_SQLITE_OPTS(.path = "app.db"), &err, &db);
 *   struct pnx_pool *pool;       pnx_pool_create(pnx_sqlite_manager(), PNX_POOL_OPTS(.ctx = db, .max = 4,
 *                                        .resource_bytes = pnx_sqlite_connection_bytes(db)), &err, &pool);
 *
 *   P1  A connection goes back to the pool with no transaction open, no statement running, no deadline and no
 *       binding left; one that cannot be brought there is closed.
 *   P2  Waiting for a lock of the database and running a statement end at the connection's deadline with
 *       -ETIMEDOUT; there is one absolute deadline, and a step never begins anew with a full timeout.
 *   P3  A statement that was handed out is not handed out again, nor finalized, until it is finished or the
 *       connection goes back.
 *   P4  Every statement that pnx_sqlite_prepare() made is finalized when its connection is closed, finished or not.
 *   P5  A check fails when the file cannot be read, is no database, or has been moved, deleted or replaced.
 *   P6  In a forked child nothing of SQLite is called for a connection of the parent.
 */
#ifndef PNX_SQLITE_H
#define PNX_SQLITE_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/registry.h>

struct sqlite3;
struct sqlite3_stmt;

PNX_BEGIN_DECLS

struct pnx_pool_manager;
struct pnx_sqlite;      /* a source: how to open a database; safe to use from any thread */
struct pnx_sqlite_conn; /* a connection; one thread at a time, whoever holds the lease */

enum pnx_sqlite_flags {
    PNX_SQLITE_READ_ONLY = 1, /* never writes; the file must exist */
    /* The file does not change while it is open, whoever else may have it: no locks, no -wal or -shm beside it.
     * Implies PNX_SQLITE_READ_ONLY.  A file that does change gives wrong answers. */
    PNX_SQLITE_IMMUTABLE = 2,
    PNX_SQLITE_NO_CREATE = 4, /* the file must exist */
};

/* Zero selects the default of every field but path, which is required. */
struct pnx_sqlite_opts {
    size_t size;                   /* set by PNX_SQLITE_OPTS */
    const char *name;              /* copied; default "sqlite" */
    const char *site;              /* set by PNX_SQLITE_OPTS */
    const char *path;              /* copied; of the database file; required */
    const struct pnx_env *env;     /* default: the system's; the same as the pool's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    /* Called for each new connection, in the pool's thread that connects; may add functions and pragmas.  A
     * negative value fails the connect. */
    int (*setup)(void *setup_ctx, struct sqlite3 *handle);
    void *setup_ctx;
    pnx_ns busy_ns; /* longest wait for a lock while the connection has no deadline; default 5 s */
    size_t cache_bytes;  /* page cache of each connection; default 2 MiB, 64 KiB .. 1 GiB */
    size_t mmap_bytes;   /* of the file read through mmap by SQLite; default 0: read() */
    uint32_t statements; /* kept prepared in each connection; default 32, 1 .. 256 */
    uint32_t flags;      /* PNX_SQLITE_*; unknown bits are an error */
};
#ifndef __cplusplus
#define PNX_SQLITE_OPTS(...) \
    (&(const struct pnx_sqlite_opts){ \
            .size = sizeof(struct pnx_sqlite_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_sqlite_opts pnx_sqlite_opts_init() {
    struct pnx_sqlite_opts opts = {};
    opts.size = sizeof(struct pnx_sqlite_opts);
    return opts;
}
#endif

/*
 * Creates a source.  Opens nothing yet.  Databases are put into WAL mode with synchronous=NORMAL and foreign keys
 * on, unless they are read-only.
 * -EINVAL (err names the field; ":memory:" and "" are refused, since each connection would see a database of
 * its own), -E2BIG, -ENOMEM, -ENOTSUP (SQLite was built without threads), -ESHUTDOWN.
 */
PNX_API PNX_NODISCARD int pnx_sqlite_create(
        const struct pnx_sqlite_opts *opts, struct pnx_error *err, struct pnx_sqlite **ret_source);

/* Drops the caller's reference; connections that are still open keep the source's memory.  NULL-safe; clears. */
PNX_API void pnx_sqlite_release(struct pnx_sqlite **source);

/*
 * Returns how a pool opens, checks, resets and closes connections: a static object.  The pool's ctx must be the
 * source, and a lease's resource is a struct pnx_sqlite_conn.
 */
PNX_API const struct pnx_pool_manager *pnx_sqlite_manager(void);

/* Returns the memory that one connection may come to hold: for the pool's resource_bytes, which charges it. */
PNX_API size_t pnx_sqlite_connection_bytes(const struct pnx_sqlite *source);

/* ---- a connection that is held ---- */

/* Returns the handle, for everything that this header does not offer.  Do not close it. */
PNX_API struct sqlite3 *pnx_sqlite_handle(struct pnx_sqlite_conn *conn);

/*
 * Gives everything that is done with the connection from now on until it goes back one deadline.  0 lets nothing
 * wait and stops statements after some thousand steps; PNX_NEVER takes the deadline away.  -EINVAL.
 */
PNX_API int pnx_sqlite_set_timeout(struct pnx_sqlite_conn *conn, pnx_ns timeout);

/*
 * Returns a statement for exactly this text, prepared by an earlier call if possible, reset and without bindings.
 * Give it back with pnx_sqlite_finish(), never to sqlite3_finalize().  Beyond opts.statements the one that was
 * unused longest is dropped.
 * -EINVAL (no statement, or more than one; NUL), -EBUSY (opts.statements are out), -ENOMEM, -ETIMEDOUT, and
 * whatever pnx_sqlite_code() makes of SQLite's error; err->cause is SQLite's extended code.
 */
PNX_API PNX_NODISCARD int pnx_sqlite_prepare(struct pnx_sqlite_conn *conn, const char *sql,
        struct pnx_error *err, struct sqlite3_stmt **ret_stmt);

/*
 * Runs the statement to its next row.  Returns 1 with a row, 0 at the end, or a negative error: -ETIMEDOUT at the
 * deadline, -ECANCELED after pnx_sqlite_interrupt(), -EBUSY when somebody else holds a lock (after opts.busy_ns, or
 * at once where waiting would deadlock), or what pnx_sqlite_code() says.
 */
PNX_API PNX_NODISCARD int pnx_sqlite_step(
        struct pnx_sqlite_conn *conn, struct sqlite3_stmt *stmt, struct pnx_error *err);

/* Resets a statement and lets the connection hand it out again.  NULL-safe; clears *stmt. */
PNX_API void pnx_sqlite_finish(struct pnx_sqlite_conn *conn, struct sqlite3_stmt **stmt);

/* Runs one or more statements that return nothing of interest, such as "BEGIN".  Errors as pnx_sqlite_step(). */
PNX_API PNX_NODISCARD int pnx_sqlite_exec(
        struct pnx_sqlite_conn *conn, const char *sql, struct pnx_error *err);

/*
 * Ends what runs on the connection with -ECANCELED, and everything begun later until it goes back.  From any
 * thread, while the caller knows that the lease is held.
 */
PNX_API void pnx_sqlite_interrupt(struct pnx_sqlite_conn *conn);

/* Returns the error of this library for a result code of SQLite (plain or extended); 0 for OK, ROW and DONE. */
PNX_API int pnx_sqlite_code(int result);

/* The rows of patinox/stats/sqlite.def. */
struct pnx_sqlite_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/sqlite.def>
#undef PNX_STAT
};

/*
 * Fills *ret_stats up to its size, which the caller sets.  What a held connection has counted is added when it
 * goes back.  -EINVAL.
 */
PNX_API int pnx_sqlite_read_stats(struct pnx_sqlite *source, struct pnx_sqlite_stats *ret_stats);

PNX_END_DECLS
#endif /* PNX_SQLITE_H */
