/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reclaim: a route that threads read without locks while another replaces it; what was replaced is freed when nobody
 * can be reading it any more.
 */
#include <patinox/patinox.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct route {
    struct pnx_reclaim_node node; /* first, so that free() takes it */
    char gateway[32];
};

static struct route *current;
static int freed;

static void free_route(struct pnx_reclaim_node *node) {
    __atomic_fetch_add(&freed, 1, __ATOMIC_RELAXED);
    free(node);
}

static struct route *new_route(const char *gateway) {
    struct route *route = calloc(1, sizeof(*route));
    if (!route)
        exit(1);
    (void)snprintf(route->gateway, sizeof(route->gateway), "%s", gateway);
    return route;
}

static void set_route(struct pnx_reclaim *domain, struct route *fresh) {
    struct route *old = __atomic_exchange_n(&current, fresh, __ATOMIC_ACQ_REL);
    if (old)
        pnx_reclaim_retire(domain, &old->node, free_route, sizeof(*old));
}

static void *look_up(void *arg) {
    struct pnx_reclaim *domain = arg;
    size_t seen = 0;
    for (int i = 0; i < 10000; i++) {
        pnx_reclaim_enter(domain);
        const struct route *route = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
        seen += strlen(route->gateway); /* stays until the exit, whatever the others do */
        pnx_reclaim_exit(domain);
    }
    return seen ? arg : NULL;
}

static void on_stall(void *ctx, const struct pnx_reclaim_stall *stall) {
    (void)ctx;
    (void)fprintf(stderr, "thread %llu has been in a section for %lld ms, since %s\n",
            (unsigned long long)stall->thread, (long long)(stall->age / PNX_MS),
            stall->site ? stall->site : "?");
}

int main(void) {
    struct pnx_error err;
    struct pnx_reclaim *domain = NULL;
    if (pnx_reclaim_create(
                PNX_RECLAIM_OPTS(.name = "routes", .on_stall = on_stall), &err, &domain)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    set_route(domain, new_route("10.0.0.1"));
    pthread_t reader;
    if (pthread_create(&reader, NULL, look_up, domain) != 0)
        return 1;
    for (int i = 0; i < 1000; i++) {
        set_route(domain, new_route(i % 2 ? "10.0.0.1" : "10.0.0.2"));
        if (i % 100 == 0) /* an event loop would do this once a turn */
            (void)pnx_reclaim_tick(domain, pnx_now());
    }
    pthread_join(reader, NULL);

    /* Without a callback: unlink, wait for the readers, free. */
    struct route *last = __atomic_exchange_n(&current, NULL, __ATOMIC_ACQ_REL);
    if (pnx_reclaim_synchronize(domain, PNX_SEC) == 0 && !pnx_reclaim_in_section(domain))
        free(last);

    /* Before the end: everything that was retired so far, by whatever thread. */
    if (pnx_reclaim_barrier(domain, PNX_SEC) != 0 || pnx_reclaim_close(domain, PNX_SEC) != 0)
        return 1;
    struct pnx_reclaim_stats stats = {.size = sizeof(stats)};
    if (pnx_reclaim_read_stats(domain, &stats) != 0)
        return 1;
    printf("%d routes freed, %llu pending, %s\n", freed, (unsigned long long)stats.pending,
            stats.fences ? "fences" : "membarrier");

    struct pnx_reclaim *mine =
            pnx_reclaim_ref(domain); /* for an object that outlives this function */
    pnx_reclaim_release(&mine);
    pnx_reclaim_release(&domain);
    if (pnx_reclaim_default() != NULL)
        return pnx_reclaim_unload(PNX_SEC) == 0 ? 0 : 1; /* what a plugin does at its end */
    return 1;
}
