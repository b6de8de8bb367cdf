/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_registry.c - who ends a row: removals, forced cleanups, guards, abandoning, completions and second releases in
 * each other's way; who frees a registry; and the order of adding.
 */
#include "explorer/explorer.h"
#include "registry/ledger.h"

#include <patinox/guard.h>
#include <patinox/registry.h>
#include <patinox/shutdown.h>

#include <errno.h>
#include <string.h>

enum { ROWS = 3 };

struct state {
    struct pnx_registry *registry;
    pnx_resource_id id[ROWS];
    struct pnx_a64 shared_id; /* handed to another thread */
    struct pnx_a32 ready;
    /* By the cleanups of row 0: a race when two are in it, or somebody looks before it has ended. */
    struct x_cell inside;
    uint64_t runs;
    int code; /* what they return, but the first -EAGAIN */
    bool again_first;
    bool pends;
    bool done_early;
    struct pnx_completion completion;
    struct pnx_a32 told;
    int told_code;
    /* By the threads. */
    int rc[4];
    struct pnx_row_request request;
    struct pnx_guard guard;
};

/* ---- rows ---- */

static int end_row(void *arg, const struct pnx_cancel *cancel) {
    struct state *state = arg;
    uint64_t was = x_cell_read(&state->inside);
    x_cell_write(&state->inside, was + 1);
    x_yield();
    CHECK_EQ(x_cell_read(&state->inside), was + 1);
    state->runs++;
    if (state->pends) {
        CHECK_EQ(pnx_cancel_pend(cancel, &state->completion), 0);
        pnx_store(&state->ready, 1, PNX_RELEASE, "registry_suite.ready"); /* registry_suite.wait */
        return -EINPROGRESS;
    }
    return state->again_first && state->runs == 1 ? -EAGAIN : state->code;
}

static void make_registry(struct state *state) {
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &state->registry),
            0);
}

static void add_row(struct state *state, unsigned i) {
    CHECK_EQ(pnx_registry_add(state->registry,
                     PNX_RESOURCE(.type = "row", .cleanup = end_row, .arg = state), NULL,
                     &state->id[i]),
            0);
}

static void one_row(void *arg) {
    struct state *state = arg;
    make_registry(state);
    add_row(state, 0);
}

static void wait_ready(struct state *state) {
    /* acquire: pairs with registry_suite.ready */
    while (!pnx_load(&state->ready, PNX_ACQUIRE, "registry_suite.wait"))
        pnx__spin_hint();
}

static void cleaner_0(void *arg) {
    struct state *state = arg;
    state->rc[0] = pnx_registry_cleanup(state->registry, state->id[0]);
}

static void cleaner_1(void *arg) {
    struct state *state = arg;
    pnx__thread(); /* so that it may go the short way */
    state->rc[1] = pnx_registry_cleanup(state->registry, state->id[0]);
}

static void end_registry(struct state *state) {
    pnx__registry_check(state->registry);
    pnx_registry_release(&state->registry);
}

/* ---- claims ---- */

static void one_has_won(void *arg) {
    struct state *state = arg;
    int won = 0;
    for (int i = 0; i < 3; i++)
        won += state->rc[i] == 0;
    CHECK_EQ(won, 1);
    CHECK_EQ(state->runs, state->rc[2] != 0);
    CHECK_EQ(pnx__shard_rows_locked(&state->registry->shard[pnx__shard_of(state->id[0])]), 0);
    end_registry(state);
}

/* Only reads what came of it, so that it is no race with a cleanup that has not begun when the removal was first. */
static void remover_of_claims(void *arg) {
    struct state *state = arg;
    state->rc[2] = pnx_registry_remove(state->registry, state->id[0]);
    CHECK(state->rc[2] == 0 || state->rc[2] == -EALREADY);
    CHECK_EQ(x_cell_read(&state->inside), state->rc[2] != 0);
}

