/* SPDX-License-Identifier: Apache-2.0 */
/* Opening: every kind of file, every backing, every way to fail; what stays behind (nothing). */
#include "mapping/help.h"
#include "os/file.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define KIB 1024u

TEST(large_files_are_mapped_and_small_ones_copied) {
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = NULL;
    const char *path = make_file("large", 16 * KIB + 1);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.budget = budget), NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    CHECK_EQ(charged(budget), 0);
    CHECK_EQ(stats_of(mapping).mapped, 16 * KIB + 1);
    CHECK_EQ(stats_of(mapping).copied, 0);
    check_bytes(mapping, 0, 16 * KIB + 1);
    pnx_mapping_release(&mapping);
    CHECK(!mapping);

    path = make_file("small", 16 * KIB);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.budget = budget), NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
    CHECK_EQ(charged(budget), 16 * KIB);
    CHECK_EQ(stats_of(mapping).mapped, 0);
    CHECK_EQ(stats_of(mapping).copied, 16 * KIB);
    check_bytes(mapping, 0, 16 * KIB);
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
}

TEST(opts_may_be_null_and_name_defaults_to_the_path) {
    struct pnx_mapping *mapping = NULL;
    const char *path = make_file("plain", 100);
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, &mapping), 0);
    check_bytes(mapping, 0, 100);
    pnx_mapping_release(&mapping);
}

TEST(p1_any_offset_and_length_around_page_bounds_in_every_backing) {
    size_t page = pnx__os_page_size(), size = 3 * page + 17;
    const char *path = make_file("pages", size);
    size_t points[] = {0, 1, 63, 64, page - 1, page, page + 1, 2 * page, 3 * page, size - 1, size};
    size_t n_points = sizeof(points) / sizeof(points[0]);
    for (size_t i = 0; i < n_points; i++) {
        for (size_t j = i; j < n_points; j++) {
            size_t n = points[j] - points[i];
            if (n == 0 && points[i] != size)
                continue; /* length 0 means to the end */
            for (int copy = 0; copy < 2; copy++) {
                struct pnx_mapping *mapping = NULL;
                CHECK_EQ(pnx_mapping_open(path,
                                 PNX_MAPPING_OPTS(.offset = points[i], .length = n, .small_max = 1,
                                         .flags = copy ? PNX_MAPPING_COPY : 0),
                                 NULL, &mapping),
                        0);
                CHECK_EQ(pnx_mapping_backing(mapping), n == 0           ? PNX_BACKING_EMPTY
                                                       : copy || n == 1 ? PNX_BACKING_COPY
                                                                        : PNX_BACKING_MMAP);
                check_bytes(mapping, points[i], n);
                pnx_mapping_release(&mapping);
            }
        }
    }
}

TEST(p2_alignment_is_that_of_the_file_in_every_backing) {
    const char *path = make_file("aligned", 4096);
    for (uint64_t offset = 0; offset < 130; offset++) {
        for (int copy = 0; copy < 2; copy++) {
            struct pnx_mapping *mapping = NULL;
            CHECK_EQ(pnx_mapping_open(path,
                             PNX_MAPPING_OPTS(.offset = offset, .small_max = 1,
                                     .flags = copy ? PNX_MAPPING_COPY : 0),
                             NULL, &mapping),
                    0);
            CHECK_EQ((uintptr_t)pnx_view_all(mapping).p % 64, offset % 64);
            pnx_mapping_release(&mapping);
        }
    }
}

TEST(an_empty_file_is_empty_and_not_an_error) {
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = NULL;
    const char *path = make_file("empty", 0);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.budget = budget), NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_EMPTY);
    CHECK_EQ(charged(budget), 0);
    check_bytes(mapping, 0, 0);
    char byte;
    CHECK_EQ(pnx_mapping_copy_out(mapping, 0, &byte, 0), 0);
    CHECK_EQ(pnx_mapping_copy_out(mapping, 0, &byte, 1), -ERANGE);
    CHECK_EQ(pnx_mapping_changed(mapping), 0);
    pnx_mapping_release(&mapping);
    refuses(path, PNX_MAPPING_OPTS(.offset = 1), -ERANGE, "options", "offset");
    refuses(path, PNX_MAPPING_OPTS(.length = 1), -ERANGE, "options", "length");
    pnx_budget_release(&budget);
}

