/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core_check.c - the invariants C1..C7 of pool_core.h as code.
 *
 * Part of the pure core.  The simulator runs both after every step, debug builds the first at every unlock of a
 * small pool.
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

static bool walk_state(const struct pnx__pool_core *core, const struct pnx_link *list,
        enum pnx__pool_state state) {
    uint32_t n;
    return walk(list, core->capacity, 1u << state, &n) && n == core->n[state];
}

static const char *check_slots(const struct pnx__pool_core *core) {
    const uint32_t *n = core->n;
    uint32_t home, running, to_close;
    if (!walk_state(core, &core->free, PNX__POOL_EMPTY))
        return "C2: free list";
    if (!walk_state(core, &core->out, PNX__POOL_IN_USE))
        return "C2: list out";
    if (!walk(&core->home, core->capacity, 1u << PNX__POOL_IDLE | 1u << PNX__POOL_IN_USE, &home) ||
            home != n[PNX__POOL_IDLE] + core->open)
        return "C2: list home";
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
        if (!(slot->flags & (PNX__POOL_OVERDUE | PNX__POOL_EXAMINED | PNX__POOL_ADOPTED)))
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

/* What may be idle though somebody waits. */
static bool may_rest(const struct pnx__pool_core *core, const struct pnx_slot *slot) {
    return core->paused || core->config.barge > 0 || core->refuse_upto > 0 ||
           (core->config.check_after != PNX_NEVER &&
                   core->now - pnx__pool_used_at(slot) >= core->config.check_after);
}

static const char *check_home(const struct pnx__pool_core *core) {
    uint32_t open = 0;
    for (const struct pnx_link *link = core->home.next; link != &core->home; link = link->next) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (!slot->resource.v)
            return "a slot at home has no resource";
        if (pnx__pool_slot_is_open(slot)) {
            open++;
            continue;
        }
        if (pnx__pool_slot_state(slot) != PNX__POOL_IDLE)
            return "C2: a locked slot in use is on the list home";
        if (core->waiting > 0 && !may_rest(core, slot))
            return "C3: a usable resource is idle while somebody waits";
    }
    if (open != core->open)
        return "C2: count of open slots";
    if (core->open > 0 && (core->waiting > 0 || core->paused || core->closing))
        return "C3: a slot is open while somebody waits, or in a paused or closed pool";
    return NULL;
}

static const char *check_waiter(const struct pnx__pool_waiter *waiter) {
    /* while it is on a list, only the waiter itself may write it: from POKED to WAITING to PARKED */
    uint32_t outcome = pnx_load(&waiter->outcome, PNX_RELAXED, "pool_core_check.outcome");
    if (outcome == PNX__POOL_GRANTED || outcome == PNX__POOL_REFUSED)
        return "C5: a waiter with an outcome is still waiting";
    if (waiter->is_request && !pnx__heap_has(&waiter->timer))
        return "C5: a request without its timer";
    return NULL;
}

static const char *check_waiters(const struct pnx__pool_core *core) {
    uint32_t waiting = 0;
    for (int lane = 0; lane < PNX__POOL_LANES; lane++) {
        const struct pnx_link *list = &core->waiters[lane];
        uint64_t seq = 0;
        for (const struct pnx_link *link = list->next; link != list; link = link->next) {
            const struct pnx__pool_waiter *waiter =
                    PNX_CONTAINER(link, struct pnx__pool_waiter, link);
            const char *broken = check_waiter(waiter);
            if (link->next->prev != link || ++waiting > core->waiting || waiter->lane != lane)
                return "C4: list of waiters";
            if (waiter->seq < seq)
                return "C4: waiters out of order";
            seq = waiter->seq;
            if (broken)
                return broken;
        }
    }
    return waiting == core->waiting ? NULL : "C4: count of waiters";
}

const char *pnx__pool_core_check(const struct pnx__pool_core *core) {
    uint32_t sum = core->open;
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
        broken = check_home(core);
    if (!broken && core->breaker && (core->closing || pnx__pool_core_alive(core) > 0))
        broken = "C7: the breaker is open, and a resource alive";
    if (!broken && core->breaker && core->waiting > 0 && core->refuse_upto == 0)
        broken = "C7: somebody waits behind an open breaker";
    return broken ? broken : check_waiters(core);
}

static bool any_poked(const struct pnx__pool_core *core) {
    for (int lane = 0; lane < PNX__POOL_LANES; lane++) {
        const struct pnx_link *list = &core->waiters[lane];
        for (const struct pnx_link *link = list->next; link != list; link = link->next) {
            const struct pnx__pool_waiter *waiter =
                    PNX_CONTAINER(link, struct pnx__pool_waiter, link);
            /* set under the lock only */
            if (pnx_load(&waiter->outcome, PNX_RELAXED, "pool_core_check.poked") == PNX__POOL_POKED)
                return true;
        }
    }
    return false;
}

const char *pnx__pool_core_check_alive(const struct pnx__pool_core *core, pnx_ns now) {
    const struct pnx__pool_waiter *first = pnx__pool_first_waiter(core);
    if (!first || core->closing || core->paused || core->refuse_upto > 0)
        return NULL;
    if (any_poked(core)) /* it is awake, and looks, for itself or the next one */
        return NULL;
    if (core->size >= core->quota && core->quota < core->max)
        return NULL; /* the group has been told */
    if (core->n[PNX__POOL_IN_USE] > 0 || !pnx__list_empty(&core->running) ||
            !pnx__list_empty(&core->to_close) || /* a close, once no interrupt is in its way */

            pnx__pool_core_runnable(core, false, now))
        return NULL;
    if (core->retry_at > now && core->next_timer <= core->retry_at)
        return NULL;
    return "C6: somebody waits, and nothing will happen";
}
