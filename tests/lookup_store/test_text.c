/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, JSON strings, and queries made safe. */
#include "harness/harness.h"
#include "query.h"
#include "text.h"

#include <jansson.h>
#include <sqlite3.h>

static const char *json_of(struct lookup_buffer *buffer, const char *text, size_t n) {
    lookup_buffer_free(buffer);
    lookup_buffer_json(buffer, text, n);
    lookup_buffer_add(buffer, "", 1);
    return buffer->data;
}

TEST(utf8_accepts_exactly_what_unicode_says) {
    static const struct {
        const char *bytes;
        size_t length;
    } cases[] = {
            {"a", 1},
            {"\xC3\xA9", 2},
            {"\xE2\x82\xAC", 3},
            {"\xF0\x9F\x98\x80", 4},
            {"\xC0\x80", 0},         /* overlong */
            {"\xC1\xBF", 0},         /* overlong */
            {"\xE0\x9F\xBF", 0},     /* overlong */
            {"\xF0\x8F\xBF\xBF", 0}, /* overlong */
            {"\xED\xA0\x80", 0},     /* a surrogate */
            {"\xED\x9F\xBF", 3},     /* the last before them */
            {"\xEE\x80\x80", 3},     /* the first after them */
            {"\xF4\x8F\xBF\xBF", 4}, /* the last of all */
            {"\xF4\x90\x80\x80", 0}, /* beyond it */
            {"\xF5\x80\x80\x80", 0},
            {"\x80", 0},
            {"\xFF", 0},
            {"\xC3", 0},
            {"\xE2\x82", 0},
            {"\xC3\x28", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t n = strlen(cases[i].bytes);
        CHECK_MSG(lookup_utf8_char(cases[i].bytes, n) == cases[i].length, "case %zu", i);
        CHECK_EQ(lookup_utf8_valid(cases[i].bytes, n), cases[i].length == n ? n : 0);
    }
    CHECK_EQ(lookup_utf8_char("", 0), 0);
    CHECK_EQ(lookup_utf8_valid("12345678901234567\xFFx", 19), 17);
}

TEST(p1_json_is_json_whatever_comes_in) {
    uint64_t state = test_seed();
    struct lookup_buffer buffer = {0};
    CHECK_STR(json_of(&buffer, "a\"b\\c\n\x01\x7F\xFF", 9),
            "\"a\\\"b\\\\c\\n\\u0001\\u007f\xEF\xBF\xBD\"");
    for (int round = 0; round < 2000; round++) {
        char text[64];
        size_t n = test_random(&state) % sizeof(text);
        for (size_t i = 0; i < n; i++)
            text[i] = (char)test_random(&state);
        json_t *value =
                json_loads(json_of(&buffer, text, n), JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        CHECK(value && json_is_string(value));
        if (lookup_utf8_valid(text, n) == n) {
            CHECK_EQ(json_string_length(value), n);
            CHECK(memcmp(json_string_value(value), text, n) == 0);
        }
        json_decref(value);
    }
    lookup_buffer_free(&buffer);
}

TEST(clean_text_has_no_controls) {
    struct lookup_buffer buffer = {0};
    lookup_buffer_clean(&buffer,
            "a\tb\x02\xC2\x85"
            "c\xC3\xA9\xFF",
            10);
    lookup_buffer_add(&buffer, "", 1);
    CHECK_STR(buffer.data, "a b  c\xC3\xA9\xEF\xBF\xBD");
    lookup_buffer_free(&buffer);
}

TEST(latin1_becomes_utf8) {
    struct lookup_buffer buffer = {0};
    lookup_buffer_latin1(&buffer, "caf\xE9 \x80 \x81 \x93x\x94", 12);
    lookup_buffer_add(&buffer, "", 1);
    CHECK_STR(buffer.data, "caf\xC3\xA9 \xE2\x82\xAC \xEF\xBF\xBD \xE2\x80\x9Cx\xE2\x80\x9D");
    lookup_buffer_free(&buffer);
}

/* ---- queries ---- */

static const char *parsed(const char *query) {
    static struct lookup_query result;
    struct pnx_error err;
    int rc = lookup_query_parse(query, strlen(query), &err, &result);
    CHECK_MSG(rc == 0, "%s: %d: %s", query, rc, err.message);
    CHECK_EQ(strlen(result.text), result.size);
    return result.text;
}

TEST(query_becomes_phrases) {
    CHECK_STR(parsed("shared library "), "\"shared\" \"library\"");
    CHECK_STR(parsed("Shared LIBRARY"), "\"shared\" \"library\"*");
    CHECK_STR(parsed("  libfoo-dev  conf  "), "\"libfoo dev\" \"conf\"");
    CHECK_STR(parsed("\"quick  brown\" fox,"), "\"quick brown\" \"fox\"");
    CHECK_STR(parsed("\"not closed"), "\"not closed\"");
    CHECK_STR(parsed("a\"b\"c "), "\"a\" \"b\" \"c\"");
    CHECK_STR(parsed("to"), "\"to\"");
    CHECK_STR(parsed("too"), "\"too\"*");
    CHECK_STR(parsed("caf\xC3\xA9"), "\"caf\xC3\xA9\"*");
    CHECK_STR(parsed("x\xC3\xA9"), "\"x\xC3\xA9\"");
    CHECK_STR(parsed("a\xFFz "), "\"a z\"");
    CHECK_STR(parsed("title:foo AND (bar* OR NOT ^baz) NEAR/2 {x} -y +z "),
            "\"title foo\" \"and\" \"bar\" \"or\" \"not\" \"baz\" \"near 2\" \"x\" \"y\" \"z\"");
}

TEST(p2_same_words_are_the_same_query) {
    char first[256];
    snprintf(first, sizeof(first), "%s", parsed("shared, library!"));
    CHECK_STR(parsed(" SHARED\tLibrary. "), first);
    CHECK_STR(parsed("(shared) library;"), first);
}

TEST(query_without_words_or_too_long_is_refused) {
    struct lookup_query query;
    struct pnx_error err;
    static const char *const empty[] = {"", " ", "\"\"", "-- !", "\"", "\t\n", "\x80\xFF"};
    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
        CHECK_EQ(lookup_query_parse(empty[i], strlen(empty[i]), &err, &query), -EINVAL);
    CHECK_CONTAINS(err.message, "no word");
    CHECK_EQ(lookup_query_parse("\0\0", 2, &err, &query), -EINVAL);
    char text[LOOKUP_QUERY_MAX + 1];
    memset(text, 'a', sizeof(text));
    CHECK_EQ(lookup_query_parse(text, sizeof(text), &err, &query), -EFBIG);
    CHECK_EQ(lookup_query_parse(text, sizeof(text) - 1, &err, &query), 0);
    for (size_t i = 0; i < sizeof(text); i += 2)
        text[i] = ' ';
    CHECK_EQ(lookup_query_parse(text, 2 * LOOKUP_WORDS_MAX, &err, &query), 0);
    CHECK_EQ(query.words, LOOKUP_WORDS_MAX);
    CHECK_EQ(lookup_query_parse(text, 2 * LOOKUP_WORDS_MAX + 2, &err, &query), -EFBIG);
    CHECK_CONTAINS(err.message, "words");
}

/* Bytes that look like what a query is made of, and others. */
static size_t make_query(uint64_t *state, char *text, size_t cap) {
    static const char *const pieces[] = {"\"", "*", " ", "AND ", "OR", "NOT ", "NEAR(", ")", "(",
            ":", "title:", "{", "}", "^", "-", "+", ",", "'", "\\", "a", "foo", "9", "\xC3\xA9",
            "\xE2\x80\x94", "\xCC\x81", "\xF0\x9F\x98\x80", "\xFF"};
    size_t n = 0, target = test_random(state) % cap;
    while (n < target) {
        uint64_t pick = test_random(state) % (sizeof(pieces) / sizeof(pieces[0]) + 3);
        if (pick >= sizeof(pieces) / sizeof(pieces[0])) {
            text[n++] = (char)test_random(state);
            continue;
        }
        size_t length = strlen(pieces[pick]);
        if (n + length > cap)
            break;
        memcpy(text + n, pieces[pick], length);
        n += length;
    }
    return n;
}

TEST(p1_no_query_is_an_error_to_fts5) {
    uint64_t state = test_seed();
    sqlite3 *db = NULL;
    CHECK_EQ(sqlite3_open(":memory:", &db), SQLITE_OK);
    CHECK_EQ(sqlite3_exec(db,
                     "CREATE VIRTUAL TABLE s USING fts5(title, body, content='', "
                     "tokenize='unicode61 remove_diacritics 2');"
                     "INSERT INTO s(rowid, title, body) VALUES(1, 'a foo', 'and or not near 9')",
                     NULL, NULL, NULL),
            SQLITE_OK);
    sqlite3_stmt *stmt = NULL;
    CHECK_EQ(sqlite3_prepare_v2(
                     db, "SELECT rowid FROM s WHERE s MATCH ?1 ORDER BY rank", -1, &stmt, NULL),
            SQLITE_OK);
    int rounds = test_long() ? 500000 : test_slow() ? 5000 : 30000, searched = 0;
    for (int round = 0; round < rounds; round++) {
        char text[LOOKUP_QUERY_MAX];
        size_t n = make_query(&state, text, round % 3 ? 48 : sizeof(text));
        struct lookup_query query;
        if (lookup_query_parse(text, n, NULL, &query) != 0)
            continue;
        searched++;
        CHECK(lookup_utf8_valid(query.text, query.size) == query.size);
        sqlite3_bind_text(stmt, 1, query.text, (int)query.size, SQLITE_STATIC);
        int result;
        while ((result = sqlite3_step(stmt)) == SQLITE_ROW)
            ;
        CHECK_MSG(result == SQLITE_DONE, "%s: %s", query.text, sqlite3_errmsg(db));
        sqlite3_reset(stmt);
    }
    CHECK(searched > rounds / 4);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
}
