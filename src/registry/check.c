/* SPDX-License-Identifier: Apache-2.0 */
/* registry/check.c - the invariants of a registry that nobody is using at the moment. */
#include "registry/ledger.h"

#include <stdlib.h>

static void require(bool holds) {
    if (!holds)
        abort();
}

static void check_queue(struct pnx_registry *registry, const struct pnx_shard *shard) {
    uint32_t n = 0;
    const struct pnx_row *last = NULL;
    for (const struct pnx_row *row = shard->free_first; row; row = row->next_free) {
        uint64_t word = pnx__row_word(row);
        enum pnx_row_state state = pnx__word_state(word);
        require(state == PNX_ROW_FREE || state == PNX_ROW_DONE || state == PNX_ROW_FAILED);
        require(pnx__slot_row(shard, pnx__slot_of(word)) == row);
        require(&registry->shard[pnx__shard_of(word)] == shard);
        require(++n <= shard->n_free);
        last = row;
    }
    require(n == shard->n_free && last == shard->free_last);
}

static void check_row(const struct pnx_row *row) {
    enum pnx_row_hand hand = pnx__row_hand(row);
    switch (pnx__word_state(pnx__row_word(row))) {
    case PNX_ROW_RUNNING:
        require(hand < PNX_HAND_REQUEST && row->request->row == row);
        break;
    case PNX_ROW_PENDING:
        require(hand >= PNX_HAND_REQUEST);
        break;
    case PNX_ROW_ABANDONED:
        break;
    default:
        require(hand == PNX_HAND_RUNNER);
        break;
    }
}

static void check_shard(struct pnx_registry *registry, uint32_t number, uint64_t *allowed) {
    struct pnx_shard *shard = &registry->shard[number];
    pnx__lock(&shard->lock);
    check_queue(registry, shard);
    uint32_t capacity = 0;
    for (uint32_t k = 0; k < shard->n_chunks; k++)
        capacity += pnx__chunk_rows(k);
    require(shard->capacity == capacity && shard->used <= capacity);
    require(shard->n_free <= shard->used);
    require(shard->rest == (shard->used < shard->capacity ? PNX_QUARANTINE : 0));
    uint64_t there = 0;
    for (uint32_t slot = 0; slot < shard->used; slot++) {
        const struct pnx_row *row = pnx__slot_row(shard, slot);
        uint64_t word = pnx__row_word(row);
        require(pnx__slot_of(word) == slot && pnx__shard_of(word) == number);
        check_row(row);
        there += pnx__word_is_there(word);
    }
    require(there == pnx__shard_rows_locked(shard));
    require(there <= shard->allowed && there + shard->n_free <= shard->used);
    require(shard->held || there == 0);
    *allowed += shard->allowed;
    pnx__unlock(&shard->lock);
}

void pnx__registry_check(struct pnx_registry *registry) {
    /* Nobody else writes. */
    uint64_t allowed = pnx_load(&registry->room, PNX_RELAXED, "check.room");
    for (uint32_t i = 0; i < PNX_SHARDS; i++)
        check_shard(registry, i, &allowed);
    require(allowed == registry->max);
}
