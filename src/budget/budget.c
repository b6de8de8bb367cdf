/* SPDX-License-Identifier: Apache-2.0 */
/*
 * budget/budget.c - the tree of limits: charging, uncharging, life of a budget.  Reclaiming is in reclaim.c.
 *
 * One mutex guards each tree.  A charge looks at every level first and adds to all or none, so that there is
 * nothing to roll back and no moment at which the levels disagree.  Per-thread credits, which take the mutex off
 * the hot path, come with the budget's own issue, beneath the same guarantees.
 *
 *   P1  used = own + sum of the children's used, whenever the lock is free.
 *   P2  used <= hard after each charge, PNX_CHARGE_MUST excepted.
 *   P3  A refused charge has changed no level.
 *   P4  No callback, event, allocation or free happens under the lock.  A call that may run under a caller's
 *       lock (PNX_CHARGE_NO_RECLAIM, uncharge) calls nothing out either: what it has to tell waits for the next
 *       call that may.
 *   P5  In a forked child no tree's lock is held, whatever other threads were doing.
 */
#include "budget/budget.h"

#include "base/env_system.h"
#include "base/options.h"
#include "os/fork.h"
#include "os/thread.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define OPT(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_budget_opts, field, kind, flags, dflt, lo, hi, text)
#define PNX_OPTION OPT
static const struct pnx_opt option_rows[] = {
#include "budget/budget_opts.def"
};
#undef PNX_OPTION
static const struct pnx_opt_table options = {"budget", sizeof(struct pnx_budget_opts), option_rows,
        sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_budget_opts) == 9 * sizeof(void *), "padding in pnx_budget_opts");
static_assert(sizeof(struct pnx_budget_opts) <= PNX_OPTS_MAX_SIZE, "too large for the checker");
static_assert(sizeof(struct pnx_reclaimer) == 4 * sizeof(void *) + 8, "padding in pnx_reclaimer");

static struct pnx_budget off_budget;
static struct pnx_budget default_budget;
static pthread_once_t default_once = PTHREAD_ONCE_INIT;

static bool is_off(const struct pnx_budget *budget) {
    return budget == &off_budget;
}

static void publish(struct pnx_a64 *gauge, uint64_t value) {
    pnx_store(gauge, value, PNX_RELAXED, "budget.gauge"); /* read by anybody; orders nothing */
}

/* ---- fork ---- */

static struct pnx_mutex trees_lock = PNX_MUTEX_STATIC(PNX_RANK_BUDGETS);
static struct pnx_link trees = {&trees, &trees}; /* the lock */

static void fork_prepare(void) {
    pnx__fork_lock(&trees_lock);
    PNX_LIST_EACH (link, after, &trees) /* nobody else holds those of two trees */
        pnx__fork_lock(&PNX_CONTAINER(link, struct pnx_budget_tree, link)->lock);
}

static void after_fork(void) {
    PNX_LIST_EACH (link, after, &trees)
        pnx__fork_unlock(&PNX_CONTAINER(link, struct pnx_budget_tree, link)->lock);
    pnx__fork_unlock(&trees_lock);
}

static void watch_forks(void) {
    pnx__at_fork(PNX_RANK_BUDGETS, fork_prepare, after_fork, after_fork);
}

/* ---- trees ---- */

static void tree_init(struct pnx_budget_tree *tree) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pnx__mutex_init(&tree->lock, PNX_RANK_BUDGET);
    pnx__list_init(&tree->reclaimers);
    pnx__list_init(&tree->pending);
    pnx__mutex_lock(&trees_lock);
    pnx__list_push_back(&trees, &tree->link);
    pnx__mutex_unlock(&trees_lock);
}

static void tree_destroy(struct pnx_budget_tree *tree) {
    pnx__mutex_lock(&trees_lock);
    pnx__list_remove(&tree->link);
    pnx__mutex_unlock(&trees_lock);
    pnx__mutex_destroy(&tree->lock);
}

