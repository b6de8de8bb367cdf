/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/cache.c - making, closing and releasing a cache; its options.
 *
 *     (none) --create--> OPEN --close, shutdown, release--> CLOSED --release and last reference--> (freed)
 *
 *   P1  A create that fails leaves nothing: no row, no block, no reclaimer, no charge.
 *   P2  After close has returned, nothing is stored, and nothing can be again.
 *   P3  The memory of a cache lives until its maker and every reference have let go.
 */
#include "cache/internal.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/options.h"

#include <assert.h>

#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_cache_opts, __VA_ARGS__)
static const struct pnx_opt option_rows[] = {
#include "cache/cache_opts.def"
};
#undef PNX_OPTION

static const struct pnx_opt_table option_table = {
        .what = "cache",
        .size = sizeof(struct pnx_cache_opts),
        .rows = option_rows,
        .count = sizeof(option_rows) / sizeof(option_rows[0]),
};
static_assert(sizeof(struct pnx_cache_opts) <= PNX_OPTS_MAX_SIZE, "the checker has room for it");
static_assert(sizeof(struct pnx_cache_opts) == 10 * sizeof(void *) + 4 * 8 + 2 * 4, "no padding");

int pnx__cache_opts_resolve(
        const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache_opts *ret_opts) {
    struct pnx_cache_opts resolved = {.size = sizeof(resolved)};
    int rc = pnx__opts_resolve(&option_table, opts, &resolved, err);
    if (rc)
        return rc;
    if (resolved.capacity == 0 && resolved.capacity_entries == 0)
        return pnx__fail_field(
                err, -EINVAL, "capacity", "cache.capacity or cache.capacity_entries is required");
    *ret_opts = resolved;
    return 0;
}

int pnx_cache_opts_set(
        struct pnx_cache_opts *opts, const char *name, const char *text, struct pnx_error *err) {
    if (!opts || !name || !text)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: opts, name and text are required");
    return pnx__opts_set(&option_table, opts, name, text, err);
}

void pnx__cache_limits_locked(struct pnx_cache *cache, size_t capacity, uint64_t capacity_entries) {
    cache->capacity = capacity ? capacity : SIZE_MAX;
    cache->capacity_entries = capacity_entries ? capacity_entries : PNX_CACHE_ENTRIES_MAX;
    pnx_store(&cache->values.capacity, capacity, PNX_RELAXED, "cache.limit"); /* a number */
    pnx_store(&cache->values.capacity_entries, capacity_entries, PNX_RELAXED,
            "cache.limit_entries"); /* a number */
}

/* ---- making ---- */

/* A registry that is shut down ends the cache, whose maker still has to release it. */
static int close_row(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return pnx_cache_close(arg) == 0 ? 0 : -EBUSY;
}

static void init(struct pnx_cache *cache, const struct pnx_cache_opts *opts) {
    cache->magic = PNX_CACHE_MAGIC;
    cache->fork_generation = pnx__fork_generation();
    cache->site = opts->site;
    cache->destroy = opts->destroy;
    cache->ctx = opts->ctx;
    cache->seed = cache->env.random(cache->env.ctx);
    cache->ttl = opts->ttl;
    cache->negative_ttl = opts->negative_ttl;
    cache->load_timeout = opts->load_timeout;
    cache->base_charge = sizeof(*cache) + PNX_CACHE_INDEX_BASE;
    pnx__mutex_init(&cache->lock, PNX_RANK_CACHE);
    pnx__cache_index_init(&cache->index, &pnx__cache_order_lru, cache->policy_state);
    for (size_t i = 0; i < PNX_CACHE_LOAD_BUCKETS; i++)
        pnx__list_init(&cache->loads[i]);
    pnx__cache_limits_locked(cache, opts->capacity, opts->capacity_entries);
    pnx__cache_stats_init(&cache->block, cache->name, &cache->values, &cache->histograms);
}

static int join_budget(struct pnx_cache *cache, struct pnx_budget *budget, struct pnx_error *err) {
    cache->budget = pnx_budget_ref(budget ? budget : pnx_budget_default());
    int rc = pnx_budget_charge(cache->budget, cache->base_charge, 0);
    if (rc) {
        cache->base_charge = 0;
        return pnx__fail(err, rc, rc, "create", "cache \"%.64s\": the budget refused %zu bytes",
                cache->name, sizeof(*cache) + PNX_CACHE_INDEX_BASE);
    }
    const struct pnx_reclaimer reclaimer = {
            .size = sizeof(reclaimer),
            .name = "cache",
            .reclaim = pnx__cache_reclaim,
            .ctx = cache,
    };
    rc = pnx_budget_add_reclaimer(cache->budget, &reclaimer, &cache->reclaimer);
    return rc ? pnx__fail(err, rc, rc, "create", "cache \"%.64s\": adding its reclaimer: %s",
                        cache->name, pnx_strerror(rc))
              : 0;
}

