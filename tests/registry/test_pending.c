/* SPDX-License-Identifier: Apache-2.0 */
/* What a cleanup may return: not now (-EAGAIN), later (-EINPROGRESS), and what becomes of its row. */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/guard.h>
#include <patinox/registry.h>
#include <patinox/shutdown.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <string.h>

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

/* A resource whose cleanup does what the test has told it. */
struct thing {
    struct pnx_registry *registry;
    pnx_resource_id id;
    bool pend;
    bool twice; /* pends twice */
    bool early; /* completes before it returns */
    int early_code;
    int result; /* what it returns */
    int runs;
    int second; /* what the second pend returned */
    struct pnx_completion completion, copy;
};

static int end_thing(void *arg, const struct pnx_cancel *cancel) {
    struct thing *thing = arg;
    thing->runs++;
    if (thing->pend) {
        CHECK_EQ(pnx_cancel_pend(cancel, &thing->completion), 0);
        thing->copy = thing->completion;
    }
    if (thing->twice) {
        struct pnx_completion other;
        thing->second = pnx_cancel_pend(cancel, &other);
    }
    if (thing->early)
        CHECK_EQ(pnx_completion_done(&thing->completion, thing->early_code), 0);
    return thing->result;
}

static void add(struct thing *thing, struct pnx_registry *registry) {
    thing->registry = registry;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "thing", .name = "n", .cleanup = end_thing, .arg = thing),
                     NULL, &thing->id),
            0);
}

static enum pnx_resource_state state_of(const struct thing *thing) {
    struct pnx_resource_info info;
    int rc = pnx_registry_info(thing->registry, thing->id, &info);
    return rc ? (enum pnx_resource_state)0 : info.state;
}

/* ---- not now ---- */

TEST(a_cleanup_that_says_not_now_leaves_its_row_live_and_may_be_run_again) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.result = -EAGAIN};
    add(&thing, registry);
    for (int i = 1; i <= 3; i++) {
        CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EAGAIN);
        CHECK_EQ(thing.runs, i);
        CHECK_EQ(state_of(&thing), PNX_RESOURCE_LIVE);
        CHECK_EQ(pnx_registry_count(registry), 1);
    }
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.cleanups, 0); /* none has ended */
    thing.result = 0;
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EALREADY);
    CHECK_EQ(thing.runs, 4);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

TEST(a_row_that_came_back_may_be_removed) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.result = -EAGAIN};
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EAGAIN);
    CHECK_EQ(pnx_registry_remove(registry, thing.id), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(the_last_attempt_of_a_request_fails_for_good) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.result = -EAGAIN};
    add(&thing, registry);
    struct pnx_row_request request = {.cancel.deadline = {PNX_NEVER}, .last = true};
    bool claimed = false;
    CHECK_EQ(pnx__registry_run(registry, thing.id, &request, &claimed), -EAGAIN);
    CHECK(claimed);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx__registry_run(registry, thing.id, &request, &claimed), -EALREADY);
    CHECK(!claimed);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

struct meeting {
    struct pnx_registry *registry;
    pnx_resource_id id;
    sem_t entered, go;
    int result;
};

static int wait_and_come_back(void *arg, const struct pnx_cancel *cancel) {
    struct meeting *meeting = arg;
    (void)cancel;
    sem_post(&meeting->entered);
    sem_wait(&meeting->go);
    return -EAGAIN;
}

static void run_and_remove(unsigned index, void *ctx) {
    struct meeting *meeting = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_cleanup(meeting->registry, meeting->id), -EAGAIN);
    } else if (index == 1) {
        sem_wait(&meeting->entered);
        meeting->result = pnx_registry_remove(meeting->registry, meeting->id);
    } else {
        struct pnx_registry_stats stats = {.size = sizeof(stats)};
        while (stats.cleanup_waits == 0) {
            CHECK_EQ(pnx_registry_read_stats(meeting->registry, &stats), 0);
            sched_yield();
        }
        sem_post(&meeting->go);
    }
}

TEST(p2_a_removal_that_waited_for_a_cleanup_which_says_not_now_strikes_the_row) {
    struct meeting meeting = {.registry = fresh()};
    sem_init(&meeting.entered, 0, 0);
    sem_init(&meeting.go, 0, 0);
    CHECK_EQ(pnx_registry_add(meeting.registry,
                     PNX_RESOURCE(.type = "thing", .cleanup = wait_and_come_back, .arg = &meeting),
                     NULL, &meeting.id),
            0);
    test_threads(3, run_and_remove, &meeting);
    CHECK_EQ(meeting.result, 0);
    pnx__registry_check(meeting.registry);
    pnx_registry_release(&meeting.registry);
}

