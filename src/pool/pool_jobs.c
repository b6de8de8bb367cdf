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
 *   J4  An operation, hook or callback that throws, or ends its thread, aborts the process: the pool would wait for its end.
 */
#include "os/errno_text.h"
#include "os/thread.h"
#include "pool/pool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void pnx__pool_call_enter(const struct pnx_pool *pool, struct pnx__pool_call *call) {
    pnx__pool_call_enter_on(pnx__thread(), pool, call);
}

void pnx__pool_call_leave(struct pnx__pool_call *call) {
    pnx__pool_call_leave_on(pnx__thread(), call);
}

bool pnx__pool_call_inside(const struct pnx_pool *pool) {
    struct pnx_thread *thread = pnx__thread();
    const struct pnx__pool_call *call = thread ? thread->pool_calls : NULL;
    while (call && call->pool != pool)
        call = call->outer;
    return call != NULL;
}

bool pnx__pool_call_interrupts(const struct pnx_slot *slot) {
    struct pnx_thread *thread = pnx__thread();
    const struct pnx__pool_call *call = thread ? thread->pool_calls : NULL;
    while (call && call->interrupts != slot)
        call = call->outer;
    return call != NULL;
}

const char *pnx__pool_error_text(int code, char *buf, size_t n) {
    if (pnx_strerror(code) != pnx_strerror(INT32_MIN)) /* ours knows it */
        return pnx_strerror(code);
    return pnx__errno_text(code > -4096 ? -code : 0, buf, n);
}

void pnx__pool_health_locked(struct pnx_pool *pool) {
    const char *reason;
    enum pnx_health_status status = pnx__pool_core_health(&pool->core, &reason);
    pnx__health_set(&pool->block, status, reason);
}

/* J3; fails, too, when the pool's own row is being ended: no more need for it then. */
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
    slot->row = pnx_registry_add(pool->registry, &resource, NULL, &row) == 0 ? row : 0;
}

static int charge(struct pnx_pool *pool) {
    return pool->resource_bytes ? pnx_budget_charge(pool->budget, pool->resource_bytes, 0) : 0;
}

static void uncharge(struct pnx_pool *pool) {
    if (pool->resource_bytes)
        pnx_budget_uncharge(pool->budget, pool->resource_bytes);
}

int pnx__pool_enter(struct pnx_pool *pool, struct pnx_slot *slot) {
    int rc = charge(pool);
    if (rc == 0)
        join_registry(pool, slot);
    return rc;
}

void pnx__pool_leave(struct pnx_pool *pool, struct pnx_slot *slot) {
    (void)pnx_registry_remove_at(pool->registry, slot->row, pool->site);
    slot->row = 0;
    uncharge(pool);
}

/* ---- calls of the manager ---- */

static int connect_code(int rc, const void *resource, struct pnx_error *err) {
    if (rc == 0 && !resource)
        return pnx__fail(err, -EINVAL, 0, "connect", "connect returned 0 but no resource");
    if (rc > 0)
        return pnx__fail(err, -EINVAL, 0, "connect",
                "connect returned %d, which is neither 0 nor a negative error", rc);
    return rc;
}

static int call_connect(struct pnx_pool *pool, pnx_ns deadline, struct pnx__pool_result *result) {
    int rc = charge(pool);
    if (rc)
        return pnx__fail(&result->err, rc, 0, "connect", "the memory budget refused %zu bytes",
                pool->resource_bytes);
    rc = pool->manager.connect(pool->ctx, deadline, &result->err, &result->resource);
    rc = connect_code(rc, result->resource, &result->err);
    if (rc)
        uncharge(pool);
    return rc;
}

