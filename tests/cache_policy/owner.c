/* SPDX-License-Identifier: Apache-2.0 */
#include "cache_policy/owner.h"

#include "base/env.h"
#include "base/env_system.h"

#define GUARD 64 /* bytes behind a state that no policy may touch */

struct owner_record *owner_record(const struct owner *o, uint32_t slot) {
    return (struct owner_record *)(void *)pnx_cache_slot_record(&o->view, slot);
}

void *owner_take_state(size_t bytes) {
    CHECK(bytes > 0);
    void *memory = pnx__alloc_aligned(pnx__env_system(), 1, bytes + GUARD, 64); /* zeroed */
    CHECK(memory);
    memset((char *)memory + bytes, 0x5a, GUARD);
    return memory;
}

void owner_free_state(void *state, size_t bytes) {
    const unsigned char *guard = (const unsigned char *)state + bytes;
    for (int i = 0; i < GUARD; i++)
        CHECK_MSG(guard[i] == 0x5a, "a policy has written behind its memory");
    pnx__free(pnx__env_system(), state, 1, bytes + GUARD);
}

static void check_guard(const struct owner *o) {
    const unsigned char *guard = (const unsigned char *)o->state + o->state_bytes;
    for (int i = 0; i < GUARD; i++)
        CHECK_MSG(guard[i] == 0x5a, "%s writes behind its memory", o->policy->name);
}

void owner_open(struct owner *o, const struct pnx_cache_policy *policy, uint64_t capacity,
        uint32_t weight_bytes, uint32_t room, uint64_t seed) {
    memset(o, 0, sizeof(*o));
    o->policy = policy;
    o->capacity = capacity;
    o->room = room;
    for (uint32_t i = 0; i < OWNER_PAGES; i++) {
        o->pages[i] = malloc(OWNER_PAGE_SIZE);
        memset(o->pages[i], 0xee, OWNER_PAGE_SIZE);
    }
    o->view = (struct pnx_cache_slots){.pages = o->pages,
            .shift = OWNER_PAGE_LOG,
            .stride = sizeof(struct owner_record),
            .hits = offsetof(struct owner_record, hits),
            .hash = offsetof(struct owner_record, hash),
            .weight = weight_bytes == 0   ? PNX_CACHE_NO_FIELD
                      : weight_bytes == 4 ? (uint32_t)offsetof(struct owner_record, narrow)
                                          : (uint32_t)offsetof(struct owner_record, wide),
            .weight_bytes = weight_bytes,
            .expires = offsetof(struct owner_record, expires)};
    o->params = (struct pnx_cache_policy_params){.size = sizeof(o->params),
            .slots = &o->view,
            .capacity = capacity,
            .seed = seed,
            .kind = weight_bytes ? PNX_CACHE_CAPACITY_BYTES : PNX_CACHE_CAPACITY_ENTRIES};
    o->state_bytes = policy->memory(&o->params, room);
    o->state = owner_take_state(o->state_bytes);
    policy->init(o->state, &o->params, room);
}

void owner_close(struct owner *o) {
    owner_free_state(o->state, o->state_bytes);
    for (uint32_t i = 0; i < OWNER_PAGES; i++)
        free(o->pages[i]);
}

uint64_t owner_weight(const struct owner *o, uint32_t slot) {
    return pnx_cache_slot_weight(&o->view, slot);
}

void owner_set_weight(struct owner *o, uint32_t slot, uint64_t weight) {
    owner_record(o, slot)->narrow = (uint32_t)weight;
    owner_record(o, slot)->wide = weight;
}

static void forget(struct owner *o, uint32_t slot) {
    o->held[slot] = false;
    o->count--;
    o->weight -= owner_weight(o, slot);
}

uint32_t owner_victim(struct owner *o, uint32_t hash, uint64_t weight) {
    uint32_t slot = o->policy->victim(o->state, hash, weight);
    CHECK_MSG(slot < OWNER_SLOTS && o->held[slot], "%s: victim %u is not held", o->policy->name,
            slot);
    forget(o, slot);
    o->evicted++;
    return slot;
}

