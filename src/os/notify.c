/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/notify.c - inotify, eventfd and poll on Linux.
 *
 *   P1  No call returns -EINTR.
 *   P2  Every descriptor made here is close-on-exec and non-blocking.
 */
#include "os/notify.h"

#include "os/clock.h"
#include "os/fault.h"
#include "os/file.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MASK_ENTRY \
    (IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB)
#define MASK_ITSELF (IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB)
#define MASK_FILE   (IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB)
#define POLL_MAX    4

int pnx__notify_open(void) {
    int injected = PNX_OS_FAULT("inotify_init");
    if (injected)
        return injected;
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    return fd >= 0 ? fd : -errno;
}

int pnx__notify_add(int fd, const char *path, uint32_t mask) {
    int injected = PNX_OS_FAULT("inotify_add_watch");
    if (injected)
        return injected;
    uint32_t bits = IN_DONT_FOLLOW | IN_MASK_ADD;
    bits |= mask & PNX_NOTIFY_FILE ? MASK_FILE : IN_ONLYDIR;
    if (mask & PNX_NOTIFY_ENTRY)
        bits |= MASK_ENTRY;
    if (mask & PNX_NOTIFY_ITSELF)
        bits |= MASK_ITSELF;
    int watch = inotify_add_watch(fd, path, bits);
    return watch >= 0 ? watch : -errno;
}

int pnx__notify_remove(int fd, int watch) {
    int injected = PNX_OS_FAULT("inotify_rm_watch");
    if (injected)
        return injected;
    return inotify_rm_watch(fd, watch) == 0 ? 0 : -errno;
}

static void translate(const struct inotify_event *raw, struct pnx_notify_event *ret_event) {
    *ret_event = (struct pnx_notify_event){.watch = raw->wd, .name = raw->len ? raw->name : ""};
    if (raw->mask & IN_Q_OVERFLOW)
        ret_event->mask |= PNX_NOTIFY_LOST;
    if (raw->mask & IN_IGNORED)
        ret_event->mask |= PNX_NOTIFY_GONE;
    if (raw->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT))
        ret_event->mask |= PNX_NOTIFY_ITSELF;
    if (raw->mask & MASK_ENTRY)
        ret_event->mask |= raw->len ? PNX_NOTIFY_ENTRY : PNX_NOTIFY_ITSELF;
}

/* Calls each for the events in a buffer, which are of different lengths. */
static int hand_out(const char *buf, size_t n,
        void (*each)(void *ctx, const struct pnx_notify_event *event), void *ctx) {
    int count = 0;
    for (size_t at = 0; at + sizeof(struct inotify_event) <= n; count++) {
        struct inotify_event head;
        memcpy(&head, buf + at, sizeof(head));
        const struct inotify_event *raw = (const struct inotify_event *)(const void *)(buf + at);
        struct pnx_notify_event event;
        translate(raw, &event);
        each(ctx, &event);
        at += sizeof(head) + head.len;
    }
    return count;
}

int pnx__notify_read(
        int fd, void (*each)(void *ctx, const struct pnx_notify_event *event), void *ctx) {
    _Alignas(struct inotify_event) char buf[4096];
    int count = 0;
    for (;;) {
        int injected = PNX_OS_FAULT("read");
        ssize_t n = injected ? -1 : read(fd, buf, sizeof(buf));
        int error = injected ? -injected : errno;
        if (n < 0 && error == EINTR)
            continue;
        if (n < 0)
            return error == EAGAIN ? count : -error;
        if (n == 0)
            return count;
        count += hand_out(buf, (size_t)n, each, ctx);
    }
}

int pnx__socket_peek(int fd) {
    int injected = PNX_OS_FAULT("peek");
    if (injected)
        return injected;
    char byte;
    ssize_t n;
    do
        n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    return n == 0 ? -EPIPE : -EPROTO;
}

int pnx__eventfd_open(void) {
    int injected = PNX_OS_FAULT("eventfd");
    if (injected)
        return injected;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd >= 0 ? fd : -errno;
}

void pnx__eventfd_set(int fd) {
    uint64_t one = 1;
    ssize_t n;
    do
        n = write(
                fd, &one, sizeof(one)); /* -EAGAIN: it is set as high as it goes, and so readable */
    while (n < 0 && errno == EINTR);
}

void pnx__eventfd_clear(int fd) {
    uint64_t value;
    ssize_t n;
    do
        n = read(fd, &value, sizeof(value)); /* -EAGAIN: it was not set */
    while (n < 0 && errno == EINTR);
}

void pnx__eventfd_close(int *fd) {
    (void)pnx__os_close(fd);
}

int pnx__either_open(const int *fds, unsigned n) {
    int injected = PNX_OS_FAULT("epoll_create");
    if (injected)
        return injected;
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (unsigned i = 0; i < n; i++) {
        struct epoll_event event = {.events = EPOLLIN};
        int rc = PNX_OS_FAULT("epoll_ctl");
        if (rc == 0 && epoll_ctl(fd, EPOLL_CTL_ADD, fds[i], &event) != 0)
            rc = -errno;
        if (rc) {
            close(fd);
            return rc;
        }
    }
    return fd;
}

int pnx__poll_readable(const int *fds, unsigned n, pnx_ns timeout) {
    struct pollfd polled[POLL_MAX];
    if (n > POLL_MAX || timeout < 0)
        return -EINVAL;
    for (unsigned i = 0; i < n; i++)
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    pnx_ns start = pnx__os_now();
    int rc;
    do {
        int injected = PNX_OS_FAULT("poll");
        pnx_ns left = timeout;
        if (timeout != PNX_NEVER) {
            pnx_ns spent = pnx__os_now() - start;
            left = spent < timeout ? timeout - spent : 0;
        }
        struct timespec ts = {(time_t)(left / PNX_SEC), (long)(left % PNX_SEC)};
        rc = injected ? injected : ppoll(polled, n, timeout == PNX_NEVER ? NULL : &ts, NULL);
        if (rc < 0 && !injected)
            rc = -errno;
    } while (rc == -EINTR);
    if (rc < 0)
        return rc;
    int ready = 0;
    for (unsigned i = 0; i < n; i++) {
        if (polled[i].fd >= 0 && polled[i].revents)
            ready |= 1 << i;
    }
    return ready;
}

int pnx__os_readlink(const char *path, char *buf, size_t size) {
    int injected = PNX_OS_FAULT("readlink");
    if (injected)
        return injected;
    ssize_t n = readlink(path, buf, size);
    if (n < 0)
        return -errno;
    if ((size_t)n >= size)
        return -ENAMETOOLONG; /* cut off: there was no room for the end */
    buf[n] = '\0';
    return 0;
}

int pnx__os_getcwd(char *buf, size_t size) {
    int injected = PNX_OS_FAULT("getcwd");
    if (injected)
        return injected;
    if (getcwd(buf, size))
        return 0;
    return errno == ERANGE ? -ENAMETOOLONG : -errno;
}
