/* SPDX-License-Identifier: Apache-2.0 */
/* rc: P1..P6 of patinox/rc.h. */
#include "harness/harness.h"
#include "share/rc.h"

#include <patinox/rc.h>
#include <patinox/stats.h>

#include <pthread.h>

struct thing {
    uint64_t canary;
    struct thing *next;
    int *drops;
    int number;
};
#define CANARY UINT64_C(0x5ca1ab1ebadcab1e)

static void thing_drop(void *ctx, void *object) {
    struct thing *thing = object;
    (void)ctx;
    CHECK(thing->canary == CANARY);
    thing->canary = 0;
    if (thing->drops)
        __atomic_add_fetch(thing->drops, 1, __ATOMIC_RELAXED);
    PNX_RC_CLEAR(thing->next);
}

static int clones, clone_fails;

static int thing_clone(void *ctx, const void *object, void *ret_copy) {
    const struct thing *from = object;
    struct thing *to = ret_copy;
    (void)ctx;
    CHECK(to->canary == 0 && to->next == NULL);
    __atomic_add_fetch(&clones, 1, __ATOMIC_RELAXED);
    if (clone_fails)
        return clone_fails;
    to->canary = from->canary;
    to->drops = from->drops;
    to->number = from->number;
    to->next = pnx_rc_ref(from->next);
    return 0;
}

static struct pnx_rc_type thing_type =
        PNX_RC_TYPE(struct thing, .clone = thing_clone, .drop = thing_drop);
PNX_RC_DEFINE(thing, struct thing, thing_type)

static struct test_env te;

static void use_env(void) {
    test_env_init(&te);
    thing_type.env = &te.env;
}

static struct thing *make(int number, int *drops) {
    struct thing *thing = NULL;
    CHECK_EQ(thing_new(&(struct thing){.canary = CANARY, .drops = drops, .number = number}, &thing),
            0);
    return thing;
}

/* ---- P1: dropped once, freed once, never early ---- */

TEST(p1_the_last_unref_drops_and_frees) {
    int drops = 0;
    use_env();
    struct thing *a = make(1, &drops);
    CHECK(pnx_rc_ref(a) == a);
    CHECK_EQ(pnx_rc_count(a), 2);
    CHECK_EQ(pnx_rc_weak_count(a), 0);
    pnx_rc_unref(a);
    CHECK_EQ(drops, 0);
    CHECK_EQ(pnx_rc_count(a), 1);
    thing_release(&a);
    CHECK(a == NULL);
    CHECK_EQ(drops, 1);
    test_env_check_empty(&te);
}

