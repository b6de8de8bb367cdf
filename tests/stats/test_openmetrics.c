/* SPDX-License-Identifier: Apache-2.0 */
/* OpenMetrics text: P2 of patinox/stats.h, P1..P3 of src/stats/openmetrics.c. */
#include "os/mutex.h"
#include "stats/fixture.h"

#include <inttypes.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

struct text {
    char *data;
    size_t n;
    size_t room;
    size_t pieces;
};

static int keep(void *ctx, const char *text, size_t n) {
    struct text *t = ctx;
    CHECK(n > 0);
    pnx__mutex_assert_none_held();
    if (t->n + n + 1 > t->room) {
        t->room = (t->n + n + 1) * 2;
        t->data = realloc(t->data, t->room);
        CHECK(t->data);
    }
    memcpy(t->data + t->n, text, n);
    t->n += n;
    t->data[t->n] = '\0';
    t->pieces++;
    return 0;
}

/* Runs a script beside this file; 0, 77 or anything else. */
static int run_script(const char *script, const char *a, const char *b) {
    char path[512];
    snprintf(path, sizeof(path), "%s/tests/stats/%s", test_source_dir(), script);
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        execl("/usr/bin/python3", "python3", path, a, b, (char *)NULL);
        _exit(77);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void check_strictly(const struct text *t, const char *expected) {
    const char *path = test_path("metrics");
    test_write_file(path, t->data, t->n);
    int rc = run_script("check_openmetrics.py", path, expected);
    if (rc == 77)
        test_skip("python3-prometheus-client is not installed");
    CHECK_MSG(rc == 0, "the strict parser refuses the text");
}

static const char *const hostile[] = {
        "plain",
        "plain", /* the same name twice */
        "",
        "two\nlines",
        "quote\" and \\ backslash\\",
        "brace} 1\n# EOF\n",
        "comma, equals=\"x\",y=",
        "control \x01\x02\t\r\x7f",
        "latin1 \xe9t\xe9",
        "latin1 \xe8t\xe8", /* the same once its invalid bytes are replaced */
        "overlong \xc0\x80 \xe0\x80\x80",
        "surrogate \xed\xa0\x80",
        "beyond \xf4\x90\x80\x80",
        "cut short \xe2\x82",
        "\xe2\x82\xac \xf0\x9f\x90\xa6 \xef\xbf\xbd",
        "line separator \xe2\x80\xa8 and \xc2\x85 next line",
        " leading and trailing ",
};
#define N (sizeof(hostile) / sizeof(hostile[0]))

static FILE *expected_file;

static void expect(const char *format, ...) PNX_PRINTF(1, 2);
static void expect(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(expected_file, format, args);
    fputc('\n', expected_file);
    va_end(args);
}

/* Records each power of two and its neighbours in all three histograms; counts them by brute force. */
static void fill_histograms(struct fixture *f) {
    static const unsigned low[3] = {10, 6, 0};
    static const char *const name[3] = {"wait_seconds", "size_bytes", "tries"};
    struct pnx_histogram *h[3] = {&f->histograms.wait, &f->histograms.size, &f->histograms.tries};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t recorded[41 * 3], sum = 0;
        unsigned n = 0;
        for (unsigned k = 0; k <= 40; k++) {
            for (int d = -1; d <= 1; d++) {
                recorded[n] = (UINT64_C(1) << k) + (uint64_t)(int64_t)d;
                pnx__histogram_record(h[i], (int64_t)recorded[n]);
                sum += recorded[n++];
            }
        }
        for (unsigned b = 0; b < 25; b++) {
            uint64_t bound = (UINT64_C(1) << (low[i] + b)) - 1;
            unsigned below = 0;
            for (unsigned k = 0; k < n; k++)
                below += recorded[k] <= bound;
            char le[40];
            int length = i == 0 ? snprintf(le, sizeof(le), "%" PRIu64 ".%09" PRIu64,
                                          bound / 1000000000, bound % 1000000000)
                                : snprintf(le, sizeof(le), "%" PRIu64 ".0", bound);
            while (i == 0 && le[length - 1] == '0')
                le[--length] = '\0';
            expect("patinox_fixture_%s_bucket{fixture=\"plain\",number=\"0\",le=\"%s\"} %u",
                    name[i], le, below);
        }
        expect("patinox_fixture_%s_bucket{fixture=\"plain\",number=\"0\",le=\"+Inf\"} %u", name[i],
                n);
        expect("patinox_fixture_%s_count{fixture=\"plain\",number=\"0\"} %u", name[i], n);
        if (i == 0)
            expect("patinox_fixture_wait_seconds_sum{fixture=\"plain\",number=\"0\"} %" PRIu64
                   ".%09" PRIu64,
                    sum / 1000000000, sum % 1000000000);
        else
            expect("patinox_fixture_%s_sum{fixture=\"plain\",number=\"0\"} %" PRIu64, name[i], sum);
    }
}

