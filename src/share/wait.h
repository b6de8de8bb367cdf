/* SPDX-License-Identifier: Apache-2.0 */
/* share/wait.h - a futex wait whose deadline is on an environment's clock, which need not be the system's. */
#ifndef PNX_SRC_SHARE_WAIT_H
#define PNX_SRC_SHARE_WAIT_H

#include "base/env.h"
#include "os/clock.h"
#include "os/futex.h"

#include <errno.h>

/* As pnx__futex_wait(); -ETIMEDOUT only when env's clock has reached the deadline. */
static inline int pnx__wait(
        const struct pnx_a32 *word, uint32_t expected, const struct pnx_env *env, pnx_ns deadline) {
    pnx_ns until = PNX_NEVER;
    if (deadline != PNX_NEVER) {
        pnx_ns left = pnx__remaining(pnx__now(env), deadline);
        if (left == 0)
            return -ETIMEDOUT;
        until = pnx__deadline(pnx__os_now(), left);
    }
    int rc = pnx__futex_wait(word, expected, until);
    if (rc == -ETIMEDOUT && pnx__now(env) < deadline)
        return 0; /* a clock that runs slower than the system's: the caller loops */
    return rc;
}

#endif