/* Begins an operation of a manager that never blocks.  -EINPROGRESS: the slot is not this thread's any more. */
static int call_start(struct pnx_pool *pool, struct pnx_slot *slot, pnx_ns deadline,
        struct pnx__pool_result *result) {
    static const enum pnx_pool_op_kind kinds[PNX__POOL_JOB_KINDS] = {
            [PNX__POOL_CONNECT] = PNX_POOL_OP_CONNECT,
            [PNX__POOL_CHECK] = PNX_POOL_OP_CHECK,
            [PNX__POOL_CLOSE] = PNX_POOL_OP_CLOSE,
    };
    enum pnx_pool_op_kind kind = kinds[slot->job];
    int rc = kind == PNX_POOL_OP_CONNECT ? charge(pool) : 0;
    result->uncharged = rc != 0;
    if (rc)
        return pnx__fail(&result->err, rc, 0, "connect", "the memory budget refused %zu bytes",
                pool->resource_bytes);
    struct pnx__pool_result left;
    pnx__pool_lock(pool);
    /* by itself: only who runs a job changes it */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_jobs.start");
    slot->op = (struct pnx_pool_op){
            .resource = resource, .kind = kind, .fd = -1, .deadline = deadline};
    slot->flags |= PNX__POOL_OP | PNX__POOL_OP_BUSY;
    slot->op_left = &left;
    pnx__mutex_unlock(&pool->lock);
    rc = pool->manager.start(pool->ctx, &slot->op, &result->err);
    result->rc = rc > 0 ? connect_code(rc, NULL, &result->err) : rc;
    result->resource = slot->op.resource;
    return pnx__pool_op_started(slot, result, &left);
}

/* Returns the result's code, or -EINPROGRESS when the operation goes on by itself. */
static int call_manager(struct pnx_pool *pool, struct pnx_slot *slot, pnx_ns start,
        struct pnx__pool_result *result) {
    /* job, reason and resource stay as they are until the job is reported, and only this thread does that */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_jobs.resource");
    const struct pnx_pool_manager *manager = &pool->manager;
    pnx_ns timeouts[PNX__POOL_JOB_KINDS] = {
            pool->connect_timeout, pool->check_timeout, pool->close_timeout};
    pnx_ns deadline = pnx__deadline(start, timeouts[slot->job]);
    if (slot->job == PNX__POOL_CLOSE && pool->hooks.before_close)
        pool->hooks.before_close(pool->hooks.arg, resource);
    if (slot->job == PNX__POOL_CHECK && manager->peek) {
        pnx__pool_lock(pool); /* whoever finds it overdue sets another flag */
        bool suffices = (slot->flags & PNX__POOL_PEEKED) || !manager->check;
        pnx__mutex_unlock(&pool->lock);
        int rc = manager->peek(pool->ctx, resource);
        if (rc || suffices)
            return rc;
    }
    if (manager->start) /* its deadline is the core's timer, which has it cancelled */
        return call_start(pool, slot, pnx__deadline(slot->job_since, timeouts[slot->job]), result);
    switch ((enum pnx__pool_job_kind)slot->job) {
    case PNX__POOL_CONNECT:
        return call_connect(pool, deadline, result);
    case PNX__POOL_CHECK:
        return manager->check(pool->ctx, resource, deadline);
    case PNX__POOL_CLOSE:
    case PNX__POOL_JOB_KINDS:
        break;
    }
    manager->close(pool->ctx, resource, deadline);
    return 0;
}

/* ---- ends ---- */

static void tell_monitors(const struct pnx_pool *pool, const struct pnx_slot *slot,
        const struct pnx__pool_result *result, pnx_ns end) {
    static const char *const reasons[PNX__POOL_REASONS] = {
            [PNX__POOL_BECAUSE_IDLE] = "idle",
            [PNX__POOL_BECAUSE_LIFETIME] = "lifetime",
            [PNX__POOL_BECAUSE_DISCARDED] = "discarded",
            [PNX__POOL_BECAUSE_CHECK] = "check",
            [PNX__POOL_BECAUSE_RESET] = "reset",
            [PNX__POOL_BECAUSE_RESIZE] = "resize",
            [PNX__POOL_BECAUSE_PRESSURE] = "pressure",
            [PNX__POOL_BECAUSE_STALE] = "stale",
            [PNX__POOL_BECAUSE_EVICTED] = "evicted",
            [PNX__POOL_BECAUSE_HOOK] = "hook",
            [PNX__POOL_BECAUSE_SHUTDOWN] = "shutdown",
    };
    if (slot->job == PNX__POOL_CONNECT)
        pnx__event(&pool->block,
                result->rc ? PNX_EVENT_POOL_CONNECT_FAILED : PNX_EVENT_POOL_CONNECTION_CREATED,
                pool->name, result->rc, NULL, end - slot->job_since, end);
    if (slot->job == PNX__POOL_CLOSE)
        pnx__event(&pool->block, PNX_EVENT_POOL_CONNECTION_CLOSED, pool->name, 0,
                reasons[slot->reason], end - slot->born_at, end);
}

