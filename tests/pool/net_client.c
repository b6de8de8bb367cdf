/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_client.c - how a pool treats connections to the echo server (net.h): a manager as a careful user writes one.
 *
 * Every call of the system that could wait is made on a non-blocking socket and waited for in ppoll() until the
 * operation's deadline.
 */
#include "pool/net.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static void note_most(int64_t *most, int64_t value) {
    int64_t seen = __atomic_load_n(most, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(
                                   most, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

/* Waits for events of fd; 0 or -ETIMEDOUT. */
static int wait_for(int fd, short events, pnx_ns deadline) {
    for (;;) {
        pnx_ns left = deadline == PNX_NEVER ? 60 * PNX_SEC : deadline - pnx_now();
        if (left < 0)
            left = 0;
        struct timespec ts = {(time_t)(left / PNX_SEC), (long)(left % PNX_SEC)};
        struct pollfd pollfd = {.fd = fd, .events = events};
        int n = ppoll(&pollfd, 1, &ts, NULL);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0 && left == 0)
            return -ETIMEDOUT;
    }
}

int net_echo(struct net_conn *conn, pnx_ns deadline) {
    uint8_t sent = ++conn->turn, got[2];
    if (send(conn->fd, &sent, 1, MSG_NOSIGNAL) != 1)
        return -errno;
    for (;;) {
        ssize_t n = recv(conn->fd, got, sizeof(got), 0);
        if (n > 0)
            return n == 1 && got[0] == sent ? 0 : -EPROTO;
        if (n == 0)
            return -EPIPE;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        int rc = wait_for(conn->fd, POLLIN, deadline);
        if (rc)
            return rc;
    }
}

static int reach(struct net_conn *conn, pnx_ns deadline) {
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(conn->client->port),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, error = 0;
    socklen_t size = sizeof(error);
    if (setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
        return -errno;
    if (connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return -errno;
    int rc = wait_for(conn->fd, POLLOUT, deadline);
    if (rc)
        return rc;
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        return -errno;
    return -error;
}

static void end_socket(struct net_conn *conn) {
    if (conn->fd >= 0)
        close(conn->fd);
    __atomic_sub_fetch(&conn->client->open, 1, __ATOMIC_RELAXED);
    free(conn);
}

static int open_socket(struct net_client *client, pnx_ns deadline, struct net_conn **ret_conn) {
    struct net_conn *conn = calloc(1, sizeof(*conn));
    if (!conn)
        return -ENOMEM;
    conn->client = client;
    note_most(&client->most, __atomic_add_fetch(&client->open, 1, __ATOMIC_RELAXED));
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = conn->fd >= 0 ? reach(conn, deadline) : -errno;
    if (!rc)
        rc = net_echo(conn, deadline); /* hello: the kernel of a dead server accepts, too */
    if (rc)
        end_socket(conn);
    else
        *ret_conn = conn;
    return rc;
}

static void note_late(struct net_client *client, pnx_ns deadline) {
    if (deadline != PNX_NEVER)
        note_most(&client->late, pnx_now() - deadline);
}

static int connect_it(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    struct net_client *client = ctx;
    struct net_conn *conn = NULL;
    __atomic_add_fetch(&client->attempts, 1, __ATOMIC_RELAXED);
    if (__atomic_fetch_add(&client->connecting, 1, __ATOMIC_RELAXED) > 0)
        __atomic_add_fetch(&client->overlaps, 1, __ATOMIC_RELAXED);
    int rc = open_socket(client, deadline, &conn);
    __atomic_sub_fetch(&client->connecting, 1, __ATOMIC_RELAXED);
    note_late(client, deadline);
    if (rc) {
        char why[96];
        __atomic_add_fetch(&client->failures, 1, __ATOMIC_RELAXED);
        snprintf(err->message, sizeof(err->message), "127.0.0.1:%u: %s", client->port,
                strerror_r(-rc, why, sizeof(why)));
        return rc;
    }
    *ret_resource = conn;
    return 0;
}

static int check_it(void *ctx, void *resource, pnx_ns deadline) {
    int rc = net_echo(resource, deadline);
    note_late(ctx, deadline);
    return rc;
}

static void close_it(void *ctx, void *resource, pnx_ns deadline) {
    struct net_conn *conn = resource;
    CHECK_MSG(__atomic_load_n(&conn->owner, __ATOMIC_RELAXED) == 0, "closed while it is held");
    end_socket(conn);
    note_late(ctx, deadline);
}

/* In a forked child: close(2), and nothing else. */
static void abandon_it(void *ctx, void *resource) {
    struct net_client *client = ctx;
    struct net_conn *conn = resource;
    close(conn->fd);
    client->abandoned++;
}

const struct pnx_pool_manager net_manager = {
        .size = sizeof(net_manager),
        .connect = connect_it,
        .check = check_it,
        .close = close_it,
        .abandon = abandon_it,
};
