/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_core.c - the pool's state machine: slots, and how they come to those who ask.
 *
 * Between patinox/pool.h (what callers see) and pool.c with its neighbours (locks, threads, the manager's
 * operations).  Guarantees C1..C7 stand in pool_core.h; the queue is in pool_core_queue.c, jobs and failures are in
 * pool_core_jobs.c, timers in pool_core_time.c, the invariants as code in pool_core_check.c.
 *
 *   state       list       left by                                    to
 *   EMPTY       free       next_job (a connect is wanted) | adopt     CONNECTING
 *   CONNECTING  running    connected | connect_failed                 supply | EMPTY
 *   IDLE        home       claim, take | next_job (check) | tick, ... IN_USE | CHECKING | CLOSING
 *   IN_USE      home, out  bring | returned (kept | not) | detached   IDLE | supply | CLOSING | EMPTY
 *   CHECKING    running    checked (fit | not)                        supply | CLOSING
 *   CLOSING     to_close, then running (next_job); closed             EMPTY
 *
 * supply() is where every resource that is ready arrives: to the first waiter, else to the list home, else, when
 * it is not to live on, to CLOSING.
 */
#include "pool/pool_core.h"

#include <assert.h>
#include <errno.h>

/* A take walks past so many slots that are in use by the short way before it has their return come here. */
#define PASSED_MAX 8

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

void pnx__pool_set_gauge(struct pnx__pool_core *core, enum pnx__pool_stat stat, uint32_t value) {
    /* read by exporters, which need no order */
    pnx_store(&core->stats[stat], value, PNX_RELAXED, "pool_core.gauge");
}

void pnx__pool_core_init(struct pnx__pool_core *core, const struct pnx__pool_config *config,
        uint32_t max, uint64_t seed, pnx_ns now) {
    *core = (struct pnx__pool_core){
            .config = *config,
            .max = max,
            .quota = max,
            .ceiling = max,
            .window = config->max_connecting,
            .now = now,
            .next_timer = PNX_NEVER,
            .random = seed,
            .seq = 1,
    };
    pnx__list_init(&core->free);
    pnx__list_init(&core->home);
    pnx__list_init(&core->out);
    pnx__list_init(&core->running);
    pnx__list_init(&core->to_close);
    for (int lane = 0; lane < PNX__POOL_LANES; lane++)
        pnx__list_init(&core->waiters[lane]);
    pnx__pool_set_gauge(core, PNX__POOL_STAT_max, max);
}

void pnx__pool_core_add_slots(
        struct pnx__pool_core *core, struct pnx_pool *pool, struct pnx_slot *slots, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        slots[i].pool = pool;
        slots[i].index = (uint16_t)(core->capacity + i);
        pnx__list_push_back(&core->free, &slots[i].link);
    }
    core->capacity += n;
    core->n[PNX__POOL_EMPTY] += n;
}

void pnx__pool_timer(struct pnx__pool_core *core, pnx_ns at, struct pnx__pool_effects *effects) {
    if (at >= core->next_timer)
        return;
    core->next_timer = at;
    effects->timer = true;
}

/* ---- words ---- */

static uint64_t generation_of(uint64_t word) {
    return word & ~(PNX__POOL_GENERATION - 1);
}

static void set_used_at(struct pnx_slot *slot, pnx_ns at) {
    /* by itself: see pnx__pool_used_at() */
    pnx_store(&slot->used_at, (uint64_t)at, PNX_RELAXED, "pool_core.set_used_at");
}

