/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/access.c - the calls that touch one entry: get, put, remove.
 *
 *   P1  A hit allocates nothing, calls nothing of the user's, and takes no lock, unless the policy wants to be told of it
 *       in order.  cache/table.h says why what it finds is right.
 *   P2  A put either stores its value and owns it, or leaves it to the caller.
 */
#include "cache/internal.h"

#include "base/hash.h"
#include "cache/expiry.h"
#include "cache/load.h"
#include "share/reclaim.h"

static bool bad_key(const void *key, size_t key_size) {
    return !key && key_size > 0;
}

/* ---- looking, under the lock ---- */

void pnx__cache_tell_access_locked(
        struct pnx_cache_shard *shard, uint64_t hash, uint32_t slot, size_t cost) {
    if (!shard->policy_state || !shard->policy->access)
        return;
    const struct pnx_cache_policy_wants *wants = pnx_cache_policy_wants_of(shard->policy_state);
    uint32_t high = pnx__cache_hash_high(hash);
    if (!wants->access || (high & wants->access_mask) != 0)
        return;
    uint64_t weight = 1;
    if (shard->view.weight != PNX_CACHE_NO_FIELD) {
        /* What a key that is not there would weigh is not known: as much as others.  Relaxed: the lock is held. */
        bool weighed = shard->cache->weigher != NULL;
        uint64_t all = pnx_load(
                weighed ? &shard->weight : &shard->bytes, PNX_RELAXED, "cache.access_bytes");
        if (weighed && slot != PNX_CACHE_NO_SLOT)
            weight = pnx_cache_slot_weight(&shard->view, slot);
        else
            weight = cost && !weighed ? cost : shard->live ? all / shard->live : 1;
    }
    shard->policy->access(shard->policy_state, high, weight, slot);
}

static void tell_access_locked(
        struct pnx_cache_shard *shard, uint64_t hash, const struct pnx_cache_entry *entry) {
    pnx__cache_tell_access_locked(shard, hash, entry ? entry->u.in.slot : PNX_CACHE_NO_SLOT,
            entry ? pnx__cache_cost_of(entry) : 0);
}

int pnx__cache_look_locked(struct pnx_cache_shard *shard, uint64_t hash, const void *key,
        size_t key_size, pnx_ns *ret_now, struct pnx_cache_effects *fx,
        struct pnx_cache_entry **ret_entry, struct pnx_cache_entry **ret_kept) {
    struct pnx_cache *cache = shard->cache;
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    struct pnx_cache_entry *entry =
            pnx__cache_see_locked(shard, hash, key, key_size, ret_now, fx, ret_kept);
    tell_access_locked(shard, hash, entry);
    if (!entry)
        return -ENOENT;
    pnx__cache_touch(cache, entry, *ret_now);
    pnx__cache_slot_hit_locked(shard, entry->u.in.slot);
    if (entry->flags & PNX_CACHE_ENTRY_NEGATIVE)
        return PNX_CACHE_ABSENT;
    *ret_entry = entry;
    return 0;
}

static int look_and_pin_locked(struct pnx_cache_shard *shard, uint64_t hash, const void *key,
        size_t key_size, struct pnx_cache_entry **ret_entry) {
    struct pnx_cache_effects fx = {0};
    pnx__cache_lock(shard);
    pnx_ns now = 0;
    int rc = pnx__cache_look_locked(shard, hash, key, key_size, &now, &fx, ret_entry, NULL);
    if (rc == 0)
        pnx__cache_pin(*ret_entry, 1);
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(shard->cache, &fx);
    return rc;
}

/* ---- looking, in a section ---- */

int pnx__cache_find_free(const struct pnx_cache_shard *shard, uint64_t wants, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_entry **ret_entry) {
    const struct pnx_cache *cache = shard->cache;
    /* Acquire: pairs with cache_shard.publish; all of the table. */
    const struct pnx_cache_table *table = pnx_load(&shard->table, PNX_ACQUIRE, "cache.look_table");
    uint32_t slot;
    struct pnx_cache_entry *entry = pnx__cache_table_find(table, hash, key, key_size, &slot);
    if (!entry)
        return -ENOENT;
    if (entry->epoch != pnx__cache_epoch(cache))
        return PNX_CACHE_LOCK;
    pnx_ns now = 0;
    if (pnx__cache_expired(cache, entry, &now))
        return pnx__cache_is_kept(cache, entry, now) ? -ENOENT : PNX_CACHE_LOCK;
    pnx__cache_touch(cache, entry, now);
    uint32_t most = (uint32_t)(wants & PNX_CACHE_WANTS_HITS);
    if (most) {
        struct pnx_a8 *hits = &pnx__cache_record(table, slot)->hits;
        /* Relaxed, both: see pnx_cache_slot_bump(). */
        uint32_t n = pnx_load(hits, PNX_RELAXED, "cache.hits");
        if (n < most)
            pnx_store(hits, (uint8_t)(n + 1), PNX_RELAXED, "cache.set_hits");
    }
    *ret_entry = entry;
    return entry->flags & PNX_CACHE_ENTRY_NEGATIVE ? PNX_CACHE_ABSENT : 0;
}

