/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool in an event loop: leases are asked for without blocking, and their callbacks come through one descriptor.
 *
 * The manager works without blocking, too: a connect is begun, and goes on while the loop does other things.  Here
 * the "network" is a pipe that the loop itself writes to.
 */
#include <patinox/pool.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct pnx_pool_op *connecting; /* of one loop, so nothing needs a lock */
static int network[2];

static int start(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    (void)ctx;
    (void)err;
    if (op->kind == PNX_POOL_OP_CLOSE) {
        free(op->resource);
        return 0; /* done at once */
    }
    op->fd = network[0]; /* what the loop should watch */
    op->events = POLLIN;
    connecting = op;
    return -EINPROGRESS;
}

/* How far is it?  Called by the pool's tick, and when the loop says that the descriptor has news. */
static int poll_one(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    (void)ctx;
    (void)err;
    char byte;
    if (read(op->fd, &byte, 1) != 1)
        return -EINPROGRESS;
    op->resource = malloc(1);
    connecting = NULL;
    return op->resource ? 0 : -ENOMEM;
}

static int cancel_one(void *ctx, struct pnx_pool_op *op) {
    (void)ctx;
    (void)op;
    connecting = NULL;
    return 0; /* it is over: nothing of it goes on anywhere */
}

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager), .start = start, .poll = poll_one, .cancel = cancel_one};

static int served;

static void serve(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    if (code) {
        fprintf(stderr, "%s\n", err->message);
        return;
    }
    printf("%s has its connection\n", (const char *)request->arg);
    served++;
    pnx_lease_release(&lease);
}

/* Waits for whatever comes first, and deals with it. */
static void turn(struct pnx_pool *pool, struct pnx_inbox *inbox) {
    struct pollfd fds[2] = {{.fd = pnx_inbox_fd(inbox), .events = POLLIN}, {.fd = -1}};
    pnx_ns next = pnx_pool_tick(pool, pnx_now()), now = pnx_now();
    if (connecting)
        fds[1] = (struct pollfd){.fd = connecting->fd, .events = (short)connecting->events};
    int timeout = next == PNX_NEVER ? -1 : next > now ? (int)((next - now) / PNX_MS) + 1 : 0;
    if (poll(fds, 2, timeout) < 0)
        return;
    if (fds[1].revents && connecting)
        pnx_pool_op_poll(connecting);
    if (fds[0].revents)
        pnx_inbox_dispatch(inbox, 0);
}

int main(void) {
    struct pnx_pool_opts opts = {.size = sizeof(opts), .name = "loop", .max = 1};
    struct pnx_pool *pool = NULL;
    struct pnx_inbox *inbox = NULL;
    struct pnx_error err;
    if (pipe(network) != 0 || pnx_pool_opts_preset(&opts, "event-loop", &err) != 0 ||
            pnx_inbox_create(NULL, &err, &inbox) != 0 ||
            pnx_pool_create(&manager, &opts, &err, &pool) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    struct pnx_pool_request requests[3] = {
            {.done = serve, .arg = "the first", .inbox = inbox, .timeout = PNX_TIMEOUT_DEFAULT},
            {.done = serve, .arg = "the second", .inbox = inbox, .timeout = PNX_TIMEOUT_DEFAULT},
            {.done = serve, .arg = "nobody", .inbox = inbox, .timeout = PNX_TIMEOUT_DEFAULT},
    };
    for (int i = 0; i < 3; i++) {
        if (pnx_pool_acquire_async(pool, &requests[i]) != 0)
            return 1;
    }
    if (pnx_pool_cancel(&requests[2]) != 0) /* its caller has gone; it hears nothing any more */
        return 1;
    if (write(network[1], "!", 1) != 1) /* the server accepts */
        return 1;
    while (served < 2)
        turn(pool, inbox);
    pnx_pool_close_begin(pool);
    while (pnx_pool_close_poll(pool) > 0)
        turn(pool, inbox);
    pnx_pool_release(&pool);
    pnx_inbox_release(&inbox);
    close(network[0]);
    close(network[1]);
    return 0;
}
