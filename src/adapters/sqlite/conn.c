/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sqlite/conn.c - one connection: opening, checking, resetting, closing, and its deadline.
 *
 * What a pool calls, through the manager of source.c.  SQLite's handle is opened without a mutex of its own: the
 * pool hands a connection from thread to thread under its lock.
 *
 *   P1  Whatever fails while connecting leaves nothing open.
 *   P2  A connection in the pool has no deadline; the operations here set the pool's and take it away again.
 */
#include "adapters/sqlite/source.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char check_sql[] = "PRAGMA schema_version";

/* ---- the deadline ---- */

void pnx__sqlite_begin(struct pnx_sqlite_conn *conn, pnx_ns deadline) {
    conn->deadline = deadline;
    conn->timed_out = false;
}

static bool is_interrupted(const struct pnx_sqlite_conn *conn) {
    /* acquire: pairs with sqlite.interrupt in pnx_sqlite_interrupt(). */
    return pnx_load(&conn->interrupted, PNX_ACQUIRE, "sqlite.interrupted") != 0;
}

/* SQLite asks every some thousand steps; a nonzero answer ends the statement. */
static int on_progress(void *arg) {
    struct pnx_sqlite_conn *conn = arg;
    if (is_interrupted(conn))
        return 1;
    if (conn->deadline == PNX_NEVER || pnx__now(&conn->source->env) < conn->deadline)
        return 0;
    conn->timed_out = true;
    return 1;
}

/*
 * SQLite asks when somebody else has the lock; 0 gives up.  Locks of a file come with no event to wait for, so
 * between two tries it sleeps, through SQLite, 1 ms and later up to 32 ms, never past the deadline.
 */
static int on_busy(void *arg, int tries) {
    struct pnx_sqlite_conn *conn = arg;
    if (is_interrupted(conn))
        return 0;
    pnx_ns now = pnx__now(&conn->source->env);
    if (tries == 0) {
        conn->busy_since = now;
        conn->counts[PNX_SQLITE_STAT_busy_waits]++;
    }
    bool own = conn->deadline != PNX_NEVER;
    pnx_ns until = own ? conn->deadline : pnx__deadline(conn->busy_since, conn->source->busy_ns);
    if (now >= until) {
        conn->timed_out = own;
        return 0;
    }
    int64_t left_ms = (until - now + PNX_MS - 1) / PNX_MS;
    int64_t pause_ms = INT64_C(1) << (tries < 5 ? tries : 5);
    sqlite3_sleep((int)(pause_ms < left_ms ? pause_ms : left_ms));
    return 1;
}

void pnx__sqlite_watch(struct pnx_sqlite_conn *conn) {
    sqlite3_busy_handler(conn->handle, on_busy, conn);
    sqlite3_progress_handler(conn->handle, PNX_SQLITE_PROGRESS_STEPS, on_progress, conn);
}

int pnx_sqlite_set_timeout(struct pnx_sqlite_conn *conn, pnx_ns timeout) {
    if (!conn || timeout < 0)
        return -EINVAL;
    pnx__sqlite_begin(conn, pnx__deadline(pnx__now(&conn->source->env), timeout));
    return 0;
}

void pnx_sqlite_interrupt(struct pnx_sqlite_conn *conn) {
    /* release: pairs with sqlite.interrupted in is_interrupted(). */
    pnx_store(&conn->interrupted, 1, PNX_RELEASE, "sqlite.interrupt");
    sqlite3_interrupt(conn->handle);
}

struct sqlite3 *pnx_sqlite_handle(struct pnx_sqlite_conn *conn) {
    return conn->handle;
}

/* ---- errors ---- */

