/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_run.c - running a job, and what becomes of it: again, pending, or over and told.
 *
 *   P1  A job that throws, or ends its thread, aborts the process: it could never be told how it ended.
 *   P2  In a child that a job has forked nothing of the executor is touched once that job returns there.
 *   P3  A completion ends the attempt that pended for it, once; before the function has returned, too.
 */
#include "resource/executor.h"

#include <errno.h>
#include <stdlib.h>

/* ---- calling out ---- */

static void check_returned(struct pnx__executor_call *call) {
    if (!call->returned)
        abort(); /* P1 */
}

static void enter(const struct pnx_executor *executor, struct pnx__executor_call *call) {
    struct pnx_thread *thread = pnx__thread();
    pnx__mutex_assert_none_held();
    call->executor = executor;
    call->outer = thread ? thread->executor_calls : NULL;
    if (thread)
        thread->executor_calls = call;
    pnx__row_call_enter(&call->row, executor->registry, executor->row);
}

static void leave(struct pnx__executor_call *call) {
    struct pnx_thread *thread = pnx__thread();
    if (thread)
        thread->executor_calls = call->outer;
    pnx__row_call_leave(&call->row);
    call->returned = true;
}

static const struct pnx__executor_call *innermost(void) {
    const struct pnx_thread *thread = pnx__thread();
    return thread ? thread->executor_calls : NULL;
}

bool pnx__executor_inside(const struct pnx_executor *executor) {
    const struct pnx__executor_call *call = innermost();
    while (call && call->executor != executor)
        call = call->outer;
    return call != NULL;
}

unsigned pnx__executor_nested(const struct pnx_executor *executor) {
    unsigned n = 0;
    for (const struct pnx__executor_call *call = innermost(); call; call = call->outer) {
        if (call->executor == executor && call->inlined)
            n++;
    }
    return n;
}

static int run_row(const struct pnx__job_spec *spec, struct pnx_row_request *request) {
    bool claimed; /* if not, somebody else was first, and the job ends with the claim's error */
    int rc = pnx__registry_run(spec->registry, spec->row, request, &claimed);
    return rc == -EBUSY && !claimed ? -EAGAIN : rc; /* it has children: not now */
}

bool pnx__executor_call_job(const struct pnx_executor *executor, const struct pnx__job_spec *spec,
        struct pnx_row_request *request, bool inlined, int *ret_code) {
    struct pnx__executor_call call __attribute__((cleanup(check_returned))) = {.inlined = inlined};
    uint32_t fork = executor->fork;
    enter(executor, &call);
    int code = spec->run ? spec->run(spec->arg, &request->cancel) : run_row(spec, request);
    leave(&call);
    *ret_code = code;
    return fork == pnx__fork_generation();
}

/*
 * Whether what a job was to end is there still, and nobody else knows of it: it had no time, and was an untracked
 * guard's.  (A tracked one's row is live, and a job that was taken back is its taker's.)
 */
static bool is_lost(const struct pnx__job_spec *spec, int code) {
    return spec->guard && spec->run && code == -ECANCELED;
}

/* Whether a guard's row may be live, though neither its owner nor the job will end it: it is the registry's then. */
static bool is_left(const struct pnx__job_spec *spec, int code) {
    return spec->guard && spec->registry && (code == -EAGAIN || code == -ECANCELED);
}

static bool is_event(const struct pnx__job_spec *spec, int code) {
    return pnx__job_fate(spec, code) == PNX__FATE_FAILED || is_lost(spec, code);
}

bool pnx__executor_tell(const struct pnx_executor *executor, const struct pnx__job_spec *spec,
        pnx_job_id id, int code) {
    struct pnx__executor_call call __attribute__((cleanup(check_returned))) = {0};
    struct pnx_registry *registry = spec->registry;
    uint32_t fork = executor->fork;
    /* Monitors, too, run inside: one that waits for this executor would wait for this very job. */
    enter(executor, &call);
    if (is_left(spec, code))
        pnx__row_disown(registry, spec->row);
    if (is_event(spec, code))
        pnx__event(&executor->block, PNX_EVENT_JOB_FAILED, spec->name ? spec->name : executor->name,
                code, spec->site, (int64_t)id, 0);
    if (spec->done)
        spec->done(spec->ctx, id, code);
    leave(&call);
    if (fork != pnx__fork_generation())
        return false;
    pnx_registry_release(&registry);
    return true;
}

