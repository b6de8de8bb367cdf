/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/internal.h - the cache as its own files see it.
 *
 *   cache.c    make, close, release; options
 *   entry.c    entries, references
 *   shard.c    slots, the policy, growing: what a shard is made of
 *   room.c     the one capacity of all shards
 *   store.c    what happens under a shard's lock: find, insert, remove, evict, expire
 *   access.c   get, put, remove
 *   reserve.c  reserve, commit, abort
 *   compute.c  changes that depend on what is stored; retain
 *   weigh.c    what the user's function says that a value weighs
 *   view.c     lookups in the caller's section
 *   file_write.c, file_read.c, file.h  snapshots on disk
 *   many.c     lookups of many keys at once
 *   sweep.c    clear, walk, tick, resize, reclaim: all that touches many entries, in batches
 *   load.c     loaders, waiters, the wait-for graph
 *   load_end.c what becomes of a load's result, and of those who waited
 *   refresh.c  values that are replaced while they are served
 *   async.c    waiting without a thread; loads that outlast their loader's call
 *   expiry.c   when entries expire: after they were stored, or used
 *   report.c   statistics, invariants
 *   deferred.c destructors that an executor runs
 *   curve.c    the miss-ratio curve
 *   table.c, heap.c, policies/  slots
 *   fixed.c, fixed_get.c, fixed_table.c, fixed_walk.c, wheel.c   keys and values of fixed sizes, which stand in slots
 *   fixed_load.c, fixed_compute.c, fixed_file.c   what else is done with those: loads, changes, snapshots on disk
 *
 * Pattern of every operation that writes: lock a shard, decide, note what is to be done in a struct pnx_cache_effects,
 * unlock, do it.  No operation holds the locks of two shards.  Lookups lock nothing, but where the policy wants to be told
 * of each hit (wants.exact_hits) or of this one (wants.access).
 */
#ifndef PNX_SRC_CACHE_INTERNAL_H
#define PNX_SRC_CACHE_INTERNAL_H

#include "base/env.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/pheap.h"
#include "cache/entry.h"
#include "cache/fixed.h"
#include "cache/table.h"
#include "os/mutex.h"
#include "os/thread.h"

#include <patinox/cache.h>

#include <stdlib.h>

#define PNX_GROUP     cache
#define PNX_GROUP_DEF <patinox/stats/cache.def>
#include "stats/declare_group.inc"

#define PNX_CACHE_MAGIC        UINT32_C(0x63616368)
#define PNX_CACHE_ENTRIES_MAX  (UINT64_C(1) << 30)
#define PNX_CACHE_SHARDS_MAX   64u
#define PNX_CACHE_ONE_SHARD    4096u /* entries up to which there is one */
#define PNX_CACHE_LOAD_BUCKETS 16
#define PNX_CACHE_BATCH        64 /* entries removed in one go under the lock */
#define PNX_CACHE_FAILING      8  /* failed loads in a row that make the cache's health degraded */
#define PNX_CACHE_CELLS \
    64u /* threads that count lookups without read-modify-writes, and one for the rest */

/*
 * Bytes that an entry counts for the index: its record, its part of the lines and of the policy's state, and what of
 * the two is unused, since they grow by half.
 */
#define PNX_CACHE_INDEX_SHARE 88
#define PNX_CACHE_INDEX_BASE  16384 /* what a shard's index may hold beside the shares */
#define PNX_CACHE_FIXED_SHARE \
    28 /* the same for fixed sizes, beside the record and an eighth of it */

#define PNX_CACHE_WHEEL_LEVELS  5u
#define PNX_CACHE_WHEEL_BUCKETS 64u

/* Of a shard of fixed sizes, and guarded by its lock; see cache/wheel.c.  A list is the number of its first slot, and one. */
struct pnx_cache_wheel {
    uint64_t filled[PNX_CACHE_WHEEL_LEVELS]; /* buckets that hold something */
    uint32_t tick;                           /* it has come so far */
    uint32_t level; /* buckets of this tick below this level are still to be looked at */
    uint32_t due;   /* what is left of the bucket that is looked at */
    uint32_t list[PNX_CACHE_WHEEL_LEVELS][PNX_CACHE_WHEEL_BUCKETS];
};

struct pnx_cache_load;

