/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/auto.c - the default: behaves as FIFO, CLOCK, S3-FIFO or TinyLFU, whichever small shadows say hits most.
 *
 * Four shadow caches, one for each mode, see the requests for a part of the keys (all of them, for a cache of up to
 * 496 entries); of each two it is counted what one hits and the other misses, the longest ago the least.  When one has hit
 * clearly more than the one of the mode in use, the cache takes its mode; entries stay where they are
 * (cache/policies/auto_engine.h).  In docs/design/2026-11-30-auto.md stand what else was tried, and figures.
 *
 *      requests --one key in 2^k--> shadows: FIFO, CLOCK, S3, TINYLFU --hits--> leads --the best--> mode of the engine
 *
 * Where nothing is inserted nothing has to go, and it does not matter how: each insert pays for so many requests that shadows
 * are shown, and when they have been shown, the policy wants to be told of none until the next one.  A cache that only
 * hits then locks for none of its hits; below 99.8 % of hits, all are shown.
 *
 * While the cache fills for the first time it evicts nothing, but shadows do: they get half the capacity that would be
 * their part of what the cache holds, so that a mode stands when the first victim is due.  Then each begins again with what
 * the cache holds of the keys that they see, which would be the same in every mode: from there on it is what its mode would make of it.
 *
 *   P1  The shadows and all about them take at most 64 KiB, whatever the capacity.
 *   P2  Hits are counted in hit bytes only; access() is asked for one key in 2^k, so that shadows have no more than 496
 *       entries each.
 */
#include "cache/policies/auto_shadow.h"
#include "cache/policies/policies.h"

#include <assert.h>

#define MODES        PNX__AUTO_MODES
#define MEMORY       30.0 /* requests for each entry of a shadow, after which a hit counts 1/e */
#define MEMORY_FIRST 2.0  /* the same, while the cache fills */
#define LEAD         0.04 /* hits for each entry of a shadow that make a mode clearly better */
#define LEAD_LEAST   4.0  /* hits */
#define LEAD_AGAIN   0.5  /* and more, for each hit of the mode in use that the better one misses */
#define LEAD_MOST    1.0  /* hits for each entry: no mode gets further ahead while it is in use */
#define S3_FAVOUR    2.0  /* to become S3 takes a part of that, to leave it so many times as much */
#define BEHIND       0.2  /* hits for each entry that the cache is behind the shadow of its mode */
#define LET_IN       64u  /* then: one in so many */
#define RENEW        2.5  /* and inserts for each entry of the cache, once */
#define FIRST_SHARE  2    /* while the cache fills: of two entries, one */
#define FIRST_LEAST  16   /* entries */
#define FIRST_MODE   PNX__AUTO_FIFO
#define SHIFT_MOST   24u
#define PAYS         512u /* requests that shadows are shown for each insert */
#define PAID_MOST    (16 * PAYS)
#define SPARSE_AFTER 500u /* requests, after which shadows with few entries see more keys */

struct adaptive {
    struct pnx_cache_policy_wants wants;
    struct pnx__auto_engine engine;
    struct pnx__auto_shadow shadow[MODES];
    struct pnx__auto_filling filling;
    double apart[MODES][MODES]; /* requests that the first hits and the second misses */
    uint64_t capacity;
    double behind; /* the shadow of the mode in use hits, and the cache does not; less the other way round */
    uint64_t
            part; /* what shadows had of it when it was full first, in their unit; 0: 1 in 2^shift */
    uint64_t seen; /* requests, since the part of the keys was last changed */
    uint32_t kind;
    uint32_t
            scale; /* fixed: shadows have weights in units of 2^scale, which is 0 for bytes and entries */
    uint32_t shift; /* shadows see one key in 2^shift */
    uint32_t paid;  /* requests that they may still be shown */
    bool started;   /* the cache has been full */
    bool renewed;   /* since it was last not behind */
};

static_assert(sizeof(struct adaptive) <= 4096, "the rest of 64 KiB is for tables");

