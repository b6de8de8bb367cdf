/* SPDX-License-Identifier: Apache-2.0 */
/* watch: P1..P5 of patinox/watch.h. */
#include "harness/harness.h"

#include <patinox/reclaim.h>
#include <patinox/shutdown.h>
#include <patinox/watch.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

struct value {
    uint64_t number;
};
static struct pnx_rc_type value_type = PNX_RC_TYPE(struct value);

static struct test_env te;
static struct pnx_snapshot *cell;

static void publish(uint64_t number) {
    void *value = NULL;
    CHECK_EQ(pnx_rc_new(&value_type, &(struct value){number}, &value), 0);
    CHECK_EQ(pnx_snapshot_give(cell, &value, NULL, NULL), 0);
    CHECK(value == NULL);
}

static void set_up_with(uint32_t max_watches) {
    void *first = NULL;
    test_env_init(&te);
    value_type.env = &te.env;
    CHECK_EQ(pnx_rc_new(&value_type, &(struct value){1}, &first), 0);
    CHECK_EQ(pnx_snapshot_create(first,
                     PNX_SNAPSHOT_OPTS(.name = "test", .env = &te.env,
                             .registry = pnx_registry_off(), .stats = pnx_stats_off(),
                             .max_watches = max_watches),
                     NULL, &cell),
            0);
    pnx_rc_unref(first);
}

static void set_up(void) {
    set_up_with(0);
}

static void tear_down(void) {
    pnx_snapshot_release(&cell);
    test_env_check_empty(&te);
}

static struct pnx_watch *open_watch(const struct pnx_watch_opts *opts) {
    struct pnx_watch *watch = NULL;
    CHECK_EQ(pnx_watch_open(cell, opts, NULL, &watch), 0);
    return watch;
}

static struct pnx_snapshot_stats stats_of(void) {
    struct pnx_snapshot_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_snapshot_read_stats(cell, &stats), 0);
    return stats;
}

/* A callback that notes what it is told; the value's number is its version. */
struct heard {
    uint64_t calls;
    uint64_t last;
    int running; /* nested or at once: a mistake */
    void (*inside)(struct heard *heard, uint64_t version);
    struct pnx_watch *watch;
};

static void changed(void *ctx, const void *value, uint64_t version) {
    struct heard *heard = ctx;
    CHECK_EQ(__atomic_add_fetch(&heard->running, 1, __ATOMIC_RELAXED), 1);
    CHECK_EQ(((const struct value *)value)->number, version);
    CHECK(version > heard->last);
    heard->last = version;
    heard->calls++;
    if (heard->inside)
        heard->inside(heard, version);
    __atomic_sub_fetch(&heard->running, 1, __ATOMIC_RELAXED);
}

/* ---- P1 ---- */

TEST(p1_waits_and_reads_take_the_latest_once) {
    const void *value = NULL;
    uint64_t version = 77;
    set_up();
    struct pnx_watch *watch = open_watch(NULL);
    CHECK_EQ(pnx_watch_read(watch, &value, &version), -EAGAIN);
    CHECK_EQ(pnx_watch_wait(watch, 0, &value, &version), -ETIMEDOUT);
    CHECK(value == NULL && version == 77);
    publish(2);
    publish(3);
    CHECK_EQ(pnx_watch_wait(watch, PNX_NEVER, &value, &version), 0);
    CHECK_EQ(version, 3);
    CHECK_EQ(((const struct value *)value)->number, 3);
    PNX_RC_CLEAR(value);
    CHECK_EQ(pnx_watch_read(watch, &value, &version), -EAGAIN);
    publish(4);
    CHECK_EQ(pnx_watch_read(watch, NULL, NULL), 0);
    CHECK_EQ(pnx_watch_read(watch, NULL, NULL), -EAGAIN);
    CHECK_EQ(pnx_watch_wait(watch, -1, NULL, NULL), -EINVAL);
    pnx_watch_release(&watch);
    CHECK(watch == NULL);
    tear_down();
}

