/* SPDX-License-Identifier: Apache-2.0 */
/*
 * search.c - searches and documents.
 *
 * A search goes to the cache, whose single-flight loader borrows a connection from the pool and asks the database.
 * What is cached is the finished text of the results, so that a repeated search copies nothing but its head; that a search finds
 * nothing is remembered as an absence, which takes no text at all.
 *
 *   P1  A question to the database holds one connection, and gives it back whatever happens.
 *   P2  All that a search does, waiting included, ends at one deadline.
 *   P3  No byte of the texts is used but inside a checked access scope, or from a copy that one has made.
 */
#include "query.h"
#include "snippet.h"
#include "store_private.h"
#include "text.h"

#include <sqlite3.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char search_sql[] = "SELECT rowid FROM search WHERE search MATCH ?1 ORDER BY rank";
static const char result_sql[] =
        "SELECT title, path, lookup_snippet(offset, size, ?2) FROM docs WHERE id = ?1";
static const char document_sql[] = "SELECT offset, size, title, path FROM docs WHERE id = ?1";

/* ---- asking the database ---- */

/* A connection for one question, and its deadline. */
struct question {
    struct lookup_store *store;
    struct pnx_lease lease;
    struct lookup_generation *generation; /* the connection's, as long as the lease is held */
    struct pnx_sqlite_conn *conn;
};

static int begin(struct lookup_store *store, pnx_ns deadline, struct pnx_error *err,
        struct question *question) {
    pnx_ns now = pnx_now();
    pnx_ns left = deadline == PNX_NEVER ? PNX_NEVER : deadline > now ? deadline - now : 0;
    *question = (struct question){.store = store};
    int rc = pnx_pool_acquire(store->pool, left, err, &question->lease);
    if (rc)
        return rc;
    const struct lookup_connection *connection = pnx_lease_resource(&question->lease);
    question->generation = connection->generation;
    question->conn = connection->conn;
    now = pnx_now();
    left = deadline == PNX_NEVER ? PNX_NEVER : deadline > now ? deadline - now : 0;
    return pnx_sqlite_set_timeout(question->conn, left);
}

static void end(struct question *question, int rc) {
    if (rc == -ESTALE)
        lookup_index_note_stale(question->store, question->generation->opening);
    /* After an error of the file, the next one gets a new connection. */
    if (rc == -EIO || rc == PNX_E_FORMAT)
        pnx_lease_discard(&question->lease);
    else
        pnx_lease_release(&question->lease);
}

static const char *column(struct sqlite3_stmt *stmt, int index, size_t *ret_size) {
    const char *text = (const char *)sqlite3_column_text(stmt, index);
    *ret_size = text ? (size_t)sqlite3_column_bytes(stmt, index) : 0;
    return text ? text : "";
}

/* ---- searching ---- */

/* What the cache knows a search by: these bytes, and the query's text behind them. */
struct key_head {
    uint64_t generation;
    uint32_t limit;
    uint32_t offset;
};
struct key {
    struct key_head head;
    char text[sizeof(((struct lookup_query *)0)->text)];
};

/* What the cache holds: this, and the JSON behind it. */
struct value_head {
    uint64_t total;
    uint64_t unused;
};

/* One search on its way through the cache's loader. */
struct search {
    struct lookup_store *store;
    struct pnx_error *err;
    const struct lookup_query *query;
    uint32_t limit;
    uint32_t offset;
    uint64_t total;
    uint32_t n_ids;
    int64_t ids[LOOKUP_LIMIT_MAX];
};

/* Finds all matches, best first; remembers those of the page. */
static int find(struct search *search, struct question *question) {
    struct sqlite3_stmt *stmt = NULL;
    int rc = pnx_sqlite_prepare(question->conn, search_sql, search->err, &stmt);
    if (rc)
        return rc;
    sqlite3_bind_text64(
            stmt, 1, search->query->text, search->query->size, SQLITE_STATIC, SQLITE_UTF8);
    while ((rc = pnx_sqlite_step(question->conn, stmt, search->err)) == 1) {
        uint64_t rank = search->total++;
        if (rank >= search->offset && search->n_ids < search->limit)
            search->ids[search->n_ids++] = sqlite3_column_int64(stmt, 0);
    }
    pnx_sqlite_finish(question->conn, &stmt);
    return rc;
}

