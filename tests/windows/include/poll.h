/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_POLL_H
#define PNX_TESTS_WINDOWS_POLL_H

#include "../posix.h"

#endif
