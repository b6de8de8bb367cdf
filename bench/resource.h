/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource.h - the workload of the resource cases, the same for us and for the peers.
 *
 * What is tracked is a thing that costs nothing to make and to end, so that the cases show what guarding, tracking,
 * deferring and listing cost.  RESOURCE_LIVE others are tracked all the time.
 */
#ifndef PNX_BENCH_RESOURCE_H
#define PNX_BENCH_RESOURCE_H

#include "bench.h"

#include <pthread.h>
#include <semaphore.h>

#define RESOURCE_LIVE  1000u    /* tracked beside the one that comes and goes */
#define RESOURCE_ROWS  1000000u /* that resource/enumerate looks at */
#define RESOURCE_ROW   64u      /* bytes of one, for memcpy and for a peer's node */
#define RESOURCE_BATCH 256u     /* jobs of a round of resource/defer, for each thread */

/* One thread's resource: its cleanup counts up. */
struct resource {
    _Alignas(128) uint64_t ended;
};
extern struct resource resource_own[BENCH_MAX_THREADS];

/* The end of a resource; a call, since a cleanup is one that the compiler does not see through. */
int resource_end(void *arg, const void *unused);

/* Stands for the use of a resource: the compiler may not move anything across. */
#define RESOURCE_USE() __asm__ volatile("" : : : "memory")

/*
 * A thread that registers and removes a resource again and again, on the last CPU, while others are measured.
 */
struct resource_registrar {
    void (*cycle)(void *ctx);
    void *ctx;
    pthread_t thread;
    int stop;           /* atomic */
    uint64_t done;      /* atomic */
    uint64_t done_then; /* at the mark */
    double marked_s;
    double alone;
};

/* Starts it and measures for 50 ms how fast it is when nobody else is at work.  Ends the process when it cannot. */
void resource_registrar_start(struct resource_registrar *registrar);

/* Says that the others begin. */
void resource_registrar_mark(struct resource_registrar *registrar);

/* Ends it and prints what it did: ,"registrations":since the mark,"registrations_per_ms":..,"alone_per_ms":..  */
void resource_registrar_fields(struct resource_registrar *registrar, FILE *out);

/*
 * The worker of resource/defer, which belongs to the queue that is measured.  Its first job of a round keeps it busy
 * until it may go on, and the last one says that all have run.
 */
struct resource_worker {
    sem_t held;
    sem_t go;
    sem_t done;
    int flow; /* atomic: the one that is held spins until it is set, and is at work at once */
    int tid;  /* atomic; 0: not known yet */
};
void resource_worker_init(struct resource_worker *worker);

/* Jobs.  They wait asleep, or spinning, until the round begins; and post done. */
void resource_worker_hold(struct resource_worker *worker);
void resource_worker_spin(struct resource_worker *worker);
void resource_worker_done(struct resource_worker *worker);

/* Returns once the worker, which has run resource_worker_done(), sleeps for lack of work. */
void resource_worker_wait_asleep(const struct resource_worker *worker);

#endif
