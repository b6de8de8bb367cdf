/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/pool_group.h - pools by key, one per host or tenant, that share one limit.
 *
 * Each key that somebody asks for gets a pool of its own (patinox/pool.h): its queue, its breaker, its back-off, so that
 * one host that is down harms no other.  What they share is max_total.  Each key has a share of it: how many resources
 * it may have alive just now.  Shares grow when they are needed and move when there is nothing left to grow by:
 *
 *     free --a key is hungry--> SHARE of that key --unused, or its resource has been closed--> another hungry key
 *      ^                                                                  |
 *      +------------------------------ nobody is hungry ------------------+
 *
 *   (absent) --first asked for--> OPEN --unused for key_idle_ns, or the longest of max_keys--> LEAVING --> (absent)
 *                                   ^                                                             |
 *                                   +------------------------ asked for again --------------------+
 *
 * A key is hungry when it wants a connect that only its share forbids.  What follows holds at every moment outside the
 * group's lock:
 *   G1  All resources of all keys, those being connected, checked and closed included, are at most max_total, and those of
 *       one key at most max_per_key: a share moves only after the giver's close has returned.
 *   G2  A key whose share is less than min_per_key never waits for another's: that much is held back for each of max_keys
 *       keys, whoever comes.  (After a key has left, its place is free when the last of its closes has returned.)
 *   G3  A hungry key that somebody asks gets, if nothing is free, what another key may have and does not use, else the idle
 *       resource of the richest key (of equally rich ones the longest unused), which is closed there, and one connected
 *       here.  No key falls below min_per_key by that.
 *   G4  If none is idle either, the richest key gives up the next that comes home: at once if it has at least two more than
 *       the hungry one; if it has one more, after it has had it for turn_ns.  So nobody starves who waits long
 *       enough, as long as leases come home.
 *   G5  Of several hungry keys the one with the smallest share is first, and among equals the one that has waited longest
 *       since it last got one: fair rotation.
 *   G6  A key's pool is made by one caller, with no lock held; others who ask for that key meanwhile get the same pool.
 *   G7  A key that is in use - a lease is out, somebody waits, a call is under way - is never left nor forgotten.
 *   G8  Each resource is closed exactly once, as P4 of a pool says, before close has returned 0; a key's bytes and struct
 *       pnx_pool_key are valid until then.
 *
 * Who may call what: every function may be called by any thread at any time, also inside an operation, hook or callback of
 * one of its pools, except that what would have to wait for the group is -EDEADLK there.  Nobody may be inside a call when the
 * group is released.  In a forked child a group of the parent's answers -ESHUTDOWN, and what was inherited is abandoned,
 * never closed.
 *
 *   may block, up to its timeout     acquire, close
 *   may run operations of yours      what the pools run in their callers (patinox/pool.h): with PNX_POOL_NO_THREADS
 *                                    connects and checks in acquire and tick, and closes, of other keys too, anywhere
 *   wait for the making of a key     acquire and acquire_async, while another thread is making that very key, which takes some
 *                                    allocations: as for a lock
 *   none of these                    read_stats, each (its function is called with no lock held), dump
 */
#ifndef PNX_POOL_GROUP_H
#define PNX_POOL_GROUP_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/pool.h>

PNX_BEGIN_DECLS

struct pnx_pool_group; /* safe to use from any thread */

#define PNX_POOL_KEY_MAX 255 /* bytes of a key, of any values; an empty key is one, too */

/*
 * The key that an operation is for: the first argument (ctx) of every operation of the group's manager is a
 * const struct pnx_pool_key *.  Owned by the group; valid during each operation, and until the pool of the key has ended.
 */
struct pnx_pool_key {
    const void *bytes; /* len of them, and a '\0' after the last */
    size_t len;
    void *user; /* ctx of the options for the pools */
};

enum pnx_pool_group_flags {
    /* With max_keys keys a further one is refused, even if one of them is not in use. */
    PNX_POOL_GROUP_REFUSE_KEYS = 1,
};

