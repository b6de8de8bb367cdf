/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.c - see server.h.  This file has the life of the server and of its connections; what is asked and
 * answered is in routes.c.
 *
 * We accept ourselves and hand connections to libmicrohttpd, rather than let it accept: its quiescing may race
 * with its own threads (0.9.75 aborts the process then), and the limit on connections is ours to explain.
 */
#include "server_internal.h"

#include "log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define TICK_MS          250
#define RELEASE_WAIT     (5 * PNX_SEC) /* for idle workers to end, when a start has failed */
#define LISTEN_BACKLOG   512
#define CONNECTION_BYTES 16384 /* for a request's head, twice what we take, and the answer's */
#define FDS_OTHER        256u  /* descriptors for the database, mappings, files */

static int fail(struct pnx_error *err, int code, const char *phase, const char *format, ...)
        PNX_PRINTF(4, 5);
static int fail(struct pnx_error *err, int code, const char *phase, const char *format, ...) {
    va_list args;
    *err = (struct pnx_error){.code = code, .phase = phase};
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    return code;
}

/* ---- binding ---- */

static void make_url(int fd, char *ret_url) {
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    char host[NI_MAXHOST] = "localhost", port[NI_MAXSERV] = "0";
    if (getsockname(fd, (struct sockaddr *)&address, &size) == 0)
        (void)getnameinfo((struct sockaddr *)&address, size, host, 256, port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    bool v6 = strchr(host, ':') != NULL;
    snprintf(ret_url, SERVER_URL_SIZE, "http://%s%.255s%s:%.31s/", v6 ? "[" : "", host,
            v6 ? "]" : "", port);
}

int server_bind(const char *host, uint32_t port, struct pnx_error *err, char *ret_url) {
    struct addrinfo hints = {
            .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char service[8];
    snprintf(service, sizeof(service), "%u", port);
    int r = getaddrinfo(host, service, &hints, &found);
    if (r != 0)
        return fail(err, -EINVAL, "bind", "--host %.128s: %s", host, gai_strerror(r));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    int error = 0;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
            bind(fd, found->ai_addr, found->ai_addrlen) != 0)
        error = errno;
    freeaddrinfo(found);
    if (error == 0) {
        make_url(fd, ret_url);
        return fd;
    }
    if (fd >= 0)
        close(fd);
    if (error == EADDRINUSE)
        return fail(err, -error, "bind",
                "port %u on %.128s is in use by another program; --port N takes another one, "
                "--port 0 any free one",
                port, host);
    return fail(err, -error, "bind", "cannot serve on port %u of %.128s: %s", port, host,
            strerror(error));
}

/* ---- connections ---- */

static void on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
        enum MHD_ConnectionNotificationCode what) {
    struct server *server = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct connection *connection = info ? calloc(1, sizeof(*connection)) : NULL;
        *socket_context = connection; /* without one, routes_request() closes it */
        if (!connection)
            return;
        connection->server = server;
        connection->fd = info->connect_fd;
        connection->deadline = pnx_now() + server->client_timeout;
        metrics_add(server->metrics.connections, 1);
        pthread_mutex_lock(&server->mutex);
        connection->next = server->connections;
        if (connection->next)
            connection->next->prev = connection;
        server->connections = connection;
        pthread_mutex_unlock(&server->mutex);
        return;
    }
    struct connection *connection = *socket_context;
    *socket_context = NULL;
    if (!connection)
        return;
    pthread_mutex_lock(&server->mutex);
    if (connection->next)
        connection->next->prev = connection->prev;
    if (connection->prev)
        connection->prev->next = connection->next;
    else
        server->connections = connection->next;
    pthread_mutex_unlock(&server->mutex);
    metrics_add(server->metrics.connections, -1);
    free(connection);
}

/*
 * Whether a client that we owe nothing has left.  libmicrohttpd 0.9.75 overlooks an end that comes along with the
 * last bytes, since epoll tells of both at once; the connection would stay until its deadline.  Looking twice lets
 * a request pass that was complete and is being taken up just now.
 */
static bool has_left(struct connection *c) {
    char byte;
    bool waiting = !__atomic_load_n(&c->active, __ATOMIC_RELAXED);
    bool ended = waiting && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
    uint32_t requests = __atomic_load_n(&c->requests, __ATOMIC_RELAXED);
    bool twice = ended && c->ended && c->ended_at == requests;
    c->ended = ended;
    c->ended_at = requests;
    return twice;
}

