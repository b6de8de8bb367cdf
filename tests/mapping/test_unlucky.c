/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resizes under a system that refuses one call, or every call from some moment on, whichever it is; and what else few
 * programs get to see of mappings.
 */
#include "fault_case.h"
#include "mapping/help_file.h"

#include <patinox/mapping_windows.h>
#include <patinox/stats.h>
#include <pthread.h>

#define W   PNX_MAPPING_WRITE
#define R   PNX_MAPPING_RESIZABLE
#define OLD 50000u

#define REFUSED 3 /* exit status: a call was refused */

/* ---- resizes ---- */

struct unlucky {
    const char *what;
    uint64_t length;
    uint32_t flags; /* of the resize */
    bool anonymous, private, reserves, locked;
    int error;
};

static struct pnx_mapping *open_for(const struct unlucky *c, struct pnx_budget *budget) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_mapping_opts opts = {.size = sizeof(opts),
            .mode = c->private     ? PNX_MAPPING_PRIVATE
                    : c->anonymous ? 0
                                   : W,
            .flags = R,
            .reserve = c->reserves ? 1 << 20 : 0,
            .budget = budget};
    if (c->anonymous) {
        opts.length = OLD;
        CHECK_EQ(pnx_mapping_open_anonymous(&opts, NULL, &mapping), 0);
        for (unsigned i = 0; i < OLD; i++)
            *at(mapping, i, 1) = byte_at(i);
    } else {
        mapping = opened(make_file("unlucky", OLD), &opts);
    }
    if (c->locked && pnx_mapping_lock(mapping, NULL) != 0)
        test_skip("a sanitizer answers mlock, or the system allows none");
    return mapping;
}

struct attempt {
    const struct unlucky *c;
    int64_t nth;
    bool forever;
};

/*
 * One resize, in a process of its own.  It is done, or nothing has happened (but where every later call is
 * refused, too, a file that was made longer stays so), or the mapping is closed and empty.  Whichever it is, the locked
 * bytes that info tells are those of the pages, and nothing stays charged.
 */
static void try_resize(void *ctx) {
    const struct attempt *attempt = ctx;
    const struct unlucky *c = attempt->c;
    int64_t nth = attempt->nth;
    struct pnx_budget *budget = purse(0);
    struct pnx_mapping *mapping = open_for(c, budget);
    struct pnx_error err = {0};
    test_os_fault(NULL, nth, attempt->forever, c->error);
    int rc = pnx_mapping_resize(mapping, c->length, c->flags, &err);
    bool refused = test_os_fault_clear() > 0;
    size_t size = pnx_mapping_size(mapping);
    if (rc == 0) {
        CHECK_EQ(size, c->length);
    } else {
        CHECK_MSG(refused && err.message[0], "%s, call %d: %s", c->what, (int)nth, err.message);
        CHECK_EQ(err.code, rc);
        CHECK_MSG(size == OLD || size == 0, "%s, call %d: %zu bytes", c->what, (int)nth, size);
        /* What has to be undone is done by calls, too. */
        if (!attempt->forever && !c->anonymous)
            CHECK_EQ(size_of(test_path("unlucky")), OLD);
        struct pnx_view view;
        CHECK_EQ(pnx_view_get(mapping, 0, 1, &view), size ? 0 : -ESHUTDOWN);
        pnx_view_release(&view);
    }
    struct pnx_view view = pnx_view_all(mapping);
    for (size_t i = 0; i < view.n; i++)
        CHECK_MSG(view.p[i] == (i < OLD ? byte_at(i) : 0), "%s, call %d: byte %zu", c->what,
                (int)nth, i);
    pnx_view_release(&view);
    size_t pages = (size + PAGE - 1) / PAGE * PAGE;
    size_t locked = info_of(mapping).locked;
    CHECK_MSG(locked == (c->locked ? pages : 0), "%s, call %d: %zu locked of %zu", c->what,
            (int)nth, locked, pages);
    pnx_mapping_release(&mapping);
    /* Without membarrier nobody can tell whether a scope is open, and nothing is given back any more. */
    if (rc == 0 || !strstr(err.message, "scopes do not end")) {
        CHECK_EQ(charged(budget), 0);
        pnx_budget_release(&budget);
    }
    _exit(refused ? REFUSED : 0);
}

