/* SPDX-License-Identifier: Apache-2.0 */
/*
 * explore.c - running a test over and over, with every decision vector within the bounds, then at random.
 *
 *   P1  An execution is a function of its decisions: the code under test gets the same addresses, the same time and
 *       the same static data each time.
 *   P2  Each decision is tried with each of its choices, depth first; the search ends when none is left, at the
 *       first failure, or at the limit.
 *   P3  A failure comes with the decisions that lead to it.
 */
#include "explorer/engine.h"

#include <signal.h>
#include <stdarg.h>
#include <time.h>

#define MAX_DECISIONS (1u << 16)
#define CHANGE_POINTS 3 /* finds what needs up to so many + 1 ordering constraints (PCT's depth) */

struct x_engine x;

static uint32_t choices[MAX_DECISIONS];
static uint32_t counts[MAX_DECISIONS];
static size_t decided; /* in this execution */
static size_t depth;   /* how many are given */
static uint32_t change_points[CHANGE_POINTS];
static uint32_t longest; /* steps of any execution of this test */
static void *engine_stack;
static struct x_result *result;

/* Static data of the code under test, gathered by explored.ld; restored before each execution. */
extern char __start_pnx_xdata[] __attribute__((weak));
extern char __stop_pnx_xdata[] __attribute__((weak));
static char *pristine;

static void restore_data(void) {
    size_t size = (size_t)(__stop_pnx_xdata - __start_pnx_xdata);
    if (size == 0)
        return;
    if (!pristine) {
        pristine = malloc(size);
        CHECK(pristine);
        memcpy(pristine, __start_pnx_xdata, size);
    }
    memcpy(__start_pnx_xdata, pristine, size);
}

/* The set of hashes of executions seen. */
static uint64_t *seen;
static size_t seen_size, seen_used;

static void see(uint64_t hash) {
    hash = hash ? hash : 1;
    if (seen_used * 2 >= seen_size) {
        size_t old_size = seen_size;
        uint64_t *old = seen;
        seen_size = old_size ? old_size * 2 : 1024;
        seen = calloc(seen_size, sizeof(*seen));
        CHECK(seen);
        seen_used = 0;
        for (size_t i = 0; i < old_size; i++) {
            if (old[i])
                see(old[i]);
        }
        free(old);
    }
    size_t at = hash & (seen_size - 1);
    while (seen[at] && seen[at] != hash)
        at = (at + 1) & (seen_size - 1);
    seen_used += !seen[at];
    seen[at] = hash;
}

/* Decisions. */

static uint32_t note(uint32_t n, uint32_t choice) {
    if (decided == MAX_DECISIONS)
        x_fail(X_LIVELOCK, "more than %u decisions", MAX_DECISIONS);
    choices[decided] = choice;
    counts[decided] = n;
    decided++;
    return choice;
}

uint32_t x_decide(uint32_t n) {
    if (n <= 1)
        return 0;
    if (x.mode == X_RANDOM)
        return note(n, test_random(&x.random) % 4 ? 0 : (uint32_t)(test_random(&x.random) % n));
    if (decided >= depth)
        return note(n, 0);
    if (x.mode == X_EXHAUSTIVE ? counts[decided] != n : choices[decided] >= n)
        x_fail(X_MISUSE,
                "decision %zu has %u choices, and had another number before: the code under test "
                "depends on something besides its schedule",
                decided, n);
    counts[decided] = n;
    return choices[decided++];
}

uint32_t x_decided(uint32_t n, uint32_t choice) {
    return n <= 1 ? 0 : note(n, choice);
}

bool x_change_point(uint32_t step) {
    for (unsigned i = 0; i < CHANGE_POINTS; i++) {
        if (change_points[i] == step)
            return true;
    }
    return false;
}

/* The last decision that has a choice left takes it; false: there is none. */
static bool next_vector(void) {
    depth = decided;
    while (depth > 0 && choices[depth - 1] + 1 >= counts[depth - 1])
        depth--;
    if (depth == 0)
        return false;
    choices[depth - 1]++;
    return true;
}

/* One execution. */

void x_leave(void) {
    void *abandoned = NULL;
    x.self = NULL;
#ifndef __x86_64__
    static char unused[4096];
    abandoned = unused;
#endif
    x_fibre_switch(&abandoned, engine_stack);
    abort();
}

void x_fail(enum x_failure failure, const char *format, ...) {
    if (!x.self) {
        fprintf(stderr, "explorer: failure outside an execution: %s\n", format);
        abort();
    }
    result->failure = failure;
    size_t n = (size_t)snprintf(
            result->message, sizeof(result->message), "thread %u: ", x_index(x.self));
    va_list args;
    va_start(args, format);
    vsnprintf(result->message + n, sizeof(result->message) - n, format, args);
    va_end(args);
    if (x.trace)
        x_trace("FAILS: %s: %s", x_failure_name(failure), result->message);
    x_leave();
}

