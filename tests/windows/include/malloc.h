/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_MALLOC_H
#define PNX_TESTS_WINDOWS_MALLOC_H

#include_next <malloc.h>

#include "../posix.h"

#endif
