/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions of the user's that do what they should not.  One that does not return - a C++ exception in each of them, or the
 * end of its thread - aborts the process before it gets to anybody who would catch it: the pool would be left in the middle
 * of things.  One that closes the pool is told that it cannot wait for that, and the pool ends whole.
 */
#include "harness/harness.h"

#include <patinox/pool.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

/* thrower.cpp */
void throw_it(void);
bool catches(void (*fn)(void *arg), void *arg);

/* Who is to misbehave: the name of its function. */
static const char *culprit;
static struct pnx_pool *closes; /* it closes that one; else it throws */
static int close_rc;            /* what the close in it returned */
static int connected, closed;   /* atomic */
static int resource;

static void at(const char *function) {
    if (strcmp(culprit, function) != 0)
        return;
    if (closes)
        close_rc = pnx_pool_close(closes, PNX_SEC);
    else
        throw_it();
}

/* ---- operations that block ---- */

static int op_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    at("connect");
    if (strcmp(culprit, "classify") == 0)
        return -ECONNREFUSED;
    *ret_resource = &resource;
    __atomic_fetch_add(&connected, 1, __ATOMIC_RELAXED);
    return 0;
}

static int op_check(void *ctx, void *r, pnx_ns deadline) {
    (void)ctx;
    (void)r;
    (void)deadline;
    at("check");
    return 0;
}

static int op_reset(void *ctx, void *r, pnx_ns deadline) {
    (void)ctx;
    (void)r;
    (void)deadline;
    at("reset");
    return 0;
}

static void op_close(void *ctx, void *r, pnx_ns deadline) {
    (void)ctx;
    (void)r;
    (void)deadline;
    at("close");
    __atomic_fetch_add(&closed, 1, __ATOMIC_RELAXED);
}

static int op_peek(void *ctx, void *r) {
    (void)ctx;
    (void)r;
    at("peek");
    return 0;
}

static int op_classify(void *ctx, int code, const struct pnx_error *err) {
    (void)ctx;
    (void)code;
    (void)err;
    at("classify");
    return PNX_POOL_TRANSIENT;
}

static void op_interrupt(void *ctx, void *r) {
    (void)ctx;
    (void)r;
    at("interrupt");
}

static int after_connect(void *arg, void *r, pnx_ns deadline, struct pnx_error *err) {
    (void)arg;
    (void)r;
    (void)deadline;
    (void)err;
    at("after_connect");
    return 0;
}

static int before_acquire(void *arg, void *r) {
    (void)arg;
    (void)r;
    at("before_acquire");
    return 0;
}

static int after_release(void *arg, void *r) {
    (void)arg;
    (void)r;
    at("after_release");
    return 0;
}

static void before_close(void *arg, void *r) {
    (void)arg;
    (void)r;
    at("before_close");
}

static void done(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    (void)request;
    (void)code;
    (void)err;
    pnx_lease_release(&lease);
    at("done");
}

static bool visited;

static bool evict(void *ctx, void *r, pnx_ns age, pnx_ns unused_for) {
    (void)ctx;
    (void)r;
    (void)age;
    (void)unused_for;
    visited = true;
    at("evict");
    return false;
}

static const struct pnx_pool_hooks hooks = {.size = sizeof(hooks),
        .after_connect = after_connect,
        .before_acquire = before_acquire,
        .after_release = after_release,
        .before_close = before_close};

static const char *const functions[] = {"connect", "check", "reset", "close", "peek", "classify",
        "interrupt", "after_connect", "before_acquire", "after_release", "before_close", "done",
        "evict"};
enum { FUNCTIONS = sizeof(functions) / sizeof(functions[0]) };

/* Of one resource, which is checked or peeked at each time. */
static struct pnx_pool *make(uint32_t flags) {
    const struct pnx_pool_manager manager = {.size = sizeof(manager),
            .connect = op_connect,
            .check = op_check,
            .reset = op_reset,
            .close = op_close,
            .peek = strcmp(culprit, "peek") == 0 ? op_peek : NULL,
            .classify = op_classify,
            .interrupt = op_interrupt};
    struct pnx_pool *pool = NULL;
    CHECK_EQ(pnx_pool_create(&manager,
                     PNX_POOL_OPTS(.max = 1, .check_after_ns = 1, .hooks = &hooks, .flags = flags),
                     NULL, &pool),
            0);
    return pool;
}

