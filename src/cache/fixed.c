/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/fixed.c - caches of fixed sizes: storing and removing what stands in the records themselves.
 *
 * cache/fixed.h says why readers need no lock.  Capacity, effects and eviction are those of room.c and store.c.
 *
 *   P1  A put allocates nothing but tables, without the lock; a table is charged to the budget whole.
 *   P2  What was stored before a clear goes all at once: the table is retired, whatever it holds.
 */
#include "cache/internal.h"

#include "base/hash_inline.h"

/* ---- what policies are told ---- */

uint64_t pnx__cache_fixed_hash(
        const struct pnx_cache *cache, const struct pnx_cache_fixed *record) {
    return cache->shape.key_bytes == 8
                   ? pnx__hash_inline(cache->seed, record->word, 8)
                   : pnx__hash(cache->seed, record->word, cache->shape.key_bytes);
}

static uint32_t hash_of(const struct pnx_cache_slots *slots, uint32_t slot) {
    const struct pnx_cache_shard *shard = slots->ctx;
    return pnx__cache_fixed_high(shard->cache, pnx__cache_fixed_at(shard->own_table, slot));
}

static pnx_ns expires_of(const struct pnx_cache_slots *slots, uint32_t slot) {
    const struct pnx_cache_shard *shard = slots->ctx;
    return pnx__cache_fixed_expires(shard->cache, pnx__cache_fixed_at(shard->own_table, slot));
}

void pnx__cache_fixed_init(struct pnx_cache_shard *shard, struct pnx_cache_wheel *wheel) {
    const struct pnx_cache_shape *shape = &shard->cache->shape;
    shard->wheel = wheel;
    wheel->tick = PNX_CACHE_TICK_FIRST;
    shard->view = (struct pnx_cache_slots){
            .shift = 31, /* one page */
            .stride = shape->stride,
            .hits = offsetof(struct pnx_cache_fixed, hits),
            .hash = PNX_CACHE_NO_FIELD,
            .weight = PNX_CACHE_NO_FIELD,
            .expires = PNX_CACHE_NO_FIELD,
            .hash_of = hash_of,
            .expires_of = expires_of,
            .ctx = shard,
    };
}

/* The tick of a moment: the first before there were any, the last but one when there are no more. */
static inline uint32_t tick_at(const struct pnx_cache *cache, pnx_ns at) {
    if (at <= cache->time_base)
        return 0;
    uint64_t tick = ((uint64_t)at - (uint64_t)cache->time_base) >> PNX_CACHE_TICK_SHIFT;
    return tick < PNX_CACHE_TICK_NEVER ? (uint32_t)tick : PNX_CACHE_TICK_NEVER - 1;
}

uint32_t pnx__cache_tick_now(const struct pnx_cache *cache) {
    return tick_at(cache, pnx__now(&cache->env));
}

/* The first tick at which what is stored now is gone. */
static uint32_t tick_after(const struct pnx_cache *cache, const struct pnx_cache_insert *insert) {
    pnx_ns at = insert->expires;
    if (at == PNX_NEVER || (at == 0 && insert->ttl == PNX_NEVER))
        return PNX_CACHE_TICK_NEVER;
    return tick_at(cache, at ? at : pnx__deadline(pnx__now(&cache->env), insert->ttl));
}

pnx_ns pnx__cache_fixed_expires(
        const struct pnx_cache *cache, const struct pnx_cache_fixed *record) {
    /* Relaxed: the lock is held. */
    uint32_t tick = pnx_load(&record->expires, PNX_RELAXED, "cache_fixed.told_expires");
    return tick == PNX_CACHE_TICK_NEVER ? PNX_NEVER
                                        : cache->time_base + ((pnx_ns)tick << PNX_CACHE_TICK_SHIFT);
}

/* ---- under the lock ---- */

/* Lets go of all that the shard holds, for the given cause. */
static void retire_all(
        struct pnx_cache_shard *shard, struct pnx_a64 *removed_for, struct pnx_cache_effects *fx) {
    uint32_t live = shard->live;
    pnx__cache_shard_empty_locked(shard, fx);
    pnx__cache_wheel_reset(shard);
    shard->live = 0;
    /* Relaxed: numbers. */
    pnx_store(&shard->bytes, 0, PNX_RELAXED, "cache_fixed.no_bytes");
    pnx_store(&shard->entries, 0, PNX_RELAXED, "cache_fixed.no_entries");
    pnx_owner_add(removed_for, live);
    fx->count += live;
    fx->room_entries += live;
    fx->room_bytes += live * shard->cache->fixed_cost;
}

