/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_STRING_H
#define PNX_TESTS_WINDOWS_STRING_H

#include_next <string.h>

#include "../posix.h"

#endif
