/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/notify.h - hearing that something happened: inotify, an event descriptor, poll; and the two calls about
 * paths that go with watching them.
 *
 * Each returns 0 (or a count, or a descriptor) or -errno, and starts again by itself when a signal interrupts it.
 * Descriptors are close-on-exec and do not block.  The names for test_os_fault() stand in parentheses.
 */
#ifndef PNX_SRC_OS_NOTIFY_H
#define PNX_SRC_OS_NOTIFY_H

#include <patinox/base.h>

enum pnx_notify_mask {
    PNX_NOTIFY_ENTRY = 1, /* names in the directory that come, go, or whose file changes */
    PNX_NOTIFY_ITSELF =
            2, /* the directory is renamed, deleted, unmounted, or its permissions change */
    PNX_NOTIFY_GONE = 4, /* in an event: the watch has ended, its number means nothing any more */
    PNX_NOTIFY_LOST = 8, /* in an event: the queue overflowed, anything may have happened */
    PNX_NOTIFY_FILE =
            16, /* to add only: a file, not a directory; what happens to it is told as ITSELF */
};

struct pnx_notify_event {
    int watch;        /* -1 with PNX_NOTIFY_LOST */
    uint32_t mask;    /* PNX_NOTIFY_* */
    const char *name; /* the entry, or "" */
};

/* Makes a descriptor to which watches are added ("inotify_init").  -EMFILE, -ENFILE, -ENOMEM, -ENOSYS. */
int pnx__notify_open(void);

/*
 * Watches a directory, or with PNX_NOTIFY_FILE what else stands there, in addition to what is watched of it already
 * ("inotify_add_watch").  Returns the watch's number, the same one for the same directory or file.  -ENOSPC (too many
 * watches), -ENOENT, -ENOTDIR, -EACCES, ...
 */
int pnx__notify_add(int fd, const char *path, uint32_t mask);

/* Ends a watch ("inotify_rm_watch"). */
int pnx__notify_remove(int fd, int watch);

/* Calls each for what has happened since the last call; does not block.  Returns how many ("read"). */
int pnx__notify_read(
        int fd, void (*each)(void *ctx, const struct pnx_notify_event *event), void *ctx);

/* Makes a descriptor that is readable once it was set ("eventfd").  On Windows it is the handle of an event. */
int pnx__eventfd_open(void);
void pnx__eventfd_set(int fd);
void pnx__eventfd_clear(int fd);
/* Closes one of these, or of pnx__either_open(), and sets it to -1; one below 0 is fine. */
void pnx__eventfd_close(int *fd);

/*
 * Looks at a connected socket without blocking ("peek"): 0 if it is open and silent, -EPIPE if the peer has closed it, -EPROTO if
 * there is something to read.
 */
int pnx__socket_peek(int fd);

/*
 * Makes a descriptor that is readable whenever one of n others is ("epoll_create", "epoll_ctl").  It knows nothing
 * of them any more once they are closed.
 */
int pnx__either_open(const int *fds, unsigned n);

/*
 * Waits until one of n <= 4 descriptors is readable, at most timeout; negative ones are skipped ("poll").
 * Returns a bit mask of the readable ones, 0 at the timeout.
 */
int pnx__poll_readable(const int *fds, unsigned n, pnx_ns timeout);

/* Copies the target of a symbolic link, terminated ("readlink").  -ENAMETOOLONG when size does not do. */
int pnx__os_readlink(const char *path, char *buf, size_t size);

/* Whether a path does not begin in the working directory. */
static inline bool pnx__os_path_is_absolute(const char *path) {
#ifdef _WIN32
    return path[0] == '/' || path[0] == '\\' || (path[0] && path[1] == ':');
#else
    return path[0] == '/';
#endif
}

/* Copies the working directory's path, terminated ("getcwd").  -ENAMETOOLONG, -ENOENT. */
int pnx__os_getcwd(char *buf, size_t size);

#endif
