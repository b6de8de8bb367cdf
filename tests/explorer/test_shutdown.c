/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_shutdown.c - shutdowns under every interleaving: beside owners that remove and release, others that run
 * cleanups, complete pending ones or add rows, and further shutdowns.  No cleanup runs twice or on memory that its
 * owner has freed, no wake of a leader is lost, and the report agrees with what happened.
 */
#include "explorer/explorer.h"
#include "registry/shutdown_state.h"

#include <patinox/executor.h>
#include <patinox/shutdown.h>

#include <unistd.h>

#define PREEMPTIONS 2 /* with 3 these take hours; what is beyond is searched at random */
#define RANDOM      (test_long() ? 100000u : 0u /* the default */)

/* What a row stands for.  Freed by its owner, once the row is removed. */
struct object {
    struct x_cell calls; /* written by the cleanup, read by the owner: a race when they meet */
    struct pnx_completion completion;
    struct pnx_a32 pended;
};

struct state {
    struct pnx_registry *registry;
    struct object *objects[2];
    pnx_resource_id ids[2];
    struct pnx_a32 again; /* so many calls of cleanups return -EAGAIN */
    struct pnx_a32 calls; /* of cleanups */
    bool pends;           /* fixed: all cleanups do */
    int removed[2];       /* what the owners' removes returned */
    int cleaned;          /* what pnx_registry_cleanup() returned */
    int added;
    struct pnx_shutdown_counts counts[2];
    int results[2];
    struct pnx_resource_info rows[2]; /* as the first report has them, in its order */
    size_t n_rows;
};
static struct state *now;

static int end(void *arg, const struct pnx_cancel *cancel) {
    struct object *object = arg;
    x_cell_write(&object->calls, x_cell_read(&object->calls) + 1);
    uint32_t call = pnx_fetch_add(&now->calls, 1, PNX_RELAXED, "shutdown_suite.call");
    if (call < pnx_load(&now->again, PNX_RELAXED, "shutdown_suite.again"))
        return -EAGAIN;
    if (!now->pends)
        return 0;
    CHECK_EQ(pnx_cancel_pend(cancel, &object->completion), 0);
    pnx_store(&object->pended, 1, PNX_RELEASE, "shutdown_suite.pended"); /* with complete */
    return -EINPROGRESS;
}

static void add_row(struct state *s, int i, pnx_resource_id parent, uint32_t flags) {
    s->objects[i] = x_alloc(sizeof(struct object));
    CHECK_EQ(pnx_registry_add(s->registry,
                     PNX_RESOURCE(.type = "object", .cleanup = end, .arg = s->objects[i],
                             .parent = parent, .flags = flags),
                     NULL, &s->ids[i]),
            0);
}

static void begin(struct state *s) {
    now = s;
    s->removed[0] = s->removed[1] = s->cleaned = s->added = 1; /* nobody has */
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &s->registry),
            0);
}

static int note_row(void *ctx, const struct pnx_resource_info *info) {
    struct state *s = ctx;
    CHECK(s->n_rows < 2);
    s->rows[s->n_rows++] = *info;
    return 0;
}

static void shut_down(struct state *s, int i, pnx_ns timeout) {
    struct pnx_shutdown_report *report = NULL;
    s->results[i] = pnx_registry_shutdown(s->registry, timeout, &report);
    if (!report)
        return;
    s->counts[i].size = sizeof(s->counts[i]);
    CHECK_EQ(pnx_shutdown_report_counts(report, &s->counts[i]), 0);
    if (i == 0)
        CHECK_EQ(pnx_shutdown_report_each(report, note_row, s), 0);
    pnx_shutdown_report_release(&report);
}

static void shut_down_first(void *state) {
    shut_down(state, 0, PNX_NEVER);
}

static void shut_down_second(void *state) {
    shut_down(state, 1, PNX_NEVER);
}

/* As an owner does: nobody uses the object once its row is removed. */
static void release_object(struct state *s, int i) {
    s->removed[i] = pnx_registry_remove(s->registry, s->ids[i]);
    CHECK(s->removed[i] == 0 || s->removed[i] == -EALREADY);
    CHECK_EQ(x_cell_read(&s->objects[i]->calls) > 0, s->removed[i] == -EALREADY);
    x_free(s->objects[i]);
    s->objects[i] = NULL;
}

