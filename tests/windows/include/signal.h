/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_SIGNAL_H
#define PNX_TESTS_WINDOWS_SIGNAL_H

#include_next <signal.h>

#include "../posix.h"

#endif
