/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/refresh.c - values that are replaced while they are served.
 *
 *     FRESH --its time comes--> due --compare-and-swap--> CLAIMED --stored--> (another entry, FRESH)
 *                                ^                          |
 *                                +--back-off-- FAILED <-----+ failed
 *
 *   P1  Who has claimed an entry begins a load of its key, or finds that there is no need for one; in the end the entry is
 *       not stored any more, or FAILED.  So one refresh of an entry runs at a time, and nobody locks to find out.
 *   P2  The claim is for nothing but that: whether a load may begin is decided under the shard's lock, as ever.
 */
#include "cache/load.h"

#include "base/error.h"
#include "cache/expiry.h"
#include "share/reclaim.h"

#include <patinox/executor.h>

/* ---- the word ---- */

static struct pnx_a64 *word_of(const struct pnx_cache_entry *entry) {
    return &pnx__cache_entry_times(entry)->soft;
}

/* Relaxed, all of these: a time and two bits, which nothing else hangs on (P2). */

bool pnx__cache_soft_waits(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry, pnx_ns now) {
    if (!(entry->flags & PNX_CACHE_ENTRY_TIMED))
        return false;
    uint64_t word = pnx_load(word_of(entry), PNX_RELAXED, "cache.soft_waits");
    pnx_ns at = (pnx_ns)(word & ~PNX_CACHE_SOFT_BITS);
    /* The second: a clock that has gone back makes nobody wait for longer. */
    return (word & PNX_CACHE_SOFT_FAILED) && now < at &&
           at - now <= cache->refresh_backoff + (pnx_ns)PNX_CACHE_SOFT_BITS;
}

void pnx__cache_soft_fail(const struct pnx_cache *cache, const struct pnx_cache_entry *entry) {
    if (!(entry->flags & PNX_CACHE_ENTRY_TIMED))
        return;
    pnx_ns now = pnx__now(&cache->env);
    uint64_t word = pnx_load(word_of(entry), PNX_RELAXED, "cache.soft_claimed");
    /* One that is as fresh as ever was to be replaced at somebody's wish: nothing has changed about it. */
    if (!(word & PNX_CACHE_SOFT_CLAIMED) && now < pnx__cache_hard(cache, entry))
        return;
    pnx_ns again = pnx__deadline(now, cache->refresh_backoff);
    pnx_store(word_of(entry), pnx__cache_soft_word(again) | PNX_CACHE_SOFT_FAILED, PNX_RELAXED,
            "cache.soft_fail");
}

uint32_t pnx__cache_soft_look(
        const struct pnx_cache *cache, const struct pnx_cache_entry *entry, bool *ret_claimed) {
    if (!(entry->flags & PNX_CACHE_ENTRY_TIMED))
        return PNX_CACHE_FOUND;
    uint64_t word = pnx_load(word_of(entry), PNX_RELAXED, "cache.soft_look");
    if (word == PNX_CACHE_SOFT_NEVER)
        return PNX_CACHE_FOUND;
    if (word & PNX_CACHE_SOFT_CLAIMED)
        return PNX_CACHE_STALE;
    pnx_ns now = pnx__now(&cache->env);
    bool failed = (word & PNX_CACHE_SOFT_FAILED) != 0;
    if (now < (pnx_ns)word && (!failed || pnx__cache_soft_waits(cache, entry, now)))
        return failed ? PNX_CACHE_STALE : PNX_CACHE_FOUND;
    if (ret_claimed)
        *ret_claimed = pnx_cas(
                word_of(entry), &word, word | PNX_CACHE_SOFT_CLAIMED, PNX_RELAXED, "cache.claim");
    return PNX_CACHE_STALE;
}

/* ---- beginning ---- */