void pnx__pool_slot_to(
        struct pnx__pool_core *core, struct pnx_slot *slot, enum pnx__pool_state to) {
    uint64_t word =
            pnx_load(&slot->word, PNX_RELAXED, "pool_core.word"); /* the lock orders writers */
    enum pnx__pool_state from = (enum pnx__pool_state)(word & PNX__POOL_STATE_MASK);
    uint64_t generation = generation_of(word);
    if (to == PNX__POOL_IN_USE)
        generation += PNX__POOL_GENERATION;
    core->n[from]--;
    core->n[to]++;
    if (from == PNX__POOL_EMPTY)
        core->size++;
    else if (from != PNX__POOL_IDLE && from != PNX__POOL_IN_USE)
        pnx__pool_set_gauge(core, (enum pnx__pool_stat)GAUGE(from), core->n[from]);
    if (to == PNX__POOL_EMPTY) {
        core->size--;
        if (core->ceiling > core->max)
            core->ceiling = core->size > core->max ? core->size : core->max;
    } else if (to != PNX__POOL_IDLE && to != PNX__POOL_IN_USE) {
        pnx__pool_set_gauge(core, (enum pnx__pool_stat)GAUGE(to), core->n[to]);
    }
    /* pairs with pool_core.spend_look, pool_lease.word, pool_core.capture_look: who sees the state sees the resource */
    pnx_store(
            &slot->word, generation | PNX__POOL_LOCKED | (uint64_t)to, PNX_RELEASE, "pool_core.to");
}

enum pnx__pool_state pnx__pool_capture(struct pnx__pool_core *core, struct pnx_slot *slot) {
    uint64_t word =
            pnx_load(&slot->word, PNX_RELAXED, "pool_core.capture_look"); /* a first guess */
    /* pairs with pool_core.bring: what the last holder did with the resource is done */
    while (!pnx_cas(
            &slot->word, &word, word | PNX__POOL_LOCKED, PNX_ACQUIRE, "pool_core.capture")) {
    }
    enum pnx__pool_state state = (enum pnx__pool_state)(word & PNX__POOL_STATE_MASK);
    core->open--;
    core->n[state]++;
    if (state == PNX__POOL_IN_USE) {
        pnx__list_remove(&slot->link);
        pnx__list_push_front(&core->out, &slot->link);
    }
    return state;
}

bool pnx__pool_slot_spend(struct pnx_slot *slot, uint64_t generation) {
    uint64_t held = generation * PNX__POOL_GENERATION | PNX__POOL_IN_USE;
    /* pairs with pool_core.to; a lease that was handed on came with an order of its own */
    uint64_t word = pnx_load(&slot->word, PNX_ACQUIRE, "pool_core.spend_look");
    while ((word & ~PNX__POOL_LOCKED) == held) {
        /* of two copies of a lease one wins; the order is that of the look, or of the lease itself */
        if (pnx_cas(&slot->word, &word, word | PNX__POOL_RETURNING, PNX_RELAXED, "pool_core.spend"))
            return true;
    }
    return false;
}

bool pnx__pool_slot_bring_spent(struct pnx_slot *slot, uint64_t generation) {
    uint64_t spent = generation * PNX__POOL_GENERATION | PNX__POOL_IN_USE | PNX__POOL_RETURNING;
    /* as pool_core.bring */
    return pnx_cas(&slot->word, &spent, generation * PNX__POOL_GENERATION | PNX__POOL_IDLE,
            PNX_RELEASE, "pool_core.bring_spent");
}

bool pnx__pool_slot_forsake(struct pnx_slot *slot, uint64_t thread) {
    uint64_t word = pnx_load(&slot->word, PNX_ACQUIRE, "pool_fork.word");
    uint64_t state = word & PNX__POOL_STATE_MASK;
    /* by itself: if it is this thread's own, it wrote it */
    bool own = pnx_load(&slot->owner, PNX_RELAXED, "pool_fork.owner") ==
               pnx__pool_owner(thread, word / PNX__POOL_GENERATION);
    /* RETURNING: spent, in the child maybe, where it has been abandoned or detached then */
    bool held = state == PNX__POOL_IN_USE && !own && !(word & PNX__POOL_RETURNING);
    if (state != PNX__POOL_IDLE && state != PNX__POOL_CHECKING && !held)
        return false;
    uint64_t empty = word & ~PNX__POOL_STATE_MASK;
    /* two threads of the child may both be here: one of them gets it */
    return pnx_cas(&slot->word, &word, empty, PNX_ACQUIRE, "pool_fork.claim");
}

