/* SPDX-License-Identifier: Apache-2.0 */
/* Which exits run a guard: the table at the top of patinox/guard.h, row by row. */
#include "harness/harness.h"
#include "resource/exit_frames.h"

#include <patinox/guard.h>
#include <patinox/shutdown.h>

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static struct exit_counts *fresh_counts(void) {
    void *p = mmap(NULL, sizeof(struct exit_counts), PROT_READ | PROT_WRITE,
            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

#define CHECK_RAN(counts, times) \
    do { \
        CHECK_EQ((counts)->defers, times); \
        CHECK_EQ((counts)->guards, times); \
        CHECK_EQ((counts)->scopes, times); \
    } while (0)

/* ---- structured exits ---- */

static int log_[16];
static int n_log;

static void note(void *arg) {
    log_[n_log++] = *(const int *)arg;
}

static int one = 1, two = 2, three = 3;

static int value_then_zero(int *value) {
    PNX_DEFER(note, &one);
    PNX_DEFER(note, &two);
    int result = *value;
    (void)result;
    return *value; /* evaluated before the guards run */
}

TEST(falling_through_and_return_run_it_in_reverse_order) {
    int value = 5;
    CHECK_EQ(value_then_zero(&value), 5);
    CHECK_EQ(n_log, 2);
    CHECK_EQ(log_[0], 2);
    CHECK_EQ(log_[1], 1);
    { PNX_DEFER(note, &three); }
    CHECK_EQ(n_log, 3);
}

TEST(break_and_continue_run_it) {
    for (int i = 0; i < 3; i++) {
        PNX_DEFER(note, &one);
        if (i == 1)
            break;
        continue;
    }
    CHECK_EQ(n_log, 2);
    switch (n_log) {
    case 2: {
        PNX_DEFER(note, &two);
        break;
    }
    default:
        break;
    }
    CHECK_EQ(n_log, 3);
}

TEST(goto_out_runs_it) {
    int rounds = 0;
again:
    if (rounds < 2) {
        PNX_DEFER(note, &one);
        rounds++;
        if (rounds < 5)
            goto again;
    }
    CHECK_EQ(n_log, 2);
}

static void nothing(void *arg) {
    (void)arg;
}

TEST(both_builds_run_it_on_an_ordinary_return) {
    struct exit_counts *counts = fresh_counts();
    frame_plain(counts, nothing, NULL);
    CHECK_RAN(counts, 1);
    frame_with_exceptions(counts, nothing, NULL);
    CHECK_RAN(counts, 2);
    CHECK_EQ(counts->after, 2);
}

/* ---- exceptions ---- */

TEST(a_cpp_exception_runs_it_in_a_frame_built_with_exceptions) {
    struct exit_counts *counts = fresh_counts();
    CHECK_EQ(throw_through(frame_with_exceptions, counts), 1);
    CHECK_RAN(counts, 1);
    CHECK_EQ(counts->after, 0);
}

TEST(a_cpp_exception_passes_a_plain_frame_without_running_it) {
    struct exit_counts *counts = fresh_counts();
    CHECK_EQ(throw_through(frame_plain, counts), 1);
    CHECK_RAN(counts, 0);
}

int defer_in_cpp(void);

TEST(the_macros_work_in_cpp) {
    CHECK_EQ(defer_in_cpp(), 1);
}

/* ---- the end of a thread ---- */

static void exit_thread(void *arg) {
    pthread_exit(arg);
}

static void *leave_with_exceptions(void *arg) {
    frame_with_exceptions(arg, exit_thread, NULL);
    return NULL;
}

static void *leave_plain(void *arg) {
    frame_plain(arg, exit_thread, NULL);
    return NULL;
}

static void join(void *(*run)(void *arg), void *arg, bool cancel) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, run, arg), 0);
    if (cancel)
        CHECK_EQ(pthread_cancel(thread), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

TEST(pthread_exit_runs_it_in_a_frame_built_with_exceptions) {
    struct exit_counts *counts = fresh_counts();
    join(leave_with_exceptions, counts, false);
    CHECK_RAN(counts, 1);
    CHECK_EQ(counts->after, 0);
}

TEST(pthread_exit_does_not_run_it_in_a_plain_frame) {
    struct exit_counts *counts = fresh_counts();
    join(leave_plain, counts, false);
    CHECK_RAN(counts, 0);
}

static void wait_for_ever(void *arg) {
    (void)arg;
    for (;;)
        pause();
}

static void *wait_in_frame(void *arg) {
    frame_with_exceptions(arg, wait_for_ever, NULL);
    return NULL;
}

static void *set_up_and_wait(void *arg) {
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    struct exit_counts *counts = arg;
    (void)counts;
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before);
    return wait_in_frame(arg);
}

