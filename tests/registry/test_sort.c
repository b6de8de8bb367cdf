/* SPDX-License-Identifier: Apache-2.0 */
/* Sorting in place: registry/sort.c. */
#include "harness/harness.h"
#include "registry/sort.h"

enum { MAX = 3000, WORDS = 5 };

static int64_t compared;

/* By the first word; the others tell elements apart. */
static bool before(const void *a, const void *b) {
    compared++;
    return *(const uint64_t *)a < *(const uint64_t *)b;
}

static uint64_t steps(size_t n) {
    uint64_t log2 = 1;
    while (n >>= 1)
        log2++;
    return log2;
}

static void check_sorted(uint64_t *array, size_t n, size_t words) {
    static bool seen[MAX];
    memset(seen, 0, sizeof(seen));
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            CHECK(array[i * words] >= array[(i - 1) * words]);
        if (words == 1)
            continue;
        uint64_t number = array[i * words + 1];
        CHECK(number < n && !seen[number]);
        seen[number] = true;
        CHECK_EQ(array[i * words + words - 1], number); /* it was moved whole */
    }
}

/* Patterns that catch bad choices of a pivot. */
static uint64_t value_at(int pattern, size_t i, size_t n, uint64_t *state) {
    switch (pattern) {
    case 0:
        return test_random(state);
    case 1:
        return i;
    case 2:
        return n - i;
    case 3:
        return 7;
    case 4:
        return test_random(state) % 3;
    case 5:
        return i < n / 2 ? i : n - i; /* an organ pipe */
    case 6:
        return i % 2 ? i : n - i;
    case 7:
        return i + (test_random(state) % 8 ? 0 : 20); /* nearly in order */
    default:
        return i * 7 % 64; /* a saw */
    }
}

TEST(whatever_the_order_is_all_are_there_afterwards_in_the_right_one) {
    static uint64_t array[MAX * WORDS];
    uint64_t state = test_seed(), spare[WORDS];
    for (int round = 0; round < 2000; round++) {
        size_t n = test_random(&state) % (round % 10 ? 60 : MAX);
        size_t words = 1 + test_random(&state) % WORDS;
        int pattern = (int)(test_random(&state) % 9);
        for (size_t i = 0; i < n; i++) {
            for (size_t k = 0; k < words; k++)
                array[i * words + k] = i;
            array[i * words] = value_at(pattern, i, n, &state);
        }
        if (words == 2) /* the last word is the second */
            for (size_t i = 0; i < n; i++)
                array[i * 2 + 1] = i;
        compared = 0;
        pnx__sort(array, n, words * sizeof(*array), spare, before);
        check_sorted(array, n, words);
        CHECK_MSG(compared <= (int64_t)(n * steps(n) * 5), "pattern %d: %lld for %zu", pattern,
                (long long)compared, n);
    }
}

/* An adversary that makes up the order as it is asked, the worst for whoever asks (McIlroy, 1999). */
static uint64_t solid, candidate, gas;
static uint64_t values[MAX];

static bool worst_before(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    compared++;
    if (values[x] == gas && values[y] == gas)
        values[x == candidate ? x : y] = solid++;
    if (values[x] == gas)
        candidate = x;
    else if (values[y] == gas)
        candidate = y;
    return values[x] < values[y];
}

TEST(the_worst_order_takes_n_log_n_steps_too) {
    static uint64_t array[MAX];
    uint64_t spare;
    gas = MAX;
    for (size_t i = 0; i < MAX; i++) {
        array[i] = i;
        values[i] = gas;
    }
    compared = 0;
    pnx__sort(array, MAX, sizeof(*array), &spare, worst_before);
    CHECK_MSG(compared <= (int64_t)(MAX * steps(MAX) * 5), "%lld", (long long)compared);
    for (size_t i = 1; i < MAX; i++)
        CHECK(values[array[i - 1]] <= values[array[i]]);
}

static bool count_down(void *ctx) {
    int *left = ctx;
    return --*left >= 0;
}

TEST(a_sort_that_is_cut_short_loses_nothing_and_says_so) {
    enum { MANY = 100000 };
    static uint64_t array[MANY];
    static bool there[MANY];
    uint64_t state = test_seed(), spare;
    int cut = 0, done = 0;
    for (int looks = 0; done == 0; looks = 2 * looks + 1) {
        for (uint64_t i = 0; i < MANY; i++)
            array[i] = i;
        for (uint64_t i = MANY; i > 1; i--) {
            uint64_t k = test_random(&state) % i;
            uint64_t swapped = array[k];
            array[k] = array[i - 1];
            array[i - 1] = swapped;
        }
        int left = looks;
        compared = 0;
        bool sorted =
                pnx__sort_while(array, MANY, sizeof(*array), &spare, before, count_down, &left);
        cut += !sorted;
        done += sorted;
        CHECK(sorted || left == -1);                      /* asked no more once it said no */
        CHECK(sorted || compared <= (looks + 2) * 30000); /* and goes on for a few steps only */
        memset(there, 0, sizeof(there));
        for (uint64_t i = 0; i < MANY; i++) {
            CHECK(array[i] < MANY && !there[array[i]]);
            there[array[i]] = true;
            CHECK(!sorted || array[i] == i);
        }
    }
    CHECK(cut > 3);
}
