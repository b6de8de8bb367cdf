/* SPDX-License-Identifier: Apache-2.0 */
/*
 * routes.c - what is asked and what is answered.  libmicrohttpd calls routes_request() for each request at
 * least twice: when its head is there, and when its body (we allow none) has ended.
 *
 *   head --refused (has a body)--> answered, connection closes
 *    |
 *    v
 *   whole --from the cache, or about the service--> answered
 *    |
 *    +--job submitted, connection suspended--> parked --job finished or expired--> answered
 *
 *   P1  Nothing here waits: what may block runs as a job on a worker; but for the disk, when a chunk of a long text is
 *       not in memory.
 *   P2  Each request that has begun is counted once, when its answer was sent or its client gave up.
 *   P3  A body that is not complete never ends as if it were: its connection is closed before Content-Length is reached.
 */
#include "log.h"
#include "page.h"
#include "server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A parked request.  The worker's until it is FINISHED, then the connection's. */
struct request_job {
    struct job job;
    struct server *server;
    struct MHD_Connection *mhd;
    enum request_route route;
    pnx_ns started;
    /* /search */
    uint32_t limit;
    uint32_t offset;
    size_t query_size;
    char query[LOOKUP_QUERY_MAX];
    /* /documents/ID */
    uint64_t id;
    bool head;
    char *range; /* the headers, or NULL */
    char *if_none_match;
    char *if_range;
    struct reply reply; /* the result */
};

/* ---- search ---- */

struct search {
    size_t query_size;
    uint32_t limit;
    uint32_t offset;
    bool seen_query, seen_limit, seen_offset;
    struct reply error; /* why the arguments are refused; status 0: they are fine */
    char query[LOOKUP_QUERY_MAX];
};

static void take_number(struct search *search, bool *seen, const char *key, const char *value,
        size_t size, uint32_t min, uint32_t max, uint32_t *ret_number) {
    uint64_t number;
    if (*seen)
        search->error = reply_error(400, "bad_request", "%s is given twice", key);
    else if (request_number(value, size, max, &number) < 0 || number < min)
        search->error = reply_error(
                400, "bad_request", "%s is not a whole number from %u to %u", key, min, max);
    else
        *ret_number = (uint32_t)number;
    *seen = true;
}

static void take_query(struct search *search, const char *value, size_t size) {
    if (search->seen_query) {
        search->error = reply_error(400, "bad_request", "q is given twice");
        return;
    }
    search->seen_query = true;
    int r = request_decode(value, size, search->query, sizeof(search->query), &search->query_size);
    if (r == -EFBIG)
        search->error = reply_error(
                400, "query_too_long", "q is longer than %u bytes", (unsigned)LOOKUP_QUERY_MAX);
    else if (r < 0)
        search->error = reply_error(400, "bad_request",
                "q is not well encoded: %% wants two hexadecimal digits, and %%00 is not text");
}

/* Takes the arguments that we know; others, such as a tracker's, are left alone. */
static enum MHD_Result take_argument(void *cls, enum MHD_ValueKind kind, const char *key,
        size_t key_size, const char *value, size_t size) {
    struct search *search = cls;
    (void)kind;
    if (key_size == 1 && key[0] == 'q')
        take_query(search, value ? value : "", value ? size : 0);
    else if (key_size == 5 && memcmp(key, "limit", 5) == 0)
        take_number(search, &search->seen_limit, "limit", value ? value : "", value ? size : 0, 1,
                LOOKUP_LIMIT_MAX, &search->limit);
    else if (key_size == 6 && memcmp(key, "offset", 6) == 0)
        take_number(search, &search->seen_offset, "offset", value ? value : "", value ? size : 0, 0,
                LOOKUP_OFFSET_MAX, &search->offset);
    return search->error.status ? MHD_NO : MHD_YES;
}

/* Turns an answer of the store into a reply; gives the answer back. */
static struct reply search_reply(
        struct lookup_answer *answer, const char *query, size_t query_size, pnx_ns started) {
    char *text;
    size_t size;
    uint64_t took_us = (uint64_t)((pnx_now() - started) / PNX_US);
    int r = lookup_answer_json(answer, query, query_size, took_us, &text, &size);
    lookup_answer_release(answer);
    if (r < 0)
        return reply_failure(r, "no memory for the answer");
    struct reply reply = reply_text(200, REPLY_JSON, text, size);
    reply_header(&reply, "Cache-Control", "no-store");
    return reply;
}

