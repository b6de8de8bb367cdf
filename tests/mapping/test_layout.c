/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts: what content must look like, and the record arrays and numbers that stand on it. */
#include "mapping/help_file.h"

struct record {
    uint64_t id;
    uint32_t price;
    uint32_t volume;
};

struct header {
    char magic[8];
    uint32_t version;
    uint32_t marker;
    uint64_t count;
};

#define MARKER 0x01020304u
static const char magic[8] = "RECORDS\n";

static struct pnx_layout layout_of(void) {
    return *PNX_LAYOUT(.magic = magic, .magic_size = sizeof(magic),
            .record_size = sizeof(struct record), .record_align = _Alignof(struct record),
            .header_size = sizeof(struct header),
            .version_offset = offsetof(struct header, version), .version_min = 2, .version_max = 3,
            .marker_offset = offsetof(struct header, marker), .marker = MARKER);
}

static const char *make_records(const char *name, size_t n) {
    const char *path = test_path(name);
    size_t size = sizeof(struct header) + n * sizeof(struct record);
    unsigned char *data = calloc(1, size);
    struct header *header = (struct header *)(void *)data;
    memcpy(header->magic, magic, sizeof(magic));
    header->version = 3;
    header->marker = MARKER;
    header->count = n;
    struct record *records = (struct record *)(void *)(data + sizeof(*header));
    for (size_t i = 0; i < n; i++)
        records[i] = (struct record){.id = i, .price = (uint32_t)i * 3, .volume = 1};
    test_write_file(path, data, size);
    free(data);
    return path;
}

/* Changes bytes of the file. */
static void poke(const char *path, uint64_t offset, const void *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(pwrite(fd, data, n, (off_t)offset) == (ssize_t)n);
    close(fd);
}

static void format(const char *path, const struct pnx_layout *layout, const char *part) {
    for (uint32_t flags = 0; flags <= PNX_MAPPING_COPY; flags++) {
        struct pnx_mapping *mapping = NULL;
        struct pnx_error err = {0};
        CHECK_EQ(pnx_mapping_open(path,
                         PNX_MAPPING_OPTS(.layout = layout, .flags = flags, .small_max = 1), &err,
                         &mapping),
                PNX_E_FORMAT);
        CHECK_STR(err.phase, "layout");
        CHECK_CONTAINS(err.message, part);
        CHECK(!mapping);
    }
}

TEST(p8_content_that_is_as_the_layout_says_is_shown) {
    struct pnx_layout layout = layout_of();
    const char *path = make_records("good", 5000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.layout = &layout));
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_records records;
    CHECK_EQ(
            PNX_RECORDS_GET(&view, struct record, sizeof(struct header), PNX_RECORDS_ALL, &records),
            0);
    CHECK_EQ(records.n, 5000);
    uint64_t sum = 0;
    PNX_RECORDS_EACH(&records, struct record, record)
    sum += record->price;
    CHECK_EQ(sum, 3ull * 4999 * 5000 / 2);
    CHECK_EQ(PNX_RECORD_AT(&records, struct record, 4999)->id, 4999);
    CHECK(PNX_RECORD_AT(&records, struct record, 5000) == NULL);
    CHECK(PNX_RECORD_AT(&records, struct record, SIZE_MAX) == NULL);
    CHECK(PNX_RECORD_AT(&records, struct header, 0) == NULL); /* another size */
    CHECK(PNX_RECORD_AT_MUT(&records, struct record, 0) == NULL);
    CHECK(pnx_records_at(&records, 4999) ==
            (const void *)PNX_RECORD_AT(&records, struct record, 4999));
    CHECK(pnx_records_at(&records, 5000) == NULL);
    CHECK(PNX_RECORDS_BEGIN(&records, struct header) == PNX_RECORDS_END(&records, struct header));
    pnx_mapping_release(&mapping);
}

