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
    return pnx_config_create(&config_opts, &err, &config) == -EINVAL ? 0 : 5;
}

int main() {
    if (int wrong = with_options())
        return 10 + wrong;
    std::printf("patinox %s from C++: %s\n", pnx_version(), pnx_errname(PNX_E_SHARED));
    return pnx_shutdown(PNX_SEC, nullptr) == 0 ? 0 : 1;
}
