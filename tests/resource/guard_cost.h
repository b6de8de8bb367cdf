/* SPDX-License-Identifier: Apache-2.0 */
/* guard_cost.h - what the loops of guard_cost.c call: in another file, so that no compiler knows what it does. */
#ifndef PNX_TEST_GUARD_COST_H
#define PNX_TEST_GUARD_COST_H

#include <patinox/guard.h>

PNX_BEGIN_DECLS

int work(int *counter); /* 0 */
int end(void *arg, const struct pnx_cancel *cancel);
void end_plain(void *arg);

/* Calls shape(end, counter) a thousand times; the same instructions around each. */
void repeat(int (*shape)(pnx_cleanup_fn *fn, int *counter), int *counter);

PNX_END_DECLS
#endif
