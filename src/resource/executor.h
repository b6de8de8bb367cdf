/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource/executor.h - the shell around the core: the lock, the threads, the calls of jobs.
 *
 * A thread of the executor is, under the lock, in one of these:
 *
 *   starting, searching   will look for a job before it sleeps: counted in searching
 *   parked                sleeps on its own word; on the list parked
 *   in a job              counted by the core: n[RUNNING] (and callers of wait, drain, close, tick may be, too)
 *
 * One of the parked ones is the keeper, who sleeps no longer than until the next timer.
 *
 *   X1  When a job may start, somebody searches, or a parked thread is being woken, or no thread can be had.
 *   X2  When no thread is the keeper, somebody searches, and so will be, or no thread can be had (START_PAUSE).
 *   X3  After an unlock that left the executor without anybody, it is freed once: by the last of refs.
 *   X4  While submitters wait for room, there is none.
 */
#ifndef PNX_SRC_RESOURCE_EXECUTOR_H
#define PNX_SRC_RESOURCE_EXECUTOR_H

#include "base/env.h"
#include "base/options.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "registry/calls.h"
#include "resource/executor_core.h"

#define PNX_GROUP     executor
#define PNX_GROUP_DEF <patinox/stats/executor.def>
#include "stats/declare_group.inc"

#define PNX_EXECUTOR_MAGIC UINT32_C(0x45786563)

/* How soon a thread that could not be had is tried again. */
#define PNX_EXECUTOR_START_PAUSE (100 * PNX_MS)

enum pnx__executor_thread_state {
    PNX__THREAD_NONE,
    PNX__THREAD_LIVE,  /* being started, or running */
    PNX__THREAD_ENDED, /* to be joined, once os is set */
};

/* A thread of the executor, or room for one. */
struct pnx__executor_thread {
    struct pnx_executor *executor;
    struct pnx_link link;     /* on the list parked */
    struct pnx_a32 woken;     /* a futex; written under the lock */
    uint32_t state;           /* enum pnx__executor_thread_state; lock, like the rest */
    struct pnx_os_thread *os; /* set by who has started it */
};

/* Who waits for jobs to end: on its own stack.  Guarded by the lock. */
struct pnx__executor_waiter {
    struct pnx_link link;
    const struct pnx__job *job; /* NULL: for all up to serial */
    uint64_t serial;
    size_t left; /* jobs that have not ended */
    int code;    /* of the last to end */
};

/* A submitter who waits for room: on its own stack.  Guarded by the lock, id and outcome included. */
struct pnx__executor_blocked {
    struct pnx_link link;
    const struct pnx__job_spec *spec;
    struct pnx_a32 outcome; /* enum pnx__blocked_outcome; a futex */
    pnx_job_id id;
};
enum pnx__blocked_outcome { PNX__BLOCKED_WAITS, PNX__BLOCKED_TAKEN, PNX__BLOCKED_REFUSED };

/* One call of a job's function on this thread; they are linked from the innermost. */
struct pnx__executor_call {
    const struct pnx_executor *executor;
    const struct pnx__executor_call *outer;
    struct pnx_row_call row;
    bool inlined;
    bool returned;
};

/* What is to be done once the lock is released. */
#define PNX_EXECUTOR_WAKES   8
#define PNX_EXECUTOR_OVERDUE 4
struct pnx__executor_effects {
    const struct pnx_a32 *wake[PNX_EXECUTOR_WAKES]; /* only their addresses may be used */
    uint32_t wakes;
    uint32_t n_overdue;
    struct {
        pnx_job_id id;
        const char *name;
        const char *site;
    } overdue[PNX_EXECUTOR_OVERDUE]; /* to be told of */
    bool wake_waiters;               /* see home */
    bool signal;                     /* the descriptor */
    struct pnx__executor_thread *start;
    struct pnx_os_thread *join; /* what start was before */
    struct pnx__executor_thread
            *self; /* the caller, when it is a thread of the executor that ends */
};

/*
 * Owned by its user, until released; by its threads, by calls that wait, and by its jobs.
 */
struct pnx_executor {
    uint32_t magic;
    uint32_t fork; /* generation of the process that made it */
    struct pnx_env env;
    char *name;
    const char *site;
    struct pnx_registry *registry; /* a reference */
    pnx_resource_id row;
    struct pnx_budget *budget; /* a reference */
    size_t bytes;              /* charged */
    pnx_ns block_timeout;
    pnx_ns job_timeout;
    pnx_ns linger;
    uint32_t attempts;
    uint32_t on_full;
    uint32_t queue_max;
    uint32_t n_threads; /* room for so many; 0: driven by tick */
    bool tick;
    int fd; /* tick: the descriptor */

    struct pnx_mutex lock;
    /* Guarded by lock, all below. */
    struct pnx__executor_core core;
    struct pnx_link waiters;
    struct pnx_link blocked;
    struct pnx_a32 home;  /* counts what those who wait may wait for; a futex */
    uint32_t driving;     /* those who wait, and sleep on home, and would run a job */
    pnx_ns driving_until; /* the earliest time to which one of them sleeps */
    uint32_t refs;
    bool released;
    bool destroying;

    struct pnx__executor_thread *threads;
    struct pnx_link parked; /* latest first */
    uint32_t searching;
    uint32_t live; /* threads */
    struct pnx__executor_thread *keeper;
    pnx_ns keeper_until;
    pnx_ns start_at; /* no thread is started before: the last one could not be had; 0: it could */

