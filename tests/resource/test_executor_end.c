/* SPDX-License-Identifier: Apache-2.0 */
/* Creating, closing and releasing executors; memory and threads that cannot be had; forks: P7 and P10. */
#include "base/atomic.h" /* PNX_TSAN */
#include "resource/executor.h"
#include "resource/executor_case.h"

#include <patinox/shutdown.h>

#include <sys/wait.h>

static sem_t begun, gate;

__attribute__((constructor)) static void init(void) {
    sem_init(&begun, 0, 0);
    sem_init(&gate, 0, 0);
}

static void hold_up(struct pnx_executor *executor, struct work *holder) {
    work_init(holder);
    holder->begun = &begun;
    holder->gate = &gate;
    submit(executor, WORK_JOB(holder));
    sem_wait(&begun);
}

#define CHECK_REPORT(report, d, f, c, a) \
    do { \
        CHECK_EQ((report).done, d); \
        CHECK_EQ((report).failed, f); \
        CHECK_EQ((report).canceled, c); \
        CHECK_EQ((report).abandoned, a); \
    } while (0)

/* ---- P7: close ---- */

TEST(p7_a_close_runs_what_is_queued_and_counts_it) {
    static const int fails[] = {-EIO}, again[] = {-EAGAIN, -EAGAIN, 0};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.backoff_ns = 1));
    struct work holder, work[5];
    struct pnx_executor_report report = {.size = sizeof(report)};
    hold_up(executor, &holder);
    for (int i = 0; i < 5; i++)
        work_init(&work[i]);
    work[1].codes = fails;
    work[1].n_codes = 1;
    work[2].codes = again;
    work[2].n_codes = 3;
    for (int i = 0; i < 4; i++)
        submit(executor, WORK_JOB(&work[i]));
    submit(executor, WORK_JOB(&work[4], .delay_ns = PNX_NEVER)); /* cut short */
    sem_post(&gate);
    CHECK_EQ(pnx_executor_close(executor, SOON, &report), 0);
    CHECK(report.done + report.failed <= 6); /* some may have ended before it began */
    CHECK(report.failed <= 1);
    CHECK_EQ(report.canceled + report.abandoned, 0);
    CHECK(report.took_ns > 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(told(&work[i]), 1);
    CHECK_EQ(calls(&work[2]), 3);
    CHECK_EQ(stats_of(executor).threads, 0); /* all have ended, and are joined */
    struct pnx_error err;
    CHECK_EQ(pnx_executor_submit(executor, WORK_JOB(&work[0]), &err, NULL), -ESHUTDOWN);
    CHECK_CONTAINS(err.message, "is closed");
    struct pnx_executor_report again_report = {.size = sizeof(again_report)};
    CHECK_EQ(pnx_executor_close(executor, 0, &again_report), 0); /* again: the same */
    CHECK_EQ(again_report.done, report.done);
    CHECK_EQ(again_report.failed, report.failed);
    pnx_executor_release(&executor);
}

TEST(p7_a_close_returns_by_its_deadline_though_a_job_hangs_and_its_numbers_add_up) {
    struct test_env env;
    test_env_init(&env);
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.env = &env.env));
    struct work hangs, pending, queued[3];
    struct pnx_executor_report report = {.size = sizeof(report)};
    work_init(&pending);
    pending.pends = true;
    submit(executor, WORK_JOB(&pending));
    WAIT_UNTIL(stats_of(executor).pending == 1);
    hold_up(executor, &hangs);
    for (int i = 0; i < 3; i++) {
        work_init(&queued[i]);
        submit(executor, WORK_JOB(&queued[i], .delay_ns = i == 2 ? PNX_NEVER : 0));
    }
    pnx_ns start = pnx_now();
    CHECK_EQ(pnx_executor_close(executor, 20 * PNX_MS, &report), -ETIMEDOUT);
    CHECK(pnx_now() - start >= 20 * PNX_MS);
    CHECK_REPORT(report, 0, 0, 3, 2);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(told(&queued[i]), 1);
        CHECK_EQ(queued[i].code, -ECANCELED);
        CHECK_EQ(calls(&queued[i]), 0);
    }
    CHECK_EQ(told(&hangs), 0);
    pnx_executor_release(&executor); /* returns at once, too */
    CHECK(!executor);
    /* The abandoned ones may still end, and hold the memory until then. */
    CHECK(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) > 0);
    sem_post(&gate);
    sem_wait(&hangs.ended);
    CHECK_EQ(hangs.code, 0);
    CHECK_EQ(pnx_completion_done(&pending.completion, 0), 0);
    CHECK_EQ(told(&pending), 1);
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);
}

