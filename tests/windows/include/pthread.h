/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_PTHREAD_H
#define PNX_TESTS_WINDOWS_PTHREAD_H

#include_next <pthread.h>

#include "../posix.h"

#endif
