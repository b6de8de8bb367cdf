/* SPDX-License-Identifier: Apache-2.0 */
/* What submit does when the queue is full, and bad input of all kinds. */
#include "resource/executor_case.h"

static sem_t begun, gate;

__attribute__((constructor)) static void init(void) {
    sem_init(&begun, 0, 0);
    sem_init(&gate, 0, 0);
}

/* An executor whose one place is taken by a job that waits for the gate. */
struct full {
    struct pnx_executor *executor;
    struct work holder;
};

static void fill(struct full *full, uint32_t on_full, pnx_ns block) {
    full->executor =
            create(PNX_EXECUTOR_OPTS(.queue_max = 1, .on_full = on_full, .block_ns = block));
    work_init(&full->holder);
    full->holder.begun = &begun;
    full->holder.gate = &gate;
    submit(full->executor, WORK_JOB(&full->holder));
    sem_wait(&begun);
}

static void empty(struct full *full) {
    sem_post(&gate);
    finish(&full->executor);
}

/* ---- reject ---- */

TEST(a_full_queue_rejects_all_but_critical_jobs) {
    struct full full;
    struct work work, critical;
    struct pnx_error err;
    pnx_job_id id = 77;
    work_init(&work);
    work_init(&critical);
    fill(&full, PNX_EXECUTOR_REJECT, 0);
    CHECK_EQ(pnx_executor_submit(
                     full.executor, WORK_JOB(&work, .priority = PNX_PRIORITY_HIGH), &err, &id),
            -EBUSY);
    CHECK_CONTAINS(err.message, "full, with 1 jobs");
    CHECK(id == 77); /* untouched */
    CHECK_EQ(pnx_executor_submit(full.executor,
                     WORK_JOB(&critical, .priority = PNX_PRIORITY_CRITICAL), &err, &id),
            0);
    CHECK(id == 0); /* it has run here */
    CHECK_EQ(told(&critical), 1);
    CHECK(pthread_equal(critical.thread, pthread_self()));
    struct pnx_executor_stats stats = stats_of(full.executor);
    CHECK_EQ(stats.refused, 1);
    CHECK_EQ(stats.inlined, 1);
    CHECK_EQ(stats.submitted, 2);
    CHECK_EQ(stats.done, 1);
    empty(&full);
    CHECK_EQ(calls(&work), 0);
    CHECK_EQ(told(&work), 0); /* nothing has happened */
}

/* ---- run inline ---- */

static int try_to_pend(void *arg, const struct pnx_cancel *cancel) {
    struct work *work = arg;
    work->calls++;
    CHECK(cancel);
    CHECK(!pnx_cancel_requested(cancel));
    CHECK(pnx_cancel_deadline(cancel) > pnx_now());
    work->code = pnx_cancel_pend(cancel, &work->completion);
    return -EINPROGRESS;
}

TEST(a_full_queue_runs_jobs_inline_and_they_end_with_their_outcome) {
    static const int fails[] = {-EIO}, positive[] = {5};
    struct full full;
    struct work work[3], pending;
    fill(&full, PNX_EXECUTOR_RUN_INLINE, 0);
    for (int i = 0; i < 3; i++)
        work_init(&work[i]);
    work[1].codes = fails;
    work[2].codes = positive;
    work[1].n_codes = work[2].n_codes = 1;
    for (int i = 0; i < 3; i++)
        CHECK(submit(full.executor, WORK_JOB(&work[i])) == 0);
    CHECK_EQ(work[0].code, 0);
    CHECK_EQ(work[1].code, -EIO);
    CHECK_EQ(work[2].code, -EINVAL);
    CHECK_EQ(told(&work[0]) + told(&work[1]) + told(&work[2]), 3);
    work_init(&pending);
    CHECK(submit(full.executor, PNX_JOB(.run = try_to_pend, .arg = &pending)) == 0);
    CHECK_EQ(pending.code, -ENOTSUP);
    CHECK_EQ(stats_of(full.executor).failed, 3);
    CHECK_EQ(stats_of(full.executor).done, 1);
    empty(&full);
}

static int make_room_and_fail(void *arg, const struct pnx_cancel *cancel) {
    struct full *full = arg;
    (void)cancel;
    if (calls(&full->holder) == 1 && told(&full->holder) == 0) {
        sem_post(&gate); /* the holder ends, and leaves its place */
        WAIT_UNTIL(stats_of(full->executor).done == 1);
        return -EAGAIN;
    }
    return 0;
}

