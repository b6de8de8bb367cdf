/* SPDX-License-Identifier: Apache-2.0 */
/* What the system, the budget and the user's own functions may refuse of pages, seals, layouts and resizes. */
#include "mapping/fault.h"
#include "mapping/help_file.h"
#include "mapping/mapping.h"

#include <signal.h>
#include <ucontext.h>

#define W    PNX_MAPPING_WRITE
#define R    PNX_MAPPING_RESIZABLE
#define PAGE 4096u

static void need_faults(void) {
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
}

/* ---- pages ---- */

TEST(a_page_that_cannot_be_had_says_why_as_far_as_anybody_can_tell) {
    need_faults();
    const char *path = make_file("pages", 100000);
    struct pnx_mapping *mapping =
            opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_DESCRIPTOR));
    test_os_fault("populate", 1, true, EINVAL);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 100000, PNX_POPULATE_READ), 1);
    test_os_fault("populate", 1, true, EFAULT);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 100000, PNX_POPULATE_READ), -EIO);
    test_os_fault_clear();
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 1, PNX_POPULATE_WRITE), -EACCES);
    pnx_mapping_release(&mapping);
    mapping = opened(path, PNX_MAPPING_OPTS(.mode = W));
    test_os_fault("populate", 1, true, EFAULT);
    int rc = pnx_mapping_populate(mapping, 0, 100000, PNX_POPULATE_WRITE);
    CHECK(rc == -EAGAIN || rc == -EIO); /* there are blocks; or the file system cannot tell */
    test_os_fault(
            "populate", 1, false, EFAULT); /* once: the second try is the last, and finds all */
    rc = pnx_mapping_populate(mapping, 0, 100000, PNX_POPULATE_WRITE);
    CHECK(rc == 0 || rc == -EIO);
    test_os_fault_clear();
    CHECK_EQ(truncate(path, 0), 0);
    test_os_fault("fstat", 1, true, EIO);
    CHECK_EQ(pnx_mapping_populate(mapping, 50000, 1, PNX_POPULATE_READ), -EIO);
    test_os_fault_clear();
    CHECK_EQ(pnx_mapping_populate(mapping, 50000, 1, PNX_POPULATE_READ), -ESTALE);
    CHECK_EQ(pnx_mapping_populate(NULL, 0, 1, PNX_POPULATE_READ), -EINVAL);
    CHECK_EQ(pnx_mapping_populate(mapping, 0, 1, (enum pnx_populate)3), -EINVAL);
    pnx_mapping_release(&mapping);
}

TEST(a_lock_that_the_system_refuses_is_an_error_and_charges_nothing) {
    need_faults();
    static const int errors[] = {EIO, ENOMEM, EAGAIN, EPERM};
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *shared =
            opened(make_file("locked", 50000), PNX_MAPPING_OPTS(.budget = budget));
    struct pnx_mapping *memory = NULL, *copy = NULL, *empty = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_anonymous(PNX_MAPPING_OPTS(.length = 5000), NULL, &memory), 0);
    for (unsigned i = 0; i < 4; i++) {
        test_os_fault("mlock", 1, true, errors[i]);
        CHECK_EQ(pnx_mapping_lock(shared, &err), -errors[i]);
        CHECK_CONTAINS(err.message, "cannot lock");
        CHECK_EQ(pnx_mapping_lock(memory, &err), -errors[i]);
        test_os_fault_clear();
        CHECK_EQ(charged(budget), 0);
        CHECK_EQ(info_of(shared).locked, 0);
    }
    copy = opened(make_file("copied", 100), NULL);
    CHECK_EQ(pnx_mapping_lock(copy, &err), -ENOTSUP);
    empty = opened(make_file("empty", 0), NULL);
    CHECK_EQ(pnx_mapping_lock(empty, &err), 0);
    CHECK_EQ(pnx_mapping_lock(NULL, &err), -EINVAL);
    pnx_mapping_unlock(NULL);
    pnx_mapping_release(&shared);
    pnx_mapping_release(&memory);
    pnx_mapping_release(&copy);
    pnx_mapping_release(&empty);
    pnx_budget_release(&budget);
}

