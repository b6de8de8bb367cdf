/* SPDX-License-Identifier: Apache-2.0 */
/* Futexes. */
#include "harness/harness.h"
#include "os/clock.h"
#include "os/futex.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

TEST(a_word_that_differs_returns_at_once) {
    struct pnx_a32 word = {7};
    CHECK_EQ(pnx__futex_wait(&word, 8, PNX_NEVER), 0);
}

TEST(the_deadline_is_absolute_and_past_ones_have_passed) {
    struct pnx_a32 word = {7};
    errno = 1234;
    CHECK_EQ(pnx__futex_wait(&word, 7, 0), -ETIMEDOUT);
    CHECK_EQ(pnx__futex_wait(&word, 7, 1), -ETIMEDOUT);
    CHECK_EQ(pnx__futex_wait(&word, 7, -5), -ETIMEDOUT);
    CHECK_EQ(pnx__futex_wait(&word, 7, INT64_MIN), -ETIMEDOUT);
    pnx_ns deadline = pnx__os_now() + 20 * PNX_MS;
    int rc;
    do
        rc = pnx__futex_wait(&word, 7, deadline);
    while (rc == 0);
    CHECK_EQ(rc, -ETIMEDOUT);
    CHECK(pnx__os_now() >= deadline);
    CHECK_EQ(errno, 1234);
}

struct ping {
    struct pnx_a32 turn;
    uint32_t rounds;
};

static void ping(unsigned index, void *ctx) {
    struct ping *p = ctx;
    for (uint32_t i = 0; i < p->rounds; i++) {
        uint32_t mine = i * 2 + index;
        for (;;) {
            uint32_t turn = pnx_load(&p->turn, PNX_ACQUIRE, "test.turn");
            if (turn == mine)
                break;
            CHECK_EQ(pnx__futex_wait(&p->turn, turn, PNX_NEVER), 0);
        }
        pnx_store(&p->turn, mine + 1, PNX_RELEASE, "test.next");
        pnx__futex_wake(&p->turn, 1);
    }
}

TEST(no_wake_up_is_lost) {
    static struct ping p;
    p.rounds = test_slow() ? 2000 : 20000;
    test_threads(2, ping, &p);
    CHECK_EQ(p.turn.v, p.rounds * 2);
}

struct crowd {
    struct pnx_a32 word;
    struct pnx_a32 woken;
};

static void crowd(unsigned index, void *ctx) {
    struct crowd *c = ctx;
    if (index > 0) {
        while (pnx_load(&c->word, PNX_ACQUIRE, "test.word") == 0)
            CHECK_EQ(pnx__futex_wait(&c->word, 0, PNX_NEVER), 0);
        pnx_fetch_add(&c->woken, 1, PNX_RELAXED, "test.woken");
        return;
    }
    for (int i = 0; i < 50; i++)
        sched_yield(); /* some are asleep by then, some not: both must go on */
    pnx_store(&c->word, 1, PNX_RELEASE, "test.go");
    pnx__futex_wake(&c->word, UINT32_MAX);
}

TEST(waking_all_wakes_all) {
    for (int i = 0; i < 20; i++) {
        struct crowd c = {0};
        test_threads(6, crowd, &c);
        CHECK_EQ(c.woken.v, 5);
    }
}

TEST(waking_a_word_that_is_gone_is_harmless) {
    const char *preload = getenv("LD_PRELOAD");
    if (preload && strstr(preload, "vgpreload"))
        test_skip("valgrind reports the address, rightly");
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    struct pnx_a32 *word = page;
    CHECK(munmap(page, 4096) == 0);
    errno = 1234;
    pnx__futex_wake(word, 1);
    pnx__futex_wake(word, UINT32_MAX);
    CHECK_EQ(errno, 1234);
}

static struct pnx_a32 signalled;

static void on_signal(int signal) {
    (void)signal;
    pnx_store(&signalled, 1, PNX_RELAXED, "test.signalled");
}

static void interrupted(unsigned index, void *ctx) {
    static pthread_t sleeper;
    static struct pnx_a32 ready, done;
    struct pnx_a32 *word = ctx;
    if (index == 0) {
        sleeper = pthread_self();
        pnx_store(&ready, 1, PNX_RELEASE, "test.ready");
        CHECK_EQ(pnx__futex_wait(word, 0, PNX_NEVER), 0); /* spurious: callers loop */
        pnx_store(&done, 1, PNX_RELEASE, "test.done");
        return;
    }
    while (!pnx_load(&ready, PNX_ACQUIRE, "test.ready?"))
        sched_yield();
    while (!pnx_load(&done, PNX_ACQUIRE, "test.done?")) {
        pthread_kill(sleeper, SIGUSR1); /* until one of them finds it asleep */
        sched_yield();
    }
}

TEST(a_signal_is_a_spurious_wake_up) {
    struct sigaction action = {.sa_handler = on_signal};
    struct pnx_a32 word = {0};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    test_threads(2, interrupted, &word);
    CHECK_EQ(signalled.v, 1);
}

TEST(faults_make_wake_ups_spurious_and_deadlines_early) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    struct pnx_a32 word = {7};
    test_os_fault("futex_wait", 1, true, EINTR);
    CHECK_EQ(pnx__futex_wait(&word, 7, PNX_NEVER), 0);
    test_os_fault("futex_wait", 1, true, ETIMEDOUT);
    CHECK_EQ(pnx__futex_wait(&word, 7, PNX_NEVER), -ETIMEDOUT);
    CHECK_EQ(test_os_fault_clear(), 1);
}
