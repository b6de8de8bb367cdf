/* SPDX-License-Identifier: Apache-2.0 */
/* Pages: locks, presence, advice, flushes, what a fork and a core dump see. */
#include "mapping/help_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define W PNX_MAPPING_WRITE

/* A number of /proc/self/smaps in KiB, of the mapping in which an address lies; or whether its flags have a word. */
static long smaps(const void *address, const char *key, const char *flag) {
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file);
    char line[512];
    bool here = false;
    long found = -1;
    while (fgets(line, sizeof(line), file)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            here = from <= (uintptr_t)address && (uintptr_t)address < to;
        else if (here && flag && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, flag) != NULL;
        else if (here && key && strncmp(line, key, strlen(key)) == 0)
            found = strtol(line + strlen(key), NULL, 10);
    }
    fclose(file);
    return found;
}

/* ---- locks ---- */

/* Sanitizers answer mlock() themselves, and lock nothing. */
static bool locks_lock(void) {
    static unsigned char *page;
    if (!page)
        page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mlock(page, 4096) != 0)
        return false;
    bool locked = smaps(page, "Locked:", NULL) > 0;
    munlock(page, 4096);
    return locked;
}

TEST(p4_locked_pages_are_in_memory_and_charged_until_they_are_unlocked) {
    struct pnx_budget *budget = purse(0);
    const char *path = make_file("locked", 50000);
    for (int mode = PNX_MAPPING_READ; mode <= PNX_MAPPING_PRIVATE; mode++) {
        struct pnx_mapping *mapping = opened(
                path, PNX_MAPPING_OPTS(.mode = (uint32_t)mode, .budget = budget, .offset = 1));
        size_t before = charged(budget);
        CHECK_EQ(before != 0, mode == PNX_MAPPING_PRIVATE);
        CHECK_EQ(pnx_mapping_lock(mapping, NULL), 0);
        CHECK_EQ(pnx_mapping_lock(mapping, NULL), 0); /* once is enough */
        CHECK_EQ(smaps(pnx_view_all(mapping).p, "Locked:", NULL) > 0, locks_lock());
        CHECK_EQ(charged(budget), 53248);
        CHECK_EQ(info_of(mapping).locked, 53248);
        CHECK_EQ(info_of(mapping).charged, 53248);
        CHECK_EQ(stats_of(mapping).locked, 53248);
        pnx_mapping_unlock(mapping);
        pnx_mapping_unlock(mapping);
        CHECK_EQ(smaps(pnx_view_all(mapping).p, "Locked:", NULL), 0);
        CHECK_EQ(charged(budget), before);
        CHECK_EQ(pnx_mapping_lock(mapping, NULL), 0);
        pnx_mapping_release(&mapping); /* unlocks, too */
        CHECK_EQ(charged(budget), 0);
    }
    /* copies: in pages of their own if that was said before */
    struct pnx_mapping *mapping = opened(
            path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY | PNX_MAPPING_LOCK, .budget = budget));
    CHECK_EQ(info_of(mapping).locked, 53248);
    check_bytes(mapping, 0, 50000);
    pnx_mapping_release(&mapping);
    mapping = opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY, .budget = budget));
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_lock(mapping, &err), -ENOTSUP);
    CHECK_CONTAINS(err.message, "PNX_MAPPING_LOCK");
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    CHECK_EQ(pnx_mapping_lock(NULL, &err), -EINVAL);
    pnx_mapping_unlock(NULL);
    pnx_budget_release(&budget);
}

