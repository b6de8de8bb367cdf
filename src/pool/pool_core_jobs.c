/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core_jobs.c - which operation of the manager runs next, and what its end means.
 *
 * Part of the pure core (pool_core.h): connects, checks, closes; the governor and the breaker.
 *
 *   G1  After a connect that failed or is overdue, one connect at a time is made until one succeeds, each after a random
 *       pause of up to backoff << failures, backoff_max at most: full jitter after the cap, so that many clients
 *       spread out.  Each success allows one connect more at once.
 *   G2  After OVERLOAD and PERMANENT the pause is at least half of backoff_max.
 *   G3  The breaker opens when no resource is alive and connects have failed breaker_failures times in a row, or one was
 *       PERMANENT; it closes with the next resource.  While it is open connects go on as G1 says, if anybody has asked
 *       since the last one.
 */
#include "pool/pool_core.h"

#include "base/hash.h"

#include <errno.h>
#include <stdio.h>

/* After so many failed checks in a row, idle resources no longer count as help for those who wait. */
#define SUSPECT_AFTER 2

static struct pnx_slot *slot_of(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx_slot, link);
}

int pnx__pool_core_admit(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    if (core->closing)
        return -ESHUTDOWN;
    if (!core->breaker)
        return 0;
    pnx__pool_count(core, PNX__POOL_STAT_refused);
    core->starved_at = core->now;
    core->want_one = true; /* the probe's reason */
    effects->work = true;
    return PNX_E_BREAKER;
}

void pnx__pool_core_wish(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    pnx__pool_count(core, PNX__POOL_STAT_tries_failed);
    if (core->closing || core->paused)
        return;
    core->want_one = true;
    effects->work = true;
}

/* ---- what may run ---- */

/* The first idle resource that is to be checked before use. */
static struct pnx_slot *first_due(const struct pnx__pool_core *core, pnx_ns now) {
    if (core->n[PNX__POOL_IDLE] == 0 || core->config.check_after == PNX_NEVER)
        return NULL;
    PNX_LIST_EACH (link, after, &core->home) {
        struct pnx_slot *slot = slot_of(link);
        if (!pnx__pool_slot_is_open(slot) &&
                now - pnx__pool_used_at(slot) >= core->config.check_after)
            return slot;
    }
    return NULL;
}

/* Idle resources are checked for those who wait, and for the try that found nothing but stale ones. */
static bool check_wanted(const struct pnx__pool_core *core, pnx_ns now) {
    return !core->paused && core->running_n[PNX__POOL_CHECK] < core->config.max_checking &&
           core->waiting + core->want_one > core->running_n[PNX__POOL_CHECK] &&
           first_due(core, now);
}

static bool keepalive_wanted(const struct pnx__pool_core *core) {
    return core->keepalive_due && core->waiting == 0 && !core->paused &&
           core->running_n[PNX__POOL_CHECK] == 0;
}

static bool connect_wanted(const struct pnx__pool_core *core) {
    uint32_t coming = core->running_n[PNX__POOL_CONNECT];
    uint32_t checkable = core->n[PNX__POOL_IDLE] + core->running_n[PNX__POOL_CHECK];
    uint32_t helped = coming + (core->check_failures >= SUSPECT_AFTER ? 0 : checkable);
    if (core->paused)
        return false;
    return core->waiting + core->want_one > helped || coming + checkable < core->config.min_idle ||
           pnx__pool_core_alive(core) + coming < core->warm;
}

static bool connect_may_start(const struct pnx__pool_core *core, pnx_ns now) {
    return now >= core->retry_at && core->running_n[PNX__POOL_CONNECT] < core->window;
}

static bool connect_allowed(const struct pnx__pool_core *core, pnx_ns now) {
    return core->size < core->max && core->size < core->quota && connect_may_start(core, now);
}

bool pnx__pool_core_hungry(const struct pnx__pool_core *core, pnx_ns now) {
    return !core->closing && core->size >= core->quota && core->size < core->max &&
           connect_may_start(core, now) && connect_wanted(core);
}

static struct pnx_slot *first_to_close(const struct pnx__pool_core *core) {
    PNX_LIST_EACH (link, after, &core->to_close) {
        if (!(slot_of(link)->flags & PNX__POOL_INTERRUPTED))
            return slot_of(link);
    }
    return NULL;
}

