/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shutdowns of registries with real objects in them, made in any order: each part of the library ends in the right
 * one, refuses further use, and may be released afterwards.  And pnx_shutdown(), which reclaims, too.
 */
#include "harness/harness.h"

#include <patinox/patinox.h>

#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

#define LONG (100 * PNX_SEC)

struct thing {
    int number;
};

/* ---- one of each ---- */

enum kind {
    BUDGET,
    DOMAIN,
    TALLY,
    SNAPSHOT,
    WATCH,
    CMAP,
    RWDATA,
    CONFIG,
    POOL,
    CACHE,
    MAPPING,
    EXECUTOR,
    KINDS
};
static const char *const types[KINDS] = {"budget", "reclaim domain", "rc objects", "snapshot",
        "watch", "cmap", "rwdata", "config", "pool", "cache", "mapping", "executor"};

/* Those that are there are used by those that are made after them. */
static struct all {
    struct test_env te;
    struct pnx_registry *registry;
    struct pnx_budget *budget;
    struct pnx_reclaim *domain;
    struct pnx_rc_tally *tally;
    struct pnx_snapshot *snapshot;
    struct pnx_watch *watch;
    struct pnx_cmap *map;
    struct pnx_rwdata *rwdata;
    struct pnx_config *config;
    struct pnx_pool *pool;
    struct pnx_cache *cache;
    struct pnx_mapping *mapping;
    struct pnx_executor *executor;
    int connected, destroyed, ran;
} all;

static const struct pnx_rc_type counted_type =
        PNX_RC_TYPE(struct thing, .env = &all.te.env, .tally = &all.tally);
static const struct pnx_rc_type thing_type = PNX_RC_TYPE(struct thing, .env = &all.te.env);

static int connect_thing(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    __atomic_add_fetch(&all.connected, 1, __ATOMIC_RELAXED);
    *ret_resource = &all.connected;
    return 0;
}

static void close_thing(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)resource;
    (void)deadline;
    __atomic_sub_fetch(&all.connected, 1, __ATOMIC_RELAXED);
}

static void destroy_value(void *ctx, const struct pnx_cache_removed *removed) {
    (void)ctx;
    (void)removed;
    __atomic_add_fetch(&all.destroyed, 1, __ATOMIC_RELAXED);
}

static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    struct thing thing = {(int)n};
    (void)ctx;
    (void)text;
    (void)err;
    return pnx_rc_new(&thing_type, &thing, ret_value);
}

static void *thing_of(const struct pnx_rc_type *type) {
    void *thing;
    CHECK_EQ(pnx_rc_new(type, NULL, &thing), 0);
    return thing;
}

static void make_snapshot(void) {
    void *thing = thing_of(&thing_type);
    CHECK_EQ(pnx_snapshot_create(thing,
                     PNX_SNAPSHOT_OPTS(.registry = all.registry, .env = &all.te.env,
                             .reclaim = all.domain),
                     NULL, &all.snapshot),
            0);
    pnx_rc_unref(thing);
}

static void make_map(void) {
    void *thing = thing_of(&counted_type);
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.registry = all.registry, .env = &all.te.env,
                             .domain = all.domain, .budget = all.budget, .flags = PNX_CMAP_RC),
                     NULL, &all.map),
            0);
    CHECK_EQ(pnx_cmap_put(all.map, "key", 3, pnx_cmap_value(thing)), 0);
    pnx_rc_unref(thing);
}

static void make_config(void) {
    test_write_file(test_path("config"), "text", 4);
    CHECK_EQ(pnx_config_create(PNX_CONFIG_OPTS(.registry = all.registry, .env = &all.te.env,
                                       .path = test_path("config"), .parse = parse,
                                       .flags = PNX_CONFIG_THREAD),
                     NULL, &all.config),
            0);
}

static void make_pool(void) {
    static const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = connect_thing, .close = close_thing};
    CHECK_EQ(pnx_pool_create(&manager,
                     PNX_POOL_OPTS(.registry = all.registry, .env = &all.te.env,
                             .budget = all.budget, .max = 4),
                     NULL, &all.pool),
            0);
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(all.pool, LONG, NULL, &lease), 0);
    pnx_lease_release(&lease);
}

static void make_cache(void) {
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.registry = all.registry, .env = &all.te.env,
                                      .budget = all.budget, .capacity_entries = 10,
                                      .destroy = destroy_value),
                     NULL, &all.cache),
            0);
    CHECK_EQ(pnx_cache_put(all.cache, "key", 3, "value", 5, PNX_NEVER), 0);
}

