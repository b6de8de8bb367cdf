/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/compute.c - changes that depend on what is stored: compute, retain.
 *
 *     look, pin --> fn, without a lock --> lock: is it still what fn saw? --yes--> keep, remove, replace
 *          ^                                                |no
 *          +------------------------------------------------+
 *
 * Optimistic, and not by a claim on the key as loads have it: nobody ever waits, so that a slow function delays no other
 * thread and there is no circle to be found; and plain puts, which do not wait, would overtake a claim all the same.  Of
 * those that meet, one always succeeds.  What it costs is that functions are called again.
 *
 *   P1  What fn saw is pinned until the decision is carried out: no other entry can have its address, so that the same
 *       address is the same value.  Where nothing was stored, nothing is again, whatever was between.
 *   P2  A result that is not stored is destroyed, once.
 *   P3  fn runs with no lock held.
 */
#include "cache/change.h"

#include "base/hash.h"
#include "cache/load.h"
#include "share/reclaim.h"

#define AGAIN PNX_CACHE_CHANGE_AGAIN

/* ---- what fn calls ---- */

static void drop_result(struct pnx_cache_change *change) {
    if (!change->result)
        return;
    change->result->cause = PNX_CACHE_EXPLICIT;
    pnx__cache_entry_drop(change->result);
    change->result = NULL;
}

static int set_result(
        struct pnx_cache_change *change, const void *value, size_t value_size, uint8_t flags) {
    if (change->copies)
        return pnx__cache_fixed_change_set(change, value, value_size);
    struct pnx_cache_entry *entry = pnx__cache_entry_make(
            change->shard, change->key, change->key_size, value, value_size, flags);
    if (!entry)
        return -ENOMEM;
    drop_result(change);
    change->result = entry;
    change->decision = PNX_CACHE_REPLACE;
    return 0;
}

int pnx_cache_change_set(struct pnx_cache_change *change, const void *value, size_t value_size) {
    if (!change || (!value && value_size > 0))
        return -EINVAL;
    return set_result(change, value, value_size, 0);
}

int pnx_cache_change_reserve(struct pnx_cache_change *change, size_t value_size, void **ret_data) {
    if (!change || !ret_data)
        return -EINVAL;
    int rc = set_result(change, NULL, value_size, 0);
    if (rc == 0)
        *ret_data = change->copies ? (void *)change->copies->result : change->result + 1;
    return rc;
}

int pnx_cache_change_set_pointer(struct pnx_cache_change *change, void *value, size_t value_size) {
    if (!change || !value)
        return -EINVAL;
    if (change->copies)
        return -ENOTSUP;
    return set_result(change, value, value_size, PNX_CACHE_ENTRY_POINTER);
}

int pnx_cache_change_remove(struct pnx_cache_change *change) {
    if (!change)
        return -EINVAL;
    drop_result(change);
    change->decision = PNX_CACHE_REMOVE;
    return 0;
}

int pnx_cache_change_ttl(struct pnx_cache_change *change, pnx_ns ttl) {
    if (!change || ttl < 0 || (change->copies && ttl > 0 && ttl < PNX_CACHE_FIXED_TTL_MIN))
        return -EINVAL;
    change->ttl = ttl;
    change->keep_ttl = false;
    return 0;
}

int pnx_cache_change_keep_ttl(struct pnx_cache_change *change) {
    if (!change)
        return -EINVAL;
    change->keep_ttl = true;
    return 0;
}

/* ---- one round ---- */

static void let_go(struct pnx_cache_change *change) {
    struct pnx_cache_ref ref = {.entry = change->seen};
    change->seen = NULL;
    pnx_cache_ref_release(&ref);
}

