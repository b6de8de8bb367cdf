/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim: P1..P5 of patinox/reclaim.h, limits, stalls, making and ending domains. */
#include "harness/harness.h"
#include "os/thread.h"
#include "share/reclaim.h"

#include <patinox/reclaim.h>

#include <errno.h>
#include <pthread.h>

struct thing {
    struct pnx_reclaim_node node;
    unsigned number;
};

static unsigned order[4096]; /* numbers of things in the order of their functions */
static unsigned n_run;
static struct pnx_reclaim *domain;
static struct test_env te;

static void note(struct pnx_reclaim_node *node) {
    struct thing *thing = PNX_CONTAINER(node, struct thing, node);
    unsigned at = __atomic_fetch_add(&n_run, 1, __ATOMIC_SEQ_CST); /* several threads may run */
    if (at < 4096)
        order[at] = thing->number;
}

#define MAKE(...) \
    do { \
        test_env_init(&te); \
        CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.name = "test", .env = &te.env, __VA_ARGS__), \
                         NULL, &domain), \
                0); \
    } while (0)

static void drop(void) {
    pnx_reclaim_release(&domain);
    CHECK(domain == NULL);
    test_env_check_empty(&te);
}

static struct pnx_reclaim_stats stats(void) {
    struct pnx_reclaim_stats values = {.size = sizeof(values)};
    CHECK_EQ(pnx_reclaim_read_stats(domain, &values), 0);
    return values;
}

/* ---- events ---- */

static struct pnx_event last_event;
static char last_cause[64];
static int n_events;

static void hear(void *ctx, const struct pnx_event *event) {
    if (event->type != *(const enum pnx_event_type *)ctx)
        return;
    last_event = *event;
    (void)snprintf(last_cause, sizeof(last_cause), "%s", event->cause ? event->cause : "");
    n_events++;
}

static void listen_for(enum pnx_event_type type) {
    static enum pnx_event_type wanted;
    static struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear, .ctx = &wanted};
    uint32_t id;
    wanted = type;
    CHECK_EQ(pnx_monitor_add(NULL, &monitor, &id), 0);
}

/* ---- a reader that enters and exits when told ---- */

static pthread_barrier_t meet;
static pthread_t reader;

static void *read_until_told(void *arg) {
    (void)arg;
    pnx_reclaim_enter(domain);
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    pnx_reclaim_exit(domain);
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    return NULL;
}

static void start_reader(void) {
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&reader, NULL, read_until_told, NULL), 0);
    pthread_barrier_wait(&meet);
}

static void reader_exits(void) {
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
}

static void end_reader(void) {
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(reader, NULL), 0);
}

/* ---- P1, P2 ---- */

static void waits_for_the_section(uint32_t mode) {
    MAKE(.mode = mode);
    struct thing things[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    start_reader();
    for (int i = 0; i < 3; i++)
        pnx_reclaim_retire(domain, &things[i].node, note, 10);
    for (int i = 0; i < 10; i++)
        CHECK(pnx_reclaim_tick(domain, te.env.now(te.env.ctx)) != PNX_NEVER);
    CHECK_EQ(n_run, 0);
    CHECK_EQ(stats().pending, 3);
    CHECK_EQ(stats().pending_memory, 30);
    CHECK_EQ(pnx_reclaim_barrier(domain, 0), -ETIMEDOUT);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_MS), -ETIMEDOUT);
    CHECK_EQ(pnx_reclaim_synchronize(domain, 0), -ETIMEDOUT);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_MS), -ETIMEDOUT);
    reader_exits();
    CHECK(pnx_reclaim_tick(domain, te.env.now(te.env.ctx)) == PNX_NEVER);
    CHECK_EQ(n_run, 3);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(order[i], i);
    CHECK_EQ(stats().pending, 0);
    CHECK_EQ(stats().retired, 3);
    CHECK_EQ(stats().reclaimed, 3);
    CHECK_EQ(stats().fences, mode == PNX_RECLAIM_FENCES);
    CHECK_EQ(pnx_reclaim_synchronize(domain, 0), 0);
    end_reader();
    drop();
}

