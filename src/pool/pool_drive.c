/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_drive.c - who runs the pool's jobs and timers: its threads, or its callers.
 *
 * Threads are started when there is a job and nobody parked to take it, so that one of them is always left to
 * watch the timers (the keeper); the others end when they have had nothing to do for a while.  A thread that is
 * woken or started looks for jobs itself, and wakes or starts the next one before it runs its own.
 *
 *   D1  When a job can run, somebody who will look for jobs is awake, or being woken or started; without
 *       threads: its waiter is, or it waits for the next tick.
 *   D2  After an unlock that left the pool without anybody, it is freed once.
 *   D3  A thread of the pool is joined, or, when it is the one that frees the pool, detached.
 */
#include "os/clock.h"
#include "os/futex.h"
#include "os/thread.h"
#include "pool/pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Debug builds walk the whole of pools of up to so many slots at every unlock. */
#define CHECKED_SLOTS 16

void pnx__pool_sleep(
        const struct pnx_pool *pool, const struct pnx_a32 *word, uint32_t expected, pnx_ns until) {
    if (!pool->system_clock && until != PNX_NEVER)
        until = pnx__deadline(pnx__os_now(), pnx__remaining(pnx__now(&pool->env), until));
    pnx__futex_wait(word, expected, until);
}

void pnx__pool_wake(struct pnx__pool_effects *effects) {
    for (uint32_t i = 0; i < effects->wakes; i++)
        pnx__futex_wake(effects->wake[i], 1);
    effects->wakes = 0;
}

static bool threadless(const struct pnx_pool *pool) {
    return (pool->flags & PNX_POOL_NO_THREADS) != 0;
}

#ifdef PNX_DEBUG
void pnx__pool_check_locked(const struct pnx_pool *pool) {
    const char *broken = NULL;
    if (pool->core.capacity <= CHECKED_SLOTS && pool->core.waiting <= CHECKED_SLOTS)
        broken = pnx__pool_core_check(&pool->core);
    if (broken) {
        fprintf(stderr, "patinox: pool \"%s\": %s\n", pool->name, broken);
        abort();
    }
}
#endif

/* What pnx__pool_unlock() decided under the lock. */
struct plan {
    uint32_t wake_threads;
    bool wake_closers;
    bool start; /* a thread; refs, threads and starting already count it */
    bool drive; /* jobs here; refs counts this */
    bool news;  /* something to tell; refs counts this */
    bool destroy;
    /* What the news say. */
    int code;
    uint32_t failures;
    uint32_t epoch;
    pnx_ns open_for;
    void (*tell)(void *key); /* the pool's group, with what it gave */
    void *key;
};

static bool unused(const struct pnx_pool *pool) {
    return pool->released && pool->refs == 0 && pool->core.size == 0;
}

static void plan_work_locked(
        struct pnx_pool *pool, struct pnx__pool_effects *effects, struct plan *plan) {
    const struct pnx__pool_core *core = &pool->core;
    if (effects->work && pnx__pool_core_runnable(core, false, core->now)) {
        if (threadless(pool)) {
            plan->drive = true;
        } else if (pool->parked > 0) {
            plan->wake_threads = 1;
        } else if (pool->starting == 0) {
            plan->start = true;
        }
    }
    if (effects->timer && pool->keeper && pnx__pool_due(pool) < pool->keeper_until)
        plan->wake_threads = UINT32_MAX;
    if (effects->timer && pool->threads == 0 && !threadless(pool) && pnx__heap_first(&core->timers))
        plan->start = true; /* nobody who blocks looks after the deadlines of requests */
    if (plan->start) {
        pool->refs++;
        pool->threads++;
        pool->starting++;
    }
    if (plan->drive || plan->start)
        pool->refs++;
}

static void bump_locked(struct pnx_a32 *seq) {
    /* pairs with pool_drive.seq: who reads the new number under the lock sees the work */
    pnx_fetch_add(seq, 1, PNX_RELEASE, "pool_drive.bump");
}

