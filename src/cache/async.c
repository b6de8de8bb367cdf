/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/async.c - waiting without a thread, and loads that outlast their loader's call.
 *
 *   REQUEST  idle --get_async--> DELIVERING --found, error--> (told) idle
 *                                 |      ^
 *                                 |      +--answered: end of the load, deadline, close
 *                                 +--enlisted--> WAITING --cancel--> idle
 *
 *   P1  A request that is WAITING is in its load's waiters, and, if it has a deadline, in its shard's heap of timers: both
 *       change under the shard's lock, as does the step out of WAITING.
 *   P2  Whoever answers a request delivers it after the unlock: at once, or to the cache's post.
 *   P3  Callbacks never nest: what is to be delivered inside one waits in the thread's list until it has returned.
 *   P4  From the moment in which it may wait until it was told, a request holds one of its shard's pending: the cache's memory
 *       stays.
 *   P5  A load in a block is freed when its loader's call has returned, it was ended by its maker, and whoever gave it up has
 *       done so.
 */
#include "cache/load.h"

#include "base/error.h"
#include "base/hash.h"
#include "share/latch.h"

#include <assert.h>

/* ---- loads in blocks ---- */

struct block {
    struct pnx_cache_load load;
    char key[];
};

struct pnx_cache_load *pnx__cache_load_make(struct pnx_cache *cache, const void *key,
        size_t key_size, pnx_ns deadline, pnx_cache_load_fn *loader, void *ctx) {
    struct block *block = pnx__alloc(&cache->env, 1, sizeof(*block) + key_size);
    if (!block)
        return NULL;
    if (key_size > 0)
        memcpy(block->key, key, key_size);
    struct pnx_cache_load *load = &block->load;
    pnx__cache_load_init(load, cache, block->key, key_size, deadline);
    load->loader = loader;
    load->ctx = ctx;
    /* Relaxed, both: nobody else knows it yet, and the cache is in use. */
    pnx_store(&load->parts, 2, PNX_RELAXED, "cache_load.first_parts");
    pnx_fetch_add(&load->shard->pending, 1, PNX_RELAXED, "cache_load.pending");
    return load;
}

void pnx__cache_load_add(struct pnx_cache_load *load, uint32_t parts) {
    /* Relaxed: whoever adds one has one, or the lock under which the load is in the table. */
    pnx_fetch_add(&load->parts, parts, PNX_RELAXED, "cache_load.add_part");
}

void pnx__cache_load_drop(struct pnx_cache_load *load, uint32_t parts) {
    /* Pairs with itself: all that others did with the load comes before its memory goes. */
    if (pnx_fetch_sub(&load->parts, parts, PNX_ACQ_REL, "cache_load.drop_part") != parts)
        return;
    struct pnx_cache_shard *shard = load->shard;
    struct block *block = PNX_CONTAINER(load, struct block, load);
    pnx__cache_load_discard(load); /* made after the load was given up */
    pnx__free(&load->cache->env, block, 1, sizeof(*block) + load->key_size);
    pnx__cache_settled(shard);
}

/* Whether the caller is the one who ends the load. */
static bool claim_end(struct pnx_cache_load *load) {
    uint32_t open = 0;
    /* Relaxed: who ends it is decided by the word alone; the lock orders the rest. */
    return pnx_cas(&load->finished, &open, 1, PNX_RELAXED, "cache_load.finish");
}

/* The thread that the load's waiters are known to wait for does other things from now on. */
static void leave_to_others_locked(struct pnx_cache_load *load) {
    load->state = PNX_CACHE_LOAD_PENDING;
    load->leader = NULL;
    PNX_LIST_EACH (link, next, &load->waiters) {
        struct pnx_cache_waiter *waiter = PNX_CONTAINER(link, struct pnx_cache_waiter, link);
        if (waiter->thread)
            pnx__latch_awaited(waiter->thread);
        waiter->thread = NULL;
    }
}

