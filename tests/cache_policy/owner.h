/* SPDX-License-Identifier: Apache-2.0 */
/* An owner of slots around one policy: what a cache's shard is to it, with a model of what is held. */
#ifndef PNX_TESTS_CACHE_POLICY_OWNER_H
#define PNX_TESTS_CACHE_POLICY_OWNER_H

#include "harness/harness.h"

#include <patinox/cache_policy.h>

#define OWNER_SLOTS     512u
#define OWNER_PAGE_LOG  4u
#define OWNER_PAGES     (OWNER_SLOTS >> OWNER_PAGE_LOG)
#define OWNER_PAGE_SIZE ((size_t)sizeof(struct owner_record) << OWNER_PAGE_LOG)

struct owner_record {
    uint64_t wide; /* weight, one of the two */
    pnx_ns expires;
    uint32_t narrow;
    uint32_t hash;
    struct pnx_a8 hits;
};

struct owner {
    const struct pnx_cache_policy *policy;
    void *state;
    size_t state_bytes;
    uint32_t room; /* slots the policy has tables for */
    struct pnx_cache_policy_params params;
    struct pnx_cache_slots view;
    unsigned char *pages[OWNER_PAGES];
    bool held[OWNER_SLOTS];
    uint32_t count;
    uint64_t weight;
    uint64_t capacity;
    uint64_t evicted;
};

/* Memory for the state of a policy, zeroed; freed, it has not been written behind its end. */
void *owner_take_state(size_t bytes);
void owner_free_state(void *state, size_t bytes);

/* weight_bytes: 4 or 8, 0 for entries. */
void owner_open(struct owner *o, const struct pnx_cache_policy *policy, uint64_t capacity,
        uint32_t weight_bytes, uint32_t room, uint64_t seed);
void owner_close(struct owner *o);
struct owner_record *owner_record(const struct owner *o, uint32_t slot);
uint64_t owner_weight(const struct owner *o, uint32_t slot);
void owner_set_weight(struct owner *o, uint32_t slot, uint64_t weight);
/* Lets the policy evict until there is room; returns the last victim, or NO_SLOT. */
uint32_t owner_make_room(struct owner *o, uint32_t hash, uint64_t weight);
/* Inserts a key into a slot that is not held, after making room; the key's hash is the number itself. */
void owner_insert(struct owner *o, uint32_t slot, uint32_t hash, uint64_t weight, pnx_ns expires);
/* As a cache counts a hit. */
void owner_hit(struct owner *o, uint32_t slot);
void owner_remove(struct owner *o, uint32_t slot);
/* Asks for a victim, which must be held. */
uint32_t owner_victim(struct owner *o, uint32_t hash, uint64_t weight);
void owner_resize(struct owner *o, uint64_t capacity);
void owner_reweigh(struct owner *o, uint32_t slot, uint64_t weight);
void owner_expiry(struct owner *o, uint32_t slot, pnx_ns expires);
void owner_grow(struct owner *o, uint32_t room);
/* The same; slots get other numbers. */
void owner_renumber(struct owner *o, uint32_t room, uint64_t *random);
/* Fails the test when an invariant is broken. */
void owner_check(const struct owner *o);
/* Any slot below room that is not held. */
uint32_t owner_free_slot(const struct owner *o);

#endif
