/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/store.c - what happens to entries under a shard's lock, and the effects that are run without locks.
 *
 *   P1  One function, pnx__cache_remove_locked(), takes entries out (and its half, take_out()); one, link_locked(), puts
 *       them in.
 *   P2  What an insert evicts it may use for itself: the room is not given back in between, so that nobody takes it, unless
 *       there is nothing left to evict.  While it holds such room it runs nothing of the user's.
 *   P3  What takes many removals is done in batches of PNX_CACHE_BATCH, with the lock released between.
 */
#include "cache/internal.h"

#include "cache/expiry.h"
#include "cache/load.h"
#include "share/reclaim.h"

int pnx__cache_enter(const struct pnx_cache *cache) {
    if (!cache)
        return -EINVAL;
#ifdef PNX_DEBUG
    if (cache->magic != PNX_CACHE_MAGIC)
        __builtin_trap(); /* released, or never a cache */
#endif
    return pnx__fork_is(cache->fork_generation) || cache->fork_generation == pnx__fork_generation()
                   ? 0
                   : -ESHUTDOWN;
}

/* ---- the lock ---- */

void pnx__cache_lock(struct pnx_cache_shard *shard) {
    pnx__mutex_lock(&shard->lock);
}

void pnx__cache_lock_current(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx) {
    if (pnx__cache_is_fixed(shard->cache))
        pnx__cache_fixed_lock(shard, fx);
    else
        pnx__cache_lock(shard);
}

static void publish_wants_locked(struct pnx_cache_shard *shard) {
    if (!shard->policy_state)
        return;
    const struct pnx_cache_policy_wants *wants = pnx_cache_policy_wants_of(shard->policy_state);
    uint64_t word = wants->hit_max & PNX_CACHE_WANTS_HITS;
    if (wants->exact_hits)
        word |= PNX_CACHE_WANTS_EXACT;
    if (wants->access)
        word |= PNX_CACHE_WANTS_ACCESS | (uint64_t)wants->access_mask << 32;
    /* Relaxed, both: only the lock's holder writes it, and lookups take it as it comes. */
    if (word != pnx_load(&shard->wants, PNX_RELAXED, "cache.own_wants"))
        pnx_store(&shard->wants, word, PNX_RELAXED, "cache.set_wants");
}

void pnx__cache_unlock_kept(struct pnx_cache_shard *shard) {
    publish_wants_locked(shard);
    pnx__mutex_unlock(&shard->lock);
}

void pnx__cache_unlock(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx) {
    if (fx->count > 0)
        pnx__cache_give_room(shard->cache, fx);
    pnx__cache_unlock_kept(shard);
}

/* ---- effects ---- */

static void free_table(struct pnx_reclaim_node *node) {
    struct pnx_cache_table *table = PNX_CONTAINER(node, struct pnx_cache_table, node);
    struct pnx_cache_shard *shard = table->shard;
    pnx__cache_table_free(&shard->cache->env, table);
    pnx__cache_settled(shard);
}

static void retire_table(struct pnx_cache_table *table) {
    /* Relaxed: the caller's use of the cache keeps it from ending. */
    pnx_fetch_add(&table->shard->pending, 1, PNX_RELAXED, "cache.table_pending");
    pnx_reclaim_retire(NULL, &table->node, free_table, table->bytes);
}

