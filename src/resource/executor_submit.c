/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_submit.c - accepting jobs, taking them back, and what can be asked about one.
 *
 *   P1  With room, a submit takes the lock once and copies the job into a place that is there already.
 *   P2  Without, submitters are served in the order of arrival: the one that frees a place fills it for the first.
 */
#include "os/futex.h"
#include "resource/executor.h"

#include <errno.h>
#include <string.h>

int pnx__executor_check_job(const struct pnx_job *job, struct pnx_error *err) {
    if (job->priority < 0 || job->priority > PNX_PRIORITY_CRITICAL)
        return pnx__fail_field(err, -EINVAL, "priority",
                "job.priority is %d; it must be between low (%d) and critical (%d)",
                (int)job->priority, PNX_PRIORITY_LOW, PNX_PRIORITY_CRITICAL);
    if (job->delay_ns < 0)
        return pnx__fail_field(err, -EINVAL, "delay_ns", "job.delay_ns is negative (%lld ns)",
                (long long)job->delay_ns);
    if (job->timeout_ns < 0)
        return pnx__fail_field(err, -EINVAL, "timeout_ns", "job.timeout_ns is negative (%lld ns)",
                (long long)job->timeout_ns);
    return 0;
}

static inline void resolve(const struct pnx_executor *executor, const struct pnx_job *job,
        const struct pnx__job_work *work, struct pnx__job_spec *ret_spec) {
    int32_t priority = job->priority ? job->priority : PNX_PRIORITY_NORMAL;
    ret_spec->work = *work;
    ret_spec->done = job->done;
    ret_spec->ctx = job->ctx;
    ret_spec->name = job->name;
    ret_spec->site = job->site;
    ret_spec->delay = job->delay_ns;
    ret_spec->timeout = job->timeout_ns ? job->timeout_ns : executor->job_timeout;
    ret_spec->attempts = job->attempts ? job->attempts : executor->attempts;
    ret_spec->lane = (uint32_t)(priority - PNX_PRIORITY_LOW);
}

