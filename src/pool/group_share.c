/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/group_share.c - who may have how many: the hungry, those who give, and what is on its way.
 *
 *   H1  The sum of all shares is at most max_total, and a pool's size never exceeds its share, since its quota does not.
 *   H2  A quota falls at once; the share follows when the pool's size has.  What is between them is owed.
 *   H3  A hungry key stands on the list once, until it is served or found not to be hungry any more.  Nothing is taken for a
 *       key while as much is owed as there are hungry keys up to it in the list.
 *   H4  While a hungry key could not be helped, every key that might give lends: its returns come to the core, which
 *       tells when something is idle.
 *   H5  Every change that may help a hungry key is told by a pool, or made under the group's lock, and followed by a
 *       pnx__group_tend_locked().
 */
#include "pool/group.h"

/* ---- what a key counts for ---- */

static bool has_place(enum pnx__group_state state) {
    return state == PNX__GROUP_MAKING || state == PNX__GROUP_OPEN;
}

static int64_t weight(
        const struct pnx_pool_group *group, enum pnx__group_state state, uint32_t share) {
    return has_place(state) && share < group->min_per_key ? group->min_per_key : share;
}

static void set_gauge(struct pnx_pool_group *group, enum pnx__group_stat stat, int64_t value) {
    /* read by exporters, which need no order */
    pnx_store(&group->values[stat], (uint64_t)value, PNX_RELAXED, "pool_group.gauge");
}

void pnx__group_recount_locked(
        struct pnx__group_key *key, enum pnx__group_state state, uint32_t quota, uint32_t share) {
    struct pnx_pool_group *group = key->group;
    group->shares += (int64_t)share - key->share;
    group->reserved += weight(group, state, share) - weight(group, key->state, key->share);
    group->owed += ((int64_t)share - quota) - ((int64_t)key->share - key->quota);
    group->open += (uint32_t)has_place(state) - (uint32_t)has_place(key->state);
    key->state = state;
    key->quota = quota;
    key->share = share;
    set_gauge(group, PNX__GROUP_STAT_shares, group->shares);
    set_gauge(group, PNX__GROUP_STAT_keys, group->open);
}

/* How many could be allowed more without falling short of what is held back. */
static int64_t spare(const struct pnx_pool_group *group) {
    int64_t places = (int64_t)(group->max_keys - group->open) * group->min_per_key;
    return (int64_t)group->max_total - group->reserved - places;
}

/* Brings the share down to what the key's pool has; both locks held. */
static void settle_locked(struct pnx__group_key *key, struct pnx_pool *pool) {
    uint32_t size = pool->core.size;
    uint32_t share = size > key->quota ? size : key->quota;
    pnx__group_recount_locked(key, key->state, key->quota, share);
    pool->member.share = share;
}

void pnx__group_kick_locked(struct pnx__group_key *key) {
    if (pnx__list_linked(&key->kick))
        return;
    /* the lock orders it; see group.h */
    pnx_fetch_add(&key->refs, 1, PNX_RELAXED, "pool_group.kick");
    pnx__list_push_back(&key->group->kicks, &key->kick);
}

void pnx__group_set_quota_locked(struct pnx__group_key *key, uint32_t quota) {
    struct pnx_pool *pool = pnx__group_pool(key);
    struct pnx__pool_effects effects; /* closes may begin; that is all, and the kick sees to them */
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    pnx__pool_core_set_quota(&pool->core, quota, &effects);
    pnx__group_recount_locked(key, key->state, quota, key->share);
    settle_locked(key, pool);
    pnx__mutex_unlock(&pool->lock);
    pnx__group_kick_locked(key);
}

void pnx__group_arm_locked(struct pnx__group_key *key, pnx_ns at) {
    struct pnx_pool *pool = pnx__group_pool(key);
    pnx__pool_lock(pool);
    bool sooner = at < pool->member.at;
    if (sooner)
        pool->member.at = at;
    pnx__mutex_unlock(&pool->lock);
    if (sooner)
        pnx__group_kick_locked(key); /* who watches its timers sleeps towards a later one */
}

/* ---- the list of the hungry ---- */

static struct pnx__group_key *of_want(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx__group_key, want);
}

/* Behind those with as small a quota. */
static void line_up_locked(struct pnx__group_key *key) {
    struct pnx_link *list = &key->group->hungry, *before = list->prev;
    pnx__list_remove(&key->want);
    before = list->prev;
    while (before != list && of_want(before)->quota > key->quota)
        before = before->prev;
    pnx__list_push_front(before, &key->want); /* a link is the head of what follows it */
}

/* One more, or less, is on the list. */
static void count_hungry_locked(struct pnx_pool_group *group, int by) {
    /* alone: under the lock */
    uint64_t n = pnx_load(&group->values[PNX__GROUP_STAT_hungry], PNX_RELAXED, "pool_group.hungry");
    set_gauge(group, PNX__GROUP_STAT_hungry, (int64_t)n + by);
}