/* Its loader has returned, and the load goes on without a thread. */
static void set_pending(struct pnx_cache_load *load) {
    struct pnx_cache_shard *shard = load->shard;
    pnx__mutex_lock(&shard->lock);
    if (load->state == PNX_CACHE_LOAD_RUNNING) {
        leave_to_others_locked(load);
        if (load->deadline != PNX_NEVER)
            pnx__heap_insert(&shard->load_timers, &load->timer, load->deadline);
    }
    pnx__mutex_unlock(&shard->lock);
}

/*
 * The calling thread has claimed the end, and is the one that is waited for until then: what it calls on the way, weigher and
 * destructors, may ask for the key, and must not wait for this thread.  Its loader may still be in its call.
 */
static void lead_end(struct pnx_cache_load *load) {
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_thread *self = pnx__self(); /* without memory for that, circles are not seen */
    pnx__mutex_lock(&shard->lock);
    if (load->state == PNX_CACHE_LOAD_RUNNING)
        leave_to_others_locked(load);
    load->leader = self;
    pnx__mutex_unlock(&shard->lock);
}

/* What a maker of values says, as one of: 0 with a result, or a negative error. */
static int checked(const struct pnx_cache_load *load, int code) {
    return code > 0 || (code == 0 && !load->result) ? -EINVAL : code;
}

void pnx__cache_load_run(struct pnx_cache_load *load) {
    load->start = pnx__now(&load->cache->env);
    int code = pnx__cache_call_loader(load, load->loader, load->ctx);
    if (code == PNX_CACHE_FORKED)
        return;
    uint32_t parts = 1;
    if (code == -EINPROGRESS) {
        set_pending(load);
    } else if (claim_end(load)) {
        if (pnx__cache_load_end(load, checked(load, code), NULL) == PNX_CACHE_FORKED)
            return;
        parts = 2;
    }
    pnx__cache_load_drop(load, parts);
}

int pnx_cache_load_finish(struct pnx_cache_load *load, int code) {
    if (!load)
        return -EINVAL;
    if (!load->loader)
        return -ENOTSUP;
    if (pnx__cache_enter(load->cache) != 0)
        return -ESHUTDOWN; /* a forked child: the load is the parent's */
    int rc = -EALREADY;
    if (claim_end(load)) {
        lead_end(load);
        code = code == -EINPROGRESS ? -EINVAL : checked(load, code);
        if (pnx__cache_load_end(load, code, NULL) == PNX_CACHE_FORKED)
            return -ESHUTDOWN;
        rc = 0;
    }
    pnx__cache_load_drop(load, 1);
    return rc;
}

bool pnx__cache_give_up_locked(struct pnx_cache_load *load, pnx_ns now, struct pnx_link *answers) {
    if (now < load->deadline)
        return false;
    /* First: once it is claimed, its maker may drop the last one. */
    pnx__cache_load_add(load, 1);
    if (!claim_end(load)) {
        /* Not the last one: its maker is about to take the lock. */
        pnx_fetch_sub(&load->parts, 1, PNX_RELAXED, "cache_load.not_given_up");
        return false;
    }
    pnx__cache_load_leave_locked(load, -ETIMEDOUT, answers);
    return true;
}

void pnx__cache_given_up(struct pnx_cache_load *load) {
    struct pnx_cache *cache = load->cache;
    pnx_ns now = pnx__now(&cache->env);
    pnx__cache_count_load(cache, -ETIMEDOUT, now - load->start);
    if (!pnx__cache_is_closed(cache))
        pnx__event(&cache->block, PNX_EVENT_CACHE_LOAD_FAILED, cache->name, -ETIMEDOUT, NULL,
                now - load->start, now);
    if (load->old) {
        pnx__cache_soft_fail(cache, load->old);
        pnx__cache_entry_drop(load->old);
        load->old = NULL;
    }
    pnx__cache_load_drop(load, 1);
}

/* ---- requests ---- */

enum {
    IDLE,
    DELIVERING,
    WAITING,
    UNWANTED /* as DELIVERING, and somebody has tried to cancel it */
};

/* What a request's private part holds; the first group is fixed while it is under way, the second is the shard's lock's. */
struct inner {
    struct pnx_cache *cache;
    struct pnx_cache_shard *shard; /* of the key */
    const void *key;
    size_t key_size;
    pnx_cache_load_fn *loader;
    void *ctx;
    pnx_ns deadline;
    bool may_wait;