TEST(p7_a_second_close_waits_for_what_the_first_has_abandoned) {
    struct pnx_executor *executor = create(NULL);
    struct work hangs;
    struct pnx_executor_report report = {.size = sizeof(report)};
    hold_up(executor, &hangs);
    CHECK_EQ(pnx_executor_close(executor, 0, &report), -ETIMEDOUT);
    CHECK_REPORT(report, 0, 0, 0, 1);
    sem_post(&gate);
    CHECK_EQ(pnx_executor_close(executor, SOON, &report), 0);
    CHECK_REPORT(report, 1, 0, 0, 0);
    pnx_executor_release(&executor);
}

TEST(p7_jobs_that_run_are_told_of_the_deadline_and_asked_when_it_has_come) {
    struct pnx_executor *executor = create(NULL);
    struct work patient;
    work_init(&patient);
    patient.begun = &begun;
    patient.until_asked = true; /* and so it ends only because it is asked */
    submit(executor, WORK_JOB(&patient));
    sem_wait(&begun);
    CHECK_EQ(pnx_executor_close(executor, 5 * PNX_MS, NULL), -ETIMEDOUT);
    CHECK_EQ(pnx_executor_close(executor, SOON, NULL), 0);
    CHECK_EQ(patient.code, 0);
    pnx_executor_release(&executor);
}

struct closer {
    struct pnx_executor *executor;
    pnx_ns timeout;
    struct pnx_executor_report report;
    int rc;
};

static void close_it(unsigned index, void *ctx) {
    struct closer *closer = (struct closer *)ctx + index;
    closer->report.size = sizeof(closer->report);
    closer->rc = pnx_executor_close(closer->executor, closer->timeout, &closer->report);
}

TEST(several_may_close_and_the_earliest_deadline_holds_for_what_has_not_started) {
    struct pnx_executor *executor = create(NULL);
    struct work holder, queued;
    hold_up(executor, &holder);
    work_init(&queued);
    submit(executor, WORK_JOB(&queued));
    struct closer closers[3] = {{executor, 200 * PNX_MS, {0}, 1}, {executor, 10 * PNX_MS, {0}, 1},
            {executor, 100 * PNX_MS, {0}, 1}};
    test_threads(3, close_it, closers);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(closers[i].rc, -ETIMEDOUT);
        CHECK_REPORT(closers[i].report, 0, 0, 1, 1);
    }
    CHECK_EQ(queued.code, -ECANCELED);
    sem_post(&gate);
    pnx_executor_release(&executor);
    sem_wait(&holder.ended);
}

static void submit_until_refused(unsigned index, void *ctx) {
    struct closer *closer = ctx;
    if (index == 0) {
        usleep(1000); /* into the middle of it; any moment will do */
        close_it(0, closer);
        return;
    }
    static struct work work[4];
    struct work *own = &work[index];
    work_init(own);
    int accepted = 0, rc;
    while ((rc = pnx_executor_submit(closer->executor, WORK_JOB(own), NULL, NULL)) == 0)
        accepted++;
    CHECK_EQ(rc, -ESHUTDOWN);
    WAIT_UNTIL(told(own) == accepted); /* each that was accepted is told */
}

TEST(p7_a_close_races_with_submits_and_each_accepted_job_ends) {
    for (int round = 0; round < 20; round++) {
        struct closer closer = {.timeout = round % 2 ? 0 : SOON};
        closer.executor = create(PNX_EXECUTOR_OPTS(.workers = 2, .queue_max = 32));
        test_threads(4, submit_until_refused, &closer);
        CHECK(closer.rc == 0 || (closer.timeout == 0 && closer.rc == -ETIMEDOUT));
        CHECK_EQ(pnx_executor_close(closer.executor, SOON, NULL),
                closer.report.canceled ? -ETIMEDOUT : 0);
        struct pnx_executor_stats stats = stats_of(closer.executor);
        CHECK_EQ(stats.submitted, stats.done + stats.canceled);
        pnx_executor_release(&closer.executor);
    }
}

