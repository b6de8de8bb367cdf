/* SPDX-License-Identifier: Apache-2.0 */
/* Memory by the page, and the system's environment: what is promised of both when the system refuses a call. */
#include "base/env.h"
#include "base/env_system.h"
#include "harness/harness.h"
#include "os/pages.h"

#include <errno.h>

#define HUGE ((size_t)2 << 20)

static void use_pages(size_t bytes, bool huge) {
    errno = 4711;
    unsigned char *pages = pnx__os_pages_map(bytes);
    CHECK(pages);
    CHECK_EQ((uintptr_t)pages % (huge ? HUGE : 4096), 0);
    for (size_t i = 0; i < bytes; i += 997)
        CHECK_EQ(pages[i], 0);
    memset(pages, 7, bytes);
    pnx__os_pages_unmap(pages, bytes);
    CHECK_EQ(errno, 4711);
}

TEST(pages_are_zeroed_and_large_ones_lie_where_huge_pages_fit) {
    use_pages(1, false);
    use_pages(4096, false);
    use_pages(HUGE - 1, true); /* a page more makes a huge one */
    use_pages(HUGE, true);
    use_pages(3 * HUGE + 5, true);
}

TEST(pages_that_there_are_not_are_null_and_errno_stays) {
    errno = 4711;
    CHECK(!pnx__os_pages_map(0));
    CHECK(!pnx__os_pages_map(SIZE_MAX));
    CHECK(!pnx__os_pages_map((size_t)PTRDIFF_MAX - HUGE));
    CHECK(!pnx__os_pages_map((size_t)1 << 60)); /* no machine has as much address space */
    CHECK_EQ(errno, 4711);
}

TEST(pages_without_the_systems_advice_are_as_good) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    test_os_fault("madvise", 1, true, EINVAL);
    use_pages(2 * HUGE, true);
    CHECK_EQ(test_os_fault_clear(), 1);
    test_os_fault("mmap", 1, true, ENOMEM);
    CHECK(!pnx__os_pages_map(4096));
    CHECK(!pnx__os_pages_map(HUGE));
    CHECK_EQ(test_os_fault_clear(), 2);
}

TEST(the_systems_environment_aligns_as_it_is_asked_to) {
    const struct pnx_env *env = pnx__env_system();
    for (size_t align = 1; align <= 1 << 16; align *= 2) {
        unsigned char *p = env->alloc(env->ctx, 100, align);
        CHECK(p);
        CHECK_EQ((uintptr_t)p % align, 0);
        memset(p, 1, 100);
        env->free(env->ctx, p, 100);
    }
}

TEST(the_systems_clocks_go_on_and_tell_the_time_of_day) {
    const struct pnx_env *env = pnx__env_system();
    pnx_ns before = env->now(env->ctx), coarse = env->now_coarse(env->ctx);
    pnx_ns after = env->now(env->ctx);
    CHECK(before > 0 && before <= after);
    CHECK(coarse <= after && before - coarse < PNX_SEC); /* some ms old */
    CHECK(env->real_ns(env->ctx) > INT64_C(1700000000) * (int64_t)PNX_SEC);
}

static void check_different(const struct pnx_env *env) {
    uint64_t seen[200];
    for (int i = 0; i < 200; i++) {
        seen[i] = env->random(env->ctx);
        for (int k = 0; k < i; k++)
            CHECK_MSG(seen[i] != seen[k], "random numbers %d and %d are the same", k, i);
    }
}

TEST(random_numbers_differ_even_where_the_system_has_none) {
    const struct pnx_env *env = pnx__env_system();
    check_different(env);
    if (!test_os_faults())
        return;
    errno = 4711;
    test_os_fault("getrandom", 1, true, ENOSYS);
    check_different(env);
    CHECK_EQ(test_os_fault_clear(), 200);
    CHECK_EQ(errno, 4711);
}