void pnx__cache_fixed_lock(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx) {
    struct pnx_cache_values *counters = &shard->counters;
    pnx__cache_lock(shard);
    uint32_t epoch = pnx__cache_epoch(shard->cache);
    if (shard->epoch == epoch)
        return;
    if (shard->own_table != &pnx__cache_no_table)
        retire_all(shard,
                pnx__cache_is_closed(shard->cache) ? &counters->removed_closed
                                                   : &counters->removed_clear,
                fx);
    shard->epoch = epoch;
}

/* The record of the key, or NULL; one that has expired is removed. */
static struct pnx_cache_fixed *find_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_effects *fx, uint32_t *ret_slot) {
    struct pnx_cache_found_fixed found;
    const struct pnx_cache_table *table = shard->own_table;
    bool there = key_size == 8 ? pnx__cache_fixed_search(
                                         table, hash, key, 8, table->shape.stride, true, &found)
                               : pnx__cache_fixed_search(table, hash, key, key_size,
                                         table->shape.stride, true, &found);
    if (!there)
        return NULL;
    /* Relaxed: the lock is held. */
    uint32_t expires = pnx_load(&found.record->expires, PNX_RELAXED, "cache_fixed.own_expires");
    if (expires != PNX_CACHE_TICK_NEVER && pnx__cache_tick_now(shard->cache) >= expires) {
        pnx__cache_fixed_remove_locked(shard, found.slot, PNX_CACHE_EXPIRED, false, fx);
        return NULL;
    }
    *ret_slot = found.slot;
    return found.record;
}

/* Takes the slot out of the index, and what readers may find in it. */
static void take_out(struct pnx_cache_shard *shard, uint32_t slot, bool told) {
    struct pnx_cache_fixed *record = pnx__cache_fixed_at(shard->own_table, slot);
    uint64_t hash = pnx__cache_fixed_hash(shard->cache, record);
    pnx__mutex_assert_held(&shard->lock);
    pnx__cache_fixed_table_take(shard->own_table, hash, slot);
    if (!told)
        shard->policy->remove(shard->policy_state, slot);
    /* Relaxed, both: only the lock's holder writes it; the fence comes after. */
    uint32_t seq = pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.own_seq");
    pnx_store(&record->seq, seq + 1, PNX_RELAXED, "cache_fixed.gone");
}

void pnx__cache_fixed_remove_locked(struct pnx_cache_shard *shard, uint32_t slot,
        enum pnx_cache_cause cause, bool told, struct pnx_cache_effects *fx) {
    struct pnx_cache *cache = shard->cache;
    take_out(shard, slot, told);
    shard->live--;
    pnx_owner_add(&shard->bytes, (uint64_t)0 - cache->fixed_cost);
    pnx_owner_add(&shard->entries, (uint64_t)0 - 1);
    pnx__cache_count_removal(&shard->counters, cause);
    fx->count++;
    fx->room_entries++;
    fx->room_bytes += cache->fixed_cost;
}

static void set_words(struct pnx_a32 *word, const void *bytes, uint32_t n) {
    for (uint32_t i = 0; i < n / 4; i++) {
        uint32_t w;
        memcpy(&w, (const char *)bytes + 4 * (size_t)i, 4);
        /* Relaxed, both: 2 in cache/fixed.h. */
        pnx_store(&word[i], w, PNX_RELAXED, "cache_fixed.set_word");
    }
    if (n % 4)
        pnx_store(&word[n / 4], pnx__cache_word_of(bytes, n, n / 4), PNX_RELAXED,
                "cache_fixed.set_end");
}

/* Writes the value, and the key where it is given, into a record whose seq is odd, and makes it even. */
static void write_record(const struct pnx_cache_shape *shape, struct pnx_cache_fixed *record,
        const void *key, const void *value, uint32_t expires) {
    pnx_fence(PNX_RELEASE, "cache_fixed.write"); /* pairs with cache_fixed.read */
    if (key)
        set_words(record->word, key, shape->key_bytes);
    set_words(record->word + shape->key_words, value, shape->value_bytes);
    /* Relaxed, both: as the words. */
    pnx_store(&record->expires, expires, PNX_RELAXED, "cache_fixed.set_expires");
    uint32_t seq = pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.odd_seq");
    /* Release: pairs with cache_fixed.before. */
    pnx_store(&record->seq, seq + 1, PNX_RELEASE, "cache_fixed.even");
}

