/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/latch.c - latches with owners, under one lock for all of them.
 *
 * One lock, because the walk along the chain of waits must see a single moment.  It is held for a few
 * instructions; the functions that latches serialise cost far more.
 *
 * Guarantees P1..P3 stand in share/latch.h.
 */
#include "share/latch.h"

#include "base/atomic.h"
#include "base/env.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "share/wait.h"

#include <errno.h>

static struct pnx_mutex lock = PNX_MUTEX_STATIC(PNX_RANK_LATCH);

struct waiter {
    struct pnx_link link;
    struct pnx_thread *thread;
    struct pnx_a32
            granted; /* futex word: 1 once the latch is this thread's; written under the lock */
};

/* A fork leaves owners and waiters behind that do not exist in the child. */
static void forget_parent_locked(struct pnx_latch *latch, const struct pnx_thread *self) {
    uint32_t generation = pnx__fork_generation();
    if (latch->generation == generation)
        return;
    latch->generation = generation;
    if (latch->owner != self)
        latch->owner = NULL;
    pnx__list_init(&latch->waiters);
}

/* Whether self is, over any number of latches, who the latch's owner waits for. */
static bool closes_circle_locked(const struct pnx_latch *latch, const struct pnx_thread *self) {
    /* Ends: every wait was checked before it began, so the chain has no circle without self. */
    while (latch && latch->owner) {
        if (latch->owner == self)
            return true;
        latch = latch->owner->waits_for;
    }
    return false;
}

static int wait(struct pnx_latch *latch, struct waiter *waiter, const struct pnx_env *env,
        pnx_ns deadline) {
    for (;;) {
        int rc = pnx__wait(&waiter->granted, 0, env, deadline);
        pnx__mutex_lock(&lock);
        bool granted = pnx_load(&waiter->granted, PNX_RELAXED, "latch.granted") != 0; /* the lock */
        if (granted || rc == -ETIMEDOUT) {
            waiter->thread->waits_for = NULL;
            if (!granted)
                pnx__list_remove(&waiter->link);
            pnx__mutex_unlock(&lock);
            return granted ? 0 : rc;
        }
        pnx__mutex_unlock(&lock);
        (void)latch;
    }
}

int pnx__latch_acquire(struct pnx_latch *latch, const struct pnx_env *env, pnx_ns deadline) {
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return -ENOMEM; /* an owner without a name could not be told from itself */
    pnx__mutex_assert_none_held();
    struct waiter waiter = {.thread = self};
    bool tries = deadline <= pnx__now(env);
    pnx__mutex_lock(&lock);
    forget_parent_locked(latch, self);
    if (!latch->owner) {
        latch->owner = self;
        pnx__mutex_unlock(&lock);
        return 0;
    }
    if (closes_circle_locked(latch, self)) {
        pnx__mutex_unlock(&lock);
        return -EDEADLK;
    }
    if (tries) {
        pnx__mutex_unlock(&lock); /* never queued: others must not take it for one who waits */
        return -ETIMEDOUT;
    }
    pnx__list_push_back(&latch->waiters, &waiter.link);
    self->waits_for = latch;
    pnx__mutex_unlock(&lock);
    return wait(latch, &waiter, env, deadline);
}

void pnx__latch_release(struct pnx_latch *latch) {
    struct pnx_thread *self = pnx__thread();
    const struct pnx_a32 *wake = NULL;
    pnx__mutex_lock(&lock);
    forget_parent_locked(latch, self);
    if (latch->owner == self) {
        struct pnx_link *first = pnx__list_pop_front(&latch->waiters);
        latch->owner = NULL;
        if (first) {
            struct waiter *waiter = PNX_CONTAINER(first, struct waiter, link);
            latch->owner = waiter->thread;
            waiter->thread->waits_for = NULL;
            pnx_store(&waiter->granted, 1, PNX_RELAXED, "latch.grant"); /* the lock orders it */
            wake = &waiter->granted;
        }
    }
    pnx__mutex_unlock(&lock);
    if (wake)
        pnx__futex_wake(wake, 1); /* the waiter may be gone by now; only its address is used */
}

bool pnx__latch_mine(const struct pnx_latch *latch) {
    struct pnx_thread *self = pnx__thread();
    pnx__mutex_lock(&lock);
    bool mine = self && latch->owner == self;
    pnx__mutex_unlock(&lock);
    return mine;
}