static void fill_extremes(struct fixture *a, struct fixture *b) {
    pnx_owner_add(&a->values.hits, UINT64_MAX);
    pnx_owner_add(&a->values.busy, UINT64_MAX);
    pnx_owner_add(&a->values.sent, UINT64_MAX);
    pnx_owner_add(&a->values.level, (uint64_t)INT64_MIN);
    pnx_owner_add(&a->values.age, (uint64_t)INT64_MIN);
    pnx_owner_add(&a->values.used, (uint64_t)INT64_MAX);
    pnx_owner_add(&b->values.busy, 1);
    pnx_owner_add(&b->values.level, (uint64_t)-1);
    pnx_owner_add(&b->values.age, (uint64_t)-1500000000);
#define LABELS(number) "{fixture=\"plain\",number=\"" number "\"} "
    expect("patinox_fixture_hits_total" LABELS("0") "18446744073709551615");
    expect("patinox_fixture_busy_seconds_total" LABELS("0") "18446744073.709551615");
    expect("patinox_fixture_sent_bytes_total" LABELS("0") "18446744073709551615");
    expect("patinox_fixture_level" LABELS("0") "-9223372036854775808");
    expect("patinox_fixture_age_seconds" LABELS("0") "-9223372036.854775808");
    expect("patinox_fixture_used_bytes" LABELS("0") "9223372036854775807");
    expect("patinox_fixture_busy_seconds_total" LABELS("1") "0.000000001");
    expect("patinox_fixture_level" LABELS("1") "-1");
    expect("patinox_fixture_age_seconds" LABELS("1") "-1.5");
    expect("# HELP patinox_fixture_hits Hits; a \\\"quoted\\\" word, a back\\\\slash\\nand a line");
    expect("# UNIT patinox_fixture_busy_seconds seconds");
    expect("# TYPE patinox_fixture_wait_seconds histogram");
    expect("patinox_component_health{name=\"\",number=\"0\",kind=\"fixture\"} 2");
    expect("patinox_fixture_hits_total{fixture=\"latin1 \xef\xbf\xbdt\xef\xbf\xbd\",number=\"1\"} "
           "0");
    expect("patinox_fixture_hits_total{fixture=\"brace} 1\\n# EOF\\n\",number=\"0\"} 0");
}

TEST(p2_a_strict_parser_accepts_hostile_names_and_finds_every_number) {
    static struct fixture f[N];
    static struct pnx_a64 one;
    static const struct pnx_stat_field field[] = {
            PNX_STAT_FIELD(hits, COUNTER, NONE, INFO, "Hits")};
    static const struct pnx_stat_group other = {"other", "other", field, 1, NULL, 0};
    static const struct pnx_stat_group empty = {"empty", "empty", NULL, 0, NULL, 0};
    struct pnx_stats_block more[3] = {
            {.group = &other, .name = "in between", .values = &one},
            {.group = &empty},
            {.group = &other, .name = "at the end", .values = &one},
    };
    const char *path = test_path("expected");
    expected_file = fopen(path, "w");
    CHECK(expected_file);
    struct pnx_stats *set = fixture_set(NULL);
    for (size_t i = 0; i < N; i++) {
        fixture_add(&f[i], set, hostile[i]);
        if (i < 2) /* blocks of other groups in between must not split families */
            pnx__stats_add(set, &more[i]);
    }
    pnx__stats_add(set, &more[2]);
    pnx__health_set(&f[2].stats, PNX_HEALTH_DOWN, "a reason");
    fill_extremes(&f[0], &f[1]);
    fill_histograms(&f[0]);
    CHECK(fclose(expected_file) == 0);
    struct text t = {0};
    CHECK_EQ(pnx_stats_openmetrics(set, keep, &t), 0);
    CHECK(t.pieces > 1);
    for (size_t i = 0; i < N; i++)
        pnx__stats_remove(&f[i].stats);
    for (size_t i = 0; i < 3; i++)
        pnx__stats_remove(&more[i]);
    pnx_stats_release(&set);
    check_strictly(&t, path);
    free(t.data);
}

