/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/extent.c - files' room; there are no clones, nor files in memory that could be sealed. */
#include "os/extent.h"

#include "os/file.h"
#include "os/windows/windows.h"

/* A sparse or compressed file has no blocks for zeros. */
static bool has_holes(HANDLE handle) {
    FILE_BASIC_INFO basic;
    DWORD either = FILE_ATTRIBUTE_SPARSE_FILE | FILE_ATTRIBUTE_COMPRESSED;
    return GetFileInformationByHandleEx(handle, FileBasicInfo, &basic, sizeof(basic)) &&
           (basic.FileAttributes & either);
}

int pnx__os_allocate(int fd, uint64_t offset, uint64_t n) {
    struct pnx_file_info info = {0};
    if (offset > INT64_MAX || n > INT64_MAX - offset)
        return -EFBIG;
    int rc = FAULT("allocate");
    if (rc == 0)
        rc = pnx__os_fstat(fd, &info);
    if (rc)
        return rc == -ENOSYS || rc == -EOPNOTSUPP ? -ENOTSUP : rc;
    HANDLE handle = pnx__windows_handle(fd);
    if (has_holes(handle))
        return -ENOTSUP;
    if (info.size >= offset + n)
        return 0; /* every byte of a file without holes has its block */
    FILE_END_OF_FILE_INFO end = {.EndOfFile.QuadPart = (int64_t)(offset + n)};
    return SetFileInformationByHandle(handle, FileEndOfFileInfo, &end, sizeof(end))
                   ? 0
                   : pnx__windows_failed();
}

static int64_t pwrite_some(HANDLE handle, const void *data, size_t n, uint64_t offset) {
    DWORD done = 0;
    OVERLAPPED where = {.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
    int injected = FAULT("pwrite");
    if (injected)
        return injected;
    DWORD part = n < (1u << 30) ? (DWORD)n : 1u << 30;
    return WriteFile(handle, data, part, &done, &where) ? (int64_t)done : pnx__windows_failed();
}

int pnx__os_pwrite_full(int fd, const void *data, size_t n, uint64_t offset) {
    if (offset > INT64_MAX || n > INT64_MAX - offset)
        return -EFBIG;
    HANDLE handle = pnx__windows_handle(fd);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    LARGE_INTEGER none = {.QuadPart = 0}, before;
    bool seekable = SetFilePointerEx(handle, none, &before, FILE_CURRENT) != 0;
    int64_t rc = 0;
    for (size_t done = 0; done < n && rc >= 0; done += (size_t)rc) {
        rc = pwrite_some(handle, (const char *)data + done, n - done, offset + done);
        if (rc == 0)
            rc = -EIO; /* a device that takes nothing and does not say why */
        if (rc < 0)
            break;
    }
    if (seekable)
        SetFilePointerEx(handle, before, NULL, FILE_BEGIN);
    return rc < 0 ? (int)rc : 0;
}

int pnx__os_sync_start(int fd, uint64_t offset, uint64_t n) {
    (void)fd;
    if (offset > INT64_MAX || n > INT64_MAX - offset)
        return -EFBIG;
    int injected = FAULT("sync_start");
    return injected && injected != -ENOSYS ? injected : -ENOTSUP;
}

int pnx__os_fdatasync(int fd) {
    int injected = FAULT("fdatasync");
    if (injected)
        return injected;
    HANDLE handle = pnx__windows_handle(fd);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    return FlushFileBuffers(handle) ? 0 : pnx__windows_failed();
}

int pnx__os_clone(int fd, const char *dir) {
    (void)fd;
    (void)dir;
    int injected = FAULT("clone");
    return injected ? injected : -ENOTSUP;
}

int pnx__os_memfd(const char *name) {
    (void)name;
    int injected = FAULT("memfd");
    return injected ? injected : -ENOTSUP;
}

int pnx__os_seal(int fd, unsigned seals) {
    (void)fd;
    (void)seals;
    int injected = FAULT("seal");
    return injected ? injected : -ENOTSUP;
}

int pnx__os_seals(int fd) {
    (void)fd;
    int injected = FAULT("seals");
    return injected ? injected : -ENOTSUP;
}
