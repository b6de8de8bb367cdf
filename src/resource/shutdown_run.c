/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown_run.c - the threads that run cleanups, and the leader that watches them.
 *
 * Cleanups run on worker threads, one at a time: only the active worker starts one.  When its cleanup is overdue
 * the worker is no longer active, and the leader starts another.  A worker that comes back from an overdue cleanup
 * becomes active again if nobody else is, or ends.  The leader itself only watches, so that it can return at
 * the deadline.  It sleeps until something is due, or registry->changed moves:
 *
 *   - a row ends, pends or becomes live again that was not the shutdown's to run (rows.c);
 *   - a worker ends, for then there may be nothing left to do, or something that needs another worker;
 *   - something will be due before the time until which the leader sleeps;
 *   - an executor that the leader's thread drives, as an event loop, has something to run: the leader runs it.
 *
 *   P1  After pnx__shutdown_stop_locked() no cleanup starts.
 *   P2  At most one cleanup of the shutdown runs that is not overdue, at most PNX_SHUTDOWN_WORKERS run in all.
 */
#include "base/env.h"
#include "os/clock.h"
#include "os/futex.h"
#include "os/thread.h"
#include "registry/calls.h"
#include "resource/loops.h"
#include "resource/shutdown.h"

#include <patinox/reclaim.h>

#include <limits.h>

static void tell_leader(struct pnx_registry *registry) {
    /* Relaxed: what it tells of was done under the shutdown's lock, which the leader takes before it looks. */
    pnx_fetch_add(&registry->changed, 1, PNX_RELAXED, "shutdown.tell");
    pnx__futex_wake(&registry->changed, INT_MAX);
}

void pnx__shutdown_stir(struct pnx_registry *registry) {
    if (!pnx__registry_is_closed(registry))
        return;
    pnx_fetch_add(
            &registry->changed, 1, PNX_RELEASE, "shutdown.stir"); /* pairs with shutdown.follow */
    pnx__futex_wake(&registry->changed, INT_MAX);
}

/* ---- workers ---- */

/*
 * When a cleanup that starts now is overdue: its share of the time is the same as that of all that may still come, but it
 * ends where the part of the time begins that rows of PNX_PRIORITY_LAST have, if there are any.
 */
static pnx_ns share_end(const struct pnx_shutdown_state *state,
        const struct pnx_shutdown_member *member, pnx_ns now) {
    if (state->deadline == PNX_NEVER)
        return PNX_NEVER;
    size_t others = state->n_elsewhere;
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++)
        others += state->workers[i].used && state->workers[i].member && state->workers[i].overdue;
    pnx_ns remaining = pnx__remaining(now, state->deadline);
    size_t jobs = state->left > others ? state->left - others : 1;
    pnx_ns share = remaining / (pnx_ns)jobs;
    if (share < PNX_SHUTDOWN_SHARE_MIN)
        share = PNX_SHUTDOWN_SHARE_MIN;
    bool before_last = member->turn == PNX_TURN_ANY && state->n_last > 0 && now < state->last_at;
    if (before_last && state->last_at - now < remaining)
        remaining = state->last_at - now;
    return now + (share < remaining ? share : remaining);
}

/* Claims the row whose turn it is; NULL when there is none now. */
static struct pnx_shutdown_member *pick_locked(
        struct pnx_registry *registry, struct pnx_shutdown_worker *worker) {
    struct pnx_shutdown_state *state = registry->shutdown;
    pnx_ns now = pnx__now(&registry->env);
    if (state->over || now >= state->deadline)
        return NULL; /* when the leader works itself, nobody else looks at the time */
    struct pnx_shutdown_member *member;
    while ((member = pnx__order_take_locked(state, now))) {
        worker->overdue_at = share_end(state, member, now);
        pnx__request_init(&worker->request, &registry->env, worker->overdue_at);
        worker->request.quiet = true;
        worker->request.in_order = true;
        int rc = pnx__row_claim(registry, member->id, &worker->request);
        if (rc == 0) {
            member->state = PNX_MEMBER_RUNNING;
            if (member->tries)
                pnx__registry_count_up(&registry->values.cleanups_retried);
            return member;
        }
        if (rc == -ENOMEM) { /* the thread has no record */
            pnx__order_untake_locked(state, member);
            state->recordless = true;
            return NULL;
        }
        pnx__order_elsewhere_locked(registry, member, now);
    }
    return NULL;
}

static bool wants_barrier_locked(const struct pnx_shutdown_state *state) {
    return state->left == 0 && state->barrier == PNX_BARRIER_WANTED && !state->over;
}

/* Whether a worker would find something to do. */
static bool has_work_locked(const struct pnx_shutdown_state *state, pnx_ns now) {
    return pnx__order_has_turn_locked(state, now) || wants_barrier_locked(state);
}

