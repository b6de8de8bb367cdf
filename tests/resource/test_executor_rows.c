/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs that end rows of a registry, and guards that are dropped to the background. */
#include "resource/executor_case.h"

#include <patinox/guard.h>
#include <patinox/registry.h>
#include <patinox/shutdown.h>

#include <sched.h>

static sem_t begun, gate;

__attribute__((constructor)) static void init(void) {
    sem_init(&begun, 0, 0);
    sem_init(&gate, 0, 0);
}

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

static pnx_resource_id add(struct pnx_registry *registry, struct work *work) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "socket", .cleanup = work_run, .arg = work), NULL, &id),
            0);
    return id;
}

static pnx_job_id clean_up(struct pnx_executor *executor, struct pnx_registry *registry,
        pnx_resource_id row, const struct pnx_job *job) {
    struct pnx_error err = {0};
    pnx_job_id id = 0;
    int rc = pnx_executor_cleanup(executor, registry, row, job, &err, &id);
    CHECK_MSG(rc == 0, "cleanup: %s: %s", pnx_errname(rc), err.message);
    return id;
}

static int wait_for(struct pnx_executor *executor, pnx_job_id id) {
    int code = 77;
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, &code), 0);
    return code;
}

#define TELL(work, ...) PNX_JOB(.done = work_done, .ctx = (work), __VA_ARGS__)

static void release(struct pnx_registry **registry) {
    CHECK_EQ(pnx_registry_count(*registry), 0);
    CHECK_EQ(pnx_registry_shutdown(*registry, 0, NULL), 0);
    pnx_registry_release(registry);
}

TEST(a_rows_cleanup_runs_in_the_background_and_the_row_is_gone) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    pnx_resource_id row = add(registry, &work);
    pnx_job_id id = clean_up(executor, registry, row, TELL(&work));
    CHECK_EQ(wait_for(executor, id), 0);
    CHECK_EQ(calls(&work), 1);
    CHECK_EQ(told(&work), 1);
    CHECK(!pthread_equal(work.thread, pthread_self()));
    CHECK_EQ(pnx_registry_remove(registry, row), -EALREADY);
    row = add(registry, &work);
    CHECK_EQ(wait_for(executor, clean_up(executor, registry, row, NULL)), 0);
    CHECK_EQ(calls(&work), 2);
    finish(&executor);
    release(&registry);
}

TEST(a_job_of_a_row_bears_its_type_and_its_birthplace) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    pnx_resource_id row = add(registry, &work);
    struct pnx_job job = *PNX_JOB_AT(NULL, .delay_ns = PNX_NEVER);
    struct pnx_job_info info = info_of(executor, clean_up(executor, registry, row, &job));
    CHECK_STR(info.name, "socket");
    CHECK_CONTAINS(info.site, "test_executor_rows.c:");
    info = info_of(
            executor, clean_up(executor, registry, row,
                              PNX_JOB_AT("there:1", .name = "mine", .attempts = 2,
                                      .priority = PNX_PRIORITY_HIGH, .delay_ns = PNX_NEVER)));
    CHECK_STR(info.name, "mine");
    CHECK_STR(info.site, "there:1");
    CHECK_EQ(info.attempts, 2);
    CHECK_EQ(info.priority, PNX_PRIORITY_HIGH);
    finish(&executor); /* which cuts the delays short: one of the two ends the row */
    CHECK_EQ(calls(&work), 1);
    release(&registry);
}

TEST(a_cleanup_that_says_not_now_leaves_its_row_live_and_is_tried_again) {
    static const int again[] = {-EAGAIN, -EAGAIN, 0};
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.backoff_ns = 1));
    struct work work;
    work_init(&work);
    work.codes = again;
    work.n_codes = 3;
    pnx_job_id id = clean_up(executor, registry, add(registry, &work), TELL(&work));
    CHECK_EQ(wait_for(executor, id), 0);
    CHECK_EQ(calls(&work), 3);
    CHECK_EQ(told(&work), 1);
    CHECK_EQ(stats_of(executor).retries, 2);
    finish(&executor);
    release(&registry);
}

