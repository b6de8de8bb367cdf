/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_submit.c - accepting jobs, taking them back, and what can be asked about one.
 *
 *   P1  With room, a submit takes the lock once and copies the job into a place that is there already.
 *   P2  Without, submitters are served in the order of arrival: the one that frees a place fills it for the first.
 */
#include "resource/executor.h"

#include <errno.h>
#include <string.h>

int pnx__executor_resolve(const struct pnx_executor *executor, const struct pnx_job *job,
        struct pnx_error *err, struct pnx__job_spec *ret_spec) {
    int32_t priority = job->priority ? job->priority : PNX_PRIORITY_NORMAL;
    if (priority < PNX_PRIORITY_LOW || priority > PNX_PRIORITY_CRITICAL)
        return pnx__fail_field(err, -EINVAL, "priority",
                "job.priority is %d; it must be between low (%d) and critical (%d)", (int)priority,
                PNX_PRIORITY_LOW, PNX_PRIORITY_CRITICAL);
    if (job->delay_ns < 0)
        return pnx__fail_field(err, -EINVAL, "delay_ns", "job.delay_ns is negative (%lld ns)",
                (long long)job->delay_ns);
    if (job->timeout_ns < 0)
        return pnx__fail_field(err, -EINVAL, "timeout_ns", "job.timeout_ns is negative (%lld ns)",
                (long long)job->timeout_ns);
    *ret_spec = (struct pnx__job_spec){
            .done = job->done,
            .ctx = job->ctx,
            .name = job->name,
            .site = job->site,
            .delay = job->delay_ns,
            .timeout = job->timeout_ns ? job->timeout_ns : executor->job_timeout,
            .attempts = job->attempts ? job->attempts : executor->attempts,
            .lane = (uint16_t)(priority - PNX_PRIORITY_LOW),
    };
    return 0;
}

/* ---- when there is no room ---- */

static int refuse_locked(
        struct pnx_executor *executor, int rc, const char *why, struct pnx_error *err) {
    pnx__executor_count(&executor->core, PNX__EXECUTOR_STAT_refused);
    uint32_t alive = pnx__executor_core_alive(&executor->core);
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__executor_unlock(executor, &effects);
    if (rc == -ESHUTDOWN)
        return pnx__fail(err, rc, 0, "submit", "executor %.60s is closed", executor->name);
    return pnx__fail(err, rc, 0, "submit", "executor %.60s is full, with %u jobs: %s",
            executor->name, alive, why);
}

/* The outcome of waiting for room, or PNX__BLOCKED_WAITS when time was over first.  Lock held before and after. */
static bool wait_for_room(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        enum pnx__blocked_outcome *ret_outcome, pnx_job_id *ret_id) {
    struct pnx__executor_blocked blocked = {.spec = spec};
    pnx_ns deadline = pnx__deadline(pnx__now(&executor->env), executor->block_timeout);
    enum pnx__blocked_outcome outcome;
    pnx__executor_count(&executor->core, PNX__EXECUTOR_STAT_blocked);
    pnx__list_push_back(&executor->blocked, &blocked.link);
    for (;;) {
        /* relaxed: the lock orders it */
        outcome = (enum pnx__blocked_outcome)pnx_load(
                &blocked.outcome, PNX_RELAXED, "executor_submit.outcome");
        if (outcome != PNX__BLOCKED_WAITS || pnx__now(&executor->env) >= deadline)
            break;
        if (!pnx__executor_idle(executor, &blocked.outcome, PNX__BLOCKED_WAITS, deadline))
            return false;
    }
    pnx__list_remove(&blocked.link);
    *ret_outcome = outcome;
    *ret_id = blocked.id;
    return true;
}

/* If a job that ran inline and returned -EAGAIN can be tried again later: its id, else 0.  Lock held. */
static pnx_job_id try_later_locked(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        uint64_t random, pnx_ns now) {
    bool room = pnx__executor_core_has_room(&executor->core) && !executor->core.closing;
    if (!room || spec->attempts < 2)
        return 0;
    struct pnx__job_spec later = *spec;
    later.delay = 1 + pnx__executor_core_pause(&executor->core.config, 1, random);
    struct pnx__job *job = pnx__executor_core_submit(&executor->core, &later, now);
    job->attempt = 1;
    job->code = -EAGAIN;
    pnx__executor_count(&executor->core, PNX__EXECUTOR_STAT_retries);
    return pnx__job_id(job);
}

