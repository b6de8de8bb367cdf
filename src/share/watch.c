/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/watch.c - hearing that a snapshot has changed.
 *
 * Sits on the snapshot, whose lock guards the list of its watches and their state.  A writer that has published,
 * and holds nothing any more, walks the list: under the lock it only decides what is to be done for a watch, and
 * pins it, so that it stays where it is while it is done.
 *
 * A callback has one runner at a time:
 *
 *     IDLE --a writer, or tick, finds news--> RUNNING --no news since its last look--> IDLE
 *                                                +--others find news: again--> RUNNING
 *
 * The runner tells the latest value, and looks once more before it leaves.  Who finds a runner leaves word (again)
 * under the lock, under which the runner also decides to leave: so either it looks once more, or it has left and
 * the other one runs (P1, P2).  Nothing waits for a runner but a cancel.
 *
 * The descriptor is cleared before the news are taken, never after: so it may be readable without news, but there
 * are no news while it is not (os/notify.h: an event descriptor).  Who has cleared it still says under the lock that it is
 * set (signalled), until he says otherwise: what comes in between leaves it to him, so then he looks whether there is
 * something left to tell.
 *
 * A watch is freed with its last pin; the handle is one.  In a forked child the pins of the parent's other threads
 * stay, and a watch that had some is not freed there.
 *
 * Guarantees P1..P5 stand in patinox/watch.h.
 */
#include <patinox/watch.h>

#include "base/options.h"
#include "os/file.h"
#include "os/futex.h"
#include "os/notify.h"
#include "os/thread.h"
#include "share/callback.h"
#include "share/snapshot.h"
#include "share/wait.h"

#include <assert.h>
#ifdef PNX_DEBUG
#include <stdio.h>
#include <stdlib.h>
#endif

#define MAGIC UINT32_C(0x77617463)

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

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_watch_opts, __VA_ARGS__)
#include "share/watch_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"watch", sizeof(struct pnx_watch_opts), option_rows,
        sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(
        sizeof(struct pnx_watch_opts) == sizeof(size_t) + 4 * sizeof(void *) + 16, "no padding");

#ifdef PNX_DEBUG
#define expect(watch) expect_in(watch, __func__)
static void expect_in(const struct pnx_watch *watch, const char *where) {
    if (watch->magic == MAGIC)
        return;
    fprintf(stderr, "patinox: %s: %p is no watch, or not any more\n", where, (const void *)watch);
    abort();
}
#else
#define expect(watch) ((void)(watch))
#endif

/* Takes the cell's lock and, in a forked child, forgets the runners that exist only in the parent. */
static void lock(struct pnx_snapshot *snapshot) {
    uint32_t generation = pnx__fork_generation();
    pnx__mutex_lock(&snapshot->lock);
    if (snapshot->generation == generation)
        return;
    snapshot->generation = generation;
    PNX_LIST_EACH (link, after, &snapshot->watches) {
        struct pnx_watch *watch = PNX_CONTAINER(link, struct pnx_watch, link);
        if (watch->runner && !pnx__thread_is_here(watch->runner))
            watch->runner = NULL;
    }
}

/* relaxed: under the lock, or a hint */
static bool is_closed(const struct pnx_snapshot *snapshot) {
    return (pnx_load(&snapshot->changes, PNX_RELAXED, "watch.closed") & PNX_SNAPSHOT_CLOSED) != 0;
}

/* ---- pins ---- */

/* Frees a watch that nobody has any more. */
static void free_watch(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    if (watch->registry) {
        (void)pnx_registry_remove(watch->registry, watch->id); /* waits for a running cleanup */
        pnx_registry_release(&watch->registry);
    }
    if (watch->fd >= 0)
        (void)pnx__os_close(&watch->fd);
    pnx__strfree(&snapshot->env, watch->name);
    watch->magic = 0;
    pnx__free(&snapshot->env, watch, 1, sizeof(*watch));
    pnx_snapshot_release(&snapshot);
}

