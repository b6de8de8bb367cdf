/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/rc_inl.h - the inline part of patinox/rc.h: taking a reference and letting one go.  Include that one.
 *
 * What is frozen by being inlined into programs, and held by a test (share.rc_layout.*): before an object stand
 * PNX_RC_COUNTS_BEFORE_ bytes at whose start is one 64-bit word, strong references in its high half, weak ones in
 * its low half, so that a reference let go too often borrows from nothing; in range is 1 to 2^31.  Everything else about the memory before an object is the
 * library's own.  One read-modify-write and one test each; whatever is not the common case is a call:
 *   ref     found 0, or 2^31 or more: the count leaves its range, or is out of it
 *   unref   found 1: that was the last reference; or 0, or 2^31 or more, as above
 */
#ifndef PNX_RC_INL_H
#define PNX_RC_INL_H

#include <patinox/atomic_inl.h>

PNX_BEGIN_DECLS

#define PNX_RC_COUNTS_BEFORE_ 24
#define PNX_RC_LIMIT_         UINT32_C(0x80000000)
#define PNX_RC_ONE_           (UINT64_C(1) << 32)

/* What ref and unref do after they found before, a count that is not the common one. */
PNX_API void pnx_rc_ref_slow_(const void *object, uint64_t before);
PNX_API void pnx_rc_unref_slow_(const void *object, uint64_t before);

/*
 * A debug build of the library aborts here, with a message that names where, when object is not alive in rc, or
 * not of type (NULL: any).  Programs built with PNX_DEBUG call it; in other builds of the library it does nothing.
 */
struct pnx_rc_type;
PNX_API void pnx_rc_expect_(const void *object, const struct pnx_rc_type *type, const char *where);
PNX_API void pnx_rc_count_clone_(const void *object); /* likewise: tells the object's tally */
#ifdef PNX_DEBUG
#define PNX_RC_COUNT_CLONE_(object)         pnx_rc_count_clone_(object)
#define PNX_RC_EXPECT_(object, type, where) pnx_rc_expect_(object, type, where)
#else
#define PNX_RC_COUNT_CLONE_(object)         ((void)0)
#define PNX_RC_EXPECT_(object, type, where) ((void)0)
#endif

static inline struct pnx_a64 *pnx_rc_counts_(const void *object) {
    return (struct pnx_a64 *)(void *)((char *)(uintptr_t)object - PNX_RC_COUNTS_BEFORE_);
}

/* Takes a reference; returns what the word was. */
static inline uint64_t pnx_rc_take_(const void *object) {
    PNX_RC_EXPECT_(object, NULL, "pnx_rc_ref");
    PNX_RC_COUNT_CLONE_(object);
    /* relaxed: the caller holds a reference already; the new one needs nothing that the old one had not */
    return pnx__fetch_add(pnx_rc_counts_(object), PNX_RC_ONE_, PNX_RELAXED, "rc.ref");
}

static inline bool pnx_rc_took_in_range_(uint64_t before) {
    return (uint32_t)(before >> 32) - 1U < PNX_RC_LIMIT_ - 1U;
}

static inline void *pnx_rc_ref(const void *object) {
    if (object) {
        uint64_t before = pnx_rc_take_(object);
        if (__builtin_expect(!pnx_rc_took_in_range_(before), 0))
            pnx_rc_ref_slow_(object, before);
    }
    return (void *)(uintptr_t)object;
}

static inline void pnx_rc_unref(const void *object) {
    if (!object)
        return;
    PNX_RC_EXPECT_(object, NULL, "pnx_rc_unref");
    /* release: what this holder did comes before the drop; pairs with rc.last and rc.unique */
    uint64_t before = pnx__fetch_sub(pnx_rc_counts_(object), PNX_RC_ONE_, PNX_RELEASE, "rc.unref");
    if (__builtin_expect((uint32_t)(before >> 32) - 2U >= PNX_RC_LIMIT_ - 2U, 0))
        pnx_rc_unref_slow_(object, before);
}

static inline bool pnx_rc_unique(const void *object) {
    PNX_RC_EXPECT_(object, NULL, "pnx_rc_unique");
    /* acquire: pairs with rc.unref, rc.weak_unref; everything that former holders did is visible (P2) */
    return object &&
           pnx__load(pnx_rc_counts_(object), PNX_ACQUIRE, "rc.unique") == (PNX_RC_ONE_ | 1);
}

PNX_END_DECLS
#endif /* PNX_RC_INL_H */