static void run_search(struct request_job *job) {
    struct pnx_error err = {0};
    struct lookup_answer answer;
    int r = lookup_store_search(job->server->store, job->query, job->query_size, job->limit,
            job->offset, PNX_TIMEOUT_DEFAULT, &err, &answer);
    job->reply = r < 0 ? reply_failure(r, err.message)
                       : search_reply(&answer, job->query, job->query_size, job->started);
}

/* ---- documents ---- */

/* Texts up to this size are copied before the status line is sent; longer ones are sent by chunks of it. */
#define CHUNK_BYTES ((size_t)64 * 1024)

/* The body of an answer that is sent by chunks; libmicrohttpd's. */
struct stream {
    struct server *server;
    struct lookup_document document;
    uint64_t first; /* where in the text the body begins */
    uint64_t size;
};

static void free_stream(void *cls) {
    struct stream *stream = cls;
    lookup_document_release(&stream->document);
    free(stream);
}

/*
 * Copies the next chunk, on a thread of libmicrohttpd.  The status line is out by now, so when the text is lost all that
 * is left is to end the connection before the body is complete, which Content-Length tells the client.
 */
static ssize_t read_stream(void *cls, uint64_t at, char *buffer, size_t max) {
    const struct stream *stream = cls;
    if (at >= stream->size)
        return MHD_CONTENT_READER_END_OF_STREAM;
    size_t n = max < stream->size - at ? max : (size_t)(stream->size - at);
    if (lookup_document_read(&stream->document, stream->first + at, buffer, n, NULL) == 0)
        return (ssize_t)n;
    metrics_add(stream->server->metrics.documents_cut, 1);
    lookup_store_note_stale(stream->server->store, &stream->document);
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

/* Makes a reply whose body is read when it is sent; takes the document. */
static struct reply streamed_part(struct server *server, struct lookup_document *document,
        unsigned status, uint64_t first, uint64_t size) {
    struct stream *stream = malloc(sizeof(*stream));
    if (!stream) {
        lookup_document_release(document);
        return reply_failure(-ENOMEM, "no memory for the answer");
    }
    *stream =
            (struct stream){.server = server, .document = *document, .first = first, .size = size};
    struct reply reply = {.status = status, .size = size};
    reply.response =
            MHD_create_response_from_callback(size, CHUNK_BYTES, read_stream, stream, free_stream);
    if (!reply.response) {
        free_stream(stream);
        return reply_failure(-ENOMEM, "no memory for the answer");
    }
    return reply;
}

/* Makes a reply with a copy; takes the document. */
static struct reply copied_part(struct server *server, struct lookup_document *document,
        unsigned status, uint64_t first, uint64_t size) {
    struct pnx_error err = {0};
    char *text = malloc(size > 0 ? (size_t)size : 1);
    int r = text ? lookup_document_read(document, first, text, (size_t)size, &err) : -ENOMEM;
    if (r == -ESTALE)
        lookup_store_note_stale(server->store, document);
    lookup_document_release(document);
    struct reply reply = {.status = status, .size = size};
    if (r == 0)
        reply.response = MHD_create_response_from_buffer((size_t)size, text, MHD_RESPMEM_MUST_FREE);
    if (reply.response)
        return reply;
    free(text);
    return r == -ESTALE ? reply_failure(r, err.message)
                        : reply_failure(-ENOMEM, "no memory for the answer");
}

/*
 * Answers with a part of the document's text; takes the document.  No byte of the mapped file is given to libmicrohttpd,
 * only copies that were made in a checked scope.  For 304 a stream is all of it: libmicrohttpd sends no body then, and
 * its size is what Content-Length must say.
 */
static struct reply document_part(struct request_job *job, struct lookup_document *document,
        unsigned status, uint64_t first, uint64_t size) {
    char etag[sizeof(document->etag)];
    memcpy(etag, document->etag, sizeof(etag));
    bool no_body = job->head || status == 304;
    struct reply reply = no_body || size > CHUNK_BYTES
                                 ? streamed_part(job->server, document, status, first, size)
                                 : copied_part(job->server, document, status, first, size);
    if (reply.status != status)
        return reply;
    reply_header(&reply, "Content-Type", REPLY_PLAIN);
    reply_header(&reply, "X-Content-Type-Options", "nosniff");
    reply_header(&reply, "Content-Security-Policy", "default-src 'none'; sandbox");
    reply_header(&reply, "Accept-Ranges", "bytes");
    reply_header(&reply, "Cache-Control", "no-cache");
    reply_header(&reply, "ETag", etag);
    return reply;
}

static struct reply document_reply(struct request_job *job, struct lookup_document *document) {
    if (job->if_none_match && request_etag_matches(job->if_none_match, document->etag))
        return document_part(job, document, 304, 0, document->size);
    /* If-Range asks for strong comparison: the very tag, never a weak one, and not a date. */
    const char *range = job->range;
    if (job->if_range && strcmp(job->if_range, document->etag) != 0)
        range = NULL;
    uint64_t first = 0, last = 0, size = document->size;
    char header[80];
    struct reply reply;
    switch (request_range(range, size, &first, &last)) {
    case RANGE_UNSATISFIABLE:
        lookup_document_release(document);
        reply = reply_error(416, "range_not_satisfiable", "the document has %llu bytes",
                (unsigned long long)size);
        snprintf(header, sizeof(header), "bytes */%llu", (unsigned long long)size);
        reply_header(&reply, "Content-Range", header);
        return reply;
    case RANGE_PART:
        reply = document_part(job, document, 206, first, last - first + 1);
        if (reply.status == 206) {
            snprintf(header, sizeof(header), "bytes %llu-%llu/%llu", (unsigned long long)first,
                    (unsigned long long)last, (unsigned long long)size);
            reply_header(&reply, "Content-Range", header);
        }
        return reply;
    case RANGE_WHOLE:
    default:
        return document_part(job, document, 200, 0, size);
    }
}

static void run_document(struct request_job *job) {
    struct pnx_error err = {0};
    struct lookup_document document;
    int r = lookup_store_document(
            job->server->store, job->id, PNX_TIMEOUT_DEFAULT, &err, &document);
    if (r == -ENOENT)
        job->reply = reply_error(
                404, "not_found", "there is no document %llu", (unsigned long long)job->id);
    else
        job->reply = r < 0 ? reply_failure(r, err.message) : document_reply(job, &document);
}

/* ---- parking ---- */

static void job_run(struct job *base) {
    struct request_job *job = (struct request_job *)base;
    if (job->route == ROUTE_SEARCH)
        run_search(job);
    else
        run_document(job);
}

static void job_wake(struct job *base) {
    MHD_resume_connection(((struct request_job *)base)->mhd);
}

static void job_destroy(struct job *base) {
    struct request_job *job = (struct request_job *)base;
    reply_release(&job->reply);
    free(job->range);
    free(job->if_none_match);
    free(job->if_range);
    free(job);
}

static bool copy_header(struct MHD_Connection *mhd, const char *name, char **ret_value) {
    const char *value = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, name);
    if (!value)
        return true;
    *ret_value = strdup(value);
    return *ret_value != NULL;
}

