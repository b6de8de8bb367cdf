/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/reclaim_run.c - retiring, running callbacks, waiting.
 *
 * Callbacks are run by whoever frees, a few threads at once: each thread that retires so much runs four times as much, so
 * that no backlog builds up however many there are.  Runners take nodes off ready in order, which numbers them; a
 * barrier waits until so many have been taken, and every runner is past that number.
 * Nothing here holds the lock while it calls out or sleeps.
 */
#include "os/clock.h"
#include "os/futex.h"
#include "os/thread.h"
#include "share/check.h"
#include "share/reclaim.h"
#include "share/wait.h"

#include <errno.h>

#define CHUNK       64u    /* callbacks run between two looks at the lock */
#define LOOK_NS     PNX_MS /* a sleeper looks that often where nobody is sure to wake it */
#define TICK_NS     (10 * PNX_MS)
#define ROUND_NS    100 /* a round of a retire over the limits takes longer */
#define LIMIT_CHECK 64u /* retires of a thread between two looks at the limits */

/* ---- retiring ---- */

static void push(struct pnx_aptr *stack, struct pnx_reclaim_node *node) {
    void *head = pnx_load(stack, PNX_RELAXED, "reclaim.top"); /* only compared and stored */
    do
        node->next = head;
    while (!pnx_cas(stack, &head, node, PNX_RELEASE, "reclaim.push")); /* pairs with reclaim.take */
}

static bool over_limits(const struct pnx_reclaim *domain) {
    uint64_t objects, bytes;
    /* Relaxed: as pnx__reclaim_sum(). */
    uint64_t run = pnx_load(&domain->run, PNX_RELAXED, "reclaim.limit_run");
    uint64_t run_bytes = pnx_load(&domain->run_bytes, PNX_RELAXED, "reclaim.limit_run_bytes");
    pnx__reclaim_sum(domain, &objects, &bytes);
    return (objects > run && objects - run > domain->opts.max_pending_objects) ||
           (bytes > run_bytes && bytes - run_bytes > domain->opts.max_pending_bytes);
}

/*
 * Helps the grace period along, for a while: with readers that are merely slow, the writer goes at their pace.
 * Ends as soon as nothing is in flight, for then it is callbacks that are wanting, which may not run here.
 */
static void throttle(struct pnx_reclaim *domain) {
    if (pnx_reclaim_in_section(domain) || !over_limits(domain))
        return;
    /* Relaxed: a statistic. */
    pnx_fetch_add(&domain->values.throttled, 1, PNX_RELAXED, "reclaim.throttled");
    pnx_ns end = pnx__deadline(pnx__now(&domain->env), domain->opts.assist_ns);
    pnx_ns rounds = domain->opts.assist_ns / ROUND_NS; /* for a clock that stands still */
    bool waits;
    do {
        struct pnx_reclaim_effects effects = {0};
        waits = true;
        if (pnx__mutex_trylock(&domain->lock)) {
            pnx__reclaim_step(domain, PNX_BEGIN_IF_RETIRED, &effects);
            waits = !domain->broken && domain->begun != domain->ended;
            pnx__mutex_unlock(&domain->lock);
        }
        pnx__reclaim_effects(domain, &effects); /* a futex only: nothing else was asked for */
        for (int i = 0; waits && i < 32; i++)
            pnx__spin_hint();
    } while (waits && rounds-- > 0 && pnx__now(&domain->env) < end);
}

void pnx_reclaim_retire(struct pnx_reclaim *handle, struct pnx_reclaim_node *node,
        pnx_reclaim_fn *fn, size_t bytes) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    PNX_DEBUG_CHECK(node && fn);
    if (!node || !fn) {
        pnx__reclaim_misused(domain, -EINVAL, NULL);
        return;
    }
    node->fn = fn;
    node->bytes = bytes;
    struct pnx_reclaim_section *section = pnx__reclaim_join(domain);
    if (!section) {
        /* Relaxed: statistics. */
        pnx_fetch_add(&domain->guest_objects, 1, PNX_RELAXED, "reclaim.guest_objects");
        pnx_fetch_add(&domain->guest_bytes, bytes, PNX_RELAXED, "reclaim.guest_bytes");
        push(&domain->guest_nodes, node);
        return;
    }
    pnx_owner_add(&section->objects, 1);
    pnx_owner_add(&section->bytes, bytes);
    uint64_t before = section->due_bytes / PNX_RECLAIM_DUE_BYTES;
    section->due_objects += section->due_objects != UINT32_MAX;
    section->due_bytes += bytes;
    push(&section->retired, node);
    if (section->due_objects % LIMIT_CHECK == 0 ||
            section->due_bytes / PNX_RECLAIM_DUE_BYTES != before)
        throttle(domain);
}

