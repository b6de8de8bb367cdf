/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_jobs.c - running the manager's operations: connect, check, close.
 *
 * Called by the pool's threads and, in pools without threads, by callers (pool_drive.c).
 *
 *   J1  No operation runs while this thread holds a lock, and its result reaches the core exactly once.
 *   J2  A resource's bytes are charged before its connect and given back after its close, or failed connect.
 *   J3  A resource is a row of the pool's registry, a child of the pool's, from its connect to its close.  It has no
 *       cleanup of its own: the pool ends it.  If there is no memory for the row, the resource serves without.
 */
#include "os/thread.h"
#include "pool/pool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void pnx__pool_call_enter(const struct pnx_pool *pool, struct pnx__pool_call *call) {
    struct pnx_thread *thread = pnx__thread();
    pnx__mutex_assert_none_held();
    *call = (struct pnx__pool_call){.pool = pool, .outer = thread ? thread->pool_calls : NULL};
    if (thread)
        thread->pool_calls = call;
    pnx__row_call_enter(&call->row, pool->registry, pool->row);
}

void pnx__pool_call_leave(const struct pnx__pool_call *call) {
    struct pnx_thread *thread = pnx__thread();
    if (thread)
        thread->pool_calls = call->outer;
    pnx__row_call_leave(&call->row);
}

bool pnx__pool_call_inside(const struct pnx_pool *pool) {
    struct pnx_thread *thread = pnx__thread();
    const struct pnx__pool_call *call = thread ? thread->pool_calls : NULL;
    while (call && call->pool != pool)
        call = call->outer;
    return call != NULL;
}

const char *pnx__pool_error_text(int code, char *buf, size_t n) {
    if (pnx_strerror(code) != pnx_strerror(INT32_MIN)) /* ours knows it */
        return pnx_strerror(code);
    return strerror_r(code > -4096 ? -code : 0, buf, n);
}

void pnx__pool_health_locked(struct pnx_pool *pool) {
    const char *reason;
    enum pnx_health_status status = pnx__pool_core_health(&pool->core, &reason);
    pnx__health_set(&pool->block, status, reason);
}

static void join_registry(struct pnx_pool *pool, struct pnx_slot *slot) {
    const struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "connection",
            .name = pool->name,
            .site = pool->site,
            .parent = pool->row,
            .tag = slot->index,
            .bytes = pool->resource_bytes,
    };
    pnx_resource_id row;
    /* Fails, too, when the pool's own row is being ended: no more need for it then. */
    slot->row = pnx_registry_add(pool->registry, &resource, NULL, &row) == 0 ? row : 0;
}

static void leave_registry(struct pnx_pool *pool, struct pnx_slot *slot) {
    (void)pnx_registry_remove_at(pool->registry, slot->row, pool->site);
    slot->row = 0;
}

/* What came of a job, before the core is told. */
struct result {
    int rc;
    void *resource; /* of a connect */
    pnx_ns took;
    pnx_ns end;
    struct pnx_error err;
};

static void call_connect(struct pnx_pool *pool, pnx_ns deadline, struct result *result) {
    result->rc =
            pool->resource_bytes ? pnx_budget_charge(pool->budget, pool->resource_bytes, 0) : 0;
    if (result->rc) {
        pnx__fail(&result->err, result->rc, 0, "connect", "the memory budget refused %zu bytes",
                pool->resource_bytes);
        return;
    }
    int rc = pool->manager.connect(pool->ctx, deadline, &result->err, &result->resource);
    if (rc == 0 && !result->resource)
        rc = pnx__fail(&result->err, -EINVAL, 0, "connect", "connect returned 0 but no resource");
    else if (rc > 0)
        rc = pnx__fail(&result->err, -EINVAL, 0, "connect",
                "connect returned %d, which is neither 0 nor a negative error", rc);
    result->rc = rc;
    result->err.message[sizeof(result->err.message) - 1] = '\0';
    if (rc && pool->resource_bytes)
        pnx_budget_uncharge(pool->budget, pool->resource_bytes);
    if (rc && !result->err.message[0]) {
        char buf[96];
        snprintf(result->err.message, sizeof(result->err.message), "%s",
                pnx__pool_error_text(rc, buf, sizeof(buf)));
    }
}

