/* SPDX-License-Identifier: Apache-2.0 */
/* test_cmap.c - the guarantees of patinox/cmap.h, one by one. */
#include "harness/harness.h"
#include "share/cmap.h"
#include "share/cmap_hash.h"

#include <patinox/shutdown.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>

PNX_CMAP_DEFINE(ports, uint64_t, uint32_t)

struct user_id {
    uint64_t realm;
    uint64_t number;
};
struct user {
    int age;
};
static int dropped;
static void drop_user(void *ctx, void *object) {
    (void)ctx;
    (void)object;
    __atomic_fetch_add(&dropped, 1, __ATOMIC_RELAXED);
}
static const struct pnx_rc_type user_type = PNX_RC_TYPE(struct user, .drop = drop_user);
PNX_CMAP_DEFINE_RC(users, struct user_id, struct user)
PNX_CMAP_DEFINE_RC(small_users, uint32_t, struct user)

static struct user *new_user(int age) {
    void *object = NULL;
    CHECK_EQ(pnx_rc_new(&user_type, &(struct user){age}, &object), 0);
    return object;
}

static struct pnx_cmap *word_map(void) {
    struct pnx_cmap *map = NULL;
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8), &err, &map) == 0, "%s", err.message);
    return map;
}

static void put_word(struct pnx_cmap *map, uint64_t key, uint64_t value) {
    CHECK_EQ(pnx_cmap_put(map, &key, sizeof(key), value), 0);
}

static void end(struct pnx_cmap **map) {
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cmap_check(*map, &err) == 0, "%s", err.message);
    pnx_cmap_release(map);
    CHECK(*map == NULL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
}

/* ---- making ---- */

