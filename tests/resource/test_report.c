/* SPDX-License-Identifier: Apache-2.0 */
/* The report of a shutdown: resource/shutdown_report.c, and the events of a shutdown. */
#include "harness/harness.h"

#include <patinox/leaks.h>
#include <patinox/shutdown.h>

#include <sys/wait.h>
#include <unistd.h>

struct text {
    char buf[1 << 17];
    size_t n;
    int fail_with;
};

static int collect(void *ctx, const char *bytes, size_t n) {
    struct text *text = ctx;
    CHECK(n > 0);
    if (text->fail_with)
        return text->fail_with;
    CHECK(text->n + n < sizeof(text->buf));
    memcpy(text->buf + text->n, bytes, n);
    text->n += n;
    text->buf[text->n] = '\0';
    return 0;
}

static struct test_env te;
static int io_error = -EIO, fine = 0;

static int end(void *arg, const struct pnx_cancel *cancel) {
    (void)cancel;
    return *(int *)arg;
}

static pnx_resource_id add(struct pnx_registry *registry, const char *type, const char *site,
        const char *name, uint64_t bytes, int *code) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE_AT(site, .type = type, .name = name, .bytes = bytes,
                             .cleanup = code ? end : NULL, .arg = code),
                     NULL, &id),
            0);
    return id;
}

static struct pnx_registry *fresh(struct pnx_stats *stats) {
    struct pnx_registry *registry;
    test_env_init(&te);
    test_env_virtual(&te, PNX_SEC);
    CHECK_EQ(
            pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env, .name = "server", .stats = stats),
                    NULL, &registry),
            0);
    return registry;
}

/* Five rows: two done, one failed, two leaked. */
static struct pnx_shutdown_report *five(struct pnx_registry *registry, pnx_resource_id ids[5]) {
    ids[0] = add(registry, "session", "s.c:1", "ann", 1024, &fine);
    ids[1] = add(registry, "session", "s.c:1", "bob", 512, &fine);
    test_env_advance(&te, 90 * PNX_SEC);
    ids[2] = add(registry, "disk", "d.c:2", NULL, 0, &io_error);
    ids[3] = add(registry, "lease", "l.c:3", NULL, 0, NULL);
    ids[4] = add(registry, "lease", "l.c:3", NULL, 7, NULL);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), -EIO);
    return report;
}

static void clean_up(struct pnx_registry **registry, struct pnx_shutdown_report **report,
        const pnx_resource_id ids[5]) {
    for (int i = 3; i < 5; i++)
        CHECK_EQ(pnx_registry_remove(*registry, ids[i]), 0);
    pnx_registry_release(registry);
    pnx_shutdown_report_release(report);
    test_env_check_empty(&te);
}

TEST(the_text_groups_what_needs_attention_first) {
    pnx_resource_id ids[5];
    struct pnx_registry *registry = fresh(NULL);
    struct pnx_shutdown_report *report = five(registry, ids);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, collect, &text), 0);
    CHECK_STR(text.buf,
            "shutdown of registry server: 2 done, 1 failed, 0 abandoned, 2 leaked, 0 suppressed, "
            "in 0 ms; EIO (-5)\n"
            "  leaked          2 x lease at l.c:3, 7 B, oldest 0 ms\n"
            "  failed          1 x disk at d.c:2, oldest 0 ms, EIO (-5): input or output failed\n"
            "  done            2 x session at s.c:1, 1.5 KiB, oldest 90.0 s: \"bob\", \"ann\"\n");
    clean_up(&registry, &report, ids);
}

static struct pnx_completion late;

/* Goes on after the deadline, to which it brings the clock. */
static int end_late(void *arg, const struct pnx_cancel *cancel) {
    (void)arg;
    CHECK_EQ(pnx_cancel_pend(cancel, &late), 0);
    test_env_advance(&te, 2 * PNX_SEC);
    return -EINPROGRESS;
}

TEST(each_outcome_has_its_name_and_what_was_abandoned_comes_before_all) {
    pnx_resource_id ids[5], abandoned;
    struct pnx_registry *registry = fresh(NULL);
    CHECK_EQ(pnx_registry_suppress(registry, "handle", "*"), 0);
    CHECK_EQ(pnx_registry_add(registry, /* the oldest: its cleanup is the last one */
                     PNX_RESOURCE_AT("a.c:1", .type = "upload", .cleanup = end_late), NULL,
                     &abandoned),
            0);
    ids[0] = add(registry, "session", "s.c:1", NULL, 0, &fine);
    ids[1] = add(registry, "handle", "h.c:4", NULL, 0, NULL);
    ids[2] = add(registry, "disk", "d.c:2", NULL, 0, &io_error);
    ids[3] = add(registry, "lease", "l.c:3", NULL, 0, NULL);
    struct pnx_shutdown_report *report;
    CHECK(pnx_registry_shutdown(registry, PNX_SEC, &report) < 0);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, collect, &text), 0);
    CHECK_CONTAINS(text.buf, ": 1 done, 1 failed, 1 abandoned, 1 leaked, 1 suppressed, in 2.0 s; ");
    CHECK_STR(strchr(text.buf, '\n'),
            "\n  abandoned       1 x upload at a.c:1, oldest 0 ms\n"
            "  leaked          1 x lease at l.c:3, oldest 0 ms\n"
            "  failed          1 x disk at d.c:2, oldest 0 ms, EIO (-5): input or output failed\n"
            "  suppressed      1 x handle at h.c:4, oldest 0 ms\n"
            "  done            1 x session at s.c:1, oldest 0 ms\n");
    text.n = 0;
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, collect, &text), 0);
    CHECK_CONTAINS(text.buf, "{\"outcome\":\"abandoned\",\"type\":\"upload\",\"site\":\"a.c:1\"");
    CHECK_CONTAINS(text.buf, "{\"outcome\":\"suppressed\",\"type\":\"handle\",\"site\":\"h.c:4\"");
    CHECK_EQ(pnx_completion_done(&late, 0), 0);
    CHECK_EQ(pnx_registry_remove(registry, ids[1]), 0);
    CHECK_EQ(pnx_registry_remove(registry, ids[3]), 0);
    pnx_registry_release(&registry);
    pnx_shutdown_report_release(&report);
    test_env_check_empty(&te);
}

