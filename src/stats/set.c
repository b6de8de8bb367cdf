/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/set.c - sets of blocks, and health.
 *
 * The list of blocks is kept in the order of the output: blocks of one group stand together, and in a
 * group blocks of one name, numbered from 0 by the lowest free number.  So a component that is the only
 * one of its name is number 0 in every run of the program, and exporting needs no sorting.
 *
 *   P1  pnx__stats_add() and pnx__stats_remove() allocate nothing and cannot fail.
 *   P2  Two live blocks of one set never share group, name (as exported) and number.
 *   P3  A status other than OK never comes with an empty reason.
 *   P4  In a forked child no set's lock is held, whatever other threads were doing.
 */
#include "stats/set.h"

#include "base/env_system.h"
#include "base/error.h"
#include "base/options.h"
#include "os/fork.h"
#include "stats/utf8.h"

#include <assert.h>
#include <string.h>

static_assert(sizeof(struct pnx_stats_opts) == sizeof(size_t) + sizeof(void *), "no padding");

static struct pnx_link all;
static struct pnx_stats default_set = {
        .link = {&all, &all},
        .lock = PNX_MUTEX_STATIC(PNX_RANK_STATS),
        .monitor_lock = PNX_MUTEX_STATIC(PNX_RANK_MONITOR),
        .blocks = {&default_set.blocks, &default_set.blocks},
};
static struct pnx_stats off_set;

/* ---- fork ---- */

static struct pnx_mutex all_lock = PNX_MUTEX_STATIC(PNX_RANK_STATS_SETS);
static struct pnx_link all = {&default_set.link, &default_set.link}; /* all_lock */

static void fork_prepare(void) {
    pnx__fork_lock(&all_lock);
    PNX_LIST_EACH (link, after, &all) { /* nobody else holds those of two sets */
        struct pnx_stats *set = PNX_CONTAINER(link, struct pnx_stats, link);
        pnx__fork_lock(&set->monitor_lock);
        pnx__fork_lock(&set->lock);
    }
}

static void after_fork(void) {
    PNX_LIST_EACH (link, after, &all) {
        struct pnx_stats *set = PNX_CONTAINER(link, struct pnx_stats, link);
        pnx__fork_unlock(&set->lock);
        pnx__fork_unlock(&set->monitor_lock);
    }
    pnx__fork_unlock(&all_lock);
}

static void watch_forks(void) {
    pnx__at_fork(PNX_RANK_STATS_SETS, fork_prepare, after_fork, after_fork);
}

/* ---- sets ---- */

struct pnx_stats *pnx_stats_default(void) {
    return &default_set;
}

struct pnx_stats *pnx_stats_off(void) {
    return &off_set;
}

struct pnx_stats *pnx__stats_resolve(struct pnx_stats *set) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks); /* before anybody takes a lock of a set */
    if (!set)
        return &default_set;
    return set == &off_set ? NULL : set;
}

const struct pnx_env *pnx__stats_env(const struct pnx_stats *set) {
    return set->env.alloc ? &set->env : pnx__env_system();
}

int pnx_stats_create(
        const struct pnx_stats_opts *opts, struct pnx_error *err, struct pnx_stats **ret_stats) {
    struct pnx_stats_opts copy = {.size = sizeof(copy)};
    struct pnx_env env;
    if (!ret_stats)
        return pnx__fail_field(err, -EINVAL, "ret_stats", "stats: ret_stats is NULL");
    int rc = opts ? pnx__opts_copy("stats", sizeof(copy), opts, &copy, err) : 0;
    if (rc == 0)
        rc = pnx__env_resolve(copy.env, err, &env);
    if (rc)
        return rc;
    struct pnx_stats *set = pnx__alloc(&env, 1, sizeof(*set));
    if (!set)
        return pnx__fail(err, -ENOMEM, 0, "create", "stats: out of memory");
    set->env = env;
    pnx__mutex_init(&set->lock, PNX_RANK_STATS);
    pnx__mutex_init(&set->monitor_lock, PNX_RANK_MONITOR);
    pnx__list_init(&set->blocks);
    pnx__mutex_lock(&all_lock);
    pnx__list_push_back(&all, &set->link);
    pnx__mutex_unlock(&all_lock);
    pnx_store(&set->references, 1, PNX_RELAXED, "stats.create"); /* nobody else knows it yet */
    *ret_stats = set;
    return 0;
}

static void drop_reference(struct pnx_stats *set) {
    if (set == &default_set)
        return;
    /* Pairs with itself: all uses of the set by other holders happen before it is freed. */
    if (pnx_fetch_sub(&set->references, 1, PNX_ACQ_REL, "stats.drop") != 1)
        return;
    struct pnx_env env = set->env;
    pnx__mutex_lock(&all_lock);
    pnx__list_remove(&set->link);
    pnx__mutex_unlock(&all_lock);
    pnx__mutex_destroy(&set->monitor_lock);
    pnx__mutex_destroy(&set->lock);
    pnx__free(&env, set, 1, sizeof(*set));
}