TEST(the_last_attempt_that_says_not_now_has_failed_and_the_row_with_it) {
    static const int again[] = {-EAGAIN};
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.backoff_ns = 1, .attempts = 3));
    struct work work;
    work_init(&work);
    work.codes = again;
    work.n_codes = 1;
    pnx_job_id id = clean_up(executor, registry, add(registry, &work), NULL);
    CHECK_EQ(wait_for(executor, id), -EAGAIN);
    CHECK_EQ(calls(&work), 3);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.cleanups_failed, 1);
    finish(&executor);
    release(&registry);
}

TEST(a_cleanup_that_timed_out_is_not_tried_again_for_its_row_is_gone) {
    static const int codes[] = {-ETIMEDOUT, 0};
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.timeout_ns = PNX_MS));
    struct work work;
    work_init(&work);
    work.codes = codes;
    work.n_codes = 2;
    work.until_asked = true;
    pnx_job_id id = clean_up(executor, registry, add(registry, &work), NULL);
    CHECK_EQ(wait_for(executor, id), -ETIMEDOUT);
    CHECK_EQ(calls(&work), 1);
    CHECK_EQ(stats_of(executor).overdue, 1);
    finish(&executor);
    release(&registry);
}

static int n_failed_events;
static void count_failures(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type == PNX_EVENT_JOB_FAILED)
        __atomic_add_fetch(&n_failed_events, 1, __ATOMIC_ACQ_REL);
}

TEST(whoever_is_first_ends_the_row_and_the_job_says_so) {
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = count_failures};
    uint32_t monitor_id;
    CHECK_EQ(pnx_monitor_add(NULL, &monitor, &monitor_id), 0);
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work holder, work[2];
    work_init(&holder);
    holder.begun = &begun;
    holder.gate = &gate;
    submit(executor, WORK_JOB(&holder));
    sem_wait(&begun);
    pnx_job_id ids[2];
    pnx_resource_id rows[2];
    for (int i = 0; i < 2; i++) {
        work_init(&work[i]);
        rows[i] = add(registry, &work[i]);
        ids[i] = clean_up(executor, registry, rows[i], TELL(&work[i]));
    }
    CHECK_EQ(pnx_registry_remove(registry, rows[0]), 0);  /* its owner is first */
    CHECK_EQ(pnx_registry_cleanup(registry, rows[1]), 0); /* somebody forces it */
    sem_post(&gate);
    for (int i = 0; i < 2; i++) {
        int code = wait_for(executor, ids[i]);
        CHECK(code == -EALREADY || code == -ESTALE);
        CHECK_EQ(told(&work[i]), 1);
        CHECK_EQ(calls(&work[i]), i);
    }
    struct pnx_executor_stats stats = stats_of(executor);
    CHECK_EQ(stats.canceled, 2); /* no failures of theirs */
    CHECK_EQ(stats.failed, 0);
    CHECK_EQ(n_failed_events, 0);
    finish(&executor);
    release(&registry);
}

TEST(a_shutdown_ends_rows_whose_jobs_still_wait) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    pnx_job_id id = clean_up(
            executor, registry, add(registry, &work), TELL(&work, .delay_ns = 3600 * PNX_SEC));
    CHECK_EQ(pnx_registry_shutdown(registry, SOON, NULL), 0);
    CHECK_EQ(calls(&work), 1);
    pnx_registry_release(&registry); /* the job still has a reference */
    CHECK_EQ(told(&work), 0);
    CHECK_EQ(pnx_executor_close(executor, SOON, NULL), 0);
    int code;
    CHECK_EQ(pnx_executor_wait(executor, id, 0, &code), 0);
    CHECK(code == -EALREADY || code == -ESTALE);
    CHECK_EQ(told(&work), 1);
    pnx_executor_release(&executor);
}

TEST(a_cancelled_job_leaves_its_row_live) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    pnx_resource_id row = add(registry, &work);
    pnx_job_id id = clean_up(executor, registry, row, TELL(&work, .delay_ns = PNX_NEVER));
    CHECK_EQ(pnx_executor_cancel(executor, id), 0);
    CHECK_EQ(work.code, -ECANCELED);
    CHECK_EQ(pnx_registry_cleanup(registry, row), 0);
    CHECK_EQ(calls(&work), 1);
    finish(&executor);
    release(&registry);
}