static int look_entry(struct pnx_cache_change *change, bool first) {
    struct pnx_cache *cache = change->cache;
    struct pnx_cache_shard *shard = change->shard;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *entry = NULL;
    pnx_ns now = 0;
    int rc = 0;
    pnx__cache_lock(shard);
    if (pnx__cache_is_closed(cache))
        rc = -ESHUTDOWN;
    else if (first) /* the use; an absence's entry is wanted, too */
        (void)pnx__cache_look_locked(
                shard, change->hash, change->key, change->key_size, &now, &fx, &entry, NULL);
    if (rc == 0) {
        entry = pnx__cache_see_locked(
                shard, change->hash, change->key, change->key_size, &now, &fx, NULL);
        if (entry)
            pnx__cache_pin(entry, 1);
        pnx_owner_add(first ? &shard->counters.computes : &shard->counters.compute_retries, 1);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    if (rc)
        return rc;
    change->seen = entry;
    change->negative = entry && (entry->flags & PNX_CACHE_ENTRY_NEGATIVE);
    return 0;
}

static int look(struct pnx_cache_change *change, bool first) {
    struct pnx_cache *cache = change->cache;
    int rc = change->copies ? pnx__cache_fixed_change_look(change, first)
                            : look_entry(change, first);
    if (rc)
        return rc;
    if (first)
        pnx__cache_curve_note(cache, change->hash);
    change->decision = PNX_CACHE_KEEP;
    change->ttl = 0;
    change->keep_ttl = false;
    if (first && change->negative)
        PNX_CACHE_COUNT(cache, negative_hits, 1);
    else if (first && (change->copies ? change->copies->there : change->seen != NULL))
        PNX_CACHE_COUNT(cache, hits, 1);
    else if (first)
        PNX_CACHE_COUNT(cache, misses, 1);
    return 0;
}

/* Calls the function that wants bytes. */
static int call_copy_fn(struct pnx_cache_change *change) {
    const struct pnx_cache_entry *seen = change->negative ? NULL : change->seen;
    if (change->copies && change->copies->there)
        return change->copy_fn(
                change->ctx, change->copies->now, change->cache->shape.value_bytes, change);
    if (seen && (seen->flags & PNX_CACHE_ENTRY_POINTER))
        return -ENOTSUP;
    return change->copy_fn(
            change->ctx, seen ? seen + 1 : NULL, seen ? seen->value_size : 0, change);
}

static int call_fn(struct pnx_cache_change *change) {
    struct pnx_thread *self = pnx__self();
    struct pnx_cache_ref now = {0};
    PNX_CACHE_CALLING(returned);
    if (change->seen && !change->negative)
        now = (struct pnx_cache_ref){.entry = change->seen,
                .source = pnx__cache_soft_look(change->cache, change->seen, NULL)};
    pnx__mutex_assert_none_held();
    if (self)
        self->cache_changes = change;
    int rc = change->fn ? change->fn(change->ctx, &now, change) : call_copy_fn(change);
    if (self)
        self->cache_changes = change->outer;
    returned = true;
    pnx__mutex_assert_none_held();
    if (pnx__cache_enter(change->cache) != 0)
        return PNX_CACHE_FORKED;
    if (rc > 0)
        rc = -EINVAL;
    if (rc)
        drop_result(change);
    return rc;
}

/* Takes away what fn saw, for the given cause.  0, AGAIN, -ESHUTDOWN. */
static int remove_seen(struct pnx_cache_change *change, enum pnx_cache_cause cause) {
    struct pnx_cache_shard *shard = change->shard;
    struct pnx_cache_effects fx = {0};
    int rc = AGAIN;
    pnx__cache_lock(shard);
    if (pnx__cache_is_closed(change->cache)) {
        rc = -ESHUTDOWN;
    } else if (pnx__cache_find_locked(shard, change->hash, change->key, change->key_size, &fx) ==
               change->seen) {
        if (change->seen)
            pnx__cache_remove_locked(shard, change->seen, cause, &fx);
        pnx__cache_overtake_locked(shard, change->hash, change->key, change->key_size);
        rc = 0;
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(change->cache, &fx);
    return rc;
}

/* The weigher is a part of the function, as far as others can tell: it may not compute the same key. */
static int weigh(struct pnx_cache_change *change, struct pnx_cache_insert *insert) {
    struct pnx_thread *self = pnx__self();
    if (self)
        self->cache_changes = change;
    int rc = pnx__cache_weigh(change->cache, insert);
    if (self)
        self->cache_changes = change->outer;
    return rc;
}

/* Puts the result in the place of what fn saw.  0, AGAIN, FORKED, or an error; the result is gone then. */
static int replace(struct pnx_cache_change *change) {
    struct pnx_cache *cache = change->cache;
    struct pnx_cache_insert insert = {
            .entry = change->result,
            .hash = change->hash,
            .ttl = change->ttl,
            .compare = true,
            .expected = change->seen,
    };
    if (change->keep_ttl && change->seen && !change->negative)
        insert.expires = change->seen->expires;
    size_t cost = pnx__cache_cost_of(change->result);
    int rc = weigh(change, &insert);
    if (rc == 0)
        rc = pnx__cache_charge(cache, &insert);
    if (rc == 0)
        rc = pnx__cache_insert(cache, &insert);
    if (rc == 0 || rc == PNX_CACHE_FORKED)
        return rc;
    drop_result(change);
    if (rc == -EFBIG || rc == -ENOMEM) {
        int removed = remove_seen(change, PNX_CACHE_REPLACED); /* P9 of the header */
        if (removed)
            return removed;
        pnx__cache_reject(cache, cost, rc);
    }
    return rc == PNX_E_CONFLICT ? AGAIN : rc;
}

/* Carries the decision out; *ret_ref: what is stored then, pinned. */
static int carry_out(struct pnx_cache_change *change, struct pnx_cache_ref *ret_ref) {
    int rc = 0;
    if (change->copies)
        return pnx__cache_fixed_change_carry_out(change);
    if (change->decision == PNX_CACHE_REMOVE)
        rc = remove_seen(change, PNX_CACHE_EXPLICIT);
    else if (change->decision == PNX_CACHE_REPLACE)
        rc = replace(change);
    if (rc == 0 && change->decision == PNX_CACHE_REPLACE) {
        /* The maker's reference becomes the caller's pin. */
        pnx__cache_count_pins(change->cache, 1);
        *ret_ref = (struct pnx_cache_ref){.entry = change->result, .source = PNX_CACHE_FOUND};
        change->result = NULL;
    } else if (rc == 0 && change->decision == PNX_CACHE_KEEP && change->seen && !change->negative) {
        *ret_ref = (struct pnx_cache_ref){
                .entry = change->seen, .source = pnx__cache_source(change->cache, change->seen)};
        change->seen = NULL;
    }
    return rc;
}

/* ---- compute ---- */

static int compute(struct pnx_cache_change *change, struct pnx_cache_ref *ret_ref) {
    int rc = AGAIN;
    for (uint32_t tries = 0; rc == AGAIN && tries < PNX_CACHE_COMPUTE_TRIES; tries++) {
        rc = look(change, tries == 0);
        if (rc)
            return rc;
        rc = call_fn(change);
        if (rc == PNX_CACHE_FORKED)
            return -ESHUTDOWN; /* all of this is only a copy of the parent's */
        if (rc == 0)
            rc = carry_out(change, ret_ref);
        let_go(change);
    }
    return rc == AGAIN ? -EAGAIN : rc;
}

static bool is_under_way(const struct pnx_cache_change *change) {
    for (const struct pnx_cache_change *outer = change->outer; outer; outer = outer->outer) {
        if (outer->cache == change->cache && outer->hash == change->hash &&
                outer->key_size == change->key_size &&
                (change->key_size == 0 || memcmp(outer->key, change->key, change->key_size) == 0))
            return true;
    }
    return false;
}

/* Fills in the rest of a change whose function is there, and computes. */
static int run(struct pnx_cache_change *change, struct pnx_cache_ref *ret_ref) {
    const struct pnx_thread *self = pnx__self();
    if (change->key_size > UINT32_MAX)
        return -EFBIG;
    change->hash = pnx__hash(change->cache->seed, change->key, change->key_size);
    change->shard = pnx__cache_shard_of(change->cache, change->hash);
    change->outer = self ? self->cache_changes : NULL;
    if (is_under_way(change))
        return -EDEADLK;
    int rc = compute(change, ret_ref);
    return pnx__cache_enter(change->cache) != 0 ? -ESHUTDOWN : rc;
}

int pnx_cache_compute(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_compute_fn *fn, void *ctx, struct pnx_cache_ref *ret_ref) {
    if ((!key && key_size > 0) || !fn)
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    struct pnx_cache_change change = {
            .cache = cache, .key = key, .key_size = key_size, .fn = fn, .ctx = ctx};
    struct pnx_cache_ref ref = {0};
    rc = run(&change, &ref);
    if (rc == 0 && ret_ref)
        *ret_ref = ref;
    else
        pnx_cache_ref_release(&ref);
    return rc;
}

/* Copies what is stored out, n bytes; value NULL: nothing is. */
static int give(const void *value, size_t n, void *buf, size_t cap, size_t *ret_size) {
    if (ret_size)
        *ret_size = value ? n : PNX_CACHE_NOTHING;
    if (!value || !buf)
        return 0;
    if (n > cap)
        return -ERANGE;
    if (n > 0)
        memcpy(buf, value, n);
    return 0;
}

static int compute_fixed(struct pnx_cache_change *change, void *buf, size_t cap, size_t *ret_size) {
    struct pnx_cache_change_copies copies;
    struct pnx_cache_ref none = {0}; /* nothing is pinned where sizes are fixed */
    size_t n = change->cache->shape.value_bytes;
    if (!change->key || change->key_size != change->cache->shape.key_bytes)
        return -EINVAL;
    if (buf && cap < n) {
        if (ret_size)
            *ret_size = n;
        return -ERANGE;
    }
    change->copies = &copies;
    int rc = run(change, &none);
    change->copies = NULL;
    if (rc)
        return rc;
    const void *stored = change->decision == PNX_CACHE_REPLACE                ? copies.result
                         : change->decision == PNX_CACHE_KEEP && copies.there ? copies.now
                                                                              : NULL;
    return give(stored, n, buf, cap, ret_size);
}

int pnx_cache_compute_copy(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_compute_copy_fn *fn, void *ctx, void *buf, size_t cap, size_t *ret_size) {
    if ((!key && key_size > 0) || !fn || (!buf && cap > 0))
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    struct pnx_cache_change change = {
            .cache = cache, .key = key, .key_size = key_size, .copy_fn = fn, .ctx = ctx};
    if (pnx__cache_is_fixed(cache))
        return compute_fixed(&change, buf, cap, ret_size);
    struct pnx_cache_ref ref = {0};
    rc = run(&change, &ref);
    if (rc == 0 && ref.entry && (ref.entry->flags & PNX_CACHE_ENTRY_POINTER))
        rc = -ENOTSUP;
    else if (rc == 0)
        rc = give(ref.entry ? ref.entry + 1 : NULL, pnx_cache_ref_size(&ref), buf, cap, ret_size);
    pnx_cache_ref_release(&ref);
    return rc;
}

/* ---- retain ---- */

struct retain {
    pnx_cache_keep_fn *keep;
    void *ctx;
    int64_t removed;
};

/* The entry is pinned by the walk. */
static int keep_or_remove(void *arg, const struct pnx_cache_ref *ref) {
    struct retain *retain = arg;
    if (retain->keep(retain->ctx, ref))
        return 0;
    struct pnx_cache_entry *entry = ref->entry;
    struct pnx_cache_shard *shard = entry->shard;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *kept = NULL;
    const void *key = pnx__cache_entry_key(entry);
    uint64_t hash = pnx__hash(shard->cache->seed, key, entry->key_size);
    pnx_ns now = 0;
    pnx__cache_lock(shard);
    /* One that has expired since, or had before, and is kept for errors, would yet be returned instead of one. */
    if (!pnx__cache_is_closed(shard->cache) &&
            (pnx__cache_see_locked(shard, hash, key, entry->key_size, &now, &fx, &kept) == entry ||
                    kept == entry)) {
        pnx__cache_remove_locked(shard, entry, PNX_CACHE_EXPLICIT, &fx);
        pnx__cache_overtake_locked(shard, hash, key, entry->key_size);
        retain->removed++;
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(shard->cache, &fx);
    return 0;
}

int64_t pnx_cache_retain(struct pnx_cache *cache, pnx_cache_keep_fn *keep, void *ctx) {
    struct retain retain = {.keep = keep, .ctx = ctx};
    if (cache && !keep)
        return -EINVAL;
    int rc = pnx__cache_walk(cache, true, keep_or_remove, &retain);
    if (rc)
        return rc;
    pnx__cache_update_row(cache);
    return retain.removed;
}
