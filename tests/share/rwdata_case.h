/* SPDX-License-Identifier: Apache-2.0 */
/* rwdata_case.h - what the tests of rwdata share: a value whose halves must agree, and threads that ask for it. */
#ifndef PNX_TESTS_SHARE_RWDATA_CASE_H
#define PNX_TESTS_SHARE_RWDATA_CASE_H

#include "harness/harness.h"

#include "share/rwdata.h"

#include <pthread.h>
#include <semaphore.h>

/* Both words say the same number under any guard. */
struct pair {
    uint64_t a, b;
};

/* Asks on another thread, which may get other answers than the one that holds a guard. */
struct asker {
    struct pnx_rwdata *rwdata;
    pnx_ns timeout;
    bool write;
    int rc;
    struct pnx_error err;
    pthread_t thread;
};

/* What a monitor has heard since listen(). */
struct heard {
    int poisoned, misused, code;
    char cause[128];
};

struct torture {
    struct pnx_rwdata *rwdata;
    uint64_t rounds;
    uint64_t written;
    uint64_t writers; /* inside now */
};

extern int drops;
extern const struct pnx_rc_type pair_type;
extern struct test_env te;
extern struct heard heard;

struct pnx_rwdata *make_with(uint32_t flags);
struct pnx_rwdata *make(void);
/* Releases it, and checks that nothing is left. */
void end(struct pnx_rwdata **rwdata);
struct pnx_rwdata_stats stats_of(const struct pnx_rwdata *rwdata);
/* Waits until n threads are in the queue. */
void until_waiters(const struct pnx_rwdata *rwdata, uint64_t n);
struct pnx_rwdata_write_guard write_guard(struct pnx_rwdata *rwdata);
struct pnx_rwdata_read_guard read_guard(struct pnx_rwdata *rwdata);

void *ask_thread(void *asker);
void start(struct asker *asker);
int finish(struct asker *asker);
int ask(struct pnx_rwdata *rwdata, bool write, pnx_ns timeout, struct pnx_error *err);

/* A set with a monitor that fills heard, and an rwdata in it. */
struct pnx_stats *listen(void);
struct pnx_rwdata *make_heard(struct pnx_stats *stats, uint32_t flags);

/* Threads that read, write, try, wait and downgrade at random. */
void torture_thread(unsigned index, void *torture);
void run_torture(uint32_t flags);

#endif
