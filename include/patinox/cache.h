/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/cache.h - a bounded concurrent cache from byte keys to values, with expiry and single-flight loading.
 *
 * EXPERIMENTAL: may change until the release that finishes this part.
 *
 * Keys are bytes and are compared in full.  A value is bytes that the cache copies in, or a pointer of yours
 * that it destroys.  A lookup copies the bytes out, or gives a reference that keeps its entry alive, whatever happens
 * to the cache:
 *
 *     (made) --put, load--> STORED --removed, replaced, evicted, expired--> DETACHED --last reference--> gone
 *                              |                                               ^
 *                              +-- cleared, closed ----------------------------+
 *
 *   P1  At no moment do the entries stored count more than capacity bytes, weigh more than capacity_weight, or are more than
 *       capacity_entries (0: no limit), however many threads put.  Bytes are real ones: key, value, header, the allocator's rounding and the
 *       entry's share of the index, as pnx_cache_cost() tells.  Memory of entries that have left is given back when
 *       readers that may be looking at it have gone on, at 64 of them or 512 KiB a thread (patinox/reclaim.h).
 *       There is one capacity, whatever the number of shards: what is not larger than all of it is not refused.
 *   P2  Who goes when there is no room is the policy's to say (patinox/cache_policy.h); entries of the same shard that
 *       have expired go before that.  With one shard the order is exactly the policy's.
 *   P3  An entry is never returned once its time to live has passed on the clock of the environment.
 *   P4  Each value is destroyed exactly once, with its cause, after it has left the cache and its last
 *       reference has been released, on the thread that did the later of the two, or by the destroy_executor
 *       of the options.
 *   P5  Loaders, weighers, destructors, visitors and callbacks of requests run with no lock held, and may call the cache again.  They
 *       must return: one that throws, or ends its thread, aborts the process.
 *   P6  At most one loader runs for a key (but see P15); all who ask meanwhile share its result or its error.  A result that
 *       was overtaken by a put, a remove or a clear of the key is handed to those who waited, never stored.
 *   P7  A load that waits for itself, directly or through other keys, caches and threads, functions on keys of maps,
 *       writers of snapshots and reloads of configs, is -EDEADLK.  Waits for other things, locks of yours say, are
 *       not seen: there the timeout ends the circle.
 *   P8  A hit allocates nothing, but for one that begins a refresh (P12).  It takes no lock and writes nothing that other threads' hits write, but for a
 *       reference's count (not for pnx_cache_get_copy()), a small count of hits up to the policy's maximum, and what P11 says.  Policies
 *       to which hits have an order (lru, lfu, w-tinylfu, lirs, and those of yours that say so) lock the key's shard.
 *   P9  A put that fails with -EFBIG or -ENOMEM leaves no older value behind: what it meant to replace is gone.
 *   P10 Calls on one key are linearizable: each takes effect at one moment between its call and its return, lookups
 *       included; while a key is stored, and replaced, no lookup misses it.  A clear takes effect for all keys at one moment.
 *   P11 With ttl_access an entry also expires once nobody has used it for that time, or up to min(1 s, ttl_access / 16)
 *       sooner: a use is written down only when the last one that was is older than that, so that hits rarely write.
 *       Whatever comes first holds.  A clock that goes back makes nothing expire sooner.  Lookups that find it and computes are
 *       uses; a walk, a retain, a save, a reservation, and a put or commit that leaves it as it is are none.
 *   P12 A value that is older than refresh_after, and has not expired, is returned at once, and refreshed: by the executor
 *       where there is one, with refresh_loader, whoever finds it; else by the first that asks with a loader, in its call, while
 *       all others get the old value.  One refresh of a key runs at a time.  One that fails leaves the old value, which
 *       those get, too, who waited for it because the value had been evicted meanwhile, and is tried again when refresh_backoff
 *       has passed; -ENOENT is no failure: the old value goes.
 *   P13 With stale_if_error, a value that has expired is kept for that time more: when a load of its key fails, all who
 *       waited get it instead of the error, and so do those who ask before refresh_backoff has passed.  Lookups that do not
 *       load never return it, and nothing else may see it but a retain's predicate; it counts, and goes before all entries that
 *       have not expired.  A put, a commit, a compute that changes something, a remove, or a clear of the key ends it.
 *   P14 Each request that pnx_cache_get_async() accepted is told its outcome once, unless pnx_cache_cancel() took it back.
 *       Its callback runs with no lock held, and never inside another one on the same thread.
 *   P15 A load that its loader keeps is one like others, until it is ended, or found to be past its deadline: then it is
 *       given up, and whoever waited for it and has time left leads the next one.
 *
 *   P16 What is reserved is charged to the budget from then on; nobody sees it, and it counts against no capacity, before it
 *       is committed.  Its times (ttl, P11, P12) count from the commit, and no clear or
 *       removal before it ends it.
 *   P17 A compute takes effect at one moment: what its function saw last is what was stored then, so that no change of others
 *       is lost.  It waits for nobody, and its function runs with no lock held.
 *   P18 A retain removes what its predicate has refused, and nothing that took its place meanwhile.  What it has removed is
 *       not returned instead of an error (P13), and no load of it that was under way is stored.
 *   P19 A save leaves the old file whole, or the new one.  A file is loaded as it was saved, or it is refused, and the cache
 *       stays as it was.
 *   P20 With a weigher each value is weighed once, before it is stored, and keeps its weight until it leaves: at least 1, so that
 *       there are never more than capacity_weight entries.  The budget is charged real bytes all the same.
 *
 * All times are on the environment's clock, pnx_now() by default; it is read only for entries that expire.
 * Only get_or_load() and get_or_load_copy() wait for anything.  (With an executor, a lookup may submit a job to it: give it a policy for when it is
 * full that does not block.)
 *
 * Fork: a cache belongs to the process that made it.  In a forked child every call on it is -ESHUTDOWN, its
 * references stay readable, and releasing either destroys nothing.
 */
#ifndef PNX_CACHE_H
#define PNX_CACHE_H

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/error.h>
#include <patinox/executor.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

#include <errno.h>

PNX_BEGIN_DECLS

struct pnx_cache; /* safe to use from any thread */
struct pnx_cache_policy;
struct pnx_executor;

/* Why a value left the cache. */
enum pnx_cache_cause {
    PNX_CACHE_EXPLICIT =
            1, /* removed by key; or loaded or computed and discarded before it was stored */
    PNX_CACHE_REPLACED, /* a newer value took its place, or was meant to (P9) */
    PNX_CACHE_SIZE, /* evicted to keep the capacity, too large or heavy for it, or the budget asked */
    PNX_CACHE_EXPIRED, /* its time to live passed */
    PNX_CACHE_CLEAR,   /* pnx_cache_clear() */
    PNX_CACHE_CLOSED,  /* pnx_cache_close(), pnx_cache_release() */
};

