/* SPDX-License-Identifier: Apache-2.0 */
/* os/futex.c - Linux futexes (private, absolute deadlines on CLOCK_MONOTONIC). */
#include "os/futex.h"

#include "os/fault.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int pnx__futex_wait(const struct pnx_a32 *word, uint32_t expected, pnx_ns deadline) {
    struct timespec ts;
    struct timespec *until = NULL;
    if (deadline != PNX_NEVER) {
        if (deadline < 0)
            deadline = 0;
        ts.tv_sec = (time_t)(deadline / PNX_SEC);
        ts.tv_nsec = (long)(deadline % PNX_SEC);
        until = &ts;
    }
    int injected = PNX_OS_FAULT("futex_wait"); /* -EINTR: a spurious wake-up; -ETIMEDOUT */
    if (injected)
        return injected == -ETIMEDOUT ? injected : 0;
    int saved = errno;
    long rc = syscall(SYS_futex, &word->v, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, until,
            NULL, FUTEX_BITSET_MATCH_ANY);
    int failed = rc < 0 ? errno : 0;
    errno = saved;
    return failed == ETIMEDOUT ? -ETIMEDOUT : 0;
}

void pnx__futex_wake(const struct pnx_a32 *word, uint32_t n) {
    int saved = errno;
    syscall(SYS_futex, &word->v, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, n > INT_MAX ? INT_MAX : (int)n,
            NULL, NULL, 0);
    errno = saved; /* EFAULT when the word is gone: allowed, see the header */
}
