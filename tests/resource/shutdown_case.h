/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the shutdown share: resources whose cleanups write down when they ran, and end as told. */
#ifndef PNX_TESTS_RESOURCE_SHUTDOWN_CASE_H
#define PNX_TESTS_RESOURCE_SHUTDOWN_CASE_H

#include "harness/harness.h"
#include "os/futex.h"
#include "resource/shutdown.h"

#include <patinox/shutdown.h>

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <unistd.h>

/* A deadline that is never reached: only a test that fails takes so long. */
#define LONG (100 * PNX_SEC)

/* The numbers of the items, in the order in which their cleanups began: whoever sees n_order sees all about them. */
enum { ORDER_MAX = 4096 };
static int order[ORDER_MAX];
static int n_order;
static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;

static inline int n_ordered(void) {
    return __atomic_load_n(&n_order, __ATOMIC_ACQUIRE);
}

/* The clock of registries made by on_virtual_time(), which only the test moves. */
static struct test_env te;

static inline pnx_ns now_of_case(void) {
    return te.virtual_time ? __atomic_load_n(&te.now, __ATOMIC_RELAXED) : pnx_now();
}

/* A resource.  All fields but number may stay zero. */
struct item {
    int number;
    int code;         /* what its cleanup returns ... */
    int again;        /* ... but so many times -EAGAIN before; negative: always */
    sem_t *entered;   /* posted when its cleanup begins */
    sem_t *go;        /* waited for before it ends */
    bool pends;       /* it ends later, by completion */
    bool until_asked; /* runs until it is asked to hurry */
    bool was_asked;   /* ... and was */
    int calls;        /* of its cleanup */
    pnx_ns deadline;  /* what it was told */
    pnx_ns at[16];    /* when its cleanup was called, on the clock of its registry */
    pthread_t thread; /* ... last */
    pnx_resource_id id;
    struct pnx_completion completion;
};

static inline int end_item(void *arg, const struct pnx_cancel *cancel) {
    struct item *item = arg;
    item->thread = pthread_self();
    item->deadline = pnx_cancel_deadline(cancel);
    if (item->calls < 16)
        item->at[item->calls] = now_of_case();
    if (item->pends)
        CHECK_EQ(pnx_cancel_pend(cancel, &item->completion), 0);
    int call = __atomic_fetch_add(&item->calls, 1, __ATOMIC_ACQ_REL);
    pthread_mutex_lock(&order_lock);
    CHECK(n_order < ORDER_MAX);
    order[n_order] = item->number;
    __atomic_store_n(&n_order, n_order + 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&order_lock);
    if (item->entered)
        sem_post(item->entered);
    while (item->until_asked && !item->was_asked) {
        item->was_asked = pnx_cancel_requested(cancel);
        usleep(1000); /* polling is what a cleanup in the middle of its work does */
    }
    if (item->go)
        sem_wait(item->go);
    int again = __atomic_load_n(&item->again, __ATOMIC_RELAXED);
    if (again < 0 || call < again)
        return -EAGAIN;
    return item->pends ? -EINPROGRESS : item->code;
}

static inline int calls_of(struct item *item) {
    return __atomic_load_n(&item->calls, __ATOMIC_ACQUIRE);
}

static inline struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

static inline struct pnx_registry *on_virtual_time(void) {
    struct pnx_registry *registry;
    test_env_init(&te);
    test_env_virtual(&te, PNX_SEC);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    return registry;
}

/* Lets time pass, and has the leader of a shutdown look at the clock. */
static inline void pass(struct pnx_registry *registry, pnx_ns by) {
    test_env_advance(&te, by);
    pnx_fetch_add(
            &registry->changed, 1, PNX_RELEASE, "test.pass"); /* pairs with shutdown.changed */
    pnx__futex_wake(&registry->changed, INT_MAX);
    sched_yield();
}

static inline void pass_until(struct pnx_registry *registry, pnx_ns time) {
    pass(registry, time - now_of_case());
}

/*
 * Whether nothing more comes about by itself while the time stands still: the leader has seen all there was to see, and
 * nobody runs or starts a cleanup, but those that are overdue.
 */
static inline bool is_quiet(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    const struct pnx_shutdown_sweep *sweep = &state->sweep;
    pnx_ns now = now_of_case();
    uint32_t changed = pnx_load(&registry->changed, PNX_RELAXED, "test.quiet");
    pnx__mutex_lock(&state->lock);
    bool idle = !state->active && !pnx__order_has_turn_locked(state, now);
    bool seen = state->seen == changed && state->until > now;
    if (!state->whole)
        seen = seen && sweep->after == UINT64_MAX && !sweep->stirred && sweep->changed == changed;
    bool quiet = state->over || (idle && seen);
    pnx__mutex_unlock(&state->lock);
    return quiet;
}

