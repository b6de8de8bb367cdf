/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/latch.h - a latch: who may run a user's function on an object next.
 *
 * Not a mutex: it is held while callbacks run, so it has an owner and a deadline, and a wait that would close a
 * circle is refused.  It says nothing about memory beyond: what one owner did is visible to the next.
 *
 *     FREE --acquire--> OWNED --release, nobody waits--> FREE
 *                         +----release, one waits--> OWNED by the one that waited longest
 *
 *   P1  One owner at a time; waiters are served in the order in which they came.
 *   P2  A thread that owns it, or that is waited for by its owner, over whatever other latches, gets -EDEADLK.
 *   P3  In a forked child, a latch whose owner exists only in the parent is free.
 */
#ifndef PNX_SRC_SHARE_LATCH_H
#define PNX_SRC_SHARE_LATCH_H

#include "base/list.h"

#include <patinox/base.h>

struct pnx_thread;

/* Zeroed is free.  Guarded by the lock of all latches. */
struct pnx_latch {
    struct pnx_thread *owner; /* NULL: free */
    struct pnx_link
            waiters; /* struct waiter, on the stacks of those who wait; zeroed until somebody does */
    uint32_t generation; /* of the owner's process */
    uint32_t reserved;
};

/*
 * Waits until the latch is the caller's, at most until deadline on env's clock.  -ETIMEDOUT, -EDEADLK (P2),
 * -ENOMEM when the thread has no record.  No lock may be held.
 */
int pnx__latch_acquire(struct pnx_latch *latch, const struct pnx_env *env, pnx_ns deadline);

/* Hands it on; only its owner may. */
void pnx__latch_release(struct pnx_latch *latch);

/* Returns whether the calling thread owns it. */
bool pnx__latch_mine(const struct pnx_latch *latch);

#endif
