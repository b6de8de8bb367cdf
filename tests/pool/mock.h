/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mock.h - a pretended server for pool tests: counts, refuses, and holds operations at gates.
 *
 * All fields are guarded by lock, which no test holds while it calls the pool.
 */
#ifndef PNX_TEST_POOL_MOCK_H
#define PNX_TEST_POOL_MOCK_H

#include "harness/harness.h"

#include <errno.h>
#include <patinox/pool.h>
#include <pthread.h>
#include <sched.h>

struct mock_resource {
    int id;
    int owner; /* atomic: whoever holds it */
    bool dead; /* closed */
    bool broken;
    int interrupted; /* how often */
};

#define MOCK_RESOURCES 65536
struct mock {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hold_connect, hold_check, hold_close;   /* gates: operations wait while true */
    bool hold_interrupt;                         /* the same */
    int connect_error, check_error, reset_error; /* what they return */
    int connect_errors;                          /* how many connects fail; -1: all */
    const char *message;                         /* what a failing connect says */
    int peek_error, verdict;                     /* the same; what classify says */
    int in_connect, in_check, in_close;          /* inside at this moment */
    int in_interrupt;
    int checks_at_once; /* most in_check so far */
    int connects, checks, resets, closes, abandons, failed;
    int peeks, interrupts;
    pthread_t peeker; /* who made the last peek */
    int live, peak;   /* resources that exist, connecting ones included */
    pnx_ns connect_deadline;
    void (*during)(struct mock *mock); /* called inside connect */
    struct pnx_pool *pool;
    int during_rc;
    struct mock_resource resources[MOCK_RESOURCES];
    int n;
};

static inline void mock_init(struct mock *mock) {
    memset(mock, 0, offsetof(struct mock, resources));
    mock->n = 0;
    CHECK(pthread_mutex_init(&mock->lock, NULL) == 0 &&
            pthread_cond_init(&mock->changed, NULL) == 0);
}

static inline struct mock *mock_new(void) {
    struct mock *mock = calloc(1, sizeof(*mock));
    CHECK(mock);
    mock_init(mock);
    return mock;
}

static inline void mock_changed(struct mock *mock) {
    pthread_cond_broadcast(&mock->changed);
}

static inline void mock_set(struct mock *mock, bool *flag, bool value) {
    pthread_mutex_lock(&mock->lock);
    *flag = value;
    mock_changed(mock);
    pthread_mutex_unlock(&mock->lock);
}

/* Waits until a counter has reached a value; fails the test after 30 s. */
static inline void mock_wait(struct mock *mock, const int *counter, int at_least) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&mock->lock);
    while (*counter < at_least) {
        int rc = pthread_cond_timedwait(&mock->changed, &mock->lock, &until);
        CHECK_MSG(rc == 0, "waited 30 s for %d, but it is %d", at_least, *counter);
    }
    pthread_mutex_unlock(&mock->lock);
}

static inline int mock_read(struct mock *mock, const int *counter) {
    pthread_mutex_lock(&mock->lock);
    int value = *counter;
    pthread_mutex_unlock(&mock->lock);
    return value;
}

static inline void mock_gate(struct mock *mock, const bool *gate, int *inside) {
    (*inside)++;
    mock_changed(mock);
    while (*gate)
        pthread_cond_wait(&mock->changed, &mock->lock);
    (*inside)--;
}

/* A resource that lives, but for its connect; the lock is held. */
static inline struct mock_resource *mock_make(struct mock *mock) {
    CHECK(mock->n < MOCK_RESOURCES);
    struct mock_resource *resource = &mock->resources[mock->n];
    resource->id = mock->n++;
    return resource;
}

static inline int mock_connect(
        void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    struct mock *mock = ctx;
    if (mock->during)
        mock->during(mock);
    pthread_mutex_lock(&mock->lock);
    if (++mock->live > mock->peak)
        mock->peak = mock->live;
    mock->connect_deadline = deadline;
    mock_gate(mock, &mock->hold_connect, &mock->in_connect);
    int rc = mock->connect_errors ? (mock->connect_error ? mock->connect_error : -ECONNREFUSED) : 0;
    if (rc) {
        if (mock->connect_errors > 0)
            mock->connect_errors--;
        if (mock->message)
            snprintf(err->message, sizeof(err->message), "%s", mock->message);
        mock->failed++;
        mock->live--;
    } else {
        mock->connects++;
        *ret_resource = mock_make(mock);
    }
    mock_changed(mock);
    pthread_mutex_unlock(&mock->lock);
    return rc;
}

static inline int mock_check(void *ctx, void *resource, pnx_ns deadline) {
    struct mock *mock = ctx;
    struct mock_resource *r = resource;
    (void)deadline;
    pthread_mutex_lock(&mock->lock);
    CHECK_MSG(!r->dead, "check of a closed resource");
    if (mock->in_check + 1 > mock->checks_at_once)
        mock->checks_at_once = mock->in_check + 1;
    mock_gate(mock, &mock->hold_check, &mock->in_check);
    mock->checks++;
    int rc = r->broken ? -EPIPE : mock->check_error;
    mock_changed(mock);
    pthread_mutex_unlock(&mock->lock);
    return rc;
}