TEST(bad_options_are_refused_by_name) {
    struct pnx_error err = {0};
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.shards = 3), &err, &map), -EINVAL);
    CHECK_STR(err.field, "shards");
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.shards = 2048), &err, &map), -EINVAL);
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 70000), &err, &map), -EINVAL);
    CHECK_STR(err.field, "key_size");
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.flags = 2), &err, &map), -EINVAL);
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.hash = 3), &err, &map), -EINVAL);
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.max_entries = 5, .reserve = 6), &err, &map), -EINVAL);
    CHECK_STR(err.field, "reserve");
    CHECK_EQ(pnx_cmap_create(NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(ports_create(&(struct pnx_cmap_opts){.shards = 4}, &err, &map), -EINVAL);
    CHECK_STR(err.field, "size");
    CHECK(map == NULL);
}

TEST(bad_arguments_change_nothing) {
    struct pnx_cmap *map = word_map();
    uint64_t key = 1, value = 77, other = 0;
    put_word(map, 1, 5);
    CHECK_EQ(pnx_cmap_get(map, &key, 4, &value), -EINVAL);
    CHECK_EQ(pnx_cmap_get(map, NULL, 8, &value), -EINVAL);
    CHECK_EQ(pnx_cmap_get(map, &key, 8, NULL), -EINVAL);
    CHECK_EQ(pnx_cmap_get(NULL, &key, 8, &value), -EINVAL);
    CHECK_EQ(pnx_cmap_put(map, &key, 7, 9), -EINVAL);
    CHECK_EQ(pnx_cmap_put(NULL, &key, 8, 9), -EINVAL);
    CHECK_EQ(pnx_cmap_remove(map, &key, 0, NULL), -EINVAL);
    CHECK_EQ(pnx_cmap_compute(map, &key, 8, NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cmap_get_or_insert_with(map, &key, 8, NULL, NULL, NULL, &other), -EINVAL);
    CHECK_EQ(pnx_cmap_foreach(map, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cmap_retain(map, NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_cmap_reserve(map, UINT64_MAX), -EINVAL);
    CHECK_EQ(pnx_cmap_get_words(map, NULL, 1, &other, &other), -EINVAL);
    CHECK_EQ(pnx_cmap_get_batch(map, NULL, 1), -EINVAL);
    CHECK_EQ(value, 77);
    CHECK_EQ(pnx_cmap_get(map, &key, 8, &value), 0);
    CHECK_EQ(value, 5);
    end(&map);
    struct pnx_cmap *bytes = NULL;
    CHECK_EQ(pnx_cmap_create(NULL, NULL, &bytes), 0);
    static char large[PNX_CMAP_KEY_MAX + 1];
    CHECK_EQ(pnx_cmap_put(bytes, large, sizeof(large), 1), -E2BIG);
    CHECK_EQ(pnx_cmap_put(bytes, large, sizeof(large) - 1, 1), 0);
    CHECK_EQ(pnx_cmap_put(bytes, NULL, 0, 2), 0); /* an empty key is a key */
    CHECK_EQ(pnx_cmap_get(bytes, "", 0, &value), 0);
    CHECK_EQ(value, 2);
    CHECK_EQ(pnx_cmap_get_word(bytes, 1, &value), -EINVAL);
    end(&bytes);
    pnx_cmap_release(NULL);
    pnx_cmap_release(&bytes);
    pnx_cmap_close(NULL);
    CHECK(pnx_cmap_ref(NULL) == NULL);
}

/* ---- values and keys ---- */

TEST(p1_every_word_is_a_key_and_a_value) {
    struct pnx_cmap *map = word_map();
    static const uint64_t words[] = {0, 1, 2, UINT64_MAX, UINT64_C(1) << 63, 7, 9};
    enum { N = sizeof(words) / sizeof(words[0]) };
    for (unsigned i = 0; i < N; i++)
        put_word(map, words[i], words[N - 1 - i]);
    for (unsigned i = 0; i < N; i++) {
        uint64_t value = 123;
        CHECK_EQ(pnx_cmap_get_word(map, words[i], &value), 0);
        CHECK(value == words[N - 1 - i]);
    }
    CHECK_EQ(pnx_cmap_len(map), N);
    end(&map);
}

/* The masks of a table are random; with known ones, the words that they cannot hold get another table. */
TEST(p1_words_that_a_table_cannot_hold_get_another_table) {
    struct pnx_cmap_tuning tuning = {.fixed_masks = true};
    for (int before = 0; before < 40; before += 13) {
        struct pnx_cmap *map = NULL;
        CHECK_EQ(pnx__cmap_create(PNX_CMAP_OPTS(.key_size = 8, .shards = 1), &tuning, NULL, &map),
                0);
        for (int i = 0; i < before; i++)
            put_word(map, 1000 + (uint64_t)i, (uint64_t)i + 100);
        put_word(map, 7, 9); /* the masks themselves */
        put_word(map, 6, 8); /* a value that would say: moved */
        put_word(map, 6, 9);
        put_word(map, 5, 1);
        put_word(map, 5, 8);
        for (int i = 0; i < before; i++) {
            uint64_t value = 0;
            CHECK_EQ(pnx_cmap_get_word(map, 1000 + (uint64_t)i, &value), 0);
            CHECK_EQ(value, i + 100);
        }
        uint64_t value = 0;
        CHECK_EQ(pnx_cmap_get_word(map, 7, &value), 0);
        CHECK_EQ(value, 9);
        CHECK_EQ(pnx_cmap_get_word(map, 6, &value), 0);
        CHECK_EQ(value, 9);
        CHECK_EQ(pnx_cmap_get_word(map, 5, &value), 0);
        CHECK_EQ(value, 8);
        end(&map);
    }
}

TEST(typed_functions_for_words) {
    struct pnx_cmap *map = NULL;
    uint32_t port = 0;
    CHECK_EQ(ports_create(NULL, NULL, &map), 0);
    CHECK_EQ(ports_get(map, 1, &port), -ENOENT);
    CHECK_EQ(ports_put(map, 1, 80), 0);
    CHECK_EQ(ports_put_if_absent(map, 1, 81), -EEXIST);
    CHECK_EQ(ports_replace_if(map, 1, 81, 82), PNX_E_CONFLICT);
    CHECK_EQ(ports_replace_if(map, 1, 80, 82), 0);
    CHECK_EQ(ports_get(map, 1, &port), 0);
    CHECK_EQ(port, 82);
    CHECK_EQ(ports_remove_if(map, 1, 80), PNX_E_CONFLICT);
    CHECK_EQ(ports_remove_if(map, 1, 82), 0);
    CHECK_EQ(ports_remove(map, 1), -ENOENT);
    end(&map);
}

TEST(p6_the_map_s_reference_is_never_handed_out) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(users_create(PNX_CMAP_OPTS(.name = "users"), NULL, &map), 0);
    struct user_id id = {1, 2};
    struct user *user = new_user(40);
    CHECK_EQ(users_put(map, id, user), 0);
    CHECK_EQ(pnx_rc_count(user), 2);
    struct user *found = users_get(map, id);
    CHECK(found == user);
    CHECK_EQ(pnx_rc_count(user), 3);
    pnx_rc_unref(found);
    pnx_reclaim_enter(NULL);
    CHECK(users_peek(map, id) == user);
    uint64_t old = 0;
    CHECK_EQ(pnx_cmap_remove(map, &id, sizeof(id), &old), 0);
    CHECK_EQ(pnx_rc_count(user), 3); /* ours, the map's until our section ends, and the new one */
    CHECK(!pnx_rc_unique(user));
    pnx_rc_unref(pnx_cmap_object(old));
    pnx_rc_unref(user);
    CHECK_EQ(dropped, 0); /* we are still in the section */
    pnx_reclaim_exit(NULL);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(dropped, 1);
    CHECK_EQ(users_put_if_absent(map, id, user = new_user(1)), 0);
    pnx_rc_unref(user);
    CHECK_EQ(users_remove(map, id), 0);
    CHECK(users_get(map, id) == NULL);
    end(&map);
    CHECK_EQ(dropped, 2);
    CHECK_EQ(small_users_create(NULL, NULL, &map), 0);
    uint32_t key = 3;
    CHECK_EQ(pnx_cmap_put(map, &key, sizeof(key), 0), -EINVAL); /* no object */
    CHECK_EQ(small_users_put(map, 3, user = new_user(1)), 0);
    CHECK_EQ(small_users_put(map, 3, user), 0);
    CHECK_EQ(small_users_put_if_absent(map, 4, user), 0);
    pnx_reclaim_enter(NULL);
    CHECK(small_users_peek(map, 4) == user);
    pnx_reclaim_exit(NULL);
    CHECK_EQ(small_users_remove(map, 4), 0);
    pnx_rc_unref(small_users_get(map, 3));
    pnx_rc_unref(user);
    end(&map);
    CHECK_EQ(dropped, 3);
}

TEST(batches_find_what_single_lookups_find) {
    struct pnx_cmap *map = word_map();
    enum { N = 200 };
    uint64_t keys[N], values[N], found[(N + 63) / 64];
    for (uint64_t i = 0; i < N; i++) {
        keys[i] = i;
        if (i % 3)
            put_word(map, i, i * 10);
    }
    CHECK_EQ(pnx_cmap_get_words(map, keys, N, values, found), N - (N + 2) / 3);
    for (uint64_t i = 0; i < N; i++) {
        CHECK_EQ((found[i / 64] >> (i % 64)) & 1, i % 3 != 0);
        if (i % 3)
            CHECK_EQ(values[i], i * 10);
    }
    CHECK_EQ(pnx_cmap_get_words(map, keys, 0, values, found), 0);
    struct pnx_cmap_item items[N];
    for (uint64_t i = 0; i < N; i++)
        items[i] = (struct pnx_cmap_item){&keys[i], i == 5 ? 3 : 8, 0, 1, 0};
    CHECK_EQ(pnx_cmap_get_batch(map, items, N), N - (N + 2) / 3 - 1);
    for (uint64_t i = 0; i < N; i++) {
        CHECK_EQ(items[i].code, i == 5 ? -EINVAL : i % 3 ? 0 : -ENOENT);
        if (items[i].code == 0)
            CHECK_EQ(items[i].value, i * 10);
    }
    end(&map);

    CHECK_EQ(users_create(NULL, NULL, &map), 0);
    struct user_id ids[N];
    struct user *user = new_user(1);
    for (uint64_t i = 0; i < N; i++) {
        ids[i] = (struct user_id){i, i};
        items[i] = (struct pnx_cmap_item){&ids[i], sizeof(ids[i]), 0, 1, 0};
        if (i % 2)
            CHECK_EQ(users_put(map, ids[i], user), 0);
    }
    CHECK_EQ(pnx_cmap_get_batch(map, items, N), N / 2);
    CHECK_EQ(pnx_rc_count(user), 1 + N);
    for (uint64_t i = 1; i < N; i += 2)
        pnx_rc_unref(pnx_cmap_object(items[i].value));
    pnx_rc_unref(user);
    end(&map);
    CHECK_EQ(dropped, 1);
}

/* ---- functions on keys ---- */

struct nest {
    struct pnx_cmap *map;
    struct pnx_cmap *other;
    uint64_t key;
    int inner; /* what the write from inside returned */
};

static int put_inside(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct nest *nest = ctx;
    uint64_t value = 0;
    CHECK(current && *current == 1);
    nest->inner = pnx_cmap_put(nest->map, &nest->key, 8, 5);
    CHECK_EQ(pnx_cmap_get_word(nest->map, nest->key, &value), 0); /* lookups are always allowed */
    CHECK_EQ(value, 1);
    *ret_value = 2;
    return PNX_CMAP_STORE;
}
static int make_inside(void *ctx, uint64_t *ret_value) {
    struct nest *nest = ctx;
    uint64_t value;
    nest->inner =
            pnx_cmap_get_or_insert_with(nest->map, &nest->key, 8, make_inside, nest, NULL, &value);
    *ret_value = 3;
    return 0;
}
static int fail_make(void *ctx, uint64_t *ret_value) {
    (void)ctx;
    (void)ret_value;
    return -EIO;
}
static int odd_action(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)ctx;
    (void)current;
    (void)ret_value;
    return 17;
}

TEST(p3_a_write_from_inside_a_function_on_its_key_is_edeadlk) {
    struct pnx_cmap *map = word_map();
    struct pnx_error err = {0};
    put_word(map, 1, 1);
    struct nest nest = {.map = map, .key = 1};
    CHECK_EQ(pnx_cmap_compute(map, &nest.key, 8, put_inside, &nest, &err), 0);
    CHECK_EQ(nest.inner, -EDEADLK);
    nest.key = 2;
    uint64_t value = 0;
    CHECK_EQ(pnx_cmap_get_or_insert_with(map, &nest.key, 8, make_inside, &nest, &err, &value), 0);
    CHECK_EQ(nest.inner, -EDEADLK);
    CHECK_EQ(value, 3);
    nest.key = 4;
    CHECK_EQ(pnx_cmap_get_or_insert_with(map, &nest.key, 8, fail_make, NULL, &err, &value), -EIO);
    CHECK_EQ(pnx_cmap_compute(map, &nest.key, 8, odd_action, NULL, &err), -EINVAL);
    CHECK_EQ(pnx_cmap_get_word(map, 4, &value), -ENOENT);
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    CHECK_EQ(stats.functions, 4);
    CHECK_EQ(stats.function_failures, 2);
    CHECK_EQ(stats.deadlocks, 2);
    end(&map);
}

/* Two threads, each inside a function on a key of one map, that write to the other's key. */
struct circle {
    struct pnx_cmap *maps[2];
    pthread_barrier_t both_inside;
    int inner[2];
};
struct side {
    struct circle *circle;
    unsigned index;
};
static int cross(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct side *side = ctx;
    struct circle *circle = side->circle;
    (void)current;
    uint64_t key = 1;
    pthread_barrier_wait(&circle->both_inside);
    circle->inner[side->index] = pnx_cmap_put(circle->maps[!side->index], &key, 8, 100);
    *ret_value = side->index;
    return PNX_CMAP_STORE;
}
static void cross_thread(unsigned index, void *ctx) {
    struct side side = {ctx, index};
    uint64_t key = 1;
    CHECK_EQ(pnx_cmap_compute(side.circle->maps[index], &key, 8, cross, &side, NULL), 0);
}

TEST(p3_a_circle_over_two_maps_is_edeadlk_for_one) {
    struct circle circle = {.maps = {word_map(), word_map()}};
    pthread_barrier_init(&circle.both_inside, NULL, 2);
    test_threads(2, cross_thread, &circle);
    CHECK_EQ((circle.inner[0] == -EDEADLK) + (circle.inner[1] == -EDEADLK), 1);
    CHECK_EQ((circle.inner[0] == 0) + (circle.inner[1] == 0), 1);
    pthread_barrier_destroy(&circle.both_inside);
    end(&circle.maps[0]);
    end(&circle.maps[1]);
}

static int section_fn(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)ctx;
    (void)current;
    (void)ret_value;
    return PNX_CMAP_KEEP;
}

TEST(p3_functions_inside_a_section_are_edeadlk) {
    struct pnx_cmap *map = word_map();
    uint64_t key = 1, value;
    pnx_reclaim_enter(NULL);
    CHECK_EQ(pnx_cmap_compute(map, &key, 8, section_fn, NULL, NULL), -EDEADLK);
    CHECK_EQ(pnx_cmap_get_or_insert_with(map, &key, 8, fail_make, NULL, NULL, &value), -EDEADLK);
    put_word(map, 1, 1); /* a write that waits for nobody is fine */
    pnx_reclaim_exit(NULL);
    end(&map);
}

struct makers {
    struct pnx_cmap *map;
    int made;
    int running[1000]; /* by key */
    unsigned rounds;
};
struct maker {
    struct makers *makers;
    uint64_t key;
};
static int slow_make(void *ctx, uint64_t *ret_value) {
    struct makers *makers = ((struct maker *)ctx)->makers;
    int *running = &makers->running[((struct maker *)ctx)->key];
    CHECK_EQ(__atomic_add_fetch(running, 1, __ATOMIC_RELAXED), 1);
    int n = __atomic_add_fetch(&makers->made, 1, __ATOMIC_RELAXED);
    sched_yield();
    CHECK_EQ(__atomic_sub_fetch(running, 1, __ATOMIC_RELAXED), 0);
    if (n % 3 == 1)
        return -EAGAIN; /* the next one tries */
    *ret_value = 42;
    return 0;
}
static void make_thread(unsigned index, void *ctx) {
    struct makers *makers = ctx;
    (void)index;
    for (uint64_t key = 0; key < makers->rounds; key++) {
        struct maker maker = {makers, key};
        uint64_t value = 0;
        int rc = pnx_cmap_get_or_insert_with(makers->map, &key, 8, slow_make, &maker, NULL, &value);
        CHECK(rc == 0 || rc == -EAGAIN);
        if (rc == 0)
            CHECK_EQ(value, 42);
    }
}

TEST(p3_one_maker_at_a_time_and_failure_passes_the_turn) {
    struct makers makers = {.map = word_map(), .rounds = test_slow() ? 100 : 1000};
    test_threads(4, make_thread, &makers);
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cmap_read_stats(makers.map, &stats), 0);
    CHECK_EQ(stats.functions, makers.made);
    CHECK_EQ(stats.inserts + stats.function_failures, makers.made);
    end(&makers.map);
}

