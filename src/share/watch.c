/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/watch.c - hearing that a snapshot has changed: the life of a watch, and telling it.
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
 * A watch is freed with its last pin; the handle is one.  In a forked child the pins of the parent's other threads
 * stay, and a watch that had some is not freed there.
 *
 * Guarantees P1..P5 stand in patinox/watch.h.
 */
#include "share/watch.h"

#include "base/options.h"
#include "os/file.h"
#include "os/futex.h"
#include "os/notify.h"
#include "registry/calls.h"
#include "share/callback.h"
#include "share/wait.h"

#include <assert.h>
#ifdef PNX_DEBUG
#include <stdio.h>
#include <stdlib.h>
#endif

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
void pnx__watch_expect_in(const struct pnx_watch *watch, const char *where) {
    if (watch->magic == PNX_WATCH_MAGIC)
        return;
    fprintf(stderr, "patinox: %s: %p is no watch, or not any more\n", where, (const void *)watch);
    abort();
}
#endif

void pnx__watch_lock(struct pnx_snapshot *snapshot) {
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

/* ---- pins ---- */

/* Frees a watch that nobody has any more. */
static void free_watch(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    if (watch->registry) {
        (void)pnx_registry_remove(watch->registry, watch->id); /* waits for a running cleanup */
        pnx_registry_release(&watch->registry);
    }
    if (watch->fd >= 0)
        pnx__eventfd_close(&watch->fd);
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

void pnx__watch_unpin(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    pnx__watch_lock(snapshot);
    bool last = unpin_locked(watch);
    pnx__mutex_unlock(&snapshot->lock);
    if (last)
        free_watch(watch);
}

/* ---- the callback ---- */

/* A turn as the runner, on its stack, so that it ends also when the callback leaves by pthread_exit(). */
struct turn {
    struct pnx_watch *watch;  /* pinned by who made the turn; NULL: over */
    const void *value;        /* being told */
    struct pnx_row_call call; /* while it is */
    uint32_t told;
};

static void stop_telling(struct turn *turn) {
    if (!turn->value)
        return;
    pnx__thread()->watch_depth--;
    pnx__row_call_leave(&turn->call);
    const void *value = turn->value;
    turn->value = NULL;
    pnx_rc_unref(value);
}

static void end_turn(struct turn *turn) {
    struct pnx_watch *watch = turn->watch;
    if (!watch)
        return;
    stop_telling(turn);
    pnx__watch_lock(watch->snapshot);
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
    pnx__watch_lock(watch->snapshot);
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
    pnx__row_call_enter(&turn->call, watch->registry, watch->id);
    pnx__mutex_assert_none_held();
    watch->changed(watch->ctx, value, version);
    stop_telling(turn);
    return true;
}

uint32_t pnx__watch_run(struct pnx_watch *watch) {
    PNX_CLEANUP(end_turn) struct turn turn = {.watch = watch};
    while (tell(&turn))
        ;
    turn.watch = NULL;                                          /* it has left, under the lock */
    pnx_fetch_add(&watch->ended, 1, PNX_RELAXED, "watch.left"); /* the lock orders it */
    pnx__futex_wake(&watch->ended, UINT32_MAX);
    return turn.told;
}

bool pnx__watch_become_runner_locked(struct pnx_watch *watch, struct pnx_thread *self) {
    if (watch->runner) {
        watch->again = true;
        return false;
    }
    watch->again = false;
    watch->runner = self;
    return true;
}

/* ---- telling ---- */

bool pnx__watch_signal_locked(struct pnx_watch *watch, bool news) {
    if (watch->fd < 0 || watch->signalled || !news ||
            watch->fd_generation != watch->snapshot->generation)
        return false;
    watch->signalled = true;
    return true;
}

void pnx__watch_notify_locked(struct pnx_watch *watch) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    struct pnx_thread *self = pnx__thread();
    bool news = pnx__watch_has_news_locked(watch);
    bool signals = pnx__watch_signal_locked(watch, news || pnx__watch_has_ended_locked(watch));
    /* Without a record there is no publication either, so nothing is missed. */
    bool runs = news && watch->changed && !(watch->flags & PNX_WATCH_TICK) && !watch->cancelled &&
                self && pnx__watch_become_runner_locked(watch, self);
    if (!signals && !runs)
        return;
    if (signals)
        pnx_owner_add(&snapshot->values.notifications, 1);
    int fd = watch->fd;
    pnx__mutex_unlock(&snapshot->lock);
    if (signals)
        pnx__eventfd_set(fd);
    if (runs)
        (void)pnx__watch_run(watch);
    pnx__watch_lock(snapshot);
}

void pnx__watches_notify(struct pnx_snapshot *snapshot) {
    pnx__mutex_assert_none_held();
    /* A callback may let go of the cell, and of any watch. */
    PNX_CLEANUP(pnx_snapshot_release) struct pnx_snapshot *cell = pnx_snapshot_ref(snapshot);
    struct pnx_link dead;
    pnx__list_init(&dead);
    pnx__watch_lock(cell);
    struct pnx_link *at = cell->watches.next;
    while (at != &cell->watches) {
        PNX_CLEANUP(pnx__watch_end_hold)
        struct pnx_watch_hold hold = {PNX_CONTAINER(at, struct pnx_watch, link)};
        hold.watch->pins++;
        pnx__watch_notify_locked(hold.watch);
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
        pnx__watch_lock(snapshot);
    }
    return watch->runner ? rc : 0;
}

static int cancel_until(struct pnx_watch *watch, pnx_ns deadline) {
    struct pnx_snapshot *snapshot = watch->snapshot;
    pnx__mutex_assert_none_held(); /* it may wait for a callback, which may want any lock */
    pnx__watch_lock(snapshot);
    bool first = !watch->cancelled;
    watch->cancelled = true;
    bool signals = pnx__watch_signal_locked(watch, true);
    int fd = watch->fd;
    if (first) {
        pnx__mutex_unlock(&snapshot->lock);
        if (signals)
            pnx__eventfd_set(fd);
        wake_waiters(snapshot);
        pnx__watch_lock(snapshot);
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
            .flags = PNX_RESOURCE_LONG_LIVED,
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
    pnx__watch_lock(snapshot);
    int rc = pnx__watch_is_closed(snapshot)                   ? -ESHUTDOWN
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
    watch->magic = PNX_WATCH_MAGIC;
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
    pnx__watch_lock(snapshot);
    PNX_CLEANUP(pnx__watch_end_hold) struct pnx_watch_hold hold = {watch};
    watch->pins++;
    pnx__watch_notify_locked(watch);
    pnx__mutex_unlock(&snapshot->lock);
    return 0;
}

int pnx_watch_cancel(struct pnx_watch *watch) {
    if (!watch)
        return 0;
    pnx__watch_expect(watch);
    return cancel_until(watch, PNX_NEVER);
}

void pnx_watch_release(struct pnx_watch **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_watch *watch = *handle;
    *handle = NULL;
    pnx__watch_expect(watch);
    (void)cancel_until(watch, PNX_NEVER);
    pnx__watch_unpin(watch);
}
