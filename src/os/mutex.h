/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/mutex.h - the mutex of the library: ranked, and with held-asserts in debug builds.
 *
 * A thread may lock a mutex only while every mutex that it holds has a lower rank; the ranks stand in
 * base/lock_ranks.def, which is the lock order of the whole library.  Violations abort in debug builds.
 */
#ifndef PNX_SRC_OS_MUTEX_H
#define PNX_SRC_OS_MUTEX_H

#include "base/atomic.h"
#include "base/lock_ranks.h"

#include <stdbool.h>
#include <stdint.h>

/* The system's lock. */
#ifdef _WIN32
struct pnx_mutex_os {
    void *word; /* an SRWLOCK */
};
void pnx__mutex_os_init(struct pnx_mutex_os *os);
void pnx__mutex_os_destroy(struct pnx_mutex_os *os);
void pnx__mutex_os_lock(struct pnx_mutex_os *os);
bool pnx__mutex_os_trylock(struct pnx_mutex_os *os);
void pnx__mutex_os_unlock(struct pnx_mutex_os *os);
#define PNX_MUTEX_OS_ \
    { NULL }
#else
#include <pthread.h>
struct pnx_mutex_os {
    pthread_mutex_t lock;
};
static inline void pnx__mutex_os_init(struct pnx_mutex_os *os) {
    pthread_mutexattr_t kind; /* as PNX_MUTEX_STATIC(): nothing here can fail on Linux */
    pthread_mutexattr_init(&kind);
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
    pthread_mutex_init(&os->lock, &kind);
    pthread_mutexattr_destroy(&kind);
}
static inline void pnx__mutex_os_destroy(struct pnx_mutex_os *os) {
    pthread_mutex_destroy(&os->lock);
}
static inline void pnx__mutex_os_lock(struct pnx_mutex_os *os) {
    pthread_mutex_lock(&os->lock);
}
static inline bool pnx__mutex_os_trylock(struct pnx_mutex_os *os) {
    return pthread_mutex_trylock(&os->lock) == 0;
}
static inline void pnx__mutex_os_unlock(struct pnx_mutex_os *os) {
    pthread_mutex_unlock(&os->lock);
}
/* What is guarded is short: who finds a mutex taken spins for a moment before it sleeps, where libc has such a kind. */
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
#define PNX_MUTEX_OS_ \
    { PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP }
#else
#define PNX_MUTEX_OS_ \
    { PTHREAD_MUTEX_INITIALIZER }
#endif
#endif

struct pnx_mutex {
    struct pnx_mutex_os os;
    uint16_t rank; /* fixed at init */
#ifdef PNX_DEBUG
    struct pnx_a64 owner; /* thread id, written by the holder; 0: nobody */
#endif
};

#define PNX_MUTEX_STATIC(lock_rank) \
    { .os = PNX_MUTEX_OS_, .rank = (lock_rank) }

void pnx__mutex_init(struct pnx_mutex *mutex, enum pnx_lock_rank rank);
void pnx__mutex_destroy(struct pnx_mutex *mutex);

#ifdef PNX_DEBUG
void pnx__mutex_lock(struct pnx_mutex *mutex);
bool pnx__mutex_trylock(struct pnx_mutex *mutex);
void pnx__mutex_unlock(struct pnx_mutex *mutex);
void pnx__mutex_assert_held(const struct pnx_mutex *mutex);
/* Aborts when the calling thread holds any lock of the library: stands before every user callback. */
void pnx__mutex_assert_none_held(void);
/* The checks alone, for os/lock.c, whose locks have a mutex that is never locked for them. */
void pnx__mutex_check_rank(const struct pnx_mutex *mutex);
void pnx__mutex_note_locked(struct pnx_mutex *mutex);
void pnx__mutex_note_unlocked(struct pnx_mutex *mutex);
#else
static inline void pnx__mutex_lock(struct pnx_mutex *mutex) {
    pnx__mutex_os_lock(&mutex->os);
}
static inline bool pnx__mutex_trylock(struct pnx_mutex *mutex) {
    return pnx__mutex_os_trylock(&mutex->os);
}
static inline void pnx__mutex_unlock(struct pnx_mutex *mutex) {
    pnx__mutex_os_unlock(&mutex->os);
}
static inline void pnx__mutex_assert_held(const struct pnx_mutex *mutex) {
    (void)mutex;
}
static inline void pnx__mutex_assert_none_held(void) {}
#endif

#endif