TEST(ranges_beyond_the_end_are_refused_also_when_they_overflow) {
    for (int copy = 0; copy < 2; copy++) {
        const char *path = make_file("short", 40000);
        uint32_t flags = copy ? PNX_MAPPING_COPY : 0;
        refuses(path, PNX_MAPPING_OPTS(.offset = 40001, .flags = flags), -ERANGE, "options",
                "offset");
        refuses(path, PNX_MAPPING_OPTS(.length = 40001, .flags = flags), -ERANGE, "options",
                "length");
        refuses(path, PNX_MAPPING_OPTS(.offset = 1, .length = 40000, .flags = flags), -ERANGE,
                "options", "length");
        refuses(path, PNX_MAPPING_OPTS(.offset = 40000, .length = 1, .flags = flags), -ERANGE,
                "options", "length");
        refuses(path, PNX_MAPPING_OPTS(.offset = INT64_MAX, .length = INT64_MAX, .flags = flags),
                -ERANGE, "options", "offset");
        refuses(path, PNX_MAPPING_OPTS(.offset = 39999, .length = INT64_MAX, .flags = flags),
                -ERANGE, "options", "length");
        refuses(path, PNX_MAPPING_OPTS(.offset = UINT64_MAX, .flags = flags), -EINVAL, "options",
                "offset");
        refuses(path, PNX_MAPPING_OPTS(.length = UINT64_MAX, .flags = flags), -EINVAL, "options",
                "length");
    }
}

TEST(bad_options_name_their_field) {
    const char *path = make_file("options", 10);
    refuses(path, PNX_MAPPING_OPTS(.flags = 1 << 16), -EINVAL, "options", "flags");
    refuses(path, PNX_MAPPING_OPTS(.advice = 6), -EINVAL, "options", "advice");
    refuses(path, PNX_MAPPING_OPTS(.copy_max = SIZE_MAX), -EINVAL, "options", "copy_max");
    refuses(path, &(struct pnx_mapping_opts){0}, -EINVAL, "options", "size");
    refuses(NULL, NULL, -EINVAL, "options", "path");
    struct {
        struct pnx_mapping_opts known;
        uint64_t later;
    } newer = {.known = {.size = sizeof(newer)}, .later = 1};
    refuses(path, &newer.known, -E2BIG, "options", "size");
    CHECK_EQ(pnx_mapping_open(path, NULL, NULL, NULL), -EINVAL);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_fd(-1, NULL, NULL, &mapping), -EINVAL);
    CHECK_EQ(pnx_mapping_open_fd(0, NULL, NULL, NULL), -EINVAL);
}

TEST(what_is_not_a_file_is_refused_by_name) {
    refuses("/", NULL, -EISDIR, "open", NULL);
    refuses("/dev/null", NULL, -ENODEV, "open", NULL);
    refuses("/dev/zero", PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY), -ENODEV, "open", NULL);
    refuses(test_path("nothing-here"), NULL, -ENOENT, "open", NULL);
    refuses("", NULL, -ENOENT, "open", NULL);
    const char *path = make_file("file", 1);
    char below[600];
    snprintf(below, sizeof(below), "%s/x", path);
    refuses(below, NULL, -ENOTDIR, "open", NULL);
    const char *dangling = test_path("dangling");
    CHECK(symlink("nowhere", dangling) == 0);
    refuses(dangling, NULL, -ENOENT, "open", NULL);
}

TEST(what_is_not_a_file_is_not_even_opened) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    test_os_fault("open", 1, true, EIO);
    refuses("/dev/null", NULL, -ENODEV, "open", NULL);
    refuses("/", NULL, -EISDIR, "open", NULL);
    CHECK_EQ(test_os_fault_clear(), 0);
}

TEST(a_socket_is_refused) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", test_path("socket"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    refuses(address.sun_path, NULL, -ENODEV, "open", NULL);
    close(fd);
}

