/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shutdowns for which time matters: P3 and P4 of patinox/shutdown.h; cleanups that hang, say not now, or end later;
 * owners that are waited for.  The clock is the tests' own, and stands still while they do not move it.
 */
#include "resource/shutdown.h"
#include "resource/shutdown_case.h"

#include <time.h>

/* ---- many rows ---- */

/* The time that this process has worked: it makes no difference what else the machine has to do. */
static pnx_ns worked(void *ctx) {
    struct timespec time;
    (void)ctx;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (pnx_ns)time.tv_sec * PNX_SEC + time.tv_nsec;
}

static int end_at_once(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    __atomic_add_fetch((size_t *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

struct in_order {
    size_t n;
    int32_t priority;
    uint64_t made;
};

static int check_order(void *ctx, const struct pnx_resource_info *info) {
    struct in_order *before = ctx;
    CHECK(before->n == 0 || info->priority < before->priority ||
            (info->priority == before->priority && info->owner < before->made));
    *before = (struct in_order){before->n + 1, info->priority, info->owner};
    return 0;
}

/* One shutdown of n rows of different priorities. */
static void end_many(size_t n, pnx_ns timeout) {
    const struct pnx_env env = {.size = sizeof(env), .now = worked};
    struct pnx_registry *registry;
    struct pnx_shutdown_report *report;
    static size_t of_each[16], runs; /* a cleanup that was abandoned may come to its count later */
    size_t *counter = &of_each[runs++];
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &env), NULL, &registry), 0);
    for (size_t i = 0; i < n; i++) {
        pnx_resource_id id;
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "x", .cleanup = end_at_once, .arg = counter,
                                 .owner = i,
                                 .priority = i % 7 ? PNX_PRIORITY_NORMAL : PNX_PRIORITY_HIGH),
                         NULL, &id),
                0);
    }
    pnx_ns began = worked(NULL);
    int rc = pnx_registry_shutdown(registry, timeout, &report);
    pnx_ns took = worked(NULL) - began;
    struct pnx_shutdown_counts counts = counts_of(report);
    CHECK_EQ(counts.done + counts.failed + counts.abandoned + counts.leaked, n);
    /* One that ran at the deadline may have counted, and not have been seen to return. */
    size_t ended = __atomic_load_n(counter, __ATOMIC_RELAXED);
    CHECK(ended >= counts.done && ended <= counts.done + counts.abandoned);
    CHECK_EQ(rc, counts.done == n ? 0 : -ETIMEDOUT);
    if (counts.done + counts.abandoned == 0)
        CHECK_EQ(counts.leaked, n);
    /* The two looks that are never cut short, at the most that a look may take. */
    pnx_ns least = test_slow() ? 0 : (pnx_ns)n * 60;
    pnx_ns most = timeout + timeout / 10 > least ? timeout + timeout / 10 : least;
    if (rc && !test_slow())
        CHECK_MSG(took <= most + 5 * PNX_MS && counts.took_ns <= most + 5 * PNX_MS,
                "%zu rows, %lld us: it took %lld us, by the report %lld us", n,
                (long long)(timeout / PNX_US), (long long)(took / PNX_US),
                (long long)(counts.took_ns / PNX_US));
    struct in_order order_seen = {.n = 0};
    CHECK_EQ(pnx_shutdown_report_each(report, check_order, &order_seen), 0);
    CHECK_EQ(order_seen.n, n);
    for (size_t i = 0; i < 2; i++) { /* as often as one likes */
        order_seen = (struct in_order){.n = 0};
        CHECK_EQ(pnx_shutdown_report_each(report, check_order, &order_seen), 0);
    }
    pnx_shutdown_report_release(&report);
    pnx__registry_check(registry);
    pnx_registry_release(&registry);
}

