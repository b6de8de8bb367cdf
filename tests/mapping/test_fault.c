/* SPDX-License-Identifier: Apache-2.0 */
/* Scopes and faults in one thread: what they return, and what is left of the mapping. */
#include "fault_case.h"

#include <sys/stat.h>

TEST(p1_a_load_behind_the_end_ends_the_scope_with_an_error_and_reads_zero) {
    struct pnx_mapping *mapping = map_pages("a", 8);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(peek(mapping, 5 * PAGE + 7), byte_at(5 * PAGE + 7));
    CHECK_EQ(pnx_fault_end(&scope), 0);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    cut("a", 3 * PAGE + 100);
    errno = 4711;
    CHECK_EQ(peek(mapping, 5 * PAGE + 7), 0);
    CHECK_EQ(errno, 4711);
    CHECK_EQ(peek(mapping, 7 * PAGE), 0);
    CHECK_EQ(peek(mapping, 3 * PAGE + 50), byte_at(3 * PAGE + 50));
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    uint64_t lost = 0;
    CHECK_EQ(pnx_fault_state(mapping, &lost), -ESTALE);
    CHECK_EQ(lost, 5 * PAGE);
    struct pnx_fault_stats stats = fault_stats();
    CHECK_EQ(stats.truncated, 1); /* one signal for all the pages behind */
    CHECK_EQ(stats.foreign + stats.outside + stats.helpless + stats.io_errors, 0);
    CHECK_EQ(stats.mappings, 1);
    pnx_mapping_release(&mapping);
    CHECK_EQ(fault_stats().mappings, 0);
}

TEST(p1_a_store_behind_the_end_is_lost_and_ends_the_scope_with_an_error) {
    struct hand hand;
    struct pnx_fault_scope scope;
    make_file("w", 4 * PAGE);
    int fd = open_rw("w");
    hand_map(&hand, fd, 4 * PAGE, PNX_FAULT_WRITABLE);
    CHECK_EQ(pnx_fault_begin(&hand.mapping, &scope), 0);
    *hand_at(&hand, 100) = 1;
    CHECK_EQ(pnx_fault_end(&scope), 0);
    CHECK_EQ(pnx_fault_begin(&hand.mapping, &scope), 0);
    cut("w", PAGE);
    *hand_at(&hand, 2 * PAGE) = 77;
    CHECK_EQ(*hand_at(&hand, 2 * PAGE), 77);
    CHECK_EQ(*hand_at(&hand, 3 * PAGE), 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    hand_end(&hand);
    struct pnx_file_info info;
    CHECK_EQ(pnx__os_fstat(fd, &info), 0);
    CHECK_EQ(info.size, PAGE); /* nothing has made it grow */
    close(fd);
}

TEST(p1_a_mapping_that_begins_inside_a_page_of_its_file_is_handled_from_that_page_on) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_fault_scope scope;
    uint64_t lost = 0;
    make_file("o", 8 * PAGE);
    CHECK_EQ(pnx_mapping_open(test_path("o"),
                     PNX_MAPPING_OPTS(.small_max = 1, .offset = 3 * PAGE + 100), NULL, &mapping),
            0);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(peek(mapping, 0), byte_at(3 * PAGE + 100));
    cut("o", 5 * PAGE);
    CHECK_EQ(peek(mapping, 2 * PAGE - 101), byte_at(5 * PAGE - 1));
    CHECK_EQ(peek(mapping, 2 * PAGE - 100), 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    CHECK_EQ(pnx_fault_state(mapping, &lost), -ESTALE);
    CHECK_EQ(lost, 2 * PAGE - 100);
    pnx_mapping_release(&mapping);
}

TEST(p2_scopes_begun_after_a_fault_fail_at_once_until_the_file_is_mapped_again) {
    struct pnx_mapping *mapping = map_pages("b", 4);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    cut("b", 0);
    (void)peek(mapping, 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    make_file("b", 4 * PAGE); /* whole again, which makes no difference */
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pnx_fault_begin(mapping, &scope), -ESTALE);
        CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
        CHECK_EQ(pnx_fault_end_checked(&scope), -ESTALE);
        pnx_fault_leave(&scope);
    }
    pnx_mapping_release(&mapping);
    mapping = map_path(test_path("b"));
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(peek(mapping, 3 * PAGE), byte_at(3 * PAGE));
    CHECK_EQ(pnx_fault_end(&scope), 0);
    pnx_mapping_release(&mapping);
}

