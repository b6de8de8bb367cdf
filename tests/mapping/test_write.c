/* SPDX-License-Identifier: Apache-2.0 */
/* Modes: what stores reach, and what opening may do to a file. */
#include "mapping/help_file.h"

#include <patinox/fault.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define KIB 1024u

TEST(stores_of_a_write_mapping_reach_the_file_and_whoever_maps_it) {
    const char *path = make_file("shared", 50000);
    struct pnx_mapping *writer =
            opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .offset = 4097));
    struct pnx_mapping *reader = opened(path, NULL);
    CHECK_EQ(pnx_mapping_backing(writer), PNX_BACKING_MMAP);
    *at(writer, 3, 1) = 0xee;
    CHECK_EQ(byte_in(path, 4100), 0xee);
    CHECK_EQ(pnx_view_all(reader).p[4100], 0xee);
    unsigned char out = 0;
    CHECK_EQ(pnx_mapping_copy_out(writer, 3, &out, 1), 0);
    CHECK_EQ(out, 0xee);
    CHECK_EQ(info_of(writer).mode, PNX_MAPPING_WRITE);
    pnx_mapping_release(&writer);
    CHECK_EQ(byte_in(path, 4100), 0xee);
    pnx_mapping_release(&reader);
    CHECK_EQ(size_of(path), 50000);
}

TEST(small_files_are_mapped_to_be_written_not_copied) {
    const char *path = make_file("small", 10);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE));
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    *at(mapping, 9, 1) = 1;
    CHECK_EQ(byte_in(path, 9), 1);
    pnx_mapping_release(&mapping);
}

TEST(stores_of_a_private_mapping_stay_there_in_every_backing) {
    const char *path = make_file("private", 50000);
    struct pnx_budget *budget = purse(0);
    for (int copy = 0; copy < 2; copy++) {
        struct pnx_mapping *mapping =
                opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_PRIVATE, .budget = budget,
                                     .flags = copy ? PNX_MAPPING_COPY : 0));
        CHECK_EQ(pnx_mapping_backing(mapping), copy ? PNX_BACKING_COPY : PNX_BACKING_MMAP);
        CHECK(charged(budget) >= 50000);
        *at(mapping, 20000, 1) = (unsigned char)~byte_at(20000);
        CHECK_EQ(byte_in(path, 20000), byte_at(20000));
        unsigned char out = 0;
        CHECK_EQ(pnx_mapping_copy_out(mapping, 20000, &out, 1), 0);
        CHECK_EQ(out, (unsigned char)~byte_at(20000)); /* as stored here, not as in the file */
        CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, PNX_FLUSH_SYNC), -ENOTSUP);
        CHECK_EQ(info_of(mapping).charged, charged(budget));
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
    }
    pnx_budget_release(&budget);
}

TEST(anonymous_memory_is_zero_writable_and_charged) {
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 100001, .budget = budget), NULL, &mapping),
            0);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(view.n, 100001);
    for (size_t i = 0; i < view.n; i++)
        CHECK_EQ(view.p[i], 0);
    memset(at(mapping, 0, 100001), 7, 100001);
    unsigned char out[3];
    CHECK_EQ(pnx_mapping_copy_out(mapping, 99998, out, 3), 0);
    CHECK_EQ(out[2], 7);
    CHECK(charged(budget) >= 100001 && charged(budget) <= 100001 + 4096);
    CHECK_EQ(stats_of(mapping).private_memory, charged(budget));
    CHECK_EQ(pnx_mapping_fd(mapping), -1);
    CHECK_EQ(pnx_mapping_changed(mapping), -ENOTSUP);
    CHECK_EQ(pnx_mapping_advise(mapping, 0, 100001, PNX_ADVICE_DONTNEED), 1);
    CHECK_EQ(view.p[50000], 7); /* advice never throws content away */
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
}

TEST(anonymous_memory_that_the_budget_refuses_is_an_error) {
    struct pnx_budget *budget = purse(100000);
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 100001, .budget = budget), &err, &mapping),
            -ENOMEM);
    CHECK_STR(err.phase, "budget");
    CHECK(!mapping);
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
}

/* ---- what opening does to the file ---- */

