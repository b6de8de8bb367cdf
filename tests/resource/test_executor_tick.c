/* SPDX-License-Identifier: Apache-2.0 */
/* Executors without threads: PNX_EXECUTOR_TICK of patinox/executor.h, with a virtual clock where time matters. */
#include "resource/executor_case.h"

#include <patinox/shutdown.h>

#include <poll.h>

static struct test_env env;

static struct pnx_executor *create_ticked(const struct pnx_executor_opts *more) {
    struct pnx_executor_opts opts = more ? *more : *PNX_EXECUTOR_OPTS();
    test_env_init(&env);
    test_env_virtual(&env, PNX_SEC);
    opts.env = &env.env;
    opts.flags = PNX_EXECUTOR_TICK;
    return create(&opts);
}

static pnx_ns tick(struct pnx_executor *executor) {
    return pnx_executor_tick(executor, env.now);
}

static bool readable(const struct pnx_executor *executor) {
    struct pollfd fd = {.fd = pnx_executor_fd(executor), .events = POLLIN};
    CHECK(fd.fd >= 0);
    return poll(&fd, 1, 0) == 1;
}

TEST(jobs_run_on_the_ticking_thread_and_only_there) {
    struct pnx_executor *executor = create_ticked(NULL);
    struct work work[3];
    for (int i = 0; i < 3; i++) {
        work_init(&work[i]);
        submit(executor, WORK_JOB(&work[i]));
    }
    CHECK_EQ(stats_of(executor).threads, 0);
    CHECK_EQ(told(&work[0]), 0);
    CHECK_EQ(tick(executor), PNX_NEVER);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(told(&work[i]), 1);
        CHECK(pthread_equal(work[i].thread, pthread_self()));
    }
    finish(&executor);
    test_env_check_empty(&env);
}

TEST(tick_says_when_it_wants_to_be_called_next) {
    static const int again[] = {-EAGAIN, 0};
    struct pnx_executor *executor = create_ticked(PNX_EXECUTOR_OPTS(.backoff_ns = 10 * PNX_MS));
    struct work delayed, retried;
    work_init(&delayed);
    work_init(&retried);
    retried.codes = again;
    retried.n_codes = 2;
    CHECK_EQ(tick(executor), PNX_NEVER);
    submit(executor, WORK_JOB(&delayed, .delay_ns = 50 * PNX_MS));
    CHECK_EQ(tick(executor), env.now + 50 * PNX_MS);
    submit(executor, WORK_JOB(&retried));
    pnx_ns due = tick(executor);
    CHECK(due >= env.now && due <= env.now + 10 * PNX_MS);
    CHECK_EQ(calls(&retried), 1);
    test_env_advance(&env, due - env.now);
    CHECK_EQ(tick(executor), PNX_SEC + 50 * PNX_MS);
    CHECK_EQ(told(&retried), 1);
    test_env_advance(&env, PNX_SEC + 50 * PNX_MS - 1 - env.now);
    CHECK_EQ(tick(executor), env.now + 1);
    CHECK_EQ(told(&delayed), 0);
    test_env_advance(&env, 1);
    CHECK_EQ(tick(executor), PNX_NEVER);
    CHECK_EQ(told(&delayed), 1);
    finish(&executor);
}

TEST(the_descriptor_is_readable_when_tick_has_something_to_do_sooner_than_it_said) {
    struct pnx_executor *executor = create_ticked(NULL);
    struct work work;
    work_init(&work);
    CHECK(!readable(executor));
    submit(executor, WORK_JOB(&work));
    CHECK(readable(executor));
    CHECK_EQ(tick(executor), PNX_NEVER);
    CHECK(!readable(executor));
    submit(executor, WORK_JOB(&work, .delay_ns = 20 * PNX_MS));
    CHECK(readable(executor)); /* tick had said never */
    pnx_ns due = tick(executor);
    CHECK(!readable(executor));
    pnx_job_id id = submit(executor, WORK_JOB(&work, .delay_ns = 30 * PNX_MS));
    CHECK(!readable(executor)); /* not sooner than what tick has said */
    submit(executor, WORK_JOB(&work, .delay_ns = 10 * PNX_MS));
    CHECK(readable(executor));
    CHECK_EQ(tick(executor), due - 10 * PNX_MS);
    CHECK_EQ(pnx_executor_cancel(executor, id), 0);
    test_env_advance(&env, 20 * PNX_MS);
    CHECK_EQ(tick(executor), PNX_NEVER);
    CHECK_EQ(calls(&work), 3);
    finish(&executor);
}

