/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_snapshot.c - snapshots: every way to read against writers and the freeing of what they replaced; waiting;
 * watches.
 *
 * A value's number is ten times its version, in a race-checked cell that its drop overwrites.
 */
#include "explorer/explorer.h"
#include "share/reclaim.h"
#include "share/snapshot.h"

#include <patinox/watch.h>

#include <errno.h>
#include <poll.h>
#include <unistd.h>

struct value {
    struct x_cell number;
};

static void value_drop(void *ctx, void *object) {
    (void)ctx;
    x_cell_write(&((struct value *)object)->number, 0); /* a race with any reader that is left */
}

static int value_clone(void *ctx, const void *object, void *ret_copy) {
    (void)ctx;
    uint64_t number = x_cell_read(&((const struct value *)object)->number);
    x_cell_write(&((struct value *)ret_copy)->number, number);
    return 0;
}

static struct pnx_rc_type value_type =
        PNX_RC_TYPE(struct value, .clone = value_clone, .drop = value_drop);

#define SPARE 4
struct state {
    struct pnx_snapshot *cell;
    struct pnx_snapshot *other; /* a handle of another thread's */
    void *value[SPARE];         /* of versions 2, 3, ..., made in advance */
    struct pnx_watch *watch;
    struct pnx_a64 announced; /* a version that is known to be published */
    struct pnx_a32 succeeded;
    struct x_cell told;    /* by a callback: the version; its calls are ordered */
    struct x_cell running; /* likewise */
};

static void *make(uint64_t number) {
    void *value = NULL;
    CHECK_EQ(pnx_rc_new(&value_type, NULL, &value), 0);
    x_cell_write(&((struct value *)value)->number, number);
    return value;
}

static void set_up_with(struct state *state, uint32_t history_depth) {
    value_type.env = x_env();
    (void)pnx_reclaim_default();
    void *first = make(10);
    CHECK_EQ(pnx_snapshot_create(first,
                     PNX_SNAPSHOT_OPTS(.env = x_env(), .registry = pnx_registry_off(),
                             .stats = pnx_stats_off(), .history_depth = history_depth,
                             .write_timeout_ns = PNX_NEVER),
                     NULL, &state->cell),
            0);
    pnx_rc_unref(first);
    for (unsigned i = 0; i < SPARE; i++)
        state->value[i] = make(10 * (i + 2));
    pnx_store(&state->announced, 1, PNX_RELAXED, "snapshot_suite.first");
}

static void set_up(void *state) {
    set_up_with(state, 0);
}

static void set_up_history(void *state) {
    set_up_with(state, 1);
}

static void clean_up(void *arg) {
    struct state *state = arg;
    pnx_watch_release(&state->watch);
    pnx_snapshot_release(&state->cell);
    for (unsigned i = 0; i < SPARE; i++)
        pnx_rc_unref(state->value[i]);
    CHECK_EQ(pnx_reclaim_close(NULL, PNX_NEVER), 0);
}

static uint64_t number_of(const void *value) {
    return x_cell_read(&((const struct value *)value)->number);
}

/* Lets go of what can be let go, as a write does that comes alone. */
static void drain(void) {
    if (pnx_reclaim_synchronize(NULL, 0) == 0)
        pnx__reclaim_run(pnx__reclaim_resolve(NULL), UINT64_MAX, false);
}

/* The ordinary run looks less far; the bounds of the long one take minutes. */
static uint32_t preemptions(void) {
    return test_long() ? 3 : 2;
}

/* ---- reading ---- */

static uint64_t load(struct state *state) {
    uint64_t version;
    const void *value = pnx_snapshot_load(state->cell, &version);
    CHECK_EQ(number_of(value), 10 * version);
    pnx_rc_unref(value);
    return version;
}

static void load_once(void *state) {
    (void)load(state);
}

static void load_twice(void *state) {
    uint64_t version = load(state);
    CHECK(load(state) >= version);
}

static void peek_and_load(void *arg) {
    struct state *state = arg;
    uint64_t version;
    pnx_reclaim_enter(NULL);
    const void *value = pnx_snapshot_peek(state->cell, &version);
    CHECK_EQ(number_of(value), 10 * version);
    pnx_reclaim_exit(NULL);
    CHECK(pnx_snapshot_version(state->cell) >= version);
}

