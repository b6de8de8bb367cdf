/* SPDX-License-Identifier: Apache-2.0 */
/* Views: ranges, overflow, alignment, numbers in both byte orders; against a model, over random ranges. */
#include "harness/harness.h"

#include <patinox/mapping.h>

static struct pnx_mapping *open_bytes(const void *data, size_t n, uint32_t flags) {
    struct pnx_mapping *mapping = NULL;
    const char *path = test_path("bytes");
    test_write_file(path, data, n);
    CHECK_EQ(pnx_mapping_open(
                     path, PNX_MAPPING_OPTS(.flags = flags, .small_max = 1), NULL, &mapping),
            0);
    return mapping;
}

TEST(p1_views_inside_are_given_and_outside_refused) {
    char data[100] = {0};
    struct pnx_mapping *mapping = open_bytes(data, sizeof(data), 0);
    struct pnx_view view = {.n = 12345};
    static const struct {
        uint64_t offset;
        size_t n;
        int rc;
    } cases[] = {{0, 0, 0}, {0, 100, 0}, {100, 0, 0}, {99, 1, 0}, {50, 50, 0}, {0, 101, -ERANGE},
            {100, 1, -ERANGE}, {101, 0, -ERANGE}, {99, 2, -ERANGE}, {1, SIZE_MAX, -ERANGE},
            {UINT64_MAX, 1, -ERANGE}, {UINT64_MAX, 0, -ERANGE}, {UINT64_MAX, SIZE_MAX, -ERANGE},
            {(uint64_t)1 << 32, 0, -ERANGE}, {((uint64_t)1 << 32) + 5, 1, -ERANGE},
            {UINT64_MAX - 49, 100, -ERANGE}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pnx_view all = pnx_view_all(mapping), sub = {.n = 12345};
        view.n = 12345;
        CHECK_EQ(pnx_view_get(mapping, cases[i].offset, cases[i].n, &view), cases[i].rc);
        CHECK_EQ(pnx_view_sub(&all, cases[i].offset, cases[i].n, &sub), cases[i].rc);
        CHECK_EQ(pnx_view_holds(&all, cases[i].offset, cases[i].n), cases[i].rc == 0);
        CHECK_EQ(pnx_view_at(&all, cases[i].offset, cases[i].n, 1) != NULL, cases[i].rc == 0);
        if (cases[i].rc == 0) {
            CHECK(view.p == all.p + cases[i].offset && sub.p == view.p);
            CHECK_EQ(view.n, cases[i].n);
            CHECK_EQ(sub.n, cases[i].n);
            CHECK(view.mapping == mapping && sub.mapping == mapping);
        } else {
            CHECK_EQ(view.n, 12345); /* untouched */
            CHECK_EQ(sub.n, 12345);
        }
    }
    CHECK_EQ(pnx_view_get(NULL, 0, 0, &view), -EINVAL);
    CHECK_EQ(pnx_view_get(mapping, 0, 0, NULL), -EINVAL);
    CHECK_EQ(pnx_view_sub(NULL, 0, 0, &view), -EINVAL);
    CHECK_EQ(pnx_view_sub(&view, 0, 0, NULL), -EINVAL);
    pnx_mapping_release(&mapping);
}

TEST(p1_a_view_of_a_view_stays_inside_the_first) {
    char data[100] = {0};
    struct pnx_mapping *mapping = open_bytes(data, sizeof(data), 0);
    struct pnx_view outer, inner;
    CHECK_EQ(pnx_view_get(mapping, 10, 20, &outer), 0);
    CHECK_EQ(pnx_view_sub(&outer, 5, 15, &inner), 0);
    CHECK(inner.p == pnx_view_all(mapping).p + 15);
    CHECK_EQ(pnx_view_sub(&outer, 5, 16, &inner), -ERANGE); /* there are bytes, but not its own */
    uint8_t byte;
    CHECK_EQ(pnx_view_u8(&outer, 20, &byte), -ERANGE);
    pnx_mapping_release(&mapping);
}

