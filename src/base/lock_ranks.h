/* SPDX-License-Identifier: Apache-2.0 */
/* base/lock_ranks.h - base/lock_ranks.def as an enum. */
#ifndef PNX_SRC_BASE_LOCK_RANKS_H
#define PNX_SRC_BASE_LOCK_RANKS_H

enum pnx_lock_rank {
    PNX_RANK_NONE, /* below all: unranked test locks */
#define LOCK(name, what) PNX_RANK_##name,
#include "base/lock_ranks.def"
#undef LOCK
    PNX_RANK_END_
};

#endif
