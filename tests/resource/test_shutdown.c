/* SPDX-License-Identifier: Apache-2.0 */
/* Shutdown: P1 and P6 of patinox/shutdown.h, owners and others that race with it, forks.  More: shutdown_*.c. */
#include "resource/shutdown_case.h"

#include <patinox/leaks.h>

TEST(an_empty_registry_is_done_at_once) {
    struct pnx_registry *registry = fresh();
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, 0, &report), 0);
    CHECK_COUNTS(report, 0, 0, 0, 0);
    pnx_shutdown_report_release(&report);
    CHECK(report == NULL);
    pnx_registry_release(&registry);
}

TEST(v1_bug_a_shutdown_runs_every_cleanup_before_it_reports_success) {
    struct pnx_registry *registry = fresh();
    struct item items[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    for (int i = 0; i < 3; i++)
        add(registry, &items[i], 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    CHECK_EQ(n_ordered(), 3);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_COUNTS(report, 3, 0, 0, 0);
    pnx_registry_release(&registry);
    CHECK_COUNTS(report, 3, 0, 0, 0); /* the report outlives the registry's last other holder */
    pnx_shutdown_report_release(&report);
}

TEST(a_failing_cleanup_gives_the_result_and_the_others_still_run) {
    struct pnx_registry *registry = fresh();
    struct item items[3] = {
            {.number = 0, .code = -EPERM}, {.number = 1, .code = -EIO}, {.number = 2}};
    for (int i = 0; i < 3; i++)
        add(registry, &items[i], 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), -EIO); /* the first to fail */
    CHECK_COUNTS(report, 1, 2, 0, 0);
    CHECK_EQ(n_ordered(), 3);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

TEST(a_row_without_cleanup_is_leaked_and_its_parent_is_still_ended) {
    struct pnx_registry *registry = fresh();
    struct item parent = {.number = 1};
    pnx_resource_id id = add(registry, &parent, 0), child;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "handle", .parent = id), NULL, &child),
            0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), PNX_E_BROKEN);
    CHECK_COUNTS(report, 1, 0, 0, 1);
    pnx_shutdown_report_release(&report);
    CHECK_EQ(pnx_registry_remove(registry, child), 0);
    pnx_registry_release(&registry);
}

TEST(a_known_leak_is_listed_and_counted_as_such_and_is_no_failure) {
    struct pnx_registry *registry = fresh();
    pnx_resource_id known, other;
    CHECK_EQ(pnx_registry_suppress(registry, "handle", "vendor/*"), 0);
    CHECK_EQ(pnx_registry_add(
                     registry, PNX_RESOURCE_AT("vendor/x.c:1", .type = "handle"), NULL, &known),
            0);
    struct pnx_shutdown_report *report;
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), 0);
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.suppressed, 1);
    CHECK_EQ(counts.leaked, 0);
    pnx_shutdown_report_release(&report);
    CHECK_EQ(pnx_registry_remove(registry, known), 0);
    pnx_registry_release(&registry);

    registry = fresh();
    CHECK_EQ(pnx_registry_suppress(registry, "handle", "vendor/*"), 0);
    CHECK_EQ(pnx_registry_add(
                     registry, PNX_RESOURCE_AT("vendor/x.c:1", .type = "handle"), NULL, &known),
            0);
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "handle"), NULL, &other), 0);
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), PNX_E_BROKEN);
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.suppressed, 1);
    CHECK_EQ(counts.leaked, 1);
    pnx_shutdown_report_release(&report);
    CHECK_EQ(pnx_registry_remove(registry, known), 0);
    CHECK_EQ(pnx_registry_remove(registry, other), 0);
    pnx_registry_release(&registry);
}

struct holder { /* an older object whose cleanup ends a younger one that has no cleanup of its own */
    struct pnx_registry *registry;
    pnx_resource_id part;
};

static int end_holder(void *arg, const struct pnx_cancel *cancel) {
    struct holder *holder = arg;
    (void)cancel;
    return pnx_registry_remove(holder->registry, holder->part);
}

TEST(a_row_without_cleanup_that_an_older_cleanup_removes_has_not_leaked) {
    struct holder holder = {.registry = fresh()};
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(holder.registry,
                     PNX_RESOURCE(.type = "holder", .cleanup = end_holder, .arg = &holder), NULL,
                     &id),
            0);
    CHECK_EQ(
            pnx_registry_add(holder.registry, PNX_RESOURCE(.type = "part"), NULL, &holder.part), 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(holder.registry, LONG, &report), 0);
    CHECK_COUNTS(report, 2, 0, 0, 0);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&holder.registry);
}

