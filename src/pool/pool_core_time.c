/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core_time.c - what the pool does as time passes, and what it says about itself.
 *
 * Part of the pure core (pool_core.h).
 *
 *   T1  An idle resource is closed by age when it has been unused for idle, never sooner, and at most an eighth of
 *       idle later, given ticks at next_timer; lifetime is exact while idle, and else acts at the return.
 *   T2  After a tick, next_timer is the earliest moment at which a tick would change anything, or a regular
 *       look at the idle list before that.
 */
#include "pool/pool_core.h"

#include "base/hash.h"

#include <errno.h>

static void note_overdue(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    PNX_LIST_EACH (link, after, &core->running) {
        struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if ((slot->flags & PNX__POOL_OVERDUE) || core->now < slot->job_late)
            continue;
        /* Its slot stays taken, but it no longer stands in the way of other jobs of its kind. */
        slot->flags |= PNX__POOL_OVERDUE;
        core->running_n[slot->job]--;
        pnx__pool_count(core, PNX__POOL_STAT_overdue);
        if (slot->job == PNX__POOL_CONNECT)
            pnx__pool_connect_failure(core, -ETIMEDOUT, "connect has not returned by its deadline",
                    PNX_POOL_TRANSIENT, effects);
    }
}

static pnx_ns sooner(pnx_ns a, pnx_ns b) {
    return a < b ? a : b;
}

static pnx_ns after(pnx_ns now, pnx_ns span) {
    return span < PNX_NEVER - now ? now + span : PNX_NEVER;
}

/* The jitter is that of the grant, so that it needs no room, and is another one each time. */
pnx_ns pnx__pool_keepalive_at(const struct pnx__pool_core *core, const struct pnx_slot *slot) {
    pnx_ns used_at = pnx__pool_used_at(slot);
    uint64_t mix = (uint64_t)used_at ^ ((uint64_t)slot->index << 48);
    uint64_t spread = (uint64_t)core->config.keepalive / 10 + 1;
    if (core->config.keepalive == PNX_NEVER)
        return PNX_NEVER;
    return after(used_at, core->config.keepalive - (pnx_ns)(pnx__splitmix(&mix) % spread));
}

/* Closes what is too old or unused for too long; finds whether something is due for its keep-alive check. */
static void reap(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    uint32_t n[PNX__POOL_STATES];
    pnx__pool_core_count(core, n);
    uint32_t idle = n[PNX__POOL_IDLE];
    core->keepalive_due = false;
    for (struct pnx_link *link = core->home.prev, *before; link != &core->home; link = before) {
        before = link->prev;
        struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        /* alone: a first look, to leave those in use alone; to close it is to lock it, which looks again */
        uint64_t word = pnx_load(&slot->word, PNX_RELAXED, "pool_core_time.word");
        if ((word & PNX__POOL_STATE_MASK) != PNX__POOL_IDLE)
            continue;
        /* Releases read no clock: the first tick that sees it idle starts its idle time. */
        uint64_t generation = word / PNX__POOL_GENERATION;
        if (slot->idle_since == 0 || slot->seen != generation)
            slot->idle_since = core->now;
        slot->seen = generation;
        enum pnx__pool_reason reason = PNX__POOL_REASONS;
        if (slot->epoch != core->epoch)
            reason = PNX__POOL_BECAUSE_STALE;
        else if (core->now >= pnx__pool_expires_at(slot))
            reason = PNX__POOL_BECAUSE_LIFETIME;
        else if (core->config.idle != PNX_NEVER && idle > core->config.min_idle &&
                 core->now - slot->idle_since >= core->config.idle)
            reason = PNX__POOL_BECAUSE_IDLE;
        if (reason == PNX__POOL_REASONS) {
            if (core->now >= pnx__pool_keepalive_at(core, slot))
                core->keepalive_due = true;
            continue;
        }
        /* It may have been taken since the look; then it is not idle, and another tick sees it. */
        if (pnx__pool_slot_is_open(slot) && pnx__pool_capture(core, slot) != PNX__POOL_IDLE)
            continue;
        idle--;
        pnx__pool_begin_close(core, slot, reason, effects);
    }
    pnx__pool_reserve(core);
}

pnx_ns pnx__pool_next_look(const struct pnx__pool_core *core) {
    pnx_ns span = sooner(core->config.idle, core->config.lifetime);
    span = sooner(span, sooner(core->config.keepalive, core->config.held_too_long));
    return span == PNX_NEVER ? PNX_NEVER : after(core->now, span / PNX__POOL_REAPS + 1);
}