static struct request_job *make_job(struct connection *c, struct MHD_Connection *mhd) {
    struct request_job *job = calloc(1, sizeof(*job));
    if (!job)
        return NULL;
    /* The store keeps its own time; this is for when it does not. */
    pnx_ns limit = __atomic_load_n(&c->server->search_timeout, __ATOMIC_RELAXED) + SERVER_JOB_GRACE;
    job->job = (struct job){.run = job_run,
            .wake = job_wake,
            .destroy = job_destroy,
            .deadline = c->started + limit};
    job->server = c->server;
    job->mhd = mhd;
    job->route = c->route;
    job->started = c->started;
    job->id = c->id;
    job->head = c->head;
    return job;
}

/* Gives the job to the workers and suspends the connection; or fails, and then the job is dropped. */
static int park(struct connection *c, struct MHD_Connection *mhd, struct request_job *job) {
    struct server *server = c->server;
    int r = jobs_reserve(server->jobs);
    if (r < 0) {
        job_destroy(&job->job);
        return r;
    }
    c->job = &job->job;
    MHD_suspend_connection(mhd);
    jobs_submit(server->jobs, &job->job);
    return 0;
}

/* ---- routing ---- */

/* Queues the answer.  Any answer given while draining is its connection's last. */
static enum MHD_Result answer(
        struct connection *c, struct MHD_Connection *mhd, struct reply reply) {
    c->status = reply.status;
    c->sent_bytes = c->head || reply.status == 304 ? 0 : reply.size;
    if (reply.response != c->server->constant &&
            __atomic_load_n(&c->server->draining, __ATOMIC_RELAXED))
        reply_header(&reply, "Connection", "close");
    if (!reply.response) {
        c->status = 500;
        return MHD_NO; /* no memory even for saying so: the connection is closed */
    }
    pnx_ns time =
            c->server->client_timeout + (pnx_ns)(c->sent_bytes / SERVER_BYTES_PER_SEC) * PNX_SEC;
    __atomic_store_n(&c->deadline, pnx_now() + time, __ATOMIC_RELAXED);
    enum MHD_Result queued = MHD_queue_response(mhd, reply.status, reply.response);
    if (reply.response != c->server->constant)
        MHD_destroy_response(reply.response);
    return queued;
}