TEST(p1_the_opening_says_from_which_version_on) {
    uint64_t version;
    set_up();
    publish(2);
    publish(3);
    struct pnx_watch *later = open_watch(NULL);
    struct pnx_watch *initial = open_watch(PNX_WATCH_OPTS(.flags = PNX_WATCH_INITIAL));
    struct pnx_watch *seen = open_watch(PNX_WATCH_OPTS(.seen = 2));
    struct pnx_watch *ahead = open_watch(PNX_WATCH_OPTS(.seen = 4));
    CHECK_EQ(pnx_watch_read(later, NULL, NULL), -EAGAIN);
    CHECK_EQ(pnx_watch_read(initial, NULL, &version), 0);
    CHECK_EQ(version, 3);
    CHECK_EQ(pnx_watch_read(seen, NULL, &version), 0);
    CHECK_EQ(version, 3);
    publish(4);
    CHECK_EQ(pnx_watch_read(ahead, NULL, NULL), -EAGAIN);
    CHECK_EQ(pnx_watch_read(later, NULL, &version), 0);
    CHECK_EQ(version, 4);
    CHECK_EQ(stats_of().watches, 4);
    pnx_watch_release(&later);
    pnx_watch_release(&initial);
    pnx_watch_release(&seen);
    pnx_watch_release(&ahead);
    CHECK_EQ(stats_of().watches, 0);
    tear_down();
}

TEST(p1_callbacks_hear_of_each_publication_of_one_writer) {
    struct heard heard = {0}, first = {0};
    set_up();
    struct pnx_watch *watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    struct pnx_watch *initial = open_watch(
            PNX_WATCH_OPTS(.changed = changed, .ctx = &first, .flags = PNX_WATCH_INITIAL));
    CHECK_EQ(heard.calls, 0);
    CHECK_EQ(first.calls, 1); /* before open returned */
    for (uint64_t i = 2; i <= 100; i++)
        publish(i);
    CHECK_EQ(heard.calls, 99);
    CHECK_EQ(first.calls, 100);
    CHECK_EQ(heard.last, 100);
    CHECK_EQ(stats_of().notifications, 199);
    pnx_watch_release(&watch);
    publish(101);
    CHECK_EQ(heard.calls, 99);
    CHECK_EQ(first.calls, 101);
    pnx_watch_release(&initial);
    tear_down();
}

struct race {
    uint64_t rounds;
    unsigned writers_left;
    struct heard heard[3];
    struct pnx_watch *watch[3];
    struct pnx_watch *polled;
};

static int set_version(void *ctx, void *object) {
    (void)ctx;
    ((struct value *)object)->number++;
    return 0;
}

static void read_until(struct pnx_watch *watch, uint64_t last) {
    struct pollfd fd = {.fd = pnx_watch_fd(watch), .events = POLLIN};
    uint64_t seen = 1;
    CHECK(fd.fd >= 0);
    while (seen < last) {
        const void *value = NULL;
        uint64_t version;
        CHECK_MSG(poll(&fd, 1, 30000) == 1, "the descriptor missed a version after %llu",
                (unsigned long long)seen);
        int rc = pnx_watch_read(watch, &value, &version);
        if (rc == -EAGAIN)
            continue;
        CHECK_EQ(rc, 0);
        CHECK(version > seen);
        CHECK_EQ(((const struct value *)value)->number, version);
        pnx_rc_unref(value);
        seen = version;
    }
}

static void race_thread(unsigned index, void *ctx) {
    struct race *race = ctx;
    uint64_t last = 1 + 2 * race->rounds;
    if (index < 2) {
        for (uint64_t i = 0; i < race->rounds; i++)
            CHECK_EQ(pnx_snapshot_update(cell, set_version, NULL, NULL, NULL), 0);
        return;
    }
    if (index == 2) {
        read_until(race->polled, last);
        return;
    }
    uint64_t seen = 1;
    while (seen < last) {
        const void *value = NULL;
        uint64_t version;
        CHECK_EQ(pnx_watch_wait(race->watch[2], 30 * PNX_SEC, &value, &version), 0);
        CHECK(version > seen);
        pnx_rc_unref(value);
        seen = version;
    }
}

