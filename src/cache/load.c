/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/load.c - single flight: one loader a key, waiters that share what it made, and no circle of waiting.
 *
 * That a thread waits for the leader of a load is made known where all waits of the process are (share/latch.h): since
 * loaders may load from other caches, and write to maps and cells whose functions load.  Locks: a shard's, then that of
 * all latches.  States and guarantees: cache/load.h.
 */
#include "cache/load.h"

#include "base/error.h"
#include "base/hash.h"
#include "cache/expiry.h"
#include "os/futex.h"
#include "share/latch.h"
#include "share/wait.h"

/* ---- the table of loads ---- */

static struct pnx_link *table_bucket(struct pnx_cache_shard *shard, uint64_t hash) {
    return &shard->loads[(hash >> 32) % PNX_CACHE_LOAD_BUCKETS];
}

/* Takes a load that nobody runs yet out of the table; its job finds out. */
static void take_over_locked(struct pnx_cache_load *load) {
    pnx__list_remove(&load->link);
    load->state = PNX_CACHE_LOAD_ENDED;
    load->shard->n_loads--;
    pnx_owner_add(&load->shard->counters.loading, (uint64_t)0 - 1);
}

struct pnx_cache_load *pnx__cache_load_find_locked(struct pnx_cache_shard *shard, uint64_t hash,
        const void *key, size_t key_size, bool take_over) {
    if (shard->n_loads == 0)
        return NULL;
    struct pnx_link *bucket = table_bucket(shard, hash);
    PNX_LIST_EACH (link, next, bucket) {
        struct pnx_cache_load *load = PNX_CONTAINER(link, struct pnx_cache_load, link);
        if (load->hash != hash || load->key_size != key_size ||
                (key_size > 0 && memcmp(load->key, key, key_size) != 0))
            continue;
        if (!take_over || load->state != PNX_CACHE_LOAD_QUEUED)
            return load;
        take_over_locked(load);
        return NULL;
    }
    return NULL;
}

void pnx__cache_load_init(struct pnx_cache_load *load, struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_ns deadline) {
    *load = (struct pnx_cache_load){
            .cache = cache,
            .key = key,
            .key_size = key_size,
            .hash = pnx__hash(cache->seed, key, key_size),
            .deadline = deadline,
    };
    load->shard = pnx__cache_shard_of(cache, load->hash);
    pnx__list_init(&load->waiters);
}

void pnx__cache_load_begin_locked(
        struct pnx_cache_load *load, enum pnx_cache_load_state state, struct pnx_cache_entry *old) {
    struct pnx_cache_shard *shard = load->shard;
    /* A clear may have come since old was looked up: it overtakes this load, or old would be served instead of an error. */
    load->epoch = old ? old->epoch : pnx__cache_epoch(load->cache);
    load->state = state;
    if (old) {
        /* Relaxed: the lock is held, so the cache has one.  Not counted as a pin, which are the users'. */
        pnx_fetch_add(&old->refs, 1, PNX_RELAXED, "cache_load.old");
        load->old = old;
    }
    pnx__list_push_back(table_bucket(shard, load->hash), &load->link);
    shard->n_loads++;
    pnx_owner_add(&shard->counters.loading, 1);
}

void pnx__cache_overtake_locked(
        struct pnx_cache_shard *shard, uint64_t hash, const void *key, size_t key_size) {
    struct pnx_cache_load *load = pnx__cache_load_find_locked(shard, hash, key, key_size, true);
    if (load)
        load->overtaken = true;
}

bool pnx__cache_load_overtaken(const struct pnx_cache_load *load) {
    return load->overtaken || load->epoch != pnx__cache_epoch(load->cache);
}