static uint32_t seq_locked(const struct pnx_a32 *seq) {
    return pnx_load(seq, PNX_ACQUIRE, "pool_drive.seq"); /* pairs with pool_drive.bump */
}

static void plan_tidings_locked(struct pnx_pool *pool, struct pnx__pool_effects *effects) {
    struct pnx__pool_member *member = &pool->member;
    if (!pnx__pool_has_tidings(pool))
        return;
    effects->hungry = true;
    member->told = true;
    member->at = PNX_NEVER;
    /* taken while the member is there, which has one of its own; given back under the group's lock */
    pnx_fetch_add(member->key_refs, 1, PNX_RELAXED, "pool_drive.tidings");
}

static void plan_news_locked(
        struct pnx_pool *pool, struct pnx__pool_effects *effects, struct plan *plan) {
    const struct pnx__pool_core *core = &pool->core;
    plan_tidings_locked(pool, effects);
    pnx__pool_ref_requests_locked(effects->done);
    plan->news = pnx__pool_has_news(effects);
    if (!plan->news)
        return;
    pool->refs++;
    plan->tell = pool->member.tell;
    plan->key = pool->member.key;
    plan->code = core->failure.code;
    plan->failures = core->failures;
    plan->epoch = core->epoch;
    plan->open_for = core->now - pool->breaker_since;
    if (effects->opened)
        pool->breaker_since = core->now;
}

static void plan_end_locked(
        struct pnx_pool *pool, struct pnx__pool_effects *effects, struct plan *plan) {
    /* Without threads the first waiter watches the timers; it may sleep towards a later one. */
    if (effects->timer && pool->threads == 0)
        pnx__pool_core_poke(&pool->core, effects);
    plan->wake_closers = effects->ended && pool->closers > 0;
    if (pool->core.closing && pool->core.size == 0 && pool->parked > 0)
        plan->wake_threads = UINT32_MAX; /* they have nothing more to come */
    if (plan->wake_threads)
        bump_locked(&pool->work_seq);
    if (plan->wake_closers)
        bump_locked(&pool->home_seq);
    plan_news_locked(pool, effects, plan);
    plan->destroy = unused(pool) && !pool->destroying;
    if (plan->destroy)
        pool->destroying = true;
    pnx__pool_check_locked(pool);
}

static void tell_news(
        struct pnx_pool *pool, struct pnx__pool_effects *effects, const struct plan *plan) {
    if (effects->opened)
        pnx__event(&pool->block, PNX_EVENT_POOL_BREAKER_OPENED, pool->name, plan->code, "connect",
                plan->failures, 0);
    if (effects->closed)
        pnx__event(&pool->block, PNX_EVENT_POOL_BREAKER_CLOSED, pool->name, 0, NULL, plan->open_for,
                0);
    if (effects->stale)
        pnx__event(&pool->block, PNX_EVENT_POOL_RESET, pool->name, 0, NULL, plan->epoch, 0);
    pnx__pool_deliver(effects->done);
    if (effects->hungry)
        plan->tell(plan->key);
    for (bool more = effects->more; more;) {
        struct pnx__pool_effects rest;
        pnx__pool_effects_init(&rest);
        pnx__pool_lock(pool);
        pnx__pool_core_go_on(&pool->core, &rest);
        more = rest.more;
        rest.more = false;
        pnx__pool_unlock(pool, &rest, NULL);
    }
}

/* Unlocks, wakes, and tells; true: the caller has plan's ref to drop.  Futexes are woken by address, so that the pool may
 * be gone. */
static bool unlock_and_tell(
        struct pnx_pool *pool, struct pnx__pool_effects *effects, const struct plan *plan) {
    pnx__mutex_unlock(&pool->lock);
    if (effects->wakes)
        pnx__pool_wake(effects);
    if (plan->wake_threads)
        pnx__futex_wake(&pool->work_seq, plan->wake_threads);
    if (plan->wake_closers)
        pnx__futex_wake(&pool->home_seq, UINT32_MAX);
    if (plan->news)
        tell_news(pool, effects, plan);
    else
        pnx__pool_deliver(effects->done); /* for which each of them keeps the pool */
    return plan->news;
}