/* Runs what the rows have retired.  Callbacks are the users': they run where a hanging one can be left behind. */
static void run_barrier_locked(struct pnx_registry *registry, struct pnx_shutdown_worker *worker) {
    struct pnx_shutdown_state *state = registry->shutdown;
    state->barrier = PNX_BARRIER_RUNS;
    worker->in_barrier = true;
    pnx__mutex_unlock(&state->lock);
    pnx_ns left = pnx__remaining(pnx__now(&registry->env), state->deadline);
    int rc = pnx_reclaim_close(NULL, left);
    pnx__mutex_lock(&state->lock);
    worker->in_barrier = false;
    if (state->over)
        return;
    state->barrier = PNX_BARRIER_OVER;
    state->barrier_code = rc;
}

/* Runs the cleanup of the member that the worker has claimed. */
static void run_member_locked(struct pnx_registry *registry, struct pnx_shutdown_worker *worker) {
    struct pnx_shutdown_state *state = registry->shutdown;
    worker->overdue = false;
    bool tell = worker->overdue_at < state->until;
    pnx__mutex_unlock(&state->lock);
    if (tell)
        tell_leader(registry);
    int code = pnx__row_run(&worker->request);
    pnx_ns now = code == -EAGAIN || code == -EINPROGRESS ? pnx__now(&registry->env) : 0;
    pnx__mutex_lock(&state->lock);
    struct pnx_shutdown_member *member = worker->member; /* it may have moved */
    worker->member = NULL;
    if (state->over)
        return;
    if (code == -EINPROGRESS) {
        pnx__order_elsewhere_locked(registry, member, now);
    } else if (code != -EAGAIN) {
        pnx__order_ended_locked(registry, member);
    } else if (pnx__order_again_locked(registry, member, now) < state->until) {
        pnx__mutex_unlock(&state->lock);
        tell_leader(registry);
        pnx__mutex_lock(&state->lock);
    }
}

/* Starts cleanups until there is none to start, or somebody else has become active. */
static void work(struct pnx_registry *registry, struct pnx_shutdown_worker *worker) {
    struct pnx_shutdown_state *state = registry->shutdown;
    pnx__mutex_lock(&state->lock);
    for (;;) {
        if (!state->active)
            state->active = worker;
        if (state->active != worker)
            break;
        worker->member = pick_locked(registry, worker);
        if (worker->member) {
            run_member_locked(registry, worker);
        } else if (wants_barrier_locked(state)) {
            run_barrier_locked(registry, worker);
        } else {
            state->active = NULL;
            break;
        }
    }
    worker->used = false;
    pnx__mutex_unlock(&state->lock);
    tell_leader(registry);
}

static void worker_main(void *arg) {
    struct pnx_shutdown_worker *worker = arg;
    struct pnx_registry *registry = worker->registry;
    struct pnx_row_call call;
    pnx__row_call_enter(&call, registry, pnx__shutdown_call_id());
    work(registry, worker);
    pnx__row_call_leave(&call);
    pnx__registry_unhold(registry);
}

/* ---- the leader ---- */

static bool start_worker(struct pnx_registry *registry, struct pnx_shutdown_worker *worker) {
    pnx__thread_join(&worker->thread); /* an earlier one in this place, which has ended */
    pnx__registry_hold(registry);
    if (pnx__thread_start("pnx-shutdown", worker_main, worker, &worker->thread) == 0)
        return true;
    pnx__registry_unhold(registry);
    return false;
}

/*
 * Starts a worker when there is something to start and nobody active.  Returns the time at which to try again
 * when no thread can be had; PNX_NEVER otherwise.  Without any thread, it works itself.
 */
static pnx_ns staff(struct pnx_registry *registry, pnx_ns now) {
    struct pnx_shutdown_state *state = registry->shutdown;
    struct pnx_shutdown_worker *idle = NULL;
    bool others = false;
    pnx__mutex_lock(&state->lock);
    bool wanted = !state->active && has_work_locked(state, now);
    bool alone = state->recordless; /* another thread would have no record, either */
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        if (!state->workers[i].used)
            idle = &state->workers[i];
        else
            others = true;
    }
    if (!wanted || !idle) {
        pnx__mutex_unlock(&state->lock);
        return PNX_NEVER;
    }
    idle->registry = registry;
    idle->member = NULL;
    idle->used = true;
    state->active = idle; /* at once, or another look would start one more */
    pnx__mutex_unlock(&state->lock);
    if (!alone && start_worker(registry, idle))
        return PNX_NEVER;
    if (!others && pnx__thread()) {
        work(registry, idle);
        return now;
    }
    pnx__mutex_lock(&state->lock);
    idle->used = false;
    state->active = NULL;
    state->recordless = false; /* a thread that ends gives its record to the next */
    pnx__mutex_unlock(&state->lock);
    return now + PNX_SHUTDOWN_SHARE_MIN;
}

