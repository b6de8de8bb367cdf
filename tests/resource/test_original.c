/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the original framework's tests asserted about guards, errors, ids and its registry, each in one test, in the
 * words of today; and each of its bugs, shown to be none here.  (What it designed for shared data is in
 * tests/share/test_original.c.)
 */
#include "harness/harness.h"

#include <patinox/guard.h>
#include <patinox/query.h>
#include <patinox/registry.h>
#include <patinox/shutdown.h>
#include <patinox/stats.h>

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A resource: what it holds, whether it was cleaned up, and what its cleanup returns. */
struct thing {
    int content;
    int cleaned;
    int code;
};

static int clean(void *arg, const struct pnx_cancel *cancel) {
    struct thing *thing = arg;
    (void)cancel;
    if (thing->code == 0)
        __atomic_add_fetch(&thing->cleaned, 1, __ATOMIC_RELAXED);
    return thing->code;
}

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

static pnx_resource_id add(struct pnx_registry *registry, struct thing *thing) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "thing", .name = "a thing", .cleanup = clean,
                             .arg = thing, .bytes = sizeof(*thing)),
                     NULL, &id),
            0);
    return id;
}

static char text[16384];

static int append(void *ctx, const char *more, size_t n) {
    size_t *length = ctx;
    CHECK(*length + n < sizeof(text));
    memcpy(text + *length, more, n);
    text[ *length += n] = '\0';
    return 0;
}

/* ---- guards ---- */

TEST(original_a_guard_is_made_and_gives_its_resource) {
    struct thing thing = {.content = 5};
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
    CHECK(pnx_guard_armed(&guard));
    const struct thing *held = pnx_guard_resource(&guard);
    CHECK_EQ(held->content, 5);
}

TEST(original_what_is_changed_through_a_guard_is_visible) {
    struct thing thing = {.content = 5};
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
    ((struct thing *)pnx_guard_resource(&guard))->content = 6;
    CHECK_EQ(((struct thing *)pnx_guard_resource(&guard))->content, 6);
    CHECK_EQ(thing.content, 6);
}

TEST(original_a_resource_taken_out_of_its_guard_is_never_cleaned_up) {
    struct thing thing = {.content = 5};
    {
        PNX_AUTO_GUARD guard = {0};
        CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
        CHECK(pnx_guard_dismiss(&guard) == &thing);
    }
    CHECK_EQ(thing.cleaned, 0);
}

TEST(original_a_cleanup_by_hand_runs_it) {
    struct thing thing = {0};
    {
        PNX_AUTO_GUARD guard = {0};
        CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
        CHECK_EQ(pnx_guard_run(&guard), 0);
        CHECK_EQ(thing.cleaned, 1);
    }
    CHECK_EQ(thing.cleaned, 1); /* not again by the drop */
}

TEST(original_a_cleanup_by_hand_that_fails_says_so_with_a_text) {
    struct thing thing = {.code = -EIO};
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
    int rc = pnx_guard_run(&guard);
    CHECK_EQ(rc, -EIO);
    CHECK_CONTAINS(pnx_strerror(rc), "failed");
}

/* A resource that is really there: a directory, which cannot be removed as long as something is in it. */
struct directory {
    char path[64], inside[80];
    int calls;
};

static void make_full(struct directory *directory) {
    snprintf(directory->path, sizeof(directory->path), "/tmp/pnx-original-XXXXXX");
    CHECK(mkdtemp(directory->path));
    snprintf(directory->inside, sizeof(directory->inside), "%s/x", directory->path);
    CHECK_EQ(mkdir(directory->inside, 0700), 0);
    directory->calls = 0;
}

static int remove_directory(void *arg, const struct pnx_cancel *cancel) {
    struct directory *directory = arg;
    (void)cancel;
    directory->calls++;
    return rmdir(directory->path) ? -errno : 0;
}

TEST(original_a_drop_whose_cleanup_fails_crashes_nothing_and_leaves_the_resource_uncleaned) {
    struct pnx_registry *registry = fresh();
    static struct directory alone, tracked;
    make_full(&alone);
    make_full(&tracked);
    {
        PNX_AUTO_GUARD guard = {0};
        CHECK_EQ(pnx_guard_arm(&guard, remove_directory, &alone), 0);
        PNX_AUTO_GUARD other = {0};
        CHECK_EQ(pnx_guard_arm(&other, remove_directory, &tracked), 0);
        CHECK_EQ(pnx_guard_track(&other, registry, PNX_RESOURCE(.type = "directory"), NULL), 0);
    }
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(registry, &stats), 0);
    CHECK_EQ(stats.cleanups_failed, 1);                          /* and it can be seen */
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_SEC, NULL), 0); /* nothing is left to it */
    CHECK_EQ(alone.calls, 1);
    CHECK_EQ(tracked.calls, 1);
    CHECK_EQ(rmdir(alone.inside), 0); /* both are as they were: what is in them, too */
    CHECK_EQ(rmdir(tracked.inside), 0);
    CHECK_EQ(remove_directory(&alone, NULL), 0);
    CHECK_EQ(remove_directory(&tracked, NULL), 0);
    pnx_registry_release(&registry);
}

