/* SPDX-License-Identifier: Apache-2.0 */
/* Searches and documents of an open store. */
#include "common.h"

#include <patinox/cache.h>
#include <patinox/pool.h>
#include <patinox/reclaim.h>
#include <patinox/shutdown.h>

#include <errno.h>
#include <jansson.h>
#include <sched.h>
#include <sqlite3.h>

static json_t *body_of(const struct lookup_answer *answer, const char *query) {
    char *text = NULL;
    size_t size = 0;
    CHECK_EQ(lookup_answer_json(answer, query, strlen(query), 123, &text, &size), 0);
    json_error_t error;
    json_t *body = json_loadb(text, size, 0, &error);
    CHECK_MSG(body, "%s in %.*s", error.text, (int)size, text);
    free(text);
    return body;
}

static const char *result_field(json_t *body, size_t index, const char *name) {
    const char *text = json_string_value(
            json_object_get(json_array_get(json_object_get(body, "results"), index), name));
    return text ? text : "(none)";
}

static const char *marks_of(json_t *body, size_t index) {
    static char text[512];
    char *dumped = json_dumps(
            json_object_get(json_array_get(json_object_get(body, "results"), index), "marks"),
            JSON_COMPACT | JSON_ENCODE_ANY);
    snprintf(text, sizeof(text), "%s", dumped ? dumped : "(none)");
    free(dumped);
    return text;
}

TEST(search_finds_documents_with_all_words) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    CHECK_EQ(count_of(store, "fox "), 3);
    CHECK_EQ(count_of(store, "fox dog"), 2);
    CHECK_EQ(count_of(store, "QUICK"), 1);
    CHECK_EQ(count_of(store, "\"brown fox\""), 1);
    CHECK_EQ(count_of(store, "\"fox brown\""), 0);
    CHECK_EQ(count_of(store, "libfoo-dev "), 1);
    CHECK_EQ(count_of(store, "dev-libfoo "), 0);
    CHECK_EQ(count_of(store, "cafe "), 1);
    CHECK_EQ(count_of(store, "CAF\xC3\x89 "), 1);
    CHECK_EQ(count_of(store, "jum"), 1);   /* a beginning */
    CHECK_EQ(count_of(store, "jum "), 0);  /* a word */
    CHECK_EQ(count_of(store, "gamma"), 1); /* in a title */
    CHECK_EQ(count_of(store, "sub"), 2);   /* in paths */
    CHECK_EQ(count_of(store, "nothingofthatkind"), 0);
    CHECK_EQ(count_of(store, "\xE2\x80\x94"), 0); /* a dash: no word to FTS5 */
    lookup_store_release(&store);
}

TEST(answer_is_json_with_marked_snippets) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = search(store, "brown fox");
    CHECK(!answer.cached);
    json_t *body = body_of(&answer, "brown fox");
    CHECK_STR(json_string_value(json_object_get(body, "query")), "brown fox");
    CHECK_EQ(json_integer_value(json_object_get(body, "total")), 1);
    CHECK_EQ(json_integer_value(json_object_get(body, "took_us")), 123);
    CHECK(json_is_false(json_object_get(body, "cached")));
    CHECK_STR(result_field(body, 0, "title"), "Alpha document");
    CHECK_STR(result_field(body, 0, "path"), "a.txt");
    CHECK_STR(result_field(body, 0, "snippet"),
            "Alpha document The quick brown fox jumps over the lazy dog. ");
    CHECK_STR(marks_of(body, 0), "[[25,30],[31,34]]");
    json_decref(body);
    lookup_answer_release(&answer);
    lookup_answer_release(&answer);
    /* Query text that is no UTF-8 comes back as JSON all the same. */
    answer = search(store, "fox\xFF\"");
    body = body_of(&answer, "fox\xFF\"");
    CHECK_STR(json_string_value(json_object_get(body, "query")), "fox\xEF\xBF\xBD\"");
    json_decref(body);
    lookup_answer_release(&answer);
    lookup_store_release(&store);
}

