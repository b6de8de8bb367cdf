/* SPDX-License-Identifier: Apache-2.0 */
/* Shutdowns without memory, without threads, without records of threads: P5 of patinox/shutdown.h. */
#include "resource/shutdown_case.h"

#include <patinox/executor.h>
#include <patinox/guard.h>

/* ---- no threads ---- */

TEST(without_a_thread_the_caller_runs_the_cleanups_itself) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    struct pnx_registry *registry = fresh();
    struct item items[5];
    for (int i = 0; i < 5; i++) {
        items[i] = (struct item){.number = i, .again = i == 2};
        add(registry, &items[i], 0);
    }
    test_os_fault("pthread_create", 1, true, EAGAIN);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    CHECK(test_os_fault_clear() >= 1);
    CHECK_COUNTS(report, 5, 0, 0, 0);
    CHECK(pthread_equal(items[4].thread, pthread_self()));
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

static int take_two_seconds(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    test_env_advance(arg, 2 * PNX_SEC);
    return 0;
}

TEST(p3_without_a_thread_no_cleanup_begins_after_the_deadline) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    struct pnx_registry *registry = on_virtual_time();
    for (int i = 0; i < 3; i++) {
        pnx_resource_id id;
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "slow", .cleanup = take_two_seconds, .arg = &te),
                         NULL, &id),
                0);
    }
    test_os_fault("pthread_create", 1, true, EAGAIN);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_SEC, &report), -ETIMEDOUT);
    CHECK(test_os_fault_clear() >= 1);
    CHECK_COUNTS(report, 1, 0, 0, 2);
    CHECK_EQ(counts_of(report).took_ns, 2 * PNX_SEC);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

TEST(without_a_second_thread_the_first_one_is_waited_for_and_goes_on) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered;
    sem_init(&entered, 0, 0);
    struct item slow = {.number = 1, .until_asked = true, .entered = &entered},
                fine = {.number = 0};
    add(registry, &fine, 0);
    add(registry, &slow, 0);
    test_os_fault("pthread_create", 2, true, EAGAIN);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    sem_wait(&entered);
    pass_until(registry, slow.deadline);
    CHECK_EQ(end_shutdown(&shutting), 0);
    test_os_fault_clear();
    CHECK_COUNTS(shutting.report, 2, 0, 0, 0);
    CHECK(pthread_equal(fine.thread, slow.thread));
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

TEST(without_memory_for_threads_records_the_caller_runs_the_cleanups_itself) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    struct pnx_registry *registry = fresh();
    struct item items[5];
    for (int i = 0; i < 5; i++) {
        items[i] = (struct item){.number = i};
        add(registry, &items[i], 0); /* this thread gets its record */
    }
    test_os_fault("thread_record", 1, true, ENOMEM);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    CHECK(test_os_fault_clear() >= 1);
    CHECK_COUNTS(report, 5, 0, 0, 0);
    for (int i = 0; i < 5; i++) {
        CHECK(pthread_equal(items[i].thread, pthread_self()));
        CHECK_EQ(order[i], 4 - i);
    }
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

/* As creep(), while there is something to do that cannot be done. */
static void creep_without_a_thread(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    pass(registry, PNX_MS);
    for (bool seen = false; !seen;) {
        pnx__mutex_lock(&state->lock);
        seen = state->over ||
               state->seen == pnx_load(&registry->changed, PNX_RELAXED, "test.changed");
        pnx__mutex_unlock(&state->lock);
        sched_yield();
    }
}

TEST(when_no_thread_has_a_record_nothing_runs_until_there_is_memory_again) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    struct pnx_registry *registry = on_virtual_time();
    struct item item = {.number = 1};
    add(registry, &item, 0);
    test_os_fault("thread_record", 1, true, ENOMEM);
    struct shutting shutting;
    begin_shutdown(&shutting, registry, PNX_NEVER);
    for (int i = 0; i < 300; i++)
        creep_without_a_thread(registry);
    CHECK_EQ(calls_of(&item), 0);
    CHECK(test_os_fault_clear() >= 1);
    while (calls_of(&item) == 0)
        creep_without_a_thread(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
}