TEST(p8_each_thing_that_is_wrong_is_named) {
    struct pnx_layout layout = layout_of();
    const char *path = make_records("magic", 10);
    poke(path, 3, "x", 1);
    format(path, &layout, "not the magic");
    path = make_records("version", 10);
    poke(path, offsetof(struct header, version), &(uint32_t){4}, 4);
    format(path, &layout, "version 4, not 2 to 3");
    path = make_records("old", 10);
    poke(path, offsetof(struct header, version), &(uint32_t){1}, 4);
    format(path, &layout, "version 1, not 2 to 3");
    path = make_records("foreign", 10);
    poke(path, offsetof(struct header, marker), &(uint32_t){0x04030201}, 4);
    format(path, &layout, "other byte order");
    path = make_records("no-marker", 10);
    poke(path, offsetof(struct header, marker), &(uint32_t){7}, 4);
    format(path, &layout, "marker at 12 is 0x00000007");
    path = make_records("partial", 10);
    CHECK(truncate(path, (off_t)size_of(path) - 1) == 0);
    format(path, &layout, "no whole number of records");
    layout.flags = PNX_LAYOUT_PARTIAL;
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.layout = &layout));
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_records records;
    CHECK_EQ(
            PNX_RECORDS_GET(&view, struct record, sizeof(struct header), PNX_RECORDS_ALL, &records),
            0);
    CHECK_EQ(records.n, 9);
    CHECK_EQ(PNX_RECORDS_GET(&view, struct record, sizeof(struct header), 10, &records), -ERANGE);
    pnx_mapping_release(&mapping);
    path = make_records("header", 0);
    CHECK(truncate(path, 20) == 0);
    format(path, &layout, "less than the header");
    CHECK(truncate(path, 3) == 0);
    format(path, &layout, "no room for the magic");
    layout.magic_size = 0;
    CHECK(truncate(path, 10) == 0);
    format(path, &layout, "no room for the byte order's marker");
    layout.marker = 0;
    format(path, &layout, "no room for the version");
    layout.version_max = 0, layout.version_min = 0, layout.header_size = 4, layout.flags = 0;
    layout.record_size = 1;
    format(path, &layout, "not aligned to 8");
    layout.record_align = 0;
    mapping = opened(path, PNX_MAPPING_OPTS(.layout = &layout));
    pnx_mapping_release(&mapping);
    layout.magic_size = 1, layout.magic_offset = UINT64_MAX;
    format(path, &layout, "no room for the magic");
}

static int refuse(void *ctx, const struct pnx_view *view) {
    size_t *seen = ctx;
    *seen = view->n;
    uint64_t count;
    CHECK_EQ(pnx_view_u64le(view, offsetof(struct header, count), &count), 0);
    return count == (view->n - sizeof(struct header)) / sizeof(struct record) ? 0 : -EUCLEAN;
}

TEST(p8_the_users_check_sees_the_bytes_and_has_the_last_word) {
    struct pnx_layout layout = layout_of();
    size_t seen = 0;
    layout.validate = refuse;
    layout.ctx = &seen;
    const char *path = make_records("counted", 1500);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.layout = &layout, .flags = PNX_MAPPING_RESIZABLE));
    CHECK_EQ(seen, size_of(path));
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_resize(mapping, size_of(path) - 16, 0, &err), PNX_E_FORMAT);
    CHECK_EQ(err.cause, -EUCLEAN);
    CHECK_EQ(seen, size_of(path) - 16);
    CHECK_EQ(pnx_mapping_resize(mapping, size_of(path) - 1, 0, &err), PNX_E_FORMAT);
    CHECK_CONTAINS(err.message, "no whole number");
    CHECK_EQ(pnx_mapping_size(mapping), size_of(path));
    pnx_mapping_release(&mapping);
    poke(path, offsetof(struct header, count), &(uint64_t){7}, 8);
    format(path, &layout, "validate returned");
}

TEST(p8_each_resize_is_checked_before_anybody_sees_it) {
    struct pnx_layout layout = layout_of();
    const char *path = make_records("growing", 5000);
    for (int reserve = 0; reserve < 2; reserve++) {
        struct pnx_mapping *mapping = opened(
                path, PNX_MAPPING_OPTS(.layout = &layout, .mode = PNX_MAPPING_WRITE,
                              .reserve = reserve ? 1 << 20 : 0, .flags = PNX_MAPPING_RESIZABLE));
        uint64_t size = size_of(path);
        struct pnx_error err = {0};
        CHECK_EQ(pnx_mapping_resize(mapping, size + 8, 0, &err), PNX_E_FORMAT);
        CHECK_EQ(pnx_mapping_resize(mapping, size + 8 + (1 << 17), 0, &err), PNX_E_FORMAT);
        CHECK_EQ(pnx_mapping_resize(mapping, 3, PNX_RESIZE_TRUNCATE, &err), PNX_E_FORMAT);
        CHECK_EQ(pnx_mapping_resize(mapping, 0, PNX_RESIZE_TRUNCATE, &err), PNX_E_FORMAT);
        CHECK_EQ(size_of(path), size);
        CHECK_EQ(pnx_mapping_size(mapping), size);
        resized(mapping, size + 16, 0);
        resized(mapping, size, PNX_RESIZE_TRUNCATE);
        pnx_mapping_release(&mapping);
    }
}