TEST(an_inline_job_that_could_not_is_tried_again_in_the_background_if_there_is_room_by_then) {
    static const int again[] = {-EAGAIN};
    struct full full;
    struct work hopeless;
    work_init(&hopeless);
    hopeless.codes = again;
    hopeless.n_codes = 1;
    fill(&full, PNX_EXECUTOR_RUN_INLINE, 0);
    CHECK(submit(full.executor, WORK_JOB(&hopeless)) == 0); /* no room: it ends so */
    CHECK_EQ(hopeless.code, -EAGAIN);
    CHECK_EQ(calls(&hopeless), 1);
    pnx_job_id id = submit(full.executor, PNX_JOB(.run = make_room_and_fail, .arg = &full));
    CHECK(id != 0);
    int code;
    CHECK_EQ(pnx_executor_wait(full.executor, id, SOON, &code), 0);
    CHECK_EQ(code, 0);
    CHECK_EQ(info_of(full.executor, id).attempt, 2);
    struct pnx_executor_stats stats = stats_of(full.executor);
    CHECK_EQ(stats.submitted, 3);
    CHECK_EQ(stats.done, 2);
    CHECK_EQ(stats.failed, 1);
    CHECK_EQ(stats.retries, 1);
    finish(&full.executor);
}

struct nest {
    struct pnx_executor *executor;
    int depth, deepest;
    int code;
};

static int submit_deeper(void *arg, const struct pnx_cancel *cancel) {
    struct nest *nest = arg;
    (void)cancel;
    nest->depth++;
    nest->deepest = nest->depth > nest->deepest ? nest->depth : nest->deepest;
    struct pnx_job job =
            *PNX_JOB(.run = submit_deeper, .arg = nest, .priority = PNX_PRIORITY_CRITICAL);
    int rc = pnx_executor_submit(nest->executor, &job, NULL, NULL);
    if (rc)
        nest->code = rc;
    nest->depth--;
    return 0;
}

TEST(jobs_run_inline_one_inside_the_other_only_so_deep) {
    struct full full;
    fill(&full, PNX_EXECUTOR_RUN_INLINE, 0);
    struct nest nest = {.executor = full.executor};
    submit(full.executor, PNX_JOB(.run = submit_deeper, .arg = &nest));
    CHECK_EQ(nest.deepest, PNX_EXECUTOR_NESTED_MAX);
    CHECK_EQ(nest.code, -EBUSY);
    empty(&full);
}

static int release_it(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pnx_executor_release(arg);
    return 0;
}

TEST(an_inline_job_may_release_its_executor) {
    struct full full;
    struct work work;
    work_init(&work);
    fill(&full, PNX_EXECUTOR_RUN_INLINE, 0);
    pnx_job_id id;
    struct pnx_executor *executor = full.executor;
    CHECK_EQ(pnx_executor_submit(executor,
                     PNX_JOB(.run = release_it, .arg = &full.executor, .done = work_done,
                             .ctx = &work),
                     NULL, &id),
            0);
    CHECK(!full.executor);
    CHECK_EQ(told(&work), 1);
    sem_post(&gate); /* the holder's thread frees the executor */
    sem_wait(&full.holder.ended);
}

/* ---- block ---- */

TEST(a_submit_to_a_full_queue_waits_for_room_and_not_longer_than_it_is_told) {
    struct full full;
    struct work work, critical;
    struct pnx_error err;
    work_init(&work);
    work_init(&critical);
    fill(&full, PNX_EXECUTOR_BLOCK, 20 * PNX_MS);
    pnx_ns start = pnx_now();
    CHECK_EQ(pnx_executor_submit(full.executor, WORK_JOB(&work), &err, NULL), -ETIMEDOUT);
    CHECK(pnx_now() - start >= 20 * PNX_MS);
    CHECK_CONTAINS(err.message, "none ended in time");
    CHECK_EQ(told(&work), 0);
    /* A critical one runs inline in the end. */
    CHECK(submit(full.executor, WORK_JOB(&critical, .priority = PNX_PRIORITY_CRITICAL)) == 0);
    CHECK_EQ(told(&critical), 1);
    CHECK_EQ(stats_of(full.executor).blocked, 2);
    CHECK_EQ(stats_of(full.executor).refused, 1);
    empty(&full);
}

struct queue {
    struct pnx_executor *executor;
    struct work work[4];
    pnx_job_id ids[4];
    int rc[4];
    pthread_t thread[4];
};

struct submitter {
    struct queue *queue;
    int number;
};

static int order[8], n_order;
static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;

static int note_order(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    pthread_mutex_lock(&order_lock);
    order[n_order++] = (int)(intptr_t)arg;
    pthread_mutex_unlock(&order_lock);
    return 0;
}

static void *submit_one(void *arg) {
    struct submitter *self = arg;
    struct queue *queue = self->queue;
    queue->rc[self->number] = pnx_executor_submit(queue->executor,
            PNX_JOB(.run = note_order, .arg = (void *)(intptr_t)self->number, .done = work_done,
                    .ctx = &queue->work[self->number]),
            NULL, &queue->ids[self->number]);
    return NULL;
}

