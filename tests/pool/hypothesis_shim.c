/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hypothesis_shim.c - one pool without threads behind flat functions with integers, for test_hypothesis.py.
 *
 * The clock is virtual, connects do what the test has said in advance, and whatever calls back goes into a log, so that
 * all that happens does so inside a call, and the same each time.  One pool at a time, one thread.
 */
#include "base/atomic.h"
#include "harness/shim.h"

#include <patinox/pool.h>
#include <stdlib.h>
#include <string.h>

#define RESOURCES 4096
#define REQUESTS  16
#define EVENTS    4096

/* The numbers stand in test_hypothesis.py, too. */
enum event { CONNECTED, FAILED, CLOSED, DONE, INTERRUPTED };

struct entry {
    int32_t event;
    int32_t who; /* resource, request, or verdict */
    int32_t code;
    int32_t resource;
};

static struct world {
    struct pnx_pool *pool;
    int32_t resources; /* made so far; the next one's number */
    int32_t verdicts[RESOURCES];
    int32_t n_verdicts, next_verdict;
    struct pnx_lease leases[RESOURCES]; /* of the resource of that number */
    struct pnx_lease copies[RESOURCES]; /* the last one that was given back */
    struct pnx_pool_request requests[REQUESTS];
    struct entry log[EVENTS];
    int32_t logged;
} w;

#ifdef PNX_DEBUG
extern struct pnx_a32 pnx__pool_tolerate_misuse;
#endif

static void note(enum event event, int32_t who, int32_t code, int32_t resource) {
    if (w.logged == EVENTS)
        abort(); /* there is no end of it */
    w.log[w.logged++] = (struct entry){(int32_t)event, who, code, resource};
}

static void *pointer_to(int32_t id) {
    return (void *)(uintptr_t)(id + 1);
}

static int32_t number_of(const void *resource) {
    return (int32_t)(uintptr_t)resource - 1;
}

/* ---- the manager ---- */

static int do_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    int32_t verdict = w.next_verdict < w.n_verdicts ? w.verdicts[w.next_verdict++] : -1;
    if (verdict >= 0) {
        note(FAILED, verdict, 0, 0);
        return -1000 - verdict;
    }
    if (w.resources == RESOURCES)
        abort();
    note(CONNECTED, w.resources, 0, 0);
    *ret_resource = pointer_to(w.resources++);
    return 0;
}

static void do_close(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)deadline;
    note(CLOSED, number_of(resource), 0, 0);
}

static int do_classify(void *ctx, int code, const struct pnx_error *err) {
    (void)ctx;
    (void)err;
    return -1000 - code;
}

static void do_interrupt(void *ctx, void *resource) {
    (void)ctx;
    note(INTERRUPTED, number_of(resource), 0, 0);
}

static void done(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    (void)err;
    int32_t id = lease.slot ? number_of(pnx_lease_resource(&lease)) : -1;
    if (id >= 0)
        w.leases[id] = lease;
    note(DONE, (int32_t)(request - w.requests), code, id);
}

/* ---- what the test calls ---- */

API int shim_create(uint32_t max, uint32_t min_idle, uint32_t max_waiters,
        uint32_t breaker_failures, int64_t idle_ns, int64_t backoff_ns, int64_t backoff_max_ns) {
    static const struct pnx_pool_manager manager = {.size = sizeof(manager),
            .connect = do_connect,
            .close = do_close,
            .classify = do_classify,
            .interrupt = do_interrupt};
    memset(&w, 0, sizeof(w));
    shim_now = PNX_SEC;
#ifdef PNX_DEBUG
    pnx_store(&pnx__pool_tolerate_misuse, 1, PNX_RELAXED, "hypothesis_shim.tolerate");
#endif
    return pnx_pool_create(&manager,
            PNX_POOL_OPTS(.env = &shim_env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off(), .budget = pnx_budget_off(), .idle_ns = idle_ns,
                    .lifetime_ns = PNX_NEVER, .backoff_ns = backoff_ns,
                    .backoff_max_ns = backoff_max_ns, .ageing_ns = PNX_NEVER, .max = max,
                    .min_idle = min_idle, .max_waiters = max_waiters,
                    .breaker_failures = breaker_failures, .nested = PNX_POOL_NESTED_ALLOW,
                    .flags = PNX_POOL_NO_THREADS),
            NULL, &w.pool);
}

