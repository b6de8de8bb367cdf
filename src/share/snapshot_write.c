/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/snapshot_write.c - replacing a snapshot's value, and going back to an older one.
 *
 * Writers queue at the cell's latch, under which the user's functions run.  Its owner alone changes head.node and
 * the history, so it may read both as they are.  The order of a write:
 *
 *     latch | closed?  expected?  node  edit  validate | publish | latch free | wake, retire the old, assist, tell
 *             what can fail, with nothing changed        one store              what may call drops and watches
 *
 * Guarantees P1..P7 stand in patinox/snapshot.h; P3, P4 and P7 are kept here.
 */
#include "os/thread.h"
#include "share/callback.h"
#include "share/check.h"
#include "share/rc.h"
#include "share/reclaim.h"
#include "share/snapshot.h"

#include <string.h>

/* Adds to a counter that several threads may add to at once. */
static void count(struct pnx_a64 *counter) {
    pnx_fetch_add(counter, 1, PNX_RELAXED, "snapshot.statistic"); /* nothing is decided by it */
}

static void check_writer(const struct pnx_snapshot *snapshot) {
    (void)snapshot;
#ifdef PNX_DEBUG
    const struct pnx_snapshot_values *values = &snapshot->values;
    const struct pnx_snapshot_node *node = pnx__snapshot_current(snapshot);
    PNX_DEBUG_CHECK(pnx__latch_mine(&snapshot->writer));
    PNX_DEBUG_CHECK(node->shown.value);
    PNX_DEBUG_CHECK(node->shown.version ==
                    1 + pnx_load(&values->stores, PNX_RELAXED, "snapshot.debug_stores") +
                            pnx_load(&values->updates, PNX_RELAXED, "snapshot.debug_updates") +
                            pnx_load(&values->rollbacks, PNX_RELAXED, "snapshot.debug_rollbacks"));
#endif
}

static int refuse(struct pnx_snapshot *snapshot, int rc, struct pnx_error *err, const char *why) {
    struct pnx_snapshot_values *values = &snapshot->values;
    if (rc == -EDEADLK) {
        count(&values->deadlocks);
        pnx__event(&snapshot->block, PNX_EVENT_SNAPSHOT_DEADLOCK, snapshot->name, rc, NULL, 0, 0);
    } else if (rc == -ETIMEDOUT) {
        count(&values->write_timeouts);
    }
    return pnx__fail(err, rc, 0, "wait", "%s: %s", snapshot->name, why);
}

/* Waits for the writers before it. */
static int wait_for_turn(struct pnx_snapshot *snapshot, struct pnx_error *err) {
    if (pnx__reclaim_in_any()) /* a writer before it may be waiting for the section's end */
        return refuse(snapshot, -EDEADLK, err,
                "a write inside a section, while another writer is at work");
    pnx_ns deadline = pnx__deadline(pnx__now(&snapshot->env), snapshot->write_timeout_ns);
    int rc = pnx__latch_acquire(&snapshot->writer, &snapshot->env, deadline);
    return rc == -ETIMEDOUT ? refuse(snapshot, rc, err, "an earlier writer did not end in time")
           : rc             ? refuse(snapshot, rc, err, "one that its own writer waits for")
                            : 0;
}

/* Becomes the cell's writer. */
static int write_begin(struct pnx_snapshot *snapshot, struct pnx_error *err) {
    struct pnx_thread *self = pnx__thread();
    if (!self)
        return refuse(snapshot, -ENOMEM, err, "out of memory");
    int rc = pnx__latch_try(&snapshot->writer, self);
    if (rc == -EDEADLK)
        return refuse(snapshot, rc, err, "a write from inside edit or validate");
    if (rc)
        rc = wait_for_turn(snapshot, err);
    if (rc)
        return rc;
    check_writer(snapshot);
    /* acquire: pairs with snapshot.close */
    uint32_t changes = pnx_load(&snapshot->changes, PNX_ACQUIRE, "snapshot.write");
    if (!(changes & PNX_SNAPSHOT_CLOSED))
        return 0;
    pnx__latch_release(&snapshot->writer);
    return pnx__fail(err, -ESHUTDOWN, 0, "wait", "%s: closed", snapshot->name);
}

