/* SPDX-License-Identifier: Apache-2.0 */
/* What may go wrong around reclaim, snapshot and config: forks under load, threads that end anywhere, callbacks that do more. */
#include "harness/forks.h"
#include "share/reclaim.h"
#include "share/snapshot.h"

#include <patinox/config.h>
#include <patinox/rc.h>
#include <patinox/reclaim.h>
#include <patinox/snapshot.h>
#include <patinox/stats.h>
#include <patinox/watch.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- forks ---- */

struct thing {
    struct pnx_reclaim_node node;
    int freed;
};

static void free_thing(struct pnx_reclaim_node *node) {
    __atomic_add_fetch(&PNX_CONTAINER(node, struct thing, node)->freed, 1, __ATOMIC_RELAXED);
}

static pthread_barrier_t inside, go;

static void *stay_in_section(void *domain) {
    pnx_reclaim_enter(domain);
    pthread_barrier_wait(&inside);
    pthread_barrier_wait(&go);
    pnx_reclaim_exit(domain);
    return NULL;
}

static void frees_in_child(void *domain) {
    struct thing thing = {.freed = 0};
    pnx_reclaim_retire(domain, &thing.node, free_thing, 1);
    int rc = pnx_reclaim_barrier(domain, 20 * PNX_SEC);
    _exit(rc == 0 && thing.freed == 1 ? 7 : 1);
}

static void fork_beside_a_section(struct pnx_reclaim *domain) {
    pthread_t thread;
    pthread_barrier_init(&inside, NULL, 2);
    pthread_barrier_init(&go, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, stay_in_section, domain), 0);
    pthread_barrier_wait(&inside);
    CHECK_EQ(test_child(frees_in_child, domain), 7);
    pthread_barrier_wait(&go);
    pthread_join(thread, NULL);
}

TEST(reclaim_a_child_waits_for_no_section_of_its_parents_threads) {
    fork_beside_a_section(NULL);
}

TEST(reclaim_a_child_waits_for_none_in_a_domain_of_its_own_either) {
    struct pnx_reclaim *domain = NULL;
    CHECK_EQ(pnx_reclaim_create(NULL, NULL, &domain), 0);
    fork_beside_a_section(domain);
    pnx_reclaim_release(&domain);
}

#define MANY 2000
static struct thing many[MANY];
static int running;

static void *run_callbacks(void *arg) {
    (void)arg;
    while (__atomic_load_n(&running, __ATOMIC_RELAXED)) {
        for (int i = 0; i < MANY; i++) {
            __atomic_store_n(&many[i].freed, 0, __ATOMIC_RELAXED);
            pnx_reclaim_retire(NULL, &many[i].node, free_thing, 1);
        }
        CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    }
    return NULL;
}

static void loses_one_at_most(void *ctx) {
    (void)ctx;
    struct pnx_reclaim_stats stats = {.size = sizeof(stats)};
    uint64_t before = 0, after = 0;
    for (int i = 0; i < MANY; i++)
        before += (uint64_t)many[i].freed;
    CHECK_EQ(pnx_reclaim_read_stats(NULL, &stats), 0);
    uint64_t pending = stats.pending;
    CHECK_EQ(pnx_reclaim_barrier(NULL, 20 * PNX_SEC), 0);
    for (int i = 0; i < MANY; i++)
        after += (uint64_t)many[i].freed;
    CHECK_EQ(pnx_reclaim_read_stats(NULL, &stats), 0);
    CHECK_EQ(stats.pending, 0);
    /* What was pending has run, but for the one that the parent's thread was running. */
    CHECK_MSG(after - before + 1 >= pending && after - before <= pending + 1, "%d pending, %d run",
            (int)pending, (int)(after - before));
    _exit(7);
}

