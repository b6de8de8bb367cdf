/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/config.c - a snapshot that is fed from a file, or anywhere: making it and ending it.
 *
 * Sits on the snapshot, the latch and the watcher; share/config.h says which file does what.
 *
 *     OPEN --close (release, shutdown)--> CLOSED: no callback runs, waiters got -ESHUTDOWN, loads go on
 *
 * Guarantees P1..P10 stand in patinox/config.h; P3 is kept here.
 */
#include "share/config.h"

#include "os/fork.h"
#include "os/notify.h"
#include "share/check.h"
#include "share/reclaim.h"
#include "share/snapshot.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

void pnx__config_check(const struct pnx_config *config) {
    (void)config;
    PNX_DEBUG_CHECK(
            config && config->magic == PNX_CONFIG_MAGIC); /* else: no config, or not any more */
    PNX_DEBUG_CHECK(pnx_load(&config->references, PNX_RELAXED, "config.debug") != 0);
}

void pnx__config_take(struct pnx_config *config) {
    pnx_fetch_add(&config->references, 1, PNX_RELAXED, "config.take"); /* the caller holds one */
}

/* ---- fork: the child finds each config's state in one piece, and its lock free ---- */

static struct pnx_mutex configs_lock = PNX_MUTEX_STATIC(PNX_RANK_CONFIGS);
static struct pnx_link configs = {&configs, &configs};

static void fork_prepare(void) {
    pnx__fork_lock(&configs_lock);
    PNX_LIST_EACH (link, after, &configs)
        pnx__fork_lock(&PNX_CONTAINER(link, struct pnx_config, link)->lock);
}

static void after_fork(void) {
    PNX_LIST_EACH (link, after, &configs)
        pnx__fork_unlock(&PNX_CONTAINER(link, struct pnx_config, link)->lock);
    pnx__fork_unlock(&configs_lock);
}

static void register_fork(void) {
    pnx__at_fork(PNX_RANK_CONFIG, fork_prepare, after_fork, after_fork);
}

static void join_list(struct pnx_config *config) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork);
    pnx__mutex_lock(&configs_lock);
    pnx__list_push_back(&configs, &config->link);
    pnx__mutex_unlock(&configs_lock);
}

static void leave_list(struct pnx_config *config) {
    pnx__mutex_lock(&configs_lock);
    pnx__list_remove(&config->link);
    pnx__mutex_unlock(&configs_lock);
}

/* ---- holders ---- */

static void free_config(struct pnx_config *config) {
    struct pnx_env env = config->env;
    leave_list(config);
    if (config->registry)
        pnx_registry_release(&config->registry);
    pnx__stats_remove(&config->block);
    pnx_snapshot_release(&config->values);
    pnx__config_record_free(config, config->rollout.candidate);
    for (uint32_t i = 0; i < config->history_n; i++)
        pnx__config_record_free(config, config->history[i]);
    pnx__free(&env, config->history, config->history_room, sizeof(struct pnx_config_record *));
    pnx__eventfd_close(&config->loop_fd);
    pnx__watcher_close(&config->watcher);
    pnx__eventfd_close(&config->wake_fd);
    pnx__mutex_destroy(&config->lock);
    pnx__strfree(&env, config->env_prefix);
    pnx__strfree(&env, config->path);
    pnx__strfree(&env, config->name);
    config->magic = 0;
    pnx__free(&env, config, 1, sizeof(*config));
}

void pnx__config_drop(struct pnx_config *config) {
    /* acq_rel: pairs with itself; all that other holders did comes before the freeing */
    if (pnx_fetch_sub(&config->references, 1, PNX_ACQ_REL, "config.drop") == 1)
        free_config(config);
}

bool pnx__config_closed(struct pnx_config *config) {
    pnx__mutex_lock(&config->lock);
    bool closed = config->closed;
    pnx__mutex_unlock(&config->lock);
    return closed;
}

/* ---- making ---- */