/* What was announced before is what it gets, or something newer; and never older than a load before. */
static void by_reader(void *arg) {
    struct state *state = arg;
    struct pnx_snapshot_reader reader;
    pnx_snapshot_reader_init(&reader, state->cell);
    uint64_t last = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t announced = pnx_load(&state->announced, PNX_ACQUIRE, "snapshot_suite.look");
        const void *value = pnx_snapshot_reader_get(&reader);
        uint64_t version = pnx_snapshot_reader_version(&reader);
        CHECK_EQ(number_of(value), 10 * version);
        CHECK(version >= announced && version >= last);
        last = version;
    }
    pnx_snapshot_reader_release(&reader);
    CHECK(pnx_snapshot_reader_get(&reader) == NULL);
}

static void load_then_reader(void *arg) {
    struct state *state = arg;
    struct pnx_snapshot_reader reader;
    pnx_snapshot_reader_init(&reader, state->cell);
    (void)pnx_snapshot_reader_get(&reader);
    uint64_t version = load(state);
    (void)pnx_snapshot_reader_get(&reader);
    CHECK(pnx_snapshot_reader_version(&reader) >= version);
    pnx_snapshot_reader_sweep(&reader);
    pnx_snapshot_reader_release(&reader);
}

static void store_next(struct state *state, unsigned i) {
    CHECK_EQ(pnx_snapshot_give(state->cell, &state->value[i], NULL, NULL), 0);
    pnx_store(&state->announced, i + 2, PNX_RELEASE, "snapshot_suite.announce"); /* .look */
}

static void store_and_drain(void *arg) {
    struct state *state = arg;
    store_next(state, 0);
    drain();
}

/* The second one uses the node of the first version again, if nobody has pinned it. */
static void store_drain_store(void *arg) {
    struct state *state = arg;
    store_next(state, 0);
    drain();
    store_next(state, 1);
    drain();
    store_next(state, 2);
}

