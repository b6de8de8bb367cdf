/* SPDX-License-Identifier: Apache-2.0 */
/* Growing and shrinking: what moves, what does not, who stands in the way, and what stays as it was. */
#include "harness/forks.h"
#include "mapping/help_file.h"
#include "os/map.h"

#include <pthread.h>
#include <sched.h>

#define KIB 1024u
#define W   PNX_MAPPING_WRITE
#define R   PNX_MAPPING_RESIZABLE

static struct pnx_mapping *log_file(const char *path, uint64_t length, uint64_t reserve) {
    return opened(
            path, PNX_MAPPING_OPTS(.mode = W, .length = length, .reserve = reserve,
                          .flags = R | PNX_MAPPING_CREATE | (length ? PNX_MAPPING_EXTEND : 0)));
}

static void refused(
        struct pnx_mapping *mapping, uint64_t length, uint32_t flags, int code, const char *part) {
    struct pnx_error err = {0};
    size_t size = pnx_mapping_size(mapping);
    uint32_t epoch = mapping ? info_of(mapping).epoch : 0;
    int rc = pnx_mapping_resize(mapping, length, flags, &err);
    CHECK_MSG(rc == code, "%s (%s), expected %s", pnx_errname(rc), err.message, pnx_errname(code));
    CHECK_EQ(err.code, code);
    CHECK_CONTAINS(err.message, part);
    CHECK_EQ(pnx_mapping_size(mapping), size);
    if (mapping)
        CHECK_EQ(info_of(mapping).epoch, epoch);
}

TEST(p3_growth_within_the_reserve_moves_nothing_and_views_stay_valid) {
    const char *path = test_path("log");
    struct pnx_mapping *mapping = log_file(path, 1000, 1 << 20);
    struct pnx_view view = pnx_view_all(mapping);
    struct pnx_mapping_info before = info_of(mapping);
    CHECK(before.reserve >= 1 << 20);
    CHECK_EQ(before.views, 1);
    *at(mapping, 999, 1) = 42;
    for (uint64_t n = 1001; n <= 1 << 20; n = n * 3 / 2) {
        resized(mapping, n, 0);
        CHECK_EQ(pnx_mapping_size(mapping), n);
        CHECK_EQ(size_of(path), n);
        CHECK(blocks_of(path) >= n); /* has its blocks */
        CHECK_EQ(info_of(mapping).epoch, before.epoch);
        *at(mapping, n - 1, 1) = (unsigned char)n;
        CHECK_EQ(byte_in(path, n - 1), (unsigned char)n);
        struct pnx_view again = pnx_view_all(mapping);
        CHECK(again.p == view.p);
        pnx_view_release(&again);
    }
    CHECK_EQ(view.p[999], 42);
    CHECK_EQ(view.n, 1000);
    pnx_view_release(&view);
    CHECK(stats_of(mapping).resizes > 10);
    CHECK_EQ(stats_of(mapping).moves, 0);
    pnx_mapping_release(&mapping);
}

TEST(p3_a_resize_with_live_views_that_would_move_them_names_their_number) {
    const char *path = make_file("viewed", 50000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = W, .flags = R));
    struct pnx_view views[3];
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pnx_view_get(mapping, (uint64_t)i, 10, &views[i]), 0);
    refused(mapping, 500000, 0, -EBUSY, "3 live views");
    CHECK_EQ(size_of(path), 50000); /* P6: what was lengthened for it is not any more */
    refused(mapping, 10, PNX_RESIZE_TRUNCATE, -EBUSY, "3 live views");
    CHECK_EQ(size_of(path), 50000);
    struct pnx_view part;
    CHECK_EQ(pnx_view_sub(&views[0], 1, 2, &part), 0); /* is not counted */
    pnx_view_release(&part);
    CHECK_EQ(info_of(mapping).views, 3);
    pnx_view_release(&views[0]);
    pnx_view_release(&views[0]); /* empty by now */
    pnx_view_release(&views[2]);
    refused(mapping, 500000, 0, -EBUSY, "1 live view:");
    pnx_view_release(&views[1]);
    resized(mapping, 500000, 0);
    check_bytes(opened(path, PNX_MAPPING_OPTS(.length = 50000)), 0, 50000);
    pnx_mapping_release(&mapping);
}

