/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs on threads: P1..P6, P8 and P9 of patinox/executor.h. */
#include "resource/executor_case.h"

#include <patinox/registry.h>

static sem_t begun, gate;

__attribute__((constructor)) static void init(void) {
    sem_init(&begun, 0, 0);
    sem_init(&gate, 0, 0);
}

/* Holds the one worker up until gate is posted. */
static void hold_up(struct pnx_executor *executor, struct work *holder) {
    work_init(holder);
    holder->begun = &begun;
    holder->gate = &gate;
    submit(executor, WORK_JOB(holder, .priority = PNX_PRIORITY_CRITICAL));
    sem_wait(&begun);
}

/* ---- P1 ---- */

TEST(a_job_runs_on_another_thread_and_its_done_function_hears_how_it_ended) {
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    int code = -1;
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, &code), 0);
    CHECK_EQ(code, 0);
    CHECK_EQ(calls(&work), 1);
    CHECK_EQ(told(&work), 1);
    CHECK_EQ(work.code, 0);
    CHECK(work.id == id);
    CHECK(!pthread_equal(work.thread, pthread_self()));
    finish(&executor);
}

TEST(p1_each_job_is_told_once_whatever_becomes_of_it) {
    static const int fails[] = {-EIO}, retries[] = {-EAGAIN, -EAGAIN, 0}, never[] = {-EAGAIN};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.backoff_ns = 1, .attempts = 3));
    struct work work[5], holder;
    for (int i = 0; i < 5; i++)
        work_init(&work[i]);
    work[1].codes = fails;
    work[1].n_codes = 1;
    work[2].codes = retries;
    work[2].n_codes = 3;
    work[3].codes = never;
    work[3].n_codes = 1;
    hold_up(executor, &holder);
    pnx_job_id last = 0;
    for (int i = 0; i < 5; i++)
        last = submit(executor, WORK_JOB(&work[i]));
    CHECK_EQ(pnx_executor_cancel(executor, last), 0);
    sem_post(&gate);
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    static const int codes[] = {0, -EIO, 0, -EAGAIN, -ECANCELED}, attempts[] = {1, 1, 3, 3, 0};
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(told(&work[i]), 1);
        CHECK_EQ(work[i].code, codes[i]);
        CHECK_EQ(calls(&work[i]), attempts[i]);
    }
    struct pnx_executor_stats stats = stats_of(executor);
    CHECK_EQ(stats.submitted, 6);
    CHECK_EQ(stats.done, 3);
    CHECK_EQ(stats.failed, 2);
    CHECK_EQ(stats.canceled, 1);
    CHECK_EQ(stats.retries, 4);
    CHECK_EQ(stats.success_ppm, 600000);
    finish(&executor);
}

/* 41 of 80 is 0.5125, which no binary fraction is. */
TEST(the_success_ratio_is_exact) {
    static const int failing[] = {-EIO};
    struct pnx_executor *executor = create(NULL);
    struct work work[2];
    for (int i = 0; i < 2; i++)
        work_init(&work[i]);
    work[1].codes = failing;
    work[1].n_codes = 1;
    for (int i = 0; i < 80; i++)
        submit(executor, WORK_JOB(&work[i >= 41]));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(stats_of(executor).success_ppm, 512500);
    finish(&executor);
}

TEST(a_job_without_a_done_function_runs_as_well) {
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    pnx_job_id id = submit(executor, PNX_JOB(.run = work_run, .arg = &work));
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, NULL), 0);
    CHECK_EQ(calls(&work), 1);
    CHECK_EQ(pnx_executor_submit(executor, PNX_JOB(.run = work_run, .arg = &work), NULL, NULL), 0);
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(calls(&work), 2);
    finish(&executor);
}

/* ---- P2 ---- */

TEST(p2_attempts_of_one_job_never_overlap_even_when_it_runs_out_of_time) {
    static const int codes[] = {-ETIMEDOUT, -EAGAIN, 0};
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.workers = 3, .backoff_ns = 1, .timeout_ns = PNX_MS));
    struct work work;
    work_init(&work);
    work.codes = codes;
    work.n_codes = 3;
    work.until_asked = true; /* each attempt ends late */
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    int code;
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, &code), 0);
    CHECK_EQ(code, 0);
    CHECK_EQ(calls(&work), 3);
    CHECK(!work.overlap);
    struct pnx_executor_stats stats = stats_of(executor);
    CHECK_EQ(stats.overdue, 3);
    CHECK_EQ(stats.late, 3);
    CHECK_EQ(stats.retries, 2);
    finish(&executor);
}

