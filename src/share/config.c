/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config.c - a snapshot that is fed from a file: making it, ending it, its thread, its numbers.
 *
 * Sits on the snapshot, the latch and the watcher.  The latch busy is held by whoever looks at the file or loads
 * it (config_reload.c); the mutex guards the status only.  Neither the thread nor tick ever waits for the latch,
 * so that who closes the config from inside a callback, holding it, can wait for the thread.
 *
 *     OPEN --close (release, shutdown)--> CLOSED: no callback runs, waiters got -ESHUTDOWN, loads go on
 *
 * Guarantees P1..P5 stand in patinox/config.h; P3 is kept here.
 */
#include "share/config.h"

#include "base/options.h"
#include "os/clock.h"
#include "os/futex.h"
#include "os/notify.h"
#include "share/check.h"
#include "share/wait.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define RELOAD_WAIT (10 * PNX_SEC) /* for a reload that is under way on another thread */
#define BUSY_RETRY  (10 * PNX_MS)  /* for a tick to come back that found one under way */

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_config_opts, __VA_ARGS__)
#include "share/config_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"config", sizeof(struct pnx_config_opts), option_rows,
        sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_config_opts) ==
                      2 * sizeof(size_t) + 10 * sizeof(void *) + 2 * sizeof(pnx_ns) + 8,
        "no padding");

static void check(const struct pnx_config *config) {
    (void)config;
    PNX_DEBUG_CHECK(config->magic == PNX_CONFIG_MAGIC);
    PNX_DEBUG_CHECK(pnx_load(&config->references, PNX_RELAXED, "config.debug") != 0);
}

static void take(struct pnx_config *config) {
    pnx_fetch_add(&config->references, 1, PNX_RELAXED, "config.take"); /* the caller holds one */
}

static void free_config(struct pnx_config *config) {
    struct pnx_env env = config->env;
    pnx__stats_remove(&config->block);
    pnx_snapshot_release(&config->values);
    pnx__watcher_close(&config->watcher);
    (void)pnx__os_close(&config->stop_fd);
    pnx__mutex_destroy(&config->lock);
    pnx__strfree(&env, config->path);
    pnx__strfree(&env, config->name);
    config->magic = 0;
    pnx__free(&env, config, 1, sizeof(*config));
}

static void drop(struct pnx_config *config) {
    /* acq_rel: pairs with itself; all that other holders did comes before the freeing */
    if (pnx_fetch_sub(&config->references, 1, PNX_ACQ_REL, "config.drop") == 1)
        free_config(config);
}

static bool is_closed(struct pnx_config *config) {
    pnx__mutex_lock(&config->lock);
    bool closed = config->closed;
    pnx__mutex_unlock(&config->lock);
    return closed;
}

/* ---- ticking, and the thread that does nothing else ---- */

static void finish_release(struct pnx_config *config);

/* Gives the latch back, and finishes a release that a callback began.  The caller holds a reference. */
static void leave(struct pnx_config *config) {
    pnx__mutex_lock(&config->lock);
    bool released = config->released;
    config->released = false;
    pnx__mutex_unlock(&config->lock);
    pnx__latch_release(&config->busy);
    if (released)
        finish_release(config);
}

/* *ret_busy: somebody else is at it, and what inotify has to say waits in its descriptor. */
static pnx_ns tick(struct pnx_config *config, pnx_ns now, bool *ret_busy) {
    /* The latch is tried, not waited for: who has it loads the file, or closes. */
    *ret_busy = pnx__latch_acquire(&config->busy, &config->env, INT64_MIN) != 0;
    if (*ret_busy)
        return pnx__deadline(now, BUSY_RETRY);
    pnx_ns next = is_closed(config) ? PNX_NEVER : pnx__config_tick_owned(config, now);
    leave(config);
    return next;
}

static uint32_t phase_of(const struct pnx_config *config) {
    /* acquire: pairs with config.run and config.stop */
    return pnx_load(&config->phase, PNX_ACQUIRE, "config.phase");
}

/* A descriptor that tick has not emptied, or cannot, would end each sleep at once: it is left out then. */
static void sleep_until(struct pnx_config *config, pnx_ns until, bool busy) {
    bool hears = !busy && pnx__watcher_usable(&config->watcher);
    int fds[] = {config->stop_fd, hears ? config->watcher.fd : -1};
    pnx_ns left = pnx__remaining(pnx__now(&config->env), until);
    /* poll fails only for lack of kernel memory; the futex needs none */
    if (config->stop_fd < 0 || pnx__poll_readable(fds, 2, left) < 0)
        (void)pnx__wait(&config->phase, PNX_CONFIG_THREAD_RUNNING, &config->env, until);
}

