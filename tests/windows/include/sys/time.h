/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_SYS_TIME_H
#define PNX_TESTS_WINDOWS_SYS_TIME_H

#include_next <sys/time.h>

#include "../../posix.h"

#endif
