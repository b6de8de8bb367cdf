/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/group.c - a group of pools by key: making, asking, ticking, closing and freeing it.
 *
 * The public guarantees G1..G8 stand in patinox/pool_group.h; keys are in group_keys.c, shares in group_share.c.
 */
#include "pool/group.h"

#include "os/thread.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#define PNX_GROUP     pool_group
#define PNX_GROUP_DEF <patinox/stats/pool_group.def>
#include "stats/declare_group.inc"

static_assert(
        sizeof(struct pnx_pool_group_opts) == 10 * 8 + 6 * 4, "no padding in an option struct");
static_assert(sizeof(struct pnx_pool_group_opts) <= PNX_OPTS_MAX_SIZE, "fits the checker");

/* clang-format off */
static const struct pnx_opt rows[] = {
#define PNX_OPTION(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_pool_group_opts, field, kind, flags, dflt, lo, hi, text)
#include "pool/group_opts.def"
#undef PNX_OPTION
};
/* clang-format on */

static const struct pnx_opt_table option_table = {
        "pool_group", sizeof(struct pnx_pool_group_opts), rows, sizeof(rows) / sizeof(rows[0])};

int pnx_pool_group_opts_set(struct pnx_pool_group_opts *opts, const char *name, const char *text,
        struct pnx_error *err) {
    if (!opts || !name || !text)
        return pnx__fail_field(err, -EINVAL, NULL, "pool_group.opts_set: an argument is NULL");
    return pnx__opts_set(&option_table, opts, name, text, err);
}

bool pnx__group_forked(const struct pnx_pool_group *group) {
    return pnx__fork_generation() != group->fork;
}

bool pnx__group_inside(const struct pnx_pool_group *group) {
    const struct pnx_thread *thread = pnx__thread();
    const struct pnx__pool_call *call = thread ? thread->pool_calls : NULL;
    while (call && call->pool->member.group != group)
        call = call->outer;
    return call != NULL;
}

/* ---- what is done without the lock ---- */

static void free_group(struct pnx_pool_group *group) {
    struct pnx_env env = group->env;
    if (group->bytes)
        pnx_budget_uncharge(group->budget, group->bytes);
    if (group->budget)
        pnx_budget_release(&group->budget);
    if (group->registry)
        pnx_registry_release(&group->registry);
    pnx__stats_remove(&group->block);
    pnx__free(&env, group->buckets, group->n_buckets, sizeof(*group->buckets));
    pnx__strfree(&env, group->name);
    pnx__mutex_destroy(&group->lock);
    pnx__free(&env, group, 1, sizeof(*group));
}

/* A group for which this thread is at work; see pnx_thread.pool_groups. */
struct work {
    const struct pnx_pool_group *group;
    const struct work *outer;
};

static bool is_at_work(const struct pnx_pool_group *group) {
    const struct pnx_thread *self = pnx__self();
    const struct work *work = self ? self->pool_groups : NULL;
    while (work && work->group != group)
        work = work->outer;
    return work != NULL;
}

/* What the pool's unlock would have done when its quota was changed; the key has a ref for that. */
static void kick(struct pnx__group_key *key, bool ends) {
    struct pnx_pool *pool = pnx__group_pool(key);
    struct pnx__pool_effects effects;
    if (ends)
        (void)pnx_pool_close_begin(pool);
    pnx__pool_effects_init(&effects);
    effects.work = true;
    effects.timer = true;
    pnx__pool_lock(pool);
    pnx__pool_unlock(pool, &effects, NULL);
}

/* Does one piece of work, without the lock that is held before and after; false when there is none for this thread. */
static bool do_some_locked(struct pnx_pool_group *group, bool kicks) {
    struct pnx_link *link = pnx__list_pop_front(&group->gone);
    if (link) {
        pnx__mutex_unlock(&group->lock);
        pnx__group_end_key(PNX_CONTAINER(link, struct pnx__group_key, all));
        pnx__group_lock(group);
        group->members--;
        return true;
    }
    link = kicks ? pnx__list_pop_front(&group->kicks) : NULL;
    if (!link)
        return false;
    struct pnx__group_key *key = PNX_CONTAINER(link, struct pnx__group_key, kick);
    bool ends = key->state == PNX__GROUP_ENDING || group->closing;
    pnx__mutex_unlock(&group->lock);
    kick(key, ends);
    pnx__group_lock(group);
    pnx__group_put_locked(key);
    pnx__group_sweep_locked(group);
    return true;
}