TEST(reclaim_a_child_loses_one_callback_at_most) {
    pthread_t thread;
    (void)pnx_reclaim_default(); /* what is done once is not what is tested */
    __atomic_store_n(&running, 1, __ATOMIC_RELAXED);
    CHECK_EQ(pthread_create(&thread, NULL, run_callbacks, NULL), 0);
    for (int i = 0; i < (test_slow() ? 30 : 300); i++)
        CHECK_EQ(test_child(loses_one_at_most, NULL), 7);
    __atomic_store_n(&running, 0, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
}

struct value {
    int number;
};
static struct pnx_rc_type value_type = PNX_RC_TYPE(struct value);

static struct pnx_snapshot *make_cell(const struct pnx_snapshot_opts *opts) {
    struct pnx_snapshot *cell = NULL;
    void *value = NULL;
    CHECK_EQ(pnx_rc_new(&value_type, NULL, &value), 0);
    CHECK_EQ(pnx_snapshot_create(value, opts, NULL, &cell), 0);
    pnx_rc_unref(value);
    return cell;
}

static int add_one(void *ctx, void *object) {
    (void)ctx;
    ((struct value *)object)->number++;
    return 0;
}

static void *write_cell(void *arg) {
    for (unsigned i = 0; __atomic_load_n(&running, __ATOMIC_RELAXED); i++) {
        CHECK_EQ(pnx_snapshot_update(arg, add_one, NULL, NULL, NULL), 0);
        if (i % 16 ==
                0) /* test_fork_env() does not hold any number of values that wait for readers */
            CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    }
    return NULL;
}

static void writes_in_child(void *arg) {
    struct pnx_snapshot_past past[4];
    size_t n;
    for (int i = 0; i < 10; i++)
        CHECK_EQ(pnx_snapshot_update(arg, add_one, NULL, NULL, NULL), 0);
    CHECK_EQ(pnx_snapshot_history(arg, past, 4, &n), 0);
    _exit(7);
}

TEST_LIMIT(snapshot_a_child_writes_whatever_its_parents_threads_were_writing, 30) {
    pthread_t thread;
    value_type.env = test_fork_env();
    struct pnx_snapshot *cell =
            make_cell(PNX_SNAPSHOT_OPTS(.env = test_fork_env(), .history_depth = 3));
    /* What allocates once in a thread has done so. */
    CHECK_EQ(pnx_snapshot_update(cell, add_one, NULL, NULL, NULL), 0);
    __atomic_store_n(&running, 1, __ATOMIC_RELAXED);
    CHECK_EQ(pthread_create(&thread, NULL, write_cell, cell), 0);
    for (int i = 0; i < (test_slow() ? 50 : 500); i++)
        CHECK_EQ(test_child(writes_in_child, cell), 7);
    __atomic_store_n(&running, 0, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    pnx_snapshot_release(&cell);
}

static int parse_value(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    (void)ctx, (void)n, (void)err;
    return pnx_rc_new(&value_type, &(struct value){.number = text[0]}, ret_value);
}

static void *ask_config(void *arg) {
    struct pnx_config_status status = {.size = sizeof(status)};
    struct pnx_config_entry entries[4];
    while (__atomic_load_n(&running, __ATOMIC_RELAXED)) {
        CHECK_EQ(pnx_config_read_status(arg, &status), 0);
        CHECK_EQ(pnx_config_history(arg, entries, 4, NULL), 0);
    }
    return NULL;
}

static void *reload_config(void *arg) {
    while (__atomic_load_n(&running, __ATOMIC_RELAXED))
        CHECK_EQ(pnx_config_reload(arg, NULL), 0);
    return NULL;
}

static void uses_config_in_child(void *arg) {
    struct pnx_config *config = arg;
    struct pnx_config_status status = {.size = sizeof(status)};
    struct pnx_config_entry entries[4];
    size_t n = 0;
    CHECK_EQ(pnx_config_history(config, entries, 4, &n), 0);
    CHECK_EQ(pnx_config_read_status(config, &status), 0);
    CHECK_EQ(entries[0].version, status.version); /* what was forked is whole */
    for (size_t i = 1; i < n && i < 4; i++)
        CHECK_EQ(entries[i].version, entries[0].version - i);
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    pnx_rc_unref(pnx_config_load_for(config, 1, NULL, NULL));
    pnx_config_release(&config);
    _exit(7);
}

TEST_LIMIT(config_a_child_uses_it_whatever_its_parents_threads_were_doing, 60) {
    pthread_t threads[2];
    const char *path = test_path("c");
    struct pnx_config *config = NULL;
    test_write_file(path, "1", 1);
    value_type.env = test_fork_env();
    CHECK_EQ(pnx_config_create(
                     PNX_CONFIG_OPTS(.env = test_fork_env(), .path = path, .parse = parse_value),
                     NULL, &config),
            0);
    CHECK_EQ(pnx_config_reload(config, NULL), 0); /* what allocates once in a thread has done so */
    __atomic_store_n(&running, 1, __ATOMIC_RELAXED);
    CHECK_EQ(pthread_create(&threads[0], NULL, ask_config, config), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, reload_config, config), 0);
    for (int i = 0; i < (test_slow() ? 20 : 200); i++)
        CHECK_EQ(test_child(uses_config_in_child, config), 7);
    __atomic_store_n(&running, 0, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pnx_config_release(&config);
}

/* ---- what is no config ---- */

TEST(config_bad_arguments_are_refused) {
    struct pnx_config *none = NULL;
    const char *path = test_path("c");
    struct pnx_config *config = NULL;
    struct pnx_error err;
    size_t n;
    CHECK_EQ(pnx_config_wait(NULL, 0, 0), -EINVAL);
    CHECK_EQ(pnx_config_fd(NULL), -EINVAL);
    CHECK_EQ(pnx_config_watch_open(NULL, NULL, &err, &(struct pnx_watch *){NULL}), -EINVAL);
    CHECK_EQ(pnx_config_reload(NULL, &err), -EINVAL);
    CHECK_EQ(pnx_config_resume(NULL, &err), -EINVAL);
    CHECK_EQ(pnx_config_rollback(NULL, 1, &err), -EINVAL);
    CHECK_EQ(pnx_config_history(NULL, NULL, 0, &n), -EINVAL);
    CHECK_EQ(pnx_config_overrides(NULL, NULL, 0, &n), -EINVAL);
    CHECK_EQ(pnx_config_load_version(NULL, 1, &(const void *){NULL}), -EINVAL);
    CHECK_EQ(pnx_config_read_status(NULL, &(struct pnx_config_status){.size = 100}), -EINVAL);
    CHECK_EQ(pnx_config_read_stats(NULL, &(struct pnx_config_stats){.size = 100}), -EINVAL);
    pnx_config_notify(NULL);
    pnx_config_release(NULL);
    pnx_config_release(&none);
    test_write_file(path, "1", 1);
    CHECK_EQ(pnx_config_create(PNX_CONFIG_OPTS(.path = path, .parse = parse_value), &err, NULL),
            -EINVAL);
    CHECK_EQ(pnx_config_create(PNX_CONFIG_OPTS(.path = path, .parse = parse_value,
                                       .max_bytes = (size_t)2 << 30),
                     &err, &config),
            -EINVAL);
    CHECK_STR(err.field, "max_bytes");
    CHECK_EQ(pnx_config_create(
                     PNX_CONFIG_OPTS(.path = path, .parse = parse_value, .history = UINT32_MAX),
                     &err, &config),
            -EINVAL);
    CHECK_STR(err.field, "history");
    CHECK_EQ(pnx_config_create(PNX_CONFIG_OPTS(.path = path, .parse = parse_value), &err, &config),
            0);
    CHECK_EQ(pnx_config_history(config, NULL, 1, &n), -EINVAL);
    CHECK_EQ(pnx_config_load_version(config, 1, NULL), -EINVAL);
    CHECK_EQ(pnx_config_read_status(config, &(struct pnx_config_status){.size = 1}), -EINVAL);
    CHECK_EQ(pnx_config_wait(config, 1, -1), -EINVAL);
    pnx_config_release(&config);
}

#ifdef PNX_DEBUG
static int report;

static void load_it(void *config) {
    dup2(report, 2);
    pnx_rc_unref(pnx_config_load(config, NULL));
    _exit(0);
}

static void check_named(void *config) {
    char text[400] = "";
    int fds[2];
    CHECK(pipe(fds) == 0);
    report = fds[1];
    CHECK_EQ(test_apart(load_it, config), -SIGABRT);
    CHECK(read(fds[0], text, sizeof(text) - 1) > 0);
    CHECK_CONTAINS(text, "PNX_CONFIG_MAGIC");
    close(fds[0]);
    close(fds[1]);
}

/* What is freed is kept until the end, so that a handle that was released can be looked at. */
static struct {
    void *p;
    size_t size;
} kept[100];
static unsigned n_kept;
static void (*really_free)(void *ctx, void *p, size_t size);

static void free_later(void *ctx, void *p, size_t size) {
    (void)ctx;
    CHECK(n_kept < 100);
    kept[n_kept].p = p;
    kept[n_kept++].size = size;
}

static void free_kept(struct test_env *te) {
    for (unsigned i = 0; i < n_kept; i++)
        really_free(te, kept[i].p, kept[i].size);
    test_env_check_empty(te);
}

TEST(config_what_is_none_or_was_released_is_named_in_debug_builds) {
    static struct test_env te;
    static uint64_t no_config[1000];
    const char *path = test_path("c");
    struct pnx_config *config = NULL;
    test_env_init(&te);
    really_free = te.env.free;
    te.env.free = free_later;
    test_write_file(path, "1", 1);
    CHECK_EQ(pnx_config_create(PNX_CONFIG_OPTS(.path = path, .parse = parse_value, .env = &te.env),
                     NULL, &config),
            0);
    void *stale = config;
    pnx_config_release(&config);
    check_named(stale);
    check_named(no_config);
    check_named(NULL);
    free_kept(&te);
}
#endif

/* ---- threads that end ---- */

static void end_thread(struct pnx_reclaim_node *node) {
    free_thing(node);
    pthread_exit(NULL);
}

static void *run_what_ends_it(void *arg) {
    struct thing *things = arg;
    pnx_reclaim_retire(NULL, &things[0].node, free_thing, 1);
    pnx_reclaim_retire(NULL, &things[1].node, end_thread, 1);
    pnx_reclaim_retire(NULL, &things[2].node, free_thing, 1);
    CHECK_EQ(pnx_reclaim_barrier(NULL, 20 * PNX_SEC), 1); /* never returns */
    return NULL;
}

TEST(reclaim_a_callback_that_ends_its_thread_stops_no_others) {
    pthread_t thread;
    struct thing things[3] = {{.freed = 0}};
    CHECK_EQ(pthread_create(&thread, NULL, run_what_ends_it, things), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, 20 * PNX_SEC), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(things[i].freed, 1);
}

static int edit_ends_thread(void *ctx, void *object) {
    (void)ctx, (void)object;
    (pthread_exit)(NULL); /* without unwinding it is the thread's end that gives the cell back */
    return 0;
}

static void *write_what_ends_it(void *arg) {
    CHECK_EQ(pnx_snapshot_update(arg, edit_ends_thread, NULL, NULL, NULL), 1); /* never returns */
    return NULL;
}

TEST(snapshot_an_edit_that_ends_its_thread_leaves_the_cell_usable) {
    pthread_t thread;
    struct pnx_snapshot *cell = make_cell(PNX_SNAPSHOT_OPTS(.write_timeout_ns = PNX_SEC));
    CHECK_EQ(pthread_create(&thread, NULL, write_what_ends_it, cell), 0);
    pthread_join(thread, NULL);
    uint64_t version = 0;
    CHECK_EQ(pnx_snapshot_update(cell, add_one, NULL, NULL, &version), 0);
    CHECK_EQ(version, 2);
    pnx_snapshot_release(&cell);
}

static struct pnx_snapshot_stats stats_of(const struct pnx_snapshot *cell) {
    struct pnx_snapshot_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_snapshot_read_stats(cell, &stats), 0);
    return stats;
}

static int edit_ends_thread_when_told(void *ctx, void *object) {
    (void)ctx, (void)object;
    pthread_barrier_wait(&inside);
    pthread_barrier_wait(&go);
    (pthread_exit)(NULL); /* as above */
    return 0;
}

static void *write_what_ends_it_when_told(void *arg) {
    CHECK_EQ(pnx_snapshot_update(arg, edit_ends_thread_when_told, NULL, NULL, NULL), 1);
    return NULL;
}

static void *write_once(void *arg) {
    CHECK_EQ(pnx_snapshot_update(arg, add_one, NULL, NULL, NULL), 0);
    return NULL;
}

TEST(snapshot_an_edit_that_ends_its_thread_wakes_those_who_wait) {
    pthread_t first, behind[2];
    struct pnx_snapshot *cell = make_cell(PNX_SNAPSHOT_OPTS(.write_timeout_ns = PNX_NEVER));
    pthread_barrier_init(&inside, NULL, 2);
    pthread_barrier_init(&go, NULL, 2);
    CHECK_EQ(pthread_create(&first, NULL, write_what_ends_it_when_told, cell), 0);
    pthread_barrier_wait(&inside);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pthread_create(&behind[i], NULL, write_once, cell), 0);
        while (pnx__latch_waiters(&cell->writer) <= (uint32_t)i)
            sched_yield();
    }
    pthread_barrier_wait(&go);
    for (int i = 0; i < 2; i++)
        pthread_join(behind[i], NULL);
    pthread_join(first, NULL);
    CHECK_EQ(stats_of(cell).version, 3);
    pnx_snapshot_release(&cell);
}

