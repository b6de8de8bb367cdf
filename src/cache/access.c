/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/access.c - the calls that touch one entry: get, put, remove.
 *
 *   P1  A hit takes the lock once, allocates nothing and calls nothing of the user's.
 *   P2  A put either stores its value and owns it, or leaves it to the caller.
 */
#include "cache/internal.h"

#include "base/hash.h"

static bool bad_key(const void *key, size_t key_size) {
    return !key && key_size > 0;
}

int pnx__cache_look_locked(struct pnx_cache *cache, uint64_t hash, const void *key, size_t key_size,
        struct pnx_cache_effects *fx, struct pnx_cache_entry **ret_entry) {
    if (cache->closed)
        return -ESHUTDOWN;
    struct pnx_cache_entry *entry = pnx__cache_find_locked(cache, hash, key, key_size, fx);
    if (!entry)
        return -ENOENT;
    cache->index.policy->hit(&cache->index, cache->policy_state, entry->slot);
    if (entry->flags & PNX_CACHE_ENTRY_NEGATIVE) {
        pnx_owner_add(&cache->values.negative_hits, 1);
        return PNX_CACHE_ABSENT;
    }
    pnx_owner_add(&cache->values.hits, 1);
    *ret_entry = entry;
    return 0;
}

/* The same for callers that do not load. */
static int look_only_locked(struct pnx_cache *cache, uint64_t hash, const void *key,
        size_t key_size, struct pnx_cache_effects *fx, struct pnx_cache_entry **ret_entry) {
    int rc = pnx__cache_look_locked(cache, hash, key, key_size, fx, ret_entry);
    if (rc == -ENOENT)
        pnx_owner_add(&cache->values.misses, 1);
    return rc == PNX_CACHE_ABSENT ? -ENOENT : rc;
}

/* For callers that look again by loading: that look counts what this one does not find. */
static int look_ahead_locked(struct pnx_cache *cache, uint64_t hash, const void *key,
        size_t key_size, struct pnx_cache_effects *fx, struct pnx_cache_entry **ret_entry) {
    if (cache->closed)
        return -ESHUTDOWN;
    const struct pnx_cache_entry *entry = pnx__cache_find_locked(cache, hash, key, key_size, fx);
    if (!entry || (entry->flags & PNX_CACHE_ENTRY_NEGATIVE))
        return -ENOENT;
    return pnx__cache_look_locked(cache, hash, key, key_size, fx, ret_entry);
}

typedef int look_fn(struct pnx_cache *cache, uint64_t hash, const void *key, size_t key_size,
        struct pnx_cache_effects *fx, struct pnx_cache_entry **ret_entry);

static int get(struct pnx_cache *cache, const void *key, size_t key_size, look_fn *look_locked,
        struct pnx_cache_ref *ret_ref) {
    if (bad_key(key, key_size) || !ret_ref)
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *entry = NULL;
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    pnx__mutex_lock(&cache->lock);
    rc = look_locked(cache, hash, key, key_size, &fx, &entry);
    if (rc == 0)
        pnx__cache_pin(entry, 1);
    pnx__mutex_unlock(&cache->lock);
    pnx__cache_run(cache, &fx);
    if (rc == 0)
        *ret_ref = (struct pnx_cache_ref){.entry = entry, .source = PNX_CACHE_FOUND};
    return rc;
}

int pnx_cache_get(
        struct pnx_cache *cache, const void *key, size_t key_size, struct pnx_cache_ref *ret_ref) {
    return get(cache, key, key_size, look_only_locked, ret_ref);
}

int pnx_cache_probe(
        struct pnx_cache *cache, const void *key, size_t key_size, struct pnx_cache_ref *ret_ref) {
    return get(cache, key, key_size, look_ahead_locked, ret_ref);
}

/* Up to here copying under the lock is cheaper than pinning. */
#define COPY_LOCKED_MAX 256

static int copy_out(const struct pnx_cache_entry *entry, void *buf, size_t cap, size_t *ret_size) {
    if (entry->flags & PNX_CACHE_ENTRY_POINTER)
        return -ENOTSUP;
    if (ret_size)
        *ret_size = entry->value_size;
    if (entry->value_size > cap)
        return -ERANGE;
    if (entry->value_size > 0)
        memcpy(buf, entry->value, entry->value_size);
    return 0;
}

int pnx_cache_get_copy(struct pnx_cache *cache, const void *key, size_t key_size, void *buf,
        size_t cap, size_t *ret_size) {
    if (bad_key(key, key_size) || (!buf && cap > 0))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *entry = NULL;
    struct pnx_cache_ref ref = {0};
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    pnx__mutex_lock(&cache->lock);
    rc = look_only_locked(cache, hash, key, key_size, &fx, &entry);
    if (rc == 0 && entry->value_size <= COPY_LOCKED_MAX) {
        rc = copy_out(entry, buf, cap, ret_size);
    } else if (rc == 0) {
        pnx__cache_pin(entry, 1);
        ref.entry = entry;
    }
    pnx__mutex_unlock(&cache->lock);
    pnx__cache_run(cache, &fx);
    if (ref.entry)
        rc = copy_out(entry, buf, cap, ret_size);
    pnx_cache_ref_release(&ref);
    return rc;
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
    size_t cost = pnx__cache_entry_cost(
            put->key_size, put->value_size, (put->flags & PNX_CACHE_ENTRY_POINTER) != 0);
    uint64_t limit = pnx_load(&cache->values.capacity, PNX_RELAXED, "cache.hint_put");
    if (cost == SIZE_MAX || (limit && cost > limit))
        return -EFBIG;
    struct pnx_cache_insert insert = {.hash = hash, .ttl = put->ttl, .if_absent = put->if_absent};
    insert.entry = pnx__cache_entry_make(
            cache, put->key, put->key_size, hash, put->value, put->value_size, put->flags);
    if (!insert.entry)
        return -ENOMEM;
    int rc = pnx__cache_charge(cache, &insert);
    if (rc == 0)
        rc = pnx__cache_insert(cache, &insert);
    if (rc == 0)
        pnx__cache_entry_drop(insert.entry);
    else
        pnx__cache_entry_discard(insert.entry);
    return rc;
}

static int put(struct pnx_cache *cache, const struct put *put) {
    if (bad_put(put))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (put->key_size > UINT32_MAX)
        return -EFBIG;
    uint64_t hash = pnx__hash(cache->seed, put->key, put->key_size);
    rc = put_entry(cache, put, hash);
    if (rc == -EFBIG || rc == -ENOMEM) {
        size_t cost = pnx__cache_entry_cost(
                put->key_size, put->value_size, (put->flags & PNX_CACHE_ENTRY_POINTER) != 0);
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
    struct pnx_cache_effects fx = {0};
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    pnx__mutex_lock(&cache->lock);
    if (cache->closed) {
        rc = -ESHUTDOWN;
    } else {
        struct pnx_cache_entry *entry = pnx__cache_find_locked(cache, hash, key, key_size, &fx);
        if (entry)
            pnx__cache_remove_locked(cache, entry, PNX_CACHE_EXPLICIT, &fx);
        else
            rc = -ENOENT;
        pnx__cache_overtake_locked(cache, hash, key, key_size);
    }
    pnx__mutex_unlock(&cache->lock);
    pnx__cache_run(cache, &fx);
    return rc;
}
