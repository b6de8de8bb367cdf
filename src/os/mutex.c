/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/mutex.c - ranked mutexes over the system's.
 *
 *   P1  In debug builds, locking against the rank order, unlocking what one does not hold, and calling
 *       out while holding a lock abort with a line on standard error naming both ranks.
 */
#include "os/mutex.h"

#include "os/thread.h"

void pnx__mutex_init(struct pnx_mutex *mutex, enum pnx_lock_rank rank) {
    pnx__mutex_os_init(&mutex->os);
    mutex->rank = (uint16_t)rank;
#ifdef PNX_DEBUG
    mutex->owner = (struct pnx_a64){0};
#endif
}

void pnx__mutex_destroy(struct pnx_mutex *mutex) {
    pnx__mutex_os_destroy(&mutex->os);
}

#ifdef PNX_DEBUG
#include <stdio.h>
#include <stdlib.h>

static const char *const rank_names[] = {
        "NONE",
#define LOCK(name, what) #name,
#include "base/lock_ranks.def"
#undef LOCK
};

/* The one place that prints: a debug build that found a bug in the library and is about to abort. */
static _Noreturn void rank_bug(const char *what, uint16_t rank, const struct pnx_thread *self) {
    fprintf(stderr, "patinox: lock order: %s %s", what, rank_names[rank]);
    for (uint32_t i = 0; self && i < self->held; i++)
        fprintf(stderr, "%s%s", i == 0 ? " while holding " : ", ", rank_names[self->rank[i]]);
    fputc('\n', stderr);
    abort();
}

/* The owner when the holder has no record, for want of memory: nothing is checked then. */
#define OWNER_UNKNOWN UINT64_MAX

/* Relaxed: a thread compares the owner only with its own number, which only itself writes. */
static uint64_t owner_of(const struct pnx_mutex *mutex) {
    return pnx_load(&mutex->owner, PNX_RELAXED, "mutex.owner");
}

static void set_owner(struct pnx_mutex *mutex, uint64_t owner) {
    pnx_store(&mutex->owner, owner, PNX_RELAXED, "mutex.set_owner"); /* see owner_of() */
}

void pnx__mutex_note_locked(struct pnx_mutex *mutex) {
    struct pnx_thread *self = pnx__thread();
    set_owner(mutex, self ? self->id : OWNER_UNKNOWN);
    if (!self)
        return;
    if (self->held >= PNX_HELD_MAX)
        rank_bug("too many locks held, adding", mutex->rank, self);
    self->rank[self->held++] = mutex->rank;
}

void pnx__mutex_check_rank(const struct pnx_mutex *mutex) {
    const struct pnx_thread *self = pnx__thread();
    for (uint32_t i = 0; self && mutex->rank != PNX_RANK_NONE && i < self->held; i++) {
        if (self->rank[i] >= mutex->rank)
            rank_bug("locking", mutex->rank, self);
    }
}

void pnx__mutex_lock(struct pnx_mutex *mutex) {
    pnx__mutex_check_rank(mutex);
    pnx__mutex_os_lock(&mutex->os);
    pnx__mutex_note_locked(mutex);
}

bool pnx__mutex_trylock(struct pnx_mutex *mutex) {
    if (!pnx__mutex_os_trylock(&mutex->os))
        return false;
    pnx__mutex_note_locked(mutex);
    return true;
}

/* Strikes the rank that was noted last; locks may be released in any order. */
static void strike(struct pnx_thread *self, uint16_t rank) {
    uint32_t at = self->held;
    while (at > 0 && self->rank[at - 1] != rank)
        at--;
    if (at == 0)
        return;
    for (; at < self->held; at++)
        self->rank[at - 1] = self->rank[at];
    self->held--;
}

void pnx__mutex_note_unlocked(struct pnx_mutex *mutex) {
    struct pnx_thread *self = pnx__thread();
    if (owner_of(mutex) != OWNER_UNKNOWN && self) {
        if (owner_of(mutex) != self->id)
            rank_bug("unlocking, without holding it,", mutex->rank, self);
        strike(self, mutex->rank);
    }
    set_owner(mutex, 0);
}

void pnx__mutex_unlock(struct pnx_mutex *mutex) {
    pnx__mutex_note_unlocked(mutex);
    pnx__mutex_os_unlock(&mutex->os);
}

void pnx__mutex_assert_held(const struct pnx_mutex *mutex) {
    struct pnx_thread *self = pnx__thread();
    uint64_t owner = owner_of(mutex);
    if (self && owner != self->id && owner != OWNER_UNKNOWN)
        rank_bug("not held:", mutex->rank, self);
}

void pnx__mutex_assert_none_held(void) {
    struct pnx_thread *self = pnx__thread();
    if (self && self->held)
        rank_bug("calling out;", PNX_RANK_NONE, self);
}
#endif
