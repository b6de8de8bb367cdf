/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/group_keys.c - the keys of a group: found, made once, left when unused, forgotten.
 *
 *   K1  Of all who ask for a key that is not there one makes it, with no lock held; the others sleep on it.  Whoever cannot
 *       wait, because the maker may be waiting for it, is refused.
 *   K2  Only a key in which nothing is out, under way, or waited for is left.  Its quota is 0 from then on, so that its
 *       resources are closed; it ends when the last one is, and comes back if somebody asks before.
 *   K3  At every moment a forked child finds each key that has resources by the chains of the table, without the lock.
 */
#include "pool/group.h"

#include "base/hash.h"
#include "os/futex.h"
#include "os/thread.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* A key is looked at so many times in key_idle, but not more often than this. */
#define LOOKS    8
#define LOOK_MIN PNX_MS

static_assert(offsetof(struct pnx__group_key, pub) == 0, "the operations' ctx is the key");

static size_t bytes_of(size_t len) {
    return sizeof(struct pnx__group_key) + len + 1;
}

/* ---- the table ---- */

static struct pnx_aptr *bucket_of(const struct pnx_pool_group *group, uint64_t hash) {
    return &group->buckets[hash & (group->n_buckets - 1)];
}

static struct pnx__group_key *find_locked(
        const struct pnx_pool_group *group, uint64_t hash, const void *bytes, size_t len) {
    /* the lock orders writers */
    struct pnx__group_key *key = pnx_load(bucket_of(group, hash), PNX_RELAXED, "pool_group.find");
    while (key && (key->hash != hash || key->pub.len != len || memcmp(key->bytes, bytes, len) != 0))
        key = pnx_load(&key->next, PNX_RELAXED, "pool_group.find_next");
    return key;
}

static void insert_locked(struct pnx__group_key *key) {
    struct pnx_aptr *bucket = bucket_of(key->group, key->hash);
    void *first = pnx_load(bucket, PNX_RELAXED, "pool_group.first"); /* the lock orders writers */
    pnx_store(&key->next, first, PNX_RELAXED, "pool_group.insert_next"); /* published with it */
    pnx_store(bucket, key, PNX_RELEASE, "pool_group.insert"); /* pairs with pool_group.walk */
}

static void unlink_locked(struct pnx__group_key *key) {
    struct pnx_aptr *at = bucket_of(key->group, key->hash);
    struct pnx__group_key *other;
    /* the lock orders writers */
    while ((other = pnx_load(at, PNX_RELAXED, "pool_group.unlink")) && other != key)
        at = &other->next;
    void *next = pnx_load(&key->next, PNX_RELAXED, "pool_group.unlink_next");
    pnx_store(at, next, PNX_RELEASE, "pool_group.cut"); /* pairs with pool_group.walk */
}

/* ---- references ---- */

void pnx__group_ref_locked(struct pnx__group_key *key) {
    pnx_fetch_add(&key->refs, 1, PNX_RELAXED, "pool_group.ref"); /* the lock orders it */
}

void pnx__group_drop(struct pnx__group_key *key) {
    /* pairs with pool_group.alone: what the call did is done.  The table has one more. */
    pnx_fetch_sub(&key->refs, 1, PNX_RELEASE, "pool_group.drop");
}

void pnx__group_put_locked(struct pnx__group_key *key) {
    /* the lock orders it */
    if (pnx_fetch_sub(&key->refs, 1, PNX_RELAXED, "pool_group.put") == 1)
        pnx__list_push_back(&key->group->gone, &key->all); /* it was never made */
}

/* Nobody but the table has it; with the pool's lock nobody will, unless by the group's. */
static bool is_alone_locked(const struct pnx__group_key *key) {
    return pnx_load(&key->refs, PNX_ACQUIRE, "pool_group.alone") ==
           1; /* pairs with pool_group.drop */
}

struct pnx__group_key *pnx__group_next(struct pnx_pool_group *group, struct pnx__group_key *key) {
    pnx__group_lock(group);
    struct pnx_link *link = key ? key->all.next : group->all.next;
    struct pnx__group_key *next = NULL;
    if (link != &group->all) {
        next = PNX_CONTAINER(link, struct pnx__group_key, all);
        pnx__group_ref_locked(next);
    }
    if (key) {
        pnx__group_put_locked(key);
        pnx__group_sweep_locked(group); /* it may have waited for this */
    }
    pnx__group_unlock(group);
    return next;
}

/* ---- leaving ---- */