TEST(p2_nested_scopes_on_one_mapping_fail_all_and_p3_those_on_others_do_not) {
    struct pnx_mapping *lost = map_pages("lost", 4), *fine = map_pages("fine", 4);
    struct pnx_fault_scope outer, other, inner;
    CHECK_EQ(pnx_fault_begin(lost, &outer), 0);
    CHECK_EQ(pnx_fault_begin(fine, &other), 0);
    CHECK_EQ(pnx_fault_begin(lost, &inner), 0);
    cut("lost", PAGE);
    CHECK_EQ(peek(lost, 2 * PAGE), 0);
    CHECK_EQ(peek(fine, 2 * PAGE), byte_at(2 * PAGE));
    CHECK_EQ(pnx_fault_end(&inner), -ESTALE);
    CHECK_EQ(pnx_fault_end(&other), 0);
    CHECK_EQ(pnx_fault_end(&outer), -ESTALE);
    CHECK_EQ(pnx_fault_begin(fine, &other), 0);
    CHECK_EQ(pnx_fault_end_checked(&other), 0);
    pnx_mapping_release(&lost);
    pnx_mapping_release(&fine);
}

TEST(scopes_end_in_any_order) {
    enum { N = 5 };
    struct pnx_mapping *mappings[N];
    for (int i = 0; i < N; i++) {
        char name[8];
        snprintf(name, sizeof(name), "m%d", i);
        mappings[i] = map_pages(name, 2);
    }
    static const int order[N] = {2, 0, 4, 1, 3};
    struct pnx_fault_scope scopes[N];
    for (int i = 0; i < N; i++)
        CHECK_EQ(pnx_fault_begin(mappings[i], &scopes[i]), 0);
    cut("m1", 0);
    for (int i = 0; i < N; i++) {
        /* The scope that is open in the middle is found as long as it is. */
        if (i == 2)
            CHECK_EQ(peek(mappings[1], PAGE), 0);
        CHECK_EQ(pnx_fault_end(&scopes[order[i]]), order[i] == 1 ? -ESTALE : 0);
    }
    CHECK(!((struct pnx_thread *)PNX_SELF)->fault_scopes);
    for (int i = 0; i < N; i++)
        pnx_mapping_release(&mappings[i]);
}

/* ---- checked scopes ---- */

static int look_checked(struct pnx_mapping *mapping) {
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    return pnx_fault_end_checked(&scope);
}

TEST(p5_a_checked_end_sees_what_raises_no_signal) {
    struct pnx_mapping *mapping = map_pages("c", 4);
    CHECK_EQ(look_checked(mapping), 0);
    cut("c", 3 * PAGE + 10); /* inside the last page */
    CHECK_EQ(peek(mapping, 3 * PAGE + 11), 0);
    CHECK_EQ(look_checked(mapping), -ESTALE);
    pnx_mapping_release(&mapping);

    mapping = map_pages("d", 4);
    struct stat before;
    CHECK_EQ(stat(test_path("d"), &before), 0);
    /* Another change than the last one before the mapping, so not in its tick. */
    struct timespec wait = {.tv_nsec = 20 * 1000 * 1000};
    nanosleep(&wait, NULL);
    cut("d", 0);
    make_file("d", 4 * PAGE);
    const struct timespec times[2] = {before.st_atim, before.st_mtim};
    CHECK_EQ(utimensat(AT_FDCWD, test_path("d"), times, 0), 0); /* what rsync -t does */
    CHECK_EQ(pnx_mapping_changed(mapping),
            -ESTALE); /* by the time of its status, which nobody sets */
    CHECK_EQ(look_checked(mapping), -ESTALE);
    pnx_mapping_release(&mapping);
}

