/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kit.h - what the tests of the pool's features share: an environment, resources of nobody, requests, a record of events.
 */
#ifndef PNX_TEST_POOL_KIT_H
#define PNX_TEST_POOL_KIT_H

#include "pool/ask.h"
#include "pool/caller.h"

static struct test_env te;
static struct mock *mock;

/* A pool on a virtual clock that starts at 1000 s; OPTS: without threads. */
static inline void set_up(void) {
    test_env_init(&te);
    test_env_virtual(&te, 1000 * PNX_SEC);
    mock = mock_new();
}

#define OPTS_THREADS(...) PNX_POOL_OPTS(.name = "db", .ctx = mock, .env = &te.env, __VA_ARGS__)
#define OPTS(...)         OPTS_THREADS(.flags = PNX_POOL_NO_THREADS, __VA_ARGS__)

static inline void advance(struct pnx_pool *pool, pnx_ns by) {
    test_env_advance(&te, by);
    pnx_pool_tick(pool, te.now);
}

/* Connects n resources, at most 8, and leaves them idle. */
static inline void fill(struct pnx_pool *pool, int n) {
    struct pnx_lease leases[8];
    for (int i = 0; i < n; i++)
        leases[i] = mock_acquire(pool, PNX_SEC);
    for (int i = 0; i < n; i++)
        pnx_lease_release(&leases[i]);
    pnx_pool_tick(pool, te.now); /* sees them idle */
}

static inline void tear_down(struct pnx_pool *pool) {
    MOCK_END(pool);
    CHECK_EQ(mock->live, 0);
    CHECK_EQ(mock->closes, mock->n);
    test_env_check_empty(&te);
    free(mock);
}

/* ---- a resource that is no pool's ---- */

static inline struct mock_resource *stray_new(void) {
    pthread_mutex_lock(&mock->lock);
    struct mock_resource *resource = mock_make(mock);
    if (++mock->live > mock->peak)
        mock->peak = mock->live;
    pthread_mutex_unlock(&mock->lock);
    return resource;
}

static inline void stray_close(struct mock_resource *resource) {
    mock_close(mock, resource, 0);
}

/* ---- a request, beside others ---- */

static int asks_begun; /* atomic: callbacks so far */

static inline void ask_start(
        struct ask *ask, struct pnx_pool *pool, enum pnx_priority priority, pnx_ns timeout) {
    *ask = (struct ask){.turn = &asks_begun};
    ask->request.priority = (int32_t)priority;
    ask_for(ask, pool, timeout);
}

/* It was told once, and has a lease. */
static inline bool ask_granted(const struct ask *ask) {
    CHECK(ask_calls(ask) <= 1);
    return ask_calls(ask) == 1 && ask->code == 0 && ask->lease.slot;
}

/* ---- events, one after the other: "name code cause|" ---- */

struct events {
    pthread_mutex_t lock;
    struct pnx_stats *set;
    uint32_t id;
    char all[8192];
    size_t n;
    int64_t value; /* of the last one */
};
static struct events events = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void events_note(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    CHECK_STR(event->object, "db");
    pthread_mutex_lock(&events.lock);
    events.n += (size_t)snprintf(events.all + events.n, sizeof(events.all) - events.n, "%s %d %s|",
            pnx_event_name(event->type), event->code, event->cause ? event->cause : "-");
    CHECK(events.n < sizeof(events.all));
    events.value = event->value;
    pthread_mutex_unlock(&events.lock);
}

/* A set of statistics whose events are noted; for .stats. */
static inline struct pnx_stats *events_begin(void) {
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = events_note};
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(), NULL, &events.set), 0);
    CHECK_EQ(pnx_monitor_add(events.set, &monitor, &events.id), 0);
    return events.set;
}

static inline void events_clear(void) {
    pthread_mutex_lock(&events.lock);
    events.n = 0;
    events.all[0] = '\0';
    pthread_mutex_unlock(&events.lock);
}

/* After the pool is gone. */
static inline void events_end(void) {
    CHECK_EQ(pnx_monitor_remove(events.set, events.id), 0);
    pnx_stats_release(&events.set);
}

/* The pool "db" must have this health; returns the reason. */
static inline const char *health_in(struct pnx_stats *set, enum pnx_health_status status) {
    static struct pnx_health_entry entry;
    size_t n = 0;
    CHECK_EQ(pnx_health(set, &entry, 1, &n), status);
    CHECK_EQ(n, 1);
    return entry.reason;
}

#endif
