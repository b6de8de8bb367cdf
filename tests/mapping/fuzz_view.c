/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs bytes as arguments of views, of records, of layouts, and of loads and stores, and compares what comes of them with
 * arithmetic of 128 bits.  Built for libFuzzer by the preset "fuzz"; test_fuzz_view.c replays the corpus in the ordinary
 * run.
 */
#include "harness/corpus.h"
#include "mapping/help.h"

#include <fcntl.h>
#include <patinox/fault.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);

#define BYTES 600u /* of the file, and of the mappings */
#define STEPS 64

typedef unsigned __int128 wide;

struct input {
    const uint8_t *p;
    size_t n;
};

static uint64_t take(struct input *input, unsigned bytes) {
    uint64_t value = 0;
    for (; bytes && input->n; bytes--, input->n--)
        value = value << 8 | *input->p++;
    return value;
}

/* A number near 0, near size, near a power of two, or any. */
static uint64_t number(struct input *input, uint64_t size) {
    uint64_t kind = take(input, 1), near = kind / 5 % 16 - 8;
    switch (kind % 5) {
    case 0:
        return near;
    case 1:
        return size + near;
    case 2:
        return (UINT64_C(1) << take(input, 1) % 64) + near;
    case 3:
        return take(input, 8);
    default:
        return take(input, 2) % (size + 1);
    }
}

static bool inside(uint64_t offset, uint64_t n, uint64_t size) {
    return (wide)offset + n <= size;
}

static bool power_of_two(uint64_t n) {
    return n && (n & (n - 1)) == 0;
}

/* ---- views ---- */

/* What each kind of bytes is tried on; shown is what it must hold. */
struct target {
    struct pnx_mapping *mapping;
    struct pnx_view view;
    unsigned char *shown; /* BYTES bytes */
    bool writable;
};

static void try_view(struct input *input, const struct target *on) {
    uint64_t offset = number(input, BYTES);
    size_t n = (size_t)number(input, BYTES);
    struct pnx_view sub = {.n = 77}, got = {.n = 77};
    bool in = inside(offset, n, BYTES);
    CHECK_EQ(pnx_view_holds(&on->view, offset, n), in);
    CHECK_EQ(pnx_view_sub(&on->view, offset, n, &sub), in ? 0 : -ERANGE);
    CHECK_EQ(pnx_view_get(on->mapping, offset, n, &got), in ? 0 : -ERANGE);
    CHECK_EQ(sub.n, in ? n : 77);
    CHECK_EQ(got.n, in ? n : 77);
    if (!in)
        return;
    CHECK(sub.p == on->view.p + offset && got.p == sub.p);
    /* And a view of the view. */
    uint64_t further = number(input, n);
    size_t part = (size_t)number(input, n);
    struct pnx_view inner = {.n = 77};
    CHECK_EQ(pnx_view_sub(&got, further, part, &inner), inside(further, part, n) ? 0 : -ERANGE);
    CHECK(inner.n == 77 || inner.p == got.p + further);
    pnx_view_release(&got);
}

static void try_pointer(struct input *input, const struct target *on) {
    uint64_t offset = number(input, BYTES);
    size_t n = (size_t)number(input, BYTES);
    uint64_t kind = take(input, 1);
    size_t align = kind & 1 ? (size_t)number(input, 64) : (size_t)1 << kind / 2 % 7;
    bool in = inside(offset, n, BYTES);
    bool even = align && ((wide)(uintptr_t)on->view.p + offset) % align == 0;
    int why = !power_of_two(align) ? -EINVAL : !in ? -ERANGE : !even ? PNX_E_FORMAT : 0;
    CHECK_EQ(pnx_view_check(&on->view, offset, n, align), why);
    CHECK_EQ(pnx_view_check_mut(&on->view, offset, n, align), why            ? why
                                                              : on->writable ? 0
                                                                             : -EACCES);
    if (why == -EINVAL)
        return; /* what pnx_view_at() does is not said then */
    const unsigned char *at = pnx_view_at(&on->view, offset, n, align);
    CHECK(why ? !at : at == on->view.p + offset);
    const unsigned char *to = pnx_view_at_mut(&on->view, offset, n, align);
    CHECK(why || !on->writable ? !to : to == at);
}

