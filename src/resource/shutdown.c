/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/shutdown.c - ending everything in a registry under one deadline, and saying truthfully what happened.
 *
 * The first caller leads.  It closes the registry, after which no slot is reused, and makes an array of the rows that
 * are there: the list of work and, later, the report.  Order is by serial number, last added first,
 * and since a child can only be added to a live parent, children come before parents by themselves.
 *
 * Cleanups run on worker threads, one at a time: only the active worker starts one.  When its cleanup is overdue
 * the worker is no longer active, and the leader starts another.  A worker that comes back from an overdue cleanup
 * becomes active again if nobody else is, or ends.  The leader itself only watches, so that it can return at
 * the deadline.
 *
 *      phase   NONE --first caller--> RUNNING --all ended, or deadline--> DONE
 *
 *      row     todo --claimed--> worker's ----------+--ended--> DONE, FAILED
 *               |  |                                +--deadline--> ABANDONED
 *               |  +--claimed by others--> foreign--+   (and pending ones; a foreign row may become live again: todo)
 *               +--removed by its owner--> DONE
 *               +--deadline--> LEAKED
 *               +--no cleanup--> LEAKED, or DONE if its owner's cleanup removes it before the end
 *
 *   P1  Each row that was there when the shutdown began gets exactly one outcome: settle_locked(); only that of a
 *       row without cleanup is looked at again, once, when all cleanups have had their turn.
 *   P2  A row is started only when all its children have outcomes.
 *   P3  After the leader has returned no further cleanup starts, and no outcome changes.
 *   P4  At most one cleanup of the shutdown runs that is not overdue, at most PNX_SHUTDOWN_WORKERS run in all.
 */
#include "resource/shutdown.h"
#include "base/env.h"
#include "os/clock.h"
#include "os/futex.h"
#include "os/thread.h"
#include "registry/ledger.h"
#include "registry/sort.h"

#include <patinox/registry.h>

#include <limits.h>
#include <string.h>

/* In the low bits of the phase word; above them stands the fork generation of the leader. */
enum pnx_shutdown_phase { PHASE_NONE = 0, PHASE_RUNNING, PHASE_DONE };
#define PHASE_BITS 2
#define PHASE_MASK ((1u << PHASE_BITS) - 1)

/* ---- collecting ---- */

struct collection {
    struct pnx_shutdown_member *members;
    size_t n;
};

static void collect_row(void *ctx, struct pnx_row *row, uint64_t word) {
    struct collection *all = ctx;
    if (!pnx__row_is_ours(row))
        return; /* a parent process's: not ours to end */
    if (all->members) {
        row->order |= PNX_ROW_MEMBER;
        all->members[all->n] = (struct pnx_shutdown_member){.row = row,
                .id = pnx__word_id(word),
                .serial = pnx__row_serial(row),
                .bytes = row->bytes};
    }
    all->n++;
}

static bool younger(const void *a, const void *b) {
    const struct pnx_shutdown_member *x = a, *y = b;
    return x->serial > y->serial;
}

/* Finds the member with a serial number. */
static struct pnx_shutdown_member *member_of(
        const struct pnx_shutdown_report *report, uint64_t serial) {
    size_t from = 0, to = report->n;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (report->members[middle].serial == serial)
            return &report->members[middle];
        if (report->members[middle].serial > serial)
            from = middle + 1;
        else
            to = middle;
    }
    return NULL;
}

static void link_parents(struct pnx_registry *registry) {
    struct pnx_shutdown_report *report = &registry->shutdown.report;
    for (size_t i = 0; i < report->n; i++) {
        struct pnx_shutdown_member *member = &report->members[i];
        member->todo = i + 1 < report->n ? member + 1 : NULL;
        const struct pnx_row_label *label = pnx__row_label(registry, member->id);
        struct pnx_row *row =
                label && label->parent ? pnx__row_find(registry, label->parent) : NULL;
        if (!row || pnx__word_id(pnx__row_word(row)) != label->parent)
            continue; /* it ended before its child */
        struct pnx_shutdown_member *parent = member_of(report, pnx__row_serial(row));
        if (!parent)
            continue;
        member->parent = parent;
        parent->children++;
    }
    registry->shutdown.todo = report->n ? report->members : NULL;
}

