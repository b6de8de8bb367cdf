/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/mutex_os.c - the lock of os/mutex.h: an SRWLOCK, which spins for a moment before it sleeps. */
#include "os/mutex.h"

#include "os/windows/windows.h"

_Static_assert(sizeof(struct pnx_mutex_os) == sizeof(SRWLOCK), "os/mutex.h has a word for it");

static SRWLOCK *lock_of(struct pnx_mutex_os *os) {
    return (SRWLOCK *)(void *)os;
}

void pnx__mutex_os_init(struct pnx_mutex_os *os) {
    InitializeSRWLock(lock_of(os));
}

void pnx__mutex_os_destroy(struct pnx_mutex_os *os) {
    (void)os; /* it has nothing but the word */
}

void pnx__mutex_os_lock(struct pnx_mutex_os *os) {
    AcquireSRWLockExclusive(lock_of(os));
}

bool pnx__mutex_os_trylock(struct pnx_mutex_os *os) {
    return TryAcquireSRWLockExclusive(lock_of(os)) != 0;
}

void pnx__mutex_os_unlock(struct pnx_mutex_os *os) {
    ReleaseSRWLockExclusive(lock_of(os));
}
