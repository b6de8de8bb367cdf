/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/entry.c - making, referring to and destroying entries.
 *
 *   P1  An entry is destroyed by whoever drops its last reference, once, with no lock held.
 *   P2  What an entry has charged to the budget is given back when it is destroyed; its block is freed then, or, where
 *       readers may have found it without a lock, when they have left.
 */
#include "cache/internal.h"

#include "share/reclaim.h"

#include <assert.h>

static_assert(sizeof(struct pnx_cache_entry) == 64, "one line, and the value behind it is aligned");
static_assert(sizeof(struct pnx_cache_times) == PNX_CACHE_TIMES_COST, "what is told to users");
static_assert(sizeof(struct pnx_cache_times) == 16, "the entry behind them is aligned");

/* What malloc takes for n bytes, as glibc does it: 8 bytes more, in steps of 16; whole pages when large. */
static size_t rounded(size_t n) {
    const size_t mmap_from = 128 * 1024;
    if (n > PTRDIFF_MAX - 8192)
        return SIZE_MAX;
    return n < mmap_from ? (n + 8 + 15) & ~(size_t)15 : (n + 16 + 4095) & ~(size_t)4095;
}

static size_t times_bytes(uint8_t flags) {
    return flags & PNX_CACHE_ENTRY_TIMED ? sizeof(struct pnx_cache_times) : 0;
}

size_t pnx__cache_entry_cost(size_t key_size, size_t value_size, uint8_t flags) {
    size_t block;
    size_t cost;
    bool pointer = (flags & PNX_CACHE_ENTRY_POINTER) != 0;
    size_t outside = pointer ? value_size : 0;
    size_t inside = pointer ? sizeof(void *) : value_size;
    size_t head = sizeof(struct pnx_cache_entry) + times_bytes(flags);
    if (__builtin_add_overflow(key_size, head, &block) ||
            __builtin_add_overflow(block, inside, &block))
        return SIZE_MAX;
    block = rounded(block);
    if (__builtin_add_overflow(block, outside, &cost) ||
            __builtin_add_overflow(cost, PNX_CACHE_INDEX_SHARE, &cost))
        return SIZE_MAX;
    return cost;
}

size_t pnx_cache_cost(size_t key_size, size_t value_size) {
    return pnx__cache_entry_cost(key_size, value_size, 0);
}

static size_t block_bytes(const struct pnx_cache_entry *entry) {
    return times_bytes(entry->flags) + sizeof(*entry) + pnx__cache_entry_inside(entry) +
           entry->key_size;
}

static void *block_of(struct pnx_cache_entry *entry) {
    return (char *)entry - times_bytes(entry->flags);
}

struct pnx_cache_entry *pnx__cache_entry_make(struct pnx_cache_shard *shard, const void *key,
        size_t key_size, const void *value, size_t value_size, uint8_t flags) {
    const struct pnx_env *env = &shard->cache->env;
    bool pointer = (flags & PNX_CACHE_ENTRY_POINTER) != 0;
    if (shard->cache->timed && !(flags & PNX_CACHE_ENTRY_NEGATIVE))
        flags |= PNX_CACHE_ENTRY_TIMED;
    if (key_size > UINT32_MAX || pnx__cache_entry_cost(key_size, value_size, flags) == SIZE_MAX)
        return NULL;
    size_t inside = pointer ? sizeof(value) : value_size;
    size_t times = times_bytes(flags);
    /* Not pnx__alloc: there is no point in clearing what is written at once. */
    char *block =
            env->alloc(env->ctx, times + sizeof(struct pnx_cache_entry) + inside + key_size, 16);
    if (!block)
        return NULL;
    struct pnx_cache_entry *entry = (struct pnx_cache_entry *)(void *)(block + times);
    if (times)
        *pnx__cache_entry_times(entry) = (struct pnx_cache_times){{0}, {0}};
    /* Relaxed: the cache, or the caller's use of it, is still in it. */
    pnx_fetch_add(&shard->pending, 1, PNX_RELAXED, "cache.entry_pending");
    *entry = (struct pnx_cache_entry){
            .shard = shard,
            .value_size = value_size,
            .expires = PNX_NEVER,
            .key_size = (uint32_t)key_size,
            .refs = {1},
            .flags = flags,
            .u.in.slot = PNX_CACHE_NONE,
    };
    if (pointer)
        memcpy(entry + 1, &value, sizeof(value));
    else if (value && value_size > 0)
        memcpy(entry + 1, value, value_size);
    if (key_size > 0)
        memcpy(pnx__cache_entry_key(entry), key, key_size);
    return entry;
}

static void free_block(struct pnx_cache_entry *entry) {
    struct pnx_cache_shard *shard = entry->shard;
    pnx__free(&shard->cache->env, block_of(entry), block_bytes(entry), 1);
    pnx__cache_settled(shard);
}

static void free_retired(struct pnx_reclaim_node *node) {
    free_block(PNX_CONTAINER(node, struct pnx_cache_entry, u.node));
}

void pnx__cache_entry_discard(struct pnx_cache_entry *entry) {
    if (entry->charged)
        pnx_budget_uncharge(entry->shard->cache->budget, pnx__cache_cost_of(entry));
    if (entry->u.in.used)
        pnx_reclaim_retire(NULL, &entry->u.node, free_retired, block_bytes(entry));
    else
        free_block(entry);
}