TEST(p5_a_checked_end_says_when_it_cannot_ask) {
    if (!test_os_faults())
        test_skip("the system's calls cannot be made to fail");
    struct pnx_mapping *mapping = map_pages("e", 4);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    test_os_fault("fstat", 1, true, EIO);
    CHECK_EQ(pnx_fault_end_checked(&scope), -EIO);
    CHECK_EQ(test_os_fault_clear(), 1);
    CHECK_EQ(look_checked(mapping), 0);
    pnx_mapping_release(&mapping);
}

TEST(a_copy_or_nothing_has_scopes_too_and_they_never_fail) {
    struct pnx_mapping *copy = NULL, *empty = NULL;
    make_file("small", 100);
    make_file("none", 0);
    CHECK_EQ(pnx_mapping_open(test_path("small"), NULL, NULL, &copy), 0);
    CHECK_EQ(pnx_mapping_open(test_path("none"), NULL, NULL, &empty), 0);
    CHECK_EQ(pnx_mapping_backing(copy), PNX_BACKING_COPY);
    cut("small", 1);
    CHECK_EQ(look_checked(copy), 0);
    CHECK_EQ(look_checked(empty), 0);
    CHECK_EQ(pnx_fault_check(), -EAGAIN); /* no handler is needed for them */
    CHECK_EQ(fault_stats().mappings, 0);
    pnx_mapping_release(&copy);
    pnx_mapping_release(&empty);
}

/* ---- numbers ---- */

static int keep(void *ctx, const char *text, size_t n) {
    char *page = ctx;
    size_t there = strlen(page);
    CHECK(there + n < 65536);
    memcpy(page + there, text, n);
    page[there + n] = 0;
    return 0;
}

TEST(each_mapping_counts_its_own_faults_and_shows_them) {
    static char page[65536];
    struct pnx_stats *stats = NULL;
    struct pnx_mapping *lost = NULL, *fine = map_pages("whole", 4);
    struct pnx_fault_scope scope;
    unsigned char byte;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    CHECK_EQ(pnx_mapping_open(make_file("counted", 8 * PAGE),
                     PNX_MAPPING_OPTS(.small_max = 1, .name = "counted", .stats = stats), NULL,
                     &lost),
            0);
    CHECK_EQ(stats_of(lost).faults, 0);
    cut("counted", PAGE);
    CHECK_EQ(pnx_fault_load_u8(lost, 5 * PAGE, &byte), -ESTALE);
    CHECK_EQ(stats_of(lost).faults, 1);
    CHECK_EQ(pnx_fault_begin(lost, &scope), 0);
    CHECK_EQ(peek(lost, 6 * PAGE), 0);
    CHECK_EQ(peek(lost, 7 * PAGE), 0); /* has been replaced together with the one before */
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    CHECK_EQ(stats_of(lost).faults, 2);
    CHECK_EQ(stats_of(lost).io_faults, 0); /* tests/mapping/test_fault_disk.c has those */
    CHECK_EQ(stats_of(fine).faults, 0);
    CHECK_EQ(pnx_stats_openmetrics(stats, keep, page), 0);
    CHECK_CONTAINS(page, "patinox_mapping_faults_total{mapping=\"counted\",number=\"0\"} 2\n");
    pnx_mapping_release(&lost);
    pnx_mapping_release(&fine);
    pnx_stats_release(&stats);
}

/* ---- misuse, and ways out ---- */

static void end_elsewhere(unsigned index, void *ctx) {
    (void)index;
    CHECK_EQ(pnx_fault_end(ctx), -EINVAL);
}