TEST(admission_is_closed_for_good) {
    struct pnx_registry *registry = fresh();
    CHECK_EQ(pnx_registry_shutdown(registry, 0, NULL), 0);
    pnx_resource_id id = 77;
    struct pnx_error err;
    CHECK_EQ(pnx_registry_add(registry, PNX_RESOURCE(.type = "late"), &err, &id), -ESHUTDOWN);
    CHECK_CONTAINS(err.message, "is shut down");
    CHECK_EQ(id, 77);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

static int add_inside(void *arg, const struct pnx_cancel *cancel) {
    struct pnx_registry *registry = arg;
    pnx_resource_id id;
    (void)cancel;
    return pnx_registry_add(registry, PNX_RESOURCE(.type = "late"), NULL, &id);
}

TEST(a_cleanup_cannot_add_rows_to_the_registry_that_ends) {
    struct pnx_registry *registry = fresh();
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "adder", .cleanup = add_inside, .arg = registry), NULL,
                     &id),
            0);
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, NULL), -ESHUTDOWN); /* the cleanup's error */
    pnx_registry_release(&registry);
}

TEST(later_callers_get_the_same_result_and_the_same_report) {
    struct pnx_registry *registry = fresh();
    struct item item = {.number = 1, .code = -EIO};
    add(registry, &item, 0);
    struct pnx_shutdown_report *first, *second;
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &first), -EIO);
    CHECK_EQ(pnx_registry_shutdown(registry, 0, &second), -EIO);
    CHECK(first == second);
    CHECK_EQ(n_ordered(), 1);
    pnx_shutdown_report_release(&first);
    CHECK_COUNTS(second, 0, 1, 0, 0);
    pnx_shutdown_report_release(&second);
    pnx_registry_release(&registry);
}

struct callers {
    struct pnx_registry *registry;
    struct pnx_shutdown_report *reports[8];
    int results[8];
};

static void call_shutdown(unsigned index, void *ctx) {
    struct callers *callers = ctx;
    callers->results[index] =
            pnx_registry_shutdown(callers->registry, PNX_NEVER, &callers->reports[index]);
}

TEST(concurrent_callers_share_one_shutdown) {
    struct callers callers = {.registry = fresh()};
    struct item items[20];
    for (int i = 0; i < 20; i++) {
        items[i] = (struct item){.number = i, .code = i == 7 ? -EIO : 0};
        add(callers.registry, &items[i], 0);
    }
    test_threads(8, call_shutdown, &callers);
    CHECK_EQ(n_ordered(), 20);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(callers.results[i], -EIO);
        CHECK(callers.reports[i] == callers.reports[0]);
    }
    for (int i = 0; i < 8; i++)
        pnx_shutdown_report_release(&callers.reports[i]);
    pnx_registry_release(&callers.registry);
}

struct second {
    struct pnx_registry *registry;
    sem_t entered, go;
    int result;
    struct pnx_shutdown_report *report;
};

static void lead_or_follow(unsigned index, void *ctx) {
    struct second *second = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_shutdown(second->registry, PNX_NEVER, NULL), 0);
        return;
    }
    sem_wait(&second->entered); /* now there is a leader, and its cleanup runs */
    second->result = pnx_registry_shutdown(second->registry, 20 * PNX_MS, &second->report);
    sem_post(&second->go);
}

TEST(a_caller_with_less_time_than_the_leader_returns_in_its_own) {
    struct second second = {.registry = fresh()};
    sem_init(&second.entered, 0, 0);
    sem_init(&second.go, 0, 0);
    struct item item = {.number = 1, .entered = &second.entered, .go = &second.go};
    add(second.registry, &item, 0);
    test_threads(2, lead_or_follow, &second);
    CHECK_EQ(second.result, -EINPROGRESS);
    CHECK(second.report == NULL);
    pnx_registry_release(&second.registry);
}

static int shutdown_inside(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return pnx_registry_shutdown(arg, PNX_NEVER, NULL);
}

TEST(from_inside_a_cleanup_it_is_refused) {
    struct pnx_registry *registry = fresh();
    pnx_resource_id id;
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "x", .cleanup = shutdown_inside, .arg = registry),
                         NULL, &id),
                0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), -EDEADLK);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, NULL), -EDEADLK); /* the cleanup's error */
    pnx_registry_release(&registry);
}

TEST(a_cleanup_may_shut_down_another_registry) {
    struct pnx_registry *outer = fresh(), *inner = fresh();
    struct item item = {.number = 1};
    add(inner, &item, 0);
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(outer,
                     PNX_RESOURCE(.type = "registry", .cleanup = shutdown_inside, .arg = inner),
                     NULL, &id),
            0);
    CHECK_EQ(pnx_registry_shutdown(outer, PNX_NEVER, NULL), 0);
    CHECK_EQ(n_ordered(), 1);
    pnx_registry_release(&inner);
    pnx_registry_release(&outer);
}

