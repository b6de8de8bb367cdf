/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/cache.c - making, closing and releasing a cache; its options.
 *
 *     (none) --create--> OPEN --close, shutdown, release--> CLOSED --release and last reference--> (freed)
 *
 *   P1  A create that fails leaves nothing: no row, no block, no reclaimer, no charge.
 *   P2  After close has returned, nothing is stored, and nothing can be again.
 *   P3  The memory of a cache lives until its maker and every reference have let go, and readers of what it retired have
 *       left.
 */
#include "cache/internal.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/options.h"
#include "share/reclaim.h"

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
static_assert(sizeof(struct pnx_cache_opts) == 20 * sizeof(void *) + 10 * 8 + 6 * 4, "no padding");

/* Which option is given that fixed sizes cannot have, or NULL. */
static const char *not_with_fixed(const struct pnx_cache_opts *opts) {
    const struct {
        const char *field;
        bool given;
    } rows[] = {
            {"weigher", opts->weigher != NULL},
            {"ttl_access", opts->ttl_access != PNX_NEVER},
            {"ttl_jitter", opts->ttl_jitter != 0},
            {"refresh_after", opts->refresh_after != PNX_NEVER},
            {"stale_if_error", opts->stale_if_error != 0},
            {"executor", opts->executor != NULL},
            {"negative_ttl", opts->negative_ttl != PNX_NEVER},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].given)
            return rows[i].field;
    }
    return NULL;
}

static int check_fixed(const struct pnx_cache_opts *opts, struct pnx_error *err) {
    if (!opts->key_bytes != !opts->value_bytes)
        return pnx__fail_field(err, -EINVAL, opts->key_bytes ? "value_bytes" : "key_bytes",
                "cache.key_bytes and cache.value_bytes are given together or not at all");
    if (!opts->key_bytes)
        return 0;
    if (opts->destroy)
        return pnx__fail_field(
                err, -EINVAL, "destroy", "cache.destroy is told of no value where sizes are fixed");
    const char *field = not_with_fixed(opts);
    if (field)
        return pnx__fail_field(
                err, -EINVAL, field, "cache.%s is not to be had where sizes are fixed", field);
    if (opts->ttl < PNX_CACHE_FIXED_TTL_MIN)
        return pnx__fail_field(err, -EINVAL, "ttl",
                "cache.ttl is %lld ns; with fixed sizes it is at least %lld", (long long)opts->ttl,
                (long long)PNX_CACHE_FIXED_TTL_MIN);
    return 0;
}

static int check_capacity(const struct pnx_cache_opts *opts, struct pnx_error *err) {
    if (opts->weigher && opts->capacity_weight == 0)
        return pnx__fail_field(err, -EINVAL, "capacity_weight",
                "cache.capacity_weight is required where there is a weigher");
    if (!opts->weigher && opts->capacity_weight != 0)
        return pnx__fail_field(err, -EINVAL, "weigher",
                "cache.weigher is required where there is a capacity_weight");
    if (!opts->weigher && opts->weigher_ctx)
        return pnx__fail_field(
                err, -EINVAL, "weigher_ctx", "cache.weigher_ctx is nobody's without a weigher");
    if (opts->capacity == 0 && opts->capacity_entries == 0 && opts->capacity_weight == 0)
        return pnx__fail_field(err, -EINVAL, "capacity",
                "cache.capacity, capacity_entries or capacity_weight is required");
    return 0;
}

int pnx__cache_opts_resolve(
        const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache_opts *ret_opts) {
    struct pnx_cache_opts resolved = {.size = sizeof(resolved)};
    int rc = pnx__opts_resolve(&option_table, opts, &resolved, err);
    if (rc)
        return rc;
    if (resolved.shards & (resolved.shards - 1))
        return pnx__fail_field(err, -EINVAL, "shards",
                "cache.shards is %u; it must be a power of two", resolved.shards);
    if (resolved.executor && !resolved.refresh_loader)
        return pnx__fail_field(err, -EINVAL, "refresh_loader",
                "cache.refresh_loader is required where there is an executor");
    rc = check_capacity(&resolved, err);
    if (rc == 0)
        rc = check_fixed(&resolved, err);
    if (rc == 0)
        *ret_opts = resolved;
    return rc;
}

int pnx_cache_opts_set(
        struct pnx_cache_opts *opts, const char *name, const char *text, struct pnx_error *err) {
    if (!opts || !name || !text)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: opts, name and text are required");
    return pnx__opts_set(&option_table, opts, name, text, err);
}