static void drop_ten(unsigned index, void *ctx) {
    struct thing *things = ctx;
    for (unsigned i = 0; i < 10; i++) {
        PNX_AUTO_GUARD guard = {0};
        CHECK_EQ(pnx_guard_arm(&guard, clean, &things[10 * index + i]), 0);
        if (i % 2)
            CHECK_EQ(pnx_guard_track(&guard, NULL, PNX_RESOURCE(.type = "thing"), NULL), 0);
    }
}

TEST(original_100_concurrent_guards_are_all_cleaned_up) {
    static struct thing things[100];
    test_threads(10, drop_ten, things);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(things[i].cleaned, 1);
    CHECK_EQ(pnx_registry_count(NULL), 0);
}

static void clean_here(unsigned index, void *ctx) {
    struct pnx_guard guard = pnx_guard_move(ctx);
    (void)index;
    CHECK_EQ(pnx_guard_run(&guard), 0);
}

TEST(original_a_guard_moves_to_another_thread_and_is_cleaned_up_there) {
    struct thing thing = {0};
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
    test_threads(1, clean_here, &guard);
    CHECK(!pnx_guard_armed(&guard));
    CHECK_EQ(thing.cleaned, 1);
}

/* ---- a cleanup that panics: one that ends its thread, or throws, cannot go on; it must not go unnoticed ---- */

static int *entered; /* in shared memory */

static int panic(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    ++*entered;
    pthread_exit(arg);
}

static void *run_panicking(void *guard) {
    return (void *)(intptr_t)pnx_guard_run(guard);
}

static void panic_in_thread(void *ctx) {
    struct pnx_guard guard = {0};
    pthread_t thread;
    (void)ctx;
    CHECK_EQ(pnx_guard_arm(&guard, panic, NULL), 0);
    CHECK_EQ(pnx_guard_track(&guard, NULL, PNX_RESOURCE(.type = "thing"), NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, run_panicking, &guard), 0);
    pthread_join(thread, NULL);
}

/* Bug 7: the original's test of this passed because its set-up panicked, not the cleanup. */
TEST(v1_bug_the_panic_that_is_noticed_is_the_cleanups_own) {
    entered =
            mmap(NULL, sizeof(*entered), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(entered != MAP_FAILED);
    CHECK_EQ(test_apart(panic_in_thread, NULL), -SIGABRT);
    CHECK_EQ(*entered, 1);
}

TEST(original_a_panicking_cleanup_surfaces_as_an_error) {
    /* What panics in C is what returns an error; the caller gets it, the row shows it. */
    static struct thing thing = {.code = PNX_E_BROKEN};
    struct pnx_registry *registry = fresh();
    add(registry, &thing);
    struct pnx_shutdown_report *report = NULL;
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, &report), PNX_E_BROKEN);
    size_t length = 0;
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, append, &length), 0);
    CHECK_CONTAINS(text, pnx_strerror(PNX_E_BROKEN));
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

/* ---- errors, ids ---- */

TEST(original_errors_say_what_to_do) {
    CHECK_EQ(pnx_recovery(-ETIMEDOUT), PNX_RECOVERY_RETRY);
    CHECK_EQ(pnx_recovery(-EIO), PNX_RECOVERY_FALLBACK); /* a cleanup that failed */
    CHECK_EQ(pnx_recovery(-EALREADY), PNX_RECOVERY_FAIL);
    CHECK_EQ(pnx_recovery(-ESHUTDOWN), PNX_RECOVERY_FAIL);
}

TEST(original_the_text_of_a_timeout_says_that_it_timed_out) {
    CHECK_CONTAINS(pnx_strerror(-ETIMEDOUT), "timed out");
}

TEST(original_an_error_keeps_its_text_on_its_way_up) {
    static struct thing thing;
    struct pnx_registry *registry = fresh();
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    struct pnx_guard guard = {0};
    struct pnx_error err = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
    /* From the registry through the guard to the caller. */
    int rc = pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "thing"), &err);
    CHECK_EQ(rc, -ESHUTDOWN);
    CHECK_EQ(err.code, rc);
    CHECK_CONTAINS(err.message, "shut down");
    pnx_guard_drop(&guard);
    pnx_registry_release(&registry);
}

