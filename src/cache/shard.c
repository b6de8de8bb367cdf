/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/shard.c - what a shard is made of: slots, their pages, the index over them, and the policy's state.
 *
 *     slots:  never used --> live --> free --> live ...     the slot that has been free for longest is used first
 *
 * More slots come by making a larger table and a larger state of the policy without the lock, and putting them in the
 * place of the old ones under it; the pages stay.  A page is made when its first slot is used.  Where sizes are fixed there are no
 * pages and no list of free slots: a slot is a place in the table (cache/fixed.h), and has another number in the next one.
 *
 *   P1  live slots == those in the index == those that the policy holds.
 *   P2  Nothing here allocates or frees under the lock.
 */
#include "cache/internal.h"

#include "cache/expiry.h"

void pnx__cache_shard_init(struct pnx_cache_shard *shard, struct pnx_cache *cache,
        const struct pnx_cache_policy *policy) {
    shard->cache = cache;
    shard->policy = policy;
    pnx__mutex_init(&shard->lock, PNX_RANK_CACHE);
    shard->own_table = &pnx__cache_no_table;
    /* Relaxed, these: nobody else knows the cache yet. */
    pnx_store(&shard->table, &pnx__cache_no_table, PNX_RELAXED, "cache_shard.no_table");
    pnx_store(&shard->pending, 1, PNX_RELAXED, "cache_shard.first_pending");
    shard->free_first = shard->free_last = PNX_CACHE_NONE;
    shard->view = (struct pnx_cache_slots){
            .shift = PNX_CACHE_PAGE_SHIFT,
            .stride = sizeof(struct pnx_cache_record),
            .hits = offsetof(struct pnx_cache_record, hits),
            .hash = offsetof(struct pnx_cache_record, hash),
            .weight = cache->kind != PNX_CACHE_CAPACITY_ENTRIES
                              ? offsetof(struct pnx_cache_record, weight)
                              : PNX_CACHE_NO_FIELD,
            .weight_bytes = sizeof(uint64_t),
            .expires = offsetof(struct pnx_cache_record, expires),
    };
    if (pnx__cache_is_fixed(cache))
        pnx__cache_fixed_init(shard, &cache->wheels[shard - cache->shards]);
    for (size_t i = 0; i < PNX_CACHE_LOAD_BUCKETS; i++)
        pnx__list_init(&shard->loads[i]);
}

void pnx__cache_shard_drop(struct pnx_cache_shard *shard) {
    const struct pnx_env *env = &shard->cache->env;
    if (shard->own_table != &pnx__cache_no_table) {
        shard->own_table->owns_pages = !pnx__cache_is_fixed(shard->cache);
        pnx__cache_table_free(env, shard->own_table);
    }
    pnx__free(env, shard->policy_state, 1, shard->policy_bytes);
    pnx__mutex_destroy(&shard->lock);
}

/* ---- the policy ---- */

uint64_t pnx__cache_share(const struct pnx_cache *cache) {
    /* Relaxed: the holder of cache->lock wrote them, and tells each policy again when they change. */
    uint64_t bytes = pnx_load(&cache->capacity, PNX_RELAXED, "cache_shard.capacity");
    uint64_t entries = pnx_load(&cache->capacity_entries, PNX_RELAXED, "cache_shard.entries");
    uint64_t least = pnx__cache_is_fixed(cache) ? (cache->fixed_cost + 1) / 2
                                                : pnx__cache_entry_cost(0, 0, 0);
    uint64_t all = cache->kind == PNX_CACHE_CAPACITY_BYTES ? bytes : entries;
    if (cache->kind == PNX_CACHE_CAPACITY_WEIGHT)
        all = pnx_load(&cache->capacity_weight, PNX_RELAXED, "cache_shard.weight");
    /* A resize may have left only a limit of the other kind. */
    else if (all == UINT64_MAX)
        all = cache->kind == PNX_CACHE_CAPACITY_BYTES
                      ? (entries < UINT64_MAX / (2 * least) ? entries * 2 * least : entries)
                      : bytes / (2 * least);
    uint64_t share = all / cache->n_shards;
    return share ? share : 1;
}