/* What a thread has counted: written by that thread, summed up by who reads. */
struct pnx_cache_cell {
    struct pnx_a64 hits;
    struct pnx_a64 misses;
    struct pnx_a64 negative_hits;
    struct pnx_a64 stale_hits;
    struct pnx_a64
            pinned; /* taken less given back: less than 0 where they are given back by other threads */
} __attribute__((aligned(64)));

/*
 * A part of the keys.  Conservation under its lock: live == the index's slots == those of the policy; timed <= live;
 * live + free ones == used <= slots; inserts == live + all removed_*.  Where sizes are fixed there is no list of free slots, and used
 * is 0.
 */
struct pnx_cache_shard {
    /* What lookups read. */
    struct pnx_aptr table;   /* own_table */
    struct pnx_a64 wants;    /* of the policy: see pnx__cache_wants_* */
    struct pnx_cache *cache; /* fixed */

    struct pnx_mutex lock __attribute__((aligned(64)));
    /* guarded by lock */
    struct pnx_cache_table *own_table;
    const struct pnx_cache_policy *policy; /* fixed */
    void *policy_state;                    /* NULL while there are no slots */
    size_t policy_bytes;
    struct pnx_cache_slots view;
    uint64_t next_seq;
    uint32_t live;
    uint32_t used; /* slots below are live or free ones */
    uint32_t free_first;
    uint32_t free_last;
    uint32_t timed; /* elements of the heap, or slots in the wheel */
    uint32_t walks; /* while not 0, slots keep their numbers */
    uint32_t n_loads;
    uint32_t epoch; /* of fixed sizes: the clear after which all that is here was stored */
    struct pnx_cache_wheel *wheel; /* of fixed sizes */
    uint32_t uses; /* stores, and hits that the policy was told of in order: a clock */
    struct pnx_link loads[PNX_CACHE_LOAD_BUCKETS];
    struct pnx_heap load_timers;    /* of loads that go on without a thread */
    struct pnx_heap request_timers; /* of requests that wait for one */
    struct pnx_a64 bytes; /* of live entries: read without the lock, too, as are the counters */
    struct pnx_a64 entries;
    struct pnx_a64 weight; /* 0 where there is no weigher */
    struct pnx_a64 index_bytes;
    struct pnx_cache_values counters;
    struct pnx_histogram eviction_age;
    /* Entries, tables and pages that are not freed yet, and one until the cache is released. */
    struct pnx_a64 pending __attribute__((aligned(64)));
} __attribute__((aligned(64)));

/*
 * Owned by its maker, then by what is pending in its shards.  Conservation: used_bytes == the costs of live entries, and of
 * those that an insert under way has taken out to make room, <= capacity, save while a resize evicts; likewise entries and,
 * where there is a weigher, weight.
 */
struct pnx_cache {
    /* fixed at create; what lookups read comes first, in two lines */
    uint32_t magic;
    uint32_t fork_generation;
    struct pnx_cache_shard *shards;
    struct pnx_cache_cell *cells;
    uint64_t seed;
    uint32_t n_shards;
    uint32_t shard_bits;   /* of n_shards */
    struct pnx_a32 closed; /* written once */
    struct pnx_a32
            epoch; /* not fixed: how often it has been cleared; older entries are not visible */
    struct pnx_cache_shape shape;
    pnx_ns time_base;               /* from which ticks count */
    uint32_t kind;                  /* enum pnx_cache_capacity_kind: of what policies are told */
    uint32_t first_slots;           /* of a shard's first table */
    uint32_t slots_most;            /* of a shard */
    size_t fixed_cost;              /* of each entry, where sizes are fixed */
    struct pnx_cache_wheel *wheels; /* one a shard, where sizes are fixed */
    struct pnx_env env;
    char *name;
    const char *site;
    pnx_cache_destroy_fn *destroy;
    void *ctx;
    pnx_cache_weigh_fn *weigher; /* NULL: entries have no weights; never where sizes are fixed */
    void *weigher_ctx;
    struct pnx_executor *destroy_executor; /* NULL: none */
    struct pnx_cache_curve *curve;         /* NULL: off */
    struct pnx_registry *registry;
    pnx_resource_id row;
    struct pnx_budget *budget; /* a reference */
    struct pnx_reclaimer_handle *reclaimer;
    size_t base_charge;
    pnx_ns negative_ttl; /* PNX_NEVER: off */
    pnx_ns load_timeout;
    pnx_ns ttl_access;    /* PNX_NEVER: off */
    pnx_ns touch_after;   /* a use is written down when the last one that was is older than that */
    pnx_ns refresh_after; /* PNX_NEVER: off, unless a loader says so */
    pnx_ns refresh_backoff;        /* after a failure */
    pnx_ns stale_if_error;         /* 0: off */
    struct pnx_executor *executor; /* borrowed; NULL: those who ask refresh */
    pnx_cache_load_fn *refresh_loader;
    void *refresh_ctx;
    void (*post)(void *post_ctx, void (*run)(void *arg), void *arg);
    void *post_ctx;
    uint32_t ttl_jitter;
    bool timed; /* entries have struct pnx_cache_times */

