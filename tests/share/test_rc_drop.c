/* SPDX-License-Identifier: Apache-2.0 */
/* rc: P7 to P9 of patinox/rc.h, the layout that is inlined into programs, and what debug builds say. */
#include "harness/forks.h"
#include "share/rc.h"

#include <patinox/budget.h>
#include <patinox/rc.h>
#include <patinox/shutdown.h>
#include <patinox/stats.h>

#include <pthread.h>
#include <stddef.h>
#include <unistd.h>

struct thing {
    int number;
    struct pnx_weak self;
};

static int drops;
static char trace[64]; /* what ran, in order */

static void note(char c) {
    size_t n = strlen(trace);
    CHECK(n + 1 < sizeof(trace));
    trace[n] = c;
}

static void thing_drop(void *ctx, void *object) {
    struct thing *thing = object;
    (void)ctx;
    __atomic_add_fetch(&drops, 1, __ATOMIC_RELAXED);
    pnx_weak_release(&thing->self);
}
static int thing_clone(void *ctx, const void *object, void *ret_copy) {
    (void)ctx;
    ((struct thing *)ret_copy)->number = ((const struct thing *)object)->number;
    return 0;
}
static struct pnx_rc_type thing_type =
        PNX_RC_TYPE(struct thing, .clone = thing_clone, .drop = thing_drop);
PNX_RC_DEFINE(thing, struct thing, thing_type)

static struct test_env te;

static int set_ten(void *ctx, void *object) {
    (void)ctx;
    ((struct thing *)object)->number = 10;
    return 0;
}

static struct thing *make_thing(int number) {
    if (!thing_type.env) {
        test_env_init(&te);
        thing_type.env = &te.env;
    }
    struct thing *thing = NULL;
    CHECK_EQ(thing_new(&(struct thing){.number = number}, &thing), 0);
    return thing;
}

/* ---- layout ---- */

TEST(layout_of_the_counts_is_as_inlined_into_programs) {
    struct thing *thing = make_thing(1);
    const uint64_t *word = (const uint64_t *)(const void *)((const char *)thing - 24);
    CHECK_EQ(*word, UINT64_C(0x100000001));
    struct thing *other = thing_ref(thing);
    CHECK_EQ(*word, UINT64_C(0x200000001));
    struct pnx_weak weak = thing_weak(thing);
    CHECK_EQ(*word, UINT64_C(0x200000002));
    thing_release(&other);
    pnx_weak_release(&weak);
    CHECK_EQ(*word, UINT64_C(0x100000001));
    CHECK_EQ(PNX_RC_COUNTS_BEFORE_, 24);
    CHECK_EQ(PNX_RC_LIMIT_, INT64_C(0x80000000));
    thing_release(&thing);
}

TEST(layout_has_no_surprises_for_flexible_and_aligned_objects) {
    test_env_init(&te);
    for (size_t align = 1; align <= 4096; align *= 2)
        for (size_t extra = 0; extra <= 100; extra += 50) {
            struct pnx_rc_type type = PNX_RC_TYPE(struct thing, .env = &te.env);
            type.object_align = align;
            void *object = NULL;
            CHECK_EQ(pnx_rc_new_flexible(&type, NULL, extra, &object), 0);
            CHECK_EQ(*(const uint64_t *)(const void *)((const char *)object - 24),
                    UINT64_C(0x100000001));
            CHECK_EQ(pnx_rc_size(object), sizeof(struct thing) + extra);
            CHECK(pnx_rc_type_of(object) == &type);
            pnx_rc_unref(object);
        }
    test_env_check_empty(&te);
}

/* ---- P7: on_drop ---- */

static void note_arg(void *arg) {
    note(*(const char *)arg);
}

static void count(void *arg) {
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
}

static void note_drop(void *ctx, void *object) {
    (void)ctx, (void)object;
    note('D');
}

TEST(p7_callbacks_run_after_the_drop_last_registered_first) {
    struct pnx_rc_drop_node nodes[3] = {{0}};
    char names[] = "abc";
    thing_type.drop = note_drop;
    struct thing *thing = make_thing(1), *other = thing_ref(thing);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(thing_on_drop(thing, &nodes[i], note_arg, &names[i]), 0);
    thing_release(&thing);
    CHECK_STR(trace, "");
    thing_release(&other);
    CHECK_STR(trace, "Dcba");
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pnx_rc_on_drop_remove(&nodes[i]), -EALREADY);
    test_env_check_empty(&te);
}