/* Closes the registry and lists its rows.  -ENOMEM: it is open again. */
static int collect(struct pnx_registry *registry) {
    struct collection all = {0};
    /* No partner: see pnx__registry_is_closed(). */
    pnx_fetch_or(&registry->refs, PNX_REGISTRY_CLOSED, PNX_RELAXED, "shutdown.close");
    pnx__rows_each(registry, collect_row, &all);
    size_t n = all.n; /* from now on there can only be fewer */
    all = (struct collection){
            .members = pnx__alloc(&registry->env, n, sizeof(struct pnx_shutdown_member))};
    if (!all.members) {
        pnx_fetch_and(&registry->refs, ~PNX_REGISTRY_CLOSED, PNX_RELAXED, "shutdown.open");
        return -ENOMEM;
    }
    pnx__rows_each(registry, collect_row, &all);
    struct pnx_shutdown_report *report = &registry->shutdown.report;
    struct pnx_shutdown_member spare;
    pnx__sort(all.members, all.n, sizeof(spare), &spare, younger);
    report->members = all.members;
    report->capacity = n;
    report->n = all.n;
    registry->shutdown.left = all.n;
    link_parents(registry);
    return 0;
}

/* ---- outcomes ---- */

static void settle_locked(struct pnx_shutdown_state *state, struct pnx_shutdown_member *member,
        enum pnx_resource_state outcome, int code) {
    pnx__mutex_assert_held(&state->lock);
    if (member->outcome)
        return; /* its cleanup came back after the deadline */
    member->outcome = outcome;
    member->code = code;
    if (member->parent)
        member->parent->children--;
    state->left--;
}

/* Settles a row that the shutdown has not claimed, if it has ended.  false when it is there. */
static bool settle_ended_locked(struct pnx_registry *registry, struct pnx_shutdown_member *member) {
    struct pnx_shard *shard = pnx__row_lock(registry, member->id);
    bool there = pnx__word_is_there(pnx__row_word(member->row));
    /* Of a row removed by its owner the code, if there is one, is a cleanup's before that. */
    int code = there ? 0 : (int)member->row->code;
    pnx__unlock(&shard->lock);
    if (!there)
        settle_locked(
                &registry->shutdown, member, code ? PNX_RESOURCE_FAILED : PNX_RESOURCE_DONE, code);
    return !there;
}

static void settle_foreign_locked(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    struct pnx_shutdown_member **at = &state->foreign;
    while (*at) {
        struct pnx_shutdown_member *member = *at;
        bool live = pnx__word_state(pnx__row_word(member->row)) == PNX_ROW_LIVE;
        if (live || settle_ended_locked(registry, member))
            *at = member->todo;
        else
            at = &member->todo;
        if (live) { /* its cleanup returned -EAGAIN */
            member->todo = state->todo;
            state->todo = member;
        }
    }
}

/* ---- workers ---- */

static pnx_ns share_end(const struct pnx_shutdown_state *state, pnx_ns now) {
    if (state->deadline == PNX_NEVER)
        return PNX_NEVER;
    pnx_ns remaining = pnx__remaining(now, state->deadline);
    pnx_ns share = remaining / (pnx_ns)(state->left ? state->left : 1);
    if (share < PNX_SHUTDOWN_SHARE_MIN)
        share = PNX_SHUTDOWN_SHARE_MIN;
    return now + (share < remaining ? share : remaining);
}

/* Claims the next row whose children have all ended; NULL when there is none now. */
static struct pnx_shutdown_member *pick_locked(
        struct pnx_registry *registry, struct pnx_shutdown_worker *worker) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    pnx_ns now = pnx__now(&registry->env);
    if (state->over || now >= state->deadline)
        return NULL; /* when the leader works itself, nobody else looks at the time */
    struct pnx_shutdown_member **at = &state->todo;
    while (*at) {
        struct pnx_shutdown_member *member = *at;
        if (member->children) {
            at = &member->todo;
            continue;
        }
        worker->overdue_at = share_end(state, now);
        pnx__request_init(&worker->request, worker->overdue_at);
        worker->request.last = true;
        int rc = pnx__row_claim(registry, member->id, &worker->request);
        if (rc == -ENOMEM)
            return NULL; /* for now: the thread has no record */
        *at = member->todo;
        if (rc == 0)
            return member;
        if (rc == -ENOTSUP) {
            /* For now: the parent must not wait for it, yet an older row's cleanup may still remove it. */
            settle_locked(state, member, PNX_RESOURCE_LEAKED, 0);
            member->bare = true;
        } else if (!settle_ended_locked(registry, member)) {
            member->todo = state->foreign;
            state->foreign = member;
        }
    }
    return NULL;
}