TEST(bad_closes_are_refused) {
    struct pnx_executor *executor = create(NULL);
    struct pnx_executor_report report = {.size = 1};
    CHECK_EQ(pnx_executor_close(NULL, 0, NULL), -EINVAL);
    CHECK_EQ(pnx_executor_close(executor, -1, NULL), -EINVAL);
    CHECK_EQ(pnx_executor_close(executor, 0, &report), -EINVAL);
    struct {
        size_t size, done, canary;
    } small = {.size = 2 * sizeof(size_t), .canary = 42};
    CHECK_EQ(pnx_executor_close(executor, 0, (struct pnx_executor_report *)(void *)&small), 0);
    CHECK_EQ(small.canary, 42);
    pnx_executor_release(&executor);
    pnx_executor_release(&executor); /* NULL now */
    pnx_executor_release(NULL);
}

/* ---- release ---- */

TEST(p7_a_release_without_a_close_tells_each_queued_job_that_it_will_not_run) {
    struct test_env env;
    test_env_init(&env);
    {
        PNX_AUTO_EXECUTOR executor = create(PNX_EXECUTOR_OPTS(.env = &env.env));
        static struct work work[3], holder;
        hold_up(executor, &holder);
        for (int i = 0; i < 3; i++) {
            work_init(&work[i]);
            submit(executor, WORK_JOB(&work[i]));
        }
        struct pnx_executor *own = executor;
        executor = NULL;
        pnx_executor_release(&own);
        for (int i = 0; i < 3; i++)
            CHECK_EQ(work[i].code, -ECANCELED);
        sem_post(&gate);
        sem_wait(&holder.ended);
    }
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);
}

TEST(an_idle_executor_is_freed_by_its_release) {
    struct test_env env;
    test_env_init(&env);
    for (int i = 0; i < 100; i++) {
        struct work work;
        work_init(&work);
        struct pnx_executor *executor =
                create(PNX_EXECUTOR_OPTS(.env = &env.env, .workers = 2, .queue_max = 4));
        for (int j = 0; j < i % 4; j++)
            submit(executor, WORK_JOB(&work));
        CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
        pnx_executor_release(&executor);
        test_env_check_empty(&env);
    }
}

/* ---- the registry ---- */

static int visit_row(void *ctx, const struct pnx_resource_info *info) {
    struct pnx_resource_info *found = ctx;
    if (strcmp(info->type, "executor") == 0)
        *found = *info;
    return 0;
}

TEST(an_executor_is_a_row_with_its_birthplace_and_a_shutdown_closes_it) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.name = "closer", .registry = registry));
    struct pnx_resource_info info = {0};
    CHECK_EQ(pnx_registry_each(registry, visit_row, &info), 0);
    CHECK_STR(info.name, "closer");
    CHECK_CONTAINS(info.site, "test_executor_end.c:");
    CHECK(info.bytes > 100000);
    struct work work;
    work_init(&work);
    submit(executor, WORK_JOB(&work, .delay_ns = PNX_NEVER));
    CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
    CHECK_EQ(told(&work), 1);
    CHECK_EQ(work.code, 0);
    CHECK_EQ(pnx_executor_submit(executor, WORK_JOB(&work), NULL, NULL), -ESHUTDOWN);
    pnx_executor_release(&executor);
    pnx_registry_release(&registry);
}

/* A cleanup that needs the executor, and says not now twice before. */
struct needy {
    struct pnx_executor *executor;
    struct work work;
    int calls;
    int rc;
};

static int use_executor(void *arg, const struct pnx_cancel *cancel) {
    struct needy *needy = arg;
    (void)cancel;
    if (++needy->calls < 3)
        return -EAGAIN;
    needy->rc = pnx_executor_submit(needy->executor, WORK_JOB(&needy->work), NULL, NULL);
    return needy->rc;
}

TEST(a_shutdown_leaves_an_executor_open_until_all_cleanups_that_may_need_it_have_ended) {
    struct pnx_registry *registry;
    struct needy needy = {.rc = 1};
    pnx_resource_id id;
    work_init(&needy.work);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "needy", .cleanup = use_executor, .arg = &needy), NULL,
                     &id),
            0);
    needy.executor = create(PNX_EXECUTOR_OPTS(.registry = registry)); /* made last */
    CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
    CHECK_EQ(needy.rc, 0);
    CHECK_EQ(told(&needy.work), 1);
    CHECK_EQ(needy.work.code, 0);
    pnx_executor_release(&needy.executor);
    pnx_registry_release(&registry);
}

