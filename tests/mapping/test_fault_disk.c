/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks that fail: pages that cannot be read, from a file system of the test's own (FUSE, in another process), and stores
 * for which there is no room, on a small tmpfs.  Mounted in a name space of the test's.
 */
#include "fault_case.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define FILE_PAGES 400

/* Shared with the file system: what its reads answer. */
struct disk {
    uint32_t ready;
    int32_t error; /* of pages that are bad; 0: all are good */
    uint32_t bad;  /* the page that is bad; UINT32_MAX: every odd one */
    uint32_t asked;
    int32_t write_error; /* of every write; 0: they are taken */
    uint32_t held;       /* 1: writes wait until it is 0 */
    uint32_t writes;     /* that have been asked for */
    uint32_t written;    /* bytes */
};

static void own_mounts(void) {
    if (unshare(CLONE_NEWNS))
        test_skip("cannot have a name space: %s", strerror(errno));
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        test_skip("cannot make mounts private: %s", strerror(errno));
}

#ifdef HAVE_FUSE
#define FUSE_USE_VERSION 31
#include <fuse.h>

static struct disk *disk;

static bool is_bad(uint64_t page) {
    return disk->error && (disk->bad == UINT32_MAX ? page % 2 == 1 : page == disk->bad);
}

static int disk_getattr(const char *path, struct stat *st, struct fuse_file_info *info) {
    (void)info;
    memset(st, 0, sizeof(*st));
    st->st_nlink = 1;
    st->st_mode = strcmp(path, "/") == 0 ? S_IFDIR | 0700 : S_IFREG | 0600;
    st->st_size = strcmp(path, "/") == 0 ? 0 : (off_t)(FILE_PAGES * PAGE);
    st->st_mtime = st->st_ctime = 1000000;
    return strcmp(path, "/") == 0 || strcmp(path, "/file") == 0 ? 0 : -ENOENT;
}

static int disk_open(const char *path, struct fuse_file_info *info) {
    (void)path;
    (void)info;
    return 0;
}

static int disk_read(
        const char *path, char *to, size_t n, off_t offset, struct fuse_file_info *info) {
    (void)path;
    (void)info;
    __atomic_fetch_add(&disk->asked, 1, __ATOMIC_RELAXED);
    for (uint64_t page = (uint64_t)offset / PAGE; page * PAGE < (uint64_t)offset + n; page++) {
        if (is_bad(page))
            return -disk->error;
    }
    for (size_t i = 0; i < n; i++)
        to[i] = (char)byte_at((uint64_t)offset + i);
    return (int)n;
}

static int disk_write(
        const char *path, const char *from, size_t n, off_t offset, struct fuse_file_info *info) {
    (void)path;
    (void)from;
    (void)offset;
    (void)info;
    __atomic_fetch_add(&disk->writes, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&disk->held, __ATOMIC_ACQUIRE))
        sched_yield();
    if (disk->write_error)
        return -disk->write_error;
    __atomic_fetch_add(&disk->written, (uint32_t)n, __ATOMIC_RELAXED);
    return (int)n;
}

