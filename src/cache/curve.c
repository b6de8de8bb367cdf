/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/curve.c - what the hit ratio would be at other sizes: SHARDS (Waldspurger et al., FAST 2015), of fixed size.
 *
 * Keys are followed whose hash is below a limit.  A request of one that was asked for before has as its distance how many
 * other followed keys were asked for since, times the share of keys that is followed: an LRU cache larger than that would have
 * hit.  When too many are followed the limit falls to half, and what is recorded from then on weighs twice as much.
 *
 *     keys by hash --> sample --> time of its last request; a Fenwick tree over times counts the samples between
 *
 *   P1  A fixed number of bytes, allocated with the cache; the work of a request is logarithmic, amortised.
 *   P2  n == samples in the index == times that are taken == the tree's sum.
 *   P3  A popular key weighs as much as it does whether it is followed or not: what is recorded is corrected by the number of
 *       all requests, as the paper has it (SHARDS-adj).
 */
#include "cache/internal.h"

#include "base/error.h"
#include "base/hash.h"

#define NO_SAMPLE 0u
#define REFRESH   32u /* requests a sample after which what is recorded counts half */

struct pnx_cache_curve {
    struct pnx_a32 limit; /* keys whose hash is below it are followed; written under the lock */
    uint32_t samples;     /* fixed, as are the next two and the arrays */
    uint32_t times;
    uint32_t mask; /* of the index */
    size_t bytes;
    struct pnx_mutex lock; /* taken with no other lock of the cache held; guards what follows */
    uint32_t shift;        /* how often the limit has fallen */
    uint32_t n;
    uint32_t clock; /* the next time, below times */
    uint32_t free;  /* samples that are not used, linked by time */
    uint64_t *hash; /* of a sample, which has a number from 1 */
    uint32_t *time; /* of its last request */
    uint32_t *index;
    uint32_t *tree;                         /* from 1 */
    uint32_t *at;                           /* the sample of a time */
    uint64_t weight[PNX_HISTOGRAM_BUCKETS]; /* of requests by distance */
    uint64_t total;                         /* and of all that were followed */
    uint64_t recorded;                      /* requests since they were halved */
    uint64_t requests;                      /* all of them, halved like these, up to counted ones */
    uint64_t counted;
};

int pnx__cache_curve_make(
        const struct pnx_env *env, uint32_t samples, struct pnx_cache_curve **ret_curve) {
    *ret_curve = NULL;
    if (samples == 0)
        return 0;
    uint32_t places = 1;
    while (places < 2 * samples)
        places *= 2;
    size_t bytes = sizeof(struct pnx_cache_curve) + (samples + 1) * (size_t)12 +
                   places * (size_t)4 + (2 * samples + 1) * (size_t)8;
    struct pnx_cache_curve *curve = pnx__alloc(env, 1, bytes);
    if (!curve)
        return -ENOMEM;
    curve->bytes = bytes;
    curve->samples = samples;
    curve->times = 2 * samples;
    curve->mask = places - 1;
    curve->hash = (uint64_t *)(curve + 1);
    curve->time = (uint32_t *)(curve->hash + samples + 1);
    curve->index = curve->time + samples + 1;
    curve->tree = curve->index + places;
    curve->at = curve->tree + 2 * samples + 1;
    for (uint32_t i = samples; i > 0; i--) {
        curve->time[i] = curve->free;
        curve->free = i;
    }
    pnx__mutex_init(&curve->lock, PNX_RANK_CACHE);
    pnx_store(&curve->limit, UINT32_MAX, PNX_RELAXED, "cache_curve.first"); /* nobody knows it */
    *ret_curve = curve;
    return 0;
}

void pnx__cache_curve_drop(const struct pnx_env *env, struct pnx_cache_curve *curve) {
    if (!curve)
        return;
    pnx__mutex_destroy(&curve->lock);
    pnx__free(env, curve, 1, curve->bytes);
}

size_t pnx__cache_curve_bytes(const struct pnx_cache_curve *curve) {
    return curve ? curve->bytes : 0;
}

/* ---- the tree: how many samples have a time up to this one ---- */

