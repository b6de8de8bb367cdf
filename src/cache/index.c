/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/index.c - the linear hash table over slots, and the giving and taking of slots.
 *
 *   P1  A key is found in a chain of expected length below 2, whatever came and went before.
 *   P2  No function does more than a constant number of splits, merges and moves.
 *   P3  Unless a walk is under way, or has just ended, the memory of the index is at most INDEX_BASE plus INDEX_SHARE a live slot.
 *   P4  While a walk is under way, no live slot changes its number.
 */
#include "cache/index.h"

#include "cache/entry.h"

#include <assert.h>
#include <string.h>

static_assert(sizeof(struct pnx_cache_slot) == 40, "no padding");
static_assert(
        (sizeof(struct pnx_cache_slot) + PNX_CACHE_ORDER_WORD) * 81 / 64 < PNX_CACHE_INDEX_SHARE,
        "the share covers an eighth of holes in segments that are seven eighths full");
static_assert((sizeof(struct pnx_cache_slot) + PNX_CACHE_ORDER_WORD) * (64 + 64 + 8) * 9 / 8 <
                      PNX_CACHE_INDEX_BASE,
        "the base covers the constant part of the slack and the first segments");

void pnx__cache_index_init(
        struct pnx_cache_index *ix, const struct pnx_cache_order *policy, void *policy_state) {
    memset(ix, 0, sizeof(*ix));
    ix->policy = policy;
    ix->policy_state = policy_state;
    ix->stride = sizeof(struct pnx_cache_slot) + policy->word_bytes;
    ix->first_hole = PNX_CACHE_NONE;
    policy->init(policy_state);
}

/* ---- segments ---- */

size_t pnx__cache_index_next_bytes(const struct pnx_cache_index *ix) {
    if (ix->segments == PNX_CACHE_SEGMENTS)
        return 0;
    return pnx__cache_segment_records(ix->segments) * ix->stride;
}

void pnx__cache_index_add_segment(struct pnx_cache_index *ix, void *memory, size_t bytes) {
    ix->segment[ix->segments] = memory;
    ix->room += pnx__cache_segment_records(ix->segments);
    ix->segments++;
    ix->bytes += bytes;
    if (ix->buckets == 0) {
        ix->buckets = 1;
        pnx__cache_slot(ix, 0)->head = PNX_CACHE_NONE;
    }
}

static void drop_last_segment(struct pnx_cache_index *ix, struct pnx_cache_spare **spare) {
    uint32_t last = --ix->segments;
    uint32_t records = pnx__cache_segment_records(last);
    struct pnx_cache_spare *gone = (struct pnx_cache_spare *)(void *)ix->segment[last];
    ix->segment[last] = NULL;
    ix->room -= records;
    gone->bytes = records * ix->stride;
    ix->bytes -= gone->bytes;
    gone->next = *spare;
    *spare = gone;
}

/* Gives up segments that hold neither slots nor buckets; the heap is never longer than the slots. */
static void trim(struct pnx_cache_index *ix, struct pnx_cache_spare **spare) {
    uint32_t needed = ix->used > ix->buckets ? ix->used : ix->buckets;
    while (ix->segments > 0 && ix->room - pnx__cache_segment_records(ix->segments - 1) >= needed)
        drop_last_segment(ix, spare);
}

void pnx__cache_index_drop(struct pnx_cache_index *ix, struct pnx_cache_spare **spare) {
    ix->used = ix->holes = ix->buckets = ix->mask = 0;
    ix->first_hole = PNX_CACHE_NONE;
    while (ix->segments > 0)
        drop_last_segment(ix, spare);
}

/* ---- buckets ---- */

static void split_bucket(struct pnx_cache_index *ix) {
    if (ix->buckets == ix->room)
        return;
    if (ix->buckets == ix->mask + 1)
        ix->mask = ix->mask * 2 + 1;
    uint32_t fresh = ix->buckets++;
    uint32_t *to = &pnx__cache_slot(ix, fresh)->head;
    uint32_t *from = &pnx__cache_slot(ix, fresh & (ix->mask >> 1))->head;
    while (*from != PNX_CACHE_NONE) {
        struct pnx_cache_slot *slot = pnx__cache_slot(ix, *from);
        if ((slot->hash & ix->mask) == fresh) {
            *to = *from;
            *from = slot->chain;
            to = &slot->chain;
        } else {
            from = &slot->chain;
        }
    }
    *to = PNX_CACHE_NONE;
}

