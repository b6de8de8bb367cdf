/* SPDX-License-Identifier: Apache-2.0 */
/* Threads: P1..P3 of src/os/thread.c; barriers. */
#include "harness/harness.h"
#include "os/thread.h"

#include "base/atomic.h"

#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- P1: records ---- */

static void keep_record(unsigned index, void *ctx) {
    uint64_t *ids = ctx;
    struct pnx_thread *record = pnx__thread();
    CHECK(record && record == pnx__thread());
    CHECK_EQ(record->held + (record->fault_scopes != NULL) + record->reclaim_depth +
                     record->monitor_depth,
            0);
    ids[index] = record->id;
}

TEST(p1_each_thread_has_one_record_and_its_own_number) {
    uint64_t ids[24];
    for (unsigned round = 0; round < 3; round++)
        test_threads(8, keep_record, ids + (size_t)round * 8);
    for (int i = 0; i < 24; i++) {
        CHECK(ids[i] != 0);
        for (int k = 0; k < i; k++)
            CHECK(ids[i] != ids[k]); /* not reused by later threads either */
    }
}

struct owned {
    struct pnx_thread *record;
    uint32_t number;
};

static void look_at_number(void *arg) {
    struct owned *owned = arg;
    owned->record = pnx__thread();
    CHECK(owned->record);
    owned->number = owned->record->number;
}

TEST(p1_a_record_keeps_its_number_from_owner_to_owner) {
    struct owned first, other, next;
    look_at_number(&first);
    CHECK(first.number != 0);
    struct pnx_os_thread *thread = NULL;
    CHECK_EQ(pnx__thread_start("other", look_at_number, &other, &thread), 0);
    pnx__thread_join(&thread);
    CHECK(other.number != 0 && other.number != first.number);
    CHECK_EQ(pnx__thread_start("next", look_at_number, &next, &thread), 0);
    pnx__thread_join(&thread);
    CHECK(next.record == other.record);
    CHECK_EQ(next.number, other.number);
    CHECK(first.record->number == first.number);
}

static void touch_record(void *arg) {
    (void)arg;
    CHECK(pnx__thread());
}

TEST(p1_records_are_freed_at_thread_exit) {
    size_t before = 0;
    for (int i = 0; i < 600; i++) {
        struct pnx_os_thread *thread = NULL;
        CHECK_EQ(pnx__thread_start("brief", touch_record, NULL, &thread), 0);
        pnx__thread_join(&thread);
        CHECK(thread == NULL);
        pnx__thread_join(&thread); /* nothing to join: fine */
        if (i == 99)
            before = mallinfo2().uordblks;
    }
    size_t after = mallinfo2().uordblks; /* 0 under sanitizers, whose leak check does this then */
    CHECK_MSG(after < before + 500 * sizeof(struct pnx_thread) / 2, "%zu bytes more in use",
            after - before);
}

static pthread_key_t late_key;
static int late_calls;

static void late(void *value) {
    (void)value;
    late_calls++;
    CHECK(pnx__thread()); /* the library used by a destructor that runs after our own */
}

static void *set_late(void *arg) {
    CHECK(pnx__thread());
    CHECK(pthread_setspecific(late_key, arg) == 0);
    return NULL;
}

TEST(p1_destructors_that_run_later_may_use_the_library) {
    pthread_t thread;
    CHECK(pnx__thread()); /* so that our key is made first, and its destructor runs first */
    CHECK(pthread_key_create(&late_key, late) == 0);
    CHECK(pthread_create(&thread, NULL, set_late, &late_key) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_EQ(late_calls, 1);
}

/* ---- P2: signals ---- */

static void look_at_mask(void *arg) {
    sigset_t *mask = arg;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, mask) == 0);
}

TEST(p2_threads_take_only_the_signals_that_they_cause) {
    sigset_t before, after, inside;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
    struct pnx_os_thread *thread = NULL;
    CHECK_EQ(pnx__thread_start("mask", look_at_mask, &inside, &thread), 0);
    pnx__thread_join(&thread);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    for (int s = 1; s < 32; s++) {
        bool own = s == SIGBUS || s == SIGSEGV || s == SIGFPE || s == SIGILL;
        if (s != SIGKILL && s != SIGSTOP)
            CHECK_MSG(sigismember(&inside, s) == !own, "signal %d", s);
        CHECK_EQ(sigismember(&after, s), sigismember(&before, s));
    }
    CHECK_EQ(sigismember(&inside, SIGRTMIN), 1);
}

