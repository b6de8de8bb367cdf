/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap.c - the life of a concurrent map: making, closing, ending; its options.
 *
 *     OPEN --close, shutdown, last release--> CLOSED --last release--> (garbage) --the last callback--> (freed)
 *
 * Guarantees P1..P8 stand in patinox/cmap.h.
 */
#include "share/cmap_table.h"

#include "base/env_system.h"
#include "base/options.h"
#include "os/thread.h"
#include "share/cmap_hash.h"
#include "share/reclaim.h"

#include <assert.h>
#include <errno.h>

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_cmap_opts, __VA_ARGS__)
#include "share/cmap_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"cmap", sizeof(struct pnx_cmap_opts), option_rows,
        sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(sizeof(struct pnx_cmap_opts) <= PNX_OPTS_MAX_SIZE, "the checker has room for it");
static_assert(sizeof(struct pnx_cmap_opts) == 10 * sizeof(void *) + 3 * 8 + 4 * 4, "no padding");
static_assert(sizeof(struct pnx_cmap_counters) == sizeof(struct pnx_cmap_values), "one table");

#define DEFAULT_MIN_BUCKETS 4u
#define SHARDS_ALIGN        128u

/* ---- making ---- */

static uint32_t default_shards(void) {
    uint32_t wanted = 4 * pnx__os_cpus();
    uint32_t shards = 1;
    while (shards < wanted && shards < PNX_CMAP_SHARDS_MAX)
        shards *= 2;
    return shards;
}

static int check_opts(struct pnx_cmap_opts *opts, struct pnx_error *err) {
    if (opts->shards == 0)
        opts->shards = default_shards();
    if (opts->shards & (opts->shards - 1))
        return pnx__fail_field(
                err, -EINVAL, "shards", "cmap.shards is %u, not a power of two", opts->shards);
    if (opts->max_entries && opts->reserve > opts->max_entries)
        return pnx__fail_field(
                err, -EINVAL, "reserve", "cmap.reserve is larger than cmap.max_entries");
    return 0;
}

static size_t map_bytes(uint64_t shards) {
    return sizeof(struct pnx_cmap) + (size_t)shards * sizeof(struct pnx_aptr);
}

static size_t shards_bytes(uint64_t shards) {
    return (size_t)shards * sizeof(struct pnx_cmap_shard) + SHARDS_ALIGN;
}

static size_t base_bytes(uint64_t shards) {
    return map_bytes(shards) + shards_bytes(shards);
}

