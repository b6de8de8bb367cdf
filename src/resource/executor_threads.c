/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_threads.c - who will look for jobs next, and the threads that do.
 *
 * X1..X4 stand in executor.h.  A thread that takes a job sees to it that another one is left to watch the timers and
 * to take further jobs: it wakes one, or starts one, before it runs its own.  So submitting never starts a thread,
 * unless one could not be had before.
 */
#include "os/futex.h"
#include "os/notify.h"
#include "resource/executor.h"
#include "resource/shutdown.h"
#include "share/check.h"
#include "share/wait.h"

#include <stdio.h>
#include <stdlib.h>

/* Debug builds walk the whole of executors of up to so many jobs at every unlock. */
#define CHECKED_JOBS 16

static void thread_main(void *arg);

static struct pnx__executor_thread *thread_of(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx__executor_thread, link);
}

void pnx__executor_wake(struct pnx__executor_effects *effects, const struct pnx_a32 *word) {
    if (effects->wakes < PNX_EXECUTOR_WAKES)
        effects->wake[effects->wakes++] = word;
    else
        pnx__futex_wake(word, 1);
}

void pnx__executor_advance_locked(
        struct pnx_executor *executor, pnx_ns now, struct pnx__executor_effects *effects) {
    while (effects->n_overdue < PNX_EXECUTOR_OVERDUE) { /* for more, next_timer is due still */
        const struct pnx__job *job = pnx__executor_core_advance(&executor->core, now);
        if (!job)
            return;
        uint32_t i = effects->n_overdue++;
        effects->overdue[i].id = pnx__job_id(job);
        effects->overdue[i].name = job->spec.name;
        effects->overdue[i].site = job->spec.site;
    }
}

/* ---- deciding ---- */

static bool finished(const struct pnx_executor *executor) {
    return executor->core.closing && pnx__executor_core_alive(&executor->core) == 0;
}

static bool nobody_looks(const struct pnx_executor *executor) {
    return executor->searching == 0 && pnx__list_empty(&executor->parked);
}

bool pnx__executor_must_drive_locked(const struct pnx_executor *executor) {
    if (!executor->tick)
        return nobody_looks(executor);
    const struct pnx_thread *self = pnx__thread();
    return executor->driver == 0 || (self && self->id == executor->driver);
}

/* A parked thread is to search. */
static void unpark_locked(struct pnx_executor *executor, struct pnx__executor_thread *thread,
        struct pnx__executor_effects *effects) {
    pnx__list_remove(&thread->link);
    executor->searching++;
    if (executor->keeper == thread)
        executor->keeper = NULL;
    /* relaxed: the lock orders all that it tells of */
    pnx_store(&thread->woken, 1, PNX_RELAXED, "executor_threads.unpark");
    pnx__executor_wake(effects, &thread->woken);
}

/* The one that parked last, the keeper only if there is no other; NULL. */
static struct pnx__executor_thread *parked_thread(const struct pnx_executor *executor) {
    struct pnx_link *link = pnx__list_first(&executor->parked);
    if (!link)
        return NULL;
    if (thread_of(link) == executor->keeper && link->next != &executor->parked)
        link = link->next;
    return thread_of(link);
}

static void start_locked(struct pnx_executor *executor, struct pnx__executor_effects *effects) {
    if (effects->start || executor->core.now < executor->start_at)
        return;
    for (uint32_t i = 0; i < executor->n_threads; i++) {
        struct pnx__executor_thread *thread = &executor->threads[i];
        bool free = thread->state == PNX__THREAD_NONE ||
                    (thread->state == PNX__THREAD_ENDED && thread->os);
        if (!free)
            continue;
        effects->start = thread;
        effects->join = thread->os;
        thread->os = NULL;
        thread->state = PNX__THREAD_LIVE;
        executor->live++;
        executor->searching++;
        executor->refs++;
        return;
    }
}

/* X1, X2. */
static void plan_threads_locked(
        struct pnx_executor *executor, struct pnx__executor_effects *effects) {
    struct pnx__executor_thread *parked = parked_thread(executor);
    if (finished(executor)) {
        if (parked)
            unpark_locked(executor, parked, effects); /* which wakes the next when it ends */
        return;
    }
    if (executor->searching == 0) {
        if (parked && (pnx__executor_core_may_start(&executor->core) || !executor->keeper))
            unpark_locked(executor, parked, effects);
        else if (!parked)
            start_locked(executor, effects);
    }
    if (executor->keeper && executor->core.next_timer < executor->keeper_until)
        unpark_locked(executor, executor->keeper, effects); /* to park again, for less long */
}