static int make_absolute(
        const struct pnx_env *env, const char *path, struct pnx_error *err, char **ret_path) {
    char buf[PNX_WATCH_PATH_MAX] = "";
    size_t n = 0;
    if (!pnx__os_path_is_absolute(path)) {
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
            .parent =
                    config->values->id, /* the cell, which a config needs as long as it publishes */
            .bytes = sizeof(*config),
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    struct pnx_registry *registry = pnx_registry_ref(opts->registry);
    int rc = pnx_registry_add(registry, &resource, err, &config->id);
    if (rc == -EINVAL) /* a shutdown has ended the cell meanwhile */
        rc = pnx__fail(err, -ESHUTDOWN, 0, "create", "%s: the registry is shut down", config->name);
    if (rc)
        pnx_registry_release(&registry);
    else
        config->registry = registry;
    return rc;
}

static void copy_options(struct pnx_config *config, const struct pnx_config_opts *opts) {
    config->opts = *opts;
    config->opts.name = config->opts.site = config->opts.path = NULL; /* the user's */
    if (opts->stages_count)
        memcpy(config->stages, opts->stages, opts->stages_count * sizeof(config->stages[0]));
    config->opts.stages = config->stages;
    config->generation = pnx__fork_generation();
    config->seed = config->env.random(config->env.ctx);
    config->status.size = sizeof(config->status);
    const char *what = config->path ? config->path : config->name;
    size_t n = strlen(what), room = sizeof(config->prefix) - 1;
    snprintf(config->prefix, sizeof(config->prefix), "%s%s", n > room ? "..." : "",
            n > room ? what + n - (room - 3) : what);
}

static void open_wake(struct pnx_config *config) {
    if (pnx__config_wakes(&config->opts))
        config->wake_fd = pnx__eventfd_open(); /* -errno until open_watch() has seen it */
}

/* What an event loop polls when there are two that may wake it. */
static void open_loop(struct pnx_config *config) {
    const int fds[] = {config->watcher.fd, config->wake_fd};
    if ((config->opts.flags & PNX_CONFIG_THREAD) || !pnx__config_wakes(&config->opts))
        return;
    if (config->wake_fd >= 0 && config->watcher.fd >= 0)
        config->loop_fd = pnx__either_open(fds, 2);
    config->deaf = config->wake_fd < 0 || config->loop_fd < -1;
}

static void open_watch(struct pnx_config *config) {
    uint32_t flags = config->opts.flags;
    bool watches = !(flags & (PNX_CONFIG_POLL | PNX_CONFIG_NO_WATCH)) && !config->opts.source;
    open_wake(config);
    int rc = 0;
    if (watches && (flags & PNX_CONFIG_THREAD) && config->wake_fd < 0)
        rc = config->wake_fd; /* the thread could not be woken out of a poll: it waits on a word, and polls */
    else if (watches)
        rc = pnx__watcher_open(&config->watcher, config->path);
    config->watch_error = rc; /* refresh_watch() makes it known */
    open_loop(config);
    if (config->wake_fd < 0)
        config->wake_fd = -1;
    if (config->loop_fd < 0)
        config->loop_fd = -1;
}

static int copy_strings(
        struct pnx_config *config, const struct pnx_config_opts *opts, struct pnx_error *err) {
    const struct pnx_env *env = &config->env;
    config->name = pnx__strdup(env, opts->name ? opts->name : "config");
    if (opts->env_prefix)
        config->env_prefix = pnx__strdup(env, opts->env_prefix);
    bool keeps = !(opts->flags & PNX_CONFIG_NO_HISTORY);
    config->history_room = 1 + (keeps ? opts->history : 0);
    config->history = pnx__alloc(env, config->history_room, sizeof(struct pnx_config_record *));
    if (!config->name || !config->history || (opts->env_prefix && !config->env_prefix))
        return pnx__fail(err, -ENOMEM, 0, "create", "config: out of memory");
    return opts->path ? make_absolute(env, opts->path, err, &config->path) : 0;
}

/* Reads the first value and makes the cell of it. */
static int load_first(
        struct pnx_config *config, const struct pnx_config_opts *opts, struct pnx_error *err) {
    struct pnx_config_record *record = NULL;
    int rc = pnx__config_first(config, err, &record);
    if (rc)
        return rc;
    const struct pnx_snapshot_opts cell = {
            .size = sizeof(cell),
            .name = config->name,
            .site = opts->site,
            .env = &config->env,
            .registry = opts->registry,
            .stats = pnx_stats_off(), /* the config's numbers tell all of it */
    };
    rc = pnx_snapshot_create(record->value, &cell, err, &config->values);
    if (rc)
        pnx__config_record_free(config, record);
    else
        pnx__config_publish_first(config, pnx__now(&config->env), record);
    return rc;
}

static int fill(
        struct pnx_config *config, const struct pnx_config_opts *opts, struct pnx_error *err) {
    int rc = copy_strings(config, opts, err);
    if (rc)
        return rc;
    copy_options(config, opts);
    open_watch(config);
    rc = load_first(config, opts, err);
    if (rc)
        return rc;
    pnx__config_stats_init(&config->block, config->name, &config->counts, NULL);
    pnx__stats_add(opts->stats, &config->block);
    rc = add_row(config, opts, err);
    return rc ? rc : pnx__config_start_thread(config, err);
}

int pnx_config_create(
        const struct pnx_config_opts *user, struct pnx_error *err, struct pnx_config **ret_config) {
    struct pnx_config_opts opts;
    struct pnx_env env;
    int rc = pnx__config_options(user, err, &opts);
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
    config->watcher.fd = config->wake_fd = config->loop_fd = -1;
    config->retry_at = PNX_NEVER;
    pnx__mutex_init(&config->lock, PNX_RANK_CONFIG);
    join_list(config);
    pnx_store(&config->references, 1, PNX_RELAXED, "config.create"); /* nobody else knows it yet */
    rc = fill(config, &opts, err);
    if (rc) {
        pnx_config_release(&config);
        return rc;
    }
    *ret_config = config;
    pnx__config_run_thread(config); /* only now may on_change come */
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
    struct pnx_error why;
    pnx__fail(&why, -ESHUTDOWN, 0, "closed", "%s: closed", config->name);
    (void)pnx__config_rollout_detach(config, 0, &why, false);
    pnx_snapshot_close(config->values);
    pnx__config_stop_thread(config);
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
    else if (!joinable || pnx__config_on_own_thread(config))
        pnx__thread_detach(&config->thread);
    else
        pnx__thread_join(&config->thread); /* it waits for no latch and no lock of the user's now */
}

/* The rest of a release, with the latch free and no callback of ours above us on this thread. */
void pnx__config_finish_release(struct pnx_config *config) {
    if (config->registry)
        (void)pnx_registry_remove(config->registry, config->id); /* waits for a running cleanup */
    end_thread(config, wait_for_callbacks(config));
    pnx__config_drop(config);
}

void pnx_config_release(struct pnx_config **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_config *config = *handle;
    *handle = NULL;
    pnx__config_check(config);
    refuse_more(config);
    bool inside = pnx__latch_mine(&config->busy);
    if (!inside && !pnx__reclaim_in_any()) {
        pnx__config_finish_release(config);
        return;
    }
    /* Whoever owns the latch finishes it; in a section that may be nobody. */
    pnx__config_take(config);
    pnx__mutex_lock(&config->lock);
    config->released = true;
    pnx__mutex_unlock(&config->lock);
    if (!inside)
        pnx__config_settle_soon(config);
    pnx__config_drop(config);
}
