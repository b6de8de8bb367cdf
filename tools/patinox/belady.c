/* SPDX-License-Identifier: Apache-2.0 */
/* belady.c - see belady.h */
#include "belady.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHILDREN  4
#define NOT_THERE UINT32_MAX
#define FAR       UINT64_MAX /* next request: never */

/* Buckets of costs: 2^SUB_LOG for each power of two. */
#define SUB_LOG 8
#define BUCKETS (65u << SUB_LOG)

struct bucket {
    uint64_t hits;
    uint64_t bytes;
    double cost;
};

struct entry {
    uint64_t next;
    uint32_t id;
};

/* Of a key, for bounds: its last request, from 1, and its size then. */
struct last {
    uint64_t at;
    uint64_t size;
};

struct belady {
    uint64_t capacity;
    enum pnx_cache_capacity_kind kind;
    uint32_t keys;
    /* MIN: a heap, the farthest next request on top; at[id] is where a key stands in it. */
    struct entry *heap;
    uint32_t *at;
    uint32_t held;
    /* PFOO-L */
    struct last *last;
    struct bucket *by_hit;  /* what a hit costs */
    struct bucket *by_byte; /* what a byte hit costs */
    struct run_results results;
};

int belady_create(uint64_t capacity, enum pnx_cache_capacity_kind kind, uint32_t keys,
        struct failure *failure, struct belady **ret_belady) {
    struct belady *b = calloc(1, sizeof(*b));
    bool ok = b;
    if (b) {
        b->capacity = capacity;
        b->kind = kind;
        b->keys = keys;
    }
    if (b && kind == PNX_CACHE_CAPACITY_ENTRIES) {
        size_t room = capacity < keys ? (size_t)capacity : keys;
        b->heap = malloc((room + 1) * sizeof(*b->heap));
        b->at = malloc(((size_t)keys + 1) * sizeof(*b->at));
        ok = b->heap && b->at;
        if (ok)
            memset(b->at, 0xff, ((size_t)keys + 1) * sizeof(*b->at));
    } else if (b) {
        b->last = calloc((size_t)keys + 1, sizeof(*b->last));
        b->by_hit = calloc(BUCKETS, sizeof(*b->by_hit));
        b->by_byte = calloc(BUCKETS, sizeof(*b->by_byte));
        ok = b->last && b->by_hit && b->by_byte;
    }
    if (!ok) {
        belady_release(&b);
        return fail(failure, "belady: out of memory for %u keys", keys);
    }
    *ret_belady = b;
    return 0;
}

void belady_release(struct belady **belady) {
    struct belady *b = *belady;
    if (!b)
        return;
    free(b->heap);
    free(b->at);
    free(b->last);
    free(b->by_hit);
    free(b->by_byte);
    free(b);
    *belady = NULL;
}

static void place(struct belady *b, uint32_t at, struct entry entry) {
    b->heap[at] = entry;
    b->at[entry.id] = at;
}

static void sift_up(struct belady *b, uint32_t at, struct entry entry) {
    while (at > 0) {
        uint32_t parent = (at - 1) / CHILDREN;
        if (b->heap[parent].next >= entry.next)
            break;
        place(b, at, b->heap[parent]);
        at = parent;
    }
    place(b, at, entry);
}

static void sift_down(struct belady *b, uint32_t at, struct entry entry) {
    for (;;) {
        uint64_t first = (uint64_t)at * CHILDREN + 1;
        if (first >= b->held)
            break;
        uint32_t most = (uint32_t)first;
        for (uint32_t i = most + 1; i < first + CHILDREN && i < b->held; i++) {
            if (b->heap[i].next > b->heap[most].next)
                most = i;
        }
        if (b->heap[most].next <= entry.next)
            break;
        place(b, at, b->heap[most]);
        at = most;
    }
    place(b, at, entry);
}

static void request(struct belady *b, uint32_t id, uint32_t distance, uint64_t size) {
    uint64_t now = b->results.requests++;
    struct entry entry = {.next = distance == UINT32_MAX ? FAR : now + distance, .id = id};
    b->results.bytes += size;
    if (b->at[id] != NOT_THERE) {
        b->results.hits++;
        b->results.hit_bytes += size;
        sift_up(b, b->at[id], entry); /* it was the nearest of all; now it is farther */
        return;
    }
    if (b->held < b->capacity) {
        sift_up(b, b->held++, entry);
        return;
    }
    b->at[b->heap[0].id] = NOT_THERE;
    sift_down(b, 0, entry);
}

/* The bucket of a cost > 0: its highest bits. */
static uint32_t bucket_of(unsigned __int128 cost) {
    uint64_t c = cost > UINT64_MAX ? UINT64_MAX : (uint64_t)cost;
    uint32_t log = 63u - (uint32_t)__builtin_clzll(c);
    uint32_t sub = (uint32_t)(log >= SUB_LOG ? c >> (log - SUB_LOG) : c << (SUB_LOG - log));
    return (log << SUB_LOG) + (sub & ((1u << SUB_LOG) - 1));
}

/* The least cost that is in this bucket: all in it are priced so, which keeps the bound a bound. */
static double least(uint32_t bucket) {
    double sub = (double)(bucket & ((1u << SUB_LOG) - 1)) / (1u << SUB_LOG);
    return ldexp(1 + sub, (int)(bucket >> SUB_LOG));
}

static void add(struct bucket *buckets, uint32_t bucket, uint64_t size, uint64_t units) {
    buckets[bucket].hits++;
    buckets[bucket].bytes += size;
    buckets[bucket].cost += least(bucket) * (double)units;
}

static void interval(struct belady *b, uint32_t id, uint64_t size) {
    struct last *last = &b->last[id];
    uint64_t now = ++b->results.requests;
    b->results.bytes += size;
    /* An object may change its size; a cache that holds it, holds the old one. */
    uint64_t held = last->at && last->size < size ? last->size : size;
    if (last->at && held <= b->capacity) {
        uint64_t time = now - last->at;
        add(b->by_hit, bucket_of((unsigned __int128)held * time), size, 1);
        add(b->by_byte, bucket_of(time), size, held);
    }
    *last = (struct last){.at = now, .size = size};
}

void belady_requests(struct belady *b, const uint32_t *id, const uint32_t *distance,
        const uint64_t *size, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (b->kind == PNX_CACHE_CAPACITY_ENTRIES)
            request(b, id[i], distance[i], size[i]);
        else
            interval(b, id[i], size[i]);
    }
}

/* Spends what there is on the cheapest first; of the last bucket a part, rounded up. */
static uint64_t spend(const struct bucket *buckets, double budget, bool bytes) {
    uint64_t got = 0;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        const struct bucket *bucket = &buckets[i];
        uint64_t all = bytes ? bucket->bytes : bucket->hits;
        if (all == 0)
            continue;
        if (bucket->cost > budget)
            return got + (uint64_t)((double)all * (budget / bucket->cost)) + 1;
        budget -= bucket->cost;
        got += all;
    }
    return got;
}

struct run_results belady_results(const struct belady *b) {
    struct run_results results = b->results;
    if (b->kind == PNX_CACHE_CAPACITY_ENTRIES)
        return results;
    double budget = (double)b->capacity * (double)results.requests;
    results.hits = spend(b->by_hit, budget, false);
    results.hit_bytes = spend(b->by_byte, budget, true);
    return results;
}
