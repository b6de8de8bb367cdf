/* SPDX-License-Identifier: Apache-2.0 */
/* pool_patinox.c - pool/cycle for us: size 16, an always valid connection, default options. */
#include "bench.h"

#include <patinox/pool.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int connection;

static int connect_it(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
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

static void *set_up(unsigned threads) {
    (void)threads;
    static const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = connect_it, .check = check_it, .close = close_it};
    struct pnx_error err;
    struct pnx_pool *pool = NULL;
    if (pnx_pool_create(&manager, PNX_POOL_OPTS(.name = "bench", .max = 16), &err, &pool)) {
        fprintf(stderr, "%s\n", err.message);
        return NULL;
    }
    return pool;
}

static void work(void *state, unsigned index, uint64_t n) {
    struct pnx_pool *pool = state;
    (void)index;
    for (uint64_t i = 0; i < n; i++) {
        struct pnx_lease lease = {0};
        if (pnx_pool_acquire(pool, PNX_TIMEOUT_DEFAULT, NULL, &lease))
            abort();
        pnx_lease_release(&lease);
    }
}

static void tear_down(void *state) {
    struct pnx_pool *pool = state;
    pnx_pool_release(&pool);
}

int main(int argc, char **argv) {
    struct bench_args args = bench_parse(argc, argv);
    const struct bench_impl impl = {.name = args.impl,
            .version = pnx_version(),
            .set_up = set_up,
            .work = work,
            .tear_down = tear_down};
    if (strcmp(args.case_name, "pool/cycle") != 0)
        return 2;
    return bench_cycle(&args, &impl);
}
