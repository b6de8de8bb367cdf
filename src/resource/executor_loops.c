/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_loops.c - the executors of event loops, which a thread that waits for a shutdown goes on driving.
 *
 * Their jobs never leave the loop's thread.  When that thread shuts a registry down it ticks no more by itself, so the
 * shutdown does (shutdown_run.c, shutdown.c), from its begin on: other rows' cleanups may need such jobs, too.
 *
 *   P1  An executor is on the list from the time it is a row until it is freed; in a forked child none is.
 *   P2  The list's lock is held for looking only: no job runs under it.
 */
#include "os/fork.h"
#include "resource/executor.h"
#include "resource/loops.h"

#include <pthread.h>

static struct pnx_mutex loops_lock = PNX_MUTEX_STATIC(PNX_RANK_LOOPS);
static struct pnx_link loops = {&loops, &loops}; /* the lock */
static struct pnx_a32 n_loops;                   /* so many are on it; written under the lock */

/* ---- fork ---- */

static void fork_prepare(void) {
    pnx__fork_lock(&loops_lock);
}

static void fork_parent(void) {
    pnx__fork_unlock(&loops_lock);
}

static void fork_child(void) {
    pnx__list_init(
            &loops); /* they are the parent's, and are freed here without a look at the list */
    pnx_store(&n_loops, 0, PNX_RELAXED, "executor_loops.fork"); /* alone: no order */
    pnx__fork_unlock(&loops_lock);
}

static void watch_forks(void) {
    pnx__at_fork(PNX_RANK_LOOPS, fork_prepare, fork_parent, fork_child);
}

/* ---- the list ---- */

void pnx__loops_join(struct pnx_executor *executor) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pnx__mutex_lock(&loops_lock);
    pnx__list_push_back(&loops, &executor->loop);
    pnx_fetch_add(&n_loops, 1, PNX_RELAXED, "executor_loops.join"); /* see executor_loops.any */
    pnx__mutex_unlock(&loops_lock);
}

void pnx__loops_leave(struct pnx_executor *executor) {
    pnx__mutex_lock(&loops_lock);
    if (pnx__list_linked(&executor->loop)) {
        pnx__list_remove(&executor->loop);
        pnx_fetch_sub(
                &n_loops, 1, PNX_RELAXED, "executor_loops.leave"); /* see executor_loops.any */
    }
    pnx__mutex_unlock(&loops_lock);
}

static bool is_driven_by(struct pnx_executor *executor, const struct pnx_registry *registry,
        const struct pnx_thread *self) {
    if (executor->registry != registry)
        return false;
    pnx__mutex_lock(&executor->lock);
    bool mine = executor->driver == self->id && !executor->released;
    executor->refs += mine;
    pnx__mutex_unlock(&executor->lock);
    return mine;
}

/* The next one behind last (NULL: the first) of the registry's that this thread drives, with a reference, or NULL. */
static struct pnx_executor *next_of(const struct pnx_registry *registry,
        const struct pnx_thread *self, const struct pnx_executor *last) {
    struct pnx_executor *found = NULL;
    pnx__mutex_lock(&loops_lock);
    const struct pnx_link *link = last ? last->loop.next : loops.next;
    for (; link != &loops && !found; link = link->next) {
        struct pnx_executor *executor =
                PNX_CONTAINER((struct pnx_link *)(uintptr_t)link, struct pnx_executor, loop);
        if (is_driven_by(executor, registry, self))
            found = executor;
    }
    pnx__mutex_unlock(&loops_lock);
    return found;
}

static void let_go(struct pnx_executor *executor) {
    struct pnx__executor_effects effects;
    pnx__executor_effects_init(&effects);
    pnx__mutex_lock(&executor->lock);
    executor->refs--;
    pnx__executor_unlock(executor, &effects);
}

/* ---- driving ---- */

/* In how long it wants to be driven again. */
static pnx_ns drive(struct pnx_executor *executor, pnx_ns left) {
    if (left == 0)
        return 0;
    const struct pnx_env *env = &executor->env; /* whose clock need not be the registry's */
    pnx_ns now = pnx__now(env);
    pnx_ns next = pnx__executor_tick_until(executor, now, pnx__deadline(now, left));
    return pnx__executor_forked(executor) ? PNX_NEVER : pnx__remaining(pnx__now(env), next);
}

pnx_ns pnx__loops_drive(struct pnx_registry *registry, pnx_ns until, bool *ret_any) {
    const struct pnx_thread *self = pnx__thread();
    pnx_ns least = PNX_NEVER;
    *ret_any = false;
    /* Relaxed: what this thread has ticked it knows of. */
    if (!self || pnx_load(&n_loops, PNX_RELAXED, "executor_loops.any") == 0)
        return PNX_NEVER;
    struct pnx_executor *executor = next_of(registry, self, NULL);
    while (executor) {
        *ret_any = true;
        pnx_ns wish = drive(executor, pnx__remaining(pnx__now(&registry->env), until));
        if (pnx__executor_forked(executor))
            return PNX_NEVER; /* a job that ran here has forked, and this is the child */
        if (wish < least)
            least = wish;
        struct pnx_executor *next = next_of(registry, self, executor);
        let_go(executor);
        executor = next;
    }
    return least;
}
