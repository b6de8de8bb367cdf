/* SPDX-License-Identifier: Apache-2.0 */
/* Atomics: the rules of src/base/atomic.h, and its variant with a row per site. */
#include "base/atomic.h"
#include "harness/harness.h"
#include "os/thread.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK_NUMBER(type, max) \
    do { \
        struct type w = {5}; \
        CHECK_EQ(pnx_load(&w, PNX_RELAXED, "test." #type "_load"), 5); \
        CHECK_EQ(pnx_load(&w, PNX_ACQUIRE, "test." #type "_load2"), 5); \
        pnx_store(&w, 6, PNX_RELAXED, "test." #type "_store"); \
        pnx_store(&w, 7, PNX_RELEASE, "test." #type "_store2"); \
        CHECK_EQ(pnx_exchange(&w, 8, PNX_ACQ_REL, "test." #type "_xchg"), 7); \
        CHECK_EQ(pnx_fetch_add(&w, 2, PNX_RELAXED, "test." #type "_add"), 8); \
        CHECK_EQ(pnx_fetch_sub(&w, 11, PNX_ACQUIRE, "test." #type "_sub"), 10); \
        CHECK(pnx_load(&w, PNX_RELAXED, "test." #type "_wrap") == (max)); \
        CHECK(pnx_fetch_and(&w, 0xf0, PNX_RELEASE, "test." #type "_and") == (max)); \
        CHECK_EQ(pnx_fetch_or(&w, 0x0f, PNX_SEQ_CST, "test." #type "_or"), 0xf0); \
        __typeof__(w.v) expected = 1; \
        CHECK(!pnx_cas(&w, &expected, 2, PNX_ACQ_REL, "test." #type "_cas")); \
        CHECK_EQ(expected, 0xff); \
        CHECK(pnx_cas(&w, &expected, 2, PNX_RELAXED, "test." #type "_cas2")); \
        CHECK(!pnx_cas_acquire(&w, &expected, 3, PNX_ACQ_REL, "test." #type "_cas3")); \
        CHECK_EQ(expected, 2); \
        CHECK(pnx_cas_acquire(&w, &expected, 3, PNX_SEQ_CST, "test." #type "_cas4")); \
        CHECK_EQ(w.v, 3); \
        pnx_owner_add(&w, 4); \
        CHECK_EQ(w.v, 7); \
        CHECK_EQ(sizeof(w), sizeof(w.v)); \
    } while (0)

TEST(each_operation_does_what_it_says) {
    CHECK_NUMBER(pnx_a32, UINT32_MAX);
    CHECK_NUMBER(pnx_a64, UINT64_MAX);
    int a, b;
    struct pnx_aptr p = {&a};
    void *expected = &b;
    CHECK(pnx_load(&p, PNX_ACQUIRE, "test.ptr_load") == &a);
    CHECK(!pnx_cas(&p, &expected, NULL, PNX_RELEASE, "test.ptr_cas"));
    CHECK(expected == &a);
    CHECK(pnx_cas_acquire(&p, &expected, &b, PNX_ACQ_REL, "test.ptr_cas2"));
    CHECK(pnx_exchange(&p, NULL, PNX_ACQ_REL, "test.ptr_xchg") == &b);
    pnx_store(&p, &a, PNX_RELEASE, "test.ptr_store");
    CHECK(p.v == &a);
}

struct owner {
    struct pnx_a64 count;
    struct pnx_a32 done;
    uint64_t rounds;
};

static void own(unsigned index, void *ctx) {
    struct owner *o = ctx;
    if (index == 0) {
        for (uint64_t i = 0; i < o->rounds; i++)
            pnx_owner_add(&o->count, UINT64_C(0x100000001)); /* torn, the halves would differ */
        pnx_store(&o->done, 1, PNX_RELEASE, "test.owner_done");
        return;
    }
    uint64_t last = 0;
    while (!pnx_load(&o->done, PNX_ACQUIRE, "test.owner_done?")) {
        uint64_t now = pnx_load(&o->count, PNX_RELAXED, "test.owner_read");
        CHECK(now >= last && now >> 32 == (now & UINT32_MAX));
        last = now;
    }
}

TEST(an_owners_counter_is_never_torn_nor_goes_back) {
    static struct owner o;
    o.rounds = test_slow() ? 100000 : 2000000;
    test_threads(3, own, &o);
    CHECK_EQ(o.count.v, o.rounds * UINT64_C(0x100000001));
}

TEST(every_atomic_in_src_names_its_order_and_a_site_of_its_own) {
    char script[512], src[512], include[512];
    snprintf(script, sizeof(script), "%s/tests/base/check_atomics.py", test_source_dir());
    snprintf(src, sizeof(src), "%s/src", test_source_dir());
    snprintf(include, sizeof(include), "%s/include", test_source_dir());
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        execl("/usr/bin/python3", "python3", script, src, include, (char *)NULL);
        _exit(77);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        test_skip("python3 is not installed");
    CHECK_EQ(WEXITSTATUS(status), 0);
}

#ifdef PNX_ATOMIC_SITES
extern struct pnx_atomic_site __start_pnx_sites[], __stop_pnx_sites[];

static bool is_tests_own(const struct pnx_atomic_site *site) {
    return strstr(site->file, "/tests/") != NULL;
}

TEST(the_table_of_sites_has_a_sound_row_for_each) {
    size_t n = (size_t)(__stop_pnx_sites - __start_pnx_sites), library = 0;
    CHECK_EQ((uintptr_t)__start_pnx_sites % 8, 0);
    for (size_t i = 0; i < n; i++) {
        const struct pnx_atomic_site *site = &__start_pnx_sites[i];
        CHECK(site->name && site->file && site->line > 0);
        CHECK_MSG(
                strchr(site->name, '.'), "%s:%d: site \"%s\"", site->file, site->line, site->name);
        CHECK(site->declared >= PNX_RELAXED && site->declared <= PNX_SEQ_CST);
        CHECK_EQ(site->order, site->declared);
        library += !is_tests_own(site);
    }
    CHECK(library > 20);
}

TEST(site_names_are_unique_in_the_whole_library) {
    size_t n = (size_t)(__stop_pnx_sites - __start_pnx_sites);
    for (size_t i = 0; i < n; i++) {
        const struct pnx_atomic_site *a = &__start_pnx_sites[i];
        for (size_t k = 0; k < i && !is_tests_own(a); k++) {
            const struct pnx_atomic_site *b = &__start_pnx_sites[k];
            /* An inline function of a header has a row in each file that uses it. */
            bool same_place = a->line == b->line && strcmp(a->file, b->file) == 0;
            CHECK_MSG(strcmp(a->name, b->name) != 0 || same_place, "\"%s\" is at %s:%d and %s:%d",
                    a->name, a->file, a->line, b->file, b->line);
        }
    }
}

static struct pnx_atomic_site *find_site(const char *name) {
    for (struct pnx_atomic_site *site = __start_pnx_sites; site < __stop_pnx_sites; site++) {
        if (strcmp(site->name, name) == 0)
            return site;
    }
    test_fail(__FILE__, __LINE__, "no site \"%s\"", name);
}

/* Store buffering with a fence between: see tests/os/test_thread.c. */
static struct pnx_a32 x, y, phase, arrived;
static uint32_t saw_x, saw_y;
static uint64_t both_missed;

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

static void store_buffering(unsigned index, void *ctx) {
    (void)ctx;
    for (uint32_t i = 0; i < 20000; i++) {
        meet(i * 2 + 1, clear);
        struct pnx_a32 *mine = index ? &y : &x, *other = index ? &x : &y;
        pnx_store(mine, 1, PNX_RELAXED, "test.mine");
        pnx_fence(PNX_SEQ_CST, "test.fence");
        *(index ? &saw_x : &saw_y) = pnx_load(other, PNX_RELAXED, "test.other");
        meet(i * 2 + 2, compare);
    }
}

static uint64_t count_missed(void) {
    both_missed = 0;
    pnx_store(&phase, 0, PNX_RELAXED, "test.phase0");
    test_threads(2, store_buffering, NULL);
    return both_missed;
}

TEST_LIMIT(an_order_can_be_weakened_at_run_time,
        300) { /* a busy machine overlaps the threads rarely */
    if (pnx__os_cpus() < 2)
        test_skip("one CPU shows no reordering");
    CHECK_EQ(count_missed(), 0);
    struct pnx_atomic_site *fence = find_site("test.fence");
    CHECK_EQ(fence->declared, PNX_SEQ_CST);
    fence->order = PNX_RELAXED;
    uint64_t missed = 0;
    for (int i = 0; i < 1000 && missed == 0; i++)
        missed = count_missed();
    CHECK_MSG(missed > 0, "the weakened fence still orders");
    fence->order = fence->declared;
    CHECK_EQ(count_missed(), 0);
}
#endif
