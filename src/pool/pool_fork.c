/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_fork.c - what a forked child does with its parent's pool.
 *
 * The child has the parent's memory, but not its threads: the lock may be held for ever, and every resource is
 * still the parent's.  So nothing here takes the lock, frees memory, or calls anything but abandon.
 *
 *   F1  In the child each inherited resource that is idle, or on a lease that the child gives back, is abandoned
 *       at most once; none is closed.
 */
#include "os/thread.h"
#include "pool/pool.h"

bool pnx__pool_forked(const struct pnx_pool *pool) {
    return pnx__fork_generation() != pool->fork;
}

static void abandon(struct pnx_pool *pool, struct pnx_slot *slot) {
    /* the child is a copy of one moment of the parent: no other thread exists that could write it */
    void *resource = pnx_load(&slot->resource, PNX_RELAXED, "pool_fork.resource");
    if (pool->manager.abandon && resource)
        pool->manager.abandon(pool->ctx, resource);
}

void pnx__pool_abandon_lease(struct pnx_pool *pool, struct pnx_slot *slot) {
    /* the word stays IN_USE and RETURNING: no copy of the lease fits it any more */
    abandon(pool, slot);
}

void pnx__pool_abandon_idle(struct pnx_pool *pool) {
    /* pairs with pool.chunks_push */
    struct pnx__pool_chunk *chunk = pnx_load(&pool->chunks, PNX_ACQUIRE, "pool_fork.chunks");
    for (; chunk; chunk = chunk->next) {
        for (uint32_t i = 0; i < chunk->n; i++) {
            if (pnx__pool_slot_forsake(&chunk->slots[i]))
                abandon(pool, &chunk->slots[i]);
        }
    }
}
