/* SPDX-License-Identifier: Apache-2.0 */
/* share_peers.h - joins the two files of the peers in C of the share cases. */
#ifndef PNX_BENCH_SHARE_PEERS_H
#define PNX_BENCH_SHARE_PEERS_H

#include "bench.h"
#include "maps.h"

/* Returns the rows of the share/cmap cases. */
const struct bench_row *map_peers(size_t *ret_n);

#endif
