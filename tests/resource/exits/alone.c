/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alone.c - see exits.h: guards that are not tracked are inline, and a scope of few entries needs no memory, so
 * that nothing of this is ever called.
 */
#include "base/env.h"

#include <patinox/guard.h>

#include <stdlib.h>

void pnx_guard_drop_slow_(pnx_cleanup_fn *fn, void *arg, struct pnx_registry *registry,
        pnx_resource_id id, struct pnx_executor *executor) {
    (void)fn, (void)arg, (void)registry, (void)id, (void)executor;
    abort();
}

int pnx__env_resolve(const struct pnx_env *user, struct pnx_error *err, struct pnx_env *ret_env) {
    (void)user, (void)err, (void)ret_env;
    abort();
}

void *pnx__alloc(const struct pnx_env *env, size_t count, size_t size) {
    (void)env, (void)count, (void)size;
    abort();
}

void pnx__free(const struct pnx_env *env, void *p, size_t count, size_t size) {
    (void)env, (void)p, (void)count, (void)size;
    abort();
}

/* Unwinding in a libgcc that was built for glibc asks this; -1: it knows nothing, look yourself. */
int _dl_find_object(void *address, void *ret_object);

int _dl_find_object(void *address, void *ret_object) {
    (void)address, (void)ret_object;
    return -1;
}
