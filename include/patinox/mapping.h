/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/mapping.h - files as memory, behind views that check every range.
 *
 * A mapping shows a range of a file, or memory without one.  What holds the bytes is its backing, which the caller need
 * not care about:
 *
 *   MMAP    the pages of the file itself, or pages of the process (private and anonymous mappings)
 *   COPY    memory that was filled by reading: pipes, files of /proc and /sys, small ranges, files that the system will
 *           not map, and whatever is opened with PNX_MAPPING_COPY
 *   EMPTY   no bytes at all
 *
 * A file that is cut short while it is mapped, or that cannot be read, or a hole for which the disk has no room, raises
 * SIGBUS at the load or store that meets it: patinox/fault.h turns that into an error code, and says what else helps.
 *
 *   P1  A view never reaches outside its mapping, nor a load or store outside its view: -ERANGE or NULL instead,
 *       whatever the offsets, also when they overflow.
 *   P2  Whether a typed access is aligned follows from the offset in the file alone, for alignments up to 64;
 *       it is the same for all backings.
 *   P3  The bytes stay where they are, and stay mapped, until the last reference is released; in a resizable mapping
 *       until its last view is released.
 *   P4  A COPY does not change when the file does.  Copies, private, anonymous and locked pages are charged to the
 *       budget for as long as they live.
 *   P5  Opening by descriptor neither takes the descriptor nor moves its position, save where reading is the only
 *       way: pipes and sockets, which are read to their end, and kernel files that have no offsets.
 *   P6  A call that fails leaves the mapping as it was, and the file as long as it was: opening and resizing, too.
 *   P7  What was extended with PNX_MAPPING_EXTEND, or allocated with PNX_MAPPING_ALLOCATE, has its blocks: a store
 *       there cannot fail for want of room, on file systems that keep their word (copy-on-write ones may not).
 *   P8  A mapping with a layout shows only data that passed its checks when it was opened and at each resize.
 */
#ifndef PNX_MAPPING_H
#define PNX_MAPPING_H

#include <patinox/base.h>
#include <patinox/budget.h>
#include <patinox/error.h>
#include <patinox/mapping_inl.h>
#include <patinox/registry.h>
#include <patinox/stats.h>

PNX_BEGIN_DECLS

struct pnx_mapping; /* reference-counted; safe to use from any thread */

enum pnx_mapping_mode {
    PNX_MAPPING_READ = 0,
    PNX_MAPPING_WRITE = 1,   /* shared: stores reach the file, and whoever else maps it */
    PNX_MAPPING_PRIVATE = 2, /* copy on write: stores stay in this mapping */
};

enum pnx_mapping_flags {
    /* Read the bytes now: later changes of the file, truncation too, do not matter.  Not with WRITE. */
    PNX_MAPPING_COPY = 1 << 0,
    /* Map or fail: never read instead, neither small ranges nor when the system refuses. */
    PNX_MAPPING_NO_COPY = 1 << 1,
    /* Make the file if there is none; with EXCLUSIVE it must not be there.  Both need WRITE. */
    PNX_MAPPING_CREATE = 1 << 2,
    PNX_MAPPING_EXCLUSIVE = 1 << 3,
    /* Lengthen a file that ends before offset + length, which length must say, by real blocks.  Needs WRITE. */
    PNX_MAPPING_EXTEND = 1 << 4,
    /* Lengthen by a hole: costs no room now, and SIGBUS when there is none at the store.  With EXTEND, or a resize. */
    PNX_MAPPING_SPARSE = 1 << 5,
    /* Give real blocks to the holes of the range, too.  Needs WRITE. */
    PNX_MAPPING_ALLOCATE = 1 << 6,
    /* pnx_mapping_resize() may be called; views are counted, and must be released. */
    PNX_MAPPING_RESIZABLE = 1 << 7,
    PNX_MAPPING_LOCK = 1 << 8,     /* as pnx_mapping_lock() does, or fail */
    PNX_MAPPING_POPULATE = 1 << 9, /* as pnx_mapping_populate() does, or fail */
    PNX_MAPPING_HUGE = 1 << 10,    /* huge pages where they can be had; info says what came of it */
    /* The pages are left out of core dumps; a child of fork() does not have them, or has zeros (anonymous only).  A
     * system that cannot do so fails the opening: -ENOTSUP, as Windows does for NO_DUMP. */
    PNX_MAPPING_NO_DUMP = 1 << 11,
    PNX_MAPPING_NO_FORK = 1 << 12,
    PNX_MAPPING_WIPE_ON_FORK = 1 << 13,
    /* Show the file as it is now, whatever becomes of it: a clone of its blocks where the file system can, else a copy,
     * which copy_max bounds.  With READ and PRIVATE. */
    PNX_MAPPING_SNAPSHOT = 1 << 14,
    /* Keep no descriptor: for tens of thousands of mappings.  There is no changed(), durable flush, resize or
     * checked scope then (-ENOTSUP). */
    PNX_MAPPING_NO_DESCRIPTOR = 1 << 15,
};