TEST(a_shutdown_reports_an_executor_whose_job_hangs) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.registry = registry));
    struct work hangs;
    hold_up(executor, &hangs);
    struct pnx_shutdown_report *report = NULL;
    CHECK(pnx_registry_shutdown(registry, PNX_SEC, &report) != 0); /* time for it to begin */
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.failed + counts.abandoned, 1);
    pnx_shutdown_report_release(&report);
    sem_post(&gate);
    sem_wait(&hangs.ended);
    pnx_executor_release(&executor);
    pnx_registry_release(&registry);
}

/* ---- a release while a shutdown closes the executor ---- */

struct closing {
    struct pnx_registry *registry;
    pnx_ns timeout;
    struct pnx_executor *executor;
    int code;
    struct pnx_shutdown_counts counts;
};

static void *shut_down(void *arg) {
    struct closing *closing = arg;
    struct pnx_shutdown_report *report = NULL;
    closing->code = pnx_registry_shutdown(closing->registry, closing->timeout, &report);
    closing->counts = (struct pnx_shutdown_counts){.size = sizeof(closing->counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &closing->counts), 0);
    pnx_shutdown_report_release(&report);
    return NULL;
}

static int close_begins(void *ctx, const struct pnx_resource_info *info) {
    *(bool *)ctx = info->state == PNX_RESOURCE_RUNNING;
    return 0;
}

static void wait_for_close(const struct closing *closing) {
    bool runs = false;
    WAIT_UNTIL((pnx_registry_each(closing->registry, close_begins, &runs), runs));
}

static int release_while_it_is_closed(void *arg, const struct pnx_cancel *cancel) {
    struct closing *closing = arg;
    (void)cancel;
    sem_post(&begun);
    wait_for_close(closing);
    pnx_executor_release(&closing->executor);
    return 0;
}

static void a_job_releases(pnx_ns timeout, uint32_t flags) {
    struct test_env env;
    test_env_init(&env);
    struct closing closing = {.timeout = timeout};
    pthread_t thread;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &closing.registry), 0);
    closing.executor = create(
            PNX_EXECUTOR_OPTS(.env = &env.env, .registry = closing.registry, .flags = flags));
    submit(closing.executor, PNX_JOB(.run = release_while_it_is_closed, .arg = &closing));
    if (!flags)
        sem_wait(&begun);
    CHECK(pthread_create(&thread, NULL, shut_down, &closing) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_EQ(closing.code, 0);
    CHECK_EQ(closing.counts.done, 1);
    CHECK_EQ(closing.counts.abandoned, 0);
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);
    pnx_registry_release(&closing.registry);
}

TEST(p8_a_job_may_release_its_executor_while_a_shutdown_closes_it) {
    a_job_releases(SOON, 0);
    a_job_releases(PNX_NEVER, 0);
    a_job_releases(
            PNX_NEVER, PNX_EXECUTOR_TICK); /* nobody ticks: it runs on the shutdown's thread */
}

TEST(p8_a_loop_may_release_its_executor_while_a_shutdown_on_another_thread_closes_it) {
    struct test_env env;
    test_env_init(&env);
    struct closing closing = {.timeout = PNX_NEVER};
    struct work work;
    pthread_t thread;
    work_init(&work);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &closing.registry), 0);
    closing.executor = create(PNX_EXECUTOR_OPTS(.env = &env.env, .registry = closing.registry,
            .flags = PNX_EXECUTOR_TICK));
    (void)pnx_executor_tick(closing.executor, pnx_now());
    submit(closing.executor, WORK_JOB(&work));
    CHECK(pthread_create(&thread, NULL, shut_down, &closing) == 0);
    wait_for_close(&closing);
    pnx_executor_release(&closing.executor);
    CHECK_EQ(told(&work), 1);
    CHECK_EQ(work.code, -ECANCELED);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_EQ(closing.code, -ETIMEDOUT); /* what its close says: some jobs had no time */
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);
    pnx_registry_release(&closing.registry);
}