/* ---- no memory ---- */

static void refuse_memory(void) {
    te.fail_at = te.allocations + 1;
    te.fail_forever = true;
}

TEST(few_rows_need_no_memory_and_keep_their_order) {
    struct pnx_registry *registry = on_virtual_time();
    struct item items[PNX_SHUTDOWN_WINDOW];
    for (int i = 0; i < PNX_SHUTDOWN_WINDOW; i++) {
        items[i] = (struct item){.number = i};
        add_with(registry, &items[i], 0, 0, i % 2 ? PNX_PRIORITY_HIGH : PNX_PRIORITY_LOW);
    }
    int64_t before = te.allocations;
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), 0);
    CHECK_COUNTS(report, PNX_SHUTDOWN_WINDOW, 0, 0, 0);
    CHECK_EQ(te.allocations, before);
    for (int i = 0; i < PNX_SHUTDOWN_WINDOW; i++)
        CHECK_EQ(order[i], i < 32 ? 63 - 2 * i : 62 - 2 * (i - 32));
    pnx_registry_release(&registry);
    pnx_shutdown_report_release(&report);
    test_env_check_empty(&te);
}

static int write_into(void *ctx, const char *bytes, size_t n) {
    FILE *file = ctx;
    return fwrite(bytes, 1, n, file) == n ? 0 : -EIO;
}

enum { MANY = 1000 };
static struct item items[MANY];

/* What a shutdown of a certain registry writes, with memory for all rows, for some, or for none. */
static char *report_of(bool memory, int64_t failures) {
    struct pnx_registry *registry = on_virtual_time();
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    CHECK(file);
    uint64_t state = 4711;
    n_order = 0;
    for (int i = 0; i < MANY; i++) {
        uint64_t r = test_random(&state);
        items[i] = (struct item){.number = i, .code = r % 16 == 1 ? -EIO : 0};
        pnx_resource_id parent = i && r % 3 ? items[(r >> 8) % (uint64_t)i].id : 0;
        if (r % 3 == 1 && i > 2)
            parent = items[i - 1].id;
        if (r % 16 == 2)
            CHECK_EQ(pnx_registry_add(registry,
                             PNX_RESOURCE(.type = "bare", .parent = parent, .bytes = r % 100), NULL,
                             &items[i].id),
                    0);
        else
            add_with(registry, &items[i], parent, 0, (int32_t)((r >> 40) % 6));
    }
    te.fail_at = memory ? 0 : te.allocations + 1;
    te.fail_forever = failures == 0;
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_SEC, &report), -EIO);
    CHECK_EQ(registry->shutdown->whole, memory);
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, write_into, file), 0);
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, write_into, file), 0);
    CHECK_EQ(fclose(file), 0);
    pnx_shutdown_report_release(&report);
    for (int i = 0; i < MANY; i++)
        (void)pnx_registry_remove(registry, items[i].id);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
    return text;
}

/* Ids tell registries apart; else the reports are the same. */
static void strip_ids(char *text) {
    char *to = text;
    for (const char *from = text; *from; *to++ = *from++) {
        if (strncmp(from, "\"0x", 3) == 0)
            from += strcspn(from + 3, "\"") + 3;
    }
    *to = '\0';
}

static void check_same(const char *a, const char *b) {
    size_t i = 0;
    while (a[i] && a[i] == b[i])
        i++;
    size_t from = i > 40 ? i - 40 : 0;
    CHECK_MSG(a[i] == b[i], "they differ at %zu: \"%.80s\" and \"%.80s\"", i, a + from, b + from);
}

TEST(p1_the_report_is_the_same_as_with_memory) {
    char *with = report_of(true, 0), *without = report_of(false, 0), *some = report_of(false, 1);
    strip_ids(with);
    strip_ids(without);
    strip_ids(some);
    check_same(without, with);
    check_same(some, with);
    CHECK_CONTAINS(with, " leaked, 0 suppressed");
    free(with);
    free(without);
    free(some);
}

