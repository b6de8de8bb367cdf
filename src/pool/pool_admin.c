/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_admin.c - what an operator does with a pool in use: resize, adopt, warm up, evict, reset, pause, resume; and
 * watching who holds a lease for long.
 *
 *   M1  A function of the user's is called for one resource at a time, which is kept where it is meanwhile: aside, for evict, or
 *       out of the reach of a close, for interrupt.
 */
#include "pool/pool.h"

#include "os/notify.h"

#include <errno.h>
#include <limits.h>

struct pnx_slot *pnx__pool_slot_at(const struct pnx_pool *pool, uint32_t index) {
    /* pairs with pool.chunks_push; indices grow from chunk to chunk, and the last chunk comes first */
    struct pnx__pool_chunk *chunk = pnx_load(&pool->chunks, PNX_ACQUIRE, "pool_admin.chunks");
    for (; chunk; chunk = chunk->next) {
        if (index >= chunk->slots[0].index)
            return index - chunk->slots[0].index < chunk->n
                           ? &chunk->slots[index - chunk->slots[0].index]
                           : NULL;
    }
    return NULL;
}

static int fail_forked(const struct pnx_pool *pool, struct pnx_error *err) {
    return pnx__fail(err, -ESHUTDOWN, 0, "fork",
            "pool \"%.40s\" was made before fork(), in the parent of this process", pool->name);
}

static int fail_closed(const struct pnx_pool *pool, struct pnx_error *err) {
    return pnx__fail(err, -ESHUTDOWN, 0, "closed", "pool \"%.40s\" is closed", pool->name);
}

int pnx_pool_resize(struct pnx_pool *pool, uint32_t max, struct pnx_error *err) {
    if (!pool)
        return pnx__fail_field(err, -EINVAL, "pool", "pool.resize: pool is NULL");
    struct pnx_pool_opts wanted = {.size = sizeof(wanted), .max = max}, checked;
    int rc = pnx__opts_resolve(&pnx__pool_options, &wanted, &checked, err);
    if (rc)
        return rc;
    if (max < pool->core.config.min_idle)
        return pnx__fail_field(err, -EINVAL, "max", "pool.max is %u, less than min_idle (%u)", max,
                pool->core.config.min_idle);
    if (pnx__pool_forked(pool))
        return fail_forked(pool, err);
    /* Slots are allocated first, and locked then; they are never fewer again. */
    pnx__pool_lock(pool);
    uint32_t missing = max > pool->core.capacity ? max - pool->core.capacity : 0;
    pnx__mutex_unlock(&pool->lock);
    struct pnx__pool_chunk *chunk = NULL;
    size_t bytes = missing ? pnx__pool_chunk_bytes(missing) : 0;
    if (missing) {
        rc = pnx_budget_charge(pool->budget, bytes, 0);
        if (rc)
            return pnx__fail(err, rc, 0, "resize", "pool \"%.40s\": the memory budget refused it",
                    pool->name);
        chunk = pnx__pool_new_chunk(&pool->env, missing);
        if (!chunk) {
            pnx_budget_uncharge(pool->budget, bytes);
            return pnx__fail(err, -ENOMEM, 0, "resize", "pool \"%.40s\": no memory for %u slots",
                    pool->name, missing);
        }
    }
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    bool closed = pool->core.closing;
    if (chunk && !closed && max > pool->core.capacity) {
        pnx__pool_add_chunk_locked(pool, chunk);
        pool->bytes += bytes;
        chunk = NULL;
    }
    if (!closed)
        pnx__pool_core_resize(&pool->core, max, &effects);
    size_t held = pool->bytes;
    pnx__pool_unlock(pool, &effects, NULL);
    if (chunk) { /* somebody else was faster, or the pool is closed */
        pnx__free(&pool->env, chunk, 1, bytes);
        pnx_budget_uncharge(pool->budget, bytes);
    }
    if (closed)
        return fail_closed(pool, err);
    pnx_registry_set_bytes(pool->registry, pool->row, held);
    return 0;
}