static void thread_run(void *arg) {
    struct pnx_config *config = arg;
    const struct pnx_thread *self = pnx__thread();
    /* relaxed: only this thread asks whether it is this thread */
    pnx_store(&config->thread_id, self ? self->id : 0, PNX_RELAXED, "config.thread_id");
    while (phase_of(config) == PNX_CONFIG_THREAD_PARKED)
        (void)pnx__futex_wait(&config->phase, PNX_CONFIG_THREAD_PARKED, PNX_NEVER);
    while (phase_of(config) == PNX_CONFIG_THREAD_RUNNING) {
        bool busy;
        pnx_ns next = tick(config, pnx__now(&config->env), &busy);
        sleep_until(config, next, busy);
    }
    drop(config);
}

static bool on_own_thread(const struct pnx_config *config) {
    const struct pnx_thread *self = pnx__thread();
    return self && self->id == pnx_load(&config->thread_id, PNX_RELAXED, "config.own_thread");
}

static int start_thread(struct pnx_config *config, struct pnx_error *err) {
    if (!(config->flags & PNX_CONFIG_THREAD) || (config->flags & PNX_CONFIG_NO_WATCH))
        return 0;
    take(config);
    int rc = pnx__thread_start("pnx-config", thread_run, config, &config->thread);
    if (rc == 0)
        return 0;
    drop(config);
    return pnx__fail(err, rc, rc, "thread", "%s: no thread can be started", config->name);
}

static void start_running(struct pnx_config *config) {
    uint32_t parked = PNX_CONFIG_THREAD_PARKED; /* unless a shutdown was faster */
    /* release: pairs with config.phase */
    (void)pnx_cas(&config->phase, &parked, PNX_CONFIG_THREAD_RUNNING, PNX_RELEASE, "config.run");
    pnx__futex_wake(&config->phase, 1);
}

static void stop_running(struct pnx_config *config) {
    /* release: pairs with config.phase */
    pnx_store(&config->phase, PNX_CONFIG_THREAD_STOPPED, PNX_RELEASE, "config.stop");
    pnx__futex_wake(&config->phase, 1);
    /* A child shares the descriptor: its signal would wake the parent's thread, for ever. */
    if (config->stop_fd >= 0 && !pnx__config_forked(config))
        pnx__eventfd_set(config->stop_fd);
}

/* ---- making ---- */

static int make_absolute(
        const struct pnx_env *env, const char *path, struct pnx_error *err, char **ret_path) {
    char buf[PNX_WATCH_PATH_MAX] = "";
    size_t n = 0;
    if (path[0] != '/') {
        int rc = pnx__os_getcwd(buf, sizeof(buf));
        if (rc)
            return pnx__fail(
                    err, rc, rc, "open", "%.64s: the working directory is not known", path);
        n = strlen(buf);
        if (n > 1)
            buf[n++] = '/';
    }
    if (strlen(path) >= sizeof(buf) - n)
        return pnx__fail_field(err, -ENAMETOOLONG, "path", "config.path has %zu bytes; at most %d",
                strlen(path), PNX_WATCH_PATH_MAX - 1);
    memcpy(buf + n, path, strlen(path) + 1);
    *ret_path = pnx__strdup(env, buf);
    return *ret_path ? 0 : pnx__fail(err, -ENOMEM, 0, "create", "config: out of memory");
}

static int cleanup(void *arg, const struct pnx_cancel *cancel);

static int add_row(
        struct pnx_config *config, const struct pnx_config_opts *opts, struct pnx_error *err) {
    if (opts->registry == pnx_registry_off())
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "config",
            .name = config->name,
            .site = opts->site,
            .cleanup = cleanup,
            .arg = config,
            .bytes = sizeof(*config),
    };
    struct pnx_registry *registry = pnx_registry_ref(opts->registry);
    int rc = pnx_registry_add(registry, &resource, err, &config->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        config->registry = registry;
    return rc;
}

static void copy_options(struct pnx_config *config, const struct pnx_config_opts *opts) {
    config->parse = opts->parse;
    config->validate = opts->validate;
    config->on_change = opts->on_change;
    config->ctx = opts->ctx;
    config->debounce_ns = opts->debounce_ns;
    config->poll_ns = opts->poll_ns;
    config->max_bytes = opts->max_bytes;
    config->flags = opts->flags;
    config->generation = pnx__fork_generation();
    config->seed = config->env.random(config->env.ctx);
    config->status.size = sizeof(config->status);
    size_t n = strlen(config->path), room = sizeof(config->prefix) - 1;
    snprintf(config->prefix, sizeof(config->prefix), "%s%s", n > room ? "..." : "",
            n > room ? config->path + n - (room - 3) : config->path);
}

