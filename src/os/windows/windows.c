/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/windows.c - see os/windows/windows.h. */
#include "os/windows/windows.h"

#include <io.h>
#include <stdint.h>
#include <string.h>
#include <wchar.h>

static const struct {
    DWORD theirs;
    int ours;
} errors[] = {
        {ERROR_INVALID_FUNCTION, EINVAL},
        {ERROR_FILE_NOT_FOUND, ENOENT},
        {ERROR_PATH_NOT_FOUND, ENOENT},
        {ERROR_TOO_MANY_OPEN_FILES, EMFILE},
        {ERROR_ACCESS_DENIED, EACCES},
        {ERROR_INVALID_HANDLE, EBADF},
        {ERROR_NOT_ENOUGH_MEMORY, ENOMEM},
        {ERROR_INVALID_ACCESS, EACCES},
        {ERROR_OUTOFMEMORY, ENOMEM},
        {ERROR_INVALID_DRIVE, ENOENT},
        {ERROR_NOT_SAME_DEVICE, EXDEV},
        {ERROR_WRITE_PROTECT, EROFS},
        {ERROR_NOT_READY, ENODEV},
        {ERROR_CRC, EIO},
        {ERROR_SEEK, EIO},
        {ERROR_WRITE_FAULT, EIO},
        {ERROR_READ_FAULT, EIO},
        {ERROR_GEN_FAILURE, EIO},
        {ERROR_SHARING_VIOLATION, EBUSY},
        {ERROR_LOCK_VIOLATION, EBUSY},
        {ERROR_HANDLE_DISK_FULL, ENOSPC},
        {ERROR_NOT_SUPPORTED, ENOTSUP},
        {ERROR_BAD_NETPATH, ENOENT},
        {ERROR_NETWORK_BUSY, EBUSY},
        {ERROR_NETNAME_DELETED, ESTALE},
        {ERROR_NETWORK_ACCESS_DENIED, EACCES},
        {ERROR_BAD_NET_NAME, ENOENT},
        {ERROR_FILE_EXISTS, EEXIST},
        {ERROR_CANNOT_MAKE, EACCES},
        {ERROR_INVALID_PARAMETER, EINVAL},
        {ERROR_BROKEN_PIPE, EPIPE},
        {ERROR_DISK_FULL, ENOSPC},
        {ERROR_CALL_NOT_IMPLEMENTED, ENOSYS},
        {ERROR_SEM_TIMEOUT, ETIMEDOUT},
        {ERROR_INSUFFICIENT_BUFFER, ENAMETOOLONG},
        {ERROR_INVALID_NAME, ENOENT},
        {ERROR_MOD_NOT_FOUND, ENOENT},
        {ERROR_NEGATIVE_SEEK, EINVAL},
        {ERROR_DIR_NOT_EMPTY, ENOTEMPTY},
        {ERROR_NOT_LOCKED, EINVAL},
        {ERROR_BAD_PATHNAME, ENOENT},
        {ERROR_BUSY, EBUSY},
        {ERROR_ALREADY_EXISTS, EEXIST},
        {ERROR_FILENAME_EXCED_RANGE, ENAMETOOLONG},
        {ERROR_FILE_TOO_LARGE, EFBIG},
        {ERROR_NO_DATA, EPIPE},
        {ERROR_MORE_DATA, EOVERFLOW},
        {WAIT_TIMEOUT, ETIMEDOUT},
        {ERROR_DIRECTORY, ENOTDIR},
        {ERROR_PARTIAL_COPY, EFAULT},
        {ERROR_INVALID_ADDRESS, EFAULT},
        {ERROR_ARITHMETIC_OVERFLOW, EOVERFLOW},
        {ERROR_DELETE_PENDING, ENOENT},
        {ERROR_OPERATION_ABORTED, ECANCELED},
        {ERROR_NOACCESS, EFAULT},
        {ERROR_STACK_OVERFLOW, ENOMEM},
        {ERROR_FILE_INVALID, ESTALE}, /* the volume behind a file has changed */
        {ERROR_UNRECOGNIZED_VOLUME, ENODEV},
        {ERROR_IO_DEVICE, EIO},
        {ERROR_POSSIBLE_DEADLOCK, EDEADLK},
        {ERROR_TOO_MANY_LINKS, EMLINK},
        {1295, EDQUOT}, /* ERROR_DISK_QUOTA_EXCEEDED, which not every header has */
        {ERROR_NOT_A_REPARSE_POINT, EINVAL},
        {ERROR_CANT_RESOLVE_FILENAME, ELOOP},
        {ERROR_PRIVILEGE_NOT_HELD, EPERM},
        {ERROR_DISK_CORRUPT, EIO},
        {ERROR_USER_MAPPED_FILE, EBUSY},
        {ERROR_MAPPED_ALIGNMENT, EINVAL},
        {ERROR_NO_SYSTEM_RESOURCES, ENOMEM},
        {ERROR_WORKING_SET_QUOTA, ENOMEM},
        {ERROR_PAGEFILE_QUOTA, ENOMEM},
        {ERROR_COMMITMENT_LIMIT, ENOMEM},
        {ERROR_TIMEOUT, ETIMEDOUT},
};