static bool is_live(struct pnx_registry *registry, pnx_resource_id row) {
    struct pnx_resource_info info;
    return pnx_registry_info(registry, row, &info) == 0 && info.state == PNX_RESOURCE_LIVE;
}

static uint64_t failed_of(struct pnx_registry *registry) {
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    return stats.cleanups_failed;
}

/* Nobody else may have ended the row: it is live, and can be. */
static void check_left_live(
        struct pnx_registry *registry, pnx_resource_id row, const struct work *work) {
    CHECK_EQ(work->code, -ECANCELED);
    CHECK(is_live(registry, row));
    CHECK_EQ(failed_of(registry), 0);
    CHECK_EQ(pnx_registry_remove(registry, row), 0);
}

TEST(a_job_that_is_cancelled_while_it_runs_leaves_its_row_live_be_it_its_last_attempt) {
    static const int again[] = {-EAGAIN};
    for (uint32_t attempts = 1; attempts <= 2; attempts++) {
        struct pnx_registry *registry = fresh();
        struct pnx_executor *executor = create(NULL);
        struct work work;
        work_init(&work);
        work.codes = again;
        work.n_codes = 1;
        work.begun = &begun;
        work.until_asked = true;
        pnx_resource_id row = add(registry, &work);
        pnx_job_id id = clean_up(executor, registry, row, TELL(&work, .attempts = attempts));
        sem_wait(&begun);
        CHECK_EQ(pnx_executor_cancel(executor, id), -EINPROGRESS);
        CHECK_EQ(wait_for(executor, id), -ECANCELED);
        CHECK_EQ(calls(&work), 1);
        check_left_live(registry, row, &work);
        CHECK_EQ(stats_of(executor).canceled, 1);
        finish(&executor);
        release(&registry);
    }
}

TEST(a_pending_cleanup_whose_job_was_cancelled_leaves_its_row_live_be_it_its_last_attempt) {
    for (uint32_t attempts = 1; attempts <= 2; attempts++) {
        struct pnx_registry *registry = fresh();
        struct pnx_executor *executor = create(NULL);
        struct work work;
        work_init(&work);
        work.pends = true;
        pnx_resource_id row = add(registry, &work);
        pnx_job_id id = clean_up(executor, registry, row, TELL(&work, .attempts = attempts));
        WAIT_UNTIL(stats_of(executor).pending == 1);
        CHECK_EQ(pnx_executor_cancel(executor, id), -EINPROGRESS);
        CHECK_EQ(pnx_completion_done(&work.completion, -EAGAIN), 0);
        CHECK_EQ(wait_for(executor, id), -ECANCELED);
        check_left_live(registry, row, &work);
        finish(&executor);
        release(&registry);
    }
}

TEST(a_close_that_has_no_more_time_leaves_the_row_of_what_runs_live_be_it_its_last_attempt) {
    static const int again[] = {-EAGAIN};
    for (uint32_t attempts = 1; attempts <= 2; attempts++) {
        struct pnx_registry *registry = fresh();
        struct pnx_executor *executor = create(NULL);
        struct work work;
        work_init(&work);
        work.codes = again;
        work.n_codes = 1;
        work.begun = &begun;
        work.until_asked = true;
        pnx_resource_id row = add(registry, &work);
        clean_up(executor, registry, row, TELL(&work, .attempts = attempts));
        sem_wait(&begun);
        CHECK_EQ(pnx_executor_close(executor, 0, NULL), -ETIMEDOUT);
        WAIT_UNTIL(told(&work) == 1);
        check_left_live(registry, row, &work);
        pnx_executor_release(&executor);
        release(&registry);
    }
}