TEST(p3_a_resize_that_moves_raises_the_epoch_and_keeps_the_bytes) {
    const char *path = make_file("moved", 50000);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = W, .offset = 5, .flags = R));
    uint32_t epoch = info_of(mapping).epoch;
    *at(mapping, 100, 1) = 77;
    resized(mapping, 5 << 20, 0);
    CHECK(info_of(mapping).epoch > epoch);
    CHECK_EQ(*at(mapping, 100, 1), 77);
    CHECK_EQ(*at(mapping, 101, 1), byte_at(106));
    CHECK_EQ(*at(mapping, (5 << 20) - 1, 1), 0);
    CHECK_EQ(size_of(path), (5 << 20) + 5);
    resized(mapping, 70000, 0); /* the mapping only */
    CHECK_EQ(size_of(path), (5 << 20) + 5);
    resized(mapping, 60001, PNX_RESIZE_TRUNCATE);
    CHECK_EQ(size_of(path), 60006);
    CHECK_EQ(pnx_mapping_size(mapping), 60001);
    resized(mapping, 60002, 0);
    CHECK_EQ(*at(mapping, 60001, 1), 0);
    resized(mapping, 0, PNX_RESIZE_TRUNCATE);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_EMPTY);
    CHECK_EQ(size_of(path), 5);
    resized(mapping, 9000, PNX_RESIZE_SPARSE);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    CHECK_EQ(*at(mapping, 8999, 1), 0);
    CHECK(stats_of(mapping).moves >= 4);
    CHECK_EQ(stats_of(mapping).mapped, 9000);
    pnx_mapping_release(&mapping);
}

TEST(an_empty_file_grows_also_under_views_of_nothing) {
    struct pnx_mapping *mapping = log_file(test_path("nothing"), 0, 1 << 16);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(view.n, 0);
    resized(mapping, 100, 0);
    *at(mapping, 99, 1) = 1;
    pnx_view_release(&view);
    pnx_mapping_release(&mapping);
    CHECK_EQ(size_of(test_path("nothing")), 100);
}

TEST(a_reader_follows_a_file_that_grows_and_is_refused_beyond_it) {
    const char *path = make_file("followed", 0);
    struct pnx_mapping *reader = opened(path, PNX_MAPPING_OPTS(.flags = R, .reserve = 1 << 24));
    CHECK_EQ(pnx_mapping_backing(reader), PNX_BACKING_EMPTY);
    size_t sizes[] = {100, 16000, 40000, 40000, 700000, 20000, 0, 90000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        make_file("followed", sizes[i]); /* the same inode */
        resized(reader, PNX_RESIZE_TO_FILE, 0);
        check_bytes(reader, 0, sizes[i]);
        pnx_view_release(&(struct pnx_view){.p = NULL});
        /* check_bytes() holds a view that it does not release */
        while (info_of(reader).views) {
            struct pnx_view view = pnx_view_all(reader);
            pnx_view_release(&view);
            struct pnx_view same = view;
            same.mapping = reader;
            same.epoch = info_of(reader).epoch;
            same.flags = 2;
            pnx_view_release(&same);
        }
        refused(reader, sizes[i] + 1, 0, -ERANGE, "");
        CHECK_EQ(pnx_mapping_changed(reader), sizes[i] || i == 0 ? 0 : 0);
    }
    refused(reader, 1, PNX_RESIZE_TRUNCATE, -EINVAL, "writable");
    refused(reader, 1, 4, -EINVAL, "unknown");
    pnx_mapping_release(&reader);
}