TEST(p2_without_memory_children_still_come_before_their_parents_and_the_last_last) {
    uint64_t state = test_seed();
    for (int round = 0; round < (test_slow() ? 3 : 20); round++) {
        struct pnx_registry *registry = on_virtual_time();
        static int parents[MANY], places[MANY];
        n_order = 0;
        int n_last = 0, edges = 0;
        for (int i = 0; i < MANY; i++) {
            uint64_t r = test_random(&state);
            items[i] = (struct item){.number = i};
            parents[i] = i && r % 3 ? (int)((r >> 8) % (uint64_t)i) : -1;
            if (r % 3 == 1 && i > 5)
                parents[i] = i - 1 - (int)((r >> 8) % 5);
            bool last = i > 900; /* no row waits for these */
            n_last += last;
            if (last || (parents[i] >= 0 && parents[i] > 900))
                parents[i] = -1;
            edges += parents[i] >= 0;
            add_with(registry, &items[i], parents[i] >= 0 ? items[parents[i]].id : 0, 0,
                    last ? PNX_PRIORITY_LAST : (int32_t)((r >> 40) % 5));
        }
        refuse_memory();
        struct pnx_shutdown_report *report;
        CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), 0);
        CHECK_COUNTS(report, MANY, 0, 0, 0);
        CHECK_EQ(n_ordered(), MANY);
        for (int i = 0; i < MANY; i++)
            places[order[i]] = i;
        for (int i = 0; i < MANY; i++) {
            if (parents[i] >= 0)
                CHECK(places[i] < places[parents[i]]);
            CHECK_EQ(places[i] >= MANY - n_last, i > 900);
        }
        CHECK(edges > 100);
        pnx_shutdown_report_release(&report);
        pnx_registry_release(&registry);
        test_env_check_empty(&te);
    }
}

static int count_called(int from, int to) {
    int n = 0;
    for (int i = from; i < to; i++)
        n += calls_of(&items[i]) > 0;
    return n;
}

enum { SOME = 300, N_LAST = 100 };

/* Rows of which the first N_LAST are of the last, some of them below others; some of the rest do not end yet. */
static void add_some(struct pnx_registry *registry, sem_t *entered, sem_t *go) {
    for (int i = 0; i < SOME; i++) {
        items[i] = (struct item){.number = i, .pends = i == 200, .again = i == 201 ? -1 : 0};
        bool hangs = go && i == SOME - 1;
        items[i].entered = hangs ? entered : NULL;
        items[i].go = hangs ? go : NULL;
        bool below = i > 0 &&
                     i < 4; /* 3, of the last, is below 2, which is not, below 1 and 0, which are */
        add_with(registry, &items[i], below ? items[i - 1].id : 0,
                i == 202 ? PNX_RESOURCE_OWNED : 0,
                i < N_LAST && i != 2 ? PNX_PRIORITY_LAST : PNX_PRIORITY_DEFAULT);
    }
}