/* A value that has left the cache.  Pointers are valid during the call only, those of yours aside. */
struct pnx_cache_removed {
    size_t size; /* sizeof(struct pnx_cache_removed) */
    const void *key;
    size_t key_size;
    void *value; /* the bytes, or the pointer that was put */
    size_t value_size;
    enum pnx_cache_cause cause;
    uint32_t reserved_;
};

/*
 * Destroys a value (P4, P5), with its cause: a removal listener, too.  A put that is refused is no removal: its value was never
 * stored, and is still its owner's.  A loaded value that could not be stored goes with PNX_CACHE_SIZE.  For values that are bytes it is only told: the cache frees them.  May call the
 * cache, release excepted; must not block for long, since it runs in whoever made room.
 */
typedef void pnx_cache_destroy_fn(void *ctx, const struct pnx_cache_removed *removed);

/*
 * Says what a value weighs, in the unit of capacity_weight, whatever that is.  Called once for each value that is about to be
 * stored, however it came: put, committed, computed, loaded, refreshed, from a file; on the thread that stores it, with no
 * lock held (P5).  value is the bytes, aligned to 16, or the pointer that was put; NULL, with value_size 0, for an absence that
 * is about to be remembered.  All of it is valid during the call only, a pointer of yours aside, and not to be changed.
 * Threads call it at once, and whoever stores waits for it: it should be quick.
 *
 * 0 counts as 1: values that weigh nothing would take memory without a bound.  More than capacity_weight is refused: -EFBIG
 * (P9), or handed out and not stored, for a loaded value; both count as rejected.  There is no other way to refuse.
 *
 * May call the cache, release excepted, with any key: what would wait for the load that it is called for is -EDEADLK, as a
 * compute is of the key that it is called for by a compute.  A weigher that stores is called for that, too: stop somewhere.
 */
typedef uint64_t pnx_cache_weigh_fn(
        void *ctx, const void *key, size_t key_size, const void *value, size_t value_size);

#define PNX_CACHE_WEIGHT_MAX (UINT64_C(1) << 62) /* the largest capacity_weight */

struct pnx_cache_load; /* a load under way, as its loader sees it; valid during the loader's call (but see keeping, below) */

/*
 * Makes the value of a key: calls one of the two below and returns 0; or returns a negative error.  -ENOENT says
 * that there is no such thing and is remembered for the cache's negative_ttl.  Should end by deadline.
 */
typedef int pnx_cache_load_fn(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load);

struct pnx_cache_opts {
    size_t size;      /* set by PNX_CACHE_OPTS */
    const char *name; /* copied; label in statistics, events and reports; default "cache" */
    const char *site; /* set by PNX_CACHE_OPTS */
    const struct pnx_env *env;     /* allocator, clock, random; default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget;     /* default: the process's; pnx_budget_off() */
    pnx_cache_destroy_fn *destroy; /* default: none */
    void *ctx;                     /* first argument of destroy */
    size_t capacity; /* bytes, at least 1024; this, capacity_entries or capacity_weight is required, all that are given hold */
    uint64_t capacity_entries; /* entries */
    pnx_ns ttl;          /* of entries that name none; default PNX_NEVER: they do not expire */
    pnx_ns negative_ttl; /* how long a loader's -ENOENT is remembered; default PNX_NEVER: not at all */
    pnx_ns load_timeout; /* what PNX_TIMEOUT_DEFAULT means; default 30 s */
    const char *
            policy; /* name of an eviction policy: "auto" (default), "lru", "s3-fifo" ...; not copied */
    const struct pnx_cache_policy *custom_policy; /* one of yours, instead */
    uint32_t
            shards; /* parts with a lock each, a power of two up to 64; default: by the capacity (a unit of weight taken
                        for a byte), 1 below 4096 entries and where hits have an order (P8) */
    uint32_t
            key_bytes; /* size of every key, up to 64, and of every value, up to 256: both or neither.  See Fixed */
    uint32_t value_bytes; /* sizes */
    uint32_t flags;       /* must be 0 */
    /* times (P11) */
    pnx_ns ttl_access; /* how long an entry stays that nobody uses; default PNX_NEVER */
    uint32_t
            ttl_jitter; /* per cent: each time to live, and until a refresh, is shortened at random by up to that, but for
                            what is left of an older one (change_keep_ttl, load_file); default 0 */
    uint32_t reserved; /* must be 0 */
    pnx_ns refresh_after; /* how old a value becomes before it is refreshed while it is served (P12); default PNX_NEVER */
    pnx_ns refresh_backoff; /* how long after a failed refresh until another one is tried; default 1 s */
    pnx_ns stale_if_error; /* how long past its end a value is kept for the case that a load fails (P13); default 0 */
    struct pnx_executor
            *executor; /* runs refreshes; must outlive the cache; default: those who ask do */
    pnx_cache_load_fn
            *refresh_loader; /* loader of these refreshes, required with executor; default: none */
    void *refresh_ctx;       /* its first argument */
    /* How outcomes of requests come to your loop: called with no lock held, it must have run(arg) called soon, once, on
     * whichever thread you like.  Default: at once, on the thread that had the news. */
    void (*post)(void *post_ctx, void (*run)(void *arg), void *arg);
    void *post_ctx;
    /*
     * Runs destroy, instead of the thread that let the value go; must outlive the cache and its references.  Up to
     * PNX_CACHE_DEFERRED_MAX values wait for it, charged and in the order in which they went; when more do, or it
     * refuses its job, destroy is run at once.  Default: none.
     */
    struct pnx_executor *destroy_executor;
    /* Keys that are followed for pnx_cache_curve(), at most, 256 to 2^20: 44 bytes each; default 0: off.  A request of one takes
     * a lock, which P8 knows nothing of. */
    uint64_t curve_samples;
    /*
     * What values weigh, and how much all of them may together, up to PNX_CACHE_WEIGHT_MAX: both or neither (P20).  Policies are
     * told weights then, and not bytes or entries; a capacity beside it is a bound on memory, which weights alone are not.
     */
    pnx_cache_weigh_fn *weigher;
    void *weigher_ctx; /* its first argument */
    uint64_t capacity_weight;
};
#define PNX_CACHE_DEFERRED_MAX 1024