/* Runs a job on this thread.  Lock held before, not after. */
static void run_inline(
        struct pnx_executor *executor, const struct pnx__job_spec *spec, pnx_job_id *ret_id) {
    pnx__executor_count(&executor->core, PNX__EXECUTOR_STAT_inlined);
    executor->refs++; /* the job may release the executor */
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__executor_unlock(executor, &effects);

    pnx_ns deadline = pnx__deadline(pnx__now(&executor->env), spec->timeout);
    struct pnx_row_request request = {
            .cancel.deadline = {(uint64_t)deadline}, .cancel.env = &executor->env};
    int code;
    *ret_id = 0;
    if (!pnx__executor_call_job(executor, spec, &request, true, &code))
        return;
    if (code > 0 || (code == -EINPROGRESS && spec->run))
        code = -EINVAL;
    uint64_t random = pnx__executor_random(executor, code);
    pnx_ns now = pnx__now(&executor->env);
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    if (code == -EAGAIN && !request.ended)
        *ret_id = try_later_locked(executor, spec, random, now);
    if (*ret_id == 0) {
        pnx__executor_unlock(executor, &effects);
        if (!pnx__executor_tell(executor, spec, 0, code))
            return;
        pnx__executor_effects_init(&effects);
        pnx__mutex_lock(&executor->lock);
        pnx__executor_count(&executor->core, PNX__EXECUTOR_STAT_submitted);
        pnx__executor_count(&executor->core, pnx__job_fate_stat(spec, code));
    }
    executor->refs--;
    pnx__executor_unlock(executor, &effects);
}

/* Lock held before, not after. */
static int submit_to_full(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        struct pnx_error *err, pnx_job_id *ret_id) {
    bool critical = spec->lane == PNX_LANES - 1;
    bool inlines = critical || executor->on_full == PNX_EXECUTOR_RUN_INLINE;
    if (executor->on_full == PNX_EXECUTOR_REJECT && !critical)
        return refuse_locked(executor, -EBUSY, "it takes no more", err);
    if (executor->on_full == PNX_EXECUTOR_BLOCK && !pnx__executor_inside(executor)) {
        enum pnx__blocked_outcome outcome;
        executor->refs++;
        if (!wait_for_room(executor, spec, &outcome, ret_id))
            return -ESHUTDOWN; /* a job that ran here has forked, and this is the child */
        executor->refs--;
        if (outcome == PNX__BLOCKED_REFUSED)
            return refuse_locked(executor, -ESHUTDOWN, "", err);
        if (outcome == PNX__BLOCKED_TAKEN) {
            struct pnx__executor_effects effects;
            pnx__executor_effects_init(&effects);
            pnx__executor_unlock(executor, &effects);
            return 0;
        }
        if (!inlines)
            return refuse_locked(executor, -ETIMEDOUT, "none ended in time", err);
    }
    if (!inlines)
        return refuse_locked(
                executor, -EDEADLK, "a job that waits for room could wait for itself", err);
    if (pnx__executor_nested(executor) >= PNX_EXECUTOR_NESTED_MAX)
        return refuse_locked(executor, -EBUSY, "too many jobs run one inside the other", err);
    run_inline(executor, spec, ret_id);
    return 0;
}

/* ---- submit ---- */

int pnx__executor_submit(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        struct pnx_error *err, pnx_job_id *ret_id) {
    if (pnx__executor_forked(executor))
        return pnx__fail(err, -ESHUTDOWN, 0, "fork",
                "executor %.60s was made before fork(), in the parent of this process",
                executor->name);
    const struct pnx_env *env = &executor->env;
    pnx_ns now = spec->delay > 0 ? env->now(env->ctx) : env->now_coarse(env->ctx);
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    if (executor->core.closing)
        return refuse_locked(executor, -ESHUTDOWN, "", err);
    struct pnx__job *job = pnx__executor_core_submit(&executor->core, spec, now);
    if (!job)
        return submit_to_full(executor, spec, err, ret_id);
    *ret_id = pnx__job_id(job);
    pnx__executor_unlock(executor, &effects);
    return 0;
}