TEST(p2_without_memory_the_last_wait_for_all_others_too) {
    struct pnx_registry *registry = on_virtual_time();
    add_some(registry, NULL, NULL);
    refuse_memory();
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 10 * LONG);
    while (count_called(N_LAST, SOME) < SOME - N_LAST - 1 || calls_of(&items[201]) < 3)
        creep(registry);
    CHECK_EQ(count_called(0, N_LAST), 0);
    CHECK_EQ(pnx_completion_done(&items[200].completion, 0), 0);
    CHECK_EQ(pnx_registry_remove(registry, items[202].id), 0);
    for (int calls = calls_of(&items[201]); calls_of(&items[201]) < calls + 3;)
        creep(registry);
    CHECK_EQ(count_called(0, N_LAST), 0);
    __atomic_store_n(&items[201].again, 0, __ATOMIC_RELAXED);
    while (count_called(0, N_LAST) < N_LAST)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK(!registry->shutdown->whole);
    CHECK_COUNTS(shutting.report, SOME, 0, 0, 0);
    int n = n_ordered();
    CHECK_EQ(order[n - N_LAST], 3); /* then what waits for it, and then the rest */
    CHECK_EQ(order[n - N_LAST + 1], 2);
    for (int i = 2; i < N_LAST - 2; i++)
        CHECK_EQ(order[n - N_LAST + i], N_LAST + 1 - i);
    CHECK_EQ(order[n - 2], 1);
    CHECK_EQ(order[n - 1], 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

static void arm_owned(struct pnx_registry *registry, struct pnx_guard *guard, struct item *item) {
    CHECK_EQ(pnx_guard_arm(guard, end_item, item), 0);
    CHECK_EQ(pnx_guard_track(guard, registry,
                     PNX_RESOURCE(.type = "owned", .flags = PNX_RESOURCE_OWNED), NULL),
            0);
}

/* What owners drop while a shutdown waits for them, though it cannot be ended yet, is the shutdown's from then on. */
static void owners_leave(bool memory) {
    enum { PLAIN = 100, CHILD = PLAIN, PARENT, ABOVE, LAST, AGAIN, ALL };
    struct pnx_registry *registry = on_virtual_time();
    struct pnx_guard parent = {0}, again = {0};
    n_order = 0;
    for (int i = 0; i < ALL; i++)
        items[i] = (struct item){.number = i, .pends = i == CHILD, .again = i == AGAIN ? 1 : 0};
    for (int i = 0; i < PLAIN; i++)
        add(registry, &items[i], 0);
    arm_owned(registry, &parent, &items[PARENT]);
    add(registry, &items[CHILD], pnx_guard_id(&parent));
    add(registry, &items[ABOVE], 0); /* this one waits for one that waits for all others */
    add_with(registry, &items[LAST], items[ABOVE].id, 0, PNX_PRIORITY_LAST);
    arm_owned(registry, &again, &items[AGAIN]);
    if (!memory)
        refuse_memory();
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    CHECK_EQ(registry->shutdown->whole, memory);
    while (n_ordered() < PLAIN + 1)
        sched_yield();
    CHECK_EQ(count_called(CHILD, ALL), 1);

    pnx_guard_drop(&again);
    while (calls_of(&items[AGAIN]) < 2)
        sched_yield();
    await_rows(registry, 4); /* it has ended, not only begun */
    pnx_guard_drop(&parent);
    CHECK_EQ(pnx_registry_count(registry), 4);
    CHECK_EQ(count_called(CHILD, ALL), 2);
    CHECK_EQ(pnx_completion_done(&items[CHILD].completion, 0), 0);
    CHECK_EQ(end_shutdown(&shutting), 0); /* and no time has to pass */
    CHECK_COUNTS(shutting.report, ALL, 0, 0, 0);
    int n = n_ordered();
    CHECK_EQ(n, ALL + 1);
    CHECK_EQ(order[n - 3], PARENT);
    CHECK_EQ(order[n - 2], LAST);
    CHECK_EQ(order[n - 1], ABOVE);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

TEST(what_owners_leave_to_a_shutdown_is_ended_after_its_children_and_before_the_last) {
    owners_leave(true);
}

TEST(without_memory_what_owners_leave_to_a_shutdown_is_ended_too) {
    owners_leave(false);
}

static bool sleeps(struct pnx_registry *registry) {
    struct pnx_shutdown_state *state = registry->shutdown;
    pnx__mutex_lock(&state->lock);
    bool looked = state->until != 0;
    pnx__mutex_unlock(&state->lock);
    return looked;
}

/* The row does not change: that it is nobody's is all that the shutdown is told. */
TEST(a_shutdown_is_woken_by_what_its_owner_leaves) {
    struct pnx_registry *registry = on_virtual_time();
    struct pnx_executor *executor;
    struct pnx_guard guard = {0};
    sem_t entered, go;
    struct item item = {0}, busy = {.entered = &entered, .go = &go};
    struct shutting shutting;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.registry = pnx_registry_off(), .workers = 1,
                                         .max_workers = 1),
                     NULL, &executor),
            0);
    CHECK_EQ(pnx_executor_submit(executor, PNX_JOB(.run = end_item, .arg = &busy), NULL, NULL), 0);
    sem_wait(&entered);
    arm_owned(registry, &guard, &item);
    CHECK_EQ(pnx_guard_defer(&guard, executor, NULL, NULL, NULL), 0);
    begin_shutdown(&shutting, registry, LONG);
    while (!sleeps(registry))
        sched_yield();
    CHECK_EQ(calls_of(&item), 0);
    CHECK_EQ(pnx_executor_close(executor, 0, NULL), -ETIMEDOUT); /* it has had no time */
    CHECK_EQ(end_shutdown(&shutting), 0);
    CHECK_EQ(calls_of(&item), 1);
    CHECK_COUNTS(shutting.report, 1, 0, 0, 0);
    sem_post(&go);
    CHECK_EQ(pnx_executor_close(executor, LONG, NULL),
            -ETIMEDOUT); /* as before, now that all has ended */
    pnx_executor_release(&executor);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