struct pnx_cache_entry *pnx__cache_entry_shrink(struct pnx_cache_entry *entry, size_t value_size) {
    struct pnx_budget *budget = entry->shard->cache->budget;
    struct pnx_cache_entry *smaller = pnx__cache_entry_make(entry->shard,
            pnx__cache_entry_key(entry), entry->key_size, entry + 1, value_size, entry->flags);
    if (!smaller)
        return NULL;
    if (entry->charged)
        pnx_budget_uncharge(budget, pnx__cache_cost_of(entry) - pnx__cache_cost_of(smaller));
    smaller->charged = entry->charged;
    entry->charged = 0;
    pnx__cache_entry_discard(entry);
    return smaller;
}

size_t pnx__cache_entry_destroy(struct pnx_cache_entry *entry) {
    struct pnx_cache *cache = entry->shard->cache;
    size_t cost = pnx__cache_cost_of(entry);
    if (entry->detached)
        pnx_fetch_sub(&cache->detached, cost, PNX_RELAXED, "cache.attach"); /* a number */
    if (cache->destroy && !(entry->flags & PNX_CACHE_ENTRY_NEGATIVE)) {
        const struct pnx_cache_removed removed = {
                .size = sizeof(removed),
                .key = pnx__cache_entry_key(entry),
                .key_size = entry->key_size,
                .value = pnx__cache_entry_value(entry),
                .value_size = entry->value_size,
                .cause = (enum pnx_cache_cause)entry->cause,
        };
        PNX_CACHE_CALLING(returned);
        pnx__mutex_assert_none_held();
        cache->destroy(cache->ctx, &removed);
        returned = true;
    }
    pnx__cache_entry_discard(entry);
    return cost;
}

size_t pnx__cache_entry_drop(struct pnx_cache_entry *entry) {
    /* Pairs with itself: all that other holders did with the entry happens before it is destroyed. */
    if (pnx_fetch_sub(&entry->refs, 1, PNX_ACQ_REL, "cache.entry_drop") != 1)
        return 0;
    return pnx__cache_defer(entry) ? 0 : pnx__cache_entry_destroy(entry);
}

void pnx__cache_entry_detach(struct pnx_cache_entry *entry) {
    entry->detached = 1;
    pnx_fetch_add(&entry->shard->cache->detached, pnx__cache_cost_of(entry), PNX_RELAXED,
            "cache.detach"); /* a number */
}

/* ---- pins ---- */

void pnx__cache_count_pins(struct pnx_cache *cache, uint64_t n) {
    PNX_CACHE_COUNT(cache, pinned, n);
}

void pnx__cache_pin(struct pnx_cache_entry *entry, uint32_t n) {
    /* Relaxed: whoever pins has a reference or the shard's lock, so the count is not at its end. */
    pnx_fetch_add(&entry->refs, n, PNX_RELAXED, "cache.entry_pin");
    pnx__cache_count_pins(entry->shard->cache, n);
}

bool pnx__cache_try_pin(struct pnx_cache_entry *entry) {
    uint32_t refs = pnx_load(&entry->refs, PNX_RELAXED, "cache.try_pin_look"); /* cas looks again */
    /* Relaxed: what the entry holds was seen through its record; that nobody destroys it now is in the count itself. */
    while (refs && !pnx_cas(&entry->refs, &refs, refs + 1, PNX_RELAXED, "cache.try_pin"))
        continue;
    if (refs)
        pnx__cache_count_pins(entry->shard->cache, 1);
    return refs != 0;
}

/* ---- references ---- */

void *pnx_cache_ref_data(const struct pnx_cache_ref *ref) {
    return ref && ref->entry ? pnx__cache_entry_value(ref->entry) : NULL;
}

size_t pnx_cache_ref_size(const struct pnx_cache_ref *ref) {
    return ref && ref->entry ? ref->entry->value_size : 0;
}

const void *pnx_cache_ref_key(const struct pnx_cache_ref *ref, size_t *ret_size) {
    if (!ref || !ref->entry) {
        if (ret_size)
            *ret_size = 0;
        return NULL;
    }
    if (ret_size)
        *ret_size = ref->entry->key_size;
    return pnx__cache_entry_key(ref->entry);
}

int pnx_cache_ref_dup(const struct pnx_cache_ref *ref, struct pnx_cache_ref *ret_ref) {
    if (!ref || !ref->entry || !ret_ref)
        return -EINVAL;
    if (pnx__cache_enter(ref->entry->shard->cache) == 0)
        pnx__cache_pin(ref->entry, 1);
    *ret_ref = *ref;
    return 0;
}

void pnx_cache_ref_release(struct pnx_cache_ref *ref) {
    if (!ref || !ref->entry)
        return;
    struct pnx_cache_entry *entry = ref->entry;
    struct pnx_cache *cache = entry->shard->cache;
    *ref = (struct pnx_cache_ref){0};
    if (pnx__cache_enter(cache) != 0)
        return;                                    /* a forked child: the entry is the parent's */
    pnx__cache_count_pins(cache, (uint64_t)0 - 1); /* before: the last one may free the cache */
    if (pnx__cache_entry_drop(entry) > 0)
        pnx__reclaim_assist(NULL);
}