TEST(a_flush_tells_a_file_that_was_cut_from_other_failures) {
    need_faults();
    const char *path = make_file("flushed", 50000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.mode = W));
    struct pnx_mapping *lean =
            opened(path, PNX_MAPPING_OPTS(.mode = W, .flags = PNX_MAPPING_NO_DESCRIPTOR));
    test_os_fault("msync", 1, true, ENOMEM);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 50000, PNX_FLUSH_SYNC), -ENOMEM);
    CHECK_EQ(truncate(path, 10), 0);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 50000, PNX_FLUSH_SYNC), -ESTALE);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 10, PNX_FLUSH_SYNC), -ENOMEM); /* these are there */
    CHECK_EQ(pnx_mapping_flush(lean, 0, 50000, PNX_FLUSH_SYNC), -ENOMEM);
    CHECK_EQ(pnx_mapping_flush(lean, 50000, 0, PNX_FLUSH_SYNC), 0);
    test_os_fault_clear();
    CHECK_EQ(pnx_mapping_flush(mapping, 50000, 0, PNX_FLUSH_START), 0);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, (enum pnx_flush)0), -EINVAL);
    CHECK_EQ(pnx_mapping_flush(mapping, 0, 1, (enum pnx_flush)4), -EINVAL);
    CHECK_EQ(pnx_mapping_flush(NULL, 0, 1, PNX_FLUSH_SYNC), -EINVAL);
    CHECK_EQ(pnx_mapping_advise(NULL, 0, 1, PNX_ADVICE_NORMAL), -EINVAL);
    CHECK_EQ(pnx_mapping_advise(mapping, 50001, 0, PNX_ADVICE_NORMAL), -ERANGE);
    CHECK_EQ(pnx_mapping_advise(mapping, 50000, 0, PNX_ADVICE_NORMAL), 1);
    pnx_mapping_release(&mapping);
    pnx_mapping_release(&lean);
}

/* ---- seals ---- */

static struct pnx_mapping *memfd(size_t length, const struct pnx_layout *layout) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    int rc = pnx_mapping_open_memfd(
            PNX_MAPPING_OPTS(.length = length, .flags = R, .layout = layout), &err, &mapping);
    CHECK_MSG(rc == 0, "%s", err.message);
    return mapping;
}

TEST(what_stands_in_the_way_of_a_seal_is_named) {
    need_faults();
    struct pnx_mapping *mapping = memfd(50000, NULL);
    struct pnx_error err = {0};
    struct pnx_view view;
    CHECK_EQ(pnx_view_get(mapping, 0, 1, &view), 0);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), -EBUSY);
    CHECK_CONTAINS(err.message, "1 live view");
    pnx_view_release(&view);
    static const struct {
        int error;
        int code;
        const char *says;
    } answers[] = {{EPERM, -EPERM, "PNX_SEAL_SEAL"}, {EINVAL, -ENOTSUP, "no memfd"},
            {EBUSY, -EBUSY, "mapped for writing"}, {EIO, -EIO, "cannot be sealed"}};
    for (unsigned i = 0; i < 4; i++) {
        test_os_fault("seal", 1, true, answers[i].error);
        CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_GROW, &err), answers[i].code);
        CHECK_CONTAINS(err.message, answers[i].says);
        CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), answers[i].code);
        test_os_fault_clear();
        CHECK_EQ(info_of(mapping).seals, 0);
        *at(mapping, 49999, 1) = 1;
    }
    bool locked = pnx_mapping_lock(mapping, NULL) == 0;
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), 0);
    CHECK_EQ(info_of(mapping).locked != 0, locked);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE | PNX_SEAL_GROW, &err), 0); /* again */
    pnx_mapping_release(&mapping);
    mapping = memfd(50000, NULL); /* nothing at all can be sealed, too */
    resized(mapping, 0, 0);
    CHECK_EQ(pnx_mapping_seal(mapping, PNX_SEAL_WRITE, &err), 0);
    CHECK_EQ(info_of(mapping).seals, PNX_SEAL_WRITE | PNX_SEAL_GROW | PNX_SEAL_SHRINK);
    pnx_mapping_release(&mapping);
}

