/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The executor's core with a virtual clock and no threads: E1..E5 of resource/executor_core.h, and P2, P3, P4, P6 of
 * patinox/executor.h as far as they are decided there.
 */
#include "harness/harness.h"
#include "resource/executor_core.h"

#define JOBS  16
#define AGE   PNX_SEC
#define LIMIT (10 * PNX_SEC)

static struct pnx__job jobs[JOBS];
static struct pnx__job *heap[JOBS];
static struct pnx__executor_core core;

static void begin(uint32_t workers, uint32_t max_workers) {
    struct pnx__executor_config config = {
            .ageing = AGE,
            .backoff = 10 * PNX_MS,
            .backoff_max = PNX_SEC,
            .workers = workers,
            .max_workers = max_workers,
    };
    memset(jobs, 0, sizeof(jobs));
    pnx__executor_core_init(&core, &config, jobs, heap, JOBS, 7, 0);
}

static void check(void) {
    const char *broken = pnx__executor_core_check(&core);
    CHECK_MSG(!broken, "%s", broken ? broken : "");
}

static struct pnx__job *submit_job(enum pnx_priority priority, pnx_ns delay, pnx_ns now) {
    struct pnx__job_spec spec = {
            .delay = delay,
            .timeout = LIMIT,
            .attempts = 3,
            .lane = (uint16_t)(priority - PNX_PRIORITY_LOW),
    };
    struct pnx__job *job = pnx__executor_core_submit(&core, &spec, now);
    check();
    return job;
}

static struct pnx__job *take(pnx_ns now) {
    CHECK(!pnx__executor_core_advance(&core, now));
    struct pnx__job *job = pnx__executor_core_take(&core, now);
    check();
    return job;
}

/* Ends an attempt; true when that was the job's end, and its place is free. */
static bool end(struct pnx__job *job, int code, pnx_ns now) {
    bool settled = pnx__executor_core_end(&core, job, code, UINT64_MAX, now);
    check();
    if (settled)
        pnx__executor_core_free(&core, job);
    check();
    return settled;
}

static void take_and_end(const struct pnx__job *expected, pnx_ns now) {
    struct pnx__job *job = take(now);
    CHECK(job == expected);
    CHECK(end(job, 0, now));
}

static bool asked(const struct pnx__job *job) {
    return pnx_cancel_requested(&job->request.cancel);
}

/* ---- P3: priorities and ageing ---- */

TEST(p3_the_highest_priority_is_started_first_and_first_come_first_served_within_one) {
    begin(1, 1);
    struct pnx__job *low = submit_job(PNX_PRIORITY_LOW, 0, 0);
    struct pnx__job *normal = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    struct pnx__job *critical = submit_job(PNX_PRIORITY_CRITICAL, 0, 0);
    struct pnx__job *high = submit_job(PNX_PRIORITY_HIGH, 0, 0);
    struct pnx__job *second_critical = submit_job(PNX_PRIORITY_CRITICAL, 0, 0);
    struct pnx__job *second_low = submit_job(PNX_PRIORITY_LOW, 0, 0);
    take_and_end(critical, 1);
    take_and_end(second_critical, 1);
    take_and_end(high, 1);
    take_and_end(normal, 1);
    take_and_end(low, 1);
    take_and_end(second_low, 1);
    CHECK(!take(1));
}

TEST(p3_a_job_that_has_waited_for_the_ageing_time_counts_as_one_priority_higher) {
    begin(1, 1);
    struct pnx__job *low = submit_job(PNX_PRIORITY_LOW, 0, 0);
    struct pnx__job *normal = submit_job(PNX_PRIORITY_NORMAL, 0, AGE - 1);
    struct pnx__job *first = take(AGE - 1); /* one nanosecond too early for the low one */
    CHECK(first == normal);
    CHECK(end(first, 0, AGE - 1));
    normal = submit_job(PNX_PRIORITY_NORMAL, 0, AGE + 1);
    take_and_end(low, AGE + 1); /* normal since AGE, and so before the one of AGE + 1 */
    take_and_end(normal, AGE + 1);
}

TEST(p3_who_came_to_a_priority_first_is_first_there_whether_by_ageing_or_at_once) {
    begin(1, 1);
    struct pnx__job *low = submit_job(PNX_PRIORITY_LOW, 0, 0);
    struct pnx__job *before = submit_job(PNX_PRIORITY_CRITICAL, 0, 3 * AGE - 1);
    struct pnx__job *same = submit_job(PNX_PRIORITY_CRITICAL, 0, 3 * AGE);
    struct pnx__job *after = submit_job(PNX_PRIORITY_CRITICAL, 0, 3 * AGE + 1);
    take_and_end(before, 3 * AGE + 1);
    take_and_end(same, 3 * AGE + 1); /* of two that came at once, the one that was higher */
    take_and_end(low, 3 * AGE + 1);
    take_and_end(after, 3 * AGE + 1);
}