TEST(p1_a_node_waits_for_the_section_with_membarrier) {
    waits_for_the_section(PNX_RECLAIM_MEMBARRIER);
}

TEST(p1_a_node_waits_for_the_section_with_fences) {
    waits_for_the_section(PNX_RECLAIM_FENCES);
}

TEST(p1_a_nested_section_ends_with_the_outermost_exit) {
    MAKE(.mode = PNX_RECLAIM_AUTO);
    struct thing thing = {.number = 7};
    pnx_reclaim_enter(domain);
    pnx_reclaim_enter(domain);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    (void)pnx_reclaim_tick(domain, 0);
    pnx_reclaim_exit(domain);
    CHECK(pnx_reclaim_in_section(domain));
    CHECK(!pnx_reclaim_in_section(NULL));
    (void)pnx_reclaim_tick(domain, 0);
    CHECK_EQ(n_run, 0);
    pnx_reclaim_exit(domain);
    CHECK(!pnx_reclaim_in_section(domain));
    CHECK(pnx_reclaim_tick(domain, 0) == PNX_NEVER);
    CHECK_EQ(n_run, 1);
    drop();
}

TEST(p1_domains_do_not_wait_for_each_others_sections) {
    MAKE(.mode = PNX_RECLAIM_AUTO);
    struct pnx_reclaim *other = NULL;
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.name = "other"), NULL, &other), 0);
    struct thing thing = {0};
    start_reader();
    pnx_reclaim_retire(other, &thing.node, note, 1);
    CHECK_EQ(pnx_reclaim_barrier(other, PNX_NEVER), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
    reader_exits();
    end_reader();
    pnx_reclaim_release(&other);
    drop();
}

static void check_outside(struct pnx_reclaim_node *node) {
    CHECK(!pnx__reclaim_in_any());
    CHECK(__atomic_fetch_add(
                  &PNX_CONTAINER(node, struct thing, node)->number, 1, __ATOMIC_SEQ_CST) == 0);
    note(node);
}

static void retire_and_assist(unsigned index, void *ctx) {
    struct thing *things = (struct thing *)ctx + (size_t)index * 1000;
    for (unsigned i = 0; i < 1000; i++) {
        bool nested = i % 7 == 0;
        if (nested)
            pnx_reclaim_enter(domain);
        pnx_reclaim_retire(domain, &things[i].node, check_outside, 1);
        if (nested) {
            pnx__reclaim_assist(domain);
            pnx_reclaim_exit(domain);
        }
        pnx__reclaim_assist(domain);
        if (i % 128 == 0)
            (void)pnx_reclaim_tick(domain, 0);
    }
}

TEST(p2_functions_run_once_each_outside_sections) {
    static struct thing things[4000];
    MAKE(.mode = PNX_RECLAIM_AUTO);
    test_threads(4, retire_and_assist, things);
    CHECK(n_run > 0); /* the writes gave memory back, without a tick at the end */
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 4000);
    for (unsigned i = 0; i < 4000; i++)
        CHECK_EQ(things[i].number, 1);
    drop();
}

static bool in_retire;

static void check_not_in_retire(struct pnx_reclaim_node *node) {
    CHECK(!in_retire);
    note(node);
}

TEST(p2_retire_runs_nothing_even_over_the_limits) {
    static struct thing things[1000];
    MAKE(.max_pending_objects = 10, .max_pending_bytes = 100);
    for (unsigned i = 0; i < 1000; i++) {
        in_retire = true;
        pnx_reclaim_retire(domain, &things[i].node, check_not_in_retire, 1 << 20);
        in_retire = false;
    }
    CHECK_EQ(n_run, 0);
    CHECK(stats().throttled > 0);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1000);
    drop();
}

TEST(p2_a_domain_that_forbids_it_runs_nothing_in_writes) {
    static struct thing things[200];
    MAKE(.flags = PNX_RECLAIM_NO_ASSIST);
    for (unsigned i = 0; i < 200; i++) {
        pnx_reclaim_retire(domain, &things[i].node, note, 1);
        pnx__reclaim_assist(domain);
    }
    CHECK_EQ(n_run, 0);
    CHECK(pnx_reclaim_tick(domain, 0) == PNX_NEVER || n_run > 0);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 200);
    drop();
}

