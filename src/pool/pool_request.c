/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_request.c - acquires that wait without a thread: requests, and how their callbacks come to the caller.
 *
 *   REQUEST  idle --request--> WAITING --outcome--> DELIVERING --> idle, and done is called
 *                                 \--cancel--> idle
 *
 *   N1  A request is in the pool's queue like a caller who blocks; its deadline stands in the core's heap of timers.
 *   N2  Whoever gives a request its outcome delivers it after the unlock: at once, or to its inbox, or to the pool's post.
 *   N3  Callbacks never nest: what is to be delivered inside one waits in the thread's list until it has returned.
 *   N4  From its outcome to its callback a request holds its lease, or one of the pool's refs.
 */
#include "os/thread.h"
#include "pool/pool.h"

#include <assert.h>
#include <errno.h>

enum { IDLE, WAITING, DELIVERING, UNWANTED /* the same, and somebody has tried to cancel it */ };

/* What a request's private part holds. */
struct inner {
    struct pnx__pool_waiter waiter;
    struct pnx_pool *pool;
    pnx_ns timeout;
    pnx_ns deadline;      /* 0 until it has waited; then fixed */
    bool counted;         /* it has one of the pool's refs */
    struct pnx_a32 state; /* see the top; WAITING and IDLE change under the lock */
};
static_assert(sizeof(struct inner) <= sizeof(((struct pnx_pool_request *)0)->private_),
        "a request has room for its inner part");
static_assert(offsetof(struct pnx_pool_request, private_) % _Alignof(struct inner) == 0,
        "a request's inner part is aligned");

static struct inner *inner_of(struct pnx_pool_request *request) {
    return (struct inner *)(void *)request->private_;
}

static struct pnx_pool_request *request_of(struct pnx_link *link) {
    struct pnx__pool_waiter *waiter = PNX_CONTAINER(link, struct pnx__pool_waiter, link);
    struct inner *inner = PNX_CONTAINER(waiter, struct inner, waiter);
    return (struct pnx_pool_request *)(void *)((char *)inner -
                                               offsetof(struct pnx_pool_request, private_));
}

static void set_state(struct inner *inner, uint32_t state) {
    /* the caller hands the request from thread to thread with an order of its own */
    pnx_store(&inner->state, state, PNX_RELAXED, "pool_request.state");
}

/* N4: a lease keeps the pool as well as a ref does, unless a hook may refuse it. */
static void count_locked(struct inner *inner) {
    if (inner->waiter.slot && !inner->pool->hooked)
        return;
    inner->pool->refs++;
    inner->counted = true;
}

void pnx__pool_ref_requests_locked(const struct pnx_link *first) {
    for (const struct pnx_link *link = first; link; link = link->next) {
        struct pnx__pool_waiter *waiter =
                PNX_CONTAINER((struct pnx_link *)(uintptr_t)link, struct pnx__pool_waiter, link);
        struct inner *inner = PNX_CONTAINER(waiter, struct inner, waiter);
        if (inner->counted)
            continue;
        count_locked(inner);
        set_state(inner, DELIVERING);
    }
}

/* ---- delivery ---- */

static void set_asking(
        const struct pnx_pool_request *request, uint8_t lane, struct pnx__pool_asking *asking) {
    *asking = (struct pnx__pool_asking){.site = request->site, .tag = request->tag, .lane = lane};
}

static void join_locked(
        struct inner *inner, bool first, pnx_ns now, struct pnx__pool_effects *effects) {
    struct pnx__pool_waiter *waiter = &inner->waiter;
    struct pnx__pool_core *core = &inner->pool->core;
    int rc;
    if (inner->deadline == 0) {
        inner->deadline = pnx__deadline(now, inner->timeout);
        waiter->since.v = (uint64_t)now;
        waiter->at = core->now;
    }
    waiter->phase = "queue";
    waiter->slot = pnx__pool_core_join(core, waiter, first, effects, &waiter->generation, &rc);
    waiter->code = rc;
    if (rc || waiter->slot)
        return;
    pnx__heap_insert(&core->timers, &waiter->timer, inner->deadline);
    pnx__pool_timer(core, inner->deadline, effects);
    uint32_t expected = first ? DELIVERING : IDLE;
    /* as in set_state(); pairs with pool_request.unwanted and too_late by the order of this word alone */
    if (pnx_cas(&inner->state, &expected, WAITING, PNX_RELAXED, "pool_request.waiting"))
        return;
    (void)pnx__pool_core_cancel(core, waiter, effects);
    waiter->code = -ECANCELED;
    waiter->phase = "cancel";
}

