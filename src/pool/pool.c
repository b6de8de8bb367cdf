/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool.c - making, ticking and freeing a pool.
 *
 * The public guarantees P1..P14 stand in patinox/pool.h.
 */
#include "pool/pool.h"

#include "os/futex.h"
#include "os/thread.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#define PNX_GROUP     pool
#define PNX_GROUP_DEF <patinox/stats/pool.def>
#include "stats/declare_group.inc"

#define THREAD_LINGER (30 * PNX_SEC)

static_assert(sizeof(struct pnx_pool_opts) == 29 * 8 + 8 * 4, "no padding in an option struct");
static_assert(sizeof(struct pnx_pool_opts) <= PNX_OPTS_MAX_SIZE, "fits the checker");
static_assert(sizeof(struct pnx_pool_manager) == 12 * 8, "no padding in an option struct");
static_assert(sizeof(struct pnx_pool_hooks) == 6 * 8, "no padding in an option struct");
static_assert(sizeof(struct pnx_acquire_opts) == 4 * 8, "no padding in an option struct");
static_assert(sizeof(struct pnx_lease) == 16, "layout of a lease");
static_assert(sizeof(struct pnx_slot) == 192, "three cache lines a slot");
static_assert(offsetof(struct pnx_slot, link) == 64, "the cycle touches the first line");

/* clang-format off */
static const struct pnx_opt rows[] = {
#define PNX_OPTION(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_pool_opts, field, kind, flags, dflt, lo, hi, text)
#include "pool/pool_opts.def"
#undef PNX_OPTION
};
/* clang-format on */

const struct pnx_opt_table pnx__pool_options = {
        "pool", sizeof(struct pnx_pool_opts), rows, sizeof(rows) / sizeof(rows[0])};

int pnx_pool_opts_set(
        struct pnx_pool_opts *opts, const char *name, const char *text, struct pnx_error *err) {
    if (!opts || !name || !text)
        return pnx__fail_field(err, -EINVAL, NULL, "pool.opts_set: an argument is NULL");
    return pnx__opts_set(&pnx__pool_options, opts, name, text, err);
}

/* What a preset sets, in a struct in which nothing else is. */
static const struct pnx_pool_opts service = {
        .min_idle = 2,
        .held_too_long_ns = 30 * PNX_SEC,
        .keepalive_ns = 120 * PNX_SEC,
        .codel_target_ns = 500 * PNX_MS,
};
static const struct pnx_pool_opts batch = {
        .acquire_timeout_ns = 60 * PNX_SEC,
        .breaker_failures = 20,
        .max_connecting = 4,
        .ageing_ns = PNX_NEVER,
};
static const struct pnx_pool_opts event_loop = {
        .max_waiters = 10000,
        .nested = PNX_POOL_NESTED_ALLOW,
        .flags = PNX_POOL_NO_THREADS,
};

int pnx_pool_opts_preset(struct pnx_pool_opts *opts, const char *preset, struct pnx_error *err) {
    static const struct {
        const char *name;
        const struct pnx_pool_opts *values;
    } presets[] = {{"service", &service}, {"batch", &batch}, {"event-loop", &event_loop}};
    if (!opts || !preset)
        return pnx__fail_field(err, -EINVAL, NULL, "pool.opts_preset: an argument is NULL");
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        if (strcmp(preset, presets[i].name) == 0)
            return pnx__opts_fill(&pnx__pool_options, presets[i].values, opts, err);
    }
    return pnx__fail_field(
            err, -ENOENT, NULL, "pool.opts_preset: there is no preset \"%.40s\"", preset);
}

/* ---- create ---- */

