/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim: P1..P6 of patinox/reclaim.h, on one thread and a few. */
#include "harness/harness.h"
#include "os/thread.h"
#include "share/reclaim.h"

#include <patinox/reclaim.h>

#include <errno.h>
#include <pthread.h>

struct thing {
    struct pnx_reclaim_node node;
    uint64_t freed;
    unsigned number;
};

static unsigned freed_order[1024];
static unsigned n_freed;

static void free_thing(struct pnx_reclaim_node *node) {
    struct thing *thing = PNX_CONTAINER(node, struct thing, node);
    thing->freed++;
    if (n_freed < 1024)
        freed_order[n_freed] = thing->number;
    n_freed++;
}

static struct pnx_reclaim *make(uint32_t mode, struct test_env *te) {
    struct pnx_reclaim *domain = NULL;
    test_env_init(te);
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.name = "test", .env = &te->env, .mode = mode),
                     NULL, &domain),
            0);
    return domain;
}

static void basic(uint32_t mode) {
    struct test_env te;
    struct pnx_reclaim *domain = make(mode, &te);
    struct thing things[10] = {0};
    for (unsigned i = 0; i < 10; i++) {
        things[i].number = i;
        pnx_reclaim_retire(domain, &things[i].node, free_thing, 100);
    }
    CHECK_EQ(n_freed, 0);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(n_freed, 10);
    for (unsigned i = 0; i < 10; i++) {
        CHECK_EQ(things[i].freed, 1);
        CHECK_EQ(freed_order[i], i);
    }
    pnx_reclaim_enter(domain);
    pnx_reclaim_enter(domain);
    pnx_reclaim_exit(domain);
    CHECK(pnx_reclaim_in_section(domain));
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), -EDEADLK);
    pnx_reclaim_exit(domain);
    CHECK(!pnx_reclaim_in_section(domain));
    CHECK_EQ(pnx_reclaim_synchronize(domain, PNX_NEVER), 0);
    struct pnx_reclaim_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_reclaim_read_stats(domain, &stats), 0);
    CHECK_EQ(stats.retired, 10);
    CHECK_EQ(stats.reclaimed, 10);
    CHECK_EQ(stats.pending, 0);
    pnx_reclaim_release(&domain);
    CHECK(domain == NULL);
    test_env_check_empty(&te);
}

TEST(p1_each_node_is_freed_once_after_the_sections_membarrier) {
    basic(PNX_RECLAIM_MEMBARRIER);
}

TEST(p1_each_node_is_freed_once_after_the_sections_fences) {
    basic(PNX_RECLAIM_FENCES);
}