    struct pnx_a64 capacity; /* UINT64_MAX: no limit; written under lock, as are the next four */
    struct pnx_a64 capacity_entries; /* UINT64_MAX: no limit */
    struct pnx_a64 capacity_weight;  /* UINT64_MAX: there is no weigher */
    struct pnx_a64 ttl;              /* pnx_ns */
    struct pnx_a32 resizing;         /* calls that are evicting down to new limits */
    struct pnx_a32 shards_alive;     /* whose pending is not 0 */
    struct pnx_a64 used_bytes __attribute__((aligned(64)));
    struct pnx_a64 used_entries;
    struct pnx_a64 used_weight;
    struct pnx_a64 detached;
    struct pnx_a64 reserved_bytes;
    struct pnx_a64 rejected;
    struct pnx_a64
            row_bytes; /* what the registry's row shows; racy by design, it only thins updates */

    struct pnx_mutex lock; /* taken with no shard's lock held; guards what follows */
    uint32_t failures;     /* loads failed in a row */
    uint32_t deferred;     /* entries on the list that follows, first in, first out */
    struct pnx_cache_entry *deferred_first;
    struct pnx_cache_entry *deferred_last;
    bool draining;               /* a job goes through it, or is about to */
    struct pnx_a64 all_deferred; /* read without the lock */
    struct pnx_cache_histograms histograms;

    struct pnx_cache_values values; /* written by refresh, under the lock of the statistics */
    struct pnx_stats_block block;
};

/* Memory that has left a shard and is to be freed without the lock. */
struct pnx_cache_spare {
    struct pnx_cache_spare *next;
    size_t bytes;
};

/* What a thread has to do once it has unlocked. */
struct pnx_cache_effects {
    struct pnx_cache_entry *dead; /* taken out of the cache, in that order: drop its reference */
    struct pnx_cache_entry *last; /* of dead, when there is one */
    struct pnx_cache_spare *spare;
    struct pnx_cache_table *table; /* a list: to be retired */
    uint32_t count;                /* entries in dead */
    uint32_t room_entries;         /* how many of them still count as used */
    size_t bytes;                  /* their cost */
    size_t room_bytes;             /* what of it still counts as used */
    uint64_t room_weight;          /* likewise */
};

/* What is taken of the capacity, or wanted of it. */
struct pnx_cache_room {
    size_t bytes;
    uint64_t weight; /* 0 where there is no weigher */
    uint32_t entries;
};

/* What is to be inserted. */
struct pnx_cache_insert {
    struct pnx_cache_entry
            *entry;  /* with the maker's reference; on success the cache has its own */
    const void *key; /* this and the next: where sizes are fixed, in place of entry */
    const void *value;
    uint64_t hash;
    uint64_t weight;             /* as pnx__cache_weigh() has it; 0 where there is no weigher */
    struct pnx_cache_load *load; /* of which it is the result; NULL for a put */
    pnx_ns ttl;                  /* 0: the cache's */
    pnx_ns soft;                 /* after what time it is to be refreshed; 0: as the cache says */
    pnx_ns soft_at;              /* when; 0: as soft says */
    bool if_absent;
    bool restored; /* of a snapshot: a load of the key that is under way makes something newer */
    /* Of a compute: stored only where expected, or nothing where that is NULL, is the key's entry; else CONFLICT. */
    bool compare;
    struct pnx_cache_entry *expected; /* pinned */
    const void *
            expected_value; /* where sizes are fixed, in place of expected: the same bytes are the same value */
    pnx_ns expires;  /* 0: as ttl says */
    uint32_t hits;   /* that it counts as having had: of a snapshot */
    bool no_reclaim; /* for which nothing is to go: where the budget has no room, it is refused */
};

/*
 * Declares, before a callback of the user's is called, what has to be true once it has returned.  One that throws,
 * or ends its thread, would leave behind a load that nobody ends, or pins that nobody drops: it aborts.
 */
