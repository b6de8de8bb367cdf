/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core_queue.c - who waits, in what order, and how a wait ends.
 *
 * Part of the pure core (pool_core.h).
 *
 *   Q1  Of the heads of the lanes the one of the best lane is next, each counted as one lane better for each ageing that it
 *       has waited; among equals the one that joined first.  Within a lane nobody is overtaken.
 *   Q2  A refusal of all ends the waits of those who had joined by then, and of nobody else.
 *   Q3  Shedding (codel_target): only while every wait of the last codel_interval was longer than the target, one
 *       waiter when that is found, and more and more of them as it lasts (Nichols and Jacobson, Controlling Queue
 *       Delay, 2012): those who have waited longest, since they are the likeliest not to be waited for any more.
 */
#include "pool/pool_core.h"

#include <errno.h>

static struct pnx__pool_waiter *waiter_of(struct pnx_link *link) {
    return link ? PNX_CONTAINER(link, struct pnx__pool_waiter, link) : NULL;
}

/* The lane that a waiter counts for by now; the first is 0. */
static int64_t rank_of(const struct pnx__pool_core *core, const struct pnx__pool_waiter *waiter) {
    if (core->config.ageing == PNX_NEVER)
        return waiter->lane;
    int64_t risen = (core->now - waiter->at) / core->config.ageing;
    return risen >= waiter->lane ? 0 : waiter->lane - risen;
}

struct pnx__pool_waiter *pnx__pool_first_waiter(const struct pnx__pool_core *core) {
    struct pnx__pool_waiter *first = NULL;
    int64_t best = 0;
    if (core->waiting == 0)
        return NULL;
    for (int lane = 0; lane < PNX__POOL_LANES; lane++) {
        struct pnx__pool_waiter *head = waiter_of(pnx__list_first(&core->waiters[lane]));
        if (!head)
            continue;
        int64_t rank = rank_of(core, head);
        if (first && (rank > best || (rank == best && head->seq > first->seq)))
            continue;
        first = head;
        best = rank;
    }
    return first;
}

void pnx__pool_note_order(struct pnx__pool_core *core, uint8_t lane, uint64_t asked) {
    const struct pnx__pool_waiter *head =
            core->traced ? waiter_of(pnx__list_first(&core->waiters[lane])) : NULL;
    /* who came back from a hook without having waited has no number */
    if (head && head->seq > 0 && head->seq <= asked)
        pnx__pool_count(core, PNX__POOL_STAT_inversions);
}

static void unlink_waiter(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx__pool_effects *effects) {
    pnx__list_remove(&waiter->link);
    if (waiter->is_request)
        pnx__heap_remove(&core->timers, &waiter->timer);
    core->waiting--;
    core->blocked -= !waiter->is_request;
    pnx__pool_set_gauge(core, PNX__POOL_STAT_waiting, core->waiting);
    if (core->waiting == 0 && core->keepalive_due)
        effects->work = true; /* that had to wait, too */
}

/* Gives a waiter its outcome, or pokes it. */
static void tell(struct pnx__pool_waiter *waiter, enum pnx__pool_outcome outcome,
        struct pnx__pool_effects *effects) {
    if (waiter->is_request) {
        waiter->link = (struct pnx_link){0};
        /* read under the lock only */
        pnx_store(&waiter->outcome, outcome, PNX_RELAXED, "pool_core_queue.request");
        if (effects->done_last)
            effects->done_last->next = &waiter->link;
        else
            effects->done = &waiter->link;
        effects->done_last = &waiter->link;
        return;
    }
    /* pairs with pool_acquire.outcome: the waiter reads slot and generation after it; and with pool_acquire.park: either
     * it sees the outcome, or it is seen to be asleep.  Once it is stored the waiter's stack frame may be gone, so that
     * only the word's address is kept. */
    uint32_t was = pnx_exchange(&waiter->outcome, outcome, PNX_RELEASE, "pool_core_queue.outcome");
    if (was == PNX__POOL_PARKED)
        effects->wake[effects->wakes++] = &waiter->outcome;
}

void pnx__pool_refuse_one(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter, int code,
        const char *phase, struct pnx__pool_effects *effects) {
    unlink_waiter(core, waiter, effects);
    waiter->code = code;
    waiter->phase = phase;
    tell(waiter, PNX__POOL_REFUSED, effects);
}