TEST(bad_arguments_are_refused_and_close_nothing) {
    struct pnx_registry *registry = fresh();
    struct pnx_shutdown_report *report = NULL;
    CHECK_EQ(pnx_registry_shutdown(registry, -1, &report), -EINVAL);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_TIMEOUT_DEFAULT, &report), -EINVAL);
    CHECK_EQ(pnx_registry_shutdown(NULL, 0, &report), -EINVAL);
    CHECK(report == NULL);
    struct item item = {.number = 1};
    add(registry, &item, 0);
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), 0);
    struct pnx_shutdown_counts counts = {.size = 0};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), -EINVAL);
    CHECK_EQ(pnx_shutdown_report_counts(NULL, &counts), -EINVAL);
    CHECK_EQ(pnx_shutdown_report_counts(report, NULL), -EINVAL);
    CHECK_EQ(pnx_shutdown_report_each(report, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, NULL, NULL), -EINVAL);
    counts = (struct pnx_shutdown_counts){.size = offsetof(struct pnx_shutdown_counts, failed)};
    counts.failed = 4711;
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.done, 1);
    CHECK_EQ(counts.failed, 4711); /* beyond the size that the caller knows */
    pnx_shutdown_report_release(&report);
    pnx_shutdown_report_release(&report);
    pnx_shutdown_report_release(NULL);
    pnx_registry_release(&registry);
}

TEST(the_registry_that_is_off_has_nothing_to_end) {
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(pnx_registry_off(), PNX_SEC, &report), 0);
    CHECK_COUNTS(report, 0, 0, 0, 0);
    pnx_shutdown_report_release(&report);
}

TEST(the_process_wide_registry_is_ended_by_pnx_shutdown) {
    struct item item = {.number = 1};
    add(NULL, &item, 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_shutdown(LONG, &report), 0);
    CHECK_EQ(n_ordered(), 1);
    pnx_shutdown_report_release(&report);
}

/* ---- owners that race with it ---- */

/* As a pool is: its cleanup closes it, its release removes the row and frees it. */
struct object {
    struct pnx_registry *registry;
    pnx_resource_id id;
    sem_t *entered, *go;
    bool closing, closed;
};

static int close_object(void *arg, const struct pnx_cancel *cancel) {
    struct object *object = arg;
    (void)cancel;
    object->closing = true;
    if (object->entered)
        sem_post(object->entered);
    if (object->go)
        sem_wait(object->go);
    object->closed = true;
    return 0;
}

static struct object *object_create(struct pnx_registry *registry, sem_t *entered, sem_t *go) {
    struct object *object = calloc(1, sizeof(*object));
    CHECK(object);
    object->registry = pnx_registry_ref(registry);
    object->entered = entered;
    object->go = go;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "object", .cleanup = close_object, .arg = object), NULL,
                     &object->id),
            0);
    return object;
}

/* Returns whether somebody else had closed it. */
static bool object_release(struct object *object) {
    int rc = pnx_registry_remove(object->registry, object->id);
    CHECK(rc == 0 || rc == -EALREADY);
    CHECK_EQ(object->closing, object->closed); /* never in the middle of it */
    CHECK_EQ(object->closed, rc == -EALREADY);
    struct pnx_registry *registry = object->registry;
    free(object);
    pnx_registry_release(&registry);
    return rc == -EALREADY;
}

struct race {
    struct pnx_registry *registry;
    struct object *objects[64];
    sem_t entered, go;
};

static void shut_down_or_release(unsigned index, void *ctx) {
    struct race *race = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_shutdown(race->registry, PNX_NEVER, NULL), 0);
        return;
    }
    sem_wait(&race->entered); /* the shutdown is inside the object's cleanup */
    sem_post(&race->go);
    CHECK(object_release(race->objects[0]));
}

TEST(p2_an_owner_that_releases_its_object_during_the_cleanup_waits_for_its_end) {
    struct race race = {.registry = fresh()};
    sem_init(&race.entered, 0, 0);
    sem_init(&race.go, 0, 0);
    race.objects[0] = object_create(race.registry, &race.entered, &race.go);
    test_threads(2, shut_down_or_release, &race);
    pnx_registry_release(&race.registry);
}

static void shut_down_or_release_all(unsigned index, void *ctx) {
    struct race *race = ctx;
    if (index == 0) {
        CHECK_EQ(pnx_registry_shutdown(race->registry, PNX_NEVER, NULL), 0);
        return;
    }
    for (int i = 0; i < 64; i++)
        object_release(race->objects[i]);
}