/* Takes the marks out of a snippet; writes where they stood as ranges of characters: [[first, behind], ...]. */
static void split_marks(
        const char *text, size_t n, struct lookup_buffer *plain, struct lookup_buffer *ranges) {
    uint64_t characters = 0;
    for (size_t i = 0; i < n;) {
        size_t length = lookup_utf8_char(text + i, n - i);
        length = length ? length : 1;
        if (text[i] == LOOKUP_MARK_BEGIN) {
            lookup_buffer_text(ranges, ranges->size ? ",[" : "[");
            lookup_buffer_number(ranges, characters);
        } else if (text[i] == LOOKUP_MARK_END) {
            lookup_buffer_text(ranges, ",");
            lookup_buffer_number(ranges, characters);
            lookup_buffer_text(ranges, "]");
        } else {
            lookup_buffer_add(plain, text + i, length);
            characters++;
        }
        i += length;
    }
}

static void write_snippet(struct lookup_buffer *out, const char *text, size_t n) {
    struct lookup_buffer plain = {0}, ranges = {0};
    split_marks(text, n, &plain, &ranges);
    lookup_buffer_text(out, ",\"snippet\":");
    lookup_buffer_json(out, plain.data, plain.size);
    lookup_buffer_text(out, ",\"marks\":[");
    lookup_buffer_add(out, ranges.data, ranges.size);
    lookup_buffer_text(out, "]");
    out->failed |= plain.failed || ranges.failed;
    lookup_buffer_free(&plain);
    lookup_buffer_free(&ranges);
}

static void write_result(struct lookup_buffer *out, int64_t id, struct sqlite3_stmt *stmt) {
    size_t n;
    lookup_buffer_text(out, "{\"id\":");
    lookup_buffer_number(out, (uint64_t)id);
    lookup_buffer_text(out, ",\"title\":");
    const char *text = column(stmt, 0, &n);
    lookup_buffer_json(out, text, n);
    lookup_buffer_text(out, ",\"path\":");
    text = column(stmt, 1, &n);
    lookup_buffer_json(out, text, n);
    text = column(stmt, 2, &n);
    write_snippet(out, text, n);
    lookup_buffer_text(out, "}");
}

static int write_results(
        struct search *search, struct question *question, struct lookup_buffer *out) {
    struct sqlite3_stmt *stmt = NULL;
    int rc = pnx_sqlite_prepare(question->conn, result_sql, search->err, &stmt);
    if (rc)
        return rc;
    lookup_buffer_text(out, "[");
    for (uint32_t i = 0; i < search->n_ids && rc >= 0; i++) {
        sqlite3_reset(stmt);
        sqlite3_bind_int64(stmt, 1, search->ids[i]);
        sqlite3_bind_text64(
                stmt, 2, search->query->text, search->query->size, SQLITE_STATIC, SQLITE_UTF8);
        rc = pnx_sqlite_step(question->conn, stmt, search->err);
        if (rc < 0 && search->err->cause == LOOKUP_SNIPPET_STALE)
            rc = lookup_texts_stale(-ESTALE, search->err);
        if (rc == 0)
            rc = lookup_fail(search->err, PNX_E_FORMAT, "search",
                    "the database lacks document %" PRId64, search->ids[i]);
        if (rc == 1) {
            lookup_buffer_text(out, i ? "," : "");
            write_result(out, search->ids[i], stmt);
        }
    }
    pnx_sqlite_finish(question->conn, &stmt);
    lookup_buffer_text(out, "]");
    if (rc >= 0 && out->failed)
        return lookup_fail(search->err, -ENOMEM, "search", "no memory for the results");
    return rc < 0 ? rc : 0;
}

static int load_results(struct search *search, pnx_ns deadline, struct lookup_buffer *out) {
    struct question question;
    int rc = begin(search->store, deadline, search->err, &question);
    if (rc)
        return rc;
    atomic_fetch_add_explicit(&search->store->database_reads, 1, memory_order_relaxed);
    rc = find(search, &question);
    if (!rc)
        rc = write_results(search, &question, out);
    end(&question, rc);
    return rc;
}

/*
 * Tells the cache that there is no document.  The time is set for each load, not as the cache's option, so that it follows the
 * setting, and what lookup_search_again() says of another index is not remembered.
 */
static int remember_nothing(struct lookup_store *store, struct pnx_cache_load *into) {
    int rc = pnx_cache_load_set_ttl(
            into, atomic_load_explicit(&store->cache_negative_ttl, memory_order_relaxed));
    return rc ? rc : -ENOENT;
}

