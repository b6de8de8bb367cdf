/* SPDX-License-Identifier: Apache-2.0 */
/* Guards: P1 and P2 of patinox/guard.h. */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/guard.h>
#include <patinox/query.h>
#include <patinox/shutdown.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

static int count_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

TEST(p1_an_armed_guard_runs_once) {
    int n = 0;
    struct pnx_guard guard = {0};
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &n), 0);
    CHECK(pnx_guard_armed(&guard));
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(pnx_guard_run(&guard), 0);
    pnx_guard_drop(&guard);
    pnx_guard_drop(NULL);
    CHECK_EQ(n, 1);
}

TEST(p1_a_dismissed_guard_gives_the_resource_back_and_never_runs) {
    int n = 0;
    {
        PNX_AUTO_GUARD guard = {0};
        CHECK_EQ(pnx_guard_arm(&guard, count_up, &n), 0);
        CHECK(pnx_guard_dismiss(&guard) == &n);
        CHECK(pnx_guard_dismiss(&guard) == NULL);
    }
    CHECK_EQ(n, 0);
}

TEST(a_guard_that_is_armed_or_gets_no_function_is_not_armed_again) {
    int n = 0, m = 0;
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, NULL, &n), -EINVAL);
    CHECK_EQ(pnx_guard_arm(NULL, count_up, &n), -EINVAL);
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &n), 0);
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &m), -EBUSY);
    pnx_guard_drop(&guard);
    CHECK_EQ(n, 1);
    CHECK_EQ(m, 0);
    CHECK(!pnx_guard_armed(NULL));
    CHECK_EQ(pnx_guard_id(NULL), 0);
}

TEST(the_resource_of_an_armed_guard_can_be_had) {
    int n = 0;
    struct pnx_guard guard = {0};
    CHECK(pnx_guard_resource(NULL) == NULL);
    CHECK(pnx_guard_resource(&guard) == NULL);
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &n), 0);
    CHECK(pnx_guard_resource(&guard) == &n);
    pnx_guard_drop(&guard);
    CHECK(pnx_guard_resource(&guard) == NULL);
}

static int fail(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return *(int *)arg;
}

TEST(run_returns_the_cleanups_status) {
    int code = -EIO;
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, fail, &code), 0);
    CHECK_EQ(pnx_guard_run(&guard), -EIO);
    code = 1;
    CHECK_EQ(pnx_guard_arm(&guard, fail, &code), 0);
    CHECK_EQ(pnx_guard_run(&guard), -EINVAL);
}

static int not_now(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return --*(int *)arg >= 0 ? -EAGAIN : 0;
}

TEST(p1_a_cleanup_that_could_not_runs_again_at_the_end_of_the_scope) {
    int left = 2;
    {
        PNX_AUTO_GUARD guard = {0};
        CHECK_EQ(pnx_guard_arm(&guard, not_now, &left), 0);
        CHECK_EQ(pnx_guard_run(&guard), -EAGAIN);
        CHECK_EQ(pnx_guard_run(&guard), -EAGAIN);
        CHECK(pnx_guard_resource(&guard) == &left);
        CHECK_EQ(pnx_guard_arm(&guard, not_now, &left), -EBUSY);
    }
    CHECK_EQ(left, -1);
}

static void drop_on_other_thread(unsigned index, void *ctx) {
    (void)index;
    struct pnx_guard guard = pnx_guard_move(ctx);
    pnx_guard_drop(&guard);
}

TEST(a_guard_may_be_moved_to_another_thread) {
    int n = 0;
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &n), 0);
    test_threads(1, drop_on_other_thread, &guard);
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(n, 1);
}

static int drop_itself(void *arg, const struct pnx_cancel *cancel) {
    struct pnx_guard *guard = arg;
    (void)cancel;
    CHECK(!pnx_guard_armed(guard));
    pnx_guard_drop(guard);
    return 0;
}

TEST(a_cleanup_finds_its_own_guard_empty) {
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, drop_itself, &guard), 0);
    CHECK_EQ(pnx_guard_run(&guard), 0);
}