struct pnx_cache_policy_params pnx__cache_policy_params(
        const struct pnx_cache_shard *shard, const struct pnx_cache *cache) {
    return (struct pnx_cache_policy_params){
            .size = sizeof(struct pnx_cache_policy_params),
            .slots = &shard->view,
            .capacity = pnx__cache_share(cache),
            .seed = cache->seed ^ (uint64_t)(shard - cache->shards),
            .kind = cache->kind,
    };
}

void pnx__cache_slot_hit_locked(struct pnx_cache_shard *shard, uint32_t slot) {
    const struct pnx_cache_policy_wants *wants = pnx_cache_policy_wants_of(shard->policy_state);
    if (wants->exact_hits && !pnx__cache_is_fixed(shard->cache))
        pnx__cache_stamp_locked(shard, pnx__cache_entry_of(shard, slot));
    if (wants->exact_hits && shard->policy->hit)
        shard->policy->hit(shard->policy_state, slot);
    else if (wants->hit_max)
        pnx_cache_slot_bump(&shard->view, slot, wants->hit_max);
}

/* ---- more slots ---- */

/* For how many entries the next table should have room; 0 at the limit. */
static uint32_t next_room(const struct pnx_cache_shard *shard) {
    const struct pnx_cache *cache = shard->cache;
    uint64_t room = shard->own_table->room;
    if (room >= cache->slots_most)
        return 0;
    uint64_t limit = pnx_load(&cache->capacity_entries, PNX_RELAXED, "cache_shard.slots_limit");
    bool fixed = pnx__cache_is_fixed(cache);
    if (fixed) {
        uint64_t bytes = pnx_load(&cache->capacity, PNX_RELAXED, "cache_shard.bytes_limit");
        if (bytes != UINT64_MAX && bytes / cache->fixed_cost < limit)
            limit = bytes / cache->fixed_cost;
    }
    /* Records of fixed sizes are there for all that there is room for: by smaller steps, and closer to the shard's part. */
    uint64_t share = limit / cache->n_shards, next = room + room / (fixed ? 4 : 2);
    /* Keys are not spread evenly over shards. */
    uint64_t most = share + (cache->n_shards > 1 ? share / (fixed ? 48 : 8) : 0);
    if (room < most && next > most)
        next = most;
    if (limit != UINT64_MAX && room >= most)
        next = room + room / (fixed ? 24 : 8) + 1;
    if (room == 0 || next <= room)
        next = room ? room + 1 : cache->first_slots;
    return (uint32_t)(next < cache->slots_most ? next : cache->slots_most);
}

/* What a table of fixed sizes is charged: what its entries count as; or what it takes, with a policy that remembers more of
 * each slot than that is meant for. */
static size_t fixed_charge(const struct pnx_cache_shard *shard, uint32_t room) {
    const struct pnx_cache *cache = shard->cache;
    struct pnx_cache_policy_params params = pnx__cache_policy_params(shard, cache);
    uint32_t slots = pnx__cache_fixed_slots(room);
    size_t counted = room * cache->fixed_cost;
    size_t taken = pnx__cache_fixed_table_bytes(&cache->shape, slots) +
                   shard->policy->memory(&params, slots);
    return taken > counted + PNX_CACHE_INDEX_BASE ? taken - PNX_CACHE_INDEX_BASE : counted;
}

/* Where sizes are fixed, charged whole. */
static struct pnx_cache_table *make_table(
        struct pnx_cache_shard *shard, uint32_t room, uint32_t charge_flags) {
    struct pnx_cache *cache = shard->cache;
    if (!pnx__cache_is_fixed(cache))
        return pnx__cache_table_make(shard, &cache->env, &cache->shape, room);
    size_t charge = fixed_charge(shard, room);
    if (pnx_budget_charge(cache->budget, charge, charge_flags) != 0)
        return NULL;
    struct pnx_cache_table *table =
            pnx__cache_fixed_table_make(shard, &cache->env, &cache->shape, room);
    if (table)
        table->charged = charge;
    else
        pnx_budget_uncharge(cache->budget, charge);
    return table;
}