TEST(create_makes_a_file_once_and_exclusive_wants_to_be_first) {
    const char *path = test_path("made");
    umask(0);
    refuses(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), -ENOENT, "open", NULL);
    struct pnx_mapping *mapping = opened(
            path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 10000, .permissions = 0640,
                          .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND));
    struct stat st;
    CHECK(stat(path, &st) == 0);
    CHECK_EQ(st.st_mode & 07777, 0640);
    CHECK_EQ(st.st_size, 10000);
    CHECK(st.st_blocks * 512 >= 10000); /* real blocks */
    *at(mapping, 9999, 1) = 5;
    pnx_mapping_release(&mapping);
    refuses(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE,
                    .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXCLUSIVE),
            -EEXIST, "open", NULL);
    mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .flags = PNX_MAPPING_CREATE));
    CHECK_EQ(pnx_view_all(mapping).p[9999], 5);
    CHECK_EQ(pnx_mapping_size(mapping), 10000);
    pnx_mapping_release(&mapping);
    mapping = opened(
            test_path("other"), PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE,
                                        .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXCLUSIVE));
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_EMPTY);
    CHECK(stat(test_path("other"), &st) == 0);
    CHECK_EQ(st.st_mode & 07777, 0600);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 0, PNX_FLUSH_DURABLE), 0);
    pnx_mapping_release(&mapping);
}

TEST(p6_a_failed_opening_leaves_no_file_that_it_made_and_none_longer) {
    const char *path = test_path("never");
    uint32_t flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND;
    static const char magic[] = "MAGI";
    refuses(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 20000, .flags = flags,
                    .layout = PNX_LAYOUT(.record_size = 7000)),
            PNX_E_FORMAT, "layout", NULL);
    CHECK(access(path, F_OK) != 0);
    path = make_file("shorter", 100);
    refuses(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 20000,
                    .flags = PNX_MAPPING_EXTEND,
                    .layout = PNX_LAYOUT(.magic = magic, .magic_size = 4)),
            PNX_E_FORMAT, "layout", NULL);
    CHECK_EQ(size_of(path), 100);
}

TEST(p7_extended_files_have_blocks_and_sparse_ones_have_not) {
    const char *path = make_file("dense", 5000);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 1 << 20,
                                 .flags = PNX_MAPPING_EXTEND));
    CHECK_EQ(size_of(path), 1 << 20);
    CHECK(blocks_of(path) >= 1 << 20);
    for (size_t i = 0; i < 5000; i++)
        CHECK_EQ(pnx_view_all(mapping).p[i], byte_at(i));
    CHECK_EQ(pnx_view_all(mapping).p[5000], 0);
    pnx_mapping_release(&mapping);

    path = make_file("sparse", 5000);
    mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 1 << 20,
                                   .flags = PNX_MAPPING_EXTEND | PNX_MAPPING_SPARSE));
    CHECK_EQ(size_of(path), 1 << 20);
    CHECK(blocks_of(path) < 1 << 19);
    pnx_mapping_release(&mapping);

    mapping = opened(
            path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .flags = PNX_MAPPING_ALLOCATE));
    CHECK(blocks_of(path) >= 1 << 20);
    CHECK_EQ(size_of(path), 1 << 20);
    pnx_mapping_release(&mapping);

    mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 1000,
                                   .flags = PNX_MAPPING_EXTEND)); /* long enough: nothing is cut */
    CHECK_EQ(size_of(path), 1 << 20);
    CHECK_EQ(pnx_mapping_size(mapping), 1000);
    pnx_mapping_release(&mapping);
}

TEST(p7_file_systems_that_cannot_allocate_get_zeros) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    const char *path = make_file("zeros", 5000);
    test_os_fault("allocate", 1, true, ENOTSUP);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 100001,
                                 .flags = PNX_MAPPING_EXTEND));
    CHECK(blocks_of(path) >= 100001);
    CHECK_EQ(size_of(path), 100001);
    for (size_t i = 0; i < 100001; i++)
        CHECK_EQ(pnx_view_all(mapping).p[i], i < 5000 ? byte_at(i) : 0);
    pnx_mapping_release(&mapping);
    refuses(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .flags = PNX_MAPPING_ALLOCATE),
            -ENOTSUP, "extend", NULL);
    test_os_fault_clear();
    test_os_fault("allocate", 1, true, ENOSYS);
    mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 100002,
                                   .flags = PNX_MAPPING_EXTEND));
    pnx_mapping_release(&mapping);
    test_os_fault_clear();
}

