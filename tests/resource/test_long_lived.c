/* SPDX-License-Identifier: Apache-2.0 */
/* Objects of the library tell of their making and their end: each kind once of each, whoever ends it. */
#include "harness/harness.h"

#include <patinox/patinox.h>

/* Those of one kind, by their type in the registry. */
struct kind {
    const char *type;
    void *(*make)(struct pnx_registry *registry);
    void (*release)(void *object);
};

/* ---- one of each kind; all else that they need belongs to no registry ---- */

struct number {
    uint64_t n;
};
static const struct pnx_rc_type number_type = PNX_RC_TYPE(struct number);

static int connect_none(void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)ctx;
    (void)deadline;
    (void)err;
    (void)ret_resource;
    return -EIO;
}

static void close_none(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx;
    (void)resource;
    (void)deadline;
}

static int parse(void *ctx, const char *text, size_t n, struct pnx_error *err, void **ret_value) {
    (void)ctx;
    (void)text;
    (void)err;
    return pnx_rc_new(&number_type, &(struct number){n}, ret_value);
}

static const char *file(void) {
    const char *path = test_path("long_lived");
    test_write_file(path, "text\n", 5);
    return path;
}

static struct pnx_snapshot *cell(struct pnx_registry *registry) {
    void *value;
    struct pnx_snapshot *snapshot;
    CHECK_EQ(pnx_rc_new(&number_type, &(struct number){1}, &value), 0);
    CHECK_EQ(pnx_snapshot_create(value, PNX_SNAPSHOT_OPTS(.name = "mine", .registry = registry),
                     NULL, &snapshot),
            0);
    pnx_rc_unref(value);
    return snapshot;
}

#define KIND(kind, create) \
    static void *make_##kind(struct pnx_registry *registry) { \
        struct pnx_##kind *object = NULL; \
        CHECK_EQ(create, 0); \
        return object; \
    } \
    static void release_##kind(void *arg) { \
        struct pnx_##kind *object = arg; \
        pnx_##kind##_release(&object); \
    }

static const struct pnx_pool_manager manager = {
        .size = sizeof(manager), .connect = connect_none, .close = close_none};

KIND(pool, pnx_pool_create(&manager, PNX_POOL_OPTS(.name = "mine", .max = 1, .registry = registry),
                   NULL, &object))
KIND(cache,
        pnx_cache_create(PNX_CACHE_OPTS(.name = "mine", .capacity = 1 << 20, .registry = registry),
                NULL, &object))
KIND(mapping, pnx_mapping_open(file(), PNX_MAPPING_OPTS(.name = "mine", .registry = registry), NULL,
                      &object))
KIND(budget,
        pnx_budget_create(PNX_BUDGET_OPTS(.name = "mine", .registry = registry), NULL, &object))
KIND(cmap, pnx_cmap_create(PNX_CMAP_OPTS(.name = "mine", .key_size = 8, .registry = registry), NULL,
                   &object))
KIND(rwdata, pnx_rwdata_create(&number_type, &(struct number){2},
                     PNX_RWDATA_OPTS(.name = "mine", .registry = registry), NULL, &object))
KIND(config, pnx_config_create(PNX_CONFIG_OPTS(.name = "mine", .path = file(), .parse = parse,
                                       .registry = registry),
                     NULL, &object))
KIND(executor, pnx_executor_create(PNX_EXECUTOR_OPTS(.name = "mine", .registry = registry,
                                           .flags = PNX_EXECUTOR_TICK),
                       NULL, &object))
KIND(reclaim,
        pnx_reclaim_create(PNX_RECLAIM_OPTS(.name = "mine", .registry = registry), NULL, &object))
KIND(rc_tally,
        pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.name = "mine", .registry = registry), NULL, &object))

static void *make_snapshot(struct pnx_registry *registry) {
    return cell(registry);
}

static void release_snapshot(void *object) {
    struct pnx_snapshot *snapshot = object;
    pnx_snapshot_release(&snapshot);
}

/* Its row is in the registry of its cell, whose own events come before and after. */
static void *make_watch(struct pnx_registry *registry) {
    struct pnx_snapshot *snapshot = cell(registry);
    struct pnx_watch *watch;
    CHECK_EQ(pnx_watch_open(snapshot, PNX_WATCH_OPTS(.name = "mine"), NULL, &watch), 0);
    pnx_snapshot_release(&snapshot); /* the watch keeps it */
    return watch;
}

static void release_watch(void *object) {
    struct pnx_watch *watch = object;
    pnx_watch_release(&watch);
}

