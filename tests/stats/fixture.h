/* SPDX-License-Identifier: Apache-2.0 */
/* fixture.h - a made-up component with numbers of every kind and unit. */
#ifndef PNX_TEST_STATS_FIXTURE_H
#define PNX_TEST_STATS_FIXTURE_H

#include "harness/harness.h"
#include "stats/stats.h"

#define PNX_GROUP     fixture
#define PNX_GROUP_DEF "stats/fixture.def"
#include "stats/declare_group.inc"

struct fixture {
    struct pnx_stats_block stats;
    struct pnx_fixture_values values;
    struct pnx_fixture_histograms histograms;
};

/* Makes a component and lets it join the set. */
static inline void fixture_add(struct fixture *f, struct pnx_stats *set, const char *name) {
    memset(f, 0, sizeof(*f));
    pnx__fixture_stats_init(&f->stats, name, &f->values, &f->histograms);
    pnx__stats_add(set, &f->stats);
}

static inline struct pnx_stats *fixture_set(struct test_env *te) {
    struct pnx_stats *set = NULL;
    CHECK_EQ(pnx_stats_create(te ? PNX_STATS_OPTS(.env = &te->env) : NULL, NULL, &set), 0);
    return set;
}

#endif