/* Lets a pin go.  Returns whether it was the last one: then the caller frees the watch, without the lock. */
static bool unpin_locked(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    if (--watch->pins)
        return false;
    pnx__list_remove(&watch->link);
    pnx_owner_add(&snapshot->values.watches, (uint64_t)-1);
    /* relaxed: under the lock, as where it is set */
    if (--snapshot->watch_count == 0)
        pnx_fetch_and(&snapshot->changes, ~(uint32_t)PNX_SNAPSHOT_WATCHED, PNX_RELAXED,
                "watch.unwatched");
    return true;
}

static void unpin(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    lock(snapshot);
    bool last = unpin_locked(watch);
    pnx__mutex_unlock(&snapshot->lock);
    if (last)
        free_watch(watch);
}

/* ---- the callback ---- */

/* A turn as the runner, on its stack, so that it ends also when the callback leaves by pthread_exit(). */
struct turn {
    struct pnx_watch *watch; /* pinned by who made the turn; NULL: over */
    const void *value;       /* being told */
    uint32_t told;
};

static void stop_telling(struct turn *turn) {
    if (!turn->value)
        return;
    pnx__thread()->watch_depth--;
    const void *value = turn->value;
    turn->value = NULL;
    pnx_rc_unref(value);
}

static void end_turn(struct turn *turn) {
    struct pnx_watch *watch = turn->watch;
    if (!watch)
        return;
    stop_telling(turn);
    lock(watch->snapshot);
    watch->runner = NULL;
    pnx__mutex_unlock(&watch->snapshot->lock);
    pnx_fetch_add(&watch->ended, 1, PNX_RELAXED, "watch.ended"); /* the lock orders it */
    pnx__futex_wake(&watch->ended, UINT32_MAX);
}

/* Tells the latest value if it is news.  Returns whether to go on; else the turn is over. */
static bool tell(struct turn *turn) {
    struct pnx_watch *watch = turn->watch;
    uint64_t version;
    const void *value = pnx_snapshot_load(watch->snapshot, &version);
    lock(watch->snapshot);
    bool news = !watch->cancelled && version > watch->seen;
    bool again = news || (watch->again && !watch->cancelled);
    if (news) {
        watch->seen = version;
        pnx_owner_add(&watch->snapshot->values.notifications, 1);
    } else if (again) {
        watch->again = false;
    } else {
        watch->runner = NULL;
    }
    pnx__mutex_unlock(&watch->snapshot->lock);
    if (!news) {
        pnx_rc_unref(value);
        return again;
    }
    turn->value = value;
    turn->told++;
    pnx__thread()->watch_depth++;
    pnx__mutex_assert_none_held();
    watch->changed(watch->ctx, value, version);
    stop_telling(turn);
    return true;
}

/* Calls changed until there are no news.  The caller has made itself the runner, and has a pin.  Returns how often. */
static uint32_t run(struct pnx_watch *watch) {
    PNX_CLEANUP(end_turn) struct turn turn = {.watch = watch};
    while (tell(&turn))
        ;
    turn.watch = NULL;                                          /* it has left, under the lock */
    pnx_fetch_add(&watch->ended, 1, PNX_RELAXED, "watch.left"); /* the lock orders it */
    pnx__futex_wake(&watch->ended, UINT32_MAX);
    return turn.told;
}

/* Makes the caller the runner, unless there is one: that one is left word. */
static bool become_runner_locked(struct pnx_watch *watch, struct pnx_thread *self) {
    if (watch->runner) {
        watch->again = true;
        return false;
    }
    watch->again = false;
    watch->runner = self;
    return true;
}

/* ---- telling ---- */

/* Whether the descriptor is to be set: by the caller, without the lock. */
static bool signal_locked(struct pnx_watch *watch, bool news) {
    if (watch->fd < 0 || watch->signalled || !news ||
            watch->fd_generation != watch->snapshot->generation)
        return false;
    watch->signalled = true;
    return true;
}

static bool has_news_locked(const struct pnx_watch *watch) {
    return pnx_snapshot_version(watch->snapshot) > watch->seen;
}

