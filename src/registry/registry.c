/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/registry.c - making, holding and ending registries; the default one; their numbers.
 *
 *   P1  The default registry is in static memory: it cannot fail to exist, and is never freed.
 *   P2  A registry is freed when it has neither holders nor rows, by whoever drops the last of both.
 *   P3  In a forked child rows are in one piece and no lock is held, whatever other threads were doing.
 *   P4  While there are holders, rows come and go without a write to what all threads share, the serial excepted.
 */
#include "base/env.h"
#include "base/env_system.h"
#include "base/list.h"
#include "base/options.h"
#include "os/environ.h"
#include "os/fork.h"
#include "registry/leaks.h"
#include "registry/ledger.h"
#include "registry/shutdown_state.h"
#include "registry/suppress.h"
#include "registry/trace.h"

#include <patinox/registry.h>

#include <assert.h>
#include <pthread.h>
#include <string.h>

#define GENERATION_MASK ((UINT64_C(1) << PNX_GENERATION_BITS) - 1)
/* 2^36 divided by the golden ratio: multiples of it, modulo 2^36, keep as far apart as n numbers can. */
#define GENERATION_STEP UINT64_C(42470972311)
#define SAMPLE_DEFAULT  128

static_assert(sizeof(struct pnx_resource) == 12 * 8, "no padding in an option struct");
static_assert(sizeof(struct pnx_registry_opts) == 4 * 8 + 4 * 4, "no padding in an option struct");
static_assert(PNX_GENERATION_BITS + PNX_SLOT_BITS + PNX_SHARD_BITS + PNX_STATE_BITS == 64,
        "an id and a state are a word");

static const struct pnx_opt rows[] = {
#define PNX_OPTION(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_registry_opts, field, kind, flags, dflt, lo, hi, text)
#include "registry/registry_options.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {
        "registry", sizeof(struct pnx_registry_opts), rows, sizeof(rows) / sizeof(rows[0])};

/* A registry with what it needs for its shutdown: one block of memory. */
struct whole {
    struct pnx_registry registry;
    struct pnx_shutdown_state shutdown;
};

static struct whole default_whole;
static struct pnx_registry *const default_registry = &default_whole.registry;
struct pnx_aptr pnx__registry_default;
static pthread_once_t default_once = PTHREAD_ONCE_INIT;
static char default_name[] = "default";
static char off_name[] = "off";
static struct pnx_registry off_registry;
static struct pnx_shutdown_state off_shutdown = {
        .whole = true, /* of no rows */
        .lined_up = true,
        .report = {.registry = &off_registry, .counts.size = sizeof(struct pnx_shutdown_counts)},
};
static struct pnx_registry off_registry = {
        .off = true,
        .name = off_name,
        .shutdown = &off_shutdown,
};

/* ---- fork: the child finds the rows of all registries in one piece, and no lock held ---- */

static struct pnx_mutex all_lock = PNX_MUTEX_STATIC(PNX_RANK_REGISTRIES);
static struct pnx_link all = {&all, &all}; /* the lock */

static void fork_prepare(void) {
    pnx__fork_lock(&all_lock);
    PNX_LIST_EACH (link, after, &all) /* whose holders take shards' locks, too */
        pnx__fork_lock(&PNX_CONTAINER(link, struct pnx_registry, link)->shutdown->lock);
    pnx__fork_lock(&pnx__waits_lock);
    PNX_LIST_EACH (link, after, &all) {
        struct pnx_registry *registry = PNX_CONTAINER(link, struct pnx_registry, link);
        for (uint32_t i = 0; i < PNX_SHARDS; i++)
            pnx__fork_take(&registry->shard[i].lock);
        pnx__fork_lock(&registry->stacks_lock); /* nobody takes a shard's while it holds this one */
    }
}

static void give_back(bool in_child) {
    PNX_LIST_EACH (link, after, &all) {
        struct pnx_registry *registry = PNX_CONTAINER(link, struct pnx_registry, link);
        pnx__fork_unlock(&registry->stacks_lock);
        for (uint32_t i = 0; i < PNX_SHARDS; i++) {
            if (in_child)
                registry->shard[i].waiting = 0; /* none of those who waited is here */
            pnx__fork_give(&registry->shard[i].lock, in_child);
        }
    }
    pnx__fork_unlock(&pnx__waits_lock);
    PNX_LIST_EACH (link, after, &all)
        pnx__fork_unlock(&PNX_CONTAINER(link, struct pnx_registry, link)->shutdown->lock);
    pnx__fork_unlock(&all_lock);
}