static void block_join(struct pnx_budget *budget, struct pnx_stats *stats) {
    pnx__budget_stats_init(&budget->block, budget->name, &budget->values, NULL);
    pnx__stats_add(stats, &budget->block);
}

static void default_start(void) {
    static char name[] = "process";
    struct pnx_budget *budget = &default_budget;
    budget->tree = &budget->own_tree;
    budget->env = *pnx__env_system();
    budget->name = name;
    budget->refs = 1; /* for ever */
    tree_init(budget->tree);
    block_join(budget, pnx_stats_default());
}

struct pnx_budget *pnx_budget_default(void) {
    pthread_once(&default_once, default_start);
    return &default_budget;
}

struct pnx_budget *pnx_budget_off(void) {
    return &off_budget;
}

/* ---- usage: everything below until "calls" holds the tree's lock ---- */

void pnx__budget_check_locked(const struct pnx_budget *budget) {
#ifdef PNX_DEBUG
    pnx__mutex_assert_held(&budget->tree->lock);
    bool right = budget->own <= budget->used &&
                 (!budget->parent || budget->used <= budget->parent->used) &&
                 (!budget->soft || !budget->hard || budget->soft <= budget->hard) &&
                 (budget->tell != 0) == pnx__list_linked(&budget->pending) &&
                 budget->values.used.v == budget->used && budget->values.peak.v >= budget->used;
    if (!right)
        abort(); /* an invariant of struct pnx_budget does not hold: a bug of the library */
#else
    (void)budget;
#endif
}

static void tell_locked(struct pnx_budget *budget, uint32_t what) {
    if (budget->tell == 0)
        pnx__list_push_back(&budget->tree->pending, &budget->pending);
    budget->tell |= what;
}

/* Usage at which a budget that was pressed is at ease again. */
static size_t relief(const struct pnx_budget *budget) {
    size_t limit = budget->soft ? budget->soft : budget->hard;
    return limit ? limit - limit / 8 : SIZE_MAX;
}

/* The one place that changes pressed, refusing and the health that follows from them. */
static void judge_locked(struct pnx_budget *budget, bool refused) {
    bool pressed = budget->pressed, refusing = budget->refusing || refused;
    if (budget->soft && budget->used > budget->soft)
        pressed = true;
    else if (budget->used <= relief(budget))
        pressed = false;
    if (!refused && budget->used <= relief(budget))
        refusing = false;
    if (!budget->soft || budget->used <= budget->soft)
        budget->ask_from = 0;
    if (pressed == budget->pressed && refusing == budget->refusing)
        return;
    if (pressed && !budget->pressed)
        tell_locked(budget, PNX_BUDGET_TELL_PRESSURE);
    budget->pressed = pressed;
    budget->refusing = refusing;
    if (refusing)
        pnx__health_set(
                &budget->block, PNX_HEALTH_DEGRADED, "charges were refused at the hard limit");
    else if (pressed)
        pnx__health_set(&budget->block, PNX_HEALTH_DEGRADED, "over the soft limit");
    else
        pnx__health_set(&budget->block, PNX_HEALTH_OK, "");
}

/* Returns the lowest level whose hard limit stands in the way of bytes more, or NULL. */
static struct pnx_budget *obstacle_locked(struct pnx_budget *budget, size_t bytes) {
    for (struct pnx_budget *level = budget; level; level = level->parent) {
        if (level->hard && (bytes > level->hard || level->used > level->hard - bytes))
            return level;
    }
    return NULL;
}

static void set_used_locked(struct pnx_budget *level, size_t used) {
    level->used = used;
    publish(&level->values.used, used);
    if (used > level->values.peak.v)
        publish(&level->values.peak, used);
    judge_locked(level, false);
}

