/* SPDX-License-Identifier: Apache-2.0 */
/* os/fork.c - fork handlers by pthread_atfork. */
#include "os/fork.h"

#include <pthread.h>

void pnx__at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    pthread_atfork(prepare, parent, child);
}

void pnx__fork_lock(struct pnx_mutex *mutex) {
    pthread_mutex_lock(&mutex->os);
}

void pnx__fork_unlock(struct pnx_mutex *mutex) {
    pthread_mutex_unlock(&mutex->os); /* in a child it is still the locking thread that unlocks */
}