TEST(in_a_registry_that_is_shut_down_no_executor_is_made) {
    struct test_env env;
    test_env_init(&env);
    struct pnx_registry *registry;
    struct pnx_executor *executor = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_registry_shutdown(registry, 0, NULL), 0);
    CHECK_EQ(pnx_executor_create(
                     PNX_EXECUTOR_OPTS(.env = &env.env, .registry = registry), NULL, &executor),
            -ESHUTDOWN);
    CHECK(!executor);
    test_env_check_empty(&env); /* its thread has ended, too */
    pnx_registry_release(&registry);
}

TEST(a_budget_that_is_full_refuses_an_executor) {
    struct pnx_budget *budget;
    struct pnx_executor *executor = NULL;
    struct pnx_error err;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.name = "small", .hard = 100000), NULL, &budget), 0);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.budget = budget), &err, &executor), -ENOMEM);
    CHECK_CONTAINS(err.message, "budget refused");
    executor = create(PNX_EXECUTOR_OPTS(.budget = budget, .queue_max = 16));
    finish(&executor);
    CHECK_EQ(pnx_budget_charge(budget, 100000, 0), 0); /* all of it is back */
    pnx_budget_uncharge(budget, 100000);
    pnx_budget_release(&budget);
}

/* ---- P10: what cannot be had ---- */

static int create_and_use(struct test_env *te, void *ctx) {
    struct pnx_executor *executor = NULL;
    struct pnx_error err = {0};
    uint32_t flags = *(uint32_t *)ctx;
    int rc = pnx_executor_create(
            PNX_EXECUTOR_OPTS(.name = "small", .env = &te->env, .queue_max = 4, .flags = flags),
            &err, &executor);
    if (rc) {
        CHECK(!executor);
        CHECK(err.message[0]);
        return rc;
    }
    struct work work;
    work_init(&work);
    for (int i = 0; i < 10; i++)
        submit(executor, WORK_JOB(&work));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(told(&work), 10);
    finish(&executor);
    return 0;
}

TEST(p10_every_allocation_may_fail_and_then_creation_says_so) {
    struct test_env env;
    test_env_init(&env);
    test_fail_each_allocation(&env, create_and_use, &(uint32_t){0});
    test_fail_each_allocation(&env, create_and_use, &(uint32_t){PNX_EXECUTOR_TICK});
}

static void need_faults(void) {
    if (!test_os_faults())
        test_skip("this build makes no system call fail");
}

TEST(p10_without_a_first_thread_creation_fails_and_leaves_nothing_behind) {
    need_faults();
    struct test_env env;
    struct pnx_executor *executor = NULL;
    struct pnx_error err;
    test_env_init(&env);
    test_os_fault("pthread_create", 1, false, EAGAIN);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.env = &env.env), &err, &executor), -EAGAIN);
    CHECK_STR(err.phase, "thread");
    CHECK_CONTAINS(err.message, "no thread can be started");
    CHECK(!executor);
    test_env_check_empty(&env);
    CHECK_EQ(test_os_fault_clear(), 1);
}

TEST(p10_jobs_run_though_no_further_thread_can_be_had) {
    need_faults();
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.workers = 4));
    struct work work;
    work_init(&work);
    test_os_fault("pthread_create", 1, true, EAGAIN);
    for (int i = 0; i < 100; i++)
        submit(executor, WORK_JOB(&work));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(told(&work), 100);
    CHECK(stats_of(executor).thread_failures > 0);
    CHECK(test_os_fault_clear() > 0);
    finish(&executor);
}

/* Its only thread is stuck, and no other can be had. */
static struct pnx_executor *stranded(struct work *hangs) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.timeout_ns = PNX_MS));
    test_os_fault("pthread_create", 1, true, EAGAIN);
    hold_up(executor, hangs);
    WAIT_UNTIL(
            pnx_executor_drain(executor, PNX_MS) == -ETIMEDOUT && stats_of(executor).overdue == 1);
    CHECK_EQ(stats_of(executor).threads, 1);
    return executor;
}