TEST(p7_a_removed_callback_does_not_run_wherever_it_stood) {
    for (int gone = 0; gone < 3; gone++) {
        struct pnx_rc_drop_node nodes[3] = {{0}};
        char names[] = "abc";
        const char *expected[] = {"cb", "ca", "ba"};
        struct thing *thing = make_thing(1);
        memset(trace, 0, sizeof(trace));
        for (int i = 0; i < 3; i++)
            CHECK_EQ(pnx_rc_on_drop(thing, &nodes[i], note_arg, &names[i]), 0);
        CHECK_EQ(pnx_rc_on_drop_remove(&nodes[gone]), 0);
        CHECK_EQ(pnx_rc_on_drop_remove(&nodes[gone]), -EALREADY);
        thing_release(&thing);
        CHECK_STR(trace, expected[gone]);
    }
    struct pnx_rc_drop_node one = {0};
    char name = 'x';
    struct thing *thing = make_thing(1);
    memset(trace, 0, sizeof(trace));
    CHECK_EQ(pnx_rc_on_drop(thing, &one, note_arg, &name), 0);
    CHECK_EQ(pnx_rc_on_drop_remove(&one), 0);
    CHECK_EQ(pnx_rc_on_drop(thing, &one, note_arg, &name), 0); /* a node can be used again */
    thing_release(&thing);
    CHECK_STR(trace, "x");
    test_env_check_empty(&te);
}

TEST(p7_bad_registrations_are_refused) {
    struct pnx_rc_drop_node node = {0}, other = {0};
    char name = 'x';
    struct thing *thing = make_thing(1);
    CHECK_EQ(pnx_rc_on_drop(NULL, &node, note_arg, &name), -EINVAL);
    CHECK_EQ(pnx_rc_on_drop(thing, NULL, note_arg, &name), -EINVAL);
    CHECK_EQ(pnx_rc_on_drop(thing, &node, NULL, &name), -EINVAL);
    CHECK_EQ(pnx_rc_on_drop(thing, &node, note_arg, &name), 0);
    CHECK_EQ(pnx_rc_on_drop(thing, &node, note_arg, &name), -EBUSY);
    CHECK_EQ(pnx_rc_on_drop_remove(NULL), -EINVAL);
    CHECK_EQ(pnx_rc_on_drop_remove(&other), -EALREADY);
    thing_release(&thing);
    CHECK_STR(trace, "x");
}

static struct pnx_rc_drop_node late;

static void register_late(void *ctx, void *object) {
    (void)ctx;
    CHECK_EQ(pnx_rc_on_drop(object, &late, note_arg, trace), -ESTALE);
    note('D');
}

TEST(p7_a_dying_object_takes_no_callback) {
    thing_type.drop = register_late;
    struct thing *thing = make_thing(1);
    thing_release(&thing);
    CHECK_STR(trace, "D");
    test_env_check_empty(&te);
}

TEST(p7_copies_have_none_and_moves_take_them_along) {
    struct pnx_rc_drop_node nodes[2] = {{0}};
    char names[] = "ab";
    struct thing *thing = make_thing(1), *copy = NULL;
    CHECK_EQ(thing_on_drop(thing, &nodes[0], note_arg, &names[0]), 0);
    CHECK_EQ(thing_on_drop(thing, &nodes[1], note_arg, &names[1]), 0);
    CHECK_EQ(thing_copy(thing, &copy), 0);
    thing_release(&copy);
    CHECK_STR(trace, "");
    thing_type.flags = PNX_RC_MOVABLE;
    struct thing *before = thing;
    struct pnx_weak weak = thing_weak(thing);
    CHECK_EQ(thing_make_mut(&thing), 0);
    CHECK(thing != before);
    CHECK(thing_upgrade(&weak) == NULL);
    pnx_weak_release(&weak); /* the old memory is gone */
    CHECK_STR(trace, "");
    CHECK_EQ(pnx_rc_on_drop_remove(&nodes[1]), 0);
    thing_release(&thing);
    CHECK_STR(trace, "a");
    test_env_check_empty(&te);
}

struct owned {
    struct pnx_rc_drop_node node;
    struct thing *next;
};

static void free_owned(void *arg) {
    struct owned *owned = arg;
    thing_release(&owned->next); /* a drop inside a callback is queued, too */
    free(owned);
    __atomic_add_fetch(&drops, 1, __ATOMIC_RELAXED);
}

