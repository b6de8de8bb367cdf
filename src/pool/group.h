/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/group.h - what the files of a group of pools share.
 *
 * Every function that changes something locks, changes, has pnx__group_tend_locked() draw the consequences, and ends in
 * pnx__group_unlock(), which does without the lock what they ask for: kicks pools whose quota has changed, ends
 * those that are gone, frees the group.
 *
 * Locks: the group's, and inside it, one at a time, those of the pools, whose cores are looked at and given another quota
 * there.  What a pool's unlock would do is done later, by the kick.
 *
 * Who keeps the memory: a key has one of refs from the table until it is ending, and one for each call, kick and telling
 * of its pool that is under way.  refs grows under the group's lock, or under its pool's while that may tell; so a key
 * that is seen with both locks held to have no other ref has none, and gets none once its pool may not tell any more.
 * The group is freed by whoever ends its last key after the release, or by the release.
 *
 *   sum of share over all keys = shares <= max_total
 *   share = the larger of the quota and the size of the pool's core, as soon as the key is settled; never less than either
 */
#ifndef PNX_SRC_POOL_GROUP_H
#define PNX_SRC_POOL_GROUP_H

#include "pool/pool.h"

#include <patinox/pool_group.h>

/*
 *   MAKING --made--> OPEN --unused, or all closing--> LEAVING --size 0, no refs--> ENDING --its threads have ended--> freed
 *     | failed         ^                                 |
 *     v                +--- asked for again -------------+
 *   FAILED --last ref--> freed
 *
 * MAKING, OPEN and LEAVING stand in the table; MAKING and OPEN count against max_keys.
 */
enum pnx__group_state {
    PNX__GROUP_FAILED, /* or not in the group yet */
    PNX__GROUP_MAKING,
    PNX__GROUP_OPEN,
    PNX__GROUP_LEAVING,
    PNX__GROUP_ENDING,
};

enum pnx__group_making { PNX__GROUP_IS_MADE = 1, PNX__GROUP_WAS_WAITED_FOR = 2 };

/* A key.  Owned by its group.  Fixed: pub, group, hash, maker, bytes; the rest is guarded by the group's lock, save refs. */
struct pnx__group_key {
    struct pnx_pool_key pub; /* the ctx of the pool's operations */
    struct pnx_pool_group *group;
    uint64_t hash;
    uint64_t maker;       /* number of the thread */
    struct pnx_aptr next; /* in its bucket; a forked child walks it without the lock */
    struct pnx_aptr pool; /* NULL until it is made; likewise */
    struct pnx_a32 refs;
    struct pnx_a32 made;   /* futex: enum pnx__group_making */
    struct pnx_link all;   /* the list of all */
    struct pnx_link order; /* of the list used, leaving or ending, by state */
    struct pnx_link want;  /* of the list hungry */
    struct pnx_link kick;  /* of the list kicks */
    enum pnx__group_state state;
    uint32_t quota;     /* as in its pool's core */
    uint32_t share;     /* as in its pool's member */
    bool lends;         /* as in its pool's core */
    pnx_ns used_at;     /* when it was last asked for, or seen in use */
    pnx_ns rests_since; /* when it was first seen unused after that; 0: not yet */
    pnx_ns got_at;      /* when it was last allowed one more */
    char bytes[];
};

/* Indices of the values of a group's statistics block. */
enum pnx__group_stat {
#define PNX_STAT(name, kind, unit, level, help) PNX__GROUP_STAT_##name,
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
#include <patinox/stats/pool_group.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    PNX__GROUP_STATS,
};

/* Fixed after create: manager .. row.  The rest is guarded by lock. */
struct pnx_pool_group {
    struct pnx_mutex lock;

    struct pnx_pool_manager manager;
    struct pnx_pool_opts pool_opts; /* of each pool; without name and ctx */
    struct pnx_pool_hooks hooks;    /* what these point to */
    struct pnx_env env;
    char *name;
    const char *site;
    uint64_t seed;
    uint32_t fork; /* the fork generation of the process that made it */
    pnx_ns key_idle;
    pnx_ns turn;
    pnx_ns acquire_timeout;
    pnx_ns close_timeout;
    uint32_t max_total;
    uint32_t min_per_key;
    uint32_t max_keys;
    uint32_t flags;
    struct pnx_registry *registry;
    struct pnx_budget *budget;
    size_t bytes; /* charged */
    pnx_resource_id row;