TEST(the_json_has_groups_and_every_resource_in_order) {
    pnx_resource_id ids[5];
    struct pnx_registry *registry = fresh(NULL);
    struct pnx_shutdown_report *report = five(registry, ids);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, collect, &text), 0);
    CHECK_CONTAINS(text.buf,
            "{\"registry\":\"server\",\"code\":-5,\"error\":\"EIO\",\"took_ns\":0,\"done\":2,"
            "\"failed\":1,\"abandoned\":0,\"leaked\":2,\"suppressed\":0,\"unreclaimed\":0,"
            "\"groups\":[{\"outcome\":\"leaked\",\"type\":\"lease\",\"site\":\"l.c:3\",\"count\":2,"
            "\"bytes\":7,\"oldest_ns\":0,"
            "\"code\":0,\"error\":null},");
    char row[256];
    snprintf(row, sizeof(row),
            "{\"id\":\"0x%llx\",\"parent\":null,\"outcome\":\"failed\",\"type\":\"disk\","
            "\"name\":\"\",\"site\":\"d.c:2\",\"owner\":0,\"tag\":0,\"bytes\":0,\"age_ns\":0,"
            "\"code\":-5,\"error\":\"EIO\"}",
            (unsigned long long)ids[2]);
    CHECK_CONTAINS(text.buf, row);
    const char *ann = strstr(text.buf, "\"ann\""), *bob = strstr(text.buf, "\"bob\"");
    CHECK(ann && bob && bob < ann);
    CHECK_EQ(text.buf[text.n - 2], '}');
    clean_up(&registry, &report, ids);
}

TEST(names_shown_are_few_and_escaped) {
    struct pnx_registry *registry = fresh(NULL);
    for (int i = 0; i < 6; i++)
        add(registry, "x", "a", "one\ntwo \"q\"", 0, &fine);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), 0);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, collect, &text), 0);
    CHECK_CONTAINS(text.buf,
            ": \"one\\x0atwo \"q\"\", \"one\\x0atwo \"q\"\", \"one\\x0atwo \"q\"\" "
            "and 3 more\n");
    text.n = 0;
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, collect, &text), 0);
    CHECK_CONTAINS(text.buf, "\"name\":\"one\\u000atwo \\\"q\\\"\"");
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

/* ---- the JSON, read by another ---- */

static void check_json(const struct pnx_shutdown_report *report) {
    static struct text text;
    const char *path = test_path("report.json");
    char script[512];
    text.n = 0;
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, collect, &text), 0);
    test_write_file(path, text.buf, text.n);
    snprintf(script, sizeof(script), "%s/tests/resource/check_report.py", test_source_dir());
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        execl("/usr/bin/python3", "python3", script, path, (char *)NULL);
        _exit(77);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        test_skip("python3 is not installed");
    CHECK_EQ(WEXITSTATUS(status), 0);
}

TEST(the_json_is_valid_and_its_parts_agree) {
    pnx_resource_id ids[5];
    struct pnx_registry *registry = fresh(NULL);
    struct pnx_shutdown_report *report = five(registry, ids);
    check_json(report);
    clean_up(&registry, &report, ids);
    struct pnx_shutdown_report *none;
    CHECK_EQ(pnx_registry_shutdown(pnx_registry_off(), 0, &none), 0);
    check_json(none);
    pnx_shutdown_report_release(&none);
}

