/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_wait.c - waiting for jobs: one, all there are, or the last; and running them when nobody else would.
 *
 *   P1  Who waits sleeps on a word that changes under the lock: he looks, and sleeps only if nothing changed since.
 *   P2  Without a thread that looks for jobs, who waits does (executor.h, must_drive).
 *   P3  After the deadline of a close no attempt begins, and each job that has not begun has been told.
 */
#include "os/futex.h"
#include "resource/executor.h"
#include "share/wait.h"

#include <errno.h>
#include <string.h>

/* ---- sleeping ---- */

/* Sleeps on home until a job may start, too. */
static void sleep_driving(
        struct pnx_executor *executor, struct pnx__executor_effects *effects, pnx_ns deadline) {
    pnx_ns until = deadline;
    if (executor->core.next_timer < until)
        until = executor->core.next_timer;
    if (!executor->tick && executor->start_at > executor->core.now && executor->start_at < until)
        until = executor->start_at; /* to try again to get a thread */
    if (executor->driving++ == 0 || until < executor->driving_until)
        executor->driving_until = until;
    uint32_t seen =
            pnx_load(&executor->home, PNX_RELAXED, "executor_wait.home"); /* the lock orders it */
    pnx__executor_unlock(executor, effects);
    (void)pnx__wait(&executor->home, seen, &executor->env, until);
    pnx__mutex_lock(&executor->lock);
    executor->driving--;
}

bool pnx__executor_idle(struct pnx_executor *executor, const struct pnx_a32 *word,
        uint32_t expected, pnx_ns deadline) {
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    if (!pnx__executor_must_drive_locked(executor)) {
        pnx__executor_unlock(executor, &effects);
        (void)pnx__wait(word, expected, &executor->env, deadline);
        pnx__mutex_lock(&executor->lock);
        return true;
    }
    bool ran;
    if (!pnx__executor_drive(executor, &effects, &ran))
        return false;
    if (ran) {
        pnx__executor_unlock(executor, &effects);
        pnx__mutex_lock(&executor->lock);
    } else {
        sleep_driving(executor, &effects, deadline);
    }
    return true;
}

/* Waits for something that home tells of.  false: forked. */
static bool idle_at_home(struct pnx_executor *executor, pnx_ns deadline) {
    uint32_t seen =
            pnx_load(&executor->home, PNX_RELAXED, "executor_wait.seen"); /* the lock orders it */
    return pnx__executor_idle(executor, &executor->home, seen, deadline);
}

static void unlock(struct pnx_executor *executor) {
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__executor_unlock(executor, &effects);
}

/* ---- wait, drain ---- */

/* Waits until the waiter's jobs have ended.  Lock held before, not after. */
static int wait_for(struct pnx_executor *executor, struct pnx__executor_waiter *waiter,
        pnx_ns deadline, int *ret_code) {
    pnx__list_push_back(&executor->waiters, &waiter->link);
    executor->refs++;
    while (waiter->left > 0 && pnx__now(&executor->env) < deadline) {
        if (!idle_at_home(executor, deadline))
            return -ESHUTDOWN; /* a job that ran here has forked, and this is the child */
    }
    int rc = waiter->left > 0 ? -ETIMEDOUT : 0;
    pnx__list_remove(&waiter->link);
    executor->refs--;
    unlock(executor);
    if (rc == 0 && ret_code)
        *ret_code = waiter->code;
    return rc;
}

/* What wait, drain and close check first; *ret_deadline. */
static int may_wait(const struct pnx_executor *executor, pnx_ns timeout, pnx_ns *ret_deadline) {
    if (!executor)
        return -EINVAL;
    pnx__executor_check(executor);
    int rc = pnx__timeout(timeout, -1, NULL, &timeout);
    if (rc)
        return rc;
    if (pnx__executor_inside(executor))
        return -EDEADLK;
    *ret_deadline = pnx__deadline(pnx__now(&executor->env), timeout);
    return 0;
}