/* Of an end the descriptor tells for good. */
static bool has_ended_locked(const struct pnx_watch *watch) {
    return watch->cancelled || is_closed(watch->snapshot);
}

/* A pin on the stack, so that it goes also when a callback leaves by pthread_exit(). */
struct hold {
    struct pnx_watch *watch; /* NULL: none */
};

static void end_hold(struct hold *hold) {
    if (hold->watch)
        unpin(hold->watch);
}

/* Tells one watch what there is to tell.  Begins and ends under the lock; the watch is pinned. */
static void notify_locked(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    struct pnx_thread *self = pnx__thread();
    bool news = has_news_locked(watch);
    bool signals = signal_locked(watch, news || has_ended_locked(watch));
    /* Without a record there is no publication either, so nothing is missed. */
    bool runs = news && watch->changed && !(watch->flags & PNX_WATCH_TICK) && !watch->cancelled &&
                self && become_runner_locked(watch, self);
    if (!signals && !runs)
        return;
    if (signals)
        pnx_owner_add(&snapshot->values.notifications, 1);
    int fd = watch->fd;
    pnx__mutex_unlock(&snapshot->lock);
    if (signals)
        pnx__eventfd_set(fd);
    if (runs)
        (void)run(watch);
    lock(snapshot);
}

static void release_cell(struct pnx_snapshot **snapshot) {
    pnx_snapshot_release(snapshot);
}

void pnx__watches_notify(struct pnx_snapshot *snapshot) {
    pnx__mutex_assert_none_held();
    /* A callback may let go of the cell, and of any watch. */
    PNX_CLEANUP(release_cell) struct pnx_snapshot *cell = pnx_snapshot_ref(snapshot);
    struct pnx_link dead;
    pnx__list_init(&dead);
    lock(cell);
    struct pnx_link *at = cell->watches.next;
    while (at != &cell->watches) {
        PNX_CLEANUP(end_hold) struct hold hold = {PNX_CONTAINER(at, struct pnx_watch, link)};
        hold.watch->pins++;
        notify_locked(hold.watch);
        at = at->next; /* only now: it was in its place all the time, while others came and went */
        if (unpin_locked(hold.watch))
            pnx__list_push_back(&dead, &hold.watch->link);
        hold.watch = NULL;
    }
    pnx__mutex_unlock(&cell->lock);
    struct pnx_link *link;
    while ((link = pnx__list_pop_front(&dead)) != NULL)
        free_watch(PNX_CONTAINER(link, struct pnx_watch, link));
}

/* ---- making and ending ---- */

/* Wakes those who wait for news; they will find what has changed. */
static void wake_waiters(struct pnx_snapshot *snapshot) {
    /* release: as snapshot.changes; pairs with snapshot.wait and watch.wait */
    uint32_t changes =
            pnx_fetch_add(&snapshot->changes, PNX_SNAPSHOT_STEP, PNX_RELEASE, "watch.wake_waiters");
    pnx__snapshot_wake(snapshot, changes);
}

/* Waits for a runner to leave, if the caller may.  Begins and ends under the lock. */
static int await_runner_locked(struct pnx_watch *watch, pnx_ns deadline) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    int rc = 0;
    while (watch->runner && rc == 0) {
        if (pnx__inside_callback())
            return -EINPROGRESS;
        uint32_t ended = pnx_load(&watch->ended, PNX_RELAXED, "watch.await"); /* the lock */
        pnx__mutex_unlock(&snapshot->lock);
        rc = pnx__wait(&watch->ended, ended, &snapshot->env, deadline);
        lock(snapshot);
    }
    return watch->runner ? rc : 0;
}

