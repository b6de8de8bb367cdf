/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/lock.c - the long halves of os/lock.h, and the checks.
 *
 *   P1  At most one thread is in.  Who has taken word takes the bias away before it goes in: it sets it to NULL, executes
 *       the heavy barrier, and waits until the biased thread is not inside.  A biased thread that the barrier came too
 *       early for sees that the bias has gone, and retreats; one that it came too late for is seen inside.
 *   P2  What was done inside happens before what is done by whoever is in next: by word, by inside, or in one thread.
 *   P3  No sleeper is missed.  Each says that it is there, executes the heavy barrier, and looks again; whoever leaves
 *       without a look at it does so before that barrier, and is seen to have left.
 */
#include "os/lock.h"

#include "os/clock.h"
#include "os/futex.h"

#ifdef PNX_EXPLORE
#define SPINS 1
#else
#define SPINS 100
#endif
#define PATIENCE_MIN 64 /* streaks; doubled each time that a bias is taken away */
#define PATIENCE_MAX 65536

/*
 * The kernel may take membarrier away from a running process.  A nap stands for it then: by its end every
 * processor has written what it had in its buffers, and whoever sleeps looks again by itself.
 */
#define NAP (10 * PNX_MS)

static void nap(void) {
    struct pnx_a32 nobody = {0};
    pnx_ns until = pnx__os_now() + NAP;
    while (pnx__os_now() < until)
        pnx__futex_wait(&nobody, 0, until);
}

/* Returns when whoever sleeps has to look by itself: PNX_NEVER when it will be woken. */
static pnx_ns settle(void) {
    if (pnx__barrier_heavy() == 0)
        return PNX_NEVER;
    nap();
    return pnx__os_now() + NAP;
}

void pnx__lock_init(struct pnx_lock *lock, enum pnx_lock_rank rank) {
    *lock = (struct pnx_lock){.rank = (uint32_t)rank, .patience = PATIENCE_MIN};
#if defined(PNX_DEBUG) || defined(PNX_EXPLORE)
    pnx__mutex_init(&lock->model, rank);
#endif
}

/* ---- the word ---- */

static bool try_word(struct pnx_lock *lock) {
    uint32_t found = 0;
    return pnx_cas(&lock->word, &found, 1, PNX_ACQUIRE, "lock.take"); /* pairs with lock.give */
}

static void take_word(struct pnx_lock *lock) {
    for (uint32_t i = 0; i < SPINS; i++) {
        if (!pnx_load(&lock->word, PNX_RELAXED, "lock.look") && try_word(lock)) /* a hint */
            return;
        pnx__spin_hint();
    }
    /* Relaxed, both: see P3; a count that goes down late is a wake in vain. */
    pnx_fetch_add(&lock->waiters, 1, PNX_RELAXED, "lock.wait");
    pnx_ns until = settle();
    while (!try_word(lock)) {
        if (pnx__futex_wait(&lock->word, 1, until))
            until = pnx__os_now() + NAP;
    }
    pnx_fetch_sub(&lock->waiters, 1, PNX_RELAXED, "lock.waited");
}

/* ---- the bias ---- */

static bool is_outside(const struct pnx_lock *lock, const struct pnx_thread *owner) {
    /* acquire: pairs with lock.leave and lock.retreat */
    return pnx_load(&owner->inside, PNX_ACQUIRE, "lock.empty") != pnx__lock_tag(lock);
}

/* The caller has word. */
static void take_bias(struct pnx_lock *lock, const struct pnx_thread *owner) {
    pnx_store(&lock->bias, NULL, PNX_RELAXED, "lock.unbias"); /* see P1 */
    pnx_ns until = settle();
    for (uint32_t i = 0; i < SPINS && !is_outside(lock, owner); i++)
        pnx__spin_hint();
    while (!is_outside(lock, owner)) {
        if (pnx__futex_wait(&owner->inside, pnx__lock_tag(lock), until))
            until = pnx__os_now() + NAP;
    }
    if (lock->patience < PATIENCE_MAX)
        lock->patience *= 2;
}

void pnx__lock_left(struct pnx_thread *self) {
    pnx__futex_wake(&self->inside, 1);
}