/* A critical job comes as often as one is done: a load that never lets up. */
static pnx_ns wait_of_a_low_job(pnx_ns ageing) {
    begin(1, 1);
    core.config.ageing = ageing;
    const struct pnx__job *low = submit_job(PNX_PRIORITY_LOW, 0, 0);
    for (pnx_ns now = 0; now < 100 * AGE; now += AGE / 10) {
        submit_job(PNX_PRIORITY_CRITICAL, 0, now);
        struct pnx__job *job = take(now);
        CHECK(end(job, 0, now));
        if (job == low)
            return now;
    }
    return PNX_NEVER;
}

TEST(p3_ageing_prevents_starvation) {
    CHECK_EQ(wait_of_a_low_job(AGE), 3 * AGE + AGE / 10);
    CHECK_EQ(wait_of_a_low_job(AGE / 2), 3 * (AGE / 2) + AGE / 10);
    CHECK_EQ(wait_of_a_low_job(PNX_NEVER),
            PNX_NEVER); /* without it, it starves: the test can tell */
}

TEST(p3_a_retry_waits_in_line_from_when_it_is_due) {
    begin(1, 1);
    struct pnx__job *again = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == again);
    CHECK(!end(again, -EAGAIN, 0));
    struct pnx__job *other = submit_job(PNX_PRIORITY_NORMAL, 0, 1);
    pnx_ns due = core.next_timer;
    CHECK(due > 1 && due <= 10 * PNX_MS);
    take_and_end(other, due);
    take_and_end(again, due);
}

/* ---- delays ---- */

TEST(a_delayed_job_is_queued_when_it_is_due_and_not_before) {
    begin(1, 1);
    struct pnx__job *late = submit_job(PNX_PRIORITY_NORMAL, 50, 100);
    struct pnx__job *soon = submit_job(PNX_PRIORITY_NORMAL, 20, 100);
    CHECK_EQ(core.next_timer, 120);
    CHECK(!take(119));
    take_and_end(soon, 120);
    CHECK_EQ(core.next_timer, 150);
    CHECK(!take(149));
    take_and_end(late, 150);
    CHECK_EQ(core.next_timer, PNX_NEVER);
}

TEST(a_job_that_is_never_due_stays_until_it_is_cancelled) {
    begin(1, 1);
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, PNX_NEVER, 100);
    CHECK_EQ(core.next_timer, PNX_NEVER);
    CHECK(!take(PNX_NEVER - 1));
    CHECK_EQ(pnx__executor_core_cancel(&core, job), 0);
    pnx__executor_core_free(&core, job);
    check();
}

TEST(jobs_due_at_the_same_time_are_queued_in_the_order_of_their_submission) {
    begin(1, 1);
    struct pnx__job *in_order[JOBS];
    for (int i = 0; i < JOBS; i++)
        in_order[i] = submit_job(PNX_PRIORITY_NORMAL, 20, 0);
    for (int i = 0; i < JOBS; i++)
        take_and_end(in_order[i], 20);
}

/* ---- P2: retries ---- */

TEST(p2_only_a_retryable_failure_is_tried_again_and_not_too_often) {
    begin(1, 1);
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == job);
    CHECK(end(job, -EIO, 0));
    CHECK_EQ(job->code, -EIO);

    job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == job);
    CHECK(end(job, -ETIMEDOUT, 0)); /* by itself, not because it ran out of time */

    job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    pnx_ns now = 0;
    for (uint32_t attempt = 1; attempt <= 3; attempt++) {
        CHECK(take(now) == job);
        CHECK_EQ(job->attempt, attempt);
        CHECK_EQ(end(job, -EAGAIN, now), attempt == 3);
        now = core.next_timer;
    }
    CHECK_EQ(job->code, -EAGAIN);
    CHECK_EQ(core.stats[PNX__EXECUTOR_STAT_retries].v, 2);
    CHECK_EQ(core.stats[PNX__EXECUTOR_STAT_failed].v, 3);
}