static void *release_thing(void *arg) {
    struct thing *thing = arg;
    thing_release(&thing);
    return NULL;
}

TEST(p7_a_callback_may_free_its_node_and_chains_need_no_stack) {
    struct thing *next = NULL;
    int n = 100000;
    for (int i = 0; i < n; i++) {
        struct owned *owned = calloc(1, sizeof(*owned));
        CHECK(owned);
        owned->next = next;
        next = make_thing(i);
        CHECK_EQ(thing_on_drop(next, &owned->node, free_owned, owned), 0);
    }
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    CHECK_EQ(pthread_attr_setstacksize(&attr, 256 << 10), 0);
    CHECK_EQ(pthread_create(&thread, &attr, release_thing, next), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(drops, 2 * n);
    test_env_check_empty(&te);
}

static struct pnx_rc_drop_node self_node, other_node;

static void remove_inside(void *arg) {
    (void)arg;
    CHECK_EQ(pnx_rc_on_drop_remove(&self_node), -EINPROGRESS);
    CHECK_EQ(pnx_rc_on_drop_remove(&other_node), 0);
    note('r');
}

TEST(p7_removing_inside_a_callback_never_waits) {
    char name = 'x';
    struct thing *thing = make_thing(1);
    CHECK_EQ(pnx_rc_on_drop(thing, &other_node, note_arg, &name), 0);
    CHECK_EQ(pnx_rc_on_drop(thing, &self_node, remove_inside, NULL), 0);
    thing_release(&thing);
    CHECK_STR(trace, "r");
}

static struct {
    pthread_barrier_t inside, go;
    int finished;
} slow;

static void slow_callback(void *arg) {
    (void)arg;
    pthread_barrier_wait(&slow.inside);
    pthread_barrier_wait(&slow.go);
    slow.finished = 1; /* plain: the remove that waited for it must see it */
}

static void *let_go(void *arg) {
    pthread_barrier_wait(&slow.go);
    return arg;
}

TEST(p7_a_removal_waits_for_a_callback_that_runs_elsewhere) {
    struct pnx_rc_drop_node node = {0};
    pthread_t thread;
    pthread_barrier_init(&slow.inside, NULL, 2);
    pthread_barrier_init(&slow.go, NULL, 2);
    struct thing *thing = make_thing(1);
    CHECK_EQ(pnx_rc_on_drop(thing, &node, slow_callback, NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, release_thing, thing), 0);
    pthread_barrier_wait(&slow.inside);
    pthread_t goer;
    CHECK_EQ(pthread_create(&goer, NULL, let_go, NULL), 0);
    CHECK_EQ(pnx_rc_on_drop_remove(&node), -EALREADY);
    CHECK_EQ(slow.finished, 1);
    pthread_join(thread, NULL);
    pthread_join(goer, NULL);
}

static struct thing *next_to_watch;
static struct pnx_rc_drop_node again_node;

static void watch_the_next(void *arg) {
    CHECK_EQ(thing_on_drop(next_to_watch, &again_node, watch_the_next, arg), 0);
    slow_callback(arg);
}

TEST(p7_a_removal_waits_for_a_callback_that_has_registered_itself_again) {
    pthread_t thread, goer;
    pthread_barrier_init(&slow.inside, NULL, 2);
    pthread_barrier_init(&slow.go, NULL, 2);
    struct thing *thing = make_thing(1);
    next_to_watch = make_thing(2);
    CHECK_EQ(thing_on_drop(thing, &again_node, watch_the_next, NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, release_thing, thing), 0);
    pthread_barrier_wait(&slow.inside);
    CHECK_EQ(pthread_create(&goer, NULL, let_go, NULL), 0);
    CHECK_EQ(pnx_rc_on_drop_remove(&again_node), 0); /* will not be called again */
    CHECK_EQ(slow.finished, 1);                      /* nor is it still running */
    pthread_join(thread, NULL);
    pthread_join(goer, NULL);
    thing_release(&next_to_watch);
    CHECK_EQ(slow.finished, 1);
}

static void *drop_hooked(void *arg) {
    struct pnx_rc_drop_node node = {0};
    char name = 'n';
    struct thing *thing = make_thing(2);
    (void)arg;
    CHECK_EQ(pnx_rc_on_drop(thing, &node, note_arg, &name), 0);
    thing_release(&thing);
    return NULL;
}

static void removes_in_child(void *ctx) {
    pthread_t thread;
    CHECK_EQ(pnx_rc_on_drop_remove(ctx), -EALREADY);
    /* A new thread here may get the stack on which the parent's thread runs its callback. */
    if (test_slow()) /* ThreadSanitizer allows no threads in such a child */
        drop_hooked(NULL);
    else if (pthread_create(&thread, NULL, drop_hooked, NULL) == 0)
        pthread_join(thread, NULL);
    CHECK_STR(trace, "n");
    CHECK_EQ(pnx_rc_on_drop_remove(ctx), -EALREADY);
    _exit(7);
}

static int churning;

static void *churn_hooks(void *arg) {
    (void)arg;
    while (__atomic_load_n(&churning, __ATOMIC_RELAXED)) {
        struct pnx_rc_drop_node node = {0};
        int called = 0;
        struct thing *thing = make_thing(3);
        CHECK_EQ(pnx_rc_on_drop(thing, &node, count, &called), 0);
        thing_release(&thing);
        CHECK_EQ(called, 1);
    }
    return NULL;
}

static void churns_in_child(void *ctx) {
    (void)ctx;
    drop_hooked(NULL);
    _exit(strcmp(trace, "n") == 0 ? 7 : 1);
}

TEST(p7_a_child_can_register_and_drop_whatever_its_parent_was_doing) {
    pthread_t thread;
    thing_type.env = test_fork_env();
    struct thing *first = make_thing(0);
    drop_hooked(NULL); /* the first one of the process; what is done once is not what is tested */
    memset(trace, 0, sizeof(trace));
    churning = 1;
    CHECK_EQ(pthread_create(&thread, NULL, churn_hooks, NULL), 0);
    for (int i = 0; i < (test_slow() ? 20 : 200); i++)
        CHECK_EQ(test_child(churns_in_child, NULL), 7);
    __atomic_store_n(&churning, 0, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    thing_release(&first);
}

TEST(p7_a_child_does_not_wait_for_callbacks_of_its_parent) {
    struct pnx_rc_drop_node node = {0};
    pthread_t thread;
    pthread_barrier_init(&slow.inside, NULL, 2);
    pthread_barrier_init(&slow.go, NULL, 2);
    struct thing *thing = make_thing(1);
    CHECK_EQ(pnx_rc_on_drop(thing, &node, slow_callback, NULL), 0);
    CHECK_EQ(pthread_create(&thread, NULL, release_thing, thing), 0);
    pthread_barrier_wait(&slow.inside);
    CHECK_EQ(test_child(removes_in_child, &node), 7);
    pthread_barrier_wait(&slow.go);
    pthread_join(thread, NULL);
}

/* ---- functions that end their thread ---- */

static bool ends_in_drop;

static void drop_ends_thread(void *ctx, void *object) {
    struct thing *thing = object;
    thing_drop(ctx, object);
    if (thing->number == 1 && ends_in_drop)
        pthread_exit(NULL);
}

static void hook_ends_thread(void *arg) {
    note_arg(arg);
    pthread_exit(NULL);
}

struct parent {
    struct thing *children[3];
};

static void parent_drop(void *ctx, void *object) {
    struct parent *parent = object;
    (void)ctx;
    for (int i = 0; i < 3; i++)
        thing_release(&parent->children[i]);
}

static void *release_parent(void *arg) {
    pnx_rc_unref(arg);
    note('!'); /* not reached */
    return NULL;
}

/* A parent with three children, of which the second one, or its callback, ends the thread that drops them. */
static void check_ended(bool in_drop) {
    struct pnx_rc_type parent_type = PNX_RC_TYPE(struct parent, .drop = parent_drop);
    struct pnx_rc_drop_node nodes[4] = {{0}};
    char names[] = "abcd";
    void *parent = NULL;
    pthread_t thread;
    ends_in_drop = in_drop;
    thing_type.drop = drop_ends_thread;
    struct thing *children[3] = {make_thing(0), make_thing(1), make_thing(2)};
    parent_type.env = &te.env;
    CHECK_EQ(pnx_rc_new(&parent_type, children, &parent), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(thing_on_drop(children[i], &nodes[i], note_arg, &names[i]), 0);
    CHECK_EQ(
            thing_on_drop(children[1], &nodes[3], in_drop ? note_arg : hook_ends_thread, &names[3]),
            0);
    CHECK_EQ(pthread_create(&thread, NULL, release_parent, parent), 0);
    pthread_join(thread, NULL);
    CHECK_STR(trace, "adbc"); /* all that was to be done */
    CHECK_EQ(drops, 3);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pnx_rc_on_drop_remove(&nodes[i]), -EALREADY); /* none is taken for running */
    test_env_check_empty(&te);
}

TEST(p7_a_callback_that_ends_its_thread_leaves_nothing_undone) {
    check_ended(false);
}

TEST(p1_a_drop_that_ends_its_thread_leaves_nothing_undone) {
    check_ended(true);
}

/* Threads register, remove and let go of one object; each registration is called or removed, never both. */
struct race {
    struct thing *shared;
    int rounds;
    int called, removed, registered;
    pthread_barrier_t barrier;
};

static void register_and_remove(unsigned index, void *ctx) {
    struct race *race = ctx;
    for (int i = 0; i < race->rounds; i++) {
        struct pnx_rc_drop_node node = {0};
        int mine = 0;
        if (index == 0)
            race->shared = make_thing(i);
        pthread_barrier_wait(&race->barrier);
        struct thing *held = thing_ref(race->shared);
        pthread_barrier_wait(&race->barrier);
        if (index == 0)
            pnx_rc_unref(race->shared);
        CHECK_EQ(thing_on_drop(held, &node, count, &mine), 0);
        thing_release(&held);
        int rc = pnx_rc_on_drop_remove(&node); /* others may still hold it, or be dropping it */
        CHECK(rc == 0 || rc == -EALREADY);
        CHECK_EQ(__atomic_load_n(&mine, __ATOMIC_RELAXED), rc == -EALREADY);
        pthread_barrier_wait(&race->barrier);
    }
}

TEST(p7_each_callback_is_called_or_removed_never_both) {
    struct race race = {.rounds = test_slow() ? 1000 : 10000};
    (void)test_seed();
    pthread_barrier_init(&race.barrier, NULL, 3);
    struct thing *first = make_thing(0);
    test_threads(3, register_and_remove, &race);
    thing_release(&first);
    CHECK_EQ(drops, race.rounds + 1);
    test_env_check_empty(&te);
}

#ifdef PNX_DEBUG
static void callback_without_record(void *arg) {
    (void)arg;
    note('c');
}
#endif

TEST(p7_callbacks_run_on_a_thread_without_a_record_too) {
#ifdef PNX_DEBUG
    struct pnx_rc_drop_node node = {0};
    struct thing *thing = make_thing(1);
    CHECK_EQ(pnx_rc_on_drop(thing, &node, callback_without_record, NULL), 0);
    pnx__rc_unref_without_record(thing);
    CHECK_STR(trace, "c");
    test_env_check_empty(&te);
#else
    test_skip("only debug builds can be made to have no record");
#endif
}

/* ---- P8: cyclic ---- */

static struct pnx_weak outside;
static int result;

static int make_cyclic(void *ctx, void *object, const struct pnx_weak *self) {
    struct thing *thing = object;
    CHECK(ctx == trace);
    CHECK_EQ(thing->number, 5);
    CHECK(pnx_weak_upgrade(self) == NULL);
    CHECK_EQ(pnx_rc_count(object), 0);
    struct pnx_rc_drop_node node = {0};
    CHECK_EQ(pnx_rc_on_drop(object, &node, note_arg, trace), -ESTALE);
    outside = pnx_weak_ref(self);
    if (result)
        return result;
    thing->self = pnx_weak_ref(self);
    CHECK(pnx_weak_upgrade(&thing->self) == NULL);
    return 0;
}

TEST(p8_a_cyclic_object_can_be_upgraded_to_once_it_is_finished) {
    struct thing *first = make_thing(0), *thing = NULL;
    CHECK_EQ(thing_new_cyclic(&(struct thing){.number = 5}, make_cyclic, trace, &thing), 0);
    CHECK_EQ(pnx_rc_count(thing), 1);
    CHECK_EQ(pnx_rc_weak_count(thing), 2);
    CHECK(!thing_unique(thing));
    struct thing *again = thing_upgrade(&thing->self);
    CHECK(again == thing);
    thing_release(&again);
    again = thing_upgrade(&outside);
    CHECK(again == thing);
    thing_release(&again);
    thing_release(&thing);
    CHECK_EQ(drops, 1);
    CHECK(thing_upgrade(&outside) == NULL);
    pnx_weak_release(&outside);
    thing_release(&first);
    test_env_check_empty(&te);
}

TEST(p8_a_failing_maker_frees_everything) {
    struct thing *first = make_thing(0), *thing = NULL;
    result = -EIO;
    CHECK_EQ(thing_new_cyclic(&(struct thing){.number = 5}, make_cyclic, trace, &thing), -EIO);
    CHECK(thing == NULL);
    CHECK_EQ(te.live_blocks, 2); /* the weak reference that is left keeps the memory */
    CHECK(thing_upgrade(&outside) == NULL);
    pnx_weak_release(&outside);
    CHECK_EQ(te.live_blocks, 1);
    result = 3; /* not an error code */
    CHECK_EQ(thing_new_cyclic(&(struct thing){.number = 5}, make_cyclic, trace, &thing), -EINVAL);
    pnx_weak_release(&outside);
    CHECK_EQ(drops, 0);
    te.fail_at = te.allocations + 1;
    CHECK_EQ(thing_new_cyclic(&(struct thing){.number = 5}, make_cyclic, trace, &thing), -ENOMEM);
    te.fail_at = 0;
    void *object = NULL;
    CHECK_EQ(pnx_rc_new_cyclic(&thing_type, NULL, 0, NULL, NULL, &object), -EINVAL);
    CHECK_EQ(pnx_rc_new_cyclic(&thing_type, NULL, 0, make_cyclic, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_rc_new_cyclic(NULL, NULL, 0, make_cyclic, NULL, &object), -EINVAL);
    CHECK_EQ(
            pnx_rc_new_cyclic(&thing_type, NULL, SIZE_MAX, make_cyclic, NULL, &object), -EOVERFLOW);
    thing_release(&first);
    test_env_check_empty(&te);
}

static int ref_too_early(void *ctx, void *object, const struct pnx_weak *self) {
    (void)ctx, (void)self;
    pnx_rc_ref(object);
    return 0;
}

static void *volatile leaked;

TEST(p8_a_reference_taken_by_the_maker_leaks_the_object) {
    struct thing *first = make_thing(0), *thing = NULL;
    CHECK_EQ(thing_new_cyclic(NULL, ref_too_early, NULL, &thing), 0);
    CHECK_EQ(pnx_rc_saturated(), 1);
    leaked = thing;
    thing_release(&thing);
    CHECK_EQ(drops, 0);
    thing_release(&first);
}

static int flexible_cyclic(void *ctx, void *object, const struct pnx_weak *self) {
    (void)self;
    memcpy((char *)object + sizeof(struct thing), ctx, 6);
    return 0;
}

TEST(p8_cyclic_objects_may_be_flexible) {
    struct thing *first = make_thing(0);
    char text[] = "hello";
    void *object = NULL;
    CHECK_EQ(pnx_rc_new_cyclic(&thing_type, NULL, 6, flexible_cyclic, text, &object), 0);
    CHECK_EQ(pnx_rc_size(object), sizeof(struct thing) + 6);
    CHECK_STR((char *)object + sizeof(struct thing), "hello");
    pnx_rc_unref(object);
    thing_release(&first);
    test_env_check_empty(&te);
}

/* ---- P9: tallies ---- */

static struct pnx_rc_tally *tally;
static struct pnx_rc_type counted_type =
        PNX_RC_TYPE(struct thing, .clone = thing_clone, .drop = thing_drop, .tally = &tally);
PNX_RC_DEFINE(counted, struct thing, counted_type)

static struct pnx_rc_tally_stats tally_stats(void) {
    struct pnx_rc_tally_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_rc_tally_read_stats(tally, &stats), 0);
    return stats;
}

static struct thing *make_counted(void) {
    struct thing *thing = NULL;
    CHECK_EQ(counted_new(NULL, &thing), 0);
    return thing;
}

TEST(p9_a_tally_counts_each_object_once) {
    struct thing *uncounted = make_thing(0);
    counted_type.env = &te.env;
    counted_type.flags = PNX_RC_MOVABLE;
    struct thing *early = make_counted(); /* no tally is there yet */
    CHECK_EQ(pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.name = "things", .env = &te.env), NULL, &tally),
            0);
    struct thing *a = make_counted(), *b = counted_ref(a), *c = NULL;
    struct pnx_rc_tally_stats stats = tally_stats();
    CHECK_EQ(stats.live, 1);
    uint64_t one = stats.bytes;
    CHECK(one >= sizeof(struct thing) + 48);
    CHECK_EQ(counted_make_mut(&b), 0); /* a copy */
    CHECK_EQ(counted_make_mut(&b), 0); /* exclusive already */
    CHECK_EQ(counted_try_update(b, set_ten, NULL), 0);
    CHECK_EQ(counted_copy(a, &c), 0);
    struct pnx_weak weak = counted_weak(c);
    CHECK_EQ(counted_make_mut(&c), 0); /* moved; the old memory stays for the weak one */
    stats = tally_stats();
    CHECK_EQ(stats.live, 4);
    CHECK_EQ(stats.bytes, 4 * one);
    CHECK_EQ(stats.made, 4);
    CHECK_EQ(stats.copies, 2);
    CHECK_EQ(stats.moves, 1);
    CHECK_EQ(stats.exclusive_writes, 2);
    CHECK_EQ(stats.leaked, 0);
#ifdef PNX_DEBUG
    CHECK_EQ(stats.clones, 1);
#endif
    pnx_weak_release(&weak);
    counted_release(&a);
    counted_release(&b);
    counted_release(&early);
    stats = tally_stats();
    CHECK_EQ(stats.live, 1);
    CHECK_EQ(stats.bytes, one);
    pnx_rc_tally_release(&tally); /* c keeps it */
    CHECK(tally == NULL);
    counted_release(&c);
    pnx_rc_tally_release(&tally);
    pnx_rc_tally_release(NULL);
    thing_release(&uncounted);
    test_env_check_empty(&te);
}

