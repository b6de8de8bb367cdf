/* SPDX-License-Identifier: Apache-2.0 */
/* Histograms: P1 and P2 of src/stats/histogram.c, and what a reader computes from them. */
#include "harness/harness.h"
#include "stats/stats.h"

static uint64_t low_end(uint32_t index) {
    return index == 0 ? 0 : pnx__histogram_bound(index - 1);
}

static void check_value(uint64_t v) {
    uint32_t index = pnx__histogram_index(v);
    CHECK(index < PNX_HISTOGRAM_BUCKETS);
    CHECK_MSG(low_end(index) <= v && (v < pnx__histogram_bound(index) || v == UINT64_MAX),
            "%llu is in bucket %u: %llu up to %llu", (unsigned long long)v, index,
            (unsigned long long)low_end(index), (unsigned long long)pnx__histogram_bound(index));
}

TEST(p1_every_value_has_exactly_one_bucket) {
    for (uint64_t v = 0; v < 70000; v++)
        check_value(v);
    for (unsigned k = 0; k < 64; k++) {
        check_value((UINT64_C(1) << k) - 1);
        check_value(UINT64_C(1) << k);
        check_value((UINT64_C(1) << k) + 1);
    }
    check_value(UINT64_MAX);
    uint64_t state = test_seed();
    for (int i = 0; i < 100000; i++)
        check_value(test_random(&state) >> (test_random(&state) % 64));
}

TEST(p1_bounds_rise_and_buckets_meet) {
    uint64_t before = 0;
    for (uint32_t i = 0; i < PNX_HISTOGRAM_BUCKETS; i++) {
        uint64_t bound = pnx__histogram_bound(i);
        CHECK(bound > before);
        CHECK_EQ(pnx__histogram_index(before), i);
        CHECK_EQ(pnx__histogram_index(bound - 1), i);
        before = bound;
    }
    CHECK_EQ(before, UINT64_MAX);
}

TEST(p2_a_bucket_is_at_most_a_sixteenth_wide) {
    for (uint32_t i = 16; i < PNX_HISTOGRAM_BUCKETS - 1; i++) {
        uint64_t low = low_end(i), width = pnx__histogram_bound(i) - low;
        CHECK_MSG(width * 16 <= low, "bucket %u: %llu wide at %llu", i, (unsigned long long)width,
                (unsigned long long)low);
    }
    for (uint32_t i = 0; i < 16; i++)
        CHECK_EQ(pnx__histogram_bound(i), i + 1);
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The upper end of the bucket that holds the value of a rank: what a reader reports. */
static uint64_t quantile(const struct pnx_histogram *h, uint64_t rank) {
    uint64_t seen = 0;
    for (uint32_t i = 0; i < PNX_HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i].v;
        if (seen > rank)
            return pnx__histogram_bound(i) - 1;
    }
    test_fail(__FILE__, __LINE__, "rank %llu of %llu", (unsigned long long)rank,
            (unsigned long long)seen);
}

TEST(quantiles_are_within_six_and_a_quarter_percent_of_the_exact_ones) {
    enum { COUNT = 20000 };
    static uint64_t values[COUNT];
    static struct pnx_histogram h;
    uint64_t state = test_seed(), sum = 0;
    for (int i = 0; i < COUNT; i++) {
        values[i] = (test_random(&state) >> 25) >> (test_random(&state) % 39); /* below 2^39 */
        pnx__histogram_record(&h, (int64_t)values[i]);
        sum += values[i];
    }
    qsort(values, COUNT, sizeof(values[0]), compare);
    CHECK_EQ(h.sum.v, sum);
    for (uint64_t rank = 0; rank < COUNT; rank += 7) {
        uint64_t got = quantile(&h, rank), exact = values[rank];
        CHECK_MSG(got >= exact && (got - exact) * 10000 <= exact * 625,
                "rank %llu: %llu, exactly %llu", (unsigned long long)rank, (unsigned long long)got,
                (unsigned long long)exact);
    }
}

TEST(negative_values_count_as_zero_and_huge_ones_in_the_last_bucket) {
    static struct pnx_histogram h;
    pnx__histogram_record(&h, -1);
    pnx__histogram_record(&h, INT64_MIN);
    CHECK_EQ(h.bucket[0].v, 2);
    CHECK_EQ(h.sum.v, 0);
    pnx__histogram_record(&h, INT64_MAX);
    pnx__histogram_record(&h, INT64_C(1) << 40);
    pnx__histogram_record(&h, (INT64_C(1) << 40) - 1);
    CHECK_EQ(h.bucket[PNX_HISTOGRAM_BUCKETS - 1].v, 3); /* 2^40 - 1 is in the top sixteenth */
    uint64_t count = 0;
    for (uint32_t i = 0; i < PNX_HISTOGRAM_BUCKETS; i++)
        count += h.bucket[i].v;
    CHECK_EQ(count, 5);
}