/* ---- running ---- */

void pnx__reclaim_effects(struct pnx_reclaim *domain, const struct pnx_reclaim_effects *effects) {
    if (effects->wake) {
        /* Release: pairs with reclaim.sleep. */
        pnx_fetch_add(&domain->changed, 1, PNX_RELEASE, "reclaim.wake_all");
        pnx__futex_wake(&domain->changed, UINT32_MAX);
    }
    if (effects->broke)
        pnx__event(&domain->block, PNX_EVENT_RECLAIM_BROKEN, domain->name, domain->code,
                "membarrier", (int64_t)effects->stall.pending_objects, 0);
    if (!effects->stalled)
        return;
    pnx__mutex_assert_none_held();
    struct pnx_thread *self = pnx__thread();
    if (self)
        self->reclaim_calls++; /* who hears of a stall and waits would hear of it again inside */
    pnx__event(&domain->block, PNX_EVENT_RECLAIM_STALLED, domain->name, 0, effects->stall.site,
            effects->stall.age, 0);
    if (domain->opts.on_stall)
        domain->opts.on_stall(domain->opts.ctx, &effects->stall);
    if (self)
        self->reclaim_calls--;
}

/* Notes what is to be told, where telling is allowed. */
static void look(struct pnx_reclaim *domain, pnx_ns now, struct pnx_reclaim_effects *effects) {
    pnx__reclaim_look_for_stall(domain, now, effects);
    if (!domain->untold)
        return;
    domain->untold = false;
    pnx__reclaim_gauges(domain);
    effects->broke = true;
    effects->stall.pending_objects =
            pnx_load(&domain->values.pending, PNX_RELAXED, "reclaim.told"); /* our lock */
}

/* ---- runners ---- */

/* A place for one more runner: best one whose thread has left work there. */
static struct pnx_reclaim_runner *find_place_locked(struct pnx_reclaim *domain) {
    struct pnx_reclaim_runner *place = NULL;
    for (int i = 0; i < PNX_RECLAIM_RUNNERS; i++) {
        struct pnx_reclaim_runner *runner = &domain->runner[i];
        if (!runner->thread && (!place || runner->chunk))
            place = runner;
    }
    return place;
}

uint64_t pnx__reclaim_ready(const struct pnx_reclaim *domain) {
    uint64_t n = domain->ready.n;
    for (int i = 0; i < PNX_RECLAIM_RUNNERS; i++)
        n += domain->runner[i].thread ? 0 : domain->runner[i].n;
    return n;
}

bool pnx__reclaim_runs(const struct pnx_reclaim *domain) {
    bool runs = false;
    for (int i = 0; i < PNX_RECLAIM_RUNNERS; i++)
        runs |= domain->runner[i].thread != NULL;
    return runs;
}

/* Whether the callbacks of the nodes below the number have all returned. */
static bool has_run_locked(const struct pnx_reclaim *domain, uint64_t number) {
    bool has = domain->taken >= number;
    for (int i = 0; has && i < PNX_RECLAIM_RUNNERS; i++) {
        const struct pnx_reclaim_runner *runner = &domain->runner[i];
        /* Acquire: pairs with reclaim.ran; what the callbacks did comes before a barrier's return. */
        has = runner->n == 0 || pnx_load(&runner->at, PNX_ACQUIRE, "reclaim.barrier") >= number;
    }
    return has;
}

/* Takes over what a runner has left behind; those nodes come before all that is ready. */
static bool take_over_locked(struct pnx_reclaim *domain, struct pnx_reclaim_runner *runner) {
    for (int i = 0; i < PNX_RECLAIM_RUNNERS; i++) {
        struct pnx_reclaim_runner *other = &domain->runner[i];
        if (other->thread || !other->chunk)
            continue;
        runner->chunk = other->chunk;
        runner->n = other->n;
        uint64_t at = pnx_load(&other->at, PNX_RELAXED, "reclaim.left_at"); /* the lock */
        pnx_store(&runner->at, at, PNX_RELAXED, "reclaim.takes_over");      /* likewise */
        other->chunk = NULL;
        other->n = 0;
        return true;
    }
    return false;
}

