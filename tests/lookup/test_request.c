/* SPDX-License-Identifier: Apache-2.0 */
/* test_request.c - what a client's text means, command lines, growing texts: pure functions of lookup. */
#include "harness/harness.h"

#include "buffer.h"
#include "cli.h"
#include "metrics.h"
#include "request.h"

static int decode(const char *text, char *out, size_t capacity, size_t *ret_size) {
    return request_decode(text, strlen(text), out, capacity, ret_size);
}

TEST(decode_takes_what_is_well_formed) {
    static const struct {
        const char *text, *expected;
    } cases[] = {{"", ""}, {"abc", "abc"}, {"a%20b", "a b"}, {"%41%4a%4A", "AJJ"}, {"%25", "%"},
            {"%c3%a9", "\xc3\xa9"}, {"a+b", "a+b"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char out[32];
        size_t size = 99;
        CHECK_EQ(decode(cases[i].text, out, sizeof(out), &size), 0);
        CHECK_EQ(size, strlen(cases[i].expected));
        CHECK(memcmp(out, cases[i].expected, size) == 0);
    }
}

TEST(decode_refuses_the_rest_and_leaves_the_output_alone) {
    static const char *const bad[] = {
            "%", "%4", "%zz", "%4g", "a%", "abc%1", "%00", "x%00y", "%%41"};
    char out[32];
    size_t size = 99;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_EQ(decode(bad[i], out, sizeof(out), &size), -EINVAL);
    CHECK_EQ(decode("abcd", out, 3, &size), -EFBIG);
    CHECK_EQ(size, 99);
    CHECK_EQ(request_decode("ab%41", 4, out, sizeof(out), &size),
            -EINVAL); /* ends within the escape */
}

TEST(number_is_digits_only_and_bounded) {
    uint64_t n = 7;
    CHECK_EQ(request_number("0", 1, 10, &n), 0);
    CHECK_EQ(n, 0);
    CHECK_EQ(request_number("18446744073709551615", 20, UINT64_MAX, &n), 0);
    CHECK(n == UINT64_MAX);
    CHECK_EQ(request_number("18446744073709551616", 20, UINT64_MAX, &n), -ERANGE);
    CHECK_EQ(request_number("99999999999999999999999999", 26, UINT64_MAX, &n), -ERANGE);
    CHECK_EQ(request_number("11", 2, 10, &n), -ERANGE);
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "1x", "0x1", "1.0"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_EQ(request_number(bad[i], strlen(bad[i]), 10, &n), -EINVAL);
    CHECK(n == UINT64_MAX);
}

TEST(route_knows_only_the_exact_paths) {
    uint64_t id = 99;
    CHECK_EQ(request_route("/", &id), ROUTE_PAGE);
    CHECK_EQ(request_route("/search", &id), ROUTE_SEARCH);
    CHECK_EQ(request_route("/metrics", &id), ROUTE_METRICS);
    CHECK_EQ(request_route("/health", &id), ROUTE_HEALTH);
    CHECK_EQ(request_route("/stats.json", &id), ROUTE_STATS);
    CHECK_EQ(request_route("/documents/17", &id), ROUTE_DOCUMENT);
    CHECK_EQ(id, 17);
    CHECK_EQ(request_route("http://host:80/health", &id), ROUTE_HEALTH);
    CHECK_EQ(request_route("http://host", &id), ROUTE_PAGE);
    static const char *const none[] = {"", "*", "//", "/.", "/..", "/search/", "/Search",
            "/documents/", "/documents/x", "/documents/-1", "/documents/1/..", "/documents/../1",
            "/documents/01", "/documents/%31", "/documents/9223372036854775808", "/health%00"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        CHECK_MSG(request_route(none[i], &id) == ROUTE_NONE, "%s", none[i]);
    for (unsigned i = 0; i < ROUTE_COUNT; i++)
        CHECK(request_route_name((enum request_route)i)[0]);
}

TEST(etag_is_compared_weakly_and_as_a_whole) {
    CHECK(request_etag_matches("\"a\"", "\"a\""));
    CHECK(request_etag_matches("W/\"a\"", "\"a\""));
    CHECK(request_etag_matches("\"x\", \"a\"", "\"a\""));
    CHECK(request_etag_matches("\"x\" ,W/\"a\"", "\"a\""));
    CHECK(request_etag_matches("*", "\"a\""));
    static const char *const no[] = {
            "", " ", "\"b\"", "a", "\"a", "\"aa\"", "a\"", "W/a", "W/", ",", "\"x\", a"};
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
        CHECK_MSG(!request_etag_matches(no[i], "\"a\""), "%s", no[i]);
}

TEST(range_follows_the_standard) {
    static const struct {
        const char *header;
        uint64_t size;
        enum request_range kind;
        uint64_t first, last;
    } cases[] = {
            /* clang-format off */
        {NULL, 100, RANGE_WHOLE, 0, 0}, {"bytes=0-0", 100, RANGE_PART, 0, 0}, {"bytes=0-99", 100, RANGE_PART, 0, 99},
        {"bytes=0-100", 100, RANGE_PART, 0, 99}, {"bytes=99-", 100, RANGE_PART, 99, 99},
        {"bytes=-1", 100, RANGE_PART, 99, 99}, {"bytes=-100", 100, RANGE_PART, 0, 99},
        {"bytes=-101", 100, RANGE_PART, 0, 99}, {"bytes= 1-2 ", 100, RANGE_PART, 1, 2},
        {"bytes=-99999999999999999999999", 100, RANGE_PART, 0, 99},
        {"bytes=100-", 100, RANGE_UNSATISFIABLE, 0, 0}, {"bytes=-0", 100, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=0-", 0, RANGE_UNSATISFIABLE, 0, 0}, {"bytes=-5", 0, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=99999999999999999999999-", 100, RANGE_UNSATISFIABLE, 0, 0},
        {"bytes=2-1", 100, RANGE_WHOLE, 0, 0}, {"bytes=", 100, RANGE_WHOLE, 0, 0}, {"bytes=-", 100, RANGE_WHOLE, 0, 0},
        {"bytes=1", 100, RANGE_WHOLE, 0, 0}, {"bytes=x-1", 100, RANGE_WHOLE, 0, 0}, {"bytes=1-x", 100, RANGE_WHOLE, 0, 0},
        {"bytes=1-2-3", 100, RANGE_WHOLE, 0, 0}, {"bytes=1-2 3", 100, RANGE_WHOLE, 0, 0},
        {"bytes=1-2,4-5", 100, RANGE_WHOLE, 0, 0}, {"items=1-2", 100, RANGE_WHOLE, 0, 0}, {"", 100, RANGE_WHOLE, 0, 0},
            /* clang-format on */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t first = 0, last = 0;
        enum request_range kind = request_range(cases[i].header, cases[i].size, &first, &last);
        CHECK_MSG(kind == cases[i].kind && first == cases[i].first && last == cases[i].last,
                "%s of %llu: kind %d, %llu to %llu", cases[i].header ? cases[i].header : "(none)",
                (unsigned long long)cases[i].size, kind, (unsigned long long)first,
                (unsigned long long)last);
    }
}

TEST(random_texts_never_break_the_parsers) {
    static const char alphabet[] = "%0123456789abcdefABCDEF-=, \"W/*bytes\t+xyz";
    uint64_t seed = test_seed();
    for (unsigned i = 0; i < 200000; i++) {
        size_t size = test_random(&seed) % 24;
        char *text = malloc(size + 1),
             *out = malloc(size ? size : 1); /* exact, for the sanitizer */
        uint64_t first = 0, last = 0, id = 0;
        size_t n = 0;
        CHECK(text && out);
        for (size_t k = 0; k < size; k++)
            text[k] = alphabet[test_random(&seed) % (sizeof(alphabet) - 1)];
        text[size] = '\0';
        if (request_decode(text, size, out, size, &n) == 0)
            CHECK(n <= size && !memchr(out, '\0', n));
        (void)request_route(text, &id);
        (void)request_etag_matches(text, "\"1\"");
        uint64_t body = test_random(&seed) % 50;
        if (request_range(text, body, &first, &last) == RANGE_PART)
            CHECK(first <= last && last < body);
        memcpy(text, "bytes=", size < 6 ? size : 6);
        if (request_range(text, body, &first, &last) == RANGE_PART)
            CHECK(first <= last && last < body);
        free(text);
        free(out);
    }
}

TEST(buffer_holds_json_of_any_bytes) {
    struct buffer b = {0};
    char *text;
    size_t size;
    static const char bytes[] =
            "a\"\\\n\x01\x7f\xc3\xa9\xff\xc0\x80\xed\xa0\x80\xf0\x9f\x98\x80\xc3";
    buffer_json(&b, bytes, sizeof(bytes) - 1);
    CHECK_EQ(buffer_take(&b, &text, &size), 0);
    static const char expected[] =
            "\"a\\\"\\\\\\u000a\\u0001\\u007f\xc3\xa9\xEF\xBF\xBD\xEF\xBF\xBD"
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xf0\x9f\x98\x80"
            "\xEF\xBF\xBD\"";
    CHECK_EQ(size, sizeof(expected) - 1);
    CHECK(memcmp(text, expected, size) == 0);
    free(text);
}

TEST(buffer_keeps_its_limit_and_remembers_that_it_did) {
    struct buffer b = {.limit = 1000};
    char *text;
    size_t size;
    for (unsigned i = 0; i < 100; i++)
        buffer_printf(&b, "%s", "0123456789");
    CHECK_EQ(b.error, 0);
    CHECK_EQ(b.size, 1000);
    buffer_append(&b, "x", 1);
    CHECK_EQ(b.error, -EFBIG);
    buffer_append(&b, "", 0);
    CHECK_EQ(buffer_take(&b, &text, &size), -EFBIG);
    CHECK(!b.text && b.size == 0 && b.error == 0);

    char *large = malloc(5000);
    CHECK(large);
    memset(large, 'y', 4999);
    large[4999] = '\0';
    struct buffer c = {0};
    buffer_printf(&c, "<%s>", large);
    CHECK_EQ(buffer_take(&c, &text, &size), 0);
    CHECK_EQ(size, 5001);
    CHECK(text[0] == '<' && text[5000] == '>');
    free(text);
    free(large);
}

static int parse(struct cli *cli, struct pnx_error *err, const char *a, const char *b) {
    char program[] = "lookup", first[64], second[64];
    snprintf(first, sizeof(first), "%s", a ? a : "");
    snprintf(second, sizeof(second), "%s", b ? b : "");
    char *argv[] = {program, first, second, NULL};
    return cli_parse(1 + (a != NULL) + (b != NULL), argv, err, cli);
}

TEST(cli_defaults_serve_this_machine_only) {
    static struct cli cli;
    struct pnx_error err = {0};
    setenv("XDG_CACHE_HOME", "/somewhere/cache", 1);
    CHECK_EQ(parse(&cli, &err, NULL, NULL), 0);
    CHECK_STR(cli.host, "127.0.0.1");
    CHECK_EQ(cli.port, 8080);
    CHECK_STR(cli.corpus, "/usr/share/doc");
    CHECK_STR(cli.data_dir, "/somewhere/cache/patinox-lookup");
    CHECK(!cli.config && !cli.help && cli.bench_constant == 0);
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/home/someone", 1);
    CHECK_EQ(parse(&cli, &err, NULL, NULL), 0);
    CHECK_STR(cli.data_dir, "/home/someone/.cache/patinox-lookup");
    unsetenv("HOME");
    CHECK_EQ(parse(&cli, &err, NULL, NULL), -ENOENT);
    CHECK_CONTAINS(err.message, "--data-dir");
}

TEST(cli_takes_both_spellings_and_names_what_is_wrong) {
    static struct cli cli;
    struct pnx_error err = {0};
    setenv("HOME", "/home/someone", 1);
    CHECK_EQ(parse(&cli, &err, "--port", "0"), 0);
    CHECK_EQ(cli.port, 0);
    CHECK_EQ(parse(&cli, &err, "--port=65535", "--help"), 0);
    CHECK(cli.port == 65535 && cli.help);
    CHECK_EQ(parse(&cli, &err, "--port", "65536"), -EINVAL);
    CHECK_CONTAINS(err.message, "--port: \"65536\" is not a whole number from 0 to 65535");
    CHECK_EQ(parse(&cli, &err, "--port", NULL), -EINVAL);
    CHECK_CONTAINS(err.message, "--port: N is missing");
    CHECK_EQ(parse(&cli, &err, "--", NULL), -EINVAL);
    CHECK_EQ(parse(&cli, &err, "--por", "1"), -EINVAL);
    CHECK_CONTAINS(err.message, "unknown option");
}

TEST(metrics_count_each_request_once) {
    static struct metrics m __attribute__((aligned(64)));
    struct metrics_totals t;
    metrics_request(&m, ROUTE_SEARCH, 200, 12 * PNX_US, 100, false);
    metrics_request(&m, ROUTE_SEARCH, 503, 60 * PNX_SEC, 0, false);
    metrics_request(&m, ROUTE_DOCUMENT, 404, 0, 0, true);
    metrics_request(&m, ROUTE_NONE, 418, 10 * PNX_US, 0, false);
    metrics_totals(&m, &t);
    CHECK_EQ(t.requests, 4);
    CHECK_EQ(t.server_errors, 1);
    CHECK_EQ(t.client_errors, 1);
    CHECK_EQ(t.buckets[METRICS_SEARCH][1], 1); /* over 10 us, not over 15 us */
    CHECK_EQ(t.buckets[METRICS_SEARCH][METRICS_BOUNDS], 1);
    CHECK_EQ(t.buckets[METRICS_DOCUMENTS][0], 1);
    CHECK_EQ(t.buckets[METRICS_OTHER][0], 1);
}