    struct pnx_cache_waiter waiter; /* its answer: whoever delivers it */
    struct pnx_heap_node timer;
    struct pnx_a32 state; /* see the top */
};
static_assert(sizeof(struct inner) <= sizeof(((struct pnx_cache_request *)0)->private_),
        "a request has room for its inner part");
static_assert(offsetof(struct pnx_cache_request, private_) % _Alignof(struct inner) == 0,
        "a request's inner part is aligned");

static struct inner *inner_of(struct pnx_cache_request *request) {
    return (struct inner *)(void *)request->private_;
}

static struct pnx_cache_request *request_of(struct pnx_link *link) {
    return PNX_CONTAINER(link, struct pnx_cache_waiter, link)->request;
}

static void set_state(struct inner *inner, uint32_t state) {
    /* Relaxed: the caller hands the request from thread to thread with an order of its own. */
    pnx_store(&inner->state, state, PNX_RELAXED, "cache_request.state");
}

void pnx__cache_request_answered_locked(
        struct pnx_cache_shard *shard, struct pnx_cache_request *request) {
    struct inner *inner = inner_of(request);
    if (pnx__heap_has(&inner->timer))
        pnx__heap_remove(&shard->request_timers, &inner->timer);
    pnx_owner_add(&shard->counters.requests, (uint64_t)0 - 1);
    set_state(inner, DELIVERING);
}

/* Has its outcome. */
static void conclude(struct inner *inner, int code, struct pnx_cache_ref ref) {
    inner->waiter.code = code;
    inner->waiter.entry = ref.entry;
    inner->waiter.source = ref.source;
}

/* ---- telling ---- */

static void explain(const struct pnx_cache *cache, int code, struct pnx_error *err) {
    if (code == -ENOENT)
        pnx__fail(err, code, 0, "lookup", "cache \"%.64s\": known not to exist", cache->name);
    else if (code == -ECANCELED)
        pnx__fail(err, code, 0, "cancel", "cache \"%.64s\": canceled", cache->name);
    else if (code == -ENOMEM)
        pnx__fail(err, code, 0, "wait", "cache \"%.64s\": out of memory", cache->name);
    else if (code == -ETIMEDOUT)
        pnx__fail(
                err, code, 0, "wait", "cache \"%.64s\": the load did not end in time", cache->name);
    else if (code == -ESHUTDOWN)
        pnx__fail(err, code, 0, "wait", "cache \"%.64s\" is closed", cache->name);
    else
        pnx__fail(err, code, code, "load", "cache \"%.64s\": the loader failed: %s", cache->name,
                pnx_strerror(code));
}

/* Calls the callback; the request may be gone after it. */
static void call_done(struct pnx_cache_request *request) {
    struct inner *inner = inner_of(request);
    struct pnx_cache_shard *shard = inner->shard;
    int code = inner->waiter.code;
    struct pnx_cache_ref ref = {.entry = inner->waiter.entry, .source = inner->waiter.source};
    struct pnx_error err = {0};
    if (code) {
        ref = (struct pnx_cache_ref){0};
        explain(inner->cache, code, &err);
    }
    set_state(inner, IDLE);
    PNX_CACHE_CALLING(returned);
    pnx__mutex_assert_none_held();
    request->done(request, code, ref, code ? &err : NULL);
    returned = true;
    pnx__cache_settled(shard);
}

static bool ask(struct pnx_cache_request *request, unsigned how);

/* The request has its answer, on the thread where its callback is to run. */
static void run(struct pnx_cache_request *request) {
    struct inner *inner = inner_of(request);
    if (pnx__cache_enter(inner->cache) !=
            0) /* a forked child: what was under way is the parent's */
        conclude(inner, -ESHUTDOWN, (struct pnx_cache_ref){0});
    if (inner->waiter.code == PNX_CACHE_RETRY && !ask(request, 0))
        return; /* waits again */
    call_done(request);
}

/* What is to be delivered on a thread, the oldest first. */
struct delivery {
    struct pnx_link list;
};