TEST(a_scope_that_is_not_open_here_is_refused) {
    struct pnx_mapping *mapping = map_pages("f", 2);
    struct pnx_fault_scope scope = {0}, inner;
    CHECK_EQ(pnx_fault_begin(NULL, &scope), -EINVAL);
    CHECK_EQ(pnx_fault_end(&scope), -EINVAL);
    scope = (struct pnx_fault_scope){0};
    CHECK_EQ(pnx_fault_end(&scope), -EINVAL);
    CHECK_EQ(pnx_fault_end(NULL), -EINVAL);
    CHECK_EQ(pnx_fault_end_checked(NULL), -EINVAL);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    test_threads(1, end_elsewhere, &scope);
    CHECK_EQ(pnx_fault_begin(mapping, &inner), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), -EINVAL);
    CHECK_EQ(pnx_fault_end(&inner), 0);
    CHECK_EQ(pnx_fault_end(&inner), -EINVAL);
    CHECK_EQ(pnx_fault_state(NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_fault_read_stats(NULL), -EINVAL);
    pnx_mapping_release(&mapping);
}

static void leave_in_the_middle(struct pnx_mapping *mapping) {
    PNX_AUTO_FAULT_SCOPE scope = {0};
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    if (peek(mapping, 0) == byte_at(0))
        return;
    CHECK_EQ(pnx_fault_end(&scope), 0);
}

TEST(a_scope_is_left_on_the_way_out) {
    struct pnx_mapping *mapping = map_pages("g", 2);
    struct pnx_fault_scope scope;
    leave_in_the_middle(mapping);
    CHECK(!((struct pnx_thread *)PNX_SELF)->fault_scopes);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    pnx_fault_leave(&scope);
    pnx_fault_leave(&scope);
    pnx_fault_leave(NULL);
    CHECK_EQ(pnx_fault_end(&scope), -EINVAL);
    pnx_mapping_release(&mapping);
}

static int read_page_2(void *ctx) {
    return peek(ctx, 2 * PAGE) ? 5 : 6;
}

TEST(a_function_runs_in_a_scope) {
    struct pnx_mapping *mapping = map_pages("h", 4);
    CHECK_EQ(pnx_fault_run(mapping, read_page_2, mapping), byte_at(2 * PAGE) ? 5 : 6);
    CHECK_EQ(pnx_fault_run_checked(mapping, read_page_2, mapping), byte_at(2 * PAGE) ? 5 : 6);
    CHECK_EQ(pnx_fault_run(mapping, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_fault_run_checked(mapping, NULL, NULL), -EINVAL);
    cut("h", 3 * PAGE);
    CHECK_EQ(pnx_fault_run(mapping, read_page_2, mapping), byte_at(2 * PAGE) ? 5 : 6);
    CHECK_EQ(pnx_fault_run_checked(mapping, read_page_2, mapping), -ESTALE);
    cut("h", PAGE);
    CHECK_EQ(pnx_fault_run(mapping, read_page_2, mapping), -ESTALE);
    CHECK_EQ(pnx_fault_run(mapping, read_page_2, mapping), -ESTALE);
    CHECK_EQ(pnx_fault_run_checked(mapping, read_page_2, mapping), -ESTALE);
    pnx_mapping_release(&mapping);
}

static void begin_without_memory(unsigned index, void *ctx) {
    struct pnx_fault_scope scope;
    (void)index;
    test_os_fault("thread_record", 1, true, ENOMEM);
    CHECK_EQ(pnx_fault_begin(ctx, &scope), -ENOMEM);
    CHECK_EQ(pnx_fault_end(&scope), -ENOMEM);
    CHECK(test_os_fault_clear() > 0);
    CHECK_EQ(pnx_fault_begin(ctx, &scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
}

TEST(a_thread_without_memory_for_a_record_gets_no_scope) {
    if (!test_os_faults())
        test_skip("the system's calls cannot be made to fail");
    struct pnx_mapping *mapping = map_pages("i", 2);
    test_threads(1, begin_without_memory, mapping);
    pnx_mapping_release(&mapping);
}