/* ---- open and locked ---- */

static uint32_t limit(const struct pnx__pool_core *core) {
    return core->quota < core->max ? core->quota : core->max;
}

static bool is_due(const struct pnx__pool_core *core, const struct pnx_slot *slot) {
    return core->config.check_after != PNX_NEVER &&
           core->now - pnx__pool_used_at(slot) >= core->config.check_after;
}

/* Why an idle slot's resource must not be granted any more; PNX__POOL_REASONS: no reason. */
static enum pnx__pool_reason unfit(const struct pnx__pool_core *core, const struct pnx_slot *slot) {
    if (slot->epoch != core->epoch)
        return PNX__POOL_BECAUSE_STALE;
    if (core->now >= pnx__pool_expires_at(slot))
        return PNX__POOL_BECAUSE_LIFETIME;
    return PNX__POOL_REASONS;
}

/* min_idle resources stay locked while there is room for more, so that a take that uses one is seen here. */
static bool is_reserve(const struct pnx__pool_core *core, uint32_t idle) {
    return idle <= core->config.min_idle && core->size < limit(core) && core->config.min_idle > 0;
}

static bool may_open(const struct pnx__pool_core *core) {
    return core->waiting == 0 && !core->paused && !core->closing && !core->lending &&
           !core->config.round_robin && core->size - core->n[PNX__POOL_CLOSING] <= limit(core);
}

static void open_slot(struct pnx__pool_core *core, struct pnx_slot *slot, uint64_t state) {
    /* the lock orders writers */
    uint64_t word = pnx_load(&slot->word, PNX_RELAXED, "pool_core.open_look");
    core->n[word & PNX__POOL_STATE_MASK]--;
    core->open++;
    uint64_t generation = generation_of(word);
    if (state == PNX__POOL_IN_USE)
        generation += PNX__POOL_GENERATION;
    /* pairs with pool_core.claim, pool_core.claim_look: the resource and its times are there */
    pnx_store(&slot->word, generation | state, PNX_RELEASE, "pool_core.open");
}

void pnx__pool_reopen(struct pnx__pool_core *core) {
    if (!may_open(core))
        return;
    PNX_LIST_EACH (link, after, &core->home) {
        struct pnx_slot *slot = slot_of(link);
        if (pnx__pool_slot_is_open(slot) || is_reserve(core, core->n[PNX__POOL_IDLE]) ||
                is_due(core, slot) || unfit(core, slot) != PNX__POOL_REASONS)
            continue;
        open_slot(core, slot, PNX__POOL_IDLE);
    }
}

static void lock_all(struct pnx__pool_core *core) {
    if (core->open == 0)
        return;
    PNX_LIST_EACH (link, after, &core->home) {
        if (pnx__pool_slot_is_open(slot_of(link)))
            pnx__pool_capture(core, slot_of(link));
    }
}

bool pnx__pool_reserve(struct pnx__pool_core *core) {
    if (core->open == 0 || core->n[PNX__POOL_IDLE] >= core->config.min_idle ||
            core->size >= limit(core))
        return false;
    lock_all(core);
    pnx__pool_reopen(core);
    return true;
}

void pnx__pool_core_count(const struct pnx__pool_core *core, uint32_t ret_n[PNX__POOL_STATES]) {
    for (int state = 0; state < PNX__POOL_STATES; state++)
        ret_n[state] = core->n[state];
    if (core->open == 0)
        return;
    PNX_LIST_EACH (link, after, &core->home) {
        const struct pnx_slot *slot = slot_of(link);
        if (pnx__pool_slot_is_open(slot))
            ret_n[pnx__pool_slot_state(slot)]++;
    }
}

/* ---- supply ---- */

void pnx__pool_begin_close(struct pnx__pool_core *core, struct pnx_slot *slot,
        enum pnx__pool_reason reason, struct pnx__pool_effects *effects) {
    pnx__list_remove(&slot->link);
    slot->reason = (uint8_t)reason;
    pnx__pool_slot_to(core, slot, PNX__POOL_CLOSING);
    pnx__list_push_back(&core->to_close, &slot->link);
    effects->work = true;
    effects->ended = true;
}