int pnx_executor_wait(struct pnx_executor *executor, pnx_job_id id, pnx_ns timeout, int *ret_code) {
    pnx_ns deadline;
    int rc = may_wait(executor, timeout, &deadline);
    if (rc)
        return rc;
    if (pnx__executor_forked(executor))
        return -ESTALE;
    pnx__mutex_lock(&executor->lock);
    const struct pnx__job *job = pnx__executor_core_find(&executor->core, id);
    if (job && job->state != PNX__JOB_FREE) {
        struct pnx__executor_waiter waiter = {.job = job, .left = 1};
        return wait_for(executor, &waiter, deadline, ret_code);
    }
    int code = job ? job->code : 0;
    pnx__mutex_unlock(&executor->lock);
    if (!job)
        return -ESTALE;
    if (ret_code)
        *ret_code = code;
    return 0;
}

int pnx_executor_drain(struct pnx_executor *executor, pnx_ns timeout) {
    pnx_ns deadline;
    int rc = may_wait(executor, timeout, &deadline);
    if (rc || pnx__executor_forked(executor))
        return rc;
    pnx__mutex_lock(&executor->lock);
    struct pnx__executor_waiter waiter = {
            .serial = executor->core.serial,
            .left = pnx__executor_core_alive(&executor->core),
    };
    return wait_for(executor, &waiter, deadline, NULL);
}

/* ---- close ---- */

/* Those who wait for room get none.  Lock held before and after. */
static void refuse_blocked(struct pnx_executor *executor) {
    struct pnx__executor_effects effects;
    while (!pnx__list_empty(&executor->blocked)) {
        pnx__executor_effects_init(&effects);
        for (int i = 0; i < PNX_EXECUTOR_WAKES / 2; i++) {
            struct pnx_link *link = pnx__list_pop_front(&executor->blocked);
            if (!link)
                break;
            struct pnx__executor_blocked *blocked =
                    PNX_CONTAINER(link, struct pnx__executor_blocked, link);
            /* relaxed: the lock orders it */
            pnx_store(&blocked->outcome, PNX__BLOCKED_REFUSED, PNX_RELAXED, "executor_wait.refuse");
            pnx__executor_wake(&effects, &blocked->outcome);
        }
        effects.wake_waiters = executor->driving > 0;
        pnx__executor_unlock(executor, &effects);
        pnx__mutex_lock(&executor->lock);
    }
}

/* Lock held before and after. */
static void begin_close(struct pnx_executor *executor, pnx_ns deadline) {
    pnx_ns now = pnx__now(&executor->env);
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    if (!executor->core.closing) {
        executor->closed_at = now;
        executor->at_close = pnx__executor_core_alive(&executor->core);
    }
    pnx__executor_core_close(&executor->core, deadline, now);
    pnx__executor_advance_locked(executor, now, &effects);
    pnx__executor_unlock(executor, &effects);
    pnx__mutex_lock(&executor->lock);
    refuse_blocked(executor);
}

/* The time is over: lock held before and after.  false: forked. */
static bool end_rest(struct pnx_executor *executor) {
    struct pnx__executor_effects effects;
    struct pnx__job *job;
    pnx__executor_core_ask_all(&executor->core);
    pnx__executor_effects_init(&effects);
    while ((job = pnx__executor_core_drop(&executor->core)) != NULL) {
        executor->dropped = true;
        if (!pnx__executor_conclude(executor, job, &effects))
            return false;
    }
    pnx__executor_unlock(executor, &effects);
    pnx__mutex_lock(&executor->lock);
    return true;
}

static int report_locked(const struct pnx_executor *executor, struct pnx_executor_report *ret) {
    ret->done = executor->closed[PNX__FATE_DONE];
    ret->failed = executor->closed[PNX__FATE_FAILED];
    ret->canceled = executor->closed[PNX__FATE_CANCELED];
    ret->abandoned = pnx__executor_core_alive(&executor->core);
    ret->took_ns = pnx__now(&executor->env) - executor->closed_at;
    return executor->dropped || ret->abandoned ? -ETIMEDOUT : 0;
}

/*
 * What guards have handed over was to be ended by somebody: by this thread, then, unless the jobs are a loop's on
 * another one.  All else is called off.
 */
