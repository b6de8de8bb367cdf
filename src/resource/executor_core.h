/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor_core.h - what an executor decides, as a pure state machine: (state, event, now) -> decision.
 *
 * No function here blocks, allocates, reads a clock, draws a random number, starts a thread or calls anybody.  The
 * shell (executor.h) holds the lock around each call; the tests need none.
 *
 *   state    list     timer (heap)          left by                         to
 *   FREE     free     none                  submit                          QUEUED | DELAYED
 *   DELAYED  delayed  when it is due        advance, close                  QUEUED
 *                                           cancel, drop                    ENDING
 *   QUEUED   lane[]   none                  take                            RUNNING
 *                                           cancel, drop                    ENDING
 *   RUNNING  busy     when it is overdue    end (to be retried)             DELAYED
 *                                           pend                            PENDING
 *                                           free, once settled              FREE
 *   PENDING  busy     when it is overdue    end (to be retried)             DELAYED
 *                                           free, once settled              FREE
 *   LAST     busy     when it is overdue    pend                            PENDING
 *                                           free, once settled              FREE
 *   ENDING   ending   none                  free                            FREE
 *
 * An attempt that ended for good leaves its job RUNNING or PENDING, but settled: its done function takes a worker's
 * time, too, and may hang as well.  ENDING is a job that was called off before it began.  LAST is one that who
 * gives the executor up runs himself, from DELAYED or QUEUED (start_last); no worker's, it does not count as running.
 *
 *   E1  A job is on exactly one list, the one of its state; n[] counts them, and their sum is the capacity.
 *   E2  A job has a timer if and only if it is DELAYED, or RUNNING, LAST or PENDING and neither overdue nor without limit;
 *       next_timer is the earliest, PNX_NEVER when there is none.
 *   E3  A lane is ordered by queued_at.  take() gives the best of the lanes' first jobs: of the highest rank; among
 *       those the one that came to that rank first; among those the one of the lane above.  A job's rank is its lane,
 *       plus one for each ageing that it has waited, at most the highest lane.
 *   E4  late counts those RUNNING that are overdue; n[RUNNING] - late <= workers, and n[RUNNING] <= max_workers.
 *   E5  attempt <= attempts.  A job that was asked to end, or whose executor has run out of time, is not tried again.
 */
#ifndef PNX_SRC_RESOURCE_EXECUTOR_CORE_H
#define PNX_SRC_RESOURCE_EXECUTOR_CORE_H

#include "base/atomic.h"
#include "base/list.h"
#include "registry/ledger.h"

#include <patinox/executor.h>

#include <errno.h>

#define PNX_LANES      4  /* PNX_PRIORITY_LOW to PNX_PRIORITY_CRITICAL */
#define PNX_INDEX_BITS 20 /* of an id; the rest is the generation */

enum pnx__job_state {
    PNX__JOB_FREE,
    PNX__JOB_DELAYED,
    PNX__JOB_QUEUED,
    PNX__JOB_RUNNING,
    PNX__JOB_PENDING,
    PNX__JOB_LAST,
    PNX__JOB_ENDING, /* called off, and is being told */
    PNX__JOB_STATES,
};

/* What was submitted, with defaults filled in. */
struct pnx__job_spec {
    pnx_cleanup_fn *run; /* NULL: the cleanup of a row */
    void *arg;
    struct pnx_registry *
            registry; /* the row's: a reference, given back when the job has been told; else NULL */
    pnx_resource_id row;
    pnx_job_done_fn *done;
    void *ctx;
    const char *name; /* NULL: the executor's */
    const char *site;
    pnx_ns delay;
    pnx_ns timeout;
    uint32_t attempts;
    uint16_t lane; /* 0: PNX_PRIORITY_LOW */
    bool guard;    /* what a guard has handed over: a release does not call it off */
};

/*
 * One job's place, owned by the core for ever.  Everything is guarded by the shell's lock, save that request
 * is the job's own while an attempt is under way (its cancel always may be looked at), and that spec does not change while the job is neither QUEUED nor FREE.
 */