static void replace_locked(struct pnx_cache_shard *shard, struct pnx_cache_fixed *record,
        uint32_t slot, const void *value, uint32_t expires) {
    uint32_t seq = pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.even_seq");
    uint32_t was = pnx_load(&record->expires, PNX_RELAXED, "cache_fixed.old_expires");
    pnx_store(&record->seq, seq + 1, PNX_RELAXED, "cache_fixed.odd"); /* the fence comes after */
    write_record(&shard->cache->shape, record, NULL, value, expires);
    if (expires != PNX_CACHE_TICK_NEVER)
        pnx__cache_wheel_add(shard, slot, expires);
    if (was != expires && shard->policy->expiry)
        shard->policy->expiry(shard->policy_state, slot);
    pnx__cache_slot_hit_locked(shard, slot);
    pnx_owner_add(&shard->counters.removed_replaced, 1);
    pnx_owner_add(&shard->counters.inserts, 1);
}

/* Puts an entry into the first slot for its key in which nothing stands, which it returns; there is one. */
static uint32_t put_in(
        struct pnx_cache_shard *shard, const struct pnx_cache_insert *insert, uint32_t expires) {
    uint32_t slot = pnx__cache_fixed_free_slot(shard->own_table, insert->hash);
    struct pnx_cache_fixed *record = pnx__cache_fixed_at(shard->own_table, slot);
    write_record(&shard->cache->shape, record, insert->key, insert->value, expires);
    shard->policy->insert(shard->policy_state, slot);
    if (expires != PNX_CACHE_TICK_NEVER)
        pnx__cache_wheel_add(shard, slot, expires);
    pnx__cache_fixed_table_put(shard->own_table, insert->hash, slot);
    pnx_owner_add(&shard->counters.inserts, 1);
    return slot;
}

static void insert_locked(
        struct pnx_cache_shard *shard, const struct pnx_cache_insert *insert, uint32_t expires) {
    uint32_t slot = put_in(shard, insert, expires);
    for (uint32_t i = 0; i < insert->hits; i++)
        pnx__cache_slot_hit_locked(shard, slot);
    shard->live++;
    pnx_owner_add(&shard->bytes, shard->cache->fixed_cost);
    pnx_owner_add(&shard->entries, 1);
}

/* In a full cache: puts an entry in the place of the one that goes first, so that room and counts stay as they are.  False
 * where it is not as simple as that. */
static bool exchange_locked(
        struct pnx_cache_shard *shard, const struct pnx_cache_insert *insert, uint32_t expires) {
    const struct pnx_cache *cache = shard->cache;
    if (shard->timed > 0 || shard->live == 0 ||
            pnx__cache_fits(cache, NULL, cache->fixed_cost, 1) ||
            !pnx__cache_fits(cache, NULL, 0, 0) || !pnx__cache_has_its_share(shard))
        return false;
    /* While the policy chooses, the record comes in which it will stand in all likelihood. */
    const char *record = (const char *)pnx__cache_fixed_at(
            shard->own_table, pnx__cache_fixed_free_slot(shard->own_table, insert->hash));
    __builtin_prefetch(record, 1);
    __builtin_prefetch(record + cache->shape.stride - 1, 1);
    uint32_t slot =
            shard->policy->victim(shard->policy_state, pnx__cache_hash_high(insert->hash), 1);
    if (slot == PNX_CACHE_NO_SLOT)
        return false;
    take_out(shard, slot, true);
    put_in(shard, insert, expires);
    pnx_owner_add(&shard->counters.removed_size, 1);
    return true;
}

/* Whether the key has the value that a compute saw, or none where it saw none.  That it had others meanwhile is all the same. */
static bool is_as_expected(const struct pnx_cache *cache, const struct pnx_cache_fixed *record,
        const struct pnx_cache_insert *insert) {
    if (!record || !insert->expected_value)
        return !record && !insert->expected_value;
    return memcmp(record->word + cache->shape.key_words, insert->expected_value,
                   cache->shape.value_bytes) == 0;
}

int pnx__cache_fixed_try_insert_locked(struct pnx_cache_shard *shard,
        const struct pnx_cache_insert *insert, uint32_t batch, struct pnx_cache_fresh *fresh,
        struct pnx_cache_effects *fx) {
    struct pnx_cache *cache = shard->cache;
    uint32_t slot;
    int rc = 0;
    if (pnx__cache_is_closed(cache))
        return -ESHUTDOWN;
    if (insert->load && pnx__cache_load_overtaken(insert->load))
        return -ESTALE;
    struct pnx_cache_fixed *record =
            find_locked(shard, insert->hash, insert->key, cache->shape.key_bytes, fx, &slot);
    if (record && insert->if_absent)
        return -EEXIST;
    if (insert->compare && !is_as_expected(cache, record, insert))
        return PNX_E_CONFLICT;
    if (record) {
        replace_locked(shard, record, slot, insert->value, tick_after(cache, insert));
    } else if (!exchange_locked(shard, insert, tick_after(cache, insert))) {
        struct pnx_cache_entry *none = NULL;
        rc = pnx__cache_make_room_locked(shard, insert, cache->fixed_cost, &none, batch, fresh, fx);
        if (rc == 0)
            insert_locked(shard, insert, tick_after(cache, insert));
    }
    if (rc == 0 && !insert->load)
        pnx__cache_overtake_locked(shard, insert->hash, insert->key, cache->shape.key_bytes);
    return rc;
}

