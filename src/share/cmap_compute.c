/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/cmap_compute.c - functions that run on a key: one at a time, and no other write to the key meanwhile.
 *
 * Who wants to run a function makes a call object for the key, or joins the one that is there, and waits until its
 * latch is his (share/latch.h: with an owner, first come first served, -EDEADLK where the wait would never end).
 * While a call object is on the shard's list, plain writes to its key join it, too: an attempt looks for it under
 * the shard's lock, the same lock under which the function's result is stored.  So between the moment when the
 * function's owner has read the current value and that at which its result is stored, nobody else has written.
 */
#include "share/cmap_table.h"

#include "base/error.h"
#include "share/callback.h"
#include "share/rc.h"
#include "share/reclaim.h"

#include <errno.h>

/* ---- calls ---- */

static bool same_key(const struct pnx_cmap_call *call, const struct pnx_cmap_key *key) {
    return call->word == key->word && call->key_size == key->size &&
           memcmp(call->key, key->bytes, key->size) == 0;
}

struct pnx_cmap_call *pnx__cmap_call_find_locked(
        const struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key) {
    for (struct pnx_link *link = shard->calls.next; link != &shard->calls; link = link->next) {
        struct pnx_cmap_call *call = PNX_CONTAINER(link, struct pnx_cmap_call, link);
        if (same_key(call, key))
            return call;
    }
    return NULL;
}

static size_t call_bytes(uint32_t key_size) {
    return sizeof(struct pnx_cmap_call) + key_size;
}

static void free_call(struct pnx_cmap *map, struct pnx_cmap_call *call) {
    if (call)
        pnx__cmap_free(map, call, call_bytes(call->key_size));
}

/* Lets a reference to a call go; counts why, when code is the failure of a wait. */
static void unref_call(struct pnx_cmap_shard *shard, struct pnx_cmap_call *call, int code) {
    struct pnx_cmap_call *gone = NULL;
    pnx__mutex_lock(&shard->lock);
    if (--call->references == 0) {
        pnx__list_remove(&call->link);
        gone = call;
    }
    if (code == -EDEADLK)
        pnx_owner_add(&shard->counters.deadlocks, 1);
    if (code == -ETIMEDOUT)
        pnx_owner_add(&shard->counters.timeouts, 1);
    pnx__cmap_unlock(shard);
    free_call(shard->map, gone);
}

int pnx__cmap_call_wait(struct pnx_cmap_shard *shard, struct pnx_cmap_call *call) {
    const struct pnx_cmap *map = shard->map;
    int rc = -EDEADLK;
    if (!pnx__reclaim_in_any()) { /* in a section nobody waits: what he waits for may be freeing */
        pnx_ns deadline = pnx__deadline(pnx__now(&map->env), map->wait_timeout_ns);
        rc = pnx__latch_acquire(&call->latch, &map->env, deadline);
    }
    if (rc)
        unref_call(shard, call, rc);
    return rc;
}

void pnx__cmap_call_leave(struct pnx_cmap_shard *shard, struct pnx_cmap_call *call) {
    pnx__latch_release(&call->latch);
    unref_call(shard, call, 0);
}

/* Joins the call on a key, made if there is none; its latch is the caller's then. */
static int enter_call(struct pnx_cmap_shard *shard, const struct pnx_cmap_key *key,
        struct pnx_cmap_call **ret_call) {
    struct pnx_cmap *map = shard->map;
    struct pnx_cmap_call *fresh = pnx__cmap_alloc(map, call_bytes(key->size));
    if (!fresh)
        return -ENOMEM;
    fresh->key_size = key->size;
    fresh->word = key->word;
    if (key->size)
        memcpy(fresh->key, key->bytes, key->size);
    pnx__mutex_lock(&shard->lock);
    bool closed = shard->closed;
    struct pnx_cmap_call *call = closed ? NULL : pnx__cmap_call_find_locked(shard, key);
    if (call)
        pnx_owner_add(&shard->counters.waits, 1);
    if (!call && !closed) {
        call = fresh;
        fresh = NULL;
        pnx__list_push_back(&shard->calls, &call->link);
    }
    if (call)
        call->references++;
    pnx__cmap_unlock(shard);
    free_call(map, fresh);
    if (closed)
        return -ESHUTDOWN;
    int rc = pnx__cmap_call_wait(shard, call);
    if (rc == 0)
        *ret_call = call;
    return rc;
}

