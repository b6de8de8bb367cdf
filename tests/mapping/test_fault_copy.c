/* SPDX-License-Identifier: Apache-2.0 */
/* Fault-safe copies, loads, stores and probes, with a handler and without one. */
#include "fault_case.h"

/* Does all it does twice: handled by the signal handler, and by the system where that is refused. */
static void in_both_modes(void (*test)(void)) {
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), 0);
    test();
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_REFUSED), 0);
    CHECK_EQ(pnx_fault_check(), -ENOTSUP);
    test();
    CHECK_EQ(pnx_fault_uninstall(PNX_NEVER), 0);
}

#define MOST  700
#define LARGE 4096 /* from here on there may be another way of copying */

static void copy_and_compare(struct pnx_mapping *mapping, size_t n, size_t skew) {
    static unsigned char got[3 * LARGE + 80];
    uint64_t offset = PAGE - 300 + skew;
    size_t to = 20 + skew % 5;
    memset(got, 0xee, sizeof(got));
    CHECK_EQ(pnx_fault_copy_out(mapping, offset, got + to, n), 0);
    for (size_t i = 0; i < sizeof(got); i++) {
        size_t at = i - to;
        CHECK_EQ(got[i], at < n ? byte_at(offset + at) : 0xee);
    }
}

static void every_size(void) {
    struct pnx_mapping *mapping = map_pages("s", 4);
    static const size_t large[] = {
            LARGE - 1, LARGE, LARGE + 1, LARGE + 127, 2 * LARGE - 1, 3 * LARGE};
    unsigned char got[1];
    for (size_t n = 0; n <= MOST; n += n < 300 ? 1 : 37) {
        for (size_t skew = 0; skew < 17; skew += 3)
            copy_and_compare(mapping, n, skew);
    }
    for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++) {
        for (size_t skew = 0; skew < 70; skew++)
            copy_and_compare(mapping, large[i], skew);
    }
    CHECK_EQ(pnx_fault_copy_out(mapping, 4 * PAGE, got, 0), 0);
    CHECK_EQ(pnx_fault_copy_out(mapping, 4 * PAGE, NULL, 0), 0);
    CHECK_EQ(pnx_fault_copy_out(mapping, 4 * PAGE, got, 1), -ERANGE);
    CHECK_EQ(pnx_fault_copy_out(mapping, 4 * PAGE + 1, got, 0), -ERANGE);
    CHECK_EQ(pnx_fault_copy_out(mapping, UINT64_MAX, got, 2), -ERANGE);
    CHECK_EQ(pnx_fault_copy_out(mapping, 1, got, SIZE_MAX), -ERANGE);
    CHECK_EQ(pnx_fault_copy_out(NULL, 0, got, 1), -EINVAL);
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, NULL, 1), -EINVAL);
    CHECK_EQ(pnx_fault_copy_in(mapping, 0, got, 1), -EACCES);
    CHECK_EQ(pnx_fault_store_u32(mapping, 0, 1), -EACCES);
    CHECK_EQ(pnx_fault_load_u32(mapping, 0, NULL), -EINVAL);
    pnx_mapping_close(mapping);
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, got, 1), -ESHUTDOWN);
    pnx_mapping_release(&mapping);
}

TEST(copies_of_every_size_and_place_are_right_and_touch_nothing_else) {
    in_both_modes(every_size);
}

