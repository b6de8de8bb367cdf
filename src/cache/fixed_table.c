/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed_table.c - writing to the index of a shard of fixed sizes; cache/fixed.h says what it is, and why readers need no lock.
 *
 *   P1  At most 17/20 of the slots are in use, so every search for a free one ends.
 *   P2  left of a group = the keys whose home it is and that stand elsewhere; passed = those that went past it from their second
 *       group on; either 255 once it has been as many as that.
 *   P3  A record is odd as long as its tag is 0.
 */
#include "cache/internal.h"

#include "base/env_system.h"
#include "os/pages.h"

#include <assert.h>

static_assert(sizeof(struct pnx_cache_group) == 16, "four groups in a line of the cache");

#define GROUP_SLOTS PNX_CACHE_GROUP_SLOTS

uint32_t pnx__cache_fixed_slots(uint32_t room) {
    uint64_t slots = ((uint64_t)room * 20 + 16) / 17;
    return (uint32_t)((slots + GROUP_SLOTS - 1) / GROUP_SLOTS * GROUP_SLOTS);
}

/* Where the groups and the records begin, and where all ends. */
struct layout {
    size_t groups, records, end;
};
static struct layout layout_of(const struct pnx_cache_shape *shape, uint32_t slots) {
    struct layout layout;
    layout.groups = (sizeof(struct pnx_cache_table) + 63) & ~(size_t)63;
    size_t groups = slots / GROUP_SLOTS * sizeof(struct pnx_cache_group);
    layout.records = layout.groups + ((groups + 63) & ~(size_t)63);
    layout.end = layout.records + (size_t)slots * shape->stride;
    return layout;
}

size_t pnx__cache_fixed_table_bytes(const struct pnx_cache_shape *shape, uint32_t slots) {
    return layout_of(shape, slots).end;
}

struct pnx_cache_table *pnx__cache_fixed_table_make(struct pnx_cache_shard *shard,
        const struct pnx_env *env, const struct pnx_cache_shape *shape, uint32_t room) {
    uint32_t slots = pnx__cache_fixed_slots(room);
    const struct layout layout = layout_of(shape, slots);
    size_t bytes = layout.end;
    /* Large ones by the page: they go back to the system at once when larger ones take their place. */
    bool mapped = env->alloc == pnx__env_system()->alloc && bytes >= PNX_CACHE_PAGES_MIN;
    char *memory = mapped ? pnx__os_pages_map(bytes) : pnx__alloc_aligned(env, 1, bytes, 64);
    if (!memory)
        return NULL;
    struct pnx_cache_table *table = (struct pnx_cache_table *)(void *)memory;
    table->n_lines = slots / GROUP_SLOTS;
    table->slots = slots;
    table->room = room;
    table->shape = *shape;
    table->groups = (struct pnx_cache_group *)(void *)(memory + layout.groups);
    table->records = (unsigned char *)memory + layout.records;
    table->shard = shard;
    table->bytes = bytes;
    table->mapped = mapped;
    for (uint32_t slot = 0; slot < slots; slot++)
        /* Relaxed: nobody else knows the table yet. */
        pnx_store(&pnx__cache_fixed_at(table, slot)->seq, 1, PNX_RELAXED, "cache_fixed.first_odd");
    return table;
}

/* ---- writing ---- */

static uint32_t tag_at(const struct pnx_cache_group *group, uint32_t i) {
    /* Relaxed, here and below: the lock's holder wrote them. */
    uint64_t word = i < 8 ? pnx_load(&group->low, PNX_RELAXED, "cache_fixed.own_low")
                          : pnx_load(&group->high, PNX_RELAXED, "cache_fixed.own_high");
    return (uint32_t)(word >> (i % 8 * 8)) & 0xff;
}

static void set_tag(struct pnx_cache_group *group, uint32_t i, uint32_t tag) {
    struct pnx_a64 *word = i < 8 ? &group->low : &group->high;
    uint32_t shift = i % 8 * 8;
    uint64_t tags = pnx_load(word, PNX_RELAXED, "cache_fixed.own_tags");
    tags = (tags & ~(UINT64_C(0xff) << shift)) | (uint64_t)tag << shift;
    pnx_store(word, tags, PNX_RELAXED, "cache_fixed.set_tag"); /* 3 in cache/fixed.h */
}

