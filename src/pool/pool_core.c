/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core.c - the pool's state machine: slots, waiters, jobs.
 *
 * Between patinox/pool.h (what callers see) and pool.c with its neighbours (locks, threads, the manager's
 * operations).  Guarantees C1..C6 stand in pool_core.h; timers are in pool_core_time.c, the invariants as code in
 * pool_core_check.c.
 *
 *   state       list       left by                                    to
 *   EMPTY       free       next_job (a connect is wanted)             CONNECTING
 *   CONNECTING  running    connected | connect_failed                 supply | EMPTY
 *   IDLE        idle       take | next_job (check) | tick, evict ...  IN_USE | CHECKING | CLOSING
 *   IN_USE      none       returned (kept | not)                      supply | CLOSING
 *   CHECKING    running    checked (fit | not)                        supply | CLOSING
 *   CLOSING     to_close, then running (next_job); closed             EMPTY
 *
 * supply() is where every resource that is ready arrives: to the first waiter, else to the idle list, else, when
 * it is not to live on, to CLOSING.
 */
#include "pool/pool_core.h"

#include "base/hash.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

/* After so many failed checks in a row, idle resources no longer count as help for those who wait. */
#define SUSPECT_AFTER 2

/* The gauges stand in the order of the states. */
#define GAUGE(state) ((uint32_t)PNX__POOL_STAT_connecting + (uint32_t)(state)-PNX__POOL_CONNECTING)
static_assert(GAUGE(PNX__POOL_IDLE) == PNX__POOL_STAT_idle &&
                      GAUGE(PNX__POOL_IN_USE) == PNX__POOL_STAT_in_use &&
                      GAUGE(PNX__POOL_CHECKING) == PNX__POOL_STAT_checking &&
                      GAUGE(PNX__POOL_CLOSING) == PNX__POOL_STAT_closing,
        "the gauges of stats/pool.def stand in the order of enum pnx__pool_state");
static_assert(
        PNX__POOL_STAT_closed_idle + PNX__POOL_BECAUSE_SHUTDOWN == PNX__POOL_STAT_closed_shutdown,
        "the rows closed_* stand in the order of enum pnx__pool_reason");

static struct pnx_slot *slot_of(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx_slot, link);
}

static void set_gauge(struct pnx__pool_core *core, uint32_t stat, uint32_t value) {
    /* read by exporters, which need no order */
    pnx_store(&core->stats[stat], value, PNX_RELAXED, "pool_core.gauge");
}

void pnx__pool_core_init(struct pnx__pool_core *core, const struct pnx__pool_config *config,
        uint32_t max, uint64_t seed, pnx_ns now) {
    *core = (struct pnx__pool_core){
            .config = *config,
            .max = max,
            .ceiling = max,
            .window = config->max_connecting,
            .now = now,
            .next_timer = PNX_NEVER,
            .random = seed,
    };
    pnx__list_init(&core->free);
    pnx__list_init(&core->idle);
    pnx__list_init(&core->running);
    pnx__list_init(&core->to_close);
    pnx__list_init(&core->waiters);
    set_gauge(core, PNX__POOL_STAT_max, max);
}

void pnx__pool_core_add_slots(
        struct pnx__pool_core *core, struct pnx_pool *pool, struct pnx_slot *slots, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        slots[i].pool = pool;
        slots[i].index = core->capacity + i;
        pnx__list_push_back(&core->free, &slots[i].link);
    }
    core->capacity += n;
    core->n[PNX__POOL_EMPTY] += n;
}

