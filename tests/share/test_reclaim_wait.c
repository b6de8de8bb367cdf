/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim: P4 and P5 of patinox/reclaim.h, and reports of sections that do not end. */
#include "share/reclaim_case.h"

/* ---- P4 ---- */

static void retire_here(unsigned index, void *ctx) {
    struct thing *things = ctx;
    pnx_reclaim_retire(domain, &things[index].node, note, 1);
}

TEST(p4_a_barrier_runs_what_threads_left_behind_that_are_gone) {
    struct thing things[8] = {0};
    MAKE(.mode = PNX_RECLAIM_AUTO);
    test_threads(8, retire_here, things);
    CHECK_EQ(n_run, 0);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 8);
    drop();
}

static void hang(struct pnx_reclaim_node *node) {
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    note(node);
}

static void *barrier_there(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    return NULL;
}

TEST(p4_a_barrier_waits_for_a_function_that_runs_elsewhere) {
    struct thing thing = {0};
    pthread_t other, third;
    MAKE(.mode = PNX_RECLAIM_AUTO);
    pthread_barrier_init(&meet, NULL, 2);
    pnx_reclaim_retire(domain, &thing.node, hang, 1);
    CHECK_EQ(pthread_create(&other, NULL, barrier_there, NULL), 0);
    pthread_barrier_wait(&meet); /* its function runs over there */
    CHECK_EQ(pnx_reclaim_barrier(domain, 0), -ETIMEDOUT);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_MS), -ETIMEDOUT);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), 0); /* readers only */
    CHECK_EQ(pthread_create(&third, NULL, barrier_there, NULL), 0);
    pthread_barrier_wait(&meet);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
    CHECK_EQ(pthread_join(other, NULL), 0);
    CHECK_EQ(pthread_join(third, NULL), 0);
    drop();
}

static void end_thread(struct pnx_reclaim_node *node) {
    note(node);
    pthread_exit(NULL);
}

static void *barrier_that_ends(void *arg) {
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 1); /* never returns */
    return arg;
}

/* One thread is busy with the first functions, another one's has ended it, and left those that it had taken. */
TEST(p4_a_busy_runner_goes_on_with_what_another_has_left_before_it_begins_what_is_ready) {
    enum { EACH = 64 }; /* functions that a runner takes at once: CHUNK of reclaim_run.c */
    static struct thing things[3 * EACH];
    pthread_t busy, ends;
    void *result = things;
    MAKE(.mode = PNX_RECLAIM_AUTO);
    pthread_barrier_init(&meet, NULL, 2);
    for (unsigned i = 0; i < 3 * EACH; i++) {
        things[i].number = i;
        pnx_reclaim_retire(domain, &things[i].node,
                i == 0      ? hang
                : i == EACH ? end_thread
                            : note,
                1);
    }
    CHECK_EQ(pthread_create(&busy, NULL, barrier_there, NULL), 0);
    pthread_barrier_wait(&meet); /* inside function 0 */
    CHECK_EQ(pthread_create(&ends, NULL, barrier_that_ends, things), 0);
    CHECK_EQ(pthread_join(ends, &result), 0);
    CHECK(result == NULL);
    CHECK_EQ(n_run, 1);
    CHECK_EQ(order[0], EACH);
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(busy, NULL), 0); /* its barrier has seen all of them */
    CHECK_EQ(n_run, 3 * EACH);
    for (unsigned i = 1; i < 3 * EACH; i++)
        CHECK_EQ(order[i], i <= EACH ? i - 1 : i);
    drop();
}

static void take_10_ms(struct pnx_reclaim_node *node) {
    test_env_advance(&te, 10 * PNX_MS);
    note(node);
}

TEST(p4_a_barrier_keeps_its_deadline_however_much_is_ready) {
    static struct thing things[200];
    MAKE(.mode = PNX_RECLAIM_AUTO);
    test_env_virtual(&te, 0);
    for (unsigned i = 0; i < 200; i++) {
        things[i].number = i;
        pnx_reclaim_retire(domain, &things[i].node, take_10_ms, 1);
    }
    CHECK_EQ(pnx_reclaim_barrier(domain, 25 * PNX_MS), -ETIMEDOUT);
    CHECK_EQ(n_run, 3);
    CHECK_EQ(stats().pending, 197);
    CHECK_EQ(pnx_reclaim_close(domain, 15 * PNX_MS), -ETIMEDOUT);
    CHECK_EQ(n_run, 5);
    CHECK_EQ(pnx_reclaim_barrier(domain, 0), 0); /* tries once: all that can be run now */
    CHECK_EQ(n_run, 200);
    for (unsigned i = 0; i < 200; i++)
        CHECK_EQ(order[i], i);
    drop();
}