TEST_LIMIT(p1_loads_against_a_store_and_the_freeing, 600) {
    x_explore(&(struct x_test){.name = "snapshot-load",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {load_once, load_once, store_and_drain},
            .final = clean_up,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

TEST_LIMIT(p1_versions_never_go_back, 600) {
    x_explore(&(struct x_test){.name = "snapshot-order",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {load_twice, store_drain_store},
            .final = clean_up,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

TEST_LIMIT(p1_peeks_against_a_store_and_the_freeing, 600) {
    x_explore(&(struct x_test){.name = "snapshot-peek",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {peek_and_load, peek_and_load, store_and_drain},
            .final = clean_up,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

TEST_LIMIT(p6_a_reader_keeps_its_value_and_misses_no_version, 600) {
    x_explore(&(struct x_test){.name = "snapshot-reader",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {by_reader, store_drain_store},
            .final = clean_up,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

TEST_LIMIT(p6_readers_share_what_they_keep, 600) {
    x_explore(&(struct x_test){.name = "snapshot-readers",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {load_then_reader, load_then_reader, store_and_drain},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

/* ---- the end ---- */

static void set_up_two_handles(void *arg) {
    struct state *state = arg;
    set_up(arg);
    state->other = pnx_snapshot_ref(state->cell);
}

static void store_and_release(void *arg) {
    struct state *state = arg;
    store_next(state, 0);
    pnx_snapshot_release(&state->cell);
}

static void release_other(void *arg) {
    struct state *state = arg;
    pnx_snapshot_release(&state->other);
}

static void drain_twice(void *arg) {
    (void)arg;
    drain();
    drain();
}

TEST_LIMIT(p2_the_end_of_a_cell_beside_the_freeing_of_its_values, 600) {
    x_explore(&(struct x_test){.name = "snapshot-end",
            .size = sizeof(struct state),
            .setup = set_up_two_handles,
            .thread = {store_and_release, release_other, drain_twice},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 500});
}

/* ---- writing ---- */

static int add_ten(void *ctx, void *object) {
    struct value *value = object;
    (void)ctx;
    x_cell_write(&value->number, x_cell_read(&value->number) + 10);
    return 0;
}

static void update(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_snapshot_update(state->cell, add_ten, NULL, NULL, NULL), 0);
}

static void updated_twice(void *arg) {
    struct state *state = arg;
    CHECK_EQ(load(state), 3);
    clean_up(arg);
}

TEST_LIMIT(p3_no_update_is_lost, 600) {
    x_explore(&(struct x_test){.name = "snapshot-update",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {update, update, load_once},
            .final = updated_twice,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

static void store_if_first(void *arg) {
    struct state *state = arg;
    int rc = pnx_snapshot_store_if(state->cell, 1, state->value[0], NULL, NULL);
    CHECK(rc == 0 || rc == PNX_E_CONFLICT);
    if (rc == 0)
        pnx_fetch_add(&state->succeeded, 1, PNX_RELAXED, "snapshot_suite.succeeded");
    drain();
}

static void one_succeeded(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_load(&state->succeeded, PNX_RELAXED, "snapshot_suite.one"), 1);
    CHECK_EQ(load(state), 2);
    clean_up(arg);
}

TEST_LIMIT(p3_one_of_two_that_expect_the_same_version_succeeds, 600) {
    x_explore(&(struct x_test){.name = "snapshot-store-if",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {store_if_first, store_if_first, load_once},
            .final = one_succeeded,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

/* ---- history ---- */

static void store_twice(void *arg) {
    struct state *state = arg;
    store_next(state, 0);
    store_next(state, 1);
}

static void look_back(void *arg) {
    struct state *state = arg;
    const void *value = NULL;
    uint64_t version = load(state);
    int rc = pnx_snapshot_load_past(state->cell, version, &value);
    if (rc == 0) {
        CHECK_EQ(number_of(value), 10 * version);
        pnx_rc_unref(value);
    } else {
        CHECK_EQ(rc, -ENOENT);
        CHECK(version == 1 && pnx_snapshot_version(state->cell) == 3); /* has been forgotten */
    }
}

TEST_LIMIT(p7_a_version_is_found_until_the_history_forgets_it, 600) {
    x_explore(&(struct x_test){.name = "snapshot-history",
            .size = sizeof(struct state),
            .setup = set_up_history,
            .thread = {look_back, store_twice, look_back},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

/* ---- waiting ---- */

static void wait_for_two(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_snapshot_wait(state->cell, 1, PNX_NEVER), 0);
    CHECK(load(state) >= 2);
}

static void wait_for_three(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_snapshot_wait(state->cell, 2, PNX_NEVER), 0);
    CHECK(load(state) >= 3);
}

TEST_LIMIT(p5_waiters_miss_nothing, 600) {
    x_explore(&(struct x_test){.name = "snapshot-wait",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {wait_for_two, wait_for_three, store_twice},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

static void wait_or_closed(void *arg) {
    struct state *state = arg;
    int rc = pnx_snapshot_wait(state->cell, 1, PNX_NEVER);
    CHECK(rc == 0 || rc == -ESHUTDOWN);
    if (rc == 0)
        CHECK(load(state) >= 2);
    else
        CHECK_EQ(x_cell_read(&state->told), 7); /* what the one who closed did before is visible */
}

static void store_unless_closed(void *arg) {
    struct state *state = arg;
    int rc = pnx_snapshot_store(state->cell, state->value[0], NULL, NULL);
    CHECK(rc == 0 || rc == -ESHUTDOWN);
    if (rc)
        CHECK_EQ(x_cell_read(&state->told), 7);
}

static void close_cell(void *arg) {
    struct state *state = arg;
    x_cell_write(&state->told, 7);
    pnx_snapshot_close(state->cell);
}

TEST_LIMIT(p5_a_close_wakes_who_waits, 600) {
    x_explore(&(struct x_test){.name = "snapshot-close",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {wait_or_closed, store_unless_closed, close_cell},
            .final = clean_up,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

/* ---- watches ---- */

static struct state *now; /* of this execution, for callbacks */

static void changed(void *ctx, const void *value, uint64_t version) {
    (void)ctx;
    CHECK_EQ(x_cell_read(&now->running), 0);
    x_cell_write(&now->running, 1);
    CHECK_EQ(number_of(value), 10 * version);
    CHECK(version > x_cell_read(&now->told));
    x_cell_write(&now->told, version);
    x_cell_write(&now->running, 0);
}

static void open_watch(struct state *state, pnx_watch_fn *fn) {
    CHECK_EQ(pnx_watch_open(state->cell, PNX_WATCH_OPTS(.changed = fn), NULL, &state->watch), 0);
}

static void set_up_called(void *arg) {
    set_up(arg);
    now = arg;
    open_watch(arg, changed);
}

static void set_up_waiting(void *arg) {
    set_up(arg);
    open_watch(arg, NULL);
}

static void store_once(void *arg) {
    struct state *state = arg;
    uint64_t version;
    CHECK_EQ(pnx_snapshot_update(state->cell, add_ten, NULL, NULL, &version), 0);
}

static void told_the_last(void *arg) {
    struct state *state = arg;
    CHECK_EQ(x_cell_read(&state->told), 3);
    clean_up(arg);
}

TEST_LIMIT(watch_p1_the_last_version_is_told, 600) {
    x_explore(&(struct x_test){.name = "watch-callback",
            .size = sizeof(struct state),
            .setup = set_up_called,
            .thread = {store_once, store_once},
            .final = told_the_last,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

/* After a cancel that returned 0 the callback is not running: or this write would be a race with its own. */
static void cancel(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_watch_cancel(state->watch), 0);
    CHECK_EQ(x_cell_read(&state->running), 0);
    x_cell_write(&state->running, 0);
    x_cell_write(&state->told, 99);
}

TEST_LIMIT(watch_p4_after_a_cancel_nothing_runs, 600) {
    x_explore(&(struct x_test){.name = "watch-cancel",
            .size = sizeof(struct state),
            .setup = set_up_called,
            .thread = {store_once, store_once, cancel},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

static void take_all(void *arg) {
    struct state *state = arg;
    uint64_t last = 1;
    while (last < 3) {
        const void *value = NULL;
        uint64_t version;
        CHECK_EQ(pnx_watch_wait(state->watch, PNX_NEVER, &value, &version), 0);
        CHECK(version > last);
        CHECK_EQ(number_of(value), 10 * version);
        pnx_rc_unref(value);
        last = version;
    }
}

TEST_LIMIT(watch_p1_who_waits_gets_the_last_version, 600) {
    x_explore(&(struct x_test){.name = "watch-wait",
            .size = sizeof(struct state),
            .setup = set_up_waiting,
            .thread = {take_all, store_once, store_once},
            .final = clean_up,
            .preemptions = 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

static void wait_for_end(void *arg) {
    struct state *state = arg;
    int rc;
    do
        rc = pnx_watch_wait(state->watch, PNX_NEVER, NULL, NULL);
    while (rc == 0);
    CHECK_EQ(rc, -ECANCELED);
}

static void cancel_only(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_watch_cancel(state->watch), 0);
}

TEST_LIMIT(watch_p4_a_cancel_wakes_who_waits, 600) {
    x_explore(&(struct x_test){.name = "watch-cancel-wait",
            .size = sizeof(struct state),
            .setup = set_up_waiting,
            .thread = {wait_for_end, store_once, cancel_only},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

/*
 * The descriptor is readable while there is something to tell.  It is the kernel's and no place of the explorer's: what an
 * execution that was given up left open is closed by the next one.
 */
static int descriptor = -1;

static void set_up_polled_with(void *arg, pnx_watch_fn *fn, uint32_t flags) {
    struct state *state = arg;
    set_up(arg);
    now = arg;
    if (descriptor >= 0)
        (void)close(descriptor);
    CHECK_EQ(pnx_watch_open(state->cell, PNX_WATCH_OPTS(.changed = fn, .flags = flags), NULL,
                     &state->watch),
            0);
    descriptor = pnx_watch_fd(state->watch);
    CHECK(descriptor >= 0);
    store_next(state, 0); /* it is set, so that what comes now finds it so */
}

static void set_up_polled(void *arg) {
    set_up_polled_with(arg, NULL, 0);
}

static void set_up_ticked(void *arg) {
    set_up_polled_with(arg, changed, PNX_WATCH_TICK);
}

static bool is_readable(void) {
    struct pollfd polled = {.fd = descriptor, .events = POLLIN};
    return poll(&polled, 1, 0) == 1;
}

static void read_once(void *arg) {
    struct state *state = arg;
    int rc = pnx_watch_read(state->watch, NULL, NULL);
    CHECK(rc == 0 || rc == -EAGAIN || rc == -ESHUTDOWN || rc == -ECANCELED);
}

static void tick_once(void *arg) {
    struct state *state = arg;
    int rc = pnx_watch_tick(state->watch);
    CHECK(rc == 0 || rc == 1 || rc == -ESHUTDOWN || rc == -ECANCELED);
}

static void store_one_more(void *arg) {
    struct state *state = arg;
    int rc = pnx_snapshot_give(state->cell, &state->value[1], NULL, NULL);
    CHECK(rc == 0 || rc == -ESHUTDOWN);
}

static void close_only(void *arg) {
    struct state *state = arg;
    pnx_snapshot_close(state->cell);
}

/* What a read, or a tick, says now: the descriptor had to say that there is something. */
static void told_by_the_descriptor(void *arg, int (*look)(struct pnx_watch *watch)) {
    struct state *state = arg;
    bool readable = is_readable();
    int rc = look(state->watch);
    CHECK(readable || rc == -EAGAIN);
    if (rc < 0 && rc != -EAGAIN)
        CHECK(is_readable()); /* of the end for good */
    clean_up(arg);
    descriptor = -1;
}

static int look_by_read(struct pnx_watch *watch) {
    return pnx_watch_read(watch, NULL, NULL);
}

static int look_by_tick(struct pnx_watch *watch) {
    int rc = pnx_watch_tick(watch);
    return rc == 0 ? -EAGAIN : rc;
}

static void told_by_read(void *arg) {
    told_by_the_descriptor(arg, look_by_read);
}

static void told_by_tick(void *arg) {
    told_by_the_descriptor(arg, look_by_tick);
}

TEST_LIMIT(watch_p1_the_descriptor_misses_no_version, 600) {
    x_explore(&(struct x_test){.name = "watch-fd",
            .size = sizeof(struct state),
            .setup = set_up_polled,
            .thread = {read_once, store_one_more, load_once},
            .final = told_by_read,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 500});
}

TEST_LIMIT(watch_p1_the_descriptor_misses_no_end, 600) {
    x_explore(&(struct x_test){.name = "watch-fd-end",
            .size = sizeof(struct state),
            .setup = set_up_polled,
            .thread = {read_once, close_only, load_once},
            .final = told_by_read,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 500});
}

TEST_LIMIT(watch_p1_the_descriptor_of_one_that_ticks_misses_nothing, 600) {
    x_explore(&(struct x_test){.name = "watch-fd-tick",
            .size = sizeof(struct state),
            .setup = set_up_ticked,
            .thread = {tick_once, store_one_more, close_only},
            .final = told_by_tick,
            .preemptions = preemptions(),
            .random = test_long() ? 20000 : 2000,
            .floor = 500});
}

/* A watch that is opened beside a writer: the version is known at the opening, or told. */
static void open_and_release(void *arg) {
    struct state *state = arg;
    struct pnx_watch *watch = NULL;
    CHECK_EQ(pnx_watch_open(state->cell, NULL, NULL, &watch), 0);
    int rc = pnx_watch_read(watch, NULL, NULL);
    CHECK(rc == 0 || rc == -EAGAIN);
    if (rc == -EAGAIN)
        (void)load(state);
    pnx_watch_release(&watch);
}

static void open_and_wait(void *arg) {
    struct state *state = arg;
    uint64_t version = pnx_snapshot_version(state->cell);
    struct pnx_watch *watch = NULL;
    CHECK_EQ(pnx_watch_open(state->cell, PNX_WATCH_OPTS(.seen = version), NULL, &watch), 0);
    if (version < 2) {
        CHECK_EQ(pnx_watch_wait(watch, PNX_NEVER, NULL, &version), 0);
        CHECK_EQ(version, 2);
    }
    pnx_watch_release(&watch);
}

TEST_LIMIT(watch_p1_one_that_is_opened_beside_a_writer_misses_nothing, 600) {
    x_explore(&(struct x_test){.name = "watch-open",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {open_and_wait, open_and_release, store_once},
            .final = clean_up,
            .preemptions = 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 1000});
}

static void set_up_now(void *arg) {
    set_up(arg);
    now = arg;
}

static void open_called(void *arg) {
    struct state *state = arg;
    (void)load(state); /* joins the domain first, which orders more than the opening may need */
    CHECK_EQ(pnx_watch_open(state->cell, PNX_WATCH_OPTS(.changed = changed, .seen = 1), NULL,
                     &state->watch),
            0);
}

static void told_two(void *arg) {
    struct state *state = arg;
    CHECK_EQ(x_cell_read(&state->told), 2); /* by the one who opened, or by the writer */
    clean_up(arg);
}

TEST_LIMIT(watch_p1_a_callback_that_comes_beside_a_writer_is_told, 600) {
    x_explore(&(struct x_test){.name = "watch-open-called",
            .size = sizeof(struct state),
            .setup = set_up_now,
            .thread = {open_called, store_once, load_once},
            .final = told_two,
            .preemptions = preemptions() - 1,
            .random = test_long() ? 20000 : 2000,
            .floor = 500});
}
