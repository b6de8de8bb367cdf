/* SPDX-License-Identifier: Apache-2.0 */
/* mapping/fault.h - the inside of fault handling, for src/mapping/fault*.c. */
#ifndef PNX_SRC_MAPPING_FAULT_H
#define PNX_SRC_MAPPING_FAULT_H

#include "mapping/fault_table.h"

/* What head.ready points to: 1 where scopes may begin. */
extern struct pnx_a32 pnx__fault_ready;     /* 1 as long as faults are handled */
extern struct pnx_a32 pnx__fault_always;    /* always 1: the mapping cannot fault */
extern struct pnx_a32 pnx__fault_suspended; /* always 0 */

/* The lock of what is the process's: rank FAULT. */
void pnx__fault_lock(void);
void pnx__fault_unlock(void);

/* Returns the domain of all scopes; NULL when there is none yet. */
struct pnx_reclaim *pnx__fault_domain(void);
/* Takes the domain away, for its reference to be dropped, when no mapping is registered; false: one is. */
bool pnx__fault_leave_domain(struct pnx_reclaim **ret_domain);

#endif
