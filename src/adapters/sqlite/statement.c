/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sqlite/statement.c - prepared statements that stay with their connection.
 *
 * A fixed array of entries, found by the text, dropped by age of last use.  The array is small (32 unless asked
 * otherwise) and a text is compared only when its length fits, so looking costs less than the hash of it would.
 *
 *   entry:  FREE (stmt NULL) --prepare--> OUT --finish, reset--> KEPT --prepare--> OUT
 *             ^                                                   |
 *             +------------------- oldest, and room is needed ----+
 *
 *   P1  An entry that is OUT is neither handed out again nor finalized.
 *   P2  An entry that is KEPT is reset and has no bindings.
 */
#include "adapters/sqlite/source.h"

#include <string.h>

static void drop(struct pnx_sqlite_conn *conn, struct pnx_sqlite_entry *entry) {
    sqlite3_finalize(entry->stmt);
    pnx__strfree(&conn->source->env, entry->sql);
    *entry = (struct pnx_sqlite_entry){0};
}

/* Finds the kept entry of that text, or NULL. */
static struct pnx_sqlite_entry *find(struct pnx_sqlite_conn *conn, const char *sql, size_t length) {
    for (uint32_t i = 0; i < conn->source->statements; i++) {
        struct pnx_sqlite_entry *entry = &conn->entries[i];
        if (entry->stmt && !entry->out && entry->length == length &&
                memcmp(entry->sql, sql, length) == 0)
            return entry;
    }
    return NULL;
}

/* Finds a free entry, else makes the one free that was unused longest; NULL when all are out. */
static struct pnx_sqlite_entry *make_room(struct pnx_sqlite_conn *conn) {
    struct pnx_sqlite_entry *oldest = NULL;
    for (uint32_t i = 0; i < conn->source->statements; i++) {
        struct pnx_sqlite_entry *entry = &conn->entries[i];
        if (!entry->stmt)
            return entry;
        if (!entry->out && (!oldest || entry->used < oldest->used))
            oldest = entry;
    }
    if (oldest) {
        drop(conn, oldest);
        conn->counts[PNX_SQLITE_STAT_statement_drops]++;
    }
    return oldest;
}

static int check_ready(struct pnx_sqlite_conn *conn, struct pnx_error *err) {
    /* acquire: pairs with sqlite.interrupt in pnx_sqlite_interrupt(). */
    if (pnx_load(&conn->interrupted, PNX_ACQUIRE, "sqlite.ready"))
        return pnx__fail(err, -ECANCELED, 0, "sqlite", "the connection was interrupted");
    conn->timed_out = false;
    return 0;
}

/* Prepares the one statement that the text must hold. */
static int prepare_one(struct pnx_sqlite_conn *conn, const char *sql, struct pnx_error *err,
        sqlite3_stmt **ret_stmt) {
    sqlite3_stmt *stmt = NULL, *more = NULL;
    const char *tail = NULL;
    int result = sqlite3_prepare_v3(conn->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, &tail);
    if (result != SQLITE_OK)
        return pnx__sqlite_fail(conn, result, err);
    if (!stmt)
        return pnx__fail(err, -EINVAL, 0, "sqlite", "the text holds no statement");
    /* Only SQLite can tell a comment from a second statement; one that does not parse is one, too. */
    while (*tail && result == SQLITE_OK && !more) {
        const char *from = tail;
        result = sqlite3_prepare_v3(conn->handle, from, -1, 0, &more, &tail);
        if (tail == from)
            break;
    }
    sqlite3_finalize(more);
    if (more || result != SQLITE_OK) {
        sqlite3_finalize(stmt);
        if ((result & 0xff) == SQLITE_NOMEM)
            return pnx__fail(err, -ENOMEM, result, "sqlite", "no memory for a statement");
        return pnx__fail(err, -EINVAL, result, "sqlite", "the text holds more than one statement");
    }
    *ret_stmt = stmt;
    return 0;
}