TEST(files_of_proc_are_read_anew) {
    struct pnx_mapping *mapping = opened("/proc/self/stat", PNX_MAPPING_OPTS(.flags = R));
    CHECK(pnx_mapping_size(mapping) > 10);
    resized(mapping, PNX_RESIZE_TO_FILE, 0);
    CHECK(pnx_mapping_size(mapping) > 10);
    resized(mapping, 3, 0);
    CHECK_EQ(pnx_mapping_size(mapping), 3);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_COPY);
    pnx_mapping_release(&mapping);
}

TEST(p4_private_stores_and_anonymous_bytes_survive_a_resize_and_charges_follow) {
    const char *path = make_file("kept", 300000);
    struct pnx_budget *budget = purse(0);
    for (int kind = 0; kind < 4;
            kind++) { /* private mapped, private copied, anonymous, with reserve */
        struct pnx_mapping *mapping = NULL;
        if (kind == 2 || kind == 3)
            CHECK_EQ(pnx_mapping_open_anonymous(
                             PNX_MAPPING_OPTS(.length = 100001, .flags = R, .budget = budget,
                                     .reserve = kind == 3 ? 200000 : 0),
                             NULL, &mapping),
                    0);
        else
            mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_PRIVATE, .length = 100001,
                                           .budget = budget, .offset = 3,
                                           .flags = R | (kind ? PNX_MAPPING_COPY : 0)));
        *at(mapping, 100000, 1) = 99;
        *at(mapping, 50, 1) = 98;
        size_t sizes[] = {100002, 190000, 290000, 100001, 70000, 100001};
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            resized(mapping, sizes[i], 0);
            CHECK_EQ(pnx_mapping_size(mapping), sizes[i]);
            CHECK_EQ(*at(mapping, 50, 1), 98);
            if (sizes[i] > 100000)
                CHECK_EQ(*at(mapping, 100000, 1), i < 4      ? 99
                                                  : kind < 2 ? byte_at(100003)
                                                             : 0); /* cut, and come again */
            CHECK_EQ(*at(mapping, sizes[i] - 1, 1), sizes[i] == 100001 ? *at(mapping, 100000, 1)
                                                    : kind < 2         ? byte_at(sizes[i] + 2)
                                                                       : 0);
            CHECK(charged(budget) >= sizes[i] && charged(budget) <= sizes[i] + 8192);
        }
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
    }
    pnx_budget_release(&budget);
}

TEST(p6_growth_that_the_budget_refuses_changes_nothing) {
    struct pnx_budget *budget = purse(200000);
    struct pnx_mapping *mapping = NULL;
    for (int reserve = 0; reserve < 2; reserve++) {
        CHECK_EQ(pnx_mapping_open_anonymous(
                         PNX_MAPPING_OPTS(.length = 100000, .flags = R, .budget = budget,
                                 .reserve = reserve ? 1 << 20 : 0),
                         NULL, &mapping),
                0);
        size_t before = charged(budget);
        refused(mapping, 400000, 0, -ENOMEM, "");
        CHECK_EQ(charged(budget), before);
        *at(mapping, 99999, 1) = 1;
        pnx_mapping_release(&mapping);
    }
    pnx_budget_release(&budget);
}

TEST(what_cannot_be_resized_says_why) {
    const char *path = make_file("fixed", 50000);
    struct pnx_mapping *mapping = opened(path, NULL);
    refused(mapping, 10, 0, -ENOTSUP, "RESIZABLE");
    pnx_mapping_release(&mapping);
    mapping = opened(path, PNX_MAPPING_OPTS(.mode = W, .flags = R));
    refused(mapping, UINT64_MAX - 1, 0, -EFBIG, "address space");
    pnx_mapping_close(mapping);
    refused(mapping, 10, 0, -ESHUTDOWN, "closed");
    pnx_mapping_release(&mapping);
    refused(NULL, 10, 0, -EINVAL, "NULL");
    int fds[2];
    CHECK(pipe(fds) == 0 && write(fds[1], "abc", 3) == 3 && close(fds[1]) == 0);
    CHECK_EQ(pnx_mapping_open_fd(fds[0], PNX_MAPPING_OPTS(.flags = R), NULL, &mapping), 0);
    refused(mapping, 2, 0, -ENOTSUP, "pipe");
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 5, .flags = R), NULL, &mapping),
            0);
    refused(mapping, PNX_RESIZE_TO_FILE, 0, -EINVAL, "no file");
    pnx_mapping_release(&mapping);
}