#ifndef __cplusplus
#define PNX_CACHE_OPTS(...) \
    (&(const struct pnx_cache_opts){ \
            .size = sizeof(struct pnx_cache_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_cache_opts pnx_cache_opts_init() {
    struct pnx_cache_opts opts = {};
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Sets one option from text: capacity "64MiB", ttl "10min" or "never".  -ENOENT for a name that is not an option,
 * -EINVAL for text that does not parse, -ERANGE, -ENOTSUP for options that are not numbers.
 */
PNX_API PNX_NODISCARD int pnx_cache_opts_set(
        struct pnx_cache_opts *opts, const char *name, const char *text, struct pnx_error *err);

/*
 * Creates a cache.  -EINVAL (err names the field), -E2BIG when opts sets a field unknown to this library,
 * -ENOMEM, -ESHUTDOWN when the registry has been shut down.  Its memory, and what it has charged to the budget, goes when
 * it has been released, no reference is left, and readers have gone on (pnx_reclaim_barrier() waits for that).
 */
PNX_API PNX_NODISCARD int pnx_cache_create(
        const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache **ret_cache);

/*
 * Closes the cache: later calls, and callers that wait for a load, get -ESHUTDOWN; all entries go, with
 * PNX_CACHE_CLOSED.  Does not wait, so that it may be called from anywhere; idempotent.  Returns how many
 * references and loads are still out (0: all home).  A registry's shutdown calls it.
 */
PNX_API int pnx_cache_close(struct pnx_cache *cache);

/*
 * Closes the cache and drops it.  No other thread may be inside a call on it, and no callback of it may be
 * running; references may outlive it, and keep its memory until they are released.
 */
PNX_API void pnx_cache_release(struct pnx_cache **cache);

/* ---- references ---- */

struct pnx_cache_entry;

/* Where get_or_load() found a value. */
enum pnx_cache_source {
    PNX_CACHE_FOUND = 1, /* it was stored */
    PNX_CACHE_LOADED,    /* this call's loader made it */
    PNX_CACHE_SHARED,    /* the loader of another caller, for which this call waited, made it */
    PNX_CACHE_STALE, /* it was stored, and is to be refreshed (P12), or has expired and could not be loaded (P13) */
};

/* A reference to an entry.  A value: belongs to one thread at a time, may be handed on; {0} refers to none. */
struct pnx_cache_ref {
    struct pnx_cache_entry *entry;
    uint32_t source; /* enum pnx_cache_source */
    uint32_t reserved_;
};

/* Returns the value: bytes (aligned to 16) or your pointer.  Valid until the release; NULL for an empty ref. */
PNX_API void *pnx_cache_ref_data(const struct pnx_cache_ref *ref);

/* Returns the value's size: of its bytes, or what was given with the pointer.  0 for an empty ref. */
PNX_API size_t pnx_cache_ref_size(const struct pnx_cache_ref *ref);

/* Returns the key and its size; NULL and 0 for an empty ref. */
PNX_API const void *pnx_cache_ref_key(const struct pnx_cache_ref *ref, size_t *ret_size);

/* Takes a second reference to the same entry.  Copying the struct does not.  -EINVAL for an empty ref. */
PNX_API PNX_NODISCARD int pnx_cache_ref_dup(
        const struct pnx_cache_ref *ref, struct pnx_cache_ref *ret_ref);

/* Gives the reference back and clears *ref; an empty one, and NULL, are fine.  Takes no lock of the
 * cache; the last one of an entry that has left it destroys the value (P4). */
PNX_API void pnx_cache_ref_release(struct pnx_cache_ref *ref);

/* Declares a reference released at the end of the scope:  PNX_AUTO_CACHE_REF ref = {0}; */
#define PNX_AUTO_CACHE_REF PNX_CLEANUP(pnx_cache_ref_release) struct pnx_cache_ref

/* ---- entries ----
 * A key may be empty (key_size 0, key may be NULL).  A ttl of 0 is the cache's; PNX_NEVER: does not expire. */

/* Finds an entry, which is a use.  -ENOENT, -ESHUTDOWN, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_cache_get(
        struct pnx_cache *cache, const void *key, size_t key_size, struct pnx_cache_ref *ret_ref);

/*
 * The same, but does not count a miss: for callers who look first and load by pnx_cache_get_or_load(), which does.  -ENODATA
 * where it is remembered that there is nothing to load, which is a negative hit.
 */
PNX_API PNX_NODISCARD int pnx_cache_probe(
        struct pnx_cache *cache, const void *key, size_t key_size, struct pnx_cache_ref *ret_ref);

/*
 * As pnx_cache_get(), copying the bytes into a buffer: the cheapest way for small values, with no write to anything shared
 * (P8).  -ERANGE when they are more than cap: nothing is copied, and
 * *ret_size (may be NULL) is what is needed; where sizes are fixed, also for a key that is not there, and no lookup.
 * -ENOTSUP for a pointer.  -ENOENT, -ESHUTDOWN, -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_cache_get_copy(struct pnx_cache *cache, const void *key,
        size_t key_size, void *buf, size_t cap, size_t *ret_size);

#define PNX_CACHE_MANY_MAX 64 /* keys of one pnx_cache_get_many() */

/*
 * Looks up n keys of key_size bytes each, which stand one after the other, and copies their values to values, value_size
 * bytes each.  The lookups' cache misses overlap, so that with a cache larger than the processor's it takes a part of the
 * time of n pnx_cache_get_copy().  Bit i of *ret_found says whether key i was found with a value of exactly value_size
 * bytes; where not, its place in values is as it was.  Each lookup takes effect, and counts, for itself; one whose value
 * has another size counts as a hit.  Returns how many were found.  -E2BIG for n > PNX_CACHE_MANY_MAX, and for keys of 4 GiB or
 * more, -ESHUTDOWN, -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_cache_get_many(struct pnx_cache *cache, const void *keys,
        size_t key_size, size_t n, void *values, size_t value_size, uint64_t *ret_found);

/*
 * Stores a copy of value, replacing an older one.  May run destructors, and reclaimers of the budget.
 * -EFBIG when it is larger or heavier than the whole capacity, -ENOMEM (no memory, or the budget refused), see P9 for both;
 * -ESHUTDOWN, -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_cache_put(struct pnx_cache *cache, const void *key, size_t key_size,
        const void *value, size_t value_size, pnx_ns ttl);

/*
 * Stores a pointer of yours, which counts as value_size bytes; the cache destroys it.  On failure it is still
 * yours.  Errors as pnx_cache_put().
 */
PNX_API PNX_NODISCARD int pnx_cache_put_pointer(struct pnx_cache *cache, const void *key,
        size_t key_size, void *value, size_t value_size, pnx_ns ttl);

/* The same two, only where no entry is; a remembered absence is none.  -EEXIST, and the errors above. */
PNX_API PNX_NODISCARD int pnx_cache_put_if_absent(struct pnx_cache *cache, const void *key,
        size_t key_size, const void *value, size_t value_size, pnx_ns ttl);
PNX_API PNX_NODISCARD int pnx_cache_put_pointer_if_absent(struct pnx_cache *cache, const void *key,
        size_t key_size, void *value, size_t value_size, pnx_ns ttl);

/* Removes an entry, or a remembered absence.  -ENOENT, -ESHUTDOWN, -EINVAL. */
PNX_API int pnx_cache_remove(struct pnx_cache *cache, const void *key, size_t key_size);

/* Removes all entries that were there when it was called, at one moment for all readers.  -ESHUTDOWN, -EINVAL. */
PNX_API int pnx_cache_clear(struct pnx_cache *cache);

/*
 * Calls visit once for each entry that is there all the time, in no order; entries that come meanwhile are left
 * out, those that go may be.  A nonzero return ends the walk and is returned.  Not a use: the order of eviction
 * stays.  visit may do all with the cache, and may pnx_cache_ref_dup() what it wants to keep.
 * -ESHUTDOWN, -EINVAL.
 */
PNX_API int pnx_cache_each(struct pnx_cache *cache,
        int (*visit)(void *ctx, const struct pnx_cache_ref *ref), void *ctx);

/* ---- fixed sizes ----
 *
 * Where all keys have the same size, and all values too, they stand in the index itself: there is no block of memory for an
 * entry, a lookup waits for memory once, and a put allocates nothing but larger tables while the cache fills.  Such a cache is made
 * with key_bytes and value_bytes, or by PNX_CACHE_DEFINE().  What it does otherwise:
 *
 *   - Values are copied, always: get_copy(), get_many(), put(), put_if_absent(), remove(), get_or_load_copy(), compute_copy(),
 *     each_copy(), retain_copy(), refresh(), save(), load_file(), and all that is about the whole cache.  There are no references,
 *     pointers, reservations, views, requests and destructors: those calls are -ENOTSUP, destroy is -EINVAL.  Ages at eviction
 *     are not counted.
 *   - ttl_access, ttl_jitter, refresh_after, stale_if_error, executor and negative_ttl are -EINVAL: a record has no room for
 *     what they would keep.  A loader's -ENOENT is told to all who waited, and remembered by nobody.
 *   - A size that is another one is -EINVAL; also where a loader or a compute gives it.
 *   - All entries weigh the same: a weigher is -EINVAL, and capacity_entries says what it would.
 *   - A time to live counts in 67 ms (2^26 ns) and is rounded down; less than PNX_CACHE_FIXED_TTL_MIN is -EINVAL.
 *     These are counted in 32 bits: nothing with a time to live is returned later than nine years after the cache was made, nor
 *     on a clock that has gone back to more than 25 days before that.
 *   - Of entries of a shard that have expired most, but not always all, go before what the policy would evict (P2): their order is
 *     known to a bucket of a timing wheel.  None is ever returned (P3).
 *   - An entry counts pnx_cache_cost_fixed() bytes.  That is enough for what the policies remember of it, but for lirs, with which it
 *     takes up to 1.6 times that, and for auto in caches of a few hundred entries.  The budget is charged by tables, with all that the policy
 *     keeps, of which a shard has one, and while it is exchanged for one a quarter larger both; a removal gives nothing back, and the budget's reclaimer, and a clear, empty whole shards.
 *   - A shard has at most 14,260,620 entries, and evicts beyond that.
 *   - each_copy() visits each entry that is there from begin to end once; one that is replaced or removed meanwhile it may visit as it was.
 */

#define PNX_CACHE_FIXED_TTL_MIN (INT64_C(1) << 27) /* 134 ms */

/* Returns how many bytes an entry of fixed sizes counts as; SIZE_MAX for sizes that cannot be. */
PNX_API size_t pnx_cache_cost_fixed(size_t key_bytes, size_t value_bytes);

/*
 * Calls visit with copies of each entry's key and value (which need not be aligned as their types are), with no lock held, in no order; an entry that comes or goes meanwhile
 * may be left out, and a key that is removed and put again be seen twice.  A nonzero return ends the walk and is
 * returned.  Not a use.  -ENOTSUP where sizes are not fixed, -ESHUTDOWN, -EINVAL.
 */
PNX_API int pnx_cache_each_copy(struct pnx_cache *cache,
        int (*visit)(void *ctx, const void *key, const void *value), void *ctx);

/*
 * Removes the entries that keep refuses, with PNX_CACHE_EXPLICIT, and overtakes loads of their keys.  Walks as pnx_cache_each()
 * does: entries that come meanwhile are not asked about, and a verdict on a value that has been replaced since is void
 * (P18).  Asks about what is kept for errors, too (P13), with the source PNX_CACHE_STALE.  Remembered absences stay.  Returns
 * how many it removed; -ESHUTDOWN, -EINVAL.
 */
typedef bool pnx_cache_keep_fn(void *ctx, const struct pnx_cache_ref *ref);
PNX_API int64_t pnx_cache_retain(struct pnx_cache *cache, pnx_cache_keep_fn *keep, void *ctx);

/*
 * The same where sizes are fixed, else -ENOTSUP: keep gets copies, as pnx_cache_each_copy() gives them.  A value that was replaced
 * by the same bytes is the same.
 */
typedef bool pnx_cache_keep_copy_fn(void *ctx, const void *key, const void *value);
PNX_API int64_t pnx_cache_retain_copy(
        struct pnx_cache *cache, pnx_cache_keep_copy_fn *keep, void *ctx);

/* ---- filling in place ---- */

/*
 * Memory of an entry that is not stored yet.  Belongs to one thread at a time, may be handed on; {0} is none.  Counts as a
 * reference: it may outlive the cache.
 */
struct pnx_cache_reservation {
    void *data;  /* for the value: aligned to 16, with whatever was there before */
    size_t size; /* that was asked for */
    struct pnx_cache_entry *entry; /* private, as is the next */
    uint64_t hash;
};

/*
 * Makes an entry whose value you fill in place, without a copy: then commit or abort it.  The older value stays and is
 * found meanwhile, also when this fails.  It is weighed by the commit.  -EFBIG when it is larger than the whole capacity,
 * -ENOMEM (no memory, or the budget refused; both count as rejected), -ESHUTDOWN, -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_cache_reserve(struct pnx_cache *cache, const void *key,
        size_t key_size, size_t value_size, struct pnx_cache_reservation *ret_reservation);

/*
 * Stores what was reserved, with a value of value_size bytes, at most those reserved; fewer are copied once.  Clears
 * *reservation whatever it returns, but for -EINVAL and -ERANGE (value_size is more).  Otherwise as pnx_cache_put(), P9
 * included.
 */
PNX_API PNX_NODISCARD int pnx_cache_commit(
        struct pnx_cache_reservation *reservation, size_t value_size, pnx_ns ttl);

/* The same, only where no entry is; -EEXIST. */
PNX_API PNX_NODISCARD int pnx_cache_commit_if_absent(
        struct pnx_cache_reservation *reservation, size_t value_size, pnx_ns ttl);

/* Gives the memory back and clears *reservation; an empty one, and NULL, are fine. */
PNX_API void pnx_cache_abort(struct pnx_cache_reservation *reservation);

/* Declares a reservation that is aborted at the end of the scope unless it has been committed. */
#define PNX_AUTO_CACHE_RESERVATION PNX_CLEANUP(pnx_cache_abort) struct pnx_cache_reservation

/* ---- changing ---- */

struct pnx_cache_change; /* what a compute's function decides; valid during its call */

/*
 * Decides what becomes of a key: calls one of the functions below, or none to leave all as it is, and returns 0; or returns
 * a negative error, which leaves all as it is, too.  now is empty where nothing is stored, and valid during the call.
 * It may be called several times, since it runs without a lock: whenever another thread has changed the key meanwhile,
 * with what is stored then.  A value that is to be refreshed has the source PNX_CACHE_STALE, and is, where an executor does it
 * and the function leaves it as it is (P12); one that is kept for errors (P13) is nothing to it.  So it must have no effect
 * but its decision.
 */
typedef int pnx_cache_compute_fn(
        void *ctx, const struct pnx_cache_ref *now, struct pnx_cache_change *change);

/* Replaces, or adds, bytes, which are copied.  The last decision counts.  -ENOMEM, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_cache_change_set(
        struct pnx_cache_change *change, const void *value, size_t value_size);

/* The same with bytes that are filled in *ret_data before the function returns. */
PNX_API PNX_NODISCARD int pnx_cache_change_reserve(
        struct pnx_cache_change *change, size_t value_size, void **ret_data);

/* The same with a pointer of yours, the cache's from then on: it is destroyed with PNX_CACHE_EXPLICIT when it is not stored. */
PNX_API PNX_NODISCARD int pnx_cache_change_set_pointer(
        struct pnx_cache_change *change, void *value, size_t value_size);

/* Removes the entry, if there is one. */
PNX_API int pnx_cache_change_remove(struct pnx_cache_change *change);

/* Sets the time to live of a new value; 0, the default, is the cache's.  -EINVAL when negative, or too short for fixed sizes. */
PNX_API int pnx_cache_change_ttl(struct pnx_cache_change *change, pnx_ns ttl);

/* A new value expires when the one that was seen would have, if one was seen.  -EINVAL. */
PNX_API int pnx_cache_change_keep_ttl(struct pnx_cache_change *change);

#define PNX_CACHE_COMPUTE_TRIES 4096 /* calls of its function by one compute at most */

/*
 * Lets fn decide what becomes of the key, atomically (P17): "count up", "append", "remove if it is still this".  A use of
 * the entry.  ret_ref (may be NULL) gets a reference to what is stored then, or an empty one.  fn may use the cache, but
 * not change this key: a compute on it is -EDEADLK, other changes never let it end but by -EAGAIN.
 *
 * -EAGAIN after PNX_CACHE_COMPUTE_TRIES calls of fn, others having changed the key during each; -EFBIG, -ENOMEM as
 * pnx_cache_put(), P9 included; -EDEADLK, -ESHUTDOWN, -EINVAL (also when fn returned more than 0), or what fn returned.
 */
PNX_API PNX_NODISCARD int pnx_cache_compute(struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_cache_compute_fn *fn, void *ctx, struct pnx_cache_ref *ret_ref);

#define PNX_CACHE_NOTHING SIZE_MAX /* in place of a value's size: nothing is stored */

/* As pnx_cache_compute_fn.  now: the bytes that are stored, aligned to 16; NULL where nothing is. */
typedef int pnx_cache_compute_copy_fn(
        void *ctx, const void *now, size_t now_size, struct pnx_cache_change *change);

/*
 * As pnx_cache_compute(), with copies: the way where sizes are fixed.  There it calls fn again only when the key has got other
 * bytes meanwhile, not whenever it was written; a value that takes the place of another one needs no memory.  Copies what is
 * stored then to buf, which may be NULL; *ret_size, which may be NULL too, is its size, or PNX_CACHE_NOTHING.
 *
 * -ERANGE when the value is more than cap: *ret_size says so, and, unless sizes are fixed, fn's decision has been carried out.
 * -ENOTSUP for a pointer that is stored, which fn is not asked about, or that fn has set.  Otherwise as pnx_cache_compute().
 */
PNX_API PNX_NODISCARD int pnx_cache_compute_copy(struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_cache_compute_copy_fn *fn, void *ctx, void *buf, size_t cap,
        size_t *ret_size);

/* ---- reading in place ---- */

/* The bytes of a value, in their place. */
struct pnx_cache_bytes {
    const void *data; /* aligned to 16 */
    size_t size;
};

/*
 * Finds an entry as pnx_cache_get() does, and shows its bytes without a copy and without a reference, so that it writes
 * nothing that others write (P8).  Between pnx_reclaim_enter(NULL) and pnx_reclaim_exit(NULL) only, and what it shows is
 * readable until that exit, whatever happens to the entry.  -EINVAL outside such a section; -ENOTSUP for a pointer, whose
 * destructor waits for references only; -ENOENT, -ESHUTDOWN.
 */
PNX_API PNX_NODISCARD int pnx_cache_view(struct pnx_cache *cache, const void *key, size_t key_size,
        struct pnx_cache_bytes *ret_view);

/* ---- loading ---- */

/* Gives the value as bytes, which are copied; a second call replaces the first.  -ENOMEM, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_cache_load_set(
        struct pnx_cache_load *load, const void *value, size_t value_size);

/* Gives it as a pointer, the cache's from then on, whatever the loader returns.  -ENOMEM, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_cache_load_set_pointer(
        struct pnx_cache_load *load, void *value, size_t value_size);

/* Gives it as bytes that are filled in *ret_data before the loader returns.  -ENOMEM, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_cache_load_reserve(
        struct pnx_cache_load *load, size_t value_size, void **ret_data);

/* Cuts bytes given by one of the two down to value_size, which copies them.  -ERANGE, -ENOMEM, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_cache_load_shrink(struct pnx_cache_load *load, size_t value_size);

/* Sets the time to live of this result, or of the absence.  -EINVAL when negative, or too short for fixed sizes. */
PNX_API int pnx_cache_load_set_ttl(struct pnx_cache_load *load, pnx_ns ttl);

/*
 * Sets when this result is to be refreshed (P12), instead of the option's refresh_after; PNX_NEVER: not at all.  Before the
 * value is set: else -EALREADY, unless the cache has one of the options that refresh or keep values.  -ENOTSUP where sizes are
 * fixed, -EINVAL.
 */
PNX_API int pnx_cache_load_set_refresh(struct pnx_cache_load *load, pnx_ns refresh_after);

/*
 * Finds an entry, or makes it by calling loader in this thread, or waits for another caller's loader of the same
 * key until timeout has passed (0: does not wait).  When that loader fails, all who waited get its error; but a
 * leader's -ETIMEDOUT, if its deadline was before theirs, makes one of them load.  A value that is too large or too heavy to
 * store, or that the budget refuses, is returned all the same (and counted as rejected).
 *
 * -ENOENT (remembered, or the loader's), -ETIMEDOUT, -EDEADLK (P7), -ESHUTDOWN, -ENOMEM, -EFBIG for a key of 4 GiB or more,
 * -EINVAL (also when the loader returned 0 without a value), or what the loader returned.
 */
PNX_API PNX_NODISCARD int pnx_cache_get_or_load(struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout,
        struct pnx_error *err, struct pnx_cache_ref *ret_ref);

/*
 * The same, and copies the value to buf: the way where sizes are fixed.  Loads are shared with all others of the key.
 * -ERANGE when the value is more than cap: nothing is copied, and *ret_size (may be NULL) is what is needed; where sizes are fixed,
 * nothing was loaded either.  -ENOTSUP for a pointer.  Otherwise as pnx_cache_get_or_load().
 */
PNX_API PNX_NODISCARD int pnx_cache_get_or_load_copy(struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout,
        struct pnx_error *err, void *buf, size_t cap, size_t *ret_size);

/*
 * Loads a key anew, whether it is there or not, in this thread; meanwhile others find the value that is there, and those that
 * find none wait for this one.  What becomes of the old value: P12.  With loader NULL, it is the option's refresh_loader,
 * which the executor runs where there is one: 0 says that it was handed over.  Never waits: -EALREADY when a load of the key
 * is under way.  Else as pnx_cache_get_or_load(); -EINVAL also when there is no loader; what submitting to the executor
 * returned.
 */
PNX_API int pnx_cache_refresh(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout, struct pnx_error *err);

/* ---- typed ---- */

/*
 * Defines typed forms for keys of type K and values of type V, which are copied as bytes: K must have no padding.
 *
 *     PNX_CACHE_DEFINE(price_cache, uint64_t, struct price)
 *
 *     int price_cache_create(const struct pnx_cache_opts *opts, struct pnx_error *err, struct pnx_cache **ret_cache);
 *     int price_cache_get(struct pnx_cache *cache, uint64_t key, struct price *ret_value);
 *     int price_cache_get_many(struct pnx_cache *cache, const uint64_t *keys, size_t n, struct price *values,
 *             uint64_t *ret_found);
 *     int price_cache_put(struct pnx_cache *cache, uint64_t key, struct price value, pnx_ns ttl);
 *     int price_cache_put_if_absent(struct pnx_cache *cache, uint64_t key, struct price value, pnx_ns ttl);
 *     int price_cache_remove(struct pnx_cache *cache, uint64_t key);
 *
 *     typedef int price_cache_load_fn(void *ctx, uint64_t key, pnx_ns deadline, struct price *ret_value);
 *     int price_cache_get_or_load(struct pnx_cache *cache, uint64_t key, price_cache_load_fn *loader, void *ctx,
 *             pnx_ns timeout, struct pnx_error *err, struct price *ret_value);
 *
 *     typedef int price_cache_compute_fn(void *ctx, const struct price *now, struct pnx_cache_change *change);
 *     int price_cache_change_set(struct pnx_cache_change *change, struct price value);
 *     int price_cache_compute(struct pnx_cache *cache, uint64_t key, price_cache_compute_fn *fn, void *ctx,
 *             struct price *ret_value, bool *ret_stored);
 *
 *     typedef bool price_cache_keep_fn(void *ctx, uint64_t key, struct price value);
 *     int64_t price_cache_retain(struct pnx_cache *cache, price_cache_keep_fn *keep, void *ctx);
 *
 * create sets the fixed sizes in a copy of opts; the others, retain excepted, work on any cache.  ret_value and ret_stored of
 * compute may be NULL: what is stored then, if *ret_stored.  Errors are those of the functions above; a value that was stored
 * with another size is -ERANGE.
 */
#define PNX_CACHE_DEFINE(name, K, V) \
    PNX_CACHE_TYPED_ int name##_create(const struct pnx_cache_opts *opts, struct pnx_error *err, \
            struct pnx_cache **ret_cache) { \
        struct pnx_cache_opts fixed; \
        if (!opts || opts->size != sizeof(fixed)) \
            return pnx_cache_create(opts, err, ret_cache); \
        fixed = *opts; \
        fixed.key_bytes = sizeof(K); \
        fixed.value_bytes = sizeof(V); \
        return pnx_cache_create(&fixed, err, ret_cache); \
    } \
    PNX_CACHE_TYPED_ int name##_get(struct pnx_cache *cache, K key, V *ret_value) { \
        V value; \
        size_t size = 0; \
        int rc = pnx_cache_get_copy(cache, &key, sizeof(key), &value, sizeof(value), &size); \
        if (rc == 0 && size != sizeof(value)) \
            rc = -ERANGE; \
        if (rc == 0) \
            *ret_value = value; \
        return rc; \
    } \
    PNX_CACHE_TYPED_ int name##_get_many( \
            struct pnx_cache *cache, const K *keys, size_t n, V *values, uint64_t *ret_found) { \
        return pnx_cache_get_many(cache, keys, sizeof(K), n, values, sizeof(V), ret_found); \
    } \
    PNX_CACHE_TYPED_ int name##_put(struct pnx_cache *cache, K key, V value, pnx_ns ttl) { \
        return pnx_cache_put(cache, &key, sizeof(key), &value, sizeof(value), ttl); \
    } \
    PNX_CACHE_TYPED_ int name##_put_if_absent( \
            struct pnx_cache *cache, K key, V value, pnx_ns ttl) { \
        return pnx_cache_put_if_absent(cache, &key, sizeof(key), &value, sizeof(value), ttl); \
    } \
    PNX_CACHE_TYPED_ int name##_remove(struct pnx_cache *cache, K key) { \
        return pnx_cache_remove(cache, &key, sizeof(key)); \
    } \
    typedef int name##_load_fn(void *ctx, K key, pnx_ns deadline, V *ret_value); \
    struct name##_loader_ { \
        name##_load_fn *fn; \
        void *ctx; \
    }; \
    PNX_CACHE_TYPED_ int name##_run_loader_(void *arg, const void *bytes, size_t size, \
            pnx_ns deadline, struct pnx_cache_load *load) { \
        const struct name##_loader_ *loader = (const struct name##_loader_ *)arg; \
        K key; \
        V value; \
        (void)size; \
        __builtin_memcpy(&key, bytes, sizeof(key)); \
        int rc = loader->fn(loader->ctx, key, deadline, &value); \
        return rc ? rc : pnx_cache_load_set(load, &value, sizeof(value)); \
    } \
    PNX_CACHE_TYPED_ int name##_get_or_load(struct pnx_cache *cache, K key, name##_load_fn *fn, \
            void *ctx, pnx_ns timeout, struct pnx_error *err, V *ret_value) { \
        struct name##_loader_ loader; \
        V value; \
        size_t size = 0; \
        loader.fn = fn; \
        loader.ctx = ctx; \
        int rc = pnx_cache_get_or_load_copy(cache, &key, sizeof(key), \
                fn ? name##_run_loader_ : NULL, &loader, timeout, err, &value, sizeof(value), \
                &size); \
        if (rc == 0 && size != sizeof(value)) \
            rc = -ERANGE; \
        if (rc == 0) \
            *ret_value = value; \
        return rc; \
    } \
    typedef int name##_compute_fn(void *ctx, const V *now, struct pnx_cache_change *change); \
    struct name##_computer_ { \
        name##_compute_fn *fn; \
        void *ctx; \
    }; \
    PNX_CACHE_TYPED_ int name##_run_computer_( \
            void *arg, const void *now, size_t size, struct pnx_cache_change *change) { \
        const struct name##_computer_ *computer = (const struct name##_computer_ *)arg; \
        return now && size != sizeof(V) ? -ERANGE \
                                        : computer->fn(computer->ctx, (const V *)now, change); \
    } \
    PNX_CACHE_TYPED_ int name##_change_set(struct pnx_cache_change *change, V value) { \
        return pnx_cache_change_set(change, &value, sizeof(value)); \
    } \
    PNX_CACHE_TYPED_ int name##_compute(struct pnx_cache *cache, K key, name##_compute_fn *fn, \
            void *ctx, V *ret_value, bool *ret_stored) { \
        struct name##_computer_ computer; \
        V value; \
        size_t size = 0; \
        computer.fn = fn; \
        computer.ctx = ctx; \
        int rc = pnx_cache_compute_copy(cache, &key, sizeof(key), \
                fn ? name##_run_computer_ : NULL, &computer, &value, sizeof(value), &size); \
        if (rc == 0 && size != sizeof(value) && size != PNX_CACHE_NOTHING) \
            rc = -ERANGE; \
        if (rc == 0 && ret_value && size != PNX_CACHE_NOTHING) \
            *ret_value = value; \
        if (rc == 0 && ret_stored) \
            *ret_stored = size != PNX_CACHE_NOTHING; \
        return rc; \
    } \
    typedef bool name##_keep_fn(void *ctx, K key, V value); \
    struct name##_keeper_ { \
        name##_keep_fn *fn; \
        void *ctx; \
    }; \
    PNX_CACHE_TYPED_ bool name##_run_keeper_( \
            void *arg, const void *key_bytes, const void *value_bytes) { \
        const struct name##_keeper_ *keeper = (const struct name##_keeper_ *)arg; \
        K key; \
        V value; \
        __builtin_memcpy(&key, key_bytes, sizeof(key)); \
        __builtin_memcpy(&value, value_bytes, sizeof(value)); \
        return keeper->fn(keeper->ctx, key, value); \
    } \
    PNX_CACHE_TYPED_ int64_t name##_retain( \
            struct pnx_cache *cache, name##_keep_fn *fn, void *ctx) { \
        struct name##_keeper_ keeper; \
        keeper.fn = fn; \
        keeper.ctx = ctx; \
        return pnx_cache_retain_copy(cache, fn ? name##_run_keeper_ : NULL, &keeper); \
    }
