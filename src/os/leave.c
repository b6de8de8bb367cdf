/* SPDX-License-Identifier: Apache-2.0 */
/* os/leave.c - see os/leave.h: the one file of the library that may print, and end the process. */
#include "os/leave.h"
#include "os/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int pnx__at_exit(void (*fn)(void)) {
    int injected = PNX_OS_FAULT("atexit");
    if (injected)
        return injected;
    return atexit(fn) ? -ENOMEM : 0;
}

void pnx__leave(int status) {
    fflush(NULL);
    _exit(status);
}

void pnx__complain(const char *text, size_t n) {
    while (n) {
        ssize_t written = write(STDERR_FILENO, text, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        text += written;
        n -= (size_t)written;
    }
}