TEST(a_file_that_was_cut_is_mapped_anew_by_a_resize) {
    const char *path = make_file("cut", 100000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.flags = R));
    CHECK(truncate(path, 30000) == 0);
    CHECK_EQ(pnx_mapping_changed(mapping), -ESTALE);
    refused(mapping, 100000, 0, -ERANGE, "beyond");
    resized(mapping, PNX_RESIZE_TO_FILE, 0);
    CHECK_EQ(pnx_mapping_changed(mapping), 0);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ(view.n, 30000);
    CHECK_EQ(view.p[29999], byte_at(29999));
    pnx_view_release(&view);
    pnx_mapping_release(&mapping);
}

/* Advice and locks for parts make several mappings of one, which the system does not move as one. */
TEST(pages_that_advice_has_divided_are_moved_all_the_same) {
    const char *path = make_file("divided", 400000);
    for (int kind = 0; kind < 4; kind++) { /* anonymous, private; moved by the system, copied */
        struct pnx_budget *budget = purse(0);
        struct pnx_mapping *mapping = NULL;
        if (kind % 2)
            mapping = opened(path, PNX_MAPPING_OPTS(.mode = PNX_MAPPING_PRIVATE, .length = 100000,
                                           .budget = budget, .flags = R));
        else
            CHECK_EQ(pnx_mapping_open_anonymous(
                             PNX_MAPPING_OPTS(.length = 100000, .budget = budget, .flags = R), NULL,
                             &mapping),
                    0);
        for (size_t i = 0; i < 100000; i += 10)
            *at(mapping, i, 1) = (unsigned char)(i / 10);
        CHECK_EQ(pnx_mapping_advise(mapping, 20000, 30000, PNX_ADVICE_RANDOM), 0);
        CHECK_EQ(pnx_mapping_advise(mapping, 60000, 10, PNX_ADVICE_SEQUENTIAL), 0);
        CHECK_EQ(pnx_mapping_lock(mapping, NULL), 0);
        /* Of several mappings valgrind says ENOMEM where Linux says EFAULT. */
        if ((kind >= 2 || getenv("PNX_TEST_SLOW")) && test_os_faults())
            test_os_fault("mremap", 1, true, ENOTSUP);
        resized(mapping, 350000, 0);
        if (test_os_faults())
            test_os_fault_clear();
        struct pnx_view view = pnx_view_all(mapping);
        for (size_t i = 0; i < 350000; i += 10)
            CHECK_EQ(view.p[i], i < 100000 ? (unsigned char)(i / 10) : kind % 2 ? byte_at(i) : 0);
        pnx_view_release(&view);
        CHECK_EQ(charged(budget), 352256);
        CHECK_EQ(info_of(mapping).locked, 352256);
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
        pnx_budget_release(&budget);
    }
}

TEST(a_lock_lasts_through_a_length_of_nothing) {
    struct pnx_mapping *mapping = opened(make_file("locked", 50000), PNX_MAPPING_OPTS(.flags = R));
    CHECK_EQ(pnx_mapping_lock(mapping, NULL), 0);
    resized(mapping, 0, 0);
    CHECK_EQ(info_of(mapping).locked, 0);
    resized(mapping, 5000, 0); /* a copy, in pages of its own */
    CHECK_EQ(info_of(mapping).locked, 8192);
    pnx_mapping_unlock(mapping);
    CHECK_EQ(info_of(mapping).locked, 0);
    pnx_mapping_release(&mapping);
}