/*
 * A kick may run operations and be told of their ends, and so come here again on the same thread: then the kicks that this
 * brings are left to the call further out, so that the depth is bounded.
 */
void pnx__group_unlock(struct pnx_pool_group *group) {
    struct pnx_thread *self = pnx__self();
    struct work work = {.group = group, .outer = self ? self->pool_groups : NULL};
    bool kicks = !is_at_work(group);
    if (self)
        self->pool_groups = &work;
    while (do_some_locked(group, kicks)) {
    }
    if (self)
        self->pool_groups = work.outer;
    bool last = group->released && group->members == 0;
    pnx__mutex_unlock(&group->lock);
    if (last)
        free_group(group);
}

/* ---- create ---- */

/* What the group has of its own must not be set in the pools' options. */
static int check_template(const struct pnx_pool_group_opts *opts, struct pnx_pool_opts *ret_pool,
        struct pnx_error *err) {
    struct pnx_pool_opts pool = {.size = sizeof(pool)};
    if (opts->pool) {
        int rc = pnx__opts_copy("pool_group.pool", sizeof(pool), opts->pool, &pool, err);
        if (rc)
            return rc;
    }
    const char *field = pool.max        ? "max"
                        : pool.name     ? "name"
                        : pool.env      ? "env"
                        : pool.registry ? "registry"
                        : pool.budget   ? "budget"
                                        : NULL;
    if (field)
        return pnx__fail_field(
                err, -EINVAL, "pool", "pool_group.pool.%s is set, but it is the group's", field);
    pool.max = opts->max_per_key;
    pool.site = opts->site;
    pool.env = opts->env;
    pool.registry = opts->registry;
    pool.budget = opts->budget;
    if (!pool.stats)
        pool.stats = opts->stats;
    *ret_pool = pool;
    return 0;
}

static int check_opts(const struct pnx_pool_group_opts *user, struct pnx_pool_group_opts *ret_opts,
        struct pnx_error *err) {
    if (!user)
        return pnx__fail_field(
                err, -EINVAL, "max_total", "pool_group.max_total is required, and opts is NULL");
    int rc = pnx__opts_resolve(&option_table, user, ret_opts, err);
    if (rc)
        return rc;
    if (ret_opts->max_per_key == 0)
        ret_opts->max_per_key = ret_opts->max_total;
    if (ret_opts->max_per_key > ret_opts->max_total)
        return pnx__fail_field(err, -EINVAL, "max_per_key",
                "pool_group.max_per_key is %u, more than max_total (%u)", ret_opts->max_per_key,
                ret_opts->max_total);
    if (ret_opts->min_per_key > ret_opts->max_per_key)
        return pnx__fail_field(err, -EINVAL, "min_per_key",
                "pool_group.min_per_key is %u, more than max_per_key (%u)", ret_opts->min_per_key,
                ret_opts->max_per_key);
    if ((uint64_t)ret_opts->min_per_key * ret_opts->max_keys > ret_opts->max_total)
        return pnx__fail_field(err, -EINVAL, "min_per_key",
                "pool_group.min_per_key (%u) for each of max_keys (%u) keys is more than max_total "
                "(%u)",
                ret_opts->min_per_key, ret_opts->max_keys, ret_opts->max_total);
    return 0;
}

/* Checks manager, options and those of the pools; the pools' resolved times go to the group. */
static int check_all(const struct pnx_pool_manager *manager, const struct pnx_pool_group_opts *user,
        struct pnx_pool_group_opts *ret_opts, struct pnx_pool_opts *ret_pool,
        struct pnx_error *err) {
    int rc = check_opts(user, ret_opts, err);
    if (rc == 0)
        rc = check_template(ret_opts, ret_pool, err);
    return rc ? rc : pnx__pool_check_opts(manager, ret_pool, err);
}

