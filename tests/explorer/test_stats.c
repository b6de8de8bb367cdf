/* SPDX-License-Identifier: Apache-2.0 */
/* test_stats.c - a set of statistics: its end with its last block or holder, health, events beside a monitor's end. */
#include "explorer/explorer.h"
#include "stats/stats.h"

#include <patinox/stats.h>

#define PNX_GROUP     suite
#define PNX_GROUP_DEF "explorer/suite_stats.def"
#include "stats/declare_group.inc"

struct object {
    struct pnx_stats_block block;
    struct pnx_suite_values values;
};

struct state {
    struct pnx_stats *set;
    struct object objects[2];
    uint32_t monitor;
    struct x_cell heard;
    struct pnx_a32 removed;
};

#define RANDOM (test_long() ? 100000u : 2000u)

static void join(struct state *s, unsigned i) {
    struct object *object = &s->objects[i];
    pnx__suite_stats_init(&object->block, "object", &object->values, NULL);
    pnx__stats_add(s->set, &object->block);
}

static void set_up(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(.env = x_env()), NULL, &s->set), 0);
    join(s, 0);
    join(s, 1);
}

/* ---- the end ---- */

static void leave_first(void *state) {
    struct state *s = state;
    pnx__stats_remove(&s->objects[0].block);
}
static void leave_second(void *state) {
    struct state *s = state;
    pnx__event(&s->objects[1].block, PNX_EVENT_CMAP_RESIZED, "object", 0, NULL, 1, 1);
    pnx__stats_remove(&s->objects[1].block);
}
static void release(void *state) {
    struct state *s = state;
    pnx_stats_release(&s->set);
}

TEST_LIMIT(the_last_block_or_holder_frees_the_set, 120) {
    x_explore(&(struct x_test){.name = "stats_end",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {leave_first, leave_second, release},
            .random = RANDOM,
            .floor = 100});
}

/* ---- health ---- */

static void fail(void *state) {
    struct state *s = state;
    pnx__health_set(&s->objects[0].block, PNX_HEALTH_DEGRADED, "it is late");
}
static void fail_and_recover(void *state) {
    struct state *s = state;
    pnx__health_set(&s->objects[1].block, PNX_HEALTH_DOWN, "it is down");
    pnx__health_set(&s->objects[1].block, PNX_HEALTH_OK, "");
}
/* Whoever is told that something is wrong is told what. */
static void ask(void *state) {
    struct state *s = state;
    struct pnx_health_entry entries[2];
    size_t n = 0;
    int worst = pnx_health(s->set, entries, 2, &n);
    CHECK_EQ(n, 2);
    CHECK(worst >= PNX_HEALTH_OK && worst <= PNX_HEALTH_DOWN);
    for (size_t i = 0; i < n; i++) {
        if (entries[i].status == PNX_HEALTH_DEGRADED)
            CHECK_STR(entries[i].reason, "it is late");
        if (entries[i].status == PNX_HEALTH_DOWN)
            CHECK_STR(entries[i].reason, "it is down");
    }
}
static void end(void *state) {
    leave_first(state);
    pnx__stats_remove(&((struct state *)state)->objects[1].block);
    release(state);
}

TEST_LIMIT(health_is_told_with_its_reason, 120) {
    x_explore(&(struct x_test){.name = "stats_health",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {fail, fail_and_recover, ask},
            .final = end,
            .random = RANDOM,
            .floor = 100});
}

/* ---- monitors ---- */

static void hear(void *ctx, const struct pnx_event *event) {
    struct state *s = ctx;
    CHECK_EQ(event->type, PNX_EVENT_CMAP_RESIZED);
    CHECK_EQ(pnx_load(&s->removed, PNX_RELAXED, "stats_suite.heard"), 0);
    x_cell_read(&s->heard); /* a race with what the remover does afterwards */
}
static void set_up_monitor(void *state) {
    struct state *s = state;
    set_up(state);
    CHECK_EQ(pnx_monitor_add(s->set,
                     &(struct pnx_monitor){
                             .size = sizeof(struct pnx_monitor), .event = hear, .ctx = s},
                     &s->monitor),
            0);
}
static void tell_first(void *state) {
    struct state *s = state;
    pnx__event(&s->objects[0].block, PNX_EVENT_CMAP_RESIZED, "object", 0, NULL, 1, 1);
}
static void tell_second(void *state) {
    struct state *s = state;
    pnx__event(&s->objects[1].block, PNX_EVENT_CMAP_RESIZED, "object", 0, NULL, 1, 1);
}
static void remove_monitor(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_monitor_remove(s->set, s->monitor), 0);
    pnx_store(&s->removed, 1, PNX_RELAXED, "stats_suite.removed");
    x_cell_write(&s->heard, 1);
}

TEST_LIMIT(p3_a_monitor_that_was_removed_is_not_called, 120) {
    x_explore(&(struct x_test){.name = "stats_monitor",
            .size = sizeof(struct state),
            .setup = set_up_monitor,
            .thread = {tell_first, tell_second, remove_monitor},
            .final = end,
            .preemptions = test_long() ? 3 : 2,
            .random = RANDOM,
            .floor = 1000});
}
