/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os_futex.c - os/futex.h for the explorer.
 *
 * The kernel compares under a lock that a waker takes too, so the comparison sees the newest value.  Neither
 * waiting nor waking orders memory for the program.
 */
#include "explorer/engine.h"

#include <errno.h>

int pnx__futex_wait(const struct pnx_a32 *word, uint32_t expected, pnx_ns deadline) {
    if (!x.self)
        abort(); /* who would wake it? */
    x_point(X_WAIT, word, 0);
    uint64_t value = x_memory_newest(word, sizeof(word->v));
    if (x.trace)
        x_trace("wait  %s for not %u: it is %llu%s", x_place(word), expected,
                (unsigned long long)value, value == expected ? ", sleeps" : "");
    if (value != expected)
        return 0;
    if (deadline <= x.now)
        return -ETIMEDOUT;
    int rc = x_sleep(word, deadline);
    if (x.trace)
        x_trace("woken %s%s", x_place(word), rc ? ": timeout" : "");
    return rc;
}

void pnx__futex_wake(const struct pnx_a32 *word, uint32_t n) {
    if (!x.self)
        return;
    x_point(X_WAKE, word, 0);
    uint32_t woken = x_wake(word, n);
    if (x.trace)
        x_trace("wake  %s: %u of %u", x_place(word), woken, n);
}