/* ---- what both begin and end with ---- */

/* A function's call, from the wait to the store.  On the stack of who waited. */
struct run {
    struct pnx_cmap *map;
    struct pnx_cmap_shard *shard;
    struct pnx_cmap_key key;
    struct pnx_cmap_call *call;
    bool found;
    uint64_t current; /* an rc object: with a reference */
};

static int fail(const struct pnx_cmap *map, struct pnx_error *err, int rc) {
    const char *why = pnx_strerror(rc);
    if (rc == -EDEADLK)
        why = "a write to a key from inside a function on it, or one that it waits for";
    else if (rc == -ETIMEDOUT)
        why = "the function at work on the key did not end in time";
    return pnx__fail(err, rc, 0, "wait", "%.64s: %s", map->name, why);
}

/* Becomes the one who may change the key, and reads it. */
static int begin(struct pnx_cmap *map, const void *key, size_t key_size, struct pnx_error *err,
        struct run *ret_run) {
    struct run run = {.map = map};
    int rc = pnx__cmap_key(map, key, key_size, &run.key);
    if (rc)
        return fail(map, err, rc);
    run.shard = pnx__cmap_shard_of(map, run.key.hash);
    rc = enter_call(run.shard, &run.key, &run.call);
    if (rc)
        return fail(map, err, rc);
    rc = pnx_cmap_get(map, key, key_size, &run.current); /* stays current: nobody else writes it */
    run.found = rc == 0;
    if (rc == -ESHUTDOWN) {
        pnx__cmap_call_leave(run.shard, run.call);
        return fail(map, err, rc);
    }
    *ret_run = run;
    return 0;
}

static void count(struct run *run, int rc) {
    pnx__mutex_lock(&run->shard->lock);
    pnx_owner_add(&run->shard->counters.functions, 1);
    if (rc)
        pnx_owner_add(&run->shard->counters.function_failures, 1);
    pnx__cmap_unlock(run->shard);
}

/* Ends a run with a write, or without one when op is NULL. */
static int finish(struct run *run, struct pnx_cmap_op *op, struct pnx_error *err) {
    struct pnx_cmap *map = run->map;
    int rc = 0;
    if (op) {
        op->key = run->key;
        op->call = run->call;
        op->mine = true;
        rc = pnx__cmap_write(map, op); /* leaves the call */
        if (rc == -ENOENT)
            rc = 0;
        if (rc)
            (void)fail(map, err, rc);
    } else {
        pnx__cmap_call_leave(run->shard, run->call);
        pnx__reclaim_assist(map->domain);
    }
    return rc;
}

static void drop_current(const struct run *run) {
    if (run->found && run->map->rc)
        pnx_rc_unref(pnx_cmap_object(run->current));
}

/*
 * A function that forks returns twice.  In the child nothing but the latch may be touched: the shard's lock may be held by
 * a thread that the child has not.
 */
static bool forked(const struct run *run) {
    return run->map->generation != pnx__fork_generation();
}

/* Ends a run without a write. */
static void leave(struct run *run) {
    if (forked(run))
        pnx__latch_release(&run->call->latch);
    else
        pnx__cmap_call_leave(run->shard, run->call);
    drop_current(run);
}

/* Ends a run whose function has not returned: it ended its thread, or threw. */
static void abandon(struct run *const *running) {
    if (*running)
        leave(*running);
}

static int fail_forked(struct pnx_error *err) {
    return pnx__fail(err, -ESHUTDOWN, 0, "wait", "cmap: a forked child");
}

/* ---- compute ---- */

