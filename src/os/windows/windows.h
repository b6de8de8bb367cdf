/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/windows/windows.h - what the files of src/os/windows share: errors as errno, names as UTF-16, descriptors of the C
 * runtime as handles.
 */
#ifndef PNX_SRC_OS_WINDOWS_WINDOWS_H
#define PNX_SRC_OS_WINDOWS_WINDOWS_H

#include <patinox/error.h>

#include "os/fault.h"

#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#define PNX_WINDOWS_PATH_MAX 4096 /* units of UTF-16, with the prefix and the end */

/* PNX_OS_FAULT(), where an injected -EINTR is no error, since nothing is interrupted here. */
#ifdef PNX_FAULTS
static inline int pnx__windows_fault(const char *call) {
    int rc;
    do
        rc = PNX_OS_FAULT(call);
    while (rc == -EINTR);
    return rc;
}
#define FAULT(call) pnx__windows_fault(call)
#else
#define FAULT(call) 0
#endif

/* Returns -errno for what GetLastError() says; -EIO for what is in no table. */
int pnx__windows_errno(DWORD error);
/* The same for the last error of this thread; never 0. */
int pnx__windows_failed(void);

/*
 * Turns a path in UTF-8 into what functions ending in W take; a long absolute one gets the prefix that lifts the limit of
 * 260 units.  -EINVAL for what is not UTF-8, -ENAMETOOLONG.
 */
int pnx__windows_path(const char *path, wchar_t ret_path[PNX_WINDOWS_PATH_MAX]);
/* The other way round; without such a prefix.  -ENAMETOOLONG. */
int pnx__windows_utf8(const wchar_t *text, char *buf, size_t size);

/* The handle behind a descriptor of the C runtime, or INVALID_HANDLE_VALUE. */
HANDLE pnx__windows_handle(int fd);

#endif