void pnx_stats_release(struct pnx_stats **stats) {
    if (!stats || !*stats)
        return;
    struct pnx_stats *set = *stats;
    *stats = NULL;
    if (set == &default_set || set == &off_set)
        return;
    pnx__monitors_clear(set);
    drop_reference(set);
}

static bool same_group(const struct pnx_stats_block *a, const struct pnx_stats_block *b) {
    return a->group == b->group || strcmp(a->group->name, b->group->name) == 0;
}

static struct pnx_stats_block *block_of(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx_stats_block, link);
}

/*
 * Finds the block's number, and the link before which it stands: at the first gap among the numbers of its
 * name, else after the last of them, else after the last of its group.
 */
static struct pnx_link *place_locked(struct pnx_stats *set, struct pnx_stats_block *block) {
    struct pnx_link *at = set->blocks.next;
    while (at != &set->blocks && !same_group(block_of(at), block))
        at = at->next;
    uint32_t number = 0;
    for (; at != &set->blocks && same_group(block_of(at), block); at = at->next) {
        const struct pnx_stats_block *other = block_of(at);
        bool same =
                other->name_hash == block->name_hash && pnx__utf8_same(other->name, block->name);
        if (same ? other->number != number : number > 0)
            break;
        number += same;
    }
    block->number = number;
    return at;
}

void pnx__stats_add(struct pnx_stats *set, struct pnx_stats_block *block) {
    set = pnx__stats_resolve(set);
    if (!set) {
        block->set = &off_set;
        return;
    }
    block->set = set;
    block->name_hash = pnx__utf8_hash(block->name);
    if (set != &default_set)
        pnx_fetch_add(&set->references, 1, PNX_RELAXED,
                "stats.join"); /* the caller's own reference keeps the set alive */
    pnx__mutex_lock(&set->lock);
    struct pnx_link *before = place_locked(set, block);
    pnx__list_insert_(&block->link, before->prev, before);
    set->n_blocks++;
    pnx__mutex_unlock(&set->lock);
}

void pnx__stats_remove(struct pnx_stats_block *block) {
    struct pnx_stats *set = block->set;
    if (!set || set == &off_set)
        return;
    pnx__mutex_lock(&set->lock);
    pnx__list_remove(&block->link);
    set->n_blocks--;
    pnx__mutex_unlock(&set->lock);
    block->set = NULL;
    drop_reference(set);
}

void pnx__stats_read(const struct pnx_stats_block *block, uint64_t *ret_values) {
    for (size_t i = 0; i < block->group->n_fields; i++)
        ret_values[i] =
                pnx_load(&block->values[i], PNX_RELAXED, "stats.read"); /* each value by itself */
}

/* ---- health ---- */

void pnx__health_set(
        struct pnx_stats_block *block, enum pnx_health_status status, const char *reason) {
    if (status != PNX_HEALTH_OK)
        pnx_store(&block->health_reason, (void *)(uintptr_t)(reason && *reason ? reason : "not OK"),
                PNX_RELAXED, "stats.health_reason"); /* published by stats.health_set */
    /* Pairs with stats.health_read.  Going OK leaves the last reason: readers do not look at it then. */
    pnx_store(&block->health, (uint32_t)status, PNX_RELEASE, "stats.health_set");
}

static enum pnx_health_status read_health(struct pnx_stats_block *block, const char **ret_reason) {
    enum pnx_health_status status = (enum pnx_health_status)pnx_load(
            &block->health, PNX_ACQUIRE, "stats.health_read"); /* pairs with stats.health_set */
    *ret_reason = status == PNX_HEALTH_OK
                          ? ""
                          : pnx_load(&block->health_reason, PNX_RELAXED, "stats.health_why");
    return status;
}

static void copy_text(char *to, size_t n, const char *from) {
    size_t length = strnlen(from, n - 1);
    if (from[length] != '\0')
        length = pnx__utf8_cut(from, length);
    memcpy(to, from, length);
    to[length] = '\0';
}

int pnx_health(
        struct pnx_stats *stats, struct pnx_health_entry *entries, size_t cap, size_t *ret_count) {
    if (!entries && cap != 0)
        return -EINVAL;
    struct pnx_stats *set = pnx__stats_resolve(stats);
    size_t n = 0;
    int worst = PNX_HEALTH_OK;
    if (set) {
        pnx__mutex_lock(&set->lock);
        PNX_LIST_EACH (link, after, &set->blocks) {
            struct pnx_stats_block *block = block_of(link);
            const char *reason;
            enum pnx_health_status status = read_health(block, &reason);
            if ((int)status > worst)
                worst = (int)status;
            if (n < cap) {
                copy_text(entries[n].kind, sizeof(entries[n].kind), block->group->name);
                copy_text(entries[n].name, sizeof(entries[n].name), block->name ? block->name : "");
                entries[n].status = status;
                entries[n].reason = reason;
            }
            n++;
        }
        pnx__mutex_unlock(&set->lock);
    }
    if (ret_count)
        *ret_count = n;
    return worst;
}