/* ---- P3 ---- */

static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;
static int order[16], n_order;

static int note_order(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pthread_mutex_lock(&order_lock);
    order[n_order++] = (int)(intptr_t)arg;
    pthread_mutex_unlock(&order_lock);
    return 0;
}

/* The original framework's queue never held more than one request, and it would have run the lowest first. */
TEST(v1_bug_priorities_have_an_effect) {
    static const enum pnx_priority priorities[] = {PNX_PRIORITY_LOW, PNX_PRIORITY_NORMAL,
            PNX_PRIORITY_HIGH, PNX_PRIORITY_CRITICAL, PNX_PRIORITY_DEFAULT};
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.ageing_ns = PNX_NEVER));
    struct work holder;
    hold_up(executor, &holder);
    for (int i = 0; i < 5; i++)
        submit(executor, PNX_JOB(.run = note_order, .arg = (void *)(intptr_t)i,
                                 .priority = (int32_t)priorities[i]));
    struct pnx_executor_stats stats = stats_of(executor);
    CHECK_EQ(stats.queued_low, 1);
    CHECK_EQ(stats.queued_normal, 2);
    CHECK_EQ(stats.queued_high, 1);
    CHECK_EQ(stats.queued_critical, 1);
    sem_post(&gate);
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    static const int expected[] = {3, 2, 1, 4, 0};
    for (int i = 0; i < 5; i++)
        CHECK_EQ(order[i], expected[i]);
    finish(&executor);
}

/* ---- P4 ---- */

struct crowd {
    int now, most;
};

static int join_crowd(void *arg, const struct pnx_cancel *cancel) {
    struct crowd *crowd = arg;
    (void)cancel;
    int now = __atomic_add_fetch(&crowd->now, 1, __ATOMIC_ACQ_REL);
    int most = __atomic_load_n(&crowd->most, __ATOMIC_ACQUIRE);
    while (now > most && !__atomic_compare_exchange_n(&crowd->most, &most, now, false,
                                 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
    }
    usleep(100);
    __atomic_sub_fetch(&crowd->now, 1, __ATOMIC_ACQ_REL);
    return 0;
}

TEST(p4_no_more_jobs_run_at_once_than_workers) {
    for (uint32_t workers = 1; workers <= 3; workers++) {
        struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.workers = workers));
        struct crowd crowd = {0, 0};
        for (int i = 0; i < 300; i++)
            submit(executor, PNX_JOB(.run = join_crowd, .arg = &crowd));
        CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
        CHECK(crowd.most <= (int)workers);
        finish(&executor);
    }
}

TEST(p4_all_workers_run_jobs_at_once_when_there_are_enough) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.workers = 4));
    struct work work[4];
    for (int i = 0; i < 4; i++) {
        work_init(&work[i]);
        work[i].begun = &begun;
        work[i].gate = &gate;
        submit(executor, WORK_JOB(&work[i]));
    }
    for (int i = 0; i < 4; i++)
        sem_wait(&begun); /* all four are in their functions now */
    CHECK_EQ(stats_of(executor).running, 4);
    for (int i = 0; i < 4; i++)
        sem_post(&gate);
    finish(&executor);
}

/* ---- P5 ---- */

TEST(p5_a_job_that_hangs_is_asked_told_of_and_routed_around) {
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.timeout_ns = 10 * PNX_MS, .max_workers = 3));
    struct work hangs[2], work;
    work_init(&work);
    for (int i = 0; i < 2; i++) {
        work_init(&hangs[i]);
        hangs[i].until_asked = true;
        hangs[i].begun = &begun;
        hangs[i].gate = &gate; /* and longer than that */
        submit(executor, WORK_JOB(&hangs[i]));
    }
    pnx_job_id id = submit(executor, WORK_JOB(&work, .timeout_ns = PNX_NEVER));
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, NULL),
            0); /* though two are stuck, and one may run */
    struct pnx_executor_stats stats = stats_of(executor);
    CHECK_EQ(stats.overdue, 2);
    CHECK_EQ(stats.late, 0);
    CHECK_EQ(stats.running, 2);
    struct pnx_health_entry health[8];
    CHECK_EQ(pnx_health(NULL, health, 8, NULL), PNX_HEALTH_DEGRADED);
    for (int i = 0; i < 2; i++)
        sem_post(&gate);
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(hangs[0].code, 0); /* late, and well all the same */
    CHECK_EQ(stats_of(executor).late, 2);
    CHECK_EQ(pnx_health(NULL, health, 8, NULL), PNX_HEALTH_OK);
    finish(&executor);
}