/* ---- tracked ---- */

static int resource_n; /* what tracked guards clean up: not in a stack frame */

static struct pnx_guard tracked(struct pnx_registry *registry, int *counter) {
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, count_up, counter), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "guarded", .name = "g"), NULL),
            0);
    CHECK(pnx_guard_id(&guard) != 0);
    return guard;
}

TEST(v1_bug_guard_and_registry_row_are_one_thing) {
    struct pnx_registry *registry = fresh();
    struct pnx_guard guard = tracked(registry, &resource_n);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(registry, pnx_guard_id(&guard), &info), 0);
    CHECK_STR(info.type, "guarded");
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(resource_n, 1);
    CHECK_EQ(pnx_registry_count(registry), 0); /* the drop struck the row */

    guard = tracked(registry, &resource_n);
    CHECK_EQ(pnx_registry_cleanup(registry, pnx_guard_id(&guard)), 0);
    CHECK_EQ(resource_n, 2);
    CHECK_EQ(pnx_guard_run(&guard), -EALREADY); /* and the other way round */
    CHECK_EQ(resource_n, 2);
    pnx_registry_release(&registry);
}

TEST(p2_a_shutdown_runs_a_tracked_guards_cleanup_and_the_drop_does_not) {
    struct pnx_registry *registry = fresh();
    {
        PNX_AUTO_GUARD guard = tracked(registry, &resource_n);
        CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
        CHECK_EQ(resource_n, 1);
        CHECK(pnx_guard_armed(&guard));
    }
    CHECK_EQ(resource_n, 1);
    pnx_registry_release(&registry);
}

TEST(p2_dismissing_a_tracked_guard_strikes_its_row) {
    struct pnx_registry *registry = fresh();
    struct pnx_guard guard = tracked(registry, &resource_n);
    CHECK(pnx_guard_dismiss(&guard) == &resource_n);
    CHECK_EQ(pnx_registry_count(registry), 0);
    guard = tracked(registry, &resource_n);
    CHECK_EQ(pnx_registry_cleanup(registry, pnx_guard_id(&guard)), 0);
    CHECK(pnx_guard_dismiss(&guard) == NULL); /* there is nothing to give back any more */
    CHECK_EQ(resource_n, 1);
    pnx_registry_release(&registry);
}

static struct pnx_completion closing;

static int close_later(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    int rc = pnx_cancel_pend(cancel, &closing);
    return rc ? rc : -EINPROGRESS;
}

static struct pnx_guard pending(struct pnx_registry *registry) {
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, close_later, &resource_n), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "handle"), NULL), 0);
    return guard;
}

TEST(p2_a_tracked_guards_cleanup_may_end_later) {
    struct pnx_registry *registry = fresh();
    struct pnx_guard guard = pending(registry);
    CHECK_EQ(pnx_guard_run(&guard), -EINPROGRESS);
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_completion_done(&closing, 0), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);

    guard = pending(registry);
    pnx_guard_drop(&guard);
    CHECK_EQ(pnx_completion_done(&closing, 0), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(p2_a_resource_whose_cleanup_is_pending_cannot_be_taken_back) {
    struct pnx_registry *registry = fresh();
    struct pnx_guard guard = pending(registry);
    CHECK_EQ(pnx_registry_cleanup(registry, pnx_guard_id(&guard)), -EINPROGRESS);
    CHECK(pnx_guard_dismiss(&guard) == NULL);
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(pnx_completion_done(&closing, 0), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

TEST(p7_a_guard_whose_row_has_children_stays_armed_and_its_drop_leaves_the_row) {
    struct pnx_registry *registry = fresh();
    static int n, children;
    struct pnx_guard parent = tracked(registry, &n), child = {0};
    n = children = 0;
    CHECK_EQ(pnx_guard_arm(&child, count_up, &children), 0);
    CHECK_EQ(pnx_guard_track(&child, registry,
                     PNX_RESOURCE(.type = "stream", .parent = pnx_guard_id(&parent)), NULL),
            0);
    CHECK_EQ(pnx_guard_run(&parent), -EBUSY);
    CHECK(pnx_guard_armed(&parent));
    pnx_guard_drop(&parent);
    CHECK(!pnx_guard_armed(&parent));
    CHECK_EQ(n, 0);
    CHECK_EQ(pnx_registry_count(registry), 2);
    pnx_guard_drop(&child);
    CHECK_EQ(children, 1);
    CHECK_EQ(n, 0);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(n, 1);
    pnx_registry_release(&registry);
}

TEST(p7_what_an_owner_has_left_to_the_registry_a_shutdown_ends_though_it_was_owned) {
    struct pnx_registry *registry = fresh();
    static int n;
    struct pnx_guard parent = {0};
    pnx_resource_id child;
    n = 0;
    CHECK_EQ(pnx_guard_arm(&parent, count_up, &n), 0);
    CHECK_EQ(pnx_guard_track(&parent, registry,
                     PNX_RESOURCE(.type = "server", .flags = PNX_RESOURCE_OWNED), NULL),
            0);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "stream", .cleanup = count_up, .arg = &n,
                             .parent = pnx_guard_id(&parent)),
                     NULL, &child),
            0);
    pnx_guard_drop(&parent);
    CHECK_EQ(n, 0);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(n, 2);
    pnx_registry_release(&registry);
}