TEST(p2_owners_and_a_shutdown_race_for_many_objects) {
    for (int round = 0; round < (test_slow() ? 20 : 200); round++) {
        struct race race = {.registry = fresh()};
        for (int i = 0; i < 64; i++)
            race.objects[i] = object_create(race.registry, NULL, NULL);
        test_threads(2, shut_down_or_release_all, &race);
        struct pnx_shutdown_report *report;
        CHECK_EQ(pnx_registry_shutdown(race.registry, 0, &report), 0);
        struct pnx_shutdown_counts counts = counts_of(report); /* without those released before */
        CHECK(counts.done <= 64);
        CHECK_EQ(counts.failed + counts.abandoned + counts.leaked, 0);
        pnx_shutdown_report_release(&report);
        pnx__registry_check(race.registry);
        pnx_registry_release(&race.registry);
    }
}

TEST(an_object_may_be_released_after_the_registry_was_shut_down_and_released) {
    test_env_init(&te);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    struct object *object = object_create(registry, NULL, NULL);
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, NULL), 0);
    pnx_registry_release(&registry);
    CHECK(object_release(object));
    test_env_check_empty(&te);
}

struct cleaner {
    struct pnx_registry *registry;
    pnx_resource_id id;
    sem_t entered, go;
    int result;
};

static void clean_and_shut_down(unsigned index, void *ctx) {
    struct cleaner *cleaner = ctx;
    if (index == 0) {
        cleaner->result = pnx_registry_cleanup(cleaner->registry, cleaner->id);
        return;
    }
    sem_wait(&cleaner->entered);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(cleaner->registry, 20 * PNX_MS, &report), -ETIMEDOUT);
    CHECK_COUNTS(report, 0, 0, 1, 0);
    pnx_shutdown_report_release(&report);
    sem_post(&cleaner->go);
}

TEST(a_cleanup_that_others_are_running_at_the_deadline_is_abandoned) {
    struct cleaner cleaner = {.registry = fresh()};
    sem_init(&cleaner.entered, 0, 0);
    sem_init(&cleaner.go, 0, 0);
    struct item item = {.number = 1, .code = -EIO, .entered = &cleaner.entered, .go = &cleaner.go};
    cleaner.id = add(cleaner.registry, &item, 0);
    test_threads(2, clean_and_shut_down, &cleaner);
    CHECK_EQ(cleaner.result, -EIO);
    pnx_registry_release(&cleaner.registry);
}

static void clean_and_wait(unsigned index, void *ctx) {
    struct cleaner *cleaner = ctx;
    if (index == 0) {
        cleaner->result = pnx_registry_cleanup(cleaner->registry, cleaner->id);
    } else if (index == 1) {
        sem_wait(&cleaner->entered);
        sem_post(&cleaner->entered);
        struct pnx_shutdown_report *report;
        CHECK_EQ(pnx_registry_shutdown(cleaner->registry, PNX_NEVER, &report), -EIO);
        CHECK_COUNTS(report, 1, 1, 0, 0);
        pnx_shutdown_report_release(&report);
    } else {
        sem_wait(&cleaner->entered);
        sem_post(&cleaner->entered);
        while (!pnx__registry_is_closed(cleaner->registry))
            sched_yield();
        sem_post(&cleaner->go);
    }
}

TEST(a_cleanup_that_others_are_running_is_waited_for_and_its_parent_comes_after_it) {
    struct cleaner cleaner = {.registry = fresh()};
    sem_init(&cleaner.entered, 0, 0);
    sem_init(&cleaner.go, 0, 0);
    struct item parent = {.number = 0};
    struct item item = {.number = 1, .code = -EIO, .entered = &cleaner.entered, .go = &cleaner.go};
    cleaner.id = add(cleaner.registry, &item, add(cleaner.registry, &parent, 0));
    test_threads(3, clean_and_wait, &cleaner);
    CHECK_EQ(cleaner.result, -EIO);
    CHECK_EQ(order[0], 1);
    CHECK_EQ(order[1], 0);
    pnx_registry_release(&cleaner.registry);
}

/* ---- fork ---- */

static void shut_down_in_child(void *ctx) {
    struct pnx_registry *registry = ctx;
    struct item own = {.number = 5};
    add(registry, &own, 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), 0);
    CHECK_COUNTS(report, 1, 0, 0, 0); /* the child's own */
    CHECK_EQ(n_ordered(), 1);
    CHECK_EQ(order[0], 5);
    pnx_shutdown_report_release(&report);
}

TEST(a_forked_child_leaves_its_parents_resources_alone) {
    struct pnx_registry *registry = fresh();
    struct item item = {.number = 1};
    pnx_resource_id id = add(registry, &item, 0);
    CHECK_EQ(test_child(shut_down_in_child, registry), 0);
    CHECK_EQ(n_ordered(), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    pnx_registry_release(&registry);
}