#define PNX_CACHE_TYPED_ __attribute__((unused)) static inline

/* ---- on disk ---- */

struct pnx_cache_sink; /* where the bytes of a value go; valid during the call */

/* Adds bytes.  -ENOMEM, -EINVAL. */
PNX_API PNX_NODISCARD int pnx_cache_sink_write(
        struct pnx_cache_sink *sink, const void *data, size_t size);

/* Writes a value that is a pointer as bytes.  0; -ENOENT: leave this one out; another negative error ends the save. */
typedef int pnx_cache_serialize_fn(
        void *ctx, const struct pnx_cache_ref *ref, struct pnx_cache_sink *sink);

/* Makes the pointer again, the cache's when it returns 0, and what it counts as.  -ENOENT: leave this one out; another
 * negative error ends the load. */
typedef int pnx_cache_deserialize_fn(void *ctx, const void *key, size_t key_size, const void *data,
        size_t size, void **ret_value, size_t *ret_value_size);

#define PNX_CACHE_LABEL_MAX 255

/* Of a save and the loads of its file; zero selects the default of every field. */
struct pnx_cache_file_opts {
    size_t size;       /* set by PNX_CACHE_FILE_OPTS */
    const char *label; /* what the values were made from: a version, a generation; default "" */
    pnx_cache_serialize_fn *serialize;     /* default: pointers are left out */
    pnx_cache_deserialize_fn *deserialize; /* the same */
    void *ctx;                             /* first argument of both */
};
#ifndef __cplusplus
#define PNX_CACHE_FILE_OPTS(...) \
    (&(const struct pnx_cache_file_opts){.size = sizeof(struct pnx_cache_file_opts), __VA_ARGS__})
