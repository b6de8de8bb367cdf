/* SPDX-License-Identifier: Apache-2.0 */
/* os/backtrace.c - backtrace() of glibc, and dladdr(). */
#include "os/backtrace.h"
#include "os/fault.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define FRAMES_MAX 64

#if defined(__GLIBC__)
#include <dlfcn.h>
#include <execinfo.h>

void pnx__backtrace_prepare(void) {
    void *frame;
    (void)backtrace(&frame, 1);
}

unsigned pnx__backtrace(void **ret_frames, unsigned max) {
    void *frames[FRAMES_MAX];
    if (PNX_OS_FAULT("backtrace"))
        return 0;
    int n = backtrace(frames, FRAMES_MAX);
    unsigned found = 0;
    for (int i = 2; i < n && found < max; i++) /* without this function and its caller */
        ret_frames[found++] = frames[i];
    return found;
}

void pnx__frame_text(const void *frame, char *buf, size_t n) {
    Dl_info info;
    if (dladdr(frame, &info) && info.dli_fname) {
        const char *slash = strrchr(info.dli_fname, '/');
        snprintf(buf, n, "%s+%#lx", slash ? slash + 1 : info.dli_fname,
                (unsigned long)((uintptr_t)frame - (uintptr_t)info.dli_fbase));
        return;
    }
    snprintf(buf, n, "%p", frame);
}

#else

void pnx__backtrace_prepare(void) {}

unsigned pnx__backtrace(void **ret_frames, unsigned max) {
    (void)ret_frames;
    (void)max;
    return 0;
}

void pnx__frame_text(const void *frame, char *buf, size_t n) {
    snprintf(buf, n, "%p", frame);
}

#endif