static void drop_table(const struct pnx_env *env, struct pnx_cache_fresh *fresh) {
    pnx__cache_table_free(env, fresh->table);
    pnx__free(env, fresh->policy_state, 1, fresh->policy_bytes);
    pnx__free(env, fresh->map, fresh->map_made, sizeof(*fresh->map));
    fresh->table = NULL;
    fresh->policy_state = NULL;
    fresh->map = NULL;
}

int pnx__cache_fresh_make(struct pnx_cache_shard *shard, struct pnx_cache_fresh *fresh) {
    struct pnx_cache *cache = shard->cache;
    const struct pnx_env *env = &cache->env;
    if (fresh->page && !fresh->page_memory) {
        fresh->page_memory = pnx__alloc(env, PNX_CACHE_PAGE_SLOTS, sizeof(struct pnx_cache_record));
        if (!fresh->page_memory)
            return -ENOMEM;
    }
    if (!fresh->room)
        return fresh->page ? 0 : -ENOMEM;
    drop_table(env, fresh);
    fresh->table = make_table(shard, fresh->room, fresh->no_reclaim ? PNX_CHARGE_NO_RECLAIM : 0);
    if (!fresh->table)
        return -ENOMEM;
    struct pnx_cache_policy_params params = pnx__cache_policy_params(shard, cache);
    fresh->policy_bytes = shard->policy->memory(&params, fresh->table->slots);
    fresh->policy_state =
            fresh->policy_bytes ? pnx__alloc_aligned(env, 1, fresh->policy_bytes, 64) : NULL;
    fresh->map_made = fresh->map_slots;
    if (fresh->map_made > 0)
        fresh->map = pnx__alloc(env, fresh->map_made, sizeof(*fresh->map));
    return fresh->policy_state && (fresh->map || fresh->map_made == 0) ? 0 : -ENOMEM;
}

void pnx__cache_fresh_drop(struct pnx_cache *cache, struct pnx_cache_fresh *fresh) {
    drop_table(&cache->env, fresh);
    pnx__free(
            &cache->env, fresh->page_memory, PNX_CACHE_PAGE_SLOTS, sizeof(struct pnx_cache_record));
    *fresh = (struct pnx_cache_fresh){0};
}

static void add_index_bytes(struct pnx_cache_shard *shard, size_t more, size_t less) {
    pnx_owner_add(&shard->index_bytes, (uint64_t)more - less);
}

static void put_spare(struct pnx_cache_effects *fx, void *memory, size_t bytes) {
    struct pnx_cache_spare *spare = memory;
    if (!spare)
        return;
    *spare = (struct pnx_cache_spare){fx->spare, bytes};
    fx->spare = spare;
}

void pnx__cache_put_table(struct pnx_cache_table *table, struct pnx_cache_effects *fx) {
    table->next = fx->table;
    fx->table = table;
}

static void publish_table_locked(struct pnx_cache_shard *shard, struct pnx_cache_table *table,
        struct pnx_cache_effects *fx) {
    /* Who walks through it lets it go in the end. */
    if (shard->own_table != &pnx__cache_no_table && shard->own_table->walks == 0)
        pnx__cache_put_table(shard->own_table, fx);
    shard->own_table = table;
    shard->view.pages = pnx__cache_is_fixed(shard->cache) ? &table->records : table->pages;
    /* Release: pairs with cache.look_table; all of the table. */
    pnx_store(&shard->table, table, PNX_RELEASE, "cache_shard.publish");
}

static void install_locked(struct pnx_cache_shard *shard, struct pnx_cache_fresh *fresh,
        struct pnx_cache_effects *fx) {
    struct pnx_cache_policy_params params = pnx__cache_policy_params(shard, shard->cache);
    uint32_t slots = fresh->table->slots;
    add_index_bytes(shard, fresh->table->bytes + fresh->policy_bytes,
            shard->own_table->bytes + shard->policy_bytes);
    fresh->table->epoch = shard->epoch;
    if (!pnx__cache_is_fixed(shard->cache))
        pnx__cache_table_copy(fresh->table, shard->own_table);
    else
        pnx__cache_fixed_table_copy(fresh->table, shard->own_table, fresh->map);
    publish_table_locked(shard, fresh->table, fx);
    if (shard->policy_state)
        shard->policy->grow(shard->policy_state, fresh->policy_state, slots, fresh->map);
    else
        shard->policy->init(fresh->policy_state, &params, slots);
    put_spare(fx, shard->policy_state, shard->policy_bytes);
    put_spare(fx, fresh->map, fresh->map_made * sizeof(*fresh->map));
    shard->policy_state = fresh->policy_state;
    shard->policy_bytes = fresh->policy_bytes;
    fresh->table = NULL;
    fresh->policy_state = NULL;
    fresh->map = NULL;
    fresh->room = 0;
    if (pnx__cache_is_fixed(shard->cache))
        pnx__cache_wheel_rebuild(shard);
}