TEST(snippet_shows_where_the_words_stand_together) {
    static char text[100000];
    size_t n = 0;
    n += (size_t)fill(text + n, sizeof(text) - n, "Title\nneedle alone at first. ");
    while (n < 60000)
        n += (size_t)fill(text + n, sizeof(text) - n, "hay and straw, line %zu\n", n);
    n += (size_t)fill(text + n, sizeof(text) - n, "here the needle meets its thread\n");
    while (n < 90000)
        n += (size_t)fill(text + n, sizeof(text) - n, "straw and hay, line %zu\n", n);
    put_file("hay.txt", text, n);
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = search(store, "needle thread");
    json_t *body = body_of(&answer, "x");
    CHECK_CONTAINS(result_field(body, 0, "snippet"), "the needle meets its thread");
    CHECK(strncmp(result_field(body, 0, "snippet"), "\xE2\x80\xA6 ", 4) == 0);
    CHECK(strlen(result_field(body, 0, "snippet")) < 400);
    json_decref(body);
    lookup_answer_release(&answer);
    lookup_store_release(&store);
}

TEST(snippet_is_plain_text_and_its_marks_count_characters) {
    /* Letters of two, three and four bytes before the match, and control characters of the text's own. */
    put_text("odd.txt",
            "Title\nna\xC3\xAFve \xE2\x82\xAC\x02 \xF0\x9F\x98\x80 caf\xC3\xA9 and needle\x03 more "
            "words "
            "and more words, so that two controls are few among them all, and it is text\n");
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = search(store, "cafe needle");
    json_t *body = body_of(&answer, "x");
    const char *snippet = result_field(body, 0, "snippet");
    static const char begin[] =
            "Title na\xC3\xAFve \xE2\x82\xAC \xF0\x9F\x98\x80 caf\xC3\xA9 and needle more";
    CHECK(strncmp(snippet, begin, sizeof(begin) - 1) == 0);
    for (const char *c = snippet; *c; c++)
        CHECK((unsigned char)*c >= 0x20);
    CHECK_STR(marks_of(body, 0), "[[16,20],[25,31]]");
    json_decref(body);
    lookup_answer_release(&answer);
    lookup_store_release(&store);
}

TEST(title_matches_come_first) {
    put_text("1.txt", "Something else\nzebra zebra zebra\n");
    put_text("2.txt", "The zebra\nanother thing\n");
    for (int i = 0; i < 20; i++) {
        char name[16];
        fill(name, sizeof(name), "x%d", i);
        put_text(name, "filler without that animal\n");
    }
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = search(store, "zebra");
    json_t *body = body_of(&answer, "x");
    CHECK_STR(result_field(body, 0, "path"), "2.txt");
    json_decref(body);
    lookup_answer_release(&answer);
    lookup_store_release(&store);
}

TEST(pages_are_disjoint_and_complete) {
    for (int i = 0; i < 25; i++) {
        char name[16];
        fill(name, sizeof(name), "f%02d", i);
        put_text(name, "the same words in every document\n");
    }
    struct lookup_store *store = open_store(NULL);
    bool seen[26] = {0};
    for (uint32_t offset = 0; offset < 30; offset += 7) {
        struct lookup_answer answer = {0};
        CHECK_EQ(lookup_store_search(store, "words", 5, 7, offset, PNX_SEC, NULL, &answer), 0);
        CHECK_EQ(answer.total, 25);
        json_t *body = body_of(&answer, "x");
        json_t *results = json_object_get(body, "results");
        CHECK_EQ(json_array_size(results), offset >= 25 ? 0 : offset + 7 > 25 ? 25 - offset : 7);
        size_t index;
        json_t *result;
        json_array_foreach(results, index, result) {
            int64_t id = json_integer_value(json_object_get(result, "id"));
            CHECK(id >= 1 && id <= 25 && !seen[id]);
            seen[id] = true;
        }
        json_decref(body);
        lookup_answer_release(&answer);
    }
    for (int id = 1; id <= 25; id++)
        CHECK(seen[id]);
    lookup_store_release(&store);
}