TEST(a_resize_that_grows_cuts_a_file_that_is_longer_still_if_told_so) {
    for (int reserve = 0; reserve < 2; reserve++) {
        const char *path = make_file("longer", 500000);
        struct pnx_mapping *mapping =
                opened(path, PNX_MAPPING_OPTS(.mode = W, .length = 50000,
                                     .reserve = reserve ? 1 << 20 : 0, .flags = R));
        resized(mapping, 100000, PNX_RESIZE_TRUNCATE);
        CHECK_EQ(size_of(path), 100000);
        check_bytes(opened(path, NULL), 0, 100000);
        pnx_mapping_release(&mapping);
    }
}

/* ---- failing calls ---- */

struct resize_case {
    uint64_t reserve, length;
    uint32_t flags;
};

/* Returns whether a call failed. */
static bool fail_one(const char *call, int64_t nth, const struct resize_case *c) {
    const char *path = make_file("resized", 50000);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = W, .flags = R, .reserve = c->reserve));
    struct pnx_error err = {0};
    test_os_fault(call, nth, false, EIO);
    int rc = pnx_mapping_resize(mapping, c->length, c->flags, &err);
    bool failed = test_os_fault_clear() > 0;
    if (rc) {
        CHECK_MSG(rc == -EIO, "%s %d: %s", call, (int)nth, err.message);
        CHECK(err.message[0]);
        CHECK_EQ(size_of(path), 50000);
        struct pnx_view view = pnx_view_all(mapping);
        CHECK_EQ(view.n, 50000);
        for (size_t k = 0; k < 50000; k += 7)
            CHECK_EQ(view.p[k], byte_at(k));
        pnx_view_release(&view);
        resized(mapping, c->length, c->flags); /* and it works when the system does */
    }
    CHECK_EQ(pnx_mapping_size(mapping), c->length);
    pnx_mapping_release(&mapping);
    return failed;
}

TEST(p6_each_call_of_a_resize_may_fail_and_nothing_has_changed) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    static const char *const calls[] = {
            "fstat", "ftruncate", "allocate", "mmap", "reserve", "mremap"};
    static const struct resize_case cases[] = {{1 << 20, 90000, 0}, {0, 90000, 0},
            {1 << 20, 20000, PNX_RESIZE_TRUNCATE}, {0, 20000, PNX_RESIZE_TRUNCATE},
            {0, 0, PNX_RESIZE_TRUNCATE}, {0, 90000, PNX_RESIZE_SPARSE}, {0, 2 << 20, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t k = 0; k < sizeof(calls) / sizeof(calls[0]); k++)
            for (int64_t nth = 1; fail_one(calls[k], nth, &cases[i]); nth++)
                CHECK(nth < 40);
    }
}

static int resize_all_ways(struct test_env *te, void *ctx) {
    const char *path = ctx;
    struct pnx_mapping *mapping = NULL;
    CHECK(truncate(path, 50000) == 0);
    int rc = pnx_mapping_open(
            path, PNX_MAPPING_OPTS(.env = &te->env, .mode = W, .flags = R), NULL, &mapping);
    if (rc == 0)
        rc = pnx_mapping_resize(mapping, 100000, 0, NULL);
    if (rc == 0)
        rc = pnx_mapping_resize(mapping, 0, PNX_RESIZE_TRUNCATE, NULL);
    if (rc == 0)
        rc = pnx_mapping_resize(mapping, 5, 0, NULL);
    pnx_mapping_release(&mapping);
    if (rc == 0)
        rc = pnx_mapping_open(path, PNX_MAPPING_OPTS(.env = &te->env, .flags = R), NULL, &mapping);
    CHECK(truncate(path, 50000) == 0);
    if (rc == 0)
        rc = pnx_mapping_resize(
                mapping, PNX_RESIZE_TO_FILE, 0, NULL); /* a copy becomes a mapping */
    if (rc == 0)
        CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_MMAP);
    pnx_mapping_release(&mapping);
    return rc;
}