/* The slot is on no list; its resource is fit. */
static void make_idle(struct pnx__pool_core *core, struct pnx_slot *slot, bool keepalive) {
    set_used_at(slot, core->now);
    pnx__pool_slot_to(core, slot, PNX__POOL_IDLE);
    if (keepalive || core->config.round_robin) {
        pnx__list_push_back(&core->home, &slot->link);
    } else {
        pnx__list_push_front(&core->home, &slot->link);
    }
    if (!keepalive)
        slot->idle_since = 0;
    if (may_open(core) && !is_reserve(core, core->n[PNX__POOL_IDLE]))
        open_slot(core, slot, PNX__POOL_IDLE);
}

/* Why a resource that is ready is not to live on; PNX__POOL_REASONS: no reason. */
static enum pnx__pool_reason unwanted(
        const struct pnx__pool_core *core, const struct pnx_slot *slot) {
    enum pnx__pool_reason reason = unfit(core, slot);
    if (core->closing)
        return PNX__POOL_BECAUSE_SHUTDOWN;
    if (reason == PNX__POOL_REASONS && core->size - core->n[PNX__POOL_CLOSING] > limit(core))
        return PNX__POOL_BECAUSE_RESIZE;
    return reason;
}

void pnx__pool_supply(struct pnx__pool_core *core, struct pnx_slot *slot, bool keepalive,
        struct pnx__pool_effects *effects) {
    core->want_one = false;
    enum pnx__pool_reason reason = unwanted(core, slot);
    if (reason != PNX__POOL_REASONS) {
        pnx__pool_begin_close(core, slot, reason, effects);
        return;
    }
    if (pnx__pool_offer(core, slot, effects))
        return;
    pnx__list_remove(&slot->link);
    make_idle(core, slot, keepalive);
    if (core->waiting > 0)
        pnx__pool_core_go_on(core, effects);
}

/* ---- take ---- */

/* A slot that a take found idle, and locked: grants it, so that it may come back by the short way if nobody waits. */
static void take_locked(struct pnx__pool_core *core, struct pnx_slot *slot,
        struct pnx__pool_effects *effects, uint64_t *ret_generation) {
    bool reserve = is_reserve(core, core->n[PNX__POOL_IDLE]);
    set_used_at(slot, core->now);
    if (may_open(core) && !reserve) {
        open_slot(core, slot, PNX__POOL_IN_USE);
    } else {
        pnx__list_remove(&slot->link);
        pnx__pool_slot_to(core, slot, PNX__POOL_IN_USE);
        pnx__list_push_front(&core->out, &slot->link);
    }
    if (reserve || core->waiting > 0 || core->want_one)
        effects->work = true; /* ahead of need; or somebody else had counted on it */
    /* alone: this thread wrote it just now */
    *ret_generation =
            pnx_load(&slot->word, PNX_RELAXED, "pool_core.granted") / PNX__POOL_GENERATION;
}

/* True when the slot's resource is taken. */
static bool take_this(struct pnx__pool_core *core, struct pnx_slot *slot, uint32_t *passed,
        struct pnx__pool_effects *effects, uint64_t *ret_generation) {
    if (pnx__pool_slot_is_open(slot)) {
        if (pnx__pool_slot_state(slot) == PNX__POOL_IN_USE && ++*passed <= PASSED_MAX)
            return false;
        if (pnx__pool_slot_claim(slot, core->now, core->config.check_after, ret_generation)) {
            set_used_at(slot, core->now);
            return true;
        }
        if (pnx__pool_capture(core, slot) == PNX__POOL_IN_USE)
            return false;
    }
    enum pnx__pool_reason reason = unfit(core, slot);
    if (reason != PNX__POOL_REASONS) {
        pnx__pool_begin_close(core, slot, reason, effects);
        return false;
    }
    if (is_due(core, slot)) {
        if (core->want_one)
            effects->work =
                    true; /* now that it is locked, it can be checked for whoever wants one */
        return false;
    }
    take_locked(core, slot, effects, ret_generation);
    return true;
}

