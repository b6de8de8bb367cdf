/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the executor share: jobs that wait for a gate, that count, that fail as told. */
#ifndef PNX_TESTS_RESOURCE_EXECUTOR_CASE_H
#define PNX_TESTS_RESOURCE_EXECUTOR_CASE_H

#include "harness/harness.h"

#include <patinox/executor.h>

#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

/* How long a test waits for what must happen: only a test that fails waits so long. */
#define SOON (30 * PNX_SEC)

/* A job that can be watched and held up.  All fields may stay zero. */
struct work {
    sem_t *begun;                     /* posted when an attempt begins */
    sem_t *gate;                      /* waited for before it ends */
    const int *codes;                 /* of its attempts; the last one holds for all further */
    int n_codes;                      /* 0: 0 */
    bool until_asked;                 /* runs until it is asked to end */
    struct pnx_completion completion; /* of the last attempt that pended */
    bool pends;
    int calls;     /* attempts, read with calls() */
    int told;      /* times that its done function was called */
    int code;      /* the last one that it was told */
    pnx_job_id id; /* what done was told */
    int at_once;   /* attempts under way: never more than one */
    bool overlap;  /* ... but there were */
    pthread_t thread;
    sem_t ended; /* posted by done */
};

static inline void work_init(struct work *work) {
    memset(work, 0, sizeof(*work));
    CHECK(sem_init(&work->ended, 0, 0) == 0);
}

static inline int work_run(void *arg, const struct pnx_cancel *cancel) {
    struct work *work = arg;
    if (__atomic_add_fetch(&work->at_once, 1, __ATOMIC_ACQ_REL) != 1)
        __atomic_store_n(&work->overlap, true, __ATOMIC_RELAXED);
    int call = __atomic_fetch_add(&work->calls, 1, __ATOMIC_ACQ_REL);
    int last = work->n_codes - 1;
    int code = work->n_codes ? work->codes[call < last ? call : last] : 0;
    __atomic_store_n(&work->thread, pthread_self(), __ATOMIC_RELAXED);
    if (work->pends) {
        int rc = pnx_cancel_pend(cancel, &work->completion);
        CHECK_MSG(rc == 0, "pend: %s", pnx_errname(rc));
        code = -EINPROGRESS;
    }
    if (work->begun)
        sem_post(work->begun);
    while (work->until_asked && !pnx_cancel_requested(cancel))
        usleep(1000); /* polling is what a cleanup in the middle of its work does */
    if (work->gate)
        sem_wait(work->gate);
    __atomic_sub_fetch(&work->at_once, 1, __ATOMIC_ACQ_REL);
    return code;
}

static inline void work_done(void *ctx, pnx_job_id id, int code) {
    struct work *work = ctx;
    __atomic_store_n(&work->id, id, __ATOMIC_RELAXED); /* several jobs may share one */
    __atomic_store_n(&work->code, code, __ATOMIC_RELAXED);
    __atomic_add_fetch(&work->told, 1, __ATOMIC_ACQ_REL);
    sem_post(&work->ended);
}

static inline int calls(const struct work *work) {
    return __atomic_load_n(&work->calls, __ATOMIC_ACQUIRE);
}

static inline int told(const struct work *work) {
    return __atomic_load_n(&work->told, __ATOMIC_ACQUIRE);
}

#define WORK_JOB(work, ...) WORK_JOB_AT(work, PNX_SITE, __VA_ARGS__)
#define WORK_JOB_AT(work, where, ...) \
    PNX_JOB_AT(where, .run = work_run, .arg = (work), .done = work_done, .ctx = (work), __VA_ARGS__)

static inline pnx_job_id submit(struct pnx_executor *executor, const struct pnx_job *job) {
    struct pnx_error err = {0};
    pnx_job_id id = 0;
    int rc = pnx_executor_submit(executor, job, &err, &id);
    CHECK_MSG(rc == 0, "submit: %s: %s", pnx_errname(rc), err.message);
    return id;
}

static inline struct pnx_executor *create(const struct pnx_executor_opts *opts) {
    struct pnx_error err = {0};
    struct pnx_executor *executor = NULL;
    int rc = pnx_executor_create(opts, &err, &executor);
    CHECK_MSG(rc == 0, "create: %s: %s", pnx_errname(rc), err.message);
    return executor;
}

static inline struct pnx_executor_stats stats_of(const struct pnx_executor *executor) {
    struct pnx_executor_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_executor_read_stats(executor, &stats), 0);
    return stats;
}

static inline struct pnx_job_info info_of(struct pnx_executor *executor, pnx_job_id id) {
    struct pnx_job_info info = {.size = sizeof(info)};
    CHECK_EQ(pnx_executor_job(executor, id, &info), 0);
    return info;
}

/* Waits until a condition on other threads holds, without a limit of its own: the harness has one. */
#define WAIT_UNTIL(condition) \
    do { \
        while (!(condition)) \
            usleep(500); \
    } while (0)

/* Closes, with all the time that it may take, and releases. */
static inline void finish(struct pnx_executor **executor) {
    CHECK_EQ(pnx_executor_close(*executor, SOON, NULL), 0);
    pnx_executor_release(executor);
    CHECK(*executor == NULL);
}

#endif
