/* SPDX-License-Identifier: Apache-2.0 */
/* test_engine.c - what the explorer promises: each kind of failure is found and repeated, nothing is left out. */
#include "explorer/explorer.h"

#include <errno.h>
#include <patinox/registry.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every kind of failure. */

struct locks {
    struct pnx_mutex a, b;
    struct x_cell data;
};
static void locks_setup(void *state) {
    struct locks *s = state;
    pnx__mutex_init(&s->a, PNX_RANK_NONE);
    pnx__mutex_init(&s->b, PNX_RANK_NONE);
}
static void lock_ab(void *state) {
    struct locks *s = state;
    pnx__mutex_lock(&s->a);
    pnx__mutex_lock(&s->b);
    x_cell_write(&s->data, x_cell_read(&s->data) + 1);
    pnx__mutex_unlock(&s->b);
    pnx__mutex_unlock(&s->a);
}
static void lock_ba(void *state) {
    struct locks *s = state;
    pnx__mutex_lock(&s->b);
    pnx__mutex_lock(&s->a);
    pnx__mutex_unlock(&s->a);
    pnx__mutex_unlock(&s->b);
}
static void locks_final(void *state) {
    CHECK_EQ(x_cell_read(&((struct locks *)state)->data), 3);
}
static void lock_b_only(void *state) {
    struct locks *s = state;
    if (pnx__mutex_trylock(&s->b)) {
        x_cell_write(&s->data, x_cell_read(&s->data) + 1);
        pnx__mutex_unlock(&s->b);
    }
}
static void unlock_a(void *state) {
    pnx__mutex_unlock(&((struct locks *)state)->a);
}
static void lock_a(void *state) {
    pnx__mutex_lock(&((struct locks *)state)->a);
}

TEST(locks_exclude_and_order_memory) {
    x_explore(&(struct x_test){.name = "locks",
            .size = sizeof(struct locks),
            .setup = locks_setup,
            .thread = {lock_ab, lock_ab, lock_ab},
            .final = locks_final,
            .floor = 6});
    x_explore(&(struct x_test){.name = "trylock",
            .size = sizeof(struct locks),
            .setup = locks_setup,
            .thread = {lock_ab, lock_b_only},
            .floor = 4});
}

TEST(a_deadlock_is_found) {
    x_refute(&(struct x_test){.name = "deadlock",
                     .size = sizeof(struct locks),
                     .setup = locks_setup,
                     .thread = {lock_ab, lock_ba}},
            X_DEADLOCK);
}

TEST(misuse_of_a_lock_is_found) {
    x_refute(&(struct x_test){.name = "unlock-others",
                     .size = sizeof(struct locks),
                     .setup = locks_setup,
                     .thread = {lock_ab, unlock_a}},
            X_MISUSE);
    x_refute(&(struct x_test){.name = "end-with-lock",
                     .size = sizeof(struct locks),
                     .setup = locks_setup,
                     .thread = {lock_a}},
            X_MISUSE);
}

struct word {
    struct pnx_a32 x;
    struct pnx_a32 y;
    void *block;
    struct pnx_aptr shared;
};
static void spin_for_ever(void *state) {
    while (!pnx_load(&((struct word *)state)->x, PNX_ACQUIRE, "engine.spin"))
        pnx__spin_hint();
}
static void retry_for_ever(void *state) {
    uint32_t zero = 0;
    while (!pnx_cas(&((struct word *)state)->x, &zero, 0, PNX_RELAXED, "engine.retry") || !zero)
        zero = 0;
}
static void store_x(void *state) {
    pnx_store(&((struct word *)state)->x, 1, PNX_RELEASE, "engine.store_x");
}
static void look_y(void *state) {
    (void)pnx_load(&((struct word *)state)->y, PNX_ACQUIRE, "engine.look_y");
}

TEST(a_livelock_is_found_and_a_spin_that_ends_is_none) {
    x_refute(
            &(struct x_test){
                    .name = "spin", .size = sizeof(struct word), .thread = {spin_for_ever, look_y}},
            X_LIVELOCK);
    x_refute(
            &(struct x_test){
                    .name = "retry", .size = sizeof(struct word), .thread = {retry_for_ever}},
            X_LIVELOCK);
    x_explore(&(struct x_test){.name = "spin-ends",
            .size = sizeof(struct word),
            .thread = {spin_for_ever, spin_for_ever, store_x},
            .floor = 5});
}