#define PNX_CACHE_CALLING(returned) bool returned PNX_CLEANUP(pnx__cache_check_returned) = false

static inline void pnx__cache_check_returned(const bool *returned) {
    if (!*returned)
        abort();
}

/* Adds to the calling thread's cell. */
#define PNX_CACHE_COUNT(cache, field, n) \
    do { \
        const struct pnx_thread *self_ = pnx__self(); \
        uint32_t number_ = self_ ? self_->number : 0; \
        if (number_ != 0 && number_ < PNX_CACHE_CELLS) \
            pnx_owner_add(&(cache)->cells[number_].field, (n)); \
        else \
            pnx_fetch_add(&(cache)->cells[0].field, (n), PNX_RELAXED, "cache.count_" #field); \
    } while (0)

/* ---- cache.c ---- */

/* For tests: first_slots below what is usual, so that few operations meet another table. */
int pnx__cache_create(const struct pnx_cache_opts *opts, uint32_t first_slots,
        struct pnx_error *err, struct pnx_cache **ret_cache);

/* Checks options and fills in defaults; ret_opts may be opts. */
int pnx__cache_opts_resolve(
        const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache_opts *ret_opts);

/* One pending thing of a shard is gone; the last one of all frees the cache. */
void pnx__cache_settled(struct pnx_cache_shard *shard);

static inline struct pnx_cache_shard *pnx__cache_shard_of(
        const struct pnx_cache *cache, uint64_t hash) {
    return &cache->shards[hash & (cache->n_shards - 1)];
}

/* Whether keys and values have fixed sizes and stand in the records: there are no entries. */
static inline bool pnx__cache_is_fixed(const struct pnx_cache *cache) {
    return cache->shape.key_bytes > 0;
}

/* ---- shard.c ---- */

void pnx__cache_shard_init(struct pnx_cache_shard *shard, struct pnx_cache *cache,
        const struct pnx_cache_policy *policy);
/* Frees what is left of it; nobody else knows the cache. */
void pnx__cache_shard_drop(struct pnx_cache_shard *shard);

/* Of the word wants. */
#define PNX_CACHE_WANTS_HITS      UINT64_C(0xff)
#define PNX_CACHE_WANTS_EXACT     UINT64_C(0x100)
#define PNX_CACHE_WANTS_ACCESS    UINT64_C(0x200)
#define PNX_CACHE_WANTS_SAMPLE(w) ((uint32_t)((w) >> 32))
/* Whether this lookup has to lock. */
static inline bool pnx__cache_wants_lock(uint64_t wants, uint64_t hash) {
    return (wants & PNX_CACHE_WANTS_EXACT) ||
           ((wants & PNX_CACHE_WANTS_ACCESS) &&
                   (pnx__cache_hash_high(hash) & PNX_CACHE_WANTS_SAMPLE(wants)) == 0);
}

/* What the policy is told of the capacity. */
uint64_t pnx__cache_share(const struct pnx_cache *cache);
struct pnx_cache_policy_params pnx__cache_policy_params(
        const struct pnx_cache_shard *shard, const struct pnx_cache *cache);

/* Memory for more slots, made without the lock. */
struct pnx_cache_fresh {
    uint32_t room; /* of table; 0: none is wanted */
    uint32_t
            map_slots; /* of map, where sizes are fixed: those of the table that this one is to replace */
    bool page;         /* one is wanted */
    bool no_reclaim; /* as the insert's */
    struct pnx_cache_table *table;
    uint32_t *map;
    uint32_t map_made; /* slots that it has */
    void *policy_state;
    size_t policy_bytes;
    void *page_memory;
};
/* Whether there is a slot to give; what is missing is asked for in fresh, or installed from it. */
bool pnx__cache_slot_ready_locked(
        struct pnx_cache_shard *shard, struct pnx_cache_fresh *fresh, struct pnx_cache_effects *fx);
/* Makes what is asked for.  -ENOMEM. */
int pnx__cache_fresh_make(struct pnx_cache_shard *shard, struct pnx_cache_fresh *fresh);
void pnx__cache_fresh_drop(struct pnx_cache *cache, struct pnx_cache_fresh *fresh);

/* Lets go of a table that is not the shard's any more. */
void pnx__cache_put_table(struct pnx_cache_table *table, struct pnx_cache_effects *fx);

/* Gives the entry a slot, which stands in the index, the heap and the policy from then on. */
void pnx__cache_slot_insert_locked(
        struct pnx_cache_shard *shard, struct pnx_cache_entry *entry, uint64_t hash, size_t weight);
/* Puts another entry of the same key in the place of one; counts as a use. */
void pnx__cache_slot_replace_locked(struct pnx_cache_shard *shard, struct pnx_cache_entry *old,
        struct pnx_cache_entry *entry, size_t weight);
/* Takes the slot out of all three; told: the policy knows. */
void pnx__cache_slot_remove_locked(struct pnx_cache_shard *shard, uint32_t slot, bool told);
/* The slot was hit. */
void pnx__cache_slot_hit_locked(struct pnx_cache_shard *shard, uint32_t slot);
/* Lets go of the memory of a shard that holds nothing. */
void pnx__cache_shard_tidy_locked(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx);
/* Lets go of it whatever it holds; there is a table.  The counts are the caller's to correct. */
void pnx__cache_shard_empty_locked(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx);

static inline struct pnx_cache_entry *pnx__cache_entry_of(
        const struct pnx_cache_shard *shard, uint32_t slot) {
    return pnx_load(&pnx__cache_record(shard->own_table, slot)->entry, PNX_RELAXED,
            "cache.entry_of"); /* the lock is held */
}

/* Notes that the entry is the last one used. */
static inline void pnx__cache_stamp_locked(
        struct pnx_cache_shard *shard, struct pnx_cache_entry *entry) {
    shard->uses += shard->uses == UINT32_MAX ? 2 : 1; /* not 0 */
    entry->u.in.used = shard->uses;
}

/* The heap: the slot that expires first, or NONE. */
uint32_t pnx__cache_heap_first(const struct pnx_cache_shard *shard);
void pnx__cache_heap_push(struct pnx_cache_shard *shard, uint32_t slot);
void pnx__cache_heap_remove(struct pnx_cache_shard *shard, uint32_t slot);
const char *pnx__cache_heap_check(const struct pnx_cache_shard *shard);

/* Returns what is broken, or NULL. */
const char *pnx__cache_shard_check(const struct pnx_cache_shard *shard);

/* ---- room.c ---- */

static inline uint64_t pnx__cache_limit_bytes(const struct pnx_cache *cache) {
    /* Relaxed: a number; a resize evicts after it has changed it. */
    return pnx_load(&cache->capacity, PNX_RELAXED, "cache.limit_bytes");
}
static inline uint64_t pnx__cache_limit_entries(const struct pnx_cache *cache) {
    return pnx_load(&cache->capacity_entries, PNX_RELAXED, "cache.limit_entries"); /* the same */
}
static inline uint64_t pnx__cache_limit_weight(const struct pnx_cache *cache) {
    return pnx_load(&cache->capacity_weight, PNX_RELAXED, "cache.limit_weight"); /* the same */
}

/*
 * Takes room for an entry in the place of what went (may be all 0); uses up the credit.  What of that is left over is given
 * back at the end: had it been before, others might have taken it when this one has to step back.
 */
bool pnx__cache_take_room(struct pnx_cache *cache, const struct pnx_cache_room *room,
        const struct pnx_cache_room *went, struct pnx_cache_effects *fx);
/* Gives the room back that the effects still count. */
void pnx__cache_give_room(struct pnx_cache *cache, struct pnx_cache_effects *fx);

/* ---- store.c ---- */

/* 0 when the cache may be used by this process; -EINVAL for NULL, -ESHUTDOWN in a forked child. */
int pnx__cache_enter(const struct pnx_cache *cache);

static inline bool pnx__cache_is_closed(const struct pnx_cache *cache) {
    /* Relaxed: who knows that close has returned sees it; so does who gets a shard's lock after close had it. */
    return pnx_load(&cache->closed, PNX_RELAXED, "cache.is_closed") != 0;
}

static inline uint32_t pnx__cache_epoch(const struct pnx_cache *cache) {
    /* Relaxed: who knows that clear has returned sees it. */
    return pnx_load(&cache->epoch, PNX_RELAXED, "cache.epoch");
}

void pnx__cache_lock(struct pnx_cache_shard *shard);
/* The same, for callers who take no notice of entries' own age: where sizes are fixed, drops what is older than a clear. */
void pnx__cache_lock_current(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx);
/* Unlocks, when nothing was taken out or its room is kept. */
void pnx__cache_unlock_kept(struct pnx_cache_shard *shard);
/* Tells lookups what the policy wants now, gives back the room of what was taken out, and unlocks. */
void pnx__cache_unlock(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx);

/*
 * Takes room for one more entry in the shard, evicting from it what goes first; old: what it replaces, or NULL, and what is left of
 * that.  0, -EFBIG, INSERT_AGAIN and the like.
 */
int pnx__cache_make_room_locked(struct pnx_cache_shard *shard,
        const struct pnx_cache_insert *insert, size_t cost, struct pnx_cache_entry **old,
        uint32_t batch, struct pnx_cache_fresh *fresh, struct pnx_cache_effects *fx);
void pnx__cache_count_removal(struct pnx_cache_values *values, enum pnx_cache_cause cause);

/* Returns the visible entry of the key, or NULL; one that has expired or was cleared is removed.  For writers. */
struct pnx_cache_entry *pnx__cache_find_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_effects *fx);

