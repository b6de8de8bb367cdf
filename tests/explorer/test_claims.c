/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_claims.c - who ends a row, when all who may come at once: its owner, a second release, a guard, a force, a
 * batch, a job of an executor that may run out of time, and a shutdown.
 *
 * The thing that the row stands for is plain memory, which its cleanup changes and owners look at when a removal has
 * returned: a cleanup that still runs then, or runs afterwards, is a race.
 */
#include "explorer/explorer.h"
#include "registry/shutdown_state.h"

#include <patinox/executor.h>
#include <patinox/guard.h>
#include <patinox/query.h>
#include <patinox/shutdown.h>

#define PREEMPTIONS (test_long() ? 2 : 1)
#define SWITCHES    (test_long() ? 1 : X_NONE) /* in a larger cast */
#define RANDOM      (test_long() ? 50000u : 5000u)
#define LIMIT       600

enum { ALIVE = 1, ENDED };

struct state {
    struct pnx_registry *registry;
    struct pnx_executor *executor;
    struct pnx_guard guard;
    pnx_resource_id id;
    struct x_cell thing;    /* ALIVE; ENDED by the cleanup */
    struct pnx_a32 runs;    /* of the cleanup */
    struct pnx_a32 again;   /* so many of them return -EAGAIN */
    struct pnx_a32 ended;   /* of them, those that ended it */
    struct pnx_a32 removed; /* removals that returned 0 */
    struct pnx_a32 users;   /* of the executor */
    bool stuck;             /* fixed: the cleanup does nothing until its time is over */
};
static struct state *now;

static int again(void) {
    uint32_t run = pnx_fetch_add(&now->runs, 1, PNX_RELAXED, "claims_suite.run");
    return run < pnx_load(&now->again, PNX_RELAXED, "claims_suite.again") ? -EAGAIN : 0;
}

static int end_thing(void *arg, const struct pnx_cancel *cancel) {
    struct state *s = arg;
    CHECK_EQ(x_cell_read(&s->thing), ALIVE);
    x_yield();
    CHECK_EQ(x_cell_read(&s->thing), ALIVE);
    int code = again();
    if (s->stuck && pnx_cancel_deadline(cancel) != PNX_NEVER) { /* a job's attempt */
        static struct pnx_a32 never;
        while (!pnx_cancel_requested(cancel) && pnx_now() < pnx_cancel_deadline(cancel))
            (void)pnx__futex_wait(&never, 0, pnx_cancel_deadline(cancel));
        code = code ? code : -ETIMEDOUT;
    }
    if (code == -EAGAIN)
        return code;
    x_cell_write(&s->thing, ENDED);
    pnx_fetch_add(&s->ended, 1, PNX_RELAXED, "claims_suite.ended");
    return code;
}

/* ---- set-ups ---- */

static void begin(struct state *s, uint32_t flags) {
    now = s;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &s->registry),
            0);
    x_cell_write(&s->thing, ALIVE);
    CHECK_EQ(pnx_registry_add(s->registry,
                     PNX_RESOURCE(.type = "thing", .cleanup = end_thing, .arg = s, .flags = flags),
                     NULL, &s->id),
            0);
}

static void add_executor(struct state *s, uint32_t users, pnx_ns timeout, uint32_t attempts) {
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.env = x_env(), .registry = pnx_registry_off(),
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                         .timeout_ns = timeout, .attempts = attempts,
                                         .idle_ns = PNX_NEVER, .block_ns = PNX_NEVER,
                                         .ageing_ns = PNX_NEVER, .max_workers = 1, .queue_max = 2),
                     NULL, &s->executor),
            0);
    pnx_store(&s->users, users, PNX_RELAXED, "claims_suite.users");
}

static void begin_forceable(void *state) {
    begin(state, PNX_RESOURCE_FORCEABLE);
}

static void begin_job(void *state) {
    begin(state, PNX_RESOURCE_FORCEABLE);
    add_executor(state, 2, PNX_NEVER, 1);
}

static void begin_job_of_three(void *state) {
    begin(state, PNX_RESOURCE_FORCEABLE);
    add_executor(state, 3, PNX_NEVER, 1);
}

static void begin_plain_job(void *state) {
    begin(state, 0);
    add_executor(state, 2, PNX_NEVER, 1);
}

static void begin_plain_job_of_three(void *state) {
    begin(state, 0);
    add_executor(state, 3, PNX_NEVER, 1);
}

static void begin_stuck(void *state) {
    struct state *s = state;
    begin(s, PNX_RESOURCE_FORCEABLE);
    s->stuck = true;
    add_executor(s, 2, PNX_SEC, 1);
}

