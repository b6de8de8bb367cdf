/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/mapping.h - files as memory: read-only, behind views that check every range.
 *
 * EXPERIMENTAL: may change until the release that finishes this part.
 *
 * A mapping shows a range of a file.  What holds the bytes is its backing, which the caller need not care about:
 *
 *   MMAP    the pages of the file itself
 *   COPY    private memory: pipes, files of /proc and /sys, small ranges, files that the system will not map,
 *           and whatever is opened with PNX_MAPPING_COPY; charged to the budget
 *   EMPTY   no bytes at all
 *
 * When somebody cuts a file short while it is mapped (backing MMAP), a load from the lost pages raises SIGBUS, and so does an
 * input error of the disk.  Inside an access scope of patinox/fault.h that is an error code; outside of one it ends the
 * process, as it does with plain mmap().
 *
 *   P1  A view never reaches outside its mapping, nor a load outside its view: -ERANGE or NULL instead, whatever
 *       the offsets, also when they overflow.
 *   P2  Whether a typed access is aligned follows from the offset in the file alone, for alignments up to 64;
 *       it is the same for all backings.
 *   P3  The bytes stay where they are, and stay mapped, until the last reference is released.
 *   P4  A COPY does not change when the file does, and is charged to the budget for as long as it lives.
 *   P5  Opening by descriptor neither takes the descriptor nor moves its position, save where reading is the only
 *       way: pipes and sockets, which are read to their end, and kernel files that have no offsets.
 */
#ifndef PNX_MAPPING_H
#define PNX_MAPPING_H

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/error.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_mapping; /* reference-counted; safe to use from any thread */

enum pnx_mapping_flags {
    PNX_MAPPING_COPY =
            1, /* read the bytes now: later changes of the file, truncation too, do not matter */
};

/* How the bytes will be used: a hint to the system, never an error. */
enum pnx_mapping_advice {
    PNX_ADVICE_NORMAL = 0,
    PNX_ADVICE_SEQUENTIAL = 1, /* from front to back: reads ahead further */
    PNX_ADVICE_RANDOM = 2,     /* here and there: does not read ahead */
    PNX_ADVICE_WILLNEED = 3,   /* soon: starts reading now */
};

enum pnx_mapping_backing {
    PNX_BACKING_MMAP = 1,
    PNX_BACKING_COPY,
    PNX_BACKING_EMPTY,
};

/* Zero selects the default of every field. */
struct pnx_mapping_opts {
    size_t size;                   /* set by PNX_MAPPING_OPTS */
    const char *name;              /* copied; default: the path, or "descriptor" */
    const char *site;              /* set by PNX_MAPPING_OPTS */
    const struct pnx_env *env;     /* default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget;     /* pays for copies; default: the process's; pnx_budget_off() */
    uint64_t offset;               /* where in the file it begins; need not be page-aligned */
    uint64_t length;  /* bytes, all of which must exist; default: to the end of the file */
    size_t small_max; /* ranges up to this size are read, not mapped; default 16 KiB */
    size_t copy_max;  /* most bytes that a copy may have; default 64 MiB */
    uint32_t advice;  /* enum pnx_mapping_advice */
    uint32_t flags;   /* enum pnx_mapping_flags */
};

