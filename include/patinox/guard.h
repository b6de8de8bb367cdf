/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/guard.h - cleanups that run when a scope is left: one guard, or a stack of them.
 *
 * Three tools, from light to heavy:
 *   PNX_AUTO, PNX_DEFER, PNX_TAKE    macros over the compiler's cleanup attribute (gcc and clang)
 *   struct pnx_guard                 one cleanup as a value: dismissed, run, moved, tracked in a registry
 *   struct pnx_scope                 an explicit stack of cleanups with marks; any compiler, longjmp landing sites
 *
 * Which exits run a PNX_AUTO, a PNX_DEFER, and a guard or scope declared with PNX_AUTO_GUARD or PNX_AUTO_SCOPE, by
 * how the function was compiled that they stand in: C by gcc, clang and musl-gcc, called from C and C++; C++ by g++
 * and clang++.  "-": it cannot happen there.
 *
 *   -- the table: scripts/exits.py --update writes it, check.exits tries every cell --
 *
 *     A  gcc, clang, g++ -fno-exceptions, clang++ -fno-exceptions
 *     B  gcc -fexceptions, clang -fexceptions, g++, clang++
 *     C  musl-gcc with or without -fexceptions
 *
 *   leaving the scope by     A           B           C
 *   falling through          runs        runs        runs
 *   return                   runs        runs        runs
 *   break                    runs        runs        runs
 *   continue                 runs        runs        runs
 *   goto out of it           runs        runs        runs
 *   a C++ exception          no          runs        -
 *   pthread_exit             no          runs        no
 *   thread cancellation      no          runs        no
 *   thrd_exit                no          runs        no
 *   longjmp past it          no          no          no
 *   siglongjmp past it       no          no          no
 *   exit                     no          no          no
 *   _Exit                    no          no          no
 *   abort                    no          no          no
 *   a fatal signal           no          no          no
 *   exec                     no          no          no
 *
 *   -- end of the table --
 *
 * They run on the leaving thread, in reverse order of declaration; a return expression is evaluated first.
 * A goto or switch must not jump over a declaration into its scope.  What these exits miss, a tracked guard
 * still shows: its row stays in the registry's report, and a shutdown can run it.  A pnx_scope that lives
 * outside the frame that longjmp leaves is unwound at the landing site with pnx_scope_unwind().
 *
 *   P1  An armed guard's cleanup runs exactly once, or never if it is dismissed; again only after it has returned
 *       -EAGAIN.
 *   P2  A tracked guard and its registry row are one thing: whichever of guard, forced cleanup and shutdown comes
 *       first runs the cleanup; a guard that comes while it runs on another thread waits for its end.
 *   P3  A scope runs its entries last pushed first, each at most once, all of them even if some fail; the status
 *       is that of the first to fail.
 *   P4  A push that fails has run nothing and lost nothing.
 *   P5  Nothing here allocates but pnx_scope_push() and pnx_scope_reserve() beyond PNX_SCOPE_INLINE entries, and
 *       pnx_guard_track() as pnx_registry_add() does.
 *   P6  A guard that is not tracked, armed and dropped in one function, costs that function the call of the cleanup
 *       and at most two instructions more.
 *
 * A guard or scope belongs to one thread at a time, and may be handed on.
 */
#ifndef PNX_GUARD_H
#define PNX_GUARD_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/registry.h>

PNX_BEGIN_DECLS

struct pnx_executor;
struct pnx_job;

/* ---- macros ---- */

#ifdef PNX_CLEANUP
/*
 * Declares a variable with its initial value, which release(&variable) ends when the scope is left:
 *     PNX_AUTO(struct pnx_registry *, registry, pnx_registry_release, NULL);
 */
#define PNX_AUTO(type, name, release, ...) \
    PNX_CLEANUP(release) __attribute__((unused)) type name = __VA_ARGS__

/*
 * Calls fn(arg) when the scope is left.  fn is a void (*)(void *), such as free; arg is evaluated here.
 *     PNX_DEFER(free, buffer);
 */
#define PNX_DEFER(fn, arg) \
    PNX_CLEANUP(pnx_defer_run_) \
    __attribute__((unused)) struct pnx_defer_ PNX_DEFER_NAME_(pnx_defer_, __LINE__) = {(fn), (arg)}
#define PNX_DEFER_NAME_(prefix, line)  PNX_DEFER_PASTE_(prefix, line)
#define PNX_DEFER_PASTE_(prefix, line) prefix##line

/*
 * Takes the pointer out of a PNX_AUTO variable and leaves NULL, which its release function must accept: what is
 * returned, or stored, is no longer released here.  Does not help with PNX_DEFER, which has copied its argument.
 */
#define PNX_TAKE(pointer) ((__typeof__(pointer))pnx_take_(&(pointer)))
#endif

struct pnx_defer_ {
    void (*fn)(void *arg);
    void *arg;
};

