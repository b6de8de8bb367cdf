/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os.windows: what src/os does on Windows and nowhere else.  The rows of the table in docs/design/windows.md bear the
 * numbers of these tests' names.
 */
#include "harness/harness.h"
#include "os/extent.h"
#include "os/file.h"
#include "os/futex.h"
#include "os/lost.h"
#include "os/map.h"
#include "os/notify.h"
#include "os/pages.h"
#include "os/thread.h"
#include "os/windows/windows.h"

#include <patinox/fault.h>
#include <patinox/mapping.h>

#define GRAIN ((size_t)65536)

static int file_of(const char *name, size_t n) {
    char *bytes = calloc(1, n + 1);
    CHECK(bytes);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (char)(i / 4096 + i);
    test_write_file(test_path(name), bytes, n);
    free(bytes);
    int fd = pnx__os_open(test_path(name), O_RDWR, 0);
    CHECK(fd >= 0);
    return fd;
}

static uint64_t size_of(int fd) {
    struct pnx_file_info info;
    CHECK_EQ(pnx__os_fstat(fd, &info), 0);
    return info.size;
}

static void *map(int fd, enum pnx_os_access access, uint64_t offset, size_t n) {
    void *base = NULL;
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = fd, .access = access, .offset = offset, .n = n},
                     &base),
            0);
    return base;
}

TEST(w1_offsets_count_in_64_kib_and_a_mapping_begins_at_any_byte) {
    int fd = file_of("file", 3 * GRAIN);
    void *base = &fd;
    CHECK_EQ(pnx__os_map_grain(), GRAIN);
    CHECK_EQ(
            pnx__os_map(&(struct pnx_os_map){.fd = fd, .offset = 4096, .n = 4096}, &base), -EINVAL);
    CHECK(base == &fd);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_fd(fd,
                     PNX_MAPPING_OPTS(.offset = GRAIN + 4097, .length = 70000,
                             .flags = PNX_MAPPING_NO_COPY),
                     NULL, &mapping),
            0);
    struct pnx_view view = pnx_view_all(mapping);
    for (size_t i = 0; i < view.n; i++)
        CHECK_EQ(view.p[i], (unsigned char)((GRAIN + 4097 + i) / 4096 + GRAIN + 4097 + i));
    pnx_view_release(&view);
    pnx_mapping_release(&mapping);
    pnx__os_close(&fd);
}

TEST(w2_an_empty_file_has_an_error_of_its_own_and_a_mapping_of_nothing) {
    int fd = file_of("file", 0);
    void *base = &fd;
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = fd, .n = 4096}, &base), -ESTALE);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_fd(fd, NULL, NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_EMPTY);
    CHECK(pnx_view_all(mapping).p);
    pnx_mapping_release(&mapping);
    pnx__os_close(&fd);
}

TEST(w3_w4_no_mapping_makes_a_file_longer_or_goes_beyond_it) {
    int fd = file_of("file", 5000);
    void *base = &fd;
    CHECK_EQ(pnx__os_map(
                     &(struct pnx_os_map){.fd = fd, .access = PNX_OS_WRITE, .n = 3 * 4096}, &base),
            -ESTALE);
    CHECK(base == &fd);
    unsigned char *p = map(fd, PNX_OS_WRITE, 0, 8192);
    p[5000] = 7; /* in its last page */
    pnx__os_unmap(p, 8192);
    CHECK_EQ(size_of(fd), 5000);
    pnx__os_close(&fd);
}

