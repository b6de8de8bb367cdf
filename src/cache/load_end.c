/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/load_end.c - how a load ends: what loaders give, what is stored of it, and who is told what.
 */
#include "cache/load.h"

#include "base/error.h"
#include "cache/expiry.h"
#include "os/futex.h"
#include "share/latch.h"
#include "share/reclaim.h"

/* ---- answering ---- */

void pnx__cache_answer_locked(struct pnx_cache_shard *shard, struct pnx_cache_waiter *waiter,
        int code, struct pnx_cache_entry *entry, uint32_t source, struct pnx_link *answers) {
    pnx__list_remove(&waiter->link);
    if (waiter->thread)
        pnx__latch_awaited(waiter->thread);
    waiter->answered = true;
    waiter->code = code;
    waiter->entry = entry;
    waiter->source = source;
    if (entry)
        pnx__cache_pin(entry, 1);
    if (waiter->request)
        pnx__cache_request_answered_locked(shard, waiter->request);
    pnx__list_push_back(answers, &waiter->link);
}

/* A waiter is gone as soon as its word is set; waking needs its address only. */
void pnx__cache_wake(struct pnx_link *answers) {
    struct pnx_link *link;
    struct pnx_link requests;
    pnx__list_init(&requests);
    while ((link = pnx__list_pop_front(answers))) {
        struct pnx_cache_waiter *waiter = PNX_CONTAINER(link, struct pnx_cache_waiter, link);
        if (waiter->request) {
            pnx__list_push_back(&requests, link);
            continue;
        }
        struct pnx_a32 *word = &waiter->word;
        pnx_store(word, 1, PNX_RELEASE, "cache_load.answer"); /* pairs with cache_load.wait */
        pnx__futex_wake(word, 1);
    }
    pnx__cache_deliver(&requests);
}

/* Tells a waiter how the load ended; old: what is served instead of a failure, or NULL. */
static void answer_one(struct pnx_cache_load *load, struct pnx_cache_waiter *waiter, int code,
        struct pnx_cache_entry *old, struct pnx_link *answers) {
    struct pnx_cache_shard *shard = load->shard;
    if (pnx__cache_is_closed(load->cache)) {
        pnx__cache_answer_locked(shard, waiter, -ESHUTDOWN, NULL, 0, answers);
    } else if (waiter->late) {
        pnx__cache_answer_locked(shard, waiter, PNX_CACHE_RETRY, NULL, 0, answers);
    } else if (code == 0) {
        pnx__cache_answer_locked(shard, waiter, 0, load->result, PNX_CACHE_SHARED, answers);
    } else if (old) {
        pnx_owner_add(&shard->counters.stale_errors, 1);
        pnx__cache_answer_locked(shard, waiter, 0, old, PNX_CACHE_STALE, answers);
    } else if (code == -ETIMEDOUT && waiter->deadline > load->deadline) {
        /* The leader's time was up, not this one's. */
        pnx__cache_answer_locked(shard, waiter, PNX_CACHE_RETRY, NULL, 0, answers);
    } else {
        pnx__cache_answer_locked(shard, waiter, code, NULL, 0, answers);
    }
}

/* What is returned instead of a failure: the old value, if there is one (an absence that was remembered is none), nobody has
 * said since that it is wrong, and it is kept so long. */
static struct pnx_cache_entry *instead_locked(const struct pnx_cache_load *load, int code) {
    const struct pnx_cache *cache = load->cache;
    if (!pnx__cache_load_failed(code) || !load->old || pnx__cache_load_overtaken(load) ||
            pnx__cache_is_closed(cache) || (load->old->flags & PNX_CACHE_ENTRY_NEGATIVE))
        return NULL;
    return pnx__now(&cache->env) < pnx__cache_due(cache, load->old) ? load->old : NULL;
}

