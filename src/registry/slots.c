/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry/slots.c - the memory of a registry: chunks of rows, and what stands beside them.
 *
 *   P1  Nothing is allocated or freed under a lock: memory is got first, and given back when another was faster.
 *   P2  A chunk is never moved or freed before the registry: what was found once may be looked at without a lock.
 *   P3  The shards are never allowed more than max rows together.
 *
 * The first chunks of all shards are one block, so that threads do not get into each other's shards while all
 * that there are is a few rows.
 */
#include "base/env.h"
#include "registry/ledger.h"

#define FIRST_ROWS (1u << PNX_CHUNK_FIRST_LOG2)

static const size_t side_size[PNX_SIDES] = {
        [PNX_SIDE_LABEL] = sizeof(struct pnx_row_label),
        [PNX_SIDE_TRACE] = sizeof(struct pnx_row_trace),
};

/* Takes up to n rows out of what max allows. */
static uint32_t take_room(struct pnx_registry *registry, uint32_t n) {
    /* A number, without data: no partner. */
    uint32_t room = pnx_load(&registry->room, PNX_RELAXED, "slots.room");
    for (;;) {
        uint32_t taken = n < room ? n : room;
        if (taken == 0 ||
                pnx_cas(&registry->room, &room, room - taken, PNX_RELAXED, "slots.take_room"))
            return taken;
    }
}

static void give_room(struct pnx_registry *registry, uint32_t n) {
    pnx_fetch_add(&registry->room, n, PNX_RELAXED, "slots.give_room"); /* see take_room() */
}

void pnx__slot_retire_locked(struct pnx_registry *registry, struct pnx_shard *shard) {
    shard->allowed--;
    give_room(registry, 1);
}

/* Adds a chunk, unless another thread was first. */
static bool install(
        struct pnx_shard *shard, uint32_t n_chunks, struct pnx_row *rows, uint32_t allowed) {
    pnx__lock(&shard->lock);
    bool first = shard->n_chunks == n_chunks;
    if (first) {
        pnx_store(&shard->chunk[n_chunks], rows, PNX_RELEASE,
                "slots.chunk"); /* pairs with rows.chunk */
        shard->n_chunks++;
        shard->capacity += pnx__chunk_rows(n_chunks);
        shard->allowed += allowed;
        shard->rest = PNX_QUARANTINE;
    }
    pnx__unlock(&shard->lock);
    return first;
}

static int add_first_chunks(struct pnx_registry *registry, const struct pnx_shard *shard) {
    struct pnx_row *rows =
            pnx__alloc_aligned(&registry->env, PNX_SHARDS * FIRST_ROWS, sizeof(*rows), 64);
    if (!rows)
        return -ENOMEM;
    void *found = NULL;
    /* Acquire where it fails: the block is another thread's; release: its memory is zeroed. */
    if (!pnx_cas_acquire(&registry->first, &found, rows, PNX_RELEASE, "slots.first")) {
        pnx__free(&registry->env, rows, PNX_SHARDS * FIRST_ROWS, sizeof(*rows));
        rows = found;
    }
    uint32_t home = (uint32_t)(shard - registry->shard);
    for (uint32_t i = 0; i < PNX_SHARDS; i++) { /* from home on: if max is small, it is home's */
        uint32_t s = (home + i) % PNX_SHARDS;
        uint32_t allowed = take_room(registry, FIRST_ROWS);
        if (!install(&registry->shard[s], 0, rows + s * FIRST_ROWS, allowed))
            give_room(registry, allowed);
    }
    return 0;
}

int pnx__shard_grow(struct pnx_registry *registry, struct pnx_shard *shard, uint32_t n_chunks) {
    if (n_chunks == 0)
        return add_first_chunks(registry, shard);
    if (n_chunks >= PNX_CHUNKS)
        return -ENOSPC;
    uint32_t n = pnx__chunk_rows(n_chunks);
    uint32_t allowed = take_room(registry, n);
    if (allowed == 0)
        return -EBUSY;
    struct pnx_row *rows = pnx__alloc_aligned(&registry->env, n, sizeof(*rows), 64);
    if (rows && install(shard, n_chunks, rows, allowed))
        return 0;
    give_room(registry, allowed);
    int rc = rows ? 0 : -ENOMEM;
    pnx__free(&registry->env, rows, n, sizeof(*rows));
    return rc;
}

void *pnx__side_place(struct pnx_registry *registry, pnx_resource_id id, enum pnx_side side) {
    struct pnx_shard *shard = &registry->shard[pnx__shard_of(id)];
    struct pnx_slot_place place = pnx__slot_place(pnx__slot_of(id));
    char *base = pnx_load(&shard->side[side][place.chunk], PNX_ACQUIRE,
            "slots.beside"); /* pairs with slots.side */
    return base ? base + place.offset * side_size[side] : NULL;
}

void *pnx__row_side(struct pnx_registry *registry, pnx_resource_id id, enum pnx_side side) {
    /* Each kind of entry begins with the id of the row that it belongs to. */
    pnx_resource_id *entry = pnx__side_place(registry, id, side);
    return entry && *entry == id ? entry : NULL;
}

int pnx__side_make(struct pnx_registry *registry, pnx_resource_id id, enum pnx_side side) {
    struct pnx_shard *shard = &registry->shard[pnx__shard_of(id)];
    uint32_t chunk = pnx__slot_place(pnx__slot_of(id)).chunk;
    uint32_t n = pnx__chunk_rows(chunk);
    void *made = pnx__alloc(&registry->env, n, side_size[side]);
    if (!made)
        return -ENOMEM;
    void *found = NULL;
    /* Release: pairs with slots.beside; the entries are zeroed. */
    if (!pnx_cas(&shard->side[side][chunk], &found, made, PNX_RELEASE, "slots.side"))
        pnx__free(&registry->env, made, n, side_size[side]); /* another thread was first */
    return 0;
}

void pnx__shards_free(struct pnx_registry *registry) {
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        struct pnx_shard *shard = &registry->shard[s];
        for (uint32_t k = 0; k < shard->n_chunks; k++) {
            uint32_t n = pnx__chunk_rows(k);
            if (k)
                pnx__free(&registry->env, shard->chunk[k].v, n, sizeof(struct pnx_row));
            for (int side = 0; side < PNX_SIDES; side++)
                pnx__free(&registry->env, shard->side[side][k].v, n, side_size[side]);
        }
    }
    pnx__free(&registry->env, registry->first.v, PNX_SHARDS * FIRST_ROWS, sizeof(struct pnx_row));
}
