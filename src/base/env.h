/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/env.h - memory, clock and log of an object, resolved.
 *
 * Objects keep a resolved copy of struct pnx_env in which no member but log is NULL.
 */
#ifndef PNX_SRC_BASE_ENV_H
#define PNX_SRC_BASE_ENV_H

#include "base/error.h"

#include <patinox/base.h>

/* Fills *ret_env from the user's (NULL: the system's).  -EINVAL, -E2BIG with err filled. */
int pnx__env_resolve(const struct pnx_env *user, struct pnx_error *err, struct pnx_env *ret_env);

/* Returns zeroed memory at the natural alignment (16), or NULL.  count x size is checked. */
void *pnx__alloc(const struct pnx_env *env, size_t count, size_t size);

/* The same at a larger alignment. */
void *pnx__alloc_aligned(const struct pnx_env *env, size_t count, size_t size, size_t align);

/* Frees memory of pnx__alloc; p may be NULL.  count and size as they were. */
void pnx__free(const struct pnx_env *env, void *p, size_t count, size_t size);

/* Returns a copy of a string, or NULL on no memory.  Free it with pnx__strfree. */
char *pnx__strdup(const struct pnx_env *env, const char *s);
void pnx__strfree(const struct pnx_env *env, char *s);

void pnx__log(const struct pnx_env *env, enum pnx_log_level level, const char *format, ...)
        PNX_PRINTF(3, 4);

static inline pnx_ns pnx__now(const struct pnx_env *env) {
    return env->now(env->ctx);
}

/* The one absolute deadline of a call: now + timeout without overflow; PNX_NEVER stays PNX_NEVER. */
static inline pnx_ns pnx__deadline(pnx_ns now, pnx_ns timeout) {
    return timeout >= PNX_NEVER - now ? PNX_NEVER : now + timeout;
}

/* What is left until a deadline, at least 0; PNX_NEVER stays PNX_NEVER. */
static inline pnx_ns pnx__remaining(pnx_ns now, pnx_ns deadline) {
    if (deadline == PNX_NEVER)
        return PNX_NEVER;
    return deadline > now ? deadline - now : 0;
}

/* Resolves a timeout argument against the object's default: -EINVAL for other negative values. */
int pnx__timeout(pnx_ns timeout, pnx_ns fallback, struct pnx_error *err, pnx_ns *ret_timeout);

#endif
