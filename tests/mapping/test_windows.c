/* SPDX-License-Identifier: Apache-2.0 */
/* Windows over a file: what they cover, how they end, and files larger than the address space. */
#include "mapping/help_file.h"

#include <patinox/mapping_windows.h>

#include <sys/resource.h>
#include <sys/socket.h>

static struct pnx_windows *windows_of(const char *path, const struct pnx_windows_opts *opts) {
    struct pnx_windows *windows = NULL;
    struct pnx_error err = {0};
    int rc = pnx_windows_open(path, opts, &err, &windows);
    CHECK_MSG(rc == 0, "%s: %s", pnx_errname(rc), err.message);
    return windows;
}

static void no_windows(
        const char *path, const struct pnx_windows_opts *opts, int code, const char *field) {
    struct pnx_windows *windows = NULL;
    struct pnx_error err = {0};
    unsigned before = open_descriptors();
    int rc = pnx_windows_open(path, opts, &err, &windows);
    CHECK_MSG(rc == code, "%s (%s), expected %s", pnx_errname(rc), err.message, pnx_errname(code));
    CHECK(!windows && err.message[0]);
    if (field)
        CHECK_STR(err.field, field);
    CHECK_EQ(open_descriptors(), before);
}

TEST(p1_windows_cover_every_byte_once_but_for_the_overlap) {
    const char *path = make_file("covered", 50001);
    size_t sizes[] = {1, 7, 4096, 10000, 50000, 50001, 50002, 1 << 20};
    for (size_t i = 1; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t overlap = 0; overlap < 20; overlap += 19) {
            for (uint64_t offset = 0; offset < 3; offset += 2) {
                struct pnx_windows *windows = windows_of(
                        path, PNX_WINDOWS_OPTS(.window = sizes[i], .overlap = overlap,
                                      .offset = offset, .length = sizes[i] == 7 ? 700 : 0));
                uint64_t length = sizes[i] == 7 ? 700 : 50001 - offset, next = 0;
                CHECK_EQ(pnx_windows_length(windows), length);
                struct pnx_view view = {.n = 77};
                int rc;
                while ((rc = pnx_windows_next(windows, NULL, &view)) > 0) {
                    CHECK_EQ(pnx_windows_position(windows), next);
                    uint64_t left = length - next;
                    uint64_t want = sizes[i] + overlap < left ? sizes[i] + overlap : left;
                    CHECK_EQ(view.n, want);
                    for (size_t k = 0; k < view.n; k += k < 20 || k > view.n - 20 ? 1 : 13)
                        CHECK_EQ(view.p[k], byte_at(offset + next + k));
                    next += sizes[i] < left ? sizes[i] : left;
                }
                CHECK_EQ(rc, 0);
                CHECK_EQ(next, length);
                CHECK_EQ(pnx_windows_next(windows, NULL, &view), 0);
                pnx_windows_release(&windows);
                CHECK(!windows);
            }
        }
    }
}

TEST(p2_no_record_is_cut) {
    const char *path = make_file("records", 24 * 1000);
    struct pnx_windows *windows = windows_of(path, PNX_WINDOWS_OPTS(.window = 5000, .unit = 24));
    struct pnx_view view;
    unsigned records = 0;
    while (pnx_windows_next(windows, NULL, &view) > 0) {
        CHECK_EQ(view.n % 24, 0);
        CHECK_EQ(pnx_windows_position(windows) % 24, 0);
        records += (unsigned)(view.n / 24);
    }
    CHECK_EQ(records, 1000);
    CHECK_EQ(pnx_windows_seek(windows, 4992), 0); /* 208 records lie in one */
    CHECK_EQ(pnx_windows_next(windows, NULL, &view), 1);
    CHECK_EQ(pnx_windows_position(windows), 4992);
    CHECK_EQ(pnx_windows_seek(windows, 4991), 0);
    CHECK_EQ(pnx_windows_next(windows, NULL, &view), 1);
    CHECK_EQ(pnx_windows_position(windows), 0);
    CHECK_EQ(pnx_windows_seek(windows, 24000), 0);
    CHECK_EQ(pnx_windows_next(windows, NULL, &view), 0);
    CHECK_EQ(pnx_windows_seek(windows, 24001), -ERANGE);
    CHECK_EQ(pnx_windows_seek(NULL, 0), -EINVAL);
    pnx_windows_release(&windows);
}