/* The same, with the ref dropped. */
static void unlock_and_wake(
        struct pnx_pool *pool, struct pnx__pool_effects *effects, const struct plan *plan) {
    if (unlock_and_tell(pool, effects, plan))
        pnx__pool_drop_ref(pool);
}

/* There may be more to tell when all has been told: in a loop, so that the stack does not grow. */
void pnx__pool_drop_ref(struct pnx_pool *pool) {
    struct pnx__pool_effects effects;
    struct plan plan;
    do {
        plan = (struct plan){0};
        pnx__pool_effects_init(&effects);
        pnx__pool_lock(pool);
        pool->refs--;
        plan_end_locked(pool, &effects, &plan);
    } while (unlock_and_tell(pool, &effects, &plan));
    if (plan.destroy)
        pnx__pool_destroy(pool, NULL);
}

bool pnx__pool_await_locked(struct pnx_pool *pool, pnx_ns deadline) {
    uint32_t seq = seq_locked(&pool->home_seq);
    pool->closers++;
    pnx__mutex_unlock(&pool->lock);
    bool late = pnx__now(&pool->env) >= deadline;
    if (!late)
        pnx__pool_sleep(pool, &pool->home_seq, seq, deadline);
    pnx__pool_lock(pool);
    pool->closers--;
    return !late;
}

/* ---- callers that run jobs ---- */

static bool has_outcome(const struct pnx__pool_waiter *waiter) {
    /* pairs with pool_core.outcome; only asked here, read in pool_acquire.c */
    uint32_t outcome = pnx_load(&waiter->outcome, PNX_RELAXED, "pool_drive.outcome");
    return outcome == PNX__POOL_GRANTED || outcome == PNX__POOL_REFUSED;
}

/* Runs jobs on this thread: closes, and others as long as the driver is ready to and has a reason. */
static void drive(struct pnx_pool *pool, const struct pnx__pool_driver *driver) {
    struct pnx__pool_effects effects;
    for (;;) {
        struct plan plan = {0};
        pnx_ns now = pnx__now(&pool->env);
        pnx__pool_effects_init(&effects);
        pnx__pool_lock(pool);
        bool served = driver && driver->waiter && has_outcome(driver->waiter);
        bool any = driver && driver->any && !served && now < driver->deadline;
        struct pnx_slot *slot = NULL;
        if (!served || pool->core.closing) /* who has a lease leaves the closing to the next one */
            slot = pnx__pool_core_next_job(&pool->core, !any, now, &effects);
        if (!slot) {
            /* Those who still wait must not wait for a job that nobody runs. */
            if (!any && pnx__pool_core_runnable(&pool->core, false, now))
                pnx__pool_core_poke(&pool->core, &effects);
            plan_end_locked(pool, &effects, &plan);
            unlock_and_wake(pool, &effects, &plan);
            return; /* destroy is impossible: this call has a ref */
        }
        unlock_and_wake(pool, &effects, &plan);
        pnx__pool_effects_init(&effects);
        pnx__pool_run_job(pool, slot, &effects);
        plan_end_locked(pool, &effects, &plan);
        unlock_and_wake(pool, &effects, &plan);
    }
}

void pnx__pool_run_peeks(struct pnx_pool *pool, const struct pnx__pool_waiter *waiter) {
    struct pnx__pool_effects effects;
    for (;;) {
        pnx_ns now = pnx__now(&pool->env);
        pnx__pool_effects_init(&effects);
        pnx__pool_lock(pool);
        struct pnx_slot *slot = NULL;
        if (!has_outcome(waiter))
            slot = pnx__pool_core_next_peek(&pool->core, now, &effects);
        effects.work = !slot; /* what remains is for others */
        pnx__pool_unlock(pool, &effects, NULL);
        if (!slot)
            return;
        pnx__pool_effects_init(&effects);
        pnx__pool_run_job(pool, slot, &effects);
        effects.work = false;
        pnx__pool_unlock(pool, &effects, NULL);
    }
}

