/* SPDX-License-Identifier: Apache-2.0 */
/* guard_cost_calls.c - see guard_cost.h. */
#include "guard_cost.h"

int work(int *counter) {
    ++*counter;
    return 0;
}

int end(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    --*(int *)arg;
    return 0;
}

void end_plain(void *arg) {
    --*(int *)arg;
}

void repeat(int (*shape)(pnx_cleanup_fn *fn, int *counter), int *counter) {
    for (int i = 0; i < 1000; i++)
        shape(end, counter);
}
