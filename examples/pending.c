/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pending.c - a cleanup that ends later, as an event loop does it: it starts the end and gives its thread back.
 *
 * The loop of this program is a list of things to do, on one thread.
 */
#include <patinox/registry.h>

#include <stdio.h>

struct handle {
    const char *name;
    int tries;                     /* how often it says "not now" first */
    struct pnx_completion closing; /* once its end has begun */
};

static struct handle *loop_todo; /* the one handle that the loop is closing */

/* Runs on the loop's thread, when the handle is closed: libuv's uv_close_cb, for instance. */
static void on_closed(struct handle *handle) {
    printf("%s is closed\n", handle->name);
    if (pnx_completion_done(&handle->closing, 0))
        printf("nobody waits for it\n");
}

static int close_later(void *arg, const struct pnx_cancel *cancel) {
    struct handle *handle = arg;
    if (handle->tries-- > 0)
        return -EAGAIN; /* it is busy: everything stays as it is */
    int rc = pnx_cancel_pend(cancel, &handle->closing);
    if (rc)
        return rc;
    loop_todo = handle;
    return -EINPROGRESS;
}

int main(void) {
    struct handle handle = {.name = "socket", .tries = 1};
    pnx_resource_id row;
    if (pnx_registry_add(NULL,
                PNX_RESOURCE(.type = "handle", .cleanup = close_later, .arg = &handle,
                        .priority = PNX_PRIORITY_HIGH, .flags = PNX_RESOURCE_FORCEABLE),
                NULL, &row))
        return 1;
    int rc = pnx_registry_cleanup(NULL, row);
    printf("first: %s\n", pnx_strerror(rc));
    rc = pnx_registry_cleanup(NULL, row);
    printf("then: %s\n", pnx_strerror(rc));
    printf("%zu row is left, and its owner gets: %s\n", pnx_registry_count(NULL),
            pnx_strerror(pnx_registry_remove(NULL, row)));
    if (loop_todo)
        on_closed(loop_todo);
    return pnx_registry_count(NULL) == 0 ? 0 : 1;
}