TEST(p5_when_all_that_may_run_are_stuck_the_rest_waits_and_health_says_so) {
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.timeout_ns = PNX_MS, .max_workers = 2));
    struct work hangs[2], work;
    work_init(&work);
    for (int i = 0; i < 2; i++) {
        work_init(&hangs[i]);
        hangs[i].gate = &gate;
        submit(executor, WORK_JOB(&hangs[i]));
    }
    WAIT_UNTIL(stats_of(executor).overdue == 2);
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    struct pnx_health_entry health[8];
    CHECK_EQ(pnx_health(NULL, health, 8, NULL), PNX_HEALTH_DOWN);
    CHECK_EQ(pnx_executor_wait(executor, id, 5 * PNX_MS, NULL), -ETIMEDOUT);
    CHECK_EQ(calls(&work), 0);
    sem_post(&gate); /* one comes back, and goes on */
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, NULL), 0);
    sem_post(&gate);
    finish(&executor);
}

static void slow_done(void *ctx, pnx_job_id id, int code) {
    work_done(ctx, id, code);
    sem_post(&begun);
    sem_wait(&gate);
}

TEST(p5_a_done_function_that_hangs_is_routed_around_too) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.timeout_ns = 10 * PNX_MS));
    struct work hangs, work;
    work_init(&hangs);
    work_init(&work);
    submit(executor, PNX_JOB(.run = work_run, .arg = &hangs, .done = slow_done, .ctx = &hangs));
    sem_wait(&begun);
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, NULL), 0);
    sem_post(&gate);
    finish(&executor);
    CHECK_EQ(told(&hangs), 1);
}

struct heard {
    enum pnx_event_type type;
    int code;
    int64_t value;
    char object[32], cause[64];
};
static struct heard heard[16];
static int n_heard;

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    pthread_mutex_lock(&order_lock);
    struct heard *h = &heard[n_heard++];
    h->type = event->type;
    h->code = event->code;
    h->value = event->value;
    snprintf(h->object, sizeof(h->object), "%s", event->object);
    snprintf(h->cause, sizeof(h->cause), "%s", event->cause ? event->cause : "");
    pthread_mutex_unlock(&order_lock);
}

TEST(events_tell_of_failures_of_jobs_out_of_time_and_of_the_end) {
    static const int fails[] = {-EIO};
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear};
    uint32_t monitor_id;
    CHECK_EQ(pnx_monitor_add(NULL, &monitor, &monitor_id), 0);
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.name = "closer", .timeout_ns = PNX_MS));
    struct work work[2];
    for (int i = 0; i < 2; i++)
        work_init(&work[i]);
    work[0].codes = fails;
    work[0].n_codes = 1;
    work[1].until_asked = true;
    pnx_job_id failed = submit(
            executor, WORK_JOB_AT(&work[0], "here:1", .name = "socket", .timeout_ns = PNX_NEVER));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    pnx_job_id late = submit(executor, WORK_JOB(&work[1]));
    finish(&executor);
    CHECK_EQ(n_heard, 5);
    CHECK_EQ(heard[0].type, PNX_EVENT_RESOURCE_OPENED);
    CHECK_STR(heard[0].object, "closer");
    CHECK_STR(heard[0].cause, "executor");
    CHECK_EQ(heard[1].type, PNX_EVENT_JOB_FAILED);
    CHECK_EQ(heard[1].code, -EIO);
    CHECK_EQ(heard[1].value, (int64_t)failed);
    CHECK_STR(heard[1].object, "socket");
    CHECK_STR(heard[1].cause, "here:1");
    CHECK_EQ(heard[2].type, PNX_EVENT_JOB_OVERDUE);
    CHECK_EQ(heard[2].value, (int64_t)late);
    CHECK_STR(heard[2].object, "closer");
    CHECK_CONTAINS(heard[2].cause, "test_executor.c:");
    CHECK_EQ(heard[3].type, PNX_EVENT_EXECUTOR_CLOSED);
    CHECK_EQ(heard[3].code, 0);
    CHECK_EQ(heard[3].value, 0);
    CHECK_EQ(heard[4].type, PNX_EVENT_RESOURCE_CLOSED);
    CHECK_EQ(heard[4].value, heard[0].value);
}