TEST(bad_requests_are_told_apart) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = {0};
    struct pnx_error err;
    CHECK_EQ(lookup_store_search(store, "", 0, 0, 0, PNX_SEC, &err, &answer), -EINVAL);
    CHECK_EQ(lookup_store_search(store, " - ", 3, 0, 0, PNX_SEC, &err, &answer), -EINVAL);
    CHECK_EQ(lookup_store_search(store, "a", 1, LOOKUP_LIMIT_MAX + 1, 0, PNX_SEC, &err, &answer),
            -ERANGE);
    CHECK_EQ(lookup_store_search(store, "a", 1, 1, LOOKUP_OFFSET_MAX + 1, PNX_SEC, &err, &answer),
            -ERANGE);
    CHECK_EQ(lookup_store_search(store, "a", 1, 1, 0, -5, &err, &answer), -EINVAL);
    char text[LOOKUP_QUERY_MAX + 1];
    memset(text, 'a', sizeof(text));
    CHECK_EQ(lookup_store_search(store, text, sizeof(text), 1, 0, PNX_SEC, &err, &answer), -EFBIG);
    CHECK(answer.results == NULL);
    CHECK_EQ(lookup_store_search(
                     store, "fox", 3, LOOKUP_LIMIT_MAX, LOOKUP_OFFSET_MAX, PNX_SEC, &err, &answer),
            0);
    CHECK_EQ(answer.total, 3);
    CHECK_EQ(answer.results_size, 2);
    lookup_answer_release(&answer);
    lookup_store_release(&store);
}

/* ---- the cache ---- */

TEST(repeated_search_comes_from_the_cache) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer first = search(store, "fox dog"), second = search(store, " FOX, dog");
    CHECK(!first.cached);
    CHECK(second.cached);
    CHECK_EQ(first.results_size, second.results_size);
    CHECK(memcmp(first.results, second.results, first.results_size) == 0);
    CHECK_EQ(info_of(store).searches, 2);
    CHECK_EQ(info_of(store).database_reads, 1);
    /* Another page is another answer. */
    struct lookup_answer page = {0};
    CHECK_EQ(lookup_store_search(store, "fox dog", 7, 1, 1, PNX_SEC, NULL, &page), 0);
    CHECK(!page.cached);
    lookup_answer_release(&page);
    lookup_answer_release(&first);
    /* The answer outlives the store. */
    lookup_store_release(&store);
    CHECK(memchr(second.results, '[', 1) != NULL);
    lookup_answer_release(&second);
}

TEST(a_search_that_was_looked_for_first_counts_one_miss) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = {0};
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(lookup_store_search_cached(store, "fox", 3, 0, 0, NULL, &answer), -ENOENT);
    answer = search(store, "fox");
    lookup_answer_release(&answer);
    CHECK_EQ(lookup_store_search_cached(store, "fox", 3, 0, 0, NULL, &answer), 0);
    lookup_answer_release(&answer);
    CHECK_EQ(pnx_cache_read_stats(lookup_store_cache(store), &stats), 0);
    CHECK_EQ(stats.misses, 1);
    CHECK_EQ(stats.hits, 1);
    lookup_store_release(&store);
}

struct crowd {
    struct lookup_store *store;
};

static void ask_the_same(unsigned index, void *ctx) {
    (void)index;
    struct crowd *crowd = ctx;
    for (int i = 0; i < 20; i++) {
        char query[32];
        fill(query, sizeof(query), "fox word%d \"the\"", i);
        struct lookup_answer answer = search(crowd->store, query);
        lookup_answer_release(&answer);
        fill(query, sizeof(query), "the %d", i);
        answer = search(crowd->store, query);
        lookup_answer_release(&answer);
    }
}

TEST(p4_identical_searches_at_the_same_time_read_the_database_once) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct crowd crowd = {.store = store};
    test_threads(8, ask_the_same, &crowd);
    CHECK_EQ(info_of(store).searches, 8 * 40);
    CHECK_EQ(info_of(store).database_reads, 40);
    lookup_store_release(&store);
}

static struct pnx_cache_stats cache_stats(struct lookup_store *store) {
    struct pnx_cache_stats stats = {.size = sizeof(stats)};
    CHECK_EQ(pnx_cache_read_stats(lookup_store_cache(store), &stats), 0);
    return stats;
}

/* A search finds nothing; known: the cache says so at once. */
static void check_absence(struct lookup_store *store, const char *query, bool known) {
    struct lookup_answer answer = {0};
    if (known) {
        struct pnx_error err = {0};
        CHECK_EQ(lookup_store_search_cached(store, query, strlen(query), 0, 0, &err, &answer), 0);
        CHECK(answer.cached);
        CHECK_EQ(answer.total, 0);
        lookup_answer_release(&answer);
    }
    answer = search(store, query);
    CHECK_EQ(answer.cached, known);
    CHECK_EQ(answer.total, 0);
    json_t *body = body_of(&answer, query);
    CHECK_EQ(json_array_size(json_object_get(body, "results")), 0);
    json_decref(body);
    lookup_answer_release(&answer);
}