TEST(a_locked_mapping_locks_what_a_resize_adds) {
    for (int reserve = 0; reserve < 2; reserve++) {
        struct pnx_budget *budget = purse(0);
        const char *path = make_file("lock-grow", 50000);
        struct pnx_mapping *mapping = opened(path,
                PNX_MAPPING_OPTS(.mode = W, .budget = budget, .reserve = reserve ? 1 << 20 : 0,
                        .flags = PNX_MAPPING_RESIZABLE | PNX_MAPPING_LOCK));
        size_t sizes[] = {100000, 300000, 20000, 20001, 400000};
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            resized(mapping, sizes[i], 0);
            size_t pages = (sizes[i] + 4095) / 4096 * 4096;
            CHECK_EQ(info_of(mapping).locked, pages);
            CHECK_EQ(charged(budget), pages);
            struct pnx_view view = pnx_view_all(mapping);
            if (locks_lock())
                CHECK_EQ(smaps(view.p, "Locked:", NULL) * 1024, pages);
            pnx_view_release(&view);
        }
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
        struct pnx_mapping *memory = NULL;
        CHECK_EQ(pnx_mapping_open_anonymous(
                         PNX_MAPPING_OPTS(.length = 50000, .budget = budget,
                                 .flags = PNX_MAPPING_RESIZABLE | PNX_MAPPING_LOCK),
                         NULL, &memory),
                0);
        resized(memory, 400000, 0); /* the system moves locked pages as they are */
        CHECK_EQ(info_of(memory).locked, 401408);
        CHECK_EQ(charged(budget), 401408);
        pnx_mapping_release(&memory);
        CHECK_EQ(charged(budget), 0);
        pnx_budget_release(&budget);
    }
}

TEST(a_limit_on_locked_memory_is_named_with_its_value) {
    if (!locks_lock())
        test_skip("a sanitizer answers mlock()");
    const char *path = make_file("limited", 100000);
    struct rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    if (geteuid() == 0) { /* root has no limit: be somebody else */
        CHECK(chmod(test_dir(), 0755) == 0 && chmod(path, 0644) == 0);
        CHECK(setuid(65534) == 0);
    }
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.budget = budget));
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_lock(mapping, &err), -ENOMEM);
    CHECK_STR(err.phase, "lock");
    CHECK_CONTAINS(err.message, "RLIMIT_MEMLOCK is 65536");
    CHECK_CONTAINS(err.message, "102400");
    CHECK_EQ(charged(budget), 0);
    CHECK_EQ(info_of(mapping).locked, 0);
    pnx_mapping_release(&mapping);
    refuses(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_LOCK, .budget = budget), -ENOMEM, "lock",
            NULL);
    mapping = opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_LOCK, .length = 60000));
    pnx_mapping_release(&mapping);
    pnx_budget_release(&budget);
}

TEST(a_budget_refuses_locked_pages) {
    struct pnx_budget *budget = purse(50000);
    struct pnx_mapping *mapping =
            opened(make_file("dear", 60000), PNX_MAPPING_OPTS(.budget = budget));
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_lock(mapping, &err), -ENOMEM);
    CHECK_STR(err.phase, "budget");
    CHECK_EQ(charged(budget), 0);
    pnx_mapping_release(&mapping);
    pnx_budget_release(&budget);
}

TEST(a_file_that_was_cut_cannot_be_locked_and_says_so) {
    if (!locks_lock())
        test_skip("a sanitizer answers mlock()");
    const char *path = make_file("cut", 100000);
    struct pnx_mapping *mapping = opened(path, NULL);
    CHECK(truncate(path, 10) == 0);
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_lock(mapping, &err), -ESTALE);
    CHECK_CONTAINS(err.message, "cut to 10");
    pnx_mapping_release(&mapping);
}

/* ---- presence ---- */

TEST(populate_brings_pages_in_and_tells_what_a_touch_would_meet) {
    const char *path = make_file("present", 100000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = W, .offset = 5));
    struct rusage before, after;
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 99995, PNX_POPULATE_WRITE), 0);
    getrusage(RUSAGE_SELF, &before);
    struct pnx_view view = pnx_view_all(mapping);
    unsigned char *p = pnx_view_at_mut(&view, 0, view.n, 1);
    for (size_t i = 0; i < view.n; i += 1000)
        p[i]++;
    getrusage(RUSAGE_SELF, &after);
    if (!test_slow())
        CHECK(after.ru_minflt - before.ru_minflt < 5);
    CHECK_EQ(pnx_mapping_populate(mapping, 99995, 0, PNX_POPULATE_READ), 0);
    CHECK_EQ(pnx_mapping_populate(mapping, 99995, 1, PNX_POPULATE_READ), -ERANGE);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 1, (enum pnx_populate)3), -EINVAL);
    CHECK_EQ(pnx_mapping_populate(NULL, 0, 1, PNX_POPULATE_READ), -EINVAL);
    CHECK(truncate(path, 50000) == 0);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 40000, PNX_POPULATE_READ), 0);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 99995, PNX_POPULATE_READ), -ESTALE);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 99995, PNX_POPULATE_WRITE), -ESTALE);
    pnx_mapping_release(&mapping);
    mapping = opened(path, NULL);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 1, PNX_POPULATE_WRITE), -EACCES);
    pnx_mapping_release(&mapping);
    mapping = opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_COPY | PNX_MAPPING_POPULATE));
    pnx_mapping_release(&mapping);
}

