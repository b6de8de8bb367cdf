/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shim.h - what libraries share that stand between an object and a model of it in Python (test_hypothesis.py): an environment
 * in which time passes when the test says so, and nothing is left to chance.  For one file of such a library; one thread.
 */
#ifndef PNX_TEST_SHIM_H
#define PNX_TEST_SHIM_H

#include <patinox/base.h>

#include <stdlib.h>

/* Who calls these reads no headers. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define API __attribute__((visibility("default")))

static pnx_ns shim_now; /* what all clocks show */

static void *shim_env_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
    void *p;
    return posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, size) ? NULL : p;
}

static void shim_env_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    (void)size;
    free(p);
}

static int64_t shim_env_now(void *ctx) {
    (void)ctx;
    return shim_now;
}

static uint64_t shim_env_random(void *ctx) {
    (void)ctx;
    return 42;
}

static void shim_env_log(void *ctx, enum pnx_log_level level, const char *message) {
    (void)ctx;
    (void)level;
    (void)message;
}

static const struct pnx_env shim_env = {
        .size = sizeof(shim_env),
        .alloc = shim_env_alloc,
        .free = shim_env_free,
        .now = shim_env_now,
        .now_coarse = shim_env_now,
        .real_ns = shim_env_now,
        .random = shim_env_random,
        .log = shim_env_log,
};

#endif
