/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shutdowns that are called from inside a function for which they would have to wait: they are refused at once, and have
 * changed nothing.  From all other functions they work.
 */
#include "registry/calls.h"
#include "resource/executor_case.h"
#include "resource/shutdown_case.h"

#include <patinox/shutdown.h>

#include <sys/wait.h>

/* A function that calls a shutdown.  All fields but registry may stay zero. */
struct asker {
    struct pnx_registry *registry;
    struct pnx_executor **release; /* released before */
    int again;                     /* so many times -EAGAIN is returned, after asking */
    int calls;
    int rc;     /* of the last shutdown */
    int others; /* ... that were not -EDEADLK */
    struct pnx_shutdown_report *report;
};

static struct pnx_shutdown_report *const untouched = (void *)&n_order;

static void ask(struct asker *asker) {
    struct pnx_shutdown_report *report = untouched;
    if (asker->release)
        pnx_executor_release(asker->release);
    asker->rc = pnx_registry_shutdown(asker->registry, PNX_NEVER, &report);
    CHECK_EQ(report == untouched, asker->rc == -EDEADLK);
    if (asker->rc != -EDEADLK)
        asker->others++;
    if (report != untouched)
        asker->report = report;
    __atomic_add_fetch(&asker->calls, 1, __ATOMIC_RELEASE);
}

static int ask_in_job(void *arg, const struct pnx_cancel *cancel) {
    struct asker *asker = arg;
    (void)cancel;
    ask(asker);
    return asker->calls <= asker->again ? -EAGAIN : 0;
}

static void ask_when_done(void *ctx, pnx_job_id id, int code) {
    (void)id;
    (void)code;
    ask(ctx);
}

static int nothing(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    (void)cancel;
    return 0;
}

/* What was refused has changed nothing: the registry takes rows, and can be shut down by others. */
static void check_refused(const struct asker *asker, int calls) {
    struct item item = {.number = 1};
    CHECK_EQ(__atomic_load_n(&asker->calls, __ATOMIC_ACQUIRE), calls);
    CHECK_EQ(asker->others, 0);
    add(asker->registry, &item, 0);
    CHECK_EQ(pnx_registry_shutdown(asker->registry, SOON, NULL), 0);
    CHECK_EQ(calls_of(&item), 1);
}

/* ---- jobs and done functions ---- */

TEST(from_inside_a_job_of_an_executor_that_it_would_end_it_is_refused) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry));
    submit(executor, PNX_JOB(.run = ask_in_job, .arg = &asker));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    check_refused(&asker, 1);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

TEST(from_inside_a_delayed_job_and_its_retries_it_is_refused) {
    struct asker asker = {.registry = fresh(), .again = 2};
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.registry = asker.registry, .backoff_ns = PNX_US));
    submit(executor, PNX_JOB(.run = ask_in_job, .arg = &asker, .delay_ns = PNX_MS));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    check_refused(&asker, 3);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

TEST(from_inside_a_done_function_it_is_refused_on_whatever_thread) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry));
    submit(executor, PNX_JOB(.run = nothing, .done = ask_when_done, .ctx = &asker));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    pnx_job_id id = submit(executor,
            PNX_JOB(.run = nothing, .done = ask_when_done, .ctx = &asker, .delay_ns = PNX_NEVER));
    CHECK_EQ(pnx_executor_cancel(executor, id), 0); /* runs done here */
    struct work pending;
    sem_t begun;
    work_init(&pending);
    sem_init(&begun, 0, 0);
    pending.pends = true;
    pending.begun = &begun;
    submit(executor,
            PNX_JOB(.run = work_run, .arg = &pending, .done = ask_when_done, .ctx = &asker));
    sem_wait(&begun);
    WAIT_UNTIL(stats_of(executor).pending == 1);
    CHECK_EQ(pnx_completion_done(&pending.completion, 0), 0); /* so does this */
    check_refused(&asker, 3);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

TEST(from_inside_a_done_function_of_a_shutdown_that_calls_jobs_off_it_is_refused) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry));
    struct work hangs;
    sem_t begun, gate;
    work_init(&hangs);
    sem_init(&begun, 0, 0);
    sem_init(&gate, 0, 0);
    hangs.begun = &begun;
    hangs.gate = &gate;
    submit(executor, WORK_JOB(&hangs));
    sem_wait(&begun);
    submit(executor, PNX_JOB(.run = nothing, .done = ask_when_done, .ctx = &asker));
    CHECK_EQ(pnx_registry_shutdown(asker.registry, 200 * PNX_MS, NULL), -ETIMEDOUT);
    WAIT_UNTIL(__atomic_load_n(&asker.calls, __ATOMIC_ACQUIRE) == 1);
    CHECK_EQ(asker.others, 0);
    sem_post(&gate);
    sem_wait(&hangs.ended); /* it is on this stack */
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