/* ---- answers that are asked for anew ---- */

/* A store whose answers are past their time a millisecond after they were made, and the one connection to its database. */
static struct lookup_store *open_refreshing(struct pnx_lease *ret_lease) {
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    settings.pool_max = 1;
    settings.cache_refresh_ns = PNX_MS;
    put_small_corpus();
    struct lookup_store_opts opts = default_opts();
    opts.settings = &settings;
    struct lookup_store *store = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(lookup_store_open(&opts, &err, &store), 0);
    struct lookup_answer answer = search(store, "fox");
    CHECK(!answer.cached);
    lookup_answer_release(&answer);
    CHECK_EQ(pnx_pool_acquire(lookup_store_pool(store), 10 * PNX_SEC, &err, ret_lease), 0);
    pnx_ns made = pnx_now();
    while (pnx_now() < made + 2 * PNX_MS) /* on the clock that the cache reads */
        sched_yield();
    return store;
}

static void check_served(struct lookup_store *store) {
    struct lookup_answer answer = {0};
    struct pnx_error err = {0};
    CHECK_EQ(lookup_store_search_cached(store, "fox", 3, 0, 0, &err, &answer), 0);
    CHECK(answer.cached);
    CHECK_EQ(answer.total, 3);
    lookup_answer_release(&answer);
    answer = search(store, "fox");
    CHECK(answer.cached);
    lookup_answer_release(&answer);
}

TEST(p4_an_answer_past_its_refresh_time_is_served_while_one_job_asks_anew) {
    struct pnx_lease lease = {0};
    struct lookup_store *store = open_refreshing(&lease);
    for (int i = 0; i < 10; i++)
        check_served(store); /* without the database, whose connection the test has */
    struct pnx_cache_stats stats = cache_stats(store);
    CHECK_EQ(stats.stale_hits, 20);
    CHECK_EQ(stats.loading, 1);
    CHECK_EQ(stats.refreshes, 0);
    CHECK_EQ(info_of(store).searches, 21);
    pnx_lease_release(&lease);
    while (cache_stats(store).refreshes == 0)
        sched_yield();
    CHECK_EQ(info_of(store).database_reads, 2);
    CHECK_EQ(cache_stats(store).refresh_failures, 0);
    check_served(store);
    lookup_store_release(&store);
}

TEST(p4_a_refresh_that_fails_leaves_the_old_answer) {
    struct pnx_lease lease = {0};
    struct lookup_store *store = open_refreshing(&lease);
    CHECK_EQ(pnx_pool_close(lookup_store_pool(store), 0),
            1); /* no connection is to be had any more */
    check_served(store);
    while (cache_stats(store).refresh_failures == 0)
        sched_yield();
    check_served(store);
    CHECK_EQ(info_of(store).database_reads, 1);
    pnx_lease_release(&lease);
    lookup_store_release(&store);
}

/* Takes all words out of the database under the store, which never happens by itself; new connections see it. */
static void empty_index(struct lookup_store *store) {
    sqlite3 *db = NULL;
    CHECK_EQ(sqlite3_open(test_path("data/gen-1/index.db"), &db), SQLITE_OK);
    CHECK_EQ(sqlite3_exec(db, "INSERT INTO search(search) VALUES('delete-all')", NULL, NULL, NULL),
            SQLITE_OK);
    CHECK_EQ(sqlite3_close(db), SQLITE_OK);
    CHECK_EQ(pnx_pool_reset(lookup_store_pool(store), PNX_POOL_RESET_IDLE), 0);
}

TEST(p4_a_refresh_that_finds_nothing_takes_the_old_answer_away) {
    struct pnx_lease lease = {0};
    struct lookup_store *store = open_refreshing(&lease);
    empty_index(store);
    check_served(store); /* which has it asked for anew */
    pnx_lease_release(&lease);
    while (cache_stats(store).refreshes == 0)
        sched_yield();
    CHECK_EQ(cache_stats(store).refresh_failures, 0);
    check_absence(store, "fox", true);
    CHECK_EQ(cache_stats(store).negative_hits, 2);
    CHECK_EQ(info_of(store).database_reads, 2);
    lookup_store_release(&store);
}

