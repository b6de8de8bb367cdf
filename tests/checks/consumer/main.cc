// SPDX-License-Identifier: Apache-2.0
// A user's program in C++.
#include <patinox/patinox.h>

#include <cstdio>

// What C++ has in place of the options macros: each knows its size, so that creating with it gets as far as it can.
static int with_options() {
    pnx_error err;
    pnx_budget_opts budget_opts = pnx_budget_opts_init();
    budget_opts.hard = 1 << 20;
    pnx_budget *budget = nullptr;
    if (pnx_budget_create(&budget_opts, &err, &budget))
        return 1;
    pnx_cache_opts cache_opts = pnx_cache_opts_init();
    cache_opts.capacity_entries = 4;
    cache_opts.budget = budget;
    pnx_cache *cache = nullptr;
    if (pnx_cache_create(&cache_opts, &err, &cache))
        return 2;
    pnx_cache_release(&cache);
    pnx_budget_release(&budget);

    pnx_mapping_opts mapping_opts = pnx_mapping_opts_init();
    pnx_mapping *mapping = nullptr;
    if (pnx_mapping_open("/proc/self/stat", &mapping_opts, &err, &mapping))
        return 3;
    pnx_mapping_release(&mapping);

    // Views and records are macros over inline functions: they must do in C++, too.
    pnx_layout layout = pnx_layout_init();
    layout.record_size = sizeof(double);
    mapping_opts.length = 10 * sizeof(double);
    mapping_opts.layout = &layout;
    if (pnx_mapping_open_anonymous(&mapping_opts, &err, &mapping))
        return 6;
    pnx_view view = pnx_view_all(mapping);
    pnx_records records;
    double sum = 0;
    if (PNX_RECORDS_GET(&view, double, 0, PNX_RECORDS_ALL, &records))
        return 7;
    for (std::size_t i = 0; i < records.n; i++)
        *PNX_RECORD_AT_MUT(&records, double, i) = 1;
    PNX_RECORDS_EACH(&records, double, value) {
        sum += *value;
    }
    uint32_t low = 1;
    if (sum < 9.5 || !PNX_VIEW_AT(&view, double, 72) || PNX_VIEW_AT_MUT(&view, double, 73) ||
            pnx_view_put_u32be(&view, 1, 7) || pnx_view_u32be(&view, 1, &low) || low != 7)
        return 8;
    pnx_mapping_release(&mapping);
    pnx_windows_opts windows_opts = pnx_windows_opts_init();
    pnx_windows *windows = nullptr;
    if (pnx_windows_open("/proc/self/exe", &windows_opts, &err, &windows) ||
            pnx_windows_next(windows, &err, &view) != 1)
        return 9;
    pnx_windows_release(&windows);

    // These lack what is required, and are told so rather than that their size is wrong.
    pnx_pool_opts pool_opts = pnx_pool_opts_init();
    pnx_pool *pool = nullptr;
    pnx_pool_manager manager = pnx_pool_manager();
    manager.size = sizeof(manager);
    if (pnx_pool_create(&manager, &pool_opts, &err, &pool) != -EINVAL)
        return 4;
    pnx_config_opts config_opts = pnx_config_opts_init();
    pnx_config *config = nullptr;
    if (pnx_config_create(&config_opts, &err, &config) != -EINVAL)
        return 5;
    pnx_pool_group_opts group_opts = pnx_pool_group_opts_init();
    pnx_pool_group *group = nullptr;
    if (pnx_pool_group_create(&manager, &group_opts, &err, &group) != -EINVAL)
        return 6;
    return 0;
}

// Typed caches are made of inline functions.
struct point {
    int32_t x, y;
};
PNX_CACHE_DEFINE(points, uint64_t, point)

static int load_point(void *, uint64_t key, pnx_ns, point *ret_point) {
    *ret_point = point{(int32_t)key, 7};
    return 0;
}

static int move_point(void *, const point *now, pnx_cache_change *change) {
    return points_change_set(change, point{now ? now->x + 1 : 0, 8});
}

static bool keep_none(void *, uint64_t, point) {
    return false;
}