TEST(p2_without_memory_the_last_eighth_is_theirs_too) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    add_some(registry, &entered, &go);
    refuse_memory();
    struct shutting shutting;
    begin_shutdown(&shutting, registry, 8 * PNX_SEC);
    sem_wait(&entered);
    pass(registry, 7 * PNX_SEC); /* with most of a window before them */
    while (count_called(0, N_LAST) < N_LAST || count_called(N_LAST, SOME) < SOME - N_LAST - 1)
        sched_yield();
    for (int i = 1; i <= N_LAST - 3; i++) /* all but those above one of another priority */
        CHECK(order[i] < N_LAST);
    CHECK_EQ(pnx_completion_done(&items[200].completion, 0), 0);
    CHECK_EQ(pnx_registry_remove(registry, items[202].id), 0);
    __atomic_store_n(&items[201].again, 0, __ATOMIC_RELAXED);
    sem_post(&go);
    await_rows(registry, 1); /* what hung takes what it takes, and no time */
    while (pnx_registry_count(registry) > 0)
        creep(registry);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

TEST(without_memory_the_rest_does_not_wait_for_what_hangs_at_the_end_of_a_window) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    const int hangs = SOME - PNX_SHUTDOWN_WINDOW;
    for (int i = 0; i < SOME; i++) {
        items[i] = (struct item){.number = i};
        items[i].entered = i == hangs ? &entered : NULL;
        items[i].go = i == hangs ? &go : NULL;
        add(registry, &items[i], 0);
    }
    refuse_memory();
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    sem_wait(&entered);
    CHECK_EQ(n_ordered(), PNX_SHUTDOWN_WINDOW);
    pass_until(registry, items[hangs].deadline);
    await_calls(SOME);
    sem_post(&go);
    CHECK_EQ(end_shutdown(&shutting), 0);
    pnx_shutdown_report_release(&shutting.report);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

TEST(without_memory_the_last_made_comes_first) {
    struct pnx_registry *registry = on_virtual_time();
    for (int i = 0; i < MANY; i++) {
        items[i] = (struct item){.number = i};
        add(registry, &items[i], 0);
    }
    refuse_memory();
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, NULL), 0);
    CHECK_EQ(n_ordered(), MANY);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(order[i], MANY - 1 - i);
    pnx_registry_release(&registry);
}

TEST(without_memory_a_long_chain_ends_from_its_last_link) {
    struct pnx_registry *registry = on_virtual_time();
    for (int i = 0; i < MANY; i++) {
        items[i] = (struct item){.number = i};
        add_with(registry, &items[i], i ? items[i - 1].id : 0, 0, (int32_t)(i % 5));
    }
    refuse_memory();
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, NULL), 0);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(order[i], MANY - 1 - i);
    pnx_registry_release(&registry);
}

