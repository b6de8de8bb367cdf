/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/rc.h - reference-counted objects: shared ownership, weak references, copy on write.
 *
 * An object is a plain C struct behind a small hidden header; a handle is the pointer to the struct.  Who
 * holds a reference may read the object from any thread.  Who wants to write makes sure to be alone first:
 * pnx_rc_make_mut() copies the object if it is shared.
 *
 *   P1  An object is dropped exactly once, when its last reference goes, and its memory is freed when its
 *       last weak reference goes too; never while the counts are wrong: a count that leaves its range
 *       (2^31 references, or one release too many) sticks there, the object leaks, and that is counted.
 *   P2  pnx_rc_unique() is exact: true means that no other reference exists, weak ones included, and that
 *       everything that former holders did is visible.
 *   P3  pnx_weak_upgrade() returns a reference, or NULL once the last reference has gone; never a dropped
 *       object.
 *   P4  pnx_rc_make_mut() leaves a handle that is unique, copies only if the object was shared, and on
 *       failure changes nothing.
 *   P5  pnx_rc_try_update() calls its function only on a unique object; pnx_rc_update() leaves the handle
 *       and its object as they were when its function fails.
 *   P6  Dropping uses a bounded stack, however long the chain of objects that goes with the first.
 *   P7  A callback of pnx_rc_on_drop() that is not removed runs exactly once, after the object was dropped and
 *       with no lock of the library held; once a removal has returned 0 or -EALREADY it is not running, nor will.
 *   P8  Nobody gets a reference to an object of pnx_rc_new_cyclic() before its maker has succeeded; when that
 *       fails, the memory goes with the last weak reference that was made.
 *   P9  A tally counts each object of its types exactly once from when its memory is had until that is freed, and
 *       charges and gives back exactly these bytes.
 *
 * Order of drops: what loses its last reference inside a drop function is dropped after that function has
 * returned, in the order in which it lost it, before the outermost pnx_rc_unref() returns.
 */
#ifndef PNX_RC_H
#define PNX_RC_H

#include <patinox/base.h>
#include <patinox/error.h>
#include <patinox/rc_inl.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_budget;
struct pnx_rc_tally;

/* What the library must know about a kind of object.  Static, or outlives every object of it. */
struct pnx_rc_type {
    size_t size;         /* sizeof(struct pnx_rc_type); set by PNX_RC_TYPE */
    const char *name;    /* for messages */
    size_t object_size;  /* of the struct; a flexible object has more */
    size_t object_align; /* a power of two, at most 4096; 0: as malloc gives */
    /* Fills ret_copy, zeroed memory of the same size, with a copy of object, which others may be reading.
     * Returns 0 or a negative error; then ret_copy is freed and not dropped.  NULL: copied byte by byte, if
     * there is no drop either; else such objects cannot be copied. */
    int (*clone)(void *ctx, const void *object, void *ret_copy);
    /* Ends what the object owns, not its memory.  Runs on the thread that lets the last reference go, under
     * no lock of the library.  May be NULL. */
    void (*drop)(void *ctx, void *object);
    void *ctx; /* first argument of clone and drop */
    const struct pnx_env
            *env; /* allocator and log; NULL: the system's.  Must outlive the objects */
    /* Where a pointer to the tally of such objects stands; NULL, or one to NULL: they are not counted. */
    struct pnx_rc_tally *const *tally;
    uint32_t flags;    /* PNX_RC_* */
    uint32_t reserved; /* must be 0 */
};

enum pnx_rc_flags {
    PNX_RC_MOVABLE =
            1, /* holds no pointer into itself, nobody keeps its address: memcpy moves it */
};

/* Initialises a descriptor:  static const struct pnx_rc_type conf_type = PNX_RC_TYPE(struct conf, .drop = f); */
#ifndef __cplusplus
#define PNX_RC_TYPE(T, ...) \
    { \
        .size = sizeof(struct pnx_rc_type), .name = #T, .object_size = sizeof(T), \
        .object_align = _Alignof(T), __VA_ARGS__ \
    }
#endif

/*
 * Creates an object with one reference, the caller's.  Its bytes are those of init, or zero when that is NULL.
 * Does not block, any thread.  -EINVAL for a bad descriptor or a NULL ret_object, -E2BIG for a descriptor that sets a field
 * unknown to this library, -EOVERFLOW when the size is not representable, -ENOMEM (also when the tally's budget refuses).
 */
PNX_API PNX_NODISCARD int pnx_rc_new(
        const struct pnx_rc_type *type, const void *init, void **ret_object);

/*
 * Creates an object with extra bytes behind the struct, for a flexible array member; they are zero.  Errors as
 * pnx_rc_new().
 */