static void note_overdue_locked(struct pnx_shutdown_state *state,
        struct pnx_shutdown_worker *worker, struct pnx_shutdown_overdue *overdue) {
    worker->overdue = true;
    if (state->active == worker)
        state->active = NULL;
    pnx__cancel_ask(&worker->request.cancel, PNX_ASKED_TO_END);
    overdue->rows[overdue->n].row = worker->member->row;
    overdue->rows[overdue->n++].id = worker->member->id;
}

/* Marks overdue cleanups, and returns when the next one will be. */
static pnx_ns watch_locked(
        struct pnx_shutdown_state *state, pnx_ns now, struct pnx_shutdown_overdue *overdue) {
    pnx_ns next = state->deadline;
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        struct pnx_shutdown_worker *worker = &state->workers[i];
        if (!worker->used || !worker->member || worker->overdue)
            continue;
        if (now >= worker->overdue_at)
            note_overdue_locked(state, worker, overdue);
        else if (worker->overdue_at < next)
            next = worker->overdue_at;
    }
    return next;
}

/* No lock is held; the rows' fields are constant since the registry is closed. */
void pnx__shutdown_tell_overdue(
        struct pnx_registry *registry, const struct pnx_shutdown_overdue *overdue) {
    for (uint32_t i = 0; i < overdue->n; i++) {
        const struct pnx_row *row = overdue->rows[i].row;
        char object[PNX_ROW_NAME_MAX];
        pnx__registry_count_up(&registry->values.cleanups_overdue);
        pnx__row_object(registry, row, overdue->rows[i].id, object);
        pnx__event(&registry->block, PNX_EVENT_RESOURCE_CLEANUP_OVERDUE, object, 0, row->site,
                (int64_t)overdue->rows[i].id, 0);
    }
}

/* Waits for a change.  The deadline is on the env's clock, which need not be the futex's. */
static void wait_for_change(struct pnx_registry *registry, uint32_t seen, pnx_ns until) {
    pnx_ns left = pnx__remaining(pnx__now(&registry->env), until);
    if (left > 0)
        pnx__futex_wait(&registry->changed, seen, pnx__deadline(pnx__os_now(), left));
}

static pnx_ns earlier_of(pnx_ns a, pnx_ns b) {
    return a < b ? a : b;
}

void pnx__shutdown_run(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    for (;;) {
        /* pairs with rows.changed: what it announces is seen below, without the shard's lock */
        uint32_t seen = pnx_load(&registry->changed, PNX_ACQUIRE, "shutdown.changed");
        struct pnx_shutdown_overdue overdue = {.n = 0};
        pnx_ns now = pnx__now(&registry->env);
        pnx__mutex_lock(&state->lock);
        pnx_ns until = watch_locked(state, now, &overdue); /* first: the next window may come */
        pnx_ns due = pnx__order_look_locked(registry, seen, now);
        if (due < until)
            until = due;
        state->until = until;
        state->seen = seen;
        bool finished =
                now >= state->deadline || (state->left == 0 && !wants_barrier_locked(state) &&
                                                  state->barrier != PNX_BARRIER_RUNS);
        pnx__mutex_unlock(&state->lock);
        pnx__shutdown_tell_overdue(registry, &overdue);
        if (finished)
            return;
        pnx_ns again = staff(registry, now);
        if (again < until)
            until = again;
        bool any;
        pnx_ns wish = pnx__loops_drive(registry, until, &any);
        if (any)
            until = earlier_of(until, pnx__deadline(pnx__now(&registry->env), wish));
        wait_for_change(registry, seen, until);
    }
}

void pnx__shutdown_stop_locked(
        struct pnx_registry *registry, struct pnx_shutdown_overdue *ret_overdue) {
    struct pnx_shutdown_state *state = registry->shutdown;
    pnx__mutex_assert_held(&state->lock);
    state->over = true;
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        struct pnx_shutdown_worker *worker = &state->workers[i];
        if (!worker->used || !worker->member)
            continue;
        switch (pnx__word_state(pnx__row_word(worker->member->row))) {
        case PNX_ROW_LIVE: /* it has just returned -EAGAIN */
            pnx__order_note(registry, worker->member, PNX_OUTCOME_AGAIN);
            break;
        case PNX_ROW_RUNNING:
            if (!worker->overdue)
                note_overdue_locked(state, worker, ret_overdue);
            break;
        default:
            break;
        }
    }
}