/* ---- later ---- */

TEST(a_pending_cleanup_ends_when_it_is_completed) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.pend = true, .twice = true, .result = -EINPROGRESS};
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EINPROGRESS);
    CHECK_EQ(thing.second, -EALREADY);
    CHECK_EQ(state_of(&thing), PNX_RESOURCE_PENDING);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EALREADY);
    CHECK_EQ(pnx_registry_remove(registry, thing.id), -EINPROGRESS); /* at once */
    pnx__registry_check(registry);
    CHECK_EQ(pnx_completion_done(&thing.completion, 0), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx_completion_done(&thing.completion, 0), -EINVAL); /* it is cleared */
    CHECK_EQ(pnx_completion_done(&thing.copy, 0), -EALREADY);
    CHECK_EQ(pnx_registry_remove(registry, thing.id), -EALREADY);
    CHECK_EQ(thing.runs, 1);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

TEST(a_completion_may_come_before_the_cleanup_returns) {
    struct pnx_registry *registry = fresh();
    const int codes[] = {0, -EIO, -EAGAIN};
    for (size_t i = 0; i < 3; i++) {
        struct thing thing = {
                .pend = true, .early = true, .early_code = codes[i], .result = -EINPROGRESS};
        add(&thing, registry);
        CHECK_EQ(pnx_registry_cleanup(registry, thing.id), codes[i]);
        CHECK_EQ(pnx_completion_done(&thing.copy, 0), -EALREADY);
        CHECK_EQ(pnx_registry_count(registry), codes[i] == -EAGAIN);
        if (codes[i] == -EAGAIN)
            CHECK_EQ(pnx_registry_remove(registry, thing.id), 0);
    }
    pnx_registry_release(&registry);
}

TEST(a_cleanup_that_pends_and_ends_all_the_same_has_ended) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.pend = true, .result = 0};
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), 0);
    CHECK_EQ(pnx_completion_done(&thing.completion, 0), -EALREADY);
    thing.result = -EAGAIN;
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EAGAIN);
    CHECK_EQ(state_of(&thing), PNX_RESOURCE_LIVE);
    CHECK_EQ(pnx_completion_done(&thing.completion, 0), -EALREADY);
    CHECK_EQ(state_of(&thing), PNX_RESOURCE_LIVE);
    CHECK_EQ(pnx_registry_remove(registry, thing.id), 0);
    pnx_registry_release(&registry);
}

TEST(in_progress_without_a_pend_is_a_failure) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.result = -EINPROGRESS};
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EINVAL);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(a_completion_of_an_earlier_run_does_not_end_a_later_one) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.pend = true, .result = -EINPROGRESS};
    add(&thing, registry);
    struct pnx_completion stale = {0};
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EINPROGRESS);
        struct pnx_completion copy = stale;
        if (i)
            CHECK_EQ(pnx_completion_done(&copy, 0), -EALREADY);
        CHECK_EQ(state_of(&thing), PNX_RESOURCE_PENDING);
        stale = thing.completion;
        CHECK_EQ(pnx_completion_done(&thing.completion, -EAGAIN), 0); /* live again */
        CHECK_EQ(state_of(&thing), PNX_RESOURCE_LIVE);
    }
    CHECK_EQ(thing.runs, 10);
    CHECK_EQ(pnx_registry_remove(registry, thing.id), 0);
    for (int i = 0; i < 1000; i++) { /* the slot is used again */
        struct thing other = {.result = 0};
        add(&other, registry);
        CHECK_EQ(pnx_registry_remove(registry, other.id), 0);
    }
    CHECK_EQ(pnx_completion_done(&stale, 0), -ESTALE);
    pnx_registry_release(&registry);
}

TEST(a_pending_cleanup_that_fails_is_an_event) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.pend = true, .result = -EINPROGRESS};
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EINPROGRESS);
    CHECK_EQ(pnx_completion_done(&thing.completion, -EIO), 0);
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EINPROGRESS);
    CHECK_EQ(pnx_completion_done(&thing.completion, 7), 0); /* counts as -EINVAL */
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.cleanups, 2);
    CHECK_EQ(stats.cleanups_failed, 2);
    pnx_registry_release(&registry);
}