static void enter_when_told(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type != PNX_EVENT_RECLAIM_DIED)
        return;
    pnx_reclaim_enter(NULL); /* as any use of a snapshot does */
    pnx_reclaim_exit(NULL);
}

static void *die_in_section(void *arg) {
    pnx_reclaim_enter(NULL);
    return arg;
}

TEST(reclaim_a_monitor_told_of_a_death_may_use_sections) {
    uint32_t id;
    pthread_t thread;
    CHECK_EQ(pnx_monitor_add(NULL,
                     &(struct pnx_monitor){
                             .size = sizeof(struct pnx_monitor), .event = enter_when_told},
                     &id),
            0);
    for (int i = 0; i < 3; i++) { /* the second one gets the record of the first */
        CHECK_EQ(pthread_create(&thread, NULL, die_in_section, NULL), 0);
        pthread_join(thread, NULL);
        struct thing thing = {.freed = 0};
        pnx_reclaim_retire(NULL, &thing.node, free_thing, 1);
        CHECK_EQ(pnx_reclaim_barrier(NULL, 20 * PNX_SEC), 0);
        CHECK_EQ(thing.freed, 1);
    }
}

/* ---- callbacks where they are not expected ---- */

static struct pnx_reclaim *watched;
static bool ran_in_section;
static int abandoned;

