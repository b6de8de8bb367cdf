/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_order.h - who was served out of turn, as far as the callers of a pool can tell.
 *
 * An inversion is a grant to X while some Y that had begun to wait before X's call is still waiting.  From outside
 * neither the moment in which Y joins the queue nor that of a grant is seen, but only three times of each turn: just
 * before the call that acquires, just after it has returned, just before the call that releases.  What they prove:
 *
 *   When X's call returned, at most free = size + releases begun - acquires returned connections were there that
 *   anybody else could have been given.  If more callers than that had asked before X did and have not returned yet,
 *   one of them at least was still without a grant.
 *
 * The times are each thread's own, written where nobody else looks before the end, so that looking changes little.
 *
 * What this cannot tell.  It sees too much where a caller has looked at the clock but does not wait yet: it must have
 * asked POOL_ORDER_MARGIN_NS before X, and does not count if its thread lost its CPU in that turn against its will;
 * what remains is a thread that waits for a lock of the pool's own, and a whole machine that was stopped by its host.
 * It sees too little while connections are free or their new holders not awake yet, which is most of the time where
 * they are held for no time: a pool may invert more than is counted.
 */
#ifndef PNX_BENCH_POOL_ORDER_H
#define PNX_BENCH_POOL_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Between a look at the clock and the pool's queue: some hundred nanoseconds, some microseconds with an interrupt. */
#define POOL_ORDER_MARGIN_NS 20000

/* One turn of a thread, in monotonic nanoseconds. */
struct pool_turn {
    int64_t asked;
    int64_t got;
    int64_t back;
    bool unsure; /* the thread lost its CPU meanwhile: when it began to wait is not known */
};

/* The turns of one thread, in their order. */
struct pool_log {
    struct pool_turn *turns;
    size_t n;
};

/*
 * Returns how many of all turns began with a grant that was certainly out of turn, in a pool of so many connections
 * that all were there from the beginning.  Ends the process when there is no memory.
 */
uint64_t pool_order_inversions(const struct pool_log *logs, unsigned threads, unsigned size);

#endif
