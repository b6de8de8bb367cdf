/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_rows.c - rows beside each other and beside who looks: one who watches a registry that is closed as a shutdown
 * does, rows that come and go, ids that nobody was given, and the end of a registry.
 */
#include "explorer/explorer.h"
#include "registry/ledger.h"

#include <errno.h>

struct thing {
    uint64_t state; /* plain: a race, or a use after its end, is seen */
};

struct state {
    struct pnx_registry *registry;
    struct pnx_row *row;
    pnx_resource_id id;
    struct thing *thing;
    struct pnx_a32 runs;
    struct pnx_a32 refused;
    int removed; /* what the owner's removal returned */
    bool ended;  /* final: the registry is gone already */
};

#define RANDOM (test_long() ? 100000u : 2000u)

static struct state *now;

/* Ends the thing; it needs some time. */
static int cleanup(void *arg, const struct pnx_cancel *cancel) {
    struct thing *thing = arg;
    CHECK(!pnx_cancel_requested(cancel));
    CHECK_EQ(thing->state, 1);
    pnx_fetch_add(&now->runs, 1, PNX_RELAXED, "rows_suite.run");
    x_yield();
    thing->state = 2;
    return 0;
}

static void add(struct state *s, struct thing *thing, pnx_resource_id *ret_id) {
    thing->state = 1;
    CHECK_EQ(pnx_registry_add(s->registry,
                     PNX_RESOURCE(.type = "thing", .cleanup = cleanup, .arg = thing), NULL, ret_id),
            0);
}

static void set_up(void *state) {
    struct state *s = now = state;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &s->registry),
            0);
    s->thing = x_alloc(sizeof(*s->thing));
    add(s, s->thing, &s->id);
    s->row = pnx__row_find(s->registry, s->id);
}

static void force(void *state) {
    struct state *s = state;
    int rc = pnx_registry_cleanup(s->registry, s->id);
    CHECK(rc == 0 || rc == -EALREADY || rc == -ESTALE);
}

/* The owner: whatever others do, the thing is his when the removal returns. */
static void own(void *state) {
    struct state *s = state;
    s->removed = pnx_registry_remove(s->registry, s->id);
    CHECK(s->removed == 0 || s->removed == -EALREADY);
    CHECK_EQ(s->thing->state, s->removed == 0 ? 1 : 2);
    x_free(s->thing);
}

static void end(void *state) {
    struct state *s = state;
    pnx__registry_check(s->registry);
    pnx_registry_release(&s->registry);
}

static void check_claims(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_load(&s->runs, PNX_RELAXED, "rows_suite.runs"), s->removed ? 1 : 0);
    end(state); /* which counts rows */
}

TEST_LIMIT(p1_p2_forced_cleanups_and_the_owner_claim_a_row_once, 120) {
    x_explore(&(struct x_test){.name = "claim",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {force, force, own},
            .final = check_claims,
            .random = RANDOM,
            .floor = 1000});
}

/* ---- one who waits for changes ---- */

static void set_up_closed(void *state) {
    struct state *s = state;
    set_up(state);
    /* relaxed: as pnx_registry_shutdown() does it */
    pnx_fetch_or(&s->registry->refs, PNX_REGISTRY_CLOSED, PNX_RELAXED, "rows_suite.close");
}

/* As shutdown.c does: looks at rows without a lock, and sleeps until something is said to have changed. */
static void watch(void *state) {
    struct state *s = state;
    for (;;) {
        /* acquire: pairs with rows.changed */
        uint32_t seen = pnx_load(&s->registry->changed, PNX_ACQUIRE, "rows_suite.changed");
        enum pnx_row_state found = pnx__word_state(pnx__row_word(s->row));
        if (found == PNX_ROW_DONE) {
            CHECK_EQ(s->row->code, 0);
            CHECK_EQ(s->thing->state, 2);
            return;
        }
        if (found == PNX_ROW_FREE)
            return; /* its owner was faster */
        (void)pnx__futex_wait(&s->registry->changed, seen, PNX_NEVER);
    }
}