static void look_for_section(struct pnx_reclaim_node *node) {
    free_thing(node);
    ran_in_section |= pnx_reclaim_in_section(watched);
}

static void hear_of_abandoned(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    abandoned += event->type == PNX_EVENT_RECLAIM_ABANDONED;
}

TEST(reclaim_p2_the_end_of_a_domain_runs_nothing_inside_its_own_section) {
    uint32_t id;
    static struct thing thing;
    struct pnx_reclaim *domain = NULL;
    CHECK_EQ(pnx_monitor_add(NULL,
                     &(struct pnx_monitor){
                             .size = sizeof(struct pnx_monitor), .event = hear_of_abandoned},
                     &id),
            0);
    CHECK_EQ(pnx_reclaim_create(NULL, NULL, &domain), 0);
    watched = domain;
    pnx_reclaim_enter(domain);
    pnx_reclaim_retire(domain, &thing.node, look_for_section, 1);
    pnx_reclaim_release(&domain); /* a mistake: it stays, and an event says so */
    CHECK(!ran_in_section);
    CHECK_EQ(abandoned, 1);
    CHECK_EQ(thing.freed, 0);
    pnx_reclaim_exit(watched);
}

static void barrier_inside(struct pnx_reclaim_node *node) {
    free_thing(node);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), -EDEADLK);
}