uint32_t owner_make_room(struct owner *o, uint32_t hash, uint64_t weight) {
    uint32_t slot = PNX_CACHE_NO_SLOT;
    while (o->count > 0 && o->weight + weight > o->capacity)
        slot = owner_victim(o, hash, weight);
    return slot;
}

void owner_insert(struct owner *o, uint32_t slot, uint32_t hash, uint64_t weight, pnx_ns expires) {
    struct owner_record *record = owner_record(o, slot);
    if (o->view.weight == PNX_CACHE_NO_FIELD)
        weight = 1;
    owner_make_room(o, hash, weight);
    CHECK(!o->held[slot] && slot < o->room);
    record->hash = hash;
    record->expires = expires;
    owner_set_weight(o, slot, weight);
    o->held[slot] = true;
    o->count++;
    o->weight += weight;
    o->policy->insert(o->state, slot);
}

void owner_hit(struct owner *o, uint32_t slot) {
    const struct pnx_cache_policy_wants *wants = pnx_cache_policy_wants_of(o->state);
    if (wants->exact_hits)
        o->policy->hit(o->state, slot);
    else
        pnx_cache_slot_bump(&o->view, slot, wants->hit_max);
}

void owner_remove(struct owner *o, uint32_t slot) {
    CHECK(o->held[slot]);
    o->policy->remove(o->state, slot);
    forget(o, slot);
}

void owner_resize(struct owner *o, uint64_t capacity) {
    o->capacity = capacity;
    if (o->policy->resize)
        o->policy->resize(o->state, capacity);
    owner_make_room(o, 0, 0);
}

void owner_reweigh(struct owner *o, uint32_t slot, uint64_t weight) {
    uint64_t from = owner_weight(o, slot);
    owner_set_weight(o, slot, weight);
    o->weight += owner_weight(o, slot) - from;
    if (o->policy->reweigh)
        o->policy->reweigh(o->state, slot, from);
    owner_make_room(o, 0, 0);
}

void owner_expiry(struct owner *o, uint32_t slot, pnx_ns expires) {
    owner_record(o, slot)->expires = expires;
    if (o->policy->expiry)
        o->policy->expiry(o->state, slot);
}

static void grow(struct owner *o, uint32_t room, const uint32_t *map) {
    size_t bytes = o->policy->memory(&o->params, room);
    void *memory = owner_take_state(bytes);
    check_guard(o);
    o->policy->grow(o->state, memory, room, map);
    memset(o->state, 0xdd, o->state_bytes); /* nobody needs it any more */
    owner_free_state(o->state, o->state_bytes);
    o->state = memory;
    o->state_bytes = bytes;
    o->room = room;
}

void owner_grow(struct owner *o, uint32_t room) {
    grow(o, room, NULL);
}

void owner_renumber(struct owner *o, uint32_t room, uint64_t *random) {
    static struct owner_record was[OWNER_SLOTS];
    uint32_t to[OWNER_SLOTS], map[OWNER_SLOTS];
    bool held[OWNER_SLOTS] = {0};
    for (uint32_t slot = 0; slot < room; slot++) {
        uint32_t other = (uint32_t)(test_random(random) % (slot + 1));
        to[slot] = to[other];
        to[other] = slot;
        was[slot] = *owner_record(o, slot);
    }
    for (uint32_t slot = 0; slot < o->room; slot++) {
        map[slot] = o->held[slot] ? to[slot] : PNX_CACHE_NO_SLOT;
        if (!o->held[slot])
            continue;
        held[to[slot]] = true;
        *owner_record(o, to[slot]) = was[slot];
    }
    memcpy(o->held, held, sizeof(held));
    grow(o, room, map);
}

void owner_check(const struct owner *o) {
    const char *broken = o->policy->check(o->state, o->count);
    CHECK_MSG(!broken, "%s: %s", o->policy->name, broken);
    check_guard(o);
}

uint32_t owner_free_slot(const struct owner *o) {
    for (uint32_t slot = 0; slot < o->room; slot++) {
        if (!o->held[slot])
            return slot;
    }
    return PNX_CACHE_NO_SLOT;
}
