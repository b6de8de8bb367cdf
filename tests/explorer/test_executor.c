/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_executor.c - the shell of the executor under every interleaving: sleeping workers against submits, starts
 * against cancels, the close against submits, completions against returns.
 *
 * Nothing here has a timer unless the test is about it: a worker that was not woken sleeps for ever, and is found.
 */
#include "explorer/explorer.h"

#include <patinox/executor.h>
#include <patinox/registry.h>

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#define PREEMPTIONS (test_long() ? 2 : 1)
#define LIMIT       600
#define JOBS        3

struct job {
    struct x_cell runs, told; /* written by whoever runs and tells: a race when two do at once */
    struct x_cell code;       /* what it was told */
    struct pnx_a32 id;        /* index + 1, once it is submitted: see publish() */
    pnx_job_id job;
};

struct state {
    struct pnx_executor *executor;
    struct job job[JOBS];
    struct pnx_a32 users;  /* threads that have not left */
    struct pnx_a32 closed; /* a close has returned */
    struct pnx_a32 word;   /* what a job waits for */
    struct pnx_a32 handed; /* the completion is there */
    struct pnx_completion completion;
    struct pnx_registry *registry; /* of a row that a job ends */
    pnx_resource_id row;
    struct x_cell asked; /* its cleanup has seen the cancel */
};
static struct state *now;

static int run(void *arg, const struct pnx_cancel *cancel) {
    struct job *job = arg;
    (void)cancel;
    CHECK(!pnx_load(&now->closed, PNX_RELAXED, "executor_suite.run"));
    x_cell_write(&job->runs, x_cell_read(&job->runs) + 1);
    return 0;
}

static void tell(void *ctx, pnx_job_id id, int code) {
    struct job *job = ctx;
    (void)id;
    x_cell_write(&job->code, (uint64_t)-code);
    x_cell_write(&job->told, x_cell_read(&job->told) + 1);
}

static void create(struct state *s, uint32_t users, const struct pnx_executor_opts *more) {
    struct pnx_executor_opts opts = *more;
    now = s;
    opts.env = x_env();
    opts.registry = pnx_registry_off();
    opts.stats = pnx_stats_off();
    opts.budget = pnx_budget_off();
    CHECK_EQ(pnx_executor_create(&opts, NULL, &s->executor), 0);
    pnx_store(&s->users, users, PNX_RELAXED, "executor_suite.users");
}

/* No timers at all. */
#define UNTIMED(...) \
    PNX_EXECUTOR_OPTS(.timeout_ns = PNX_NEVER, .idle_ns = PNX_NEVER, .block_ns = PNX_NEVER, \
            .ageing_ns = PNX_NEVER, .max_workers = 1, __VA_ARGS__)

static int submit(struct state *s, int i, pnx_cleanup_fn *fn, pnx_job_id *ret_id) {
    struct job *job = &s->job[i];
    return pnx_executor_submit(
            s->executor, PNX_JOB(.run = fn, .arg = job, .done = tell, .ctx = job), NULL, ret_id);
}

static void has_ended(struct state *s, int i, uint64_t runs, int code) {
    CHECK_EQ(x_cell_read(&s->job[i].runs), runs);
    CHECK_EQ(x_cell_read(&s->job[i].told), 1);
    CHECK_EQ(x_cell_read(&s->job[i].code), (uint64_t)-code);
}

/* The last one to leave ends the executor: its threads are joined there. */
static void leave(struct state *s) {
    if (pnx_fetch_sub(&s->users, 1, PNX_ACQ_REL, "executor_suite.leave") != 1)
        return;
    CHECK_EQ(pnx_executor_close(s->executor, PNX_NEVER, NULL), 0);
    pnx_executor_release(&s->executor);
}

/* ---- waking ---- */

/* The executor's threads come to those of each test: there are three or four that race. */
static void begin_two(void *state) {
    create(state, 2, UNTIMED(.queue_max = 2));
}

static void begin_three(void *state) {
    create(state, 3, UNTIMED(.queue_max = 2));
}

static void submit_and_wait(struct state *s, int i) {
    pnx_job_id id;
    int code = 1;
    CHECK_EQ(submit(s, i, run, &id), 0);
    int rc = pnx_executor_wait(s->executor, id, PNX_NEVER, &code);
    CHECK(rc == 0 || rc == -ESTALE); /* its place may be another job's by now */
    CHECK(rc || code == 0);
    has_ended(s, i, 1, 0);
    leave(s);
}

static void wait_0(void *state) {
    submit_and_wait(state, 0);
}