/* Moves nodes from ready to the runner's chunk. */
static void take_chunk_locked(struct pnx_reclaim *domain, struct pnx_reclaim_runner *runner) {
    struct pnx_reclaim_queue *ready = &domain->ready;
    if (take_over_locked(domain, runner))
        return;
    struct pnx_reclaim_node *last = ready->first;
    uint64_t n = 1;
    for (; n < CHUNK && n < ready->n; n++)
        last = last->next;
    runner->chunk = ready->first;
    runner->n = n;
    /* Relaxed: the lock. */
    pnx_store(&runner->at, domain->taken, PNX_RELAXED, "reclaim.takes");
    domain->taken += n;
    ready->first = last->next;
    ready->n -= n;
    if (!ready->n)
        *ready = (struct pnx_reclaim_queue){0};
    last->next = NULL;
}

/* A turn as a runner, on its stack, so that it ends also when a callback ends its thread. */
struct turn {
    struct pnx_reclaim *domain;
    struct pnx_reclaim_runner *runner;
    struct pnx_thread *self;
    uint64_t begun; /* callbacks of the chunk */
    uint64_t bytes; /* that they freed, as far as retire was told */
    pnx_ns until;   /* begins none after that; PNX_NEVER */
    bool late;      /* and that time has come */
    bool inside;    /* one of them has not returned */
};

static void run_chunk(struct turn *turn) {
    struct pnx_reclaim_runner *runner = turn->runner;
    uint64_t at = pnx_load(&runner->at, PNX_RELAXED, "reclaim.at"); /* ours */
    turn->inside = true;
    for (struct pnx_reclaim_node *node; !turn->late && (node = runner->chunk) != NULL;) {
        runner->chunk = node->next;
        turn->bytes += node->bytes;
        turn->begun++;
        node->fn(node);
        pnx_store(&runner->at, ++at, PNX_RELEASE, "reclaim.ran"); /* pairs with reclaim.barrier */
        turn->late = turn->until != PNX_NEVER && pnx__now(&turn->domain->env) >= turn->until;
    }
    turn->inside = false;
}

/* What was begun has run, even the one that ended its thread. */
static void end_chunk_locked(struct turn *turn) {
    struct pnx_reclaim *domain = turn->domain;
    /* Relaxed: the lock; read elsewhere as a hint. */
    uint64_t run = pnx_load(&domain->run, PNX_RELAXED, "reclaim.run");
    uint64_t run_bytes = pnx_load(&domain->run_bytes, PNX_RELAXED, "reclaim.run_bytes");
    pnx_store(&domain->run, run + turn->begun, PNX_RELAXED, "reclaim.runs");
    pnx_store(&domain->run_bytes, run_bytes + turn->bytes, PNX_RELAXED, "reclaim.runs_bytes");
    turn->runner->n -= turn->begun;
    turn->begun = turn->bytes = 0;
}

static void end_turn(struct turn *turn) {
    struct pnx_reclaim *domain = turn->domain;
    struct pnx_reclaim_effects effects = {0};
    pnx__mutex_lock(&domain->lock);
    if (turn->inside) {
        uint64_t at = pnx_load(&turn->runner->at, PNX_RELAXED, "reclaim.cut_at"); /* ours */
        /* Release: as reclaim.ran. */
        pnx_store(&turn->runner->at, at + 1, PNX_RELEASE, "reclaim.cut");
        end_chunk_locked(turn);
    }
    if (turn->self)
        turn->self->reclaim_calls--;
    turn->runner->thread = NULL;
    effects.wake = domain->sleepers != 0;
    pnx__mutex_unlock(&domain->lock);
    pnx__reclaim_effects(domain, &effects);
}

bool pnx__reclaim_may_run(void) {
    const struct pnx_thread *self = pnx__thread();
    return !pnx__reclaim_in_any() && !(self && (self->reclaim_calls || self->latches));
}

