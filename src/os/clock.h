/* SPDX-License-Identifier: Apache-2.0 */
/* os/clock.h - the system's clocks.  The explorer links its own. */
#ifndef PNX_SRC_OS_CLOCK_H
#define PNX_SRC_OS_CLOCK_H

#include <patinox/base.h>

pnx_ns pnx__os_now(void);        /* CLOCK_MONOTONIC */
pnx_ns pnx__os_now_coarse(void); /* CLOCK_MONOTONIC_COARSE: up to 10 ms behind */
int64_t pnx__os_real_ns(void);   /* CLOCK_REALTIME */

#endif