static bool close_allowed(const struct pnx__pool_core *core) {
    return core->running_n[PNX__POOL_CLOSE] < core->config.max_connecting && first_to_close(core);
}

bool pnx__pool_core_runnable(const struct pnx__pool_core *core, bool only_close, pnx_ns now) {
    if (close_allowed(core))
        return true;
    if (only_close || core->closing)
        return false;
    return check_wanted(core, now) || keepalive_wanted(core) ||
           (connect_allowed(core, now) && connect_wanted(core));
}

/* ---- starts ---- */

static struct pnx_slot *start_job(struct pnx__pool_core *core, struct pnx_slot *slot,
        enum pnx__pool_job_kind kind, pnx_ns timeout, struct pnx__pool_effects *effects) {
    pnx__list_remove(&slot->link);
    pnx__list_push_back(&core->running, &slot->link);
    core->running_n[kind]++;
    slot->job = (uint8_t)kind;
    slot->flags = 0;
    slot->job_since = core->now;
    slot->job_late = PNX_NEVER;
    if (timeout < PNX_NEVER - core->config.grace - core->now)
        slot->job_late = core->now + timeout + core->config.grace;
    pnx__pool_timer(core, slot->job_late, effects);
    return slot;
}

static bool needs_full_check(const struct pnx__pool_core *core, const struct pnx_slot *slot) {
    return core->config.full_check_after != PNX_NEVER &&
           core->now - pnx__pool_used_at(slot) >= core->config.full_check_after;
}

static struct pnx_slot *start_check(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    bool peek = !needs_full_check(core, slot);
    pnx__pool_slot_to(core, slot, PNX__POOL_CHECKING);
    start_job(core, slot, PNX__POOL_CHECK, core->config.check_timeout, effects);
    if (peek)
        slot->flags |= PNX__POOL_PEEKED;
    return slot;
}

static struct pnx_slot *start_connect(
        struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    struct pnx_slot *slot = slot_of(pnx__list_first(&core->free));
    pnx__pool_slot_to(core, slot, PNX__POOL_CONNECTING);
    slot->epoch = core->epoch;
    return start_job(core, slot, PNX__POOL_CONNECT, core->config.connect_timeout, effects);
}

/* The longest unused one of those that are due for their keep-alive check. */
static struct pnx_slot *first_keepalive(const struct pnx__pool_core *core) {
    for (struct pnx_link *link = core->home.prev; link != &core->home; link = link->prev) {
        struct pnx_slot *slot = slot_of(link);
        if (pnx__pool_slot_state(slot) == PNX__POOL_IDLE &&
                core->now >= pnx__pool_keepalive_at(core, slot))
            return slot;
    }
    return NULL;
}

static struct pnx_slot *start_keepalive(
        struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    core->keepalive_due = false;
    struct pnx_slot *slot = first_keepalive(core);
    if (!slot)
        return NULL;
    if (pnx__pool_slot_is_open(slot) && pnx__pool_capture(core, slot) != PNX__POOL_IDLE)
        return NULL; /* the list has changed; the next tick looks again */
    start_check(core, slot, effects);
    slot->flags = PNX__POOL_KEEPALIVE;
    core->keepalive_due = first_keepalive(core) != NULL; /* when this one is over */
    return slot;
}

/* What helps those who wait comes first, and after failed checks a connect helps sooner than another check. */
struct pnx_slot *pnx__pool_core_next_job(struct pnx__pool_core *core, bool only_close, pnx_ns now,
        struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    if (!only_close && !core->closing) {
        bool connect = connect_allowed(core, core->now) && connect_wanted(core);
        if (connect && core->check_failures >= SUSPECT_AFTER)
            return start_connect(core, effects);
        if (check_wanted(core, core->now))
            return start_check(core, first_due(core, core->now), effects);
        if (connect)
            return start_connect(core, effects);
        struct pnx_slot *slot = keepalive_wanted(core) ? start_keepalive(core, effects) : NULL;
        if (slot)
            return slot;
    }
    if (!close_allowed(core))
        return NULL;
    return start_job(
            core, first_to_close(core), PNX__POOL_CLOSE, core->config.close_timeout, effects);
}