static void call_manager(struct pnx_pool *pool, struct pnx_slot *slot, struct result *result) {
    pnx_ns start = pnx__now(&pool->env);
    /* job, reason and resource stay as they are until the job is reported, and only this thread does that */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_jobs.resource");
    switch ((enum pnx__pool_job_kind)slot->job) {
    case PNX__POOL_CONNECT:
        call_connect(pool, pnx__deadline(start, pool->connect_timeout), result);
        if (result->rc == 0)
            join_registry(pool, slot);
        break;
    case PNX__POOL_CHECK:
        result->rc =
                pool->manager.check(pool->ctx, resource, pnx__deadline(start, pool->check_timeout));
        break;
    case PNX__POOL_CLOSE:
    case PNX__POOL_JOB_KINDS:
        pool->manager.close(pool->ctx, resource, pnx__deadline(start, pool->close_timeout));
        leave_registry(pool, slot);
        if (pool->resource_bytes)
            pnx_budget_uncharge(pool->budget, pool->resource_bytes);
        break;
    }
    result->end = pnx__now(&pool->env);
    result->took = result->end - start;
}

static void tell_monitors(
        const struct pnx_pool *pool, const struct pnx_slot *slot, const struct result *result) {
    static const char *const reasons[PNX__POOL_REASONS] = {
            [PNX__POOL_BECAUSE_IDLE] = "idle",
            [PNX__POOL_BECAUSE_LIFETIME] = "lifetime",
            [PNX__POOL_BECAUSE_DISCARDED] = "discarded",
            [PNX__POOL_BECAUSE_CHECK] = "check",
            [PNX__POOL_BECAUSE_RESET] = "reset",
            [PNX__POOL_BECAUSE_RESIZE] = "resize",
            [PNX__POOL_BECAUSE_PRESSURE] = "pressure",
            [PNX__POOL_BECAUSE_SHUTDOWN] = "shutdown",
    };
    if (slot->job == PNX__POOL_CONNECT)
        pnx__event(&pool->block,
                result->rc ? PNX_EVENT_POOL_CONNECT_FAILED : PNX_EVENT_POOL_CONNECTION_CREATED,
                pool->name, result->rc, NULL, result->took, result->end);
    if (slot->job == PNX__POOL_CLOSE)
        pnx__event(&pool->block, PNX_EVENT_POOL_CONNECTION_CLOSED, pool->name, 0,
                reasons[slot->reason], result->end - slot->born_at, result->end);
}

static void report_locked(struct pnx_pool *pool, struct pnx_slot *slot, const struct result *result,
        struct pnx__pool_effects *effects) {
    struct pnx__pool_core *core = &pool->core;
    switch ((enum pnx__pool_job_kind)slot->job) {
    case PNX__POOL_CONNECT:
        if (result->rc) {
            pnx__pool_core_connect_failed(
                    core, slot, result->rc, result->err.message, result->end, effects);
            break;
        }
        pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_connect], result->took);
        pnx__pool_core_connected(core, slot, result->resource, result->end, effects);
        break;
    case PNX__POOL_CHECK:
        pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_check], result->took);
        pnx__pool_core_checked(core, slot, result->rc == 0, result->end, effects);
        break;
    case PNX__POOL_CLOSE:
    case PNX__POOL_JOB_KINDS:
        pnx__pool_core_closed(core, slot, result->end, effects);
        break;
    }
    pnx__pool_health_locked(pool);
}

void pnx__pool_run_job(
        struct pnx_pool *pool, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    struct pnx__pool_call call;
    struct result result = {0};
    /* Monitors, too, run inside the operation: one that waits for this pool would wait for this very job. */
    pnx__pool_call_enter(pool, &call);
    call_manager(pool, slot, &result);
    tell_monitors(pool, slot, &result);
    pnx__pool_call_leave(&call);
    pnx__pool_lock(pool);
    report_locked(pool, slot, &result, effects);
}
