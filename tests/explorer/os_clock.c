/* SPDX-License-Identifier: Apache-2.0 */
/* os_clock.c - os/clock.h and the system's environment for the explorer: time passes when all are asleep. */
#include "explorer/engine.h"

#include "base/env_system.h"
#include "os/clock.h"

pnx_ns pnx__os_now(void) {
    return x.now;
}

pnx_ns pnx__os_now_coarse(void) {
    return x.now;
}

int64_t pnx__os_real_ns(void) {
    return x.now;
}

pnx_ns pnx_now(void) {
    return x.now;
}

const struct pnx_env *pnx__env_system(void) {
    return x_env();
}
