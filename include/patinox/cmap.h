/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/cmap.h - a concurrent hash map: many threads look up, put and remove at once.
 *
 * Keys are bytes, which are copied, or values of one fixed size.  Values are words of 64 bits, or rc objects
 * (patinox/rc.h) with PNX_CMAP_RC.  Lookups take no lock and write nothing that threads share; writers lock one
 * of several shards, for a short and bounded time.
 *
 *   P1  Every operation on one key takes effect at one moment between its call and its return; what a thread did
 *       before it put a value is visible to whoever gets that value.
 *   P2  Lookups never wait.  A key that is in the map all the while is found, whatever resizes meanwhile.
 *   P3  compute runs its function exactly once, get_or_insert_with one maker per key at a time: meanwhile no other
 *       write changes that key.  A wait that could never end (inside such a function, or in a circle over keys, maps,
 *       snapshots and loads of caches) is -EDEADLK; others end after wait_timeout_ns.  When a function fails, or ends
 *       its thread, nothing has changed and the next who waits takes its turn.
 *   P4  Functions of yours run under no lock of the library, and may use the map.
 *   P5  foreach meets a key that is there all the while exactly once; one that comes or goes meanwhile at most once
 *       for each time that it came.
 *   P6  An object in the map is never unique for anybody else: what lookups return is a new reference, and the
 *       map's own goes only when no lookup can still be reading it.
 *   P7  remove, close and release need no memory and cannot fail for want of it; a write that fails changes nothing.
 *   P8  A write moves at most PNX_CMAP_MOVE_SLOTS slots, and its own key, when a shard grows; no operation waits
 *       for a whole resize, those that ask for one (reserve, shrink) aside.
 *
 * A forked child may look up; its writes are -ESHUTDOWN, that of a function that forked included.  Hashing is keyed by a secret of each map: XXH3 by
 * default, SipHash-1-3 where keys come from an enemy who can measure, or a function of yours.
 */
#ifndef PNX_CMAP_H
#define PNX_CMAP_H

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/error.h>
#include <patinox/rc.h>
#include <patinox/reclaim.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

#include <string.h>

PNX_BEGIN_DECLS

struct pnx_cmap; /* safe to use from any thread */

#define PNX_CMAP_KEY_MAX     65535u /* bytes of the longest key */
#define PNX_CMAP_SHARDS_MAX  1024u
#define PNX_CMAP_ENTRIES_MAX (UINT64_C(1) << 40)
#define PNX_CMAP_MOVE_SLOTS  128u /* see P8 */

/* Hashes a key; equal keys give equal hashes.  Runs under a lock: it must not use the library, nor block. */
typedef uint64_t pnx_cmap_hash_fn(void *ctx, const void *key, size_t key_size);

enum pnx_cmap_hash {
    PNX_CMAP_HASH_XXH3 = 1,    /* fast; keyed with 64 bits */
    PNX_CMAP_HASH_SIPHASH = 2, /* SipHash-1-3, keyed with 128 bits */
};

/* Flags of struct pnx_cmap_opts. */
enum pnx_cmap_flags {
    PNX_CMAP_RC = 1, /* values are rc objects: the map takes references of its own */
};

