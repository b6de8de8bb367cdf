/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/latch.h - a latch: who may run a user's function on an object next.
 *
 * Not a mutex: it is held while callbacks run, so it has an owner and a deadline, and a wait that would close a
 * circle is refused.  It says nothing about memory beyond: what one owner did is visible to the next.
 *
 *     FREE --acquire--> OWNED --release, nobody waits--> FREE
 *                         |---release, the first of those that wait is in no hurry--> FREE, and that one woken
 *                         +---release, the first one has waited for PNX_LATCH_PATIENCE--> OWNED by that one
 *
 *   P1  One owner at a time.  Those who sleep are served in the order in which they came; one who comes later, and
 *       finds the latch free, may go before them until the first of them has waited for PNX_LATCH_PATIENCE.
 *       (Handing over to a sleeper costs the time to wake it, 30 us and more, during which nobody works.)
 *   P2  A thread that owns it, or that is waited for by its owner, over whatever other latches and other waits that
 *       were made known (pnx__latch_await()), gets -EDEADLK; no other thread does.
 *   P3  A latch whose owner's thread has ended, or in a forked child exists only in the parent, is free; who waits for
 *       it then, gets it.
 *   P4  Taking a free latch and giving back one that nobody waits for is one read-modify-write each, and touches
 *       nothing but the latch.
 */
#ifndef PNX_SRC_SHARE_LATCH_H
#define PNX_SRC_SHARE_LATCH_H

#include "base/atomic.h"
#include "base/list.h"
#include "os/thread.h"

#include <patinox/base.h>

#include <errno.h>

#define PNX_LATCH_PATIENCE PNX_MS

/* Zeroed is free. */
struct pnx_latch {
    struct pnx_a64
            owner; /* address of the owner's struct pnx_thread (0: free), and PNX_LATCH_WAITED */
    struct pnx_link
            waiters; /* guarded by the lock of all latches; struct waiter, on the stacks of those who
                                wait; zeroed until somebody does */
    uint32_t generation; /* as waiters; of the process in which those wait */
    uint32_t reserved;
};
#define PNX_LATCH_WAITED \
    UINT64_C(1) /* in owner: waiters is not empty; changes under the lock only */

/*
 * Waits until the latch is the caller's, at most until deadline on env's clock.  -ETIMEDOUT, -EDEADLK (P2),
 * -ENOMEM when the thread has no record.  No lock may be held.
 */
int pnx__latch_acquire(struct pnx_latch *latch, const struct pnx_env *env, pnx_ns deadline);

/* Returns whether the calling thread owns it. */
bool pnx__latch_mine(const struct pnx_latch *latch);

/*
 * Makes a wait known that is for no latch: the calling thread waits for what only another one, which cannot end
 * meanwhile, brings about; until pnx__latch_awaited().  -EDEADLK when that one waits for this one, over whatever there is
 * between (P2): then there is no wait, nor is there when waits is false: that only asks.  Locks of smaller rank may be held.
 */
int pnx__latch_await(struct pnx_thread *other, bool waits);

/* Ends such a wait of a thread: by itself, or by the one that it waited for, before that one waits again. */
void pnx__latch_awaited(struct pnx_thread *thread);

void pnx__latch_release_marked(struct pnx_latch *latch);

/* Returns how many sleep until the latch is theirs; tests wait for it. */
uint32_t pnx__latch_waiters(const struct pnx_latch *latch);

/* At the end of a thread that owns latches: gives them to those who wait. */
void pnx__latches_end(struct pnx_thread *owner);

static inline uint64_t pnx__latch_word(const struct pnx_thread *owner) {
    return (uint64_t)(uintptr_t)owner;
}

static inline struct pnx_thread *pnx__latch_owner(uint64_t word) {
    return (struct pnx_thread *)(uintptr_t)(word & ~PNX_LATCH_WAITED);
}

/*
 * Takes the latch if it is free.  0, -EDEADLK when it is the caller's already, -EBUSY: ask pnx__latch_acquire().
 * Any lock may be held.
 */
static inline int pnx__latch_try(struct pnx_latch *latch, struct pnx_thread *self) {
    uint64_t found = 0;
    /* acquire: pairs with latch.release, latch.leave; the next owner sees what the last one did.  release: pairs with
     * latch.found, latch.walk; who meets this thread as the owner may look at its record */
    while (!pnx_cas(
            &latch->owner, &found, pnx__latch_word(self) | found, PNX_ACQ_REL, "latch.take")) {
        if (pnx__latch_owner(found))
            return pnx__latch_owner(found) == self ? -EDEADLK : -EBUSY;
    }
    self->latches++;
    self->latches_end = pnx__latches_end;
    return 0;
}

/* Hands it on; only its owner may. */
static inline void pnx__latch_release(struct pnx_latch *latch) {
    struct pnx_thread *self = PNX_SELF; /* an owner has a record */
    uint64_t found = pnx__latch_word(self);
    self->latches--;
    /* release: pairs with latch.take */
    if (!pnx_cas(&latch->owner, &found, 0, PNX_RELEASE, "latch.release"))
        pnx__latch_release_marked(latch);
}

#endif
