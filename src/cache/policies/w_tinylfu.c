/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/w_tinylfu.c - a window for what is new, and a main part that only what is asked for more often than its own
 * victim comes into; the window's share adapts.
 *
 * Einziger, Friedman and Manes, TinyLFU: a highly efficient cache admission policy, ACM ToS, 2017; Einziger, Eytan, Friedman
 * and Manes, Adaptive software cache management, Middleware 2018.
 *
 *     new --> window --oldest--> contends with probation's oldest: who was asked for more often stays
 *                                   |
 *             probation <-----------+   --hit-->  protected (80 % of main)  --too many: oldest--> probation
 *
 * All three are in order of use.  How often is told by a sketch over hits and inserts.  A contender that was asked
 * for often, and yet loses, is let in now and then, so that an enemy who knows the victim's count cannot keep all others out.
 *
 * The window begins at 1 %.  After each sample of requests its share moves on when the hit ratio has risen, else
 * turns back; steps shrink as long as the hit ratio is steady, and are whole again when it jumps.
 *
 *   P1  weight[r] is the sum of the weights in region r.
 */
#include "base/hash.h"
#include "cache/policies/list.h"
#include "cache/policies/policies.h"
#include "cache/policies/sketch.h"

enum { WINDOW, PROBATION, PROTECTED, REGIONS };

#define WINDOW_SHARE    0.01
#define WINDOW_MOST     0.80
#define PROTECTED_SHARE 0.80
#define OFTEN           6   /* asked for often, for a contender that loses */
#define LET_IN          128 /* one in so many of them */

#define SAMPLE_REQUESTS 10     /* for each held slot, between two steps */
#define SKETCH_LINE     8      /* entries: 8 bytes each, up to the next power of two */
#define SKETCH_LEAST    32u    /* lines: for small caches one more costs little, and errors much */
#define FIRST_STEP      0.0625 /* of the capacity */
#define STEP_DECAY      0.98
#define JUMP            0.05 /* change of the hit ratio that starts the steps afresh */

struct w_tinylfu {
    struct pnx_cache_policy_wants wants;
    const struct pnx_cache_slots *view;
    struct pnx__slot_link *links;
    uint8_t *region;
    uint32_t slots;
    uint32_t contender; /* came out of the window and is to be compared; NO_SLOT: none */
    struct pnx__slot_list list[REGIONS];
    uint64_t weight[REGIONS];
    uint64_t capacity;
    uint64_t window_most;    /* weight */
    uint64_t protected_most; /* weight */
    uint64_t random;
    double window_share;
    double step;      /* signed */
    double hit_ratio; /* of the sample before; negative: there was none */
    uint64_t hits;    /* of this sample */
    uint64_t misses;
    struct pnx__sketch sketch;
};

static size_t layout(struct w_tinylfu *w, uint32_t slots) {
    struct pnx__layout l = {.base = (unsigned char *)w};
    uint32_t lines = SKETCH_LEAST;
    while (lines < (slots + SKETCH_LINE - 1) / SKETCH_LINE)
        lines *= 2;
    pnx__layout_take(&l, 1, sizeof(*w));
    struct pnx__slot_link *links = pnx__layout_take(&l, slots, sizeof(*links));
    uint8_t *region = pnx__layout_take(&l, slots, sizeof(*region));
    pnx__sketch_layout(w ? &w->sketch : NULL, &l, lines, slots);
    if (w) {
        w->links = links;
        w->region = region;
        w->slots = slots;
    }
    return pnx__layout_bytes(&l);
}

static size_t w_memory(const struct pnx_cache_policy_params *params, uint32_t slots) {
    (void)params;
    return slots > PNX_CACHE_SLOTS_MAX ? 0 : layout(NULL, slots);
}

static void set_shares(struct w_tinylfu *w) {
    double window = (double)w->capacity * w->window_share;
    w->window_most = window < 1 ? 1 : (uint64_t)window;
    w->protected_most = (uint64_t)((double)(w->capacity - w->window_most) * PROTECTED_SHARE);
}