struct timeout {
    struct pnx_cmap *map;
    pthread_barrier_t inside, done;
};
static int hold(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    struct timeout *timeout = ctx;
    (void)current;
    (void)ret_value;
    pthread_barrier_wait(&timeout->inside);
    pthread_barrier_wait(&timeout->done);
    return PNX_CMAP_KEEP;
}
static void timeout_thread(unsigned index, void *ctx) {
    struct timeout *timeout = ctx;
    uint64_t key = 1;
    if (index == 0) {
        CHECK_EQ(pnx_cmap_compute(timeout->map, &key, 8, hold, timeout, NULL), 0);
        return;
    }
    pthread_barrier_wait(&timeout->inside);
    CHECK_EQ(pnx_cmap_put(timeout->map, &key, 8, 1), -ETIMEDOUT);
    struct pnx_error err = {0};
    CHECK_EQ(pnx_cmap_compute(timeout->map, &key, 8, hold, timeout, &err), -ETIMEDOUT);
    CHECK_CONTAINS(err.message, "the function at work on the key did not end in time");
    CHECK_EQ(pnx_cmap_clear(timeout->map), 0); /* the key is not there: nothing to wait for */
    pthread_barrier_wait(&timeout->done);
}

TEST(p3_waits_end_after_their_timeout) {
    struct timeout timeout = {0};
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.key_size = 8, .wait_timeout_ns = PNX_MS), NULL, &timeout.map),
            0);
    pthread_barrier_init(&timeout.inside, NULL, 2);
    pthread_barrier_init(&timeout.done, NULL, 2);
    test_threads(2, timeout_thread, &timeout);
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cmap_read_stats(timeout.map, &stats), 0);
    CHECK_EQ(stats.timeouts, 2);
    CHECK(stats.waits >= 2);
    end(&timeout.map);
}

