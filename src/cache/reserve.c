/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/reserve.c - entries that their maker fills in place: reserve, commit, abort.
 *
 *     (none) --reserve--> RESERVED --commit--> stored, as a put would have it
 *                            +--abort, a commit that fails--> (freed)
 *
 *   P1  A reservation is an entry with one reference that nobody else knows; it is charged, and counts as a reference.
 *   P2  Each way out of RESERVED ends the charge, or hands it to what is stored.
 */
#include "cache/internal.h"

#include "base/hash.h"
#include "share/reclaim.h"

/* Counts what is reserved, and the reservation as a reference. */
static void count_reserved(
        struct pnx_cache *cache, const struct pnx_cache_entry *entry, bool more) {
    uint64_t cost = pnx__cache_cost_of(entry);
    /* Relaxed: a number. */
    pnx_fetch_add(&cache->reserved_bytes, more ? cost : (uint64_t)0 - cost, PNX_RELAXED,
            "cache.reserved");
    pnx__cache_count_pins(cache, more ? 1 : (uint64_t)0 - 1);
}

static int make(struct pnx_cache *cache, const void *key, size_t key_size, size_t value_size,
        uint64_t hash, struct pnx_cache_entry **ret_entry) {
    size_t cost =
            pnx__cache_entry_cost(key_size, value_size, cache->timed ? PNX_CACHE_ENTRY_TIMED : 0);
    /* Relaxed: a hint, committing decides. */
    if (cost == SIZE_MAX || cost > pnx_load(&cache->capacity, PNX_RELAXED, "cache.hint_reserve"))
        return -EFBIG;
    struct pnx_cache_entry *entry = pnx__cache_entry_make(
            pnx__cache_shard_of(cache, hash), key, key_size, NULL, value_size, 0);
    if (!entry)
        return -ENOMEM;
    /* Makes no room ahead, as a put does: the reservation may be aborted. */
    if (cache->budget != pnx_budget_off()) {
        entry->charged = pnx_budget_charge(cache->budget, cost, 0) == 0;
        if (!entry->charged) {
            pnx__cache_entry_discard(entry);
            return -ENOMEM;
        }
    }
    *ret_entry = entry;
    return 0;
}

int pnx_cache_reserve(struct pnx_cache *cache, const void *key, size_t key_size, size_t value_size,
        struct pnx_cache_reservation *ret_reservation) {
    if ((!key && key_size > 0) || !ret_reservation)
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    if (key_size > UINT32_MAX)
        return -EFBIG;
    struct pnx_cache_entry *entry = NULL;
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    rc = make(cache, key, key_size, value_size, hash, &entry);
    if (rc) {
        pnx__cache_reject(cache, pnx__cache_entry_cost(key_size, value_size, 0), rc);
        return rc;
    }
    count_reserved(cache, entry, true);
    *ret_reservation = (struct pnx_cache_reservation){
            .data = entry + 1, .size = value_size, .entry = entry, .hash = hash};
    return 0;
}

/* Stores the entry or frees it. */
static int commit_entry(struct pnx_cache *cache, struct pnx_cache_entry *entry, size_t value_size,
        struct pnx_cache_insert *insert) {
    int rc = 0;
    insert->entry = entry;
    if (value_size != entry->value_size) {
        insert->entry = pnx__cache_entry_shrink(entry, value_size);
        if (!insert->entry) {
            insert->entry = entry;
            rc = -ENOMEM;
        }
    }
    size_t cost = pnx__cache_cost_of(insert->entry);
    if (rc == 0)
        rc = pnx__cache_weigh(cache, insert);
    if (rc == PNX_CACHE_FORKED)
        return -ESHUTDOWN;
    if (rc == 0)
        rc = pnx__cache_insert(cache, insert);
    if (rc == -EFBIG || rc == -ENOMEM) {
        if (!insert->if_absent)
            pnx__cache_forget(cache, insert->hash, pnx__cache_entry_key(insert->entry),
                    insert->entry->key_size);
        pnx__cache_reject(cache, cost, rc);
    }
    if (rc == 0)
        pnx__cache_entry_drop(insert->entry);
    else
        pnx__cache_entry_discard(insert->entry); /* the last one of a released cache frees it */
    return rc;
}

static int commit(
        struct pnx_cache_reservation *reservation, size_t value_size, pnx_ns ttl, bool if_absent) {
    if (!reservation || !reservation->entry || ttl < 0)
        return -EINVAL;
    struct pnx_cache_entry *entry = reservation->entry;
    struct pnx_cache *cache = entry->shard->cache;
    if (value_size > entry->value_size)
        return -ERANGE;
    struct pnx_cache_insert insert = {
            .hash = reservation->hash, .ttl = ttl, .if_absent = if_absent};
    *reservation = (struct pnx_cache_reservation){0};
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc; /* a forked child: the entry is the parent's */
    count_reserved(cache, entry, false);
    if (pnx__cache_is_closed(cache)) {
        pnx__cache_entry_discard(entry);
        rc = -ESHUTDOWN;
    } else {
        rc = commit_entry(cache, entry, value_size, &insert);
    }
    pnx__reclaim_assist(NULL);
    return rc;
}

int pnx_cache_commit(struct pnx_cache_reservation *reservation, size_t value_size, pnx_ns ttl) {
    return commit(reservation, value_size, ttl, false);
}

int pnx_cache_commit_if_absent(
        struct pnx_cache_reservation *reservation, size_t value_size, pnx_ns ttl) {
    return commit(reservation, value_size, ttl, true);
}

void pnx_cache_abort(struct pnx_cache_reservation *reservation) {
    if (!reservation || !reservation->entry)
        return;
    struct pnx_cache_entry *entry = reservation->entry;
    struct pnx_cache *cache = entry->shard->cache;
    *reservation = (struct pnx_cache_reservation){0};
    if (pnx__cache_enter(cache) != 0)
        return; /* as above */
    count_reserved(cache, entry, false);
    pnx__cache_entry_discard(entry);
}
