/* SPDX-License-Identifier: Apache-2.0 */
/* share/watch.h - a watch from the inside; shared by watch.c (life, telling) and watch_take.c (taking, waiting, the descriptor). */
#ifndef PNX_SRC_SHARE_WATCH_H
#define PNX_SRC_SHARE_WATCH_H

#include "os/thread.h"
#include "share/snapshot.h"

#include <patinox/watch.h>

#define PNX_WATCH_MAGIC UINT32_C(0x77617463)

/* Owned by its pins.  Fixed at creation, but for what the cell's lock guards. */
struct pnx_watch {
    uint32_t magic;
    uint32_t flags;
    struct pnx_snapshot *snapshot; /* a reference of ours */
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    char *name;
    pnx_watch_fn *changed;
    void *ctx;
    struct pnx_a32 ended; /* futex word: one more each time a runner leaves */

    /* Guarded by the cell's lock. */
    struct pnx_link link;
    uint32_t pins;
    uint32_t fd_generation; /* of the process whose descriptor it is */
    int fd;                 /* -1: nobody asked for it */
    bool signalled;         /* the descriptor was set and not cleared since */
    bool cancelled;
    bool again;                /* there may be news for the runner */
    uint64_t seen;             /* the latest version that was told */
    struct pnx_thread *runner; /* who is in changed, or about to be */
};

/* Debug builds abort, and name the calling function, when it was given what is no watch. */
#ifdef PNX_DEBUG
#define pnx__watch_expect(watch) pnx__watch_expect_in(watch, __func__)
void pnx__watch_expect_in(const struct pnx_watch *watch, const char *where);
#else
#define pnx__watch_expect(watch) ((void)(watch))
#endif

/* Takes the cell's lock and, in a forked child, forgets the runners that exist only in the parent. */
void pnx__watch_lock(struct pnx_snapshot *snapshot);

/* Lets a pin go, without the lock; the last one frees the watch. */
void pnx__watch_unpin(struct pnx_watch *watch);

/* Makes the caller the runner, unless there is one: that one is left word. */
bool pnx__watch_become_runner_locked(struct pnx_watch *watch, struct pnx_thread *self);

/* Calls changed until there are no news.  The caller has made itself the runner, and has a pin.  Returns how often. */
uint32_t pnx__watch_run(struct pnx_watch *watch);

/* Whether the descriptor is to be set: by the caller, without the lock. */
bool pnx__watch_signal_locked(struct pnx_watch *watch, bool news);

/* Tells one watch what there is to tell.  Begins and ends under the lock; the watch is pinned. */
void pnx__watch_notify_locked(struct pnx_watch *watch);

/* relaxed: under the lock, or a hint */
static inline bool pnx__watch_is_closed(const struct pnx_snapshot *snapshot) {
    return (pnx_load(&snapshot->changes, PNX_RELAXED, "watch.closed") & PNX_SNAPSHOT_CLOSED) != 0;
}

static inline bool pnx__watch_has_news_locked(const struct pnx_watch *watch) {
    return pnx_snapshot_version(watch->snapshot) > watch->seen;
}

/* Of an end the descriptor tells for good. */
static inline bool pnx__watch_has_ended_locked(const struct pnx_watch *watch) {
    return watch->cancelled || pnx__watch_is_closed(watch->snapshot);
}

/* A pin on the stack, so that it goes also when a callback leaves by pthread_exit(). */
struct pnx_watch_hold {
    struct pnx_watch *watch; /* NULL: none */
};

static inline void pnx__watch_end_hold(struct pnx_watch_hold *hold) {
    if (hold->watch)
        pnx__watch_unpin(hold->watch);
}

#endif