/* ---- P6 ---- */

TEST(p6_a_queued_or_delayed_job_can_be_taken_back_and_a_running_one_be_asked) {
    struct pnx_executor *executor = create(NULL);
    struct work running, queued, delayed;
    work_init(&running);
    work_init(&queued);
    work_init(&delayed);
    running.begun = &begun;
    running.until_asked = true;
    pnx_job_id id = submit(executor, WORK_JOB(&running));
    sem_wait(&begun);
    pnx_job_id queued_id = submit(executor, WORK_JOB(&queued));
    pnx_job_id delayed_id = submit(executor, WORK_JOB(&delayed, .delay_ns = PNX_NEVER));
    CHECK_EQ(pnx_executor_cancel(executor, queued_id), 0);
    CHECK_EQ(pnx_executor_cancel(executor, delayed_id), 0);
    CHECK_EQ(told(&queued), 1); /* before cancel returned */
    CHECK_EQ(queued.code, -ECANCELED);
    CHECK_EQ(delayed.code, -ECANCELED);
    CHECK_EQ(pnx_executor_cancel(executor, queued_id), -EALREADY);
    CHECK_EQ(pnx_executor_cancel(executor, id), -EINPROGRESS);
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, NULL), 0);
    CHECK_EQ(running.code, 0);
    CHECK_EQ(pnx_executor_cancel(executor, id), -EALREADY);
    CHECK_EQ(pnx_executor_cancel(executor, id + 12345), -ESTALE);
    CHECK_EQ(pnx_executor_cancel(executor, 0), -ESTALE);
    CHECK_EQ(pnx_executor_cancel(NULL, id), -EINVAL);
    finish(&executor);
    CHECK_EQ(calls(&queued) + calls(&delayed), 0);
}

struct race {
    struct pnx_executor *executor;
    struct work *work;
    pnx_job_id *ids;
    int n, taken_back, asked;
};

static void cancel_all(unsigned index, void *ctx) {
    struct race *race = ctx;
    for (int i = 0; i < race->n; i++) {
        /* one from the front, one from the back: against the workers, and against each other */
        int at = index ? race->n - 1 - i : i;
        int rc = pnx_executor_cancel(race->executor, race->ids[at]);
        CHECK(rc == 0 || rc == -EINPROGRESS || rc == -EALREADY);
        if (rc == 0)
            __atomic_add_fetch(&race->taken_back, 1, __ATOMIC_RELAXED);
    }
}

TEST(p6_cancels_race_with_workers_and_each_job_either_runs_or_is_taken_back) {
    enum { N = 500 };
    static struct work work[N];
    static pnx_job_id ids[N];
    struct race race = {.work = work, .ids = ids, .n = N};
    race.executor = create(PNX_EXECUTOR_OPTS(.workers = 2));
    for (int i = 0; i < N; i++) {
        work_init(&work[i]);
        ids[i] = submit(race.executor, WORK_JOB(&work[i]));
    }
    test_threads(2, cancel_all, &race);
    CHECK_EQ(pnx_executor_drain(race.executor, SOON), 0);
    int ran = 0;
    for (int i = 0; i < N; i++) {
        CHECK_EQ(told(&work[i]), 1);
        CHECK_EQ(calls(&work[i]), work[i].code == -ECANCELED ? 0 : 1);
        ran += calls(&work[i]);
    }
    CHECK_EQ(ran + race.taken_back, N);
    CHECK_EQ(stats_of(race.executor).canceled, race.taken_back);
    finish(&race.executor);
}

/* ---- pending ---- */

TEST(a_cleanup_that_pends_ends_when_it_is_completed_and_takes_no_worker) {
    struct pnx_executor *executor = create(NULL);
    struct work pending, work;
    work_init(&pending);
    work_init(&work);
    pending.pends = true;
    pnx_job_id id = submit(executor, WORK_JOB(&pending));
    WAIT_UNTIL(stats_of(executor).pending == 1);
    CHECK_EQ(info_of(executor, id).state, PNX_JOB_PENDING);
    pnx_job_id other = submit(executor, WORK_JOB(&work));
    CHECK_EQ(pnx_executor_wait(executor, other, SOON, NULL), 0);
    CHECK_EQ(told(&pending), 0);
    struct pnx_completion copy = pending.completion;
    CHECK_EQ(pnx_completion_done(&pending.completion, -EIO), 0);
    CHECK_EQ(told(&pending), 1); /* on this thread */
    CHECK_EQ(pending.code, -EIO);
    CHECK_EQ(pnx_completion_done(&pending.completion, 0), -EINVAL); /* it was cleared */
    CHECK_EQ(pnx_completion_done(&copy, 0), -ESTALE);
    CHECK_EQ(calls(&pending), 1);
    finish(&executor);
    CHECK_EQ(told(&pending), 1);
}

