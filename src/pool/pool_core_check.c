/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core_check.c - the invariants C1..C6 of pool_core.h as code.
 *
 * Part of the pure core.  The simulator runs both after every step, debug builds the first at every unlock of a
 * small pool.  Slots in use are on no list, so that they are counted by what is missing.
 */
#include "pool/pool_core.h"

/* Walks a list; false when a link is broken, it is longer than limit, or a slot has neither of the states. */
static bool walk(const struct pnx_link *list, uint32_t limit, uint32_t states, uint32_t *ret_n) {
    uint32_t n = 0;
    for (const struct pnx_link *link = list->next; link != list; link = link->next) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (link->next->prev != link || ++n > limit)
            return false;
        if (!(states & (1u << pnx__pool_slot_state(slot))))
            return false;
    }
    *ret_n = n;
    return true;
}

static const char *check_slots(const struct pnx__pool_core *core) {
    const uint32_t *n = core->n;
    uint32_t free, idle, running, to_close;
    if (!walk(&core->free, core->capacity, 1u << PNX__POOL_EMPTY, &free) ||
            free != n[PNX__POOL_EMPTY])
        return "C2: free list";
    if (!walk(&core->idle, core->capacity, 1u << PNX__POOL_IDLE, &idle) ||
            idle != n[PNX__POOL_IDLE])
        return "C2: idle list";
    if (!walk(&core->running, core->capacity,
                1u << PNX__POOL_CONNECTING | 1u << PNX__POOL_CHECKING | 1u << PNX__POOL_CLOSING,
                &running) ||
            !walk(&core->to_close, core->capacity, 1u << PNX__POOL_CLOSING, &to_close))
        return "C2: running or closing list";
    if (running + to_close !=
            n[PNX__POOL_CONNECTING] + n[PNX__POOL_CHECKING] + n[PNX__POOL_CLOSING])
        return "C2: running and closing";
    return NULL;
}

static const char *check_jobs(const struct pnx__pool_core *core) {
    uint32_t counted[PNX__POOL_JOB_KINDS] = {0};
    static const enum pnx__pool_state state_of[] = {
            [PNX__POOL_CONNECT] = PNX__POOL_CONNECTING,
            [PNX__POOL_CHECK] = PNX__POOL_CHECKING,
            [PNX__POOL_CLOSE] = PNX__POOL_CLOSING,
    };
    for (const struct pnx_link *link = core->running.next; link != &core->running;
            link = link->next) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (slot->job >= PNX__POOL_JOB_KINDS || pnx__pool_slot_state(slot) != state_of[slot->job])
            return "C2: a job and its slot's state differ";
        if (!slot->overdue)
            counted[slot->job]++;
    }
    for (int kind = 0; kind < PNX__POOL_JOB_KINDS; kind++) {
        if (counted[kind] != core->running_n[kind])
            return "C2: count of running jobs";
    }
    if (counted[PNX__POOL_CONNECT] > core->config.max_connecting ||
            counted[PNX__POOL_CHECK] > core->config.max_checking)
        return "more jobs than allowed";
    return NULL;
}

static const char *check_idle(const struct pnx__pool_core *core) {
    pnx_ns younger = PNX_NEVER;
    for (const struct pnx_link *link = core->idle.next; link != &core->idle; link = link->next) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (slot->used_at > younger)
            return "idle list out of order";
        younger = slot->used_at;
        if (core->waiting > 0 && (core->config.check_after == PNX_NEVER ||
                                         core->now - slot->used_at < core->config.check_after))
            return "C3: a usable resource is idle while somebody waits";
        if (!slot->resource.v)
            return "an idle slot has no resource";
    }
    return NULL;
}

static const char *check_waiters(const struct pnx__pool_core *core) {
    uint32_t waiting = 0;
    for (const struct pnx_link *link = core->waiters.next; link != &core->waiters;
            link = link->next) {
        const struct pnx__pool_waiter *waiter = PNX_CONTAINER(link, struct pnx__pool_waiter, link);
        /* only the waiter itself may write it while it is on the list, from POKED to WAITING */
        uint32_t outcome = pnx_load(&waiter->outcome, PNX_RELAXED, "pool_core_check.outcome");
        if (link->next->prev != link || ++waiting > core->waiting)
            return "C4: list of waiters";
        if (outcome != PNX__POOL_WAITING && outcome != PNX__POOL_POKED)
            return "C5: a waiter with an outcome is still waiting";
    }
    if (waiting != core->waiting || waiting > core->config.max_waiters)
        return "C4: count of waiters";
    return NULL;
}

const char *pnx__pool_core_check(const struct pnx__pool_core *core) {
    uint32_t sum = 0;
    for (int state = PNX__POOL_EMPTY + 1; state < PNX__POOL_STATES; state++)
        sum += core->n[state];
    if (sum != core->size || sum + core->n[PNX__POOL_EMPTY] != core->capacity)
        return "C1: sum of the states";
    if (core->size > core->ceiling || core->ceiling < core->max ||
            (core->ceiling > core->max && core->ceiling != core->size))
        return "C1: size over its ceiling";
    if (core->closing && core->n[PNX__POOL_IDLE] > 0)
        return "an idle resource in a closed pool";
    const char *broken = check_slots(core);
    if (!broken)
        broken = check_jobs(core);
    if (!broken)
        broken = check_idle(core);
    return broken ? broken : check_waiters(core);
}

const char *pnx__pool_core_check_alive(const struct pnx__pool_core *core, pnx_ns now) {
    if (core->waiting == 0 || core->closing)
        return NULL;
    if (core->n[PNX__POOL_IN_USE] > 0 || !pnx__list_empty(&core->running) ||
            pnx__pool_core_runnable(core, false, now))
        return NULL;
    if (core->retry_at > now && core->next_timer <= core->retry_at)
        return NULL;
    return "C6: somebody waits, and nothing will happen";
}