static _Noreturn void serve(const char *where) {
    static const struct fuse_operations operations = {
            .getattr = disk_getattr, .open = disk_open, .read = disk_read, .write = disk_write};
    char *argv[] = {"disk", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct fuse *fuse = fuse_new(&args, &operations, sizeof(operations), NULL);
    if (!fuse || fuse_mount(fuse, where))
        _exit(3);
    __atomic_store_n(&disk->ready, 1, __ATOMIC_RELEASE);
    (void)fuse_loop(fuse);
    _exit(0);
}

struct served {
    pid_t pid;
    char path[512];
};

static struct served start_disk(void) {
    struct served served;
    if (access("/dev/fuse", R_OK | W_OK))
        test_skip("/dev/fuse cannot be used: %s", strerror(errno));
    own_mounts();
    disk = mmap(NULL, sizeof(*disk), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(disk != MAP_FAILED);
    const char *where = test_path("mounted");
    CHECK_EQ(mkdir(where, 0700), 0);
    snprintf(served.path, sizeof(served.path), "%s/file", where);
    served.pid = fork();
    CHECK(served.pid >= 0);
    if (served.pid == 0)
        serve(where);
    int status;
    while (!__atomic_load_n(&disk->ready, __ATOMIC_ACQUIRE)) {
        if (waitpid(served.pid, &status, WNOHANG) == served.pid)
            test_skip("cannot mount FUSE");
        sched_yield();
    }
    return served;
}

static void end_disk(const struct served *served) {
    kill(served->pid, SIGKILL);
    (void)waitpid(served->pid, NULL, 0);
    CHECK_EQ(umount2(test_path("mounted"), MNT_DETACH), 0);
}

static void bad_page(int error) {
    struct served served = start_disk();
    struct pnx_fault_scope scope;
    struct pnx_mapping *mapping = map_path(served.path);
    unsigned char *got = malloc(4 * PAGE);
    uint64_t lost = 0;
    CHECK(got);
    disk->bad = 37;
    disk->error = error;
    /* A copy is refused, and later given. */
    CHECK_EQ(pnx_fault_copy_out(mapping, 36 * PAGE + 5, got, 2 * PAGE), -EIO);
    CHECK_EQ(pnx_fault_probe(mapping, 36 * PAGE, 3 * PAGE), -EIO);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    disk->error = 0;
    CHECK_EQ(pnx_fault_copy_out(mapping, 36 * PAGE + 5, got, 2 * PAGE), 0);
    for (size_t i = 0; i < 2 * PAGE; i++)
        CHECK_EQ(got[i], byte_at(36 * PAGE + 5 + i));
    free(got);
    /* In a scope, one page of zeros, and all the others as they were. */
    disk->bad = 300;
    disk->error = error;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    for (size_t page = 290; page < 310; page++)
        CHECK_EQ(peek(mapping, page * PAGE + 9), page == 300 ? 0 : byte_at(page * PAGE + 9));
    CHECK_EQ(pnx_fault_end(&scope), -EIO);
    CHECK_EQ(pnx_fault_state(mapping, &lost), -EIO);
    CHECK_EQ(lost, 300 * PAGE);
    CHECK_EQ(fault_stats().io_errors, 1);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), -EIO);
    pnx_mapping_release(&mapping);
    end_disk(&served);
}

TEST(p1_a_page_that_cannot_be_read_is_eio_and_the_only_one_that_is_lost) {
    bad_page(EIO);
}

TEST(p1_whatever_the_disk_says_of_a_page_it_is_eio) {
    bad_page(EDQUOT);
}

TEST(many_bad_pages_take_few_areas) {
    struct served served = start_disk();
    struct pnx_fault_scope scope;
    struct pnx_mapping *mapping = map_path(served.path);
    disk->bad = UINT32_MAX;
    disk->error = EIO;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    for (size_t page = 0; page < FILE_PAGES; page++) {
        unsigned char found = peek(mapping, page * PAGE + 77);
        CHECK(found == 0 || (page % 2 == 0 && found == byte_at(page * PAGE + 77)));
    }
    CHECK_EQ(pnx_fault_end(&scope), -EIO);
    CHECK_EQ(fault_stats().io_errors, PNX_FAULT_PAGES_MAX + 1);
    CHECK_EQ(stats_of(mapping).io_faults, PNX_FAULT_PAGES_MAX + 1);
    CHECK_EQ(stats_of(mapping).faults, PNX_FAULT_PAGES_MAX + 1);
    CHECK(times_mapped(served.path) <= PNX_FAULT_PAGES_MAX + 1);
    pnx_mapping_release(&mapping);
    end_disk(&served);
}

TEST(a_file_system_that_dies_is_eio) {
    struct served served = start_disk();
    struct pnx_fault_scope scope;
    struct pnx_mapping *mapping = map_path(served.path);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(peek(mapping, 5), byte_at(5));
    kill(served.pid, SIGKILL);
    CHECK_EQ(waitpid(served.pid, NULL, 0), served.pid);
    (void)peek(mapping, 399 * PAGE);
    CHECK_EQ(pnx_fault_end(&scope), -EIO);
    pnx_mapping_release(&mapping);
    CHECK_EQ(umount2(test_path("mounted"), MNT_DETACH), 0);
}

TEST(a_flush_that_the_disk_refuses_says_why_and_says_it_once) {
    static const int errors[] = {EIO, EDQUOT, ENOSPC};
    static const enum pnx_flush hows[] = {PNX_FLUSH_SYNC, PNX_FLUSH_DURABLE};
    struct served served = start_disk();
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open(
                     served.path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), NULL, &mapping),
            0);
    uint64_t refused = 0;
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned k = 0; k < 2; k++) {
            disk->write_error = errors[i];
            CHECK_EQ(pnx_fault_store_u8(mapping, 5 * PAGE, 1), 0);
            CHECK_EQ(pnx_mapping_flush(mapping, 5 * PAGE, 1, hows[k]), -errors[i]);
            refused++;
            disk->write_error = 0;
            CHECK_EQ(pnx_mapping_flush(mapping, 5 * PAGE, 1, hows[k]), 0);
            uint32_t before = disk->written;
            CHECK_EQ(pnx_fault_store_u8(mapping, 5 * PAGE, 2), 0);
            CHECK_EQ(pnx_mapping_flush(mapping, 5 * PAGE, 1, hows[k]), 0);
            CHECK_EQ(disk->written - before, PAGE);
        }
    }
    struct pnx_mapping_stats stats = stats_of(mapping);
    CHECK_EQ(stats.flush_errors, refused);
    CHECK_EQ(stats.flushes, 3 * refused);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    pnx_mapping_release(&mapping);
    end_disk(&served);
}