static int complete_early(void *arg, const struct pnx_cancel *cancel) {
    struct work *work = arg;
    struct pnx_completion completion, second;
    work->calls++;
    CHECK_EQ(pnx_cancel_pend(cancel, &completion), 0);
    CHECK_EQ(pnx_cancel_pend(cancel, &second), -EALREADY);
    struct pnx_completion copy = completion;
    CHECK_EQ(pnx_completion_done(&completion, work->calls < 3 ? -EAGAIN : -EIO), 0);
    CHECK_EQ(pnx_completion_done(&copy, 0), -ESTALE);
    CHECK_EQ(pnx_cancel_pend(cancel, &second), -EALREADY);
    return -EINPROGRESS;
}

TEST(a_completion_may_come_before_the_function_has_returned) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.backoff_ns = 1));
    struct work work;
    work_init(&work);
    pnx_job_id id = submit(executor, PNX_JOB(.run = complete_early, .arg = &work));
    int code;
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, &code), 0);
    CHECK_EQ(code, -EIO);
    CHECK_EQ(work.calls, 3); /* -EAGAIN from a completion is tried again, too */
    finish(&executor);
}

static int pend_and_return(void *arg, const struct pnx_cancel *cancel) {
    struct work *work = arg;
    CHECK_EQ(pnx_cancel_pend(cancel, &work->completion), 0);
    return -EIO;
}

static int return_in_progress(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    (void)cancel;
    return -EINPROGRESS;
}

TEST(who_pends_and_returns_an_outcome_has_ended_and_who_does_not_pend_cannot_go_on) {
    struct pnx_executor *executor = create(NULL);
    struct work work;
    work_init(&work);
    int code;
    pnx_job_id id = submit(executor, PNX_JOB(.run = pend_and_return, .arg = &work));
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, &code), 0);
    CHECK_EQ(code, -EIO);
    CHECK_EQ(pnx_completion_done(&work.completion, 0), -ESTALE);
    id = submit(executor, PNX_JOB(.run = return_in_progress));
    CHECK_EQ(pnx_executor_wait(executor, id, SOON, &code), 0);
    CHECK_EQ(code, -EINVAL);
    finish(&executor);
}

TEST(a_pending_job_that_is_cancelled_or_out_of_time_is_asked_to_end) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.timeout_ns = 5 * PNX_MS));
    struct work work;
    work_init(&work);
    work.pends = true;
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    WAIT_UNTIL(stats_of(executor).overdue == 1 && stats_of(executor).pending == 1);
    CHECK_EQ(info_of(executor, id).overdue, 1);
    CHECK_EQ(pnx_executor_cancel(executor, id), -EINPROGRESS);
    CHECK_EQ(pnx_completion_done(&work.completion, -EAGAIN), 0);
    CHECK_EQ(work.code, -ECANCELED); /* not tried again: somebody has asked */
    CHECK_EQ(stats_of(executor).late, 1);
    finish(&executor);
}

/* Completes on its own thread what the job hands it: like a loop that closes handles. */
struct completer {
    struct pnx_executor *executor;
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
    for (;;) {
        pthread_mutex_lock(&completer->lock);
        int n = completer->n;
        struct pnx_completion completion = {0};
        if (n > 0)
            completion = completer->todo[--completer->n];
        bool stop = completer->stop;
        pthread_mutex_unlock(&completer->lock);
        if (n > 0)
            CHECK_EQ(pnx_completion_done(&completion, 0), 0);
        else if (stop)
            return NULL;
    }
}

TEST(completions_race_with_the_return_of_their_functions) {
    struct completer completer = {.lock = PTHREAD_MUTEX_INITIALIZER};
    completer.executor = create(PNX_EXECUTOR_OPTS(.workers = 2, .queue_max = 64));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, complete_them, &completer) == 0);
    for (int i = 0; i < 5000; i++)
        submit(completer.executor, PNX_JOB(.run = pend_to_completer, .arg = &completer));
    CHECK_EQ(pnx_executor_drain(completer.executor, SOON), 0);
    pthread_mutex_lock(&completer.lock);
    completer.stop = true;
    pthread_mutex_unlock(&completer.lock);
    pthread_join(thread, NULL);
    CHECK_EQ(stats_of(completer.executor).done, 5000);
    finish(&completer.executor);
}

