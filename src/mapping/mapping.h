/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/mapping.h - the inside of a mapping.
 *
 *     opened --range empty----------> EMPTY
 *        |---small, asked, no size--> COPY
 *        +---map--ok----------------> MMAP
 *             +---refused, read-----> COPY
 *
 * open.c opens files and decides what is asked for, load.c chooses the backing, bytes.c makes and frees it, extent.c does
 * what concerns the file's length, layout.c checks content, view.c gives views and keeps them apart from resize.c, which
 * gives another length.  pages.c has advice, locks and flushes, mapping.c life and questions.
 *
 * In a mapping that is neither RESIZABLE nor a memfd, which can be sealed, nothing of this changes once it is open, so
 * nobody needs a lock to use it.
 */
#ifndef PNX_SRC_MAPPING_MAPPING_H
#define PNX_SRC_MAPPING_MAPPING_H

#include "base/atomic.h"
#include "base/env.h"
#include "mapping/fault_table.h"
#include "os/file.h"
#include "os/map.h"
#include "stats/stats.h"

#include <patinox/mapping.h>

#define PNX_GROUP     mapping
#define PNX_GROUP_DEF <patinox/stats/mapping.def>
#include "stats/declare_group.inc"

#define PNX_MAPPING_ALIGN \
    64 /* copies keep the alignment that the bytes have in the file, up to this */

/*
 * What holds the bytes; belongs to a mapping, or to whoever is about to give it to one.
 *
 *     MMAP:   base .. base + base_size is mapped; data lies inside; reserved >= base_size bytes of address space are ours
 *     COPY:   base .. base + base_size is allocated (paged: mapped), and charged; data lies inside; reserved is 0
 *     EMPTY:  base is NULL, size is 0, data is some address
 *
 * charged is what the budget was told: base_size of copies and of pages that are the process's own, else 0.
 */
struct pnx_mapping_bytes {
    enum pnx_mapping_backing backing;
    enum pnx_mapping_huge huge;
    unsigned char *data;
    size_t size;
    unsigned char *base;
    size_t base_size; /* MMAP, paged: whole pages */
    size_t reserved;
    size_t charged;
    bool paged;
    bool torn; /* a COPY of a file that was seen to change while it was read */
};

/*
 * Owned by its references.
 * Fixed once opened: all down to values, which are atomic, as are refs and closed.
 * Under the lock of all mappings (view.c): changing to busy; the bytes, too, where the mapping is RESIZABLE or memory, and
 * then they change only while changing, as do the seals.  Whoever has set changing may read all of them without the lock.
 */
struct pnx_mapping {
    struct pnx_fault_record fault; /* first: patinox/fault_inl.h */
    struct pnx_a64 refs;
    struct pnx_a32 closed; /* bool; set once */
    struct pnx_env env;
    char *name;
    struct pnx_registry *registry; /* holds a reference */
    pnx_resource_id row;
    struct pnx_budget *budget; /* holds a reference */
    struct pnx_stats_block block;
    struct pnx_mapping_values values;

    enum pnx_mapping_mode mode;
    uint32_t flags;
    int fd; /* -1: a pipe, which has been read to its end, anonymous memory, NO_DESCRIPTOR */
    bool anonymous;  /* no file */
    bool memory;     /* a memfd of ours: its pages are charged */
    bool snapshot;   /* the bytes have to be a copy that nobody wrote to meanwhile */
    char *directory; /* of a file that this mapping made: to be written back once, for its name */
    struct pnx_a32 named; /* bool: it has been */
    uint32_t generation;  /* of the process that opened it */
    uint64_t offset;      /* in the file */
    uint64_t reserve;
    size_t small_max;
    size_t copy_max;
    bool has_layout;
    struct pnx_layout layout;

    uint64_t changing;            /* the thread that changes it; 0: none */
    uint32_t changing_generation; /* ... of which process */
    bool moving;                  /* no view may be had */
    struct pnx_file_info
            seen;   /* the file when it was opened, or resized: what later looks compare with */
    uint64_t views; /* RESIZABLE: got and not released */
    uint64_t busy;  /* RESIZABLE, memory: calls that use the bytes */
    uint32_t busy_generation; /* ... in which process */
    struct pnx_a32 turns;     /* grows when somebody may go on.  A futex */
    uint32_t epoch;
    struct pnx_mapping_bytes bytes;

    /* Only for whoever has set changing. */
    struct pnx_file_info info; /* the file, as the bytes were got from it */
    bool lasting;              /* whatever pages there are, they are to be locked */
    size_t locked;             /* bytes */
    size_t locked_charged;     /* ... of which the budget heard only because of that */
    uint32_t seals;
    struct pnx_mapping *next_live; /* debug builds: view.c */
};

/* Whether the bytes may be stored to, as long as the seals are these. */
static inline bool pnx__mapping_writable(const struct pnx_mapping *mapping, uint32_t seals) {
    return mapping->mode == PNX_MAPPING_PRIVATE ||
           (mapping->mode == PNX_MAPPING_WRITE && !(seals & PNX_SEAL_WRITE));
}

/* ---- mapping.c ---- */

/* Ends a mapping, also a half-built one. */
void pnx__mapping_dispose(struct pnx_mapping *mapping);
/* Its faults, which the signal handler counts, as statistics. */
void pnx__mapping_refresh(const struct pnx_stats_block *block);
/* Gives it its row. */
int pnx__mapping_register(struct pnx_mapping *mapping, const char *site, struct pnx_error *err);

/*
 * Whether two looks at a file saw the same content.  In a shared writable mapping, whose own stores change the times, only
 * size and identity count.
 */
bool pnx__file_same(const struct pnx_file_info *then, const struct pnx_file_info *now,
        enum pnx_mapping_mode mode);