TEST(p6_each_allocation_of_a_resize_may_fail) {
    struct test_env te;
    test_env_init(&te);
    char path[512];
    snprintf(path, sizeof(path), "%s", make_file("memory", 50000));
    test_fail_each_allocation(&te, resize_all_ways, path);
}

/* ---- many threads ---- */

struct contest {
    struct pnx_mapping *mapping;
    int stop;
};

static void contend(unsigned index, void *ctx) {
    struct contest *contest = ctx;
    unsigned rounds = test_slow() ? 300 : 3000;
    if (index == 0) {
        uint64_t state = test_seed();
        unsigned done = 0;
        /* As many rounds as there may be, none may find all views given back: on a busy machine it is they who wait for a processor. */
        for (unsigned i = 0; i < rounds || done == 0; i++) {
            uint64_t n = 1000 + test_random(&state) % 60000;
            int rc = pnx_mapping_resize(contest->mapping, n, 0, NULL);
            CHECK(rc == 0 || rc == -EBUSY);
            done += rc == 0;
            if (i >= rounds)
                sched_yield();
        }
        __atomic_store_n(&contest->stop, 1, __ATOMIC_RELEASE);
        return;
    }
    while (!__atomic_load_n(&contest->stop, __ATOMIC_ACQUIRE)) {
        PNX_AUTO_VIEW view = pnx_view_all(contest->mapping);
        CHECK(view.n >= 1000);
        CHECK_EQ(view.p[view.n - 1], 0x5a); /* were it gone, this would end the process */
        pnx_view_release(&view);
        for (unsigned i = 0; i < 200; i++) { /* hold off a resize, but do not stand in its way */
            unsigned char out = 0;
            CHECK_EQ(pnx_mapping_copy_out(contest->mapping, 999, &out, 1), 0);
            CHECK_EQ(out, 0x5a);
        }
    }
}

TEST(p3_views_and_resizes_race_and_no_view_is_pulled_away) {
    const char *path = test_path("contested");
    unsigned char *data = malloc(61000);
    memset(data, 0x5a, 61000);
    test_write_file(path, data, 61000);
    free(data);
    for (int reserve = 0; reserve < 2; reserve++) {
        struct contest contest = {
                .mapping = opened(path, PNX_MAPPING_OPTS(.flags = R | PNX_MAPPING_NO_COPY,
                                                .reserve = reserve ? 30000 : 0))};
        test_threads(3, contend, &contest);
        CHECK_EQ(info_of(contest.mapping).views, 0);
        pnx_mapping_release(&contest.mapping);
    }
}

/* ---- where mapped files cannot be cut ---- */

static const char *stiffly_path;

static struct pnx_mapping *stiffly(int (*validate)(void *ctx, const struct pnx_view *view)) {
    if (!test_os_faults())
        test_skip("built without PNX_FAULTS");
    if (!pnx__os_cuts_mapped())
        test_skip("the system is like that by itself");
    stiffly_path = make_file("stiff", 50000);
    struct pnx_mapping *mapping = opened(
            stiffly_path, PNX_MAPPING_OPTS(.mode = W, .offset = 5, .flags = R,
                                  .layout = validate ? PNX_LAYOUT(.validate = validate) : NULL));
    test_os_fault("cut_mapped", 1, true, EBUSY); /* the system is asked, and says no */
    return mapping;
}