/* Sums up what the shards have counted; counters never go back, since each was read after the last time. */
static void refresh(const struct pnx_stats_block *block) {
    const struct pnx_cmap *map = PNX_CONTAINER(block, const struct pnx_cmap, block);
    struct pnx_a64 *value = block->values;
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    if (pnx_cmap_read_stats(map, &stats) != 0)
        return;
#define PNX_STAT(stat_name, kind, unit, level, text) \
    pnx_store(value++, stats.stat_name, PNX_RELAXED, "cmap.refresh_" #stat_name); /* a number */
#include <patinox/stats/cmap.def>
#undef PNX_STAT
}

static void init(struct pnx_cmap *map, const struct pnx_cmap_opts *opts,
        const struct pnx_cmap_tuning *tuning) {
    map->magic = PNX_CMAP_MAGIC;
    map->key_size = opts->key_size;
    map->shard_mask = opts->shards - 1;
    map->secret[0] = map->env.random(map->env.ctx);
    map->secret[1] = map->env.random(map->env.ctx);
    map->domain = opts->domain ? pnx_reclaim_ref(opts->domain) : NULL;
    map->hash_fn = opts->hash_fn;
    map->hash_ctx = opts->hash_ctx;
    map->hash = opts->hash_fn ? 0 : opts->hash;
    map->inlined = opts->key_size != 0 && opts->key_size <= sizeof(uint64_t);
    map->rc = (opts->flags & PNX_CMAP_RC) != 0;
    map->plain = map->inlined && !map->rc && map->hash == PNX_CMAP_HASH_XXH3;
    map->generation = pnx__fork_generation();
    map->min_buckets = tuning && tuning->min_buckets ? tuning->min_buckets : DEFAULT_MIN_BUCKETS;
    map->move_buckets = tuning && tuning->move_buckets ? tuning->move_buckets
                                                       : PNX_CMAP_MOVE_SLOTS / PNX_CMAP_BUCKET;
    map->fixed_masks = tuning && tuning->fixed_masks;
    map->max_entries = opts->max_entries;
    map->wait_timeout_ns = opts->wait_timeout_ns;
    map->paged = map->env.alloc == pnx__env_system()->alloc;
    /* Relaxed: nobody else knows the map. */
    pnx_store(&map->references, 1, PNX_RELAXED, "cmap.create");
    pnx_store(&map->shards_alive, opts->shards, PNX_RELAXED, "cmap.create_shards");
    pnx_store(&map->bytes, base_bytes(opts->shards), PNX_RELAXED, "cmap.create_bytes");
    for (uint64_t i = 0; i < opts->shards; i++) {
        struct pnx_cmap_shard *shard = &map->shards[i];
        shard->map = map;
        shard->table = &pnx__cmap_no_table;
        pnx_store(&shard->pending, 1, PNX_RELAXED, "cmap.create_pending");
        pnx_store(&map->tables[i], &pnx__cmap_no_table, PNX_RELAXED, "cmap.create_table");
        pnx__mutex_init(&shard->lock, PNX_RANK_CMAP);
        pnx__list_init(&shard->calls);
    }
}

static uint64_t bytes_now(const struct pnx_cmap *map) {
    return pnx_load(&map->bytes, PNX_RELAXED, "cmap.row_bytes"); /* a number */
}

void pnx__cmap_show_bytes(const struct pnx_cmap *map) {
    if (map->registry)
        (void)pnx_registry_set_bytes(map->registry, map->id, bytes_now(map));
}

static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_cmap_close(arg);
    return 0;
}

static int add_row(struct pnx_cmap *map, const struct pnx_cmap_opts *opts, struct pnx_error *err) {
    if (opts->registry == pnx_registry_off())
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "cmap",
            .name = map->name,
            .site = opts->site,
            .cleanup = cleanup,
            .arg = map,
            .bytes = bytes_now(map),
            .flags = PNX_RESOURCE_LONG_LIVED,
    };
    struct pnx_registry *registry = pnx_registry_ref(opts->registry);
    int rc = pnx_registry_add(registry, &resource, err, &map->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        map->registry = registry;
    return rc;
}

/* Allocates the map and its shards, charged; -ENOMEM. */
static int allocate(const struct pnx_env *env, const struct pnx_cmap_opts *opts,
        struct pnx_error *err, struct pnx_cmap **ret_map) {
    struct pnx_budget *budget = pnx_budget_ref(opts->budget ? opts->budget : pnx_budget_default());
    int rc = pnx_budget_charge(budget, base_bytes(opts->shards), 0);
    if (rc) {
        pnx_budget_release(&budget);
        return pnx__fail(err, -ENOMEM, rc, "create", "cmap: the budget refused %zu bytes",
                base_bytes(opts->shards));
    }
    struct pnx_cmap *map = pnx__alloc(env, 1, map_bytes(opts->shards));
    void *shards = pnx__alloc(env, 1, shards_bytes(opts->shards));
    char *name = pnx__strdup(env, opts->name ? opts->name : "cmap");
    if (!map || !shards || !name) {
        pnx__free(env, map, 1, map_bytes(opts->shards));
        pnx__free(env, shards, 1, shards_bytes(opts->shards));
        pnx__strfree(env, name);
        pnx_budget_uncharge(budget, base_bytes(opts->shards));
        pnx_budget_release(&budget);
        return pnx__fail(err, -ENOMEM, 0, "create", "cmap: out of memory");
    }
    uintptr_t at = ((uintptr_t)shards + SHARDS_ALIGN - 1) & ~(uintptr_t)(SHARDS_ALIGN - 1);
    map->env = *env;
    map->budget = budget;
    map->name = name;
    map->shards_memory = shards;
    map->shards = (struct pnx_cmap_shard *)at;
    *ret_map = map;
    return 0;
}

