/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_private.h - the store as its two files see it: store.c (opening, ending, settings) and search.c.
 */
#ifndef LOOKUP_STORE_PRIVATE_H
#define LOOKUP_STORE_PRIVATE_H

#include "generation.h"

#include <patinox/pool.h>

#include <pthread.h>
#include <stdatomic.h>

/*
 * Owned by whoever opened it.  All but the counters, `search_timeout` and `settings` is fixed once open; settings
 * is guarded by the mutex, which only lookup_store_apply() takes.
 */
struct lookup_store {
    struct pnx_env env; /* as given; members may be NULL */
    const struct pnx_env *env_or_null;
    struct pnx_registry *registry; /* as given; NULL: the process's */
    struct pnx_stats *stats;
    char *data_dir;
    int lock_fd;
    struct pnx_budget *budget;
    struct lookup_generation *generation;
    struct pnx_pool *pool;
    struct pnx_cache *cache;
    pnx_resource_id row;
    pthread_mutex_t mutex;
    struct lookup_settings settings;
    _Atomic pnx_ns search_timeout;
    _Atomic bool closed;
    _Atomic uint64_t searches;
    _Atomic uint64_t database_reads;
};

#endif
