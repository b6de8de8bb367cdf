/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cmap_hostile.c - what may go wrong around a map: writers that come at the worst moment, functions that end
 * their thread or fork, circles over other things than maps, handles that are none.
 */
#include "harness/harness.h"
#include "share/cmap.h"
#include "share/rc.h"
#include "share/reclaim.h"

#include <patinox/snapshot.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void put_word(struct pnx_cmap *map, uint64_t key, uint64_t value) {
    CHECK_EQ(pnx_cmap_put(map, &key, sizeof(key), value), 0);
}

static void end(struct pnx_cmap **map) {
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(*map, &err) == 0, "%s", err.message);
    pnx_cmap_release(map);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
}

/* ---- a writer between the decision to resize and the resize ---- */

/* An environment that lets a writer in when memory for a table is asked for: no lock is held then. */
struct intruder {
    struct test_env te; /* first: its address is the env's ctx */
    void *(*alloc)(void *ctx, size_t size, size_t align);
    struct pnx_cmap *map;
    uint64_t from, to; /* keys that it puts, once */
};

static void *intrude(void *ctx, size_t size, size_t align) {
    struct intruder *intruder = ctx;
    uint64_t to = intruder->to;
    intruder->to = 0;
    for (uint64_t key = intruder->from; key < to; key++)
        put_word(intruder->map, key, key);
    return intruder->alloc(ctx, size, align);
}

static struct pnx_cmap *intruded_map(struct intruder *intruder) {
    memset(intruder, 0, sizeof(*intruder));
    test_env_init(&intruder->te);
    intruder->alloc = intruder->te.env.alloc;
    intruder->te.env.alloc = intrude;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.env = &intruder->te.env, .key_size = 8, .shards = 1),
                     NULL, &intruder->map),
            0);
    return intruder->map;
}

static void check_words(struct pnx_cmap *map, uint64_t n) {
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(map, &err) == 0, "%s", err.message);
    CHECK_EQ(pnx_cmap_len(map), n);
    for (uint64_t key = 0; key < n; key++) {
        uint64_t value = 0;
        CHECK_EQ(pnx_cmap_get_word(map, key, &value), 0);
        CHECK_EQ(value, key);
    }
}

TEST_LIMIT(p7_what_comes_while_a_shard_is_about_to_shrink_finds_room, 20) {
    static struct intruder intruder;
    struct pnx_cmap *map = intruded_map(&intruder);
    for (uint64_t key = 0; key < 4000; key++)
        put_word(map, key, key);
    for (uint64_t key = 10; key < 4000; key++)
        CHECK_EQ(pnx_cmap_remove(map, &key, 8, NULL), 0);
    intruder.from = 10;
    intruder.to = 3000; /* many more than the table will have slots that shrink is having made */
    CHECK_EQ(pnx_cmap_shrink(map), 0);
    check_words(map, 3000);
    end(&map);
    test_env_check_empty(&intruder.te);
}

TEST(reserve_makes_room_though_a_writer_resizes_first) {
    static struct intruder intruder;
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    struct pnx_cmap *map = intruded_map(&intruder);
    put_word(map, 0, 0);
    intruder.from = 1;
    intruder.to = 1000;
    CHECK_EQ(pnx_cmap_reserve(map, 100000), 0);
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    uint64_t resizes = stats.resizes;
    for (uint64_t key = 1000; key < 100000; key++)
        put_word(map, key, key);
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    CHECK_EQ(stats.resizes, resizes);
    check_words(map, 100000);
    end(&map);
    test_env_check_empty(&intruder.te);
}

/* ---- lookups run nobody's functions, and wait for nobody ---- */

static int ran;

static void note_run(struct pnx_reclaim_node *node) {
    (void)node;
    ran++;
}

/* A map whose only shard is between two tables. */
static struct pnx_cmap *moving_map(struct pnx_reclaim *domain, uint64_t *ret_n) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.key_size = 8, .shards = 1, .domain = domain), NULL, &map),
            0);
    uint64_t n = 0;
    while (n < 60000 || !map->shards[0].target) {
        put_word(map, n, n);
        n++;
    }
    *ret_n = n;
    return map;
}

