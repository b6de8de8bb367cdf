/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulator: drives the pure core (pool/pool_core.h) through random lives, in one thread and in virtual time,
 * beside a small model, and checks everything after every step.
 *
 * One life: a random configuration, some thousands of random steps by clients who come, leave, return and
 * discard, by a server that connects, refuses, is late or never answers, by workers who take their time, and by
 * an operator who resizes, evicts, and forks; then a calm, in which everybody who waits must be served; then a close, in
 * which everything must be closed exactly once.  SEED=n replays a run; a failure names the life and the step.
 */
#include "harness/harness.h"
#include "pool/pool_core.h"

#define SLOTS     24
#define CLIENTS   16
#define RESOURCES 8192

enum life { UNBORN, ALIVE, DEAD, GIVEN_AWAY };

/* The model's view of a resource; index 0 is unused, so that a resource is a non-NULL pointer. */
struct model_resource {
    enum life life;
    int holder; /* client, or -1 */
    uint32_t epoch;
    pnx_ns born_at;
    pnx_ns last_use; /* true end of its last use, check or birth */
    pnx_ns idle_at;  /* the same without keep-alive checks */
    pnx_ns seen_use; /* the same as far as the core was told */
};

enum doing { AWAY, WAITING, HOLDING };

struct client {
    enum doing doing;
    struct pnx__pool_waiter waiter;
    /* the model's copy of its place in the queue */
    uint64_t seq;
    pnx_ns at;
    int lane;
    bool in_queue;
    struct pnx_slot *slot;
    uint64_t generation;
    uint64_t stale;              /* a generation that was released before */
    struct pnx_slot *stale_slot; /* NULL: none */
};

enum verdict { SUCCEEDS, FAILS, REFUSED_BY_HOOK, NEVER_ENDS };

struct job {
    struct pnx_slot *slot;
    pnx_ns ends_at;
    uint32_t epoch;
    enum verdict verdict;
    bool examines;
};

static struct world {
    struct pnx__pool_core core;
    struct pnx_slot slots[SLOTS];
    struct client clients[CLIENTS];
    struct job jobs[SLOTS];
    int n_jobs;
    struct model_resource resources[RESOURCES];
    uint32_t n_resources;
    uint32_t workers; /* how many jobs run at once at most */
    uint32_t queued;
    uint64_t joined; /* the model's order of joining */
    uint32_t epoch;
    bool paused;
    bool failed; /* no connect has succeeded since the last failure */
    pnx_ns now;
    uint64_t random;
    uint64_t life, step;
    const char *event; /* the last one, for messages */
    bool calm;
    struct pnx__pool_effects effects;
    bool could_work; /* a job could run before the event whose effects these are */
    uint64_t grants, claims, brings, checks, connects, failures, overdue, refused, idles, shed,
            timeouts, opened, resets, pauses, evicted, adopted, detached, hooks, peeks, pokes, aged,
            forks;
} w;

#define HOLDS(condition, what) \
    CHECK_MSG((condition), "life %llu, step %llu, after %s: %s", (unsigned long long)w.life, \
            (unsigned long long)w.step, w.event, (what))

static uint64_t dice(uint64_t sides) {
    return test_random(&w.random) % sides;
}

/* Stands before each event; collect() after it. */
static void effects_clear_for(const char *event) {
    w.event = event;
    w.could_work = pnx__pool_core_runnable(&w.core, false, w.now);
    w.effects = (struct pnx__pool_effects){0};
}

#define effects_clear() effects_clear_for(__func__)

static struct model_resource *resource_of(const struct pnx_slot *slot) {
    size_t index = (size_t)(uintptr_t)slot->resource.v;
    HOLDS(index > 0 && index < w.n_resources, "a slot in use has no resource");
    return &w.resources[index];
}

/* ---- the queue, as it should be ---- */

static int64_t rank_of(const struct client *client) {
    if (w.core.config.ageing == PNX_NEVER)
        return client->lane;
    int64_t rank = client->lane - (w.core.now - client->at) / w.core.config.ageing;
    return rank > 0 ? rank : 0;
}

/* Who must be next; -1: nobody waits. */
static int expected(void) {
    int best = -1;
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *client = &w.clients[i];
        /* Within a lane the order of joining alone counts. */
        bool headed = false;
        for (int j = 0; client->in_queue && j < CLIENTS; j++)
            headed |= w.clients[j].in_queue && w.clients[j].lane == client->lane &&
                      w.clients[j].seq < client->seq;
        if (!client->in_queue || headed)
            continue;
        if (best < 0 || rank_of(client) < rank_of(&w.clients[best]) ||
                (rank_of(client) == rank_of(&w.clients[best]) && client->seq < w.clients[best].seq))
            best = i;
    }
    return best;
}

static void leave_queue(struct client *client) {
    client->in_queue = false;
    w.queued--;
}