static int with_a_typed_cache() {
    pnx_error err;
    pnx_cache_opts opts = pnx_cache_opts_init();
    opts.capacity_entries = 4;
    pnx_cache *cache = nullptr;
    if (points_create(&opts, &err, &cache))
        return 1;
    const uint64_t keys[2] = {1, 2};
    point found[2] = {{0, 0}, {0, 0}};
    uint64_t mask = 0;
    if (points_put(cache, 1, point{3, 4}, 0) ||
            points_put_if_absent(cache, 1, point{5, 6}, 0) != -EEXIST)
        return 2;
    if (points_get(cache, 1, &found[0]) || found[0].x != 3 || found[0].y != 4)
        return 3;
    if (points_get_many(cache, keys, 2, found, &mask) != 1 || mask != 1)
        return 4;
    if (points_remove(cache, 1) || points_remove(cache, 1) != -ENOENT)
        return 5;
    bool stored = false;
    if (points_get_or_load(cache, 1, load_point, nullptr, PNX_SEC, &err, &found[0]) ||
            found[0].x != 1 || found[0].y != 7)
        return 6;
    if (points_compute(cache, 1, move_point, nullptr, &found[0], &stored) || !stored ||
            found[0].x != 2 || found[0].y != 8)
        return 7;
    if (points_retain(cache, keep_none, nullptr) != 1)
        return 8;
    pnx_cache_release(&cache);
    return 0;
}

static int resource;

static int connect_one(void *, pnx_ns, pnx_error *, void **ret_resource) {
    *ret_resource = &resource;
    return 0;
}

static void close_one(void *, void *, pnx_ns) {}

// A pool, and one of a group, with a tag and a priority.
static int with_pools() {
    pnx_error err;
    pnx_pool_manager manager = pnx_pool_manager();
    manager.size = sizeof(manager);
    manager.connect = connect_one;
    manager.close = close_one;
    pnx_acquire_opts with = pnx_acquire_opts_init();
    with.tag = 7;
    with.priority = PNX_PRIORITY_HIGH;
    pnx_pool_opts pool_opts = pnx_pool_opts_init();
    pool_opts.max = 1;
    pnx_pool *pool = nullptr;
    if (pnx_pool_create(&manager, &pool_opts, &err, &pool))
        return 1;
    pnx_lease lease = {};
    if (pnx_pool_acquire_with(pool, PNX_SEC, &with, &err, &lease))
        return 2;
    if (pnx_lease_resource(&lease) != &resource)
        return 3;
    pnx_lease_release(&lease);
    if (pnx_pool_close(pool,
                PNX_SEC)) // waits for its connection, so that the shutdown below finds nothing
        return 6;
    pnx_pool_release(&pool);

    pnx_pool_group_opts group_opts = pnx_pool_group_opts_init();
    group_opts.max_total = 1;
    pnx_pool_group *group = nullptr;
    if (pnx_pool_group_create(&manager, &group_opts, &err, &group))
        return 4;
    if (pnx_pool_group_acquire(group, "key", 3, PNX_SEC, &with, &err, &lease))
        return 5;
    pnx_lease_release(&lease);
    if (pnx_pool_group_close(group, PNX_SEC))
        return 7;
    pnx_pool_group_release(&group);
    return 0;
}

// The others know their size, too.
static int with_the_rest() {
    pnx_error err;
    pnx_executor_opts executor_opts = pnx_executor_opts_init();
    pnx_executor *executor = nullptr;
    if (pnx_executor_create(&executor_opts, &err, &executor))
        return 1;
    pnx_job job = pnx_job_init();
    if (pnx_executor_submit(executor, &job, &err, nullptr) != -EINVAL) // it has nothing to run
        return 2;
    pnx_executor_release(&executor);

    const size_t sizes[][2] = {
            {pnx_cmap_opts_init().size, sizeof(pnx_cmap_opts)},
            {pnx_resource_filter_init().size, sizeof(pnx_resource_filter)},
            {pnx_resource_init().size, sizeof(pnx_resource)},
            {pnx_registry_opts_init().size, sizeof(pnx_registry_opts)},
            {pnx_rc_tally_opts_init().size, sizeof(pnx_rc_tally_opts)},
            {pnx_reclaim_opts_init().size, sizeof(pnx_reclaim_opts)},
            {pnx_rwdata_opts_init().size, sizeof(pnx_rwdata_opts)},
            {pnx_snapshot_opts_init().size, sizeof(pnx_snapshot_opts)},
            {pnx_stats_opts_init().size, sizeof(pnx_stats_opts)},
            {pnx_watch_opts_init().size, sizeof(pnx_watch_opts)},
    };
    for (const size_t *size : sizes)
        if (size[0] != size[1])
            return 3;
    return 0;
}

int main() {
    if (int wrong = with_options())
        return 10 + wrong;
    if (int wrong = with_pools())
        return 20 + wrong;
    if (int wrong = with_the_rest())
        return 30 + wrong;
    if (int wrong = with_a_typed_cache())
        return 40 + wrong;
    std::printf("patinox %s from C++: %s\n", pnx_version(), pnx_errname(PNX_E_SHARED));
    return pnx_shutdown(PNX_SEC, nullptr) == 0 ? 0 : 1;
}
