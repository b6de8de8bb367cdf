/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h - real connections for pool tests: a TCP echo server, a proxy before it that goes wrong as networks do,
 * and the manager of a pool of connections to either.  Everything is on 127.0.0.1.
 *
 * Server and proxy are processes of their own, made before the test has a second thread.  So descriptors, memory
 * and processor time of the test are the pool's alone, and a killed server is killed.  A command returns when it
 * has taken effect.
 *
 *   N1  What a server or proxy counts as open is exact as seen from the client: when one connection was closed
 *       before another was begun, the two are never counted at once.
 *   N2  No port of ours is taken by anybody else while nobody listens there.
 */
#ifndef PNX_TEST_POOL_NET_H
#define PNX_TEST_POOL_NET_H

#include "harness/harness.h"

#include <patinox/pool.h>

#include <sys/types.h>

/* ---- processes ---- */

/* What a process of ours counts, in memory shared with the test.  Atomics. */
struct net_counts {
    int64_t open; /* connections open at this moment */
    int64_t most; /* ... at any moment */
    int64_t accepted;
    int64_t bytes; /* echoed or forwarded */
};

struct net_process {
    pid_t pid; /* 0: none */
    int fd;    /* commands go out here, and their answers come back */
};

/* A command of a server or proxy.  An answer is an int: 0 or a negative error. */
struct net_command {
    int32_t what;
    int32_t how;
    pnx_ns delay;
};

/* Forks main(fd, ctx), which ends with the test at the latest. */
void net_fork(struct net_process *process, void (*main)(int fd, void *ctx), void *ctx);
void net_command(const struct net_process *process, const struct net_command *command);
/* Kills, and waits until everything of the process is gone, save our end of the connection to it. */
void net_kill(struct net_process *process);
void net_end(struct net_process *process);
/* For the child: reads a command; false at the end of the test. */
bool net_receive(int fd, struct net_command *ret_command);
void net_answer(int fd, int rc);

/* Finds a free port and holds it: returns the descriptor that does. */
int net_reserve(uint16_t *ret_port);
/* Listens on a reserved port. */
int net_listen(uint16_t port, int backlog);
struct net_counts *net_share_counts(void);
void net_count_open(struct net_counts *counts, int64_t by);
int64_t net_read(const int64_t *count);
/* Seconds of processor time that it has used; 0 for one that has ended. */
double net_cpu_s(const struct net_process *process);

/* ---- the echo server ---- */

#define NET_LIVES 4

/* Answers each byte with the same.  It can be killed and started again as often as it has lives. */
struct net_server {
    uint16_t port;
    int reserved;
    struct net_counts *counts; /* open is of the present life, the rest of all */
    struct net_process lives[NET_LIVES];
    unsigned n;
    unsigned life; /* lives[life - 1] runs, or was the last to */
};

void net_server_init(struct net_server *server, unsigned lives);
void net_server_start(struct net_server *server);
/* With a signal of its own, as from outside: connections end by what the kernel says for the dead. */
void net_server_kill(struct net_server *server);
/* The process is there and does nothing (SIGSTOP); the kernel still accepts for it. */
void net_server_freeze(struct net_server *server);
void net_server_thaw(struct net_server *server);
void net_server_end(struct net_server *server);

/* ---- the proxy ---- */

/* What becomes of new connections. */
enum net_mode {
    NET_PASS,
    NET_REFUSE, /* nobody listens */
    NET_MUTE, /* a black hole that accepts: nothing is ever answered, also when the mode has changed */
    NET_VOID, /* a black hole that does not: not even a SYN is answered, since the listener's queue is full */
};

/* What happens to the connections that there are. */
enum net_blow {
    NET_CUT,    /* closed in order: FIN */
    NET_RESET,  /* closed with SO_LINGER 0: RST */
    NET_STRAND, /* half open: the peer has vanished; the sockets stay, and nothing passes any more */
};

struct net_proxy {
    uint16_t port;
    int reserved;
    struct net_counts *counts; /* of the clients' side */
    struct net_process process;
};

/* Starts in mode NET_PASS. */
void net_proxy_init(struct net_proxy *proxy, uint16_t upstream);
void net_proxy_mode(struct net_proxy *proxy, enum net_mode mode);
/* Every byte comes that much later, in each direction.  0: at once. */
void net_proxy_delay(struct net_proxy *proxy, pnx_ns delay);
void net_proxy_strike(struct net_proxy *proxy, enum net_blow blow);
void net_proxy_end(struct net_proxy *proxy);

/* ---- the client: a pool's manager ---- */

/* The ctx of net_manager.  All but port are atomics. */
struct net_client {
    uint16_t port;
    int64_t open;       /* sockets, each counted from before socket() until after close() */
    int64_t most;       /* ... at any moment */
    int64_t connecting; /* calls of connect at this moment */
    int64_t attempts;   /* connects begun */
    int64_t failures;   /* connects that failed */
    int64_t overlaps;   /* connects begun while another was under way */
    int64_t abandoned;
    int64_t late; /* ns by which an operation outlived its deadline at most */
};

struct net_conn {
    int fd;
    uint8_t turn; /* the byte sent last */
    int owner;    /* atomic: whoever holds it */
    struct net_client *client;
};

/* Connects and says hello (one byte there and back), checks in the same way, closes; each by its deadline. */
extern const struct pnx_pool_manager net_manager;

/* One byte there and back: 0, -ETIMEDOUT, -EPIPE when the peer has closed, -ECONNRESET, ... */
int net_echo(struct net_conn *conn, pnx_ns deadline);

#endif