/* ---- searches that find nothing ---- */

static struct lookup_store *open_forgetting(pnx_ns negative_ttl) {
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    settings.cache_negative_ttl_ns = negative_ttl;
    put_small_corpus();
    struct lookup_store_opts opts = default_opts();
    opts.settings = &settings;
    struct lookup_store *store = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(lookup_store_open(&opts, &err, &store), 0);
    return store;
}

TEST(p4_a_search_that_finds_nothing_reads_the_database_once) {
    struct lookup_store *store = open_forgetting(60 * PNX_SEC);
    struct lookup_answer answer = {0};
    CHECK_EQ(lookup_store_search_cached(store, "unicorn", 7, 0, 0, NULL, &answer), -ENOENT);
    answer = search(store, "unicorn");
    CHECK(!answer.cached);
    CHECK_EQ(answer.total, 0);
    lookup_answer_release(&answer);
    for (int i = 0; i < 3; i++)
        check_absence(store, "unicorn", true);
    CHECK_EQ(info_of(store).database_reads, 1);
    CHECK_EQ(info_of(store).searches, 7);
    struct pnx_cache_stats stats = cache_stats(store);
    CHECK_EQ(stats.misses, 1);
    CHECK_EQ(stats.negative_hits, 6);
    CHECK_EQ(stats.hits, 0);
    CHECK_EQ(stats.load_failures, 0);
    /* A page behind the last one has no results, but what it says of the others is an answer like any. */
    CHECK_EQ(lookup_store_search(store, "fox", 3, 10, 50, PNX_SEC, NULL, &answer), 0);
    CHECK_EQ(answer.total, 3);
    CHECK_EQ(answer.results_size, 2);
    lookup_answer_release(&answer);
    CHECK_EQ(cache_stats(store).negative_hits, 6);
    lookup_store_release(&store);
}

static void ask_for_nothing(unsigned index, void *ctx) {
    struct crowd *crowd = ctx;
    for (int i = 0; i < 20; i++) {
        char query[32];
        fill(query, sizeof(query), "unicorn%d", i);
        struct lookup_answer answer = {0};
        if (index % 2 == 0 || lookup_store_search_cached(
                                      crowd->store, query, strlen(query), 0, 0, NULL, &answer) != 0)
            answer = search(crowd->store, query);
        CHECK_EQ(answer.total, 0);
        CHECK_EQ(answer.results_size, 2);
        lookup_answer_release(&answer);
    }
}

TEST(p4_identical_searches_that_find_nothing_read_the_database_once) {
    struct lookup_store *store = open_forgetting(60 * PNX_SEC);
    struct crowd crowd = {.store = store};
    test_threads(8, ask_for_nothing, &crowd);
    CHECK_EQ(info_of(store).searches, 8 * 20);
    CHECK_EQ(info_of(store).database_reads, 20);
    lookup_store_release(&store);
}

TEST(p4_a_search_that_found_nothing_is_asked_again_after_its_time) {
    struct lookup_store *store = open_forgetting(PNX_MS);
    check_absence(store, "unicorn", false);
    pnx_ns asked = pnx_now();
    while (pnx_now() < asked + 2 * PNX_MS) /* on the clock that the cache reads */
        sched_yield();
    check_absence(store, "unicorn", false);
    CHECK_EQ(info_of(store).database_reads, 2);
    /* A new time holds for what is asked from then on. */
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    settings.cache_negative_ttl_ns = 60 * PNX_SEC;
    CHECK_EQ(lookup_store_apply(store, &settings, NULL), 0);
    check_absence(store, "griffin", false);
    asked = pnx_now();
    while (pnx_now() < asked + 2 * PNX_MS)
        sched_yield();
    check_absence(store, "griffin", true);
    lookup_store_release(&store);
}

TEST(an_index_that_is_gone_is_an_error_and_not_an_absence) {
    struct lookup_store *store = open_forgetting(60 * PNX_SEC);
    CHECK_EQ(unlink(test_path("data/gen-1/index.db")), 0);
    CHECK_EQ(pnx_pool_reset(lookup_store_pool(store), PNX_POOL_RESET_IDLE), 0);
    struct lookup_answer answer = {0};
    struct pnx_error err = {0};
    /* By the pool: that its deadline came, or that its breaker is open. */
    int rc = lookup_store_search(store, "fox", 3, 0, 0, PNX_SEC / 4, &err, &answer);
    CHECK_MSG(rc == -EIO || rc == -ETIMEDOUT || rc == PNX_E_BREAKER, "%d: %s", rc, err.message);
    CHECK_EQ(lookup_store_search_cached(store, "fox", 3, 0, 0, &err, &answer), -ENOENT);
    CHECK_EQ(cache_stats(store).entries, 0);
    lookup_store_release(&store);
}

