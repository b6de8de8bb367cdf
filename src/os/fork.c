/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/fork.c - fork handlers by pthread_atfork: one, which calls those of all modules.
 *
 *   P1  The modules' locks are taken in the order of their ranks, and given back the other way round.
 */
#include "os/fork.h"

#include "base/atomic.h"

#include <pthread.h>
#include <stdlib.h>

#define HOOKS_MAX 16

struct hook {
    enum pnx_lock_rank rank;
    void (*prepare)(void);
    void (*parent)(void);
    void (*child)(void);
};

/* Held over each fork.  Guards the hooks, which are in the order of ranks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct hook hooks[HOOKS_MAX];
static uint32_t n_hooks;

static void prepare(void) {
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < n_hooks; i++)
        hooks[i].prepare();
}

static void parent(void) {
    for (uint32_t i = n_hooks; i > 0; i--)
        hooks[i - 1].parent();
    pthread_mutex_unlock(&lock);
}

static void child(void) {
    for (uint32_t i = n_hooks; i > 0; i--)
        hooks[i - 1].child();
    pthread_mutex_unlock(&lock); /* it is still the locking thread that unlocks */
}

static void watch(void) {
    pthread_atfork(prepare, parent, child);
}

void pnx__at_fork(enum pnx_lock_rank rank, void (*prepare_fn)(void), void (*parent_fn)(void),
        void (*child_fn)(void)) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch);
    pthread_mutex_lock(&lock);
    if (n_hooks == HOOKS_MAX)
        abort(); /* a module more than there is room for */
    uint32_t at = n_hooks++;
    for (; at > 0 && hooks[at - 1].rank > rank; at--)
        hooks[at] = hooks[at - 1];
    hooks[at] = (struct hook){rank, prepare_fn, parent_fn, child_fn};
    pthread_mutex_unlock(&lock);
}

void pnx__fork_lock(struct pnx_mutex *mutex) {
    pnx__mutex_os_lock(&mutex->os);
}

void pnx__fork_unlock(struct pnx_mutex *mutex) {
    pnx__mutex_os_unlock(&mutex->os); /* in a child it is still the locking thread that unlocks */
}

void pnx__fork_take(struct pnx_lock *taken) {
    pnx__lock_take(taken, PNX_SELF); /* by its word, so that nobody is on the way in by the bias */
}

void pnx__fork_give(struct pnx_lock *taken, bool in_child) {
    if (in_child)
        pnx_store(&taken->waiters, 0, PNX_RELAXED, "fork.waiters"); /* alone: no order */
    pnx__unlock_raw(taken);
}