/* Four threads that wait for room, one after the other. */
static void line_up(struct queue *queue, struct submitter *submitters) {
    for (int i = 0; i < 4; i++) {
        work_init(&queue->work[i]);
        submitters[i] = (struct submitter){queue, i};
        CHECK(pthread_create(&queue->thread[i], NULL, submit_one, &submitters[i]) == 0);
        WAIT_UNTIL(stats_of(queue->executor).blocked == (uint64_t)i + 1);
    }
}

TEST(submitters_are_served_in_the_order_in_which_they_came) {
    struct full full;
    struct queue queue = {0};
    struct submitter submitters[4];
    fill(&full, PNX_EXECUTOR_BLOCK, PNX_NEVER);
    queue.executor = full.executor;
    line_up(&queue, submitters);
    sem_post(&gate);
    for (int i = 0; i < 4; i++) {
        pthread_join(queue.thread[i], NULL);
        CHECK_EQ(queue.rc[i], 0);
        CHECK(queue.ids[i] != 0);
    }
    CHECK_EQ(pnx_executor_drain(full.executor, SOON), 0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(order[i], i);
    finish(&full.executor);
}

TEST(a_close_refuses_those_who_wait_for_room) {
    struct full full;
    struct queue queue = {0};
    struct submitter submitters[4];
    fill(&full, PNX_EXECUTOR_BLOCK, PNX_NEVER);
    queue.executor = full.executor;
    line_up(&queue, submitters);
    CHECK_EQ(pnx_executor_close(full.executor, 0, NULL), -ETIMEDOUT); /* the holder still runs */
    for (int i = 0; i < 4; i++) {
        pthread_join(queue.thread[i], NULL);
        CHECK_EQ(queue.rc[i], -ESHUTDOWN);
        CHECK_EQ(told(&queue.work[i]), 0);
    }
    sem_post(&gate);
    pnx_executor_release(&full.executor);
    sem_wait(&full.holder.ended); /* it is on this stack */
}

struct inside {
    struct pnx_executor *executor;
    struct work work;
    int rc, critical;
};

static int submit_to_full(void *arg, const struct pnx_cancel *cancel) {
    struct inside *inside = arg;
    struct pnx_error err;
    (void)cancel;
    inside->rc = pnx_executor_submit(inside->executor, WORK_JOB(&inside->work), &err, NULL);
    CHECK_CONTAINS(err.message, "could wait for itself");
    inside->critical = pnx_executor_submit(inside->executor,
            WORK_JOB(&inside->work, .priority = PNX_PRIORITY_CRITICAL), NULL, NULL);
    return 0;
}

TEST(p8_a_job_does_not_wait_for_room_in_the_queue_that_it_fills) {
    struct inside inside = {0};
    work_init(&inside.work);
    inside.executor = create(PNX_EXECUTOR_OPTS(.queue_max = 1, .block_ns = PNX_NEVER));
    pnx_job_id id = submit(inside.executor, PNX_JOB(.run = submit_to_full, .arg = &inside));
    CHECK_EQ(pnx_executor_wait(inside.executor, id, SOON, NULL), 0);
    CHECK_EQ(inside.rc, -EDEADLK);
    CHECK_EQ(inside.critical, 0);
    CHECK_EQ(told(&inside.work), 1);
    finish(&inside.executor);
}

static void submit_many(unsigned index, void *ctx) {
    struct queue *queue = ctx;
    for (int i = 0; i < 1000; i++)
        submit(queue->executor, WORK_JOB(&queue->work[index]));
}

TEST(many_threads_wait_for_room_again_and_again_and_nothing_is_lost) {
    struct queue queue = {0};
    queue.executor = create(PNX_EXECUTOR_OPTS(.queue_max = 2, .workers = 2, .block_ns = PNX_NEVER));
    for (int i = 0; i < 4; i++)
        work_init(&queue.work[i]);
    test_threads(4, submit_many, &queue);
    CHECK_EQ(pnx_executor_drain(queue.executor, SOON), 0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(told(&queue.work[i]), 1000);
    CHECK_EQ(stats_of(queue.executor).submitted, 4000);
    finish(&queue.executor);
}

/* ---- bad input ---- */

TEST(bad_jobs_are_refused_by_name) {
    struct pnx_executor *executor = create(NULL);
    struct work work;
    struct pnx_error err;
    work_init(&work);
    static const struct {
        const char *field;
        struct pnx_job job;
    } cases[] = {
            {"run", {.size = sizeof(struct pnx_job)}},
            {"priority", {.size = sizeof(struct pnx_job), .run = work_run, .priority = 5}},
            {"priority", {.size = sizeof(struct pnx_job), .run = work_run, .priority = -1}},
            {"delay_ns", {.size = sizeof(struct pnx_job), .run = work_run, .delay_ns = -1}},
            {"timeout_ns", {.size = sizeof(struct pnx_job), .run = work_run, .timeout_ns = -1}},
            {"size", {.size = 0, .run = work_run}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_EQ(pnx_executor_submit(executor, &cases[i].job, &err, NULL), -EINVAL);
        CHECK_STR(err.field, cases[i].field);
    }
    CHECK_EQ(pnx_executor_submit(executor, NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "job");
    CHECK_EQ(pnx_executor_submit(NULL, PNX_JOB(.run = work_run), &err, NULL), -EINVAL);
    CHECK_STR(err.field, "executor");
    struct {
        struct pnx_job job;
        uint64_t newer;
    } larger = {.job = *WORK_JOB(&work)};
    larger.job.size = sizeof(larger);
    submit(executor, &larger.job); /* what this library does not know is zero */
    larger.newer = 1;
    CHECK_EQ(pnx_executor_submit(executor, &larger.job, &err, NULL), -E2BIG);
    struct pnx_job older = *WORK_JOB(&work, .timeout_ns = -1);
    older.size = offsetof(struct pnx_job, timeout_ns); /* from before there was that field */
    submit(executor, &older);
    CHECK_EQ(pnx_executor_drain(executor, SOON), 0);
    CHECK_EQ(told(&work), 2);
    finish(&executor);
}

TEST(bad_options_are_refused_by_name) {
    struct pnx_error err;
    struct pnx_executor *executor = NULL;
    static const struct {
        const char *field;
        struct pnx_executor_opts opts;
    } cases[] = {
            {"workers", {.size = sizeof(struct pnx_executor_opts), .workers = 2000}},
            {"workers", {.size = sizeof(struct pnx_executor_opts), .workers = 5, .max_workers = 4}},
            {"queue_max", {.size = sizeof(struct pnx_executor_opts), .queue_max = UINT32_MAX}},
            {"on_full", {.size = sizeof(struct pnx_executor_opts), .on_full = 4}},
            {"flags", {.size = sizeof(struct pnx_executor_opts), .flags = 2}},
            {"idle_ns", {.size = sizeof(struct pnx_executor_opts), .idle_ns = -1}},
            {"backoff_ns", {.size = sizeof(struct pnx_executor_opts),
                                   .backoff_ns = 2,
                                   .backoff_max_ns = 1}},
            {"size", {.size = 1}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_EQ(pnx_executor_create(&cases[i].opts, &err, &executor), -EINVAL);
        CHECK_STR(err.field, cases[i].field);
    }
    CHECK(!executor);
    CHECK_EQ(pnx_executor_create(NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_executor");
    /* A default gives way to what was said. */
    executor = create(PNX_EXECUTOR_OPTS(.workers = 20, .backoff_ns = 20 * PNX_SEC));
    finish(&executor);
}

TEST(options_are_set_from_text) {
    struct pnx_executor_opts opts = *PNX_EXECUTOR_OPTS(.name = "closer");
    struct pnx_error err;
    CHECK_EQ(pnx_executor_opts_set(&opts, "ageing_ns", "250ms", &err), 0);
    CHECK_EQ(opts.ageing_ns, 250 * PNX_MS);
    CHECK_EQ(pnx_executor_opts_set(&opts, "workers", "3", &err), 0);
    CHECK_EQ(opts.workers, 3);
    CHECK_EQ(pnx_executor_opts_set(&opts, "workers", "many", &err), -EINVAL);
    CHECK_EQ(pnx_executor_opts_set(&opts, "workers", "100000", &err), -ERANGE);
    CHECK_EQ(pnx_executor_opts_set(&opts, "name", "x", &err), -ENOTSUP);
    CHECK_EQ(pnx_executor_opts_set(&opts, "nothing", "1", &err), -ENOENT);
    CHECK_EQ(pnx_executor_opts_set(NULL, "workers", "3", &err), -EINVAL);
    struct pnx_executor *executor = create(&opts);
    finish(&executor);
}

TEST(a_larger_or_smaller_stats_struct_is_filled_up_to_its_size) {
    struct pnx_executor *executor = create(NULL);
    struct {
        size_t size;
        uint64_t submitted, canary;
    } small = {.size = 2 * sizeof(uint64_t), .canary = 42};
    CHECK_EQ(pnx_executor_read_stats(executor, (struct pnx_executor_stats *)(void *)&small), 0);
    CHECK_EQ(small.canary, 42);
    struct pnx_executor_stats stats = {.size = 0};
    CHECK_EQ(pnx_executor_read_stats(executor, &stats), -EINVAL);
    CHECK_EQ(pnx_executor_read_stats(executor, NULL), -EINVAL);
    CHECK_EQ(pnx_executor_read_stats(NULL, &stats), -EINVAL);
    finish(&executor);
}
