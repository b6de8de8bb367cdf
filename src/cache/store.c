/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/store.c - what happens to entries under the lock, and the effects that are run without it.
 *
 *   P1  One function, pnx__cache_remove_locked(), takes entries out; one, link_locked(), puts them in.
 *   P2  Between two sections of the lock, bytes <= capacity and entries <= capacity_entries.
 *   P3  What takes many removals is done in batches of PNX_CACHE_BATCH, with the lock released between.
 */
#include "cache/internal.h"

int pnx__cache_enter(const struct pnx_cache *cache) {
    if (!cache)
        return -EINVAL;
#ifdef PNX_DEBUG
    if (cache->magic != PNX_CACHE_MAGIC)
        __builtin_trap(); /* released, or never a cache */
#endif
    return cache->fork_generation == pnx__fork_generation() ? 0 : -ESHUTDOWN;
}

/* ---- effects ---- */

size_t pnx__cache_run(struct pnx_cache *cache, struct pnx_cache_effects *fx) {
    size_t freed = 0;
    struct pnx_cache_entry *entry = fx->dead;
    while (entry) {
        struct pnx_cache_entry *next = entry->next;
        /* Out of the cache, it can gain no first pin: alone means alone for good. */
        if (pnx_load(&entry->refs, PNX_RELAXED, "cache.alone") != 1)
            pnx__cache_entry_detach(entry);
        freed += pnx__cache_entry_drop(entry);
        entry = next;
    }
    struct pnx_cache_spare *spare = fx->spare;
    while (spare) {
        struct pnx_cache_spare *next = spare->next;
        pnx__free(&cache->env, spare, spare->bytes, 1);
        spare = next;
    }
    *fx = (struct pnx_cache_effects){0};
    return freed;
}

/* Not on each change: a put should not always take the registry's lock. */
void pnx__cache_update_row(struct pnx_cache *cache) {
    uint64_t now = pnx_load(&cache->values.bytes, PNX_RELAXED, "cache.row_now");
    uint64_t was = pnx_load(&cache->row_bytes, PNX_RELAXED, "cache.row_was"); /* thins updates */
    uint64_t off = now > was ? now - was : was - now;
    if (off < 4096 || off < was / 8)
        return;
    /* Looked at only here: the budget may ask a cache that is being made, which is empty and has no row yet. */
    if (!cache->row)
        return;
    pnx_store(&cache->row_bytes, now, PNX_RELAXED, "cache.row_set"); /* thins updates */
    pnx_registry_set_bytes(cache->registry, cache->row, cache->base_charge + now);
}

/* ---- under the lock ---- */

static void count_removal(struct pnx_cache *cache, enum pnx_cache_cause cause) {
    struct pnx_cache_values *values = &cache->values;
    switch (cause) {
    case PNX_CACHE_EXPLICIT:
        pnx_owner_add(&values->removed_explicit, 1);
        break;
    case PNX_CACHE_REPLACED:
        pnx_owner_add(&values->removed_replaced, 1);
        break;
    case PNX_CACHE_SIZE:
        pnx_owner_add(&values->removed_size, 1);
        break;
    case PNX_CACHE_EXPIRED:
        pnx_owner_add(&values->removed_expired, 1);
        break;
    case PNX_CACHE_CLEAR:
        pnx_owner_add(&values->removed_clear, 1);
        break;
    case PNX_CACHE_CLOSED:
        pnx_owner_add(&values->removed_closed, 1);
        break;
    }
}

static void publish_index_locked(struct pnx_cache *cache) {
    pnx_store(&cache->values.entries, cache->index.live, PNX_RELAXED, "cache.entries");
    pnx_store(&cache->values.index, cache->index.bytes, PNX_RELAXED, "cache.index");
}

void pnx__cache_remove_locked(struct pnx_cache *cache, struct pnx_cache_entry *entry,
        enum pnx_cache_cause cause, struct pnx_cache_effects *fx) {
    pnx__mutex_assert_held(&cache->lock);
    size_t cost = pnx__cache_cost_of(entry);
    pnx__cache_index_remove(&cache->index, entry, &fx->spare);
    pnx_owner_add(&cache->values.bytes, (uint64_t)0 - cost);
    publish_index_locked(cache);
    count_removal(cache, cause);
    entry->cause = (uint8_t)cause;
    entry->next = NULL;
    *(fx->dead ? &fx->last->next : &fx->dead) = entry;
    fx->last = entry;
    fx->count++;
    fx->bytes += cost;
}

struct pnx_cache_entry *pnx__cache_find_locked(struct pnx_cache *cache, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_effects *fx) {
    uint32_t i = pnx__cache_index_find(&cache->index, (uint32_t)hash, key, key_size);
    if (i == PNX_CACHE_NONE)
        return NULL;
    const struct pnx_cache_slot *slot = pnx__cache_slot(&cache->index, i);
    struct pnx_cache_entry *entry = slot->entry;
    if (entry->seq < cache->clear_seq) {
        pnx__cache_remove_locked(cache, entry, PNX_CACHE_CLEAR, fx);
        return NULL;
    }
    /* Read here and not before locking, so that waiting for the lock cannot make an entry outlive its time. */
    if (slot->expires != PNX_NEVER && pnx__now(&cache->env) >= slot->expires) {
        pnx__cache_remove_locked(cache, entry, PNX_CACHE_EXPIRED, fx);
        return NULL;
    }
    return entry;
}