/* The one function that changes a slot's state, and all that is counted of it. */
static inline void slot_to(
        struct pnx__pool_core *core, struct pnx_slot *slot, enum pnx__pool_state to) {
    uint64_t word =
            pnx_load(&slot->word, PNX_RELAXED, "pool_core.word"); /* the lock orders writers */
    enum pnx__pool_state from = (enum pnx__pool_state)(word & PNX__POOL_STATE_MASK);
    uint64_t generation = word & ~(PNX__POOL_GENERATION - 1);
    if (to == PNX__POOL_IN_USE)
        generation += PNX__POOL_GENERATION;
    core->n[from]--;
    core->n[to]++;
    if (from == PNX__POOL_EMPTY)
        core->size++;
    else
        set_gauge(core, GAUGE(from), core->n[from]);
    if (to == PNX__POOL_EMPTY) {
        core->size--;
        if (core->ceiling > core->max)
            core->ceiling = core->size > core->max ? core->size : core->max;
    } else {
        set_gauge(core, GAUGE(to), core->n[to]);
    }
    /* pairs with pool_core.spend and pool_lease.word: who sees the state sees the resource */
    pnx_store(&slot->word, generation | (uint64_t)to, PNX_RELEASE, "pool_core.to");
}

void pnx__pool_timer(struct pnx__pool_core *core, pnx_ns at, struct pnx__pool_effects *effects) {
    if (at >= core->next_timer)
        return;
    core->next_timer = at;
    effects->timer = true;
}

static void wake(struct pnx__pool_waiter *waiter, enum pnx__pool_outcome outcome,
        struct pnx__pool_effects *effects) {
    /* pairs with pool_acquire.outcome: the waiter reads slot and generation after it.  Once it is stored the
     * waiter's stack frame may be gone, so that only the word's address is kept. */
    pnx_store(&waiter->outcome, outcome, PNX_RELEASE, "pool_core.outcome");
    effects->wake[effects->wakes++] = &waiter->outcome;
}

static struct pnx__pool_waiter *first_waiter(const struct pnx__pool_core *core) {
    struct pnx_link *link = pnx__list_first(&core->waiters);
    return link ? PNX_CONTAINER(link, struct pnx__pool_waiter, link) : NULL;
}

static void unlink_waiter(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter) {
    pnx__list_remove(&waiter->link);
    core->waiting--;
    set_gauge(core, PNX__POOL_STAT_waiting, core->waiting);
}

static uint64_t grant(struct pnx__pool_core *core, struct pnx_slot *slot) {
    slot->used_at = core->now;
    slot->hold_since = 0;
    slot_to(core, slot, PNX__POOL_IN_USE);
    pnx__pool_count(core, PNX__POOL_STAT_acquires);
    /* alone: this thread wrote it just now */
    return pnx_load(&slot->word, PNX_RELAXED, "pool_core.granted") / PNX__POOL_GENERATION;
}

static bool is_due(const struct pnx__pool_core *core, const struct pnx_slot *slot) {
    return core->config.check_after != PNX_NEVER &&
           core->now - slot->used_at >= core->config.check_after;
}

void pnx__pool_begin_close(struct pnx__pool_core *core, struct pnx_slot *slot,
        enum pnx__pool_reason reason, struct pnx__pool_effects *effects) {
    pnx__list_remove(&slot->link);
    slot->reason = (uint8_t)reason;
    slot_to(core, slot, PNX__POOL_CLOSING);
    pnx__list_push_back(&core->to_close, &slot->link);
    effects->work = true;
}

/* A resource is ready: see the top of this file. */
static void supply(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    core->want_one = false;
    if (core->closing) {
        pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_SHUTDOWN, effects);
        return;
    }
    if (core->size - core->n[PNX__POOL_CLOSING] > core->max) {
        pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_RESIZE, effects);
        return;
    }
    if (core->now >= slot->expires_at) {
        pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_LIFETIME, effects);
        return;
    }
    struct pnx__pool_waiter *waiter = first_waiter(core);
    if (!waiter) {
        slot->used_at = core->now;
        slot->idle_since = 0;
        slot_to(core, slot, PNX__POOL_IDLE);
        pnx__list_push_front(&core->idle, &slot->link);
        return;
    }
    unlink_waiter(core, waiter);
    waiter->slot = slot;
    waiter->generation = grant(core, slot);
    wake(waiter, PNX__POOL_GRANTED, effects);
}