TEST(a_tracked_guard_may_be_moved_and_keeps_its_registry) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    struct pnx_guard guard = tracked(registry, &resource_n);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    pnx_registry_release(&registry);
    struct pnx_guard moved = pnx_guard_move(&guard);
    pnx_guard_drop(&guard);
    CHECK_EQ(pnx_guard_run(&moved), -EALREADY);
    CHECK_EQ(resource_n, 1);
    test_env_check_empty(&te);
}

struct meeting {
    struct pnx_registry *registry;
    struct pnx_guard guard;
    sem_t entered, go;
    bool ended;
};

static int enter_and_wait(void *arg, const struct pnx_cancel *cancel) {
    struct meeting *meeting = arg;
    (void)cancel;
    sem_post(&meeting->entered);
    sem_wait(&meeting->go);
    meeting->ended = true;
    return 0;
}

static void clean_drop_release(unsigned index, void *ctx) {
    struct meeting *meeting = ctx;
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    if (index == 0) {
        CHECK_EQ(pnx_registry_shutdown(meeting->registry, PNX_NEVER, NULL), 0);
    } else if (index == 1) {
        sem_wait(&meeting->entered);
        CHECK_EQ(pnx_guard_run(&meeting->guard), -EALREADY);
        CHECK(meeting->ended);
    } else {
        while (stats.cleanup_waits == 0) {
            CHECK_EQ(pnx_registry_read_stats(meeting->registry, &stats), 0);
            sched_yield();
        }
        sem_post(&meeting->go);
    }
}

TEST(p2_a_guard_that_comes_while_its_cleanup_runs_elsewhere_waits_for_the_end) {
    static struct meeting meeting;
    meeting.registry = fresh();
    sem_init(&meeting.entered, 0, 0);
    sem_init(&meeting.go, 0, 0);
    CHECK_EQ(pnx_guard_arm(&meeting.guard, enter_and_wait, &meeting), 0);
    CHECK_EQ(pnx_guard_track(
                     &meeting.guard, meeting.registry, PNX_RESOURCE(.type = "guarded"), NULL),
            0);
    test_threads(3, clean_drop_release, &meeting);
    pnx_registry_release(&meeting.registry);
}

TEST(tracking_that_fails_leaves_the_guard_armed) {
    struct pnx_registry *registry = fresh();
    struct pnx_error err;
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "x"), &err), -EINVAL);
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &resource_n), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, NULL, &err), -EINVAL);
    CHECK_EQ(
            pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "x", .cleanup = count_up), &err),
            -EINVAL);
    CHECK_STR(err.field, "cleanup");
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "x", .arg = &guard), &err),
            -EINVAL);
    CHECK_STR(err.field, "arg");
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.name = "x"), &err), -EINVAL);
    CHECK_STR(err.field, "type");
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "x"), &err), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "x"), &err), -EALREADY);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(pnx_registry_shutdown(registry, 0, NULL), 0);
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &resource_n), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "x"), &err), -ESHUTDOWN);
    CHECK(pnx_guard_armed(&guard));
    CHECK_EQ(pnx_guard_id(&guard), 0);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(resource_n, 2);
    pnx_registry_release(&registry);
}

