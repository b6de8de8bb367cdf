/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waits that would never end: inside a section, whose end the other one waits for; and inside a callback, for another
 * callback that may be waiting for this one.  Each is an error at once.
 */
#include "harness/harness.h"

#include <patinox/budget.h>
#include <patinox/cache.h>
#include <patinox/cmap.h>
#include <patinox/pool.h>
#include <patinox/rc.h>
#include <patinox/reclaim.h>
#include <patinox/rwdata.h>
#include <patinox/snapshot.h>
#include <patinox/stats.h>
#include <patinox/watch.h>

#include <pthread.h>

static pthread_barrier_t inside, go;

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

static struct pnx_snapshot_stats stats_of(const struct pnx_snapshot *cell) {
    struct pnx_snapshot_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_snapshot_read_stats(cell, &stats), 0);
    return stats;
}

static int add_one(void *ctx, void *object) {
    (void)ctx;
    ((struct value *)object)->number++;
    return 0;
}

static void *write_once(void *arg) {
    CHECK_EQ(pnx_snapshot_update(arg, add_one, NULL, NULL, NULL), 0);
    return NULL;
}

/* ---- waits inside a section, for somebody who waits for its end ---- */

static int edit_waits_for_sections(void *ctx, void *object) {
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), 0);
    return add_one(ctx, object);
}

static void *write_waiting_for_sections(void *arg) {
    CHECK_EQ(pnx_snapshot_update(arg, edit_waits_for_sections, NULL, NULL, NULL), 0);
    return NULL;
}

TEST(section_a_write_that_would_wait_in_one_is_refused) {
    pthread_t thread;
    struct pnx_error err;
    struct pnx_snapshot *cell = make_cell(PNX_SNAPSHOT_OPTS(.write_timeout_ns = PNX_NEVER));
    pthread_barrier_init(&inside, NULL, 2);
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_snapshot_update(cell, add_one, NULL, NULL, NULL), 0); /* waits for nobody */
    CHECK_EQ(pthread_create(&thread, NULL, write_waiting_for_sections, cell), 0);
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_snapshot_update(cell, add_one, NULL, &err, NULL), -EDEADLK);
    CHECK_STR(err.message, "snapshot: a write inside a section, while another writer is at work");
    CHECK_EQ(pnx_snapshot_wait(cell, 2, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_snapshot_wait(cell, 2, 0), -ETIMEDOUT);
    CHECK_EQ(pnx_snapshot_wait(cell, 1, PNX_NEVER), 0); /* is there */
    pnx_reclaim_exit(NULL);
    pthread_join(thread, NULL);
    CHECK_EQ(stats_of(cell).version, 3);
    CHECK_EQ(stats_of(cell).deadlocks, 1);
    pnx_snapshot_release(&cell);
}

static void changed_waits_for_sections(void *ctx, const void *value, uint64_t version) {
    (void)ctx, (void)value, (void)version;
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), 0);
}

TEST(section_a_watch_neither_waits_nor_is_waited_for_in_one) {
    pthread_t thread;
    struct pnx_watch *watch = NULL, *other = NULL;
    struct pnx_snapshot *cell = make_cell(NULL);
    pthread_barrier_init(&inside, NULL, 2);
    CHECK_EQ(pnx_watch_open(
                     cell, PNX_WATCH_OPTS(.changed = changed_waits_for_sections), NULL, &watch),
            0);
    CHECK_EQ(pnx_watch_open(cell, NULL, NULL, &other), 0);
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_watch_wait(other, PNX_NEVER, NULL, NULL), -EDEADLK);
    CHECK_EQ(pnx_watch_wait(other, 0, NULL, NULL), -ETIMEDOUT);
    CHECK_EQ(pthread_create(&thread, NULL, write_once, cell), 0);
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_watch_wait(other, PNX_NEVER, NULL, NULL), 0);
    CHECK_EQ(pnx_watch_cancel(watch), -EINPROGRESS);
    pnx_reclaim_exit(NULL);
    pthread_join(thread, NULL);
    CHECK_EQ(pnx_watch_cancel(watch), 0);
    pnx_watch_release(&watch);
    pnx_watch_release(&other);
    pnx_snapshot_release(&cell);
}

static struct pnx_rwdata *data;

static int changes_waiting_for_sections(void *ctx, void *value) {
    (void)ctx, (void)value;
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), 0);
    return 0;
}