/* Shuts down who has left or is past its deadline; libmicrohttpd then sees the end of it, and closes it. */
static void drop_slow(struct server *server, pnx_ns now) {
    unsigned dropped = 0;
    pthread_mutex_lock(&server->mutex);
    for (struct connection *c = server->connections; c; c = c->next) {
        if (c->dropped)
            continue;
        bool slow = __atomic_load_n(&c->deadline, __ATOMIC_RELAXED) <= now;
        dropped += slow;
        if (slow || has_left(c)) {
            c->dropped = true;
            (void)shutdown(c->fd, SHUT_RDWR); /* does not block; the descriptor is open (see fd) */
        }
    }
    pthread_mutex_unlock(&server->mutex);
    if (dropped > 0) {
        metrics_add(server->metrics.connections_dropped, dropped);
        log_line(PNX_LOG_DEBUG, "dropped %u slow connections", dropped);
    }
}

/* Tells a client that there are too many, as far as that works without waiting for it. */
static void refuse(int fd) {
    static const char body[] =
            "{\"error\":\"unavailable\",\"message\":\"too many clients are connected\"}\n";
    char text[4096];
    (void)!recv(fd, text, sizeof(text), MSG_DONTWAIT); /* unread bytes would reset it */
    int n = snprintf(text, sizeof(text),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: " REPLY_JSON "\r\n"
            "Content-Length: %zu\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
            sizeof(body) - 1, body);
    (void)!send(fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)shutdown(fd, SHUT_WR);
    close(fd);
}

/* Accepts what there is.  Returns false when descriptors or memory ran out: try again at the next tick. */
static bool accept_all(struct server *server) {
    for (;;) {
        struct sockaddr_storage address;
        socklen_t size = sizeof(address);
        int fd = accept4(server->listen_fd, (struct sockaddr *)&address, &size,
                SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            return errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS;
        }
        if (metrics_get(server->metrics.connections) >= server->max_connections) {
            metrics_add(server->metrics.connections_refused, 1);
            refuse(fd);
            continue;
        }
        int on = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        metrics_add(server->metrics.connections_accepted, 1);
        /* Closes the descriptor when it fails. */
        if (MHD_add_connection(server->daemon, fd, (struct sockaddr *)&address, size) != MHD_YES)
            metrics_add(server->metrics.connections_refused, 1);
    }
}

static void *accept_main(void *arg) {
    struct server *server = arg;
    bool pause = false;
    for (;;) {
        struct pollfd fds[2] = {{.fd = server->wake_fd, .events = POLLIN},
                {.fd = pause ? -1 : server->listen_fd, .events = POLLIN}};
        bool idle = !pause && metrics_get(server->metrics.connections) == 0;
        (void)poll(fds, 2, idle ? 4 * TICK_MS : TICK_MS);
        if (fds[0].revents)
            return NULL;
        pause = fds[1].revents && !accept_all(server);
        if (pause)
            log_line(PNX_LOG_WARNING, "cannot accept connections now: %s", strerror(errno));
        pnx_ns now = pnx_now();
        drop_slow(server, now);
        jobs_tick(server->jobs, now);
    }
}

/* ---- starting ---- */

/* Keeps the encoded form: we decode ourselves, so that %00 and %2F cannot pretend to be something else. */
static size_t keep_encoded(void *cls, struct MHD_Connection *mhd, char *text) {
    (void)cls;
    (void)mhd;
    return strlen(text);
}

static void *on_url(void *cls, const char *url, struct MHD_Connection *mhd) {
    (void)cls;
    const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *connection = info ? info->socket_context : NULL;
    if (connection)
        connection->url_size = strlen(url);
    return NULL;
}

static void on_mhd_log(void *cls, const char *format, va_list args) PNX_PRINTF(2, 0);
static void on_mhd_log(void *cls, const char *format, va_list args) {
    (void)cls;
    if (!log_wanted(PNX_LOG_DEBUG))
        return;
    char message[512];
    vsnprintf(message, sizeof(message), format, args);
    message[strcspn(message, "\n")] = '\0';
    log_line(PNX_LOG_DEBUG, "libmicrohttpd: %s", message);
}

/* Raises the limit on descriptors as far as it goes; lowers the limit on connections to what is possible. */
static void fit_descriptors(struct server *server) {
    struct rlimit limit;
    rlim_t wanted = (rlim_t)server->max_connections + FDS_OTHER;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    rlim_t possible =
            limit.rlim_cur > 2 * FDS_OTHER ? limit.rlim_cur - FDS_OTHER : limit.rlim_cur / 2;
    server->max_connections = (uint32_t)possible;
    log_line(PNX_LOG_WARNING, "only %u connections at once: this process may open %llu files",
            server->max_connections, (unsigned long long)limit.rlim_cur);
}

