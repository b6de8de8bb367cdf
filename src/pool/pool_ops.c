/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_ops.c - operations of managers that never block: start, poll, cancel, done.
 *
 *   O1  An operation that goes on is its slot's running job, without a thread.  It ends once: by pnx_pool_op_done(), by a poll
 *       that says so, or by a cancel that succeeds.
 *   O2  start, poll and cancel never run at the same time for one operation.  An end that comes meanwhile is left to whoever
 *       runs them, so that the operation stays valid until they have returned; so is the wish for another poll.
 */
#include "pool/pool.h"

#include <errno.h>
#include <stdio.h>

static struct pnx_slot *slot_of(struct pnx_pool_op *op) {
    return PNX_CONTAINER(op, struct pnx_slot, op);
}

/* Reports the end of an operation whose job nobody else can end any more. */
static void end_op(struct pnx_slot *slot, struct pnx__pool_result *result) {
    struct pnx_pool *pool = slot->pool;
    struct pnx__pool_effects effects;
    pnx__pool_effects_init(&effects);
    pnx__pool_finish_job(pool, slot, result, &effects); /* locks */
    pnx__pool_unlock(pool, &effects, NULL);
}

void pnx_pool_op_done(
        struct pnx_pool_op *op, int code, void *resource, const struct pnx_error *err) {
    if (!op)
        return;
    struct pnx_slot *slot = slot_of(op);
    struct pnx_pool *pool = slot->pool;
    struct pnx__pool_result result = {.rc = code, .resource = resource};
    if (pnx__pool_forked(pool))
        return; /* the parent's; the lock may be held for ever */
    if (err)
        result.err = *err;
    pnx__pool_lock(pool);
    bool busy = slot->flags & PNX__POOL_OP_BUSY;
    if (busy) {
        *slot->op_left = result;
        slot->flags |= PNX__POOL_OP_ENDED;
    }
    slot->flags |= PNX__POOL_OP_OVER;
    pnx__mutex_unlock(&pool->lock);
    if (!busy)
        end_op(slot, &result);
}

/* Begins a poll or cancel: false when one runs, or the operation is over.  left: the caller's, until end_busy(). */
static bool begin_locked(struct pnx_slot *slot, struct pnx__pool_result *left) {
    if (!(slot->flags & PNX__POOL_OP) || (slot->flags & PNX__POOL_OP_OVER))
        return false;
    if (slot->flags & PNX__POOL_OP_BUSY) {
        slot->flags |= PNX__POOL_OP_AGAIN;
        return false;
    }
    slot->flags |= PNX__POOL_OP_BUSY;
    slot->op_left = left;
    return true;
}

/*
 * After the call of the manager, whose result this is; what was left replaces it.  When result->rc is -EINPROGRESS then, the
 * operation goes on, and true says that it is to be polled once more; else only the caller can end it.
 */
static bool end_busy(struct pnx_slot *slot, struct pnx__pool_result *result,
        const struct pnx__pool_result *left) {
    struct pnx_pool *pool = slot->pool;
    pnx__pool_lock(pool);
    bool again = slot->flags & PNX__POOL_OP_AGAIN;
    if (slot->flags & PNX__POOL_OP_ENDED)
        *result = *left;
    slot->flags &= ~(uint32_t)(PNX__POOL_OP_BUSY | PNX__POOL_OP_AGAIN | PNX__POOL_OP_ENDED);
    if (result->rc != -EINPROGRESS)
        slot->flags |= PNX__POOL_OP_OVER;
    pnx__mutex_unlock(&pool->lock);
    return again && result->rc == -EINPROGRESS;
}

/* True when it is to be polled once more. */
static bool poll_begun(struct pnx_slot *slot, const struct pnx__pool_result *left) {
    struct pnx_pool *pool = slot->pool;
    struct pnx__pool_result result = {0};
    PNX__POOL_CALL(call);
    pnx__pool_call_enter(pool, &call);
    int rc = pool->manager.poll(pool->ctx, &slot->op, &result.err);
    pnx__pool_call_leave(&call);
    result.rc = rc > 0 ? -EINVAL : rc;
    result.resource = slot->op.resource;
    bool again = end_busy(slot, &result, left);
    if (result.rc != -EINPROGRESS)
        end_op(slot, &result);
    return again;
}

/* The caller sees to it that the pool stays. */
static void poll_op(struct pnx_slot *slot) {
    struct pnx_pool *pool = slot->pool;
    struct pnx__pool_result left;
    bool begun;
    do {
        pnx__pool_lock(pool);
        begun = begin_locked(slot, &left);
        pnx__mutex_unlock(&pool->lock);
    } while (begun && poll_begun(slot, &left));
}

int pnx__pool_op_started(struct pnx_slot *slot, struct pnx__pool_result *result,
        const struct pnx__pool_result *left) {
    bool again = end_busy(slot, result, left);
    int rc = result->rc;
    if (again)
        poll_op(slot);
    return rc;
}

static void cancel_op(struct pnx_slot *slot) {
    struct pnx_pool *pool = slot->pool;
    struct pnx__pool_result result = {0}, left;
    PNX__POOL_CALL(call);
    pnx__pool_lock(pool);
    bool begun = begin_locked(slot, &left);
    pnx__mutex_unlock(&pool->lock);
    if (!begun)
        return;
    pnx__pool_call_enter(pool, &call);
    int rc = pool->manager.cancel(pool->ctx, &slot->op);
    pnx__pool_call_leave(&call);
    snprintf(result.err.message, sizeof(result.err.message), "it was not done by its deadline");
    result.rc = rc ? -EINPROGRESS : -ETIMEDOUT;
    if (end_busy(slot, &result, &left))
        poll_op(slot);
    else if (result.rc != -EINPROGRESS)
        end_op(slot, &result);
}

void pnx_pool_op_poll(struct pnx_pool_op *op) {
    if (!op)
        return;
    struct pnx_slot *slot = slot_of(op);
    struct pnx_pool *pool = slot->pool;
    if (!pool->manager.poll || pnx__pool_forked(pool))
        return;
    pnx__pool_lock(pool);
    pool->refs++;
    pnx__mutex_unlock(&pool->lock);
    poll_op(slot);
    pnx__pool_drop_ref(pool);
}

void pnx__pool_tend_ops(struct pnx_pool *pool) {
    if (!pool->manager.start)
        return;
    pnx__pool_lock(pool);
    uint32_t capacity = pool->core.capacity;
    pnx__mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < capacity; i++) {
        struct pnx_slot *slot = pnx__pool_slot_at(pool, i);
        pnx__pool_lock(pool);
        bool goes_on = (slot->flags & PNX__POOL_OP) && !(slot->flags & PNX__POOL_OP_OVER);
        bool late = goes_on && pool->core.now >= slot->op.deadline;
        pnx__mutex_unlock(&pool->lock);
        if (late && pool->manager.cancel)
            cancel_op(slot);
        else if (goes_on && pool->manager.poll)
            poll_op(slot);
    }
}