/* A take was in vain, and the lock is held: joins the queue, at its head if it had a resource before, or has its
 * outcome at once. */
static void ask_locked(
        struct inner *inner, bool first, pnx_ns now, struct pnx__pool_effects *effects) {
    struct pnx__pool_waiter *waiter = &inner->waiter;
    struct pnx__pool_core *core = &inner->pool->core;
    waiter->code = pnx__pool_core_admit(core, effects);
    waiter->phase = waiter->code == -ESHUTDOWN ? "closed" : "breaker";
    if (waiter->code)
        return;
    if (inner->timeout > 0) {
        join_locked(inner, first, now, effects);
        return;
    }
    waiter->phase = pnx__pool_core_phase(core);
    waiter->code = core->paused ? -EAGAIN : -ETIMEDOUT;
    pnx__pool_core_wish(core, effects);
}

/* A hook has refused its resource: asks again, for the head of the queue.  False when it waits, and is not this thread's
 * any more. */
static bool ask_again(struct pnx_pool *pool, struct inner *inner, const struct pnx_lease *refused) {
    struct pnx__pool_waiter *waiter = &inner->waiter;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    waiter->slot = NULL;
    if (inner->deadline && now >= inner->deadline) {
        waiter->code = -ETIMEDOUT;
        waiter->phase = "hook";
        pnx__pool_count(&pool->core, PNX__POOL_STAT_timeouts);
        pool->core.starved_at = pool->core.now;
    } else {
        waiter->slot = pnx__pool_core_take(&pool->core, now, &effects, &waiter->generation);
        if (waiter->slot)
            pnx__pool_note_order(&pool->core, waiter->lane, waiter->asked);
        else
            ask_locked(inner, true, now, &effects);
    }
    bool ends = waiter->slot || waiter->code;
    if (!ends && inner->counted) {
        pool->refs--; /* not the last: whoever has a request under way has the pool */
        inner->counted = false;
    }
    pnx__pool_give_up_locked(pool, refused, &effects);
    pnx__pool_unlock(pool, &effects, NULL);
    return ends;
}

/* Calls the callback; the request may be gone after it. */
static void call_done(struct pnx_pool_request *request, int code, struct pnx_lease lease,
        const struct pnx_error *err) {
    struct inner *inner = inner_of(request);
    struct pnx_pool *pool = inner->pool;
    PNX__POOL_CALL(call);
    bool counted = inner->counted;
    inner->counted = false;
    set_state(inner, IDLE);
    pnx__pool_call_enter(pool, &call);
    request->done(request, code, lease, err);
    pnx__pool_call_leave(&call);
    if (counted && !pnx__pool_forked(pool))
        pnx__pool_drop_ref(pool);
}

static __attribute__((noinline)) void call_failed(struct pnx_pool_request *request) {
    struct inner *inner = inner_of(request);
    struct pnx_pool *pool = inner->pool;
    struct pnx_error err = {0};
    int code = inner->waiter.code;
    pnx_ns since = (pnx_ns)inner->waiter.since.v;
    (void)pnx__pool_explain(
            pool, code, inner->waiter.phase, since ? pnx__now(&pool->env) - since : 0, &err);
    call_done(request, code, (struct pnx_lease){0}, &err);
}

/* In a forked child: what was under way is the parent's. */
static void forsake(struct pnx__pool_waiter *waiter) {
    struct pnx_lease lease = {.slot = waiter->slot, .generation = waiter->generation};
    waiter->slot = NULL;
    waiter->code = -ESHUTDOWN;
    waiter->phase = "fork";
    pnx_lease_release(&lease);
}

/* The request has its outcome, on the thread where its callback is to run. */
static void run(struct pnx_pool_request *request) {
    struct inner *inner = inner_of(request);
    struct pnx_pool *pool = inner->pool;
    struct pnx__pool_waiter *waiter = &inner->waiter;
    struct pnx__pool_asking asking;
    struct pnx_lease lease = {0};
    if (pnx__pool_forked(pool))
        forsake(waiter);
    set_asking(request, waiter->lane, &asking);
    while (waiter->slot) {
        lease = (struct pnx_lease){.slot = waiter->slot, .generation = waiter->generation};
        pnx__pool_stamp(pool, &lease, &asking);
        if (!pool->hooked || pnx__pool_passes(pool, &lease))
            break;
        if (!ask_again(pool, inner, &lease))
            return;
        lease = (struct pnx_lease){0};
    }
    if (lease.slot)
        call_done(request, 0, lease, NULL);
    else
        call_failed(request);
}

/* What is to be delivered on a thread, the oldest first. */
struct delivery {
    struct pnx_link *first;
    struct pnx_link *last;
};