/* Loops that end by themselves: by counting, by the clock, by trying a lock. */
static void spin_a_while(void *state) {
    struct word *s = state;
    for (int i = 0; i < 20 && !pnx_load(&s->y, PNX_ACQUIRE, "engine.spin_y"); i++)
        pnx__spin_hint();
    for (int i = 0; i < 100; i++)
        pnx__spin_hint();
    pnx_ns end = pnx_now() + PNX_SEC;
    while (!pnx_load(&s->y, PNX_ACQUIRE, "engine.spin_until") && pnx_now() < end)
        pnx__spin_hint();
}
static void spin_for_lock(void *state) {
    struct locks *s = state;
    while (!pnx__mutex_trylock(&s->a))
        pnx__spin_hint();
    x_cell_write(&s->data, x_cell_read(&s->data) + 1);
    pnx__mutex_unlock(&s->a);
}
TEST(a_spin_that_gives_up_is_no_livelock) {
    x_explore(&(struct x_test){.name = "spin-a-while",
            .size = sizeof(struct word),
            .thread = {spin_a_while, store_x},
            .floor = 2});
    x_explore(&(struct x_test){.name = "spin-lock",
            .size = sizeof(struct locks),
            .setup = locks_setup,
            .thread = {spin_for_lock, lock_ab, spin_for_lock},
            .final = locks_final,
            .floor = 10});
}

static void block_setup(void *state) {
    struct word *s = state;
    s->block = x_alloc(16);
}
static void block_free(void *state) {
    x_free(((struct word *)state)->block);
}
static void block_free_after_x(void *state) {
    struct word *s = state;
    spin_for_ever(s);
    x_free(s->block);
}
static void block_read(void *state) {
    x_read(((struct word *)state)->block, 16);
}
static void block_write_then_x(void *state) {
    x_write(((struct word *)state)->block, 16);
    store_x(state);
}
static void free_wrong_size(void *state) {
    const struct pnx_env *env = x_env();
    env->free(env->ctx, ((struct word *)state)->block, 15);
}
static void read_behind(void *state) {
    x_read((char *)((struct word *)state)->block + 16, 1);
}
static void publish_without_order(void *state) {
    struct pnx_a32 *made = x_alloc(sizeof(*made));
    pnx_store(&((struct word *)state)->shared, (void *)made, PNX_RELAXED, "engine.publish");
}
static void use_published(void *state) {
    struct pnx_a32 *made = pnx_load(&((struct word *)state)->shared, PNX_ACQUIRE, "engine.use");
    if (made)
        (void)pnx_load(made, PNX_RELAXED, "engine.use_it");
}
#define MEMORY(text, ...) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct word), \
            .setup = block_setup, \
            .thread = {__VA_ARGS__}, \
            .floor = 1})

TEST(wrong_uses_of_memory_are_found) {
    x_refute(MEMORY("leak", look_y), X_LEAK);
    x_refute(MEMORY("free-twice", block_free, block_free), X_BAD_FREE);
    x_refute(MEMORY("free-wrong-size", free_wrong_size), X_BAD_FREE);
    x_refute(MEMORY("behind", read_behind), X_FREED);
    x_refute(MEMORY("read-free", block_read, block_free), X_RACE); /* whichever comes first */
    x_refute(MEMORY("free-read", block_free, block_read), X_FREED);
    x_refute(MEMORY("publish", publish_without_order, use_published), X_RACE);
    x_explore(MEMORY("free-ordered", block_write_then_x, block_free_after_x));
}

struct plain {
    struct pnx_a32 ready;
    struct pnx_a32 other;
    char bytes[4];
    uint64_t wide;
};
static void plain_write(void *state) {
    struct plain *s = state;
    s->bytes[0] = 1;
    s->wide = 7;
    pnx_store(&s->ready, 1, PNX_RELEASE, "engine.plain_ready");
}
static void plain_read(void *state) {
    struct plain *s = state;
    if (pnx_load(&s->ready, PNX_ACQUIRE, "engine.plain_look"))
        CHECK_EQ(s->wide, 7);
    s->bytes[1] = 1; /* beside the other's byte */
}
static void plain_read_early(void *state) {
    struct plain *s = state;
    CHECK(s->bytes[0] < 2);
}
static void plain_store_to_atomic(void *state) {
    struct plain *s = state;
    s->ready = (struct pnx_a32){1};
}
static void plain_init(void *state) {
    struct plain *s = state;
    s->ready = (struct pnx_a32){0};
    pnx_store(&s->other, 1, PNX_RELEASE, "engine.plain_other");
}
static void plain_use(void *state) {
    struct plain *s = state;
    if (pnx_load(&s->other, PNX_ACQUIRE, "engine.plain_other_look"))
        CHECK_EQ(pnx_fetch_add(&s->ready, 1, PNX_RELAXED, "engine.plain_add"), 0);
}