static pthread_t waiter;
static bool let_go;

/* Returns when the waiter has seen that this function runs, and sleeps again. */
static void outlast_a_look(struct pnx_reclaim_node *node) {
    while (!pthread_equal(pthread_self(), waiter) && stats().waits < 2)
        sched_yield();
    note(node);
}

static void hang_but_in_the_waiter(struct pnx_reclaim_node *node) {
    while (!pthread_equal(pthread_self(), waiter) && !__atomic_load_n(&let_go, __ATOMIC_SEQ_CST))
        sched_yield();
    note(node);
}

/* Ends both grace periods before the one who sleeps can look, and mostly gets the functions before it, too. */
static void *exit_and_run(void *arg) {
    struct pnx_reclaim_effects effects = {0};
    pnx_reclaim_enter(domain);
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    pnx__mutex_lock(&domain->lock);
    pnx_reclaim_exit(domain);
    pnx__reclaim_step(domain, PNX_BEGIN_IF_RETIRED, &effects);
    pnx__mutex_unlock(&domain->lock);
    pnx__reclaim_run(domain, UINT64_MAX, false);
    return arg;
}

TEST(p4_a_barrier_does_not_wait_for_later_functions_that_hang) {
    struct thing first = {.number = 0}, second = {.number = 1};
    if (!pnx__barrier_is_asymmetric())
        test_skip("the system has no heavy barrier");
    MAKE(.mode = PNX_RECLAIM_MEMBARRIER);
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&reader, NULL, exit_and_run, NULL), 0);
    pthread_barrier_wait(&meet);
    pnx_reclaim_retire(domain, &first.node, outlast_a_look, 1);
    CHECK_EQ(pthread_create(&waiter, NULL, barrier_there, NULL), 0);
    while (stats().waits == 0)
        sched_yield();
    pnx_reclaim_retire(domain, &second.node, hang_but_in_the_waiter, 1);
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(waiter, NULL), 0);
    __atomic_store_n(&let_go, true, __ATOMIC_SEQ_CST);
    CHECK_EQ(pthread_join(reader, NULL), 0);
    drop();
    CHECK_EQ(n_run, 2);
}

static void *synchronize_there(void *arg) {
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), 0);
    __atomic_store_n((bool *)arg, true, __ATOMIC_SEQ_CST);
    return NULL;
}

static void wakes_sleepers(uint32_t mode) {
    bool done = false;
    pthread_t other;
    MAKE(.mode = mode);
    start_reader();
    CHECK_EQ(pthread_create(&other, NULL, synchronize_there, &done), 0);
    while (stats().waits == 0) /* it sleeps, or is about to */
        sched_yield();
    CHECK(!__atomic_load_n(&done, __ATOMIC_SEQ_CST));
    reader_exits();
    CHECK_EQ(pthread_join(other, NULL), 0);
    CHECK(done);
    end_reader();
    drop();
}

TEST(p4_the_end_of_a_section_wakes_who_waits_for_it_with_membarrier) {
    if (!pnx__barrier_is_asymmetric())
        test_skip("the system has no heavy barrier");
    wakes_sleepers(PNX_RECLAIM_MEMBARRIER);
}

TEST(p4_the_end_of_a_section_wakes_who_waits_for_it_with_fences) {
    wakes_sleepers(PNX_RECLAIM_FENCES);
}

/* ---- P5 ---- */

static void wait_in_callback(struct pnx_reclaim_node *node) {
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_barrier(NULL, 0), -EDEADLK);
    CHECK_EQ(pnx_reclaim_close(domain, PNX_NEVER), -EDEADLK);
    CHECK(pnx_reclaim_tick(domain, 5) > 5);
    pnx__reclaim_assist(domain);
    note(node);
}