void pnx__executor_place_locked(struct pnx_executor *executor, struct pnx__job *job,
        const struct pnx__job_spec *spec, pnx_ns now) {
    job->mail.spec = *spec;
    job->mail.at = now;
    job->generation++;
    /* relaxed: under the lock; who takes the place from the ring later is ordered by executor_inbox.give */
    pnx_store(&job->mail.ticket, job->generation, PNX_RELAXED, "executor_submit.place");
    pnx__executor_core_accept(&executor->core, job);
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

/* Makes a job of a place that was taken from the ring.  Lock held. */
static void place_taken_locked(struct pnx_executor *executor, struct pnx__job *job,
        const struct pnx__job_spec *spec, pnx_ns now) {
    void *attention; /* who holds the lock attends to all when it is given back */
    job->mail.spec = *spec;
    job->mail.at = now;
    (void)pnx__inbox_post(&executor->inbox, job, &attention);
    pnx__executor_accept_locked(executor);
}

/* If a job that ran inline and returned -EAGAIN can be tried again later: its id, else 0.  Lock held. */
static pnx_job_id try_later_locked(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        uint64_t random, pnx_ns now) {
    struct pnx__job *job = spec->attempts > 1 ? pnx__inbox_take(&executor->inbox) : NULL;
    if (!job)
        return 0;
    struct pnx__job_spec later = *spec;
    later.delay = 1 + pnx__executor_core_pause(&executor->core.config, 1, random);
    place_taken_locked(executor, job, &later, now);
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
    struct pnx_row_request request = {.cancel.deadline = {(uint64_t)deadline}};
    int code;
    *ret_id = 0;
    if (!pnx__executor_call_job(executor, spec, &request, true, &code))
        return;
    if (code > 0 || (code == -EINPROGRESS && spec->work.run))
        code = -EINVAL;
    uint64_t random = pnx__executor_random(executor, code);
    pnx_ns now = pnx__now(&executor->env);
    pnx__executor_effects_init(&effects);
    pnx__executor_lock(executor);
    if (code == -EAGAIN)
        *ret_id = try_later_locked(executor, spec, random, now);
    if (*ret_id == 0) {
        pnx__executor_unlock(executor, &effects);
        if (!pnx__executor_tell(executor, spec, 0, code))
            return;
        pnx__executor_effects_init(&effects);
        pnx__executor_lock(executor);
        pnx__executor_count(&executor->core, PNX__EXECUTOR_STAT_submitted);
        pnx__executor_count(&executor->core, pnx__job_fate_stat(spec, code));
    }
    executor->refs--;
    pnx__executor_unlock(executor, &effects);
}

/* There was no room; lock held before, not after. */
static int submit_to_full(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        struct pnx_error *err, pnx_job_id *ret_id) {
    bool critical = spec->lane == PNX_LANES - 1;
    bool inlines = critical || executor->on_full == PNX_EXECUTOR_RUN_INLINE;
    if (executor->on_full == PNX_EXECUTOR_REJECT && !critical)
        return refuse_locked(executor, -EBUSY, "it takes no more", err);
    if (executor->on_full == PNX_EXECUTOR_BLOCK && !pnx__executor_inside(executor)) {
        enum pnx__blocked_outcome outcome;
        if (!wait_for_room(executor, spec, &outcome, ret_id))
            return -ESHUTDOWN; /* a job that ran here has forked, and this is the child */
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

/* The way with the lock: none was free, or the inbox is shut. */
static int submit_slowly(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        pnx_ns now, struct pnx_error *err, pnx_job_id *ret_id) {
    struct pnx__executor_effects effects;
    int rc = 0;
    pnx__executor_effects_init(&effects);
    pnx__executor_lock(executor);
    executor->refs++; /* a job that runs here may release it */
    struct pnx__job *job = NULL;
    if (!executor->core.closing)
        job = pnx__inbox_take(&executor->inbox); /* somebody may have given one back */
    if (job) {
        place_taken_locked(executor, job, spec, now);
        *ret_id = pnx__job_id(job);
        pnx__executor_unlock(executor, &effects);
    } else if (executor->core.closing) {
        rc = refuse_locked(executor, -ESHUTDOWN, "", err);
    } else {
        rc = submit_to_full(executor, spec, err, ret_id);
    }
    if (pnx__executor_forked(executor))
        return rc;
    pnx__executor_effects_init(&effects);
    pnx__executor_lock(executor);
    executor->refs--;
    pnx__executor_unlock(executor, &effects);
    return rc;
}

/* ---- submit ---- */

/* Somebody is to be told that a job was posted. */
static void attend(struct pnx_executor *executor, void *attention, pnx_ns now) {
    void *called;
    attention = pnx__inbox_call(&executor->inbox, attention, &called);
    if (called) {
        struct pnx__executor_thread *thread = called;
        /* release: pairs with executor_threads.was_called; what was posted, and that attention was taken */
        pnx_store(&thread->woken, 1, PNX_RELEASE, "executor_submit.wake");
        pnx__futex_wake(&thread->woken, 1);
    } else if (attention) {
        struct pnx__executor_effects effects;
        pnx__executor_effects_init(&effects);
        pnx__executor_lock(executor);
        pnx__executor_advance_locked(executor, now, &effects); /* for nobody else may be there to */
        effects.wake_waiters = executor->core.closing;
        pnx__executor_unlock(executor, &effects);
    }
}

/*
 * Notes whom this thread submits to, and returns whom it did before: the job, once it is posted, may release the
 * executor, whose memory this thread still touches then.
 */
static void *note_post(struct pnx_thread *self, void *executor) {
    if (!self)
        return NULL;
    /* relaxed: only this thread writes it */
    void *before = pnx_load(&self->posts_to, PNX_RELAXED, "executor_submit.noted");
    /* release: pairs with executor.posts; what the submit has touched */
    pnx_store(&self->posts_to, executor, PNX_RELEASE, "executor_submit.note");
    return before;
}

int pnx__executor_submit(struct pnx_executor *executor, const struct pnx_job *job,
        const struct pnx__job_work *work, struct pnx_error *err, pnx_job_id *ret_id) {
    if (pnx__executor_forked(executor))
        return pnx__fail(err, -ESHUTDOWN, 0, "fork",
                "executor %.60s was made before fork(), in the parent of this process",
                executor->name);
    const struct pnx_env *env = &executor->env;
    pnx_ns now = job->delay_ns > 0 ? env->now(env->ctx) : env->now_coarse(env->ctx);
    struct pnx_thread *self = pnx__thread();
    void *before = note_post(self, executor);
    struct pnx__job *place = pnx__inbox_take(&executor->inbox);
    if (!place) {
        struct pnx__job_spec spec;
        (void)note_post(self, before);
        resolve(executor, job, work, &spec);
        return submit_slowly(executor, &spec, now, err, ret_id);
    }
    resolve(executor, job, work, &place->mail.spec);
    place->mail.at = now;
    void *attention;
    pnx_job_id id = pnx__inbox_post(&executor->inbox, place, &attention);
    if (attention)
        attend(executor, attention, now);
    (void)note_post(self, before);
    *ret_id = id;
    return 0;
}

int pnx_executor_submit(struct pnx_executor *executor, const struct pnx_job *job,
        struct pnx_error *err, pnx_job_id *ret_id) {
    struct pnx_job copy = {.size = sizeof(copy)};
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
    int rc = pnx__executor_check_job(job, err);
    if (rc)
        return rc;
    struct pnx__job_work work = {.run = job->run, .arg = job->arg};
    rc = pnx__executor_submit(executor, job, &work, err, &id);
    if (rc == 0 && ret_id)
        *ret_id = id;
    return rc;
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
    pnx__executor_lock(executor);
    struct pnx__job *job = pnx__executor_core_find(&executor->core, id);
    int rc = job ? pnx__executor_core_cancel(&executor->core, job) : -ESTALE;
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
    if (job->state != PNX__JOB_RUNNING && job->state != PNX__JOB_PENDING)
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
    pnx__executor_lock(executor);
    const struct pnx__job *job = pnx__executor_core_find(&executor->core, id);
    if (job)
        info = (struct pnx_job_info){
                .id = id,
                .state = public_state(job),
                .code = job->code,
                .attempt = job->attempt,
                .attempts = job->attempts,
                .priority = (int32_t)job->lane + PNX_PRIORITY_LOW,
                .overdue = job->overdue,
                .age = now > job->submitted_at ? now - job->submitted_at : 0,
                .due = due_of(job),
                .name = job->name ? job->name : executor->name,
                .site = job->site ? job->site : "",
        };
    pnx__mutex_unlock(&executor->lock);
    if (!job)
        return -ESTALE;
    info.size = ret_info->size < sizeof(info) ? ret_info->size : sizeof(info);
    memcpy(ret_info, &info, info.size);
    return 0;
}