/* Out of time is another thing: it asks for the end, and takes nothing back. */
TEST(a_last_attempt_that_ran_out_of_time_and_says_not_now_has_failed_and_so_says_its_job) {
    static const int again[] = {-EAGAIN};
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    work.codes = again;
    work.n_codes = 1;
    work.until_asked = true;
    pnx_resource_id row = add(registry, &work);
    pnx_job_id id =
            clean_up(executor, registry, row, TELL(&work, .attempts = 1, .timeout_ns = PNX_MS));
    CHECK_EQ(wait_for(executor, id), -EAGAIN);
    CHECK_EQ(failed_of(registry), 1);
    CHECK(!is_live(registry, row));
    finish(&executor);
    release(&registry);
}

/* A shutdown has counted it as abandoned, and there is nothing left that could be tried again. */
TEST(a_cleanup_that_a_shutdown_has_abandoned_and_that_says_not_now_is_told_so_at_once) {
    static const int again[] = {-EAGAIN};
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    work.codes = again;
    work.n_codes = 1;
    work.begun = &begun;
    work.gate = &gate;
    pnx_job_id id = clean_up(executor, registry, add(registry, &work), TELL(&work, .attempts = 5));
    sem_wait(&begun);
    CHECK_EQ(pnx_registry_shutdown(registry, 0, NULL), -ETIMEDOUT);
    sem_post(&gate);
    CHECK_EQ(wait_for(executor, id), -EAGAIN);
    CHECK_EQ(stats_of(executor).retries, 0);
    finish(&executor);
    pnx_registry_release(&registry);
}

/* Whichever is first, the end or the cancel: what the job is told is what has become of its row. */
TEST(cancels_race_with_last_attempts_and_jobs_and_rows_agree) {
    static const int again[] = {-EAGAIN};
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    uint64_t random = test_seed(), failed = 0;
    for (int i = 0; i < 2000; i++) {
        struct work work;
        work_init(&work);
        work.codes = again;
        work.n_codes = 1;
        pnx_resource_id row = add(registry, &work);
        pnx_job_id id = clean_up(executor, registry, row, TELL(&work, .attempts = 1));
        while (calls(&work) == 0)
            sched_yield();
        for (uint64_t n = test_random(&random) % 200; n > 0; n--)
            __asm__ volatile("");
        (void)pnx_executor_cancel(executor, id);
        int code = wait_for(executor, id);
        CHECK(code == -ECANCELED || code == -EAGAIN);
        failed += code == -EAGAIN;
        CHECK_EQ(failed_of(registry), failed);
        CHECK_EQ(pnx_registry_remove(registry, row), code == -EAGAIN ? -EALREADY : 0);
    }
    finish(&executor);
    release(&registry);
}

TEST(a_rows_cleanup_may_pend_and_is_tried_again_when_that_did_not_do) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.backoff_ns = 1));
    struct work work;
    work_init(&work);
    work.pends = true;
    work.begun = &begun;
    pnx_resource_id row = add(registry, &work);
    pnx_job_id id = clean_up(executor, registry, row, TELL(&work));
    sem_wait(&begun);
    WAIT_UNTIL(stats_of(executor).pending == 1);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(registry, row, &info), 0);
    CHECK_EQ(info.state, PNX_RESOURCE_PENDING);
    CHECK_EQ(pnx_completion_done(&work.completion, -EAGAIN), 0);
    sem_wait(&begun);
    WAIT_UNTIL(stats_of(executor).pending == 1);
    CHECK_EQ(pnx_completion_done(&work.completion, 0), 0);
    CHECK_EQ(wait_for(executor, id), 0);
    CHECK_EQ(calls(&work), 2);
    CHECK_EQ(told(&work), 1);
    finish(&executor);
    release(&registry);
}

static int complete_at_once(void *arg, const struct pnx_cancel *cancel) {
    struct work *work = arg;
    struct pnx_completion completion;
    work->calls++;
    CHECK_EQ(pnx_cancel_pend(cancel, &completion), 0);
    CHECK_EQ(pnx_completion_done(&completion, work->calls == 1 ? -EAGAIN : 0), 0);
    return -EINPROGRESS;
}

