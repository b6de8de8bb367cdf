/* SPDX-License-Identifier: Apache-2.0 */
/* net.c - processes that a test commands, and the echo server, which is one (net.h). */
#include "pool/net.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- processes ---- */

void net_fork(struct net_process *process, void (*main)(int fd, void *ctx), void *ctx) {
    int ends[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        if (getppid() == parent)
            main(ends[1], ctx);
        _exit(0);
    }
    close(ends[1]);
    *process = (struct net_process){.pid = pid, .fd = ends[0]};
}

void net_command(const struct net_process *process, const struct net_command *command) {
    int rc = 0;
    CHECK_EQ(send(process->fd, command, sizeof(*command), MSG_NOSIGNAL), sizeof(*command));
    CHECK_EQ(recv(process->fd, &rc, sizeof(rc), 0), sizeof(rc));
    CHECK_MSG(rc == 0, "command %d: %s", command->what, strerror(-rc));
}

void net_kill(struct net_process *process) {
    if (process->pid == 0)
        return;
    kill(process->pid, SIGKILL);
    while (waitpid(process->pid, NULL, 0) < 0)
        CHECK(errno == EINTR);
    process->pid = 0;
}

void net_end(struct net_process *process) {
    net_kill(process);
    close(process->fd);
}

bool net_receive(int fd, struct net_command *ret_command) {
    return recv(fd, ret_command, sizeof(*ret_command), 0) == (ssize_t)sizeof(*ret_command);
}

void net_answer(int fd, int rc) {
    if (send(fd, &rc, sizeof(rc), MSG_NOSIGNAL) != (ssize_t)sizeof(rc))
        _exit(1);
}

/* ---- ports and counts ---- */

static int bound(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(port),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
            bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    int rc = -errno;
    close(fd);
    return rc;
}

/*
 * Bound and never listening: others with SO_REUSEADDR may listen there, and no connect is given the port as its own,
 * which could else meet itself (a simultaneous open) while nobody listens.
 */
int net_reserve(uint16_t *ret_port) {
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    int fd = bound(0);
    CHECK_MSG(fd >= 0, "bind: %s", strerror(-fd));
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    *ret_port = ntohs(address.sin_port);
    return fd;
}

int net_listen(uint16_t port, int backlog) {
    int fd = bound(port);
    if (fd < 0 || listen(fd, backlog) == 0)
        return fd;
    int rc = -errno;
    close(fd);
    return rc;
}

struct net_counts *net_share_counts(void) {
    void *p = mmap(NULL, sizeof(struct net_counts), PROT_READ | PROT_WRITE,
            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

/* Written by one process only. */
void net_count_open(struct net_counts *counts, int64_t by) {
    int64_t open = __atomic_add_fetch(&counts->open, by, __ATOMIC_RELAXED);
    if (by > 0)
        __atomic_add_fetch(&counts->accepted, by, __ATOMIC_RELAXED);
    if (open > counts->most)
        __atomic_store_n(&counts->most, open, __ATOMIC_RELAXED);
}

int64_t net_read(const int64_t *count) {
    return __atomic_load_n(count, __ATOMIC_RELAXED);
}

double net_cpu_s(const struct net_process *process) {
    clockid_t clock;
    struct timespec used;
    if (process->pid == 0 || clock_getcpuclockid(process->pid, &clock) != 0 ||
            clock_gettime(clock, &used) != 0)
        return 0;
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* ---- the server's side ---- */

#define EVENTS 4096 /* more than a server has connections: one wait tells of all that are ready */

struct serving {
    int command, listener, epoll;
    struct net_counts *counts;
    struct epoll_event events[EVENTS];
};

static void watch(struct serving *serving, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(serving->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        _exit(1);
}

/* Answers all that has come; when the end has come after it, that, too. */
static void echo(struct serving *serving, int fd) {
    char bytes[512];
    for (;;) {
        ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            break;
        /* First, so that whoever has the answer finds it counted. */
        __atomic_add_fetch(&serving->counts->bytes, n, __ATOMIC_RELAXED);
        if (send(fd, bytes, (size_t)n, MSG_NOSIGNAL) != n)
            break;
    }
    net_count_open(serving->counts, -1);
    close(fd);
}

/* Serves whoever is ready; true when somebody comes. */
static bool serve_ready(struct serving *serving, int timeout_ms) {
    int n = epoll_wait(serving->epoll, serving->events, EVENTS, timeout_ms);
    bool coming = false;
    for (int i = 0; i < n; i++) {
        int fd = serving->events[i].data.fd;
        if (fd == serving->command)
            _exit(0); /* the test has ended: nothing else is said after the start */
        if (fd == serving->listener)
            coming = true;
        else
            echo(serving, fd);
    }
    return coming;
}

static void welcome(struct serving *serving) {
    int on = 1;
    int fd = accept4(serving->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    serve_ready(serving, 0); /* N1: what ended before this one came is counted out first */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    net_count_open(serving->counts, 1);
    watch(serving, fd);
}

static void server_main(int fd, void *ctx) {
    static struct serving serving;
    struct net_server *server = ctx;
    struct net_command command;
    if (!net_receive(fd, &command))
        return;
    serving.command = fd;
    serving.counts = server->counts;
    serving.listener = net_listen(server->port, SOMAXCONN);
    serving.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (serving.listener < 0 || serving.epoll < 0) {
        net_answer(fd, serving.listener < 0 ? serving.listener : -errno);
        return;
    }
    __atomic_store_n(&serving.counts->open, 0, __ATOMIC_RELAXED);
    watch(&serving, fd);
    watch(&serving, serving.listener);
    net_answer(fd, 0);
    for (;;) {
        if (serve_ready(&serving, -1))
            welcome(&serving);
    }
}

/* ---- the test's side ---- */

void net_server_init(struct net_server *server, unsigned lives) {
    CHECK(lives <= NET_LIVES);
    *server = (struct net_server){.counts = net_share_counts(), .n = lives};
    server->reserved = net_reserve(&server->port);
    for (unsigned i = 0; i < lives; i++)
        net_fork(&server->lives[i], server_main, server);
}

void net_server_start(struct net_server *server) {
    CHECK(server->life < server->n);
    net_command(&server->lives[server->life++], &(struct net_command){0});
}

static struct net_process *living(struct net_server *server) {
    CHECK(server->life > 0 && server->lives[server->life - 1].pid != 0);
    return &server->lives[server->life - 1];
}

void net_server_kill(struct net_server *server) {
    net_kill(living(server));
}

void net_server_freeze(struct net_server *server) {
    int status = 0;
    pid_t pid = living(server)->pid;
    CHECK_EQ(kill(pid, SIGSTOP), 0);
    while (waitpid(pid, &status, WUNTRACED) < 0)
        CHECK(errno == EINTR);
    CHECK(WIFSTOPPED(status));
}

void net_server_thaw(struct net_server *server) {
    CHECK_EQ(kill(living(server)->pid, SIGCONT), 0);
}

void net_server_end(struct net_server *server) {
    for (unsigned i = 0; i < server->n; i++)
        net_end(&server->lives[i]);
    close(server->reserved);
    munmap(server->counts, sizeof(*server->counts));
    *server = (struct net_server){0};
}