/* How the bytes will be used: a hint to the system, never an error. */
enum pnx_mapping_advice {
    PNX_ADVICE_NORMAL = 0,
    PNX_ADVICE_SEQUENTIAL = 1, /* from front to back: reads ahead further */
    PNX_ADVICE_RANDOM = 2,     /* here and there: does not read ahead */
    PNX_ADVICE_WILLNEED = 3,   /* soon: starts reading now */
    PNX_ADVICE_DONTNEED = 4,   /* not for a while: the pages may go; their content does not */
    PNX_ADVICE_COLD = 5,       /* among the first to go when memory is short */
};

enum pnx_mapping_backing {
    PNX_BACKING_MMAP = 1,
    PNX_BACKING_COPY,
    PNX_BACKING_EMPTY,
};

/* ---- layouts: what the bytes must look like ---- */

enum pnx_layout_flags {
    PNX_LAYOUT_PARTIAL =
            1, /* the last record may be incomplete, as in a log that is being written */
};

/*
 * What a mapping must hold: a header of header_size bytes, then records.  Zero switches a check off, of every field but
 * size.  Copied at opening, but what it points to must outlive the mapping.  Offsets count from the mapping's first byte.
 * A file that EXTEND lengthens from nothing, and all-zero anonymous memory, get magic, version and marker written.
 */
struct pnx_layout {
    size_t size;       /* set by PNX_LAYOUT */
    const void *magic; /* magic_size bytes that stand at magic_offset */
    size_t magic_size;
    uint64_t magic_offset;
    uint64_t header_size; /* bytes before the first record */
    size_t record_size;   /* what follows the header is a multiple of it */
    size_t record_align;  /* a power of two: the first record lies so in the file */
    uint64_t
            version_offset; /* of a uint32_t in the machine's byte order, from version_min to version_max */
    uint32_t version_min;
    uint32_t version_max;   /* 0: the version is not checked */
    uint64_t marker_offset; /* of a uint32_t that tells the byte order of who wrote the file ... */
    uint32_t
            marker; /* ... such as 0x01020304; the swapped value is named in the error.  0: not checked */
    uint32_t flags; /* enum pnx_layout_flags */
    void *ctx;
    /* Writes what a file that was empty begins with; after magic, version and marker. */
    int (*init)(void *ctx, const struct pnx_view *view);
    /* Checks whatever else must hold: 0, or a negative error, which becomes err's cause.  Runs with no lock held, when
     * the mapping is opened and at each resize, on the bytes as they will be.  Must not use the mapping itself. */
    int (*validate)(void *ctx, const struct pnx_view *view);
};
#ifndef __cplusplus
#define PNX_LAYOUT(...) (&(const struct pnx_layout){.size = sizeof(struct pnx_layout), __VA_ARGS__})
#else
static inline struct pnx_layout pnx_layout_init(void) {
    struct pnx_layout layout = pnx_layout();
    layout.size = sizeof(layout);
    return layout;
}
#endif

/* ---- opening ---- */

