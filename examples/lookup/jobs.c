/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs.c - see jobs.h.  One mutex guards the queue, the list of running jobs and every job's state; run(),
 * wake() and destroy() are called without it.
 */
#include "jobs.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define WORKERS_MAX 256u

struct list {
    struct job *first, *last;
};

struct jobs {
    pthread_mutex_t mutex;
    pthread_cond_t work;  /* something to do, or stopping */
    pthread_cond_t ended; /* a worker left */
    /* under mutex */
    struct list queue;   /* QUEUED, oldest first */
    struct list running; /* RUNNING, and EXPIRED ones whose run() has not returned */
    unsigned places;     /* taken */
    unsigned alive;      /* workers that have not left */
    bool stopping;
    /* fixed once started */
    unsigned capacity;
    unsigned workers;
    uint64_t *queued;
    pthread_t threads[WORKERS_MAX];
};

static void list_add(struct list *list, struct job *job) {
    job->next = NULL;
    job->prev = list->last;
    if (list->last)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

static void list_remove(struct list *list, struct job *job) {
    if (job->prev)
        job->prev->next = job->next;
    else
        list->first = job->next;
    if (job->next)
        job->next->prev = job->prev;
    else
        list->last = job->prev;
    job->next = job->prev = NULL;
}

/* The only place where a job changes its state.  Returns whether wake() is due. */
static bool transition_locked(struct jobs *jobs, struct job *job, enum job_state to) {
    enum job_state from = job->state;
    if (from == JOB_QUEUED) {
        list_remove(&jobs->queue, job);
        (void)__atomic_fetch_sub(jobs->queued, 1, __ATOMIC_RELAXED);
    }
    if (to == JOB_QUEUED) {
        list_add(&jobs->queue, job);
        (void)__atomic_fetch_add(jobs->queued, 1, __ATOMIC_RELAXED);
    }
    if (to == JOB_RUNNING) {
        list_add(&jobs->running, job);
        job->references++;
    }
    if (to == JOB_FINISHED || (to == JOB_EXPIRED && from == JOB_QUEUED))
        jobs->places--; /* an overdue job keeps its place until its worker is back */
    job->state = to;
    return to == JOB_FINISHED || to == JOB_EXPIRED;
}

static void drop(struct jobs *jobs, struct job *job) {
    pthread_mutex_lock(&jobs->mutex);
    bool last = --job->references == 0;
    pthread_mutex_unlock(&jobs->mutex);
    if (last)
        job->destroy(job);
}

static void run_one(struct jobs *jobs, struct job *job) {
    job->run(job);
    pthread_mutex_lock(&jobs->mutex);
    list_remove(&jobs->running, job);
    bool wake = false;
    if (job->state == JOB_RUNNING)
        wake = transition_locked(jobs, job, JOB_FINISHED);
    else
        jobs->places--; /* EXPIRED while it ran; nobody waits for the result */
    bool last = !wake && --job->references == 0;
    if (wake)
        job->references--; /* the connection holds the other one until it is awake */
    pthread_mutex_unlock(&jobs->mutex);
    if (wake)
        job->wake(job);
    if (last)
        job->destroy(job);
}

static void *worker(void *arg) {
    struct jobs *jobs = arg;
    pthread_mutex_lock(&jobs->mutex);
    for (;;) {
        while (!jobs->queue.first && !jobs->stopping)
            pthread_cond_wait(&jobs->work, &jobs->mutex);
        struct job *job = jobs->queue.first;
        if (!job)
            break;
        (void)transition_locked(jobs, job, JOB_RUNNING);
        pthread_mutex_unlock(&jobs->mutex);
        run_one(jobs, job);
        pthread_mutex_lock(&jobs->mutex);
    }
    jobs->alive--;
    pthread_cond_signal(&jobs->ended);
    pthread_mutex_unlock(&jobs->mutex);
    return NULL;
}

int jobs_start(const struct jobs_opts *opts, struct jobs **ret_jobs) {
    struct jobs *jobs = calloc(1, sizeof(*jobs));
    if (!jobs)
        return -ENOMEM;
    jobs->capacity = opts->capacity;
    jobs->queued = opts->queued;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&jobs->mutex, NULL);
    pthread_cond_init(&jobs->work, NULL);
    pthread_cond_init(&jobs->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);

    unsigned wanted = opts->workers < WORKERS_MAX ? opts->workers : WORKERS_MAX;
    while (jobs->workers < wanted) {
        pthread_mutex_lock(&jobs->mutex);
        jobs->alive++;
        pthread_mutex_unlock(&jobs->mutex);
        int r = pthread_create(&jobs->threads[jobs->workers], NULL, worker, jobs);
        if (r != 0) {
            pthread_mutex_lock(&jobs->mutex);
            jobs->alive--;
            pthread_mutex_unlock(&jobs->mutex);
            (void)jobs_stop(jobs, PNX_NEVER); /* nothing was submitted: they end at once */
            jobs_release(&jobs);
            return -r;
        }
        jobs->workers++;
    }
    *ret_jobs = jobs;
    return 0;
}

