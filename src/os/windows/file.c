/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/windows/file.c - files on Windows, behind descriptors of the C runtime.
 *
 *   P1  Names are UTF-8, and may be as long as the file system allows.
 *   P2  No handle made here is inherited by processes.
 *   P3  Files are opened so that others may read, write, rename and delete them, as far as the system lets them.
 *   P4  On failure outputs are untouched.
 */
#include "os/file.h"

#include "os/windows/windows.h"

#include <io.h>
#include <limits.h>
#include <string.h>

#define IO_MAX        ((size_t)INT_MAX & ~(size_t)4095) /* the longest single transfer */
#define SHARE_ALL     (FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
#define TICKS_TO_1970 INT64_C(116444736000000000) /* of 100 ns, from 1601 */

/* ---- descriptors ---- */

/* Takes the handle over. */
static int descriptor_of(HANDLE handle, int flags) {
    int fd = _open_osfhandle((intptr_t)handle, (flags & O_APPEND) | O_BINARY | O_NOINHERIT);
    if (fd < 0) {
        CloseHandle(handle);
        return -EMFILE;
    }
    return fd;
}

static DWORD access_of(int flags) {
    DWORD access = (flags & O_ACCMODE) == O_RDONLY   ? GENERIC_READ
                   : (flags & O_ACCMODE) == O_WRONLY ? GENERIC_WRITE
                                                     : GENERIC_READ | GENERIC_WRITE;
    return access;
}

static DWORD disposition_of(int flags) {
    if ((flags & O_CREAT) && (flags & O_EXCL))
        return CREATE_NEW;
    if (flags & O_CREAT)
        return flags & O_TRUNC ? CREATE_ALWAYS : OPEN_ALWAYS;
    return flags & O_TRUNC ? TRUNCATE_EXISTING : OPEN_EXISTING;
}

static bool is_directory(const wchar_t *path) {
    DWORD attributes = GetFileAttributesW(path);
    return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
}

static int open_path(const char *path, int flags, unsigned mode) {
    wchar_t wide[PNX_WINDOWS_PATH_MAX];
    int rc = pnx__windows_path(path, wide);
    if (rc)
        return rc;
    bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    DWORD attributes =
            (flags & O_CREAT) && !(mode & 0200) ? FILE_ATTRIBUTE_READONLY : FILE_ATTRIBUTE_NORMAL;
    HANDLE handle = CreateFileW(wide, access_of(flags), SHARE_ALL, NULL, disposition_of(flags),
            attributes | (writes ? 0 : FILE_FLAG_BACKUP_SEMANTICS), /* directories, too */
            NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        rc = pnx__windows_failed();
        return rc == -EACCES && writes && is_directory(wide) ? -EISDIR : rc;
    }
    if ((flags & O_DIRECTORY) && !is_directory(wide)) {
        CloseHandle(handle);
        return -ENOTDIR;
    }
    return descriptor_of(handle, flags);
}

int pnx__os_open(const char *path, int flags, unsigned mode) {
    int injected = FAULT("open");
    return injected ? injected : open_path(path, flags, mode);
}

/* Puts a directory's name before a path that begins in it. */
static int join(int dir, const char *path, char ret_path[PNX_WINDOWS_PATH_MAX]) {
    wchar_t wide[PNX_WINDOWS_PATH_MAX];
    HANDLE handle = pnx__windows_handle(dir);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    DWORD n = GetFinalPathNameByHandleW(handle, wide, PNX_WINDOWS_PATH_MAX, 0);
    if (n == 0 || n >= PNX_WINDOWS_PATH_MAX)
        return n ? -ENAMETOOLONG : pnx__windows_failed();
    int rc = pnx__windows_utf8(wide, ret_path, PNX_WINDOWS_PATH_MAX);
    if (rc)
        return rc;
    size_t at = strlen(ret_path), more = strlen(path);
    if (at + 1 + more >= PNX_WINDOWS_PATH_MAX)
        return -ENAMETOOLONG;
    ret_path[at] = '\\';
    memcpy(ret_path + at + 1, path, more + 1);
    return 0;
}