int pnx_sqlite_code(int result) {
    switch (result & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return -EBUSY;
    case SQLITE_INTERRUPT:
    case SQLITE_ABORT:
        return -ECANCELED;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
        return PNX_E_FORMAT;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_TOOBIG:
        return -EFBIG;
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_READONLY:
        return -EACCES;
    case SQLITE_CANTOPEN:
        return -ENOENT;
    case SQLITE_SCHEMA:
        return PNX_E_CONFLICT;
    case SQLITE_CONSTRAINT:
        return -EEXIST;
    case SQLITE_RANGE:
        return -ERANGE;
    case SQLITE_ERROR:
    case SQLITE_MISMATCH:
    case SQLITE_MISUSE:
        return -EINVAL;
    case SQLITE_NOLFS:
        return -ENOTSUP;
    default:
        return -EIO;
    }
}

/* What the system said, where SQLite knows no more than "cannot open" or "I/O error". */
static int refine(sqlite3 *handle, int result, int code) {
    int error = sqlite3_system_errno(handle);
    if (error <= 0)
        return code;
    if ((result & 0xff) == SQLITE_CANTOPEN || (result & 0xff) == SQLITE_IOERR)
        return error == EINTR ? code : -error;
    return code;
}

int pnx__sqlite_fail(struct pnx_sqlite_conn *conn, int result, struct pnx_error *err) {
    int code = refine(conn->handle, result, pnx_sqlite_code(result));
    if (conn->timed_out && (code == -EBUSY || code == -ECANCELED)) {
        conn->timed_out = false;
        conn->counts[PNX_SQLITE_STAT_timeouts]++;
        return pnx__fail(err, -ETIMEDOUT, result, "sqlite", "the deadline passed (%s)",
                (result & 0xff) == SQLITE_INTERRUPT ? "while a statement ran"
                                                    : "while waiting for a lock of the database");
    }
    return pnx__fail(err, code, result, "sqlite", "%s", sqlite3_errmsg(conn->handle));
}

/* ---- opening ---- */

static int exec_text(struct pnx_sqlite_conn *conn, const char *sql) {
    return sqlite3_exec(conn->handle, sql, NULL, NULL, NULL);
}

/* Reads the single text of a pragma's single row. */
static int pragma_is(
        struct pnx_sqlite_conn *conn, const char *sql, const char *wanted, bool *ret_is) {
    sqlite3_stmt *stmt = NULL;
    int result = sqlite3_prepare_v2(conn->handle, sql, -1, &stmt, NULL);
    if (result != SQLITE_OK)
        return result;
    result = sqlite3_step(stmt);
    const char *value = result == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    *ret_is = value && sqlite3_stricmp(value, wanted) == 0;
    sqlite3_finalize(stmt);
    return result == SQLITE_ROW ? SQLITE_OK : result;
}

/* A database that others use at the same time as we write to it wants a write-ahead log. */
static int make_wal(struct pnx_sqlite_conn *conn, struct pnx_error *err) {
    bool is_wal = false;
    int result = pragma_is(conn, "PRAGMA journal_mode", "wal", &is_wal);
    if (result == SQLITE_OK && !is_wal)
        result = pragma_is(conn, "PRAGMA journal_mode=wal", "wal", &is_wal);
    if (result != SQLITE_OK)
        return pnx__sqlite_fail(conn, result, err);
    if (!is_wal)
        return pnx__fail(err, -ENOTSUP, 0, "sqlite", "the database cannot be put into WAL mode");
    return 0;
}

static int configure(struct pnx_sqlite_conn *conn, struct pnx_error *err) {
    const struct pnx_sqlite *source = conn->source;
    char sql[160];
    snprintf(sql, sizeof(sql), "PRAGMA cache_size=-%zu; PRAGMA mmap_size=%zu",
            source->cache_bytes / 1024, source->mmap_bytes);
    int result = exec_text(conn, sql);
    /* Reads the file's first page: a file that is no database fails here, not at the first search. */
    if (result == SQLITE_OK)
        result = exec_text(conn, check_sql);
    if (result != SQLITE_OK)
        return pnx__sqlite_fail(conn, result, err);
    if (!(source->flags & PNX_SQLITE_READ_ONLY)) {
        int rc = make_wal(conn, err);
        if (rc)
            return rc;
        result = exec_text(conn, "PRAGMA synchronous=normal; PRAGMA foreign_keys=on");
        if (result != SQLITE_OK)
            return pnx__sqlite_fail(conn, result, err);
    }
    int rc = source->setup ? source->setup(source->setup_ctx, conn->handle) : 0;
    if (rc < 0)
        return pnx__fail(err, rc, rc, "sqlite", "the setup function failed: %s", pnx_strerror(rc));
    return 0;
}

