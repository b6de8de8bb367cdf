/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fault.c - scopes, poison, and the table of ranges: readers against a file that is cut, the handler of other
 * readers, the end of a mapping, and one that is suspended.
 *
 * A page is a word: DATA, then LOST when the file is cut, then ZERO when a handler has replaced it.  Who touches a lost one
 * calls what the signal handler would call, on the thread itself.
 */
#include "explorer/explorer.h"
#include "explorer/pages.h"
#include "mapping/fault.h"
#include "os/ranges.h"

#include <errno.h>

enum { DATA, LOST, ZERO };

#define PAGE  4096u
#define LOWER ((unsigned char *)0x10000) /* never touched: only compared */
#define UPPER ((unsigned char *)0x20000)

struct state {
    struct pnx_fault_record record, other;
    struct pnx_a64 page;
    struct pnx_aptr published; /* the record, for who holds no reference */
    struct pnx_a32 told;
    struct x_cell memory; /* the bytes of a mapping that is unmapped, or moved */
    struct pnx_a32 ended;
};

static struct pnx_a64 *replaced; /* the state's page: which setup tells */

static void zero(uintptr_t from, size_t n) {
    CHECK(from >= (uintptr_t)LOWER && from + n <= (uintptr_t)LOWER + PAGE);
    /* What the system's mapping does at least: it comes after all that its caller did before a release fence. */
    pnx_store(replaced, ZERO, PNX_RELAXED, "fault_suite.zero");
}

static struct pnx_mapping *mapping_of(struct pnx_fault_record *record) {
    return (struct pnx_mapping *)(void *)record;
}

static struct pnx_fault_pages pages_at(unsigned char *base, uint32_t flags) {
    return (struct pnx_fault_pages){
            .base = base, .base_size = PAGE, .data = base, .size = PAGE, .fd = -1, .flags = flags};
}

static void set_up(void *arg) {
    struct state *state = arg;
    struct pnx_fault_pages pages = pages_at(LOWER, 0);
    x_zero = zero;
    replaced = &state->page;
    CHECK_EQ(pnx__fault_register(&state->record, &pages), 0);
    pages = pages_at(UPPER, 0);
    CHECK_EQ(pnx__fault_register(&state->other, &pages), 0);
}

static void ignore(struct pnx_fault_record *record) {
    (void)record;
}

static void clean_up(void *arg) {
    struct state *state = arg;
    struct pnx_fault_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_fault_read_stats(&stats), 0);
    pnx__fault_retire(&state->record, ignore);
    pnx__fault_retire(&state->other, ignore);
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    CHECK_EQ(pnx__ranges(), 0);
}

/* A load, and what the machine and the system do when it faults. */
static uint64_t touch(struct state *state) {
    for (;;) {
        uint64_t page = pnx_load(&state->page, PNX_RELAXED, "fault_suite.touch");
        if (page != LOST)
            return page;
        struct pnx_os_fault fault = {.address = (uintptr_t)LOWER + 5};
        CHECK(pnx_fault_handle(0, &fault, NULL));
    }
}

/* ---- p1, p2, p3 ---- */

static void reads(void *arg) {
    struct state *state = arg;
    struct pnx_fault_scope scope;
    if (pnx_fault_begin(mapping_of(&state->record), &scope))
        return;
    uint64_t first = touch(state), second = touch(state);
    CHECK(second >= first);
    int rc = pnx_fault_end(&scope);
    CHECK(rc == 0 || rc == -EIO);
    CHECK(rc || second == DATA);
}

/* The scopes end in the order in which they began: the first one is not the innermost then. */
static void reads_around_another(void *arg) {
    struct state *state = arg;
    struct pnx_fault_scope outer, inner;
    int rc = pnx_fault_begin(mapping_of(&state->record), &outer);
    CHECK_EQ(pnx_fault_begin(mapping_of(&state->other), &inner), 0);
    if (rc == 0) {
        uint64_t page = touch(state);
        rc = pnx_fault_end(&outer);
        CHECK(rc == 0 || rc == -EIO);
        CHECK(rc || page == DATA);
    } else {
        CHECK_EQ(rc, -EIO);
    }
    CHECK_EQ(pnx_fault_end(&inner), 0);
}