/* The same for lookups, which leave what is kept for the case of an error (*ret_kept, which may be NULL: that one, or NULL);
 * *ret_now: the clock, if it was read. */
struct pnx_cache_entry *pnx__cache_see_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, pnx_ns *ret_now, struct pnx_cache_effects *fx,
        struct pnx_cache_entry **ret_kept);

/* Takes the entry out, for the given cause. */
void pnx__cache_remove_locked(struct pnx_cache_shard *shard, struct pnx_cache_entry *entry,
        enum pnx_cache_cause cause, struct pnx_cache_effects *fx);

/* Keeps the bytes of the registry's row true to an eighth. */
void pnx__cache_update_row(struct pnx_cache *cache);

/* Evicts one entry of the shard, an expired one if there is one.  False when nothing is left. */
bool pnx__cache_evict_locked(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx);

/* Whether the shard has its part of all, about, so that what it takes in pushes out something of its own. */
bool pnx__cache_has_its_share(const struct pnx_cache_shard *shard);

/* The shard that holds most. */
struct pnx_cache_shard *pnx__cache_fullest(const struct pnx_cache *cache);

/* Whether all is within its limits, once credit has gone and this much has come; weights aside. */
bool pnx__cache_fits(const struct pnx_cache *cache, const struct pnx_cache_effects *credit,
        size_t bytes, uint32_t entries);