struct told {
    int n;
    int code;
};

static void tell(void *ctx, int code) {
    struct told *told = ctx;
    told->n++;
    told->code = code;
}

TEST(a_request_is_told_once_how_a_pending_cleanup_has_ended) {
    struct pnx_registry *registry = fresh();
    const int codes[] = {0, -EIO, -EAGAIN};
    for (size_t i = 0; i < 3; i++) {
        struct told told = {0};
        struct thing thing = {.pend = true, .result = -EINPROGRESS};
        add(&thing, registry);
        struct pnx_row_request request = {
                .cancel.deadline = {PNX_NEVER}, .pended = tell, .ctx = &told};
        bool claimed;
        CHECK_EQ(pnx__registry_run(registry, thing.id, &request, &claimed), -EINPROGRESS);
        CHECK(claimed);
        pnx__registry_check(registry);
        CHECK_EQ(told.n, 0);
        CHECK_EQ(pnx__row_ask(registry, thing.id), 0); /* whoever goes on with it may look */
        CHECK(pnx_cancel_requested(&request.cancel));
        CHECK_EQ(pnx_completion_done(&thing.completion, codes[i]), 0);
        CHECK_EQ(told.n, 1);
        CHECK_EQ(told.code, codes[i]);
        if (codes[i] == -EAGAIN) {
            CHECK_EQ(state_of(&thing), PNX_RESOURCE_LIVE);
            thing.pend = false;
            thing.result = 0;
            CHECK_EQ(pnx_registry_cleanup(registry, thing.id), 0); /* cleanup and arg are back */
            CHECK_EQ(thing.runs, 2);
        }
    }
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

struct two {
    struct thing thing;
    sem_t pending;
};

static void run_and_complete(unsigned index, void *ctx) {
    struct two *two = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_cleanup(two->thing.registry, two->thing.id), -EINPROGRESS);
        sem_post(&two->pending);
    } else {
        sem_wait(&two->pending);
        CHECK_EQ(pnx_completion_done(&two->thing.completion, 0), 0);
    }
}

TEST(another_thread_may_complete_it) {
    struct two two = {.thing = {.pend = true, .result = -EINPROGRESS}};
    sem_init(&two.pending, 0, 0);
    add(&two.thing, fresh());
    test_threads(2, run_and_complete, &two);
    CHECK_EQ(pnx_registry_count(two.thing.registry), 0);
    pnx_registry_release(&two.thing.registry);
}

TEST(a_pending_row_keeps_the_registry) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    struct thing thing = {.pend = true, .result = -EINPROGRESS};
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EINPROGRESS);
    pnx_registry_release(&registry);
    CHECK_EQ(pnx_completion_done(&thing.completion, -EIO), 0);
    test_env_check_empty(&te);
}

TEST(bad_pends_and_completions_are_refused) {
    struct pnx_completion completion = {0};
    CHECK_EQ(pnx_cancel_pend(NULL, &completion), -ENOTSUP);
    CHECK_EQ(pnx_cancel_pend(NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_completion_done(NULL, 0), -EINVAL);
    CHECK_EQ(pnx_completion_done(&completion, 0), -EINVAL);
}

/* ---- guards ---- */

static int pend_without_a_row(void *arg, const struct pnx_cancel *cancel) {
    struct pnx_completion completion;
    *(int *)arg = pnx_cancel_pend(cancel, &completion);
    return -EINPROGRESS;
}

TEST(an_untracked_guard_cannot_wait) {
    int result = 0;
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, pend_without_a_row, &result), 0);
    CHECK_EQ(pnx_guard_run(&guard), -EINVAL);
    CHECK_EQ(result, -ENOTSUP);
    CHECK(!pnx_guard_armed(&guard));
}

TEST(a_guard_whose_cleanup_says_not_now_stays_armed) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.result = -EAGAIN};
    for (int tracked = 0; tracked < 2; tracked++) {
        struct pnx_guard guard = {0};
        CHECK_EQ(pnx_guard_arm(&guard, end_thing, &thing), 0);
        if (tracked)
            CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "thing"), NULL), 0);
        thing.runs = 0;
        thing.result = -EAGAIN;
        CHECK_EQ(pnx_guard_run(&guard), -EAGAIN);
        CHECK(pnx_guard_armed(&guard));
        thing.result = 0;
        CHECK_EQ(pnx_guard_run(&guard), 0);
        CHECK(!pnx_guard_armed(&guard));
        CHECK_EQ(thing.runs, 2);
    }
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(a_dropped_guard_whose_cleanup_says_not_now_leaves_its_row_to_the_shutdown) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.result = -EAGAIN};
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, end_thing, &thing), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "thing"), NULL), 0);
    pnx_guard_drop(&guard);
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(pnx_registry_count(registry), 1);
    thing.result = 0;
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(thing.runs, 2);
    pnx_registry_release(&registry);
}