static void add_in_vain(void *state) {
    struct state *s = state;
    pnx_resource_id id = 77;
    CHECK_EQ(pnx_registry_add(s->registry, PNX_RESOURCE(.type = "late"), NULL, &id), -ESHUTDOWN);
    CHECK_EQ(id, 77);
}

static void own_late(void *state) {
    struct state *s = state;
    int rc = pnx_registry_remove(s->registry, s->id);
    CHECK(rc == 0 || rc == -EALREADY);
}

static void free_and_end(void *state) {
    struct state *s = state;
    x_free(s->thing);
    end(state);
}

TEST_LIMIT(p4_who_watches_a_closed_registry_misses_no_end, 120) {
    x_explore(&(struct x_test){.name = "watch",
            .size = sizeof(struct state),
            .setup = set_up_closed,
            .thread = {force, watch, add_in_vain},
            .final = free_and_end,
            .random = RANDOM,
            .floor = 500});
    x_explore(&(struct x_test){.name = "watch_owner",
            .size = sizeof(struct state),
            .setup = set_up_closed,
            .thread = {force, watch, own_late},
            .final = free_and_end,
            .random = RANDOM,
            .floor = 500});
}

/* ---- rows come and go ---- */

static void come_and_go(void *state) {
    struct state *s = state;
    struct thing thing;
    pnx_resource_id id = 0;
    add(s, &thing, &id);
    CHECK(id != s->id);
    CHECK_EQ(pnx_registry_remove(s->registry, id), 0);
    CHECK_EQ(pnx_registry_remove(s->registry, id) == 0, 0); /* stale: never another's row */
    CHECK_EQ(thing.state, 1);
}

static void ask(void *state) {
    struct state *s = state;
    struct pnx_resource_info info;
    if (pnx_registry_info(s->registry, s->id, &info) == 0)
        CHECK_EQ(info.id, s->id);
}

static void free_thing(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_load(&s->runs, PNX_RELAXED, "rows_suite.once"), 1);
    free_and_end(state);
}

TEST_LIMIT(p3_rows_that_come_and_go_beside_a_cleanup, 120) {
    x_explore(&(struct x_test){.name = "slots",
            .size = sizeof(struct state),
            .setup = set_up,
            .thread = {force, come_and_go, ask},
            .final = free_thing,
            .preemptions = test_long() ? 3 : 2,
            .random = RANDOM,
            .floor = 1000});
}

/* An id that nobody was given, of a slot that does not exist yet: refused, whatever is being made there. */
static void set_up_empty(void *state) {
    struct state *s = now = state;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = x_env(), .stats = pnx_stats_off()), NULL,
                     &s->registry),
            0);
}
static void add_first(void *state) {
    struct state *s = state;
    struct thing thing;
    pnx_resource_id id = 0;
    add(s, &thing, &id);
    CHECK_EQ(pnx_registry_remove(s->registry, id), 0);
}
static void guess(void *state) {
    struct state *s = state;
    uint64_t generation = s->registry->base + 7; /* which no slot gets here */
    for (uint64_t shard = 0; shard < PNX_SHARDS; shard++) {
        pnx_resource_id id = pnx__id_of(generation, 0, (uint32_t)shard);
        CHECK_EQ(pnx_registry_cleanup(s->registry, id), -ESTALE);
    }
}

TEST_LIMIT(p3_a_foreign_id_is_refused_beside_who_makes_its_slot, 120) {
    x_explore(&(struct x_test){.name = "foreign",
            .size = sizeof(struct state),
            .setup = set_up_empty,
            .thread = {add_first, guess},
            .final = end,
            .preemptions = test_long() ? 3 : 2,
            .random = RANDOM,
            .floor = 1000});
}

