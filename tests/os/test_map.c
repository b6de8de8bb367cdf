/* SPDX-License-Identifier: Apache-2.0 */
/* Pages and the room of files: what the calls return, and that each can be made to fail. */
#include "harness/harness.h"
#include "os/extent.h"
#include "os/file.h"
#include "os/map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u

static int file_of(size_t n) {
    int fd = pnx__os_open(test_path("file"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(pnx__os_ftruncate(fd, n), 0);
    return fd;
}

TEST(pages_are_mapped_kept_moved_and_replaced_in_place) {
    int fd = file_of(8 * PAGE);
    void *base = NULL, *at = NULL;
    CHECK_EQ(pnx__os_reserve(NULL, 8 * PAGE, &base), 0);
    unsigned char *p = base;
    struct pnx_os_map map = {.fd = fd, .access = PNX_OS_WRITE, .n = 2 * PAGE, .at = p};
    CHECK_EQ(pnx__os_map(&map, &at), 0);
    CHECK(at == p);
    p[0] = 7;
    map = (struct pnx_os_map){.fd = fd, .access = PNX_OS_READ, .n = PAGE, .at = p + 2 * PAGE};
    CHECK_EQ(pnx__os_map(&map, &at), 0);
    CHECK_EQ(p[2 * PAGE], 7);
    CHECK_EQ(pnx__os_sync_pages(p, 2 * PAGE), 0);
    CHECK_EQ(pnx__os_reserve(p, PAGE, &at), 0); /* given up, and kept */
    pnx__os_unmap(p, 8 * PAGE);

    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = -1, .n = PAGE}, &at), 0);
    p = at;
    p[5] = 9;
    CHECK_EQ(pnx__os_remap(p, PAGE, 100 * PAGE, &at), 0);
    p = at;
    CHECK_EQ(p[5], 9);
    CHECK_EQ(p[100 * PAGE - 1], 0);
    CHECK_EQ(pnx__os_lock_pages(p, PAGE), 0);
    pnx__os_unlock_pages(p, PAGE);
    uint64_t limit = 0, have = 0, most = 0;
    CHECK_EQ(pnx__os_lock_limit(&limit), 0);
    CHECK(limit > 0);
    CHECK_EQ(pnx__os_map_counts(&have, &most), 0);
    CHECK(have > 5 && most > have);
    for (int policy = PNX_OS_NO_DUMP; policy <= PNX_OS_HUGE; policy++)
        (void)pnx__os_policy(p, PAGE, (enum pnx_os_policy)policy);
    pnx__os_unmap(p, 100 * PAGE);
    CHECK((pnx__os_huge_page_size() & (pnx__os_huge_page_size() - 1)) == 0);
    at = &fd;
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = fd, .offset = UINT64_MAX, .n = 1}, &at),
            -EOVERFLOW);
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = fd, .offset = 1, .n = 1}, &at), -EINVAL);
    CHECK(at == &fd);
    pnx__os_close(&fd);
}

TEST(files_get_room_and_are_written_at_offsets) {
    int fd = file_of(10);
    struct stat st;
    CHECK_EQ(pnx__os_allocate(fd, 5, 100000), 0);
    CHECK(fstat(fd, &st) == 0);
    CHECK_EQ(st.st_size, 100005);
    CHECK(st.st_blocks * 512 >= 100000);
    CHECK_EQ(pnx__os_pwrite_full(fd, "abc", 3, 200000), 0);
    char text[4] = "";
    CHECK_EQ(pnx__os_pread_full(fd, text, 3, 200000), 3);
    CHECK_STR(text, "abc");
    CHECK_EQ(pnx__os_allocate(fd, UINT64_MAX, 1), -EFBIG);
    CHECK_EQ(pnx__os_allocate(fd, 1, UINT64_MAX), -EFBIG);
    CHECK_EQ(pnx__os_pwrite_full(fd, "abc", 3, UINT64_MAX), -EFBIG);
    CHECK_EQ(pnx__os_sync_start(fd, 0, 100), 0);
    CHECK_EQ(pnx__os_sync_start(fd, UINT64_MAX, 100), -EFBIG);
    CHECK_EQ(pnx__os_fdatasync(fd), 0);
    CHECK_EQ(pnx__os_seals(fd) < 0, true);
    CHECK_EQ(pnx__os_seal(fd, 1) < 0, true);
    pnx__os_close(&fd);
    fd = pnx__os_memfd("some");
    CHECK(fd >= 0);
    CHECK_EQ(pnx__os_seals(fd), 0);
    CHECK_EQ(pnx__os_seal(fd, 1 | 2), 0);
    CHECK_EQ(pnx__os_seal(fd, 8), 0);
    CHECK_EQ(pnx__os_seals(fd), 1 | 2 | 8);
    CHECK_EQ(pnx__os_seal(fd, 4), -EPERM);
    pnx__os_close(&fd);
}