size_t pnx__cache_run(struct pnx_cache *cache, struct pnx_cache_effects *fx) {
    size_t freed = 0;
    struct pnx_cache_entry *entry = fx->dead;
    bool retired = entry || fx->table;
    while (entry) {
        struct pnx_cache_entry *next = entry->u.in.next;
        /* A reader may have found it and still pin it, which is one more: it counts as detached then, too late or not. */
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
    while (fx->table) {
        struct pnx_cache_table *table = fx->table;
        fx->table = table->next;
        retire_table(table);
    }
    *fx = (struct pnx_cache_effects){0};
    if (retired)
        pnx__reclaim_assist(NULL);
    return freed;
}

/* Not on each change: a put should not always take the registry's lock. */
void pnx__cache_update_row(struct pnx_cache *cache) {
    uint64_t now = pnx_load(&cache->used_bytes, PNX_RELAXED, "cache.row_now");
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

void pnx__cache_count_removal(struct pnx_cache_values *values, enum pnx_cache_cause cause) {
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

/* What an entry that has a slot takes of the capacity; all 0 for NULL. */
static struct pnx_cache_room room_of_locked(
        const struct pnx_cache_shard *shard, const struct pnx_cache_entry *entry) {
    struct pnx_cache_room room = {0};
    if (!entry)
        return room;
    room.bytes = pnx__cache_cost_of(entry);
    room.entries = 1;
    if (shard->cache->weigher)
        room.weight = pnx__cache_record(shard->own_table, entry->u.in.slot)->weight;
    return room;
}

/* Counts an entry out that has no slot any more, and took that room. */
static void take_out(struct pnx_cache_shard *shard, struct pnx_cache_entry *entry,
        const struct pnx_cache_room *room, enum pnx_cache_cause cause,
        struct pnx_cache_effects *fx) {
    size_t cost = room->bytes;
    pnx_owner_add(&shard->bytes, (uint64_t)0 - cost);
    if (shard->cache->weigher)
        pnx_owner_add(&shard->weight, (uint64_t)0 - room->weight);
    pnx_owner_add(&shard->entries, (uint64_t)0 - 1);
    pnx__cache_count_removal(&shard->counters, cause);
    if (cause == PNX_CACHE_SIZE) /* in stores, which cost no look at a clock */
        pnx__histogram_record(&shard->eviction_age,
                (int64_t)((shard->next_seq - entry->u.in.seq) * shard->cache->n_shards));
    entry->cause = (uint8_t)cause;
    entry->u.in.next = NULL;
    if (fx->last)
        fx->last->u.in.next = entry;
    else
        fx->dead = entry;
    fx->last = entry;
    fx->count++;
    fx->bytes += cost;
}

static void remove_slot(struct pnx_cache_shard *shard, struct pnx_cache_entry *entry,
        enum pnx_cache_cause cause, bool told, struct pnx_cache_effects *fx) {
    pnx__mutex_assert_held(&shard->lock);
    struct pnx_cache_room room = room_of_locked(shard, entry);
    pnx__cache_slot_remove_locked(shard, entry->u.in.slot, told);
    take_out(shard, entry, &room, cause, fx);
    fx->room_bytes += room.bytes;
    fx->room_weight += room.weight;
    fx->room_entries++;
}

void pnx__cache_remove_locked(struct pnx_cache_shard *shard, struct pnx_cache_entry *entry,
        enum pnx_cache_cause cause, struct pnx_cache_effects *fx) {
    remove_slot(shard, entry, cause, false, fx);
}

/* Finds the entry of the key, whether it has expired or not; one that was cleared is removed. */
static struct pnx_cache_entry *find_any_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_effects *fx) {
    uint32_t slot;
    struct pnx_cache_entry *entry =
            pnx__cache_table_find(shard->own_table, hash, key, key_size, &slot);
    if (!entry || entry->epoch == pnx__cache_epoch(shard->cache))
        return entry;
    pnx__cache_remove_locked(shard, entry, PNX_CACHE_CLEAR, fx);
    return NULL;
}

struct pnx_cache_entry *pnx__cache_find_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_effects *fx) {
    pnx_ns now;
    struct pnx_cache_entry *entry = find_any_locked(shard, hash, key, key_size, fx);
    /* The clock is read here and not before locking, so that waiting for the lock cannot make an entry outlive its time. */
    if (!entry || !pnx__cache_expired(shard->cache, entry, &now))
        return entry;
    pnx__cache_remove_locked(shard, entry, PNX_CACHE_EXPIRED, fx);
    return NULL;
}

struct pnx_cache_entry *pnx__cache_see_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, pnx_ns *ret_now, struct pnx_cache_effects *fx,
        struct pnx_cache_entry **ret_kept) {
    struct pnx_cache_entry *entry = find_any_locked(shard, hash, key, key_size, fx);
    if (!entry || !pnx__cache_expired(shard->cache, entry, ret_now))
        return entry;
    if (!pnx__cache_is_kept(shard->cache, entry, *ret_now))
        pnx__cache_remove_locked(shard, entry, PNX_CACHE_EXPIRED, fx);
    else if (ret_kept)
        *ret_kept = entry;
    return NULL;
}

#define EXPIRY_STEPS 8 /* of the wheel, for each entry that has to go */