static struct pnx_mapping *reentered;
static unsigned reentries;

static int validate_reenters(void *ctx, const struct pnx_view *view) {
    struct pnx_error err = {0};
    (void)ctx;
    (void)view;
    if (!reentered)
        return 0;
    reentries++;
    CHECK_EQ(pnx_mapping_seal(reentered, PNX_SEAL_GROW, &err), -EDEADLK);
    CHECK_CONTAINS(err.message, "from here");
    return 0;
}

TEST(a_seal_from_within_a_resize_is_a_deadlock_error) {
    struct pnx_mapping *mapping = memfd(50000, PNX_LAYOUT(.validate = validate_reenters));
    reentered = mapping;
    resized(mapping, 60000, 0);
    reentered = NULL;
    CHECK(reentries > 0);
    CHECK_EQ(info_of(mapping).seals, 0);
    pnx_mapping_release(&mapping);
}

/* ---- layouts ---- */

static int answer(void *ctx, const struct pnx_view *view) {
    (void)view;
    return *(int *)ctx;
}

TEST(what_the_users_functions_return_is_an_error_whatever_its_sign) {
    static const struct {
        int returned;
        int cause;
        int from_init;
    } cases[] = {{5, -EINVAL, -EINVAL}, {-EUCLEAN, -EUCLEAN, -EUCLEAN}};
    const char *path = make_file("judged", 50000);
    for (unsigned i = 0; i < 2; i++) {
        int returned = cases[i].returned;
        struct pnx_mapping *mapping = NULL;
        struct pnx_error err = {0};
        CHECK_EQ(pnx_mapping_open(path,
                         PNX_MAPPING_OPTS(.layout =
                                                  PNX_LAYOUT(.validate = answer, .ctx = &returned)),
                         &err, &mapping),
                PNX_E_FORMAT);
        CHECK_EQ(err.cause, cases[i].cause);
        CHECK_EQ(pnx_mapping_open_anonymous(
                         PNX_MAPPING_OPTS(.length = 100,
                                 .layout = PNX_LAYOUT(.init = answer, .ctx = &returned)),
                         &err, &mapping),
                cases[i].from_init);
        CHECK_CONTAINS(err.message, "init returned");
    }
}

TEST(a_layout_for_which_fresh_memory_has_no_room_is_refused) {
    static const struct {
        const char *says;
        struct pnx_layout layout;
    } cases[] = {
            {"magic", {.size = sizeof(struct pnx_layout), .magic = "abc", .magic_size = 3}},
            {"marker", {.size = sizeof(struct pnx_layout), .marker = 7}},
            {"version", {.size = sizeof(struct pnx_layout), .version_max = 7}},
            {"header", {.size = sizeof(struct pnx_layout), .header_size = 3}},
    };
    for (unsigned i = 0; i < 4; i++) {
        struct pnx_mapping *mapping = NULL;
        struct pnx_error err = {0};
        CHECK_EQ(pnx_mapping_open_anonymous(
                         PNX_MAPPING_OPTS(.length = 2, .layout = &cases[i].layout), &err, &mapping),
                PNX_E_FORMAT);
        CHECK_CONTAINS(err.message, cases[i].says);
    }
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 2,
                             .layout = PNX_LAYOUT(.magic = "", .magic_size = SIZE_MAX)),
                     &err, &mapping),
            -EINVAL);
    CHECK_STR(err.field, "magic_size");
}

static int lose(void *ctx, const struct pnx_view *view) {
    CHECK_EQ(truncate(ctx, 0), 0);
    return *(const volatile unsigned char *)(view->p + 40000); /* 0, which nobody believes */
}

TEST(content_that_gets_lost_while_it_is_looked_at_is_stale) {
    char path[512];
    snprintf(path, sizeof(path), "%s", make_file("losing", 50000));
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(pnx_mapping_open(path,
                     PNX_MAPPING_OPTS(.layout = PNX_LAYOUT(.validate = lose, .ctx = path)), &err,
                     &mapping),
            -ESTALE);
    CHECK_CONTAINS(err.message, "got lost");
    CHECK_EQ(pnx_mapping_open(path,
                     PNX_MAPPING_OPTS(.mode = W, .length = 50000, .flags = PNX_MAPPING_EXTEND,
                             .layout = PNX_LAYOUT(.init = lose, .ctx = path)),
                     &err, &mapping),
            -ESTALE);
    CHECK_CONTAINS(err.message, "got lost");
}