TEST_LIMIT(p1_one_of_two_cleanups_and_a_removal_wins, 120) {
    x_explore(&(struct x_test){.name = "registry-claims",
            .size = sizeof(struct state),
            .setup = one_row,
            .thread = {cleaner_0, cleaner_1, remover_of_claims},
            .final = one_has_won,
            .floor = 1000});
}

static void guard_row(void *arg) {
    struct state *state = arg;
    make_registry(state);
    CHECK_EQ(pnx_guard_arm(&state->guard, end_row, state), 0);
    CHECK_EQ(pnx_guard_track(&state->guard, state->registry, PNX_RESOURCE(.type = "row"), NULL), 0);
    state->id[0] = pnx_guard_id(&state->guard);
}

static void guard_runner(void *arg) {
    struct state *state = arg;
    state->rc[0] = pnx_guard_run(&state->guard);
    CHECK(state->rc[0] == 0 || state->rc[0] == -EALREADY);
}

TEST_LIMIT(p1_a_guard_a_cleanup_and_a_removal, 120) {
    x_explore(&(struct x_test){.name = "registry-guard",
            .size = sizeof(struct state),
            .setup = guard_row,
            .thread = {guard_runner, cleaner_1, remover_of_claims},
            .final = one_has_won,
            .preemptions = 2,
            .floor = 1000});
}

/* ---- second releases ---- */

static void releaser(struct state *state, unsigned i) {
    if (i)
        pnx__thread(); /* so that it may go the short way */
    state->rc[i] = pnx_registry_remove(state->registry, state->id[0]);
}

static void releaser_0(void *state) {
    releaser(state, 0);
}
static void releaser_1(void *state) {
    releaser(state, 1);
}
static void releaser_2(void *state) {
    releaser(state, 2);
}

static void two_were_too_many(void *arg) {
    struct state *state = arg;
    int first = 0, second = 0;
    for (int i = 0; i < 3; i++) {
        first += state->rc[i] == 0;
        second += state->rc[i] == -EALREADY;
    }
    CHECK_EQ(first, 1);
    CHECK_EQ(second, 2);
    CHECK_EQ(state->registry->values.misuses.v, 2);
    CHECK_EQ(state->runs, 0);
    end_registry(state);
}

TEST_LIMIT(a_second_release_is_always_noticed, 120) {
    x_explore(&(struct x_test){.name = "registry-twice",
            .size = sizeof(struct state),
            .setup = one_row,
            .thread = {releaser_0, releaser_1, releaser_2},
            .final = two_were_too_many,
            .floor = 150});
}

/* ---- waiting ---- */

/* Both removals wait for the cleanup if they meet it; what they do afterwards is after it. */
static void waited_final(void *arg) {
    struct state *state = arg;
    int removed = (state->rc[1] == 0) + (state->rc[2] == 0);
    CHECK_EQ(removed + (state->rc[0] == 0), 1);
    end_registry(state);
}

static void waiter_1(void *arg) {
    struct state *state = arg;
    state->rc[1] = pnx_registry_remove(state->registry, state->id[0]);
    CHECK(state->rc[1] == 0 || state->rc[1] == -EALREADY);
    /* Either the cleanup has ended, or it has never run: nobody else writes this. */
    CHECK_EQ(x_cell_read(&state->inside), state->runs);
}

static void waiter_2(void *arg) {
    struct state *state = arg;
    state->rc[2] = pnx_registry_remove(state->registry, state->id[0]);
    CHECK(state->rc[2] == 0 || state->rc[2] == -EALREADY);
    CHECK_EQ(x_cell_read(&state->inside), state->runs);
}

TEST_LIMIT(p2_removals_return_when_the_running_cleanup_has_ended, 120) {
    x_explore(&(struct x_test){.name = "registry-wait",
            .size = sizeof(struct state),
            .setup = one_row,
            .thread = {cleaner_0, waiter_1, waiter_2},
            .final = waited_final,
            .floor = 1000});
}

