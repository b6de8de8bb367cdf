/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool/pool_ops.c - operations of managers that never block: start, poll, cancel, done.
 *
 *   O1  An operation that goes on is its slot's running job, without a thread.  It ends once: by pnx_pool_op_done(), by a poll
 *       that says so, or by a cancel that succeeds.
 *   O2  poll and cancel never run at the same time for one operation.  An end that comes meanwhile is left to whoever runs
 *       them, so that the operation stays valid until they have returned.
 */
#include "pool/pool.h"

#include <errno.h>
#include <stdio.h>

static struct pnx_slot *slot_of(struct pnx_pool_op *op) {
    return PNX_CONTAINER(op, struct pnx_slot, op);
}

/* Reports the end of an operation whose job nobody else can end any more. */
static void end_op(struct pnx_slot *slot, int code, const struct pnx_error *err) {
    struct pnx_pool *pool = slot->pool;
    struct pnx__pool_result result = {.rc = code, .resource = slot->op.resource};
    struct pnx__pool_effects effects;
    if (err)
        result.err = *err;
    pnx__pool_effects_init(&effects);
    pnx__pool_finish_job(pool, slot, &result, &effects); /* locks */
    pnx__pool_unlock(pool, &effects, NULL);
}

void pnx_pool_op_done(
        struct pnx_pool_op *op, int code, void *resource, const struct pnx_error *err) {
    if (!op)
        return;
    struct pnx_slot *slot = slot_of(op);
    struct pnx_pool *pool = slot->pool;
    pnx__pool_lock(pool);
    if (op->kind == PNX_POOL_OP_CONNECT)
        op->resource = resource;
    bool left = slot->flags & PNX__POOL_OP_BUSY;
    if (left) {
        slot->flags |= PNX__POOL_OP_ENDED;
        op->events = (uint32_t)code; /* the message is lost; nobody polls for events any more */
    }
    slot->flags |= PNX__POOL_OP_OVER;
    pnx__mutex_unlock(&pool->lock);
    if (!left)
        end_op(slot, code, err);
}

/* Begins a poll or cancel: false when one runs, or the operation is over. */
static bool begin_locked(struct pnx_slot *slot) {
    if (!(slot->flags & PNX__POOL_OP) || (slot->flags & PNX__POOL_OP_OVER))
        return false;
    if (slot->flags & PNX__POOL_OP_BUSY) {
        slot->flags |= PNX__POOL_OP_AGAIN;
        return false;
    }
    slot->flags |= PNX__POOL_OP_BUSY;
    return true;
}

/* Ends it; rc is -EINPROGRESS when the operation goes on.  True when it is to be polled once more. */
static bool end_busy(struct pnx_slot *slot, int rc, const struct pnx_error *err) {
    struct pnx_pool *pool = slot->pool;
    pnx__pool_lock(pool);
    bool again = slot->flags & PNX__POOL_OP_AGAIN;
    bool ended = slot->flags & PNX__POOL_OP_ENDED;
    slot->flags &= ~(uint32_t)(PNX__POOL_OP_BUSY | PNX__POOL_OP_AGAIN | PNX__POOL_OP_ENDED);
    if (ended) {
        rc = (int)slot->op.events;
        err = NULL;
    }
    if (rc != -EINPROGRESS)
        slot->flags |= PNX__POOL_OP_OVER;
    pnx__mutex_unlock(&pool->lock);
    if (rc != -EINPROGRESS)
        end_op(slot, rc, err);
    return again && rc == -EINPROGRESS;
}

static void poll_begun(struct pnx_slot *slot) {
    struct pnx_pool *pool = slot->pool;
    bool again;
    do {
        struct pnx__pool_call call;
        struct pnx_error err = {0};
        pnx__pool_call_enter(pool, &call);
        int rc = pool->manager.poll(pool->ctx, &slot->op, &err);
        pnx__pool_call_leave(&call);
        if (rc > 0)
            rc = -EINVAL;
        again = end_busy(slot, rc, &err);
        if (again) {
            pnx__pool_lock(pool);
            again = begin_locked(slot);
            pnx__mutex_unlock(&pool->lock);
        }
    } while (again);
}

static void cancel_begun(struct pnx_slot *slot) {
    struct pnx_pool *pool = slot->pool;
    struct pnx__pool_call call;
    struct pnx_error err = {0};
    pnx__pool_call_enter(pool, &call);
    int rc = pool->manager.cancel(pool->ctx, &slot->op);
    pnx__pool_call_leave(&call);
    snprintf(err.message, sizeof(err.message), "it was not done by its deadline");
    (void)end_busy(slot, rc ? -EINPROGRESS : -ETIMEDOUT, &err);
}

void pnx_pool_op_poll(struct pnx_pool_op *op) {
    if (!op)
        return;
    struct pnx_slot *slot = slot_of(op);
    struct pnx_pool *pool = slot->pool;
    if (!pool->manager.poll)
        return;
    pnx__pool_lock(pool);
    bool begun = begin_locked(slot);
    if (begun)
        pool->refs++;
    pnx__mutex_unlock(&pool->lock);
    if (!begun)
        return;
    poll_begun(slot);
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
        bool late = (slot->flags & PNX__POOL_OP) && pool->core.now >= slot->op.deadline;
        bool tends = late ? pool->manager.cancel != NULL : pool->manager.poll != NULL;
        tends = tends && begin_locked(slot);
        pnx__mutex_unlock(&pool->lock);
        if (tends && late)
            cancel_begun(slot);
        else if (tends)
            poll_begun(slot);
    }
}
