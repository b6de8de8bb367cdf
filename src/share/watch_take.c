/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/watch_take.c - taking the news of a watch: by waiting, through its descriptor, by a tick.
 *
 * The descriptor is cleared before the news are taken, never after: so it may be readable without news, but there
 * are no news while it is not (os/notify.h: an event descriptor).  Who has cleared it still says under the lock that it is
 * set (signalled), until he says otherwise: what comes in between leaves it to him, so then he looks whether there is
 * something left to tell.
 *
 * Guarantees P1 and P4 stand in patinox/watch.h; how callbacks are run, in watch.c.
 */
#include "share/watch.h"

#include "os/file.h"
#include "os/notify.h"

/* Takes the news, if there are any; -EAGAIN if not. */
static int take(struct pnx_watch *watch, const void **ret_value, uint64_t *ret_version) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    bool closed = pnx__watch_is_closed(
            snapshot); /* before the value: what comes after it need not be waited for */
    uint64_t version;
    const void *value = pnx_snapshot_load(snapshot, &version);
    pnx__watch_lock(snapshot);
    int rc = watch->cancelled        ? -ECANCELED
             : version > watch->seen ? 0
             : closed                ? -ESHUTDOWN
                                     : -EAGAIN;
    if (rc == 0)
        watch->seen = version;
    watch->signalled = false;
    bool signals = watch->fd >= 0 &&
                   pnx__watch_signal_locked(watch,
                           pnx__watch_has_ended_locked(watch) || pnx__watch_has_news_locked(watch));
    int fd = watch->fd;
    pnx__mutex_unlock(&snapshot->lock);
    if (signals)
        pnx__eventfd_set(fd);
    if (rc || !ret_value)
        pnx_rc_unref(value);
    else
        *ret_value = value;
    if (rc == 0 && ret_version)
        *ret_version = version;
    return rc;
}

/* Before the news are taken: see at the top of the file. */
static void clear_fd(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    pnx__watch_lock(snapshot);
    int fd = watch->fd_generation == snapshot->generation ? watch->fd : -1;
    pnx__mutex_unlock(&snapshot->lock);
    if (fd >= 0)
        pnx__eventfd_clear(fd);
}

int pnx_watch_read(struct pnx_watch *watch, const void **ret_value, uint64_t *ret_version) {
    if (!watch)
        return -EINVAL;
    pnx__watch_expect(watch);
    clear_fd(watch);
    return take(watch, ret_value, ret_version);
}

int pnx_watch_wait(
        struct pnx_watch *watch, pnx_ns timeout, const void **ret_value, uint64_t *ret_version) {
    if (!watch)
        return -EINVAL;
    pnx__watch_expect(watch);
    struct pnx_snapshot *snapshot = watch->snapshot;
    int slept = pnx__timeout(timeout, PNX_NEVER, NULL, &timeout);
    if (slept)
        return slept;
    pnx_ns deadline = timeout ? pnx__deadline(pnx__now(&snapshot->env), timeout) : 0;
    for (;;) {
        /* acquire: pairs with snapshot.changes, snapshot.close and watch.wake_waiters; what it tells is there */
        uint32_t changes = pnx_load(&snapshot->changes, PNX_ACQUIRE, "watch.wait");
        int rc = pnx_watch_read(watch, ret_value, ret_version);
        if (rc != -EAGAIN)
            return rc;
        if (timeout == 0)
            return -ETIMEDOUT;
        if (slept)
            return slept;
        slept = pnx__snapshot_sleep(snapshot, changes, deadline);
    }
}

int pnx_watch_tick(struct pnx_watch *watch) {
    if (!watch || !watch->changed)
        return -EINVAL;
    pnx__watch_expect(watch);
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return -ENOMEM;
    struct pnx_snapshot *snapshot = watch->snapshot;
    clear_fd(watch);
    bool closed = pnx__watch_is_closed(snapshot);
    pnx__watch_lock(snapshot);
    watch->signalled = false;
    bool signals = pnx__watch_signal_locked(
            watch, pnx__watch_has_ended_locked(watch)); /* news are told now */
    int fd = watch->fd;
    bool cancelled = watch->cancelled;
    bool runs = !cancelled && pnx__watch_become_runner_locked(watch, self);
    watch->pins += runs;
    pnx__mutex_unlock(&snapshot->lock);
    if (signals)
        pnx__eventfd_set(fd);
    if (cancelled)
        return -ECANCELED;
    if (!runs)
        return 0;
    PNX_CLEANUP(pnx__watch_end_hold) struct pnx_watch_hold hold = {watch};
    uint32_t told = pnx__watch_run(watch);
    return told ? 1 : closed ? -ESHUTDOWN : 0;
}

/* Makes the descriptor the watch's, unless another thread was first.  Returns the one to be closed, if any. */
static int adopt_fd(struct pnx_watch *watch, int fd, int *ret_fd) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    pnx__watch_lock(snapshot);
    int other = watch->fd;
    if (other >= 0 && watch->fd_generation == snapshot->generation) {
        other = fd;
    } else {
        watch->fd = fd;
        watch->fd_generation = snapshot->generation;
        watch->signalled = false;
    }
    *ret_fd = watch->fd;
    pnx__watch_notify_locked(watch); /* the caller's handle keeps it */
    pnx__mutex_unlock(&snapshot->lock);
    return other;
}

int pnx_watch_fd(struct pnx_watch *watch) {
    if (!watch)
        return -EINVAL;
    pnx__watch_expect(watch);
    struct pnx_snapshot *snapshot = watch->snapshot;
    pnx__watch_lock(snapshot);
    bool cancelled = watch->cancelled;
    int fd = watch->fd_generation == snapshot->generation ? watch->fd : -1;
    pnx__mutex_unlock(&snapshot->lock);
    if (fd >= 0)
        return fd;
    if (cancelled)
        return -ECANCELED;
    fd = pnx__eventfd_open();
    if (fd < 0)
        return fd;
    int other = adopt_fd(watch, fd, &fd);
    pnx__eventfd_close(&other);
    return fd;
}