/* Programs that were built with a smaller and with a larger struct. */
TEST(a_guard_is_tracked_for_callers_of_other_versions) {
    struct pnx_registry *registry = fresh();
    struct pnx_guard guard = {0};
    struct pnx_error err;
    struct {
        struct pnx_resource known;
        uint64_t unknown;
    } larger = {.known = *PNX_RESOURCE(.type = "x"), .unknown = 1};
    larger.known.size = sizeof(larger);
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &resource_n), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, &larger.known, &err), -E2BIG);
    CHECK_STR(err.field, "size");
    CHECK_EQ(pnx_guard_id(&guard), 0);
    struct pnx_resource older = *PNX_RESOURCE(.type = "x", .bytes = 7);
    older.size = offsetof(struct pnx_resource, priority);
    older.priority = 12345; /* not its own: what stands behind it */
    CHECK_EQ(pnx_guard_track(&guard, registry, &older, NULL), 0);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(registry, pnx_guard_id(&guard), &info), 0);
    CHECK_EQ(info.bytes, 7);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    larger.unknown = 0;
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &resource_n), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, &larger.known, NULL), 0);
    CHECK(pnx_guard_id(&guard) != 0);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(resource_n, 2);
    pnx_registry_release(&registry);
}

TEST(with_the_registry_off_a_guard_works_alone) {
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &resource_n), 0);
    CHECK_EQ(pnx_guard_track(&guard, pnx_registry_off(), PNX_RESOURCE(.type = "x"), NULL), 0);
    CHECK_EQ(pnx_guard_id(&guard), 0);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(resource_n, 1);
}

static int track_once(struct test_env *te, void *ctx) {
    (void)ctx;
    struct pnx_registry *registry;
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te->env), NULL, &registry);
    if (rc)
        return rc;
    struct pnx_guard guard = {0};
    resource_n = 0;
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &resource_n), 0);
    rc = pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "x"), NULL);
    pnx_registry_release(&registry);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(resource_n, 1);
    return rc;
}

TEST(tracking_may_run_out_of_memory) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, track_once, NULL);
}

static void run_in_child(void *ctx) {
    struct pnx_guard *guard = ctx;
    CHECK_EQ(pnx_guard_run(guard), -ESTALE);
    CHECK_EQ(resource_n, 0);
}

TEST(in_a_forked_child_a_tracked_guard_of_the_parent_runs_nothing) {
    struct pnx_registry *registry = fresh();
    struct pnx_guard guard = tracked(registry, &resource_n);
    CHECK_EQ(test_child(run_in_child, &guard), 0);
    CHECK_EQ(pnx_guard_run(&guard), 0);
    CHECK_EQ(resource_n, 1);
    pnx_registry_release(&registry);
}

struct contest {
    struct pnx_registry *registry;
    struct pnx_guard guards[100];
    int ran[100];
    int results[100];
};

static void drop_or_force_or_shut_down(unsigned index, void *ctx) {
    struct contest *contest = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_shutdown(contest->registry, PNX_NEVER, NULL), 0);
        return;
    }
    for (int i = 0; i < 100; i++) {
        if (index == 1) { /* the guards' owner */
            contest->results[i] = pnx_guard_run(&contest->guards[i]);
            CHECK_EQ(__atomic_load_n(&contest->ran[i], __ATOMIC_RELAXED), 1);
        } else {
            pnx_registry_cleanup(contest->registry, pnx_guard_id(&contest->guards[99 - i]));
        }
    }
}

