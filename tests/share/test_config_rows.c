/* SPDX-License-Identifier: Apache-2.0 */
/* config: its rows in a registry, watches of others, and shutdowns from outside and inside; P3 of patinox/config.h. */
#include "config_case.h"

#include <patinox/shutdown.h>
#include <patinox/watch.h>

#include <pthread.h>
#include <sched.h>

static int find_row(void *ctx, const struct pnx_resource_info *info) {
    *(struct pnx_resource_info *)ctx = *info;
    return 0;
}

TEST(a_config_has_a_row_and_shutdown_ends_its_callbacks) {
    struct pnx_registry *registry = NULL;
    struct pnx_resource_info info = {0};
    struct pnx_config *config = NULL;
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    opts.registry = registry;
    opts.flags = PNX_CONFIG_THREAD;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    CHECK_EQ(pnx_registry_count(registry), 2); /* the cell's row is the parent of the config's */
    CHECK_EQ(pnx_registry_each(registry, find_row, &info), 0);
    CHECK_STR(info.type, "config");
    struct pnx_resource_info cell;
    CHECK_EQ(pnx_registry_info(registry, info.parent, &cell), 0);
    CHECK_STR(cell.type, "snapshot");
    CHECK_STR(cell.name, "test");
    CHECK_CONTAINS(cell.site, "config_case.c:");
    CHECK_STR(info.name, "test");
    CHECK_CONTAINS(info.site, "config_case.c:");
    CHECK_EQ(pnx_registry_cleanup(registry, info.id), 0); /* as a shutdown would */
    CHECK_EQ(pnx_config_reload(config, &err), -ESHUTDOWN);
    CHECK_CONTAINS(err.message, "closed");
    CHECK_EQ(pnx_config_wait(config, 1, PNX_NEVER), -ESHUTDOWN);
    CHECK_EQ(case_status(config).watch, PNX_CONFIG_WATCH_NONE);
    CHECK_EQ(case_value(config), 1);
    case_end(&config);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
}

/* ---- watches of others ---- */

struct heard {
    struct pnx_config *config;
    int calls;
    int64_t value;
    uint64_t version;
    int reload; /* what a reload from inside returned */
};

static void hear_value(void *ctx, const void *value, uint64_t version) {
    struct heard *heard = ctx;
    const void *loaded = pnx_config_load(heard->config, NULL);
    CHECK(loaded == value);
    pnx_rc_unref(loaded);
    heard->calls++;
    heard->value = case_value(heard->config);
    heard->version = version;
    heard->reload = pnx_config_reload(heard->config, NULL);
}

TEST(others_may_watch_its_values_and_are_rows_below_its_cell) {
    struct pnx_registry *registry = NULL;
    struct pnx_resource_info info = {0}, row;
    struct pnx_config *config = NULL;
    struct pnx_watch *watch = NULL, *waiting = NULL;
    struct pnx_error err;
    case_begin();
    const char *path = test_path("c");
    put(path, "1");
    struct pnx_config_opts opts = case_opts(path);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    opts.registry = registry;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    CHECK_EQ(pnx_registry_each(registry, find_row, &info), 0);

    struct heard heard = {.config = config};
    CHECK_EQ(pnx_config_watch_open(config,
                     PNX_WATCH_OPTS(.name = "mine", .changed = hear_value, .ctx = &heard), &err,
                     &watch),
            0);
    CHECK_EQ(pnx_config_watch_open(config, NULL, &err, &waiting), 0);
    CHECK_EQ(pnx_registry_each(registry, find_row, &row), 0);
    CHECK_STR(row.type, "watch");
    CHECK_EQ(row.parent, info.parent); /* the cell's */
    put(path, "2");
    CHECK_EQ(pnx_config_reload(config, NULL), 0);
    CHECK_EQ(heard.calls, 1);
    CHECK_EQ(heard.value, 2);
    CHECK_EQ(heard.version, 2);
    CHECK_EQ(heard.reload, -EDEADLK);
    CHECK_EQ(pnx_watch_read(waiting, NULL, NULL), 0);
    CHECK_EQ(pnx_watch_read(waiting, NULL, NULL), -EAGAIN);

    pnx_config_release(&config); /* its cell is closed, and kept by those who watch it */
    CHECK_EQ(pnx_watch_read(waiting, NULL, NULL), -ESHUTDOWN);
    CHECK_EQ(heard.calls, 1);
    pnx_watch_release(&watch);
    pnx_watch_release(&waiting);
    CHECK_EQ(pnx_registry_count(registry), 0);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

/* A callback that releases while a shutdown is closing the same config: neither may wait for the other. */
struct shutdown_race {
    struct pnx_config *config;
    struct pnx_registry *registry;
    pthread_barrier_t inside;
    pnx_resource_id id;
};

static void release_during_shutdown(void *ctx, const void *value, uint64_t version) {
    struct shutdown_race *race = ctx;
    (void)value;
    (void)version;
    pthread_barrier_wait(&race->inside);
    while (case_status(race->config).watch != PNX_CONFIG_WATCH_NONE)
        sched_yield(); /* until the cleanup is at work */
    pnx_config_release(&race->config);
}

TEST(p3_release_inside_a_callback_while_a_shutdown_waits_for_it) {
    struct shutdown_race race = {0};
    struct pnx_resource_info info = {0};
    case_begin();
    te.virtual_time = false;
    const char *path = test_path("c");
    put(path, "1");
    pthread_barrier_init(&race.inside, NULL, 2);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &race.registry), 0);
    struct pnx_config_opts opts = case_opts(path);
    opts.registry = race.registry;
    opts.flags = PNX_CONFIG_THREAD;
    opts.debounce_ns = PNX_MS;
    opts.on_change = release_during_shutdown;
    opts.ctx = &race;
    CHECK_EQ(pnx_config_create(&opts, NULL, &race.config), 0);
    CHECK_EQ(pnx_registry_each(race.registry, find_row, &info), 0);
    put(path, "2");
    pthread_barrier_wait(&race.inside);
    CHECK_EQ(pnx_registry_cleanup(race.registry, info.id), 0);
    while (__atomic_load_n(&te.live_blocks, __ATOMIC_ACQUIRE) != 0)
        sched_yield();
    pnx_registry_release(&race.registry);
}