static int open_flags(uint32_t flags) {
    int common = SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                 SQLITE_OPEN_PRIVATECACHE;
    if (flags & PNX_SQLITE_READ_ONLY)
        return common | SQLITE_OPEN_READONLY;
    return common | SQLITE_OPEN_READWRITE | (flags & PNX_SQLITE_NO_CREATE ? 0 : SQLITE_OPEN_CREATE);
}

static int open_handle(struct pnx_sqlite_conn *conn, struct pnx_error *err) {
    int result = sqlite3_open_v2(
            conn->source->uri, &conn->handle, open_flags(conn->source->flags), NULL);
    if (!conn->handle)
        return pnx__fail(err, -ENOMEM, result, "sqlite", "no memory for a connection");
    if (result != SQLITE_OK)
        return pnx__sqlite_fail(conn, result, err);
    pnx__sqlite_watch(conn);
    return configure(conn, err);
}

/*
 * Busy means that a borrower left a statement, blob or backup of its own.  Which statements are a borrower's and which
 * a virtual table's cannot be told, so none is finalized here; SQLite keeps the handle until the last is.
 */
static void close_handle(struct pnx_sqlite_conn *conn) {
    if (sqlite3_close(conn->handle) == SQLITE_OK)
        return;
    conn->counts[PNX_SQLITE_STAT_left_open]++;
    pnx__log(&conn->source->env, PNX_LOG_WARNING,
            "sqlite %s: a borrower left a statement, blob or backup open; its connection stays "
            "open",
            conn->source->name);
    sqlite3_close_v2(conn->handle);
}

/* Frees everything that a connection has, half-built ones included. */
static void destroy(struct pnx_sqlite_conn *conn) {
    struct pnx_sqlite *source = conn->source;
    if (conn->handle) {
        pnx__sqlite_statements_free(conn);
        close_handle(conn);
    }
    pnx__sqlite_fold(conn);
    pnx__free(&source->env, conn->entries, source->statements, sizeof(*conn->entries));
    pnx__free(&source->env, conn, 1, sizeof(*conn));
    pnx__sqlite_unref(source);
}

static int build(struct pnx_sqlite_conn *conn, struct pnx_error *err) {
    struct pnx_sqlite *source = conn->source;
    conn->entries = pnx__alloc(&source->env, source->statements, sizeof(*conn->entries));
    if (!conn->entries)
        return pnx__fail(err, -ENOMEM, 0, "sqlite", "no memory for a connection");
    return open_handle(conn, err);
}

int pnx__sqlite_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    struct pnx_sqlite *source = ctx;
    /* relaxed: see on_shutdown() in source.c. */
    if (pnx_load(&source->shut, PNX_RELAXED, "sqlite.is_shut"))
        return pnx__fail(err, -ESHUTDOWN, 0, "sqlite", "the source was shut down");
    struct pnx_sqlite_conn *conn = pnx__alloc(&source->env, 1, sizeof(*conn));
    if (!conn)
        return pnx__fail(err, -ENOMEM, 0, "sqlite", "no memory for a connection");
    /* relaxed: the caller's reference keeps the source. */
    pnx_fetch_add(&source->refs, 1, PNX_RELAXED, "sqlite.ref");
    conn->source = source;
    pnx__sqlite_begin(conn, deadline);

    struct pnx_error why = {0};
    int rc = build(conn, &why);
    if (rc) {
        pnx__sqlite_count(source, PNX_SQLITE_STAT_open_failed, 1);
        pnx__fail(err, rc, why.cause, why.phase, "%s: %s", source->path, why.message);
        destroy(conn);
        return rc;
    }
    pnx__sqlite_begin(conn, PNX_NEVER);
    pnx__sqlite_count(source, PNX_SQLITE_STAT_opened, 1);
    pnx__sqlite_count(source, PNX_SQLITE_STAT_open, 1);
    *ret_resource = conn;
    return 0;
}