/* ---- numbers ---- */

static uint64_t expected(const unsigned char *p, unsigned bytes, bool big) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << 8 * (big ? bytes - 1 - i : i);
    return value;
}

#define LOAD(bits, order) \
    { \
        uint##bits##_t got = (uint##bits##_t)0x55; \
        rc = pnx_view_u##bits##order(&on->view, offset, &got); \
        value = got; \
        break; \
    }
static void try_load(struct input *input, const struct target *on) {
    uint64_t offset = number(input, BYTES), value = 0x55;
    unsigned which = (unsigned)take(input, 1) % 7, bytes = 1u << (which + 1) / 2;
    int rc = 1;
    switch (which) {
    case 0:
        LOAD(8, )
    case 1:
        LOAD(16, le)
    case 2:
        LOAD(16, be)
    case 3:
        LOAD(32, le)
    case 4:
        LOAD(32, be)
    case 5:
        LOAD(64, le)
    default:
        LOAD(64, be)
    }
    bool big = which && which % 2 == 0, in = inside(offset, bytes, BYTES);
    CHECK_EQ(rc, in ? 0 : -ERANGE);
    CHECK(value == (in ? expected(on->shown + offset, bytes, big) : 0x55));
}

#define STORE(bits, order) \
    rc = pnx_view_put_u##bits##order(&on->view, offset, (uint##bits##_t)value); \
    break
static void try_store(struct input *input, const struct target *on) {
    uint64_t offset = number(input, BYTES), value = take(input, 8);
    unsigned which = (unsigned)take(input, 1) % 7, bytes = 1u << (which + 1) / 2;
    int rc = 1;
    switch (which) {
    case 0:
        STORE(8, );
    case 1:
        STORE(16, le);
    case 2:
        STORE(16, be);
    case 3:
        STORE(32, le);
    case 4:
        STORE(32, be);
    case 5:
        STORE(64, le);
    default:
        STORE(64, be);
    }
    bool big = which && which % 2 == 0, in = inside(offset, bytes, BYTES);
    CHECK_EQ(rc, !in ? -ERANGE : !on->writable ? -EACCES : 0);
    for (unsigned i = 0; rc == 0 && i < bytes; i++)
        on->shown[offset + i] = (unsigned char)(value >> 8 * (big ? bytes - 1 - i : i));
    CHECK(memcmp(on->view.p, on->shown, BYTES) == 0);
}

/* ---- copies ---- */

static void try_copy(struct input *input, const struct target *on) {
    unsigned char bytes[BYTES];
    uint64_t offset = number(input, BYTES);
    size_t n = (size_t)number(input, BYTES);
    uint64_t which = take(input, 1) % 3;
    bool in = inside(offset, n, BYTES);
    if (which == 2) {
        memset(bytes, (int)take(input, 1), BYTES);
        int rc = pnx_fault_copy_in(on->mapping, offset, bytes, n);
        CHECK_EQ(rc, !in ? -ERANGE : !on->writable ? -EACCES : 0);
        if (rc == 0)
            memcpy(on->shown + offset, bytes, n);
        CHECK(memcmp(on->view.p, on->shown, BYTES) == 0);
        return;
    }
    int rc = which ? pnx_fault_copy_out(on->mapping, offset, bytes, n)
                   : pnx_mapping_copy_out(on->mapping, offset, bytes, n);
    CHECK_EQ(rc, in ? 0 : -ERANGE);
    CHECK(!in || memcmp(bytes, on->shown + offset, n) == 0);
}

/* ---- records ---- */