/* Cleanups of rows 0 and 1 that each remove the other's row. */
static int remove_other(void *arg, const struct pnx_cancel *cancel) {
    pnx_resource_id *other = arg;
    (void)cancel;
    struct pnx_registry *registry;
    memcpy(&registry, other + ROWS, sizeof(registry));
    int rc = pnx_registry_remove(registry, *other);
    CHECK(rc == 0 || rc == -EALREADY || rc == -EDEADLK);
    return rc == -EDEADLK ? rc : 0;
}

struct ring {
    pnx_resource_id id[ROWS];            /* of the next one in the ring */
    struct pnx_registry *registry[ROWS]; /* ROWS words behind each id */
    pnx_resource_id own[ROWS];
    int rc[ROWS];
};

static void make_ring(void *arg) {
    struct ring *ring = arg;
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(
                     PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL, &registry),
            0);
    for (int i = 0; i < ROWS; i++) {
        ring->registry[i] = registry;
        CHECK_EQ(pnx_registry_add(registry,
                         PNX_RESOURCE(.type = "row", .cleanup = remove_other, .arg = &ring->id[i]),
                         NULL, &ring->own[i]),
                0);
    }
    for (int i = 0; i < ROWS; i++)
        ring->id[i] = ring->own[(i + 1) % ROWS];
}

static void run_ring(struct ring *ring, unsigned i) {
    ring->rc[i] = pnx_registry_cleanup(ring->registry[i], ring->own[i]);
    CHECK(ring->rc[i] == 0 || ring->rc[i] == -EDEADLK || ring->rc[i] == -EALREADY);
}

static void ring_0(void *ring) {
    run_ring(ring, 0);
}
static void ring_1(void *ring) {
    run_ring(ring, 1);
}
static void ring_2(void *ring) {
    run_ring(ring, 2);
}

static void ring_final(void *arg) {
    struct ring *ring = arg;
    int refused = 0;
    for (int i = 0; i < ROWS; i++)
        refused += ring->rc[i] == -EDEADLK;
    CHECK(refused <= 1);
    struct pnx_registry *registry = ring->registry[0];
    pnx__registry_check(registry);
    pnx_registry_release(&registry); /* no row is left to keep it */
}

TEST_LIMIT(p1_a_ring_of_waits_is_refused_once_and_nobody_hangs, 300) {
    x_explore(&(struct x_test){.name = "registry-ring",
            .size = sizeof(struct ring),
            .setup = make_ring,
            .thread = {ring_0, ring_1, ring_2},
            .final = ring_final,
            .preemptions = 2,
            .floor = 1000});
}

/* ---- not now ---- */

static void again_row(void *arg) {
    struct state *state = arg;
    one_row(state);
    state->again_first = true;
}

static void again_final(void *arg) {
    struct state *state = arg;
    CHECK(state->runs <= 2);
    CHECK(state->rc[0] == 0 || state->rc[0] == -EAGAIN || state->rc[0] == -EALREADY);
    int ended = (state->rc[0] == 0) + (state->rc[1] == 0) + (state->rc[2] == 0);
    CHECK(ended <= 1);
    struct pnx_shard *shard = &state->registry->shard[pnx__shard_of(state->id[0])];
    CHECK_EQ(pnx__shard_rows_locked(shard), 1 - ended);
    if (!ended)
        CHECK_EQ(pnx_registry_cleanup(state->registry, state->id[0]), 0);
    end_registry(state);
}

TEST_LIMIT(a_row_whose_cleanup_says_not_now_is_anybodys_again, 120) {
    x_explore(&(struct x_test){.name = "registry-again",
            .size = sizeof(struct state),
            .setup = again_row,
            .thread = {cleaner_0, cleaner_1, waiter_2},
            .final = again_final,
            .preemptions = 2,
            .floor = 1000});
}

static void again_guard(void *arg) {
    struct state *state = arg;
    guard_row(state);
    state->again_first = true;
}

