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
