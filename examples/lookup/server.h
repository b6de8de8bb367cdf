/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h - the HTTP side: accepts connections, answers requests, drops slow clients, drains, ends.
 *
 *   RUNNING --server_drain()--> DRAINING --server_stop()--> STOPPED
 *
 * Threads: one that accepts and keeps time; a few that move bytes (libmicrohttpd's) and never block; workers
 * that ask the store and may block.  What is in the cache is answered without a worker, and so are /health
 * and /metrics, which therefore answer whatever the database does.
 *
 *   P1  Limits hold for everything a client can send: connections, bytes of URL and head, query, time.
 *   P2  A client that needs longer than client_timeout for its request, or takes its answer slower than 16 KiB
 *       a second, is dropped.
 *   P3  After server_drain() no connection is accepted, and each answer closes its connection.
 *   P4  server_stop() returns by its deadline; if a worker is stuck, it says -ETIMEDOUT and frees nothing that
 *       the worker uses.
 */
#ifndef LOOKUP_SERVER_H
#define LOOKUP_SERVER_H

#include "store.h"

#include <patinox/base.h>
#include <patinox/config.h>
#include <patinox/error.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

struct server; /* safe to use from any thread */

struct server_opts {
    int listen_fd; /* bound, not yet listening; the server's from the call on, even if it fails */
    struct lookup_store *store; /* required; outlives the server */
    struct pnx_config
            *config; /* of the settings, shown at /stats.json; outlives the server; may be NULL */
    struct pnx_registry *registry;
    struct pnx_stats *stats;
    pnx_ns search_timeout; /* the store's setting */
    uint32_t connections;  /* at once */
    uint32_t client_timeout_s;
    uint32_t bench_constant; /* bytes at /bench/constant; 0: not served */
};

/*
 * Binds a socket to host (an address or a name) and port (0: any free one), without listening yet, so that a
 * wrong one is known before an index is built.  Returns the descriptor and, in ret_url (at least
 * SERVER_URL_SIZE bytes), "http://127.0.0.1:8080/".  err->message says what stands in the way.
 * -EADDRINUSE, -EACCES, -EADDRNOTAVAIL, -EINVAL (no such host), and other errors of bind().
 */
#define SERVER_URL_SIZE 320u
PNX_NODISCARD int server_bind(
        const char *host, uint32_t port, struct pnx_error *err, char *ret_url);

/*
 * Starts serving, and registers itself so that a shutdown of the registry drains and stops it.
 * -EADDRINUSE (somebody else listens), -ENOMEM, -EAGAIN (no threads), -EMFILE, -EIO.
 */
PNX_NODISCARD int server_start(
        const struct server_opts *opts, struct pnx_error *err, struct server **ret_server);

/* Tells the server that the store's search_timeout was changed. */
void server_set_search_timeout(struct server *server, pnx_ns search_timeout);

/* Stops accepting and waits until the requests under way are answered, or the deadline.  Returns how many are not. */
size_t server_drain(struct server *server, pnx_ns deadline);

/* Drains and ends everything, at most once.  0 or -ETIMEDOUT (P4). */
int server_stop(struct server *server, pnx_ns deadline);

/* Stops without waiting for requests and frees the server; clears *server. */
void server_release(struct server **server);

#endif
