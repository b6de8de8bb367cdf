/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/snapshot.c - a cell with an rc value and its version.
 *
 * Sits on rc and the latch.  A short mutex guards the pair {value, version}: a load takes its reference under
 * it, so that the cell's own reference cannot go in between.  Writers queue at the latch, under which the
 * user's functions run; the mutex is taken only to exchange the pair.
 *
 *     OPEN --close--> CLOSED (loads go on, writes and waits end with -ESHUTDOWN)
 *
 * Guarantees P1..P5 stand in patinox/snapshot.h.  Conservation: version == 1 + stores + updates.
 */
#include "base/options.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "share/callback.h"
#include "share/check.h"
#include "share/latch.h"
#include "share/rc.h"
#include "share/wait.h"

#include <patinox/snapshot.h>

#include <assert.h>
#include <string.h>

#define PNX_GROUP     snapshot
#define PNX_GROUP_DEF <patinox/stats/snapshot.def>
#include "stats/declare_group.inc"

#define MAGIC UINT32_C(0x736e6170)

/* Owned by its references.  Fixed at creation but for the groups that say otherwise. */
struct pnx_snapshot {
    uint32_t magic;
    struct pnx_a32 references;
    struct pnx_env env;
    struct pnx_registry *registry; /* a reference of ours; NULL when off */
    pnx_resource_id id;
    char *name;
    pnx_snapshot_validate_fn *validate;
    void *ctx;
    pnx_ns write_timeout_ns;
    struct pnx_stats_block block;

    struct pnx_latch writer; /* held while a writer runs */

    struct pnx_mutex lock;  /* guards what follows, version and changes as written */
    const void *value;      /* a reference of ours; never NULL */
    struct pnx_a64 version; /* read anywhere */
    struct pnx_a32
            changes; /* futex word of waiters: one more at each publication and at the close */
    bool closed;
    struct pnx_snapshot_values values; /* read anywhere */
};

static const struct pnx_opt option_rows[] = {
#define PNX_OPTION(...) PNX_OPT_ROW(struct pnx_snapshot_opts, __VA_ARGS__)
#include "share/snapshot_opts.def"
#undef PNX_OPTION
};
static const struct pnx_opt_table options = {"snapshot", sizeof(struct pnx_snapshot_opts),
        option_rows, sizeof(option_rows) / sizeof(option_rows[0])};
static_assert(
        sizeof(struct pnx_snapshot_opts) == 2 * sizeof(size_t) + 7 * sizeof(void *), "no padding");

static void check(const struct pnx_snapshot *snapshot) {
    (void)snapshot;
#ifdef PNX_DEBUG
    PNX_DEBUG_CHECK(snapshot->magic == MAGIC);
    PNX_DEBUG_CHECK(pnx_load(&snapshot->references, PNX_RELAXED, "snapshot.debug") != 0);
#endif
}

static void check_locked(const struct pnx_snapshot *snapshot) {
    (void)snapshot;
#ifdef PNX_DEBUG
    pnx__mutex_assert_held(&snapshot->lock);
    const struct pnx_snapshot_values *values = &snapshot->values;
    uint64_t version = pnx_load(&snapshot->version, PNX_RELAXED, "snapshot.debug_version");
    PNX_DEBUG_CHECK(snapshot->value);
    PNX_DEBUG_CHECK(version == pnx_load(&values->version, PNX_RELAXED, "snapshot.debug_gauge"));
    PNX_DEBUG_CHECK(
            version == 1 + pnx_load(&values->stores, PNX_RELAXED, "snapshot.debug_stores") +
                               pnx_load(&values->updates, PNX_RELAXED, "snapshot.debug_updates"));
#endif
}

/* ---- making and ending ---- */

/* Adds to a counter from outside the lock. */
static void count(struct pnx_snapshot *snapshot, struct pnx_a64 *counter) {
    pnx__mutex_lock(&snapshot->lock);
    pnx_owner_add(counter, 1);
    pnx__mutex_unlock(&snapshot->lock);
}

static int run_validate(struct pnx_snapshot *snapshot, const void *next, const void *current,
        struct pnx_error *err) {
    if (!snapshot->validate)
        return 0;
    struct pnx_error said = {0};
    pnx__mutex_assert_none_held();
    int rc = pnx__callback_code(snapshot->validate(snapshot->ctx, next, current, &said));
    return rc ? pnx__callback_fail(err, rc, &said, "validate", snapshot->name) : 0;
}

static void free_snapshot(struct pnx_snapshot *snapshot) {
    struct pnx_env env = snapshot->env;
    pnx__stats_remove(&snapshot->block);
    pnx__mutex_destroy(&snapshot->lock);
    pnx__strfree(&env, snapshot->name);
    pnx_rc_unref(snapshot->value);
    snapshot->magic = 0;
    pnx__free(&env, snapshot, 1, sizeof(*snapshot));
}