static void look_until_moved(struct pnx_cmap *map, uint64_t n) {
    for (unsigned rounds = 0; map->shards[0].target; rounds++) {
        CHECK(rounds < 10);
        for (uint64_t key = 0; key < n; key++) {
            uint64_t value;
            CHECK_EQ(pnx_cmap_get_word(map, key, &value), 0);
        }
    }
}

TEST(p2_a_lookup_that_ends_a_move_runs_no_function_of_anybody) {
    enum { N = 200 };
    static struct pnx_reclaim_node nodes[N];
    uint64_t n;
    struct pnx_cmap *map = moving_map(NULL, &n);
    for (int i = 0; i < N; i++)
        pnx_reclaim_retire(NULL, &nodes[i], note_run, 1);
    look_until_moved(map, n);
    CHECK_EQ(ran, 0); /* it could want a lock that is held around the lookup */
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(ran, N);
    end(&map);
}

static pthread_barrier_t inside, go;

static void *stay_in_section(void *domain) {
    pnx_reclaim_enter(domain);
    pthread_barrier_wait(&inside);
    pthread_barrier_wait(&go);
    pnx_reclaim_exit(domain);
    return NULL;
}

TEST(p2_a_lookup_that_ends_a_move_waits_for_no_reader) {
    enum { N = 127 };
    static struct pnx_reclaim_node nodes[N];
    struct pnx_reclaim_stats stats = {.size = sizeof(stats)};
    struct pnx_reclaim *domain = NULL;
    pthread_t thread;
    uint64_t n;
    pthread_barrier_init(&inside, NULL, 2);
    pthread_barrier_init(&go, NULL, 2);
    CHECK_EQ(pnx_reclaim_create(
                     PNX_RECLAIM_OPTS(.max_pending_objects = 1, .assist_ns = 1), NULL, &domain),
            0);
    struct pnx_cmap *map = moving_map(domain, &n);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    CHECK_EQ(pthread_create(&thread, NULL, stay_in_section, domain), 0);
    pthread_barrier_wait(&inside);
    for (int i = 0; i < N; i++) /* the next one that is retired looks at the limits, again */
        pnx_reclaim_retire(domain, &nodes[i], note_run, 1);
    CHECK_EQ(pnx_reclaim_read_stats(domain, &stats), 0);
    uint64_t throttled = stats.throttled;
    CHECK(throttled > 0);
    look_until_moved(map, n);
    CHECK_EQ(pnx_reclaim_read_stats(domain, &stats), 0);
    CHECK_EQ(stats.throttled, throttled);
    pthread_barrier_wait(&go);
    pthread_join(thread, NULL);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    pnx_cmap_release(&map);
    CHECK_EQ(pnx_reclaim_barrier(domain, PNX_NEVER), 0);
    pnx_reclaim_release(&domain);
}

TEST(p2_batches_end_a_move_too) {
    uint64_t n;
    struct pnx_cmap *map = moving_map(NULL, &n);
    for (uint64_t rounds = 0; map->shards[0].target; rounds++) {
        struct pnx_cmap_item item = {.key = &rounds, .key_size = 8};
        CHECK(rounds < n);
        CHECK_EQ(pnx_cmap_get_batch(map, &item, 1), 1);
        CHECK_EQ(item.value, rounds);
    }
    end(&map);
}

/* ---- functions that do not return ---- */

struct object {
    int number;
};
static int dropped;
static void drop_object(void *ctx, void *object) {
    (void)ctx, (void)object;
    __atomic_add_fetch(&dropped, 1, __ATOMIC_RELAXED);
}
static const struct pnx_rc_type object_type = PNX_RC_TYPE(struct object, .drop = drop_object);

static uint64_t new_object(int number) {
    void *object = NULL;
    CHECK_EQ(pnx_rc_new(&object_type, &(struct object){number}, &object), 0);
    return pnx_cmap_value(object);
}

static int end_thread(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)ctx, (void)current, (void)ret_value;
    pthread_exit(NULL);
}
static int end_thread_making(void *ctx, uint64_t *ret_value) {
    (void)ctx, (void)ret_value;
    pthread_exit(NULL);
}

static void *compute_and_end(void *map) {
    (void)!pnx_cmap_compute(map, "a", 1, end_thread, NULL, NULL);
    CHECK(false);
    return NULL;
}
static void *make_and_end(void *map) {
    uint64_t value;
    (void)!pnx_cmap_get_or_insert_with(map, "b", 1, end_thread_making, NULL, NULL, &value);
    CHECK(false);
    return NULL;
}