static void try_records(struct input *input, const struct target *on) {
    uint64_t offset = number(input, BYTES);
    size_t size = (size_t)number(input, 64), count = (size_t)number(input, BYTES / 8);
    uint64_t kind = take(input, 1);
    size_t align = kind & 1 ? (size_t)number(input, 64) : (size_t)1 << kind / 2 % 7;
    struct pnx_records records = {.n = 77};
    int rc = pnx_records_get(&on->view, offset, count, size, align, &records);
    bool sane = size && power_of_two(align) && size % align == 0, all = count == PNX_RECORDS_ALL;
    bool in = (wide)offset + (all ? 0 : (wide)count * size) <= BYTES;
    bool even = align && ((wide)(uintptr_t)on->view.p + offset) % align == 0;
    CHECK_EQ(rc, !sane ? -EINVAL : !in ? -ERANGE : !even ? PNX_E_FORMAT : 0);
    if (rc) {
        CHECK_EQ(records.n, 77);
        return;
    }
    CHECK_EQ(records.n, all ? (BYTES - offset) / size : count);
    size_t index = (size_t)number(input, records.n);
    bool there = index < records.n;
    const unsigned char *at = pnx_records_at(&records, index);
    CHECK(there ? at == on->view.p + offset + index * size : !at);
    CHECK(!there || (size_t)(at - on->view.p) + size <= BYTES);
    size_t other = (size_t)number(input, size);
    CHECK(pnx_records_at_(&records, index, other) == (there && other == size ? at : NULL));
    CHECK(pnx_records_at_mut_(&records, index, size) == (there && on->writable ? at : NULL));
}

/* ---- layouts ---- */

static bool word_at(const unsigned char *p, uint64_t n, uint64_t offset, uint32_t *ret_value) {
    if (!inside(offset, sizeof(*ret_value), n))
        return false;
    memcpy(ret_value, p + offset, sizeof(*ret_value));
    return true;
}

static int expected_layout(
        const struct pnx_layout *l, const unsigned char *p, uint64_t offset, uint64_t n) {
    uint32_t word;
    if (l->magic_size && (!inside(l->magic_offset, l->magic_size, n) ||
                                 memcmp(p + l->magic_offset, l->magic, l->magic_size) != 0))
        return PNX_E_FORMAT;
    if (l->marker && (!word_at(p, n, l->marker_offset, &word) || word != l->marker))
        return PNX_E_FORMAT;
    if (l->version_max && (!word_at(p, n, l->version_offset, &word) || word < l->version_min ||
                                  word > l->version_max))
        return PNX_E_FORMAT;
    if (l->header_size > n)
        return PNX_E_FORMAT;
    if (l->record_size && !(l->flags & PNX_LAYOUT_PARTIAL) && (n - l->header_size) % l->record_size)
        return PNX_E_FORMAT;
    return l->record_align && ((wide)offset + l->header_size) % l->record_align ? PNX_E_FORMAT : 0;
}

static void choose_layout(struct input *input, const unsigned char *file, const unsigned char *p,
        uint64_t n, struct pnx_layout *l) {
    uint64_t which = take(input, 1);
    if (which & 1) { /* a magic that is there, or nearly */
        uint64_t from = take(input, 2) % BYTES;
        l->magic = file + from;
        l->magic_size = take(input, 1) % (BYTES - from);
        l->magic_offset = number(input, from);
    }
    if (which & 2) {
        l->marker_offset = number(input, n);
        if (!(which & 64) || !word_at(p, n, l->marker_offset, &l->marker))
            l->marker = (uint32_t)take(input, 4);
        if (which & 128)
            l->marker = __builtin_bswap32(l->marker);
    }
    if (which & 4) {
        uint32_t word = 0;
        l->version_offset = number(input, n);
        (void)word_at(p, n, l->version_offset, &word);
        l->version_min = word - (uint32_t)number(input, 4);
        l->version_max = word + (uint32_t)number(input, 4);
    }
    if (which & 8)
        l->header_size = number(input, n);
    if (which & 16)
        l->record_size = (size_t)number(input, n);
    if (which & 32)
        l->record_align = (size_t)number(input, 64);
    l->flags = (uint32_t)take(input, 1) % 3;
}