static void begin_not_now(void *state) {
    struct state *s = state;
    begin(s, PNX_RESOURCE_FORCEABLE);
    pnx_store(&s->again, 1, PNX_RELAXED, "claims_suite.set_again");
    add_executor(s, 2, PNX_NEVER, 2);
}

static void guard_it(struct state *s, uint32_t users) {
    now = s;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &s->registry),
            0);
    x_cell_write(&s->thing, ALIVE);
    CHECK_EQ(pnx_guard_arm(&s->guard, end_thing, s), 0);
    CHECK_EQ(pnx_guard_track(&s->guard, s->registry,
                     PNX_RESOURCE(.type = "thing", .flags = PNX_RESOURCE_FORCEABLE), NULL),
            0);
    s->id = s->guard.id;
    add_executor(s, users, PNX_NEVER, 1);
}

static void begin_guard(void *state) {
    guard_it(state, 2);
}

static void begin_guard_of_three(void *state) {
    guard_it(state, 3);
}

/* ---- the threads ---- */

static void leave(struct state *s) {
    if (pnx_fetch_sub(&s->users, 1, PNX_ACQ_REL, "claims_suite.leave") != 1)
        return;
    CHECK_EQ(pnx_executor_close(s->executor, PNX_NEVER, NULL), 0);
    pnx_executor_release(&s->executor);
}

/* Nobody touches the thing any more when a removal has returned, the first or another one. */
static void remove_row(struct state *s) {
    int rc = pnx_registry_remove(s->registry, s->id);
    CHECK(rc == 0 || rc == -EALREADY);
    uint64_t thing = x_cell_read(&s->thing); /* a race, if a cleanup is still at it */
    if (rc)
        return;
    CHECK_EQ(thing, ALIVE);
    pnx_fetch_add(&s->removed, 1, PNX_RELAXED, "claims_suite.removed");
}

static void release(void *state) {
    remove_row(state);
}

static void release_and_leave(void *state) {
    remove_row(state);
    leave(state);
}

static void force_row(struct state *s) {
    int rc = pnx_registry_force(s->registry, s->id);
    CHECK(rc == 0 || rc == -EALREADY || rc == -ESTALE || (s->stuck && rc == -ETIMEDOUT) ||
            (rc == -EAGAIN && pnx_load(&s->again, PNX_RELAXED, "claims_suite.may")));
}

static void force(void *state) {
    force_row(state);
}

static void force_and_leave(void *state) {
    force_row(state);
    leave(state);
}

static void batch(void *state) {
    struct state *s = state;
    struct pnx_batch_result result = {.size = sizeof(result)};
    CHECK_EQ(pnx_registry_cleanup_where(
                     s->registry, PNX_FILTER(.type = "thing"), 0, PNX_NEVER, &result),
            0);
    CHECK(result.matched <= 1);
    CHECK_EQ(result.done + result.busy, result.matched);
}

static void shut_down(void *state) {
    struct state *s = state;
    struct pnx_shutdown_report *report = NULL;
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_registry_shutdown(s->registry, PNX_NEVER, &report), 0);
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK(counts.done <= 1);
    CHECK_EQ(counts.failed + counts.abandoned + counts.leaked + counts.suppressed, 0);
    pnx_shutdown_report_release(&report);
}

static void shut_down_and_leave(void *state) {
    shut_down(state);
    leave(state);
}

/* How a job for the row may end, whoever else is there. */
static void await_job(struct state *s, pnx_job_id job) {
    int code = 1;
    int rc = pnx_executor_wait(s->executor, job, PNX_NEVER, &code);
    CHECK_EQ(rc, 0);
    CHECK(code == 0 || code == -EALREADY || code == -ESTALE || (s->stuck && code == -ETIMEDOUT));
}

static void by_job(void *state) {
    struct state *s = state;
    pnx_job_id job;
    int rc = pnx_executor_cleanup(s->executor, s->registry, s->id, NULL, NULL, &job);
    CHECK(rc == 0 || rc == -ESTALE);
    if (rc == 0)
        await_job(s, job);
    leave(s);
}

static void defer(void *state) {
    struct state *s = state;
    pnx_job_id job;
    int rc = pnx_guard_defer(&s->guard, s->executor, NULL, NULL, &job);
    CHECK(rc == 0 || rc == -ESTALE);
    CHECK_EQ(s->guard.fn != NULL, rc != 0); /* what was refused is still armed */
    if (rc == 0)
        await_job(s, job);
    leave(s);
}

static void drop(void *state) {
    struct state *s = state;
    pnx_guard_drop(&s->guard);
    CHECK_EQ(x_cell_read(&s->thing), ENDED); /* whoever has ended it: it has ended */
    leave(s);
}