struct pnx_slot *pnx__pool_core_next_peek(
        struct pnx__pool_core *core, pnx_ns now, struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    if (core->closing || core->config.full_check_after == 0 || !check_wanted(core, core->now))
        return NULL;
    struct pnx_slot *slot = first_due(core, core->now);
    return needs_full_check(core, slot) ? NULL : start_check(core, slot, effects);
}

struct pnx_slot *pnx__pool_core_adopt(struct pnx__pool_core *core, pnx_ns now, int *ret_code) {
    pnx__pool_see(core, now);
    *ret_code = core->closing ? -ESHUTDOWN : -EBUSY;
    if (core->closing || core->size >= core->max || core->size >= core->quota)
        return NULL;
    *ret_code = 0;
    struct pnx_slot *slot = slot_of(pnx__list_first(&core->free));
    pnx__pool_slot_to(core, slot, PNX__POOL_CONNECTING);
    pnx__list_remove(&slot->link);
    pnx__list_push_back(&core->running, &slot->link);
    slot->epoch = core->epoch;
    slot->job = PNX__POOL_CONNECT;
    slot->flags = PNX__POOL_ADOPTED; /* no connect is made: it takes no place among them */
    slot->job_since = core->now;
    slot->job_late = PNX_NEVER;
    return slot;
}

/* ---- ends ---- */

static void end_job(struct pnx__pool_core *core, struct pnx_slot *slot, pnx_ns now,
        struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    pnx__list_remove(&slot->link);
    if (!(slot->flags & (PNX__POOL_OVERDUE | PNX__POOL_ADOPTED)))
        core->running_n[slot->job]--;
    effects->work = true;
}

static void open_breaker(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    if (core->closing || core->breaker || pnx__pool_core_alive(core) > 0)
        return;
    bool enough = core->config.breaker_failures != UINT32_MAX &&
                  core->serious >= core->config.breaker_failures;
    if (!enough && !core->permanent)
        return;
    core->breaker = true;
    effects->opened = true;
    pnx__pool_count(core, PNX__POOL_STAT_breaker_opened);
    pnx__pool_set_gauge(core, PNX__POOL_STAT_breaker_open, 1);
    core->want_one =
            core->waiting > 0; /* they asked; and whoever asks from now on wants the probe, too */
    pnx__pool_refuse_all(core, PNX_E_BREAKER, "breaker", effects);
}

void pnx__pool_to_empty(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    pnx_store(&slot->resource, NULL, PNX_RELAXED,
            "pool_core_jobs.gone"); /* read under the lock only */
    slot->flags = 0;
    pnx__pool_slot_to(core, slot, PNX__POOL_EMPTY);
    pnx__list_push_front(&core->free, &slot->link);
    effects->ended = true;
    pnx__pool_reserve(core);
    open_breaker(core, effects);
}

static void set_expiry(struct pnx__pool_core *core, struct pnx_slot *slot) {
    pnx_ns at = PNX_NEVER;
    slot->born_at = core->now;
    if (core->config.lifetime < PNX_NEVER - core->now) {
        /* The jitter is drawn once, at birth, and only shortens. */
        uint64_t spread = (uint64_t)core->config.lifetime / 10 + 1;
        at = core->now + core->config.lifetime - (pnx_ns)(pnx__splitmix(&core->random) % spread);
    }
    /* published by pool_core.to and pool_core.open */
    pnx_store(&slot->expires_at, (uint64_t)at, PNX_RELAXED, "pool_core_jobs.expires_at");
}

static void connect_success(struct pnx__pool_core *core) {
    pnx__pool_count(core, PNX__POOL_STAT_connects);
    core->failures = 0;
    core->serious = 0;
    core->permanent = false;
    core->retry_at = 0;
    if (core->window < core->config.max_connecting)
        core->window++;
}