static void guard_dropper(void *arg) {
    struct state *state = arg;
    pnx_guard_drop(&state->guard);
}

static void guard_dropped(void *arg) {
    struct state *state = arg;
    struct pnx_shard *shard = &state->registry->shard[pnx__shard_of(state->id[0])];
    uint64_t left = pnx__shard_rows_locked(shard);
    CHECK(left == 0 || state->runs == 1); /* whoever said "not now" last leaves it live */
    if (left)
        CHECK_EQ(pnx_registry_cleanup(state->registry, state->id[0]), 0);
    CHECK_EQ(state->runs, 2); /* nothing is lost */
    end_registry(state);
}

TEST_LIMIT(a_guard_dropped_beside_a_cleanup_that_says_not_now_loses_nothing, 120) {
    x_explore(&(struct x_test){.name = "registry-again-guard",
            .size = sizeof(struct state),
            .setup = again_guard,
            .thread = {guard_dropper, cleaner_1},
            .final = guard_dropped,
            .floor = 100});
}

/* ---- later ---- */

static void pending_row(void *arg) {
    struct state *state = arg;
    one_row(state);
    state->pends = true;
}

static void tell(void *ctx, int code) {
    struct state *state = ctx;
    state->told_code = code;
    x_cell_write(&state->inside, x_cell_read(&state->inside) + 1); /* after the completer's */
    pnx_fetch_add(&state->told, 1, PNX_RELAXED, "registry_suite.told");
}

static void runner(void *arg) {
    struct state *state = arg;
    bool claimed;
    pnx__request_init(&state->request, NULL, PNX_NEVER);
    state->request.pended = tell;
    state->request.ctx = state;
    state->rc[0] = pnx__registry_run(state->registry, state->id[0], &state->request, &claimed);
    if (!claimed)
        pnx_store(&state->ready, 2, PNX_RELEASE, "registry_suite.none"); /* registry_suite.wait */
    else if (state->rc[0] != -EINPROGRESS)
        CHECK_EQ(x_cell_read(&state->inside), 2);
}

static void completer(void *arg) {
    struct state *state = arg;
    wait_ready(state);
    if (pnx_load(&state->ready, PNX_ACQUIRE, "registry_suite.which") == 2)
        return; /* it was removed before */
    x_cell_write(&state->inside, x_cell_read(&state->inside) + 1);
    struct pnx_completion copy = state->completion;
    CHECK_EQ(pnx_completion_done(&copy, state->code), 0);
    copy = state->completion;
    CHECK_EQ(pnx_completion_done(&copy, 0), -EALREADY);
}

static void pending_remover(void *arg) {
    struct state *state = arg;
    state->rc[1] = pnx_registry_remove(state->registry, state->id[0]);
}

static void pending_final(void *arg) {
    struct state *state = arg;
    uint32_t told = pnx_load(&state->told, PNX_RELAXED, "registry_suite.was_told");
    if (state->rc[0] == -EINPROGRESS) {
        CHECK_EQ(told, 1);
        CHECK_EQ(state->told_code, state->code);
    } else {
        CHECK_EQ(told, 0);
        CHECK(state->rc[0] == state->code || state->rc[1] == 0);
    }
    CHECK(state->rc[1] == 0 || state->rc[1] == -EALREADY || state->rc[1] == -EINPROGRESS);
    end_registry(state);
}

TEST_LIMIT(a_pending_cleanup_is_completed_once_by_another_thread, 300) {
    x_explore(&(struct x_test){.name = "registry-pending",
            .size = sizeof(struct state),
            .setup = pending_row,
            .thread = {runner, completer, pending_remover},
            .final = pending_final,
            .preemptions = 2,
            .floor = 1000});
}

/* ---- abandoned ---- */