    struct pnx_aptr *buckets; /* n_buckets of them, a power of two; fixed */
    uint32_t n_buckets;       /* fixed */
    uint32_t open;            /* keys that are MAKING or OPEN */
    uint32_t members;         /* keys whose memory is there */
    struct pnx_link all;      /* OPEN, LEAVING and ENDING, the youngest first */
    struct pnx_link used;     /* OPEN, the last used first */
    struct pnx_link leaving;  /* LEAVING */
    struct pnx_link ending;   /* ENDING */
    struct pnx_link gone;     /* to be freed by pnx__group_unlock() */
    struct pnx_link kicks;    /* pools to be kicked; each has a ref of its key */
    struct pnx_link hungry;   /* by quota, smallest first; among equals in order of arrival */
    int64_t shares;           /* of all keys */
    int64_t reserved; /* shares, but a key that counts against max_keys counts as min_per_key at least */
    int64_t owed; /* share - quota, of all keys */
    bool looking; /* a hungry key looks for what is idle: some keys lend */
    bool closing;
    bool released;

    struct pnx_stats_block block;            /* stats' lock: its link */
    struct pnx_a64 values[PNX__GROUP_STATS]; /* written under the lock */
};

static inline void pnx__group_count(struct pnx_pool_group *group, enum pnx__group_stat stat) {
    pnx_owner_add(&group->values[stat], 1);
}
static inline struct pnx_pool *pnx__group_pool(const struct pnx__group_key *key) {
    /* alone: whoever holds the lock or a ref has learnt that it is made under the lock, or by its futex */
    return pnx_load(&key->pool, PNX_RELAXED, "pool_group.pool");
}
static inline struct pnx__group_key *pnx__group_of_order(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx__group_key, order);
}

/* ---- group.c ---- */
bool pnx__group_forked(const struct pnx_pool_group *group);
/* Whether an operation of one of its pools runs on this thread. */
bool pnx__group_inside(const struct pnx_pool_group *group);
static inline void pnx__group_lock(struct pnx_pool_group *group) {
    pnx__mutex_lock(&group->lock);
}
/* Unlocks and does what is to be done; the group may be gone then, unless the caller is the user's. */
void pnx__group_unlock(struct pnx_pool_group *group);

/* ---- group_keys.c ---- */
/* Finds the key, or makes it; the caller has a ref then, which pnx__group_drop() gives back. */
int pnx__group_hold(struct pnx_pool_group *group, const void *bytes, size_t len,
        struct pnx_error *err, struct pnx__group_key **ret_key);
/* ... without the lock: for keys that are in use. */
void pnx__group_drop(struct pnx__group_key *key);
/* Takes another ref, and gives one back, under it. */
void pnx__group_ref_locked(struct pnx__group_key *key);
void pnx__group_put_locked(struct pnx__group_key *key);
/* The key after a key, which is given back; the first for NULL.  With a ref; its pool is made.  NULL: no more. */
struct pnx__group_key *pnx__group_next(struct pnx_pool_group *group, struct pnx__group_key *key);
/* Has an OPEN key leave. */
void pnx__group_leave_locked(struct pnx__group_key *key);
/* Has an OPEN key leave if it has been unused for long enough; else asks to be told when to look again. */
void pnx__group_expire_locked(struct pnx__group_key *key, pnx_ns now);
/* Moves on what leaves or ends. */
void pnx__group_sweep_locked(struct pnx_pool_group *group);
/* Frees a key that is gone, and its pool. */
void pnx__group_end_key(struct pnx__group_key *key);

/* ---- group_share.c ---- */
/* What a pool calls: see struct pnx__pool_member. */
void pnx__group_told(void *key);
/* Draws the consequences of what has changed. */
void pnx__group_tend_locked(struct pnx_pool_group *group, pnx_ns now);
/* Gives the key's pool another quota. */
void pnx__group_set_quota_locked(struct pnx__group_key *key, uint32_t quota);
/* Changes what a key counts for; state and share are as they will be. */
void pnx__group_recount_locked(
        struct pnx__group_key *key, enum pnx__group_state state, uint32_t quota, uint32_t share);
/* Takes it off the list of the hungry. */
void pnx__group_sate_locked(struct pnx__group_key *key);
/* Says what the group knows, or wants to know, of the hunger of the key's pool. */
void pnx__group_hear_locked(struct pnx__group_key *key, enum pnx__pool_appetite known);
/* Has the pool's unlock done, soon. */
void pnx__group_kick_locked(struct pnx__group_key *key);
/* Asks the key's pool to tell at a time. */
void pnx__group_arm_locked(struct pnx__group_key *key, pnx_ns at);

#endif