struct pnx_cache_fixed *pnx__cache_fixed_see_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, struct pnx_cache_effects *fx, uint32_t *ret_slot) {
    return find_locked(shard, hash, key, shard->cache->shape.key_bytes, fx, ret_slot);
}

struct pnx_cache_fixed *pnx__cache_fixed_use_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, struct pnx_cache_effects *fx, void *value) {
    const struct pnx_cache_shape *shape = &shard->cache->shape;
    uint32_t slot = PNX_CACHE_NO_SLOT;
    struct pnx_cache_fixed *record = find_locked(shard, hash, key, shape->key_bytes, fx, &slot);
    pnx__cache_tell_access_locked(shard, hash, record ? slot : PNX_CACHE_NO_SLOT, 1);
    if (record) {
        pnx__cache_slot_hit_locked(shard, slot);
        pnx__cache_fixed_copy(record, shape->key_words, value, shape->value_bytes);
    }
    return record;
}

/* ---- the calls ---- */

/* The usual ways of a put into a full cache, of what does not expire: a value is replaced, or another entry goes.  They need no
 * memory, and give none back.  False where it is not as simple as that. */
static bool put_shortly(struct pnx_cache_shard *shard, const struct pnx_cache_insert *insert) {
    struct pnx_cache *cache = shard->cache;
    bool done = false;
    pnx__cache_lock(shard);
    /* A load of the key that is under way would have to be told. */
    if (shard->epoch == pnx__cache_epoch(cache) && shard->timed == 0 && shard->live > 0 &&
            shard->n_loads == 0) {
        if (shard->policy->expect)
            shard->policy->expect(shard->policy_state, pnx__cache_hash_high(insert->hash));
        struct pnx_cache_effects none = {0}; /* nothing expires */
        uint32_t slot;
        struct pnx_cache_fixed *record =
                find_locked(shard, insert->hash, insert->key, cache->shape.key_bytes, &none, &slot);
        if (record)
            replace_locked(shard, record, slot, insert->value, PNX_CACHE_TICK_NEVER);
        done = record || exchange_locked(shard, insert, PNX_CACHE_TICK_NEVER);
    }
    pnx__cache_unlock_kept(shard);
    return done;
}

int pnx__cache_fixed_put(
        struct pnx_cache *cache, const void *key, const void *value, pnx_ns ttl, bool if_absent) {
    size_t key_size = cache->shape.key_bytes;
    struct pnx_cache_insert insert = {
            .key = key,
            .value = value,
            .hash = key_size == 8 ? pnx__hash_inline(cache->seed, key, 8)
                                  : pnx__hash(cache->seed, key, key_size),
            .ttl = ttl,
            .if_absent = if_absent,
    };
    if (ttl == 0) /* relaxed: a number */
        insert.ttl = (pnx_ns)pnx_load(&cache->ttl, PNX_RELAXED, "cache_fixed.ttl_now");
    /* A hint: one that fills would search in vain, and then again. */
    bool full = !pnx__cache_fits(cache, NULL, cache->fixed_cost, 1);
    if (full && !if_absent && insert.ttl == PNX_NEVER &&
            put_shortly(pnx__cache_shard_of(cache, insert.hash), &insert))
        return 0;
    return pnx__cache_insert(cache, &insert);
}