static inline void pnx_defer_run_(struct pnx_defer_ *defer) {
    defer->fn(defer->arg);
}

PNX_NODISCARD static inline void *pnx_take_(void *variable) {
    void *pointer;
    void *none = NULL;
    __builtin_memcpy(&pointer, variable, sizeof(pointer));
    __builtin_memcpy(variable, &none, sizeof(none));
    return pointer;
}

/* ---- guard ---- */

/*
 * One cleanup.  A value; all zero is empty.  Read its fields through functions only.  Copying an armed guard by
 * assignment would arm it twice: use pnx_guard_move().
 */
struct pnx_guard {
    pnx_cleanup_fn *fn; /* NULL: empty */
    void *arg;
    struct pnx_registry *registry; /* a reference, while tracked; else NULL */
    pnx_resource_id id;            /* its row, while tracked */
    struct pnx_executor *executor; /* where a drop goes; NULL: here */
};

#ifdef PNX_CLEANUP
/* Declares a guard that is dropped at the end of its scope:  PNX_AUTO_GUARD guard = {0}; */
#define PNX_AUTO_GUARD PNX_CLEANUP(pnx_guard_drop) struct pnx_guard
#endif

/* Arms an empty guard: fn(arg, NULL) will end the resource.  -EINVAL without guard or fn, -EBUSY when it is armed. */
static inline int pnx_guard_arm(struct pnx_guard *guard, pnx_cleanup_fn *fn, void *arg);

/* Returns whether the guard holds a cleanup.  A tracked one may have been run by the registry meanwhile. */
static inline bool pnx_guard_armed(const struct pnx_guard *guard);

/* Returns the argument of the cleanup that an armed guard holds: the resource, which stays the guard's; else NULL. */
static inline void *pnx_guard_resource(const struct pnx_guard *guard);

/*
 * Empties the guard without running the cleanup and returns its argument: the caller owns the resource again.
 * Returns NULL for an empty guard or NULL, and for a tracked one whose cleanup the registry has run, or which is pending and
 * so still uses the resource; waits while the cleanup runs on another thread.
 */
static inline void *pnx_guard_dismiss(struct pnx_guard *guard);

/*
 * Runs the cleanup here and empties the guard.  Returns what the cleanup returned; 0 for an empty guard.  When that
 * is -EAGAIN the guard stays as it is, armed; a tracked one's cleanup may also be pending: -EINPROGRESS.
 * -EINVAL for NULL; -EALREADY when the registry has run it, after waiting for its end (-EDEADLK and -EINPROGRESS as
 * pnx_registry_remove() says); -ESTALE in a forked child for a tracked guard of its parent, whose cleanup it does
 * not run; -ENOMEM and -EBUSY (its row has children), for a tracked one, as pnx_registry_cleanup() says, and then the
 * guard stays armed.
 */
static inline int pnx_guard_run(struct pnx_guard *guard);

/*
 * Does the same without a status, and empties the guard in any case: the handler of PNX_AUTO_GUARD.  A tracked
 * cleanup that fails is still an event, and one that returns -EAGAIN, or whose row has children, leaves its row live in
 * the registry, for a shutdown or anybody to end (PNX_RESOURCE_OWNED holds no longer); an untracked one's status is
 * lost.  NULL is fine.
 */
static inline void pnx_guard_drop(struct pnx_guard *guard);

/*
 * Drops the guard to the background: an executor runs the cleanup, of a tracked one as pnx_executor_cleanup() does.
 * job says how, and may be NULL; its run and arg stay NULL.  On failure the guard stays as it is, armed.  A row that the
 * job leaves live is the registry's from then on, as after a drop; whoever cancels the job has it for his own.
 * -EINVAL for an empty guard, and as pnx_executor_submit() and pnx_executor_cleanup() say.
 */
PNX_API PNX_NODISCARD int pnx_guard_defer(struct pnx_guard *guard, struct pnx_executor *executor,
        const struct pnx_job *job, struct pnx_error *err, uint64_t *ret_id);

/*
 * From now on a drop of this guard goes to the executor (NULL: is run here again), which must live until then.  Such a
 * drop waits for room, as a submit does, but for no cleanup, not even one that is running elsewhere.  If the executor
 * refuses, the drop runs the cleanup here; if it is released before it has come to that, pnx_executor_release() runs it.
 * A move takes it along.  -EINVAL for an empty guard.
 */
PNX_API int pnx_guard_set_executor(struct pnx_guard *guard, struct pnx_executor *executor);

/* Returns the guard's content (nothing, of NULL) and leaves it empty: the way to hand it to a caller or another thread. */
PNX_NODISCARD static inline struct pnx_guard pnx_guard_move(struct pnx_guard *guard);