static struct pnx_slot *take_any(
        struct pnx__pool_core *core, struct pnx__pool_effects *effects, uint64_t *ret_generation) {
    uint32_t passed = 0;
    PNX_LIST_EACH (link, after, &core->home) {
        if (take_this(core, slot_of(link), &passed, effects, ret_generation))
            return slot_of(link);
    }
    return NULL;
}

/* Whether somebody who comes now may have what is idle though others wait. */
static bool may_barge(const struct pnx__pool_core *core) {
    const struct pnx__pool_waiter *first = pnx__pool_first_waiter(core);
    return !first || (core->config.barge > 0 && core->now - first->at < core->config.barge);
}

struct pnx_slot *pnx__pool_core_take(struct pnx__pool_core *core, pnx_ns now,
        struct pnx__pool_effects *effects, uint64_t *ret_generation) {
    pnx__pool_see(core, now);
    if (core->closing || core->paused || (core->waiting > 0 && !may_barge(core)))
        return NULL;
    struct pnx_slot *slot = take_any(core, effects, ret_generation);
    if (pnx__pool_reserve(core)) /* it may have closed some */
        effects->work = true;
    return slot;
}

/* Puts a waiter back that had a resource: before those who asked after it, and behind others who came back sooner but had
 * asked before it.  Who has never waited before has no number, and comes first. */
static void put_back(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter) {
    struct pnx_link *list = &core->waiters[waiter->lane], *at = list;
    PNX_LIST_EACH (link, after, list) {
        const struct pnx__pool_waiter *other = PNX_CONTAINER(link, struct pnx__pool_waiter, link);
        if (other->seq > waiter->seq || (other->seq == waiter->seq && other->at > waiter->at)) {
            at = link;
            break;
        }
    }
    pnx__list_push_back(at, &waiter->link); /* which is before it */
}

struct pnx_slot *pnx__pool_core_join(struct pnx__pool_core *core, struct pnx__pool_waiter *waiter,
        bool first, struct pnx__pool_effects *effects, uint64_t *ret_generation, int *ret_code) {
    *ret_code = 0;
    lock_all(core);
    if (core->waiting == 0 && !core->paused) {
        struct pnx_slot *slot = take_any(core, effects, ret_generation);
        if (slot) {
            pnx__pool_note_order(core, waiter->lane, waiter->asked);
            return slot;
        }
    }
    if (core->waiting >= core->config.max_waiters && !first) {
        pnx__pool_count(core, PNX__POOL_STAT_rejected);
        core->starved_at = core->now;
        pnx__pool_reopen(core);
        *ret_code = -EBUSY;
        return NULL;
    }
    /* alone: nobody else knows it yet */
    pnx_store(&waiter->outcome, PNX__POOL_WAITING, PNX_RELAXED, "pool_core.join");
    waiter->slot = NULL;
    waiter->code = 0;
    if (core->traced) {
        waiter->number = ++core->numbers;
        pnx_store(&core->joined, core->numbers, PNX_RELEASE, "pool_core.joined");
    }
    if (first) {
        put_back(core, waiter);
    } else {
        waiter->seq = ++core->seq;
        waiter->at = core->now;
        pnx__list_push_back(&core->waiters[waiter->lane], &waiter->link);
    }
    core->waiting++;
    core->blocked += !waiter->is_request;
    pnx__pool_set_gauge(core, PNX__POOL_STAT_waiting, core->waiting);
    if (!first)
        pnx__pool_count(core, PNX__POOL_STAT_waits);
    effects->work = true;
    return NULL;
}