static inline int mock_reset(void *ctx, void *resource, pnx_ns deadline) {
    struct mock *mock = ctx;
    struct mock_resource *r = resource;
    (void)deadline;
    pthread_mutex_lock(&mock->lock);
    CHECK_MSG(!r->dead, "reset of a closed resource");
    mock->resets++;
    int rc = mock->reset_error;
    pthread_mutex_unlock(&mock->lock);
    return rc;
}

static inline void mock_close(void *ctx, void *resource, pnx_ns deadline) {
    struct mock *mock = ctx;
    struct mock_resource *r = resource;
    (void)deadline;
    pthread_mutex_lock(&mock->lock);
    CHECK_MSG(!r->dead, "P4: closed twice");
    CHECK_MSG(__atomic_load_n(&r->owner, __ATOMIC_RELAXED) == 0, "closed while somebody holds it");
    r->dead = true;
    mock_gate(mock, &mock->hold_close, &mock->in_close);
    mock->closes++;
    mock->live--;
    mock_changed(mock);
    pthread_mutex_unlock(&mock->lock);
}

static inline void mock_abandon(void *ctx, void *resource) {
    struct mock *mock = ctx;
    struct mock_resource *r = resource;
    CHECK_MSG(!r->dead, "abandoned twice");
    r->dead = true;
    mock->abandons++; /* in a forked child: no lock, no other thread */
}

static inline int mock_peek(void *ctx, void *resource) {
    struct mock *mock = ctx;
    struct mock_resource *r = resource;
    pthread_mutex_lock(&mock->lock);
    CHECK_MSG(!r->dead, "peek at a closed resource");
    mock->peeks++;
    mock->peeker = pthread_self();
    int rc = r->broken ? -EPIPE : mock->peek_error;
    pthread_mutex_unlock(&mock->lock);
    return rc;
}

static inline int mock_classify(void *ctx, int code, const struct pnx_error *err) {
    struct mock *mock = ctx;
    CHECK(code < 0 && err);
    return mock_read(mock, &mock->verdict);
}

static inline void mock_interrupt(void *ctx, void *resource) {
    struct mock *mock = ctx;
    struct mock_resource *r = resource;
    pthread_mutex_lock(&mock->lock);
    CHECK_MSG(!r->dead, "interrupt of a closed resource");
    mock_gate(mock, &mock->hold_interrupt, &mock->in_interrupt);
    CHECK_MSG(!r->dead, "closed during its interrupt");
    mock->interrupts++;
    r->interrupted++;
    mock_changed(mock);
    pthread_mutex_unlock(&mock->lock);
}

static const struct pnx_pool_manager mock_manager = {
        .size = sizeof(mock_manager),
        .connect = mock_connect,
        .check = mock_check,
        .reset = mock_reset,
        .close = mock_close,
        .abandon = mock_abandon,
};
/* All that a manager may have. */
__attribute__((unused)) static const struct pnx_pool_manager mock_full = {
        .size = sizeof(mock_full),
        .connect = mock_connect,
        .check = mock_check,
        .reset = mock_reset,
        .close = mock_close,
        .abandon = mock_abandon,
        .classify = mock_classify,
        .interrupt = mock_interrupt,
};
/* The same with a peek. */
__attribute__((unused)) static const struct pnx_pool_manager mock_peeking = {
        .size = sizeof(mock_peeking),
        .connect = mock_connect,
        .check = mock_check,
        .reset = mock_reset,
        .close = mock_close,
        .abandon = mock_abandon,
        .peek = mock_peek,
        .classify = mock_classify,
        .interrupt = mock_interrupt,
};
/* The least that a manager must have. */
__attribute__((unused)) static const struct pnx_pool_manager mock_bare = {
        .size = sizeof(mock_bare),
        .connect = mock_connect,
        .close = mock_close,
};

static inline struct pnx_pool *mock_pool(
        const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts) {
    struct pnx_pool *pool = NULL;
    struct pnx_error err = {0};
    int rc = pnx_pool_create(manager, opts, &err, &pool);
    CHECK_MSG(rc == 0, "create: %s (%s)", pnx_errname(rc), err.message);
    return pool;
}

static inline struct pnx_lease mock_acquire(struct pnx_pool *pool, pnx_ns timeout) {
    struct pnx_lease lease = {0};
    struct pnx_error err = {0};
    int rc = pnx_pool_acquire(pool, timeout, &err, &lease);
    CHECK_MSG(rc == 0, "acquire: %s (%s)", pnx_errname(rc), err.message);
    return lease;
}

static inline struct mock_resource *mock_of(const struct pnx_lease *lease) {
    struct mock_resource *resource = pnx_lease_resource(lease);
    CHECK(resource);
    return resource;
}

static inline struct pnx_pool_stats mock_stats(const struct pnx_pool *pool) {
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_pool_read_stats(pool, &stats), 0);
    return stats;
}

/* Polls until the expression of pool's statistics holds; fails after 30 s. */
#define UNTIL(pool, expression) \
    do { \
        pnx_ns until_ = pnx_now() + 30 * PNX_SEC; \
        for (;;) { \
            struct pnx_pool_stats s = mock_stats(pool); \
            if (expression) \
                break; \
            CHECK_MSG(pnx_now() < until_, "waited 30 s for %s", #expression); \
            sched_yield(); \
        } \
    } while (0)

#define MOCK_END(pool) \
    do { \
        CHECK_EQ(pnx_pool_close((pool), 10 * PNX_SEC), 0); \
        pnx_pool_release(&(pool)); \
    } while (0)

#endif
