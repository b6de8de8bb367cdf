/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/snapshot.h - a value that many read and few replace: a cell with an rc object and its version.
 *
 * Readers take the current value in one of three ways; none takes a lock or waits for a writer, and what they
 * got never changes under them:
 *   - pnx_snapshot_load(): a reference of their own, to keep over any wait and on any thread;
 *   - pnx_snapshot_peek(): borrowed until the reclaim section ends that they are in;
 *   - struct pnx_snapshot_reader: a handle that keeps the value it saw last: one load when nothing changed.
 * Writers replace the value as a whole: store, update (copy, edit, publish), store_if (publish if nobody was
 * first) or rollback.  Who wants to hear of changes waits here, or opens a watch (patinox/watch.h).
 *
 *   P1  A value and its version belong together; versions seen by one thread never go back, whichever way it
 *       reads; each version is published once.
 *   P2  The cell never hands out its own reference: what it returns is the caller's, and an object that is
 *       in the cell is never unique for anybody.
 *   P3  Writers are one after the other, so that no update is lost; edit and validate run exactly once each.
 *       A write that fails changes nothing.
 *   P4  edit, validate, clone and drop run under no mutex.  A write to the same cell from inside edit or
 *       validate is -EDEADLK, and so is one that closes a circle over several cells and threads, and one that
 *       would have to wait inside a section of any domain, for whose end the writer before it may be waiting; loading
 *       is always allowed.
 *   P5  A waiter misses no final state: pnx_snapshot_wait() returns once the version is newer than its
 *       argument, or at its deadline.  Writers never wait for waiters.
 *   P6  A replaced value is let go when no section can still have borrowed it, no handle keeps it and the
 *       history has forgotten it.  A reader handle keeps at most one old value; a parked one keeps none.
 *   P7  A version that the history keeps can be published again: as a new version, validated like any other.
 */
#ifndef PNX_SNAPSHOT_H
#define PNX_SNAPSHOT_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/rc.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_reclaim;
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
    struct pnx_reclaim *reclaim; /* the domain of peek's sections; default: the process's */
    uint32_t history_depth;      /* older versions kept for rollback, up to 1024; default 0: none */
    uint32_t max_watches;        /* watches open at once, up to 1,000,000; default 1024 */
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

/*
 * Lets a reference to the cell go; the last one closes it and lets its values go: at once, for which it waits at
 * most the domain's assist_ns, unless a section that may have borrowed one stays open in some thread; then, and when
 * called from inside a section, as soon as the domain has seen it end.  NULL-safe, clears.
 */
PNX_API void pnx_snapshot_release(struct pnx_snapshot **snapshot);

/*
 * Refuses further writes with -ESHUTDOWN and wakes the waiters; the value can still be loaded.  A write that
 * has begun may still end.  Idempotent; what pnx_registry_shutdown() calls.
 */
PNX_API void pnx_snapshot_close(struct pnx_snapshot *snapshot);

/* ---- reading ---- */

/*
 * Returns the current value with a reference for the caller (pnx_rc_unref() it); *ret_version, when
 * given, is its version.  NULL gives NULL.  Never blocks; any thread, inside edit and validate too.
 */
PNX_API PNX_NODISCARD const void *pnx_snapshot_load(
        struct pnx_snapshot *snapshot, uint64_t *ret_version);

/*
 * Returns the current value, borrowed: only between pnx_reclaim_enter() and pnx_reclaim_exit() on the cell's
 * domain, and valid until that exit.  pnx_rc_ref() keeps it longer.  Never blocks; an inline load or two.  With PNX_DEBUG,
 * a peek outside of such a section aborts, and says so.
 */
PNX_NODISCARD static inline const void *pnx_snapshot_peek(
        const struct pnx_snapshot *snapshot, uint64_t *ret_version);

/* Returns the current version.  A load that follows gives this one or a newer one.  NULL gives 0.  Never blocks. */
PNX_API uint64_t pnx_snapshot_version(const struct pnx_snapshot *snapshot);

/*
 * A reader that keeps the value it saw last.  A plain struct of yours, for one thread at a time.  It holds a
 * reference to the cell.
 */
