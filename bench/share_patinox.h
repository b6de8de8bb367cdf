/* SPDX-License-Identifier: Apache-2.0 */
/* share_patinox.h - joins the two files of ours for the share cases. */
#ifndef PNX_BENCH_SHARE_PATINOX_H
#define PNX_BENCH_SHARE_PATINOX_H

#include "bench.h"
#include "maps.h"

/* Returns the rows of the share/cmap cases. */
const struct bench_row *map_rows(size_t *ret_n);

#endif