/* A word that is used, given up, written plainly and published again: nobody may see what was before. */
static void plain_again(void *state) {
    struct plain *s = state;
    pnx_store(&s->ready, 5, PNX_RELAXED, "engine.plain_first");
    s->ready = (struct pnx_a32){0};
    pnx_store(&s->other, 1, PNX_RELEASE, "engine.plain_publish");
}
static void plain_fresh(void *state) {
    struct plain *s = state;
    if (pnx_load(&s->other, PNX_ACQUIRE, "engine.plain_published"))
        CHECK_EQ(pnx_load(&s->ready, PNX_RELAXED, "engine.plain_fresh"), 0);
}

/* Without cells: the compiler tells of each access. */
TEST(plain_accesses_of_the_code_under_test_are_seen_to_the_byte) {
    x_explore(&(struct x_test){.name = "plain",
            .size = sizeof(struct plain),
            .thread = {plain_write, plain_read},
            .floor = 2});
    x_explore(&(struct x_test){.name = "plain-init",
            .size = sizeof(struct plain),
            .thread = {plain_init, plain_use},
            .floor = 2});
    x_explore(&(struct x_test){.name = "plain-again",
            .size = sizeof(struct plain),
            .thread = {plain_again, plain_fresh, plain_fresh},
            .floor = 4});
    x_refute(&(struct x_test){.name = "plain-race",
                     .size = sizeof(struct plain),
                     .thread = {plain_write, plain_read_early}},
            X_RACE);
    x_refute(&(struct x_test){.name = "plain-atomic",
                     .size = sizeof(struct plain),
                     .thread = {plain_read, plain_store_to_atomic}},
            X_RACE);
}

static void load_half(void *state) {
    (void)pnx_load((struct pnx_a64 *)state, PNX_RELAXED, "engine.wide");
}
static void call_abort(void *state) {
    (void)state;
    abort();
}
static void no_such_memory(void *state) {
    **(char **)state = 1; /* zeroed, but the compiler does not know */
}
static void fail_check(void *state) {
    CHECK_EQ(pnx_load(&((struct word *)state)->x, PNX_RELAXED, "engine.check"), 0);
}

TEST(crashes_and_mixed_sizes_are_found) {
    x_refute(
            &(struct x_test){
                    .name = "mixed", .size = sizeof(struct word), .thread = {store_x, load_half}},
            X_MISUSE);
    x_refute(&(struct x_test){.name = "abort", .size = 8, .thread = {call_abort}}, X_CRASH);
    x_refute(&(struct x_test){.name = "null", .size = 8, .thread = {no_such_memory}}, X_CRASH);
}

/* Waiting. */

struct wait {
    struct pnx_a32 word;
    struct x_cell timed_out;
    struct x_cell woken;
    uint32_t expected_timeouts;
};
static void wait_timed(void *state) {
    struct wait *s = state;
    while (!pnx_load(&s->word, PNX_ACQUIRE, "engine.wait_look")) {
        if (pnx__futex_wait(&s->word, 0, pnx_now() + PNX_SEC) == -ETIMEDOUT) {
            x_cell_write(&s->timed_out, 1);
            return;
        }
        x_cell_write(&s->woken, x_cell_read(&s->woken) + 1);
    }
}
static void wait_wake(void *state) {
    struct wait *s = state;
    pnx_store(&s->word, 1, PNX_RELEASE, "engine.wait_set");
    pnx__futex_wake(&s->word, 1);
}
static void nobody_timed_out(void *state) {
    CHECK_EQ(x_cell_read(&((struct wait *)state)->timed_out), 0);
}
static void woken_once(void *state) {
    CHECK(x_cell_read(&((struct wait *)state)->woken) <= 1);
}
static void time_passed(void *state) {
    CHECK_EQ(x_cell_read(&((struct wait *)state)->timed_out), 1);
    CHECK_EQ(pnx_now(), 2 * PNX_SEC);
}
#define WAIT(text, end, ...) \
    (&(struct x_test){.name = text, \
            .size = sizeof(struct wait), \
            .final = end, \
            .thread = {wait_timed, wait_wake}, \
            .floor = 3, \
            __VA_ARGS__})