/* As a shutdown does at its deadline (resource/shutdown.c). */
static bool abandon(struct pnx_registry *registry, pnx_resource_id id) {
    struct pnx_row *row = pnx__row_find(registry, id);
    (void)pnx__row_ask(registry, id);
    struct pnx_shard *shard = pnx__row_lock(registry, id);
    uint64_t word = pnx__row_word(row);
    bool runs = pnx__word_id(word) == id && (pnx__word_state(word) == PNX_ROW_RUNNING ||
                                                    pnx__word_state(word) == PNX_ROW_PENDING);
    if (runs)
        pnx__row_move_locked(row, id, PNX_ROW_ABANDONED);
    pnx__unlock(&shard->lock);
    return runs;
}

static void abandoner(void *arg) {
    struct state *state = arg;
    state->rc[3] = abandon(state->registry, state->id[0]);
}

static void abandoned_final(void *arg) {
    struct state *state = arg;
    CHECK_EQ((state->rc[0] == 0) + (state->rc[1] == 0), 1);
    CHECK(!state->rc[3] || state->runs == 1);
    end_registry(state);
}

TEST_LIMIT(an_abandoned_cleanup_is_waited_for_and_ends_late, 120) {
    x_explore(&(struct x_test){.name = "registry-abandon",
            .size = sizeof(struct state),
            .setup = one_row,
            .thread = {cleaner_0, waiter_1, abandoner},
            .final = abandoned_final,
            .floor = 1000});
}

static void pending_abandoned_final(void *arg) {
    struct state *state = arg;
    uint32_t told = pnx_load(&state->told, PNX_RELAXED, "registry_suite.abandoned_told");
    CHECK_EQ(told, state->rc[0] == -EINPROGRESS);
    end_registry(state);
}

TEST_LIMIT(a_pending_cleanup_may_be_abandoned_and_completed, 120) {
    x_explore(&(struct x_test){.name = "registry-abandon-pending",
            .size = sizeof(struct state),
            .setup = pending_row,
            .thread = {runner, completer, abandoner},
            .final = pending_abandoned_final,
            .preemptions = 2,
            .floor = 500});
}

/* ---- the registry's life ---- */

static void two_rows(void *arg) {
    struct state *state = arg;
    make_registry(state);
    add_row(state, 0);
    add_row(state, 1);
    state->code = -EIO; /* an event is told while nothing else may keep the registry */
}

static void holder(void *arg) {
    struct state *state = arg;
    struct pnx_registry *registry = state->registry;
    pnx_registry_release(&registry);
}

static void last_remover(void *arg) {
    struct state *state = arg;
    pnx__thread(); /* so that it may go the short way */
    CHECK_EQ(pnx_registry_remove(state->registry, state->id[1]), 0);
}

static void last_cleaner(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_registry_cleanup(state->registry, state->id[0]), -EIO);
}

TEST_LIMIT(p2_whoever_is_last_frees_the_registry, 120) {
    x_explore(&(struct x_test){.name = "registry-life",
            .size = sizeof(struct state),
            .setup = two_rows,
            .thread = {holder, last_remover, last_cleaner},
            .preemptions = 2,
            .floor = 1000});
}

/* ---- adding ---- */

static void no_rows(void *arg) {
    make_registry(arg);
}

static void adder(struct state *state, unsigned i, const char *name) {
    CHECK_EQ(pnx_registry_add(state->registry,
                     PNX_RESOURCE(.type = "row", .name = name, .tag = name ? i : 0), NULL,
                     &state->id[i]),
            0);
}

static void adder_0(void *state) {
    adder(state, 0, NULL);
}
static void adder_1(void *state) {
    adder(state, 1, "one");
}

static void added_final(void *arg) {
    struct state *state = arg;
    pnx__registry_check(state->registry);
    for (unsigned i = 0; i < 2; i++) {
        struct pnx_resource_info info;
        CHECK_EQ(pnx_registry_info(state->registry, state->id[i], &info), 0);
        CHECK_EQ(info.tag, i);
        CHECK_STR(info.name, i ? "one" : "");
        CHECK_EQ(pnx_registry_remove(state->registry, state->id[i]), 0);
    }
    end_registry(state);
}