/* A client got a resource, at once or from the queue. */
static void check_grant(int id, bool from_queue) {
    struct client *client = &w.clients[id];
    struct model_resource *resource = resource_of(client->slot);
    HOLDS(resource->life == ALIVE, "a closed resource was granted");
    HOLDS(resource->holder == -1, "a resource was granted to two holders");
    HOLDS(resource->epoch == w.epoch, "P12: a resource from before a reset was granted");
    HOLDS(!w.paused, "a paused pool granted");
    pnx_ns check_after = w.core.config.check_after;
    if (!from_queue && check_after != PNX_NEVER)
        HOLDS(w.now - resource->last_use < check_after, "a stale resource was granted unchecked");
    if (w.core.config.lifetime != PNX_NEVER)
        HOLDS(w.core.now - resource->born_at < w.core.config.lifetime,
                "granted beyond its lifetime");
    resource->holder = id;
    resource->seen_use = pnx__pool_used_at(client->slot);
    client->doing = HOLDING;
    w.grants++;
}

static bool is_told(const struct client *client) {
    return client->in_queue && (client->waiter.outcome.v == PNX__POOL_GRANTED ||
                                       client->waiter.outcome.v == PNX__POOL_REFUSED);
}

static bool is_shed(const struct client *client) {
    return client->waiter.outcome.v == PNX__POOL_REFUSED && client->waiter.code == -EBUSY;
}

static void check_refusal(const struct client *client) {
    switch (client->waiter.code) {
    case -ESHUTDOWN:
        HOLDS(w.core.closing, "a waiter was refused by an open pool");
        break;
    case -ETIMEDOUT:
        HOLDS(client->waiter.is_request && client->waiter.timer.at == 0, "whose deadline was it?");
        w.timeouts++;
        break;
    case PNX_E_BREAKER:
    case -ECANCELED:
        break;
    default:
        HOLDS(false, "an unknown refusal");
    }
    w.refused++;
}

/* Each wake is for one who slept and was told, or poked. */
static void check_wakes(void) {
    for (uint32_t i = 0; i < w.effects.wakes; i++) {
        bool known = false;
        for (int id = 0; id < CLIENTS; id++)
            known |= w.effects.wake[i] == &w.clients[id].waiter.outcome &&
                     w.clients[id].doing == WAITING && !w.clients[id].waiter.is_request;
        HOLDS(known, "a wake for nobody");
    }
    HOLDS(w.effects.wakes <= PNX__POOL_WAKES, "too many wakes");
}

static void check_done(void) {
    uint32_t told = 0, done = 0;
    for (int i = 0; i < CLIENTS; i++)
        told += is_told(&w.clients[i]) && w.clients[i].waiter.is_request;
    for (struct pnx_link *link = w.effects.done; link; link = link->next)
        done++;
    HOLDS(told == done, "N2: a request has its outcome, and is not delivered");
}

static void take_outcomes(void) {
    check_wakes();
    check_done();
    /* Who was refused for a reason of the pool's or of its own, in no order. */
    for (int i = 0; i < CLIENTS; i++) {
        struct client *client = &w.clients[i];
        if (!is_told(client) || client->waiter.outcome.v != PNX__POOL_REFUSED || is_shed(client))
            continue;
        check_refusal(client);
        client->doing = AWAY;
        leave_queue(client);
    }
    /* Grants, and those who were shed, from the head on. */
    for (;;) {
        int told = 0;
        for (int i = 0; i < CLIENTS; i++)
            told += is_told(&w.clients[i]);
        if (told == 0)
            break;
        int id = expected();
        struct client *client = &w.clients[id];
        HOLDS(is_told(client), "P2: a waiter was overtaken");
        w.aged += client->lane > 0;
        leave_queue(client);
        client->doing = AWAY;
        if (is_shed(client)) {
            HOLDS(w.core.config.codel_target != PNX_NEVER &&
                            w.core.now - client->at >= w.core.config.codel_target,
                    "Q3: shed after a short wait");
            w.shed++;
            continue;
        }
        client->slot = client->waiter.slot;
        client->generation = client->waiter.generation;
        check_grant(id, true);
    }
    HOLDS(w.queued == w.core.waiting, "the model counts other waiters");
}

/* Sees who has an outcome after an event, and goes on as the shell does. */
static void collect(void) {
    HOLDS(w.could_work || w.effects.work || !pnx__pool_core_runnable(&w.core, false, w.now),
            "D1: a job can run, and nobody is told");
    w.could_work = true; /* until the next event: time alone tells nobody, its tick does */
    w.opened += w.effects.opened;
    HOLDS(!w.effects.opened || pnx__pool_core_alive(&w.core) == 0, "G3: opened with one alive");
    w.epoch = w.core.epoch;
    take_outcomes();
    for (int i = 0; w.effects.more; i++) {
        HOLDS(i < CLIENTS, "no end of what is to be done");
        w.effects = (struct pnx__pool_effects){0};
        pnx__pool_core_go_on(&w.core, &w.effects);
        take_outcomes();
    }
    w.effects = (struct pnx__pool_effects){0}; /* a step in which nothing happens has none */
}