/* Names only the options that differ: PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY). */
#ifndef __cplusplus
#define PNX_MAPPING_OPTS(...) \
    (&(const struct pnx_mapping_opts){ \
            .size = sizeof(struct pnx_mapping_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_mapping_opts pnx_mapping_opts_init(void) {
    struct pnx_mapping_opts opts = pnx_mapping_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Opens a file and maps it.  opts may be NULL.  The descriptor stays open as long as the mapping, a pipe's
 * excepted.  Blocks on a FIFO until a writer has come and gone.  err names the phase: "options", "open", "map",
 * "read", "budget", "allocate", or what the registry said.
 * -ENOENT, -EACCES and the like as the system gives them; -EISDIR; -ENODEV for a device or a socket; -ERANGE when
 * offset or length reach beyond the end; -EFBIG when the bytes had to be copied and are more than copy_max, or
 * do not fit the address space; -EINVAL, -E2BIG for the options; -ENOMEM; -ESHUTDOWN.
 */
PNX_API PNX_NODISCARD int pnx_mapping_open(const char *path, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping);

/*
 * The same for an open descriptor, which stays the caller's and must be readable.  A connected socket is read like
 * a pipe: to its end, however long the other side takes.
 */
PNX_API PNX_NODISCARD int pnx_mapping_open_fd(int fd, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping);

/* Takes another reference and returns the mapping.  NULL-safe. */
PNX_API struct pnx_mapping *pnx_mapping_ref(struct pnx_mapping *mapping);

/* Drops a reference; with the last one all views end.  NULL-safe, clears *mapping, cannot fail. */
PNX_API void pnx_mapping_release(struct pnx_mapping **mapping);

/*
 * Closes the mapping: no view and no copy is to be had any more (-ESHUTDOWN; pnx_view_all() gives an empty one).  Views
 * that are out stay valid until the last reference goes, which is also when the bytes are unmapped or freed: under
 * somebody's view they must not.  NULL-safe, idempotent, any thread.  A shutdown of the registry does the same.
 */
PNX_API void pnx_mapping_close(struct pnx_mapping *mapping);

/* Returns what holds the bytes. */
PNX_API enum pnx_mapping_backing pnx_mapping_backing(const struct pnx_mapping *mapping);

/* Returns how many bytes the mapping has; it never changes. */
PNX_API size_t pnx_mapping_size(const struct pnx_mapping *mapping);

/*
 * Asks whether the file is still as it was when it was opened: the same size, modification time and identity.
 * One fstat; does not look at the path, so a file that was replaced by rename() is unchanged: the mapping has
 * the old one, whole.  A change within one tick of the file system's clock (some ms) may be missed.
 * 0 unchanged, -ESTALE changed, -ENOTSUP for a pipe or a file of /proc, -EIO and the like when the system cannot tell.
 */
PNX_API PNX_NODISCARD int pnx_mapping_changed(struct pnx_mapping *mapping);

/*
 * Copies n bytes at offset to dst, by a system call where the backing is MMAP, so that it fails where a load
 * would raise SIGBUS.  On failure the content of dst is undefined.  Any thread; may wait for the disk.
 * -ERANGE outside the mapping, -ESTALE when the file has become too short, -EIO, -ESHUTDOWN once it is closed.
 */
PNX_API PNX_NODISCARD int pnx_mapping_copy_out(
        struct pnx_mapping *mapping, uint64_t offset, void *dst, size_t n);

/*
 * Gives advice for a range.  Returns 0, or 1 when it has no effect here (another backing, or the system does not
 * care); -ERANGE and -EINVAL for arguments that make no sense.
 */
PNX_API int pnx_mapping_advise(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_mapping_advice advice);

/* The rows of patinox/stats/mapping.def. */
struct pnx_mapping_stats {
    size_t size;
#define PNX_STAT(name, kind, unit, level, help) uint64_t name;
#include <patinox/stats/mapping.def>
#undef PNX_STAT
};

/* Fills *ret_stats up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_mapping_read_stats(
        const struct pnx_mapping *mapping, struct pnx_mapping_stats *ret_stats);

/* ---- views ---- */

/*
 * A range of a mapping: a value, copied freely.  Holds no reference: it must not outlive the caller's.
 * All functions on views are pure, never block, and may be called from any thread.
 */
struct pnx_view {
    const unsigned char *p; /* never NULL in a view that was got */
    size_t n;
    struct pnx_mapping *mapping;
};

/* Gets n bytes at offset; n may be 0.  -ERANGE, -ESHUTDOWN once the mapping is closed. */
PNX_API PNX_NODISCARD int pnx_view_get(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, struct pnx_view *ret_view);

/* Gets the whole mapping. */
PNX_API struct pnx_view pnx_view_all(struct pnx_mapping *mapping);

/* Gets n bytes at offset of a view, as a view.  -ERANGE. */
PNX_API PNX_NODISCARD int pnx_view_sub(
        const struct pnx_view *view, uint64_t offset, size_t n, struct pnx_view *ret_view);

/* Returns whether n bytes at offset lie in the view. */
static inline bool pnx_view_holds(const struct pnx_view *view, uint64_t offset, size_t n) {
    return offset <= view->n && n <= view->n - (size_t)offset;
}

/* Returns the address of n bytes at offset; NULL when out of range or not aligned to align, a power of two. */
static inline const void *pnx_view_at(
        const struct pnx_view *view, uint64_t offset, size_t n, size_t align) {
    if (!pnx_view_holds(view, offset, n))
        return NULL;
    const unsigned char *at = view->p + (size_t)offset;
    return ((uintptr_t)at & (align - 1)) == 0 ? at : NULL;
}

#ifdef __cplusplus
#define PNX_ALIGNOF_(type) alignof(type)
#else
#define PNX_ALIGNOF_(type) _Alignof(type)
#endif

/* A pointer to a const type at offset of a view (by address); NULL when out of range or misaligned. */
#define PNX_VIEW_AT(view, type, offset) \
    ((const type *)pnx_view_at((view), (offset), sizeof(type), PNX_ALIGNOF_(type)))

/*
 * Loads of numbers with the byte order in the name, at any alignment:
 *     pnx_view_u8, pnx_view_u16le, pnx_view_u16be, pnx_view_u32le, ... pnx_view_u64be
 * each (view, offset, ret_value); -ERANGE.
 */
PNX_NODISCARD static inline int pnx_view_u8(
        const struct pnx_view *view, uint64_t offset, uint8_t *ret_value) {
    if (!pnx_view_holds(view, offset, 1))
        return -ERANGE;
    *ret_value = view->p[(size_t)offset];
    return 0;
}

#define PNX_VIEW_LOAD_(bits, order, shift_of_byte_i) \
    PNX_NODISCARD static inline int pnx_view_u##bits##order( \
            const struct pnx_view *view, uint64_t offset, uint##bits##_t *ret_value) { \
        uint64_t value = 0; \
        if (!pnx_view_holds(view, offset, (bits) / 8)) \
            return -ERANGE; \
        for (unsigned i = 0; i < (bits) / 8; i++) \
            value |= (uint64_t)view->p[(size_t)offset + i] << (shift_of_byte_i); \
        *ret_value = (uint##bits##_t)value; \
        return 0; \
    }
PNX_VIEW_LOAD_(16, le, 8 * i)
PNX_VIEW_LOAD_(32, le, 8 * i)
PNX_VIEW_LOAD_(64, le, 8 * i)
PNX_VIEW_LOAD_(16, be, 8 * (1 - i))
PNX_VIEW_LOAD_(32, be, 8 * (3 - i))
PNX_VIEW_LOAD_(64, be, 8 * (7 - i))
#undef PNX_VIEW_LOAD_

PNX_END_DECLS
#endif /* PNX_MAPPING_H */
