/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mapping/fault.h - the inside of fault handling, for src/mapping/fault*.c.
 *
 *     fault_table.c  records, and the reclaim domain of all scopes
 *     fault.c        scopes
 *     fault_hit.c    what the signal handler does
 *     fault_copy.c   fault-safe copies, and asking for pages
 *     fault_mode.c   who handles faults; numbers
 *
 * A mapping, as the handler sees it; pnx__fault_hit() makes the transition, once:
 *
 *     WHOLE (poison 0) --a load or store in a scope faults--> POISONED --pnx__fault_resume() with new pages--> WHOLE
 *
 * The word of an open scope is the thread's section, but while one of the library's own copies runs in it an odd number:
 * PNX_FAULT_COPIES, and then the address that has faulted, which the handler notes there before it skips the copy.
 */
#ifndef PNX_SRC_MAPPING_FAULT_H
#define PNX_SRC_MAPPING_FAULT_H

#include "mapping/fault_table.h"
#include "os/sigbus.h"

#include <patinox/fault.h>

#define PNX_GROUP     fault
#define PNX_GROUP_DEF <patinox/stats/fault.def>
#include "stats/declare_group.inc"

#define PNX_FAULT_COPIES 1 /* no address */

static inline bool pnx__fault_copies(const struct pnx_fault_scope *scope) {
    return (scope->word & PNX_FAULT_COPIES) != 0;
}

static inline void pnx__fault_note(struct pnx_fault_scope *scope, uintptr_t address) {
    scope->word = (int64_t)(((uint64_t)address << 1) | PNX_FAULT_COPIES);
}

static inline uintptr_t pnx__fault_noted(const struct pnx_fault_scope *scope) {
    return (uintptr_t)((uint64_t)scope->word >> 1); /* addresses of programs have no highest bit */
}

/* What head.gate points to: 0 where scopes may begin. */
extern struct pnx_a32 pnx__fault_gate;      /* 0 as long as faults are handled, else 1 */
extern struct pnx_a32 pnx__fault_always;    /* always 0: the mapping cannot fault */
extern struct pnx_a32 pnx__fault_suspended; /* always 1 */

/* ---- fault_table.c ---- */

/* The lock of what is the process's: rank FAULT. */
void pnx__fault_lock(void);
void pnx__fault_unlock(void);

/* Returns the domain of all scopes; NULL when there is none yet. */
struct pnx_reclaim *pnx__fault_domain(void);
/* Takes the domain away, for its reference to be dropped, when no mapping is registered; false: one is. */
bool pnx__fault_leave_domain(struct pnx_reclaim **ret_domain);

/* ---- fault_hit.c ---- */

/* Decides about a fault.  In a signal handler. */
enum pnx_os_answer pnx__fault_hit(const struct pnx_os_fault *fault);

/* Says why the page at an address cannot be had: -ESTALE or -EIO.  May be called in a signal handler. */
int pnx__fault_reason(const struct pnx_fault_record *record, uintptr_t address, bool writes);
/* Returns whether a file is still as it was when it was mapped. */
bool pnx__fault_same(const struct pnx_fault_record *record, const struct pnx_file_info *now);

/* The calling thread's numbers; added to by fetch_add, since a handler may interrupt the adding. */
struct pnx_fault_values *pnx__fault_counts(void);
/* Sums up all threads' numbers. */
void pnx__fault_sum(struct pnx_fault_values *ret_sum);

/* ---- fault_mode.c ---- */

/* Before the first scope on what can fault: installs the handler unless something else was decided.  0, -ENOTSUP, -EBUSY. */
int pnx__fault_decide(void);
void pnx__fault_stats_start(void);

#endif