/* Ends a write that failed, with nothing changed. */
static int write_abort(struct pnx_snapshot *snapshot, struct pnx_a64 *counter, int rc) {
    pnx_owner_add(counter, 1);
    uint64_t version = pnx__snapshot_current(snapshot)->shown.version;
    pnx__latch_release(&snapshot->writer);
    if (counter == &snapshot->values.refusals)
        pnx__event(&snapshot->block, PNX_EVENT_SNAPSHOT_REFUSED, snapshot->name, rc, NULL,
                (int64_t)version, 0);
    return rc;
}

/* Puts a node that was replaced into the history.  Returns the one that has no place there any more. */
static struct pnx_snapshot_node *remember_locked(
        struct pnx_snapshot *snapshot, struct pnx_snapshot_node *node) {
    struct pnx_snapshot_node **place = &snapshot->past[snapshot->past_next];
    struct pnx_snapshot_node *forgotten = NULL;
    if (snapshot->past_count == snapshot->history_depth)
        forgotten = *place;
    else
        snapshot->past_count++;
    *place = node;
    snapshot->past_next = (snapshot->past_next + 1) % snapshot->history_depth;
    return forgotten;
}

static void show(struct pnx_snapshot *snapshot, struct pnx_snapshot_node *node) {
    /* release: pairs with snapshot.peek and snapshot.refresh */
    pnx_store(&snapshot->head.node, &node->shown, PNX_RELEASE, "snapshot.publish");
}

/*
 * Publishes value, of which node gets a reference that the caller gives up, and ends the write: nothing can
 * fail any more.
 */
static void publish(struct pnx_snapshot *snapshot, struct pnx_snapshot_node *node,
        const void *value, struct pnx_a64 *counter, uint64_t *ret_version) {
    struct pnx_snapshot_node *old = pnx__snapshot_current(snapshot);
    uint64_t version = old->shown.version + 1;
    node->shown = (struct pnx_snapshot_node_){value, version};
    pnx_store(&node->pins, 1, PNX_RELAXED, "snapshot.new_pin"); /* snapshot.publish publishes it */
    if (snapshot->history_depth) {
        /* Under the lock, so that a version is always found: here, or in the history. */
        node->real_ns = snapshot->env.real_ns(snapshot->env.ctx);
        pnx__mutex_lock(&snapshot->lock);
        show(snapshot, node);
        old = remember_locked(snapshot, old);
        pnx__mutex_unlock(&snapshot->lock);
    } else {
        show(snapshot, node);
    }
    pnx_owner_add(&snapshot->values.version, 1);
    pnx_owner_add(counter, 1);
    check_writer(snapshot);
    pnx__latch_release(&snapshot->writer);
    /* release: pairs with snapshot.wait, which then finds the version */
    uint32_t changes =
            pnx_fetch_add(&snapshot->changes, PNX_SNAPSHOT_STEP, PNX_RELEASE, "snapshot.changes");
    if (ret_version)
        *ret_version = version;
    pnx__snapshot_wake(snapshot, changes);
    if (old)
        pnx__snapshot_node_retire(old);
    /* A drop may let go of the cell, and a callback too: it is used no more after the last of them. */
    bool watched = changes & PNX_SNAPSHOT_WATCHED;
    PNX_CLEANUP(pnx_snapshot_release)
    struct pnx_snapshot *cell = watched ? pnx_snapshot_ref(snapshot) : NULL;
    pnx__snapshot_assist(snapshot);
    if (watched)
        pnx__watches_notify(cell);
}

static void return_node(struct pnx_snapshot_node **node) {
    if (*node)
        pnx__snapshot_node_return(*node);
}

/* Makes a node for a value that is about to be published, and asks validate about it. */
static int prepare(struct pnx_snapshot *snapshot, const void *value, struct pnx_error *err,
        struct pnx_snapshot_node **ret_node) {
    /* Goes also when validate ends its thread. */
    PNX_CLEANUP(return_node) struct pnx_snapshot_node *node = pnx__snapshot_node_new(snapshot);
    if (!node)
        return pnx__fail(err, -ENOMEM, 0, "publish", "%s: out of memory", snapshot->name);
    node->restores = 0;
    const void *current =
            pnx__snapshot_current(snapshot)->shown.value; /* stays: we are the writer */
    int rc = pnx__snapshot_validate(snapshot, value, current, err);
    if (rc)
        return rc;
    *ret_node = node;
    node = NULL;
    return 0;
}