struct pnx__job {
    struct pnx_link link;
    uint64_t generation; /* grows each time the place is used: half of the id */
    uint64_t serial;     /* in order of submission, among all jobs */
    pnx_ns submitted_at;
    pnx_ns due_at;    /* when it was to start for the first time: from here on it waits */
    pnx_ns queued_at; /* when it came into its lane */
    pnx_ns at;        /* its timer; PNX_NEVER: none */
    uint32_t timer;   /* index + 1 in the heap; 0: not there */
    uint32_t index;   /* fixed */
    uint32_t attempt; /* attempts begun */
    int32_t code;     /* settled, ENDING, FREE: how it ended; before: of the last attempt */
    uint8_t state;
    bool overdue;                   /* the attempt under way has run out of time */
    bool asked;                     /* somebody wants it to end */
    bool settled;                   /* the outcome is fixed, and is being told */
    struct pnx_row_request request; /* for its cancel, and for the registry when it is a row's */
    struct pnx__job_spec spec;
    struct pnx_executor *executor; /* fixed */
    /* The shell's: the completion that is out. */
    uint64_t token;       /* 0: none */
    uint64_t pends;       /* how many there were: makes tokens differ */
    int32_t completed;    /* the code, when completed_early */
    bool completed_early; /* before the function that pended has returned */
};

struct pnx__executor_config { /* fixed; times are PNX_NEVER when off */
    pnx_ns ageing;
    pnx_ns backoff;
    pnx_ns backoff_max;
    uint32_t workers;
    uint32_t max_workers;
};

/* Indices of the values of an executor's statistics block. */
enum pnx__executor_stat {
#define PNX_STAT(name, kind, unit, level, help) PNX__EXECUTOR_STAT_##name,
#define PNX_STAT_HISTOGRAM(name, unit, level, help)
#include <patinox/stats/executor.def>
#undef PNX_STAT
#undef PNX_STAT_HISTOGRAM
    PNX__EXECUTOR_STATS,
};

struct pnx__executor_core {
    struct pnx__executor_config config;
    struct pnx__job *jobs;  /* fixed */
    struct pnx__job **heap; /* fixed: room for all */
    uint32_t capacity;
    uint32_t timers; /* in the heap */

    struct pnx_link free; /* first in, first out, so that an ended job stays known for long */
    struct pnx_link delayed;
    struct pnx_link lane[PNX_LANES];
    struct pnx_link busy; /* RUNNING, PENDING, LAST */
    struct pnx_link ending;
    uint32_t n[PNX__JOB_STATES];
    uint32_t late; /* RUNNING and overdue */

    bool closing;
    pnx_ns close_at; /* closing: no attempt begins after this */
    uint64_t serial; /* of the last job submitted */
    pnx_ns now;      /* latest time seen */
    pnx_ns next_timer;
    struct pnx_a64 stats[PNX__EXECUTOR_STATS]; /* written under the lock by pnx_owner_add */
};

/* jobs and heap have room for n; jobs are zeroed.  Generations start behind first_generation. */
void pnx__executor_core_init(struct pnx__executor_core *core,
        const struct pnx__executor_config *config, struct pnx__job *jobs, struct pnx__job **heap,
        uint32_t n, uint64_t first_generation, pnx_ns now);

/* ---- events ---- */

/* Accepts a job: queued, or delayed.  NULL when there is no room; not to be called once closing. */
struct pnx__job *pnx__executor_core_submit(
        struct pnx__executor_core *core, const struct pnx__job_spec *spec, pnx_ns now);

/*
 * Lets time pass: queues what is due.  Returns a job that has just become overdue, which has been asked to end and is
 * to be told of; call it until it returns NULL.
 */
struct pnx__job *pnx__executor_core_advance(struct pnx__executor_core *core, pnx_ns now);

/* Starts an attempt of the best job that waits, if one may start (pnx__executor_core_may_start), else NULL. */
struct pnx__job *pnx__executor_core_take(struct pnx__executor_core *core, pnx_ns now);

/* RUNNING, or LAST, goes on without a thread. */
void pnx__executor_core_pend(struct pnx__executor_core *core, struct pnx__job *job);

/*
 * An attempt has ended with a code.  true: the job is settled, with job->code; false: it will be tried again.
 * random is for the pause before that.
 */
bool pnx__executor_core_end(struct pnx__executor_core *core, struct pnx__job *job, int code,
        uint64_t random, pnx_ns now);