/* Adds to every level; the caller has made sure that each may, and that the root does not overflow. */
static void add_locked(struct pnx_budget *budget, size_t bytes) {
    budget->own += bytes;
    for (struct pnx_budget *level = budget; level; level = level->parent) {
        size_t used = level->used + bytes;
        if (level->hard && used > level->hard) {
            size_t over = used - level->hard;
            pnx_owner_add(&level->values.overcommit, over < bytes ? over : bytes);
        }
        set_used_locked(level, used);
    }
    pnx__budget_check_locked(budget);
}

static void subtract_locked(struct pnx_budget *budget, size_t bytes) {
    budget->own -= bytes;
    for (struct pnx_budget *level = budget; level; level = level->parent)
        set_used_locked(level, level->used - bytes);
    pnx__budget_check_locked(budget);
}

static void refuse_locked(struct pnx_budget *level, size_t bytes) {
    pnx_owner_add(&level->values.refusals, 1);
    level->tell_refused = bytes;
    tell_locked(level, PNX_BUDGET_TELL_REFUSED);
    judge_locked(level, true);
}

static size_t root_used_locked(const struct pnx_budget *budget) {
    while (budget->parent)
        budget = budget->parent;
    return budget->used;
}

/* ---- life ---- */

void pnx__budget_get_locked(struct pnx_budget *budget) {
    budget->refs++;
}

/* Says, once, that the budget is over: nobody refers to it and nothing is charged. */
static bool ends_locked(struct pnx_budget *budget) {
    if (budget->refs > 0 || budget->own > 0 || budget->dying)
        return false;
    budget->dying = true;
    if (budget->tell) {
        budget->tell = 0;
        pnx__list_remove(&budget->pending);
    }
    return true;
}

bool pnx__budget_put_locked(struct pnx_budget *budget) {
    budget->refs--;
    return ends_locked(budget);
}

static void free_half_built(struct pnx_budget *budget) {
    struct pnx_env env = budget->env;
    if (!budget->parent)
        tree_destroy(&budget->own_tree);
    pnx_registry_release(&budget->registry);
    pnx__strfree(&env, budget->name);
    pnx__free(&env, budget, 1, sizeof(*budget));
}

void pnx__budget_bury(struct pnx_budget *budget) {
    while (budget) {
        struct pnx_budget *parent = budget->parent;
        /* A cleanup that is running in a shutdown looks at the budget: this waits for it. */
        if (budget->row)
            pnx_registry_remove(budget->registry, budget->row);
        pnx__stats_remove(&budget->block);
        free_half_built(budget);
        budget = NULL;
        if (parent) {
            struct pnx_budget_tree *tree = parent->tree;
            pnx__mutex_lock(&tree->lock);
            if (pnx__budget_put_locked(parent))
                budget = parent;
            pnx__mutex_unlock(&tree->lock);
        }
    }
}

/* Takes one reference to a budget with something to tell, and what it is; NULL when there is none left. */
static struct pnx_budget *next_teller(
        struct pnx_budget_tree *tree, uint32_t *ret_tell, size_t ret_value[3]) {
    struct pnx_budget *teller = NULL;
    pnx__mutex_lock(&tree->lock);
    struct pnx_link *link = pnx__list_pop_front(&tree->pending);
    if (link) {
        teller = PNX_CONTAINER(link, struct pnx_budget, pending);
        *ret_tell = teller->tell;
        ret_value[0] = teller->used;
        ret_value[1] = teller->tell_refused;
        ret_value[2] = teller->tell_misuse;
        teller->tell = 0;
        pnx__budget_get_locked(teller);
    }
    pnx__mutex_unlock(&tree->lock);
    return teller;
}

static void put(struct pnx_budget *budget) {
    struct pnx_budget_tree *tree = budget->tree;
    pnx__mutex_lock(&tree->lock);
    bool ends = pnx__budget_put_locked(budget);
    pnx__mutex_unlock(&tree->lock);
    if (ends)
        pnx__budget_bury(budget);
}

