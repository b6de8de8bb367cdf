/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_FCNTL_H
#define PNX_TESTS_WINDOWS_FCNTL_H

#include_next <fcntl.h>

#include "../posix.h"

#endif