/*
 * The limit that libmicrohttpd is told: one that cannot be reached, for a connection takes a descriptor and each
 * thread has its share of the limit.  Ours is kept by accept_all().  In version 0.9.75 a thread that meets its limit
 * keeps a lock for good, and serves nobody any more.
 */
static unsigned unreachable_limit(unsigned threads) {
    struct rlimit descriptors;
    if (getrlimit(RLIMIT_NOFILE, &descriptors) != 0 || descriptors.rlim_cur >= UINT_MAX / threads)
        return UINT_MAX / threads * threads;
    return ((unsigned)descriptors.rlim_cur + 1) * threads;
}

static int start_daemon(struct server *server, struct pnx_error *err) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned threads = cpus < 2 ? 2 : cpus > 8 ? 8 : (unsigned)cpus;
    server->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_INTERNAL_POLLING_THREAD |
                                              MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC |
                                              MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG,
            0, NULL, NULL, routes_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL,
            MHD_OPTION_THREAD_POOL_SIZE, threads, MHD_OPTION_CONNECTION_LIMIT,
            unreachable_limit(threads), MHD_OPTION_CONNECTION_TIMEOUT,
            (unsigned)(server->client_timeout / PNX_SEC), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)CONNECTION_BYTES, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
            MHD_OPTION_NOTIFY_COMPLETED, routes_completed, server, MHD_OPTION_URI_LOG_CALLBACK,
            on_url, server, MHD_OPTION_UNESCAPE_CALLBACK, keep_encoded, NULL, MHD_OPTION_END);
    return server->daemon ? 0 : fail(err, -EAGAIN, "start", "cannot start the HTTP threads");
}

static int make_constant(struct server *server, uint32_t size, struct pnx_error *err) {
    if (size == 0)
        return 0;
    char *body = malloc(size);
    if (!body)
        return fail(err, -ENOMEM, "start", "no memory for --bench-constant %u", size);
    memset(body, ' ', size);
    struct reply reply = reply_text(200, REPLY_JSON, body, size);
    reply_header(&reply, "Cache-Control", "no-store");
    server->constant = reply.response;
    return reply.response ? 0 : fail(err, -ENOMEM, "start", "no memory for --bench-constant");
}

static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    return server_stop(arg, pnx_cancel_deadline(cancel));
}

/* Two programs may both have bound the port while neither listened: the second to listen learns it here. */
static int start_listening(int fd, struct pnx_error *err) {
    char url[SERVER_URL_SIZE];
    if (listen(fd, LISTEN_BACKLOG) == 0)
        return 0;
    int error = errno;
    make_url(fd, url);
    return fail(err, -error, "listen", "cannot serve at %s: %s; --port N takes another port", url,
            error == EADDRINUSE ? "another program was first" : strerror(error));
}

static int start_parts(
        struct server *server, const struct server_opts *opts, struct pnx_error *err) {
    int r = make_constant(server, opts->bench_constant, err);
    if (r < 0)
        return r;
    const struct jobs_opts jobs = {.workers = SERVER_WORKERS,
            .capacity = SERVER_JOBS_MAX,
            .queued = &server->metrics.queued};
    r = jobs_start(&jobs, &server->jobs);
    if (r < 0)
        return fail(err, r, "start", "cannot start worker threads: %s", strerror(-r));
    r = start_daemon(server, err);
    if (r < 0)
        return r;
    r = start_listening(opts->listen_fd, err);
    if (r < 0)
        return r;
    r = pthread_create(&server->acceptor, NULL, accept_main, server);
    if (r != 0)
        return fail(err, -r, "start", "cannot start a thread: %s", strerror(r));
    server->accepting = true;
    return pnx_registry_add(server->registry,
            PNX_RESOURCE(.type = "http server", .name = "lookup", .cleanup = cleanup, .arg = server,
                    .bytes = sizeof(*server), .flags = PNX_RESOURCE_LONG_LIVED),
            err, &server->row);
}