static void w_resize(void *state, uint64_t capacity) {
    struct w_tinylfu *w = state;
    w->capacity = capacity;
    set_shares(w);
}

static void w_init(void *memory, const struct pnx_cache_policy_params *params, uint32_t slots) {
    struct w_tinylfu *w = memory;
    layout(w, slots);
    for (int i = 0; i < REGIONS; i++)
        pnx__slot_list_init(&w->list[i]);
    w->wants.exact_hits = 1;
    w->view = params->slots;
    w->contender = PNX_CACHE_NO_SLOT;
    w->random = params->seed;
    w->sketch.salt = (uint32_t)pnx__splitmix(&w->random);
    w->window_share = WINDOW_SHARE;
    w->step = FIRST_STEP;
    w->hit_ratio = -1;
    w_resize(w, params->capacity);
}

static void w_grow(void *state, void *memory, uint32_t slots, const uint32_t *map) {
    const struct w_tinylfu *old = state;
    struct w_tinylfu *w = memory;
    *w = *old;
    layout(w, slots);
    for (uint32_t region = 0; region < sizeof(w->list) / sizeof(w->list[0]); region++) {
        for (uint32_t slot = w->list[region].head; slot != PNX_CACHE_NO_SLOT;
                slot = old->links[slot].older)
            w->region[pnx__slot_new(map, slot)] = (uint8_t)region;
        pnx__slot_list_grow(&w->list[region], w->links, old->links, map);
    }
    pnx__sketch_copy(&w->sketch, &old->sketch);
}

static uint64_t weight_of(const struct w_tinylfu *w, uint32_t slot) {
    return pnx_cache_slot_weight(w->view, slot);
}

static void enter(struct w_tinylfu *w, uint32_t region, uint32_t slot) {
    pnx__slot_list_push(&w->list[region], w->links, slot);
    w->weight[region] += weight_of(w, slot);
    w->region[slot] = (uint8_t)region;
}

static void leave(struct w_tinylfu *w, uint32_t slot) {
    pnx__slot_list_remove(&w->list[w->region[slot]], w->links, slot);
    w->weight[w->region[slot]] -= weight_of(w, slot);
}

/* Moves what is too much in protected to probation. */
static void demote(struct w_tinylfu *w) {
    while (w->weight[PROTECTED] > w->protected_most && w->list[PROTECTED].count > 0) {
        uint32_t slot = w->list[PROTECTED].tail;
        leave(w, slot);
        enter(w, PROBATION, slot);
    }
}

/* One step of the climb, at the end of a sample. */
static void climb(struct w_tinylfu *w) {
    double ratio = (double)w->hits / (double)(w->hits + w->misses);
    double change = w->hit_ratio < 0 ? 0 : ratio - w->hit_ratio;
    bool first = w->hit_ratio < 0;
    w->hit_ratio = ratio;
    w->hits = w->misses = 0;
    if (first)
        return;
    double direction = (w->step > 0) == (change >= 0) ? 1 : -1;
    double size = w->step > 0 ? w->step : -w->step;
    double share = w->window_share + direction * size;
    share = share < WINDOW_SHARE ? WINDOW_SHARE : share > WINDOW_MOST ? WINDOW_MOST : share;
    size = change >= JUMP || change <= -JUMP ? FIRST_STEP : size * STEP_DECAY;
    w->step = direction * size;
    w->window_share = share;
    set_shares(w);
}

static void sample(struct w_tinylfu *w) {
    uint64_t held =
            (uint64_t)w->list[WINDOW].count + w->list[PROBATION].count + w->list[PROTECTED].count;
    if (w->hits + w->misses >= SAMPLE_REQUESTS * held && held > 0)
        climb(w);
}

/* Moves the window's oldest to main; it is the newest there. */
static void spill(struct w_tinylfu *w) {
    uint32_t slot = w->list[WINDOW].tail;
    leave(w, slot);
    enter(w, PROBATION, slot);
    w->contender = slot;
}

