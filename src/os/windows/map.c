/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/windows/map.c - mappings on Windows: views of sections, and VirtualAlloc().
 *
 *   P1  On failure outputs are untouched, and what was mapped still is.
 *   P2  No mapping makes a file longer, or goes beyond its end by more than the rest of a page.
 *   P3  A view of a file is all there or not at all: what is given up of it stays until the rest is, and nothing takes its
 *       place (-ENOTSUP).
 */
#include "os/map.h"

#include "os/file.h"
#include "os/windows/windows.h"

static MEMORY_BASIC_INFORMATION area_at(const void *address) {
    MEMORY_BASIC_INFORMATION area = {0};
    VirtualQuery(address, &area, sizeof(area));
    return area;
}

/* ---- files ---- */

static const struct {
    DWORD section;
    DWORD view;
} words[] = {
        [PNX_OS_READ] = {PAGE_READONLY, FILE_MAP_READ},
        [PNX_OS_WRITE] = {PAGE_READWRITE, FILE_MAP_READ | FILE_MAP_WRITE},
        [PNX_OS_PRIVATE] = {PAGE_WRITECOPY, FILE_MAP_COPY},
        [PNX_OS_READ_OWN] = {PAGE_READONLY, FILE_MAP_READ},
};

/* A view must end where the file does, while pages are asked for. */
static int trim(const struct pnx_os_map *what, HANDLE file, size_t *ret_n) {
    LARGE_INTEGER size;
    if (!GetFileSizeEx(file, &size))
        return pnx__windows_failed();
    if (what->offset >= (uint64_t)size.QuadPart)
        return -ESTALE; /* it was longer when the caller looked */
    uint64_t there = (uint64_t)size.QuadPart - what->offset, page = pnx__os_page_size();
    if ((there + page - 1) / page * page < what->n)
        return -ESTALE;
    *ret_n = there < what->n ? (size_t)there : what->n;
    return 0;
}

static int map_file(const struct pnx_os_map *what, void **ret_base) {
    HANDLE file = pnx__windows_handle(what->fd);
    size_t n = 0;
    if (file == INVALID_HANDLE_VALUE)
        return -EBADF;
    if (GetFileType(file) != FILE_TYPE_DISK)
        return -ENODEV;
    int rc = trim(what, file, &n);
    if (rc)
        return rc;
    /* No size, so that the file stays as long as it is.  NULL on failure, not INVALID_HANDLE_VALUE. */
    HANDLE section = CreateFileMappingW(file, NULL, words[what->access].section, 0, 0, NULL);
    if (!section) /* the file has become empty: that has an error of its own */
        return GetLastError() == ERROR_FILE_INVALID ? -ESTALE : pnx__windows_failed();
    void *base = MapViewOfFileEx(section, words[what->access].view, (DWORD)(what->offset >> 32),
            (DWORD)what->offset, n, NULL);
    rc = base ? 0 : pnx__windows_failed();
    CloseHandle(section); /* the view keeps it */
    if (rc == 0)
        *ret_base = base;
    return rc;
}

/* ---- memory ---- */

static int allocate(void *at, size_t n, DWORD type, DWORD protection, void **ret_base) {
    void *base = VirtualAlloc(at, n, type, protection);
    if (!base)
        return pnx__windows_failed();
    *ret_base = base;
    return 0;
}

int pnx__os_map(const struct pnx_os_map *what, void **ret_base) {
    int injected = FAULT("mmap");
    if (injected)
        return injected;
    if (what->offset > INT64_MAX)
        return -EOVERFLOW;
    if (what->huge)
        return -ENOTSUP; /* large pages need a privilege that nobody has by default */
    if (what->fd >= 0)
        return what->at ? -ENOTSUP : map_file(what, ret_base);
    DWORD type = what->at ? MEM_COMMIT : MEM_RESERVE | MEM_COMMIT;
    return allocate(what->at, what->n, type, PAGE_READWRITE, ret_base);
}