/* Copies what the user's structs point to, as far as their sizes go; they have been checked. */
static void copy_inputs(struct pnx_pool_group *group, const struct pnx_pool_manager *manager,
        const struct pnx_pool_opts *pool) {
    struct pnx_pool_opts resolved;
    group->manager.size = sizeof(group->manager);
    (void)pnx__opts_copy("pool.manager", sizeof(group->manager), manager, &group->manager, NULL);
    group->pool_opts = *pool;
    group->pool_opts.env = &group->env;
    if (pool->hooks) {
        group->hooks.size = sizeof(group->hooks);
        (void)pnx__opts_copy("pool.hooks", sizeof(group->hooks), pool->hooks, &group->hooks, NULL);
        group->pool_opts.hooks = &group->hooks;
    }
    if (pnx__opts_resolve(&pnx__pool_options, pool, &resolved, NULL) == 0) {
        group->acquire_timeout = resolved.acquire_timeout_ns;
        group->close_timeout = resolved.close_timeout_ns;
    }
}

static void init_lists(struct pnx_pool_group *group) {
    pnx__list_init(&group->all);
    pnx__list_init(&group->used);
    pnx__list_init(&group->leaving);
    pnx__list_init(&group->ending);
    pnx__list_init(&group->gone);
    pnx__list_init(&group->kicks);
    pnx__list_init(&group->hungry);
}

static void configure(struct pnx_pool_group *group, const struct pnx_pool_group_opts *opts) {
    group->seed = group->env.random(group->env.ctx);
    group->fork = pnx__fork_generation();
    group->site = opts->site;
    group->key_idle = opts->key_idle_ns;
    group->turn = opts->turn_ns;
    group->max_total = opts->max_total;
    group->min_per_key = opts->min_per_key;
    group->max_keys = opts->max_keys;
    group->flags = opts->flags;
    group->n_buckets = 8;
    while (group->n_buckets < opts->max_keys && group->n_buckets < 65536)
        group->n_buckets *= 2;
    pnx_owner_add(&group->values[PNX__GROUP_STAT_limit], opts->max_total);
}

static int end_by_registry(void *arg, const struct pnx_cancel *cancel) {
    int rc = pnx_pool_group_close(arg, pnx_cancel_remaining(cancel));
    return rc > 0 ? -ETIMEDOUT : rc;
}

static int join_budget(struct pnx_pool_group *group, struct pnx_budget *budget) {
    group->budget = pnx_budget_ref(budget ? budget : pnx_budget_default());
    size_t bytes = sizeof(*group) + group->n_buckets * sizeof(*group->buckets);
    int rc = pnx_budget_charge(group->budget, bytes, 0);
    if (rc == 0)
        group->bytes = bytes;
    group->pool_opts.budget = group->budget;
    return rc;
}

static int fill_group(struct pnx_pool_group *group, const struct pnx_pool_group_opts *opts,
        struct pnx_error *err) {
    group->name = pnx__strdup(&group->env, opts->name ? opts->name : "group");
    group->buckets = pnx__alloc(&group->env, group->n_buckets, sizeof(*group->buckets));
    if (!group->name || !group->buckets)
        return pnx__fail(err, -ENOMEM, 0, "create", "pool group: no memory");
    int rc = join_budget(group, opts->budget);
    if (rc)
        return pnx__fail(err, rc, 0, "create", "pool group \"%.40s\": the memory budget refused it",
                group->name);
    pnx__pool_group_stats_init(
            &group->block, group->name, (struct pnx_pool_group_values *)group->values, NULL);
    pnx__stats_add(opts->stats, &group->block);
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "pool group",
            .name = group->name,
            .site = opts->site,
            .cleanup = end_by_registry,
            .arg = group,
            .bytes = group->bytes,
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    group->registry = pnx_registry_ref(opts->registry);
    group->pool_opts.registry = group->registry;
    return pnx_registry_add(group->registry, &resource, err, &group->row);
}