TEST(a_timed_wait_may_time_out_even_when_somebody_would_wake_it) {
    x_refute(WAIT("timeout", nobody_timed_out, .timeouts = 1), X_ASSERTION);
    x_explore(WAIT("no-timeout", nobody_timed_out, .timeouts = X_NONE, .random = X_NONE));
}

TEST(a_wait_may_return_for_no_reason_if_asked) {
    x_refute(WAIT("spurious", woken_once, .spurious = 1, .timeouts = X_NONE), X_ASSERTION);
    x_explore(WAIT("not-spurious", woken_once, .timeouts = X_NONE, .stale = X_NONE));
}

TEST(time_passes_when_nobody_can_run) {
    x_explore(&(struct x_test){.name = "time",
            .size = sizeof(struct wait),
            .thread = {wait_timed},
            .final = time_passed,
            .floor = 1});
}

/* Threads that the code under test starts. */

static void started(void *arg) {
    struct word *s = arg;
    x_write(&s->block, sizeof(s->block));
    CHECK(pnx__thread()->id == 3);
}
static void starts(void *state) {
    struct pnx_os_thread *thread;
    CHECK_EQ(pnx__thread_start("started", started, state, &thread), 0);
    store_x(state);
    pnx__thread_join(&thread);
    x_read(&((struct word *)state)->block, sizeof(void *));
}
static void starts_and_reads_too_early(void *state) {
    struct pnx_os_thread *thread;
    CHECK_EQ(pnx__thread_start("started", started, state, &thread), 0);
    x_read(&((struct word *)state)->block, sizeof(void *));
    pnx__thread_join(&thread);
}

TEST(threads_start_and_join_in_order) {
    x_explore(&(struct x_test){
            .name = "start", .size = sizeof(struct word), .thread = {starts}, .floor = 1});
    x_refute(&(struct x_test){.name = "start-race",
                     .size = sizeof(struct word),
                     .thread = {starts_and_reads_too_early}},
            X_RACE);
}

/* The search. */

static void choose(void *state) {
    (void)state;
    CHECK(x_choose(5) != 3);
}
static void choose_9(void *state) {
    (void)state;
    unsigned a = x_choose(3), b = x_choose(3);
    (void)a;
    (void)b;
}
TEST(a_choice_is_made_in_every_way) {
    struct x_result r;
    x_refute(&(struct x_test){.name = "choice", .thread = {choose}}, X_ASSERTION);
    CHECK_EQ(x_run(&(struct x_test){.name = "choice-9", .thread = {choose_9}}, &r), X_PASSED);
    CHECK_EQ(r.executions, 9);
    CHECK(r.exhausted);
}

TEST(a_limit_and_a_floor_hold) {
    struct x_result r;
    CHECK_EQ(x_run(&(struct x_test){.name = "limit", .thread = {choose_9}, .limit = 8}, &r),
            X_UNFINISHED);
    CHECK(!r.exhausted);
}

static int times;
static void depends_on_more(void *state) {
    (void)state;
    (void)x_choose(2 + (unsigned)(times++ % 2));
}
TEST(a_test_that_depends_on_more_than_its_schedule_is_found) {
    x_refute(&(struct x_test){.name = "unstable", .thread = {depends_on_more}}, X_MISUSE);
}

static void allocation_fails(void *state) {
    (void)state;
    x_fail_allocation(1);
    void *a = x_alloc(8), *b = x_alloc(8), *c = x_alloc(8);
    CHECK(a && !b && c);
    x_free(a);
    x_free(c);
}
TEST(allocations_fail_on_request) {
    x_explore(&(struct x_test){.name = "allocation", .thread = {allocation_fails}, .floor = 1});
}

/* The library's own variables are as they were at the start of each execution. */
static void add_row(void *state) {
    (void)state;
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(pnx_registry_default(), PNX_RESOURCE(.type = "test"), NULL, &id), 0);
}
static void no_rows(void *state) {
    (void)state;
    CHECK_EQ(pnx_registry_count(pnx_registry_default()), 0);
}
static void two_rows(void *state) {
    (void)state;
    CHECK_EQ(pnx_registry_count(pnx_registry_default()), 2);
}
TEST(variables_of_the_library_start_fresh_each_time) {
    x_explore(&(struct x_test){.name = "default-registry",
            .setup = no_rows,
            .thread = {add_row, add_row},
            .final = two_rows,
            .preemptions = 1, /* a registry takes many steps, and is explored elsewhere */
            .leaks = true,    /* the default registry is never freed */
            .floor = 10});
}

