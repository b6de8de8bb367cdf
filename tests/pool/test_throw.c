/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions of the user's that do not return: a C++ exception in each of them, or the end of its thread, aborts the process
 * before it gets to anybody who would catch it; the pool would be left in the middle of things.
 */
#include "harness/harness.h"

#include <patinox/pool.h>
#include <pthread.h>
#include <string.h>

/* thrower.cpp */
void throw_it(void);
bool catches(void (*fn)(void *arg), void *arg);

/* Who is to throw; the name of its function. */
static const char *thrower;
static int resource;

static void at(const char *function) {
    if (strcmp(thrower, function) == 0)
        throw_it();
}

/* ---- operations that block ---- */

static int op_connect(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    at("connect");
    *ret_resource = &resource;
    return strcmp(thrower, "classify") == 0 ? -ECONNREFUSED : 0;
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

static bool evict(void *ctx, void *r, pnx_ns age, pnx_ns unused_for) {
    (void)ctx;
    (void)r;
    (void)age;
    (void)unused_for;
    at("evict");
    return false;
}

static const struct pnx_pool_hooks hooks = {.size = sizeof(hooks),
        .after_connect = after_connect,
        .before_acquire = before_acquire,
        .after_release = after_release,
        .before_close = before_close};

/* A life that comes through each of them. */
static void live(void *arg) {
    const uint32_t flags = arg ? 0 : PNX_POOL_NO_THREADS;
    const struct pnx_pool_manager manager = {.size = sizeof(manager),
            .connect = op_connect,
            .check = op_check,
            .reset = op_reset,
            .close = op_close,
            .peek = strcmp(thrower, "peek") == 0 ? op_peek : NULL,
            .classify = op_classify,
            .interrupt = op_interrupt};
    struct pnx_pool *pool = NULL;
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_create(&manager,
                     PNX_POOL_OPTS(.max = 1, .check_after_ns = 1, .hooks = &hooks, .flags = flags),
                     NULL, &pool),
            0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), 0);
        pnx_lease_release(&lease);
    }
    struct pnx_pool_request request = {.done = done, .timeout = PNX_SEC};
    CHECK_EQ(pnx_pool_acquire_async(pool, &request), 0);
    (void)pnx_pool_tick(pool, pnx_now());
    CHECK_EQ(pnx_pool_evict(pool, evict, NULL), 0);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), 0);
    CHECK_EQ(pnx_pool_reset(pool, PNX_POOL_RESET_INTERRUPT), 0);
    pnx_lease_discard(&lease);
    CHECK_EQ(pnx_pool_close(pool, PNX_SEC), 0);
    pnx_pool_release(&pool);
}

static void run(void *arg) {
    if (catches(live, arg))
        fprintf(stderr, "the exception came through");
}

TEST(an_operation_hook_or_callback_that_throws_aborts) {
    static const char *const functions[] = {"connect", "check", "reset", "close", "peek",
            "classify", "interrupt", "after_connect", "before_acquire", "after_release",
            "before_close", "done", "evict"};
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        thrower = functions[i];
        printf("%s\n", thrower);
        (void)test_abort(run, NULL);
    }
    thrower = "nobody"; /* with whom the life comes to its end */
    CHECK_EQ(test_child(live, NULL), 0);
}

TEST(also_on_a_thread_of_the_pools) {
    static bool threads = true;
    thrower = "connect";
    (void)test_abort(run, &threads);
    thrower = "nobody";
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
    static const char *const functions[] = {"start", "poll", "cancel"};
    for (int i = 0; i < 3; i++) {
        thrower = functions[i];
        printf("%s\n", thrower);
        (void)test_abort(run_without_blocking, NULL);
    }
    thrower = "nobody";
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