void pnx__cache_load_leave_locked(struct pnx_cache_load *load, int code, struct pnx_link *answers) {
    struct pnx_cache_shard *shard = load->shard;
    bool failed = pnx__cache_load_failed(code);
    struct pnx_cache_entry *old = instead_locked(load, code);
    pnx__list_remove(&load->link);
    if (pnx__heap_has(&load->timer))
        pnx__heap_remove(&shard->load_timers, &load->timer);
    load->state = PNX_CACHE_LOAD_ENDED;
    shard->n_loads--;
    pnx_owner_add(&shard->counters.loading, (uint64_t)0 - 1);
    pnx_owner_add(&shard->counters.loads, 1);
    pnx_owner_add(&shard->counters.load_failures, failed);
    pnx_owner_add(&shard->counters.refreshes, load->refresh);
    pnx_owner_add(&shard->counters.refresh_failures, load->refresh && failed);
    PNX_LIST_EACH (link, next, &load->waiters) {
        answer_one(load, PNX_CONTAINER(link, struct pnx_cache_waiter, link), code, old, answers);
    }
}

/* ---- what loaders give ---- */

/* Destroys a result that will not be used; it was never stored. */
static void drop_result(struct pnx_cache_load *load, enum pnx_cache_cause cause) {
    if (!load->result)
        return;
    load->result->cause = (uint8_t)cause;
    pnx__cache_entry_drop(load->result);
    load->result = NULL;
}

void pnx__cache_load_discard(struct pnx_cache_load *load) {
    drop_result(load, PNX_CACHE_EXPLICIT);
}

/* Whether sizes are fixed, and this is not that of the values. */
static bool is_other_size(const struct pnx_cache_load *load, size_t value_size) {
    return pnx__cache_is_fixed(load->cache) && value_size != load->cache->shape.value_bytes;
}

static int set_result(
        struct pnx_cache_load *load, const void *value, size_t value_size, uint8_t flags) {
    if (!load || (!value && (value_size > 0 || (flags & PNX_CACHE_ENTRY_POINTER))))
        return -EINVAL;
    if (pnx__cache_is_fixed(load->cache) && (flags & PNX_CACHE_ENTRY_POINTER))
        return -ENOTSUP;
    if (is_other_size(load, value_size))
        return -EINVAL;
    if (load->soft)
        flags |= PNX_CACHE_ENTRY_TIMED;
    struct pnx_cache_entry *entry =
            pnx__cache_entry_make(load->shard, load->key, load->key_size, value, value_size, flags);
    if (!entry)
        return -ENOMEM;
    drop_result(load, PNX_CACHE_EXPLICIT);
    load->result = entry;
    return 0;
}

int pnx_cache_load_set(struct pnx_cache_load *load, const void *value, size_t value_size) {
    return set_result(load, value, value_size, 0);
}

int pnx_cache_load_set_pointer(struct pnx_cache_load *load, void *value, size_t value_size) {
    return set_result(load, value, value_size, PNX_CACHE_ENTRY_POINTER);
}

int pnx_cache_load_reserve(struct pnx_cache_load *load, size_t value_size, void **ret_data) {
    if (!load || !ret_data || is_other_size(load, value_size))
        return -EINVAL;
    struct pnx_cache_entry *entry = pnx__cache_entry_make(load->shard, load->key, load->key_size,
            NULL, value_size, load->soft ? PNX_CACHE_ENTRY_TIMED : 0);
    if (!entry)
        return -ENOMEM;
    drop_result(load, PNX_CACHE_EXPLICIT);
    load->result = entry;
    *ret_data = entry + 1;
    return 0;
}

int pnx_cache_load_shrink(struct pnx_cache_load *load, size_t value_size) {
    if (!load || !load->result || (load->result->flags & PNX_CACHE_ENTRY_POINTER))
        return -EINVAL;
    if (value_size > load->result->value_size)
        return -ERANGE;
    if (is_other_size(load, value_size))
        return -EINVAL;
    if (value_size == load->result->value_size)
        return 0;
    struct pnx_cache_entry *entry = pnx__cache_entry_shrink(load->result, value_size);
    if (!entry)
        return -ENOMEM;
    load->result = entry;
    return 0;
}