TEST(p3_a_window_ends_with_the_next_unless_somebody_keeps_it) {
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    const char *path = make_file("kept", 100000);
    struct pnx_windows *windows =
            windows_of(path, PNX_WINDOWS_OPTS(.window = 30000, .registry = registry));
    struct pnx_view first, view;
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx_windows_next(windows, NULL, &first), 1);
    CHECK_EQ(pnx_registry_count(registry), 1);
    struct pnx_mapping *mine = pnx_mapping_ref(first.mapping);
    CHECK_EQ(pnx_windows_next(windows, NULL, &view), 1);
    CHECK_EQ(pnx_registry_count(registry), 2);
    CHECK_EQ(pnx_windows_next(windows, NULL, &view), 1);
    CHECK_EQ(pnx_registry_count(registry), 2);
    for (size_t i = 0; i < first.n; i++)
        CHECK_EQ(first.p[i], byte_at(i));
    pnx_mapping_release(&mine);
    pnx_windows_release(&windows);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(windows_over_a_file_that_is_cut_or_gone_say_so) {
    const char *path = make_file("cut", 100000);
    struct pnx_windows *windows = windows_of(path, PNX_WINDOWS_OPTS(.window = 30000));
    struct pnx_view view = {.n = 5};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_windows_next(windows, &err, &view), 1);
    CHECK(truncate(path, 50000) == 0);
    CHECK_EQ(pnx_windows_next(windows, &err, &view), -ESTALE);
    CHECK_CONTAINS(err.message, "30000 bytes at 30000");
    CHECK(truncate(path, 70000) == 0);
    CHECK_EQ(pnx_windows_next(windows, &err, &view), 1); /* the same window, tried again */
    CHECK_EQ(pnx_windows_position(windows), 30000);
    CHECK(unlink(path) == 0); /* a name is not what is read */
    CHECK_EQ(pnx_windows_next(windows, &err, &view), -ESTALE);
    pnx_windows_release(&windows);
    pnx_windows_release(&windows);
    pnx_windows_release(NULL);
}

