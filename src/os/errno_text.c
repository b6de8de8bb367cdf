/* SPDX-License-Identifier: Apache-2.0 */
/* os/errno_text.c - see os/errno_text.h. */
#include "os/errno_text.h"

#include <string.h>

const char *pnx__errno_text(int number, char *buf, size_t n) {
#ifdef _WIN32
    return strerror_s(buf, n, number) == 0 ? buf : "unknown error";
#else
    return strerror_r(number, buf, n);
#endif
}
