/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulator: drives the pure core (pool/pool_core.h) through random lives, in one thread and in virtual time,
 * beside a small model, and checks everything after every step.
 *
 * One life: a random configuration, some thousands of random steps by clients who come, leave, return and
 * discard, by a server that connects, refuses, is late or never answers, by workers who take their time, and by
 * an operator who resizes and evicts; then a calm, in which everybody who waits must be served; then a close, in
 * which everything must be closed exactly once.  SEED=n replays a run; a failure names the life and the step.
 */
#include "harness/harness.h"
#include "pool/pool_core.h"

#define SLOTS     24
#define CLIENTS   16
#define RESOURCES 4096

enum life { UNBORN, ALIVE, DEAD };

/* The model's view of a resource; index 0 is unused, so that a resource is a non-NULL pointer. */
struct model_resource {
    enum life life;
    int holder; /* client, or -1 */
    pnx_ns born_at;
    pnx_ns last_use; /* true end of its last use, check or birth */
    pnx_ns seen_use; /* the same as far as the core was told */
};

enum doing { AWAY, WAITING, HOLDING };

struct client {
    enum doing doing;
    struct pnx__pool_waiter waiter;
    struct pnx_slot *slot;
    uint64_t generation;
    uint64_t stale;              /* a generation that was released before */
    struct pnx_slot *stale_slot; /* NULL: none */
};

enum verdict { SUCCEEDS, FAILS, NEVER_ENDS };

struct job {
    struct pnx_slot *slot;
    pnx_ns ends_at;
    enum verdict verdict;
};

static struct world {
    struct pnx__pool_core core;
    struct pnx_slot slots[SLOTS];
    struct client clients[CLIENTS];
    int queue[CLIENTS]; /* the model's waiters, in order */
    int queued;
    struct job jobs[SLOTS];
    int n_jobs;
    struct model_resource resources[RESOURCES];
    uint32_t n_resources;
    uint32_t workers; /* how many jobs run at once at most */
    bool failed;      /* no connect has succeeded since the last failure */
    uint64_t last_grants;
    pnx_ns now;
    uint64_t random;
    uint64_t life, step;
    bool calm;
    struct pnx__pool_effects effects;
    bool could_work; /* a job could run before the event whose effects these are */
    uint64_t grants, inversions_possible, checks, connects, failures, overdue, refused, idles;
} w;

#define HOLDS(condition, what) \
    CHECK_MSG((condition), "life %llu, step %llu: %s", (unsigned long long)w.life, \
            (unsigned long long)w.step, (what))

static uint64_t dice(uint64_t sides) {
    return test_random(&w.random) % sides;
}

/* Stands before each event; collect() after it. */
static void effects_clear(void) {
    w.could_work = pnx__pool_core_runnable(&w.core, false, w.now);
    w.effects.wakes = 0;
    w.effects.work = w.effects.timer = w.effects.ended = false;
}

static struct model_resource *resource_of(const struct pnx_slot *slot) {
    size_t index = (size_t)(uintptr_t)slot->resource.v;
    HOLDS(index > 0 && index < w.n_resources, "a slot in use has no resource");
    return &w.resources[index];
}

static void queue_remove(int at) {
    for (int i = at + 1; i < w.queued; i++)
        w.queue[i - 1] = w.queue[i];
    w.queued--;
}

/* A client got a resource, at once or from the queue. */
static void check_grant(int id, bool from_queue) {
    struct client *client = &w.clients[id];
    struct model_resource *resource = resource_of(client->slot);
    HOLDS(resource->life == ALIVE, "a closed resource was granted");
    HOLDS(resource->holder == -1, "a resource was granted to two holders");
    pnx_ns check_after = w.core.config.check_after;
    if (!from_queue && check_after != PNX_NEVER)
        HOLDS(w.now - resource->last_use < check_after, "a stale resource was granted unchecked");
    if (w.core.config.lifetime != PNX_NEVER)
        HOLDS(w.core.now - resource->born_at < w.core.config.lifetime,
                "granted beyond its lifetime");
    resource->holder = id;
    client->doing = HOLDING;
    w.grants++;
}