int pnx_pool_group_create(const struct pnx_pool_manager *manager,
        const struct pnx_pool_group_opts *opts, struct pnx_error *err,
        struct pnx_pool_group **ret_group) {
    struct pnx_pool_group_opts resolved = {0};
    struct pnx_pool_opts pool = {0};
    struct pnx_env env;
    if (!ret_group)
        return pnx__fail_field(err, -EINVAL, "ret_group", "pool_group: ret_group is NULL");
    int rc = check_all(manager, opts, &resolved, &pool, err);
    if (rc == 0)
        rc = pnx__env_resolve(resolved.env, err, &env);
    if (rc)
        return rc;
    struct pnx_pool_group *group = pnx__alloc(&env, 1, sizeof(*group));
    if (!group)
        return pnx__fail(err, -ENOMEM, 0, "create", "pool group: no memory");
    group->env = env;
    pnx__mutex_init(&group->lock, PNX_RANK_GROUP);
    init_lists(group);
    configure(group, &resolved);
    copy_inputs(group, manager, &pool);
    rc = fill_group(group, &resolved, err);
    if (rc) {
        free_group(group);
        return rc;
    }
    *ret_group = group;
    return 0;
}

/* ---- asking ---- */

static int check_key(const struct pnx_pool_group *group, const void *key, size_t key_len,
        struct pnx_error *err) {
    if (!key && key_len > 0)
        return pnx__fail_field(err, -EINVAL, "key", "pool_group.acquire: key is NULL");
    if (key_len > PNX_POOL_KEY_MAX)
        return pnx__fail_field(err, -EINVAL, "key_len",
                "pool_group.acquire: a key of %zu bytes is too long", key_len);
    if (pnx__group_forked(group))
        return pnx__fail(err, -ESHUTDOWN, 0, "fork",
                "pool group \"%.40s\" was made before fork(), in the parent of this process",
                group->name);
    return 0;
}

int pnx_pool_group_acquire(struct pnx_pool_group *group, const void *key, size_t key_len,
        pnx_ns timeout, const struct pnx_acquire_opts *with, struct pnx_error *err,
        struct pnx_lease *ret_lease) {
    struct pnx__pool_asking asking;
    struct pnx__group_key *held;
    if (!group || !ret_lease)
        return pnx__fail_field(err, -EINVAL, group ? "ret_lease" : "group",
                "pool_group.acquire: %s is NULL", group ? "ret_lease" : "group");
    int rc = pnx__timeout(timeout, group->acquire_timeout, err, &timeout);
    if (rc == 0)
        rc = pnx__pool_check_asking(with, err, &asking);
    if (rc == 0)
        rc = check_key(group, key, key_len, err);
    if (rc == 0)
        rc = pnx__group_hold(group, key, key_len, err, &held);
    if (rc)
        return rc;
    /* To wait for a share inside an operation may be to wait for that very operation, whichever pool's it is. */
    bool inside = timeout > 0 && pnx__group_inside(group);
    rc = pnx_pool_acquire_with(pnx__group_pool(held), inside ? 0 : timeout, with, err, ret_lease);
    if (inside && (rc == -ETIMEDOUT || rc == -EAGAIN))
        rc = pnx__fail(err, -EDEADLK, 0, "wait",
                "pool group \"%.40s\": waiting inside an operation of one of its pools",
                group->name);
    pnx__group_drop(held);
    return rc;
}

int pnx_pool_group_acquire_async(struct pnx_pool_group *group, const void *key, size_t key_len,
        struct pnx_pool_request *request) {
    struct pnx__group_key *held;
    if (!group || !request)
        return -EINVAL;
    int rc = check_key(group, key, key_len, NULL);
    if (rc == 0)
        rc = pnx__group_hold(group, key, key_len, NULL, &held);
    if (rc)
        return rc;
    rc = pnx_pool_acquire_async(pnx__group_pool(held), request);
    pnx__group_drop(held);
    return rc;
}

/* ---- time ---- */

/* When a pool's tick is due: now when there is something that only a tick does. */
static pnx_ns due_of(struct pnx_pool *pool, pnx_ns now) {
    pnx__pool_lock(pool);
    bool works = (pool->flags & PNX_POOL_NO_THREADS) &&
                 pnx__pool_core_runnable(&pool->core, false, pool->core.now);
    pnx_ns due = works ? now : pnx__pool_due(pool);
    pnx__mutex_unlock(&pool->lock);
    return due;
}