static void fork_parent(void) {
    give_back(false);
}

static void fork_child(void) {
    give_back(true);
}

static void watch_forks(void) {
    pnx__at_fork(PNX_RANK_REGISTRIES, fork_prepare, fork_parent, fork_child);
}

static void join_all(struct pnx_registry *registry) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pnx__mutex_lock(&all_lock);
    pnx__list_push_back(&all, &registry->link);
    pnx__mutex_unlock(&all_lock);
}

static void leave_all(struct pnx_registry *registry) {
    pnx__mutex_lock(&all_lock);
    pnx__list_remove(&registry->link);
    pnx__mutex_unlock(&all_lock);
}

/* ---- numbers of all shards ---- */

/* Sums of what the shards count.  Each is right at some moment of the call, and none ever goes back. */
struct sums {
    uint64_t added, removed, ended, failed;
};

static struct sums sum_shards(const struct pnx_registry *registry) {
    struct sums sums = {0};
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        const struct pnx_shard *shard = &registry->shard[s];
        /* Numbers for people: no partner. */
        sums.removed += pnx_load(&shard->removed, PNX_RELAXED, "registry.removed");
        sums.ended += pnx_load(&shard->ended, PNX_RELAXED, "registry.ended");
        sums.failed += pnx_load(&shard->failed, PNX_RELAXED, "registry.failed");
        sums.added += pnx_load(&shard->added, PNX_RELAXED, "registry.added");
    }
    return sums;
}

static uint64_t live_of(const struct sums *sums) {
    uint64_t gone = sums->removed + sums->ended;
    return sums->added > gone ? sums->added - gone : 0;
}

/* What is summed up from the shards; values holds what is counted directly. */
static void fill_sums(const struct pnx_registry *registry, struct pnx_registry_stats *stats) {
    struct sums sums = sum_shards(registry);
    stats->live = live_of(&sums);
    stats->added = sums.added;
    stats->removed = sums.removed;
    stats->cleanups = sums.ended;
    stats->cleanups_failed = sums.failed;
    uint64_t ok = sums.ended > sums.failed ? sums.ended - sums.failed : 0;
    stats->cleanups_ok_ppm = sums.ended ? ok * 1000000 / sums.ended : 1000000;
}

/* Under the lock of the set of statistics: one at a time. */
static void refresh(const struct pnx_stats_block *block) {
    struct pnx_registry *registry = PNX_CONTAINER(block, struct pnx_registry, block);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    fill_sums(registry, &stats);
    struct pnx_registry_values *values = &registry->values;
    /* Numbers for people, like the loads in sum_shards(). */
    pnx_store(&values->live, stats.live, PNX_RELAXED, "registry.refresh_live");
    pnx_store(&values->added, stats.added, PNX_RELAXED, "registry.refresh_added");
    pnx_store(&values->removed, stats.removed, PNX_RELAXED, "registry.refresh_removed");
    pnx_store(&values->cleanups, stats.cleanups, PNX_RELAXED, "registry.refresh_cleanups");
    pnx_store(&values->cleanups_failed, stats.cleanups_failed, PNX_RELAXED,
            "registry.refresh_failed");
    pnx_store(&values->cleanups_ok_ppm, stats.cleanups_ok_ppm, PNX_RELAXED, "registry.refresh_ok");
}

static void set_up(struct whole *whole, const struct pnx_env *env, char *name, uint32_t max) {
    static struct pnx_a64 made;
    struct pnx_registry *registry = &whole->registry;
    uint64_t number = pnx_fetch_add(&made, 1, PNX_RELAXED, "registry.number"); /* unique, no more */
    registry->env = *env;
    registry->name = name;
    registry->made = env->now_coarse(env->ctx);
    registry->max = max;
    /* The maker's own, as refs below. */
    pnx_store(&registry->room, max, PNX_RELAXED, "registry.room");
    registry->base = (number * GENERATION_STEP + 1) & GENERATION_MASK;
    if (registry->base == 0)
        registry->base = 1;
    registry->last = registry->base == 1 ? GENERATION_MASK : registry->base - 1;
    for (uint32_t i = 0; i < PNX_SHARDS; i++)
        pnx__lock_init(&registry->shard[i].lock, PNX_RANK_REGISTRY);
    pnx__mutex_init(&registry->stacks_lock, PNX_RANK_STACKS);
    registry->shutdown = &whole->shutdown;
    pnx__mutex_init(&whole->shutdown.lock, PNX_RANK_SHUTDOWN);
    whole->shutdown.report.registry = registry;
    whole->shutdown.report.counts.size = sizeof(struct pnx_shutdown_counts);
    /* The maker's own; whoever gets the pointer later synchronises by the way it gets it. */
    pnx_store(&registry->refs, PNX_REGISTRY_HOLDER, PNX_RELAXED, "registry.create");
    pnx__trace_set(registry, PNX_LEVEL_SIMPLE, SAMPLE_DEFAULT);
    pnx__registry_stats_init(&registry->block, registry->name, &registry->values, NULL);
    registry->block.refresh = refresh;
    join_all(registry);
}

