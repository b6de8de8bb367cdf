/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - a generation, a pool of connections to it, a cache of answers, one budget: made, changed, ended.
 *
 * The guarantees stand in store.h; searching is in search.c, building the index in rebuild.c.
 */
#include "store.h"

#include "store_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES_DEFAULT  (UINT64_C(16) << 20)
#define TOTAL_BYTES_DEFAULT (UINT64_C(4) << 30)
#define FILES_DEFAULT       UINT64_C(1000000)

/* ---- opening ---- */

static int open_dirs(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    int rc = lookup_disk_mkdir(opts->data_dir, true, err);
    if (rc)
        return rc;
    store->data_dir = realpath(opts->data_dir, NULL);
    if (!store->data_dir)
        return lookup_disk_fail(err, errno, opts->data_dir, "cannot resolve");
    if (access(store->data_dir, R_OK | W_OK | X_OK) != 0)
        return lookup_disk_fail(err, errno, store->data_dir, "cannot be written to");
    return lookup_disk_lock(store->data_dir, err, &store->lock_fd);
}

static int open_budget(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    return pnx_budget_create(
            PNX_BUDGET_OPTS(.name = "lookup", .parent = opts->budget, .env = opts->env,
                    .registry = opts->registry, .stats = opts->stats,
                    .hard = (size_t)store->settings.budget_bytes),
            err, &store->budget);
}

static int open_generation(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    struct lookup_generation_opts work = {0};
    struct lookup_generation *generation = NULL;
    int rc = lookup_index_get(store, opts->progress, opts->progress_ctx, &work, err, &generation);
    if (!rc)
        lookup_index_put_in_force(store, generation);
    return rc;
}

/* One thread, and one job at most: who finds that it runs already has nothing to ask for. */
static int open_executor(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    return pnx_executor_create(
            PNX_EXECUTOR_OPTS(.name = "index", .env = store->env_or_null,
                    .registry = opts->registry, .stats = opts->stats, .budget = store->budget,
                    .workers = 1, .max_workers = 1, .queue_max = 1, .on_full = PNX_EXECUTOR_REJECT),
            err, &store->executor);
}

/* What does not fit in is tried again when it is asked for the next time: a lookup must never wait for this. */
static int open_refresher(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    return pnx_executor_create(PNX_EXECUTOR_OPTS(.name = "refresh", .env = store->env_or_null,
                                       .registry = opts->registry, .stats = opts->stats,
                                       .budget = store->budget, .workers = 1, .max_workers = 2,
                                       .queue_max = 64, .on_full = PNX_EXECUTOR_REJECT),
            err, &store->refresher);
}

static int open_pool(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    const struct pnx_sqlite *source = store->generation->source;
    return pnx_pool_create(lookup_connection_manager(),
            PNX_POOL_OPTS(.name = "lookup", .ctx = store, .env = store->env_or_null,
                    .registry = opts->registry, .stats = opts->stats, .budget = store->budget,
                    .resource_bytes = pnx_sqlite_connection_bytes(source),
                    .max = store->settings.pool_max),
            err, &store->pool);
}

static int open_cache(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    return pnx_cache_create(
            PNX_CACHE_OPTS(.name = "lookup", .env = store->env_or_null, .registry = opts->registry,
                    .stats = opts->stats, .budget = store->budget,
                    .capacity = (size_t)store->settings.cache_bytes,
                    .ttl = store->settings.cache_ttl_ns, .executor = store->refresher,
                    .refresh_loader = lookup_search_again, .refresh_ctx = store),
            err, &store->cache);
}

/* Lets all parts go, the last first.  The store is closed, and nobody is inside a call. */
static void release_parts(struct lookup_store *store) {
    pnx_executor_release(&store->executor);
    /* The cache is closed: refreshes that run have seen that, or are about to; they must be over before it goes. */
    if (store->refresher)
        (void)pnx_executor_close(store->refresher, PNX_NEVER, NULL);
    pnx_cache_release(&store->cache);
    pnx_executor_release(&store->refresher);
    pnx_pool_release(&store->pool);
    lookup_generation_release(&store->generation);
    pnx_budget_release(&store->budget);
}

/*
 * The registry's shutdown: the store is younger than its parts, so it is ended before them, and takes them along:
 * what is borrowed from it still shows as leaked, and nothing else does.
 */
static int on_shutdown(void *arg, const struct pnx_cancel *cancel) {
    struct lookup_store *store = arg;
    if (lookup_store_close(store, pnx_cancel_remaining(cancel)) != 0)
        return -ETIMEDOUT;
    release_parts(store);
    return 0;
}