/* ---- walking ---- */

struct walk {
    struct pnx_cmap *map;
    unsigned char seen[4096];
    unsigned visits;
    bool grows;
};
static int walk_visit(void *ctx, const void *key, size_t key_size, uint64_t value) {
    struct walk *walk = ctx;
    uint64_t word = 0;
    CHECK_EQ(key_size, 8);
    memcpy(&word, key, 8);
    walk->visits++;
    if (word < 4096) {
        CHECK_EQ(value, word + 1);
        walk->seen[word]++;
    }
    if (walk->grows) { /* writes from inside, so that the shard is resized under the walk */
        put_word(walk->map, 10000 + walk->visits, 1);
        if (walk->visits % 2)
            CHECK_EQ(pnx_cmap_remove(walk->map, &(uint64_t){10000 + walk->visits}, 8, NULL), 0);
        if (walk->visits % 500 == 0)
            CHECK_EQ(pnx_cmap_shrink(walk->map), 0);
        if (walk->visits % 700 == 0)
            CHECK_EQ(pnx_cmap_reserve(walk->map, 20000), 0);
    }
    return walk->visits > 100000 ? 1 : 0;
}

TEST(p5_foreach_meets_each_key_once_whatever_is_resized) {
    static struct walk walk;
    walk.map = word_map();
    for (uint64_t i = 0; i < 4096; i++)
        put_word(walk.map, i, i + 1);
    CHECK_EQ(pnx_cmap_foreach(walk.map, walk_visit, &walk), 0);
    CHECK_EQ(walk.visits, 4096);
    memset(walk.seen, 0, sizeof(walk.seen));
    walk.grows = true;
    CHECK(pnx_cmap_foreach(walk.map, walk_visit, &walk) >= 0);
    for (unsigned i = 0; i < 4096; i++)
        CHECK_EQ(walk.seen[i], 1);
    end(&walk.map);
}