static int submit_again(void *arg, const struct pnx_cancel *cancel) {
    struct work *work = arg;
    (void)cancel;
    work->calls++;
    struct pnx_executor *executor = (struct pnx_executor *)(void *)work->gate;
    submit(executor, PNX_JOB(.run = submit_again, .arg = work));
    CHECK_EQ(pnx_executor_tick(executor, env.now), PNX_NEVER); /* inside: nothing */
    return 0;
}

TEST(a_tick_runs_what_was_due_at_its_begin_and_asks_to_be_called_again_for_the_rest) {
    struct pnx_executor *executor = create_ticked(NULL);
    struct work work;
    work_init(&work);
    work.gate = (sem_t *)(void *)executor;
    submit(executor, PNX_JOB(.run = submit_again, .arg = &work));
    for (int i = 1; i < 5; i++) {
        CHECK(tick(executor) <= env.now);
        CHECK_EQ(work.calls, i);
        CHECK(readable(executor));
    }
    CHECK_EQ(pnx_executor_close(executor, 0, NULL), -ETIMEDOUT);
    pnx_executor_release(&executor);
}

static int order[4], n_order;

static int note_order(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    order[n_order++] = (int)(intptr_t)arg;
    return 0;
}

TEST(p3_priorities_and_ageing_hold_in_ticks_too) {
    struct pnx_executor *executor = create_ticked(PNX_EXECUTOR_OPTS(.ageing_ns = PNX_SEC));
    submit(executor, PNX_JOB(.run = note_order, .arg = (void *)2, .priority = PNX_PRIORITY_LOW));
    test_env_advance(&env, 2 * PNX_SEC + 1); /* high by now, and for longer than the next */
    submit(executor, PNX_JOB(.run = note_order, .arg = (void *)3, .priority = PNX_PRIORITY_HIGH));
    submit(executor,
            PNX_JOB(.run = note_order, .arg = (void *)1, .priority = PNX_PRIORITY_CRITICAL));
    submit(executor, PNX_JOB(.run = note_order, .arg = (void *)4));
    CHECK_EQ(tick(executor), PNX_NEVER);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(order[i], i + 1);
    finish(&executor);
}

TEST(wait_and_drain_run_jobs_on_the_thread_that_ticks) {
    struct pnx_executor *executor = create_ticked(NULL);
    struct work work[3];
    for (int i = 0; i < 3; i++)
        work_init(&work[i]);
    pnx_job_id id = submit(executor, WORK_JOB(&work[0])); /* nobody has ticked yet */
    CHECK_EQ(pnx_executor_wait(executor, id, PNX_NEVER, NULL), 0);
    CHECK(pthread_equal(work[0].thread, pthread_self()));
    CHECK_EQ(tick(executor), PNX_NEVER); /* from now on it is this thread */
    submit(executor, WORK_JOB(&work[1]));
    CHECK_EQ(pnx_executor_drain(executor, 0), -ETIMEDOUT); /* tries once */
    submit(executor, WORK_JOB(&work[2]));
    CHECK_EQ(pnx_executor_drain(executor, PNX_NEVER), 0);
    CHECK(pthread_equal(work[2].thread, pthread_self()));
    CHECK_EQ(told(&work[1]) + told(&work[2]), 2);
    finish(&executor);
}

struct elsewhere {
    struct pnx_executor *executor;
    pnx_job_id id;
    int rc;
    bool over;
};

static void *drain_elsewhere(void *arg) {
    struct elsewhere *elsewhere = arg;
    elsewhere->rc = pnx_executor_drain(elsewhere->executor, SOON);
    __atomic_store_n(&elsewhere->over, true, __ATOMIC_RELEASE);
    return NULL;
}

static void *close_elsewhere(void *arg) {
    struct elsewhere *elsewhere = arg;
    elsewhere->rc = pnx_executor_close(elsewhere->executor, SOON, NULL);
    __atomic_store_n(&elsewhere->over, true, __ATOMIC_RELEASE);
    return NULL;
}

