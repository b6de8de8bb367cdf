/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rc.h - rc from the inside: the header of an object, for src/share/rc*.c; and taking references for
 * containers that hold a lock or are in a section.
 */
#ifndef PNX_SRC_SHARE_RC_H
#define PNX_SRC_SHARE_RC_H

#include "base/atomic.h"

#include <patinox/rc.h>

/*
 * Stands directly before the object; its last four words are laid out alike in all builds.
 * Fixed: type.  Anybody: counts.  Under the lock of rc_on_drop.c, or alone: hooks.  The thread that let the last
 * reference go: link.
 */
struct pnx_rc_header {
#ifdef PNX_DEBUG
    uint64_t magic;
    uint64_t unused;
#endif
    struct pnx_aptr hooks;      /* struct pnx_rc_drop_node *, the one registered last */
    struct pnx_a64 counts;      /* where rc_inl.h expects it */
    struct pnx_rc_header *link; /* the queue of drops */
    uintptr_t type;             /* const struct pnx_rc_type *, and PNX_RC_HAS_TAIL */
};

/* Stands before the header, where its type says PNX_RC_HAS_TAIL. */
struct pnx_rc_tail {
    size_t bytes;               /* of the object, flexible part included */
    struct pnx_rc_tally *tally; /* counts as one of its references; may be NULL */
};
#define PNX_RC_HAS_TAIL ((uintptr_t)1) /* types are aligned, so this bit is free */
#define PNX_RC_UNIQUE   (PNX_RC_ONE_ | 1)

static inline void *pnx__rc_object_of(struct pnx_rc_header *header) {
    return header + 1;
}

static inline struct pnx_rc_header *pnx__rc_header_of(const void *object) {
    return (struct pnx_rc_header *)(uintptr_t)object - 1;
}

/* The same; a debug build aborts, and names where, if there is none. */
static inline struct pnx_rc_header *pnx__rc_header_in(const void *object, const char *where) {
    (void)where;
    PNX_RC_EXPECT_(object, NULL, where);
    return pnx__rc_header_of(object);
}

static inline const struct pnx_rc_type *pnx__rc_type_of(const struct pnx_rc_header *header) {
    return (const struct pnx_rc_type *)(header->type & ~PNX_RC_HAS_TAIL);
}

static inline size_t pnx__rc_bytes_of(const struct pnx_rc_header *header) {
    if (header->type & PNX_RC_HAS_TAIL)
        return ((const struct pnx_rc_tail *)(const void *)header - 1)->bytes;
    return pnx__rc_type_of(header)->object_size;
}

static inline struct pnx_rc_tally *pnx__rc_tally_of(const struct pnx_rc_header *header) {
    if (header->type & PNX_RC_HAS_TAIL)
        return ((const struct pnx_rc_tail *)(const void *)header - 1)->tally;
    return NULL;
}

/* Allocates an object with these counts, zeroed but for its header.  -EOVERFLOW, -ENOMEM. */
int pnx__rc_make(const struct pnx_rc_type *type, size_t bytes, uint64_t counts,
        struct pnx_rc_header **ret_header);

/* Frees the memory of an object that nobody else knows, without drop. */
void pnx__rc_free(struct pnx_rc_header *header);

/* Gives up one weak reference; the last one frees the memory. */
void pnx__rc_weak_unref(struct pnx_rc_header *header);

/* 0, -EINVAL, or -E2BIG for one that sets what this library does not know. */
int pnx__rc_check_type(const struct pnx_rc_type *type);

/* Calls what was registered by pnx_rc_on_drop(), last first; the object has no references any more. */
void pnx__rc_run_hooks(struct pnx_rc_header *header);

/* Hands what was registered for one object on to another, which nobody else knows. */
void pnx__rc_move_hooks(struct pnx_rc_header *from, struct pnx_rc_header *to);

/*
 * Tallies: reserve asks the budget before the memory is had (-ENOMEM), add counts an object, remove uncounts it
 * when its memory is gone and gives its bytes back.
 */
int pnx__rc_tally_reserve(struct pnx_rc_tally *tally, size_t bytes);
void pnx__rc_tally_unreserve(struct pnx_rc_tally *tally, size_t bytes);
void pnx__rc_tally_add(struct pnx_rc_tally *tally, size_t bytes);
void pnx__rc_tally_remove(struct pnx_rc_tally *tally, size_t bytes);
enum pnx__rc_count {
    PNX__RC_COPY,
    PNX__RC_MOVE,
    PNX__RC_EXCLUSIVE,
    PNX__RC_LEAK,
    PNX__RC_CLONE,
};
void pnx__rc_tally_count(struct pnx_rc_tally *tally, enum pnx__rc_count what);

static inline void pnx__rc_count_for(const struct pnx_rc_header *header, enum pnx__rc_count what) {
    struct pnx_rc_tally *tally = pnx__rc_tally_of(header);
    if (tally)
        pnx__rc_tally_count(tally, what);
}

/*
 * Takes a reference without ever calling out.  Returns whether this one drove the count out of its range: then
 * the caller calls pnx__rc_report() once it holds no lock.
 */
bool pnx__rc_saturates(const void *object, uint64_t before);
static inline bool pnx__rc_ref_silent(const void *object) {
    uint64_t before = pnx_rc_take_(object);
    return !pnx_rc_took_in_range_(before) && pnx__rc_saturates(object, before);
}
void pnx__rc_report(const void *object);

#ifdef PNX_DEBUG
/* For tests: sets both counts of an object, to bring it near its limits. */
void pnx__rc_set_counts(const void *object, uint32_t strong, uint32_t weak);
/* For tests: pnx_rc_unref() as it works on a thread whose record could not be had. */
void pnx__rc_unref_without_record(const void *object);
#endif

#endif
