/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_lease.c - giving back: release, discard, detach, and what becomes of a stale lease.
 *
 *   L1  Of all copies of a lease, one release, discard or detach acts; it is decided by a compare-and-swap on the slot.
 *   L2  A stale lease changes nothing but the count of misuses.
 *   L3  After the compare-and-swap or the unlock that brought the resource home, a release touches the pool no more.
 *   L4  The short way back is one compare-and-swap, and looks at no clock: it fails when the slot is locked, which it is
 *       whenever the pool must know of the return.
 */
#include "pool/pool.h"

#include "os/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* So many new resources in a row may be refused by before_acquire before connects are slowed down. */
#define HOOK_REFUSALS 4
/* A lease held longer than this, as far as the pool has seen, has its return time read from the clock. */
#define LONG_HOLD     (100 * PNX_MS)

#ifdef PNX_DEBUG
struct pnx_a32 pnx__pool_tolerate_misuse; /* tests set it: count, but do not abort */
#endif

static void misuse(const struct pnx_lease *lease, const char *what) {
    struct pnx_pool *pool = lease->slot->pool;
    /* a counter that is written without the lock */
    pnx_fetch_add(&pool->core.stats[PNX__POOL_STAT_misuses], 1, PNX_RELAXED, "pool_lease.misuse");
    pnx__event(&pool->block, PNX_EVENT_POOL_MISUSE, pool->name, -ESTALE, what, 0, 0);
#ifdef PNX_DEBUG
    if (pnx_load(&pnx__pool_tolerate_misuse, PNX_RELAXED,
                "pool_lease.tolerate")) /* a test's switch */
        return;
    fprintf(stderr, "patinox: pool \"%s\": %s of a stale lease (slot %u, generation %llu)\n",
            pool->name, what, lease->slot->index, (unsigned long long)lease->generation);
    abort();
#endif
}

void *pnx_lease_resource(const struct pnx_lease *lease) {
    if (!lease || !lease->slot)
        return NULL;
    /* pairs with pool_core.to and pool_core.open: the resource is the one of this grant */
    uint64_t word = pnx_load(&lease->slot->word, PNX_ACQUIRE, "pool_lease.word");
    if ((word & ~PNX__POOL_LOCKED) !=
            (lease->generation * PNX__POOL_GENERATION | PNX__POOL_IN_USE)) {
        misuse(lease, "use");
        return NULL;
    }
    /* a lease's holder is the only one for whom it is not about to change */
    return pnx_load(&lease->slot->resource, PNX_RELAXED, "pool_lease.resource");
}

/* By the coarse clock, which is some ms behind, where that is less than a hundredth of the time. */
static pnx_ns reset_deadline(const struct pnx_pool *pool) {
    bool is_long = pool->reset_timeout >= PNX_SEC;
    return pnx__deadline(
            is_long ? pool->now_coarse(pool->now_ctx) : pnx__now(&pool->env), pool->reset_timeout);
}

/* Runs after_release and reset; returns why the resource is not fit for the next holder, or PNX__POOL_REASONS. */
static enum pnx__pool_reason clean(struct pnx_pool *pool, struct pnx_slot *slot) {
    PNX__POOL_CALL(call);
    enum pnx__pool_reason reason = PNX__POOL_REASONS;
    /* the spent lease was this thread's */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_lease.clean");
    pnx__pool_call_enter(pool, &call);
    if (pool->hooks.after_release && pool->hooks.after_release(pool->hooks.arg, resource))
        reason = PNX__POOL_BECAUSE_HOOK;
    else if (pool->manager.reset && pool->manager.reset(pool->ctx, resource, reset_deadline(pool)))
        reason = PNX__POOL_BECAUSE_RESET;
    pnx__pool_call_leave(&call);
    return reason;
}

/* Counted by whoever releases, with the lock or without. */
static void count_reset(struct pnx_pool *pool, enum pnx__pool_reason reason) {
    struct pnx_a64 *stats = pool->core.stats;
    if (!pool->manager.reset || reason == PNX__POOL_BECAUSE_HOOK)
        return;
    pnx_fetch_add(&stats[PNX__POOL_STAT_resets], 1, PNX_RELAXED, "pool_lease.resets"); /* numbers */
    if (reason == PNX__POOL_BECAUSE_RESET)
        pnx_fetch_add(&stats[PNX__POOL_STAT_reset_failures], 1, PNX_RELAXED, "pool_lease.unreset");
}

/* Whether the return must be timed, or a moment of it is told by the generation alone. */
static bool is_plain(
        const struct pnx_pool *pool, const struct pnx_slot *slot, uint64_t generation) {
    /* a hint of the time; see pool_acquire.seen */
    pnx_ns seen = (pnx_ns)pnx_load(&pool->seen, PNX_RELAXED, "pool_lease.seen");
    return !pnx__pool_is_sample(generation) && seen - pnx__pool_used_at(slot) <= LONG_HOLD;
}

/* The lease is spent, and this is its process. */
static void bring_home(struct pnx_pool *pool, const struct pnx_lease *spent,
        enum pnx__pool_reason reason, bool cleans) {
    struct pnx_slot *slot = spent->slot;
    pnx_ns held = -1, now = 0;
    bool is_sample = pnx__pool_is_sample(spent->generation);
    if (is_sample || !cleans)
        now = pnx__now(&pool->env);
    if (is_sample)
        held = now - slot->hold_since;
    if (cleans) {
        reason = clean(pool, slot);
        count_reset(pool, reason);
        if (reason == PNX__POOL_REASONS && is_plain(pool, slot, spent->generation) &&
                pnx__pool_slot_bring_spent(slot, spent->generation))
            return;
        now = pnx__now(&pool->env);
    }
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    if (held >= 0)
        pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_hold], held);
    pnx__pool_core_returned(&pool->core, slot, reason == PNX__POOL_REASONS, reason, now, &effects);
    pnx__pool_unlock_quiet(pool, &effects);
}

