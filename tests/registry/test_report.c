/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at rows and writing reports: registry/report.c and registry/out.c. */
#include "harness/harness.h"
#include "registry/ledger.h"
#include "registry/out.h"

#include <patinox/leaks.h>
#include <patinox/registry.h>
#include <patinox/trace.h>

struct text {
    char buf[16384];
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

static struct pnx_registry *fresh(void) {
    struct pnx_registry *registry;
    test_env_init(&te);
    test_env_virtual(&te, PNX_SEC);
    CHECK_EQ(
            pnx_registry_create(PNX_REGISTRY_OPTS(.env = &te.env, .name = "test"), NULL, &registry),
            0);
    return registry;
}

static pnx_resource_id add(struct pnx_registry *registry, const char *type, const char *site,
        const char *name, uint64_t bytes) {
    pnx_resource_id id;
    CHECK_EQ(pnx_registry_add(registry,
                     PNX_RESOURCE_AT(site, .type = type, .name = name, .bytes = bytes), NULL, &id),
            0);
    return id;
}

static void end(struct pnx_registry **registry) {
    pnx_resource_id ids[256];
    size_t n = 0;
    struct pnx_resource_info info;
    for (uint32_t s = 0; s < PNX_SHARDS; s++) {
        for (uint32_t slot = 0; slot < (*registry)->shard[s].used; slot++) {
            const struct pnx_row *row = pnx__slot_row(&(*registry)->shard[s], slot);
            ids[n] = pnx__word_id(pnx__row_word(row));
            n += pnx_registry_info(*registry, ids[n], &info) == 0;
        }
    }
    for (size_t i = 0; i < n; i++)
        CHECK_EQ(pnx_registry_remove(*registry, ids[i]), 0);
    pnx_registry_release(registry);
    test_env_check_empty(&te);
}

/* ---- each ---- */

struct walk {
    struct pnx_registry *registry;
    uint64_t tags[300];
    int n;
    int stop_at;
    pnx_resource_id to_remove;
};

static int visit(void *ctx, const struct pnx_resource_info *info) {
    struct walk *walk = ctx;
    walk->tags[walk->n++] = info->tag;
    if (walk->to_remove) {
        CHECK_EQ(pnx_registry_remove(walk->registry, walk->to_remove), 0); /* no lock is held */
        walk->to_remove = 0;
    }
    return walk->n == walk->stop_at ? 99 : 0;
}

struct adder {
    struct pnx_registry *registry;
    uint64_t next;
};

static void add_tagged(unsigned index, void *ctx) {
    struct adder *adder = ctx;
    pnx_resource_id id;
    (void)index;
    for (int i = 0; i < 10; i++)
        CHECK_EQ(pnx_registry_add(adder->registry, PNX_RESOURCE(.type = "x", .tag = adder->next++),
                         NULL, &id),
                0);
}

TEST(p1_each_visits_every_row_once_oldest_first) {
    struct pnx_registry *registry = fresh();
    struct adder adder = {.registry = registry};
    for (int i = 0; i < 20; i++)
        test_threads(1, add_tagged, &adder); /* rows in many shards */
    struct walk walk = {.registry = registry};
    CHECK_EQ(pnx_registry_each(registry, visit, &walk), 0);
    CHECK_EQ(walk.n, 200);
    for (int i = 0; i < 200; i++)
        CHECK_EQ(walk.tags[i], i);
    end(&registry);
}

TEST(a_nonzero_return_ends_the_walk) {
    struct pnx_registry *registry = fresh();
    struct adder adder = {.registry = registry};
    add_tagged(0, &adder);
    struct walk walk = {.registry = registry, .stop_at = 4};
    CHECK_EQ(pnx_registry_each(registry, visit, &walk), 99);
    CHECK_EQ(walk.n, 4);
    CHECK_EQ(pnx_registry_each(registry, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_registry_each(pnx_registry_off(), visit, &walk), 0);
    CHECK_EQ(walk.n, 4);
    end(&registry);
}

TEST(p2_a_row_removed_during_the_walk_is_left_out) {
    struct pnx_registry *registry = fresh();
    add(registry, "x", "a", NULL, 0);
    pnx_resource_id second = add(registry, "x", "a", NULL, 0);
    add(registry, "x", "a", NULL, 0);
    struct walk walk = {.registry = registry, .to_remove = second};
    CHECK_EQ(pnx_registry_each(registry, visit, &walk), 0);
    CHECK_EQ(walk.n, 2);
    end(&registry);
}

/* ---- reports ---- */

TEST(the_text_groups_by_type_and_site_largest_first) {
    struct pnx_registry *registry = fresh();
    add(registry, "cursor", "b.c:7", NULL, 10);
    test_env_advance(&te, 5 * PNX_SEC);
    add(registry, "pool", "a.c:1", "db", 1024);
    add(registry, "cursor", "b.c:7", "orders", 20);
    add(registry, "cursor", "b.c:9", NULL, 0);
    test_env_advance(&te, 2 * PNX_SEC);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_TEXT, collect, &text), 0);
    CHECK_STR(text.buf,
            "registry test: 4 live, 1.0 KiB\n"
            "       1 x pool              a.c:1                             1.0 KiB, oldest 2.0 s: "
            "\"db\"\n"
            "       2 x cursor            b.c:7                             30 B, oldest 7.0 s: "
            "\"orders\" and others\n"
            "       1 x cursor            b.c:9                             0 B, oldest 2.0 s\n");
    end(&registry);
}

