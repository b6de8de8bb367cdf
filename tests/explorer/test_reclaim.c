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
    struct pnx_a32 made;
    struct x_cell effect; /* of a callback */
};

static struct state *now; /* of this execution, for callbacks */

static struct object *make_object(struct state *state) {
    struct object *object = x_alloc(sizeof(*object));
    x_cell_write(&object->payload, 42);
    pnx_fetch_add(&state->made, 1, PNX_RELAXED, "reclaim_suite.made");
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
    CHECK_EQ(pnx_load(&state->freed, PNX_RELAXED, "reclaim_suite.count"),
            pnx_load(&state->made, PNX_RELAXED, "reclaim_suite.all"));
    pnx_reclaim_release(&state->domain);
}

/* Reads the object, if there is one. */
static void look(struct state *state) {
    const struct object *object =
            pnx_load(&state->shared, PNX_ACQUIRE, "reclaim_suite.look"); /* with .replace */
    if (!object)
        return;
    x_yield(); /* its reads may come long after it was found */
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

static void read_once_then_nested(void *arg) {
    struct state *state = arg;
    read_once(arg);
    pnx_reclaim_enter(state->domain);
    pnx_reclaim_enter(state->domain);
    pnx_reclaim_exit(state->domain);
    pnx_reclaim_exit(state->domain);
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

/* Ends inside a section: reported, and counted as ended. */
static void read_and_die(void *arg) {
    struct state *state = arg;
    pnx_reclaim_enter(state->domain);
    look(state);
}

/* What another thread retired before this call lies in that thread's buffer. */
static void barrier_once_told(void *arg) {
    struct state *state = arg;
    bool told = pnx_load(&state->told, PNX_ACQUIRE, "reclaim_suite.told");
    CHECK_EQ(pnx_reclaim_barrier(state->domain, PNX_NEVER), 0);
    if (told)
        CHECK_EQ(x_cell_read(&state->effect), 1); /* the callback's, on whatever thread it ran */
}

static void free_with_effect(struct pnx_reclaim_node *node) {
    x_cell_write(&now->effect, 1);
    free_object(node);
}

static void retire_with_effect(void *arg) {
    struct state *state = arg;
    struct object *old =
            pnx_exchange(&state->shared, NULL, PNX_ACQ_REL, "reclaim_suite.effect"); /* .look */
    pnx_reclaim_retire(state->domain, &old->node, free_with_effect, sizeof(*old));
    pnx_store(&state->told, 1, PNX_RELEASE, "reclaim_suite.tell"); /* with reclaim_suite.told */
}

static void drive_once(void *arg) {
    drive(arg);
}

static void tick(void *arg) {
    struct state *state = arg;
    (void)pnx_reclaim_tick(state->domain, 0);
}

/* As a write to a container that found enough retired. */
static void exchange_and_assist(void *arg) {
    struct state *state = arg;
    replace(state, make_object(state));
    pnx__reclaim_assist_due(state->domain);
}

static void free_and_retire(struct pnx_reclaim_node *node) {
    struct object *object = PNX_CONTAINER(node, struct object, node);
    pnx_reclaim_retire(now->domain, &object->node, free_object, sizeof(*object));
    CHECK_EQ(pnx_reclaim_barrier(now->domain, PNX_NEVER), -EDEADLK);
    CHECK_EQ(pnx_reclaim_synchronize(now->domain, PNX_NEVER), -EDEADLK);
}

static void retire_twice_and_drive(void *arg) {
    struct state *state = arg;
    struct object *old =
            pnx_exchange(&state->shared, NULL, PNX_ACQ_REL, "reclaim_suite.twice"); /* .look */
    if (old)
        pnx_reclaim_retire(state->domain, &old->node, free_and_retire, sizeof(*old));
    drive(arg);
    drive(arg);
}

/* There is no memory for the section, so it is counted among the guests. */
static void read_as_guest(void *arg) {
    x_fail_allocation(0);
    read_once(arg);
}

static void read_as_guest_and_die(void *arg) {
    x_fail_allocation(0);
    read_and_die(arg);
}

static void unlink_and_barrier_as_guest(void *arg) {
    struct state *state = arg;
    x_fail_allocation(0);
    replace(state, NULL);
    drive(arg);
}

static void exit_too_often(void *arg) {
    struct state *state = arg;
    read_once(arg);
    pnx_reclaim_exit(state->domain);
    read_once(arg);
}

static void set_up_limits(void *arg) {
    struct state *state = arg;
    set_up_default(arg);
    CHECK_EQ(pnx_reclaim_create(
                     PNX_RECLAIM_OPTS(.env = x_env(), .registry = pnx_registry_off(),
                             .stats = pnx_stats_off(), .max_pending_bytes = 1, .assist_ns = 100),
                     NULL, &state->domain),
            0);
}

static void retire_over_the_limit(void *arg) {
    struct state *state = arg;
    struct object *old =
            pnx_exchange(&state->shared, NULL, PNX_ACQ_REL, "reclaim_suite.large"); /* .look */
    pnx_reclaim_retire(state->domain, &old->node, free_object, PNX_RECLAIM_DUE_BYTES);
    CHECK_EQ(pnx_load(&state->freed, PNX_RELAXED, "reclaim_suite.not_yet"), 0);
    drive(arg);
}

static void set_up_two_references(void *arg) {
    struct state *state = arg;
    set_up_own(arg);
    free_object(&(
            (struct object *)pnx_exchange(&state->shared, NULL, PNX_ACQ_REL, "reclaim_suite.none"))
                         ->node);
    (void)pnx_reclaim_ref(state->domain);
    (void)pnx_reclaim_ref(state->domain);
}

static void use_and_release(void *arg) {
    struct pnx_reclaim *domain = ((struct state *)arg)->domain;
    pnx_reclaim_enter(domain);
    pnx_reclaim_exit(domain);
    struct object *object = make_object(arg);
    pnx_reclaim_retire(domain, &object->node, free_object, sizeof(*object));
    pnx_reclaim_release(&domain);
}

static void nothing_is_left(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->freed, PNX_RELAXED, "reclaim_suite.released"), 4);
}

