/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown.c - ending everything in a registry under one deadline, and saying truthfully what happened.
 *
 * The first caller leads, others wait for it.  It closes the registry, after which no slot is reused, and asks all rows
 * that are there to end; they are the members of the shutdown.  What becomes of a member is seen from its row: when
 * all have ended, or time is over, the leader looks at each once and writes its outcome into it.  So the report needs no
 * memory, and is there even if there was none for the order (shutdown_order.c).
 *
 *      phase     NONE --first caller--> RUNNING --all ended, or deadline--> DONE
 *
 *      outcome   row ended, or removed by its owner      DONE, or FAILED when there is a cleanup's error
 *                row runs or is pending                  ABANDONED
 *                row is live: its last try said -EAGAIN  FAILED, with -EAGAIN
 *                row is live: any other                  LEAKED, or SUPPRESSED when such leaks are known
 *
 *   P1  Each row that was there when the shutdown began gets exactly one outcome, all in one walk.
 *   P2  After the leader has returned no further cleanup starts, and no outcome changes.
 */
#include "resource/shutdown.h"
#include "base/env.h"
#include "os/clock.h"
#include "os/futex.h"
#include "os/thread.h"
#include "registry/calls.h"
#include "resource/loops.h"

#include <patinox/reclaim.h>
#include <patinox/shutdown.h>

#include <limits.h>

/* In the low bits of the phase word; above them stands the fork generation of the leader. */
enum pnx_shutdown_phase { PHASE_NONE = 0, PHASE_RUNNING, PHASE_DONE };
#define PHASE_BITS 2
#define PHASE_MASK ((1u << PHASE_BITS) - 1)

/* ---- outcomes ---- */

/* What is summed up in the walk over the rows. */
struct books {
    struct pnx_registry *registry;
    struct pnx_shutdown_counts *counts;
    bool late; /* time was too short for something */
    int first; /* error of the first row, in order, that failed; 0: none did */
    uint64_t first_key;
};

static enum pnx_row_outcome outcome_of_live(
        const struct pnx_registry *registry, const struct pnx_row *row) {
    if (pnx__row_outcome(row) == PNX_OUTCOME_AGAIN)
        return PNX_OUTCOME_AGAIN;
    return pnx__registry_suppressed(registry, row) ? PNX_OUTCOME_SUPPRESSED : PNX_OUTCOME_LEAKED;
}

static void note_failed(struct books *books, const struct pnx_row *row, int code) {
    uint64_t key = pnx__shutdown_key_locked(row);
    books->counts->failed++;
    if (!books->first || key < books->first_key) {
        books->first = code;
        books->first_key = key;
    }
}

static void close_row(void *ctx, struct pnx_row *row, uint64_t word) {
    struct books *books = ctx;
    if (!(row->order & PNX_ROW_MEMBER))
        return;
    enum pnx_row_outcome outcome;
    switch (pnx__word_state(word)) {
    case PNX_ROW_LIVE:
        outcome = outcome_of_live(books->registry, row);
        break;
    case PNX_ROW_RUNNING:
    case PNX_ROW_PENDING:
    case PNX_ROW_ABANDONED:
        outcome = PNX_OUTCOME_ABANDONED;
        pnx__row_ask_locked(row, word);
        pnx__row_move_locked(row, pnx__word_id(word), PNX_ROW_ABANDONED);
        break;
    default: /* of a row removed by its owner the code, if there is one, is a cleanup's before that */
        outcome = row->code ? PNX_OUTCOME_FAILED : PNX_OUTCOME_DONE;
        break;
    }
    switch (outcome) {
    case PNX_OUTCOME_DONE:
        books->counts->done++;
        break;
    case PNX_OUTCOME_FAILED:
        note_failed(books, row, (int)row->code);
        break;
    case PNX_OUTCOME_AGAIN:
        note_failed(books, row, -EAGAIN);
        books->late = true;
        break;
    case PNX_OUTCOME_ABANDONED:
        books->counts->abandoned++;
        books->late = true;
        break;
    case PNX_OUTCOME_SUPPRESSED:
        books->counts->suppressed++;
        break;
    default:
        books->counts->leaked++;
        books->late |= pnx__row_outcome(row) != PNX_OUTCOME_PASSED;
        break;
    }
    pnx__row_set_outcome_locked(row, outcome);
}

static int code_of(const struct books *books) {
    if (books->late)
        return -ETIMEDOUT;
    if (books->first)
        return books->first;
    return books->counts->leaked ? PNX_E_BROKEN : 0;
}

/* ---- the reclaim barrier ---- */

/* Whether the barrier of the process's domain belongs to this shutdown, and can be had from here. */
static void plan_barrier(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    const struct pnx_thread *self = pnx__thread();
    if (registry != pnx_registry_default())
        return;
    state->barrier = PNX_BARRIER_WANTED;
    if (pnx_reclaim_in_section(NULL) || (self && self->reclaim_calls)) { /* it would wait for us */
        state->barrier = PNX_BARRIER_OVER;
        state->barrier_code = -EDEADLK;
    }
}

static uint64_t count_unreclaimed(void) {
    struct pnx_reclaim_stats stats = {.size = sizeof(stats)};
    return pnx_reclaim_read_stats(NULL, &stats) == 0 ? stats.pending : 0;
}

/* Completes the report; under no lock. */
static void sum_up(struct pnx_registry *registry, int code) {
    struct pnx_shutdown_state *state = registry->shutdown;
    struct pnx_shutdown_report *report = &state->report;
    if (state->barrier != PNX_BARRIER_NOT_WANTED) {
        report->counts.unreclaimed = (size_t)count_unreclaimed();
        if (code == 0 && report->counts.unreclaimed)
            code = state->barrier == PNX_BARRIER_OVER ? state->barrier_code : -ETIMEDOUT;
    }
    report->code = code;
    report->counts.took_ns = pnx__now(&registry->env) - report->began;
}

