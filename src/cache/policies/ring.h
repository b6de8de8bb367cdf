/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache/policies/ring.h - first-in first-out queues of slots, some 4.5 bytes a slot for all queues together.
 *
 * Queues are chains of chunks from one pool.  A slot that is removed from the middle leaves its reference behind,
 * stale; how many such references a slot has in a queue is counted, 16 bits a slot for all queues.  References
 * of one slot leave a queue in the order in which they came, so the stale ones come out first and are dropped:
 *
 *     tail (oldest)  [ 7 | 3 | 7 | 5 ]  head        stale(7) = 1: the first 7 is dropped, the second is slot 7
 *
 *   P1  references of a queue = its live slots + the sum of its stale counts.
 *   P2  A push finds a chunk: when there is none, or a count is at its limit, the stale references are squeezed out,
 *       which takes one step for each reference and happens at most once for slots / 8 removals.
 */
#ifndef PNX_SRC_CACHE_POLICIES_RING_H
#define PNX_SRC_CACHE_POLICIES_RING_H

#include "cache/policies/layout.h"

#include <patinox/cache_policy.h>

#define PNX__RING_CHUNK  63 /* references in one */
#define PNX__RING_QUEUES 2  /* at most, of one pool */

struct pnx__ring_chunk {
    uint32_t next; /* toward the head; NO_SLOT in the last one */
    uint32_t refs[PNX__RING_CHUNK];
};

/* Which bits of a slot's mark count its stale references in this queue. */
struct pnx__ring {
    uint32_t first; /* chunk of the tail */
    uint32_t last;  /* chunk of the head */
    uint32_t begin; /* position of the oldest reference in first */
    uint32_t end;   /* position after the newest in last */
    uint32_t refs;
    uint32_t count; /* live slots */
    uint32_t shift;
    uint32_t limit; /* of a stale count */
};

/* The pool, and the marks of slots.  Bits of a mark that no queue uses are the policy's. */
struct pnx__rings {
    struct pnx__ring_chunk *chunks;
    uint16_t *marks;
    uint32_t slots;
    uint32_t pool;  /* chunks there are */
    uint32_t free;  /* first free chunk, of those that were in use */
    uint32_t fresh; /* chunks from here on never were */
    uint32_t queues;
    struct pnx__ring queue[PNX__RING_QUEUES];
};

/* Measures or places the tables. */
void pnx__rings_layout(struct pnx__rings *rings, struct pnx__layout *layout, uint32_t slots);
/* Makes empty queues in tables that have been placed: the first counts stale references in bits 0 to 7 (0 to 14, when it
 * is alone), the second in 8 to 14. */
void pnx__rings_init(struct pnx__rings *rings, uint32_t queues);
/* Makes the same queues in larger tables; map: see grow in patinox/cache_policy.h.  What is stale in from may be dropped. */
void pnx__rings_grow(struct pnx__rings *rings, struct pnx__rings *from, const uint32_t *map);

void pnx__ring_push(struct pnx__rings *rings, uint32_t queue, uint32_t slot);
/* Takes the oldest slot out; NO_SLOT when there is none. */
uint32_t pnx__ring_pop(struct pnx__rings *rings, uint32_t queue);
/* The slot that will be popped next, in all likelihood; NO_SLOT where that is not to be seen at once. */
static inline uint32_t pnx__ring_peek(const struct pnx__rings *rings, uint32_t queue) {
    const struct pnx__ring *q = &rings->queue[queue];
    return q->refs > 0 && q->begin < PNX__RING_CHUNK ? rings->chunks[q->first].refs[q->begin]
                                                     : PNX_CACHE_NO_SLOT;
}
/* Puts the slot that was popped last back as the oldest, before anything else is popped from the queue. */
void pnx__ring_unpop(struct pnx__rings *rings, uint32_t queue, uint32_t slot);
/* Takes a slot out that is in the queue. */
void pnx__ring_remove(struct pnx__rings *rings, uint32_t queue, uint32_t slot);

/* Returns what is broken, or NULL. */
const char *pnx__ring_check(const struct pnx__rings *rings, uint32_t queue);

#endif
