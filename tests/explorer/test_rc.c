/* SPDX-License-Identifier: Apache-2.0 */
/* test_rc.c - rc under every interleaving: dropped once, freed once, unique exactly, never resurrected. */
#include "explorer/explorer.h"
#include "share/rc.h"

#include <patinox/budget.h>
#include <patinox/rc.h>
#include <patinox/registry.h>

#include <string.h>

/* What the tests share; each uses what it needs.  The cells outside of the object are never freed. */
struct state {
    struct thing *thing, *kept[3];
    struct pnx_weak weak[3];
    struct pnx_a32 drops, copies, hooks, late;
    struct pnx_rc_drop_node node[3];
    struct pnx_rc_tally *tally;
};
static struct state *now; /* of this execution; set by each set-up */

struct thing {
    struct x_cell data;  /* written by who is alone, read by holders, written by drop */
    struct x_cell by[4]; /* one for each thread: written by it while it holds, read by drop */
    struct pnx_weak self;
};

static uint32_t get(const struct pnx_a32 *word) {
    return pnx_load(word, PNX_RELAXED, "test_rc.get");
}
static void add(struct pnx_a32 *word) {
    pnx_fetch_add(word, 1, PNX_RELAXED, "test_rc.add");
}

static void thing_drop(void *ctx, void *object) {
    struct thing *thing = object;
    (void)ctx;
    add(&now->drops);
    for (int i = 0; i < 4; i++)
        x_cell_write(&thing->by[i], 99); /* all that holders did comes before */
    x_cell_write(&thing->data, 99);
    pnx_weak_release(&thing->self);
}

static int thing_clone(void *ctx, const void *object, void *ret_copy) {
    const struct thing *from = object;
    struct thing *to = ret_copy;
    (void)ctx;
    add(&now->copies);
    x_cell_write(&to->data, x_cell_read(&from->data));
    return 0;
}

static struct pnx_rc_tally *tally_of_things;
static struct pnx_rc_type thing_type = PNX_RC_TYPE(
        struct thing, .clone = thing_clone, .drop = thing_drop, .tally = &tally_of_things);
PNX_RC_DEFINE(thing, struct thing, thing_type)

static void begin(void *state) {
    now = state;
    tally_of_things = NULL;
    thing_type.flags = 0;
}

static void make(struct state *s, int more) {
    CHECK_EQ(thing_new(NULL, &s->thing), 0);
    while (more-- > 0)
        (void)thing_ref(s->thing);
}

static void use(struct thing *thing) {
    CHECK(x_cell_read(&thing->data) < 99); /* not dropped */
    x_cell_write(&thing->by[x_self()], 1);
}

static void dropped_once(void *state) {
    struct state *s = state;
    CHECK_EQ(get(&s->drops), 1);
    CHECK_EQ(pnx_rc_saturated(), 0);
}

/* ---- P1: references ---- */

static void three_holders(void *state) {
    begin(state);
    make(state, 2);
}

static void use_and_unref(void *state) {
    struct state *s = state;
    use(s->thing);
    pnx_rc_unref(s->thing);
}

static void churn(void *state) {
    struct state *s = state;
    struct thing *again = thing_ref(s->thing);
    use(s->thing);
    pnx_rc_unref(s->thing);
    use(again);
    pnx_rc_unref(again);
}

TEST(p1_the_last_of_three_drops_after_all_have_ended) {
    x_explore(&(struct x_test){.name = "unref",
            .size = sizeof(struct state),
            .setup = three_holders,
            .thread = {use_and_unref, use_and_unref, use_and_unref},
            .final = dropped_once,
            .floor = 6});
}

TEST(p1_taking_more_references_changes_nothing_about_it) {
    x_explore(&(struct x_test){.name = "churn",
            .size = sizeof(struct state),
            .setup = three_holders,
            .thread = {churn, churn, churn},
            .final = dropped_once,
            .floor = 500});
}

/* ---- P3: upgrade against the last unref; the weak ones race for the memory ---- */