/* ---- leading and following ---- */

static void lead(struct pnx_registry *registry, pnx_ns now, pnx_ns deadline) {
    struct pnx_shutdown_state *state = registry->shutdown;
    struct pnx_os_thread *ended[PNX_SHUTDOWN_WORKERS];
    struct pnx_os_thread *stuck[PNX_SHUTDOWN_WORKERS];
    struct pnx_shutdown_overdue overdue = {.n = 0};
    struct books books = {.registry = registry, .counts = &state->report.counts};
    struct pnx_row_call call;
    pnx__row_call_enter(&call, registry, pnx__shutdown_call_id()); /* monitors run on this thread */
    state->deadline = deadline;
    state->last_at = deadline == PNX_NEVER ? PNX_NEVER
                                           : deadline - (deadline - now) / PNX_SHUTDOWN_LAST_PART;
    state->report.began = now;
    pnx__health_set(&registry->block, PNX_HEALTH_DOWN, "shut down: it takes no new resources");
    plan_barrier(registry);
    pnx__order_begin(registry);
    pnx__shutdown_run(registry);

    pnx__mutex_lock(&state->lock);
    pnx__shutdown_stop_locked(registry, &overdue);
    pnx__shutdown_each_slot(registry, close_row, &books);
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        const struct pnx_shutdown_worker *worker = &state->workers[i];
        bool inside = worker->used && (worker->member || worker->in_barrier);
        stuck[i] = inside ? worker->thread : NULL;
        ended[i] = inside ? NULL : worker->thread;
        state->workers[i].thread = NULL;
    }
    pnx__mutex_unlock(&state->lock);
    pnx__shutdown_tell_overdue(registry, &overdue);
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        pnx__thread_join(&ended[i]); /* it has nothing more to run: this is short */
        pnx__thread_detach(&stuck[i]);
    }
    sum_up(registry, code_of(&books));
    pnx__row_call_leave(&call);
    pnx_store(&state->phase, PHASE_DONE, PNX_RELEASE,
            "shutdown.done"); /* pairs with shutdown.phase */
    pnx__futex_wake(&state->phase, INT_MAX);
    pnx__shutdown_stir(registry); /* those who follow, and drive loops meanwhile */
    pnx__event(&registry->block, PNX_EVENT_REGISTRY_SHUTDOWN, registry->name, state->report.code,
            NULL, (int64_t)state->report.counts.leaked, 0);
}

/*
 * Waits for the leader.  A thread that is an event loop's goes on driving its executors.  -EINPROGRESS when this caller's
 * deadline comes first, or the leader is in a parent process.
 */
static int follow(struct pnx_registry *registry, pnx_ns deadline) {
    struct pnx_shutdown_state *state = registry->shutdown;
    for (;;) {
        /* pairs with shutdown.stir: who has seen that sees the phase, too */
        uint32_t seen = pnx_load(&registry->changed, PNX_ACQUIRE, "shutdown.follow");
        uint32_t phase =
                pnx_load(&state->phase, PNX_ACQUIRE, "shutdown.phase"); /* with shutdown.done */
        if ((phase & PHASE_MASK) == PHASE_DONE)
            return 0;
        pnx_ns left = pnx__remaining(pnx__now(&registry->env), deadline);
        if (left == 0 || phase >> PHASE_BITS != pnx__fork_generation() << PHASE_BITS >> PHASE_BITS)
            return -EINPROGRESS;
        bool any;
        pnx_ns wish = pnx__loops_drive(registry, deadline, &any);
        if (!any) {
            pnx__futex_wait(&state->phase, phase, pnx__deadline(pnx__os_now(), left));
            continue;
        }
        left = pnx__remaining(pnx__now(&registry->env), deadline); /* jobs have run meanwhile */
        pnx__futex_wait(
                &registry->changed, seen, pnx__deadline(pnx__os_now(), wish < left ? wish : left));
    }
}

int pnx_registry_shutdown(
        struct pnx_registry *registry, pnx_ns timeout, struct pnx_shutdown_report **ret_report) {
    if (!registry || timeout < 0)
        return -EINVAL;
    struct pnx_shutdown_state *state = registry->shutdown;
    if (registry->off) {
        if (ret_report)
            *ret_report = &state->report;
        return 0;
    }
    if (pnx__registry_waits_for_us(registry))
        return -EDEADLK;
    pnx_ns now = pnx__now(&registry->env);
    pnx_ns deadline = pnx__deadline(now, timeout);
    struct pnx_registry *held = pnx_registry_ref(registry);
    uint32_t phase = PHASE_NONE;
    uint32_t running = pnx__fork_generation() << PHASE_BITS | PHASE_RUNNING;
    int rc = 0;
    /* Only decides who leads; what the leader does is published by shutdown.done. */
    if (pnx_cas(&state->phase, &phase, running, PNX_RELAXED, "shutdown.lead"))
        lead(registry, now, deadline);
    else
        rc = follow(registry, deadline);
    if (rc) {
        pnx_registry_release(&held);
        return rc;
    }
    int code = state->report.code;
    if (ret_report)
        *ret_report = &state->report; /* held by this call's reference */
    else
        pnx_registry_release(&held);
    return code;
}

int pnx_shutdown(pnx_ns timeout, struct pnx_shutdown_report **ret_report) {
    return pnx_registry_shutdown(pnx_registry_default(), timeout, ret_report);
}
