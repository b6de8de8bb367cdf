/* SPDX-License-Identifier: Apache-2.0 */
/* os/fork.h - holding a module's locks around fork(), so that the child finds what they guard in one piece. */
#ifndef PNX_SRC_OS_FORK_H
#define PNX_SRC_OS_FORK_H

#include "os/lock.h"
#include "os/mutex.h"

/*
 * Has the functions called around each fork(), in the forking thread.  They may not allocate or call out.  prepare
 * takes locks from rank on: those of all modules are called in the order of these, whichever was there first, so that
 * a fork takes its locks in the order in which every thread does.
 */
void pnx__at_fork(
        enum pnx_lock_rank rank, void (*prepare)(void), void (*parent)(void), void (*child)(void));

/* Locks and unlocks without regard to ranks, in those functions only. */
void pnx__fork_lock(struct pnx_mutex *mutex);
void pnx__fork_unlock(struct pnx_mutex *mutex);
void pnx__fork_take(struct pnx_lock *lock);
void pnx__fork_give(struct pnx_lock *lock, bool in_child); /* where nobody waits for it any more */

#endif
