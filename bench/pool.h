/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h - the workloads of the pool cases, the same for us and for all peers, those in Rust included.
 *
 * A pool is shown to them as three functions.  They are called through pointers, which costs some nanoseconds: the case
 * that counts these, pool/cycle, is each program's own loop.
 */
#ifndef PNX_BENCH_POOL_H
#define PNX_BENCH_POOL_H

#include "bench.h"

#define POOL_CYCLE_SIZE 16u /* of pool/cycle */

/* What a thread has borrowed: room for whatever stands for a connection, away from other threads'. */
struct pool_ops {
    /* Makes a pool of at most size connections, of which the first idle are connected and idle; NULL when it cannot. */
    void *(*set_up)(uint32_t size, uint32_t idle);
    /* Called in each thread before all else; may be NULL. */
    void (*enter_thread)(void *pool);
    /* Borrows a connection, which the thread of this index keeps, and gives it back.  Cannot fail. */
    void (*acquire)(void *pool, unsigned index);
    void (*release)(void *pool, unsigned index);
    /* For a pool that can tell itself who was granted out of turn: as set_up, a pool that counts these, and how many there
     * were.  May be NULL. */
    void *(*set_up_traced)(uint32_t size, uint32_t idle);
    uint64_t (*traced)(void *pool);
};

/*
 * Runs args->case_name and prints one line of JSON: pool/one, pool/storm, pool/spin and pool/fair (bench_cycle()'s
 * fields, how long callers waited, and grants out of turn), pool/spike, pool/slot-memory.  Returns the process's exit
 * status: 2 for another case.
 */
int pool_run(const struct bench_args *args, const char *version, const struct pool_ops *ops);

/*
 * Stands for connecting: counts, and takes as long as the case says, 0 but in pool/spike.  The first form sleeps; the
 * second returns how long, for who sleeps in its own way.
 */
void pool_connect(void);
uint64_t pool_connect_ns(void);

#endif
