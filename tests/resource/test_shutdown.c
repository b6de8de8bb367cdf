/* SPDX-License-Identifier: Apache-2.0 */
/* Shutdown: P4 and P5 of patinox/registry.h, P1..P4 of resource/shutdown.c. */
#include "harness/harness.h"
#include "registry/ledger.h"

#include <patinox/registry.h>

#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    return registry;
}

/* A resource whose cleanup writes its number into a list. */
struct item {
    int number;
    int code;
    sem_t *entered; /* posted when its cleanup begins */
    sem_t *go;      /* waited for before it ends */
    bool until_cancelled;
    bool was_cancelled;
    pnx_ns deadline;
    pthread_t thread;
};

static int order[256];
static int n_order;
static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;

static int end_item(void *arg, const struct pnx_cancel *cancel) {
    struct item *item = arg;
    pthread_mutex_lock(&order_lock);
    order[n_order++] = item->number;
    pthread_mutex_unlock(&order_lock);
    item->thread = pthread_self();
    item->deadline = pnx_cancel_deadline(cancel);
    if (item->entered)
        sem_post(item->entered);
    while (item->until_cancelled && !item->was_cancelled) {
        item->was_cancelled = pnx_cancel_requested(cancel);
        usleep(1000); /* polling is what a cleanup in the middle of its work does */
    }
    if (item->go)
        sem_wait(item->go);
    return item->code;
}

static pnx_resource_id add(struct pnx_registry *registry, struct item *item, pnx_resource_id parent) {
    pnx_resource_id id;
    char name[32];
    snprintf(name, sizeof(name), "item %d", item->number);
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE(.type = "item", .name = name, .cleanup = end_item, .arg = item,
                             .parent = parent, .bytes = 100),
                     NULL, &id),
            0);
    return id;
}

static struct pnx_shutdown_counts counts_of(const struct pnx_shutdown_report *report) {
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    return counts;
}

#define CHECK_COUNTS(report, d, f, a, l) \
    do { \
        struct pnx_shutdown_counts c_ = counts_of(report); \
        CHECK_EQ(c_.done, d); \
        CHECK_EQ(c_.failed, f); \
        CHECK_EQ(c_.abandoned, a); \
        CHECK_EQ(c_.leaked, l); \
    } while (0)

TEST(an_empty_registry_is_done_at_once) {
    struct pnx_registry *registry = fresh();
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, 0, &report), 0);
    CHECK_COUNTS(report, 0, 0, 0, 0);
    pnx_shutdown_report_release(&report);
    CHECK(report == NULL);
    pnx_registry_release(&registry);
}

TEST(v1_bug_a_shutdown_runs_every_cleanup_before_it_reports_success) {
    struct pnx_registry *registry = fresh();
    struct item items[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    for (int i = 0; i < 3; i++)
        add(registry, &items[i], 0);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    CHECK_EQ(n_order, 3);
    CHECK_EQ(pnx_registry_count(registry), 0);
    CHECK_COUNTS(report, 3, 0, 0, 0);
    pnx_registry_release(&registry);
    CHECK_COUNTS(report, 3, 0, 0, 0); /* the report outlives the registry's last other holder */
    pnx_shutdown_report_release(&report);
}