/* Three threads over three words, in every mixture of orders: what the reductions must not lose. */
struct mixture {
    struct pnx_a32 word[3];
    struct x_cell seen[9];
};
static unsigned shape;
static void mixed(struct mixture *s, unsigned me) {
    unsigned bits = shape >> (me * 4);
    unsigned a = me, b = (me + 1 + bits % 2) % 3;
    bits >>= 1;
    if (bits & 1)
        pnx_fetch_add(&s->word[a], me + 1, PNX_SEQ_CST, "engine.mixed_add");
    else
        pnx_store(&s->word[a], me + 1, PNX_RELEASE, "engine.mixed_store");
    if (bits & 2)
        pnx_fence(PNX_SEQ_CST, "engine.mixed_fence");
    uint32_t seen = pnx_load(&s->word[b], PNX_RELAXED, "engine.mixed_look");
    if (bits & 4)
        pnx_store(&s->word[b], seen + 16, PNX_RELAXED, "engine.mixed_change");
    (void)pnx_load(&s->word[(b + 1) % 3], PNX_ACQUIRE, "engine.mixed_again");
}
static void mixed_0(void *state) {
    mixed(state, 0);
}
static void mixed_1(void *state) {
    mixed(state, 1);
}
static void mixed_2(void *state) {
    mixed(state, 2);
}
TEST(executions_that_are_left_out_are_like_others_that_are_run) {
    uint64_t seed = test_seed();
    uint64_t saved = 0;
    for (unsigned i = 0; i < 60; i++) {
        shape = (unsigned)test_random(&seed);
        struct x_test test = {.name = "mixed",
                .size = sizeof(struct mixture),
                .thread = {mixed_0, mixed_1, mixed_2},
                .preemptions = 1 + i % 3,
                .stale = i % 2 ? 1 : X_NONE,
                .random = X_NONE};
        struct x_result reduced, full;
        CHECK_EQ(x_run(&test, &reduced), X_PASSED);
        test.thorough = true;
        CHECK_EQ(x_run(&test, &full), X_PASSED);
        CHECK(reduced.exhausted && full.exhausted);
        CHECK_MSG(reduced.distinct_exhaustive == full.distinct_exhaustive,
                "shape %x, %u preemptions: %llu different executions, and %llu when none is left "
                "out",
                shape, test.preemptions, (unsigned long long)reduced.distinct_exhaustive,
                (unsigned long long)full.distinct_exhaustive);
        CHECK(reduced.executions <= full.executions);
        saved += full.executions - reduced.executions;
    }
    CHECK(saved > 0);
}