static int cancel_until(struct pnx_watch *watch, pnx_ns deadline) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    pnx__mutex_assert_none_held(); /* it may wait for a callback, which may want any lock */
    lock(snapshot);
    bool first = !watch->cancelled;
    watch->cancelled = true;
    bool signals = signal_locked(watch, true);
    int fd = watch->fd;
    if (first) {
        pnx__mutex_unlock(&snapshot->lock);
        if (signals)
            pnx__eventfd_set(fd);
        wake_waiters(snapshot);
        lock(snapshot);
    }
    int rc = await_runner_locked(watch, deadline);
    pnx__mutex_unlock(&snapshot->lock);
    return rc;
}

static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return cancel_until(arg, PNX_NEVER);
}

static int add_row(
        struct pnx_watch *watch, const struct pnx_watch_opts *opts, struct pnx_error *err) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    if (!snapshot->registry)
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "watch",
            .name = watch->name,
            .site = opts->site,
            .cleanup = cleanup,
            .arg = watch,
            .parent = snapshot->id,
            .bytes = sizeof(*watch),
    };
    struct pnx_registry *registry = pnx_registry_ref(snapshot->registry);
    int rc = pnx_registry_add(registry, &resource, err, &watch->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        watch->registry = registry;
    return rc;
}

/* Puts the watch on the cell's list.  From here on it hears of publications. */
static int join(struct pnx_watch *watch, const struct pnx_watch_opts *opts, struct pnx_error *err) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    lock(snapshot);
    int rc = is_closed(snapshot)                              ? -ESHUTDOWN
             : snapshot->watch_count == snapshot->max_watches ? -EBUSY
                                                              : 0;
    if (rc == 0) {
        pnx__list_push_back(&snapshot->watches, &watch->link);
        snapshot->watch_count++;
        pnx_owner_add(&snapshot->values.watches, 1);
        /* acquire: pairs with snapshot.changes; a writer that comes later finds the mark, any other is seen */
        pnx_fetch_or(&snapshot->changes, PNX_SNAPSHOT_WATCHED, PNX_ACQUIRE, "watch.watched");
        watch->seen = opts->seen;
        if (opts->flags & PNX_WATCH_INITIAL)
            watch->seen = 0;
        else if (!opts->seen)
            watch->seen = pnx_snapshot_version(snapshot);
    }
    pnx__mutex_unlock(&snapshot->lock);
    if (rc == -EBUSY)
        return pnx__fail(err, rc, 0, "open", "%s: max_watches %u are open", watch->name,
                snapshot->max_watches);
    return rc ? pnx__fail(err, rc, 0, "open", "%s: closed", watch->name) : 0;
}

int pnx_watch_open(struct pnx_snapshot *snapshot, const struct pnx_watch_opts *user,
        struct pnx_error *err, struct pnx_watch **ret_watch) {
    struct pnx_watch_opts opts;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc)
        return rc;
    if (!snapshot || !ret_watch)
        return pnx__fail_field(err, -EINVAL, snapshot ? "ret_watch" : "snapshot",
                "watch: %s is NULL", snapshot ? "ret_watch" : "snapshot");
    pnx__snapshot_expect(snapshot);
    if (!opts.changed && (opts.flags & PNX_WATCH_TICK))
        return pnx__fail_field(err, -EINVAL, "changed", "watch: PNX_WATCH_TICK without changed");
    if (!pnx__thread())
        return pnx__fail(err, -ENOMEM, 0, "open", "watch: out of memory");
    const struct pnx_env *env = &snapshot->env;
    struct pnx_watch *watch = pnx__alloc(env, 1, sizeof(*watch));
    char *name = pnx__strdup(env, opts.name ? opts.name : snapshot->name);
    if (!watch || !name) {
        pnx__free(env, watch, 1, sizeof(*watch));
        pnx__strfree(env, name);
        return pnx__fail(err, -ENOMEM, 0, "open", "watch: out of memory");
    }
    watch->magic = MAGIC;
    watch->flags = opts.flags;
    watch->changed = opts.changed;
    watch->ctx = opts.ctx;
    watch->name = name;
    watch->fd = -1;
    watch->pins = 1;
    watch->snapshot = pnx_snapshot_ref(snapshot);
    rc = add_row(watch, &opts, err);
    if (rc == 0)
        rc = join(watch, &opts, err);
    if (rc) {
        free_watch(watch);
        return rc;
    }
    *ret_watch = watch;
    lock(snapshot);
    PNX_CLEANUP(end_hold) struct hold hold = {watch};
    watch->pins++;
    notify_locked(watch);
    pnx__mutex_unlock(&snapshot->lock);
    return 0;
}