static bool evict_fixed(struct pnx_cache_shard *shard, uint32_t hash, uint64_t weight,
        struct pnx_cache_effects *fx) {
    enum pnx_cache_cause cause = PNX_CACHE_EXPIRED;
    uint32_t slot = PNX_CACHE_NONE, steps = EXPIRY_STEPS;
    if (shard->timed > 0)
        slot = pnx__cache_wheel_due(shard, pnx__cache_tick_now(shard->cache), &steps);
    bool told = slot == PNX_CACHE_NONE;
    if (told) {
        slot = shard->policy->victim(shard->policy_state, hash, weight);
        cause = PNX_CACHE_SIZE;
    }
    if (slot == PNX_CACHE_NO_SLOT)
        return false;
    pnx__cache_fixed_remove_locked(shard, slot, cause, told, fx);
    return true;
}

/* Evicts what goes first in this shard, for an entry with this hash that takes this room; old: cleared when it was that. */
static bool evict_for(struct pnx_cache_shard *shard, uint32_t hash,
        const struct pnx_cache_room *room, struct pnx_cache_entry **old,
        struct pnx_cache_effects *fx) {
    if (shard->live == 0)
        return false;
    /* In the unit of what the policy was told of the capacity. */
    uint64_t weight = shard->cache->kind == PNX_CACHE_CAPACITY_BYTES    ? room->bytes
                      : shard->cache->kind == PNX_CACHE_CAPACITY_WEIGHT ? room->weight
                                                                        : room->entries;
    if (pnx__cache_is_fixed(shard->cache))
        return evict_fixed(shard, hash, weight, fx);
    uint32_t slot = pnx__cache_expired_slot_locked(shard);
    enum pnx_cache_cause cause = PNX_CACHE_EXPIRED;
    bool told = false;
    if (slot == PNX_CACHE_NONE) {
        slot = shard->policy->victim(shard->policy_state, hash, weight);
        cause = PNX_CACHE_SIZE;
        told = true;
    }
    if (slot == PNX_CACHE_NO_SLOT)
        return false;
    struct pnx_cache_entry *entry = pnx__cache_entry_of(shard, slot);
    if (old && *old && entry == *old) {
        cause = PNX_CACHE_REPLACED;
        *old = NULL;
    }
    remove_slot(shard, entry, cause, told, fx);
    return true;
}

bool pnx__cache_evict_locked(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx) {
    static const struct pnx_cache_room none = {0};
    return evict_for(shard, 0, &none, NULL, fx);
}

/* What the shard holds, in the unit of the capacity. */
static uint64_t held_by(const struct pnx_cache *cache, const struct pnx_cache_shard *shard) {
    /* Relaxed: numbers, to choose by. */
    if (cache->kind == PNX_CACHE_CAPACITY_WEIGHT)
        return pnx_load(&shard->weight, PNX_RELAXED, "cache.fullest_weight");
    if (cache->kind == PNX_CACHE_CAPACITY_BYTES)
        return pnx_load(&shard->bytes, PNX_RELAXED, "cache.fullest_bytes");
    return pnx_load(&shard->entries, PNX_RELAXED, "cache.fullest_entries");
}

struct pnx_cache_shard *pnx__cache_fullest(const struct pnx_cache *cache) {
    struct pnx_cache_shard *fullest = cache->shards;
    uint64_t most = 0;
    for (uint32_t i = 0; cache->n_shards > 1 && i < cache->n_shards; i++) {
        struct pnx_cache_shard *shard = &cache->shards[i];
        uint64_t holds = held_by(cache, shard);
        if (holds > most) {
            most = holds;
            fullest = shard;
        }
    }
    return fullest;
}

bool pnx__cache_has_its_share(const struct pnx_cache_shard *shard) {
    const struct pnx_cache *cache = shard->cache;
    if (cache->n_shards == 1)
        return true;
    if (cache->weigher) {
        uint64_t all = pnx_load(&cache->used_weight, PNX_RELAXED, "cache.share_weight") >>
                       cache->shard_bits;
        if (pnx_load(&shard->weight, PNX_RELAXED, "cache.own_weight") > all - all / 8)
            return true;
    }
    uint64_t entries = pnx_load(&shard->entries, PNX_RELAXED, "cache.own_entries");
    uint64_t bytes = pnx_load(&shard->bytes, PNX_RELAXED, "cache.own_bytes");
    uint64_t used =
            pnx_load(&cache->used_bytes, PNX_RELAXED, "cache.share_bytes") >> cache->shard_bits;
    uint64_t held =
            pnx_load(&cache->used_entries, PNX_RELAXED, "cache.share_entries") >> cache->shard_bits;
    return entries > held - held / 8 || bytes > used - used / 8;
}

