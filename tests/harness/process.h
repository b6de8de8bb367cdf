/* SPDX-License-Identifier: Apache-2.0 */
/* harness/process.h - what the harness needs of the system: a process for each test, and a directory. */
#ifndef PNX_TESTS_HARNESS_PROCESS_H
#define PNX_TESTS_HARNESS_PROCESS_H

#include "harness/harness.h"

#define TEST_EXIT_SKIP 77

enum test_result { TEST_PASSED, TEST_SKIPPED, TEST_FAILED };

/* Called once, before anything is run. */
void test_process_start(const struct test_case *first, uint64_t seed);

/* Runs a test in a process of its own, with all that it leaves behind ended after limit_s; tells why it did not pass. */
enum test_result test_process_run(
        const struct test_case *test, unsigned limit_s, char *ret_reason, size_t reason_size);

/* Why a test is not run on this system; NULL: it is. */
const char *test_process_left_out(const char *program, const char *test);

/* In such a process: ends it, and has the reason told. */
_Noreturn void test_process_skip(const char *reason);

#endif
