/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cancellation matrix: whatever each callback does, and whenever callers give up, a pool keeps its size and is usable
 * afterwards.
 *
 * A cell of the matrix is a pool of two resources with eight callers.  Each of its callbacks either succeeds, or fails, or is
 * slow, or does not return until the test lets it go.  Half of the callers block, with short timeouts, the others make
 * requests and cancel them.  Five callbacks take all their 1024 combinations; the sixth, after_release, takes the sum of
 * their ways, so that each five of the six meet in all their ways.  With a sanitizer the ordinary run takes each seventh,
 * from one that the seed says: the others come in other runs.
 */
#include "harness/harness.h"

#include <errno.h>
#include <patinox/pool.h>
#include <pthread.h>
#include <sched.h>

enum { CONNECT, CHECK_IT, RESET, AFTER_CONNECT, BEFORE_ACQUIRE, AFTER_RELEASE, GATES };
enum { SUCCEEDS, FAILS, SLOW, NEVER, WAYS };
enum { CELLS = 1024, CALLERS = 8, MAX = 2, RESOURCES = 64 };

struct resource {
    bool free; /* atomic: not made, or closed */
    int users; /* atomic: callbacks and holders at this moment; at most one */
};

struct cell {
    int ways[GATES];
    struct pnx_pool *pool;
    uint64_t seed;
    int rounds;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open;         /* lock, and atomic: all gates; everything succeeds from now on */
    int done;          /* lock: callers that have ended their rounds */
    int stuck;         /* lock: callers that wait at a gate, or for their callback */
    int live, granted; /* atomic */
    unsigned made, closed;
    struct resource resources[RESOURCES];
};

static struct test_env te;
static struct cell *cell;
static pthread_barrier_t barrier;
static _Thread_local bool is_caller;

static void wait_locked(const bool *flag) {
    cell->stuck += is_caller;
    pthread_cond_broadcast(&cell->changed);
    while (!*flag)
        pthread_cond_wait(&cell->changed, &cell->lock);
    cell->stuck -= is_caller;
}

/* Takes the lock only to wait: callers must not have to fight for it with callbacks. */
static int gate(int which) {
    int way = __atomic_load_n(&cell->open, __ATOMIC_RELAXED) ? SUCCEEDS : cell->ways[which];
    if (way == NEVER) {
        pthread_mutex_lock(&cell->lock);
        wait_locked(&cell->open);
        pthread_mutex_unlock(&cell->lock);
    }
    for (int i = 0; way == SLOW && i < 10; i++)
        sched_yield();
    return way == FAILS ? -EPIPE : 0;
}

/* A callback for a resource: P3, nothing else uses it meanwhile. */
static int gate_for(int which, void *resource) {
    struct resource *r = resource;
    CHECK_EQ(__atomic_exchange_n(&r->users, 1, __ATOMIC_RELAXED), 0);
    CHECK(!__atomic_load_n(&r->free, __ATOMIC_RELAXED));
    int rc = gate(which);
    CHECK_EQ(__atomic_exchange_n(&r->users, 0, __ATOMIC_RELAXED), 1);
    return rc;
}

static int cell_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx, (void)deadline, (void)err;
    int live = __atomic_add_fetch(&cell->live, 1, __ATOMIC_RELAXED);
    CHECK_MSG(live <= MAX, "P1: %d resources", live);
    int rc = gate(CONNECT);
    if (rc) {
        __atomic_sub_fetch(&cell->live, 1, __ATOMIC_RELAXED);
        return rc;
    }
    /* in turn: a hook that refuses everything has them made and closed as fast as they come */
    unsigned i = __atomic_fetch_add(&cell->made, 1, __ATOMIC_RELAXED);
    while (!__atomic_exchange_n(&cell->resources[i % RESOURCES].free, false, __ATOMIC_ACQUIRE))
        i++;
    *ret_resource = &cell->resources[i % RESOURCES];
    return 0;
}

static int cell_check(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx, (void)deadline;
    return gate_for(CHECK_IT, resource);
}

static int cell_reset(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx, (void)deadline;
    return gate_for(RESET, resource);
}

static int cell_after_connect(void *arg, void *resource, pnx_ns deadline, struct pnx_error *err) {
    (void)arg, (void)deadline, (void)err;
    return gate_for(AFTER_CONNECT, resource);
}