/* ---- threads ---- */

static void thread_main(void *arg);

void pnx__pool_join_ended(struct pnx_pool *pool, struct pnx__pool_thread *self) {
    pnx__pool_lock(pool);
    struct pnx__pool_thread *list = pool->ended;
    pool->ended = NULL;
    pnx__mutex_unlock(&pool->lock);
    while (list) {
        struct pnx__pool_thread *thread = list;
        list = thread->next;
        if (thread == self)
            pnx__thread_detach(&thread->os);
        else
            pnx__thread_join(&thread->os);
        pnx__free(&pool->env, thread, 1, sizeof(*thread));
    }
}

static void push_ended_locked(struct pnx_pool *pool, struct pnx__pool_thread *thread) {
    thread->next = pool->ended;
    pool->ended = thread;
}

/* Starts the thread that plan_work_locked() counted.  True when that failed and no other is free. */
static bool start_thread(struct pnx_pool *pool) {
    struct pnx_os_thread *os = NULL;
    char name[16];
    pnx__pool_join_ended(pool, NULL); /* so that they never pile up */
    snprintf(name, sizeof(name), "pnx-%.11s", pool->name);
    struct pnx__pool_thread *thread = pnx__alloc(&pool->env, 1, sizeof(*thread));
    int rc = -ENOMEM;
    if (thread) {
        thread->pool = pool;
        rc = pnx__thread_start(name, thread_main, thread, &os);
    }
    struct pnx__pool_effects effects;
    struct plan plan = {0};
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    if (rc) {
        pool->starting--;
        pool->threads--;
        pool->refs--;
        pnx__pool_count(&pool->core, PNX__POOL_STAT_thread_failures);
        effects.ended = true; /* a closer may wait for the number of threads */
        /* Jobs and timers are somebody else's now: a parked thread's, or a waiter's, since others may hang. */
        if (pool->parked > 0)
            plan.wake_threads = 1;
        else
            pnx__pool_core_poke(&pool->core, &effects);
    } else {
        thread->os = os;
        if (thread->ended)
            push_ended_locked(pool, thread);
    }
    bool none = rc && pool->parked == 0;
    plan_end_locked(pool, &effects, &plan);
    unlock_and_wake(pool, &effects, &plan);
    if (rc)
        pnx__free(&pool->env, thread, 1, sizeof(*thread));
    return none;
}

static void set_threads_gauge_locked(struct pnx_pool *pool) {
    /* read by exporters, which need no order */
    pnx_store(&pool->core.stats[PNX__POOL_STAT_threads], pool->threads - pool->starting,
            PNX_RELAXED, "pool_drive.gauge");
}

/* Runs one job; lock held before and after. */
static void thread_job(
        struct pnx_pool *pool, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    struct plan plan = {0};
    effects->work = true; /* there may be more */
    plan_work_locked(pool, effects, &plan);
    /* While this thread works, somebody has to watch the timers: a thread that wakes becomes the keeper. */
    if (!pool->keeper && !plan.start && pool->starting == 0 && pool->parked > 0 &&
            plan.wake_threads == 0)
        plan.wake_threads = 1;
    if (!plan.start && pool->parked == 0 && pool->starting == 0) {
        plan.start = true;
        pool->refs += 2;
        pool->threads++;
        pool->starting++;
    }
    plan_end_locked(pool, effects, &plan);
    unlock_and_wake(pool, effects, &plan);
    if (plan.start) {
        start_thread(pool); /* on failure this thread comes back and does it all itself */
        pnx__pool_drop_ref(pool);
    }
    pnx__pool_effects_init(effects);
    pnx__pool_run_job(pool, slot, effects);
}

