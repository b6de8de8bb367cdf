/* SPDX-License-Identifier: Apache-2.0 */
/* pool_patinox.h - our pool in the pool cases: the part that calls block, and the part that does not. */
#ifndef PNX_BENCH_POOL_PATINOX_H
#define PNX_BENCH_POOL_PATINOX_H

#include "pool.h"

#include <patinox/pool.h>

/* Makes a pool with default options, of which the first idle connections are connected; NULL when it cannot. */
void *pool_patinox_set_up(uint32_t size, uint32_t idle);

/* Runs pool/async-cycle or pool/cancel. */
int pool_patinox_async(const struct bench_args *args);

#endif
