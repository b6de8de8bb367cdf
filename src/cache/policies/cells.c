/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/cells.c - from hashes to small numbers: see cache/policies/cells.h */
#include "cache/policies/cells.h"

#define CELL         uint32_t
#define CELLS        pnx__cells
#define CELLS_(name) pnx__cells_##name
#include "cache/policies/cells_impl.h"
