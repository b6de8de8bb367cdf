/* SPDX-License-Identifier: Apache-2.0 */
/*
 * caller.h - one caller in a thread of its own: what it was told, when, and in which order.
 */
#ifndef PNX_TEST_POOL_CALLER_H
#define PNX_TEST_POOL_CALLER_H

#include "pool/mock.h"

/* Set by the test: with, turn, release; read after caller_join(): rc and what follows it. */
struct caller {
    struct pnx_pool *pool;
    pnx_ns timeout;
    pthread_t thread;
    const struct pnx_acquire_opts *with;
    int *turn;    /* counts grants */
    bool release; /* at once */
    int rc;
    int place; /* which grant was this one's */
    pnx_ns took;
    struct pnx_error err;
    struct pnx_lease lease;
};

static inline void *caller_main(void *arg) {
    struct caller *caller = arg;
    pnx_ns start = pnx_now();
    caller->rc = pnx_pool_acquire_with(
            caller->pool, caller->timeout, caller->with, &caller->err, &caller->lease);
    caller->took = pnx_now() - start;
    if (caller->turn && caller->rc == 0)
        caller->place = __atomic_fetch_add(caller->turn, 1, __ATOMIC_RELAXED);
    if (caller->release)
        pnx_lease_release(&caller->lease);
    return NULL;
}

static inline void caller_start(struct caller *caller, struct pnx_pool *pool, pnx_ns timeout) {
    caller->pool = pool;
    caller->timeout = timeout;
    CHECK(pthread_create(&caller->thread, NULL, caller_main, caller) == 0);
}

static inline void caller_join(struct caller *caller) {
    pthread_join(caller->thread, NULL);
}

#endif