TEST(a_connected_socket_is_read_to_its_end_like_a_pipe) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK(write(ends[1], "said", 4) == 4);
    CHECK(close(ends[1]) == 0);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_fd(ends[0], NULL, NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
    CHECK_EQ(pnx_mapping_size(mapping), 4);
    CHECK(memcmp(pnx_view_all(mapping).p, "said", 4) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ENOTSUP);
    pnx_mapping_release(&mapping);
    CHECK(close(ends[0]) == 0);
}

TEST(an_unreadable_file_is_refused) {
    const char *path = make_file("secret", 10);
    CHECK(chmod(path, 0) == 0);
    if (geteuid() == 0) { /* root reads everything: be somebody else */
        CHECK(chmod(test_dir(), 0755) == 0);
        CHECK(seteuid(65534) == 0);
    }
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open(path, NULL, &err, &mapping), -EACCES);
    CHECK_STR(err.phase, "open");
    CHECK_CONTAINS(err.message, "secret");
    CHECK(seteuid(getuid()) == 0);
}

TEST(p5_a_descriptor_stays_the_callers_and_keeps_its_position) {
    const char *path = make_file("by-fd", 100000);
    for (int copy = 0; copy < 2; copy++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(lseek(fd, 77, SEEK_SET) == 77);
        struct pnx_mapping *mapping = NULL;
        CHECK_EQ(pnx_mapping_open_fd(fd,
                         PNX_MAPPING_OPTS(.offset = 5, .flags = copy ? PNX_MAPPING_COPY : 0), NULL,
                         &mapping),
                0);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), 77);
        CHECK(close(fd) == 0);
        check_bytes(mapping, 5, 100000 - 5);
        CHECK_EQ(pnx_mapping_changed(mapping), 0); /* has a descriptor of its own */
        pnx_mapping_release(&mapping);
    }
}

TEST(a_descriptor_that_cannot_be_read_is_refused) {
    const char *path = make_file("write-only", 100000);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_fd(fd, NULL, &err, &mapping), -EBADF);
    CHECK_STR(err.phase, "read");
    close(fd);
    CHECK_EQ(pnx_mapping_open_fd(fd, NULL, &err, &mapping), -EBADF);
    CHECK_STR(err.phase, "open");
    CHECK(!mapping);
}

TEST(files_of_proc_and_sys_are_copied_whole) {
    struct pnx_mapping *mapping = NULL;
    char expected[65536];
    const char *paths[] = {
            "/proc/self/status", "/proc/self/cmdline", "/proc/version", "/proc/self/maps"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        CHECK_EQ(pnx_mapping_open(paths[i], NULL, NULL, &mapping), 0);
        CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
        CHECK(pnx_mapping_size(mapping) > 0);
        pnx_mapping_release(&mapping);
    }
    int fd = open("/proc/version", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, expected, sizeof(expected));
    close(fd);
    CHECK(n > 3);
    CHECK_EQ(pnx_mapping_open("/proc/version", NULL, NULL, &mapping), 0);
    CHECK_EQ(pnx_mapping_size(mapping), n);
    CHECK_EQ(pnx_mapping_changed(mapping), -ENOTSUP); /* its size and time say nothing */
    CHECK(memcmp(pnx_view_all(mapping).p, expected, (size_t)n) == 0);
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open(
                     "/proc/version", PNX_MAPPING_OPTS(.offset = 2, .length = 1), NULL, &mapping),
            0);
    CHECK_EQ(pnx_mapping_size(mapping), 1);
    CHECK_EQ(pnx_view_all(mapping).p[0], expected[2]);
    pnx_mapping_release(&mapping);
    refuses("/proc/version", PNX_MAPPING_OPTS(.offset = 1 << 20), -ERANGE, "options", "offset");
    refuses("/proc/version", PNX_MAPPING_OPTS(.length = 1 << 20), -ERANGE, "options", "length");
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) == 0) {
        /* says that it has 4096 bytes, and has fewer */
        CHECK_EQ(pnx_mapping_open(
                         "/sys/kernel/mm/transparent_hugepage/enabled", NULL, NULL, &mapping),
                0);
        CHECK(pnx_mapping_size(mapping) > 0 && pnx_mapping_size(mapping) < 4096);
        pnx_mapping_release(&mapping);
        refuses("/sys/kernel/mm/transparent_hugepage/enabled", PNX_MAPPING_OPTS(.length = 4096),
                -ERANGE, "options", "length");
    }
}

