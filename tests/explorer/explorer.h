/* SPDX-License-Identifier: Apache-2.0 */
/*
 * explorer.h - what a suite of the explorer is written with; README.md has an example.
 *
 * A test is a set-up, some threads and an end.  x_explore() runs it over and over, each time with another
 * interleaving and other values read by loads, until it has seen all within the bounds, and then for a while
 * at random.  Whatever breaks ends the run with a schedule that --replay repeats.
 */
#ifndef PNX_TESTS_EXPLORER_H
#define PNX_TESTS_EXPLORER_H

#include "harness/harness.h"

#include "base/atomic.h"
#include "os/futex.h"
#include "os/mutex.h"
#include "os/thread.h"

#include <patinox/base.h>

#define X_MAX_THREADS 6 /* that run at once, those that the code under test starts included */
#define X_NONE        UINT32_MAX /* a bound of zero */
#define X_UNBOUNDED   (UINT32_MAX - 1)

enum x_failure {
    X_PASSED,
    X_ASSERTION, /* a CHECK failed */
    X_RACE,     /* two accesses, one of them a plain write or a free, unordered by happens-before */
    X_FREED,    /* an access to freed memory, or one that was never allocated */
    X_BAD_FREE, /* freed twice, or with another size */
    X_DEADLOCK, /* nobody can run, somebody waits for a lock or a thread */
    X_LOST_WAKE,  /* nobody can run, and all that wait sleep on futexes */
    X_LIVELOCK,   /* nobody can run but spinning threads; or too many steps */
    X_LEAK,       /* memory left at the end */
    X_MISUSE,     /* mixed sizes, a lock unlocked by another, too many threads */
    X_CRASH,      /* abort() or a signal */
    X_UNFINISHED, /* the limit came before the bounds were exhausted */
    X_TOO_FEW,    /* fewer executions than the floor */
};

/* Zero selects the default of each field but name and thread. */
struct x_test {
    const char *name;           /* unique in the program; part of the schedule */
    size_t size;                /* bytes of the state that every function is given, zeroed */
    void (*setup)(void *state); /* alone, before the threads start */
    void (*thread[X_MAX_THREADS])(void *state);
    void (*final)(void *state); /* alone, when all have ended */
    uint32_t preemptions;       /* switches away from a thread that could go on; default 3 */
    uint32_t stale;             /* loads that read something older than the last store; 2 */
    uint32_t timeouts;          /* timed waits that end though others could run; 1 */
    uint32_t spurious;          /* futex waits that return for no reason; none */
    uint32_t steps;             /* visible operations of one execution; default 20,000 */
    uint64_t floor;             /* at least so many executions, or the suite tests nothing */
    uint64_t limit;             /* executions in which the bounds must be exhausted; 20 million */
    uint64_t random;            /* executions with random priorities afterwards; 20,000 */
    bool fences;                /* the asymmetric barrier fences on both sides; else membarrier */
    bool thorough; /* leaves out no equivalent execution: to test the explorer itself */
    bool leaks;    /* memory left at the end is no failure */
};

struct x_result {
    enum x_failure failure;
    uint64_t executions;          /* complete ones of the exhaustive part */
    uint64_t pruned;              /* given up on, because an equivalent one is run instead */
    uint64_t random;              /* executions of the random part */
    uint64_t distinct;            /* different ones among all: what was read where */
    uint64_t distinct_exhaustive; /* ... among those of the exhaustive part */
    bool exhausted;
    char message[512];
    char schedule[8192];
};

/* Explores; fails the TEST with a schedule when anything breaks, or when fewer than floor executions ran. */
void x_explore(const struct x_test *test);

/* Explores something that is known to be wrong: fails the TEST unless this kind of failure is found. */
void x_refute(const struct x_test *test, enum x_failure expected);

/* Explores and returns what was found. */
enum x_failure x_run(const struct x_test *test, struct x_result *ret_result);

const char *x_failure_name(enum x_failure failure);

/*
 * Payload.  Reading and writing through these is checked for races against every other access, as are free and
 * x_free; no scheduling happens here.  A range is checked in granules of 8 bytes.
 */
struct x_cell {
    uint64_t v;
};
uint64_t x_cell_read(const struct x_cell *cell);
void x_cell_write(struct x_cell *cell, uint64_t value);
void x_read(const void *p, size_t n);
void x_write(const void *p, size_t n);

/* Memory: zeroed, never given out twice in one execution; an access after the free ends the run. */
const struct pnx_env *x_env(void);
void *x_alloc(size_t size);
void x_free(void *p);

/* The number of the calling thread: 0 while set-up and final run, else 1, 2, ... */
unsigned x_self(void);

/* Any value below n, each in turn: input that the code under test must cope with. */
unsigned x_choose(unsigned n);

/* A point at which another thread may run, for code without atomics. */
void x_yield(void);

/* The next allocations through x_env() succeed n times, then one fails; UINT32_MAX: none fails. */
void x_fail_allocation(uint32_t n);

/* Ends the execution as failed.  CHECK and its like come here. */
_Noreturn void x_test_fail(const char *file, int line, const char *format, ...) PNX_PRINTF(3, 4);
#ifndef PNX_EXPLORER_ENGINE
#define test_fail x_test_fail
#endif

#endif
