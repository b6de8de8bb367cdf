/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/rwdata_inl.h - the short ways of patinox/rwdata.h: a lock that is free is taken and let go by one
 * compare-and-swap each, without a call.  Included by rwdata.h; no interface of its own.
 *
 * The lock is one word; what its fields mean, and why this is right, stands in src/share/rwdata_lock.c.
 */
#ifndef PNX_RWDATA_INL_H
#define PNX_RWDATA_INL_H

#include <patinox/atomic_inl.h>
#include <patinox/rwdata.h>

PNX_BEGIN_DECLS

/* The part of an rwdata that inline functions know; its layout is frozen (tests/share/test_rwdata.c). */
struct pnx_rwdata_head_ {
    uint64_t small
            [5]; /* a small value lies here: one cache line holds all that a short way touches */
    struct pnx_a64 word;
    void *value;           /* fixed at creation */
    struct pnx_a64 writes; /* write guards given so far; written by the holder of the write guard */
};

/*
 *   63      44 43     16   15    14      3     2        1        0
 *  | readers  | thread | writer | bypassed | special | awake | queued |
 */
#define PNX_RWDATA_QUEUED_ UINT64_C(1) /* somebody waits */
#define PNX_RWDATA_AWAKE_ \
    UINT64_C(2) /* ... and the first of them is on his way: nobody need wake him */
#define PNX_RWDATA_SPECIAL_  UINT64_C(4) /* closed, poisoned or checked: no short way */
#define PNX_RWDATA_BYPASSED_ UINT64_C(8) /* one of those who passed the first in the queue */
#define PNX_RWDATA_WRITER_   (UINT64_C(1) << 15)
#define PNX_RWDATA_READER_   (UINT64_C(1) << 44)
#define PNX_RWDATA_FULL_     (UINT64_C(1) << 63)
/* What must be clear for a reader to come in by the short way, and to go out by it. */
#define PNX_RWDATA_NO_READ_  (PNX_RWDATA_FULL_ | (PNX_RWDATA_READER_ - 1))

/*
 * A write guard's state is the word of a writer who is alone, and more bits when its end has more to do.  Those go
 * together with "awake", which without "queued" never stands in the word: so the short way out is closed.
 */
#define PNX_RWDATA_ARMED_ (PNX_RWDATA_AWAKE_ | UINT64_C(8))
#define PNX_RWDATA_TELL_  (PNX_RWDATA_AWAKE_ | UINT64_C(16)) /* that it has poisoned the value */

#define PNX_RWDATA_THREAD_ID_ 656 /* where the thread's number stands in its record */

/*
 * The thread's number as the word of a writer who is alone.  28 bits: a thread takes
 * another for itself only if 2^28 threads were started between them, and gets -EDEADLK then.
 */
static inline uint64_t pnx_rwdata_token_(const struct pnx_thread *self) {
    const char *id = (const char *)(const void *)self + PNX_RWDATA_THREAD_ID_;
    return (*(const uint64_t *)(const void *)id & UINT64_C(0xfffffff)) << 16 | PNX_RWDATA_WRITER_;
}

/* The long ways. */
PNX_API PNX_NODISCARD int pnx_rwdata_read_slow_(struct pnx_rwdata *rwdata, pnx_ns timeout,
        struct pnx_error *err, struct pnx_rwdata_read_guard *ret_guard);
PNX_API PNX_NODISCARD int pnx_rwdata_write_slow_(struct pnx_rwdata *rwdata, pnx_ns timeout,
        struct pnx_error *err, struct pnx_rwdata_write_guard *ret_guard);
/* After a read guard has left: word is what that left behind. */
PNX_API void pnx_rwdata_read_ended_(struct pnx_rwdata *rwdata, uint64_t word);
PNX_API void pnx_rwdata_write_end_slow_(struct pnx_rwdata *rwdata, uint64_t state);