TEST(where_mapped_files_cannot_be_cut_a_resize_takes_the_pages_away_first) {
    struct pnx_mapping *mapping = stiffly(NULL);
    uint32_t epoch = info_of(mapping).epoch;
    *at(mapping, 100, 1) = 77;
    struct pnx_view view = pnx_view_all(mapping);
    refused(mapping, 20000, PNX_RESIZE_TRUNCATE, -EBUSY, "1 live view:");
    CHECK_EQ(size_of(stiffly_path), 50000);
    pnx_view_release(&view);
    resized(mapping, 20000, PNX_RESIZE_TRUNCATE);
    CHECK_EQ(size_of(stiffly_path), 20005);
    CHECK(info_of(mapping).epoch > epoch);
    CHECK_EQ(*at(mapping, 100, 1), 77);
    CHECK_EQ(*at(mapping, 19999, 1), byte_at(20004));
    resized(mapping, 0, PNX_RESIZE_TRUNCATE);
    CHECK_EQ(truncate(stiffly_path, 90000), 0);
    resized(mapping, 60000, PNX_RESIZE_TRUNCATE); /* longer, but the file shorter */
    CHECK_EQ(size_of(stiffly_path), 60005);
    resized(mapping, 0, PNX_RESIZE_TRUNCATE);
    CHECK_EQ(pnx_mapping_backing(mapping), PNX_BACKING_EMPTY);
    CHECK_EQ(size_of(stiffly_path), 5);
    CHECK(test_os_fault_clear() > 0);
    pnx_mapping_release(&mapping);
}

static int refuse_changes(void *ctx, const struct pnx_view *view) {
    (void)ctx;
    return view->n == 49995 ? 0 : -EILSEQ;
}

TEST(where_mapped_files_cannot_be_cut_a_resize_that_fails_changes_nothing_all_the_same) {
    struct pnx_mapping *mapping = stiffly(refuse_changes);
    *at(mapping, 100, 1) = 77;
    CHECK_EQ(pnx_mapping_resize(mapping, 20000, PNX_RESIZE_TRUNCATE, NULL), PNX_E_FORMAT);
    CHECK_EQ(size_of(stiffly_path), 50000);
    CHECK_EQ(pnx_mapping_resize(mapping, 5 << 20, 0, NULL), PNX_E_FORMAT);
    CHECK_EQ(size_of(stiffly_path), 50000);
    CHECK_EQ(pnx_mapping_size(mapping), 49995);
    CHECK_EQ(*at(mapping, 100, 1), 77);
    CHECK_EQ(*at(mapping, 49994, 1), byte_at(49999));
    CHECK(test_os_fault_clear() > 0);
    pnx_mapping_release(&mapping);
}

TEST(where_mapped_files_cannot_be_cut_an_opening_that_fails_leaves_them_as_long_as_they_were) {
    struct pnx_mapping *mapping = stiffly(NULL), *none = NULL;
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open(stiffly_path,
                     PNX_MAPPING_OPTS(.mode = W, .length = 5 << 20, .flags = PNX_MAPPING_EXTEND,
                             .layout = PNX_LAYOUT(.validate = refuse_changes)),
                     NULL, &none),
            PNX_E_FORMAT);
    CHECK_EQ(size_of(stiffly_path), 50000);
    CHECK(test_os_fault_clear() > 0);
    struct pnx_error err;
    test_os_fault("map_into_reserved", 1, true, EBUSY);
    CHECK_EQ(pnx_mapping_open(
                     stiffly_path, PNX_MAPPING_OPTS(.flags = R, .reserve = 1 << 20), &err, &none),
            -ENOTSUP);
    CHECK_STR(err.field, "reserve");
    CHECK_EQ(test_os_fault_clear(), 1);
}

/* ---- re-entry, forks ---- */

static struct pnx_mapping *reentered;

static int validate_reenters(void *ctx, const struct pnx_view *view) {
    (void)view;
    int *calls = ctx;
    if (!reentered)
        return 0;
    ++*calls;
    CHECK_EQ(pnx_mapping_resize(reentered, 7, 0, NULL), -EDEADLK);
    CHECK_EQ(pnx_mapping_lock(reentered, NULL), -EDEADLK);
    return 0;
}

TEST(a_resize_from_within_its_own_validation_is_a_deadlock_error) {
    int calls = 0;
    reentered = NULL;
    struct pnx_mapping *mapping = opened(make_file("again", 50000),
            PNX_MAPPING_OPTS(.mode = W, .flags = R,
                    .layout = PNX_LAYOUT(.validate = validate_reenters, .ctx = &calls)));
    reentered = mapping;
    resized(mapping, 60000, 0);
    resized(mapping, 40000, 0);
    CHECK_EQ(calls, 2);
    reentered = NULL;
    pnx_mapping_release(&mapping);
}

