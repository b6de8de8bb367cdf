/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_traces.c - what registries publish without their shards' locks: patterns of known leaks, the set of
 * backtraces (of two places here), which the first who needs it makes, and the default registry itself.
 */
#include "explorer/explorer.h"
#include "registry/ledger.h"
#include "registry/suppress.h"
#include "registry/trace.h"

#include <errno.h>

struct state {
    struct pnx_registry *registry;
    uint32_t number[3];
};

static void set_up(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &state->registry),
            0);
}

static void end(void *arg) {
    struct state *state = arg;
    pnx_registry_release(&state->registry);
}

/* ---- known leaks ---- */

static void suppress_pools(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_registry_suppress(state->registry, "pool", NULL), 0);
    CHECK(pnx__suppressed(state->registry, "pool", "a.c:1"));
}

static void suppress_site(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_registry_suppress(state->registry, NULL, "b.c:*"), 0);
    CHECK(pnx__suppressed(state->registry, "cache", "b.c:2"));
}

static void look(void *arg) {
    struct state *state = arg;
    bool first = pnx__suppressed(state->registry, "pool", "a.c:1");
    CHECK(!first || pnx__suppressed(state->registry, "pool", "a.c:1")); /* none is taken back */
    CHECK(!pnx__suppressed(state->registry, "pools", "c.c:3"));
}

static void both(void *arg) {
    struct state *state = arg;
    CHECK(pnx__suppressed(state->registry, "pool", "a.c:1"));
    CHECK(pnx__suppressed(state->registry, "cache", "b.c:2"));
    end(arg);
}

TEST_LIMIT(p1_patterns_are_seen_whole_and_stay, 120) {
    x_explore(&(struct x_test){.name = "suppress",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {suppress_pools, suppress_site, look},
            .final = both,
            .random = 2000,
            .floor = 50});
}

/* ---- backtraces ---- */

static void *const one[2] = {(void *)1, (void *)2};
static void *const other[2] = {(void *)3, (void *)4};

static void keep(struct state *state, unsigned i, void *const *frames) {
    void *found[PNX_TRACE_FRAMES];
    state->number[i] = pnx__stack_keep(state->registry, frames, 2);
    CHECK_EQ(pnx__stack_copy(state->registry, state->number[i], found), state->number[i] ? 2 : 0);
    CHECK(state->number[i] == 0 || (found[0] == frames[0] && found[1] == frames[1]));
}

static void keep_one(void *arg) {
    keep(arg, 0, one);
}

static void keep_it_too(void *arg) {
    keep(arg, 1, one);
}

static void keep_other(void *arg) {
    keep(arg, 2, other);
}

/* There is room for one: who came first has it. */
static void one_has_it(void *arg) {
    const struct state *state = arg;
    CHECK_EQ(state->number[0], state->number[1]);
    CHECK((state->number[0] == 0) != (state->number[2] == 0));
    end(arg);
}

TEST_LIMIT(p1_a_stack_is_kept_once_and_named_alike, 120) {
    x_explore(&(struct x_test){.name = "stacks",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {keep_one, keep_it_too, keep_other},
            .final = one_has_it,
            .random = 2000,
            .floor = 50});
}

/* ---- the default registry ---- */

static void make_default(void *arg) {
    (void)arg;
    (void)pnx_registry_default();
}

/* Finds it without the once, whose order it has not. */
static void use_default(void *arg) {
    (void)arg;
    /* relaxed: only so that the next does not have to make it */
    if (!pnx_load(&pnx__registry_default, PNX_RELAXED, "traces_suite.default"))
        return;
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(NULL, PNX_RESOURCE(.type = "thing"), NULL, &id), 0);
    CHECK_EQ(pnx_registry_remove(NULL, id), 0);
}

TEST_LIMIT(p1_the_default_registry_is_seen_whole, 120) {
    x_explore(&(struct x_test){.name = "default",
            .thread = {make_default, use_default},
            .preemptions = 2,
            .random = 500,
            .leaks = true, /* the default registry is never freed */
            .floor = 4});
}