TEST(cancellation_runs_it_in_a_frame_built_with_exceptions) {
    struct exit_counts *counts = fresh_counts();
    join(set_up_and_wait, counts, true); /* deferred until pause(), inside the frame */
    CHECK_RAN(counts, 1);
}

/* ---- longjmp ---- */

static void jump(void *arg) {
    longjmp(*(jmp_buf *)arg, 1);
}

TEST(longjmp_past_it_does_not_run_it) {
    struct exit_counts *counts = fresh_counts();
    jmp_buf landing;
    if (setjmp(landing) == 0)
        frame_with_exceptions(counts, jump, &landing);
    CHECK_RAN(counts, 0);
}

static int count(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    ++*(int *)arg;
    return 0;
}

struct landing {
    struct pnx_scope scope; /* outside the frames that the jump leaves */
    pnx_scope_position mark;
    jmp_buf buf;
};

static void push_and_jump(struct landing *landing, int *counter) {
    for (int i = 0; i < 20; i++)
        CHECK_EQ(pnx_scope_push(&landing->scope, PNX_SCOPE_ALWAYS, count, counter), 0);
    longjmp(landing->buf, 1);
}

TEST(a_scope_is_unwound_at_the_landing_site) {
    static struct landing landing;
    static int below, above;
    CHECK_EQ(pnx_scope_push(&landing.scope, PNX_SCOPE_ALWAYS, count, &below), 0);
    landing.mark = pnx_scope_mark(&landing.scope);
    if (setjmp(landing.buf) == 0)
        push_and_jump(&landing, &above);
    CHECK_EQ(above, 0);
    CHECK_EQ(pnx_scope_unwind(&landing.scope, landing.mark), 0);
    CHECK_EQ(above, 20);
    CHECK_EQ(below, 0);
    CHECK_EQ(pnx_scope_end(&landing.scope), 0);
    CHECK_EQ(below, 1);
}

/* ---- the end of the process ---- */

static struct exit_counts *child_counts;

static void call_exit(void *arg) {
    (void)arg;
    exit(7);
}

static void exit_in_frame(void *ctx) {
    (void)ctx;
    frame_with_exceptions(child_counts, call_exit, NULL);
}

TEST(exit_does_not_run_it) {
    child_counts = fresh_counts();
    CHECK_EQ(test_child(exit_in_frame, NULL), 7);
    CHECK_RAN(child_counts, 0);
}

static void die(void *arg) {
    (void)arg;
    kill(getpid(), SIGKILL);
}

static void die_in_frame(void *ctx) {
    (void)ctx;
    frame_with_exceptions(child_counts, die, NULL);
}

TEST(a_fatal_signal_does_not_run_it) {
    child_counts = fresh_counts();
    CHECK_EQ(test_child(die_in_frame, NULL), -SIGKILL);
    CHECK_RAN(child_counts, 0);
}

/* ---- what a tracked guard adds ---- */

static void jump_past_tracked(struct pnx_registry *registry, int *counter, jmp_buf *landing) {
    PNX_AUTO_GUARD guard = {0};
    CHECK_EQ(pnx_guard_arm(&guard, count, counter), 0);
    CHECK_EQ(pnx_guard_track(&guard, registry, PNX_RESOURCE(.type = "guarded"), NULL), 0);
    longjmp(*landing, 1);
}

TEST(what_an_exit_misses_a_tracked_guard_still_shows_and_a_shutdown_runs_it) {
    static struct pnx_registry *registry;
    static int counter;
    jmp_buf landing;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    if (setjmp(landing) == 0)
        jump_past_tracked(registry, &counter, &landing);
    CHECK_EQ(counter, 0);
    CHECK_EQ(pnx_registry_count(registry), 1);
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, NULL), 0);
    CHECK_EQ(counter, 1);
    pnx_registry_release(&registry); /* the guard that was jumped over had one reference more */
    pnx_registry_release(&(struct pnx_registry *){registry});
}
