/* SPDX-License-Identifier: Apache-2.0 */
/* Ranked mutexes: P1 of src/os/mutex.c. */
#include "harness/harness.h"
#include "os/mutex.h"
#include "os/thread.h"

static void sum_under_lock(unsigned index, void *ctx) {
    static struct pnx_mutex mutex = PNX_MUTEX_STATIC(PNX_RANK_POOL);
    int *sum = ctx;
    for (int i = 0; i < 20000; i++) {
        if (index == 0 && i % 2) {
            while (!pnx__mutex_trylock(&mutex))
                pnx__spin_hint();
        } else {
            pnx__mutex_lock(&mutex);
        }
        pnx__mutex_assert_held(&mutex);
        ++*sum; /* plain: a mutex that let two in would be a data race */
        pnx__mutex_unlock(&mutex);
        pnx__mutex_assert_none_held();
    }
}

TEST(one_thread_at_a_time_is_inside) {
    int sum = 0;
    test_threads(3, sum_under_lock, &sum);
    CHECK_EQ(sum, 60000);
}

static struct pnx_mutex low, low2, high;

static void make_locks(void) {
    pnx__mutex_init(&low, PNX_RANK_POOL);
    pnx__mutex_init(&low2, PNX_RANK_POOL);
    pnx__mutex_init(&high, PNX_RANK_STATS);
}

TEST(locks_are_taken_upwards_and_given_back_in_any_order) {
    make_locks();
    for (int i = 0; i < 3; i++) {
        pnx__mutex_lock(&low);
        pnx__mutex_lock(&high);
        pnx__mutex_assert_held(&low);
        pnx__mutex_assert_held(&high);
        pnx__mutex_unlock(i % 2 ? &low : &high);
        pnx__mutex_unlock(i % 2 ? &high : &low);
    }
    pnx__mutex_lock(&high);
    CHECK(pnx__mutex_trylock(&low)); /* never waits, so it cannot deadlock */
    CHECK(!pnx__mutex_trylock(&low));
    pnx__mutex_unlock(&high);
    pnx__mutex_lock(&high);
    pnx__mutex_unlock(&low);
    pnx__mutex_unlock(&high);
    pnx__mutex_assert_none_held();
    pnx__mutex_destroy(&low);
    pnx__mutex_destroy(&high);
}

TEST(unranked_locks_have_no_order) {
    struct pnx_mutex a, b;
    pnx__mutex_init(&a, PNX_RANK_NONE);
    pnx__mutex_init(&b, PNX_RANK_NONE);
    make_locks();
    pnx__mutex_lock(&high);
    pnx__mutex_lock(&a);
    pnx__mutex_lock(&b);
    pnx__mutex_unlock(&a);
    pnx__mutex_unlock(&b);
    pnx__mutex_unlock(&high);
}

#ifdef PNX_DEBUG
/* Checks that fn aborts, and that the line on standard error is this. */
static void check_abort(void (*fn)(void *), const char *line) {
    make_locks();
    CHECK_STR(test_abort(fn, NULL), line);
}

static void lock_downwards(void *ctx) {
    (void)ctx;
    pnx__mutex_lock(&high);
    pnx__mutex_lock(&low);
}

TEST(p1_locking_against_the_order_aborts) {
    check_abort(lock_downwards, "patinox: lock order: locking POOL while holding STATS\n");
}

static void lock_an_equal(void *ctx) {
    (void)ctx;
    pnx__mutex_lock(&low);
    pnx__mutex_lock(&low2);
}

TEST(p1_two_locks_of_one_rank_abort) {
    check_abort(lock_an_equal, "patinox: lock order: locking POOL while holding POOL\n");
}

static void lock_twice(void *ctx) {
    (void)ctx;
    pnx__mutex_lock(&low);
    pnx__mutex_lock(&high);
    pnx__mutex_lock(&low); /* would deadlock */
}

TEST(p1_locking_twice_aborts_instead_of_hanging) {
    check_abort(lock_twice, "patinox: lock order: locking POOL while holding POOL, STATS\n");
}

static void unlock_free(void *ctx) {
    (void)ctx;
    pnx__mutex_unlock(&low);
}

TEST(p1_unlocking_what_nobody_holds_aborts) {
    check_abort(unlock_free, "patinox: lock order: unlocking, without holding it, POOL\n");
}

static void lock_low(void *arg) {
    (void)arg;
    pnx__mutex_lock(&low);
}

static void unlock_anothers(void *ctx) {
    (void)ctx;
    struct pnx_os_thread *thread;
    CHECK_EQ(pnx__thread_start("holder", lock_low, NULL, &thread), 0);
    pnx__thread_join(&thread);
    pnx__mutex_lock(&high);
    pnx__mutex_unlock(&low);
}

TEST(p1_unlocking_what_another_thread_holds_aborts) {
    check_abort(unlock_anothers,
            "patinox: lock order: unlocking, without holding it, POOL while holding STATS\n");
}

static void claim_to_hold(void *ctx) {
    (void)ctx;
    pnx__mutex_lock(&low2); /* of the same rank, but another */
    pnx__mutex_assert_held(&low);
}

TEST(p1_asserting_a_lock_that_is_not_held_aborts) {
    check_abort(claim_to_hold, "patinox: lock order: not held: POOL while holding POOL\n");
}

static void call_out(void *ctx) {
    (void)ctx;
    pnx__mutex_lock(&low);
    pnx__mutex_assert_none_held();
}

TEST(p1_calling_out_with_a_lock_aborts) {
    check_abort(call_out, "patinox: lock order: calling out; NONE while holding POOL\n");
}

static void hold_too_many(void *ctx) {
    static struct pnx_mutex many[PNX_HELD_MAX + 1];
    (void)ctx;
    for (int i = 0; i <= PNX_HELD_MAX; i++) {
        pnx__mutex_init(&many[i], PNX_RANK_NONE);
        pnx__mutex_lock(&many[i]);
    }
}

TEST(p1_holding_more_locks_than_can_be_noted_aborts) {
    CHECK_CONTAINS(test_abort(hold_too_many, NULL), "patinox: lock order: too many locks held");
}
#endif