TEST(reclaim_p5_what_the_end_of_a_domain_runs_inside_anothers_section_cannot_hang) {
    struct thing thing = {.freed = 0};
    struct pnx_reclaim *domain = NULL;
    CHECK_EQ(pnx_reclaim_create(NULL, NULL, &domain), 0);
    pnx_reclaim_retire(domain, &thing.node, barrier_inside, 1);
    pnx_reclaim_enter(NULL);
    pnx_reclaim_release(&domain);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(thing.freed, 1);
}

static int barrier_in_edit(void *ctx, void *object) {
    (void)ctx, (void)object;
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), 0);
    return 0;
}

TEST(reclaim_p5_a_barrier_inside_an_edit_is_refused) {
    struct thing thing = {.freed = 0};
    struct pnx_snapshot *cell = make_cell(NULL);
    pnx_reclaim_retire(NULL, &thing.node, free_thing, 1);
    CHECK_EQ(pnx_snapshot_update(cell, barrier_in_edit, NULL, NULL, NULL), 0);
    pnx_snapshot_release(&cell);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(thing.freed, 1);
}

/* A value whose drop writes to the cell that it was in: allowed, see P4. */
static struct pnx_snapshot *home, *other;
static int written, refused;

static void write_home(void *ctx, void *object) {
    void *next = NULL;
    (void)ctx;
    if (((struct value *)object)->number != 1)
        return;
    CHECK_EQ(pnx_rc_new(&value_type, &(struct value){.number = 100}, &next), 0);
    int rc = pnx_snapshot_store(home, next, NULL, NULL);
    written += rc == 0;
    refused += rc != 0;
    pnx_rc_unref(next);
}

