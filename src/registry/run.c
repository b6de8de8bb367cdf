/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/run.c - running a cleanup, waiting for one, and what a cleanup may ask.
 *
 * Each running cleanup has an entry in one process-wide list, on the stack of the thread that runs it.  The list
 * tells a thread which cleanups are its own, and whom its wait would have to wait for.
 *
 *   P1  A wait that could never end, since cleanups would wait for each other in a ring, is refused.
 *   P2  A cleanup that is left by an exception or by the end of its thread aborts the process: the row could
 *       never be ended, and whoever waits for it would hang.
 */
#include "base/env.h"
#include "os/futex.h"
#include "os/thread.h"
#include "registry/ledger.h"

#include <patinox/registry.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Guarded by runs_lock, all of it. */
struct run {
    struct pnx_link link;
    uint32_t generation; /* of fork: in which the link is in the list */
    struct pnx_registry *registry;
    struct pnx_row *row;
    pthread_t thread;
    struct pnx_row
            *waits_for; /* the row whose cleanup this one waits for, inside pnx__row_wait() */
    bool returned;      /* only its own thread looks */
};

static struct pnx_mutex runs_lock = PNX_MUTEX_STATIC(PNX_RANK_CLEANUPS);
static struct pnx_link runs = {&runs, &runs};
static uint32_t runs_generation; /* of fork */

/*
 * Locks the list.  In a forked child it starts empty: the parent's entries lie on stacks of threads that are not
 * there, which the child's threads get, and with them the same pthread_t.
 */
static void lock_runs(void) {
    uint32_t generation = pnx__fork_generation();
    pnx__mutex_lock(&runs_lock);
    if (runs_generation == generation)
        return;
    runs_generation = generation;
    pnx__list_init(&runs);
}

pnx_ns pnx_cancel_deadline(const struct pnx_cancel *cancel) {
    if (!cancel)
        return PNX_NEVER;
    return (pnx_ns)pnx_load(
            &cancel->deadline, PNX_RELAXED, "run.deadline"); /* set before the cleanup was called */
}

bool pnx_cancel_requested(const struct pnx_cancel *cancel) {
    /* A hint without data: no partner. */
    return cancel && pnx_load(&cancel->requested, PNX_RELAXED, "run.requested") != 0;
}

static void check_returned(struct run *run) {
    if (!run->returned)
        abort(); /* P2 */
}

static int call(struct pnx_registry *registry, struct pnx_row *row) {
    struct run run __attribute__((cleanup(check_returned))) = {
            .registry = registry, .row = row, .thread = pthread_self()};
    pnx__mutex_assert_none_held();
    lock_runs();
    run.generation = runs_generation;
    pnx__list_push_front(&runs, &run.link); /* so that a thread's innermost run is found first */
    pnx__mutex_unlock(&runs_lock);
    int code = row->cleanup(row->arg, &row->cancel);
    lock_runs();
    if (run.generation == runs_generation) /* else the cleanup has forked, and this is the child */
        pnx__list_remove(&run.link);
    pnx__mutex_unlock(&runs_lock);
    run.returned = true;
    return code > 0 ? -EINVAL : code;
}

int pnx__row_run(struct pnx_registry *registry, struct pnx_row *row) {
    char object[PNX_ROW_NAME_MAX];
    const char *type = row->type, *site = row->site;
    pnx_resource_id id = pnx__row_id(row, pnx__row_word(row));
    memcpy(object, row->name, sizeof(object));
    pnx_fetch_add(&registry->refs, PNX_REGISTRY_HOLDER, PNX_RELAXED,
            "run.hold"); /* until now the row keeps the registry alive; from pnx__row_end() on, this */

    int code = call(registry, row);
    pnx__registry_count_up(&registry->values.cleanups);
    if (code)
        pnx__registry_count_up(&registry->values.cleanups_failed);
    pnx__row_end(registry, row, code);
    if (code)
        pnx__event(&registry->block, PNX_EVENT_RESOURCE_CLEANUP_FAILED, object[0] ? object : type,
                code, site, (int64_t)id, 0);
    pnx__registry_unref(registry, PNX_REGISTRY_HOLDER);
    return code;
}

int pnx_registry_cleanup(struct pnx_registry *registry, pnx_resource_id id) {
    registry = pnx__registry_resolve(registry);
    struct pnx_row *row = registry->off ? NULL : pnx__row_find(registry, id);
    if (!row)
        return -ESTALE;
    int rc = pnx__row_claim(registry, row, id, PNX_NEVER);
    return rc ? rc : pnx__row_run(registry, row);
}

/* ---- waiting ---- */

static struct run *run_of_row_locked(const struct pnx_row *row) {
    PNX_LIST_EACH (link, after, &runs) {
        struct run *run = PNX_CONTAINER(link, struct run, link);
        if (run->row == row)
            return run;
    }
    return NULL;
}

/* The thread's innermost run. */
static struct run *run_of_thread_locked(pthread_t thread) {
    PNX_LIST_EACH (link, after, &runs) {
        struct run *run = PNX_CONTAINER(link, struct run, link);
        if (pthread_equal(run->thread, thread))
            return run;
    }
    return NULL;
}

/*
 * Follows who waits for whom from the row on.  A thread waits for at most one row, so this is a path; a ring in
 * it that does not meet this thread cannot exist, since its last wait would have been refused.
 */
static int may_wait_locked(const struct pnx_row *row, pthread_t self) {
    bool first = true;
    while (row) {
        const struct run *run = run_of_row_locked(row);
        if (!run)
            return 0; /* just claimed, or just ended */
        if (pthread_equal(run->thread, self))
            return first ? -EALREADY : -EDEADLK;
        const struct run *innermost = run_of_thread_locked(run->thread);
        row = innermost->waits_for;
        first = false;
    }
    return 0;
}

int pnx__row_wait(struct pnx_registry *registry, struct pnx_row *row, pnx_resource_id id) {
    pthread_t self = pthread_self();
    lock_runs();
    int rc = may_wait_locked(row, self);
    struct run *mine = rc ? NULL : run_of_thread_locked(self);
    if (mine)
        mine->waits_for = row;
    pnx__mutex_unlock(&runs_lock);
    if (rc)
        return rc;
    pnx__registry_count_up(&registry->values.cleanup_waits);
    for (;;) {
        uint32_t turn = pnx_load(&row->turn, PNX_ACQUIRE, "run.turn"); /* pairs with rows.turn */
        uint64_t word = pnx__row_word(row);
        enum pnx_row_state state = pnx__word_state(word);
        if (pnx__generation(word) != pnx__generation(id) ||
                (state != PNX_ROW_RUNNING && state != PNX_ROW_ABANDONED))
            break;
        pnx__futex_wait(&row->turn, turn, PNX_NEVER);
    }
    if (mine) {
        lock_runs();
        mine->waits_for = NULL;
        pnx__mutex_unlock(&runs_lock);
    }
    return 0;
}

bool pnx__run_inside(const struct pnx_registry *registry) {
    pthread_t self = pthread_self();
    bool inside = false;
    lock_runs();
    PNX_LIST_EACH (link, after, &runs) {
        const struct run *run = PNX_CONTAINER(link, struct run, link);
        inside = inside || (run->registry == registry && pthread_equal(run->thread, self));
    }
    pnx__mutex_unlock(&runs_lock);
    return inside;
}
