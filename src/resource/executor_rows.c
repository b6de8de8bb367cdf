/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_rows.c - jobs that end a row of a registry, and guards that are dropped to the background.
 *
 *   P1  Such a job has a reference to the registry from its submission until it has been told.
 *   P2  A guard that an executor has not taken stays as it is, armed.
 *   P3  What it has taken is run, also by a release (executor_wait.c), or an event tells that it is not.
 */
#include "resource/executor.h"

#include <patinox/guard.h>

#include <errno.h>

/* Copies what the caller says about how to run it.  It must not say what. */
static int copy_job(const struct pnx_job *job, struct pnx_error *err, struct pnx_job *ret_job) {
    *ret_job = (struct pnx_job){.size = sizeof(*ret_job)};
    int rc = job ? pnx__opts_copy("job", sizeof(*ret_job), job, ret_job, err) : 0;
    if (rc)
        return rc;
    if (ret_job->run || ret_job->arg)
        return pnx__fail_field(err, -EINVAL, ret_job->run ? "run" : "arg",
                "job.%s: what is ended says what is to be run", ret_job->run ? "run" : "arg");
    return 0;
}

static int clean_up(struct pnx_executor *executor, struct pnx_registry *registry,
        pnx_resource_id id, bool guard, const struct pnx_job *job, struct pnx_error *err,
        pnx_job_id *ret_id) {
    struct pnx_job how;
    struct pnx__job_spec spec;
    struct pnx_resource_info info;
    pnx_job_id job_id = 0;
    if (!executor)
        return pnx__fail_field(err, -EINVAL, "executor", "executor.cleanup: executor is NULL");
    pnx__executor_check(executor);
    int rc = copy_job(job, err, &how);
    if (rc == 0)
        rc = pnx__executor_resolve(executor, &how, err, &spec);
    if (rc)
        return rc;
    rc = pnx_registry_info(registry, id, &info);
    if (rc)
        return pnx__fail(
                err, rc, rc, "submit", "executor %.60s: there is no such row", executor->name);
    if (!spec.name)
        spec.name = info.type;
    if (!spec.site)
        spec.site = info.site;
    spec.registry = pnx_registry_ref(registry);
    spec.row = id;
    spec.guard = guard;
    rc = pnx__executor_submit(executor, &spec, err, &job_id);
    if (rc)
        pnx_registry_release(&spec.registry);
    else if (ret_id)
        *ret_id = job_id;
    return rc;
}

int pnx_executor_cleanup(struct pnx_executor *executor, struct pnx_registry *registry,
        pnx_resource_id id, const struct pnx_job *job, struct pnx_error *err, pnx_job_id *ret_id) {
    return clean_up(executor, registry, id, false, job, err, ret_id);
}

/* ---- guards ---- */

int pnx_guard_defer(struct pnx_guard *guard, struct pnx_executor *executor,
        const struct pnx_job *job, struct pnx_error *err, pnx_job_id *ret_id) {
    if (!guard || !guard->fn)
        return pnx__fail_field(err, -EINVAL, "guard", "guard: there is nothing to defer");
    if (!executor)
        return pnx__fail_field(err, -EINVAL, "executor", "guard: executor is NULL");
    if (guard->registry) {
        /* Emptied first: the job may run inline, and meet its own guard. */
        struct pnx_guard own = pnx_guard_move(guard);
        int rc = clean_up(executor, own.registry, own.id, true, job, err, ret_id);
        if (rc)
            *guard = own;
        else
            pnx_registry_release(&own.registry);
        return rc;
    }
    struct pnx_job how;
    int rc = copy_job(job, err, &how);
    if (rc)
        return rc;
    struct pnx_guard own = pnx_guard_move(guard);
    how.run = own.fn;
    how.arg = own.arg;
    rc = pnx__executor_take_over(executor, &how, true, err, ret_id);
    if (rc)
        *guard = own;
    return rc;
}

int pnx_guard_set_executor(struct pnx_guard *guard, struct pnx_executor *executor) {
    if (!guard || !guard->fn)
        return -EINVAL;
    guard->executor = executor;
    return 0;
}