TEST(p3_a_function_that_ends_its_thread_leaves_the_key_usable) {
    static struct test_env te;
    pthread_t thread;
    struct pnx_cmap *map = NULL;
    test_env_init(&te);
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.env = &te.env, .flags = PNX_CMAP_RC, .shards = 1,
                                     .wait_timeout_ns = PNX_NEVER),
                     NULL, &map),
            0);
    uint64_t object = new_object(1);
    CHECK_EQ(pnx_cmap_put(map, "a", 1, object), 0);
    pnx_rc_unref(pnx_cmap_object(object));
    CHECK_EQ(pthread_create(&thread, NULL, compute_and_end, map), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(pthread_create(&thread, NULL, make_and_end, map), 0);
    pthread_join(thread, NULL);
    CHECK(pnx__list_empty(&map->shards[0].calls));
    CHECK_EQ(pnx_rc_count(pnx_cmap_object(object)), 1); /* the map's: the function's has gone */
    object = new_object(2);
    CHECK_EQ(pnx_cmap_put(map, "a", 1, object), 0);
    CHECK_EQ(pnx_cmap_put(map, "b", 1, object), 0);
    pnx_rc_unref(pnx_cmap_object(object));
    CHECK_EQ(pnx_cmap_clear(map), 0);
    end(&map);
    CHECK_EQ(dropped, 2);
    test_env_check_empty(&te);
}

/* ---- functions that fork ---- */

static int fork_inside(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)current;
    *(pid_t *)ctx = fork();
    *ret_value = new_object(2);
    return PNX_CMAP_STORE;
}

/* The child's other threads are gone with what they were doing: it must not so much as look at a shard's lock. */
TEST(p3_a_function_that_forks_writes_in_the_parent_only) {
    pid_t child = -1;
    int status;
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.flags = PNX_CMAP_RC, .shards = 1), NULL, &map), 0);
    uint64_t value = new_object(1);
    CHECK_EQ(pnx_cmap_put(map, "a", 1, value), 0);
    pnx_rc_unref(pnx_cmap_object(value));
    int rc = pnx_cmap_compute(map, "a", 1, fork_inside, &child, NULL);
    int found = pnx_cmap_get(map, "a", 1, &value);
    int number = found == 0 ? ((struct object *)pnx_cmap_object(value))->number : 0;
    if (child == 0)
        _exit(rc == -ESHUTDOWN && number == 1 && pnx__thread()->latches == 0 ? 7 : 1);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(rc, 0);
    CHECK_EQ(number, 2);
    pnx_rc_unref(pnx_cmap_object(value));
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 7);
    end(&map);
}

static int fork_making(void *ctx, uint64_t *ret_value) {
    return fork_inside(ctx, NULL, ret_value) == PNX_CMAP_STORE ? 0 : -EINVAL;
}

TEST(p3_a_maker_that_forks_inserts_in_the_parent_only) {
    pid_t child = -1;
    int status;
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.flags = PNX_CMAP_RC, .shards = 1), NULL, &map), 0);
    uint64_t made = 0, value = 0;
    struct pnx_error err = {0};
    int rc = pnx_cmap_get_or_insert_with(map, "a", 1, fork_making, &child, &err, &made);
    int found = pnx_cmap_get(map, "a", 1, &value);
    if (child == 0) { /* the object that was made there has been let go */
        bool right = rc == -ESHUTDOWN && strstr(err.message, "a forked child") != NULL &&
                     made == 0 && found == -ENOENT && pnx__thread()->latches == 0 && dropped == 1;
        _exit(right ? 7 : 1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(rc, 0);
    CHECK_EQ(found, 0);
    CHECK(made == value);
    pnx_rc_unref(pnx_cmap_object(made));
    pnx_rc_unref(pnx_cmap_object(value));
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 7);
    end(&map);
    CHECK_EQ(dropped, 1);
}

/* ---- objects with too many references ---- */

#ifdef PNX_DEBUG
static const uint64_t object_key = 1;
static void *volatile leaked[5]; /* on purpose: leak checkers see that they are known */
static int n_leaked;