TEST_LIMIT(p1_nobody_misses_the_last_version_of_many_writers, 120) {
    struct race race = {.rounds = test_slow() ? 1000 : 20000};
    set_up();
    for (int i = 0; i < 2; i++)
        race.watch[i] =
                open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &race.heard[i], .name = "w"));
    race.watch[2] = open_watch(NULL);
    race.polled = open_watch(NULL);
    test_threads(4, race_thread, &race);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(race.heard[i].last, 1 + 2 * race.rounds);
    for (int i = 0; i < 3; i++)
        pnx_watch_release(&race.watch[i]);
    pnx_watch_release(&race.polled);
    tear_down();
}

/* ---- P1: descriptors ---- */

static bool readable(int fd) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

TEST(p1_the_descriptor_is_readable_while_there_are_news) {
    set_up();
    struct pnx_watch *watch = open_watch(NULL);
    int fd = pnx_watch_fd(watch);
    CHECK(fd >= 0);
    CHECK_EQ(pnx_watch_fd(watch), fd);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(!readable(fd));
    publish(2);
    publish(3);
    CHECK(readable(fd));
    CHECK_EQ(pnx_watch_read(watch, NULL, NULL), 0);
    CHECK(!readable(fd));
    publish(4);
    CHECK(readable(fd));
    CHECK_EQ(pnx_watch_wait(watch, 0, NULL, NULL), 0);
    CHECK(!readable(fd));
    struct pnx_watch *late = open_watch(PNX_WATCH_OPTS(.flags = PNX_WATCH_INITIAL));
    CHECK(readable(pnx_watch_fd(late))); /* asked for when there were news already */
    pnx_watch_release(&late);
    pnx_snapshot_close(cell);
    CHECK(readable(fd));
    CHECK_EQ(pnx_watch_read(watch, NULL, NULL), -ESHUTDOWN);
    CHECK(readable(fd)); /* for good */
    pnx_watch_release(&watch);
    CHECK_EQ(fcntl(fd, F_GETFD), -1);
    tear_down();
}

TEST(the_descriptor_may_be_refused) {
    set_up();
    struct pnx_watch *watch = open_watch(NULL);
    if (!test_os_faults())
        test_skip("built without PNX_FAULTS");
    test_os_fault("eventfd", 1, false, EMFILE);
    CHECK_EQ(pnx_watch_fd(watch), -EMFILE);
    CHECK_EQ(test_os_fault_clear(), 1);
    publish(2);
    CHECK(readable(pnx_watch_fd(watch)));
    CHECK_EQ(pnx_watch_cancel(watch), 0);
    CHECK_EQ(pnx_watch_read(watch, NULL, NULL), -ECANCELED);
    pnx_watch_release(&watch);
    watch = open_watch(NULL);
    CHECK_EQ(pnx_watch_cancel(watch), 0);
    CHECK_EQ(pnx_watch_fd(watch), -ECANCELED);
    pnx_watch_release(&watch);
    tear_down();
}

/* ---- ticks ---- */

TEST(p2_with_tick_a_callback_runs_only_there) {
    struct heard heard = {0};
    set_up();
    struct pnx_watch *watch =
            open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard, .flags = PNX_WATCH_TICK));
    int fd = pnx_watch_fd(watch);
    publish(2);
    publish(3);
    CHECK_EQ(heard.calls, 0);
    CHECK(readable(fd));
    CHECK_EQ(pnx_watch_tick(watch), 1);
    CHECK_EQ(heard.calls, 1);
    CHECK_EQ(heard.last, 3);
    CHECK(!readable(fd));
    CHECK_EQ(pnx_watch_tick(watch), 0);
    publish(4);
    pnx_snapshot_close(cell);
    CHECK_EQ(pnx_watch_tick(watch), 1); /* the last one is told before the end is */
    CHECK(readable(fd));                /* there is the end to be told of, for good */
    CHECK_EQ(pnx_watch_tick(watch), -ESHUTDOWN);
    CHECK(readable(fd));
    CHECK_EQ(pnx_watch_cancel(watch), 0);
    CHECK_EQ(pnx_watch_tick(watch), -ECANCELED);
    CHECK(readable(fd));
    pnx_watch_release(&watch);
    tear_down();
}

