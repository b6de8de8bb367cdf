/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/fork.c - nothing is done around fork(), since there is none. */
#include "os/fork.h"

void pnx__at_fork(
        enum pnx_lock_rank rank, void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    (void)rank;
    (void)prepare;
    (void)parent;
    (void)child;
}

/* Nobody calls the functions that these stand in. */

void pnx__fork_lock(struct pnx_mutex *mutex) {
    (void)mutex;
}

void pnx__fork_unlock(struct pnx_mutex *mutex) {
    (void)mutex;
}

void pnx__fork_take(struct pnx_lock *lock) {
    (void)lock;
}

void pnx__fork_give(struct pnx_lock *lock, bool in_child) {
    (void)lock;
    (void)in_child;
}