struct pnx_snapshot_reader {
    const struct pnx_snapshot_head_ *head_;
    const struct pnx_snapshot_node_ *node_; /* pinned; NULL: parked */
    const void *value_;
    struct pnx_snapshot *snapshot_;
};

/* Makes a reader of the cell, parked; get loads.  Cannot fail; with NULL for a cell, get returns NULL. */
static inline void pnx_snapshot_reader_init(
        struct pnx_snapshot_reader *reader, struct pnx_snapshot *snapshot);

/*
 * Returns the current value, borrowed until the next get, park or release of this reader.  One load and a
 * comparison when the value is still the same; else the old one is let go, which may drop it, and the new one
 * pinned.  Never blocks.
 */
static inline const void *pnx_snapshot_reader_get(struct pnx_snapshot_reader *reader);

/* Returns the version of what the last get returned; 0 when parked. */
static inline uint64_t pnx_snapshot_reader_version(const struct pnx_snapshot_reader *reader);

/*
 * Lets the kept value go, and keeps the reader: before a long wait, so that an idle thread pins no old value.
 * The next get loads again.
 */
static inline void pnx_snapshot_reader_park(struct pnx_snapshot_reader *reader);

/*
 * Parks the reader if its value is no longer the current one.  Returns whether it was: for a loop that sweeps
 * over its idle readers from time to time.
 */
static inline bool pnx_snapshot_reader_sweep(struct pnx_snapshot_reader *reader);

/* Lets the value and the cell go; get returns NULL from now on.  NULL-safe, a second time is fine. */
static inline void pnx_snapshot_reader_release(struct pnx_snapshot_reader *reader);

#define PNX_AUTO_SNAPSHOT_READER PNX_CLEANUP(pnx_snapshot_reader_release) struct pnx_snapshot_reader

/* ---- writing ---- */

/*
 * Publishes a value, of which the cell takes a reference of its own.  Waits for writers before it.
 * ret_version may be NULL.  -EINVAL for NULL, -EDEADLK (P4), -ETIMEDOUT after write_timeout_ns, -ESHUTDOWN,
 * -ENOMEM, or validate's error.
 */
PNX_API int pnx_snapshot_store(struct pnx_snapshot *snapshot, const void *value,
        struct pnx_error *err, uint64_t *ret_version);

/*
 * Publishes *value as store does, but takes over the caller's reference and sets *value to NULL, which saves taking
 * one and letting one go.  On failure the reference is still the caller's.  Errors as store.
 */
PNX_API int pnx_snapshot_give(
        struct pnx_snapshot *snapshot, void **value, struct pnx_error *err, uint64_t *ret_version);

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

/* A version that can be published again. */
struct pnx_snapshot_past {
    uint64_t version;
    uint64_t restores; /* the version whose value it is, if it was made by rollback; else 0 */
    int64_t real_ns;   /* when it was published, since 1970, for people */
};

/*
 * Lists the older versions that the history keeps, newest first: fills up to max elements, and *ret_count with
 * how many there are.  -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_snapshot_history(struct pnx_snapshot *snapshot,
        struct pnx_snapshot_past *ret_past, size_t max, size_t *ret_count);

/*
 * Returns in *ret_value the value of an older version, or of the current one, with a reference for the caller.
 * -ENOENT when the history does not keep it, -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_snapshot_load_past(
        struct pnx_snapshot *snapshot, uint64_t version, const void **ret_value);

/*
 * Publishes the value of an older version again, under a new version; validate decides about it as about any
 * other.  -ENOENT when the history does not keep it, -EALREADY when it is the current one; else as store.
 */
PNX_API PNX_NODISCARD int pnx_snapshot_rollback(struct pnx_snapshot *snapshot, uint64_t version,
        struct pnx_error *err, uint64_t *ret_version);

/* ---- waiting, numbers ---- */

/*
 * Waits until the version is newer than seen; then load.  0 at once if it is already.  PNX_TIMEOUT_DEFAULT is
 * PNX_NEVER here.  -ETIMEDOUT, -ESHUTDOWN once closed (unless a newer version is there), -EDEADLK when it would have to
 * wait inside a section, -EINVAL for NULL or another negative timeout.
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

#include <patinox/snapshot_inl.h>

#endif /* PNX_SNAPSHOT_H */
