/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/wheel.c - which slot of a shard of fixed sizes has expired: a hierarchical timing wheel, whose lists cost a slot 3 bytes.
 *
 * Varghese and Lauck, Hashed and hierarchical timing wheels, SOSP 1987.  Five levels of 64 buckets; one of level l spans 64^l
 * ticks of 67 ms.  When the wheel comes to a bucket of a higher level, its slots go to lower ones.
 *
 *     (in none) --an entry with an expiry comes--> in a bucket --the wheel comes--> due: it goes; or another bucket; or none
 *
 * Lists go one way, so a slot cannot leave one before its turn.  It does not have to: what the wheel finds in a bucket it judges by
 * what the slot holds then.  An entry that takes the slot of one that went early waits where that one would have; if
 * it expires sooner than that one would have, its memory comes back that much later (it is not returned, though).
 *
 *   P1  A call takes at most the steps that it was given; each slot that is looked at is one, and each move of the wheel.
 *   P2  A slot is in at most one bucket.
 *   P3  No bucket before the wheel's tick holds anything.
 */
#include "cache/internal.h"

#define LEVEL_BITS 6u
#define BUCKETS    PNX_CACHE_WHEEL_BUCKETS
#define LEVELS     PNX_CACHE_WHEEL_LEVELS
#define END        0xffffffu /* of a list: a slot's place in it is one more than its number */

/* ---- lists ---- */

static uint32_t next_of(const struct pnx_cache_fixed *record) {
    return (uint32_t)record->wheel[0] | (uint32_t)record->wheel[1] << 8 |
           (uint32_t)record->wheel[2] << 16;
}

static void set_next(struct pnx_cache_fixed *record, uint32_t next) {
    record->wheel[0] = (uint8_t)next;
    record->wheel[1] = (uint8_t)(next >> 8);
    record->wheel[2] = (uint8_t)(next >> 16);
}

static struct pnx_cache_fixed *record_of(const struct pnx_cache_shard *shard, uint32_t slot) {
    return pnx__cache_fixed_at(shard->own_table, slot);
}

/* Takes the first slot of a list that is not empty. */
static uint32_t pop(struct pnx_cache_shard *shard, uint32_t *list) {
    uint32_t slot = *list - 1;
    struct pnx_cache_fixed *record = record_of(shard, slot);
    uint32_t next = next_of(record);
    *list = next == END ? 0 : next;
    set_next(record, 0);
    shard->timed--;
    return slot;
}

/* ---- where a slot belongs ---- */

/* The lowest level at which the tick's bucket is still ahead; what is too far ahead goes into the last but one of the highest,
 * and on from there. */
static void add(struct pnx_cache_shard *shard, uint32_t slot, uint32_t expires) {
    struct pnx_cache_wheel *wheel = shard->wheel;
    uint32_t at = expires > wheel->tick ? expires : wheel->tick + 1, level = 0;
    while (level < LEVELS - 1 &&
            (at >> (level * LEVEL_BITS)) - (wheel->tick >> (level * LEVEL_BITS)) >= BUCKETS)
        level++;
    uint32_t bucket = at >> (level * LEVEL_BITS), now = wheel->tick >> (level * LEVEL_BITS);
    if (bucket - now >= BUCKETS)
        bucket = now + BUCKETS - 1;
    bucket %= BUCKETS;
    struct pnx_cache_fixed *record = record_of(shard, slot);
    uint32_t *list = &wheel->list[level][bucket];
    set_next(record, *list ? *list : END);
    *list = slot + 1;
    wheel->filled[level] |= UINT64_C(1) << bucket;
    shard->timed++;
}

void pnx__cache_wheel_add(struct pnx_cache_shard *shard, uint32_t slot, uint32_t expires) {
    if (next_of(record_of(shard, slot)) == 0)
        add(shard, slot, expires);
}

void pnx__cache_wheel_reset(struct pnx_cache_shard *shard) {
    *shard->wheel = (struct pnx_cache_wheel){.tick = pnx__cache_tick_now(shard->cache)};
    shard->timed = 0;
}

void pnx__cache_wheel_rebuild(struct pnx_cache_shard *shard) {
    const struct pnx_cache_table *table = shard->own_table;
    *shard->wheel = (struct pnx_cache_wheel){.tick = shard->wheel->tick};
    bool any = shard->timed > 0;
    shard->timed = 0;
    for (uint32_t slot = 0; any && slot < table->slots; slot++) {
        const struct pnx_cache_fixed *record = record_of(shard, slot);
        /* Relaxed, both: the lock is held. */
        uint32_t expires = pnx_load(&record->expires, PNX_RELAXED, "cache_wheel.again_expires");
        if (!(pnx_load(&record->seq, PNX_RELAXED, "cache_wheel.again_seq") & 1) &&
                expires != PNX_CACHE_TICK_NEVER)
            add(shard, slot, expires);
    }
}

/* ---- turning ---- */

