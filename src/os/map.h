/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/map.h - pages of files and of the process, at addresses.  os/extent.h has what happens to the file.
 *
 * Each returns 0 or -errno.  Offsets, addresses and the sizes of what is replaced or given up are multiples of a page;
 * the size of what is mapped need not be.  The name of a call for test_os_fault() stands behind it.
 */
#ifndef PNX_SRC_OS_MAP_H
#define PNX_SRC_OS_MAP_H

#include <patinox/base.h>

enum pnx_os_access {
    PNX_OS_READ = 0,
    PNX_OS_WRITE,    /* shared: stores reach the file */
    PNX_OS_PRIVATE,  /* stores stay here */
    PNX_OS_READ_OWN, /* as READ, for files that are sealed, which older systems do not share */
};

struct pnx_os_map {
    int fd; /* -1: zeroed memory, which is private whatever access says */
    enum pnx_os_access access;
    uint64_t offset;
    size_t n;
    void *at; /* takes the place of whatever is mapped there, which is the caller's; NULL: anywhere */
    bool huge; /* of huge pages: n is a multiple of theirs; without a file only */
};

/* Maps ("mmap").  What stood at what->at is gone only on success. */
int pnx__os_map(const struct pnx_os_map *what, void **ret_base);

/* Keeps n bytes of address space, in which nothing can be touched; at as above ("reserve").  Costs no memory. */
int pnx__os_reserve(void *at, size_t n, void **ret_base);

/* Makes a mapping longer or shorter, with its content; it may move ("mremap"). */
int pnx__os_remap(void *base, size_t old_n, size_t n, void **ret_base);

/* How a range is treated when the process forks or dumps core; or large pages, if it pleases ("policy"). */
enum pnx_os_policy {
    PNX_OS_NO_DUMP,
    PNX_OS_NO_FORK,      /* a child does not have it */
    PNX_OS_WIPE_ON_FORK, /* a child finds zeros; private memory without a file only */
    PNX_OS_HUGE,
};
int pnx__os_policy(void *base, size_t n, enum pnx_os_policy policy);

/* Keeps pages in memory ("mlock").  Unlocking cannot fail. */
int pnx__os_lock_pages(void *base, size_t n);
void pnx__os_unlock_pages(void *base, size_t n);
/* How many bytes an unprivileged process may lock; UINT64_MAX: no limit ("getrlimit"). */
int pnx__os_lock_limit(uint64_t *ret_bytes);

/* Writes the pages of a shared mapping back and waits for it ("msync"); on Windows pnx__os_fdatasync() does the waiting. */
int pnx__os_sync_pages(void *base, size_t n);
static inline bool pnx__os_sync_waits(void) {
#ifdef _WIN32
    return false;
#else
    return true;
#endif
}

/* Whether a file can be cut while somebody has it mapped ("cut_mapped"); on Windows none can. */
bool pnx__os_cuts_mapped(void);
/* Whether files can be mapped into address space that was kept ("map_into_reserved"). */
bool pnx__os_maps_into_reserved(void);

/* Counts the mappings that the process has, and how many it may have ("map_counts").  Slow: for error messages. */
int pnx__os_map_counts(uint64_t *ret_have, uint64_t *ret_most);

/* Bytes in a huge page, a power of two; 0 when there are none. */
size_t pnx__os_huge_page_size(void);

#endif
