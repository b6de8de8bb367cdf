/* SPDX-License-Identifier: Apache-2.0 */
/* Biased locks: P1..P3 of src/os/lock.c. */
#include "harness/harness.h"
#include "os/fork.h"
#include "os/lock.h"
#include "os/thread.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

static struct pnx_lock lock;

/* ---- one at a time ---- */

enum { ROUNDS = 300000 };

struct sum {
    uint64_t a, b; /* plain: a lock that let two in would lose some, and be a data race */
    uint64_t added[4];
    unsigned hurried; /* threads that take it rarely */
};

static void add(struct sum *sum) {
    CHECK_EQ(sum->a, sum->b);
    sum->a++;
    sum->b++;
}

/* The first thread takes the lock all the time, the others now and then. */
static void add_all(unsigned index, void *ctx) {
    struct sum *sum = ctx;
    uint64_t state = test_seed() + index;
    uint64_t rounds = test_slow() ? ROUNDS / 10 : ROUNDS;
    for (uint64_t i = 0; i < rounds; i++) {
        if (index > 0 && test_random(&state) % 1024 != 0) {
            pnx__spin_hint();
            continue;
        }
        if (index % 2 == 0 || !pnx__trylock(&lock))
            pnx__lock(&lock);
        pnx__lock_assert_held(&lock);
        add(sum);
        sum->added[index]++;
        pnx__unlock(&lock);
    }
}

TEST(p1_one_thread_at_a_time_is_in_be_it_by_the_bias_or_by_the_word) {
    for (int round = 0; round < 5; round++) {
        struct sum sum = {0};
        pnx__lock_init(&lock, PNX_RANK_POOL);
        test_threads(4, add_all, &sum);
        CHECK_EQ(sum.a, sum.added[0] + sum.added[1] + sum.added[2] + sum.added[3]);
        CHECK(sum.added[0] >= ROUNDS / 10);
    }
}

static void take_cheaply(unsigned index, void *ctx) {
    struct sum *sum = ctx;
    uint64_t state = test_seed() + index;
    for (int i = 0; i < ROUNDS / (test_slow() ? 10 : 1); i++) {
        if (index > 0 && test_random(&state) % 512 != 0)
            continue;
        if (pnx__lock_cheap(&lock, pnx__self())) {
            add(sum);
            sum->added[index]++;
            pnx__unlock_cheap(&lock, pnx__self());
        } else {
            pnx__lock(&lock);
            add(sum);
            sum->added[index]++;
            pnx__unlock(&lock);
        }
    }
}

TEST(p1_also_for_those_who_take_it_only_when_that_is_cheap) {
    struct sum sum = {0};
    pnx__lock_init(&lock, PNX_RANK_POOL);
    test_threads(3, take_cheaply, &sum);
    CHECK_EQ(sum.a, sum.added[0] + sum.added[1] + sum.added[2]);
}

static bool cheap(void) {
    if (!pnx__lock_cheap(&lock, pnx__self()))
        return false;
    pnx__unlock_cheap(&lock, pnx__self());
    return true;
}

static void take_once(unsigned index, void *ctx) {
    (void)index;
    (void)ctx;
    CHECK(!cheap());
    pnx__lock(&lock);
    pnx__unlock(&lock);
}

static void take_often(void) {
    for (int i = 0; i < 200; i++) {
        pnx__lock(&lock);
        pnx__unlock(&lock);
    }
}

/* Each hand-over may cost naps of 10 ms now: few rounds, and all threads take it as often. */
static void add_few(unsigned index, void *ctx) {
    enum { FEW = 40 };
    struct sum *sum = ctx;
    for (int i = 0; i < FEW; i++) {
        for (int k = 0; k < 100; k++) { /* enough in a row to be given the bias */
            pnx__lock(&lock);
            add(sum);
            sum->added[index]++;
            pnx__unlock(&lock);
        }
        sched_yield();
    }
}

TEST(p1_also_when_the_kernel_takes_membarrier_away) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    struct sum sum = {0};
    pnx__lock_init(&lock, PNX_RANK_POOL);
    take_often(); /* the bias is this thread's, which the others have to take away */
    bool biased = cheap();
    CHECK_EQ(biased, pnx__barrier_is_asymmetric());
    test_os_fault("membarrier_use", 1, true, EPERM);
    test_threads(3, add_few, &sum);
    int64_t refused = test_os_fault_clear();
    CHECK(!biased || refused > 0);
    CHECK_EQ(sum.a, sum.added[0] + sum.added[1] + sum.added[2]);
}

TEST(a_thread_that_takes_it_often_gets_it_cheaply_until_another_takes_it) {
    pnx__lock_init(&lock, PNX_RANK_POOL);
    CHECK(!cheap());
    take_often();
    if (!pnx__barrier_is_asymmetric()) {
        CHECK(!cheap());
        return;
    }
    CHECK(cheap());
    test_threads(1, take_once, NULL);
    CHECK(!cheap());
    take_often();
    CHECK(cheap());
}

/* What was the record's is soon somebody else's memory: here, of one who seems to be inside for ever. */
TEST(a_bias_from_before_all_records_were_freed_is_nobodys) {
    enum { BLOCKS = 16 };
    pnx__lock_init(&lock, PNX_RANK_POOL);
    take_often();
    pnx__threads_forget();
    uint32_t *block[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        block[i] = malloc(sizeof(struct pnx_thread));
        CHECK(block[i]);
        for (size_t k = 0; k < sizeof(struct pnx_thread) / sizeof(uint32_t); k++)
            block[i][k] = pnx__lock_tag(&lock);
    }
    take_often();
    CHECK_EQ(cheap(), pnx__barrier_is_asymmetric());
    for (int i = 0; i < BLOCKS; i++)
        free(block[i]);
}
