/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config_run.c - who runs a config: the latch, the thread that does nothing else, and waking it or the loop.
 *
 * Neither the thread nor tick ever waits for the latch, so that who closes the config from inside a function of
 * his, holding it, can wait for the thread.
 *
 * Why no wake is lost: who wakes changes what is to be seen first (a flag, phase), then adds to pokes and sets the
 * descriptor; the thread reads pokes and clears the descriptor first, then looks, and sleeps only on those.
 */
#include "os/clock.h"
#include "os/futex.h"
#include "os/notify.h"
#include "share/config.h"
#include "share/reclaim.h"
#include "share/wait.h"

#define RELOAD_WAIT (10 * PNX_SEC) /* for a reload that is under way on another thread */
#define BUSY_RETRY  (10 * PNX_MS)  /* for a tick to come back that found one under way */

/* ---- the latch ---- */

/* Its owner runs the user's functions, for which the cleanup of the row waits. */
static int get_latch(struct pnx_config *config, pnx_ns deadline) {
    int rc = pnx__latch_acquire(&config->busy, &config->env, deadline);
    if (rc == 0)
        pnx__row_call_enter(&config->call, config->registry, config->id);
    return rc;
}

static bool try_latch(struct pnx_config *config) {
    return get_latch(config, INT64_MIN) == 0;
}

int pnx__config_enter(struct pnx_config *config, struct pnx_error *err) {
    /* In a section nobody waits: the functions that he would wait for may wait for its end. */
    bool waits = !pnx__reclaim_in_any();
    pnx_ns deadline = waits ? pnx__deadline(pnx__now(&config->env), RELOAD_WAIT) : INT64_MIN;
    int rc = get_latch(config, deadline);
    if (rc == -EDEADLK)
        return pnx__fail(err, rc, 0, "wait", "%s: a reload from inside a callback", config->name);
    if (rc == -ETIMEDOUT && !waits)
        return pnx__fail(err, -EDEADLK, 0, "wait",
                "%s: a reload is under way, and inside a section nobody waits for it",
                config->name);
    if (rc == -ETIMEDOUT)
        return pnx__fail(err, rc, 0, "wait", "%s: the reload under way does not end", config->name);
    if (rc)
        return pnx__fail(err, rc, 0, "wait", "%s: out of memory", config->name);
    if (!pnx__config_closed(config))
        return 0;
    pnx__config_leave(config);
    return pnx__fail(err, -ESHUTDOWN, 0, "wait", "%s: closed", config->name);
}

/* Whether there is something that only the owner of the latch can do. */
static bool has_left_over(struct pnx_config *config) {
    pnx__mutex_lock(&config->lock);
    bool left = config->rollout.state == PNX_CONFIG_ROLLOUT_ENDING || config->released;
    pnx__mutex_unlock(&config->lock);
    return left;
}

void pnx__config_leave(struct pnx_config *config) {
    bool released;
    do {
        pnx__config_rollout_settle(config, pnx__now(&config->env));
        pnx__mutex_lock(&config->lock);
        released = config->released;
        config->released = false;
        pnx__mutex_unlock(&config->lock);
        pnx__row_call_leave(&config->call);
        pnx__latch_release(&config->busy);
        /* An abort, or a release, that came after we looked found the latch taken, and left it to us. */
    } while (!released && has_left_over(config) && try_latch(config));
    if (released)
        pnx__config_finish_release(config);
}

void pnx__config_settle_soon(struct pnx_config *config) {
    if (try_latch(config))
        pnx__config_leave(config); /* else whoever has it does the same when he leaves */
}

/* ---- ticking, and the thread that does nothing else ---- */

/* *ret_busy: somebody else is at it, and what inotify has to say waits in its descriptor. */
static pnx_ns tick(struct pnx_config *config, pnx_ns now, bool *ret_busy) {
    /* The latch is tried, not waited for: who has it loads the file, or closes. */
    *ret_busy = !try_latch(config);
    if (*ret_busy)
        return pnx__deadline(now, BUSY_RETRY);
    pnx_ns next = pnx__config_closed(config) ? PNX_NEVER : pnx__config_tick_owned(config, now);
    pnx__config_leave(config);
    return next;
}

static void clear_wake(struct pnx_config *config) {
    if (config->wake_fd >= 0 && !pnx__config_forked(config))
        pnx__eventfd_clear(config->wake_fd); /* the parent's, in a child */
}