static void link_locked(struct pnx_cache_shard *shard, struct pnx_cache_entry *old,
        const struct pnx_cache_insert *insert, uint32_t epoch, struct pnx_cache_effects *fx) {
    struct pnx_cache *cache = shard->cache;
    struct pnx_cache_entry *entry = insert->entry;
    size_t cost = pnx__cache_cost_of(entry);
    uint64_t weight = cache->weigher ? insert->weight : cost;
    entry->epoch = epoch;
    entry->u.in.seq = shard->next_seq++;
    pnx__cache_set_times(cache, entry, insert);
    if (insert->expires)
        entry->expires = insert->expires;
    pnx__cache_stamp_locked(shard, entry);
    /* Relaxed: the maker holds another. */
    pnx_fetch_add(&entry->refs, 1, PNX_RELAXED, "cache.entry_store");
    if (old) {
        struct pnx_cache_room went = room_of_locked(shard, old);
        pnx__cache_slot_replace_locked(shard, old, entry, weight);
        take_out(shard, old, &went, PNX_CACHE_REPLACED, fx);
    } else {
        pnx__cache_slot_insert_locked(shard, entry, insert->hash, weight);
    }
    for (uint32_t i = 0; i < insert->hits; i++)
        pnx__cache_slot_hit_locked(shard, entry->u.in.slot);
    pnx_owner_add(&shard->bytes, cost);
    if (cache->weigher)
        pnx_owner_add(&shard->weight, weight);
    pnx_owner_add(&shard->entries, 1);
    pnx_owner_add(&shard->counters.inserts, 1);
}

/* ---- inserting ---- */

/* Answers of try_insert_locked() beside errors. */
enum {
    INSERT_AGAIN = 1, /* more must be evicted first */
    INSERT_ELSEWHERE, /* in another shard */
    INSERT_FRESH,     /* the shard needs memory first */
};

/* Where there is room: takes it, if the shard has a slot for what comes.  AGAIN when something has changed. */
static int take_room_locked(struct pnx_cache_shard *shard, const struct pnx_cache_insert *insert,
        const struct pnx_cache_room *room, struct pnx_cache_entry **old,
        struct pnx_cache_fresh *fresh, struct pnx_cache_effects *fx) {
    if (!*old && !pnx__cache_slot_ready_locked(shard, fresh, fx)) {
        if (fresh->room || fresh->page)
            return INSERT_FRESH;
        /* The shard has all the slots that it can have. */
        return evict_for(shard, pnx__cache_hash_high(insert->hash), room, old, fx) ? INSERT_AGAIN
                                                                                   : -ENOMEM;
    }
    struct pnx_cache_room went = room_of_locked(shard, *old);
    return pnx__cache_take_room(shard->cache, room, &went, fx) ? 0 : INSERT_AGAIN;
}

/* Whether there is room for one entry more; old: in the place of that. */
static bool has_room_for(const struct pnx_cache_shard *shard, const struct pnx_cache_room *room,
        const struct pnx_cache_entry *old, const struct pnx_cache_effects *fx) {
    struct pnx_cache_room went = room_of_locked(shard, old);
    const struct pnx_cache_room more = {
            .bytes = room->bytes > went.bytes ? room->bytes - went.bytes : 0,
            .weight = room->weight > went.weight ? room->weight - went.weight : 0,
            .entries = 1 - went.entries,
    };
    return pnx__cache_has_room(shard->cache, fx, &more);
}