/* As an event loop does. */
static void tick_until(struct pnx_executor *executor, const bool *over) {
    while (!__atomic_load_n(over, __ATOMIC_ACQUIRE)) {
        struct pollfd fd = {.fd = pnx_executor_fd(executor), .events = POLLIN};
        (void)poll(&fd, 1, 1);
        (void)pnx_executor_tick(executor, pnx_now());
    }
}

TEST(a_job_never_leaves_the_loops_thread_whoever_waits_for_it) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK));
    struct work work[2];
    pthread_t thread;
    void *(*waits[])(void *) = {drain_elsewhere, close_elsewhere};
    (void)pnx_executor_tick(executor, pnx_now());
    for (int i = 0; i < 2; i++) {
        work_init(&work[i]);
        submit(executor, WORK_JOB(&work[i], .delay_ns = 20 * PNX_MS));
        struct elsewhere elsewhere = {.executor = executor};
        CHECK(pthread_create(&thread, NULL, waits[i], &elsewhere) == 0);
        tick_until(executor, &elsewhere.over);
        pthread_join(thread, NULL);
        CHECK_EQ(elsewhere.rc, 0);
        CHECK_EQ(told(&work[i]), 1);
        CHECK(pthread_equal(work[i].thread, pthread_self()));
    }
    pnx_executor_release(&executor);
}

static void submit_some(unsigned index, void *ctx) {
    struct elsewhere *elsewhere = ctx;
    static struct work work[2];
    if (index == 2) {
        tick_until(elsewhere->executor, &elsewhere->over);
        return;
    }
    work_init(&work[index]);
    for (int i = 0; i < 1000; i++)
        submit(elsewhere->executor, WORK_JOB(&work[index], .delay_ns = i % 3 ? 0 : PNX_US));
    CHECK_EQ(pnx_executor_drain(elsewhere->executor, SOON), 0);
    CHECK_EQ(told(&work[index]), 1000);
    if (__atomic_add_fetch(&elsewhere->rc, 1, __ATOMIC_ACQ_REL) == 2)
        __atomic_store_n(&elsewhere->over, true, __ATOMIC_RELEASE);
}

TEST(a_loop_hears_of_what_other_threads_submit) {
    struct elsewhere elsewhere = {0};
    elsewhere.executor = create(
            PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK, .queue_max = 16, .block_ns = PNX_NEVER));
    (void)pnx_executor_tick(elsewhere.executor, pnx_now());
    test_threads(3, submit_some, &elsewhere);
    CHECK_EQ(stats_of(elsewhere.executor).done, 2000);
    pnx_executor_release(&elsewhere.executor);
}

TEST(a_submit_that_waits_for_room_on_the_loops_thread_makes_it) {
    struct pnx_executor *executor = create_ticked(PNX_EXECUTOR_OPTS(.queue_max = 2));
    struct work work;
    work_init(&work);
    CHECK_EQ(tick(executor), PNX_NEVER);
    for (int i = 0; i < 10; i++)
        submit(executor, WORK_JOB(&work));
    CHECK_EQ(stats_of(executor).inlined, 0);
    CHECK_EQ(told(&work), 8);
    finish(&executor);
    CHECK_EQ(told(&work), 10);
}

TEST(a_close_on_the_loops_thread_runs_what_is_left) {
    struct pnx_executor *executor = create_ticked(NULL);
    struct work work, far;
    work_init(&work);
    work_init(&far);
    CHECK_EQ(tick(executor), PNX_NEVER);
    submit(executor, WORK_JOB(&work));
    submit(executor, WORK_JOB(&far, .delay_ns = PNX_NEVER)); /* its delay is cut short */
    struct pnx_executor_report report = {.size = sizeof(report)};
    CHECK_EQ(pnx_executor_close(executor, PNX_NEVER, &report), 0);
    CHECK_EQ(report.done, 2);
    CHECK_EQ(told(&work) + told(&far), 2);
    CHECK_EQ(tick(executor), PNX_NEVER);
    pnx_executor_release(&executor);
    test_env_check_empty(&env);
}