TEST(a_layout_is_checked_without_a_scope_where_faults_are_refused) {
    int returned = 0;
    struct pnx_layout layout = *PNX_LAYOUT(.validate = answer, .ctx = &returned);
    const char *path = make_file("unguarded", 50000);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_REFUSED), 0);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.layout = &layout));
    pnx_mapping_release(&mapping);
    returned = -EUCLEAN;
    CHECK_EQ(pnx_mapping_open(path, PNX_MAPPING_OPTS(.layout = &layout), NULL, &mapping),
            PNX_E_FORMAT);
}

/* ---- resizes ---- */

static void refuses_resize(
        struct pnx_mapping *mapping, uint64_t length, uint32_t flags, int code, const char *says) {
    struct pnx_error err = {0};
    size_t before = pnx_mapping_size(mapping);
    CHECK_EQ(pnx_mapping_resize(mapping, length, flags, &err), code);
    CHECK_CONTAINS(err.message, says);
    CHECK_EQ(pnx_mapping_size(mapping), before);
}

TEST(a_resize_that_makes_no_sense_is_refused_by_name) {
    const char *path = make_file("resized", 50000);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.flags = R));
    struct pnx_fault_scope scope;
    refuses_resize(mapping, 100, 4, -EINVAL, "unknown flags");
    refuses_resize(mapping, 100, PNX_RESIZE_TRUNCATE, -EINVAL, "writable file");
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    refuses_resize(mapping, 40000, 0, -EDEADLK, "access scope"); /* shrinks */
    refuses_resize(mapping, 50000, 0, -EDEADLK, "access scope"); /* stays */
    refuses_resize(mapping, 0, 0, -EDEADLK, "access scope");     /* replaces */
    CHECK_EQ(pnx_fault_end(&scope), 0);
    pnx_mapping_release(&mapping);
    CHECK_EQ(pnx_mapping_open_anonymous(
                     PNX_MAPPING_OPTS(.length = 5000, .flags = R), NULL, &mapping),
            0);
    refuses_resize(mapping, 100, PNX_RESIZE_TRUNCATE, -EINVAL, "writable file");
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    refuses_resize(mapping, 500000, 0, -EDEADLK, "access scope"); /* moves */
    CHECK_EQ(pnx_fault_end(&scope), 0);
    pnx_mapping_release(&mapping);
}

TEST(a_budget_that_refuses_more_locked_pages_refuses_the_resize) {
    need_faults();
    for (unsigned reserve = 0; reserve < 2; reserve++) {
        struct pnx_budget *budget = purse(60000);
        const char *path = make_file("dear", 40960);
        struct pnx_mapping *mapping =
                opened(path, PNX_MAPPING_OPTS(.mode = W, .flags = R, .budget = budget,
                                     .reserve = reserve ? 1 << 20 : 0));
        if (pnx_mapping_lock(mapping, NULL))
            test_skip("pages cannot be locked");
        CHECK_EQ(charged(budget), 40960);
        struct pnx_error err = {0};
        CHECK_EQ(pnx_mapping_resize(mapping, 100000, 0, &err), -ENOMEM);
        CHECK_STR(err.phase, "budget");
        test_os_fault("mlock", 1, true, EAGAIN);
        /* Without a reserve both, old and new, are to be locked for a moment: the budget says no before the system does. */
        CHECK_EQ(pnx_mapping_resize(mapping, 45000, 0, &err), reserve ? -EAGAIN : -ENOMEM);
        test_os_fault_clear();
        CHECK_EQ(pnx_mapping_size(mapping), 40960);
        CHECK_EQ(size_of(path), 40960);
        CHECK_EQ(charged(budget), 40960);
        CHECK_EQ(info_of(mapping).locked, 40960);
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
        pnx_budget_release(&budget);
    }
}

/* ---- who handles faults ---- */