TEST(what_cannot_be_seen_in_windows_is_refused_by_name) {
    const char *path = make_file("plain", 1000);
    no_windows("/", NULL, -EISDIR, NULL);
    no_windows("/dev/null", NULL, -ENODEV, NULL);
    no_windows(test_path("nothing"), NULL, -ENOENT, NULL);
    const char *fifo = test_path("fifo");
    CHECK(mkfifo(fifo, 0600) == 0);
    no_windows(fifo, NULL, -ENODEV, NULL); /* and does not block */
    no_windows(NULL, NULL, -EINVAL, "path");
    no_windows(path, PNX_WINDOWS_OPTS(.offset = 1001), -ERANGE, "offset");
    no_windows(path, PNX_WINDOWS_OPTS(.length = 1001), -ERANGE, "length");
    no_windows(path, PNX_WINDOWS_OPTS(.offset = 1, .length = 1000), -ERANGE, "length");
    no_windows(path, PNX_WINDOWS_OPTS(.window = 10, .unit = 11), -EINVAL, "window");
    no_windows(path, PNX_WINDOWS_OPTS(.flags = PNX_MAPPING_RESIZABLE), -EINVAL, "flags");
    no_windows(path, PNX_WINDOWS_OPTS(.flags = PNX_MAPPING_COPY | PNX_MAPPING_NO_COPY), -EINVAL,
            "flags");
    no_windows(path, PNX_WINDOWS_OPTS(.advice = 6), -EINVAL, "advice");
    struct pnx_windows *windows = NULL;
    struct pnx_view view;
    CHECK_EQ(pnx_windows_open(path, NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_windows_open_fd(-1, NULL, NULL, &windows), -EINVAL);
    int fds[2];
    CHECK(pipe(fds) == 0);
    CHECK_EQ(pnx_windows_open_fd(fds[0], NULL, NULL, &windows), -ENODEV);
    CHECK_EQ(pnx_windows_next(NULL, NULL, &view), -EINVAL);
    CHECK_EQ(pnx_windows_length(NULL), 0);
    CHECK_EQ(pnx_windows_position(NULL), 0);
    windows = windows_of(make_file("empty", 0), NULL);
    CHECK_EQ(pnx_windows_next(windows, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_windows_next(windows, NULL, &view), 0);
    pnx_windows_release(&windows);
}

/* A file of so many bytes in which some are set. */
static const char *sparse_file(const char *name, uint64_t length, const uint64_t *marks, size_t n) {
    const char *path = test_path(name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    if (ftruncate(fd, (off_t)length) != 0)
        test_skip("the file system has no files of %llu bytes", (unsigned long long)length);
    for (size_t i = 0; i < n; i++)
        CHECK(pwrite(fd, "x", 1, (off_t)marks[i]) == 1);
    close(fd);
    return path;
}

TEST(a_file_larger_than_the_address_space_is_read_in_windows) {
    const uint64_t gib = 1ull << 30, length = 8 * gib;
    uint64_t marks[8];
    for (unsigned i = 0; i < 8; i++)
        marks[i] = i * gib + (i % 2 ? gib - 1 : 0);
    const char *path = sparse_file("huge", length, marks, 8);
    if (!test_slow()) { /* sanitizers reserve terabytes for themselves */
        struct rlimit limit = {.rlim_cur = gib, .rlim_max = gib};
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        struct pnx_mapping *mapping = NULL;
        struct pnx_error err = {0};
        CHECK_EQ(pnx_mapping_open(path, NULL, &err, &mapping),
                -ENOMEM); /* as a whole it does not go */
        CHECK_STR(err.phase, "map");
    }
    struct pnx_windows *windows =
            windows_of(path, PNX_WINDOWS_OPTS(.window = 256 << 20, .advice = PNX_ADVICE_RANDOM));
    struct pnx_view view;
    unsigned shown = 0, found = 0;
    while (pnx_windows_next(windows, NULL, &view) > 0) {
        shown++;
        for (unsigned i = 0; i < 8; i++) {
            uint64_t at = pnx_windows_position(windows);
            if (marks[i] >= at && marks[i] < at + view.n)
                found += view.p[marks[i] - at] == 'x';
        }
    }
    CHECK_EQ(shown, 32);
    CHECK_EQ(found, 8);
    pnx_windows_release(&windows);
}

TEST(offsets_around_4_gib_reach_the_right_bytes) {
    const uint64_t four = 4ull << 30;
    uint64_t marks[] = {four - 4097, four - 1, four, four + 1, four + 4096, 2 * four - 1, 2 * four};
    size_t n = sizeof(marks) / sizeof(marks[0]);
    const char *path = sparse_file("boundary", 2 * four + 10, marks, n);
    for (uint64_t offset = four - 4098; offset <= four + 4098; offset += 1366) {
        for (int copy = 0; copy < 2; copy++) {
            struct pnx_mapping *mapping =
                    opened(path, PNX_MAPPING_OPTS(.offset = offset, .length = 40000,
                                         .flags = copy ? PNX_MAPPING_COPY : 0));
            struct pnx_view view = pnx_view_all(mapping);
            for (size_t i = 0; i < n; i++)
                if (marks[i] >= offset && marks[i] < offset + 40000) {
                    unsigned char out = 0;
                    CHECK_EQ(view.p[marks[i] - offset], 'x');
                    CHECK_EQ(pnx_mapping_copy_out(mapping, marks[i] - offset, &out, 1), 0);
                    CHECK_EQ(out, 'x');
                }
            CHECK_EQ(view.p[2], 0);
            pnx_mapping_release(&mapping);
        }
    }
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE));
    CHECK_EQ(pnx_mapping_size(mapping), 2 * four + 10);
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(*at(mapping, marks[i], 1), 'x');
    *at(mapping, four + 7, 1) = 'y';
    CHECK_EQ(pnx_mapping_flush(mapping, four, 100, PNX_FLUSH_SYNC), 0);
    CHECK_EQ(pnx_mapping_advise(mapping, four - 1, 4098, PNX_ADVICE_WILLNEED), 0);
    CHECK_EQ(byte_in(path, four + 7), 'y');
    pnx_mapping_release(&mapping);
    mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .offset = four - 1,
                                   .length = 10, .flags = PNX_MAPPING_RESIZABLE));
    resized(mapping, four + 3, 0);
    CHECK_EQ(*at(mapping, four, 1), 'x');
    resized(mapping, 2 * four, PNX_RESIZE_SPARSE);
    CHECK_EQ(size_of(path), 3 * four - 1);
    pnx_mapping_release(&mapping);
}

static int iterate(struct test_env *te, void *ctx) {
    struct pnx_windows *windows = NULL;
    struct pnx_view view;
    int rc = pnx_windows_open(
            ctx, PNX_WINDOWS_OPTS(.env = &te->env, .window = 30000), NULL, &windows);
    while (rc == 0) {
        rc = pnx_windows_next(windows, NULL, &view);
        if (rc != 1)
            break;
        rc = 0;
    }
    pnx_windows_release(&windows);
    return rc;
}

TEST(each_allocation_and_call_of_windows_may_fail) {
    struct test_env te;
    test_env_init(&te);
    char path[512];
    snprintf(path, sizeof(path), "%s", make_file("memory", 100000));
    test_fail_each_allocation(&te, iterate, path);
    if (!test_os_faults())
        return;
    static const char *const calls[] = {"stat", "open", "fstat", "dup"};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        unsigned before = open_descriptors();
        test_os_fault(calls[i], 1, true, EIO);
        CHECK_EQ(iterate(&te, path), -EIO);
        CHECK(test_os_fault_clear() > 0);
        CHECK_EQ(open_descriptors(), before);
    }
}
