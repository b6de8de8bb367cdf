/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/auto_engine.c - FIFO, CLOCK, S3-FIFO and TinyLFU over the same queues: see cache/policies/auto_engine.h */
#include "cache/policies/auto_engine.h"

#include "base/hash.h"

enum { SMALL = PNX__AUTO_SMALL, MAIN = PNX__AUTO_MAIN };

#define IN_MAIN      0x8000u /* in a slot's mark */
#define S3_HITS      3u      /* more do not count in main */
#define S3_PROMOTE   2u
#define GHOST_SHARE  0.9
#define ADVANTAGE    1   /* of the victim */
#define OFTEN        6   /* asked for often, for a contender that loses */
#define LET_IN       128 /* one in so many of them */
#define SKETCH_LINE  64  /* entries: 1 byte each */
#define SKETCH_LEAST 64u /* lines: for small caches one more costs little, and errors much */

static const double small_share[PNX__AUTO_MODES] = {0, 0, 0.1, 0.01};

void pnx__auto_engine_layout(struct pnx__auto_engine *engine, struct pnx__layout *layout,
        uint32_t slots, bool has_ghost, bool has_sketch) {
    pnx__rings_layout(engine ? &engine->rings : NULL, layout, slots);
    if (has_ghost)
        pnx__ghost_table_layout(engine ? &engine->ghost : NULL, layout, slots);
    if (has_sketch)
        pnx__sketch_layout(engine ? &engine->sketch : NULL, layout,
                slots / SKETCH_LINE > SKETCH_LEAST ? slots / SKETCH_LINE : SKETCH_LEAST, slots);
    if (engine) {
        engine->has_ghost = has_ghost;
        engine->has_sketch = has_sketch;
    }
}

static void set_share(struct pnx__auto_engine *e) {
    uint64_t small = (uint64_t)((double)e->capacity * small_share[e->mode]);
    e->small_most = small > 0 ? small : 1;
}

void pnx__auto_engine_init(struct pnx__auto_engine *e, const struct pnx_cache_slots *view,
        uint64_t capacity, uint64_t seed, uint32_t mode) {
    pnx__rings_init(&e->rings, 2);
    e->view = view;
    e->capacity = capacity;
    e->random = seed;
    e->sketch.salt = (uint32_t)pnx__splitmix(&e->random);
    pnx__auto_engine_set_mode(e, mode);
}

void pnx__auto_engine_copy(
        struct pnx__auto_engine *e, struct pnx__auto_engine *from, const uint32_t *map) {
    pnx__rings_grow(&e->rings, &from->rings, map);
    if (e->has_ghost)
        pnx__ghost_table_copy(&e->ghost, &from->ghost);
    if (e->has_sketch)
        pnx__sketch_copy(&e->sketch, &from->sketch);
}

void pnx__auto_engine_set_mode(struct pnx__auto_engine *e, uint32_t mode) {
    e->mode = mode;
    e->renew = 0;
    set_share(e);
}

void pnx__auto_engine_resize(struct pnx__auto_engine *e, uint64_t capacity) {
    if (capacity > e->capacity)
        e->full = false;
    e->capacity = capacity;
    set_share(e);
}

uint32_t pnx__auto_engine_held(const struct pnx__auto_engine *e) {
    return e->rings.queue[SMALL].count + e->rings.queue[MAIN].count;
}

static uint32_t hash_of(const struct pnx__auto_engine *e, uint32_t slot) {
    return pnx_cache_slot_hash(e->view, slot);
}

static bool in_main(const struct pnx__auto_engine *e, uint32_t slot) {
    return e->rings.marks[slot] & IN_MAIN;
}

static void push(struct pnx__auto_engine *e, uint32_t queue, uint32_t slot) {
    uint32_t mark = e->rings.marks[slot] & ~IN_MAIN;
    e->rings.marks[slot] = (uint16_t)(queue == MAIN ? mark | IN_MAIN : mark);
    e->weight[queue] += pnx_cache_slot_weight(e->view, slot);
    pnx__ring_push(&e->rings, queue, slot);
}

static uint32_t pop(struct pnx__auto_engine *e, uint32_t queue) {
    uint32_t slot = pnx__ring_pop(&e->rings, queue);
    if (slot != PNX_CACHE_NO_SLOT)
        e->weight[queue] -= pnx_cache_slot_weight(e->view, slot);
    return slot;
}