static void cuts(void *arg) {
    struct state *state = arg;
    pnx_store(&state->page, LOST, PNX_RELAXED, "fault_suite.cut");
}

static uint32_t preemptions(void) {
    return test_long() ? 3 : 2;
}

TEST(no_scope_that_has_read_replaced_pages_ends_well) {
    x_explore(&(struct x_test){.name = "readers",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {reads, reads, cuts},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 1000});
}

TEST(nested_scopes_tell_of_their_own_mapping_only) {
    x_explore(&(struct x_test){.name = "nested",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {reads, reads_around_another, cuts},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 1000});
}

static int nothing(void *ctx) {
    (void)ctx;
    return 0;
}

static void fails_and_tells(void *arg) {
    struct state *state = arg;
    struct pnx_fault_scope scope;
    pnx_store(&state->page, LOST, PNX_RELAXED, "fault_suite.cut_here");
    CHECK_EQ(pnx_fault_begin(mapping_of(&state->record), &scope), 0);
    CHECK_EQ(touch(state), ZERO);
    CHECK_EQ(pnx_fault_end_checked(&scope), -EIO);
    pnx_store(&state->told, 1, PNX_RELEASE, "fault_suite.tell");
}

static void begins_later(void *arg) {
    struct state *state = arg;
    struct pnx_fault_scope scope;
    uint64_t lost = 1;
    bool told = pnx_load(&state->told, PNX_ACQUIRE, "fault_suite.told") != 0;
    int rc = pnx_fault_begin(mapping_of(&state->record), &scope);
    CHECK(!told || rc == -EIO);
    if (rc == 0)
        rc = pnx_fault_end(&scope);
    rc = pnx_fault_run(mapping_of(&state->record), nothing, NULL);
    CHECK(!told || rc == -EIO);
    rc = pnx__fault_poison(&state->record, &lost);
    CHECK(!told || rc == -EIO);
    CHECK_EQ(pnx_fault_run(mapping_of(&state->other), nothing, NULL), 0);
}

TEST(poison_sticks) {
    x_explore(&(struct x_test){.name = "sticky",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {fails_and_tells, begins_later, begins_later},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 100});
}

/* ---- p4: the end of a mapping ---- */

static void unmaps(struct pnx_fault_record *record) {
    struct state *state = PNX_CONTAINER(record, struct state, record);
    x_cell_write(&state->memory, 99); /* a race with any scope that is left */
    pnx_fetch_add(&state->ended, 1, PNX_RELAXED, "fault_suite.ended");
    CHECK(!pnx__range_find((uintptr_t)LOWER) ||
            pnx__range_find((uintptr_t)LOWER) == (void *)&state->other);
}

static void set_up_published(void *arg) {
    struct state *state = arg;
    set_up(arg);
    x_cell_write(&state->memory, 7);
    pnx_store(&state->published, &state->record, PNX_RELEASE, "fault_suite.publish");
}

/* A section of the default domain keeps the mapping until the scope does. */
static void borrows(void *arg) {
    struct state *state = arg;
    struct pnx_fault_scope scope;
    pnx_reclaim_enter(NULL);
    struct pnx_fault_record *record =
            pnx_load(&state->published, PNX_ACQUIRE, "fault_suite.borrow");
    int rc = record ? pnx_fault_begin(mapping_of(record), &scope) : -ENOENT;
    pnx_reclaim_exit(NULL);
    if (rc)
        return;
    CHECK_EQ(x_cell_read(&state->memory), 7);
    CHECK(pnx__range_find((uintptr_t)LOWER + 3) == record);
    CHECK_EQ(pnx_fault_end(&scope), 0);
}