void pnx__pool_refuse_all(struct pnx__pool_core *core, int code, const char *phase,
        struct pnx__pool_effects *effects) {
    core->refuse_upto = core->seq;
    core->refuse_code = code;
    core->refuse_phase = phase;
    pnx__pool_core_go_on(core, effects);
}

static bool has_room(const struct pnx__pool_effects *effects) {
    return effects->wakes < PNX__POOL_WAKES;
}

/* False when there are more to refuse. */
static bool refuse_some(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    if (core->refuse_upto == 0)
        return true;
    for (int lane = 0; lane < PNX__POOL_LANES; lane++) {
        struct pnx__pool_waiter *head;
        while ((head = waiter_of(pnx__list_first(&core->waiters[lane]))) &&
                head->seq <= core->refuse_upto) {
            if (!has_room(effects))
                return false;
            pnx__pool_refuse_one(core, head, core->refuse_code, core->refuse_phase, effects);
        }
    }
    core->refuse_upto = 0;
    return true;
}

/* ---- shedding ---- */

static uint32_t root(uint32_t n) {
    uint32_t r = 1;
    while (r < n / r)
        r++;
    return r;
}

static pnx_ns shed_after(const struct pnx__pool_core *core, pnx_ns from) {
    return from + core->config.codel_interval / (pnx_ns)root(core->shed_count);
}

/* Whether the first waiter, who has waited so long, is one too many. */
static bool sheds(struct pnx__pool_core *core, pnx_ns waited) {
    if (core->config.codel_target == PNX_NEVER)
        return false;
    if (waited < core->config.codel_target) {
        core->shed_above = 0;
        core->shedding = false;
        return false;
    }
    if (core->shed_above == 0)
        core->shed_above = core->now + core->config.codel_interval;
    if (core->now < core->shed_above)
        return false;
    if (!core->shedding) {
        core->shedding = true;
        /* It began again soon after it had ended: go on where it was. */
        bool again = core->shed_count > 2 &&
                     core->now - core->shed_next < 8 * core->config.codel_interval;
        core->shed_count = again ? core->shed_count - 2 : 1;
        core->shed_next = shed_after(core, core->now);
        return true;
    }
    if (core->now < core->shed_next)
        return false;
    core->shed_count++;
    core->shed_next = shed_after(core, core->shed_next);
    return true;
}

/* The waiter who gets the next resource. */
static struct pnx__pool_waiter *next_waiter(
        struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    struct pnx__pool_waiter *waiter;
    while ((waiter = pnx__pool_first_waiter(core)) && sheds(core, core->now - waiter->at)) {
        if (!has_room(effects))
            return waiter;
        pnx__pool_count(core, PNX__POOL_STAT_shed);
        core->starved_at = core->now;
        pnx__pool_refuse_one(core, waiter, -EBUSY, "overload", effects);
    }
    return waiter;
}

/* ---- grants ---- */

/* The first idle resource that may be granted; closes those that may not live on. */
static struct pnx_slot *usable(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    PNX_LIST_EACH (link, after, &core->home) {
        struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        if (slot->epoch != core->epoch)
            pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_STALE, effects);
        else if (core->now >= pnx__pool_expires_at(slot))
            pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_LIFETIME, effects);
        else if (core->config.check_after == PNX_NEVER ||
                 core->now - pnx__pool_used_at(slot) < core->config.check_after)
            return slot;
    }
    return NULL;
}

static void grant(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    unlink_waiter(core, waiter, effects);
    /* as pool_core.set_used_at */
    pnx_store(&slot->used_at, (uint64_t)core->now, PNX_RELAXED, "pool_core_queue.used_at");
    pnx__list_remove(&slot->link);
    pnx__pool_slot_to(core, slot, PNX__POOL_IN_USE);
    pnx__list_push_front(&core->out, &slot->link);
    /* by itself: a waiter that has not got so far as to look at the clock has not waited */
    pnx_ns since = (pnx_ns)pnx_load(&waiter->since, PNX_RELAXED, "pool_core_queue.since");
    pnx_ns waited = since && core->now > since ? core->now - since : 0;
    pnx_owner_add(&core->stats[PNX__POOL_STAT_wait_time], (uint64_t)waited);
    if (core->wait)
        pnx__histogram_record(core->wait, waited);
    if (!waiter->is_request) {
        pnx_ns counted = waited < PNX__POOL_RECENT_MAX ? waited : PNX__POOL_RECENT_MAX;
        core->recent_wait += (counted - core->recent_wait) / 8;
    }
    pnx__pool_note_order(core, waiter->lane, waiter->asked);
    waiter->slot = slot;
    /* alone: this thread wrote it just now */
    waiter->generation =
            pnx_load(&slot->word, PNX_RELAXED, "pool_core_queue.granted") / PNX__POOL_GENERATION;
    tell(waiter, PNX__POOL_GRANTED, effects);
}