/* Whether all that the key has is idle; *ret_alone: and no call is under way. */
static bool rests_locked(const struct pnx__group_key *key, bool *ret_alone) {
    struct pnx_pool *pool = pnx__group_pool(key);
    uint32_t n[PNX__POOL_STATES];
    pnx__pool_lock(pool);
    pnx__pool_core_count(&pool->core, n);
    bool rests =
            pool->core.waiting == 0 && pool->core.size == n[PNX__POOL_IDLE] + n[PNX__POOL_CLOSING];
    *ret_alone = is_alone_locked(key);
    pnx__mutex_unlock(&pool->lock);
    return rests;
}

static bool is_unused_locked(const struct pnx__group_key *key) {
    bool alone;
    return rests_locked(key, &alone) && alone;
}

static void move(struct pnx__group_key *key, struct pnx_link *list) {
    pnx__list_remove(&key->order);
    pnx__list_push_front(list, &key->order);
}

void pnx__group_leave_locked(struct pnx__group_key *key) {
    pnx__group_sate_locked(key);
    pnx__group_hear_locked(key, PNX__POOL_UNHEARD);
    pnx__group_recount_locked(key, PNX__GROUP_LEAVING, key->quota, key->share);
    move(key, &key->group->leaving);
    pnx__group_set_quota_locked(key, 0);
}

static pnx_ns look_after(const struct pnx_pool_group *group) {
    if (group->key_idle == PNX_NEVER)
        return PNX_NEVER;
    return group->key_idle / LOOKS > LOOK_MIN ? group->key_idle / LOOKS : LOOK_MIN;
}

/* Returns read no clock: the first look that finds it unused starts its time. */
void pnx__group_expire_locked(struct pnx__group_key *key, pnx_ns now) {
    struct pnx_pool_group *group = key->group;
    if (group->key_idle == PNX_NEVER || key->state != PNX__GROUP_OPEN)
        return;
    bool alone, rests = rests_locked(key, &alone);
    if (!rests) {
        key->rests_since = 0;
        key->used_at = now;
        move(key, &group->used);
    } else if (alone && key->rests_since == 0) {
        key->rests_since = now;
    } else if (alone && now >= pnx__deadline(key->rests_since, group->key_idle)) {
        pnx__group_leave_locked(key);
        pnx__group_count(group, PNX__GROUP_STAT_keys_forgotten);
        return;
    }
    pnx_ns at = pnx__deadline(now, look_after(group));
    pnx_ns due = pnx__deadline(key->rests_since, group->key_idle);
    pnx__group_arm_locked(key, key->rests_since && due > now && due < at ? due : at);
}

/* LEAVING to ENDING: true when it was so far. */
static bool end_locked(struct pnx__group_key *key) {
    struct pnx_pool *pool = pnx__group_pool(key);
    pnx__pool_lock(pool);
    bool ends = pool->core.size == 0 && pool->core.waiting == 0 && is_alone_locked(key);
    if (ends)
        pool->member.tell = NULL;
    pnx__mutex_unlock(&pool->lock);
    if (!ends)
        return false;
    unlink_locked(key);
    pnx__group_recount_locked(key, PNX__GROUP_ENDING, 0, 0);
    move(key, &key->group->ending);
    pnx__group_kick_locked(key); /* which closes it, so that its threads end */
    return true;
}

static void sweep_ending_locked(struct pnx__group_key *key) {
    struct pnx_pool *pool = pnx__group_pool(key);
    pnx__pool_lock(pool);
    bool ended = (pool->core.closing && pool->threads == 0) || key->group->released;
    pnx__mutex_unlock(&pool->lock);
    if (!ended || !is_alone_locked(key))
        return;
    pnx__list_remove(&key->order);
    pnx__list_remove(&key->all);
    pnx__list_push_back(&key->group->gone, &key->all);
}

void pnx__group_sweep_locked(struct pnx_pool_group *group) {
    PNX_LIST_EACH (link, after, &group->leaving)
        (void)end_locked(pnx__group_of_order(link));
    PNX_LIST_EACH (ending, then, &group->ending)
        sweep_ending_locked(pnx__group_of_order(ending));
}

void pnx__group_end_key(struct pnx__group_key *key) {
    struct pnx_pool_group *group = key->group;
    struct pnx_pool *pool = pnx__group_pool(key);
    size_t bytes = bytes_of(key->pub.len);
    pnx_pool_release(&pool);
    pnx__free(&group->env, key, 1, bytes);
    pnx_budget_uncharge(group->budget, bytes);
}

/* ---- making ---- */