/* Returns the entry that goes first when room is needed, and why. */
static struct pnx_cache_entry *victim_locked(
        struct pnx_cache *cache, enum pnx_cache_cause *ret_cause) {
    const struct pnx_cache_index *ix = &cache->index;
    uint32_t first = pnx__cache_heap_first(ix);
    if (first != PNX_CACHE_NONE && pnx__cache_slot(ix, first)->expires <= pnx__now(&cache->env)) {
        *ret_cause = PNX_CACHE_EXPIRED;
        return pnx__cache_slot(ix, first)->entry;
    }
    uint32_t i = ix->policy->victim(ix, cache->policy_state);
    *ret_cause = PNX_CACHE_SIZE;
    return i == PNX_CACHE_NONE ? NULL : pnx__cache_slot(ix, i)->entry;
}

bool pnx__cache_evict_locked(struct pnx_cache *cache, struct pnx_cache_effects *fx) {
    enum pnx_cache_cause cause;
    struct pnx_cache_entry *entry = victim_locked(cache, &cause);
    if (!entry)
        return false;
    pnx__cache_remove_locked(cache, entry, cause, fx);
    return true;
}

/* Would one more entry of this cost fit, once old (may be NULL) has gone? */
static bool fits_locked(
        const struct pnx_cache *cache, size_t cost, const struct pnx_cache_entry *old) {
    size_t bytes = pnx__cache_bytes_locked(cache) - (old ? pnx__cache_cost_of(old) : 0);
    uint64_t entries = cache->index.live - (old ? 1 : 0);
    return cost <= cache->capacity && bytes <= cache->capacity - cost &&
           entries < cache->capacity_entries;
}

/* Evicts until it fits, at most a batch; true when it fits.  *old is cleared when it was among the victims. */
static bool make_room_locked(struct pnx_cache *cache, size_t cost, struct pnx_cache_entry **old,
        uint32_t batch, struct pnx_cache_effects *fx) {
    while (!fits_locked(cache, cost, *old)) {
        enum pnx_cache_cause cause;
        struct pnx_cache_entry *entry = victim_locked(cache, &cause);
        if (!entry || fx->count >= batch)
            return false;
        if (entry == *old) {
            cause = PNX_CACHE_REPLACED;
            *old = NULL;
        }
        pnx__cache_remove_locked(cache, entry, cause, fx);
    }
    return true;
}

static void link_locked(struct pnx_cache *cache, struct pnx_cache_entry *entry, pnx_ns ttl) {
    if (ttl == 0)
        ttl = cache->ttl;
    pnx_ns expires = ttl == PNX_NEVER ? PNX_NEVER : pnx__deadline(pnx__now(&cache->env), ttl);
    entry->seq = cache->next_seq++;
    pnx_fetch_add(&entry->refs, 1, PNX_RELAXED, "cache.entry_store"); /* the maker holds another */
    pnx__cache_index_insert(&cache->index, entry, entry->hash, expires);
    pnx_owner_add(&cache->values.bytes, pnx__cache_cost_of(entry));
    pnx_owner_add(&cache->values.inserts, 1);
    publish_index_locked(cache);
}

/* ---- inserting ---- */

/* Answers of try_insert_locked() beside errors. */
enum {
    INSERT_AGAIN = 1,   /* more must be evicted first */
    INSERT_SEGMENT = 2, /* the index needs memory first */
};

static int try_insert_locked(struct pnx_cache *cache, const struct pnx_cache_insert *insert,
        uint32_t batch, struct pnx_cache_effects *fx) {
    struct pnx_cache_entry *entry = insert->entry;
    uint64_t hash = insert->hash;
    const void *key = pnx__cache_entry_key(entry);
    size_t cost = pnx__cache_cost_of(entry);
    if (cache->closed)
        return -ESHUTDOWN;
    if (insert->load && pnx__cache_load_overtaken(insert->load))
        return -ESTALE;
    struct pnx_cache_entry *old = pnx__cache_find_locked(cache, hash, key, entry->key_size, fx);
    if (old && insert->if_absent && !(old->flags & PNX_CACHE_ENTRY_NEGATIVE))
        return -EEXIST;
    if (cost > cache->capacity)
        return -EFBIG;
    if (!make_room_locked(cache, cost, &old, batch, fx))
        return INSERT_AGAIN;
    if (!old && pnx__cache_index_full(&cache->index))
        return INSERT_SEGMENT;
    if (old)
        pnx__cache_remove_locked(cache, old, PNX_CACHE_REPLACED, fx);
    if (!insert->load)
        pnx__cache_overtake_locked(cache, hash, key, entry->key_size);
    link_locked(cache, entry, insert->ttl);
    return 0;
}

