/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/windows/notify.c - events: a descriptor here is the handle of one, which is a number of 32 bits on every Windows.
 *
 * What happens to files is not heard of: who wants to know looks (-ENOTSUP).
 */
#include "os/notify.h"

#include "os/clock.h"
#include "os/fault.h"
#include "os/windows/windows.h"

#define POLL_MAX 4

static HANDLE event_of(int fd) {
    return (HANDLE)(intptr_t)fd;
}

int pnx__notify_open(void) {
    int injected = PNX_OS_FAULT("inotify_init");
    return injected ? injected : -ENOTSUP;
}

/* Nobody has a descriptor for these three. */

int pnx__notify_add(int fd, const char *path, uint32_t mask) {
    (void)fd;
    (void)path;
    (void)mask;
    return -ENOTSUP;
}

int pnx__notify_remove(int fd, int watch) {
    (void)fd;
    (void)watch;
    return -ENOTSUP;
}

int pnx__notify_read(
        int fd, void (*each)(void *ctx, const struct pnx_notify_event *event), void *ctx) {
    (void)fd;
    (void)each;
    (void)ctx;
    return -ENOTSUP;
}

/* Sockets are no descriptors of the C runtime: a manager that has one looks itself. */
int pnx__socket_peek(int fd) {
    (void)fd;
    int injected = PNX_OS_FAULT("peek");
    return injected ? injected : -ENOTSUP;
}

int pnx__eventfd_open(void) {
    int injected = PNX_OS_FAULT("eventfd");
    if (injected)
        return injected;
    HANDLE event = CreateEventW(NULL, TRUE, FALSE, NULL);
    return event ? (int)(intptr_t)event : pnx__windows_failed();
}

void pnx__eventfd_set(int fd) {
    SetEvent(event_of(fd));
}

void pnx__eventfd_clear(int fd) {
    ResetEvent(event_of(fd));
}

void pnx__eventfd_close(int *fd) {
    int old = *fd;
    *fd = -1;
    if (old >= 0)
        CloseHandle(event_of(old));
}

/* Nobody has two to make one of, since there is none for files. */
int pnx__either_open(const int *fds, unsigned n) {
    (void)fds;
    (void)n;
    int injected = PNX_OS_FAULT("epoll_create");
    return injected ? injected : -ENOTSUP;
}

static int which_are_set(const int *fds, unsigned n) {
    int ready = 0;
    for (unsigned i = 0; i < n; i++) {
        if (fds[i] >= 0 && WaitForSingleObject(event_of(fds[i]), 0) == WAIT_OBJECT_0)
            ready |= 1 << i;
    }
    return ready;
}

int pnx__poll_readable(const int *fds, unsigned n, pnx_ns timeout) {
    HANDLE events[POLL_MAX];
    DWORD count = 0;
    if (n > POLL_MAX || timeout < 0)
        return -EINVAL;
    int injected;
    while ((injected = PNX_OS_FAULT("poll")) == -EINTR)
        ;
    if (injected)
        return injected;
    for (unsigned i = 0; i < n; i++) {
        if (fds[i] >= 0)
            events[count++] = event_of(fds[i]);
    }
    pnx_ns whole = timeout / PNX_MS + (timeout % PNX_MS != 0);
    DWORD ms = timeout == PNX_NEVER           ? INFINITE
               : whole < (pnx_ns)INFINITE - 1 ? (DWORD)whole
                                              : INFINITE - 1;
    DWORD rc = WAIT_TIMEOUT;
    if (count == 0)
        Sleep(ms); /* nothing can end it early */
    else
        rc = WaitForMultipleObjects(count, events, FALSE, ms);
    return rc == WAIT_FAILED ? pnx__windows_failed() : which_are_set(fds, n);
}

/* Links are followed by the system alone: a path that goes over one is looked at, not watched. */
int pnx__os_readlink(const char *path, char *buf, size_t size) {
    (void)path;
    (void)buf;
    (void)size;
    int injected = PNX_OS_FAULT("readlink");
    return injected ? injected : -ENOTSUP;
}

int pnx__os_getcwd(char *buf, size_t size) {
    wchar_t wide[PNX_WINDOWS_PATH_MAX];
    int injected = PNX_OS_FAULT("getcwd");
    if (injected)
        return injected;
    DWORD n = GetCurrentDirectoryW(PNX_WINDOWS_PATH_MAX, wide);
    if (n == 0)
        return pnx__windows_failed();
    if (n >= PNX_WINDOWS_PATH_MAX)
        return -ENAMETOOLONG;
    return pnx__windows_utf8(wide, buf, size);
}