/* Publishes value, of which it takes a reference, or with gives the caller's over. */
static int store(struct pnx_snapshot *snapshot, const uint64_t *expected, const void *value,
        bool gives, struct pnx_error *err, uint64_t *ret_version) {
    struct pnx_snapshot_values *values = &snapshot->values;
    int rc = write_begin(snapshot, err);
    if (rc)
        return rc;
    uint64_t version = pnx__snapshot_current(snapshot)->shown.version;
    if (expected && version != *expected) {
        rc = pnx__fail(err, PNX_E_CONFLICT, 0, "publish",
                "%s: the version is %llu, not %llu any more", snapshot->name,
                (unsigned long long)version, (unsigned long long)*expected);
        return write_abort(snapshot, &values->conflicts, rc);
    }
    struct pnx_snapshot_node *node = NULL;
    rc = prepare(snapshot, value, err, &node);
    if (rc)
        return write_abort(snapshot, &values->refusals, rc);
    if (!gives)
        (void)pnx_rc_ref(value);
    publish(snapshot, node, value, &values->stores, ret_version);
    return 0;
}

static int check_value(const struct pnx_snapshot *snapshot, const void *value, const char *field,
        struct pnx_error *err) {
    if (snapshot && value)
        return 0;
    return pnx__fail_field(err, -EINVAL, snapshot ? field : "snapshot", "snapshot: %s is NULL",
            snapshot ? field : "snapshot");
}

int pnx_snapshot_store(struct pnx_snapshot *snapshot, const void *value, struct pnx_error *err,
        uint64_t *ret_version) {
    pnx__snapshot_expect(snapshot);
    int rc = check_value(snapshot, value, "value", err);
    return rc ? rc : store(snapshot, NULL, value, false, err, ret_version);
}

int pnx_snapshot_give(
        struct pnx_snapshot *snapshot, void **value, struct pnx_error *err, uint64_t *ret_version) {
    void *given = value ? *value : NULL;
    pnx__snapshot_expect(snapshot);
    int rc = check_value(snapshot, given, "value", err);
    if (rc)
        return rc;
    *value = NULL; /* before a watch, or a drop, can look at it */
    rc = store(snapshot, NULL, given, true, err, ret_version);
    if (rc)
        *value = given;
    return rc;
}

int pnx_snapshot_store_if(struct pnx_snapshot *snapshot, uint64_t expected, const void *value,
        struct pnx_error *err, uint64_t *ret_version) {
    pnx__snapshot_expect(snapshot);
    int rc = check_value(snapshot, value, "value", err);
    return rc ? rc : store(snapshot, &expected, value, false, err, ret_version);
}

/* Makes the edited copy of the current value. */
static int edit_copy(struct pnx_snapshot *snapshot, pnx_rc_edit_fn *edit, void *ctx,
        struct pnx_error *err, void **ret_copy) {
    PNX_AUTO_RC void *copy = NULL; /* goes also when edit ends its thread */
    int rc = pnx_rc_clone(pnx__snapshot_current(snapshot)->shown.value, &copy);
    if (rc)
        return pnx__callback_fail(err, rc, NULL, "clone", snapshot->name);
    pnx_owner_add(&snapshot->values.copies, 1);
    pnx__mutex_assert_none_held();
    rc = pnx__callback_code(edit(ctx, copy));
    if (rc)
        return pnx__callback_fail(err, rc, NULL, "edit", snapshot->name);
    *ret_copy = copy;
    copy = NULL;
    return 0;
}

int pnx_snapshot_update(struct pnx_snapshot *snapshot, pnx_rc_edit_fn *edit, void *ctx,
        struct pnx_error *err, uint64_t *ret_version) {
    if (!snapshot || !edit)
        return pnx__fail_field(err, -EINVAL, snapshot ? "edit" : "snapshot", "snapshot: %s is NULL",
                snapshot ? "edit" : "snapshot");
    pnx__snapshot_expect(snapshot);
    int rc = write_begin(snapshot, err);
    if (rc)
        return rc;
    struct pnx_snapshot_values *values = &snapshot->values;
    struct pnx_snapshot_node *node = NULL;
    PNX_AUTO_RC void *copy = NULL; /* goes when no latch is held: its drop may want to write here */
    rc = edit_copy(snapshot, edit, ctx, err, &copy);
    if (rc == 0)
        rc = prepare(snapshot, copy, err, &node);
    if (rc)
        return write_abort(snapshot, &values->refusals, rc);
    const void *edited = copy;
    copy = NULL;
    publish(snapshot, node, edited, &values->updates, ret_version);
    return 0;
}

