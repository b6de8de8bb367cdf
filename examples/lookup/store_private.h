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

#define LOOKUP_CLOSED (UINT64_C(1) << 63)

/*
 * Owned by whoever opened it.  The parts (budget, generation, pool, cache) are fixed while the store is open; they
 * go with the store, or before it in a shutdown of the registry, once it is closed and nobody is inside.  settings is
 * guarded by `applying`.
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
    pthread_mutex_t applying; /* held by lookup_store_apply() */
    pthread_mutex_t mutex;    /* guards all_left */
    struct lookup_settings settings;
    _Atomic pnx_ns search_timeout;
    _Atomic uint64_t callers; /* inside a call that uses the parts; and the bit LOOKUP_CLOSED */
    bool all_left;            /* the last of them has gone after closing; with the mutex */
    pthread_cond_t left;      /* all_left became true */
    struct lookup_store_info opened; /* what info says that does not change */
    _Atomic uint64_t searches;
    _Atomic uint64_t database_reads;
};

/* Begins a call that uses the parts, and ends it.  -ESHUTDOWN once the store is closed. */
PNX_NODISCARD int lookup_store_enter(struct lookup_store *store, struct pnx_error *err);
void lookup_store_leave(struct lookup_store *store);

#endif