static enum MHD_Result answer_search(struct connection *c, struct MHD_Connection *mhd) {
    struct server *server = c->server;
    struct search search;
    search.query_size = 0;
    search.limit = LOOKUP_LIMIT_DEFAULT;
    search.offset = 0;
    search.seen_query = search.seen_limit = search.seen_offset = false;
    search.error = (struct reply){0};
    (void)MHD_get_connection_values_n(mhd, MHD_GET_ARGUMENT_KIND, take_argument, &search);
    if (search.error.status)
        return answer(c, mhd, search.error);
    if (!search.seen_query)
        return answer(c, mhd, reply_error(400, "bad_request", "q is missing: /search?q=WORDS"));

    struct lookup_answer found;
    struct pnx_error err = {0};
    int r = lookup_store_search_cached(server->store, search.query, search.query_size, search.limit,
            search.offset, &err, &found);
    if (r == 0)
        return answer(c, mhd, search_reply(&found, search.query, search.query_size, c->started));
    if (r != -ENOENT)
        return answer(c, mhd, reply_failure(r, err.message));

    struct request_job *job = make_job(c, mhd);
    if (!job)
        return answer(c, mhd, reply_failure(-ENOMEM, "no memory for the request"));
    job->limit = search.limit;
    job->offset = search.offset;
    job->query_size = search.query_size;
    memcpy(job->query, search.query, search.query_size);
    r = park(c, mhd, job);
    return r < 0 ? answer(c, mhd, reply_failure(r, "too many requests are waiting")) : MHD_YES;
}

static enum MHD_Result answer_document(struct connection *c, struct MHD_Connection *mhd) {
    struct request_job *job = make_job(c, mhd);
    bool copied = job && copy_header(mhd, "If-None-Match", &job->if_none_match) &&
                  (c->head || (copy_header(mhd, "Range", &job->range) &&
                                      copy_header(mhd, "If-Range", &job->if_range)));
    if (!copied) {
        if (job)
            job_destroy(&job->job);
        return answer(c, mhd, reply_failure(-ENOMEM, "no memory for the request"));
    }
    int r = park(c, mhd, job);
    return r < 0 ? answer(c, mhd, reply_failure(r, "too many requests are waiting")) : MHD_YES;
}

static struct reply page_reply(struct MHD_Connection *mhd) {
    const char *have = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "If-None-Match");
    bool same = have && request_etag_matches(have, page_etag);
    struct reply reply =
            reply_static(same ? 304 : 200, "text/html; charset=utf-8", page_html, page_html_size);
    reply_header(&reply, "Content-Security-Policy", page_csp);
    reply_header(&reply, "Referrer-Policy", "no-referrer");
    reply_header(&reply, "X-Frame-Options", "DENY");
    reply_header(&reply, "Cache-Control", "no-cache");
    reply_header(&reply, "ETag", page_etag);
    return reply;
}

static struct reply icon_reply(void) {
    struct reply reply = reply_static(200, "image/svg+xml", page_icon, page_icon_size);
    reply_header(
            &reply, "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'");
    reply_header(&reply, "Cache-Control", "max-age=86400");
    return reply;
}

static enum MHD_Result answer_route(struct connection *c, struct MHD_Connection *mhd) {
    struct server *server = c->server;
    switch (c->route) {
    case ROUTE_SEARCH:
        return answer_search(c, mhd);
    case ROUTE_DOCUMENT:
        return answer_document(c, mhd);
    case ROUTE_PAGE:
        return answer(c, mhd, page_reply(mhd));
    case ROUTE_ICON:
        return answer(c, mhd, icon_reply());
    case ROUTE_METRICS:
        return answer(c, mhd, status_metrics(server));
    case ROUTE_HEALTH:
        return answer(c, mhd, status_health(server));
    case ROUTE_STATS:
        return answer(c, mhd, status_stats(server));
    case ROUTE_CONSTANT:
        if (server->constant)
            return answer(c, mhd, (struct reply){200, server->constant, 0});
        break;
    case ROUTE_NONE:
    case ROUTE_COUNT:
        break;
    }
    return answer(c, mhd,
            reply_error(404, "not_found",
                    "there is no such page; there are /, /search?q=WORDS, /documents/ID, /metrics, "
                    "/health and /stats.json"));
}