static bool run_rest(struct pnx_executor *executor) {
    struct pnx__executor_effects effects;
    struct pnx__job *job;
    bool may_run = !executor->tick || pnx__executor_must_drive_locked(executor);
    pnx__executor_effects_init(&effects);
    while ((job = pnx__executor_core_first(&executor->core)) != NULL) {
        bool runs = may_run && job->spec.guard;
        bool here;
        if (runs) {
            pnx__executor_core_start_last(&executor->core, job, pnx__now(&executor->env));
            here = pnx__executor_run(executor, job, &effects);
        } else {
            pnx__executor_core_call_off(&executor->core, job);
            executor->dropped = true;
            here = pnx__executor_conclude(executor, job, &effects);
        }
        if (!here)
            return false;
    }
    pnx__executor_unlock(executor, &effects);
    pnx__mutex_lock(&executor->lock);
    return true;
}

static void tell_closed(struct pnx_executor *executor, int code, size_t lost) {
    pnx__event(&executor->block, PNX_EVENT_EXECUTOR_CLOSED, executor->name, code, NULL,
            (int64_t)lost, 0);
}

bool pnx__executor_give_up(struct pnx_executor *executor) {
    begin_close(executor, pnx__now(&executor->env));
    pnx__executor_core_ask_all(&executor->core);
    if (!run_rest(executor))
        return false;
    if (executor->told)
        return true;
    executor->told = true;
    struct pnx_executor_report report;
    int code = report_locked(executor, &report);
    pnx__mutex_unlock(&executor->lock);
    tell_closed(executor, code, (executor->dropped ? report.canceled : 0) + report.abandoned);
    pnx__mutex_lock(&executor->lock);
    return true;
}

void pnx__executor_wait_threads(struct pnx_executor *executor, pnx_ns deadline) {
    while (executor->live > 0 && pnx__executor_core_alive(&executor->core) == 0 &&
            pnx__now(&executor->env) < deadline) {
        uint32_t seen = pnx_load(
                &executor->home, PNX_RELAXED, "executor_wait.threads"); /* the lock orders it */
        unlock(executor);
        (void)pnx__wait(&executor->home, seen, &executor->env, deadline);
        pnx__mutex_lock(&executor->lock);
    }
}

/* Lock held before, not after. */
static int close_until(
        struct pnx_executor *executor, pnx_ns deadline, struct pnx_executor_report *ret_report) {
    executor->refs++;
    begin_close(executor, deadline);
    while (pnx__executor_core_alive(&executor->core) > 0) {
        if (pnx__now(&executor->env) >= deadline) {
            if (!end_rest(executor))
                return -ESHUTDOWN;
            break;
        }
        if (!idle_at_home(executor, deadline))
            return -ESHUTDOWN;
    }
    pnx__executor_wait_threads(executor, deadline);
    int rc = report_locked(executor, ret_report);
    bool tells = !executor->told;
    executor->told = true;
    pnx__mutex_unlock(&executor->lock);
    pnx__executor_join(executor, NULL);
    if (tells)
        tell_closed(executor, rc,
                (executor->dropped ? ret_report->canceled : 0) + ret_report->abandoned);
    pnx__mutex_lock(&executor->lock);
    executor->refs--;
    unlock(executor);
    return rc;
}

int pnx_executor_close(
        struct pnx_executor *executor, pnx_ns timeout, struct pnx_executor_report *ret_report) {
    struct pnx_executor_report report = {0};
    pnx_ns deadline;
    if (ret_report && ret_report->size < sizeof(size_t))
        return -EINVAL;
    int rc = may_wait(executor, timeout, &deadline);
    if (rc)
        return rc;
    if (!pnx__executor_forked(executor)) {
        pnx__mutex_lock(&executor->lock);
        rc = close_until(executor, deadline, &report);
    }
    if (ret_report) {
        size_t n = ret_report->size < sizeof(report) ? ret_report->size : sizeof(report);
        report.size = n;
        memcpy(ret_report, &report, n);
    }
    return rc;
}