static bool is_poked(const struct pnx__pool_waiter *waiter) {
    /* set under the lock only */
    return pnx_load(&waiter->outcome, PNX_RELAXED, "pool_core_queue.is_poked") == PNX__POOL_POKED;
}

static void poke(struct pnx__pool_waiter *waiter, struct pnx__pool_effects *effects) {
    if (!is_poked(waiter))
        tell(waiter, PNX__POOL_POKED, effects);
}

/* Whether a waiter is only to be told that something is idle, and may come too late. */
static bool competes(const struct pnx__pool_core *core, const struct pnx__pool_waiter *waiter) {
    return core->config.barge > 0 && core->config.check_after != 0 && !waiter->is_request &&
           core->now - waiter->at < core->config.barge;
}

bool pnx__pool_offer(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    if (core->waiting == 0 || core->paused || core->refuse_upto > 0)
        return false;
    struct pnx__pool_waiter *waiter = next_waiter(core, effects);
    if (!waiter || !has_room(effects) || competes(core, waiter))
        return false;
    grant(core, waiter, slot, effects);
    return true;
}

/* Gives what is idle to those who wait; false when effects are full. */
static bool grant_some(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    if (core->paused || core->closing)
        return true;
    while (core->waiting > 0 && core->n[PNX__POOL_IDLE] > 0) {
        struct pnx_slot *slot = usable(core, effects);
        struct pnx__pool_waiter *waiter = slot ? next_waiter(core, effects) : NULL;
        if (!waiter)
            return true;
        if (!has_room(effects))
            return false;
        if (competes(core, waiter)) {
            poke(waiter, effects); /* it may come too late, while it has not waited for long */
            return true;
        }
        grant(core, waiter, slot, effects);
    }
    return true;
}

void pnx__pool_core_go_on(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    bool all = refuse_some(core, effects);
    if (all)
        all = grant_some(core, effects);
    if (!all)
        effects->more = true;
}

void pnx__pool_core_retake(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter, pnx_ns now,
        struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    if (!pnx__list_linked(&waiter->link))
        return;
    /* only this waiter may write it now, and it is awake */
    pnx_store(&waiter->outcome, PNX__POOL_WAITING, PNX_RELAXED, "pool_core_queue.again");
    struct pnx_slot *slot = NULL;
    if (core->config.barge > 0 && !core->paused && !core->closing &&
            pnx__pool_first_waiter(core) == waiter)
        slot = usable(core, effects);
    if (slot)
        grant(core, waiter, slot, effects);
    pnx__pool_core_go_on(core, effects); /* the next one, if more is idle */
    effects->work = true;
}

bool pnx__pool_core_cancel(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx__pool_effects *effects) {
    /* set under the lock only, but for PARKED */
    uint32_t outcome = pnx_load(&waiter->outcome, PNX_RELAXED, "pool_core_queue.cancel");
    if (outcome == PNX__POOL_GRANTED || outcome == PNX__POOL_REFUSED)
        return false;
    unlink_waiter(core, waiter, effects);
    pnx__pool_core_go_on(core, effects);
    effects->work = true; /* whoever drove the jobs may be the one who leaves */
    return true;
}

void pnx__pool_core_poke(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    if (core->blocked == 0 || !has_room(effects))
        return;
    for (int lane = 0; lane < PNX__POOL_LANES; lane++) {
        PNX_LIST_EACH (link, after, &core->waiters[lane]) {
            struct pnx__pool_waiter *waiter = waiter_of(link);
            if (waiter->is_request)
                continue;
            poke(waiter, effects);
            return;
        }
    }
}
