/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_end.c - closing and releasing a pool.
 */
#include "pool/pool.h"

#include <errno.h>
#include <limits.h>

/* Refuses everybody, closes what is idle.  Lock held before and after; true for the caller who began it. */
static bool begin_close_locked(struct pnx_pool *pool) {
    bool first = !pool->core.closing;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    if (first)
        pnx__pool_core_close(&pool->core, &effects);
    effects.work = true; /* without threads, every caller of close runs what is left to close */
    pnx__pool_health_locked(pool);
    pnx__pool_unlock(pool, &effects, NULL);
    pnx__pool_lock(pool);
    return first;
}

static void await_home_locked(struct pnx_pool *pool, pnx_ns deadline) {
    while (pool->core.size > 0 || pool->threads > 0) {
        if (!pnx__pool_await_locked(pool, deadline))
            return;
    }
}

int pnx_pool_close_begin(struct pnx_pool *pool) {
    if (!pool)
        return -EINVAL;
    if (pnx__pool_forked(pool)) {
        pnx__pool_abandon_all(pool);
        return 0;
    }
    pnx__pool_lock(pool);
    pool->refs++;
    bool first = begin_close_locked(pool);
    uint32_t left = pool->core.size;
    pnx__mutex_unlock(&pool->lock);
    if (first)
        pnx__event(&pool->block, PNX_EVENT_POOL_CLOSED, pool->name, left ? -EINPROGRESS : 0, NULL,
                left, 0);
    pnx__pool_drop_ref(pool);
    return 0;
}

int pnx_pool_close_poll(struct pnx_pool *pool) {
    if (!pool)
        return -EINVAL;
    if (pnx__pool_forked(pool))
        return 0;
    pnx__pool_lock(pool);
    bool closing = pool->core.closing;
    uint32_t left = pool->core.size;
    pnx__mutex_unlock(&pool->lock);
    if (!closing)
        return -EAGAIN;
    return left < INT_MAX ? (int)left : INT_MAX;
}

int pnx_pool_close(struct pnx_pool *pool, pnx_ns timeout) {
    if (!pool)
        return -EINVAL;
    int rc = pnx__timeout(timeout, pool->close_timeout, NULL, &timeout);
    if (rc)
        return rc;
    if (pnx__pool_forked(pool)) {
        pnx__pool_abandon_all(pool);
        return 0;
    }
    pnx_ns start = pnx__now(&pool->env);
    pnx_ns deadline = pnx__deadline(start, timeout);
    bool inside = pnx__pool_call_inside(pool);
    struct pnx__pool_effects effects;
    pnx__pool_lock(pool);
    pool->refs++;
    bool first = begin_close_locked(pool);
    if (!inside)
        await_home_locked(pool, deadline);
    uint32_t left = pool->core.size;
    pnx__mutex_unlock(&pool->lock);
    if (left && !inside)
        pnx__pool_interrupt(pool); /* they have had their time */

    if (!inside)
        pnx__pool_join_ended(pool, NULL);
    if (first)
        pnx__event(&pool->block, PNX_EVENT_POOL_CLOSED, pool->name, left ? -ETIMEDOUT : 0, NULL,
                left, 0);
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pool->refs--;
    pnx__pool_unlock(pool, &effects, NULL);
    if (inside)
        return -EDEADLK;
    return left < INT_MAX ? (int)left : INT_MAX;
}

void pnx_pool_release(struct pnx_pool **pool) {
    if (!pool || !*pool)
        return;
    struct pnx_pool *old = *pool;
    *pool = NULL;
    if (pnx__pool_forked(old)) {
        pnx__pool_abandon_all(old);
        return;
    }
    /* From here on no shutdown of the registry calls end_by_registry(). */
    int rc = old->member.struck ? 0 : pnx_registry_remove(old->registry, old->row);
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(old);
    begin_close_locked(old);
    if (rc != -EDEADLK) { /* else that cleanup waits for this thread and still needs the memory */
        old->released = true;
        old->refs--;
    }
    pnx__pool_unlock(old, &effects, NULL);
}