static uint64_t wants_of(const struct pnx_cache_shard *shard) {
    /* Relaxed: as it comes. */
    return pnx_load(&shard->wants, PNX_RELAXED, "cache.wants");
}

int pnx__cache_look_free(struct pnx_cache_shard *shard, uint64_t hash, const void *key,
        size_t key_size, struct pnx_cache_entry **ret_entry) {
    uint64_t wants = wants_of(shard);
    int rc;
    if (pnx__cache_is_closed(shard->cache))
        return -ESHUTDOWN;
    if (pnx__cache_wants_lock(wants, hash))
        return PNX_CACHE_LOCK;
    pnx_reclaim_enter(NULL);
    do /* one that is being destroyed has been taken out: there is something newer, or nothing */
        rc = pnx__cache_find_free(shard, wants, hash, key, key_size, ret_entry);
    while (rc == 0 && !pnx__cache_try_pin(*ret_entry));
    pnx_reclaim_exit(NULL);
    return rc;
}

/* Counts what a lookup has found; what a caller is told that does not load. */
static int count_look(struct pnx_cache *cache, int rc) {
    if (rc == 0)
        PNX_CACHE_COUNT(cache, hits, 1);
    else if (rc == PNX_CACHE_ABSENT)
        PNX_CACHE_COUNT(cache, negative_hits, 1);
    else if (rc == -ENOENT)
        PNX_CACHE_COUNT(cache, misses, 1);
    return rc == PNX_CACHE_ABSENT ? -ENOENT : rc;
}

int pnx_cache_get(
        struct pnx_cache *cache, const void *key, size_t key_size, struct pnx_cache_ref *ret_ref) {
    if (bad_key(key, key_size) || !ret_ref)
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    struct pnx_cache_entry *entry = NULL;
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    rc = pnx__cache_look_free(shard, hash, key, key_size, &entry);
    if (rc == PNX_CACHE_LOCK)
        rc = look_and_pin_locked(shard, hash, key, key_size, &entry);
    if (rc == 0)
        *ret_ref =
                (struct pnx_cache_ref){.entry = entry, .source = pnx__cache_source(cache, entry)};
    pnx__cache_curve_note(cache, hash);
    return count_look(cache, rc);
}