/* Functions that shut a registry down, which has a config, or another. */
static struct pnx_registry *shut;
static int shut_calls, shut_last;

static void shut_down_inside(void) {
    shut_last = pnx_registry_shutdown(shut, PNX_NEVER, NULL);
    __atomic_add_fetch(&shut_calls, 1, __ATOMIC_RELEASE);
}

static void shut_down_on_change(void *ctx, const void *value, uint64_t version) {
    (void)ctx;
    (void)value;
    (void)version;
    shut_down_inside();
}

static int shut_down_in_parse(
        void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret) {
    if (shut)
        shut_down_inside();
    return case_parse(ctx, text, n, err, ret);
}

static void check_shutdown_inside(bool in_parse, bool threaded, bool other) {
    struct pnx_config *config = NULL;
    struct pnx_registry *registry = NULL, *own = NULL;
    case_begin();
    te.virtual_time = !threaded;
    const char *path = test_path("c");
    put(path, "1");
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &own), 0);
    struct pnx_config_opts opts = case_opts(path);
    opts.registry = other ? own : registry;
    opts.flags = threaded ? PNX_CONFIG_THREAD : 0;
    opts.debounce_ns = threaded ? PNX_MS : opts.debounce_ns;
    opts.parse = in_parse ? shut_down_in_parse : opts.parse;
    opts.on_change = in_parse ? NULL : shut_down_on_change;
    CHECK_EQ(pnx_config_create(&opts, NULL, &config), 0);
    shut = registry;
    put(path, "2");
    if (threaded) {
        while (!__atomic_load_n(&shut_calls, __ATOMIC_ACQUIRE))
            sched_yield();
    } else {
        CHECK_EQ(pnx_config_reload(config, NULL), 0);
    }
    CHECK_EQ(shut_last, other ? 0 : -EDEADLK);
    CHECK_EQ(pnx_registry_shutdown(registry, 30 * PNX_SEC, NULL),
            0); /* once it has returned, it may */
    CHECK_EQ(pnx_config_reload(config, NULL), other ? 0 : -ESHUTDOWN);
    case_end(&config);
    pnx_registry_release(&registry);
    pnx_registry_release(&own);
}

TEST(p3_a_shutdown_from_inside_on_change_is_refused) {
    check_shutdown_inside(false, false, false);
}

TEST(p3_a_shutdown_from_inside_parse_is_refused) {
    check_shutdown_inside(true, false, false);
}

TEST(p3_a_shutdown_from_inside_on_change_on_the_thread_is_refused) {
    check_shutdown_inside(false, true, false);
}

TEST(p3_a_shutdown_of_another_registry_from_inside_on_change_works) {
    check_shutdown_inside(false, false, true);
}
