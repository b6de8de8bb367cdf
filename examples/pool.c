/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of pretended connections: borrow, give back, discard, resize, close.
 *
 * The "server" is a counter and a switch; a real manager would open sockets (see patinox/sqlite.h for one that
 * ships with the library).
 */
#include <patinox/pool.h>

#include <stdio.h>
#include <stdlib.h>

struct server {
    bool up; /* changed only while the pool has nothing to do */
};

struct connection {
    bool in_transaction;
};

static int server_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    const struct server *server = ctx;
    (void)deadline; /* hand it to your driver's connect timeout */
    if (!server->up) {
        /* This text reaches the callers who wait in vain. */
        snprintf(err->message, sizeof(err->message), "the server is down");
        return -EIO;
    }
    struct connection *connection = calloc(1, sizeof(*connection));
    if (!connection)
        return -ENOMEM;
    *ret_resource = connection;
    return 0;
}

static int server_check(void *ctx, void *resource, pnx_ns deadline) {
    (void)resource;
    (void)deadline;
    return ((const struct server *)ctx)->up ? 0 : -EIO;
}

static int server_reset(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)deadline;
    ((struct connection *)resource)->in_transaction = false; /* "ROLLBACK" */
    return 0;
}

static void server_close(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)deadline;
    free(resource);
}

static void server_abandon(void *ctx, void *resource) {
    (void)ctx;
    free(resource); /* in a forked child: close(2) the socket, but say nothing on it */
}

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager),
        .connect = server_connect,
        .check = server_check,
        .reset = server_reset,
        .close = server_close,
        .abandon = server_abandon,
};

static int print(void *ctx, const char *text, size_t n) {
    (void)ctx;
    return fwrite(text, 1, n, stdout) == n ? 0 : -EIO;
}

/* Each exit of this function gives the connection back. */
static int work(struct pnx_pool *pool) {
    struct pnx_error err;
    PNX_AUTO_LEASE lease = {0};
    int rc = pnx_pool_acquire(pool, PNX_TIMEOUT_DEFAULT, &err, &lease);
    if (rc) {
        fprintf(stderr, "acquire: %s\n", err.message);
        return rc;
    }
    struct connection *connection = pnx_lease_resource(&lease);
    connection->in_transaction = true;
    return 0;
}

int main(void) {
    struct server server = {.up = true};
    struct pnx_error err;

    /* Options from a configuration file, by name and text. */
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.name = "example", .ctx = &server);
    if (pnx_pool_opts_set(&opts, "max", "2", &err) ||
            pnx_pool_opts_set(&opts, "idle_ns", "5min", &err)) {
        fprintf(stderr, "options: %s\n", err.message);
        return 1;
    }
    if (pnx_pool_opts_set(&opts, "max", "many", &err))
        printf("refused: %s\n", err.message);

    struct pnx_pool *pool;
    if (pnx_pool_create(&manager, &opts, &err, &pool)) {
        fprintf(stderr, "create: %s\n", err.message);
        return 1;
    }
    if (work(pool))
        return 1;

    /* Both connections out: a try finds nothing and says why. */
    struct pnx_lease first = {0}, second = {0}, third = {0};
    if (pnx_pool_acquire(pool, PNX_SEC, &err, &first) ||
            pnx_pool_acquire(pool, PNX_SEC, &err, &second))
        return 1;
    if (pnx_pool_acquire(pool, 0, &err, &third) == -ETIMEDOUT)
        printf("%s: %s\n", err.phase, err.message);

    /* One broke in our hands: it is closed, and replaced when somebody needs it. */
    pnx_lease_discard(&second);
    pnx_lease_release(&first);
    if (pnx_pool_resize(pool, 4, &err)) {
        fprintf(stderr, "resize: %s\n", err.message);
        return 1;
    }
    if (work(pool))
        return 1;

    /* Event loops move the timers themselves; a pool with threads does not need it. */
    pnx_pool_tick(pool, pnx_now());
    if (pnx_pool_dump(pool, print, NULL))
        return 1;

    int left = pnx_pool_close(pool, 5 * PNX_SEC);
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    if (pnx_pool_read_stats(pool, &stats))
        return 1;
    printf("%d still out; %llu leases of %llu connections\n", left,
            (unsigned long long)stats.acquires, (unsigned long long)stats.connects);
    pnx_pool_release(&pool);
    return left != 0;
}