static int check_manager(const struct pnx_pool_manager *user, struct pnx_pool_manager *ret_manager,
        struct pnx_error *err) {
    if (!user)
        return pnx__fail_field(err, -EINVAL, "manager", "pool: manager is NULL");
    struct pnx_pool_manager manager = {.size = sizeof(manager)};
    int rc = pnx__opts_copy("pool.manager", sizeof(manager), user, &manager, err);
    if (rc)
        return rc;
    if (!manager.connect && !manager.start)
        return pnx__fail_field(
                err, -EINVAL, "manager.connect", "pool: manager.connect, or start, is required");
    if (manager.connect && manager.start)
        return pnx__fail_field(
                err, -EINVAL, "manager.start", "pool: a manager has connect or start, not both");
    if (!manager.close && !manager.start)
        return pnx__fail_field(err, -EINVAL, "manager.close", "pool: manager.close is required");
    if (!manager.start && (manager.poll || manager.cancel))
        return pnx__fail_field(err, -EINVAL, manager.poll ? "manager.poll" : "manager.cancel",
                "pool: manager.poll and cancel are for managers with start");
    *ret_manager = manager;
    return 0;
}

static int check_opts(
        const struct pnx_pool_opts *user, struct pnx_pool_opts *ret_opts, struct pnx_error *err) {
    if (!user)
        return pnx__fail_field(err, -EINVAL, "max", "pool.max is required, and opts is NULL");
    int rc = pnx__opts_resolve(&pnx__pool_options, user, ret_opts, err);
    if (rc)
        return rc;
    if (ret_opts->min_idle > ret_opts->max)
        return pnx__fail_field(err, -EINVAL, "min_idle", "pool.min_idle is %u, more than max (%u)",
                ret_opts->min_idle, ret_opts->max);
    if (ret_opts->backoff_ns > ret_opts->backoff_max_ns && user->backoff_max_ns != 0)
        return pnx__fail_field(err, -EINVAL, "backoff_ns",
                "pool.backoff_ns is %lld ns, more than backoff_max_ns (%lld ns)",
                (long long)ret_opts->backoff_ns, (long long)ret_opts->backoff_max_ns);
    if (ret_opts->backoff_max_ns < ret_opts->backoff_ns)
        ret_opts->backoff_max_ns = ret_opts->backoff_ns;
    return 0;
}

static uint64_t next_serial(void) {
    static struct pnx_a64 last;
    return pnx_fetch_add(&last, 1, PNX_RELAXED, "pool.serial") +
           1; /* a name, which orders nothing */
}

static int check_hooks(const struct pnx_pool_hooks *user, struct pnx_pool_hooks *ret_hooks,
        struct pnx_error *err) {
    struct pnx_pool_hooks hooks = {.size = sizeof(hooks)};
    if (user) {
        int rc = pnx__opts_copy("pool.hooks", sizeof(hooks), user, &hooks, err);
        if (rc)
            return rc;
    }
    *ret_hooks = hooks;
    return 0;
}

static pnx_ns full_check_after(const struct pnx_pool *pool, const struct pnx_pool_opts *opts) {
    if (!pool->manager.peek)
        return 0;
    return pool->manager.check ? opts->full_check_after_ns : PNX_NEVER;
}