void x_test_fail(const char *file, int line, const char *format, ...) {
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!x.self)
        test_fail(file, line, "%s", text);
    x_fail(X_ASSERTION, "%s:%d: %s", file, line, text);
}

static void crashed(int number) {
    if (x.self)
        x_fail(X_CRASH, "%s", strsignal(number));
    signal(number, SIG_DFL);
    raise(number);
}

static void catch_crashes(void) {
    static char stack[64 << 10];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_handler = crashed, .sa_flags = SA_ONSTACK | SA_NODEFER};
    sigaltstack(&alternate, NULL);
    sigaction(SIGABRT, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
}

static void run_thread(void *arg) {
    void (*const *thread)(void *state) = arg;
    (*thread)(x.state);
}

/* Thread 0: alone, then asleep until all others are done, then alone again. */
static void run_test(void *arg) {
    (void)arg;
    const struct x_test *test = x.test;
    if (test->size) {
        x.state = x_memory_alloc(test->size, 64);
        memset(x.state, 0, test->size);
    }
    if (test->setup)
        test->setup(x.state);
    for (unsigned i = 0; i < X_MAX_THREADS; i++) {
        /* The address of the entry, since a pointer to a function is no pointer to data. */
        if (test->thread[i])
            x_spawn(run_thread, (void *)(uintptr_t)&test->thread[i]);
    }
    x.fail_allocation = UINT32_MAX;
    x.alone = false;
    if (x.n_threads > 1)
        x_point(X_JOIN, NULL, 0);
    for (unsigned i = 1; i < x.n_threads; i++)
        x_join(&x.self->now, &x.threads[i].now);
    x.alone = true;
    x.unshared = true;
    x.fail_allocation = UINT32_MAX;
    if (test->final)
        test->final(x.state);
    x_thread_exit_hooks(x.self);
    if (test->size)
        x_memory_free(x.state, test->size);
    x_memory_check_leaks();
    x_leave();
}

static void run_once(void) {
    const struct x_test *test = x.test;
    decided = 0;
    restore_data();
    x.execution++;
    x_memory_reset();
    x_os_reset();
    x.preemptions = test->preemptions;
    x.stale = test->stale;
    x.timeouts = test->timeouts;
    x.spurious = test->spurious;
    x.steps = 0;
    x.sleepers = 0;
    x.idle_spins = 0;
    x.now = PNX_SEC;
    x.pruned = false;
    x.alone = true;
    x.unshared = true;
    x.fail_allocation = UINT32_MAX;
    if (x.mode == X_RANDOM) {
        for (unsigned i = 0; i < CHANGE_POINTS; i++)
            change_points[i] = 1 + (uint32_t)(test_random(&x.random) % (longest + 1));
    }
    x.n_threads = 1;
    struct x_thread *first = &x.threads[0];
    char *stack = first->stack;
    memset(first, 0, sizeof(*first));
    first->stack = stack;
    first->state = X_READY;
    first->run = run_test;
    x_fibre_make(first);
    x.self = first;
    x_fibre_switch(&engine_stack, first->stack_pointer);
    x.self = NULL;
    longest = x.steps > longest ? x.steps : longest;
    if (x.pruned)
        return;
    uint64_t hash = 0;
    for (unsigned i = 0; i < x.n_threads; i++)
        hash = (hash ^ x.threads[i].hash) * UINT64_C(0x9E3779B97F4A7C15) + i;
    see(hash ^ (hash >> 32));
}

/* The search. */

/* Of this process's own work: other load must not decide what a limited search sees. */
static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A limit for the mutation check: a mutant that survives so long survives. */
static double time_limit(void) {
    const char *text = getenv("PNX_X_SECONDS");
    return text ? atof(text) : 0;
}

static void exhaust(double deadline) {
    const struct x_test *test = x.test;
    x.mode = X_EXHAUSTIVE;
    x.bounded = true;
    depth = 0;
    for (;;) {
        run_once();
        if (x.pruned)
            result->pruned++;
        else
            result->executions++;
        if (result->failure)
            return;
        if (!next_vector()) {
            result->exhausted = true;
            return;
        }
        if (deadline > 0 && result->executions % 256 == 0 && seconds() > deadline)
            return;
        if (result->executions >= test->limit) {
            result->failure = X_UNFINISHED;
            snprintf(result->message, sizeof(result->message),
                    "not exhausted after %llu executions", (unsigned long long)result->executions);
            return;
        }
    }
}