TEST(p10_when_the_only_thread_is_stuck_who_waits_runs_the_jobs) {
    need_faults();
    struct work hangs, work;
    struct pnx_executor *executor = stranded(&hangs);
    struct pnx_health_entry health[8];
    CHECK_EQ(pnx_health(NULL, health, 8, NULL), PNX_HEALTH_DEGRADED);
    work_init(&work);
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    int code;
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, &code), 0);
    CHECK_EQ(code, 0);
    CHECK(pthread_equal(work.thread, pthread_self()));
    for (int i = 0; i < 3; i++)
        submit(executor, WORK_JOB(&work, .delay_ns = i * PNX_MS));
    CHECK_EQ(pnx_executor_close(executor, 500 * PNX_MS, NULL), -ETIMEDOUT); /* the stuck one */
    CHECK_EQ(told(&work), 4);
    CHECK_EQ(calls(&work), 4);
    sem_post(&gate);
    pnx_executor_release(&executor);
    sem_wait(&hangs.ended);
    (void)test_os_fault_clear();
}

TEST(p10_a_thread_that_could_not_be_had_is_tried_again_by_the_next_submit) {
    need_faults();
    struct work hangs, work;
    struct pnx_executor *executor = stranded(&hangs);
    (void)test_os_fault_clear();
    work_init(&work);
    int accepted = 0;
    while (told(&work) == 0) { /* at most every 100 ms */
        submit(executor, WORK_JOB(&work));
        accepted++;
        usleep(5000);
    }
    pthread_t thread = __atomic_load_n(&work.thread, __ATOMIC_RELAXED); /* others still run */
    CHECK(!pthread_equal(thread, pthread_self()));
    CHECK_EQ(pnx_executor_drain(executor, 0), -ETIMEDOUT);
    sem_post(&gate);
    finish(&executor);
    CHECK_EQ(told(&work), accepted);
}

TEST(p10_each_thread_and_wait_may_fail_once_and_nothing_is_lost) {
    need_faults();
    static const char *const calls_[] = {"pthread_create", "futex_wait", "thread_record"};
    for (size_t call = 0; call < sizeof(calls_) / sizeof(calls_[0]); call++) {
        for (int64_t nth = 1; nth < 8; nth++) {
            test_os_fault(calls_[call], nth, false, call == 1 ? EINTR : EAGAIN);
            struct pnx_executor *executor = NULL;
            int rc = pnx_executor_create(
                    PNX_EXECUTOR_OPTS(.workers = 3, .idle_ns = 1, .queue_max = 4), NULL, &executor);
            struct work work;
            work_init(&work);
            for (int i = 0; rc == 0 && i < 20; i++)
                submit(executor, WORK_JOB(&work));
            if (rc == 0) {
                CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
                CHECK_EQ(told(&work), 20);
                finish(&executor);
            }
            (void)test_os_fault_clear();
        }
    }
}

/* ---- forks ---- */

struct forked {
    struct pnx_executor *executor, *ticked;
    pnx_job_id id;
    struct work *work;
    struct pnx_completion completion;
};

static void use_in_child(void *ctx) {
    struct forked *f = ctx;
    struct pnx_executor *both[2] = {f->executor, f->ticked};
    for (int i = 0; i < 2; i++) {
        struct pnx_error err;
        struct pnx_job_info info = {.size = sizeof(info)};
        struct pnx_executor_report report = {.size = sizeof(report)};
        CHECK_EQ(pnx_executor_submit(both[i], WORK_JOB(f->work), &err, NULL), -ESHUTDOWN);
        CHECK_CONTAINS(err.message, "before fork()");
        CHECK_EQ(pnx_executor_cancel(both[i], f->id), -ESTALE);
        CHECK_EQ(pnx_executor_wait(both[i], f->id, PNX_NEVER, NULL), -ESTALE);
        CHECK_EQ(pnx_executor_job(both[i], f->id, &info), -ESTALE);
        CHECK_EQ(pnx_executor_drain(both[i], PNX_NEVER), 0); /* it is empty here */
        CHECK_EQ(pnx_executor_close(both[i], PNX_NEVER, &report), 0);
        CHECK_REPORT(report, 0, 0, 0, 0);
        CHECK_EQ(pnx_executor_tick(both[i], pnx_now()), PNX_NEVER);
        CHECK_EQ(pnx_executor_fd(both[i]), -ENOTSUP);
        pnx_executor_release(&both[i]);
    }
    CHECK_EQ(told(f->work), 0);
    /* One of its own works. */
#ifdef PNX_TSAN /* which allows no threads in such a child */
    struct pnx_executor *own = create(PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK));
#else
    struct pnx_executor *own = create(NULL);
#endif
    submit(own, WORK_JOB(f->work));
    CHECK_EQ(pnx_executor_drain(own, SOON), 0);
    CHECK_EQ(told(f->work), 1);
    finish(&own);
    _exit(42);
}