static void configure(struct pnx_pool *pool, const struct pnx_pool_opts *opts) {
    struct pnx__pool_config config = {
            .connect_timeout = opts->connect_timeout_ns,
            .check_timeout = opts->check_timeout_ns,
            .close_timeout = opts->close_timeout_ns,
            .check_after = opts->check_after_ns,
            .full_check_after = full_check_after(pool, opts),
            .keepalive = opts->keepalive_ns,
            .idle = opts->idle_ns,
            .lifetime = opts->lifetime_ns,
            .backoff = opts->backoff_ns,
            .backoff_max = opts->backoff_max_ns,
            .held_too_long = opts->held_too_long_ns,
            .ageing = opts->ageing_ns,
            .barge = opts->barge_ns == PNX_NEVER ? 0 : opts->barge_ns,
            .codel_target = opts->codel_target_ns,
            .codel_interval = opts->codel_interval_ns,
            .grace = pool->manager.start ? 0 : PNX__POOL_GRACE,
            .min_idle = opts->min_idle,
            .max_waiters = opts->max_waiters,
            .max_connecting = opts->max_connecting,
            .max_checking = opts->max_checking,
            .breaker_failures = opts->breaker_failures,
            .round_robin = (opts->flags & PNX_POOL_ROUND_ROBIN) != 0,
    };
    if (config.check_after == 1)
        config.check_after = 0; /* always, also within one step of the coarse clock */
    if (!pool->manager.check && !pool->manager.peek)
        config.check_after = config.keepalive = PNX_NEVER;
    pnx__pool_core_init(
            &pool->core, &config, opts->max, pool->env.random(pool->env.ctx), pnx__now(&pool->env));
    pool->core.wait = &pool->histograms[PNX__POOL_HISTOGRAM_wait];
    /* Who comes by the short way may have a time that is a little behind: then no age is 0. */
    pool->check_after = config.check_after == 0 ? INT64_MIN : config.check_after;
    pool->now_coarse = pool->env.now_coarse;
    pool->now_ctx = pool->env.ctx;
    pool->serial = next_serial();
    pool->quick_release = !pool->manager.reset && !pool->hooks.after_release;
    pool->hooked = pool->hooks.before_acquire != NULL;
    pool->core.traced = (opts->flags & PNX_POOL_TRACE_ORDER) != 0;
    pool->plain = !pool->hooked && !pool->core.traced;
    pool->post = opts->post;
    pool->post_ctx = opts->post_ctx;
    pool->nested = opts->nested;
    pool->spinners_max = pnx__os_cpus() - 1;
    pool->ctx = opts->ctx;
    pool->acquire_timeout = opts->acquire_timeout_ns;
    pool->connect_timeout = opts->connect_timeout_ns;
    pool->check_timeout = opts->check_timeout_ns;
    pool->reset_timeout = opts->reset_timeout_ns;
    pool->close_timeout = opts->close_timeout_ns;
    pool->linger = THREAD_LINGER;
    pool->resource_bytes = opts->resource_bytes;
    pool->flags = opts->flags;
}

size_t pnx__pool_chunk_bytes(uint32_t n) {
    return sizeof(struct pnx__pool_chunk) + n * sizeof(struct pnx_slot);
}

struct pnx__pool_chunk *pnx__pool_new_chunk(const struct pnx_env *env, uint32_t n) {
    struct pnx__pool_chunk *chunk =
            pnx__alloc_aligned(env, 1, pnx__pool_chunk_bytes(n), _Alignof(struct pnx__pool_chunk));
    if (chunk)
        chunk->n = n;
    return chunk;
}

void pnx__pool_add_chunk_locked(struct pnx_pool *pool, struct pnx__pool_chunk *chunk) {
    pnx__pool_core_add_slots(&pool->core, pool, chunk->slots, chunk->n);
    chunk->next = pnx_load(&pool->chunks, PNX_RELAXED, "pool.chunks"); /* the lock orders writers */
    /* pairs with pool_fork.chunks */
    pnx_store(&pool->chunks, chunk, PNX_RELEASE, "pool.chunks_push");
}

static int end_by_registry(void *arg, const struct pnx_cancel *cancel) {
    int rc = pnx_pool_close(arg, pnx_cancel_remaining(cancel));
    return rc > 0 ? -ETIMEDOUT : rc;
}

/* Called by the budget when memory is short, with no lock held. */
static size_t reclaim(void *ctx, size_t want) {
    struct pnx_pool *pool = ctx;
    if (pnx__pool_forked(pool))
        return 0;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    size_t each = pool->resource_bytes;
    size_t n = want / each + (want % each != 0);
    pnx__pool_lock(pool);
    /* What is being closed comes back anyway: asked again before it has, do not take as much once more. */
    uint32_t closing = pool->core.n[PNX__POOL_CLOSING];
    n = n > closing ? n - closing : 0;
    uint32_t closed =
            pnx__pool_core_evict(&pool->core, n < UINT32_MAX ? (uint32_t)n : UINT32_MAX, &effects);
    pnx__pool_unlock(pool, &effects, NULL);
    /* The pool may be gone: its user may have released it while a close ran here. */
    return closed * each;
}

