/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks. */
#include "harness/harness.h"
#include "os/clock.h"

#include <time.h>

TEST(the_exact_clock_never_goes_back) {
    pnx_ns last = pnx__os_now();
    CHECK(last > 0);
    for (int i = 0; i < 100000; i++) {
        pnx_ns now = pnx__os_now();
        CHECK(now >= last);
        last = now;
    }
    CHECK(pnx_now() >= last);
}

TEST(the_coarse_clock_is_the_same_clock_a_little_behind) {
    struct timespec resolution;
    CHECK(clock_getres(CLOCK_MONOTONIC_COARSE, &resolution) == 0);
    pnx_ns tick = (pnx_ns)resolution.tv_sec * PNX_SEC + resolution.tv_nsec;
    CHECK(tick <= 10 * PNX_MS);
    int near = 0;
    for (int i = 0; i < 1000; i++) {
        pnx_ns before = pnx__os_now(), coarse = pnx__os_now_coarse(), after = pnx__os_now();
        CHECK(coarse <= after);
        near += coarse >=
                before - 10 * PNX_MS; /* a machine that was stopped meanwhile may miss it */
    }
    CHECK(near > 900);
}

TEST(the_real_clock_is_the_systems) {
    time_t before = time(NULL);
    int64_t now = pnx__os_real_ns();
    time_t after = time(NULL);
    CHECK(now / PNX_SEC >= before - 1 && now / PNX_SEC <= after + 1);
}