static void w_insert(void *state, uint32_t slot) {
    struct w_tinylfu *w = state;
    pnx__sketch_add(&w->sketch, pnx_cache_slot_hash(w->view, slot));
    enter(w, WINDOW, slot);
    /* Two at most, so that a window that has become smaller gets there by and by; the new one stays. */
    for (int i = 0; i < 2 && w->weight[WINDOW] > w->window_most && w->list[WINDOW].count > 1; i++)
        spill(w);
    w->contender = PNX_CACHE_NO_SLOT;
    w->misses++;
    sample(w);
}

static void w_hit(void *state, uint32_t slot) {
    struct w_tinylfu *w = state;
    uint32_t region = w->region[slot];
    pnx__sketch_add(&w->sketch, pnx_cache_slot_hash(w->view, slot));
    leave(w, slot);
    enter(w, region == PROBATION ? PROTECTED : region, slot);
    demote(w);
    w->hits++;
    sample(w);
}

static void w_remove(void *state, uint32_t slot) {
    struct w_tinylfu *w = state;
    if (w->contender == slot)
        w->contender = PNX_CACHE_NO_SLOT;
    leave(w, slot);
}

static void w_reweigh(void *state, uint32_t slot, uint64_t from) {
    struct w_tinylfu *w = state;
    w->weight[w->region[slot]] += weight_of(w, slot) - from;
}

/* True when the contender may stay, and the victim goes. */
static bool wins(struct w_tinylfu *w, uint32_t contender, uint32_t victim) {
    uint32_t mine = pnx__sketch_count(&w->sketch, pnx_cache_slot_hash(w->view, contender));
    uint32_t its = pnx__sketch_count(&w->sketch, pnx_cache_slot_hash(w->view, victim));
    if (mine > its)
        return true;
    return mine >= OFTEN && pnx__splitmix(&w->random) % LET_IN == 0;
}

static uint32_t w_victim(void *state, uint32_t hash, uint64_t weight) {
    struct w_tinylfu *w = state;
    (void)hash;
    if (w->contender == PNX_CACHE_NO_SLOT && w->list[WINDOW].count > 0 &&
            w->weight[WINDOW] + weight > w->window_most)
        spill(w);
    uint32_t slot = w->list[PROBATION].tail;
    if (slot == PNX_CACHE_NO_SLOT)
        slot = w->list[PROTECTED].tail;
    if (slot == PNX_CACHE_NO_SLOT)
        slot = w->list[WINDOW].tail;
    if (slot == PNX_CACHE_NO_SLOT)
        return slot;
    if (w->contender != PNX_CACHE_NO_SLOT && w->contender != slot && !wins(w, w->contender, slot))
        slot = w->contender;
    w_remove(w, slot);
    return slot;
}

static const char *w_check(const void *state, uint32_t held) {
    const struct w_tinylfu *w = state;
    uint32_t count = 0;
    for (uint32_t region = 0; region < REGIONS; region++) {
        const struct pnx__slot_list *list = &w->list[region];
        const char *broken = pnx__slot_list_check(list, w->links, w->slots);
        if (broken)
            return broken;
        uint64_t weight = 0;
        for (uint32_t slot = list->head; slot != PNX_CACHE_NO_SLOT; slot = w->links[slot].older) {
            if (w->region[slot] != region)
                return "a slot is in another region than it says";
            weight += weight_of(w, slot);
        }
        if (weight != w->weight[region])
            return "a region's weight is not that of its slots";
        count += list->count;
    }
    return count == held ? NULL : "the regions do not hold the held slots";
}

const struct pnx_cache_policy pnx__cache_policy_w_tinylfu = {
        .size = sizeof(struct pnx_cache_policy),
        .name = "w-tinylfu",
        .description = "an adaptive window before a main part that compares frequencies",
        .flags = PNX_CACHE_POLICY_HASH,
        .memory = w_memory,
        .init = w_init,
        .grow = w_grow,
        .insert = w_insert,
        .hit = w_hit,
        .remove = w_remove,
        .victim = w_victim,
        .resize = w_resize,
        .reweigh = w_reweigh,
        .check = w_check,
};