static int look_up_one(struct pnx_cmap *map, uint64_t *ret_value) {
    return pnx_cmap_get(map, &object_key, sizeof(object_key), ret_value);
}

static int look_up_batch(struct pnx_cmap *map, uint64_t *ret_value) {
    const uint64_t other = 2;
    struct pnx_cmap_item items[] = {
            {.key = &other, .key_size = sizeof(other)},
            {.key = &object_key, .key_size = sizeof(object_key)},
    };
    CHECK_EQ(pnx_cmap_get_batch(map, items, 2), 1);
    *ret_value = items[1].value;
    return items[1].code;
}

static int look_up_words(struct pnx_cmap *map, uint64_t *ret_value) {
    const uint64_t keys[] = {2, object_key};
    uint64_t values[2] = {0}, found;
    CHECK_EQ(pnx_cmap_get_words(map, keys, 2, values, &found), 1);
    CHECK_EQ(found, 2);
    *ret_value = values[1];
    return 0;
}

/* The lookup whose reference does not fit reports it, under no lock and in no section, and the object leaks. */
static void check_saturates(uint32_t key_size, int (*look_up)(struct pnx_cmap *, uint64_t *)) {
    uint64_t reported = pnx_rc_saturated(), value = 0;
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.flags = PNX_CMAP_RC, .key_size = key_size), NULL, &map),
            0);
    uint64_t object = new_object(1);
    CHECK(n_leaked < 5);
    leaked[n_leaked++] = pnx_cmap_object(object);
    CHECK_EQ(pnx_cmap_put(map, &object_key, sizeof(object_key), object), 0);
    pnx__rc_set_counts(pnx_cmap_object(object), UINT32_C(0x7fffffff), 1);
    CHECK_EQ(look_up(map, &value), 0); /* the last one in range */
    CHECK(value == object);
    CHECK_EQ(pnx_rc_saturated(), reported);
    CHECK_EQ(look_up(map, &value), 0);
    CHECK(value == object);
    CHECK_EQ(pnx_rc_saturated(), reported + 1);
    CHECK_EQ(look_up(map, &value), 0);
    CHECK_EQ(pnx_rc_saturated(), reported + 1); /* once */
    end(&map);
    CHECK_EQ(dropped, 0);
}
#endif

TEST(p6_an_object_with_too_many_references_is_reported_once_by_whichever_lookup_meets_it) {
#ifdef PNX_DEBUG
    check_saturates(sizeof(object_key), look_up_one);
    check_saturates(sizeof(object_key), look_up_batch);
    check_saturates(sizeof(object_key), look_up_words);
    check_saturates(0, look_up_one);
    check_saturates(0, look_up_batch);
#else
    test_skip("counts are set only in debug builds");
#endif
}

/* ---- re-entry ---- */

struct reentry {
    struct pnx_cmap *map;
    int calls;
};

static int visit_nothing(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)key, (void)key_size, (void)value;
    ++*(int *)ctx;
    return 0;
}
static bool keep_nothing(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)ctx, (void)key, (void)key_size, (void)value;
    return false;
}

/* Whatever concerns other keys is done; what would write to ours is refused; nothing hangs. */
static int use_the_map(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct reentry *reentry = ctx;
    struct pnx_cmap *map = reentry->map;
    uint64_t removed = 0, other = 77;
    CHECK(current && *current == 1);
    reentry->calls++;
    CHECK_EQ(pnx_cmap_len(map), 100);
    CHECK_EQ(pnx_cmap_check(map, NULL), 0);
    CHECK_EQ(pnx_cmap_reserve(map, 5000), 0);
    CHECK_EQ(pnx_cmap_shrink(map), 0);
    int met = 0;
    CHECK_EQ(pnx_cmap_foreach(map, visit_nothing, &met), 0);
    CHECK_EQ(met, 100);
    CHECK_EQ(pnx_cmap_put(map, &other, 8, 1), 0);
    int rc = pnx_cmap_retain(map, keep_nothing, NULL, &removed);
    CHECK(rc == -EDEADLK && removed < 100); /* at our key */
    CHECK_EQ(pnx_cmap_clear(map), -EDEADLK);
    *ret_value = 2;
    return PNX_CMAP_STORE;
}