TEST(p9_a_tally_charges_its_budget_and_a_refusal_is_no_object) {
    struct pnx_budget *budget = NULL;
    struct thing *uncounted = make_thing(0);
    counted_type.env = &te.env;
    CHECK_EQ(pnx_budget_create(PNX_BUDGET_OPTS(.name = "small", .hard = 4096), NULL, &budget), 0);
    CHECK_EQ(pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.budget = budget, .env = &te.env), NULL, &tally),
            0);
    struct thing *made[64] = {NULL}, *none = NULL;
    int n = 0;
    while (n < 64 && counted_new(NULL, &made[n]) == 0)
        n++;
    CHECK(n > 10 && n < 64);
    struct pnx_rc_tally_stats stats = tally_stats();
    CHECK_EQ(stats.live, n);
    CHECK_EQ(stats.refusals, 1);
    struct pnx_budget_stats used = {.size = sizeof(used)};
    CHECK_EQ(pnx_budget_read_stats(budget, &used), 0);
    CHECK_EQ(used.used, stats.bytes);
    counted_release(&made[0]);
    te.fail_at = te.allocations + 1;
    CHECK_EQ(counted_new(NULL, &none), -ENOMEM);
    te.fail_at = 0;
    CHECK_EQ(tally_stats().made, n);
    CHECK_EQ(counted_new(NULL, &made[0]), 0);
    for (int i = 0; i < n; i++)
        counted_release(&made[i]);
    CHECK_EQ(pnx_budget_read_stats(budget, &used), 0);
    CHECK_EQ(used.used, 0);
    pnx_rc_tally_release(&tally);
    pnx_budget_release(&budget);
    thing_release(&uncounted);
    test_env_check_empty(&te);
}

