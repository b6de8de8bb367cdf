/* SPDX-License-Identifier: Apache-2.0 */
/* resource/shutdown.h - what shutdown.c and shutdown_report.c share. */
#ifndef PNX_SRC_RESOURCE_SHUTDOWN_H
#define PNX_SRC_RESOURCE_SHUTDOWN_H

#include "registry/ledger.h"

/* Sorts a list of rows, stably; next_of names the link, before the order. */
struct pnx_row *pnx__rows_sort(struct pnx_row *list,
        struct pnx_row **(*next_of)(struct pnx_row *row),
        bool (*before)(const struct pnx_row *a, const struct pnx_row *b));

/* Makes the report's second list, in which rows of one group stand together. */
void pnx__shutdown_group(struct pnx_shutdown_report *report);

#endif
