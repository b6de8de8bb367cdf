/* SPDX-License-Identifier: Apache-2.0 */
/* The file calls: what they return, that signals do not show, that each can be made to fail. */
#include "harness/harness.h"
#include "os/file.h"
#include "os/map.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

TEST(descriptors_are_close_on_exec_and_closing_clears) {
    const char *path = test_path("file");
    int fd = pnx__os_open(path, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    int copy = pnx__os_dup(fd);
    CHECK(copy >= 0 && copy != fd);
    CHECK(fcntl(copy, F_GETFD) & FD_CLOEXEC);
    int dir = pnx__os_open(test_dir(), O_RDONLY | O_DIRECTORY, 0);
    int again = pnx__os_openat(dir, "file", O_RDONLY, 0);
    CHECK(again >= 0);
    CHECK(fcntl(again, F_GETFD) & FD_CLOEXEC);
    int number = fd;
    CHECK_EQ(pnx__os_close(&fd), 0);
    CHECK_EQ(fd, -1);
    CHECK(fcntl(number, F_GETFD) < 0);
    CHECK_EQ(pnx__os_close(&fd), 0); /* -1 is fine */
    pnx__os_close(&copy);
    pnx__os_close(&again);
    pnx__os_close(&dir);
}

TEST(what_is_written_is_read_and_offsets_are_respected) {
    const char *path = test_path("file");
    char buf[16] = {0};
    int fd = pnx__os_open(path, O_RDWR | O_CREAT, 0600);
    CHECK_EQ(pnx__os_write_full(fd, "hello, world", 12), 0);
    CHECK_EQ(pnx__os_pread(fd, buf, 5, 7), 5);
    CHECK_STR(buf, "world");
    CHECK_EQ(pnx__os_pread_full(fd, buf, sizeof(buf), 7), 5); /* up to the end */
    CHECK_EQ(pnx__os_pread(fd, buf, 5, 12), 0);
    CHECK_EQ(pnx__os_pread(fd, buf, 5, UINT64_MAX), -EOVERFLOW);
    CHECK_EQ(pnx__os_read(fd, buf, sizeof(buf)), 0);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    CHECK_EQ(pnx__os_read_full(fd, buf, sizeof(buf)), 12);
    CHECK_EQ(pnx__os_fsync(fd), 0);
    CHECK_EQ(pnx__os_ftruncate(fd, 5), 0);
    struct pnx_file_info info;
    CHECK_EQ(pnx__os_fstat(fd, &info), 0);
    CHECK_EQ(info.size, 5);
    CHECK_EQ(info.kind, PNX_FILE_REGULAR);
    CHECK_EQ(info.mode, 0600);
    CHECK_EQ(pnx__os_fallocate(fd, 10000), 0);
    CHECK_EQ(pnx__os_fstat(fd, &info), 0);
    CHECK_EQ(info.size, 10000);
    CHECK_EQ(pnx__os_ftruncate(fd, UINT64_MAX), -EFBIG);
    CHECK_EQ(pnx__os_fallocate(fd, UINT64_MAX), -EFBIG);
    pnx__os_close(&fd);
    CHECK_EQ(pnx__os_write_full(fd, "x", 1), -EBADF);
    CHECK_EQ(pnx__os_read_full(fd, buf, 1), -EBADF);
    CHECK_EQ(pnx__os_pread_full(fd, buf, 1, 0), -EBADF);
}

TEST(kinds_of_files_are_told_apart) {
    struct pnx_file_info info, target;
    int fds[2];
    test_write_file(test_path("file"), "x", 1);
    CHECK(symlink("file", test_path("link")) == 0);
    CHECK(mkfifo(test_path("fifo"), 0600) == 0);
    CHECK_EQ(pnx__os_stat(test_dir(), &info), 0);
    CHECK_EQ(info.kind, PNX_FILE_DIRECTORY);
    CHECK_EQ(pnx__os_stat("/dev/null", &info), 0);
    CHECK_EQ(info.kind, PNX_FILE_DEVICE);
    CHECK_EQ(pnx__os_stat(test_path("fifo"), &info), 0);
    CHECK_EQ(info.kind, PNX_FILE_PIPE);
    CHECK_EQ(pnx__os_lstat(test_path("link"), &info), 0);
    CHECK_EQ(info.kind, PNX_FILE_LINK);
    CHECK_EQ(pnx__os_stat(test_path("link"), &info), 0);
    CHECK_EQ(pnx__os_stat(test_path("file"), &target), 0);
    CHECK_EQ(info.kind, PNX_FILE_REGULAR);
    CHECK(info.inode == target.inode && info.device == target.device);
    CHECK(pipe(fds) == 0);
    CHECK_EQ(pnx__os_fstat(fds[0], &info), 0);
    CHECK_EQ(info.kind, PNX_FILE_PIPE);
    CHECK_EQ(pnx__os_stat(test_path("nothing"), &info), -ENOENT);
}

TEST(times_beyond_64_bits_of_nanoseconds_saturate) {
    struct pnx_file_info info;
    const char *path = test_path("future");
    test_write_file(path, "x", 1);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000, .tv_nsec = 7}};
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    CHECK_EQ(pnx__os_stat(path, &info), 0);
    CHECK_EQ(info.mtime_ns, INT64_C(1000000000007));
    times[1].tv_sec = INT64_C(10000000000); /* the year 2286: some file systems clamp it */
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    CHECK_EQ(pnx__os_stat(path, &info), 0);
    CHECK(info.mtime_ns > INT64_C(4000000000000000000) || info.mtime_ns == INT64_MAX);
}

