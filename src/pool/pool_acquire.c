/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_acquire.c - borrowing: the short way, the queue, the deadline, and the error that explains itself.
 *
 *   A1  The short way takes no lock, one look at the coarse clock, and allocates nothing: a compare-and-swap on the
 *       word of the slot that this thread had last.
 *   A2  The deadline is computed once, from the exact clock, when the caller has its place in the queue.
 *   A3  A caller leaves with a lease if it was granted one, even when its deadline has passed meanwhile.
 *   A4  A waiter that is alone in the queue spins before it sleeps, if a CPU is left for others: for about 2 us, or up to 50
 *       while the waits of late were shorter than 25.  (Sleeping costs some 5 us, on a virtual machine that has to wake
 *       a CPU some 20.  Two threads that take turns would else never come out of sleeping in turns.)
 */
#include "os/thread.h"
#include "pool/pool.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* So many hints a spinning waiter gives at least, about two microseconds; one takes so long, roughly. */
#define SPIN_NS 40
#ifdef PNX_EXPLORE
#define SPINS 2
#else
#define SPINS 50
#endif
/* The time that all see is renewed when it is so old. */
#define SEEN_FOR   (10 * PNX_MS)
/* A wait inside a lease is looked for in all slots of a pool that has at most so many. */
#define NESTED_MAX 256

/* ---- the short way ---- */

static bool is_held_by(const struct pnx_slot *slot, const struct pnx_thread *self) {
    /* both by themselves: what this thread wrote, it sees, and a slot whose word is another one's is not its own */
    uint64_t word = pnx_load(&slot->word, PNX_RELAXED, "pool_acquire.held_word");
    return (word & PNX__POOL_STATE_MASK) == PNX__POOL_IN_USE && (word & PNX__POOL_RETURNING) == 0 &&
           pnx_load(&slot->owner, PNX_RELAXED, "pool_acquire.held") ==
                   pnx__pool_owner(self->id, word / PNX__POOL_GENERATION);
}

static struct pnx_thread_slot *last_of(struct pnx_thread *self, const struct pnx_pool *pool) {
    return &self->pool_last[pool->serial % PNX_THREAD_POOLS];
}

/* What this thread has of the pool is its last slot, unless that says several. */
static void note_last(struct pnx_thread *self, const struct pnx_pool *pool, struct pnx_slot *slot) {
    struct pnx_thread_slot *last = last_of(self, pool);
    if (last->serial != pool->serial)
        last->several = true; /* it is not known */
    else if (last->slot != slot && is_held_by(last->slot, self))
        last->several = true;
    last->serial = pool->serial;
    last->slot = slot;
}

void pnx__pool_stamp(struct pnx_pool *pool, const struct pnx_lease *lease,
        const struct pnx__pool_asking *asking) {
    struct pnx_slot *slot = lease->slot;
    struct pnx_thread *self = pnx__self();
    assert(slot);
    /* for reports, which need no order */
    pnx_store(&slot->site, (void *)(uintptr_t)asking->site, PNX_RELAXED, "pool_acquire.site");
    pnx_store(&slot->tag, asking->tag, PNX_RELAXED, "pool_acquire.tag");
    pnx_store(&slot->owner, self ? pnx__pool_owner(self->id, lease->generation) : 0, PNX_RELAXED,
            "pool_acquire.owner");
    if (self)
        note_last(self, pool, slot);
    if (pnx__pool_is_sample(lease->generation))
        slot->hold_since = pnx__now(&pool->env);
}

static __attribute__((noinline, cold)) void sample_hold(
        const struct pnx_pool *pool, struct pnx_slot *slot) {
    slot->hold_since = pnx__now(&pool->env);
}

static __attribute__((noinline, cold)) void renew_seen(struct pnx_pool *pool, pnx_ns now) {
    /* a hint; whoever has the later one wins */
    pnx_store(&pool->seen, (uint64_t)now, PNX_RELAXED, "pool_acquire.seen");
}