static void await_write(uint32_t before) {
    while (__atomic_load_n(&disk->writes, __ATOMIC_ACQUIRE) == before)
        sched_yield(); /* the test's limit is the limit */
}

TEST(a_flush_that_is_started_begins_to_write_the_range_and_waits_for_nothing) {
    struct served served = start_disk();
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open(
                     served.path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), NULL, &mapping),
            0);
    CHECK_EQ(pnx_fault_store_u8(mapping, 5 * PAGE, 1), 0);
    CHECK_EQ(pnx_fault_store_u8(mapping, 50 * PAGE, 1), 0);
    uint32_t before = disk->writes;
    __atomic_store_n(&disk->held, 1, __ATOMIC_RELEASE);
    CHECK_EQ(pnx_mapping_flush(mapping, 5 * PAGE, 1, PNX_FLUSH_START), 0);
    await_write(before);
    CHECK_EQ(disk->written, 0); /* it is back, and the disk has yet to take it */
    __atomic_store_n(&disk->held, 0, __ATOMIC_RELEASE);
    while (__atomic_load_n(&disk->written, __ATOMIC_RELAXED) == 0)
        sched_yield();
    CHECK_EQ(disk->written, PAGE); /* and not the other page */
    /* What becomes of it is told by the next one that waits. */
    disk->write_error = EIO;
    before = disk->writes;
    CHECK_EQ(pnx_fault_store_u8(mapping, 5 * PAGE, 2), 0);
    CHECK_EQ(pnx_mapping_flush(mapping, 5 * PAGE, 1, PNX_FLUSH_START), 0);
    await_write(before);
    CHECK_EQ(pnx_mapping_flush(mapping, 5 * PAGE, 1, PNX_FLUSH_SYNC), -EIO);
    disk->write_error = 0;
    pnx_mapping_release(&mapping);
    end_disk(&served);
}

#else

TEST(p1_a_page_that_cannot_be_read_is_eio_and_the_only_one_that_is_lost) {
    (void)sizeof(struct disk);
    test_skip("libfuse3 is not there");
}

#endif

TEST(p1_a_store_for_which_there_is_no_room_is_eio) {
    own_mounts();
    const char *where = test_path("small");
    char path[512];
    CHECK_EQ(mkdir(where, 0700), 0);
    if (mount("small", where, "tmpfs", 0, "size=64k"))
        test_skip("cannot mount: %s", strerror(errno));
    snprintf(path, sizeof(path), "%s/sparse", where);
    struct pnx_fault_scope scope;
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open(path,
                     PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE, .length = 100 * PAGE,
                             .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND | PNX_MAPPING_SPARSE),
                     NULL, &mapping),
            0);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(pnx_fault_copy_in(mapping, 0, "x", 1), 0);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    size_t stored = 0;
    for (; stored < 100 && pnx_fault_state(mapping, NULL) == 0; stored++)
        *(volatile unsigned char *)pnx_view_at_mut(&view, stored * PAGE, 1, 1) = 1;
    CHECK(stored > 4 && stored < 40);
    CHECK_EQ(pnx_fault_end(&scope), -EIO);
    uint64_t lost = 0;
    CHECK_EQ(pnx_fault_state(mapping, &lost), -EIO);
    CHECK_EQ(lost, (stored - 1) * PAGE);
    CHECK_EQ(pnx_fault_copy_in(mapping, 0, "x", 1), -EIO); /* poisoned */
    pnx_mapping_release(&mapping);
    /* A copy is refused, and poisons nothing. */
    CHECK_EQ(
            pnx_mapping_open(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_WRITE), NULL, &mapping), 0);
    CHECK_EQ(pnx_fault_copy_in(mapping, 99 * PAGE, "x", 1), -EIO);
    CHECK_EQ(pnx_mapping_populate(mapping, 99 * PAGE, 1, PNX_POPULATE_WRITE), -ENOSPC);
    CHECK_EQ(pnx_fault_copy_in(mapping, 0, "x", 1), 0);
    pnx_mapping_release(&mapping);
    CHECK_EQ(umount2(where, MNT_DETACH), 0);
}