const char *pnx__cache_loads_check(const struct pnx_cache_shard *shard) {
    uint32_t loads = 0;
    for (size_t i = 0; i < PNX_CACHE_LOAD_BUCKETS; i++) {
        PNX_LIST_EACH (link, next, &shard->loads[i]) {
            const struct pnx_cache_load *load = PNX_CONTAINER(link, struct pnx_cache_load, link);
            if (load->shard != shard || (load->hash >> 32) % PNX_CACHE_LOAD_BUCKETS != i)
                return "a load is in the wrong table";
            if (load->state == PNX_CACHE_LOAD_ENDED)
                return "a load that has ended is in the table";
            if (load->state == PNX_CACHE_LOAD_QUEUED && !pnx__list_empty(&load->waiters))
                return "somebody waits for a load that nobody runs";
            loads++;
        }
    }
    if (loads != shard->n_loads)
        return "the loads under way do not add up";
    return NULL;
}

static void cancel_waiters_locked(struct pnx_cache_shard *shard, struct pnx_link *answers) {
    for (size_t i = 0; i < PNX_CACHE_LOAD_BUCKETS; i++) {
        PNX_LIST_EACH (link, next, &shard->loads[i]) {
            struct pnx_cache_load *load = PNX_CONTAINER(link, struct pnx_cache_load, link);
            PNX_LIST_EACH (w, after, &load->waiters) {
                pnx__cache_answer_locked(shard, PNX_CONTAINER(w, struct pnx_cache_waiter, link),
                        -ESHUTDOWN, NULL, 0, answers);
            }
        }
    }
}

void pnx__cache_cancel_waiters(struct pnx_cache *cache) {
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct pnx_link answers;
        pnx__list_init(&answers);
        pnx__mutex_lock(&cache->shards[i].lock);
        cancel_waiters_locked(&cache->shards[i], &answers);
        pnx__mutex_unlock(&cache->shards[i].lock);
        pnx__cache_wake(&answers);
    }
}

/* ---- waiting ---- */

int pnx__cache_enlist_locked(struct pnx_cache_waiter *waiter, const struct pnx_cache_load *own,
        struct pnx_cache_load **ret_load) {
    struct pnx_cache_load *load =
            pnx__cache_load_find_locked(own->shard, own->hash, own->key, own->key_size, false);
    if (pnx__cache_is_closed(own->cache))
        return -ESHUTDOWN;
    /* One in a queue is a refresh of what has come since the caller looked, which it finds when it looks again: it must not
     * be taken over by who does not lead in its place. */
    if (!load || load->state == PNX_CACHE_LOAD_QUEUED)
        return PNX_CACHE_RETRY;
    waiter->late = pnx__cache_load_overtaken(load);
    *ret_load = load;
    return 0;
}

/*
 * Enlists behind the load under way of the key of own, the load that the caller would lead.
 * 0, RETRY when there is none any more, -EDEADLK, -ETIMEDOUT, -ESHUTDOWN.
 */
static int enlist(
        struct pnx_cache_waiter *waiter, const struct pnx_cache_load *own, bool may_wait) {
    struct pnx_cache_shard *shard = own->shard;
    struct pnx_cache_load *load = NULL;
    pnx__mutex_lock(&shard->lock);
    int rc = pnx__cache_enlist_locked(waiter, own, &load);
    if (rc == 0 && load->leader) {
        rc = pnx__latch_await(load->leader, may_wait);
        if (rc)
            pnx_owner_add(&shard->counters.load_deadlocks, 1);
        else if (may_wait)
            waiter->thread = own->leader;
    }
    if (rc == 0 && !may_wait)
        rc = -ETIMEDOUT;
    if (rc == 0) {
        pnx__list_push_back(&load->waiters, &waiter->link);
        pnx_owner_add(&shard->counters.load_waits, 1);
    }
    pnx__mutex_unlock(&shard->lock);
    return rc;
}