static void plan_tick_locked(struct pnx_executor *executor, struct pnx__executor_effects *effects) {
    bool due = pnx__executor_core_may_start(&executor->core) ||
               executor->core.next_timer < executor->tick_until;
    if (!due || executor->signalled)
        return;
    executor->signalled = true;
    effects->signal = true;
}

static void plan_driving_locked(
        struct pnx_executor *executor, struct pnx__executor_effects *effects) {
    if (executor->driving == 0)
        return;
    if (pnx__executor_core_may_start(&executor->core) ||
            executor->core.next_timer < executor->driving_until)
        effects->wake_waiters = true;
}

static void set_health_locked(struct pnx_executor *executor) {
    enum pnx_health_status status = PNX_HEALTH_OK;
    const char *reason = "";
    if (executor->core.late >= executor->core.config.max_workers) {
        status = PNX_HEALTH_DOWN;
        reason = "as many jobs as may run have run out of time";
    } else if (executor->start_at != 0 && nobody_looks(executor)) {
        status = PNX_HEALTH_DEGRADED;
        reason = "a thread could not be started";
    } else if (executor->core.late > 0) {
        status = PNX_HEALTH_DEGRADED;
        reason = "a job has run out of time";
    }
    if (executor->health == status)
        return;
    executor->health = status;
    pnx__health_set(&executor->block, status, reason);
}

#ifdef PNX_DEBUG
static void check_locked(const struct pnx_executor *executor) {
    const char *broken = NULL;
    if (executor->core.capacity <= CHECKED_JOBS)
        broken = pnx__executor_core_check(&executor->core);
    if (!broken && !pnx__list_empty(&executor->blocked) &&
            pnx__executor_core_has_room(&executor->core))
        broken = "X4: a submitter waits though there is room";
    if (!broken)
        return;
    fprintf(stderr, "patinox: executor \"%s\": %s\n", executor->name, broken);
    abort();
}
#else
static void check_locked(const struct pnx_executor *executor) {
    (void)executor;
}
#endif

/* ---- doing ---- */

static void tell_overdue(
        const struct pnx_executor *executor, const struct pnx__executor_effects *effects) {
    for (uint32_t i = 0; i < effects->n_overdue; i++)
        pnx__event(&executor->block, PNX_EVENT_JOB_OVERDUE,
                effects->overdue[i].name ? effects->overdue[i].name : executor->name, 0,
                effects->overdue[i].site, (int64_t)effects->overdue[i].id, 0);
}

static int start(struct pnx_executor *executor, struct pnx__executor_effects *effects,
        struct pnx_os_thread **ret_os) {
    char name[16];
    snprintf(name, sizeof(name), "pnx-%.11s", executor->name);
    pnx__thread_join(&effects->join);
    return pnx__thread_start(name, thread_main, effects->start, ret_os);
}

static void note_start_locked(struct pnx_executor *executor, struct pnx__executor_thread *thread,
        int rc, struct pnx_os_thread *os) {
    if (rc == 0) {
        thread->os = os;
        executor->start_at = 0;
        return;
    }
    thread->state = PNX__THREAD_NONE;
    executor->live--;
    executor->searching--;
    executor->refs--;
    executor->start_at = pnx__deadline(executor->core.now, PNX_EXECUTOR_START_PAUSE);
    pnx__executor_count(&executor->core, PNX__EXECUTOR_STAT_thread_failures);
}

/* Does what may call out or block; the caller has a reference.  The lock is held afterwards, with new effects. */
static void act(struct pnx_executor *executor, struct pnx__executor_effects *effects) {
    struct pnx__executor_thread *thread = effects->start;
    struct pnx_os_thread *os = NULL;
    if (effects->signal) {
        pnx__eventfd_set(executor->fd);
        pnx__shutdown_stir(executor->registry); /* the loop's thread may be waiting for one */
    }
    int rc = thread ? start(executor, effects, &os) : 0;
    tell_overdue(executor, effects);
    const struct pnx__executor_thread *self = effects->self;
    pnx__mutex_lock(&executor->lock);
    pnx__executor_effects_init(effects);
    effects->self = (struct pnx__executor_thread *)(uintptr_t)self;
    if (thread)
        note_start_locked(executor, thread, rc, os);
    if (rc)
        effects->wake_waiters = true; /* for they may have to run jobs now */
}

