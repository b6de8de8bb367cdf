/* SPDX-License-Identifier: Apache-2.0 */
/* os/errno_text.h - what the system says of an errno. */
#ifndef PNX_SRC_OS_ERRNO_TEXT_H
#define PNX_SRC_OS_ERRNO_TEXT_H

#include <stddef.h>

/* Returns a text for an errno, which may stand in buf. */
const char *pnx__errno_text(int number, char *buf, size_t n);

#endif