static struct pnx__group_key *new_key(struct pnx_pool_group *group, uint64_t hash,
        const void *bytes, size_t len, struct pnx_error *err, int *ret_code) {
    int rc = pnx_budget_charge(group->budget, bytes_of(len), 0);
    struct pnx__group_key *key = rc ? NULL : pnx__alloc(&group->env, 1, bytes_of(len));
    if (!key) {
        if (rc == 0)
            pnx_budget_uncharge(group->budget, bytes_of(len));
        *ret_code = pnx__fail(err, rc ? rc : -ENOMEM, 0, "create",
                "pool group \"%.40s\": no memory for another key", group->name);
        return NULL;
    }
    const struct pnx_thread *self = pnx__self();
    *key = (struct pnx__group_key){
            .pub = {.bytes = key->bytes, .len = len, .user = group->pool_opts.ctx},
            .group = group,
            .hash = hash,
            .maker = self ? self->id : 0,
    };
    memcpy(key->bytes, bytes, len);
    return key;
}

static void free_new_key(struct pnx__group_key *key) {
    if (key)
        pnx__group_end_key(key); /* it has no pool yet */
}

/* "group/key" as far as it can be printed. */
static void name_pool(const struct pnx__group_key *key, char *ret_name, size_t n) {
    int at = snprintf(ret_name, n, "%.40s/", key->group->name);
    for (size_t i = 0; i < key->pub.len && (size_t)at + 5 < n; i++) {
        unsigned char c = (unsigned char)key->bytes[i];
        bool plain = c > ' ' && c < 0x7f && c != '\\' && c != '"';
        at += snprintf(ret_name + at, n - (size_t)at, plain ? "%c" : "\\x%02x", c);
    }
}

static int make_pool(
        struct pnx__group_key *key, struct pnx_error *err, struct pnx_pool **ret_pool) {
    struct pnx_pool_group *group = key->group;
    struct pnx_pool_opts opts = group->pool_opts;
    char name[112];
    struct pnx__pool_place place = {
            .parent = group->row,
            .member =
                    {
                            .key = key,
                            .key_refs = &key->refs,
                            .group = group,
                            .at = PNX_NEVER,
                    },
    };
    name_pool(key, name, sizeof(name));
    opts.name = name;
    opts.ctx = &key->pub;
    return pnx__pool_create(&group->manager, &opts, &place, err, ret_pool);
}

static int fail_closed(const struct pnx_pool_group *group, struct pnx_error *err) {
    return pnx__fail(err, -ESHUTDOWN, 0, "closed", "pool group \"%.40s\" is closed", group->name);
}

/* Makes the pool of a key that this thread has put into the table; on success it keeps its ref. */
static int make(struct pnx__group_key *key, struct pnx_error *err) {
    struct pnx_pool_group *group = key->group;
    struct pnx_pool *pool = NULL;
    int rc = make_pool(key, err, &pool);
    pnx_ns now = pnx__now(&group->env);
    pnx__group_lock(group);
    if (rc == 0 && group->closing)
        rc = fail_closed(group, err);
    if (rc == 0) {
        pnx_store(
                &key->pool, pool, PNX_RELEASE, "pool_group.made"); /* pairs with pool_group.walk */
        pool = NULL;
        pnx__pool_lock(pnx__group_pool(key));
        pnx__group_pool(key)->member.tell = pnx__group_told;
        pnx__mutex_unlock(&pnx__group_pool(key)->lock);
        pnx__group_kick_locked(key); /* it may be hungry already */
        key->used_at = now;
        pnx__group_recount_locked(key, PNX__GROUP_OPEN, 0, 0);
        pnx__list_push_front(&group->all, &key->all);
        pnx__list_push_front(&group->used, &key->order);
        pnx__group_count(group, PNX__GROUP_STAT_keys_made);
        pnx__group_expire_locked(key, now);
    } else {
        unlink_locked(key);
        pnx__group_recount_locked(key, PNX__GROUP_FAILED, 0, 0);
        pnx__group_put_locked(key); /* the table's */
        pnx__group_put_locked(key);
    }
    /* pairs with pool_group.await: who sees it may look at the key */
    uint32_t was = pnx_exchange(&key->made, PNX__GROUP_IS_MADE, PNX_RELEASE, "pool_group.is_made");
    pnx__group_tend_locked(group, now);
    pnx__group_unlock(group);
    if (was & PNX__GROUP_WAS_WAITED_FOR)
        pnx__futex_wake(&key->made, UINT32_MAX); /* by its address alone */
    if (pool)
        pnx_pool_release(&pool);
    return rc;
}

/* Whether somebody may be waiting for this thread who is about to make something. */
static bool may_be_awaited(void) {
    const struct pnx_thread *self = pnx__self();
    return self && (self->monitor_depth || self->reclaim_depth);
}

/* Sleeps until another thread has made the key, or failed; the caller has a ref, and the lock is not held. */
static void await(struct pnx__group_key *key) {
    uint32_t made;
    /* pairs with pool_group.is_made */
    while (!((made = pnx_load(&key->made, PNX_ACQUIRE, "pool_group.await")) & PNX__GROUP_IS_MADE)) {
        if (made == 0 && !pnx_cas(&key->made, &made, PNX__GROUP_WAS_WAITED_FOR, PNX_RELAXED,
                                 "pool_group.waits"))
            continue;
        (void)pnx__futex_wait(&key->made, PNX__GROUP_WAS_WAITED_FOR, PNX_NEVER);
    }
}

