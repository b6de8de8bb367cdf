/* SPDX-License-Identifier: Apache-2.0 */
/* keys.c - see keys.h */
#include "keys.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_SIZE 65536u
/* Keys whose cells are asked for in advance; of half as many, what the cells refer to. */
#define AHEAD      32

int keys_init(struct keys *keys, struct failure *failure) {
    *keys = (struct keys){.mask = FIRST_SIZE - 1};
    keys->table = calloc(FIRST_SIZE, sizeof(*keys->table));
    return keys->table ? 0 : fail(failure, "out of memory");
}

void keys_release(struct keys *keys) {
    for (uint32_t i = 0; i < keys->page_count; i++)
        free(keys->pages[i]);
    free(keys->pages);
    free(keys->table);
    *keys = (struct keys){0};
}

#define NUMBER (KEYS_MAX) /* bits of a cell that are the number + 1 */

/* Keys may be anything, numbers in a row for instance: all bits are mixed (the finaliser of MurmurHash3, Appleby, 2011). */
static uint64_t hash(uint64_t key) {
    key ^= key >> 33;
    key *= UINT64_C(0xff51afd7ed558ccd);
    key ^= key >> 33;
    key *= UINT64_C(0xc4ceb9fe1a85ec53);
    return key ^ key >> 33;
}

static uint32_t cell(const struct keys *keys, uint64_t hashed) {
    return (uint32_t)(hashed >> 32) & keys->mask;
}

static uint32_t tag(uint64_t hashed) {
    return (uint32_t)hashed & ~NUMBER;
}

static uint64_t *key_of(const struct keys *keys, uint32_t id) {
    return &keys->pages[id >> KEYS_PAGE_LOG][id & ((1u << KEYS_PAGE_LOG) - 1)];
}

static int add_page(struct keys *keys, struct failure *failure) {
    if (keys->page_count == keys->page_room) {
        uint32_t room = keys->page_room ? keys->page_room * 2 : 16;
        uint64_t **pages = realloc(keys->pages, room * sizeof(*pages));
        if (!pages)
            return fail(failure, "out of memory for %u keys", keys->count);
        keys->pages = pages;
        keys->page_room = room;
    }
    uint64_t *page = calloc((size_t)1 << KEYS_PAGE_LOG, sizeof(*page));
    if (!page)
        return fail(failure, "out of memory for %u keys", keys->count);
    keys->pages[keys->page_count++] = page;
    return 0;
}

/* Three quarters full: twice the cells. */
static int widen(struct keys *keys, struct failure *failure) {
    size_t size = ((size_t)keys->mask + 1) * 2;
    uint32_t *table = calloc(size, sizeof(*table));
    if (!table)
        return fail(failure, "out of memory for %u keys", keys->count);
    free(keys->table);
    keys->table = table;
    keys->mask = (uint32_t)(size - 1);
    for (uint32_t id = 0; id < keys->count; id++) {
        uint64_t hashed = hash(*key_of(keys, id));
        uint32_t at = cell(keys, hashed);
        while (table[at] != 0)
            at = (at + 1) & keys->mask;
        table[at] = tag(hashed) | (id + 1);
    }
    return 0;
}

static int add(
        struct keys *keys, uint64_t key, uint64_t hashed, uint32_t at, struct failure *failure) {
    if (keys->count == KEYS_MAX)
        return fail(failure, "more than %u different keys", KEYS_MAX);
    if (keys->count >> KEYS_PAGE_LOG == keys->page_count && add_page(keys, failure))
        return -1;
    *key_of(keys, keys->count) = key;
    keys->table[at] = tag(hashed) | ++keys->count;
    if ((uint64_t)keys->count * 4 > ((uint64_t)keys->mask + 1) * 3)
        return widen(keys, failure);
    return 0;
}

int keys_number(struct keys *keys, const uint64_t *key, uint32_t n, uint32_t *ret_ids,
        struct failure *failure) {
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(&keys->table[cell(keys, hash(key[i + AHEAD]))]);
        if (i + AHEAD / 2 < n) {
            uint32_t soon = keys->table[cell(keys, hash(key[i + AHEAD / 2]))] & NUMBER;
            if (soon != 0)
                __builtin_prefetch(key_of(keys, soon - 1));
        }
        uint64_t hashed = hash(key[i]);
        uint32_t at = cell(keys, hashed);
        uint32_t found = keys->table[at];
        while (found != 0 && ((found & ~NUMBER) != tag(hashed) ||
                                     *key_of(keys, (found & NUMBER) - 1) != key[i])) {
            at = (at + 1) & keys->mask;
            found = keys->table[at];
        }
        if (found == 0) {
            if (add(keys, key[i], hashed, at, failure))
                return -1;
            found = keys->count;
        }
        ret_ids[i] = (found & NUMBER) - 1;
    }
    return 0;
}
