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

#include <errno.h>

static void note_overdue(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    PNX_LIST_EACH (link, after, &core->running) {
        struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (slot->overdue || core->now < slot->job_late)
            continue;
        /* Its slot stays taken, but it no longer stands in the way of other jobs of its kind. */
        slot->overdue = true;
        core->running_n[slot->job]--;
        pnx__pool_count(core, PNX__POOL_STAT_overdue);
        if (slot->job == PNX__POOL_CONNECT)
            pnx__pool_connect_failure(
                    core, -ETIMEDOUT, "connect has not returned by its deadline", effects);
    }
}

static void reap(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    for (struct pnx_link *link = core->idle.prev, *before; link != &core->idle; link = before) {
        before = link->prev;
        struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (core->now >= slot->expires_at) {
            pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_LIFETIME, effects);
            continue;
        }
        /* Releases read no clock: the first tick that sees it idle starts its idle time. */
        if (slot->idle_since == 0)
            slot->idle_since = core->now;
        if (core->config.idle != PNX_NEVER && core->now - slot->idle_since >= core->config.idle &&
                core->n[PNX__POOL_IDLE] > core->config.min_idle)
            pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_IDLE, effects);
    }
}

static pnx_ns sooner(pnx_ns a, pnx_ns b) {
    return a < b ? a : b;
}

static pnx_ns after(pnx_ns now, pnx_ns span) {
    return span < PNX_NEVER - now ? now + span : PNX_NEVER;
}

static pnx_ns idle_timers(const struct pnx__pool_core *core) {
    pnx_ns next = PNX_NEVER;
    pnx_ns span = sooner(core->config.idle, core->config.lifetime);
    if (span != PNX_NEVER && core->size > 0)
        next = after(core->now, span / PNX__POOL_REAPS + 1);
    bool may_reap = core->n[PNX__POOL_IDLE] > core->config.min_idle;
    PNX_LIST_EACH (link, link_after, &core->idle) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        next = sooner(next, slot->expires_at);
        if (may_reap)
            next = sooner(next, after(slot->idle_since, core->config.idle));
    }
    return next;
}

void pnx__pool_core_tick(
        struct pnx__pool_core *core, pnx_ns now, struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    note_overdue(core, effects);
    pnx_ns next = PNX_NEVER;
    if (!core->closing) {
        reap(core, effects);
        next = idle_timers(core);
        if (core->retry_at > core->now)
            next = sooner(next, core->retry_at);
        if (core->starved_at && after(core->starved_at, PNX__POOL_STARVED_FOR) > core->now)
            next = sooner(next, after(core->starved_at, PNX__POOL_STARVED_FOR));
    }
    PNX_LIST_EACH (link, link_after, &core->running) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (!slot->overdue)
            next = sooner(next, slot->job_late);
    }
    core->next_timer = next;
    effects->work = true;
}

const char *pnx__pool_core_phase(const struct pnx__pool_core *core) {
    if (core->n[PNX__POOL_IN_USE] >= core->max)
        return "wait";
    if (core->n[PNX__POOL_CONNECTING] > 0 || core->failures > 0)
        return "connect";
    if (core->n[PNX__POOL_CHECKING] > 0)
        return "check";
    return "wait";
}

enum pnx_health_status pnx__pool_core_health(
        const struct pnx__pool_core *core, const char **ret_reason) {
    uint32_t alive =
            core->n[PNX__POOL_IDLE] + core->n[PNX__POOL_IN_USE] + core->n[PNX__POOL_CHECKING];
    uint32_t counted = core->running_n[PNX__POOL_CONNECT] + core->running_n[PNX__POOL_CHECK];
    *ret_reason = "";
    if (core->closing) {
        *ret_reason = "closed";
        return PNX_HEALTH_DOWN;
    }
    if (core->failures > 0) {
        *ret_reason = alive ? "connects fail" : "connects fail and no resource is alive";
        return alive ? PNX_HEALTH_DEGRADED : PNX_HEALTH_DOWN;
    }
    if (core->starved_at && core->now < after(core->starved_at, PNX__POOL_STARVED_FOR)) {
        *ret_reason = "acquires run into their deadline";
        return PNX_HEALTH_DEGRADED;
    }
    if (core->n[PNX__POOL_CONNECTING] + core->n[PNX__POOL_CHECKING] > counted) {
        *ret_reason = "an operation is overdue";
        return PNX_HEALTH_DEGRADED;
    }
    return PNX_HEALTH_OK;
}