static uint32_t count_of(const struct pnx_cache_group *group, uint32_t shift) {
    return (uint32_t)(pnx_load(&group->high, PNX_RELAXED, "cache_fixed.own_count") >> shift) &
           PNX_CACHE_PASSED_MOST;
}

/* Counts a key in, or out, that has left its home or gone past. */
static void count(struct pnx_cache_group *group, uint32_t shift, bool in) {
    uint64_t high = pnx_load(&group->high, PNX_RELAXED, "cache_fixed.own_high_word");
    uint64_t one = UINT64_C(1) << shift;
    if (count_of(group, shift) != PNX_CACHE_PASSED_MOST)
        pnx_store(&group->high, in ? high + one : high - one, PNX_RELAXED,
                "cache_fixed.set_count"); /* 3 in cache/fixed.h */
}

static uint64_t free_positions(const struct pnx_cache_table *table, uint32_t g) {
    uint64_t low = pnx_load(&table->groups[g].low, PNX_RELAXED, "cache_fixed.free_low");
    uint64_t high = pnx_load(&table->groups[g].high, PNX_RELAXED, "cache_fixed.free_high");
    return pnx__cache_group_match(low, high, 0);
}

static uint32_t slot_at(uint32_t g, uint64_t match) {
    return g * GROUP_SLOTS + pnx__bytes16_position(match);
}

uint32_t pnx__cache_fixed_free_slot(const struct pnx_cache_table *table, uint64_t hash) {
    uint32_t home = pnx__cache_fixed_home(table, hash);
    uint64_t here = free_positions(table, home);
    if (here & (here - 1)) /* two or more */
        return slot_at(home, here);
    uint32_t g = pnx__cache_fixed_second(table, hash, home);
    uint64_t there = free_positions(table, g);
    if (here && !(there & (there - 1)))
        return slot_at(home, here);
    while (!there) {
        g = pnx__cache_fixed_after(table, g);
        there = free_positions(table, g);
    }
    return slot_at(g, there);
}

/* Counts a key in, or out, on its way from home to the group in which it stands. */
static void count_way(struct pnx_cache_table *table, uint64_t hash, uint32_t to, bool in) {
    uint32_t home = pnx__cache_fixed_home(table, hash);
    if (to == home)
        return;
    count(&table->groups[home], PNX_CACHE_LEFT_SHIFT, in);
    for (uint32_t g = pnx__cache_fixed_second(table, hash, home); g != to;
            g = pnx__cache_fixed_after(table, g))
        count(&table->groups[g], PNX_CACHE_PASSED_SHIFT, in);
}

void pnx__cache_fixed_table_put(struct pnx_cache_table *table, uint64_t hash, uint32_t slot) {
    uint32_t to = slot / GROUP_SLOTS;
    count_way(table, hash, to, true);
    set_tag(&table->groups[to], slot % GROUP_SLOTS, pnx__cache_tag(hash));
}

void pnx__cache_fixed_table_take(struct pnx_cache_table *table, uint64_t hash, uint32_t slot) {
    uint32_t to = slot / GROUP_SLOTS;
    count_way(table, hash, to, false);
    set_tag(&table->groups[to], slot % GROUP_SLOTS, 0);
}