TEST(p2_codes_that_mean_nothing_are_errors) {
    static const struct {
        int code, as;
    } cases[] = {{0, 0}, {1, -EINVAL}, {-EINPROGRESS, -EINVAL}, {-ECANCELED, -ECANCELED}};
    begin(1, 1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
        CHECK(take(0) == job);
        CHECK(end(job, cases[i].code, 0));
        CHECK_EQ(job->code, cases[i].as);
    }
}

TEST(p2_pauses_are_random_and_their_bound_doubles_up_to_the_limit) {
    struct pnx__executor_config config = {.backoff = 10 * PNX_MS, .backoff_max = 65 * PNX_MS};
    static const pnx_ns bounds[] = {
            10 * PNX_MS, 20 * PNX_MS, 40 * PNX_MS, 65 * PNX_MS, 65 * PNX_MS};
    uint64_t seed = test_seed();
    for (uint32_t attempt = 1; attempt <= 5; attempt++) {
        pnx_ns least = PNX_NEVER, most = 0, sum = 0;
        for (int i = 0; i < 1000; i++) {
            pnx_ns pause = pnx__executor_core_pause(&config, attempt, test_random(&seed));
            CHECK(pause >= 0 && pause <= bounds[attempt - 1]);
            least = pause < least ? pause : least;
            most = pause > most ? pause : most;
            sum += pause;
        }
        CHECK(least < bounds[attempt - 1] / 10); /* of 1000 in vain once in 10^45 */
        CHECK(most > bounds[attempt - 1] / 10 * 9);
        CHECK(sum / 1000 > bounds[attempt - 1] / 3 && sum / 1000 < bounds[attempt - 1] / 3 * 2);
    }
    config = (struct pnx__executor_config){.backoff = 1, .backoff_max = 1};
    CHECK(pnx__executor_core_pause(&config, UINT32_MAX, 12345) <= 1);
}

/* ---- P4, P5: running out of time ---- */

TEST(p4_no_more_run_than_workers_and_with_those_out_of_time_than_max_workers) {
    begin(2, 3);
    struct pnx__job *job[5];
    for (int i = 0; i < 5; i++)
        job[i] = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == job[0]);
    CHECK(take(1) == job[1]);
    CHECK(!take(2));
    CHECK(pnx__executor_core_advance(&core, LIMIT) == job[0]);
    CHECK(take(LIMIT) == job[2]); /* in the place of the one that is out of time */
    CHECK(!take(LIMIT));
    CHECK(pnx__executor_core_advance(&core, LIMIT + 1) == job[1]);
    CHECK(!take(LIMIT + 1)); /* three run */
    CHECK(end(job[0], 0, LIMIT + 1));
    CHECK(take(LIMIT + 1) == job[3]);
    CHECK(end(job[2], 0, LIMIT + 1));
    CHECK(take(LIMIT + 1) == job[4]);
}

TEST(p5_an_attempt_out_of_time_is_asked_to_end_and_told_of_once) {
    begin(1, 2);
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 5);
    CHECK(take(5) == job);
    CHECK_EQ(pnx_cancel_deadline(&job->request.cancel), 5 + LIMIT);
    CHECK(!asked(job));
    CHECK(!pnx__executor_core_advance(&core, 5 + LIMIT - 1));
    CHECK(pnx__executor_core_advance(&core, 5 + LIMIT) == job);
    CHECK(asked(job));
    CHECK(!pnx__executor_core_advance(&core, 10 * LIMIT));
    check();
    CHECK(end(job, 0, 10 * LIMIT)); /* late, and well all the same */
    CHECK_EQ(job->code, 0);
    CHECK_EQ(core.stats[PNX__EXECUTOR_STAT_overdue].v, 1);
    CHECK_EQ(core.stats[PNX__EXECUTOR_STAT_late].v, 1);
    CHECK_EQ(core.stats[PNX__EXECUTOR_STAT_done].v, 1);
}

TEST(p2_an_attempt_that_ran_out_of_time_and_says_so_is_tried_again) {
    static const int codes[] = {-ETIMEDOUT, -EAGAIN};
    for (int i = 0; i < 2; i++) {
        begin(1, 2);
        struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
        CHECK(take(0) == job);
        CHECK(pnx__executor_core_advance(&core, LIMIT) == job);
        CHECK(!end(job, codes[i], LIMIT + 1));
        pnx_ns due = core.next_timer;
        CHECK(take(due) == job);
        CHECK(!asked(job)); /* the new attempt has time of its own */
        CHECK_EQ(pnx_cancel_deadline(&job->request.cancel), due + LIMIT);
        CHECK(end(job, 0, due));
    }
}