static void *change_waiting_for_sections(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_rwdata_with_write(data, 0, changes_waiting_for_sections, NULL, NULL), 0);
    return NULL;
}

TEST(section_who_would_wait_for_a_guard_in_one_is_refused) {
    pthread_t thread;
    struct pnx_error err;
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    CHECK_EQ(pnx_rwdata_create(
                     &value_type, NULL, PNX_RWDATA_OPTS(.flags = PNX_RWDATA_NO_CHECK), NULL, &data),
            0);
    pthread_barrier_init(&inside, NULL, 2);
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_rwdata_read(data, PNX_NEVER, NULL, &reader), 0); /* waits for nobody */
    pnx_rwdata_read_end(&reader);
    CHECK_EQ(pthread_create(&thread, NULL, change_waiting_for_sections, NULL), 0);
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_rwdata_read(data, PNX_NEVER, &err, &reader), -EDEADLK);
    CHECK_STR(err.message, "rwdata: inside a section, where it must not wait");
    CHECK_EQ(pnx_rwdata_write(data, PNX_NEVER, NULL, &writer), -EDEADLK);
    CHECK_EQ(pnx_rwdata_try_read(data, &reader), -EBUSY);
    pnx_reclaim_exit(NULL);
    pthread_join(thread, NULL);
    pnx_rwdata_release(&data);
}

TEST(section_where_guards_are_checked_a_wait_in_one_is_refused_before_it_has_to_wait) {
    struct pnx_rwdata_read_guard reader = {0};
    CHECK_EQ(pnx_rwdata_create(
                     &value_type, NULL, PNX_RWDATA_OPTS(.flags = PNX_RWDATA_CHECK), NULL, &data),
            0);
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_rwdata_read(data, PNX_NEVER, NULL, &reader), -EDEADLK);
    CHECK_EQ(pnx_rwdata_try_read(data, &reader), 0);
    pnx_rwdata_read_end(&reader);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(pnx_rwdata_read(data, PNX_NEVER, NULL, &reader), 0);
    pnx_rwdata_read_end(&reader);
    pnx_rwdata_release(&data);
}

static void hook_waits_for_sections(void *arg) {
    (void)arg;
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), 0);
}

static void *let_go(void *object) {
    pnx_rc_unref(object);
    return NULL;
}

TEST(section_a_removal_does_not_wait_in_one) {
    pthread_t thread;
    void *object = NULL;
    struct pnx_rc_drop_node node = {0};
    pthread_barrier_init(&inside, NULL, 2);
    CHECK_EQ(pnx_rc_new(&value_type, NULL, &object), 0);
    CHECK_EQ(pnx_rc_on_drop(object, &node, hook_waits_for_sections, NULL), 0);
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pthread_create(&thread, NULL, let_go, object), 0);
    pthread_barrier_wait(&inside);
    CHECK_EQ(pnx_rc_on_drop_remove(&node), -EINPROGRESS);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(pnx_rc_on_drop_remove(&node), -EALREADY);
    pthread_join(thread, NULL);
}

/* ---- cancelling inside callbacks ---- */

/* Two callbacks run on other threads all the while: who waits for one inside another never comes back. */
static struct pnx_watch *busy_watch;
static struct pnx_rc_drop_node busy_node;
static int asked;

static void changed_stays(void *ctx, const void *value, uint64_t version) {
    (void)ctx, (void)value, (void)version;
    pthread_barrier_wait(&inside);
    pthread_barrier_wait(&go);
}

static void hook_stays(void *arg) {
    (void)arg;
    pthread_barrier_wait(&inside);
    pthread_barrier_wait(&go);
}

static void cancel_both(void) {
    asked++;
    CHECK_EQ(pnx_watch_cancel(busy_watch), -EINPROGRESS);
    CHECK_EQ(pnx_rc_on_drop_remove(&busy_node), -EINPROGRESS);
}

static int cancels(void *ctx, void *value) {
    (void)ctx, (void)value;
    cancel_both();
    return 0;
}

static int cancels_reading(void *ctx, const void *value) {
    (void)ctx, (void)value;
    cancel_both();
    return 0;
}

static int cancels_in_validate(
        void *ctx, const void *next, const void *current, struct pnx_error *err) {
    (void)ctx, (void)next, (void)current, (void)err;
    cancel_both();
    return 0;
}

