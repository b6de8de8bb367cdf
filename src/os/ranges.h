/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/ranges.h - the table of address ranges in which a fault may be ours: read by a signal handler.
 *
 *     FREE --claim: pnx__range_add()--> BUSY --filled--> LIVE --pnx__range_remove()--> FREE
 *                                        ^                 |
 *                                        +---- pnx__range_move(), there and back
 *
 * One function a transition.  A slot's word has the state in its lowest two bits and above them a number that every
 * transition moves on.  Slots lie in chunks, each twice as large as the one before, which are never freed.
 *
 *   P1  No lock, and no limit but memory.
 *   P2  find takes no lock, allocates nothing and ends after as many steps as there are slots: it may run in a signal
 *       handler, whatever it has interrupted, also another function of this file.
 *   P3  A range whose adding happened before find is found, as long as it is neither removed nor moved; one that
 *       is removed, moved or filled at the same time is found as it was, as it will be, or not at all.
 */
#ifndef PNX_SRC_OS_RANGES_H
#define PNX_SRC_OS_RANGES_H

#include "base/atomic.h"

#include <stdint.h>

/* Owned by the table.  Written by who has claimed it, between two changes of the word. */
struct pnx_range {
    struct pnx_a64 word;
    struct pnx_a64 from; /* from <= address < to */
    struct pnx_a64 to;
    struct pnx_aptr owner;
};

/* Adds a range, which must overlap no other.  -ENOMEM. */
int pnx__range_add(uintptr_t from, uintptr_t to, void *owner, struct pnx_range **ret_range);
/* Gives a range other bounds. */
void pnx__range_move(struct pnx_range *range, uintptr_t from, uintptr_t to);
/* Removes a range.  NULL-safe, clears. */
void pnx__range_remove(struct pnx_range **range);
/* Returns the owner of the range that holds an address; NULL: there is none.  Async-signal-safe. */
void *pnx__range_find(uintptr_t address);
/* How many ranges there are; a number for people, and for tests. */
uint64_t pnx__ranges(void);

#endif
