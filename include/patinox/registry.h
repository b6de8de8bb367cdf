/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/registry.h - the ledger of everything that is alive and must end: who made it, where, how to end it.
 *
 * A row knows a resource's type, name, birthplace, size, parent and cleanup.  The registry owns the cleanup
 * function, and one move of the row's state decides who runs it, so that an owner's release, a forced cleanup and
 * a shutdown may race:
 *
 *     LIVE --claim--> RUNNING --0--> DONE
 *      | ^               |  +--error--> FAILED
 *      | +----EAGAIN-----+  +--shutdown's deadline--> ABANDONED (still running; its row stays until it ends)
 *      |                 +--EINPROGRESS--> PENDING --completed--> as if returned
 *      +----remove--> (row free; the id is stale from now on)
 *
 * How an object uses it.  An object that others may end (a pool, a cache) keeps a reference to its registry
 * (pnx_registry_ref) and adds a row whose cleanup closes the object but does not free it.  Its own release
 * function calls pnx_registry_remove() first, then closes, frees, and gives the reference back.  If a shutdown
 * is closing the object at that moment, the remove waits until the cleanup has ended and returns -EALREADY;
 * the memory is freed only after that, and closing twice must be harmless.
 *
 * A registry argument of NULL is the process's, save where said otherwise.
 *
 *   P1  A cleanup runs at most once, on whatever path, and never after pnx_registry_remove() returned 0; it runs
 *       again only after it has returned -EAGAIN.
 *   P2  A remove that finds the cleanup running on another thread returns only after it has ended; on the
 *       same thread (from inside the cleanup) it returns -EALREADY at once.  One that finds it pending returns
 *       -EINPROGRESS at once, since no thread may be there that could be waited for: the memory belongs to the
 *       cleanup until its completion.
 *   P3  Ids are never reused: a stale or foreign id is an error, never somebody else's resource.  (Another
 *       registry's ids are told apart by where its generations start: certain until some slot has been reused
 *       2^34 / n times, n being the number of registries that the process has made.)
 *   P4  A shutdown (patinox/shutdown.h) ends all rows, children before their parents, by its deadline even when a
 *       cleanup hangs; nothing is struck from its report to make it look better.
 *   P5  No cleanup or callback runs while the registry holds a lock.
 *   P6  Adding a row allocates nothing once as many rows have been live before, save that threads which add at the
 *       same time get memory apart from each other.  What a row says beside type, site, cleanup and bytes has memory of
 *       its own, which is got once for each chunk of rows (16 at first).
 *   P7  Nobody runs the cleanup of a row that has children: rows that name it as their parent, are there, and have a
 *       cleanup or are PNX_RESOURCE_OWNED.  Who tries gets -EBUSY.  (Its owner may remove it: what becomes of them then is
 *       the owner's business.)
 */
#ifndef PNX_REGISTRY_H
#define PNX_REGISTRY_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_registry; /* safe to use from any thread */

/* Names one row: shard, slot and generation.  0 is never an id. */
typedef uint64_t pnx_resource_id;

/* What a running cleanup may ask: how long it has, whether somebody wants it to hurry, whether it may end later. */
struct pnx_cancel;

/*
 * Returns the absolute time by which the cleanup should end; PNX_NEVER if there is none, or for NULL.  It is on the clock
 * of whoever runs the cleanup: a registry's env for a shutdown or a batch, an executor's env for a job.  That is pnx_now()
 * unless the env has another; in doubt, ask for what is left.
 */
PNX_API pnx_ns pnx_cancel_deadline(const struct pnx_cancel *cancel);

/*
 * Returns how long the cleanup still has, by the clock that its deadline is on; 0 when that has passed, PNX_NEVER as above.
 * The timeout to hand to what it waits for: pnx_pool_close(pool, pnx_cancel_remaining(cancel)).
 */
PNX_API pnx_ns pnx_cancel_remaining(const struct pnx_cancel *cancel);

/* Returns whether the cleanup's time is up: it should end as soon as it safely can.  false for NULL. */
PNX_API bool pnx_cancel_requested(const struct pnx_cancel *cancel);

/*
 * Ends a resource.  Returns
 *   0             it is gone
 *   -EAGAIN       not now: it is as it was.  Its row is live again and may be claimed again by anybody; who retries
 *                 by itself, and for how long, says so
 *   -EINPROGRESS  it is on its way: only after pnx_cancel_pend() has returned 0
 *   another error it has failed for good, and counts as gone; reports show the error.  A positive value, and
 *                 -EINPROGRESS without a pend, count as -EINVAL
 * Runs with no lock of the library held.  cancel may be NULL.  It must return: one that throws, or ends its
 * thread, aborts the process, and a longjmp out of it is undefined.
 */
typedef int pnx_cleanup_fn(void *arg, const struct pnx_cancel *cancel);

/*
 * The right to say, once, that a pending cleanup has ended.  A value, and yours: hand it to whoever will know.  Do
 * not read its fields.
 */
struct pnx_completion {
    int (*done_)(void *ctx, uint64_t token, int code);
    void *ctx_;
    uint64_t token_;
};

/*
 * Lets the running cleanup go on without its thread: when it then returns -EINPROGRESS its resource is pending until
 * pnx_completion_done() is called, by any thread, and be it before the cleanup has returned.  A cleanup
 * that returns something else has ended with that, and the completion is stale.  Called from the cleanup.
 * -EINVAL for a NULL ret_completion; -ENOTSUP where nobody can wait: for a cancel of NULL, as untracked guards
 * and scopes give; -EALREADY when the cleanup has done so before.
 */
PNX_API PNX_NODISCARD int pnx_cancel_pend(
        const struct pnx_cancel *cancel, struct pnx_completion *ret_completion);

/*
 * Says that a pending cleanup has ended, with what it would have returned (0, -EAGAIN or an error), and clears
 * *completion.  What waits for that end runs here, with no lock held.  What the cleanup belonged to must still
 * be there: a registry is, as long as the resource is pending.
 * -EINVAL for an empty one; -EALREADY or -ESTALE for a copy whose cleanup has ended already, and in a forked child.
 */
PNX_API int pnx_completion_done(struct pnx_completion *completion, int code);

/* Which resources are ended first, among those that may be ended. */
enum pnx_priority {
    PNX_PRIORITY_DEFAULT = 0, /* normal */
    PNX_PRIORITY_LOW,
    PNX_PRIORITY_NORMAL,
    PNX_PRIORITY_HIGH,
    PNX_PRIORITY_CRITICAL,
    PNX_PRIORITY_LAST, /* rows only: when all others have ended; what they need for that, such as executors */
};

/* Flags of a row: who may end the resource while its owner may be using it. */
enum {
    /* Safe to end while somebody uses it (a socket by shutdown(), a reference-counted object): anybody may force it. */
    PNX_RESOURCE_FORCEABLE = 1 << 0,
    /* Only its owner ends it: others, a shutdown too, only ask. */
    PNX_RESOURCE_OWNED = 1 << 1,
    /* In a forked child it is the child's, too.  Else it stays the parent's, and the child forgets it. */
    PNX_RESOURCE_KEEP_AFTER_FORK = 1 << 2,
    /*
     * One of few, that lives long, as all objects of the library are: kept at PNX_LEVEL_OFF, too, so that a shutdown ends
     * it; and the monitors of the registry's set hear of it, once each: PNX_EVENT_RESOURCE_OPENED when it has been added,
     * PNX_EVENT_RESOURCE_CLOSED when it has been removed, or its cleanup has ended.  They are told by whoever does that, so
     * that the end of one that is ended at once may be heard first.  A forked child tells of no end of its parent's.
     */
    PNX_RESOURCE_LONG_LIVED = 1 << 3,
};

/* What a row says about its resource. */
struct pnx_resource {
    size_t size;              /* set by PNX_RESOURCE */
    const char *type;         /* required, static: "pool", "temporary directory" */
    const char *name;         /* copied, cut after 47 bytes; may be NULL */
    const char *site;         /* static, or NULL; PNX_RESOURCE sets it to where it stands */
    pnx_cleanup_fn *cleanup;  /* NULL: shutdown cannot end it, and reports it as leaked */
    void *arg;                /* first argument of cleanup; must not point into a stack frame */
    pnx_resource_id parent;   /* 0: none; its cleanup runs after its children's (P7) */
    uint64_t owner;           /* yours: a thread, tenant or session number */
    uint64_t tag;             /* yours */
    uint64_t bytes;           /* memory held, as far as known */
    pnx_cleanup_fn *in_child; /* ends the child's copy after a fork; NULL: nothing to do */
    uint32_t flags;           /* PNX_RESOURCE_*; FORCEABLE and OWNED exclude each other */
    int32_t priority;         /* enum pnx_priority; default normal */
};
#ifndef __cplusplus
#define PNX_RESOURCE(...) PNX_RESOURCE_AT(PNX_SITE, __VA_ARGS__)
/* For objects that pass on the site that they were given themselves. */
#define PNX_RESOURCE_AT(where, ...) \
    (&(const struct pnx_resource){ \
            .size = sizeof(struct pnx_resource), .site = (where), __VA_ARGS__})
#else
/* Returns a row's description with only its size set; set site to PNX_SITE. */
static inline struct pnx_resource pnx_resource_init(void) {
    struct pnx_resource resource = pnx_resource();
    resource.size = sizeof(resource);
    return resource;
}
#endif

/* How much is remembered: see patinox/trace.h. */
enum pnx_registry_level {
    PNX_LEVEL_DEFAULT = 0, /* simple */
    PNX_LEVEL_OFF,
    PNX_LEVEL_SIMPLE,
    PNX_LEVEL_ADVANCED,
    PNX_LEVEL_PARANOID,
};

struct pnx_registry_opts {
    size_t size;               /* set by PNX_REGISTRY_OPTS */
    const char *name;          /* copied; label in statistics and reports; default "registry" */
    const struct pnx_env *env; /* default: the system's */
    struct pnx_stats *stats;   /* default: the process's; pnx_stats_off() */
    uint32_t max;              /* rows alive at once; default 16,777,216 */
    uint32_t flags;            /* must be 0 */
    uint32_t level;            /* enum pnx_registry_level; default 2, simple */
    uint32_t sample;           /* at ADVANCED one row in so many gets a backtrace; default 128 */
};
#ifndef __cplusplus
#define PNX_REGISTRY_OPTS(...) \
    (&(const struct pnx_registry_opts){.size = sizeof(struct pnx_registry_opts), __VA_ARGS__})
#else
static inline struct pnx_registry_opts pnx_registry_opts_init(void) {
    struct pnx_registry_opts opts = pnx_registry_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/* Returns the process-wide registry, where objects go whose options name none.  Never NULL. */
PNX_API struct pnx_registry *pnx_registry_default(void);

/* Returns the value that switches registration off where an option asks for a registry. */
PNX_API struct pnx_registry *pnx_registry_off(void);

/* Creates a registry.  opts may be NULL.  -EINVAL (err names the field), -E2BIG, -ENOMEM. */
PNX_API PNX_NODISCARD int pnx_registry_create(const struct pnx_registry_opts *opts,
        struct pnx_error *err, struct pnx_registry **ret_registry);

/*
 * Takes another reference and returns the registry (the default one for NULL).  Whoever keeps the pointer in
 * order to call pnx_registry_remove() later keeps a reference: a row keeps the registry's memory only until a
 * shutdown has ended it, and the owner's remove may come after that.
 */
PNX_API struct pnx_registry *pnx_registry_ref(struct pnx_registry *registry);

/*
 * Drops a reference.  Rows that are still live keep the registry's memory until they go; their cleanups are
 * not run: that is pnx_registry_shutdown()'s work.  The default registry is never freed.
 */
PNX_API void pnx_registry_release(struct pnx_registry **registry);

/*
 * Adds a row.  -EINVAL (no type; a parent that is not live, its own future id included; unknown flags or priority;
 * err names the field), -E2BIG, -ENOMEM, -ESHUTDOWN once a shutdown has begun, -EBUSY when max rows are live.  With
 * pnx_registry_off(), and at PNX_LEVEL_OFF without PNX_RESOURCE_LONG_LIVED, it returns 0 and the id 0: nothing is kept,
 * and so no shutdown runs the cleanup.
 */
PNX_API PNX_NODISCARD int pnx_registry_add(struct pnx_registry *registry,
        const struct pnx_resource *resource, struct pnx_error *err, pnx_resource_id *ret_id);

/*
 * Strikes a row because its owner has ended, or is about to end, the resource itself: the cleanup will not run.
 * See P2 for waiting: it may last as long as the cleanup does, even one that a shutdown has abandoned.  An id
 * of 0 is fine.
 * -EALREADY when the cleanup has run or is running on this thread, or when the row was removed before; -ESTALE
 * for an id that is not (any more) of this registry; -EDEADLK when the cleanup that it would wait for waits,
 * directly or not, for the one that runs on this thread: the resource is then still in use.  -EINPROGRESS when the
 * cleanup is pending.  A remove that waits for a cleanup which then returns -EAGAIN strikes the row, and returns 0.
 * A second removal is also an event, PNX_EVENT_RESOURCE_RELEASED_TWICE, whose cause is the site of the first
 * while the slot has not been reused.
 */
PNX_API int pnx_registry_remove_at(
        struct pnx_registry *registry, pnx_resource_id id, const char *site);
#define pnx_registry_remove(registry, id) pnx_registry_remove_at((registry), (id), PNX_SITE)

/*
 * Claims the row and runs its cleanup here, on the calling thread.  Returns what the cleanup returned, and the row is
 * gone then, or it is live again (-EAGAIN), or pending (-EINPROGRESS).  -EALREADY at once when somebody else has
 * claimed or removed it, -EBUSY when it has children (P7), -ENOTSUP when the row has no cleanup, -ESTALE for an unknown
 * id, and in a forked child for a row of its parent, -ENOMEM when there is no memory for the thread's record: nothing has happened then.
 */
PNX_API int pnx_registry_cleanup(struct pnx_registry *registry, pnx_resource_id id);

/*
 * To be called in a forked child that goes on using the registry: makes the rows with PNX_RESOURCE_KEEP_AFTER_FORK the
 * child's own, and strikes the parent's other live rows after calling their in_child, if they have one, with
 * (arg, NULL).  Until then those rows are listed, and nobody in the child can end them.  Rows whose cleanup was
 * running in the parent at the fork are left as they are.  Any thread; not from a handler of pthread_atfork(), since it
 * runs your functions.  In a process that is nobody's child it does nothing.  Whoever releases an object of the parent's
 * after that finds its row struck (-EALREADY from a first removal, which is no misuse); for that the slots of such rows
 * are not used again.  Returns 0, or the first error of an in_child; the others run all the same.
 */
PNX_API int pnx_registry_forked(struct pnx_registry *registry);

/*
 * Changes the bytes that a row shows.  An id of 0 is fine.  -ESTALE.  Once a shutdown has begun rows show what they were
 * then, and this changes nothing.
 */
PNX_API int pnx_registry_set_bytes(
        struct pnx_registry *registry, pnx_resource_id id, uint64_t bytes);

enum pnx_resource_state {
    PNX_RESOURCE_LIVE = 1,
    PNX_RESOURCE_RUNNING,    /* its cleanup is running */
    PNX_RESOURCE_DONE,       /* ended by a shutdown, without error */
    PNX_RESOURCE_FAILED,     /* ended by a shutdown, with an error */
    PNX_RESOURCE_ABANDONED,  /* its cleanup was still running at the shutdown's deadline */
    PNX_RESOURCE_LEAKED,     /* a shutdown could not end it: no cleanup, or no time */
    PNX_RESOURCE_SUPPRESSED, /* it leaked, and is known to */
    PNX_RESOURCE_PENDING,    /* its cleanup goes on without a thread */
};

/* One row, copied. */
struct pnx_resource_info {
    pnx_resource_id id;
    pnx_resource_id parent;
    enum pnx_resource_state state;
    int32_t code; /* what the cleanup returned, once FAILED */
    const char *type;
    const char *site; /* "" when unknown */
    char name[48];
    uint64_t owner;
    uint64_t tag;
    uint64_t bytes;
    pnx_ns age;       /* since it was added */
    uint32_t flags;   /* PNX_RESOURCE_* */
    int32_t priority; /* enum pnx_priority */
    bool asked;       /* somebody has asked for its end */
};

/* Copies one row.  -ESTALE. */
PNX_API PNX_NODISCARD int pnx_registry_info(
        struct pnx_registry *registry, pnx_resource_id id, struct pnx_resource_info *ret_info);

/* Returns how many rows are live or being cleaned up. */
PNX_API size_t pnx_registry_count(const struct pnx_registry *registry);

/*
 * Calls visit for each row that was there all the time, oldest first, on copies, with no lock held.  A nonzero
 * return ends the walk and is returned.  -ENOMEM.
 */
PNX_API int pnx_registry_each(struct pnx_registry *registry,
        int (*visit)(void *ctx, const struct pnx_resource_info *info), void *ctx);

enum pnx_report_format { PNX_REPORT_TEXT = 1, PNX_REPORT_JSON };

/* Writes what is live, grouped by type and site, with counts, bytes and the oldest age.  -EINVAL, -ENOMEM, or
 * what write returned. */
PNX_API PNX_NODISCARD int pnx_registry_report(struct pnx_registry *registry,
        enum pnx_report_format format, pnx_write_fn *write, void *ctx);

/* The rows of patinox/stats/registry.def. */
struct pnx_registry_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/registry.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_registry_read_stats(
        const struct pnx_registry *registry, struct pnx_registry_stats *ret_stats);

PNX_END_DECLS
#endif /* PNX_REGISTRY_H */
