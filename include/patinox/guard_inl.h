/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/guard_inl.h - the inline half of patinox/guard.h, which includes it: guards that nobody else knows of.
 *
 * A plain guard, one that is not tracked, is a function and its argument: ending it is a direct call, and where the
 * compiler sees both arming and ending there is nothing else left (resource.guard_cost.* counts instructions).  What
 * is more than plain is a call, which gets the fields and not the guard: one whose address never leaves its function
 * stays in registers.  All is inlined always, or the copies that unwinding needs would be calls with that address.
 */
#ifndef PNX_GUARD_INL_H
#define PNX_GUARD_INL_H

#include <patinox/guard.h>

PNX_BEGIN_DECLS

/* The long ways, for a guard that is not plain; its content is the callee's, unless kept. */
PNX_API int pnx_guard_run_tracked_(
        struct pnx_registry *registry, pnx_resource_id id, bool *ret_kept);
PNX_API void pnx_guard_drop_slow_(pnx_cleanup_fn *fn, void *arg, struct pnx_registry *registry,
        pnx_resource_id id, struct pnx_executor *executor);
PNX_API void *pnx_guard_dismiss_tracked_(
        struct pnx_registry *registry, pnx_resource_id id, void *arg);

/*
 * A debug build of the library aborts here when the calling thread holds a lock of the library: no cleanup may run
 * then.  Programs built with PNX_DEBUG call it; in other builds of the library it does nothing.
 */
PNX_API void pnx_guard_expect_no_lock_(void);
#ifdef PNX_DEBUG
#define PNX_GUARD_EXPECT_NO_LOCK_() pnx_guard_expect_no_lock_()
#else
#define PNX_GUARD_EXPECT_NO_LOCK_() ((void)0)
#endif

/*
 * Static analysis does not know the cleanup attribute, and would take what a guard owns for leaked.  There is no such
 * function: analysis believes that it keeps the pointer, and compilers do not see it.
 */
#ifdef __clang_analyzer__
void pnx_guard_owns_(void *arg);
#else
#define pnx_guard_owns_(arg) ((void)0)
#endif

#if defined(__GNUC__) || defined(__clang__)
#define PNX_GUARD_INLINE_ __attribute__((always_inline)) static inline
#else
#define PNX_GUARD_INLINE_ static inline
#endif

/* Whether ending the guard here is calling fn(arg, NULL) and no more. */
PNX_GUARD_INLINE_ bool pnx_guard_is_plain_(const struct pnx_guard *guard) {
    return !guard->registry;
}

PNX_GUARD_INLINE_ void pnx_guard_clear_(struct pnx_guard *guard) {
    guard->fn = NULL;
    guard->arg = NULL;
    guard->registry = NULL;
    guard->id = 0;
    guard->executor = NULL;
}

PNX_GUARD_INLINE_ int pnx_guard_arm(struct pnx_guard *guard, pnx_cleanup_fn *fn, void *arg) {
    if (__builtin_expect(!guard || !fn, 0))
        return -EINVAL;
    if (__builtin_expect(guard->fn != NULL, 0))
        return -EBUSY;
    guard->fn = fn; /* the rest is 0 in an empty guard */
    guard->arg = arg;
    pnx_guard_owns_(arg);
    return 0;
}

PNX_GUARD_INLINE_ bool pnx_guard_armed(const struct pnx_guard *guard) {
    return guard && guard->fn;
}

PNX_GUARD_INLINE_ void *pnx_guard_resource(const struct pnx_guard *guard) {
    return pnx_guard_armed(guard) ? guard->arg : NULL;
}

PNX_GUARD_INLINE_ pnx_resource_id pnx_guard_id(const struct pnx_guard *guard) {
    return guard ? guard->id : 0;
}

PNX_GUARD_INLINE_ struct pnx_guard pnx_guard_move(struct pnx_guard *guard) {
    struct pnx_guard moved;
    if (__builtin_expect(!guard, 0)) {
        pnx_guard_clear_(&moved);
        return moved;
    }
    moved = *guard;
    pnx_guard_clear_(guard);
    return moved;
}

PNX_GUARD_INLINE_ void *pnx_guard_dismiss(struct pnx_guard *guard) {
    struct pnx_guard own = pnx_guard_move(guard);
    if (!pnx_guard_is_plain_(&own))
        return pnx_guard_dismiss_tracked_(own.registry, own.id, own.arg);
    return own.arg;
}

/* The guard is emptied first: a cleanup that meets its own guard finds it empty. */
PNX_GUARD_INLINE_ int pnx_guard_run(struct pnx_guard *guard) {
    if (__builtin_expect(!guard, 0))
        return -EINVAL;
    struct pnx_guard own = pnx_guard_move(guard);
    if (!own.fn)
        return 0;
    int rc;
    bool kept; /* it is as it was, and so the guard must be */
    if (pnx_guard_is_plain_(&own)) {
        PNX_GUARD_EXPECT_NO_LOCK_();
        rc = own.fn(own.arg, NULL);
        if (__builtin_expect(rc == 0, 1))
            return 0;
        kept = rc == -EAGAIN;
        if (rc > 0 || rc == -EINPROGRESS) /* nobody could wait for what is in progress */
            rc = -EINVAL;
    } else {
        rc = pnx_guard_run_tracked_(own.registry, own.id, &kept);
    }
    if (kept)
        *guard = own;
    return rc;
}

PNX_GUARD_INLINE_ void pnx_guard_drop(struct pnx_guard *guard) {
    if (!guard || !guard->fn)
        return;
    if (!pnx_guard_is_plain_(guard) || guard->executor) {
        struct pnx_guard own = pnx_guard_move(guard);
        pnx_guard_drop_slow_(own.fn, own.arg, own.registry, own.id, own.executor);
        return;
    }
    PNX_GUARD_EXPECT_NO_LOCK_();
    pnx_cleanup_fn *fn = guard->fn;
    void *arg = guard->arg;
    guard->fn = NULL; /* the rest is 0 already */
    guard->arg = NULL;
    (void)fn(arg, NULL);
}

PNX_END_DECLS
#endif /* PNX_GUARD_INL_H */
