/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_watch.h - watching everything that decides which file a path leads to.
 *
 * A path is walked as the kernel would, name by name.  What must be heard of is
 *   - the name of the file itself in its directory, and each symbolic link's name in its: PNX_NOTIFY_ENTRY;
 *   - where the walk ends because a name is missing: that name in the last directory that is there;
 *   - each directory on the way, for being renamed or deleted itself: PNX_NOTIFY_ITSELF;
 *   - the file itself, which may be written by another name, or be mounted over that name from elsewhere: PNX_NOTIFY_FILE.
 * Other names in the same directories are let pass, so that a busy directory costs a wake-up and no more.
 *
 *   P1  After a refresh that said complete, whatever changes the file that the path leads to, or its content,
 *       makes pnx__watcher_read() say so; mounts on the way, and writes through memory that others map, excepted.
 *   P2  A refresh keeps the watches that are still needed and ends the others.
 */
#ifndef PNX_SRC_SHARE_CONFIG_WATCH_H
#define PNX_SRC_SHARE_CONFIG_WATCH_H

#include "os/file.h"

#include <patinox/base.h>

#define PNX_WATCH_PATH_MAX  4096
#define PNX_WATCH_STEPS_MAX 128 /* names on the way, those in links included */

/* A thing to be heard of. */
struct pnx_watch_step {
    int watch;     /* its directory's number, or the file's; -1 when it could not be had */
    uint32_t name; /* where the name starts in names; "" for the directory or file itself */
};

/* One walk along the path. */
struct pnx_watch_walk {
    uint32_t n;
    uint32_t names_used;
    int32_t error;     /* the first watch that failed; 0: complete */
    uint32_t links;    /* symbolic links followed */
    uint64_t identity; /* a digest of all devices and inodes met */
    struct pnx_watch_step steps[PNX_WATCH_STEPS_MAX];
    char names[2 * PNX_WATCH_PATH_MAX];
};

/* Owned by one config; touched by the owner of its latch only. */
struct pnx_watcher {
    int fd;       /* of inotify; -1: none */
    bool touched; /* collected by pnx__watcher_read() */
    bool broken;  /* reading failed: fd is not looked at any more */
    uint32_t
            generation; /* of fork: a child must not touch the descriptor that it shares with its parent */
    uint64_t events;
    const char *path;               /* absolute; the config's */
    struct pnx_watch_walk walks[2]; /* the one in force, and room for the next */
    uint32_t current;
    uint32_t watches;                  /* different ones in force */
    char resolved[PNX_WATCH_PATH_MAX]; /* scratch of a walk: where it is ... */
    char rest[PNX_WATCH_PATH_MAX];     /* ... what is left to go ... */
    char scratch[PNX_WATCH_PATH_MAX];  /* ... and the next name's path, or a link's target */
};

/* Opens inotify.  -EMFILE and others as pnx__notify_open(); then the watcher is usable but hears nothing. */
int pnx__watcher_open(struct pnx_watcher *watcher, const char *path);
void pnx__watcher_close(struct pnx_watcher *watcher);

/* Returns whether it can hear: inotify was had, works, and this is the process that opened it. */
bool pnx__watcher_usable(const struct pnx_watcher *watcher);

/* Walks the path and watches what must be heard of.  Returns 0 when complete, else what prevented it. */
int pnx__watcher_refresh(struct pnx_watcher *watcher);

/* Takes the events that have come.  Returns 1 when one of them was about the path, 0 when none was, or -errno. */
int pnx__watcher_read(struct pnx_watcher *watcher);

#endif