TEST(p4_a_function_may_do_with_the_map_what_does_not_concern_its_key) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(
            pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .shards = 1, .wait_timeout_ns = PNX_NEVER),
                    NULL, &map),
            0);
    for (uint64_t key = 0; key < 100; key++)
        put_word(map, key, 1);
    struct reentry reentry = {.map = map};
    uint64_t key = 5, value = 0;
    CHECK_EQ(pnx_cmap_compute(map, &key, 8, use_the_map, &reentry, NULL), 0);
    CHECK_EQ(reentry.calls, 1);
    CHECK_EQ(pnx_cmap_get_word(map, 5, &value), 0);
    CHECK_EQ(value, 2);
    end(&map);
}

static int release_inside(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct pnx_cmap **handle = ctx;
    (void)current;
    pnx_cmap_release(handle); /* not the last one: the caller of compute has one */
    *ret_value = 9;
    return PNX_CMAP_STORE;
}

TEST(p4_a_function_may_release_a_reference_to_its_map) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8), NULL, &map), 0);
    struct pnx_cmap *other = pnx_cmap_ref(map);
    uint64_t key = 1, value = 0;
    CHECK_EQ(pnx_cmap_compute(map, &key, 8, release_inside, &other, NULL), 0);
    CHECK_EQ(pnx_cmap_get_word(map, 1, &value), 0);
    CHECK_EQ(value, 9);
    end(&map);
}

/* ---- circles ---- */

struct number {
    int value;
};
static const struct pnx_rc_type number_type = PNX_RC_TYPE(struct number);

struct circle {
    struct pnx_cmap *maps[3];
    struct pnx_snapshot *cell;
    pthread_barrier_t all_inside;
    unsigned length;
    int inner[3];
};
struct side {
    struct circle *circle;
    unsigned index;
};

static int make_crosswise(void *ctx, uint64_t *ret_value) {
    struct side *side = ctx;
    struct circle *circle = side->circle;
    struct pnx_cmap *next = circle->maps[(side->index + 1) % circle->length];
    struct side again = *side;
    uint64_t key = 1, value = 0;
    pthread_barrier_wait(&circle->all_inside);
    circle->inner[side->index] =
            pnx_cmap_get_or_insert_with(next, &key, 8, make_crosswise, &again, NULL, &value);
    *ret_value = side->index;
    return 0;
}

static void make_thread(unsigned index, void *ctx) {
    struct side side = {ctx, index};
    uint64_t key = 1, value = 77;
    CHECK_EQ(pnx_cmap_get_or_insert_with(
                     side.circle->maps[index], &key, 8, make_crosswise, &side, NULL, &value),
            0);
    CHECK_EQ(value, index);
}

/* Loaders of two or three maps, each asking for what the next one is loading. */
TEST_LIMIT(p3_a_circle_over_makers_of_several_maps_is_edeadlk_for_one, 30) {
    for (unsigned length = 2; length <= 3; length++) {
        struct circle circle = {.length = length};
        for (unsigned i = 0; i < length; i++)
            CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .wait_timeout_ns = PNX_NEVER),
                             NULL, &circle.maps[i]),
                    0);
        pthread_barrier_init(&circle.all_inside, NULL, length);
        test_threads(length, make_thread, &circle);
        unsigned refused = 0, fine = 0;
        for (unsigned i = 0; i < length; i++) {
            refused += circle.inner[i] == -EDEADLK;
            fine += circle.inner[i] == 0;
        }
        CHECK_EQ(refused, 1);
        CHECK_EQ(fine, length - 1);
        pthread_barrier_destroy(&circle.all_inside);
        for (unsigned i = 0; i < length; i++)
            end(&circle.maps[i]);
    }
}