TEST(directories_and_names_come_and_go) {
    char one[512], two[512];
    snprintf(one, sizeof(one), "%s", test_path("one"));
    snprintf(two, sizeof(two), "%s", test_path("two"));
    CHECK_EQ(pnx__os_mkdir(one, 0700), 0);
    CHECK_EQ(pnx__os_mkdir(one, 0700), -EEXIST);
    CHECK_EQ(pnx__os_fsync_dir(one), 0);
    CHECK_EQ(pnx__os_fsync_dir(two), -ENOENT);
    CHECK_EQ(pnx__os_rename(one, two), 0);
    CHECK_EQ(pnx__os_rename(one, two), -ENOENT);
    CHECK_EQ(pnx__os_rmdir(one), -ENOENT);
    CHECK_EQ(pnx__os_rmdir(two), 0);
    test_write_file(one, "x", 1);
    CHECK_EQ(pnx__os_unlink(one), 0);
    CHECK_EQ(pnx__os_unlink(one), -ENOENT);
}

TEST(ranges_are_mapped_advised_and_unmapped) {
    size_t page = pnx__os_map_grain();
    CHECK(pnx__os_page_size() >= 4096 && (page & (page - 1)) == 0 && page >= pnx__os_page_size());
    char *data = calloc(2, page);
    CHECK(data);
    data[page] = 'x';
    test_write_file(test_path("file"), data, 2 * page);
    free(data);
    int fd = pnx__os_open(test_path("file"), O_RDONLY, 0);
    void *base = NULL;
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = fd, .offset = page, .n = page}, &base), 0);
    CHECK_EQ(*(char *)base, 'x');
    for (int advice = PNX_OS_ADVICE_NORMAL; advice <= PNX_OS_ADVICE_COLD; advice++)
        CHECK_EQ(pnx__os_advise(base, page, (enum pnx_os_advice)advice), 0);
    CHECK(pnx__os_advise((char *)base + 1, page, PNX_OS_ADVICE_RANDOM) < 0);
    pnx__os_unmap(base, page);
    base = &fd;
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = fd, .offset = 1, .n = page}, &base), -EINVAL);
    CHECK_EQ(pnx__os_map(&(struct pnx_os_map){.fd = fd, .offset = UINT64_MAX, .n = page}, &base),
            -EOVERFLOW);
    CHECK(base == &fd);
    pnx__os_close(&fd);
}