TEST_LIMIT(p3_with_too_many_rows_for_the_time_it_is_kept_and_the_report_is_in_order, 300) {
    static const struct {
        size_t n;
        pnx_ns timeout;
    } cases[] = {{1000000, 0}, {1000000, 100 * PNX_MS}, {300000, 15 * PNX_MS},
            {300000, 30 * PNX_MS}, {300000, 60 * PNX_MS}, {5000, 0}, {5000, 100 * PNX_US},
            {5000, 500 * PNX_US}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        end_many(test_slow() ? cases[i].n / 20 : cases[i].n, cases[i].timeout);
}

/* ---- cleanups that hang ---- */

TEST(p2_a_parent_waits_for_a_child_whose_cleanup_is_overdue) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    struct item other = {.number = 0}, parent = {.number = 1},
                child = {.number = 2, .go = &go, .entered = &entered};
    add(registry, &other, 0); /* the oldest: runs last, unless the parent has to wait */
    add(registry, &parent, 0);
    add(registry, &child, parent.id);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 9 * PNX_SEC);
    sem_wait(&entered);
    pass(registry, 3 * PNX_SEC); /* the child's share */
    await_rows(registry, 2);     /* the other has ended, before the deadline */
    CHECK_EQ(n_ordered(), 2);
    CHECK_EQ(order[1], 0);
    pass(registry, 6 * PNX_SEC);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    CHECK_COUNTS(shutting.report, 1, 0, 1, 1);
    CHECK_EQ(counts_of(shutting.report).took_ns, 9 * PNX_SEC);
    CHECK_EQ(outcome_of(shutting.report, parent.id).state, PNX_RESOURCE_LEAKED);
    pnx_shutdown_report_release(&shutting.report);
    sem_post(&go); /* the child ends late; its parent stays untouched */
    CHECK_EQ(pnx_registry_remove(registry, parent.id), 0);
    await_rows(registry, 0);
    CHECK_EQ(n_ordered(), 2);
    pnx_registry_release(&registry);
}

TEST(p2_a_parent_follows_once_its_overdue_child_has_ended) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered;
    sem_init(&entered, 0, 0);
    struct item parent = {.number = 1},
                child = {.number = 2, .until_asked = true, .entered = &entered};
    add(registry, &parent, 0);
    add(registry, &child, parent.id);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 10 * PNX_SEC);
    sem_wait(&entered);
    pass(registry, 5 * PNX_SEC);
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_COUNTS(shutting.report, 2, 0, 0, 0);
    CHECK_EQ(order[0], 2);
    CHECK_EQ(order[1], 1);
    CHECK(child.was_asked);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p3_a_cleanup_that_hangs_is_routed_around_and_the_deadline_is_kept) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    struct item hung = {.number = 9, .entered = &entered, .go = &go}, fine[5];
    for (int i = 0; i < 5; i++) {
        fine[i] = (struct item){.number = i};
        add(registry, &fine[i], 0);
    }
    pnx_resource_id id = add(registry, &hung, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 6 * PNX_SEC);
    sem_wait(&entered);
    CHECK_EQ(hung.deadline, 2 * PNX_SEC); /* its share: a sixth */
    pass(registry, PNX_SEC);
    await_rows(registry, 1);
    CHECK_EQ(n_ordered(), 6);
    pass(registry, 5 * PNX_SEC);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    CHECK_EQ(counts_of(shutting.report).took_ns, 6 * PNX_SEC);
    CHECK_COUNTS(shutting.report, 5, 0, 1, 0);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.cleanups_overdue, 1);
    CHECK_EQ(stats.cleanups, 5);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(registry, id, &info), 0); /* its row stays while it runs */
    CHECK_EQ(info.state, PNX_RESOURCE_ABANDONED);
    CHECK_EQ(pnx_registry_count(registry), 1);
    hung.code = -EIO;
    sem_post(&go);
    CHECK_EQ(pnx_registry_remove(registry, id), -EALREADY); /* waits for its end */
    CHECK_EQ(pnx_registry_info(registry, id, &info), -ESTALE);
    CHECK_COUNTS(shutting.report, 5, 0, 1, 0); /* history is not rewritten */
    CHECK_EQ(outcome_of(shutting.report, id).state, PNX_RESOURCE_ABANDONED);
    CHECK_EQ(outcome_of(shutting.report, id).code, 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p4_when_all_workers_are_stuck_the_rest_is_reported_as_leaked) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t go;
    sem_init(&go, 0, 0);
    struct item items[PNX_SHUTDOWN_WORKERS + 3];
    for (int i = 0; i < PNX_SHUTDOWN_WORKERS + 3; i++) {
        items[i] = (struct item){.number = i, .go = &go};
        add(registry, &items[i], 0);
    }
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    for (int i = 1; i <= PNX_SHUTDOWN_WORKERS; i++) {
        await_calls(i);
        pass_until(registry, items[order[i - 1]].deadline);
    }
    pass(registry, LONG);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    CHECK_COUNTS(shutting.report, 0, 0, PNX_SHUTDOWN_WORKERS, 3);
    CHECK_EQ(n_ordered(), PNX_SHUTDOWN_WORKERS);
    for (int i = 0; i < PNX_SHUTDOWN_WORKERS; i++)
        sem_post(&go);
    await_rows(registry, 3);
    CHECK_EQ(n_ordered(), PNX_SHUTDOWN_WORKERS); /* nothing starts after the deadline */
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p4_workers_that_come_back_are_used_again) {
    struct pnx_registry *registry = on_virtual_time();
    enum { N = PNX_SHUTDOWN_WORKERS * 2 };
    struct item items[N];
    for (int i = 0; i < N; i++) {
        items[i] = (struct item){.number = i, .until_asked = i > 0};
        add(registry, &items[i], 0);
    }
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    for (int i = 1; i < N; i++) {
        await_calls(i);
        pass_until(registry, items[order[i - 1]].deadline); /* now it is asked, and ends */
    }
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_COUNTS(shutting.report, N, 0, 0, 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

/* ---- shares ---- */

TEST(each_cleanup_is_told_its_share_of_the_time) {
    struct pnx_registry *registry = on_virtual_time();
    struct item items[4], owned = {.number = 4};
    for (int i = 0; i < 4; i++) {
        items[i] = (struct item){.number = i};
        add(registry, &items[i], 0);
    }
    add_with(registry, &owned, 0, PNX_RESOURCE_OWNED, 0); /* not to be run: it has no share */
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 12 * PNX_SEC);
    await_calls(4);
    CHECK_EQ(pnx_registry_remove(registry, owned.id), 0);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    for (int i = 0; i < 4; i++) /* the first of four has a quarter, the last one all that is left */
        CHECK_EQ(items[i].deadline, PNX_SEC + 12 * PNX_SEC / (i + 1));
    pnx_registry_release(&registry);
}

TEST(a_share_is_not_too_short_to_be_of_use) {
    struct pnx_registry *registry = on_virtual_time();
    struct item items[100];
    memset(items, 0, sizeof(items));
    for (int i = 0; i < 100; i++)
        add(registry, &items[i], 0);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_SEC, NULL), 0);
    CHECK_EQ(items[99].deadline, PNX_SEC + PNX_SHUTDOWN_SHARE_MIN);
    CHECK_EQ(items[0].deadline, 2 * PNX_SEC);
    pnx_registry_release(&registry);
}