    uint64_t driver;      /* tick: the thread that ticked last */
    pnx_ns tick_until;    /* tick: what the last one returned */
    bool signalled;       /* tick: the descriptor has been set since the last one, or need not be */
    bool several;         /* tick: not always the same thread */
    struct pnx_link loop; /* tick: in the list of executor_loops.c, whose lock guards it */

    /* Of the close. */
    pnx_ns closed_at;
    size_t at_close;                       /* jobs alive when it began */
    size_t closed[PNX__FATE_CANCELED + 1]; /* those that have ended since, by enum pnx__job_fate */
    bool dropped;                          /* some had no time */
    bool told;                             /* the event */

    enum pnx_health_status health;
    struct pnx_stats_block block;
    struct pnx_executor_histograms histograms;
};

void pnx__executor_check(const struct pnx_executor *executor);

static inline bool pnx__executor_forked(const struct pnx_executor *executor) {
    return executor->fork != pnx__fork_generation();
}

static inline void pnx__executor_effects_init(struct pnx__executor_effects *effects) {
    effects->wakes = 0;
    effects->n_overdue = 0;
    effects->wake_waiters = false;
    effects->signal = false;
    effects->start = NULL;
    effects->join = NULL;
    effects->self = NULL;
}

/* ---- executor.c ---- */

/* pnx_executor_tick(), but no job begins once until has come; then it returns what is not after that. */
pnx_ns pnx__executor_tick_until(struct pnx_executor *executor, pnx_ns now, pnx_ns until);

/* Frees an executor that nobody uses any more; self is the calling thread when it is one of its own. */
void pnx__executor_destroy(struct pnx_executor *executor, const struct pnx__executor_thread *self);

/* ---- executor_threads.c ---- */

/* Decides what else is to be done, unlocks, and does it; may free the executor. */
void pnx__executor_unlock(struct pnx_executor *executor, struct pnx__executor_effects *effects);

/* Lets time pass; collects what became overdue. */
void pnx__executor_advance_locked(
        struct pnx_executor *executor, pnx_ns now, struct pnx__executor_effects *effects);

/* Starts the first thread.  -EAGAIN, -ENOMEM. */
int pnx__executor_start_first(struct pnx_executor *executor);

/* Joins the threads that have ended. */
void pnx__executor_join(struct pnx_executor *executor, const struct pnx__executor_thread *self);

/* Whether nobody but those who wait would run a job: the caller, outside of every job, must. */
bool pnx__executor_must_drive_locked(const struct pnx_executor *executor);

/* Adds a futex word to those that are woken.  There is room for one per job that ends. */
void pnx__executor_wake(struct pnx__executor_effects *effects, const struct pnx_a32 *word);

/* ---- executor_run.c: false means that this is a forked child now, and nothing may be touched ---- */

/* Runs a job that was taken; the lock is held before and after. */
bool pnx__executor_run(
        struct pnx_executor *executor, struct pnx__job *job, struct pnx__executor_effects *effects);

/* Takes a job and runs it, if one may start; *ret_ran says whether. */
bool pnx__executor_drive(
        struct pnx_executor *executor, struct pnx__executor_effects *effects, bool *ret_ran);

/* Tells of a settled job, frees its place, and lets those know who waited for that; the lock is held before and after. */
bool pnx__executor_conclude(
        struct pnx_executor *executor, struct pnx__job *job, struct pnx__executor_effects *effects);

/* Calls a job's function on this thread, or its row's cleanup.  false: forked. */
bool pnx__executor_call_job(const struct pnx_executor *executor, const struct pnx__job_spec *spec,
        struct pnx_row_request *request, bool inlined, int *ret_code);

/* Tells how a job ended: an event if it failed, and its done function; gives up its registry.  false: forked. */
bool pnx__executor_tell(const struct pnx_executor *executor, const struct pnx__job_spec *spec,
        pnx_job_id id, int code);

/* Whether a function that this executor runs is on this thread's stack. */
bool pnx__executor_inside(const struct pnx_executor *executor);

/* How many jobs run inline on this thread, one inside the other. */
unsigned pnx__executor_nested(const struct pnx_executor *executor);

/* A random number for a retry's pause, if the code may lead to one. */
uint64_t pnx__executor_random(const struct pnx_executor *executor, int code);

/* ---- executor_submit.c ---- */

/* Fills what a job says, but what it runs.  -EINVAL. */
int pnx__executor_resolve(const struct pnx_executor *executor, const struct pnx_job *job,
        struct pnx_error *err, struct pnx__job_spec *ret_spec);

/* Submits; on success the spec's registry is the job's. */
int pnx__executor_submit(struct pnx_executor *executor, const struct pnx__job_spec *spec,
        struct pnx_error *err, pnx_job_id *ret_id);

/* pnx_executor_submit(); guard: of what a guard has handed over. */
int pnx__executor_take_over(struct pnx_executor *executor, const struct pnx_job *job, bool guard,
        struct pnx_error *err, pnx_job_id *ret_id);

/* ---- executor_wait.c ---- */

/* Sleeps until something that those who wait may wait for has happened, at most until deadline; runs jobs when nobody
 * else would.  The lock is held before and after.  false: forked. */
bool pnx__executor_idle(struct pnx_executor *executor, const struct pnx_a32 *word,
        uint32_t expected, pnx_ns deadline);

/*
 * Closes without waiting for jobs, and runs what guards have handed over and no worker has begun, if this thread may;
 * tells of the end if no close has.  The lock is held before and after.  false: forked.
 */
bool pnx__executor_give_up(struct pnx_executor *executor);

/* Waits until no thread is left; the lock is held before and after. */
void pnx__executor_wait_threads(struct pnx_executor *executor, pnx_ns deadline);

#endif
