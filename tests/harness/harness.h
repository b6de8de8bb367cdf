/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harness.h - the small test harness: one process per test, named properties, failing memory and calls.
 *
 *   TEST(p1_idle_resource_is_reused) { ... CHECK(x == 1); ... }
 *
 * A program takes [--list] [--no-fork] [NAME-PART...].  Each test runs in a forked child with a time
 * limit, ends by exit() (so that leak checkers run), and its result is a line "program.test<TAB>pass" in
 * the file that PNX_TEST_RESULTS names.  SEED=n repeats a random test; PNX_TEST_SLOW=n multiplies limits.
 */
#ifndef PNX_TEST_HARNESS_H
#define PNX_TEST_HARNESS_H

#include <patinox/base.h>
#include <patinox/error.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_case {
    const char *name;
    const char *file;
    int line;
    unsigned limit_s;
    void (*run)(void);
    struct test_case *next;
};
void test_register(struct test_case *test);
/* What main() is; harness/main.c stands alone, so that a fuzzer can have checks and a main() of its own. */
int test_main(int argc, char **argv);

#define TEST_LIMIT(test_name, seconds) \
    static void test_name(void); \
    __attribute__((constructor)) static void test_name##_register(void) { \
        static struct test_case test_name##_case = { \
                #test_name, __FILE__, __LINE__, seconds, test_name, NULL}; \
        test_register(&test_name##_case); \
    } \
    static void test_name(void)
#define TEST(test_name) TEST_LIMIT(test_name, 60)

_Noreturn void test_fail(const char *file, int line, const char *format, ...) PNX_PRINTF(3, 4);
/* From now on a failed check aborts: how a fuzzer hears of it. */
void test_fail_aborts(void);
/* Ends the test as skipped; every skip must stand in tests/expected-skips. */
_Noreturn void test_skip(const char *format, ...) PNX_PRINTF(1, 2);

#define CHECK(condition) \
    do { \
        if (!(condition)) \
            test_fail(__FILE__, __LINE__, "CHECK(%s)", #condition); \
    } while (0)
#define CHECK_MSG(condition, ...) \
    do { \
        if (!(condition)) \
            test_fail(__FILE__, __LINE__, __VA_ARGS__); \
    } while (0)
/* Integers of any type, compared as long long. */
#define CHECK_EQ(actual, expected) \
    do { \
        long long check_a_ = (long long)(actual), check_e_ = (long long)(expected); \
        if (check_a_ != check_e_) \
            test_fail(__FILE__, __LINE__, "%s is %lld, expected %lld (%s)", #actual, check_a_, \
                    check_e_, #expected); \
    } while (0)
#define CHECK_STR(actual, expected) \
    do { \
        const char *check_a_ = (actual), *check_e_ = (expected); \
        if (!check_a_ || strcmp(check_a_, check_e_) != 0) \
            test_fail(__FILE__, __LINE__, "%s is \"%s\", expected \"%s\"", #actual, \
                    check_a_ ? check_a_ : "(null)", check_e_); \
    } while (0)
#define CHECK_CONTAINS(text, part) \
    do { \
        const char *check_t_ = (text), *check_p_ = (part); \
        if (!check_t_ || !strstr(check_t_, check_p_)) \
            test_fail(__FILE__, __LINE__, "%s is \"%s\", which lacks \"%s\"", #text, \
                    check_t_ ? check_t_ : "(null)", check_p_); \
    } while (0)

/* A seed for this run: SEED from the environment, else fresh; printed when the test fails. */
uint64_t test_seed(void);
uint64_t test_random(uint64_t *state); /* SplitMix64 */
/* Says which of a random test's parts, each with a seed of its own, begins, and the variable of the environment that
 * makes the test begin there; printed with the seed. */
void test_seed_part(const char *variable, uint64_t part);

/* True when ./test --long is running. */
bool test_long(void);
/* True in builds with a sanitizer or under valgrind: counts of iterations may be cut, never checks. */
bool test_slow(void);

/* Seconds of CPU time that other processes have spent since some moment before: for promises about a machine that has
 * nothing else to do. */
double test_others_s(void);

/* Whether the system has fork(): for a test in which it is one thing of many that happen. */
bool test_can_fork(void);

/* The root of the source tree: PNX_SOURCE_DIR from the environment, else where this program was built from. */
const char *test_source_dir(void);

/* Creates a fresh temporary directory, removed with all it holds when the test process ends. */
const char *test_dir(void);
/* Returns a static buffer (of four, in turn) with test_dir()/name. */
const char *test_path(const char *name);
void test_write_file(const char *path, const void *data, size_t n);

/* Runs fn in n threads that start together; index 0..n-1. */
void test_threads(unsigned n, void (*fn)(unsigned index, void *ctx), void *ctx);

/* Runs fn in a forked child.  Returns its exit status, or -signal.  Skips the test where there is no fork(). */
int test_child(void (*fn)(void *ctx), void *ctx);

/* Returns when all other threads of this process sleep.  For a fork beside threads that wait, or are about to: none is then
 * in the middle of a malloc(), whose locks a sanitizer leaves locked in the child. */
void test_others_asleep(void);

/*
 * As test_child(), for what does not care where its process comes from: without fork() it is a new one, in which the test has been
 * run up to this call.
 */
int test_apart(void (*fn)(void *ctx), void *ctx);

/* As test_apart(), where fn must abort; returns (in a static buffer) what it says on standard error. */
const char *test_abort(void (*fn)(void *ctx), void *ctx);

/*
 * An environment that counts, fails on request, and can carry a virtual clock.  The env points into
 * the struct, which must outlive the objects made with it.
 */
struct test_env {
    struct pnx_env env;
    int64_t live_blocks; /* atomics, read with __atomic_load_n */
    int64_t live_bytes;
    int64_t peak_bytes;
    int64_t allocations;
    int64_t fail_at;   /* the allocation of this number fails (1 = next); 0: none */
    bool fail_forever; /* ... and all after it */
    int64_t failed;    /* how many were refused */
    bool virtual_time;
    pnx_ns now; /* the virtual clock */
    uint64_t random_state;
    char last_log[512];
    int64_t logs;
};
void test_env_init(struct test_env *te);
void test_env_virtual(struct test_env *te, pnx_ns start); /* switches to the virtual clock */
void test_env_advance(struct test_env *te, pnx_ns by);
/* Fails the test when anything allocated through the env is still live. */
void test_env_check_empty(struct test_env *te);

/*
 * Makes each allocation fail in turn, once and then for ever: calls fn(te, ctx) with fail_at = 1, 2, ...
 * until a run in which none was refused.  fn returns the error that it met, or 0; after each run nothing
 * may be live, and a run in which an allocation was refused must still have met either 0 or -ENOMEM.
 */
void test_fail_each_allocation(
        struct test_env *te, int (*fn)(struct test_env *te, void *ctx), void *ctx);

/*
 * Makes the nth and, if forever, each later system call of that name (NULL: any) return error.
 * Needs PNX_FAULTS; test_os_faults() tells.  test_os_fault_clear() ends it and returns how many calls
 * were refused.
 */
bool test_os_faults(void);
void test_os_fault(const char *call, int64_t nth, bool forever, int error);
int64_t test_os_fault_clear(void);

#endif