static void check_all(void) {
    const char *broken = pnx__pool_core_check(&w.core);
    HOLDS(!broken, broken);
    uint32_t held = 0, alive = 0, n[PNX__POOL_STATES];
    pnx__pool_core_count(&w.core, n);
    for (int i = 0; i < CLIENTS; i++)
        held += w.clients[i].doing == HOLDING;
    HOLDS(held == n[PNX__POOL_IN_USE], "the model counts other leases");
    for (uint32_t i = 1; i < w.n_resources; i++)
        alive += w.resources[i].life == ALIVE;
    HOLDS(alive == w.core.size - w.core.n[PNX__POOL_CONNECTING],
            "the model counts other resources");
    HOLDS(w.core.config.barge > 0 || w.core.stats[PNX__POOL_STAT_inversions].v == 0,
            "P2: the trace found a grant out of turn");
    HOLDS(w.core.size <= w.core.max || w.core.ceiling > w.core.max, "P1: more than max");
    /* An honest shell ticks when the timer says so; then C6 must hold. */
    if (w.now >= w.core.next_timer) {
        effects_clear();
        pnx__pool_core_tick(&w.core, w.now, &w.effects);
        HOLDS(w.core.next_timer > w.now, "a timer that is due after its tick");
        collect();
    }
    const char *stuck = pnx__pool_core_check_alive(&w.core, w.now);
    HOLDS(!stuck, stuck);
}

/* ---- what clients do ---- */

static void be_away(struct client *client) {
    client->doing = AWAY;
    client->stale = client->generation;
    client->stale_slot = client->slot;
}

static void spend(int id) {
    struct client *client = &w.clients[id];
    struct model_resource *resource = resource_of(client->slot);
    HOLDS(resource->holder == id, "the lease is somebody else's");
    HOLDS(pnx__pool_slot_spend(client->slot, client->generation), "a valid lease was refused");
    HOLDS(!pnx__pool_slot_spend(client->slot, client->generation), "a lease was spent twice");
    HOLDS(!pnx__pool_slot_bring(client->slot, client->generation), "a spent lease was brought");
    resource->holder = -1;
    be_away(client);
}

static void join(int id, bool first);

static void spend_and_return(int id, bool keep, bool by_hook) {
    struct client *client = &w.clients[id];
    struct pnx_slot *slot = client->slot;
    struct model_resource *resource = resource_of(slot);
    resource->last_use = resource->idle_at = w.now;
    spend(id);
    effects_clear();
    if (keep && dice(4) == 0 && pnx__pool_slot_bring_spent(slot, client->generation)) {
        HOLDS(w.queued == 0 && !w.paused && !w.core.closing, "C3: a locked slot was brought");
        return;
    }
    uint32_t living = w.core.size - w.core.n[PNX__POOL_CLOSING];
    resource->seen_use = w.now;
    pnx__pool_core_returned(&w.core, slot, keep,
            by_hook   ? PNX__POOL_BECAUSE_HOOK
            : dice(2) ? PNX__POOL_BECAUSE_DISCARDED
                      : PNX__POOL_BECAUSE_RESET,
            w.now, &w.effects);
    uint32_t room = w.core.max < w.core.quota ? w.core.max : w.core.quota;
    HOLDS(living <= room || pnx__pool_slot_state(slot) == PNX__POOL_CLOSING,
            "P1: one too many came home, and was kept");
    if (keep && pnx__pool_slot_state(slot) == PNX__POOL_CLOSING)
        HOLDS(slot->reason != PNX__POOL_BECAUSE_RESIZE || living > room,
                "closed as one too many, but it was not");
}

/* Brings a resource back by the short way, if that is open. */
static bool bring(int id) {
    struct client *client = &w.clients[id];
    struct model_resource *resource = resource_of(client->slot);
    effects_clear();
    if (!pnx__pool_slot_bring(client->slot, client->generation))
        return false;
    HOLDS(w.queued == 0 && !w.paused && !w.core.closing, "C3: a locked slot was brought");
    HOLDS(!pnx__pool_slot_bring(client->slot, client->generation), "P9: brought twice");
    HOLDS(!pnx__pool_slot_spend(client->slot, client->generation), "P9: spent after it");
    resource->holder = -1;
    resource->last_use = resource->idle_at = w.now;
    be_away(client);
    w.brings++;
    return true;
}

/* Takes a resource by the short way, if one is open. */
static bool claim(int id) {
    struct client *client = &w.clients[id];
    struct pnx_slot *slot = NULL;
    pnx_ns check_after = w.core.config.check_after == 0 ? INT64_MIN : w.core.config.check_after;
    uint64_t from = dice(SLOTS);
    effects_clear();
    for (uint64_t i = 0; i < SLOTS && !slot; i++) {
        slot = &w.slots[(from + i) % SLOTS];
        if (!pnx__pool_slot_claim(slot, w.now, check_after, &client->generation))
            slot = NULL;
    }
    if (!slot)
        return false;
    HOLDS(w.queued == 0, "P2: an arriving caller overtook a waiter");
    slot->used_at.v = (uint64_t)w.now;
    client->slot = slot;
    check_grant(id, false);
    w.claims++;
    return true;
}