static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_snapshot_close(arg);
    return 0;
}

static int add_row(struct pnx_snapshot *snapshot, const struct pnx_snapshot_opts *opts,
        struct pnx_error *err) {
    if (opts->registry == pnx_registry_off())
        return 0;
    struct pnx_resource resource = {
            .size = sizeof(resource),
            .type = "snapshot",
            .name = snapshot->name,
            .site = opts->site,
            .cleanup = cleanup,
            .arg = snapshot,
            .bytes = sizeof(*snapshot) + pnx_rc_size(snapshot->value),
    };
    struct pnx_registry *registry = pnx_registry_ref(opts->registry);
    int rc = pnx_registry_add(registry, &resource, err, &snapshot->id);
    if (rc)
        pnx_registry_release(&registry);
    else
        snapshot->registry = registry;
    return rc;
}

int pnx_snapshot_create(const void *initial, const struct pnx_snapshot_opts *user,
        struct pnx_error *err, struct pnx_snapshot **ret_snapshot) {
    struct pnx_snapshot_opts opts;
    struct pnx_env env;
    int rc = pnx__opts_resolve(&options, user, &opts, err);
    if (rc == 0)
        rc = pnx__env_resolve(opts.env, err, &env);
    if (rc)
        return rc;
    if (!initial || !ret_snapshot)
        return pnx__fail_field(err, -EINVAL, initial ? "ret_snapshot" : "initial",
                "snapshot: %s is NULL", initial ? "ret_snapshot" : "initial");
    struct pnx_snapshot *snapshot = pnx__alloc(&env, 1, sizeof(*snapshot));
    if (!snapshot)
        return pnx__fail(err, -ENOMEM, 0, "create", "snapshot: out of memory");
    snapshot->magic = MAGIC;
    snapshot->env = env;
    snapshot->validate = opts.validate;
    snapshot->ctx = opts.ctx;
    snapshot->write_timeout_ns = opts.write_timeout_ns;
    pnx__mutex_init(&snapshot->lock, PNX_RANK_SNAPSHOT);
    pnx_store(&snapshot->references, 1, PNX_RELAXED, "snapshot.create"); /* nobody else knows it */
    pnx_store(&snapshot->version, 1, PNX_RELAXED, "snapshot.first");
    pnx_owner_add(&snapshot->values.version, 1);
    snapshot->value = pnx_rc_ref(initial);
    snapshot->name = pnx__strdup(&env, opts.name ? opts.name : "snapshot");
    rc = snapshot->name ? run_validate(snapshot, initial, NULL, err)
                        : pnx__fail(err, -ENOMEM, 0, "create", "snapshot: out of memory");
    if (rc)
        goto fail;
    pnx__snapshot_stats_init(&snapshot->block, snapshot->name, &snapshot->values, NULL);
    pnx__stats_add(opts.stats, &snapshot->block);
    rc = add_row(snapshot, &opts, err);
    if (rc)
        goto fail;
    *ret_snapshot = snapshot;
    return 0;
fail:
    free_snapshot(snapshot);
    return rc;
}

struct pnx_snapshot *pnx_snapshot_ref(struct pnx_snapshot *snapshot) {
    if (!snapshot)
        return NULL;
    check(snapshot);
    pnx_fetch_add(&snapshot->references, 1, PNX_RELAXED, "snapshot.ref"); /* the caller holds one */
    return snapshot;
}

void pnx_snapshot_release(struct pnx_snapshot **handle) {
    if (!handle || !*handle)
        return;
    struct pnx_snapshot *snapshot = *handle;
    *handle = NULL;
    check(snapshot);
    /* acq_rel: pairs with itself; all that other holders did comes before the freeing */
    if (pnx_fetch_sub(&snapshot->references, 1, PNX_ACQ_REL, "snapshot.release") != 1)
        return;
    if (snapshot->registry) {
        (void)pnx_registry_remove(
                snapshot->registry, snapshot->id); /* waits for a running cleanup */
        pnx_registry_release(&snapshot->registry);
    }
    free_snapshot(snapshot);
}

void pnx_snapshot_close(struct pnx_snapshot *snapshot) {
    if (!snapshot)
        return;
    pnx__mutex_lock(&snapshot->lock);
    snapshot->closed = true;
    pnx_fetch_add(&snapshot->changes, 1, PNX_RELAXED, "snapshot.close"); /* the lock orders it */
    pnx__mutex_unlock(&snapshot->lock);
    pnx__futex_wake(&snapshot->changes, UINT32_MAX);
}

