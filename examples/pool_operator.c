/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator does with a pool in use: warm it up, put connections in and take them out, pause it for a
 * maintenance, send it to another server, and see who holds what.
 */
#include <patinox/pool.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* A connection is one end of a socket pair. */
struct connection {
    int fd;
    int peer;
};

static struct connection *dial(void) {
    struct connection *connection = malloc(sizeof(*connection));
    int fds[2];
    if (!connection || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) {
        free(connection);
        return NULL;
    }
    *connection = (struct connection){fds[0], fds[1]};
    return connection;
}

static int connect_it(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    *ret_resource = dial();
    return *ret_resource ? 0 : -ENOMEM;
}

/* Costs one system call, made by the caller who wants the connection. */
static int peek_it(void *ctx, void *resource) {
    (void)ctx;
    return pnx_pool_peek_fd(((struct connection *)resource)->fd);
}

static void interrupt_it(void *ctx, void *resource) {
    (void)ctx;
    shutdown(((struct connection *)resource)->fd, SHUT_RDWR);
}

static void close_it(void *ctx, void *resource, pnx_ns deadline) {
    struct connection *connection = resource;
    (void)ctx;
    (void)deadline;
    close(connection->fd);
    close(connection->peer);
    free(connection);
}

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager),
        .connect = connect_it,
        .peek = peek_it,
        .interrupt = interrupt_it,
        .close = close_it,
};

static int print(void *ctx, const char *text, size_t n) {
    (void)ctx;
    return fwrite(text, 1, n, stdout) == n ? 0 : -EIO;
}

static bool is_old(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for) {
    (void)resource;
    (void)unused_for;
    return age > *(const pnx_ns *)ctx;
}

#define MUST(call) \
    do { \
        int rc_ = (call); \
        if (rc_ != 0) { \
            fprintf(stderr, "%s: %s\n", #call, pnx_errname(rc_)); \
            return 1; \
        } \
    } while (0)

static int maintain(struct pnx_pool *pool) {
    struct pnx_error err;
    MUST(pnx_pool_warm_up(pool, 2, PNX_SEC, &err)); /* before the first customers come */

    /* A connection that was made elsewhere joins the pool, and one leaves it. */
    struct connection *mine = dial();
    if (!mine || pnx_pool_adopt(pool, mine, &err) != 0)
        return 1;
    struct pnx_lease lease = {0};
    MUST(pnx_pool_acquire_with(pool, PNX_SEC,
            PNX_ACQUIRE_OPTS(.tag = 4711, .priority = PNX_PRIORITY_HIGH), &err, &lease));
    MUST(pnx_pool_dump(pool, print, NULL)); /* says who has what, and since when */
    struct connection *taken = pnx_lease_detach(&lease);
    close_it(NULL, taken, 0);

    /* The server is about to be restarted: nobody gets a connection, and all come home. */
    MUST(pnx_pool_pause(pool, PNX_SEC));
    MUST(pnx_pool_reset(pool, PNX_POOL_RESET_IDLE | PNX_POOL_RESET_INTERRUPT));
    MUST(pnx_pool_resume(pool));

    /* A holder finds that it talks to a server that has become read-only. */
    MUST(pnx_pool_acquire(pool, PNX_SEC, &err, &lease));
    pnx_lease_stale_all(&lease);

    pnx_ns day = 24 * 3600 * PNX_SEC;
    printf("%d are older than a day\n", pnx_pool_evict(pool, is_old, &day));
    return 0;
}

int main(void) {
    struct pnx_pool_opts opts = {.size = sizeof(opts), .name = "db", .site = PNX_SITE, .max = 8};
    struct pnx_pool *pool = NULL;
    struct pnx_error err;
    if (pnx_pool_opts_preset(&opts, "service", &err) != 0 ||
            pnx_pool_create(&manager, &opts, &err, &pool) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int rc = maintain(pool);
    int left = pnx_pool_close(pool, 5 * PNX_SEC);
    pnx_pool_release(&pool);
    return rc || left != 0;
}