size_t pnx_cache_cost_fixed(size_t key_bytes, size_t value_bytes) {
    if (key_bytes == 0 || key_bytes > PNX_CACHE_KEY_BYTES || value_bytes == 0 ||
            value_bytes > PNX_CACHE_VALUE_BYTES)
        return SIZE_MAX;
    size_t record = PNX_CACHE_FIXED_STRIDE(key_bytes, value_bytes);
    return record + record / 8 + PNX_CACHE_FIXED_SHARE;
}

/* ---- making ---- */

/* A registry that is shut down ends the cache, whose maker still has to release it. */
static int close_row(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return pnx_cache_close(arg) == 0 ? 0 : -EBUSY;
}

/* Which policy the options mean; NULL with err filled when there is none of that name. */
static const struct pnx_cache_policy *find_policy(
        const struct pnx_cache_opts *opts, struct pnx_error *err) {
    if (opts->custom_policy) {
        if (opts->custom_policy->size == sizeof(struct pnx_cache_policy))
            return opts->custom_policy;
        pnx__fail_field(err, -EINVAL, "custom_policy",
                "cache.custom_policy has size %zu, this library's have %zu",
                opts->custom_policy->size, sizeof(struct pnx_cache_policy));
        return NULL;
    }
    const char *name = opts->policy ? opts->policy : "auto";
    const struct pnx_cache_policy *policy = pnx_cache_policy_find(name);
    if (!policy && strcmp(name, "auto") == 0)
        policy = pnx_cache_policy_find("s3-fifo");
    if (!policy)
        pnx__fail_field(err, -EINVAL, "policy", "cache.policy is \"%.32s\", which is none", name);
    return policy;
}

/* How many shards the options mean: one where each hit has an order, or where a part would be too small. */
static uint32_t count_shards(const struct pnx_cache_opts *opts, bool exact) {
    if (opts->shards)
        return opts->shards;
    uint64_t entries = opts->capacity_entries;
    /* What a unit of weight is nobody knows here: taken for a byte, of which there may be too few shards, never too many. */
    uint64_t bytes = opts->capacity ? opts->capacity : opts->capacity_weight;
    if (!entries)
        entries = opts->key_bytes ? bytes / pnx_cache_cost_fixed(opts->key_bytes, opts->value_bytes)
                                  : bytes / (2 * pnx__cache_entry_cost(0, 0, 0));
    if (exact || entries < PNX_CACHE_ONE_SHARD)
        return 1;
    uint32_t shards = 1;
    while (shards < PNX_CACHE_SHARDS_MAX && shards < 4 * pnx__os_cpus() &&
            entries / (2 * shards) >= PNX_CACHE_ONE_SHARD / 2)
        shards *= 2;
    return shards;
}

/* Whether the policy wants to be told of each hit: asked of a small one.  -ENOMEM, -EINVAL. */
static int ask_policy(struct pnx_cache *cache, const struct pnx_cache_policy *policy,
        struct pnx_error *err, bool *ret_exact) {
    static const struct pnx_cache_slots none = {.weight = PNX_CACHE_NO_FIELD};
    const struct pnx_cache_policy_params params = {
            .size = sizeof(params),
            .slots = &none,
            .capacity = PNX_CACHE_FIRST_SLOTS,
            .kind = cache->kind,
    };
    size_t bytes = policy->memory(&params, PNX_CACHE_FIRST_SLOTS);
    void *state = bytes ? pnx__alloc_aligned(&cache->env, 1, bytes, 64) : NULL;
    if (!state)
        return pnx__fail(err, -ENOMEM, 0, "create", "cache: out of memory");
    policy->init(state, &params, PNX_CACHE_FIRST_SLOTS);
    *ret_exact = pnx_cache_policy_wants_of(state)->exact_hits != 0;
    pnx__free(&cache->env, state, 1, bytes);
    return 0;
}

