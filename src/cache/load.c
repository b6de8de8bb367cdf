/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/load.c - single flight: one loader a key, waiters that share what it made, and no circle of waiting.
 *
 * A load lives on its leader's stack, a waiter on its own thread's; so a miss needs no memory but for the value.
 *
 *     leader:  (none) --miss--> RUNNING --put, remove, clear, close--> OVERTAKEN --+
 *                                  +--loader returned--> finish: store, hand out, <-+ (not stored)
 *
 *     waiter:  (none) --enlist--> WAITING --finish, close--> ANSWERED --word set--> (its thread goes on)
 *                                    +--deadline--> (none)
 *
 * That a thread waits for the leader of a load is made known where all waits of the process are (share/latch.h): since
 * loaders may load from other caches, and write to maps and cells whose functions load.  Locks: a shard's, then that of
 * all latches.
 *
 *   P1  At most one load of a key runs; it is in the cache's table from miss to finish.
 *   P2  No wait begins that closes a circle: the caller gets -EDEADLK.
 *   P3  A wait is over, as far as others know, before the thread that it was for can wait again.
 *   P4  An answered waiter that is to have a value owns a pin on it from the moment of the answer.
 *   P5  The loader runs with no lock held.
 */
#include "cache/internal.h"

#include "base/error.h"
#include "base/hash.h"
#include "os/futex.h"
#include "share/latch.h"
#include "share/wait.h"

enum waiter_state { WAITING, ANSWERED };

/* On the stack of a waiting thread.  Guarded by the shard's lock, word aside. */
struct waiter {
    struct pnx_link link; /* in its load's waiters, then in the leader's list of answers */
    struct pnx_thread *thread;
    pnx_ns deadline;
    enum waiter_state state;
    bool late; /* came after the load was overtaken: must not have its value */
    /* written with the answer, read once word is 1 */
    int code; /* 0, an error, or RETRY */
    struct pnx_cache_entry *entry;
    struct pnx_a32 word;
};

#define RETRY 1 /* look again, and lead if there is nothing */

/* On the leader's stack; the first group is fixed, the second the shard's lock's, the third the leader's. */
struct pnx_cache_load {
    struct pnx_cache *cache;
    struct pnx_cache_shard *shard; /* of the key */
    const void *key;
    size_t key_size;
    uint64_t hash;
    struct pnx_thread *leader;
    pnx_ns deadline;

    struct pnx_link link; /* in the shard's table */
    struct pnx_link waiters;
    bool overtaken;
    uint32_t epoch; /* when it began: a clear overtakes all loads at one moment */

    struct pnx_cache_entry *result;
    pnx_ns ttl; /* 0: not set */
};

/* ---- the table of loads ---- */

static struct pnx_link *table_bucket(struct pnx_cache_shard *shard, uint64_t hash) {
    return &shard->loads[(hash >> 32) % PNX_CACHE_LOAD_BUCKETS];
}

static struct pnx_cache_load *find_load_locked(
        struct pnx_cache_shard *shard, uint64_t hash, const void *key, size_t key_size) {
    if (shard->n_loads == 0)
        return NULL;
    struct pnx_link *bucket = table_bucket(shard, hash);
    PNX_LIST_EACH (link, next, bucket) {
        struct pnx_cache_load *load = PNX_CONTAINER(link, struct pnx_cache_load, link);
        if (load->hash == hash && load->key_size == key_size &&
                (key_size == 0 || memcmp(load->key, key, key_size) == 0))
            return load;
    }
    return NULL;
}

void pnx__cache_overtake_locked(
        struct pnx_cache_shard *shard, uint64_t hash, const void *key, size_t key_size) {
    struct pnx_cache_load *load = find_load_locked(shard, hash, key, key_size);
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
            loads++;
        }
    }
    if (loads != shard->n_loads)
        return "the loads under way do not add up";
    return NULL;
}

/* ---- answering ---- */