/* For callers that look again by loading: that look counts what this one does not find, and is the use. */
static int probe_locked(struct pnx_cache_shard *shard, uint64_t hash, const void *key,
        size_t key_size, struct pnx_cache_entry **ret_entry) {
    struct pnx_cache_effects fx = {0};
    int rc = -ESHUTDOWN;
    pnx__cache_lock(shard);
    if (!pnx__cache_is_closed(shard->cache)) {
        pnx_ns now = 0;
        struct pnx_cache_entry *entry =
                pnx__cache_see_locked(shard, hash, key, key_size, &now, &fx, NULL);
        rc = -ENOENT;
        if (entry) {
            pnx__cache_touch(shard->cache, entry, now);
            tell_access_locked(shard, hash, entry);
            pnx__cache_slot_hit_locked(shard, entry->u.in.slot);
            rc = PNX_CACHE_ABSENT;
        }
        if (entry && !(entry->flags & PNX_CACHE_ENTRY_NEGATIVE)) {
            pnx__cache_pin(entry, 1);
            *ret_entry = entry;
            rc = 0;
        }
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(shard->cache, &fx);
    return rc;
}

int pnx_cache_probe(
        struct pnx_cache *cache, const void *key, size_t key_size, struct pnx_cache_ref *ret_ref) {
    if (bad_key(key, key_size) || !ret_ref)
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    struct pnx_cache_entry *entry = NULL;
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    rc = pnx__cache_look_free(shard, hash, key, key_size, &entry);
    if (rc == PNX_CACHE_LOCK)
        rc = probe_locked(shard, hash, key, key_size, &entry);
    if (rc == 0) {
        PNX_CACHE_COUNT(cache, hits, 1);
        pnx__cache_curve_note(cache, hash);
        *ret_ref =
                (struct pnx_cache_ref){.entry = entry, .source = pnx__cache_source(cache, entry)};
    } else if (rc == PNX_CACHE_ABSENT) {
        PNX_CACHE_COUNT(cache, negative_hits, 1);
        pnx__cache_curve_note(cache, hash);
        return -ENODATA;
    }
    return rc;
}

/* ---- copying ---- */

/* Up to here copying in the section is cheaper than pinning; a section is to be short. */
#define COPY_IN_SECTION_MAX 4096

int pnx__cache_copy_out(
        const struct pnx_cache_entry *entry, void *buf, size_t cap, size_t *ret_size) {
    if (entry->flags & PNX_CACHE_ENTRY_POINTER)
        return -ENOTSUP;
    if (ret_size)
        *ret_size = entry->value_size;
    if (entry->value_size > cap)
        return -ERANGE;
    if (entry->value_size > 0)
        memcpy(buf, entry + 1, entry->value_size);
    return 0;
}

/* Copies a value that is not large, without a reference: the bytes stay while the section is open.  *ret_copied: what the
 * copy led to; rc as pnx__cache_look_free(), or LOCK where it is too large. */
static int copy_free(struct pnx_cache_shard *shard, uint64_t hash, const void *key, size_t key_size,
        void *buf, size_t cap, size_t *ret_size, int *ret_copied) {
    struct pnx_cache_entry *entry = NULL;
    uint64_t wants = wants_of(shard);
    if (pnx__cache_is_closed(shard->cache))
        return -ESHUTDOWN;
    if (pnx__cache_wants_lock(wants, hash))
        return PNX_CACHE_LOCK;
    pnx_reclaim_enter(NULL);
    int rc = pnx__cache_find_free(shard, wants, hash, key, key_size, &entry);
    if (rc == 0 && (entry->value_size > COPY_IN_SECTION_MAX ||
                           pnx__cache_to_be_refreshed(shard->cache, entry)))
        rc = PNX_CACHE_LOCK;
    if (rc == 0)
        *ret_copied = pnx__cache_copy_out(entry, buf, cap, ret_size);
    pnx_reclaim_exit(NULL);
    return rc;
}

__attribute__((noinline)) static int get_entry_copy(struct pnx_cache *cache, const void *key,
        size_t key_size, void *buf, size_t cap, size_t *ret_size) {
    if (bad_key(key, key_size) || (!buf && cap > 0))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    int copied = 0;
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    rc = copy_free(shard, hash, key, key_size, buf, cap, ret_size, &copied);
    if (rc == PNX_CACHE_LOCK) {
        struct pnx_cache_ref ref = {0};
        rc = pnx__cache_look_free(shard, hash, key, key_size, &ref.entry);
        if (rc == PNX_CACHE_LOCK)
            rc = look_and_pin_locked(shard, hash, key, key_size, &ref.entry);
        if (rc == 0) {
            pnx__cache_source(cache, ref.entry); /* has it refreshed, if it is time */
            copied = pnx__cache_copy_out(ref.entry, buf, cap, ret_size);
            pnx_cache_ref_release(&ref);
        }
    }
    pnx__cache_curve_note(cache, hash);
    rc = count_look(cache, rc);
    return rc ? rc : copied;
}

/* Tells the curve of a lookup where sizes are fixed, if it is one: what is refused counts as no request either.  In a forked
 * child the curve's lock may be held for ever. */
static void note_fixed(
        struct pnx_cache *cache, const void *key, size_t key_size, const void *buf, size_t cap) {
    const struct pnx_cache_shape *shape = &cache->shape;
    if (key && key_size == shape->key_bytes && buf && cap >= shape->value_bytes &&
            pnx__cache_enter(cache) == 0 && !pnx__cache_is_closed(cache))
        pnx__cache_curve_note(cache, pnx__hash(cache->seed, key, key_size));
}

int pnx_cache_get_copy(struct pnx_cache *cache, const void *key, size_t key_size, void *buf,
        size_t cap, size_t *ret_size) {
    if (!cache)
        return -EINVAL;
    if (pnx__cache_is_fixed(cache)) {
        if (cache->curve)
            note_fixed(cache, key, key_size, buf, cap);
        return pnx__cache_fixed_get_copy(cache, key, key_size, buf, cap, ret_size);
    }
    return get_entry_copy(cache, key, key_size, buf, cap, ret_size);
}

/* ---- put ---- */

struct put {
    const void *key;
    size_t key_size;
    const void *value;
    size_t value_size;
    pnx_ns ttl;
    uint8_t flags; /* PNX_CACHE_ENTRY_* */
    bool if_absent;
};

static bool bad_put(const struct put *put) {
    if (bad_key(put->key, put->key_size) || put->ttl < 0)
        return true;
    return !put->value && (put->value_size > 0 || (put->flags & PNX_CACHE_ENTRY_POINTER));
}

/* Makes the entry and stores it; on failure nothing is left of it. */
static int put_entry(struct pnx_cache *cache, const struct put *put, uint64_t hash) {
    /* A hint spares copying what is far too large; inserting decides. */
    size_t cost = pnx__cache_entry_cost(put->key_size, put->value_size, put->flags);
    uint64_t limit = pnx_load(&cache->capacity, PNX_RELAXED, "cache.hint_put");
    if (cost == SIZE_MAX || cost > limit)
        return -EFBIG;
    struct pnx_cache_insert insert = {.hash = hash, .ttl = put->ttl, .if_absent = put->if_absent};
    insert.entry = pnx__cache_entry_make(pnx__cache_shard_of(cache, hash), put->key, put->key_size,
            put->value, put->value_size, put->flags);
    if (!insert.entry)
        return -ENOMEM;
    int rc = pnx__cache_weigh(cache, &insert);
    if (rc == PNX_CACHE_FORKED)
        return -ESHUTDOWN;
    if (rc == 0)
        rc = pnx__cache_charge(cache, &insert);
    if (rc == 0)
        rc = pnx__cache_insert(cache, &insert);
    if (rc == 0)
        pnx__cache_entry_drop(insert.entry);
    else
        pnx__cache_entry_discard(insert.entry);
    return rc;
}

static int put_fixed(struct pnx_cache *cache, const struct put *put) {
    const struct pnx_cache_shape *shape = &cache->shape;
    if (put->flags & PNX_CACHE_ENTRY_POINTER)
        return -ENOTSUP;
    if (!put->key || !put->value || put->ttl < 0 || put->key_size != shape->key_bytes ||
            put->value_size != shape->value_bytes ||
            (put->ttl > 0 && put->ttl < PNX_CACHE_FIXED_TTL_MIN))
        return -EINVAL;
    int rc = pnx__cache_fixed_put(cache, put->key, put->value, put->ttl, put->if_absent);
    if (rc == -EFBIG || rc == -ENOMEM) {
        /* There was no older value: that would have been replaced in its place. */
        if (!put->if_absent)
            pnx__cache_fixed_overtake(
                    cache, pnx__hash(cache->seed, put->key, put->key_size), put->key);
        pnx__cache_reject(cache, cache->fixed_cost, rc);
    }
    return rc;
}

static int put(struct pnx_cache *cache, const struct put *put) {
    if (bad_put(put))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return put_fixed(cache, put);
    if (put->key_size > UINT32_MAX)
        return -EFBIG;
    uint64_t hash = pnx__hash(cache->seed, put->key, put->key_size);
    rc = put_entry(cache, put, hash);
    if (rc == -EFBIG || rc == -ENOMEM) {
        size_t cost = pnx__cache_entry_cost(put->key_size, put->value_size, put->flags);
        if (!put->if_absent)
            pnx__cache_forget(cache, hash, put->key, put->key_size);
        pnx__cache_reject(cache, cost, rc);
    }
    return rc;
}

int pnx_cache_put(struct pnx_cache *cache, const void *key, size_t key_size, const void *value,
        size_t value_size, pnx_ns ttl) {
    return put(cache, &(const struct put){key, key_size, value, value_size, ttl, 0, false});
}

int pnx_cache_put_if_absent(struct pnx_cache *cache, const void *key, size_t key_size,
        const void *value, size_t value_size, pnx_ns ttl) {
    return put(cache, &(const struct put){key, key_size, value, value_size, ttl, 0, true});
}

int pnx_cache_put_pointer(struct pnx_cache *cache, const void *key, size_t key_size, void *value,
        size_t value_size, pnx_ns ttl) {
    return put(cache, &(const struct put){key, key_size, value, value_size, ttl,
                              PNX_CACHE_ENTRY_POINTER, false});
}

int pnx_cache_put_pointer_if_absent(struct pnx_cache *cache, const void *key, size_t key_size,
        void *value, size_t value_size, pnx_ns ttl) {
    return put(cache, &(const struct put){key, key_size, value, value_size, ttl,
                              PNX_CACHE_ENTRY_POINTER, true});
}

int pnx_cache_remove(struct pnx_cache *cache, const void *key, size_t key_size) {
    if (bad_key(key, key_size))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return key_size == cache->shape.key_bytes ? pnx__cache_fixed_remove(cache, key, key_size)
                                                  : -EINVAL;
    struct pnx_cache_effects fx = {0};
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    pnx__cache_lock(shard);
    if (pnx__cache_is_closed(cache)) {
        rc = -ESHUTDOWN;
    } else {
        struct pnx_cache_entry *entry = pnx__cache_find_locked(shard, hash, key, key_size, &fx);
        if (entry)
            pnx__cache_remove_locked(shard, entry, PNX_CACHE_EXPLICIT, &fx);
        else
            rc = -ENOENT;
        pnx__cache_overtake_locked(shard, hash, key, key_size);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    return rc;
}