static uint64_t row_bytes;

static int find_row(void *ctx, const struct pnx_resource_info *info) {
    (void)ctx;
    if (strcmp(info->type, "rc objects") != 0)
        return 0;
    CHECK_STR(info->name, "things");
    CHECK_CONTAINS(info->site, "test_rc_drop.c:");
    row_bytes = info->bytes;
    return 1;
}

TEST(p9_the_row_shows_the_bytes_and_a_shutdown_what_has_leaked) {
    struct pnx_registry *registry = NULL;
    struct pnx_shutdown_report *report = NULL;
    struct thing *made[1000];
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_rc_tally_create(
                     PNX_RC_TALLY_OPTS(.name = "things", .registry = registry), NULL, &tally),
            0);
    CHECK_EQ(pnx_registry_each(registry, find_row, NULL), 1);
    CHECK_EQ(row_bytes, 0);
    for (int i = 0; i < 1000; i++)
        made[i] = make_counted();
    CHECK_EQ(pnx_registry_each(registry, find_row, NULL), 1);
    uint64_t bytes = tally_stats().bytes;
    CHECK(row_bytes <= bytes && row_bytes >= bytes - bytes / 8 - 4096);
    for (int i = 1; i < 1000; i++)
        counted_release(&made[i]);
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_SEC, &report), -EBUSY);
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.failed, 1);
    pnx_shutdown_report_release(&report);
    counted_release(&made[0]);
    pnx_rc_tally_release(&tally);
    pnx_registry_release(&registry);
}

