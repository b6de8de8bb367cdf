/* SPDX-License-Identifier: Apache-2.0 */
/* Registries, executors and pools on clocks of their own: a deadline is never compared with another clock. */
#include "resource/executor_case.h"

#include <patinox/pool.h>
#include <patinox/query.h>
#include <patinox/reclaim.h>
#include <patinox/shutdown.h>

#define SHIFT (1000 * PNX_SEC)

static pnx_ns now_behind(void *ctx) {
    (void)ctx;
    return pnx_now() - SHIFT;
}

static pnx_ns now_ahead(void *ctx) {
    (void)ctx;
    return pnx_now() + SHIFT;
}

static struct pnx_env behind = {
        .size = sizeof(behind), .now = now_behind, .now_coarse = now_behind};
static struct pnx_env ahead = {.size = sizeof(ahead), .now = now_ahead, .now_coarse = now_ahead};
static const struct pnx_env *const envs[] = {NULL, &behind, &ahead};

static struct pnx_registry *registry_on(const struct pnx_env *env) {
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = env), NULL, &registry), 0);
    return registry;
}

/* ---- what a cleanup is told ---- */

static int note_remaining(void *arg, const struct pnx_cancel *cancel) {
    *(pnx_ns *)arg = pnx_cancel_remaining(cancel);
    return 0;
}

static void check_remaining(pnx_ns remaining) {
    CHECK_MSG(remaining > 0 && remaining <= SOON, "%lld ns", (long long)remaining);
}

static pnx_resource_id add_row(struct pnx_registry *registry, pnx_ns *remaining) {
    pnx_resource_id id;
    *remaining = -1;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "row", .cleanup = note_remaining, .arg = remaining), NULL,
                     &id),
            0);
    return id;
}

TEST(a_cleanup_is_told_what_is_left_whoever_runs_it) {
    CHECK_EQ(pnx_cancel_remaining(NULL), PNX_NEVER);
    for (int i = 0; i < 9; i++) {
        struct pnx_registry *registry = registry_on(envs[i % 3]);
        struct pnx_executor *executor =
                create(PNX_EXECUTOR_OPTS(.env = envs[i / 3], .registry = pnx_registry_off(),
                        .timeout_ns = SOON, .queue_max = 1, .on_full = PNX_EXECUTOR_RUN_INLINE));
        pnx_ns remaining;
        CHECK_EQ(pnx_registry_cleanup(registry, add_row(registry, &remaining)), 0);
        CHECK_EQ(remaining, PNX_NEVER);

        add_row(registry, &remaining);
        CHECK_EQ(pnx_registry_cleanup_where(registry, NULL, PNX_CLEANUP_UNUSED, SOON, NULL), 0);
        check_remaining(remaining);

        CHECK_EQ(pnx_executor_cleanup(
                         executor, registry, add_row(registry, &remaining), NULL, NULL, NULL),
                0);
        CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
        check_remaining(remaining);

        submit(executor, PNX_JOB(.run = note_remaining, .arg = &remaining, .delay_ns = PNX_NEVER));
        pnx_ns inlined = -1; /* the queue is full */
        submit(executor, PNX_JOB(.run = note_remaining, .arg = &inlined));
        check_remaining(inlined);
        CHECK_EQ(pnx_executor_close(executor, SOON, NULL), 0);
        check_remaining(remaining);

        add_row(registry, &remaining);
        CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
        check_remaining(remaining);
        pnx_executor_release(&executor);
        pnx_registry_release(&registry);
    }
}

/* ---- objects that a shutdown closes ---- */

static int take_a_while(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    usleep(1000); /* a job that takes its time */
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

TEST(a_shutdown_closes_an_executor_by_the_time_that_is_left_on_whatever_clock) {
    for (int i = 0; i < 18; i++) {
        struct pnx_registry *registry = registry_on(envs[i % 3]);
        struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = registry,
                .env = envs[i / 3 % 3], .flags = i < 9 ? 0 : PNX_EXECUTOR_TICK));
        int ran = 0;
        if (i >= 9)
            (void)pnx_executor_tick(
                    executor, envs[i / 3 % 3] ? envs[i / 3 % 3]->now(NULL) : pnx_now());
        for (int j = 0; j < 20; j++)
            submit(executor, PNX_JOB(.run = take_a_while, .arg = &ran));
        CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
        CHECK_EQ(ran, 20);
        pnx_executor_release(&executor);
        pnx_registry_release(&registry);
    }
}

static int dial(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)deadline;
    (void)err;
    *ret_resource = ctx;
    return 0;
}

static void hang_up(void *ctx, void *resource, pnx_ns deadline) {
    (void)deadline;
    (void)ctx;
    (void)resource;
}

static void *give_back_soon(void *arg) {
    usleep(50000); /* while the shutdown waits for it, or before: both must do */
    pnx_lease_release(arg);
    return NULL;
}

TEST(a_shutdown_closes_a_pool_by_the_time_that_is_left_on_whatever_clock) {
    static const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = dial, .close = hang_up};
    for (int i = 0; i < 3; i++) {
        struct pnx_registry *registry = registry_on(envs[i]);
        struct pnx_pool *pool = NULL;
        struct pnx_lease lease;
        struct pnx_error err = {0};
        pthread_t thread;
        int rc = pnx_pool_create(
                &manager, PNX_POOL_OPTS(.max = 1, .ctx = &rc, .registry = registry), &err, &pool);
        CHECK_MSG(rc == 0, "%s", err.message);
        CHECK_EQ(pnx_pool_acquire(pool, SOON, NULL, &lease), 0);
        CHECK(pthread_create(&thread, NULL, give_back_soon, &lease) == 0);
        CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
        CHECK(pthread_join(thread, NULL) == 0);
        pnx_pool_release(&pool);
        pnx_registry_release(&registry);
    }
}
