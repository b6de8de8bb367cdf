/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PNX_TESTS_WINDOWS_IO_H
#define PNX_TESTS_WINDOWS_IO_H

/* Tests have functions of that name. */
#define tell posix_tell_
#include_next <io.h>
#undef tell

#endif