static void give_back(
        struct pnx_lease *lease, enum pnx__pool_reason reason, bool cleans, const char *what) {
    if (!lease || !lease->slot)
        return;
    struct pnx_lease spent = *lease;
    struct pnx_pool *pool = spent.slot->pool;
    *lease = (struct pnx_lease){0};
    bool forked = pnx__pool_forked(pool);
    bool valid = pnx__pool_slot_spend(spent.slot, spent.generation);
    if (!valid && !forked) /* in a child it may have been abandoned with the pool */
        misuse(&spent, what);
    else if (valid && forked)
        pnx__pool_abandon_lease(pool, spent.slot);
    else if (valid)
        bring_home(pool, &spent, reason, cleans);
}

static __attribute__((noinline)) void release_slowly(struct pnx_lease *lease) {
    struct pnx_slot *slot = lease->slot;
    const struct pnx_pool *pool = slot->pool;
    /* for systems where the look without a call says no for ever */
    if (!pnx__fork_is(pool->fork) && pool->quick_release &&
            is_plain(pool, slot, lease->generation) && !pnx__pool_forked(pool) &&
            pnx__pool_slot_bring(slot, lease->generation)) {
        *lease = (struct pnx_lease){0};
        return;
    }
    give_back(lease, PNX__POOL_REASONS, !pool->quick_release, "release");
}

void pnx_lease_release(struct pnx_lease *lease) {
    if (!lease || !lease->slot)
        return;
    struct pnx_slot *slot = lease->slot;
    const struct pnx_pool *pool = slot->pool;
    uint64_t generation = lease->generation;
    if (__builtin_expect(pool->quick_release && is_plain(pool, slot, generation) &&
                                 pnx__fork_is(pool->fork) && pnx__pool_slot_bring(slot, generation),
                1)) {
        lease->slot = NULL;
        lease->generation = 0;
        return;
    }
    release_slowly(lease);
}

void pnx_lease_discard(struct pnx_lease *lease) {
    give_back(lease, PNX__POOL_BECAUSE_DISCARDED, false, "discard");
}

void pnx__pool_give_up_locked(
        struct pnx_pool *pool, const struct pnx_lease *refused, struct pnx__pool_effects *effects) {
    struct pnx__pool_core *core = &pool->core;
    if (!refused->slot)
        return;
    /* A hook that goes on refusing what is new would have connects made as fast as they go: then that is a failure of theirs. */
    bool is_new = core->now - refused->slot->born_at < core->config.backoff_max;
    pnx__pool_core_returned(core, refused->slot, false, PNX__POOL_BECAUSE_HOOK, core->now, effects);
    /* a count, which orders nothing */
    if (is_new &&
            pnx_fetch_add(&pool->hook_refusals, 1, PNX_RELAXED, "pool_lease.hook") >= HOOK_REFUSALS)
        pnx__pool_connect_failure(core, -ECONNABORTED, "before_acquire refused a new resource",
                PNX_POOL_TRANSIENT, effects);
}

void pnx_lease_stale_all(struct pnx_lease *lease) {
    if (!lease || !lease->slot)
        return;
    struct pnx_pool *pool = lease->slot->pool;
    struct pnx__pool_effects effects;
    /* as in pnx_lease_resource() */
    uint64_t word = pnx_load(&lease->slot->word, PNX_ACQUIRE, "pool_lease.stale");
    bool valid = (word & ~PNX__POOL_LOCKED) ==
                 (lease->generation * PNX__POOL_GENERATION | PNX__POOL_IN_USE);
    if (valid && !pnx__pool_forked(pool)) {
        pnx__pool_effects_init(&effects);
        pnx__pool_lock(pool);
        /* Of many that find out at once, the first one says it; the others' resources are old by then. */
        if (lease->slot->epoch == pool->core.epoch)
            pnx__pool_core_reset(&pool->core, PNX_POOL_RESET_IDLE, &effects);
        pnx__pool_unlock(pool, &effects, NULL);
    }
    give_back(lease, PNX__POOL_BECAUSE_STALE, false, "stale_all");
}

void *pnx_lease_detach(struct pnx_lease *lease) {
    if (!lease || !lease->slot)
        return NULL;
    struct pnx_lease spent = *lease;
    struct pnx_slot *slot = spent.slot;
    struct pnx_pool *pool = slot->pool;
    *lease = (struct pnx_lease){0};
    if (!pnx__pool_slot_spend(slot, spent.generation)) {
        misuse(&spent, "detach");
        return NULL;
    }
    /* the spent lease was this thread's */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_lease.detach");
    if (pnx__pool_forked(pool))
        return resource; /* a copy of the parent's: the child's to do with as it likes */
    pnx__pool_leave(pool, slot);
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    bool inside = pnx__pool_call_interrupts(slot);
    pnx__pool_lock(pool);
    /* An interrupt is short, and must be over before the resource is the caller's; unless the caller is inside it. */
    while ((slot->flags & PNX__POOL_INTERRUPTED) && !inside)
        (void)pnx__pool_await_locked(pool, PNX_NEVER);
    pnx__pool_core_detached(&pool->core, slot, &effects);
    pnx__pool_health_locked(pool); /* it may have been the last one alive */
    pnx__pool_unlock(pool, &effects, NULL);
    return resource;
}
