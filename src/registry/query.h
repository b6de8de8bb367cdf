/* SPDX-License-Identifier: Apache-2.0 */
/* registry/query.h - walks over rows, for query.c, batch.c and others of src/registry. */
#ifndef PNX_SRC_REGISTRY_QUERY_H
#define PNX_SRC_REGISTRY_QUERY_H

#include "registry/ledger.h"

#include <patinox/query.h>

/* Gets a copy of a row and what it says.  No lock is held.  A nonzero return ends the walk. */
typedef int pnx_row_visit_fn(
        void *ctx, const struct pnx_row *row, const struct pnx_resource_info *info);

/* Copies a filter as its size says (NULL: all).  -EINVAL, -E2BIG. */
int pnx__filter_copy(const struct pnx_resource_filter *filter, struct pnx_resource_filter *ret);

/* Visits what passes the filter, as pnx_registry_query() does.  Returns visit's nonzero return. */
int pnx__rows_walk(struct pnx_registry *registry, const struct pnx_resource_filter *filter,
        pnx_row_visit_fn *visit, void *ctx);

#endif