/* Asks the database, and gives the cache what it says. */
static int load_answer(struct search *search, pnx_ns deadline, struct pnx_cache_load *into) {
    struct lookup_buffer out = {0};
    struct value_head head = {0};
    pnx_ns refresh = atomic_load_explicit(&search->store->cache_refresh, memory_order_relaxed);
    lookup_buffer_add(&out, &head, sizeof(head));
    int rc = load_results(search, deadline, &out);
    if (rc == -ENOENT) /* a file of the index is gone, which says nothing about what is in it */
        rc = search->err->code = -EIO;
    else if (!rc && search->total == 0)
        rc = remember_nothing(search->store, into);
    else if (!rc)
        rc = pnx_cache_load_set_refresh(into, refresh);
    if (!rc) {
        head.total = search->total;
        memcpy(out.data, &head, sizeof(head));
        rc = pnx_cache_load_set(into, out.data, out.size);
    }
    lookup_buffer_free(&out);
    return rc;
}

/* The cache's loader for who asks. */
static int load(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *into) {
    (void)key;
    (void)key_size;
    return load_answer(ctx, deadline, into);
}

int lookup_search_again(
        void *ctx, const void *bytes, size_t size, pnx_ns deadline, struct pnx_cache_load *into) {
    struct lookup_store *store = ctx;
    struct pnx_error err = {0};
    struct lookup_query query = {0};
    struct key_head head;
    memcpy(&head, bytes, sizeof(head));
    if (head.generation != atomic_load(&store->number))
        return -ENOENT; /* another index is in force, and nobody asks by this key any more */
    query.size = size - sizeof(head);
    memcpy(query.text, (const char *)bytes + sizeof(head), query.size);
    struct search search = {.store = store,
            .err = &err,
            .query = &query,
            .limit = head.limit,
            .offset = head.offset};
    int rc = lookup_store_enter(store, &err);
    if (rc)
        return rc;
    rc = load_answer(&search, deadline, into);
    lookup_store_leave(store);
    if (rc && rc != -ENOENT)
        lookup_log(store->env_or_null, PNX_LOG_DEBUG,
                "an answer cannot be asked for anew, and the old one is served: %s", err.message);
    return rc;
}

static int check_page(uint32_t *limit, uint32_t offset, struct pnx_error *err) {
    if (*limit == 0)
        *limit = LOOKUP_LIMIT_DEFAULT;
    if (*limit > LOOKUP_LIMIT_MAX)
        return lookup_fail(err, -ERANGE, "query", "limit is more than %u", LOOKUP_LIMIT_MAX);
    if (offset > LOOKUP_OFFSET_MAX)
        return lookup_fail(err, -ERANGE, "query", "offset is more than %u", LOOKUP_OFFSET_MAX);
    return 0;
}

static int check_timeout(struct lookup_store *store, pnx_ns *timeout, struct pnx_error *err) {
    if (*timeout == PNX_TIMEOUT_DEFAULT)
        *timeout = atomic_load_explicit(&store->search_timeout, memory_order_relaxed);
    if (*timeout < 0)
        return lookup_fail(err, -EINVAL, "options", "the timeout is negative");
    return 0;
}

/* Fills the key; returns its size. */
static size_t make_key(const struct search *search, struct key *key) {
    key->head = (struct key_head){.generation = atomic_load(&search->store->number),
            .limit = search->limit,
            .offset = search->offset};
    memcpy(key->text, search->query->text, search->query->size);
    return sizeof(key->head) + search->query->size;
}

/* Makes the answer of what the cache gave; takes the reference. */
static struct lookup_answer answer_of(const struct pnx_cache_ref *ref) {
    struct value_head head;
    const char *data = pnx_cache_ref_data(ref);
    memcpy(&head, data, sizeof(head));
    return (struct lookup_answer){
            .results = data + sizeof(head),
            .results_size = pnx_cache_ref_size(ref) - sizeof(head),
            .total = head.total,
            .cached = ref->source == PNX_CACHE_FOUND || ref->source == PNX_CACHE_STALE,
            .hold = *ref,
    };
}

/* The answer that there is no document. */
static struct lookup_answer nothing(bool cached) {
    static const char none[] = "[]";
    return (struct lookup_answer){
            .results = none, .results_size = sizeof(none) - 1, .cached = cached};
}

