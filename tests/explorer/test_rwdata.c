/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_rwdata.c - the lock of an rwdata: readers, writers, downgrades, deadlines, a close, poison.
 *
 * The value is two cells that say the same number under any guard.  Guards are not checked, so that the inline
 * ways are taken, unless a test says so; nobody spins, unless a test says so.
 */
#include "explorer/explorer.h"
#include "share/rwdata.h"

#include <errno.h>

/* The bound of most tests: one of them is always explored to 3, the others in ./test --long. */
static uint32_t preemptions(void) {
    return test_long() ? 3 : 2;
}

struct value {
    struct x_cell a, b;
};

struct state {
    struct pnx_rwdata *rwdata;
    struct pnx_a32 turn;
    struct pnx_rwdata_read_guard reader;
    struct pnx_rwdata_write_guard writer;
    struct pnx_a32 written; /* writes that were done, or given up */
    bool child;             /* of a fork: who waits may be told that it is for nobody */
};

static const struct pnx_rc_type type = PNX_RC_TYPE(struct value);

static void make(struct state *state, uint32_t flags, uint32_t pauses) {
    CHECK_EQ(pnx_rwdata_create(&type, NULL,
                     PNX_RWDATA_OPTS(.env = x_env(), .registry = pnx_registry_off(),
                             .stats = pnx_stats_off(), .budget = pnx_budget_off(), .flags = flags),
                     NULL, &state->rwdata),
            0);
    state->rwdata->pauses = pauses;
}

static void set_up(void *arg) {
    make(arg, PNX_RWDATA_NO_CHECK, 0);
}

static void set_up_spinning(void *arg) {
    make(arg, PNX_RWDATA_NO_CHECK, 1);
}

static void set_up_checked(void *arg) {
    make(arg, PNX_RWDATA_CHECK, 0);
}

/* Nobody is in, nobody waits, no write was lost. */
static void clean_up(void *arg) {
    struct state *state = arg;
    uint64_t word = pnx__rwdata_check(state->rwdata);
    CHECK_EQ(word & ~PNX_RWDATA_SPECIAL_, 0);
    struct value *value = state->rwdata->value;
    CHECK_EQ(x_cell_read(&value->a), pnx_load(&state->written, PNX_RELAXED, "rwdata_suite.count"));
    pnx_rwdata_release(&state->rwdata);
}

static void look(const void *object) {
    const struct value *value = object;
    CHECK_EQ(x_cell_read(&value->a), x_cell_read(&value->b));
}

static void change(struct state *state, void *object) {
    struct value *value = object;
    uint64_t next = x_cell_read(&value->a) + 1;
    x_cell_write(&value->a, next);
    CHECK_EQ(x_cell_read(&value->b) + 1, next);
    x_cell_write(&value->b, next);
    pnx_fetch_add(&state->written, 1, PNX_RELAXED, "rwdata_suite.written");
}

static void check_refusal(const struct state *state, int rc, pnx_ns timeout) {
    CHECK(rc == -ESHUTDOWN || (rc == -EBUSY && timeout == 0) ||
            (rc == -ETIMEDOUT && timeout != PNX_NEVER) || (rc == PNX_E_BROKEN && state->child));
}

static void read_with(struct state *state, pnx_ns timeout) {
    struct pnx_rwdata_read_guard guard = {0};
    int rc = pnx_rwdata_read(state->rwdata, timeout, NULL, &guard);
    if (rc == 0)
        look(guard.value);
    else
        check_refusal(state, rc, timeout);
    pnx_rwdata_read_end(&guard);
}

static void write_with(struct state *state, pnx_ns timeout) {
    struct pnx_rwdata_write_guard guard = {0};
    int rc = pnx_rwdata_write(state->rwdata, timeout, NULL, &guard);
    if (rc == 0)
        change(state, guard.value);
    else
        check_refusal(state, rc, timeout);
    pnx_rwdata_write_end(&guard);
}

static void reads(void *arg) {
    read_with(arg, PNX_NEVER);
}

static void writes(void *arg) {
    write_with(arg, PNX_NEVER);
}

static void reads_in_time(void *arg) {
    read_with(arg, PNX_MS);
}