/* Gives up; false when the answer came first. */
static bool delist(struct pnx_cache_shard *shard, struct pnx_cache_waiter *waiter) {
    pnx__mutex_lock(&shard->lock);
    bool waiting = !waiter->answered;
    if (waiting) {
        pnx__list_remove(&waiter->link);
        if (waiter->thread)
            pnx__latch_awaited(waiter->thread);
    }
    pnx__mutex_unlock(&shard->lock);
    return waiting;
}

/* Waits for another's load of the key.  0 with a pinned entry, RETRY, or an error. */
static int wait_for_load(struct pnx_cache *cache, const struct pnx_cache_load *own, bool may_wait,
        struct pnx_cache_ref *ret_ref) {
    pnx_ns deadline = own->deadline;
    struct pnx_cache_waiter waiter = {.deadline = deadline};
    int rc = enlist(&waiter, own, may_wait);
    if (rc)
        return rc;
    /* pairs with cache_load.answer: the answer is written before the word */
    while (pnx_load(&waiter.word, PNX_ACQUIRE, "cache_load.wait") == 0) {
        if (pnx__wait(&waiter.word, 0, &cache->env, deadline) != -ETIMEDOUT)
            continue;
        if (delist(own->shard, &waiter))
            return -ETIMEDOUT;
        deadline = PNX_NEVER; /* answered: the word is about to be set */
    }
    if (waiter.code == 0)
        *ret_ref = (struct pnx_cache_ref){.entry = waiter.entry, .source = waiter.source};
    return waiter.code;
}

/* ---- leading ---- */

/* Runs the loader and sees that its answer is one of: 0 with a result, an error, or FORKED. */
int pnx__cache_call_loader(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx) {
    PNX_CACHE_CALLING(returned);
    pnx__mutex_assert_none_held();
    struct pnx_thread *self = pnx__call_begin();
    int rc = loader(ctx, load->key, load->key_size, load->deadline, load);
    pnx__call_end(&self);
    returned = true;
    pnx__mutex_assert_none_held();
    return pnx__cache_enter(load->cache) != 0 ? PNX_CACHE_FORKED : rc;
}

int pnx__cache_fail_fork(struct pnx_error *err) {
    return pnx__fail(err, -ESHUTDOWN, 0, "wait", "cache: made by the parent process");
}

int pnx__cache_lead(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx,
        struct pnx_error *err, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache *cache = load->cache;
    load->start = pnx__now(&cache->env);
    int code = pnx__cache_call_loader(load, loader, ctx);
    if (code == PNX_CACHE_FORKED)
        return pnx__cache_fail_fork(err);
    /* There is nobody who could go on with a load on this stack. */
    if (code > 0 || (code == 0 && !load->result) || code == -EINPROGRESS)
        code = -EINVAL;
    int rc = pnx__cache_load_end(load, code, ret_ref);
    if (rc == 0)
        return 0;
    if (rc == PNX_CACHE_FORKED)
        return pnx__cache_fail_fork(err);
    return pnx__fail(err, rc, code, "load", "cache \"%.64s\": %s: %s", cache->name,
            rc == code ? "the loader failed" : "closed while loading", pnx_strerror(rc));
}

/* ---- the call ---- */

int pnx__cache_fail_wait(
        const struct pnx_cache *cache, int rc, struct pnx_error *err, bool waited) {
    const char *what = rc == -EDEADLK     ? "waiting for the load under way would never end"
                       : rc == -ETIMEDOUT ? "another caller's load did not end in time"
                       : rc == -ESHUTDOWN ? "the cache is closed"
                       : waited           ? "the loader of another caller failed"
                                          : "no memory for the thread's record";
    bool theirs = waited && rc != -EDEADLK && rc != -ETIMEDOUT && rc != -ESHUTDOWN;
    return pnx__fail(err, rc, theirs ? rc : 0, "wait", "cache \"%.64s\": %s: %s", cache->name, what,
            pnx_strerror(rc));
}