/* Tells the monitors what has happened in the tree.  No lock is held; the caller keeps budget alive. */
static void flush_events(struct pnx_budget *budget) {
    static const struct {
        uint32_t tell;
        enum pnx_event_type type;
        int code;
    } events[3] = {
            {PNX_BUDGET_TELL_PRESSURE, PNX_EVENT_BUDGET_PRESSURE, 0},
            {PNX_BUDGET_TELL_REFUSED, PNX_EVENT_BUDGET_REFUSED, -ENOMEM},
            {PNX_BUDGET_TELL_MISUSE, PNX_EVENT_BUDGET_MISUSE, -EINVAL},
    };
    const struct pnx_thread *self = pnx__thread();
    if (self && self->monitor_depth != 0)
        return; /* a monitor that charges would hear of itself without end: the next call tells */
    pnx__mutex_assert_none_held();
    struct pnx_budget_tree *tree = budget->tree;
    size_t n = 0;
    pnx__mutex_lock(&tree->lock);
    PNX_LIST_EACH (link, after, &tree->pending)
        n++;
    pnx__mutex_unlock(&tree->lock);
    /* No more than there were: what the monitors cause meanwhile is for the next call as well. */
    for (; n > 0; n--) {
        uint32_t tell = 0;
        size_t value[3] = {0};
        struct pnx_budget *teller = next_teller(tree, &tell, value);
        if (!teller)
            return;
        for (unsigned i = 0; i < 3; i++) {
            if (tell & events[i].tell)
                pnx__event(&teller->block, events[i].type, teller->name, events[i].code, NULL,
                        (int64_t)value[i], 0);
        }
        put(teller);
    }
}

/*
 * What a shutdown does with a budget: nothing.  It needs no ending, and bytes that are charged still are no
 * finding: objects that the shutdown has closed keep some of their memory until their owners release them.
 */
static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    (void)cancel;
    return 0;
}

static int check_limits(size_t soft, size_t hard, struct pnx_error *err) {
    if (soft && hard && soft > hard)
        return pnx__fail_field(err, -EINVAL, "soft",
                "budget.soft is %zu bytes; it must not be over budget.hard, %zu bytes", soft, hard);
    return 0;
}

static void apply_limits_locked(struct pnx_budget *budget, size_t soft, size_t hard) {
    budget->soft = soft;
    budget->hard = hard;
    budget->ask_from = 0;
    publish(&budget->values.soft_limit, soft);
    publish(&budget->values.hard_limit, hard);
    judge_locked(budget, false);
}

int pnx_budget_create(
        const struct pnx_budget_opts *opts, struct pnx_error *err, struct pnx_budget **ret_budget) {
    struct pnx_budget_opts o;
    struct pnx_env env;
    if (!ret_budget)
        return pnx__fail_field(err, -EINVAL, "ret_budget", "budget: nowhere to put the result");
    int rc = pnx__opts_resolve(&options, opts, &o, err);
    if (!rc)
        rc = check_limits(o.soft, o.hard, err);
    if (!rc)
        rc = pnx__env_resolve(o.env, err, &env);
    if (rc)
        return rc;
    if (!o.soft)
        o.soft = o.hard - o.hard / 8;

    struct pnx_budget *budget = pnx__alloc(&env, 1, sizeof(*budget));
    if (!budget)
        return pnx__fail(err, -ENOMEM, 0, "allocate", "budget: no memory for the budget itself");
    budget->env = env;
    budget->refs = 1;
    budget->parent = is_off(o.parent) ? NULL : o.parent ? o.parent : pnx_budget_default();
    budget->tree = budget->parent ? budget->parent->tree : &budget->own_tree;
    if (!budget->parent)
        tree_init(budget->tree);
    budget->name = pnx__strdup(&env, o.name ? o.name : "budget");
    if (!budget->name) {
        free_half_built(budget);
        return pnx__fail(err, -ENOMEM, 0, "allocate", "budget: no memory for its name");
    }
    budget->registry = pnx_registry_ref(o.registry);
    rc = pnx_registry_add(budget->registry,
            &(const struct pnx_resource){
                    .size = sizeof(struct pnx_resource),
                    .type = "budget",
                    .name = budget->name,
                    .site = o.site,
                    .cleanup = cleanup,
                    .arg = budget,
                    .bytes = sizeof(*budget),
                    .flags = PNX_RESOURCE_LONG_LIVED,
            },
            err, &budget->row);
    if (rc) {
        free_half_built(budget);
        return rc;
    }
    block_join(budget, o.stats);
    pnx__mutex_lock(&budget->tree->lock);
    if (budget->parent)
        pnx__budget_get_locked(budget->parent);
    apply_limits_locked(budget, o.soft, o.hard);
    pnx__mutex_unlock(&budget->tree->lock);
    *ret_budget = budget;
    return 0;
}