void pnx__pool_core_returned(struct pnx__pool_core *core, struct pnx_slot *slot, bool keep,
        enum pnx__pool_reason reason, pnx_ns now, struct pnx__pool_effects *effects) {
    pnx__pool_see(core, now);
    if (pnx__pool_slot_is_open(slot))
        pnx__pool_capture(core, slot);
    if (core->paused)
        effects->ended = true;
    if (keep)
        pnx__pool_supply(core, slot, false, effects);
    else
        pnx__pool_begin_close(core, slot, reason, effects);
}

void pnx__pool_core_detached(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    if (pnx__pool_slot_is_open(slot))
        pnx__pool_capture(core, slot);
    pnx__list_remove(&slot->link);
    pnx__pool_count(core, PNX__POOL_STAT_detached);
    pnx__pool_to_empty(core, slot, effects);
    effects->work = true;
}

/* ---- from outside ---- */

/* Calls for each slot that is idle, from the longest unused on, having locked it; until visit returns false. */
static void each_idle(struct pnx__pool_core *core,
        bool (*visit)(struct pnx__pool_core *core, struct pnx_slot *slot, void *arg), void *arg) {
    for (struct pnx_link *link = core->home.prev, *before; link != &core->home; link = before) {
        before = link->prev;
        struct pnx_slot *slot = slot_of(link);
        if (pnx__pool_slot_state(slot) != PNX__POOL_IDLE)
            continue;
        if (pnx__pool_slot_is_open(slot) && pnx__pool_capture(core, slot) != PNX__POOL_IDLE)
            continue;
        if (!visit(core, slot, arg))
            return;
    }
}

struct close_some {
    uint32_t left; /* how many to close at most */
    uint32_t idle; /* how many are idle still */
    enum pnx__pool_reason reason;
    struct pnx__pool_effects *effects;
};

static bool close_one(struct pnx__pool_core *core, struct pnx_slot *slot, void *arg) {
    struct close_some *some = arg;
    if (some->left == 0 || some->idle <= core->config.min_idle)
        return false;
    some->left--;
    some->idle--;
    pnx__pool_begin_close(core, slot, some->reason, some->effects);
    return true;
}

static uint32_t count_idle(const struct pnx__pool_core *core) {
    uint32_t n[PNX__POOL_STATES];
    pnx__pool_core_count(core, n);
    return n[PNX__POOL_IDLE];
}

uint32_t pnx__pool_core_evict(
        struct pnx__pool_core *core, uint32_t n, struct pnx__pool_effects *effects) {
    struct close_some some = {n, count_idle(core), PNX__POOL_BECAUSE_PRESSURE, effects};
    each_idle(core, close_one, &some);
    pnx__pool_reserve(core);
    pnx__pool_reopen(core);
    effects->work = true; /* what was locked may be due for a check that somebody wants */
    return n - some.left;
}

static bool close_excess(struct pnx__pool_core *core, struct pnx_slot *slot, void *arg) {
    struct pnx__pool_effects *effects = arg;
    if (core->size - core->n[PNX__POOL_CLOSING] <= limit(core))
        return false;
    pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_RESIZE, effects);
    return true;
}

/* After max or quota have changed. */
static void fit_limit(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    lock_all(core); /* so that what comes home beyond the limit, or within the reserve, is seen */
    each_idle(core, close_excess, effects);
    pnx__pool_reopen(core);
    effects->work = true; /* there may be room for a connect now */
}

void pnx__pool_core_resize(
        struct pnx__pool_core *core, uint32_t max, struct pnx__pool_effects *effects) {
    if (core->quota == core->max)
        core->quota = max;
    core->max = max;
    core->ceiling = core->size > max ? core->size : max;
    pnx__pool_set_gauge(core, PNX__POOL_STAT_max, max);
    fit_limit(core, effects);
}

void pnx__pool_core_set_quota(
        struct pnx__pool_core *core, uint32_t quota, struct pnx__pool_effects *effects) {
    core->quota = quota;
    fit_limit(core, effects);
}

void pnx__pool_core_lend(struct pnx__pool_core *core, bool lending) {
    core->lending = lending;
    if (lending)
        lock_all(core);
    else
        pnx__pool_reopen(core);
}

