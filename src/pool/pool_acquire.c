/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_acquire.c - borrowing: the short way, the queue, the deadline, and the error that explains itself.
 *
 *   A1  The short way takes one lock, one look at the coarse clock, and allocates nothing.
 *   A2  The deadline is computed once, from the exact clock, when the caller has its place in the queue.
 *   A3  A caller leaves with a lease if it was granted one, even when its deadline has passed meanwhile.
 */
#include "os/thread.h"
#include "pool/pool.h"

#include <inttypes.h>
#include <stdio.h>

/* One lease in so many has its hold time measured. */
#define HOLD_SAMPLE 64

/* What an error message tells of the pool: copied under the lock. */
struct picture {
    const char *phase;
    uint32_t n[PNX__POOL_STATES];
    uint32_t max;
    uint32_t waiting;
    struct pnx__pool_failure failure;
    pnx_ns now;
};

static void take_picture_locked(const struct pnx_pool *pool, struct picture *ret_picture) {
    const struct pnx__pool_core *core = &pool->core;
    ret_picture->phase = pnx__pool_core_phase(core);
    for (int i = 0; i < PNX__POOL_STATES; i++)
        ret_picture->n[i] = core->n[i];
    ret_picture->max = core->max;
    ret_picture->waiting = core->waiting;
    ret_picture->failure = core->failure;
    ret_picture->now = core->now;
}

/* Ends an acquire that failed for a reason that lies in the pool's state. */
static int fail_pictured(struct pnx_pool *pool, int code, const char *phase, pnx_ns waited,
        const struct picture *picture, struct pnx_error *err) {
    pnx__event(&pool->block, PNX_EVENT_POOL_ACQUIRE_FAILED, pool->name, code, phase, waited, 0);
    if (!err)
        return code;
    const struct pnx__pool_failure *failure = &picture->failure;
    char why[180] = "";
    if (failure->code && failure->at <= picture->now)
        snprintf(why, sizeof(why), "; last connect error %.1f s ago: %s",
                (double)(picture->now - failure->at) / (double)PNX_SEC, failure->message);
    int cause = failure->code && picture->now - failure->at <= waited + PNX_SEC ? failure->code : 0;
    return pnx__fail(err, code, cause, phase,
            "pool \"%.40s\": %s after %.3f s (%s): %" PRIu32 " of %" PRIu32 " in use, %" PRIu32
            " idle, %" PRIu32 " connecting, %" PRIu32 " waiting%s",
            pool->name, code == -EBUSY ? "too many are waiting" : "no resource",
            (double)waited / (double)PNX_SEC, phase, picture->n[PNX__POOL_IN_USE], picture->max,
            picture->n[PNX__POOL_IDLE], picture->n[PNX__POOL_CONNECTING], picture->waiting, why);
}

static int fail_closed(struct pnx_pool *pool, struct pnx_error *err) {
    pnx__event(&pool->block, PNX_EVENT_POOL_ACQUIRE_FAILED, pool->name, -ESHUTDOWN, "closed", 0, 0);
    return pnx__fail(err, -ESHUTDOWN, 0, "closed", "pool \"%.40s\" is closed", pool->name);
}

/* Gives up the place in the queue, unless the outcome came first: then false. */
static bool give_up(struct pnx_pool *pool, struct pnx__pool_waiter *waiter, pnx_ns waited,
        pnx_ns now, struct picture *ret_picture) {
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pnx__pool_see(&pool->core, now);
    take_picture_locked(pool, ret_picture);
    bool gone = pnx__pool_core_cancel(&pool->core, waiter, &effects);
    if (gone) {
        pnx__pool_count(&pool->core, PNX__POOL_STAT_timeouts);
        pnx_owner_add(&pool->core.stats[PNX__POOL_STAT_wait_time], (uint64_t)waited);
        pool->core.starved_at = pool->core.now;
        pnx__pool_timer(
                &pool->core, pnx__deadline(pool->core.now, PNX__POOL_STARVED_FOR), &effects);
        pnx__pool_health_locked(pool);
        if (pool->threads == 0)
            pnx__pool_core_poke(&pool->core, &effects); /* the next one watches the timers */
    }
    pnx__pool_unlock(pool, &effects, NULL);
    return gone;
}

/*
 * In a pool without threads the waiter is the one who runs its jobs and timers.  Returns until when it may sleep
 * before it must do so again.
 */
static pnx_ns drive_as_waiter(
        struct pnx_pool *pool, struct pnx__pool_waiter *waiter, pnx_ns deadline, bool poked) {
    struct pnx__pool_effects effects;
    struct pnx__pool_driver driver = {.any = true, .waiter = waiter, .deadline = deadline};
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    if (pool->threads > 0 && !poked) {
        pnx__mutex_unlock(&pool->lock);
        return deadline;
    }
    if (pnx__list_linked(&waiter->link))
        /* under the lock, where it was set to POKED; nobody else reads it while it waits */
        pnx_store(&waiter->outcome, PNX__POOL_WAITING, PNX_RELAXED, "pool_acquire.again");
    if (now >= pool->core.next_timer)
        pnx__pool_core_tick(&pool->core, now, &effects);
    effects.work = true;
    pnx__pool_see(&pool->core, now);
    pnx__pool_unlock(pool, &effects, &driver);

    pnx__pool_lock(pool);
    pnx_ns until = deadline;
    if (pool->threads == 0 && pool->core.next_timer < until)
        until = pool->core.next_timer;
    pnx__mutex_unlock(&pool->lock);
    return until;
}