/* ---- P2, P3 ---- */

static pthread_barrier_t begun, may_end;

static void block_once(struct heard *heard, uint64_t version) {
    (void)heard;
    if (version == 2) {
        pthread_barrier_wait(&begun);
        pthread_barrier_wait(&may_end);
    }
}

static void writer_beside_a_callback(unsigned index, void *ctx) {
    (void)ctx;
    if (index == 0) {
        publish(2); /* its callback blocks */
        return;
    }
    pthread_barrier_wait(&begun);
    publish(3); /* does not wait for it */
    publish(4);
    pthread_barrier_wait(&may_end);
}

TEST(p2_writers_do_not_wait_for_a_callback) {
    struct heard heard = {.inside = block_once};
    set_up();
    pthread_barrier_init(&begun, NULL, 2);
    pthread_barrier_init(&may_end, NULL, 2);
    struct pnx_watch *watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    test_threads(2, writer_beside_a_callback, NULL);
    CHECK_EQ(heard.calls, 2); /* once more, with the latest */
    CHECK_EQ(heard.last, 4);
    pnx_watch_release(&watch);
    tear_down();
}

static void write_once_more(struct heard *heard, uint64_t version) {
    (void)heard;
    if (version < 5)
        publish(version + 1);
}

TEST(p3_a_callback_may_write_to_the_cell) {
    struct heard heard = {.inside = write_once_more};
    set_up();
    struct pnx_watch *watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    publish(2);
    CHECK_EQ(heard.calls, 4); /* one after the other, not one inside the other */
    CHECK_EQ(heard.last, 5);
    pnx_watch_release(&watch);
    tear_down();
}

static void open_another(struct heard *heard, uint64_t version) {
    static struct heard other;
    (void)version;
    if (!heard->watch)
        heard->watch = open_watch(
                PNX_WATCH_OPTS(.changed = changed, .ctx = &other, .flags = PNX_WATCH_INITIAL));
    CHECK_EQ(other.last, version);
}

TEST(p3_a_callback_may_open_a_watch) {
    struct heard heard = {.inside = open_another};
    set_up();
    struct pnx_watch *watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    publish(2);
    pnx_watch_release(&heard.watch);
    pnx_watch_release(&watch);
    tear_down();
}

/* The callback lets go of everything, also of the writer's own handle. */
static void release_all(struct heard *heard, uint64_t version) {
    (void)version;
    pnx_watch_release(&heard->watch);
    pnx_snapshot_release(&cell);
}

TEST(p3_a_callback_may_release_its_watch_and_the_cell) {
    struct heard heard = {.inside = release_all};
    set_up();
    heard.watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    publish(2);
    CHECK_EQ(heard.calls, 1);
    CHECK(cell == NULL);
    test_env_check_empty(&te);
}

static struct pnx_watch *let_go;

static void drop_releases_all(void *ctx, void *object) {
    (void)ctx;
    if (((struct value *)object)->number != 1)
        return;
    pnx_watch_release(&let_go);
    pnx_snapshot_release(&cell);
}

TEST(p3_the_drop_of_a_replaced_value_may_release_the_watch_and_the_cell) {
    struct heard heard = {0};
    value_type.drop = drop_releases_all;
    set_up();
    let_go = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    publish(2); /* comes alone: the old value goes before it returns */
    CHECK(cell == NULL);
    CHECK_EQ(heard.calls, 0);
    test_env_check_empty(&te);
}

/* Each callback cancels the other one's watch, on two threads at once: nobody waits for ever. */
static struct heard crossed[2];
static pthread_barrier_t both_run, both_asked;

static void cancel_other(struct heard *heard, uint64_t version) {
    (void)version;
    unsigned other = heard == &crossed[0];
    if (other)
        pthread_barrier_wait(&begun);
    pthread_barrier_wait(&both_run);
    CHECK_EQ(pnx_watch_cancel(crossed[other].watch), -EINPROGRESS);
    pthread_barrier_wait(&both_asked);
}