static void init(struct pnx_cache *cache, const struct pnx_cache_opts *opts) {
    cache->magic = PNX_CACHE_MAGIC;
    cache->fork_generation = pnx__fork_generation();
    cache->site = opts->site;
    cache->destroy = opts->destroy;
    cache->ctx = opts->ctx;
    cache->weigher = opts->weigher;
    cache->weigher_ctx = opts->weigher_ctx;
    cache->destroy_executor = opts->destroy_executor;
    cache->seed = cache->env.random(cache->env.ctx);
    cache->kind = opts->weigher                        ? PNX_CACHE_CAPACITY_WEIGHT
                  : opts->capacity && !opts->key_bytes ? PNX_CACHE_CAPACITY_BYTES
                                                       : PNX_CACHE_CAPACITY_ENTRIES;
    cache->time_base =
            pnx__now(&cache->env) - ((pnx_ns)PNX_CACHE_TICK_FIRST << PNX_CACHE_TICK_SHIFT);
    cache->fixed_cost =
            opts->key_bytes ? pnx_cache_cost_fixed(opts->key_bytes, opts->value_bytes) : 0;
    cache->negative_ttl = opts->negative_ttl;
    cache->load_timeout = opts->load_timeout;
    cache->ttl_access = opts->ttl_access;
    cache->touch_after = opts->ttl_access / 16 < PNX_SEC ? opts->ttl_access / 16 : PNX_SEC;
    cache->ttl_jitter = opts->ttl_jitter;
    cache->refresh_after = opts->refresh_after;
    cache->refresh_backoff = opts->refresh_backoff;
    cache->stale_if_error = opts->stale_if_error;
    cache->executor = opts->executor;
    cache->refresh_loader = opts->refresh_loader;
    cache->refresh_ctx = opts->refresh_ctx;
    cache->post = opts->post;
    cache->post_ctx = opts->post_ctx;
    cache->timed = opts->ttl_access != PNX_NEVER || opts->refresh_after != PNX_NEVER ||
                   opts->stale_if_error != 0;
    pnx__mutex_init(&cache->lock, PNX_RANK_CACHE);
    /* Relaxed, all: nobody else knows the cache yet. */
    pnx_store(&cache->ttl, (uint64_t)opts->ttl, PNX_RELAXED, "cache.first_ttl");
    pnx_store(&cache->capacity, opts->capacity ? opts->capacity : UINT64_MAX, PNX_RELAXED,
            "cache.first_bytes");
    pnx_store(&cache->capacity_entries,
            opts->capacity_entries ? opts->capacity_entries : UINT64_MAX, PNX_RELAXED,
            "cache.first_entries");
    pnx_store(&cache->capacity_weight, opts->capacity_weight ? opts->capacity_weight : UINT64_MAX,
            PNX_RELAXED, "cache.first_weight");
    pnx__cache_stats_init(&cache->block, cache->name, &cache->values, &cache->histograms);
    cache->block.refresh = pnx__cache_refresh;
}

/* What records look like. */
static struct pnx_cache_shape shape_of(const struct pnx_cache_opts *opts) {
    struct pnx_cache_shape shape = {.stride = sizeof(struct pnx_cache_record)};
    if (!opts->key_bytes)
        return shape;
    shape.key_bytes = opts->key_bytes;
    shape.value_bytes = opts->value_bytes;
    shape.key_words = (opts->key_bytes + 3) / 4;
    shape.value_words = (opts->value_bytes + 3) / 4;
    shape.stride =
            (uint32_t)sizeof(struct pnx_cache_fixed) + 4 * (shape.key_words + shape.value_words);
    return shape;
}

/* Makes the shards and the cells.  -ENOMEM, -EINVAL. */
static int init_shards(
        struct pnx_cache *cache, const struct pnx_cache_opts *opts, struct pnx_error *err) {
    bool exact = false;
    const struct pnx_cache_policy *policy = find_policy(opts, err);
    if (!policy)
        return -EINVAL;
    int rc = ask_policy(cache, policy, err, &exact);
    if (rc)
        return rc;
    uint32_t shards = count_shards(opts, exact);
    cache->shape = shape_of(opts);
    cache->cells = pnx__alloc_aligned(&cache->env, PNX_CACHE_CELLS, sizeof(*cache->cells), 64);
    if (cache->cells)
        cache->shards = pnx__alloc_aligned(&cache->env, shards, sizeof(*cache->shards), 64);
    if (cache->shards && opts->key_bytes)
        cache->wheels = pnx__alloc(&cache->env, shards, sizeof(*cache->wheels));
    if (!cache->shards || (opts->key_bytes && !cache->wheels)) {
        pnx__free(&cache->env, cache->shards, shards, sizeof(*cache->shards));
        cache->shards = NULL;
        return pnx__fail(err, -ENOMEM, 0, "create", "cache: out of memory");
    }
    cache->n_shards = shards;
    cache->shard_bits = (uint32_t)__builtin_ctz(shards);
    if (pnx__cache_curve_make(&cache->env, (uint32_t)opts->curve_samples, &cache->curve))
        return pnx__fail(err, -ENOMEM, 0, "create", "cache: out of memory");
    for (uint32_t i = 0; i < shards; i++)
        pnx__cache_shard_init(&cache->shards[i], cache, policy);
    /* Relaxed: nobody else knows the cache yet. */
    pnx_store(&cache->shards_alive, shards, PNX_RELAXED, "cache.first_alive");
    cache->base_charge = sizeof(*cache) + PNX_CACHE_CELLS * sizeof(*cache->cells) +
                         shards * (sizeof(*cache->shards) + PNX_CACHE_INDEX_BASE) +
                         (cache->wheels ? shards * sizeof(*cache->wheels) : 0) +
                         pnx__cache_curve_bytes(cache->curve);
    return 0;
}