static int edit_and_put(void *ctx, void *object) {
    struct circle *circle = ctx;
    uint64_t key = 1;
    (void)object;
    pthread_barrier_wait(&circle->all_inside);
    circle->inner[0] = pnx_cmap_put(circle->maps[0], &key, 8, 5);
    return 0;
}
static int edit_nothing(void *ctx, void *object) {
    (void)ctx, (void)object;
    return 0;
}
static int compute_and_edit(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct circle *circle = ctx;
    (void)current, (void)ret_value;
    pthread_barrier_wait(&circle->all_inside);
    circle->inner[1] = pnx_snapshot_update(circle->cell, edit_nothing, NULL, NULL, NULL);
    return PNX_CMAP_KEEP;
}
static void edit_or_compute(unsigned index, void *ctx) {
    struct circle *circle = ctx;
    uint64_t key = 1;
    if (index == 0)
        CHECK_EQ(pnx_snapshot_update(circle->cell, edit_and_put, circle, NULL, NULL), 0);
    else
        CHECK_EQ(pnx_cmap_compute(circle->maps[0], &key, 8, compute_and_edit, circle, NULL), 0);
}

TEST_LIMIT(p3_a_circle_over_a_map_and_a_snapshot_is_edeadlk_for_one, 30) {
    struct circle circle = {.length = 2};
    void *first = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .wait_timeout_ns = PNX_NEVER), NULL,
                     &circle.maps[0]),
            0);
    CHECK_EQ(pnx_rc_new(&number_type, NULL, &first), 0);
    CHECK_EQ(pnx_snapshot_create(
                     first, PNX_SNAPSHOT_OPTS(.write_timeout_ns = PNX_NEVER), NULL, &circle.cell),
            0);
    pnx_rc_unref(first);
    pthread_barrier_init(&circle.all_inside, NULL, 2);
    test_threads(2, edit_or_compute, &circle);
    CHECK_EQ((circle.inner[0] == -EDEADLK) + (circle.inner[1] == -EDEADLK), 1);
    CHECK_EQ((circle.inner[0] == 0) + (circle.inner[1] == 0), 1);
    pthread_barrier_destroy(&circle.all_inside);
    pnx_snapshot_release(&circle.cell);
    end(&circle.maps[0]);
}

/* ---- what is no map, or was one ---- */

#ifdef PNX_DEBUG
/* What is freed is kept until the end, so that a handle that was released can be looked at. */
static struct {
    void *p;
    size_t size;
} kept[100];
static unsigned n_kept;
static void (*really_free)(void *ctx, void *p, size_t size);

static void free_later(void *ctx, void *p, size_t size) {
    (void)ctx;
    CHECK(n_kept < 100);
    kept[n_kept].p = p;
    kept[n_kept++].size = size;
}

static void free_kept(struct test_env *te) {
    for (unsigned i = 0; i < n_kept; i++)
        really_free(te, kept[i].p, kept[i].size);
    test_env_check_empty(te);
}

static int report;

static void use_after_release(void *ctx) {
    uint64_t key = 1, value, found;
    dup2(report, 2);
    switch (*(int *)((void **)ctx)[1]) {
    case 0:
        (void)!pnx_cmap_get_word(((void **)ctx)[0], 1, &value);
        break;
    case 1:
        (void)!pnx_cmap_put(((void **)ctx)[0], &key, 8, 1);
        break;
    case 2:
        (void)!pnx_cmap_get_words(((void **)ctx)[0], &key, 1, &value, &found);
        break;
    default:
        pnx_cmap_close(((void **)ctx)[0]);
        break;
    }
    _exit(0);
}

static void check_reported(void *map, const char *what) {
    for (int use = 0; use < 4; use++) {
        char text[400] = "";
        void *ctx[2] = {map, &use};
        int fds[2];
        CHECK(pipe(fds) == 0);
        report = fds[1];
        CHECK_MSG(test_apart(use_after_release, ctx) == -SIGABRT, "%s, use %d", what, use);
        CHECK(read(fds[0], text, sizeof(text) - 1) > 0);
        CHECK_CONTAINS(text, "PNX_CMAP_MAGIC");
        close(fds[0]);
        close(fds[1]);
    }
}

TEST(a_map_that_was_released_or_is_none_is_named_in_debug_builds) {
    static struct test_env te;
    struct pnx_cmap *map = NULL;
    test_env_init(&te);
    really_free = te.env.free;
    te.env.free = free_later;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.env = &te.env, .key_size = 8), NULL, &map), 0);
    put_word(map, 1, 1);
    void *stale = map;
    pnx_cmap_release(&map);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    check_reported(stale, "released");
    static uint64_t no_map[100] = {[0 ... 99] = 0x0101010101010101};
    check_reported(no_map, "no map");
    free_kept(&te);
}
#endif
