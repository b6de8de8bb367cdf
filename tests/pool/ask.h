/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ask.h - requests for tests: what their callbacks were told, how often, in which order, and on which thread.
 *
 * What a callback writes is published by the count of its calls; another thread waits for that.
 */
#ifndef PNX_TEST_POOL_ASK_H
#define PNX_TEST_POOL_ASK_H

#include "pool/mock.h"

struct ask {
    struct pnx_pool_request request; /* first */
    struct pnx_pool *pool;
    void (*then)(struct ask *ask); /* called inside the callback, at its end */
    struct ask *other;             /* for then */
    int *turn;                     /* counts callbacks */
    int calls;                     /* atomic */
    int code;
    int place; /* which callback was this one */
    int rc;    /* of what then did */
    struct pnx_lease lease;
    struct pnx_error err; /* of a failure */
    pthread_t thread;
    pnx_ns at;
};

static _Thread_local int ask_depth; /* callbacks on this thread's stack */

static inline void ask_done(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    struct ask *ask = (struct ask *)request;
    CHECK_MSG(++ask_depth == 1, "P13: a callback inside a callback");
    CHECK_MSG((code == 0) == (lease.slot != NULL), "a lease comes with success only");
    CHECK_MSG((code == 0) == (err == NULL), "an error comes with failure only");
    ask->code = code;
    ask->lease = lease;
    ask->at = pnx_now();
    ask->thread = pthread_self();
    if (err) {
        CHECK_EQ(err->code, code);
        ask->err = *err;
    }
    if (ask->turn)
        ask->place = __atomic_fetch_add(ask->turn, 1, __ATOMIC_RELAXED);
    if (ask->then)
        ask->then(ask);
    ask_depth--;
    __atomic_add_fetch(&ask->calls, 1, __ATOMIC_RELEASE); /* from here on it is the test's */
}

static inline int ask_calls(const struct ask *ask) {
    return __atomic_load_n(&ask->calls, __ATOMIC_ACQUIRE);
}

/* Asks; the ask must be zeroed but for what the test has set. */
static inline void ask_for(struct ask *ask, struct pnx_pool *pool, pnx_ns timeout) {
    ask->pool = pool;
    ask->request.done = ask_done;
    ask->request.timeout = timeout;
    CHECK_EQ(pnx_pool_acquire_async(pool, &ask->request), 0);
}

static inline void ask_await(const struct ask *ask) {
    pnx_ns until = pnx_now() + 30 * PNX_SEC;
    while (ask_calls(ask) == 0) {
        CHECK_MSG(pnx_now() < until, "waited 30 s for a callback");
        sched_yield();
    }
}

/* It was called once, with success. */
static inline void ask_check_granted(const struct ask *ask) {
    CHECK_EQ(ask_calls(ask), 1);
    CHECK_MSG(ask->code == 0, "%s", pnx_errname(ask->code));
}

/* It was called once, with this error and phase. */
static inline void ask_check_failed(const struct ask *ask, int code, const char *phase) {
    CHECK_EQ(ask_calls(ask), 1);
    CHECK_MSG(ask->code == code, "%s, not %s", pnx_errname(ask->code), pnx_errname(code));
    CHECK_STR(ask->err.phase, phase);
    CHECK(!ask->lease.slot);
}

static inline void ask_release(struct ask *ask) {
    pnx_lease_release(&ask->lease);
}

#endif
