/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_STDIO_H
#define PNX_TESTS_WINDOWS_STDIO_H

#include_next <stdio.h>

#include "../posix.h"

#endif
