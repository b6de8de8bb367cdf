/* SPDX-License-Identifier: Apache-2.0 */
/* test_notify.c - src/os/notify.h: watches, event descriptors, poll; names of files. */
#include "harness/harness.h"
#include "os/clock.h"
#include "os/notify.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- watches ---- */

struct heard {
    uint32_t mask; /* of all */
    int watch;     /* of the last */
    int calls;
    char name[64]; /* of the last that had one */
};

static void hear(void *ctx, const struct pnx_notify_event *event) {
    struct heard *heard = ctx;
    heard->mask |= event->mask;
    heard->watch = event->watch;
    heard->calls++;
    if (event->name[0])
        snprintf(heard->name, sizeof(heard->name), "%s", event->name);
}

static struct heard read_all(int fd) {
    struct heard heard = {0};
    CHECK_EQ(pnx__notify_read(fd, hear, &heard), heard.calls);
    return heard;
}

TEST(what_happens_to_a_watched_directory_is_told_once) {
    int fd = pnx__notify_open();
    CHECK(fd >= 0);
    int watch = pnx__notify_add(fd, test_dir(), PNX_NOTIFY_ENTRY);
    CHECK(watch >= 0);
    CHECK_EQ(pnx__notify_add(fd, test_dir(), PNX_NOTIFY_ITSELF), watch);
    CHECK_EQ(read_all(fd).calls, 0);
    test_write_file(test_path("file"), "x", 1);
    struct heard heard = read_all(fd);
    CHECK_EQ(heard.mask, PNX_NOTIFY_ENTRY);
    CHECK_EQ(heard.watch, watch);
    CHECK_STR(heard.name, "file");
    CHECK_EQ(read_all(fd).calls, 0);
    CHECK_EQ(pnx__notify_remove(fd, watch), 0);
    CHECK_EQ(read_all(fd).mask, PNX_NOTIFY_GONE);
    CHECK_EQ(pnx__notify_remove(fd, watch), -EINVAL);
    close(fd);
}

TEST(more_events_than_one_read_has_room_for_are_all_told) {
    enum { FILES = 300 };
    int fd = pnx__notify_open();
    CHECK(pnx__notify_add(fd, test_dir(), PNX_NOTIFY_ENTRY) >= 0);
    char name[32];
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "file-%d", i);
        test_write_file(test_path(name), "x", 1);
    }
    struct heard heard = read_all(fd);
    CHECK(heard.calls >= FILES);
    CHECK_STR(heard.name, name);
    close(fd);
}

TEST(a_file_and_a_directory_are_not_taken_for_each_other) {
    int fd = pnx__notify_open();
    test_write_file(test_path("file"), "x", 1);
    CHECK_EQ(pnx__notify_add(fd, test_path("file"), PNX_NOTIFY_ENTRY), -ENOTDIR);
    CHECK_EQ(pnx__notify_add(fd, test_path("none"), PNX_NOTIFY_FILE), -ENOENT);
    CHECK(pnx__notify_add(fd, test_path("file"), PNX_NOTIFY_FILE) >= 0);
    CHECK_EQ(unlink(test_path("file")), 0);
    CHECK(read_all(fd).mask & PNX_NOTIFY_ITSELF);
    close(fd);
}

/* ---- descriptors that are readable ---- */

TEST(an_event_is_readable_from_when_it_is_set_to_when_it_is_cleared) {
    int fd = pnx__eventfd_open();
    CHECK(fd >= 0);
    pnx__eventfd_clear(fd); /* without effect */
    CHECK_EQ(pnx__poll_readable(&fd, 1, 0), 0);
    pnx__eventfd_set(fd);
    pnx__eventfd_set(fd);
    CHECK_EQ(pnx__poll_readable(&fd, 1, PNX_NEVER), 1);
    pnx__eventfd_clear(fd);
    CHECK_EQ(pnx__poll_readable(&fd, 1, 0), 0);
    close(fd);
}

TEST(an_event_that_is_set_as_high_as_it_goes_stays_set_and_blocks_nobody) {
    int fd = pnx__eventfd_open();
    uint64_t most = UINT64_MAX - 1;
    CHECK_EQ(write(fd, &most, sizeof(most)), sizeof(most));
    pnx__eventfd_set(fd);
    CHECK_EQ(pnx__poll_readable(&fd, 1, 0), 1);
    pnx__eventfd_clear(fd);
    CHECK_EQ(pnx__poll_readable(&fd, 1, 0), 0);
    close(fd);
}

TEST(either_is_readable_when_one_of_its_descriptors_is) {
    int fds[2] = {pnx__eventfd_open(), pnx__eventfd_open()};
    int either = pnx__either_open(fds, 2);
    CHECK(either >= 0);
    CHECK_EQ(pnx__poll_readable(&either, 1, 0), 0);
    for (int i = 0; i < 2; i++) {
        pnx__eventfd_set(fds[i]);
        CHECK_EQ(pnx__poll_readable(&either, 1, PNX_NEVER), 1);
        pnx__eventfd_clear(fds[i]);
        CHECK_EQ(pnx__poll_readable(&either, 1, 0), 0);
    }
    int closed = -1;
    CHECK_EQ(pnx__either_open(&closed, 1), -EBADF);
    close(either);
    close(fds[0]);
    close(fds[1]);
}