/* Zero selects the default of every field but max_total, which is required.  PNX_NEVER switches a time off. */
struct pnx_pool_group_opts {
    size_t size;                   /* set by PNX_POOL_GROUP_OPTS */
    const char *name;              /* copied; label in statistics and reports; default "group" */
    const char *site;              /* set by PNX_POOL_GROUP_OPTS */
    const struct pnx_env *env;     /* allocator, clock, log; default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget;     /* default: the process's; pnx_budget_off() */
    /*
     * Options of each key's pool; copied, what they point to as pnx_pool_create() says; default: a pool's.  ctx is what
     * operations find in user.  The group's own are max, name, env, registry and budget: they must be 0 here.  stats:
     * where the pools' own numbers go, with a label for each key; default the group's; another set must live as long as the
     * group.  min_idle is kept from what is free only: nothing is taken from others for it.
     */
    const struct pnx_pool_opts *pool;
    pnx_ns key_idle_ns; /* close and forget a key that has been unused this long (up to 1/8, or 1 ms, later); default 10 min */
    pnx_ns turn_ns; /* how long a key keeps one that an equally busy key wants; default 100 ms */
    uint32_t max_total;   /* resources of all keys alive at once; required */
    uint32_t max_per_key; /* of one key; default max_total */
    uint32_t min_per_key; /* held back for each of max_keys keys; default 0 */
    uint32_t max_keys;    /* keys at once; default 1024 */
    uint32_t flags;       /* enum pnx_pool_group_flags */
    uint32_t reserved;    /* must be 0 */
};