int jobs_reserve(struct jobs *jobs) {
    pthread_mutex_lock(&jobs->mutex);
    int r = jobs->stopping ? -ESHUTDOWN : jobs->places == jobs->capacity ? -EBUSY : 0;
    if (r == 0)
        jobs->places++;
    pthread_mutex_unlock(&jobs->mutex);
    return r;
}

void jobs_submit(struct jobs *jobs, struct job *job) {
    pthread_mutex_lock(&jobs->mutex);
    job->references = 1;
    bool wake = transition_locked(jobs, job, JOB_QUEUED);
    if (jobs->stopping)
        wake = transition_locked(jobs, job, JOB_EXPIRED);
    else
        pthread_cond_signal(&jobs->work);
    pthread_mutex_unlock(&jobs->mutex);
    if (wake)
        job->wake(job);
}

void jobs_drop(struct jobs *jobs, struct job *job) {
    if (job->state == JOB_NEW) /* only its maker knows it */
        job->destroy(job);
    else
        drop(jobs, job);
}

bool jobs_finished(struct jobs *jobs, struct job *job) {
    pthread_mutex_lock(&jobs->mutex);
    bool finished = job->state == JOB_FINISHED;
    pthread_mutex_unlock(&jobs->mutex);
    return finished;
}

/* Expires one overdue job of a list, if there is one; returns it so that the caller wakes it unlocked. */
static struct job *expire_one_locked(struct jobs *jobs, struct list *list, pnx_ns now) {
    for (struct job *job = list->first; job; job = job->next)
        if (job->state != JOB_EXPIRED && job->deadline <= now) {
            (void)transition_locked(jobs, job, JOB_EXPIRED);
            return job;
        }
    return NULL;
}

static void expire(struct jobs *jobs, pnx_ns now_queued, pnx_ns now_running) {
    for (;;) {
        pthread_mutex_lock(&jobs->mutex);
        struct job *job = expire_one_locked(jobs, &jobs->queue, now_queued);
        if (!job)
            job = expire_one_locked(jobs, &jobs->running, now_running);
        pthread_mutex_unlock(&jobs->mutex);
        if (!job)
            return;
        /* The connection's reference keeps it alive: its side sleeps until this call. */
        job->wake(job);
    }
}

void jobs_tick(struct jobs *jobs, pnx_ns now) {
    expire(jobs, now, now);
}

int jobs_stop(struct jobs *jobs, pnx_ns deadline) {
    pthread_mutex_lock(&jobs->mutex);
    jobs->stopping = true;
    pthread_cond_broadcast(&jobs->work);
    pthread_mutex_unlock(&jobs->mutex);
    expire(jobs, INT64_MAX, INT64_MIN);

    struct timespec at = {.tv_sec = (time_t)(deadline / PNX_SEC), .tv_nsec = deadline % PNX_SEC};
    pthread_mutex_lock(&jobs->mutex);
    int r = 0;
    while (jobs->alive > 0 && r == 0)
        r = deadline == PNX_NEVER ? pthread_cond_wait(&jobs->ended, &jobs->mutex)
                                  : pthread_cond_timedwait(&jobs->ended, &jobs->mutex, &at);
    bool ended = jobs->alive == 0;
    pthread_mutex_unlock(&jobs->mutex);
    if (!ended) {
        expire(jobs, INT64_MAX, INT64_MAX);
        return -ETIMEDOUT;
    }
    for (unsigned i = 0; i < jobs->workers; i++)
        pthread_join(jobs->threads[i], NULL);
    jobs->workers = 0;
    return 0;
}

void jobs_release(struct jobs **jobs_ptr) {
    struct jobs *jobs = *jobs_ptr;
    *jobs_ptr = NULL;
    if (!jobs)
        return;
    pthread_mutex_lock(&jobs->mutex);
    bool ended = jobs->alive == 0;
    pthread_mutex_unlock(&jobs->mutex);
    if (!ended)
        return; /* a worker that never came back still uses it */
    pthread_mutex_destroy(&jobs->mutex);
    pthread_cond_destroy(&jobs->work);
    pthread_cond_destroy(&jobs->ended);
    free(jobs);
}
