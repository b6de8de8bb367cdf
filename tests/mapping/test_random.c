/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random sequences of calls against a model (mapping/model.h), and random arguments for views and records.
 *
 * SEED repeats a run; PNX_MAPPING_SEQUENCE=n begins with the nth sequence, each of which has a seed of its own.
 */
#include "mapping/help.h"
#include "mapping/model.h"

static uint64_t state;

static uint64_t below(uint64_t n) {
    return n ? test_random(&state) % n : 0;
}

static uint64_t draw(void *ctx, uint64_t n) {
    (void)ctx;
    return below(n);
}

static bool count_down(void *ctx) {
    unsigned *steps = ctx;
    return (*steps)-- > 0;
}

static void run_sequence(uint64_t sequence, unsigned steps) {
    uint64_t mix = test_seed();
    mix = test_random(&mix) + sequence;
    state = test_random(&mix);
    test_seed_part("PNX_MAPPING_SEQUENCE", sequence);
    model_run(&(const struct model_draws){.draw = draw, .more = count_down, .ctx = &steps});
}

TEST_LIMIT(random_sequences_agree_with_a_model, 120) {
    const char *from = getenv("PNX_MAPPING_SEQUENCE");
    uint64_t first = from ? strtoull(from, NULL, 0) : 0;
    uint64_t sequences = test_long() ? 5000 : test_slow() ? 20 : 100;
    for (uint64_t i = 0; i < sequences; i++)
        run_sequence(first + i, 120);
}

/* ---- arguments ---- */

static uint64_t near_something(uint64_t size) {
    uint64_t near = below(5) - 2;
    switch (below(5)) {
    case 0:
        return near;
    case 1:
        return size + near;
    case 2:
        return ((uint64_t)1 << below(64)) + near;
    case 3:
        return test_random(&state);
    default:
        return below(size + 1);
    }
}

TEST(p1_random_record_arrays_agree_with_exact_arithmetic) {
    state = test_seed();
    _Alignas(64) unsigned char bytes[4096];
    uint64_t rounds = test_long() ? 20000000 : test_slow() ? 30000 : 300000;
    for (uint64_t i = 0; i < rounds; i++) {
        size_t begin = below(64), n = below(4096 - 64);
        struct pnx_view view = {.p = bytes + begin, .n = n};
        uint64_t offset = near_something(n);
        size_t count = (size_t)near_something(n / 8), size = (size_t)near_something(64);
        size_t align = (size_t)(below(4) ? 1u << below(7) : near_something(8));
        struct pnx_records records = {.n = 99};
        int rc = pnx_records_get(&view, offset, count, size, align, &records);
        bool sane = size && align && (align & (align - 1)) == 0 && size % align == 0;
        bool everything = count == PNX_RECORDS_ALL;
        unsigned __int128 end =
                (unsigned __int128)offset + (everything ? 0 : (unsigned __int128)count * size);
        bool inside = end <= n;
        bool aligned = ((uintptr_t)bytes + begin + offset) % (align ? align : 1) == 0;
        CHECK_EQ(rc, !sane ? -EINVAL : !inside ? -ERANGE : !aligned ? PNX_E_FORMAT : 0);
        if (rc) {
            CHECK_EQ(records.n, 99);
            continue;
        }
        CHECK_EQ(records.n, everything ? (n - offset) / size : count);
        uint64_t index = near_something(records.n);
        const unsigned char *at_ = pnx_records_at(&records, (size_t)index);
        CHECK_EQ(at_ != NULL, index < records.n);
        if (at_)
            CHECK(at_ == view.p + offset + index * size && at_ + size <= view.p + n);
    }
}
