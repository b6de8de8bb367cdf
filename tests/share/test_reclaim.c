/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim: P1..P3 of patinox/reclaim.h, limits, misuse. */
#include "share/reclaim_case.h"

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
    if (!pnx__barrier_is_asymmetric())
        test_skip("the system has no heavy barrier");
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

TEST(p2_one_runner_begins_what_a_thread_retired_in_order) {
    static struct thing things[1000];
    MAKE(.mode = PNX_RECLAIM_AUTO);
    for (unsigned i = 0; i < 1000; i++) {
        things[i].number = i;
        pnx_reclaim_retire(domain, &things[i].node, note, 1);
    }
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_run, 1000);
    for (unsigned i = 0; i < 1000; i++)
        CHECK_EQ(order[i], i);
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

/* ---- misuse ---- */

#ifdef PNX_DEBUG
/* Checks that fn aborts, with a line on standard error that contains this. */
static void check_abort(void (*fn)(void *), void *ctx, const char *part) {
    CHECK_CONTAINS(test_abort(fn, ctx), part);
}

static void retire_no_node(void *ctx) {
    pnx_reclaim_retire(ctx, NULL, note, 1);
}

static void retire_without_function(void *ctx) {
    static struct thing thing;
    pnx_reclaim_retire(ctx, &thing.node, NULL, 1);
}

/* What is found there is still ours, and no leak. */
static void *kept[16];
static void keep(void *ctx, void *memory, size_t size) {
    static unsigned n;
    (void)ctx, (void)size;
    CHECK(n < sizeof(kept) / sizeof(kept[0]));
    kept[n++] = memory;
}

static void tick_one_that_was_released(void *ctx) {
    struct pnx_reclaim *gone = ctx;
    pnx_reclaim_release(&domain);
    (void)pnx_reclaim_tick(gone, 0);
}

TEST(misuse_aborts_in_debug_builds_with_a_line_that_says_what) {
    test_env_init(&te);
    te.env.free = keep;
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.env = &te.env), NULL, &domain), 0);
    check_abort(retire_no_node, domain, "node && fn");
    check_abort(retire_without_function, domain, "node && fn");
    check_abort(tick_one_that_was_released, domain, "domain->magic");
    pnx_reclaim_release(&domain);
}
#endif

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