/* The short way: no call but on a sample of its turns, so that it saves no registers. */
static inline struct pnx_lease claim(
        struct pnx_pool *pool, pnx_ns now, const struct pnx__pool_asking *asking) {
    const struct pnx_lease none = {0};
    struct pnx_thread *self = PNX_SELF; /* who has none yet has had no slot either */
    if (!self || last_of(self, pool)->serial != pool->serial)
        return none;
    struct pnx_slot *slot = last_of(self, pool)->slot;
    uint64_t generation;
    if (!pnx__pool_slot_claim(slot, now, pool->check_after, &generation))
        return none;
    /* all by themselves: see pnx__pool_used_at(), and reports need no order */
    pnx_store(&slot->used_at, (uint64_t)now, PNX_RELAXED, "pool_acquire.used_at");
    pnx_store(&slot->site, (void *)(uintptr_t)asking->site, PNX_RELAXED, "pool_acquire.claim_site");
    pnx_store(&slot->tag, asking->tag, PNX_RELAXED, "pool_acquire.claim_tag");
    pnx_store(&slot->owner, pnx__pool_owner(self->id, generation), PNX_RELAXED,
            "pool_acquire.claim_owner");
    if (__builtin_expect(pnx__pool_is_sample(generation), 0))
        sample_hold(pool, slot);
    /* a hint, as above */
    pnx_ns seen = (pnx_ns)pnx_load(&pool->seen, PNX_RELAXED, "pool_acquire.seen_look");
    if (__builtin_expect(now - seen >= SEEN_FOR, 0))
        renew_seen(pool, now);
    return (struct pnx_lease){.slot = slot, .generation = generation};
}

struct pnx_lease pnx__pool_claim(
        struct pnx_pool *pool, pnx_ns now, const struct pnx__pool_asking *asking) {
    return claim(pool, now, asking);
}

void pnx__pool_trace(struct pnx_pool *pool, uint8_t lane, uint64_t asked) {
    pnx__pool_lock(pool);
    pnx__pool_note_order(&pool->core, lane, asked);
    pnx__mutex_unlock(&pool->lock);
}

bool pnx__pool_passes(struct pnx_pool *pool, const struct pnx_lease *lease) {
    PNX__POOL_CALL(call);
    /* the lease is this thread's */
    void *resource = pnx_load(&lease->slot->resource, PNX_RELAXED, "pool_acquire.hook");
    pnx__pool_call_enter(pool, &call);
    int rc = pool->hooks.before_acquire(pool->hooks.arg, resource);
    pnx__pool_call_leave(&call);
    /* a count, which orders nothing */
    if (rc == 0 && pnx_load(&pool->hook_refusals, PNX_RELAXED, "pool_acquire.refusals"))
        pnx_store(&pool->hook_refusals, 0, PNX_RELAXED, "pool_acquire.passes");
    if (rc == 0)
        return true;
    /* as pool_acquire.owner: it holds it no more */
    pnx_store(&lease->slot->owner, 0, PNX_RELAXED, "pool_acquire.refused");
    (void)pnx__pool_slot_spend(lease->slot, lease->generation); /* nobody else has a copy */
    return false;
}

/* ---- errors ---- */

/* What an error message tells of the pool: copied under the lock. */
struct picture {
    uint32_t n[PNX__POOL_STATES];
    uint32_t max;
    uint32_t waiting;
    struct pnx__pool_failure failure;
    pnx_ns now;
    const char *site; /* of the longest holder; NULL: not known */
    uint64_t tag;
    pnx_ns held;
};

/* Who of a list has held a lease for longest. */
static void find_holder(const struct pnx_link *list, struct picture *picture) {
    for (const struct pnx_link *link = list->next; link != list; link = link->next) {
        const struct pnx_slot *slot = PNX_CONTAINER(link, struct pnx_slot, link);
        pnx_ns held = picture->now - pnx__pool_used_at(slot);
        if (pnx__pool_slot_state(slot) != PNX__POOL_IN_USE || held <= picture->held)
            continue;
        picture->held = held;
        /* as they are; for people */
        picture->site = pnx_load(&slot->site, PNX_RELAXED, "pool_acquire.holder");
        picture->tag = pnx_load(&slot->tag, PNX_RELAXED, "pool_acquire.holder_tag");
    }
}

static void take_picture(struct pnx_pool *pool, struct picture *ret_picture) {
    const struct pnx__pool_core *core = &pool->core;
    *ret_picture = (struct picture){0};
    pnx__pool_lock(pool);
    pnx__pool_core_count(core, ret_picture->n);
    ret_picture->max = core->max;
    ret_picture->waiting = core->waiting;
    ret_picture->failure = core->failure;
    ret_picture->now = core->now;
    find_holder(&core->home, ret_picture);
    find_holder(&core->out, ret_picture);
    pnx__mutex_unlock(&pool->lock);
}