static void append(struct delivery *delivery, struct pnx_link *link) {
    link->next = NULL;
    if (delivery->first)
        delivery->last->next = link;
    else
        delivery->first = link;
    delivery->last = link;
}

/* Runs them all, and those that come meanwhile; see N3. */
static void run_all(struct pnx_thread *self, struct delivery *delivery) {
    if (self)
        self->pool_delivery = delivery;
    while (delivery->first) {
        struct pnx_link *link = delivery->first;
        delivery->first = link->next;
        link->next = NULL;
        run(request_of(link));
    }
    if (self)
        self->pool_delivery = NULL;
}

/* Runs one now, or when the callback that runs on this thread has returned. */
static void run_here(struct pnx_pool_request *request) {
    struct pnx_thread *self = pnx__self();
    struct delivery *outer = self ? self->pool_delivery : NULL, mine = {0};
    append(outer ? outer : &mine, &inner_of(request)->waiter.link);
    if (!outer)
        run_all(self, &mine);
}

static void run_posted(void *arg) {
    run_here(arg);
}

static void deliver(struct pnx_pool_request *request) {
    struct pnx_pool *pool = inner_of(request)->pool;
    pnx__mutex_assert_none_held();
    if (request->inbox)
        pnx__inbox_put(request->inbox, &inner_of(request)->waiter.link);
    else if (pool->post)
        pool->post(pool->post_ctx, run_posted, request);
    else
        run_here(request);
}

void pnx__pool_deliver(struct pnx_link *first) {
    while (first) {
        struct pnx_link *next = first->next;
        first->next = NULL;
        deliver(request_of(first));
        first = next;
    }
}

void pnx__pool_run_link(struct pnx_link *link) {
    run_here(request_of(link));
}

/* ---- asking ---- */

static int check_request(const struct pnx_pool *pool, struct pnx_pool_request *request,
        pnx_ns *ret_timeout, uint8_t *ret_lane) {
    if (!pool || !request || !request->done || request->reserved_ != 0)
        return -EINVAL;
    if (request->priority < PNX_PRIORITY_DEFAULT || request->priority > PNX_PRIORITY_CRITICAL)
        return -EINVAL;
    /* the caller's: nobody else has it, unless it is under way */
    if (pnx_load(&inner_of(request)->state, PNX_RELAXED, "pool_request.check") != IDLE)
        return -EBUSY;
    *ret_lane = (uint8_t)(PNX_PRIORITY_CRITICAL -
                          (request->priority ? request->priority : PNX_PRIORITY_NORMAL));
    if (request->timeout == PNX_TIMEOUT_DEFAULT)
        *ret_timeout = pool->acquire_timeout;
    else
        *ret_timeout = request->timeout;
    return *ret_timeout < 0 ? -EINVAL : 0;
}

/*
 * The short way of a request: it has its lease, nothing of the user's comes between, and its callback runs here and now.
 * The pool is the user's for as long as this call lasts.
 */
static inline void call_now(struct pnx_thread *self, struct pnx_pool *pool,
        struct pnx_pool_request *request, struct pnx_lease lease) {
    struct delivery delivery = {0};
    PNX__POOL_CALL(call);
    self->pool_delivery = &delivery;
    pnx__pool_call_enter_on(self, pool, &call);
    request->done(request, 0, lease, NULL);
    pnx__pool_call_leave_on(self, &call);
    self->pool_delivery = NULL;
    if (__builtin_expect(delivery.first != NULL, 0))
        run_all(self, &delivery);
}

/* Field by field: what a join or an outcome writes is left out, since clearing it all takes longer than the rest. */
static void begin(struct inner *inner, struct pnx_pool *pool, pnx_ns timeout, uint8_t lane) {
    struct pnx__pool_waiter *waiter = &inner->waiter;
    waiter->lane = lane;
    waiter->is_request = true;
    waiter->slot = NULL;
    waiter->asked = pnx__pool_asked(&pool->core);
    waiter->seq = 0; /* before those who have waited: see put_back() */
    waiter->at = 0;
    waiter->since.v = 0; /* nobody else knows it yet */
    waiter->code = 0;
    waiter->phase = NULL;
    inner->pool = pool;
    inner->timeout = timeout;
    inner->deadline = 0;
    inner->counted = false;
}

/* Has its outcome already; the pool is the user's for as long as this call lasts. */
static void deliver_now(struct inner *inner, struct pnx_pool_request *request) {
    struct pnx_pool *pool = inner->pool;
    set_state(inner, DELIVERING);
    if (pool->hooked &&
            (request->inbox || pool->post || (pnx__self() && pnx__self()->pool_delivery))) {
        pnx__pool_lock(pool);
        count_locked(inner);
        pnx__mutex_unlock(&pool->lock);
    }
    deliver(request);
}