/* ---- documents ---- */

TEST(document_is_the_text_with_title_path_and_etag) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_document document = {0};
    struct pnx_error err = {0};
    CHECK_EQ(lookup_store_document(store, 1, PNX_SEC, &err, &document), 0);
    CHECK_STR(document.path, "a.txt");
    CHECK_STR(document.title, "Alpha document");
    CHECK_EQ(document.id, 1);
    const char *text = "Alpha document\nThe quick brown fox jumps over the lazy dog.\n";
    CHECK_EQ(document.size, strlen(text));
    CHECK_STR(text_of(&document), text);
    CHECK(document.etag[0] == '"' && document.etag[strlen(document.etag) - 1] == '"');
    struct lookup_document other = {0};
    CHECK_EQ(lookup_store_document(store, 4, PNX_TIMEOUT_DEFAULT, &err, &other), 0);
    CHECK_STR(other.path, "sub/caf\xC3\xA9.md");
    CHECK(strcmp(other.etag, document.etag) != 0);
    lookup_document_release(&other);
    CHECK_EQ(lookup_store_document(store, 5, PNX_SEC, &err, &other), -ENOENT);
    CHECK_EQ(lookup_store_document(store, 0, PNX_SEC, &err, &other), -ENOENT);
    CHECK_EQ(lookup_store_document(store, UINT64_MAX, PNX_SEC, &err, &other), -ENOENT);
    CHECK_CONTAINS(err.message, "18446744073709551615");
    /* The text outlives the store. */
    lookup_store_release(&store);
    CHECK_STR(text_of(&document), text);
    char byte;
    CHECK_EQ(lookup_document_read(&document, document.size, &byte, 1, &err), -ERANGE);
    CHECK_EQ(lookup_document_read(&document, UINT64_MAX, &byte, 2, &err), -ERANGE);
    CHECK_EQ(lookup_document_read(&document, document.size, NULL, 0, &err), 0);
    lookup_document_release(&document);
    lookup_document_release(&document);
}

TEST(odd_names_are_shown_as_utf8) {
    put_text("\xFF\xFE name\x01", "body words\n");
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = search(store, "body");
    json_t *body = body_of(&answer, "x");
    CHECK_STR(result_field(body, 0, "path"), "\xEF\xBF\xBD\xEF\xBF\xBD name ");
    json_decref(body);
    lookup_answer_release(&answer);
    lookup_store_release(&store);
}

/* ---- settings and the end ---- */

TEST(apply_changes_pool_cache_and_budget) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    settings.pool_max = 9;
    settings.cache_bytes = 1 << 20;
    settings.cache_ttl_ns = PNX_SEC;
    settings.cache_refresh_ns = PNX_SEC / 2;
    settings.cache_negative_ttl_ns = PNX_SEC / 4;
    settings.budget_bytes = 64 << 20;
    settings.search_timeout_ns = 2 * PNX_SEC;
    struct pnx_error err = {0};
    CHECK_EQ(lookup_store_apply(store, &settings, &err), 0);
    struct pnx_pool_stats pool = {.size = sizeof(pool)};
    CHECK_EQ(pnx_pool_read_stats(lookup_store_pool(store), &pool), 0);
    CHECK_EQ(pool.max, 9);
    struct pnx_cache_stats cache = {.size = sizeof(cache)};
    CHECK_EQ(pnx_cache_read_stats(lookup_store_cache(store), &cache), 0);
    CHECK_EQ(cache.capacity, 1 << 20);
    struct pnx_budget_stats budget = {.size = sizeof(budget)};
    CHECK_EQ(pnx_budget_read_stats(lookup_store_budget(store), &budget), 0);
    CHECK_EQ(budget.hard_limit, 64 << 20);
    /* A bad one changes nothing. */
    settings.pool_max = 3;
    settings.cache_bytes = 1;
    CHECK_EQ(lookup_store_apply(store, &settings, &err), -ERANGE);
    CHECK_STR(err.field, "cache_bytes");
    CHECK_EQ(pnx_pool_read_stats(lookup_store_pool(store), &pool), 0);
    CHECK_EQ(pool.max, 9);
    CHECK_EQ(count_of(store, "fox "), 3);
    lookup_store_release(&store);
}