/* ---- while it lives ---- */

/* The database's file is no longer the one at its path: writing on would go nowhere. */
static bool has_moved(struct pnx_sqlite_conn *conn) {
    int moved = 0;
    int result = sqlite3_file_control(conn->handle, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    return result == SQLITE_OK && moved;
}

static int run_check(struct pnx_sqlite_conn *conn) {
    if (has_moved(conn))
        return PNX_E_BROKEN;
    sqlite3_stmt *stmt = NULL;
    int rc = pnx_sqlite_prepare(conn, check_sql, NULL, &stmt);
    if (rc)
        return rc;
    rc = pnx_sqlite_step(conn, stmt, NULL);
    pnx_sqlite_finish(conn, &stmt);
    return rc < 0 ? rc : 0;
}

int pnx__sqlite_check(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    struct pnx_sqlite_conn *conn = resource;
    pnx__sqlite_begin(conn, deadline);
    int rc = run_check(conn);
    pnx__sqlite_begin(conn, PNX_NEVER);
    if (rc)
        conn->counts[PNX_SQLITE_STAT_check_failed]++;
    return rc;
}

int pnx__sqlite_reset(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    struct pnx_sqlite_conn *conn = resource;
    pnx__sqlite_statements_reset(conn);
    /* relaxed: whoever interrupts must know that the lease is held, so none can run now. */
    pnx_store(&conn->interrupted, 0, PNX_RELAXED, "sqlite.rearm");
    pnx__sqlite_begin(conn, deadline);
    int rc = 0;
    if (!sqlite3_get_autocommit(conn->handle)) {
        conn->counts[PNX_SQLITE_STAT_rollbacks]++;
        exec_text(conn, "ROLLBACK");
        if (!sqlite3_get_autocommit(conn->handle))
            rc = PNX_E_BROKEN;
    }
    /* A borrower may have replaced the handlers. */
    pnx__sqlite_watch(conn);
    pnx__sqlite_begin(conn, PNX_NEVER);
    pnx__sqlite_fold(conn);
    return rc;
}

void pnx__sqlite_close(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    struct pnx_sqlite_conn *conn = resource;
    pnx__sqlite_count(conn->source, PNX_SQLITE_STAT_open, (uint64_t)-1);
    /* The last connection to leave writes the log back into the database: no longer than this. */
    pnx__sqlite_begin(conn, deadline);
    destroy(conn);
}

void pnx__sqlite_abandon(void *ctx, void *resource) {
    /*
     * SQLite forbids every call on a connection that was opened before a fork, closing included: the child's copy
     * would take the parent's log and locks for its own.  So the handle is left as it is; its descriptors are
     * close-on-exec.  What is ours is given back.
     */
    struct pnx_sqlite_conn *conn = resource;
    (void)ctx;
    conn->handle = NULL;
    pnx__sqlite_count(conn->source, PNX_SQLITE_STAT_open, (uint64_t)-1);
    for (uint32_t i = 0; i < conn->source->statements; i++)
        pnx__strfree(&conn->source->env, conn->entries[i].sql);
    destroy(conn);
}

void pnx__sqlite_fold(struct pnx_sqlite_conn *conn) {
    for (int i = 0; i < PNX_SQLITE_STATS; i++) {
        if (conn->counts[i])
            pnx__sqlite_count(conn->source, (enum pnx_sqlite_stat)i, conn->counts[i]);
        conn->counts[i] = 0;
    }
}
