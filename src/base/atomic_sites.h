/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/atomic_sites.h - the operations of patinox/atomic_inl.h with orders that are known only at run time.
 *
 * A compiler given an order that is not a constant takes the strongest one (gcc does), and then weakening
 * a site would change nothing.  So each operation is written out once per order.  Included by atomic_inl.h only.
 */
#ifndef PNX_SRC_BASE_ATOMIC_SITES_H
#define PNX_SRC_BASE_ATOMIC_SITES_H

#define PNX_SITED_INLINE static inline __attribute__((always_inline, unused))

/* One operation on a word of type TYPE for each order that it allows. */
#define PNX_SITED_LOAD_STORE(TYPE, name) \
    PNX_SITED_INLINE TYPE pnx_sited_load_##name(TYPE const *p, int order) { \
        return order == __ATOMIC_RELAXED ? __atomic_load_n(p, __ATOMIC_RELAXED) \
                                         : __atomic_load_n(p, __ATOMIC_ACQUIRE); \
    } \
    PNX_SITED_INLINE void pnx_sited_store_##name(TYPE *p, TYPE value, int order) { \
        if (order == __ATOMIC_RELAXED) \
            __atomic_store_n(p, value, __ATOMIC_RELAXED); \
        else \
            __atomic_store_n(p, value, __ATOMIC_RELEASE); \
    }

#define PNX_SITED_RMW(TYPE, name, op) \
    PNX_SITED_INLINE TYPE pnx_sited_##op##_##name(TYPE *p, TYPE value, int order) { \
        switch (order) { \
        case __ATOMIC_RELAXED: \
            return PNX_SITED_BUILTIN_##op(p, value, __ATOMIC_RELAXED); \
        case __ATOMIC_ACQUIRE: \
            return PNX_SITED_BUILTIN_##op(p, value, __ATOMIC_ACQUIRE); \
        case __ATOMIC_RELEASE: \
            return PNX_SITED_BUILTIN_##op(p, value, __ATOMIC_RELEASE); \
        case __ATOMIC_ACQ_REL: \
            return PNX_SITED_BUILTIN_##op(p, value, __ATOMIC_ACQ_REL); \
        default: \
            return PNX_SITED_BUILTIN_##op(p, value, __ATOMIC_SEQ_CST); \
        } \
    }
#define PNX_SITED_BUILTIN_exchange(p, value, order) __atomic_exchange_n(p, value, order)
#define PNX_SITED_BUILTIN_add(p, value, order)      __atomic_fetch_add(p, value, order)
#define PNX_SITED_BUILTIN_sub(p, value, order)      __atomic_fetch_sub(p, value, order)
#define PNX_SITED_BUILTIN_or(p, value, order)       __atomic_fetch_or(p, value, order)
#define PNX_SITED_BUILTIN_and(p, value, order)      __atomic_fetch_and(p, value, order)

/* On failure relaxed, or acquire (see the two macros in atomic_inl.h), but never stronger than on success. */
#define PNX_SITED_CAS(TYPE, name, kind, failure) \
    PNX_SITED_INLINE bool pnx_sited_##kind##_##name( \
            TYPE *p, TYPE *expected, TYPE desired, int order) { \
        switch (order) { \
        case __ATOMIC_RELAXED: \
            return __atomic_compare_exchange_n( \
                    p, expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        case __ATOMIC_ACQUIRE: \
            return __atomic_compare_exchange_n( \
                    p, expected, desired, false, __ATOMIC_ACQUIRE, failure); \
        case __ATOMIC_RELEASE: \
            return __atomic_compare_exchange_n( \
                    p, expected, desired, false, __ATOMIC_RELEASE, failure); \
        case __ATOMIC_ACQ_REL: \
            return __atomic_compare_exchange_n( \
                    p, expected, desired, false, __ATOMIC_ACQ_REL, failure); \
        default: \
            return __atomic_compare_exchange_n( \
                    p, expected, desired, false, __ATOMIC_SEQ_CST, failure); \
        } \
    }

#define PNX_SITED_TYPE(TYPE, name) \
    PNX_SITED_LOAD_STORE(TYPE, name) \
    PNX_SITED_RMW(TYPE, name, exchange) \
    PNX_SITED_CAS(TYPE, name, cas, __ATOMIC_RELAXED) \
    PNX_SITED_CAS(TYPE, name, cas_acquire, __ATOMIC_ACQUIRE)
#define PNX_SITED_NUMBER(TYPE, name) \
    PNX_SITED_TYPE(TYPE, name) \
    PNX_SITED_RMW(TYPE, name, add) \
    PNX_SITED_RMW(TYPE, name, sub) \
    PNX_SITED_RMW(TYPE, name, or) \
    PNX_SITED_RMW(TYPE, name, and)

PNX_SITED_NUMBER(uint32_t, u32)
PNX_SITED_NUMBER(uint64_t, u64)
PNX_SITED_TYPE(void *, ptr)

PNX_SITED_INLINE void pnx_sited_fence(int order) {
    switch (order) {
    case __ATOMIC_RELAXED:
        __asm__ __volatile__(
                "" ::
                        : "memory"); /* keeps the compiler from saying that it does nothing */
        break;
    case __ATOMIC_ACQUIRE:
        PNX_THREAD_FENCE(__ATOMIC_ACQUIRE);
        break;
    case __ATOMIC_RELEASE:
        PNX_THREAD_FENCE(__ATOMIC_RELEASE);
        break;
    case __ATOMIC_ACQ_REL:
        PNX_THREAD_FENCE(__ATOMIC_ACQ_REL);
        break;
    default:
        PNX_THREAD_FENCE(__ATOMIC_SEQ_CST);
        break;
    }
}

/* clang-format off */
#define PNX_SITED_ANY(op, word) _Generic((word)->v, \
        uint32_t: pnx_sited_##op##_u32, uint64_t: pnx_sited_##op##_u64, void *: pnx_sited_##op##_ptr)
#define PNX_SITED_NUM(op, word) _Generic((word)->v, \
        uint32_t: pnx_sited_##op##_u32, uint64_t: pnx_sited_##op##_u64)
/* clang-format on */

#define pnx__load(word, order, site) PNX_SITED_ANY(load, word)(&(word)->v, PNX_ORDER(site, order))
#define pnx__store(word, value, order, site) \
    PNX_SITED_ANY(store, word)(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__exchange(word, value, order, site) \
    PNX_SITED_ANY(exchange, word)(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_add(word, value, order, site) \
    PNX_SITED_NUM(add, word)(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_sub(word, value, order, site) \
    PNX_SITED_NUM(sub, word)(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_or(word, value, order, site) \
    PNX_SITED_NUM(or, word)(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__fetch_and(word, value, order, site) \
    PNX_SITED_NUM(and, word)(&(word)->v, (value), PNX_ORDER(site, order))
#define pnx__cas(word, expected, desired, order, site) \
    PNX_SITED_ANY(cas, word)(&(word)->v, (expected), (desired), PNX_ORDER(site, order))
#define pnx__cas_acquire(word, expected, desired, order, site) \
    PNX_SITED_ANY(cas_acquire, word)(&(word)->v, (expected), (desired), PNX_ORDER(site, order))
#define pnx__fence(order, site) pnx_sited_fence(PNX_ORDER(site, order))

#endif