static const char *says(int code, const char *phase) {
    switch (code) {
    case -EBUSY:
        return "too many are waiting";
    case PNX_E_BREAKER:
        return "connects fail, the breaker is open";
    case -ECANCELED:
        return strcmp(phase, "reset") == 0 ? "the pool was reset" : "cancelled";
    default:
        return "no resource";
    }
}

/* The last word of a path. */
static const char *base_name(const char *path) {
    const char *last = path;
    for (const char *p = path; *p; p++) {
        if (*p == '/')
            last = p + 1;
    }
    return last;
}

static int fill_error(const struct pnx_pool *pool, int code, const char *phase, pnx_ns waited,
        const struct picture *picture, struct pnx_error *err) {
    const struct pnx__pool_failure *failure = &picture->failure;
    char why[160] = "", who[80] = "";
    bool recent = failure->code && failure->at <= picture->now;
    if (recent)
        snprintf(why, sizeof(why), "; last connect error %.1f s ago: %s",
                (double)(picture->now - failure->at) / (double)PNX_SEC, failure->message);
    else if (picture->site)
        snprintf(who, sizeof(who), "; held longest: %.1f s by %.40s (tag %" PRIu64 ")",
                (double)picture->held / (double)PNX_SEC, base_name(picture->site), picture->tag);
    bool is_cause = failure->code &&
                    (code == PNX_E_BREAKER || picture->now - failure->at <= waited + PNX_SEC);
    return pnx__fail(err, code, is_cause ? failure->code : 0, phase,
            "pool \"%.40s\": %s after %.3f s (%s): %" PRIu32 " of %" PRIu32 " in use, %" PRIu32
            " idle, %" PRIu32 " connecting, %" PRIu32 " waiting%s%s",
            pool->name, says(code, phase), (double)waited / (double)PNX_SEC, phase,
            picture->n[PNX__POOL_IN_USE], picture->max, picture->n[PNX__POOL_IDLE],
            picture->n[PNX__POOL_CONNECTING], picture->waiting, why, who);
}

int pnx__pool_explain(
        struct pnx_pool *pool, int code, const char *phase, pnx_ns waited, struct pnx_error *err) {
    pnx__event(&pool->block, PNX_EVENT_POOL_ACQUIRE_FAILED, pool->name, code, phase, waited, 0);
    if (code == -EBUSY && strcmp(phase, "overload") == 0)
        pnx__event(&pool->block, PNX_EVENT_POOL_SHED, pool->name, code, NULL, waited, 0);
    if (!err)
        return code;
    if (code == -ESHUTDOWN)
        return pnx__fail(err, code, 0, phase, "pool \"%.40s\" is closed", pool->name);
    if (code == -EDEADLK)
        return pnx__fail(err, code, 0, phase,
                "pool \"%.40s\": waiting inside one of its own operations, or with a lease in hand",
                pool->name);
    if (code == -EAGAIN)
        return pnx__fail(err, code, 0, phase, "pool \"%.40s\" is paused", pool->name);
    struct picture picture;
    take_picture(pool, &picture);
    return fill_error(pool, code, phase, waited, &picture, err);
}

/* ---- the queue ---- */

/* One call of acquire that could not go the short way. */
struct wait {
    struct pnx_pool *pool;
    const struct pnx__pool_asking *asking;
    pnx_ns timeout;
    pnx_ns since;    /* 0 until it has waited */
    pnx_ns deadline; /* fixed with it */
    bool first;      /* it has had a resource, which was no good: its place is its old one */
    struct pnx_lease refused; /* that one, until it is given up; only then others may profit */
    bool is_new;              /* since is a moment ago */
    uint32_t spins;           /* it is alone in the queue: so many looks before it sleeps */
    bool poked;               /* it has had the pool's work to do */
    struct pnx__pool_waiter waiter;
};

static bool threadless(const struct pnx_pool *pool) {
    return (pool->flags & PNX_POOL_NO_THREADS) != 0;
}