static size_t layout(struct adaptive *a, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)a};
    pnx__layout_take(&l, 1, sizeof(*a));
    for (uint32_t mode = 0; mode < MODES; mode++)
        pnx__auto_shadow_layout(a ? &a->shadow[mode] : NULL, &l, mode);
    pnx__auto_filling_layout(a ? &a->filling : NULL, &l);
    pnx__auto_engine_layout(a ? &a->engine : NULL, &l, slots, true, true);
    return pnx__layout_bytes(&l);
}

static size_t auto_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static uint64_t held_weight(const struct adaptive *a) {
    return a->engine.weight[PNX__AUTO_SMALL] + a->engine.weight[PNX__AUTO_MAIN];
}

/* Weights of a unit that may be small are told to shadows in a larger one, so that 32 bits are enough for them. */
static uint32_t scale_of(const struct pnx_cache_policy_params *params) {
    uint32_t scale = 0;
    while (params->kind == PNX_CACHE_CAPACITY_WEIGHT && params->capacity >> scale > UINT32_MAX)
        scale++;
    return scale;
}

/* The part of the capacity that shadows have now by what the cache holds, in the cache's unit. */
static uint64_t part_of_capacity(const struct adaptive *a) {
    uint64_t whole = a->capacity >> a->shift;
    uint32_t held = pnx__auto_engine_held(&a->engine);
    if (a->started || held == 0)
        return a->started || whole < FIRST_LEAST ? whole : FIRST_LEAST;
    uint64_t weight = held_weight(a), least = FIRST_LEAST * (weight / held);
    uint64_t part = (weight >> a->shift) / FIRST_SHARE;
    part = part > least ? part : least;
    return part < whole ? part : whole;
}

/* At least 1: in a capacity of 0 an engine has no share for either queue, and finds no victim in what it still holds. */
static uint64_t shadow_capacity(const struct adaptive *a) {
    uint64_t capacity = a->part > 0 ? a->part : part_of_capacity(a) >> a->scale;
    return capacity > 0 ? capacity : 1;
}

static void set_rate(struct adaptive *a, uint32_t shift) {
    for (uint32_t mode = 0; mode < MODES; mode++)
        pnx__auto_shadow_thin(&a->shadow[mode], (UINT32_C(1) << shift) - 1);
    pnx__auto_filling_thin(&a->filling, (UINT32_C(1) << shift) - 1);
    a->part = 0;
    a->shift = shift;
    a->wants.access_mask = (UINT32_C(1) << shift) - 1;
    a->seen = 0;
}

static void set_shadows(struct adaptive *a) {
    uint64_t capacity = shadow_capacity(a);
    for (uint32_t mode = 0; mode < MODES; mode++) {
        if (a->shadow[mode].engine.capacity != capacity)
            pnx__auto_shadow_resize(&a->shadow[mode], capacity);
    }
}

/* Where entries weigh 1 the part is known; else it is all keys, and halves whenever shadows are crowded. */
static uint32_t least_shift(const struct adaptive *a) {
    uint32_t shift = 0;
    while (a->kind == PNX_CACHE_CAPACITY_ENTRIES && a->capacity >> shift > PNX__SHADOW_SLOTS)
        shift++;
    return shift;
}

static void auto_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct adaptive *a = memory;
    layout(a, slots);
    a->kind = params->kind;
    a->scale = scale_of(params);
    a->capacity = params->capacity;
    a->wants.hit_max = PNX__AUTO_HIT_MAX;
    a->wants.access = 1;
    pnx__auto_engine_init(&a->engine, params->slots, a->capacity, params->seed, FIRST_MODE);
    for (uint32_t mode = 0; mode < MODES; mode++)
        pnx__auto_shadow_init(&a->shadow[mode], a->capacity >> a->scale, params->seed, mode);
    set_rate(a, least_shift(a));
    set_shadows(a);
}

static void auto_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    struct adaptive *old = state;
    struct adaptive *a = memory;
    *a = *old;
    layout(a, slots);
    pnx__auto_engine_copy(&a->engine, &old->engine, map);
    for (uint32_t mode = 0; mode < MODES; mode++)
        pnx__auto_shadow_copy(&a->shadow[mode], &old->shadow[mode]);
    pnx__auto_filling_copy(&a->filling, &old->filling);
}

static void auto_insert(void *state, uint32_t slot) {
    struct adaptive *a = state;
    a->paid = a->paid + PAYS < PAID_MOST ? a->paid + PAYS : PAID_MOST;
    a->wants.access = 1;
    pnx__auto_engine_insert(&a->engine, slot);
}

