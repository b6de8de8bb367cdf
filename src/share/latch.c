/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/latch.c - latches with owners: one word each, and one lock for all who wait.
 *
 * The word says who owns the latch.  Whoever must wait takes the lock of all latches, marks the word, so that its
 * owner will take the lock too when it releases, looks for a circle, and queues.
 *
 * Why the look along the chain of waits is exact, although words change without the lock (P2).  The chain goes
 * from a latch to its owner, and from a thread to the latch it waits for; the second step is guarded by the lock.
 *   - Each latch on it was marked under the lock by the thread before it on the chain, which still waits: so
 *     its owner cannot release without the lock, which the one who looks has.  The chain stands still, up to a
 *     thread that runs, which ends it.  For the same reason no thread on it can end, and its record is there.
 *   - A circle closes when its last thread begins to wait, never when one takes a latch: who takes one waits for
 *     nothing.  That last thread looks, and what the others did before they waited happened before, by the lock.
 *   - Waits for no latch are edges from thread to thread, which begin and end under the lock, too.
 *
 * A sleeper is woken with the latch free, and may find it taken by one who came later; after PNX_LATCH_PATIENCE, or
 * a number of such losses, the latch is handed to it instead (P1).  A waiter whose time is over and that finds the
 * latch free takes it, so no wake-up is lost with it.
 *
 * A thread that ends while it owns a latch leaves its record behind (os/thread.c), so that no other is taken for
 * the owner; who asks for the latch finds it free then, as in a forked child (P3).  Those who wait for it already are
 * served at the end of the thread, which says under the lock that it is gone: who queues later has seen that.
 *
 * Guarantees P1..P4 stand in share/latch.h.
 */
#include "share/latch.h"

#include "base/env.h"
#include "os/fork.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "share/wait.h"

#include <errno.h>
#include <pthread.h>

/* For the explorer as small as can be: what comes after them is what it is to see. */
#ifdef PNX_EXPLORE
#define SPINS  0
#define LOSSES 1
#else
#define SPINS  100 /* some 2 us: what a wake-up costs alone */
#define LOSSES 32
#endif

static struct pnx_mutex lock = PNX_MUTEX_STATIC(PNX_RANK_LATCH);
static struct pnx_link sleepers = {&sleepers, &sleepers}; /* struct waiter; the lock */

/* On its thread's stack.  Guarded by the lock; wake is also looked at by the futex. */
struct waiter {
    struct pnx_link link;   /* in the latch's queue */
    struct pnx_link asleep; /* in the list of all */
    struct pnx_thread *thread;
    struct pnx_a32 wake; /* 1: there is something to see */
    uint32_t losses;     /* how often it was woken for nothing */
    bool hurries;        /* the next release grants it the latch */
    bool granted;        /* it was */
};

/* Owners are mostly gone in no time. */
static bool spin(struct pnx_latch *latch, struct pnx_thread *self) {
    for (int i = 0; i < SPINS; i++) {
        pnx__spin_hint();
        uint64_t found = pnx_load(&latch->owner, PNX_RELAXED, "latch.spin"); /* a hint */
        if (!pnx__latch_owner(found) && pnx__latch_try(latch, self) == 0)
            return true;
    }
    return false;
}

/*
 * A fork leaves owners and waiters behind that do not exist in the child, and a thread may end as an owner; nobody
 * else gets the record of such a one.  The lock is held over a fork, so the list is whole.
 */
static void forget_the_gone_locked(
        struct pnx_latch *latch, const struct pnx_thread *self, uint64_t *found) {
    uint32_t generation = pnx__fork_generation();
    if (latch->generation != generation) {
        latch->generation = generation;
        pnx__list_init(&latch->waiters);
    }
    const struct pnx_thread *owner = pnx__latch_owner(*found);
    if (!owner || owner == self || pnx__thread_is_here(owner))
        return;
    *found = 0;
    /* release: pairs with latch.take; what the one that is gone did, which the look at its record has acquired */
    pnx_store(&latch->owner, 0, PNX_RELEASE, "latch.forget");
}