static void count_timeout_locked(struct wait *wait, pnx_ns now, struct pnx__pool_effects *effects) {
    struct pnx_pool *pool = wait->pool;
    pnx__pool_count(&pool->core, PNX__POOL_STAT_timeouts);
    pnx_owner_add(&pool->core.stats[PNX__POOL_STAT_wait_time], (uint64_t)(now - wait->since));
    pool->core.starved_at = pool->core.now;
    pnx__pool_timer(&pool->core, pnx__deadline(pool->core.now, PNX__POOL_STARVED_FOR), effects);
    pnx__pool_health_locked(pool);
}

/* Gives up the place in the queue, unless the outcome came first: then false. */
static bool give_up(struct wait *wait, pnx_ns now, const char **ret_phase) {
    struct pnx_pool *pool = wait->pool;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pnx__pool_see(&pool->core, now);
    *ret_phase = pnx__pool_core_phase(&pool->core);
    bool gone = pnx__pool_core_cancel(&pool->core, &wait->waiter, &effects);
    if (gone) {
        count_timeout_locked(wait, now, &effects);
        if (pool->threads == 0)
            pnx__pool_core_poke(&pool->core, &effects); /* the next one watches the timers */
    }
    pnx__pool_unlock(pool, &effects, NULL);
    return gone;
}

/*
 * In a pool without threads the waiter is the one who runs its jobs and timers.  Returns until when it may sleep
 * before it must do so again.
 */
static pnx_ns drive_as_waiter(struct wait *wait, bool poked) {
    struct pnx_pool *pool = wait->pool;
    struct pnx__pool_effects effects;
    struct pnx__pool_driver driver = {
            .any = true, .waiter = &wait->waiter, .deadline = wait->deadline};
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    if (poked)
        pnx__pool_core_retake(&pool->core, &wait->waiter, now, &effects);
    if (pool->threads > 0 && !poked) {
        pnx__pool_unlock(pool, &effects, NULL);
        return wait->deadline;
    }
    if (now >= pool->core.next_timer)
        pnx__pool_core_tick(&pool->core, now, &effects);
    effects.work = true;
    pnx__pool_see(&pool->core, now);
    pnx__pool_unlock(pool, &effects, &driver);
    pnx__pool_tend_ops(pool);

    pnx__pool_lock(pool);
    pnx_ns until = wait->deadline;
    if (pool->threads == 0 && pnx__pool_due(pool) < until)
        until = pnx__pool_due(pool);
    pnx__mutex_unlock(&pool->lock);
    return until;
}

/* A pool whose timers this waiter has watched needs another one for that. */
static void hand_on(struct wait *wait) {
    struct pnx_pool *pool = wait->pool;
    struct pnx__pool_effects effects;
    if (!wait->poked && !threadless(pool))
        return;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    if (pool->threads == 0)
        pnx__pool_core_poke(&pool->core, &effects);
    pnx__pool_unlock(pool, &effects, NULL);
}

static uint32_t look(const struct pnx__pool_waiter *waiter) {
    /* pairs with pool_core_queue.outcome: slot and generation are ready with it */
    return pnx_load(&waiter->outcome, PNX_ACQUIRE, "pool_acquire.outcome");
}

/* Sleeps, having said so: whoever tells the outcome from then on wakes. */
static void park(struct wait *wait, uint32_t outcome, pnx_ns until) {
    struct pnx_a32 *word = &wait->waiter.outcome;
    uint32_t expected = PNX__POOL_WAITING;
    /* pairs with pool_core_queue.outcome, by the order of this word alone */
    if (outcome == PNX__POOL_WAITING &&
            !pnx_cas(word, &expected, PNX__POOL_PARKED, PNX_RELAXED, "pool_acquire.park"))
        return;
    pnx__pool_sleep(wait->pool, word, PNX__POOL_PARKED, until);
}

static void spin(struct wait *wait) {
    struct pnx_pool *pool = wait->pool;
    uint32_t spins = wait->spins;
    wait->spins = 0;
    wait->is_new = false;
    /* a count, which orders nothing */
    if (pnx_fetch_add(&pool->spinners, 1, PNX_RELAXED, "pool_acquire.spin") < pool->spinners_max) {
        for (uint32_t i = 0; i < spins && look(&wait->waiter) == PNX__POOL_WAITING; i++)
            pnx__spin_hint();
    }
    pnx_fetch_sub(&pool->spinners, 1, PNX_RELAXED, "pool_acquire.spun"); /* the same */
}

