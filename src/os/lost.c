/* SPDX-License-Identifier: Apache-2.0 */
/* os/lost.c - see os/lost.h: what the system does about pages; the copies stand in os/lost_copy.c. */
#include "os/lost.h"

#include "os/fault.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#define PART ((size_t)1 << 30) /* the system copies no more than 2 GiB at once */

int pnx__os_copy_by_system(void *dst, const void *src, size_t n, bool dst_is_lossy) {
    int injected = PNX_OS_FAULT("process_vm");
    if (injected)
        return injected;
    pid_t self = getpid();
    for (size_t at = 0; at < n;) {
        size_t part = n - at < PART ? n - at : PART;
        const struct iovec to = {(char *)dst + at, part};
        const struct iovec from = {(char *)(uintptr_t)src + at, part};
        ssize_t done = dst_is_lossy ? process_vm_writev(self, &from, 1, &to, 1, 0)
                                    : process_vm_readv(self, &to, 1, &from, 1, 0);
        if (done < 0 && errno != EFAULT)
            return errno == ENOMEM ? -ENOMEM : -ENOTSUP; /* a sandbox, a kernel without it */
        if (done <= 0)
            return -EFAULT;
        at += (size_t)done;
    }
    return 0;
}

/* ---- what a handler calls ---- */

int pnx__os_populate(uintptr_t from, size_t n, bool for_writing) {
    int rc;
    do {
        rc = PNX_OS_FAULT("populate");
        if (rc == 0 &&
                madvise((void *)from, n, for_writing ? MADV_POPULATE_WRITE : MADV_POPULATE_READ))
            rc = -errno;
    } while (rc == -EINTR || rc == -EAGAIN);
    return rc;
}

int pnx__os_zero(uintptr_t from, size_t n, bool writable) {
    int injected = PNX_OS_FAULT("mmap_zero");
    if (injected)
        return injected;
    long protection = PROT_READ | (writable ? PROT_WRITE : 0);
    long flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    /* Not the C library's function, which tools put others over that may do more than a handler may. */
    return syscall(SYS_mmap, from, n, protection, flags, -1L, 0L) == -1 ? -errno : 0;
}
