/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/guard.c - one cleanup as a value, alone or as a row of a registry.
 *
 *   P1  A guard is emptied before its cleanup runs, so that a cleanup that meets its own guard finds it empty.
 *   P2  A tracked guard's cleanup is run by whoever claims the row; see registry/rows.c.
 */
#include "base/error.h"
#include "base/options.h"
#include "os/mutex.h"
#include "registry/ledger.h"

#include <patinox/guard.h>

int pnx_guard_arm(struct pnx_guard *guard, pnx_cleanup_fn *fn, void *arg) {
    if (!guard || !fn)
        return -EINVAL;
    if (guard->fn)
        return -EBUSY;
    *guard = (struct pnx_guard){.fn = fn, .arg = arg};
    return 0;
}

bool pnx_guard_armed(const struct pnx_guard *guard) {
    return guard && guard->fn;
}

struct pnx_guard pnx_guard_move(struct pnx_guard *guard) {
    struct pnx_guard moved = *guard;
    *guard = (struct pnx_guard){0};
    return moved;
}

void *pnx_guard_dismiss(struct pnx_guard *guard) {
    struct pnx_guard own = pnx_guard_move(guard);
    if (!own.registry)
        return own.arg;
    int rc = pnx__row_remove(own.registry, own.id, "pnx_guard_dismiss()");
    pnx_registry_release(&own.registry);
    return rc ? NULL : own.arg; /* the registry's cleanup was first */
}

/* *ret_kept: the row is as it was, and so the guard must be. */
static int run_tracked(struct pnx_registry *registry, pnx_resource_id id, bool *ret_kept) {
    struct pnx_row_request request;
    pnx__request_init(&request, PNX_NEVER);
    bool claimed;
    int rc;
    do {
        rc = pnx__registry_run(registry, id, &request, &claimed);
        *ret_kept = rc == (claimed ? -EAGAIN : -ENOMEM);
        if (claimed || *ret_kept)
            return rc;
        /* Somebody else was first: this waits for the end, which may be that it is live again. */
        rc = pnx__row_meet(registry, id, "pnx_guard_run()");
    } while (rc == -EAGAIN);
    if (rc == 0)
        return -ESTALE; /* a forked child: the resource is its parent's */
    return rc == -EDEADLK || rc == -EINPROGRESS ? rc : -EALREADY;
}

static int run(struct pnx_guard *guard, bool keep) {
    struct pnx_guard own = pnx_guard_move(guard);
    if (!own.fn)
        return 0;
    bool kept;
    int rc;
    if (own.registry) {
        rc = run_tracked(own.registry, own.id, &kept);
        if (keep && kept)
            *guard = own;
        else
            pnx_registry_release(&own.registry);
        return rc;
    }
    pnx__mutex_assert_none_held();
    rc = own.fn(own.arg, NULL);
    if (keep && rc == -EAGAIN)
        *guard = own;
    return rc > 0 || rc == -EINPROGRESS ? -EINVAL : rc;
}

int pnx_guard_run(struct pnx_guard *guard) {
    return run(guard, true);
}

void pnx_guard_drop(struct pnx_guard *guard) {
    if (guard && guard->executor && pnx_guard_defer(guard, guard->executor, NULL, NULL, NULL) == 0)
        return;
    if (guard)
        run(guard, false);
}

int pnx_guard_track(struct pnx_guard *guard, struct pnx_registry *registry,
        const struct pnx_resource *resource, struct pnx_error *err) {
    if (!guard || !guard->fn || !resource)
        return pnx__fail(err, -EINVAL, 0, "track", "guard: nothing to track");
    if (guard->registry)
        return pnx__fail(err, -EALREADY, 0, "track", "guard: it is tracked already");
    registry = pnx__registry_resolve(registry);
    struct pnx_resource copy;
    if (resource->size != sizeof(copy)) {
        copy = (struct pnx_resource){.size = sizeof(copy)};
        int rc = pnx__opts_copy("resource", sizeof(copy), resource, &copy, err);
        if (rc)
            return rc;
        resource = &copy;
    }
    if (resource->cleanup || resource->arg)
        return pnx__fail_field(err, -EINVAL, resource->cleanup ? "cleanup" : "arg",
                "resource.%s: a tracked guard brings its own",
                resource->cleanup ? "cleanup" : "arg");
    if (registry == pnx_registry_off())
        return 0;
    pnx_resource_id id;
    int rc = pnx__row_add(registry, resource, guard->fn, guard->arg, err, &id);
    if (rc)
        return rc;
    guard->registry = pnx_registry_ref(registry);
    guard->id = id;
    return 0;
}

pnx_resource_id pnx_guard_id(const struct pnx_guard *guard) {
    return guard ? guard->id : 0;
}