static void one_holder_two_weak(void *state) {
    struct state *s = state;
    begin(state);
    make(s, 0);
    s->weak[1] = thing_weak(s->thing);
    s->weak[2] = thing_weak(s->thing);
    CHECK_EQ(pnx_rc_weak_count(s->thing), 2);
}

static void upgrade(void *state) {
    struct state *s = state;
    struct pnx_weak *weak = &s->weak[x_self() - 1];
    struct thing *got = thing_upgrade(weak);
    if (got) {
        use(got);
        pnx_rc_unref(got);
    }
    pnx_weak_release(weak);
}

static void upgrade_after_release(void *state) {
    struct state *s = state;
    struct pnx_weak mine = pnx_weak_ref(&s->weak[x_self() - 1]);
    pnx_weak_release(&s->weak[x_self() - 1]);
    struct thing *got = thing_upgrade(&mine);
    pnx_weak_release(&mine);
    if (got) {
        use(got);
        thing_release(&got);
    }
}

TEST(p3_upgrade_meets_a_live_object_or_none) {
    x_explore(&(struct x_test){.name = "upgrade",
            .size = sizeof(struct state),
            .setup = one_holder_two_weak,
            .thread = {use_and_unref, upgrade, upgrade},
            .final = dropped_once,
            .floor = 500});
}

TEST(p3_weak_references_made_and_released_meanwhile_keep_the_memory) {
    x_explore(&(struct x_test){.name = "weak",
            .size = sizeof(struct state),
            .setup = one_holder_two_weak,
            .thread = {use_and_unref, upgrade_after_release, upgrade},
            .final = dropped_once,
            .floor = 500});
}

/* ---- P2 and P5: who is unique is alone ---- */

static void write_if_unique(void *state) {
    struct state *s = state;
    use(s->thing);
    if (thing_unique(s->thing))
        x_cell_write(&s->thing->data, 7); /* races unless the others' reads come before */
    pnx_rc_unref(s->thing);
}

TEST(p2_the_unique_holder_may_write) {
    x_explore(&(struct x_test){.name = "unique",
            .size = sizeof(struct state),
            .setup = three_holders,
            .thread = {write_if_unique, write_if_unique, write_if_unique},
            .final = dropped_once,
            .floor = 6});
}

static void write_if_unique_or_upgrade(void *state) {
    struct state *s = state;
    struct thing *got = thing_upgrade(&s->weak[1]);
    pnx_weak_release(&s->weak[1]);
    if (!got)
        return;
    use(got);
    if (thing_unique(got))
        x_cell_write(&got->data, 8);
    pnx_rc_unref(got);
}

static void one_weak_two_holders(void *state) {
    struct state *s = state;
    begin(state);
    make(s, 1);
    s->weak[1] = thing_weak(s->thing);
}

TEST(p2_a_weak_reference_elsewhere_is_not_unique) {
    x_explore(&(struct x_test){.name = "unique-weak",
            .size = sizeof(struct state),
            .setup = one_weak_two_holders,
            .thread = {write_if_unique, write_if_unique_or_upgrade, write_if_unique},
            .final = dropped_once,
            .floor = 500});
}

static int set_data(void *ctx, void *object) {
    (void)ctx;
    x_cell_write(&((struct thing *)object)->data, 5);
    return 0;
}

static void try_update(void *state) {
    struct state *s = state;
    use(s->thing);
    int rc = thing_try_update(s->thing, set_data, NULL);
    CHECK(rc == 0 || rc == PNX_E_SHARED);
    pnx_rc_unref(s->thing);
}

TEST(p5_try_update_edits_only_what_is_unshared) {
    x_explore(&(struct x_test){.name = "try-update",
            .size = sizeof(struct state),
            .setup = three_holders,
            .thread = {try_update, use_and_unref, try_update},
            .final = dropped_once,
            .floor = 6});
}

/* ---- P4: make_mut against ref, unref, upgrade ---- */

/* Writes through its handle, which must be nobody else's by then. */
static void make_mut(void *state) {
    struct state *s = state;
    struct thing *mine = s->thing;
    use(mine);
    CHECK_EQ(thing_make_mut(&mine), 0);
    x_cell_write(&mine->data, 10 + x_self());
    CHECK_EQ(x_cell_read(&mine->data), 10 + x_self());
    pnx_rc_unref(mine);
}