#else
static inline struct pnx_cache_file_opts pnx_cache_file_opts_init() {
    struct pnx_cache_file_opts opts = {};
    opts.size = sizeof(opts);
    return opts;
}
#endif

/* What a save or a load has done. */
struct pnx_cache_file_report {
    size_t size;         /* set by the caller */
    uint64_t entries;    /* saved, or loaded */
    uint64_t file_bytes; /* of the file */
    uint64_t left_out;   /* pointers without a function, or with one that left them out */
    uint64_t expired;    /* whose time passed between save and load */
    uint64_t no_room;    /* colder than what there was room for, or refused by the budget */
    uint64_t
            present; /* whose key the cache had already, or was loading: its value stays, or will be newer */
};

/*
 * Writes all entries that are there all the time to a file, with what is left of their times to live: the coldest first, as
 * far as counts of hits and the order of use (not known where sizes are fixed) tell.  Remembered absences, and what is kept
 * for errors, are left out.  The file is written beside path, for the owner alone, made safe on disk and then given its
 * name; one that fails leaves nothing.  Takes 24
 * bytes of memory for each entry, and holds locks as pnx_cache_each() does.  opts and ret_report (its size set) may be NULL.
 *
 * What the system says of the file: -ENOSPC, -EIO, -EACCES (on Windows also where somebody else has it open or replaces it) ...; -ENOMEM, -E2BIG, -EINVAL, -ESHUTDOWN, or what serialize
 * returned.  err says at what.
 */