void pnx__cmap_free_map(struct pnx_cmap *map) {
    struct pnx_env env = map->env;
    struct pnx_budget *budget = map->budget;
    uint64_t shards = map->shard_mask + 1;
    for (uint64_t i = 0; i < shards; i++)
        pnx__mutex_destroy(&map->shards[i].lock);
    map->magic = 0;
    pnx__strfree(&env, map->name);
    pnx__free(&env, map->shards_memory, 1, shards_bytes(shards));
    pnx__free(&env, map, 1, map_bytes(shards));
    pnx_budget_uncharge(budget, base_bytes(shards));
    pnx_budget_release(&budget);
}

/* Ends a map that nobody else knows any more. */
static void end(struct pnx_cmap *map) {
    struct pnx_reclaim *domain = map->domain;
    pnx_cmap_close(map);
    if (map->registry) {
        (void)pnx_registry_remove(map->registry, map->id); /* waits for a running cleanup */
        pnx_registry_release(&map->registry);
    }
    pnx__stats_remove(&map->block);
    uint64_t shards = map->shard_mask + 1;
    for (uint64_t i = 0; i < shards; i++)
        pnx__cmap_settled(&map->shards[i]); /* the last one may free the map */
    pnx__reclaim_assist(domain);
    pnx_reclaim_release(&domain);
}

int pnx__cmap_create(const struct pnx_cmap_opts *user, const struct pnx_cmap_tuning *tuning,
        struct pnx_error *err, struct pnx_cmap **ret_map) {
    struct pnx_cmap_opts opts = {.size = sizeof(opts)};
    struct pnx_env env;
    if (!ret_map)
        return pnx__fail_field(err, -EINVAL, "ret_map", "cmap: ret_map is NULL");
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc == 0)
        rc = check_opts(&opts, err);
    if (rc)
        return rc;
    struct pnx_cmap *map = NULL;
    rc = allocate(&env, &opts, err, &map);
    if (rc)
        return rc;
    init(map, &opts, tuning);
    pnx__cmap_stats_init(&map->block, map->name, &map->values, NULL);
    map->block.refresh = refresh;
    pnx__stats_add(opts.stats, &map->block);
    if (opts.reserve) {
        rc = pnx_cmap_reserve(map, opts.reserve);
        if (rc)
            rc = pnx__fail(err, rc, 0, "create", "cmap \"%.64s\": out of memory", map->name);
    }
    if (rc == 0)
        rc = add_row(map, &opts, err);
    if (rc) {
        end(map);
        return rc;
    }
    *ret_map = map;
    return 0;
}

int pnx_cmap_create(
        const struct pnx_cmap_opts *opts, struct pnx_error *err, struct pnx_cmap **ret_map) {
    return pnx__cmap_create(opts, NULL, err, ret_map);
}

/* ---- ending ---- */

static void check(const struct pnx_cmap *map) {
    (void)map;
    PNX_DEBUG_CHECK(map->magic == PNX_CMAP_MAGIC); /* else: a map that was released */
}

struct pnx_cmap *pnx_cmap_ref(struct pnx_cmap *map) {
    if (!map)
        return NULL;
    check(map);
    pnx_fetch_add(&map->references, 1, PNX_RELAXED, "cmap.ref"); /* the caller holds one */
    return map;
}

void pnx_cmap_release(struct pnx_cmap **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_cmap *map = *handle;
    *handle = NULL;
    check(map);
    if (map->generation != pnx__fork_generation())
        return; /* a forked child: all that is in it is the parent's */
    /* acq_rel: pairs with itself; all that other holders did comes before the end. */
    if (pnx_fetch_sub(&map->references, 1, PNX_ACQ_REL, "cmap.release") == 1)
        end(map);
}

void pnx_cmap_close(struct pnx_cmap *map) {
    if (!map)
        return;
    check(map);
    if (map->generation != pnx__fork_generation())
        return;
    /* Relaxed: a lookup that finds a shard emptied has acquired its table, which is published after this. */
    if (pnx_exchange(&map->closed, 1, PNX_RELAXED, "cmap.close") != 0)
        return;
    for (uint64_t i = 0; i <= map->shard_mask; i++) {
        struct pnx_cmap_shard *shard = &map->shards[i];
        pnx__mutex_lock(&shard->lock);
        shard->closed = true;
        pnx__cmap_empty_locked(shard);
        pnx__cmap_unlock(shard);
    }
    pnx__health_set(&map->block, PNX_HEALTH_DOWN, "closed");
    pnx__reclaim_assist(map->domain);
}