int pnx__cache_make_room_locked(struct pnx_cache_shard *shard,
        const struct pnx_cache_insert *insert, size_t cost, struct pnx_cache_entry **old,
        uint32_t batch, struct pnx_cache_fresh *fresh, struct pnx_cache_effects *fx) {
    struct pnx_cache *cache = shard->cache;
    const struct pnx_cache_room room = {.bytes = cost, .weight = insert->weight, .entries = 1};
    if (cost > pnx__cache_limit_bytes(cache) || insert->weight > pnx__cache_limit_weight(cache))
        return -EFBIG;
    for (uint32_t evicted = 0;;) {
        if (has_room_for(shard, &room, *old, fx)) {
            int rc = take_room_locked(shard, insert, &room, old, fresh, fx);
            if (rc != INSERT_AGAIN)
                return rc;
            continue;
        }
        if (evicted++ >= batch)
            return INSERT_AGAIN;
        if (!pnx__cache_has_its_share(shard) ||
                !evict_for(shard, pnx__cache_hash_high(insert->hash), &room, old, fx))
            return INSERT_ELSEWHERE;
    }
}

/* Whether a load of the entry's key is under way that will store what it makes. */
static bool is_loading_locked(
        struct pnx_cache_shard *shard, const struct pnx_cache_insert *insert) {
    const struct pnx_cache_load *load = pnx__cache_load_find_locked(shard, insert->hash,
            pnx__cache_entry_key(insert->entry), insert->entry->key_size, false);
    return load && !pnx__cache_load_overtaken(load);
}

static int try_insert_locked(struct pnx_cache_shard *shard, const struct pnx_cache_insert *insert,
        uint32_t batch, struct pnx_cache_fresh *fresh, struct pnx_cache_effects *fx) {
    struct pnx_cache *cache = shard->cache;
    struct pnx_cache_entry *entry = insert->entry;
    const void *key = pnx__cache_entry_key(entry);
    size_t cost = pnx__cache_cost_of(entry);
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    uint32_t epoch = pnx__cache_epoch(cache);
    if (insert->load && pnx__cache_load_overtaken(insert->load))
        return -ESTALE;
    struct pnx_cache_entry *old =
            pnx__cache_find_locked(shard, insert->hash, key, entry->key_size, fx);
    if (old && insert->if_absent && !(old->flags & PNX_CACHE_ENTRY_NEGATIVE))
        return -EEXIST;
    if (insert->restored && is_loading_locked(shard, insert))
        return -EEXIST;
    if (insert->compare && old != insert->expected)
        return PNX_E_CONFLICT;
    /* A clear waits for no lock.  It comes before all that was decided here, or takes away what is stored: then the entry is
     * of an epoch that is over, and the clear, which has yet to come through this shard, removes it. */
    if (epoch != pnx__cache_epoch(cache))
        return INSERT_AGAIN;
    int rc = pnx__cache_make_room_locked(shard, insert, cost, &old, batch, fresh, fx);
    if (rc)
        return rc;
    if (!insert->load)
        pnx__cache_overtake_locked(shard, insert->hash, key, entry->key_size);
    link_locked(shard, old, insert, epoch, fx);
    return 0;
}

/*
 * Makes room in the shard that holds most; the room stays ours.  When nothing is left to evict, others hold room like us:
 * it is given back, or two that each need more than the other leaves would wait for each other.
 */
static void evict_elsewhere(struct pnx_cache *cache, const struct pnx_cache_room *room,
        uint32_t batch, struct pnx_cache_effects *fx) {
    struct pnx_cache_shard *shard = pnx__cache_fullest(cache);
    bool found = true;
    pnx__cache_lock_current(shard, fx);
    for (uint32_t n = 0; found && n < batch && !pnx__cache_has_room(cache, fx, room); n++)
        found = pnx__cache_evict_locked(shard, fx);
    if (found)
        pnx__cache_unlock_kept(shard);
    else
        pnx__cache_unlock(shard, fx);
    if (!found)
        pnx__spin_hint();
}

int pnx__cache_insert(struct pnx_cache *cache, const struct pnx_cache_insert *insert) {
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, insert->hash);
    struct pnx_cache_fresh fresh = {.no_reclaim = insert->no_reclaim};
    struct pnx_cache_effects fx = {0};
    bool fixed = pnx__cache_is_fixed(cache);
    const struct pnx_cache_room room = {
            .bytes = fixed ? cache->fixed_cost : pnx__cache_cost_of(insert->entry),
            .weight = insert->weight,
            .entries = 1,
    };
    int rc;
    do {
        pnx__cache_lock_current(shard, &fx);
        rc = (fixed ? pnx__cache_fixed_try_insert_locked : try_insert_locked)(
                shard, insert, PNX_CACHE_BATCH, &fresh, &fx);
        if (rc == INSERT_AGAIN || rc == INSERT_ELSEWHERE) {
            pnx__cache_unlock_kept(shard); /* and keeps the room that was made */
            if (rc == INSERT_ELSEWHERE)
                evict_elsewhere(cache, &room, PNX_CACHE_BATCH, &fx);
            continue;
        }
        pnx__cache_unlock(shard, &fx);
        pnx__cache_run(cache, &fx);
        if (rc == INSERT_FRESH) {
            int made = pnx__cache_fresh_make(shard, &fresh);
            rc = made ? made : rc;
        }
    } while (rc > 0);
    pnx__cache_fresh_drop(cache, &fresh);
    pnx__cache_update_row(cache);
    return rc;
}