/* Whether there is room in the table, or in the fresh one that takes its place. */
static bool room_ready_locked(struct pnx_cache_shard *shard, struct pnx_cache_fresh *fresh,
        struct pnx_cache_effects *fx) {
    bool fixed = pnx__cache_is_fixed(shard->cache);
    if ((fixed ? shard->live : shard->used) < shard->own_table->room)
        return true;
    uint32_t room = next_room(shard), map_slots = fixed ? shard->own_table->slots : 0;
    bool made = fresh->table && fresh->policy_state && fresh->table->room >= room &&
                (fresh->map || map_slots == 0) && fresh->map_made == map_slots;
    if (!made || room == 0) {
        fresh->room = room;
        fresh->map_slots = map_slots;
        fresh->page = false;
        return false;
    }
    install_locked(shard, fresh, fx);
    return true;
}

bool pnx__cache_slot_ready_locked(struct pnx_cache_shard *shard, struct pnx_cache_fresh *fresh,
        struct pnx_cache_effects *fx) {
    if (shard->free_first != PNX_CACHE_NONE)
        return true;
    if (!room_ready_locked(shard, fresh, fx))
        return false;
    if (pnx__cache_is_fixed(shard->cache))
        return true;
    unsigned char **page = &shard->own_table->pages[shard->used >> shard->view.shift];
    if (!*page) {
        if (!fresh->page_memory) {
            fresh->page = true;
            fresh->room = 0;
            return false;
        }
        *page = fresh->page_memory;
        add_index_bytes(shard, PNX_CACHE_PAGE_SLOTS * sizeof(struct pnx_cache_record), 0);
        fresh->page_memory = NULL;
        fresh->page = false;
    }
    return true;
}

void pnx__cache_shard_tidy_locked(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx) {
    if (shard->live == 0 && shard->walks == 0 && shard->own_table != &pnx__cache_no_table)
        pnx__cache_shard_empty_locked(shard, fx);
}

void pnx__cache_shard_empty_locked(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx) {
    shard->own_table->owns_pages = !pnx__cache_is_fixed(shard->cache);
    publish_table_locked(shard, &pnx__cache_no_table, fx);
    put_spare(fx, shard->policy_state, shard->policy_bytes);
    shard->policy_state = NULL;
    shard->policy_bytes = 0;
    shard->used = 0;
    shard->free_first = shard->free_last = PNX_CACHE_NONE;
    /* Relaxed: a number. */
    pnx_store(&shard->index_bytes, 0, PNX_RELAXED, "cache_shard.tidy");
}

/* ---- slots ---- */

/* Where a free slot names the next one. */
static uint32_t next_free(const struct pnx_cache_shard *shard, uint32_t slot) {
    return pnx__cache_record(shard->own_table, slot)->heap_pos;
}

static void set_next_free(struct pnx_cache_shard *shard, uint32_t slot, uint32_t next) {
    pnx__cache_record(shard->own_table, slot)->heap_pos = next;
}

/* The slot that has been free for longest; ready_locked() said that there is one. */
static uint32_t take_slot(struct pnx_cache_shard *shard) {
    uint32_t slot = shard->free_first;
    if (slot == PNX_CACHE_NONE)
        return shard->used++;
    shard->free_first = next_free(shard, slot);
    if (shard->free_first == PNX_CACHE_NONE)
        shard->free_last = PNX_CACHE_NONE;
    return slot;
}

static void give_slot(struct pnx_cache_shard *shard, uint32_t slot) {
    set_next_free(shard, slot, PNX_CACHE_NONE);
    if (shard->free_last == PNX_CACHE_NONE)
        shard->free_first = slot;
    else
        set_next_free(shard, shard->free_last, slot);
    shard->free_last = slot;
}