void pnx__pool_core_connected(struct pnx__pool_core *core, struct pnx_slot *slot, void *resource,
        pnx_ns now, struct pnx__pool_effects *effects) {
    end_job(core, slot, now, effects);
    if (!(slot->flags & PNX__POOL_ADOPTED)) /* which says nothing of the next connect */
        connect_success(core);
    if (core->breaker) {
        core->breaker = false;
        effects->closed = true;
        pnx__pool_set_gauge(core, PNX__POOL_STAT_breaker_open, 0);
    }
    /* published by pool_core.to */
    pnx_store(&slot->resource, resource, PNX_RELAXED, "pool_core_jobs.resource");
    set_expiry(core, slot);
    pnx__pool_timer(
            core, pnx__pool_next_look(core), effects); /* the first one finds no timer set */
    slot->flags = 0;
    pnx__pool_supply(core, slot, false, effects);
    if (core->warm && pnx__pool_core_alive(core) >= core->warm)
        core->warm = 0;
    effects->ended = true;
}

void pnx__pool_connect_failure(struct pnx__pool_core *core, int code, const char *message,
        enum pnx_pool_verdict verdict, struct pnx__pool_effects *effects) {
    core->failure.code = code;
    core->failure.at = core->now;
    snprintf(core->failure.message, sizeof(core->failure.message), "%s", message ? message : "");
    core->window = 1;
    uint32_t doublings = core->failures < 40 ? core->failures : 40;
    pnx_ns cap = core->config.backoff_max, least = 0;
    if (verdict == PNX_POOL_OVERLOAD || verdict == PNX_POOL_PERMANENT)
        least = cap / 2;
    else if (core->config.backoff < cap >> doublings)
        cap = core->config.backoff << doublings;
    core->failures++;
    core->serious += verdict != PNX_POOL_OVERLOAD;
    core->permanent = core->permanent || verdict == PNX_POOL_PERMANENT;
    core->retry_at = core->now + least +
                     (pnx_ns)(pnx__splitmix(&core->random) % ((uint64_t)(cap - least) + 1));
    pnx__pool_timer(core, core->retry_at, effects);
    if (verdict == PNX_POOL_STALE_ALL)
        pnx__pool_core_reset(core, PNX_POOL_RESET_IDLE, effects);
    open_breaker(core, effects); /* also while the connect hangs that is overdue */
}

void pnx__pool_core_connect_failed(struct pnx__pool_core *core, struct pnx_slot *slot, int code,
        const char *message, enum pnx_pool_verdict verdict, pnx_ns now,
        struct pnx__pool_effects *effects) {
    bool counted = slot->flags & PNX__POOL_OVERDUE; /* by the tick that found it so */
    end_job(core, slot, now, effects);
    pnx__pool_count(core, PNX__POOL_STAT_connect_failures);
    core->want_one = false; /* a try asks once */
    if (!counted)
        pnx__pool_connect_failure(core, code, message, verdict, effects);
    pnx__pool_to_empty(core, slot, effects);
}

void pnx__pool_core_connect_refused(struct pnx__pool_core *core, struct pnx_slot *slot,
        void *resource, int code, const char *message, enum pnx_pool_verdict verdict, pnx_ns now,
        struct pnx__pool_effects *effects) {
    bool counted = slot->flags & PNX__POOL_OVERDUE;
    end_job(core, slot, now, effects);
    pnx__pool_count(core, PNX__POOL_STAT_connect_failures);
    core->want_one = false;
    slot->flags = 0;
    slot->born_at = core->now;
    /* published by pool_core.to */
    pnx_store(&slot->resource, resource, PNX_RELAXED, "pool_core_jobs.refused");
    pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_HOOK, effects);
    if (!counted)
        pnx__pool_connect_failure(core, code, message, verdict, effects);
}

void pnx__pool_core_adopt_failed(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    end_job(core, slot, core->now, effects);
    pnx__pool_to_empty(core, slot, effects);
}

void pnx__pool_core_checked(struct pnx__pool_core *core, struct pnx_slot *slot, bool fit,
        pnx_ns now, struct pnx__pool_effects *effects) {
    bool keepalive = slot->flags & PNX__POOL_KEEPALIVE;
    end_job(core, slot, now, effects);
    pnx__pool_count(core, PNX__POOL_STAT_checks);
    slot->flags = 0;
    if (fit) {
        core->check_failures = 0;
        pnx__pool_supply(core, slot, keepalive, effects);
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
    pnx__pool_to_empty(core, slot, effects);
}
