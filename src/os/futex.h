/* SPDX-License-Identifier: Apache-2.0 */
/* os/futex.h - waiting on a word.  The explorer links its own. */
#ifndef PNX_SRC_OS_FUTEX_H
#define PNX_SRC_OS_FUTEX_H

#include "base/atomic.h"

#include <patinox/base.h>

/*
 * Sleeps while *word == expected, at most until the absolute monotonic deadline (PNX_NEVER: no limit).
 * Returns 0 when woken, when the word differs, or spuriously; -ETIMEDOUT at the deadline.  Callers loop.
 */
int pnx__futex_wait(const struct pnx_a32 *word, uint32_t expected, pnx_ns deadline);

/* Wakes up to n sleepers. The word need not exist any more: only its address is used. */
void pnx__futex_wake(const struct pnx_a32 *word, uint32_t n);

#endif