static void each_dropped_once(void *state) {
    struct state *s = state;
    CHECK_EQ(get(&s->drops), 1 + get(&s->copies));
    CHECK_EQ(pnx_rc_saturated(), 0);
}

TEST(p4_make_mut_by_all_holders_at_once) {
    x_explore(&(struct x_test){.name = "make-mut",
            .size = sizeof(struct state),
            .setup = three_holders,
            .thread = {make_mut, make_mut, churn},
            .final = each_dropped_once,
            .floor = 500});
}

TEST(p4_make_mut_by_copy_against_upgrade) {
    x_explore(&(struct x_test){.name = "make-mut-upgrade",
            .size = sizeof(struct state),
            .setup = one_holder_two_weak,
            .thread = {make_mut, upgrade, upgrade},
            .final = each_dropped_once,
            .floor = 500});
}

static void movable(void *state) {
    one_holder_two_weak(state);
    thing_type.flags = PNX_RC_MOVABLE;
}

TEST(p4_make_mut_by_move_against_upgrade) {
    x_explore(&(struct x_test){.name = "make-mut-move",
            .size = sizeof(struct state),
            .setup = movable,
            .thread = {make_mut, upgrade, upgrade},
            .final = each_dropped_once,
            .floor = 500});
}

/* ---- P7: on_drop ---- */

static void hook(void *arg) {
    struct state *s = arg;
    CHECK(get(&s->drops) >= 1);
    add(&s->hooks);
}

static void upgrade_and_register(void *state) {
    struct state *s = state;
    struct pnx_weak *weak = &s->weak[x_self() - 1];
    struct thing *got = thing_upgrade(weak);
    if (got) {
        CHECK_EQ(thing_on_drop(got, &s->node[x_self() - 1], hook, s), 0);
        add(&s->late); /* how many are expected */
        pnx_rc_unref(got);
    }
    pnx_weak_release(weak);
}

static void hooks_ran(void *state) {
    struct state *s = state;
    each_dropped_once(state);
    CHECK_EQ(get(&s->hooks), get(&s->late));
}

TEST(p7_what_is_registered_by_any_holder_is_called_once) {
    x_explore(&(struct x_test){.name = "on-drop",
            .size = sizeof(struct state),
            .setup = one_holder_two_weak,
            .thread = {use_and_unref, upgrade_and_register, upgrade_and_register},
            .final = hooks_ran,
            .floor = 500});
}

TEST(p7_a_move_takes_along_what_an_upgrader_registered) {
    x_explore(&(struct x_test){.name = "on-drop-move",
            .size = sizeof(struct state),
            .setup = movable,
            .thread = {make_mut, upgrade_and_register, upgrade_and_register},
            .final = hooks_ran,
            .floor = 500});
}

static void two_hooks(void *state) {
    struct state *s = state;
    begin(state);
    make(s, 1);
    CHECK_EQ(thing_on_drop(s->thing, &s->node[0], hook, s), 0);
    CHECK_EQ(thing_on_drop(s->thing, &s->node[1], hook, s), 0);
}

static void remove_hook(void *state) {
    struct state *s = state;
    int rc = pnx_rc_on_drop_remove(&s->node[0]);
    CHECK(rc == 0 || rc == -EALREADY);
    if (rc == 0)
        add(&s->late);
    memset(&s->node[0], 0xee, sizeof(s->node[0])); /* nobody looks at it any more */
}

static void called_or_removed(void *state) {
    struct state *s = state;
    dropped_once(state);
    CHECK_EQ(get(&s->hooks) + get(&s->late), 2);
}

TEST(p7_each_callback_is_called_or_removed) {
    x_explore(&(struct x_test){.name = "on-drop-remove",
            .size = sizeof(struct state),
            .setup = two_hooks,
            .thread = {use_and_unref, use_and_unref, remove_hook},
            .final = called_or_removed,
            .floor = 12});
}

/* ---- P8: cyclic ---- */