PNX_API PNX_NODISCARD int pnx_rc_new_flexible(
        const struct pnx_rc_type *type, const void *init, size_t extra, void **ret_object);

/* Knows an object without keeping it.  A value: copy it only by pnx_weak_ref().  {NULL} is empty. */
struct pnx_weak {
    void *object_;
};

/*
 * Finishes an object whose bytes are in place but to which nobody can have a reference yet.  self is a weak
 * reference to it, the library's; pnx_weak_ref() makes one to keep, in the object or elsewhere.  Until this
 * function has returned 0, pnx_weak_upgrade() gives NULL.  A negative error undoes the object: its memory goes with
 * the last weak reference, without drop, so what the function has put into it, it has to take out again first.
 */
typedef int pnx_rc_make_fn(void *ctx, void *object, const struct pnx_weak *self);

/*
 * Creates an object that knows itself, or whose parts know it: as pnx_rc_new_flexible(), but make is called in
 * between with a weak reference.  Errors as there, or make's own; -EINVAL also when make is NULL or returns no error code.
 */
PNX_API PNX_NODISCARD int pnx_rc_new_cyclic(const struct pnx_rc_type *type, const void *init,
        size_t extra, pnx_rc_make_fn *make, void *ctx, void **ret_object);

/* Takes one more reference and returns the handle again; NULL gives NULL.  Any thread that holds one. */
static inline void *pnx_rc_ref(const void *object);

/* Lets a reference go; the last one drops the object.  NULL is fine. */
static inline void pnx_rc_unref(const void *object);

/* Lets go of what a pointer variable holds, and sets it to NULL. */
#define PNX_RC_CLEAR(pointer) \
    do { \
        const void *pnx_rc_cleared_ = (pointer); \
        (pointer) = NULL; \
        pnx_rc_unref(pnx_rc_cleared_); \
    } while (0)

/* Lets go of the reference in a variable at the end of its scope:  PNX_AUTO_RC struct conf *c = NULL; */
#define PNX_AUTO_RC PNX_CLEANUP(pnx_rc_cleanup_)
PNX_API void pnx_rc_cleanup_(
        void *variable); /* the handler behind it; takes the variable's address */

/* Returns whether the caller's reference is the only one, strong or weak (P2).  NULL gives false. */
static inline bool pnx_rc_unique(const void *object);

/* Return how many references, or weak ones, there were a moment ago.  For people and tests: never decide by it.  0 for NULL. */
PNX_API uint32_t pnx_rc_count(const void *object);
PNX_API uint32_t pnx_rc_weak_count(const void *object);

/* Return the object's type, and its bytes with the flexible part; NULL and 0 for NULL. */
PNX_API const struct pnx_rc_type *pnx_rc_type_of(const void *object);
PNX_API size_t pnx_rc_size(const void *object);

/*
 * Creates a copy with one reference, by clone.  -ENOTSUP when the type cannot, -ENOMEM, or clone's error; -EINVAL for NULL, or
 * when clone returns no error code.
 */
PNX_API PNX_NODISCARD int pnx_rc_clone(const void *object, void **ret_copy);

/*
 * Makes the object behind *handle the caller's alone: leaves it when it is, else puts a copy in its place and
 * lets the reference to the shared one go.  An object with only weak references elsewhere is moved if its type
 * says PNX_RC_MOVABLE (or has neither clone nor drop), else copied; either way those find it gone.
 * Errors as pnx_rc_clone(); then nothing has changed.
 */
PNX_API PNX_NODISCARD int pnx_rc_make_mut(void **handle);

/* Edits an object.  Returns 0 or a negative error. */
typedef int pnx_rc_edit_fn(void *ctx, void *object);

/*
 * Puts an edited copy into *handle: clones the object, calls edit once on the copy, and exchanges them.  When
 * edit fails, the copy is dropped and *handle and its object are as before (to edit in place: make_mut).
 * Errors as pnx_rc_clone(), or edit's own.
 */
PNX_API PNX_NODISCARD int pnx_rc_update(void **handle, pnx_rc_edit_fn *edit, void *ctx);

/*
 * Edits the object in place if the caller holds the only reference, weak ones included.  PNX_E_SHARED if not:
 * then edit was not called.  Else returns what edit returned; a failing edit leaves what it has done.  -EINVAL for NULL.
 */
PNX_API PNX_NODISCARD int pnx_rc_try_update(void *object, pnx_rc_edit_fn *edit, void *ctx);

/* Returns how many objects of the process have leaked because a count left its range (P1). */
PNX_API uint64_t pnx_rc_saturated(void);

/* ---- numbers ---- */