/* ---- P3: back-pressure is bounded ---- */

TEST(p3_retire_over_the_limit_goes_on_when_a_reader_does_not) {
    static struct thing things[200];
    MAKE(.max_pending_objects = 1, .assist_ns = 10 * PNX_US);
    test_env_virtual(&te, 0); /* and that with a clock that stands still */
    start_reader();
    for (unsigned i = 0; i < 200; i++)
        pnx_reclaim_retire(domain, &things[i].node, note, 1);
    CHECK_EQ(stats().throttled, 3);
    CHECK_EQ(stats().pending, 200);
    reader_exits();
    end_reader();
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 200);
    drop();
}

TEST(p3_inside_a_section_retire_does_not_wait) {
    static struct thing things[200];
    MAKE(.max_pending_objects = 1);
    pnx_reclaim_enter(domain);
    for (unsigned i = 0; i < 200; i++)
        pnx_reclaim_retire(domain, &things[i].node, note, 1);
    CHECK_EQ(stats().throttled, 0);
    pnx_reclaim_exit(domain);
    drop();
    CHECK_EQ(n_run, 200);
}

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
    wakes_sleepers(PNX_RECLAIM_MEMBARRIER);
}

TEST(p4_the_end_of_a_section_wakes_who_waits_for_it_with_fences) {
    wakes_sleepers(PNX_RECLAIM_FENCES);
}

/* ---- P5 and misuse ---- */

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

TEST(an_exit_without_an_enter_is_reported_and_changes_nothing) {
    struct thing thing = {0};
    MAKE(.mode = PNX_RECLAIM_AUTO);
    listen_for(PNX_EVENT_RECLAIM_MISUSE);
    pnx_reclaim_exit(domain);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(last_event.code, -EINVAL);
    pnx_reclaim_enter(domain);
    pnx_reclaim_exit(domain);
    pnx_reclaim_exit(domain);
    CHECK_EQ(n_events, 2);
    CHECK_EQ(last_event.value, (int64_t)pnx__thread()->id);
    CHECK_EQ(stats().misuses, 2);
    pnx_reclaim_enter(domain);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    CHECK(pnx_reclaim_in_section(domain));
    (void)pnx_reclaim_tick(domain, 0);
    CHECK_EQ(n_run, 0);
    pnx_reclaim_exit(domain);
    drop();
    CHECK_EQ(n_run, 1);
}

static void *nest_too_deep(void *arg) {
    (void)arg;
    for (uint64_t i = 0; i <= PNX_RECLAIM_NEST_ + 10; i++)
        pnx_reclaim_enter(domain);
    CHECK_EQ(n_events, 1);
    CHECK_EQ(last_event.code, -EOVERFLOW);
    for (uint64_t i = 0; i <= PNX_RECLAIM_NEST_ + 10; i++)
        pnx_reclaim_exit(domain);
    CHECK(pnx_reclaim_in_section(domain)); /* nothing is freed early */
    CHECK_EQ(n_events, 1);
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    return NULL;
}

TEST(a_nesting_too_deep_keeps_the_section_open_until_its_thread_ends) {
    struct thing thing = {0};
    MAKE(.mode = PNX_RECLAIM_AUTO);
    listen_for(PNX_EVENT_RECLAIM_MISUSE);
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&reader, NULL, nest_too_deep, NULL), 0);
    pthread_barrier_wait(&meet);
    pnx_reclaim_retire(domain, &thing.node, note, 1);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_MS), -ETIMEDOUT);
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(reader, NULL), 0);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1);
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

static void *enter_with_site(void *arg) {
    pnx__reclaim_enter_at(domain, "here.c:12");
    pnx__reclaim_enter_at(domain, "nested.c:1");
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    pnx_reclaim_exit(domain);
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
    CHECK_EQ(pthread_join(reader, NULL), 0);
    drop();
}