int pnx__os_openat(int dir, const char *path, int flags, unsigned mode) {
    char joined[PNX_WINDOWS_PATH_MAX];
    int rc = FAULT("openat");
    if (rc)
        return rc;
    bool whole = path[0] == '/' || path[0] == '\\' || (path[0] && path[1] == ':');
    if (whole || dir == AT_FDCWD)
        return open_path(path, flags, mode);
    rc = join(dir, path, joined);
    return rc ? rc : open_path(joined, flags, mode);
}

int pnx__os_dup(int fd) {
    int injected = FAULT("dup");
    if (injected)
        return injected;
    HANDLE process = GetCurrentProcess(), handle;
    if (pnx__windows_handle(fd) == INVALID_HANDLE_VALUE)
        return -EBADF;
    if (!DuplicateHandle(process, pnx__windows_handle(fd), process, &handle, 0, FALSE,
                DUPLICATE_SAME_ACCESS))
        return pnx__windows_failed();
    return descriptor_of(handle, 0);
}

int pnx__os_close(int *fd) {
    int old = *fd;
    *fd = -1;
    if (old < 0)
        return 0;
    int injected = FAULT("close");
    int rc = _close(old) == 0 ? 0 : -errno;
    return injected ? injected : rc;
}

/* ---- what is known of a file ---- */

static int64_t to_ns(LARGE_INTEGER ticks) {
    int64_t ns;
    if (__builtin_mul_overflow(ticks.QuadPart - TICKS_TO_1970, INT64_C(100), &ns))
        return INT64_MAX; /* a time stamp beyond the year 2262 */
    return ns;
}

/* What is no file on a disk: what it is, and no more. */
static int fill_other(DWORD type, struct pnx_file_info *ret_info) {
    *ret_info = (struct pnx_file_info){
            .links = 1,
            .mode = 0666,
            .kind = type == FILE_TYPE_PIPE ? PNX_FILE_PIPE : PNX_FILE_DEVICE,
    };
    return 0;
}

