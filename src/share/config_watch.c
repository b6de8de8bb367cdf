/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_watch.c - see share/config_watch.h, where P1 and P2 stand.
 *
 * How P1 is kept against changes during the walk: a first walk adds the watches, a second one, adding none, must
 * meet the same devices and inodes; what changes after that is heard.  Else it starts again.
 */
#include "share/config_watch.h"

#include "base/hash.h"
#include "os/notify.h"
#include "os/thread.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LINKS_MAX 40 /* as the kernel's */
#define TRIES     8  /* of walks that must agree */

int pnx__watcher_open(struct pnx_watcher *watcher, const char *path) {
    watcher->path = path;
    watcher->generation = pnx__fork_generation();
    watcher->fd = pnx__notify_open();
    int rc = watcher->fd < 0 ? watcher->fd : 0;
    if (rc)
        watcher->fd = -1;
    return rc;
}

void pnx__watcher_close(struct pnx_watcher *watcher) {
    (void)pnx__os_close(
            &watcher->fd); /* ends the watches too, unless a forked relative shares them */
    watcher->watches = 0;
}

bool pnx__watcher_usable(const struct pnx_watcher *watcher) {
    return watcher->fd >= 0 && !watcher->broken && watcher->generation == pnx__fork_generation();
}

/* ---- walking ---- */

static void note_error(struct pnx_watch_walk *walk, int rc) {
    if (!walk->error)
        walk->error = rc;
}

/* Adds a watch for what is at a path, or of name in it. */
static void add_step(struct pnx_watcher *watcher, struct pnx_watch_walk *walk, const char *path,
        const char *name, uint32_t mask) {
    size_t n = strlen(name) + 1;
    if (walk->n == PNX_WATCH_STEPS_MAX || n > sizeof(walk->names) - walk->names_used) {
        note_error(walk, -ENAMETOOLONG);
        return;
    }
    int watch = pnx__notify_add(watcher->fd, path, mask);
    /* A file that may not be read need not be heard of: its directory tells when it may. */
    if (watch < 0 && !(watch == -EACCES && mask == PNX_NOTIFY_FILE))
        note_error(walk, watch);
    struct pnx_watch_step *step = &walk->steps[walk->n++];
    step->watch = watch < 0 ? -1 : watch;
    step->name = walk->names_used;
    memcpy(walk->names + walk->names_used, name, n);
    walk->names_used += (uint32_t)n;
}

/* Wants to hear of name in the directory where the walk is; "" for the directory itself. */
static void want(struct pnx_watcher *watcher, struct pnx_watch_walk *walk, const char *name) {
    const char *directory = watcher->resolved[0] ? watcher->resolved : "/";
    add_step(watcher, walk, directory, name, *name ? PNX_NOTIFY_ENTRY : PNX_NOTIFY_ITSELF);
}

static void digest(struct pnx_watch_walk *walk, uint64_t a, uint64_t b) {
    walk->identity = pnx__mix64(pnx__mix64(walk->identity ^ a) + b);
}

/* Takes the next name off the rest of the way.  Returns false at its end. */
static bool next_name(struct pnx_watcher *watcher, char name[256]) {
    char *at = watcher->rest;
    while (*at == '/')
        at++;
    size_t n = strcspn(at, "/");
    bool fits = n > 0 && n < 256;
    if (fits) {
        memcpy(name, at, n);
        name[n] = '\0';
    }
    memmove(watcher->rest, at + n, strlen(at + n) + 1);
    return fits;
}

static bool at_end(const struct pnx_watcher *watcher) {
    return watcher->rest[strspn(watcher->rest, "/")] == '\0';
}

/* Puts a link's target before the rest of the way. */
static int follow(struct pnx_watcher *watcher, const char *link) {
    char target[PNX_WATCH_PATH_MAX];
    int rc = pnx__os_readlink(link, target, sizeof(target));
    if (rc)
        return rc;
    size_t n = strlen(target), rest = strlen(watcher->rest);
    if (n + 1 + rest + 1 > sizeof(watcher->rest))
        return -ENAMETOOLONG;
    memmove(watcher->rest + n + 1, watcher->rest, rest + 1);
    memcpy(watcher->rest, target, n);
    watcher->rest[n] = '/';
    if (target[0] == '/')
        watcher->resolved[0] = '\0';
    return 0;
}

static int step_up(struct pnx_watcher *watcher) {
    char *slash = strrchr(watcher->resolved, '/');
    if (slash)
        *slash = '\0';
    return 1;
}