void pnx__group_hear_locked(struct pnx__group_key *key, enum pnx__pool_appetite known) {
    struct pnx_pool *pool = pnx__group_pool(key);
    pnx__pool_lock(pool);
    pool->member.known = (uint8_t)known;
    pnx__mutex_unlock(&pool->lock);
}

void pnx__group_sate_locked(struct pnx__group_key *key) {
    if (!pnx__list_linked(&key->want))
        return;
    pnx__list_remove(&key->want);
    count_hungry_locked(key->group, -1);
    pnx__group_hear_locked(key, PNX__POOL_SATED);
}

/* What the key's pool wants just now. */
static enum pnx__pool_appetite ask_locked(const struct pnx__group_key *key) {
    struct pnx_pool *pool = pnx__group_pool(key);
    pnx__pool_lock(pool);
    enum pnx__pool_appetite appetite = pnx__pool_appetite(&pool->core);
    pool->member.known = (uint8_t)appetite;
    pnx__mutex_unlock(&pool->lock);
    return appetite;
}

/* ---- giving ---- */

/* Whether it may have one more now; first: nobody before it counts on what is owed. */
static bool may_have(const struct pnx__group_key *key, bool first) {
    const struct pnx_pool_group *group = key->group;
    if (key->quota < key->share) /* it keeps what it was to give */
        return first || key->quota < group->min_per_key || spare(group) > 0;
    if (key->share < group->min_per_key)
        return group->shares < (int64_t)group->max_total;
    return spare(group) > 0;
}

static void grant_locked(struct pnx__group_key *key, pnx_ns now) {
    pnx__group_sate_locked(
            key); /* its pool tells if it is still hungry, and then it is the last of its equals */
    key->got_at = now;
    pnx__group_set_quota_locked(key, key->quota + 1);
    pnx__group_count(key->group, PNX__GROUP_STAT_grants);
}

/* ---- taking ---- */

/* The best givers so far; what a busy one must wait for, if it is but its turn. */
struct search {
    struct pnx__group_key *unused;
    struct pnx__group_key *idle;
    struct pnx__group_key *busy;
    struct pnx__group_key *late;
    pnx_ns late_at;
};

/* Among equally rich ones the one that has not been asked for, or allowed one more, for longest. */
static bool is_richer(const struct pnx__group_key *key, const struct pnx__group_key *than) {
    return !than || key->quota > than->quota ||
           (key->quota == than->quota && key->used_at < than->used_at);
}

static bool is_richer_busy(const struct pnx__group_key *key, const struct pnx__group_key *than) {
    return !than || key->quota > than->quota ||
           (key->quota == than->quota && key->got_at < than->got_at);
}

static void consider_busy(struct search *search, struct pnx__group_key *giver,
        const struct pnx__group_key *hungry, pnx_ns now) {
    if (giver->quota <= hungry->quota)
        return;
    pnx_ns at = pnx__deadline(giver->got_at, giver->group->turn);
    if (giver->quota >= hungry->quota + 2 || now >= at) {
        if (is_richer_busy(giver, search->busy))
            search->busy = giver;
    } else if (at < search->late_at) {
        search->late_at = at;
        search->late = giver;
    }
}

static void consider(struct search *search, struct pnx__group_key *giver,
        const struct pnx__group_key *hungry, enum pnx__pool_appetite appetite, pnx_ns now) {
    struct pnx_pool *pool = pnx__group_pool(giver);
    uint32_t n[PNX__POOL_STATES];
    pnx__pool_lock(pool);
    uint32_t unused = pnx__pool_core_unused(&pool->core);
    pnx__pool_core_count(&pool->core, n);
    pnx__mutex_unlock(&pool->lock);
    if (unused > 0 && is_richer(giver, search->unused))
        search->unused = giver;
    if (n[PNX__POOL_IDLE] > 0 && is_richer(giver, search->idle))
        search->idle = giver;
    if (appetite == PNX__POOL_STARVES)
        consider_busy(search, giver, hungry, now);
}