/* ---- reading ---- */

const void *pnx_snapshot_load(struct pnx_snapshot *snapshot, uint64_t *ret_version) {
    check(snapshot);
    pnx__mutex_lock(&snapshot->lock);
    const void *value = snapshot->value;
    uint64_t version = pnx_load(&snapshot->version, PNX_RELAXED, "snapshot.load"); /* the lock */
    bool saturated = pnx__rc_ref_silent(value);
    pnx__mutex_unlock(&snapshot->lock);
    if (saturated)
        pnx__rc_report(value);
    if (ret_version)
        *ret_version = version;
    return value;
}

uint64_t pnx_snapshot_version(const struct pnx_snapshot *snapshot) {
    check(snapshot);
    /* acquire: pairs with snapshot.publish; who sees a version sees what its writer did before */
    return pnx_load(&snapshot->version, PNX_ACQUIRE, "snapshot.version");
}

int pnx_snapshot_wait(struct pnx_snapshot *snapshot, uint64_t seen, pnx_ns timeout) {
    check(snapshot);
    int rc = pnx__timeout(timeout, PNX_NEVER, NULL, &timeout);
    if (rc)
        return rc;
    pnx_ns deadline = timeout ? pnx__deadline(pnx__now(&snapshot->env), timeout) : 0;
    bool slept = false;
    for (;;) {
        pnx__mutex_lock(&snapshot->lock);
        bool newer = pnx_load(&snapshot->version, PNX_RELAXED, "snapshot.newer") > seen;
        bool closed = snapshot->closed;
        uint32_t changes =
                pnx_load(&snapshot->changes, PNX_RELAXED, "snapshot.wait"); /* the lock */
        if (slept)
            pnx_owner_add(&snapshot->values.waiters, (uint64_t)-1);
        bool sleeps = !newer && !closed && timeout != 0 && rc == 0;
        if (sleeps) {
            pnx_owner_add(&snapshot->values.waiters, 1);
            if (!slept)
                pnx_owner_add(&snapshot->values.waits, 1);
        }
        pnx__mutex_unlock(&snapshot->lock);
        if (newer)
            return 0;
        if (closed)
            return -ESHUTDOWN;
        if (!sleeps)
            return -ETIMEDOUT;
        slept = true;
        rc = pnx__wait(&snapshot->changes, changes, &snapshot->env, deadline);
    }
}

/* ---- writing ---- */

/* Becomes the cell's writer. */
static int write_begin(struct pnx_snapshot *snapshot, struct pnx_error *err) {
    check(snapshot);
    pnx_ns deadline = pnx__deadline(pnx__now(&snapshot->env), snapshot->write_timeout_ns);
    int rc = pnx__latch_acquire(&snapshot->writer, &snapshot->env, deadline);
    if (rc == -EDEADLK) {
        count(snapshot, &snapshot->values.deadlocks);
        return pnx__fail(err, rc, 0, "wait",
                "%s: a write from inside edit or validate, or one that its own writer waits for",
                snapshot->name);
    }
    if (rc == -ETIMEDOUT) {
        count(snapshot, &snapshot->values.write_timeouts);
        return pnx__fail(
                err, rc, 0, "wait", "%s: an earlier writer did not end in time", snapshot->name);
    }
    if (rc)
        return pnx__fail(err, rc, 0, "wait", "%s: out of memory", snapshot->name);
    pnx__mutex_lock(&snapshot->lock);
    check_locked(snapshot);
    bool closed = snapshot->closed;
    pnx__mutex_unlock(&snapshot->lock);
    if (!closed)
        return 0;
    pnx__latch_release(&snapshot->writer);
    return pnx__fail(err, -ESHUTDOWN, 0, "wait", "%s: closed", snapshot->name);
}

/*
 * Exchanges the value, whose reference passes to the cell, and ends the write; returns the old one, whose
 * reference passes to the caller, to be let go when no latch is held: its drop may want to write here.
 */
static const void *publish(struct pnx_snapshot *snapshot, const void *value,
        struct pnx_a64 *counter, uint64_t *ret_version) {
    pnx__mutex_lock(&snapshot->lock);
    const void *old = snapshot->value;
    uint64_t version =
            pnx_load(&snapshot->version, PNX_RELAXED, "snapshot.next") + 1; /* the lock */
    snapshot->value = value;
    pnx_store(&snapshot->version, version, PNX_RELEASE, "snapshot.publish"); /* snapshot.version */
    pnx_fetch_add(&snapshot->changes, 1, PNX_RELAXED, "snapshot.changes"); /* the lock orders it */
    pnx_owner_add(&snapshot->values.version, 1);
    pnx_owner_add(counter, 1);
    bool waited = pnx_load(&snapshot->values.waiters, PNX_RELAXED, "snapshot.waiters") != 0;
    check_locked(snapshot);
    pnx__mutex_unlock(&snapshot->lock);
    pnx__latch_release(&snapshot->writer);
    if (waited)
        pnx__futex_wake(&snapshot->changes, UINT32_MAX);
    if (ret_version)
        *ret_version = version;
    return old;
}