int pnx__cache_fixed_remove(struct pnx_cache *cache, const void *key, size_t key_size) {
    struct pnx_cache_effects fx = {0};
    uint64_t hash = pnx__hash(cache->seed, key, key_size);
    struct pnx_cache_shard *shard = pnx__cache_shard_of(cache, hash);
    uint32_t slot;
    int rc = -ENOENT;
    pnx__cache_fixed_lock(shard, &fx);
    if (pnx__cache_is_closed(cache)) {
        rc = -ESHUTDOWN;
    } else {
        if (find_locked(shard, hash, key, key_size, &fx, &slot)) {
            pnx__cache_fixed_remove_locked(shard, slot, PNX_CACHE_EXPLICIT, false, &fx);
            rc = 0;
        }
        pnx__cache_overtake_locked(shard, hash, key, key_size);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    return rc;
}

/* Lets go of what was stored before the last clear, or close. */
void pnx__cache_fixed_sweep(struct pnx_cache *cache) {
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct pnx_cache_effects fx = {0};
        pnx__cache_fixed_lock(&cache->shards[i], &fx);
        pnx__cache_unlock(&cache->shards[i], &fx);
        pnx__cache_run(cache, &fx);
    }
    pnx__cache_update_row(cache);
}

/* ---- time ---- */

#define TICK_STEPS 64 /* of the wheel, a shard */

pnx_ns pnx__cache_fixed_tick(struct pnx_cache_shard *shard, pnx_ns now, uint32_t *budget) {
    const struct pnx_cache *cache = shard->cache;
    struct pnx_cache_effects fx = {0};
    uint32_t steps = TICK_STEPS, slot;
    pnx__cache_fixed_lock(shard, &fx);
    while (*budget > 0 &&
            (slot = pnx__cache_wheel_due(shard, tick_at(cache, now), &steps)) != PNX_CACHE_NONE) {
        pnx__cache_fixed_remove_locked(shard, slot, PNX_CACHE_EXPIRED, false, &fx);
        (*budget)--;
    }
    uint32_t next = pnx__cache_wheel_next(shard);
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(shard->cache, &fx);
    if (next == PNX_CACHE_TICK_NEVER)
        return PNX_NEVER;
    pnx_ns at = cache->time_base + ((pnx_ns)next << PNX_CACHE_TICK_SHIFT);
    return at > now ? at : now;
}

/* ---- memory ---- */

/* The shard with most memory: it may have removed all that stood there. */
static struct pnx_cache_shard *largest(const struct pnx_cache *cache) {
    struct pnx_cache_shard *shard = cache->shards;
    uint64_t most = 0;
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        /* Relaxed: a number, to choose by. */
        uint64_t bytes =
                pnx_load(&cache->shards[i].index_bytes, PNX_RELAXED, "cache_fixed.largest");
        if (bytes > most) {
            most = bytes;
            shard = &cache->shards[i];
        }
    }
    return shard;
}

/* A table with holes gives nothing back: the largest shard is emptied, then the next. */
size_t pnx__cache_fixed_reclaim(struct pnx_cache *cache, size_t want) {
    size_t freed = 0;
    for (uint32_t i = 0; i < cache->n_shards && freed < want; i++) {
        struct pnx_cache_shard *shard = largest(cache);
        struct pnx_cache_effects fx = {0};
        uint64_t bytes = 0;
        pnx__cache_fixed_lock(shard, &fx);
        if (shard->own_table != &pnx__cache_no_table) {
            bytes = shard->own_table->charged;
            retire_all(shard, &shard->counters.removed_size, &fx);
            pnx_owner_add(&shard->counters.reclaimed, bytes);
        }
        pnx__cache_unlock(shard, &fx);
        pnx__cache_run(cache, &fx);
        if (bytes == 0)
            break;
        freed += bytes;
    }
    return freed;
}

/* ---- checking ---- */

const char *pnx__cache_fixed_check(const struct pnx_cache_shard *shard) {
    const struct pnx_cache *cache = shard->cache;
    const struct pnx_cache_table *table = shard->own_table;
    uint32_t live = 0;
    for (uint32_t slot = 0; slot < table->slots; slot++) {
        const struct pnx_cache_fixed *record = pnx__cache_fixed_at(table, slot);
        uint32_t seq = pnx_load(&record->seq, PNX_RELAXED, "cache_fixed.check_seq");
        if (seq & 1)
            continue;
        struct pnx_cache_found_fixed found;
        uint64_t hash = pnx__hash(cache->seed, record->word, cache->shape.key_bytes);
        if (!pnx__cache_fixed_search(table, hash, record->word, cache->shape.key_bytes,
                    cache->shape.stride, true, &found) ||
                found.slot != slot)
            return "an entry is not found by its key";
        live++;
    }
    if (live != shard->live)
        return "the entries do not add up";
    if (pnx_load(&shard->bytes, PNX_RELAXED, "cache_fixed.check_bytes") != live * cache->fixed_cost)
        return "the bytes do not add up";
    if (shard->own_table != &pnx__cache_no_table && shard->own_table->epoch != shard->epoch)
        return "a table is of another time than its shard";
    return pnx__cache_wheel_check(shard);
}