static void drops(void *arg) {
    struct state *state = arg;
    pnx_store(&state->published, NULL, PNX_RELEASE, "fault_suite.unpublish");
    CHECK_EQ(pnx_reclaim_synchronize(NULL, PNX_NEVER), 0);
    pnx__fault_retire(&state->record, unmaps);
}

static void clean_up_dropped(void *arg) {
    struct state *state = arg;
    pnx__fault_retire(&state->other, ignore);
    CHECK_EQ(pnx_fault_tick(0), PNX_NEVER);
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    CHECK_EQ(state->ended.v, 1);
}

TEST(a_mapping_ends_when_no_scope_is_left_on_it) {
    x_explore(&(struct x_test){.name = "retire",
            .size = sizeof(struct state),
            .setup = set_up_published,
            .thread = {borrows, drops},
            .final = clean_up_dropped,
            .preemptions = preemptions(),
            .stale = 1,
            .floor = 100});
}

TEST(a_mapping_ends_when_no_scope_is_left_on_it_with_fences) {
    x_explore(&(struct x_test){.name = "retire_fenced",
            .size = sizeof(struct state),
            .setup = set_up_published,
            .thread = {borrows, drops},
            .final = clean_up_dropped,
            .preemptions = preemptions(),
            .stale = 1,
            .fences = true,
            .floor = 100});
}

/* ---- suspending ---- */

static void looks_at_pages(void *arg) {
    struct state *state = arg;
    struct pnx_fault_scope scope;
    for (int i = 0; i < 2; i++) {
        int rc = pnx_fault_begin(mapping_of(&state->record), &scope);
        CHECK(rc == 0 || rc == -EBUSY);
        if (rc)
            continue;
        /* The pages are those that the record says. */
        bool moved = state->record.head.data == UPPER + PAGE;
        CHECK_EQ(x_cell_read(&state->memory), moved ? 8 : 7);
        CHECK_EQ(pnx_fault_end(&scope), 0);
    }
}

static void moves(void *arg) {
    struct state *state = arg;
    struct pnx_fault_pages pages = pages_at(UPPER + PAGE, 0);
    CHECK_EQ(pnx__fault_suspend(&state->record, PNX_NEVER), 0);
    CHECK(!pnx__range_find((uintptr_t)LOWER));
    x_cell_write(&state->memory, 8);
    CHECK_EQ(pnx__fault_resume(&state->record, &pages), 0);
    CHECK(pnx__range_find((uintptr_t)UPPER + PAGE + 7) == &state->record);
}

TEST(suspended_pages_belong_to_who_has_suspended_them) {
    x_explore(&(struct x_test){.name = "suspend",
            .size = sizeof(struct state),
            .setup = set_up_published,
            .thread = {looks_at_pages, moves},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 100});
}

TEST(suspended_pages_belong_to_who_has_suspended_them_with_fences) {
    x_explore(&(struct x_test){.name = "suspend_fenced",
            .size = sizeof(struct state),
            .setup = set_up_published,
            .thread = {looks_at_pages, moves},
            .final = clean_up,
            .preemptions = preemptions(),
            .fences = true,
            .floor = 100});
}

/* ---- the handler comes and goes ---- */

static void uninstalls(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    CHECK_EQ(pnx_fault_check(), -EAGAIN);
}

static void scopes_while_it_goes(void *arg) {
    struct state *state = arg;
    struct pnx_fault_scope scope;
    int rc = pnx_fault_begin(mapping_of(&state->other), &scope);
    CHECK(rc == 0 || rc == -EBUSY);
    if (rc)
        return;
    CHECK_EQ(pnx_fault_check(), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
}

static void set_up_installed(void *arg) {
    set_up(arg);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), 0);
}

static void uninstalls_installed(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
}

TEST(nobody_is_in_a_scope_when_the_handler_goes) {
    x_explore(&(struct x_test){.name = "uninstall",
            .size = sizeof(struct state),
            .setup = set_up_installed,
            .thread = {scopes_while_it_goes, uninstalls_installed},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 100});
}

