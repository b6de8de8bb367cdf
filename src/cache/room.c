/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/room.c - the one capacity of all shards: bytes, entries, and weight where entries are weighed.
 *
 *   P1  used_bytes <= capacity, used_entries <= capacity_entries and used_weight <= capacity_weight at every moment, but for
 *       a resize under way: room is taken by one compare-and-swap each before an entry is linked, and given back after it
 *       was taken out.
 */
#include "cache/internal.h"

/* Adds to one of the two; with one shard its lock makes a read-modify-write needless. */
static void add_used(const struct pnx_cache *cache, struct pnx_a64 *used, uint64_t n) {
    if (cache->n_shards == 1)
        pnx_owner_add(used, n);
    else if (n != 0)
        /* Relaxed: a count; that it stays within the limit is in the count itself. */
        pnx_fetch_add(used, n, PNX_RELAXED, "cache.give_room");
}

/* Adds what more is above less to *used, unless it would then be over the limit. */
static bool take_used(const struct pnx_cache *cache, struct pnx_a64 *used, uint64_t limit,
        uint64_t more, uint64_t less) {
    /* Relaxed, both: see add_used(). */
    uint64_t now = pnx_load(used, PNX_RELAXED, "cache.room_now");
    if (more <= less)
        return true;
    do {
        if (more - less > limit || now > limit - (more - less))
            return false;
        if (cache->n_shards == 1) {
            pnx_owner_add(used, more - less);
            return true;
        }
    } while (!pnx_cas(used, &now, now + more - less, PNX_RELAXED, "cache.take_room"));
    return true;
}

/* Takes back what take_used() has added. */
static void untake_used(
        const struct pnx_cache *cache, struct pnx_a64 *used, uint64_t more, uint64_t less) {
    if (more > less)
        add_used(cache, used, less - more);
}

bool pnx__cache_fits(const struct pnx_cache *cache, const struct pnx_cache_effects *credit,
        size_t bytes, uint32_t entries) {
    uint64_t limit = pnx__cache_limit_bytes(cache);
    uint64_t used = pnx_load(&cache->used_bytes, PNX_RELAXED, "cache.fits_bytes") -
                    (credit ? credit->room_bytes : 0);
    uint64_t held = pnx_load(&cache->used_entries, PNX_RELAXED, "cache.fits_entries") -
                    (credit ? credit->room_entries : 0);
    return bytes <= limit && used <= limit - bytes &&
           held + entries <= pnx__cache_limit_entries(cache);
}

bool pnx__cache_has_room(const struct pnx_cache *cache, const struct pnx_cache_effects *credit,
        const struct pnx_cache_room *room) {
    if (!pnx__cache_fits(cache, credit, room->bytes, room->entries))
        return false;
    if (!cache->weigher)
        return true;
    uint64_t limit = pnx__cache_limit_weight(cache);
    uint64_t used = pnx_load(&cache->used_weight, PNX_RELAXED, "cache.fits_weight") -
                    (credit ? credit->room_weight : 0);
    return room->weight <= limit && used <= limit - room->weight;
}

void pnx__cache_give_room(struct pnx_cache *cache, struct pnx_cache_effects *fx) {
    add_used(cache, &cache->used_bytes, (uint64_t)0 - fx->room_bytes);
    add_used(cache, &cache->used_entries, (uint64_t)0 - fx->room_entries);
    if (cache->weigher)
        add_used(cache, &cache->used_weight, (uint64_t)0 - fx->room_weight);
    fx->room_bytes = 0;
    fx->room_entries = 0;
    fx->room_weight = 0;
}

bool pnx__cache_take_room(struct pnx_cache *cache, const struct pnx_cache_room *room,
        const struct pnx_cache_room *went, struct pnx_cache_effects *fx) {
    uint64_t less_bytes = (uint64_t)went->bytes + fx->room_bytes;
    uint64_t less_weight = went->weight + fx->room_weight;
    uint64_t less_entries = (uint64_t)went->entries + fx->room_entries;
    if (!take_used(cache, &cache->used_entries, pnx__cache_limit_entries(cache), room->entries,
                less_entries))
        return false;
    if (!take_used(cache, &cache->used_bytes, pnx__cache_limit_bytes(cache), room->bytes,
                less_bytes)) {
        untake_used(cache, &cache->used_entries, room->entries, less_entries);
        return false;
    }
    if (cache->weigher && !take_used(cache, &cache->used_weight, pnx__cache_limit_weight(cache),
                                  room->weight, less_weight)) {
        untake_used(cache, &cache->used_bytes, room->bytes, less_bytes);
        untake_used(cache, &cache->used_entries, room->entries, less_entries);
        return false;
    }
    fx->room_bytes = room->bytes < less_bytes ? less_bytes - room->bytes : 0;
    fx->room_weight = room->weight < less_weight ? less_weight - room->weight : 0;
    fx->room_entries = room->entries < less_entries ? (uint32_t)(less_entries - room->entries) : 0;
    if (fx->room_bytes | fx->room_weight | fx->room_entries)
        pnx__cache_give_room(cache, fx);
    return true;
}