/* Runs one now, or when the callback that runs on this thread has returned. */
static void run_here(struct pnx_cache_request *request) {
    struct pnx_thread *self = pnx__self();
    struct delivery *outer = self ? self->cache_delivery : NULL, mine;
    if (outer) {
        pnx__list_push_back(&outer->list, &inner_of(request)->waiter.link);
        return;
    }
    pnx__list_init(&mine.list);
    if (self)
        self->cache_delivery = &mine;
    run(request);
    for (struct pnx_link *link; (link = pnx__list_pop_front(&mine.list));)
        run(request_of(link));
    if (self)
        self->cache_delivery = NULL;
}

static void run_posted(void *arg) {
    run_here(arg);
}

static void deliver(struct pnx_cache_request *request) {
    const struct pnx_cache *cache = inner_of(request)->cache;
    pnx__mutex_assert_none_held();
    if (cache->post)
        cache->post(cache->post_ctx, run_posted, request);
    else
        run_here(request);
}

void pnx__cache_deliver(struct pnx_link *waiters) {
    for (struct pnx_link *link; (link = pnx__list_pop_front(waiters));)
        deliver(request_of(link));
}

/* ---- asking ---- */

/* Puts the request behind a load, unless somebody has tried to cancel it. */
static bool wait_locked(struct pnx_cache_request *request, struct pnx_cache_load *load) {
    struct inner *inner = inner_of(request);
    struct pnx_cache_shard *shard = load->shard;
    uint32_t expected = DELIVERING;
    /* as in set_state(); pairs with cache_request.unwanted by the order of this word alone */
    if (!pnx_cas(&inner->state, &expected, WAITING, PNX_RELAXED, "cache_request.waiting"))
        return false;
    inner->waiter.answered = false;
    inner->waiter.thread = NULL;
    inner->waiter.deadline = inner->deadline;
    pnx__list_push_back(&load->waiters, &inner->waiter.link);
    if (inner->deadline != PNX_NEVER)
        pnx__heap_insert(&shard->request_timers, &inner->timer, inner->deadline);
    pnx_owner_add(&shard->counters.requests, 1);
    return true;
}

/* Puts it behind the load under way of its key.  0: it waits; RETRY when there is none any more; or an error. */
static int enlist(struct pnx_cache_request *request, const struct pnx_cache_load *own) {
    struct inner *inner = inner_of(request);
    struct pnx_cache_load *load = NULL;
    pnx__mutex_lock(&own->shard->lock);
    int rc = pnx__cache_enlist_locked(&inner->waiter, own, &load);
    if (rc == 0 && !wait_locked(request, load))
        rc = -ECANCELED;
    if (rc == 0)
        pnx_owner_add(&own->shard->counters.load_waits, 1);
    pnx__mutex_unlock(&own->shard->lock);
    return rc;
}

/* Makes the load the one of its key, and the request its first waiter.  0, RETRY, or an error. */
static int begin_for(struct pnx_cache_load *load, struct pnx_cache_request *request) {
    struct pnx_cache *cache = load->cache;
    struct pnx_cache_shard *shard = load->shard;
    struct pnx_cache_effects fx = {0};
    struct pnx_cache_entry *kept = NULL;
    pnx_ns now = 0;
    int rc = 0;
    pnx__cache_lock(shard);
    if (pnx__cache_is_closed(cache))
        rc = -ESHUTDOWN;
    else if (pnx__cache_see_locked(
                     shard, load->hash, load->key, load->key_size, &now, &fx, &kept) ||
             pnx__cache_load_find_locked(shard, load->hash, load->key, load->key_size, true))
        rc = PNX_CACHE_RETRY;
    else if (!wait_locked(request, load))
        rc = -ECANCELED;
    if (rc == 0) {
        inner_of(request)->waiter.late = false;
        load->leader = pnx__self();
        pnx__cache_load_begin_locked(load, PNX_CACHE_LOAD_RUNNING, kept);
    }
    pnx__cache_unlock(shard, &fx);
    pnx__cache_run(cache, &fx);
    return rc;
}

