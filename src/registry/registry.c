/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/registry.c - making, holding and ending registries; the default one; their numbers.
 *
 *   P1  The default registry is in static memory: it cannot fail to exist, and is never freed.
 *   P2  A registry is freed when it has neither holders nor rows, by whoever drops the last of both.
 */
#include "base/env.h"
#include "base/env_system.h"
#include "base/options.h"
#include "registry/ledger.h"

#include <patinox/registry.h>

#include <assert.h>
#include <pthread.h>
#include <string.h>

#define GENERATION_MASK ((UINT64_C(1) << PNX_GENERATION_BITS) - 1)
/* 2^36 divided by the golden ratio: multiples of it, modulo 2^36, keep as far apart as n numbers can. */
#define GENERATION_STEP UINT64_C(42470972311)

static_assert(sizeof(struct pnx_resource) == 10 * 8, "no padding in an option struct");
static_assert(sizeof(struct pnx_registry_opts) == 4 * 8 + 2 * 4, "no padding in an option struct");
static_assert(PNX_SHARDS <= 1 << PNX_SHARD_BITS, "a shard's number fits into an id");
static_assert(((uint64_t)PNX_CHUNK_FIRST << PNX_CHUNKS) - PNX_CHUNK_FIRST < 1 << PNX_SLOT_BITS,
        "a slot's number fits into an id");

static const struct pnx_opt rows[] = {
#define PNX_OPTION(field, kind, flags, dflt, lo, hi, text) \
    PNX_OPT_ROW(struct pnx_registry_opts, field, kind, flags, dflt, lo, hi, text)
#include "registry/registry_options.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {
        "registry", sizeof(struct pnx_registry_opts), rows, sizeof(rows) / sizeof(rows[0])};

static struct pnx_registry default_registry;
static pthread_once_t default_once = PTHREAD_ONCE_INIT;
static char default_name[] = "default";
static char off_name[] = "off";
static struct pnx_registry off_registry = {
        .off = true,
        .name = off_name,
        .shutdown.report = {.registry = &off_registry,
                .counts.size = sizeof(struct pnx_shutdown_counts)},
};

static void set_up(struct pnx_registry *registry, const struct pnx_env *env, char *name) {
    static struct pnx_a64 made;
    uint64_t number = pnx_fetch_add(&made, 1, PNX_RELAXED, "registry.number"); /* unique, no more */
    registry->env = *env;
    registry->name = name;
    registry->base = (number * GENERATION_STEP + 1) & GENERATION_MASK;
    if (registry->base == 0)
        registry->base = 1;
    for (uint32_t i = 0; i < PNX_SHARDS; i++)
        pnx__mutex_init(&registry->shard[i].lock, PNX_RANK_REGISTRY);
    pnx__mutex_init(&registry->shutdown.lock, PNX_RANK_SHUTDOWN);
    registry->shutdown.report.registry = registry;
    registry->shutdown.report.counts.size = sizeof(struct pnx_shutdown_counts);
    /* The maker's own; whoever gets the pointer later synchronises by the way it gets it. */
    pnx_store(&registry->refs, PNX_REGISTRY_HOLDER, PNX_RELAXED, "registry.create");
    pnx__registry_stats_init(&registry->block, registry->name, &registry->values, NULL);
}

static void set_up_default(void) {
    set_up(&default_registry, pnx__env_system(), default_name);
    default_registry.max = UINT32_C(1) << PNX_SLOT_BITS;
    pnx__stats_add(NULL, &default_registry.block);
}

struct pnx_registry *pnx_registry_default(void) {
    pthread_once(&default_once, set_up_default);
    return &default_registry;
}

struct pnx_registry *pnx_registry_off(void) {
    return &off_registry;
}

struct pnx_registry *pnx__registry_resolve(struct pnx_registry *registry) {
    return registry ? registry : pnx_registry_default();
}

int pnx_registry_create(const struct pnx_registry_opts *opts, struct pnx_error *err,
        struct pnx_registry **ret_registry) {
    struct pnx_registry_opts resolved;
    struct pnx_env env;
    int rc = pnx__opts_resolve(&options, opts, &resolved, err);
    if (rc == 0)
        rc = pnx__env_resolve(resolved.env, err, &env);
    if (rc)
        return rc;
    struct pnx_registry *registry = pnx__alloc(&env, 1, sizeof(*registry));
    char *name = pnx__strdup(&env, resolved.name ? resolved.name : "registry");
    if (!registry || !name) {
        pnx__free(&env, registry, 1, sizeof(*registry));
        pnx__strfree(&env, name);
        return pnx__fail(err, -ENOMEM, 0, "create", "registry: out of memory");
    }
    set_up(registry, &env, name);
    registry->max = resolved.max;
    pnx__stats_add(resolved.stats, &registry->block);
    *ret_registry = registry;
    return 0;
}

static void destroy(struct pnx_registry *registry) {
    struct pnx_env env = registry->env;
    pnx__stats_remove(&registry->block);
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        for (uint32_t k = 0; k < shard->n_chunks; k++)
            pnx__free(
                    &env, shard->chunk[k].v, (size_t)PNX_CHUNK_FIRST << k, sizeof(struct pnx_row));
        pnx__mutex_destroy(&shard->lock);
    }
    pnx__mutex_destroy(&registry->shutdown.lock);
    pnx__strfree(&env, registry->name);
    pnx__free(&env, registry, 1, sizeof(*registry));
}

struct pnx_registry *pnx_registry_ref(struct pnx_registry *registry) {
    registry = pnx__registry_resolve(registry);
    if (registry != &default_registry && !registry->off)
        pnx_fetch_add(&registry->refs, PNX_REGISTRY_HOLDER, PNX_RELAXED,
                "registry.ref"); /* the caller's own reference keeps it alive */
    return registry;
}

void pnx__registry_unref(struct pnx_registry *registry, uint64_t amount) {
    /* Pairs with itself: all uses of the registry by others happen before it is freed. */
    uint64_t before = pnx_fetch_sub(&registry->refs, amount, PNX_ACQ_REL, "registry.unref");
    if (before == amount)
        destroy(registry);
}

void pnx_registry_release(struct pnx_registry **registry) {
    if (!registry || !*registry)
        return;
    struct pnx_registry *own = *registry;
    *registry = NULL;
    if (own != &default_registry && !own->off)
        pnx__registry_unref(own, PNX_REGISTRY_HOLDER);
}

void pnx__registry_count_up(struct pnx_a64 *stat) {
    pnx_fetch_add(stat, 1, PNX_RELAXED, "registry.up"); /* a number for people: no partner */
}

void pnx__registry_count_down(struct pnx_a64 *stat) {
    pnx_fetch_sub(stat, 1, PNX_RELAXED, "registry.down"); /* a number for people: no partner */
}

size_t pnx_registry_count(const struct pnx_registry *registry) {
    if (!registry)
        registry = pnx_registry_default();
    /* A number for people: it was right at some moment of the call. */
    return (size_t)(pnx_load(&registry->refs, PNX_RELAXED, "registry.count") & UINT32_MAX);
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
    memcpy(ret_stats, &stats, stats.size < sizeof(stats) ? stats.size : sizeof(stats));
    return 0;
}