PNX_API PNX_NODISCARD int pnx_cache_save(struct pnx_cache *cache, const char *path,
        const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_report *ret_report);

/*
 * Puts what a file holds into the cache, as far as there is room: the hottest, where that is not all.  It evicts nothing,
 * entries that are there stay, and a load under way goes on.  With a weigher, values are weighed anew; what there is room for
 * is judged by what they weighed when they were saved, or as 1 where that was without one, and only what turns out heavier
 * evicts others.  Times to live, and until a refresh where the cache has refresh_after, go on by the wall clock, and never back;
 * an entry counts as used when it is loaded (P11).  The file is checked whole, checksum by checksum, before the first entry is
 * put.  Where sizes are fixed, what has less than PNX_CACHE_FIXED_TTL_MIN left counts as expired.
 *
 * -ENOENT, -EACCES, -EIO ...; PNX_E_FORMAT when it is no such file, is damaged, cut short, of another version of the format
 * or of a machine with another byte order, or holds other sizes than the cache's fixed ones: err says which; -ESTALE when it was saved under another label; -ENOMEM, -E2BIG,
 * -EINVAL, -ESHUTDOWN, or what deserialize returned: what was put before that stays.
 */
PNX_API PNX_NODISCARD int pnx_cache_load_file(struct pnx_cache *cache, const char *path,
        const struct pnx_cache_file_opts *opts, struct pnx_error *err,
        struct pnx_cache_file_report *ret_report);