static int fill(HANDLE handle, struct pnx_file_info *ret_info) {
    BY_HANDLE_FILE_INFORMATION file;
    FILE_BASIC_INFO basic;
    DWORD type = GetFileType(handle);
    if (type == FILE_TYPE_CHAR || type == FILE_TYPE_PIPE)
        return fill_other(type, ret_info);
    if (!GetFileInformationByHandle(handle, &file) ||
            !GetFileInformationByHandleEx(handle, FileBasicInfo, &basic, sizeof(basic)))
        return pnx__windows_failed();
    bool directory = (file.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
    bool link = (file.dwFileAttributes & FILE_ATTRIBUTE_REPARSE_POINT) != 0;
    bool read_only = (file.dwFileAttributes & FILE_ATTRIBUTE_READONLY) && !directory;
    *ret_info = (struct pnx_file_info){
            .device = file.dwVolumeSerialNumber,
            .inode = (uint64_t)file.nFileIndexHigh << 32 | file.nFileIndexLow,
            .size = directory ? 0 : (uint64_t)file.nFileSizeHigh << 32 | file.nFileSizeLow,
            .mtime_ns = to_ns(basic.LastWriteTime),
            .ctime_ns = to_ns(basic.ChangeTime),
            .links = file.nNumberOfLinks,
            .mode = directory   ? 0777
                    : read_only ? 0444
                                : 0666,
            .kind = link        ? PNX_FILE_LINK
                    : directory ? PNX_FILE_DIRECTORY
                                : PNX_FILE_REGULAR,
    };
    return 0;
}

int pnx__os_fstat(int fd, struct pnx_file_info *ret_info) {
    int injected = FAULT("fstat");
    if (injected)
        return injected;
    HANDLE handle = pnx__windows_handle(fd);
    return handle == INVALID_HANDLE_VALUE ? -EBADF : fill(handle, ret_info);
}

static int look(const char *path, DWORD flags, struct pnx_file_info *ret_info) {
    wchar_t wide[PNX_WINDOWS_PATH_MAX];
    int rc = pnx__windows_path(path, wide);
    if (rc)
        return rc;
    /* No access is asked for but to attributes, so that any file may be looked at. */
    HANDLE handle = CreateFileW(wide, FILE_READ_ATTRIBUTES, SHARE_ALL, NULL, OPEN_EXISTING,
            FILE_FLAG_BACKUP_SEMANTICS | flags, NULL);
    if (handle == INVALID_HANDLE_VALUE)
        return pnx__windows_failed();
    rc = fill(handle, ret_info);
    CloseHandle(handle);
    return rc;
}

int pnx__os_stat(const char *path, struct pnx_file_info *ret_info) {
    int injected = FAULT("stat");
    return injected ? injected : look(path, 0, ret_info);
}

int pnx__os_lstat(const char *path, struct pnx_file_info *ret_info) {
    int injected = FAULT("lstat");
    return injected ? injected : look(path, FILE_FLAG_OPEN_REPARSE_POINT, ret_info);
}

/* ---- reading and writing ---- */

static DWORD at_most(size_t n) {
    return (DWORD)(n < IO_MAX ? n : IO_MAX);
}

/* The end of a file and the end of a pipe are no errors. */
static int64_t read_failed(void) {
    DWORD error = GetLastError();
    if (error == ERROR_ACCESS_DENIED) /* opened for something else */
        return -EBADF;
    return error == ERROR_HANDLE_EOF || error == ERROR_BROKEN_PIPE ? 0 : pnx__windows_errno(error);
}

int64_t pnx__os_read(int fd, void *buf, size_t n) {
    int injected = FAULT("read");
    if (injected)
        return injected;
    DWORD done = 0;
    HANDLE handle = pnx__windows_handle(fd);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    if (!ReadFile(handle, buf, at_most(n), &done, NULL))
        return read_failed();
    return done;
}

/* Where a handle stands, which a transfer at an offset moves. */
static LARGE_INTEGER position(HANDLE handle) {
    LARGE_INTEGER none = {.QuadPart = 0}, at = {.QuadPart = -1};
    if (!SetFilePointerEx(handle, none, &at, FILE_CURRENT))
        at.QuadPart = -1;
    return at;
}

static OVERLAPPED at_offset(uint64_t offset) {
    return (OVERLAPPED){.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
}

int64_t pnx__os_pread(int fd, void *buf, size_t n, uint64_t offset) {
    if (offset > INT64_MAX)
        return -EOVERFLOW;
    int injected = FAULT("pread");
    if (injected)
        return injected;
    HANDLE handle = pnx__windows_handle(fd);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    if (GetFileType(handle) == FILE_TYPE_PIPE)
        return -ESPIPE;
    DWORD done = 0;
    LARGE_INTEGER before = position(handle);
    OVERLAPPED where = at_offset(offset);
    int64_t rc = ReadFile(handle, buf, at_most(n), &done, &where) ? (int64_t)done : read_failed();
    if (before.QuadPart >= 0)
        SetFilePointerEx(handle, before, NULL, FILE_BEGIN);
    return rc;
}

int64_t pnx__os_write(int fd, const void *data, size_t n) {
    int injected = FAULT("write");
    if (injected)
        return injected;
    DWORD done = 0;
    HANDLE handle = pnx__windows_handle(fd);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    if (WriteFile(handle, data, at_most(n), &done, NULL))
        return done;
    return GetLastError() == ERROR_ACCESS_DENIED ? -EBADF : pnx__windows_failed();
}

int64_t pnx__os_read_full(int fd, void *buf, size_t n) {
    size_t done = 0;
    while (done < n) {
        int64_t rc = pnx__os_read(fd, (char *)buf + done, n - done);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        done += (size_t)rc;
    }
    return (int64_t)done;
}

int64_t pnx__os_pread_full(int fd, void *buf, size_t n, uint64_t offset) {
    size_t done = 0;
    while (done < n) {
        int64_t rc = pnx__os_pread(fd, (char *)buf + done, n - done, offset + done);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        done += (size_t)rc;
    }
    return (int64_t)done;
}

int pnx__os_write_full(int fd, const void *data, size_t n) {
    for (size_t done = 0; done < n;) {
        int64_t rc = pnx__os_write(fd, (const char *)data + done, n - done);
        if (rc < 0)
            return (int)rc;
        if (rc == 0)
            return -EIO; /* a device that takes nothing and does not say why */
        done += (size_t)rc;
    }
    return 0;
}

int pnx__os_fsync(int fd) {
    int injected = FAULT("fsync");
    if (injected)
        return injected;
    HANDLE handle = pnx__windows_handle(fd);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    return FlushFileBuffers(handle) ? 0 : pnx__windows_failed();
}

/* The file systems of Windows keep a journal of names; there is no call that waits for it, but for administrators. */
int pnx__os_fsync_dir(const char *path) {
    struct pnx_file_info info = {0};
    int rc = FAULT("open");
    if (rc == 0)
        rc = FAULT("fsync");
    if (rc == 0)
        rc = look(path, 0, &info);
    if (rc)
        return rc;
    return info.kind == PNX_FILE_DIRECTORY ? 0 : -ENOTDIR;
}

static int set_end(int fd, uint64_t size) {
    HANDLE handle = pnx__windows_handle(fd);
    if (handle == INVALID_HANDLE_VALUE)
        return -EBADF;
    FILE_END_OF_FILE_INFO end = {.EndOfFile.QuadPart = (int64_t)size};
    return SetFileInformationByHandle(handle, FileEndOfFileInfo, &end, sizeof(end))
                   ? 0
                   : pnx__windows_failed();
}

int pnx__os_ftruncate(int fd, uint64_t size) {
    if (size > INT64_MAX)
        return -EFBIG;
    int injected = FAULT("ftruncate");
    return injected ? injected : set_end(fd, size);
}

/* What is no sparse file has its blocks as soon as it is long enough. */
int pnx__os_fallocate(int fd, uint64_t size) {
    struct pnx_file_info info = {0};
    if (size > INT64_MAX)
        return -EFBIG;
    int rc = FAULT("fallocate");
    if (rc == 0)
        rc = pnx__os_fstat(fd, &info);
    if (rc || info.size >= size)
        return rc;
    return set_end(fd, size);
}

/* ---- names ---- */

int pnx__os_rename(const char *from, const char *to) {
    wchar_t wide_from[PNX_WINDOWS_PATH_MAX], wide_to[PNX_WINDOWS_PATH_MAX];
    int rc = FAULT("rename");
    if (rc == 0)
        rc = pnx__windows_path(from, wide_from);
    if (rc == 0)
        rc = pnx__windows_path(to, wide_to);
    if (rc)
        return rc;
    return MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING) ? 0 : pnx__windows_failed();
}

/* Calls a function on a path, whose failure is GetLastError()'s. */
#define ON_PATH(name, path, call) \
    do { \
        wchar_t wide[PNX_WINDOWS_PATH_MAX]; \
        int rc_ = FAULT(name); \
        if (rc_ == 0) \
            rc_ = pnx__windows_path(path, wide); \
        return rc_ ? rc_ : (call) ? 0 : pnx__windows_failed(); \
    } while (0)

int pnx__os_unlink(const char *path) {
    ON_PATH("unlink", path, DeleteFileW(wide));
}

int pnx__os_mkdir(const char *path, unsigned mode) {
    (void)mode; /* access is inherited from the directory above */
    ON_PATH("mkdir", path, CreateDirectoryW(wide, NULL));
}

int pnx__os_rmdir(const char *path) {
    ON_PATH("rmdir", path, RemoveDirectoryW(wide));
}