static int stop_visit(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)key;
    (void)key_size;
    (void)value;
    return ++*(int *)ctx == 3 ? 17 : 0;
}
static bool keep_small(void *ctx, const void *key, size_t key_size, uint64_t value) {
    (void)ctx;
    (void)key;
    (void)key_size;
    return value < 10;
}

TEST(a_visit_ends_the_walk_and_retain_counts) {
    struct pnx_cmap *map = word_map();
    for (uint64_t i = 0; i < 100; i++)
        put_word(map, i, i);
    int calls = 0;
    CHECK_EQ(pnx_cmap_foreach(map, stop_visit, &calls), 17);
    CHECK_EQ(calls, 3);
    uint64_t removed = 0;
    CHECK_EQ(pnx_cmap_retain(map, keep_small, NULL, &removed), 0);
    CHECK_EQ(removed, 90);
    CHECK_EQ(pnx_cmap_len(map), 10);
    CHECK_EQ(pnx_cmap_clear(map), 0);
    CHECK_EQ(pnx_cmap_len(map), 0);
    put_word(map, 3, 4); /* usable as before */
    CHECK_EQ(pnx_cmap_len(map), 1);
    end(&map);
}

TEST(reserve_prevents_resizes_and_shrink_gives_memory_back) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .reserve = 100000), NULL, &map), 0);
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    for (uint64_t i = 0; i < 100000; i++)
        put_word(map, i, i);
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    CHECK_EQ(stats.resizes, 0);
    uint64_t bytes = stats.bytes;
    for (uint64_t i = 10; i < 100000; i++)
        CHECK_EQ(pnx_cmap_remove(map, &i, 8, NULL), 0);
    CHECK_EQ(pnx_cmap_shrink(map), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    CHECK(stats.bytes < bytes / 50);
    for (uint64_t i = 0; i < 10; i++) {
        uint64_t value = 99;
        CHECK_EQ(pnx_cmap_get_word(map, i, &value), 0);
        CHECK_EQ(value, i);
    }
    end(&map);
}