static int granted(struct pnx_pool *pool, const struct pnx__pool_waiter *waiter, pnx_ns since,
        struct pnx_lease *ret_lease) {
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_wait], now - since);
    pnx_owner_add(
            &pool->core.stats[PNX__POOL_STAT_wait_time], now > since ? (uint64_t)(now - since) : 0);
    if (pool->threads == 0)
        pnx__pool_core_poke(&pool->core, &effects); /* the next one watches the timers */
    pnx__pool_unlock(pool, &effects, NULL);
    *ret_lease = (struct pnx_lease){.slot = waiter->slot, .generation = waiter->generation};
    return 0;
}

/* Waits in the queue; the lock is held, and released here.  effects are those of joining it. */
static int wait_locked(struct pnx_pool *pool, struct pnx__pool_waiter *waiter, pnx_ns timeout,
        struct pnx__pool_effects *effects, struct pnx_error *err, struct pnx_lease *ret_lease) {
    bool alone = pool->flags & PNX_POOL_NO_THREADS;
    pnx_ns since, deadline, until;
    if (alone) {
        pnx__mutex_unlock(&pool->lock);
        since = pnx__now(&pool->env);
        deadline = pnx__deadline(since, timeout);
        until = since; /* to drive at once */
    } else {
        pnx__pool_unlock(pool, effects, NULL);
        since = pnx__now(&pool->env);
        deadline = pnx__deadline(since, timeout);
        until = deadline;
    }
    for (;;) {
        /* pairs with pool_core.outcome: slot and generation are ready with it */
        uint32_t outcome = pnx_load(&waiter->outcome, PNX_ACQUIRE, "pool_acquire.outcome");
        if (outcome == PNX__POOL_GRANTED)
            return granted(pool, waiter, since, ret_lease);
        if (outcome == PNX__POOL_REFUSED)
            return fail_closed(pool, err);
        pnx_ns now = pnx__now(&pool->env);
        struct picture picture;
        if (now >= deadline) {
            if (give_up(pool, waiter, now - since, now, &picture))
                return fail_pictured(pool, -ETIMEDOUT, picture.phase, now - since, &picture, err);
            continue;
        }
        if (outcome == PNX__POOL_POKED || now >= until) {
            until = drive_as_waiter(pool, waiter, deadline, outcome == PNX__POOL_POKED);
            continue;
        }
        pnx__pool_sleep(pool, &waiter->outcome, PNX__POOL_WAITING, until);
    }
}

/* Nothing was to be had at once; the lock is held. */
static int acquire_slowly(struct pnx_pool *pool, pnx_ns timeout, struct pnx__pool_effects *effects,
        struct pnx_error *err, struct pnx_lease *ret_lease) {
    struct picture picture;
    if (pool->core.closing) {
        pnx__pool_unlock(pool, effects, NULL);
        return fail_closed(pool, err);
    }
    if (timeout == 0) {
        pnx__pool_core_wish(&pool->core, effects);
        take_picture_locked(pool, &picture);
        pnx__pool_unlock(pool, effects, NULL);
        return fail_pictured(pool, -ETIMEDOUT, picture.phase, 0, &picture, err);
    }
    if (pnx__pool_call_inside(pool)) {
        pnx__pool_unlock(pool, effects, NULL);
        return pnx__fail(err, -EDEADLK, 0, "wait",
                "pool \"%.40s\": waiting inside one of its own operations", pool->name);
    }
    struct pnx__pool_waiter waiter;
    if (pnx__pool_core_enqueue(&pool->core, &waiter, effects) == 0)
        return wait_locked(pool, &waiter, timeout, effects, err, ret_lease);
    take_picture_locked(pool, &picture);
    pnx__pool_timer(&pool->core, pnx__deadline(pool->core.now, PNX__POOL_STARVED_FOR), effects);
    pnx__pool_health_locked(pool);
    pnx__pool_unlock(pool, effects, NULL);
    return fail_pictured(pool, -EBUSY, "queue", 0, &picture, err);
}

int pnx_pool_acquire(
        struct pnx_pool *pool, pnx_ns timeout, struct pnx_error *err, struct pnx_lease *ret_lease) {
    if (!pool || !ret_lease)
        return pnx__fail_field(err, -EINVAL, pool ? "ret_lease" : "pool",
                "pool.acquire: %s is NULL", pool ? "ret_lease" : "pool");
    int rc = pnx__timeout(timeout, pool->acquire_timeout, err, &timeout);
    if (rc)
        return rc;
    if (pnx__pool_forked(pool))
        return pnx__fail(err, -ESHUTDOWN, 0, "fork",
                "pool \"%.40s\" was made before fork(), in the parent of this process", pool->name);
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pool->env.now_coarse(pool->env.ctx);
    uint64_t generation;
    pnx__pool_lock(pool);
    struct pnx_slot *slot = pnx__pool_core_take(&pool->core, now, &effects, &generation);
    if (!slot)
        return acquire_slowly(pool, timeout, &effects, err, ret_lease);
    /* the lock orders all writers but readers of statistics */
    uint64_t count =
            pnx_load(&pool->core.stats[PNX__POOL_STAT_acquires], PNX_RELAXED, "pool_acquire.count");
    pnx__pool_unlock_quiet(pool, &effects);
    if (count % HOLD_SAMPLE == 0)
        slot->hold_since = pnx__now(&pool->env);
    *ret_lease = (struct pnx_lease){.slot = slot, .generation = generation};
    return 0;
}
