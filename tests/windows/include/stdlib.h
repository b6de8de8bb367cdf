/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_STDLIB_H
#define PNX_TESTS_WINDOWS_STDLIB_H

#include_next <stdlib.h>

#include "../posix.h"

#endif
