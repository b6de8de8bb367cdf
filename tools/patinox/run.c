/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - see run.h */
#include "run.h"

#include <stdlib.h>

#define FIRST_SLOTS 1024u
#define SLOTS_AHEAD 65536u /* where it is not known how many there will be */
#define FIRST_IDS   4096u
#define PAGE_LOG    12u
#define AHEAD       16u /* requests whose index is asked for in advance */

/* What a policy reads of a slot.  weight is there only where sizes count. */
struct record {
    uint32_t hash; /* of the key's number: a bijection, so that it tells the number, too */
    struct pnx_a8 hits;
    uint8_t reserved[3];
    uint64_t weight;
};

/* held slots have their numbers in index; free ones are chained by the hash of their records. */
struct run {
    const struct pnx_cache_policy *policy;
    void *state;
    struct pnx_cache_policy_params params;
    struct pnx_cache_slots view;
    unsigned char **pages;
    uint32_t *index; /* of keys: the slot, or NO_SLOT */
    uint32_t ids;    /* keys the index has room for */
    uint32_t page_count;
    uint32_t slots; /* the policy has room for */
    uint32_t used;  /* slots below have been given out once */
    uint32_t free;
    uint32_t held;
    uint64_t weight;
    uint64_t capacity;
    struct run_results results;
};

/* Bijections of 32 bits, one the other's inverse (constants: Wellons, Prospecting for hash functions, 2018). */
static uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static uint32_t unmix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x43021123u;
    x ^= x >> 15 ^ x >> 30;
    x *= 0x1d69e2a5u;
    return x ^ x >> 16;
}

/* A state's memory: zeroed, at an alignment of 64, and not touched where it is large. */
static void *take_state(size_t bytes) {
    char *whole = calloc(1, bytes + 64 + sizeof(void *));
    if (!whole)
        return NULL;
    void *p = (void *)(((uintptr_t)whole + sizeof(void *) + 63) & ~(uintptr_t)63);
    ((void **)p)[-1] = whole;
    return p;
}

static void give_state(void *state) {
    if (state)
        free(((void **)state)[-1]);
}

static size_t record_bytes(const struct run *run) {
    return run->params.kind == PNX_CACHE_CAPACITY_BYTES ? sizeof(struct record)
                                                        : offsetof(struct record, weight);
}

static struct record *record(const struct run *run, uint32_t slot) {
    return (struct record *)(void *)pnx_cache_slot_record(&run->view, slot);
}

static size_t page_bytes(const struct run *run) {
    return record_bytes(run) << PAGE_LOG;
}

/* Pages are made when their first slot is given out. */
static int add_page(struct run *run) {
    size_t bytes = page_bytes(run);
    unsigned char **pages = realloc(run->pages, (run->page_count + 1) * sizeof(*run->pages));
    if (!pages)
        return -1;
    run->pages = pages;
    run->view.pages = pages;
    pages[run->page_count] = malloc(bytes);
    if (!pages[run->page_count])
        return -1;
    run->page_count++;
    return 0;
}

static int more_slots(struct run *run, uint32_t slots) {
    size_t bytes = run->policy->memory(&run->params, slots);
    void *memory = bytes ? take_state(bytes) : NULL;
    if (!memory)
        return -1;
    if (run->state) {
        run->policy->grow(run->state, memory, slots, NULL);
        give_state(run->state);
    } else {
        run->policy->init(memory, &run->params, slots);
    }
    run->state = memory;
    run->slots = slots;
    return 0;
}

int run_create(const struct pnx_cache_policy *policy, uint64_t capacity,
        enum pnx_cache_capacity_kind kind, uint32_t keys, struct failure *failure,
        struct run **ret_run) {
    struct run *run = calloc(1, sizeof(*run));
    if (!run)
        return fail(failure, "out of memory");
    run->policy = policy;
    run->capacity = capacity;
    run->free = PNX_CACHE_NO_SLOT;
    run->params = (struct pnx_cache_policy_params){.size = sizeof(run->params),
            .slots = &run->view,
            .capacity = capacity,
            .seed = 1,
            .kind = kind};
    run->view = (struct pnx_cache_slots){.shift = PAGE_LOG,
            .stride = (uint32_t)record_bytes(run),
            .hits = offsetof(struct record, hits),
            .hash = offsetof(struct record, hash),
            .weight = kind == PNX_CACHE_CAPACITY_BYTES ? (uint32_t)offsetof(struct record, weight)
                                                       : PNX_CACHE_NO_FIELD,
            .weight_bytes = 8,
            .expires = PNX_CACHE_NO_FIELD};
    uint64_t first = keys > 0 ? keys : kind == PNX_CACHE_CAPACITY_BYTES ? FIRST_SLOTS : SLOTS_AHEAD;
    if (kind == PNX_CACHE_CAPACITY_ENTRIES && first > capacity)
        first = capacity;
    if (more_slots(run, first > 0 ? (uint32_t)first : 1)) {
        run_release(&run);
        return fail(failure, "%s: out of memory for %llu slots", policy->name,
                (unsigned long long)first);
    }
    *ret_run = run;
    return 0;
}