static void join(int id, bool first) {
    struct client *client = &w.clients[id];
    struct pnx__pool_waiter *waiter = &client->waiter;
    int rc = pnx__pool_core_admit(&w.core, &w.effects);
    HOLDS((rc == PNX_E_BREAKER) == (w.core.breaker && !w.core.closing), "P11: the breaker");
    if (rc) {
        HOLDS(rc == PNX_E_BREAKER || w.core.closing, "refused by an open pool");
        return;
    }
    if (!first)
        *waiter = (struct pnx__pool_waiter){.lane = (uint8_t)(dice(3) ? 2 : dice(PNX__POOL_LANES)),
                .is_request = dice(2),
                .asked = pnx__pool_asked(&w.core)};
    struct pnx_slot *slot =
            pnx__pool_core_join(&w.core, waiter, first, &w.effects, &client->generation, &rc);
    if (slot) {
        HOLDS(w.queued == 0, "P2: an arriving caller overtook a waiter");
        client->slot = slot;
        check_grant(id, false);
        return;
    }
    if (rc) {
        HOLDS(rc == -EBUSY && w.queued >= w.core.config.max_waiters && !first,
                "refused with room in the queue");
        return;
    }
    if (waiter->is_request) {
        pnx_ns deadline = w.now + 1 + (pnx_ns)dice((uint64_t)PNX_SEC);
        pnx__heap_insert(&w.core.timers, &waiter->timer, w.calm ? PNX_NEVER : deadline);
        pnx__pool_timer(&w.core, waiter->timer.at, &w.effects);
    }
    if (!first) {
        client->seq = ++w.joined;
        client->at = w.core.now;
        client->lane = waiter->lane;
    }
    client->doing = WAITING;
    client->in_queue = true;
    w.queued++;
}

static void arrive(int id) {
    struct client *client = &w.clients[id];
    if (dice(2) && claim(id))
        return;
    effects_clear();
    bool barges = w.core.config.barge > 0;
    int head = expected();
    pnx_ns waited = head >= 0 ? w.now - w.clients[head].at : 0;
    client->slot = pnx__pool_core_take(&w.core, w.now, &w.effects, &client->generation);
    if (client->slot) {
        HOLDS(w.queued == 0 || (barges && waited < w.core.config.barge),
                "P2: an arriving caller overtook a waiter");
        check_grant(id, false);
        return;
    }
    if (dice(8) == 0)
        pnx__pool_core_wish(&w.core, &w.effects);
    else
        join(id, false);
}

static void give_up(int id) {
    struct client *client = &w.clients[id];
    effects_clear();
    HOLDS(pnx__pool_core_cancel(&w.core, &client->waiter, &w.effects), "a waiter was lost");
    leave_queue(client);
    client->doing = AWAY;
}

/* What a waiter that blocks does between its looks. */
static void wait_on(int id) {
    struct client *client = &w.clients[id];
    if (client->waiter.is_request)
        return;
    if (client->waiter.outcome.v == PNX__POOL_POKED) {
        effects_clear();
        w.pokes++;
        pnx__pool_core_retake(&w.core, &client->waiter, w.now, &w.effects);
    } else if (client->waiter.outcome.v == PNX__POOL_WAITING && dice(2)) {
        client->waiter.outcome.v = PNX__POOL_PARKED;
    }
}

/* A hook refuses what a client got: it goes back to where it was in the queue. */
static void refuse_by_hook(int id) {
    struct client *client = &w.clients[id];
    bool waited = client->waiter.seq > 0 && client->waiter.slot == client->slot;
    w.hooks++;
    spend_and_return(id, false, true);
    collect();
    effects_clear();
    if (!waited) { /* it had not waited: it goes before all who came since, and so before all */
        client->waiter = (struct pnx__pool_waiter){.at = w.core.now};
        client->seq = 0;
        client->at = w.core.now;
        client->lane = 0;
        for (int i = 0; i < CLIENTS; i++) {
            if (i != id && w.clients[i].in_queue && w.clients[i].seq == 0)
                return; /* one of these at a time, since they have no order */
        }
    }
    for (int i = 0; i < CLIENTS; i++) {
        /* in its lane it must be the head again, which it is unless an older one has come back */
        if (w.clients[i].in_queue && w.clients[i].lane == client->lane &&
                w.clients[i].seq < client->seq)
            return;
    }
    join(id, true);
}

static void client_step(void) {
    int id = (int)dice(CLIENTS);
    struct client *client = &w.clients[id];
    switch (client->doing) {
    case AWAY:
        if (client->stale_slot && dice(16) == 0)
            HOLDS(!pnx__pool_slot_spend(client->stale_slot, client->stale) &&
                            !pnx__pool_slot_bring(client->stale_slot, client->stale),
                    "P9: a stale lease was accepted");
        arrive(id);
        break;
    case HOLDING:
        if (dice(60) == 0) {
            refuse_by_hook(id);
        } else if (dice(60) == 0) {
            struct pnx_slot *slot = client->slot;
            resource_of(slot)->life = GIVEN_AWAY;
            spend(id);
            effects_clear();
            pnx__pool_core_detached(&w.core, slot, &w.effects);
            w.detached++;
        } else if (dice(2) == 0 || !bring(id)) {
            spend_and_return(id, dice(10) != 0, false);
        }
        break;
    case WAITING:
        if (dice(6) == 0)
            give_up(id);
        else
            wait_on(id);
        break;
    }
}

/* ---- what workers and the server do ---- */

static uint32_t running(enum pnx__pool_job_kind kind) {
    uint32_t n = 0;
    for (int i = 0; i < w.n_jobs; i++)
        n += w.jobs[i].slot->job == kind && !w.jobs[i].examines &&
             !(w.jobs[i].slot->flags & PNX__POOL_OVERDUE);
    return n;
}