/* The same with weights. */
bool pnx__cache_has_room(const struct pnx_cache *cache, const struct pnx_cache_effects *credit,
        const struct pnx_cache_room *room);

/*
 * Stores an entry, evicting as needed; locks, unlocks and runs effects.
 * 0, -EEXIST, -EFBIG, -ENOMEM (no memory for the index), -ESHUTDOWN, -ESTALE when the load was overtaken.
 */
int pnx__cache_insert(struct pnx_cache *cache, const struct pnx_cache_insert *insert);

/* P9: takes away what a failed put of the key would have replaced. */
void pnx__cache_forget(struct pnx_cache *cache, uint64_t hash, const void *key, size_t key_size);

/* Charges an entry's cost, first making the room that inserting it will make anyway.  0 or -ENOMEM. */
int pnx__cache_charge(struct pnx_cache *cache, const struct pnx_cache_insert *insert);

/* Counts and reports an item that was refused. */
void pnx__cache_reject(struct pnx_cache *cache, size_t cost, int code);

/* Does what the effects say; no lock may be held.  Returns the bytes freed. */
size_t pnx__cache_run(struct pnx_cache *cache, struct pnx_cache_effects *fx);

/* ---- weigh.c ---- */

/* A callback has returned in a child process, where all that its caller had begun is only a copy of the parent's: no lock, no
 * account and no reference may be touched any more. */
#define PNX_CACHE_FORKED 2

/*
 * Asks the weigher, if there is one, about the entry that is to be inserted, for insert->weight.  No lock may be held.
 * 0, -EFBIG: it weighs more than the capacity; FORKED.
 */
int pnx__cache_weigh(struct pnx_cache *cache, struct pnx_cache_insert *insert);

/* ---- access.c ---- */

#define PNX_CACHE_ABSENT 1 /* a remembered absence */

/* Tells the policy of a request, if it wants to know of this one.  cost: of what was found, or 0. */
void pnx__cache_tell_access_locked(
        struct pnx_cache_shard *shard, uint64_t hash, uint32_t slot, size_t cost);

/*
 * Looks a key up as a use: 0 and the entry, PNX_CACHE_ABSENT, -ENOENT (not counted yet), -ESHUTDOWN.  *ret_now: the clock,
 * where it was read; *ret_kept, with -ENOENT: one that has expired and is kept for the case of an error, or NULL.
 */