static void set_up_alone(void *arg) {
    set_up_installed(arg);
    uninstalls(arg);
}

TEST(the_first_scopes_install_the_handler) {
    x_explore(&(struct x_test){.name = "install",
            .size = sizeof(struct state),
            .setup = set_up_alone,
            .thread = {scopes_while_it_goes, scopes_while_it_goes},
            .final = clean_up,
            .preemptions = preemptions(),
            .floor = 20});
}

/* ---- the table ---- */

struct table {
    struct pnx_range *range[4];
    struct pnx_a32 told;
    uint64_t owner[4]; /* 1 when it may be found; written before it is added */
};

static void add(struct table *table, unsigned i, uintptr_t from) {
    table->owner[i] = i + 1;
    CHECK_EQ(pnx__range_add(from, from + 10, &table->owner[i], &table->range[i]), 0);
}

static void set_up_table(void *arg) {
    struct table *table = arg;
    add(table, 0, 100);
}

static void replaces_range(void *arg) {
    struct table *table = arg;
    pnx__range_remove(&table->range[0]);
    add(table, 1, 200); /* in the same place */
    pnx_store(&table->told, 1, PNX_RELEASE, "fault_suite.added");
}

static void looks_for_range(void *arg) {
    struct table *table = arg;
    bool told = pnx_load(&table->told, PNX_ACQUIRE, "fault_suite.look_added") != 0;
    const uint64_t *second = pnx__range_find(205);
    CHECK(!second || (second == &table->owner[1] && *second == 2));
    CHECK(!told || second);
    const uint64_t *first = pnx__range_find(105);
    CHECK(!first || first == &table->owner[0]);
    CHECK(!told || !first);
}

static void clean_up_table(void *arg) {
    struct table *table = arg;
    for (int i = 0; i < 4; i++)
        pnx__range_remove(&table->range[i]);
    CHECK_EQ(pnx__ranges(), 0);
}

TEST(a_place_that_is_used_again_is_never_found_with_anothers_owner) {
    x_explore(&(struct x_test){.name = "reuse",
            .size = sizeof(struct table),
            .setup = set_up_table,
            .thread = {replaces_range, looks_for_range},
            .final = clean_up_table,
            .floor = 100});
}

static void moves_range(void *arg) {
    struct table *table = arg;
    pnx__range_move(table->range[0], 200, 300);
    pnx__range_move(table->range[0], 300, 310);
}

static void looks_for_moved(void *arg) {
    struct table *table = arg;
    const uint64_t *mixed = pnx__range_find(150); /* in a mixture of two places only */
    CHECK(!mixed);
    const uint64_t *old = pnx__range_find(105);
    CHECK(!old || old == &table->owner[0]);
}

TEST(a_range_that_moves_is_never_in_two_places_at_once) {
    x_explore(&(struct x_test){.name = "move",
            .size = sizeof(struct table),
            .setup = set_up_table,
            .thread = {moves_range, looks_for_moved},
            .final = clean_up_table,
            .floor = 100});
}

static void adds_second(void *arg) {
    add(arg, 1, 200);
    CHECK(pnx__range_find(203));
}

static void adds_third(void *arg) {
    add(arg, 2, 300);
    CHECK(pnx__range_find(303));
}

static void looks_for_all(void *arg) {
    struct table *table = arg;
    for (unsigned i = 1; i < 3; i++) {
        const uint64_t *owner = pnx__range_find(i * 100 + 105);
        CHECK(!owner || (owner == &table->owner[i] && *owner == i + 1));
    }
}

/* The first chunk has room for two, so one of them needs another; chunks stay for good. */
TEST(two_that_add_at_once_get_places_of_their_own) {
    x_explore(&(struct x_test){.name = "grow",
            .size = sizeof(struct table),
            .setup = set_up_table,
            .thread = {adds_second, adds_third, looks_for_all},
            .final = clean_up_table,
            .preemptions = preemptions(),
            .leaks = true,
            .floor = 100});
}