/* ---- waiting and asking ---- */

TEST(a_wait_has_a_deadline_and_knows_ended_jobs_until_their_place_is_used_again) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.queue_max = 2));
    struct work holder, work;
    hold_up(executor, &holder);
    static const int fails[] = {-EIO};
    work_init(&work);
    work.codes = fails;
    work.n_codes = 1;
    pnx_job_id id = submit(executor, WORK_JOB(&work));
    int code = 77;
    CHECK_EQ(pnx_executor_wait(executor, id, 0, &code), -ETIMEDOUT);
    CHECK_EQ(pnx_executor_wait(executor, id, PNX_MS, &code), -ETIMEDOUT);
    CHECK_EQ(pnx_executor_drain(executor, PNX_MS), -ETIMEDOUT);
    CHECK_EQ(code, 77); /* untouched */
    sem_post(&gate);
    CHECK_EQ(pnx_executor_wait(executor, id, PNX_NEVER, &code), 0);
    CHECK_EQ(code, -EIO);
    code = 77;
    CHECK_EQ(pnx_executor_wait(executor, id, 0, &code), 0);
    CHECK_EQ(code, -EIO);
    CHECK_EQ(info_of(executor, id).state, PNX_JOB_ENDED);
    CHECK_EQ(info_of(executor, id).code, -EIO);
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    for (int i = 0; i < 2; i++)
        submit(executor, WORK_JOB(&work));
    CHECK_EQ(pnx_executor_wait(executor, id, 0, &code), -ESTALE);
    CHECK_EQ(pnx_executor_wait(executor, 0, 0, &code), -ESTALE);
    CHECK_EQ(pnx_executor_wait(executor, id, -5, &code), -EINVAL);
    CHECK_EQ(pnx_executor_wait(executor, id, PNX_TIMEOUT_DEFAULT, &code), -EINVAL);
    CHECK_EQ(pnx_executor_wait(NULL, id, 0, &code), -EINVAL);
    CHECK_EQ(pnx_executor_drain(NULL, 0), -EINVAL);
    CHECK_EQ(pnx_executor_drain(executor, -5), -EINVAL);
    finish(&executor);
}

TEST(a_drain_waits_for_what_was_there_and_not_for_what_came_later) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.workers = 2));
    struct work first, later;
    work_init(&first);
    work_init(&later);
    later.gate = &gate;
    submit(executor, WORK_JOB(&first, .delay_ns = 20 * PNX_MS));
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0); /* a delayed one, too */
    CHECK_EQ(told(&first), 1);
    submit(executor, WORK_JOB(&later));
    CHECK_EQ(pnx_executor_drain(executor, PNX_MS), -ETIMEDOUT);
    sem_post(&gate);
    finish(&executor);
}

TEST(a_job_says_what_it_was_told) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.name = "closer"));
    struct work holder, work;
    hold_up(executor, &holder);
    work_init(&work);
    pnx_job_id id = submit(executor,
            WORK_JOB(&work, .name = "socket", .attempts = 9, .priority = PNX_PRIORITY_HIGH));
    struct pnx_job_info info = info_of(executor, id);
    CHECK(info.id == id);
    CHECK_EQ(info.state, PNX_JOB_QUEUED);
    CHECK_EQ(info.attempt, 0);
    CHECK_EQ(info.attempts, 9);
    CHECK_EQ(info.priority, PNX_PRIORITY_HIGH);
    CHECK_STR(info.name, "socket");
    CHECK_CONTAINS(info.site, "test_executor.c:");
    pnx_job_id delayed = submit(
            executor, PNX_JOB_AT(NULL, .run = work_run, .arg = &work, .delay_ns = 3600 * PNX_SEC));
    info = info_of(executor, delayed);
    CHECK_EQ(info.state, PNX_JOB_DELAYED);
    CHECK(info.due > pnx_now() && info.due <= pnx_now() + 3600 * PNX_SEC);
    CHECK_STR(info.name, "closer");
    CHECK_STR(info.site, "");
    CHECK_EQ(pnx_executor_cancel(executor, delayed), 0);
    struct {
        size_t size;
        pnx_job_id id;
        uint32_t canary;
    } small = {.size = offsetof(struct pnx_job_info, state), .canary = 42};
    CHECK_EQ(pnx_executor_job(executor, id, (struct pnx_job_info *)(void *)&small), 0);
    CHECK(small.id == id);
    CHECK_EQ(small.canary, 42);
    info.size = 0;
    CHECK_EQ(pnx_executor_job(executor, id, &info), -EINVAL);
    info.size = sizeof(info);
    CHECK_EQ(pnx_executor_job(NULL, id, &info), -EINVAL);
    CHECK_EQ(pnx_executor_job(executor, id, NULL), -EINVAL);
    CHECK_EQ(pnx_executor_job(executor, id + 77, &info), -ESTALE);
    sem_post(&gate);
    finish(&executor);
}