/* ---- taking and giving ---- */

static void come_in(struct pnx_lock *lock, struct pnx_thread *self) {
    const struct pnx_thread *owner =
            pnx_load(&lock->bias, PNX_RELAXED, "lock.whose"); /* written under word */
    if (owner && lock->forgotten == pnx__threads_forgotten())
        take_bias(lock, owner);
    else if (owner)                                               /* its record is no more */
        pnx_store(&lock->bias, NULL, PNX_RELAXED, "lock.forget"); /* there are no other threads */
    lock->by_word = true;
    if (lock->last != self) {
        lock->last = self;
        lock->streak = 0;
    }
    lock->streak++;
}

void pnx__lock_take(struct pnx_lock *lock, struct pnx_thread *self) {
    if (!try_word(lock))
        take_word(lock);
    come_in(lock, self);
}

bool pnx__lock_try(struct pnx_lock *lock, struct pnx_thread *self) {
    if (!try_word(lock))
        return false;
    come_in(lock, self);
    return true;
}

void pnx__lock_give(struct pnx_lock *lock) {
    lock->by_word = false;
    if (lock->streak >= lock->patience && lock->last && pnx__barrier_is_asymmetric()) {
        lock->streak = 0;
        lock->forgotten = pnx__threads_forgotten();
        /* Relaxed: only we act upon it without word. */
        pnx_store(&lock->bias, lock->last, PNX_RELAXED, "lock.set_bias");
    }
    pnx_store(&lock->word, 0, PNX_RELEASE, "lock.give"); /* pairs with lock.take */
    pnx__barrier_light();                                /* see P3 */
    if (pnx_load(&lock->waiters, PNX_RELAXED, "lock.waiters"))
        pnx__futex_wake(&lock->word, 1);
}

/* ---- with ranks ---- */

#if defined(PNX_EXPLORE)
/* A suite that is about something else sees a lock of the explorer's. */
void pnx__lock(struct pnx_lock *lock) {
    pnx__mutex_lock(&lock->model);
}

bool pnx__trylock(struct pnx_lock *lock) {
    return pnx__mutex_trylock(&lock->model);
}

void pnx__unlock(struct pnx_lock *lock) {
    pnx__mutex_unlock(&lock->model);
}

void pnx__lock_assert_held(const struct pnx_lock *lock) {
    pnx__mutex_assert_held(&lock->model);
}

/* Whether it is cheap depends on what was before, and callers must do as well without: the explorer says yes.  But a
 * lock is biased to a record: to a thread without one it is never cheap. */
bool pnx__lock_cheap(struct pnx_lock *lock, struct pnx_thread *self) {
    return self && pnx__mutex_trylock(&lock->model);
}

void pnx__unlock_cheap(struct pnx_lock *lock, struct pnx_thread *self) {
    (void)self;
    pnx__mutex_unlock(&lock->model);
}
#elif defined(PNX_DEBUG)
void pnx__lock(struct pnx_lock *lock) {
    pnx__mutex_check_rank(&lock->model);
    pnx__lock_raw(lock);
    pnx__mutex_note_locked(&lock->model);
}

bool pnx__trylock(struct pnx_lock *lock) {
    if (!pnx__trylock_raw(lock))
        return false;
    pnx__mutex_note_locked(&lock->model);
    return true;
}

void pnx__unlock(struct pnx_lock *lock) {
    pnx__mutex_note_unlocked(&lock->model);
    pnx__unlock_raw(lock);
}

void pnx__lock_assert_held(const struct pnx_lock *lock) {
    pnx__mutex_assert_held(&lock->model);
}

bool pnx__lock_cheap(struct pnx_lock *lock, struct pnx_thread *self) {
    pnx__mutex_check_rank(&lock->model);
    if (!pnx__lock_enter(lock, self))
        return false;
    pnx__mutex_note_locked(&lock->model);
    return true;
}

void pnx__unlock_cheap(struct pnx_lock *lock, struct pnx_thread *self) {
    pnx__mutex_note_unlocked(&lock->model);
    pnx__lock_leave(lock, self);
}
#endif