int pnx_pool_adopt(struct pnx_pool *pool, void *resource, struct pnx_error *err) {
    if (!pool || !resource)
        return pnx__fail_field(err, -EINVAL, pool ? "resource" : "pool", "pool.adopt: %s is NULL",
                pool ? "resource" : "pool");
    if (pnx__pool_forked(pool))
        return fail_forked(pool, err);
    struct pnx__pool_effects effects;
    int rc;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    struct pnx_slot *slot = pnx__pool_core_adopt(&pool->core, now, &rc);
    pnx__pool_unlock(pool, &effects, NULL);
    if (rc == -ESHUTDOWN)
        return fail_closed(pool, err);
    if (rc)
        return pnx__fail(err, rc, 0, "adopt", "pool \"%.40s\" is full", pool->name);
    rc = pnx__pool_enter(pool, slot);
    pnx__pool_effects_init(&effects);
    now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    if (rc == 0) {
        pnx__pool_count(&pool->core, PNX__POOL_STAT_adopted);
        pnx__pool_core_connected(&pool->core, slot, resource, now, &effects);
    } else {
        pnx__pool_core_adopt_failed(&pool->core, slot, &effects);
    }
    pnx__pool_health_locked(pool);
    pnx__pool_unlock(pool, &effects, NULL);
    if (rc)
        return pnx__fail(err, rc, 0, "adopt", "pool \"%.40s\": the memory budget refused %zu bytes",
                pool->name, pool->resource_bytes);
    return 0;
}

/* ---- warming up ---- */

/* Lock held before and after. */
static void ask_warm_locked(struct pnx_pool *pool, uint32_t n) {
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_core_warm(&pool->core, n, &effects);
    pnx__pool_unlock(pool, &effects, NULL);
    pnx__pool_lock(pool);
}

/* Does in this thread what there is to do, and waits for what others do: until something has happened, or -ETIMEDOUT.
 * The lock is held. */
static int drive_warm_locked(struct pnx_pool *pool, uint32_t n, pnx_ns deadline) {
    struct pnx__pool_core *core = &pool->core;
    struct pnx__pool_driver driver = {.any = true, .deadline = deadline};
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    if (now >= core->next_timer)
        pnx__pool_core_tick(core, now, &effects);
    pnx__pool_see(core, now);
    effects.work = true;
    pnx_ns until = core->next_timer < deadline ? core->next_timer : deadline;
    pnx__pool_unlock(pool, &effects, &driver);
    pnx__pool_tend_ops(pool);
    pnx__pool_lock(pool);
    if (pnx__pool_core_alive(core) >= n)
        return 0;
    until = core->next_timer < until ? core->next_timer : until;
    bool early = pnx__pool_await_locked(pool, until);
    return !early && pnx__now(&pool->env) >= deadline ? -ETIMEDOUT : 0;
}

/* Waits until n are alive; the lock is held. */
static int await_warm_locked(struct pnx_pool *pool, uint32_t n, pnx_ns deadline) {
    struct pnx__pool_core *core = &pool->core;
    while (pnx__pool_core_alive(core) < n) {
        if (core->closing)
            return -ESHUTDOWN;
        if (core->breaker)
            return PNX_E_BREAKER;
        if (core->warm < n) { /* another one has given up, or what there was is gone again */
            ask_warm_locked(pool, n);
            continue;
        }
        if ((pool->flags & PNX_POOL_NO_THREADS) || pool->threads == 0) {
            int rc = drive_warm_locked(pool, n, deadline);
            if (rc)
                return rc;
            continue;
        }
        if (!pnx__pool_await_locked(pool, deadline))
            return pnx__pool_core_alive(core) < n ? -ETIMEDOUT : 0;
    }
    return 0;
}

int pnx_pool_warm_up(struct pnx_pool *pool, uint32_t n, pnx_ns timeout, struct pnx_error *err) {
    if (!pool)
        return pnx__fail_field(err, -EINVAL, "pool", "pool.warm_up: pool is NULL");
    int rc = pnx__timeout(timeout, pool->acquire_timeout, err, &timeout);
    if (rc)
        return rc;
    if (pnx__pool_forked(pool))
        return fail_forked(pool, err);
    struct pnx__pool_effects effects;
    pnx_ns start = pnx__now(&pool->env);
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    struct pnx__pool_core *core = &pool->core;
    pool->refs++;
    if (core->closing)
        rc = -ESHUTDOWN;
    else if (n > core->max)
        rc = -ERANGE;
    else if (pnx__pool_core_alive(core) < n)
        rc = -EINPROGRESS;
    uint32_t before = core->warm;
    if (rc == -EINPROGRESS && before < n)
        pnx__pool_core_warm(core, n, &effects);
    if (rc == -EINPROGRESS && timeout > 0 && pnx__pool_call_inside(pool))
        rc = -EDEADLK;
    pnx__pool_unlock(pool, &effects, NULL);
    if (rc == -EINPROGRESS && timeout > 0) {
        pnx__pool_lock(pool);
        rc = await_warm_locked(pool, n, pnx__deadline(start, timeout));
        pnx__pool_effects_init(&effects);
        if (rc && before < n && core->warm == n) {
            core->warm = before;  /* this one waits no more; */
            effects.ended = true; /* others see to it that they get theirs */
        }
        pnx__pool_unlock(pool, &effects, NULL);
    }
    if (rc == -ERANGE)
        rc = pnx__fail(err, rc, 0, "warm_up", "pool \"%.40s\": %u is more than max", pool->name, n);
    else if (rc && rc != -EINPROGRESS)
        rc = pnx__pool_explain(pool, rc, rc == -ESHUTDOWN ? "closed" : "connect",
                pnx__now(&pool->env) - start, err);
    pnx__pool_drop_ref(pool);
    return rc;
}