static void check_check(const struct pnx_slot *slot, const struct model_resource *resource) {
    pnx_ns unused = w.now - resource->seen_use;
    w.checks++;
    HOLDS(running(PNX__POOL_CHECK) <= w.core.config.max_checking, "too many checks");
    if (slot->flags & PNX__POOL_KEEPALIVE) {
        HOLDS(running(PNX__POOL_CHECK) == 1 && w.queued == 0, "a keep-alive check in the way");
        HOLDS(unused >= w.core.config.keepalive - w.core.config.keepalive / 10 - 1,
                "kept alive too early");
        return;
    }
    HOLDS(unused >= w.core.config.check_after, "a fresh one is checked");
    if (slot->flags & PNX__POOL_PEEKED) {
        w.peeks++;
        HOLDS(w.core.config.full_check_after == PNX_NEVER ||
                        w.now - resource->last_use < w.core.config.full_check_after,
                "a peek where a check is due");
    }
}

static void check_started(struct pnx_slot *slot) {
    if (slot->job == PNX__POOL_CONNECT) {
        w.connects++;
        HOLDS(!w.core.closing && !w.paused, "a connect in a closed or paused pool");
        HOLDS(w.core.size <= w.core.max && w.core.size <= w.core.quota, "P1: a connect beyond max");
        HOLDS(running(PNX__POOL_CONNECT) <= w.core.config.max_connecting, "P5: too many connects");
        HOLDS(!w.failed || running(PNX__POOL_CONNECT) == 1, "P6: several connects after a failure");
        HOLDS(w.now >= w.core.retry_at, "P6: a connect in the pause");
        return;
    }
    struct model_resource *resource = resource_of(slot);
    HOLDS(resource->life == ALIVE && resource->holder == -1, "a job on a resource in use");
    if (slot->job == PNX__POOL_CHECK) {
        check_check(slot, resource);
    } else if (slot->reason == PNX__POOL_BECAUSE_IDLE) {
        w.idles++;
        HOLDS(w.now - resource->idle_at >= w.core.config.idle, "closed as idle too early");
    } else if (slot->reason == PNX__POOL_BECAUSE_STALE) {
        HOLDS(resource->epoch != w.epoch, "closed as old, but it is not");
    }
}

static void worker_step(void) {
    if ((uint32_t)w.n_jobs >= w.workers)
        return;
    bool peek = dice(8) == 0, only_close = !peek && dice(8) == 0;
    bool could = pnx__pool_core_runnable(&w.core, only_close, w.now);
    bool maybe = w.core.keepalive_due;
    effects_clear();
    struct pnx_slot *slot = peek ? pnx__pool_core_next_peek(&w.core, w.now, &w.effects)
                                 : pnx__pool_core_next_job(&w.core, only_close, w.now, &w.effects);
    HOLDS(could || !slot, "a job that could not run");
    HOLDS(peek || maybe || could == (slot != NULL), "runnable() and next_job() differ");
    if (!slot)
        return;
    struct job *job = &w.jobs[w.n_jobs++];
    *job = (struct job){.slot = slot,
            .ends_at = w.now + (pnx_ns)dice((uint64_t)(20 * PNX_MS)),
            .epoch = w.core.epoch};
    uint64_t luck = dice(100);
    if (!w.calm && luck < 25)
        job->verdict = luck < 3 && slot->job == PNX__POOL_CONNECT ? REFUSED_BY_HOOK : FAILS;
    if (!w.calm && luck >= 95)
        job->ends_at += (pnx_ns)dice((uint64_t)(3 * PNX_SEC)); /* late: may become overdue */
    if (!w.calm && luck == 99 && slot->job != PNX__POOL_CLOSE)
        job->verdict = NEVER_ENDS;
    check_started(slot);
}

static uint32_t give_birth(uint32_t epoch) {
    HOLDS(w.n_resources < RESOURCES, "the simulator's table of resources is full");
    w.resources[w.n_resources] = (struct model_resource){.life = ALIVE,
            .holder = -1,
            .epoch = epoch,
            .born_at = w.now,
            .last_use = w.now,
            .idle_at = w.now,
            .seen_use = w.now};
    return w.n_resources++;
}

static void end_connect(const struct job *job) {
    struct pnx_slot *slot = job->slot;
    bool was_overdue = slot->flags & PNX__POOL_OVERDUE;
    enum pnx_pool_verdict verdict = dice(4) ? PNX_POOL_TRANSIENT : (enum pnx_pool_verdict)dice(4);
    if (job->verdict == SUCCEEDS) {
        void *resource = (void *)(uintptr_t)give_birth(job->epoch);
        w.failed = false;
        pnx__pool_core_connected(&w.core, slot, resource, w.now, &w.effects);
        HOLDS(!w.core.breaker || w.core.closing, "P11: open after a success");
        return;
    }
    w.failures++;
    if (!was_overdue)
        w.failed = true;
    if (job->verdict == REFUSED_BY_HOOK)
        pnx__pool_core_connect_refused(&w.core, slot, (void *)(uintptr_t)give_birth(job->epoch),
                -EACCES, "refused", verdict, w.now, &w.effects);
    else
        pnx__pool_core_connect_failed(&w.core, slot, -EIO, "refused", verdict, w.now, &w.effects);
}