TEST(p1_null_is_fine_everywhere) {
    struct thing *none = NULL;
    CHECK(pnx_rc_ref(NULL) == NULL);
    pnx_rc_unref(NULL);
    thing_release(&none);
    thing_release(NULL);
    PNX_RC_CLEAR(none);
    struct pnx_weak weak = pnx_weak_make(NULL);
    CHECK(pnx_weak_upgrade(&weak) == NULL);
    CHECK(pnx_weak_upgrade(NULL) == NULL);
    struct pnx_weak other = pnx_weak_ref(&weak);
    pnx_weak_release(&weak);
    pnx_weak_release(&other);
    pnx_weak_release(NULL);
    void *handle = NULL;
    CHECK_EQ(pnx_rc_make_mut(&handle), -EINVAL);
    CHECK_EQ(pnx_rc_make_mut(NULL), -EINVAL);
    CHECK_EQ(pnx_rc_clone(NULL, &handle), -EINVAL);
    CHECK_EQ(pnx_rc_update(&handle, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_rc_try_update(NULL, NULL, NULL), -EINVAL);
    CHECK(!pnx_rc_unique(NULL));
    CHECK_EQ(pnx_rc_count(NULL), 0);
    CHECK_EQ(pnx_rc_weak_count(NULL), 0);
    CHECK(pnx_rc_type_of(NULL) == NULL);
    CHECK_EQ(pnx_rc_size(NULL), 0);
}

TEST(p1_the_cleanup_attribute_lets_go) {
    int drops = 0;
    use_env();
    {
        PNX_AUTO_RC struct thing *a = make(1, &drops);
        PNX_AUTO_RC const struct thing *b = pnx_rc_ref(a);
        PNX_AUTO_RC struct thing *none = NULL;
        PNX_AUTO_WEAK weak = thing_weak(a);
        CHECK_EQ(pnx_rc_count(b), 2);
        CHECK_EQ(pnx_rc_weak_count(b), 1);
        (void)none;
        (void)weak;
    }
    CHECK_EQ(drops, 1);
    test_env_check_empty(&te);
}

TEST(p1_memory_outlives_the_object_while_a_weak_reference_does) {
    int drops = 0;
    use_env();
    struct thing *a = make(1, &drops);
    struct pnx_weak weak = thing_weak(a);
    thing_release(&a);
    CHECK_EQ(drops, 1);
    CHECK_EQ(te.live_blocks, 1);
    CHECK(thing_upgrade(&weak) == NULL);
    pnx_weak_release(&weak);
    CHECK(weak.object_ == NULL);
    pnx_weak_release(&weak);
    test_env_check_empty(&te);
}

static int saturation_events;
static void *volatile leaked; /* on purpose: leak checkers see that it is known */

static void hear(void *ctx, const struct pnx_event *event) {
    (void)ctx;
    if (event->type != PNX_EVENT_RC_SATURATED)
        return;
    CHECK_STR(event->object, "struct thing");
    CHECK_EQ(event->code, -EOVERFLOW);
    saturation_events++;
}

static void listen(void) {
    uint32_t id;
    use_env();
    CHECK_EQ(pnx_monitor_add(pnx_stats_default(),
                     &(struct pnx_monitor){.size = sizeof(struct pnx_monitor), .event = hear}, &id),
            0);
}

static void check_leaked_once(const void *object) {
    if (object)
        leaked = (void *)(uintptr_t)object;
    CHECK_EQ(pnx_rc_saturated(), 1);
    CHECK_EQ(saturation_events, 1);
    CHECK_EQ(te.logs, 1);
    CHECK_CONTAINS(te.last_log, "a reference count of a struct thing left its range");
}

TEST(p1_too_many_references_leak_and_are_reported_once) {
#ifdef PNX_DEBUG
    int drops = 0;
    listen();
    struct thing *a = make(1, &drops);
    pnx__rc_set_counts(a, UINT32_C(0x7fffffff), 1);
    pnx_rc_ref(a); /* the last one in range */
    CHECK_EQ(pnx_rc_saturated(), 0);
    CHECK_EQ(pnx_rc_count(a), UINT32_C(0x80000000));
    pnx_rc_ref(a);
    check_leaked_once(a);
    uint32_t stuck = pnx_rc_count(a);
    CHECK(stuck >= UINT32_C(0xc0000000));
    for (int i = 0; i < 1000; i++) {
        pnx_rc_ref(a);
        pnx_rc_unref(a);
        pnx_rc_unref(a);
        pnx_rc_unref(a);
    }
    CHECK_EQ(pnx_rc_count(a), stuck);
    CHECK(!pnx_rc_unique(a));
    struct pnx_weak weak = thing_weak(a);
    CHECK(thing_upgrade(&weak) == a);
    CHECK_EQ(pnx_rc_count(a), stuck);
    pnx_weak_release(&weak);
    CHECK_EQ(drops, 0);
    check_leaked_once(a);
#else
    test_skip("counts are set only in debug builds");
#endif
}

TEST(p1_an_unref_in_the_upper_half_saturates_too) {
#ifdef PNX_DEBUG
    listen();
    struct thing *a = make(1, NULL);
    pnx__rc_set_counts(a, UINT32_C(0x80000000), 1);
    pnx_rc_unref(a);
    check_leaked_once(a);
    CHECK(pnx_rc_count(a) >= UINT32_C(0xc0000000));
#else
    test_skip("counts are set only in debug builds");
#endif
}

TEST(p1_an_unref_too_many_leaks_what_weak_references_still_keep) {
    int drops = 0;
    listen();
    struct thing *a = make(1, &drops), *stale = a;
    struct pnx_weak weak = thing_weak(a);
    thing_release(&a);
    pnx_rc_unref(stale); /* a bug of the caller; the weak reference keeps the memory ours */
    CHECK_EQ(drops, 1);
    check_leaked_once(stale);
    pnx_rc_unref(stale);
    pnx_rc_unref(stale);
    CHECK_EQ(drops, 1);
    check_leaked_once(stale);
    pnx_weak_release(&weak);
    CHECK_EQ(te.live_blocks, 1); /* leaked, not freed under somebody */
}

static void resurrect(void *ctx, void *object) {
    (void)ctx;
    ((struct thing *)object)->number++;
    pnx_rc_ref(object);
}

TEST(p1_a_reference_taken_inside_drop_leaks_the_object) {
    listen();
    thing_type.drop = resurrect;
    thing_type.clone = NULL;
    struct thing *a = make(1, NULL), *stale = a;
    thing_release(&a);
    check_leaked_once(stale);
    CHECK_EQ(stale->number, 2);
    pnx_rc_unref(stale);
    CHECK_EQ(stale->number, 2); /* dropped once, for ever */
}

TEST(p1_too_many_weak_references_leak_only_the_memory) {
#ifdef PNX_DEBUG
    int drops = 0;
    listen();
    struct thing *a = make(1, &drops);
    pnx__rc_set_counts(a, 1, UINT32_C(0x80000000));
    struct pnx_weak weak = thing_weak(a);
    check_leaked_once(a);
    CHECK_EQ(pnx_rc_count(a), 1);
    for (int i = 0; i < 100; i++) {
        struct pnx_weak more = pnx_weak_ref(&weak);
        pnx_weak_release(&more);
        pnx_weak_release(&(struct pnx_weak){a});
    }
    thing_release(&a);
    CHECK_EQ(drops, 1);
    CHECK(thing_upgrade(&weak) == NULL);
    pnx_weak_release(&weak);
    CHECK_EQ(te.live_blocks, 1);
    check_leaked_once(a);
#else
    test_skip("counts are set only in debug builds");
#endif
}

TEST(p1_an_object_that_leaks_by_both_counts_is_told_of_once) {
#ifdef PNX_DEBUG
    listen();
    struct thing *a = make(1, NULL);
    pnx__rc_set_counts(a, UINT32_C(0x80000000), UINT32_C(0x80000000));
    struct pnx_weak weak = thing_weak(a);
    check_leaked_once(a);
    pnx_rc_ref(a);
    check_leaked_once(a);
    CHECK(thing_upgrade(&weak) == a);
    CHECK(pnx_rc_count(a) >= UINT32_C(0xc0000000));
#else
    test_skip("counts are set only in debug builds");
#endif
}

TEST(p1_a_weak_release_too_many_leaks) {
    int drops = 0;
    listen();
    struct thing *a = make(1, &drops), *b = thing_ref(a);
    pnx_weak_release(&(struct pnx_weak){a}); /* nobody made that one */
    check_leaked_once(a);
    thing_release(&a);
    pnx_weak_release(&(struct pnx_weak){b});
    CHECK_EQ(b->number, 1); /* still there */
    thing_release(&b);
    CHECK_EQ(drops, 0);
    CHECK_EQ(te.live_blocks, 1);
}

/* ---- P1 under threads ---- */

struct race {
    struct thing *shared;
    struct pnx_weak weak;
    uint64_t seed;
    int rounds;
    int drops;
    int upgraded;
    pthread_barrier_t barrier;
};

static void churn(unsigned index, void *ctx) {
    struct race *race = ctx;
    uint64_t state = race->seed + index;
    struct thing *mine = pnx_rc_ref(race->shared);
    for (int i = 0; i < race->rounds; i++) {
        struct pnx_weak weak = thing_weak(mine);
        if (test_random(&state) % 2)
            thing_release(&mine);
        struct thing *again = thing_upgrade(&weak);
        CHECK(again && again->canary == CANARY);
        if (mine)
            pnx_rc_unref(mine);
        mine = again;
        pnx_weak_release(&weak);
    }
    pnx_rc_unref(mine);
}

TEST(p1_references_from_many_threads_are_counted_exactly) {
    struct race race = {.seed = test_seed(), .rounds = test_slow() ? 5000 : 100000};
    use_env();
    race.shared = make(1, &race.drops);
    test_threads(4, churn, &race);
    CHECK_EQ(race.drops, 0);
    CHECK(thing_unique(race.shared));
    thing_release(&race.shared);
    CHECK_EQ(race.drops, 1);
    test_env_check_empty(&te);
}

/* Each round: one thread lets the last reference go while the others upgrade and use what they get. */
static void last_unref_against_upgrade(unsigned index, void *ctx) {
    struct race *race = ctx;
    for (int i = 0; i < race->rounds; i++) {
        if (index == 0) {
            race->shared = make(i, &race->drops);
            race->weak = thing_weak(race->shared);
        }
        pthread_barrier_wait(&race->barrier);
        if (index == 0) {
            thing_release(&race->shared);
        } else {
            struct thing *got = thing_upgrade(&race->weak);
            if (got) {
                CHECK(got->canary == CANARY && got->number == i);
                __atomic_add_fetch(&race->upgraded, 1, __ATOMIC_RELAXED);
                pnx_rc_unref(got);
            }
        }
        pthread_barrier_wait(&race->barrier);
        if (index == 0) {
            CHECK_EQ(race->drops, i + 1);
            CHECK(thing_upgrade(&race->weak) == NULL);
            pnx_weak_release(&race->weak);
        }
        pthread_barrier_wait(&race->barrier);
    }
}

TEST(p3_upgrade_races_with_the_last_unref) {
    struct race race = {.rounds = test_slow() ? 2000 : 20000};
    use_env();
    pthread_barrier_init(&race.barrier, NULL, 3);
    test_threads(3, last_unref_against_upgrade, &race);
    printf("%d of %d upgrades came in time\n", race.upgraded, 2 * race.rounds);
    test_env_check_empty(&te);
}

/* The weak references go last, on other threads than the object: somebody must free, exactly once. */
static void last_weak_race(unsigned index, void *ctx) {
    struct race *race = ctx;
    for (int i = 0; i < race->rounds; i++) {
        if (index == 0) {
            race->shared = make(i, &race->drops);
            race->weak = thing_weak(race->shared);
        }
        pthread_barrier_wait(&race->barrier);
        if (index == 0) {
            thing_release(&race->shared);
        } else if (index == 1) {
            pnx_weak_release(&race->weak);
        }
        pthread_barrier_wait(&race->barrier);
    }
}

TEST(p1_the_last_weak_release_races_with_the_last_unref) {
    struct race race = {.rounds = test_slow() ? 2000 : 20000};
    use_env();
    pthread_barrier_init(&race.barrier, NULL, 2);
    test_threads(2, last_weak_race, &race);
    CHECK_EQ(race.drops, race.rounds);
    test_env_check_empty(&te);
}

/* ---- P2, P3 ---- */

TEST(p2_unique_counts_weak_references_too) {
    use_env();
    struct thing *a = make(1, NULL);
    CHECK(thing_unique(a));
    struct pnx_weak weak = thing_weak(a);
    CHECK(!thing_unique(a));
    pnx_weak_release(&weak);
    CHECK(thing_unique(a));
    struct thing *b = thing_ref(a);
    CHECK(!thing_unique(a));
    thing_release(&b);
    CHECK(thing_unique(a));
    thing_release(&a);
}

/* Holders write into the object before they let go, plainly: TSan objects unless unique orders them. */
struct handover {
    int value;
};
static const struct pnx_rc_type handover_type = PNX_RC_TYPE(struct handover);

static void write_then_let_go(unsigned index, void *ctx) {
    struct handover **slots = ctx;
    struct handover *mine = slots[index];
    if (index == 0) {
        mine->value = 42;
        pnx_rc_unref(mine);
        return;
    }
    while (!pnx_rc_unique(mine))
        ;
    CHECK_EQ(mine->value, 42);
    mine->value = 43;
    pnx_rc_unref(mine);
}

TEST(p2_what_former_holders_did_is_visible_to_the_unique_one) {
    for (int i = 0; i < (test_slow() ? 100 : 1000); i++) {
        void *object = NULL;
        CHECK_EQ(pnx_rc_new(&handover_type, NULL, &object), 0);
        struct handover *slots[2] = {object, pnx_rc_ref(object)};
        test_threads(2, write_then_let_go, slots);
    }
}

TEST(p3_upgrade_gives_a_reference_while_one_is_left) {
    int drops = 0;
    use_env();
    struct thing *a = make(7, &drops);
    struct pnx_weak weak = thing_weak(a), other = pnx_weak_ref(&weak);
    struct thing *b = thing_upgrade(&other);
    CHECK(b == a);
    thing_release(&a);
    CHECK_EQ(drops, 0);
    CHECK_EQ(b->number, 7);
    thing_release(&b);
    CHECK_EQ(drops, 1);
    CHECK(thing_upgrade(&weak) == NULL && thing_upgrade(&other) == NULL);
    pnx_weak_release(&weak);
    pnx_weak_release(&other);
    test_env_check_empty(&te);
}

/* ---- P4: make_mut ---- */

TEST(p4_make_mut_leaves_a_unique_object_alone) {
    use_env();
    struct thing *a = make(1, NULL), *before = a;
    CHECK_EQ(thing_make_mut(&a), 0);
    CHECK(a == before);
    CHECK_EQ(clones, 0);
    thing_release(&a);
}

TEST(p4_make_mut_copies_a_shared_object) {
    int drops = 0;
    use_env();
    struct thing *a = make(1, &drops), *b = thing_ref(a);
    CHECK_EQ(thing_make_mut(&b), 0);
    CHECK(a != b);
    CHECK_EQ(clones, 1);
    CHECK(thing_unique(a) && thing_unique(b));
    b->number = 2;
    CHECK_EQ(a->number, 1);
    thing_release(&a);
    thing_release(&b);
    CHECK_EQ(drops, 2);
    test_env_check_empty(&te);
}

TEST(p4_make_mut_with_only_weak_references_elsewhere_copies_and_orphans_them) {
    int drops = 0;
    use_env();
    struct thing *a = make(1, &drops), *before = a;
    struct pnx_weak weak = thing_weak(a);
    CHECK_EQ(thing_make_mut(&a), 0);
    CHECK(a != before);
    CHECK_EQ(clones, 1);
    CHECK_EQ(drops, 1);
    CHECK(thing_upgrade(&weak) == NULL);
    CHECK(thing_unique(a));
    pnx_weak_release(&weak);
    thing_release(&a);
    test_env_check_empty(&te);
}

TEST(p4_make_mut_moves_a_movable_object_from_its_weak_references) {
    int drops = 0;
    use_env();
    thing_type.flags = PNX_RC_MOVABLE;
    struct thing *a = make(1, &drops), *before = a;
    struct pnx_weak weak = thing_weak(a);
    CHECK_EQ(thing_make_mut(&a), 0);
    CHECK(a != before && a->number == 1);
    CHECK_EQ(clones, 0);
    CHECK_EQ(drops, 0);
    CHECK(thing_unique(a));
    CHECK(thing_upgrade(&weak) == NULL);
    pnx_weak_release(&weak);
    thing_release(&a);
    CHECK_EQ(drops, 1);
    test_env_check_empty(&te);
}

TEST(p4_plain_objects_are_copied_byte_by_byte) {
    struct plain {
        int x, y;
    };
    static const struct pnx_rc_type plain_type = PNX_RC_TYPE(struct plain);
    void *a = NULL;
    CHECK_EQ(pnx_rc_new(&plain_type, &(struct plain){3, 4}, &a), 0);
    void *b = pnx_rc_ref(a);
    CHECK_EQ(pnx_rc_make_mut(&b), 0);
    CHECK(a != b);
    CHECK_EQ(((struct plain *)b)->y, 4);
    pnx_rc_unref(a);
    pnx_rc_unref(b);
}

TEST(p4_without_a_clone_what_has_a_drop_cannot_be_copied) {
    use_env();
    thing_type.clone = NULL;
    struct thing *a = make(1, NULL), *b = thing_ref(a), *c = NULL;
    CHECK_EQ(thing_make_mut(&a), -ENOTSUP);
    CHECK(a == b);
    CHECK_EQ(thing_copy(a, &c), -ENOTSUP);
    thing_release(&b);
    CHECK_EQ(thing_make_mut(&a), 0);
    thing_release(&a);
}

TEST(p4_a_failing_clone_changes_nothing) {
    int drops = 0;
    use_env();
    struct thing *a = make(1, &drops), *b = thing_ref(a);
    clone_fails = -EIO;
    CHECK_EQ(thing_make_mut(&b), -EIO);
    CHECK(a == b);
    clone_fails = 5; /* not an error code */
    CHECK_EQ(thing_make_mut(&b), -EINVAL);
    clone_fails = 0;
    te.fail_at = te.allocations + 1;
    CHECK_EQ(thing_make_mut(&b), -ENOMEM);
    te.fail_at = 0;
    thing_type.flags = PNX_RC_MOVABLE;
    struct pnx_weak weak = thing_weak(a);
    thing_release(&b);
    te.fail_at = te.allocations + 1;
    CHECK_EQ(thing_make_mut(&a), -ENOMEM);
    te.fail_at = 0;
    struct thing *again = thing_upgrade(&weak);
    CHECK(again == a);
    CHECK_EQ(drops, 0);
    thing_release(&again);
    thing_release(&a);
    pnx_weak_release(&weak);
    CHECK_EQ(drops, 1);
    test_env_check_empty(&te);
}

/*
 * make_mut against upgrade: whoever writes must be alone.  The writer makes its handle mutable and writes; the
 * others upgrade and read twice; a change between the two reads is a write under a reader.
 */
static void make_mut_against_upgrade(unsigned index, void *ctx) {
    struct race *race = ctx;
    for (int i = 0; i < race->rounds; i++) {
        if (index == 0) {
            race->shared = make(0, &race->drops);
            race->weak = thing_weak(race->shared);
        }
        pthread_barrier_wait(&race->barrier);
        if (index == 0) {
            CHECK_EQ(thing_make_mut(&race->shared), 0);
            race->shared->number = i + 1;
        } else {
            struct thing *got = thing_upgrade(&race->weak);
            if (got) {
                CHECK_EQ(got->number, 0);
                CHECK(got->canary == CANARY);
                CHECK_EQ(got->number, 0);
                pnx_rc_unref(got);
            }
        }
        pthread_barrier_wait(&race->barrier);
        if (index == 0) {
            CHECK_EQ(race->shared->number, i + 1);
            thing_release(&race->shared);
            pnx_weak_release(&race->weak);
        }
    }
}

static void race_make_mut(uint32_t flags) {
    struct race race = {.rounds = test_slow() ? 2000 : 20000};
    use_env();
    thing_type.flags = flags;
    pthread_barrier_init(&race.barrier, NULL, 3);
    test_threads(3, make_mut_against_upgrade, &race);
    test_env_check_empty(&te);
}

TEST(p4_make_mut_by_copy_races_with_upgrade) {
    race_make_mut(0);
}

TEST(p4_make_mut_by_move_races_with_upgrade) {
    race_make_mut(PNX_RC_MOVABLE);
}

/* Many threads write through handles to one object: each must end with its own number. */
static void write_own(unsigned index, void *ctx) {
    struct race *race = ctx;
    for (int i = 0; i < race->rounds; i++) {
        struct thing *mine = pnx_rc_ref(race->shared);
        CHECK_EQ(thing_make_mut(&mine), 0);
        CHECK(mine != race->shared);
        mine->number = (int)index;
        struct thing *second = thing_ref(mine);
        CHECK_EQ(thing_make_mut(&mine), 0);
        CHECK(mine != second);
        mine->number = -1;
        CHECK_EQ(second->number, index);
        thing_release(&second);
        thing_release(&mine);
    }
}

TEST(p4_make_mut_from_many_threads_never_shares_a_written_object) {
    struct race race = {.rounds = test_slow() ? 500 : 5000};
    use_env();
    race.shared = make(-7, &race.drops);
    test_threads(4, write_own, &race);
    CHECK_EQ(race.shared->number, -7);
    thing_release(&race.shared);
    test_env_check_empty(&te);
}

/* ---- P5 ---- */

static int edits;

static int edit(void *ctx, void *object) {
    struct thing *thing = object;
    edits++;
    thing->number = 100;
    return *(int *)ctx;
}

TEST(p5_try_update_refuses_a_shared_object_without_calling) {
    int result = 0;
    use_env();
    struct thing *a = make(1, NULL), *b = thing_ref(a);
    CHECK_EQ(pnx_rc_try_update(a, edit, &result), PNX_E_SHARED);
    thing_release(&b);
    struct pnx_weak weak = thing_weak(a);
    CHECK_EQ(pnx_rc_try_update(a, edit, &result), PNX_E_SHARED);
    CHECK_EQ(edits, 0);
    pnx_weak_release(&weak);
    CHECK_EQ(pnx_rc_try_update(a, edit, &result), 0);
    CHECK_EQ(a->number, 100);
    result = -EIO;
    CHECK_EQ(pnx_rc_try_update(a, edit, &result), -EIO);
    result = 1;
    CHECK_EQ(pnx_rc_try_update(a, edit, &result), -EINVAL);
    CHECK_EQ(edits, 3);
    thing_release(&a);
}

TEST(p5_update_exchanges_a_copy_or_changes_nothing) {
    int result = -EIO, drops = 0;
    use_env();
    struct thing *a = make(1, &drops);
    void *handle = a;
    CHECK_EQ(pnx_rc_update(&handle, edit, &result), -EIO);
    CHECK(handle == a && a->number == 1);
    CHECK_EQ(drops, 1); /* the copy */
    result = 0;
    CHECK_EQ(pnx_rc_update(&handle, edit, &result), 0);
    CHECK_EQ(((struct thing *)handle)->number, 100);
    CHECK_EQ(drops, 2); /* the old one */
    CHECK_EQ(edits, 2);
    clone_fails = -EACCES;
    CHECK_EQ(pnx_rc_update(&handle, edit, &result), -EACCES);
    CHECK_EQ(edits, 2);
    pnx_rc_unref(handle);
    test_env_check_empty(&te);
}

/* ---- P6: chains ---- */

static void build_chain(int n, int *drops, struct thing **ret_head) {
    struct thing *head = NULL;
    for (int i = 0; i < n; i++) {
        struct thing *thing = make(i, drops);
        thing->next = head;
        head = thing;
    }
    *ret_head = head;
}

static void *drop_chain(void *arg) {
    struct thing *head = arg;
    thing_release(&head);
    return NULL;
}

static void on_small_stack(void *(*fn)(void *), void *arg) {
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    CHECK_EQ(pthread_attr_setstacksize(&attr, 256 << 10), 0);
    CHECK_EQ(pthread_create(&thread, &attr, fn, arg), 0);
    pthread_join(thread, NULL);
}

TEST(p6_a_chain_of_a_million_drops_on_a_small_stack) {
    int drops = 0;
    struct thing *head;
    int n = test_slow() ? 200000 : 1000000;
    build_chain(n, &drops, &head);
    on_small_stack(drop_chain, head);
    CHECK_EQ(drops, n);
}

#ifdef PNX_DEBUG
static void drop_recordless(void *ctx, void *object) {
    struct thing *thing = object;
    (void)ctx;
    ++*thing->drops;
    if (thing->next)
        pnx__rc_unref_without_record(thing->next);
}

static void *drop_chain_recordless(void *arg) {
    pnx__rc_unref_without_record(arg);
    return NULL;
}
#endif

TEST(p6_a_chain_drops_on_a_small_stack_without_a_thread_record_too) {
#ifdef PNX_DEBUG
    int drops = 0;
    struct thing *head;
    thing_type.drop = drop_recordless;
    build_chain(200000, &drops, &head);
    on_small_stack(drop_chain_recordless, head);
    CHECK_EQ(drops, 200000);
#else
    test_skip("only debug builds can be made to have no record");
#endif
}

#ifdef PNX_DEBUG
static void recordless_race(unsigned index, void *ctx) {
    struct race *race = ctx;
    (void)index;
    for (int i = 0; i < race->rounds; i++)
        pnx__rc_unref_without_record(make(i, &race->drops));
}
#endif

TEST(p1_drops_without_a_record_are_lost_by_no_thread) {
#ifdef PNX_DEBUG
    struct race race = {.rounds = test_slow() ? 2000 : 50000};
    use_env();
    test_threads(4, recordless_race, &race);
    CHECK_EQ(race.drops, 4 * race.rounds);
    test_env_check_empty(&te);
#else
    test_skip("only debug builds can be made to have no record");
#endif
}

static int order[8], n_order;

struct node {
    struct node *left, *right;
    int number;
};

static void node_drop(void *ctx, void *object) {
    struct node *node = object;
    (void)ctx;
    PNX_RC_CLEAR(node->left);
    PNX_RC_CLEAR(node->right);
    order[n_order++] = node->number; /* children come after, see rc.h */
}
static const struct pnx_rc_type node_type = PNX_RC_TYPE(struct node, .drop = node_drop);
PNX_RC_DEFINE(node, struct node, node_type)

TEST(p6_drops_inside_a_drop_follow_in_the_order_of_their_unrefs) {
    struct node *nodes[5];
    for (int i = 4; i >= 0; i--) {
        struct node init = {.number = i};
        if (i == 0) {
            init.left = nodes[1];
            init.right = nodes[2];
        }
        if (i == 1) {
            init.left = nodes[3];
            init.right = nodes[4];
        }
        CHECK_EQ(node_new(&init, &nodes[i]), 0);
    }
    node_release(&nodes[0]);
    CHECK_EQ(n_order, 5);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(order[i], i);
}

/* ---- making ---- */

TEST(each_bad_descriptor_is_refused) {
    void *object = (void *)(uintptr_t)0x77;
    struct pnx_rc_type type = thing_type;
    CHECK_EQ(pnx_rc_new(NULL, NULL, &object), -EINVAL);
    CHECK_EQ(pnx_rc_new(&type, NULL, NULL), -EINVAL);
    type.size = 8;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    type = thing_type;
    type.name = NULL;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    type = thing_type;
    type.object_align = 24;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    type.object_align = 8192;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    type = thing_type;
    type.flags = 2;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    type = thing_type;
    type.reserved = 1;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    type = thing_type;
    test_env_init(&te);
    te.env.free = NULL;
    type.env = &te.env;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    test_env_init(&te);
    te.env.size = 8;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EINVAL);
    struct {
        struct pnx_rc_type type;
        uint64_t newer;
    } longer = {.type = thing_type, .newer = 1};
    longer.type.size = sizeof(longer);
    CHECK_EQ(pnx_rc_new(&longer.type, NULL, &object), -E2BIG); /* of a later library */
    type = thing_type;
    CHECK_EQ(pnx_rc_new_flexible(&type, NULL, SIZE_MAX, &object), -EOVERFLOW);
    type.object_size = SIZE_MAX - 8;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), -EOVERFLOW);
    type = thing_type;
    CHECK_EQ(pnx_rc_new_flexible(&type, NULL, SIZE_MAX - 80, &object), -EOVERFLOW);
    CHECK_EQ(pnx_rc_new_flexible(&type, NULL, (size_t)PTRDIFF_MAX, &object), -EOVERFLOW);
    CHECK(object == (void *)(uintptr_t)0x77);
}