static enum pnx_pool_verdict classify(
        const struct pnx_pool *pool, const struct pnx__pool_result *result) {
    if (result->rc == 0 || !pool->manager.classify)
        return PNX_POOL_TRANSIENT;
    int verdict = pool->manager.classify(pool->ctx, result->rc, &result->err);
    return verdict >= PNX_POOL_TRANSIENT && verdict <= PNX_POOL_STALE_ALL
                   ? (enum pnx_pool_verdict)verdict
                   : PNX_POOL_TRANSIENT;
}

static void report_connect_locked(struct pnx_pool *pool, struct pnx_slot *slot,
        const struct pnx__pool_result *result, enum pnx_pool_verdict verdict, pnx_ns end,
        struct pnx__pool_effects *effects) {
    struct pnx__pool_core *core = &pool->core;
    if (result->rc && result->resource) { /* a hook did not want it */
        pnx__pool_core_connect_refused(core, slot, result->resource, result->rc,
                result->err.message, verdict, end, effects);
    } else if (result->rc) {
        pnx__pool_core_connect_failed(
                core, slot, result->rc, result->err.message, verdict, end, effects);
    } else {
        pnx__histogram_record(
                &pool->histograms[PNX__POOL_HISTOGRAM_connect], end - slot->job_since);
        pnx__pool_core_connected(core, slot, result->resource, end, effects);
    }
}

/* What the result of a connect still lacks: its row, the hook, a message.  An error leaves no resource, but from the hook. */
static void complete_connect(
        struct pnx_pool *pool, struct pnx_slot *slot, struct pnx__pool_result *result) {
    if (pool->manager.start) {
        bool is_error = result->rc != 0;
        result->rc = connect_code(result->rc, result->resource, &result->err);
        if (is_error)
            result->resource = NULL;
        if (result->rc && !result->uncharged)
            uncharge(pool);
    } else if (result->rc) {
        result->resource = NULL;
    }
    if (result->rc == 0) {
        join_registry(pool, slot);
        if (pool->hooks.after_connect)
            result->rc = pool->hooks.after_connect(pool->hooks.arg, result->resource,
                    pnx__deadline(slot->job_since, pool->connect_timeout), &result->err);
        if (result->rc > 0)
            result->rc = -EINVAL;
    }
    result->err.message[sizeof(result->err.message) - 1] = '\0';
    if (result->rc && !result->err.message[0]) {
        char buf[96];
        snprintf(result->err.message, sizeof(result->err.message), "%s",
                pnx__pool_error_text(result->rc, buf, sizeof(buf)));
    }
}

void pnx__pool_finish_job(struct pnx_pool *pool, struct pnx_slot *slot,
        struct pnx__pool_result *result, struct pnx__pool_effects *effects) {
    PNX__POOL_CALL(call);
    /* Hooks and monitors run inside the operation: one that waits for this pool would wait for this very job. */
    pnx__pool_call_enter(pool, &call);
    if (slot->job == PNX__POOL_CONNECT)
        complete_connect(pool, slot, result);
    else if (slot->job == PNX__POOL_CLOSE)
        pnx__pool_leave(pool, slot);
    enum pnx_pool_verdict verdict = classify(pool, result);
    pnx_ns end = pnx__now(&pool->env);
    tell_monitors(pool, slot, result, end);
    pnx__pool_call_leave(&call);
    pnx__pool_lock(pool);
    switch ((enum pnx__pool_job_kind)slot->job) {
    case PNX__POOL_CONNECT:
        report_connect_locked(pool, slot, result, verdict, end, effects);
        break;
    case PNX__POOL_CHECK:
        pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_check], end - slot->job_since);
        pnx__pool_core_checked(&pool->core, slot, result->rc == 0, end, effects);
        break;
    case PNX__POOL_CLOSE:
    case PNX__POOL_JOB_KINDS:
        pnx__pool_core_closed(&pool->core, slot, end, effects);
        break;
    }
    pnx__pool_health_locked(pool);
}

void pnx__pool_run_job(
        struct pnx_pool *pool, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    PNX__POOL_CALL(call);
    struct pnx__pool_result result = {0};
    pnx_ns start = pnx__now(&pool->env);
    pnx__pool_call_enter(pool, &call);
    result.rc = call_manager(pool, slot, start, &result);
    pnx__pool_call_leave(&call);
    if (result.rc == -EINPROGRESS && pool->manager.start)
        pnx__pool_lock(pool); /* it goes on by itself; it may even have ended */
    else
        pnx__pool_finish_job(pool, slot, &result, effects);
}