#define BAD_LEVEL    "PATINOX_REGISTRY is not off, simple, advanced or paranoid, with ,sample=N"
#define BAD_LEAKS    "PATINOX_LEAKS is not off, report or fail"
#define BAD_SUPPRESS "PATINOX_SUPPRESS is not a list of TYPE@SITE, or too long"

/* What the environment of the process says about the default registry. */
static void obey_environment(void) {
    /* A reason is static text: one for each set of variables that are wrong. */
    static const char *const reasons[] = {NULL, BAD_LEVEL, BAD_LEAKS, BAD_LEVEL "; " BAD_LEAKS,
            BAD_SUPPRESS, BAD_LEVEL "; " BAD_SUPPRESS, BAD_LEAKS "; " BAD_SUPPRESS,
            BAD_LEVEL "; " BAD_LEAKS "; " BAD_SUPPRESS};
    unsigned wrong = 0;
    const char *text = pnx__os_variable("PATINOX_REGISTRY");
    if (text && !pnx__trace_obey(default_registry, text))
        wrong |= 1;
    text = pnx__os_variable("PATINOX_LEAKS");
    if (text && !pnx__leaks_obey(text))
        wrong |= 2;
    text = pnx__os_variable("PATINOX_SUPPRESS");
    if (text && pnx__suppress_all(default_registry, text))
        wrong |= 4;
    if (wrong)
        pnx__health_set(&default_registry->block, PNX_HEALTH_DEGRADED, reasons[wrong]);
}

static void set_up_default(void) {
    set_up(&default_whole, pnx__env_system(), default_name,
            UINT32_C(1) << (PNX_SLOT_BITS + PNX_SHARD_BITS));
    obey_environment();
    pnx__stats_add(NULL, &default_registry->block);
    pnx_store(&pnx__registry_default, default_registry, PNX_RELEASE,
            "registry.set_default"); /* pairs with registry.default */
}

struct pnx_registry *pnx_registry_default(void) {
    pthread_once(&default_once, set_up_default);
    return default_registry;
}

struct pnx_registry *pnx_registry_off(void) {
    return &off_registry;
}

int pnx_registry_create(const struct pnx_registry_opts *opts, struct pnx_error *err,
        struct pnx_registry **ret_registry) {
    struct pnx_registry_opts resolved;
    struct pnx_env env;
    if (!ret_registry)
        return pnx__fail_field(err, -EINVAL, "ret_registry", "registry: ret_registry is NULL");
    int rc = pnx__opts_resolve(&options, opts, &resolved, err);
    if (rc == 0)
        rc = pnx__env_resolve(resolved.env, err, &env);
    if (rc)
        return rc;
    struct whole *whole = pnx__alloc_aligned(&env, 1, sizeof(*whole), _Alignof(struct whole));
    char *name = pnx__strdup(&env, resolved.name ? resolved.name : "registry");
    if (!whole || !name) {
        pnx__free(&env, whole, 1, sizeof(*whole));
        pnx__strfree(&env, name);
        return pnx__fail(err, -ENOMEM, 0, "create", "registry: out of memory");
    }
    set_up(whole, &env, name, resolved.max);
    pnx__trace_set(&whole->registry, (enum pnx_registry_level)resolved.level, resolved.sample);
    pnx__stats_add(resolved.stats, &whole->registry.block);
    *ret_registry = &whole->registry;
    return 0;
}