void run_release(struct run **run) {
    struct run *r = *run;
    if (!r)
        return;
    give_state(r->state);
    for (uint32_t i = 0; i < r->page_count; i++)
        free(r->pages[i]);
    free(r->pages);
    free(r->index);
    free(r);
    *run = NULL;
}

static int more_ids(struct run *run, uint32_t id) {
    uint64_t ids = run->ids ? (uint64_t)run->ids * 3 / 2 : FIRST_IDS;
    if (ids <= id)
        ids = (uint64_t)id + 1;
    uint32_t *index = realloc(run->index, (size_t)ids * sizeof(*index));
    if (!index)
        return -1;
    memset(index + run->ids, 0xff, (size_t)(ids - run->ids) * sizeof(*index));
    run->index = index;
    run->ids = (uint32_t)ids;
    return 0;
}

/* A slot has been given back. */
static void let_go(struct run *run, uint32_t slot) {
    struct record *r = record(run, slot);
    run->index[unmix(r->hash)] = PNX_CACHE_NO_SLOT;
    run->weight -= pnx_cache_slot_weight(&run->view, slot);
    run->held--;
    r->hash = run->free;
    run->free = slot;
}

static void make_room(struct run *run, uint32_t hash, uint64_t weight) {
    while (run->weight + weight > run->capacity && run->held > 0)
        let_go(run, run->policy->victim(run->state, hash, weight));
}

/* Returns a slot that nothing is in, or NO_SLOT without memory. */
static uint32_t take_slot(struct run *run) {
    uint32_t slot = run->free;
    if (slot != PNX_CACHE_NO_SLOT) {
        run->free = record(run, slot)->hash;
        return slot;
    }
    if (run->used == run->slots) {
        uint64_t slots = (uint64_t)run->slots * 3 / 2 + 1;
        if (run->params.kind == PNX_CACHE_CAPACITY_ENTRIES && slots > run->capacity)
            slots = run->capacity;
        if (slots > PNX_CACHE_SLOTS_MAX || more_slots(run, (uint32_t)slots))
            return PNX_CACHE_NO_SLOT;
    }
    if (run->used >> PAGE_LOG == run->page_count && add_page(run))
        return PNX_CACHE_NO_SLOT;
    return run->used++;
}

static int miss(struct run *run, uint32_t id, uint64_t size) {
    uint32_t hash = mix(id);
    uint64_t weight = run->params.kind == PNX_CACHE_CAPACITY_BYTES ? size : 1;
    if (weight > run->capacity)
        return 0; /* it will never fit */
    make_room(run, hash, weight);
    uint32_t slot = take_slot(run);
    if (slot == PNX_CACHE_NO_SLOT)
        return -1;
    struct record *r = record(run, slot);
    r->hash = hash;
    if (run->params.kind == PNX_CACHE_CAPACITY_BYTES)
        r->weight = weight;
    run->index[id] = slot;
    run->weight += weight;
    run->held++;
    run->policy->insert(run->state, slot);
    return 0;
}

static void hit(struct run *run, uint32_t slot, uint64_t size) {
    const struct pnx_cache_policy_wants *wants = pnx_cache_policy_wants_of(run->state);
    run->results.hits++;
    run->results.hit_bytes += size;
    if (wants->exact_hits)
        run->policy->hit(run->state, slot);
    else if (wants->hit_max > 0)
        pnx_cache_slot_bump(&run->view, slot, wants->hit_max);
}

static void told(struct run *run, uint32_t id, uint64_t size, uint32_t slot) {
    const struct pnx_cache_policy_wants *wants = pnx_cache_policy_wants_of(run->state);
    uint32_t hash = mix(id);
    uint64_t weight = run->params.kind == PNX_CACHE_CAPACITY_BYTES ? size : 1;
    if ((hash & wants->access_mask) == 0)
        run->policy->access(run->state, hash, weight, slot);
}

int run_requests(struct run *run, const uint32_t *id, const uint64_t *size, uint32_t n,
        struct failure *failure) {
    uint32_t highest = 0;
    for (uint32_t i = 0; i < n; i++)
        highest = id[i] > highest ? id[i] : highest;
    if (highest >= run->ids && more_ids(run, highest))
        return fail(failure, "%s: out of memory for %u keys", run->policy->name, highest + 1);
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(&run->index[id[i + AHEAD]]);
        uint64_t bytes = size ? size[i] : 1;
        uint32_t slot = run->index[id[i]];
        run->results.bytes += bytes;
        if (pnx_cache_policy_wants_of(run->state)->access)
            told(run, id[i], bytes, slot);
        if (slot != PNX_CACHE_NO_SLOT)
            hit(run, slot, bytes);
        else if (miss(run, id[i], bytes))
            return fail(failure, "%s: out of memory", run->policy->name);
    }
    run->results.requests += n;
    return 0;
}

struct run_results run_results(const struct run *run) {
    return run->results;
}
