/* SPDX-License-Identifier: Apache-2.0 */
/* The table of ranges: P1..P3 of src/os/ranges.h. */
#include "harness/harness.h"
#include "os/ranges.h"

#include <errno.h>
#include <signal.h>
#include <sys/time.h>

#define N 3000 /* several chunks */

static int owners[N];

TEST(p1_ranges_are_found_as_long_as_they_are_there) {
    static struct pnx_range *ranges[N];
    for (uintptr_t i = 0; i < N; i++)
        CHECK_EQ(pnx__range_add(i * 100 + 10, i * 100 + 60, &owners[i], &ranges[i]), 0);
    CHECK_EQ(pnx__ranges(), N);
    for (uintptr_t i = 0; i < N; i++) {
        CHECK(!pnx__range_find(i * 100 + 9));
        CHECK(pnx__range_find(i * 100 + 10) == &owners[i]);
        CHECK(pnx__range_find(i * 100 + 59) == &owners[i]);
        CHECK(!pnx__range_find(i * 100 + 60));
    }
    for (uintptr_t i = 0; i < N; i += 2)
        pnx__range_remove(&ranges[i]);
    for (uintptr_t i = 1; i < N; i += 2)
        pnx__range_move(ranges[i], i * 100 + 1000000, i * 100 + 1000001);
    for (uintptr_t i = 0; i < N; i++) {
        CHECK(!pnx__range_find(i * 100 + 10));
        CHECK(pnx__range_find(i * 100 + 1000000) == (i % 2 ? &owners[i] : NULL));
    }
    for (int i = 1; i < N; i += 2)
        pnx__range_remove(&ranges[i]);
    struct pnx_range *none = NULL;
    pnx__range_remove(&none);
    CHECK_EQ(pnx__ranges(), 0);
}

TEST(places_are_used_again) {
    struct pnx_range *first = NULL, *again = NULL;
    for (uintptr_t i = 0; i < 100000; i++) {
        CHECK_EQ(pnx__range_add(1, 2, owners, &again), 0);
        CHECK(!first || again == first);
        first = again;
        pnx__range_remove(&again);
    }
}

/* Each thread has ranges of its own; all look for each other's. */
struct busy {
    uint32_t stop;
    uint64_t found;
};

static void adds_and_looks(unsigned index, void *ctx) {
    struct busy *busy = ctx;
    enum { OWN = 40 };
    struct pnx_range *ranges[OWN] = {NULL};
    uint64_t random = test_seed() + index;
    uintptr_t base = (index + 1) * (uintptr_t)1000000;
    for (int i = 0; i < (test_slow() ? 3000 : 30000); i++) {
        uintptr_t k = test_random(&random) % OWN;
        uintptr_t from = base + k * 1000;
        if (ranges[k] && test_random(&random) % 3 == 0)
            pnx__range_move(ranges[k], from, from + 500);
        else if (ranges[k])
            pnx__range_remove(&ranges[k]);
        else
            CHECK_EQ(pnx__range_add(from, from + 500, &owners[index * OWN + k], &ranges[k]), 0);
        uintptr_t mine = base + test_random(&random) % OWN * 1000 + 250;
        uintptr_t which = (mine - base) / 1000;
        CHECK(pnx__range_find(mine) == (ranges[which] ? &owners[index * OWN + which] : NULL));
        uint64_t whose = test_random(&random) % 4;
        uintptr_t other = (whose + 1) * 1000000 + test_random(&random) % OWN * 1000 + 499;
        const int *owner = pnx__range_find(other);
        uintptr_t number = owner ? (uintptr_t)(owner - owners) : 0;
        CHECK(!owner || (number / OWN == whose && number % OWN == other % 1000000 / 1000));
        __atomic_fetch_add(&busy->found, owner != NULL, __ATOMIC_RELAXED);
    }
    for (int k = 0; k < OWN; k++)
        pnx__range_remove(&ranges[k]);
}

TEST(p3_what_is_there_is_found_and_never_with_anothers_owner) {
    struct busy busy = {0};
    test_threads(4, adds_and_looks, &busy);
    CHECK(busy.found > 0);
    CHECK_EQ(pnx__ranges(), 0);
}

/* p2: from a handler that interrupts the table's own functions */
static volatile sig_atomic_t ticks, wrong;
static struct pnx_range *fixed;

static void looks(int sig) {
    (void)sig;
    ticks++;
    if (pnx__range_find(5) != owners || pnx__range_find(7) != NULL)
        wrong++;
}

TEST(p2_a_handler_may_look_while_it_interrupts_a_change) {
    static struct pnx_range *ranges[300];
    CHECK_EQ(pnx__range_add(5, 6, owners, &fixed), 0);
    CHECK(signal(SIGALRM, looks) != SIG_ERR);
    const struct itimerval often = {{0, 50}, {0, 50}};
    CHECK_EQ(setitimer(ITIMER_REAL, &often, NULL), 0);
    for (uintptr_t i = 0; ticks < 200; i++) {
        struct pnx_range **range = &ranges[i % 300];
        if (*range)
            pnx__range_remove(range);
        else
            CHECK_EQ(pnx__range_add(1000 + i, 1001 + i, &owners[1], range), 0);
    }
    const struct itimerval never = {{0, 0}, {0, 0}};
    CHECK_EQ(setitimer(ITIMER_REAL, &never, NULL), 0);
    CHECK_EQ(wrong, 0);
    pnx__range_remove(&fixed);
    for (int i = 0; i < 300; i++)
        pnx__range_remove(&ranges[i]);
}