TEST(p5_a_pending_job_runs_out_of_time_too_and_takes_no_workers_place) {
    begin(1, 1);
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    struct pnx__job *next = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == job);
    CHECK(!take(0));
    pnx__executor_core_pend(&core, job);
    check();
    take_and_end(next, 1);
    CHECK(pnx__executor_core_advance(&core, LIMIT) == job);
    CHECK(asked(job));
    check();
    CHECK(end(job, 0, LIMIT + 1));
    CHECK_EQ(core.stats[PNX__EXECUTOR_STAT_late].v, 1);
}

TEST(p5_a_done_function_takes_the_workers_time_as_well) {
    begin(1, 2);
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    struct pnx__job *next = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == job);
    CHECK(pnx__executor_core_end(&core, job, 0, 0, 1)); /* settled, and being told */
    check();
    CHECK(!take(1));
    CHECK_EQ(pnx__executor_core_cancel(&core, job), -EALREADY);
    CHECK(pnx__executor_core_advance(&core, LIMIT) == job);
    CHECK(take(LIMIT) == next);
    pnx__executor_core_free(&core, job);
    check();
    CHECK_EQ(core.n[PNX__JOB_FREE], JOBS - 1);
}

/* ---- P6: cancelling ---- */

TEST(p6_a_job_that_waits_is_called_off_and_one_that_runs_is_asked) {
    begin(1, 1);
    struct pnx__job *running = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    struct pnx__job *queued = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    struct pnx__job *delayed = submit_job(PNX_PRIORITY_NORMAL, 5, 0);
    CHECK(take(0) == running);
    CHECK_EQ(pnx__executor_core_cancel(&core, running), -EINPROGRESS);
    CHECK(asked(running));
    CHECK_EQ(pnx__executor_core_cancel(&core, queued), 0);
    CHECK_EQ(pnx__executor_core_cancel(&core, delayed), 0);
    CHECK_EQ(pnx__executor_core_cancel(&core, delayed), -EALREADY);
    CHECK_EQ(queued->code, -ECANCELED);
    check();
    pnx__executor_core_free(&core, queued);
    pnx__executor_core_free(&core, delayed);
    CHECK_EQ(pnx__executor_core_cancel(&core, queued), -EALREADY);
    CHECK(end(running, -EAGAIN, 1)); /* and is not tried again */
    CHECK_EQ(running->code, -ECANCELED);
    CHECK(!take(100 * LIMIT));
}

TEST(p6_a_retry_that_waits_is_called_off_too) {
    begin(1, 1);
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == job);
    CHECK(!end(job, -EAGAIN, 0));
    CHECK_EQ(pnx__executor_core_cancel(&core, job), 0);
    pnx__executor_core_free(&core, job);
    CHECK(!take(100 * LIMIT));
    CHECK_EQ(core.stats[PNX__EXECUTOR_STAT_canceled].v, 1);
}

/* ---- the end ---- */

TEST(p7_a_close_cuts_delays_short_and_lets_nothing_begin_after_its_deadline) {
    begin(1, 1);
    struct pnx__job *running = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == running);
    struct pnx__job *far = submit_job(PNX_PRIORITY_NORMAL, PNX_NEVER, 0);
    struct pnx__job *near = submit_job(PNX_PRIORITY_HIGH, 100, 0);
    pnx__executor_core_close(&core, 1000, 10);
    check();
    CHECK_EQ(pnx_cancel_deadline(&running->request.cancel), 1000);
    CHECK(end(running, 0, 20));
    take_and_end(near, 20);
    CHECK(take(30) == far);
    CHECK_EQ(pnx_cancel_deadline(&far->request.cancel), 1000); /* not its own limit */
    CHECK(!end(far, -EAGAIN, 40));                             /* there is time to try again */
    CHECK(take(core.next_timer) == far);
    pnx__executor_core_ask_all(&core);
    CHECK(asked(far));
    CHECK(end(far, -EAGAIN, core.now));
    CHECK_EQ(far->code, -ECANCELED);
    CHECK(!pnx__executor_core_drop(&core));
}

TEST(p7_after_the_deadline_a_retryable_failure_is_the_end) {
    begin(1, 1);
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    struct pnx__job *other = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    CHECK(take(0) == job);
    pnx__executor_core_close(&core, 50, 10);
    pnx__executor_core_close(&core, 1000, 10); /* the earlier one holds */
    CHECK(end(job, -EAGAIN, 50));
    CHECK_EQ(job->code, -EAGAIN);
    CHECK(pnx__executor_core_drop(&core) == other);
    CHECK_EQ(other->code, -ECANCELED);
    check();
    pnx__executor_core_free(&core, other);
    CHECK(!pnx__executor_core_drop(&core));
    CHECK_EQ(pnx__executor_core_alive(&core), 0);
}