static void cross_thread(unsigned index, void *ctx) {
    (void)ctx;
    if (index == 0) {
        publish(2); /* runs the first callback */
        return;
    }
    pthread_barrier_wait(&begun);
    CHECK_EQ(pnx_watch_tick(crossed[1].watch), 1); /* runs the second one */
}

TEST(p4_callbacks_that_cancel_each_other_do_not_hang) {
    set_up();
    pthread_barrier_init(&begun, NULL, 2);
    pthread_barrier_init(&both_run, NULL, 2);
    pthread_barrier_init(&both_asked, NULL, 2);
    for (int i = 0; i < 2; i++) {
        crossed[i].inside = cancel_other;
        crossed[i].watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &crossed[i],
                .flags = i ? PNX_WATCH_TICK : 0));
    }
    test_threads(2, cross_thread, NULL);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(crossed[i].calls, 1);
        CHECK_EQ(pnx_watch_cancel(crossed[i].watch), 0);
        pnx_watch_release(&crossed[i].watch);
    }
    tear_down();
}

/* ---- P4 ---- */

static bool over;

static void end_late(struct heard *heard, uint64_t version) {
    (void)heard;
    (void)version;
    pthread_barrier_wait(&begun);
    for (int i = 0; i < 1000; i++)
        sched_yield();
    __atomic_store_n(&over, true, __ATOMIC_RELAXED);
}

static void cancel_thread(unsigned index, void *ctx) {
    struct heard *heard = ctx;
    if (index == 0) {
        publish(2);
        return;
    }
    pthread_barrier_wait(&begun);
    CHECK_EQ(pnx_watch_cancel(heard->watch), 0);
    CHECK(__atomic_load_n(&over, __ATOMIC_RELAXED));
}

TEST(p4_cancel_waits_for_a_running_callback) {
    struct heard heard = {.inside = end_late};
    set_up();
    pthread_barrier_init(&begun, NULL, 2);
    heard.watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    test_threads(2, cancel_thread, &heard);
    publish(3);
    CHECK_EQ(heard.calls, 1);
    CHECK_EQ(pnx_watch_cancel(heard.watch), 0);
    pnx_watch_release(&heard.watch);
    tear_down();
}

static void cancel_inside(struct heard *heard, uint64_t version) {
    (void)version;
    CHECK_EQ(pnx_watch_cancel(heard->watch), -EINPROGRESS);
}

static int cancel_in_edit(void *ctx, void *object) {
    struct heard *heard = ctx;
    CHECK_EQ(pnx_watch_cancel(heard->watch), 0); /* not running: nothing to wait for */
    return set_version(NULL, object);
}

TEST(p4_cancel_inside_its_callback_says_in_progress) {
    struct heard heard = {.inside = cancel_inside};
    set_up();
    heard.watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    publish(2);
    publish(3);
    CHECK_EQ(heard.calls, 1);
    CHECK_EQ(pnx_watch_cancel(heard.watch), 0);
    pnx_watch_release(&heard.watch);
    heard = (struct heard){0};
    heard.watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    CHECK_EQ(pnx_snapshot_update(cell, cancel_in_edit, &heard, NULL, NULL), 0);
    CHECK_EQ(heard.calls, 0);
    pnx_watch_release(&heard.watch);
    tear_down();
}

static void leave_by_exit(struct heard *heard, uint64_t version) {
    (void)version;
    heard->running = 0;
    pthread_exit(NULL);
}

static void *publish_two(void *arg) {
    (void)arg;
    publish(2);
    return arg;
}

TEST(p4_a_thread_that_ends_inside_a_callback_is_not_waited_for) {
    struct heard heard = {.inside = leave_by_exit};
    pthread_t thread;
    set_up();
    heard.watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard));
    CHECK_EQ(pthread_create(&thread, NULL, publish_two, NULL), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(heard.calls, 1);
    heard.inside = NULL;
    publish(3);
    CHECK_EQ(heard.calls, 2);
    pnx_watch_release(&heard.watch);
    tear_down();
}

