/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/windows/lost.c - see os/lost.h.
 *
 *   P1  A view is replaced as a whole, since no part of it can be: in the moment in which nothing is at its address, other
 *       threads that touch it fault, and come here.
 */
#include "os/lost.h"

#include "os/windows/windows.h"

#define TRIES 1000

int pnx__os_copy_by_system(void *dst, const void *src, size_t n, bool dst_is_lossy) {
    int injected = FAULT("process_vm");
    if (injected)
        return injected;
    SIZE_T done = 0;
    HANDLE self = GetCurrentProcess();
    BOOL ok = dst_is_lossy ? WriteProcessMemory(self, dst, src, n, &done)
                           : ReadProcessMemory(self, src, dst, n, &done);
    return ok && done == n ? 0 : -EFAULT;
}

/* The system prefetches, but does not tell what it could not have. */
int pnx__os_populate(uintptr_t from, size_t n, bool for_writing) {
    (void)from;
    (void)n;
    (void)for_writing;
    int injected = FAULT("populate");
    return injected ? injected : -EINVAL;
}

/* Whether the area is private memory by now: another thread was faster. */
static bool is_replaced(const MEMORY_BASIC_INFORMATION *area) {
    return area->State == MEM_COMMIT && area->Type == MEM_PRIVATE;
}

int pnx__os_zero(uintptr_t from, size_t n, bool writable) {
    int injected = FAULT("mmap_zero");
    if (injected)
        return injected;
    void *base = (void *)from;
    DWORD protection = writable ? PAGE_READWRITE : PAGE_READONLY;
    for (int i = 0; i < TRIES; i++) {
        MEMORY_BASIC_INFORMATION area = {0};
        if (!VirtualQuery(base, &area, sizeof(area)))
            return pnx__windows_failed();
        if (is_replaced(&area))
            return 0;
        if (area.State == MEM_COMMIT && area.AllocationBase != base)
            return -ENOTSUP; /* a part of a view */
        if (area.State == MEM_COMMIT)
            UnmapViewOfFile(base);
        VirtualAlloc(base, n, MEM_RESERVE | MEM_COMMIT, protection); /* seen by the next look */
    }
    return -EAGAIN;
}