/* The next tick at which there is something to do, or NEVER. */
static uint32_t next_filled(const struct pnx_cache_wheel *wheel) {
    uint64_t next = PNX_CACHE_TICK_NEVER;
    for (uint32_t level = 0; level < LEVELS; level++) {
        uint64_t filled = wheel->filled[level];
        if (!filled)
            continue;
        uint32_t now = wheel->tick >> (level * LEVEL_BITS), from = (now + 1) % BUCKETS;
        uint64_t ahead = filled >> from | (from ? filled << (BUCKETS - from) : 0);
        uint64_t at = ((uint64_t)now + 1 + (uint32_t)__builtin_ctzll(ahead))
                      << (level * LEVEL_BITS);
        next = at < next ? at : next;
    }
    return (uint32_t)next;
}

/* Moves on to the next tick with something to do, not beyond now; what is in its buckets becomes due.  False when there is none. */
static bool turn(struct pnx_cache_shard *shard, uint32_t now) {
    struct pnx_cache_wheel *wheel = shard->wheel;
    if (wheel->level == 0) {
        uint32_t next = next_filled(wheel);
        if (next > now) {
            wheel->tick = now > wheel->tick ? now : wheel->tick;
            return false;
        }
        wheel->tick = next;
        wheel->level = 1;
        while (wheel->level < LEVELS && next % (1u << (wheel->level * LEVEL_BITS)) == 0)
            wheel->level++;
    }
    /* From the highest level that begins a bucket here down to the lowest. */
    uint32_t level = --wheel->level;
    uint32_t bucket = (wheel->tick >> (level * LEVEL_BITS)) % BUCKETS;
    wheel->due = wheel->list[level][bucket];
    wheel->list[level][bucket] = 0;
    wheel->filled[level] &= ~(UINT64_C(1) << bucket);
    return true;
}

uint32_t pnx__cache_wheel_due(struct pnx_cache_shard *shard, uint32_t now, uint32_t *steps) {
    struct pnx_cache_wheel *wheel = shard->wheel;
    while (*steps > 0 && shard->timed > 0) {
        (*steps)--;
        if (!wheel->due) {
            if (!turn(shard, now))
                return PNX_CACHE_NONE;
            continue;
        }
        uint32_t slot = pop(shard, &wheel->due);
        const struct pnx_cache_fixed *record = record_of(shard, slot);
        /* Relaxed, both: the lock is held. */
        if (pnx_load(&record->seq, PNX_RELAXED, "cache_wheel.seq") & 1)
            continue; /* nothing stands in it now */
        uint32_t expires = pnx_load(&record->expires, PNX_RELAXED, "cache_wheel.expires");
        if (expires == PNX_CACHE_TICK_NEVER)
            continue;
        if (expires <= now)
            return slot;
        add(shard, slot, expires);
    }
    return PNX_CACHE_NONE;
}

uint32_t pnx__cache_wheel_next(const struct pnx_cache_shard *shard) {
    const struct pnx_cache_wheel *wheel = shard->wheel;
    if (shard->timed == 0)
        return PNX_CACHE_TICK_NEVER;
    return wheel->due || wheel->level ? wheel->tick : next_filled(wheel);
}

/* ---- checking ---- */

static const char *check_list(
        const struct pnx_cache_shard *shard, uint32_t list, uint64_t *linked) {
    uint32_t slots = shard->own_table->slots;
    for (; list; (*linked)++) {
        if (list > slots || *linked > slots)
            return "a bucket of the wheel does not end";
        list = next_of(record_of(shard, list - 1));
        if (list == 0)
            return "a bucket of the wheel breaks off";
        list = list == END ? 0 : list;
    }
    return NULL;
}

const char *pnx__cache_wheel_check(const struct pnx_cache_shard *shard) {
    const struct pnx_cache_wheel *wheel = shard->wheel;
    uint64_t linked = 0, marked = 0;
    const char *broken = check_list(shard, wheel->due, &linked);
    for (uint32_t i = 0; !broken && i < LEVELS * BUCKETS; i++) {
        uint32_t level = i / BUCKETS, bucket = i % BUCKETS;
        if (!wheel->list[level][bucket] != !(wheel->filled[level] >> bucket & 1))
            return "the wheel does not know which of its buckets are filled";
        broken = check_list(shard, wheel->list[level][bucket], &linked);
    }
    for (uint32_t slot = 0; slot < shard->own_table->slots; slot++) {
        const struct pnx_cache_fixed *record = record_of(shard, slot);
        bool in = next_of(record) != 0;
        marked += in;
        bool empty = pnx_load(&record->seq, PNX_RELAXED, "cache_wheel.check_seq") & 1;
        uint32_t expires = pnx_load(&record->expires, PNX_RELAXED, "cache_wheel.check_expires");
        if (!empty && !in && expires != PNX_CACHE_TICK_NEVER)
            return "an entry expires, and the wheel does not know it";
    }
    if (!broken && (linked != shard->timed || marked != shard->timed))
        return "the wheel's slots do not add up";
    return broken;
}