void pnx__executor_unlock(struct pnx_executor *executor, struct pnx__executor_effects *effects) {
    for (;;) {
        if (executor->tick)
            plan_tick_locked(executor, effects);
        else
            plan_threads_locked(executor, effects);
        plan_driving_locked(executor, effects);
        set_health_locked(executor);
        if (effects->wake_waiters)
            /* relaxed: the lock orders all that it tells of */
            pnx_fetch_add(&executor->home, 1, PNX_RELAXED, "executor_threads.home");
        bool acts = effects->signal || effects->start || effects->n_overdue;
        executor->refs += acts;
        bool destroy = executor->released && executor->refs == 0 &&
                       pnx__executor_core_alive(&executor->core) == 0;
        check_locked(executor);
        pnx__mutex_unlock(&executor->lock);
        for (uint32_t i = 0; i < effects->wakes; i++)
            pnx__futex_wake(effects->wake[i], 1);
        if (effects->wake_waiters)
            pnx__futex_wake(&executor->home, UINT32_MAX);
        if (destroy)
            pnx__executor_destroy(executor, effects->self);
        if (!acts)
            return;
        act(executor, effects);
        executor->refs--;
    }
}

/* ---- threads ---- */

/* Sleeps until there may be work; the lock is held before and after.  false: the thread may end. */
static bool park(struct pnx_executor *executor, struct pnx__executor_thread *self,
        struct pnx__executor_effects *effects, bool *lingered) {
    bool keeper = !executor->keeper;
    if (!keeper && *lingered)
        return false;
    *lingered = false;
    pnx_ns until = executor->core.next_timer;
    if (keeper) {
        executor->keeper = self;
        executor->keeper_until = until;
    } else {
        until = pnx__deadline(executor->core.now, executor->linger);
    }
    pnx_store(&self->woken, 0, PNX_RELAXED, "executor_threads.park"); /* the lock orders it */
    pnx__list_push_front(&executor->parked, &self->link);
    executor->searching--;
    pnx__executor_unlock(executor, effects); /* this thread has a reference */
    (void)pnx__wait(&self->woken, 0, &executor->env, until);
    pnx__mutex_lock(&executor->lock);
    pnx__executor_effects_init(effects);
    if (!pnx__list_linked(&self->link))
        return true; /* somebody took it off, and counted it */
    pnx__list_remove(&self->link);
    executor->searching++;
    if (keeper)
        executor->keeper = NULL;
    *lingered = !keeper && pnx__now(&executor->env) >= until;
    return true;
}

static void count_thread_locked(struct pnx_executor *executor, uint64_t change) {
    pnx_owner_add(&executor->core.stats[PNX__EXECUTOR_STAT_threads], change);
}

static void thread_main(void *arg) {
    struct pnx__executor_thread *self = arg;
    struct pnx_executor *executor = self->executor;
    struct pnx__executor_effects effects;
    bool lingered = false;
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    count_thread_locked(executor, 1);
    for (;;) {
        pnx_ns now = pnx__now(&executor->env);
        pnx__executor_advance_locked(executor, now, &effects);
        struct pnx__job *job = pnx__executor_core_take(&executor->core, now);
        if (job) {
            lingered = false;
            executor->searching--;
            if (!pnx__executor_run(executor, job, &effects))
                return; /* the job has forked, and this is the child: its only thread ends */
            executor->searching++;
        } else if (finished(executor) || !park(executor, self, &effects, &lingered)) {
            break;
        }
    }
    executor->searching--;
    executor->live--;
    executor->refs--;
    count_thread_locked(executor, UINT64_MAX);
    self->state = PNX__THREAD_ENDED;
    effects.self = self;
    effects.wake_waiters = executor->core.closing;
    pnx__executor_unlock(executor, &effects);
}

int pnx__executor_start_first(struct pnx_executor *executor) {
    struct pnx__executor_effects effects;
    struct pnx_os_thread *os = NULL;
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    start_locked(executor, &effects);
    pnx__mutex_unlock(&executor->lock);
    struct pnx__executor_thread *thread = effects.start;
    PNX_DEBUG_CHECK(thread); /* nothing has put a start off yet, and all places are free */
    int rc = start(executor, &effects, &os);
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    note_start_locked(executor, thread, rc, os);
    pnx__mutex_unlock(&executor->lock);
    return rc;
}

void pnx__executor_join(struct pnx_executor *executor, const struct pnx__executor_thread *self) {
    for (uint32_t i = 0; i < executor->n_threads; i++) {
        struct pnx__executor_thread *thread = &executor->threads[i];
        struct pnx_os_thread *os = NULL;
        pnx__mutex_lock(&executor->lock);
        if (thread->state == PNX__THREAD_ENDED && thread->os) {
            os = thread->os;
            thread->os = NULL;
            thread->state = PNX__THREAD_NONE;
        }
        pnx__mutex_unlock(&executor->lock);
        if (thread == self)
            pnx__thread_detach(&os);
        else
            pnx__thread_join(&os);
    }
}