TEST(a_job_that_runs_out_of_time_is_seen_by_another_tick) {
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK, .timeout_ns = 10 * PNX_MS));
    struct work hangs;
    sem_t begun;
    CHECK(sem_init(&begun, 0, 0) == 0);
    work_init(&hangs);
    hangs.begun = &begun;
    hangs.until_asked = true;
    submit(executor, WORK_JOB(&hangs));
    struct elsewhere elsewhere = {.executor = executor};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, drain_elsewhere, &elsewhere) ==
            0); /* runs it: nobody has ticked */
    sem_wait(&begun);
    while (stats_of(executor).overdue == 0)
        (void)pnx_executor_tick(executor, pnx_now());
    pthread_join(thread, NULL);
    CHECK_EQ(elsewhere.rc, 0);
    CHECK_EQ(stats_of(executor).late, 1);
    finish(&executor);
}

TEST(pending_cleanups_are_completed_between_ticks) {
    struct pnx_executor *executor = create_ticked(NULL);
    struct work work;
    work_init(&work);
    work.pends = true;
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    CHECK_EQ(tick(executor), env.now + 30 * PNX_SEC); /* when it runs out of time */
    CHECK_EQ(info_of(executor, id).state, PNX_JOB_PENDING);
    CHECK_EQ(pnx_completion_done(&work.completion, -EAGAIN), 0);
    CHECK(readable(executor)); /* it is to be tried again */
    test_env_advance(&env, PNX_SEC);
    (void)tick(executor);
    CHECK_EQ(calls(&work), 2);
    CHECK_EQ(pnx_completion_done(&work.completion, 0), 0);
    CHECK_EQ(told(&work), 1);
    CHECK_EQ(work.code, 0);
    finish(&executor);
}

static int release_it(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_executor_release(arg);
    return 0;
}

TEST(a_job_may_release_the_executor_that_ticks_it) {
    struct pnx_executor *executor = create_ticked(NULL);
    struct work work;
    work_init(&work);
    submit(executor, PNX_JOB(.run = release_it, .arg = &executor));
    submit(executor, WORK_JOB(&work));
    struct pnx_executor *ticked = executor;
    CHECK_EQ(pnx_executor_tick(ticked, env.now), PNX_NEVER);
    CHECK(!executor);
    CHECK_EQ(work.code, -ECANCELED);
    test_env_check_empty(&env);
}

TEST(an_executor_with_threads_has_no_descriptor_and_no_use_for_ticks) {
    struct pnx_executor *executor = create(NULL);
    CHECK_EQ(pnx_executor_fd(executor), -ENOTSUP);
    CHECK_EQ(pnx_executor_tick(executor, pnx_now()), PNX_NEVER);
    CHECK_EQ(pnx_executor_fd(NULL), -EINVAL);
    CHECK_EQ(pnx_executor_tick(NULL, 0), PNX_NEVER);
    finish(&executor);
}

TEST(without_a_descriptor_creation_fails) {
    if (!test_os_faults())
        test_skip("this build makes no system call fail");
    struct pnx_executor *executor = NULL;
    struct pnx_error err;
    test_os_fault("eventfd", 1, false, EMFILE);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK), &err, &executor),
            -EMFILE);
    CHECK_CONTAINS(err.message, "no descriptor");
    CHECK(!executor);
}

/* ---- shutdowns on the loop's thread ---- */

/* The loop of a program: an executor of the process's registry that this thread has ticked. */
static struct pnx_executor *begin_loop(void) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK));
    (void)pnx_executor_tick(executor, pnx_now());
    return executor;
}

static void check_ran_here(const struct work *work, int n) {
    for (int i = 0; i < n; i++) {
        CHECK_EQ(calls(&work[i]), 1);
        CHECK_EQ(told(&work[i]), 1);
        CHECK_EQ(work[i].code, 0);
        CHECK(pthread_equal(work[i].thread, pthread_self()));
    }
}

static void *complete_soon(void *arg) {
    struct work *work = arg;
    sem_wait(work->begun);
    /* While the loop's thread sleeps in its shutdown, or before: it must be all the same. */
    usleep(20000);
    CHECK_EQ(pnx_completion_done(&work->completion, 0), 0);
    return NULL;
}