static void set_entry(struct pnx_cache_record *record, struct pnx_cache_entry *entry) {
    /* Release: pairs with cache_table.look_entry; all of the entry. */
    pnx_store(&record->entry, entry, PNX_RELEASE, "cache_table.entry");
}

void pnx__cache_slot_insert_locked(struct pnx_cache_shard *shard, struct pnx_cache_entry *entry,
        uint64_t hash, size_t weight) {
    uint32_t slot = take_slot(shard);
    struct pnx_cache_record *record = pnx__cache_record(shard->own_table, slot);
    record->weight = weight;
    record->expires = pnx__cache_due(shard->cache, entry);
    record->hash = pnx__cache_hash_high(hash);
    record->heap_pos = PNX_CACHE_NONE;
    entry->u.in.slot = slot;
    shard->live++;
    shard->policy->insert(shard->policy_state, slot);
    if (record->expires != PNX_NEVER)
        pnx__cache_heap_push(shard, slot);
    set_entry(record, entry);
    pnx__cache_table_put(shard->own_table, record->hash, pnx__cache_tag(hash), slot);
}

void pnx__cache_slot_replace_locked(struct pnx_cache_shard *shard, struct pnx_cache_entry *old,
        struct pnx_cache_entry *entry, size_t weight) {
    const struct pnx_cache_policy *policy = shard->policy;
    uint32_t slot = old->u.in.slot;
    struct pnx_cache_record *record = pnx__cache_record(shard->own_table, slot);
    uint64_t was = record->weight;
    pnx_ns expired = record->expires;
    if (record->heap_pos != PNX_CACHE_NONE)
        pnx__cache_heap_remove(shard, slot);
    record->weight = weight;
    record->expires = pnx__cache_due(shard->cache, entry);
    entry->u.in.slot = slot;
    old->u.in.slot = PNX_CACHE_NONE;
    if (record->expires != PNX_NEVER)
        pnx__cache_heap_push(shard, slot);
    set_entry(record, entry);
    if (was != weight && policy->reweigh && shard->view.weight != PNX_CACHE_NO_FIELD)
        policy->reweigh(shard->policy_state, slot, was);
    if (expired != record->expires && policy->expiry)
        policy->expiry(shard->policy_state, slot);
    pnx__cache_slot_hit_locked(shard, slot);
}

void pnx__cache_slot_remove_locked(struct pnx_cache_shard *shard, uint32_t slot, bool told) {
    struct pnx_cache_record *record = pnx__cache_record(shard->own_table, slot);
    struct pnx_cache_entry *entry = pnx__cache_entry_of(shard, slot);
    pnx__cache_table_take(shard->own_table, record->hash, 0, slot);
    if (record->heap_pos != PNX_CACHE_NONE)
        pnx__cache_heap_remove(shard, slot);
    if (!told)
        shard->policy->remove(shard->policy_state, slot);
    set_entry(record, NULL);
    entry->u.in.slot = PNX_CACHE_NONE;
    give_slot(shard, slot);
    shard->live--;
}

/* ---- checking ---- */

const char *pnx__cache_shard_check(const struct pnx_cache_shard *shard) {
    uint32_t live = 0, holes = 0;
    bool fixed = pnx__cache_is_fixed(shard->cache);
    const char *broken = fixed ? pnx__cache_fixed_table_check(shard->own_table, &live)
                               : pnx__cache_table_check(shard->own_table, &live);
    if (broken)
        return broken;
    if (live != shard->live)
        return "the index's counts do not add up";
    for (uint32_t slot = shard->free_first; slot != PNX_CACHE_NONE && holes <= shard->used;
            slot = next_free(shard, slot)) {
        if (slot >= shard->used || pnx__cache_entry_of(shard, slot))
            return "the list of free slots is broken";
        holes++;
    }
    if ((!fixed && holes + live != shard->used) || shard->used > shard->own_table->slots ||
            live > shard->own_table->room)
        return "the slots do not add up";
    broken = fixed ? pnx__cache_fixed_check(shard) : pnx__cache_heap_check(shard);
    if (!broken && shard->policy_state)
        broken = shard->policy->check(shard->policy_state, shard->live);
    return broken;
}
