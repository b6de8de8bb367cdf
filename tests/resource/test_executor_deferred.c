/* SPDX-License-Identifier: Apache-2.0 */
/* What guards have handed over when their executor ends: it is run, or an event tells that it is not. */
#include "resource/executor_case.h"

#include <patinox/guard.h>
#include <patinox/registry.h>
#include <patinox/shutdown.h>
#include <patinox/stats.h>

static sem_t begun, gate;
static struct test_env env;
static struct pnx_executor *executor;
static struct work holder;

/* Events of the executor, by type and code. */
static int n_lost, n_failed, n_closed, closed_code;
static int64_t closed_value;

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type == PNX_EVENT_JOB_FAILED)
        __atomic_add_fetch(event->code == -ECANCELED ? &n_lost : &n_failed, 1, __ATOMIC_ACQ_REL);
    if (event->type != PNX_EVENT_EXECUTOR_CLOSED)
        return;
    closed_code = event->code;
    closed_value = event->value;
    __atomic_add_fetch(&n_closed, 1, __ATOMIC_ACQ_REL);
}

static int now_of(const int *number) {
    return __atomic_load_n(number, __ATOMIC_ACQUIRE);
}

/* An executor whose only worker is busy, so that what is handed over stays queued. */
static void begin(uint32_t flags) {
    static const struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear};
    static uint32_t id;
    CHECK(sem_init(&begun, 0, 0) == 0 && sem_init(&gate, 0, 0) == 0);
    if (id == 0)
        CHECK_EQ(pnx_monitor_add(NULL, &monitor, &id), 0);
    test_env_init(&env);
    executor = create(PNX_EXECUTOR_OPTS(.env = &env.env, .flags = flags, .max_workers = 1,
            .queue_max = 16)); /* few: checked at each step */
    work_init(&holder);
    holder.begun = &begun;
    holder.gate = &gate;
    if (flags & PNX_EXECUTOR_TICK)
        return;
    submit(executor, WORK_JOB(&holder));
    sem_wait(&begun);
}

/* Lets the busy worker go, and sees that all memory comes back. */
static void end(void) {
    sem_post(&gate);
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);
    test_env_check_empty(&env);
}

/* A guard leaves its scope. */
static void drop(struct work *work, struct pnx_registry *registry) {
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, work_run, work), 0);
    if (registry)
        CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "file"), NULL), 0);
    CHECK_EQ(pnx_guard_set_executor(&guard, executor), 0);
}

TEST(a_release_runs_what_guards_have_handed_over_and_calls_off_the_rest) {
    struct work guarded, deferred, tracked, ordinary;
    struct pnx_guard guard = {0};
    struct pnx_registry *registry;
    begin(0);
    work_init(&guarded);
    work_init(&deferred);
    work_init(&tracked);
    work_init(&ordinary);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    drop(&guarded, NULL);
    drop(&tracked, registry);
    submit(executor, WORK_JOB(&ordinary));
    CHECK_EQ(pnx_guard_arm(&guard, work_run, &deferred), 0);
    CHECK_EQ(pnx_guard_defer(&guard, executor,
                     PNX_JOB(.done = work_done, .ctx = &deferred, .delay_ns = PNX_NEVER), NULL,
                     NULL),
            0);
    pnx_executor_release(&executor); /* the worker is busy: nobody waits for that */
    CHECK_EQ(calls(&guarded), 1);
    CHECK(pthread_equal(guarded.thread, pthread_self()));
    CHECK_EQ(calls(&tracked), 1);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(calls(&deferred), 1);
    CHECK_EQ(told(&deferred), 1);
    CHECK_EQ(deferred.code, 0);
    CHECK_EQ(calls(&ordinary), 0);
    CHECK_EQ(told(&ordinary), 1);
    CHECK_EQ(ordinary.code, -ECANCELED);
    CHECK_EQ(now_of(&n_lost), 0);
    CHECK_EQ(now_of(&n_closed), 1);
    CHECK_EQ(closed_code, -ETIMEDOUT);
    CHECK_EQ(closed_value, 2); /* the one that was called off, and the one that runs */
    end();
    pnx_registry_release(&registry);
}