TEST(without_memory_rows_that_do_not_end_do_not_keep_others_from_it) {
    struct pnx_registry *registry = on_virtual_time();
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    /* The youngest: more than a window of each kind that holds up its parents, the oldest. */
    for (int i = 0; i < MANY; i++) {
        int kind = i < 500 ? 0 : 1 + i % 4;
        items[i] = (struct item){.number = i,
                .again = kind == 1 ? -1 : 0,
                .pends = kind == 2,
                .entered = i == 999 ? &entered : NULL,
                .go = i == 999 ? &go : NULL};
        if (kind == 4 && i != 999)
            CHECK_EQ(pnx_registry_add(registry,
                             PNX_RESOURCE(.type = "bare", .parent = items[i % 100].id), NULL,
                             &items[i].id),
                    0);
        else
            add_with(registry, &items[i], kind && kind < 4 ? items[i % 100].id : 0,
                    kind == 3 ? PNX_RESOURCE_OWNED : 0, 0);
    }
    refuse_memory();
    struct shutting shutting;
    begin_shutdown(&shutting, registry, LONG);
    sem_wait(&entered);
    pass_until(registry, items[999].deadline); /* routed around */
    /* 400 old rows that are nobody's parents, 25 whose children are bare; those that pend, or say not now. */
    while (count_called(0, MANY - 1) < 400 + 25 + 2 * 125)
        creep(registry);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(calls_of(&items[i]) > 0, i % 4 == 3);
    /* Now half of what holds up ends. */
    for (int i = 500; i < MANY - 1; i++) {
        if (i % 100 >= 50)
            continue;
        __atomic_store_n(&items[i].again, 0, __ATOMIC_RELAXED);
        if (items[i].pends)
            CHECK_EQ(pnx_completion_done(&items[i].completion, 0), 0);
        if (i % 4 == 2)
            CHECK_EQ(pnx_registry_remove(registry, items[i].id), 0);
    }
    while (count_called(0, 50) < 50)
        creep(registry);
    await_quiet(registry);
    pass(registry, LONG);
    CHECK_EQ(end_shutdown(&shutting), -ETIMEDOUT);
    struct pnx_shutdown_counts counts = counts_of(shutting.report);
    CHECK_EQ(counts.done + counts.failed + counts.abandoned + counts.leaked, MANY);
    CHECK_EQ(counts.abandoned, 1 + 60); /* hanging, and pending */
    sem_post(&go);
    pnx_shutdown_report_release(&shutting.report);
    for (int i = 0; i < MANY; i++) {
        if (items[i].pends && items[i].completion.done_)
            (void)pnx_completion_done(&items[i].completion, 0);
        (void)pnx_registry_remove(registry, items[i].id);
    }
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    while (__atomic_load_n(&te.live_blocks, __ATOMIC_ACQUIRE) > 0)
        sched_yield(); /* the thread that hung ends by itself, and holds the registry until then */
    test_env_check_empty(&te);
}

/* ---- each allocation ---- */

static int live_and_end(struct test_env *env, void *ctx) {
    struct pnx_registry *registry;
    (void)ctx;
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.env = &env->env), NULL, &registry);
    if (rc)
        return rc;
    int added = 0;
    n_order = 0;
    for (int i = 0; i < 300 && rc == 0; i++) {
        items[i] = (struct item){.number = i};
        rc = pnx_registry_add(registry,
                PNX_RESOURCE(.type = "item", .cleanup = end_item, .arg = &items[i],
                        .parent = i % 7 ? items[i - 1].id : 0),
                NULL, &items[i].id);
        added += rc == 0;
    }
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    CHECK_EQ(n_ordered(), added);
    CHECK_COUNTS(report, (size_t)added, 0, 0, 0);
    FILE *file = fopen("/dev/null", "w");
    CHECK(file);
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, write_into, file), 0);
    fclose(file);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
    return rc;
}

TEST(p5_each_allocation_may_fail_and_all_that_was_added_is_ended) {
    struct test_env env;
    test_env_init(&env);
    test_fail_each_allocation(&env, live_and_end, NULL);
}
