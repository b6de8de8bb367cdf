/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_SYS_STAT_H
#define PNX_TESTS_WINDOWS_SYS_STAT_H

#include_next <sys/stat.h>

#include "../../posix.h"

#endif