TEST(a_cleanup_that_a_release_runs_may_pend) {
    struct work pends;
    begin(0);
    work_init(&pends);
    pends.pends = true;
    drop(&pends, NULL);
    pnx_executor_release(&executor);
    CHECK_EQ(calls(&pends), 1);
    sem_post(&gate);
    sem_wait(&holder.ended);
    CHECK(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) > 0); /* it has the executor */
    CHECK_EQ(pnx_completion_done(&pends.completion, 0), 0);
    end();
    CHECK_EQ(now_of(&n_lost) + now_of(&n_failed), 0);
}

TEST(a_cleanup_that_cannot_end_in_a_release_has_failed_and_an_event_says_so) {
    static const int again[] = {-EAGAIN};
    struct pnx_registry *registry;
    struct work untracked, tracked;
    begin(0);
    work_init(&untracked);
    untracked.codes = again;
    untracked.n_codes = 1;
    drop(&untracked, NULL);
    pnx_executor_release(&executor);
    CHECK_EQ(calls(&untracked), 1);
    CHECK_EQ(now_of(&n_failed), 1);
    end();

    begin(0);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    work_init(&tracked);
    tracked.codes = again;
    tracked.n_codes = 1;
    drop(&tracked, registry);
    pnx_executor_release(&executor);
    CHECK_EQ(calls(&tracked), 1);
    CHECK_EQ(now_of(&n_failed), 1);            /* still */
    CHECK_EQ(pnx_registry_count(registry), 1); /* it is live, and a shutdown's */
    tracked.n_codes = 0;
    CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
    CHECK_EQ(calls(&tracked), 2);
    end();
    pnx_registry_release(&registry);
}

TEST(a_close_that_is_out_of_time_tells_of_each_cleanup_that_it_loses) {
    struct pnx_registry *registry;
    struct work untracked[2], tracked, taken, ordinary;
    struct pnx_guard guard = {0};
    pnx_job_id id;
    begin(0);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    work_init(&untracked[0]);
    work_init(&untracked[1]);
    work_init(&tracked);
    work_init(&taken);
    work_init(&ordinary);
    drop(&untracked[0], NULL);
    drop(&untracked[1], NULL);
    drop(&tracked, registry);
    submit(executor, WORK_JOB(&ordinary));
    CHECK_EQ(pnx_guard_arm(&guard, work_run, &taken), 0);
    CHECK_EQ(pnx_guard_defer(&guard, executor, NULL, NULL, &id), 0);
    CHECK_EQ(pnx_executor_cancel(executor, id), 0); /* it is this thread's again */
    CHECK_EQ(now_of(&n_lost), 0);
    CHECK_EQ(pnx_executor_close(executor, PNX_MS, NULL), -ETIMEDOUT);
    CHECK_EQ(calls(&untracked[0]) + calls(&untracked[1]) + calls(&tracked), 0);
    CHECK_EQ(now_of(&n_lost), 2);
    CHECK_EQ(pnx_registry_count(registry), 1); /* which tells of the tracked one */
    CHECK_EQ(now_of(&n_closed), 1);
    pnx_executor_release(&executor);
    CHECK_EQ(now_of(&n_closed), 1);
    CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
    CHECK_EQ(calls(&tracked), 1);
    end();
    pnx_registry_release(&registry);
}

static void *release_elsewhere(void *arg) {
    (void)arg;
    pnx_executor_release(&executor);
    return NULL;
}

TEST(a_loops_cleanups_run_in_its_own_release_and_in_nobody_elses) {
    struct work work;
    pthread_t thread;
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        begin(PNX_EXECUTOR_TICK);
        work_init(&work);
        (void)pnx_executor_tick(executor, pnx_now());
        drop(&work, NULL);
        if (elsewhere)
            CHECK(pthread_create(&thread, NULL, release_elsewhere, NULL) == 0 &&
                    pthread_join(thread, NULL) == 0);
        else
            pnx_executor_release(&executor);
        CHECK_EQ(calls(&work), !elsewhere);
        CHECK_EQ(now_of(&n_lost), elsewhere);
        end();
    }
}
