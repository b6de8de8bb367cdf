/* SPDX-License-Identifier: Apache-2.0 */
/*
 * urcu.h - liburcu-memb as a peer: its threads come and go here.  Define _LGPL_SOURCE before the first include, for read
 * sections that are inline.
 */
#ifndef PNX_BENCH_URCU_H
#define PNX_BENCH_URCU_H

#include <urcu/urcu-memb.h>

static inline void urcu_enter_thread(void *state, unsigned index) {
    (void)state;
    (void)index;
    urcu_memb_register_thread();
}

static inline void urcu_leave_thread(void *state, unsigned index) {
    (void)state;
    (void)index;
    urcu_memb_unregister_thread();
}

#endif
