/* SPDX-License-Identifier: Apache-2.0 */
/* Environments: P1 and P2 of src/base/env.c; deadlines; the system's environment. */
#include "base/env.h"
#include "base/env_system.h"
#include "base/hash.h"
#include "harness/harness.h"

#include <errno.h>

static void *some_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
    (void)align;
    return malloc(size);
}
static void some_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    (void)size;
    free(p);
}
static pnx_ns some_clock(void *ctx) {
    return *(pnx_ns *)ctx;
}

static void check_complete(const struct pnx_env *env) {
    CHECK(env->size == sizeof(*env) && env->alloc && env->free && env->now && env->now_coarse &&
            env->real_ns && env->random);
}

TEST(p1_a_resolved_environment_is_complete) {
    struct pnx_env env;
    CHECK_EQ(pnx__env_resolve(NULL, NULL, &env), 0);
    check_complete(&env);
    CHECK(env.log == NULL);
    struct pnx_env only_size = {.size = sizeof(only_size)};
    CHECK_EQ(pnx__env_resolve(&only_size, NULL, &env), 0);
    check_complete(&env);
    check_complete(pnx__env_system());
}

TEST(nothing_behind_the_size_of_a_users_environment_is_read) {
    union {
        struct pnx_env env;
        unsigned char bytes[sizeof(struct pnx_env)];
    } user;
    memset(user.bytes, 0xff, sizeof(user.bytes));
    user.env.size = offsetof(struct pnx_env, alloc);
    struct pnx_env env;
    CHECK_EQ(pnx__env_resolve(&user.env, NULL, &env), 0);
    CHECK(env.now == pnx__env_system()->now);
    CHECK(env.now_coarse == pnx__env_system()->now_coarse);
}

TEST(p1_the_coarse_clock_follows_a_clock_that_is_given) {
    pnx_ns time = 42;
    struct pnx_env user = {.size = sizeof(user), .ctx = &time, .now = some_clock}, env;
    CHECK_EQ(pnx__env_resolve(&user, NULL, &env), 0);
    CHECK_EQ(env.now_coarse(env.ctx), 42);
    CHECK_EQ(pnx__now(&env), 42);
    void *p = pnx__alloc(&env, 3, 5); /* the system's functions ignore a ctx that is not theirs */
    CHECK(p);
    pnx__free(&env, p, 3, 5);
}

TEST(p1_the_users_struct_is_not_kept) {
    struct pnx_env *user = calloc(1, sizeof(*user)), env;
    CHECK(user);
    *user = (struct pnx_env){.size = sizeof(*user), .alloc = some_alloc, .free = some_free};
    CHECK_EQ(pnx__env_resolve(user, NULL, &env), 0);
    free(user);
    char *copy = pnx__strdup(&env, "kept");
    CHECK_STR(copy, "kept");
    pnx__strfree(&env, copy);
    pnx__strfree(&env, NULL);
    pnx__free(&env, NULL, 1, 1);
}

struct longer {
    struct pnx_env env;
    uint64_t newer;
};

TEST(half_an_environment_is_refused_by_name) {
    struct pnx_env env = {.size = 1234};
    struct pnx_error err;
    struct pnx_env bad = {.size = sizeof(bad), .alloc = some_alloc};
    CHECK_EQ(pnx__env_resolve(&bad, &err, &env), -EINVAL);
    CHECK_STR(err.field, "env.free");
    bad = (struct pnx_env){.size = sizeof(bad), .free = some_free};
    CHECK_EQ(pnx__env_resolve(&bad, &err, &env), -EINVAL);
    CHECK_STR(err.field, "env.alloc");
    bad = (struct pnx_env){.size = sizeof(bad), .now_coarse = some_clock};
    CHECK_EQ(pnx__env_resolve(&bad, &err, &env), -EINVAL);
    CHECK_STR(err.field, "env.now");
    bad = (struct pnx_env){0};
    CHECK_EQ(pnx__env_resolve(&bad, &err, &env), -EINVAL);
    CHECK_STR(err.field, "size");
    struct longer longer = {.env.size = sizeof(longer), .newer = 1};
    CHECK_EQ(pnx__env_resolve(&longer.env, &err, &env), -E2BIG);
    CHECK_EQ(env.size, 1234);
    longer.newer = 0;
    CHECK_EQ(pnx__env_resolve(&longer.env, &err, &env), 0);
    CHECK_EQ(env.size, sizeof(env));
}

TEST(p2_a_product_that_wraps_is_no_memory) {
    struct test_env te;
    test_env_init(&te);
    CHECK(pnx__alloc(&te.env, SIZE_MAX / 2, 3) == NULL);
    CHECK(pnx__alloc(&te.env, SIZE_MAX, 1) == NULL);
    CHECK(pnx__alloc(&te.env, (size_t)PTRDIFF_MAX + 1, 1) == NULL);
    CHECK(pnx__alloc_aligned(&te.env, SIZE_MAX / 4 + 2, 4, 64) == NULL);
    CHECK_EQ(te.allocations, 0); /* the user's allocator never sees such a size */
}