TEST(p5_a_wait_from_a_callback_or_a_section_is_refused) {
    struct thing thing = {0};
    MAKE(.mode = PNX_RECLAIM_AUTO);
    pnx_reclaim_retire(domain, &thing.node, wait_in_callback, 1);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
    pnx_reclaim_enter(domain);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), -EDEADLK); /* two could wait crosswise */
    CHECK_EQ(pnx_reclaim_unload(0), -EBUSY);
    pnx_reclaim_exit(domain);
    CHECK_EQ(pnx_reclaim_barrier(domain, -5), -EINVAL);
    CHECK_EQ(pnx_reclaim_synchronize(domain, -5), -EINVAL);
    CHECK_EQ(pnx_reclaim_close(domain, -5), -EINVAL);
    drop();
}

/* ---- stalls ---- */

static struct pnx_reclaim_stall told;
static int n_told;

static void hear_stall(void *ctx, const struct pnx_reclaim_stall *stall) {
    CHECK(ctx == &told);
    told = *stall;
    n_told++;
}

TEST(a_section_that_does_not_end_is_reported_again_and_again) {
    struct thing thing = {0};
    MAKE(.on_stall = hear_stall, .ctx = &told, .stall_warn_ns = 100);
    listen_for(PNX_EVENT_RECLAIM_STALLED);
    test_env_virtual(&te, 1000);
    start_reader();
    pnx_reclaim_retire(domain, &thing.node, note, 77);
    CHECK(pnx_reclaim_tick(domain, 1000) != PNX_NEVER);
    (void)pnx_reclaim_tick(domain, 1099);
    CHECK_EQ(n_told, 0);
    (void)pnx_reclaim_tick(domain, 1100);
    CHECK_EQ(n_told, 1);
    CHECK_STR(told.domain, "test");
    CHECK_EQ(told.age, 100);
    CHECK_EQ(told.pending_objects, 1);
    CHECK_EQ(told.pending_bytes, 77);
    CHECK_EQ(told.sections, 1);
    CHECK(told.thread != 0 && told.thread != pnx__thread()->id);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(last_event.value, 100);
    (void)pnx_reclaim_tick(domain, 1199);
    CHECK_EQ(n_told, 1);
    (void)pnx_reclaim_tick(domain, 1250);
    CHECK_EQ(n_told, 2);
    CHECK_EQ(stats().stalls, 2);
    CHECK_EQ(pnx_reclaim_barrier(domain, 0), -ETIMEDOUT);
    reader_exits();
    (void)pnx_reclaim_tick(domain, 2000);
    CHECK_EQ(n_told, 2);
    CHECK_EQ(n_run, 1);
    end_reader();
    drop();
}

static void wait_when_told(void *ctx, const struct pnx_reclaim_stall *stall) {
    hear_stall(ctx, stall);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), -EDEADLK);
    CHECK(pnx_reclaim_tick(domain, INT64_MAX) > 0);
}

TEST(p5_who_is_told_of_a_stall_cannot_wait_for_its_end) {
    struct thing thing = {0};
    MAKE(.on_stall = wait_when_told, .ctx = &told, .stall_warn_ns = 100);
    test_env_virtual(&te, 1000);
    start_reader();
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    (void)pnx_reclaim_tick(domain, 1000);
    (void)pnx_reclaim_tick(domain, 2000);
    CHECK_EQ(n_told, 1);
    reader_exits();
    end_reader();
    drop();
    CHECK_EQ(n_run, 1);
}

static void *enter_with_site(void *arg) {
    pnx__reclaim_enter_at(domain, "here.c:12");
    pnx__reclaim_enter_at(domain, "nested.c:1");
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    pnx_reclaim_exit(domain);
    pnx_reclaim_exit(domain);
    pnx_reclaim_enter(domain); /* from code that notes none */
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    pnx_reclaim_exit(domain);
    return arg;
}

TEST(the_report_says_where_the_section_began) {
    struct thing thing = {0};
    MAKE(.on_stall = hear_stall, .ctx = &told, .stall_warn_ns = 1);
    listen_for(PNX_EVENT_RECLAIM_STALLED);
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&reader, NULL, enter_with_site, NULL), 0);
    pthread_barrier_wait(&meet);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_MS), -ETIMEDOUT);
    CHECK(n_told > 0);
    CHECK_STR(told.site, "here.c:12");
    CHECK_STR(last_cause, "here.c:12");
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    (void)pnx_reclaim_tick(domain, te.env.now(te.env.ctx));
    n_told = 0;
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_MS), -ETIMEDOUT);
    CHECK(n_told > 0);
    CHECK(told.site == NULL); /* not that of an earlier section */
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(reader, NULL), 0);
    drop();
}