TEST(closed_store_refuses) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct lookup_answer answer = search(store, "fox");
    CHECK_EQ(lookup_store_close(store, PNX_SEC), 0);
    CHECK_EQ(lookup_store_close(store, 0), 0);
    struct lookup_answer none = {0};
    struct lookup_document document = {0};
    struct pnx_error err;
    CHECK_EQ(lookup_store_search(store, "fox", 3, 0, 0, PNX_SEC, &err, &none), -ESHUTDOWN);
    CHECK_EQ(lookup_store_document(store, 1, PNX_SEC, &err, &document), -ESHUTDOWN);
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    CHECK_EQ(lookup_store_apply(store, &settings, &err), -ESHUTDOWN);
    lookup_answer_release(&answer);
    lookup_store_release(&store);
    lookup_store_release(&store);
    lookup_store_release(NULL);
}

static int print_report(void *ctx, const char *text, size_t n) {
    (void)ctx;
    return fwrite(text, 1, n, stderr) == n ? 0 : -EIO;
}

TEST(p6_shutdown_of_the_registry_ends_it_all) {
    put_small_corpus();
    struct pnx_registry *registry = NULL;
    CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.name = "all"), NULL, &registry), 0);
    struct lookup_store_opts opts = default_opts();
    opts.registry = registry;
    struct lookup_store *store = NULL;
    struct pnx_error err = {0};
    CHECK_EQ(lookup_store_open(&opts, &err, &store), 0);
    CHECK_EQ(count_of(store, "fox "), 3);
    CHECK(pnx_registry_count(registry) >= 5);
    struct pnx_shutdown_report *report = NULL;
    int rc = pnx_registry_shutdown(registry, 10 * PNX_SEC, &report);
    if (rc)
        CHECK_EQ(pnx_shutdown_report_write(report, PNX_REPORT_TEXT, print_report, NULL), 0);
    CHECK_EQ(rc, 0);
    struct pnx_shutdown_counts counts = {.size = sizeof(counts)};
    CHECK_EQ(pnx_shutdown_report_counts(report, &counts), 0);
    CHECK_EQ(counts.leaked + counts.failed + counts.abandoned, 0);
    pnx_shutdown_report_release(&report);
    lookup_store_release(&store);
    pnx_registry_release(&registry);
}

TEST(p6_release_leaves_nothing_registered) {
    put_small_corpus();
    (void)pnx_reclaim_default(); /* the process's, which the cache uses, stays registered */
    size_t before = pnx_registry_count(pnx_registry_default());
    struct lookup_store *store = open_store(NULL);
    CHECK_EQ(count_of(store, "fox "), 3);
    struct pnx_budget_stats budget = {.size = sizeof(budget)};
    CHECK_EQ(pnx_budget_read_stats(lookup_store_budget(store), &budget), 0);
    CHECK(budget.used > 4 << 20);
    lookup_store_release(&store);
    CHECK_EQ(
            pnx_reclaim_barrier(NULL, PNX_NEVER), 0); /* the cache's memory goes with its readers */
    CHECK_EQ(pnx_registry_count(pnx_registry_default()), before);
    CHECK_EQ(pnx_budget_read_stats(pnx_budget_default(), &budget), 0);
    CHECK_EQ(budget.used, 0);
}

/* ---- all at once ---- */

struct storm {
    struct lookup_store *store;
    struct pnx_registry *registry;
    uint64_t seed;
    int rounds;
};

static void storm_settings(struct storm *storm, uint64_t *state) {
    struct lookup_settings settings;
    lookup_settings_default(&settings);
    settings.pool_max = 1 + (uint32_t)(test_random(state) % 6);
    settings.cache_bytes = (64u << 10) << test_random(state) % 6;
    settings.cache_ttl_ns = PNX_MS << test_random(state) % 10;
    settings.search_timeout_ns = 30 * PNX_SEC;
    struct pnx_error err = {0};
    int rc = lookup_store_apply(storm->store, &settings, &err);
    CHECK_MSG(rc == 0, "apply: %d: %s", rc, err.message);
}