pnx_ns pnx_pool_group_tick(struct pnx_pool_group *group, pnx_ns now) {
    struct pnx__group_key *key = NULL;
    pnx_ns next = PNX_NEVER;
    if (!group || pnx__group_forked(group))
        return PNX_NEVER;
    while ((key = pnx__group_next(group, key))) {
        (void)pnx_pool_tick(pnx__group_pool(key), now);
        pnx__group_lock(group);
        pnx__group_put_locked(key); /* so that it may be seen to be unused */
        pnx__group_expire_locked(key, now);
        pnx__group_ref_locked(key);
        pnx__group_unlock(group);
    }
    pnx__group_lock(group);
    pnx__group_tend_locked(group, now);
    pnx__group_unlock(group);
    while ((key = pnx__group_next(group, key))) {
        pnx_ns due = due_of(pnx__group_pool(key), now);
        next = due < next ? due : next;
    }
    return next;
}

/* ---- the end ---- */

/* In a forked child, without the lock: see K3. */
static void abandon(const struct pnx_pool_group *group) {
    for (uint32_t i = 0; i < group->n_buckets; i++) {
        /* pairs with pool_group.insert and pool_group.cut; the child is a copy of one moment */
        const struct pnx__group_key *key =
                pnx_load(&group->buckets[i], PNX_ACQUIRE, "pool_group.walk");
        for (; key; key = pnx_load(&key->next, PNX_ACQUIRE, "pool_group.walk_next")) {
            /* pairs with pool_group.made */
            struct pnx_pool *pool = pnx_load(&key->pool, PNX_ACQUIRE, "pool_group.walk_pool");
            if (pool)
                pnx__pool_abandon_all(pool);
        }
    }
}

/* Refuses everybody, and begins the end of all pools.  final: nobody will ask for anything any more. */
static void begin_close(struct pnx_pool_group *group, bool final) {
    pnx__group_lock(group);
    group->closing = true;
    pnx__group_unlock(group);
    struct pnx__group_key *key = NULL;
    while ((key = pnx__group_next(group, key))) {
        struct pnx_pool *pool = pnx__group_pool(key);
        /* A shutdown that closes the pool just now is waited for here, by a thread that it does not wait for. */
        if (final)
            pool->member.struck = pnx_registry_remove(pool->registry, pool->row) != -EDEADLK;
        (void)pnx_pool_close_begin(pool);
        pnx__group_lock(group);
        if (key->state == PNX__GROUP_OPEN)
            pnx__group_leave_locked(key);
        pnx__group_unlock(group);
    }
    pnx__group_lock(group);
    pnx__group_sweep_locked(group);
    pnx__health_set(&group->block, PNX_HEALTH_DOWN, "closed");
    pnx__group_unlock(group);
}

int pnx_pool_group_close(struct pnx_pool_group *group, pnx_ns timeout) {
    if (!group)
        return -EINVAL;
    int rc = pnx__timeout(timeout, group->close_timeout, NULL, &timeout);
    if (rc)
        return rc;
    if (pnx__group_forked(group)) {
        abandon(group);
        return 0;
    }
    pnx_ns deadline = pnx__deadline(pnx__now(&group->env), timeout);
    bool inside = pnx__group_inside(group);
    begin_close(group, false);
    int64_t left = 0;
    struct pnx__group_key *key = NULL;
    if (inside)
        return -EDEADLK;
    while ((key = pnx__group_next(group, key))) {
        rc = pnx_pool_close(pnx__group_pool(key), pnx__remaining(pnx__now(&group->env), deadline));
        left += rc > 0 ? rc : 0;
    }
    return left < INT_MAX ? (int)left : INT_MAX;
}

void pnx_pool_group_release(struct pnx_pool_group **group) {
    if (!group || !*group)
        return;
    struct pnx_pool_group *old = *group;
    *group = NULL;
    if (pnx__group_forked(old)) {
        abandon(old);
        return;
    }
    /* From here on no shutdown of the registry calls end_by_registry(). */
    int rc = pnx_registry_remove(old->registry, old->row);
    begin_close(old, true);
    pnx__group_lock(old);
    old->released =
            rc != -EDEADLK; /* else that cleanup waits for this thread and still needs the memory */
    pnx__group_sweep_locked(old);
    pnx__group_unlock(old);
}