/* As many as S3-FIFO's main queue has entries: those there are, where entries have weights. */
static uint64_t ghost_limit(const struct pnx__auto_engine *e) {
    uint64_t held = pnx__auto_engine_held(e);
    return (uint64_t)((double)held * GHOST_SHARE) + 1;
}

static void remember(struct pnx__auto_engine *e, uint32_t hash) {
    if (e->has_ghost)
        pnx__ghost_table_push(&e->ghost, hash);
}

static void count(struct pnx__auto_engine *e, uint32_t hash, uint32_t times) {
    if (e->has_sketch && times > 0)
        pnx__sketch_raise(&e->sketch, hash, times);
}

/* Moves the hits of a slot into the sketch, and returns how many they were. */
static uint32_t take_hits(struct pnx__auto_engine *e, uint32_t slot) {
    uint32_t hits = pnx_cache_slot_hits(e->view, slot);
    if (hits == 0)
        return 0;
    count(e, hash_of(e, slot), hits);
    pnx_cache_slot_set_hits(e->view, slot, 0);
    return hits;
}

/* Takes one hit of a slot, and those that do not count; returns how many there were. */
static uint32_t take_hit(struct pnx__auto_engine *e, uint32_t slot) {
    uint32_t hits = pnx_cache_slot_hits(e->view, slot);
    if (hits == 0)
        return 0;
    uint32_t left = (hits < S3_HITS ? hits : S3_HITS) - 1;
    count(e, hash_of(e, slot), hits - left);
    pnx_cache_slot_set_hits(e->view, slot, left);
    return hits;
}

static bool new_to_main(const struct pnx__auto_engine *e, bool known) {
    if (!e->full || e->mode == PNX__AUTO_FIFO || e->mode == PNX__AUTO_CLOCK)
        return true;
    return known && e->mode == PNX__AUTO_S3;
}

void pnx__auto_engine_insert(struct pnx__auto_engine *e, uint32_t slot) {
    uint32_t hash = hash_of(e, slot);
    bool known = e->has_ghost && pnx__ghost_table_take(&e->ghost, hash, ghost_limit(e));
    if (pnx__auto_engine_held(e) == 0)
        e->full = false;
    pnx_cache_slot_set_hits(e->view, slot, 0);
    bool again = known && e->renew > 0 && e->mode == PNX__AUTO_FIFO;
    e->renew -= e->renew > 0;
    count(e, hash, 1);
    push(e, new_to_main(e, known) && !again ? MAIN : SMALL, slot);
}

void pnx__auto_engine_remove(struct pnx__auto_engine *e, uint32_t slot) {
    uint32_t queue = in_main(e, slot) ? MAIN : SMALL;
    e->weight[queue] -= pnx_cache_slot_weight(e->view, slot);
    pnx__ring_remove(&e->rings, queue, slot);
}

void pnx__auto_engine_reweigh(struct pnx__auto_engine *e, uint32_t slot, uint64_t from) {
    e->weight[in_main(e, slot) ? MAIN : SMALL] += pnx_cache_slot_weight(e->view, slot) - from;
}

/* Takes main's oldest that was not hit; the others go round.  Readers may count hits as fast as they are taken
 * off: no more rounds than hits count up to. */
static uint32_t evict_main(struct pnx__auto_engine *e) {
    for (uint64_t left = (uint64_t)e->rings.queue[MAIN].count * S3_HITS;; left--) {
        uint32_t slot = pop(e, MAIN);
        if (slot == PNX_CACHE_NO_SLOT || e->mode == PNX__AUTO_FIFO || left == 0)
            return slot;
        uint32_t hits = e->mode == PNX__AUTO_S3 ? take_hit(e, slot) : take_hits(e, slot);
        if (hits == 0)
            return slot;
        push(e, MAIN, slot);
    }
}

/* Takes small's oldest that was not hit often enough; the others move to main.  NO_SLOT when all do. */
static uint32_t evict_small(struct pnx__auto_engine *e) {
    uint32_t promote = e->mode == PNX__AUTO_S3 ? S3_PROMOTE : 1;
    for (;;) {
        uint32_t slot = pop(e, SMALL);
        if (slot == PNX_CACHE_NO_SLOT)
            return slot;
        uint32_t hits = take_hits(e, slot);
        if (hits < promote || e->mode == PNX__AUTO_FIFO) {
            remember(e, hash_of(e, slot));
            return slot;
        }
        push(e, MAIN, slot);
    }
}