static void writes_in_time(void *arg) {
    write_with(arg, PNX_MS);
}

static void tries_to_write(void *arg) {
    write_with(arg, 0);
}

static void writes_twice(void *arg) {
    writes(arg);
    writes(arg);
}

static void writes_and_reads(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata_write_guard writer = {0};
    struct pnx_rwdata_read_guard reader = {0};
    CHECK_EQ(pnx_rwdata_write(state->rwdata, PNX_NEVER, NULL, &writer), 0);
    change(state, writer.value);
    uint64_t mine = x_cell_read(&((struct value *)writer.value)->a);
    CHECK_EQ(pnx_rwdata_downgrade(&writer, &reader), 0);
    look(reader.value);
    CHECK_EQ(x_cell_read(&((const struct value *)reader.value)->a), mine); /* no writer between */
    pnx_rwdata_read_end(&reader);
}

static void closes(void *arg) {
    struct state *state = arg;
    pnx_rwdata_close(state->rwdata);
}

TEST(a_writer_is_alone) {
    x_explore(&(struct x_test){.name = "alone",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes, writes, reads},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 1000});
}

TEST(readers_come_in_together_and_all_are_woken) {
    x_explore(&(struct x_test){.name = "together",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes, reads, reads},
            .final = clean_up,
            .floor = 1000});
}