/* Into a table that nobody else knows yet, from one in which nothing changes but hits. */
static void copy_record(struct pnx_cache_fixed *to, const struct pnx_cache_fixed *from,
        const struct pnx_cache_shape *shape) {
    /* Relaxed, all: see above. */
    pnx_store(&to->seq, pnx_load(&from->seq, PNX_RELAXED, "cache_fixed.copy_seq"), PNX_RELAXED,
            "cache_fixed.copied_seq");
    pnx_store(&to->expires, pnx_load(&from->expires, PNX_RELAXED, "cache_fixed.copy_expires"),
            PNX_RELAXED, "cache_fixed.copied_expires");
    pnx_store(&to->hits, pnx_load(&from->hits, PNX_RELAXED, "cache_fixed.copy_hits"), PNX_RELAXED,
            "cache_fixed.copied_hits");
    for (uint32_t i = 0; i < shape->key_words + shape->value_words; i++)
        pnx_store(&to->word[i], pnx_load(&from->word[i], PNX_RELAXED, "cache_fixed.copy_word"),
                PNX_RELAXED, "cache_fixed.copied_word");
}

void pnx__cache_fixed_table_copy(
        struct pnx_cache_table *to, const struct pnx_cache_table *from, uint32_t *map) {
    const struct pnx_cache *cache = to->shard->cache;
    for (uint32_t slot = 0; slot < from->slots; slot++) {
        map[slot] = PNX_CACHE_NO_SLOT;
        if (!tag_at(&from->groups[slot / GROUP_SLOTS], slot % GROUP_SLOTS))
            continue;
        const struct pnx_cache_fixed *record = pnx__cache_fixed_at(from, slot);
        uint64_t hash = pnx__cache_fixed_hash(cache, record);
        map[slot] = pnx__cache_fixed_free_slot(to, hash);
        copy_record(pnx__cache_fixed_at(to, map[slot]), record, &to->shape);
        pnx__cache_fixed_table_put(to, hash, map[slot]);
    }
}

/* ---- checking ---- */

/* How many keys went past, as the records say and as the groups count. */
struct sums {
    uint64_t left, passed;
};

/* Checks a slot, and counts its key's way in. */
static const char *check_slot(
        const struct pnx_cache_table *table, uint32_t slot, struct sums *should_be) {
    const struct pnx_cache_fixed *record = pnx__cache_fixed_at(table, slot);
    uint32_t to = slot / GROUP_SLOTS;
    bool empty = pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.check_odd") & 1;
    bool tagged = tag_at(&table->groups[to], slot % GROUP_SLOTS) != 0;
    if (empty != !tagged)
        return tagged ? "the index holds a slot that is not live"
                      : "a slot is live, and the index does not hold it";
    if (empty)
        return NULL;
    uint64_t hash = pnx__cache_fixed_hash(table->shard->cache, record);
    uint32_t home = pnx__cache_fixed_home(table, hash);
    if (to == home)
        return NULL;
    should_be->left++;
    if (!count_of(&table->groups[home], PNX_CACHE_LEFT_SHIFT))
        return "a key does not stand in its home, which none has left";
    for (uint32_t g = pnx__cache_fixed_second(table, hash, home); g != to;
            g = pnx__cache_fixed_after(table, g), should_be->passed++) {
        if (!count_of(&table->groups[g], PNX_CACHE_PASSED_SHIFT))
            return "a key stands behind a group that nobody went past";
    }
    return NULL;
}

const char *pnx__cache_fixed_table_check(const struct pnx_cache_table *table, uint32_t *ret_live) {
    struct sums should_be = {0}, are = {0};
    bool stuck = false;
    *ret_live = 0;
    for (uint32_t slot = 0; slot < table->slots; slot++) {
        const char *broken = check_slot(table, slot, &should_be);
        if (broken)
            return broken;
        *ret_live += tag_at(&table->groups[slot / GROUP_SLOTS], slot % GROUP_SLOTS) != 0;
    }
    for (uint32_t g = 0; g < table->n_lines; g++) {
        uint32_t left = count_of(&table->groups[g], PNX_CACHE_LEFT_SHIFT);
        uint32_t passed = count_of(&table->groups[g], PNX_CACHE_PASSED_SHIFT);
        stuck |= left == PNX_CACHE_PASSED_MOST || passed == PNX_CACHE_PASSED_MOST;
        are.left += left;
        are.passed += passed;
    }
    return stuck || (are.left == should_be.left && are.passed == should_be.passed)
                   ? NULL
                   : "the groups' counts of keys that went past do not add up";
}