static int prepare_new(struct pnx_sqlite_conn *conn, const char *sql, size_t length,
        struct pnx_error *err, struct pnx_sqlite_entry **ret_entry) {
    struct pnx_sqlite_entry *entry = make_room(conn);
    if (!entry)
        return pnx__fail(err, -EBUSY, 0, "sqlite",
                "all %u statements of the connection are out: finish one",
                conn->source->statements);
    char *copy = pnx__strdup(&conn->source->env, sql);
    if (!copy)
        return pnx__fail(err, -ENOMEM, 0, "sqlite", "no memory for a statement");
    sqlite3_stmt *stmt = NULL;
    int rc = prepare_one(conn, sql, err, &stmt);
    if (rc) {
        pnx__strfree(&conn->source->env, copy);
        return rc;
    }
    *entry = (struct pnx_sqlite_entry){.sql = copy, .length = length, .stmt = stmt};
    *ret_entry = entry;
    return 0;
}

int pnx_sqlite_prepare(struct pnx_sqlite_conn *conn, const char *sql, struct pnx_error *err,
        struct sqlite3_stmt **ret_stmt) {
    if (!conn || !sql || !ret_stmt)
        return pnx__fail(err, -EINVAL, 0, "sqlite", "an argument is NULL");
    int rc = check_ready(conn, err);
    if (rc)
        return rc;
    size_t length = strlen(sql);
    struct pnx_sqlite_entry *entry = find(conn, sql, length);
    if (entry) {
        conn->counts[PNX_SQLITE_STAT_statement_hits]++;
    } else {
        conn->counts[PNX_SQLITE_STAT_statement_misses]++;
        rc = prepare_new(conn, sql, length, err, &entry);
        if (!entry)
            return rc;
    }
    entry->out = true;
    conn->n_out++;
    entry->used = ++conn->tick;
    *ret_stmt = entry->stmt;
    return 0;
}

int pnx_sqlite_step(
        struct pnx_sqlite_conn *conn, struct sqlite3_stmt *stmt, struct pnx_error *err) {
    if (!conn || !stmt || sqlite3_db_handle(stmt) != conn->handle)
        return pnx__fail(err, -EINVAL, 0, "sqlite", "the statement is not one of this connection");
    int rc = check_ready(conn, err);
    if (rc)
        return rc;
    int result = sqlite3_step(stmt);
    if (result == SQLITE_ROW)
        return 1;
    if (result == SQLITE_DONE)
        return 0;
    return pnx__sqlite_fail(conn, result, err);
}

static void keep(struct pnx_sqlite_conn *conn, struct pnx_sqlite_entry *entry) {
    sqlite3_reset(entry->stmt);
    sqlite3_clear_bindings(entry->stmt);
    conn->n_out -= entry->out;
    entry->out = false;
}

void pnx_sqlite_finish(struct pnx_sqlite_conn *conn, struct sqlite3_stmt **stmt) {
    if (!conn || !stmt || !*stmt)
        return;
    for (uint32_t i = 0; i < conn->source->statements; i++) {
        if (conn->entries[i].stmt == *stmt)
            keep(conn, &conn->entries[i]);
    }
    *stmt = NULL;
}

int pnx_sqlite_exec(struct pnx_sqlite_conn *conn, const char *sql, struct pnx_error *err) {
    if (!conn || !sql)
        return pnx__fail(err, -EINVAL, 0, "sqlite", "an argument is NULL");
    int rc = check_ready(conn, err);
    if (rc)
        return rc;
    int result = sqlite3_exec(conn->handle, sql, NULL, NULL, NULL);
    return result == SQLITE_OK ? 0 : pnx__sqlite_fail(conn, result, err);
}

void pnx__sqlite_statements_reset(struct pnx_sqlite_conn *conn) {
    for (uint32_t i = 0; conn->n_out > 0 && i < conn->source->statements; i++) {
        if (conn->entries[i].out)
            keep(conn, &conn->entries[i]);
    }
    /*
     * Those that a borrower prepared past us, and forgot.  Virtual tables have statements of their own, which look
     * the same: a reset does them no harm, but finalizing them would.
     */
    sqlite3_stmt *stmt = NULL;
    while ((stmt = sqlite3_next_stmt(conn->handle, stmt))) {
        if (sqlite3_stmt_busy(stmt))
            sqlite3_reset(stmt);
    }
}

void pnx__sqlite_statements_free(struct pnx_sqlite_conn *conn) {
    for (uint32_t i = 0; conn->entries && i < conn->source->statements; i++)
        drop(conn, &conn->entries[i]);
}