/* Names only the options that differ: PNX_POOL_GROUP_OPTS(.name = "hosts", .max_total = 64). */
#ifndef __cplusplus
#define PNX_POOL_GROUP_OPTS(...) \
    (&(const struct pnx_pool_group_opts){ \
            .size = sizeof(struct pnx_pool_group_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_pool_group_opts pnx_pool_group_opts_init(void) {
    struct pnx_pool_group_opts opts = pnx_pool_group_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Sets one option from text, as pnx_pool_opts_set() does; the same errors.  Does not block; not for one struct from two
 * threads at once.
 */
PNX_API PNX_NODISCARD int pnx_pool_group_opts_set(struct pnx_pool_group_opts *opts,
        const char *name, const char *text, struct pnx_error *err);

/*
 * Creates a group, without a key.  manager, which is copied, is that of every key's pool; its operations get the key as
 * their ctx.  The caller owns *ret_group: pnx_pool_group_close() and pnx_pool_group_release().  err may be NULL.
 * -EINVAL (err names the field; also when max_keys times min_per_key is more than max_total), -ENOMEM (memory or budget),
 * -E2BIG when a struct sets a field that this library does not know, -EBUSY or -ESHUTDOWN from the registry.
 */
PNX_API PNX_NODISCARD int pnx_pool_group_create(const struct pnx_pool_manager *manager,
        const struct pnx_pool_group_opts *opts, struct pnx_error *err,
        struct pnx_pool_group **ret_group);

/*
 * Borrows a resource of a key, as pnx_pool_acquire_with() does from a pool; the key's pool is made if there is none.  key
 * is copied; with and err may be NULL.  The lease is a pool's lease: pnx_lease_release() and its like.
 * The errors of pnx_pool_acquire_with(), whose phase is "group" for one who waited for the key's share; and -EBUSY in phase
 * "keys" (max_keys keys are there, and none can leave), what making a pool returns, -EINVAL for a key that is NULL or too
 * long, -EDEADLK for one who would wait inside an operation of any pool of the group, or for a key that this thread is making,
 * or from inside a monitor or a reclaimer for one that another thread is making.
 */
PNX_API PNX_NODISCARD int pnx_pool_group_acquire(struct pnx_pool_group *group, const void *key,
        size_t key_len, pnx_ns timeout, const struct pnx_acquire_opts *with, struct pnx_error *err,
        struct pnx_lease *ret_lease);

/*
 * The same without blocking: pnx_pool_acquire_async() at the key's pool; pnx_pool_cancel() takes it back.
 * The errors of pnx_pool_acquire_async(), and -EBUSY, -ENOMEM, -ESHUTDOWN and -EDEADLK as above: nothing will be called then.
 */
PNX_API PNX_NODISCARD int pnx_pool_group_acquire_async(struct pnx_pool_group *group,
        const void *key, size_t key_len, struct pnx_pool_request *request);

/*
 * Moves the timers of the group and of all its pools to now, as pnx_pool_tick() does: forgets keys, hands shares on.  Returns
 * when to call next, now if at once; PNX_NEVER if nothing is due.  Who asks, and a lease that comes home, can bring that
 * forward to at once.  Needed with PNX_POOL_NO_THREADS; else the pools' threads do it all.  Any thread.
 */
PNX_API pnx_ns pnx_pool_group_tick(struct pnx_pool_group *group, pnx_ns now);

/*
 * Closes the group and all its pools under one deadline: refuses new leases at once, wakes waiters with -ESHUTDOWN, closes
 * what is idle and waits for the rest.  Returns 0 when all is closed, or how many resources were still there when timeout
 * had passed; those are closed as they come home.  Idempotent: any thread may call it, again and at once; with a timeout of
 * 0 it begins, and tells how many are left.  PNX_TIMEOUT_DEFAULT asks for close_timeout_ns of the pools.
 * -EINVAL for another negative timeout, -EDEADLK from inside an operation of one of the pools (the closing has begun even so).
 */
PNX_API PNX_NODISCARD int pnx_pool_group_close(struct pnx_pool_group *group, pnx_ns timeout);

/* Drops the group: closes it without waiting; its memory goes when the last resource is closed.  Clears *group; NULL-safe;
 * cannot fail. */
PNX_API void pnx_pool_group_release(struct pnx_pool_group **group);

/* A key's numbers at one moment. */
struct pnx_pool_key_numbers {
    const struct pnx_pool_key *key;
    pnx_ns unused_for; /* since it was last asked for */
    uint32_t
            share; /* resources that it may have alive, or still has: what counts against max_total */
    uint32_t connecting; /* being connected */
    uint32_t idle;
    uint32_t in_use;
    uint32_t checking;
    uint32_t closing;
    uint32_t waiting; /* callers */
    bool leaving;     /* it is about to be forgotten */
};

/* Is told the numbers of a key, which are valid during the call: 0 to go on; anything else ends the walk. */
typedef int pnx_pool_group_each_fn(void *ctx, const struct pnx_pool_key_numbers *numbers);

/*
 * Calls each for every key, with no lock held; keys that come or go meanwhile may be left out.  Returns 0, or what each
 * returned; -EINVAL, -ESHUTDOWN in a forked child.
 */
PNX_API PNX_NODISCARD int pnx_pool_group_each(
        struct pnx_pool_group *group, pnx_pool_group_each_fn *each, void *ctx);

/* The rows of patinox/stats/pool_group.def. */
struct pnx_pool_group_stats {
    size_t size; /* sizeof(struct pnx_pool_group_stats), set by the caller */
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
#include <patinox/stats/pool_group.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
};

/* Fills *ret_stats up to its size.  Takes no lock; the numbers may be of slightly different moments.  -EINVAL. */
PNX_API int pnx_pool_group_read_stats(
        const struct pnx_pool_group *group, struct pnx_pool_group_stats *ret_stats);

/*
 * Writes the state of the group, and of the pool of each key as pnx_pool_dump() does, as text, for people; with no lock held.
 * -EINVAL, -ENOMEM, -ESHUTDOWN in a forked child, or what write returned.
 */
PNX_API PNX_NODISCARD int pnx_pool_group_dump(
        struct pnx_pool_group *group, pnx_write_fn *write, void *ctx);

PNX_END_DECLS
#endif /* PNX_POOL_GROUP_H */