struct writer {
    const char *path;
    int fd;
    size_t n;
    size_t piece;
};

static void *write_pieces(void *ctx) {
    struct writer *writer = ctx;
    int fd = writer->path ? open(writer->path, O_WRONLY | O_CLOEXEC) : writer->fd;
    CHECK(fd >= 0);
    for (size_t done = 0; done < writer->n;) {
        unsigned char buf[8192];
        size_t n = writer->n - done < writer->piece ? writer->n - done : writer->piece;
        for (size_t i = 0; i < n; i++)
            buf[i] = byte_at(done + i);
        ssize_t k = write(fd, buf, n);
        if (k < 0 && errno == EPIPE)
            break;
        CHECK(k > 0);
        done += (size_t)k;
    }
    close(fd);
    return NULL;
}

TEST(a_fifo_is_read_to_its_end_through_short_reads) {
    size_t sizes[] = {0, 1, 4095, 4096, 4097, 100001};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const char *path = test_path("fifo");
        CHECK(mkfifo(path, 0600) == 0);
        struct writer writer = {.path = path, .n = sizes[i], .piece = 777};
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, write_pieces, &writer), 0);
        struct pnx_mapping *mapping = NULL;
        struct pnx_budget *budget = purse(0);
        CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.budget = budget), NULL, &mapping), 0);
        pthread_join(thread, NULL);
        CHECK_EQ(pnx_mapping_backing(mapping), sizes[i] ? PNX_BACKING_COPY : PNX_BACKING_EMPTY);
        check_bytes(mapping, 0, sizes[i]);
        CHECK(charged(budget) >= sizes[i] && charged(budget) < 2 * sizes[i] + 2);
        CHECK_EQ(pnx_mapping_changed(mapping), -ENOTSUP);
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
        pnx_budget_release(&budget);
        CHECK(unlink(path) == 0);
    }
}

/* Opens a pipe into which a thread writes n bytes. */
static int from_pipe(size_t n, const struct pnx_mapping_opts *opts, struct pnx_error *err,
        struct pnx_mapping **ret_mapping) {
    int fds[2];
    CHECK(pipe(fds) == 0);
    struct writer writer = {.fd = fds[1], .n = n, .piece = 5000};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, write_pieces, &writer), 0);
    int rc = pnx_mapping_open_fd(fds[0], opts, err, ret_mapping);
    close(fds[0]);
    pthread_join(thread, NULL);
    return rc;
}

TEST(a_pipe_takes_a_length_but_no_offset) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    signal(SIGPIPE, SIG_IGN);
    CHECK_EQ(from_pipe(30000, PNX_MAPPING_OPTS(.length = 20000), &err, &mapping), 0);
    check_bytes(mapping, 0, 20000);
    pnx_mapping_release(&mapping);
    CHECK_EQ(from_pipe(30000, PNX_MAPPING_OPTS(.length = 30001), &err, &mapping), -ERANGE);
    CHECK_STR(err.field, "length");
    CHECK_EQ(from_pipe(30000, PNX_MAPPING_OPTS(.offset = 1), &err, &mapping), -EINVAL);
    CHECK_STR(err.field, "offset");
}

TEST(copies_stop_at_copy_max_whatever_their_source) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    signal(SIGPIPE, SIG_IGN);
    CHECK_EQ(from_pipe(30000, PNX_MAPPING_OPTS(.copy_max = 30000), &err, &mapping), 0);
    check_bytes(mapping, 0, 30000);
    pnx_mapping_release(&mapping);
    CHECK_EQ(from_pipe(30001, PNX_MAPPING_OPTS(.copy_max = 30000), &err, &mapping), -EFBIG);
    CHECK_STR(err.phase, "read");
    CHECK_EQ(from_pipe(10, PNX_MAPPING_OPTS(.copy_max = 10, .length = 11), &err, &mapping), -EFBIG);
    const char *path = make_file("big", 30000);
    refuses(path, PNX_MAPPING_OPTS(.copy_max = 29999, .flags = PNX_MAPPING_COPY), -EFBIG, "read",
            NULL);
    refuses("/proc/self/status", PNX_MAPPING_OPTS(.copy_max = 20), -EFBIG, "read", NULL);
    /* what may be mapped is mapped, however small copies must be */
    CHECK_EQ(pnx_mapping_open(
                     path, PNX_MAPPING_OPTS(.copy_max = 1, .small_max = 40000), NULL, &mapping),
            0);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    pnx_mapping_release(&mapping);
}