static void open_watch(struct pnx_config *config) {
    bool watches = !(config->flags & (PNX_CONFIG_POLL | PNX_CONFIG_NO_WATCH));
    if (config->flags & PNX_CONFIG_THREAD)
        config->stop_fd = pnx__eventfd_open();
    int rc = 0;
    if (watches && (config->flags & PNX_CONFIG_THREAD) && config->stop_fd < 0)
        rc = config->stop_fd; /* the thread could not be woken out of a poll: it waits on a word, and polls */
    else if (watches)
        rc = pnx__watcher_open(&config->watcher, config->path);
    if (config->stop_fd < 0)
        config->stop_fd = -1;
    config->watch_error = rc; /* refresh_watch() makes it known */
}

static int fill(
        struct pnx_config *config, const struct pnx_config_opts *opts, struct pnx_error *err) {
    const struct pnx_env *env = &config->env;
    void *value = NULL;
    config->name = pnx__strdup(env, opts->name ? opts->name : "config");
    if (!config->name)
        return pnx__fail(err, -ENOMEM, 0, "create", "config: out of memory");
    int rc = make_absolute(env, opts->path, err, &config->path);
    if (rc)
        return rc;
    copy_options(config, opts);
    open_watch(config);
    rc = pnx__config_first(config, err, &value);
    if (rc)
        return rc;
    rc = pnx_snapshot_create(value,
            PNX_SNAPSHOT_OPTS(.name = config->name, .env = env, .registry = pnx_registry_off(),
                    .stats = pnx_stats_off()),
            err, &config->values);
    pnx_rc_unref(value);
    if (rc)
        return rc;
    pnx__config_stats_init(&config->block, config->name, &config->counts, NULL);
    pnx__stats_add(opts->stats, &config->block);
    rc = add_row(config, opts, err);
    return rc ? rc : start_thread(config, err);
}

int pnx_config_create(
        const struct pnx_config_opts *user, struct pnx_error *err, struct pnx_config **ret_config) {
    struct pnx_config_opts opts;
    struct pnx_env env;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc)
        return rc;
    if (!ret_config)
        return pnx__fail_field(err, -EINVAL, "ret_config", "config: ret_config is NULL");
    struct pnx_config *config = pnx__alloc(&env, 1, sizeof(*config));
    if (!config)
        return pnx__fail(err, -ENOMEM, 0, "create", "config: out of memory");
    config->magic = PNX_CONFIG_MAGIC;
    config->env = env;
    config->watcher.fd = -1;
    config->stop_fd = -1;
    pnx__mutex_init(&config->lock, PNX_RANK_CONFIG);
    pnx_store(&config->references, 1, PNX_RELAXED, "config.create"); /* nobody else knows it yet */
    rc = fill(config, &opts, err);
    if (rc) {
        pnx_config_release(&config);
        return rc;
    }
    *ret_config = config;
    start_running(config); /* only now may on_change come */
    return 0;
}

/* ---- ending ---- */

/* No callback begins after this. */
static void refuse_more(struct pnx_config *config) {
    pnx__mutex_lock(&config->lock);
    config->closed = true;
    config->status.watch = PNX_CONFIG_WATCH_NONE;
    pnx_store(&config->counts.polling, 0, PNX_RELAXED, "config.closed"); /* the lock */
    pnx__mutex_unlock(&config->lock);
    pnx_snapshot_close(config->values);
    stop_running(config);
}

/*
 * P3: who owns the latch may be inside a callback.  false when that callback must not be waited for: it waits,
 * over other configs or cells, for one that this thread is in.
 */
static bool wait_for_callbacks(struct pnx_config *config) {
    int rc = pnx__latch_acquire(&config->busy, &config->env, PNX_NEVER);
    if (rc == 0)
        pnx__latch_release(&config->busy);
    return rc != -EDEADLK;
}

/* Does not join the thread, which may be waiting in a release for this cleanup; it ends by itself. */
static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    refuse_more(arg);
    (void)wait_for_callbacks(arg);
    return 0;
}

