/* SPDX-License-Identifier: Apache-2.0 */
/* os/windows/pages.c - VirtualAlloc(); large pages need a privilege, so there are none. */
#include "os/pages.h"

#include "os/fault.h"
#include "os/windows/windows.h"

#define HUGE  ((size_t)2 << 20)
#define TRIES 8

/* Reserves more, and then, where that was, what is aligned; another thread may be faster, and have the place. */
static void *map_aligned(size_t bytes) {
    for (int i = 0; i < TRIES; i++) {
        char *more = VirtualAlloc(NULL, bytes + HUGE, MEM_RESERVE, PAGE_NOACCESS);
        if (!more)
            return NULL;
        char *aligned = more + (-(uintptr_t)more & (HUGE - 1));
        VirtualFree(more, 0, MEM_RELEASE);
        void *pages = VirtualAlloc(aligned, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
        if (pages)
            return pages;
    }
    return NULL;
}

void *pnx__os_pages_map(size_t bytes) {
    if (bytes == 0 || bytes > PTRDIFF_MAX - 2 * HUGE || PNX_OS_FAULT("mmap"))
        return NULL;
    if (bytes >= HUGE)
        return map_aligned(bytes);
    return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void pnx__os_pages_unmap(void *pages, size_t bytes) {
    (void)bytes;
    VirtualFree(pages, 0, MEM_RELEASE);
}