static int call(const char *name, int fd, void *page) {
    void *base = NULL;
    uint64_t a, b;
    if (strcmp(name, "mmap") == 0)
        return pnx__os_map(&(struct pnx_os_map){.fd = fd, .n = 1}, &base);
    if (strcmp(name, "reserve") == 0)
        return pnx__os_reserve(NULL, PAGE, &base);
    if (strcmp(name, "mremap") == 0)
        return pnx__os_remap(page, PAGE, PAGE, &base);
    if (strcmp(name, "policy") == 0)
        return pnx__os_policy(page, PAGE, PNX_OS_NO_DUMP);
    if (strcmp(name, "mlock") == 0)
        return pnx__os_lock_pages(page, PAGE);
    if (strcmp(name, "getrlimit") == 0)
        return pnx__os_lock_limit(&a);
    if (strcmp(name, "msync") == 0)
        return pnx__os_sync_pages(page, PAGE);
    if (strcmp(name, "map_counts") == 0)
        return pnx__os_map_counts(&a, &b);
    if (strcmp(name, "allocate") == 0)
        return pnx__os_allocate(fd, 0, 1);
    if (strcmp(name, "pwrite") == 0)
        return pnx__os_pwrite_full(fd, "x", 1, 0);
    if (strcmp(name, "sync_start") == 0)
        return pnx__os_sync_start(fd, 0, 1);
    if (strcmp(name, "fdatasync") == 0)
        return pnx__os_fdatasync(fd);
    int memory =
            strcmp(name, "memfd") == 0 ? -1 : memfd_create("x", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    int rc = strcmp(name, "memfd") == 0   ? pnx__os_memfd("x")
             : strcmp(name, "seal") == 0  ? pnx__os_seal(memory, 1)
             : strcmp(name, "seals") == 0 ? pnx__os_seals(memory)
                                          : pnx__os_clone(fd, test_dir());
    if (strcmp(name, "clone") == 0 && rc != -EIO)
        rc = 0; /* few file systems can */
    return rc;
}

TEST(every_call_can_be_made_to_fail_and_only_then_does) {
    static const struct {
        const char *name;
        bool again; /* after a signal */
    } calls[] = {{"mmap", false}, {"reserve", false}, {"mremap", false}, {"policy", true},
            {"mlock", false}, {"getrlimit", false}, {"msync", true}, {"map_counts", false},
            {"allocate", true}, {"pwrite", true}, {"sync_start", true}, {"fdatasync", true},
            {"memfd", true}, {"seal", true}, {"seals", true}, {"clone", true}};
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    int fd = file_of(PAGE);
    void *page = NULL;
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = -1, .n = PAGE}, &page), 0);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        test_os_fault(calls[i].name, 1, true, EIO);
        CHECK_MSG(call(calls[i].name, fd, page) == -EIO, "%s", calls[i].name);
        CHECK_EQ(test_os_fault_clear(), 1);
        if (calls[i].again)
            test_os_fault(calls[i].name, 1, false, EINTR); /* a signal: the call is made again */
        CHECK_MSG(call(calls[i].name, fd, page) >= 0, "%s", calls[i].name);
        test_os_fault_clear();
    }
}