/* ---- around inserting ---- */

/* Makes the room that the insert will need, a batch at a time; less than that is no error here. */
static void make_room_ahead(struct pnx_cache *cache, const struct pnx_cache_insert *insert) {
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, insert->hash);
    const struct pnx_cache_entry *entry = insert->entry;
    const void *key = pnx__cache_entry_key(entry);
    const struct pnx_cache_room room = {
            .bytes = pnx__cache_cost_of(entry), .weight = insert->weight, .entries = 1};
    bool again = true;
    for (uint32_t round = 0; again && round < PNX_CACHE_BATCH; round++) {
        struct pnx_cache_effects fx = {0};
        pnx__cache_lock(shard);
        struct pnx_cache_entry *old =
                pnx__cache_find_locked(shard, insert->hash, key, entry->key_size, &fx);
        again = !pnx__cache_is_closed(cache) && room.bytes <= pnx__cache_limit_bytes(cache) &&
                room.weight <= pnx__cache_limit_weight(cache) && !(old && insert->if_absent);
        for (uint32_t n = 0; again && n < PNX_CACHE_BATCH; n++) {
            again = !has_room_for(shard, &room, old, &fx);
            if (again && !evict_for(shard, pnx__cache_hash_high(insert->hash), &room, &old, &fx))
                break;
        }
        again = again && fx.count > 0;
        pnx__cache_unlock(shard, &fx);
        pnx__cache_run(cache, &fx);
    }
}

int pnx__cache_charge(struct pnx_cache *cache, const struct pnx_cache_insert *insert) {
    size_t cost = pnx__cache_cost_of(insert->entry);
    if (cache->budget == pnx_budget_off())
        return 0;
    /*
     * A full cache evicts before it charges, else each put at a tight budget would shrink others for room that
     * this cache is about to give back.  A compute does not: it might evict what it has seen.
     */
    const struct pnx_cache_room room = {.bytes = cost, .weight = insert->weight, .entries = 1};
    if (!insert->compare && !pnx__cache_has_room(cache, NULL, &room))
        make_room_ahead(cache, insert);
    uint32_t flags = insert->no_reclaim ? PNX_CHARGE_NO_RECLAIM : 0;
    insert->entry->charged = pnx_budget_charge(cache->budget, cost, flags) == 0;
    return insert->entry->charged ? 0 : -ENOMEM; /* also for a size that overflows the account */
}

void pnx__cache_forget(struct pnx_cache *cache, uint64_t hash, const void *key, size_t key_size) {
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    struct pnx_cache_effects fx = {0};
    pnx__cache_lock(shard);
    if (!pnx__cache_is_closed(cache)) {
        struct pnx_cache_entry *old = pnx__cache_find_locked(shard, hash, key, key_size, &fx);
        if (old)
            pnx__cache_remove_locked(shard, old, PNX_CACHE_REPLACED, &fx);
        pnx__cache_overtake_locked(shard, hash, key, key_size);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
}

void pnx__cache_reject(struct pnx_cache *cache, size_t cost, int code) {
    pnx_fetch_add(&cache->rejected, 1, PNX_RELAXED, "cache.reject"); /* a number */
    pnx__event(&cache->block, PNX_EVENT_CACHE_REJECTED, cache->name, code,
            code != -EFBIG ? "no memory"
            : cache->weigher != NULL && cost <= pnx__cache_limit_bytes(cache)
                    ? "heavier than the capacity"
                    : "larger than the capacity",
            cost > INT64_MAX ? INT64_MAX : (int64_t)cost, pnx__now(&cache->env));
}