/* The one way out of WAITING but for the deadline: moves the waiter to answers. */
static void answer_locked(
        struct waiter *waiter, int code, struct pnx_cache_entry *entry, struct pnx_link *answers) {
    pnx__list_remove(&waiter->link);
    pnx__latch_awaited(waiter->thread);
    waiter->state = ANSWERED;
    waiter->code = code;
    waiter->entry = entry;
    if (entry)
        pnx__cache_pin(entry, 1);
    pnx__list_push_back(answers, &waiter->link);
}

/* Lets answered waiters go.  A waiter is gone as soon as its word is set; waking needs its address only. */
static void wake(struct pnx_link *answers) {
    struct pnx_link *link;
    while ((link = pnx__list_pop_front(answers))) {
        struct waiter *waiter = PNX_CONTAINER(link, struct waiter, link);
        struct pnx_a32 *word = &waiter->word;
        pnx_store(word, 1, PNX_RELEASE, "cache_load.answer"); /* pairs with cache_load.wait */
        pnx__futex_wake(word, 1);
    }
}

/* What a waiter is told, given how the load ended. */
static int answer_for(const struct pnx_cache_load *load, const struct waiter *waiter, int code) {
    if (pnx__cache_is_closed(load->cache))
        return -ESHUTDOWN;
    if (waiter->late)
        return RETRY;
    if (code == -ETIMEDOUT && waiter->deadline > load->deadline)
        return RETRY; /* the leader's time was up, not this one's */
    return code;
}