void pnx__pool_core_warm(
        struct pnx__pool_core *core, uint32_t n, struct pnx__pool_effects *effects) {
    core->warm = n;
    effects->work = true;
}

static bool close_stale(struct pnx__pool_core *core, struct pnx_slot *slot, void *arg) {
    if (slot->epoch != core->epoch)
        pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_STALE, arg);
    return true;
}

void pnx__pool_core_reset(
        struct pnx__pool_core *core, uint32_t flags, struct pnx__pool_effects *effects) {
    core->epoch++;
    pnx__pool_count(core, PNX__POOL_STAT_generations);
    lock_all(core);
    if (flags & PNX_POOL_RESET_IDLE)
        each_idle(core, close_stale, effects);
    if (flags & PNX_POOL_RESET_DROP_WAITERS)
        pnx__pool_refuse_all(core, -ECANCELED, "reset", effects);
    effects->stale = true;
    effects->work = true;
}

void pnx__pool_core_pause(struct pnx__pool_core *core) {
    core->paused = true;
    lock_all(core);
}

void pnx__pool_core_resume(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    core->paused = false;
    pnx__pool_core_go_on(core, effects);
    pnx__pool_reopen(core);
    effects->work = true;
}

bool pnx__pool_core_examine(
        struct pnx__pool_core *core, struct pnx_slot *slot, struct pnx__pool_effects *effects) {
    if (pnx__pool_slot_state(slot) != PNX__POOL_IDLE)
        return false;
    if (pnx__pool_slot_is_open(slot) && pnx__pool_capture(core, slot) != PNX__POOL_IDLE)
        return false;
    pnx__list_remove(&slot->link);
    pnx__pool_slot_to(core, slot, PNX__POOL_CHECKING);
    pnx__list_push_back(&core->running, &slot->link);
    slot->job = PNX__POOL_CHECK;
    slot->flags = PNX__POOL_EXAMINED;
    slot->job_since = core->now;
    slot->job_late = PNX_NEVER;
    effects->work = true; /* somebody may have counted on it */
    return true;
}

void pnx__pool_core_examined(struct pnx__pool_core *core, struct pnx_slot *slot, bool keep,
        struct pnx__pool_effects *effects) {
    slot->flags = 0;
    effects->work = true;
    enum pnx__pool_reason reason = keep ? unwanted(core, slot) : PNX__POOL_BECAUSE_EVICTED;
    if (reason != PNX__POOL_REASONS) {
        pnx__pool_begin_close(core, slot, reason, effects);
        return;
    }
    /* It was looked at, not used, nor checked: it is as old as before, and stays locked if its check is due. */
    if (is_due(core, slot)) {
        pnx__list_remove(&slot->link);
        pnx__pool_slot_to(core, slot, PNX__POOL_IDLE);
        pnx__list_push_back(&core->home, &slot->link);
        return;
    }
    pnx_ns used_at = pnx__pool_used_at(slot);
    pnx__pool_supply(core, slot, true, effects);
    if (pnx__pool_slot_state(slot) != PNX__POOL_IDLE ||
            (pnx__pool_slot_is_open(slot) && pnx__pool_capture(core, slot) != PNX__POOL_IDLE))
        return;
    set_used_at(slot, used_at);
    pnx__pool_reopen(core);
}

static bool close_any(struct pnx__pool_core *core, struct pnx_slot *slot, void *arg) {
    pnx__pool_begin_close(core, slot, PNX__POOL_BECAUSE_SHUTDOWN, arg);
    return true;
}

void pnx__pool_core_close(struct pnx__pool_core *core, struct pnx__pool_effects *effects) {
    core->closing = true;
    core->paused = false;
    core->breaker = false;
    pnx__pool_set_gauge(core, PNX__POOL_STAT_breaker_open, 0);
    lock_all(core);
    each_idle(core, close_any, effects);
    pnx__pool_refuse_all(core, -ESHUTDOWN, "closed", effects);
    effects->work = true;
    effects->ended = true;
}