static void tree_add(struct pnx_cache_curve *curve, uint32_t time, uint32_t n) {
    for (uint32_t i = time + 1; i <= curve->times; i += i & -i)
        curve->tree[i] += n;
}

static uint32_t tree_sum(const struct pnx_cache_curve *curve, uint32_t time) {
    uint32_t sum = 0;
    for (uint32_t i = time + 1; i > 0; i -= i & -i)
        sum += curve->tree[i];
    return sum;
}

/* ---- samples ---- */

static uint32_t rank_of(uint64_t hash) {
    return (uint32_t)(hash >> 32);
}

static uint32_t limit_of(const struct pnx_cache_curve *curve) {
    return pnx_load(&curve->limit, PNX_RELAXED, "cache_curve.limit"); /* as it comes */
}

/* The place in the index where the hash stands, or would. */
static uint32_t *place_of(struct pnx_cache_curve *curve, uint64_t hash) {
    uint32_t i = (uint32_t)hash & curve->mask;
    while (curve->index[i] != NO_SAMPLE && curve->hash[curve->index[i]] != hash)
        i = (i + 1) & curve->mask;
    return &curve->index[i];
}

/* Drops what is not below the limit any more, and numbers the times anew. */
static void rebuild(struct pnx_cache_curve *curve) {
    uint32_t limit = limit_of(curve), n = 0;
    memset(curve->index, 0, (curve->mask + (size_t)1) * sizeof(*curve->index));
    for (uint32_t t = 0; t < curve->clock; t++) {
        uint32_t sample = curve->at[t];
        curve->at[t] = NO_SAMPLE;
        if (sample == NO_SAMPLE)
            continue;
        if (rank_of(curve->hash[sample]) >= limit) {
            curve->time[sample] = curve->free;
            curve->free = sample;
            continue;
        }
        curve->at[n] = sample;
        curve->time[sample] = n++;
        *place_of(curve, curve->hash[sample]) = sample;
    }
    curve->n = curve->clock = n;
    memset(curve->tree, 0, (curve->times + (size_t)1) * sizeof(*curve->tree));
    for (uint32_t t = 0; t < n; t++)
        tree_add(curve, t, 1);
}

static void record(struct pnx_cache_curve *curve, uint64_t others) {
    uint64_t distance = others << curve->shift;
    curve->weight[pnx__histogram_index(distance)] += UINT64_C(1) << curve->shift;
}

/* Notes that the sample was asked for now. */
static void touch(struct pnx_cache_curve *curve, uint32_t sample) {
    curve->time[sample] = curve->clock;
    curve->at[curve->clock] = sample;
    tree_add(curve, curve->clock++, 1);
}

static void follow_new(struct pnx_cache_curve *curve, uint64_t hash) {
    while (curve->n == curve->samples && curve->shift < 31) {
        pnx_store(
                &curve->limit, limit_of(curve) / 2, PNX_RELAXED, "cache_curve.fall"); /* a number */
        curve->shift++;
        rebuild(curve);
    }
    if (curve->free == NO_SAMPLE || rank_of(hash) >= limit_of(curve))
        return;
    uint32_t sample = curve->free;
    curve->free = curve->time[sample];
    curve->hash[sample] = hash;
    curve->n++;
    *place_of(curve, hash) = sample;
    touch(curve, sample);
}

/* ---- requests ---- */

static uint64_t count_requests(const struct pnx_cache *cache) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < PNX_CACHE_CELLS; i++) { /* relaxed: numbers */
        n += pnx_load(&cache->cells[i].hits, PNX_RELAXED, "cache_curve.hits");
        n += pnx_load(&cache->cells[i].misses, PNX_RELAXED, "cache_curve.misses");
        n += pnx_load(&cache->cells[i].negative_hits, PNX_RELAXED, "cache_curve.negative");
    }
    return n;
}

static void catch_up(struct pnx_cache *cache, struct pnx_cache_curve *curve) {
    uint64_t now = count_requests(cache);
    curve->requests += now - curve->counted;
    curve->counted = now;
}