/* ---- loading without waiting ---- */

struct pnx_cache_request;

/*
 * Tells how a request ended: 0 and a reference, which is the callback's now; or what pnx_cache_get_or_load() would have
 * returned, with err as there (valid during the call).  The request, its key included, is the caller's again and may be
 * used anew or freed here.  Never runs inside another one on the same thread.
 */
typedef void pnx_cache_request_fn(struct pnx_cache_request *request, int code,
        struct pnx_cache_ref ref, const struct pnx_error *err);

/*
 * A lookup that waits without a thread.  Zero it, set the upper half, and keep it, and the key, where they are until its
 * callback has been called, or pnx_cache_cancel() returned 0.
 */
struct pnx_cache_request {
    pnx_cache_request_fn *done;  /* required */
    void *arg;                   /* yours */
    unsigned char private_[240]; /* the cache's */
};

/*
 * As pnx_cache_get_or_load(), but tells the outcome to request->done: perhaps before this has returned, through the option
 * post if that is set, else on the thread that ends the load.  Blocking callers and requests share loads.  The loader is
 * called in this call, or where a request has to take over from a load that failed; it may keep its load and end it later:
 * see pnx_cache_load_finish().  ctx must stay until the loader has ended, which may be after done.  A value that is to be
 * refreshed is told at once, and then refreshed as by pnx_cache_get_or_load().
 *
 * timeout 0 neither loads nor waits: -ETIMEDOUT, unless the key is there.  No thread watches over deadlines: those of requests
 * are kept by pnx_cache_tick(), or when the load ends.  No circle of waiting goes through a request, so -EDEADLK is not told.
 * Returns 0: done will be called, once.  Else nothing is: -EINVAL, -EBUSY for a request that is under way, -EFBIG,
 * -ESHUTDOWN in a forked child, -ENOTSUP where sizes are fixed.
 */
