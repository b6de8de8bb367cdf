/* SPDX-License-Identifier: Apache-2.0 */
/* env.c - environments that count and fail, and failing system calls. */
#include "harness/harness.h"
#include "os/clock.h"
#include "os/fault.h"

#define HEADER \
    64 /* keeps every alignment that the library asks for up to 64; larger ones are shifted */

struct block {
    size_t size;
    void *raw;
    uint64_t magic;
};
#define MAGIC UINT64_C(0x7061746e6f782121)

static void *env_alloc(void *ctx, size_t size, size_t align) {
    struct test_env *te = ctx;
    CHECK(size > 0 && align > 0 && (align & (align - 1)) == 0);
    int64_t n = __atomic_add_fetch(&te->allocations, 1, __ATOMIC_RELAXED);
    int64_t at = __atomic_load_n(&te->fail_at, __ATOMIC_RELAXED);
    if (at > 0 && (n == at || (te->fail_forever && n > at))) {
        __atomic_add_fetch(&te->failed, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    size_t room = align > HEADER ? align : HEADER;
    char *raw = malloc(size + 2 * room);
    CHECK(raw);
    uintptr_t user = ((uintptr_t)raw + room + room - 1) & ~((uintptr_t)room - 1);
    struct block *block = (struct block *)(user - sizeof(struct block));
    *block = (struct block){size, raw, MAGIC};
    memset((void *)user, 0xa5, size); /* the library must not rely on zeroed memory */
    __atomic_add_fetch(&te->live_blocks, 1, __ATOMIC_RELAXED);
    int64_t live = __atomic_add_fetch(&te->live_bytes, (int64_t)size, __ATOMIC_RELAXED);
    int64_t peak = __atomic_load_n(&te->peak_bytes, __ATOMIC_RELAXED);
    while (live > peak && !__atomic_compare_exchange_n(&te->peak_bytes, &peak, live, true,
                                  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return (void *)user;
}

static void env_free(void *ctx, void *p, size_t size) {
    struct test_env *te = ctx;
    struct block *block = (struct block *)((uintptr_t)p - sizeof(struct block));
    CHECK_MSG(block->magic == MAGIC, "free of %p, which is not live", p);
    CHECK_MSG(block->size == size, "free(%p, %zu), but %zu were asked for", p, size, block->size);
    block->magic = 0;
    memset(p, 0x5a, size);
    __atomic_sub_fetch(&te->live_blocks, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&te->live_bytes, (int64_t)size, __ATOMIC_RELAXED);
    free(block->raw);
}

static pnx_ns env_now(void *ctx) {
    struct test_env *te = ctx;
    return te->virtual_time ? __atomic_load_n(&te->now, __ATOMIC_RELAXED) : pnx__os_now();
}

static uint64_t env_random(void *ctx) {
    struct test_env *te = ctx;
    uint64_t x =
            __atomic_add_fetch(&te->random_state, UINT64_C(0x9E3779B97F4A7C15), __ATOMIC_RELAXED);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

static void env_log(void *ctx, enum pnx_log_level level, const char *message) {
    struct test_env *te = ctx;
    (void)level;
    if (__atomic_fetch_add(&te->logs, 1, __ATOMIC_RELAXED) == 0)
        snprintf(te->last_log, sizeof(te->last_log), "%s", message);
}

void test_env_init(struct test_env *te) {
    memset(te, 0, sizeof(*te));
    te->env = (struct pnx_env){
            .size = sizeof(te->env),
            .ctx = te,
            .alloc = env_alloc,
            .free = env_free,
            .now = env_now,
            .now_coarse = env_now,
            .random = env_random,
            .log = env_log,
    };
    te->random_state = test_seed();
}

void test_env_virtual(struct test_env *te, pnx_ns start) {
    te->virtual_time = true;
    __atomic_store_n(&te->now, start, __ATOMIC_RELAXED);
}

void test_env_advance(struct test_env *te, pnx_ns by) {
    __atomic_add_fetch(&te->now, by, __ATOMIC_RELAXED);
}

void test_env_check_empty(struct test_env *te) {
    int64_t blocks = __atomic_load_n(&te->live_blocks, __ATOMIC_RELAXED);
    int64_t bytes = __atomic_load_n(&te->live_bytes, __ATOMIC_RELAXED);
    CHECK_MSG(blocks == 0, "%lld blocks (%lld bytes) were not freed", (long long)blocks,
            (long long)bytes);
}

void test_fail_each_allocation(
        struct test_env *te, int (*fn)(struct test_env *te, void *ctx), void *ctx) {
    for (int forever = 0; forever < 2; forever++) {
        int64_t n = 1;
        for (;; n++) {
            CHECK_MSG(n < 100000, "allocations never stop failing");
            te->allocations = 0;
            te->failed = 0;
            te->fail_forever = forever;
            te->fail_at = n;
            int rc = fn(te, ctx);
            te->fail_at = 0;
            CHECK_MSG(rc == 0 || rc == -ENOMEM, "with allocation %lld failing%s: %s", (long long)n,
                    forever ? " for ever" : "", pnx_errname(rc));
            test_env_check_empty(te);
            if (te->failed == 0) {
                CHECK_MSG(rc == 0, "no allocation failed, yet -ENOMEM");
                break;
            }
        }
        CHECK_MSG(n > 1, "nothing was allocated through the env");
    }
}

#ifdef PNX_FAULTS
static const char *fault_call;
static int64_t fault_nth, fault_seen, fault_refused;
static bool fault_forever;
static int fault_error;

static int decide(const char *call) {
    if (fault_call && strcmp(call, fault_call) != 0)
        return 0;
    int64_t n = __atomic_add_fetch(&fault_seen, 1, __ATOMIC_RELAXED);
    if (n != fault_nth && !(fault_forever && n > fault_nth))
        return 0;
    __atomic_add_fetch(&fault_refused, 1, __ATOMIC_RELAXED);
    return -fault_error;
}

bool test_os_faults(void) {
    return true;
}

void test_os_fault(const char *call, int64_t nth, bool forever, int error) {
    fault_call = call;
    fault_nth = nth;
    fault_forever = forever;
    fault_error = error;
    fault_seen = 0;
    fault_refused = 0;
    pnx__os_fault_set(decide);
}

int64_t test_os_fault_clear(void) {
    pnx__os_fault_set(NULL);
    return __atomic_load_n(&fault_refused, __ATOMIC_RELAXED);
}
#else
bool test_os_faults(void) {
    return false;
}

void test_os_fault(const char *call, int64_t nth, bool forever, int error) {
    (void)call;
    (void)nth;
    (void)forever;
    (void)error;
}

int64_t test_os_fault_clear(void) {
    return 0;
}
#endif