/* ---- bytes.c ---- */

/* Makes the bytes EMPTY. */
void pnx__bytes_empty(struct pnx_mapping_bytes *bytes);

/* Gives a copy room for capacity bytes, keeping the first keep of them.  On failure all is as it was. */
int pnx__bytes_room(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t capacity,
        size_t keep, struct pnx_error *err);
/* Where the copy's bytes begin. */
unsigned char *pnx__bytes_copy_at(
        const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes);
/* The room holds size bytes: complete. */
void pnx__bytes_copied(
        const struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t size);

/* Maps n > 0 bytes of the file, or without one.  *ret_refused: the error for which something else may be tried. */
int pnx__bytes_map(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n,
        int *ret_refused, struct pnx_error *err);

/* Fills err for a mapping that the system refused. */
int pnx__map_refused(struct pnx_error *err, int refused, size_t n);

/* Makes mapped bytes longer or shorter.  In place if that is possible: pnx__bytes_fits().  PRIVATE and anonymous content
 * stays.  On failure all is as it was. */
bool pnx__bytes_fits(const struct pnx_mapping *mapping, size_t n);
int pnx__bytes_grow(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n,
        struct pnx_error *err);
void pnx__bytes_shrink(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n);
/* Makes pages longer that are not those of the file, with their content, wherever there is room. */
int pnx__bytes_move(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes, size_t n);

/* Gives back whatever there is. */
void pnx__bytes_drop(struct pnx_mapping *mapping, struct pnx_mapping_bytes *bytes);

/* What fault handling is told of the bytes. */
struct pnx_fault_pages pnx__bytes_pages(
        const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes);

/* ---- load.c ---- */

/* Whether a file's size says nothing: a pipe, or one of /proc; or a file that is empty, which comes to the same. */
static inline bool pnx__streamed(
        const struct pnx_mapping *mapping, const struct pnx_file_info *info) {
    return !mapping->anonymous && mapping->mode != PNX_MAPPING_WRITE &&
           (info->kind == PNX_FILE_PIPE || info->size == 0);
}

/* Gets length bytes of the file, or all to its end.  *ret_refused is the error for which mmap was given up, or 0. */
int pnx__mapping_load(struct pnx_mapping *mapping, uint64_t length, bool to_end,
        struct pnx_mapping_bytes *ret_bytes, int *ret_refused, struct pnx_error *err);

/* ---- extent.c ---- */

/* Makes the file of fd reach to end, by blocks or by a hole.  *ret_before is its former size.  On failure it is as it was. */
int pnx__extend(int fd, uint64_t end, bool sparse, const char *name, uint64_t *ret_before,
        struct pnx_error *err);
/* Takes it back. */
void pnx__extend_undo(int fd, uint64_t end, uint64_t before);
/* Gives blocks to a range of the file. */
int pnx__allocate(int fd, uint64_t offset, uint64_t n, const char *name, struct pnx_error *err);

/* ---- layout.c ---- */

int pnx__layout_take(
        struct pnx_mapping *mapping, const struct pnx_layout *layout, struct pnx_error *err);
/* Writes what a fresh file begins with. */
int pnx__layout_init(struct pnx_mapping *mapping, struct pnx_error *err);
/* Whether the bytes hold what the layout says.  Calls the user's validate. */
int pnx__layout_check(struct pnx_mapping *mapping, struct pnx_error *err);
/* The same for bytes that the mapping is going to have. */
int pnx__layout_check_next(
        struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, struct pnx_error *err);

/* ---- view.c ---- */

/* Keeps n bytes at offset where they are until pnx__mapping_let_go(); copies what holds them.  -ERANGE, -ESHUTDOWN,
 * -EDEADLK from within a resize's callback, -ESTALE in a child forked while somebody moved them. */
int pnx__mapping_hold(struct pnx_mapping *mapping, uint64_t offset, size_t n,
        struct pnx_mapping_bytes *ret_bytes);
void pnx__mapping_let_go(struct pnx_mapping *mapping);

/* One at a time may change a mapping; others wait.  -EDEADLK, -ESTALE as above. */
int pnx__mapping_change(struct pnx_mapping *mapping);
void pnx__mapping_changed(struct pnx_mapping *mapping);
/* Notes more seals, where others look for them; by who changes it. */
void pnx__mapping_sealed(struct pnx_mapping *mapping, uint32_t seals);
/* Shuts views out: waits for calls that use the bytes.  -EBUSY with the number of live views. */
int pnx__mapping_move(struct pnx_mapping *mapping, uint64_t *ret_views);
/* Puts other bytes in, within a change, and lets views in again; moved: those that were got before are worthless. */
void pnx__mapping_put(
        struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, bool moved);

/* What can be seen of a mapping at one moment. */
struct pnx_mapping_look {
    struct pnx_mapping_bytes bytes;
    struct pnx_file_info seen;
    uint64_t views;
    uint32_t epoch;
    uint32_t seals;
};
struct pnx_mapping_look pnx__mapping_look(const struct pnx_mapping *mapping);

/* A view of bytes that nobody else sees yet, or that nobody changes. */
struct pnx_view pnx__view_of(
        const struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes);

/* Debug builds keep a list of the mappings that there are, so that a stale view is found out. */
uint32_t pnx__mapping_live(struct pnx_mapping *mapping); /* returns its first epoch */
void pnx__mapping_dead(struct pnx_mapping *mapping);

/* ---- pages.c ---- */

/* Locks the pages of bytes in memory, and charges for it.  Within a change, or before anybody else sees the mapping. */
int pnx__lock_bytes(struct pnx_mapping *mapping, const struct pnx_mapping_bytes *bytes, size_t from,
        struct pnx_error *err);

#endif