/* 0: it is ENDING.  -EINPROGRESS: it has been asked to end.  -EALREADY. */
int pnx__executor_core_cancel(struct pnx__executor_core *core, struct pnx__job *job);

/* A settled job has been told; its place is free. */
void pnx__executor_core_free(struct pnx__executor_core *core, struct pnx__job *job);

/* Begins the end, or brings its deadline forward: delays are over, and what runs gets to know the deadline. */
void pnx__executor_core_close(struct pnx__executor_core *core, pnx_ns deadline, pnx_ns now);

/* After the deadline: ends one job that has not started, with -ECANCELED; NULL when there is none. */
struct pnx__job *pnx__executor_core_drop(struct pnx__executor_core *core);

/* The one that it would give. */
struct pnx__job *pnx__executor_core_first(const struct pnx__executor_core *core);

/* Ends that one so. */
void pnx__executor_core_call_off(struct pnx__executor_core *core, struct pnx__job *job);

/* Starts that one, for the last time, on the thread of who asks. */
void pnx__executor_core_start_last(
        struct pnx__executor_core *core, struct pnx__job *job, pnx_ns now);

/* After the deadline: asks all that run or pend to end. */
void pnx__executor_core_ask_all(struct pnx__executor_core *core);

/* ---- questions ---- */

static inline bool pnx__executor_core_has_room(const struct pnx__executor_core *core) {
    return core->n[PNX__JOB_FREE] > 0;
}

/* Whether its function may be on some thread's stack. */
static inline bool pnx__job_runs(const struct pnx__job *job) {
    return job->state == PNX__JOB_RUNNING || job->state == PNX__JOB_LAST;
}

/* Jobs that have not been told how they ended. */
static inline uint32_t pnx__executor_core_alive(const struct pnx__executor_core *core) {
    return core->capacity - core->n[PNX__JOB_FREE];
}

/* Whether take() would give a job. */
static inline bool pnx__executor_core_may_start(const struct pnx__executor_core *core) {
    return core->n[PNX__JOB_QUEUED] > 0 &&
           core->n[PNX__JOB_RUNNING] - core->late < core->config.workers &&
           core->n[PNX__JOB_RUNNING] < core->config.max_workers;
}

static inline pnx_job_id pnx__job_id(const struct pnx__job *job) {
    return job->generation << PNX_INDEX_BITS | job->index;
}

/* Returns the place that an id names, while it is that job's, or was its last; NULL. */
struct pnx__job *pnx__executor_core_find(const struct pnx__executor_core *core, pnx_job_id id);

/* The pause before the retry that follows attempt (1, 2, ...). */
pnx_ns pnx__executor_core_pause(
        const struct pnx__executor_config *config, uint32_t attempt, uint64_t random);

/* Checks E1..E5 by walking everything; NULL, or what does not hold. */
const char *pnx__executor_core_check(const struct pnx__executor_core *core);

/* How an outcome counts. */
enum pnx__job_fate { PNX__FATE_DONE, PNX__FATE_FAILED, PNX__FATE_CANCELED };

static inline enum pnx__job_fate pnx__job_fate(const struct pnx__job_spec *spec, int code) {
    if (code == 0 ||
            (code == -EINPROGRESS && spec->registry)) /* inline: the row goes on by itself */
        return PNX__FATE_DONE;
    if (code == -ECANCELED)
        return PNX__FATE_CANCELED;
    bool taken = spec->registry && (code == -EALREADY || code == -ESTALE); /* by somebody else */
    return taken ? PNX__FATE_CANCELED : PNX__FATE_FAILED;
}

/* The number in which it counts. */
static inline enum pnx__executor_stat pnx__job_fate_stat(
        const struct pnx__job_spec *spec, int code) {
    switch (pnx__job_fate(spec, code)) {
    case PNX__FATE_DONE:
        return PNX__EXECUTOR_STAT_done;
    case PNX__FATE_CANCELED:
        return PNX__EXECUTOR_STAT_canceled;
    case PNX__FATE_FAILED:
        break;
    }
    return PNX__EXECUTOR_STAT_failed;
}

static inline void pnx__executor_count(
        struct pnx__executor_core *core, enum pnx__executor_stat stat) {
    pnx_owner_add(&core->stats[stat], 1);
}

#endif