TEST(p2_memory_comes_zeroed_and_aligned) {
    struct test_env te;
    test_env_init(&te); /* fills what it hands out with 0xa5 */
    for (size_t align = 16; align <= 4096; align *= 2) {
        unsigned char *p = pnx__alloc_aligned(&te.env, 7, 33, align);
        CHECK(p && (uintptr_t)p % align == 0);
        for (size_t i = 0; i < 7 * 33; i++)
            CHECK_EQ(p[i], 0);
        pnx__free(&te.env, p, 7, 33);
    }
    void *nothing = pnx__alloc(&te.env, 0, 8);
    CHECK(nothing); /* an empty array is memory, not a failure */
    pnx__free(&te.env, nothing, 0, 8);
    test_env_check_empty(&te);
}

TEST(p2_the_systems_memory_is_aligned_too) {
    struct pnx_env env;
    CHECK_EQ(pnx__env_resolve(NULL, NULL, &env), 0);
    for (size_t align = 16; align <= 65536; align *= 2) {
        void *p = pnx__alloc_aligned(&env, 1, 100, align);
        CHECK(p && (uintptr_t)p % align == 0);
        pnx__free(&env, p, 1, 100);
    }
}

static int copy_text(struct test_env *te, void *ctx) {
    (void)ctx;
    char *copy = pnx__strdup(&te->env, "text");
    if (!copy)
        return -ENOMEM;
    pnx__strfree(&te->env, copy);
    return 0;
}

TEST(a_refused_allocation_is_null) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, copy_text, NULL);
}

TEST(a_log_line_is_cut_and_no_log_is_silence) {
    struct test_env te;
    test_env_init(&te);
    pnx__log(&te.env, PNX_LOG_INFO, "hello %d", 7);
    CHECK_STR(te.last_log, "hello 7");
    struct test_env other;
    test_env_init(&other);
    char text[2000];
    memset(text, 'l', sizeof(text));
    text[1999] = '\0';
    pnx__log(&other.env, PNX_LOG_INFO, "%s", text);
    CHECK_EQ(strlen(other.last_log), 511);
    other.env.log = NULL;
    pnx__log(&other.env, PNX_LOG_ERROR, "unheard");
    CHECK_EQ(other.logs, 1);
}

TEST(deadlines_never_overflow) {
    CHECK_EQ(pnx__deadline(100, 0), 100);
    CHECK_EQ(pnx__deadline(100, 5), 105);
    CHECK_EQ(pnx__deadline(100, PNX_NEVER), PNX_NEVER);
    CHECK_EQ(pnx__deadline(100, PNX_NEVER - 100), PNX_NEVER);
    CHECK_EQ(pnx__deadline(100, PNX_NEVER - 101), PNX_NEVER - 1);
    CHECK_EQ(pnx__deadline(PNX_NEVER, 1), PNX_NEVER);
    CHECK_EQ(pnx__remaining(100, 105), 5);
    CHECK_EQ(pnx__remaining(105, 105), 0);
    CHECK_EQ(pnx__remaining(106, 105), 0);
    CHECK_EQ(pnx__remaining(106, PNX_NEVER), PNX_NEVER);
}

TEST(timeouts_resolve_against_the_objects_own) {
    struct pnx_error err;
    pnx_ns got = 1;
    CHECK_EQ(pnx__timeout(PNX_TIMEOUT_DEFAULT, 7, &err, &got), 0);
    CHECK_EQ(got, 7);
    CHECK_EQ(pnx__timeout(0, 7, &err, &got), 0);
    CHECK_EQ(got, 0);
    CHECK_EQ(pnx__timeout(PNX_NEVER, 7, &err, &got), 0);
    CHECK_EQ(got, PNX_NEVER);
    got = 1;
    CHECK_EQ(pnx__timeout(-1, 7, &err, &got), -EINVAL);
    CHECK_STR(err.field, "timeout");
    CHECK_EQ(pnx__timeout(PNX_TIMEOUT_DEFAULT + 1, 7, NULL, &got), -EINVAL);
    CHECK_EQ(got, 1);
}

TEST(random_bits_come_even_when_the_system_gives_none) {
    const struct pnx_env *env = pnx__env_system();
    uint64_t all_or = 0, all_and = UINT64_MAX;
    for (int round = 0; round < 2; round++) {
        if (round == 1) {
            if (!test_os_faults())
                break;
            test_os_fault("getrandom", 1, true, ENOSYS);
        }
        uint64_t last = env->random(NULL);
        errno = 1234;
        for (int i = 0; i < 200; i++) {
            uint64_t bits = env->random(NULL);
            CHECK(bits != last);
            all_or |= bits;
            all_and &= bits;
            last = bits;
        }
        CHECK_EQ(errno, 1234);
        CHECK_EQ(all_or, UINT64_MAX);
        CHECK_EQ(all_and, 0);
    }
    CHECK(!test_os_faults() || test_os_fault_clear() == 201);
}

TEST(mixing_is_a_bijection_and_hashes_depend_on_the_seed) {
    CHECK_EQ(pnx__mix64(0), 0);
    uint64_t state = test_seed(), stream = 1;
    for (int i = 0; i < 1000; i++) {
        uint64_t x = test_random(&state), bit = UINT64_C(1) << (i % 64);
        CHECK(pnx__mix64(x) != pnx__mix64(x ^ bit));
        CHECK(pnx__hash(x, "key", 3) != pnx__hash(x ^ bit, "key", 3));
        CHECK_EQ(pnx__hash(x, "key", 3), pnx__hash(x, "key", 3));
        CHECK(pnx__splitmix(&stream) != pnx__splitmix(&stream));
    }
    CHECK(pnx__hash(1, "key", 3) != pnx__hash(1, "key", 2));
}