TEST(from_inside_a_job_that_runs_inline_it_is_refused) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry,
            .queue_max = 1, .on_full = PNX_EXECUTOR_RUN_INLINE));
    struct work work;
    work_init(&work);
    submit(executor, WORK_JOB(&work, .delay_ns = PNX_NEVER));
    CHECK_EQ(submit(executor, PNX_JOB(.run = ask_in_job, .arg = &asker)), 0);
    check_refused(&asker, 1);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

TEST(from_inside_a_tick_it_is_refused) {
    struct asker job = {.registry = fresh()}, done = {.registry = job.registry};
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.registry = job.registry, .flags = PNX_EXECUTOR_TICK));
    submit(executor, PNX_JOB(.run = ask_in_job, .arg = &job, .done = ask_when_done, .ctx = &done));
    (void)pnx_executor_tick(executor, pnx_now());
    CHECK_EQ(done.calls, 1);
    CHECK_EQ(done.others, 0);
    check_refused(&job, 1);
    pnx_executor_release(&executor);
    pnx_registry_release(&job.registry);
}

static struct pnx_executor *inner_executor;

static int tick_inside(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    submit(inner_executor, PNX_JOB(.run = ask_in_job, .arg = arg));
    (void)pnx_executor_tick(inner_executor, pnx_now());
    return 0;
}

TEST(from_inside_a_job_that_another_executors_job_runs_it_is_refused) {
    struct pnx_registry *inner = fresh();
    struct asker asker = {.registry = fresh()};
    inner_executor = create(PNX_EXECUTOR_OPTS(.registry = inner, .flags = PNX_EXECUTOR_TICK));
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry));
    submit(executor, PNX_JOB(.run = tick_inside, .arg = &asker));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    check_refused(&asker, 1);
    pnx_executor_release(&inner_executor);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
    pnx_registry_release(&inner);
}

static int shut_the_process_down(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    *(int *)arg = pnx_shutdown(PNX_NEVER, NULL);
    return 0;
}

TEST(from_inside_a_job_of_an_executor_of_the_process_its_shutdown_is_refused) {
    int rc = 1;
    struct pnx_executor *executor = create(NULL);
    submit(executor, PNX_JOB(.run = shut_the_process_down, .arg = &rc));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(rc, -EDEADLK);
    CHECK_EQ(pnx_shutdown(SOON, NULL), 0);
    pnx_executor_release(&executor);
}

static int await_shutdown_and_ask(void *arg, const struct pnx_cancel *cancel) {
    struct asker *asker = arg;
    while (!pnx__registry_is_closed(asker->registry))
        sched_yield();
    return ask_in_job(arg, cancel);
}

TEST(from_inside_a_job_for_which_anothers_shutdown_waits_it_is_refused) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry));
    submit(executor, PNX_JOB(.run = await_shutdown_and_ask, .arg = &asker));
    CHECK_EQ(pnx_registry_shutdown(asker.registry, SOON, NULL), 0);
    CHECK_EQ(asker.calls, 1);
    CHECK_EQ(asker.rc, -EDEADLK);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

/* ---- where there is nothing to wait for ---- */

static void check_works(struct pnx_registry *of_executor) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = of_executor));
    struct item item = {.number = 1};
    struct work work;
    work_init(&work);
    add(asker.registry, &item, 0);
    submit(executor, PNX_JOB(.run = ask_in_job, .arg = &asker));
    submit(executor, WORK_JOB(&work));
    finish(&executor);
    CHECK_EQ(asker.calls, 1);
    CHECK_EQ(asker.rc, 0);
    CHECK_COUNTS(asker.report, 1, 0, 0, 0);
    CHECK_EQ(calls_of(&item), 1);
    CHECK_EQ(work.code, 0);
    CHECK_EQ(told(&work), 1);
    pnx_shutdown_report_release(&asker.report);
    pnx_registry_release(&asker.registry);
}

TEST(from_inside_a_job_of_an_executor_of_another_registry_it_works) {
    struct pnx_registry *other = fresh();
    check_works(other);
    pnx_registry_release(&other);
    check_works(pnx_registry_off());
}

