/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/records.h - the records of threads: what of them is the same on each system.  How a thread finds its own, and has it
 * given back at its end, is in thread.c.
 *
 *   take --> thread.c makes it the calling thread's --> the thread ends --> end --> thread.c forgets it --> give_back
 */
#ifndef PNX_SRC_OS_RECORDS_H
#define PNX_SRC_OS_RECORDS_H

#include "os/thread.h"

/* Takes a record that was given back, or makes one; NULL when there is no memory. */
struct pnx_thread *pnx__record_take(void);

/* Calls what the thread of the record has for its end; it still is its thread's. */
void pnx__record_end(struct pnx_thread *record);

/* Another thread may have it.  Nothing of the record may be used any more. */
void pnx__record_give_back(struct pnx_thread *record);

/* In a child: those that other threads had are nobody's, and never given back.  The one thread there is has self, or NULL. */
void pnx__records_lose_others(const struct pnx_thread *self);

/* Takes all records off the list, so that none is found; they are freed by the next. */
struct pnx_thread *pnx__records_unlist(void);
void pnx__records_free(struct pnx_thread *first);

#endif
