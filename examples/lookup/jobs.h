/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs.h - the threads that may block, so that the threads of the server need not.
 *
 * A request that has to read the database becomes a job; its connection is parked meanwhile.  Each job has a
 * deadline after which its connection is answered without it, whatever the worker is stuck in.
 *
 *   QUEUED ---worker takes it---> RUNNING ---run() returned---> FINISHED
 *      |                             |
 *      +--deadline, or shutdown------+----------------------> EXPIRED
 *
 *   P1  wake() is called exactly once for each submitted job, when it becomes FINISHED or EXPIRED, with no lock
 *       held; the job is not touched by the workers' side after that if it is FINISHED.
 *   P2  A job is freed when its connection's side has dropped it and no worker runs it.
 *   P3  No more than capacity jobs are queued or running (jobs_reserve() refuses the next one).
 */
#ifndef LOOKUP_JOBS_H
#define LOOKUP_JOBS_H

#include <patinox/base.h>

struct jobs; /* safe to use from any thread */

enum job_state { JOB_NEW, JOB_QUEUED, JOB_RUNNING, JOB_FINISHED, JOB_EXPIRED };

/* First member of a job.  state, links and references belong to the lock of jobs. */
struct job {
    void (*run)(struct job *job);     /* does the work, on a worker; may block */
    void (*wake)(struct job *job);    /* un-parks the connection */
    void (*destroy)(struct job *job); /* frees it, and what run() left in it */
    pnx_ns deadline;
    enum job_state state;
    unsigned references;
    struct job *next, *prev;
};

struct jobs_opts {
    unsigned workers;  /* threads; required */
    unsigned capacity; /* jobs queued or running; required */
    uint64_t *queued;  /* a gauge that follows the length of the queue (atomic); required */
};

/* Starts the workers.  -ENOMEM, -EAGAIN (no more threads). */
PNX_NODISCARD int jobs_start(const struct jobs_opts *opts, struct jobs **ret_jobs);

/* Takes one of capacity places.  -EBUSY when all are taken, -ESHUTDOWN once stopping. */
PNX_NODISCARD int jobs_reserve(struct jobs *jobs);

/* Hands a job to the workers; takes a place that was reserved.  The caller keeps a reference. */
void jobs_submit(struct jobs *jobs, struct job *job);

/* Drops the connection's reference to a job that is FINISHED or EXPIRED, or was never submitted. */
void jobs_drop(struct jobs *jobs, struct job *job);

/* Returns whether run() has completed, and its results may be read. */
bool jobs_finished(struct jobs *jobs, struct job *job);

/* Expires what is overdue. */
void jobs_tick(struct jobs *jobs, pnx_ns now);

/*
 * Expires what is queued, waits until the deadline for what is running, expires that too, and ends the threads.
 * -ETIMEDOUT when a worker is still inside run(): then jobs_release() leaves the memory to it.
 */
int jobs_stop(struct jobs *jobs, pnx_ns deadline);

/* Frees a stopped one; clears *jobs. */
void jobs_release(struct jobs **jobs);

#endif