static int count_nothing(void *ctx, const struct pnx_view *view) {
    (void)ctx;
    return pnx_view_put_u64le(view, offsetof(struct header, count), 0);
}

static int fail_init(void *ctx, const struct pnx_view *view) {
    (void)ctx;
    (void)view;
    return -ENODATA;
}

TEST(a_fresh_file_gets_magic_version_marker_and_what_init_writes) {
    struct pnx_layout layout = layout_of();
    layout.init = count_nothing;
    const char *path = test_path("fresh");
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.layout = &layout, .mode = PNX_MAPPING_WRITE,
                                 .length = sizeof(struct header),
                                 .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND));
    pnx_mapping_release(&mapping);
    mapping = opened(path, PNX_MAPPING_OPTS(.layout = &layout)); /* not written again */
    struct pnx_view view = pnx_view_all(mapping);
    const struct header *header = PNX_VIEW_AT(&view, struct header, 0);
    CHECK(memcmp(header->magic, magic, sizeof(magic)) == 0);
    CHECK_EQ(header->version, 3);
    CHECK_EQ(header->marker, MARKER);
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 4096 + 8, .layout = &layout), NULL, &mapping),
            0);
    pnx_mapping_release(&mapping);
    layout.init = fail_init;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_memfd(
                     PNX_MAPPING_OPTS(.length = 4096 + 8, .layout = &layout), &err, &mapping),
            -ENODATA);
    CHECK_EQ(err.cause, -ENODATA);
    CHECK_CONTAINS(err.message, "init");
    CHECK(!mapping);
}