TEST(a_rows_cleanup_may_be_completed_before_it_has_returned) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.backoff_ns = 1));
    struct work work;
    work_init(&work);
    pnx_resource_id row;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "handle", .cleanup = complete_at_once, .arg = &work),
                     NULL, &row),
            0);
    CHECK_EQ(wait_for(executor, clean_up(executor, registry, row, NULL)), 0);
    CHECK_EQ(work.calls, 2);
    finish(&executor);
    release(&registry);
}

struct completer {
    pthread_mutex_t lock;
    struct pnx_completion todo[64];
    int n;
    bool stop;
};

static int pend_to_completer(void *arg, const struct pnx_cancel *cancel) {
    struct completer *completer = arg;
    struct pnx_completion completion;
    CHECK_EQ(pnx_cancel_pend(cancel, &completion), 0);
    pthread_mutex_lock(&completer->lock);
    completer->todo[completer->n++] = completion;
    pthread_mutex_unlock(&completer->lock);
    return -EINPROGRESS;
}

static void *complete_them(void *arg) {
    struct completer *completer = arg;
    for (unsigned turn = 0;; turn++) {
        pthread_mutex_lock(&completer->lock);
        int n = completer->n;
        struct pnx_completion completion = {0};
        if (n > 0)
            completion = completer->todo[--completer->n];
        bool stop = completer->stop;
        pthread_mutex_unlock(&completer->lock);
        if (n > 0)
            CHECK_EQ(pnx_completion_done(&completion, turn % 3 ? 0 : -EAGAIN), 0);
        else if (stop)
            return NULL;
    }
}

TEST(completions_of_rows_race_with_the_return_of_their_cleanups) {
    struct completer completer = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(
            PNX_EXECUTOR_OPTS(.workers = 2, .queue_max = 64, .backoff_ns = 1, .attempts = 1000));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, complete_them, &completer) == 0);
    for (int i = 0; i < 3000; i++) {
        pnx_resource_id row;
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "handle", .cleanup = pend_to_completer,
                                 .arg = &completer),
                         NULL, &row),
                0);
        clean_up(executor, registry, row, NULL);
    }
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    pthread_mutex_lock(&completer.lock);
    completer.stop = true;
    pthread_mutex_unlock(&completer.lock);
    pthread_join(thread, NULL);
    CHECK_EQ(stats_of(executor).done, 3000);
    finish(&executor);
    release(&registry);
}

TEST(bad_rows_and_jobs_that_say_what_to_run_are_refused) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work;
    struct pnx_error err;
    pnx_resource_id bare, row;
    work_init(&work);
    row = add(registry, &work);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "bare"), NULL, &bare), 0);
    CHECK_EQ(pnx_executor_cleanup(NULL, registry, row, NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_executor_cleanup(executor, registry, 0, NULL, &err, NULL), -ESTALE);
    CHECK_EQ(pnx_executor_cleanup(executor, registry, row + 16, NULL, &err, NULL), -ESTALE);
    CHECK_EQ(pnx_executor_cleanup(executor, NULL, row, NULL, &err, NULL), -ESTALE);
    CHECK_EQ(pnx_executor_cleanup(executor, pnx_registry_off(), row, NULL, &err, NULL), -ESTALE);
    CHECK_EQ(pnx_executor_cleanup(executor, registry, row, PNX_JOB(.run = work_run), &err, NULL),
            -EINVAL);
    CHECK_STR(err.field, "run");
    CHECK_EQ(pnx_executor_cleanup(executor, registry, row, PNX_JOB(.arg = &work), &err, NULL),
            -EINVAL);
    CHECK_STR(err.field, "arg");
    CHECK_EQ(pnx_executor_cleanup(executor, registry, row, PNX_JOB(.priority = 9), &err, NULL),
            -EINVAL);
    CHECK_STR(err.field, "priority");
    CHECK_EQ(wait_for(executor, clean_up(executor, registry, bare, NULL)), -ENOTSUP);
    CHECK_EQ(pnx_registry_remove(registry, bare), 0);
    CHECK_EQ(pnx_registry_remove(registry, row), 0);
    CHECK_EQ(pnx_executor_close(executor, 0, NULL), 0);
    row = add(registry, &work);
    CHECK_EQ(pnx_executor_cleanup(executor, registry, row, NULL, &err, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_registry_remove(registry, row), 0);
    pnx_executor_release(&executor);
    release(&registry);
}

TEST(a_row_that_has_children_is_tried_again_until_they_have_ended) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.backoff_ns = PNX_US, .backoff_max_ns = PNX_MS));
    struct work parent, child;
    pnx_resource_id id;
    work_init(&parent);
    work_init(&child);
    pnx_resource_id above = add(registry, &parent);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "stream", .cleanup = work_run, .arg = &child,
                             .parent = above),
                     NULL, &id),
            0);
    pnx_job_id job = clean_up(executor, registry, above, TELL(&parent, .attempts = UINT32_MAX));
    WAIT_UNTIL(stats_of(executor).retries >= 2);
    CHECK_EQ(calls(&parent), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    CHECK_EQ(wait_for(executor, job), 0);
    CHECK_EQ(calls(&parent), 1);
    finish(&executor);
    release(&registry);
}