static int join_budget(struct pnx_cache *cache, struct pnx_budget *budget, struct pnx_error *err) {
    cache->budget = pnx_budget_ref(budget ? budget : pnx_budget_default());
    size_t base = cache->base_charge;
    int rc = pnx_budget_charge(cache->budget, base, 0);
    if (rc) {
        cache->base_charge = 0;
        return pnx__fail(err, rc, rc, "create", "cache \"%.64s\": the budget refused %zu bytes",
                cache->name, base);
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
    for (uint32_t i = 0; i < cache->n_shards; i++)
        pnx__cache_shard_drop(&cache->shards[i]);
    pnx__free(&env, cache->shards, cache->n_shards, sizeof(*cache->shards));
    pnx__free(&env, cache->wheels, cache->n_shards, sizeof(*cache->wheels));
    pnx__free(&env, cache->cells, PNX_CACHE_CELLS, sizeof(*cache->cells));
    pnx__cache_curve_drop(&env, cache->curve);
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

void pnx__cache_settled(struct pnx_cache_shard *shard) {
    struct pnx_cache *cache = shard->cache;
    /* acq_rel, both: pair with themselves; all that was freed before comes before the freeing of the cache. */
    if (pnx_fetch_sub(&shard->pending, 1, PNX_ACQ_REL, "cache.settled") == 1 &&
            pnx_fetch_sub(&cache->shards_alive, 1, PNX_ACQ_REL, "cache.shard_gone") == 1)
        free_cache(cache);
}

int pnx_cache_create(
        const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache **ret_cache) {
    return pnx__cache_create(opts, PNX_CACHE_FIRST_SLOTS, err, ret_cache);
}

int pnx__cache_create(const struct pnx_cache_opts *opts, uint32_t first_slots,
        struct pnx_error *err, struct pnx_cache **ret_cache) {
    struct pnx_cache_opts resolved = {.size = sizeof(resolved)};
    struct pnx_env env;
    if (!ret_cache)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: ret_cache is required");
    int rc = pnx__cache_opts_resolve(opts, err, &resolved);
    if (rc == 0)
        rc = pnx__env_resolve(resolved.env, err, &env);
    if (rc)
        return rc;
    struct pnx_cache *cache = pnx__alloc_aligned(&env, 1, sizeof(*cache), 64);
    char *name = pnx__strdup(&env, resolved.name ? resolved.name : "cache");
    if (!cache || !name) {
        pnx__strfree(&env, name);
        pnx__free(&env, cache, 1, sizeof(*cache));
        return pnx__fail(err, -ENOMEM, 0, "create", "cache: out of memory");
    }
    cache->env = env;
    cache->name = name;
    cache->first_slots = first_slots;
    cache->slots_most = resolved.key_bytes ? PNX_CACHE_FIXED_ENTRIES : PNX_CACHE_SLOTS_MAX;
    init(cache, &resolved);
    rc = init_shards(cache, &resolved, err);
    if (rc == 0)
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
    bool first = !pnx__cache_is_closed(cache);
    /* Relaxed, both: see pnx__cache_is_closed() and pnx__cache_epoch(). */
    pnx_store(&cache->closed, 1, PNX_RELAXED, "cache.set_closed");
    pnx_fetch_add(&cache->epoch, 1, PNX_RELAXED, "cache.close_epoch");
    if (first)
        pnx__health_set(&cache->block, PNX_HEALTH_DOWN, "closed");
    pnx__mutex_unlock(&cache->lock);
    pnx__cache_cancel_waiters(cache);
    pnx__cache_sweep(cache, PNX_CACHE_CLOSED);
    uint64_t out = pnx__cache_pinned(cache);
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        pnx__mutex_lock(&cache->shards[i].lock);
        out += cache->shards[i].n_loads;
        pnx__mutex_unlock(&cache->shards[i].lock);
    }
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
    for (uint32_t i = 0, n = gone->n_shards; i < n; i++)
        pnx__cache_settled(&gone->shards[i]);
    pnx__reclaim_assist(NULL);
}