static void cancels_when_told(void *ctx, const void *value, uint64_t version) {
    (void)ctx, (void)value, (void)version;
    cancel_both();
}

static void cancels_in_drop(void *ctx, void *object) {
    (void)ctx, (void)object;
    cancel_both();
}

static void cancels_in_hook(void *arg) {
    (void)arg;
    cancel_both();
}

static void cancels_in_retired(struct pnx_reclaim_node *node) {
    (void)node;
    cancel_both();
}

static void cancels_in_monitor(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type == PNX_EVENT_SNAPSHOT_DEADLOCK)
        cancel_both();
}

static size_t cancels_in_reclaimer(void *ctx, size_t want) {
    (void)ctx, (void)want;
    cancel_both();
    return 0;
}

static int cancels_in_connect(
        void *ctx, pnx_ns deadline, struct pnx_error *err, void **ret_resource) {
    (void)deadline, (void)err;
    cancel_both();
    *ret_resource = ctx;
    return 0;
}

static void close_nothing(void *ctx, void *resource, pnx_ns deadline) {
    (void)ctx, (void)resource, (void)deadline;
}

static int cancels_in_loader(
        void *ctx, const void *key, size_t key_size, pnx_ns deadline, struct pnx_cache_load *load) {
    (void)ctx, (void)deadline;
    cancel_both();
    return pnx_cache_load_set(load, key, key_size);
}

static int cancels_in_compute(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)ctx, (void)current, (void)ret_value;
    cancel_both();
    return PNX_CMAP_KEEP;
}

static int store_inside(void *ctx, void *object) {
    (void)object;
    CHECK_EQ(pnx_snapshot_update(ctx, add_one, NULL, NULL, NULL), -EDEADLK);
    return 0;
}

static void in_snapshot(void) {
    struct pnx_snapshot *cell = make_cell(NULL);
    struct pnx_watch *watch = NULL;
    uint32_t id;
    CHECK_EQ(pnx_snapshot_update(cell, cancels, NULL, NULL, NULL), 0);
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.changed = cancels_when_told), NULL, &watch), 0);
    CHECK_EQ(pnx_snapshot_update(cell, add_one, NULL, NULL, NULL), 0);
    pnx_watch_release(&watch);
    CHECK_EQ(pnx_monitor_add(NULL,
                     &(struct pnx_monitor){
                             .size = sizeof(struct pnx_monitor), .event = cancels_in_monitor},
                     &id),
            0);
    CHECK_EQ(pnx_snapshot_update(cell, store_inside, cell, NULL, NULL), 0);
    CHECK_EQ(pnx_monitor_remove(NULL, id), 0);
    pnx_snapshot_release(&cell);
    cell = make_cell(PNX_SNAPSHOT_OPTS(.validate = cancels_in_validate));
    pnx_snapshot_release(&cell);
}

static void in_rc_and_reclaim(void) {
    static struct pnx_reclaim_node node;
    struct pnx_rc_drop_node hook = {0};
    struct pnx_rc_type type = PNX_RC_TYPE(struct value, .drop = cancels_in_drop);
    void *object = NULL;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), 0);
    CHECK_EQ(pnx_rc_on_drop(object, &hook, cancels_in_hook, NULL), 0);
    pnx_rc_unref(object);
    pnx_reclaim_retire(NULL, &node, cancels_in_retired, 1);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
}

static void in_rwdata(void) {
    CHECK_EQ(pnx_rwdata_create(&value_type, NULL, NULL, NULL, &data), 0);
    CHECK_EQ(pnx_rwdata_with_read(data, 0, cancels_reading, NULL, NULL), 0);
    CHECK_EQ(pnx_rwdata_with_write(data, 0, cancels, NULL, NULL), 0);
    pnx_rwdata_release(&data);
}

static void in_budget(void) {
    struct pnx_budget *budget = NULL;
    struct pnx_reclaimer_handle *handle = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.name = "b", .parent = pnx_budget_off()), NULL, &budget),
            0);
    CHECK_EQ(pnx_budget_add_reclaimer(budget,
                     &(struct pnx_reclaimer){.size = sizeof(struct pnx_reclaimer),
                             .name = "cancels",
                             .reclaim = cancels_in_reclaimer},
                     &handle),
            0);
    CHECK_EQ(pnx_budget_charge(budget, 100, 0), 0);
    CHECK_EQ(pnx_budget_reclaim(budget, 1), 0);
    pnx_budget_uncharge(budget, 100);
    pnx_budget_remove_reclaimer(&handle);
    pnx_budget_release(&budget);
}