static struct pnx_thread *owner_locked(const struct pnx_latch *latch) {
    /* acquire: pairs with latch.take; the owner's record is all there */
    return pnx__latch_owner(pnx_load(&latch->owner, PNX_ACQUIRE, "latch.walk"));
}

/* Whether self is the thread, or, over any number of waits, who that one waits for. */
static bool leads_to_locked(const struct pnx_thread *thread, const struct pnx_thread *self) {
    /* Ends: every wait was checked before it began, so the chain has no circle without self. */
    while (thread && thread != self)
        thread = thread->waits_for ? owner_locked(thread->waits_for) : thread->awaits;
    return thread != NULL;
}

/* Takes the latch, or marks it so that its owner must take the lock to release it.  Returns whether taken. */
static bool take_or_mark_locked(struct pnx_latch *latch, struct pnx_thread *self) {
    for (;;) {
        if (pnx__latch_try(latch, self) == 0)
            return true;
        /* acquire: pairs with latch.take; the owner's record is all there */
        uint64_t found = pnx_load(&latch->owner, PNX_ACQUIRE, "latch.found");
        if (!pnx__latch_owner(found))
            continue;
        /* relaxed: the owner that finds the mark takes the lock before it does anything about it */
        if (!(found & PNX_LATCH_WAITED) && !pnx_cas(&latch->owner, &found, found | PNX_LATCH_WAITED,
                                                   PNX_RELAXED, "latch.mark"))
            continue;
        forget_the_gone_locked(latch, self, &found);
        if (found)
            return false;
    }
}

/* Sleeps in the queue until the latch is the caller's, or the deadline.  Begins and ends under the lock. */
static int sleep_locked(struct pnx_latch *latch, struct waiter *waiter, const struct pnx_env *env,
        pnx_ns begin, pnx_ns deadline) {
    struct pnx_thread *self = waiter->thread;
    for (;;) {
        pnx__mutex_unlock(&lock);
        int rc = pnx__wait(&waiter->wake, 0, env, deadline);
        pnx__mutex_lock(&lock);
        if (waiter->granted) {
            self->latches++;
            self->latches_end = pnx__latches_end;
            return 0;
        }
        bool taken = pnx__latch_try(latch, self) == 0; /* else it is still marked, as we are here */
        if (taken || rc == -ETIMEDOUT) {
            self->waits_for = NULL;
            pnx__list_remove(&waiter->link);
            return taken ? 0 : rc;
        }
        pnx_store(&waiter->wake, 0, PNX_RELAXED, "latch.sleep_again"); /* the lock orders it */
        waiter->hurries = ++waiter->losses >= LOSSES || pnx__now(env) - begin >= PNX_LATCH_PATIENCE;
    }
}

/* Held over a fork, so that the child finds all queues whole and the lock free. */
static void before_fork(void) {
    pnx__fork_lock(&lock);
}

static void after_fork(void) {
    pnx__fork_unlock(&lock);
}

static void after_fork_in_child(void) {
    pnx__list_init(&sleepers); /* on stacks of threads that are not here */
    pnx__fork_unlock(&lock);
}