int pnx__cache_insert(struct pnx_cache *cache, const struct pnx_cache_insert *insert) {
    void *segment = NULL;
    size_t segment_bytes = 0;
    int rc;
    for (uint32_t round = 0;; round++) {
        /* Others may take the room that was made; after some rounds it is made in one go. */
        uint32_t batch = round < PNX_CACHE_BATCH ? PNX_CACHE_BATCH : UINT32_MAX;
        struct pnx_cache_effects fx = {0};
        pnx__mutex_lock(&cache->lock);
        rc = try_insert_locked(cache, insert, batch, &fx);
        size_t wanted = pnx__cache_index_next_bytes(&cache->index);
        if (rc == INSERT_SEGMENT && segment && segment_bytes == wanted) {
            pnx__cache_index_add_segment(&cache->index, segment, segment_bytes);
            segment = NULL;
            segment_bytes = 0;
            rc = try_insert_locked(cache, insert, batch, &fx);
        }
        pnx__mutex_unlock(&cache->lock);
        pnx__cache_run(cache, &fx);
        if (rc <= 0)
            break;
        if (rc == INSERT_SEGMENT && segment_bytes != wanted) {
            pnx__free(&cache->env, segment, segment_bytes, 1);
            segment_bytes = wanted;
            segment = wanted ? pnx__alloc(&cache->env, wanted, 1) : NULL;
            if (!segment) {
                rc = -ENOMEM;
                break;
            }
        }
    }
    pnx__free(&cache->env, segment, segment_bytes, 1);
    pnx__cache_update_row(cache);
    return rc;
}

/* ---- around inserting ---- */

/* Makes the room that the insert will need, a batch at a time; less than that is no error here. */
static void make_room_ahead(struct pnx_cache *cache, const struct pnx_cache_insert *insert) {
    const struct pnx_cache_entry *entry = insert->entry;
    const void *key = pnx__cache_entry_key(entry);
    size_t cost = pnx__cache_cost_of(entry);
    bool again = true;
    for (uint32_t round = 0; again && round < PNX_CACHE_BATCH; round++) {
        struct pnx_cache_effects fx = {0};
        pnx__mutex_lock(&cache->lock);
        struct pnx_cache_entry *old =
                pnx__cache_find_locked(cache, insert->hash, key, entry->key_size, &fx);
        again = !cache->closed && cost <= cache->capacity && !(old && insert->if_absent) &&
                !make_room_locked(cache, cost, &old, PNX_CACHE_BATCH, &fx);
        pnx__mutex_unlock(&cache->lock);
        pnx__cache_run(cache, &fx);
    }
}

int pnx__cache_charge(struct pnx_cache *cache, const struct pnx_cache_insert *insert) {
    size_t cost = pnx__cache_cost_of(insert->entry);
    if (cache->budget == pnx_budget_off())
        return 0;
    /*
     * A full cache evicts before it charges, else each put at a tight budget would shrink others for room that
     * this cache is about to give back.  Only a hint is needed, so the numbers are read without the lock.
     */
    uint64_t bytes = pnx_load(&cache->values.bytes, PNX_RELAXED, "cache.hint_bytes");
    uint64_t entries = pnx_load(&cache->values.entries, PNX_RELAXED, "cache.hint_entries");
    uint64_t limit = pnx_load(&cache->values.capacity, PNX_RELAXED, "cache.hint_capacity");
    uint64_t most = pnx_load(&cache->values.capacity_entries, PNX_RELAXED, "cache.hint_most");
    if ((limit && bytes + cost > limit) || (most && entries >= most))
        make_room_ahead(cache, insert);
    insert->entry->charged = pnx_budget_charge(cache->budget, cost, 0) == 0;
    return insert->entry->charged ? 0 : -ENOMEM; /* also for a size that overflows the account */
}

void pnx__cache_forget(struct pnx_cache *cache, uint64_t hash, const void *key, size_t key_size) {
    struct pnx_cache_effects fx = {0};
    pnx__mutex_lock(&cache->lock);
    if (!cache->closed) {
        struct pnx_cache_entry *old = pnx__cache_find_locked(cache, hash, key, key_size, &fx);
        if (old)
            pnx__cache_remove_locked(cache, old, PNX_CACHE_REPLACED, &fx);
        pnx__cache_overtake_locked(cache, hash, key, key_size);
    }
    pnx__mutex_unlock(&cache->lock);
    pnx__cache_run(cache, &fx);
}

void pnx__cache_reject(struct pnx_cache *cache, size_t cost, int code) {
    pnx__mutex_lock(&cache->lock);
    pnx_owner_add(&cache->values.rejected, 1);
    pnx__mutex_unlock(&cache->lock);
    pnx__event(&cache->block, PNX_EVENT_CACHE_REJECTED, cache->name, code,
            code == -EFBIG ? "larger than the capacity" : "no memory",
            cost > INT64_MAX ? INT64_MAX : (int64_t)cost, pnx__now(&cache->env));
}
