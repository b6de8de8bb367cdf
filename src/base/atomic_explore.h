/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/atomic_explore.h - the operations of patinox/atomic_inl.h as calls into the explorer.
 *
 * With PNX_EXPLORE the sources of the library are compiled a second time for tests/explorer, which implements
 * these functions and, in place of src/os, the threads, mutexes, futexes and clocks: it decides which thread goes
 * on at each operation and which store a load reads.  Included by atomic_inl.h only.
 */
#ifndef PNX_SRC_BASE_ATOMIC_EXPLORE_H
#define PNX_SRC_BASE_ATOMIC_EXPLORE_H

enum pnx_x_op { PNX_X_EXCHANGE, PNX_X_ADD, PNX_X_SUB, PNX_X_OR, PNX_X_AND };

/* Values travel as 64 bits; size is the word's own, 4 or 8, or 1 for a byte with three unused ones behind it.  The order in force is site->order. */
uint64_t pnx_x_load(const void *word, unsigned size, const struct pnx_atomic_site *site);
void pnx_x_store(void *word, unsigned size, uint64_t value, const struct pnx_atomic_site *site);
uint64_t pnx_x_rmw(void *word, unsigned size, enum pnx_x_op op, uint64_t operand,
        const struct pnx_atomic_site *site);
/* Strong; on failure stores what it found at *expected, read with order failure. */
bool pnx_x_cas(void *word, unsigned size, void *expected, uint64_t desired,
        const struct pnx_atomic_site *site, int failure);
void pnx_x_fence(const struct pnx_atomic_site *site);

/* clang-format off */
#define PNX_X_TYPE(word) __typeof__((word)->v)
#define PNX_X_BITS(word, value) (__extension__({ PNX_X_TYPE(word) pnx_x_bits_ = (value); (uint64_t)pnx_x_bits_; }))

#define pnx__load(word, order, site) \
    ((PNX_X_TYPE(word))pnx_x_load(&(word)->v, sizeof((word)->v), PNX_SITE_ROW_(site, order)))
#define pnx__store(word, value, order, site) \
    pnx_x_store(&(word)->v, sizeof((word)->v), PNX_X_BITS(word, value), PNX_SITE_ROW_(site, order))
#define PNX_X_RMW(word, op, value, order, site) \
    (__extension__({ /* may be unused, which a cast may not */ \
        PNX_X_TYPE(word) pnx_x_old_ = (PNX_X_TYPE(word))pnx_x_rmw(&(word)->v, sizeof((word)->v), op, \
                PNX_X_BITS(word, value), PNX_SITE_ROW_(site, order)); \
        pnx_x_old_; \
    }))
#define pnx__exchange(word, value, order, site)  PNX_X_RMW(word, PNX_X_EXCHANGE, value, order, site)
#define pnx__fetch_add(word, value, order, site) PNX_X_RMW(word, PNX_X_ADD, value, order, site)
#define pnx__fetch_sub(word, value, order, site) PNX_X_RMW(word, PNX_X_SUB, value, order, site)
#define pnx__fetch_or(word, value, order, site)  PNX_X_RMW(word, PNX_X_OR, value, order, site)
#define pnx__fetch_and(word, value, order, site) PNX_X_RMW(word, PNX_X_AND, value, order, site)
#define pnx__cas(word, expected, desired, order, site) \
    pnx_x_cas(&(word)->v, sizeof((word)->v), (expected), PNX_X_BITS(word, desired), PNX_SITE_ROW_(site, order), \
            __ATOMIC_RELAXED)
#define pnx__cas_acquire(word, expected, desired, order, site) \
    pnx_x_cas(&(word)->v, sizeof((word)->v), (expected), PNX_X_BITS(word, desired), PNX_SITE_ROW_(site, order), \
            __ATOMIC_ACQUIRE)
#define pnx__fence(order, site) pnx_x_fence(PNX_SITE_ROW_(site, order))
/* clang-format on */

#endif
