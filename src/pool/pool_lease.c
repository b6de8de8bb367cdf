/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_lease.c - giving back: release, discard, and what becomes of a stale lease.
 *
 *   L1  Of all copies of a lease, one release or discard acts; it is decided by a compare-and-swap on the slot.
 *   L2  A stale lease changes nothing but the count of misuses.
 *   L3  After the unlock that brought the resource home, a release touches the pool no more.
 */
#include "pool/pool.h"

#include <stdio.h>
#include <stdlib.h>

/* A lease held longer than this, as far as the pool has seen, has its return time read from the clock. */
#define LONG_HOLD (100 * PNX_MS)

#ifdef PNX_DEBUG
struct pnx_a32 pnx__pool_tolerate_misuse; /* tests set it: count, but do not abort */
#endif

static void misuse(const struct pnx_lease *lease, const char *what) {
    struct pnx_pool *pool = lease->slot->pool;
    /* the one counter that is written without the lock */
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
    /* pairs with pool_core.to: the resource is the one of this grant */
    uint64_t word = pnx_load(&lease->slot->word, PNX_ACQUIRE, "pool_lease.word");
    if (word != (lease->generation * PNX__POOL_GENERATION | PNX__POOL_IN_USE)) {
        misuse(lease, "use");
        return NULL;
    }
    /* a lease's holder is the only one for whom it is not about to change */
    return pnx_load(&lease->slot->resource, PNX_RELAXED, "pool_lease.resource");
}

/* Runs the manager's reset; true when the resource is fit for the next holder. */
static bool reset(struct pnx_pool *pool, struct pnx_slot *slot, pnx_ns now) {
    struct pnx__pool_call call;
    /* the spent lease was this thread's */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_lease.reset");
    pnx__pool_call_enter(pool, &call);
    int rc = pool->manager.reset(pool->ctx, resource, pnx__deadline(now, pool->reset_timeout));
    pnx__pool_call_leave(&call);
    return rc == 0;
}

static void count_reset_locked(struct pnx_pool *pool, bool fit) {
    pnx__pool_count(&pool->core, PNX__POOL_STAT_resets);
    if (!fit)
        pnx__pool_count(&pool->core, PNX__POOL_STAT_reset_failures);
}

static void give_back(struct pnx_lease *lease, bool keep) {
    if (!lease || !lease->slot)
        return;
    struct pnx_lease spent = *lease;
    struct pnx_slot *slot = spent.slot;
    *lease = (struct pnx_lease){0};
    if (!pnx__pool_slot_spend(slot, spent.generation)) {
        misuse(&spent, keep ? "release" : "discard");
        return;
    }
    struct pnx_pool *pool = slot->pool;
    if (pnx__pool_forked(pool)) {
        pnx__pool_abandon_lease(pool, slot);
        return;
    }
    enum pnx__pool_reason reason = PNX__POOL_BECAUSE_DISCARDED;
    pnx_ns held = -1, now = 0;
    if (slot->hold_since) {
        now = pnx__now(&pool->env);
        held = now - slot->hold_since;
    }
    bool was_reset = keep && pool->manager.reset;
    if (was_reset) {
        if (!now)
            now = pnx__now(&pool->env);
        keep = reset(pool, slot, now);
        reason = PNX__POOL_BECAUSE_RESET;
    }
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    if (!now)
        now = pool->core.now;
    if (now - slot->used_at > LONG_HOLD)
        now = pool->env.now_coarse(pool->env.ctx);
    if (held >= 0)
        pnx__histogram_record(&pool->histograms[PNX__POOL_HISTOGRAM_hold], held);
    if (was_reset)
        count_reset_locked(pool, keep);
    pnx__pool_core_returned(&pool->core, slot, keep, reason, now, &effects);
    pnx__pool_unlock_quiet(pool, &effects);
}

void pnx_lease_release(struct pnx_lease *lease) {
    give_back(lease, true);
}

void pnx_lease_discard(struct pnx_lease *lease) {
    give_back(lease, false);
}
