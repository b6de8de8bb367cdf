/* SPDX-License-Identifier: Apache-2.0 */
/* registry/check.c - the invariants of a registry that nobody is using at the moment. */
#include "registry/ledger.h"

#include <stdlib.h>

static void require(bool holds) {
    if (!holds)
        abort();
}

static void check_shard(struct pnx_registry *registry, uint32_t number) {
    struct pnx_shard *shard = &registry->shard[number];
    pnx__mutex_lock(&shard->lock);
    uint32_t n = 0, last = 0;
    for (uint32_t link = shard->free_first; link;) {
        const struct pnx_row *row =
                pnx__row_find(registry, (pnx_resource_id)(link - 1) << PNX_SHARD_BITS | number);
        enum pnx_row_state state = pnx__word_state(pnx__row_word(row));
        require(state == PNX_ROW_FREE || state == PNX_ROW_DONE || state == PNX_ROW_FAILED);
        require(row->index == ((link - 1) << PNX_SHARD_BITS | number));
        require(++n <= shard->n_free);
        last = link;
        link = row->next_free;
    }
    require(n == shard->n_free && last == shard->free_last);
    require(shard->used <= (PNX_CHUNK_FIRST << shard->n_chunks) - PNX_CHUNK_FIRST);
    require(shard->n_free <= shard->used);
    pnx__mutex_unlock(&shard->lock);
}

static void count_row(void *ctx, struct pnx_row *row, uint64_t word) {
    size_t *n = ctx;
    (void)row;
    (void)word;
    ++*n;
}

void pnx__registry_check(struct pnx_registry *registry) {
    size_t n = 0;
    for (uint32_t i = 0; i < PNX_SHARDS; i++)
        check_shard(registry, i);
    pnx__rows_each(registry, count_row, &n);
    require(n == pnx_registry_count(registry));
    require(n ==
            pnx_load(&registry->values.live, PNX_RELAXED, "check.live")); /* nobody else writes */
}