int pnx__os_reserve(void *at, size_t n, void **ret_base) {
    int injected = FAULT("reserve");
    if (injected)
        return injected;
    if (!at)
        return allocate(NULL, n, MEM_RESERVE, PAGE_NOACCESS, ret_base);
    if (area_at(at).Type != MEM_PRIVATE)
        return -ENOTSUP;
    return VirtualFree(at, n, MEM_DECOMMIT) ? 0 : pnx__windows_failed();
}

void pnx__os_unmap(void *base, size_t n) {
    MEMORY_BASIC_INFORMATION area = area_at(base);
    if (area.Type == MEM_MAPPED && area.AllocationBase == base)
        UnmapViewOfFile(base);
    else if (area.Type == MEM_PRIVATE && area.AllocationBase == base)
        VirtualFree(base, 0, MEM_RELEASE);
    else if (area.Type == MEM_PRIVATE) /* the end of it: the address space goes with the rest */
        VirtualFree(base, n, MEM_DECOMMIT);
}

int pnx__os_remap(void *base, size_t old_n, size_t n, void **ret_base) {
    (void)base;
    (void)old_n;
    (void)n;
    (void)ret_base;
    int injected = FAULT("mremap");
    return injected ? injected : -ENOTSUP;
}

/* ---- how pages are treated ---- */

int pnx__os_policy(void *base, size_t n, enum pnx_os_policy policy) {
    (void)base;
    (void)n;
    int injected = FAULT("policy");
    if (injected)
        return injected;
    /* Without fork() no child ever has, or finds, anything. */
    return policy == PNX_OS_NO_FORK || policy == PNX_OS_WIPE_ON_FORK ? 0 : -ENOTSUP;
}

int pnx__os_advise(void *base, size_t n, enum pnx_os_advice advice) {
    int injected = FAULT("madvise");
    if (injected)
        return injected;
    WIN32_MEMORY_RANGE_ENTRY range = {base, n};
    if (advice == PNX_OS_ADVICE_NORMAL)
        return 0;
    if (advice != PNX_OS_ADVICE_WILLNEED)
        return -ENOTSUP;
    return PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0) ? 0 : pnx__windows_failed();
}

/* A process may lock no more than its smallest working set, which it may raise, as far as there is memory. */
static bool raise_limit(size_t n) {
    SIZE_T least, most;
    return GetProcessWorkingSetSize(GetCurrentProcess(), &least, &most) &&
           SetProcessWorkingSetSize(GetCurrentProcess(), least + n, most + n);
}

int pnx__os_lock_pages(void *base, size_t n) {
    int injected = FAULT("mlock");
    if (injected)
        return injected;
    if (VirtualLock(base, n))
        return 0;
    if (GetLastError() == ERROR_WORKING_SET_QUOTA && raise_limit(n) && VirtualLock(base, n))
        return 0;
    return pnx__windows_failed();
}

void pnx__os_unlock_pages(void *base, size_t n) {
    VirtualUnlock(base, n);
}

int pnx__os_lock_limit(uint64_t *ret_bytes) {
    int injected = FAULT("getrlimit");
    if (injected)
        return injected;
    SIZE_T least, most;
    if (!GetProcessWorkingSetSize(GetCurrentProcess(), &least, &most))
        return pnx__windows_failed();
    *ret_bytes = least;
    return 0;
}

int pnx__os_sync_pages(void *base, size_t n) {
    int injected = FAULT("msync");
    if (injected)
        return injected;
    return FlushViewOfFile(base, n) ? 0 : pnx__windows_failed();
}

int pnx__os_map_counts(uint64_t *ret_have, uint64_t *ret_most) {
    (void)ret_have;
    (void)ret_most;
    int injected = FAULT("map_counts");
    return injected ? injected : -ENOTSUP; /* there is no limit but memory */
}

static SYSTEM_INFO system_info(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info;
}

size_t pnx__os_page_size(void) {
    return system_info().dwPageSize;
}

size_t pnx__os_map_grain(void) {
    return system_info().dwAllocationGranularity;
}

bool pnx__os_cuts_mapped(void) {
    return false;
}

bool pnx__os_maps_into_reserved(void) {
    return false;
}

size_t pnx__os_huge_page_size(void) {
    return 0;
}