static void end_a_program(pnx_ns timeout) {
    struct pnx_executor *executor = begin_loop();
    struct work work[7];
    struct pnx_shutdown_report *report = NULL;
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    sem_t begun;
    pthread_t thread;
    CHECK(sem_init(&begun, 0, 0) == 0);
    for (int i = 0; i < 7; i++)
        work_init(&work[i]);
    work[5].pends = true;
    work[5].begun = &begun;
    for (int i = 0; i < 6; i++)
        submit(executor, WORK_JOB(&work[i]));
    submit(executor, WORK_JOB(&work[6], .delay_ns = PNX_NEVER)); /* cut short */
    CHECK(pthread_create(&thread, NULL, complete_soon, &work[5]) == 0);
    CHECK_EQ(pnx_shutdown(timeout, &report), 0);
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.failed + counts.abandoned + counts.leaked, 0);
    check_ran_here(work, 7);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_EQ(pnx_executor_submit(executor, WORK_JOB(&work[0]), NULL, NULL), -ESHUTDOWN);
    pnx_shutdown_report_release(&report);
    pnx_executor_release(&executor);
}

TEST(a_shutdown_on_the_loops_thread_runs_its_jobs_there) {
    end_a_program(SOON);
}

TEST(a_shutdown_without_a_deadline_on_the_loops_thread_does_so_too) {
    end_a_program(PNX_NEVER);
}

/* A row whose cleanup is a job of the loop: it pends until that has run. */
struct handle {
    struct pnx_executor *executor;
    struct pnx_completion completion;
    pthread_t thread;
};

static int close_handle(void *arg, const struct pnx_cancel *cancel) {
    struct handle *handle = arg;
    (void)cancel;
    handle->thread = pthread_self();
    CHECK_EQ(pnx_completion_done(&handle->completion, 0), 0);
    return 0;
}

static int end_handle(void *arg, const struct pnx_cancel *cancel) {
    struct handle *handle = arg;
    int rc = pnx_cancel_pend(cancel, &handle->completion);
    if (rc == 0)
        rc = pnx_executor_submit(
                handle->executor, PNX_JOB(.run = close_handle, .arg = handle), NULL, NULL);
    return rc ? rc : -EINPROGRESS;
}

TEST(rows_whose_cleanups_need_the_loop_end_in_a_shutdown_on_its_thread) {
    struct handle handle = {.executor = begin_loop()};
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(NULL,
                     PNX_RESOURCE(.type = "handle", .cleanup = end_handle, .arg = &handle), NULL,
                     &id),
            0);
    CHECK_EQ(pnx_shutdown(SOON, NULL), 0);
    CHECK(pthread_equal(handle.thread, pthread_self()));
    pnx_executor_release(&handle.executor);
}

static void *shut_down_too(void *arg) {
    *(int *)arg = pnx_shutdown(SOON, NULL);
    return NULL;
}

static int refuse_new(void *ctx, const struct pnx_resource_info *info) {
    (void)ctx;
    return info->asked;
}

TEST(a_loop_that_waits_for_another_threads_shutdown_runs_its_jobs_meanwhile) {
    struct pnx_executor *executor = begin_loop();
    struct work work[5];
    pthread_t thread;
    int code = 77;
    for (int i = 0; i < 5; i++) {
        work_init(&work[i]);
        submit(executor, WORK_JOB(&work[i], .delay_ns = i == 4 ? PNX_NEVER : 0));
    }
    CHECK(pthread_create(&thread, NULL, shut_down_too, &code) == 0);
    WAIT_UNTIL(pnx_registry_each(NULL, refuse_new, NULL) == 1); /* it has begun */
    CHECK_EQ(pnx_shutdown(SOON, NULL), 0);
    check_ran_here(work, 5);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_EQ(code, 0);
    pnx_executor_release(&executor);
}

static int take_a_while(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    usleep(1000); /* a job that takes its time */
    ++*(int *)arg;
    return 0;
}

TEST(a_shutdown_with_more_jobs_than_time_returns_by_its_deadline) {
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK, .queue_max = 5000));
    int ran = 0;
    (void)pnx_executor_tick(executor, pnx_now());
    for (int i = 0; i < 5000; i++)
        submit(executor, PNX_JOB(.run = take_a_while, .arg = &ran));
    pnx_ns start = pnx_now();
    CHECK_EQ(pnx_shutdown(200 * PNX_MS, NULL), -ETIMEDOUT);
    pnx_ns took = pnx_now() - start;
    CHECK(took >= 200 * PNX_MS);
    CHECK_MSG(took < 3 * PNX_SEC, "%lld ms", (long long)(took / PNX_MS)); /* all would take 5 s */
    CHECK(ran > 0 && ran < 5000);
    pnx_executor_release(&executor);
    CHECK(!executor);
}
