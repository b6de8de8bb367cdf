/* SPDX-License-Identifier: Apache-2.0 */
/* reclaim_case.h - a domain, things to be retired in it, and a reader; for the tests of reclaim. */
#ifndef PNX_TESTS_SHARE_RECLAIM_CASE_H
#define PNX_TESTS_SHARE_RECLAIM_CASE_H

#include "harness/harness.h"
#include "os/thread.h"
#include "share/reclaim.h"

#include <patinox/reclaim.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>

struct thing {
    struct pnx_reclaim_node node;
    unsigned number;
};

static unsigned order[4096]; /* numbers of things in the order of their functions */
static unsigned n_run;
static struct pnx_reclaim *domain;
static struct test_env te;

static void note(struct pnx_reclaim_node *node) {
    struct thing *thing = PNX_CONTAINER(node, struct thing, node);
    unsigned at = __atomic_fetch_add(&n_run, 1, __ATOMIC_SEQ_CST); /* several threads may run */
    if (at < 4096)
        order[at] = thing->number;
}

#define MAKE(...) \
    do { \
        test_env_init(&te); \
        CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.name = "test", .env = &te.env, __VA_ARGS__), \
                         NULL, &domain), \
                0); \
    } while (0)

static void drop(void) {
    pnx_reclaim_release(&domain);
    CHECK(domain == NULL);
    test_env_check_empty(&te);
}

static struct pnx_reclaim_stats stats(void) {
    struct pnx_reclaim_stats values = {.size = sizeof(values)};
    CHECK_EQ(pnx_reclaim_read_stats(domain, &values), 0);
    return values;
}

/* ---- events ---- */

static struct pnx_event last_event;
static char last_cause[64];
static int n_events;

static void hear(void *ctx, const struct pnx_event *event) {
    if (event->type != *(const enum pnx_event_type *)ctx)
        return;
    last_event = *event;
    (void)snprintf(last_cause, sizeof(last_cause), "%s", event->cause ? event->cause : "");
    n_events++;
}

static void listen_for(enum pnx_event_type type) {
    static enum pnx_event_type wanted;
    static struct pnx_monitor monitor = {.size = sizeof(monitor), .event = hear, .ctx = &wanted};
    uint32_t id;
    wanted = type;
    CHECK_EQ(pnx_monitor_add(NULL, &monitor, &id), 0);
}

/* ---- a reader that enters and exits when told ---- */

static pthread_barrier_t meet;
static pthread_t reader;

static void *read_until_told(void *arg) {
    (void)arg;
    pnx_reclaim_enter(domain);
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    pnx_reclaim_exit(domain);
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
    return NULL;
}

static void start_reader(void) {
    pthread_barrier_init(&meet, NULL, 2);
    CHECK_EQ(pthread_create(&reader, NULL, read_until_told, NULL), 0);
    pthread_barrier_wait(&meet);
}

static void reader_exits(void) {
    pthread_barrier_wait(&meet);
    pthread_barrier_wait(&meet);
}

static void end_reader(void) {
    pthread_barrier_wait(&meet);
    CHECK_EQ(pthread_join(reader, NULL), 0);
}

#endif
