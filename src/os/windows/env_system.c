/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/env_system.c - the system's environment: the C runtime's memory, the performance counter, rand_s(). */
#define _CRT_RAND_S
#include <stdlib.h>

#include "base/env_system.h"

#include "base/hash.h"
#include "os/clock.h"
#include "os/fault.h"

#include <malloc.h>
#include <stdint.h>

/* All of it, since whoever frees does not know the alignment. */
static void *system_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
    return _aligned_malloc(size, align);
}

static void system_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    (void)size;
    _aligned_free(p);
}

static pnx_ns system_now(void *ctx) {
    (void)ctx;
    return pnx__os_now();
}

static pnx_ns system_now_coarse(void *ctx) {
    (void)ctx;
    return pnx__os_now_coarse();
}

static int64_t system_real_ns(void *ctx) {
    (void)ctx;
    return pnx__os_real_ns();
}

static uint64_t system_random(void *ctx) {
    (void)ctx;
    unsigned high, low;
    if (!PNX_OS_FAULT("getrandom") && rand_s(&high) == 0 && rand_s(&low) == 0)
        return (uint64_t)high << 32 | low;
    /* A sandbox without the system's generator: address layout and two clocks are what is left. */
    uint64_t state = (uint64_t)pnx__os_now() ^ (uint64_t)(uintptr_t)&state ^
                     ((uint64_t)pnx__os_real_ns() << 20);
    return pnx__splitmix(&state);
}

const struct pnx_env *pnx__env_system(void) {
    static const struct pnx_env env = {
            .size = sizeof(env),
            .alloc = system_alloc,
            .free = system_free,
            .now = system_now,
            .now_coarse = system_now_coarse,
            .real_ns = system_real_ns,
            .random = system_random,
    };
    return &env;
}
