/* SPDX-License-Identifier: Apache-2.0 */
/* server_internal.h - what server.c (connections, time, ending) and routes.c (requests) share. */
#ifndef LOOKUP_SERVER_INTERNAL_H
#define LOOKUP_SERVER_INTERNAL_H

#include "jobs.h"
#include "metrics.h"
#include "reply.h"
#include "server.h"

#include <pthread.h>

/*
 * A client's connection and the request on it.  Made and freed by libmicrohttpd's thread for it; the list and
 * dropped belong to server->mutex; deadline, requests and active are atomic; the rest is touched by that thread only.
 */
struct connection {
    struct server *server;
    struct connection *next, *prev;
    bool dropped;      /* shut down because of its deadline, or because the client has left */
    bool ended;        /* the client had sent its last byte when we looked last, ... */
    uint32_t ended_at; /* ... and this was the number of requests then */
    int fd;            /* libmicrohttpd closes it, after the connection has left the list */
    pnx_ns deadline;   /* when it is dropped; PNX_NEVER while we work for it */
    uint32_t requests; /* atomic: begun so far */
    bool active;       /* atomic: between the request's head and the end of its answer */

    size_t url_size; /* of the request's URL as it was sent, query included */
    pnx_ns started;
    struct job *job; /* the parked request */
    enum request_route route;
    unsigned status;
    uint64_t id;         /* of the document asked for */
    uint64_t sent_bytes; /* of the answer's body */
    bool head;           /* the method is HEAD */
};

struct server {
    struct lookup_store *store;
    struct pnx_registry *registry;
    struct pnx_stats *stats;
    struct pnx_config *config; /* may be NULL */
    pnx_resource_id row;
    struct MHD_Daemon *daemon;
    struct jobs *jobs;
    struct MHD_Response *constant; /* --bench-constant */
    pthread_t acceptor;
    int listen_fd; /* the acceptor's */
    int wake_fd;   /* written to end the acceptor */
    pnx_ns client_timeout;
    pnx_ns started;
    uint32_t max_connections;
    bool draining;         /* atomic */
    pnx_ns search_timeout; /* atomic: the store's, as it was set last */

    pthread_mutex_t mutex;
    pthread_cond_t idle; /* signalled while draining, when no request is active any more */
    struct connection *connections; /* under mutex */

    pthread_mutex_t
            stop_mutex; /* held throughout drain and stop: the second caller waits for the first */
    bool accepting;     /* under stop_mutex: the acceptor runs */
    bool stopped;       /* under stop_mutex */
    int stop_result;    /* under stop_mutex */

    struct metrics metrics;
};

#define SERVER_WORKERS  16u /* threads that may wait for the database */
#define SERVER_JOBS_MAX 4096u
#define SERVER_JOB_GRACE \
    (2 * PNX_SEC) /* how long after the store's own timeout a request is given up */
#define SERVER_BYTES_PER_SEC 16384u /* a slower reader of an answer is dropped */

/* routes.c: libmicrohttpd's callbacks. */
enum MHD_Result routes_request(void *cls, struct MHD_Connection *mhd, const char *url,
        const char *method, const char *version, const char *upload_data, size_t *upload_data_size,
        void **req_cls);
void routes_completed(
        void *cls, struct MHD_Connection *mhd, void **req_cls, enum MHD_RequestTerminationCode how);

/* status.c: the answers about the service itself. */
struct reply status_metrics(struct server *server);
struct reply status_health(struct server *server);
struct reply status_stats(struct server *server);

#endif