TEST(w5_a_mapped_file_is_neither_cut_nor_emptied_nor_replaced_until_it_is_unmapped) {
    int fd = file_of("file", 3 * GRAIN), other = file_of("other", 10);
    char from[512], to[512];
    snprintf(to, sizeof(to), "%s", test_path("file"));
    snprintf(from, sizeof(from), "%s", test_path("other"));
    pnx__os_close(&other);
    void *base = map(fd, PNX_OS_READ, 0, 3 * GRAIN);
    CHECK_EQ(pnx__os_ftruncate(fd, GRAIN), -EBUSY);
    CHECK_EQ(pnx__os_ftruncate(fd, 0), -EBUSY);
    CHECK_EQ(pnx__os_open(to, O_RDWR | O_TRUNC, 0), -EBUSY);
    CHECK(pnx__os_rename(from, to) < 0);
    CHECK_EQ(size_of(fd), 3 * GRAIN);
    CHECK_EQ(pnx__os_ftruncate(fd, 4 * GRAIN), 0); /* longer it may become */
    pnx__os_unmap(base, 3 * GRAIN);
    CHECK_EQ(pnx__os_ftruncate(fd, GRAIN), 0);
    pnx__os_close(&fd);
    CHECK_EQ(pnx__os_rename(from, to), 0);
}

TEST(w5_a_resize_that_cuts_takes_the_pages_away_first) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_mapping_info info = {.size = sizeof(info)};
    int fd = file_of("file", 3 * GRAIN);
    CHECK_EQ(pnx_mapping_open_fd(fd,
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .flags = PNX_MAPPING_RESIZABLE),
                     NULL, &mapping),
            0);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(pnx_mapping_resize(mapping, 1000, PNX_RESIZE_TRUNCATE, NULL), -EBUSY);
    CHECK_EQ(size_of(fd), 3 * GRAIN);
    pnx_view_release(&view);
    CHECK_EQ(pnx_mapping_resize(mapping, GRAIN + 1000, PNX_RESIZE_TRUNCATE, NULL), 0);
    CHECK_EQ(size_of(fd), GRAIN + 1000);
    view = pnx_view_all(mapping);
    CHECK_EQ(view.n, GRAIN + 1000);
    CHECK_EQ(view.p[GRAIN + 999], (unsigned char)((GRAIN + 999) / 4096 + GRAIN + 999));
    pnx_view_release(&view);
    CHECK_EQ(pnx_mapping_read_info(mapping, &info), 0);
    CHECK(info.epoch > 1); /* w7: it may have moved */
    /* Another mapping, of somebody who knows nothing of ours. */
    void *base = map(fd, PNX_OS_READ, 0, GRAIN);
    CHECK_EQ(pnx_mapping_resize(mapping, 10, PNX_RESIZE_TRUNCATE, NULL), -EBUSY);
    CHECK_EQ(pnx_mapping_size(mapping), GRAIN + 1000);
    CHECK_EQ(size_of(fd), GRAIN + 1000);
    pnx__os_unmap(base, GRAIN);
    CHECK_EQ(pnx_mapping_resize(mapping, 0, PNX_RESIZE_TRUNCATE, NULL), 0);
    CHECK_EQ(size_of(fd), 0);
    pnx_mapping_release(&mapping);
    pnx__os_close(&fd);
}

TEST(w6_a_file_grows_by_being_mapped_anew_and_none_into_reserved_space) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err;
    int fd = file_of("file", 1000);
    CHECK_EQ(pnx_mapping_open_fd(fd,
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .reserve = 1 << 20,
                             .flags = PNX_MAPPING_RESIZABLE),
                     &err, &mapping),
            -ENOTSUP);
    CHECK_STR(err.field, "reserve");
    CHECK_EQ(pnx_mapping_open_fd(fd,
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .flags = PNX_MAPPING_RESIZABLE),
                     NULL, &mapping),
            0);
    CHECK_EQ(pnx_mapping_resize(mapping, 5 * GRAIN, 0, NULL), 0);
    struct pnx_view view = pnx_view_all(mapping);
    unsigned char *last = pnx_view_at_mut(&view, 5 * GRAIN - 1, 1, 1);
    CHECK(last && view.p[999] == (unsigned char)999);
    *last = 42;
    pnx_view_release(&view);
    pnx_mapping_release(&mapping);
    unsigned char byte = 0;
    CHECK_EQ(pnx__os_pread(fd, &byte, 1, 5 * GRAIN - 1), 1); /* w19: what is stored is read */
    CHECK_EQ(byte, 42);
    pnx__os_close(&fd);
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 1000, .reserve = 1 << 20,
                                                .flags = PNX_MAPPING_RESIZABLE),
                     NULL, &mapping),
            0);
    const unsigned char *at = pnx_view_all(mapping).p;
    CHECK_EQ(pnx_mapping_resize(mapping, 1 << 19, 0, NULL), 0);
    view = pnx_view_all(mapping);
    CHECK(view.p == at);
    pnx_mapping_release(&mapping);
}