static int ask_cache(struct search *search, pnx_ns timeout, struct lookup_answer *ret_answer) {
    struct lookup_store *store = search->store;
    struct key key;
    size_t key_size = make_key(search, &key);
    struct pnx_cache_ref ref = {0};
    struct pnx_error why = {0};
    int rc = pnx_cache_get_or_load(store->cache, &key, key_size, load, search, timeout, &why, &ref);
    if (rc == -ENOENT) {
        *ret_answer = nothing(why.cause == 0); /* else a loader has just said so */
        return 0;
    }
    if (rc) {
        /* What went wrong in the loader is more to the point than that it failed. */
        if (search->err && search->err->code != rc)
            *search->err = why;
        /* Who waited for somebody else's search is told why, too. */
        if (rc == -ESTALE)
            lookup_texts_stale(-ESTALE, search->err);
        return rc;
    }
    *ret_answer = answer_of(&ref);
    return 0;
}

int lookup_store_search(struct lookup_store *store, const char *text, size_t size, uint32_t limit,
        uint32_t offset, pnx_ns timeout, struct pnx_error *err, struct lookup_answer *ret_answer) {
    struct lookup_query query;
    int rc = check_timeout(store, &timeout, err);
    if (!rc)
        rc = check_page(&limit, offset, err);
    if (!rc)
        rc = lookup_query_parse(text, size, err, &query);
    if (!rc)
        rc = lookup_store_enter(store, err);
    if (rc)
        return rc;
    atomic_fetch_add_explicit(&store->searches, 1, memory_order_relaxed);
    struct pnx_error why = {0};
    struct search search = {
            .store = store, .err = &why, .query = &query, .limit = limit, .offset = offset};
    rc = ask_cache(&search, timeout, ret_answer);
    lookup_store_leave(store);
    if (rc && err)
        *err = why;
    return rc;
}

int lookup_store_search_cached(struct lookup_store *store, const char *text, size_t size,
        uint32_t limit, uint32_t offset, struct pnx_error *err, struct lookup_answer *ret_answer) {
    struct lookup_query query;
    int rc = check_page(&limit, offset, err);
    if (!rc)
        rc = lookup_query_parse(text, size, err, &query);
    if (!rc)
        rc = lookup_store_enter(store, err);
    if (rc)
        return rc;
    struct search search = {.store = store, .query = &query, .limit = limit, .offset = offset};
    struct key key;
    size_t key_size = make_key(&search, &key);
    struct pnx_cache_ref ref = {0};
    rc = pnx_cache_probe(store->cache, &key, key_size, &ref); /* the search counts the miss */
    if (rc == 0 || rc == -ENODATA)
        atomic_fetch_add_explicit(&store->searches, 1, memory_order_relaxed);
    lookup_store_leave(store);
    if (rc == -ENODATA) {
        *ret_answer = nothing(true);
        return 0;
    }
    if (rc)
        return lookup_fail(err, rc, "cache", "%s", pnx_strerror(rc));
    ref.source = PNX_CACHE_FOUND;
    *ret_answer = answer_of(&ref);
    return 0;
}

void lookup_answer_release(struct lookup_answer *answer) {
    pnx_cache_ref_release(&answer->hold);
    *answer = (struct lookup_answer){0};
}

int lookup_answer_json(const struct lookup_answer *answer, const char *query, size_t query_size,
        uint64_t took_us, char **ret_text, size_t *ret_size) {
    struct lookup_buffer out = {0};
    /* Room for all of it at once, escapes aside. */
    out.cap = answer->results_size + query_size + 160;
    out.data = malloc(out.cap);
    if (!out.data)
        return -ENOMEM;
    lookup_buffer_text(&out, "{\"query\":");
    lookup_buffer_json(&out, query, query_size);
    lookup_buffer_text(&out, ",\"total\":");
    lookup_buffer_number(&out, answer->total);
    lookup_buffer_text(&out, ",\"took_us\":");
    lookup_buffer_number(&out, took_us);
    lookup_buffer_text(&out, answer->cached ? ",\"cached\":true" : ",\"cached\":false");
    lookup_buffer_text(&out, ",\"results\":");
    lookup_buffer_add(&out, answer->results, answer->results_size);
    lookup_buffer_text(&out, "}");
    if (out.failed) {
        lookup_buffer_free(&out);
        return -ENOMEM;
    }
    *ret_text = out.data;
    *ret_size = out.size;
    return 0;
}

/* ---- documents ---- */