int pnx_watch_cancel(struct pnx_watch *watch) {
    if (!watch)
        return 0;
    expect(watch);
    return cancel_until(watch, PNX_NEVER);
}

void pnx_watch_release(struct pnx_watch **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_watch *watch = *handle;
    *handle = NULL;
    expect(watch);
    (void)cancel_until(watch, PNX_NEVER);
    unpin(watch);
}

/* ---- taking ---- */

/* Takes the news, if there are any; -EAGAIN if not. */
static int take(struct pnx_watch *watch, const void **ret_value, uint64_t *ret_version) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    bool closed =
            is_closed(snapshot); /* before the value: what comes after it need not be waited for */
    uint64_t version;
    const void *value = pnx_snapshot_load(snapshot, &version);
    lock(snapshot);
    int rc = watch->cancelled        ? -ECANCELED
             : version > watch->seen ? 0
             : closed                ? -ESHUTDOWN
                                     : -EAGAIN;
    if (rc == 0)
        watch->seen = version;
    watch->signalled = false;
    bool signals = watch->fd >= 0 &&
                   signal_locked(watch, has_ended_locked(watch) || has_news_locked(watch));
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
    lock(snapshot);
    int fd = watch->fd_generation == snapshot->generation ? watch->fd : -1;
    pnx__mutex_unlock(&snapshot->lock);
    if (fd >= 0)
        pnx__eventfd_clear(fd);
}

int pnx_watch_read(struct pnx_watch *watch, const void **ret_value, uint64_t *ret_version) {
    if (!watch)
        return -EINVAL;
    expect(watch);
    clear_fd(watch);
    return take(watch, ret_value, ret_version);
}

int pnx_watch_wait(
        struct pnx_watch *watch, pnx_ns timeout, const void **ret_value, uint64_t *ret_version) {
    if (!watch)
        return -EINVAL;
    expect(watch);
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
    expect(watch);
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return -ENOMEM;
    struct pnx_snapshot *snapshot = watch->snapshot;
    clear_fd(watch);
    bool closed = is_closed(snapshot);
    lock(snapshot);
    watch->signalled = false;
    bool signals = signal_locked(watch, has_ended_locked(watch)); /* news are told now */
    int fd = watch->fd;
    bool cancelled = watch->cancelled;
    bool runs = !cancelled && become_runner_locked(watch, self);
    watch->pins += runs;
    pnx__mutex_unlock(&snapshot->lock);
    if (signals)
        pnx__eventfd_set(fd);
    if (cancelled)
        return -ECANCELED;
    if (!runs)
        return 0;
    PNX_CLEANUP(end_hold) struct hold hold = {watch};
    uint32_t told = run(watch);
    return told ? 1 : closed ? -ESHUTDOWN : 0;
}

/* Makes the descriptor the watch's, unless another thread was first.  Returns the one to be closed, if any. */
static int adopt_fd(struct pnx_watch *watch, int fd, int *ret_fd) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    lock(snapshot);
    int other = watch->fd;
    if (other >= 0 && watch->fd_generation == snapshot->generation) {
        other = fd;
    } else {
        watch->fd = fd;
        watch->fd_generation = snapshot->generation;
        watch->signalled = false;
    }
    *ret_fd = watch->fd;
    notify_locked(watch); /* the caller's handle keeps it */
    pnx__mutex_unlock(&snapshot->lock);
    return other;
}

int pnx_watch_fd(struct pnx_watch *watch) {
    if (!watch)
        return -EINVAL;
    expect(watch);
    struct pnx_snapshot *snapshot = watch->snapshot;
    lock(snapshot);
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
    (void)pnx__os_close(&other);
    return fd;
}
