/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats/set.h - a set: its blocks and its monitors.  Private to src/stats.
 *
 * Owner: whoever created it, and each block in it; the last reference frees it.  The default set is static
 * and never freed; pnx_stats_off() is only an address.
 */
#ifndef PNX_SRC_STATS_SET_H
#define PNX_SRC_STATS_SET_H

#include "base/atomic.h"
#include "base/env.h"
#include "base/list.h"
#include "os/mutex.h"
#include "stats/stats.h"

#include <patinox/stats.h>

#include <pthread.h>

/* One running callback; lives on the stack of its thread.  Guarded by the monitor lock. */
struct pnx_monitor_call {
    struct pnx_monitor_call *next;
    struct pnx_stats *set;
    struct pnx_monitor_slot *slot;
    pthread_t thread;
    uint32_t generation; /* of fork: a child has none of its parent's other threads */
};

/* Guarded by the monitor lock.  Free when id is 0. */
struct pnx_monitor_slot {
    uint32_t id;
    bool removed; /* not called again; freed by the last call to end */
    struct pnx_monitor monitor;
    struct pnx_monitor_call *calls;
};

struct pnx_stats {
    struct pnx_env env;   /* fixed at create; alloc is NULL in the default set: the system's */
    struct pnx_link link; /* in the list of all, whose lock guards it */
    struct pnx_a32 references;

    struct pnx_mutex lock;  /* rank STATS: blocks, n_blocks and each block's link and number */
    struct pnx_link blocks; /* runs of one group, in them runs of one name, by number */
    size_t n_blocks;

    struct pnx_mutex monitor_lock; /* rank MONITOR: all below */
    struct pnx_monitor_slot monitors[PNX_MONITORS_MAX];
    uint32_t last_id;
    uint32_t generation;      /* the fork generation that the calls belong to */
    struct pnx_a32 listening; /* how many monitors; read without the lock */
    struct pnx_a32 ended; /* moves when a removed monitor's last call ended: removers wait here */
};

/* Returns the set that a public argument means (NULL: the default one), or NULL for pnx_stats_off(). */
struct pnx_stats *pnx__stats_resolve(struct pnx_stats *set);

/* Returns the environment of the set. */
const struct pnx_env *pnx__stats_env(const struct pnx_stats *set);

/* Removes all monitors of a set that is being released; waits as pnx_monitor_remove() does. */
void pnx__monitors_clear(struct pnx_stats *set);

#endif