static int make_tally(struct test_env *env, void *ctx) {
    (void)ctx;
    int rc = pnx_rc_tally_create(PNX_RC_TALLY_OPTS(.env = &env->env), NULL, &tally);
    pnx_rc_tally_release(&tally);
    return rc;
}

TEST(p9_making_a_tally_fails_cleanly) {
    struct pnx_error err;
    struct pnx_rc_tally_opts bad = {0};
    test_env_init(&te);
    test_fail_each_allocation(&te, make_tally, NULL);
    CHECK_EQ(pnx_rc_tally_create(&bad, &err, &tally), -EINVAL);
    CHECK_EQ(pnx_rc_tally_create(NULL, &err, NULL), -EINVAL);
    CHECK_EQ(pnx_rc_tally_read_stats(NULL, NULL), -EINVAL);
    struct pnx_registry *closed = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &closed), 0);
    CHECK_EQ(pnx_registry_shutdown(closed, PNX_SEC, NULL), 0);
    CHECK_EQ(pnx_rc_tally_create(
                     PNX_RC_TALLY_OPTS(.registry = closed, .env = &te.env), &err, &tally),
            -ESHUTDOWN);
    pnx_registry_release(&closed);
    test_env_check_empty(&te);
}

/* ---- debug builds ---- */

#ifdef PNX_DEBUG
static struct other { int x; } other_struct;
static const struct pnx_rc_type other_type = PNX_RC_TYPE(struct other);
PNX_RC_DEFINE(other, struct other, other_type)

