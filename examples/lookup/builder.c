/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builder.c - one pass over the corpus: texts go to one file, words into FTS5, in a single transaction.
 *
 * Nothing here needs to survive a crash, since a directory without its final name is thrown away: so there is no
 * journal and nothing is synced before the end, when everything is.
 */
#include "builder.h"

#include "pipeline.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <sqlite3.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPORTED_MAX 5u /* unreadable files that are logged one by one */

/* hashsize: words held in memory before a segment is written (16 MiB; twice that brings nothing). */
static const char schema[] =
        "PRAGMA page_size=8192; PRAGMA journal_mode=off; PRAGMA synchronous=off;"
        "PRAGMA locking_mode=exclusive; PRAGMA cache_size=-32768; PRAGMA temp_store=memory;"
        "PRAGMA application_id=1347311703; PRAGMA user_version=1;"
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, offset INTEGER NOT NULL, size INTEGER NOT NULL,"
        " path TEXT NOT NULL, title TEXT NOT NULL);"
        "CREATE VIRTUAL TABLE search USING fts5(title, path, body, content='',"
        " tokenize='unicode61 remove_diacritics 2');"
        "INSERT INTO search(search, rank) VALUES('hashsize', 16777216);"
        "INSERT INTO search(search, rank) VALUES('automerge', 0);"
        "INSERT INTO search(search, rank) VALUES('crisismerge', 64);"
        "INSERT INTO search(search, rank) VALUES('rank', 'bm25(8.0, 4.0, 1.0)');"
        "BEGIN";

void lookup_log(const struct pnx_env *env, enum pnx_log_level level, const char *format, ...) {
    if (!env || !env->log)
        return;
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    env->log(env->ctx, level, line);
}

pnx_ns lookup_now(const struct pnx_env *env) {
    return env && env->now ? env->now(env->ctx) : pnx_now();
}

/* One build; lives on the stack of lookup_build(). */
struct work {
    const struct lookup_build *build;
    struct pnx_error *err;
    char *texts_path;
    char *index_path;
    int texts_fd;
    XXH3_state_t *texts_state;
    uint64_t texts_size;
    sqlite3 *db;
    sqlite3_stmt *insert_doc;
    sqlite3_stmt *insert_search;
    struct lookup_pipeline *pipeline;
    struct lookup_progress progress;
    pnx_ns reported;
    struct lookup_manifest manifest;
};

static int sql_fail(struct work *work) {
    int result = sqlite3_errcode(work->db);
    int code = -EIO;
    if (result == SQLITE_FULL)
        code = -ENOSPC;
    if (result == SQLITE_NOMEM)
        code = -ENOMEM;
    int error = sqlite3_system_errno(work->db);
    if (code == -EIO && error > 0)
        code = -error;
    return lookup_fail(work->err, code, "index", "%s: %s (%s)", work->index_path,
            sqlite3_errmsg(work->db), pnx_strerror(code));
}

static int report(struct work *work, enum lookup_phase phase) {
    const struct lookup_build *build = work->build;
    if (!build->progress)
        return 0;
    pnx_ns now = lookup_now(build->env);
    if (work->progress.phase == phase && now - work->reported < LOOKUP_PROGRESS_NS)
        return 0;
    work->progress.phase = phase;
    work->reported = now;
    if (build->progress(build->progress_ctx, &work->progress) != 0)
        return lookup_fail(work->err, -ECANCELED, "index", "the indexing was cancelled");
    return 0;
}

/* ---- opening ---- */

static int open_texts(struct work *work) {
    int rc = lookup_disk_create(work->texts_path, work->err, &work->texts_fd);
    if (rc)
        return rc;
    work->texts_state = XXH3_createState();
    if (!work->texts_state)
        return -ENOMEM;
    XXH3_128bits_reset(work->texts_state);
    return 0;
}

static int append(struct work *work, const void *data, size_t n) {
    int rc = lookup_disk_write(work->texts_fd, work->texts_path, data, n, work->err);
    if (rc)
        return rc;
    XXH3_128bits_update(work->texts_state, data, n);
    work->texts_size += n;
    return 0;
}