/* Has somebody give one; false when nobody can yet. */
static bool take_locked(
        struct pnx__group_key *hungry, enum pnx__pool_appetite appetite, pnx_ns now) {
    struct pnx_pool_group *group = hungry->group;
    struct search search = {.late_at = PNX_NEVER};
    PNX_LIST_EACH (link, after, &group->all) {
        struct pnx__group_key *key = PNX_CONTAINER(link, struct pnx__group_key, all);
        if (key != hungry && key->state == PNX__GROUP_OPEN && key->quota > group->min_per_key)
            consider(&search, key, hungry, appetite, now);
    }
    struct pnx__group_key *giver = search.unused;
    enum pnx__group_stat stat = PNX__GROUP_STAT_taken_unused;
    if (!giver) {
        giver = search.idle ? search.idle : search.busy;
        stat = search.idle ? PNX__GROUP_STAT_taken_idle : PNX__GROUP_STAT_taken_busy;
    }
    if (!giver) {
        if (search.late) { /* either of them may have somebody who watches its timers */
            pnx__group_arm_locked(search.late, search.late_at);
            pnx__group_arm_locked(hungry, search.late_at);
        }
        return false;
    }
    pnx__group_set_quota_locked(giver, giver->quota - 1);
    if (pnx__list_linked(&giver->want))
        line_up_locked(giver);
    pnx__group_count(group, stat);
    return true;
}

/* ---- H4 ---- */

static void lend_locked(struct pnx__group_key *key, bool lends) {
    struct pnx_pool *pool = pnx__group_pool(key);
    if (key->lends == lends)
        return;
    key->lends = lends;
    pnx__pool_lock(pool);
    pnx__pool_core_lend(&pool->core, lends);
    /* Something came home since the search; or what is locked now is due for a check that somebody wants. */
    bool news = lends && (pool->core.n[PNX__POOL_IDLE] > 0 ||
                                 pnx__pool_core_runnable(&pool->core, false, pool->core.now));
    pnx__mutex_unlock(&pool->lock);
    if (news)
        pnx__group_kick_locked(key);
}

static void look_locked(struct pnx_pool_group *group, bool looking) {
    if (!looking && !group->looking)
        return;
    group->looking = looking;
    PNX_LIST_EACH (link, after, &group->all) {
        struct pnx__group_key *key = PNX_CONTAINER(link, struct pnx__group_key, all);
        lend_locked(key, looking && key->state == PNX__GROUP_OPEN &&
                                 key->quota > group->min_per_key && !pnx__list_linked(&key->want));
    }
}

/* ---- what follows ---- */

/* Helps a hungry key: true when the list is to be looked at from the start again. */
static bool help_locked(struct pnx__group_key *key, int64_t *counted, bool *looking, pnx_ns now) {
    struct pnx_pool_group *group = key->group;
    enum pnx__pool_appetite appetite = ask_locked(key);
    if (appetite == PNX__POOL_SATED) {
        pnx__group_sate_locked(key);
        return false;
    }
    if (may_have(key, *counted == 0)) {
        grant_locked(key, now);
        return true;
    }
    if (appetite == PNX__POOL_FILLS || key->share < group->min_per_key)
        return false; /* the latter waits for a key that leaves */
    if (*counted < group->owed) {
        ++*counted;
        return false;
    }
    if (take_locked(key, appetite, now))
        return true;
    *looking = true;
    return false;
}

static void serve_locked(struct pnx_pool_group *group, pnx_ns now) {
    int64_t counted = 0;
    bool looking = false;
    struct pnx_link *link = group->hungry.next;
    while (link != &group->hungry) {
        struct pnx_link *next = link->next;
        if (help_locked(of_want(link), &counted, &looking, now)) {
            next = group->hungry.next;
            counted = 0;
            looking = false;
        }
        link = next;
    }
    look_locked(group, looking);
}

void pnx__group_tend_locked(struct pnx_pool_group *group, pnx_ns now) {
    if (group->closing) /* nobody takes what is idle any more: else its pool would tell of it for ever */
        look_locked(group, false);
    else
        serve_locked(group, now);
    pnx__group_sweep_locked(group);
}

void pnx__group_told(void *arg) {
    struct pnx__group_key *key = arg;
    struct pnx_pool_group *group = key->group;
    pnx_ns now = pnx__now(&group->env);
    pnx__group_lock(group);
    struct pnx_pool *pool = pnx__group_pool(key);
    pnx__pool_lock(pool);
    pool->member.told = false;
    pool->member.at = PNX_NEVER; /* what was asked for meanwhile is looked at now, and armed anew */
    /* Whoever ticks may be ahead of the clock: what is armed below by an older time would be due, and told, at once. */
    now = pool->core.now > now ? pool->core.now : now;
    settle_locked(key, pool);
    enum pnx__pool_appetite appetite = pnx__pool_appetite(&pool->core);
    bool open = key->state == PNX__GROUP_OPEN;
    if (open) /* also in a group that is closing, and asks nobody: else it would be told of this for ever */
        pool->member.known = (uint8_t)appetite;
    bool hungry = open && appetite != PNX__POOL_SATED;
    pnx__mutex_unlock(&pool->lock);
    if (hungry && !pnx__list_linked(&key->want)) {
        line_up_locked(key);
        count_hungry_locked(group, 1);
    }
    pnx__group_put_locked(key);
    pnx__group_expire_locked(key, now);
    pnx__group_tend_locked(group, now);
    pnx__group_unlock(group);
}