TEST(w8_w9_a_flush_is_durable_by_the_descriptor_that_the_mapping_keeps) {
    struct pnx_mapping *mapping = NULL;
    int fd = file_of("file", 2 * GRAIN);
    CHECK_EQ(pnx_mapping_open_fd(fd, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), NULL, &mapping),
            0);
    pnx__os_close(&fd);
    CHECK_EQ(pnx_mapping_flush(mapping, 5000, 100, PNX_FLUSH_START), 0);
    CHECK_EQ(pnx_mapping_flush(mapping, 5000, 100, PNX_FLUSH_DURABLE), 0);
    test_os_fault("fdatasync", 1, true, EIO);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 100, PNX_FLUSH_DURABLE), -EIO);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 100, PNX_FLUSH_SYNC), -EIO); /* it waits, too */
    CHECK_EQ(test_os_fault_clear(), 2);
    pnx_mapping_release(&mapping);
}

TEST(w10_stores_into_a_private_mapping_stay_here) {
    int fd = file_of("file", GRAIN);
    unsigned char *own = map(fd, PNX_OS_PRIVATE, 0, GRAIN), byte = 0;
    own[7] = 99;
    CHECK_EQ(pnx__os_pread(fd, &byte, 1, 7), 1);
    CHECK_EQ(byte, 7);
    pnx__os_unmap(own, GRAIN);
    pnx__os_close(&fd);
}

TEST(w11_advice_is_a_prefetch_or_not_supported) {
    int fd = file_of("file", GRAIN);
    void *base = map(fd, PNX_OS_READ, 0, GRAIN);
    CHECK_EQ(pnx__os_advise(base, GRAIN, PNX_OS_ADVICE_NORMAL), 0);
    CHECK_EQ(pnx__os_advise(base, GRAIN, PNX_OS_ADVICE_WILLNEED), 0);
    CHECK_EQ(pnx__os_advise(base, GRAIN, PNX_OS_ADVICE_RANDOM), -ENOTSUP);
    pnx__os_unmap(base, GRAIN);
    pnx__os_close(&fd);
}

TEST(w12_more_can_be_locked_than_the_smallest_working_set) {
    uint64_t limit = 0;
    CHECK_EQ(pnx__os_lock_limit(&limit), 0);
    CHECK(limit > 0 && limit < 64 << 20);
    void *base = NULL;
    size_t n = (size_t)limit * 2;
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = -1, .n = n}, &base), 0);
    CHECK_EQ(pnx__os_lock_pages(base, n), 0);
    pnx__os_unlock_pages(base, n);
    pnx__os_unmap(base, n);
}

TEST(w13_there_are_no_large_pages) {
    void *base = &base;
    CHECK_EQ(pnx__os_huge_page_size(), 0);
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = -1, .n = 2 << 20, .huge = true}, &base),
            -ENOTSUP);
    char *pages = pnx__os_pages_map(3 << 20);
    CHECK(pages && (uintptr_t)pages % (2 << 20) == 0 && pages[(3 << 20) - 1] == 0);
    pnx__os_pages_unmap(pages, 3 << 20);
}

TEST(w14_others_may_read_write_rename_and_delete_what_is_open) {
    char path[512], other[512];
    snprintf(path, sizeof(path), "%s", test_path("file"));
    snprintf(other, sizeof(other), "%s", test_path("other"));
    int fd = file_of("file", 100);
    int again = pnx__os_open(path, O_RDWR, 0);
    CHECK(again >= 0);
    CHECK_EQ(pnx__os_rename(path, other), 0);
    CHECK_EQ(pnx__os_unlink(other), 0);
    CHECK_EQ(pnx__os_pwrite_full(again, "x", 1, 0), 0);
    pnx__os_close(&again);
    pnx__os_close(&fd);
}