static void release_second(void *state) {
    release_object(state, 1);
}

static void clean_first(void *state) {
    struct state *s = state;
    s->cleaned = pnx_registry_cleanup(s->registry, s->ids[0]);
    bool parent = s->ids[1] != 0; /* of the second row, which may be there */
    CHECK(s->cleaned == 0 || s->cleaned == -EALREADY || s->cleaned == -EAGAIN ||
            (s->cleaned == -EBUSY && parent));
}

/* The rest, alone: what is left is released. */
static void finish(struct state *s) {
    for (int i = 0; i < 2; i++) {
        if (s->objects[i])
            release_object(s, i);
    }
    CHECK_EQ(pnx_registry_count(s->registry), 0);
    pnx__registry_check(s->registry);
    pnx_registry_release(&s->registry);
}

/* Each row that the report has, has ended well. */
static void check_all_done(struct state *s) {
    CHECK_EQ(s->results[0], 0);
    CHECK_EQ(s->counts[0].failed + s->counts[0].abandoned + s->counts[0].leaked, 0);
    for (size_t i = 0; i < s->n_rows; i++) {
        CHECK(s->rows[i].id == s->ids[0] || s->rows[i].id == s->ids[1]);
        CHECK_EQ(s->rows[i].state, PNX_RESOURCE_DONE);
    }
    CHECK_EQ(s->counts[0].done, s->n_rows);
}

/* ---- owners, and others that run cleanups ---- */

static void parent_and_child(void *state) {
    begin(state);
    struct state *s = state;
    add_row(s, 0, 0, 0);
    add_row(s, 1, s->ids[0], 0);
}

static void finish_plain(void *state) {
    struct state *s = state;
    check_all_done(s);
    CHECK_EQ(x_cell_read(&s->objects[0]->calls), 1);
    finish(s);
}

TEST_LIMIT(p1_beside_an_owner_that_releases_and_another_that_cleans_up, 600) {
    x_explore(&(struct x_test){.name = "owner-other",
            .size = sizeof(struct state),
            .setup = parent_and_child,
            .thread = {shut_down_first, release_second, clean_first},
            .final = finish_plain,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 1000});
}

/* ---- not now ---- */

static void one_not_now(void *state) {
    struct state *s = state;
    begin(s);
    add_row(s, 0, 0, 0);
    pnx_store(&s->again, 1, PNX_RELAXED, "shutdown_suite.set");
}

static void finish_not_now(void *state) {
    struct state *s = state;
    check_all_done(s);
    CHECK_EQ(x_cell_read(&s->objects[0]->calls), 2);
    finish(s);
}