/* ---- history ---- */

/* The i-th older version, newest first. */
static struct pnx_snapshot_node *past_at(const struct pnx_snapshot *snapshot, uint32_t i) {
    uint32_t depth = snapshot->history_depth;
    return snapshot->past[(snapshot->past_next + depth - 1 - i) % depth];
}

/* For the writer, or under the lock. */
static struct pnx_snapshot_node *find_past(const struct pnx_snapshot *snapshot, uint64_t version) {
    for (uint32_t i = 0; i < snapshot->past_count; i++) {
        struct pnx_snapshot_node *node = past_at(snapshot, i);
        if (node->shown.version == version)
            return node;
    }
    return NULL;
}

int pnx_snapshot_history(struct pnx_snapshot *snapshot, struct pnx_snapshot_past *ret_past,
        size_t max, size_t *ret_count) {
    if (!snapshot || !ret_count || (max && !ret_past))
        return -EINVAL;
    pnx__snapshot_expect(snapshot);
    pnx__mutex_lock(&snapshot->lock);
    for (uint32_t i = 0; i < snapshot->past_count && i < max; i++) {
        const struct pnx_snapshot_node *node = past_at(snapshot, i);
        ret_past[i] =
                (struct pnx_snapshot_past){node->shown.version, node->restores, node->real_ns};
    }
    *ret_count = snapshot->past_count;
    pnx__mutex_unlock(&snapshot->lock);
    return 0;
}

int pnx_snapshot_load_past(
        struct pnx_snapshot *snapshot, uint64_t version, const void **ret_value) {
    if (!snapshot || !ret_value)
        return -EINVAL;
    pnx__snapshot_expect(snapshot);
    uint64_t current;
    const void *value = pnx_snapshot_load(snapshot, &current);
    if (current == version) {
        *ret_value = value;
        return 0;
    }
    pnx_rc_unref(value);
    bool saturated = false;
    pnx__mutex_lock(&snapshot->lock);
    const struct pnx_snapshot_node *node = find_past(snapshot, version);
    if (node) {
        value = node->shown.value;
        saturated = pnx__rc_ref_silent(value);
    }
    pnx__mutex_unlock(&snapshot->lock);
    if (!node)
        return -ENOENT;
    if (saturated)
        pnx__rc_report(value);
    *ret_value = value;
    return 0;
}

static int find_to_restore(struct pnx_snapshot *snapshot, uint64_t version, struct pnx_error *err,
        struct pnx_snapshot_node **ret_past) {
    if (pnx__snapshot_current(snapshot)->shown.version == version)
        return pnx__fail(err, -EALREADY, 0, "publish", "%s: version %llu is the current one",
                snapshot->name, (unsigned long long)version);
    *ret_past = find_past(snapshot, version);
    if (*ret_past)
        return 0;
    return pnx__fail(err, -ENOENT, 0, "publish", "%s: the history does not keep version %llu",
            snapshot->name, (unsigned long long)version);
}

int pnx_snapshot_rollback(struct pnx_snapshot *snapshot, uint64_t version, struct pnx_error *err,
        uint64_t *ret_version) {
    if (!snapshot)
        return pnx__fail_field(err, -EINVAL, "snapshot", "snapshot: snapshot is NULL");
    pnx__snapshot_expect(snapshot);
    int rc = write_begin(snapshot, err);
    if (rc)
        return rc;
    struct pnx_snapshot_values *values = &snapshot->values;
    struct pnx_snapshot_node *past = NULL, *node = NULL;
    rc = find_to_restore(snapshot, version, err, &past);
    if (rc == 0)
        rc = prepare(snapshot, past->shown.value, err, &node);
    if (rc)
        return write_abort(snapshot, &values->refusals, rc);
    node->restores = version;
    struct pnx_snapshot *cell = pnx_snapshot_ref(snapshot); /* a watch may let go of it */
    publish(snapshot, node, pnx_rc_ref(past->shown.value), &values->rollbacks, ret_version);
    pnx__event(
            &cell->block, PNX_EVENT_SNAPSHOT_ROLLED_BACK, cell->name, 0, NULL, (int64_t)version, 0);
    pnx_snapshot_release(&cell);
    return 0;
}
