/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uv_executor.c - cleanups in the background of a libuv loop, without any thread.
 *
 * An executor with PNX_EXECUTOR_TICK runs its jobs when it is ticked.  The loop polls its descriptor, and has one timer
 * for the time at which it wants to be ticked next; so the pauses before retries cost nothing.  A job that closes a
 * handle is pending until the handle's close callback has run.
 */
#include <patinox/patinox.h>

#include <stdio.h>
#include <uv.h>

struct driver {
    uv_loop_t loop;
    uv_poll_t poll;   /* the executor's descriptor */
    uv_timer_t timer; /* the time that tick returned */
    struct pnx_executor *executor;
    int open; /* clients that are not closed yet */
};

/* A client with a request in flight, during which it does not want to be closed. */
struct client {
    uv_timer_t uv;
    struct driver *driver;
    const char *name;
    int busy; /* how often it says "not now" */
    struct pnx_completion closing;
};

/* ---- the executor in the loop ---- */

static void drive(struct driver *driver);

static void on_readable(uv_poll_t *poll, int status, int events) {
    (void)status, (void)events;
    drive(poll->data);
}

static void on_due(uv_timer_t *timer) {
    drive(timer->data);
}

static void drive(struct driver *driver) {
    pnx_ns now = pnx_now();
    pnx_ns next = pnx_executor_tick(driver->executor, now);
    if (next == PNX_NEVER)
        uv_timer_stop(&driver->timer);
    else
        uv_timer_start(&driver->timer, on_due,
                next <= now ? 0 : (uint64_t)((next - now + PNX_MS - 1) / PNX_MS), 0);
}

static int start(struct driver *driver) {
    struct pnx_error err;
    int rc = pnx_executor_create(PNX_EXECUTOR_OPTS(.name = "closer", .flags = PNX_EXECUTOR_TICK),
            &err, &driver->executor);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return rc;
    }
    if (uv_loop_init(&driver->loop) || uv_timer_init(&driver->loop, &driver->timer) ||
            uv_poll_init(&driver->loop, &driver->poll, pnx_executor_fd(driver->executor)) ||
            uv_poll_start(&driver->poll, UV_READABLE, on_readable))
        return -EIO;
    driver->timer.data = driver->poll.data = driver;
    return 0;
}

/* Nothing is left to be closed: without these two the loop has nothing to run for. */
static void stop(struct driver *driver) {
    uv_close((uv_handle_t *)&driver->poll, NULL);
    uv_close((uv_handle_t *)&driver->timer, NULL);
}

/* ---- clients ---- */

static void on_closed(uv_handle_t *uv) {
    struct client *client = uv->data;
    struct driver *driver = client->driver;
    printf("%s is closed\n", client->name);
    pnx_completion_done(&client->closing, 0);
    if (--driver->open == 0)
        stop(driver);
}

/* Runs in the loop's thread, inside tick. */
static int close_client(void *arg, const struct pnx_cancel *cancel) {
    struct client *client = arg;
    if (client->busy-- > 0) {
        printf("%s is busy\n", client->name);
        return -EAGAIN; /* the executor tries again, after a pause that doubles */
    }
    int rc = pnx_cancel_pend(cancel, &client->closing);
    if (rc)
        return rc;
    uv_close((uv_handle_t *)&client->uv, on_closed);
    return -EINPROGRESS;
}

static int open_client(
        struct driver *driver, struct client *client, const char *name, struct pnx_guard *guard) {
    client->driver = driver;
    client->name = name;
    if (uv_timer_init(&driver->loop, &client->uv))
        return -EIO;
    client->uv.data = client;
    driver->open++;
    int rc = pnx_guard_arm(guard, close_client, client);
    return rc ? rc : pnx_guard_set_executor(guard, driver->executor);
}

int main(void) {
    static struct driver driver;
    static struct client ada, grace;
    if (start(&driver))
        return 1;
    {
        PNX_AUTO_GUARD first = {0};
        PNX_AUTO_GUARD second = {0};
        if (open_client(&driver, &ada, "ada", &first) ||
                open_client(&driver, &grace, "grace", &second))
            return 1;
        ada.busy = 2;
        printf("the scope ends\n");
    } /* both guards hand their cleanups over, and nothing has run yet */
    printf("the loop runs\n");
    uv_run(&driver.loop, UV_RUN_DEFAULT);

    struct pnx_executor_report report = {.size = sizeof(report)};
    int rc = pnx_executor_close(driver.executor, 0, &report);
    pnx_executor_release(&driver.executor);
    printf("closed: %s, with %zu jobs left\n", pnx_strerror(rc),
            report.canceled + report.abandoned);
    return rc == 0 && uv_loop_close(&driver.loop) == 0 && driver.open == 0 ? 0 : 1;
}