/* Answers a parked request whose job has ended. */
static enum MHD_Result answer_parked(struct connection *c, struct MHD_Connection *mhd) {
    struct request_job *job = (struct request_job *)c->job;
    struct jobs *jobs = c->server->jobs;
    struct reply reply;
    if (jobs_finished(jobs, c->job)) {
        reply = job->reply;
        job->reply = (struct reply){0};
    } else {
        reply = reply_failure(-ETIMEDOUT, "the database did not answer in time");
    }
    c->job = NULL;
    jobs_drop(jobs, &job->job);
    return answer(c, mhd, reply);
}

/* ---- the request's life ---- */

static void begin(struct connection *c, const char *url, const char *method) {
    c->started = pnx_now();
    c->route = request_route(url, &c->id);
    c->status = 0;
    c->sent_bytes = 0;
    c->head = strcmp(method, "HEAD") == 0;
    __atomic_store_n(&c->active, true, __ATOMIC_RELAXED);
    __atomic_store_n(&c->deadline, PNX_NEVER, __ATOMIC_RELAXED);
    __atomic_store_n(&c->requests, c->requests + 1, __ATOMIC_RELAXED);
    (void)__atomic_fetch_add(&c->server->metrics.active, 1, __ATOMIC_SEQ_CST);
}

static bool has_body(struct MHD_Connection *mhd) {
    const char *length = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Content-Length");
    return (length && length[strspn(length, "0")] != '\0') ||
           MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Transfer-Encoding");
}

/* Returns the answer (status 0: none) to a request that we refuse for its form. */
static struct reply refusal(
        struct connection *c, struct MHD_Connection *mhd, const char *method, const char *version) {
    const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (c->url_size > REQUEST_URL_MAX)
        return reply_error(414, "url_too_long", "the URL is longer than %u bytes", REQUEST_URL_MAX);
    if (info && info->header_size > REQUEST_HEADER_MAX)
        return reply_error(431, "head_too_large", "the request's head is larger than %u bytes",
                REQUEST_HEADER_MAX);
    /* libmicrohttpd could see to this, but 0.9.75 then writes the head of its answer twice. */
    if (strcmp(version, "HTTP/1.0") != 0 &&
            !MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Host"))
        return reply_error(400, "bad_request", "the request has no Host header");
    if (!c->head && strcmp(method, "GET") != 0) {
        struct reply reply = reply_error(
                405, "method_not_allowed", "%.20s is not supported; GET and HEAD are", method);
        reply_header(&reply, "Allow", "GET, HEAD");
        return reply;
    }
    if (has_body(mhd))
        return reply_error(413, "body_not_allowed", "a request has no body here");
    return (struct reply){0};
}

enum MHD_Result routes_request(void *cls, struct MHD_Connection *mhd, const char *url,
        const char *method, const char *version, const char *upload_data, size_t *upload_data_size,
        void **req_cls) {
    struct connection *c = *req_cls;
    (void)cls;
    (void)upload_data;
    if (!c) {
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        c = info ? info->socket_context : NULL;
        if (!c)
            return MHD_NO; /* there was no memory when the connection came */
        *req_cls = c;
        begin(c, url, method);
        /* An answer given now closes the connection, since a body may follow that nobody reads. */
        return has_body(mhd) ? answer(c, mhd, refusal(c, mhd, method, version)) : MHD_YES;
    }
    if (*upload_data_size > 0) {
        *upload_data_size = 0;
        return MHD_YES;
    }
    if (c->job)
        return answer_parked(c, mhd);
    struct reply refused = refusal(c, mhd, method, version);
    return refused.status ? answer(c, mhd, refused) : answer_route(c, mhd);
}

void routes_completed(void *cls, struct MHD_Connection *mhd, void **req_cls,
        enum MHD_RequestTerminationCode how) {
    struct server *server = cls;
    struct connection *c = *req_cls;
    (void)mhd;
    *req_cls = NULL;
    if (!c || !c->active)
        return;
    __atomic_store_n(&c->active, false, __ATOMIC_RELAXED);
    if (c->job)
        jobs_drop(server->jobs, c->job); /* the server stops */
    c->job = NULL;
    pnx_ns now = pnx_now();
    metrics_request(&server->metrics, c->route, c->status, now - c->started, c->sent_bytes,
            how != MHD_REQUEST_TERMINATED_COMPLETED_OK);
    __atomic_store_n(&c->deadline, now + server->client_timeout, __ATOMIC_RELAXED);
    bool last = __atomic_fetch_sub(&server->metrics.active, 1, __ATOMIC_SEQ_CST) == 1;
    /* Pairs with drain_locked(). */
    if (last && __atomic_load_n(&server->draining, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&server->mutex);
        pthread_cond_signal(&server->idle);
        pthread_mutex_unlock(&server->mutex);
    }
}