/* A parent is looked at without its shard's lock. */
static void guess_parent(void *state) {
    struct state *s = state;
    pnx_resource_id id = 0, foreign = pnx__id_of(s->registry->base + 7, 0, 0);
    CHECK_EQ(pnx_registry_add(
                     s->registry, PNX_RESOURCE(.type = "child", .parent = foreign), NULL, &id),
            -EINVAL);
    CHECK_EQ(id, 0);
}

TEST_LIMIT(p3_nor_is_it_a_parent, 120) {
    x_explore(&(struct x_test){.name = "foreign-parent",
            .size = sizeof(struct state),
            .setup = set_up_empty,
            .thread = {add_first, guess_parent},
            .final = end,
            .random = RANDOM,
            .floor = 4});
}

/* ---- a parent and its child, in shards apart ---- */

static int end_parent(void *arg, const struct pnx_cancel *cancel) {
    const struct thing *thing = arg;
    (void)cancel;
    CHECK(thing->state != 1); /* its child has ended, or never was */
    return 0;
}

static int end_child(void *arg, const struct pnx_cancel *cancel) {
    struct thing *thing = arg;
    (void)cancel;
    thing->state = 1;
    x_yield();
    thing->state = 2;
    return 0;
}

static void set_up_parent(void *state) {
    struct state *s = now = state;
    set_up_empty(state);
    s->thing = x_alloc(sizeof(*s->thing));
    s->thing->state = 0;
    CHECK_EQ(pnx_registry_add(s->registry,
                     PNX_RESOURCE(.type = "parent", .cleanup = end_parent, .arg = s->thing), NULL,
                     &s->id),
            0);
}

static void claim_parent(void *state) {
    struct state *s = state;
    int rc = pnx_registry_cleanup(s->registry, s->id);
    CHECK(rc == 0 || rc == -EBUSY);
}

static void add_child_and_end_it(void *state) {
    struct state *s = state;
    pnx_resource_id id;
    int rc = pnx_registry_add(s->registry,
            PNX_RESOURCE(.type = "child", .cleanup = end_child, .arg = s->thing, .parent = s->id),
            NULL, &id);
    CHECK(rc == 0 || rc == -EINVAL); /* the parent is ending, or has */
    if (rc == 0) {
        CHECK(pnx__shard_of(id) != pnx__shard_of(s->id));
        CHECK_EQ(pnx_registry_cleanup(s->registry, id), 0);
    }
}

static void end_family(void *state) {
    struct state *s = state;
    (void)pnx_registry_remove(s->registry, s->id);
    free_and_end(state);
}

TEST_LIMIT(p7_who_finds_no_child_any_more_sees_what_its_cleanup_did, 120) {
    x_explore(&(struct x_test){.name = "family",
            .size = sizeof(struct state),
            .setup = set_up_parent,
            .thread = {claim_parent, add_child_and_end_it},
            .final = end_family,
            .random = RANDOM,
            .floor = 50});
}

/* ---- the end ---- */

static void set_up_shared(void *state) {
    struct state *s = state;
    set_up(state);
    (void)pnx_registry_ref(s->registry);
}

static void release(void *state) {
    struct state *s = state;
    struct pnx_registry *mine = s->registry;
    pnx_registry_release(&mine);
}

static void use_and_release(void *state) {
    struct state *s = state;
    struct pnx_registry *mine = s->registry;
    struct pnx_resource_info info;
    (void)!pnx_registry_info(mine, s->id, &info);
    pnx_registry_release(&mine);
}

/* The row keeps the registry while its cleanup runs. */
static void force_without_holding(void *state) {
    struct state *s = state;
    CHECK_EQ(pnx_registry_cleanup(s->registry, s->id), 0);
}

static void free_only(void *state) {
    struct state *s = state;
    x_free(s->thing);
}

TEST_LIMIT(the_last_holder_or_the_last_row_frees_the_registry, 120) {
    x_explore(&(struct x_test){.name = "end",
            .size = sizeof(struct state),
            .setup = set_up_shared,
            .thread = {release, use_and_release, force_without_holding},
            .final = free_only,
            .random = RANDOM,
            .floor = 500});
}