/* ---- guards ---- */

TEST(a_guard_is_dropped_to_the_background) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    for (int tracked = 0; tracked < 2; tracked++) {
        struct work work;
        struct pnx_guard guard = {0};
        pnx_job_id id;
        work_init(&work);
        CHECK_EQ(pnx_guard_arm(&guard, work_run, &work), 0);
        if (tracked)
            CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "file"), NULL), 0);
        CHECK_EQ(pnx_guard_defer(&guard, executor, TELL(&work), NULL, &id), 0);
        CHECK(!pnx_guard_armed(&guard));
        CHECK_EQ(wait_for(executor, id), 0);
        CHECK_EQ(calls(&work), 1);
        CHECK_EQ(told(&work), 1);
        CHECK(!pthread_equal(work.thread, pthread_self()));
        pnx_guard_drop(&guard); /* nothing is left to do */
        CHECK_EQ(calls(&work), 1);
    }
    finish(&executor);
    release(&registry);
}

/* A job that gives up on an owned row, with its owner gone: without time left, or because of a child. */
static void a_job_gives_up(bool canceled) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.backoff_ns = PNX_US, .backoff_max_ns = PNX_MS));
    struct work parent, child;
    struct pnx_guard guard = {0};
    pnx_resource_id above, id;
    pnx_job_id job;
    work_init(&parent);
    work_init(&child);
    CHECK_EQ(pnx_guard_arm(&guard, work_run, &parent), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry,
                     PNX_RESOURCE(.type = "server", .flags = PNX_RESOURCE_OWNED), NULL),
            0);
    above = pnx_guard_id(&guard);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "stream", .cleanup = work_run, .arg = &child,
                             .parent = above),
                     NULL, &id),
            0);
    CHECK_EQ(pnx_guard_defer(&guard, executor, TELL(&parent, .attempts = canceled ? UINT32_MAX : 3),
                     NULL, &job),
            0);
    if (canceled)
        CHECK_EQ(pnx_executor_close(executor, 0, NULL), -ETIMEDOUT);
    else
        CHECK_EQ(wait_for(executor, job), -ECANCELED);
    CHECK_EQ(calls(&parent), 0);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(calls(&child), 1);
    CHECK_EQ(calls(&parent), 1);
    if (canceled)
        pnx_executor_release(&executor);
    else
        finish(&executor);
    release(&registry);
}

TEST(what_a_guards_job_gives_up_is_a_shutdowns_though_it_was_owned) {
    a_job_gives_up(false);
    a_job_gives_up(true);
}