/* True when the contender may stay (both are told by their hashes), and the victim goes.  The contender has just been asked for, once in any case: without
 * an advantage over that, a loop's keys would take each other's places, since the one that comes next has waited longest. */
static bool wins(struct pnx__auto_engine *e, uint32_t contender, uint32_t victim) {
    uint32_t mine = pnx__sketch_count(&e->sketch, contender);
    uint32_t its = pnx__sketch_count(&e->sketch, victim);
    if (mine > its + ADVANTAGE)
        return true;
    if (e->let_in > 0 && pnx__splitmix(&e->random) % e->let_in == 0)
        return true;
    return mine >= OFTEN && pnx__splitmix(&e->random) % LET_IN == 0;
}

/* Small's oldest against main's: the loser is the victim. */
static uint32_t contend(struct pnx__auto_engine *e) {
    uint32_t contender = pop(e, SMALL), its_hash = hash_of(e, contender);
    take_hits(e, contender);
    uint32_t victim = evict_main(e);
    uint32_t hash = victim != PNX_CACHE_NO_SLOT ? hash_of(e, victim) : 0;
    if (victim != PNX_CACHE_NO_SLOT && wins(e, its_hash, hash)) {
        push(e, MAIN, contender);
        remember(e, hash);
        return victim;
    }
    if (victim != PNX_CACHE_NO_SLOT) {
        e->weight[MAIN] += pnx_cache_slot_weight(e->view, victim);
        pnx__ring_unpop(&e->rings, MAIN, victim);
    }
    remember(e, its_hash);
    return contender;
}

static uint32_t tinylfu_victim(struct pnx__auto_engine *e, uint64_t weight) {
    /* One more moves over each time, so that a small that was larger gets to its share by and by. */
    if (e->weight[SMALL] > e->small_most + weight && e->rings.queue[SMALL].count > 1) {
        uint32_t slot = pop(e, SMALL);
        take_hits(e, slot);
        push(e, MAIN, slot);
    }
    if (e->rings.queue[SMALL].count > 0 && e->weight[SMALL] + weight > e->small_most)
        return contend(e);
    uint32_t slot = evict_main(e);
    if (slot == PNX_CACHE_NO_SLOT)
        return pop(e, SMALL);
    remember(e, hash_of(e, slot));
    return slot;
}

static uint32_t victim(struct pnx__auto_engine *e, uint64_t weight) {
    if (e->mode == PNX__AUTO_TINYLFU && e->has_sketch)
        return tinylfu_victim(e, weight);
    uint32_t slot = PNX_CACHE_NO_SLOT;
    bool s3 = e->mode == PNX__AUTO_S3;
    if (!s3 || e->weight[MAIN] + e->small_most <= e->capacity)
        slot = evict_small(e);
    if (slot != PNX_CACHE_NO_SLOT)
        return slot;
    slot = evict_main(e);
    if (slot != PNX_CACHE_NO_SLOT && e->renew > 0)
        remember(e, hash_of(e, slot));
    return slot;
}

uint32_t pnx__auto_engine_victim(struct pnx__auto_engine *e, uint64_t weight) {
    e->full = true;
    uint32_t slot = victim(e, weight);
    /* Fetches what the next call will look at. */
    for (uint32_t queue = SMALL; queue <= MAIN; queue++) {
        uint32_t next = pnx__ring_peek(&e->rings, queue);
        if (next != PNX_CACHE_NO_SLOT)
            __builtin_prefetch(pnx_cache_slot_record(e->view, next), 1);
    }
    return slot;
}

void pnx__auto_engine_expect(const struct pnx__auto_engine *e, uint32_t hash) {
    if (e->has_ghost)
        pnx__ghost_table_fetch(&e->ghost, hash);
    if (e->has_sketch)
        pnx__sketch_fetch(&e->sketch, hash);
}

const char *pnx__auto_engine_check(const struct pnx__auto_engine *e, uint32_t held) {
    const char *broken = pnx__ring_check(&e->rings, SMALL);
    if (!broken)
        broken = pnx__ring_check(&e->rings, MAIN);
    if (broken)
        return broken;
    return pnx__auto_engine_held(e) == held ? NULL : "the queues do not hold the held slots";
}
