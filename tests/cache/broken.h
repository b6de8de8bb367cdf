/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of pnx_cache_check() share: words that are changed for a moment. */
#ifndef PNX_TESTS_CACHE_BROKEN_H
#define PNX_TESTS_CACHE_BROKEN_H

#include "cache/common.h"
#include "cache/internal.h"

/* The check says so while a word has another value, and nothing once it has its own again. */
static inline void check_sees(
        struct fixture *f, void *word, const void *other, size_t size, const char *said) {
    unsigned char own[sizeof(uint64_t)];
    memcpy(own, word, size);
    CHECK(memcmp(own, other, size) != 0);
    memcpy(word, other, size);
    CHECK_EQ(pnx_cache_check(f->cache, &f->err), PNX_E_BROKEN);
    CHECK_CONTAINS(f->err.message, said);
    memcpy(word, own, size);
    check_invariants(f);
}

static inline void check_sees_u32(
        struct fixture *f, uint32_t *word, uint32_t other, const char *said) {
    check_sees(f, word, &other, sizeof(other), said);
}

static inline void check_sees_u64(
        struct fixture *f, uint64_t *word, uint64_t other, const char *said) {
    check_sees(f, word, &other, sizeof(other), said);
}

/* The caches that are broken: LIVE entries are there, the first TIMED of them expire in seconds, in this order; HOLES more were. */
enum { LIVE = 6, TIMED = 3, HOLES = 2 };

/* The one shard of a cache that is filled like that. */
static inline struct pnx_cache_shard *the_shard(struct fixture *f) {
    struct pnx_cache_shard *shard = f->cache->shards;
    CHECK_EQ(f->cache->n_shards, 1);
    CHECK_EQ(shard->live, LIVE);
    CHECK_EQ(shard->timed, TIMED);
    check_invariants(f);
    return shard;
}

static inline void check_sees_a_policy(
        struct fixture *f, struct pnx_cache_shard *shard, uint32_t slot) {
    shard->policy->remove(shard->policy_state, slot);
    CHECK_EQ(pnx_cache_check(f->cache, &f->err), PNX_E_BROKEN);
    CHECK_CONTAINS(f->err.message, "the list does not hold the held slots");
    shard->policy->insert(shard->policy_state, slot);
    check_invariants(f);
}

#endif
