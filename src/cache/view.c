/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/view.c - lookups whose caller is in a reclaim section and reads the bytes in their place.
 *
 *   P1  Whatever way the entry was found, it was stored at a moment in the caller's section: its block is retired later than
 *       that, and so is there until the section ends.
 */
#include "cache/internal.h"

#include "base/hash.h"
#include "cache/load.h"
#include "share/reclaim.h"

static int view_locked(struct pnx_cache_shard *shard, uint64_t hash, const void *key,
        size_t key_size, struct pnx_cache_entry **ret_entry) {
    struct pnx_cache_effects fx = {0};
    pnx__cache_lock(shard);
    pnx_ns now = 0;
    int rc = pnx__cache_look_locked(shard, hash, key, key_size, &now, &fx, ret_entry, NULL);
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(shard->cache, &fx);
    return rc;
}

/* Has the entry refreshed, if an executor is to do that and it is time. */
static void have_refreshed(struct pnx_cache *cache, struct pnx_cache_entry *entry) {
    if (!pnx__cache_to_be_refreshed(cache, entry) || !pnx__cache_try_pin(entry))
        return;
    struct pnx_cache_ref ref = {.entry = entry};
    pnx__cache_source(cache, entry);
    pnx_cache_ref_release(&ref);
}

int pnx_cache_view(struct pnx_cache *cache, const void *key, size_t key_size,
        struct pnx_cache_bytes *ret_view) {
    if ((!key && key_size > 0) || !ret_view || !pnx_reclaim_in_section(NULL))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    struct pnx_cache_entry *entry = NULL;
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    /* Relaxed: as it comes. */
    uint64_t wants = pnx_load(&shard->wants, PNX_RELAXED, "cache_view.wants");
    rc = PNX_CACHE_LOCK;
    if (!pnx__cache_wants_lock(wants, hash))
        rc = pnx__cache_find_free(shard, wants, hash, key, key_size, &entry);
    if (rc == PNX_CACHE_LOCK)
        rc = view_locked(shard, hash, key, key_size, &entry);
    pnx__cache_curve_note(cache, hash);
    if (rc == 0) {
        PNX_CACHE_COUNT(cache, hits, 1);
        if (entry->flags & PNX_CACHE_ENTRY_POINTER)
            return -ENOTSUP;
        have_refreshed(cache, entry);
        *ret_view = (struct pnx_cache_bytes){.data = entry + 1, .size = entry->value_size};
    } else if (rc == PNX_CACHE_ABSENT) {
        PNX_CACHE_COUNT(cache, negative_hits, 1);
        rc = -ENOENT;
    } else if (rc == -ENOENT) {
        PNX_CACHE_COUNT(cache, misses, 1);
    }
    return rc;
}