struct pnx_budget *pnx_budget_ref(struct pnx_budget *budget) {
    if (!budget || is_off(budget) || budget == &default_budget)
        return budget;
    pnx__mutex_lock(&budget->tree->lock);
    pnx__budget_get_locked(budget);
    pnx__mutex_unlock(&budget->tree->lock);
    return budget;
}

void pnx_budget_release(struct pnx_budget **budget) {
    struct pnx_budget *b = budget ? *budget : NULL;
    if (!b)
        return;
    *budget = NULL;
    if (is_off(b) || b == &default_budget)
        return;
    flush_events(b);
    put(b);
}

int pnx_budget_set_limits(struct pnx_budget *budget, size_t soft, size_t hard) {
    if (!budget || is_off(budget))
        return -EINVAL;
    int rc = check_limits(soft, hard, NULL);
    if (rc)
        return rc;
    pnx__mutex_lock(&budget->tree->lock);
    apply_limits_locked(budget, soft, hard);
    pnx__mutex_unlock(&budget->tree->lock);
    return 0;
}

/* ---- calls ---- */

/* Asks for what is over the soft limits, lowest level first. */
static void soften(struct pnx_budget *budget) {
    struct pnx_budget_tree *tree = budget->tree;
    for (struct pnx_budget *level = budget; level; level = level->parent) {
        pnx__mutex_lock(&tree->lock);
        size_t target = level->soft - level->soft / 8;
        bool due = level->soft && level->used > level->soft && level->used >= level->ask_from;
        pnx__mutex_unlock(&tree->lock);
        if (!due)
            continue;
        size_t fell;
        (void)pnx__budget_shrink(level, target, false, &fell);
    }
}

/* Makes one attempt.  0, -EOVERFLOW, or -ENOMEM with the level in the way and the usage it should fall to. */
static int try_charge_locked(struct pnx_budget *budget, size_t bytes, uint32_t flags,
        struct pnx_budget **ret_obstacle, size_t *ret_target) {
    if (bytes > SIZE_MAX - root_used_locked(budget))
        return -EOVERFLOW;
    struct pnx_budget *level = obstacle_locked(budget, bytes);
    if (level && !(flags & PNX_CHARGE_MUST)) {
        *ret_obstacle = level;
        *ret_target = bytes > level->hard ? SIZE_MAX : level->hard - bytes;
        return -ENOMEM;
    }
    add_locked(budget, bytes);
    return 0;
}

/* Returns whether a charge has left anything to do: an event to tell, or a soft limit that was passed. */
static bool aftermath_locked(const struct pnx_budget *budget) {
    if (!pnx__list_empty(&budget->tree->pending))
        return true;
    for (const struct pnx_budget *level = budget; level; level = level->parent) {
        if (level->soft && level->used > level->soft && level->used >= level->ask_from)
            return true;
    }
    return false;
}