TEST(an_env_without_an_allocator_uses_the_systems) {
    struct pnx_env env = {.size = sizeof(env)};
    thing_type.env = &env;
    struct thing *a = make(1, NULL);
    thing_release(&a);
}

struct text {
    size_t n;
    char bytes[];
};
static struct pnx_rc_type text_type = PNX_RC_TYPE(struct text);

TEST(flexible_objects_carry_and_copy_their_tail) {
    void *a = NULL;
    test_env_init(&te);
    text_type.env = &te.env;
    CHECK_EQ(pnx_rc_new_flexible(&text_type, &(struct text){.n = 6}, 6, &a), 0);
    struct text *text = a;
    CHECK_EQ(pnx_rc_size(text), sizeof(struct text) + 6);
    CHECK(pnx_rc_type_of(text) == &text_type);
    CHECK(memcmp(text->bytes, "\0\0\0\0\0\0", 6) == 0);
    memcpy(text->bytes, "hello", 6);
    void *b = pnx_rc_ref(a);
    CHECK_EQ(pnx_rc_make_mut(&b), 0);
    CHECK(a != b);
    CHECK_STR(((struct text *)b)->bytes, "hello");
    CHECK_EQ(pnx_rc_size(b), sizeof(struct text) + 6);
    pnx_rc_unref(a);
    pnx_rc_unref(b);
    test_env_check_empty(&te);
}