TEST(from_inside_a_job_that_has_released_its_executor_it_works) {
    struct pnx_executor *executor = NULL;
    struct asker asker = {.registry = fresh(), .release = &executor};
    struct item item = {.number = 1};
    add(asker.registry, &item, 0);
    executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry));
    submit(executor, PNX_JOB(.run = ask_in_job, .arg = &asker));
    WAIT_UNTIL(__atomic_load_n(&asker.calls, __ATOMIC_ACQUIRE) == 1);
    CHECK_EQ(asker.rc, 0);
    CHECK_COUNTS(asker.report, 1, 0, 0, 0);
    CHECK_EQ(calls_of(&item), 1);
    pnx_shutdown_report_release(&asker.report);
    pnx_registry_release(&asker.registry);
}

static int wait_and_ask(void *arg, const struct pnx_cancel *cancel) {
    struct asker *asker = arg;
    (void)cancel;
    while (!__atomic_load_n(&asker->again, __ATOMIC_ACQUIRE))
        sched_yield();
    ask(asker);
    return 0;
}

TEST(p6_a_job_that_a_shutdown_has_given_up_gets_its_result) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = asker.registry));
    submit(executor, PNX_JOB(.run = wait_and_ask, .arg = &asker));
    CHECK_EQ(pnx_registry_shutdown(asker.registry, 50 * PNX_MS, NULL), -ETIMEDOUT);
    __atomic_store_n(&asker.again, 1, __ATOMIC_RELEASE);
    WAIT_UNTIL(__atomic_load_n(&asker.calls, __ATOMIC_ACQUIRE) == 1);
    CHECK_EQ(asker.rc, -ETIMEDOUT);
    pnx_shutdown_report_release(&asker.report);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

/* In a child the executor, and its job, are the parent's. */
static int fork_and_ask(void *arg, const struct pnx_cancel *cancel) {
    struct asker *asker = arg;
    (void)cancel;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(pnx_registry_shutdown(asker->registry, SOON, NULL) == 0 ? 0 : 1);
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    ask(asker);
    return 0;
}

TEST(a_child_that_a_job_has_forked_may_shut_down) {
    struct asker asker = {.registry = fresh()};
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.registry = asker.registry, .flags = PNX_EXECUTOR_TICK));
    submit(executor, PNX_JOB(.run = fork_and_ask, .arg = &asker));
    (void)pnx_executor_tick(executor, pnx_now());
    check_refused(&asker, 1);
    pnx_executor_release(&executor);
    pnx_registry_release(&asker.registry);
}

/* ---- what the shutdown runs itself ---- */

static struct asker monitors[2]; /* of a failed cleanup, and of the end */

static void ask_in_monitor(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type == PNX_EVENT_RESOURCE_CLEANUP_FAILED)
        ask(&monitors[0]);
    if (event->type == PNX_EVENT_REGISTRY_SHUTDOWN)
        ask(&monitors[1]);
}

TEST(from_inside_a_monitor_that_hears_of_it_it_is_refused_until_it_is_over) {
    struct pnx_stats *stats = NULL;
    struct pnx_registry *registry = NULL;
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = ask_in_monitor};
    uint32_t id;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_monitor_add(stats, &monitor, &id), 0);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    struct item item = {.number = 1, .code = -EIO};
    monitors[0].registry = monitors[1].registry = registry;
    add(registry, &item, 0);
    CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), -EIO);
    CHECK_EQ(monitors[0].calls, 1);
    CHECK_EQ(monitors[0].rc, -EDEADLK);
    CHECK_EQ(monitors[1].calls, 1);
    CHECK_EQ(monitors[1].rc, -EIO); /* its result */
    pnx_shutdown_report_release(&monitors[1].report);
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

static void enter_without_a_record(unsigned index, void *ctx) {
    struct pnx_row_call call, garbage;
    (void)index;
    memset(&call, 0xff, sizeof(call));
    test_os_fault("thread_record", 1, true, ENOMEM);
    pnx__row_call_enter(&call, ctx, 1);
    CHECK(!PNX_SELF);
    CHECK(test_os_fault_clear() >= 1);
    CHECK(pnx__self()); /* the function has got one */
    pnx__row_call_enter(&garbage, ctx, 2);
    pnx__row_call_leave(&garbage);
    pnx__row_call_leave(&call);
    CHECK(pnx__self()->row_calls == NULL);
    CHECK(!pnx__registry_waits_for_us(ctx));
}

TEST(a_thread_that_gets_its_record_inside_such_a_function_is_in_none_afterwards) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    test_threads(1, enter_without_a_record, registry);
    pnx_registry_release(&registry);
}