bool pnx__cache_load_other_locked(const struct pnx_cache_load *load, pnx_ns now,
        struct pnx_link *answers, struct pnx_cache_load **ret_given_up) {
    struct pnx_cache_load *other =
            pnx__cache_load_find_locked(load->shard, load->hash, load->key, load->key_size, true);
    if (!other)
        return false;
    now = now ? now : pnx__now(&load->cache->env);
    if (other->state != PNX_CACHE_LOAD_PENDING || !pnx__cache_give_up_locked(other, now, answers))
        return true;
    *ret_given_up = other;
    return false;
}

/* Whether the load under way of the key of this one, which nobody knows yet, still waits for its executor. */
static bool is_queued_locked(const struct pnx_cache_load *load) {
    const struct pnx_cache_load *other =
            pnx__cache_load_find_locked(load->shard, load->hash, load->key, load->key_size, false);
    return other && other->state == PNX_CACHE_LOAD_QUEUED;
}

/* Under the lock, where there is nothing: whether somebody loads, what is kept for an error, or this is the load now. */
static int look_for_load_locked(struct pnx_cache_load *load, unsigned how, pnx_ns now,
        struct pnx_cache_entry *kept, struct pnx_link *answers,
        struct pnx_cache_load **ret_given_up) {
    struct pnx_cache *cache = load->cache;
    /* Who only looks takes none over from its queue: it may have no time to load, or no memory. */
    bool leaves_queued = (how & PNX_CACHE_LOOK_ONLY) && is_queued_locked(load);
    if (!leaves_queued && pnx__cache_load_other_locked(load, now, answers, ret_given_up))
        return PNX_CACHE_LOOK_WAIT;
    if (kept && pnx__cache_soft_waits(cache, kept, now))
        return 0;
    if (!(how & PNX_CACHE_LOOK_ONLY))
        pnx__cache_load_begin_locked(load, PNX_CACHE_LOAD_RUNNING, kept);
    return PNX_CACHE_LOOK_LEAD;
}

/* Looks under the lock.  *ret_ref: pinned; its source is STALE when it has expired. */
static int look_locked(struct pnx_cache_load *load, unsigned how, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *entry = NULL;
    struct pnx_cache_entry *kept = NULL;
    struct pnx_cache_load *given_up = NULL;
    struct pnx_link answers;
    pnx_ns now = 0;
    pnx__list_init(&answers);
    pnx__cache_lock(shard);
    int rc = pnx__cache_look_locked(
            shard, load->hash, load->key, load->key_size, &now, &fx, &entry, &kept);
    uint32_t source = PNX_CACHE_FOUND;
    if (rc == -ENOENT) {
        rc = look_for_load_locked(load, how, now, kept, &answers, &given_up);
        if (rc == 0) {
            entry = kept;
            source = PNX_CACHE_STALE;
            pnx_owner_add(&shard->counters.stale_errors, 1);
        }
    }
    if (rc == 0) {
        pnx__cache_pin(entry, 1);
        *ret_ref = (struct pnx_cache_ref){.entry = entry, .source = source};
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    pnx__cache_wake(&answers);
    if (given_up)
        pnx__cache_given_up(given_up);
    return rc;
}

int pnx__cache_load_look(struct pnx_cache_load *load, unsigned how, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_ref ref = {.source = PNX_CACHE_FOUND};
    bool claimed = false;
    bool fixed = pnx__cache_is_fixed(cache);
    int rc = fixed ? pnx__cache_fixed_look_for_load(load, how)
                   : pnx__cache_look_free(
                             load->shard, load->hash, load->key, load->key_size, &ref.entry);
    if (rc == -ENOENT || rc == PNX_CACHE_LOCK)
        rc = look_locked(load, how, &ref);
    if (how & PNX_CACHE_LOOK_COUNT)
        pnx__cache_curve_note(cache, load->hash);
    if ((how & PNX_CACHE_LOOK_COUNT) && (rc == PNX_CACHE_LOOK_WAIT || rc == PNX_CACHE_LOOK_LEAD))
        PNX_CACHE_COUNT(cache, misses, 1);
    if (rc == PNX_CACHE_ABSENT) {
        PNX_CACHE_COUNT(cache, negative_hits, 1);
        return -ENOENT;
    }
    if (rc)
        return rc;
    PNX_CACHE_COUNT(cache, hits, 1);
    if (ref.source == PNX_CACHE_FOUND && !fixed)
        ref.source = pnx__cache_soft_look(cache, ref.entry, &claimed);
    if (ref.source == PNX_CACHE_STALE)
        PNX_CACHE_COUNT(cache, stale_hits, 1);
    *ret_ref = ref;
    return claimed ? PNX_CACHE_LOOK_REFRESH : 0;
}

/* Refreshes an entry that this call has claimed: by the executor, or here, where only this caller waits for it. */
static int refresh(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx,
        struct pnx_error *err, struct pnx_cache_ref *ref) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_ref fresh = {0};
    struct pnx_error why = {0};
    if (cache->executor) {
        pnx__cache_refresh_submit(cache, ref->entry);
        return 0;
    }
    if (!pnx__cache_refresh_begin(load, ref->entry, PNX_CACHE_LOAD_RUNNING))
        return 0;
    int rc = pnx__cache_lead(load, loader, ctx, &why, &fresh);
    if (pnx__cache_load_failed(rc) && !pnx__cache_is_closed(cache) && rc != -ESHUTDOWN)
        return 0; /* the old value is as good as it was */
    if (rc && err)
        *err = why;
    pnx_cache_ref_release(ref);
    *ref = fresh;
    return rc;
}

