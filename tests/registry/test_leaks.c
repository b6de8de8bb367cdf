/* SPDX-License-Identifier: Apache-2.0 */
/* The look at the end of the process, and known leaks: P1, P2 of patinox/leaks.h. */
#include "harness/harness.h"
#include "registry/ledger.h"
#include "registry/suppress.h"

#include <patinox/leaks.h>
#include <patinox/shutdown.h>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- processes that end ---- */

struct ending {
    const char *leaks, *suppress; /* of the environment */
    void (*act)(void);
    int status;
    char out[4096], err[8192];
};

static void read_all(const char *path, char *buf, size_t n) {
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    size_t used = 0;
    ssize_t r;
    while (used + 1 < n && (r = read(fd, buf + used, n - 1 - used)) > 0)
        used += (size_t)r;
    buf[used] = '\0';
    close(fd);
}

/* Runs act in a process of its own, whose output goes to files, and which ends by exit(3). */
static void run(struct ending *e) {
    char out[256], err[256];
    snprintf(out, sizeof(out), "%s", test_path("out"));
    snprintf(err, sizeof(err), "%s", test_path("err"));
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (!freopen(out, "w", stdout) || !freopen(err, "w", stderr))
            _exit(99);
        if (e->leaks)
            setenv("PATINOX_LEAKS", e->leaks, 1);
        if (e->suppress)
            setenv("PATINOX_SUPPRESS", e->suppress, 1);
        e->act();
        exit(3);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    e->status = WEXITSTATUS(status);
    read_all(out, e->out, sizeof(e->out));
    read_all(err, e->err, sizeof(e->err));
}

static int fine(void *arg, const struct pnx_cancel *cancel) {
    (void)arg, (void)cancel;
    return 0;
}

static pnx_resource_id leak(const char *type, pnx_cleanup_fn *cleanup) {
    pnx_resource_id id;
    if (pnx_registry_add(NULL,
                PNX_RESOURCE_AT("leaky.c:7", .type = type, .name = "lost", .bytes = 4096,
                        .cleanup = cleanup),
                NULL, &id))
        _exit(98);
    return id;
}

static void leak_one(void) {
    printf("not yet flushed");
    leak("socket", fine);
}

static void leak_none(void) {
    (void)pnx_registry_remove(NULL, leak("socket", fine));
}

static void shut_down_well(void) {
    leak("socket", fine);
    if (pnx_shutdown(10 * PNX_SEC, NULL))
        _exit(97);
}

static void shut_down_with_a_leak(void) {
    leak("socket", NULL);
    if (pnx_shutdown(10 * PNX_SEC, NULL) == 0)
        _exit(97);
}

static void wish_to_fail(void) {
    if (pnx_leaks_at_exit(PNX_LEAKS_FAIL))
        _exit(97);
    leak("socket", fine);
}

static void wish_nothing(void) {
    if (pnx_leaks_at_exit(PNX_LEAKS_OFF))
        _exit(97);
    leak("socket", fine);
}

static void leak_two_types(void) {
    leak("socket", fine);
    leak("temporary directory", fine);
}

TEST(p1_without_a_wish_nothing_is_printed_and_the_status_stays) {
    struct ending e = {.act = leak_one};
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_STR(e.err, "");
    CHECK_STR(e.out, "not yet flushed");
}

TEST(a_leak_fails_the_process_when_the_environment_says_so) {
    struct ending e = {.act = leak_one, .leaks = "fail"};
    run(&e);
    CHECK_EQ(e.status, PNX_LEAKS_STATUS);
    CHECK_CONTAINS(e.err, "patinox: 1 leaked when the process ended, 0 known before\n");
    CHECK_CONTAINS(e.err, "socket");
    CHECK_CONTAINS(e.err, "leaky.c:7");
    CHECK_CONTAINS(e.err, "4.0 KiB");
    CHECK_STR(e.out, "not yet flushed"); /* flushed all the same */
}

TEST(a_report_alone_leaves_the_status) {
    struct ending e = {.act = leak_one, .leaks = "report"};
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_CONTAINS(e.err, "leaky.c:7");
}

TEST(who_leaks_nothing_ends_in_silence) {
    struct ending e = {.act = leak_none, .leaks = "fail"};
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_STR(e.err, "");
    e.act = shut_down_well;
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_STR(e.err, "");
}

TEST(what_a_shutdown_calls_leaked_is_a_leak) {
    struct ending e = {.act = shut_down_with_a_leak, .leaks = "fail"};
    run(&e);
    CHECK_EQ(e.status, PNX_LEAKS_STATUS);
    CHECK_CONTAINS(e.err, "leaky.c:7");
}

TEST(the_programs_wish_stands_over_the_environments) {
    struct ending e = {.act = wish_to_fail};
    run(&e);
    CHECK_EQ(e.status, PNX_LEAKS_STATUS);
    e.leaks = "report";
    run(&e);
    CHECK_EQ(e.status, PNX_LEAKS_STATUS);
    e = (struct ending){.act = wish_nothing, .leaks = "fail"};
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_STR(e.err, "");
}

