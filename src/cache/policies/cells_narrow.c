/* SPDX-License-Identifier: Apache-2.0 */
/* cache/policies/cells_narrow.c - from hashes to numbers below 65,535: see cache/policies/cells.h */
#include "cache/policies/cells.h"

#define CELL         uint16_t
#define CELLS        pnx__narrow
#define CELLS_(name) pnx__narrow_##name
#include "cache/policies/cells_impl.h"
