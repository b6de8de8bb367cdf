/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/map.c - mappings on Linux.
 *
 *   P1  No call returns -EINTR.
 *   P2  On failure outputs are untouched, and what was mapped still is.
 */
#include "os/map.h"

#include "os/file.h"
#include "os/retry.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define HUGE ((size_t)2 << 20) /* on x86-64, and on arm64 with small pages of 4 KiB */

static int map_at(
        void *at, size_t n, int protection, int flags, int fd, off_t offset, void **ret_base) {
    void *base = mmap(at, n, protection, flags | (at ? MAP_FIXED : 0), fd, offset);
    if (base == MAP_FAILED)
        return -errno;
    *ret_base = base;
    return 0;
}

int pnx__os_map(const struct pnx_os_map *what, void **ret_base) {
    int injected = PNX_OS_FAULT("mmap");
    if (injected)
        return injected;
    if (what->offset > INT64_MAX)
        return -EOVERFLOW;
    bool reads = what->access == PNX_OS_READ || what->access == PNX_OS_READ_OWN;
    bool shared = what->access == PNX_OS_READ || what->access == PNX_OS_WRITE;
    int protection = reads && what->fd >= 0 ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = what->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : shared ? MAP_SHARED : MAP_PRIVATE;
    if (what->huge)
        flags |= MAP_HUGETLB;
    return map_at(what->at, what->n, protection, flags, what->fd, (off_t)what->offset, ret_base);
}

int pnx__os_reserve(void *at, size_t n, void **ret_base) {
    int injected = PNX_OS_FAULT("reserve");
    if (injected)
        return injected;
    return map_at(at, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, ret_base);
}

int pnx__os_remap(void *base, size_t old_n, size_t n, void **ret_base) {
    int injected = PNX_OS_FAULT("mremap");
    if (injected)
        return injected;
    void *moved = mremap(base, old_n, n, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED)
        return -errno;
    *ret_base = moved;
    return 0;
}

static int advise(const char *name, void *base, size_t n, int advice) {
    int rc;
    (void)name; /* where no failure can be injected */
    PNX_OS_RETRY(rc, name, madvise(base, n, advice));
    return rc;
}

int pnx__os_policy(void *base, size_t n, enum pnx_os_policy policy) {
    static const int words[] = {
            [PNX_OS_NO_DUMP] = MADV_DONTDUMP,
            [PNX_OS_NO_FORK] = MADV_DONTFORK,
            [PNX_OS_WIPE_ON_FORK] = MADV_WIPEONFORK,
            [PNX_OS_HUGE] = MADV_HUGEPAGE,
    };
    return advise("policy", base, n, words[policy]);
}

int pnx__os_lock_pages(void *base, size_t n) {
    int injected = PNX_OS_FAULT("mlock");
    if (injected)
        return injected;
    return mlock(base, n) ? -errno : 0;
}

void pnx__os_unlock_pages(void *base, size_t n) {
    (void)munlock(base, n);
}

int pnx__os_lock_limit(uint64_t *ret_bytes) {
    struct rlimit limit;
    int injected = PNX_OS_FAULT("getrlimit");
    if (injected)
        return injected;
    if (getrlimit(RLIMIT_MEMLOCK, &limit))
        return -errno;
    *ret_bytes = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : (uint64_t)limit.rlim_cur;
    return 0;
}

int pnx__os_sync_pages(void *base, size_t n) {
    int rc;
    PNX_OS_RETRY(rc, "msync", msync(base, n, MS_SYNC));
    return rc;
}

/* Counts the lines of an open file. */
static int count_lines(int fd, uint64_t *ret_lines) {
    char buf[4096];
    uint64_t lines = 0;
    int64_t n;
    while ((n = pnx__os_read(fd, buf, sizeof(buf))) > 0)
        for (int64_t i = 0; i < n; i++)
            lines += buf[i] == '\n';
    *ret_lines = lines;
    return (int)n;
}

int pnx__os_map_counts(uint64_t *ret_have, uint64_t *ret_most) {
    char text[32] = "";
    uint64_t have = 0;
    int injected = PNX_OS_FAULT("map_counts");
    if (injected)
        return injected;
    int fd = pnx__os_open("/proc/sys/vm/max_map_count", O_RDONLY, 0);
    if (fd < 0)
        return fd;
    int64_t n = pnx__os_read_full(fd, text, sizeof(text) - 1);
    pnx__os_close(&fd);
    if (n <= 0)
        return n < 0 ? (int)n : -EIO;
    fd = pnx__os_open("/proc/self/maps", O_RDONLY, 0);
    if (fd < 0)
        return fd;
    int rc = count_lines(fd, &have);
    pnx__os_close(&fd);
    if (rc)
        return rc;
    *ret_have = have;
    *ret_most = strtoull(text, NULL, 10);
    return 0;
}

bool pnx__os_cuts_mapped(void) {
    return !PNX_OS_FAULT("cut_mapped");
}

bool pnx__os_maps_into_reserved(void) {
    return !PNX_OS_FAULT("map_into_reserved");
}

size_t pnx__os_huge_page_size(void) {
    return HUGE;
}