static int run_job(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

static void make_executor(void) {
    CHECK_EQ(pnx_executor_create(PNX_EXECUTOR_OPTS(.registry = all.registry, .env = &all.te.env),
                     NULL, &all.executor),
            0);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(pnx_executor_submit(
                         all.executor, PNX_JOB(.run = run_job, .arg = &all.ran), NULL, NULL),
                0);
}

static void make(enum kind kind) {
    switch (kind) {
    case EXECUTOR:
        make_executor();
        break;
    case BUDGET:
        CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.registry = all.registry, .env = &all.te.env),
                         NULL, &all.budget),
                0);
        break;
    case DOMAIN:
        CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.registry = all.registry, .env = &all.te.env),
                         NULL, &all.domain),
                0);
        break;
    case TALLY:
        CHECK_EQ(
                pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.registry = all.registry, .env = &all.te.env),
                        NULL, &all.tally),
                0);
        break;
    case SNAPSHOT:
        make_snapshot();
        break;
    case WATCH:
        CHECK_EQ(
                pnx_watch_open(all.snapshot, PNX_WATCH_OPTS(.name = "watch"), NULL, &all.watch), 0);
        break;
    case CMAP:
        make_map();
        break;
    case RWDATA:
        CHECK_EQ(pnx_rwdata_create(&thing_type, NULL,
                         PNX_RWDATA_OPTS(.registry = all.registry, .budget = all.budget), NULL,
                         &all.rwdata),
                0);
        break;
    case CONFIG:
        make_config();
        break;
    case POOL:
        make_pool();
        break;
    case CACHE:
        make_cache();
        break;
    case MAPPING:
        test_write_file(test_path("mapped"), "bytes", 5);
        CHECK_EQ(pnx_mapping_open(test_path("mapped"),
                         PNX_MAPPING_OPTS(.registry = all.registry, .env = &all.te.env,
                                 .budget = all.budget),
                         NULL, &all.mapping),
                0);
        break;
    default:
        CHECK(false);
    }
}

/* What has been ended says so. */
static void check_closed(void) {
    struct pnx_lease lease = {0};
    CHECK_EQ(pnx_pool_acquire(all.pool, 0, NULL, &lease), -ESHUTDOWN);
    CHECK_EQ(__atomic_load_n(&all.connected, __ATOMIC_RELAXED), 0);
    CHECK_EQ(pnx_cache_put(all.cache, "key", 3, "value", 5, PNX_NEVER), -ESHUTDOWN);
    CHECK_EQ(__atomic_load_n(&all.destroyed, __ATOMIC_RELAXED), 1);
    uint64_t value;
    CHECK_EQ(pnx_cmap_get(all.map, "key", 3, &value), -ESHUTDOWN);
    CHECK_EQ(pnx_snapshot_store(all.snapshot, NULL, NULL, NULL) < 0, true);
    CHECK_EQ(pnx_watch_wait(all.watch, LONG, NULL, NULL), -ECANCELED);
    struct pnx_rwdata_read_guard guard = {0};
    CHECK_EQ(pnx_rwdata_read(all.rwdata, 0, NULL, &guard), -ESHUTDOWN);
    CHECK_EQ(pnx_config_wait(all.config, 77, LONG), -ESHUTDOWN);
    CHECK_EQ(__atomic_load_n(&all.ran, __ATOMIC_RELAXED),
            10); /* nothing that was accepted is lost */
    CHECK_EQ(
            pnx_executor_submit(all.executor, PNX_JOB(.run = run_job, .arg = &all.ran), NULL, NULL),
            -ESHUTDOWN);
    struct pnx_view view;
    CHECK_EQ(pnx_view_get(all.mapping, 0, 1, &view), -ESHUTDOWN);
}

static void let_go(enum kind kind) {
    switch (kind) {
    case BUDGET:
        pnx_budget_release(&all.budget);
        break;
    case DOMAIN:
        pnx_reclaim_release(&all.domain);
        break;
    case TALLY:
        pnx_rc_tally_release(&all.tally);
        break;
    case SNAPSHOT:
        pnx_snapshot_release(&all.snapshot);
        break;
    case WATCH:
        pnx_watch_release(&all.watch);
        break;
    case CMAP:
        pnx_cmap_release(&all.map);
        break;
    case RWDATA:
        pnx_rwdata_release(&all.rwdata);
        break;
    case CONFIG:
        pnx_config_release(&all.config);
        break;
    case POOL:
        pnx_pool_release(&all.pool);
        break;
    case CACHE:
        pnx_cache_release(&all.cache);
        break;
    case EXECUTOR:
        pnx_executor_release(&all.executor);
        break;
    default:
        pnx_mapping_release(&all.mapping);
        break;
    }
}