static void barrier(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_reclaim_barrier(state->domain, PNX_NEVER), 0);
}

/* ---- the tests, each under both barriers ---- */

/* Where a test says nothing, the ordinary run has two preemptions and ./test --long three; more than one where threads
 * sleep takes minutes. */
static void explore(const char *name, bool fences, struct x_test test) {
    char full[96];
    (void)snprintf(full, sizeof(full), "%s-%s", name, fences ? "fences" : "membarrier");
    test.name = full;
    test.size = sizeof(struct state);
    test.final = test.final ? test.final : clean_up;
    test.fences = fences;
    if (!test_long()) {
        test.preemptions = test.preemptions ? test.preemptions : 2;
        test.random = 2000;
    } else if (test.preemptions == 1) {
        test.preemptions = 2;
    }
    x_explore(&test);
}

#define BOTH(test_name, ...) \
    TEST_LIMIT(test_name##_with_membarrier, 600) { \
        explore(#test_name, false, (struct x_test){__VA_ARGS__}); \
    } \
    TEST_LIMIT(test_name##_with_fences, 600) { \
        explore(#test_name, true, (struct x_test){__VA_ARGS__}); \
    }

BOTH(p1_nothing_is_freed_that_a_section_reads, .setup = set_up_default,
        .thread = {read_once, read_once, unlink_and_drive}, .preemptions = 3, .floor = 100000)
BOTH(p1_nor_after_the_section_began_anew, .setup = set_up_default,
        .thread = {read_twice, unlink_and_drive}, .preemptions = 3, .floor = 200)
BOTH(p1_nor_in_a_nested_section, .setup = set_up_default, .thread = {read_nested, unlink_and_drive},
        .preemptions = 3, .floor = 200)
BOTH(p1_nor_in_a_domain_of_ones_own, .setup = set_up_own,
        .thread = {read_once, read_once, unlink_and_drive}, .floor = 2000)
BOTH(p1_nor_by_two_who_replace_at_once, .setup = set_up_default,
        .thread = {read_once, exchange_and_assist, exchange_and_assist}, .floor = 2000)
BOTH(p1_nor_by_a_callback_that_retires, .setup = set_up_default,
        .thread = {read_once, read_once, retire_twice_and_drive}, .floor = 2000)
BOTH(p1_nor_when_the_scan_meets_a_nested_exit, .setup = set_up_default,
        .thread = {read_once_then_nested, unlink_and_drive}, .preemptions = 3, .floor = 200)
BOTH(p3_nor_when_there_is_no_memory_for_sections, .setup = set_up_own,
        .thread = {read_as_guest, read_once, unlink_and_drive}, .floor = 500)
BOTH(p3_nor_when_such_a_thread_ends_inside, .setup = set_up_own,
        .thread = {read_as_guest_and_die, read_once, unlink_and_drive}, .floor = 500)
BOTH(p3_nor_what_was_retired_without_memory, .setup = set_up_own,
        .thread = {read_once, unlink_and_barrier_as_guest, tick}, .floor = 500)
BOTH(p3_nor_by_a_retire_over_the_limit, .setup = set_up_limits,
        .thread = {read_once, read_once, retire_over_the_limit}, .floor = 20000)
BOTH(p1_nor_after_an_exit_too_many, .setup = set_up_default,
        .thread = {exit_too_often, read_once, unlink_and_drive}, .floor = 10000)
BOTH(the_last_of_three_references_frees_all, .setup = set_up_two_references,
        .thread = {use_and_release, use_and_release, use_and_release}, .final = nothing_is_left,
        .preemptions = 3, .floor = 1000)
BOTH(a_thread_that_ends_inside_a_section_holds_nobody_up, .setup = set_up_default,
        .thread = {read_and_die, read_once, unlink_and_barrier}, .preemptions = 1, .floor = 100)
BOTH(p4_synchronize_outlasts_the_sections, .setup = set_up_default,
        .thread = {read_once, read_once, unlink_and_synchronize}, .preemptions = 1, .floor = 100)
BOTH(p4_a_barrier_has_run_what_it_found, .setup = set_up_default,
        .thread = {read_once, unlink_and_barrier, barrier}, .preemptions = 1, .floor = 100)
BOTH(p4_in_other_threads_buffers_too, .setup = set_up_default,
        .thread = {read_once, retire_with_effect, barrier_once_told}, .preemptions = 2,
        .floor = 100000)
BOTH(p4_and_where_another_thread_runs_the_callback, .setup = set_up_default,
        .thread = {drive_once, retire_with_effect, barrier_once_told}, .preemptions = 3,
        .floor = 3000)
