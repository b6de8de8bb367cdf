/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/leave.c - see os/leave.h: the one file of the library that may print, and end the process. */
#include "os/leave.h"

#include "os/fault.h"
#include "os/windows/windows.h"

#include <stdio.h>
#include <stdlib.h>

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
    HANDLE error = GetStdHandle(STD_ERROR_HANDLE);
    while (n) {
        DWORD written = 0;
        if (!WriteFile(error, text, n > INT32_MAX ? INT32_MAX : (DWORD)n, &written, NULL) ||
                !written)
            return;
        text += written;
        n -= written;
    }
}
