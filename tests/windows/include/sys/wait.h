/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_SYS_WAIT_H
#define PNX_TESTS_WINDOWS_SYS_WAIT_H

#include "../../posix.h"

#endif