/* A random order in which a watch comes after its snapshot. */
static void shuffle(enum kind *kinds, uint64_t *state) {
    for (int i = 0; i < KINDS; i++)
        kinds[i] = (enum kind)i;
    for (int i = KINDS - 1; i > 0; i--) {
        int k = (int)(test_random(state) % (uint64_t)(i + 1));
        enum kind kind = kinds[i];
        kinds[i] = kinds[k];
        kinds[k] = kind;
    }
    int watch = 0, snapshot = 0;
    for (int i = 0; i < KINDS; i++) {
        watch = kinds[i] == WATCH ? i : watch;
        snapshot = kinds[i] == SNAPSHOT ? i : snapshot;
    }
    if (watch < snapshot) {
        kinds[watch] = SNAPSHOT;
        kinds[snapshot] = WATCH;
    }
}

#define ROWS (KINDS + 1) /* the config's cell has one, too */

static int check_row(void *ctx, const struct pnx_resource_info *info) {
    int *n = ctx;
    int kind = 0;
    if (strcmp(info->type, "connection") == 0) { /* the pool's */
        CHECK_EQ(info->state, PNX_RESOURCE_DONE);
        return 0;
    }
    while (kind < KINDS && strcmp(info->type, types[kind]) != 0)
        kind++;
    CHECK(kind < KINDS);
    ++*n;
    /* Last are ended what others may need in order to end, and what only counts. */
    CHECK((kind == EXECUTOR || kind == TALLY) == (*n >= ROWS - 1));
    CHECK_MSG(info->state == PNX_RESOURCE_DONE, "the outcome of the %s is %d, %s", info->type,
            info->state, pnx_errname(info->code));
    CHECK_CONTAINS(info->site, "test_shutdown_process.c:");
    return 0;
}

static void shut_down_all(struct pnx_registry *registry, const enum kind *kinds) {
    struct pnx_shutdown_report *report;
    int n = 0;
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), 0);
    CHECK_EQ(pnx_shutdown_report_each(report, check_row, &n), 0);
    CHECK_EQ(n, ROWS);
    check_closed();
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK(counts.done >= (size_t)ROWS); /* connections, too */
    CHECK_EQ(counts.leaked, 0);
    pnx_shutdown_report_release(&report);
    for (int i = 0; i < KINDS; i++)
        let_go(kinds[i]);
}

TEST_LIMIT(each_part_ends_whatever_the_order_in_which_they_were_made, 300) {
    uint64_t state = test_seed();
    enum kind kinds[KINDS];
    for (int round = 0; round < (test_slow() ? 20 : 100); round++) {
        memset(&all, 0, sizeof(all));
        test_env_init(&all.te);
        CHECK_EQ(
                pnx_registry_create(PNX_REGISTRY_OPTS(.env = &all.te.env), NULL, &all.registry), 0);
        shuffle(kinds, &state);
        for (int i = 0; i < KINDS; i++)
            make(kinds[i]);
        struct pnx_registry *registry = all.registry;
        shuffle(kinds, &state);
        shut_down_all(registry, kinds);
        pnx_registry_release(&registry);
        CHECK_EQ(pnx_reclaim_barrier(NULL, LONG), 0);
        test_env_check_empty(&all.te);
    }
}

TEST(the_process_wide_registry_ends_them_too) {
    uint64_t state = test_seed();
    enum kind kinds[KINDS];
    test_env_init(&all.te);
    shuffle(kinds, &state);
    for (int i = 0; i < KINDS; i++)
        make(kinds[i]);
    shut_down_all(pnx_registry_default(), kinds);
}

/* ---- reclaiming ---- */

struct retired {
    struct pnx_reclaim_node node;
    sem_t *entered, *go;
    struct retired *next; /* what its function retires */
};
static int freed;

static void free_retired(struct pnx_reclaim_node *node) {
    struct retired *retired = (struct retired *)(void *)node;
    if (retired->entered)
        sem_post(retired->entered);
    if (retired->go)
        sem_wait(retired->go);
    if (retired->next)
        pnx_reclaim_retire(NULL, &retired->next->node, free_retired, sizeof(*retired));
    __atomic_add_fetch(&freed, 1, __ATOMIC_RELAXED);
}

static size_t unreclaimed(const struct pnx_shutdown_report *report) {
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    return counts.unreclaimed;
}

static int write_nothing(void *ctx, const char *text, size_t n) {
    char *found = ctx;
    char line[512];
    snprintf(line, sizeof(line), "%.*s", (int)n, text);
    *found |= strstr(line, "retired, but not freed: 1 objects") != NULL;
    return 0;
}

static int retire_it(void *arg, const struct pnx_cancel *cancel) {
    struct retired *retired = arg;
    (void)cancel;
    pnx_reclaim_retire(NULL, &retired->node, free_retired, sizeof(*retired));
    return 0;
}

TEST(what_the_rows_have_retired_is_freed_and_what_that_retires) {
    static struct retired second, first = {.next = &second};
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(NULL,
                     PNX_RESOURCE(.type = "retirer", .cleanup = retire_it, .arg = &first), NULL,
                     &id),
            0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_shutdown(LONG, &report), 0);
    CHECK_EQ(freed, 2);
    CHECK_EQ(unreclaimed(report), 0);
    pnx_shutdown_report_release(&report);
}

