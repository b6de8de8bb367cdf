/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/atomic.h - the only way to an atomic in this library.
 *
 * The operations stand in patinox/atomic_inl.h, where the rules are too: the inline functions of public headers
 * use the very same ones.  In here they have shorter names.
 */
#ifndef PNX_SRC_BASE_ATOMIC_H
#define PNX_SRC_BASE_ATOMIC_H

#include <patinox/atomic_inl.h>

#define pnx_load(word, order, site)                   pnx__load(word, order, site)
#define pnx_store(word, value, order, site)           pnx__store(word, value, order, site)
#define pnx_exchange(word, value, order, site)        pnx__exchange(word, value, order, site)
#define pnx_fetch_add(word, value, order, site)       pnx__fetch_add(word, value, order, site)
#define pnx_fetch_sub(word, value, order, site)       pnx__fetch_sub(word, value, order, site)
#define pnx_fetch_or(word, value, order, site)        pnx__fetch_or(word, value, order, site)
#define pnx_fetch_and(word, value, order, site)       pnx__fetch_and(word, value, order, site)
#define pnx_cas(word, expected, desired, order, site) pnx__cas(word, expected, desired, order, site)
#define pnx_cas_acquire(word, expected, desired, order, site) \
    pnx__cas_acquire(word, expected, desired, order, site)
#define pnx_fence(order, site)     pnx__fence(order, site)
#define pnx_owner_add(word, value) pnx__owner_add(word, value)

#endif