/* Begins a load for the request, which waits for it.  0; RETRY when something else has come; or an error. */
static int lead(struct pnx_cache_request *request) {
    struct inner *inner = inner_of(request);
    struct pnx_cache_load *load = pnx__cache_load_make(
            inner->cache, inner->key, inner->key_size, inner->deadline, inner->loader, inner->ctx);
    if (!load)
        return -ENOMEM;
    int rc = begin_for(load, request);
    if (rc == 0)
        pnx__cache_load_run(load); /* the request is not ours any more */
    else
        pnx__cache_load_drop(load, 2);
    return rc;
}

/* Refreshes an entry that a request has found, once that was told.  Its loader may go on after it has returned. */
static void refresh(struct pnx_cache *cache, struct pnx_cache_entry *entry,
        pnx_cache_load_fn *loader, void *ctx) {
    if (cache->executor) {
        pnx__cache_refresh_submit(cache, entry);
        return;
    }
    struct pnx_cache_load *load =
            pnx__cache_load_make(cache, pnx__cache_entry_key(entry), entry->key_size,
                    pnx__deadline(pnx__now(&cache->env), cache->load_timeout), loader, ctx);
    if (!load) {
        pnx__cache_refresh_refused(cache, entry);
        return;
    }
    load->leader = pnx__self();
    if (pnx__cache_refresh_begin(load, entry, PNX_CACHE_LOAD_RUNNING))
        pnx__cache_load_run(load);
    else
        pnx__cache_load_drop(load, 2);
}

/* Looks once.  True when the request has its outcome, which is to be told; false: it waits, or was told. */
static bool look(struct pnx_cache_request *request, unsigned how, bool *ret_again) {
    struct inner *inner = inner_of(request);
    struct pnx_cache *cache = inner->cache;
    struct pnx_cache_load own;
    struct pnx_cache_ref ref = {0};
    pnx__cache_load_init(&own, cache, inner->key, inner->key_size, inner->deadline);
    int rc = pnx__cache_load_look(&own, how | PNX_CACHE_LOOK_ONLY, &ref);
    if (rc == PNX_CACHE_LOOK_REFRESH) {
        struct pnx_cache_ref hold = ref;
        pnx_cache_load_fn *loader = inner->loader;
        void *ctx = inner->ctx;
        pnx__cache_pin(hold.entry, 1);
        conclude(inner, 0, ref);
        deliver(request); /* first: the loader may take its time */
        refresh(cache, hold.entry, loader, ctx);
        pnx_cache_ref_release(&hold);
        return false;
    }
    if (rc == PNX_CACHE_LOOK_LEAD || rc == PNX_CACHE_LOOK_WAIT) {
        bool leads = rc == PNX_CACHE_LOOK_LEAD;
        rc = !inner->may_wait ? -ETIMEDOUT : leads ? lead(request) : enlist(request, &own);
        if (rc == 0)
            return false;
        if (rc == PNX_CACHE_RETRY) {
            *ret_again = true;
            return true;
        }
    }
    conclude(inner, rc, ref);
    return true;
}

/* Looks until the request has its outcome, or waits.  As look(). */
static bool ask(struct pnx_cache_request *request, unsigned how) {
    struct inner *inner = inner_of(request);
    struct pnx_cache *cache = inner->cache;
    for (;; how = 0) {
        bool again = false;
        if (!(how & PNX_CACHE_LOOK_COUNT) && pnx__now(&cache->env) >= inner->deadline) {
            conclude(inner, -ETIMEDOUT, (struct pnx_cache_ref){0});
            return true;
        }
        bool told = look(request, how, &again);
        if (!again)
            return told;
    }
}

