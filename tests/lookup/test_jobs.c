/* SPDX-License-Identifier: Apache-2.0 */
/* test_jobs.c - P1 to P3 of examples/lookup/jobs.h. */
#include "harness/harness.h"

#include "jobs.h"

#include <errno.h>
#include <pthread.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool gate_open;                           /* under mutex */
static unsigned running, woken, destroyed, done; /* under mutex */
static uint64_t queued;

struct work {
    struct job job;
    unsigned wakes;
};

static void bump(unsigned *counter) {
    pthread_mutex_lock(&mutex);
    (*counter)++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void wait_count(const unsigned *counter, unsigned n) {
    pthread_mutex_lock(&mutex);
    while (*counter < n)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

static void run_gated(struct job *job) {
    (void)job;
    bump(&running);
    pthread_mutex_lock(&mutex);
    while (!gate_open)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    bump(&done);
}

static void set_gate(bool open) {
    pthread_mutex_lock(&mutex);
    gate_open = open;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void wake(struct job *job) {
    struct work *work = (struct work *)job;
    (void)__atomic_fetch_add(&work->wakes, 1, __ATOMIC_RELEASE);
    bump(&woken); /* last: whoever waits for it may free the job */
}

static void destroy(struct job *job) {
    free(job);
    bump(&destroyed);
}

static struct work *make(pnx_ns deadline) {
    struct work *work = calloc(1, sizeof(*work));
    CHECK(work);
    work->job =
            (struct job){.run = run_gated, .wake = wake, .destroy = destroy, .deadline = deadline};
    return work;
}

static struct jobs *start(unsigned workers, unsigned capacity) {
    struct jobs *jobs;
    const struct jobs_opts opts = {.workers = workers, .capacity = capacity, .queued = &queued};
    CHECK_EQ(jobs_start(&opts, &jobs), 0);
    return jobs;
}

static void submit(struct jobs *jobs, struct work *work) {
    CHECK_EQ(jobs_reserve(jobs), 0);
    jobs_submit(jobs, &work->job);
}

TEST(p1_job_wakes_its_connection_once_when_it_is_finished) {
    struct jobs *jobs = start(2, 4);
    struct work *work = make(PNX_NEVER);
    set_gate(true);
    submit(jobs, work);
    wait_count(&woken, 1);
    CHECK(jobs_finished(jobs, &work->job));
    while (__atomic_load_n(&work->wakes, __ATOMIC_ACQUIRE) == 0)
        continue;
    CHECK_EQ(__atomic_load_n(&work->wakes, __ATOMIC_ACQUIRE), 1);
    jobs_drop(jobs, &work->job);
    CHECK_EQ(destroyed, 1);
    CHECK_EQ(jobs_stop(jobs, PNX_NEVER), 0);
    jobs_release(&jobs);
    CHECK(!jobs);
}

TEST(p1_overdue_job_wakes_its_connection_while_its_worker_is_stuck) {
    struct jobs *jobs = start(1, 4);
    struct work *stuck = make(100), *waiting = make(200), *later = make(PNX_NEVER);
    submit(jobs, stuck);
    wait_count(&running, 1);
    submit(jobs, waiting);
    submit(jobs, later);
    CHECK_EQ(queued, 2);
    jobs_tick(jobs, 99);
    CHECK_EQ(woken, 0);
    jobs_tick(jobs, 100);
    CHECK_EQ(woken, 1);
    CHECK(!jobs_finished(jobs, &stuck->job));
    jobs_drop(jobs, &stuck->job); /* the worker frees it when it is back */
    CHECK_EQ(destroyed, 0);
    jobs_tick(jobs, 300);
    CHECK_EQ(woken, 2);
    CHECK_EQ(queued, 1);
    jobs_drop(jobs, &waiting->job);
    CHECK_EQ(destroyed, 1);
    set_gate(true);
    wait_count(&woken, 3); /* the later one, by the worker that is back */
    wait_count(&destroyed, 2);
    jobs_drop(jobs, &later->job);
    CHECK_EQ(jobs_stop(jobs, PNX_NEVER), 0);
    jobs_release(&jobs);
}

TEST(p3_capacity_counts_queued_and_running_jobs) {
    struct jobs *jobs = start(1, 2);
    struct work *first = make(100), *second = make(100);
    submit(jobs, first);
    submit(jobs, second);
    CHECK_EQ(jobs_reserve(jobs), -EBUSY);
    wait_count(&running, 1);
    jobs_tick(jobs, 100);
    wait_count(&woken, 2);
    jobs_drop(jobs, &first->job);
    jobs_drop(jobs, &second->job);
    CHECK_EQ(jobs_reserve(jobs),
            0); /* of the one that was only queued; the stuck one keeps its place */
    CHECK_EQ(jobs_reserve(jobs), -EBUSY);
    set_gate(true);
    wait_count(&destroyed, 2);
    CHECK_EQ(jobs_stop(jobs, PNX_NEVER), 0);
    CHECK_EQ(jobs_reserve(jobs), -ESHUTDOWN);
    jobs_release(&jobs);
}

TEST(stop_expires_what_waits_and_ends_in_time_with_a_stuck_worker) {
    struct jobs *jobs = start(1, 8);
    struct work *work[3];
    for (unsigned i = 0; i < 3; i++)
        submit(jobs, work[i] = make(PNX_NEVER));
    wait_count(&running, 1);
    CHECK_EQ(jobs_stop(jobs, pnx_now() + 20 * PNX_MS), -ETIMEDOUT);
    CHECK_EQ(woken, 3);
    struct work *late = make(PNX_NEVER); /* had its place before the stop, comes after it */
    jobs_submit(jobs, &late->job);
    CHECK_EQ(woken, 4);
    jobs_drop(jobs, &late->job);
    for (unsigned i = 0; i < 3; i++)
        jobs_drop(jobs, &work[i]->job);
    set_gate(true);
    CHECK_EQ(jobs_stop(jobs, PNX_NEVER), 0);
    CHECK_EQ(destroyed, 4);
    jobs_release(&jobs);
}

static void run_quickly(struct job *job) {
    (void)job;
    bump(&done);
}

static void storm_thread(unsigned index, void *ctx) {
    struct jobs *jobs = ctx;
    uint64_t random = index;
    for (unsigned i = 0; i < 2000; i++) {
        struct work *work = make((pnx_ns)(test_random(&random) % 3));
        work->job.run = run_quickly;
        if (jobs_reserve(jobs) != 0) {
            destroy(&work->job);
            continue;
        }
        jobs_submit(jobs, &work->job);
        jobs_tick(jobs, (pnx_ns)(test_random(&random) % 2));
        while (__atomic_load_n(&work->wakes, __ATOMIC_ACQUIRE) == 0)
            jobs_tick(jobs, PNX_NEVER - 1);
        (void)jobs_finished(jobs, &work->job);
        jobs_drop(jobs, &work->job);
    }
}

TEST(p1_p2_storm_of_jobs_and_expiries_loses_and_frees_nothing_twice) {
    struct jobs *jobs = start(4, 64);
    test_threads(4, storm_thread, jobs);
    CHECK_EQ(jobs_stop(jobs, PNX_NEVER), 0);
    CHECK_EQ(queued, 0);
    CHECK_EQ(destroyed, 4 * 2000);
    jobs_release(&jobs);
}
