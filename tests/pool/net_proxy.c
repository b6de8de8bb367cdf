/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_proxy.c - the proxy that goes wrong as networks do (net.h).
 *
 * One process, one poll() loop.  A pair is a client's connection and the one to the server that belongs to it.
 * Each direction carries one piece at a time, and holds it back for as long as the delay says.
 */
#include "pool/net.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAIRS     512 /* at once */
#define FILLERS   8
#define MAX_PIECE 512

enum what { SET_MODE, SET_DELAY, STRIKE };

enum side { CLIENT, SERVER };

struct piece { /* on its way */
    char bytes[MAX_PIECE];
    ssize_t n; /* 0: nothing is under way */
    pnx_ns due;
};

struct pair {
    int fd[2]; /* by side; -1: closed, or never there */
    struct piece from[2];
    bool stranded; /* nothing passes any more */
};

struct proxy {
    int command, listener;
    int fillers[FILLERS]; /* they fill the queue of a listener that nobody may reach */
    int n_fillers;
    uint16_t port, upstream;
    enum net_mode mode;
    pnx_ns delay;
    struct net_counts *counts;
    struct pair pairs[PAIRS];
    int n;
    struct pollfd polled[2 + 2 * PAIRS];
};

/* ---- pairs ---- */

static void close_side(struct proxy *proxy, struct pair *pair, enum side side, bool reset) {
    const struct linger at_once = {.l_onoff = 1};
    if (pair->fd[side] < 0)
        return;
    if (reset)
        setsockopt(pair->fd[side], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(pair->fd[side]);
    pair->fd[side] = -1;
    if (side == CLIENT)
        net_count_open(proxy->counts, -1);
}

static void close_pair(struct proxy *proxy, struct pair *pair, bool reset) {
    close_side(proxy, pair, CLIENT, reset);
    close_side(proxy, pair, SERVER, reset);
}

static void forget_closed(struct proxy *proxy) {
    for (int i = proxy->n - 1; i >= 0; i--) {
        if (proxy->pairs[i].fd[CLIENT] < 0 && proxy->pairs[i].fd[SERVER] < 0)
            proxy->pairs[i] = proxy->pairs[--proxy->n];
    }
}

/* A side has something to say, or has ended. */
static void take(struct proxy *proxy, struct pair *pair, enum side side, short events) {
    struct piece *piece = &pair->from[side];
    if (pair->fd[side] < 0)
        return;
    if (events & (POLLRDHUP | POLLHUP | POLLERR)) {
        if (pair->stranded) /* the other side hears nothing of it */
            close_side(proxy, pair, side, false);
        else
            close_pair(proxy, pair, false);
        return;
    }
    if (!(events & POLLIN) || pair->stranded || piece->n > 0)
        return;
    piece->n = recv(pair->fd[side], piece->bytes, sizeof(piece->bytes), MSG_DONTWAIT);
    if (piece->n <= 0)
        piece->n = 0;
    piece->due = pnx_now() + proxy->delay;
}

static void pass_on(struct proxy *proxy, struct pair *pair, enum side from, pnx_ns now) {
    struct piece *piece = &pair->from[from];
    int to = pair->fd[!from];
    if (piece->n == 0 || piece->due > now || pair->stranded || to < 0)
        return;
    if (send(to, piece->bytes, (size_t)piece->n, MSG_NOSIGNAL) != piece->n) {
        close_pair(proxy, pair, false);
        return;
    }
    __atomic_add_fetch(&proxy->counts->bytes, piece->n, __ATOMIC_RELAXED);
    piece->n = 0;
}

/* ---- the listener ---- */

static int reach(uint16_t port, int flags) {
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(port),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        _exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

/* Takes whatever has come while poll() was not looking: mostly nothing. */
static bool poll_pairs(struct proxy *proxy, int timeout_ms);

static void welcome(struct proxy *proxy) {
    int on = 1;
    int fd = accept4(proxy->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    poll_pairs(proxy, 0); /* N1: what ended before this one came is counted out first */
    forget_closed(proxy);
    if (proxy->n == PAIRS)
        _exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    net_count_open(proxy->counts, 1);
    struct pair *pair = &proxy->pairs[proxy->n++];
    *pair = (struct pair){.fd = {fd, -1}, .stranded = proxy->mode == NET_MUTE};
    if (proxy->mode == NET_MUTE)
        return;
    pair->fd[SERVER] = reach(proxy->upstream, 0);
    if (pair->fd[SERVER] < 0)
        close_pair(proxy, pair, true);
}

static void close_listener(struct proxy *proxy) {
    if (proxy->listener >= 0)
        close(proxy->listener);
    proxy->listener = -1;
    while (proxy->n_fillers > 0)
        close(proxy->fillers[--proxy->n_fillers]);
}

/* Connects until the listener's queue has no room: the kernel drops each SYN from then on. */
static int fill_queue(struct proxy *proxy) {
    while (proxy->n_fillers < FILLERS) {
        int fd = reach(proxy->port, SOCK_NONBLOCK);
        if (fd < 0)
            return -errno;
        proxy->fillers[proxy->n_fillers++] = fd;
        struct pollfd pollfd = {.fd = fd, .events = POLLOUT};
        if (poll(&pollfd, 1, 50) == 0) /* loopback answers at once, or not at all */
            return 0;
    }
    return -EIO;
}

static int set_mode(struct proxy *proxy, enum net_mode mode) {
    close_listener(proxy);
    proxy->mode = mode;
    if (mode == NET_REFUSE)
        return 0;
    proxy->listener = net_listen(proxy->port, mode == NET_VOID ? 0 : SOMAXCONN);
    if (proxy->listener < 0)
        return proxy->listener;
    return mode == NET_VOID ? fill_queue(proxy) : 0;
}

/* ---- commands ---- */

static void strike(struct proxy *proxy, enum net_blow blow) {
    for (int i = 0; i < proxy->n; i++) {
        if (blow == NET_STRAND)
            proxy->pairs[i].stranded = true;
        else
            close_pair(proxy, &proxy->pairs[i], blow == NET_RESET);
    }
}

static void obey(struct proxy *proxy) {
    struct net_command command;
    int rc = 0;
    if (!net_receive(proxy->command, &command))
        _exit(0);
    if (command.what == SET_MODE)
        rc = set_mode(proxy, (enum net_mode)command.how);
    else if (command.what == SET_DELAY)
        proxy->delay = command.delay;
    else
        strike(proxy, (enum net_blow)command.how);
    net_answer(proxy->command, rc);
}

/* ---- the loop ---- */

static void ask_about(struct pollfd *pollfd, const struct pair *pair, enum side side) {
    pollfd->fd = pair->fd[side];
    pollfd->events = POLLRDHUP;
    if (!pair->stranded && pair->from[side].n == 0)
        pollfd->events |= POLLIN;
    pollfd->revents = 0;
}

/* Until the next piece is due. */
static int patience_ms(const struct proxy *proxy) {
    pnx_ns next = PNX_NEVER, now = pnx_now();
    for (int i = 0; i < proxy->n; i++) {
        const struct pair *pair = &proxy->pairs[i];
        for (int side = 0; side < 2; side++) {
            if (pair->from[side].n > 0 && !pair->stranded && pair->from[side].due < next)
                next = pair->from[side].due;
        }
    }
    if (next == PNX_NEVER)
        return -1;
    return next > now ? (int)((next - now) / PNX_MS) + 1 : 0;
}

/* Moves what is under way.  True when somebody comes, or a command. */
static bool poll_pairs(struct proxy *proxy, int timeout_ms) {
    int n = proxy->n; /* none is added or forgotten meanwhile */
    bool accepts = proxy->mode == NET_PASS || proxy->mode == NET_MUTE;
    proxy->polled[0] = (struct pollfd){.fd = proxy->command, .events = POLLIN};
    proxy->polled[1] = (struct pollfd){.fd = accepts ? proxy->listener : -1, .events = POLLIN};
    for (int i = 0; i < n; i++) {
        ask_about(&proxy->polled[2 + 2 * i], &proxy->pairs[i], CLIENT);
        ask_about(&proxy->polled[3 + 2 * i], &proxy->pairs[i], SERVER);
    }
    poll(proxy->polled, (nfds_t)(2 + 2 * n), timeout_ms);
    for (int i = 0; i < n; i++) {
        struct pair *pair = &proxy->pairs[i];
        take(proxy, pair, CLIENT, proxy->polled[2 + 2 * i].revents);
        take(proxy, pair, SERVER, proxy->polled[3 + 2 * i].revents);
    }
    pnx_ns now = pnx_now();
    for (int i = 0; i < n; i++) {
        pass_on(proxy, &proxy->pairs[i], CLIENT, now);
        pass_on(proxy, &proxy->pairs[i], SERVER, now);
    }
    return proxy->polled[0].revents || proxy->polled[1].revents;
}

struct setting {
    const struct net_proxy *proxy;
    uint16_t upstream;
};

static void proxy_main(int fd, void *ctx) {
    static struct proxy proxy;
    const struct setting *setting = ctx;
    proxy.command = fd;
    proxy.listener = -1;
    proxy.port = setting->proxy->port;
    proxy.upstream = setting->upstream;
    proxy.counts = setting->proxy->counts;
    proxy.mode = NET_REFUSE;
    for (;;) {
        if (!poll_pairs(&proxy, patience_ms(&proxy)))
            continue;
        bool told = proxy.polled[0].revents, coming = proxy.polled[1].revents;
        if (coming)
            welcome(&proxy);
        if (told)
            obey(&proxy);
        forget_closed(&proxy);
    }
}

/* ---- the test's side ---- */

void net_proxy_init(struct net_proxy *proxy, uint16_t upstream) {
    *proxy = (struct net_proxy){.counts = net_share_counts()};
    proxy->reserved = net_reserve(&proxy->port);
    struct setting setting = {.proxy = proxy, .upstream = upstream};
    net_fork(&proxy->process, proxy_main, &setting);
    net_proxy_mode(proxy, NET_PASS);
}

void net_proxy_mode(struct net_proxy *proxy, enum net_mode mode) {
    net_command(&proxy->process, &(struct net_command){.what = SET_MODE, .how = (int32_t)mode});
}

void net_proxy_delay(struct net_proxy *proxy, pnx_ns delay) {
    net_command(&proxy->process, &(struct net_command){.what = SET_DELAY, .delay = delay});
}

void net_proxy_strike(struct net_proxy *proxy, enum net_blow blow) {
    net_command(&proxy->process, &(struct net_command){.what = STRIKE, .how = (int32_t)blow});
}

void net_proxy_end(struct net_proxy *proxy) {
    net_end(&proxy->process);
    close(proxy->reserved);
    munmap(proxy->counts, sizeof(*proxy->counts));
    *proxy = (struct net_proxy){0};
}