static pnx_ns idle_timers(const struct pnx__pool_core *core) {
    uint32_t n[PNX__POOL_STATES];
    pnx_ns next = core->size > 0 ? pnx__pool_next_look(core) : PNX_NEVER;
    pnx__pool_core_count(core, n);
    bool may_reap = n[PNX__POOL_IDLE] > core->config.min_idle;
    PNX_LIST_EACH (link, link_after, &core->home) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (pnx__pool_slot_state(slot) != PNX__POOL_IDLE)
            continue; /* a regular look, above, finds it when it is back */
        /* One that was taken and brought back during this tick may be past it already. */
        next = sooner(next, pnx__pool_expires_at(slot) > core->now ? pnx__pool_expires_at(slot)
                                                                   : core->now + 1);
        if (may_reap && after(slot->idle_since, core->config.idle) > core->now)
            next = sooner(next, after(slot->idle_since, core->config.idle));
        if (pnx__pool_keepalive_at(core, slot) > core->now)
            next = sooner(next, pnx__pool_keepalive_at(core, slot));
    }
    return next;
}

static void end_requests(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    struct pnx_heap_node *node;
    while ((node = pnx__heap_first(&core->timers)) && node->at <= core->now) {
        struct pnx__pool_waiter *waiter = PNX_CONTAINER(node, struct pnx__pool_waiter, timer);
        pnx__pool_count(core, PNX__POOL_STAT_timeouts);
        core->starved_at = core->now;
        pnx__pool_refuse_one(core, waiter, -ETIMEDOUT, pnx__pool_core_phase(core), effects);
    }
}

void pnx__pool_core_tick(
        struct pnx__pool_core *core, pnx_ns now, struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    note_overdue(core, effects);
    end_requests(core, effects);
    pnx_ns next = PNX_NEVER;
    if (!core->closing) {
        reap(core, effects);
        next = idle_timers(core);
        if (core->retry_at > core->now)
            next = sooner(next, core->retry_at);
        if (core->starved_at && after(core->starved_at, PNX__POOL_STARVED_FOR) > core->now)
            next = sooner(next, after(core->starved_at, PNX__POOL_STARVED_FOR));
    }
    if (pnx__heap_first(&core->timers))
        next = sooner(next, pnx__heap_first(&core->timers)->at);
    PNX_LIST_EACH (link, link_after, &core->running) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (!(slot->flags & PNX__POOL_OVERDUE))
            next = sooner(next, slot->job_late);
    }
    core->next_timer = next;
    effects->work = true;
}

const char *pnx__pool_core_phase(const struct pnx__pool_core *core) {
    uint32_t n[PNX__POOL_STATES];
    pnx__pool_core_count(core, n);
    if (core->paused)
        return "paused";
    if (n[PNX__POOL_IN_USE] >= core->max)
        return "wait";
    if (core->n[PNX__POOL_CONNECTING] > 0 || core->failures > 0)
        return "connect";
    if (core->n[PNX__POOL_CHECKING] > 0)
        return "check";
    return "wait";
}

enum pnx_health_status pnx__pool_core_health(
        const struct pnx__pool_core *core, const char **ret_reason) {
    uint32_t alive = pnx__pool_core_alive(core);
    *ret_reason = "";
    if (core->closing) {
        *ret_reason = "closed";
        return PNX_HEALTH_DOWN;
    }
    if (core->breaker) {
        *ret_reason = "the breaker is open";
        return PNX_HEALTH_DOWN;
    }
    if (core->paused) {
        *ret_reason = "paused";
        return PNX_HEALTH_DEGRADED;
    }
    if (core->failures > 0) {
        *ret_reason = alive ? "connects fail" : "connects fail and no resource is alive";
        return alive ? PNX_HEALTH_DEGRADED : PNX_HEALTH_DOWN;
    }
    if (core->starved_at && core->now < after(core->starved_at, PNX__POOL_STARVED_FOR)) {
        *ret_reason = "acquires run into their deadline";
        return PNX_HEALTH_DEGRADED;
    }
    PNX_LIST_EACH (link, link_after, &core->running) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if ((slot->flags & PNX__POOL_OVERDUE) && slot->job != PNX__POOL_CLOSE) {
            *ret_reason = "an operation is overdue";
            return PNX_HEALTH_DEGRADED;
        }
    }
    return PNX_HEALTH_OK;
}
