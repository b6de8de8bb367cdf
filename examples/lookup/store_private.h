/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_private.h - the store as its files see it: store.c (opening, ending, settings), search.c, connection.c (the
 * pool's connections) and rebuild.c (the index, made at the start and again when its texts are lost).
 *
 * The texts in force:
 *
 *   FRESH --a read in a checked scope failed (rebuild.c: note)--> STALE --a job of the executor--> BUILDING
 *     ^                                                             ^                                |  |
 *     |                                                             +------it failed; after a pause--+  |
 *     +--the new generation is in force (rebuild.c: put_in_force)---------------------------------------+
 *
 * They are STALE or BUILDING while stale_opening is that of the generation in force: documents and snippets of it are
 * refused then, while answers that are cached, and searches that find nothing, go on.
 */
#ifndef LOOKUP_STORE_PRIVATE_H
#define LOOKUP_STORE_PRIVATE_H

#include "generation.h"

#include <patinox/executor.h>
#include <patinox/pool.h>

#include <pthread.h>
#include <stdatomic.h>

#define LOOKUP_CLOSED (UINT64_C(1) << 63)

/*
 * Owned by whoever opened it.  The parts (budget, pool, cache, executor) are fixed while the store is open, the
 * generation excepted; they go with the store, or before it in a shutdown of the registry, once it is closed and nobody is
 * inside.  settings is guarded by `applying`.
 *
 * A question uses the generation of its connection, never store->generation: so what it reads of database and texts
 * belongs together, whatever is put in force meanwhile.
 */
struct lookup_store {
    struct pnx_env env; /* as given; members may be NULL */
    const struct pnx_env *env_or_null;
    struct pnx_registry *registry; /* as given; NULL: the process's */
    struct pnx_stats *stats;
    char *corpus;
    uint64_t max_file_bytes;
    uint64_t max_total_bytes;
    uint64_t max_files;
    char *data_dir;
    int lock_fd;
    struct pnx_budget *budget;
    struct lookup_generation *generation; /* in force; under mutex once there is a pool */
    struct pnx_pool *pool;
    struct pnx_cache *cache;
    struct pnx_executor *executor;  /* builds the index again; one job at a time */
    struct pnx_executor *refresher; /* asks for answers anew, while the old ones are served */
    pnx_resource_id row;
    pthread_mutex_t applying; /* held by lookup_store_apply() */
    pthread_mutex_t mutex;    /* guards all_left, generation and opened */
    struct lookup_settings settings;
    _Atomic pnx_ns search_timeout;
    _Atomic pnx_ns cache_refresh;
    _Atomic pnx_ns cache_negative_ttl;
    _Atomic uint64_t callers; /* inside a call that uses the parts; and the bit LOOKUP_CLOSED */
    bool all_left;            /* the last of them has gone after closing; with the mutex */
    pthread_cond_t left;      /* all_left became true */
    struct lookup_store_info opened; /* what info says of the generation in force */
    _Atomic uint64_t number;         /* of the generation in force: part of the cache's keys */
    _Atomic uint64_t opening;        /* likewise */
    _Atomic uint64_t stale_opening;  /* the newest one whose texts were found lost; 0: none */
    _Atomic pnx_ns rebuild_due;      /* after a failure: not before */
    atomic_bool rebuild_no_more;     /* an end has begun */
    _Atomic uint64_t searches;
    _Atomic uint64_t database_reads;
    _Atomic uint64_t stale_requests;
    _Atomic uint64_t rebuilds;
    _Atomic uint64_t rebuild_failures;
    uint64_t failures; /* of rebuilds, one after the other: the job's */
};

/* The resource of the pool: a connection, and the generation whose database it reads. */
struct lookup_connection {
    struct lookup_generation *generation; /* a reference */
    struct pnx_sqlite_conn *conn;
};

/* How the pool treats them; its ctx is the store.  A connect takes the generation that is in force when it begins. */
const struct pnx_pool_manager *lookup_connection_manager(void);

/* The cache's loader for answers that are asked for anew: ctx is the store, and the key says what is asked. */
int lookup_search_again(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *into);

/*
 * Gets the generation for the corpus as it is now: at the start, when none is in force, and again.  progress may be NULL.
 * Errors of lookup_corpus_scan() and lookup_generation_get().
 */
PNX_NODISCARD int lookup_index_get(struct lookup_store *store, lookup_progress_fn *progress,
        void *ctx, struct lookup_generation_opts *work, struct pnx_error *err,
        struct lookup_generation **ret_generation);

/* Makes the generation the one in force; takes the reference.  Its predecessor's connections are granted no more. */
void lookup_index_put_in_force(struct lookup_store *store, struct lookup_generation *generation);

/*
 * Remembers that the texts of that opening are lost, and has the index built again in the background.  The caller has
 * entered.  Does not block.
 */
void lookup_index_note_stale(struct lookup_store *store, uint64_t opening);

/* Begins a call that uses the parts, and ends it.  -ESHUTDOWN once the store is closed. */
PNX_NODISCARD int lookup_store_enter(struct lookup_store *store, struct pnx_error *err);
void lookup_store_leave(struct lookup_store *store);

#endif