TEST(without_a_deadline_cleanups_have_none_either) {
    struct pnx_registry *registry = fresh();
    struct item item = {.number = 1};
    add(registry, &item, 0);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, NULL), 0);
    CHECK_EQ(item.deadline, PNX_NEVER);
    CHECK(!pthread_equal(item.thread, pthread_self())); /* on a thread of its own */
    pnx_registry_release(&registry);
}

TEST(a_timeout_of_zero_starts_nothing_and_says_so) {
    struct pnx_registry *registry = fresh();
    struct item item = {.number = 1};
    pnx_resource_id id = add(registry, &item, 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, 0, &report), -ETIMEDOUT);
    CHECK_EQ(n_ordered(), 0);
    CHECK_COUNTS(report, 0, 0, 0, 1);
    pnx_shutdown_report_release(&report);
    CHECK_EQ(pnx_registry_remove(registry, id), 0); /* it is still its owner's */
    pnx_registry_release(&registry);
}

/* ---- not now ---- */

static uint64_t retried(struct pnx_registry *registry) {
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    return stats.cleanups_retried;
}

TEST(a_cleanup_that_says_not_now_is_tried_again_after_pauses_that_grow) {
    struct pnx_registry *registry = on_virtual_time();
    enum { TRIES = 6 };
    struct item item = {.number = 1, .again = TRIES};
    add(registry, &item, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, PNX_NEVER);
    while (calls_of(&item) <= TRIES)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_COUNTS(shutting.report, 1, 0, 0, 0);
    for (int i = 1; i <= TRIES; i++) { /* half of 10 ms, 20 ms, ... at least */
        pnx_ns least = 5 * PNX_MS << (i - 1);
        pnx_ns pause = item.at[i] - item.at[i - 1];
        CHECK_MSG(pause >= least, "pause %d was %lld ns", i, (long long)pause);
    }
    CHECK_EQ(retried(registry), TRIES);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(others_have_their_turn_during_the_pause_but_not_its_parent) {
    struct pnx_registry *registry = on_virtual_time();
    struct item first = {.number = 0}, parent = {.number = 1}, item = {.number = 2, .again = 1};
    add(registry, &first, 0);
    add(registry, &parent, 0);
    add(registry, &item, parent.id);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, PNX_NEVER);
    await_calls(2);
    CHECK_EQ(order[1], 0);
    while (n_ordered() < 4)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_EQ(order[2], 2);
    CHECK_EQ(order[3], 1);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(what_says_not_now_until_the_deadline_has_failed_with_that) {
    struct pnx_registry *registry = on_virtual_time();
    struct item item = {.number = 1, .again = -1}, fine = {.number = 2};
    add(registry, &fine, 0);
    add(registry, &item, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    while (calls_of(&item) < 3)
        creep(registry);
    struct pnx_resource_info info;
    do /* until it has said so: it is not tried again while the time stands still */
        CHECK_EQ(pnx_registry_info(registry, item.id, &info), 0);
    while (info.state != PNX_RESOURCE_LIVE);
    pass(registry, LONG);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    CHECK_COUNTS(shutting.report, 1, 1, 0, 0);
    CHECK_EQ(outcome_of(shutting.report, item.id).state, PNX_RESOURCE_FAILED);
    CHECK_EQ(outcome_of(shutting.report, item.id).code, -EAGAIN);
    /* Its row is live, and its owner's: what becomes of it now does not change the report. */
    item.again = 0;
    item.code = -EIO;
    CHECK_EQ(pnx_registry_cleanup(registry, item.id), -EIO);
    CHECK_EQ(outcome_of(shutting.report, item.id).code, -EAGAIN);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(pauses_double_up_to_a_second_and_leave_room_for_a_try_before_the_deadline) {
    struct pnx_shutdown_state state = {.random = test_seed()};
    for (int round = 0; round < 1000; round++) {
        pnx_ns now = PNX_SEC;
        state.deadline = now + (pnx_ns)(test_random(&state.random) % (10 * PNX_SEC));
        uint32_t tries = 0;
        pnx_ns last = now;
        for (; now < state.deadline; tries++) {
            pnx_ns pause = pnx__shutdown_pause_locked(&state, tries, now);
            pnx_ns most = tries < 7 ? 10 * PNX_MS << tries : PNX_SEC;
            most = most < PNX_SEC ? most : PNX_SEC;
            bool cut = now + most >= state.deadline;
            CHECK(pause > 0 && pause <= most && (pause >= most / 2 || cut));
            last = now;
            now += pause;
        }
        CHECK_EQ(now, state.deadline); /* when nothing is started any more */
        CHECK(state.deadline - last <= 10 * PNX_MS);
        CHECK(tries <= 40);
    }
    state.deadline = PNX_NEVER;
    CHECK(pnx__shutdown_pause_locked(&state, UINT8_MAX, PNX_SEC) <= PNX_SEC);
}

TEST(its_owner_may_remove_what_says_not_now) {
    struct pnx_registry *registry = on_virtual_time();
    struct item item = {.number = 1, .again = -1}, parent = {.number = 2};
    add(registry, &parent, 0);
    add(registry, &item, parent.id);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, PNX_NEVER);
    while (calls_of(&item) < 2)
        creep(registry);
    CHECK_EQ(pnx_registry_remove(registry, item.id), 0); /* waits if it is just being tried */
    while (calls_of(&parent) == 0)
        creep(registry); /* it is found to have ended when its turn comes */
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_COUNTS(shutting.report, 2, 0, 0, 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

/* ---- later ---- */

TEST(what_is_pending_is_waited_for_and_its_parent_comes_after_it) {
    struct pnx_registry *registry = on_virtual_time();
    struct item parent = {.number = 1}, item = {.number = 2, .pends = true};
    add(registry, &parent, 0);
    add(registry, &item, parent.id);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    while (calls_of(&item) == 0)
        sched_yield();
    CHECK_EQ(pnx_completion_done(&item.completion, -EIO), 0);
    CHECK_EQ(end_shutdown(&shutting), -EIO);
    CHECK_COUNTS(shutting.report, 1, 1, 0, 0);
    CHECK_EQ(order[1], 1);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(what_is_pending_may_say_not_now_and_is_tried_again) {
    struct pnx_registry *registry = on_virtual_time();
    struct item item = {.number = 2, .pends = true};
    add(registry, &item, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, PNX_NEVER);
    for (int i = 1; i <= 3; i++) {
        while (calls_of(&item) < i)
            creep(registry);
        CHECK_EQ(pnx_completion_done(&item.completion, i < 3 ? -EAGAIN : 0), 0);
    }
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_EQ(calls_of(&item), 3);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(what_is_pending_at_the_deadline_is_abandoned) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered;
    sem_init(&entered, 0, 0);
    struct item item = {.number = 2, .pends = true, .entered = &entered};
    add(registry, &item, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, PNX_SEC);
    sem_wait(&entered);
    struct pnx_resource_info info;
    do /* until it has left its thread */
        CHECK_EQ(pnx_registry_info(registry, item.id, &info), 0);
    while (info.state != PNX_RESOURCE_PENDING);
    pass(registry, PNX_SEC);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    CHECK_COUNTS(shutting.report, 0, 0, 1, 0);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_completion_done(&item.completion, -EAGAIN), 0); /* now it is too late for that */
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(outcome_of(shutting.report, item.id).state, PNX_RESOURCE_ABANDONED);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

/* ---- the last ---- */

static pnx_resource_id add_last(
        struct pnx_registry *registry, struct item *item, pnx_resource_id parent) {
    return add_with(registry, item, parent, 0, PNX_PRIORITY_LAST);
}

/* Has what says not now be tried twice more: so the shutdown has looked at all there was. */
static void look_again(struct pnx_registry *registry, struct item *again) {
    for (int calls = calls_of(again); calls_of(again) < calls + 2;)
        creep(registry);
}

static void check_last_waits(pnx_ns timeout) {
    struct pnx_registry *registry = on_virtual_time();
    struct item last = {.number = 0}, pends = {.number = 1, .pends = true}, owned = {.number = 2},
                again = {.number = 3, .again = -1}, fine = {.number = 4};
    add(registry, &fine, 0);
    add(registry, &pends, 0);
    add_with(registry, &owned, 0, PNX_RESOURCE_OWNED, 0);
    add(registry, &again, 0);
    add_last(registry, &last, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, timeout);
    while (calls_of(&fine) == 0)
        creep(registry);
    look_again(registry, &again);
    CHECK_EQ(calls_of(&last), 0);
    CHECK_EQ(pnx_completion_done(&pends.completion, -EIO), 0);
    look_again(registry, &again);
    CHECK_EQ(calls_of(&last), 0);
    CHECK_EQ(pnx_registry_remove(registry, owned.id), 0);
    look_again(registry, &again);
    CHECK_EQ(calls_of(&last), 0);
    __atomic_store_n(&again.again, 0, __ATOMIC_RELAXED);
    while (calls_of(&last) == 0)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), -EIO);
    CHECK_COUNTS(shutting.report, 4, 1, 0, 0);
    CHECK_EQ(order[n_ordered() - 1], 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p2_the_last_wait_for_what_pends_says_not_now_or_is_its_owners) {
    check_last_waits(LONG);
}

TEST(p2_without_a_deadline_the_last_wait_as_long_as_it_takes) {
    check_last_waits(PNX_NEVER);
}

TEST(p2_without_a_deadline_there_is_no_last_eighth) {
    struct pnx_registry *registry = on_virtual_time();
    struct item last = {.number = 0}, again = {.number = 1, .again = -1};
    add_last(registry, &last, 0);
    add(registry, &again, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, PNX_NEVER);
    for (int i = 0; i < 3; i++) {
        look_again(registry, &again);
        pass(registry, 10000 * PNX_SEC);
    }
    look_again(registry, &again);
    CHECK_EQ(calls_of(&last), 0);
    __atomic_store_n(&again.again, 0, __ATOMIC_RELAXED);
    while (calls_of(&last) == 0)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

/* One of the last below a row of another priority is needed for that one's end, and so comes before those that are not. */
TEST(p2_the_last_that_others_wait_for_come_before_those_for_which_nobody_does) {
    struct pnx_registry *registry = on_virtual_time();
    struct item parent = {.number = 0, .again = 3}, child = {.number = 1}, last = {.number = 2},
                other = {.number = 3, .again = 3};
    add(registry, &parent, 0);
    add_last(registry, &child, parent.id);
    add_last(registry, &last, 0); /* the younger one */
    add(registry, &other, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    while (calls_of(&last) == 0)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    static const int expected[] = {3, 3, 3, 3, 1, 0, 0, 0, 0, 2};
    CHECK_EQ(n_ordered(), 10);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(order[i], expected[i]);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p2_when_the_last_eighth_begins_the_last_do_not_wait_for_what_hangs) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    struct item last = {.number = 0}, hangs = {.number = 1, .entered = &entered, .go = &go},
                fine = {.number = 2}, again = {.number = 3, .again = -1};
    pnx_ns begun = now_of_case();
    add_last(registry, &last, 0);
    add_with(registry, &again, 0, 0, PNX_PRIORITY_LOW);
    add(registry, &fine, 0);
    add(registry, &hangs, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 8 * PNX_SEC);
    sem_wait(&entered);
    pass_until(registry, hangs.deadline);
    while (calls_of(&fine) == 0)
        sched_yield();
    look_again(registry, &again);
    pass_until(registry, begun + 7 * PNX_SEC - 1);
    await_quiet(registry); /* else what says not now would have been overrun by the last eighth */
    CHECK_EQ(calls_of(&last), 0);
    pass(registry, 1);
    while (calls_of(&last) == 0)
        sched_yield();
    CHECK_EQ(last.at[0], begun + 7 * PNX_SEC);
    CHECK_EQ(last.deadline, begun + 7 * PNX_SEC + PNX_SEC / 2); /* one more may be tried */
    __atomic_store_n(&again.again, 0, __ATOMIC_RELAXED);
    sem_post(&go);
    await_rows(registry, 1); /* what hung takes what it takes, and no time */
    while (pnx_registry_count(registry) > 0)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_COUNTS(shutting.report, 4, 0, 0, 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p2_in_the_last_eighth_the_last_come_before_others_that_have_not_begun) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    struct item parent = {.number = 0}, child = {.number = 1},
                last[2] = {{.number = 2}, {.number = 3}}, fine = {.number = 4},
                hangs = {.number = 5, .entered = &entered, .go = &go};
    add_last(registry, &parent, 0);
    add(registry, &child, parent.id);
    add_last(registry, &last[0], 0);
    add_last(registry, &last[1], 0);
    add(registry, &fine, 0);
    add(registry, &hangs, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 8 * PNX_SEC);
    sem_wait(&entered);
    pass(registry, 7 * PNX_SEC);
    await_calls(6);
    static const int expected[] = {5, 3, 2, 4, 1, 0}; /* children come first even now */
    for (int i = 0; i < 6; i++)
        CHECK_EQ(order[i], expected[i]);
    sem_post(&go);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p4_a_cleanup_has_no_share_of_the_time_of_the_last) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    struct item last = {.number = 0}, hangs = {.number = 1, .entered = &entered, .go = &go};
    pnx_ns begun = now_of_case();
    add_last(registry, &last, 0);
    add(registry, &hangs, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 80 * PNX_MS); /* less than the least share */
    sem_wait(&entered);
    CHECK_EQ(hangs.deadline, begun + 70 * PNX_MS);
    pass(registry, 70 * PNX_MS);
    await_calls(2);
    await_rows(registry, 1); /* the last has ended, not only begun */
    CHECK_EQ(last.deadline, begun + 80 * PNX_MS);
    pass(registry, 10 * PNX_MS);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    CHECK_COUNTS(shutting.report, 1, 0, 1, 0);
    sem_post(&go);
    while (pnx_registry_count(registry) > 0)
        sched_yield();
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(p4_what_hangs_takes_no_share_of_the_time_that_is_left) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    struct item fine[2] = {{.number = 0}, {.number = 1}},
                hangs = {.number = 2, .entered = &entered, .go = &go};
    pnx_ns begun = now_of_case();
    add(registry, &fine[0], 0);
    add(registry, &fine[1], 0);
    add(registry, &hangs, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 9 * PNX_SEC);
    sem_wait(&entered);
    CHECK_EQ(hangs.deadline, begun + 3 * PNX_SEC);
    pass(registry, 3 * PNX_SEC);
    await_calls(3);
    CHECK_EQ(fine[1].deadline, begun + 6 * PNX_SEC);
    sem_post(&go);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

/* ---- owned ---- */

TEST(an_owner_is_waited_for_and_nothing_is_run) {
    struct pnx_registry *registry = on_virtual_time();
    struct item parent = {.number = 0}, owned = {.number = 1}, other = {.number = 2};
    add(registry, &parent, 0);
    add_with(registry, &owned, parent.id, PNX_RESOURCE_OWNED, 0);
    add(registry, &other, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    await_calls(1);
    CHECK_EQ(order[0], 2);
    pass(registry, PNX_SEC);
    CHECK_EQ(pnx_registry_remove(registry, owned.id), 0);
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_COUNTS(shutting.report, 3, 0, 0, 0);
    CHECK_EQ(calls_of(&owned), 0);
    CHECK_EQ(calls_of(&parent), 1); /* once its child had gone */
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(an_owner_may_run_the_cleanup_itself) {
    struct pnx_registry *registry = on_virtual_time();
    struct item owned = {.number = 1, .again = 1, .code = -EIO};
    add_with(registry, &owned, 0, PNX_RESOURCE_OWNED, 0);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    CHECK_EQ(pnx_registry_cleanup(registry, owned.id), -EAGAIN);
    pass(registry, PNX_SEC); /* it stays its owner's */
    CHECK_EQ(calls_of(&owned), 1);
    CHECK_EQ(pnx_registry_cleanup(registry, owned.id), -EIO);
    CHECK_EQ(end_shutdown(&shutting), -EIO);
    CHECK_COUNTS(shutting.report, 0, 1, 0, 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(what_its_owner_has_not_ended_in_time_has_leaked_and_so_have_its_parents) {
    struct pnx_registry *registry = on_virtual_time();
    struct item parent = {.number = 0}, owned[100];
    add(registry, &parent, 0);
    for (int i = 0; i < 100; i++) {
        owned[i] = (struct item){.number = 1 + i};
        add_with(registry, &owned[i], i ? 0 : parent.id, PNX_RESOURCE_OWNED, 0);
    }
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 10 * PNX_SEC);
    for (int i = 1; i < 100; i++)
        CHECK_EQ(pnx_registry_remove(registry, owned[i].id), 0);
    pass(registry, 10 * PNX_SEC);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    struct pnx_shutdown_counts counts = counts_of(shutting.report);
    CHECK_EQ(counts.leaked, 2);
    CHECK(counts.done <= 99); /* those removed before it began are none of its */
    CHECK_EQ(counts.failed + counts.abandoned, 0);
    CHECK_EQ(n_ordered(), 0);
    CHECK_EQ(pnx_registry_remove(registry, owned[0].id), 0);
    CHECK_EQ(outcome_of(shutting.report, owned[0].id).state, PNX_RESOURCE_LEAKED);
    pnx_shutdown_report_release(&shutting.report);
    CHECK_EQ(pnx_registry_remove(registry, parent.id), 0);
    pnx_registry_release(&registry);
}

TEST(every_row_is_asked_at_the_beginning) {
    struct pnx_registry *registry = on_virtual_time();
    struct item items[3];
    for (int i = 0; i < 3; i++) {
        items[i] = (struct item){.number = i};
        add_with(registry, &items[i], 0, i ? PNX_RESOURCE_OWNED : 0, 0);
    }
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    for (int i = 0; i < 3; i++) {
        const struct pnx_row *row = pnx__row_find(registry, items[i].id);
        for (bool asked = false; !asked;) { /* soon */
            struct pnx_shard *shard = pnx__row_lock(registry, items[i].id);
            asked = (row->order & PNX_ROW_ASKED) != 0;
            pnx__unlock(&shard->lock);
        }
    }
    for (int i = 1; i < 3; i++)
        CHECK_EQ(pnx_registry_remove(registry, items[i].id), 0);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

struct foreign {
    struct pnx_registry *registry;
    struct item item;
};

static void *clean_up_foreign(void *ctx) {
    struct foreign *foreign = ctx;
    CHECK_EQ(pnx_registry_cleanup(foreign->registry, foreign->item.id), 0);
    return NULL;
}

TEST(a_cleanup_that_others_are_running_is_asked_to_hurry) {
    sem_t entered;
    sem_init(&entered, 0, 0);
    struct foreign foreign = {.registry = on_virtual_time(),
            .item = {.number = 1, .until_asked = true, .entered = &entered}};
    add(foreign.registry, &foreign.item, 0);
    pthread_t thread = begin(clean_up_foreign, &foreign);
    sem_wait(&entered);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(foreign.registry, LONG, &report), 0);
    CHECK_COUNTS(report, 1, 0, 0, 0);
    CHECK(foreign.item.was_asked);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&foreign.registry);
}