TEST(p2_random_bytes_as_names) {
    enum { COUNT = 60 };
    static struct fixture f[COUNT];
    static char names[COUNT][24];
    struct pnx_stats *set = fixture_set(NULL);
    uint64_t state = test_seed();
    for (int i = 0; i < COUNT; i++) {
        unsigned n = (unsigned)(test_random(&state) % 23);
        for (unsigned k = 0; k < n; k++)
            names[i][k] = (char)(1 + test_random(&state) % 255);
        fixture_add(&f[i], set, names[i]);
    }
    struct text t = {0};
    CHECK_EQ(pnx_stats_openmetrics(set, keep, &t), 0);
    for (int i = 0; i < COUNT; i++)
        pnx__stats_remove(&f[i].stats);
    pnx_stats_release(&set);
    check_strictly(&t, NULL);
    free(t.data);
}

TEST(tables_follow_the_naming_rules) {
    char path[512];
    snprintf(path, sizeof(path), "%s/include/patinox/stats", test_source_dir());
    int rc = run_script("check_tables.py", path, NULL);
    if (rc == 77)
        test_skip("python3 is not installed");
    CHECK_EQ(rc, 0);
}

TEST(an_empty_set_and_the_off_value_are_only_an_end) {
    struct pnx_stats *set = fixture_set(NULL);
    struct text t = {0};
    CHECK_EQ(pnx_stats_openmetrics(set, keep, &t), 0);
    CHECK_STR(t.data, "# EOF\n");
    t.n = 0;
    CHECK_EQ(pnx_stats_openmetrics(pnx_stats_off(), keep, &t), 0);
    CHECK_STR(t.data, "# EOF\n");
    t.n = 0;
    CHECK_EQ(pnx_stats_openmetrics(NULL, keep, &t), 0);
    CHECK_STR(t.data, "# EOF\n");
    CHECK_EQ(pnx_stats_openmetrics(set, NULL, &t), -EINVAL);
    pnx_stats_release(&set);
    free(t.data);
}

static struct pnx_stats *shared_set;

static int release_and_keep(void *ctx, const char *text, size_t n) {
    pnx_stats_release(&shared_set);
    return keep(ctx, text, n);
}

TEST(the_writer_may_release_the_set) {
    struct test_env te;
    test_env_init(&te);
    static struct fixture f;
    shared_set = fixture_set(&te);
    fixture_add(&f, shared_set, "x");
    struct pnx_stats *set = shared_set;
    struct text t = {0};
    pnx__stats_remove(&f.stats);
    CHECK_EQ(pnx_stats_openmetrics(set, release_and_keep, &t), 0);
    CHECK_STR(t.data, "# EOF\n");
    test_env_check_empty(&te);
    free(t.data);
}

struct refusal {
    int after;
    int calls;
};

static int refuse(void *ctx, const char *text, size_t n) {
    struct refusal *r = ctx;
    (void)text;
    (void)n;
    return ++r->calls > r->after ? -EIO : 0;
}

TEST(an_error_of_the_writer_ends_the_writing_and_is_returned) {
    static struct fixture f[20];
    struct test_env te;
    test_env_init(&te);
    struct pnx_stats *set = fixture_set(&te);
    for (int i = 0; i < 20; i++)
        fixture_add(&f[i], set, "x");
    struct text t = {0};
    CHECK_EQ(pnx_stats_openmetrics(set, keep, &t), 0);
    for (int after = 0; after < (int)t.pieces; after++) {
        struct refusal r = {.after = after};
        CHECK_EQ(pnx_stats_openmetrics(set, refuse, &r), -EIO);
        CHECK_EQ(r.calls, after + 1); /* not called again */
    }
    CHECK(t.pieces >= 3);
    for (int i = 0; i < 20; i++)
        pnx__stats_remove(&f[i].stats);
    pnx_stats_release(&set);
    test_env_check_empty(&te);
    free(t.data);
}

static int write_set(struct test_env *te, void *ctx) {
    static struct fixture f;
    (void)ctx;
    struct pnx_stats *set = NULL;
    struct text t = {0};
    int rc = pnx_stats_create(PNX_STATS_OPTS(.env = &te->env), NULL, &set);
    if (rc)
        return rc;
    fixture_add(&f, set, "x");
    rc = pnx_stats_openmetrics(set, keep, &t);
    CHECK(rc == 0 || t.n == 0); /* all or nothing */
    free(t.data);
    pnx__stats_remove(&f.stats);
    pnx_stats_release(&set);
    return rc;
}