static void refuse_each_call_of(struct unlucky c) {
    static const int errors[] = {EIO, ENOMEM, ENOTSUP, EFAULT};
    if (!test_os_faults())
        test_skip("this build cannot make system calls fail");
    for (unsigned e = 0; e < sizeof(errors) / sizeof(errors[0]); e++) {
        c.error = errors[e];
        int64_t calls = 0;
        bool more = true;
        while (more) {
            struct attempt attempt = {.c = &c, .nth = calls + 1};
            int once = test_child(try_resize, &attempt);
            attempt.forever = true;
            int ever = test_child(try_resize, &attempt);
            CHECK_MSG((once == 0 || once == REFUSED) && once == ever, "%s, %s, call %d: %d and %d",
                    c.what, pnx_errname(-errors[e]), (int)attempt.nth, once, ever);
            more = once == REFUSED;
            calls += more;
        }
        CHECK(calls > 0);
    }
}

TEST(p6_a_growth_that_the_system_refuses_anywhere_changes_nothing) {
    refuse_each_call_of((struct unlucky){.what = "file", .length = 150000});
    refuse_each_call_of((struct unlucky){.what = "kept", .length = 150000, .reserves = true});
    refuse_each_call_of((struct unlucky){.what = "anonymous", .length = 150000, .anonymous = true});
    refuse_each_call_of((struct unlucky){
            .what = "anonymous, kept", .length = 150000, .anonymous = true, .reserves = true});
}

TEST(p6_a_cut_that_the_system_refuses_anywhere_changes_nothing_or_closes) {
    refuse_each_call_of((struct unlucky){.what = "shrink", .length = 9000});
    refuse_each_call_of(
            (struct unlucky){.what = "truncate", .length = 9000, .flags = PNX_RESIZE_TRUNCATE});
    refuse_each_call_of(
            (struct unlucky){.what = "to nothing", .length = 0, .flags = PNX_RESIZE_TRUNCATE});
    refuse_each_call_of((struct unlucky){.what = "private", .length = 9000, .private = true});
    refuse_each_call_of((struct unlucky){.what = "anonymous", .length = 9000, .anonymous = true});
}

TEST(p6_locked_bytes_are_those_of_the_pages_whatever_the_system_refuses) {
    refuse_each_call_of((struct unlucky){.what = "file", .length = 150000, .locked = true});
    refuse_each_call_of(
            (struct unlucky){.what = "kept", .length = 150000, .reserves = true, .locked = true});
    refuse_each_call_of((struct unlucky){
            .what = "anonymous", .length = 150000, .anonymous = true, .locked = true});
    refuse_each_call_of((struct unlucky){
            .what = "truncate", .length = 9000, .flags = PNX_RESIZE_TRUNCATE, .locked = true});
}

TEST(a_budget_with_no_room_for_more_locked_bytes_refuses_the_growth) {
    struct pnx_mapping *mapping = NULL;
    struct pnx_error err = {0};
    for (int reserves = 0; reserves < 2; reserves++) {
        struct pnx_budget *budget =
                purse(150000); /* a file's pages are charged as far as they are locked */
        mapping = opened(
                make_file("locked", OLD), PNX_MAPPING_OPTS(.mode = W, .flags = R, .budget = budget,
                                                  .reserve = reserves ? 1 << 20 : 0));
        if (pnx_mapping_lock(mapping, NULL) != 0)
            test_skip("a sanitizer answers mlock, or the system allows none");
        size_t before = charged(budget);
        CHECK(before >= OLD && before < 150000);
        CHECK_EQ(pnx_mapping_resize(mapping, 200000, 0, &err), -ENOMEM);
        CHECK_CONTAINS(err.message, "budget");
        CHECK_EQ(pnx_mapping_size(mapping), OLD);
        CHECK_EQ(charged(budget), before);
        CHECK_EQ(info_of(mapping).locked, before);
        CHECK_EQ(*at(mapping, OLD - 1, 1), byte_at(OLD - 1));
        resized(mapping, 60000, 0); /* there is room for that */
        CHECK_EQ(charged(budget), info_of(mapping).locked);
        pnx_mapping_release(&mapping);
        CHECK_EQ(charged(budget), 0);
        pnx_budget_release(&budget);
    }
}

/* ---- who handles faults, while that changes ---- */

static void *uninstall(void *ctx) {
    *(int *)ctx = pnx_fault_uninstall(PNX_NEVER);
    return NULL;
}