static void wait_thread(unsigned index, void *ctx) {
    struct heard *heard = ctx;
    if (index == 0) {
        while (stats_of().waiters < 2)
            sched_yield();
        CHECK_EQ(pnx_watch_cancel(heard->watch), 0);
    } else if (index == 1) {
        CHECK_EQ(pnx_watch_wait(heard->watch, PNX_NEVER, NULL, NULL), -ECANCELED);
        pnx_snapshot_close(cell);
    } else {
        struct pnx_watch *watch = open_watch(NULL);
        CHECK_EQ(pnx_watch_wait(watch, PNX_NEVER, NULL, NULL), -ESHUTDOWN);
        pnx_watch_release(&watch);
    }
}

TEST(p4_cancel_and_close_wake_who_waits) {
    struct heard heard = {0};
    set_up();
    heard.watch = open_watch(NULL);
    test_threads(3, wait_thread, &heard);
    pnx_watch_release(&heard.watch);
    tear_down();
}

/* Opening, cancelling and releasing beside writers: nothing runs afterwards, and nothing leaks. */
static void churn_thread(unsigned index, void *ctx) {
    struct race *race = ctx;
    if (index < 2) {
        while (__atomic_load_n(&race->writers_left, __ATOMIC_ACQUIRE) > 0)
            CHECK_EQ(pnx_snapshot_update(cell, set_version, NULL, NULL, NULL), 0);
        return;
    }
    for (uint64_t i = 0; i < race->rounds; i++) {
        struct heard *heard = calloc(1, sizeof(*heard));
        CHECK(heard);
        struct pnx_watch *watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = heard,
                .flags = i % 2 ? PNX_WATCH_INITIAL : 0));
        if (i % 4 == 0)
            CHECK(pnx_watch_fd(watch) >= 0);
        if (i % 3 == 0)
            CHECK_EQ(pnx_watch_cancel(watch), 0);
        pnx_watch_release(&watch);
        free(heard); /* a callback that ran on would be caught by the sanitizers */
    }
    __atomic_sub_fetch(&race->writers_left, 1, __ATOMIC_RELEASE);
}

TEST_LIMIT(p4_watches_come_and_go_beside_writers, 120) {
    struct race race = {.rounds = test_slow() ? 300 : 5000, .writers_left = 2};
    set_up();
    test_threads(4, churn_thread, &race);
    CHECK_EQ(stats_of().watches, 0);
    tear_down();
}

/* ---- P5 ---- */

static int parents_fd;
static struct heard forked;

static void in_child(void *ctx) {
    struct pnx_watch *watch = ctx;
    uint64_t version;
    forked.running = 0; /* on a thread that is not here */
    publish(3);
    CHECK_EQ(forked.last, 3); /* nor is it waited for */
    int fd = pnx_watch_fd(watch);
    CHECK(fd >= 0);
    CHECK(readable(fd));
    publish(4);
    CHECK_EQ(pnx_watch_read(watch, NULL, &version), 0);
    CHECK_EQ(version, 4);
    CHECK(!readable(fd));
    CHECK_EQ(pnx_watch_cancel(watch), 0);
    raise(SIGKILL); /* leak checkers do not know what the parent's other threads held */
}

static void fork_thread(unsigned index, void *ctx) {
    if (index == 0) {
        publish(2);
        return;
    }
    pthread_barrier_wait(&begun); /* the callback runs on the other thread */
    CHECK_EQ(test_child(in_child, ctx), -SIGKILL);
    pthread_barrier_wait(&may_end);
}

static void block_in_parent(struct heard *heard, uint64_t version) {
    static pid_t parent;
    (void)heard;
    if (version == 2 && !parent) {
        parent = getpid();
        pthread_barrier_wait(&begun);
        pthread_barrier_wait(&may_end);
    }
}

