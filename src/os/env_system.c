/* SPDX-License-Identifier: Apache-2.0 */
/* os/env_system.c - the system's environment: malloc, clock_gettime, getrandom. */
#include "base/env_system.h"

#include "base/hash.h"
#include "os/clock.h"
#include "os/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define MALLOC_ALIGN (2 * sizeof(void *))

static void *system_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
    if (align <= MALLOC_ALIGN)
        return malloc(size);
    void *p = NULL;
    return posix_memalign(&p, align, size) == 0 ? p : NULL;
}

static void system_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    (void)size;
    free(p);
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
    uint64_t bits;
    int saved = errno;
    ssize_t n = PNX_OS_FAULT("getrandom") ? -1 : getrandom(&bits, sizeof(bits), GRND_NONBLOCK);
    errno = saved;
    if (n == (ssize_t)sizeof(bits))
        return bits;
    /* Early boot, or a sandbox without getrandom: address layout and two clocks are what is left. */
    uint64_t state = (uint64_t)pnx__os_now() ^ (uint64_t)(uintptr_t)&bits ^
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
