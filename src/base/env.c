/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/env.c - resolving an environment, and allocation through it.
 *
 *   P1  A resolved environment has every function but log; the user's struct is not kept.
 *   P2  count x size never wraps; memory comes zeroed.
 */
#include "base/env.h"

#include "base/env_system.h"
#include "base/options.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NATURAL_ALIGN 16

int pnx__env_resolve(const struct pnx_env *user, struct pnx_error *err, struct pnx_env *ret_env) {
    struct pnx_env env = {.size = sizeof(env)};
    if (user) {
        int rc = pnx__opts_copy("env", sizeof(env), user, &env, err);
        if (rc)
            return rc;
        if (!env.alloc != !env.free)
            return pnx__fail_field(err, -EINVAL, env.alloc ? "env.free" : "env.alloc",
                    "env: alloc and free come together or not at all");
        if (env.now_coarse && !env.now)
            return pnx__fail_field(err, -EINVAL, "env.now",
                    "env: now_coarse is the same clock as now, which is missing");
    }
    const struct pnx_env *sys = pnx__env_system();
    bool own_clock =
            env.now != NULL; /* not user->now: an older program's struct may end before it */
    if (!env.alloc) {
        env.alloc = sys->alloc;
        env.free = sys->free;
    }
    if (!env.now)
        env.now = sys->now;
    if (!env.now_coarse)
        env.now_coarse = own_clock ? env.now : sys->now_coarse;
    if (!env.real_ns)
        env.real_ns = sys->real_ns;
    if (!env.random)
        env.random = sys->random;
    *ret_env = env;
    return 0;
}

void *pnx__alloc_aligned(const struct pnx_env *env, size_t count, size_t size, size_t align) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX)
        return NULL;
    if (bytes == 0)
        bytes = 1;
    void *p = env->alloc(env->ctx, bytes, align);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void *pnx__alloc(const struct pnx_env *env, size_t count, size_t size) {
    return pnx__alloc_aligned(env, count, size, NATURAL_ALIGN);
}

void pnx__free(const struct pnx_env *env, void *p, size_t count, size_t size) {
    if (!p)
        return;
    size_t bytes = count * size;
    env->free(env->ctx, p, bytes ? bytes : 1);
}

char *pnx__strdup(const struct pnx_env *env, const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = pnx__alloc(env, n, 1);
    if (copy)
        memcpy(copy, s, n);
    return copy;
}

void pnx__strfree(const struct pnx_env *env, char *s) {
    if (s)
        pnx__free(env, s, strlen(s) + 1, 1);
}

void pnx__log(const struct pnx_env *env, enum pnx_log_level level, const char *format, ...) {
    if (!env->log)
        return;
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (n >= 0)
        env->log(env->ctx, level, line);
}

int pnx__timeout(pnx_ns timeout, pnx_ns fallback, struct pnx_error *err, pnx_ns *ret_timeout) {
    if (timeout == PNX_TIMEOUT_DEFAULT)
        timeout = fallback;
    if (timeout < 0)
        return pnx__fail_field(
                err, -EINVAL, "timeout", "timeout is negative (%lld ns)", (long long)timeout);
    *ret_timeout = timeout;
    return 0;
}