static void fails_and_poisons_nothing(void) {
    struct pnx_mapping *mapping = map_pages("p", 4);
    struct pnx_fault_scope scope;
    unsigned char *got = malloc(4 * PAGE);
    uint64_t word = 42;
    CHECK(got);
    bool handled = pnx_fault_check() == 0;
    if (handled)
        CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    cut("p", 2 * PAGE);
    /* The end of a copy is where the loss is: in each of the pieces that it is made of. */
    for (size_t n = 1; n <= 300; n++) {
        CHECK_EQ(pnx_fault_copy_out(mapping, 2 * PAGE - (n - 1), got, n), -ESTALE);
        CHECK_EQ(pnx_fault_copy_out(mapping, 2 * PAGE - n, got, n), 0);
    }
    for (size_t n = PAGE - 2; n <= PAGE + 130; n++) {
        CHECK_EQ(pnx_fault_copy_out(mapping, 2 * PAGE - (n - 1), got + n % 67, n), -ESTALE);
        CHECK_EQ(pnx_fault_copy_out(mapping, 2 * PAGE - n, got + n % 67, n), 0);
    }
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, got, 4 * PAGE), -ESTALE);
    CHECK_EQ(pnx_fault_load_u64(mapping, 2 * PAGE, &word), -ESTALE);
    CHECK_EQ(pnx_fault_load_u64(mapping, 2 * PAGE - 4, &word), -ESTALE);
    CHECK_EQ(word, 42);
    CHECK_EQ(pnx_fault_probe(mapping, 2 * PAGE, 1), -ESTALE);
    CHECK_EQ(pnx_fault_probe(mapping, 0, 4 * PAGE), -ESTALE);
    CHECK_EQ(pnx_fault_probe(mapping, 1, 2 * PAGE - 1), 0);
    CHECK_EQ(pnx_fault_probe(mapping, 4 * PAGE, 0), 0);
    CHECK_EQ(pnx_fault_probe(mapping, 4 * PAGE, 1), -ERANGE);
    CHECK_EQ(pnx_fault_probe(NULL, 0, 1), -EINVAL);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    make_file("p", 4 * PAGE); /* the same bytes are there again */
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, got, 4 * PAGE), 0);
    for (size_t i = 0; i < 4 * PAGE; i++)
        CHECK_EQ(got[i], byte_at(i));
    CHECK_EQ(pnx_fault_load_u64(mapping, 3 * PAGE, &word), 0);
    CHECK(memcmp(&word, got + 3 * PAGE, 8) == 0);
    CHECK_EQ(pnx_fault_probe(mapping, 0, 4 * PAGE), 0);
    if (handled)
        CHECK_EQ(pnx_fault_end(&scope), 0);
    pnx_mapping_release(&mapping);
    free(got);
}

TEST(p6_a_copy_from_lost_pages_is_an_error_and_poisons_nothing) {
    in_both_modes(fails_and_poisons_nothing);
}

static void words(void) {
    struct hand hand;
    make_file("w", 2 * PAGE);
    int fd = open_rw("w");
    hand_map(&hand, fd, 2 * PAGE, PNX_FAULT_WRITABLE);
    struct pnx_mapping *mapping = &hand.mapping;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    for (uint64_t at = 0; at < 17; at++) {
        unsigned char raw[8];
        CHECK_EQ(pnx_fault_store_u64(mapping, at, UINT64_C(0x0123456789abcdef) + at), 0);
        CHECK_EQ(pnx_fault_load_u64(mapping, at, &u64), 0);
        CHECK(u64 == UINT64_C(0x0123456789abcdef) + at);
        CHECK_EQ(pread(fd, raw, 8, (off_t)at), 8);
        CHECK(memcmp(raw, &u64, 8) == 0);
        CHECK_EQ(pnx_fault_store_u32(mapping, at, 0xfedcba98u), 0);
        CHECK_EQ(pnx_fault_load_u32(mapping, at, &u32), 0);
        CHECK_EQ(u32, 0xfedcba98u);
        CHECK_EQ(pnx_fault_store_u16(mapping, at, 0xbeef), 0);
        CHECK_EQ(pnx_fault_load_u16(mapping, at, &u16), 0);
        CHECK_EQ(u16, 0xbeef);
        CHECK_EQ(pnx_fault_store_u8(mapping, at, 0x5a), 0);
        CHECK_EQ(pnx_fault_load_u8(mapping, at, &u8), 0);
        CHECK_EQ(u8, 0x5a);
    }
    unsigned char bytes[500], back[500];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)(i * 7 + 1);
    CHECK_EQ(pnx_fault_copy_in(mapping, PAGE - 250, bytes, sizeof(bytes)), 0);
    CHECK_EQ(pread(fd, back, sizeof(back), (off_t)PAGE - 250), (ssize_t)sizeof(back));
    CHECK(memcmp(bytes, back, sizeof(bytes)) == 0);
    cut("w", PAGE);
    CHECK_EQ(pnx_fault_copy_in(mapping, PAGE - 250, bytes, sizeof(bytes)), -ESTALE);
    CHECK_EQ(pnx_fault_store_u8(mapping, PAGE, 1), -ESTALE);
    CHECK_EQ(pnx_fault_store_u16(mapping, PAGE, 1), -ESTALE);
    CHECK_EQ(pnx_fault_store_u32(mapping, PAGE, 1), -ESTALE);
    CHECK_EQ(pnx_fault_store_u64(mapping, PAGE, 1), -ESTALE);
    CHECK_EQ(pnx_fault_load_u8(mapping, PAGE, &u8), -ESTALE);
    CHECK_EQ(pnx_fault_load_u16(mapping, PAGE, &u16), -ESTALE);
    CHECK_EQ(pnx_fault_load_u32(mapping, PAGE, &u32), -ESTALE);
    CHECK_EQ(pnx_fault_store_u8(mapping, PAGE - 1, 1), 0);
    struct pnx_file_info info;
    CHECK_EQ(pnx__os_fstat(fd, &info), 0);
    CHECK_EQ(info.size, PAGE); /* no copy makes a file grow */
    hand_end(&hand);
    close(fd);
}