int pnx_budget_charge(struct pnx_budget *budget, size_t bytes, uint32_t flags) {
    if (!budget || (flags & ~(uint32_t)(PNX_CHARGE_MUST | PNX_CHARGE_NO_RECLAIM)))
        return -EINVAL;
    if (is_off(budget) || bytes == 0)
        return 0;
    bool may_call = !(flags & PNX_CHARGE_NO_RECLAIM) && pnx__budget_may_reclaim();
    if (may_call)
        pnx__mutex_assert_none_held();
    struct pnx_budget_tree *tree = budget->tree;
    bool after = false;
    int rc;
    pnx__mutex_lock(&tree->lock);
    pnx__budget_get_locked(budget); /* reclaimers may give back the charges that kept it alive */
    for (unsigned tries = 1;; tries++) {
        struct pnx_budget *obstacle = NULL;
        size_t target = 0, fell;
        rc = try_charge_locked(budget, bytes, flags, &obstacle, &target);
        if (rc != -ENOMEM)
            break;
        /* More than the whole limit: no reclaimer can make room for that, so none is asked. */
        bool hopeless = target == SIZE_MAX || tries > PNX_BUDGET_CHARGE_TRIES;
        if (may_call && !hopeless) {
            pnx__mutex_unlock(&tree->lock);
            hopeless = !pnx__budget_shrink(obstacle, target, true, &fell);
            pnx__mutex_lock(&tree->lock);
            if (!hopeless)
                continue;
            rc = try_charge_locked(budget, bytes, flags, &obstacle, &target);
            if (rc != -ENOMEM)
                break;
        }
        refuse_locked(obstacle, bytes);
        break;
    }
    after = may_call && aftermath_locked(budget);
    if (!after) {
        bool ends = pnx__budget_put_locked(budget);
        pnx__mutex_unlock(&tree->lock);
        if (ends)
            pnx__budget_bury(budget);
        return rc;
    }
    pnx__mutex_unlock(&tree->lock);
    if (rc == 0)
        soften(budget);
    flush_events(budget);
    put(budget);
    return rc;
}

void pnx_budget_uncharge(struct pnx_budget *budget, size_t bytes) {
    if (!budget || is_off(budget) || bytes == 0)
        return;
    struct pnx_budget_tree *tree = budget->tree;
    pnx__mutex_lock(&tree->lock);
    size_t too_many = bytes > budget->own ? bytes - budget->own : 0;
    if (too_many) {
        pnx_owner_add(&budget->values.misuses, 1);
        budget->tell_misuse = too_many;
        tell_locked(budget, PNX_BUDGET_TELL_MISUSE);
    }
    subtract_locked(budget, bytes - too_many);
    bool ends = ends_locked(budget);
    pnx__mutex_unlock(&tree->lock);
    if (ends)
        pnx__budget_bury(budget);
#ifdef PNX_DEBUG
    if (too_many)
        abort(); /* the caller gave back what it never had: found where it happens */
#endif
}

size_t pnx_budget_reclaim(struct pnx_budget *budget, size_t want) {
    if (!budget || is_off(budget) || want == 0 || !pnx__budget_may_reclaim())
        return 0;
    struct pnx_budget_tree *tree = budget->tree;
    pnx__mutex_lock(&tree->lock);
    pnx__budget_get_locked(budget);
    size_t target = budget->used > want ? budget->used - want : 0;
    pnx__mutex_unlock(&tree->lock);
    size_t fell = 0;
    pnx__budget_shrink(budget, target, true, &fell);
    flush_events(budget);
    put(budget);
    return fell;
}

int pnx_budget_read_stats(const struct pnx_budget *budget, struct pnx_budget_stats *ret_stats) {
    if (!budget || is_off(budget) || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    struct pnx_budget_stats all = {.size = ret_stats->size};
    pnx__mutex_lock(&budget->tree->lock);
#define PNX_STAT(name, kind, unit, level, help) all.name = budget->values.name.v;
#include <patinox/stats/budget.def>
#undef PNX_STAT
    pnx__mutex_unlock(&budget->tree->lock);
    memcpy(ret_stats, &all, ret_stats->size < sizeof(all) ? ret_stats->size : sizeof(all));
    return 0;
}