static const struct kind kinds[] = {
        {"pool", make_pool, release_pool},
        {"cache", make_cache, release_cache},
        {"mapping", make_mapping, release_mapping},
        {"budget", make_budget, release_budget},
        {"cmap", make_cmap, release_cmap},
        {"rwdata", make_rwdata, release_rwdata},
        {"config", make_config, release_config},
        {"executor", make_executor, release_executor},
        {"reclaim domain", make_reclaim, release_reclaim},
        {"rc objects", make_rc_tally, release_rc_tally},
        {"snapshot", make_snapshot, release_snapshot},
        {"watch", make_watch, release_watch},
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* ---- what a monitor hears ---- */

struct told {
    const char *type; /* of interest */
    int opened, closed;
    int64_t id;
};

static void hear(void *ctx, const struct pnx_event *event) {
    struct told *told = ctx;
    bool opened = event->type == PNX_EVENT_RESOURCE_OPENED;
    if ((!opened && event->type != PNX_EVENT_RESOURCE_CLOSED) ||
            strcmp(event->cause, told->type) != 0)
        return;
    CHECK_STR(event->object, "mine");
    CHECK_EQ(event->code, 0);
    if (opened) {
        told->opened++;
        told->id = event->value;
    } else {
        CHECK_EQ(event->value, told->id);
        told->closed++;
    }
}

struct scene {
    struct pnx_stats *stats;
    struct pnx_registry *registry;
    struct told told;
};

static void begin(struct scene *scene, const struct kind *kind) {
    uint32_t id;
    *scene = (struct scene){.told = {.type = kind->type}};
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear, .ctx = &scene->told};
    CHECK_EQ(pnx_stats_create(NULL, NULL, &scene->stats), 0);
    CHECK_EQ(pnx_monitor_add(scene->stats, &monitor, &id), 0);
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.stats = scene->stats), NULL, &scene->registry),
            0);
}

static void end(struct scene *scene) {
    pnx_registry_release(&scene->registry);
    pnx_stats_release(&scene->stats);
}

static void check_told(const struct scene *scene, int opened, int closed) {
    CHECK_MSG(scene->told.opened == opened && scene->told.closed == closed,
            "%s: %d opened, %d closed", scene->told.type, scene->told.opened, scene->told.closed);
}

TEST(every_kind_of_object_tells_of_its_making_and_its_release) {
    for (size_t i = 0; i < N_KINDS; i++) {
        struct scene scene;
        begin(&scene, &kinds[i]);
        void *object = kinds[i].make(scene.registry);
        check_told(&scene, 1, 0);
        struct pnx_resource_info info;
        CHECK_EQ(pnx_registry_info(scene.registry, (pnx_resource_id)scene.told.id, &info), 0);
        CHECK_STR(info.type, kinds[i].type);
        kinds[i].release(object);
        check_told(&scene, 1, 1);
        end(&scene);
    }
}

TEST(every_kind_that_a_shutdown_ends_tells_of_it_then_and_not_again_when_released) {
    for (size_t i = 0; i < N_KINDS; i++) {
        struct scene scene;
        begin(&scene, &kinds[i]);
        void *object = kinds[i].make(scene.registry);
        CHECK_EQ(pnx_registry_shutdown(scene.registry, 10 * PNX_SEC, NULL), 0);
        check_told(&scene, 1, 1);
        kinds[i].release(object);
        check_told(&scene, 1, 1);
        end(&scene);
    }
}

TEST(at_off_too_a_shutdown_ends_every_kind_of_object) {
    for (size_t i = 0; i < N_KINDS; i++) {
        struct scene scene;
        begin(&scene, &kinds[i]);
        CHECK_EQ(pnx_registry_set_level(scene.registry, PNX_LEVEL_OFF), 0);
        void *object = kinds[i].make(scene.registry);
        size_t rows = pnx_registry_count(scene.registry);
        bool celled = kinds[i].make == make_watch || kinds[i].make == make_config;
        CHECK_EQ(rows, celled ? 2 : 1); /* a cell has a row of its own */
        struct pnx_shutdown_report *report = NULL;
        CHECK_EQ(pnx_registry_shutdown(scene.registry, 10 * PNX_SEC, &report), 0);
        struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
        CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
        CHECK_EQ(counts.done, rows);
        pnx_shutdown_report_release(&report);
        check_told(&scene, 1, 1);
        kinds[i].release(object);
        end(&scene);
    }
}

TEST(objects_without_a_registry_tell_nothing) {
    for (size_t i = 0; i < N_KINDS; i++) {
        struct scene scene;
        begin(&scene, &kinds[i]);
        kinds[i].release(kinds[i].make(pnx_registry_off()));
        check_told(&scene, 0, 0);
        end(&scene);
    }
}