TEST(p2_known_leaks_do_not_fail_the_process_and_are_marked) {
    struct ending e = {.act = leak_two_types, .leaks = "fail", .suppress = "socket@leaky.c:*"};
    run(&e);
    CHECK_EQ(e.status, PNX_LEAKS_STATUS);
    CHECK_CONTAINS(e.err, "1 leaked when the process ended, 1 known before");
    CHECK_CONTAINS(e.err, "\"lost\" (known)\n");
    e.suppress = "socket@leaky.c:*,temporary*@*";
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_STR(e.err, "");
}

static void leak_in_a_child(void) {
    leak("socket", fine);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        exit(4); /* the row is its parent's */
    int status;
    if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 4)
        _exit(97);
}

TEST(a_parents_rows_are_no_leaks_of_its_child) {
    struct ending e = {.act = leak_in_a_child, .leaks = "fail"};
    run(&e);
    CHECK_EQ(e.status, PNX_LEAKS_STATUS); /* the parent's own */
}

static void use_once(void) {
    (void)pnx_registry_default();
    struct pnx_health_entry entries[8];
    size_t n;
    if (pnx_health(NULL, entries, 8, &n) != PNX_HEALTH_DEGRADED)
        _exit(97);
    for (size_t i = 0; i < n; i++) {
        if (entries[i].status == PNX_HEALTH_DEGRADED)
            printf("%s\n", entries[i].reason);
    }
}

TEST(texts_that_are_not_understood_are_said_by_health) {
    struct ending e = {.act = use_once, .leaks = "yes"};
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_CONTAINS(e.out, "PATINOX_LEAKS");
    e = (struct ending){.act = use_once, .suppress = "no at sign"};
    run(&e);
    CHECK_EQ(e.status, 3);
    CHECK_CONTAINS(e.out, "PATINOX_SUPPRESS");
}

TEST(bad_wishes_are_refused_and_a_handler_that_cannot_be_had_is_an_error) {
    CHECK_EQ(pnx_leaks_at_exit((enum pnx_leaks_mode)3), -EINVAL);
    CHECK_EQ(pnx_leaks_at_exit((enum pnx_leaks_mode)(-1)), -EINVAL);
    if (!test_os_faults())
        test_skip("built without PNX_FAULTS");
    test_os_fault("atexit", 1, false, ENOMEM);
    CHECK_EQ(pnx_leaks_at_exit(PNX_LEAKS_REPORT), -ENOMEM);
    CHECK_EQ(test_os_fault_clear(), 1);
    CHECK_EQ(pnx_leaks_at_exit(PNX_LEAKS_REPORT), 0);
    CHECK_EQ(pnx_leaks_at_exit(PNX_LEAKS_OFF), 0);
}

/* ---- suppressions ---- */

TEST(patterns_match_whole_texts_or_with_a_star_beginnings) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    CHECK(!pnx__suppressed(registry, "pool", "a.c:1"));
    CHECK_EQ(pnx_registry_suppress(registry, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_registry_suppress(registry, "pool", NULL), 0);
    CHECK_EQ(pnx_registry_suppress(registry, NULL, "b.c:2"), 0);
    CHECK_EQ(pnx_registry_suppress(registry, "cache*", "vendor/*"), 0);
    CHECK(pnx__suppressed(registry, "pool", "a.c:1"));
    CHECK(!pnx__suppressed(registry, "pools", "a.c:1"));
    CHECK(pnx__suppressed(registry, "x", "b.c:2"));
    CHECK(!pnx__suppressed(registry, "x", "b.c:22"));
    CHECK(pnx__suppressed(registry, "cache of x", "vendor/x.c:3"));
    CHECK(!pnx__suppressed(registry, "cache of x", "src/x.c:3"));
    CHECK_EQ(pnx_registry_suppress(pnx_registry_off(), "pool", NULL), 0);
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

TEST(at_most_so_many_patterns_and_none_without_memory) {
    struct test_env te;
    test_env_init(&te);
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env), NULL, &registry), 0);
    te.fail_at = te.allocations + 1;
    CHECK_EQ(pnx_registry_suppress(registry, "x", NULL), -ENOMEM);
    for (int i = 0; i < PNX_SUPPRESSIONS_MAX; i++)
        CHECK_EQ(pnx_registry_suppress(registry, "x", NULL), 0);
    CHECK_EQ(pnx_registry_suppress(registry, "y", NULL), -EBUSY);
    CHECK(!pnx__suppressed(registry, "y", ""));
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

static void suppress_some(unsigned index, void *ctx) {
    char type[16];
    for (int i = 0; i < 16; i++) {
        snprintf(type, sizeof(type), "t%u-%d", index, i);
        CHECK_EQ(pnx_registry_suppress(ctx, type, NULL), 0);
        CHECK(pnx__suppressed(ctx, type, ""));
    }
}

TEST(threads_may_add_patterns_at_once) {
    struct pnx_registry *registry;
    CHECK_EQ(pnx_registry_create(NULL, NULL, &registry), 0);
    test_threads(4, suppress_some, registry);
    CHECK_EQ(pnx_registry_suppress(registry, "one more", NULL), -EBUSY);
    CHECK(pnx__suppressed(registry, "t0-0", ""));
    CHECK(pnx__suppressed(registry, "t3-15", ""));
    pnx_registry_release(&registry);
}