static void run_until(struct pnx_reclaim *domain, uint64_t max, bool anywhere, pnx_ns until) {
    struct pnx_thread *self = pnx__thread();
    if (!anywhere && !pnx__reclaim_may_run())
        return;
    pnx__mutex_assert_none_held();
    pnx__mutex_lock(&domain->lock);
    struct pnx_reclaim_runner *runner =
            pnx__reclaim_ready(domain) ? find_place_locked(domain) : NULL;
    if (!runner) {
        pnx__mutex_unlock(&domain->lock);
        return;
    }
    runner->thread = self ? (const void *)self : domain;
    if (self)
        self->reclaim_calls++;
    PNX_CLEANUP(end_turn)
    struct turn turn = {.domain = domain, .runner = runner, .self = self, .until = until};
    for (uint64_t n = 0; n < max && !turn.late && pnx__reclaim_ready(domain) + runner->n;) {
        if (!runner->chunk)
            take_chunk_locked(domain, runner);
        pnx__mutex_unlock(&domain->lock);
        run_chunk(&turn);
        pnx__mutex_lock(&domain->lock);
        n += turn.begun;
        end_chunk_locked(&turn);
    }
    pnx__mutex_unlock(&domain->lock);
}

void pnx__reclaim_run(struct pnx_reclaim *domain, uint64_t max, bool anywhere) {
    run_until(domain, max, anywhere, PNX_NEVER);
}

void pnx__reclaim_assist_due(struct pnx_reclaim *handle) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    struct pnx_reclaim_section *section = pnx__reclaim_join(domain);
    if (!pnx__reclaim_may_run())
        return;
    /* Relaxed: a matter of costs only. */
    if (section && section->due_bytes < PNX_RECLAIM_DUE_BYTES &&
            section->due_objects < pnx_load(&domain->batch, PNX_RELAXED, "reclaim.batch"))
        return;
    uint64_t due = PNX_RECLAIM_DUE_OBJECTS;
    if (section) {
        due = section->due_objects > due ? section->due_objects : due;
        section->due_objects = 0;
        section->due_bytes = 0;
    }
    bool runs = !(domain->opts.flags & PNX_RECLAIM_NO_ASSIST);
    struct pnx_reclaim_effects effects = {0};
    if (!pnx__mutex_trylock(&domain->lock))
        return; /* somebody is at it */
    pnx__reclaim_step(domain, PNX_BEGIN_IF_RETIRED, &effects);
    if (runs && (domain->untold || domain->begun != domain->ended))
        look(domain, domain->env.now_coarse(domain->env.ctx), &effects);
    pnx__mutex_unlock(&domain->lock);
    pnx__reclaim_effects(domain, &effects);
    if (runs)
        pnx__reclaim_run(domain, 4 * due, false); /* more than came in: no backlog builds up */
}

pnx_ns pnx_reclaim_tick(struct pnx_reclaim *handle, pnx_ns now) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    struct pnx_reclaim_effects effects = {0};
    struct pnx_thread *self = pnx__thread();
    if (self && self->reclaim_calls)
        return pnx__deadline(now, TICK_NS);
    pnx__mutex_lock(&domain->lock);
    pnx__reclaim_step(domain, PNX_BEGIN_IF_RETIRED, &effects);
    look(domain, now, &effects);
    uint64_t ready = pnx__reclaim_ready(domain);
    pnx__mutex_unlock(&domain->lock);
    pnx__reclaim_effects(domain, &effects);
    if (ready)
        pnx__reclaim_run(domain, ready, false);
    pnx__mutex_lock(&domain->lock);
    pnx__reclaim_gauges(domain);
    bool pending = pnx_load(&domain->values.pending, PNX_RELAXED, "reclaim.tick") != 0; /* lock */
    pnx__mutex_unlock(&domain->lock);
    return pending ? pnx__deadline(now, TICK_NS) : PNX_NEVER;
}

/* ---- waiting ---- */

#define TRIES_ONCE INT64_MIN

/* What a caller waits for: the end of a grace period that began after the call, and perhaps callbacks. */
struct wait {
    uint64_t need;   /* that grace period */
    bool callbacks;  /* a barrier */
    bool has_target; /* the grace period has begun */
    uint64_t target; /* nodes collected by then */
    pnx_ns deadline; /* TRIES_ONCE: runs what is ready, and sleeps never */
};

static bool is_over(const struct pnx_reclaim *domain, const struct wait *wait) {
    return domain->ended >= wait->need &&
           (!wait->callbacks || has_run_locked(domain, wait->target));
}

static void advance(
        struct pnx_reclaim *domain, struct wait *wait, struct pnx_reclaim_effects *effects) {
    uint64_t ended;
    do {
        ended = domain->ended;
        pnx__reclaim_step(
                domain, domain->begun < wait->need ? PNX_BEGIN_ALWAYS : PNX_BEGIN_NONE, effects);
    } while (domain->ended != ended && domain->ended < wait->need);
    if (!wait->has_target && domain->begun >= wait->need) {
        wait->has_target = true;
        wait->target = domain->collected;
    }
}