static int give_away(void *ctx, void *object, const struct pnx_weak *self) {
    struct state *s = ctx;
    struct thing *thing = object;
    /* Two words that say that the weak references are there; release: pairs with test_rc.taken. */
    s->weak[1] = pnx_weak_ref(self);
    s->weak[2] = pnx_weak_ref(self);
    pnx_store(&s->late, 1, PNX_RELEASE, "test_rc.given");
    x_cell_write(&thing->data,
            3); /* after that: seen by an upgrader only through the end of this function */
    return 0;
}

static void construct(void *state) {
    struct state *s = state;
    struct thing *made = NULL;
    CHECK_EQ(thing_new_cyclic(NULL, give_away, s, &made), 0);
    thing_release(&made);
}

static void take_early(void *state) {
    struct state *s = state;
    if (!pnx_load(&s->late, PNX_ACQUIRE, "test_rc.taken"))
        return;
    struct thing *got = thing_upgrade(&s->weak[x_self() - 1]);
    if (!got)
        return;
    CHECK_EQ(x_cell_read(&got->data), 3);
    use(got);
    pnx_rc_unref(got);
}

static void release_weak(void *state) {
    struct state *s = state;
    pnx_weak_release(&s->weak[1]);
    pnx_weak_release(&s->weak[2]);
    dropped_once(state);
}

TEST(p8_who_upgrades_sees_the_finished_object) {
    x_explore(&(struct x_test){.name = "cyclic",
            .size = sizeof(struct state),
            .setup = begin,
            .thread = {construct, take_early, take_early},
            .final = release_weak,
            .floor = 100});
}

/* ---- P1: out of range ---- */

static void near_the_limit(void *state) {
    struct state *s = state;
    begin(state);
    make(s, 0);
    pnx__rc_set_counts(s->thing, UINT32_C(0x7fffffff), 1);
}

static void ref_and_unref(void *state) {
    struct state *s = state;
    pnx_rc_ref(s->thing);
    pnx_rc_unref(s->thing);
}

static void leaked_or_whole(void *state) {
    struct state *s = state;
    CHECK_EQ(get(&s->drops), 0);
    uint32_t strong = pnx_rc_count(s->thing);
    if (pnx_rc_saturated() == 0)
        CHECK_EQ(strong, 0x7fffffff);
    else
        CHECK(pnx_rc_saturated() == 1 && strong >= UINT32_C(0xa0000000));
}

TEST(p1_a_count_leaves_its_range_once_and_stays_there) {
    x_explore(&(struct x_test){.name = "saturate",
            .size = sizeof(struct state),
            .setup = near_the_limit,
            .thread = {ref_and_unref, ref_and_unref, ref_and_unref},
            .final = leaked_or_whole,
            .floor = 500,
            .leaks = true});
}

static void one_reference_three_unrefs(void *state) {
    struct state *s = state;
    begin(state);
    make(s, 0);
    s->weak[0] = thing_weak(s->thing); /* keeps the memory ours for the bug that follows */
}

static void unref_only(void *state) {
    struct state *s = state;
    pnx_rc_unref(s->thing);
}

static void dropped_once_then_stuck(void *state) {
    struct state *s = state;
    CHECK_EQ(get(&s->drops), 1);
    CHECK_EQ(pnx_rc_saturated(), 1);
    CHECK(thing_upgrade(&s->weak[0]) != NULL); /* leaked: still there, for ever */
}

TEST(p1_references_let_go_too_often_drop_nothing_twice) {
    x_explore(&(struct x_test){.name = "underflow",
            .size = sizeof(struct state),
            .setup = one_reference_three_unrefs,
            .thread = {unref_only, unref_only, unref_only},
            .final = dropped_once_then_stuck,
            .floor = 6,
            .leaks = true});
}

/* ---- P6: threads without a record ---- */

static void drop_own_without_record(void *state) {
    struct thing *mine = NULL;
    (void)state;
    CHECK_EQ(thing_new(NULL, &mine), 0);
    x_cell_write(&mine->data, 1);
    pnx__rc_unref_without_record(mine);
}

static void three_drops(void *state) {
    struct state *s = state;
    CHECK_EQ(get(&s->drops), 3);
}

