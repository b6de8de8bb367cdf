/* SPDX-License-Identifier: Apache-2.0 */
/* os/pages.c - anonymous mappings on POSIX systems. */
#include "os/pages.h"

#include "os/fault.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#define PAGE ((size_t)4096) /* larger ones are a multiple; the kernel rounds up */
#define HUGE ((size_t)2 << 20)

static size_t whole_pages(size_t bytes) {
    return (bytes + PAGE - 1) & ~(PAGE - 1);
}

/* Maps whole pages, aligned to HUGE: maps more, and gives back what stands before and after. */
static char *map_aligned(size_t bytes) {
    char *p = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return p;
    size_t before = (size_t)(-(uintptr_t)p & (HUGE - 1));
    if (before)
        (void)munmap(p, before);
    (void)munmap(p + before + bytes, HUGE - before);
    p += before;
    if (!PNX_OS_FAULT("madvise"))
        (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

void *pnx__os_pages_map(size_t bytes) {
    if (bytes == 0 || bytes > PTRDIFF_MAX - 2 * HUGE || PNX_OS_FAULT("mmap"))
        return NULL;
    int saved = errno;
    bytes = whole_pages(bytes);
    char *p = bytes >= HUGE ? map_aligned(bytes)
                            : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                      -1, 0);
    errno = saved;
    return p == MAP_FAILED ? NULL : p;
}

void pnx__os_pages_unmap(void *pages, size_t bytes) {
    int saved = errno;
    (void)munmap(pages, whole_pages(bytes));
    errno = saved;
}