struct pnx_slot *pnx__pool_core_take(struct pnx__pool_core *core, pnx_ns now,
        struct pnx__pool_effects *effects, uint64_t *ret_generation) {
    if (core->closing || !pnx__list_empty(&core->waiters))
        return NULL;
    pnx__pool_see(core, now);
    struct pnx_link *link;
    while ((link = pnx__list_first(&core->idle))) {
        struct pnx_slot *slot = slot_of(link);
        if (core->now >= slot->expires_at) {
            pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_LIFETIME, effects);
            continue;
        }
        /* The list is in order of use: when the first one is due for a check, all are. */
        if (is_due(core, slot))
            return NULL;
        pnx__list_remove(link);
        *ret_generation = grant(core, slot);
        if (core->n[PNX__POOL_IDLE] < core->config.min_idle && core->size < core->max)
            effects->work = true; /* ahead of need: not when somebody waits already */
        return slot;
    }
    return NULL;
}

int pnx__pool_core_enqueue(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx__pool_effects *effects) {
    if (core->closing)
        return -ESHUTDOWN;
    if (core->waiting >= core->config.max_waiters) {
        pnx__pool_count(core, PNX__POOL_STAT_rejected);
        core->starved_at = core->now;
        return -EBUSY;
    }
    *waiter = (struct pnx__pool_waiter){.outcome = {PNX__POOL_WAITING}};
    pnx__list_push_back(&core->waiters, &waiter->link);
    core->waiting++;
    set_gauge(core, PNX__POOL_STAT_waiting, core->waiting);
    pnx__pool_count(core, PNX__POOL_STAT_waits);
    effects->work = true;
    return 0;
}

void pnx__pool_core_wish(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    pnx__pool_count(core, PNX__POOL_STAT_tries_failed);
    if (core->closing)
        return;
    core->want_one = true;
    effects->work = true;
}

bool pnx__pool_core_cancel(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        struct pnx__pool_effects *effects) {
    if (!pnx__list_linked(&waiter->link))
        return false;
    unlink_waiter(core, waiter);
    effects->work = true; /* whoever drove the jobs may be the one who leaves */
    return true;
}

bool pnx__pool_slot_spend(struct pnx_slot *slot, uint64_t generation) {
    uint64_t held = generation * PNX__POOL_GENERATION | PNX__POOL_IN_USE;
    /* pairs with pool_core.to; of two copies of a lease one wins */
    return pnx_cas(&slot->word, &held, held | PNX__POOL_RETURNING, PNX_ACQUIRE, "pool_core.spend");
}

void pnx__pool_core_returned(struct pnx__pool_core *core, struct pnx_slot *slot, bool keep,
        enum pnx__pool_reason reason, pnx_ns now, struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    if (keep)
        supply(core, slot, effects);
    else
        pnx__pool_begin_close(core, slot, reason, effects);
}

/* ---- jobs ---- */

/* Idle resources are checked for those who wait, and for the try that found nothing but stale ones. */
static bool check_wanted(const struct pnx__pool_core *core) {
    return core->n[PNX__POOL_IDLE] > 0 &&
           core->running_n[PNX__POOL_CHECK] < core->config.max_checking &&
           core->waiting + core->want_one > core->running_n[PNX__POOL_CHECK];
}

static bool connect_wanted(const struct pnx__pool_core *core) {
    uint32_t coming = core->running_n[PNX__POOL_CONNECT];
    uint32_t checkable = core->n[PNX__POOL_IDLE] + core->running_n[PNX__POOL_CHECK];
    uint32_t helped = coming + (core->check_failures >= SUSPECT_AFTER ? 0 : checkable);
    return core->waiting + core->want_one > helped || coming + checkable < core->config.min_idle;
}

static bool connect_allowed(const struct pnx__pool_core *core, pnx_ns now) {
    return core->size < core->max && now >= core->retry_at &&
           core->running_n[PNX__POOL_CONNECT] < core->window;
}

static bool close_allowed(const struct pnx__pool_core *core) {
    return !pnx__list_empty(&core->to_close) &&
           core->running_n[PNX__POOL_CLOSE] < core->config.max_connecting;
}

bool pnx__pool_core_runnable(const struct pnx__pool_core *core, bool only_close, pnx_ns now) {
    if (close_allowed(core))
        return true;
    if (only_close || core->closing)
        return false;
    return check_wanted(core) || (connect_wanted(core) && connect_allowed(core, now));
}