TEST_LIMIT(the_first_rows_of_two_threads, 120) {
    x_explore(&(struct x_test){.name = "registry-first",
            .size = sizeof(struct state),
            .setup = no_rows,
            .thread = {adder_0, adder_1},
            .final = added_final,
            .preemptions = 2,
            .stale = 1,
            .floor = 500});
}

/* Both labels in one chunk: they add to the same shard. */
static void same_shard(void *arg) {
    struct state *state = arg;
    pnx__thread()->shard = 5;
    adder(state, x_self() - 1, "x");
    CHECK_EQ(pnx_registry_remove(state->registry, state->id[x_self() - 1]), 0);
}

static void warm(void *arg) {
    struct state *state = arg;
    make_registry(state);
    adder(state, 0, NULL);
    CHECK_EQ(pnx_registry_remove(state->registry, state->id[0]), 0);
}

static void nothing_left(void *arg) {
    end_registry(arg);
}

TEST_LIMIT(the_first_labels_of_a_chunk, 120) {
    x_explore(&(struct x_test){.name = "registry-labels",
            .size = sizeof(struct state),
            .setup = warm,
            .thread = {same_shard, same_shard},
            .final = nothing_left,
            .floor = 500});
}

/* ---- order ---- */

static uint64_t serial_of(struct state *state, unsigned i) {
    return pnx__row_serial(pnx__row_find(state->registry, state->id[i]));
}

static void first_of_two(void *arg) {
    struct state *state = arg;
    adder(state, 0, NULL);
    pnx_store(&state->ready, 1, PNX_RELEASE, "registry_suite.first"); /* registry_suite.wait */
}

static void second_of_two(void *arg) {
    struct state *state = arg;
    wait_ready(state);
    adder(state, 1, NULL);
}

static void bystander(void *arg) {
    struct state *state = arg;
    pnx_resource_id id;
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pnx_registry_add(state->registry, PNX_RESOURCE(.type = "row"), NULL, &id), 0);
        CHECK_EQ(pnx_registry_remove(state->registry, id), 0);
    }
}

static void ordered_final(void *arg) {
    struct state *state = arg;
    CHECK(serial_of(state, 0) < serial_of(state, 1));
    CHECK_EQ(pnx_registry_remove(state->registry, state->id[0]), 0);
    CHECK_EQ(pnx_registry_remove(state->registry, state->id[1]), 0);
    end_registry(state);
}

/* Every thread has had blocks of serials before, so that there are some to go on with. */
static void with_blocks(void *arg) {
    struct state *state = arg;
    make_registry(state);
    for (uint32_t shard = 1; shard <= 3; shard++) {
        pnx__thread()->shard = shard;
        for (int i = 0; i < 4; i++)
            bystander(state);
    }
}

TEST_LIMIT(what_is_added_later_has_a_later_number, 300) {
    x_explore(&(struct x_test){.name = "registry-order",
            .size = sizeof(struct state),
            .setup = with_blocks,
            .thread = {first_of_two, second_of_two, bystander},
            .final = ordered_final,
            .preemptions = 2,
            .floor = 1000});
}

static void parent_adder(void *arg) {
    struct state *state = arg;
    adder(state, 0, NULL);
    /* Relaxed: it is the registry that orders a child behind its parent. */
    pnx_store(&state->shared_id, state->id[0], PNX_RELAXED, "registry_suite.parent");
}

static void child_adder(void *arg) {
    struct state *state = arg;
    uint64_t parent;
    while (!(parent = pnx_load(&state->shared_id, PNX_RELAXED, "registry_suite.child")))
        pnx__spin_hint();
    /* It may not be seen to be live yet. */
    int rc = pnx_registry_add(
            state->registry, PNX_RESOURCE(.type = "row", .parent = parent), NULL, &state->id[1]);
    CHECK(rc == 0 || rc == -EINVAL);
    if (rc)
        adder(state, 1, NULL);
    state->rc[1] = rc;
}