/* What is older counts less and less. */
static void forget_some(struct pnx_cache *cache, struct pnx_cache_curve *curve) {
    catch_up(cache, curve);
    for (uint32_t i = 0; i < PNX_HISTOGRAM_BUCKETS; i++)
        curve->weight[i] /= 2;
    curve->total /= 2;
    curve->requests /= 2;
    curve->recorded = 0;
}

void pnx__cache_curve_follow(struct pnx_cache *cache, uint64_t hash) {
    struct pnx_cache_curve *curve = cache->curve;
    hash = pnx__mix64(hash); /* shards and lines have used its bits */
    if (rank_of(hash) >= limit_of(curve))
        return;
    pnx__mutex_lock(&curve->lock);
    if (rank_of(hash) < limit_of(curve)) {
        if (curve->clock == curve->times)
            rebuild(curve);
        if (++curve->recorded > (uint64_t)REFRESH * curve->samples)
            forget_some(cache, curve);
        uint32_t sample = *place_of(curve, hash);
        curve->total += UINT64_C(1) << curve->shift;
        if (sample != NO_SAMPLE) {
            uint32_t time = curve->time[sample];
            record(curve, curve->n - tree_sum(curve, time));
            tree_add(curve, time, (uint32_t)-1);
            curve->at[time] = NO_SAMPLE;
            touch(curve, sample);
        } else {
            follow_new(curve, hash);
        }
    }
    pnx__mutex_unlock(&curve->lock);
}

/* ---- the curve ---- */

/* The weight of requests whose distance is less than this. */
static double weight_below(const struct pnx_cache_curve *curve, double entries) {
    double sum = 0;
    uint64_t begin = 0;
    for (uint32_t i = 0; i < PNX_HISTOGRAM_BUCKETS; i++) {
        uint64_t bound = pnx__histogram_bound(i);
        double weight = (double)curve->weight[i];
        if ((double)bound > entries)
            return sum + weight * (entries > (double)begin ? (entries - (double)begin) /
                                                                     ((double)bound - (double)begin)
                                                           : 0);
        sum += weight;
        begin = bound;
    }
    return sum;
}

/* How many entries the cache has room for, about; 0: not known. */
static double entries_at(const struct pnx_cache *cache) {
    /* Relaxed, all: numbers. */
    uint64_t bytes = pnx_load(&cache->capacity, PNX_RELAXED, "cache_curve.capacity");
    uint64_t entries = pnx_load(&cache->capacity_entries, PNX_RELAXED, "cache_curve.entries");
    uint64_t used = pnx_load(&cache->used_bytes, PNX_RELAXED, "cache_curve.used");
    uint64_t held = pnx_load(&cache->used_entries, PNX_RELAXED, "cache_curve.held");
    double most = entries == UINT64_MAX ? 0 : (double)entries;
    if (bytes != UINT64_MAX && used > 0 && held > 0) {
        double fit = (double)bytes * (double)held / (double)used;
        most = most == 0 || fit < most ? fit : most;
    }
    uint64_t weight = pnx_load(&cache->capacity_weight, PNX_RELAXED, "cache_curve.weight");
    uint64_t weighs = pnx_load(&cache->used_weight, PNX_RELAXED, "cache_curve.weighs");
    if (weight != UINT64_MAX && weighs > 0 && held > 0) {
        double fit = (double)weight * (double)held / (double)weighs;
        most = most == 0 || fit < most ? fit : most;
    }
    return most;
}

int pnx_cache_curve(struct pnx_cache *cache, const double *sizes, size_t n, double *ret_ratios) {
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (!sizes || !ret_ratios)
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        if (!(sizes[i] > 0))
            return -EINVAL;
    }
    struct pnx_cache_curve *curve = cache->curve;
    if (!curve)
        return -ENOTSUP;
    double entries = entries_at(cache);
    pnx__mutex_lock(&curve->lock);
    catch_up(cache, curve);
    if (entries == 0 || curve->total == 0 || curve->requests == 0)
        rc = -EAGAIN;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        double all = (double)curve->requests;
        double hits = weight_below(curve, sizes[i] * entries) + all - (double)curve->total;
        ret_ratios[i] = hits <= 0 ? 0 : hits >= all ? 1 : hits / all;
    }
    pnx__mutex_unlock(&curve->lock);
    return rc;
}