int pnx_cache_get_async(struct pnx_cache *cache, const void *key, size_t key_size,
        pnx_cache_load_fn *loader, void *ctx, pnx_ns timeout, struct pnx_cache_request *request) {
    if ((!key && key_size > 0) || !loader || !request || !request->done)
        return -EINVAL;
    int rc = pnx__cache_enter(cache);
    if (rc)
        return rc;
    if (pnx__cache_is_fixed(cache))
        return -ENOTSUP;
    pnx_ns wait_ns = 0;
    struct inner *inner = inner_of(request);
    /* Relaxed: the caller's; nobody else has it, unless it is under way. */
    if (pnx_load(&inner->state, PNX_RELAXED, "cache_request.check") != IDLE)
        return -EBUSY;
    if (key_size > UINT32_MAX)
        return -EFBIG;
    rc = pnx__timeout(timeout, cache->load_timeout, NULL, &wait_ns);
    if (rc)
        return rc;
    *inner = (struct inner){
            .cache = cache,
            .shard = pnx__cache_shard_of(cache, pnx__hash(cache->seed, key, key_size)),
            .key = key,
            .key_size = key_size,
            .loader = loader,
            .ctx = ctx,
            .deadline = pnx__deadline(pnx__now(&cache->env), wait_ns),
            .may_wait = wait_ns > 0,
            .waiter.request = request,
    };
    set_state(inner, DELIVERING);
    /* Relaxed: the cache is in use. */
    pnx_fetch_add(&inner->shard->pending, 1, PNX_RELAXED, "cache_request.pending");
    if (ask(request, PNX_CACHE_LOOK_COUNT))
        deliver(request);
    return 0;
}

int pnx_cache_cancel(struct pnx_cache_request *request) {
    if (!request)
        return -EINVAL;
    struct inner *inner = inner_of(request);
    uint32_t state = DELIVERING;
    /* The caller vouches for the request: it is under way, or has been.  Pairs with cache_request.waiting. */
    if (pnx_cas(&inner->state, &state, UNWANTED, PNX_RELAXED, "cache_request.unwanted") ||
            state != WAITING)
        return -EALREADY;
    if (pnx__cache_enter(inner->cache) !=
            0) { /* it waits in the parent; the lock may be held for ever */
        set_state(inner, IDLE);
        return 0;
    }
    struct pnx_cache_shard *shard = inner->shard;
    pnx__mutex_lock(&shard->lock);
    bool gone = !inner->waiter.answered;
    if (gone) {
        pnx__list_remove(&inner->waiter.link);
        pnx__cache_request_answered_locked(shard, request);
        set_state(inner, IDLE);
    } else { /* the outcome came just now; as above */
        state = DELIVERING;
        (void)pnx_cas(&inner->state, &state, UNWANTED, PNX_RELAXED, "cache_request.too_late");
    }
    pnx__mutex_unlock(&shard->lock);
    if (gone)
        pnx__cache_settled(shard);
    return gone ? 0 : -EALREADY;
}

/* ---- deadlines ---- */

/* Ends one request or kept load whose time is over; false when there is none. */
static bool tick_one_locked(struct pnx_cache_shard *shard, pnx_ns now, struct pnx_link *answers,
        struct pnx_cache_load **ret_given_up) {
    struct pnx_heap_node *first = shard->request_timers.root;
    if (first && first->at <= now) {
        struct inner *inner = PNX_CONTAINER(first, struct inner, timer);
        pnx__cache_answer_locked(shard, &inner->waiter, -ETIMEDOUT, NULL, 0, answers);
        return true;
    }
    first = shard->load_timers.root;
    if (!first || first->at > now)
        return false;
    struct pnx_cache_load *load = PNX_CONTAINER(first, struct pnx_cache_load, timer);
    if (pnx__cache_give_up_locked(load, now, answers))
        *ret_given_up = load;
    else
        pnx__heap_remove(&shard->load_timers, first); /* is being ended */
    return true;
}

pnx_ns pnx__cache_tick_loads(struct pnx_cache_shard *shard, pnx_ns now, uint32_t *budget) {
    for (;; (*budget)--) {
        struct pnx_link answers;
        struct pnx_cache_load *given_up = NULL;
        pnx_ns next = PNX_NEVER;
        pnx__list_init(&answers);
        pnx__mutex_lock(&shard->lock);
        bool found = *budget > 0 && tick_one_locked(shard, now, &answers, &given_up);
        const struct pnx_heap_node *request = shard->request_timers.root;
        const struct pnx_heap_node *load = shard->load_timers.root;
        if (request)
            next = request->at;
        if (load && load->at < next)
            next = load->at;
        pnx__mutex_unlock(&shard->lock);
        pnx__cache_wake(&answers);
        if (given_up)
            pnx__cache_given_up(given_up);
        if (!found)
            return next < now ? now : next;
    }
}