TEST_LIMIT(p1_what_says_not_now_to_another_or_to_it_is_tried_again, 600) {
    x_explore(&(struct x_test){.name = "not-now",
            .size = sizeof(struct state),
            .setup = one_not_now,
            .thread = {shut_down_first, clean_first},
            .final = finish_not_now,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

/* ---- pending ---- */

static void one_pends(void *state) {
    struct state *s = state;
    begin(s);
    s->pends = true;
    add_row(s, 0, 0, 0);
}

static void complete(void *state) {
    struct state *s = state;
    struct object *object = s->objects[0];
    while (!pnx_load(&object->pended, PNX_ACQUIRE, "shutdown_suite.complete"))
        pnx__spin_hint();
    CHECK_EQ(pnx_completion_done(&object->completion, 0), 0);
}

TEST_LIMIT(p1_no_completion_of_what_is_pending_is_missed, 600) {
    x_explore(&(struct x_test){.name = "pending",
            .size = sizeof(struct state),
            .setup = one_pends,
            .thread = {shut_down_first, complete},
            .final = finish_plain,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

/* ---- owners that are waited for, and callers that share ---- */

static void one_owned(void *state) {
    struct state *s = state;
    begin(s);
    add_row(s, 0, 0, 0);
    add_row(s, 1, s->ids[0], PNX_RESOURCE_OWNED);
}

static void finish_shared(void *state) {
    struct state *s = state;
    check_all_done(s);
    CHECK_EQ(s->results[1], 0);
    CHECK(memcmp(&s->counts[0], &s->counts[1], sizeof(s->counts[0])) == 0);
    CHECK_EQ(s->removed[1], 0); /* nobody else runs what is owned */
    CHECK_EQ(x_cell_read(&s->objects[0]->calls), 1);
    finish(s);
}

TEST_LIMIT(p6_two_callers_share_one_shutdown_that_waits_for_an_owner, 600) {
    x_explore(&(struct x_test){.name = "owned",
            .size = sizeof(struct state),
            .setup = one_owned,
            .thread = {shut_down_first, shut_down_second, release_second},
            .final = finish_shared,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

/* ---- admission ---- */

static void empty(void *state) {
    begin(state);
}

static void add_late(void *state) {
    struct state *s = state;
    struct object *object = x_alloc(sizeof(struct object));
    s->added = pnx_registry_add(s->registry,
            PNX_RESOURCE(.type = "object", .cleanup = end, .arg = object), NULL, &s->ids[0]);
    CHECK(s->added == 0 || s->added == -ESHUTDOWN);
    if (s->added == 0)
        s->objects[0] = object;
    else
        x_free(object);
}

static void finish_added(void *state) {
    struct state *s = state;
    check_all_done(s);
    CHECK_EQ(s->counts[0].done, s->added == 0);
    if (s->added == 0)
        CHECK_EQ(x_cell_read(&s->objects[0]->calls), 1);
    finish(s);
}

TEST_LIMIT(p1_a_row_is_refused_or_ended, 600) {
    x_explore(&(struct x_test){.name = "late",
            .size = sizeof(struct state),
            .setup = empty,
            .thread = {shut_down_first, add_late},
            .final = finish_added,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

/* ---- time ---- */

static void shut_down_soon(void *state) {
    shut_down(state, 0, PNX_MS);
}

static void finish_in_time(void *state) {
    struct state *s = state;
    size_t done = s->counts[0].done, leaked = s->counts[0].leaked;
    CHECK(s->results[0] == (leaked ? -ETIMEDOUT : 0));
    CHECK(done + leaked <= 1 && s->counts[0].failed + s->counts[0].abandoned == 0);
    CHECK_EQ(s->removed[1], 0);
    s->ids[0] = 0; /* there was none */
    finish(s);
}

static void one_owned_alone(void *state) {
    struct state *s = state;
    begin(s);
    add_row(s, 1, 0, PNX_RESOURCE_OWNED);
}

TEST_LIMIT(p3_an_owner_comes_before_the_deadline_or_after_it, 600) {
    x_explore(&(struct x_test){.name = "deadline",
            .size = sizeof(struct state),
            .setup = one_owned_alone,
            .thread = {shut_down_soon, release_second},
            .final = finish_in_time,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

/* ---- the last ---- */

/* What the cleanup of the last sees of all that came before: a race, unless it really came before. */
struct last_state {
    struct state s; /* first */
    struct x_cell before;
    struct x_cell calls;
};

static int end_last(void *arg, const struct pnx_cancel *cancel) {
    struct last_state *l = arg;
    (void)cancel;
    x_cell_write(&l->calls, x_cell_read(&l->calls) + 1);
    CHECK_EQ(x_cell_read(&l->before), 1);
    return 0;
}

static void add_the_last(struct last_state *l, pnx_cleanup_fn *cleanup) {
    CHECK_EQ(pnx_registry_add(l->s.registry,
                     PNX_RESOURCE(.type = "last", .cleanup = cleanup, .arg = l,
                             .priority = PNX_PRIORITY_LAST),
                     NULL, &l->s.ids[1]),
            0);
}

static void one_pends_and_the_last(void *state) {
    one_pends(state);
    add_the_last(state, end_last);
}

static void complete_before(void *state) {
    struct last_state *l = state;
    x_cell_write(&l->before, 1);
    complete(state);
}

static void finish_last(void *state) {
    struct last_state *l = state;
    check_all_done(&l->s);
    CHECK_EQ(l->s.n_rows, 2);
    CHECK_EQ(x_cell_read(&l->calls), 1);
    finish(&l->s);
}

TEST_LIMIT(p2_the_last_comes_after_what_was_pending, 600) {
    x_explore(&(struct x_test){.name = "last-pending",
            .size = sizeof(struct last_state),
            .setup = one_pends_and_the_last,
            .thread = {shut_down_first, complete_before},
            .final = finish_last,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

static void one_owned_and_the_last(void *state) {
    begin(state);
    add_row(state, 0, 0, PNX_RESOURCE_OWNED);
    add_the_last(state, end_last);
}

static void release_before(void *state) {
    struct last_state *l = state;
    x_cell_write(&l->before, 1);
    release_object(&l->s, 0);
}

static void finish_last_owned(void *state) {
    struct last_state *l = state;
    check_all_done(&l->s);
    CHECK_EQ(x_cell_read(&l->calls), 1);
    CHECK_EQ(l->s.removed[0], 0);
    finish(&l->s);
}

TEST_LIMIT(p2_the_last_comes_after_what_its_owner_ends, 600) {
    x_explore(&(struct x_test){.name = "last-owned",
            .size = sizeof(struct last_state),
            .setup = one_owned_and_the_last,
            .thread = {shut_down_first, release_before},
            .final = finish_last_owned,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

static int end_last_in_time(void *arg, const struct pnx_cancel *cancel) {
    struct last_state *l = arg;
    (void)cancel;
    x_cell_write(&l->calls, x_cell_read(&l->calls) + 1);
    return 0;
}

static void one_owned_and_the_last_in_time(void *state) {
    begin(state);
    add_row(state, 0, 0, PNX_RESOURCE_OWNED);
    add_the_last(state, end_last_in_time);
}

static void shut_down_in_time(void *state) {
    shut_down(state, 0, 8 * PNX_MS);
}

static void finish_last_in_time(void *state) {
    struct last_state *l = state;
    CHECK_EQ(x_cell_read(&l->calls), 1); /* the owner never comes, but the last eighth does */
    CHECK_EQ(l->s.results[0], -ETIMEDOUT);
    CHECK_EQ(l->s.counts[0].done, 1);
    CHECK_EQ(l->s.counts[0].leaked, 1);
    finish(&l->s);
}

TEST_LIMIT(p2_the_last_has_its_chance_though_an_owner_never_comes, 600) {
    x_explore(&(struct x_test){.name = "last-eighth",
            .size = sizeof(struct last_state),
            .setup = one_owned_and_the_last_in_time,
            .thread = {shut_down_in_time},
            .final = finish_last_in_time,
            .preemptions = PREEMPTIONS,
            .stale = 1,
            .timeouts = X_NONE, /* time passes when nobody can run: there is enough of it */
            .random = X_NONE,
            .floor = 2});
}

/* The eighth begins, the owner comes, and the deadline, in whatever order. */
static void release_first(void *state) {
    release_object(state, 0);
}

static void finish_last_beside_owner(void *state) {
    struct last_state *l = state;
    const struct pnx_shutdown_counts *counts = &l->s.counts[0];
    size_t calls = x_cell_read(&l->calls);
    CHECK(calls <= 1);
    CHECK_EQ(counts->done + counts->abandoned + counts->leaked, l->s.n_rows);
    CHECK_EQ(l->s.results[0], counts->abandoned + counts->leaked ? -ETIMEDOUT : 0);
    CHECK(calls == 1 || l->s.results[0] == -ETIMEDOUT);
    CHECK_EQ(l->s.removed[0], 0);
    CHECK_EQ(pnx_registry_remove(l->s.registry, l->s.ids[1]), calls ? -EALREADY : 0);
    finish(&l->s);
}

TEST_LIMIT(p2_the_last_runs_once_whether_the_eighth_comes_first_or_the_owner, 600) {
    x_explore(&(struct x_test){.name = "last-race",
            .size = sizeof(struct last_state),
            .setup = one_owned_and_the_last_in_time,
            .thread = {shut_down_in_time, release_first},
            .final = finish_last_beside_owner,
            .leaks = true, /* the thread of a cleanup that is late is detached */
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

/* ---- from inside a job ---- */

struct job_state {
    struct state s; /* first */
    struct pnx_executor *executor;
    struct x_cell calls;
    int rc;
};

static int ask(void *arg, const struct pnx_cancel *cancel) {
    struct job_state *j = arg;
    (void)cancel;
    x_cell_write(&j->calls, x_cell_read(&j->calls) + 1);
    j->rc = pnx_registry_shutdown(j->s.registry, PNX_NEVER, NULL);
    return 0;
}

/* Executions that are cut short leave their descriptor. */
static int fd_left = -1;

static void idle_loop(void *state) {
    struct job_state *j = state;
    if (fd_left >= 0)
        close(fd_left);
    begin(state);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.env = x_env(), .registry = j->s.registry,
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off(),
                                         .queue_max = 1, .timeout_ns = PNX_NEVER,
                                         .ageing_ns = PNX_NEVER, .flags = PNX_EXECUTOR_TICK),
                     NULL, &j->executor),
            0);
    fd_left = pnx_executor_fd(j->executor);
}

static void release_loop(struct job_state *j) {
    fd_left = -1;
    pnx_executor_release(&j->executor);
}

static void one_job(void *state) {
    struct job_state *j = state;
    idle_loop(state);
    CHECK_EQ(pnx_executor_submit(j->executor, PNX_JOB(.run = ask, .arg = j), NULL, NULL), 0);
}

static void tick(void *state) {
    struct job_state *j = state;
    (void)pnx_executor_tick(j->executor, x_env()->now(x_env()->ctx));
}

/* Whoever runs the job, and whether the other's shutdown has begun: it would wait for the job. */
static void finish_job(void *state) {
    struct job_state *j = state;
    CHECK_EQ(j->s.results[0], 0);
    CHECK_EQ(j->s.counts[0].done, 1);
    CHECK_EQ(x_cell_read(&j->calls), 1);
    CHECK_EQ(j->rc, -EDEADLK);
    release_loop(j);
    finish(&j->s);
}

static void shut_down_alone(void *state) {
    struct state *s = state;
    struct pnx_shutdown_report *report = NULL;
    s->results[0] = pnx_registry_shutdown(s->registry, PNX_NEVER, &report);
    s->counts[0].size = sizeof(s->counts[0]);
    CHECK_EQ(pnx_shutdown_report_counts(report, &s->counts[0]), 0);
    pnx_shutdown_report_release(&report);
}

TEST_LIMIT(p6_from_inside_a_job_for_which_it_waits_it_is_refused_beside_anothers, 600) {
    x_explore(&(struct x_test){.name = "inside-job",
            .size = sizeof(struct job_state),
            .setup = one_job,
            .thread = {shut_down_alone, tick},
            .final = finish_job,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .floor = 100});
}

/* ---- an event loop that follows ---- */

/* The executor is this thread's from now on: whether it leads or follows, it drives it. */
static void tick_and_shut_down(void *state) {
    struct job_state *j = state;
    tick(state);
    j->s.results[1] = pnx_registry_shutdown(j->s.registry, PNX_NEVER, NULL);
}

static void finish_loop(void *state) {
    struct job_state *j = state;
    CHECK_EQ(j->s.results[0], 0);
    CHECK_EQ(j->s.results[1], 0);
    CHECK_EQ(j->s.counts[0].done, 1);
    release_loop(j);
    finish(&j->s);
}

/* It sleeps on what changes, and not on the phase: only the stir tells it that the leader is done. */
TEST_LIMIT(p6_a_loop_that_follows_is_told_of_the_end, 600) {
    x_explore(&(struct x_test){.name = "loop-follows",
            .size = sizeof(struct job_state),
            .setup = idle_loop,
            .thread = {shut_down_alone, tick_and_shut_down},
            .final = finish_loop,
            .preemptions = PREEMPTIONS,
            .random = RANDOM,
            .stale = 1,
            .timeouts = X_NONE,
            .floor = 100});
}
