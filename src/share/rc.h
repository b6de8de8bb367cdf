/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share/rc.h - rc from the inside: the header of an object, for rc.c and rc_on_drop.c; and taking references for
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
    uintptr_t type;             /* const struct pnx_rc_type *, and HAS_TAIL of rc.c */
};

static inline void *pnx__rc_object_of(struct pnx_rc_header *header) {
    return header + 1;
}

static inline struct pnx_rc_header *pnx__rc_header_of(const void *object) {
    return (struct pnx_rc_header *)(uintptr_t)object - 1;
}

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
