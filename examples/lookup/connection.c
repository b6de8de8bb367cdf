/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connection.c - the pool's connections: SQLite's, each with the generation that it belongs to.
 *
 *   P1  A connection keeps its generation, texts and source, until it is closed.
 */
#include "store_private.h"

#include <errno.h>
#include <stdlib.h>

static struct lookup_generation *take_generation(struct lookup_store *store) {
    pthread_mutex_lock(&store->mutex);
    struct lookup_generation *generation = lookup_generation_ref(store->generation);
    pthread_mutex_unlock(&store->mutex);
    return generation;
}

static void drop(struct lookup_connection *connection) {
    lookup_generation_release(&connection->generation);
    free(connection);
}

static int connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    struct lookup_connection *connection = calloc(1, sizeof(*connection));
    if (!connection)
        return lookup_fail(err, -ENOMEM, "connect", "no memory");
    connection->generation = take_generation(ctx);
    void *conn = NULL;
    int rc = pnx_sqlite_manager()->connect(connection->generation->source, deadline, err, &conn);
    if (rc) {
        drop(connection);
        return rc;
    }
    connection->conn = conn;
    *ret_resource = connection;
    return 0;
}

static int check(void *ctx, void *resource, pnx_ns deadline) {
    const struct lookup_connection *connection = resource;
    (void)ctx;
    return pnx_sqlite_manager()->check(connection->generation->source, connection->conn, deadline);
}

static int reset(void *ctx, void *resource, pnx_ns deadline) {
    const struct lookup_connection *connection = resource;
    (void)ctx;
    return pnx_sqlite_manager()->reset(connection->generation->source, connection->conn, deadline);
}

static void close_connection(void *ctx, void *resource, pnx_ns deadline) {
    struct lookup_connection *connection = resource;
    (void)ctx;
    pnx_sqlite_manager()->close(connection->generation->source, connection->conn, deadline);
    drop(connection);
}

static void abandon(void *ctx, void *resource) {
    struct lookup_connection *connection = resource;
    (void)ctx;
    pnx_sqlite_manager()->abandon(connection->generation->source, connection->conn);
    drop(connection);
}

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager),
        .connect = connect,
        .check = check,
        .reset = reset,
        .close = close_connection,
        .abandon = abandon,
};

const struct pnx_pool_manager *lookup_connection_manager(void) {
    return &manager;
}
