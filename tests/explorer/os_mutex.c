/* SPDX-License-Identifier: Apache-2.0 */
/* os_mutex.c - os/mutex.h for the explorer: a lock is a location with a holder, checked like every other. */
#include "explorer/engine.h"

static const char *const rank_names[] = {
        "NONE",
#define LOCK(name, what) #name,
#include "base/lock_ranks.def"
#undef LOCK
};

/* Outside an execution there is one thread. */
static bool idle(void) {
    return !x.self;
}

void pnx__mutex_init(struct pnx_mutex *mutex, enum pnx_lock_rank rank) {
    memset(mutex, 0, sizeof(*mutex));
    mutex->rank = (uint16_t)rank;
}

void pnx__mutex_destroy(struct pnx_mutex *mutex) {
    if (!idle() && x_loc_of(mutex)->holder)
        x_fail(X_MISUSE, "the lock %s %s is destroyed while thread %u holds it",
                rank_names[mutex->rank], x_place(mutex), x_loc_of(mutex)->holder - 1);
}

static void note_locked(const struct pnx_mutex *mutex) {
    struct pnx_thread *record = &x.self->record;
    if (record->held == PNX_HELD_MAX)
        x_fail(X_MISUSE, "more than %d locks held", PNX_HELD_MAX);
    record->rank[record->held++] = mutex->rank;
}

static void check_rank(const struct pnx_mutex *mutex) {
    const struct pnx_thread *record = &x.self->record;
    for (uint32_t i = 0; mutex->rank != PNX_RANK_NONE && i < record->held; i++) {
        if (record->rank[i] >= mutex->rank)
            x_fail(X_MISUSE, "lock order: %s while holding %s", rank_names[mutex->rank],
                    rank_names[record->rank[i]]);
    }
}

void pnx__mutex_lock(struct pnx_mutex *mutex) {
    if (idle())
        return;
    check_rank(mutex);
    x_point(X_LOCK, mutex, 0);
    x_memory_lock(x_loc_of(mutex));
    note_locked(mutex);
    if (x.trace)
        x_trace("lock  %s %s", rank_names[mutex->rank], x_place(mutex));
}

bool pnx__mutex_trylock(struct pnx_mutex *mutex) {
    if (idle())
        return true;
    x_point(X_TRYLOCK, mutex, 0);
    struct x_loc *loc = x_loc_of(mutex);
    if (x.trace)
        x_trace("try   %s %s: %s", rank_names[mutex->rank], x_place(mutex),
                loc->holder ? "held" : "got");
    if (loc->holder) {
        x_memory_note_held(loc);
        return false;
    }
    x_memory_lock(loc);
    note_locked(mutex);
    return true;
}

void pnx__mutex_unlock(struct pnx_mutex *mutex) {
    if (idle())
        return;
    x_point(X_UNLOCK, mutex, 0);
    struct x_loc *loc = x_loc_of(mutex);
    if (loc->holder != x_self() + 1)
        x_fail(X_MISUSE, "the lock %s %s is unlocked by a thread that does not hold it",
                rank_names[mutex->rank], x_place(mutex));
    x_memory_unlock(loc);
    struct pnx_thread *record = &x.self->record;
    uint32_t at = record->held;
    while (at > 0 && record->rank[at - 1] != mutex->rank)
        at--;
    for (; at > 0 && at < record->held; at++)
        record->rank[at - 1] = record->rank[at];
    record->held--;
    if (x.trace)
        x_trace("unlock %s %s", rank_names[mutex->rank], x_place(mutex));
}

void pnx__mutex_assert_held(const struct pnx_mutex *mutex) {
    if (!idle() && x_loc_of(mutex)->holder != x_self() + 1)
        x_fail(X_MISUSE, "the lock %s is not held", rank_names[mutex->rank]);
}

void pnx__mutex_assert_none_held(void) {
    if (!idle() && x.self->record.held)
        x_fail(X_MISUSE, "calling out while holding %s", rank_names[x.self->record.rank[0]]);
}
