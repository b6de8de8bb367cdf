/* SPDX-License-Identifier: Apache-2.0 */
/* latch: P2 of share/latch.h, for an owner that only tries. */
#include "harness/harness.h"
#include "share/latch.h"

#include <pthread.h>

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