TEST(flags_and_options_that_do_not_go_together_name_their_field) {
    const char *path = make_file("plain", 100000);
    uint32_t w = PNX_MAPPING_WRITE;
    static const struct {
        uint32_t mode, flags;
    } bad[] = {
            {PNX_MAPPING_READ, PNX_MAPPING_COPY | PNX_MAPPING_NO_COPY},
            {PNX_MAPPING_READ, PNX_MAPPING_CREATE},
            {PNX_MAPPING_PRIVATE, PNX_MAPPING_CREATE},
            {PNX_MAPPING_WRITE, PNX_MAPPING_EXCLUSIVE},
            {PNX_MAPPING_READ, PNX_MAPPING_ALLOCATE},
            {PNX_MAPPING_WRITE, PNX_MAPPING_SPARSE},
            {PNX_MAPPING_WRITE, PNX_MAPPING_COPY},
            {PNX_MAPPING_WRITE, PNX_MAPPING_SNAPSHOT},
            {PNX_MAPPING_READ, PNX_MAPPING_SNAPSHOT | PNX_MAPPING_RESIZABLE},
            {PNX_MAPPING_READ, PNX_MAPPING_NO_DESCRIPTOR | PNX_MAPPING_RESIZABLE},
            {PNX_MAPPING_READ, PNX_MAPPING_WIPE_ON_FORK},
            {PNX_MAPPING_READ, 1u << 16},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refuses(path, PNX_MAPPING_OPTS(.mode = bad[i].mode, .flags = bad[i].flags), -EINVAL,
                "options", "flags");
    refuses(path,
            PNX_MAPPING_OPTS(.mode = w, .length = 5,
                    .flags = PNX_MAPPING_EXTEND | PNX_MAPPING_SPARSE | PNX_MAPPING_ALLOCATE),
            -EINVAL, "options", "flags");
    refuses(path, PNX_MAPPING_OPTS(.mode = w, .flags = PNX_MAPPING_EXTEND), -EINVAL, "options",
            "length");
    refuses(path,
            PNX_MAPPING_OPTS(.mode = w, .offset = INT64_MAX, .length = 1,
                    .flags = PNX_MAPPING_EXTEND),
            -EFBIG, "options", "length");
    refuses(path, PNX_MAPPING_OPTS(.mode = 3), -EINVAL, "options", "mode");
    refuses(path, PNX_MAPPING_OPTS(.permissions = 010000), -EINVAL, "options", "permissions");
    refuses(path, PNX_MAPPING_OPTS(.reserve = 1 << 20), -EINVAL, "options", "reserve");
    CHECK_EQ(size_of(path), 100000);

    struct pnx_mapping *mapping = NULL;
    struct pnx_error err;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(pnx_mapping_open_fd(
                     fd, PNX_MAPPING_OPTS(.mode = w, .flags = PNX_MAPPING_CREATE), &err, &mapping),
            -EINVAL);
    CHECK_STR(err.field, "flags");
    close(fd);
    static const uint32_t of_files[] = {PNX_MAPPING_COPY, PNX_MAPPING_NO_COPY, PNX_MAPPING_EXTEND,
            PNX_MAPPING_ALLOCATE, PNX_MAPPING_SNAPSHOT, PNX_MAPPING_NO_DESCRIPTOR};
    for (size_t i = 0; i < sizeof(of_files) / sizeof(of_files[0]); i++) {
        CHECK_EQ(pnx_mapping_open_anonymous(
                         PNX_MAPPING_OPTS(.length = 1, .flags = of_files[i]), &err, &mapping),
                -EINVAL);
        CHECK_EQ(pnx_mapping_open_memfd(
                         PNX_MAPPING_OPTS(.length = 1, .flags = of_files[i]), &err, &mapping),
                -EINVAL);
    }
    CHECK_EQ(pnx_mapping_open_anonymous(NULL, &err, &mapping), -EINVAL);
    CHECK_STR(err.field, "length");
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 1, .offset = 1), &err, &mapping),
            -EINVAL);
    CHECK_STR(err.field, "offset");
    CHECK_EQ(pnx_mapping_open_memfd(PNX_MAPPING_OPTS(.length = 1, .mode = 1), &err, &mapping),
            -EINVAL);
    CHECK_STR(err.field, "mode");
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 1), &err, NULL), -EINVAL);
    CHECK_EQ(pnx_mapping_open_memfd(PNX_MAPPING_OPTS(.length = 1), &err, NULL), -EINVAL);
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = INT64_MAX), &err, &mapping) < 0,
            true);
    CHECK(!mapping);
}

