/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_reclaim.c - reclaim: readers, writers, threads that come and go, under both barriers.
 *
 * An object is memory of the explorer, which is never given out twice and whose every touch after the free ends
 * the run; its payload is a race-checked cell.
 */
#include "explorer/explorer.h"
#include "share/reclaim.h"

#include <patinox/reclaim.h>

#include <errno.h>

struct object {
    struct pnx_reclaim_node node;
    struct x_cell payload;
};

struct state {
    struct pnx_reclaim *domain;
    struct pnx_aptr shared; /* struct object */
    struct pnx_a32 told;
    struct pnx_a32 freed;
    unsigned made;
};

static struct state *now; /* of this execution, for callbacks */

static struct object *make_object(struct state *state) {
    struct object *object = x_alloc(sizeof(*object));
    x_cell_write(&object->payload, 42);
    state->made++;
    return object;
}

static void free_object(struct pnx_reclaim_node *node) {
    struct object *object = PNX_CONTAINER(node, struct object, node);
    x_cell_write(&object->payload, 0); /* a race with any reader that is left */
    x_free(object);
    pnx_fetch_add(&now->freed, 1, PNX_RELAXED, "reclaim_suite.freed");
}

static void set_up_default(void *arg) {
    struct state *state = arg;
    now = state;
    (void)pnx_reclaim_default();
    pnx_store(&state->shared, make_object(state), PNX_RELEASE, "reclaim_suite.first");
}

static void set_up_own(void *arg) {
    struct state *state = arg;
    set_up_default(arg);
    CHECK_EQ(pnx_reclaim_create(PNX_RECLAIM_OPTS(.env = x_env(), .registry = pnx_registry_off(),
                                        .stats = pnx_stats_off(), .stall_warn_ns = PNX_NEVER),
                     NULL, &state->domain),
            0);
}

/* Whatever happened before: all that was made and unlinked can be freed now, and is freed once. */
static void clean_up(void *arg) {
    struct state *state = arg;
    struct object *last = pnx_exchange(&state->shared, NULL, PNX_ACQ_REL, "reclaim_suite.last");
    if (last)
        pnx_reclaim_retire(state->domain, &last->node, free_object, sizeof(*last));
    CHECK_EQ(pnx_reclaim_close(state->domain, PNX_NEVER), 0);
    CHECK_EQ(pnx_load(&state->freed, PNX_RELAXED, "reclaim_suite.count"), state->made);
    pnx_reclaim_release(&state->domain);
}

static void look(struct state *state) {
    const struct object *object =
            pnx_load(&state->shared, PNX_ACQUIRE, "reclaim_suite.look"); /* with .replace */
    if (object)
        CHECK_EQ(x_cell_read(&object->payload), 42);
}

static void read_once(void *arg) {
    struct state *state = arg;
    pnx_reclaim_enter(state->domain);
    look(state);
    pnx_reclaim_exit(state->domain);
}

static void read_twice(void *arg) {
    read_once(arg);
    read_once(arg);
}

static void read_nested(void *arg) {
    struct state *state = arg;
    pnx_reclaim_enter(state->domain);
    read_once(arg);
    look(state);
    pnx_reclaim_exit(state->domain);
}

static void replace(struct state *state, struct object *fresh) {
    struct object *old = pnx_exchange(
            &state->shared, fresh, PNX_ACQ_REL, "reclaim_suite.replace"); /* with .look */
    if (old)
        pnx_reclaim_retire(state->domain, &old->node, free_object, sizeof(*old));
}

/* What an assist does, with the least around it. */
static void drive(struct state *state) {
    struct pnx_reclaim *domain = pnx__reclaim_resolve(state->domain);
    struct pnx_reclaim_effects effects = {0};
    pnx__mutex_lock(&domain->lock);
    pnx__reclaim_step(domain, PNX_BEGIN_IF_RETIRED, &effects);
    pnx__mutex_unlock(&domain->lock);
    pnx__reclaim_effects(domain, &effects);
    pnx__reclaim_run(domain, UINT64_MAX, false);
}

static void unlink_and_drive(void *arg) {
    replace(arg, NULL);
    drive(arg);
    drive(arg);
}

static void unlink_and_synchronize(void *arg) {
    struct state *state = arg;
    struct object *old =
            pnx_exchange(&state->shared, NULL, PNX_ACQ_REL, "reclaim_suite.unlink"); /* .look */
    CHECK_EQ(pnx_reclaim_synchronize(state->domain, PNX_NEVER), 0);
    free_object(&old->node);
}

static void unlink_and_barrier(void *arg) {
    struct state *state = arg;
    replace(state, NULL);
    CHECK_EQ(pnx_reclaim_barrier(state->domain, PNX_NEVER), 0);
    CHECK_EQ(pnx_load(&state->freed, PNX_RELAXED, "reclaim_suite.after"), 1);
}

/* ---- P1 ---- */

#define BOTH(test_name, ...) \
    TEST_LIMIT(test_name##_with_membarrier, 120) { \
        x_explore(&(struct x_test){.name = #test_name "-membarrier", \
                .size = sizeof(struct state), \
                .final = clean_up, \
                __VA_ARGS__}); \
    } \
    TEST_LIMIT(test_name##_with_fences, 120) { \
        x_explore(&(struct x_test){.name = #test_name "-fences", \
                .size = sizeof(struct state), \
                .final = clean_up, \
                .fences = true, \
                __VA_ARGS__}); \
    }

BOTH(p1_nothing_is_freed_that_a_section_reads, .setup = set_up_default,
        .thread = {read_once, read_once, unlink_and_drive}, .floor = 1000)
BOTH(p1_nor_after_the_section_began_anew, .setup = set_up_default,
        .thread = {read_twice, unlink_and_drive}, .floor = 500)
BOTH(p1_nor_in_a_nested_section, .setup = set_up_default,
        .thread = {read_nested, read_once, unlink_and_drive}, .floor = 1000)
BOTH(p4_synchronize_outlasts_the_sections, .setup = set_up_default,
        .thread = {read_once, read_once, unlink_and_synchronize}, .floor = 1000)
BOTH(p4_a_barrier_has_run_what_it_found, .setup = set_up_default,
        .thread = {read_once, read_once, unlink_and_barrier}, .floor = 1000)
BOTH(p1_nor_in_a_domain_of_ones_own, .setup = set_up_own,
        .thread = {read_once, read_once, unlink_and_drive}, .floor = 1000)