TEST(four_in_the_queue) {
    x_explore(&(struct x_test){.name = "four",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes, reads, writes, reads},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

TEST(a_downgrade_leaves_no_gap_and_lets_readers_in) {
    x_explore(&(struct x_test){.name = "downgrade",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes_and_reads, writes, reads},
            .final = clean_up,
            .preemptions = preemptions(),
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

TEST(who_passes_the_first_in_the_queue_wakes_him) {
    x_explore(&(struct x_test){.name = "passed",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes_twice, writes, tries_to_write},
            .final = clean_up,
            .preemptions = preemptions(),
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

TEST(who_gives_up_keeps_nobody_waiting) {
    x_explore(&(struct x_test){.name = "deadline",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {reads, writes_in_time, reads},
            .final = clean_up,
            .timeouts = test_long() ? 2 : 1,
            .preemptions = preemptions(),
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

TEST(who_is_let_in_at_his_deadline_is_in) {
    x_explore(&(struct x_test){.name = "admitted",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes, reads_in_time, reads_in_time},
            .final = clean_up,
            .timeouts = 1,
            .preemptions = preemptions(),
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

TEST(a_close_ends_all_waits) {
    x_explore(&(struct x_test){.name = "close",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes, reads, closes},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 1000});
}

TEST(spinning_changes_nothing) {
    x_explore(&(struct x_test){.name = "spinning",
            .size = sizeof(struct state),
            .setup = set_up_spinning,
            .thread = {writes, reads, writes},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 1000});
}

TEST(wakes_for_nothing_change_nothing) {
    x_explore(&(struct x_test){.name = "spurious",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {writes, reads, writes},
            .final = clean_up,
            .spurious = 1,
            .preemptions = preemptions() - 1,
            .floor = 1000});
}

/* ---- poison ---- */

static void leaves_half_done(void *arg) {
    struct state *state = arg;
    PNX_AUTO_RWDATA_WRITE guard = {0};
    CHECK_EQ(pnx_rwdata_write(state->rwdata, PNX_NEVER, NULL, &guard), 0);
    pnx_rwdata_arm(&guard);
    struct value *value = guard.value;
    x_cell_write(&value->a, x_cell_read(&value->a) + 1);
}

static void reads_or_finds_it_broken(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata_read_guard guard = {0};
    int rc = pnx_rwdata_read(state->rwdata, PNX_NEVER, NULL, &guard);
    CHECK(rc == 0 || rc == PNX_E_BROKEN);
    int poison = pnx_rwdata_poisoned(state->rwdata);
    CHECK(poison == 0 || poison == -ECANCELED);
    if (rc == 0)
        look(guard.value);
    pnx_rwdata_read_end(&guard);
}

static void repairs(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata_write_guard guard = {0};
    CHECK_EQ(pnx_rwdata_repair(state->rwdata, PNX_NEVER, NULL, &guard), 0);
    struct value *value = guard.value;
    x_cell_write(&value->b, x_cell_read(&value->a));
    pnx_rwdata_clear(&guard);
    pnx_rwdata_write_end(&guard);
}

static void clean_up_poisoned(void *arg) {
    struct state *state = arg;
    repairs(state);
    CHECK_EQ(pnx__rwdata_check(state->rwdata), 0);
    pnx_rwdata_release(&state->rwdata);
}

TEST(nobody_sees_a_half_done_change) {
    x_explore(&(struct x_test){.name = "poison",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {leaves_half_done, reads_or_finds_it_broken, repairs},
            .final = clean_up_poisoned,
            .preemptions = preemptions(),
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

/* ---- checked guards ---- */

static void ends_with_a_read_guard(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata_read_guard guard = {0};
    CHECK_EQ(pnx_rwdata_read(state->rwdata, PNX_NEVER, NULL, &guard), 0);
    look(guard.value);
    struct pnx_thread *self = pnx__thread();
    self->rwdata_end(self); /* as at a thread's end */
}

TEST(a_guard_left_behind_ends) {
    x_explore(&(struct x_test){.name = "left",
            .size = sizeof(struct state),
            .setup = set_up_checked,
            .thread = {ends_with_a_read_guard, writes, reads},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .floor = 1000});
}

static void await(struct pnx_a32 *word, uint32_t value) {
    while (pnx_load(word, PNX_ACQUIRE, "rwdata_suite.await") != value) /* with .step */
        pnx__spin_hint();
}

static void step(struct pnx_a32 *word, uint32_t value) {
    pnx_store(word, value, PNX_RELEASE, "rwdata_suite.step"); /* with .await */
}

static void has_guards_ended(void *arg) {
    struct state *state = arg;
    CHECK_EQ(pnx_rwdata_read(state->rwdata, PNX_NEVER, NULL, &state->reader), 0);
    step(&state->turn, 1);
    await(&state->turn, 2);
    CHECK_EQ(pnx_rwdata_write(state->rwdata, PNX_NEVER, NULL, &state->writer), -EDEADLK);
    struct pnx_thread *self = pnx__thread();
    self->rwdata_end(self); /* as at a thread's end: not its guard any more */
    CHECK_EQ(pnx_rwdata_write(state->rwdata, PNX_NEVER, NULL, &state->writer), 0);
    step(&state->turn, 3);
    await(&state->turn, 4);
    self->rwdata_end(self);
}

static void ends_guards_of_another(void *arg) {
    struct state *state = arg;
    await(&state->turn, 1);
    pnx_rwdata_read_end(&state->reader);
    step(&state->turn, 2);
    await(&state->turn, 3);
    change(state, state->writer.value);
    pnx_rwdata_write_end(&state->writer);
    step(&state->turn, 4);
}

TEST(a_guard_that_another_thread_ends_ends_once) {
    x_explore(&(struct x_test){.name = "elsewhere",
            .size = sizeof(struct state),
            .setup = set_up_checked,
            .thread = {has_guards_ended, ends_guards_of_another, writes},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .stale = test_long() ? 1 : X_NONE,
            .floor = 100});
}

/* ---- references ---- */

static void writes_and_releases(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata *rwdata = state->rwdata;
    struct pnx_rwdata_write_guard guard = {0};
    CHECK_EQ(pnx_rwdata_write(rwdata, PNX_NEVER, NULL, &guard), 0);
    change(state, guard.value);
    pnx_rwdata_write_end(&guard);
    pnx_rwdata_release(&rwdata);
}

static void reads_and_releases(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata *rwdata = state->rwdata;
    struct pnx_rwdata_read_guard guard = {0};
    CHECK_EQ(pnx_rwdata_read(rwdata, PNX_NEVER, NULL, &guard), 0);
    look(guard.value);
    pnx_rwdata_read_end(&guard);
    pnx_rwdata_release(&rwdata);
}

static void set_up_for_three(void *arg) {
    struct state *state = arg;
    set_up(arg);
    (void)pnx_rwdata_ref(state->rwdata);
    (void)pnx_rwdata_ref(state->rwdata);
}

TEST(the_last_reference_frees_after_all_guards) {
    x_explore(&(struct x_test){.name = "references",
            .size = sizeof(struct state),
            .setup = set_up_for_three,
            .thread = {writes_and_releases, reads_and_releases, reads_and_releases},
            .preemptions = preemptions(),
            .floor = 1000});
}

static void ends_twice(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata_read_guard guard = {0}, copy;
    CHECK_EQ(pnx_rwdata_read(state->rwdata, PNX_NEVER, NULL, &guard), 0);
    copy = guard;
    pnx_rwdata_read_end(&guard);
    pnx_rwdata_read_end(&copy);
}

TEST(an_end_too_many_is_taken_back) {
    x_explore(&(struct x_test){.name = "twice",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {ends_twice},
            .final = clean_up,
            .floor = 1});
}

/* ---- forked children: nothing forks here, but the generation may say so ---- */

static void set_up_child(void *arg) {
    struct state *state = arg;
    set_up(arg);
    state->child = true;
    pnx_store(&state->rwdata->generation, 77, PNX_RELAXED, "rwdata_suite.fork");
}

TEST(one_thread_of_a_child_sets_up_the_queue) {
    x_explore(&(struct x_test){.name = "child",
            .size = sizeof(struct state),
            .setup = set_up_child,
            .thread = {writes, reads, writes},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

/* A writer of the parent was in, and another waited. */
static void set_up_child_of_writer(void *arg) {
    struct state *state = arg;
    set_up_child(arg);
    pnx_store(&state->rwdata->word, UINT64_C(99) << 16 | PNX_RWDATA_WRITER_ | PNX_RWDATA_QUEUED_,
            PNX_RELAXED, "rwdata_suite.ghost");
}

static void finds_a_writer_of_the_parent(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata_read_guard reader = {0};
    struct pnx_rwdata_write_guard writer = {0};
    CHECK_EQ(pnx_rwdata_read(state->rwdata, PNX_NEVER, NULL, &reader), PNX_E_BROKEN);
    CHECK_EQ(pnx_rwdata_repair(state->rwdata, PNX_NEVER, NULL, &writer), 0);
    CHECK_EQ(pnx_rwdata_poisoned(state->rwdata), -ECANCELED);
    pnx_rwdata_clear(&writer);
    pnx_rwdata_write_end(&writer);
    writes(arg);
}

static void leaves_alone(void *arg) {
    (void)arg;
}

TEST(a_child_takes_over_from_a_writer_of_its_parent) {
    x_explore(&(struct x_test){.name = "ghost",
            .size = sizeof(struct state),
            .setup = set_up_child_of_writer,
            .thread = {finds_a_writer_of_the_parent, leaves_alone},
            .final = clean_up,
            .floor = 1});
}

/* A reader of the parent was in, and goes: not a ghost, but the thread that forked. */
static void set_up_child_of_reader(void *arg) {
    struct state *state = arg;
    set_up_child(arg);
    pnx_store(&state->rwdata->word, PNX_RWDATA_READER_, PNX_RELAXED, "rwdata_suite.reader");
}

static void ends_inherited_guard(void *arg) {
    struct state *state = arg;
    struct pnx_rwdata_read_guard guard = {state->rwdata->value, state->rwdata};
    look(guard.value);
    pnx_rwdata_read_end(&guard);
}

TEST(a_child_waits_for_a_guard_of_the_thread_that_forked) {
    x_explore(&(struct x_test){.name = "forker",
            .size = sizeof(struct state),
            .setup = set_up_child_of_reader,
            .thread = {ends_inherited_guard, writes, reads},
            .final = clean_up,
            .preemptions = preemptions() - 1,
            .stale = test_long() ? 2 : 1,
            .floor = 1000});
}

static void releases(void *arg) {
    struct state *state = arg;
    pnx_rwdata_release(&state->rwdata);
}

/* Kept for guards of the parent that may still be used. */
TEST(a_child_does_not_free_what_guards_of_its_parent_keep) {
    x_explore(&(struct x_test){.name = "kept",
            .size = sizeof(struct state),
            .setup = set_up_child_of_reader,
            .thread = {releases},
            .leaks = true,
            .floor = 1});
}
