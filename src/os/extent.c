/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/extent.c - files' room, clones and seals on Linux.
 *
 *   P1  No call returns -EINTR.
 */
#include "os/extent.h"

#include "os/file.h"
#include "os/retry.h"

#include <errno.h>
#include <linux/fs.h> /* FICLONE */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int pnx__os_allocate(int fd, uint64_t offset, uint64_t n) {
    int rc;
    if (offset > INT64_MAX || n > INT64_MAX - offset)
        return -EFBIG;
    PNX_OS_RETRY(rc, "allocate", fallocate(fd, 0, (off_t)offset, (off_t)n));
    return rc == -ENOSYS ? -ENOTSUP : rc; /* EOPNOTSUPP is the same number */
}

int pnx__os_pwrite_full(int fd, const void *data, size_t n, uint64_t offset) {
    if (offset > INT64_MAX || n > INT64_MAX - offset)
        return -EFBIG;
    for (size_t done = 0; done < n;) {
        int64_t rc;
        PNX_OS_RETRY(rc, "pwrite",
                pwrite(fd, (const char *)data + done, n - done, (off_t)(offset + done)));
        if (rc < 0)
            return (int)rc;
        if (rc == 0)
            return -EIO; /* a device that takes nothing and does not say why */
        done += (size_t)rc;
    }
    return 0;
}

int pnx__os_sync_start(int fd, uint64_t offset, uint64_t n) {
    int rc;
    if (offset > INT64_MAX || n > INT64_MAX - offset)
        return -EFBIG;
    PNX_OS_RETRY(
            rc, "sync_start", sync_file_range(fd, (off_t)offset, (off_t)n, SYNC_FILE_RANGE_WRITE));
    return rc == -ENOSYS || rc == -ESPIPE ? -ENOTSUP : rc;
}

int pnx__os_fdatasync(int fd) {
    int rc;
    PNX_OS_RETRY(rc, "fdatasync", fdatasync(fd));
    return rc;
}

int pnx__os_clone(int fd, const char *dir) {
    int rc, clone;
    PNX_OS_RETRY(clone, "clone", open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (clone < 0)
        return clone;
    do {
        rc = ioctl(clone, FICLONE, fd) ? -errno : 0;
    } while (rc == -EINTR);
    if (rc == 0)
        return clone;
    (void)close(clone);
    return rc == -ENOTTY || rc == -ENOSYS ? -ENOTSUP : rc;
}

int pnx__os_memfd(const char *name) {
    int rc;
    PNX_OS_RETRY(rc, "memfd", memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    return rc;
}

static const struct {
    unsigned ours;
    int theirs;
} seal_words[] = {{1, F_SEAL_SHRINK}, {2, F_SEAL_GROW}, {4, F_SEAL_WRITE}, {8, F_SEAL_SEAL}};

int pnx__os_seal(int fd, unsigned seals) {
    int rc, words = 0;
    for (size_t i = 0; i < sizeof(seal_words) / sizeof(seal_words[0]); i++)
        if (seals & seal_words[i].ours)
            words |= seal_words[i].theirs;
    PNX_OS_RETRY(rc, "seal", fcntl(fd, F_ADD_SEALS, words));
    return rc == -EINVAL ? -ENOTSUP : rc;
}

int pnx__os_seals(int fd) {
    int rc;
    PNX_OS_RETRY(rc, "seals", fcntl(fd, F_GET_SEALS));
    if (rc < 0)
        return rc == -EINVAL ? -ENOTSUP : rc;
    unsigned seals = 0;
    for (size_t i = 0; i < sizeof(seal_words) / sizeof(seal_words[0]); i++)
        if (rc & seal_words[i].theirs)
            seals |= seal_words[i].ours;
    return (int)seals;
}
