/* SPDX-License-Identifier: Apache-2.0 */
/* Rows come and go while others look; test_ledger.c is about what becomes of them. */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/registry.h>

struct churn {
    struct pnx_registry *registry;
    uint64_t seed;
    int ran;
};

static int count_up(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
    return 0;
}

static int look(void *ctx, const struct pnx_resource_info *info) {
    size_t *n = ctx;
    CHECK_STR(info->type, info->tag ? "tagged" : "plain");
    CHECK_EQ(info->owner, info->tag * 2);
    ++*n;
    return 0;
}

static int ignore(void *ctx, const char *text, size_t n) {
    (void)ctx;
    (void)text;
    (void)n;
    return 0;
}

static void churn_rows(unsigned index, void *ctx) {
    struct churn *churn = ctx;
    pnx_resource_id mine[64] = {0};
    uint64_t state = churn->seed + index;
    for (int i = 0; i < (test_slow() ? 3000 : 30000); i++) {
        size_t k = test_random(&state) % 64;
        uint64_t tag = test_random(&state) % 2;
        if (mine[k] && i % 3 == 0)
            CHECK_EQ(pnx_registry_cleanup(churn->registry, mine[k]), 0);
        else if (mine[k])
            CHECK_EQ(pnx_registry_remove(churn->registry, mine[k]), 0);
        CHECK_EQ(pnx_registry_add(churn->registry,
                         PNX_RESOURCE(.type = tag ? "tagged" : "plain", .tag = tag,
                                 .owner = tag * 2, .cleanup = count_up, .arg = &churn->ran),
                         NULL, &mine[k]),
                0);
        size_t n = 0;
        if (index == 0 && i % 500 == 0) {
            CHECK_EQ(pnx_registry_each(churn->registry, look, &n), 0);
            CHECK_EQ(pnx_registry_report(churn->registry, PNX_REPORT_TEXT, ignore, NULL), 0);
        }
    }
    for (size_t k = 0; k < 64; k++) {
        if (mine[k])
            CHECK_EQ(pnx_registry_remove(churn->registry, mine[k]), 0);
    }
}

TEST(rows_come_and_go_while_others_look) {
    struct churn churn = {.seed = test_seed()};
    CHECK_EQ(pnx_registry_create(NULL, NULL, &churn.registry), 0);
    test_threads(4, churn_rows, &churn);
    CHECK_EQ(pnx_registry_count(churn.registry), 0);
    struct pnx_registry_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_registry_read_stats(churn.registry, &stats), 0);
    CHECK_EQ(stats.added, stats.removed + stats.cleanups);
    CHECK_EQ(stats.cleanups, churn.ran);
    CHECK_EQ(stats.misuses, 0);
    pnx__registry_check(churn.registry);
    pnx_registry_release(&churn.registry);
}