TEST(the_json_says_the_same) {
    struct pnx_registry *registry = fresh();
    add(registry, "pool", "a.c:1", "db", 1024);
    add(registry, "cursor", NULL, NULL, 0);
    test_env_advance(&te, 2);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_JSON, collect, &text), 0);
    CHECK_STR(text.buf,
            "{\"registry\":\"test\",\"live\":2,\"bytes\":1024,\"groups\":["
            "{\"type\":\"pool\",\"site\":\"a.c:1\",\"count\":1,\"bytes\":1024,\"oldest_ns\":2,"
            "\"name\":\"db\",\"known\":false,\"stack\":[]},"
            "{\"type\":\"cursor\",\"site\":\"\",\"count\":1,\"bytes\":0,\"oldest_ns\":2,"
            "\"name\":\"\",\"known\":false,\"stack\":[]}]}\n");
    end(&registry);
}

TEST(an_empty_registry_and_one_that_is_off_have_reports) {
    struct pnx_registry *registry = fresh();
    struct text text = {.n = 0};
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_TEXT, collect, &text), 0);
    CHECK_STR(text.buf, "registry test: 0 live, 0 B\n");
    text.n = 0;
    CHECK_EQ(pnx_registry_report(pnx_registry_off(), PNX_REPORT_JSON, collect, &text), 0);
    CHECK_STR(text.buf, "{\"registry\":\"off\",\"live\":0,\"bytes\":0,\"groups\":[]}\n");
    end(&registry);
}

TEST(names_are_escaped_for_their_reader) {
    struct pnx_registry *registry = fresh();
    add(registry, "x", "a", "q\"b\\n\nesc\x1b[2J\xff\xc3\xa9\xc2\x9b", 0);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_JSON, collect, &text), 0);
    CHECK_CONTAINS(text.buf, "\"name\":\"q\\\"b\\\\n\\u000aesc\\u001b[2J\\ufffd\xc3\xa9\xc2\x9b\"");
    text.n = 0;
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_TEXT, collect, &text), 0);
    CHECK_CONTAINS(text.buf, "\"q\"b\\n\\x0aesc\\x1b[2J\\xff\xc3\xa9\\x9b\"");
    end(&registry);
}

TEST(a_callback_of_null_is_refused) {
    CHECK_EQ(pnx_registry_each(NULL, NULL, NULL), -EINVAL);
    CHECK_EQ(pnx_registry_report(NULL, PNX_REPORT_TEXT, NULL, NULL), -EINVAL);
    struct pnx_resource_info info;
    CHECK_EQ(pnx_registry_info(NULL, 1, NULL), -EINVAL);
    CHECK_EQ(pnx_registry_info(NULL, 1, &info), -ESTALE);
}

TEST(an_error_of_write_ends_the_report_and_is_returned) {
    struct pnx_registry *registry = fresh();
    for (int i = 0; i < 100; i++)
        add(registry, "x", "a", NULL, 0);
    struct text text = {.fail_with = -EIO};
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_TEXT, collect, &text), -EIO);
    CHECK_EQ(pnx_registry_report(registry, (enum pnx_report_format)7, collect, &text), -EINVAL);
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_TEXT, NULL, &text), -EINVAL);
    end(&registry);
}