bool pnx__cache_refresh_begin(struct pnx_cache_load *load, struct pnx_cache_entry *entry,
        enum pnx_cache_load_state state) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    uint32_t slot;
    load->refresh = true;
    pnx__mutex_lock(&shard->lock);
    bool current = !pnx__cache_is_closed(cache) && entry->epoch == pnx__cache_epoch(cache) &&
                   pnx__cache_table_find(
                           shard->own_table, load->hash, load->key, load->key_size, &slot) == entry;
    bool begins = current &&
                  !pnx__cache_load_find_locked(shard, load->hash, load->key, load->key_size, true);
    if (begins)
        pnx__cache_load_begin_locked(load, state, entry);
    pnx__mutex_unlock(&shard->lock);
    if (current && !begins)
        pnx__cache_soft_fail(cache, entry); /* should the other one fail, it is tried again */
    return begins;
}

/* ---- by an executor ---- */

void pnx__cache_refresh_refused(const struct pnx_cache *cache, struct pnx_cache_entry *entry) {
    struct pnx_cache_shard *shard = entry->shard;
    pnx__cache_soft_fail(cache, entry);
    pnx__mutex_lock(&shard->lock);
    pnx_owner_add(&shard->counters.refresh_failures, 1);
    pnx__mutex_unlock(&shard->lock);
}

/* Ends a refresh that no loader was called for: others load, if they want. */
static void call_off(struct pnx_cache_load *load, bool failed) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    size_t freed = 0;
    pnx__mutex_lock(&shard->lock);
    if (load->state == PNX_CACHE_LOAD_QUEUED)
        pnx__cache_load_find_locked(shard, load->hash, load->key, load->key_size, true);
    else
        failed = false; /* somebody has taken it over */
    if (failed)
        pnx_owner_add(&shard->counters.refresh_failures, 1);
    pnx__mutex_unlock(&shard->lock);
    if (load->old) {
        if (failed)
            pnx__cache_soft_fail(cache, load->old);
        freed = pnx__cache_entry_drop(load->old);
        load->old = NULL;
    }
    if (freed > 0)
        pnx__reclaim_assist(NULL);
}

static int run_job(void *arg, const struct pnx_cancel *cancel) {
    struct pnx_cache_load *load = arg;
    struct pnx_cache *cache = load->cache;
    (void)cancel;
    pnx__mutex_lock(&load->shard->lock);
    bool runs = load->state == PNX_CACHE_LOAD_QUEUED && !pnx__cache_is_closed(cache) &&
                !pnx__cache_load_overtaken(load);
    if (runs) {
        load->ran = true;
        load->state = PNX_CACHE_LOAD_RUNNING;
        load->leader = pnx__thread(); /* without memory for that, circles through it are not seen */
        load->deadline = pnx__deadline(pnx__now(&cache->env), cache->load_timeout);
    }
    pnx__mutex_unlock(&load->shard->lock);
    if (runs)
        pnx__cache_load_run(load);
    return 0;
}

static void job_done(void *ctx, pnx_job_id id, int code) {
    struct pnx_cache_load *load = ctx;
    (void)id;
    if (!load->ran) {
        call_off(load, code != 0);
        pnx__cache_load_drop(load, 2);
    }
    pnx__cache_load_drop(load, 1);
}

/* Hands a load that has begun to the executor, or calls it off. */
static int submit(struct pnx_cache_load *load, struct pnx_error *err) {
    struct pnx_cache *cache = load->cache;
    struct pnx_job job = {
            .size = sizeof(job),
            .run = run_job,
            .arg = load,
            .done = job_done,
            .ctx = load,
            .name = "cache refresh",
            .site = cache->site,
            .attempts = 1,
            .timeout_ns = cache->load_timeout,
    };
    int rc = pnx_executor_submit(cache->executor, &job, err, NULL);
    if (rc) {
        call_off(load, true);
        pnx__cache_load_drop(load, 3);
    }
    return rc;
}

void pnx__cache_refresh_submit(struct pnx_cache *cache, struct pnx_cache_entry *entry) {
    struct pnx_cache_load *load = pnx__cache_load_make(cache, pnx__cache_entry_key(entry),
            entry->key_size, PNX_NEVER, cache->refresh_loader, cache->refresh_ctx);
    if (!load) {
        pnx__cache_refresh_refused(cache, entry);
        return;
    }
    pnx__cache_load_add(load, 1); /* the job's */
    if (pnx__cache_refresh_begin(load, entry, PNX_CACHE_LOAD_QUEUED))
        (void)submit(load, NULL); /* counted; the old value stays */
    else
        pnx__cache_load_drop(load, 3);
}