int pnx__windows_errno(DWORD error) {
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        if (errors[i].theirs == error)
            return -errors[i].ours;
    }
    return -EIO;
}

int pnx__windows_failed(void) {
    return pnx__windows_errno(GetLastError());
}

static bool is_slash(wchar_t c) {
    return c == L'\\' || c == L'/';
}

/* Puts the prefix before a path that is whole: without ".", "..", slashes or a relative beginning. */
static int prefix(const wchar_t *path, wchar_t ret_path[PNX_WINDOWS_PATH_MAX]) {
    wchar_t whole[PNX_WINDOWS_PATH_MAX];
    DWORD n = GetFullPathNameW(path, PNX_WINDOWS_PATH_MAX, whole, NULL);
    if (n == 0)
        return pnx__windows_failed();
    bool shared = is_slash(whole[0]) && is_slash(whole[1]); /* \\server\share */
    const wchar_t *before = shared ? L"\\\\?\\UNC" : L"\\\\?\\";
    size_t skip = shared ? 1 : 0, length = wcslen(before);
    if (n >= PNX_WINDOWS_PATH_MAX || length + n - skip >= PNX_WINDOWS_PATH_MAX)
        return -ENAMETOOLONG;
    wmemcpy(ret_path, before, length);
    wmemcpy(ret_path + length, whole + skip, n - skip + 1);
    return 0;
}

int pnx__windows_path(const char *path, wchar_t ret_path[PNX_WINDOWS_PATH_MAX]) {
    if (!*path)
        return -ENOENT;
    int n = MultiByteToWideChar(
            CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, ret_path, PNX_WINDOWS_PATH_MAX);
    if (n == 0)
        return GetLastError() == ERROR_INSUFFICIENT_BUFFER ? -ENAMETOOLONG : -EINVAL;
    bool has_prefix =
            wcsncmp(ret_path, L"\\\\?\\", 4) == 0 || wcsncmp(ret_path, L"\\\\.\\", 4) == 0;
    if (n < MAX_PATH - 12 || has_prefix) /* directories have room for a name of 8.3 */
        return 0;
    wchar_t given[PNX_WINDOWS_PATH_MAX];
    wmemcpy(given, ret_path, (size_t)n);
    return prefix(given, ret_path);
}

int pnx__windows_utf8(const wchar_t *text, char *buf, size_t size) {
    if (wcsncmp(text, L"\\\\?\\", 4) == 0 && wcsncmp(text + 4, L"UNC\\", 4) != 0)
        text += 4;
    int n = WideCharToMultiByte(
            CP_UTF8, 0, text, -1, buf, size > INT32_MAX ? INT32_MAX : (int)size, NULL, NULL);
    return n > 0 ? 0 : pnx__windows_failed();
}

HANDLE pnx__windows_handle(int fd) {
    intptr_t handle = fd < 0 ? -1 : _get_osfhandle(fd);
    return handle == -2 ? INVALID_HANDLE_VALUE : (HANDLE)handle; /* -2: a stream without a file */
}