TEST(modes_of_fault_handling_that_do_not_go_together_are_refused) {
    struct pnx_fault_stats stats = {.size = sizeof(size_t) + sizeof(uint64_t)};
    CHECK_EQ(pnx_fault_check(), -EAGAIN);
    CHECK_EQ(pnx_fault_install((enum pnx_fault_mode)0), -EINVAL);
    CHECK_EQ(pnx_fault_install((enum pnx_fault_mode)4), -EINVAL);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_FOREIGN), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_FOREIGN), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), -EBUSY);
    CHECK_EQ(pnx_fault_check(), 0);
    CHECK(!pnx_fault_handle(SIGBUS, NULL, NULL));
    CHECK_EQ(pnx_fault_uninstall(0), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_REFUSED), 0);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), -EBUSY);
    CHECK_EQ(pnx_fault_check(), -ENOTSUP);
    CHECK_EQ(pnx_fault_uninstall(0), 0);
    CHECK_EQ(pnx_fault_check(), -EAGAIN);
    CHECK_EQ(pnx_fault_uninstall(0), 0); /* nothing was installed */
    CHECK_EQ(pnx_fault_read_stats(NULL), -EINVAL);
    CHECK_EQ(pnx_fault_read_stats(&stats), 0);
    CHECK_EQ(stats.size, sizeof(size_t) + sizeof(uint64_t));
    stats.size = 1;
    CHECK_EQ(pnx_fault_read_stats(&stats), -EINVAL);
}

TEST(a_refused_sigaction_leaves_the_handler_as_it_is) {
    need_faults();
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), 0);
    test_os_fault("sigaction", 1, true, EPERM);
    CHECK_EQ(pnx_fault_check(), -EPERM);
    CHECK_EQ(pnx_fault_uninstall(0), -EPERM);
    test_os_fault_clear();
    CHECK_EQ(pnx_fault_check(), 0);
    CHECK_EQ(pnx_fault_uninstall(0), 0);
}

TEST(p7_a_signal_that_was_sent_is_ignored_where_it_was_ignored_before) {
    struct sigaction ours, after;
    siginfo_t sent = {.si_signo = SIGBUS, .si_code = SI_USER};
    CHECK(signal(SIGBUS, SIG_IGN) != SIG_ERR);
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), 0);
    CHECK_EQ(raise(SIGBUS), 0);
    CHECK_EQ(sigaction(SIGBUS, NULL, &ours), 0);
    ours.sa_sigaction(SIGBUS, &sent, NULL); /* by a handler that passes on less than it has got */
    CHECK_EQ(pnx_fault_uninstall(0), 0);
    CHECK_EQ(sigaction(SIGBUS, NULL, &after), 0);
    CHECK(after.sa_handler == SIG_IGN);
}

TEST(p7_what_is_no_fault_in_a_mapped_page_is_for_others) {
    static ucontext_t context;
    siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_ADRERR};
    struct pnx_mapping *mapping = opened(make_file("asked", 50000), NULL);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_install(PNX_FAULT_FOREIGN), 0);
    CHECK(!pnx_fault_handle(SIGBUS, &info, &context)); /* address 0 */
    struct pnx_fault_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_fault_read_stats(&stats), 0);
    CHECK_EQ(stats.foreign, 1);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    info.si_addr = (void *)(uintptr_t)pnx_view_all(mapping).p;
    CHECK(!pnx_fault_handle(SIGSEGV, &info, &context));
    CHECK(!pnx_fault_handle(SIGBUS, NULL, &context));
    CHECK(!pnx_fault_handle(SIGBUS, &info, NULL));
    info.si_code = BUS_MCEERR_AR;
    CHECK(!pnx_fault_handle(SIGBUS, &info, &context)); /* memory that the hardware has lost */
    CHECK_EQ(pnx_fault_end(&scope), 0);
    CHECK_EQ(stats_of(mapping).faults, 0);
    pnx_mapping_release(&mapping);
}