static inline void await_quiet(struct pnx_registry *registry) {
    while (!is_quiet(registry))
        sched_yield();
}

/*
 * A millisecond passes, or the pause before the next try, in less than that: while a test waits for what must come about in
 * time.  Only when all has been done that was due before, or the time would be over before a thread that is slow has done
 * its part.
 */
static inline void creep(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    await_quiet(registry);
    pnx__mutex_lock(&state->lock);
    pnx_ns whole = state->again ? state->again->due : PNX_NEVER;
    pnx_ns swept = state->sweep.again ? state->sweep.retry_at : PNX_NEVER;
    bool tries = state->until == (state->whole ? whole : swept) && state->until != PNX_NEVER;
    pnx_ns next = tries ? state->until : now_of_case() + PNX_MS;
    pnx__mutex_unlock(&state->lock);
    pass_until(registry, next);
}

static inline pnx_resource_id add_with(struct pnx_registry *registry, struct item *item,
        pnx_resource_id parent, uint32_t flags, int32_t priority) {
    char name[32];
    snprintf(name, sizeof(name), "item %d", item->number);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "item", .name = name, .cleanup = end_item, .arg = item,
                             .parent = parent, .bytes = 100, .flags = flags, .priority = priority),
                     NULL, &item->id),
            0);
    return item->id;
}

static inline pnx_resource_id add(
        struct pnx_registry *registry, struct item *item, pnx_resource_id parent) {
    return add_with(registry, item, parent, 0, PNX_PRIORITY_DEFAULT);
}

static inline struct pnx_shutdown_counts counts_of(const struct pnx_shutdown_report *report) {
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    return counts;
}

/* done, failed, abandoned, leaked; nothing was suppressed */
#define CHECK_COUNTS(report, d, f, a, l) \
    do { \
        struct pnx_shutdown_counts c_ = counts_of(report); \
        CHECK_EQ(c_.done, d); \
        CHECK_EQ(c_.failed, f); \
        CHECK_EQ(c_.abandoned, a); \
        CHECK_EQ(c_.leaked, l); \
        CHECK_EQ(c_.suppressed, 0); \
    } while (0)

/* Waits until the cleanups have been called so often.  The last of them may still run: see await_rows(). */
static inline void await_calls(int n) {
    while (n_ordered() < n)
        sched_yield();
}

/* Waits until no more than so many rows are there: the others have ended, whatever the time. */
static inline void await_rows(const struct pnx_registry *registry, size_t n) {
    while (pnx_registry_count(registry) > n)
        sched_yield();
}

/* A thread beside the test. */
static inline pthread_t begin(void *(*run)(void *ctx), void *ctx) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, run, ctx), 0);
    return thread;
}

/* A shutdown on a thread of its own. */
struct shutting {
    struct pnx_registry *registry;
    pnx_ns timeout;
    struct pnx_shutdown_report *report;
    int result;
    pthread_t thread;
};

static inline void *shut_down(void *ctx) {
    struct shutting *shutting = ctx;
    shutting->result =
            pnx_registry_shutdown(shutting->registry, shutting->timeout, &shutting->report);
    return NULL;
}

/* Begins it, and returns when it has asked all rows: they are its members. */
static inline void begin_shutdown(
        struct shutting *shutting, struct pnx_registry *registry, pnx_ns timeout) {
    *shutting = (struct shutting){.registry = registry, .timeout = timeout};
    shutting->thread = begin(shut_down, shutting);
    for (bool begun = false; !begun;) {
        pnx__mutex_lock(&registry->shutdown->lock);
        begun = registry->shutdown->members != NULL;
        pnx__mutex_unlock(&registry->shutdown->lock);
        sched_yield();
    }
}

static inline int end_shutdown(struct shutting *shutting) {
    CHECK_EQ(pthread_join(shutting->thread, NULL), 0);
    return shutting->result;
}

/* The outcome of a row in a report; 0 when it is not there. */
struct sought {
    pnx_resource_id id;
    struct pnx_resource_info info;
};

static inline int seek(void *ctx, const struct pnx_resource_info *info) {
    struct sought *sought = ctx;
    if (info->id == sought->id)
        sought->info = *info;
    return 0;
}

static inline struct pnx_resource_info outcome_of(
        const struct pnx_shutdown_report *report, pnx_resource_id id) {
    struct sought sought = {.id = id};
    CHECK_EQ(pnx_shutdown_report_each(report, seek, &sought), 0);
    return sought.info;
}

#endif
