/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An eviction policy of your own: GDSF, which knows that one large object costs as much room as many small ones.
 *
 * GreedyDual-Size-Frequency (Cherkasova, Improving WWW proxies performance with greedy-dual-size-frequency caching
 * policy, HP Laboratories, 1998): an entry's priority is age + hits / size, the lowest goes, and its
 * priority becomes the age.  The program compares it with the library's policies on requests for objects of many sizes: with an
 * owner of slots as simple as can be, and in a cache of which a weigher says what objects weigh.
 */
#include <patinox/cache.h>
#include <patinox/cache_policy.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* All in one block: this struct, then the three tables. */
struct gdsf {
    struct pnx_cache_policy_wants wants; /* first: the owner reads it */
    const struct pnx_cache_slots *view;
    double age;
    double *priority; /* of slots */
    uint32_t *heap;   /* slots, the lowest priority on top */
    uint32_t *at;     /* where a slot stands in the heap */
    uint32_t *hits;
    uint32_t count;
    uint32_t slots;
};

static void place_tables(struct gdsf *g, uint32_t slots) {
    g->priority = (double *)(g + 1);
    g->heap = (uint32_t *)(g->priority + slots);
    g->at = g->heap + slots;
    g->hits = g->at + slots;
    g->slots = slots;
}

static size_t gdsf_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    if (slots > PNX_CACHE_SLOTS_MAX)
        return 0;
    return sizeof(struct gdsf) + (size_t)slots * (sizeof(double) + 3 * sizeof(uint32_t));
}

static void gdsf_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct gdsf *g = memory;
    place_tables(g, slots);
    g->view = params->slots;
    g->wants.exact_hits = 1; /* each hit moves an entry */
}

/* map: what slots are called from now on, or NULL where they keep their numbers. */
static void gdsf_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    const struct gdsf *old = state;
    struct gdsf *g = memory;
    *g = *old;
    place_tables(g, slots);
    for (uint32_t at = 0; at < old->count; at++) {
        uint32_t was = old->heap[at], slot = map ? map[was] : was;
        g->heap[at] = slot;
        g->at[slot] = at;
        g->priority[slot] = old->priority[was];
        g->hits[slot] = old->hits[was];
    }
}

static void put_at(struct gdsf *g, uint32_t at, uint32_t slot) {
    g->heap[at] = slot;
    g->at[slot] = at;
}

/* Moves a slot up or down from this position until the heap is in order. */
static void settle(struct gdsf *g, uint32_t at, uint32_t slot) {
    while (at > 0 && g->priority[g->heap[(at - 1) / 2]] > g->priority[slot]) {
        put_at(g, at, g->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= g->count)
            break;
        if (child + 1 < g->count && g->priority[g->heap[child + 1]] < g->priority[g->heap[child]])
            child++;
        if (g->priority[g->heap[child]] >= g->priority[slot])
            break;
        put_at(g, at, g->heap[child]);
        at = child;
    }
    put_at(g, at, slot);
}

static void rate(struct gdsf *g, uint32_t slot) {
    double weight = (double)pnx_cache_slot_weight(g->view, slot);
    g->priority[slot] = g->age + g->hits[slot] / (weight > 0 ? weight : 1);
}

static void gdsf_insert(void *state, uint32_t slot) {
    struct gdsf *g = state;
    g->hits[slot] = 1;
    rate(g, slot);
    settle(g, g->count++, slot);
}

static void gdsf_hit(void *state, uint32_t slot) {
    struct gdsf *g = state;
    g->hits[slot]++;
    rate(g, slot);
    settle(g, g->at[slot], slot);
}

static void gdsf_remove(void *state, uint32_t slot) {
    struct gdsf *g = state;
    uint32_t at = g->at[slot];
    uint32_t last = g->heap[--g->count];
    if (last != slot)
        settle(g, at, last);
}

static void gdsf_reweigh(void *state, uint32_t slot, uint64_t from) {
    struct gdsf *g = state;
    (void)from;
    rate(g, slot);
    settle(g, g->at[slot], slot);
}