static void auto_remove(void *state, uint32_t slot) {
    struct adaptive *a = state;
    pnx__auto_engine_remove(&a->engine, slot);
}

static uint32_t auto_victim(void *state, uint32_t hash, uint64_t weight) {
    struct adaptive *a = state;
    (void)hash;
    return pnx__auto_engine_victim(&a->engine, weight);
}

static void auto_resize(void *state, uint64_t capacity) {
    struct adaptive *a = state;
    a->capacity = capacity;
    a->part = 0;
    pnx__auto_engine_resize(&a->engine, capacity);
    if (a->kind == PNX_CACHE_CAPACITY_ENTRIES)
        set_rate(a, least_shift(a));
    set_shadows(a);
}

static void auto_reweigh(void *state, uint32_t slot, uint64_t from) {
    struct adaptive *a = state;
    pnx__auto_engine_reweigh(&a->engine, slot, from);
}

/*
 * The cache is full for the first time.  Where entries came by requests, as they mostly do, shadows begin again with what they saw
 * come; it is as much of the capacity as the cache has of them, which is seldom one in 2^shift exactly.
 */
static void start(struct adaptive *a) {
    uint64_t whole = a->capacity >> a->shift >> a->scale, seen = a->filling.weight;
    a->started = true;
    a->behind = 0; /* it held twice as much as they did */
    memset(a->apart, 0, sizeof(a->apart));
    if (seen < whole / 2)
        return;
    seen = seen < whole - whole / 4 ? whole - whole / 4 : seen;
    a->part = seen < whole + whole / 3 ? seen : whole + whole / 3;
    for (uint32_t mode = 0; mode < MODES; mode++)
        pnx__auto_shadow_restart(&a->shadow[mode], shadow_capacity(a), &a->filling);
}

/* Keeps shadows' capacity, and the part of the keys that they see, to what the cache and its entries are now. */
static void adjust(struct adaptive *a) {
    bool crowded = false;
    /* Objects that are larger than before show in FIFO first: it keeps nothing for what it was. */
    bool sparse = a->shadow[PNX__AUTO_FIFO].cells.count < PNX__SHADOW_SLOTS / 4;
    for (uint32_t mode = 0; mode < MODES; mode++) {
        crowded |= pnx__auto_shadow_crowded(&a->shadow[mode]);
        sparse &= a->shadow[mode].cells.count < PNX__SHADOW_SLOTS / 2;
    }
    if (crowded && a->shift < SHIFT_MOST)
        set_rate(a, a->shift + 1);
    else if (a->kind != PNX_CACHE_CAPACITY_ENTRIES && a->started && sparse && a->shift > 0 &&
             a->seen >= SPARSE_AFTER)
        set_rate(a, a->shift - 1);
    else if (a->started && a->engine.full)
        return;
    if (!a->started && a->engine.full)
        start(a);
    set_shadows(a);
}

/*
 * Takes the mode that has hit most, if it has clearly.  Where each hits what the other misses, the hits come in turns,
 * and to follow them would lose those of both: so that counts against a change.  S3 is the one that loses least where it is
 * not the best, so it is taken sooner and left later than others.
 */
static void choose(struct adaptive *a, double entries) {
    uint32_t mode = a->engine.mode, best = mode;
    double lead = entries * LEAD > LEAD_LEAST ? entries * LEAD : LEAD_LEAST, most = 0;
    for (uint32_t other = 0; other < MODES; other++) {
        double wins = a->apart[other][mode], losses = a->apart[mode][other];
        double wanted = lead + LEAD_AGAIN * losses;
        if (other == PNX__AUTO_S3)
            wanted /= S3_FAVOUR;
        else if (mode == PNX__AUTO_S3)
            wanted *= S3_FAVOUR;
        double more = wins - losses - wanted;
        best = more > most ? other : best;
        most = more > most ? more : most;
    }
    if (best == mode)
        return;
    pnx__auto_engine_set_mode(&a->engine, best);
    a->renewed = false;
}