/* Frees what create made; the pool was never visible, or nobody uses it any more. */
static void free_pool(struct pnx_pool *pool) {
    struct pnx_env env = pool->env;
    pnx_budget_remove_reclaimer(&pool->reclaimer);
    if (pool->bytes)
        pnx_budget_uncharge(pool->budget, pool->bytes);
    if (pool->budget)
        pnx_budget_release(&pool->budget);
    if (pool->registry)
        pnx_registry_release(&pool->registry);
    pnx__stats_remove(&pool->block);
    /* alone by now */
    struct pnx__pool_chunk *chunk = pnx_load(&pool->chunks, PNX_RELAXED, "pool.chunks_free");
    while (chunk) {
        struct pnx__pool_chunk *next = chunk->next;
        pnx__free(&env, chunk, 1, pnx__pool_chunk_bytes(chunk->n));
        chunk = next;
    }
    pnx__strfree(&env, pool->name);
    pnx__mutex_destroy(&pool->lock);
    pnx__free(&env, pool, 1, sizeof(*pool));
}

static int join_budget(struct pnx_pool *pool, struct pnx_budget *budget, uint32_t max) {
    pool->budget = budget ? budget : pnx_budget_default();
    pool->budget = pnx_budget_ref(pool->budget);
    size_t bytes = sizeof(*pool) + pnx__pool_chunk_bytes(max);
    int rc = pnx_budget_charge(pool->budget, bytes, 0);
    if (rc)
        return rc;
    pool->bytes = bytes;
    if (pool->resource_bytes == 0)
        return 0;
    struct pnx_reclaimer reclaimer = {
            .size = sizeof(reclaimer),
            .name = "pool",
            .reclaim = reclaim,
            .ctx = pool,
            .priority = 10,
    };
    return pnx_budget_add_reclaimer(pool->budget, &reclaimer, &pool->reclaimer);
}

static int join_registry(struct pnx_pool *pool, const struct pnx_pool_opts *opts,
        pnx_resource_id parent, struct pnx_error *err) {
    struct pnx_registry *registry = opts->registry;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "pool",
            .name = pool->name,
            .site = opts->site,
            .cleanup = end_by_registry,
            .arg = pool,
            .parent = parent,
            .bytes = pool->bytes,
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    pool->site = opts->site;
    pool->registry = pnx_registry_ref(registry);
    return pnx_registry_add(pool->registry, &resource, err, &pool->row);
}

static int fill_pool(struct pnx_pool *pool, const struct pnx_pool_opts *opts,
        pnx_resource_id parent, struct pnx_error *err) {
    struct pnx__pool_chunk *chunk = pnx__pool_new_chunk(&pool->env, opts->max);
    pool->name = pnx__strdup(&pool->env, opts->name ? opts->name : "pool");
    if (chunk)
        pnx__pool_add_chunk_locked(pool, chunk); /* nobody else can see the pool yet */
    if (!chunk || !pool->name)
        return pnx__fail(err, -ENOMEM, 0, "create", "pool: no memory for %u slots", opts->max);
    int rc = join_budget(pool, opts->budget, opts->max);
    if (rc)
        return pnx__fail(err, rc, 0, "create", "pool \"%.40s\": the memory budget refused it: %s",
                pool->name, pnx_strerror(rc));
    pnx__pool_stats_init(&pool->block, pool->name, (struct pnx_pool_values *)pool->core.stats,
            (struct pnx_pool_histograms *)pool->histograms);
    pool->block.refresh = pnx__pool_refresh;
    pnx__stats_add(opts->stats, &pool->block);
    return join_registry(pool, opts, parent, err);
}