/* Whether a worker would find something to do. */
static bool has_work_locked(const struct pnx_shutdown_state *state) {
    const struct pnx_shutdown_member *member = state->todo;
    while (member && member->children)
        member = member->todo;
    return member != NULL;
}

static void tell_leader(struct pnx_shutdown_state *state) {
    /* pairs with shutdown.changed */
    pnx_fetch_add(&state->changed, 1, PNX_RELEASE, "shutdown.tell");
    pnx__futex_wake(&state->changed, INT_MAX);
}

/* Starts cleanups until there is none to start, or somebody else has become active. */
static void work(struct pnx_registry *registry, struct pnx_shutdown_worker *worker) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    pnx__mutex_lock(&state->lock);
    for (;;) {
        if (!state->active)
            state->active = worker;
        if (state->active != worker)
            break;
        struct pnx_shutdown_member *member = pick_locked(registry, worker);
        if (!member) {
            state->active = NULL;
            break;
        }
        worker->member = member;
        worker->overdue = false;
        tell_leader(state); /* about the new deadline */
        pnx__mutex_unlock(&state->lock);
        int code = pnx__row_run(&worker->request);
        pnx__mutex_lock(&state->lock);
        if (code == -EINPROGRESS && !member->outcome) {
            member->todo = state->foreign; /* pending: whoever completes it tells the leader */
            state->foreign = member;
        } else {
            settle_locked(state, member, code ? PNX_RESOURCE_FAILED : PNX_RESOURCE_DONE, code);
        }
        worker->member = NULL;
    }
    worker->used = false;
    tell_leader(state);
    pnx__mutex_unlock(&state->lock);
}

static void worker_main(void *arg) {
    struct pnx_shutdown_worker *worker = arg;
    struct pnx_registry *registry = worker->registry;
    work(registry, worker);
    pnx__registry_unhold(registry);
}

/* ---- the leader ---- */

static void reap(struct pnx_shutdown_worker *worker) {
    pnx__thread_join(&worker->thread);
}

/*
 * Starts a worker when there is something to start and nobody active.  Returns the time at which to try again
 * when no thread can be had; PNX_NEVER otherwise.  Without any thread, it works itself.
 */
static pnx_ns staff(struct pnx_registry *registry, pnx_ns now) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    struct pnx_shutdown_worker *idle = NULL;
    bool others = false;
    pnx__mutex_lock(&state->lock);
    bool wanted = !state->active && has_work_locked(state);
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
    pnx__mutex_unlock(&state->lock);

    reap(idle); /* of an earlier thread in this place, which has ended */
    pnx__registry_hold(registry);
    int rc = pnx__thread_start("pnx-shutdown", worker_main, idle, &idle->thread);
    if (rc == 0)
        return PNX_NEVER;
    pnx__registry_unhold(registry);
    if (!others) {
        work(registry, idle);
        return now;
    }
    pnx__mutex_lock(&state->lock);
    idle->used = false;
    pnx__mutex_unlock(&state->lock);
    return now + PNX_SHUTDOWN_SHARE_MIN;
}

/* Rows whose cleanups are overdue since the last look, for events. */
struct overdue {
    const struct pnx_shutdown_member *members[PNX_SHUTDOWN_WORKERS];
    uint32_t n;
};

static void note_overdue_locked(struct pnx_shutdown_state *state,
        struct pnx_shutdown_worker *worker, struct overdue *overdue) {
    worker->overdue = true;
    if (state->active == worker)
        state->active = NULL;
    pnx_store(&worker->request.cancel.requested, 1, PNX_RELAXED, "shutdown.request"); /* a hint */
    overdue->members[overdue->n++] = worker->member;
}