static void ref_anything(void *ctx) {
    pnx_rc_ref(ctx);
}
static void release_as_other(void *ctx) {
    struct other *other = ctx;
    other_release(&other);
}
static void upgrade_as_other(void *ctx) {
    other_release(&(struct other *){other_upgrade(&(struct pnx_weak){ctx})});
}
#endif

TEST(debug_builds_name_the_wrong_object) {
#ifdef PNX_DEBUG
    struct {
        char before[64];
        struct other other;
    } stack = {{0}, other_struct};
    const char *said = test_abort(ref_anything, &stack.other);
    CHECK_CONTAINS(said, "patinox: pnx_rc_ref: ");
    CHECK_CONTAINS(said, "is not an object of rc\n");
    struct thing *thing = make_thing(1);
    said = test_abort(release_as_other, thing);
    CHECK_CONTAINS(said, "patinox: other_release: ");
    CHECK_CONTAINS(said, "is a struct thing, not a struct other\n");
    CHECK_CONTAINS(test_abort(upgrade_as_other, thing), "patinox: other_upgrade: ");
    thing_release(&thing);
#else
    test_skip("only debug builds look");
#endif
}

TEST(typed_functions_do_what_the_untyped_ones_do) {
    struct thing *thing = make_thing(1), *second = thing_ref(thing), *flexible = NULL;
    CHECK_EQ(thing_try_update(thing, set_ten, NULL), PNX_E_SHARED);
    CHECK_EQ(thing_update(&second, set_ten, NULL), 0);
    CHECK(second != thing && second->number == 10 && thing->number == 1);
    CHECK_EQ(thing_try_update(thing, set_ten, NULL), 0);
    CHECK_EQ(thing->number, 10);
    CHECK_EQ(thing_new_flexible(NULL, 8, &flexible), 0);
    CHECK_EQ(pnx_rc_size(flexible), sizeof(struct thing) + 8);
    CHECK_EQ(thing_update(NULL, set_ten, NULL), -EINVAL);
    CHECK_EQ(thing_make_mut(NULL), -EINVAL);
    CHECK_EQ(thing_copy(thing, NULL), -EINVAL);
    CHECK_EQ(thing_new(NULL, NULL), -EINVAL);
    CHECK_EQ(thing_new_flexible(NULL, 8, NULL), -EINVAL);
    CHECK_EQ(thing_new_cyclic(NULL, flexible_cyclic, NULL, NULL), -EINVAL);
    thing_release(&thing);
    thing_release(&second);
    thing_release(&flexible);
    test_env_check_empty(&te);
}