static void merge_bucket(struct pnx_cache_index *ix) {
    uint32_t last = --ix->buckets;
    uint32_t *to = &pnx__cache_slot(ix, last & (ix->mask >> 1))->head;
    while (*to != PNX_CACHE_NONE)
        to = &pnx__cache_slot(ix, *to)->chain;
    *to = pnx__cache_slot(ix, last)->head;
    if (ix->buckets == (ix->mask >> 1) + 1)
        ix->mask >>= 1;
}

uint32_t pnx__cache_index_find(
        const struct pnx_cache_index *ix, uint32_t hash, const void *key, size_t key_size) {
    if (ix->buckets == 0)
        return PNX_CACHE_NONE;
    uint32_t i = pnx__cache_slot(ix, pnx__cache_bucket(ix, hash))->head;
    while (i != PNX_CACHE_NONE) {
        const struct pnx_cache_slot *slot = pnx__cache_slot(ix, i);
        if (slot->hash == hash && pnx__cache_entry_is(slot->entry, key, key_size))
            return i;
        i = slot->chain;
    }
    return PNX_CACHE_NONE;
}

/* The word that names slot i in its bucket's chain. */
static uint32_t *chain_to(struct pnx_cache_index *ix, uint32_t i) {
    uint32_t hash = pnx__cache_slot(ix, i)->hash;
    uint32_t *at = &pnx__cache_slot(ix, pnx__cache_bucket(ix, hash))->head;
    while (*at != i)
        at = &pnx__cache_slot(ix, *at)->chain;
    return at;
}

/* ---- slots ---- */

static uint32_t take_slot(struct pnx_cache_index *ix) {
    uint32_t i = ix->first_hole;
    if (i == PNX_CACHE_NONE)
        return ix->used++;
    ix->first_hole = pnx__cache_slot(ix, i)->chain;
    if (ix->first_hole != PNX_CACHE_NONE)
        pnx__cache_slot(ix, ix->first_hole)->prev = PNX_CACHE_NONE;
    ix->holes--;
    return i;
}

static void make_hole(struct pnx_cache_index *ix, uint32_t i) {
    struct pnx_cache_slot *slot = pnx__cache_slot(ix, i);
    slot->entry = NULL;
    slot->prev = PNX_CACHE_NONE;
    slot->chain = ix->first_hole;
    if (ix->first_hole != PNX_CACHE_NONE)
        pnx__cache_slot(ix, ix->first_hole)->prev = i;
    ix->first_hole = i;
    ix->holes++;
}

/* Takes the hole at the end off the list of holes and off the used slots. */
static void drop_last_hole(struct pnx_cache_index *ix) {
    const struct pnx_cache_slot *slot = pnx__cache_slot(ix, --ix->used);
    if (slot->prev == PNX_CACHE_NONE)
        ix->first_hole = slot->chain;
    else
        pnx__cache_slot(ix, slot->prev)->chain = slot->chain;
    if (slot->chain != PNX_CACHE_NONE)
        pnx__cache_slot(ix, slot->chain)->prev = slot->prev;
    ix->holes--;
}

/* Moves the last slot, which is live, into a hole. */
static void move_last_slot(struct pnx_cache_index *ix) {
    uint32_t from = ix->used - 1;
    uint32_t *link = chain_to(ix, from);
    uint32_t to = take_slot(ix);
    const struct pnx_cache_slot *old = pnx__cache_slot(ix, from);
    struct pnx_cache_slot *slot = pnx__cache_slot(ix, to);
    *link = to;
    slot->entry = old->entry;
    slot->expires = old->expires;
    slot->hash = old->hash;
    slot->chain = old->chain;
    slot->heap_pos = old->heap_pos;
    if (slot->heap_pos != PNX_CACHE_NONE)
        pnx__cache_slot(ix, slot->heap_pos)->heap = to;
    slot->entry->slot = to;
    ix->policy->move(ix, ix->policy_state, from, to);
    ix->used--;
}