/* Marks overdue cleanups, and returns when to look again. */
static pnx_ns watch_locked(struct pnx_shutdown_state *state, pnx_ns now, struct overdue *overdue) {
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
static void tell_overdue(struct pnx_registry *registry, const struct overdue *overdue, pnx_ns now) {
    for (uint32_t i = 0; i < overdue->n; i++) {
        const struct pnx_shutdown_member *member = overdue->members[i];
        char object[PNX_ROW_NAME_MAX];
        pnx__registry_count_up(&registry->values.cleanups_overdue);
        pnx__row_object(registry, member->row, member->id, object);
        pnx__event(&registry->block, PNX_EVENT_RESOURCE_CLEANUP_OVERDUE, object, 0,
                member->row->site, (int64_t)member->id, now);
    }
}

/* Waits for a change.  The deadline is on the env's clock, which need not be the futex's. */
static void wait_for_change(struct pnx_registry *registry, uint32_t seen, pnx_ns until) {
    pnx_ns left = pnx__remaining(pnx__now(&registry->env), until);
    pnx__futex_wait(&registry->shutdown.changed, seen, pnx__deadline(pnx__os_now(), left));
}

/* Runs until every row has its outcome, or the deadline has come. */
static void watch(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    for (;;) {
        /* pairs with shutdown.tell and rows.changed: what they announce is seen below */
        uint32_t seen = pnx_load(&state->changed, PNX_ACQUIRE, "shutdown.changed");
        struct overdue overdue = {.n = 0};
        pnx_ns now = pnx__now(&registry->env);
        pnx__mutex_lock(&state->lock);
        settle_foreign_locked(registry);
        pnx_ns until = watch_locked(state, now, &overdue);
        bool finished = state->left == 0 || now >= state->deadline;
        pnx__mutex_unlock(&state->lock);
        tell_overdue(registry, &overdue, now);
        if (finished)
            return;
        pnx_ns again = staff(registry, now);
        wait_for_change(registry, seen, again < until ? again : until);
    }
}

/* Settles a row for which there is no more time.  false when it had ended just now. */
static bool give_up_locked(struct pnx_registry *registry, struct pnx_shutdown_member *member) {
    if (pnx__row_abandon(registry, member->id)) {
        settle_locked(&registry->shutdown, member, PNX_RESOURCE_ABANDONED, 0);
        return true;
    }
    if (settle_ended_locked(registry, member))
        return false;
    settle_locked(&registry->shutdown, member, PNX_RESOURCE_LEAKED, 0);
    return true;
}

/* Rows without cleanup whose owners have removed them since their turn did not leak. */
static void settle_bare_locked(struct pnx_shutdown_report *report) {
    for (size_t i = 0; i < report->n; i++) {
        struct pnx_shutdown_member *member = &report->members[i];
        if (member->bare && pnx__word_state(pnx__row_word(member->row)) == PNX_ROW_FREE)
            member->outcome = PNX_RESOURCE_DONE;
    }
}

/* Gives every row that has none its outcome.  Returns whether time was too short for any. */
static bool close_books_locked(struct pnx_registry *registry, struct overdue *overdue) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    bool late = false;
    state->over = true;
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        struct pnx_shutdown_worker *worker = &state->workers[i];
        if (!worker->used || !worker->member || !give_up_locked(registry, worker->member))
            continue;
        late = true;
        if (!worker->overdue)
            note_overdue_locked(state, worker, overdue);
    }
    for (struct pnx_shutdown_member *member = state->foreign; member; member = member->todo)
        late = give_up_locked(registry, member) || late;
    for (struct pnx_shutdown_member *member = state->todo; member; member = member->todo)
        late = give_up_locked(registry, member) || late;
    state->todo = NULL;
    state->foreign = NULL;
    settle_bare_locked(&state->report);
    return late;
}

static void sum_up(struct pnx_registry *registry, bool late) {
    struct pnx_shutdown_report *report = &registry->shutdown.report;
    int first = 0;
    for (size_t i = 0; i < report->n; i++) {
        const struct pnx_shutdown_member *member = &report->members[i];
        switch (member->outcome) {
        case PNX_RESOURCE_DONE:
            report->counts.done++;
            break;
        case PNX_RESOURCE_FAILED:
            report->counts.failed++;
            if (!first)
                first = member->code;
            break;
        case PNX_RESOURCE_ABANDONED:
            report->counts.abandoned++;
            break;
        default:
            report->counts.leaked++;
            break;
        }
    }
    report->counts.took_ns = pnx__now(&registry->env) - report->began;
    report->code = late ? -ETIMEDOUT : first ? first : report->counts.leaked ? PNX_E_BROKEN : 0;
    pnx__shutdown_group(report);
}

