/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/internal.h - the cache as its own files see it.
 *
 *   cache.c    make, close, release; options
 *   entry.c    entries, references
 *   store.c    what happens under the lock: find, insert, remove, evict, expire
 *   access.c   get, put, remove
 *   sweep.c    clear, walk, tick, resize, reclaim: all that touches many entries, in batches
 *   load.c     loaders, waiters, the wait-for graph
 *   report.c   statistics, invariants
 *   index.c, heap.c, policies/  slots
 *
 * Pattern of every operation: lock, decide, note what is to be done in a struct pnx_cache_effects, unlock, do it.
 */
#ifndef PNX_SRC_CACHE_INTERNAL_H
#define PNX_SRC_CACHE_INTERNAL_H

#include "base/env.h"
#include "base/list.h"
#include "cache/entry.h"
#include "cache/index.h"
#include "os/mutex.h"
#include "os/thread.h"

#include <patinox/cache.h>

#include <stdlib.h>

#define PNX_GROUP     cache
#define PNX_GROUP_DEF <patinox/stats/cache.def>
#include "stats/declare_group.inc"

#define PNX_CACHE_MAGIC        UINT32_C(0x63616368)
#define PNX_CACHE_ENTRIES_MAX  (UINT64_C(1) << 30)
#define PNX_CACHE_LOAD_BUCKETS 64
#define PNX_CACHE_BATCH        64 /* entries removed in one go under the lock */
#define PNX_CACHE_FAILING      8  /* failed loads in a row that make the cache's health degraded */

struct pnx_cache_load;

/*
 * Owned by its maker, and by each reference to an entry.  Conservation: values.entries == index.live;
 * values.bytes == sum of the costs of stored entries <= capacity; inserts == entries + all removed_*.
 */
struct pnx_cache {
    /* fixed at create */
    uint32_t magic;
    uint32_t fork_generation;
    struct pnx_env env;
    char *name;
    const char *site;
    pnx_cache_destroy_fn *destroy;
    void *ctx;
    struct pnx_registry *registry;
    pnx_resource_id row;
    struct pnx_budget *budget; /* a reference */
    struct pnx_reclaimer_handle *reclaimer;
    size_t base_charge;
    uint64_t seed;
    pnx_ns negative_ttl; /* PNX_NEVER: off */
    pnx_ns load_timeout;

    struct pnx_mutex lock;
    /* guarded by lock */
    struct pnx_cache_index index;
    _Alignas(8) unsigned char policy_state[PNX_CACHE_ORDER_STATE];
    uint64_t next_seq;
    uint64_t clear_seq; /* entries before are no longer visible */
    size_t capacity;    /* SIZE_MAX: no limit */
    uint64_t capacity_entries;
    pnx_ns ttl;
    struct pnx_link loads[PNX_CACHE_LOAD_BUCKETS];
    uint32_t n_loads;
    uint32_t failures; /* loads failed in a row */
    uint32_t resizing; /* calls that are evicting down to new limits */
    bool closed;

    struct pnx_a64
            row_bytes; /* what the registry's row shows; racy by design, it only thins updates */

    /*
     * Written under lock, save pinned and detached, which anybody adds to.  pinned is also the reference
     * count of the cache: the maker's own reference is the step from 0 to -1, after which nobody reads it.
     */
    struct pnx_cache_values values;
    struct pnx_cache_histograms histograms;
    struct pnx_stats_block block;
};

/* What a thread has to do once it has unlocked. */
struct pnx_cache_effects {
    struct pnx_cache_entry *dead; /* taken out of the cache, in that order: drop its reference */
    struct pnx_cache_entry *last; /* of dead, when there is one */
    struct pnx_cache_spare *spare;
    uint32_t count; /* entries in dead */
    size_t bytes;   /* their cost */
};

/* What is to be inserted. */
struct pnx_cache_insert {
    struct pnx_cache_entry
            *entry; /* with the maker's reference; on success the cache has its own */
    uint64_t hash;
    struct pnx_cache_load *load; /* of which it is the result; NULL for a put */
    pnx_ns ttl;                  /* 0: the cache's */
    bool if_absent;
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

/* ---- cache.c ---- */

/* Checks options and fills in defaults; ret_opts may be opts. */
int pnx__cache_opts_resolve(
        const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache_opts *ret_opts);

/* Sets the limits, 0 for none, without evicting. */
void pnx__cache_limits_locked(struct pnx_cache *cache, size_t capacity, uint64_t capacity_entries);

/* ---- store.c ---- */

/* 0 when the cache may be used by this process; -EINVAL for NULL, -ESHUTDOWN in a forked child. */
int pnx__cache_enter(const struct pnx_cache *cache);

static inline uint64_t pnx__cache_hash_bucket(uint64_t hash) {
    return (hash >> 32) % PNX_CACHE_LOAD_BUCKETS;
}

static inline size_t pnx__cache_bytes_locked(const struct pnx_cache *cache) {
    return (size_t)pnx_load(&cache->values.bytes, PNX_RELAXED, "cache.bytes"); /* lock held */
}

/* Returns the visible entry of the key, or NULL; one that has expired or was cleared is removed. */
struct pnx_cache_entry *pnx__cache_find_locked(struct pnx_cache *cache, uint64_t hash,
        const void *key, size_t key_size, struct pnx_cache_effects *fx);

/* Takes the entry out, for the given cause. */
void pnx__cache_remove_locked(struct pnx_cache *cache, struct pnx_cache_entry *entry,
        enum pnx_cache_cause cause, struct pnx_cache_effects *fx);

/* Keeps the bytes of the registry's row true to an eighth. */
void pnx__cache_update_row(struct pnx_cache *cache);

/* Evicts one entry, an expired one if there is one.  False when nothing is left. */
bool pnx__cache_evict_locked(struct pnx_cache *cache, struct pnx_cache_effects *fx);

/* Gives the caller a reference to a stored entry, or another to one that the caller has. */
void pnx__cache_pin(struct pnx_cache_entry *entry, uint32_t n);

/*
 * Stores an entry, evicting as needed; locks, unlocks and runs effects, several times if much must go.
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

/* Drops a reference to the cache itself. */
void pnx__cache_unref(struct pnx_cache *cache);

/* ---- access.c ---- */

#define PNX_CACHE_ABSENT 1 /* a remembered absence */

/* Looks a key up as a use: 0 and the entry, PNX_CACHE_ABSENT, -ENOENT (not counted yet), -ESHUTDOWN. */
int pnx__cache_look_locked(struct pnx_cache *cache, uint64_t hash, const void *key, size_t key_size,
        struct pnx_cache_effects *fx, struct pnx_cache_entry **ret_entry);

/* ---- sweep.c ---- */

/* Removes all entries stored before clear_seq, in batches. */
void pnx__cache_sweep(struct pnx_cache *cache, enum pnx_cache_cause cause);

size_t pnx__cache_reclaim(void *cache, size_t want);

/* ---- load.c ---- */

/* Says that the key's load under way, if there is one, has been overtaken. */
void pnx__cache_overtake_locked(
        struct pnx_cache *cache, uint64_t hash, const void *key, size_t key_size);
void pnx__cache_overtake_all_locked(struct pnx_cache *cache);
bool pnx__cache_load_overtaken(const struct pnx_cache_load *load);

/* Sends all who wait for loads of the closed cache away with -ESHUTDOWN. */
void pnx__cache_cancel_waiters(struct pnx_cache *cache);

/* Returns what is broken, or NULL. */
const char *pnx__cache_loads_check(const struct pnx_cache *cache);

#endif