struct asked {
    struct pnx_executor *executor;
    pnx_job_id id; /* written before there is a worker that could run it */
    struct pnx_job_info info;
};

static int ask_of_itself(void *arg, const struct pnx_cancel *cancel) {
    struct asked *asked = arg;
    asked->info = info_of(asked->executor, asked->id);
    CHECK_EQ(asked->info.due, pnx_cancel_deadline(cancel));
    return -EIO;
}

TEST(a_job_that_runs_is_said_to_run_until_its_deadline_and_then_how_it_ended) {
    struct asked asked = {.executor = create(NULL)};
    struct work holder;
    hold_up(asked.executor, &holder);
    asked.id = submit(asked.executor, PNX_JOB(.run = ask_of_itself, .arg = &asked));
    sem_post(&gate);
    int code;
    CHECK_EQ(pnx_executor_wait(asked.executor, asked.id, SOON, &code), 0);
    CHECK_EQ(asked.info.state, PNX_JOB_RUNNING);
    CHECK_EQ(asked.info.attempt, 1);
    struct pnx_job_info info = info_of(asked.executor, asked.id);
    CHECK_EQ(info.state, PNX_JOB_ENDED);
    CHECK_EQ(info.code, -EIO);
    finish(&asked.executor);
}

/* ---- P8: from inside ---- */

struct inside {
    struct pnx_executor *executor;
    pnx_job_id id, other;
    struct work work;
    int rounds;
};

static void call_everything(struct inside *inside) {
    struct pnx_executor *executor = inside->executor;
    pnx_job_id id;
    struct pnx_executor_report report = {.size = sizeof(report), .done = 42};
    CHECK_EQ(pnx_executor_submit(executor, WORK_JOB(&inside->work), NULL, &id), 0);
    CHECK_EQ(pnx_executor_wait(executor, id, PNX_NEVER, NULL), -EDEADLK);
    CHECK_EQ(pnx_executor_drain(executor, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_executor_close(executor, PNX_NEVER, &report), -EDEADLK);
    CHECK_EQ(report.done, 42);
    CHECK_EQ(info_of(executor, id).state, PNX_JOB_QUEUED);
    CHECK_EQ(pnx_executor_cancel(executor, id), 0);
    CHECK_EQ(pnx_executor_tick(executor, pnx_now()), PNX_NEVER);
    CHECK(stats_of(executor).submitted >= 2);
    inside->rounds++;
}

static int call_from_job(void *arg, const struct pnx_cancel *cancel) {
    struct inside *inside = arg;
    (void)cancel;
    call_everything(inside);
    CHECK_EQ(pnx_executor_cancel(inside->executor, inside->id), -EINPROGRESS); /* itself */
    return -EAGAIN;
}

static void call_from_done(void *ctx, pnx_job_id id, int code) {
    struct inside *inside = ctx;
    CHECK_EQ(code, -ECANCELED);
    call_everything(inside);
    CHECK_EQ(pnx_executor_cancel(inside->executor, id), -EALREADY);
    CHECK_EQ(info_of(inside->executor, id).state, PNX_JOB_ENDED);
}

TEST(p8_everything_may_be_called_from_inside_a_job_and_a_done_function) {
    struct pnx_executor *executor = create(NULL);
    struct work holder;
    struct inside inside = {.executor = executor};
    work_init(&inside.work);
    hold_up(executor, &holder);
    inside.id = submit(executor,
            PNX_JOB(.run = call_from_job, .arg = &inside, .done = call_from_done, .ctx = &inside));
    sem_post(&gate);
    CHECK_EQ(pnx_executor_wait(executor, inside.id, SOON, NULL), 0);
    CHECK_EQ(inside.rounds, 2);
    CHECK_EQ(told(&inside.work), 2);
    finish(&executor);
}

static int release_inside(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    sem_wait(&gate);
    pnx_executor_release(arg);
    sem_post(&begun);
    return 0;
}

TEST(p8_a_job_may_release_its_executor) {
    struct test_env env;
    test_env_init(&env);
    struct work work;
    work_init(&work);
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.env = &env.env));
    submit(executor, PNX_JOB(.run = release_inside, .arg = &executor));
    submit(executor, WORK_JOB(&work));
    sem_post(&gate);
    sem_wait(&begun);
    CHECK_EQ(work.code, -ECANCELED); /* there was no time */
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);
}