/* Zero selects the default of every field. */
struct pnx_mapping_opts {
    size_t size;               /* set by PNX_MAPPING_OPTS */
    const char *name;          /* copied; default: the path, "descriptor", "anonymous" or "memfd" */
    const char *site;          /* set by PNX_MAPPING_OPTS */
    const struct pnx_env *env; /* default: the system's */
    struct pnx_registry *registry; /* default: the process's; pnx_registry_off() */
    struct pnx_stats *stats;       /* default: the process's; pnx_stats_off() */
    struct pnx_budget *budget; /* pays for what P4 says; default: the process's; pnx_budget_off() */
    const struct pnx_layout *layout; /* checks of the content; default: none */
    uint64_t offset;                 /* where in the file it begins; need not be page-aligned */
    uint64_t length;                 /* bytes; default: to the end of the file */
    uint64_t
            reserve; /* address space, in bytes, within which a resizable mapping grows without moving; default: none.
                      * On Windows for anonymous memory only, else -ENOTSUP */
    size_t small_max;     /* ranges up to this size are read, not mapped; default 16 KiB */
    size_t copy_max;      /* most bytes that a copy may have; default 64 MiB */
    uint32_t mode;        /* enum pnx_mapping_mode; default PNX_MAPPING_READ */
    uint32_t permissions; /* of a file that is made, less the umask; default 384 (octal 0600) */
    uint32_t advice;      /* enum pnx_mapping_advice; default PNX_ADVICE_NORMAL */
    uint32_t flags;       /* enum pnx_mapping_flags */
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
 * Opens a file and maps it.  opts may be NULL.  The descriptor stays open as long as the mapping, a pipe's and
 * NO_DESCRIPTOR's excepted.  Blocks on a FIFO until a writer has come and gone.  err names the phase: "options", "open",
 * "extend", "map", "read", "snapshot", "policy", "lock", "populate", "layout", "budget", "allocate", or what the registry
 * said.
 * -ENOENT, -EACCES and the like as the system gives them; -EEXIST with EXCLUSIVE; -EISDIR; -ENODEV for a device or a
 * socket, and for what cannot be mapped but would have to be; -ERANGE when offset or length reach beyond the end; -EFBIG
 * when the bytes had to be copied and are more than copy_max, or do not fit the address space; -ENOSPC and the like when
 * the file could not be lengthened; PNX_E_FORMAT when the content is not as the layout says; -ENOMEM when the budget, the
 * allocator, the address space, or the number of mappings that a process may have (the message says which) is at its end;
 * -ESTALE and -EIO when the file was cut, or could not be read, while a snapshot copied it or its layout was checked; -EAGAIN
 * when it kept changing while a snapshot copied it, when others made and removed it each time that CREATE looked, and for a
 * pipe that is empty and does not block; -ENOTSUP for a policy that the system does not know; -EBUSY when the process has no
 * reclaim domain left for access scopes; -EINVAL, -E2BIG for the options; -ESHUTDOWN.
 */
PNX_API PNX_NODISCARD int pnx_mapping_open(const char *path, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping);

/*
 * The same for an open descriptor, which stays the caller's and must be open for what mode wants.  A connected socket is
 * read like a pipe: to its end, however long the other side takes.  CREATE is -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_mapping_open_fd(int fd, const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping);

/*
 * Maps memory without a file: zeroed, the process's own (a forked child has a copy), and writable.  opts->length is
 * required; offset, mode and the flags that concern files must be 0 (-EINVAL).  Charged to the budget as a whole.
 */
PNX_API PNX_NODISCARD int pnx_mapping_open_anonymous(const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping);

/*
 * Makes a file without a name, length zero bytes long, and maps it with WRITE: memory that other processes can map, too,
 * by the descriptor of pnx_mapping_fd().  Its content can be made unchangeable: pnx_mapping_seal().  Charged as a whole.
 * -ENOTSUP on Windows.
 */
PNX_API PNX_NODISCARD int pnx_mapping_open_memfd(const struct pnx_mapping_opts *opts,
        struct pnx_error *err, struct pnx_mapping **ret_mapping);

/* Takes another reference and returns the mapping.  NULL-safe. */
PNX_API struct pnx_mapping *pnx_mapping_ref(struct pnx_mapping *mapping);

/*
 * Drops a reference; with the last one all views end.  NULL-safe, clears *mapping, cannot fail.  What was written
 * reaches the file, and the disk when the system sees fit: flush before, where that matters.
 */
PNX_API void pnx_mapping_release(struct pnx_mapping **mapping);

/* Declares a mapping that is released at the end of the scope:  PNX_AUTO_MAPPING mapping = NULL; */
#define PNX_AUTO_MAPPING PNX_CLEANUP(pnx_mapping_release) struct pnx_mapping *

/*
 * Closes the mapping: no view and no copy is to be had any more, nor a resize (-ESHUTDOWN; pnx_view_all() gives an empty
 * one).  Views that are out stay valid until the last reference goes, which is also when the bytes are unmapped or freed:
 * under somebody's view they must not.  NULL-safe, idempotent, any thread.  A shutdown of the registry does the same.
 */
PNX_API void pnx_mapping_close(struct pnx_mapping *mapping);

/* ---- questions ---- */

/* Returns what holds the bytes. */
PNX_API enum pnx_mapping_backing pnx_mapping_backing(const struct pnx_mapping *mapping);

/* Returns how many bytes the mapping has; only pnx_mapping_resize() changes it. */
PNX_API size_t pnx_mapping_size(const struct pnx_mapping *mapping);

/* Returns the mapping's own descriptor, to be lent, duplicated or sent, not closed; -1 when there is none. */
PNX_API int pnx_mapping_fd(const struct pnx_mapping *mapping);

enum pnx_mapping_huge {
    PNX_HUGE_NONE = 0,
    PNX_HUGE_ADVISED, /* the system was asked for them, and will make them if it can */
    PNX_HUGE_PAGES,   /* the memory consists of them (anonymous mappings) */
};

struct pnx_mapping_info {
    size_t size; /* set by you: how much of this struct you know */
    enum pnx_mapping_backing backing;
    enum pnx_mapping_mode mode;
    enum pnx_mapping_huge huge;
    uint32_t flags;   /* as opened */
    uint32_t epoch;   /* grows whenever bytes moved or were given up; never 0 */
    uint32_t seals;   /* enum pnx_seal: of the descriptor, when it was opened or sealed here */
    uint64_t offset;  /* in the file */
    uint64_t length;  /* bytes, as pnx_mapping_size() */
    uint64_t reserve; /* bytes to which it can grow without moving, at least length */
    uint64_t charged; /* to the budget: copies, private, anonymous and locked pages */
    uint64_t views;   /* of a resizable mapping: got and not yet released */
    uint64_t locked;  /* bytes held in memory by pnx_mapping_lock() */
};

/* Fills *ret_info up to its size, which the caller sets.  -EINVAL. */
PNX_API int pnx_mapping_read_info(struct pnx_mapping *mapping, struct pnx_mapping_info *ret_info);

/*
 * Asks whether the file is still as it was when it was opened or last resized: the same size, modification and status
 * change time, and identity.  One fstat; does not look at the path, so a file that was replaced by rename() is unchanged:
 * the mapping has the old one, whole.  A change within one tick of the file system's clock (some ms) may be missed.
 * The status change time is not compared when the file has more or fewer names than it had, which moves that time.
 * In a WRITE mapping, whose own stores change the times, only size and identity are compared.
 * 0 unchanged, -ESTALE changed, -ENOTSUP for a pipe, a file of /proc, or where there is no descriptor, -EIO and the like
 * when the system cannot tell; -EINVAL.
 */
PNX_API PNX_NODISCARD int pnx_mapping_changed(struct pnx_mapping *mapping);

/*
 * Copies n bytes at offset to dst, by a system call where the backing is MMAP, so that it fails where a load
 * would raise SIGBUS.  On failure the content of dst is undefined.  Any thread; may wait for the disk.
 * -ERANGE outside the mapping, -ESTALE when the file has become too short, -EIO, -ENOMEM, -ESHUTDOWN once it is closed,
 * -EDEADLK from within a layout's validate, -EINVAL; where a sandbox forbids process_vm_readv(), and the mapping is private or
 * has no descriptor, as pnx_fault_copy_out().
 */
PNX_API PNX_NODISCARD int pnx_mapping_copy_out(
        struct pnx_mapping *mapping, uint64_t offset, void *dst, size_t n);

/* ---- growing and shrinking ---- */

enum pnx_resize_flags {
    PNX_RESIZE_TRUNCATE = 1, /* cut the file, too, behind the mapping's new end; needs WRITE */
    PNX_RESIZE_SPARSE = 2,   /* lengthen the file by a hole (see PNX_MAPPING_SPARSE) */
};
#define PNX_RESIZE_TO_FILE UINT64_MAX /* as a length: to where the file ends now */

/*
 * Gives the mapping another length.  A WRITE mapping lengthens a file that is too short, by real blocks unless told
 * otherwise, before anything is mapped; other modes never change the file.  Within opts.reserve it grows in place, and
 * views stay valid; otherwise, and to shrink, no view may be live, and the epoch rises, since the bytes may have moved.
 * Threads that ask for a view meanwhile wait.  A COPY is read anew.  Private and anonymous bytes are kept; those that an
 * anonymous mapping gains are zero.  A layout is checked on the bytes as they will be.  Blocks; any thread, but not from
 * within an access scope (patinox/fault.h) on this thread: -EDEADLK.  Waits until no scope is open, of any mapping, before it
 * shuts views out: who is in a scope may ask for a view.
 * Windows cuts no file that anybody has mapped: TRUNCATE takes the pages away first (-EBUSY when others have them, too; should
 * they then not be had again the mapping is closed, and empty), and a resize that fails under live views leaves the file longer.
 * -ETIMEDOUT when an access scope stays open for 10 s; PNX_E_BROKEN when scopes cannot be waited for any more; -EBUSY
 * when live views stand in the way (err names the count); -ENOTSUP when it was not opened RESIZABLE, or is sealed, or
 * cannot change (a pipe, a snapshot); -ERANGE beyond the end of the file in READ and PRIVATE; -ESTALE when pages of a
 * PRIVATE mapping have been lost; -ENOSPC and the like; -EFBIG; PNX_E_FORMAT; -ENOMEM; -EINVAL for unknown flags;
 * -ESHUTDOWN.
 */
PNX_API PNX_NODISCARD int pnx_mapping_resize(
        struct pnx_mapping *mapping, uint64_t length, uint32_t flags, struct pnx_error *err);

/* ---- from memory to disk ---- */

enum pnx_flush {
    /* Begins to write the range's dirty pages and returns.  Promises nothing; errors show at the next SYNC or DURABLE. */
    PNX_FLUSH_START = 1,
    /* Has the range written: what was stored before the call has reached the disk (msync).  A file that grew, and one
     * that is new, may yet lack its size, or its name, after a crash of the system. */
    PNX_FLUSH_SYNC = 2,
    /* SYNC, and the file's size and other metadata that reading it needs (fdatasync, of the whole file); for a file that
     * was made by this mapping its name as well. */
    PNX_FLUSH_DURABLE = 3,
};

/*
 * Writes n bytes at offset of a WRITE mapping back.  Any thread; SYNC and DURABLE wait for the disk.  Other processes that
 * map the file see stores at once, without this.
 * -ENOTSUP in other modes, and for DURABLE without a descriptor; -ERANGE; -EINVAL; -ESTALE when the file was cut; -EIO,
 * -ENOSPC, -EDQUOT: some pages could not be written, which the system reports once only; -ESHUTDOWN once it is closed: what
 * was stored is the system's to write then.  From within a layout's validate, -EDEADLK.
 */
PNX_API PNX_NODISCARD int pnx_mapping_flush(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_flush how);

/* ---- pages ---- */

/*
 * Gives advice for a range.  Returns 0, or 1 when it has no effect here (another backing, a closed mapping, or the system
 * does not care); -ERANGE and -EINVAL for arguments that make no sense.
 */
PNX_API int pnx_mapping_advise(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_mapping_advice advice);

/*
 * Keeps all pages of the mapping in memory until they are unlocked or unmapped, and charges them to the budget, unless
 * they are already.  A resize locks what it adds.  Idempotent; waits for the disk.
 * -EPERM or -ENOMEM when RLIMIT_MEMLOCK stands in the way (err says limit and need) or the budget does; -EAGAIN when the
 * system could not; -ESTALE when the file was cut; -ENOTSUP for a copy on the heap; -EDEADLK from within a layout's validate;
 * -EINVAL.  From within an access scope it may wait for another thread's resize, which waits for the scope, until that gives up.
 */
PNX_API PNX_NODISCARD int pnx_mapping_lock(struct pnx_mapping *mapping, struct pnx_error *err);

/* Takes back pnx_mapping_lock(); one that was not locked is fine. */
PNX_API void pnx_mapping_unlock(struct pnx_mapping *mapping);

enum pnx_populate {
    PNX_POPULATE_READ = 1,  /* have the pages there for loads */
    PNX_POPULATE_WRITE = 2, /* ... and for stores: private copies made, blocks of holes found */
};

/*
 * Brings a range into memory now, so that the first touch costs nothing; also the probe that tells where a touch would
 * raise SIGBUS.  What it says holds until somebody changes the file.
 * Returns 0 when the pages are there, 1 when the system cannot do that (Linux before 5.14) and the range was only read, if
 * there is a file to read it from.
 * -ESTALE beyond the file's end, -EIO, -ENOSPC or -EDQUOT for a hole without room, -ENOMEM, -EACCES to WRITE into a
 * read-only mapping, -EAGAIN when the system refuses pages that are there, -ERANGE, -EINVAL, -ESHUTDOWN once it is closed,
 * -EDEADLK from within a layout's validate.
 */
PNX_API PNX_NODISCARD int pnx_mapping_populate(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, enum pnx_populate how);

/* ---- seals: memory that several processes trust ---- */

enum pnx_seal {
    PNX_SEAL_SHRINK = 1, /* cannot be cut: no SIGBUS, and access scopes cost nothing */
    PNX_SEAL_GROW = 2,   /* cannot grow */
    PNX_SEAL_WRITE =
            4, /* content cannot change; this mapping becomes read-only, its views must have ended */
    PNX_SEAL_SEAL = 8, /* no further seals */
};

/*
 * Seals the file of a pnx_mapping_open_memfd() mapping.  WRITE remaps it (at the same address), for which the caller must
 * see to it that no view is written through any more, and for which no other process may have it mapped writable; it
 * implies SHRINK and GROW.  Idempotent.  Blocks until no access scope (patinox/fault.h) is open, of any mapping.
 * -EBUSY when somebody maps it writable, or live views of a resizable mapping are out; -EPERM when it has PNX_SEAL_SEAL;
 * -ENOTSUP for what is no memfd; -EDEADLK from within an access scope on this thread; -ETIMEDOUT when another thread's
 * stays open for 10 s; -EINVAL.  What the system says, -ENOMEM or the like, when WRITE cannot map it again: the mapping is
 * closed then (the message says so).
 */
PNX_API PNX_NODISCARD int pnx_mapping_seal(
        struct pnx_mapping *mapping, uint32_t seals, struct pnx_error *err);

/* ---- numbers ---- */

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
 * A view (struct pnx_view, mapping_inl.h) holds no reference: it must not outlive the caller's.  Views of a RESIZABLE
 * mapping are counted as live until pnx_view_release(), and hold off a resize that would move or cut the bytes; views of
 * others need no release, though one does no harm.  A pnx_view_sub() is never counted: it ends with the view that it is
 * part of.  Getting a view never blocks, save while a resize moves the bytes or a seal maps them again.
 */

/* Gets n bytes at offset; n may be 0.  -ERANGE, -ESHUTDOWN once the mapping is closed; -ESTALE in a child that was forked
 * while another thread of the parent moved the bytes; -EDEADLK from within a layout's validate; -EINVAL. */
PNX_API PNX_NODISCARD int pnx_view_get(
        struct pnx_mapping *mapping, uint64_t offset, size_t n, struct pnx_view *ret_view);

/* Gets the whole mapping, as long as it is now. */
PNX_API struct pnx_view pnx_view_all(struct pnx_mapping *mapping);

/* Gets n bytes at offset of a view, as a view.  -ERANGE. */
PNX_API PNX_NODISCARD int pnx_view_sub(
        const struct pnx_view *view, uint64_t offset, size_t n, struct pnx_view *ret_view);

/* Ends a view: a counted one lets resizes go on.  Clears *view; an empty one is fine, NULL too. */
PNX_API void pnx_view_release(struct pnx_view *view);

/* Declares a view that is released at the end of the scope:  PNX_AUTO_VIEW view = {0}; */
#define PNX_AUTO_VIEW PNX_CLEANUP(pnx_view_release) struct pnx_view

PNX_END_DECLS
#endif /* PNX_MAPPING_H */