TEST(in_a_forked_child_an_executor_is_empty_and_refuses) {
    struct work holder, work, pending;
    struct forked f = {.work = &work};
    f.executor = create(NULL);
    f.ticked = create(PNX_EXECUTOR_OPTS(.flags = PNX_EXECUTOR_TICK));
    work_init(&work);
    work_init(&pending);
    pending.pends = true;
    submit(f.executor, WORK_JOB(&pending));
    WAIT_UNTIL(stats_of(f.executor).pending == 1);
    hold_up(f.executor, &holder);
    f.id = submit(f.executor, WORK_JOB(&work, .delay_ns = PNX_NEVER));
    submit(f.ticked, WORK_JOB(&work));
    test_others_asleep();
    CHECK_EQ(test_child(use_in_child, &f), 42);
    sem_post(&gate);
    CHECK_EQ(pnx_executor_cancel(f.executor, f.id), 0);
    CHECK_EQ(pnx_completion_done(&pending.completion, 0), 0);
    (void)pnx_executor_tick(f.ticked, pnx_now());
    CHECK_EQ(told(&work), 2);
    finish(&f.executor);
    finish(&f.ticked);
}

static void forget_and_release(void *ctx) {
    struct pnx_executor *executor = ctx;
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_forked(NULL), 0);
    pnx_executor_release(&executor);
    CHECK_EQ(pnx_registry_read_stats(NULL, &stats), 0);
    CHECK_EQ(stats.misuses, 0);
    _exit(42);
}

TEST(a_forked_child_that_has_forgotten_its_parents_rows_may_release_its_executor) {
    struct pnx_executor *executor = create(NULL);
    test_others_asleep();
    CHECK_EQ(test_child(forget_and_release, executor), 42);
    finish(&executor);
}

struct forking {
    struct pnx_executor *executor;
    int status; /* of the child */
};

/* The thread that has begun, to keep watch while a job runs: asleep by now. */
static bool has_watch(struct pnx_executor *executor) {
    pnx__mutex_lock(&executor->lock);
    bool watched = !pnx__list_empty(&executor->parked);
    pnx__mutex_unlock(&executor->lock);
    return watched;
}

static int fork_and_return(void *arg, const struct pnx_cancel *cancel) {
    struct forking *forking = arg;
    (void)cancel;
    /* A thread that begins or ends gets and gives memory, and a sanitizer's malloc() does not survive a fork beside it. */
    WAIT_UNTIL(has_watch(forking->executor));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        return 0; /* what a job should not do: it should exec or _exit */
    CHECK(waitpid(pid, &forking->status, 0) == pid);
    return 0;
}

static void done_in_one_process(void *ctx, pnx_job_id id, int code) {
    (void)id;
    (void)code;
    __atomic_add_fetch((int *)ctx, 1, __ATOMIC_ACQ_REL);
}

TEST(a_job_that_forks_ends_in_the_parent_and_its_thread_ends_in_the_child) {
    struct pnx_executor *executor = create(NULL);
    struct forking forking = {executor, -1};
    int n_done = 0;
    pnx_job_id id = submit(executor, PNX_JOB(.run = fork_and_return, .arg = &forking,
                                             .done = done_in_one_process, .ctx = &n_done));
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, NULL), 0);
    CHECK_EQ(n_done, 1);
    CHECK(WIFEXITED(forking.status)); /* the child's only thread ended, and so did the child */
    finish(&executor);
}

/* ---- what must not be done ---- */

static int end_thread(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    (void)cancel;
    pthread_exit(NULL);
}

static void end_thread_when_done(void *ctx, pnx_job_id id, int code) {
    (void)ctx;
    (void)id;
    (void)code;
    pthread_exit(NULL);
}

static void lose_a_job(void *ctx) {
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    if (*(bool *)ctx)
        submit(executor, PNX_JOB(.run = end_thread));
    else
        submit(executor, PNX_JOB(.run = work_run, .arg = &work, .done = end_thread_when_done));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
}

TEST(a_job_that_ends_its_thread_aborts) {
    CHECK_EQ(test_apart(lose_a_job, &(bool){true}), -SIGABRT);
    CHECK_EQ(test_apart(lose_a_job, &(bool){false}), -SIGABRT);
}