/* ---- the end ---- */

/* Exactly one has ended it, or taken it. */
static void check_one(void *state) {
    struct state *s = state;
    uint32_t ended = pnx_load(&s->ended, PNX_RELAXED, "claims_suite.all_ended");
    uint32_t removed = pnx_load(&s->removed, PNX_RELAXED, "claims_suite.all_removed");
    CHECK_EQ(ended + removed, 1);
    CHECK_EQ(x_cell_read(&s->thing), ended ? ENDED : ALIVE);
    CHECK_EQ(pnx_load(&s->runs, PNX_RELAXED, "claims_suite.all_runs") >= ended, 1);
    pnx_guard_drop(&s->guard); /* of a row that has ended: nothing is left to do */
    CHECK_EQ(pnx_load(&s->ended, PNX_RELAXED, "claims_suite.same"), ended);
    CHECK_EQ(pnx_registry_count(s->registry), 0);
    pnx__registry_check(s->registry);
    pnx_registry_release(&s->registry);
}

/* Executors and shutdowns have threads of their own: with those, switches at every point are too many to try. */
static void explore(const char *name, uint32_t preemptions, void (*setup)(void *state),
        void (*first)(void *state), void (*second)(void *state), void (*third)(void *state)) {
    x_explore(&(struct x_test){.name = name,
            .size = sizeof(struct state),
            .setup = setup,
            .thread = {first, second, third},
            .final = check_one,
            .preemptions = preemptions,
            .stale = 1,
            .timeouts =
                    setup == begin_stuck ? 1 : X_NONE, /* else time passes when nobody can go on */
            .random = RANDOM,
            .floor = 10});
}

TEST_LIMIT(p1_a_force_the_owner_and_a_second_release_claim_a_row_once, LIMIT) {
    explore("force-release-twice", 3, begin_forceable, force, release, release);
}

TEST_LIMIT(p1_so_do_a_batch_and_a_force, LIMIT) {
    explore("batch-force", 3, begin_forceable, batch, force, release);
}

TEST_LIMIT(p1_so_do_a_shutdown_and_a_force, LIMIT) {
    explore("shutdown-force", PREEMPTIONS, begin_forceable, shut_down, force, release);
}

TEST_LIMIT(p1_so_does_a_shutdown_beside_a_second_release, LIMIT) {
    explore("shutdown-release-twice", PREEMPTIONS, begin_forceable, shut_down, release, release);
}

TEST_LIMIT(p1_so_does_a_job, LIMIT) {
    explore("job-release", PREEMPTIONS, begin_job, by_job, release_and_leave, NULL);
    explore("job-force", PREEMPTIONS, begin_job, by_job, force_and_leave, NULL);
}

TEST_LIMIT(p1_so_does_a_job_beside_a_second_release, LIMIT) {
    explore("job-release-twice", SWITCHES, begin_job_of_three, by_job, release_and_leave,
            release_and_leave);
}

TEST_LIMIT(p1_so_do_two_jobs, LIMIT) {
    explore("job-job", PREEMPTIONS, begin_job, by_job, by_job, NULL);
}

TEST_LIMIT(p1_so_does_a_job_beside_a_shutdown, LIMIT) {
    explore("job-shutdown", SWITCHES, begin_plain_job, by_job, shut_down_and_leave, NULL);
    explore("job-shutdown-release", SWITCHES, begin_plain_job_of_three, by_job, release_and_leave,
            shut_down_and_leave);
}

TEST_LIMIT(p1_so_does_a_job_that_runs_out_of_time, LIMIT) {
    explore("timeout-release", SWITCHES, begin_stuck, by_job, release_and_leave, NULL);
    explore("timeout-force", SWITCHES, begin_stuck, by_job, force_and_leave, NULL);
}

TEST_LIMIT(p1_so_does_a_job_that_is_tried_again, LIMIT) {
    explore("not-now-release", PREEMPTIONS, begin_not_now, by_job, release_and_leave, NULL);
}

TEST_LIMIT(p1_so_does_a_deferred_guard, LIMIT) {
    explore("defer-remove", PREEMPTIONS, begin_guard, defer, release_and_leave, NULL);
    explore("defer-force", PREEMPTIONS, begin_guard, defer, force_and_leave, NULL);
}

TEST_LIMIT(p1_so_does_a_dropped_guard, LIMIT) {
    explore("drop-job", PREEMPTIONS, begin_guard, drop, by_job, NULL);
    explore("drop-job-force", SWITCHES, begin_guard_of_three, drop, by_job, force_and_leave);
}