TEST(a_layout_whose_own_numbers_make_no_sense_is_refused_first) {
    static const struct {
        struct pnx_layout layout;
        const char *field;
    } bad[] = {
            {{.size = sizeof(struct pnx_layout), .magic_size = 3}, "magic"},
            {{.size = sizeof(struct pnx_layout), .record_align = 3}, "record_align"},
            {{.size = sizeof(struct pnx_layout), .record_align = 128}, "record_align"},
            {{.size = sizeof(struct pnx_layout), .version_min = 2, .version_max = 1},
                    "version_min"},
            {{.size = sizeof(struct pnx_layout), .flags = 2}, "flags"},
            {{.size = 0}, "size"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refuses(test_path("not-even-looked-for"), PNX_MAPPING_OPTS(.layout = &bad[i].layout),
                -EINVAL, "options", bad[i].field);
}

/* ---- records and numbers, without a file ---- */

TEST(p1_record_arrays_are_refused_when_they_do_not_lie_inside_or_misaligned) {
    _Alignas(64) unsigned char bytes[256];
    struct pnx_view view = {.p = bytes, .n = 200, .flags = PNX_VIEW_WRITABLE_};
    struct pnx_records records = {.n = 77};
    CHECK_EQ(pnx_records_get(&view, 0, 25, 8, 8, &records), 0);
    CHECK_EQ(records.n, 25);
    records.n = 77;
    CHECK_EQ(pnx_records_get(&view, 0, 26, 8, 8, &records), -ERANGE);
    CHECK_EQ(pnx_records_get(&view, 200, 1, 8, 8, &records), -ERANGE);
    CHECK_EQ(pnx_records_get(&view, 201, PNX_RECORDS_ALL, 8, 8, &records), -ERANGE);
    CHECK_EQ(pnx_records_get(&view, UINT64_MAX, 1, 8, 8, &records), -ERANGE);
    CHECK_EQ(pnx_records_get(&view, 0, SIZE_MAX / 8 + 2, 8, 8, &records), -ERANGE); /* overflows */
    CHECK_EQ(pnx_records_get(&view, 0, SIZE_MAX - 1, 8, 8, &records), -ERANGE);
    CHECK_EQ(pnx_records_get(&view, 4, 1, 8, 8, &records), PNX_E_FORMAT);
    CHECK_EQ(pnx_records_get(&view, 0, 1, 0, 8, &records), -EINVAL);
    CHECK_EQ(pnx_records_get(&view, 0, 1, 8, 0, &records), -EINVAL);
    CHECK_EQ(pnx_records_get(&view, 0, 1, 12, 8, &records), -EINVAL);
    CHECK_EQ(pnx_records_get(&view, 0, 1, 8, 3, &records), -EINVAL);
    CHECK_EQ(records.n, 77); /* untouched */
    CHECK_EQ(pnx_records_get(&view, 200, PNX_RECORDS_ALL, 8, 8, &records), 0);
    CHECK_EQ(records.n, 0);
    CHECK_EQ(pnx_records_get(&view, 1, PNX_RECORDS_ALL, 3, 1, &records), 0);
    CHECK_EQ(records.n, 66);
    CHECK(pnx_records_at(&records, 65) == bytes + 1 + 65 * 3);
    CHECK_EQ(PNX_RECORDS_GET(&view, struct record, 8, 2, &records), 0);
    PNX_RECORD_AT_MUT(&records, struct record, 1)->id = 5;
    CHECK_EQ(PNX_RECORD_AT(&records, struct record, 1)->id, 5);
}

#define ROUND_TRIP(bits, order) \
    do { \
        uint##bits##_t want = (uint##bits##_t)test_random(&state), got = 0; \
        uint64_t at_ = test_random(&state) % (sizeof(bytes) - (bits) / 8 + 1); \
        CHECK_EQ(pnx_view_put_u##bits##order(&view, at_, want), 0); \
        CHECK_EQ(pnx_view_u##bits##order(&view, at_, &got), 0); \
        CHECK(got == want); \
        uint64_t exact = 0; \
        for (unsigned b = 0; b < (bits) / 8; b++) \
            exact = exact << 8 | bytes[at_ + (#order[0] == 'b' ? b : (bits) / 8 - 1 - b)]; \
        CHECK(exact == want); \
        pnx_u##bits##order##_store(bytes + at_, (uint##bits##_t)(want + 1)); \
        CHECK(pnx_u##bits##order##_load(bytes + at_) == (uint##bits##_t)(want + 1)); \
        CHECK_EQ(pnx_view_put_u##bits##order(&view, sizeof(bytes) - (bits) / 8 + 1, want), \
                -ERANGE); \
        CHECK_EQ(pnx_view_put_u##bits##order(&view, UINT64_MAX, want), -ERANGE); \
        CHECK_EQ(pnx_view_put_u##bits##order(&constant, 0, want), -EACCES); \
    } while (0)

TEST(numbers_are_stored_in_the_byte_order_that_is_named_at_any_alignment) {
    unsigned char bytes[37] = {0};
    struct pnx_view view = {.p = bytes, .n = sizeof(bytes), .flags = PNX_VIEW_WRITABLE_};
    struct pnx_view constant = {.p = bytes, .n = sizeof(bytes)};
    uint64_t state = test_seed();
    for (unsigned i = 0; i < 2000; i++) {
        ROUND_TRIP(16, le);
        ROUND_TRIP(16, be);
        ROUND_TRIP(32, le);
        ROUND_TRIP(32, be);
        ROUND_TRIP(64, le);
        ROUND_TRIP(64, be);
    }
    CHECK_EQ(pnx_view_put_u8(&view, 36, 9), 0);
    CHECK_EQ(bytes[36], 9);
    CHECK_EQ(pnx_view_put_u8(&view, 37, 9), -ERANGE);
    CHECK_EQ(pnx_view_put_u8(&constant, 0, 9), -EACCES);
    CHECK(pnx_view_at_mut(&constant, 0, 1, 1) == NULL);
    CHECK(PNX_VIEW_AT_MUT(&view, unsigned char, 36) == bytes + 36);
}

/* What programs have compiled in: a change here needs another major version of the library. */
TEST(the_layout_of_views_and_records_is_frozen) {
    CHECK_EQ(offsetof(struct pnx_view, p), 0);
    CHECK_EQ(offsetof(struct pnx_view, n), sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_view, mapping), 2 * sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_view, epoch), 3 * sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_view, flags), 3 * sizeof(void *) + 4);
    CHECK_EQ(sizeof(struct pnx_view), 3 * sizeof(void *) + 8);
    CHECK_EQ(offsetof(struct pnx_records, n), sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_records, stride), 2 * sizeof(void *));
    CHECK_EQ(offsetof(struct pnx_records, flags), 3 * sizeof(void *));
    CHECK_EQ(sizeof(struct pnx_records), 3 * sizeof(void *) + 8);
    CHECK_EQ(PNX_VIEW_WRITABLE_, 1);
    CHECK_EQ(PNX_VIEW_COUNTED_, 2);
}
