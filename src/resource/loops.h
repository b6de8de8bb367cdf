/* SPDX-License-Identifier: Apache-2.0 */
/* resource/loops.h - executors that event loops drive, as a shutdown sees them. */
#ifndef PNX_SRC_RESOURCE_LOOPS_H
#define PNX_SRC_RESOURCE_LOOPS_H

#include <patinox/executor.h>

/* An executor with PNX_EXECUTOR_TICK that is a row. */
void pnx__loops_join(struct pnx_executor *executor);

/* Before it is freed, if it is not a parent process's. */
void pnx__loops_leave(struct pnx_executor *executor);

/*
 * Runs due jobs of those executors of the registry that the calling thread has ticked last, as long as the registry's
 * clock says that until has not come.  Returns in how long they want that again, at the latest; 0: at once.  *ret_any
 * says whether there are such.  No lock may be held.
 */
pnx_ns pnx__loops_drive(struct pnx_registry *registry, pnx_ns until, bool *ret_any);

#endif