static uint32_t gdsf_victim(void *state, uint32_t hash, uint64_t weight) {
    struct gdsf *g = state;
    (void)hash;
    (void)weight;
    if (g->count == 0)
        return PNX_CACHE_NO_SLOT;
    uint32_t slot = g->heap[0];
    g->age = g->priority[slot];
    gdsf_remove(g, slot);
    return slot;
}

static const char *gdsf_check(const void *state, uint32_t held) {
    const struct gdsf *g = state;
    for (uint32_t i = 0; i < g->count; i++) {
        if (g->heap[i] >= g->slots || g->at[g->heap[i]] != i)
            return "a slot does not know where it is in the heap";
        if (i > 0 && g->priority[g->heap[i]] < g->priority[g->heap[(i - 1) / 2]])
            return "the heap is not in order";
    }
    return g->count == held ? NULL : "the heap does not hold the held slots";
}

static const struct pnx_cache_policy gdsf = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "gdsf",
        .description = "many small objects before one large",
        .memory = gdsf_memory,
        .init = gdsf_init,
        .grow = gdsf_grow,
        .insert = gdsf_insert,
        .hit = gdsf_hit,
        .remove = gdsf_remove,
        .victim = gdsf_victim,
        .reweigh = gdsf_reweigh,
        .check = gdsf_check,
};

/* An owner of slots, as simple as can be: slot n is for key n, and there is a record for each. */
#define KEYS     4000u
#define CAPACITY 2000000u
#define REQUESTS 200000u

struct record {
    struct pnx_a8 hits;
    uint32_t hash;
    uint32_t weight;
    uint32_t held;
};

struct shard {
    const struct pnx_cache_policy *policy;
    void *state;
    struct pnx_cache_slots view;
    unsigned char *page;
    uint64_t used;
    uint32_t count;
};

static uint32_t next_random(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*random >> 33);
}

static struct record *record_of(const struct shard *shard, uint32_t slot) {
    return (struct record *)(void *)pnx_cache_slot_record(&shard->view, slot);
}

/* Starts with tables for half of the keys, and grows them, as a cache does. */
static int shard_open(struct shard *shard, const struct pnx_cache_policy *policy) {
    struct pnx_cache_policy_params params = {.size = sizeof(params),
            .slots = &shard->view,
            .capacity = CAPACITY,
            .seed = 1,
            .kind = PNX_CACHE_CAPACITY_BYTES};
    struct record *records = calloc(KEYS, sizeof(*records));
    *shard = (struct shard){.policy = policy, .page = (unsigned char *)records};
    shard->view = (struct pnx_cache_slots){.pages = &shard->page,
            .shift = 12,
            .stride = sizeof(struct record),
            .hits = offsetof(struct record, hits),
            .hash = offsetof(struct record, hash),
            .weight = offsetof(struct record, weight),
            .weight_bytes = 4,
            .expires = PNX_CACHE_NO_FIELD};
    size_t half = policy->memory(&params, KEYS / 2), all = policy->memory(&params, KEYS);
    void *small = aligned_alloc(64, (half + 63) / 64 * 64);
    void *large = aligned_alloc(64, (all + 63) / 64 * 64);
    if (!shard->page || !small || !large) {
        free(shard->page);
        free(small);
        free(large);
        return -1;
    }
    memset(small, 0, half);
    memset(large, 0, all);
    policy->init(small, &params, KEYS / 2);
    policy->grow(small, large, KEYS, NULL);
    free(small);
    shard->state = large;
    return 0;
}

/* Returns 1 for a hit. */
static int request(struct shard *shard, uint32_t key, uint32_t size) {
    struct record *record = record_of(shard, key);
    const struct pnx_cache_policy_wants *wants = pnx_cache_policy_wants_of(shard->state);
    if (record->held) {
        if (wants->exact_hits)
            shard->policy->hit(shard->state, key);
        else
            pnx_cache_slot_bump(&shard->view, key, wants->hit_max);
        return 1;
    }
    while (shard->used + size > CAPACITY) {
        uint32_t victim = shard->policy->victim(shard->state, key * 2654435761u, size);
        record_of(shard, victim)->held = 0;
        shard->used -= record_of(shard, victim)->weight;
        shard->count--;
    }
    record->hash = key * 2654435761u;
    record->weight = size;
    record->held = 1;
    shard->used += size;
    shard->count++;
    shard->policy->insert(shard->state, key);
    return 0;
}

