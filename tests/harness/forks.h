/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harness/forks.h - forks while other threads are in the middle of whatever they do: the child must find it usable.
 *
 * The child may call no malloc(), nor may what it uses: the C library's survives a fork, but a sanitizer's has locks that
 * another thread may hold for ever in the child.  Where a test is about what is allocated it takes test_fork_env(), and
 * has each thread use once, before the first fork, what allocates once in a thread.
 */
#ifndef PNX_TESTS_HARNESS_FORKS_H
#define PNX_TESTS_HARNESS_FORKS_H

#include "harness/harness.h"
#include "os/thread.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* Blocks of one size, each with a word that says whether it is taken: nothing that a fork could find half done. */
enum { TEST_FORK_BLOCK = 1 << 17, TEST_FORK_BLOCKS = 256 };
struct test_fork_blocks {
    _Alignas(64) unsigned char memory[TEST_FORK_BLOCKS][TEST_FORK_BLOCK];
    uint32_t taken[TEST_FORK_BLOCKS];
};

static inline void *test_fork_alloc(void *ctx, size_t size, size_t align) {
    struct test_fork_blocks *blocks = ctx;
    CHECK(size <= TEST_FORK_BLOCK && align <= 64);
    for (unsigned i = 0; i < TEST_FORK_BLOCKS; i++) {
        if (!__atomic_exchange_n(&blocks->taken[i], 1, __ATOMIC_ACQUIRE))
            return blocks->memory[i];
    }
    return NULL;
}

static inline void test_fork_free(void *ctx, void *p, size_t size) {
    struct test_fork_blocks *blocks = ctx;
    size_t at = (size_t)((unsigned char *)p - blocks->memory[0]) / TEST_FORK_BLOCK;
    (void)size;
    __atomic_store_n(&blocks->taken[at], 0, __ATOMIC_RELEASE);
}

/* Memory for what is allocated and freed on both sides of forks.  NULL, the system's, where that survives them. */
static inline const struct pnx_env *test_fork_env(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    static struct test_fork_blocks blocks;
    static const struct pnx_env env = {
            .size = sizeof(env), .ctx = &blocks, .alloc = test_fork_alloc, .free = test_fork_free};
    return &env;
#else
    return NULL;
#endif
}

struct test_forks {
    int (*use)(void *ctx); /* returns 0 when all is well, else a small number */
    void *ctx;
    pthread_barrier_t joined;
    uint32_t stop;
    int round, status; /* of the first child that failed; 0: none has */
};

static inline void test_fork_or_use(unsigned index, void *ctx) {
    struct test_forks *forks = ctx;
    CHECK(pnx__thread()); /* its record is malloc()'s */
    /* What is done once has been done: a sanitizer's pthread_once() knows nothing of forks in the middle of it. */
    CHECK_EQ(forks->use(forks->ctx), 0);
    pthread_barrier_wait(&forks->joined);
    if (index > 0) {
        while (!__atomic_load_n(&forks->stop, __ATOMIC_RELAXED))
            CHECK_EQ(forks->use(forks->ctx), 0);
        return;
    }
    for (int i = 0; i < (test_slow() ? 20 : 200) && forks->status == 0; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(20); /* it hangs: the signal ends it */
            _exit(forks->use(forks->ctx));
        }
        CHECK_EQ(waitpid(child, &forks->status, 0), child);
        forks->round = i;
    }
    __atomic_store_n(&forks->stop, 1, __ATOMIC_RELAXED);
}

/* Forks again and again beside two threads that use it all the time, and uses it in each child. */
static inline void test_forks_beside(const char *what, int (*use)(void *ctx), void *ctx) {
    struct test_forks forks = {.use = use, .ctx = ctx};
    CHECK_EQ(pthread_barrier_init(&forks.joined, NULL, 3), 0);
    test_threads(3, test_fork_or_use, &forks);
    CHECK_MSG(forks.status == 0, "%s: a child failed in round %d, %s %d", what, forks.round,
            WIFSIGNALED(forks.status) ? "by signal" : "with code",
            WIFSIGNALED(forks.status) ? WTERMSIG(forks.status) : WEXITSTATUS(forks.status));
    pthread_barrier_destroy(&forks.joined);
}

#endif
