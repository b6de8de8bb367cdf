/* SPDX-License-Identifier: Apache-2.0 */
/* latch: P2 of share/latch.h, for an owner that only tries. */
#include "harness/harness.h"
#include "share/latch.h"

#include <pthread.h>
#include <sched.h>

static struct pnx_latch ours, theirs;
static pthread_barrier_t meet;
static struct test_env te;

/* The clock of the one who tries: the other thread has its turn while it is read. */
static pnx_ns now_in_the_middle(void *ctx) {
    static bool met;
    (void)ctx;
    if (!met) {
        met = true;
        pthread_barrier_wait(&meet);
        pthread_barrier_wait(&meet);
    }
    return PNX_SEC;
}

static void try_crosswise(unsigned index, void *ctx) {
    (void)ctx;
    struct pnx_latch *own = index ? &theirs : &ours, *other = index ? &ours : &theirs;
    CHECK_EQ(pnx__latch_acquire(own, &te.env, PNX_NEVER), 0);
    pthread_barrier_wait(&meet);
    if (index == 0) {
        struct pnx_env env = te.env;
        env.now = now_in_the_middle;
        CHECK_EQ(pnx__latch_acquire(other, &env, INT64_MIN), -ETIMEDOUT);
    } else {
        pthread_barrier_wait(&meet);
        CHECK_EQ(pnx__latch_acquire(other, &te.env, INT64_MIN), -ETIMEDOUT);
        pthread_barrier_wait(&meet);
    }
    pthread_barrier_wait(&meet); /* both still own what the other one tried */
    pnx__latch_release(own);
}

TEST(p2_who_only_tries_closes_no_circle) {
    test_env_init(&te);
    pthread_barrier_init(&meet, NULL, 2);
    test_threads(2, try_crosswise, NULL);
}

/* ---- P3: an owner whose thread has ended ---- */

static int owned; /* with __atomic, relaxed: says that the latch is taken, and orders nothing */
static int written_by_owner;

static void *end_as_owner(void *arg) {
    CHECK_EQ(pnx__latch_acquire(arg, &te.env, PNX_NEVER), 0);
    written_by_owner = 42;
    __atomic_store_n(&owned, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Nobody joins the thread: that it has gone, and what it did, the latch itself has to find out. */
TEST(p3_who_gets_a_latch_from_a_thread_that_has_gone_sees_what_it_did) {
    static struct pnx_latch latch;
    pthread_t thread;
    test_env_init(&te);
    CHECK_EQ(pthread_create(&thread, NULL, end_as_owner, &latch), 0);
    pthread_detach(thread);
    while (!__atomic_load_n(&owned, __ATOMIC_RELAXED))
        sched_yield();
    while (pnx__latch_acquire(&latch, &te.env, INT64_MIN) != 0)
        sched_yield();
    CHECK_EQ(written_by_owner, 42);
    pnx__latch_release(&latch);
}
