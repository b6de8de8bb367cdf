/* SPDX-License-Identifier: Apache-2.0 */
/* os/retry.h - system calls of POSIX that a signal interrupts are made again. */
#ifndef PNX_SRC_OS_RETRY_H
#define PNX_SRC_OS_RETRY_H

#include "os/fault.h"

#include <errno.h>

/* Makes the call until a signal no longer interrupts it; rc is its result, or -errno, or what a test has it fail with. */
#define PNX_OS_RETRY(rc, name, call) \
    do { \
        (rc) = PNX_OS_FAULT(name); \
        if ((rc) == 0) { \
            (rc) = (call); \
            if ((rc) < 0) \
                (rc) = -errno; \
        } \
    } while ((rc) == -EINTR)

#endif