static int get_or_load(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx,
        bool may_wait, struct pnx_error *err, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_ref ref = {0};
    for (bool first = true;; first = false) {
        if (!first && pnx__now(&cache->env) >= load->deadline)
            return pnx__cache_fail_wait(cache, -ETIMEDOUT, err, false);
        int rc = pnx__cache_load_look(load, first ? PNX_CACHE_LOOK_COUNT : 0, &ref);
        if (rc == PNX_CACHE_LOOK_REFRESH)
            rc = refresh(load, loader, ctx, err, &ref);
        else if (rc == PNX_CACHE_LOOK_LEAD)
            rc = pnx__cache_lead(load, loader, ctx, err, &ref);
        else if (rc == -ESHUTDOWN)
            pnx__cache_fail_wait(cache, rc, err, false);
        else if (rc == -ENOENT)
            pnx__fail(err, rc, 0, "lookup", "cache \"%.64s\": known not to exist", cache->name);
        else if (rc == PNX_CACHE_LOOK_WAIT) {
            rc = wait_for_load(cache, load, may_wait, &ref);
            if (rc == PNX_CACHE_RETRY)
                continue;
            if (rc)
                pnx__cache_fail_wait(cache, rc, err, true);
        }
        if (rc == 0)
            *ret_ref = ref;
        return rc;
    }
}

int pnx_cache_get_or_load(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout, struct pnx_error *err,
        struct pnx_cache_ref *ret_ref) {
    if ((!key && key_size > 0) || !loader || !ret_ref)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: key, loader and ret_ref are required");
    struct pnx_cache_load load;
    bool may_wait = false;
    int rc = pnx__cache_load_prepare(cache, key, key_size, timeout, err, &load, &may_wait);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return pnx__fail(err, -ENOTSUP, 0, "lookup",
                "cache \"%.64s\" has fixed sizes and no references", cache->name);
    return get_or_load(&load, loader, ctx, may_wait, err, ret_ref);
}

static int fail_copy(const struct pnx_cache *cache, int rc, struct pnx_error *err) {
    return pnx__fail(err, rc, 0, "copy", "cache \"%.64s\": %s", cache->name,
            rc == -ERANGE ? "the value is larger than the buffer" : "the value is a pointer");
}

