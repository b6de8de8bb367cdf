/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/lock.h - a lock for short critical sections which one thread takes far more often than all others.
 *
 * It is biased to such a thread: that one gets in and out with plain stores and loads, no read-modify-write.  Any
 * other thread first takes the bias away, which costs a system call (the heavy half of the asymmetric barrier of
 * os/thread.h); from then on the lock is a word like any other, until one thread has again taken it many times with
 * nobody else between.  Where the kernel has no membarrier it is never biased.
 *
 * Ranked and checked like os/mutex.h.  Who finds it taken spins for a moment, and then sleeps.  No order among those
 * who wait.
 */
#ifndef PNX_SRC_OS_LOCK_H
#define PNX_SRC_OS_LOCK_H

#include "base/atomic.h"
#include "os/mutex.h"
#include "os/thread.h"

/*
 * Somebody is in when word is 1, or the thread that bias names says in its record that it is inside this lock.  A
 * thread is in one lock at most by the bias.  bias changes under word only, and only a thread itself sets it to its
 * own record; who gets the record of one that has ended gets its bias too.  A bias from before all records were freed
 * (pnx__threads_forget()) is nobody's: forgotten tells, and the record is not looked at.
 */
struct pnx_lock {
    struct pnx_aptr bias;   /* record of the thread that need not take word; NULL: none */
    struct pnx_a32 word;    /* 1: a thread is in that has taken it.  A futex */
    struct pnx_a32 waiters; /* threads that sleep until word is 0, or are about to */
    bool by_word;           /* whoever is in has taken word; only who is in looks */
    /* Guarded by word. */
    uint32_t streak;         /* how often last has taken it since anybody else did */
    uint32_t patience;       /* the streak after which it is biased */
    struct pnx_thread *last; /* who took it last */
    uint32_t rank;           /* fixed at init */
    uint32_t forgotten;      /* pnx__threads_forgotten() when the bias was set */
#if defined(PNX_DEBUG) || defined(PNX_EXPLORE)
    struct pnx_mutex model; /* of the explorer; else only its owner, for the checks */
#endif
};

void pnx__lock_init(struct pnx_lock *lock, enum pnx_lock_rank rank);

/* The halves that are not short: taking the word and the bias, and giving the word back. */
void pnx__lock_take(struct pnx_lock *lock, struct pnx_thread *self);
bool pnx__lock_try(struct pnx_lock *lock, struct pnx_thread *self);
void pnx__lock_give(struct pnx_lock *lock);
/* Tells a thread that waits for this one to leave. */
void pnx__lock_left(struct pnx_thread *self);

/* What a thread inside the lock says: not 0.  Two locks may have the same, which costs a wait in vain. */
static inline uint32_t pnx__lock_tag(const struct pnx_lock *lock) {
    return (uint32_t)((uintptr_t)lock >> 3) | 1;
}

/* ---- the lock itself, without ranks ---- */

/* Gets in by the bias. */
static inline bool pnx__lock_enter(struct pnx_lock *lock, struct pnx_thread *self) {
    /* Relaxed, all: that it is we, and whether we are inside, has been written by us. */
    if (pnx_load(&lock->bias, PNX_RELAXED, "lock.mine") != self || !self ||
            pnx_load(&self->inside, PNX_RELAXED, "lock.elsewhere"))
        return false;
    pnx_store(&self->inside, pnx__lock_tag(lock), PNX_RELAXED, "lock.enter");
    /* Pairs with the heavy one in lock.c: either we see that the bias has gone, or whoever takes it sees us inside. */
    pnx__barrier_light_asymmetric();
    if (__builtin_expect(pnx_load(&lock->bias, PNX_RELAXED, "lock.still_mine") == self, 1))
        return true;
    pnx_store(&self->inside, 0, PNX_RELEASE, "lock.retreat"); /* pairs with lock.empty */
    pnx__lock_left(self);
    return false;
}

static inline void pnx__lock_raw(struct pnx_lock *lock) {
    struct pnx_thread *self = PNX_SELF;
    if (__builtin_expect(!pnx__lock_enter(lock, self), 0))
        pnx__lock_take(lock, self);
}

static inline bool pnx__trylock_raw(struct pnx_lock *lock) {
    struct pnx_thread *self = PNX_SELF;
    return __builtin_expect(pnx__lock_enter(lock, self), 1) || pnx__lock_try(lock, self);
}

/* Gets out by the bias. */
static inline void pnx__lock_leave(struct pnx_lock *lock, struct pnx_thread *self) {
    pnx_store(&self->inside, 0, PNX_RELEASE, "lock.leave"); /* pairs with lock.empty */
    pnx__barrier_light_asymmetric();                        /* as in pnx__lock_enter() */
    if (__builtin_expect(!pnx_load(&lock->bias, PNX_RELAXED, "lock.wanted"), 0))
        pnx__lock_left(self);
}

static inline void pnx__unlock_raw(struct pnx_lock *lock) {
    if (__builtin_expect(lock->by_word, 0))
        pnx__lock_give(lock);
    else
        pnx__lock_leave(lock, PNX_SELF);
}

/* ---- with ranks ---- */

#if defined(PNX_DEBUG) || defined(PNX_EXPLORE)
void pnx__lock(struct pnx_lock *lock);
bool pnx__trylock(struct pnx_lock *lock);
void pnx__unlock(struct pnx_lock *lock);
void pnx__lock_assert_held(const struct pnx_lock *lock);
/* Locks when that is cheap, and unlocks after that.  self: the calling thread's record, or NULL. */
bool pnx__lock_cheap(struct pnx_lock *lock, struct pnx_thread *self);
void pnx__unlock_cheap(struct pnx_lock *lock, struct pnx_thread *self);
#else
static inline bool pnx__lock_cheap(struct pnx_lock *lock, struct pnx_thread *self) {
    return __builtin_expect(pnx__lock_enter(lock, self), 1);
}
static inline void pnx__unlock_cheap(struct pnx_lock *lock, struct pnx_thread *self) {
    pnx__lock_leave(lock, self);
}
static inline void pnx__lock(struct pnx_lock *lock) {
    pnx__lock_raw(lock);
}
static inline bool pnx__trylock(struct pnx_lock *lock) {
    return pnx__trylock_raw(lock);
}
static inline void pnx__unlock(struct pnx_lock *lock) {
    pnx__unlock_raw(lock);
}
static inline void pnx__lock_assert_held(const struct pnx_lock *lock) {
    (void)lock;
}
#endif

#endif