PNX_API PNX_NODISCARD int pnx_cache_get_async(struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout,
        struct pnx_cache_request *request);

/*
 * Takes a request back; a load that it began goes on.  0: it is over, and done will not be called.  -EALREADY: its outcome
 * came first; done has been called, is being called, or will be (with -ECANCELED if it would have to wait again).  Never
 * waits.  -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_cache_cancel(struct pnx_cache_request *request);

/*
 * Keeping: a loader that was called for a request, or by the executor, may return -EINPROGRESS and keep its load, and the
 * key that it was given, for as long as it likes.  Somebody then sets the value as a loader does, and ends the load here with
 * what a loader would return; once, from any thread, also before the loader has returned, and after the cache was closed or
 * released.  Until then the cache's memory stays.  A load that is past its deadline then has been given up, when a tick or
 * somebody who asked for the key found that: -ETIMEDOUT was told, others may load, and what it made is destroyed.
 * 0, or -EALREADY when it was given up: load is gone in either case.  -ENOTSUP, and it is not, when the loader was called by
 * pnx_cache_get_or_load(), pnx_cache_refresh() or a refresh in their call: it must make its value before it returns.  -EINVAL.
 */
PNX_API int pnx_cache_load_finish(struct pnx_cache_load *load, int code);

/* ---- running it ---- */

#define PNX_CACHE_TICK_MAX \
    8 /* entries that one tick removes, and deadlines that it keeps, at most */

/*
 * Removes entries that have expired by now (the environment's clock), and ends requests and kept loads whose deadline has
 * passed; at most PNX_CACHE_TICK_MAX of all these.  Returns when it wants to be called next: now itself when more are due,
 * PNX_NEVER when nothing expires or it is closed.  Needed for the deadlines of requests only; never for P3, but to give
 * memory back early.
 */
PNX_API pnx_ns pnx_cache_tick(struct pnx_cache *cache, pnx_ns now);

/* Changes the limits; 0 is no limit, but not for both, unless there is a weigher.  Evicts what is too much.  -EINVAL,
 * -ESHUTDOWN. */
PNX_API int pnx_cache_resize(
        struct pnx_cache *cache, size_t capacity, uint64_t capacity_entries, struct pnx_error *err);

/* Changes the limit of weight, and evicts what is too much.  Values keep what they weigh.  -EINVAL for 0 and what is more than
 * PNX_CACHE_WEIGHT_MAX, -ENOTSUP without a weigher, -ESHUTDOWN. */
PNX_API int pnx_cache_resize_weight(
        struct pnx_cache *cache, uint64_t capacity_weight, struct pnx_error *err);

/* Changes the time to live of entries stored from now on; 0 or PNX_NEVER: they do not expire.  -EINVAL. */
PNX_API int pnx_cache_set_ttl(struct pnx_cache *cache, pnx_ns ttl, struct pnx_error *err);

/* Returns how many bytes an entry counts as; SIZE_MAX when the sum overflows.  An entry with a pointer counts as one with
 * that many bytes, pnx_cache_cost(key_size, sizeof(void *)), and the size that is given with the pointer.  In a cache
 * with ttl_access, refresh_after or stale_if_error an entry counts as one with a value of PNX_CACHE_TIMES_COST bytes more. */
#define PNX_CACHE_TIMES_COST 16
PNX_API size_t pnx_cache_cost(size_t key_size, size_t value_size);

/*
 * Estimates what the hit ratio would have been at other sizes: ratios[i], 0 to 1, for sizes[i] times the capacity as it is,
 * if the policy were lru.  The requests of a sample of the keys are followed, as many as the option curve_samples says, the
 * newer ones with more weight.  With a limit in bytes, or of weight, all entries count as large, or heavy, as those that are
 * there are on average.
 * -ENOTSUP when curve_samples is 0, -EAGAIN when nothing is known yet, -EINVAL also for a size that is not above 0.
 */
PNX_API PNX_NODISCARD int pnx_cache_curve(
        struct pnx_cache *cache, const double *sizes, size_t n, double *ret_ratios);

/* The rows of patinox/stats/cache.def. */
struct pnx_cache_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
#include <patinox/stats/cache.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
};

/* Fills *ret_stats up to its size, which the caller sets; each number of its own moment, none lost.  -EINVAL. */
PNX_API int pnx_cache_read_stats(struct pnx_cache *cache, struct pnx_cache_stats *ret_stats);

/* Checks every invariant of the cache; slow, under the lock of one shard after the other.  0, or PNX_E_BROKEN with err naming what is broken. */
PNX_API int pnx_cache_check(struct pnx_cache *cache, struct pnx_error *err);

PNX_END_DECLS
#endif /* PNX_CACHE_H */
