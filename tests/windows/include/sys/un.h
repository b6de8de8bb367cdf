/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_SYS_UN_H
#define PNX_TESTS_WINDOWS_SYS_UN_H

#include "../../posix.h"

#endif