/* ---- evict ---- */

struct view {
    void *resource;
    pnx_ns age;
    pnx_ns unused_for;
};

/* Takes an idle resource aside: true. */
static bool take_aside(struct pnx_pool *pool, struct pnx_slot *slot, struct view *ret_view) {
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    now = pnx__pool_see(&pool->core, now); /* others may have come later, and been here sooner */
    bool taken = pnx__pool_core_examine(&pool->core, slot, &effects);
    pnx_ns unused_for = now - pnx__pool_used_at(slot);
    /* alone: under the lock */
    ret_view->resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_admin.evict");
    ret_view->age = now - slot->born_at;
    ret_view->unused_for = unused_for > 0 ? unused_for : 0;
    pnx__pool_unlock(pool, &effects, NULL);
    return taken;
}

int pnx_pool_evict(struct pnx_pool *pool, pnx_pool_evict_fn *evict, void *ctx) {
    if (!pool)
        return -EINVAL;
    if (pnx__pool_forked(pool))
        return -ESHUTDOWN;
    pnx__pool_lock(pool);
    bool closing = pool->core.closing;
    uint32_t capacity = pool->core.capacity;
    pool->refs++;
    pnx__mutex_unlock(&pool->lock);
    uint32_t evicted = 0;
    for (uint32_t i = 0; i < capacity && !closing; i++) {
        struct pnx_slot *slot = pnx__pool_slot_at(pool, i);
        struct pnx__pool_effects effects;
        PNX__POOL_CALL(call);
        struct view view;
        if (!take_aside(pool, slot, &view))
            continue;
        pnx__pool_call_enter(pool, &call);
        bool closes = !evict || evict(ctx, view.resource, view.age, view.unused_for);
        pnx__pool_call_leave(&call);
        evicted += closes;
        pnx__pool_effects_init(&effects);
        pnx__pool_lock(pool);
        pnx__pool_core_examined(&pool->core, slot, !closes, &effects);
        pnx__pool_unlock(pool, &effects, NULL);
    }
    pnx__pool_drop_ref(pool);
    if (closing)
        return -ESHUTDOWN;
    return evicted < INT_MAX ? (int)evicted : INT_MAX;
}

/* ---- reset ---- */

void pnx__pool_interrupt(struct pnx_pool *pool) {
    if (!pool->manager.interrupt)
        return;
    pnx__pool_lock(pool);
    uint32_t capacity = pool->core.capacity;
    pnx__mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < capacity; i++) {
        struct pnx_slot *slot = pnx__pool_slot_at(pool, i);
        struct pnx__pool_effects effects;
        PNX__POOL_CALL(call);
        pnx__pool_effects_init(&effects);
        pnx__pool_lock(pool);
        bool old = pnx__pool_slot_state(slot) == PNX__POOL_IN_USE &&
                   (slot->epoch != pool->core.epoch || pool->core.closing) &&
                   !(slot->flags & PNX__POOL_INTERRUPTED);
        if (old)
            slot->flags |= PNX__POOL_INTERRUPTED;
        /* alone: it cannot be closed or detached before the flag is gone */
        void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_admin.interrupt");
        pnx__mutex_unlock(&pool->lock);
        if (!old)
            continue;
        pnx__pool_call_enter(pool, &call);
        call.interrupts = slot;
        pool->manager.interrupt(pool->ctx, resource);
        pnx__pool_call_leave(&call);
        pnx__pool_lock(pool);
        /* alone, as above; if it was detached inside, the flag went with that, and another one is not this one's */
        if (pnx_load(&slot->resource, PNX_RELAXED, "pool_admin.interrupted") == resource)
            slot->flags &= ~(uint32_t)PNX__POOL_INTERRUPTED;
        effects.work = true;  /* its close may begin */
        effects.ended = true; /* its detach may go on */
        pnx__pool_unlock(pool, &effects, NULL);
    }
}