TEST(where_the_system_cannot_populate_the_range_is_read) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    const char *path = make_file("old-system", 100000);
    struct pnx_mapping *mapping = opened(path, NULL), *memory = NULL;
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 5000), NULL, &memory), 0);
    test_os_fault("populate", 1, true, EINVAL);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 100000, PNX_POPULATE_READ), 1);
    CHECK_EQ(pnx_mapping_populate(memory, 0, 5000, PNX_POPULATE_WRITE), 1);
    CHECK(truncate(path, 50000) == 0);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 50000, PNX_POPULATE_READ), 1);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 100000, PNX_POPULATE_READ), -ESTALE);
    test_os_fault_clear();
    test_os_fault("populate", 1, true, EFAULT);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 50000, PNX_POPULATE_READ),
            -EIO); /* it is long enough */
    test_os_fault_clear();
    pnx_mapping_release(&mapping);
    pnx_mapping_release(&memory);
}

/* ---- flushes ---- */

TEST(flush_takes_any_range_and_says_what_it_cannot_do) {
    const char *path = make_file("flushed", 100000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = W, .offset = 4095));
    memset(at(mapping, 0, 90000), 1, 90000);
    for (int how = PNX_FLUSH_START; how <= PNX_FLUSH_DURABLE; how++) {
        enum pnx_flush f = (enum pnx_flush)how;
        CHECK_EQ(pnx_mapping_flush(mapping, 0, 95905, f), 0);
        CHECK_EQ(pnx_mapping_flush(mapping, 1, 1, f), 0);
        CHECK_EQ(pnx_mapping_flush(mapping, 95905, 0, f), 0);
        CHECK_EQ(pnx_mapping_flush(mapping, 95905, 1, f), -ERANGE);
        CHECK_EQ(pnx_mapping_flush(mapping, UINT64_MAX, 1, f), -ERANGE);
    }
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, (enum pnx_flush)0), -EINVAL);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, (enum pnx_flush)4), -EINVAL);
    CHECK_EQ(pnx_mapping_flush(NULL, 0, 1, PNX_FLUSH_SYNC), -EINVAL);
    CHECK_EQ(stats_of(mapping).flushes, 9);
    pnx_mapping_close(mapping);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, PNX_FLUSH_SYNC), -ESHUTDOWN);
    pnx_mapping_release(&mapping);
    mapping = opened(path, NULL);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, PNX_FLUSH_SYNC), -ENOTSUP);
    pnx_mapping_release(&mapping);
}

TEST(each_call_of_a_flush_that_fails_is_reported) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    const char *path = test_path("durable");
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = W, .length = 10000,
                                 .flags = PNX_MAPPING_CREATE | PNX_MAPPING_EXTEND));
    static const struct {
        const char *call;
        enum pnx_flush how;
    } calls[] = {{"sync_start", PNX_FLUSH_START}, {"msync", PNX_FLUSH_SYNC},
            {"msync", PNX_FLUSH_DURABLE}, {"fdatasync", PNX_FLUSH_DURABLE},
            {"fsync", PNX_FLUSH_DURABLE}, {"open", PNX_FLUSH_DURABLE}};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        test_os_fault(calls[i].call, 1, true, EIO);
        CHECK_EQ(pnx_mapping_flush(mapping, 0, 10000, calls[i].how), -EIO);
        CHECK(test_os_fault_clear() > 0);
    }
    CHECK_EQ(stats_of(mapping).flush_errors, 6);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 10000, PNX_FLUSH_DURABLE), 0);
    test_os_fault("fsync", 1, true, EIO); /* the directory has been written: its name is safe */
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 10000, PNX_FLUSH_DURABLE), 0);
    test_os_fault_clear();
    test_os_fault("sync_start", 1, true, ENOSYS);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 10000, PNX_FLUSH_START), 0);
    test_os_fault_clear();
    pnx_mapping_release(&mapping);
}