/* A cleanup that another thread runs, which says not now: the guard that waited for it runs it again. */
struct shared_guard {
    struct meeting meeting;
    struct pnx_guard guard;
    int runs;
};

static int wait_first(void *arg, const struct pnx_cancel *cancel) {
    struct shared_guard *shared = arg;
    return shared->runs++ == 0 ? wait_and_come_back(&shared->meeting, cancel) : 0;
}

static void run_and_drop(unsigned index, void *ctx) {
    struct shared_guard *shared = ctx;
    struct meeting *meeting = &shared->meeting;
    if (index == 0) {
        CHECK_EQ(pnx_registry_cleanup(meeting->registry, meeting->id), -EAGAIN);
    } else if (index == 1) {
        sem_wait(&meeting->entered);
        meeting->result = pnx_guard_run(&shared->guard);
    } else {
        struct pnx_registry_stats stats = {.size = sizeof(stats)};
        while (stats.cleanup_waits == 0) {
            CHECK_EQ(pnx_registry_read_stats(meeting->registry, &stats), 0);
            sched_yield();
        }
        sem_post(&meeting->go);
    }
}

TEST(a_guard_that_waited_for_a_cleanup_which_says_not_now_runs_it_again) {
    struct shared_guard shared = {.meeting.registry = fresh()};
    sem_init(&shared.meeting.entered, 0, 0);
    sem_init(&shared.meeting.go, 0, 0);
    CHECK_EQ(pnx_guard_arm(&shared.guard, wait_first, &shared), 0);
    CHECK_EQ(pnx_guard_track(
                     &shared.guard, shared.meeting.registry, PNX_RESOURCE(.type = "thing"), NULL),
            0);
    shared.meeting.id = pnx_guard_id(&shared.guard);
    test_threads(3, run_and_drop, &shared);
    CHECK_EQ(shared.meeting.result, 0);
    CHECK_EQ(shared.runs, 2);
    CHECK_EQ(pnx_registry_count(shared.meeting.registry), 0);
    pnx_registry_release(&shared.meeting.registry);
}

/* ---- shutdown ---- */

static void shut_down_and_complete(unsigned index, void *ctx) {
    struct two *two = ctx;
    if (index == 0) {
        struct pnx_shutdown_report *report;
        CHECK_EQ(pnx_registry_shutdown(two->thing.registry, PNX_NEVER, &report), -EIO);
        struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
        CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
        CHECK_EQ(counts.failed, 1);
        pnx_shutdown_report_release(&report);
    } else {
        while (state_of(&two->thing) != PNX_RESOURCE_PENDING)
            sched_yield();
        CHECK_EQ(pnx_completion_done(&two->thing.completion, -EIO), 0);
    }
}

TEST(a_shutdown_waits_for_a_pending_cleanup) {
    struct two two = {.thing = {.pend = true, .result = -EINPROGRESS}};
    add(&two.thing, fresh());
    test_threads(2, shut_down_and_complete, &two);
    pnx__registry_check(two.thing.registry);
    pnx_registry_release(&two.thing.registry);
}

TEST(a_cleanup_that_is_pending_at_the_deadline_is_abandoned_and_may_end_late) {
    struct pnx_registry *registry = fresh();
    struct thing thing = {.pend = true, .result = -EINPROGRESS};
    add(&thing, registry);
    CHECK_EQ(pnx_registry_cleanup(registry, thing.id), -EINPROGRESS); /* by then, for certain */
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, 20 * PNX_MS, &report), -ETIMEDOUT);
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.abandoned, 1);
    CHECK_EQ(pnx_registry_remove(registry, thing.id), -EINPROGRESS);
    pnx__registry_check(registry);
    CHECK_EQ(pnx_completion_done(&thing.completion, 0), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx_registry_remove(registry, thing.id), -EALREADY);
    pnx__registry_check(registry);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}