pnx_ns pnx_config_tick(struct pnx_config *config, pnx_ns now) {
    pnx__config_check(config);
    if (config->opts.flags & PNX_CONFIG_THREAD)
        return PNX_NEVER;
    bool busy;
    pnx__config_take(config); /* a callback may release it */
    clear_wake(config);
    pnx_ns next = tick(config, now, &busy);
    pnx__config_drop(config);
    return next;
}

static uint32_t phase_of(const struct pnx_config *config) {
    /* acquire: pairs with config.run */
    return pnx_load(&config->phase, PNX_ACQUIRE, "config.phase");
}

static uint32_t pokes_of(const struct pnx_config *config) {
    /* acquire: pairs with config.poke; what was done before the waking is seen after this */
    return pnx_load(&config->pokes, PNX_ACQUIRE, "config.pokes");
}

/* A descriptor that tick has not emptied, or cannot, would end each sleep at once: it is left out then. */
static void sleep_until(struct pnx_config *config, pnx_ns until, bool busy, uint32_t pokes) {
    bool hears = !busy && pnx__watcher_usable(&config->watcher);
    int fds[] = {config->wake_fd, hears ? config->watcher.fd : -1};
    pnx_ns left = pnx__remaining(pnx__now(&config->env), until);
    /* poll fails only for lack of kernel memory; the futex needs none */
    if (config->wake_fd < 0 || pnx__poll_readable(fds, 2, left) < 0)
        (void)pnx__wait(&config->pokes, pokes, &config->env, until);
}

static void thread_run(void *arg) {
    struct pnx_config *config = arg;
    const struct pnx_thread *self = pnx__thread();
    /* relaxed: only this thread asks whether it is this thread */
    pnx_store(&config->thread_id, self ? self->id : 0, PNX_RELAXED, "config.thread_id");
    while (phase_of(config) == PNX_CONFIG_THREAD_PARKED)
        (void)pnx__futex_wait(&config->phase, PNX_CONFIG_THREAD_PARKED, PNX_NEVER);
    for (;;) {
        uint32_t pokes = pokes_of(config);
        clear_wake(config);
        if (phase_of(config) != PNX_CONFIG_THREAD_RUNNING)
            break;
        bool busy;
        pnx_ns next = tick(config, pnx__now(&config->env), &busy);
        sleep_until(config, next, busy, pokes);
    }
    pnx__config_drop(config);
}

bool pnx__config_on_own_thread(const struct pnx_config *config) {
    const struct pnx_thread *self = pnx__thread();
    return self && self->id == pnx_load(&config->thread_id, PNX_RELAXED, "config.own_thread");
}

int pnx__config_start_thread(struct pnx_config *config, struct pnx_error *err) {
    bool idle = (config->opts.flags & PNX_CONFIG_NO_WATCH) && !config->opts.stages_count;
    if (!(config->opts.flags & PNX_CONFIG_THREAD) || idle)
        return 0;
    pnx__config_take(config);
    int rc = pnx__thread_start("pnx-config", thread_run, config, &config->thread);
    if (rc == 0)
        return 0;
    pnx__config_drop(config);
    return pnx__fail(err, rc, rc, "thread", "%s: no thread can be started", config->name);
}

void pnx__config_run_thread(struct pnx_config *config) {
    uint32_t parked = PNX_CONFIG_THREAD_PARKED; /* unless a shutdown was faster */
    /* release: pairs with config.phase; what the creator handed out is there before the first on_change */
    (void)pnx_cas(&config->phase, &parked, PNX_CONFIG_THREAD_RUNNING, PNX_RELEASE, "config.run");
    pnx__futex_wake(&config->phase, 1);
}

void pnx__config_stop_thread(struct pnx_config *config) {
    /* relaxed: config.poke, which follows, publishes it */
    pnx_store(&config->phase, PNX_CONFIG_THREAD_STOPPED, PNX_RELAXED, "config.stop");
    pnx__futex_wake(&config->phase, 1);
    pnx__config_wake(config);
}

void pnx__config_wake(struct pnx_config *config) {
    if (pnx__config_forked(config))
        return; /* the thread and the loop are the parent's, who shares the descriptor */
    /* release: pairs with config.pokes */
    pnx_fetch_add(&config->pokes, 1, PNX_RELEASE, "config.poke");
    pnx__futex_wake(&config->pokes, 1);
    if (config->wake_fd >= 0)
        pnx__eventfd_set(config->wake_fd);
}