static void storm_search(struct storm *storm, uint64_t *state) {
    char query[40];
    size_t n = test_random(state) % sizeof(query);
    for (size_t i = 0; i < n; i++)
        query[i] = " \"the fox-dog*\xC3\xA9"
                   "document:\xFF^("[test_random(state) % 27];
    struct lookup_answer answer = {0};
    struct pnx_error err = {0};
    pnx_ns timeout = test_random(state) % 8 ? 30 * PNX_SEC : (pnx_ns)(test_random(state) % PNX_MS);
    int rc = lookup_store_search(
            storm->store, query, n, (uint32_t)(test_random(state) % 5), 0, timeout, &err, &answer);
    if (rc == 0)
        CHECK(answer.results[0] == '[' && answer.results[answer.results_size - 1] == ']');
    else
        CHECK_MSG(rc == -EINVAL || rc == -ETIMEDOUT, "%d: %s", rc, err.message);
    lookup_answer_release(&answer);
}

static void storm_run(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    uint64_t state = storm->seed + index;
    for (int i = 0; i < storm->rounds; i++) {
        if (index == 0 && i % 8 == 0)
            storm_settings(storm, &state);
        if (test_random(&state) % 4 == 0) {
            struct lookup_document document = {0};
            int rc = lookup_store_document(
                    storm->store, 1 + test_random(&state) % 4, 30 * PNX_SEC, NULL, &document);
            CHECK_EQ(rc, 0);
            CHECK(document.size > 10);
            lookup_document_release(&document);
        } else {
            storm_search(storm, &state);
        }
    }
}

TEST_LIMIT(storm_of_searches_documents_and_settings, 120) {
    put_small_corpus();
    struct lookup_store *store = open_store(NULL);
    struct storm storm = {.store = store, .seed = test_seed(), .rounds = test_slow() ? 150 : 1000};
    test_threads(6, storm_run, &storm);
    struct pnx_error err = {0};
    CHECK_MSG(pnx_cache_check(lookup_store_cache(store), &err) == 0, "%s", err.message);
    CHECK_EQ(lookup_store_close(store, 10 * PNX_SEC), 0);
    lookup_store_release(&store);
}

/* No documents here: one that is out keeps the mapping, and the report would rightly say so. */
static void search_until_closed(unsigned index, void *ctx) {
    struct storm *storm = ctx;
    struct pnx_error err;
    if (index == 0) {
        while (info_of(storm->store).searches < (uint64_t)storm->rounds)
            ;
        CHECK_EQ(pnx_registry_shutdown(storm->registry, 30 * PNX_SEC, NULL), 0);
        return;
    }
    int rc = 0;
    for (unsigned i = 0; rc == 0; i++) {
        struct lookup_answer answer = {0};
        char query[32];
        fill(query, sizeof(query), "fox %u", i % 50);
        rc = lookup_store_search(
                storm->store, query, strlen(query), 0, 0, 30 * PNX_SEC, &err, &answer);
        lookup_answer_release(&answer);
        if (!rc)
            rc = lookup_store_search_cached(storm->store, "dog", 3, 0, 0, &err, &answer);
        lookup_answer_release(&answer);
        if (rc == -ENOENT)
            rc = 0;
    }
    CHECK_MSG(rc == -ESHUTDOWN, "%d: %s", rc, err.message);
}

TEST_LIMIT(p6_shutdown_while_searches_run_waits_for_them, 120) {
    put_small_corpus();
    for (int round = 0; round < (test_slow() ? 3 : 15); round++) {
        struct pnx_registry *registry = NULL;
        CHECK_EQ(pnx_registry_create(PNX_REGISTRY_OPTS(.name = "all"), NULL, &registry), 0);
        struct lookup_store_opts opts = default_opts();
        opts.registry = registry;
        struct storm storm = {.registry = registry, .rounds = 20 + round * 20};
        struct pnx_error err = {0};
        CHECK_EQ(lookup_store_open(&opts, &err, &storm.store), 0);
        test_threads(5, search_until_closed, &storm);
        CHECK(lookup_store_pool(storm.store) == NULL);
        CHECK_EQ(info_of(storm.store).documents, 4);
        lookup_store_release(&storm.store);
        pnx_registry_release(&registry);
    }
}