int pnx_pool_reset(struct pnx_pool *pool, uint32_t flags) {
    const uint32_t known =
            PNX_POOL_RESET_IDLE | PNX_POOL_RESET_INTERRUPT | PNX_POOL_RESET_DROP_WAITERS;
    if (!pool || (flags & ~known))
        return -EINVAL;
    if (pnx__pool_forked(pool))
        return -ESHUTDOWN;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    bool closing = pool->core.closing;
    pnx__pool_see(&pool->core, now);
    pool->refs++;
    if (!closing)
        pnx__pool_core_reset(&pool->core, flags, &effects);
    pnx__pool_unlock(pool, &effects, NULL);
    if (!closing && (flags & PNX_POOL_RESET_INTERRUPT))
        pnx__pool_interrupt(pool);
    pnx__pool_drop_ref(pool);
    return closing ? -ESHUTDOWN : 0;
}

/* ---- pause ---- */

static uint32_t in_use_locked(const struct pnx_pool *pool) {
    return pool->core.n[PNX__POOL_IN_USE]; /* a paused pool has no open slots */
}

int pnx_pool_pause(struct pnx_pool *pool, pnx_ns timeout) {
    if (!pool)
        return -EINVAL;
    int rc = pnx__timeout(timeout, pool->close_timeout, NULL, &timeout);
    if (rc)
        return rc;
    if (pnx__pool_forked(pool))
        return -ESHUTDOWN;
    pnx_ns deadline = pnx__deadline(pnx__now(&pool->env), timeout);
    bool inside = pnx__pool_call_inside(pool);
    pnx__pool_lock(pool);
    pool->refs++;
    bool closing = pool->core.closing;
    bool first = !closing && !pool->core.paused;
    if (!closing)
        pnx__pool_core_pause(&pool->core);
    while (!closing && !inside && in_use_locked(pool) > 0 && pool->core.paused) {
        if (!pnx__pool_await_locked(pool, deadline))
            break;
        closing = pool->core.closing;
    }
    uint32_t out = in_use_locked(pool);
    pnx__pool_health_locked(pool);
    pnx__mutex_unlock(&pool->lock);
    if (first)
        pnx__event(&pool->block, PNX_EVENT_POOL_PAUSED, pool->name, 0, NULL, out, 0);
    pnx__pool_drop_ref(pool);
    if (closing)
        return -ESHUTDOWN;
    if (inside && out > 0)
        return -EDEADLK;
    return out < INT_MAX ? (int)out : INT_MAX;
}

int pnx_pool_resume(struct pnx_pool *pool) {
    if (!pool)
        return -EINVAL;
    if (pnx__pool_forked(pool))
        return -ESHUTDOWN;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    pnx__pool_see(&pool->core, now);
    pool->refs++;
    bool closing = pool->core.closing, was = pool->core.paused;
    uint32_t waiting = pool->core.waiting;
    if (was)
        pnx__pool_core_resume(&pool->core, &effects);
    effects.ended = true; /* who waits in pause */
    pnx__pool_health_locked(pool);
    pnx__pool_unlock(pool, &effects, NULL);
    if (was)
        pnx__event(&pool->block, PNX_EVENT_POOL_RESUMED, pool->name, 0, NULL, waiting, 0);
    pnx__pool_drop_ref(pool);
    return closing ? -ESHUTDOWN : 0;
}

/* ---- who holds it ---- */

void pnx__pool_watch_held(struct pnx_pool *pool) {
    pnx_ns limit = pool->core.config.held_too_long;
    if (limit == PNX_NEVER)
        return;
    pnx__pool_lock(pool);
    uint32_t capacity = pool->core.capacity;
    pnx_ns now = pool->core.now;
    pnx__mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < capacity; i++) {
        struct pnx_slot *slot = pnx__pool_slot_at(pool, i);
        /* all by themselves: whoever returned it meanwhile was late as well */
        uint64_t word = pnx_load(&slot->word, PNX_RELAXED, "pool_admin.watch");
        pnx_ns held = now - pnx__pool_used_at(slot);
        if ((word & PNX__POOL_STATE_MASK) != PNX__POOL_IN_USE || held < limit)
            continue;
        const char *site = pnx_load(&slot->site, PNX_RELAXED, "pool_admin.watch_site");
        uint32_t generation = (uint32_t)(word / PNX__POOL_GENERATION);
        pnx__pool_lock(pool);
        bool told = slot->warned == generation;
        slot->warned = generation;
        if (!told)
            pnx__pool_count(&pool->core, PNX__POOL_STAT_held_too_long);
        pnx__mutex_unlock(&pool->lock);
        if (!told)
            pnx__event(&pool->block, PNX_EVENT_POOL_HELD_TOO_LONG, pool->name, 0, site ? site : "",
                    held, 0);
    }
}

int pnx_pool_peek_fd(int fd) {
    return pnx__socket_peek(fd);
}