/* joinable: no callback on it waits for this thread. */
static void end_thread(struct pnx_config *config, bool joinable) {
    if (!config->thread)
        return;
    if (pnx__config_forked(config))
        config->thread = NULL; /* it exists only in the parent */
    else if (!joinable || on_own_thread(config))
        pnx__thread_detach(&config->thread);
    else
        pnx__thread_join(&config->thread); /* it waits for no latch and no lock of the user's now */
}

/* The rest of a release, with the latch free and no callback of ours above us on this thread. */
static void finish_release(struct pnx_config *config) {
    if (config->registry) {
        (void)pnx_registry_remove(config->registry, config->id); /* waits for a running cleanup */
        pnx_registry_release(&config->registry);
    }
    end_thread(config, wait_for_callbacks(config));
    drop(config);
}

void pnx_config_release(struct pnx_config **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_config *config = *handle;
    *handle = NULL;
    check(config);
    refuse_more(config);
    if (pnx__latch_mine(&config->busy)) {
        pnx__mutex_lock(&config->lock);
        config->released = true;
        pnx__mutex_unlock(&config->lock);
        return;
    }
    finish_release(config);
}

/* ---- using ---- */

const void *pnx_config_load(struct pnx_config *config, uint64_t *ret_version) {
    check(config);
    return pnx_snapshot_load(config->values, ret_version);
}

uint64_t pnx_config_version(const struct pnx_config *config) {
    check(config);
    return pnx_snapshot_version(config->values);
}

int pnx_config_wait(struct pnx_config *config, uint64_t seen, pnx_ns timeout) {
    check(config);
    return pnx_snapshot_wait(config->values, seen, timeout);
}

static int reload(struct pnx_config *config, struct pnx_error *err) {
    pnx_ns deadline = pnx__deadline(pnx__now(&config->env), RELOAD_WAIT);
    int rc = pnx__latch_acquire(&config->busy, &config->env, deadline);
    if (rc == -EDEADLK)
        return pnx__fail(err, rc, 0, "wait", "%s: a reload from inside a callback", config->name);
    if (rc == -ETIMEDOUT)
        return pnx__fail(err, rc, 0, "wait", "%s: the reload under way does not end", config->name);
    if (rc)
        return pnx__fail(err, rc, 0, "wait", "%s: out of memory", config->name);
    if (is_closed(config))
        rc = pnx__fail(err, -ESHUTDOWN, 0, "wait", "%s: closed", config->name);
    else
        rc = pnx__config_load_owned(config, pnx__now(&config->env), false, err);
    leave(config);
    return rc;
}

int pnx_config_reload(struct pnx_config *config, struct pnx_error *err) {
    if (!config)
        return pnx__fail_field(err, -EINVAL, "config", "config: config is NULL");
    check(config);
    take(config); /* a callback may release it */
    int rc = reload(config, err);
    drop(config);
    return rc;
}

int pnx_config_fd(const struct pnx_config *config) {
    check(config);
    bool own = config->flags & PNX_CONFIG_THREAD;
    return own || config->watcher.fd < 0 ? -ENOTSUP : config->watcher.fd;
}

pnx_ns pnx_config_tick(struct pnx_config *config, pnx_ns now) {
    check(config);
    if (config->flags & PNX_CONFIG_THREAD)
        return PNX_NEVER;
    bool busy;
    take(config); /* a callback may release it */
    pnx_ns next = tick(config, now, &busy);
    drop(config);
    return next;
}

int pnx_config_read_status(const struct pnx_config *config, struct pnx_config_status *ret_status) {
    struct pnx_config_status status;
    if (!config || !ret_status || ret_status->size < sizeof(size_t))
        return -EINVAL;
    check(config);
    struct pnx_mutex *lock = &((struct pnx_config *)(uintptr_t)config)->lock;
    pnx__mutex_lock(lock);
    status = config->status;
    pnx__mutex_unlock(lock);
    status.size = ret_status->size < sizeof(status) ? ret_status->size : sizeof(status);
    memcpy(ret_status, &status, status.size);
    return 0;
}

int pnx_config_read_stats(const struct pnx_config *config, struct pnx_config_stats *ret_stats) {
    struct pnx_config_stats stats = {0};
    if (!config || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    check(config);
    static_assert(sizeof(stats) == sizeof(size_t) + sizeof(config->counts), "one row, one word");
    pnx__stats_read(&config->block, &stats.version);
    stats.size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    memcpy(ret_stats, &stats, stats.size);
    return 0;
}

int pnx_config_fail(struct pnx_error *err, int code, const char *format, ...) {
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    if (vsnprintf(err->message, sizeof(err->message), format, args) < 0)
        err->message[0] = '\0';
    va_end(args);
    err->code = code;
    return code;
}
