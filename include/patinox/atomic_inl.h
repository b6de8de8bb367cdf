/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patinox/atomic_inl.h - what the inline functions of these headers are made of: atomic words, and the calling
 * thread's record.  No interface of its own: nothing here is for your code, and all of it may change.
 *
 * Words are structs, so that nothing can touch one plainly.  Every operation names its order and its
 * site; the site is a string "file.what" that is unique in the library, and the comment beside it names
 * the partner ("pairs with X in y()").  The memory model is C++20's (RC11 with P0668 and P0982).
 *
 *   - seq_cst stands only on fences and read-modify-writes.
 *   - A location has one size; no byte of it is ever accessed by another width.
 *   - The same source serves release, TSan and the explorer.  With PNX_ATOMIC_SITES each site has a row
 *     in the section pnx_sites whose order can be weakened at run time; with PNX_EXPLORE each operation is
 *     moreover a call into the explorer of the test suite; without both a site is a constant.
 */
#ifndef PNX_ATOMIC_INL_H
#define PNX_ATOMIC_INL_H

#include <patinox/base.h>

#include <stdbool.h>
#include <stdint.h>

PNX_BEGIN_DECLS

struct pnx_a8 {
    uint8_t v;
};
struct pnx_a32 {
    uint32_t v;
};
struct pnx_a64 {
    uint64_t v;
};
struct pnx_aptr {
    void *v;
};

#define PNX_RELAXED __ATOMIC_RELAXED
#define PNX_ACQUIRE __ATOMIC_ACQUIRE
#define PNX_RELEASE __ATOMIC_RELEASE
#define PNX_ACQ_REL __ATOMIC_ACQ_REL
#define PNX_SEQ_CST __ATOMIC_SEQ_CST

/*
 * The library's one thread-local variable: the calling thread's record, NULL until its first use.  Initial-exec,
 * so that reading it is one load without a call; the library may still be loaded by dlopen(), since glibc keeps
 * room for a few such variables.
 */
struct pnx_thread;
#if defined(PNX_EXPLORE)
struct pnx_thread *pnx_x_self(void);
#define PNX_SELF pnx_x_self()
#elif defined( \
        _WIN32) /* a slot of the system's: one variable cannot be shared by a program and a DLL */
PNX_API struct pnx_thread *pnx_self_get_(void);
#define PNX_SELF pnx_self_get_()
#else
#if defined( \
        PNX_TLS_DESCRIPTORS) /* a build option, and then for its users too: any number of plugins */
#define PNX_TLS_MODEL_
#else
#define PNX_TLS_MODEL_ __attribute__((tls_model("initial-exec")))
#endif
PNX_API extern __thread struct pnx_thread *pnx_self_ PNX_TLS_MODEL_;
#define PNX_SELF pnx_self_
#endif

#if defined(PNX_ATOMIC_SITES) || defined(PNX_EXPLORE)
struct pnx_atomic_site {
    const char *name; /* unique */
    const char *file; /* where it stands */
    int line;         /* where it stands */
    int declared;     /* the order in the source */
    int order;        /* the order in force: the declared one, or weaker under the mutation check */
};
/* Rows live in one section; the linker gives its bounds. */
#define PNX_SITE_ROW_(site, declared_order) \
    (__extension__({ \
        static struct pnx_atomic_site pnx_site_row_ __attribute__((section("pnx_sites"), used, \
                aligned(8))) = {site, __FILE__, __LINE__, declared_order, declared_order}; \
        &pnx_site_row_; \
    }))
#define PNX_ORDER(site, declared_order) (PNX_SITE_ROW_(site, declared_order)->order)
#else
#define PNX_ORDER(site, declared_order) (declared_order)
#endif

#if defined(__SANITIZE_THREAD__)
#define PNX_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PNX_TSAN 1
#endif
#endif
#ifdef PNX_TSAN
/*
 * TSan does not understand fences.  A read-modify-write of one word by all of them orders at least what the
 * fences order, so nothing is reported that is right; a race that only a missing fence allows is the
 * explorer's to find.
 */
__attribute__((weak, visibility("hidden"))) struct pnx_a32 pnx__tsan_fence;
#define PNX_THREAD_FENCE(order) \
    ((void)(order), (void)__atomic_fetch_add(&pnx__tsan_fence.v, 0, __ATOMIC_SEQ_CST))
#elif defined(__x86_64__)
/* A locked operation on the stack is a full barrier, and costs a tenth of the mfence that compilers choose. */
#define PNX_THREAD_FENCE(order) \
    ((order) == __ATOMIC_SEQ_CST ? (void)(__extension__({ \
        __asm__ __volatile__("lock; orl $0, -8(%%rsp)" ::: "memory", "cc"); \
        0; \
    })) \
                                 : __atomic_thread_fence(order))
#else
#define PNX_THREAD_FENCE(order) __atomic_thread_fence(order)
#endif

#if defined(PNX_EXPLORE)
#include "base/atomic_explore.h"
#elif defined(PNX_ATOMIC_SITES)
#include "base/atomic_sites.h"
#else
#define pnx__load(word, order, site) __atomic_load_n(&(word)->v, PNX_ORDER(site, order))
#define pnx__store(word, value, order, site) \
    __atomic_store_n(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__exchange(word, value, order, site) \
    __atomic_exchange_n(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_add(word, value, order, site) \
    __atomic_fetch_add(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_sub(word, value, order, site) \
    __atomic_fetch_sub(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_or(word, value, order, site) \
    __atomic_fetch_or(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_and(word, value, order, site) \
    __atomic_fetch_and(&(word)->v, (value), PNX_ORDER(site, order))
/* Strong compare and swap; on failure *expected is what was found, read relaxed unless said otherwise. */
#define pnx__cas(word, expected, desired, order, site) \
    __atomic_compare_exchange_n( \
            &(word)->v, (expected), (desired), false, PNX_ORDER(site, order), __ATOMIC_RELAXED)
#define pnx__cas_acquire(word, expected, desired, order, site) \
    __atomic_compare_exchange_n( \
            &(word)->v, (expected), (desired), false, PNX_ORDER(site, order), __ATOMIC_ACQUIRE)
#define pnx__fence(order, site) PNX_THREAD_FENCE(PNX_ORDER(site, order))
#endif

/*
 * Adds to a counter that one thread at a time writes (its owner, or the holder of the lock that guards
 * it) and anybody may read: no read-modify-write, no lost update, never torn.  Nothing is decided by such a
 * counter, so the explorer does not look at it.
 */
#define pnx__owner_add(word, value) \
    __atomic_store_n( \
            &(word)->v, __atomic_load_n(&(word)->v, __ATOMIC_RELAXED) + (value), __ATOMIC_RELAXED)

PNX_END_DECLS
#endif /* PNX_ATOMIC_INL_H */
