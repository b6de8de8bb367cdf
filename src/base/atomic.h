/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/atomic.h - the only way to an atomic in this library.
 *
 * Words are structs, so that nothing can touch one plainly.  Every operation names its order and its
 * site; the site is a string "file.what" that is unique in the library, and the comment beside it names
 * the partner ("pairs with X in y()").  The memory model is C++20's (RC11 with P0668 and P0982).
 *
 *   - seq_cst stands only on fences and read-modify-writes.
 *   - A location has one size; no byte of it is ever accessed by another width.
 *   - The same source serves release, TSan and the explorer.  With PNX_ATOMIC_SITES each site has a row
 *     in the section pnx_sites whose order can be weakened at run time; without it a site is a constant.
 */
#ifndef PNX_SRC_BASE_ATOMIC_H
#define PNX_SRC_BASE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

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

#ifdef PNX_ATOMIC_SITES
struct pnx_atomic_site {
    const char *name; /* unique */
    const char *file; /* where it stands */
    int line;         /* where it stands */
    int declared;     /* the order in the source */
    int order;        /* the order in force: the declared one, or weaker under the mutation check */
};
/* Rows live in one section; the linker gives its bounds. */
#define PNX_ORDER(site, declared_order) \
    (__extension__({ \
        static struct pnx_atomic_site pnx_site_row_ __attribute__((section("pnx_sites"), used, \
                aligned(8))) = {site, __FILE__, __LINE__, declared_order, declared_order}; \
        pnx_site_row_.order; \
    }))
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
#else
#define PNX_THREAD_FENCE(order) __atomic_thread_fence(order)
#endif

#ifdef PNX_ATOMIC_SITES
#include "base/atomic_sites.h"
#else
#define pnx_load(word, order, site) __atomic_load_n(&(word)->v, PNX_ORDER(site, order))
#define pnx_store(word, value, order, site) \
    __atomic_store_n(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx_exchange(word, value, order, site) \
    __atomic_exchange_n(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx_fetch_add(word, value, order, site) \
    __atomic_fetch_add(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx_fetch_sub(word, value, order, site) \
    __atomic_fetch_sub(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx_fetch_or(word, value, order, site) \
    __atomic_fetch_or(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx_fetch_and(word, value, order, site) \
    __atomic_fetch_and(&(word)->v, (value), PNX_ORDER(site, order))
/* Strong compare and swap; on failure *expected is what was found, read relaxed unless said otherwise. */
#define pnx_cas(word, expected, desired, order, site) \
    __atomic_compare_exchange_n( \
            &(word)->v, (expected), (desired), false, PNX_ORDER(site, order), __ATOMIC_RELAXED)
#define pnx_cas_acquire(word, expected, desired, order, site) \
    __atomic_compare_exchange_n( \
            &(word)->v, (expected), (desired), false, PNX_ORDER(site, order), __ATOMIC_ACQUIRE)
#define pnx_fence(order, site) PNX_THREAD_FENCE(PNX_ORDER(site, order))
#endif

/*
 * Adds to a counter that one thread at a time writes (its owner, or the holder of the lock that guards
 * it) and anybody may read: no read-modify-write, no lost update, never torn.
 */
#define pnx_owner_add(word, value) \
    __atomic_store_n( \
            &(word)->v, __atomic_load_n(&(word)->v, __ATOMIC_RELAXED) + (value), __ATOMIC_RELAXED)

#endif