static void end_job(int at) {
    struct job job = w.jobs[at];
    w.jobs[at] = w.jobs[--w.n_jobs];
    bool well = job.verdict == SUCCEEDS;
    effects_clear();
    if (job.examines) {
        w.evicted += !well;
        pnx__pool_core_examined(&w.core, job.slot, well, &w.effects);
    } else if (job.slot->job == PNX__POOL_CONNECT) {
        end_connect(&job);
    } else if (job.slot->job == PNX__POOL_CHECK) {
        if (well)
            resource_of(job.slot)->last_use = resource_of(job.slot)->seen_use = w.now;
        if (well && !(job.slot->flags & PNX__POOL_KEEPALIVE))
            resource_of(job.slot)->idle_at = w.now;
        pnx__pool_core_checked(&w.core, job.slot, well, w.now, &w.effects);
    } else {
        struct model_resource *resource = resource_of(job.slot);
        HOLDS(resource->life == ALIVE, "P4: closed twice");
        HOLDS(!(job.slot->flags & PNX__POOL_INTERRUPTED), "M1: closed while it is interrupted");
        resource->life = DEAD;
        pnx__pool_core_closed(&w.core, job.slot, w.now, &w.effects);
        HOLDS(job.slot->resource.v == NULL, "a closed slot keeps its resource");
    }
}

static void server_step(void) {
    if (w.n_jobs == 0)
        return;
    int at = (int)dice((uint64_t)w.n_jobs);
    if (w.jobs[at].verdict == NEVER_ENDS || w.jobs[at].ends_at > w.now)
        return;
    end_job(at);
}

static void time_step(void) {
    static const pnx_ns spans[] = {10 * PNX_US, PNX_MS, 10 * PNX_MS, 200 * PNX_MS, 3 * PNX_SEC};
    if (dice(5) == 0 && w.core.next_timer != PNX_NEVER && w.core.next_timer > w.now)
        w.now = w.core.next_timer;
    else
        w.now += 1 + (pnx_ns)dice((uint64_t)spans[dice(5)]);
    for (int i = 0; i < w.n_jobs; i++)
        w.overdue += (w.jobs[i].slot->flags & PNX__POOL_OVERDUE) != 0;
    /* an overdue connect counts as a failure from the tick on that finds it so */
    bool before = w.core.failures > 0;
    if (w.now >= w.core.next_timer) {
        effects_clear();
        pnx__pool_core_tick(&w.core, w.now, &w.effects);
    }
    if (!before && w.core.failures > 0)
        w.failed = true;
}

/* ---- what the operator does ---- */

static void evict_some(void) {
    uint32_t before[PNX__POOL_STATES], after[PNX__POOL_STATES];
    pnx__pool_core_count(&w.core, before);
    uint32_t n = pnx__pool_core_evict(&w.core, (uint32_t)dice(4), &w.effects);
    pnx__pool_core_count(&w.core, after);
    HOLDS(before[PNX__POOL_IDLE] - n == after[PNX__POOL_IDLE], "evict miscounts");
    HOLDS(n == 0 || after[PNX__POOL_IDLE] >= w.core.config.min_idle, "evicted below min_idle");
}

static void examine(void) {
    struct pnx_slot *slot = &w.slots[dice(SLOTS)];
    if (w.n_jobs == SLOTS || !pnx__pool_core_examine(&w.core, slot, &w.effects))
        return;
    HOLDS(resource_of(slot)->holder == -1, "took aside what is in use");
    w.jobs[w.n_jobs++] = (struct job){.slot = slot,
            .ends_at = w.now + (pnx_ns)dice((uint64_t)(20 * PNX_MS)),
            .verdict = dice(2) ? SUCCEEDS : FAILS,
            .examines = true};
}

static void adopt(void) {
    int rc;
    bool full = w.core.size >= w.core.max || w.core.size >= w.core.quota;
    struct pnx_slot *slot = pnx__pool_core_adopt(&w.core, w.now, &rc);
    HOLDS(rc == (w.core.closing ? -ESHUTDOWN : full ? -EBUSY : 0), "adopt's answer");
    if (!slot)
        return;
    collect();
    effects_clear();
    if (dice(4) == 0) {
        pnx__pool_core_adopt_failed(&w.core, slot, &w.effects);
        return;
    }
    w.adopted++;
    pnx__pool_core_connected(
            &w.core, slot, (void *)(uintptr_t)give_birth(w.core.epoch), w.now, &w.effects);
    HOLDS(!w.core.breaker, "P11: open though a resource was adopted");
}

static void interrupt(void) {
    struct pnx_slot *slot = &w.slots[dice(SLOTS)];
    if (slot->flags & PNX__POOL_INTERRUPTED) {
        slot->flags &= ~(uint32_t)PNX__POOL_INTERRUPTED;
        w.effects.work = true;
    } else if (pnx__pool_slot_state(slot) == PNX__POOL_IN_USE && !pnx__pool_slot_is_open(slot)) {
        slot->flags |= PNX__POOL_INTERRUPTED;
    }
}

/*
 * The process forks, between two events.  What the child does with its copy of the slots is done here in place, checked, and
 * taken back: each resource that was idle or on lease is abandoned once, and nothing can be had from them any more.
 */