/* ---- ids ---- */

TEST(ids_are_never_used_twice_and_stale_or_foreign_ones_name_nothing) {
    begin(1, 1);
    CHECK(!pnx__executor_core_find(&core, 0));
    for (uint64_t i = 0; i < JOBS; i++) /* places that were never used */
        CHECK(!pnx__executor_core_find(&core, UINT64_C(7) << PNX_INDEX_BITS | i));
    struct pnx__job *job = submit_job(PNX_PRIORITY_NORMAL, 0, 0);
    pnx_job_id id = pnx__job_id(job);
    CHECK(pnx__executor_core_find(&core, id) == job);
    CHECK(!pnx__executor_core_find(&core, id + 1));
    CHECK(!pnx__executor_core_find(&core, id + (UINT64_C(1) << PNX_INDEX_BITS)));
    CHECK(!pnx__executor_core_find(&core, id | (PNX_INDEX_BITS - 1)));
    CHECK(take(0) == job);
    CHECK(end(job, -EIO, 0));
    for (int i = 1; i < JOBS; i++) { /* known as long as there are other places */
        CHECK(pnx__executor_core_find(&core, id) == job);
        CHECK_EQ(job->code, -EIO);
        CHECK(submit_job(PNX_PRIORITY_NORMAL, 0, 0) != job);
    }
    CHECK(submit_job(PNX_PRIORITY_NORMAL, 0, 0) == job);
    CHECK(!pnx__executor_core_find(&core, id));
    CHECK(!submit_job(PNX_PRIORITY_NORMAL, 0, 0)); /* no room */
}

/* ---- the check itself: it sees what the other tests rely on it to see ---- */

static struct pnx__job *running, *first_queued, *second_queued, *delayed;

static void bend_a_link(void) {
    second_queued->link.prev = &second_queued->link;
}
static void misplace_a_job(void) {
    second_queued->state = PNX__JOB_DELAYED;
}
static void miscount_a_state(void) {
    core.n[PNX__JOB_FREE]--;
}
static void disorder_a_lane(void) {
    first_queued->queued_at = core.now + 1;
}
static void forget_a_timer(void) {
    delayed->timer = 0;
}
static void misplace_a_timer(void) {
    heap[0] = heap[1];
}
static void disorder_the_heap(void) {
    delayed->at = running->at + 1;
}
static void miscount_the_timers(void) {
    core.timers++;
}
static void misstate_the_next_timer(void) {
    core.next_timer++;
}
static void try_too_often(void) {
    running->attempt = running->spec.attempts + 1;
}
static void settle_too_early(void) {
    first_queued->settled = true;
}
static void ask_one_that_waits(void) {
    first_queued->asked = true;
}
static void miscount_the_late(void) {
    core.late++;
}
static void run_too_many(void) {
    core.config.max_workers = 0;
}

TEST(each_broken_invariant_is_seen_by_the_check) {
    static const struct {
        void (*damage)(void);
        const char *said;
    } cases[] = {
            {bend_a_link, "E1: a job is not on the list of its state"},
            {misplace_a_job, "E1: a job is not on the list of its state"},
            {miscount_a_state, "E1: a job is not on the list of its state"},
            {disorder_a_lane, "E3: a lane is out of order"},
            {forget_a_timer, "E2: a timer is missing, or has been left"},
            {misplace_a_timer, "E2: a timer is not where its job says"},
            {disorder_the_heap, "E2: the heap is out of order"},
            {miscount_the_timers, "E2: count of timers"},
            {misstate_the_next_timer, "E2: next_timer"},
            {try_too_often, "E5: more attempts than allowed"},
            {settle_too_early, "a job is settled too early, or too late"},
            {ask_one_that_waits, "E5: a job that was asked to end is to run again"},
            {miscount_the_late, "E4: count of late ones"},
            {run_too_many, "E4: more jobs run than may"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin(1, 1);
        submit_job(PNX_PRIORITY_NORMAL, 0, 0);
        running = take(1);
        first_queued = submit_job(PNX_PRIORITY_NORMAL, 0, 2);
        second_queued = submit_job(PNX_PRIORITY_NORMAL, 0, 3);
        delayed = submit_job(PNX_PRIORITY_NORMAL, LIMIT / 2, 4); /* before running's, of LIMIT */
        cases[i].damage();
        CHECK_STR(pnx__executor_core_check(&core), cases[i].said);
    }
}