/* ---- limits, ends, misuse ---- */

TEST(max_entries_is_exact) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .max_entries = 3), NULL, &map), 0);
    for (uint64_t i = 0; i < 3; i++)
        put_word(map, i, i);
    uint64_t key = 3;
    CHECK_EQ(pnx_cmap_put(map, &key, 8, 3), -ENOSPC);
    put_word(map, 2, 5); /* no new entry */
    CHECK_EQ(pnx_cmap_remove(map, &(uint64_t){0}, 8, NULL), 0);
    CHECK_EQ(pnx_cmap_put(map, &key, 8, 3), 0);
    CHECK_EQ(pnx_cmap_clear(map), 0);
    for (uint64_t i = 0; i < 3; i++)
        put_word(map, i, i);
    CHECK_EQ(pnx_cmap_put(map, &key, 8, 3), -ENOSPC);
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    CHECK_EQ(stats.refusals, 2);
    end(&map);
}

TEST(p7_a_budget_that_refuses_is_enomem_and_removal_needs_none) {
    struct pnx_budget *budget = NULL;
    CHECK_EQ(pnx_budget_create(
                     PNX_BUDGET_OPTS(.parent = pnx_budget_off(), .hard = 64 << 10), NULL, &budget),
            0);
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.key_size = 8, .shards = 4, .budget = budget), NULL, &map),
            0);
    uint64_t n = 0;
    int rc;
    while ((rc = pnx_cmap_put(map, &n, 8, n)) == 0)
        n++;
    CHECK_EQ(rc, -ENOMEM);
    CHECK(n > 500);
    CHECK_EQ(pnx_cmap_len(map), n);
    for (uint64_t i = 0; i < n; i++)
        CHECK_EQ(pnx_cmap_remove(map, &i, 8, NULL), 0);
    end(&map);
    struct pnx_budget_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_budget_read_stats(budget, &stats), 0);
    CHECK_EQ(stats.used, 0);
    pnx_budget_release(&budget);
}

static int close_inside(void *ctx, const uint64_t *current, uint64_t *ret_value) {
    (void)current;
    pnx_cmap_close(ctx);
    *ret_value = 9;
    return PNX_CMAP_STORE;
}

TEST(after_close_everything_is_eshutdown) {
    struct pnx_cmap *map = word_map();
    uint64_t key = 1, value, found;
    put_word(map, 1, 1);
    CHECK_EQ(pnx_cmap_compute(map, &key, 8, close_inside, map, NULL), -ESHUTDOWN);
    pnx_cmap_close(map);
    CHECK_EQ(pnx_cmap_get_word(map, 1, &value), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_get(map, &key, 8, &value), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_get_words(map, &key, 1, &value, &found), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_put(map, &key, 8, 1), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_remove(map, &key, 8, NULL), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_clear(map), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_reserve(map, 5), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_shrink(map), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_foreach(map, stop_visit, &(int){0}), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_get_or_insert_with(map, &key, 8, fail_make, NULL, NULL, &value), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_len(map), 0);
    struct pnx_cmap *other = pnx_cmap_ref(map);
    pnx_cmap_release(&map);
    CHECK_EQ(pnx_cmap_len(other), 0);
    end(&other);
}