/* Of 2 bytes in UTF-8, one in UTF-16. */
#define LETTER "\xc3\xa4"

TEST(w15_paths_are_utf8_and_long) {
    char path[1200], name[121];
    for (size_t i = 0; i < 60; i++)
        memcpy(name + 2 * i, LETTER, 2);
    name[120] = '\0';
    snprintf(path, sizeof(path), "%s", test_dir());
    for (int i = 0; i < 6; i++) {
        size_t n = strlen(path);
        snprintf(path + n, sizeof(path) - n, "/%s", name);
        CHECK_EQ(pnx__os_mkdir(path, 0700), 0);
    }
    size_t n = strlen(path);
    snprintf(path + n, sizeof(path) - n, "/%s", "file");
    int fd = pnx__os_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    pnx__os_close(&fd);
    struct pnx_file_info info;
    CHECK_EQ(pnx__os_stat(path, &info), 0);
    CHECK_EQ(info.kind, PNX_FILE_REGULAR);
    wchar_t wide[PNX_WINDOWS_PATH_MAX];
    CHECK_EQ(pnx__windows_path(path, wide), 0);
    CHECK(wcsncmp(wide, L"\\\\?\\", 4) == 0 && wcschr(wide, L'\x00e4') && !wcschr(wide, L'/'));
    CHECK_EQ(pnx__windows_path("a\xffz", wide), -EINVAL);
    CHECK_EQ(pnx__os_stat("a\xffz", &info), -EINVAL);
    CHECK_EQ(pnx__os_stat("", &info), -ENOENT);
    for (int i = 0; i < 7; i++) {
        CHECK_EQ(i == 0 ? pnx__os_unlink(path) : pnx__os_rmdir(path), 0);
        *strrchr(path, '/') = '\0';
    }
}

TEST(w16_errors_of_the_system_are_those_of_the_library) {
    static const struct {
        DWORD theirs;
        int ours;
    } rows[] = {{ERROR_FILE_NOT_FOUND, -ENOENT}, {ERROR_ACCESS_DENIED, -EACCES},
            {ERROR_SHARING_VIOLATION, -EBUSY}, {ERROR_USER_MAPPED_FILE, -EBUSY},
            {ERROR_DISK_FULL, -ENOSPC}, {ERROR_HANDLE_DISK_FULL, -ENOSPC},
            {ERROR_COMMITMENT_LIMIT, -ENOMEM}, {ERROR_TOO_MANY_OPEN_FILES, -EMFILE},
            {ERROR_ALREADY_EXISTS, -EEXIST}, {ERROR_FILE_EXISTS, -EEXIST},
            {ERROR_NETNAME_DELETED, -ESTALE}, {1295, -EDQUOT}, {0x7fffffff, -EIO}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        CHECK_EQ(pnx__windows_errno(rows[i].theirs), rows[i].ours);
    for (DWORD error = 1; error < 2000; error++) {
        int code = pnx__windows_errno(error);
        CHECK_MSG(code < 0 && code > -4096, "%lu is %d", error, code);
    }
    SetLastError(ERROR_SUCCESS);
    CHECK(pnx__windows_failed() < 0); /* a failure that says nothing is one */
}

TEST(w17_lengths_beyond_the_address_space_are_refused) {
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = INT64_MAX - 1), NULL, &mapping),
            -EFBIG);
}

TEST(w18_no_handle_is_inherited_and_the_generation_never_changes) {
    DWORD flags = HANDLE_FLAG_INHERIT;
    int fd = file_of("file", 10), copy = pnx__os_dup(fd);
    CHECK(copy >= 0);
    CHECK(GetHandleInformation(pnx__windows_handle(fd), &flags) && !(flags & HANDLE_FLAG_INHERIT));
    flags = HANDLE_FLAG_INHERIT;
    CHECK(GetHandleInformation(pnx__windows_handle(copy), &flags) &&
            !(flags & HANDLE_FLAG_INHERIT));
    pnx__os_close(&copy);
    pnx__os_close(&fd);
    CHECK_EQ(pnx__fork_generation(), 1);
    CHECK(pnx__fork_is(1));
}

