/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/file.c - files on POSIX systems.
 *
 *   P1  No call returns -EINTR, close excepted, which does not report it.
 *   P2  Every descriptor made here is close-on-exec.
 *   P3  On failure outputs are untouched.
 */
#include "os/file.h"

#include "os/retry.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The longest single transfer: Linux moves no more in one call, and the count must fit an ssize_t. */
#define IO_MAX ((size_t)INT_MAX & ~(size_t)4095)

int pnx__os_open(const char *path, int flags, unsigned mode) {
    int rc;
    PNX_OS_RETRY(rc, "open", open(path, flags | O_CLOEXEC, (mode_t)mode));
    return rc;
}

int pnx__os_openat(int dir, const char *path, int flags, unsigned mode) {
    int rc;
    PNX_OS_RETRY(rc, "openat", openat(dir, path, flags | O_CLOEXEC, (mode_t)mode));
    return rc;
}

int pnx__os_dup(int fd) {
    int rc;
    PNX_OS_RETRY(rc, "dup", fcntl(fd, F_DUPFD_CLOEXEC, 0));
    return rc;
}

int pnx__os_close(int *fd) {
    int old = *fd;
    *fd = -1;
    if (old < 0)
        return 0;
    int injected = PNX_OS_FAULT("close");
    /* Never again after EINTR: Linux has closed it, and the number may be somebody else's by now. */
    int rc = close(old) == 0 || errno == EINTR ? 0 : -errno;
    return injected ? injected : rc;
}

static enum pnx_file_kind kind_of(mode_t mode) {
    if (S_ISREG(mode))
        return PNX_FILE_REGULAR;
    if (S_ISDIR(mode))
        return PNX_FILE_DIRECTORY;
    if (S_ISLNK(mode))
        return PNX_FILE_LINK;
    if (S_ISFIFO(mode) || S_ISSOCK(mode))
        return PNX_FILE_PIPE;
    return PNX_FILE_DEVICE;
}

static int64_t to_ns(struct timespec ts) {
    int64_t ns;
    if (__builtin_mul_overflow((int64_t)ts.tv_sec, (int64_t)PNX_SEC, &ns) ||
            __builtin_add_overflow(ns, (int64_t)ts.tv_nsec, &ns))
        return ts.tv_sec < 0 ? INT64_MIN : INT64_MAX; /* a time stamp beyond the year 2262 */
    return ns;
}

static void fill(const struct stat *st, struct pnx_file_info *ret_info) {
    *ret_info = (struct pnx_file_info){
            .device = (uint64_t)st->st_dev,
            .inode = (uint64_t)st->st_ino,
            .size = st->st_size > 0 ? (uint64_t)st->st_size : 0,
            .mtime_ns = to_ns(st->st_mtim),
            .ctime_ns = to_ns(st->st_ctim),
            .links = (uint64_t)st->st_nlink,
            .mode = (uint32_t)(st->st_mode & 07777),
            .kind = kind_of(st->st_mode),
    };
}

int pnx__os_fstat(int fd, struct pnx_file_info *ret_info) {
    struct stat st;
    int rc;
    PNX_OS_RETRY(rc, "fstat", fstat(fd, &st));
    if (rc == 0)
        fill(&st, ret_info);
    return rc;
}

int pnx__os_stat(const char *path, struct pnx_file_info *ret_info) {
    struct stat st;
    int rc;
    PNX_OS_RETRY(rc, "stat", stat(path, &st));
    if (rc == 0)
        fill(&st, ret_info);
    return rc;
}

int pnx__os_lstat(const char *path, struct pnx_file_info *ret_info) {
    struct stat st;
    int rc;
    PNX_OS_RETRY(rc, "lstat", lstat(path, &st));
    if (rc == 0)
        fill(&st, ret_info);
    return rc;
}

static size_t at_most(size_t n) {
    return n < IO_MAX ? n : IO_MAX;
}

int64_t pnx__os_read(int fd, void *buf, size_t n) {
    int64_t rc;
    PNX_OS_RETRY(rc, "read", read(fd, buf, at_most(n)));
    return rc;
}

int64_t pnx__os_pread(int fd, void *buf, size_t n, uint64_t offset) {
    int64_t rc;
    if (offset > INT64_MAX)
        return -EOVERFLOW;
    PNX_OS_RETRY(rc, "pread", pread(fd, buf, at_most(n), (off_t)offset));
    return rc;
}

int64_t pnx__os_write(int fd, const void *data, size_t n) {
    int64_t rc;
    PNX_OS_RETRY(rc, "write", write(fd, data, at_most(n)));
    return rc;
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
    int rc;
    PNX_OS_RETRY(rc, "fsync", fsync(fd));
    return rc;
}

int pnx__os_fsync_dir(const char *path) {
    int fd = pnx__os_open(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    int rc = pnx__os_fsync(fd);
    pnx__os_close(&fd);
    return rc;
}

int pnx__os_ftruncate(int fd, uint64_t size) {
    int rc;
    if (size > INT64_MAX)
        return -EFBIG;
    PNX_OS_RETRY(rc, "ftruncate", ftruncate(fd, (off_t)size));
    return rc;
}

int pnx__os_fallocate(int fd, uint64_t size) {
    int rc;
    if (size > INT64_MAX)
        return -EFBIG;
    do {
        int injected = PNX_OS_FAULT("fallocate");
        rc = injected ? injected : -posix_fallocate(fd, 0, (off_t)size); /* returns its errno */
    } while (rc == -EINTR);
    return rc;
}

int pnx__os_rename(const char *from, const char *to) {
    int rc;
    PNX_OS_RETRY(rc, "rename", rename(from, to));
    return rc;
}

int pnx__os_unlink(const char *path) {
    int rc;
    PNX_OS_RETRY(rc, "unlink", unlink(path));
    return rc;
}

int pnx__os_mkdir(const char *path, unsigned mode) {
    int rc;
    PNX_OS_RETRY(rc, "mkdir", mkdir(path, (mode_t)mode));
    return rc;
}

int pnx__os_rmdir(const char *path) {
    int rc;
    PNX_OS_RETRY(rc, "rmdir", rmdir(path));
    return rc;
}

void pnx__os_unmap(void *base, size_t n) {
    munmap(base, n);
}

int pnx__os_advise(void *base, size_t n, enum pnx_os_advice advice) {
    static const int words[] = {
            [PNX_OS_ADVICE_NORMAL] = MADV_NORMAL,
            [PNX_OS_ADVICE_SEQUENTIAL] = MADV_SEQUENTIAL,
            [PNX_OS_ADVICE_RANDOM] = MADV_RANDOM,
            [PNX_OS_ADVICE_WILLNEED] = MADV_WILLNEED,
            [PNX_OS_ADVICE_DONTNEED] = MADV_DONTNEED,
            [PNX_OS_ADVICE_COLD] = MADV_COLD,
    };
    int rc;
    PNX_OS_RETRY(rc, "madvise", madvise(base, n, words[advice]));
    return rc;
}

size_t pnx__os_page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE); /* cannot fail, and costs no system call */
}

size_t pnx__os_map_grain(void) {
    return pnx__os_page_size();
}