TEST(p6_drops_without_a_record_are_lost_by_no_thread) {
    x_explore(&(struct x_test){.name = "recordless",
            .size = sizeof(struct state),
            .setup = begin,
            .thread = {drop_own_without_record, drop_own_without_record, drop_own_without_record},
            .final = three_drops,
            .floor = 500});
}

static void use_and_unref_without_record(void *state) {
    struct state *s = state;
    use(s->thing);
    pnx__rc_unref_without_record(s->thing);
}

TEST(p1_holders_without_a_record_drop_after_all_have_ended) {
    x_explore(&(struct x_test){.name = "recordless-unref",
            .size = sizeof(struct state),
            .setup = three_holders,
            .thread = {use_and_unref_without_record, use_and_unref_without_record, use_and_unref},
            .final = dropped_once,
            .floor = 6});
}

/* ---- P9: tallies ---- */

static void counted(void *state) {
    struct state *s = state;
    begin(state);
    CHECK_EQ(pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.registry = pnx_registry_off(),
                                         .stats = pnx_stats_off(), .budget = pnx_budget_off()),
                     NULL, &s->tally),
            0);
    tally_of_things = s->tally;
    make(s, 1);
}

static void release_tally(void *state) {
    struct state *s = state;
    pnx_rc_tally_release(&s->tally);
}

TEST(p9_a_tally_ends_with_its_last_object) {
    x_explore(&(struct x_test){.name = "tally",
            .size = sizeof(struct state),
            .setup = counted,
            .thread = {use_and_unref, use_and_unref, release_tally},
            .final = dropped_once,
            .floor = 6});
}

static struct pnx_registry *registry;

static void counted_with_row(void *state) {
    struct state *s = state;
    begin(state);
    registry = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.registry = registry, .stats = pnx_stats_off(),
                                         .budget = pnx_budget_off()),
                     NULL, &s->tally),
            0);
    tally_of_things = s->tally;
}

static void make_and_drop(void *state) {
    struct thing *mine = NULL;
    (void)state;
    CHECK_EQ(pnx_rc_new_flexible(&thing_type, NULL, 10000, (void **)(void *)&mine), 0);
    pnx_rc_unref(mine);
}

static void make_and_keep(void *state) {
    struct state *s = state;
    void *mine = NULL;
    CHECK_EQ(pnx_rc_new_flexible(&thing_type, NULL, 10000, &mine), 0);
    s->kept[x_self() - 1] = mine;
}

static int look_at_row(void *ctx, const struct pnx_resource_info *info) {
    struct state *s = ctx;
    struct pnx_rc_tally_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_rc_tally_read_stats(s->tally, &stats), 0);
    CHECK(info->bytes <= stats.bytes + 4096 && stats.bytes <= info->bytes + 4096);
    for (int i = 0; i < 3; i++)
        thing_release(&s->kept[i]);
    return 0;
}

static int clean_up(void *ctx, const struct pnx_resource_info *info) {
    (void)ctx;
    CHECK_EQ(info->bytes, 0);
    CHECK_EQ(pnx_registry_cleanup(registry, info->id), 0); /* nothing is live */
    return 0;
}

static void row_is_right(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_registry_each(registry, look_at_row, s), 0);
    CHECK_EQ(get(&s->drops), 3);
    CHECK_EQ(pnx_registry_each(registry, clean_up, NULL), 0);
    pnx_rc_tally_release(&s->tally);
    pnx_registry_release(&registry);
}

TEST(p9_the_row_shows_nothing_once_nothing_is_live) {
    x_explore(&(struct x_test){.name = "tally-row",
            .size = sizeof(struct state),
            .setup = counted_with_row,
            .thread = {make_and_drop, make_and_drop, make_and_drop},
            .final = row_is_right,
            .preemptions = 1,
            .random = 3000,
            .floor = 100});
}

TEST(p9_the_row_is_near_what_is_live) {
    x_explore(&(struct x_test){.name = "tally-row-kept",
            .size = sizeof(struct state),
            .setup = counted_with_row,
            .thread = {make_and_keep, make_and_drop, make_and_keep},
            .final = row_is_right,
            .preemptions = 1,
            .random = 3000,
            .floor = 100});
}
