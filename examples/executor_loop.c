/* SPDX-License-Identifier: Apache-2.0 */
/*
 * executor_loop.c - an executor without threads, in an event loop: poll its descriptor, tick when it or the clock says.
 *
 * Another thread submits; every job runs on the loop's thread.
 */
#include <patinox/executor.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>

struct loop {
    struct pnx_executor *executor;
    pthread_t thread;
    int left; /* jobs that have not ended */
    int wrong;
};

static int close_handle(void *arg, const struct pnx_cancel *cancel) {
    struct loop *loop = arg;
    (void)cancel;
    if (!pthread_equal(pthread_self(), loop->thread))
        loop->wrong = 1; /* it never is: handles of a loop may only be touched on its thread */
    return 0;
}

static void closed(void *ctx, pnx_job_id id, int code) {
    struct loop *loop = ctx;
    (void)id;
    (void)code;
    loop->left--;
}

static void *other_thread(void *arg) {
    struct loop *loop = arg;
    for (int i = 0; i < 5; i++) {
        int rc = pnx_executor_submit(loop->executor,
                PNX_JOB(.run = close_handle, .arg = loop, .done = closed, .ctx = loop,
                        .delay_ns = i * PNX_MS),
                NULL, NULL);
        if (rc)
            return loop;
    }
    return NULL;
}

/* Milliseconds until a time, for poll: not too early, never negative but for "no limit". */
static int milliseconds_until(pnx_ns at) {
    pnx_ns now = pnx_now();
    if (at == PNX_NEVER)
        return -1;
    return at > now ? (int)((at - now + PNX_MS - 1) / PNX_MS) : 0;
}

int main(void) {
    struct loop loop = {.thread = pthread_self(), .left = 5};
    struct pnx_error err;
    if (pnx_executor_create(PNX_EXECUTOR_OPTS(.name = "loop", .flags = PNX_EXECUTOR_TICK), &err,
                &loop.executor)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    pnx_ns next =
            pnx_executor_tick(loop.executor, pnx_now()); /* from now on this thread drives it */
    pthread_t thread;
    if (pthread_create(&thread, NULL, other_thread, &loop))
        return 1;
    while (loop.left > 0) {
        struct pollfd fd = {.fd = pnx_executor_fd(loop.executor), .events = POLLIN};
        if (poll(&fd, 1, milliseconds_until(next)) < 0)
            return 1;
        /* Your own descriptors are looked at here. */
        next = pnx_executor_tick(loop.executor, pnx_now());
    }
    void *failed;
    pthread_join(thread, &failed);
    int rc = pnx_executor_close(loop.executor, PNX_SEC, NULL); /* would run here what is left */
    pnx_executor_release(&loop.executor);
    printf("all five ran in the loop\n");
    return rc || failed || loop.wrong;
}
