/* SPDX-License-Identifier: Apache-2.0 */
/* pool_patinox.c - the pool cases for us: a connection that costs nothing and is always valid, default options. */
#include "pool_patinox.h"

#include <stdlib.h>
#include <string.h>

static int connection;

/* What each thread has borrowed, away from the others'. */
static struct { _Alignas(128) struct pnx_lease lease; } held[BENCH_MAX_THREADS];

static int connect_it(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    pool_connect();
    *ret_resource = &connection;
    return 0;
}

static int check_it(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)resource;
    (void)deadline;
    return 0;
}

static void close_it(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)resource;
    (void)deadline;
}

static void acquire_one(struct pnx_pool *pool, struct pnx_lease *lease) {
    struct pnx_error err = {0};
    if (pnx_pool_acquire(pool, PNX_TIMEOUT_DEFAULT, &err, lease)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
}

/* patinox-bounded: an arriving caller may overtake who has not waited for 1 ms yet. */
static bool bounded;

static int set_bounded(struct pnx_pool_opts *opts, struct pnx_error *err) {
    return pnx_pool_opts_set(opts, "barge_ns", "1ms", err);
}

static void *set_up(uint32_t size, uint32_t idle, uint32_t flags) {
    static const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = connect_it, .check = check_it, .close = close_it};
    struct pnx_pool_opts opts = *PNX_POOL_OPTS(.name = "bench", .max = size, .flags = flags);
    struct pnx_error err;
    struct pnx_pool *pool = NULL;
    struct pnx_lease *leases = calloc(idle + 1, sizeof(*leases));
    if (!leases || (bounded && set_bounded(&opts, &err)) ||
            pnx_pool_create(&manager, &opts, &err, &pool)) {
        fprintf(stderr, "%s\n", leases ? err.message : "no memory");
        return NULL;
    }
    for (uint32_t i = 0; i < idle; i++)
        acquire_one(pool, &leases[i]);
    for (uint32_t i = 0; i < idle; i++)
        pnx_lease_release(&leases[i]);
    free(leases);
    return pool;
}

void *pool_patinox_set_up(uint32_t size, uint32_t idle) {
    return set_up(size, idle, 0);
}

static void *set_up_traced(uint32_t size, uint32_t idle) {
    return set_up(size, idle, PNX_POOL_TRACE_ORDER);
}

static uint64_t traced(void *pool) {
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    if (pnx_pool_read_stats(pool, &stats))
        abort();
    return stats.inversions;
}

static void acquire(void *pool, unsigned index) {
    acquire_one(pool, &held[index].lease);
}

static void release(void *pool, unsigned index) {
    (void)pool;
    pnx_lease_release(&held[index].lease);
}

/* ---- pool/cycle ---- */
static void *cycle_set_up(unsigned threads) {
    (void)threads;
    return pool_patinox_set_up(POOL_CYCLE_SIZE, POOL_CYCLE_SIZE);
}

static void cycle_work(void *state, unsigned index, uint64_t n) {
    struct pnx_pool *pool = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_lease lease = {0};
        if (pnx_pool_acquire(pool, PNX_TIMEOUT_DEFAULT, NULL, &lease))
            abort();
        pnx_lease_release(&lease);
    }
}

static void cycle_tear_down(void *state) {
    struct pnx_pool *pool = state;
    pnx_pool_release(&pool);
}

int main(int argc, char **argv) {
    static const struct pool_ops ops = {.set_up = pool_patinox_set_up,
            .acquire = acquire,
            .release = release,
            .set_up_traced = set_up_traced,
            .traced = traced};
    struct bench_args args = bench_parse(argc, argv);
    const struct bench_impl cycle = {.name = args.impl,
            .version = pnx_version(),
            .set_up = cycle_set_up,
            .work = cycle_work,
            .tear_down = cycle_tear_down};
    bounded = strcmp(args.impl, "patinox-bounded") == 0;
    if (strcmp(args.impl, "patinox-unlisted") ==
            0) /* its connections are no rows of the registry */
        setenv("PATINOX_REGISTRY", "off", 1);
    if (strcmp(args.case_name, "pool/cycle") == 0)
        return bench_cycle(&args, &cycle);
    if (strcmp(args.case_name, "pool/async-cycle") == 0 ||
            strcmp(args.case_name, "pool/cancel") == 0)
        return pool_patinox_async(&args);
    return pool_run(&args, pnx_version(), &ops);
}