struct given_up {
    struct pnx_a32 go;
    struct pnx_a32 ended;
};

static void run_on(void *arg) {
    struct given_up *g = arg;
    while (g && !pnx_load(&g->go, PNX_ACQUIRE, "test.go"))
        sched_yield();
    if (g)
        pnx_store(&g->ended, 1, PNX_RELEASE, "test.ended");
}

/* Leak checkers and TSan look on: whoever comes second frees the handle. */
TEST(a_thread_that_is_given_up_runs_on_and_leaves_nothing) {
    static struct given_up g;
    struct pnx_os_thread *thread = NULL;
    CHECK_EQ(pnx__thread_start("given up", run_on, &g, &thread), 0);
    pnx__thread_detach(&thread);
    CHECK(thread == NULL);
    pnx__thread_detach(&thread);
    pnx_store(&g.go, 1, PNX_RELEASE, "test.go1");
    while (!pnx_load(&g.ended, PNX_ACQUIRE, "test.ended?"))
        sched_yield();
    for (int i = 0; i < (test_slow() ? 50 : 500); i++) { /* in either order */
        CHECK_EQ(pnx__thread_start("brief", run_on, NULL, &thread), 0);
        if (i % 2)
            sched_yield();
        pnx__thread_detach(&thread);
    }
}

static void look_at_name(void *arg) {
    CHECK(pthread_getname_np(pthread_self(), arg, 16) == 0);
}

TEST(threads_carry_their_names_cut_to_fifteen_bytes) {
    char name[16] = "";
    struct pnx_os_thread *thread = NULL;
    CHECK_EQ(pnx__thread_start("a-name-that-is-too-long", look_at_name, name, &thread), 0);
    pnx__thread_join(&thread);
    CHECK_STR(name, "a-name-that-is-");
}

TEST(a_refused_thread_is_an_error_and_changes_nothing) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    struct pnx_os_thread *thread = (struct pnx_os_thread *)0x1;
    sigset_t before, after;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0);
    test_os_fault("pthread_create", 1, true, EAGAIN);
    CHECK_EQ(pnx__thread_start("none", touch_record, NULL, &thread), -EAGAIN);
    test_os_fault("pthread_create", 1, true, ENOMEM);
    CHECK_EQ(pnx__thread_start("none", touch_record, NULL, &thread), -ENOMEM);
    CHECK_EQ(test_os_fault_clear(), 1);
    CHECK(thread == (struct pnx_os_thread *)0x1);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    CHECK_EQ(memcmp(&before, &after, sizeof(unsigned long)), 0);
}

/* ---- P3: fork ---- */

/* Runs down a line of descendants; each must see a larger number than its parent had. */
static void descend(int depth, bool look) {
    uint32_t mine = look ? pnx__fork_generation() : 0;
    CHECK(!look || mine == pnx__fork_generation());
    if (depth == 0)
        return;
    for (int child = 0; child < 2; child++) {
        fflush(NULL);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            uint32_t childs = pnx__fork_generation();
            CHECK_MSG(childs > mine, "child %u, parent %u", childs, mine);
            descend(depth - 1, true);
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK_EQ(status, 0);
    }
    CHECK(!look || mine == pnx__fork_generation());
}

TEST(p3_each_descendant_has_a_larger_number) {
    CHECK_EQ(pnx__fork_generation(), 1);
    descend(4, true);
}

/* A child that forks before it ever looked. */
TEST(p3_also_when_a_generation_never_looked) {
    uint32_t first = pnx__fork_generation();
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(pnx__fork_generation() > first ? 0 : 1);
        int status = -1;
        _exit(waitpid(grandchild, &status, 0) == grandchild && status == 0 ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(status, 0);
}

static void without(const char *call) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    test_os_fault(call, 1, true, EINVAL);
    CHECK_EQ(pnx__fork_generation(), 1); /* the first use in this process */
    CHECK_EQ(test_os_fault_clear(), 1);
    descend(4, true);
}

TEST(p3_without_madvise) {
    without("madvise");
}

TEST(p3_without_mmap) {
    without("mmap");
}

static void look(unsigned index, void *ctx) {
    uint32_t *numbers = ctx;
    numbers[index] = pnx__fork_generation();
}