static inline int pnx_rwdata_read(struct pnx_rwdata *rwdata, pnx_ns timeout, struct pnx_error *err,
        struct pnx_rwdata_read_guard *ret_guard) {
    struct pnx_rwdata_head_ *head = (struct pnx_rwdata_head_ *)(void *)rwdata;
    if (rwdata && ret_guard) {
        uint64_t word = pnx__load(&head->word, PNX_RELAXED, "rwdata_inl.look"); /* only a guess */
        /* acquire: pairs with rwdata_inl.write_end and the other releases of writers */
        if ((word & PNX_RWDATA_NO_READ_) == 0 &&
                pnx__cas(&head->word, &word, word + PNX_RWDATA_READER_, PNX_ACQUIRE,
                        "rwdata_inl.read")) {
            ret_guard->value = head->value;
            ret_guard->rwdata_ = rwdata;
            return 0;
        }
    }
    return pnx_rwdata_read_slow_(rwdata, timeout, err, ret_guard);
}

static inline int pnx_rwdata_write(struct pnx_rwdata *rwdata, pnx_ns timeout, struct pnx_error *err,
        struct pnx_rwdata_write_guard *ret_guard) {
    struct pnx_rwdata_head_ *head = (struct pnx_rwdata_head_ *)(void *)rwdata;
    const struct pnx_thread *self = PNX_SELF;
    if (rwdata && ret_guard && self) {
        uint64_t word = 0, token = pnx_rwdata_token_(self);
        /* acquire: pairs with rwdata_inl.read_end and rwdata_inl.write_end */
        if (pnx__cas(&head->word, &word, token, PNX_ACQUIRE, "rwdata_inl.write")) {
            pnx__owner_add(&head->writes, 1);
            ret_guard->value = head->value;
            ret_guard->rwdata_ = rwdata;
            ret_guard->state_ = token;
            return 0;
        }
    }
    return pnx_rwdata_write_slow_(rwdata, timeout, err, ret_guard);
}

static inline void pnx_rwdata_read_end(struct pnx_rwdata_read_guard *guard) {
    if (!guard || !guard->rwdata_)
        return;
    struct pnx_rwdata *rwdata = guard->rwdata_;
    struct pnx_rwdata_head_ *head = (struct pnx_rwdata_head_ *)(void *)rwdata;
    guard->rwdata_ = NULL;
    guard->value = NULL;
    /* release: pairs with the acquires of writers, who must not change what is still being read */
    uint64_t word =
            pnx__fetch_sub(&head->word, PNX_RWDATA_READER_, PNX_RELEASE, "rwdata_inl.read_end") -
            PNX_RWDATA_READER_;
    if (word & PNX_RWDATA_NO_READ_)
        pnx_rwdata_read_ended_(rwdata, word);
}

static inline void pnx_rwdata_write_end(struct pnx_rwdata_write_guard *guard) {
    if (!guard || !guard->rwdata_)
        return;
    struct pnx_rwdata *rwdata = guard->rwdata_;
    struct pnx_rwdata_head_ *head = (struct pnx_rwdata_head_ *)(void *)rwdata;
    uint64_t word = guard->state_;
    guard->rwdata_ = NULL;
    guard->value = NULL;
    /* release: pairs with rwdata_inl.read, rwdata_inl.write and the acquires of rwdata_lock.c */
    if (!pnx__cas(&head->word, &word, 0, PNX_RELEASE, "rwdata_inl.write_end"))
        pnx_rwdata_write_end_slow_(rwdata, guard->state_);
}

static inline int pnx_rwdata_try_read(
        struct pnx_rwdata *rwdata, struct pnx_rwdata_read_guard *ret_guard) {
    return pnx_rwdata_read(rwdata, 0, NULL, ret_guard);
}

static inline int pnx_rwdata_try_write(
        struct pnx_rwdata *rwdata, struct pnx_rwdata_write_guard *ret_guard) {
    return pnx_rwdata_write(rwdata, 0, NULL, ret_guard);
}

PNX_END_DECLS
#endif /* PNX_RWDATA_INL_H */