static int cell_before_acquire(void *arg, void *resource) {
    (void)arg;
    return gate_for(BEFORE_ACQUIRE, resource);
}

static int cell_after_release(void *arg, void *resource) {
    (void)arg;
    return gate_for(AFTER_RELEASE, resource);
}

static void cell_close(void *ctx, void *resource, pnx_ns deadline) {
    struct resource *r = resource;
    (void)ctx, (void)deadline;
    CHECK_EQ(__atomic_load_n(&r->users, __ATOMIC_RELAXED), 0);
    __atomic_add_fetch(&cell->closed, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&cell->live, 1, __ATOMIC_RELAXED);
    CHECK_MSG(!__atomic_exchange_n(&r->free, true, __ATOMIC_RELEASE), "P4: closed twice");
}

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager),
        .connect = cell_connect,
        .check = cell_check,
        .reset = cell_reset,
        .close = cell_close,
};
static const struct pnx_pool_hooks hooks = {
        .size = sizeof(hooks),
        .after_connect = cell_after_connect,
        .before_acquire = cell_before_acquire,
        .after_release = cell_after_release,
};

/* ---- callers ---- */

static void use(struct pnx_lease *lease, uint64_t dice) {
    struct resource *r = pnx_lease_resource(lease);
    CHECK(r);
    CHECK_EQ(__atomic_exchange_n(&r->users, 1, __ATOMIC_RELAXED), 0);
    CHECK(!__atomic_load_n(&r->free, __ATOMIC_RELAXED));
    __atomic_add_fetch(&cell->granted, 1, __ATOMIC_RELAXED);
    CHECK_EQ(__atomic_exchange_n(&r->users, 0, __ATOMIC_RELAXED), 1);
    if (dice % 8 == 0)
        pnx_lease_discard(lease);
    else
        pnx_lease_release(lease);
}

static void block_once(uint64_t dice) {
    struct pnx_lease lease = {0};
    int rc = pnx_pool_acquire(cell->pool, (pnx_ns)(dice / 64 % 100000), NULL, &lease);
    CHECK_MSG(rc == 0 || rc == -ETIMEDOUT, "%s", pnx_errname(rc));
    if (rc == 0)
        use(&lease, dice);
}

struct asker {
    struct pnx_pool_request request; /* first */
    uint64_t dice;
    bool called; /* lock */
    struct pnx_lease lease;
};

static void told(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    struct asker *asker = (struct asker *)request;
    (void)err;
    CHECK_MSG(code == 0 || code == -ETIMEDOUT || code == -ECANCELED, "%s", pnx_errname(code));
    if (code == 0 && asker->dice % 2) /* here, or where the caller is */
        use(&lease, asker->dice);
    pthread_mutex_lock(&cell->lock);
    CHECK_MSG(!asker->called, "P13: called twice");
    asker->called = true;
    asker->lease = lease;
    pthread_cond_broadcast(&cell->changed);
    pthread_mutex_unlock(&cell->lock);
}

static void ask_once(uint64_t dice) {
    struct asker asker = {
            .request = {.done = told, .timeout = dice % 4 ? PNX_SEC : (pnx_ns)(dice / 64 % 100000)},
            .dice = dice / 4};
    CHECK_EQ(pnx_pool_acquire_async(cell->pool, &asker.request), 0);
    for (uint64_t i = dice / 16 % 16; i > 0; i--)
        sched_yield();
    int rc = pnx_pool_cancel(&asker.request);
    pthread_mutex_lock(&cell->lock);
    CHECK(rc == 0 || rc == -EALREADY);
    CHECK_MSG(rc || !asker.called, "P13: cancelled, and called");
    if (rc)
        wait_locked(&asker.called);
    pthread_mutex_unlock(&cell->lock);
    if (asker.lease.slot)
        use(&asker.lease, dice);
}

static void be_caller(unsigned index) {
    uint64_t random = cell->seed + index;
    for (int i = 0; i < cell->rounds; i++) {
        uint64_t dice = test_random(&random);
        if (index % 2)
            block_once(dice);
        else
            ask_once(dice);
    }
    pthread_mutex_lock(&cell->lock);
    cell->done++;
    pthread_cond_broadcast(&cell->changed);
    pthread_mutex_unlock(&cell->lock);
}