TEST(what_cannot_be_written_through_memory_is_refused) {
    refuses("/proc/self/status", PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE),
            geteuid() == 0 ? -ENODEV : -EACCES, "open", NULL);
    refuses("/", PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), -EISDIR, "open", NULL);
    refuses("/dev/null", PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), -ENODEV, "open", NULL);
    const char *fifo = test_path("fifo");
    CHECK(mkfifo(fifo, 0600) == 0);
    refuses(fifo, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), -ENODEV, "open", NULL);
    const char *path = make_file("read-only", 100000);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_fd(fd, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), &err, &mapping),
            -EACCES);
    CHECK_STR(err.phase, "map");
    /* a private mapping needs to read only */
    CHECK_EQ(pnx_mapping_open_fd(fd, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_PRIVATE), &err, &mapping),
            0);
    *at(mapping, 0, 1) = 1;
    pnx_mapping_release(&mapping);
    close(fd);
}

TEST(a_map_that_is_refused_is_never_replaced_by_a_copy_for_writing) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    const char *path = make_file("unmappable", 20000);
    test_os_fault("mmap", 1, true, ENODEV);
    refuses(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), -ENODEV, "map", NULL);
    refuses(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_COPY), -ENODEV, "map", NULL);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_PRIVATE)); /* that one may */
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
    CHECK_EQ(stats_of(mapping).fallbacks, 1);
    pnx_mapping_release(&mapping);
    test_os_fault_clear();
}

TEST(no_copy_maps_small_files_too) {
    const char *path = make_file("tiny", 3);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_COPY));
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    check_bytes(mapping, 0, 3);
    pnx_mapping_release(&mapping);
}

TEST(without_a_descriptor_a_mapping_works_and_says_what_it_cannot_do) {
    const char *path = make_file("lean", 50000);
    unsigned before = open_descriptors();
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_DESCRIPTOR));
    CHECK_EQ(open_descriptors(), before);
    CHECK_EQ(pnx_mapping_fd(mapping), -1);
    check_bytes(mapping, 0, 50000);
    unsigned char out[10];
    CHECK_EQ(pnx_mapping_copy_out(mapping, 40000, out, 10), 0);
    CHECK_EQ(out[9], byte_at(40009));
    CHECK_EQ(pnx_mapping_changed(mapping), -ENOTSUP);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 50000, PNX_POPULATE_READ), 0);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(pnx_fault_end_checked(&scope), -ENOTSUP); /* nobody to ask; the scope has ended */
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    pnx_mapping_release(&mapping);
    mapping = opened(
            path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .flags = PNX_MAPPING_NO_DESCRIPTOR));
    *at(mapping, 0, 1) = 9;
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, PNX_FLUSH_START), 0);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, PNX_FLUSH_SYNC), 0);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, PNX_FLUSH_DURABLE), -ENOTSUP);
    pnx_mapping_release(&mapping);
    CHECK_EQ(byte_in(path, 0), 9);
}

TEST(a_write_mapping_is_changed_by_others_lengths_and_not_by_its_own_stores) {
    const char *path = make_file("own", 50000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE));
    *at(mapping, 100, 1) = 1;
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 200, PNX_FLUSH_SYNC), 0);
    CHECK_EQ(pnx_mapping_changed(mapping), 0);
    CHECK(truncate(path, 49000) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    pnx_mapping_release(&mapping);
}

TEST(a_forged_modification_time_does_not_hide_a_change) {
    const char *path = make_file("forged", 50000);
    struct stat before;
    CHECK(stat(path, &before) == 0);
    struct pnx_mapping *mapping = opened(path, NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    struct stat after = before;
    while (after.st_ctim.tv_sec == before.st_ctim.tv_sec &&
            after.st_ctim.tv_nsec ==
                    before.st_ctim.tv_nsec) { /* until the file system's clock moves */
        CHECK(pwrite(fd, "x", 1, 7) == 1);
        CHECK(fstat(fd, &after) == 0);
    }
    close(fd);
    struct timespec times[2] = {before.st_atim, before.st_mtim};
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    pnx_mapping_release(&mapping);
}

TEST(p7_a_limit_on_the_size_of_files_is_an_error_of_opening) {
    const char *path = make_file("limited", 5000);
    struct rlimit limit = {.rlim_cur = 8192, .rlim_max = 8192};
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    refuses(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 20000,
                    .flags = PNX_MAPPING_EXTEND),
            -EFBIG, "extend", NULL);
    CHECK_EQ(size_of(path), 5000);
    refuses(path,
            PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 20000,
                    .flags = PNX_MAPPING_EXTEND | PNX_MAPPING_SPARSE),
            -EFBIG, "extend", NULL);
    CHECK_EQ(size_of(path), 5000);
}