static struct pnx_slot *start_job(struct pnx__pool_core *core, struct pnx_slot *slot,
        enum pnx__pool_job_kind kind, pnx_ns timeout, struct pnx__pool_effects *effects) {
    pnx__list_remove(&slot->link);
    pnx__list_push_back(&core->running, &slot->link);
    core->running_n[kind]++;
    slot->job = (uint8_t)kind;
    slot->overdue = false;
    slot->job_since = core->now;
    slot->job_late = PNX_NEVER;
    if (timeout < PNX_NEVER - PNX__POOL_GRACE - core->now)
        slot->job_late = core->now + timeout + PNX__POOL_GRACE;
    pnx__pool_timer(core, slot->job_late, effects);
    return slot;
}

static struct pnx_slot *start_check(
        struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    struct pnx_slot *slot = slot_of(pnx__list_first(&core->idle));
    slot_to(core, slot, PNX__POOL_CHECKING);
    return start_job(core, slot, PNX__POOL_CHECK, core->config.check_timeout, effects);
}

static struct pnx_slot *start_connect(
        struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    struct pnx_slot *slot = slot_of(pnx__list_first(&core->free));
    slot_to(core, slot, PNX__POOL_CONNECTING);
    return start_job(core, slot, PNX__POOL_CONNECT, core->config.connect_timeout, effects);
}

/* What helps those who wait comes first, and after failed checks a connect helps sooner than another check. */
struct pnx_slot *pnx__pool_core_next_job(struct pnx__pool_core *core, bool only_close, pnx_ns now,
        struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    if (!only_close && !core->closing) {
        bool connect = connect_wanted(core) && connect_allowed(core, core->now);
        if (connect && core->check_failures >= SUSPECT_AFTER)
            return start_connect(core, effects);
        if (check_wanted(core))
            return start_check(core, effects);
        if (connect)
            return start_connect(core, effects);
    }
    if (!close_allowed(core))
        return NULL;
    return start_job(core, slot_of(pnx__list_first(&core->to_close)), PNX__POOL_CLOSE,
            core->config.close_timeout, effects);
}

static void end_job(struct pnx__pool_core *core, struct pnx_slot *slot, pnx_ns now,
        struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    pnx__list_remove(&slot->link);
    if (!slot->overdue)
        core->running_n[slot->job]--;
    effects->work = true;
}

static void to_empty(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    slot_to(core, slot, PNX__POOL_EMPTY);
    pnx__list_push_front(&core->free, &slot->link);
    effects->ended = core->closing;
}

void pnx__pool_core_connected(struct pnx__pool_core *core, struct pnx_slot *slot, void *resource,
        pnx_ns now, struct pnx__pool_effects *effects) {
    end_job(core, slot, now, effects);
    pnx__pool_count(core, PNX__POOL_STAT_connects);
    core->failures = 0;
    core->retry_at = 0;
    if (core->window < core->config.max_connecting)
        core->window++;
    /* published by pool_core.to */
    pnx_store(&slot->resource, resource, PNX_RELAXED, "pool_core.resource");
    slot->born_at = core->now;
    slot->expires_at = PNX_NEVER;
    pnx_ns lifetime = core->config.lifetime;
    if (lifetime < PNX_NEVER - core->now) {
        uint64_t jitter = pnx__splitmix(&core->random) % ((uint64_t)lifetime / 10 + 1);
        slot->expires_at = core->now + lifetime - (pnx_ns)jitter;
        pnx__pool_timer(core, slot->expires_at, effects);
    }
    if (core->config.idle < PNX_NEVER - core->now)
        pnx__pool_timer(core, core->now + core->config.idle / PNX__POOL_REAPS + 1, effects);
    supply(core, slot, effects);
}