static void destroy(struct pnx_registry *registry) {
    struct whole *whole = PNX_CONTAINER(registry, struct whole, registry);
    struct pnx_shutdown_state *shutdown = &whole->shutdown;
    struct pnx_env env = registry->env;
    leave_all(registry);
    pnx__stats_remove(&registry->block);
    pnx__shards_free(registry);
    pnx__stacks_free(registry);
    pnx__mutex_destroy(&registry->stacks_lock);
    pnx__suppressions_free(registry);
    if (shutdown->members != shutdown->window)
        pnx__free(&env, shutdown->members, shutdown->capacity, sizeof(*shutdown->members));
    pnx__mutex_destroy(&shutdown->lock);
    pnx__strfree(&env, registry->name);
    pnx__free(&env, whole, 1, sizeof(*whole));
}

/* ---- references ---- */

static void drop(struct pnx_registry *registry, uint64_t amount) {
    /* Pairs with itself: all uses of the registry by others happen before it is freed. */
    uint64_t before = pnx_fetch_sub(&registry->refs, amount, PNX_ACQ_REL, "registry.unref");
    if ((before & ~PNX_REGISTRY_CLOSED) == amount)
        destroy(registry);
}

/* Drops the references of shards without rows, and the one of the caller, who counts as a shard. */
static void sweep(struct pnx_registry *registry) {
    uint64_t dropped = 1;
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        pnx__lock(&shard->lock);
        if (shard->held && pnx__shard_rows_locked(shard) == 0) {
            shard->held = false;
            dropped++;
        }
        pnx__unlock(&shard->lock);
    }
    drop(registry, dropped);
}

void pnx__registry_held(struct pnx_registry *registry) {
    pnx_fetch_add(&registry->refs, 1, PNX_RELAXED,
            "registry.held"); /* the caller's own reference keeps the registry alive */
}

void pnx__registry_unheld(struct pnx_registry *registry) {
    drop(registry, 1);
}

void pnx__registry_hold(struct pnx_registry *registry) {
    pnx_fetch_add(&registry->refs, PNX_REGISTRY_HOLDER, PNX_RELAXED,
            "registry.hold"); /* somebody else's reference keeps it alive */
}

void pnx__registry_unhold(struct pnx_registry *registry) {
    uint64_t refs = pnx_load(&registry->refs, PNX_RELAXED, "registry.look"); /* only compared */
    for (;;) {
        bool last = (refs & ~PNX_REGISTRY_CLOSED) < 2 * PNX_REGISTRY_HOLDER;
        uint64_t left = refs - PNX_REGISTRY_HOLDER + (last ? 1 : 0);
        /* Release: pairs with registry.unref; acquire: what earlier holders did comes before the sweep. */
        if (!pnx_cas(&registry->refs, &refs, left, PNX_ACQ_REL, "registry.unhold"))
            continue;
        if (last)
            sweep(registry);
        return;
    }
}

struct pnx_registry *pnx_registry_ref(struct pnx_registry *registry) {
    registry = pnx__registry_resolve(registry);
    if (registry != default_registry && !registry->off)
        pnx__registry_hold(registry);
    return registry;
}

void pnx_registry_release(struct pnx_registry **registry) {
    if (!registry || !*registry)
        return;
    struct pnx_registry *own = *registry;
    *registry = NULL;
    if (own != default_registry && !own->off)
        pnx__registry_unhold(own);
}

/* ---- numbers ---- */

void pnx__registry_count_up(struct pnx_a64 *stat) {
    pnx_fetch_add(stat, 1, PNX_RELAXED, "registry.up"); /* a number for people: no partner */
}

size_t pnx_registry_count(const struct pnx_registry *registry) {
    if (!registry)
        registry = pnx_registry_default();
    struct sums sums = sum_shards(registry);
    return (size_t)live_of(&sums);
}

int pnx_registry_read_stats(
        const struct pnx_registry *registry, struct pnx_registry_stats *ret_stats) {
    if (!ret_stats || ret_stats->size < sizeof(ret_stats->size))
        return -EINVAL;
    if (!registry)
        registry = pnx_registry_default();
    struct pnx_registry_stats stats = {.size = ret_stats->size};
#define PNX_STAT(stat_name, kind, unit, level, help) \
    stats.stat_name = \
            pnx_load(&registry->values.stat_name, PNX_RELAXED, "registry.stats." #stat_name);
#include <patinox/stats/registry.def>
#undef PNX_STAT
    fill_sums(registry, &stats);
    memcpy(ret_stats, &stats, stats.size < sizeof(stats) ? stats.size : sizeof(stats));
    return 0;
}