TEST(p7_while_the_handler_is_being_taken_away_nobody_begins_or_decides_anything) {
    struct pnx_mapping *mapping = map_pages("leaving", 2), *other = map_pages("other", 2);
    struct pnx_fault_scope scope, refused;
    pthread_t thread;
    int result = 1;
    CHECK_EQ(pnx_fault_install(PNX_FAULT_SIGNAL), 0);
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    CHECK_EQ(pthread_create(&thread, NULL, uninstall, &result), 0);
    while (pnx_fault_install(PNX_FAULT_SIGNAL) != -EBUSY) /* until it waits for the scope */
        sched_yield();
    CHECK_EQ(pnx_fault_uninstall(0), -EBUSY);
    CHECK_EQ(pnx_fault_begin(other, &refused), -EBUSY);
    CHECK_EQ(pnx_fault_end(&refused), -EBUSY);
    CHECK_EQ(peek(mapping, 0), byte_at(0));
    CHECK_EQ(pnx_fault_end(&scope), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(result, 0);
    CHECK_EQ(pnx_fault_check(), -EAGAIN); /* undecided, as at first */
    CHECK_EQ(pnx_fault_begin(other, &scope), 0);
    CHECK_EQ(pnx_fault_end(&scope), 0);
    pnx_mapping_release(&mapping);
    pnx_mapping_release(&other);
}

struct text {
    char bytes[1 << 17];
    size_t n;
};

static int append(void *ctx, const char *piece, size_t n) {
    struct text *text = ctx;
    CHECK(text->n + n < sizeof(text->bytes));
    memcpy(text->bytes + text->n, piece, n);
    text->n += n;
    text->bytes[text->n] = 0;
    return 0;
}

static const char *openmetrics(void) {
    static struct text text;
    text.n = 0;
    CHECK_EQ(pnx_stats_openmetrics(NULL, append, &text), 0);
    return text.bytes;
}

TEST(the_numbers_of_faults_are_in_the_text_for_a_monitoring_system) {
    struct pnx_mapping *mapping = map_pages("counted", 3);
    struct pnx_fault_scope scope;
    CHECK_EQ(pnx_fault_begin(mapping, &scope), 0);
    cut("counted", 0);
    CHECK_EQ(peek(mapping, PAGE), 0);
    CHECK_EQ(pnx_fault_end(&scope), -ESTALE);
    CHECK_EQ(fault_stats().truncated, 1);
    CHECK_CONTAINS(
            openmetrics(), "\npatinox_fault_truncated_total{fault=\"process\",number=\"0\"} 1\n");
    CHECK_CONTAINS(openmetrics(), "\npatinox_fault_mappings{fault=\"process\",number=\"0\"} 1\n");
    pnx_mapping_release(&mapping);
    CHECK_CONTAINS(openmetrics(), "\npatinox_fault_mappings{fault=\"process\",number=\"0\"} 0\n");
}

/* ---- windows ---- */

TEST(windows_of_what_is_no_file_or_cannot_be_duplicated_say_so) {
    struct pnx_windows *untouched = (struct pnx_windows *)&untouched, *windows = untouched;
    struct pnx_error err = {0};
    int fd = open(test_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    unsigned before = open_descriptors();
    CHECK_EQ(pnx_windows_open_fd(fd, NULL, &err, &windows), -EISDIR);
    CHECK_CONTAINS(err.message, "is a directory");
    CHECK_EQ(pnx_windows_open_fd(-1, NULL, &err, &windows), -EINVAL);
    CHECK_STR(err.field, "fd");
    CHECK_EQ(pnx_windows_open_fd(fd, NULL, &err, NULL), -EINVAL);
    CHECK_STR(err.field, "ret_windows");
    CHECK_EQ(pnx_windows_open_fd(fd, PNX_WINDOWS_OPTS(.flags = 1u << 31), &err, &windows), -EINVAL);
    CHECK_STR(err.field, "flags");
    if (test_os_faults()) {
        test_os_fault("dup", 1, true, EMFILE);
        CHECK_EQ(pnx_windows_open_fd(fd, NULL, &err, &windows), -EMFILE);
        CHECK_EQ(test_os_fault_clear(), 1);
        CHECK_CONTAINS(err.message, "cannot duplicate descriptor");
    }
    CHECK(windows == untouched);
    CHECK_EQ(open_descriptors(), before);
    close(fd);
}