TEST(a_registry_s_shutdown_closes_the_map) {
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.key_size = 8, .registry = registry, .name = "m"), NULL, &map),
            0);
    put_word(map, 1, 1);
    (void)pnx_registry_shutdown(registry, PNX_SEC, NULL);
    uint64_t key = 2;
    CHECK_EQ(pnx_cmap_put(map, &key, 8, 1), -ESHUTDOWN);
    end(&map);
    pnx_registry_release(&registry);
}

/* A leak report of a map is to say what it holds, not what it began with. */
TEST(the_row_shows_what_the_map_holds) {
    struct pnx_registry *registry = NULL;
    struct pnx_resource_info info;
    struct pnx_cmap_stats stats = {.size = sizeof(stats)};
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    CHECK_EQ(pnx_cmap_create(
                     PNX_CMAP_OPTS(.key_size = 8, .shards = 1, .registry = registry), NULL, &map),
            0);
    CHECK_EQ(pnx_registry_info(registry, map->id, &info), 0);
    uint64_t empty = info.bytes;
    for (uint64_t i = 0; i < 100000; i++)
        put_word(map, i, i);
    CHECK_EQ(pnx_registry_info(registry, map->id, &info), 0);
    CHECK(info.bytes >= empty + 100000 * 16);
    CHECK_EQ(pnx_cmap_clear(map), 0);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    CHECK_EQ(pnx_cmap_clear(map), 0);
    CHECK_EQ(pnx_registry_info(registry, map->id, &info), 0);
    CHECK_EQ(pnx_cmap_read_stats(map, &stats), 0);
    CHECK_EQ(info.bytes, stats.bytes);
    CHECK_EQ(info.bytes, empty);
    end(&map);
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.registry = registry, .reserve = 10000), NULL, &map), 0);
    CHECK_EQ(pnx_registry_info(registry, map->id, &info), 0);
    CHECK(info.bytes > 10000 * 16);
    end(&map);
    pnx_registry_release(&registry);
}

static void in_child(void *ctx) {
    struct pnx_cmap *map = ctx;
    uint64_t key = 1, value = 0;
    CHECK_EQ(pnx_cmap_get_word(map, 1, &value), 0);
    CHECK_EQ(value, 5);
    CHECK_EQ(pnx_cmap_put(map, &key, 8, 1), -ESHUTDOWN);
    CHECK_EQ(pnx_cmap_clear(map), -ESHUTDOWN);
    pnx_cmap_close(map);
    CHECK_EQ(pnx_cmap_get_word(map, 1, &value), 0);
    pnx_cmap_release(&map);
    exit(0);
}

TEST(a_forked_child_reads_and_cannot_write) {
    struct pnx_cmap *map = word_map();
    put_word(map, 1, 5);
    CHECK_EQ(test_child(in_child, map), 0);
    end(&map);
}

/* ---- failing memory ---- */

static int whole_life(struct test_env *te, void *ctx) {
    const uint32_t *flags = ctx;
    struct pnx_cmap *map = NULL;
    int rc = pnx_cmap_create(PNX_CMAP_OPTS(.env = &te->env, .key_size = flags[1], .shards = 1,
                                     .flags = flags[0], .reserve = 1),
            NULL, &map);
    if (rc)
        return rc;
    for (uint64_t i = 0; rc == 0 && i < 40; i++) {
        struct user *user = flags[0] ? new_user(1) : NULL;
        rc = pnx_cmap_put(map, &i, 8, flags[0] ? pnx_cmap_value(user) : i);
        pnx_rc_unref(user);
        if (rc == 0)
            rc = pnx_cmap_compute(map, &i, 8, section_fn, NULL, NULL);
        if (rc == 0 && i % 4 == 0)
            CHECK_EQ(pnx_cmap_remove(map, &i, 8, NULL), 0); /* P7 */
    }
    if (rc == 0)
        rc = pnx_cmap_foreach(map, stop_visit, &(int){-10000});
    if (rc == 0)
        rc = pnx_cmap_shrink(map);
    CHECK_EQ(pnx_cmap_check(map, NULL), 0);
    pnx_cmap_release(&map);
    CHECK_EQ(pnx_reclaim_barrier(NULL, PNX_NEVER), 0);
    return rc;
}