static void submit_and_drain(void *state) {
    struct state *s = state;
    CHECK_EQ(submit(s, 2, run, NULL), 0);
    CHECK_EQ(pnx_executor_drain(s->executor, PNX_NEVER), 0);
    has_ended(s, 2, 1, 0);
    leave(s);
}

TEST_LIMIT(p9_no_wake_is_lost_between_a_submit_and_a_worker_that_goes_to_sleep, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-wake",
            .size = sizeof(struct state),
            .setup = begin_two,
            .thread = {wait_0, submit_and_drain},
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 1000});
}

static void begin_blocked(void *state) {
    create(state, 2, UNTIMED(.queue_max = 1));
}

TEST_LIMIT(submitters_that_wait_for_room_are_all_served, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-room",
            .size = sizeof(struct state),
            .setup = begin_blocked,
            .thread = {wait_0, submit_and_drain},
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 1000});
}

/* ---- cancelling ---- */

/* Submits, and lets the others know the id. */
static void submit_and_publish(void *state) {
    struct state *s = state;
    CHECK_EQ(submit(s, 0, run, &s->job[0].job), 0);
    pnx_store(
            &s->job[0].id, 1, PNX_RELEASE, "executor_suite.publish"); /* with executor_suite.find */
    CHECK_EQ(pnx_executor_drain(s->executor, PNX_NEVER), 0);
    uint64_t runs = x_cell_read(&s->job[0].runs);
    has_ended(s, 0, runs, runs ? 0 : -ECANCELED);
    leave(s);
}

static void cancel_it(void *state) {
    struct state *s = state;
    if (pnx_load(&s->job[0].id, PNX_ACQUIRE, "executor_suite.find")) {
        int rc = pnx_executor_cancel(s->executor, s->job[0].job);
        CHECK(rc == 0 || rc == -EINPROGRESS || rc == -EALREADY);
        if (rc == 0)
            has_ended(s, 0, 0, -ECANCELED); /* and nobody else touches it any more */
    }
    leave(s);
}

TEST_LIMIT(p6_a_job_is_started_or_taken_back_and_never_both, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-cancel",
            .size = sizeof(struct state),
            .setup = begin_three,
            .thread = {submit_and_publish, cancel_it, cancel_it},
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 1000});
}

/* ---- closing ---- */

static void begin_close(void *state) {
    create(state, 1, UNTIMED(.queue_max = 2));
}

static void submit_unless_closed(struct state *s, int i) {
    int rc = submit(s, i, run, NULL);
    CHECK(rc == 0 || rc == -ESHUTDOWN);
    pnx_store(&s->job[i].id, rc == 0 ? 1 : 2, PNX_RELAXED, "executor_suite.accepted");
}

static void unless_closed_0(void *state) {
    submit_unless_closed(state, 0);
}

static void unless_closed_1(void *state) {
    submit_unless_closed(state, 1);
}

static void close_it(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_executor_close(s->executor, PNX_NEVER, NULL), 0);
    pnx_store(&s->closed, 1, PNX_RELAXED, "executor_suite.closed");
}

/* Without time: what has not started is called off. */
static void close_now(void *state) {
    struct state *s = state;
    struct pnx_executor_report report = {.size = sizeof(report)};
    int rc = pnx_executor_close(s->executor, 0, &report);
    CHECK_EQ(rc, report.canceled + report.abandoned ? -ETIMEDOUT : 0);
    CHECK_EQ(pnx_executor_close(s->executor, PNX_NEVER, &report), report.canceled ? -ETIMEDOUT : 0);
    pnx_store(&s->closed, 1, PNX_RELAXED, "executor_suite.closed_now");
}

static void all_told(void *state) {
    struct state *s = state;
    for (int i = 0; i < 2; i++) {
        bool accepted = pnx_load(&s->job[i].id, PNX_RELAXED, "executor_suite.final") == 1;
        uint64_t runs = x_cell_read(&s->job[i].runs);
        CHECK(runs <= accepted);
        CHECK_EQ(x_cell_read(&s->job[i].told), accepted);
        if (accepted)
            has_ended(s, i, runs, runs ? 0 : -ECANCELED);
    }
    pnx_executor_release(&s->executor);
}

TEST_LIMIT(p7_what_was_accepted_before_a_close_ends_before_it_returns, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-close",
            .size = sizeof(struct state),
            .setup = begin_close,
            .thread = {unless_closed_0, unless_closed_1, close_it},
            .final = all_told,
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 500});
}

TEST_LIMIT(p7_a_close_without_time_starts_nothing_and_tells_each_job, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-close-now",
            .size = sizeof(struct state),
            .setup = begin_close,
            .thread = {unless_closed_0, unless_closed_1, close_now},
            .final = all_told,
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 500});
}

