/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_world.h - what tests over real connections begin and end with: a server, a proxy before it, one pool of
 * connections, and the proof at the end that nothing of it is left and that there were never too many.
 */
#ifndef PNX_TEST_POOL_NET_WORLD_H
#define PNX_TEST_POOL_NET_WORLD_H

#include "pool/net.h"

#include <unistd.h>

/* A time that only a wait for something else would exceed, on however slow a machine. */
#define LOOSE  (20 * PNX_SEC)
/* What must not be waited for, or not be the reason of a failure. */
#define MINUTE (60 * PNX_SEC)

struct net_world {
    struct net_server server;
    struct net_proxy proxy;
    struct net_client client; /* of the proxy, unless the test changes its port */
    struct test_env te;
    struct pnx_registry *registry;
    struct pnx_stats *stats;
    struct pnx_pool *pool;
    uint32_t max;
    int descriptors; /* before there was a pool */
    int64_t opened;  /* atomics: events of the breaker, and the code that came with the last */
    int64_t closed;
    int64_t opened_by;
};

extern struct net_world world;

/* Starts the first life of the server, and the proxy. */
void set_up(unsigned lives);
struct pnx_pool *make_pool(const struct pnx_pool_opts *opts);
#define POOL(...) \
    make_pool(PNX_POOL_OPTS(.name = "net", .ctx = &world.client, .env = &world.te.env, \
            .registry = world.registry, .stats = world.stats, __VA_ARGS__))
/* For tests in which callers wait as long as they said, whatever fails meanwhile. */
#define NO_BREAKER .breaker_failures = UINT32_MAX
/* Ends everything: no descriptor, memory or row is left, and neither side ever counted more than max. */
void tear_down(void);
/* The same where the server cannot know of every end: of a peer that vanished, or while it was frozen. */
void tear_down_unseen(void);

struct pnx_pool_stats net_stats(void);
/* pnx_pool_acquire(), which must not say -ETIMEDOUT before the time, nor return LOOSE after it. */
int net_acquire(pnx_ns timeout, struct pnx_error *err, struct pnx_lease *ret_lease);
struct net_conn *conn_of(const struct pnx_lease *lease);

/* Lets a time pass that is measured, or is what the test is about; never in order to wait for something. */
void pause_for(pnx_ns time);

/* Polls the numbers until the expression holds. */
#define UNTIL(expression) \
    do { \
        pnx_ns until_ = pnx_now() + MINUTE; \
        for (;;) { \
            struct pnx_pool_stats s = net_stats(); \
            (void)s; \
            if (expression) \
                break; \
            CHECK_MSG(pnx_now() < until_, "waited a minute for %s", #expression); \
            usleep(200); \
        } \
    } while (0)

#endif