static uint32_t next_key(uint64_t *random) {
    double x = next_random(random) / 2147483648.0;
    return (uint32_t)(KEYS * x * x * x);
}

static uint32_t size_of(uint32_t key) {
    return 100u << (key * 2654435761u >> 16) % 11;
}

/* Popular keys are asked for more often; sizes go from 100 bytes to 100 kB and have nothing to do with that. */
static int replay(const struct pnx_cache_policy *policy, double *ret_hit_ratio) {
    struct shard shard;
    uint64_t random = 1;
    uint32_t hits = 0;
    if (shard_open(&shard, policy))
        return -1;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint32_t key = next_key(&random);
        hits += (uint32_t)request(&shard, key, size_of(key));
    }
    const char *broken = policy->check(shard.state, shard.count);
    *ret_hit_ratio = 100.0 * hits / REQUESTS;
    printf("%-10s %5.1f %%  %s\n", policy->name, *ret_hit_ratio, policy->description);
    if (broken)
        printf("%s: %s\n", policy->name, broken);
    free(shard.state);
    free(shard.page);
    return broken ? -1 : 0;
}

/* ---- the same in a cache ---- */

/* What the cache holds stands for an object that lies elsewhere, on a disk say: it weighs what that takes there. */
struct object {
    uint32_t size;
};

static uint64_t weigh(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size) {
    const struct object *object = value;
    (void)ctx, (void)key, (void)key_size, (void)value_size;
    return object ? object->size : 100; /* no value: that there is no such object is remembered */
}

static int replay_in_cache(const struct pnx_cache_policy *policy, double *ret_hit_ratio) {
    struct pnx_cache *cache = NULL;
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    struct pnx_error err;
    uint64_t random = 1;
    int rc = pnx_cache_create(PNX_CACHE_OPTS(.custom_policy = policy, .shards = 1, .weigher = weigh,
                                      .capacity_weight = CAPACITY, .capacity = 8 << 20),
            &err, &cache);
    if (rc) {
        fprintf(stderr, "%s\n", err.message);
        return rc;
    }
    for (uint32_t i = 0; rc == 0 && i < REQUESTS; i++) {
        uint32_t key = next_key(&random);
        struct object object;
        if (pnx_cache_get_copy(cache, &key, sizeof(key), &object, sizeof(object), NULL) == 0)
            continue;
        object.size = size_of(key);
        rc = pnx_cache_put(cache, &key, sizeof(key), &object, sizeof(object), 0);
    }
    if (rc == 0)
        rc = pnx_cache_read_stats(cache, &stats);
    *ret_hit_ratio = 100.0 * (double)stats.hits / REQUESTS;
    printf("%-10s %5.1f %%  in a cache: %" PRIu64 " objects weigh %" PRIu64 ", and take %" PRIu64
           " bytes\n",
            policy->name, *ret_hit_ratio, stats.entries, stats.weight, stats.bytes);
    /* There is less room on the disk. */
    if (rc == 0)
        rc = pnx_cache_resize_weight(cache, CAPACITY / 2, &err);
    if (rc == 0)
        rc = pnx_cache_read_stats(cache, &stats);
    if (rc == 0 && stats.weight > CAPACITY / 2)
        rc = -1;
    pnx_cache_release(&cache);
    return rc;
}

int main(void) {
    double ours = 0, lru = 0, other = 0, ours_cached = 0, lru_cached = 0;
    for (size_t i = 0; pnx_cache_policy_at(i); i++) {
        if (replay(pnx_cache_policy_at(i), &other))
            return 1;
    }
    if (replay(&gdsf, &ours) || replay(pnx_cache_policy_find("lru"), &lru))
        return 1;
    if (replay_in_cache(&gdsf, &ours_cached) ||
            replay_in_cache(pnx_cache_policy_find("lru"), &lru_cached))
        return 1;
    return ours > lru && ours_cached > lru_cached ? 0 : 1;
}