static int add_row(struct lookup_store *store, struct pnx_error *err) {
    struct pnx_registry *registry = store->registry ? store->registry : pnx_registry_default();
    struct pnx_resource row = {
            .size = sizeof(row),
            .type = "lookup store",
            .name = store->data_dir,
            .site = PNX_SITE,
            .cleanup = on_shutdown,
            .arg = store,
            .bytes = sizeof(*store),
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    return pnx_registry_add(registry, &row, err, &store->row);
}

static int open_parts(
        struct lookup_store *store, const struct lookup_store_opts *opts, struct pnx_error *err) {
    int rc = open_dirs(store, opts, err);
    if (!rc)
        rc = open_budget(store, opts, err);
    if (!rc)
        rc = open_generation(store, opts, err);
    if (!rc)
        rc = open_pool(store, opts, err);
    if (!rc)
        rc = open_refresher(store, opts, err);
    if (!rc)
        rc = open_cache(store, opts, err);
    if (!rc)
        rc = open_executor(store, opts, err);
    if (rc)
        return rc;
    /* The last step: from here on a shutdown may end the store at any time. */
    return add_row(store, err);
}

static void report_ready(const struct lookup_store *store, const struct lookup_store_opts *opts) {
    const struct lookup_store_info *opened = &store->opened;
    struct lookup_progress progress = {
            .phase = LOOKUP_PHASE_READY,
            .files_done = opened->files,
            .files_total = opened->files,
            .skipped = opened->files - opened->documents,
    };
    /* It is open: nobody can cancel it any more. */
    if (opts->progress)
        (void)opts->progress(opts->progress_ctx, &progress);
}

/* Copies the options, with defaults for what is zero. */
static int take_opts(struct lookup_store *store, const struct lookup_store_opts *user,
        struct pnx_error *err, struct lookup_store_opts *ret_opts) {
    struct lookup_store_opts opts = *user;
    if (opts.env) {
        store->env = *opts.env;
        store->env_or_null = &store->env;
        opts.env = &store->env;
    }
    store->registry = opts.registry;
    store->stats = opts.stats;
    if (opts.settings)
        store->settings = *opts.settings;
    else
        lookup_settings_default(&store->settings);
    opts.max_file_bytes = opts.max_file_bytes ? opts.max_file_bytes : FILE_BYTES_DEFAULT;
    opts.max_total_bytes = opts.max_total_bytes ? opts.max_total_bytes : TOTAL_BYTES_DEFAULT;
    store->max_file_bytes = opts.max_file_bytes;
    store->max_total_bytes = opts.max_total_bytes;
    store->max_files = opts.max_files ? opts.max_files : FILES_DEFAULT;
    store->corpus = strdup(opts.corpus);
    if (!store->corpus)
        return lookup_fail(err, -ENOMEM, "options", "no memory");
    if (opts.max_file_bytes > INT32_MAX / 4)
        return lookup_fail(err, -EINVAL, "options", "max_file_bytes is more than 512 MiB");
    atomic_store_explicit(
            &store->search_timeout, store->settings.search_timeout_ns, memory_order_relaxed);
    atomic_store_explicit(
            &store->cache_refresh, store->settings.cache_refresh_ns, memory_order_relaxed);
    atomic_store_explicit(&store->cache_negative_ttl, store->settings.cache_negative_ttl_ns,
            memory_order_relaxed);
    *ret_opts = opts;
    return lookup_settings_check(&store->settings, err);
}

int lookup_store_open(const struct lookup_store_opts *user, struct pnx_error *err,
        struct lookup_store **ret_store) {
    if (!user || !user->corpus || !user->data_dir || !user->corpus[0] || !user->data_dir[0])
        return lookup_fail(err, -EINVAL, "options", "corpus and data_dir are required");
    struct lookup_store *store = calloc(1, sizeof(*store));
    if (!store)
        return lookup_fail(err, -ENOMEM, "open", "no memory");
    store->lock_fd = -1;
    pthread_mutex_init(&store->mutex, NULL);
    pthread_mutex_init(&store->applying, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&store->left, &monotonic);
    pthread_condattr_destroy(&monotonic);
    struct lookup_store_opts opts = {0};
    int rc = take_opts(store, user, err, &opts);
    if (!rc)
        rc = open_parts(store, &opts, err);
    if (rc) {
        lookup_store_release(&store);
        return rc;
    }
    report_ready(store, &opts);
    *ret_store = store;
    return 0;
}

/* ---- ending ---- */

/*
 * Who is inside and whether the store is closed are one word: so either a call sees that it is closed and does not
 * enter, or closing sees the call and waits for the last of them, who says so under the mutex.
 */
int lookup_store_enter(struct lookup_store *store, struct pnx_error *err) {
    uint64_t callers = atomic_load(&store->callers);
    do {
        if (callers & LOOKUP_CLOSED)
            return lookup_fail(err, -ESHUTDOWN, "closed", "the store is closed");
    } while (!atomic_compare_exchange_weak(&store->callers, &callers, callers + 1));
    return 0;
}

static void say_all_left(struct lookup_store *store) {
    pthread_mutex_lock(&store->mutex);
    store->all_left = true;
    pthread_cond_broadcast(&store->left);
    pthread_mutex_unlock(&store->mutex);
}

void lookup_store_leave(struct lookup_store *store) {
    /* Any but the last touches the store no more: it may be gone.  The last is waited for until it has said so. */
    if (atomic_fetch_sub(&store->callers, 1) == (LOOKUP_CLOSED | 1))
        say_all_left(store);
}

/* Lets nobody in any more. */
static void shut(struct lookup_store *store) {
    if (atomic_fetch_or(&store->callers, LOOKUP_CLOSED) == 0)
        say_all_left(store);
}

/* Waits until nobody is inside.  Returns 0 then, or 1 when the deadline came first. */
static int wait_for_callers(struct lookup_store *store, pnx_ns deadline) {
    struct timespec until = {.tv_sec = deadline / PNX_SEC, .tv_nsec = deadline % PNX_SEC};
    int error = 0;
    pthread_mutex_lock(&store->mutex);
    while (!store->all_left && !error)
        error = deadline == PNX_NEVER ? pthread_cond_wait(&store->left, &store->mutex)
                                      : pthread_cond_timedwait(&store->left, &store->mutex, &until);
    int n = store->all_left ? 0 : 1;
    pthread_mutex_unlock(&store->mutex);
    return n;
}

int lookup_store_close(struct lookup_store *store, pnx_ns timeout) {
    pnx_ns now = pnx_now();
    pnx_ns deadline = timeout >= PNX_NEVER - now ? PNX_NEVER : now + timeout;
    shut(store);
    if (store->cache)
        (void)pnx_cache_close(store->cache);
    int out = store->pool ? pnx_pool_close(store->pool, timeout) : 0;
    int inside = wait_for_callers(store, deadline);
    return out > inside ? out : inside;
}

void lookup_store_release(struct lookup_store **store) {
    if (!store || !*store)
        return;
    struct lookup_store *gone = *store;
    *store = NULL;
    if (gone->row)
        (void)pnx_registry_remove(
                gone->registry ? gone->registry : pnx_registry_default(), gone->row);
    /* Connections that still run a search use the source: wait for them, their searches have deadlines. */
    (void)lookup_store_close(gone, PNX_NEVER);
    release_parts(gone);
    if (gone->lock_fd >= 0)
        close(gone->lock_fd);
    pthread_mutex_destroy(&gone->applying);
    pthread_cond_destroy(&gone->left);
    pthread_mutex_destroy(&gone->mutex);
    free(gone->corpus);
    free(gone->data_dir);
    free(gone);
}

/* ---- settings ---- */

static int apply_locked(
        struct lookup_store *store, const struct lookup_settings *next, struct pnx_error *err) {
    const struct lookup_settings *now = &store->settings;
    size_t hard = (size_t)next->budget_bytes;
    int rc = pnx_pool_resize(store->pool, next->pool_max, err);
    if (rc)
        return rc;
    rc = pnx_cache_resize(store->cache, (size_t)next->cache_bytes, 0, err);
    if (!rc)
        rc = pnx_cache_set_ttl(store->cache, next->cache_ttl_ns, err);
    if (!rc)
        rc = pnx_budget_set_limits(store->budget, hard / 8 * 7, hard);
    if (rc) {
        /* Back to what was in force; growing back cannot fail in a way that matters more than rc. */
        (void)!pnx_pool_resize(store->pool, now->pool_max, NULL);
        (void)!pnx_cache_resize(store->cache, (size_t)now->cache_bytes, 0, NULL);
        (void)!pnx_cache_set_ttl(store->cache, now->cache_ttl_ns, NULL);
        return rc;
    }
    store->settings = *next;
    atomic_store_explicit(&store->search_timeout, next->search_timeout_ns, memory_order_relaxed);
    atomic_store_explicit(&store->cache_refresh, next->cache_refresh_ns, memory_order_relaxed);
    atomic_store_explicit(
            &store->cache_negative_ttl, next->cache_negative_ttl_ns, memory_order_relaxed);
    return 0;
}

int lookup_store_apply(
        struct lookup_store *store, const struct lookup_settings *settings, struct pnx_error *err) {
    int rc = lookup_settings_check(settings, err);
    if (rc)
        return rc;
    rc = lookup_store_enter(store, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&store->applying);
    rc = apply_locked(store, settings, err);
    pthread_mutex_unlock(&store->applying);
    lookup_store_leave(store);
    return rc;
}

/* ---- looking inside ---- */

void lookup_store_info(struct lookup_store *store, struct lookup_store_info *ret_info) {
    pthread_mutex_lock(&store->mutex);
    *ret_info = store->opened;
    pthread_mutex_unlock(&store->mutex);
    uint64_t opening = atomic_load(&store->opening);
    ret_info->stale = atomic_load(&store->stale_opening) == opening && opening > 0;
    ret_info->stale_requests = atomic_load(&store->stale_requests);
    ret_info->rebuilds = atomic_load(&store->rebuilds);
    ret_info->rebuild_failures = atomic_load(&store->rebuild_failures);
    ret_info->searches = atomic_load_explicit(&store->searches, memory_order_relaxed);
    ret_info->database_reads = atomic_load_explicit(&store->database_reads, memory_order_relaxed);
}

struct pnx_pool *lookup_store_pool(struct lookup_store *store) {
    return store->pool;
}

struct pnx_cache *lookup_store_cache(struct lookup_store *store) {
    return store->cache;
}

struct pnx_budget *lookup_store_budget(struct lookup_store *store) {
    return store->budget;
}