/* ---- asking ---- */

/* Has an unused key leave if there is no room for one more: 0, -EBUSY. */
static int make_room_locked(struct pnx_pool_group *group, struct pnx_error *err) {
    if (group->open < group->max_keys)
        return 0;
    struct pnx_link *link =
            group->flags & PNX_POOL_GROUP_REFUSE_KEYS ? &group->used : group->used.prev;
    while (link != &group->used && !is_unused_locked(pnx__group_of_order(link)))
        link = link->prev;
    if (link == &group->used) {
        pnx__group_count(group, PNX__GROUP_STAT_keys_refused);
        return pnx__fail(err, -EBUSY, 0, "keys", "pool group \"%.40s\": %u keys are in use",
                group->name, group->open);
    }
    pnx__group_leave_locked(pnx__group_of_order(link));
    pnx__group_count(group, PNX__GROUP_STAT_keys_evicted);
    return 0;
}

static int fail_making(const struct pnx_pool_group *group, struct pnx_error *err) {
    return pnx__fail(err, -EDEADLK, 0, "keys",
            "pool group \"%.40s\": waiting for a key whose pool is being made", group->name);
}

/* A key that is there: 0 and a ref, or -EINPROGRESS when another thread is making it, or an error. */
static int take_locked(struct pnx__group_key *key, struct pnx_error *err) {
    struct pnx_pool_group *group = key->group;
    if (key->state == PNX__GROUP_MAKING) {
        const struct pnx_thread *self = pnx__self();
        if (may_be_awaited() || (self && self->id == key->maker))
            return fail_making(group, err);
        pnx__group_ref_locked(key);
        return -EINPROGRESS;
    }
    if (key->state == PNX__GROUP_LEAVING) {
        int rc = make_room_locked(group, err);
        if (rc)
            return rc;
        pnx__group_recount_locked(key, PNX__GROUP_OPEN, key->quota, key->share);
        pnx__group_hear_locked(key, PNX__POOL_SATED);
        key->used_at = pnx__now(&group->env);
        pnx__group_arm_locked(key, pnx__deadline(key->used_at, look_after(group)));
        pnx__group_kick_locked(key); /* it may be hungry */
    }
    pnx__group_ref_locked(key);
    key->rests_since = 0;
    key->used_at = group->env.now_coarse(group->env.ctx);
    move(key, &group->used);
    return 0;
}

/* One look: 0 and *ret_key; -EAGAIN to look again, with a *spare key at hand if that was missing. */
static int look(struct pnx_pool_group *group, uint64_t hash, const void *bytes, size_t len,
        struct pnx__group_key **spare, struct pnx_error *err, struct pnx__group_key **ret_key) {
    pnx__group_lock(group);
    struct pnx__group_key *key = find_locked(group, hash, bytes, len);
    int rc = group->closing ? fail_closed(group, err) : 0;
    if (rc == 0 && key) {
        rc = take_locked(key, err);
        pnx__group_unlock(group);
        if (rc == -EINPROGRESS) {
            await(key);
            pnx__group_lock(group);
            pnx__group_put_locked(key);
            pnx__group_unlock(group);
            return -EAGAIN;
        }
        *ret_key = key;
        return rc;
    }
    if (rc == 0 && *spare)
        rc = make_room_locked(group, err);
    if (rc || !*spare) {
        pnx__group_unlock(group);
        if (rc)
            return rc;
        *spare = new_key(group, hash, bytes, len, err, &rc);
        return *spare ? -EAGAIN : rc;
    }
    key = *spare;
    *spare = NULL;
    pnx__group_ref_locked(key); /* the table's, and the caller's */
    pnx__group_ref_locked(key);
    group->members++;
    pnx__group_recount_locked(key, PNX__GROUP_MAKING, 0, 0);
    insert_locked(key);
    pnx__group_unlock(group);
    rc = make(key, err);
    *ret_key = key;
    return rc;
}

int pnx__group_hold(struct pnx_pool_group *group, const void *bytes, size_t len,
        struct pnx_error *err, struct pnx__group_key **ret_key) {
    struct pnx__group_key *spare = NULL, *key = NULL;
    if (len == 0)
        bytes = ""; /* not NULL */
    uint64_t hash = pnx__hash(group->seed, bytes, len);
    int rc;
    do {
        rc = look(group, hash, bytes, len, &spare, err, &key);
    } while (rc == -EAGAIN);
    free_new_key(spare);
    if (rc == 0)
        *ret_key = key;
    return rc;
}