/* ---- rows ---- */

/* Says not now; what it has been asked is what it tells, in job 0's code. */
static int not_now(void *arg, const struct pnx_cancel *cancel) {
    struct job *job = arg;
    x_cell_write(&job->runs, x_cell_read(&job->runs) + 1);
    x_cell_write(&now->asked, pnx_cancel_requested(cancel));
    return -EAGAIN;
}

static void begin_row(void *state) {
    struct state *s = state;
    create(s, 2, UNTIMED(.queue_max = 2));
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &s->registry),
            0);
    CHECK_EQ(pnx_registry_add(s->registry,
                     PNX_RESOURCE(.type = "row", .cleanup = not_now, .arg = &s->job[0]), NULL,
                     &s->row),
            0);
}

static void end_row(void *state) {
    struct state *s = state;
    struct job *job = &s->job[0];
    CHECK_EQ(pnx_executor_cleanup(s->executor, s->registry, s->row,
                     PNX_JOB(.attempts = 1, .done = tell, .ctx = job), NULL, &job->job),
            0);
    /* pairs with executor_suite.submitted */
    pnx_store(&job->id, 1, PNX_RELEASE, "executor_suite.submit");
    pnx__futex_wake(&job->id, 1);
    CHECK_EQ(pnx_executor_drain(s->executor, PNX_NEVER), 0);
    leave(s);
}

static void cancel_row(void *state) {
    struct state *s = state;
    struct job *job = &s->job[0];
    while (!pnx_load(&job->id, PNX_ACQUIRE, "executor_suite.submitted"))
        pnx__futex_wait(&job->id, 0, PNX_NEVER);
    int rc = pnx_executor_cancel(s->executor, job->job);
    CHECK(rc == 0 || rc == -EINPROGRESS || rc == -EALREADY);
    leave(s);
}

static void told_what_became_of_it(void *state) {
    struct state *s = state;
    struct job *job = &s->job[0];
    CHECK_EQ(x_cell_read(&job->told), 1);
    int code = -(int)x_cell_read(&job->code);
    CHECK(code == -ECANCELED || code == -EAGAIN);
    if (x_cell_read(&job->runs))
        CHECK(code == -ECANCELED || !x_cell_read(&s->asked)); /* it had seen the cancel */
    /* Canceled: the row is live.  Failed: it is gone, and its owner takes note. */
    CHECK_EQ(pnx_registry_remove(s->registry, s->row), code == -EAGAIN ? -EALREADY : 0);
    pnx_registry_release(&s->registry);
}

TEST_LIMIT(a_cancel_and_the_last_attempt_agree_on_what_becomes_of_the_row, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-row",
            .size = sizeof(struct state),
            .setup = begin_row,
            .thread = {end_row, cancel_row},
            .final = told_what_became_of_it,
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 200});
}

/* ---- pending ---- */

static int pend(void *arg, const struct pnx_cancel *cancel) {
    struct job *job = arg;
    x_cell_write(&job->runs, x_cell_read(&job->runs) + 1);
    CHECK_EQ(pnx_cancel_pend(cancel, &now->completion), 0);
    pnx_store(&now->handed, 1, PNX_RELEASE, "executor_suite.hand"); /* with executor_suite.handed */
    pnx__futex_wake(&now->handed, 1);
    return -EINPROGRESS;
}

static void submit_pending(void *state) {
    struct state *s = state;
    CHECK_EQ(submit(s, 0, pend, NULL), 0);
    CHECK_EQ(pnx_executor_drain(s->executor, PNX_NEVER), 0);
    has_ended(s, 0, 1, -EIO);
    leave(s);
}

static void complete(void *state) {
    struct state *s = state;
    while (!pnx_load(&s->handed, PNX_ACQUIRE, "executor_suite.handed"))
        pnx__futex_wait(&s->handed, 0, PNX_NEVER);
    struct pnx_completion copy = s->completion;
    CHECK_EQ(pnx_completion_done(&s->completion, -EIO), 0);
    CHECK_EQ(pnx_completion_done(&copy, 0), -ESTALE);
    leave(s);
}

TEST_LIMIT(a_completion_and_the_return_of_its_function_end_the_job_once, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-pend",
            .size = sizeof(struct state),
            .setup = begin_two,
            .thread = {submit_pending, complete},
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 1000});
}

/* ---- releasing from inside ---- */

static int release_it(void *arg, const struct pnx_cancel *cancel) {
    struct pnx_executor *own = now->executor;
    (void)arg;
    (void)cancel;
    pnx_executor_release(
            &own); /* freed when this thread ends; who has submitted may not be back yet */
    return 0;
}