TEST(a_file_is_another_one_when_anything_that_tells_it_differs) {
    struct pnx_file_info info = {.size = 1, .mtime_ns = 2, .ctime_ns = 3, .inode = 4, .device = 5};
    struct pnx_fault_record record = {.pages = {.info = info}};
    CHECK(pnx__fault_same(&record, &info));
    for (unsigned i = 0; i < 5; i++) {
        struct pnx_file_info other = info;
        other.size += i == 0;
        other.mtime_ns += i == 1;
        other.ctime_ns += i == 2;
        other.inode += i == 3;
        other.device += i == 4;
        CHECK(!pnx__fault_same(&record, &other));
    }
}

/* ---- copies ---- */

TEST(p6_a_copy_ends_with_an_error_wherever_in_it_the_lost_page_begins) {
    static unsigned char bytes[3 * PAGE + 64];
    const char *path = make_file("halved", 4 * PAGE);
    struct pnx_mapping *mapping = opened(path, PNX_MAPPING_OPTS(.flags = PNX_MAPPING_NO_COPY));
    CHECK_EQ(truncate(path, PAGE), 0);
    uint64_t faults = 0;
    for (size_t n = 1; n < 64; n++) {
        for (size_t there = 0; there <= n; there++) {
            int rc = pnx_fault_copy_out(mapping, PAGE - there, bytes, n);
            CHECK_EQ(rc, there < n ? -ESTALE : 0);
            faults += there < n;
            for (size_t i = 0; there == n && i < n; i++)
                CHECK_EQ(bytes[i], byte_at(PAGE - n + i));
        }
    }
    /* In long ones, to a destination that is aligned, and to one that is not. */
    for (size_t off = 0; off < 2; off++) {
        for (size_t there = 0; there < 3; there++) {
            uint64_t from = PAGE - there * 300;
            CHECK_EQ(pnx_fault_copy_out(mapping, from, bytes + off, 2 * PAGE), -ESTALE);
            CHECK_EQ(pnx_fault_copy_out(mapping, from, bytes + off, 1000), -ESTALE);
            faults += 2;
        }
    }
    CHECK_EQ(stats_of(mapping).faults, faults);
    CHECK_EQ(pnx_fault_state(mapping, NULL), 0);
    pnx_mapping_release(&mapping);
}

TEST(a_move_by_copying_that_the_budget_refuses_changes_nothing) {
    need_faults();
    struct pnx_budget *budget = purse(24000);
    struct pnx_mapping *mapping = NULL;
    CHECK_EQ(
            pnx_mapping_open_anonymous(
                    PNX_MAPPING_OPTS(.length = 8192, .flags = R, .budget = budget), NULL, &mapping),
            0);
    *at(mapping, 8191, 1) = 9;
    test_os_fault("mremap", 1, true, ENOTSUP); /* there is room for the longer one, not for both */
    CHECK_EQ(pnx_mapping_resize(mapping, 20000, 0, NULL), -ENOMEM);
    test_os_fault("mremap", 1, true, EIO);
    CHECK_EQ(pnx_mapping_resize(mapping, 20000, 0, NULL), -EIO);
    test_os_fault_clear();
    CHECK_EQ(pnx_mapping_size(mapping), 8192);
    CHECK_EQ(charged(budget), 8192);
    CHECK_EQ(pnx_view_all(mapping).p[8191], 9);
    pnx_mapping_release(&mapping);
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
}

TEST(copies_in_pages_of_their_own_that_cannot_be_had_are_refused) {
    need_faults();
    struct pnx_budget *budget = purse(0);
    const char *path = make_file("private", 50000);
    uint32_t flags = PNX_MAPPING_COPY | PNX_MAPPING_NO_DUMP;
    test_os_fault("mmap", 1, true, ENOMEM);
    refuses(path, PNX_MAPPING_OPTS(.flags = flags, .budget = budget), -ENOMEM, "allocate", NULL);
    test_os_fault("policy", 1, true, ENOMEM);
    refuses(path, PNX_MAPPING_OPTS(.flags = flags, .budget = budget), -ENOMEM, "policy", NULL);
    test_os_fault_clear();
    CHECK_EQ(charged(budget), 0);
    pnx_budget_release(&budget);
    budget = purse(1000);
    refuses(path, PNX_MAPPING_OPTS(.flags = flags, .budget = budget), -ENOMEM, "budget", NULL);
    pnx_budget_release(&budget);
}