static int join_registry(
        struct pnx_cache *cache, struct pnx_registry *registry, struct pnx_error *err) {
    cache->registry = pnx_registry_ref(registry); /* the remove in release comes after a shutdown */
    return pnx_registry_add(cache->registry,
            &(const struct pnx_resource){
                    .size = sizeof(struct pnx_resource),
                    .type = "cache",
                    .name = cache->name,
                    .site = cache->site,
                    .cleanup = close_row,
                    .arg = cache,
                    .bytes = cache->base_charge,
                    .flags = PNX_RESOURCE_LONG_LIVED,
            },
            err, &cache->row);
}

/* Frees the cache; nobody else knows it (any more). */
static void free_cache(struct pnx_cache *cache) {
    struct pnx_env env = cache->env;
    struct pnx_cache_effects fx = {0};
    pnx__cache_index_drop(&cache->index, &fx.spare);
    pnx__cache_run(cache, &fx);
    if (cache->budget) {
        pnx_budget_uncharge(cache->budget, cache->base_charge);
        pnx_budget_release(&cache->budget);
    }
    pnx_registry_release(&cache->registry);
    pnx__mutex_destroy(&cache->lock);
    pnx__strfree(&env, cache->name);
    cache->magic = 0;
    pnx__free(&env, cache, 1, sizeof(*cache));
}

void pnx__cache_unref(struct pnx_cache *cache) {
    /* Pairs with itself: what other holders did happens before the cache is freed. */
    if (pnx_fetch_sub(&cache->values.pinned, 1, PNX_ACQ_REL, "cache.unpin") == 0)
        free_cache(cache);
}

int pnx_cache_create(
        const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache **ret_cache) {
    struct pnx_cache_opts resolved = {.size = sizeof(resolved)};
    struct pnx_env env;
    if (!ret_cache)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: ret_cache is required");
    int rc = pnx__cache_opts_resolve(opts, err, &resolved);
    if (rc == 0)
        rc = pnx__env_resolve(resolved.env, err, &env);
    if (rc)
        return rc;
    struct pnx_cache *cache = pnx__alloc(&env, 1, sizeof(*cache));
    char *name = pnx__strdup(&env, resolved.name ? resolved.name : "cache");
    if (!cache || !name) {
        pnx__strfree(&env, name);
        pnx__free(&env, cache, 1, sizeof(*cache));
        return pnx__fail(err, -ENOMEM, 0, "create", "cache: out of memory");
    }
    cache->env = env;
    cache->name = name;
    init(cache, &resolved);
    rc = join_budget(cache, resolved.budget, err);
    if (rc == 0) {
        pnx__stats_add(resolved.stats, &cache->block);
        rc = join_registry(cache, resolved.registry, err);
    }
    if (rc) {
        pnx__stats_remove(&cache->block);
        pnx_budget_remove_reclaimer(&cache->reclaimer);
        free_cache(cache);
        return rc;
    }
    *ret_cache = cache;
    return 0;
}

/* ---- ending ---- */

int pnx_cache_close(struct pnx_cache *cache) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    pnx__mutex_lock(&cache->lock);
    bool first = !cache->closed;
    cache->closed = true;
    cache->clear_seq = cache->next_seq;
    pnx__cache_overtake_all_locked(cache);
    pnx__mutex_unlock(&cache->lock);
    if (first)
        pnx__health_set(&cache->block, PNX_HEALTH_DOWN, "closed");
    pnx__cache_cancel_waiters(cache);
    pnx__cache_sweep(cache, PNX_CACHE_CLOSED);
    pnx__mutex_lock(&cache->lock);
    uint64_t out = cache->n_loads +
                   pnx_load(&cache->values.pinned, PNX_RELAXED, "cache.close"); /* a number */
    pnx__mutex_unlock(&cache->lock);
    if (first)
        pnx__event(&cache->block, PNX_EVENT_CACHE_CLOSED, cache->name, 0, NULL, (int64_t)out,
                pnx__now(&cache->env));
    return out > INT32_MAX ? INT32_MAX : (int)out;
}

void pnx_cache_release(struct pnx_cache **cache) {
    if (!cache || !*cache)
        return;
    struct pnx_cache *gone = *cache;
    *cache = NULL;
    if (pnx__cache_enter(gone) != 0)
        return; /* a forked child: all that is in it is the parent's */
    pnx_cache_close(gone);
    /* No thread reclaims and no shutdown closes any more once these have returned. */
    pnx_registry_remove(gone->registry, gone->row);
    pnx_budget_remove_reclaimer(&gone->reclaimer);
    pnx__stats_remove(&gone->block);
    pnx__cache_unref(gone);
}