/* Goes one name on.  Returns 1 to go on, 0 when the walk ends here. */
static int go(
        struct pnx_watcher *watcher, struct pnx_watch_walk *walk, bool add, const char *name) {
    if (strcmp(name, ".") == 0)
        return 1;
    if (strcmp(name, "..") == 0)
        return step_up(watcher);
    int n = snprintf(watcher->scratch, sizeof(watcher->scratch), "%s/%s", watcher->resolved, name);
    if (n < 0 || (size_t)n >= sizeof(watcher->scratch)) {
        note_error(walk, -ENAMETOOLONG);
        return 0;
    }
    struct pnx_file_info info = {0};
    int rc = pnx__os_lstat(watcher->scratch, &info);
    digest(walk, (uint64_t)(int64_t)rc ^ info.device, info.inode);
    bool passes = rc == 0 && info.kind == PNX_FILE_DIRECTORY && !at_end(watcher);
    if (!passes && add)
        want(watcher, walk, name);
    if (add && rc == 0 && info.kind == PNX_FILE_REGULAR && at_end(watcher))
        add_step(watcher, walk, watcher->scratch, "", PNX_NOTIFY_FILE);
    if (rc == 0 && info.kind == PNX_FILE_LINK) {
        rc = ++walk->links > LINKS_MAX ? -ELOOP : follow(watcher, watcher->scratch);
        if (rc == 0)
            return 1;
        /* -ELOOP: each link of the circle is watched.  -ENOENT, -EINVAL: replaced since lstat, see below. */
        if (rc != -ELOOP && rc != -ENOENT && rc != -EINVAL)
            note_error(walk, rc);
        digest(walk, (uint64_t)(int64_t)rc, 0);
        return 0;
    }
    if (!passes)
        return 0; /* the file, or a name that is missing or no directory: nothing decides beyond it */
    memcpy(watcher->resolved, watcher->scratch, (size_t)n + 1);
    if (add)
        want(watcher, walk, "");
    return 1;
}

static void walk_path(struct pnx_watcher *watcher, struct pnx_watch_walk *walk, bool add) {
    char name[256];
    walk->identity = 0;
    walk->links = 0;
    watcher->resolved[0] = '\0';
    snprintf(watcher->rest, sizeof(watcher->rest), "%s", watcher->path);
    while (next_name(watcher, name)) {
        if (!go(watcher, walk, add, name))
            return;
    }
}

static bool walk_has(const struct pnx_watch_walk *walk, uint32_t before, int watch) {
    for (uint32_t i = 0; i < before; i++) {
        if (walk->steps[i].watch == watch)
            return true;
    }
    return false;
}

/* Ends the watches of a walk that another one does not need. */
static void end_watches(struct pnx_watcher *watcher, const struct pnx_watch_walk *walk,
        const struct pnx_watch_walk *keep) {
    for (uint32_t i = 0; i < walk->n; i++) {
        int watch = walk->steps[i].watch;
        if (watch >= 0 && !walk_has(keep, keep->n, watch) && !walk_has(walk, i, watch))
            (void)pnx__notify_remove(watcher->fd, watch); /* -EINVAL: it has ended by itself */
    }
}

static uint32_t count_watches(const struct pnx_watch_walk *walk) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < walk->n; i++) {
        if (walk->steps[i].watch >= 0 && !walk_has(walk, i, walk->steps[i].watch))
            n++;
    }
    return n;
}

int pnx__watcher_refresh(struct pnx_watcher *watcher) {
    if (!pnx__watcher_usable(watcher))
        return -ENOTSUP;
    struct pnx_watch_walk *old = &watcher->walks[watcher->current];
    struct pnx_watch_walk *walk = &watcher->walks[watcher->current ^ 1];
    bool settled = false;
    walk->n = 0;
    for (int i = 0; i < TRIES && !settled; i++) {
        end_watches(watcher, walk, old); /* those of a try that failed */
        walk->n = 0;
        walk->names_used = 0;
        walk->error = 0;
        walk_path(watcher, walk, true);
        uint64_t first = walk->identity;
        walk_path(watcher, walk, false);
        settled = walk->identity == first;
    }
    end_watches(watcher, old, walk);
    watcher->current ^= 1;
    watcher->watches = count_watches(walk);
    if (!settled)
        note_error(walk, -EAGAIN); /* it changes faster than we walk: polled until it rests */
    return walk->error;
}

/* ---- hearing ---- */

static void hear(void *ctx, const struct pnx_notify_event *event) {
    struct pnx_watcher *watcher = ctx;
    const struct pnx_watch_walk *walk = &watcher->walks[watcher->current];
    bool about = (event->mask & PNX_NOTIFY_LOST) != 0;
    for (uint32_t i = 0; i < walk->n && !about; i++) {
        if (walk->steps[i].watch != event->watch)
            continue;
        const char *name = walk->names + walk->steps[i].name;
        /* What happens to a directory itself also decides about each name in it. */
        about = (event->mask & (PNX_NOTIFY_ITSELF | PNX_NOTIFY_GONE)) ||
                ((event->mask & PNX_NOTIFY_ENTRY) && strcmp(name, event->name) == 0);
    }
    if (!about)
        return;
    watcher->touched = true;
    watcher->events++;
}

int pnx__watcher_read(struct pnx_watcher *watcher) {
    if (!pnx__watcher_usable(watcher))
        return 0;
    watcher->touched = false;
    int rc = pnx__notify_read(watcher->fd, hear, watcher);
    if (rc < 0) {
        watcher->broken = true; /* else whoever polls it would spin */
        watcher->watches = 0;
        return rc;
    }
    return watcher->touched ? 1 : 0;
}