static void agree(void *ctx) {
    uint32_t numbers[8];
    (void)ctx;
    test_threads(8, look, numbers);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(numbers[i], numbers[0]);
        CHECK(numbers[i] > 1);
    }
    CHECK_EQ(pnx__fork_generation(), numbers[0]);
}

TEST(p3_threads_of_a_child_that_look_at_once_agree) {
    CHECK_EQ(pnx__fork_generation(), 1);
    for (int i = 0; i < (test_slow() ? 20 : 200); i++)
        CHECK_EQ(test_child(agree, NULL), 0);
}

static void agree_at_first(void *ctx) {
    uint32_t numbers[8];
    (void)ctx;
    test_threads(8, look, numbers);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(numbers[i], 1);
}

/* In children of a process that never looked. */
TEST(p3_so_do_the_threads_that_look_first) {
    for (int i = 0; i < (test_slow() ? 20 : 200); i++)
        CHECK_EQ(test_child(agree_at_first, NULL), 0);
}

/* ---- barriers ---- */

static struct pnx_a32 x, y, phase, arrived;
static uint32_t saw_x, saw_y;
static int both_missed;

/* Both threads meet at each phase; the second to arrive does what stands in between. */
static void meet(uint32_t next, void (*between)(void)) {
    if (pnx_fetch_add(&arrived, 1, PNX_ACQ_REL, "test.arrive") == 1) {
        between();
        pnx_store(&arrived, 0, PNX_RELAXED, "test.none");
        pnx_store(&phase, next, PNX_RELEASE, "test.open");
    }
    for (int spins = 0; pnx_load(&phase, PNX_ACQUIRE, "test.phase") < next; spins++) {
        if (spins < 1000)
            pnx__spin_hint();
        else
            sched_yield();
    }
}

static void clear(void) {
    pnx_store(&x, 0, PNX_RELAXED, "test.x0");
    pnx_store(&y, 0, PNX_RELAXED, "test.y0");
}

static void compare(void) {
    both_missed += saw_x == 0 && saw_y == 0;
}

/*
 * Store buffering: each thread stores one word and loads the other, with a barrier between.  At least one of
 * them must see the other's store.
 */
static void store_buffering(unsigned index, void *ctx) {
    uint32_t rounds = *(uint32_t *)ctx;
    for (uint32_t i = 0; i < rounds; i++) {
        meet(i * 2 + 1, clear);
        if (index == 0) {
            pnx_store(&x, 1, PNX_RELAXED, "test.x1");
            pnx__barrier_light();
            saw_y = pnx_load(&y, PNX_RELAXED, "test.y");
        } else {
            pnx_store(&y, 1, PNX_RELAXED, "test.y1");
            pnx__barrier_heavy();
            saw_x = pnx_load(&x, PNX_RELAXED, "test.x");
        }
        meet(i * 2 + 2, compare);
    }
}

static void run_store_buffering(void) {
    uint32_t rounds = test_slow() ? 500 : 5000;
    pnx_store(&phase, 0, PNX_RELAXED, "test.phase0");
    both_missed = 0;
    test_threads(2, store_buffering, &rounds);
    CHECK_EQ(both_missed, 0);
}

TEST(barriers_order_a_store_before_a_later_load) {
    run_store_buffering();
}

TEST(barriers_order_without_membarrier_too) {
    if (!test_os_faults())
        test_skip("needs PNX_FAULTS");
    test_os_fault("membarrier", 1, true, ENOSYS);
    CHECK(!pnx__barrier_is_asymmetric());
    CHECK_EQ(test_os_fault_clear(), 1);
    run_store_buffering();
}

static void barrier_in_child(void *ctx) {
    (void)ctx;
    pnx__barrier_heavy(); /* would abort if the child could not be registered */
    run_store_buffering();
}

TEST(barriers_work_in_a_forked_child) {
    pnx__barrier_heavy();
    CHECK_EQ(test_child(barrier_in_child, NULL), 0);
}

TEST(the_number_of_cpus_is_at_least_one) {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof(set), &set) == 0);
    CHECK_EQ(pnx__os_cpus(), CPU_COUNT(&set));
    if (test_os_faults()) {
        test_os_fault("sched_getaffinity", 1, true, EINVAL);
        CHECK_EQ(pnx__os_cpus(), sysconf(_SC_NPROCESSORS_ONLN));
        CHECK_EQ(test_os_fault_clear(), 1);
    }
    CHECK(pnx__os_cpus() >= 1);
}