struct record {
    uint64_t id;
    uint32_t length;
    uint32_t check;
};

TEST(p2_a_typed_access_that_is_refused_says_why) {
    struct record records[4] = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}};
    struct pnx_view view = {.p = (const unsigned char *)records, .n = sizeof(records)};
    for (uint32_t writable = 0; writable < 2; writable++) {
        int given = writable ? 0 : -EACCES;
        view.flags = writable ? PNX_VIEW_WRITABLE_ : 0;
        CHECK_EQ(PNX_VIEW_CHECK(&view, struct record, 48), 0);
        CHECK_EQ(PNX_VIEW_CHECK_MUT(&view, struct record, 48), given);
        CHECK_EQ(PNX_VIEW_AT_MUT(&view, struct record, 48) != NULL, writable);
        CHECK_EQ(PNX_VIEW_CHECK(&view, struct record, 52), -ERANGE);
        CHECK_EQ(PNX_VIEW_CHECK_MUT(&view, struct record, UINT64_MAX), -ERANGE);
        CHECK_EQ(PNX_VIEW_CHECK(&view, struct record, 44), PNX_E_FORMAT);
        CHECK_EQ(PNX_VIEW_CHECK_MUT(&view, struct record, 44), PNX_E_FORMAT);
        CHECK_EQ(pnx_view_check(&view, 3, 5, 1), 0);
        CHECK_EQ(pnx_view_check(&view, 0, 1, 0), -EINVAL);
        CHECK_EQ(pnx_view_check(&view, 0, 1, 6), -EINVAL);
        CHECK_EQ(pnx_view_check_mut(&view, 0, 1, 3), -EINVAL);
    }
}

TEST(p2_typed_access_needs_range_and_alignment) {
    struct record records[4] = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}};
    for (uint32_t flags = 0; flags <= PNX_MAPPING_COPY; flags++) {
        struct pnx_mapping *mapping = open_bytes(records, sizeof(records), flags);
        struct pnx_view view = pnx_view_all(mapping);
        const struct record *record = PNX_VIEW_AT(&view, struct record, 3 * sizeof(*record));
        CHECK(record && record->id == 10 && record->check == 12);
        CHECK(PNX_VIEW_AT(&view, struct record, 3 * sizeof(*record) + 1) ==
                NULL);                                       /* out of range */
        CHECK(PNX_VIEW_AT(&view, struct record, 4) == NULL); /* misaligned */
        CHECK(PNX_VIEW_AT(&view, uint32_t, 4) != NULL);
        CHECK(PNX_VIEW_AT(&view, uint32_t, 2) == NULL);
        CHECK(PNX_VIEW_AT(&view, char, 63) != NULL);
        CHECK(PNX_VIEW_AT(&view, char, 64) == NULL);
        CHECK(PNX_VIEW_AT(&view, struct record, UINT64_MAX - 7) == NULL);
        struct pnx_view odd;
        CHECK_EQ(pnx_view_sub(&view, 1, 40, &odd), 0);
        CHECK(PNX_VIEW_AT(&odd, struct record, 0) == NULL);
        CHECK(PNX_VIEW_AT(&odd, struct record, 7) != NULL); /* the file's alignment counts */
        pnx_mapping_release(&mapping);
    }
}

