/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/snapshot.h - a value that many read and few replace: a cell with an rc object and its version.
 *
 * EXPERIMENTAL: may change until the release that finishes this part.
 *
 * Readers load the current value and keep it as long as they like; it never changes under them.  Writers
 * replace it as a whole: store, update (copy, edit, publish) or store_if (publish if nobody was first).
 *
 *   P1  A loaded value and its version belong together; versions seen by one thread never go back; each
 *       version is published once.
 *   P2  The cell never hands out its own reference: what it returns is the caller's, and an object that is
 *       in the cell is never unique for anybody.
 *   P3  Writers are one after the other, so that no update is lost; edit and validate run exactly once each.
 *       A write that fails changes nothing.
 *   P4  edit, validate, clone and drop run under no mutex.  A write to the same cell from inside edit or
 *       validate is -EDEADLK, and so is one that closes a circle over several cells and threads; loading is
 *       always allowed.
 *   P5  A waiter misses no final state: pnx_snapshot_wait() returns once the version is newer than its
 *       argument, or at its deadline.  Writers never wait for waiters.
 */
#ifndef PNX_SNAPSHOT_H
#define PNX_SNAPSHOT_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/rc.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_snapshot; /* safe to use from any thread */

/* Decides about a value before it is published; current is NULL for the first one.  Must not change either.
 * Returns 0, or a negative error that the writer gets; err may be filled, never NULL. */
typedef int pnx_snapshot_validate_fn(
        void *ctx, const void *next, const void *current, struct pnx_error *err);

struct pnx_snapshot_opts {
    size_t size;                        /* set by PNX_SNAPSHOT_OPTS */
    const char *name;                   /* copied; default "snapshot" */
    const char *site;                   /* set by PNX_SNAPSHOT_OPTS */
    const struct pnx_env *env;          /* default: the system's */
    struct pnx_registry *registry;      /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;            /* default: the process's; pnx_stats_off() */
    pnx_snapshot_validate_fn *validate; /* default: everything is fine */
    void *ctx;                          /* first argument of validate */
    pnx_ns write_timeout_ns; /* how long a writer waits for the writers before it; default 10 s */
};
#ifndef __cplusplus
#define PNX_SNAPSHOT_OPTS(...) \
    (&(const struct pnx_snapshot_opts){ \
            .size = sizeof(struct pnx_snapshot_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_snapshot_opts pnx_snapshot_opts_init(void) {
    struct pnx_snapshot_opts opts = pnx_snapshot_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Creates a cell that holds initial, an rc object, as version 1.  The cell takes a reference of its own; the
 * caller keeps his.  opts may be NULL.  -EINVAL (err names the field), -E2BIG, -ENOMEM, -ESHUTDOWN or -EBUSY
 * from the registry, or validate's error.
 */
PNX_API PNX_NODISCARD int pnx_snapshot_create(const void *initial,
        const struct pnx_snapshot_opts *opts, struct pnx_error *err,
        struct pnx_snapshot **ret_snapshot);

/* Takes another reference to the cell, for a thread that outlives the creator's. */
PNX_API struct pnx_snapshot *pnx_snapshot_ref(struct pnx_snapshot *snapshot);

/* Lets a reference to the cell go; the last one closes it and lets its value go.  NULL-safe, clears. */
PNX_API void pnx_snapshot_release(struct pnx_snapshot **snapshot);

/*
 * Refuses further writes with -ESHUTDOWN and wakes the waiters; the value can still be loaded.  A write that
 * has begun may still end.  Idempotent; what pnx_registry_shutdown() calls.
 */
PNX_API void pnx_snapshot_close(struct pnx_snapshot *snapshot);

/*
 * Returns the current value with a reference for the caller (pnx_rc_unref() it), never NULL; *ret_version, when
 * given, is its version.  Takes a short lock; any thread, inside edit and validate too.
 */
PNX_API PNX_NODISCARD const void *pnx_snapshot_load(
        struct pnx_snapshot *snapshot, uint64_t *ret_version);

/* Returns the current version.  A load that follows gives this one or a newer one. */
PNX_API uint64_t pnx_snapshot_version(const struct pnx_snapshot *snapshot);

/*
 * Publishes a value, of which the cell takes a reference of its own.  Waits for writers before it.
 * ret_version may be NULL.  -EINVAL for NULL, -EDEADLK (P4), -ETIMEDOUT after write_timeout_ns, -ESHUTDOWN,
 * -ENOMEM, or validate's error.
 */
PNX_API int pnx_snapshot_store(struct pnx_snapshot *snapshot, const void *value,
        struct pnx_error *err, uint64_t *ret_version);

/* Publishes a value if the version is still the expected one; else PNX_E_CONFLICT.  Otherwise as store. */
PNX_API PNX_NODISCARD int pnx_snapshot_store_if(struct pnx_snapshot *snapshot, uint64_t expected,
        const void *value, struct pnx_error *err, uint64_t *ret_version);

/*
 * Clones the current value, calls edit once on the copy, validates and publishes it.  The shortest way to
 * change a part of a value, and the one that loses no other's change.  Errors as store, and as
 * pnx_rc_clone(), or edit's own.
 */
PNX_API PNX_NODISCARD int pnx_snapshot_update(struct pnx_snapshot *snapshot, pnx_rc_edit_fn *edit,
        void *ctx, struct pnx_error *err, uint64_t *ret_version);

/*
 * Waits until the version is newer than seen; then load.  0 at once if it is already.  -ETIMEDOUT,
 * -ESHUTDOWN once closed (unless a newer version is there), -EINVAL for a negative timeout.
 */
PNX_API PNX_NODISCARD int pnx_snapshot_wait(
        struct pnx_snapshot *snapshot, uint64_t seen, pnx_ns timeout);

/* The rows of patinox/stats/snapshot.def. */
struct pnx_snapshot_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/snapshot.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_snapshot_read_stats(
        const struct pnx_snapshot *snapshot, struct pnx_snapshot_stats *ret_stats);

PNX_END_DECLS
#endif /* PNX_SNAPSHOT_H */
