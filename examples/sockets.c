/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sockets.c - connections that are ended while they are in use: one by force, a tenant's all together, the rest by a
 * shutdown.
 *
 * The thread of each connection waits in read().  The row's cleanup calls shutdown(2), after which that read returns:
 * safe while somebody uses the descriptor, which makes the row forceable.  close() would not be: the number might be
 * another file's by the time the thread uses it.  The thread, whose read has returned, closes its descriptor itself.
 */
#include <patinox/patinox.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The server's side of a connection.  Belongs to its thread; the registry may run hang_up() beside it. */
struct connection {
    struct pnx_registry *registry;
    pnx_resource_id row;
    pthread_t thread;
    int fd;
    bool ended_by_registry;
};

static int hang_up(void *arg, const struct pnx_cancel *cancel) {
    const struct connection *connection = arg;
    (void)cancel;
    return shutdown(connection->fd, SHUT_RDWR) == 0 || errno == ENOTCONN ? 0 : -errno;
}

/* Sends back what comes, until the client or the registry ends the connection. */
static void *serve(void *arg) {
    struct connection *connection = arg;
    char buffer[64];
    ssize_t n;
    while ((n = read(connection->fd, buffer, sizeof(buffer))) > 0) {
        if (write(connection->fd, buffer, (size_t)n) != n)
            break;
    }
    /* After this nobody is inside hang_up(), and nobody will be: now the descriptor may be closed. */
    connection->ended_by_registry =
            pnx_registry_remove(connection->registry, connection->row) == -EALREADY;
    close(connection->fd);
    return NULL;
}

/* Starts a connection of a tenant; *ret_fd is the client's side. */
static int connect_to(struct pnx_registry *registry, uint64_t tenant, const char *name,
        struct connection *connection, int *ret_fd) {
    int ends[2];
    int rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) ? -errno : 0;
    if (rc)
        return rc;
    *connection = (struct connection){.registry = registry, .fd = ends[0]};
    rc = pnx_registry_add(registry,
            PNX_RESOURCE(.type = "connection", .name = name, .cleanup = hang_up, .arg = connection,
                    .tag = tenant, .flags = PNX_RESOURCE_FORCEABLE),
            NULL, &connection->row);
    if (rc == 0 && pthread_create(&connection->thread, NULL, serve, connection)) {
        pnx_registry_remove(registry, connection->row);
        rc = -EAGAIN;
    }
    if (rc) {
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    *ret_fd = ends[1];
    return 0;
}

/* Returns whether the server answers; false when it has hung up. */
static bool answers(int fd) {
    char buffer[8];
    return send(fd, "ping", 4, MSG_NOSIGNAL) == 4 && recv(fd, buffer, sizeof(buffer), 0) == 4 &&
           memcmp(buffer, "ping", 4) == 0;
}

static int use(
        struct pnx_registry *registry, const struct connection *connections, const int *fds) {
    int rc = pnx_registry_force(registry, connections[0].row);
    printf("forced the first: %s; it answers: %d\n", pnx_strerror(rc), answers(fds[0]));
    if (rc)
        return rc;

    struct pnx_batch_result result = {.size = sizeof(result)};
    rc = pnx_registry_cleanup_where(
            registry, PNX_FILTER(.type = "connection", .tag = 7), 0, PNX_SEC, &result);
    printf("tenant 7: %zu of %zu ended\n", result.done, result.matched);
    if (rc || result.done != 2 || answers(fds[1]) || answers(fds[2]))
        return rc ? rc : -EIO;

    printf("the last one answers: %d\n", answers(fds[3]));
    return pnx_registry_shutdown(registry, 5 * PNX_SEC, NULL);
}

int main(void) {
    static struct connection connections[4];
    static const uint64_t tenants[4] = {3, 7, 7, 9};
    static const char *const names[4] = {"ada", "grace", "barbara", "frances"};
    int fds[4];
    struct pnx_registry *registry = NULL;
    if (pnx_registry_create(PNX_REGISTRY_OPTS(.name = "connections"), NULL, &registry))
        return 1;
    for (int i = 0; i < 4; i++) {
        if (connect_to(registry, tenants[i], names[i], &connections[i], &fds[i]) ||
                !answers(fds[i]))
            return 1;
    }
    int rc = use(registry, connections, fds);
    printf("all: %s\n", pnx_strerror(rc));
    int ended = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(connections[i].thread, NULL);
        ended += connections[i].ended_by_registry;
        close(fds[i]);
    }
    pnx_registry_release(&registry);
    return rc == 0 && ended == 4 ? 0 : 1;
}