/* The same with locks, futexes, spins and memory that comes and goes. */
struct mixture2 {
    struct pnx_mutex lock;
    struct pnx_a32 word[2];
    struct pnx_aptr block;
    uint32_t guarded;
};
static void mixture2_setup(void *state) {
    struct mixture2 *s = state;
    pnx__mutex_init(&s->lock, PNX_RANK_NONE);
    pnx_store(&s->block, x_alloc(8), PNX_RELAXED, "engine.mixed2_block");
}
static void mixed2_step(struct mixture2 *s, unsigned bits, unsigned me) {
    struct pnx_a32 *word = &s->word[bits >> 3 & 1];
    switch (bits & 7) {
    case 0:
        pnx__mutex_lock(&s->lock);
        s->guarded = s->guarded * 3 + me;
        (void)pnx_load(word, PNX_RELAXED, "engine.mixed2_locked");
        pnx__mutex_unlock(&s->lock);
        break;
    case 1:
        if (pnx__mutex_trylock(&s->lock)) {
            s->guarded = s->guarded * 3 + me;
            pnx_store(word, s->guarded, PNX_RELEASE, "engine.mixed2_tried");
            pnx__mutex_unlock(&s->lock);
        } else {
            pnx_fetch_add(word, 100, PNX_RELAXED, "engine.mixed2_not");
        }
        break;
    case 2:
        if (pnx__futex_wait(word, 0, pnx_now() + PNX_SEC) == -ETIMEDOUT)
            pnx_fetch_add(word, 1000, PNX_RELAXED, "engine.mixed2_timeout");
        pnx_fetch_add(word, (uint32_t)(pnx_now() / PNX_SEC), PNX_RELAXED, "engine.mixed2_time");
        break;
    case 3:
        pnx_fetch_add(word, 1, PNX_ACQ_REL, "engine.mixed2_add");
        pnx__futex_wake(word, 1);
        break;
    case 4: {
        uint32_t found = 0;
        if (!pnx_cas(word, &found, me, PNX_ACQUIRE, "engine.mixed2_cas"))
            pnx_store(word, found + 7, PNX_RELAXED, "engine.mixed2_other");
        break;
    }
    case 5: {
        void *mine = x_alloc(8);
        x_free(pnx_exchange(&s->block, mine, PNX_ACQ_REL, "engine.mixed2_swap"));
        break;
    }
    case 6:
        for (int i = 0; i < 2 && !pnx_load(word, PNX_ACQUIRE, "engine.mixed2_spin"); i++)
            pnx__spin_hint();
        break;
    default:
        if (pnx_load(word, PNX_RELAXED, "engine.mixed2_look"))
            pnx__barrier_heavy();
        break;
    }
}
static void mixed2(struct mixture2 *s, unsigned me) {
    unsigned bits = shape >> (me * 8);
    mixed2_step(s, bits, me + 1);
    mixed2_step(s, bits >> 4, me + 1);
}
static void mixed2_0(void *state) {
    mixed2(state, 0);
}
static void mixed2_1(void *state) {
    mixed2(state, 1);
}
static void mixed2_2(void *state) {
    mixed2(state, 2);
}
static void mixture2_final(void *state) {
    struct mixture2 *s = state;
    (void)pnx_load(&s->word[0], PNX_RELAXED, "engine.mixed2_last0");
    (void)pnx_load(&s->word[1], PNX_RELAXED, "engine.mixed2_last1");
    CHECK(s->guarded < 1000);
    x_free(pnx_load(&s->block, PNX_RELAXED, "engine.mixed2_last"));
}
TEST(nothing_is_lost_with_locks_futexes_spins_and_memory) {
    uint64_t seed = test_seed();
    uint64_t saved = 0;
    for (unsigned i = 0; i < 40; i++) {
        shape = (unsigned)test_random(&seed);
        struct x_test test = {.name = "mixed2",
                .size = sizeof(struct mixture2),
                .setup = mixture2_setup,
                .thread = {mixed2_0, mixed2_1, mixed2_2},
                .final = mixture2_final,
                .preemptions = 1 + i % 2,
                .stale = i % 4 == 3 ? 1 : X_NONE,
                .timeouts = i % 3 ? 1 : X_NONE,
                .fences = i % 5 == 0,
                .random = X_NONE};
        struct x_result reduced, full;
        CHECK_MSG(x_run(&test, &reduced) == X_PASSED, "shape %x: %s", shape, reduced.message);
        test.thorough = true;
        CHECK_EQ(x_run(&test, &full), X_PASSED);
        CHECK_MSG(reduced.distinct_exhaustive == full.distinct_exhaustive,
                "shape %x, round %u: %llu different executions, and %llu when none is left out",
                shape, i, (unsigned long long)reduced.distinct_exhaustive,
                (unsigned long long)full.distinct_exhaustive);
        saved += full.executions - reduced.executions;
    }
    CHECK(saved > 0);
}

/* Repeating: in another process, as a person would. */
static void replay(const char *name, const char *schedule, char *out, size_t size) {
    int fds[2];
    CHECK(pipe(fds) == 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], 2);
        dup2(fds[1], 1);
        unsetenv("PNX_TEST_RESULTS");
        execl("/proc/self/exe", "test_explorer_engine", "--replay", schedule, name, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    size_t n = 0;
    ssize_t got;
    while (n + 1 < size && (got = read(fds[0], out + n, size - n - 1)) > 0)
        n += (size_t)got;
    out[n] = 0;
    close(fds[0]);
    waitpid(pid, NULL, 0);
}

#define FAILING \
    (&(struct x_test){ \
            .name = "failing", .size = sizeof(struct word), .thread = {store_x, fail_check}})
TEST(to_be_replayed) {
    struct x_result r;
    x_run(FAILING, &r);
    CHECK_EQ(r.failure, X_ASSERTION);
}
TEST(a_schedule_repeats_the_failure_with_a_trace) {
    struct x_result r;
    CHECK_EQ(x_run(FAILING, &r), X_ASSERTION);
    CHECK_CONTAINS(r.schedule, "failing@");
    char out[8192];
    replay("to_be_replayed", r.schedule, out, sizeof(out));
    CHECK_CONTAINS(out, "FAILS: assertion");
    CHECK_CONTAINS(out, "engine.store_x");
    CHECK_CONTAINS(out, r.message);
}