/* A life that comes through each of them, if nobody closes the pool. */
static void live_in(struct pnx_pool *pool) {
    struct pnx_lease lease = {0};
    struct pnx_pool_request request = {.done = done, .timeout = PNX_SEC};
    bool ends = closes != NULL; /* at some point */
    for (int i = 0; i < 2; i++) {
        int rc = pnx_pool_acquire(pool, PNX_SEC, NULL, &lease);
        CHECK(rc == 0 || (rc == -ESHUTDOWN && ends));
        pnx_lease_release(&lease);
    }
    CHECK_EQ(pnx_pool_acquire_async(pool, &request), 0);
    int rc;
    visited = false;
    do { /* until the resource is idle: the pool's threads may still reset it */
        (void)pnx_pool_tick(pool, pnx_now());
        rc = pnx_pool_evict(pool, evict, NULL);
        sched_yield();
    } while (rc == 0 && !visited);
    CHECK(rc == 0 || (rc == -ESHUTDOWN && ends));
    rc = pnx_pool_acquire(pool, PNX_SEC, NULL, &lease);
    CHECK(rc == 0 || (rc == -ESHUTDOWN && ends));
    rc = pnx_pool_reset(pool, PNX_POOL_RESET_INTERRUPT);
    CHECK(rc == 0 || (rc == -ESHUTDOWN && ends));
    pnx_lease_discard(&lease);
    CHECK_EQ(pnx_pool_close(pool, PNX_SEC), 0);
    pnx_pool_release(&pool);
}

static void live(void *arg) {
    live_in(make(arg ? 0 : PNX_POOL_NO_THREADS));
}

static void run(void *arg) {
    if (catches(live, arg))
        fprintf(stderr, "the exception came through");
}

TEST(an_operation_hook_or_callback_that_throws_aborts) {
    for (int i = 0; i < FUNCTIONS; i++) {
        culprit = functions[i];
        printf("%s\n", culprit);
        (void)test_abort(run, NULL);
    }
    culprit = "nobody"; /* with whom the life comes to its end */
    CHECK_EQ(test_child(live, NULL), 0);
}

TEST(also_on_a_thread_of_the_pools) {
    static bool threads = true;
    culprit = "connect";
    (void)test_abort(run, &threads);
    culprit = "nobody";
    CHECK_EQ(test_child(live, &threads), 0);
}

/* ---- operations that never block ---- */

static int op_start(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    (void)ctx;
    (void)op;
    (void)err;
    at("start");
    if (op->kind != PNX_POOL_OP_CONNECT)
        return 0;
    op->resource = &resource;
    return -EINPROGRESS;
}

static int op_poll(void *ctx, struct pnx_pool_op *op, struct pnx_error *err) {
    (void)ctx;
    (void)op;
    (void)err;
    at("poll");
    return -EINPROGRESS;
}

static int op_cancel(void *ctx, struct pnx_pool_op *op) {
    (void)ctx;
    (void)op;
    at("cancel");
    return 0;
}

static void live_without_blocking(void *arg) {
    const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .start = op_start, .poll = op_poll, .cancel = op_cancel};
    struct pnx_pool *pool = NULL;
    struct test_env te;
    (void)arg;
    test_env_init(&te);
    test_env_virtual(&te, PNX_SEC);
    CHECK_EQ(pnx_pool_create(&manager,
                     PNX_POOL_OPTS(.max = 1, .min_idle = 1, .connect_timeout_ns = PNX_SEC,
                             .env = &te.env, .flags = PNX_POOL_NO_THREADS),
                     NULL, &pool),
            0);
    (void)pnx_pool_tick(pool, te.now);
    (void)pnx_pool_tick(pool, te.now);
    test_env_advance(&te, 2 * PNX_SEC);
    (void)pnx_pool_tick(pool, te.now);
    CHECK_EQ(pnx_pool_close(pool, 0), 0);
    pnx_pool_release(&pool);
}

static void run_without_blocking(void *arg) {
    if (catches(live_without_blocking, arg))
        fprintf(stderr, "the exception came through");
}

TEST(so_does_one_of_a_manager_that_never_blocks) {
    static const char *const names[] = {"start", "poll", "cancel"};
    for (int i = 0; i < 3; i++) {
        culprit = names[i];
        printf("%s\n", culprit);
        (void)test_abort(run_without_blocking, NULL);
    }
    culprit = "nobody";
    CHECK_EQ(test_child(live_without_blocking, NULL), 0);
}

/* ---- the end of the thread ---- */

static int op_end(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    (void)ret_resource;
    pthread_exit(NULL);
}

static void end_thread(void *arg) {
    const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = op_end, .close = op_close};
    struct pnx_pool *pool = NULL;
    struct pnx_lease lease = {0};
    (void)arg;
    CHECK_EQ(pnx_pool_create(&manager, PNX_POOL_OPTS(.max = 1), NULL, &pool), 0);
    CHECK_EQ(pnx_pool_acquire(pool, 10 * PNX_SEC, NULL, &lease), 0);
}

TEST(so_does_one_that_ends_a_thread_of_the_pools) {
    (void)test_abort(end_thread, NULL);
}

/* ---- closing inside ---- */

static void close_in_each(uint32_t flags) {
    for (int i = 0; i < FUNCTIONS; i++) {
        culprit = functions[i];
        printf("%s\n", culprit);
        close_rc = connected = closed = 0;
        closes = make(flags);
        live_in(closes);
        CHECK_EQ(close_rc, -EDEADLK);
        CHECK_EQ(closed, connected);
    }
}

TEST(each_may_close_the_pool_but_not_wait_for_that) {
    close_in_each(PNX_POOL_NO_THREADS);
}

TEST(each_may_do_so_where_the_pool_has_threads) {
    close_in_each(0);
}