/*
 * Makes the guard a row of the registry (NULL: the process's), which owns the cleanup from now on (P2).
 * resource says type, name, site, parent ...; its cleanup and arg stay NULL, they are the guard's.  With
 * pnx_registry_off() it returns 0 and the guard stays as it is.  The guard's arg must not point into a stack frame.
 * -EINVAL for an empty guard or a resource with a cleanup of its own, -EALREADY when it is tracked, and what
 * pnx_registry_add() returns; on failure the guard stays as it is, armed.
 */
PNX_API PNX_NODISCARD int pnx_guard_track(struct pnx_guard *guard, struct pnx_registry *registry,
        const struct pnx_resource *resource, struct pnx_error *err);

/* Returns the id of a tracked guard's row, else 0. */
static inline pnx_resource_id pnx_guard_id(const struct pnx_guard *guard);

/*
 * Returns whether somebody has asked for the end of a tracked guard's resource: see pnx_registry_asked().  An owner that
 * uses it for long looks now and then, and drops the guard when it can.  false for a guard that is not tracked.
 */
PNX_API bool pnx_guard_asked(const struct pnx_guard *guard);

/* ---- scope ---- */

/* When an entry of a scope runs. */
enum pnx_scope_when {
    PNX_SCOPE_ALWAYS = 0,
    PNX_SCOPE_ON_ERROR,   /* only after pnx_scope_fail() */
    PNX_SCOPE_ON_SUCCESS, /* only without */
};

#define PNX_SCOPE_INLINE 8 /* entries that a scope holds without allocating */

struct pnx_scope_entry {
    pnx_cleanup_fn *fn;
    void *arg;
    enum pnx_scope_when when;
};
struct pnx_scope_chunk;

/*
 * A stack of cleanups.  A value: on the stack, in a static, or part of an object; it must not be copied while it
 * holds entries.  All zero is an empty scope that uses the system's environment.  Read its fields through
 * functions only.
 */
struct pnx_scope {
    const struct pnx_env *env;     /* NULL: the system's; must outlive the scope */
    struct pnx_scope_chunk *chunk; /* the topmost one, for entries beyond the inline ones */
    struct pnx_scope_chunk
            *spare; /* one empty chunk above it, kept against thrashing, or reserved ones */
    size_t count;   /* entries pushed and not popped */
    bool failed;
    struct pnx_scope_entry entries[PNX_SCOPE_INLINE];
};

#ifdef PNX_CLEANUP
/* Declares a scope that is ended when its block is left:  PNX_AUTO_SCOPE scope = {0}; */
#define PNX_AUTO_SCOPE PNX_CLEANUP(pnx_scope_drop) struct pnx_scope
#endif

/* Makes an empty scope whose memory comes from env (NULL: the system's).  Does nothing for a scope of NULL. */
PNX_API void pnx_scope_begin(struct pnx_scope *scope, const struct pnx_env *env);

/*
 * Pushes fn(arg, NULL).  -ENOMEM, never for the first PNX_SCOPE_INLINE entries nor for reserved ones: the resource
 * is then still the caller's to end.  -EINVAL without scope or fn, for an unknown when, or for an env that is not valid.
 */
PNX_API PNX_NODISCARD int pnx_scope_push(
        struct pnx_scope *scope, enum pnx_scope_when when, pnx_cleanup_fn *fn, void *arg);

/* Makes room for n more entries, so that the next n pushes succeed.  -ENOMEM, -EINVAL for NULL or an invalid env. */
PNX_API PNX_NODISCARD int pnx_scope_reserve(struct pnx_scope *scope, size_t n);

/* Declares the scope failed and returns code: callers write "return pnx_scope_fail(&scope, -EIO)".  -EINVAL for NULL. */
PNX_API int pnx_scope_fail(struct pnx_scope *scope, int code);

/* A position in a scope. */
typedef size_t pnx_scope_position;

/* Returns the position now; it remembers, too, whether the scope had failed.  The bottom, for NULL. */
PNX_API pnx_scope_position pnx_scope_mark(const struct pnx_scope *scope);

/*
 * Runs what was pushed since the mark and returns to that state: what failed since then no longer counts.
 * Returns the first failing cleanup's status, or -EINVAL, and nothing runs, for NULL or a mark above the top.  Nobody tries
 * again or waits here: -EAGAIN is a failure like any other, and so is -EINPROGRESS, which becomes -EINVAL.
 */
PNX_API int pnx_scope_unwind(struct pnx_scope *scope, pnx_scope_position mark);

/* Runs everything, frees the scope's memory and leaves it empty.  Returns the first failing cleanup's status; -EINVAL. */
PNX_API int pnx_scope_end(struct pnx_scope *scope);

/* Does the same without a status: the handler of PNX_AUTO_SCOPE.  NULL is fine. */
PNX_API void pnx_scope_drop(struct pnx_scope *scope);

PNX_END_DECLS

#include <patinox/guard_inl.h>

#endif /* PNX_GUARD_H */