/* Zero selects the default of every field. */
struct pnx_cmap_opts {
    size_t size;                   /* set by PNX_CMAP_OPTS */
    const char *name;              /* copied; default "cmap" */
    const char *site;              /* set by PNX_CMAP_OPTS */
    const struct pnx_env *env;     /* allocator, clock, random; default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget;     /* default: the process's; pnx_budget_off() */
    struct pnx_reclaim *domain;    /* where its sections and garbage are; default: the process's */
    pnx_cmap_hash_fn *hash_fn;     /* default: the one that hash selects */
    void *hash_ctx;                /* first argument of hash_fn */
    uint64_t max_entries;          /* more are -ENOSPC; default: no limit */
    uint64_t reserve;              /* entries that fit before the first resize; default 0 */
    pnx_ns wait_timeout_ns; /* how long a write waits for a function on its key; default 10 s */
    uint32_t key_size;      /* of every key; default: they are bytes of any length */
    uint32_t shards;        /* a power of two; default by the CPUs: 4 for each, rounded up */
    uint32_t hash;          /* enum pnx_cmap_hash; default XXH3 */
    uint32_t flags;         /* PNX_CMAP_* */
};
#ifndef __cplusplus
#define PNX_CMAP_OPTS(...) \
    (&(const struct pnx_cmap_opts){ \
            .size = sizeof(struct pnx_cmap_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_cmap_opts pnx_cmap_opts_init(void) {
    struct pnx_cmap_opts opts = pnx_cmap_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Creates a map; opts may be NULL.  -EINVAL (err names the field), -E2BIG, -ENOMEM (also when the budget refuses),
 * or the registry's -ESHUTDOWN or -EBUSY.
 */
PNX_API PNX_NODISCARD int pnx_cmap_create(
        const struct pnx_cmap_opts *opts, struct pnx_error *err, struct pnx_cmap **ret_map);

/* Takes another reference to the map, for a thread that outlives the creator's. */
PNX_API struct pnx_cmap *pnx_cmap_ref(struct pnx_cmap *map);

/* Lets a reference to the map go; the last one closes it and frees all that it holds.  NULL-safe, clears. */
PNX_API void pnx_cmap_release(struct pnx_cmap **map);

/*
 * Empties the map and refuses everything from then on with -ESHUTDOWN.  Does not wait: functions that run on its
 * keys end without effect.  Idempotent; what pnx_registry_shutdown() calls.
 */
PNX_API void pnx_cmap_close(struct pnx_cmap *map);

/* ---- looking up ----
 * In every call: key_size must be the map's where it has one (-EINVAL), and at most PNX_CMAP_KEY_MAX (-E2BIG).
 * A value is a word; in a map with PNX_CMAP_RC it is the address of an object: pnx_cmap_object(), pnx_cmap_value(). */

static inline void *pnx_cmap_object(uint64_t value) {
    return (void *)(uintptr_t)value;
}
static inline uint64_t pnx_cmap_value(const void *object) {
    return (uint64_t)(uintptr_t)object;
}

/* Finds a value; of an rc object the caller gets a new reference.  Never waits.  -ENOENT, -ESHUTDOWN, -EINVAL, -E2BIG. */
PNX_API PNX_NODISCARD int pnx_cmap_get(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t *ret_value);

/*
 * The same without a reference: for use inside a section of the map's domain (pnx_reclaim_enter()), at whose end an
 * rc object may go.  Errors as pnx_cmap_get().
 */
PNX_API PNX_NODISCARD int pnx_cmap_peek(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t *ret_value);

/* The same two where key_size is at most 8: key has the bytes of the key at its start, then zeros. */
PNX_API PNX_NODISCARD int pnx_cmap_get_word(
        struct pnx_cmap *map, uint64_t key, uint64_t *ret_value);
PNX_API PNX_NODISCARD int pnx_cmap_peek_word(
        struct pnx_cmap *map, uint64_t key, uint64_t *ret_value);

/* One of several lookups. */
struct pnx_cmap_item {
    const void *key;
    size_t key_size;
    uint64_t value; /* set when found, as by pnx_cmap_get() */
    int32_t code;   /* set: 0, or the error that pnx_cmap_get() would return */
    uint32_t reserved_;
};

/*
 * Looks several keys up at a time, with their memory accesses overlapped; each lookup takes effect by itself.
 * Returns how many were found (at most INT32_MAX are looked at), or -EINVAL.
 */
PNX_API int pnx_cmap_get_batch(struct pnx_cmap *map, struct pnx_cmap_item *items, size_t n);

/*
 * The same for keys of at most 8 bytes, as words.  Bit i % 64 of ret_found[i / 64] says whether ret_values[i]
 * was set; ret_found has (n + 63) / 64 words.  Returns how many were found, -ESHUTDOWN or -EINVAL.
 */
PNX_API int pnx_cmap_get_words(struct pnx_cmap *map, const uint64_t *keys, size_t n,
        uint64_t *ret_values, uint64_t *ret_found);

/* Returns how many entries there are; exact when nobody writes, else of about now.  Takes no lock. */
PNX_API uint64_t pnx_cmap_len(const struct pnx_cmap *map);

/* ---- writing ----
 * All of them fail with -ESHUTDOWN (closed, or in a forked child), -EINVAL, -E2BIG; and when a function runs on
 * the key elsewhere, they wait for its end: -EDEADLK, -ETIMEDOUT, -ENOMEM.  Those that may insert fail with -ENOMEM
 * (no memory, or the budget refused) and -ENOSPC (max_entries).  rc objects: the map takes a reference of its own,
 * the caller keeps his; where an old value is returned, it is a new reference. */

/* Stores a value, whether the key is there or not. */
PNX_API PNX_NODISCARD int pnx_cmap_put(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t value);

/* Stores a value unless the key is there: then -EEXIST, and *ret_current (may be NULL) is what it has. */
PNX_API PNX_NODISCARD int pnx_cmap_put_if_absent(struct pnx_cmap *map, const void *key,
        size_t key_size, uint64_t value, uint64_t *ret_current);

/* Replaces the value of a key that is there: -ENOENT if not.  *ret_old (may be NULL) is what it had. */
PNX_API PNX_NODISCARD int pnx_cmap_replace(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t value, uint64_t *ret_old);

/* Replaces the value if it is expected (rc: the same object).  PNX_E_CONFLICT if it is another, -ENOENT. */
PNX_API PNX_NODISCARD int pnx_cmap_replace_if(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t expected, uint64_t value);

/* Removes a key; needs no memory.  -ENOENT.  *ret_old (may be NULL) is what it had. */
PNX_API int pnx_cmap_remove(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t *ret_old);

/* Removes a key if its value is expected.  PNX_E_CONFLICT if it is another, -ENOENT. */
PNX_API PNX_NODISCARD int pnx_cmap_remove_if(
        struct pnx_cmap *map, const void *key, size_t key_size, uint64_t expected);

/* What a function of compute wants done. */
enum pnx_cmap_action {
    PNX_CMAP_KEEP = 0,
    PNX_CMAP_STORE =
            1, /* *ret_value; of an rc object it passes the function's reference to the map */
    PNX_CMAP_DROP = 2, /* remove the key; fine when it is not there */
};

/*
 * Decides about a key; current is NULL when it is not there; an rc object is valid during the call.  Returns an
 * enum pnx_cmap_action, or a negative error.
 */
typedef int pnx_cmap_compute_fn(void *ctx, const uint64_t *current, uint64_t *ret_value);

/*
 * Runs fn once on the key, while no other write changes it, and does what fn says (P3).  Any other write to the key
 * from inside fn is -EDEADLK; reads see the value of before.  Returns 0, an error of above or -ENOMEM, or fn's own;
 * when storing fails (-ENOSPC, -ENOMEM), what fn returned is let go.
 */
PNX_API PNX_NODISCARD int pnx_cmap_compute(struct pnx_cmap *map, const void *key, size_t key_size,
        pnx_cmap_compute_fn *fn, void *ctx, struct pnx_error *err);

/* Makes the value of a key; an rc object's reference passes to the map.  Returns 0 or a negative error. */
typedef int pnx_cmap_make_fn(void *ctx, uint64_t *ret_value);

/*
 * Finds a value, or makes it with one maker per key at a time and stores it (P3); all who ask meanwhile wait for
 * it.  If a maker fails, its caller gets the error, and the next who waits makes.  Of an rc object the caller gets a
 * new reference.  Errors as pnx_cmap_compute().
 */
PNX_API PNX_NODISCARD int pnx_cmap_get_or_insert_with(struct pnx_cmap *map, const void *key,
        size_t key_size, pnx_cmap_make_fn *make, void *ctx, struct pnx_error *err,
        uint64_t *ret_value);

/* ---- walking ---- */

/* Sees an entry; key and an rc object are valid during the call.  Nonzero ends the walk. */
typedef int pnx_cmap_visit_fn(void *ctx, const void *key, size_t key_size, uint64_t value);

/*
 * Calls visit for the entries (P5), in no order.  Copies some entries at a time under a shard's lock, and calls
 * without it: visit may block, and use the map.  Returns what visit returned to end it, else 0; -ENOMEM, -ESHUTDOWN.
 */
PNX_API int pnx_cmap_foreach(struct pnx_cmap *map, pnx_cmap_visit_fn *visit, void *ctx);

/* Says whether an entry stays; otherwise as a visit. */
typedef bool pnx_cmap_keep_fn(void *ctx, const void *key, size_t key_size, uint64_t value);

/*
 * Walks as foreach and removes what keep does not want, if it still has the value that keep saw.
 * *ret_removed (may be NULL) counts them, also on failure.  Errors as foreach, and of the removals.
 */
PNX_API int pnx_cmap_retain(
        struct pnx_cmap *map, pnx_cmap_keep_fn *keep, void *ctx, uint64_t *ret_removed);

/* Removes what is there, shard by shard; needs no memory unless a function runs on a key.  Errors of writing. */
PNX_API int pnx_cmap_clear(struct pnx_cmap *map);

/* Makes room for n entries in all, so that they need no resize.  Resizes as it goes.  -ENOMEM, -EINVAL, -ESHUTDOWN. */
PNX_API PNX_NODISCARD int pnx_cmap_reserve(struct pnx_cmap *map, uint64_t n);

/* Gives back table space that removals left.  -ENOMEM, -ESHUTDOWN; what shrank before stays so. */
PNX_API int pnx_cmap_shrink(struct pnx_cmap *map);

/* The rows of patinox/stats/cmap.def. */
struct pnx_cmap_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/cmap.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets; each number by itself of about now.  -EINVAL. */
PNX_API int pnx_cmap_read_stats(const struct pnx_cmap *map, struct pnx_cmap_stats *ret_stats);

/* Checks every invariant, shard by shard, under its lock; slow.  0, or PNX_E_BROKEN with err naming what is broken. */
PNX_API int pnx_cmap_check(struct pnx_cmap *map, struct pnx_error *err);

/*
 * Defines typed functions over the ones above, static inline.  K is a type without padding, compared byte by byte;
 *   PNX_CMAP_DEFINE(ports, uint64_t, uint32_t)     values of at most 8 bytes:
 *       ports_create, ports_get, ports_put, ports_put_if_absent, ports_replace_if, ports_remove, ports_remove_if
 *   PNX_CMAP_DEFINE_RC(users, struct user_id, struct user)     values are rc objects, handled by pointer:
 *       users_create, users_get (a new reference or NULL), users_peek, users_put, users_put_if_absent, users_remove
 * create takes struct pnx_cmap_opts or NULL, and sets key_size and flags.
 */
#if defined(__GNUC__) || defined(__clang__)
#define PNX_CMAP_INLINE_ __attribute__((unused)) static inline
#else
#define PNX_CMAP_INLINE_ static inline
#endif
#ifdef __cplusplus
#define PNX_CMAP_ASSERT_(condition, text) static_assert(condition, text)
#else
#define PNX_CMAP_ASSERT_(condition, text) _Static_assert(condition, text)
#endif
/* clang-format off */
#define PNX_CMAP_DEFINE_COMMON_(prefix, K, more_flags) \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_create(const struct pnx_cmap_opts *opts, \
            struct pnx_error *err, struct pnx_cmap **ret_map) { \
        struct pnx_cmap_opts own_; \
        memset(&own_, 0, sizeof(own_)); \
        if (opts) \
            memcpy(&own_, opts, opts->size < sizeof(own_) ? opts->size : sizeof(own_)); \
        if (!opts || opts->size >= sizeof(own_.size)) /* else create says what is wrong with it */ \
            own_.size = sizeof(own_); \
        own_.key_size = (uint32_t)sizeof(K); \
        own_.flags |= (more_flags); \
        return pnx_cmap_create(&own_, err, ret_map); \
    } \
    PNX_CMAP_INLINE_ int prefix##_look_(struct pnx_cmap *map, const K *key, bool peek, \
            uint64_t *ret_word) { \
        if (sizeof(K) > 8) \
            return peek ? pnx_cmap_peek(map, key, sizeof(K), ret_word) \
                        : pnx_cmap_get(map, key, sizeof(K), ret_word); \
        uint64_t word_ = 0; \
        memcpy(&word_, key, sizeof(K) > 8 ? 8 : sizeof(K)); \
        return peek ? pnx_cmap_peek_word(map, word_, ret_word) \
                    : pnx_cmap_get_word(map, word_, ret_word); \
    }

#define PNX_CMAP_DEFINE(prefix, K, V) \
    PNX_CMAP_DEFINE_COMMON_(prefix, K, 0) \
    PNX_CMAP_INLINE_ uint64_t prefix##_word_(V value) { \
        uint64_t word_ = 0; \
        PNX_CMAP_ASSERT_(sizeof(V) <= 8, "a wider value is an rc object: PNX_CMAP_DEFINE_RC"); \
        memcpy(&word_, &value, sizeof(V)); \
        return word_; \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_get(struct pnx_cmap *map, K key, V *ret_value) { \
        uint64_t found_ = 0; \
        int rc_ = prefix##_look_(map, &key, false, &found_); \
        if (rc_ == 0) \
            memcpy(ret_value, &found_, sizeof(V)); \
        return rc_; \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_put(struct pnx_cmap *map, K key, V value) { \
        return pnx_cmap_put(map, &key, sizeof(K), prefix##_word_(value)); \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_put_if_absent( \
            struct pnx_cmap *map, K key, V value) { \
        return pnx_cmap_put_if_absent(map, &key, sizeof(K), prefix##_word_(value), NULL); \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_replace_if( \
            struct pnx_cmap *map, K key, V expected, V value) { \
        return pnx_cmap_replace_if( \
                map, &key, sizeof(K), prefix##_word_(expected), prefix##_word_(value)); \
    } \
    PNX_CMAP_INLINE_ int prefix##_remove(struct pnx_cmap *map, K key) { \
        return pnx_cmap_remove(map, &key, sizeof(K), NULL); \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_remove_if(struct pnx_cmap *map, K key, V expected) { \
        return pnx_cmap_remove_if(map, &key, sizeof(K), prefix##_word_(expected)); \
    }

#define PNX_CMAP_DEFINE_RC(prefix, K, T) \
    PNX_CMAP_DEFINE_COMMON_(prefix, K, PNX_CMAP_RC) \
    PNX_NODISCARD PNX_CMAP_INLINE_ T *prefix##_get(struct pnx_cmap *map, K key) { \
        uint64_t found_ = 0; \
        return prefix##_look_(map, &key, false, &found_) ? NULL : (T *)pnx_cmap_object(found_); \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ const T *prefix##_peek(struct pnx_cmap *map, K key) { \
        uint64_t found_ = 0; \
        return prefix##_look_(map, &key, true, &found_) ? NULL : (const T *)pnx_cmap_object(found_); \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_put(struct pnx_cmap *map, K key, const T *object) { \
        return pnx_cmap_put(map, &key, sizeof(K), pnx_cmap_value(object)); \
    } \
    PNX_NODISCARD PNX_CMAP_INLINE_ int prefix##_put_if_absent( \
            struct pnx_cmap *map, K key, const T *object) { \
        return pnx_cmap_put_if_absent(map, &key, sizeof(K), pnx_cmap_value(object), NULL); \
    } \
    PNX_CMAP_INLINE_ int prefix##_remove(struct pnx_cmap *map, K key) { \
        return pnx_cmap_remove(map, &key, sizeof(K), NULL); \
    }
/* clang-format on */

PNX_END_DECLS
#endif /* PNX_CMAP_H */