static int write_other(void *ctx, void *object) {
    (void)ctx;
    ((struct value *)object)->number = 2;
    CHECK_EQ(pnx_snapshot_update(other, add_one, NULL, NULL, NULL), 0);
    return 0;
}

TEST(snapshot_p4_no_drop_runs_inside_an_edit_that_writes_elsewhere) {
    pthread_t thread;
    void *value = NULL;
    home = make_cell(NULL);
    other = make_cell(NULL);
    static struct pnx_rc_type writing_type = PNX_RC_TYPE(struct value, .drop = write_home);
    writing_type.clone = NULL;
    CHECK_EQ(pnx_rc_new(&writing_type, &(struct value){.number = 1}, &value), 0);
    CHECK_EQ(pnx_snapshot_store(home, value, NULL, NULL), 0);
    pnx_rc_unref(value);
    /* The value is replaced while another thread could be reading it, so that it goes later. */
    pthread_barrier_init(&inside, NULL, 2);
    pthread_barrier_init(&go, NULL, 2);
    CHECK_EQ(pthread_create(&thread, NULL, stay_in_section, NULL), 0);
    pthread_barrier_wait(&inside);
    value = NULL;
    CHECK_EQ(pnx_rc_new(&value_type, NULL, &value), 0);
    CHECK_EQ(pnx_snapshot_store(home, value, NULL, NULL), 0);
    pnx_rc_unref(value);
    pthread_barrier_wait(&go);
    pthread_join(thread, NULL);
    for (int i = 0; i < 200; i++)
        CHECK_EQ(pnx_snapshot_update(home, write_other, NULL, NULL, NULL), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(refused, 0);
    CHECK_EQ(written, 1);
    pnx_snapshot_release(&home);
    pnx_snapshot_release(&other);
}