static void fork_step(void) {
    uint64_t words[SLOTS], generation;
    bool abandoned[SLOTS];
    w.forks++;
    for (int i = 0; i < SLOTS; i++) {
        enum pnx__pool_state state = pnx__pool_slot_state(&w.slots[i]);
        words[i] = w.slots[i].word.v;
        abandoned[i] = pnx__pool_slot_forsake(&w.slots[i]);
        HOLDS(abandoned[i] == (state == PNX__POOL_IDLE), "the child abandons what is idle, only");
        HOLDS(!abandoned[i] || resource_of(&w.slots[i])->holder == -1, "a holder's was idle");
    }
    for (int i = 0; i < CLIENTS; i++) {
        const struct client *client = &w.clients[i];
        if (client->doing != HOLDING)
            continue;
        HOLDS(!abandoned[client->slot - w.slots], "abandoned with a lease on it");
        HOLDS(pnx__pool_slot_spend(client->slot, client->generation), "the child's lease is good");
        HOLDS(!pnx__pool_slot_spend(client->slot, client->generation), "and abandoned once");
    }
    for (int i = 0; i < SLOTS; i++) {
        HOLDS(!pnx__pool_slot_forsake(&w.slots[i]), "the child abandons twice");
        HOLDS(!pnx__pool_slot_claim(&w.slots[i], w.now, PNX_NEVER, &generation),
                "the child gets a resource of its parent's");
    }
    for (int i = 0; i < SLOTS; i++)
        w.slots[i].word.v = words[i];
}

static void operator_step(void) {
    uint32_t low = w.core.config.min_idle > 1 ? w.core.config.min_idle : 1;
    effects_clear();
    switch (dice(12)) {
    case 0:
        pnx__pool_core_resize(&w.core, low + (uint32_t)dice(SLOTS - low + 1), &w.effects);
        break;
    case 1:
        evict_some();
        break;
    case 2:
        if (dice(3) == 0)
            pnx__pool_core_set_quota(&w.core, (uint32_t)dice(w.core.max + 1), &w.effects);
        break;
    case 3:
        pnx__pool_core_set_quota(&w.core, w.core.max, &w.effects);
        break;
    case 4:
        if (w.core.closing)
            break;
        w.resets++;
        pnx__pool_core_reset(
                &w.core, (uint32_t)dice(8) & ~(uint32_t)PNX_POOL_RESET_INTERRUPT, &w.effects);
        break;
    case 5:
        if (w.core.closing || dice(4))
            break;
        w.paused = true;
        w.pauses++;
        pnx__pool_core_pause(&w.core);
        break;
    case 6:
    case 7:
        w.paused = false;
        pnx__pool_core_resume(&w.core, &w.effects);
        break;
    case 8:
        examine();
        break;
    case 9:
        if (dice(2))
            adopt();
        else
            pnx__pool_core_warm(&w.core, (uint32_t)dice(w.core.max + 1), &w.effects);
        break;
    case 10:
        fork_step();
        break;
    default:
        interrupt();
    }
}

/* ---- lives ---- */

static pnx_ns span(pnx_ns most) {
    return dice(6) == 0 ? PNX_NEVER : 1 + (pnx_ns)dice((uint64_t)most);
}

static void be_born(uint64_t seed, uint64_t life) {
    memset(&w.core, 0, sizeof(w.core));
    memset(w.slots, 0, sizeof(w.slots));
    memset(w.clients, 0, sizeof(w.clients));
    w.queued = 0;
    w.n_jobs = 0;
    w.n_resources = 1;
    w.joined = 0;
    w.epoch = 0;
    w.paused = w.failed = w.calm = false;
    /* Scrambled: the generator's own step, times life, would make each life the one before, one draw later. */
    uint64_t mix = seed;
    mix = test_random(&mix) + life;
    w.random = test_random(&mix);
    w.life = life;
    w.step = 0;
    w.could_work = true; /* at birth, create looks */
    w.now = 1 + (pnx_ns)dice((uint64_t)PNX_SEC);
    w.workers = 1 + (uint32_t)dice(6);
    uint32_t max = 1 + (uint32_t)dice(dice(2) ? 3 : SLOTS);
    struct pnx__pool_config config = {
            .connect_timeout = span(PNX_SEC),
            .check_timeout = span(PNX_SEC),
            .close_timeout = span(PNX_SEC),
            .check_after = dice(5) == 0 ? 0 : span(PNX_SEC),
            .full_check_after = dice(2) ? 0 : span(4 * PNX_SEC),
            .keepalive = dice(2) ? PNX_NEVER : span(10 * PNX_SEC),
            .idle = span(20 * PNX_SEC),
            .lifetime = span(40 * PNX_SEC),
            .backoff = 1 + (pnx_ns)dice((uint64_t)(50 * PNX_MS)),
            .backoff_max = 50 * PNX_MS + (pnx_ns)dice((uint64_t)PNX_SEC),
            .held_too_long = PNX_NEVER,
            .ageing = span(PNX_SEC),
            .barge = dice(4) ? 0 : 1 + (pnx_ns)dice((uint64_t)(100 * PNX_MS)),
            .codel_target = dice(3) ? PNX_NEVER : 1 + (pnx_ns)dice((uint64_t)(50 * PNX_MS)),
            .codel_interval = 1 + (pnx_ns)dice((uint64_t)(100 * PNX_MS)),
            .grace = dice(2) ? PNX__POOL_GRACE : 0,
            .min_idle = dice(2) ? 0 : (uint32_t)dice(max + 1),
            .max_waiters = dice(3) ? UINT32_MAX : 1 + (uint32_t)dice(4),
            .max_connecting = 1 + (uint32_t)dice(4),
            .max_checking = 1 + (uint32_t)dice(3),
            .breaker_failures = dice(3) ? 1 + (uint32_t)dice(6) : UINT32_MAX,
            .round_robin = dice(6) == 0,
    };
    pnx__pool_core_init(&w.core, &config, max, test_random(&w.random), w.now);
    w.core.traced = true;
    pnx__pool_core_add_slots(&w.core, NULL, w.slots, SLOTS);
}