TEST(p6_words_and_stores_go_into_the_file_or_are_errors) {
    in_both_modes(words);
}

/* Stores a few bytes, and finds them by a copy and by a load. */
static void stores_and_finds(struct pnx_mapping *mapping, uint64_t offset) {
    const unsigned char bytes[4] = {0xde, 0xad, 0xbe, 0xef};
    unsigned char got[4];
    uint32_t word = 0;
    CHECK_EQ(pnx_fault_copy_in(mapping, offset, bytes, 4), 0);
    CHECK_EQ(pnx_fault_copy_out(mapping, offset, got, 4), 0);
    CHECK(memcmp(got, bytes, 4) == 0);
    CHECK_EQ(pnx_fault_store_u32(mapping, offset + 4, 77), 0);
    CHECK_EQ(pnx_fault_load_u32(mapping, offset + 4, &word), 0);
    CHECK_EQ(word, 77);
}

static void refuses_stores(struct pnx_mapping *mapping) {
    uint32_t word;
    CHECK_EQ(pnx_fault_copy_in(mapping, 0, "abcd", 4), -EACCES);
    CHECK_EQ(pnx_fault_store_u8(mapping, 0, 1), -EACCES);
    CHECK_EQ(pnx_fault_load_u32(mapping, 0, &word), 0);
}

static void backings(void) {
    static const uint32_t modes[] = {PNX_MAPPING_READ, PNX_MAPPING_WRITE, PNX_MAPPING_PRIVATE};
    struct pnx_mapping *mapping = NULL;
    unsigned char byte = 0;
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned small = 0; small < 2; small++) {
            const char *path = make_file("b", small ? 100 : 3 * PAGE);
            CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.mode = modes[i], .small_max = 200),
                             NULL, &mapping),
                    0);
            if (modes[i] == PNX_MAPPING_READ)
                refuses_stores(mapping);
            else
                stores_and_finds(mapping, 51);
            pnx_mapping_release(&mapping);
        }
    }
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 100), NULL, &mapping), 0);
    stores_and_finds(mapping, 3);
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open_memfd(PNX_MAPPING_OPTS(.length = 100), NULL, &mapping), 0);
    stores_and_finds(mapping, 3);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, NULL), 0);
    refuses_stores(mapping);
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open(make_file("b", 3 * PAGE),
                     PNX_MAPPING_OPTS(.small_max = 1, .flags = PNX_MAPPING_NO_DESCRIPTOR), NULL,
                     &mapping),
            0);
    refuses_stores(mapping);
    CHECK_EQ(pnx_fault_copy_out(mapping, PAGE + 1, &byte, 1), 0);
    CHECK_EQ(byte, byte_at(PAGE + 1));
    cut("b", PAGE);
    CHECK_EQ(pnx_fault_copy_out(mapping, PAGE + 1, &byte, 1), -EIO); /* nobody can say why */
    pnx_mapping_release(&mapping);
}

TEST(p6_stores_reach_each_backing_that_can_be_written_and_no_other) {
    in_both_modes(backings);
}

TEST(a_copy_whose_other_side_faults_poisons_the_mapping_of_that_side) {
    struct pnx_mapping *from = map_pages("from", 2);
    struct hand to;
    struct pnx_fault_scope scope;
    make_file("to", 2 * PAGE);
    int fd = open_rw("to");
    hand_map(&to, fd, 2 * PAGE, PNX_FAULT_WRITABLE);
    CHECK_EQ(pnx_fault_begin(&to.mapping, &scope), 0);
    cut("to", 0);
    CHECK_EQ(pnx_fault_copy_out(from, 0, (void *)(uintptr_t)hand_at(&to, 100), PAGE), 0);
    CHECK_EQ(pnx_fault_state(from, NULL), 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    struct pnx_fault_stats stats = fault_stats();
    CHECK_EQ(stats.truncated, 1);
    CHECK_EQ(stats.copies, 0);
    hand_end(&to);
    close(fd);
    pnx_mapping_release(&from);
}

TEST(a_copy_never_returns_bytes_that_a_fault_has_replaced) {
    struct pnx_mapping *mapping = map_pages("r", 3);
    struct pnx_fault_scope scope;
    unsigned char byte;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    cut("r", PAGE);
    (void)peek(mapping, PAGE);
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, &byte, 1), -ESTALE);
    CHECK_EQ(pnx_fault_probe(mapping, 0, 1), -ESTALE);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    pnx_mapping_release(&mapping);
}

