/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/guard.c - guards that are rows of a registry, or go to an executor; the others are inline (guard_inl.h).
 *
 *   P1  A tracked guard's cleanup is run by whoever claims the row; see registry/rows.c.
 */
#include "base/error.h"
#include "base/options.h"
#include "os/mutex.h"
#include "registry/ledger.h"

#include <patinox/guard.h>
#include <patinox/query.h>

void pnx_guard_expect_no_lock_(void) {
    pnx__mutex_assert_none_held();
}

void *pnx_guard_dismiss_tracked_(struct pnx_registry *registry, pnx_resource_id id, void *arg) {
    int rc = pnx__row_remove(registry, id, "pnx_guard_dismiss()");
    pnx_registry_release(&registry);
    return rc ? NULL : arg; /* the registry's cleanup was first */
}

/* *ret_kept: the row is as it was, and so the guard must be. */
static int run(struct pnx_registry *registry, pnx_resource_id id, bool *ret_kept) {
    struct pnx_row_request request;
    pnx__request_init(&request, NULL, PNX_NEVER);
    bool claimed;
    int rc;
    do {
        rc = pnx__registry_run(registry, id, &request, &claimed);
        *ret_kept = claimed ? rc == -EAGAIN : rc == -ENOMEM || rc == -EBUSY;
        if (claimed || *ret_kept)
            return rc;
        /* Somebody else was first: this waits for the end, which may be that it is live again. */
        rc = pnx__row_meet(registry, id, "pnx_guard_run()");
    } while (rc == -EAGAIN);
    if (rc == 0)
        return -ESTALE; /* a forked child: the resource is its parent's */
    return rc == -EDEADLK || rc == -EINPROGRESS ? rc : -EALREADY;
}

int pnx_guard_run_tracked_(struct pnx_registry *registry, pnx_resource_id id, bool *ret_kept) {
    int rc = run(registry, id, ret_kept);
    if (!*ret_kept)
        pnx_registry_release(&registry);
    return rc;
}

void pnx_guard_drop_slow_(pnx_cleanup_fn *fn, void *arg, struct pnx_registry *registry,
        pnx_resource_id id, struct pnx_executor *executor) {
    struct pnx_guard guard = {fn, arg, registry, id, executor};
    if (executor && pnx_guard_defer(&guard, executor, NULL, NULL, NULL) == 0)
        return;
    if (registry) {
        bool kept;
        run(registry, id, &kept);
        if (kept) /* the row is the registry's alone from now on */
            pnx__row_disown(registry, id);
        pnx_registry_release(&registry);
    } else {
        pnx__mutex_assert_none_held();
        (void)fn(arg, NULL);
    }
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
    if (rc || id == 0) /* at PNX_LEVEL_OFF nothing is kept */
        return rc;
    guard->registry = pnx_registry_ref(registry);
    guard->id = id;
    return 0;
}

bool pnx_guard_asked(const struct pnx_guard *guard) {
    return guard && guard->registry && pnx_registry_asked(guard->registry, guard->id);
}