static int compare_ids(const void *a, const void *b) {
    const pnx_resource_id *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

TEST(original_1000_ids_are_unique_and_printable) {
    static struct thing thing;
    static pnx_resource_id ids[1000];
    struct pnx_registry *registry = fresh();
    for (int i = 0; i < 1000; i++) {
        ids[i] = add(registry, &thing);
        if (i % 3)
            CHECK_EQ(pnx_registry_remove(registry, ids[i]), 0); /* slots are used again, ids not */
    }
    qsort(ids, 1000, sizeof(ids[0]), compare_ids);
    char before[32] = "", printed[32];
    for (int i = 0; i < 1000; i++) {
        CHECK(ids[i] != 0);
        snprintf(printed, sizeof(printed), "%016" PRIx64, ids[i]);
        CHECK(strcmp(before, printed) < 0);
        strcpy(before, printed);
    }
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    pnx_registry_release(&registry);
}

/* ---- the registry ---- */

TEST(original_a_registry_starts_empty_and_healthy) {
    struct pnx_stats *stats = NULL;
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    size_t components = 0;
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx_health(stats, NULL, 0, &components), PNX_HEALTH_OK);
    CHECK_EQ(components, 1);
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

TEST(original_what_is_registered_counts) {
    static struct thing thing;
    struct pnx_registry *registry = fresh();
    pnx_resource_id id = add(registry, &thing);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    pnx_registry_release(&registry);
}

TEST(original_the_info_gives_type_and_size) {
    static struct thing thing;
    struct pnx_registry *registry = fresh();
    struct pnx_resource_info info;
    pnx_resource_id id = add(registry, &thing);
    CHECK_EQ(pnx_registry_info(registry, id, &info), 0);
    CHECK_STR(info.type, "thing");
    CHECK_EQ(info.bytes, sizeof(struct thing));
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    pnx_registry_release(&registry);
}

TEST(original_unregistering_leaves_nothing_and_the_info_was_to_be_had) {
    static struct thing thing;
    struct pnx_registry *registry = fresh();
    struct pnx_resource_info info;
    pnx_resource_id id = add(registry, &thing);
    CHECK_EQ(pnx_registry_info(registry, id, &info), 0);
    CHECK_EQ(info.id, id);
    CHECK_STR(info.name, "a thing");
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx_registry_info(registry, id, &info), -ESTALE);
    CHECK_EQ(thing.cleaned, 0); /* that is its owner's business now */
    pnx_registry_release(&registry);
}

struct shared {
    struct pnx_registry *registry;
    struct thing things[10];
};

static void register_guard_unregister(unsigned index, void *ctx) {
    struct shared *shared = ctx;
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, &shared->things[index]), 0);
    CHECK_EQ(pnx_guard_track(&guard, shared->registry, PNX_RESOURCE(.type = "thing"), NULL), 0);
    CHECK(pnx_registry_count(shared->registry) >= 1);
}

TEST(original_ten_threads_register_guard_and_unregister) {
    static struct shared shared;
    shared.registry = fresh();
    test_threads(10, register_guard_unregister, &shared);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(shared.things[i].cleaned, 1);
    CHECK_EQ(pnx_registry_count(shared.registry), 0);
    pnx_registry_release(&shared.registry);
}