int pnx__pool_check_opts(const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts,
        struct pnx_error *err) {
    struct pnx_pool_manager checked;
    struct pnx_pool_opts resolved;
    struct pnx_pool_hooks hooks;
    int rc = check_manager(manager, &checked, err);
    if (rc == 0)
        rc = check_opts(opts, &resolved, err);
    return rc ? rc : check_hooks(resolved.hooks, &hooks, err);
}

int pnx_pool_create(const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts,
        struct pnx_error *err, struct pnx_pool **ret_pool) {
    return pnx__pool_create(manager, opts, NULL, err, ret_pool);
}

int pnx__pool_create(const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts,
        const struct pnx__pool_place *place, struct pnx_error *err, struct pnx_pool **ret_pool) {
    struct pnx_pool_manager checked = {0};
    struct pnx_pool_opts resolved = {0};
    struct pnx_pool_hooks hooks = {0};
    struct pnx_env env;
    if (!ret_pool)
        return pnx__fail_field(err, -EINVAL, "ret_pool", "pool: ret_pool is NULL");
    int rc = check_manager(manager, &checked, err);
    if (rc == 0)
        rc = check_opts(opts, &resolved, err);
    if (rc == 0)
        rc = check_hooks(resolved.hooks, &hooks, err);
    if (rc == 0)
        rc = pnx__env_resolve(resolved.env, err, &env);
    if (rc)
        return rc;
    struct pnx_pool *pool =
            pnx__alloc_aligned(&env, 1, sizeof(*pool), _Alignof(struct pnx__pool_chunk));
    if (!pool)
        return pnx__fail(err, -ENOMEM, 0, "create", "pool: no memory");
    pool->env = env;
    pool->manager = checked;
    pool->hooks = hooks;
    pool->refs = 1;
    pool->fork = pnx__fork_generation();
    pool->system_clock = !resolved.env || !resolved.env->now;
    pnx__mutex_init(&pool->lock, PNX_RANK_POOL);
    configure(pool, &resolved);
    if (place) {
        pool->member = place->member;
        pool->core.quota = 0;
    }
    rc = fill_pool(pool, &resolved, place ? place->parent : 0, err);
    if (rc) {
        free_pool(pool);
        return rc;
    }
    if (resolved.min_idle > 0) {
        struct pnx__pool_effects effects;
        pnx__pool_effects_init(&effects);
        effects.work = true;
        pnx__pool_lock(pool);
        pnx__pool_unlock(pool, &effects, NULL);
    }
    *ret_pool = pool;
    return 0;
}

void pnx__pool_destroy(struct pnx_pool *pool, struct pnx__pool_thread *self) {
    pnx__pool_join_ended(pool, self);
    free_pool(pool);
}

/* ---- while it lives ---- */

pnx_ns pnx_pool_tick(struct pnx_pool *pool, pnx_ns now) {
    if (!pool || pnx__pool_forked(pool))
        return PNX_NEVER;
    struct pnx__pool_effects effects;
    struct pnx__pool_driver driver = {.any = true, .deadline = PNX_NEVER};
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pool->refs++; /* for the looks below */
    pnx__pool_core_tick(&pool->core, now, &effects);
    pnx__pool_health_locked(pool);
    pnx__pool_unlock(pool, &effects, &driver);
    pnx__pool_watch_held(pool);
    pnx__pool_tend_ops(pool);
    pnx__pool_effects_init(&effects);
    effects.work = pool->manager.start != NULL; /* what has ended there may let others begin */
    pnx__pool_lock(pool);
    pnx__pool_unlock(pool, &effects, &driver);
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pool->refs--;
    pnx_ns next = pool->core.next_timer;
    pnx__pool_unlock(pool, &effects, NULL);
    return next;
}