static void note_since(struct wait *wait) {
    if (wait->since)
        return;
    wait->is_new = true;
    wait->since = pnx__now(&wait->pool->env);
    wait->deadline = pnx__deadline(wait->since, wait->timeout);
    /* by itself: see grant() in pool_core_queue.c */
    pnx_store(&wait->waiter.since, (uint64_t)wait->since, PNX_RELAXED, "pool_acquire.since");
}

/* Waits in the queue.  0 with a lease. */
static int await_outcome(struct wait *wait, struct pnx_error *err, struct pnx_lease *ret_lease) {
    struct pnx__pool_waiter *waiter = &wait->waiter;
    pnx_ns until = threadless(wait->pool) ? wait->since /* to drive at once */ : wait->deadline;
    for (;;) {
        uint32_t outcome = look(waiter);
        if (outcome == PNX__POOL_GRANTED) {
            hand_on(wait);
            *ret_lease = (struct pnx_lease){.slot = waiter->slot, .generation = waiter->generation};
            return 0;
        }
        if (outcome == PNX__POOL_WAITING && wait->spins) {
            spin(wait);
            continue;
        }
        pnx_ns now = wait->is_new ? wait->since : pnx__now(&wait->pool->env);
        wait->is_new = false;
        if (outcome == PNX__POOL_REFUSED)
            return pnx__pool_explain(
                    wait->pool, waiter->code, waiter->phase, now - wait->since, err);
        if (now >= wait->deadline) {
            const char *phase;
            if (give_up(wait, now, &phase))
                return pnx__pool_explain(wait->pool, -ETIMEDOUT, phase, now - wait->since, err);
            continue;
        }
        if (outcome == PNX__POOL_POKED || now >= until) {
            wait->poked = wait->poked || outcome == PNX__POOL_POKED;
            until = drive_as_waiter(wait, outcome == PNX__POOL_POKED);
            continue;
        }
        park(wait, outcome, until);
    }
}

/* How many leases of the pool this thread holds; of a pool too large to look, whether it has the one that it got last. */
static uint32_t leases_held(const struct pnx_pool *pool) {
    struct pnx_thread *self = pnx__self();
    if (!self)
        return 0;
    struct pnx_thread_slot *last = last_of(self, pool);
    bool known = last->serial == pool->serial, has_last = known && is_held_by(last->slot, self);
    if (known && !last->several && !has_last)
        return 0; /* as a rule: the other slots' lines stay where they are */
    if (pool->core.capacity > NESTED_MAX)
        return has_last;
    uint32_t held = 0;
    for (uint32_t i = 0; i < pool->core.capacity; i++)
        held += is_held_by(pnx__pool_slot_at(pool, i), self);
    if (known && held == 0)
        last->several = false;
    return held;
}

/* Looks for a wait that may never end, before it begins; the lock is held.  held: to be told of after the unlock. */
static int check_nested_locked(struct pnx_pool *pool, uint32_t *ret_held) {
    *ret_held = 0;
    if (pool->nested == PNX_POOL_NESTED_ALLOW)
        return 0;
    *ret_held = leases_held(pool);
    if (*ret_held == 0)
        return 0;
    pnx__pool_count(&pool->core, PNX__POOL_STAT_nested);
    return pool->nested == PNX_POOL_NESTED_REFUSE ? -EDEADLK : 0;
}

/* A4: for as long as sleeping would take, or twice as long as it has had to be of late, where that is not much longer. */
static uint32_t spins_for(const struct pnx__pool_core *core) {
#ifdef PNX_EXPLORE
    (void)core;
    return SPINS;
#else
    if (core->recent_wait > PNX__POOL_SPIN_MAX / 2)
        return SPINS;
    uint32_t spins = (uint32_t)(2 * core->recent_wait / SPIN_NS);
    return spins > SPINS ? spins : SPINS;
#endif
}