static int open_index(struct work *work) {
    int result = sqlite3_open_v2(work->index_path, &work->db,
            SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (!work->db)
        return -ENOMEM;
    if (result == SQLITE_OK)
        result = sqlite3_exec(work->db, schema, NULL, NULL, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_prepare_v2(work->db,
                "INSERT INTO docs(id, offset, size, path, title) VALUES(?,?,?,?,?)", -1,
                &work->insert_doc, NULL);
    if (result == SQLITE_OK)
        result = sqlite3_prepare_v2(work->db,
                "INSERT INTO search(rowid, title, path, body) VALUES(?,?,?,?)", -1,
                &work->insert_search, NULL);
    return result == SQLITE_OK ? 0 : sql_fail(work);
}

static int open_all(struct work *work) {
    const char *dir = work->build->dir;
    int rc = lookup_disk_mkdir(dir, false, work->err);
    if (rc)
        return rc;
    /* A plain name: SQLite may take one that begins with "file:" for a URI, which DIR/ prevents. */
    work->texts_path = lookup_join(dir, "texts");
    work->index_path = lookup_join(dir, "index.db");
    if (!work->texts_path || !work->index_path)
        return -ENOMEM;
    rc = open_texts(work);
    if (!rc)
        rc = append(work, LOOKUP_TEXTS_MAGIC, strlen(LOOKUP_TEXTS_MAGIC));
    if (!rc)
        rc = open_index(work);
    if (!rc)
        rc = lookup_pipeline_start(
                work->build->corpus, (size_t)work->build->max_file_bytes, &work->pipeline);
    return rc;
}

/* ---- one document ---- */

static int step(struct work *work, sqlite3_stmt *stmt) {
    int result = sqlite3_step(stmt);
    int rc = result == SQLITE_DONE ? 0 : sql_fail(work);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return rc;
}

static int bind(sqlite3_stmt *stmt, int index, const char *text, size_t n) {
    return sqlite3_bind_text64(stmt, index, text, n, SQLITE_STATIC, SQLITE_UTF8);
}

static int insert(struct work *work, const char *path, size_t path_size,
        const struct lookup_extract *extract) {
    sqlite3_int64 id = (sqlite3_int64)work->manifest.documents + 1;
    sqlite3_int64 offset = (sqlite3_int64)work->texts_size;
    size_t size = extract->text.size;
    sqlite3_stmt *doc = work->insert_doc, *search = work->insert_search;
    sqlite3_bind_int64(doc, 1, id);
    sqlite3_bind_int64(doc, 2, offset);
    sqlite3_bind_int64(doc, 3, (sqlite3_int64)size);
    int result = bind(doc, 4, path, path_size);
    result |= bind(doc, 5, extract->title, strlen(extract->title));
    sqlite3_bind_int64(search, 1, id);
    result |= bind(search, 2, extract->title, strlen(extract->title));
    result |= bind(search, 3, path, path_size);
    result |= bind(search, 4, extract->text.data, size);
    if (result != SQLITE_OK)
        return sql_fail(work);
    int rc = step(work, doc);
    if (!rc)
        rc = step(work, search);
    if (!rc)
        rc = append(work, extract->text.data, size);
    if (!rc)
        rc = append(work, "\n", 1);
    if (rc)
        return rc;
    work->manifest.documents++;
    work->manifest.truncated += extract->truncated;
    return 0;
}

static int add_text(
        struct work *work, const struct lookup_file *file, const struct lookup_extract *extract) {
    uint64_t limit = work->build->max_total_bytes;
    if (extract->text.size + 1 > limit - (work->texts_size < limit ? work->texts_size : limit))
        return lookup_fail(work->err, -EFBIG, "index",
                "the texts of %s are more than %llu bytes (at %s)", work->build->corpus->path,
                (unsigned long long)limit, file->path);
    struct lookup_buffer path = {0};
    lookup_buffer_clean(&path, file->path, strlen(file->path));
    int rc = path.failed ? -ENOMEM : insert(work, path.data, path.size, extract);
    lookup_buffer_free(&path);
    return rc;
}

static void note_unreadable(
        struct work *work, const struct lookup_file *file, const struct lookup_extract *extract) {
    if (work->manifest.unreadable++ < REPORTED_MAX)
        lookup_log(work->build->env, PNX_LOG_INFO, "skipped %s/%s: %s", work->build->corpus->path,
                file->path, extract->reason);
}

static int add_file(
        struct work *work, const struct lookup_file *file, const struct lookup_extract *extract) {
    work->progress.files_done++;
    work->progress.bytes_done += file->size;
    work->progress.skipped += extract->kind != LOOKUP_TEXT;
    switch (extract->kind) {
    case LOOKUP_TEXT:
        return add_text(work, file, extract);
    case LOOKUP_EMPTY:
        work->manifest.empty++;
        return 0;
    case LOOKUP_BINARY:
        work->manifest.binary++;
        return 0;
    case LOOKUP_UNREADABLE:
        note_unreadable(work, file, extract);
        return 0;
    }
    return 0;
}

static int add_all(struct work *work) {
    for (uint64_t i = 0; i < work->build->corpus->count; i++) {
        struct lookup_extract extract;
        int rc = report(work, LOOKUP_PHASE_INDEX);
        if (rc)
            return rc;
        rc = lookup_pipeline_next(work->pipeline, &extract);
        if (rc <= 0)
            return rc < 0 ? rc : -EIO;
        rc = add_file(work, &work->build->corpus->files[i], &extract);
        lookup_extract_release(&extract);
        if (rc)
            return rc;
    }
    if (work->manifest.documents == 0)
        return lookup_fail(work->err, -ENODATA, "index",
                "%s holds no text: %llu files, %llu binary", work->build->corpus->path,
                (unsigned long long)work->build->corpus->count,
                (unsigned long long)work->manifest.binary);
    return 0;
}

/* ---- the end ---- */

static int close_index(struct work *work) {
    static const char *const last[] = {
            "COMMIT",
            "INSERT INTO search(search) VALUES('optimize')",
    };
    for (size_t i = 0; i < sizeof(last) / sizeof(last[0]); i++) {
        int rc = report(work, LOOKUP_PHASE_SYNC);
        if (rc)
            return rc;
        if (sqlite3_exec(work->db, last[i], NULL, NULL, NULL) != SQLITE_OK)
            return sql_fail(work);
    }
    sqlite3_finalize(work->insert_doc);
    sqlite3_finalize(work->insert_search);
    work->insert_doc = work->insert_search = NULL;
    if (sqlite3_close(work->db) != SQLITE_OK)
        return sql_fail(work);
    work->db = NULL;
    return 0;
}

static int close_texts(struct work *work) {
    XXH128_hash_t hash = XXH3_128bits_digest(work->texts_state);
    work->manifest.texts = (struct lookup_hash){.high = hash.high64, .low = hash.low64};
    work->manifest.text_bytes = work->texts_size;
    int fd = work->texts_fd;
    work->texts_fd = -1;
    /* Some file systems tell of a full disk only now. */
    int error = fsync(fd) != 0 ? errno : 0;
    if (close(fd) != 0 && !error)
        error = errno;
    return error ? lookup_disk_fail(work->err, error, work->texts_path, "cannot sync") : 0;
}

static int finish(struct work *work, pnx_ns began) {
    const struct lookup_corpus *corpus = work->build->corpus;
    struct lookup_manifest *manifest = &work->manifest;
    int rc = close_index(work);
    if (!rc)
        rc = close_texts(work);
    if (!rc)
        rc = report(work, LOOKUP_PHASE_SYNC);
    if (!rc)
        rc = lookup_disk_sync(work->index_path, work->err);
    if (!rc)
        rc = lookup_disk_hash(
                work->index_path, work->err, &manifest->index_bytes, &manifest->index);
    if (rc)
        return rc;
    manifest->list = (struct lookup_hash){.high = corpus->hash[0], .low = corpus->hash[1]};
    manifest->files = corpus->count;
    manifest->unreadable += corpus->unreadable + corpus->too_deep;
    manifest->build_ms = (uint64_t)((lookup_now(work->build->env) - began) / PNX_MS);
    rc = lookup_manifest_write(work->build->dir, manifest, work->err);
    if (!rc)
        rc = lookup_disk_sync(work->build->dir, work->err);
    return rc;
}

static void clean_up(struct work *work) {
    lookup_pipeline_stop(&work->pipeline);
    sqlite3_finalize(work->insert_doc);
    sqlite3_finalize(work->insert_search);
    sqlite3_close(work->db);
    if (work->texts_fd >= 0)
        close(work->texts_fd);
    XXH3_freeState(work->texts_state);
    free(work->texts_path);
    free(work->index_path);
}

int lookup_build(const struct lookup_build *build, struct pnx_error *err,
        struct lookup_manifest *ret_manifest) {
    pnx_ns began = lookup_now(build->env);
    struct pnx_error why = {0};
    struct work work = {
            .build = build,
            .err = &why,
            .texts_fd = -1,
            .progress = {.files_total = build->corpus->count, .bytes_total = build->corpus->bytes},
    };
    int rc = open_all(&work);
    if (!rc)
        rc = add_all(&work);
    if (!rc)
        rc = finish(&work, began);
    clean_up(&work);
    if (rc) {
        if (!why.code)
            lookup_fail(&why, rc, "index", "%s: %s", build->dir, pnx_strerror(rc));
        if (err)
            *err = why;
        return rc;
    }
    *ret_manifest = work.manifest;
    return 0;
}