/* All that the short way has not done. */
static __attribute__((noinline)) int ask_slowly(
        struct pnx_pool *pool, struct pnx_pool_request *request) {
    pnx_ns timeout;
    uint8_t lane;
    int rc = check_request(pool, request, &timeout, &lane);
    if (rc)
        return rc;
    struct inner *inner = inner_of(request);
    struct pnx__pool_waiter *waiter = &inner->waiter;
    struct pnx__pool_asking asking;
    begin(inner, pool, timeout, lane);
    set_asking(request, lane, &asking);
    if (pnx__pool_forked(pool)) {
        set_state(inner, DELIVERING);
        run_here(request);
        return 0;
    }
    struct pnx_lease lease = pnx__pool_claim(pool, pool->now_coarse(pool->now_ctx), &asking);
    if (lease.slot) {
        if (pool->core.traced)
            pnx__pool_trace(pool, lane, waiter->asked);
        waiter->slot = lease.slot;
        waiter->generation = lease.generation;
        deliver_now(inner, request);
        return 0;
    }
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx_ns now = pnx__now(&pool->env);
    pnx__pool_lock(pool);
    waiter->slot = pnx__pool_core_take(&pool->core, now, &effects, &waiter->generation);
    if (waiter->slot)
        pnx__pool_note_order(&pool->core, lane, waiter->asked);
    else
        ask_locked(inner, false, now, &effects);
    /* Once the lock is open, a request that waits is not this call's any more. */
    bool ends = waiter->slot || waiter->code;
    if (ends) {
        count_locked(inner);
        set_state(inner, DELIVERING);
    }
    pnx__pool_unlock(pool, &effects, NULL);
    if (ends)
        deliver(request);
    return 0;
}

/* Whether a request may have its lease and its callback here and now: nothing of the user's comes between. */
static inline bool is_short(const struct pnx_pool *pool, struct pnx_pool_request *request) {
    if (request->reserved_ != 0 || request->priority < PNX_PRIORITY_DEFAULT ||
            request->priority > PNX_PRIORITY_CRITICAL)
        return false;
    if (request->timeout < 0 && request->timeout != PNX_TIMEOUT_DEFAULT)
        return false;
    /* as pool_request.check */
    return pnx_load(&inner_of(request)->state, PNX_RELAXED, "pool_request.is_short") == IDLE &&
           !request->inbox && !pool->post && pool->plain && pnx__fork_is(pool->fork);
}

int pnx_pool_acquire_async(struct pnx_pool *pool, struct pnx_pool_request *request) {
    if (!pool || !request || !request->done)
        return -EINVAL;
    struct pnx_thread *self = PNX_SELF;
    if (self && !self->pool_delivery && is_short(pool, request)) {
        const struct pnx__pool_asking asking = {.site = request->site, .tag = request->tag};
        struct pnx_lease lease = pnx__pool_claim(pool, pool->now_coarse(pool->now_ctx), &asking);
        if (lease.slot) {
            call_now(self, pool, request, lease);
            return 0;
        }
    }
    return ask_slowly(pool, request);
}

int pnx_pool_cancel(struct pnx_pool_request *request) {
    if (!request)
        return -EINVAL;
    struct inner *inner = inner_of(request);
    /* The caller vouches for the request, and its pool: it is under way, or has been. */
    uint32_t state = DELIVERING;
    /* pairs with pool_request.waiting: should a hook refuse its resource, it does not wait again */
    if (pnx_cas(&inner->state, &state, UNWANTED, PNX_RELAXED, "pool_request.unwanted") ||
            state != WAITING)
        return -EALREADY;
    struct pnx_pool *pool = inner->pool;
    if (pnx__pool_forked(pool)) { /* it waits in the parent; the lock may be held for ever */
        set_state(inner, IDLE);
        return 0;
    }
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_lock(pool);
    bool gone = pnx_load(&inner->state, PNX_RELAXED, "pool_request.cancel_locked") == WAITING &&
                pnx__pool_core_cancel(&pool->core, &inner->waiter, &effects);
    state = DELIVERING;
    if (gone)
        set_state(inner, IDLE);
    else /* the outcome came just now; as above */
        (void)pnx_cas(&inner->state, &state, UNWANTED, PNX_RELAXED, "pool_request.too_late");
    pnx__pool_unlock(pool, &effects, NULL);
    return gone ? 0 : -EALREADY;
}