TEST(another_registrys_shutdown_leaves_that_to_others) {
    static struct retired first;
    struct pnx_registry *registry;
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    pnx_reclaim_enter(NULL); /* no obstacle */
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "retirer", .cleanup = retire_it, .arg = &first), NULL,
                     &id),
            0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, LONG, &report), 0);
    CHECK_EQ(unreclaimed(report), 0);
    CHECK_EQ(freed, 0);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, LONG), 0);
    CHECK_EQ(freed, 1);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

struct reader {
    sem_t inside, leave;
};

static void *read_on(void *ctx) {
    struct reader *reader = ctx;
    pnx_reclaim_enter(NULL);
    sem_post(&reader->inside);
    sem_wait(&reader->leave);
    pnx_reclaim_exit(NULL);
    return NULL;
}

TEST(p3_a_reader_that_does_not_leave_is_waited_for_until_the_deadline_and_reported) {
    static struct retired first;
    struct reader reader;
    pthread_t thread;
    sem_init(&reader.inside, 0, 0);
    sem_init(&reader.leave, 0, 0);
    CHECK_EQ(pthread_create(&thread, NULL, read_on, &reader), 0);
    sem_wait(&reader.inside);
    CHECK_EQ(retire_it(&first, NULL), 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_shutdown(50 * PNX_MS, &report), -ETIMEDOUT);
    CHECK_EQ(unreclaimed(report), 1);
    char found = 0;
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, write_nothing, &found), 0);
    CHECK(found);
    sem_post(&reader.leave);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(unreclaimed(report), 1); /* history is not rewritten */
    pnx_shutdown_report_release(&report);
    CHECK_EQ(pnx_reclaim_barrier(NULL, LONG), 0);
}

TEST(p3_a_callback_that_hangs_does_not_hold_it_up_beyond_the_deadline) {
    sem_t entered, go;
    sem_init(&entered, 0, 0);
    sem_init(&go, 0, 0);
    static struct retired first;
    first = (struct retired){.entered = &entered, .go = &go};
    CHECK_EQ(retire_it(&first, NULL), 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_shutdown(200 * PNX_MS, &report), -ETIMEDOUT);
    CHECK_EQ(unreclaimed(report), 1);
    pnx_shutdown_report_release(&report);
    sem_post(
            &go); /* to the thread that was left behind; or to us, if it had not come to the callback yet */
    CHECK_EQ(pnx_reclaim_barrier(NULL, LONG), 0);
    CHECK_EQ(freed, 1);
}

TEST(from_inside_a_section_it_does_not_wait_for_itself) {
    static struct retired first;
    pnx_reclaim_enter(NULL);
    CHECK_EQ(retire_it(&first, NULL), 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_shutdown(PNX_NEVER, &report), -EDEADLK);
    CHECK_EQ(unreclaimed(report), 1);
    pnx_reclaim_exit(NULL);
    pnx_shutdown_report_release(&report);
    CHECK_EQ(pnx_reclaim_barrier(NULL, LONG), 0);
}

static int result_inside;
static struct pnx_shutdown_report *report_inside;

static void shut_down_inside(struct pnx_reclaim_node *node) {
    (void)node;
    result_inside = pnx_shutdown(PNX_NEVER, &report_inside);
}

TEST(from_inside_a_callback_it_does_not_wait_for_itself) {
    static struct pnx_reclaim_node node;
    pnx_reclaim_retire(NULL, &node, shut_down_inside, 1);
    CHECK_EQ(pnx_reclaim_barrier(NULL, LONG), 0);
    CHECK_EQ(result_inside, -EDEADLK);
    CHECK_EQ(unreclaimed(report_inside), 1); /* the one that runs */
    pnx_shutdown_report_release(&report_inside);
}

TEST(without_time_for_it_what_waits_is_counted) {
    static struct retired first;
    CHECK_EQ(retire_it(&first, NULL), 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_shutdown(0, &report), -ETIMEDOUT);
    CHECK_EQ(unreclaimed(report), 1);
    CHECK_EQ(freed, 0);
    pnx_shutdown_report_release(&report);
    CHECK_EQ(pnx_reclaim_barrier(NULL, LONG), 0);
}

TEST(without_a_thread_the_caller_reclaims) {
    if (!test_os_faults())
        test_skip("needs injected faults");
    static struct retired first;
    CHECK_EQ(retire_it(&first, NULL), 0);
    test_os_fault("pthread_create", 1, true, EAGAIN);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_shutdown(LONG, &report), 0);
    CHECK(test_os_fault_clear() >= 1);
    CHECK_EQ(freed, 1);
    pnx_shutdown_report_release(&report);
}