void pnx__pool_connect_failure(struct pnx__pool_core *core, int code, const char *message,
        struct pnx__pool_effects *effects) {
    core->failure.code = code;
    core->failure.at = core->now;
    snprintf(core->failure.message, sizeof(core->failure.message), "%s", message);
    core->window = 1;
    /* Full jitter after the cap: the pause is anything from 0 to it, so that many clients spread out. */
    uint32_t doublings = core->failures < 40 ? core->failures : 40;
    pnx_ns cap = core->config.backoff_max;
    if (core->config.backoff < cap >> doublings)
        cap = core->config.backoff << doublings;
    core->failures++;
    core->retry_at = core->now + (pnx_ns)(pnx__splitmix(&core->random) % ((uint64_t)cap + 1));
    pnx__pool_timer(core, core->retry_at, effects);
}

void pnx__pool_core_connect_failed(struct pnx__pool_core *core, struct pnx_slot *slot, int code,
        const char *message, pnx_ns now, struct pnx__pool_effects *effects) {
    bool counted = slot->overdue; /* by the tick that found it so */
    end_job(core, slot, now, effects);
    pnx__pool_count(core, PNX__POOL_STAT_connect_failures);
    core->want_one = false; /* a try asks once */
    if (!counted)
        pnx__pool_connect_failure(core, code, message, effects);
    to_empty(core, slot, effects);
}

void pnx__pool_core_checked(struct pnx__pool_core *core, struct pnx_slot *slot, bool fit,
        pnx_ns now, struct pnx__pool_effects *effects) {
    end_job(core, slot, now, effects);
    pnx__pool_count(core, PNX__POOL_STAT_checks);
    if (fit) {
        core->check_failures = 0;
        supply(core, slot, effects);
        return;
    }
    pnx__pool_count(core, PNX__POOL_STAT_check_failures);
    if (core->check_failures < SUSPECT_AFTER)
        core->check_failures++;
    pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_CHECK, effects);
}

void pnx__pool_core_closed(struct pnx__pool_core *core, struct pnx_slot *slot, pnx_ns now,
        struct pnx__pool_effects *effects) {
    end_job(core, slot, now, effects);
    pnx_owner_add(&core->stats[PNX__POOL_STAT_closed_idle + slot->reason], 1);
    pnx_store(&slot->resource, NULL, PNX_RELAXED, "pool_core.gone"); /* read under the lock only */
    to_empty(core, slot, effects);
}

/* ---- from outside ---- */

uint32_t pnx__pool_core_evict(
        struct pnx__pool_core *core, uint32_t n, struct pnx__pool_effects *effects) {
    uint32_t done = 0;
    while (done < n && core->n[PNX__POOL_IDLE] > core->config.min_idle) {
        pnx__pool_begin_close(
                core, slot_of(pnx__list_last(&core->idle)), PNX__POOL_BECAUSE_PRESSURE, effects);
        done++;
    }
    return done;
}

void pnx__pool_core_resize(
        struct pnx__pool_core *core, uint32_t max, struct pnx__pool_effects *effects) {
    core->max = max;
    core->ceiling = core->size > max ? core->size : max;
    set_gauge(core, PNX__POOL_STAT_max, max);
    while (core->n[PNX__POOL_IDLE] > 0 && core->size - core->n[PNX__POOL_CLOSING] > max)
        pnx__pool_begin_close(
                core, slot_of(pnx__list_last(&core->idle)), PNX__POOL_BECAUSE_RESIZE, effects);
    effects->work = true; /* there may be room for a connect now */
}

void pnx__pool_core_close(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    core->closing = true;
    struct pnx_link *link;
    while ((link = pnx__list_first(&core->idle)))
        pnx__pool_begin_close(core, slot_of(link), PNX__POOL_BECAUSE_SHUTDOWN, effects);
    effects->work = true;
    effects->ended = true;
}

bool pnx__pool_core_refuse(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    struct pnx__pool_waiter *waiter;
    while ((waiter = first_waiter(core))) {
        if (effects->wakes == PNX__POOL_WAKES)
            return true;
        unlink_waiter(core, waiter);
        wake(waiter, PNX__POOL_REFUSED, effects);
    }
    return false;
}

void pnx__pool_core_poke(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    struct pnx__pool_waiter *waiter = first_waiter(core);
    if (waiter && effects->wakes < PNX__POOL_WAKES)
        wake(waiter, PNX__POOL_POKED, effects);
}