/* The lock is held, and a take was in vain.  Takes after all, joins the queue, or fails; unlocks.  1: it has joined. */
static int join_locked(struct wait *wait, struct pnx__pool_effects *effects, const char **ret_phase,
        struct pnx_lease *ret_lease) {
    struct pnx_pool *pool = wait->pool;
    struct pnx__pool_core *core = &pool->core;
    uint32_t held = 0;
    int rc = pnx__pool_core_admit(core, effects);
    *ret_phase = rc == -ESHUTDOWN ? "closed" : "breaker";
    if (rc == 0 && wait->timeout == 0) {
        *ret_phase = pnx__pool_core_phase(core);
        rc = core->paused ? -EAGAIN : -ETIMEDOUT;
        pnx__pool_core_wish(core, effects);
    } else if (rc == 0) {
        *ret_phase = "wait";
        rc = pnx__pool_call_inside(pool) ? -EDEADLK : check_nested_locked(pool, &held);
    }
    struct pnx_slot *slot = NULL;
    if (rc == 0) {
        wait->waiter.lane = wait->asking->lane;
        slot = pnx__pool_core_join(
                core, &wait->waiter, wait->first, effects, &ret_lease->generation, &rc);
        *ret_phase = rc ? "queue" : "wait";
    }
    pnx__pool_give_up_locked(pool, &wait->refused, effects);
    wait->spins = core->waiting == 1 && !threadless(pool) ? spins_for(core) : 0;
    if (rc && rc != -EDEADLK && core->starved_at) {
        pnx__pool_timer(core, pnx__deadline(core->now, PNX__POOL_STARVED_FOR), effects);
        pnx__pool_health_locked(pool);
    }
    if ((threadless(pool) || pool->manager.peek) && rc == 0 && !slot)
        effects->work = false; /* the waiter does it, or what it can, when it has its deadline */
    pnx__pool_unlock(pool, effects, NULL);
    if (held)
        pnx__event(&pool->block, PNX_EVENT_POOL_NESTED, pool->name, rc == -EDEADLK ? rc : 0,
                wait->asking->site, held, 0);
    ret_lease->slot = slot;
    return rc ? rc : !slot;
}

/* Gets a resource, from the idle ones or by waiting.  0 with a lease. */
static int get(struct wait *wait, pnx_ns now, struct pnx_error *err, struct pnx_lease *ret_lease) {
    struct pnx_pool *pool = wait->pool;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    ret_lease->slot = pnx__pool_core_take(&pool->core, now, &effects, &ret_lease->generation);
    if (ret_lease->slot) {
        pnx__pool_note_order(&pool->core, wait->asking->lane, wait->waiter.asked);
        pnx__pool_give_up_locked(pool, &wait->refused, &effects);
        pnx__pool_unlock_quiet(pool, &effects);
        return 0;
    }
    const char *phase;
    int rc = join_locked(wait, &effects, &phase, ret_lease);
    if (rc <= 0)
        return rc ? pnx__pool_explain(pool, rc, phase, 0, err) : 0;
    note_since(wait);
    if (pool->manager.peek) {
        wait->is_new = false;
        pnx__pool_run_peeks(pool, &wait->waiter);
    }
    return await_outcome(wait, err, ret_lease);
}

/* A hook has refused its resource: -ETIMEDOUT when that was its last one, since there may always be another at once. */
static int come_back(struct wait *wait, struct pnx_error *err) {
    struct pnx_pool *pool = wait->pool;
    struct pnx__pool_effects effects;
    wait->first = true;
    if (wait->timeout == 0)
        return 0; /* what is idle is all that it gets */
    note_since(wait);
    pnx_ns now = pnx__now(&pool->env);
    if (now < wait->deadline)
        return 0;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pnx__pool_see(&pool->core, now);
    count_timeout_locked(wait, now, &effects);
    pnx__pool_give_up_locked(pool, &wait->refused, &effects);
    pnx__pool_unlock(pool, &effects, NULL);
    return pnx__pool_explain(pool, -ETIMEDOUT, "hook", now - wait->since, err);
}

/* All that the short way has not done: its checks, hooks, the lock and the queue.  now: by the coarse clock; below 0: it has
 * not been read. */
