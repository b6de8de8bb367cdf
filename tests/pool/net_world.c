/* SPDX-License-Identifier: Apache-2.0 */
/* net_world.c - the beginning and the end of tests over real connections (net_world.h). */
#include "pool/net_world.h"

#include <dirent.h>
#include <time.h>

struct net_world world;

static int count_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    CHECK(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type == PNX_EVENT_POOL_BREAKER_OPENED) {
        __atomic_store_n(&world.opened_by, event->code, __ATOMIC_RELAXED);
        __atomic_add_fetch(&world.opened, 1, __ATOMIC_RELAXED);
    }
    if (event->type == PNX_EVENT_POOL_BREAKER_CLOSED)
        __atomic_add_fetch(&world.closed, 1, __ATOMIC_RELAXED);
}

void set_up(unsigned lives) {
    const struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear};
    uint32_t id;
    net_server_init(&world.server, lives);
    net_server_start(&world.server);
    net_proxy_init(&world.proxy, world.server.port);
    world.client.port = world.proxy.port;
    test_env_init(&world.te);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &world.registry), 0);
    CHECK_EQ(pnx_stats_create(NULL, NULL, &world.stats), 0);
    CHECK_EQ(pnx_monitor_add(world.stats, &monitor, &id), 0);
    world.descriptors = count_descriptors();
}

struct pnx_pool *make_pool(const struct pnx_pool_opts *opts) {
    struct pnx_error err = {0};
    world.max = opts->max;
    int rc = pnx_pool_create(&net_manager, opts, &err, &world.pool);
    CHECK_MSG(rc == 0, "create: %s (%s)", pnx_errname(rc), err.message);
    return world.pool;
}

static void end_pool(void) {
    CHECK_EQ(pnx_pool_close(world.pool, MINUTE), 0);
    pnx_pool_release(&world.pool);
    CHECK_EQ(world.client.open, 0);
    CHECK(world.client.most > 0 && world.client.most <= world.max);
    CHECK(net_read(&world.proxy.counts->most) <= world.max);
    CHECK_EQ(pnx_registry_count(world.registry), 0);
    test_env_check_empty(&world.te);
    CHECK_EQ(count_descriptors(), world.descriptors);
    CHECK_MSG(world.client.late < LOOSE, "an operation came %lld ms after its deadline",
            (long long)(world.client.late / PNX_MS));
}

static void end_network(void) {
    pnx_registry_release(&world.registry);
    pnx_stats_release(&world.stats);
    net_proxy_end(&world.proxy);
    net_server_end(&world.server);
}

void tear_down(void) {
    CHECK(net_read(&world.server.counts->most) <= world.max);
    tear_down_unseen();
}

void tear_down_unseen(void) {
    end_pool();
    end_network();
}

struct pnx_pool_stats net_stats(void) {
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(world.pool, &stats), 0);
    return stats;
}

int net_acquire(pnx_ns timeout, struct pnx_error *err, struct pnx_lease *ret_lease) {
    pnx_ns start = pnx_now();
    int rc = pnx_pool_acquire(world.pool, timeout, err, ret_lease);
    pnx_ns late = pnx_now() - start - timeout;
    CHECK(rc != -ETIMEDOUT || late >= 0);
    CHECK_MSG(
            late < LOOSE, "an acquire came %lld ms after its deadline", (long long)(late / PNX_MS));
    return rc;
}

struct net_conn *conn_of(const struct pnx_lease *lease) {
    struct net_conn *conn = pnx_lease_resource(lease);
    CHECK(conn);
    return conn;
}

void pause_for(pnx_ns time) {
    if (time < 0)
        return;
    const struct timespec ts = {(time_t)(time / PNX_SEC), (long)(time % PNX_SEC)};
    nanosleep(&ts, NULL);
}