TEST(v1_100_guards_are_all_cleaned_once_whoever_comes_first) {
    for (int round = 0; round < (test_slow() ? 10 : 100); round++) {
        static struct contest contest;
        memset(&contest, 0, sizeof(contest));
        contest.registry = fresh();
        for (int i = 0; i < 100; i++)
            contest.guards[i] = tracked(contest.registry, &contest.ran[i]);
        test_threads(2, drop_or_force_or_shut_down, &contest);
        for (int i = 0; i < 100; i++) {
            CHECK_EQ(contest.ran[i], 1);
            CHECK(contest.results[i] == 0 || contest.results[i] == -EALREADY);
        }
        pnx__registry_check(contest.registry);
        pnx_registry_release(&contest.registry);
    }
}

/* ---- macros ---- */

static char trace[32];

static void note(void *arg) {
    size_t n = strlen(trace);
    trace[n] = *(const char *)arg;
    trace[n + 1] = '\0';
}

TEST(defer_runs_in_reverse_order_with_the_argument_of_then) {
    {
        char *letter = (char[]){"a"};
        PNX_DEFER(note, letter);
        letter = (char[]){"b"};
        PNX_DEFER(note, letter);
        letter = (char[]){"c"};
        CHECK_STR(trace, "");
    }
    CHECK_STR(trace, "ba");
}

static char *make_text(bool keep) {
    PNX_AUTO(struct pnx_registry *, registry, pnx_registry_release, fresh());
    char *text = malloc(8);
    CHECK(text && pnx_registry_count(registry) == 0);
    PNX_DEFER(note, (char[]){"x"});
    strcpy(text, "taken");
    char *result = PNX_TAKE(text);
    CHECK(text == NULL);
    if (!keep) {
        free(result);
        return NULL;
    }
    return result;
}

TEST(auto_and_take) {
    char *text = make_text(true);
    CHECK_STR(text, "taken");
    free(text);
    CHECK(make_text(false) == NULL);
    CHECK_STR(trace, "xx");
}

/* ---- levels, and who asks ---- */

TEST(a_tracked_guard_knows_when_somebody_asks_for_its_end) {
    struct pnx_registry *registry;
    struct pnx_guard guard = {0};
    int ran = 0;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK(!pnx_guard_asked(NULL));
    CHECK(!pnx_guard_asked(&guard));
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &ran), 0);
    CHECK(!pnx_guard_asked(&guard));
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "thing"), NULL), 0);
    CHECK(!pnx_guard_asked(&guard));
    CHECK_EQ(pnx_registry_force(registry, pnx_guard_id(&guard)), -EBUSY);
    CHECK(pnx_guard_asked(&guard));
    pnx_guard_drop(&guard);
    CHECK_EQ(ran, 1);
    CHECK(!pnx_guard_asked(&guard));
    pnx_registry_release(&registry);
}

TEST(where_nothing_is_kept_a_guard_stays_untracked_and_runs) {
    struct pnx_registry *registry;
    struct pnx_guard guard = {0};
    int ran = 0;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.level = PNX_LEVEL_OFF), NULL, &registry), 0);
    CHECK_EQ(pnx_guard_arm(&guard, count_up, &ran), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "thing"), NULL), 0);
    CHECK_EQ(pnx_guard_id(&guard), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    pnx_guard_drop(&guard);
    CHECK_EQ(ran, 1);
}

TEST(a_guard_that_is_not_there_is_refused) {
    struct pnx_guard *none = NULL;
    __asm__ volatile("" : "+r"(none)); /* not known to the compiler */
    pnx_guard_drop(none);
    CHECK_EQ(pnx_guard_run(none), -EINVAL);
    CHECK(pnx_guard_dismiss(none) == NULL);
    struct pnx_guard moved = pnx_guard_move(none);
    CHECK(!pnx_guard_armed(&moved) && !pnx_guard_armed(none));
    CHECK(!pnx_guard_resource(none) && pnx_guard_id(none) == 0 && !pnx_guard_asked(none));
    CHECK_EQ(pnx_guard_run(&moved), 0); /* an empty one is another thing */
}