TEST(poll_says_which_are_readable_and_waits_no_longer_than_it_may) {
    int fds[4] = {pnx__eventfd_open(), -1, pnx__eventfd_open(), pnx__eventfd_open()};
    pnx__eventfd_set(fds[0]);
    pnx__eventfd_set(fds[3]);
    CHECK_EQ(pnx__poll_readable(fds, 4, PNX_NEVER), 1 | 8);
    pnx__eventfd_clear(fds[0]);
    pnx__eventfd_clear(fds[3]);
    pnx_ns start = pnx__os_now();
    CHECK_EQ(pnx__poll_readable(fds, 4, 5 * PNX_MS), 0);
    CHECK(pnx__os_now() - start >= 5 * PNX_MS);
    CHECK_EQ(pnx__poll_readable(fds, 5, 0), -EINVAL);
    CHECK_EQ(pnx__poll_readable(fds, 4, -1), -EINVAL);
    close(fds[0]);
    close(fds[2]);
    close(fds[3]);
}

/* ---- names ---- */

TEST(a_name_that_does_not_fit_is_an_error_and_never_cut) {
    char buf[PATH_MAX];
    CHECK_EQ(symlink("target", test_path("link")), 0);
    CHECK_EQ(pnx__os_readlink(test_path("link"), buf, sizeof("target")), 0);
    CHECK_STR(buf, "target");
    CHECK_EQ(pnx__os_readlink(test_path("link"), buf, sizeof("target") - 1), -ENAMETOOLONG);
    CHECK_EQ(pnx__os_readlink(test_path("none"), buf, sizeof(buf)), -ENOENT);
    CHECK_EQ(chdir(test_dir()), 0);
    CHECK_EQ(pnx__os_getcwd(buf, strlen(test_dir()) + 1), 0);
    CHECK_STR(buf, test_dir());
    CHECK_EQ(pnx__os_getcwd(buf, strlen(test_dir())), -ENAMETOOLONG);
    CHECK_EQ(mkdir(test_path("gone"), 0700), 0);
    CHECK_EQ(chdir(test_path("gone")), 0);
    CHECK_EQ(rmdir(test_path("gone")), 0);
    CHECK_EQ(pnx__os_getcwd(buf, sizeof(buf)), -ENOENT);
}

/* ---- faults ---- */

static int open_notify(int fd) {
    (void)fd;
    return pnx__notify_open();
}
static int add_watch(int fd) {
    return pnx__notify_add(fd, test_dir(), PNX_NOTIFY_ENTRY);
}
static int remove_watch(int fd) {
    return pnx__notify_remove(fd, 1);
}
static int read_events(int fd) {
    struct heard heard = {0};
    return pnx__notify_read(fd, hear, &heard);
}
static int open_event(int fd) {
    (void)fd;
    return pnx__eventfd_open();
}
static int open_either(int fd) {
    return pnx__either_open(&fd, 1);
}
static int poll_one(int fd) {
    return pnx__poll_readable(&fd, 1, 0);
}
static int read_link(int fd) {
    char buf[16];
    (void)fd;
    return pnx__os_readlink(test_path("link"), buf, sizeof(buf));
}
static int get_directory(int fd) {
    char buf[PATH_MAX];
    (void)fd;
    return pnx__os_getcwd(buf, sizeof(buf));
}

static int lowest_free(void) {
    int fd = dup(0);
    close(fd);
    return fd;
}

TEST(every_call_can_be_made_to_fail_and_leaves_nothing_open) {
    static const struct {
        const char *call;
        int (*fn)(int fd);
    } cases[] = {
            {"inotify_init", open_notify},
            {"inotify_add_watch", add_watch},
            {"inotify_rm_watch", remove_watch},
            {"read", read_events},
            {"eventfd", open_event},
            {"epoll_create", open_either},
            {"epoll_ctl", open_either},
            {"poll", poll_one},
            {"readlink", read_link},
            {"getcwd", get_directory},
    };
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    CHECK_EQ(symlink("target", test_path("link")), 0);
    int fd = pnx__notify_open();
    CHECK(fd >= 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int lowest = lowest_free();
        test_os_fault(cases[i].call, 1, false, EMFILE);
        CHECK_EQ(cases[i].fn(fd), -EMFILE);
        CHECK_EQ(test_os_fault_clear(), 1);
        CHECK_EQ(lowest_free(), lowest);
    }
    close(fd);
}

TEST(a_signal_interrupts_nothing) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    int fd = pnx__notify_open();
    CHECK(pnx__notify_add(fd, test_dir(), PNX_NOTIFY_ENTRY) >= 0);
    test_write_file(test_path("file"), "x", 1);
    test_os_fault("poll", 1, false, EINTR);
    CHECK_EQ(pnx__poll_readable(&fd, 1, PNX_NEVER), 1);
    CHECK_EQ(test_os_fault_clear(), 1);
    test_os_fault("read", 1, false, EINTR);
    struct heard heard = read_all(fd);
    CHECK_EQ(test_os_fault_clear(), 1);
    CHECK_STR(heard.name, "file");
    close(fd);
}