TEST(a_closed_mapping_keeps_its_pages_and_takes_no_more_requests) {
    for (int resizable = 0; resizable < 2; resizable++) {
        struct pnx_mapping *mapping = opened(make_file("shut", 50000),
                PNX_MAPPING_OPTS(.mode = W, .flags = resizable ? PNX_MAPPING_RESIZABLE : 0));
        CHECK_EQ(pnx_mapping_advise(mapping, 0, 50000, PNX_ADVICE_WILLNEED), 0);
        pnx_mapping_close(mapping);
        CHECK_EQ(pnx_mapping_advise(mapping, 0, 50000, PNX_ADVICE_NORMAL), 1); /* no error */
        CHECK_EQ(pnx_mapping_advise(mapping, 0, 1, (enum pnx_mapping_advice)6), -EINVAL);
        CHECK_EQ(pnx_mapping_populate(mapping, 0, 1, PNX_POPULATE_READ), -ESHUTDOWN);
        CHECK_EQ(pnx_mapping_populate(mapping, 0, 1, PNX_POPULATE_WRITE), -ESHUTDOWN);
        for (int how = PNX_FLUSH_START; how <= PNX_FLUSH_DURABLE; how++)
            CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, (enum pnx_flush)how), -ESHUTDOWN);
        CHECK_EQ(stats_of(mapping).flushes, 0);
        pnx_mapping_release(&mapping);
    }
}

/* ---- advice, huge pages ---- */

TEST(advice_keeps_content_in_every_mode) {
    const char *path = make_file("advised", 100000);
    for (int mode = PNX_MAPPING_READ; mode <= PNX_MAPPING_PRIVATE; mode++) {
        struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = (uint32_t)mode));
        if (mode != PNX_MAPPING_READ)
            *at(mapping, 5, 1) = byte_at(5);
        if (mode == PNX_MAPPING_PRIVATE)
            *at(mapping, 50000, 1) = 1;
        for (int advice = 0; advice <= PNX_ADVICE_COLD; advice++) {
            int rc = pnx_mapping_advise(mapping, 3, 90000, (enum pnx_mapping_advice)advice);
            CHECK_EQ(rc, mode == PNX_MAPPING_PRIVATE && advice == PNX_ADVICE_DONTNEED);
        }
        struct pnx_view view = pnx_view_all(mapping);
        for (size_t i = 0; i < 100000; i++)
            CHECK_EQ(view.p[i], i == 50000 && mode == PNX_MAPPING_PRIVATE ? 1 : byte_at(i));
        pnx_mapping_release(&mapping);
    }
}

TEST(huge_pages_are_asked_for_and_info_says_what_came_of_it) {
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = (5 << 20) + 1, .budget = budget,
                                                .flags = PNX_MAPPING_HUGE),
                     NULL, &mapping),
            0);
    struct pnx_view view = pnx_view_all(mapping);
    CHECK_EQ((uintptr_t)view.p % (2 << 20), 0);
    enum pnx_mapping_huge huge = info_of(mapping).huge;
    if (huge == PNX_HUGE_PAGES)
        CHECK_EQ(charged(budget), 6 << 20);
    else
        CHECK_EQ(charged(budget), (5 << 20) + 4096);
    if (huge == PNX_HUGE_ADVISED)
        CHECK_EQ(smaps(view.p, NULL, " hg"), 1);
    memset(at(mapping, 0, view.n), 1, view.n);
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    if (test_os_faults()) {
        test_os_fault("policy", 1, true, EINVAL);
        test_os_fault("mmap", 1, false, ENOMEM); /* the pages that there are none of */
        CHECK_EQ(pnx_mapping_open_anonymous(
                         PNX_MAPPING_OPTS(.length = 5 << 20, .flags = PNX_MAPPING_HUGE), NULL,
                         &mapping),
                0);
        test_os_fault_clear();
        pnx_mapping_release(&mapping);
        test_os_fault("policy", 1, true, EINVAL);
        CHECK_EQ(pnx_mapping_open_anonymous(
                         PNX_MAPPING_OPTS(.length = 5 << 20,
                                 .flags = PNX_MAPPING_HUGE | PNX_MAPPING_RESIZABLE),
                         NULL, &mapping),
                0);
        CHECK_EQ(info_of(mapping).huge, PNX_HUGE_NONE);
        test_os_fault_clear();
        pnx_mapping_release(&mapping);
    }
    mapping = opened(make_file("huge", 3 << 20), PNX_MAPPING_OPTS(.flags = PNX_MAPPING_HUGE));
    check_bytes(mapping, 0, 3 << 20);
    pnx_mapping_release(&mapping);
    pnx_budget_release(&budget);
}