/* Scores a request: bit m of hits is set when mode m has hit. */
static void score(struct adaptive *a, uint32_t hits, double keeps, double entries) {
    for (uint32_t mode = 0; mode < MODES; mode++) {
        bool hit = hits >> mode & 1;
        for (uint32_t other = 0; other < MODES; other++)
            a->apart[mode][other] = a->apart[mode][other] * keeps + (hit && !(hits >> other & 1));
    }
    /* What it was ahead long ago does not keep a mode for ever. */
    uint32_t mode = a->engine.mode;
    for (uint32_t other = 0; other < MODES; other++) {
        double limit = a->apart[other][mode] + entries * LEAD_MOST;
        a->apart[mode][other] = a->apart[mode][other] < limit ? a->apart[mode][other] : limit;
    }
}

/*
 * A cache that has changed its mode holds what the mode before has left, and that may be there to stay where nobody asks for it any
 * more.  The shadow has kept to the mode all the time: as long as it hits much more, the engine lets go.
 */
static void follow(struct adaptive *a, bool would, bool does, double entries) {
    a->behind = a->behind * (1 - 1 / entries) + (double)would - (double)does;
    bool much = a->started && a->behind > entries * BEHIND;
    a->engine.let_in = much ? LET_IN : 0;
    if (much && !a->renewed) {
        a->renewed = true;
        a->engine.renew = (uint64_t)(pnx__auto_engine_held(&a->engine) * RENEW);
    } else if (a->behind < entries * BEHIND / 2) {
        a->renewed = false;
    }
}

/* A cache that fills has taken the key in, or had it. */
static void note_filling(struct adaptive *a, uint32_t hash, uint64_t weight) {
    uint32_t narrow = weight > UINT32_MAX ? UINT32_MAX : (uint32_t)weight;
    bool taken = pnx__auto_filling_request(&a->filling, hash, narrow);
    if (!taken && a->kind != PNX_CACHE_CAPACITY_ENTRIES && a->shift < SHIFT_MOST)
        set_rate(a, a->shift + 1);
}

static void auto_access(void *state, uint32_t hash, uint64_t weight, uint32_t slot) {
    struct adaptive *a = state;
    adjust(a);
    if (a->paid > 0 && --a->paid == 0)
        a->wants.access = 0;
    weight = weight >> a->scale ? weight >> a->scale
                                : 1; /* none is none: a shadow's slots are few */
    if (!a->started && (hash & a->wants.access_mask) == 0)
        note_filling(a, hash, weight);
    if (hash & a->wants.access_mask)
        return; /* the part has just become smaller */
    double entries = a->shadow[a->engine.mode].cells.count + 1.0;
    double keeps = 1 - 1 / (entries * (a->started ? MEMORY : MEMORY_FIRST));
    uint32_t hits = 0;
    for (uint32_t mode = 0; mode < MODES; mode++)
        hits |= (uint32_t)pnx__auto_shadow_request(&a->shadow[mode], hash, weight) << mode;
    score(a, hits, keeps, entries);
    follow(a, hits >> a->engine.mode & 1, slot != PNX_CACHE_NO_SLOT, entries);
    a->seen++;
    choose(a, entries);
}

static void auto_expect(const void *state, uint32_t hash) {
    const struct adaptive *a = state;
    pnx__auto_engine_expect(&a->engine, hash);
}

static const char *auto_check(const void *state, uint32_t held) {
    const struct adaptive *a = state;
    const char *broken = pnx__auto_engine_check(&a->engine, held);
    for (uint32_t mode = 0; mode < MODES && !broken; mode++)
        broken = pnx__auto_shadow_check(&a->shadow[mode]);
    if (!broken)
        broken = pnx__auto_filling_check(&a->filling);
    return broken;
}

const struct pnx_cache_policy pnx__cache_policy_auto = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "auto",
        .description = "fifo, clock, s3-fifo or tinylfu, as shadows of them tell",
        .flags = PNX_CACHE_POLICY_HASH,
        .memory = auto_memory,
        .init = auto_init,
        .grow = auto_grow,
        .insert = auto_insert,
        .remove = auto_remove,
        .victim = auto_victim,
        .resize = auto_resize,
        .reweigh = auto_reweigh,
        .access = auto_access,
        .expect = auto_expect,
        .check = auto_check,
};