static void cancel_waiters_locked(struct pnx_cache_shard *shard, struct pnx_link *answers) {
    for (size_t i = 0; i < PNX_CACHE_LOAD_BUCKETS; i++) {
        PNX_LIST_EACH (link, next, &shard->loads[i]) {
            struct pnx_cache_load *load = PNX_CONTAINER(link, struct pnx_cache_load, link);
            PNX_LIST_EACH (w, after, &load->waiters) {
                answer_locked(PNX_CONTAINER(w, struct waiter, link), -ESHUTDOWN, NULL, answers);
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
        wake(&answers);
    }
}

/* ---- waiting ---- */

/*
 * Enlists behind the load under way of the key of own, the load that the caller would lead.
 * 0, RETRY when there is none any more, -EDEADLK, -ETIMEDOUT, -ESHUTDOWN.
 */
static int enlist(struct waiter *waiter, const struct pnx_cache_load *own, bool may_wait) {
    struct pnx_cache_shard *shard = own->shard;
    int rc = 0;
    pnx__mutex_lock(&shard->lock);
    struct pnx_cache_load *load = find_load_locked(shard, own->hash, own->key, own->key_size);
    if (pnx__cache_is_closed(own->cache)) {
        rc = -ESHUTDOWN;
    } else if (!load) {
        rc = RETRY;
    } else if ((rc = pnx__latch_await(load->leader, may_wait)) != 0) {
        pnx_owner_add(&shard->counters.load_deadlocks, 1);
    } else if (!may_wait) {
        rc = -ETIMEDOUT;
    } else {
        waiter->late = pnx__cache_load_overtaken(load);
        pnx__list_push_back(&load->waiters, &waiter->link);
        pnx_owner_add(&shard->counters.load_waits, 1);
    }
    pnx__mutex_unlock(&shard->lock);
    return rc;
}

/* Gives up; false when the answer came first. */
static bool delist(struct pnx_cache_shard *shard, struct waiter *waiter) {
    pnx__mutex_lock(&shard->lock);
    bool waiting = waiter->state == WAITING;
    if (waiting) {
        pnx__list_remove(&waiter->link);
        pnx__latch_awaited(waiter->thread);
    }
    pnx__mutex_unlock(&shard->lock);
    return waiting;
}

/* Waits for another's load of the key.  0 with a pinned entry, RETRY, or an error. */
static int wait_for_load(struct pnx_cache *cache, const struct pnx_cache_load *own, bool may_wait,
        struct pnx_cache_entry **ret_entry) {
    pnx_ns deadline = own->deadline;
    struct waiter waiter = {.thread = own->leader, .deadline = deadline};
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
    *ret_entry = waiter.entry;
    return waiter.code;
}

/* ---- leading ---- */

/* Destroys a result that will not be used; it was never stored. */
static void drop_result(struct pnx_cache_load *load, enum pnx_cache_cause cause) {
    if (!load->result)
        return;
    load->result->cause = (uint8_t)cause;
    pnx__cache_entry_drop(load->result);
    load->result = NULL;
}

static int set_result(
        struct pnx_cache_load *load, const void *value, size_t value_size, uint8_t flags) {
    if (!load || (!value && (value_size > 0 || (flags & PNX_CACHE_ENTRY_POINTER))))
        return -EINVAL;
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

int pnx_cache_load_set_ttl(struct pnx_cache_load *load, pnx_ns ttl) {
    if (!load || ttl < 0)
        return -EINVAL;
    load->ttl = ttl;
    return 0;
}

/* Stores the result; one that cannot be stored is handed out all the same, charged and destroyed like the others. */
static void store_result(struct pnx_cache_load *load) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_entry *entry = load->result;
    const struct pnx_cache_insert insert = {
            .entry = entry, .hash = load->hash, .load = load, .ttl = load->ttl};
    int rc = pnx__cache_charge(cache, &insert);
    if (rc == 0)
        rc = pnx__cache_insert(cache, &insert);
    if (rc == 0)
        return;
    size_t cost = pnx__cache_cost_of(entry);
    if (!entry->charged)
        entry->charged = pnx_budget_charge(cache->budget, cost, PNX_CHARGE_MUST) == 0;
    if (rc == -EFBIG || rc == -ENOMEM)
        pnx__cache_reject(cache, cost, rc);
    entry->cause = rc == -ESHUTDOWN ? PNX_CACHE_CLOSED
                   : rc == -ESTALE  ? PNX_CACHE_EXPLICIT
                                    : PNX_CACHE_SIZE;
    pnx__cache_entry_detach(entry);
}

/* Remembers that there is no such thing, if that is wanted and possible. */
static void store_absence(struct pnx_cache_load *load) {
    struct pnx_cache *cache = load->cache;
    if (load->ttl == 0 && cache->negative_ttl == PNX_NEVER)
        return;
    struct pnx_cache_insert insert = {.hash = load->hash, .load = load};
    insert.ttl = load->ttl ? load->ttl : cache->negative_ttl;
    insert.entry = pnx__cache_entry_make(
            load->shard, load->key, load->key_size, NULL, 0, PNX_CACHE_ENTRY_NEGATIVE);
    if (!insert.entry)
        return;
    if (pnx__cache_charge(cache, &insert) == 0 && pnx__cache_insert(cache, &insert) == 0)
        pnx__cache_entry_drop(insert.entry);
    else
        pnx__cache_entry_discard(insert.entry);
}

/* Health and the histogram are the cache's, and its lock's. */
static void count_load(struct pnx_cache *cache, int code, pnx_ns took) {
    bool failed = code != 0 && code != -ENOENT;
    pnx__mutex_lock(&cache->lock);
    pnx__histogram_record(&cache->histograms.load_time, took);
    if (!failed) {
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

/* Ends the load: nobody joins any more, all who waited are answered.  Returns what the leader gets. */
static int finish(struct pnx_cache_load *load, int code, pnx_ns took) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_link answers;
    pnx__list_init(&answers);
    count_load(cache, code, took);
    pnx__mutex_lock(&shard->lock);
    pnx__list_remove(&load->link);
    shard->n_loads--;
    pnx_owner_add(&shard->counters.loading, (uint64_t)0 - 1);
    pnx_owner_add(&shard->counters.loads, 1);
    if (code != 0 && code != -ENOENT)
        pnx_owner_add(&shard->counters.load_failures, 1);
    PNX_LIST_EACH (link, next, &load->waiters) {
        struct waiter *waiter = PNX_CONTAINER(link, struct waiter, link);
        int answer = answer_for(load, waiter, code);
        answer_locked(waiter, answer, answer == 0 ? load->result : NULL, &answers);
    }
    if (pnx__cache_is_closed(cache))
        code = -ESHUTDOWN;
    pnx__mutex_unlock(&shard->lock);
    wake(&answers);
    return code;
}

#define FORKED \
    2 /* the loader returned in a child process, where all of this is only a copy of the parent's */

/* Runs the loader and sees that its answer is one of: 0 with a result, an error without, or FORKED. */
static int call_loader(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx) {
    PNX_CACHE_CALLING(returned);
    pnx__mutex_assert_none_held();
    struct pnx_thread *self = pnx__call_begin();
    int rc = loader(ctx, load->key, load->key_size, load->deadline, load);
    pnx__call_end(&self);
    returned = true;
    pnx__mutex_assert_none_held();
    if (pnx__cache_enter(load->cache) != 0)
        return FORKED;
    if (rc > 0 || (rc == 0 && !load->result))
        rc = -EINVAL;
    if (rc)
        drop_result(load, PNX_CACHE_EXPLICIT);
    return rc;
}

static int fail_fork(struct pnx_error *err) {
    return pnx__fail(err, -ESHUTDOWN, 0, "wait", "cache: made by the parent process");
}

/* Loads, as the leader.  0 with a pinned entry, or an error. */
static int lead(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx,
        struct pnx_error *err, struct pnx_cache_entry **ret_entry) {
    struct pnx_cache *cache = load->cache;
    pnx_ns start = pnx__now(&cache->env);
    int code = call_loader(load, loader, ctx);
    if (code == FORKED)
        return fail_fork(err);
    pnx_ns took = pnx__now(&cache->env) - start;
    if (code == 0) {
        /* The maker's reference becomes the leader's pin. */
        pnx__cache_count_pins(cache, 1);
        store_result(load);
    } else if (code == -ENOENT) {
        store_absence(load);
    }
    int rc = finish(load, code, took);
    if (code && code != -ENOENT)
        pnx__event(&cache->block, PNX_EVENT_CACHE_LOAD_FAILED, cache->name, code, NULL, took,
                start + took);
    if (rc == 0) {
        *ret_entry = load->result;
        return 0;
    }
    if (code == 0) {
        struct pnx_cache_ref ref = {.entry = load->result};
        pnx_cache_ref_release(&ref); /* closed meanwhile */
    }
    return pnx__fail(err, rc, code, "load", "cache \"%.64s\": %s: %s", cache->name,
            rc == code ? "the loader failed" : "closed while loading", pnx_strerror(rc));
}

/* ---- the call ---- */

static int fail_wait(const struct pnx_cache *cache, int rc, struct pnx_error *err, bool waited) {
    const char *what = rc == -EDEADLK     ? "waiting for the load under way would never end"
                       : rc == -ETIMEDOUT ? "another caller's load did not end in time"
                       : rc == -ESHUTDOWN ? "the cache is closed"
                       : waited           ? "the loader of another caller failed"
                                          : "no memory for the thread's record";
    bool theirs = waited && rc != -EDEADLK && rc != -ETIMEDOUT && rc != -ESHUTDOWN;
    return pnx__fail(err, rc, theirs ? rc : 0, "wait", "cache \"%.64s\": %s: %s", cache->name, what,
            pnx_strerror(rc));
}

/* What one look at the cache leads to: an answer, or one of these. */
enum { LOOK_LEAD = 2, LOOK_WAIT = 3 };

/* Looks the key up and, where there is neither entry nor load, makes this the load's leader. */
static int look_or_lead(struct pnx_cache_load *load, bool first, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *entry = NULL;
    int rc = pnx__cache_look_free(shard, load->hash, load->key, load->key_size, &entry);
    if (rc == -ENOENT || rc == PNX_CACHE_LOCK) {
        pnx__cache_lock(shard);
        rc = pnx__cache_look_locked(shard, load->hash, load->key, load->key_size, &fx, &entry);
        if (rc == 0) {
            pnx__cache_pin(entry, 1);
        } else if (rc == -ENOENT) {
            rc = LOOK_WAIT;
            if (!find_load_locked(shard, load->hash, load->key, load->key_size)) {
                load->epoch = pnx__cache_epoch(cache);
                pnx__list_push_back(table_bucket(shard, load->hash), &load->link);
                shard->n_loads++;
                pnx_owner_add(&shard->counters.loading, 1);
                rc = LOOK_LEAD;
            }
        }
        pnx__cache_unlock(shard, &fx);
        pnx__cache_run(cache, &fx);
        if (first && (rc == LOOK_WAIT || rc == LOOK_LEAD))
            PNX_CACHE_COUNT(cache, misses, 1);
    }
    if (rc == 0) {
        PNX_CACHE_COUNT(cache, hits, 1);
        *ret_ref = (struct pnx_cache_ref){.entry = entry, .source = PNX_CACHE_FOUND};
    }
    if (rc == PNX_CACHE_ABSENT)
        PNX_CACHE_COUNT(cache, negative_hits, 1);
    return rc == PNX_CACHE_ABSENT ? -ENOENT : rc;
}

static int get_or_load(struct pnx_cache_load *load, pnx_cache_load_fn *loader, void *ctx,
        bool may_wait, struct pnx_error *err, struct pnx_cache_ref *ret_ref) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_entry *entry = NULL;
    for (bool first = true;; first = false) {
        if (!first && pnx__now(&cache->env) >= load->deadline)
            return fail_wait(cache, -ETIMEDOUT, err, false);
        int rc = look_or_lead(load, first, ret_ref);
        if (rc == LOOK_LEAD) {
            rc = lead(load, loader, ctx, err, &entry);
            if (rc == 0)
                *ret_ref = (struct pnx_cache_ref){.entry = entry, .source = PNX_CACHE_LOADED};
            return rc;
        }
        if (rc == -ESHUTDOWN)
            return fail_wait(cache, rc, err, false);
        if (rc == -ENOENT)
            return pnx__fail(
                    err, rc, 0, "lookup", "cache \"%.64s\": known not to exist", cache->name);
        if (rc != LOOK_WAIT)
            return rc;
        rc = wait_for_load(cache, load, may_wait, &entry);
        if (rc == 0)
            *ret_ref = (struct pnx_cache_ref){.entry = entry, .source = PNX_CACHE_SHARED};
        if (rc < 0)
            fail_wait(cache, rc, err, true);
        if (rc <= 0)
            return rc;
    }
}

int pnx_cache_get_or_load(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout, struct pnx_error *err,
        struct pnx_cache_ref *ret_ref) {
    if ((!key && key_size > 0) || !loader || !ret_ref)
        return pnx__fail_field(err, -EINVAL, NULL, "cache: key, loader and ret_ref are required");
    pnx_ns wait_ns = 0;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc == -ESHUTDOWN ? fail_fork(err)
                                : pnx__fail(err, rc, 0, "wait", "cache: no cache was given");
    if (pnx__cache_is_fixed(cache))
        return pnx__fail(err, -ENOTSUP, 0, "lookup",
                "cache \"%.64s\" has fixed sizes and no references", cache->name);
    if (key_size > UINT32_MAX)
        return pnx__fail(err, -EFBIG, 0, "lookup", "cache \"%.64s\": a key of %zu bytes",
                cache->name, key_size);
    rc = pnx__timeout(timeout, cache->load_timeout, err, &wait_ns);
    if (rc)
        return rc;
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return fail_wait(cache, -ENOMEM, err, false);
    struct pnx_cache_load load = {
            .cache = cache,
            .key = key,
            .key_size = key_size,
            .hash = pnx__hash(cache->seed, key, key_size),
            .leader = self,
            .deadline = pnx__deadline(pnx__now(&cache->env), wait_ns),
    };
    load.shard = pnx__cache_shard_of(cache, load.hash);
    pnx__list_init(&load.waiters);
    return get_or_load(&load, loader, ctx, wait_ns > 0, err, ret_ref);
}