static char *copy_column(struct sqlite3_stmt *stmt, int index) {
    size_t n;
    const char *text = column(stmt, index, &n);
    char *copy = malloc(n + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

/* Fills the document from the row that the statement stands on. */
static int fill(struct question *question, struct sqlite3_stmt *stmt, struct pnx_error *err,
        struct lookup_document *document) {
    const struct lookup_generation *generation = question->generation;
    int64_t offset = sqlite3_column_int64(stmt, 0);
    int64_t size = sqlite3_column_int64(stmt, 1);
    struct pnx_view view;
    if (offset < 0 || size < 0 ||
            pnx_view_get(generation->texts, (uint64_t)offset, (size_t)size, &view) != 0)
        return lookup_fail(err, PNX_E_FORMAT, "document",
                "the database says that document %" PRIu64 " lies outside the texts", document->id);
    document->title = copy_column(stmt, 2);
    document->path = copy_column(stmt, 3);
    if (!document->title || !document->path)
        return lookup_fail(err, -ENOMEM, "document", "no memory");
    document->mapped = view.p;
    document->size = view.n;
    document->opening = generation->opening;
    document->hold = pnx_mapping_ref(generation->texts);
    snprintf(document->etag, sizeof(document->etag), "\"g%" PRIu64 "-%016" PRIx64 "-%" PRIu64 "\"",
            generation->number, generation->manifest.texts.low, document->id);
    return 0;
}

/* Whether the texts that the question's connection goes with are known to be lost, or are so now. */
static int check_texts(const struct question *question, struct pnx_error *err) {
    const struct lookup_generation *generation = question->generation;
    if (atomic_load(&question->store->stale_opening) >= generation->opening)
        return lookup_texts_stale(-ESTALE, err);
    return lookup_texts_read(generation->texts, NULL, NULL, 0, err);
}

static int read_document(
        struct question *question, struct pnx_error *err, struct lookup_document *document) {
    struct sqlite3_stmt *stmt = NULL;
    int rc = pnx_sqlite_prepare(question->conn, document_sql, err, &stmt);
    if (rc)
        return rc;
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)document->id);
    rc = pnx_sqlite_step(question->conn, stmt, err);
    if (rc == 1)
        rc = fill(question, stmt, err, document);
    else if (rc == 0)
        rc = lookup_fail(err, -ENOENT, "document", "there is no document %" PRIu64, document->id);
    pnx_sqlite_finish(question->conn, &stmt);
    return rc;
}

/* Asks for the document within a call that was entered. */
static int ask_document(struct lookup_store *store, pnx_ns timeout, struct pnx_error *err,
        struct lookup_document *document) {
    pnx_ns now = pnx_now();
    struct question question;
    int rc = begin(store, timeout >= PNX_NEVER - now ? PNX_NEVER : now + timeout, err, &question);
    if (rc)
        return rc;
    rc = read_document(&question, err, document);
    if (!rc)
        rc = check_texts(&question, err);
    end(&question, rc);
    return rc;
}

int lookup_store_document(struct lookup_store *store, uint64_t id, pnx_ns timeout,
        struct pnx_error *err, struct lookup_document *ret_document) {
    int rc = check_timeout(store, &timeout, err);
    if (!rc)
        rc = lookup_store_enter(store, err);
    if (rc)
        return rc;
    struct lookup_document document = {.id = id};
    if (id == 0 || id > INT64_MAX)
        rc = lookup_fail(err, -ENOENT, "document", "there is no document %" PRIu64, id);
    else
        rc = ask_document(store, timeout, err, &document);
    lookup_store_leave(store);
    if (rc) {
        lookup_document_release(&document);
        return rc;
    }
    *ret_document = document;
    return 0;
}

int lookup_document_read(const struct lookup_document *document, uint64_t offset, void *dst,
        size_t n, struct pnx_error *err) {
    if (offset > document->size || n > document->size - offset)
        return lookup_fail(
                err, -ERANGE, "document", "%zu bytes at %" PRIu64 " are outside of it", n, offset);
    return lookup_texts_read(document->hold, (const char *)document->mapped + offset, dst, n, err);
}

void lookup_store_note_stale(struct lookup_store *store, const struct lookup_document *document) {
    if (lookup_store_enter(store, NULL) != 0)
        return;
    lookup_index_note_stale(store, document->opening);
    lookup_store_leave(store);
}

void lookup_document_release(struct lookup_document *document) {
    struct pnx_mapping *texts = document->hold;
    pnx_mapping_release(&texts);
    free(document->title);
    free(document->path);
    *document = (struct lookup_document){0};
}