int pnx_cache_load_set_ttl(struct pnx_cache_load *load, pnx_ns ttl) {
    if (!load || ttl < 0 ||
            (ttl > 0 && ttl < PNX_CACHE_FIXED_TTL_MIN && pnx__cache_is_fixed(load->cache)))
        return -EINVAL;
    load->ttl = ttl;
    return 0;
}

int pnx_cache_load_set_refresh(struct pnx_cache_load *load, pnx_ns refresh_after) {
    if (!load || refresh_after < 0)
        return -EINVAL;
    if (pnx__cache_is_fixed(load->cache))
        return -ENOTSUP;
    if (load->result && !(load->result->flags & PNX_CACHE_ENTRY_TIMED))
        return -EALREADY;
    load->soft = refresh_after;
    return 0;
}

/* ---- storing ---- */

/* Stores the result; one that cannot be stored is handed out all the same, charged and destroyed like the others. */
static int store_result(struct pnx_cache_load *load) {
    struct pnx_cache *cache = load->cache;
    if (pnx__cache_is_fixed(cache))
        return pnx__cache_fixed_store_result(load);
    struct pnx_cache_entry *entry = load->result;
    struct pnx_cache_insert insert = {
            .entry = entry, .hash = load->hash, .load = load, .ttl = load->ttl, .soft = load->soft};
    int rc = pnx__cache_is_closed(cache) ? -ESHUTDOWN : pnx__cache_weigh(cache, &insert);
    if (rc == 0)
        rc = pnx__cache_charge(cache, &insert);
    if (rc == 0)
        rc = pnx__cache_insert(cache, &insert);
    if (rc == 0 || rc == PNX_CACHE_FORKED)
        return rc;
    size_t cost = pnx__cache_cost_of(entry);
    if (!entry->charged)
        entry->charged = pnx_budget_charge(cache->budget, cost, PNX_CHARGE_MUST) == 0;
    if (rc == -EFBIG || rc == -ENOMEM)
        pnx__cache_reject(cache, cost, rc);
    entry->cause = rc == -ESHUTDOWN ? PNX_CACHE_CLOSED
                   : rc == -ESTALE  ? PNX_CACHE_EXPLICIT
                                    : PNX_CACHE_SIZE;
    pnx__cache_entry_detach(entry);
    return rc;
}

/* Remembers that there is no such thing, if that is wanted and possible.  0 or FORKED. */
static int store_absence(struct pnx_cache_load *load) {
    struct pnx_cache *cache = load->cache;
    if (pnx__cache_is_closed(cache) || pnx__cache_is_fixed(cache) ||
            (load->ttl == 0 && cache->negative_ttl == PNX_NEVER))
        return 0;
    struct pnx_cache_insert insert = {.hash = load->hash, .load = load};
    insert.ttl = load->ttl ? load->ttl : cache->negative_ttl;
    insert.entry = pnx__cache_entry_make(
            load->shard, load->key, load->key_size, NULL, 0, PNX_CACHE_ENTRY_NEGATIVE);
    if (!insert.entry)
        return 0;
    int rc = pnx__cache_weigh(cache, &insert);
    if (rc == PNX_CACHE_FORKED)
        return rc;
    if (rc == 0)
        rc = pnx__cache_charge(cache, &insert);
    if (rc == 0)
        rc = pnx__cache_insert(cache, &insert);
    if (rc == 0)
        pnx__cache_entry_drop(insert.entry);
    else
        pnx__cache_entry_discard(insert.entry);
    return 0;
}

