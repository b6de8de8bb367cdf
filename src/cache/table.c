/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/table.c - writing to the index of a shard; table.h says why readers need no lock.
 *
 *   P1  A table has room for more slots than it is used for: lines are filled to 4/5 at most on average, so every search
 *       for room ends.
 *   P2  passed of a line = the keys between whose own line and theirs it stands.
 */
#include "cache/table.h"

#include "cache/internal.h"

#include "os/pages.h"

#include <assert.h>

static_assert(sizeof(struct pnx_cache_line) == 64, "a line of the index is a line of the cache");
static_assert(sizeof(struct pnx_cache_record) == 40, "what PNX_CACHE_INDEX_SHARE counts with");

static struct pnx_cache_line no_line;
struct pnx_cache_table pnx__cache_no_table = {.n_lines = 1, .lines = &no_line};

/* ---- memory ---- */

static uint32_t n_pages(uint32_t slots) {
    return (uint32_t)(((uint64_t)slots + PNX_CACHE_PAGE_SLOTS - 1) >> PNX_CACHE_PAGE_SHIFT);
}

/* High half of the hash of the key in a slot. */
static uint32_t high_of(const struct pnx_cache_table *table, uint32_t slot) {
    return pnx__cache_record(table, slot)->hash;
}

struct pnx_cache_table *pnx__cache_table_make(struct pnx_cache_shard *shard,
        const struct pnx_env *env, const struct pnx_cache_shape *shape, uint32_t slots) {
    uint64_t lines = ((uint64_t)slots * 5 + 47) / 48 + 1; /* filled to 4/5 */
    size_t head = (sizeof(struct pnx_cache_table) + 63) & ~(size_t)63;
    size_t pages = (n_pages(slots) * sizeof(unsigned char *) + 63) & ~(size_t)63;
    size_t bytes = head + pages + lines * sizeof(struct pnx_cache_line);
    char *memory = pnx__alloc_aligned(env, 1, bytes, 64);
    if (!memory)
        return NULL;
    struct pnx_cache_table *table = (struct pnx_cache_table *)(void *)memory;
    table->n_lines = (uint32_t)lines;
    table->slots = table->room = slots;
    table->shape = *shape;
    table->pages = (unsigned char **)(void *)(memory + head);
    table->lines = (struct pnx_cache_line *)(void *)(memory + head + pages);
    table->shard = shard;
    table->bytes = bytes;
    return table;
}

void pnx__cache_table_free(const struct pnx_env *env, struct pnx_cache_table *table) {
    if (!table || table == &pnx__cache_no_table)
        return;
    if (table->charged > 0)
        pnx_budget_uncharge(table->shard->cache->budget, table->charged);
    for (uint32_t i = 0; table->owns_pages && i < n_pages(table->slots); i++)
        pnx__free(env, table->pages[i], PNX_CACHE_PAGE_SLOTS, sizeof(struct pnx_cache_record));
    if (table->mapped)
        pnx__os_pages_unmap(table, table->bytes);
    else
        pnx__free(env, table, 1, table->bytes);
}

/* ---- writing ---- */

static uint32_t tag_at(const struct pnx_cache_line *line, uint32_t i) {
    /* Relaxed: the lock's holder wrote it. */
    uint64_t low = pnx_load(&line->tags_low, PNX_RELAXED, "cache_table.own_low");
    uint32_t high = pnx_load(&line->tags_high, PNX_RELAXED, "cache_table.own_high");
    return (i < 8 ? (uint32_t)(low >> (8 * i)) : high >> (8 * (i - 8))) & 0xff;
}

static void set_tag(struct pnx_cache_line *line, uint32_t i, uint32_t tag) {
    /* Release: pair with cache_table.tags_low and tags_high. */
    if (i < 8) {
        uint64_t low = pnx_load(&line->tags_low, PNX_RELAXED, "cache_table.set_own_low");
        low = (low & ~(UINT64_C(0xff) << (8 * i))) | ((uint64_t)tag << (8 * i));
        pnx_store(&line->tags_low, low, PNX_RELEASE, "cache_table.set_low");
    } else {
        uint32_t high = pnx_load(&line->tags_high, PNX_RELAXED, "cache_table.set_own_high");
        high = (high & ~(UINT32_C(0xff) << (8 * (i - 8)))) | (tag << (8 * (i - 8)));
        pnx_store(&line->tags_high, high, PNX_RELEASE, "cache_table.set_high");
    }
}

static void pass(struct pnx_cache_line *line, uint32_t by) {
    /* Relaxed, both: see 3 in table.h. */
    uint32_t passed = pnx_load(&line->passed, PNX_RELAXED, "cache_table.own_passed");
    pnx_store(&line->passed, passed + by, PNX_RELAXED, "cache_table.set_passed");
}

/* A free position, or LINE_SLOTS. */
static uint32_t free_position(const struct pnx_cache_line *line) {
    uint64_t low = pnx_load(&line->tags_low, PNX_RELAXED, "cache_table.free_low");
    uint64_t high = pnx_load(&line->tags_high, PNX_RELAXED, "cache_table.free_high");
    uint64_t m = pnx__cache_match(low, high, 0);
    return m ? pnx__cache_position(m) : PNX_CACHE_LINE_SLOTS;
}