/* Sees which waiters have an outcome after an event: at most one grant, and that to the model's head. */
static void collect(void) {
    int granted = 0;
    /* The shell looks for somebody to run a job only when it is told. */
    HOLDS(w.could_work || w.effects.work || !pnx__pool_core_runnable(&w.core, false, w.now),
            "D1: a job can run, and nobody is told");
    w.could_work = true; /* until the next event: time alone tells nobody, its tick does */
    for (int at = 0; at < w.queued;) {
        int id = w.queue[at];
        struct client *client = &w.clients[id];
        switch (client->waiter.outcome.v) {
        case PNX__POOL_GRANTED:
            HOLDS(at == 0 && granted == 0, "a waiter was overtaken");
            granted++;
            client->slot = client->waiter.slot;
            client->generation = client->waiter.generation;
            queue_remove(at);
            check_grant(id, true);
            break;
        case PNX__POOL_REFUSED:
            HOLDS(w.core.closing, "a waiter was refused by an open pool");
            client->doing = AWAY;
            queue_remove(at);
            w.refused++;
            break;
        default:
            at++;
        }
    }
    HOLDS((uint32_t)w.queued == w.core.waiting, "the model counts other waiters");
}

static void check_all(void) {
    const char *broken = pnx__pool_core_check(&w.core);
    HOLDS(!broken, broken);
    uint32_t held = 0, alive = 0;
    for (int i = 0; i < CLIENTS; i++)
        held += w.clients[i].doing == HOLDING;
    HOLDS(held == w.core.n[PNX__POOL_IN_USE], "the model counts other leases");
    for (uint32_t i = 1; i < w.n_resources; i++)
        alive += w.resources[i].life == ALIVE;
    HOLDS(alive == w.core.size - w.core.n[PNX__POOL_CONNECTING],
            "the model counts other resources");
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

static void spend_and_return(int id, bool keep) {
    struct client *client = &w.clients[id];
    struct pnx_slot *slot = client->slot;
    struct model_resource *resource = resource_of(slot);
    HOLDS(resource->holder == id, "the lease is somebody else's");
    HOLDS(pnx__pool_slot_spend(slot, client->generation), "a valid lease was refused");
    HOLDS(!pnx__pool_slot_spend(slot, client->generation), "a lease was spent twice");
    resource->holder = -1;
    resource->last_use = w.now;
    client->doing = AWAY;
    client->stale = client->generation;
    client->stale_slot = slot;
    effects_clear();
    /* As the shell does: mostly without having looked at the clock. */
    pnx_ns now = dice(4) ? w.core.now : w.now;
    uint32_t living = w.core.size - w.core.n[PNX__POOL_CLOSING];
    resource->seen_use = now > w.core.now ? now : w.core.now;
    pnx__pool_core_returned(&w.core, slot, keep,
            dice(2) ? PNX__POOL_BECAUSE_DISCARDED : PNX__POOL_BECAUSE_RESET, now, &w.effects);
    HOLDS(living <= w.core.max || pnx__pool_slot_state(slot) == PNX__POOL_CLOSING,
            "P1: one too many came home, and was kept");
    if (keep && pnx__pool_slot_state(slot) == PNX__POOL_CLOSING)
        HOLDS(slot->reason != PNX__POOL_BECAUSE_RESIZE || living > w.core.max,
                "closed as one too many, but it was not");
}

static void arrive(int id) {
    struct client *client = &w.clients[id];
    effects_clear();
    client->slot = pnx__pool_core_take(&w.core, w.now, &w.effects, &client->generation);
    if (client->slot) {
        HOLDS(w.queued == 0, "P2: an arriving caller overtook a waiter");
        check_grant(id, false);
        return;
    }
    if (dice(8) == 0) {
        pnx__pool_core_wish(&w.core, &w.effects);
        return;
    }
    int rc = pnx__pool_core_enqueue(&w.core, &client->waiter, &w.effects);
    if (rc == -EBUSY) {
        HOLDS((uint32_t)w.queued >= w.core.config.max_waiters, "refused with room in the queue");
        return;
    }
    if (rc == -ESHUTDOWN) {
        HOLDS(w.core.closing, "refused by an open pool");
        return;
    }
    client->doing = WAITING;
    w.queue[w.queued++] = id;
}

static void client_step(void) {
    int id = (int)dice(CLIENTS);
    struct client *client = &w.clients[id];
    switch (client->doing) {
    case AWAY:
        if (client->stale_slot && dice(16) == 0)
            HOLDS(!pnx__pool_slot_spend(client->stale_slot, client->stale),
                    "P9: a stale lease was accepted");
        arrive(id);
        break;
    case HOLDING:
        spend_and_return(id, dice(10) != 0);
        break;
    case WAITING:
        if (dice(6))
            break;
        effects_clear();
        HOLDS(pnx__pool_core_cancel(&w.core, &client->waiter, &w.effects), "a waiter was lost");
        for (int i = 0; i < w.queued; i++) {
            if (w.queue[i] == id)
                queue_remove(i);
        }
        client->doing = AWAY;
        break;
    }
}

/* ---- what workers and the server do ---- */

static uint32_t running(enum pnx__pool_job_kind kind) {
    uint32_t n = 0;
    for (int i = 0; i < w.n_jobs; i++)
        n += w.jobs[i].slot->job == kind && !w.jobs[i].slot->overdue;
    return n;
}

static void check_started(struct pnx_slot *slot) {
    if (slot->job == PNX__POOL_CONNECT) {
        w.connects++;
        HOLDS(!w.core.closing, "a connect in a closed pool");
        HOLDS(w.core.size <= w.core.max, "P1: a connect beyond max");
        HOLDS(running(PNX__POOL_CONNECT) <= w.core.config.max_connecting, "P5: too many connects");
        HOLDS(!w.failed || running(PNX__POOL_CONNECT) == 1, "P6: several connects after a failure");
        HOLDS(w.now >= w.core.retry_at, "P6: a connect in the pause");
        return;
    }
    struct model_resource *resource = resource_of(slot);
    HOLDS(resource->life == ALIVE && resource->holder == -1, "a job on a resource in use");
    if (slot->job == PNX__POOL_CHECK) {
        w.checks++;
        HOLDS(running(PNX__POOL_CHECK) <= w.core.config.max_checking, "too many checks");
        HOLDS(w.now - resource->seen_use >= w.core.config.check_after, "a fresh one is checked");
    } else if (slot->reason == PNX__POOL_BECAUSE_IDLE) {
        w.idles++;
        HOLDS(w.now - resource->last_use >= w.core.config.idle, "closed as idle too early");
    }
}

static void worker_step(void) {
    if ((uint32_t)w.n_jobs >= w.workers)
        return;
    bool only_close = dice(8) == 0;
    bool could = pnx__pool_core_runnable(&w.core, only_close, w.now);
    effects_clear();
    struct pnx_slot *slot = pnx__pool_core_next_job(&w.core, only_close, w.now, &w.effects);
    HOLDS(could == (slot != NULL), "runnable() and next_job() differ");
    if (!slot)
        return;
    struct job *job = &w.jobs[w.n_jobs++];
    *job = (struct job){.slot = slot, .ends_at = w.now + (pnx_ns)dice((uint64_t)(20 * PNX_MS))};
    uint64_t luck = dice(100);
    if (!w.calm && luck < 25)
        job->verdict = FAILS;
    if (!w.calm && luck >= 95)
        job->ends_at += (pnx_ns)dice((uint64_t)(3 * PNX_SEC)); /* late: may become overdue */
    if (!w.calm && luck == 99 && slot->job != PNX__POOL_CLOSE)
        job->verdict = NEVER_ENDS;
    check_started(slot);
}

static void end_connect(struct pnx_slot *slot, bool well) {
    bool was_overdue = slot->overdue;
    if (!well) {
        w.failures++;
        if (!was_overdue)
            w.failed = true;
        pnx__pool_core_connect_failed(&w.core, slot, -EIO, "refused", w.now, &w.effects);
        return;
    }
    HOLDS(w.n_resources < RESOURCES, "the simulator's table of resources is full");
    uint32_t index = w.n_resources++;
    w.resources[index] = (struct model_resource){
            .life = ALIVE, .holder = -1, .born_at = w.now, .last_use = w.now, .seen_use = w.now};
    w.failed = false;
    pnx__pool_core_connected(&w.core, slot, (void *)(uintptr_t)index, w.now, &w.effects);
}

static void end_job(int at) {
    struct job job = w.jobs[at];
    w.jobs[at] = w.jobs[--w.n_jobs];
    bool well = job.verdict == SUCCEEDS;
    effects_clear();
    if (job.slot->job == PNX__POOL_CONNECT) {
        end_connect(job.slot, well);
    } else if (job.slot->job == PNX__POOL_CHECK) {
        if (well)
            resource_of(job.slot)->last_use = resource_of(job.slot)->seen_use = w.now;
        pnx__pool_core_checked(&w.core, job.slot, well, w.now, &w.effects);
    } else {
        struct model_resource *resource = resource_of(job.slot);
        HOLDS(resource->life == ALIVE, "P4: closed twice");
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
        w.overdue += w.jobs[i].slot->overdue;
    /* an overdue connect counts as a failure from the tick on that finds it so */
    bool before = w.core.failures > 0;
    if (w.now >= w.core.next_timer) {
        effects_clear();
        pnx__pool_core_tick(&w.core, w.now, &w.effects);
    }
    if (!before && w.core.failures > 0)
        w.failed = true;
}

static void operator_step(void) {
    effects_clear();
    if (dice(2)) {
        uint32_t low = w.core.config.min_idle > 1 ? w.core.config.min_idle : 1;
        pnx__pool_core_resize(&w.core, low + (uint32_t)dice(SLOTS - low + 1), &w.effects);
    } else {
        uint32_t before = w.core.n[PNX__POOL_IDLE];
        uint32_t n = pnx__pool_core_evict(&w.core, (uint32_t)dice(4), &w.effects);
        HOLDS(before - n == w.core.n[PNX__POOL_IDLE], "evict miscounts");
        HOLDS(n == 0 || before - n >= w.core.config.min_idle, "evicted below min_idle");
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
    w.queued = w.n_jobs = 0;
    w.n_resources = 1;
    w.failed = w.calm = false;
    w.random = seed + life * UINT64_C(0x9E3779B97F4A7C15);
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
            .idle = span(20 * PNX_SEC),
            .lifetime = span(40 * PNX_SEC),
            .backoff = 1 + (pnx_ns)dice((uint64_t)(50 * PNX_MS)),
            .backoff_max = 50 * PNX_MS + (pnx_ns)dice((uint64_t)PNX_SEC),
            .min_idle = dice(2) ? 0 : (uint32_t)dice(max + 1),
            .max_waiters = dice(3) ? UINT32_MAX : 1 + (uint32_t)dice(4),
            .max_connecting = 1 + (uint32_t)dice(4),
            .max_checking = 1 + (uint32_t)dice(3),
    };
    pnx__pool_core_init(&w.core, &config, max, test_random(&w.random), w.now);
    pnx__pool_core_add_slots(&w.core, NULL, w.slots, SLOTS);
}

static void one_step(void) {
    uint64_t what = dice(100);
    w.step++;
    if (what < 45)
        client_step();
    else if (what < 65)
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

/* Jobs that would never end are given up by the server: late, but at last. */
static void calm_down(void) {
    w.calm = true;
    for (int i = 0; i < w.n_jobs; i++) {
        if (w.jobs[i].verdict == NEVER_ENDS)
            w.jobs[i].verdict = FAILS;
        w.jobs[i].ends_at = w.now;
    }
}

static void calm_step(bool client_may_return) {
    w.step++;
    for (int i = 0; client_may_return && i < CLIENTS; i++) {
        if (w.clients[i].doing == HOLDING) {
            spend_and_return(i, true);
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
            calm_step(true);
        }
    }
    effects_clear();
    pnx__pool_core_close(&w.core, &w.effects);
    while (pnx__pool_core_refuse(&w.core, &w.effects))
        w.effects.wakes = 0;
    collect();
    HOLDS(w.queued == 0, "a waiter in a closed pool");
    while (w.step < steps) /* traffic goes on: nobody gets anything */
        one_step();
    calm_down();
    for (int i = 0; w.core.size > 0; i++) {
        HOLDS(i < 4000, "a closed pool does not become empty");
        calm_step(true);
    }
    for (uint32_t i = 1; i < w.n_resources; i++)
        HOLDS(w.resources[i].life == DEAD, "P4: a resource was never closed");
}

TEST_LIMIT(a_million_random_steps_keep_every_invariant, 120) {
    uint64_t seed = test_seed();
    const char *only = getenv("PNX_SIM_LIFE"); /* replays one life of a failing run */
    uint64_t lives = test_long() ? 40000 : test_slow() ? 900 : 4000;
    const uint64_t steps = 1200;
    if (only) {
        live(seed, strtoull(only, NULL, 0), steps);
        return;
    }
    for (uint64_t life = 0; life < lives; life++)
        live(seed, life, steps);
    printf("  %llu steps: %llu grants, %llu connects (%llu failed), %llu checks, %llu overdue, "
           "%llu refused, %llu closed as idle\n",
            (unsigned long long)(lives * steps), (unsigned long long)w.grants,
            (unsigned long long)w.connects, (unsigned long long)w.failures,
            (unsigned long long)w.checks, (unsigned long long)w.overdue,
            (unsigned long long)w.refused, (unsigned long long)w.idles);
    /* A simulator in which nothing happens finds nothing. */
    CHECK(w.grants > lives * 20 && w.connects > lives && w.failures > lives / 10);
    CHECK(w.checks > lives / 10 && w.overdue > 0 && w.refused > 0 && w.idles > 0);
}
