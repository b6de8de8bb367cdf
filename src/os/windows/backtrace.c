/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/backtrace.c - by the unwind tables that every function on x86-64 has; modules by GetModuleHandleEx(). */
#include "os/backtrace.h"

#include "os/fault.h"
#include "os/windows/windows.h"

#include <stdio.h>

#define FRAMES_MAX 62 /* more are refused by older systems */

void pnx__backtrace_prepare(void) {} /* the system's own function is always there */

unsigned pnx__backtrace(void **ret_frames, unsigned max) {
    if (PNX_OS_FAULT("backtrace"))
        return 0;
    /* Without this function and its caller. */
    return CaptureStackBackTrace(2, max < FRAMES_MAX ? max : FRAMES_MAX, ret_frames, NULL);
}

void pnx__frame_text(const void *frame, char *buf, size_t n) {
    HMODULE module;
    wchar_t path[MAX_PATH];
    char name[3 * MAX_PATH];
    DWORD length = 0;
    if (GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS |
                                   GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                (const wchar_t *)frame, &module))
        length = GetModuleFileNameW(module, path, MAX_PATH);
    if (length == 0 || length == MAX_PATH) {
        snprintf(buf, n, "%p", frame);
        return;
    }
    const wchar_t *slash = wcsrchr(path, L'\\');
    if (pnx__windows_utf8(slash ? slash + 1 : path, name, sizeof(name)) == 0)
        snprintf(buf, n, "%s+%#llx", name,
                (unsigned long long)((uintptr_t)frame - (uintptr_t)module));
    else
        snprintf(buf, n, "%p", frame);
}
