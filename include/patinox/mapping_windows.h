/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/mapping_windows.h - files larger than the address space, or than one cares to map: window by window.
 *
 * A reader shows a file as a sequence of windows, of which one is mapped at a time:
 *
 *     struct pnx_view view;
 *     while ((rc = pnx_windows_next(windows, &err, &view)) > 0)
 *         ...
 *
 *   P1  The windows cover the range from the first to the last byte, in order, each byte in exactly one of them, the
 *       overlap excepted.
 *   P2  Every window but the last is a multiple of unit, so that no record of that size is cut.
 *   P3  Never more than one window is mapped, unless the caller takes references of its own.
 */
#ifndef PNX_MAPPING_WINDOWS_H
#define PNX_MAPPING_WINDOWS_H

#include <patinox/mapping.h>

PNX_BEGIN_DECLS

struct pnx_windows; /* belongs to one thread at a time */

/* Zero selects the default of every field. */
struct pnx_windows_opts {
    size_t size;               /* set by PNX_WINDOWS_OPTS */
    const char *name;          /* copied; default: the path, or "descriptor" */
    const char *site;          /* set by PNX_WINDOWS_OPTS */
    const struct pnx_env *env; /* default: the system's */
    struct pnx_registry
            *registry;       /* has the row of the window that is mapped; default: the process's */
    struct pnx_stats *stats; /* has its block; default: the process's; pnx_stats_off() */
    struct pnx_budget *budget; /* pays for windows that had to be copied; default: the process's */
    uint64_t offset;           /* where in the file the first window begins */
    uint64_t length;           /* bytes of all windows together; default: to the end of the file */
    size_t window;  /* bytes in one, rounded down to a multiple of unit; default 64 MiB */
    size_t overlap; /* bytes that a window shows of the next one, at its end; default 0 */
    size_t unit; /* size of a record: windows begin at multiples of it from offset on; default 1 */
    uint32_t advice; /* enum pnx_mapping_advice for each window; default PNX_ADVICE_SEQUENTIAL */
    uint32_t flags;  /* PNX_MAPPING_COPY, NO_COPY, POPULATE, NO_DUMP, NO_FORK: for each window */
};

/* Names only the options that differ: PNX_WINDOWS_OPTS(.window = 1 << 20). */
#ifndef __cplusplus
#define PNX_WINDOWS_OPTS(...) \
    (&(const struct pnx_windows_opts){ \
            .size = sizeof(struct pnx_windows_opts), .site = PNX_SITE, __VA_ARGS__})
#else
static inline struct pnx_windows_opts pnx_windows_opts_init(void) {
    struct pnx_windows_opts opts = pnx_windows_opts();
    opts.size = sizeof(opts);
    return opts;
}
#endif

/*
 * Opens a regular file for reading in windows; maps nothing yet.  opts may be NULL.
 * As pnx_mapping_open() fails; -ENODEV also for a pipe, which cannot be seen in windows.
 */
PNX_API PNX_NODISCARD int pnx_windows_open(const char *path, const struct pnx_windows_opts *opts,
        struct pnx_error *err, struct pnx_windows **ret_windows);

/* The same for a descriptor, which stays the caller's. */
PNX_API PNX_NODISCARD int pnx_windows_open_fd(int fd, const struct pnx_windows_opts *opts,
        struct pnx_error *err, struct pnx_windows **ret_windows);

/*
 * Maps the next window and shows it; the one before ends, and with it all its views, unless somebody has a reference of
 * view.mapping.  Returns 1; 0 at the end, with *ret_view untouched; after an error the same window is tried again.
 * -ESTALE when the file has become too short for it, and whatever pnx_mapping_open_fd() returns.
 */
PNX_API PNX_NODISCARD int pnx_windows_next(
        struct pnx_windows *windows, struct pnx_error *err, struct pnx_view *ret_view);

/*
 * Makes the window that holds the byte at position, counted from opts.offset, the next one.  Position may be the length:
 * then there is none.  -ERANGE beyond that, -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_windows_seek(struct pnx_windows *windows, uint64_t position);

/* Returns where the window that was shown last begins, counted from opts.offset; 0 when none was. */
PNX_API uint64_t pnx_windows_position(const struct pnx_windows *windows);

/* Returns the bytes of all windows together. */
PNX_API uint64_t pnx_windows_length(const struct pnx_windows *windows);

/* Ends it, and the window that is mapped.  NULL-safe, clears *windows, cannot fail. */
PNX_API void pnx_windows_release(struct pnx_windows **windows);

PNX_END_DECLS
#endif /* PNX_MAPPING_WINDOWS_H */