TEST(writing_survives_each_failed_allocation) {
    struct test_env te;
    test_env_init(&te);
    test_fail_each_allocation(&te, write_set, NULL);
}

/* An allocator in which the set grows: what another thread might do between the two looks at it. */
static struct fixture grown[3][300];
static int growth;

static void *grow_and_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
    (void)align;
    pnx__mutex_assert_none_held();
    if (shared_set && growth < 3) {
        for (int i = 0; i < 300; i++)
            fixture_add(
                    &grown[growth][i], shared_set, "a rather long name for a made-up component");
        growth++;
    }
    return malloc(size);
}

static void plain_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    (void)size;
    free(p);
}

TEST(p1_a_set_that_grows_between_measuring_and_copying_is_measured_again) {
    struct pnx_env env = {.size = sizeof(env), .alloc = grow_and_alloc, .free = plain_free};
    struct pnx_stats *set = NULL;
    CHECK_EQ(pnx_stats_create(PNX_STATS_OPTS(.env = &env), NULL, &set), 0);
    static struct fixture first;
    fixture_add(&first, set, "first");
    shared_set = set;
    struct text t = {0};
    CHECK_EQ(pnx_stats_openmetrics(set, keep, &t), 0);
    shared_set = NULL;
    size_t found = 0;
    for (const char *at = t.data; (at = strstr(at, "\npatinox_fixture_hits_total")) != NULL; at++)
        found++;
    CHECK_EQ(growth, 3);
    CHECK_EQ(found, 901);
    pnx__stats_remove(&first.stats);
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 300; i++)
            pnx__stats_remove(&grown[k][i].stats);
    }
    pnx_stats_release(&set);
    free(t.data);
}

struct storm {
    struct pnx_stats *set;
    struct fixture lasting;
    struct pnx_a32 writers;
    int rounds;
};

static uint64_t number_after(const char *text, const char *what) {
    const char *at = strstr(text, what);
    CHECK_MSG(at, "%s is missing", what);
    return strtoull(at + strlen(what), NULL, 10);
}

static void storm(unsigned index, void *ctx) {
    struct storm *s = ctx;
    static const char *const names[2] = {"brief", "other"};
    if (index == 0) { /* the owner of the lasting block */
        for (int i = 0; i < s->rounds * 50; i++) {
            pnx_owner_add(&s->lasting.values.hits, 1);
            pnx__histogram_record(&s->lasting.histograms.wait, i);
        }
    } else if (index < 3) {
        struct fixture *f = calloc(1, sizeof(*f));
        for (int i = 0; i < s->rounds; i++) {
            fixture_add(f, s->set, names[i % 2]);
            pnx__health_set(&f->stats, PNX_HEALTH_DEGRADED, "brief");
            pnx_owner_add(&f->values.sent, 1);
            pnx__stats_remove(&f->stats);
        }
        free(f);
    } else {
        uint64_t hits = 0, count = 0;
        do {
            struct text t = {0};
            CHECK_EQ(pnx_stats_openmetrics(s->set, keep, &t), 0);
#define LASTING "{fixture=\"lasting\",number=\"0\""
            uint64_t h = number_after(t.data, "hits_total" LASTING "} ");
            uint64_t c = number_after(t.data, "wait_seconds_count" LASTING "} ");
            uint64_t inf = number_after(t.data, "wait_seconds_bucket" LASTING ",le=\"+Inf\"} ");
            CHECK(h >= hits && c >= count);
            CHECK_EQ(c, inf);
            hits = h;
            count = c;
            free(t.data);
            CHECK(pnx_health(s->set, NULL, 0, NULL) >= 0);
        } while (pnx_load(&s->writers, PNX_ACQUIRE, "test.writers?"));
        return;
    }
    pnx_fetch_sub(&s->writers, 1, PNX_RELEASE, "test.writers");
}

TEST(p1_counters_never_go_back_while_objects_come_and_go) {
    static struct storm s;
    s.set = fixture_set(NULL);
    s.rounds = test_slow() ? 500 : 5000;
    s.writers.v = 3;
    fixture_add(&s.lasting, s.set, "lasting");
    test_threads(5, storm, &s);
    pnx__stats_remove(&s.lasting.stats);
    pnx_stats_release(&s.set);
}
