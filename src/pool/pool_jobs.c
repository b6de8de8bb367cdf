/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_jobs.c - running the manager's operations: connect, check, close.
 *
 * Called by the pool's threads and, in pools without threads, by callers (pool_drive.c).
 *
 *   J1  No operation runs while this thread holds a lock, and its result reaches the core exactly once.
 *   J2  A resource's bytes are charged before its connect and given back after its close, or failed connect.
 */
#include "os/thread.h"
#include "pool/pool.h"

#include <stdio.h>
#include <string.h>

void pnx__pool_call_enter(const struct pnx_pool *pool, struct pnx__pool_call *call) {
    struct pnx_thread *thread = pnx__thread();
    pnx__mutex_assert_none_held();
    *call = (struct pnx__pool_call){.pool = pool, .outer = thread ? thread->pool_calls : NULL};
    if (thread)
        thread->pool_calls = call;
}

void pnx__pool_call_leave(const struct pnx__pool_call *call) {
    struct pnx_thread *thread = pnx__thread();
    if (thread)
        thread->pool_calls = call->outer;
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

static void run_connect(struct pnx_pool *pool, struct pnx_slot *slot, pnx_ns start,
        struct pnx__pool_effects *effects) {
    struct pnx_error err = {0};
    void *resource = NULL;
    int rc = pnx_budget_charge(pool->budget, pool->resource_bytes, 0);
    if (rc == 0) {
        struct pnx__pool_call call;
        pnx__pool_call_enter(pool, &call);
        rc = pool->manager.connect(
                pool->ctx, pnx__deadline(start, pool->connect_timeout), &err, &resource);
        pnx__pool_call_leave(&call);
        if (rc == 0 && !resource) {
            rc = pnx__fail(&err, -EINVAL, 0, "connect", "connect returned 0 but no resource");
        } else if (rc > 0) {
            rc = pnx__fail(&err, -EINVAL, 0, "connect",
                    "connect returned %d, which is neither 0 nor a negative error", rc);
        }
        if (rc)
            pnx_budget_uncharge(pool->budget, pool->resource_bytes);
    } else {
        pnx__fail(&err, rc, 0, "connect", "the memory budget refused %zu bytes",
                pool->resource_bytes);
    }
    pnx_ns end = pnx__now(&pool->env);
    err.message[sizeof(err.message) - 1] = '\0';
    if (rc && !err.message[0]) {
        char buf[96];
        snprintf(
                err.message, sizeof(err.message), "%s", pnx__pool_error_text(rc, buf, sizeof(buf)));
    }
    pnx__event(&pool->block, rc ? PNX_EVENT_POOL_CONNECT_FAILED : PNX_EVENT_POOL_CONNECTION_CREATED,
            pool->name, rc, NULL, end - start, end);
    pnx__pool_lock(pool);
    if (rc) {
        pnx__pool_core_connect_failed(&pool->core, slot, rc, err.message, end, effects);
        return;
    }
    pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_connect], end - start);
    pnx__pool_core_connected(&pool->core, slot, resource, end, effects);
}

static void run_check(struct pnx_pool *pool, struct pnx_slot *slot, void *resource, pnx_ns start,
        struct pnx__pool_effects *effects) {
    struct pnx__pool_call call;
    pnx__pool_call_enter(pool, &call);
    int rc = pool->manager.check(pool->ctx, resource, pnx__deadline(start, pool->check_timeout));
    pnx__pool_call_leave(&call);
    pnx_ns end = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_check], end - start);
    pnx__pool_core_checked(&pool->core, slot, rc == 0, end, effects);
}

static void run_close(struct pnx_pool *pool, struct pnx_slot *slot, void *resource, pnx_ns start,
        struct pnx__pool_effects *effects) {
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
    struct pnx__pool_call call;
    pnx__pool_call_enter(pool, &call);
    pool->manager.close(pool->ctx, resource, pnx__deadline(start, pool->close_timeout));
    pnx__pool_call_leave(&call);
    pnx_budget_uncharge(pool->budget, pool->resource_bytes);
    pnx_ns end = pnx__now(&pool->env);
    pnx__event(&pool->block, PNX_EVENT_POOL_CONNECTION_CLOSED, pool->name, 0, reasons[slot->reason],
            end - slot->born_at, end);
    pnx__pool_lock(pool);
    pnx__pool_core_closed(&pool->core, slot, end, effects);
}

void pnx__pool_run_job(
        struct pnx_pool *pool, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    pnx_ns start = pnx__now(&pool->env);
    /* job, reason and resource stay as they are until the job is reported, and only this thread does that */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_jobs.resource");
    switch ((enum pnx__pool_job_kind)slot->job) {
    case PNX__POOL_CONNECT:
        run_connect(pool, slot, start, effects);
        break;
    case PNX__POOL_CHECK:
        run_check(pool, slot, resource, start, effects);
        break;
    case PNX__POOL_CLOSE:
    case PNX__POOL_JOB_KINDS:
        run_close(pool, slot, resource, start, effects);
        break;
    }
    pnx__pool_health_locked(pool);
}
