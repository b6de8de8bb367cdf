/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools by key: connections to many hosts, eight in all, each host as many as it needs.
 *
 * The "hosts" are counters; a real manager would resolve and connect (see examples/pool.c for what it should check and
 * reset).
 */
#include <patinox/pool_group.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct connection {
    char host[64];
};

/* ctx says for which key it is. */
static int host_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    const struct pnx_pool_key *key = ctx;
    int *connects = key->user;
    (void)deadline;
    if (key->len >= sizeof(((struct connection *)0)->host)) {
        snprintf(err->message, sizeof(err->message), "the host's name is too long");
        return -ENAMETOOLONG;
    }
    struct connection *connection = calloc(1, sizeof(*connection));
    if (!connection)
        return -ENOMEM;
    memcpy(connection->host, key->bytes, key->len);
    ++*connects;
    *ret_resource = connection;
    return 0;
}

static void host_close(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)deadline;
    free(resource);
}

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager), .connect = host_connect, .close = host_close};

static int fetch(struct pnx_pool_group *group, const char *host) {
    struct pnx_error err;
    PNX_AUTO_LEASE lease = {0};
    int rc = pnx_pool_group_acquire(
            group, host, strlen(host), PNX_SEC, PNX_ACQUIRE_OPTS(.tag = 7), &err, &lease);
    if (rc) {
        fprintf(stderr, "%s: %s\n", host, err.message);
        return rc;
    }
    const struct connection *connection = pnx_lease_resource(&lease);
    return strcmp(connection->host, host) == 0 ? 0 : -EIO;
}

/* The same without blocking. */
static void fetched(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    int *done = request->arg;
    if (code)
        fprintf(stderr, "%s\n", err->message);
    *done = code ? code : 1;
    pnx_lease_release(&lease);
}

static int show(void *ctx, const struct pnx_pool_key_numbers *numbers) {
    (void)ctx;
    printf("%.*s: a share of %u, %u idle, %u in use\n", (int)numbers->key->len,
            (const char *)numbers->key->bytes, numbers->share, numbers->idle, numbers->in_use);
    return 0;
}

static int print(void *ctx, const char *text, size_t n) {
    (void)ctx;
    return fwrite(text, 1, n, stdout) == n ? 0 : -EIO;
}

int main(void) {
    struct pnx_error err;
    int connects = 0;

    /* No threads here: what a loop does by calling pnx_pool_group_tick(), the callers do. */
    struct pnx_pool_group_opts opts = *PNX_POOL_GROUP_OPTS(.name = "hosts",
            .pool = PNX_POOL_OPTS(.ctx = &connects, .flags = PNX_POOL_NO_THREADS));
    if (pnx_pool_group_opts_set(&opts, "max_total", "8", &err) ||
            pnx_pool_group_opts_set(&opts, "max_per_key", "4", &err)) {
        fprintf(stderr, "options: %s\n", err.message);
        return 1;
    }
    struct pnx_pool_group *group;
    if (pnx_pool_group_create(&manager, &opts, &err, &group)) {
        fprintf(stderr, "create: %s\n", err.message);
        return 1;
    }

    /* Twelve hosts and eight connections: those that are idle make room. */
    char host[64];
    for (int i = 0; i < 24; i++) {
        snprintf(host, sizeof(host), "host-%d.example", i % 12);
        if (fetch(group, host))
            return 1;
    }
    int done = 0;
    struct pnx_pool_request request = {.done = fetched, .arg = &done, .timeout = PNX_SEC};
    if (pnx_pool_group_acquire_async(group, "host-3.example", 14, &request))
        return 1;
    while (!done)
        pnx_pool_group_tick(group, pnx_now());

    if (pnx_pool_group_each(group, show, NULL) || pnx_pool_group_dump(group, print, NULL))
        return 1;
    struct pnx_pool_group_stats stats = {.size = sizeof(stats)};
    if (pnx_pool_group_read_stats(group, &stats))
        return 1;
    printf("%d connects, %llu of them in the place of another host's\n", connects,
            (unsigned long long)stats.taken_idle);
    int left = pnx_pool_group_close(group, PNX_SEC);
    pnx_pool_group_release(&group);
    return left != 0 || done != 1;
}