/* What a tick does that calls the user; lock held before and after. */
static void tend_locked(struct pnx_pool *pool, struct pnx__pool_effects *effects) {
    struct plan plan = {0};
    if (!pool->manager.start && pool->core.config.held_too_long == PNX_NEVER)
        return;
    plan_end_locked(pool, effects, &plan);
    unlock_and_wake(pool, effects, &plan);
    pnx__pool_watch_held(pool);
    pnx__pool_tend_ops(pool);
    pnx__pool_effects_init(effects);
    pnx__pool_lock(pool);
}

/* Sleeps until there may be work; lock held before and after.  False when the thread may end. */
static bool thread_park(struct pnx_pool *pool, struct pnx__pool_effects *effects, bool *lingered) {
    bool keeper = !pool->keeper;
    if (!keeper && *lingered)
        return false;
    pnx_ns until = pnx__pool_due(pool);
    if (!keeper)
        until = pnx__deadline(pnx__now(&pool->env), pool->linger);
    if (keeper) {
        pool->keeper = true;
        pool->keeper_until = until;
    }
    uint32_t seq = seq_locked(&pool->work_seq);
    struct plan plan = {0};
    effects->work = false; /* this thread has just looked */
    plan_work_locked(pool, effects, &plan);
    pool->parked++;
    plan_end_locked(pool, effects, &plan);
    unlock_and_wake(pool, effects, &plan);
    pnx__pool_sleep(pool, &pool->work_seq, seq, until);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    pool->parked--;
    if (keeper)
        pool->keeper = false;
    *lingered = !keeper && now >= until;
    pnx__pool_effects_init(effects);
    pnx__pool_see(&pool->core, now);
    if (now >= pool->core.next_timer) {
        pnx__pool_core_tick(&pool->core, now, effects);
        pnx__pool_health_locked(pool);
        tend_locked(pool, effects);
    }
    return true;
}

static void thread_main(void *arg) {
    struct pnx__pool_thread *self = arg;
    struct pnx_pool *pool = self->pool;
    struct pnx__pool_effects effects;
    PNX__POOL_CALL(call);
    bool lingered = false;
    pnx__pool_call_enter(pool, &call); /* for good: nothing here may wait for the pool */
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pool->starting--;
    set_threads_gauge_locked(pool);
    for (;;) {
        pnx_ns now = pnx__now(&pool->env);
        struct pnx_slot *slot = pnx__pool_core_next_job(&pool->core, false, now, &effects);
        if (slot) {
            lingered = false;
            thread_job(pool, slot, &effects);
            continue;
        }
        if (pool->core.closing && pool->core.size == 0)
            break;
        if (!thread_park(pool, &effects, &lingered))
            break;
    }
    struct plan plan = {0};
    /* While this thread has its ref, so that the last one is not dropped there. */
    while (pnx__pool_has_tasks(&effects) || pnx__pool_has_tidings(pool)) {
        plan_end_locked(pool, &effects, &plan);
        unlock_and_wake(pool, &effects, &plan);
        pnx__pool_effects_init(&effects);
        plan = (struct plan){0};
        pnx__pool_lock(pool);
    }
    pool->threads--;
    pool->refs--;
    set_threads_gauge_locked(pool);
    self->ended = true;
    if (self->os)
        push_ended_locked(pool, self);
    effects.ended = true;
    plan_end_locked(pool, &effects, &plan);
    unlock_and_wake(pool, &effects, &plan);
    pnx__pool_call_leave(&call);
    if (plan.destroy)
        pnx__pool_destroy(pool, self);
}

void pnx__pool_unlock(struct pnx_pool *pool, struct pnx__pool_effects *effects,
        const struct pnx__pool_driver *driver) {
    struct plan plan = {0};
    if (effects->work || effects->timer)
        plan_work_locked(pool, effects, &plan);
    plan_end_locked(pool, effects, &plan);
    unlock_and_wake(pool, effects, &plan);
    bool has_ref = plan.drive || plan.start;
    if (plan.start && start_thread(pool))
        plan.drive = true; /* rather late, on this thread, than never */
    if (plan.drive)
        drive(pool, driver);
    if (has_ref)
        pnx__pool_drop_ref(pool);
    if (plan.destroy)
        pnx__pool_destroy(pool, NULL);
}