int server_start(
        const struct server_opts *opts, struct pnx_error *err, struct server **ret_server) {
    struct server *server = NULL;
    /* The counters want cache lines of their own. */
    if (posix_memalign((void **)&server, 64, sizeof(*server)) != 0) {
        close(opts->listen_fd);
        return fail(err, -ENOMEM, "start", "no memory");
    }
    memset(server, 0, sizeof(*server));
    server->store = opts->store;
    server->registry = opts->registry ? opts->registry : pnx_registry_default();
    server->config = opts->config;
    server->stats = opts->stats ? opts->stats : pnx_stats_default();
    server->max_connections = opts->connections;
    server->client_timeout = (pnx_ns)opts->client_timeout_s * PNX_SEC;
    server->search_timeout = opts->search_timeout;
    server->started = pnx_now();
    server->listen_fd = opts->listen_fd;
    pthread_mutex_init(&server->mutex, NULL);
    pthread_mutex_init(&server->stop_mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    fit_descriptors(server);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = server->wake_fd < 0 ? fail(err, -errno, "start", "eventfd: %s", strerror(errno))
                                : start_parts(server, opts, err);
    if (r < 0) {
        server_release(&server);
        return r;
    }
    *ret_server = server;
    return 0;
}

void server_set_search_timeout(struct server *server, pnx_ns search_timeout) {
    __atomic_store_n(&server->search_timeout, search_timeout, __ATOMIC_RELAXED);
}

/* ---- ending ---- */

static void stop_accepting_locked(struct server *server) {
    if (server->accepting) {
        const uint64_t one = 1;
        (void)!write(server->wake_fd, &one, sizeof(one)); /* fails only when it is full */
        pthread_join(server->acceptor, NULL);
        server->accepting = false;
    }
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    server->listen_fd = -1;
}

static size_t drain_locked(struct server *server, pnx_ns deadline) {
    stop_accepting_locked(server);
    /* Pairs with the load in routes_completed(): either it sees this, or we see its count. */
    __atomic_store_n(&server->draining, true, __ATOMIC_SEQ_CST);
    struct timespec at = {.tv_sec = (time_t)(deadline / PNX_SEC), .tv_nsec = deadline % PNX_SEC};
    pthread_mutex_lock(&server->mutex);
    int r = 0;
    uint64_t active;
    while ((active = __atomic_load_n(&server->metrics.active, __ATOMIC_SEQ_CST)) > 0 && r == 0) {
        /* The acceptor is gone: time is kept here. */
        struct timespec tick;
        clock_gettime(CLOCK_MONOTONIC, &tick);
        tick.tv_nsec += TICK_MS * 1000000L;
        tick.tv_sec += tick.tv_nsec / 1000000000L;
        tick.tv_nsec %= 1000000000L;
        bool last =
                at.tv_sec < tick.tv_sec || (at.tv_sec == tick.tv_sec && at.tv_nsec <= tick.tv_nsec);
        r = pthread_cond_timedwait(&server->idle, &server->mutex, last ? &at : &tick);
        if (r == ETIMEDOUT && !last) {
            pthread_mutex_unlock(&server->mutex);
            pnx_ns now = pnx_now();
            drop_slow(server, now);
            jobs_tick(server->jobs, now);
            pthread_mutex_lock(&server->mutex);
            r = 0;
        }
    }
    pthread_mutex_unlock(&server->mutex);
    return (size_t)active;
}

size_t server_drain(struct server *server, pnx_ns deadline) {
    pthread_mutex_lock(&server->stop_mutex);
    size_t active = server->stopped ? 0 : drain_locked(server, deadline);
    pthread_mutex_unlock(&server->stop_mutex);
    return active;
}

static int stop_locked(struct server *server, pnx_ns deadline) {
    stop_accepting_locked(server);
    __atomic_store_n(&server->draining, true, __ATOMIC_SEQ_CST);
    /* From here on no new job is taken, and those that there are have woken their connections: nothing is
     * parked when libmicrohttpd ends, as it demands. */
    int r = server->jobs ? jobs_stop(server->jobs, deadline) : 0;
    if (server->daemon)
        MHD_stop_daemon(server->daemon);
    server->daemon = NULL;
    if (server->constant)
        MHD_destroy_response(server->constant);
    server->constant = NULL;
    if (r == 0)
        jobs_release(&server->jobs);
    server->stopped = true;
    server->stop_result = r;
    return r;
}

int server_stop(struct server *server, pnx_ns deadline) {
    pthread_mutex_lock(&server->stop_mutex);
    if (!server->stopped) {
        drain_locked(server, deadline);
        (void)stop_locked(server, deadline);
    }
    int r = server->stop_result;
    pthread_mutex_unlock(&server->stop_mutex);
    return r;
}

void server_release(struct server **server_ptr) {
    struct server *server = *server_ptr;
    *server_ptr = NULL;
    if (!server)
        return;
    if (server->row)
        (void)pnx_registry_remove(server->registry, server->row);
    pthread_mutex_lock(&server->stop_mutex);
    if (!server->stopped)
        (void)stop_locked(server, pnx_now() + RELEASE_WAIT);
    int r = server->stop_result;
    pthread_mutex_unlock(&server->stop_mutex);
    if (r < 0)
        return; /* a worker is stuck in the store and will come back to this memory */
    if (server->wake_fd >= 0)
        close(server->wake_fd);
    pthread_mutex_destroy(&server->mutex);
    pthread_mutex_destroy(&server->stop_mutex);
    pthread_cond_destroy(&server->idle);
    free(server);
}