uint64_t pnx__executor_random(const struct pnx_executor *executor, int code) {
    bool may_retry = code == -EAGAIN || code == -ETIMEDOUT || code == -EINPROGRESS;
    return may_retry ? executor->env.random(executor->env.ctx) : 0;
}

/* ---- the end of a job ---- */

static void satisfy_waiters_locked(struct pnx_executor *executor, const struct pnx__job *job,
        struct pnx__executor_effects *effects) {
    PNX_LIST_EACH (link, after, &executor->waiters) {
        struct pnx__executor_waiter *waiter =
                PNX_CONTAINER(link, struct pnx__executor_waiter, link);
        if (waiter->job ? waiter->job != job : waiter->serial < job->serial)
            continue;
        waiter->code = job->code;
        if (--waiter->left == 0) {
            pnx__list_remove(link);
            effects->wake_waiters = true;
        }
    }
}

/* The first submitter who waits gets the place that has become free. */
static void serve_blocked_locked(
        struct pnx_executor *executor, struct pnx__executor_effects *effects) {
    struct pnx_link *link = pnx__list_pop_front(&executor->blocked);
    if (!link)
        return;
    struct pnx__executor_blocked *blocked = PNX_CONTAINER(link, struct pnx__executor_blocked, link);
    blocked->id = pnx__job_id(
            pnx__executor_core_submit(&executor->core, blocked->spec, executor->core.now));
    /* relaxed: the lock orders it; only the address is used after it is released */
    pnx_store(&blocked->outcome, PNX__BLOCKED_TAKEN, PNX_RELAXED, "executor_run.taken");
    pnx__executor_wake(effects, &blocked->outcome);
    if (executor->driving > 0)
        effects->wake_waiters = true; /* it may be one of them */
}

static void count_closed_locked(struct pnx_executor *executor, const struct pnx__job *job) {
    if (executor->core.closing)
        executor->closed[pnx__job_fate(&job->spec, job->code)]++;
}

bool pnx__executor_conclude(struct pnx_executor *executor, struct pnx__job *job,
        struct pnx__executor_effects *effects) {
    const struct pnx__job_spec *spec = &job->spec;
    if (spec->done || spec->registry || is_event(spec, job->code)) {
        pnx_job_id id = pnx__job_id(job);
        int code = job->code;
        pnx__executor_unlock(
                executor, effects); /* the job's place, not free yet, keeps the executor */
        if (!pnx__executor_tell(executor, spec, id, code))
            return false;
        pnx__mutex_lock(&executor->lock);
        pnx__executor_effects_init(effects);
    }
    pnx__histogram_record(&executor->histograms.total, executor->core.now - job->due_at);
    count_closed_locked(executor, job);
    satisfy_waiters_locked(executor, job, effects);
    pnx__executor_core_free(&executor->core, job);
    serve_blocked_locked(executor, effects);
    if (executor->core.closing && pnx__executor_core_alive(&executor->core) == 0)
        effects->wake_waiters = true;
    return true;
}

/* An attempt has ended, be it on its own thread or elsewhere; the lock is held before and after. */
static bool end_attempt(struct pnx_executor *executor, struct pnx__job *job, int code,
        uint64_t random, pnx_ns now, struct pnx__executor_effects *effects) {
    job->token = 0; /* one that pended and then ended otherwise waits for nobody */
    job->completed_early = false;
    if (!pnx__executor_core_end(&executor->core, job, code, random, now))
        return true;
    return pnx__executor_conclude(executor, job, effects);
}

/* ---- pending ---- */

/*
 * What an attempt that goes on without its thread ended with.  token is 0 for a row, whose registry tells of each
 * end once.
 */
