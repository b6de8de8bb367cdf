/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uv_handle.c - libuv handles as resources: whoever ends them, their loop closes them.
 *
 * A handle belongs to the thread of its loop, and its closing takes a turn of that loop.  So a cleanup, which may be
 * called by any thread, begins the closing by the one call that any thread may make, uv_async_send(), declares
 * itself pending and returns.  The handle's close callback completes it.  No thread waits in between, and the
 * shutdown's report is truthful: done means closed.
 *
 * The loop is a resource too, the parent of its handles, and so ended after them.
 */
#include <patinox/patinox.h>

#include <stdio.h>
#include <uv.h>

struct loop;

/* A handle, and how it is ended. */
struct handle {
    union {
        uv_handle_t any;
        uv_timer_t timer;
        uv_pipe_t pipe;
        uv_async_t async;
    } uv;
    struct loop *loop;
    pnx_resource_id row;
    struct pnx_completion completion; /* its cleanup's, while that is pending */
    struct handle *next;              /* in the loop's list */
};

struct loop {
    uv_loop_t uv;
    uv_thread_t thread;
    struct handle wake; /* uv.async: closing has something to do */
    uv_mutex_t lock;
    struct handle *closing; /* guarded by lock: what is to be closed */
    pnx_resource_id row;
    struct pnx_completion ended; /* completed when the loop's thread is about to end */
    unsigned ticks;
};

/* ---- in any thread ---- */

/* The cleanup of a handle.  -ENOTSUP where nobody could wait for what is pending. */
static int close_handle(void *arg, const struct pnx_cancel *cancel) {
    struct handle *handle = arg;
    struct loop *loop = handle->loop;
    int rc = pnx_cancel_pend(cancel, &handle->completion);
    if (rc)
        return rc;
    uv_mutex_lock(&loop->lock);
    handle->next = loop->closing;
    loop->closing = handle;
    uv_mutex_unlock(&loop->lock);
    uv_async_send(&loop->wake.uv.async);
    return -EINPROGRESS;
}

/* The cleanup of the loop, when all its other handles are gone: without the last one it has nothing to run for. */
static int close_loop(void *arg, const struct pnx_cancel *cancel) {
    struct loop *loop = arg;
    int rc = pnx_cancel_pend(cancel, &loop->ended);
    if (rc)
        return rc;
    uv_mutex_lock(&loop->lock);
    loop->wake.next = loop->closing;
    loop->closing = &loop->wake;
    uv_mutex_unlock(&loop->lock);
    uv_async_send(&loop->wake.uv.async);
    return -EINPROGRESS;
}

/* ---- in the loop's thread ---- */

static void on_closed(uv_handle_t *uv) {
    struct handle *handle = uv->data;
    if (handle != &handle->loop->wake)
        pnx_completion_done(&handle->completion, 0);
}

static void on_wake(uv_async_t *async) {
    struct loop *loop = ((struct handle *)async->data)->loop;
    uv_mutex_lock(&loop->lock);
    struct handle *closing = loop->closing;
    loop->closing = NULL;
    uv_mutex_unlock(&loop->lock);
    while (closing) {
        struct handle *handle = closing;
        closing = handle->next;
        uv_close(&handle->uv.any, on_closed);
    }
}

static void on_tick(uv_timer_t *timer) {
    ((struct handle *)timer->data)->loop->ticks++;
}

static void run_loop(void *arg) {
    struct loop *loop = arg;
    uv_run(&loop->uv, UV_RUN_DEFAULT); /* until no handle is left */
    pnx_completion_done(&loop->ended, uv_loop_close(&loop->uv) == 0 ? 0 : -EBUSY);
}

/* ---- setting up, before the loop's thread is there ---- */

static int add(struct handle *handle, const char *type) {
    return pnx_registry_add(NULL,
            PNX_RESOURCE(.type = type, .cleanup = close_handle, .arg = handle,
                    .parent = handle->loop->row),
            NULL, &handle->row);
}

static int set_up(struct loop *loop, struct handle *timer, struct handle *pipe) {
    if (uv_loop_init(&loop->uv) || uv_mutex_init(&loop->lock) ||
            uv_async_init(&loop->uv, &loop->wake.uv.async, on_wake) ||
            uv_timer_init(&loop->uv, &timer->uv.timer) ||
            uv_timer_start(&timer->uv.timer, on_tick, 0, 1) ||
            uv_pipe_init(&loop->uv, &pipe->uv.pipe, 0))
        return -EIO;
    struct handle *const handles[] = {&loop->wake, timer, pipe};
    for (size_t i = 0; i < 3; i++) {
        handles[i]->loop = loop;
        handles[i]->uv.any.data = handles[i];
    }
    int rc = pnx_registry_add(NULL,
            PNX_RESOURCE(.type = "event loop", .cleanup = close_loop, .arg = loop), NULL,
            &loop->row);
    if (rc == 0)
        rc = add(timer, "timer");
    if (rc == 0)
        rc = add(pipe, "pipe");
    return rc;
}

static int print(void *ctx, const char *text, size_t n) {
    return fwrite(text, 1, n, ctx) == n ? 0 : -EIO;
}

int main(void) {
    static struct loop loop;
    static struct handle timer, pipe;
    if (set_up(&loop, &timer, &pipe) || uv_thread_create(&loop.thread, run_loop, &loop))
        return 1;

    /* One by name: the call returns at once, the loop ends it. */
    int rc = pnx_registry_cleanup(NULL, pipe.row);
    printf("the pipe: %s\n", pnx_strerror(rc));
    if (rc != -EINPROGRESS)
        return 1;

    struct pnx_shutdown_report *report = NULL;
    rc = pnx_shutdown(5 * PNX_SEC, &report);
    if (pnx_shutdown_report_write(report, PNX_REPORT_TEXT, print, stdout))
        return 1;
    pnx_shutdown_report_release(&report);
    uv_thread_join(&loop.thread);
    uv_mutex_destroy(&loop.lock);
    printf("%u ticks; %s\n", loop.ticks, pnx_strerror(rc));
    return rc ? 1 : 0;
}