/* ---- what every operation begins with ---- */

int pnx__cmap_enter(const struct pnx_cmap *map) {
    if (!map)
        return -EINVAL;
    check(map);
    return map->generation == pnx__fork_generation() ? 0 : -ESHUTDOWN;
}

int pnx__cmap_key(
        const struct pnx_cmap *map, const void *bytes, size_t size, struct pnx_cmap_key *ret_key) {
    if ((!bytes && size != 0) || (map->key_size && size != map->key_size))
        return -EINVAL;
    if (size > PNX_CMAP_KEY_MAX)
        return -E2BIG;
    struct pnx_cmap_key key = {.bytes = bytes, .size = (uint32_t)size};
    if (map->inlined) {
        PNX_DEBUG_CHECK(bytes); /* key_size is not 0, and size is the same */
        memcpy(&key.word, bytes, size);
        key.hash = pnx__cmap_hash_word(map, key.word);
    } else {
        key.word = key.hash = pnx__cmap_hash_bytes(map, bytes, size);
    }
    *ret_key = key;
    return 0;
}

void pnx__cmap_tell_resized(struct pnx_cmap_shard *shard) {
    const struct pnx_cmap *map = shard->map;
    pnx__cmap_show_bytes(map);
    /* Relaxed: numbers, for people. */
    uint64_t slots = pnx_load(&shard->counters.slots, PNX_RELAXED, "cmap.told_slots");
    uint64_t probe = pnx_load(&shard->counters.max_probe, PNX_RELAXED, "cmap.told_probe");
    pnx__event(&map->block, PNX_EVENT_CMAP_RESIZED, map->name, 0, NULL, (int64_t)slots, 0);
    if (probe >= PNX_CMAP_PROBE_WARN)
        pnx__event(&map->block, PNX_EVENT_CMAP_LONG_PROBES, map->name, 0,
                "keys collide: a bad hash function, or an attack", (int64_t)probe, 0);
}

/* ---- hashing ---- */

#define SIP_ROUND \
    do { \
        v0 += v1; \
        v1 = pnx__cmap_rotate(v1, 13) ^ v0; \
        v0 = pnx__cmap_rotate(v0, 32); \
        v2 += v3; \
        v3 = pnx__cmap_rotate(v3, 16) ^ v2; \
        v0 += v3; \
        v3 = pnx__cmap_rotate(v3, 21) ^ v0; \
        v2 += v1; \
        v1 = pnx__cmap_rotate(v1, 17) ^ v2; \
        v2 = pnx__cmap_rotate(v2, 32); \
    } while (0)

uint64_t pnx__cmap_siphash(const uint64_t secret[2], const void *data, size_t n) {
    uint64_t v0 = secret[0] ^ UINT64_C(0x736f6d6570736575);
    uint64_t v1 = secret[1] ^ UINT64_C(0x646f72616e646f6d);
    uint64_t v2 = secret[0] ^ UINT64_C(0x6c7967656e657261);
    uint64_t v3 = secret[1] ^ UINT64_C(0x7465646279746573);
    const unsigned char *at = data;
    uint64_t last = (uint64_t)n << 56;
    size_t left = n;
    for (; left >= 8; left -= 8, at += 8) {
        uint64_t m = 0;
        for (unsigned i = 0; i < 8; i++)
            m |= (uint64_t)at[i] << (8 * i);
        v3 ^= m;
        SIP_ROUND;
        v0 ^= m;
    }
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)at[i] << (8 * i);
    v3 ^= last;
    SIP_ROUND;
    v0 ^= last;
    v2 ^= 0xff;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

uint64_t pnx__cmap_hash_slow(const struct pnx_cmap *map, const void *key, size_t size) {
    if (map->hash == PNX_CMAP_HASH_SIPHASH)
        return pnx__cmap_siphash(map->secret, key, size);
    /* Spread what a simple function returns over all bits. */
    return pnx__cmap_mix(map->hash_fn(map->hash_ctx, key, size), map->secret[0]);
}