TEST(p5_a_child_hears_of_its_own_writes_and_leaves_the_parents_descriptor_alone) {
    forked.inside = block_in_parent;
    set_up();
    pthread_barrier_init(&begun, NULL, 2);
    pthread_barrier_init(&may_end, NULL, 2);
    struct pnx_watch *watch = open_watch(NULL);
    parents_fd = pnx_watch_fd(watch);
    struct pnx_watch *other = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &forked));
    test_threads(2, fork_thread, watch);
    CHECK(readable(parents_fd)); /* by our own version 2 */
    CHECK_EQ(pnx_watch_read(watch, NULL, NULL), 0);
    CHECK(!readable(parents_fd));
    pnx_watch_release(&watch);
    pnx_watch_release(&other);
    tear_down();
}

/* ---- life ---- */

TEST(each_bad_argument_is_refused_by_name) {
    struct pnx_error err;
    struct pnx_watch *watch = NULL;
    set_up_with(1);
    CHECK_EQ(pnx_watch_open(NULL, NULL, &err, &watch), -EINVAL);
    CHECK_STR(err.field, "snapshot");
    CHECK_EQ(pnx_watch_open(cell, NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_watch");
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.flags = 64), &err, &watch), -EINVAL);
    CHECK_STR(err.field, "flags");
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.reserved = 1), &err, &watch), -EINVAL);
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.flags = PNX_WATCH_TICK), &err, &watch), -EINVAL);
    CHECK_STR(err.field, "changed");
    CHECK_EQ(pnx_watch_open(cell, &(struct pnx_watch_opts){0}, &err, &watch), -EINVAL);
    CHECK(watch == NULL);
    watch = open_watch(NULL);
    struct pnx_watch *second = NULL;
    CHECK_EQ(pnx_watch_open(cell, NULL, &err, &second), -EBUSY);
    CHECK_STR(err.message, "test: max_watches 1 are open");
    CHECK_EQ(pnx_watch_tick(watch), -EINVAL);
    CHECK_EQ(pnx_watch_tick(NULL), -EINVAL);
    CHECK_EQ(pnx_watch_fd(NULL), -EINVAL);
    CHECK_EQ(pnx_watch_read(NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_watch_wait(NULL, 0, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_watch_cancel(NULL), 0);
    pnx_watch_release(&watch);
    pnx_watch_release(&watch);
    pnx_watch_release(NULL);
    pnx_snapshot_close(cell);
    CHECK_EQ(pnx_watch_open(cell, NULL, &err, &watch), -ESHUTDOWN);
    tear_down();
}

#ifdef PNX_DEBUG
static void read_anything(void *ctx) {
    (void)!pnx_watch_read(ctx, NULL, NULL);
}
#endif

TEST(debug_builds_name_what_is_no_watch) {
#ifdef PNX_DEBUG
    static _Alignas(64) unsigned char none[2048];
    const char *said = test_abort(read_anything, none);
    CHECK_CONTAINS(said, "patinox: pnx_watch_read: ");
    CHECK_CONTAINS(said, "is no watch, or not any more\n");
#else
    test_skip("only debug builds look");
#endif
}

static int note_row(void *ctx, const struct pnx_resource_info *info) {
    struct pnx_resource_info *found = ctx;
    if (strcmp(info->type, "watch") == 0)
        *found = *info;
    return 0;
}

TEST(a_watch_has_a_row_and_shutdown_cancels_it) {
    struct pnx_registry *registry = NULL;
    struct pnx_resource_info info = {0};
    struct heard heard = {0};
    void *first = NULL;
    test_env_init(&te);
    value_type.env = &te.env;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    CHECK_EQ(pnx_rc_new(&value_type, &(struct value){1}, &first), 0);
    CHECK_EQ(pnx_snapshot_create(first,
                     PNX_SNAPSHOT_OPTS(.name = "prices", .registry = registry, .env = &te.env),
                     NULL, &cell),
            0);
    pnx_rc_unref(first);
    heard.watch = open_watch(PNX_WATCH_OPTS(.changed = changed, .ctx = &heard, .name = "ticker"));
    CHECK_EQ(pnx_registry_count(registry), 2);
    CHECK_EQ(pnx_registry_each(registry, note_row, &info), 0);
    CHECK_STR(info.name, "ticker");
    CHECK_CONTAINS(info.site, "test_watch.c:");
    CHECK_EQ(pnx_registry_cleanup(registry, info.id), 0); /* as a shutdown would */
    publish(2);
    CHECK_EQ(heard.calls, 0);
    CHECK_EQ(pnx_watch_wait(heard.watch, 0, NULL, NULL), -ECANCELED);
    pnx_watch_release(&heard.watch);
    CHECK_EQ(pnx_registry_count(registry), 1);
    pnx_snapshot_release(&cell);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

struct shut {
    struct pnx_registry *registry;
    struct pnx_watch *watch; /* released before, if there is one */
    int rc;
};

static void shut_down(void *ctx, const void *value, uint64_t version) {
    struct shut *shut = ctx;
    (void)value;
    (void)version;
    pnx_watch_release(&shut->watch);
    shut->rc = pnx_registry_shutdown(shut->registry, PNX_NEVER, NULL);
}

TEST(p4_a_shutdown_inside_a_callback_for_which_it_would_wait_is_refused) {
    struct shut shut = {.rc = 1};
    void *first = NULL;
    test_env_init(&te);
    value_type.env = &te.env;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &shut.registry), 0);
    CHECK_EQ(pnx_rc_new(&value_type, &(struct value){1}, &first), 0);
    CHECK_EQ(pnx_snapshot_create(first,
                     PNX_SNAPSHOT_OPTS(.registry = shut.registry, .env = &te.env), NULL, &cell),
            0);
    pnx_rc_unref(first);
    struct pnx_watch *watch = open_watch(PNX_WATCH_OPTS(.changed = shut_down, .ctx = &shut));
    publish(2);
    CHECK_EQ(shut.rc, -EDEADLK);
    shut.watch = watch;
    shut.rc = 1;
    publish(3); /* nothing was changed; a watch that is released inside itself has its row to its end */
    CHECK_EQ(shut.rc, -EDEADLK);
    CHECK_EQ(pnx_registry_count(shut.registry), 1);
    CHECK_EQ(pnx_registry_shutdown(shut.registry, PNX_SEC, NULL), 0);
    pnx_snapshot_release(&cell);
    pnx_registry_release(&shut.registry);
    test_env_check_empty(&te);
}

