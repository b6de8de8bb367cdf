/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/deferred.c - destructors that an executor runs, not the thread that let the value go.
 *
 *     last reference --list not full--> listed --a job--> destroyed
 *          +--full, or the executor refuses the job--> destroyed by this thread, as without an executor
 *
 *   P1  Listed entries are destroyed in the order in which they were listed, one at a time; they stay charged till then.
 *   P2  There is one job at most.  It, and each entry, keeps the cache's memory; who ends the job with entries left, run or
 *       not, destroys them.
 */
#include "cache/internal.h"

#include <patinox/executor.h>

/* Takes the first entry off the list; NULL ends the draining. */
static struct pnx_cache_entry *next_deferred(struct pnx_cache *cache) {
    pnx__mutex_lock(&cache->lock);
    struct pnx_cache_entry *entry = cache->deferred_first;
    if (entry) {
        cache->deferred_first = entry->u.in.next;
        cache->deferred--;
    } else {
        cache->draining = false;
    }
    pnx__mutex_unlock(&cache->lock);
    return entry;
}

static void drain(struct pnx_cache *cache) {
    struct pnx_cache_entry *entry;
    while ((entry = next_deferred(cache)))
        pnx__cache_entry_destroy(entry);
}

static int run_job(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel; /* what is listed has to go in any case */
    drain(arg);
    return 0;
}

static void job_done(void *ctx, pnx_job_id id, int code) {
    struct pnx_cache *cache = ctx;
    (void)id;
    if (code != 0) /* it was never run: the executor was closed */
        drain(cache);
    pnx__cache_settled(cache->shards);
}

static void submit(struct pnx_cache *cache) {
    /* Relaxed: the entry that is listed keeps the cache until here. */
    pnx_fetch_add(&cache->shards->pending, 1, PNX_RELAXED, "cache.job_pending");
    if (pnx_executor_submit(cache->destroy_executor,
                PNX_JOB(.run = run_job, .arg = cache, .done = job_done, .ctx = cache,
                        .name = "cache destructors", .timeout_ns = PNX_NEVER, .attempts = 1),
                NULL, NULL) != 0)
        job_done(cache, 0, -EBUSY);
}

bool pnx__cache_defer(struct pnx_cache_entry *entry) {
    struct pnx_cache *cache = entry->shard->cache;
    if (!cache->destroy_executor || !cache->destroy || (entry->flags & PNX_CACHE_ENTRY_NEGATIVE))
        return false;
    if (!entry->detached)
        pnx__cache_entry_detach(entry); /* no reader has a reference: nobody else writes it */
    pnx__mutex_lock(&cache->lock);
    bool listed = cache->deferred < PNX_CACHE_DEFERRED_MAX;
    bool first = listed && !cache->draining;
    if (listed) {
        entry->u.in.next = NULL;
        *(cache->deferred_first ? &cache->deferred_last->u.in.next : &cache->deferred_first) =
                entry;
        cache->deferred_last = entry;
        cache->deferred++;
        cache->draining = true;
        /* Keeps the cache while this thread may submit: the entry may be gone at once. */
        if (first)
            pnx_fetch_add(&cache->shards->pending, 1, PNX_RELAXED, "cache.submit_pending");
        pnx_owner_add(&cache->all_deferred, 1);
    }
    pnx__mutex_unlock(&cache->lock);
    if (first) {
        submit(cache);
        pnx__cache_settled(cache->shards);
    }
    return listed;
}