static void release_from_done(void *ctx, pnx_job_id id, int code) {
    (void)id;
    (void)code;
    pnx_executor_release(ctx);
    sem_post(&begun);
}

TEST(p8_a_done_function_may_release_its_executor_also_when_it_runs_inside_cancel) {
    struct test_env env;
    test_env_init(&env);
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.env = &env.env));
    struct work work;
    work_init(&work);
    submit(executor,
            PNX_JOB(.run = work_run, .arg = &work, .done = release_from_done, .ctx = &executor));
    sem_wait(&begun);
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);

    executor = create(PNX_EXECUTOR_OPTS(.env = &env.env));
    pnx_job_id id = submit(executor, PNX_JOB(.run = work_run, .arg = &work, .delay_ns = PNX_NEVER,
                                             .done = release_from_done, .ctx = &executor));
    CHECK_EQ(pnx_executor_cancel(executor, id), 0);
    WAIT_UNTIL(__atomic_load_n(&env.live_blocks, __ATOMIC_ACQUIRE) == 0);
}

/* ---- P9 ---- */

TEST(p9_submitting_allocates_nothing_and_nor_does_running) {
    struct test_env env;
    test_env_init(&env);
    struct pnx_executor *executor =
            create(PNX_EXECUTOR_OPTS(.env = &env.env, .workers = 2, .backoff_ns = 1));
    int64_t before = __atomic_load_n(&env.allocations, __ATOMIC_RELAXED);
    static const int again[] = {-EAGAIN, 0};
    static struct work work[200];
    for (int i = 0; i < 200; i++) {
        work_init(&work[i]);
        if (i % 10 == 0) {
            work[i].codes = again;
            work[i].n_codes = 2;
        }
        submit(executor, WORK_JOB(&work[i], .delay_ns = i % 7 ? 0 : PNX_US));
    }
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(__atomic_load_n(&env.allocations, __ATOMIC_RELAXED), before);
    finish(&executor);
    CHECK_EQ(__atomic_load_n(&env.allocations, __ATOMIC_RELAXED), before);
    test_env_check_empty(&env);
}

static void submit_many(unsigned index, void *ctx) {
    struct race *race = ctx;
    for (int i = 0; i < 2000; i++)
        submit(race->executor,
                WORK_JOB(&race->work[index], .priority = (int32_t)(1 + (i + (int)index) % 4)));
}

TEST(many_threads_submit_to_many_workers_and_nothing_is_lost) {
    static struct work work[4];
    struct race race = {.work = work};
    race.executor = create(PNX_EXECUTOR_OPTS(.workers = 3, .queue_max = 64, .idle_ns = PNX_MS));
    for (int i = 0; i < 4; i++)
        work_init(&work[i]);
    test_threads(4, submit_many, &race);
    CHECK_EQ(pnx_executor_drain(race.executor, SOON), 0);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(told(&work[i]), 2000);
        CHECK_EQ(calls(&work[i]), 2000);
    }
    CHECK_EQ(stats_of(race.executor).done, 8000);
    finish(&race.executor);
}

TEST(threads_without_work_end_and_the_last_one_stays) {
    struct pnx_executor *executor = create(PNX_EXECUTOR_OPTS(.workers = 4, .idle_ns = 5 * PNX_MS));
    struct work work[4];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            work_init(&work[i]);
            work[i].begun = &begun;
            work[i].gate = &gate;
            submit(executor, WORK_JOB(&work[i]));
        }
        for (int i = 0; i < 4; i++)
            sem_wait(&begun);
        CHECK(stats_of(executor).threads >= 4);
        for (int i = 0; i < 4; i++)
            sem_post(&gate);
        CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
        WAIT_UNTIL(stats_of(executor).threads == 1);
    }
    finish(&executor);
}
