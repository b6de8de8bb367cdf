/* SPDX-License-Identifier: Apache-2.0 */
/* resource/shutdown.h - what shutdown.c and shutdown_report.c share. */
#ifndef PNX_SRC_RESOURCE_SHUTDOWN_H
#define PNX_SRC_RESOURCE_SHUTDOWN_H

#include "registry/ledger.h"

/* Makes the report's second list, in which rows of one group stand together. */
void pnx__shutdown_group(struct pnx_shutdown_report *report);

#endif