static int complete_job(
        struct pnx_executor *executor, struct pnx__job *job, uint64_t token, int code) {
    uint64_t random = pnx__executor_random(executor, code);
    pnx_ns now = pnx__now(&executor->env);
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    if (job->token != token || job->completed_early) {
        pnx__mutex_unlock(&executor->lock);
        return -ESTALE;
    }
    if (pnx__job_runs(job)) { /* its function has not returned yet, or just now */
        job->completed_early = true;
        job->completed = code;
        pnx__mutex_unlock(&executor->lock);
        return 0;
    }
    pnx__executor_advance_locked(executor, now, &effects);
    if (end_attempt(executor, job, code, random, now, &effects))
        pnx__executor_unlock(executor, &effects);
    return 0;
}

static int complete(void *ctx, uint64_t token, int code) {
    struct pnx_executor *executor = ctx;
    pnx__executor_check(executor);
    if (pnx__executor_forked(executor))
        return -ESTALE; /* the job is the parent's */
    uint64_t index = token & ((UINT64_C(1) << PNX_INDEX_BITS) - 1);
    return complete_job(executor, &executor->core.jobs[index], token, code);
}

/* struct pnx_row_request's pended. */
static void row_ended(void *ctx, int code) {
    struct pnx__job *job = ctx;
    if (!pnx__executor_forked(job->executor))
        (void)complete_job(job->executor, job, 0, code);
}

/* struct pnx_cancel's pend, of a job that is no row's. */
static int pend(const struct pnx_cancel *cancel, struct pnx_completion *ret_completion) {
    struct pnx__job *job =
            PNX_CONTAINER((struct pnx_cancel *)(uintptr_t)cancel, struct pnx__job, request.cancel);
    struct pnx_executor *executor = job->executor;
    if (pnx__executor_forked(executor))
        return -ENOTSUP;
    int rc = 0;
    pnx__mutex_lock(&executor->lock);
    if (!pnx__job_runs(job) || job->settled || job->token != 0) {
        rc = -EALREADY;
    } else {
        job->token = ++job->pends << PNX_INDEX_BITS | job->index;
        *ret_completion = (struct pnx_completion){complete, executor, job->token};
    }
    pnx__mutex_unlock(&executor->lock);
    return rc;
}

/* ---- attempts ---- */

static void prepare(struct pnx__job *job) {
    struct pnx_row_request *request = &job->request;
    request->cancel.env = &job->executor->env;
    request->cancel.pend = pend; /* the registry puts its own in its place */
    request->last = job->attempt >= job->spec.attempts;
    request->pended = row_ended;
    request->ctx = job;
}

/* Whether an attempt that returned code goes on: it pended, and has not been completed. */
static bool goes_on(const struct pnx__job *job, int code) {
    return code == -EINPROGRESS && !job->completed_early && (job->token != 0 || !job->spec.run);
}

bool pnx__executor_run(struct pnx_executor *executor, struct pnx__job *job,
        struct pnx__executor_effects *effects) {
    if (job->attempt == 1)
        pnx__histogram_record(&executor->histograms.wait, executor->core.now - job->due_at);
    prepare(job);
    pnx__executor_unlock(executor, effects);
    int code;
    if (!pnx__executor_call_job(executor, &job->spec, &job->request, false, &code))
        return false;
    uint64_t random = pnx__executor_random(executor, code);
    pnx_ns now = pnx__now(&executor->env);
    pnx__mutex_lock(&executor->lock);
    pnx__executor_effects_init(effects);
    pnx__executor_advance_locked(executor, now, effects);
    if (goes_on(job, code)) {
        pnx__executor_core_pend(&executor->core, job);
        return true;
    }
    if (code == -EINPROGRESS && job->completed_early)
        code = job->completed;
    return end_attempt(executor, job, code, random, now, effects);
}

bool pnx__executor_drive(
        struct pnx_executor *executor, struct pnx__executor_effects *effects, bool *ret_ran) {
    pnx_ns now = pnx__now(&executor->env);
    pnx__executor_advance_locked(executor, now, effects);
    struct pnx__job *job = pnx__executor_core_take(&executor->core, now);
    *ret_ran = job != NULL;
    return job ? pnx__executor_run(executor, job, effects) : true;
}