uint32_t pnx__cache_source_slow(struct pnx_cache *cache, struct pnx_cache_entry *entry) {
    bool claimed = false;
    uint32_t source = pnx__cache_soft_look(cache, entry, cache->executor ? &claimed : NULL);
    if (source == PNX_CACHE_STALE)
        PNX_CACHE_COUNT(cache, stale_hits, 1);
    if (claimed)
        pnx__cache_refresh_submit(cache, entry);
    return source;
}

/* ---- by hand ---- */

/* Makes the load the one of its key, whatever is there.  0, -EALREADY, -ESHUTDOWN. */
static int begin_anew(struct pnx_cache_load *load, enum pnx_cache_load_state state) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *kept = NULL;
    struct pnx_cache_load *given_up = NULL;
    struct pnx_link answers;
    pnx_ns now = 0;
    int rc = 0;
    pnx__list_init(&answers);
    pnx__cache_lock(shard);
    if (pnx__cache_is_closed(cache)) {
        rc = -ESHUTDOWN;
    } else if (pnx__cache_load_other_locked(load, 0, &answers, &given_up)) {
        rc = -EALREADY;
    } else {
        struct pnx_cache_entry *entry = NULL; /* where sizes are fixed there is none to be kept */
        if (!pnx__cache_is_fixed(cache))
            entry = pnx__cache_see_locked(
                    shard, load->hash, load->key, load->key_size, &now, &fx, &kept);
        load->refresh = true;
        pnx__cache_load_begin_locked(load, state, entry ? entry : kept);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    pnx__cache_wake(&answers);
    if (given_up)
        pnx__cache_given_up(given_up);
    return rc;
}

static int fail_begin(const struct pnx_cache *cache, int rc, struct pnx_error *err) {
    return pnx__fail(err, rc, 0, "refresh", "cache \"%.64s\": %s", cache->name,
            rc == -EALREADY    ? "a load of the key is under way"
            : rc == -ENOMEM    ? "out of memory"
            : rc == -ESHUTDOWN ? "closed"
                               : "no loader");
}

static int refresh_by_executor(
        struct pnx_cache *cache, const struct pnx_cache_load *like, struct pnx_error *err) {
    struct pnx_cache_load *load = pnx__cache_load_make(
            cache, like->key, like->key_size, PNX_NEVER, cache->refresh_loader, cache->refresh_ctx);
    if (!load)
        return fail_begin(cache, -ENOMEM, err);
    pnx__cache_load_add(load, 1);
    int rc = begin_anew(load, PNX_CACHE_LOAD_QUEUED);
    if (rc == 0)
        return submit(load, err);
    pnx__cache_load_drop(load, 3);
    return fail_begin(cache, rc, err);
}

int pnx_cache_refresh(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout, struct pnx_error *err) {
    if (!key && key_size > 0)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: key is required");
    struct pnx_cache_load load;
    struct pnx_cache_ref ref = {0};
    bool may_wait = false;
    int rc = pnx__cache_load_prepare(cache, key, key_size, timeout, err, &load, &may_wait);
    if (rc)
        return rc;
    if (!loader && !cache->refresh_loader)
        return fail_begin(cache, -EINVAL, err);
    if (!loader && cache->executor)
        return refresh_by_executor(cache, &load, err);
    rc = begin_anew(&load, PNX_CACHE_LOAD_RUNNING);
    if (rc)
        return fail_begin(cache, rc, err);
    rc = loader ? pnx__cache_lead(&load, loader, ctx, err, &ref)
                : pnx__cache_lead(&load, cache->refresh_loader, cache->refresh_ctx, err, &ref);
    pnx_cache_ref_release(&ref);
    return rc;
}