TEST(objects_are_aligned_as_their_type_asks) {
    test_env_init(&te);
    for (size_t align = 0; align <= 4096; align = align ? align * 2 : 1) {
        struct pnx_rc_type type = PNX_RC_TYPE(struct thing, .env = &te.env);
        type.object_align = align;
        void *object = NULL;
        CHECK_EQ(pnx_rc_new_flexible(&type, NULL, 3, &object), 0);
        size_t wanted = align > 16 ? align : 16;
        CHECK_EQ((uintptr_t)object % wanted, 0);
        memset(object, 0x11, sizeof(struct thing) + 3);
        struct pnx_weak weak = pnx_weak_make(object);
        pnx_rc_unref(object);
        pnx_weak_release(&weak);
        test_env_check_empty(&te);
    }
}

TEST(a_longer_descriptor_is_refused_only_for_its_tail) {
    struct {
        struct pnx_rc_type type;
        uint64_t newer;
    } longer = {.type = PNX_RC_TYPE(struct thing), .newer = 0};
    longer.type.size = sizeof(longer);
    void *object = NULL;
    CHECK_EQ(pnx_rc_new(&longer.type, NULL, &object), 0);
    pnx_rc_unref(object);
}

TEST(an_empty_struct_size_is_allowed) {
    struct pnx_rc_type type = {.size = sizeof(type), .name = "nothing"};
    void *object = NULL;
    CHECK_EQ(pnx_rc_new(&type, NULL, &object), 0);
    CHECK_EQ(pnx_rc_size(object), 0);
    pnx_rc_unref(object);
}

static int everything(struct test_env *env, void *ctx) {
    (void)ctx;
    (void)env;
    int result = 0;
    struct thing *a = NULL, *b = NULL;
    void *handle = NULL;
    int rc = thing_new(&(struct thing){.canary = CANARY}, &a);
    if (rc)
        return rc;
    b = thing_ref(a);
    rc = thing_make_mut(&b);
    if (rc == 0) {
        handle = b;
        rc = pnx_rc_update(&handle, edit, &result);
        b = handle;
    }
    struct thing *c = NULL;
    if (rc == 0)
        rc = thing_copy(a, &c);
    thing_release(&a);
    thing_release(&b);
    thing_release(&c);
    return rc;
}

TEST(each_allocation_may_fail) {
    use_env();
    test_fail_each_allocation(&te, everything, NULL);
}
