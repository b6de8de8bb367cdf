/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A manager whose operations end on a thread of its own, as with a driver that has one: start hands the work over,
 * and pnx_pool_op_done() says how it ended.
 */
#include <patinox/pool.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *work(void *arg) {
    struct pnx_pool_op *op = arg;
    if (op->kind == PNX_POOL_OP_CONNECT) {
        pnx_pool_op_done(op, 0, malloc(1), NULL); /* with NULL it is a failed connect */
        return NULL;
    }
    free(op->resource);
    pnx_pool_op_done(op, 0, NULL, NULL);
    return NULL;
}

static int start(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    pthread_t thread;
    (void)ctx;
    if (pthread_create(&thread, NULL, work, op) != 0) {
        snprintf(err->message, sizeof(err->message), "no thread for the driver");
        return -EAGAIN;
    }
    pthread_detach(thread);
    return -EINPROGRESS;
}

static const struct pnx_pool_manager manager = {.size = sizeof(manager), .start = start};

int main(void) {
    struct pnx_pool *pool = NULL;
    struct pnx_error err;
    struct pnx_lease lease = {0};
    if (pnx_pool_create(&manager, PNX_POOL_OPTS(.name = "driver", .max = 2), &err, &pool) != 0 ||
            pnx_pool_acquire(pool, PNX_SEC, &err, &lease) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("connected: %s\n", pnx_lease_resource(&lease) ? "yes" : "no");
    pnx_lease_release(&lease);
    int left = pnx_pool_close(pool, 5 * PNX_SEC);
    pnx_pool_release(&pool);
    return left != 0;
}