static void register_fork(void) {
    pnx__at_fork(PNX_RANK_LATCH, before_fork, after_fork, after_fork_in_child);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

int pnx__latch_acquire(struct pnx_latch *latch, const struct pnx_env *env, pnx_ns deadline) {
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return -ENOMEM; /* an owner without a name could not be told from itself */
    pnx__mutex_assert_none_held();
    int rc = pnx__latch_try(latch, self);
    if (rc != -EBUSY)
        return rc;
    if (deadline != INT64_MIN && spin(latch, self))
        return 0;
    pthread_once(&once, register_fork);
    pnx_ns begin = pnx__now(env);
    struct waiter waiter = {.thread = self};
    pnx__mutex_lock(&lock);
    if (take_or_mark_locked(latch, self)) {
        rc = 0;
    } else if (leads_to_locked(owner_locked(latch), self)) {
        rc = -EDEADLK;
    } else if (deadline <= begin) {
        rc = -ETIMEDOUT; /* never queued: others must not take it for one who waits */
    } else {
        pnx_store(&waiter.wake, 0, PNX_RELAXED, "latch.sleep"); /* the lock orders it */
        pnx__list_push_back(&latch->waiters, &waiter.link);
        pnx__list_push_back(&sleepers, &waiter.asleep);
        self->waits_for = latch;
        rc = sleep_locked(latch, &waiter, env, begin, deadline);
        pnx__list_remove(&waiter.asleep);
    }
    pnx__mutex_unlock(&lock);
    return rc;
}

int pnx__latch_await(struct pnx_thread *other, bool waits) {
    struct pnx_thread *self = PNX_SELF; /* who waits for another has a record */
    pthread_once(&once, register_fork);
    pnx__mutex_lock(&lock);
    int rc = leads_to_locked(other, self) ? -EDEADLK : 0;
    if (rc == 0 && waits)
        self->awaits = other;
    pnx__mutex_unlock(&lock);
    return rc;
}

void pnx__latch_awaited(struct pnx_thread *thread) {
    pnx__mutex_lock(&lock);
    thread->awaits = NULL;
    pnx__mutex_unlock(&lock);
}

/* Releases a latch that was marked, and returns the word of the waiter that is to be woken, if any. */
static const struct pnx_a32 *leave_locked(struct pnx_latch *latch, const struct pnx_thread *self) {
    uint64_t found = pnx_load(&latch->owner, PNX_RELAXED, "latch.owned"); /* the owner's, ours */
    forget_the_gone_locked(latch, self, &found);
    struct pnx_link *first = pnx__list_first(&latch->waiters);
    struct waiter *waiter = first ? PNX_CONTAINER(first, struct waiter, link) : NULL;
    uint64_t word = waiter ? PNX_LATCH_WAITED : 0;
    if (waiter && waiter->hurries) {
        pnx__list_remove(&waiter->link);
        waiter->thread->waits_for = NULL;
        waiter->granted = true;
        word = pnx__latch_word(waiter->thread) | PNX_LATCH_WAITED;
    }
    /* release: pairs with latch.take; one who is granted it is ordered by the lock */
    pnx_store(&latch->owner, word, PNX_RELEASE, "latch.leave");
    if (!waiter || pnx_load(&waiter->wake, PNX_RELAXED, "latch.awake")) /* the lock orders it */
        return NULL; /* nobody, or one that was woken before and has not looked yet */
    pnx_store(&waiter->wake, 1, PNX_RELAXED, "latch.wake"); /* the lock orders it */
    return &waiter->wake;
}

void pnx__latch_release_marked(struct pnx_latch *latch) {
    pnx__mutex_lock(&lock);
    const struct pnx_a32 *wake = leave_locked(latch, PNX_SELF);
    pnx__mutex_unlock(&lock);
    if (wake)
        pnx__futex_wake(wake, 1); /* the waiter may be gone by now; only its address is used */
}

void pnx__latches_end(struct pnx_thread *owner) {
    pnx__mutex_lock(&lock);
    pnx__thread_abandon(owner);
    PNX_LIST_EACH (link, after, &sleepers) {
        struct pnx_latch *latch = PNX_CONTAINER(link, struct waiter, asleep)->thread->waits_for;
        /* Relaxed: who waits has marked it, so that it changes under the lock only. */
        if (!latch || pnx__latch_owner(pnx_load(&latch->owner, PNX_RELAXED, "latch.left")) != owner)
            continue; /* or it was just served, with the others who wait for that one */
        const struct pnx_a32 *wake = leave_locked(latch, owner);
        if (wake)
            pnx__futex_wake(wake, 1);
    }
    pnx__mutex_unlock(&lock);
}

uint32_t pnx__latch_waiters(const struct pnx_latch *latch) {
    uint32_t n = 0;
    pnx__mutex_lock(&lock);
    PNX_LIST_EACH (link, after, &sleepers)
        n += PNX_CONTAINER(link, struct waiter, asleep)->thread->waits_for == latch;
    pnx__mutex_unlock(&lock);
    return n;
}

bool pnx__latch_mine(const struct pnx_latch *latch) {
    const struct pnx_thread *self = pnx__thread();
    /* relaxed: only this thread makes itself the owner, or is made so while it sleeps */
    return self && pnx__latch_owner(pnx_load(&latch->owner, PNX_RELAXED, "latch.mine")) == self;
}