TEST(numbers_are_loaded_in_the_byte_order_that_is_named) {
    const unsigned char data[] = {0xff, 0x01, 0x82, 0x03, 0x84, 0x05, 0x86, 0x07, 0x88};
    struct pnx_mapping *mapping = open_bytes(data, sizeof(data), 0);
    struct pnx_view view = pnx_view_all(mapping);
    uint8_t u8 = 0;
    uint16_t u16 = 0;
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    CHECK_EQ(pnx_view_u8(&view, 0, &u8), 0);
    CHECK_EQ(u8, 0xff);
    CHECK_EQ(pnx_view_u16le(&view, 1, &u16), 0);
    CHECK_EQ(u16, 0x8201);
    CHECK_EQ(pnx_view_u16be(&view, 1, &u16), 0);
    CHECK_EQ(u16, 0x0182);
    CHECK_EQ(pnx_view_u32le(&view, 1, &u32), 0);
    CHECK_EQ(u32, 0x84038201);
    CHECK_EQ(pnx_view_u32be(&view, 1, &u32), 0);
    CHECK_EQ(u32, 0x01820384);
    CHECK_EQ(pnx_view_u64le(&view, 1, &u64), 0);
    CHECK(u64 == UINT64_C(0x8807860584038201));
    CHECK_EQ(pnx_view_u64be(&view, 1, &u64), 0);
    CHECK(u64 == UINT64_C(0x0182038405860788));

    u8 = 1, u16 = 2, u32 = 3, u64 = 4;
    CHECK_EQ(pnx_view_u8(&view, 9, &u8), -ERANGE);
    CHECK_EQ(pnx_view_u16le(&view, 8, &u16), -ERANGE);
    CHECK_EQ(pnx_view_u16be(&view, UINT64_MAX, &u16), -ERANGE);
    CHECK_EQ(pnx_view_u32le(&view, 6, &u32), -ERANGE);
    CHECK_EQ(pnx_view_u32be(&view, UINT64_MAX - 3, &u32), -ERANGE);
    CHECK_EQ(pnx_view_u64le(&view, 2, &u64), -ERANGE);
    CHECK_EQ(pnx_view_u64be(&view, UINT64_MAX - 7, &u64), -ERANGE);
    CHECK(u8 == 1 && u16 == 2 && u32 == 3 && u64 == 4); /* untouched */
    pnx_mapping_release(&mapping);
}

/* A number that is often near an edge: of the range, of a power of two, of the type. */
static uint64_t edgy(uint64_t *state, uint64_t size) {
    uint64_t r = test_random(state), near = test_random(state) % 5 - 2;
    switch (r % 5) {
    case 0:
        return near;
    case 1:
        return size + near;
    case 2:
        return ((uint64_t)1 << (test_random(state) % 64)) + near;
    case 3:
        return test_random(state);
    default:
        return size ? test_random(state) % size : 0;
    }
}

TEST(p1_random_ranges_agree_with_exact_arithmetic) {
    uint64_t state = test_seed();
    unsigned rounds = test_slow() ? 20000 : 200000;
    unsigned char data[333];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)test_random(&state);
    for (uint32_t flags = 0; flags <= PNX_MAPPING_COPY; flags++) {
        struct pnx_mapping *mapping = open_bytes(data, sizeof(data), flags);
        for (unsigned i = 0; i < rounds; i++) {
            struct pnx_view view, sub;
            uint64_t offset = edgy(&state, sizeof(data));
            size_t n = (size_t)edgy(&state, sizeof(data));
            /* 128 bits do not wrap: this is the definition of lying inside */
            bool inside = (unsigned __int128)offset + n <= sizeof(data);
            CHECK_EQ(pnx_view_get(mapping, offset, n, &view), inside ? 0 : -ERANGE);
            unsigned char out[sizeof(data)];
            CHECK_EQ(pnx_mapping_copy_out(mapping, offset, out, n), inside ? 0 : -ERANGE);
            if (!inside)
                continue;
            CHECK(memcmp(view.p, data + offset, n) == 0);
            CHECK(memcmp(out, data + offset, n) == 0);
            uint64_t at = edgy(&state, n);
            size_t length = (size_t)edgy(&state, n);
            inside = (unsigned __int128)at + length <= n;
            CHECK_EQ(pnx_view_sub(&view, at, length, &sub), inside ? 0 : -ERANGE);
            if (inside)
                CHECK(sub.p == view.p + at);
            uint32_t value;
            CHECK_EQ(pnx_view_u32le(&view, at, &value),
                    (unsigned __int128)at + 4 <= n ? 0 : -ERANGE);
        }
        pnx_mapping_release(&mapping);
    }
}