static __attribute__((noinline)) int acquire_slowly(struct pnx_pool *pool, pnx_ns timeout,
        pnx_ns now, const struct pnx__pool_asking *asking, struct pnx_error *err,
        struct pnx_lease *ret_lease) {
    int rc = pnx__timeout(timeout, pool->acquire_timeout, err, &timeout);
    if (rc)
        return rc;
    if (pnx__fork_generation() != pool->fork)
        return pnx__fail(err, -ESHUTDOWN, 0, "fork",
                "pool \"%.40s\" was made before fork(), in the parent of this process", pool->name);
    bool tried = now >= 0;
    if (!tried)
        now = pool->now_coarse(pool->now_ctx);
    uint64_t asked = pnx__pool_asked(&pool->core);
    struct pnx_lease lease = tried ? (struct pnx_lease){0} : claim(pool, now, asking);
    if (lease.slot && pool->core.traced)
        pnx__pool_trace(pool, asking->lane, asked);
    if (lease.slot && (!pool->hooked || pnx__pool_passes(pool, &lease))) {
        *ret_lease = lease;
        return 0;
    }
    struct wait wait = {.pool = pool, .asking = asking, .timeout = timeout, .refused = lease};
    wait.first = lease.slot != NULL;
    wait.waiter.at = now;
    wait.waiter.asked = asked;
    for (;;) {
        lease = (struct pnx_lease){0};
        rc = get(&wait, now, err, &lease);
        if (rc)
            return rc;
        pnx__pool_stamp(pool, &lease, asking);
        if (!pool->hooked || pnx__pool_passes(pool, &lease)) {
            *ret_lease = lease;
            return 0;
        }
        wait.refused = lease;
        rc = come_back(&wait, err);
        if (rc)
            return rc;
    }
}

int pnx__pool_check_asking(const struct pnx_acquire_opts *with, struct pnx_error *err,
        struct pnx__pool_asking *ret_asking) {
    struct pnx_acquire_opts opts = {.size = sizeof(opts)};
    *ret_asking = (struct pnx__pool_asking){.lane = PNX_PRIORITY_CRITICAL - PNX_PRIORITY_NORMAL};
    if (!with)
        return 0;
    int rc = pnx__opts_copy("pool.acquire", sizeof(opts), with, &opts, err);
    if (rc)
        return rc;
    if (opts.priority < PNX_PRIORITY_DEFAULT || opts.priority > PNX_PRIORITY_CRITICAL)
        return pnx__fail_field(
                err, -EINVAL, "priority", "pool.acquire: priority is %d", (int)opts.priority);
    if (opts.reserved_ != 0)
        return pnx__fail_field(err, -E2BIG, "reserved_", "pool.acquire: reserved_ is not 0");
    ret_asking->site = opts.site;
    ret_asking->tag = opts.tag;
    if (opts.priority != PNX_PRIORITY_DEFAULT)
        ret_asking->lane = (uint8_t)(PNX_PRIORITY_CRITICAL - opts.priority);
    return 0;
}

static inline int acquire(struct pnx_pool *pool, pnx_ns timeout,
        const struct pnx__pool_asking *asking, struct pnx_error *err, struct pnx_lease *ret_lease) {
    bool is_timeout = timeout >= 0 || timeout == PNX_TIMEOUT_DEFAULT;
    pnx_ns now = -1;
    if (__builtin_expect(is_timeout && pool->plain && pnx__fork_is(pool->fork), 1)) {
        now = pool->now_coarse(pool->now_ctx);
        struct pnx_lease lease = claim(pool, now, asking);
        if (__builtin_expect(lease.slot != NULL, 1)) {
            /* word by word, from registers: a copy of the whole would wait until its halves are in the cache */
            ret_lease->slot = lease.slot;
            ret_lease->generation = lease.generation;
            return 0;
        }
    }
    return acquire_slowly(pool, timeout, now, asking, err, ret_lease);
}

int pnx_pool_acquire(
        struct pnx_pool *pool, pnx_ns timeout, struct pnx_error *err, struct pnx_lease *ret_lease) {
    static const struct pnx__pool_asking asking = {
            .lane = PNX_PRIORITY_CRITICAL - PNX_PRIORITY_NORMAL};
    if (!pool || !ret_lease)
        return pnx__fail_field(err, -EINVAL, pool ? "ret_lease" : "pool",
                "pool.acquire: %s is NULL", pool ? "ret_lease" : "pool");
    return acquire(pool, timeout, &asking, err, ret_lease);
}

int pnx_pool_acquire_with(struct pnx_pool *pool, pnx_ns timeout,
        const struct pnx_acquire_opts *with, struct pnx_error *err, struct pnx_lease *ret_lease) {
    struct pnx__pool_asking asking;
    if (!pool || !ret_lease)
        return pnx__fail_field(err, -EINVAL, pool ? "ret_lease" : "pool",
                "pool.acquire: %s is NULL", pool ? "ret_lease" : "pool");
    int rc = pnx__pool_check_asking(with, err, &asking);
    return rc ? rc : acquire(pool, timeout, &asking, err, ret_lease);
}