int pnx__executor_take_over(struct pnx_executor *executor, const struct pnx_job *job, bool guard,
        struct pnx_error *err, pnx_job_id *ret_id) {
    struct pnx_job copy = {.size = sizeof(copy)};
    struct pnx__job_spec spec;
    pnx_job_id id = 0;
    if (!executor || !job)
        return pnx__fail_field(err, -EINVAL, executor ? "job" : "executor",
                "executor.submit: executor or job is NULL");
    pnx__executor_check(executor);
    if (job->size != sizeof(copy)) {
        int rc = pnx__opts_copy("job", sizeof(copy), job, &copy, err);
        if (rc)
            return rc;
        job = &copy;
    }
    if (!job->run)
        return pnx__fail_field(err, -EINVAL, "run", "job.run is required");
    int rc = pnx__executor_resolve(executor, job, err, &spec);
    if (rc)
        return rc;
    spec.run = job->run;
    spec.arg = job->arg;
    spec.guard = guard;
    rc = pnx__executor_submit(executor, &spec, err, &id);
    if (rc == 0 && ret_id)
        *ret_id = id;
    return rc;
}

int pnx_executor_submit(struct pnx_executor *executor, const struct pnx_job *job,
        struct pnx_error *err, pnx_job_id *ret_id) {
    return pnx__executor_take_over(executor, job, false, err, ret_id);
}

/* ---- one job ---- */

int pnx_executor_cancel(struct pnx_executor *executor, pnx_job_id id) {
    if (!executor)
        return -EINVAL;
    pnx__executor_check(executor);
    if (pnx__executor_forked(executor))
        return -ESTALE;
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    struct pnx__job *job = pnx__executor_core_find(&executor->core, id);
    int rc = job ? pnx__executor_core_cancel(&executor->core, job) : -ESTALE;
    if (rc == 0)
        job->spec.guard = false; /* what it was to end is the caller's now */
    if (rc == 0 && !pnx__executor_conclude(executor, job, &effects))
        return 0; /* forked */
    pnx__executor_unlock(executor, &effects);
    return rc;
}

static enum pnx_job_state public_state(const struct pnx__job *job) {
    if (job->settled)
        return PNX_JOB_ENDED;
    switch ((enum pnx__job_state)job->state) {
    case PNX__JOB_DELAYED:
        return PNX_JOB_DELAYED;
    case PNX__JOB_QUEUED:
        return PNX_JOB_QUEUED;
    case PNX__JOB_RUNNING:
    case PNX__JOB_LAST:
        return PNX_JOB_RUNNING;
    case PNX__JOB_PENDING:
        return PNX_JOB_PENDING;
    case PNX__JOB_FREE:
    case PNX__JOB_ENDING:
    case PNX__JOB_STATES:
        break;
    }
    return PNX_JOB_ENDED;
}

static pnx_ns due_of(const struct pnx__job *job) {
    if (!pnx__job_runs(job) && job->state != PNX__JOB_PENDING)
        return job->at;
    /* written under the lock */
    return (pnx_ns)pnx_load(&job->request.cancel.deadline, PNX_RELAXED, "executor_submit.due");
}

int pnx_executor_job(struct pnx_executor *executor, pnx_job_id id, struct pnx_job_info *ret_info) {
    if (!executor || !ret_info || ret_info->size < sizeof(size_t))
        return -EINVAL;
    pnx__executor_check(executor);
    if (pnx__executor_forked(executor))
        return -ESTALE;
    pnx_ns now = pnx__now(&executor->env);
    struct pnx_job_info info = {0};
    pnx__mutex_lock(&executor->lock);
    const struct pnx__job *job = pnx__executor_core_find(&executor->core, id);
    if (job)
        info = (struct pnx_job_info){
                .id = id,
                .state = public_state(job),
                .code = job->code,
                .attempt = job->attempt,
                .attempts = job->spec.attempts,
                .priority = (int32_t)job->spec.lane + PNX_PRIORITY_LOW,
                .overdue = job->overdue,
                .age = now > job->submitted_at ? now - job->submitted_at : 0,
                .due = due_of(job),
                .name = job->spec.name ? job->spec.name : executor->name,
                .site = job->spec.site ? job->spec.site : "",
        };
    pnx__mutex_unlock(&executor->lock);
    if (!job)
        return -ESTALE;
    info.size = ret_info->size < sizeof(info) ? ret_info->size : sizeof(info);
    memcpy(ret_info, &info, info.size);
    return 0;
}
