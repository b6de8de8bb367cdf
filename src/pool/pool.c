/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool.c - making, closing, resizing and freeing a pool.
 *
 * The public guarantees P1..P10 stand in patinox/pool.h.
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

static_assert(sizeof(struct pnx_pool_opts) == 19 * 8 + 6 * 4, "no padding in an option struct");
static_assert(sizeof(struct pnx_pool_opts) <= PNX_OPTS_MAX_SIZE, "fits the checker");
static_assert(sizeof(struct pnx_pool_manager) == 6 * 8, "no padding in an option struct");
static_assert(sizeof(struct pnx_lease) == 16, "layout of a lease");
static_assert(sizeof(struct pnx_slot) == 128, "two cache lines a slot");
static_assert(offsetof(struct pnx_slot, idle_since) == 64, "the cycle touches the first line");

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

/* ---- create ---- */

static int check_manager(const struct pnx_pool_manager *user, struct pnx_pool_manager *ret_manager,
        struct pnx_error *err) {
    if (!user)
        return pnx__fail_field(err, -EINVAL, "manager", "pool: manager is NULL");
    struct pnx_pool_manager manager = {.size = sizeof(manager)};
    int rc = pnx__opts_copy("pool.manager", sizeof(manager), user, &manager, err);
    if (rc)
        return rc;
    if (!manager.connect)
        return pnx__fail_field(
                err, -EINVAL, "manager.connect", "pool: manager.connect is required");
    if (!manager.close)
        return pnx__fail_field(err, -EINVAL, "manager.close", "pool: manager.close is required");
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

static void configure(struct pnx_pool *pool, const struct pnx_pool_opts *opts) {
    struct pnx__pool_config config = {
            .connect_timeout = opts->connect_timeout_ns,
            .check_timeout = opts->check_timeout_ns,
            .close_timeout = opts->close_timeout_ns,
            .check_after = opts->check_after_ns,
            .idle = opts->idle_ns,
            .lifetime = opts->lifetime_ns,
            .backoff = opts->backoff_ns,
            .backoff_max = opts->backoff_max_ns,
            .min_idle = opts->min_idle,
            .max_waiters = opts->max_waiters,
            .max_connecting = opts->max_connecting,
            .max_checking = opts->max_checking,
    };
    if (config.check_after == 1)
        config.check_after = 0; /* always, also within one step of the coarse clock */
    if (!pool->manager.check)
        config.check_after = PNX_NEVER;
    pnx__pool_core_init(
            &pool->core, &config, opts->max, pool->env.random(pool->env.ctx), pnx__now(&pool->env));
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

static size_t chunk_bytes(uint32_t n) {
    return sizeof(struct pnx__pool_chunk) + n * sizeof(struct pnx_slot);
}

static struct pnx__pool_chunk *new_chunk(const struct pnx_env *env, uint32_t n) {
    struct pnx__pool_chunk *chunk =
            pnx__alloc_aligned(env, 1, chunk_bytes(n), _Alignof(struct pnx__pool_chunk));
    if (chunk)
        chunk->n = n;
    return chunk;
}

static void add_chunk_locked(struct pnx_pool *pool, struct pnx__pool_chunk *chunk) {
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
        pnx__free(&env, chunk, 1, chunk_bytes(chunk->n));
        chunk = next;
    }
    pnx__strfree(&env, pool->name);
    pnx__mutex_destroy(&pool->lock);
    pnx__free(&env, pool, 1, sizeof(*pool));
}

static int join_budget(struct pnx_pool *pool, struct pnx_budget *budget, uint32_t max) {
    pool->budget = budget ? budget : pnx_budget_default();
    pool->budget = pnx_budget_ref(pool->budget);
    size_t bytes = sizeof(*pool) + chunk_bytes(max);
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

static int join_registry(
        struct pnx_pool *pool, const struct pnx_pool_opts *opts, struct pnx_error *err) {
    struct pnx_registry *registry = opts->registry;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "pool",
            .name = pool->name,
            .site = opts->site,
            .cleanup = end_by_registry,
            .arg = pool,
            .bytes = pool->bytes,
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    pool->site = opts->site;
    pool->registry = pnx_registry_ref(registry);
    return pnx_registry_add(pool->registry, &resource, err, &pool->row);
}

static int fill_pool(
        struct pnx_pool *pool, const struct pnx_pool_opts *opts, struct pnx_error *err) {
    struct pnx__pool_chunk *chunk = new_chunk(&pool->env, opts->max);
    pool->name = pnx__strdup(&pool->env, opts->name ? opts->name : "pool");
    if (chunk)
        add_chunk_locked(pool, chunk); /* nobody else can see the pool yet */
    if (!chunk || !pool->name)
        return pnx__fail(err, -ENOMEM, 0, "create", "pool: no memory for %u slots", opts->max);
    int rc = join_budget(pool, opts->budget, opts->max);
    if (rc)
        return pnx__fail(err, rc, 0, "create", "pool \"%.40s\": the memory budget refused it: %s",
                pool->name, pnx_strerror(rc));
    pnx__pool_stats_init(&pool->block, pool->name, (struct pnx_pool_values *)pool->core.stats,
            (struct pnx_pool_histograms *)pool->histograms);
    pnx__stats_add(opts->stats, &pool->block);
    return join_registry(pool, opts, err);
}

int pnx_pool_create(const struct pnx_pool_manager *manager, const struct pnx_pool_opts *opts,
        struct pnx_error *err, struct pnx_pool **ret_pool) {
    struct pnx_pool_manager checked = {0};
    struct pnx_pool_opts resolved = {0};
    struct pnx_env env;
    if (!ret_pool)
        return pnx__fail_field(err, -EINVAL, "ret_pool", "pool: ret_pool is NULL");
    int rc = check_manager(manager, &checked, err);
    if (rc == 0)
        rc = check_opts(opts, &resolved, err);
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
    pool->refs = 1;
    pool->fork = pnx__fork_generation();
    pool->system_clock = !resolved.env || !resolved.env->now;
    pnx__mutex_init(&pool->lock, PNX_RANK_POOL);
    configure(pool, &resolved);
    rc = fill_pool(pool, &resolved, err);
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
    pool->refs++; /* for the second look below */
    pnx__pool_core_tick(&pool->core, now, &effects);
    pnx__pool_health_locked(pool);
    pnx__pool_unlock(pool, &effects, &driver);
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pool->refs--;
    pnx_ns next = pool->core.next_timer;
    pnx__pool_unlock(pool, &effects, NULL);
    return next;
}

int pnx_pool_resize(struct pnx_pool *pool, uint32_t max, struct pnx_error *err) {
    if (!pool)
        return pnx__fail_field(err, -EINVAL, "pool", "pool.resize: pool is NULL");
    struct pnx_pool_opts wanted = {.size = sizeof(wanted), .max = max}, checked;
    int rc = pnx__opts_resolve(&pnx__pool_options, &wanted, &checked, err);
    if (rc)
        return rc;
    if (max < pool->core.config.min_idle)
        return pnx__fail_field(err, -EINVAL, "max", "pool.max is %u, less than min_idle (%u)", max,
                pool->core.config.min_idle);
    if (pnx__pool_forked(pool))
        return pnx__fail(err, -ESHUTDOWN, 0, "fork",
                "pool \"%.40s\" was made before fork(), in the parent of this process", pool->name);
    /* Slots are allocated first, and locked then; they are never fewer again. */
    pnx__pool_lock(pool);
    uint32_t missing = max > pool->core.capacity ? max - pool->core.capacity : 0;
    pnx__mutex_unlock(&pool->lock);
    struct pnx__pool_chunk *chunk = NULL;
    size_t bytes = missing ? chunk_bytes(missing) : 0;
    if (missing) {
        rc = pnx_budget_charge(pool->budget, bytes, 0);
        if (rc)
            return pnx__fail(err, rc, 0, "resize", "pool \"%.40s\": the memory budget refused it",
                    pool->name);
        chunk = new_chunk(&pool->env, missing);
        if (!chunk) {
            pnx_budget_uncharge(pool->budget, bytes);
            return pnx__fail(err, -ENOMEM, 0, "resize", "pool \"%.40s\": no memory for %u slots",
                    pool->name, missing);
        }
    }
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    bool closed = pool->core.closing;
    if (chunk && !closed && max > pool->core.capacity) {
        add_chunk_locked(pool, chunk);
        pool->bytes += bytes;
        chunk = NULL;
    }
    if (!closed)
        pnx__pool_core_resize(&pool->core, max, &effects);
    size_t held = pool->bytes;
    pnx__pool_unlock(pool, &effects, NULL);
    if (chunk) { /* somebody else was faster, or the pool is closed */
        pnx__free(&pool->env, chunk, 1, bytes);
        pnx_budget_uncharge(pool->budget, bytes);
    }
    if (closed)
        return pnx__fail(err, -ESHUTDOWN, 0, "closed", "pool \"%.40s\" is closed", pool->name);
    pnx_registry_set_bytes(pool->registry, pool->row, held);
    return 0;
}

/* ---- the end ---- */

/* Refuses everybody, closes what is idle.  Lock held before and after; true for the caller who began it. */
static bool begin_close_locked(struct pnx_pool *pool) {
    bool first = !pool->core.closing;
    bool more;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    if (first)
        pnx__pool_core_close(&pool->core, &effects);
    effects.work = true; /* without threads, every caller of close runs what is left to close */
    do {
        more = pnx__pool_core_refuse(&pool->core, &effects);
        pnx__pool_health_locked(pool);
        pnx__pool_unlock(pool, &effects, NULL);
        pnx__pool_effects_init(&effects);
        pnx__pool_lock(pool);
    } while (more);
    return first;
}

static void wait_home_locked(struct pnx_pool *pool, pnx_ns deadline) {
    while (pool->core.size > 0 || pool->threads > 0) {
        /* pairs with pool_drive.bump */
        uint32_t seq = pnx_load(&pool->home_seq, PNX_ACQUIRE, "pool.home_seq");
        pool->closers++;
        pnx__mutex_unlock(&pool->lock);
        bool late = pnx__now(&pool->env) >= deadline;
        if (!late)
            pnx__pool_sleep(pool, &pool->home_seq, seq, deadline);
        pnx__pool_lock(pool);
        pool->closers--;
        if (late)
            return;
    }
}

int pnx_pool_close(struct pnx_pool *pool, pnx_ns timeout) {
    if (!pool)
        return -EINVAL;
    int rc = pnx__timeout(timeout, pool->close_timeout, NULL, &timeout);
    if (rc)
        return rc;
    if (pnx__pool_forked(pool)) {
        pnx__pool_abandon_idle(pool);
        return 0;
    }
    pnx_ns start = pnx__now(&pool->env);
    pnx_ns deadline = pnx__deadline(start, timeout);
    bool inside = pnx__pool_call_inside(pool);
    struct pnx__pool_effects effects;
    pnx__pool_lock(pool);
    pool->refs++;
    bool first = begin_close_locked(pool);
    if (!inside)
        wait_home_locked(pool, deadline);
    uint32_t left = pool->core.size;
    pnx__mutex_unlock(&pool->lock);

    if (!inside)
        pnx__pool_join_ended(pool, NULL);
    if (first)
        pnx__event(&pool->block, PNX_EVENT_POOL_CLOSED, pool->name, left ? -ETIMEDOUT : 0, NULL,
                left, 0);
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pool->refs--;
    pnx__pool_unlock(pool, &effects, NULL);
    if (inside)
        return -EDEADLK;
    return left < INT_MAX ? (int)left : INT_MAX;
}

void pnx_pool_release(struct pnx_pool **pool) {
    if (!pool || !*pool)
        return;
    struct pnx_pool *old = *pool;
    *pool = NULL;
    if (pnx__pool_forked(old)) {
        pnx__pool_abandon_idle(old);
        return;
    }
    /* From here on no shutdown of the registry calls end_by_registry(). */
    int rc = pnx_registry_remove(old->registry, old->row);
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(old);
    begin_close_locked(old);
    if (rc != -EDEADLK) { /* else that cleanup waits for this thread and still needs the memory */
        old->released = true;
        old->refs--;
    }
    pnx__pool_unlock(old, &effects, NULL);
}