/* Opens a part of the file with a layout. */
static void try_layout(struct input *input, int fd, const unsigned char *file) {
    struct pnx_layout l = *PNX_LAYOUT(0);
    struct pnx_mapping_opts opts = *PNX_MAPPING_OPTS(.layout = &l, .registry = pnx_registry_off(),
            .stats = pnx_stats_off(), .budget = pnx_budget_off());
    struct pnx_mapping *mapping = NULL;
    uint64_t where = take(input, 1);
    opts.offset = where & 1 ? number(input, BYTES) : 0;
    opts.length = where & 2 ? number(input, BYTES) : 0;
    opts.small_max = where & 4 ? 1 : 0;
    bool in = inside(opts.offset, opts.length, BYTES);
    uint64_t n = !in ? 0 : opts.length ? opts.length : BYTES - opts.offset;
    choose_layout(input, file, in ? file + opts.offset : file, in ? n : BYTES, &l);
    bool sane = (l.record_align & (l.record_align - 1)) == 0 && l.record_align <= 64 &&
                l.version_min <= l.version_max && l.flags <= PNX_LAYOUT_PARTIAL &&
                opts.offset <= INT64_MAX && opts.length <= INT64_MAX;
    struct pnx_error err = {0};
    int rc = pnx_mapping_open_fd(fd, &opts, &err, &mapping);
    int want = !sane ? -EINVAL
               : !in ? -ERANGE
                     : expected_layout(&l, file + opts.offset, opts.offset, n);
    CHECK_MSG(rc == want, "%s, expected %s: %s", pnx_errname(rc), pnx_errname(want), err.message);
    CHECK(rc == 0 || err.message[0]);
    CHECK((rc == 0) == (mapping != NULL));
    pnx_mapping_release(&mapping);
}

/* ---- the whole ---- */

static struct target open_target(uint64_t kind, const char *path, const unsigned char *file) {
    struct target on = {.shown = malloc(BYTES), .writable = kind % 3 != 0};
    struct pnx_mapping_opts opts = *PNX_MAPPING_OPTS(.mode = (uint32_t)(kind % 3),
            .flags = kind & 8 ? PNX_MAPPING_RESIZABLE : 0, .small_max = kind & 16 ? 1 : 0);
    CHECK(on.shown);
    memcpy(on.shown, file, BYTES);
    CHECK_EQ(pnx_mapping_open(path, &opts, NULL, &on.mapping), 0);
    CHECK_EQ(pnx_view_get(on.mapping, 0, BYTES, &on.view), 0);
    return on;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    test_fail_aborts();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct input input = {.p = data, .n = n};
    unsigned char file[BYTES];
    const char *path = make_file("arguments", BYTES), *other = make_file("formatted", BYTES);
    for (unsigned i = 0; i < BYTES; i++)
        file[i] = byte_at(i);
    int fd = open(other, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    struct target on = open_target(take(&input, 1), path, file);
    for (int i = 0; i < STEPS && input.n; i++) {
        switch (take(&input, 1) % 7) {
        case 0:
            try_view(&input, &on);
            break;
        case 1:
            try_pointer(&input, &on);
            break;
        case 2:
            try_load(&input, &on);
            break;
        case 3:
            try_store(&input, &on);
            break;
        case 4:
            try_copy(&input, &on);
            break;
        case 5:
            try_records(&input, &on);
            break;
        default:
            try_layout(&input, fd, file);
        }
    }
    pnx_view_release(&on.view);
    pnx_mapping_release(&on.mapping);
    free(on.shown);
    close(fd);
    return 0;
}