/* Asks the function.  An action, or a negative error. */
static int decide(struct run *run, pnx_cmap_compute_fn *fn, void *ctx, uint64_t *ret_value) {
    PNX_CLEANUP(abandon) struct run *running = run;
    const uint64_t current = run->current;
    pnx__mutex_assert_none_held();
    int action = fn(ctx, run->found ? &current : NULL, ret_value);
    running = NULL;
    if (action > PNX_CMAP_DROP || (action == PNX_CMAP_STORE && run->map->rc && *ret_value == 0))
        action = -EINVAL;
    return action;
}

int pnx_cmap_compute(struct pnx_cmap *map, const void *key, size_t key_size,
        pnx_cmap_compute_fn *fn, void *ctx, struct pnx_error *err) {
    int rc = pnx__cmap_enter(map);
    if (rc || !fn)
        return rc == -ESHUTDOWN ? fail_forked(err)
                                : pnx__fail(err, -EINVAL, 0, "compute", "cmap: map or fn is NULL");
    struct run run;
    rc = begin(map, key, key_size, err, &run);
    if (rc)
        return rc;
    uint64_t value = 0;
    int action = decide(&run, fn, ctx, &value);
    if (forked(&run)) {
        if (action == PNX_CMAP_STORE && map->rc)
            pnx_rc_unref(pnx_cmap_object(value));
        leave(&run);
        return fail_forked(err);
    }
    count(&run, action < 0 ? action : 0);
    struct pnx_cmap_op op = {.kind = action == PNX_CMAP_DROP ? PNX_CMAP_OP_REMOVE : PNX_CMAP_OP_PUT,
            .value = value,
            .owned = map->rc && action == PNX_CMAP_STORE};
    bool writes = action == PNX_CMAP_STORE || action == PNX_CMAP_DROP;
    rc = finish(&run, writes ? &op : NULL, err);
    drop_current(&run);
    if (action < 0)
        return pnx__callback_fail(err, action, NULL, "compute", map->name);
    return rc;
}

/* ---- get or insert ---- */

/* Has the value made: 0, or a negative error. */
static int call_maker(struct run *run, pnx_cmap_make_fn *make, void *ctx, uint64_t *ret_value) {
    PNX_CLEANUP(abandon) struct run *running = run;
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(make(ctx, ret_value));
    running = NULL;
    return rc == 0 && run->map->rc && *ret_value == 0 ? -EINVAL : rc;
}

int pnx_cmap_get_or_insert_with(struct pnx_cmap *map, const void *key, size_t key_size,
        pnx_cmap_make_fn *make, void *ctx, struct pnx_error *err, uint64_t *ret_value) {
    int rc = pnx__cmap_enter(map);
    if (rc || !make || !ret_value)
        return rc == -ESHUTDOWN
                       ? fail_forked(err)
                       : pnx__fail(err, -EINVAL, 0, "make", "cmap: map, make or ret_value is NULL");
    rc = pnx_cmap_get(map, key, key_size, ret_value);
    if (rc != -ENOENT)
        return rc ? fail(map, err, rc) : 0;
    struct run run;
    rc = begin(map, key, key_size, err, &run);
    if (rc)
        return rc;
    if (run.found) { /* made by another, for which we waited */
        *ret_value = run.current;
        return finish(&run, NULL, err);
    }
    uint64_t value = 0;
    rc = call_maker(&run, make, ctx, &value);
    if (forked(&run)) {
        if (rc == 0 && map->rc)
            pnx_rc_unref(pnx_cmap_object(value));
        leave(&run);
        return fail_forked(err);
    }
    count(&run, rc);
    if (rc) {
        (void)finish(&run, NULL, err);
        return pnx__callback_fail(err, rc, NULL, "make", map->name);
    }
    if (map->rc)
        (void)pnx_rc_ref(pnx_cmap_object(value)); /* the caller's; the maker's passes to the map */
    struct pnx_cmap_op op = {.kind = PNX_CMAP_OP_PUT, .value = value, .owned = map->rc};
    rc = finish(&run, &op, err);
    if (rc == 0)
        *ret_value = value;
    else if (map->rc)
        pnx_rc_unref(pnx_cmap_object(value));
    return rc;
}