int pnx__cache_look_locked(struct pnx_cache_shard *shard, uint64_t hash, const void *key,
        size_t key_size, pnx_ns *ret_now, struct pnx_cache_effects *fx,
        struct pnx_cache_entry **ret_entry, struct pnx_cache_entry **ret_kept);

/* The same without the lock, where that can be; pinned.  PNX_CACHE_LOCK: it has to be asked for under the lock. */
#define PNX_CACHE_LOCK 4
int pnx__cache_look_free(struct pnx_cache_shard *shard, uint64_t hash, const void *key,
        size_t key_size, struct pnx_cache_entry **ret_entry);

/* Copies the bytes of an entry out.  -ENOTSUP for a pointer; -ERANGE: *ret_size, which may be NULL, is what is needed. */
int pnx__cache_copy_out(
        const struct pnx_cache_entry *entry, void *buf, size_t cap, size_t *ret_size);

/* Finds the visible entry of the key, in a section: 0, PNX_CACHE_ABSENT, -ENOENT, or LOCK for one that has to be taken
 * out.  Counts the hit for the policy. */
int pnx__cache_find_free(const struct pnx_cache_shard *shard, uint64_t wants, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_entry **ret_entry);

/* ---- fixed.c ---- */

typedef int pnx_cache_visit_copy_fn(void *ctx, const void *key, const void *value);

void pnx__cache_fixed_init(struct pnx_cache_shard *shard, struct pnx_cache_wheel *wheel);
/* The present tick of the cache's clock. */
uint32_t pnx__cache_tick_now(const struct pnx_cache *cache);

/* Hash of the key in a record, and its high half. */
uint64_t pnx__cache_fixed_hash(const struct pnx_cache *cache, const struct pnx_cache_fixed *record);
static inline uint32_t pnx__cache_fixed_high(
        const struct pnx_cache *cache, const struct pnx_cache_fixed *record) {
    return pnx__cache_hash_high(pnx__cache_fixed_hash(cache, record));
}

/* Locks the shard, and drops what was stored before the last clear. */
void pnx__cache_fixed_lock(struct pnx_cache_shard *shard, struct pnx_cache_effects *fx);
int pnx__cache_fixed_try_insert_locked(struct pnx_cache_shard *shard,
        const struct pnx_cache_insert *insert, uint32_t batch, struct pnx_cache_fresh *fresh,
        struct pnx_cache_effects *fx);
void pnx__cache_fixed_remove_locked(struct pnx_cache_shard *shard, uint32_t slot,
        enum pnx_cache_cause cause, bool told, struct pnx_cache_effects *fx);
/* The record of the key, or NULL; one that has expired is removed. */
struct pnx_cache_fixed *pnx__cache_fixed_see_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, struct pnx_cache_effects *fx, uint32_t *ret_slot);
/* The same as a use, of which the policy is told; copies the value out. */
struct pnx_cache_fixed *pnx__cache_fixed_use_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, struct pnx_cache_effects *fx, void *value);
/* When what stands in the record is gone; PNX_NEVER. */
pnx_ns pnx__cache_fixed_expires(
        const struct pnx_cache *cache, const struct pnx_cache_fixed *record);

/* The calls, for sizes that have been checked: as those of the same names without fixed. */
int pnx__cache_fixed_get_copy(struct pnx_cache *cache, const void *key, size_t key_size, void *buf,
        size_t cap, size_t *ret_size);
int pnx__cache_fixed_put(
        struct pnx_cache *cache, const void *key, const void *value, pnx_ns ttl, bool if_absent);
int pnx__cache_fixed_remove(struct pnx_cache *cache, const void *key, size_t key_size);
int pnx__cache_fixed_each(struct pnx_cache *cache, pnx_cache_visit_copy_fn *visit, void *ctx);
void pnx__cache_fixed_sweep(struct pnx_cache *cache);
pnx_ns pnx__cache_fixed_tick(struct pnx_cache_shard *shard, pnx_ns now, uint32_t *budget);
size_t pnx__cache_fixed_reclaim(struct pnx_cache *cache, size_t want);
const char *pnx__cache_fixed_check(const struct pnx_cache_shard *shard);
/* One lookup in a section, of which nothing is counted: 0, -ENOENT, or LOCK. */
int pnx__cache_fixed_find(const struct pnx_cache_shard *shard, uint64_t wants, uint64_t hash,
        const void *key, size_t key_size, void *value);