TEST(a_guard_that_cannot_be_deferred_stays_armed) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct pnx_error err;
    struct work work;
    struct pnx_guard guard = {0}, empty = {0};
    work_init(&work);
    CHECK_EQ(pnx_guard_defer(&empty, executor, NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_guard_defer(NULL, executor, NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_guard_set_executor(&empty, executor), -EINVAL);
    CHECK_EQ(pnx_guard_set_executor(NULL, executor), -EINVAL);
    CHECK_EQ(pnx_guard_arm(&guard, work_run, &work), 0);
    CHECK_EQ(pnx_guard_defer(&guard, NULL, NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_executor_close(executor, 0, NULL), 0);
    for (int tracked = 0; tracked < 2; tracked++) {
        CHECK_EQ(pnx_guard_defer(&guard, executor, PNX_JOB(.run = work_run), &err, NULL), -EINVAL);
        CHECK_EQ(pnx_guard_defer(&guard, executor, NULL, &err, NULL), -ESHUTDOWN);
        CHECK(pnx_guard_armed(&guard));
        if (!tracked)
            CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "file"), NULL), 0);
    }
    CHECK_EQ(calls(&work), 0);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(calls(&work), 1);
    pnx_executor_release(&executor);
    release(&registry);
}

static void leave_scope(
        struct pnx_executor *executor, struct pnx_registry *registry, struct work *work) {
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, work_run, work), 0);
    if (registry)
        CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "file"), NULL), 0);
    CHECK_EQ(pnx_guard_set_executor(&guard, executor), 0);
    PNX_AUTO_GUARD moved = pnx_guard_move(&guard);
}

/* As the original framework's guard did, but without a runtime, and never lost. */
TEST(v1_a_guard_that_is_dropped_cleans_up_in_the_background) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor = create(NULL);
    struct work work[4];
    for (int i = 0; i < 4; i++)
        work_init(&work[i]);
    leave_scope(executor, NULL, &work[0]);
    leave_scope(executor, registry, &work[1]);
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(calls(&work[i]), 1);
        CHECK(!pthread_equal(work[i].thread, pthread_self()));
    }
    CHECK_EQ(pnx_executor_close(executor, SOON, NULL), 0);
    leave_scope(executor, NULL, &work[2]); /* the executor refuses: it runs here */
    leave_scope(executor, registry, &work[3]);
    for (int i = 2; i < 4; i++) {
        CHECK_EQ(calls(&work[i]), 1);
        CHECK(pthread_equal(work[i].thread, pthread_self()));
    }
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, work_run, &work[0]), 0);
    CHECK_EQ(pnx_guard_set_executor(&guard, executor), 0);
    CHECK_EQ(pnx_guard_set_executor(&guard, NULL), 0); /* here again */
    pnx_guard_drop(&guard);
    CHECK_EQ(calls(&work[0]), 2);
    pnx_executor_release(&executor);
    release(&registry);
}

struct crowd {
    struct pnx_executor *executor;
    struct pnx_registry *registry;
    struct work work[100];
};

static void drop_some(unsigned index, void *ctx) {
    struct crowd *crowd = ctx;
    for (unsigned i = index; i < 100; i += 4)
        leave_scope(crowd->executor, i % 2 ? crowd->registry : NULL, &crowd->work[i]);
}

TEST(v1_100_guards_dropped_at_once_are_all_cleaned_up_once) {
    static struct crowd crowd;
    crowd.registry = fresh();
    crowd.executor = create(PNX_EXECUTOR_OPTS(.workers = 2, .queue_max = 8));
    for (int i = 0; i < 100; i++)
        work_init(&crowd.work[i]);
    test_threads(4, drop_some, &crowd);
    CHECK_EQ(pnx_executor_drain(crowd.executor, SOON), 0);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(calls(&crowd.work[i]), 1);
    finish(&crowd.executor);
    release(&crowd.registry);
}

TEST(a_row_whose_job_runs_inline_may_pend_all_the_same) {
    struct pnx_registry *registry = fresh();
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.queue_max = 1, .on_full = PNX_EXECUTOR_RUN_INLINE));
    struct work holder, work;
    work_init(&holder);
    work_init(&work);
    holder.gate = &gate;
    work.pends = true;
    submit(executor, WORK_JOB(&holder));
    CHECK(clean_up(executor, registry, add(registry, &work), TELL(&work)) == 0);
    CHECK_EQ(work.code, -EINPROGRESS);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_completion_done(&work.completion, 0), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(stats_of(executor).failed, 0);
    sem_post(&gate);
    finish(&executor);
    release(&registry);
}