/* Ends a write that failed, with nothing changed. */
static int write_abort(struct pnx_snapshot *snapshot, struct pnx_a64 *counter, int rc) {
    count(snapshot, counter);
    pnx__latch_release(&snapshot->writer);
    return rc;
}

static int store_locked_out(struct pnx_snapshot *snapshot, const uint64_t *expected,
        const void *value, struct pnx_error *err, uint64_t *ret_version) {
    struct pnx_snapshot_values *values = &snapshot->values;
    int rc = write_begin(snapshot, err);
    if (rc)
        return rc;
    uint64_t version;
    const void *current =
            pnx_snapshot_load(snapshot, &version); /* stays current: we are the writer */
    if (expected && version != *expected) {
        rc = pnx__fail(err, PNX_E_CONFLICT, 0, "publish",
                "%s: the version is %llu, not %llu any more", snapshot->name,
                (unsigned long long)version, (unsigned long long)*expected);
        rc = write_abort(snapshot, &values->conflicts, rc);
    } else {
        rc = run_validate(snapshot, value, current, err);
        if (rc)
            rc = write_abort(snapshot, &values->refusals, rc);
        else
            pnx_rc_unref(publish(snapshot, pnx_rc_ref(value), &values->stores, ret_version));
    }
    pnx_rc_unref(current);
    return rc;
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
    int rc = check_value(snapshot, value, "value", err);
    return rc ? rc : store_locked_out(snapshot, NULL, value, err, ret_version);
}

int pnx_snapshot_store_if(struct pnx_snapshot *snapshot, uint64_t expected, const void *value,
        struct pnx_error *err, uint64_t *ret_version) {
    int rc = check_value(snapshot, value, "value", err);
    return rc ? rc : store_locked_out(snapshot, &expected, value, err, ret_version);
}

/* Makes the edited and validated copy of the current value. */
static int edit_copy(struct pnx_snapshot *snapshot, const void *current, pnx_rc_edit_fn *edit,
        void *ctx, struct pnx_error *err, void **ret_copy) {
    void *copy = NULL;
    int rc = pnx_rc_clone(current, &copy);
    if (rc)
        return pnx__callback_fail(err, rc, NULL, "clone", snapshot->name);
    count(snapshot, &snapshot->values.copies);
    pnx__mutex_assert_none_held();
    rc = pnx__callback_code(edit(ctx, copy));
    if (rc)
        (void)pnx__callback_fail(err, rc, NULL, "edit", snapshot->name);
    else
        rc = run_validate(snapshot, copy, current, err);
    if (rc)
        pnx_rc_unref(copy);
    else
        *ret_copy = copy;
    return rc;
}

int pnx_snapshot_update(struct pnx_snapshot *snapshot, pnx_rc_edit_fn *edit, void *ctx,
        struct pnx_error *err, uint64_t *ret_version) {
    if (!snapshot || !edit)
        return pnx__fail_field(err, -EINVAL, snapshot ? "edit" : "snapshot", "snapshot: %s is NULL",
                snapshot ? "edit" : "snapshot");
    int rc = write_begin(snapshot, err);
    if (rc)
        return rc;
    struct pnx_snapshot_values *values = &snapshot->values;
    const void *current = pnx_snapshot_load(snapshot, NULL);
    void *copy = NULL;
    rc = edit_copy(snapshot, current, edit, ctx, err, &copy);
    if (rc)
        rc = write_abort(snapshot, &values->refusals, rc);
    else
        pnx_rc_unref(publish(snapshot, copy, &values->updates, ret_version));
    pnx_rc_unref(current);
    return rc;
}

int pnx_snapshot_read_stats(
        const struct pnx_snapshot *snapshot, struct pnx_snapshot_stats *ret_stats) {
    struct pnx_snapshot_stats stats = {0};
    if (!snapshot || !ret_stats || ret_stats->size < sizeof(size_t))
        return -EINVAL;
    size_t size = ret_stats->size < sizeof(stats) ? ret_stats->size : sizeof(stats);
    check(snapshot);
    static_assert(sizeof(stats) == sizeof(size_t) + sizeof(snapshot->values), "one row, one word");
    pnx__stats_read(&snapshot->block, &stats.version);
    stats.size = size;
    memcpy(ret_stats, &stats, size);
    return 0;
}
