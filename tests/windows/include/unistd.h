/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_UNISTD_H
#define PNX_TESTS_WINDOWS_UNISTD_H

#include_next <unistd.h>

#include "../posix.h"

#endif