/* ---- what stands in no checklist ---- */

TEST(a_transfer_at_an_offset_leaves_the_position_alone) {
    char text[4] = "";
    int fd = file_of("file", 100);
    CHECK_EQ(pnx__os_write(fd, "ab", 2), 2);
    CHECK_EQ(pnx__os_pwrite_full(fd, "yz", 2, 50), 0);
    CHECK_EQ(pnx__os_pread(fd, text, 2, 50), 2);
    CHECK_STR(text, "yz");
    CHECK_EQ(pnx__os_write(fd, "cd", 2), 2);
    CHECK_EQ(pnx__os_pread(fd, text, 3, 1), 3);
    CHECK(memcmp(text, "bcd", 3) == 0);
    CHECK_EQ(pnx__os_pread(fd, text, 3, 100), 0); /* the end */
    pnx__os_close(&fd);
    CHECK_EQ(pnx__os_read(-1, text, 1), -EBADF);
}

TEST(an_event_is_a_handle_that_can_be_waited_for) {
    int fd = pnx__eventfd_open();
    CHECK(fd >= 0);
    HANDLE event = (HANDLE)(intptr_t)fd;
    CHECK_EQ(WaitForSingleObject(event, 0), WAIT_TIMEOUT);
    CHECK_EQ(pnx__poll_readable(&fd, 1, 0), 0);
    pnx__eventfd_set(fd);
    CHECK_EQ(WaitForSingleObject(event, 0), WAIT_OBJECT_0);
    int fds[2] = {-1, fd};
    CHECK_EQ(pnx__poll_readable(fds, 2, PNX_NEVER), 2);
    pnx__eventfd_clear(fd);
    CHECK_EQ(pnx__poll_readable(&fd, 1, PNX_MS), 0);
    pnx__eventfd_close(&fd);
    CHECK_EQ(fd, -1);
    CHECK(!SetEvent(event));
}

TEST(what_is_not_there_says_so) {
    int fd = file_of("file", 10);
    CHECK_EQ(pnx__os_memfd("x"), -ENOTSUP);
    CHECK_EQ(pnx__os_seal(fd, 1), -ENOTSUP);
    CHECK_EQ(pnx__os_seals(fd), -ENOTSUP);
    CHECK_EQ(pnx__os_clone(fd, test_dir()), -ENOTSUP);
    CHECK_EQ(pnx__os_sync_start(fd, 0, 1), -ENOTSUP);
    CHECK_EQ(pnx__notify_open(), -ENOTSUP);
    CHECK_EQ(pnx__socket_peek(fd), -ENOTSUP);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_memfd(PNX_MAPPING_OPTS(.length = 10), NULL, &mapping), -ENOTSUP);
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 10, .flags = PNX_MAPPING_NO_DUMP), NULL, &mapping),
            -ENOTSUP);
    pnx__os_close(&fd);
}

static LONG CALLBACK catch_it(EXCEPTION_POINTERS *exception) {
    if (exception->ExceptionRecord->ExceptionCode != (DWORD)EXCEPTION_ACCESS_VIOLATION)
        return EXCEPTION_CONTINUE_SEARCH;
    _exit(42); /* by the handler that came after ours */
}

static void store_into_what_is_read_only(void *ctx) {
    struct pnx_fault_scope scope;
    struct pnx_mapping *mapping = ctx;
    CHECK(AddVectoredExceptionHandler(0, catch_it));
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    struct pnx_view view = pnx_view_all(mapping);
    *(volatile unsigned char *)(uintptr_t)view.p = 1;
}

TEST(an_access_that_the_pages_forbid_is_somebody_elses_exception) {
    struct pnx_mapping *mapping = NULL;
    int fd = file_of("file", GRAIN);
    CHECK_EQ(
            pnx_mapping_open_fd(fd, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_COPY), NULL, &mapping),
            0);
    CHECK_EQ(test_apart(store_into_what_is_read_only, mapping), 42);
    pnx_mapping_release(&mapping);
    pnx__os_close(&fd);
}