bool pnx__cache_index_compact(
        struct pnx_cache_index *ix, uint32_t max, struct pnx_cache_spare **spare) {
    if (ix->walks > 0) {
        ix->loose = 1;
        return true;
    }
    uint32_t slack = PNX_CACHE_SLACK(ix->live);
    uint32_t work = 0;
    for (; ix->holes > slack && work < max; work++) {
        if (pnx__cache_slot(ix, ix->used - 1)->entry)
            move_last_slot(ix);
        else
            drop_last_hole(ix);
    }
    for (; ix->buckets > ix->live + slack && work < 2 * max; work++)
        merge_bucket(ix);
    trim(ix, spare);
    if (ix->holes <= slack && ix->buckets <= ix->live + slack)
        ix->loose = 0;
    return ix->loose == 0;
}

void pnx__cache_index_insert(
        struct pnx_cache_index *ix, struct pnx_cache_entry *entry, uint32_t hash, pnx_ns expires) {
    uint32_t i = take_slot(ix);
    struct pnx_cache_slot *slot = pnx__cache_slot(ix, i);
    uint32_t *head = &pnx__cache_slot(ix, pnx__cache_bucket(ix, hash))->head;
    slot->entry = entry;
    slot->expires = expires;
    slot->hash = hash;
    slot->chain = *head;
    slot->heap_pos = PNX_CACHE_NONE;
    *head = i;
    entry->slot = i;
    ix->live++;
    if (expires != PNX_NEVER)
        pnx__cache_heap_push(ix, i);
    ix->policy->insert(ix, ix->policy_state, i);
    if (ix->live > ix->buckets)
        split_bucket(ix);
}

void pnx__cache_index_remove(
        struct pnx_cache_index *ix, struct pnx_cache_entry *entry, struct pnx_cache_spare **spare) {
    uint32_t i = entry->slot;
    const struct pnx_cache_slot *slot = pnx__cache_slot(ix, i);
    *chain_to(ix, i) = slot->chain;
    if (slot->heap_pos != PNX_CACHE_NONE)
        pnx__cache_heap_remove(ix, i);
    ix->policy->remove(ix, ix->policy_state, i);
    entry->slot = PNX_CACHE_NONE;
    ix->live--;
    make_hole(ix, i);
    pnx__cache_index_compact(ix, 2, spare);
}

/* ---- invariants ---- */

static const char *check_buckets(const struct pnx_cache_index *ix) {
    uint32_t chained = 0;
    for (uint32_t b = 0; b < ix->buckets; b++) {
        for (uint32_t i = pnx__cache_slot(ix, b)->head; i != PNX_CACHE_NONE;
                i = pnx__cache_slot(ix, i)->chain) {
            if (i >= ix->used || !pnx__cache_slot(ix, i)->entry)
                return "a chain holds a slot that is not live";
            if (pnx__cache_bucket(ix, pnx__cache_slot(ix, i)->hash) != b)
                return "a slot is in the wrong bucket";
            if (pnx__cache_slot(ix, i)->entry->slot != i)
                return "an entry does not know its slot";
            if (++chained > ix->live)
                return "the chains hold more slots than are live";
        }
    }
    return chained == ix->live ? NULL : "the chains lack live slots";
}

static const char *check_holes(const struct pnx_cache_index *ix) {
    uint32_t holes = 0;
    uint32_t prev = PNX_CACHE_NONE;
    for (uint32_t i = ix->first_hole; i != PNX_CACHE_NONE; i = pnx__cache_slot(ix, i)->chain) {
        const struct pnx_cache_slot *slot = pnx__cache_slot(ix, i);
        if (i >= ix->used || slot->entry || slot->prev != prev)
            return "the list of holes is broken";
        if (++holes > ix->holes)
            return "there are more holes than counted";
        prev = i;
    }
    return holes == ix->holes ? NULL : "there are fewer holes than counted";
}

const char *pnx__cache_index_check(const struct pnx_cache_index *ix) {
    if (ix->live + ix->holes != ix->used || ix->used > ix->room || ix->buckets > ix->room)
        return "the index's counts do not add up";
    if (ix->buckets > 0 && (ix->buckets <= ix->mask / 2 || ix->buckets - 1 > ix->mask))
        return "the mask does not fit the buckets";
    if (!ix->loose && ix->bytes > PNX_CACHE_INDEX_BASE + (size_t)PNX_CACHE_INDEX_SHARE * ix->live)
        return "the index holds more memory than its entries count for";
    const char *broken = check_buckets(ix);
    if (!broken)
        broken = check_holes(ix);
    if (!broken)
        broken = pnx__cache_heap_check(ix);
    return broken ? broken : ix->policy->check(ix, ix->policy_state);
}