/* Where sizes are fixed. */
static int get_or_load_fixed(struct pnx_cache *cache, const void *key, pnx_cache_load_fn *loader,
        void *ctx, pnx_ns timeout, struct pnx_error *err, void *buf) {
    int rc = pnx__cache_is_closed(cache)
                     ? PNX_CACHE_LOCK
                     : pnx__cache_fixed_look_free(cache,
                               pnx__hash(cache->seed, key, cache->shape.key_bytes), key, buf);
    if (rc == 0)
        return 0;
    struct pnx_cache_load load;
    struct pnx_cache_ref ref = {0};
    bool may_wait = false;
    rc = pnx__cache_load_prepare(
            cache, key, cache->shape.key_bytes, timeout, err, &load, &may_wait);
    load.copy = buf; /* it stays as it is unless something is found */
    if (rc == 0)
        rc = get_or_load(&load, loader, ctx, may_wait, err, &ref);
    if (rc)
        return rc;
    if (ref.entry)
        memcpy(buf, ref.entry + 1, cache->shape.value_bytes);
    pnx_cache_ref_release(&ref);
    return 0;
}

int pnx_cache_get_or_load_copy(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout, struct pnx_error *err, void *buf,
        size_t cap, size_t *ret_size) {
    if ((!key && key_size > 0) || !loader || (!buf && cap > 0))
        return pnx__fail_field(err, -EINVAL, NULL, "cache: key, loader and buf are required");
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc == -ESHUTDOWN ? pnx__cache_fail_fork(err)
                                : pnx__fail(err, rc, 0, "lookup", "cache: no cache was given");
    if (!pnx__cache_is_fixed(cache)) {
        PNX_AUTO_CACHE_REF ref = {0};
        rc = pnx_cache_get_or_load(cache, key, key_size, loader, ctx, timeout, err, &ref);
        if (rc)
            return rc;
        rc = pnx__cache_copy_out(ref.entry, buf, cap, ret_size);
        return rc ? fail_copy(cache, rc, err) : 0;
    }
    if (key_size != cache->shape.key_bytes)
        return pnx__fail_field(err, -EINVAL, NULL,
                "cache \"%.64s\": a key of %zu bytes; all have %u", cache->name, key_size,
                cache->shape.key_bytes);
    if (!buf || cap < cache->shape.value_bytes) {
        if (ret_size)
            *ret_size = cache->shape.value_bytes;
        return fail_copy(cache, -ERANGE, err);
    }
    rc = get_or_load_fixed(cache, key, loader, ctx, timeout, err, buf);
    if (rc == 0 && ret_size)
        *ret_size = cache->shape.value_bytes;
    return rc;
}

int pnx__cache_load_prepare(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_ns timeout, struct pnx_error *err, struct pnx_cache_load *ret_load,
        bool *ret_may_wait) {
    pnx_ns wait_ns = 0;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc == -ESHUTDOWN ? pnx__cache_fail_fork(err)
                                : pnx__fail(err, rc, 0, "wait", "cache: no cache was given");
    if (pnx__cache_is_fixed(cache) && key_size != cache->shape.key_bytes)
        return pnx__fail_field(err, -EINVAL, NULL,
                "cache \"%.64s\": a key of %zu bytes; all have %u", cache->name, key_size,
                cache->shape.key_bytes);
    if (key_size > UINT32_MAX)
        return pnx__fail(err, -EFBIG, 0, "lookup", "cache \"%.64s\": a key of %zu bytes",
                cache->name, key_size);
    rc = pnx__timeout(timeout, cache->load_timeout, err, &wait_ns);
    if (rc)
        return rc;
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return pnx__cache_fail_wait(cache, -ENOMEM, err, false);
    pnx__cache_load_init(
            ret_load, cache, key, key_size, pnx__deadline(pnx__now(&cache->env), wait_ns));
    ret_load->leader = self;
    *ret_may_wait = wait_ns > 0;
    return 0;
}