/*
 * Objects have no rows in a registry and no blocks in the statistics: either would be larger than many an object.
 * A tally has both, for all objects of the types that name it, and charges a budget for them:
 *
 *     static struct pnx_rc_tally *conf_tally;       (set before the first object is made, and not changed after)
 *     static const struct pnx_rc_type conf_type = PNX_RC_TYPE(struct conf, .tally = &conf_tally);
 *
 * Counting costs a few atomic additions for each object that is made, copied or freed, and 16 bytes.
 */
struct pnx_rc_tally_opts {
    size_t size;                   /* set by PNX_RC_TALLY_OPTS */
    const char *name;              /* copied; label in statistics and reports; default "rc" */
    const char *site;              /* set by PNX_RC_TALLY_OPTS */
    const struct pnx_env *env;     /* allocator of the tally itself; default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget
            *budget; /* charged for each object; default: the process's; pnx_budget_off() */
};
#ifndef __cplusplus
#define PNX_RC_TALLY_OPTS(...) \
    (&(const struct pnx_rc_tally_opts){ \
            .size = sizeof(struct pnx_rc_tally_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_rc_tally_opts pnx_rc_tally_opts_init(void) {
    struct pnx_rc_tally_opts opts = pnx_rc_tally_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Creates a tally.  Its row shows the bytes to within an eighth; a shutdown that finds objects still alive when its
 * turn has come, after all that has another priority than PNX_PRIORITY_LAST, reports it as failed, with -EBUSY: they
 * have leaked.  When its budget refuses, making an object is -ENOMEM.  opts may be NULL.  -EINVAL (err names the field), -E2BIG, -ENOMEM, or the registry's -ESHUTDOWN or
 * -EBUSY.
 */
PNX_API PNX_NODISCARD int pnx_rc_tally_create(const struct pnx_rc_tally_opts *opts,
        struct pnx_error *err, struct pnx_rc_tally **ret_tally);

/*
 * Lets it go when no more objects will be made with it; it ends with its last object.  Strikes its row, and waits for
 * a shutdown that is looking at it.  NULL-safe, clears.
 */
PNX_API void pnx_rc_tally_release(struct pnx_rc_tally **tally);

/* The rows of patinox/stats/rc.def. */
struct pnx_rc_tally_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/rc.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_rc_tally_read_stats(
        const struct pnx_rc_tally *tally, struct pnx_rc_tally_stats *ret_stats);

/* ---- being told ---- */

/* Called when an object has been dropped.  Gets no object, so that nothing can bring it back. */
typedef void pnx_rc_on_drop_fn(void *arg);

/* One registration: your memory, zeroed before its first use, alive until it was called or removed. */
struct pnx_rc_drop_node {
    struct pnx_rc_header *header_;
    struct pnx_rc_drop_node *newer_, *older_;
    pnx_rc_on_drop_fn *fn_;
    void *arg_;
};

/*
 * Has fn(arg) called once when the object that the caller holds a reference to has been dropped: after its drop
 * function, before its memory goes, on the thread that let the last reference go, last registered first.  The
 * node is the caller's again before fn is called, so fn may free it or use it again.  An object may have any
 * number of them; a copy of the object has none; an object that make_mut moves takes them along; those of an
 * object that leaks (P1) are not called.  Any thread; takes a lock that all objects with callbacks share.
 * -EINVAL, -EBUSY when node is in use already, -ESTALE when the object has no reference: inside its own drop
 * function, or its maker.
 */
PNX_API PNX_NODISCARD int pnx_rc_on_drop(
        const void *object, struct pnx_rc_drop_node *node, pnx_rc_on_drop_fn *fn, void *arg);

/*
 * Takes a registration back.  The caller need not hold the object.  0 when fn will not be called.  -EALREADY when
 * it was called, and has returned: this waits for one that is running, so hold no lock that fn wants, also when it has
 * registered the node again in the meantime (one that does so only while this waits, leaves it registered).
 * -EINPROGRESS when it is running and others may be waiting for this thread, as with pnx_watch_cancel(): it does not wait
 * inside a drop function, such a callback itself, an edit and so on, or a section of reclaim; it will not be called again.
 * -EALREADY also for a zeroed node, -EINVAL for NULL.
 */
PNX_API int pnx_rc_on_drop_remove(struct pnx_rc_drop_node *node);

/* ---- weak references ---- */

/* Makes a weak reference to an object that the caller holds; NULL gives an empty one. */
PNX_API PNX_NODISCARD struct pnx_weak pnx_weak_make(const void *object);

/* Makes another one from a weak reference. */
PNX_API PNX_NODISCARD struct pnx_weak pnx_weak_ref(const struct pnx_weak *weak);

/* Returns a new reference to the object, or NULL when it is gone (or weak is empty).  Never blocks. */
PNX_API PNX_NODISCARD void *pnx_weak_upgrade(const struct pnx_weak *weak);

/* Lets a weak reference go and empties it.  NULL and empty ones are fine. */
PNX_API void pnx_weak_release(struct pnx_weak *weak);

#define PNX_AUTO_WEAK PNX_CLEANUP(pnx_weak_release) struct pnx_weak

/*
 * Defines typed functions over the ones above, static inline, for objects of C type T with descriptor d:
 *   PNX_RC_DEFINE(conf, struct conf, conf_type)
 * gives conf_new, conf_new_flexible, conf_new_cyclic, conf_ref, conf_release, conf_unique, conf_weak,
 * conf_upgrade, conf_copy, conf_make_mut, conf_update, conf_try_update, conf_on_drop.  With PNX_DEBUG, each of them
 * aborts when the object is of another type, and says of which.
 */
#if defined(__GNUC__) || defined(__clang__)
#define PNX_RC_INLINE_ __attribute__((unused)) static inline
#else
#define PNX_RC_INLINE_ static inline
#endif
/* clang-format off */
#define PNX_RC_DEFINE(prefix, T, d) \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_new(const T *init_, T **ret_object_) { \
        void *made_ = NULL; \
        if (!ret_object_) \
            return -EINVAL; \
        int rc_ = pnx_rc_new(&(d), init_, &made_); \
        if (rc_ == 0) \
            *ret_object_ = (T *)made_; \
        return rc_; \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_new_flexible(const T *init_, size_t extra_, T **ret_object_) { \
        void *made_ = NULL; \
        if (!ret_object_) \
            return -EINVAL; \
        int rc_ = pnx_rc_new_flexible(&(d), init_, extra_, &made_); \
        if (rc_ == 0) \
            *ret_object_ = (T *)made_; \
        return rc_; \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_new_cyclic( \
            const T *init_, pnx_rc_make_fn *make_, void *ctx_, T **ret_object_) { \
        void *made_ = NULL; \
        if (!ret_object_) \
            return -EINVAL; \
        int rc_ = pnx_rc_new_cyclic(&(d), init_, 0, make_, ctx_, &made_); \
        if (rc_ == 0) \
            *ret_object_ = (T *)made_; \
        return rc_; \
    } \
    PNX_RC_INLINE_ T *prefix##_ref(const T *object_) { \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_ref"); \
        return (T *)pnx_rc_ref(object_); \
    } \
    PNX_RC_INLINE_ void prefix##_release(T **handle_) { \
        if (!handle_) \
            return; \
        PNX_RC_EXPECT_(*handle_, &(d), #prefix "_release"); \
        PNX_RC_CLEAR(*handle_); \
    } \
    PNX_RC_INLINE_ bool prefix##_unique(const T *object_) { \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_unique"); \
        return pnx_rc_unique(object_); \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ struct pnx_weak prefix##_weak(const T *object_) { \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_weak"); \
        return pnx_weak_make(object_); \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ T *prefix##_upgrade(const struct pnx_weak *weak_) { \
        void *object_ = pnx_weak_upgrade(weak_); \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_upgrade"); \
        return (T *)object_; \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_copy(const T *object_, T **ret_copy_) { \
        void *copy_ = NULL; \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_copy"); \
        if (!ret_copy_) \
            return -EINVAL; \
        int rc_ = pnx_rc_clone(object_, &copy_); \
        if (rc_ == 0) \
            *ret_copy_ = (T *)copy_; \
        return rc_; \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_make_mut(T **handle_) { \
        if (!handle_) \
            return -EINVAL; \
        void *object_ = *handle_; \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_make_mut"); \
        int rc_ = pnx_rc_make_mut(&object_); \
        if (rc_ == 0) \
            *handle_ = (T *)object_; \
        return rc_; \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_update(T **handle_, pnx_rc_edit_fn *edit_, void *ctx_) { \
        if (!handle_) \
            return -EINVAL; \
        void *object_ = *handle_; \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_update"); \
        int rc_ = pnx_rc_update(&object_, edit_, ctx_); \
        if (rc_ == 0) \
            *handle_ = (T *)object_; \
        return rc_; \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_try_update(T *object_, pnx_rc_edit_fn *edit_, void *ctx_) { \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_try_update"); \
        return pnx_rc_try_update(object_, edit_, ctx_); \
    } \
    PNX_NODISCARD PNX_RC_INLINE_ int prefix##_on_drop( \
            const T *object_, struct pnx_rc_drop_node *node_, pnx_rc_on_drop_fn *fn_, void *arg_) { \
        PNX_RC_EXPECT_(object_, &(d), #prefix "_on_drop"); \
        return pnx_rc_on_drop(object_, node_, fn_, arg_); \
    }
/* clang-format on */

PNX_END_DECLS
#endif /* PNX_RC_H */
