/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/ghost_table.c - hashes of entries that have gone: see cache/policies/ghost_table.h */
#include "cache/policies/ghost_table.h"

#define WAYS       16u
#define CLOCK_BITS 5u
#define PRINT_BITS 11u
#define CLOCK_MASK ((1u << CLOCK_BITS) - 1)
#define UNITS \
    16u /* a table's room is so many ticks of the clock, so that it does not come round too soon */

void pnx__ghost_table_layout(
        struct pnx__ghost_table *table, struct pnx__layout *layout, uint32_t room) {
    uint32_t buckets = (room + room / 8) / WAYS + 1;
    uint16_t *cells = pnx__layout_take(layout, (uint64_t)buckets * WAYS, sizeof(uint16_t));
    if (layout->base)
        *table = (struct pnx__ghost_table){
                .cells = cells, .buckets = buckets, .unit = room / UNITS + 1};
}

static uint16_t *bucket(const struct pnx__ghost_table *table, uint32_t hash) {
    return table->cells + (((uint64_t)hash * table->buckets) >> 32) * WAYS;
}

/* 11 bits of the hash, never 0; hashes that differ in their low bits only have others.  The clock stands below. */
static uint32_t print(uint32_t hash) {
    uint32_t bits = hash * 0x9E3779B1u >> (32 - PRINT_BITS);
    return (bits > 0 ? bits : 1) << CLOCK_BITS;
}

static uint32_t now(const struct pnx__ghost_table *table) {
    return (uint32_t)(table->came / table->unit) & CLOCK_MASK;
}

/* Ticks since the cell was filled. */
static uint32_t age(uint32_t now, uint32_t cell) {
    return (now - cell) & CLOCK_MASK;
}

void pnx__ghost_table_fetch(const struct pnx__ghost_table *table, uint32_t hash) {
    __builtin_prefetch(bucket(table, hash), 1);
}

void pnx__ghost_table_push(struct pnx__ghost_table *table, uint32_t hash) {
    uint16_t *cells = bucket(table, hash);
    uint32_t clock = now(table), oldest = 0, most = 0;
    for (uint32_t i = 0; i < WAYS; i++) {
        if (cells[i] == 0) {
            oldest = i;
            break;
        }
        if (age(clock, cells[i]) >= most) {
            most = age(clock, cells[i]);
            oldest = i;
        }
    }
    cells[oldest] = (uint16_t)(print(hash) | clock);
    table->came++;
}

bool pnx__ghost_table_take(struct pnx__ghost_table *table, uint32_t hash, uint64_t limit) {
    uint16_t *cells = bucket(table, hash);
    uint32_t clock = now(table);
    for (uint32_t i = 0; i < WAYS; i++) {
        if (cells[i] == 0 || ((uint32_t)cells[i] & ~CLOCK_MASK) != print(hash))
            continue;
        bool young = (uint64_t)age(clock, cells[i]) * table->unit < limit;
        cells[i] = 0;
        return young;
    }
    return false;
}

/* Buckets have hashes in order, so each of the larger table has hashes of one of the smaller, but at its ends. */
void pnx__ghost_table_copy(struct pnx__ghost_table *table, const struct pnx__ghost_table *from) {
    table->came = from->came;
    for (uint64_t to = 0; to < table->buckets; to++) {
        const uint16_t *cells = from->cells + to * from->buckets / table->buckets * WAYS;
        for (uint32_t i = 0; i < WAYS; i++) {
            if (cells[i] == 0)
                continue;
            uint64_t ticks = (uint64_t)age(now(from), cells[i]) * from->unit / table->unit;
            table->cells[to * WAYS + i] = (uint16_t)(((uint32_t)cells[i] & ~CLOCK_MASK) |
                                                     ((now(table) - (uint32_t)ticks) & CLOCK_MASK));
        }
    }
}