static void in_others(void) {
    const struct pnx_pool_manager manager = {
            .size = sizeof(manager), .connect = cancels_in_connect, .close = close_nothing};
    struct pnx_pool *pool = NULL;
    struct pnx_lease lease = {0};
    struct pnx_cache *cache = NULL;
    struct pnx_cache_ref ref = {0};
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_pool_create(&manager,
                     PNX_POOL_OPTS(.max = 1, .flags = PNX_POOL_NO_THREADS, .ctx = &lease), NULL,
                     &pool),
            0);
    CHECK_EQ(pnx_pool_acquire(pool, PNX_SEC, NULL, &lease), 0);
    pnx_lease_release(&lease);
    pnx_pool_release(&pool);
    CHECK_EQ(pnx_cache_create(PNX_CACHE_OPTS(.capacity_entries = 4), NULL, &cache), 0);
    CHECK_EQ(pnx_cache_get_or_load(cache, "k", 1, cancels_in_loader, NULL, PNX_SEC, NULL, &ref), 0);
    pnx_cache_ref_release(&ref);
    pnx_cache_release(&cache);
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 1), NULL, &map), 0);
    CHECK_EQ(pnx_cmap_compute(map, "k", 1, cancels_in_compute, NULL, NULL), 0);
    pnx_cmap_release(&map);
}

TEST(cancel_inside_any_callback_waits_for_no_other) {
    pthread_t threads[2];
    void *object = NULL;
    struct pnx_snapshot *cell = make_cell(NULL);
    pthread_barrier_init(&inside, NULL, 3);
    pthread_barrier_init(&go, NULL, 3);
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.changed = changed_stays), NULL, &busy_watch), 0);
    CHECK_EQ(pnx_rc_new(&value_type, NULL, &object), 0);
    CHECK_EQ(pnx_rc_on_drop(object, &busy_node, hook_stays, NULL), 0);
    CHECK_EQ(pthread_create(&threads[0], NULL, write_once, cell), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, let_go, object), 0);
    pthread_barrier_wait(&inside);
    in_snapshot();
    in_rc_and_reclaim();
    in_rwdata();
    in_budget();
    in_others();
    CHECK_EQ(asked, 14);
    pthread_barrier_wait(&go);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(pnx_watch_cancel(busy_watch), 0);
    CHECK_EQ(pnx_rc_on_drop_remove(&busy_node), -EALREADY);
    pnx_watch_release(&busy_watch);
    pnx_snapshot_release(&cell);
}

/* ---- but a cleanup waits ---- */

static int finished;

static void changed_ends_late(void *ctx, const void *value, uint64_t version) {
    changed_stays(ctx, value, version);
    finished = 1; /* plain: who has waited for it sees it */
}

static int cancel_at_the_end(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    CHECK_EQ(pnx_watch_cancel(arg), 0);
    CHECK_EQ(finished, 1);
    return 0;
}

static void *let_it_end(void *arg) {
    pthread_barrier_wait(&go);
    return arg;
}

TEST(cancel_inside_a_cleanup_waits_for_the_callback) {
    pthread_t threads[2];
    struct pnx_registry *registry = NULL;
    pnx_resource_id id;
    struct pnx_snapshot *cell = make_cell(NULL);
    pthread_barrier_init(&inside, NULL, 2);
    pthread_barrier_init(&go, NULL, 2);
    CHECK_EQ(pnx_watch_open(cell, PNX_WATCH_OPTS(.changed = changed_ends_late), NULL, &busy_watch),
            0);
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_registry_add(registry,
                     &(struct pnx_resource){.size = sizeof(struct pnx_resource),
                             .type = "listener",
                             .cleanup = cancel_at_the_end,
                             .arg = busy_watch},
                     NULL, &id),
            0);
    CHECK_EQ(pthread_create(&threads[0], NULL, write_once, cell), 0);
    pthread_barrier_wait(&inside);
    CHECK_EQ(pthread_create(&threads[1], NULL, let_it_end, NULL), 0);
    CHECK_EQ(pnx_registry_cleanup(registry, id), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pnx_watch_release(&busy_watch);
    pnx_snapshot_release(&cell);
    pnx_registry_release(&registry);
}