static void sleep_unlocked(struct pnx_reclaim *domain, const struct wait *wait, uint32_t seen) {
    pnx_ns until = wait->deadline;
    bool in_flight = domain->begun != domain->ended;
    if (in_flight && domain->stall < until)
        until = domain->stall;
    bool runs = wait->callbacks && pnx__reclaim_runs(domain); /* perhaps past what we wait for */
    if (runs || (in_flight && (domain->fenced || domain->guests_awaited))) {
        pnx_ns next_look = pnx__deadline(pnx__now(&domain->env), LOOK_NS);
        until = next_look < until ? next_look : until;
    }
    domain->sleepers++;
    pnx_owner_add(&domain->values.waits, 1);
    pnx__mutex_unlock(&domain->lock);
    (void)pnx__wait(&domain->changed, seen, &domain->env, until);
    pnx__mutex_lock(&domain->lock);
    domain->sleepers--;
}

/* One round: 0 when over, 1 to go on, or an error.  Called and left with the lock held. */
static int wait_round(struct pnx_reclaim *domain, struct wait *wait) {
    struct pnx_reclaim_effects effects = {0};
    /* Acquire: pairs with reclaim.wake and reclaim.wake_all; what they tell of is seen below. */
    uint32_t seen = pnx_load(&domain->changed, PNX_ACQUIRE, "reclaim.sleep");
    advance(domain, wait, &effects);
    if (is_over(domain, wait) || domain->broken) {
        bool broken = !is_over(domain, wait);
        look(domain, INT64_MIN, &effects);
        pnx__mutex_unlock(&domain->lock);
        pnx__reclaim_effects(domain, &effects);
        pnx__mutex_lock(&domain->lock);
        return broken ? PNX_E_BROKEN : 0;
    }
    pnx_ns now = pnx__now(&domain->env);
    look(domain, now, &effects);
    uint64_t ready = wait->callbacks ? pnx__reclaim_ready(domain) : 0;
    bool late = now >= wait->deadline;
    bool runs = ready && find_place_locked(domain) && (!late || wait->deadline == TRIES_ONCE);
    if (runs || effects.wake || effects.broke || effects.stalled) {
        pnx__mutex_unlock(&domain->lock);
        pnx__reclaim_effects(domain, &effects);
        if (runs && wait->deadline == TRIES_ONCE)
            pnx__reclaim_run(domain, ready, false);
        else if (runs)
            run_until(domain, CHUNK, false, wait->deadline);
        pnx__mutex_lock(&domain->lock);
        if (!late || is_over(domain, wait))
            return 1;
    }
    if (late)
        return -ETIMEDOUT;
    bool waits = domain->begun == domain->ended || pnx__reclaim_await(domain, &effects);
    if (waits && !effects.wake)
        sleep_unlocked(domain, wait, seen);
    else if (effects.wake) {
        pnx__mutex_unlock(&domain->lock);
        pnx__reclaim_effects(domain, &effects);
        pnx__mutex_lock(&domain->lock);
    }
    return 1;
}

static int wait_for(struct pnx_reclaim *handle, pnx_ns timeout, bool callbacks) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(handle);
    int rc = pnx__timeout(timeout, PNX_NEVER, NULL, &timeout);
    if (rc)
        return rc;
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return -ENOMEM;
    if (self->reclaim_calls || pnx__reclaim_in_any() || (callbacks && self->latches))
        return -EDEADLK;
    pnx__mutex_assert_none_held();
    struct wait wait = {.callbacks = callbacks, .deadline = TRIES_ONCE};
    if (timeout)
        wait.deadline = pnx__deadline(pnx__now(&domain->env), timeout);
    pnx__mutex_lock(&domain->lock);
    wait.need = domain->begun + 1;
    do
        rc = wait_round(domain, &wait);
    while (rc == 1);
    pnx__mutex_unlock(&domain->lock);
    return rc;
}

int pnx_reclaim_synchronize(struct pnx_reclaim *domain, pnx_ns timeout) {
    return wait_for(domain, timeout, false);
}

int pnx_reclaim_barrier(struct pnx_reclaim *domain, pnx_ns timeout) {
    return wait_for(domain, timeout, true);
}