TEST(a_watch_keeps_the_cell) {
    uint64_t version;
    set_up();
    struct pnx_watch *watch = open_watch(PNX_WATCH_OPTS(.flags = PNX_WATCH_INITIAL));
    pnx_snapshot_release(&cell);
    CHECK_EQ(pnx_watch_wait(watch, 0, NULL, &version), 0);
    CHECK_EQ(version, 1);
    pnx_watch_release(&watch);
    test_env_check_empty(&te);
}

static int everything(struct test_env *env, void *ctx) {
    struct heard heard = {0};
    void *value = NULL;
    (void)ctx;
    value_type.env = &env->env;
    int rc = pnx_rc_new(&value_type, &(struct value){1}, &value);
    if (rc == 0)
        rc = pnx_snapshot_create(value,
                PNX_SNAPSHOT_OPTS(.env = &env->env, .registry = pnx_registry_off(),
                        .history_depth = 2),
                NULL, &cell);
    pnx_rc_unref(value);
    value = NULL;
    if (rc == 0)
        rc = pnx_watch_open(
                cell, PNX_WATCH_OPTS(.changed = changed, .ctx = &heard), NULL, &heard.watch);
    if (rc == 0)
        rc = pnx_rc_new(&value_type, &(struct value){2}, &value);
    if (rc == 0)
        rc = pnx_snapshot_give(cell, &value, NULL, NULL);
    if (rc == 0)
        CHECK_EQ(heard.last, 2);
    pnx_rc_unref(value);
    pnx_watch_release(&heard.watch);
    pnx_snapshot_release(&cell);
    return rc;
}

TEST(each_allocation_may_fail) {
    test_env_init(&te);
    test_fail_each_allocation(&te, everything, NULL);
}