/* ---- policies ---- */

TEST(pages_that_are_not_to_be_dumped_or_inherited_are_marked_so) {
    const char *path = make_file("secret", 50000);
    for (int copy = 0; copy < 2; copy++) {
        struct pnx_mapping *mapping =
                opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_DUMP | PNX_MAPPING_NO_FORK |
                                                       (copy ? PNX_MAPPING_COPY : 0)));
        CHECK_EQ(smaps(pnx_view_all(mapping).p, NULL, " dd"), 1);
        CHECK_EQ(smaps(pnx_view_all(mapping).p, NULL, " dc"), 1);
        check_bytes(mapping, 0, 50000);
        pnx_mapping_release(&mapping);
    }
    /* also what is added later */
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.mode = W, .reserve = 1 << 20,
                                 .flags = PNX_MAPPING_NO_DUMP | PNX_MAPPING_RESIZABLE));
    resized(mapping, 200000, 0);
    CHECK_EQ(smaps(at(mapping, 199999, 1), NULL, " dd"), 1);
    pnx_mapping_release(&mapping);
}

static void read_wiped(void *ctx) {
    struct pnx_mapping *mapping = ctx;
    CHECK_EQ(pnx_view_all(mapping).p[100], 0);
    pnx_mapping_release(&mapping);
}

static void read_missing(void *ctx) {
    volatile const unsigned char *p = ctx;
    (void)*p;
}

/* The address is free in the child, and the release of the parent's mapping must not take what it has put there. */
static void reuse_address(void *ctx) {
    struct pnx_mapping *mapping = ctx;
    unsigned char *p = (unsigned char *)(uintptr_t)pnx_view_all(mapping).p;
    /* valgrind has records of its own of what is where, and does not know that the child has nothing there. */
    int there = getenv("PNX_TEST_SLOW") ? MAP_FIXED : MAP_FIXED_NOREPLACE;
    unsigned char *mine =
            mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | there, -1, 0);
    CHECK(mine == p);
    mine[0] = 7;
    pnx_mapping_release(&mapping);
    CHECK_EQ(mine[0], 7);
}

TEST(a_child_sees_zeros_or_nothing_as_the_policy_says) {
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 5000, .flags = PNX_MAPPING_WIPE_ON_FORK), NULL,
                     &mapping),
            0);
    *at(mapping, 100, 1) = 9;
    CHECK_EQ(test_child(read_wiped, mapping), 0);
    CHECK_EQ(pnx_view_all(mapping).p[100], 9);
    pnx_mapping_release(&mapping);
    CHECK_EQ(
            pnx_mapping_open_anonymous(
                    PNX_MAPPING_OPTS(.length = 5000, .flags = PNX_MAPPING_NO_FORK), NULL, &mapping),
            0);
    if (!test_slow()) /* sanitizers answer the signal themselves */
        CHECK_EQ(test_child(read_missing, (void *)(uintptr_t)pnx_view_all(mapping).p), -SIGSEGV);
    CHECK_EQ(test_child(reuse_address, mapping), 0);
    *at(mapping, 0, 1) = 1;
    pnx_mapping_release(&mapping);
}

TEST(a_policy_that_the_system_refuses_is_an_error_unlike_advice) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    struct pnx_budget *budget = purse(0);
    const char *path = make_file("refused", 50000);
    test_os_fault("policy", 1, true, EINVAL);
    refuses(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_DUMP, .budget = budget), -ENOTSUP,
            "policy", NULL);
    refuses(path,
            PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_FORK | PNX_MAPPING_COPY, .budget = budget),
            -ENOTSUP, "policy", NULL);
    test_os_fault_clear();
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 5000, .reserve = 1 << 20, .budget = budget,
                             .flags = PNX_MAPPING_NO_DUMP | PNX_MAPPING_RESIZABLE),
                     NULL, &mapping),
            0);
    size_t before = charged(budget);
    struct pnx_error err = {0};
    test_os_fault("policy", 1, true, EINVAL);
    CHECK_EQ(pnx_mapping_resize(mapping, 100000, 0, &err), -ENOTSUP);
    test_os_fault_clear();
    CHECK_EQ(charged(budget), before);
    resized(mapping, 100000, 0);
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
}