static void one_step(void) {
    uint64_t what = dice(100);
    w.step++;
    if (what < 50)
        client_step();
    else if (what < 67)
        worker_step();
    else if (what < 85)
        server_step();
    else if (what < 99)
        time_step();
    else
        operator_step();
    collect();
    check_all();
}

/* Jobs that would never end are given up by the server, late, but at last; the operator sets all right. */
static void calm_down(void) {
    w.calm = true;
    for (int i = 0; i < w.n_jobs; i++) {
        if (w.jobs[i].verdict == NEVER_ENDS)
            w.jobs[i].verdict = FAILS;
        w.jobs[i].ends_at = w.now;
    }
    for (int i = 0; i < SLOTS; i++)
        w.slots[i].flags &= ~(uint32_t)PNX__POOL_INTERRUPTED;
    effects_clear();
    pnx__pool_core_set_quota(&w.core, w.core.max, &w.effects);
    if (w.paused) {
        w.paused = false;
        pnx__pool_core_resume(&w.core, &w.effects);
    }
    w.effects.work = true;
    collect();
}

static void calm_step(void) {
    w.step++;
    for (int i = 0; i < CLIENTS; i++) {
        if (w.clients[i].doing == HOLDING) {
            spend_and_return(i, true, false);
            collect();
        } else if (w.clients[i].doing == WAITING) {
            wait_on(i);
            collect();
        }
    }
    worker_step();
    collect();
    for (int i = w.n_jobs; i-- > 0;) {
        if (w.jobs[i].ends_at <= w.now) {
            end_job(i);
            collect();
        }
    }
    w.now += PNX_MS * (pnx_ns)(1 + dice(20));
    check_all();
}

static void live(uint64_t seed, uint64_t life, uint64_t steps) {
    be_born(seed, life);
    uint64_t closes_at = dice(4) == 0 ? dice(steps) : steps;
    while (w.step < closes_at)
        one_step();
    if (closes_at == steps) {
        /* P8: in the calm everybody who waits is served, in a bounded time. */
        calm_down();
        for (int i = 0; w.queued > 0; i++) {
            HOLDS(i < 4000, "P8: somebody waits for ever");
            calm_step();
        }
    }
    effects_clear();
    pnx__pool_core_close(&w.core, &w.effects);
    w.paused = false;
    collect();
    HOLDS(w.queued == 0, "a waiter in a closed pool");
    while (w.step < steps) /* traffic goes on: nobody gets anything */
        one_step();
    calm_down();
    for (int i = 0; w.core.size > 0; i++) {
        HOLDS(i < 4000, "a closed pool does not become empty");
        calm_step();
    }
    for (uint32_t i = 1; i < w.n_resources; i++)
        HOLDS(w.resources[i].life == DEAD || w.resources[i].life == GIVEN_AWAY,
                "P4: a resource was never closed");
}

TEST_LIMIT(a_million_random_steps_keep_every_invariant, 120) {
    uint64_t seed = test_seed();
    const char *only = getenv("PNX_SIM_LIFE"); /* replays one life of a failing run */
    uint64_t lives = test_long() ? 40000 : test_slow() ? 900 : 9000;
    const uint64_t steps = 1200;
    if (only) {
        live(seed, strtoull(only, NULL, 0), steps);
        return;
    }
    for (uint64_t life = 0; life < lives; life++)
        live(seed, life, steps);
#define SAY(what) printf("  %llu " #what "\n", (unsigned long long)w.what)
    printf("  %llu steps\n", (unsigned long long)(lives * steps));
    SAY(grants), SAY(claims), SAY(brings), SAY(connects), SAY(failures), SAY(checks), SAY(peeks);
    SAY(overdue), SAY(refused), SAY(timeouts), SAY(shed), SAY(opened), SAY(idles), SAY(resets);
    SAY(pauses), SAY(evicted), SAY(adopted), SAY(detached), SAY(hooks), SAY(pokes), SAY(aged);
    SAY(forks);
    /* A simulator in which nothing happens finds nothing. */
    CHECK(w.grants > lives * 20 && w.connects > lives && w.failures > lives / 10);
    CHECK(w.claims > lives && w.brings > lives / 10 && w.timeouts > lives / 10 &&
            w.shed > lives / 100);
    CHECK(w.checks > lives / 10 && w.overdue > 0 && w.refused > 0 && w.idles > 0 && w.peeks > 0);
    CHECK(w.opened > lives / 200 && w.resets > lives / 20 && w.pauses > lives / 50 &&
            (w.evicted > 0 || test_slow()));
    CHECK(w.adopted > 0 && w.detached > 0 && w.hooks > 0 && w.pokes > 0 && w.aged > 0 &&
            w.forks > 0);
}