/* More groups than are summed up at once, in an order that has them come and go. */
TEST(many_groups_are_all_there_once_and_in_order) {
    static char sites[100][16], types[100][16];
    static int codes[100];
    struct pnx_registry *registry = fresh(NULL);
    uint64_t state = test_seed();
    pnx_resource_id ids[400];
    for (int i = 0; i < 100; i++) {
        snprintf(sites[i], sizeof(sites[i]), "%d.c:%d", i % 10, i);
        snprintf(types[i], sizeof(types[i]), i % 7 ? "type %d" : "\xc3\xa9 \"%d\"", i % 11);
        codes[i] = i % 3 ? -EIO : 0;
    }
    for (int i = 0; i < 400; i++) {
        int k = (int)(test_random(&state) % 100);
        char name[16] = "";
        if (i % 5 == 0)
            snprintf(name, sizeof(name), "row\t%d\xff", i);
        test_env_advance(&te, PNX_SEC);
        ids[i] = add(registry, types[k], sites[k], name, test_random(&state) % 1000,
                k % 4 ? &codes[k] : NULL);
    }
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, PNX_NEVER, &report), -EIO);
    check_json(report);
    static struct text text;
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, collect, &text), 0);
    const char *leaked = strstr(text.buf, "\n  leaked "), *failed = strstr(text.buf, "\n  failed "),
               *done = strstr(text.buf, "\n  done ");
    CHECK(leaked && failed && done && leaked < failed && failed < done);
    CHECK(strstr(done, "\n  leaked ") == NULL && strstr(done, "\n  failed ") == NULL);
    pnx_shutdown_report_release(&report);
    for (int i = 0; i < 400; i++)
        (void)pnx_registry_remove(registry, ids[i]); /* those that leaked are ours */
    pnx_registry_release(&registry);
    test_env_check_empty(&te);
}

static int stop_at_two(void *ctx, const struct pnx_resource_info *info) {
    int *n = ctx;
    CHECK(info->type != NULL);
    return ++*n == 2 ? 17 : 0;
}

TEST(errors_of_visit_and_write_are_returned) {
    pnx_resource_id ids[5];
    struct pnx_registry *registry = fresh(NULL);
    struct pnx_shutdown_report *report = five(registry, ids);
    int n = 0;
    CHECK_EQ(pnx_shutdown_report_each(report, stop_at_two, &n), 17);
    CHECK_EQ(n, 2);
    struct text text = {.fail_with = -EPERM};
    CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_JSON, collect, &text), -EPERM);
    CHECK_EQ(pnx_shutdown_report_write(report, (enum pnx_report_format)0, collect, &text), -EINVAL);
    clean_up(&registry, &report, ids);
}

static int see_type(void *ctx, const struct pnx_resource_info *info) {
    char *types = ctx;
    strncat(types, info->type, 1);
    CHECK_EQ(info->bytes, 5);
    return 0;
}

TEST(the_report_stays_as_it_was_when_owners_change_their_rows_afterwards) {
    struct pnx_registry *registry = fresh(NULL);
    pnx_resource_id a = add(registry, "a", "a", NULL, 5, NULL);
    pnx_resource_id b = add(registry, "b", "b", NULL, 5, NULL);
    struct pnx_shutdown_report *report;
    CHECK_EQ(pnx_registry_shutdown(registry, 60 * PNX_SEC, &report), PNX_E_BROKEN);
    CHECK_EQ(pnx_registry_set_bytes(registry, a, 99), 0);
    CHECK_EQ(pnx_registry_remove(registry, b), 0);
    char types[8] = "";
    CHECK_EQ(pnx_shutdown_report_each(report, see_type, types), 0);
    CHECK_STR(types, "ba");
    CHECK_EQ(pnx_registry_remove(registry, a), 0);
    pnx_shutdown_report_release(&report);
    pnx_registry_release(&registry);
}

/* ---- events ---- */

struct seen {
    int n;
    enum pnx_event_type types[16];
    int codes[16];
    int64_t values[16];
    char object[64];
};

static void see(void *ctx, const struct pnx_event *event) {
    struct seen *seen = ctx;
    CHECK(seen->n < 16);
    seen->types[seen->n] = event->type;
    seen->codes[seen->n] = event->code;
    seen->values[seen->n] = event->value;
    seen->n++;
    snprintf(seen->object, sizeof(seen->object), "%s", event->object);
}

TEST(a_shutdown_tells_the_monitors) {
    struct pnx_stats *stats;
    CHECK_EQ(pnx_stats_create(NULL, NULL, &stats), 0);
    static struct seen seen;
    uint32_t mon;
    struct pnx_monitor monitor = {.size = sizeof(monitor), .event = see, .ctx = &seen};
    CHECK_EQ(pnx_monitor_add(stats, &monitor, &mon), 0);
    pnx_resource_id ids[5];
    struct pnx_registry *registry = fresh(stats);
    struct pnx_shutdown_report *report = five(registry, ids);
    CHECK_EQ(seen.n, 2);
    CHECK_EQ(seen.types[0], PNX_EVENT_RESOURCE_CLEANUP_FAILED);
    CHECK_EQ(seen.codes[0], -EIO);
    CHECK_EQ(seen.values[0], (int64_t)ids[2]);
    CHECK_EQ(seen.types[1], PNX_EVENT_REGISTRY_SHUTDOWN);
    CHECK_EQ(seen.codes[1], -EIO);
    CHECK_EQ(seen.values[1], 2);
    CHECK_STR(seen.object, "server");
    CHECK_EQ(pnx_monitor_remove(stats, mon), 0);
    clean_up(&registry, &report, ids);
    pnx_stats_release(&stats);
}