static int report_all(struct test_env *env, void *ctx) {
    (void)ctx;
    struct pnx_registry *registry;
    int rc = pnx_registry_create(PNX_REGISTRY_OPTS(.env = &env->env), NULL, &registry);
    if (rc)
        return rc;
    pnx_resource_id id = 0;
    rc = pnx_registry_add(registry, PNX_RESOURCE(.type = "x"), NULL, &id);
    struct text text = {.n = 0};
    struct walk walk = {.registry = registry};
    if (rc == 0)
        rc = pnx_registry_each(registry, visit, &walk);
    if (rc == 0)
        rc = pnx_registry_report(registry, PNX_REPORT_JSON, collect, &text);
    CHECK(rc == 0 || text.n == 0);
    CHECK_EQ(pnx_registry_remove(registry, id), 0);
    pnx_registry_release(&registry);
    return rc;
}

TEST(each_allocation_of_a_report_may_fail) {
    struct test_env env;
    test_env_init(&env);
    test_fail_each_allocation(&env, report_all, NULL);
}

/* ---- pieces ---- */

static const char *bytes_text(struct text *text, uint64_t bytes) {
    struct pnx_out out;
    text->n = 0;
    pnx__out_init(&out, collect, text);
    pnx__out_bytes(&out, bytes);
    CHECK_EQ(pnx__out_end(&out), 0);
    return text->buf;
}

static const char *ns_text(struct text *text, pnx_ns ns) {
    struct pnx_out out;
    text->n = 0;
    pnx__out_init(&out, collect, text);
    pnx__out_ns(&out, ns);
    CHECK_EQ(pnx__out_end(&out), 0);
    return text->buf;
}

TEST(sizes_and_times_are_written_for_people) {
    struct text text = {.n = 0};
    CHECK_STR(bytes_text(&text, 0), "0 B");
    CHECK_STR(bytes_text(&text, 1023), "1023 B");
    CHECK_STR(bytes_text(&text, 1536), "1.5 KiB");
    CHECK_STR(bytes_text(&text, 3u << 20), "3.0 MiB");
    CHECK_STR(bytes_text(&text, UINT64_MAX), "16.0 EiB");
    CHECK_STR(ns_text(&text, 0), "0 ms");
    CHECK_STR(ns_text(&text, 1500 * PNX_MS), "1.5 s");
    CHECK_STR(ns_text(&text, 600 * PNX_SEC), "10 min");
    CHECK_STR(ns_text(&text, 9000 * PNX_SEC), "2.5 h");
}

TEST(a_string_of_any_length_is_written_whole) {
    struct text text = {.n = 0};
    char *type = malloc(5001);
    CHECK(type);
    memset(type, 'y', 5000);
    type[5000] = '\0';
    struct pnx_out out;
    pnx__out_init(&out, collect, &text);
    pnx__out_text(&out, type);
    CHECK_EQ(pnx__out_end(&out), 0);
    CHECK_STR(text.buf, type);
    free(type);
}

/* ---- known leaks, backtraces ---- */

#ifdef _WIN32
#define EXE ".exe"
#else
#define EXE ""
#endif

TEST(known_leaks_are_marked_and_backtraces_shown) {
    struct pnx_registry *registry = fresh();
    CHECK_EQ(pnx_registry_set_level(registry, PNX_LEVEL_PARANOID), 0);
    CHECK_EQ(pnx_registry_suppress(registry, "pool", NULL), 0);
    pnx_resource_id first = add(registry, "pool", "a.c:1", "db", 1024);
    add(registry, "cursor", "b.c:2", NULL, 0);
    struct pnx_resource_trace trace = {.size = sizeof(trace)};
    CHECK_EQ(pnx_registry_trace(registry, first, &trace), 0);
    struct text text = {.n = 0};
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_TEXT, collect, &text), 0);
    CHECK_CONTAINS(text.buf, "\"db\" (known)\n");
    if (trace.n_frames)
        CHECK_CONTAINS(text.buf, "\n             test_registry_report" EXE "+0x");
    text.n = 0;
    CHECK_EQ(pnx_registry_report(registry, PNX_REPORT_JSON, collect, &text), 0);
    CHECK_CONTAINS(text.buf, "\"name\":\"db\",\"known\":true,\"stack\":[");
    CHECK_CONTAINS(text.buf, "\"name\":\"\",\"known\":false,\"stack\":[");
    if (trace.n_frames)
        CHECK_CONTAINS(text.buf, "\"stack\":[\"test_registry_report" EXE "+0x");
    end(&registry);
}