static void child_final(void *arg) {
    struct state *state = arg;
    if (state->rc[1] == 0)
        CHECK(serial_of(state, 0) < serial_of(state, 1));
    CHECK_EQ(pnx_registry_remove(state->registry, state->id[0]), 0);
    CHECK_EQ(pnx_registry_remove(state->registry, state->id[1]), 0);
    end_registry(state);
}

TEST_LIMIT(a_child_has_a_later_number_than_its_parent, 300) {
    x_explore(&(struct x_test){.name = "registry-parent",
            .size = sizeof(struct state),
            .setup = with_blocks,
            .thread = {parent_adder, child_adder, bystander},
            .final = child_final,
            .preemptions = 2,
            .floor = 1000});
}

/* ---- shutdown: exhaustive only, since at random its workers come and go more often than the explorer has threads ---- */

static void shutter(void *arg) {
    struct state *state = arg;
    struct pnx_shutdown_report *report;
    state->rc[3] = pnx_registry_shutdown(state->registry, PNX_NEVER, &report);
    CHECK(state->rc[3] == 0 || state->rc[3] == -EAGAIN);
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.abandoned + counts.leaked, 0);
    pnx_shutdown_report_release(&report);
}

static void shut_final(void *arg) {
    struct state *state = arg;
    CHECK_EQ(state->runs + (state->rc[1] == 0), 1);
    CHECK_EQ(x_cell_read(&state->inside), state->runs);
    CHECK_EQ(pnx__shard_rows_locked(&state->registry->shard[pnx__shard_of(state->id[0])]), 0);
    end_registry(state);
}

TEST_LIMIT(p1_a_shutdown_beside_a_removal, 300) {
    x_explore(&(struct x_test){.name = "registry-shutdown",
            .size = sizeof(struct state),
            .setup = one_row,
            .thread = {shutter, waiter_1},
            .final = shut_final,
            .preemptions = 2,
            .stale = 1,
            .random = X_NONE,
            .floor = 500});
}

static void shut_guard_final(void *arg) {
    struct state *state = arg;
    state->rc[1] = -EALREADY;
    shut_final(arg);
}

TEST_LIMIT(p1_a_shutdown_beside_a_guard_and_a_cleanup, 300) {
    x_explore(&(struct x_test){.name = "registry-shutdown-guard",
            .size = sizeof(struct state),
            .setup = guard_row,
            .thread = {shutter, guard_runner, cleaner_1},
            .final = shut_guard_final,
            .preemptions = 1,
            .stale = 1,
            .random = X_NONE,
            .floor = 500});
}

/* ---- limits ---- */

static void at_most_one(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_registry_create(
                     PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off(), .max = 1), NULL,
                     &state->registry),
            0);
}

static void one_at_a_time(void *arg) {
    struct state *state = arg;
    pnx_resource_id id;
    int rc = pnx_registry_add(state->registry, PNX_RESOURCE(.type = "row"), NULL, &id);
    CHECK(rc == 0 || rc == -EBUSY);
    if (rc)
        return;
    CHECK_EQ(pnx_fetch_add(&state->ready, 1, PNX_RELAXED, "registry_suite.one"), 0);
    pnx_fetch_sub(&state->ready, 1, PNX_RELAXED, "registry_suite.none_left");
    CHECK_EQ(pnx_registry_remove(state->registry, id), 0);
}

TEST_LIMIT(at_most_max_rows_are_there, 120) {
    x_explore(&(struct x_test){.name = "registry-max",
            .size = sizeof(struct state),
            .setup = at_most_one,
            .thread = {one_at_a_time, one_at_a_time},
            .final = nothing_left,
            .preemptions = 2,
            .floor = 500});
}
