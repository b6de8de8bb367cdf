/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/query.h - looking for rows of a registry, and ending many at once.
 *
 * Forcing a resource that is in use is a use after free, in C.  So who ends a row is a matter of its flags:
 *
 *                                  its owner   a shutdown   a force or batch   with PNX_CLEANUP_UNUSED
 *   PNX_RESOURCE_FORCEABLE         ends it     ends it      ends it            ends it
 *   neither                        ends it     ends it      asks               ends it
 *   PNX_RESOURCE_OWNED             ends it     asks         asks               asks
 *
 * Asking sets the row's token, which its owner sees by pnx_registry_asked(); if its cleanup is running already, that
 * sees it by pnx_cancel_requested().
 *
 * A registry argument of NULL is the process's.  All functions may be called from any thread, from cleanups and from
 * visit functions too.
 *
 *   P1  A query visits every row that is there all the time exactly once, and others at most once.
 *   P2  A query allocates nothing and never holds a lock for longer than copying PNX_QUERY_ROWS rows takes, so adding
 *       and removing go on meanwhile; match and visit run with no lock held.
 *   P3  What a batch says adds up: matched = done + failed + again + asked + busy + left.
 *   P4  A batch never runs the cleanup of a row that it may only ask.
 *   P5  A batch comes to rows that were made last first, and so to children before their parents.  Neither it nor a force
 *       runs the cleanup of a row that has children (patinox/registry.h, P7).
 */
#ifndef PNX_QUERY_H
#define PNX_QUERY_H

#include <patinox/base.h>
#include <patinox/registry.h>

PNX_BEGIN_DECLS

#define PNX_QUERY_ROWS 32 /* rows copied at a time */

/* Which rows.  Zero means any; all that are set must hold. */
struct pnx_resource_filter {
    size_t size;            /* set by PNX_FILTER */
    const char *type;       /* equal */
    const char *site;       /* it begins so: "server.c:", "net/" */
    uint64_t owner;         /* equal; who numbers an owner 0 finds it with match */
    uint64_t tag;           /* equal */
    pnx_resource_id parent; /* equal: its children, without theirs */
    pnx_ns min_age;         /* at least so old, in nanoseconds */
    uint64_t min_bytes;     /* at least so large */
    /* Asked last, with no lock held; ctx is its first argument. */
    bool (*match)(void *ctx, const struct pnx_resource_info *info);
    void *ctx;
};
#ifndef __cplusplus
#define PNX_FILTER(...) \
    (&(const struct pnx_resource_filter){.size = sizeof(struct pnx_resource_filter), __VA_ARGS__})
#else
static inline struct pnx_resource_filter pnx_resource_filter_init(void) {
    struct pnx_resource_filter filter = pnx_resource_filter();
    filter.size = sizeof(filter);
    return filter;
}
#endif

/*
 * Calls visit for the rows that the filter lets pass (NULL: all), on copies, in no order, with no lock held (P1, P2).
 * A nonzero return of visit ends the query and is returned.  0, -EINVAL (no visit, a negative min_age), -E2BIG.
 */
PNX_API int pnx_registry_query(struct pnx_registry *registry,
        const struct pnx_resource_filter *filter,
        int (*visit)(void *ctx, const struct pnx_resource_info *info), void *ctx);

/*
 * Asks for the row's end, or ends it if anybody may: see the table above.  Returns what the cleanup returned, as
 * pnx_registry_cleanup() does; -EBUSY when its owner was only asked, or the row has children; -EALREADY when its cleanup is running (it is asked
 * to hurry) or has run; -ENOTSUP for a forceable row without a cleanup; -ESTALE.
 */
PNX_API int pnx_registry_force(struct pnx_registry *registry, pnx_resource_id id);

/*
 * Returns whether somebody has asked for the row's end: a force, a batch or a shutdown.  An owner that uses a resource
 * for long looks now and then, and ends it when it can.  false for an id that is not there.  A short lock.
 */
PNX_API bool pnx_registry_asked(struct pnx_registry *registry, pnx_resource_id id);

enum {
    PNX_CLEANUP_UNUSED = 1 << 0, /* the caller vouches that nobody uses what matches */
};

/* What became of the rows that matched. */
struct pnx_batch_result {
    size_t size;    /* sizeof(struct pnx_batch_result) */
    size_t matched; /* the sum of the others */
    size_t done;    /* its cleanup returned 0, or is pending */
    size_t failed;  /* its cleanup returned an error */
    size_t again;   /* its cleanup returned -EAGAIN: the row is live */
    size_t asked;   /* its owner was asked */
    size_t busy;    /* others are ending it, or have */
    size_t left;    /* there was no time, or it has no cleanup, or children that are still there */
};

/*
 * Ends what the filter lets pass, as the table above says, one row after the other on the calling thread.  Which rows these
 * are is found out first; without memory for them it asks the filter again for each few of them.  No cleanup
 * is started once timeout has passed; each is told the deadline, and none is interrupted.  flags: PNX_CLEANUP_*.
 * ret_result may be NULL, else it is filled up to the size that the caller set.
 * Returns 0, -ETIMEDOUT when rows were left for want of time, else the first cleanup's error (-EAGAIN counts as one).
 * -EINVAL (unknown flags, a negative timeout or min_age, a size that is too small), -E2BIG: nothing has happened then.
 */
PNX_API int pnx_registry_cleanup_where(struct pnx_registry *registry,
        const struct pnx_resource_filter *filter, uint32_t flags, pnx_ns timeout,
        struct pnx_batch_result *ret_result);

PNX_END_DECLS
#endif /* PNX_QUERY_H */