static int lead(struct pnx_registry *registry, pnx_ns now, pnx_ns deadline) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    struct pnx_os_thread *ended[PNX_SHUTDOWN_WORKERS];
    struct pnx_os_thread *stuck[PNX_SHUTDOWN_WORKERS];
    struct overdue overdue = {.n = 0};
    state->deadline = deadline;
    state->report.began = now;
    int rc = collect(registry);
    if (rc)
        return rc;

    watch(registry);
    pnx__mutex_lock(&state->lock);
    bool late = close_books_locked(registry, &overdue);
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        bool inside = state->workers[i].used && state->workers[i].member;
        stuck[i] = inside ? state->workers[i].thread : NULL;
        ended[i] = inside ? NULL : state->workers[i].thread;
        state->workers[i].thread = NULL;
    }
    sum_up(registry, late);
    pnx__mutex_unlock(&state->lock);
    tell_overdue(registry, &overdue, now);
    for (uint32_t i = 0; i < PNX_SHUTDOWN_WORKERS; i++) {
        pnx__thread_join(&ended[i]); /* it has nothing more to run: this is short */
        pnx__thread_detach(&stuck[i]);
    }
    pnx_store(&state->phase, PHASE_DONE, PNX_RELEASE,
            "shutdown.done"); /* pairs with shutdown.phase */
    pnx__futex_wake(&state->phase, INT_MAX);
    pnx__event(&registry->block, PNX_EVENT_REGISTRY_SHUTDOWN, registry->name, state->report.code,
            NULL, (int64_t)state->report.counts.leaked, 0);
    return 0;
}

/*
 * Waits for the leader.  -EINPROGRESS when this caller's deadline comes first, or the leader is in a parent process;
 * -ENOMEM when the leader could not begin.
 */
static int follow(struct pnx_registry *registry, pnx_ns deadline) {
    struct pnx_shutdown_state *state = &registry->shutdown;
    for (;;) {
        uint32_t phase =
                pnx_load(&state->phase, PNX_ACQUIRE, "shutdown.phase"); /* with shutdown.done */
        if ((phase & PHASE_MASK) == PHASE_DONE)
            return 0;
        if ((phase & PHASE_MASK) == PHASE_NONE)
            return -ENOMEM;
        pnx_ns left = pnx__remaining(pnx__now(&registry->env), deadline);
        if (left == 0 || phase >> PHASE_BITS != pnx__fork_generation() << PHASE_BITS >> PHASE_BITS)
            return -EINPROGRESS;
        pnx__futex_wait(&state->phase, phase, pnx__deadline(pnx__os_now(), left));
    }
}

int pnx_registry_shutdown(
        struct pnx_registry *registry, pnx_ns timeout, struct pnx_shutdown_report **ret_report) {
    if (!registry || timeout < 0)
        return -EINVAL;
    if (registry->off) {
        if (ret_report)
            *ret_report = &registry->shutdown.report;
        return 0;
    }
    if (pnx__run_inside(registry))
        return -EDEADLK;
    pnx_ns now = pnx__now(&registry->env);
    pnx_ns deadline = pnx__deadline(now, timeout);
    struct pnx_registry *held = pnx_registry_ref(registry);
    uint32_t phase = PHASE_NONE;
    uint32_t running = pnx__fork_generation() << PHASE_BITS | PHASE_RUNNING;
    /* Only decides who leads; what the leader does is published by shutdown.done. */
    int rc = 0;
    if (pnx_cas(&registry->shutdown.phase, &phase, running, PNX_RELAXED, "shutdown.lead")) {
        rc = lead(registry, now, deadline);
        if (rc) {
            pnx_store(&registry->shutdown.phase, PHASE_NONE, PNX_RELAXED, "shutdown.undo");
            pnx__futex_wake(&registry->shutdown.phase, INT_MAX);
        }
    } else {
        rc = follow(registry, deadline);
    }
    if (rc) {
        pnx_registry_release(&held);
        return rc;
    }
    int code = registry->shutdown.report.code;
    if (ret_report)
        *ret_report = &registry->shutdown.report; /* held by this call's reference */
    else
        pnx_registry_release(&held);
    return code;
}

int pnx_shutdown(pnx_ns timeout, struct pnx_shutdown_report **ret_report) {
    return pnx_registry_shutdown(pnx_registry_default(), timeout, ret_report);
}
