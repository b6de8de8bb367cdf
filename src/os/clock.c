/* SPDX-License-Identifier: Apache-2.0 */
/* os/clock.c - clocks by clock_gettime; none of these can fail with these arguments. */
#include "os/clock.h"

#include <time.h>

static pnx_ns read_clock(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (pnx_ns)ts.tv_sec * PNX_SEC + ts.tv_nsec;
}

pnx_ns pnx__os_now(void) {
    return read_clock(CLOCK_MONOTONIC);
}

pnx_ns pnx__os_now_coarse(void) {
    return read_clock(CLOCK_MONOTONIC_COARSE);
}

int64_t pnx__os_real_ns(void) {
    return read_clock(CLOCK_REALTIME);
}

pnx_ns pnx_now(void) {
    return pnx__os_now();
}