static void child_resizes(void *ctx) {
    struct pnx_mapping *mapping = ctx;
    resized(mapping, 80000, 0);
    *at(mapping, 79999, 1) = 8;
    pnx_mapping_release(&mapping);
    _exit(0);
}

TEST(a_forked_child_resizes_its_own_copy_of_the_mapping) {
    const char *path = make_file("forked", 50000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = W, .flags = R));
    CHECK_EQ(test_child(child_resizes, mapping), 0);
    CHECK_EQ(size_of(path), 80000);
    CHECK_EQ(pnx_mapping_size(mapping), 50000);
    resized(mapping, 80000, 0);
    CHECK_EQ(*at(mapping, 79999, 1), 8);
    pnx_mapping_release(&mapping);
}

struct forking {
    struct pnx_mapping *mapping;
    int stop;
};

static void *copy_on(void *ctx) {
    struct forking *forking = ctx;
    unsigned char out[40000];
    while (!__atomic_load_n(&forking->stop, __ATOMIC_ACQUIRE))
        CHECK_EQ(pnx_mapping_copy_out(forking->mapping, 0, out, sizeof(out)), 0);
    return NULL;
}

/* A child has none of the threads that were at work, and must not wait for them. */
TEST(a_child_forked_while_others_copied_resizes_all_the_same) {
    struct forking forking = {
            .mapping = opened(make_file("busy", 50000),
                    PNX_MAPPING_OPTS(.env = test_fork_env(), .mode = W, .flags = R))};
    pthread_t threads[2];
    if (test_fork_env()) { /* what allocates once in a thread has done so */
        resized(forking.mapping, 60000, 0);
        resized(forking.mapping, 50000, 0);
    }
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, copy_on, &forking), 0);
    for (int i = 0; i < (test_slow() ? 20 : 100); i++)
        CHECK_EQ(test_child(child_resizes, forking.mapping), 0);
    __atomic_store_n(&forking.stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pnx_mapping_release(&forking.mapping);
}

/* ---- limits of the disk ---- */

TEST_LIMIT(p6_a_full_disk_stops_growth_before_anything_is_mapped, 60) {
    const char *disk = small_disk("disk", 256);
    char path[600];
    snprintf(path, sizeof(path), "%s/log", disk);
    struct pnx_mapping *mapping = log_file(path, 100000, 1 << 20);
    memset(at(mapping, 0, 100000), 3, 100000);
    struct pnx_error err = {0};
    int rc = pnx_mapping_resize(mapping, 400000, 0, &err);
    CHECK_EQ(rc, -ENOSPC);
    CHECK_STR(err.phase, "extend");
    CHECK_EQ(size_of(path), 100000);
    CHECK_EQ(pnx_mapping_size(mapping), 100000);
    resized(mapping, 200000, 0);
    memset(at(mapping, 0, 200000), 4, 200000); /* has its blocks: no signal */
    /* a hole is lengthened without room, and found by asking */
    resized(mapping, 900000, PNX_RESIZE_SPARSE);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 200000, PNX_POPULATE_WRITE), 0);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 900000, PNX_POPULATE_WRITE), -ENOSPC);
    pnx_mapping_release(&mapping);
    refuses(path, PNX_MAPPING_OPTS(.mode = W, .flags = PNX_MAPPING_ALLOCATE), -ENOSPC, "extend",
            NULL);
    refuses(path, PNX_MAPPING_OPTS(.mode = W, .flags = PNX_MAPPING_POPULATE), -ENOSPC, "populate",
            NULL);
    char fresh[600];
    snprintf(fresh, sizeof(fresh), "%s/fresh", disk);
    refuses(fresh,
            PNX_MAPPING_OPTS(.mode = W, .length = 500000,
                    .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND),
            -ENOSPC, "extend", NULL);
    CHECK(access(fresh, F_OK) != 0);
}