void pnx__cache_table_put(
        struct pnx_cache_table *table, uint32_t high, uint32_t tag, uint32_t slot) {
    struct pnx_cache_line *line = pnx__cache_home(table, high);
    uint32_t i;
    while ((i = free_position(line)) == PNX_CACHE_LINE_SLOTS) {
        pass(line, 1);
        line = pnx__cache_next_line(table, line);
    }
    /* Release: pairs with cache_table.look_slot; the slot's page. */
    pnx_store(&line->slot[i], slot, PNX_RELEASE, "cache_table.slot");
    set_tag(line, i, tag);
}

/* The position of a slot in the line, or LINE_SLOTS. */
static uint32_t position_of(const struct pnx_cache_line *line, uint32_t tag, uint32_t slot) {
    if (tag) {
        /* Relaxed, all: the lock's holder wrote them. */
        uint64_t low = pnx_load(&line->tags_low, PNX_RELAXED, "cache_table.take_low");
        uint64_t high = pnx_load(&line->tags_high, PNX_RELAXED, "cache_table.take_high");
        for (uint64_t m = pnx__cache_match(low, high, tag); m; m &= m - 1) {
            uint32_t i = pnx__cache_position(m);
            if (pnx_load(&line->slot[i], PNX_RELAXED, "cache_table.take_slot") == slot &&
                    tag_at(line, i))
                return i;
        }
        return PNX_CACHE_LINE_SLOTS;
    }
    for (uint32_t i = 0; i < PNX_CACHE_LINE_SLOTS; i++) {
        if (pnx_load(&line->slot[i], PNX_RELAXED, "cache_table.own_slot") == slot &&
                tag_at(line, i))
            return i;
    }
    return PNX_CACHE_LINE_SLOTS;
}

void pnx__cache_table_take(
        struct pnx_cache_table *table, uint32_t high, uint32_t tag, uint32_t slot) {
    struct pnx_cache_line *line = pnx__cache_home(table, high);
    uint32_t i;
    while ((i = position_of(line, tag, slot)) == PNX_CACHE_LINE_SLOTS) {
        pass(line, (uint32_t)-1);
        line = pnx__cache_next_line(table, line);
    }
    set_tag(line, i, 0);
}

void pnx__cache_table_copy(struct pnx_cache_table *to, const struct pnx_cache_table *from) {
    uint32_t pages = n_pages(from->slots);
    if (pages > 0)
        memcpy(to->pages, from->pages, pages * sizeof(*to->pages));
    for (uint32_t l = 0; l < from->n_lines; l++) {
        const struct pnx_cache_line *line = &from->lines[l];
        for (uint32_t i = 0; i < PNX_CACHE_LINE_SLOTS; i++) {
            uint32_t tag = tag_at(line, i);
            if (!tag)
                continue;
            uint32_t slot = pnx_load(&line->slot[i], PNX_RELAXED, "cache_table.copy_slot");
            pnx__cache_table_put(to, high_of(from, slot), tag, slot);
        }
    }
}

/* ---- checking ---- */

static bool is_live(const struct pnx_cache_table *table, uint32_t slot) {
    const struct pnx_cache_entry *entry = pnx_load(
            &pnx__cache_record(table, slot)->entry, PNX_RELAXED, "cache_table.check_entry");
    return entry && entry->u.in.slot == slot;
}

/* Checks a slot that stands in line l; *passed: how many lines its key went past. */
static const char *check_slot(
        const struct pnx_cache_table *table, uint32_t l, uint32_t slot, uint64_t *passed) {
    if (slot >= table->slots || !table->pages[slot >> PNX_CACHE_PAGE_SHIFT])
        return "the index holds a slot that does not exist";
    if (!is_live(table, slot))
        return "the index holds a slot that is not live";
    uint32_t home = (uint32_t)(pnx__cache_home(table, high_of(table, slot)) - table->lines);
    *passed += l >= home ? l - home : table->n_lines - home + l;
    for (uint32_t p = home; p != l; p = p + 1 == table->n_lines ? 0 : p + 1) {
        if (!pnx_load(&table->lines[p].passed, PNX_RELAXED, "cache_table.check_path"))
            return "a key stands behind a line that nobody went past";
    }
    return NULL;
}

const char *pnx__cache_table_check(const struct pnx_cache_table *table, uint32_t *ret_live) {
    uint32_t live = 0;
    uint64_t passed = 0, should_pass = 0;
    for (uint32_t l = 0; l < table->n_lines; l++) {
        const struct pnx_cache_line *line = &table->lines[l];
        passed += pnx_load(&line->passed, PNX_RELAXED, "cache_table.check_passed");
        for (uint32_t i = 0; i < PNX_CACHE_LINE_SLOTS; i++) {
            if (!tag_at(line, i))
                continue;
            uint32_t slot = pnx_load(&line->slot[i], PNX_RELAXED, "cache_table.check_slot");
            const char *broken = check_slot(table, l, slot, &should_pass);
            if (broken)
                return broken;
            live++;
        }
    }
    if (passed != should_pass)
        return "the lines' counts of keys that went past do not add up";
    *ret_live = live;
    return NULL;
}