static void randomly(double deadline) {
    x.mode = X_RANDOM;
    x.bounded = false;
    x.random = test_seed();
    uint64_t n = x.test->random;
    if (deadline > 0 && n > 1000)
        n = 1000; /* a mutant that survived the exhaustive part is hardly met here */
    for (uint64_t i = 0; i < n && !result->failure; i++) {
        run_once();
        result->random++;
        if (deadline > 0 && i % 256 == 0 && seconds() > deadline)
            return;
    }
}

static void complete(const struct x_test *test, struct x_test *ret_test) {
    *ret_test = *test;
#define DEFAULT(field, value) \
    if (ret_test->field == 0) \
        ret_test->field = value; \
    else if (ret_test->field == X_NONE) \
    ret_test->field = 0
    DEFAULT(preemptions, 3);
    DEFAULT(stale, 2);
    DEFAULT(timeouts, 1);
    DEFAULT(spurious, 0);
    DEFAULT(steps, 20000);
    if (ret_test->limit == 0)
        ret_test->limit = 20000000;
    if (ret_test->random == X_NONE)
        ret_test->random = 0;
    else if (ret_test->random == 0)
        ret_test->random = 20000;
#undef DEFAULT
    /* PNX_X_BOUNDS=PREEMPTIONS.STALE searches at least so deep, and as long as it takes. */
    uint32_t preemptions = 0, stale = 0;
    if (getenv("PNX_X_BOUNDS") &&
            sscanf(getenv("PNX_X_BOUNDS"), "%u.%u", &preemptions, &stale) == 2) {
        ret_test->preemptions =
                ret_test->preemptions > preemptions ? ret_test->preemptions : preemptions;
        ret_test->stale = ret_test->stale > stale ? ret_test->stale : stale;
        ret_test->limit = UINT64_MAX;
    }
}

enum x_failure x_run(const struct x_test *given, struct x_result *ret_result) {
    struct x_test test;
    complete(given, &test);
    memset(ret_result, 0, sizeof(*ret_result));
    result = ret_result;
    x.test = &test;
    longest = 0;
    free(seen);
    seen = NULL;
    seen_size = seen_used = 0;
    x_memory_start();
    catch_crashes();
    double limit = time_limit();
    double deadline = limit > 0 ? seconds() + limit : 0;
    if (x_replay) {
        x.mode = X_REPLAY;
        x.trace = true;
        CHECK(x_schedule_read(x_replay, &test, &x.bounded, choices, MAX_DECISIONS, &depth));
        run_once();
        result->executions = 1;
    } else {
        exhaust(deadline);
        result->distinct_exhaustive = seen_used;
        if (!result->failure)
            randomly(deadline);
    }
    if (result->failure && result->failure != X_UNFINISHED)
        x_schedule_write(
                result->schedule, sizeof(result->schedule), &test, x.bounded, choices, decided);
    result->distinct = seen_used;
    restore_data();
    x_tell_reached();
    x.test = NULL;
    return result->failure;
}

static void print(const struct x_test *test, const struct x_result *r, double took) {
    printf("  %s: %llu executions%s (+%llu cut short), %llu random, %llu distinct, %.2f s\n",
            test->name, (unsigned long long)r->executions, r->exhausted ? ", exhausted" : "",
            (unsigned long long)r->pruned, (unsigned long long)r->random,
            (unsigned long long)r->distinct, took);
}

void x_explore(const struct x_test *test) {
    if (x_replay && !x_schedule_is_for(x_replay, test))
        return;
    struct x_result r;
    double start = seconds();
    x_run(test, &r);
    print(test, &r, seconds() - start);
    if (!r.failure && !x_replay && time_limit() <= 0 && r.executions < test->floor) {
        r.failure = X_TOO_FEW;
        snprintf(r.message, sizeof(r.message), "%llu executions; the floor is %llu",
                (unsigned long long)r.executions, (unsigned long long)test->floor);
    }
    if (r.failure)
        test_fail(__FILE__, __LINE__, "%s: %s: %s%s%s", test->name, x_failure_name(r.failure),
                r.message, r.schedule[0] ? "\n  repeat with --replay " : "", r.schedule);
}

void x_refute(const struct x_test *test, enum x_failure expected) {
    if (time_limit() > 0)
        return; /* the mutation check asks what finds a fault in what is right */
    if (x_replay && !x_schedule_is_for(x_replay, test))
        return;
    struct x_result r;
    double start = seconds();
    x_run(test, &r);
    print(test, &r, seconds() - start);
    CHECK_MSG(r.failure == expected, "%s: found %s (%s), expected %s%s%s", test->name,
            x_failure_name(r.failure), r.message, x_failure_name(expected),
            r.schedule[0] ? "\n  repeat with --replay " : "", r.schedule);
}