TEST(original_a_registry_that_was_shut_down_is_empty_and_not_healthy) {
    static struct thing things[3];
    struct pnx_stats *stats = NULL;
    struct pnx_registry *registry = NULL;
    struct pnx_health_entry entry;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    for (int i = 0; i < 3; i++)
        add(registry, &things[i]);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_EQ(pnx_health(stats, &entry, 1, NULL), PNX_HEALTH_DOWN);
    CHECK_CONTAINS(entry.reason, "shut down");
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

static int events[PNX_EVENT_END_];

static void count_event(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    __atomic_add_fetch(&events[event->type], 1, __ATOMIC_RELAXED);
}

/* The original's own test of this was switched off. */
TEST(original_a_registry_can_be_monitored) {
    static struct thing good, bad = {.code = -EIO};
    const struct pnx_monitor monitor = {.size = sizeof(monitor), .event = count_event};
    struct pnx_stats *stats = NULL;
    struct pnx_registry *registry = NULL;
    uint32_t heard;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_monitor_add(stats, &monitor, &heard), 0);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = stats), NULL, &registry), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, add(registry, &good)), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, add(registry, &bad)), -EIO);
    pnx_resource_id id = add(registry, &good);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    CHECK_EQ(pnx_registry_remove(registry, id), -EALREADY);
    struct pnx_registry_stats numbers = {.size = sizeof(numbers)};
    CHECK_EQ(pnx_registry_read_stats(registry, &numbers), 0);
    CHECK_EQ(numbers.added, 3);
    CHECK_EQ(numbers.cleanups, 2);
    CHECK_EQ(numbers.cleanups_failed, 1);
    CHECK_EQ(numbers.removed, 1);
    CHECK_EQ(numbers.live, 0);
    CHECK_EQ(events[PNX_EVENT_RESOURCE_CLEANUP_FAILED], 1);
    CHECK_EQ(events[PNX_EVENT_RESOURCE_RELEASED_TWICE], 1);
    size_t length = 0;
    CHECK_EQ(pnx_stats_openmetrics(stats, append, &length), 0);
    CHECK_CONTAINS(text, "patinox_registry_cleanups");
    pnx_registry_release(&registry);
    pnx_stats_release(&stats);
}

/* Time of this thread alone, so that a busy machine does not count. */
static pnx_ns cpu_time(void) {
    struct timespec now;
    CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), 0);
    return now.tv_sec * PNX_SEC + now.tv_nsec;
}

TEST(original_registering_takes_less_than_10_us) {
    static struct thing thing;
    struct pnx_registry *registry = fresh();
    const int times = 10000;
    pnx_ns begin = cpu_time();
    for (int i = 0; i < times; i++)
        CHECK_EQ(pnx_registry_remove(registry, add(registry, &thing)), 0);
    pnx_ns each = (cpu_time() - begin) / times;
    CHECK_MSG(each < 10 * PNX_US * (test_slow() ? 20 : 1), "%lld ns", (long long)each);
    pnx_registry_release(&registry);
}

/* ---- the other bugs ---- */

/* Bug 2: it set its flag, then refused its own cleanups, cleared the map, and reported success. */
TEST(v1_bug_a_shutdown_ran_nothing_and_reported_success) {
    static struct thing things[3] = {{0}, {.code = -EIO}, {0}};
    struct pnx_registry *registry = fresh();
    for (int i = 0; i < 3; i++)
        add(registry, &things[i]);
    struct pnx_shutdown_report *report = NULL;
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, &report), -EIO);
    CHECK_EQ(things[0].cleaned + things[2].cleaned, 2);
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.done, 2);
    CHECK_EQ(counts.failed, 1);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

/* Bug 3: its registry never had the cleanup function. */
TEST(v1_bug_a_forced_cleanup_only_deleted_the_row) {
    struct pnx_registry *registry = fresh();
    static struct thing thing, in_use;
    pnx_resource_id id, kept = add(registry, &in_use);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "thing", .cleanup = clean, .arg = &thing,
                             .flags = PNX_RESOURCE_FORCEABLE),
                     NULL, &id),
            0);
    CHECK_EQ(pnx_registry_force(registry, id), 0);
    CHECK_EQ(thing.cleaned, 1);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_force(registry, kept),
            -EBUSY); /* asked, and neither ended nor forgotten */
    CHECK_EQ(in_use.cleaned, 0);
    CHECK(pnx_registry_asked(registry, kept));
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_remove(registry, kept), 0);
    pnx_registry_release(&registry);
}

/* Bug 4. */
TEST(v1_bug_a_guard_and_its_row_did_not_know_each_other) {
    static struct thing thing;
    struct pnx_registry *registry = fresh();
    struct pnx_guard guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "thing"), NULL), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, pnx_guard_id(&guard)), 0);
    CHECK_EQ(pnx_guard_run(&guard), -EALREADY);
    CHECK_EQ(thing.cleaned, 1);
    CHECK_EQ(pnx_guard_arm(&guard, clean, &thing), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "thing"), NULL), 0);
    pnx_guard_drop(&guard);
    CHECK_EQ(thing.cleaned, 2);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

static void *drop_in_plain_thread(void *thing) {
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, clean, thing), 0);
    CHECK_EQ(pnx_guard_track(&guard, NULL, PNX_RESOURCE(.type = "thing"), NULL), 0);
    return NULL;
}

/* Bug 5: a drop outside its runtime panicked.  There is none to be outside of. */
TEST(v1_bug_a_drop_needed_a_runtime) {
    static struct thing thing;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, drop_in_plain_thread, &thing), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(thing.cleaned, 1);
}