static void submit_the_end(void *state) {
    struct state *s = state;
    CHECK_EQ(submit(s, 0, release_it, NULL), 0);
}

static void begin_alone(void *state) {
    create(state, 1, UNTIMED(.queue_max = 1));
}

TEST_LIMIT(p8_a_job_may_release_its_executor_before_its_submit_has_returned, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-release",
            .size = sizeof(struct state),
            .setup = begin_alone,
            .thread = {submit_the_end},
            .timeouts = X_NONE,
            .leaks = true, /* the thread that frees it cannot join itself */
            .random = 5000,
            .floor = 100});
}

/* ---- running out of time ---- */

static int wait_for_word(void *arg, const struct pnx_cancel *cancel) {
    struct job *job = arg;
    (void)cancel;
    while (!pnx_load(&now->word, PNX_RELAXED, "executor_suite.word"))
        pnx__futex_wait(&now->word, 0, PNX_NEVER);
    x_cell_write(&job->runs, x_cell_read(&job->runs) + 1);
    return 0;
}

static int set_word(void *arg, const struct pnx_cancel *cancel) {
    pnx_store(&now->word, 1, PNX_RELAXED, "executor_suite.set_word");
    pnx__futex_wake(&now->word, 1);
    return run(arg, cancel);
}

static void begin_timed(void *state) {
    create(state, 1,
            PNX_EXECUTOR_OPTS(.timeout_ns = PNX_SEC, .idle_ns = PNX_NEVER, .queue_max = 2,
                    .workers = 1, .max_workers = 2));
}

/* The one is stuck until the other has run, which must not wait for it: four threads in the end. */
static void submit_both(void *state) {
    struct state *s = state;
    CHECK_EQ(submit(s, 0, wait_for_word, NULL), 0);
    CHECK_EQ(submit(s, 1, set_word, NULL), 0);
    CHECK_EQ(pnx_executor_drain(s->executor, PNX_NEVER), 0);
    has_ended(s, 0, 1, 0);
    has_ended(s, 1, 1, 0);
    leave(s);
}

TEST_LIMIT(p5_a_job_that_waits_for_one_behind_it_is_routed_around, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-overdue",
            .size = sizeof(struct state),
            .setup = begin_timed,
            .thread = {submit_both},
            .preemptions = PREEMPTIONS,
            .timeouts = X_NONE, /* the worker is given up on when nobody can go on */
            .random = 5000,
            .floor = 1000});
}

/* ---- without threads ---- */

static bool readable(const struct state *s) {
    struct pollfd fd = {.fd = pnx_executor_fd(s->executor), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

/* Executions that are cut short leave their descriptor. */
static int fd_left = -1;

static void begin_ticked(void *state) {
    struct state *s = state;
    if (fd_left >= 0)
        close(fd_left);
    create(s, 1, UNTIMED(.queue_max = 2, .flags = PNX_EXECUTOR_TICK));
    fd_left = pnx_executor_fd(s->executor);
    CHECK(!readable(s));
}

static void submit_only(struct state *s, int i) {
    CHECK_EQ(submit(s, i, run, NULL), 0);
}

static void submit_0(void *state) {
    submit_only(state, 0);
}

static void submit_1(void *state) {
    submit_only(state, 1);
}

/* A loop that would poll: what it may not miss is checked at the end. */
static void loop(void *state) {
    struct state *s = state;
    for (int i = 0; i < 2; i++) {
        if (pnx_executor_tick(s->executor, pnx_now()) != PNX_NEVER)
            CHECK(readable(s)); /* there is more to do at once */
    }
}

static void all_run_or_readable(void *state) {
    struct state *s = state;
    for (int i = 0; i < 2; i++) {
        if (!x_cell_read(&s->job[i].runs))
            CHECK(readable(s));
    }
    for (int i = 0; i < 2;
            i++) /* another thread than before ticks: it may be told once too often */
        CHECK_EQ(pnx_executor_tick(s->executor, pnx_now()), PNX_NEVER);
    CHECK(!readable(s));
    for (int i = 0; i < 2; i++)
        has_ended(s, i, 1, 0);
    pnx_executor_release(&s->executor);
    fd_left = -1;
}

TEST_LIMIT(a_loop_that_polls_its_descriptor_misses_no_job, LIMIT) {
    x_explore(&(struct x_test){.name = "executor-tick",
            .size = sizeof(struct state),
            .setup = begin_ticked,
            .thread = {submit_0, submit_1, loop},
            .final = all_run_or_readable,
            .preemptions = PREEMPTIONS + 1,
            .timeouts = X_NONE,
            .random = 5000,
            .floor = 200});
}