TEST(copies_that_the_budget_refuses_fail_and_leave_no_charge) {
    struct pnx_budget *budget = purse(10000);
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    const char *path = make_file("dear", 12000);
    refuses(path, PNX_MAPPING_OPTS(.budget = budget), -ENOMEM, "budget", NULL);
    CHECK_EQ(charged(budget), 0);
    CHECK_EQ(pnx_mapping_open(
                     path, PNX_MAPPING_OPTS(.budget = budget, .length = 6000), NULL, &mapping),
            0);
    CHECK_EQ(charged(budget), 6000);
    signal(SIGPIPE, SIG_IGN);
    struct pnx_mapping *second = NULL;
    CHECK_EQ(from_pipe(9000, PNX_MAPPING_OPTS(.budget = budget), &err, &second), -ENOMEM);
    CHECK_STR(err.phase, "budget");
    CHECK_EQ(charged(budget), 6000);
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
}

/* ---- failing calls ---- */

struct heard {
    unsigned n;
    int code;
    int64_t value;
};

static void hear(void *ctx, const struct pnx_event *event) {
    struct heard *heard = ctx;
    if (event->type != PNX_EVENT_MAPPING_FELL_BACK)
        return;
    heard->n++;
    heard->code = event->code;
    heard->value = event->value;
}

TEST(a_mapping_that_is_refused_is_read_instead_and_says_so) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    int errors[] = {ENODEV, ENOMEM, EACCES, EPERM, EAGAIN, EOVERFLOW};
    const char *path = make_file("refused", 50000);
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct pnx_stats *stats = NULL;
        struct heard heard = {0};
        uint32_t id;
        CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
        CHECK_EQ(pnx_monitor_add(stats,
                         &(struct pnx_monitor){sizeof(struct pnx_monitor), hear, &heard}, &id),
                0);
        struct pnx_budget *budget = purse(0);
        struct pnx_mapping *mapping = NULL;
        test_os_fault("mmap", 1, true, errors[i]);
        CHECK_EQ(pnx_mapping_open(path,
                         PNX_MAPPING_OPTS(.offset = 3, .stats = stats, .budget = budget), NULL,
                         &mapping),
                0);
        CHECK_EQ(test_os_fault_clear(), 1);
        CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
        check_bytes(mapping, 3, 50000 - 3);
        CHECK_EQ(stats_of(mapping).fallbacks, 1);
        CHECK_EQ(stats_of(mapping).mapped, 0);
        CHECK(charged(budget) >= 50000 - 3);
        CHECK_EQ(heard.n, 1);
        CHECK_EQ(heard.code, -errors[i]);
        CHECK_EQ(heard.value, 50000 - 3);
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
        pnx_budget_release(&budget);
        pnx_stats_release(&stats);
    }
    test_os_fault("mmap", 1, true, EACCES);
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.copy_max = 49999), &err, &mapping), -EFBIG);
    CHECK_EQ(err.cause, -EACCES);
    CHECK_STR(err.phase, "map");
    test_os_fault("mmap", 1, true, ENOMEM);
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.copy_max = 49999), &err, &mapping), -ENOMEM);
    CHECK_STR(err.phase, "map");
    test_os_fault_clear();
}