/* ---- without a handler ---- */

TEST(scopes_are_refused_where_handlers_are_but_not_on_what_cannot_fault) {
    struct sigaction before, found;
    CHECK_EQ(sigaction(SIGBUS, NULL, &before), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_REFUSED), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), -EBUSY);
    struct pnx_mapping *mapping = map_pages("n", 2), *copy = NULL;
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_mapping_open(
                     test_path("n"), PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY), NULL, &copy),
            0);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), -ENOTSUP);
    CHECK_EQ(pnx_fault_end(&scope), -ENOTSUP);
    CHECK_EQ(pnx_fault_begin(copy, &scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    CHECK_EQ(sigaction(SIGBUS, NULL, &found), 0);
    CHECK(found.sa_sigaction == before.sa_sigaction && found.sa_flags == before.sa_flags);
    struct hand sealed;
    int fd = open_rw("n");
    hand_map(&sealed, fd, 2 * PAGE, PNX_FAULT_SEALED);
    CHECK_EQ(pnx_fault_begin(&sealed.mapping, &scope), 0);
    CHECK_EQ(pnx_fault_end_checked(&scope), 0);
    hand_end(&sealed);
    close(fd);
    pnx_mapping_release(&mapping);
    pnx_mapping_release(&copy);
}

TEST(without_a_handler_the_systems_failures_are_errors) {
    if (!test_os_faults())
        test_skip("the system's calls cannot be made to fail");
    CHECK_EQ(pnx_fault_install(PNX_FAULT_REFUSED), 0);
    struct pnx_mapping *mapping = map_pages("q", 3);
    struct hand hand;
    unsigned char bytes[8] = {0};
    int fd = open_rw("q");
    hand_map(&hand, fd, 3 * PAGE, PNX_FAULT_WRITABLE);
    test_os_fault("pread", 1, true, EIO);
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, bytes, 8), -EIO);
    test_os_fault("pread", 1, true, ESTALE);
    CHECK_EQ(pnx_fault_copy_out(mapping, 0, bytes, 8), -ESTALE);
    test_os_fault("process_vm", 1, true, ENOTSUP);
    CHECK_EQ(pnx_fault_copy_in(&hand.mapping, 0, bytes, 8), -ENOTSUP);
    CHECK_EQ(pnx_fault_copy_out(&hand.mapping, 0, bytes, 8), -ENOTSUP);
    test_os_fault("process_vm", 1, true, ENOMEM);
    CHECK_EQ(pnx_fault_copy_in(&hand.mapping, 0, bytes, 8), -ENOMEM);
    /* A kernel that cannot be asked for pages: one byte of each is read. */
    test_os_fault("populate", 1, true, EINVAL);
    CHECK_EQ(pnx_fault_probe(mapping, 10, 2 * PAGE), 0);
    cut("q", 2 * PAGE);
    CHECK_EQ(pnx_fault_probe(mapping, 10, 2 * PAGE), -ESTALE);
    CHECK_EQ(pnx_fault_probe(mapping, 10, PAGE), 0);
    struct pnx_mapping *bare = NULL; /* nor is there a file to read */
    CHECK_EQ(pnx_mapping_open(test_path("q"),
                     PNX_MAPPING_OPTS(.small_max = 1, .flags = PNX_MAPPING_NO_DESCRIPTOR), NULL,
                     &bare),
            0);
    CHECK_EQ(pnx_fault_probe(bare, 10, PAGE), -ENOTSUP);
    pnx_mapping_release(&bare);
    test_os_fault("populate", 1, true, ENOMEM);
    CHECK_EQ(pnx_fault_probe(mapping, 0, 1), -ENOMEM);
    test_os_fault("populate", 1, true, EFAULT);
    CHECK_EQ(pnx_fault_probe(mapping, 0, 1), -EIO);
    test_os_fault_clear();
    hand_end(&hand);
    close(fd);
    pnx_mapping_release(&mapping);
}