/* ---- cells ---- */

/* The combination of this number. */
static void set_ways(int number) {
    int sum = 0;
    for (int i = 0; i < GATES - 1; i++, number /= WAYS) {
        cell->ways[i] = number % WAYS;
        sum += cell->ways[i];
    }
    cell->ways[AFTER_RELEASE] = sum % WAYS;
}

static void begin_cell(int number, uint64_t seed) {
    memset(cell, 0, offsetof(struct cell, lock));
    cell->open = false;
    cell->done = cell->stuck = cell->live = cell->granted = 0;
    cell->made = cell->closed = 0;
    cell->seed = seed;
    cell->rounds = test_long() ? 30 : 3;
    for (int i = 0; i < RESOURCES; i++)
        cell->resources[i] = (struct resource){.free = true};
    set_ways(number);
    int rc = pnx_pool_create(&manager,
            PNX_POOL_OPTS(.max = MAX, .hooks = &hooks, .env = &te.env, .check_after_ns = 1,
                    .backoff_ns = 20 * PNX_US, .backoff_max_ns = 50 * PNX_US,
                    .breaker_failures = UINT32_MAX, .flags = seed % 2 ? PNX_POOL_NO_THREADS : 0),
            NULL, &cell->pool);
    CHECK_EQ(rc, 0);
}

/* Waits until nobody gets on any more, then lets all go. */
static void open_gates(void) {
    pthread_mutex_lock(&cell->lock);
    while (cell->done + cell->stuck < CALLERS)
        pthread_cond_wait(&cell->changed, &cell->lock);
    __atomic_store_n(&cell->open, true, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&cell->changed);
    while (cell->done < CALLERS)
        pthread_cond_wait(&cell->changed, &cell->lock);
    pthread_mutex_unlock(&cell->lock);
}

static void end_cell(void) {
    struct pnx_lease leases[MAX] = {{0}};
    struct pnx_pool_stats stats = {.size = sizeof(stats)};
    for (int i = 0; i < MAX; i++)
        CHECK_EQ(pnx_pool_acquire(cell->pool, 30 * PNX_SEC, NULL, &leases[i]), 0);
    CHECK_EQ(pnx_pool_read_stats(cell->pool, &stats), 0);
    CHECK_EQ(stats.waiting, 0);
    CHECK_EQ(stats.in_use, MAX);
    CHECK_EQ(stats.misuses, 0);
    for (int i = 0; i < MAX; i++)
        pnx_lease_release(&leases[i]);
    CHECK_EQ(pnx_pool_close(cell->pool, 30 * PNX_SEC), 0);
    pnx_pool_release(&cell->pool);
    CHECK_EQ(cell->live, 0);
    CHECK_EQ(cell->closed, cell->made);
    test_env_check_empty(&te);
}

/* Thread 0 is the test; the others are the callers of all cells. */
static void run_matrix(unsigned index, void *ctx) {
    int *granted = ctx;
    uint64_t seed = test_seed();
    int step = test_slow() && !test_long() ? 7 : 1;
    is_caller = index > 0;
    for (int number = (int)(seed % (uint64_t)step); number < CELLS; number += step) {
        if (index == 0)
            begin_cell(number, test_random(&seed));
        pthread_barrier_wait(&barrier);
        if (index == 0) {
            open_gates();
            end_cell();
            *granted += cell->granted;
        } else {
            be_caller(index - 1);
        }
        pthread_barrier_wait(&barrier);
    }
}

TEST_LIMIT(whatever_callbacks_do_and_whenever_callers_give_up_the_pool_keeps_its_size_and_is_usable,
        300) {
    test_env_init(&te);
    cell = calloc(1, sizeof(*cell));
    CHECK(cell && pthread_mutex_init(&cell->lock, NULL) == 0 &&
            pthread_cond_init(&cell->changed, NULL) == 0);
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, CALLERS + 1), 0);
    int granted = 0;
    test_threads(CALLERS + 1, run_matrix, &granted);
    CHECK(granted > 0);
    pthread_barrier_destroy(&barrier);
    free(cell);
}