TEST(every_system_call_that_fails_is_reported_and_leaves_nothing_behind) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    static const struct {
        const char *call;
        const char *phase;
        uint32_t flags;
    } calls[] = {{"stat", "open", 0}, {"open", "open", 0}, {"fstat", "open", 0},
            {"pread", "read", PNX_MAPPING_COPY}};
    const char *path = make_file("failing", 50000);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        struct pnx_mapping *mapping = NULL;
        struct pnx_budget *budget = purse(0);
        struct pnx_error err = {0};
        unsigned before = open_descriptors();
        test_os_fault(calls[i].call, 1, true, EIO);
        CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.budget = budget, .flags = calls[i].flags),
                         &err, &mapping),
                -EIO);
        CHECK(test_os_fault_clear() > 0);
        CHECK_EQ(err.cause, -EIO);
        CHECK_STR(err.phase, calls[i].phase);
        CHECK(!mapping);
        CHECK_EQ(charged(budget), 0);
        CHECK_EQ(open_descriptors(), before);
        pnx_budget_release(&budget);
    }
    int fds[2];
    CHECK(pipe(fds) == 0);
    struct pnx_mapping *mapping = NULL;
    test_os_fault("dup", 1, true, EMFILE);
    CHECK_EQ(pnx_mapping_open_fd(fds[0], NULL, NULL, &mapping), -EMFILE);
    test_os_fault("read", 1, true, EIO);
    CHECK_EQ(pnx_mapping_open_fd(fds[0], NULL, NULL, &mapping), -EIO);
    test_os_fault_clear();
    CHECK(!mapping);
}

TEST(each_call_may_fail_at_any_point_without_a_leak) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    const char *path = make_file("anywhere", 50000);
    for (int64_t nth = 1;; nth++) {
        struct pnx_mapping *mapping = NULL;
        struct pnx_budget *budget = purse(0);
        unsigned before = open_descriptors();
        test_os_fault(NULL, nth, false, EIO);
        int rc = pnx_mapping_open(path, PNX_MAPPING_OPTS(.budget = budget), NULL, &mapping);
        if (rc == 0)
            check_bytes(mapping, 0, 50000);
        else
            CHECK_EQ(rc, -EIO);
        pnx_mapping_release(&mapping);
        int64_t refused = test_os_fault_clear();
        CHECK_EQ(charged(budget), 0);
        CHECK_EQ(open_descriptors(), before);
        pnx_budget_release(&budget);
        if (refused == 0)
            break;
        CHECK(nth < 100);
    }
}

TEST(kernel_files_without_offsets_are_read_on) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    struct pnx_mapping *mapping = NULL;
    test_os_fault("pread", 1, true, ESPIPE);
    CHECK_EQ(pnx_mapping_open("/proc/version", NULL, NULL, &mapping), 0);
    CHECK(test_os_fault_clear() > 0);
    CHECK(pnx_mapping_size(mapping) > 10);
    pnx_mapping_release(&mapping);
}

TEST(interrupted_reads_go_on) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    const char *path = make_file("interrupted", 50000);
    const char *calls[] = {"stat", "open", "fstat", "pread"};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        struct pnx_mapping *mapping = NULL;
        test_os_fault(calls[i], 1, false, EINTR);
        CHECK_EQ(
                pnx_mapping_open(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY), NULL, &mapping),
                0);
        CHECK_EQ(test_os_fault_clear(), 1);
        check_bytes(mapping, 0, 50000);
        pnx_mapping_release(&mapping);
    }
}

static int open_twice(struct test_env *te, void *ctx) {
    const char *path = ctx;
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    int rc = pnx_mapping_open(path, PNX_MAPPING_OPTS(.env = &te->env), &err, &mapping);
    CHECK_EQ(rc, err.code);
    if (rc == 0)
        CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    pnx_mapping_release(&mapping);
    if (rc)
        return rc;
    rc = pnx_mapping_open("/proc/self/status", PNX_MAPPING_OPTS(.env = &te->env), &err, &mapping);
    pnx_mapping_release(&mapping);
    if (rc)
        return rc;
    rc = pnx_mapping_open(
            path, PNX_MAPPING_OPTS(.env = &te->env, .flags = PNX_MAPPING_COPY), &err, &mapping);
    pnx_mapping_release(&mapping);
    return rc;
}

TEST(every_failed_allocation_leaves_nothing_behind) {
    struct test_env te;
    test_env_init(&te);
    char path[512];
    snprintf(path, sizeof(path), "%s", make_file("memory", 50000));
    test_fail_each_allocation(&te, open_twice, path);
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(pnx_budget_default(), &stats), 0);
    CHECK_EQ(stats.used, 0);
}
