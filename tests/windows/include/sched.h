/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_SCHED_H
#define PNX_TESTS_WINDOWS_SCHED_H

#include_next <sched.h>

#include "../posix.h"

#endif