/* There is no such thing: what was there of it goes, unless the absence has taken its place, or it was overtaken. */
static void remove_old(struct pnx_cache_load *load) {
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_cache_effects fx = {0};
    if (load->refresh && pnx__cache_is_fixed(load->cache))
        pnx__cache_fixed_remove_old(load);
    if (!load->old)
        return;
    pnx__cache_lock(shard);
    if (!pnx__cache_is_closed(load->cache) && !pnx__cache_load_overtaken(load)) {
        struct pnx_cache_entry *found =
                pnx__cache_find_locked(shard, load->hash, load->key, load->key_size, &fx);
        if (found == load->old)
            pnx__cache_remove_locked(shard, found, PNX_CACHE_EXPLICIT, &fx);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(load->cache, &fx);
}

/* ---- the end ---- */

/* Health and the histogram are the cache's, and its lock's. */
void pnx__cache_count_load(struct pnx_cache *cache, int code, pnx_ns took) {
    pnx__mutex_lock(&cache->lock);
    pnx__histogram_record(&cache->histograms.load_time, took);
    if (!pnx__cache_load_failed(code)) {
        if (cache->failures >= PNX_CACHE_FAILING && !pnx__cache_is_closed(cache))
            pnx__health_set(&cache->block, PNX_HEALTH_OK, "");
        cache->failures = 0;
    } else {
        cache->failures += cache->failures < PNX_CACHE_FAILING;
        if (cache->failures == PNX_CACHE_FAILING && !pnx__cache_is_closed(cache))
            pnx__health_set(&cache->block, PNX_HEALTH_DEGRADED, "loads keep failing");
    }
    pnx__mutex_unlock(&cache->lock);
}

/* Nobody joins any more, all who waited are answered.  Returns what the leader gets. */
static int finish(struct pnx_cache_load *load, int code, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_link answers;
    pnx__list_init(&answers);
    pnx__mutex_lock(&shard->lock);
    struct pnx_cache_entry *old = instead_locked(load, code);
    pnx__cache_load_leave_locked(load, code, &answers);
    if (pnx__cache_is_closed(load->cache))
        code = -ESHUTDOWN;
    if (ret_ref && code == 0) {
        /* The maker's reference becomes the leader's pin. */
        pnx__cache_count_pins(load->cache, 1);
        *ret_ref = (struct pnx_cache_ref){.entry = load->result, .source = PNX_CACHE_LOADED};
        load->result = NULL;
    } else if (ret_ref && old && !load->refresh) {
        pnx__cache_pin(old, 1);
        pnx_owner_add(&shard->counters.stale_errors, 1);
        *ret_ref = (struct pnx_cache_ref){.entry = old, .source = PNX_CACHE_STALE};
        code = 0;
    }
    pnx__mutex_unlock(&shard->lock);
    pnx__cache_wake(&answers);
    return code;
}

int pnx__cache_load_end(struct pnx_cache_load *load, int code, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache *cache = load->cache;
    pnx_ns now = pnx__now(&cache->env);
    pnx_ns took = now - load->start;
    int stored = 0;
    if (code == 0) {
        stored = store_result(load);
    } else {
        drop_result(load, PNX_CACHE_EXPLICIT);
        if (code == -ENOENT)
            stored = store_absence(load);
    }
    if (stored == PNX_CACHE_FORKED)
        return stored;
    if (code == -ENOENT)
        remove_old(load);
    bool kept_old = pnx__cache_load_failed(code) || stored != 0;
    if (kept_old && load->old)
        pnx__cache_soft_fail(cache, load->old);
    pnx__cache_count_load(cache, code, took);
    int rc = finish(load, code, ret_ref);
    if (pnx__cache_load_failed(code) && !pnx__cache_is_closed(cache))
        pnx__event(&cache->block, PNX_EVENT_CACHE_LOAD_FAILED, cache->name, code, NULL, took, now);
    size_t freed = 0;
    if (load->result) { /* nobody leads, or it was closed meanwhile */
        freed += pnx__cache_entry_drop(load->result);
        load->result = NULL;
    }
    if (load->old) {
        freed += pnx__cache_entry_drop(load->old);
        load->old = NULL;
    }
    if (freed > 0)
        pnx__reclaim_assist(NULL);
    return rc;
}