API void shim_release_pool(void) {
    pnx_pool_release(&w.pool);
}

API void shim_verdict(int32_t verdict) {
    if (w.n_verdicts < RESOURCES)
        w.verdicts[w.n_verdicts++] = verdict;
}

API int64_t shim_tick(int64_t by) {
    shim_now += by;
    return pnx_pool_tick(w.pool, shim_now);
}

/* Returns the resource's number, or a negative error. */
API int shim_try(int32_t priority) {
    struct pnx_lease lease;
    int rc = pnx_pool_acquire_with(w.pool, 0, PNX_ACQUIRE_OPTS(.priority = priority), NULL, &lease);
    if (rc)
        return rc;
    int32_t id = number_of(pnx_lease_resource(&lease));
    w.leases[id] = lease;
    return id;
}

API int shim_ask(int32_t request, int64_t timeout, int32_t priority) {
    struct pnx_pool_request *r = &w.requests[request];
    r->done = done;
    r->timeout = timeout;
    r->priority = priority;
    return pnx_pool_acquire_async(w.pool, r);
}

API int shim_cancel(int32_t request) {
    return pnx_pool_cancel(&w.requests[request]);
}

static struct pnx_lease *spend(int32_t id) {
    w.copies[id] = w.leases[id];
    return &w.leases[id];
}

API void shim_release(int32_t id) {
    pnx_lease_release(spend(id));
}

API void shim_discard(int32_t id) {
    pnx_lease_discard(spend(id));
}

API void shim_stale_all(int32_t id) {
    pnx_lease_stale_all(spend(id));
}

API int shim_detach(int32_t id) {
    return number_of(pnx_lease_detach(spend(id)));
}

/* Gives back the copy of a lease that was given back before; how: 0 release, 1 discard, 2 detach, 3 stale_all. */
API void shim_give_back_copy(int32_t id, int32_t how) {
    struct pnx_lease copy = w.copies[id];
    switch (how) {
    case 0:
        pnx_lease_release(&copy);
        break;
    case 1:
        pnx_lease_discard(&copy);
        break;
    case 2:
        if (pnx_lease_detach(&copy))
            abort();
        break;
    default:
        pnx_lease_stale_all(&copy);
    }
}

/* The resource gets the next number, if that succeeds. */
API int shim_adopt(void) {
    if (w.resources == RESOURCES)
        abort();
    int rc = pnx_pool_adopt(w.pool, pointer_to(w.resources), NULL);
    w.resources += rc == 0;
    return rc;
}

API int shim_pause(void) {
    return pnx_pool_pause(w.pool, 0);
}

API int shim_resume(void) {
    return pnx_pool_resume(w.pool);
}

API int shim_reset(uint32_t flags) {
    return pnx_pool_reset(w.pool, flags);
}

API int shim_resize(uint32_t max) {
    return pnx_pool_resize(w.pool, max, NULL);
}

static bool is_odd(void *ctx, void *resource, pnx_ns age, pnx_ns unused_for) {
    (void)ctx;
    (void)age;
    (void)unused_for;
    return number_of(resource) % 2;
}

API int shim_evict(int32_t odd_only) {
    return pnx_pool_evict(w.pool, odd_only ? is_odd : NULL, NULL);
}

API int shim_close_begin(void) {
    return pnx_pool_close_begin(w.pool);
}

API int shim_close_poll(void) {
    return pnx_pool_close_poll(w.pool);
}

/* Returns the log, how many entries it has, and begins a new one. */
API const int32_t *shim_log(int32_t *ret_n) {
    *ret_n = w.logged;
    w.logged = 0;
    return &w.log[0].event;
}

#define PNX_STAT(name, kind, unit, level, help) #name,
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
static const char *const stat_names[] = {
#include <patinox/stats/pool.def>
        NULL};
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM

/* NULL behind the last one. */
API const char *shim_stat_name(int32_t index) {
    return stat_names[index];
}

/* Returns the numbers, in the order of their names. */
API const uint64_t *shim_stats(void) {
    static struct pnx_pool_stats stats;
    stats.size = sizeof(stats);
    (void)pnx_pool_read_stats(w.pool, &stats);
    return &stats.acquires;
}