static int call(const char *name, int fd) {
    struct pnx_file_info info;
    char buf[1] = {'x'};
    void *base = NULL;
    const char *path = test_path("fails");
    if (strcmp(name, "open") == 0)
        return pnx__os_open(path, O_RDONLY, 0);
    if (strcmp(name, "openat") == 0)
        return pnx__os_openat(AT_FDCWD, path, O_RDONLY, 0);
    if (strcmp(name, "dup") == 0)
        return pnx__os_dup(fd);
    if (strcmp(name, "close") == 0) {
        int copy = dup(fd);
        return pnx__os_close(&copy);
    }
    if (strcmp(name, "fstat") == 0)
        return pnx__os_fstat(fd, &info);
    if (strcmp(name, "stat") == 0)
        return pnx__os_stat(path, &info);
    if (strcmp(name, "lstat") == 0)
        return pnx__os_lstat(path, &info);
    if (strcmp(name, "read") == 0)
        return (int)pnx__os_read_full(fd, buf, 1);
    if (strcmp(name, "pread") == 0)
        return (int)pnx__os_pread_full(fd, buf, 1, 0);
    if (strcmp(name, "write") == 0)
        return pnx__os_write_full(fd, buf, 1);
    if (strcmp(name, "fsync") == 0)
        return pnx__os_fsync(fd);
    if (strcmp(name, "ftruncate") == 0)
        return pnx__os_ftruncate(fd, 1);
    if (strcmp(name, "fallocate") == 0)
        return pnx__os_fallocate(fd, 1);
    if (strcmp(name, "rename") == 0)
        return pnx__os_rename(path, path);
    if (strcmp(name, "unlink") == 0)
        return pnx__os_unlink(path);
    if (strcmp(name, "mkdir") == 0)
        return pnx__os_mkdir(test_path("made"), 0700);
    if (strcmp(name, "rmdir") == 0)
        return pnx__os_rmdir(test_path("made"));
    if (strcmp(name, "mmap") == 0)
        return pnx__os_map(&(struct pnx_os_map){.fd = fd, .n = 1}, &base);
    CHECK_STR(name, "madvise");
    return pnx__os_advise(base, 0, PNX_OS_ADVICE_NORMAL);
}

TEST(every_call_can_be_made_to_fail_and_only_then_does) {
    static const char *const names[] = {"open", "openat", "dup", "close", "fstat", "stat", "lstat",
            "read", "pread", "write", "fsync", "ftruncate", "fallocate", "rename", "mkdir", "rmdir",
            "mmap", "madvise", "unlink"};
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    test_write_file(test_path("fails"), "abc", 3);
    int fd = open(test_path("fails"), O_RDWR | O_CLOEXEC);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        test_os_fault(names[i], 1, true, EIO);
        CHECK_MSG(call(names[i], fd) == -EIO, "%s", names[i]);
        CHECK_EQ(test_os_fault_clear(), 1);
        if (strcmp(names[i], "close") != 0 && strcmp(names[i], "mmap") != 0 &&
                strcmp(names[i], "madvise") != 0)
            test_os_fault(names[i], 1, false, EINTR); /* a signal: the call is made again */
        CHECK_MSG(call(names[i], fd) >= 0, "%s", names[i]);
        test_os_fault_clear();
    }
}

static void *trickle(void *ctx) {
    int fd = *(int *)ctx;
    for (int i = 0; i < 1000; i++)
        CHECK(write(fd, "abc", 3) == 3);
    close(fd);
    return NULL;
}

TEST(full_reads_collect_short_ones) {
    int fds[2];
    char buf[4000];
    pthread_t thread;
    CHECK(pipe(fds) == 0);
    CHECK_EQ(pthread_create(&thread, NULL, trickle, &fds[1]), 0);
    CHECK_EQ(pnx__os_read_full(fds[0], buf, 2000), 2000);
    CHECK_EQ(pnx__os_read_full(fds[0], buf, sizeof(buf)), 1000);
    CHECK_EQ(pnx__os_read_full(fds[0], buf, sizeof(buf)), 0);
    pthread_join(thread, NULL);
}