TEST(p7_each_allocation_fails_in_turn) {
    struct test_env te;
    for (uint32_t k = 0; k < 4; k++) {
        uint32_t flags[2] = {k & 1 ? PNX_CMAP_RC : 0, k & 2 ? 8 : 0};
        test_env_init(&te);
        test_fail_each_allocation(&te, whole_life, flags);
    }
}

TEST(a_system_that_refuses_pages_is_enomem) {
    if (!test_os_faults())
        test_skip("built without PNX_FAULTS");
    struct pnx_cmap *map = word_map();
    test_os_fault("mmap", 1, true, -ENOMEM);
    CHECK_EQ(pnx_cmap_reserve(map, 4000000), -ENOMEM);
    CHECK(test_os_fault_clear() > 0);
    test_os_fault("madvise", 1, true, -EINVAL); /* only advice */
    CHECK_EQ(pnx_cmap_reserve(map, 4000000), 0);
    CHECK(test_os_fault_clear() > 0);
    put_word(map, 1, 2);
    end(&map);
}

TEST(lookups_allocate_nothing) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.env = &te.env, .key_size = 8), NULL, &map), 0);
    put_word(map, 1, 1);
    int64_t before = te.allocations;
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t value, found;
        CHECK_EQ(pnx_cmap_get_word(map, i % 2, &value), i % 2 ? 0 : -ENOENT);
        CHECK_EQ(pnx_cmap_get_words(map, &i, 1, &value, &found), i == 1);
        put_word(map, 1, i); /* nor does replacing a word */
    }
    CHECK_EQ(te.allocations, before);
    end(&map);
    test_env_check_empty(&te);
}

TEST(statistics_are_exported_with_their_sums) {
    struct pnx_stats *set = NULL;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &set), 0);
    struct pnx_cmap *map = NULL;
    CHECK_EQ(
            pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .stats = set, .name = "seen"), NULL, &map),
            0);
    for (uint64_t i = 0; i < 100; i++)
        put_word(map, i, i);
    uint64_t words[64] = {0};
    struct pnx_stats_block *block = &map->block;
    block->refresh(block);
    pnx__stats_read(block, words);
    CHECK_EQ(words[0], 100); /* entries */
    end(&map);
    pnx_stats_release(&set);
}

TEST(p8_a_write_moves_a_bounded_number_of_slots) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .shards = 1), NULL, &map), 0);
    const struct pnx_cmap_shard *shard = &map->shards[0];
    uint64_t moves = 0;
    for (uint64_t i = 0; i < 50000; i++) {
        const struct pnx_cmap_table *table = shard->table;
        uint64_t n_buckets = table->n_buckets; /* the table may be gone after the put */
        uint64_t before = shard->target ? shard->moved : 0;
        put_word(map, i, i);
        bool same = table == shard->table;
        uint64_t after = same ? (shard->target ? shard->moved : 0) : n_buckets;
        if (n_buckets > 4 && (same || before)) { /* not the table of none */
            CHECK((after - before) * PNX_CMAP_BUCKET <= PNX_CMAP_MOVE_SLOTS);
            moves += after > before;
        }
    }
    CHECK(moves > 500);
    uint64_t value;
    put_word(map, 1000000, 1);
    while (shard->target) /* lookups help to end a move */
        for (uint64_t i = 0; i < 50000; i++)
            CHECK_EQ(pnx_cmap_get_word(map, i, &value), 0);
    end(&map);
}

TEST(p2_lookups_end_a_move_that_no_writer_goes_on_with) {
    struct pnx_cmap *map = NULL;
    CHECK_EQ(pnx_cmap_create(PNX_CMAP_OPTS(.key_size = 8, .shards = 1), NULL, &map), 0);
    uint64_t n = 0;
    while (n < 5000 || !map->shards[0].target) {
        put_word(map, n, n);
        n++;
    }
    for (unsigned rounds = 0; map->shards[0].target; rounds++) {
        CHECK(rounds < 10);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t value;
            CHECK_EQ(pnx_cmap_get_word(map, i, &value), 0);
            CHECK_EQ(value, i);
        }
    }
    end(&map);
}

#ifdef PNX_DEBUG
static void peek_outside(void *ctx) {
    uint64_t value;
    (void)freopen("/dev/null", "w", stderr);
    CHECK_EQ(pnx_cmap_peek_word(ctx, 1, &value), 0);
    exit(0);
}

TEST(a_peek_outside_a_section_aborts_in_debug_builds) {
    struct pnx_cmap *map = word_map();
    put_word(map, 1, 1);
    CHECK_EQ(test_apart(peek_outside, map), -SIGABRT);
    end(&map);
}
#endif
