/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/sketch.c - how often was a hash seen of late: see cache/policies/sketch.h */
#include "cache/policies/sketch.h"

#include "base/hash.h"

#include <string.h>

#define LINE_WORDS 8u
#define ROWS       4u
#define SAMPLE     10u /* additions an entry between halvings */

void pnx__sketch_layout(
        struct pnx__sketch *sketch, struct pnx__layout *layout, uint32_t lines, uint32_t entries) {
    uint64_t *words = pnx__layout_take(layout, (uint64_t)lines * LINE_WORDS, sizeof(uint64_t));
    if (!layout->base)
        return;
    uint64_t sample = (uint64_t)entries * SAMPLE;
    *sketch = (struct pnx__sketch){.words = words,
            .lines = lines,
            .sample = sample > UINT32_MAX ? UINT32_MAX : (uint32_t)sample};
    if (sketch->sample < SAMPLE)
        sketch->sample = SAMPLE;
}

/* A counter: the word, and the shift of its four bits.  Row r has the words 2r and 2r + 1 of the line. */
struct counter {
    uint64_t *word;
    uint32_t shift;
};

static struct counter counter(const struct pnx__sketch *sketch, uint64_t mixed, uint32_t row) {
    uint32_t line = (uint32_t)((mixed >> 32) * sketch->lines >> 32);
    uint32_t bits =
            (uint32_t)(mixed >> (row * 8)) & 31; /* which word of two, which counter of 16 */
    return (struct counter){
            .word = &sketch->words[line * (uint64_t)LINE_WORDS + row * 2 + (bits & 1)],
            .shift = (bits >> 1) * 4,
    };
}

static uint32_t value(struct counter c) {
    return (uint32_t)(*c.word >> c.shift) & PNX__SKETCH_MAX;
}

static uint64_t mix(const struct pnx__sketch *sketch, uint32_t hash) {
    return pnx__mix64(((uint64_t)sketch->salt << 32) + hash + UINT64_C(0x9E3779B97F4A7C15));
}

static void halve(struct pnx__sketch *sketch) {
    for (uint64_t i = 0; i < (uint64_t)sketch->lines * LINE_WORDS; i++)
        sketch->words[i] = sketch->words[i] >> 1 & UINT64_C(0x7777777777777777);
    sketch->added /= 2;
}

static void added(struct pnx__sketch *sketch, uint32_t times) {
    sketch->added += times;
    if (sketch->added >= sketch->sample)
        halve(sketch);
}

void pnx__sketch_fetch(const struct pnx__sketch *sketch, uint32_t hash) {
    __builtin_prefetch(counter(sketch, mix(sketch, hash), 0).word, 1);
}

void pnx__sketch_add(struct pnx__sketch *sketch, uint32_t hash) {
    uint64_t mixed = mix(sketch, hash);
    bool any = false;
    for (uint32_t row = 0; row < ROWS; row++) {
        struct counter c = counter(sketch, mixed, row);
        if (value(c) < PNX__SKETCH_MAX) {
            *c.word += UINT64_C(1) << c.shift;
            any = true;
        }
    }
    added(sketch, any);
}

void pnx__sketch_raise(struct pnx__sketch *sketch, uint32_t hash, uint32_t times) {
    uint64_t mixed = mix(sketch, hash);
    struct counter c[ROWS];
    uint32_t least = PNX__SKETCH_MAX;
    for (uint32_t row = 0; row < ROWS; row++) {
        c[row] = counter(sketch, mixed, row);
        uint32_t count = value(c[row]);
        least = count < least ? count : least;
    }
    uint32_t more = times < PNX__SKETCH_MAX - least ? times : PNX__SKETCH_MAX - least;
    for (uint32_t row = 0; row < ROWS; row++) {
        uint32_t count = value(c[row]);
        if (count < least + more)
            *c[row].word += (uint64_t)(least + more - count) << c[row].shift;
    }
    added(sketch, more);
}

uint32_t pnx__sketch_count(const struct pnx__sketch *sketch, uint32_t hash) {
    uint64_t mixed = mix(sketch, hash);
    uint32_t least = PNX__SKETCH_MAX;
    for (uint32_t row = 0; row < ROWS; row++) {
        uint32_t count = value(counter(sketch, mixed, row));
        least = count < least ? count : least;
    }
    return least;
}

/* Lines have hashes in order, so each line of the larger one has hashes of one line of the smaller, but at its ends. */
void pnx__sketch_copy(struct pnx__sketch *sketch, const struct pnx__sketch *from) {
    for (uint32_t line = 0; line < sketch->lines; line++) {
        uint64_t source = (uint64_t)line * from->lines / sketch->lines;
        memcpy(sketch->words + (size_t)line * LINE_WORDS, from->words + source * LINE_WORDS,
                LINE_WORDS * sizeof(uint64_t));
    }
    sketch->salt = from->salt;
    uint64_t added = (uint64_t)from->added * sketch->sample / from->sample;
    sketch->added = (uint32_t)added;
}