/* The same in a section of its own, and a few times where the record is being written: then LOCK. */
int pnx__cache_fixed_look(
        const struct pnx_cache *cache, uint64_t hash, const void *key, void *value);

/* ---- fixed_load.c ---- */

/* A lookup that locks nothing: 0, which counts as a hit; or what has to be looked at under the lock, uncounted. */
int pnx__cache_fixed_look_free(
        struct pnx_cache *cache, uint64_t hash, const void *key, void *value);
/* Says that a load of the key has been overtaken, by a change that failed. */
void pnx__cache_fixed_overtake(struct pnx_cache *cache, uint64_t hash, const void *key);

/* ---- wheel.c ---- */

/* Puts a slot where the wheel will find it at that tick, unless it is in it already. */
void pnx__cache_wheel_add(struct pnx_cache_shard *shard, uint32_t slot, uint32_t expires);
/* Returns a slot that has expired by now, which the wheel does not hold any more, or NONE; *steps: that it may take. */
uint32_t pnx__cache_wheel_due(struct pnx_cache_shard *shard, uint32_t now, uint32_t *steps);
/* The tick at which there may be something to do, or TICK_NEVER. */
uint32_t pnx__cache_wheel_next(const struct pnx_cache_shard *shard);
void pnx__cache_wheel_reset(struct pnx_cache_shard *shard);
/* Does the same for slots that have got other numbers. */
void pnx__cache_wheel_rebuild(struct pnx_cache_shard *shard);
const char *pnx__cache_wheel_check(const struct pnx_cache_shard *shard);

/* ---- sweep.c ---- */

/* Removes all entries that were stored before the last clear, in batches. */
void pnx__cache_sweep(struct pnx_cache *cache, enum pnx_cache_cause cause);

size_t pnx__cache_reclaim(void *cache, size_t want);

typedef int pnx_cache_visit_fn(void *ctx, const struct pnx_cache_ref *ref);
/* As pnx_cache_each(); sees_kept: visits what has expired and is kept for errors, too, as STALE. */
int pnx__cache_walk(struct pnx_cache *cache, bool sees_kept, pnx_cache_visit_fn *visit, void *ctx);

/* ---- load.c ---- */

/* Says that the key's load under way, if there is one, has been overtaken. */
void pnx__cache_overtake_locked(
        struct pnx_cache_shard *shard, uint64_t hash, const void *key, size_t key_size);
bool pnx__cache_load_overtaken(const struct pnx_cache_load *load);

/* Ends waits and kept loads whose time is over by now, at most *budget; returns when the next one is. */
pnx_ns pnx__cache_tick_loads(struct pnx_cache_shard *shard, pnx_ns now, uint32_t *budget);

/* Sends all who wait for loads of the closed cache away with -ESHUTDOWN. */
void pnx__cache_cancel_waiters(struct pnx_cache *cache);

/* Returns what is broken, or NULL. */
const char *pnx__cache_loads_check(const struct pnx_cache_shard *shard);

/* ---- deferred.c ---- */

/* Has the executor destroy the entry, whose last reference is gone; false: the caller has to. */
bool pnx__cache_defer(struct pnx_cache_entry *entry);

/* ---- curve.c ---- */

struct pnx_cache_curve;
/* 0 with *ret_curve NULL where the option is 0; -ENOMEM. */
int pnx__cache_curve_make(
        const struct pnx_env *env, uint32_t samples, struct pnx_cache_curve **ret_curve);
void pnx__cache_curve_drop(const struct pnx_env *env, struct pnx_cache_curve *curve);
size_t pnx__cache_curve_bytes(const struct pnx_cache_curve *curve);
/* A lookup of the key; no lock may be held. */
void pnx__cache_curve_follow(struct pnx_cache *cache, uint64_t hash);
static inline void pnx__cache_curve_note(struct pnx_cache *cache, uint64_t hash) {
    if (__builtin_expect(cache->curve != NULL, 0))
        pnx__cache_curve_follow(cache, hash);
}

/* ---- report.c ---- */

void pnx__cache_sum(const struct pnx_cache *cache, struct pnx_cache_values *ret_values);
void pnx__cache_refresh(const struct pnx_stats_block *block);

void pnx__cache_count_pins(struct pnx_cache *cache, uint64_t n);
uint64_t pnx__cache_pinned(const struct pnx_cache *cache);

#endif
